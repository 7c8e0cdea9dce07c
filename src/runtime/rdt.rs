//! Groups of resctrl ([`crate::oci::Rdt`] says which a container has).
//!
//! The helper that makes a container's process, or a process inside, goes into the group itself: what it makes is born in there. What is the
//! container's own is removed by whoever removes its cgroup.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::{errno_of, words};
use crate::oci::{Group, Rdt, missing_schemata};

/// What the kernel said about the last write.
const LAST_STATUS: &str = "info/last_cmd_status";
/// More is no status of resctrl's.
const STATUS_BYTES_MAX: usize = 512;

/// Why a group cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RdtError {
    /// No resctrl.
    #[error("linux.intelRdt needs resctrl, which this kernel or this processor does not have")]
    NoResctrl,
    /// It is there, and mounted nowhere.
    #[error("linux.intelRdt needs the resctrl file system mounted: mount -t resctrl resctrl /sys/fs/resctrl")]
    NotMounted,
    /// A group that was to be there.
    #[error("linux.intelRdt.closID: there is no group {name:?} in resctrl, and no schemata to make it with")]
    NoGroup {
        /// Its name.
        name: String,
    },
    /// A group that others made has other values.
    #[error("linux.intelRdt.closID: the group {name:?} is there and does not have {line:?}")]
    Differs {
        /// Its name.
        name: String,
        /// What it does not have.
        line: String,
    },
    /// The kernel took no schemata.
    #[error("linux.intelRdt: the kernel did not take {lines:?} for schemata: {status}")]
    Schemata {
        /// What was written.
        lines: String,
        /// What it said.
        status: String,
    },
    /// No group can be made: there are as many as the processor has.
    #[error("linux.intelRdt: make the group {path}: {}", why(*.errno))]
    Make {
        /// Its directory.
        path: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// Another file.
    #[error("linux.intelRdt: {call} {path}: {}", words(*.errno))]
    File {
        /// What was tried.
        call: &'static str,
        /// On what.
        path: String,
        /// What the kernel said.
        errno: Errno,
    },
}

impl RdtError {
    /// What the kernel said; ENODEV for what it does not have.
    pub(super) fn errno(&self) -> Errno {
        match self {
            RdtError::Make { errno, .. } | RdtError::File { errno, .. } => *errno,
            RdtError::NoResctrl | RdtError::NotMounted => Errno::NODEV,
            RdtError::NoGroup { .. } | RdtError::Differs { .. } | RdtError::Schemata { .. } => Errno::INVAL,
        }
    }
}

fn why(errno: Errno) -> String {
    match errno {
        Errno::NOSPC => "the processor has no more".to_owned(),
        errno => words(errno),
    }
}

fn file(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RdtError {
    let path = path.display().to_string();
    move |error| RdtError::File { call, path, errno: errno_of(&error) }
}

/// Where resctrl is mounted.
pub fn root() -> Result<PathBuf, RdtError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(file("read", Path::new("/proc/self/mountinfo")))?;
    match mounted(&mounts) {
        Some(root) => Ok(root),
        None if fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("resctrl")) => {
            Err(RdtError::NotMounted)
        }
        None => Err(RdtError::NoResctrl),
    }
}

/// From proc_pid_mountinfo(5): the fifth field is the mount point, the first behind `-` the type.
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    let of_resctrl = |line: &&str| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("resctrl "));
    let line = mountinfo.lines().find(of_resctrl)?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Makes the group of a new container where it is missing, and goes there. What was made is gone again when this fails.
pub(super) fn make(root: &Path, rdt: &Rdt) -> Result<(), RdtError> {
    let directory = root.join(rdt.directory());
    let made = make_group(&directory, rdt)?;
    let entered = fill(root, &directory, rdt, made).and_then(|()| enter(root, rdt));
    if entered.is_err() {
        if made {
            let _ = fs::remove_dir(&directory);
        }
        let _ = remove(root, rdt.removed().as_deref());
    }
    entered
}

/// Whether it was made.
fn make_group(directory: &Path, rdt: &Rdt) -> Result<bool, RdtError> {
    if let (Group::Named(name), true) = (&rdt.group, rdt.schemata.is_empty()) {
        return if directory.is_dir() { Ok(false) } else { Err(RdtError::NoGroup { name: name.clone() }) };
    }
    if rdt.group == Group::Default { Ok(false) } else { make_directory(directory) }
}

fn make_directory(directory: &Path) -> Result<bool, RdtError> {
    match DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(RdtError::Make { path: directory.display().to_string(), errno: errno_of(&error) }),
    }
}

fn fill(root: &Path, directory: &Path, rdt: &Rdt, made: bool) -> Result<(), RdtError> {
    if rdt.schemata.is_empty() {
        return Ok(());
    }
    if let (Group::Named(name), false) = (&rdt.group, made) {
        let path = directory.join("schemata");
        let there = fs::read_to_string(&path).map_err(file("read", &path))?;
        return match missing_schemata(&rdt.schemata, &there) {
            None => Ok(()),
            Some(line) => Err(RdtError::Differs { name: name.clone(), line: line.to_owned() }),
        };
    }
    write_schemata(root, directory, &rdt.schemata)
}

fn write_schemata(root: &Path, directory: &Path, lines: &[String]) -> Result<(), RdtError> {
    let path = directory.join("schemata");
    let mut opened = File::options().write(true).open(&path).map_err(file("open", &path))?;
    // In one write, as the kernel wants it.
    let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    opened.write_all(text.as_bytes()).map_err(|error| {
        let said = fs::read_to_string(root.join(LAST_STATUS)).unwrap_or_default();
        let said = said.trim().get(..STATUS_BYTES_MAX.min(said.trim().len())).unwrap_or_default().to_owned();
        let status = if said.is_empty() || said == "ok" { words(errno_of(&error)) } else { said };
        RdtError::Schemata { lines: lines.join(", "), status }
    })
}

/// Goes into the groups of a container that is there, and what this process makes from now on as well.
pub(super) fn enter(root: &Path, rdt: &Rdt) -> Result<(), RdtError> {
    join(&root.join(rdt.directory()))?;
    let Some(monitoring) = rdt.monitoring() else { return Ok(()) };
    let directory = root.join(monitoring);
    make_directory(&directory)?;
    join(&directory)
}

/// 0 is whoever writes it.
fn join(group: &Path) -> Result<(), RdtError> {
    let path = group.join("tasks");
    let opened = File::options().write(true).open(&path);
    opened.and_then(|mut tasks| tasks.write_all(b"0")).map_err(file("write", &path))
}

/// Other lines for a container that runs.
pub fn update(root: &Path, directory: &str, lines: &[String]) -> Result<(), RdtError> {
    write_schemata(root, &root.join(directory), lines)
}

/// Removes what a container had of its own; its processes, if there are any left, are in the default group then.
pub fn remove(root: &Path, directory: Option<&str>) -> Result<(), RdtError> {
    let Some(directory) = directory else { return Ok(()) };
    let path = root.join(directory);
    match fs::remove_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", &path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that stands for resctrl, with the group `gold`. Files of new groups are not made by themselves there.
    fn fake(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("moored-rdt-{name}-{}", std::process::id()));
        for group in ["", "gold", "info", "mon_groups", "gold/mon_groups"] {
            fs::create_dir_all(root.join(group)).unwrap();
        }
        files(&root);
        files(&root.join("gold"));
        fs::write(root.join("gold/schemata"), "    L3:0=0ff;1=0ff\n").unwrap();
        fs::write(root.join(LAST_STATUS), "Mask f00 has non-consecutive 1-bits\n").unwrap();
        root
    }

    fn files(group: &Path) {
        fs::create_dir_all(group).unwrap();
        for file in ["tasks", "schemata"] {
            fs::write(group.join(file), "").unwrap();
        }
    }

    fn rdt(group: Group, schemata: &[&str], monitored: bool) -> Rdt {
        let schemata = schemata.iter().map(|line| (*line).to_owned()).collect();
        Rdt { group, schemata, monitored, id: "x".into() }
    }

    fn text(root: &Path, file: &str) -> String {
        fs::read_to_string(root.join(file)).unwrap()
    }

    #[test]
    fn a_group_of_its_own_is_filled_entered_and_removed() {
        let root = fake("own");
        files(&root.join("x"));
        let own = rdt(Group::Own, &["L3:0=f", "MB:0=20"], true);
        make(&root, &own).unwrap();
        assert_eq!((text(&root, "x/schemata"), text(&root, "x/tasks")), ("L3:0=f\nMB:0=20\n".into(), "0".into()));
        update(&root, own.directory(), &["L3:0=3".into()]).unwrap();
        assert!(text(&root, "x/schemata").starts_with("L3:0=3\n"));
        for file in ["tasks", "schemata"] {
            fs::remove_file(root.join("x").join(file)).unwrap();
        }
        remove(&root, own.removed().as_deref()).unwrap();
        remove(&root, own.removed().as_deref()).unwrap();
        assert!(!root.join("x").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_shared_group_must_be_what_is_asked_for_and_stays() {
        let root = fake("shared");
        let gold = || Group::Named("gold".into());
        make(&root, &rdt(gold(), &[], false)).unwrap();
        make(&root, &rdt(gold(), &["L3:0=ff"], false)).unwrap();
        assert_eq!(text(&root, "gold/tasks"), "0");
        assert_eq!(text(&root, "gold/schemata"), "    L3:0=0ff;1=0ff\n", "nobody wrote to it");
        let differs = make(&root, &rdt(gold(), &["L3:0=f"], false)).unwrap_err().to_string();
        assert_eq!(differs, "linux.intelRdt.closID: the group \"gold\" is there and does not have \"L3:0=f\"");
        files(&root.join("gold/mon_groups/x"));
        make(&root, &rdt(gold(), &[], true)).unwrap();
        assert_eq!(text(&root, "gold/mon_groups/x/tasks"), "0");
        make(&root, &rdt(Group::Default, &[], false)).unwrap();
        assert_eq!(text(&root, "tasks"), "0");
        let none = make(&root, &rdt(Group::Named("tin".into()), &[], false)).unwrap_err().to_string();
        assert!(none.contains("closID: there is no group \"tin\""), "{none}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_fails_half_way_is_undone() {
        let root = fake("undone");
        // A new directory has no files here, as where the kernel refuses a write.
        let failed = make(&root, &rdt(Group::Named("tin".into()), &["L3:0=f"], false)).unwrap_err();
        assert!(matches!(failed, RdtError::File { call: "open", .. }), "{failed}");
        assert!(!root.join("tin").exists() && root.join("gold").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn where_it_is_mounted_is_found() {
        let line = "31 24 0:27 / /sys/fs/resctrl rw,nosuid shared:9 - resctrl resctrl rw\n";
        let other = "30 24 0:26 / /x rw - tmpfs resctrl rw\n";
        assert_eq!(mounted(&format!("{other}{line}")), Some("/sys/fs/resctrl".into()));
        assert_eq!(mounted(other), None);
    }
}

//! The directories of containers: claiming one, finding it again, and what is written into it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, fcntl_lock, mknodat, openat};
use serde::{Deserialize, Serialize};

use super::{ContainerError, call, file};
use crate::compact;
use crate::oci::{Hooks, Rdt};
use crate::runtime::cgroup::Location;

const STATE: &str = "state.json";
const STATE_NEW: &str = "state.json.new";
const CONFIG: &str = "config.json";
const GATE: &str = "exec.fifo";
const STARTED: &str = "start.fifo";

/// What runc allows, and what a file name and a cgroup can be.
const ID_BYTES_MAX: usize = 1024;
/// A larger record is none of ours.
const STATE_BYTES_MAX: u64 = 4 << 20;
/// Modes with which others than the owner, and than root's group, could put something into a directory; and that with which they could
/// put something there but move nothing of ours.
const WRITABLE_BY_OTHERS: u32 = 0o002;
const WRITABLE_BY_GROUP: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// Where the directories of all containers are: `--root`.
#[derive(Debug, Clone)]
pub struct StateRoot(PathBuf);

/// A container's directory. It is a place, not a lock: see [`Container::lock`].
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    directory: PathBuf,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `ociVersion` of its config.json.
    pub oci_version: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of its root.
    pub rootfs: PathBuf,
    /// When it was made.
    pub created: SystemTime,
    /// User who made it.
    pub owner: u32,
    /// Annotations of its config.json.
    pub annotations: BTreeMap<String, String>,
    /// Its cgroups, also when they are not made yet.
    pub cgroup: Location,
    /// `linux.resources` as `update` left them; `None` while they are those of config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<serde_json::Value>,
    /// Its group of resctrl, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<Rdt>,
    /// Its first process, once there is one.
    pub process: Option<Process>,
    /// Its hooks, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
}

/// A process as it is found again: neither number is an identity by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its start, in clock ticks since boot (field 22 of proc_pid_stat(5)).
    pub started_ticks: u64,
}

/// A lock of fcntl(2) on the container's config.json: it belongs to this process, so it goes with it, and the container's own process,
/// a copy of ours, has no part in it.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    fn of(config: File) -> Result<Lock, ContainerError> {
        rustix::io::retry_on_intr(|| fcntl_lock(&config, FlockOperation::LockExclusive)).map_err(call("fcntl"))?;
        Ok(Lock(config))
    }
}

impl StateRoot {
    /// The directory is made when the first container is.
    pub fn new(path: PathBuf) -> StateRoot {
        StateRoot(path)
    }

    /// Claims an id.
    pub fn claim(&self, id: &str) -> Result<Container, ContainerError> {
        let container = self.place(id)?;
        let root = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        root.map_err(file("make", &self.0))?;
        self.check()?;
        match DirBuilder::new().mode(0o700).create(&container.directory) {
            Ok(()) => Ok(container),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(ContainerError::Exists),
            Err(error) => Err(file("make", &container.directory)(error)),
        }
    }

    /// The container of this id.
    pub fn find(&self, id: &str) -> Result<Container, ContainerError> {
        let container = self.place(id)?;
        // Not what a link leads to: whoever made it is not who made that.
        match fs::symlink_metadata(&container.directory) {
            Ok(found) if found.is_dir() => {
                self.check()?;
                check_owner(&container.directory, &found, false)?;
                Ok(container)
            }
            Ok(_) | Err(_) => Err(ContainerError::Unknown),
        }
    }

    /// What is in there was put there by us or by root: a record holds hooks, which run with our rights.
    fn check(&self) -> Result<(), ContainerError> {
        let found = fs::metadata(&self.0).map_err(file("look at", &self.0))?;
        check_owner(&self.0, &found, true)
    }

    /// All there are, by name.
    pub fn list(&self) -> Result<Vec<Container>, ContainerError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(file("read", &self.0)(error)),
        };
        self.check()?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut found: Vec<Container> = names.filter_map(|name| self.find(&name).ok()).collect();
        compact::sort_by(&mut found, |a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    fn place(&self, id: &str) -> Result<Container, ContainerError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        let fits = (1..=ID_BYTES_MAX).contains(&id.len()) && id != "." && id != "..";
        match fits && id.bytes().all(allowed) {
            true => Ok(Container { id: id.to_owned(), directory: self.0.join(id) }),
            false => Err(ContainerError::BadId { id: id.to_owned() }),
        }
    }
}

/// `shared`: others may put something beside what is ours, if they cannot move that away.
fn check_owner(path: &Path, found: &fs::Metadata, shared: bool) -> Result<(), ContainerError> {
    let (uid, mode) = (found.uid(), found.mode());
    let by_group = mode & WRITABLE_BY_GROUP != 0 && found.gid() != 0;
    let by_others = mode & WRITABLE_BY_OTHERS != 0 || by_group;
    let kept = !by_others || (shared && mode & STICKY != 0);
    match kept && (uid == 0 || uid == rustix::process::geteuid().as_raw()) {
        true => Ok(()),
        false => Err(ContainerError::NotOurs { path: path.to_owned(), uid, mode: mode & 0o7777 }),
    }
}

impl Container {
    /// Keeps other commands that ask for it waiting until it is dropped: whoever makes the container holds it until the process is set up.
    /// `None` where nobody came as far as making the file. The container may be gone by the time it is had.
    pub fn lock(&self) -> Result<Option<Lock>, ContainerError> {
        let lock = match File::options().read(true).write(true).open(self.directory.join(CONFIG)) {
            Ok(config) => Some(Lock::of(config)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(file("open", self.directory.join(CONFIG))(error)),
        };
        match self.directory.is_dir() {
            true => Ok(lock),
            false => Err(ContainerError::Unknown),
        }
    }

    /// What is known of it; `None` when whoever made it did not come that far.
    pub fn read(&self) -> Result<Option<Record>, ContainerError> {
        use std::io::Read;
        let path = self.directory.join(STATE);
        let opened = match File::open(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file("open", path)(error)),
        };
        let mut text = Vec::new();
        opened.take(STATE_BYTES_MAX).read_to_end(&mut text).map_err(file("read", &path))?;
        compact::from_json(&text).map(Some).map_err(|source| ContainerError::Damaged { path, source })
    }

    /// The same for one that may be being made: its program may run before its process is in the record. Waits until it is made if so.
    pub fn read_made(&self) -> Result<Option<Record>, ContainerError> {
        let record = self.read()?;
        if record.as_ref().is_some_and(|record| record.process.is_some()) {
            return Ok(record);
        }
        drop(self.lock()?);
        self.read()
    }

    /// Replaces what is known. `ROOT` does not outlive the host, so nothing is synced.
    pub(super) fn write(&self, record: &Record) -> Result<(), ContainerError> {
        let path = self.directory.join(STATE);
        let text =
            serde_json::to_vec(record).map_err(|source| ContainerError::Damaged { path: path.clone(), source })?;
        let new = self.directory.join(STATE_NEW);
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(file("write", path))
    }

    /// The text of its config.json.
    pub fn config(&self) -> Result<Vec<u8>, ContainerError> {
        let path = self.directory.join(CONFIG);
        fs::read(&path).map_err(file("read", path))
    }

    /// Writes the text of its config.json, and locks the container.
    pub(super) fn write_config(&self, text: &[u8]) -> Result<Lock, ContainerError> {
        let path = self.directory.join(CONFIG);
        let made = File::options().read(true).write(true).create_new(true).open(&path);
        let lock = Lock::of(made.map_err(file("make", &path))?)?;
        (&lock.0).write_all(text).map_err(file("write", path))?;
        Ok(lock)
    }

    /// Makes the gate and opens it for both ends, so that the reader never sees an end of file.
    pub(super) fn make_gate(&self) -> Result<OwnedFd, ContainerError> {
        self.make_fifo(GATE)
    }

    /// Makes what the process reports to behind the gate, and opens it for both ends, so that it writes whether somebody reads or not.
    pub(super) fn make_started(&self) -> Result<OwnedFd, ContainerError> {
        self.make_fifo(STARTED)
    }

    /// What the process reports to behind the gate. Its end of file comes with the program, or with the end of the process.
    pub(super) fn started(&self) -> Result<OwnedFd, ContainerError> {
        let path = self.directory.join(STARTED);
        let opened = openat(CWD, &path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let opened = opened.map_err(|errno| file("open", path)(errno.into()))?;
        rustix::io::ioctl_fionbio(&opened, false).map_err(call("fcntl"))?;
        Ok(opened)
    }

    fn make_fifo(&self, name: &str) -> Result<OwnedFd, ContainerError> {
        let path = self.directory.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).map_err(|errno| file("make", &path)(errno.into()))?;
        openat(CWD, &path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| file("open", path)(errno.into()))
    }

    /// The gate for writing, while somebody waits behind it.
    pub(super) fn gate(&self) -> Option<File> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // ENXIO: nobody waits any more. ENOENT: nobody ever did.
        openat(CWD, self.directory.join(GATE), flags, Mode::empty()).ok().map(File::from)
    }

    /// Lets through who waits, and closes the way for a second one. A death in between leaves a gate behind which nobody is.
    pub(super) fn open_gate(&self, mut gate: File) -> Result<(), ContainerError> {
        let path = self.directory.join(GATE);
        gate.write_all(b"0").and_then(|()| fs::remove_file(&path)).map_err(file("write", path))
    }

    /// Forgets the container.
    pub(super) fn remove(&self) -> Result<(), ContainerError> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", &self.directory)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_leave_the_root() {
        let root = StateRoot::new("/nowhere".into());
        for bad in ["", ".", "..", "a/b", "/a", "a b", "a\n", "ü", &"a".repeat(1025)] {
            assert!(matches!(root.find(bad), Err(ContainerError::BadId { .. })), "{bad:?}");
        }
        for good in ["a", "a.b", "-a", "A_+9"] {
            assert!(matches!(root.find(good), Err(ContainerError::Unknown)), "{good:?}");
        }
    }

    #[test]
    fn an_id_is_claimed_once_and_a_record_comes_back() {
        let dir = std::env::temp_dir().join(format!("moored-state-{}", std::process::id()));
        let root = StateRoot::new(dir.clone());
        let container = root.claim("x").unwrap();
        assert!(matches!(root.claim("x"), Err(ContainerError::Exists)));
        assert_eq!(container.read().unwrap(), None);
        let record = Record {
            oci_version: "1.3.0".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: SystemTime::UNIX_EPOCH,
            owner: 0,
            annotations: BTreeMap::new(),
            cgroup: Location::default(),
            resources: Some(serde_json::json!({ "pids": { "limit": 3 } })),
            rdt: None,
            process: Some(Process { pid: 7, started_ticks: 9 }),
            hooks: None,
        };
        container.write(&record).unwrap();
        assert_eq!(root.find("x").unwrap().read().unwrap(), Some(record));
        assert!(container.gate().is_none());
        container.remove().unwrap();
        assert_eq!(root.list().unwrap().len(), 0);
        fs::remove_dir(dir).unwrap();
    }
}

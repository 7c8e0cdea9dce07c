//! The cgroups of one container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Gid, OFlags, Uid, chownat, unlinkat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::host::{Host, Layout};
use super::legacy::{open, read, write};
use super::{CgroupError, Location, device_filter, failed, legacy, unified};
use crate::oci::{CgroupSettings, RuleTarget, Write};
use crate::runtime::error::{StepError, about, call};
use crate::runtime::slots::{Coming, Hierarchy, Slots};

/// How deep a container may nest cgroups that are removed with it; systemd inside needs about six.
const MAX_DEPTH: usize = 64;
/// Rounds in which processes are signalled one by one where `cgroup.kill` is missing (before Linux 5.14).
const KILL_ROUNDS: usize = 100;
const SIGKILL: u8 = 9;
/// Rounds in which processes are moved: each later one is for what was forked during the one before.
const MOVE_ROUNDS: usize = 100;
/// Removing waits for processes that are dying: 10 times, 1 ms first, doubled.
const REMOVE_TRIES: u32 = 10;

/// Open cgroups of one container.
#[derive(Debug)]
pub struct ContainerCgroup {
    /// Where they are.
    pub location: Location,
    root: Arc<OwnedFd>,
    directory: OwnedFd,
    /// Of each v1 hierarchy of the location, in that order; `None` where it could not be opened.
    legacy: Vec<Option<OwnedFd>>,
}

impl ContainerCgroup {
    /// Makes the v2 directory, which a process can be born in, with its limits where v2 has them.
    pub(super) fn begin(
        host: &Host,
        unified: String,
        settings: &CgroupSettings,
    ) -> Result<ContainerCgroup, CgroupError> {
        let root = Arc::clone(&host.unified);
        let directory = match host.layout {
            Layout::Unified => unified::make(&root, &unified, &unified::controllers(settings))?,
            Layout::Legacy => match settings.named.unified.first() {
                Some((file, _)) => return Err(CgroupError::OnlyUnified { file: file.clone() }),
                None => unified::make_bare(&root, &unified)?,
            },
        };
        let location = Location { unified, legacy: Vec::new() };
        let made = ContainerCgroup { location, root, directory, legacy: Vec::new() };
        match if host.layout == Layout::Unified { unified::apply(&made.directory, settings) } else { Ok(()) } {
            Ok(()) => Ok(made),
            Err(error) => {
                let _ = made.remove();
                Err(error)
            }
        }
    }

    /// Makes the v1 directories with their limits, on a host that has v1.
    pub fn finish(
        &mut self,
        host: &Host,
        hierarchies: &[(String, String)],
        settings: &CgroupSettings,
    ) -> Result<(), CgroupError> {
        if host.layout == Layout::Unified {
            return Ok(());
        }
        self.location.legacy.reserve_exact(hierarchies.len());
        self.legacy.reserve_exact(hierarchies.len());
        for (name, path) in hierarchies {
            if let Some(directory) = legacy::make(name, path)? {
                self.location.legacy.push((name.clone(), path.clone()));
                self.legacy.push(Some(directory));
            }
        }
        self.has_controllers(settings)?;
        self.hierarchies().try_for_each(|((name, _), directory)| legacy::apply(name, directory, settings))?;
        if self.hierarchy("devices").is_none() { device_filter::apply(&self.directory, settings) } else { Ok(()) }
    }

    /// On v1: whether there is a hierarchy for each limit. "No limit" needs none.
    fn has_controllers(&self, settings: &CgroupSettings) -> Result<(), CgroupError> {
        let mut limits = settings
            .legacy_writes()
            .into_iter()
            .filter(|limit| limit.value != "max" && limit.value != "-1" && !limit.optional);
        match limits.find(|limit| self.hierarchy(&limit.controller).is_none()) {
            Some(Write { field, controller, file, .. }) => Err(CgroupError::NoController { field, controller, file }),
            None => Ok(()),
        }
    }

    /// Gets a directory in one more v1 hierarchy, where it is mounted, and moves every process there.
    pub(super) fn enter(&mut self, name: String, path: String) -> Result<(), CgroupError> {
        let Some(directory) = legacy::make(&name, &path)? else { return Ok(()) };
        // Known before anything is in it, so that it is removed with the rest.
        let copy = rustix::io::fcntl_dupfd_cloexec(&directory, 3).map_err(failed("dup", &name))?;
        self.location.legacy.push((name, path.clone()));
        self.legacy.push(Some(copy));
        for _ in 0..MOVE_ROUNDS {
            let there = read(&directory, "cgroup.procs").map_err(failed("read", "cgroup.procs"))?;
            let there: Vec<u32> = there.lines().filter_map(|line| line.parse().ok()).collect();
            let left: Vec<u32> = self.processes()?.into_iter().filter(|pid| !there.contains(pid)).collect();
            if left.is_empty() {
                return Ok(());
            }
            for pid in left {
                match write(&directory, "cgroup.procs", &pid.to_string()) {
                    // It ended.
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => return Err(failed("move a process into", &path)(errno)),
                }
            }
        }
        Err(CgroupError::Restless { path })
    }

    /// Opens the cgroups of a container that was made earlier. `Ok(None)` when its v2 directory is gone.
    pub fn open(host: &Host, location: &Location) -> Result<Option<ContainerCgroup>, CgroupError> {
        let root = Arc::clone(&host.unified);
        let path = location.unified.trim_start_matches('/');
        // It would be the root, and so all processes of the host.
        if path.is_empty() {
            return Ok(None);
        }
        let directory = match open_beneath(&root, path) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed("open", &location.unified)(errno)),
        };
        let open = |(name, path): &(String, String)| {
            Host::open_legacy(name).and_then(|top| open_beneath(&top, path.trim_start_matches('/'))).ok()
        };
        let legacy = location.legacy.iter().map(open).collect();
        Ok(Some(ContainerCgroup { location: location.clone(), root, directory, legacy }))
    }

    /// Fills the cgroup slots of a run.
    pub fn fill(&self, slots: &mut Slots) -> Result<(), CgroupError> {
        let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        slots.cgroup = Some(copy(&self.directory).map_err(failed("dup", &self.location.unified))?);
        for ((name, path), directory) in self.hierarchies() {
            let tasks = open(directory, "tasks", OFlags::WRONLY).map_err(failed("open", format!("{name}: tasks")))?;
            let directory = copy(directory).map_err(failed("dup", name))?;
            slots.hierarchies.push(Hierarchy { name: name.clone(), path: path.clone(), directory, tasks });
        }
        Ok(())
    }

    /// The same for a process that is still to be made. If it sets itself up without help (`alone`), it does so while the v1 directories at
    /// `hierarchies` are made: with [`ContainerCgroup::finish`], and a byte written into what this gives. `None`: they are made.
    pub fn fill_first(
        &mut self,
        host: &Host,
        hierarchies: &[(String, String)],
        settings: &CgroupSettings,
        alone: bool,
        slots: &mut Slots,
    ) -> Result<Option<OwnedFd>, CgroupError> {
        if !alone || host.layout == Layout::Unified {
            self.finish(host, hierarchies, settings)?;
            self.fill(slots)?;
            return Ok(None);
        }
        self.fill(slots)?;
        let (made, say) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe", "cgroup"))?;
        // One that is not mounted is not made either.
        let place = |(name, path): &(String, String)| Some((name.clone(), Host::open_legacy(name).ok()?, path.clone()));
        slots.coming = Some(Coming { made, places: hierarchies.iter().filter_map(place).collect() });
        Ok(Some(say))
    }

    /// On a v2 host, makes this user and group the owners of the directory and of the files that its owner may write
    /// (cgroups(7), "Delegation"): the limits stay root's.
    pub fn delegate(&self, (uid, gid): (u32, u32)) -> Result<(), CgroupError> {
        /// Before Linux 4.15 there is no list.
        const FILES: &str = "cgroup.procs cgroup.subtree_control cgroup.threads";
        if !super::host_is_unified() {
            return Ok(());
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let listed = std::fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| FILES.to_owned());
        for file in listed.split_whitespace() {
            match chownat(&self.directory, file, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
                // Of a controller that is not handed down to here.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("chown", file)(errno)),
            }
        }
        rustix::fs::fchown(&self.directory, uid, gid).map_err(failed("chown", &self.location.unified))
    }

    /// The v2 directory.
    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// The v1 directory of a controller, if this container has one.
    pub(super) fn hierarchy(&self, controller: &str) -> Option<&OwnedFd> {
        let has = |name: &str| name.split(',').any(|one| one == controller);
        self.hierarchies().find(|((name, _), _)| has(name)).map(|(_, directory)| directory)
    }

    /// The v1 directories that are open, each with its hierarchy and its path there.
    fn hierarchies(&self) -> impl Iterator<Item = (&(String, String), &OwnedFd)> {
        let places = self.location.legacy.iter().zip(&self.legacy);
        places.filter_map(|(place, directory)| Some((place, directory.as_ref()?)))
    }

    /// `cgroup.events`: pollable with `POLLPRI`; the text says `populated 0` when the last process is gone.
    pub fn events(&self) -> Result<OwnedFd, CgroupError> {
        open(&self.directory, "cgroup.events", OFlags::RDONLY).map_err(failed("open", "cgroup.events"))
    }

    /// Whether no process is left, in nested cgroups neither.
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        match read(&self.directory, "cgroup.events") {
            Ok(text) => Ok(text.lines().any(|line| line == "populated 0")),
            // Removed in the meantime.
            Err(Errno::NODEV | Errno::NOENT) => Ok(true),
            Err(errno) => Err(failed("read", "cgroup.events")(errno)),
        }
    }

    /// Kills every process, also new ones and nested cgroups (`cgroup.kill`, Linux 5.14; else freezes and signals).
    pub fn kill(&self) -> Result<(), CgroupError> {
        match write(&self.directory, "cgroup.kill", "1") {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => self.kill_one_by_one(),
            Err(Errno::NODEV) => Ok(()),
            Err(errno) => Err(failed("write", "cgroup.kill")(errno)),
        }
    }

    fn kill_one_by_one(&self) -> Result<(), CgroupError> {
        // Frozen processes make no more of themselves; a signal that kills thaws.
        let _ = write(&self.directory, "cgroup.freeze", "1");
        for _ in 0..KILL_ROUNDS {
            let pids = self.processes()?;
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                self.signal_member(pid, SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = write(&self.directory, "cgroup.freeze", "0");
        Ok(())
    }

    /// Signals every process.
    pub fn signal(&self, signal: u8) -> Result<(), CgroupError> {
        for pid in self.processes()? {
            self.signal_member(pid, signal);
        }
        Ok(())
    }

    /// A pid from a list may be another process by now: hold it by pidfd, and only then look whether it is still listed.
    fn signal_member(&self, pid: u32, signal: u8) {
        let Some(kernel_pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
        let Ok(pidfd) = rustix::process::pidfd_open(kernel_pid, rustix::process::PidfdFlags::empty()) else { return };
        if self.processes().is_ok_and(|listed| listed.contains(&pid)) {
            // It may be gone now, which is what was wanted or no harm.
            let _ = crate::sys::pidfd::send_signal(pidfd.as_fd(), signal);
        }
    }

    /// Pids in this cgroup and those below it, as this pid namespace numbers them. What cannot be looked at is an error, never empty.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        let mut pids = Vec::new();
        collect_processes(&self.directory, MAX_DEPTH, &mut pids).map_err(failed("list", &self.location.unified))?;
        Ok(pids)
    }

    /// How often a process was killed for lack of memory; 0 where memory is not limited.
    pub fn oom_kills(&self) -> u64 {
        let count = |text: String| {
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
        };
        match self.hierarchy("memory") {
            Some(directory) => read(directory, "memory.oom_control").map_or(0, count),
            None => read(&self.directory, "memory.events").map_or(0, count),
        }
    }

    /// Changes limits of a running container; which devices it may use stays as it is.
    pub fn update(&self, settings: &CgroupSettings) -> Result<(), CgroupError> {
        if settings.memory.check_before_update
            && let Some(limit_bytes) = settings.memory.limit.and_then(|limit| u64::try_from(limit).ok())
            && let Some(used_bytes) = self.figures().memory_bytes.filter(|used| *used > limit_bytes)
        {
            return Err(CgroupError::BelowUse { limit_bytes, used_bytes });
        }
        if self.hierarchies().next().is_none() {
            return unified::apply_limits(&self.directory, settings);
        }
        self.has_controllers(settings)?;
        for ((name, _), directory) in self.hierarchies() {
            match legacy::apply_limits(name, directory, settings) {
                // A limit above the present swap limit is taken only after that one.
                Err(CgroupError::Limit { field, .. })
                    if field == "memory.limit"
                        && (settings.memory.swap.is_some() || settings.memory.limit == Some(-1)) =>
                {
                    let swap = settings.memory.swap.unwrap_or(-1).to_string();
                    write(directory, "memory.memsw.limit_in_bytes", &swap).map_err(failed("write", "memory.memsw"))?;
                    legacy::apply_limits(name, directory, settings)?;
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Removes the directories, nested ones too. Waits a little for processes that are dying; fails while any lives.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let path = &self.location.unified;
        remove_tree(&self.root, path)?;
        for (name, path) in &self.location.legacy {
            if let Ok(top) = Host::open_legacy(name) {
                remove_tree(&top, path)?;
            }
        }
        Ok(())
    }
}

/// Waits until the directories are made, and opens them.
pub(in crate::runtime) fn await_made(coming: Coming) -> Result<Vec<Hierarchy>, StepError> {
    match rustix::io::retry_on_intr(|| rustix::io::read(&coming.made, &mut [0u8])) {
        Ok(1) => {}
        Ok(_) => return Err(StepError::Abandoned),
        Err(errno) => return Err(call("wait for the cgroups")(errno)),
    }
    let open = |(name, top, path): (String, OwnedFd, String)| {
        let opened = open_beneath(&top, path.trim_start_matches('/'))
            .and_then(|directory| open(&directory, "tasks", OFlags::WRONLY).map(|tasks| (directory, tasks)));
        let (directory, tasks) = opened.map_err(about("open the cgroup", &name))?;
        Ok(Hierarchy { name, path, directory, tasks })
    };
    coming.places.into_iter().map(open).collect()
}

fn remove_tree(root: &OwnedFd, path: &str) -> Result<(), CgroupError> {
    let path = path.trim_matches('/');
    for attempt in 0..REMOVE_TRIES {
        match unlinkat(root, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(failed("rmdir", path)(errno)),
        }
        if let Ok(directory) = open_beneath(root, path) {
            remove_children(&directory, MAX_DEPTH);
        }
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(1 << attempt));
        }
    }
    Err(CgroupError::Busy { path: path.to_owned() })
}

fn remove_children(directory: &OwnedFd, depth: usize) {
    for name in children(directory).unwrap_or_default() {
        if let Some(child) = (depth > 0).then(|| open_beneath(directory, &name).ok()).flatten() {
            remove_children(&child, depth - 1);
        }
        // Still in use shows when the directory above is removed.
        let _ = unlinkat(directory, name.as_str(), AtFlags::REMOVEDIR);
    }
}

fn collect_processes(directory: &OwnedFd, depth: usize, pids: &mut Vec<u32>) -> Result<(), Errno> {
    match read(directory, "cgroup.procs") {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0)),
        // A threaded one, whose processes are listed above it.
        Err(Errno::OPNOTSUPP) => {}
        Err(errno) => return unless_gone(errno),
    }
    let names = if depth > 0 {
        children(directory).or_else(|errno| unless_gone(errno).map(|()| Vec::new()))?
    } else {
        Vec::new()
    };
    for name in names {
        match open_beneath(directory, &name) {
            Ok(child) => collect_processes(&child, depth - 1, pids)?,
            Err(errno) => unless_gone(errno)?,
        }
    }
    Ok(())
}

/// A cgroup that was removed meanwhile has no processes.
fn unless_gone(errno: Errno) -> Result<(), Errno> {
    match errno {
        Errno::NODEV | Errno::NOENT => Ok(()),
        other => Err(other),
    }
}

/// Names of the directories in a directory.
pub(super) fn children(directory: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

pub(super) fn open_beneath(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, ResolveFlags, openat2};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = if path.is_empty() { "." } else { path };
    openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// `b` or `c`, major, minor of what is at a path of the host's now.
pub(super) fn device_numbers(path: &Path) -> Result<(char, u32, u32), CgroupError> {
    let stat = rustix::fs::stat(path).map_err(failed("stat", path.display().to_string()))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => 'b',
        FileType::CharacterDevice => 'c',
        _ => return Err(CgroupError::NotADevice { path: path.to_owned() }),
    };
    Ok((kind, rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

/// Whether rules need a devices directory on v1 or a program on v2: always, since what no rule allows is denied.
pub(super) fn needs_devices(settings: &CgroupSettings) -> bool {
    let allows_all = |rule: &crate::oci::DeviceRule| {
        let everything = RuleTarget::Numbers { kind: 'a', major: None, minor: None };
        rule.allow && rule.device == everything && rule.access.len() == 3
    };
    let last_all =
        settings.devices.iter().rposition(|rule| matches!(rule.device, RuleTarget::Numbers { kind: 'a', .. }));
    let open = last_all
        .and_then(|last| settings.devices.get(last..))
        .is_some_and(|rest| rest.first().is_some_and(allows_all) && rest.iter().all(|rule| rule.allow));
    !open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_gives_up_when_whoever_makes_its_cgroups_is_gone() {
        let wait = |say: &dyn Fn(OwnedFd)| {
            let (made, ours) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
            say(ours);
            await_made(Coming { made, places: Vec::new() }).map(|made| made.len())
        };
        let told = wait(&|ours| assert_eq!(rustix::io::write(&ours, b"1"), Ok(1)));
        assert!(told.is_ok_and(|made| made == 0));
        assert!(matches!(wait(&|ours| drop(ours)), Err(StepError::Abandoned)));
    }
}

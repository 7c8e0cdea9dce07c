//! What the host offers: which hierarchies, where they are reached, and where this process is in them.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat, statfs};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::container::open_beneath;
use super::{CgroupError, failed};
use crate::oci::CgroupSettings;

/// Magic number of a cgroup2 file system (statfs(2)).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
/// Where everybody mounts cgroups.
const MOUNT: &str = "/sys/fs/cgroup";
/// Where hybrid hosts mount the v2 hierarchy.
const HYBRID: &str = "/sys/fs/cgroup/unified";
/// A dozen lines with paths of some length.
const OWN_BYTES_USUAL: usize = 4096;
/// As many hierarchies as there can be, each with the longest path.
const OWN_BYTES_MAX: u64 = 1 << 20;

/// The two kinds of hosts. Whether a legacy host also mounts v2 makes no difference here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// v2 with the controllers.
    Unified,
    /// v1 hierarchies have the controllers.
    Legacy,
}

/// The hierarchies of this host.
#[derive(Debug)]
pub struct Host {
    /// Which kind.
    pub layout: Layout,
    /// The root directory of the v2 hierarchy, or what this process may see of it.
    pub unified: Arc<OwnedFd>,
    /// Where this process is in v2.
    pub own: String,
    /// v1 hierarchies: the name below `/sys/fs/cgroup`, and where this process is in it.
    pub legacy: Vec<(String, String)>,
}

/// Whether `/sys/fs/cgroup` is the v2 hierarchy.
pub fn host_is_unified() -> bool {
    is_cgroup2(MOUNT)
}

/// Which of these limits have no effect on this host although the container runs, in words.
pub fn without_effect(settings: &CgroupSettings) -> Vec<String> {
    let fields = if host_is_unified() { settings.legacy_only() } else { Vec::new() };
    fields.iter().map(|field| format!("linux.resources.{field} has no effect on cgroup v2")).collect()
}

impl Host {
    /// Looks.
    pub fn detect() -> Result<Host, CgroupError> {
        let layout = if host_is_unified() { Layout::Unified } else { Layout::Legacy };
        let (own, legacy) = parse(&own_cgroups());
        let unified = match layout {
            Layout::Unified => open_directory(MOUNT),
            Layout::Legacy if is_cgroup2(HYBRID) => open_directory(HYBRID),
            Layout::Legacy => mount_detached(&own),
        };
        let unified = unified.map_err(|errno| CgroupError::NoUnified { errno })?;
        Ok(Host { layout, unified: Arc::new(unified), own, legacy })
    }

    /// The directory of a v1 hierarchy, opened by path: v1 hierarchies are always mounted somewhere people see.
    pub(super) fn open_legacy(name: &str) -> Result<OwnedFd, rustix::io::Errno> {
        open_directory(&format!("{MOUNT}/{name}"))
    }
}

/// The v2 directory a process is in now.
pub fn current(pidfd: BorrowedFd<'_>) -> Result<OwnedFd, CgroupError> {
    let host = Host::detect()?;
    let gone = || failed("find", "the process")(rustix::io::Errno::SRCH);
    let pid = crate::sys::pidfd::pid(pidfd).ok_or_else(gone)?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|_| gone())?;
    let (path, _) = parse(&text);
    open_beneath(&host.unified, path.trim_start_matches('/')).map_err(failed("open", path))
}

fn is_cgroup2(path: &str) -> bool {
    statfs(path).is_ok_and(|stat| stat.f_type as u64 == CGROUP2_SUPER_MAGIC)
}

fn open_directory(path: &str) -> Result<OwnedFd, rustix::io::Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The v2 hierarchy through a mount that no path leads to. `own` is where this process is in it.
///
/// In the host's own cgroup namespace the call takes a lock over all forks of the host, whose grace period costs 4 to 7 ms (Linux 6.17). In
/// another one it does not, and shows what is below `own`: all there is where nothing else uses v2.
fn mount_detached(own: &str) -> Result<OwnedFd, rustix::io::Errno> {
    if own != "/" {
        return mount();
    }
    let home = openat(CWD, "/proc/self/ns/cgroup", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // EPERM where only some of root's rights are held: the lock may do no worse than that.
    if crate::sys::clone::unshare(libc::CLONE_NEWCGROUP).is_err() {
        return mount();
    }
    let mounted = mount();
    // Only of this thread, and only for that moment.
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
    mounted
}

fn mount() -> Result<OwnedFd, rustix::io::Errno> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// In one read: the kernel makes the text anew for each.
fn own_cgroups() -> String {
    let mut text = String::with_capacity(OWN_BYTES_USUAL);
    let read = File::open("/proc/self/cgroup").and_then(|file| file.take(OWN_BYTES_MAX).read_to_string(&mut text));
    if read.is_ok() { text } else { String::new() }
}

/// `/proc/self/cgroup` (cgroups(7)): lines of `id:controllers:path`; `0::` is v2.
fn parse(text: &str) -> (String, Vec<(String, String)>) {
    let mut own = String::from("/");
    let mut legacy = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        match controllers {
            "" => own = path.to_owned(),
            controllers => {
                let name = controllers.strip_prefix("name=").unwrap_or(controllers);
                legacy.push((name.to_owned(), path.to_owned()));
            }
        }
    }
    (own, legacy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_of_proc_self_cgroup_is_understood() {
        let (own, legacy) = parse("12:cpu,cpuacct:/a\n1:name=systemd:/b:c\n0::/user.slice\nrubbish\n");
        assert_eq!(own, "/user.slice");
        assert_eq!(legacy, [("cpu,cpuacct".to_owned(), "/a".to_owned()), ("systemd".to_owned(), "/b:c".to_owned())]);
    }
}

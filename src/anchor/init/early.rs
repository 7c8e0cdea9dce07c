//! What must be there before anything else: the kernel's own file systems, and a root that a container can be pivoted away from.
//!
//! Done again it does nothing: process 1 comes through here before and after it executes itself from memory. Nothing here waits for a disk. Every
//! step is tried whatever became of the others; what is missing in the end is told by whoever needs it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, access};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount};

use super::mounted::{self, Mounted};

/// Where this process 1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Of the machine: everything is ours to set up, and reboot(2) ends it.
    Machine,
    /// Of a pid namespace, in a container or under `unshare -pf`: what is there was made by others, and our exit ends it.
    Namespace,
}

/// The inode of the machine's own pid namespace, the same on every kernel (linux/proc_ns.h, PROC_PID_INIT_INO).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// One mount: type, place, flags, options.
type Base = (&'static str, &'static str, MountFlags, &'static std::ffi::CStr);

/// In this order. A tmpfs may take that part of the memory; /run also holds the logs while there is no other place.
const BASE: [Base; 7] = [
    ("proc", "/proc", PLAIN, c""),
    ("sysfs", "/sys", PLAIN, c""),
    ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
    ("devpts", "/dev/pts", MountFlags::NOSUID.union(MountFlags::NOEXEC), c"gid=5,mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=1777,size=50%"),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=0755,size=25%"),
    ("cgroup2", "/sys/fs/cgroup", PLAIN, c"nsdelegate,memory_recursiveprot"),
];

/// Links that programs expect beside the kernel's devices.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Prepares a machine; in a namespace mounts nothing but a /proc where there is none at all, without which nothing works.
pub(super) fn prepare() -> Scope {
    let namespace = || fs::read_link("/proc/self/ns/pid").ok();
    if namespace().is_none() {
        mount_base(&BASE[0], &mounted::read());
    }
    // A kernel that does not say has no namespaces.
    if namespace().is_some() && !is_first_pid_namespace() {
        return Scope::Namespace;
    }
    // Read once or twice: the kernel makes this text anew each time, and none of the mounts below brings or hides another one of them.
    let mounts = mounted::read();
    let mounts = if leave_first_root(&mounts) { mounted::read() } else { mounts };
    for base in &BASE {
        mount_base(base, &mounts);
    }
    mount_tmp(&mounts);
    for (to, link) in LINKS {
        let _ = symlink(to, link);
    }
    // From here on Ctrl-Alt-Del is SIGINT to process 1.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
    Scope::Machine
}

/// Whether this pid namespace is the machine's own.
pub(super) fn is_first_pid_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|found| found == Path::new(FIRST_PID_NAMESPACE))
}

fn mount_base((kind, target, flags, data): &Base, mounts: &[Mounted]) {
    let already = mounted::at(mounts, Path::new(target)).is_some();
    let nothing_known = mounts.is_empty() && *kind != "proc";
    if already || nothing_known {
        return;
    }
    make_directory(Path::new(target), 0o755);
    let mounted = mount(*kind, *target, *kind, *flags, *data);
    if mounted.is_err() {
        // An older kernel may not know an option: none of them is needed.
        let _ = mount(*kind, *target, *kind, *flags, None);
    }
}

/// Where the root is in memory, or nobody may write there.
fn mount_tmp(mounts: &[Mounted]) {
    let tmp = Path::new("/tmp");
    let in_memory = mounted::at(mounts, Path::new("/")).is_some_and(Mounted::is_in_memory);
    let writable = access(tmp, rustix::fs::Access::WRITE_OK).is_ok();
    if mounted::at(mounts, tmp).is_none() && (in_memory || !writable) {
        make_directory(tmp, 0o1777);
        let flags = MountFlags::NOSUID.union(MountFlags::NODEV);
        let _ = mount("tmpfs", tmp, "tmpfs", flags, c"mode=1777,size=50%");
    }
}

/// With its parents. The root may be read-only: then it has to be there.
pub(super) fn make_directory(path: &Path, mode: u32) {
    let _ = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
}

/// pivot_root(2), which every container does, fails on the first mount of a namespace: what an initramfs is. So the same tree is mounted once
/// more over itself, and that becomes our root: no file is copied. Says whether it did something.
fn leave_first_root(mounts: &[Mounted]) -> bool {
    if !mounted::at(mounts, Path::new("/")).is_some_and(Mounted::is_first) {
        return false;
    }
    // Below the new root it would be seen twice.
    let _ = unmount("/proc", UnmountFlags::DETACH);
    let _ = moved_root();
    mount_base(&BASE[0], &mounted::read());
    true
}

fn moved_root() -> rustix::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, "/", flags)?;
    move_mount(&tree, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let root = rustix::fs::openat(&tree, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

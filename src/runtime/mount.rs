//! Mounts, by descriptor only: what is mounted is made detached, where it goes is resolved once inside the root, and
//! `move_mount` puts one onto the other. No string is looked at twice.

mod cgroups;
pub(super) mod prepared;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::child::Run;
use super::error::{StepError, about, call, errno_of};
use super::root::{Root, open_link, open_path};
use super::slots::{Hierarchy, Slots};
use crate::oci::{Mount, MountSource, Propagation, PropagationKind, RootPlan};

/// `MOUNT_ATTR_RDONLY`.
const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// The longest value that `fsconfig` takes as a string; longer ones go through mount(2).
const MAX_FSCONFIG_VALUE: usize = 255;

/// Mounts that later steps come back to.
#[derive(Debug, Default)]
pub(super) struct Trees {
    /// The devpts at `/dev/pts`.
    pub(super) devpts: Option<OwnedFd>,
    /// Copies of the container's cgroup directories, v2 first under the name `unified`. `None` where they were not taken because the
    /// container has a cgroup namespace: without one a new mount would show the host's tree.
    cgroups: Option<Vec<(String, OwnedFd)>>,
    /// Copies of the host's mounts of cgroup v1 hierarchies that were made ahead, by the hierarchy's name.
    hierarchies: Vec<(String, OwnedFd)>,
    /// To be made read-only when all is in them.
    sealed_late: Vec<OwnedFd>,
    /// Copies of the host's mounts that were made ahead or from outside, by the index of the step that attaches them.
    pub(super) outside: Vec<(usize, OwnedFd)>,
    /// The same of the files that are bound into a root in memory, in their order; `None` is one that is not there.
    pub(super) seeds: Option<Vec<Option<OwnedFd>>>,
}

impl Trees {
    /// Makes those read-only that were to be written to first.
    pub(super) fn seal(&mut self) -> Result<(), StepError> {
        self.sealed_late.drain(..).try_for_each(|tree| set_readonly(&tree))
    }

    /// The copy for this step.
    pub(super) fn brought(&mut self, step: usize) -> Option<OwnedFd> {
        let found = self.outside.iter().position(|(of, _)| *of == step)?;
        Some(self.outside.swap_remove(found).1)
    }
}

/// How the host's mounts reach the new mount namespace: at most inwards, so that nothing done here shows outside.
pub(super) fn host_propagation(propagation: Propagation) -> Result<(), StepError> {
    let host = open_path(Path::new("/")).map_err(about("open", "/"))?;
    propagate(host.as_fd(), propagation).map_err(about("mount_setattr", "/"))
}

/// Makes the root's mount and attaches it somewhere in the mount namespace; a detached one could not be mounted on. Hooks look for it where
/// config.json says: there it is attached for them.
pub(super) fn take_root(plan: &RootPlan, trees: &mut Trees, step: usize, in_place: bool) -> Result<Root, StepError> {
    let tree = match (plan, trees.brought(step)) {
        (RootPlan::Directory { .. } | RootPlan::Layers { .. }, Some(copy)) => copy,
        (RootPlan::Directory { path, devices, .. }, None) => copy_root(path, *devices)?,
        (RootPlan::Tmpfs { .. }, _) => filesystem("tmpfs", "moored", &[("mode".into(), Some("755".into()))], 0, "/")?,
        (RootPlan::Layers { layers, upper, .. }, None) => super::layers::union(layers, upper, None)?,
    };
    let place = match plan {
        RootPlan::Directory { path, .. } if in_place => path,
        RootPlan::Directory { .. } | RootPlan::Layers { .. } | RootPlan::Tmpfs { .. } => Path::new("/"),
    };
    let place = open_path(place).map_err(about("open", place))?;
    attach(&tree, place.as_fd()).map_err(about("move_mount", "/"))?;
    let root = Root::new(tree);
    if let RootPlan::Tmpfs { dirs, files, binds } = plan {
        super::seed::fill(&root, dirs, files, binds, trees.seeds.take())?;
    }
    Ok(root)
}

/// A copy of the directory that becomes the root, with the mounts below it.
pub(super) fn copy_root(path: &Path, devices: bool) -> Result<OwnedFd, StepError> {
    let directory = open_path(path).map_err(about("open the root", path))?;
    let kind = fstat(&directory).map_err(about("stat", path))?.st_mode;
    if FileType::from_raw_mode(kind) != FileType::Directory {
        return Err(about("open the root", path)(Errno::NOTDIR));
    }
    let tree = clone_tree(directory.as_fd(), true).map_err(about("open_tree", path))?;
    if !devices {
        set(tree.as_fd(), true, libc::MOUNT_ATTR_NODEV, 0, 0).map_err(about("mount_setattr", path))?;
    }
    Ok(tree)
}

/// A copy of what is to be bound.
pub(super) fn copy(source: &Path, recursive: bool, follow: bool) -> Result<OwnedFd, StepError> {
    let from = if follow { open_path(source) } else { open_link(source) };
    let from = from.map_err(about("open", source))?;
    clone_tree(from.as_fd(), recursive).map_err(about("open_tree", source))
}

/// Gives a copy the ids of a user namespace.
pub(super) fn map_ids(
    tree: &OwnedFd,
    recursive: bool,
    namespace: BorrowedFd<'_>,
    target: &str,
) -> Result<(), StepError> {
    crate::sys::mount::map_ids(tree.as_fd(), recursive, namespace).map_err(|error| StepError::IdMap {
        target: target.to_owned(),
        magic: rustix::fs::fstatfs(tree).map_or(0, |found| found.f_type as u64),
        errno: errno_of(&error),
    })
}

/// What is mounted below this copy does not show outside; what is mounted outside shows here.
pub(super) fn cut_off(tree: &OwnedFd) -> Result<(), Errno> {
    set(tree.as_fd(), true, 0, 0, libc::MS_SLAVE)
}

/// One mount of the configuration.
pub(super) fn mount(run: &mut Run, mount: &Mount) -> Result<(), StepError> {
    match &mount.source {
        MountSource::Bind { source, recursive, follow } => {
            let brought = run.trees.brought(run.at);
            let tree = brought.map_or_else(|| copy(source, *recursive, *follow), Ok)?;
            bind(run.root()?, mount, source, &tree)
        }
        MountSource::Filesystem { fstype, source, options } if suits_fsconfig(fstype, options) => {
            let spare = if fstype == "sysfs" && options.is_empty() { run.spare_sysfs() } else { None };
            let is_new = spare.is_none();
            let made = match spare {
                Some(tree) => Ok(tree),
                None => filesystem(fstype, source, options, at_first(mount), &mount.target),
            };
            let (tree, is_new) = match (made, hosts_own(fstype)) {
                // It shows namespaces that are not this user namespace's.
                (Err(error), Some(path)) if error.errno() == Errno::PERM.raw_os_error() => {
                    let tree = copy(path, true, true)?;
                    // What the host has mounted below is no looser than it.
                    set(tree.as_fd(), true, mount.own.set, 0, 0).map_err(about("mount_setattr", &mount.target))?;
                    (tree, false)
                }
                (made, _) => (made?, is_new),
            };
            // What leads elsewhere would be taken for the kernel's own words there: runc and crun refuse it, too.
            if matches!(fstype.as_str(), "proc" | "sysfs") && run.root()?.is_link(&mount.target) {
                return Err(about("mount on the link", &mount.target)(Errno::NOTDIR));
            }
            // A directory that is made for it holds nothing, and has no mode that anybody chose.
            let copy_up = mount.copy_up && run.root()?.has_dir(&mount.target);
            let target = run.root()?.ensure_dir(&mount.target)?;
            if copy_up {
                let own_mode = !options.iter().any(|(name, _)| name == "mode");
                super::copy_up::copy_up(&target, &tree, own_mode, &mount.target)?;
            }
            finish(&tree, mount, target.as_fd(), !is_new)?;
            if fstype == "devpts" && mount.target == "/dev/pts" {
                run.trees.devpts = Some(tree);
            } else if mount.is_sealed_late() {
                run.trees.sealed_late.push(tree);
            }
            Ok(())
        }
        MountSource::Filesystem { fstype, source, options } => {
            let top = by_mount2(run.root()?, mount, fstype, source, options)?;
            run.trees.sealed_late.extend(mount.is_sealed_late().then_some(top));
            Ok(())
        }
        MountSource::Cgroup => cgroups::mount(run, mount),
    }
}

/// The attributes of a mount while others are made in it.
fn at_first(mount: &Mount) -> u64 {
    if mount.is_sealed_late() { mount.own.set & !READ_ONLY } else { mount.own.set }
}

fn bind(root: &Root, mount: &Mount, source: &Path, tree: &OwnedFd) -> Result<(), StepError> {
    let kind = FileType::from_raw_mode(fstat(tree).map_err(about("stat", source))?.st_mode);
    let target = match kind {
        FileType::Directory => root.ensure_dir(&mount.target)?,
        _ => root.ensure_file(&mount.target)?,
    };
    finish(tree, mount, target.as_fd(), true)
}

/// Where the host has the file system that a user namespace may not mount anew while the network or IPC namespace is the host's: its
/// processes see the host's then, as they would without a user namespace (crun does so too).
fn hosts_own(fstype: &str) -> Option<&'static Path> {
    match fstype {
        "sysfs" => Some(Path::new("/sys")),
        "mqueue" => Some(Path::new("/dev/mqueue")),
        _ => None,
    }
}

/// Attributes, propagation, place.
fn finish(tree: &OwnedFd, mount: &Mount, target: BorrowedFd<'_>, attributes: bool) -> Result<(), StepError> {
    if attributes && !mount.own.is_empty() {
        set(tree.as_fd(), false, at_first(mount), mount.own.clear, 0).map_err(about("mount_setattr", &mount.target))?;
    }
    settle(tree.as_fd(), mount)?;
    attach(tree, target).map_err(about("move_mount", &mount.target))
}

fn suits_fsconfig(fstype: &str, options: &[(String, Option<String>)]) -> bool {
    // overlay reads `:` and `,` itself and took no long lists before Linux 6.5.
    let short = |value: &Option<String>| value.as_ref().is_none_or(|value| value.len() <= MAX_FSCONFIG_VALUE);
    fstype != "overlay" && options.iter().all(|(_, value)| short(value))
}

/// A new file system, mounted nowhere yet.
pub(super) fn filesystem(
    fstype: &str,
    source: &str,
    options: &[(String, Option<String>)],
    attributes: u64,
    target: &str,
) -> Result<OwnedFd, StepError> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(about("fsopen", fstype))?;
    let configured = configure(&context, source, options);
    let mounted = configured.and_then(|()| {
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes as u32))
    });
    mounted.map_err(|errno| StepError::Filesystem {
        fstype: fstype.to_owned(),
        target: target.to_owned(),
        message: kernel_message(&context),
        errno,
    })
}

fn configure(context: &OwnedFd, source: &str, options: &[(String, Option<String>)]) -> Result<(), Errno> {
    fsconfig_set_string(context, "source", source)?;
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context, name.as_str(), value.as_str())?,
            None => fsconfig_set_flag(context, name.as_str())?,
        }
    }
    fsconfig_create(context)
}

/// What the file system said about its options (fsopen(2)).
pub(super) fn kernel_message(context: &OwnedFd) -> String {
    let mut buffer = [0u8; 512];
    let length = rustix::io::read(context, &mut buffer).unwrap_or(0);
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
    match text.trim().split_once(' ') {
        Some((_, message)) => message.to_owned(),
        None => String::from("mount"),
    }
}

/// mount(2) onto the current directory, which is the target by descriptor. The mount that came of it.
fn by_mount2(
    root: &Root,
    mount: &Mount,
    fstype: &str,
    source: &str,
    options: &[(String, Option<String>)],
) -> Result<OwnedFd, StepError> {
    let target = root.ensure_dir(&mount.target)?;
    rustix::process::fchdir(&target).map_err(about("chdir", &mount.target))?;
    let data: Vec<String> = options
        .iter()
        .map(|(name, value)| value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")))
        .collect();
    let flags = nix::mount::MsFlags::from_bits_truncate(legacy_flags(at_first(mount)));
    nix::mount::mount(Some(source), ".", Some(fstype), flags, Some(data.join(",").as_str()))
        .map_err(|errno| about("mount", &mount.target)(Errno::from_raw_os_error(errno as i32)))?;
    let top = root.locate(&mount.target).map_err(about("open", &mount.target))?;
    settle(top.as_fd(), mount)?;
    Ok(top)
}

/// What holds for the mounts below as well, and propagation.
fn settle(top: BorrowedFd<'_>, mount: &Mount) -> Result<(), StepError> {
    if !mount.below.is_empty() {
        set(top, true, mount.below.set, mount.below.clear, 0).map_err(about("mount_setattr", &mount.target))?;
        // Of a new file system its own words stay: `nodev` beside `rdev`. Of a bind the recursive ones count (runc and crun have both so).
        let own = at_first(mount) & mount.below.clear & !libc::MOUNT_ATTR__ATIME;
        if own != 0 && !matches!(mount.source, MountSource::Bind { .. }) {
            // The hierarchies in it are one mount with it to who wrote this.
            let hierarchies = mount.source == MountSource::Cgroup;
            set(top, hierarchies, own, 0, 0).map_err(about("mount_setattr", &mount.target))?;
        }
    }
    for propagation in &mount.propagation {
        propagate(top, *propagation).map_err(about("mount_setattr", &mount.target))?;
    }
    Ok(())
}

fn legacy_flags(attributes: u64) -> libc::c_ulong {
    [
        (libc::MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
        (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
        (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
        (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
        (libc::MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
        (libc::MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
        (libc::MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
        (libc::MOUNT_ATTR_NOSYMFOLLOW, 256),
    ]
    .iter()
    .filter(|(attribute, _)| attributes & attribute != 0)
    .fold(0, |sum, (_, flag)| sum | flag)
}

/// Binds each path onto itself, read-only.
pub(super) fn make_readonly(root: &Root, paths: &[String]) -> Result<(), StepError> {
    for path in paths {
        let target = match root.locate(path) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(about("open", path)(errno)),
        };
        let tree = clone_tree(target.as_fd(), true).map_err(about("open_tree", path))?;
        // Not what is mounted below, as elsewhere: a volume there is what its own options say.
        set(tree.as_fd(), false, READ_ONLY, 0, 0).map_err(about("mount_setattr", path))?;
        attach(&tree, target.as_fd()).map_err(about("move_mount", path))?;
    }
    Ok(())
}

/// Covers files with the null device and directories with an empty read-only tmpfs.
pub(super) fn mask(root: &Root, paths: &[String]) -> Result<(), StepError> {
    let null = open_path(Path::new("/dev/null")).map_err(about("open", "/dev/null"))?;
    check_null(&null)?;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let target = match root.locate(path) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(about("open", path)(errno)),
        };
        let kind = FileType::from_raw_mode(fstat(&target).map_err(about("stat", path))?.st_mode);
        let cover = match (kind, &empty) {
            (FileType::Directory, None) => {
                let options = [("nr_blocks".to_owned(), Some("1".to_owned())), ("nr_inodes".into(), Some("1".into()))];
                filesystem("tmpfs", "tmpfs", &options, READ_ONLY, path)?
            }
            // The attached one is copied: one superblock for all masks.
            (FileType::Directory, Some(first)) => clone_tree(first.as_fd(), false).map_err(about("open_tree", path))?,
            _ => clone_tree(null.as_fd(), false).map_err(about("open_tree", "/dev/null"))?,
        };
        attach(&cover, target.as_fd()).map_err(about("move_mount", path))?;
        if kind == FileType::Directory && empty.is_none() {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// A mask must be the null device itself, by type and number (CVE-2025-31133).
fn check_null(fd: &OwnedFd) -> Result<(), StepError> {
    let stat = fstat(fd).map_err(about("stat", "/dev/null"))?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && rustix::fs::major(stat.st_rdev) == 1
        && rustix::fs::minor(stat.st_rdev) == 3;
    if is_null { Ok(()) } else { Err(StepError::NotTheDevice { path: "/dev/null".to_owned(), expected: "c 1:3" }) }
}

/// Makes the root mount read-only.
pub(super) fn seal(root: &Root) -> Result<(), StepError> {
    set(root.as_fd(), false, READ_ONLY, 0, 0).map_err(about("mount_setattr", "/"))
}

/// Sets the propagation of the root mount.
pub(super) fn root_propagation(root: &Root, propagation: Propagation) -> Result<(), StepError> {
    propagate(root.as_fd(), propagation).map_err(about("mount_setattr", "/"))
}

/// Makes the root `/`: pivot_root(2) with both directories the same stacks the old root on the new one.
pub(super) fn pivot(root: &Root) -> Result<(), StepError> {
    let old = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(about("open", "/"))?;
    rustix::process::fchdir(root).map_err(about("chdir", "/"))?;
    rustix::process::pivot_root(".", ".").map_err(about("pivot_root", "."))?;
    rustix::process::fchdir(&old).map_err(about("chdir", "the old root"))?;
    // What is unmounted here must not be unmounted on the host.
    set(old.as_fd(), true, 0, 0, libc::MS_PRIVATE).map_err(about("mount_setattr", "the old root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(about("umount", "the old root"))?;
    rustix::process::chdir("/").map_err(about("chdir", "/"))
}

/// Makes the root `/` by chroot(2): its mount lies on the old root already, which cannot go. What a process that breaks out of a chroot
/// would find there must not show more than its own procfs does, so the old root's procfs and sysfs mounts go.
pub(super) fn cover_root(root: &Root) -> Result<(), StepError> {
    let mounts =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| call("read mountinfo")(errno_of(&error)))?;
    // The last first: one may lie in another.
    for path in mounts.lines().rev().filter_map(kernel_mount) {
        match unmount(path, UnmountFlags::DETACH) {
            // Not of the old root, but of the new one.
            Ok(()) | Err(Errno::NOENT) => {}
            // Locked by a user namespace: cover it.
            Err(_) => {
                let cover = filesystem("tmpfs", "moored", &[], READ_ONLY, path)?;
                let target = open_path(Path::new(path)).map_err(about("open", path))?;
                attach(&cover, target.as_fd()).map_err(about("cover", path))?;
            }
        }
    }
    enter(root)
}

/// Makes a root that is attached over another one `/`.
pub(super) fn enter(root: &Root) -> Result<(), StepError> {
    rustix::process::fchdir(root).map_err(about("chdir", "/"))?;
    rustix::process::chroot(".").map_err(about("chroot", "/"))?;
    rustix::process::chdir("/").map_err(about("chdir", "/"))
}

/// Where a procfs or sysfs is mounted, of a line of mountinfo (proc_pid_mountinfo(5)); a path with escapes is none of theirs.
fn kernel_mount(line: &str) -> Option<&str> {
    let (place, filesystem) = line.split_once(" - ")?;
    let kind = filesystem.split(' ').next()?;
    let path = place.split(' ').nth(4)?;
    (matches!(kind, "proc" | "sysfs") && !path.contains('\\')).then_some(path)
}

/// A procfs of the container's pid namespace that no path leads to.
pub(super) fn detached_procfs() -> Result<OwnedFd, StepError> {
    filesystem("proc", "proc", &[], 0, "nowhere")
}

/// Opens a file of that procfs, crossing no mount and no link but `self`.
pub(super) fn open_beneath(procfs: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    openat2(procfs, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// A detached copy of what is mounted here, with the mounts below it if asked.
pub(super) fn clone_tree(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, "", flags)
}

/// Puts a detached mount onto a file or directory.
pub(super) fn attach(tree: &OwnedFd, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// Makes a mount read-only.
pub(super) fn set_readonly(tree: &OwnedFd) -> Result<(), StepError> {
    set(tree.as_fd(), false, READ_ONLY, 0, 0).map_err(call("mount_setattr"))
}

fn propagate(fd: BorrowedFd<'_>, propagation: Propagation) -> Result<(), Errno> {
    let kind = match propagation.kind {
        PropagationKind::Private => libc::MS_PRIVATE,
        PropagationKind::Slave => libc::MS_SLAVE,
        PropagationKind::Shared => libc::MS_SHARED,
        PropagationKind::Unbindable => libc::MS_UNBINDABLE,
    };
    set(fd, propagation.recursive, 0, 0, kind)
}

fn set(fd: BorrowedFd<'_>, recursive: bool, set: u64, clear: u64, propagation: libc::c_ulong) -> Result<(), Errno> {
    crate::sys::mount::set_attributes(fd, recursive, set, clear, propagation).map_err(|error| errno_of(&error))
}

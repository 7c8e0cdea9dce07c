//! A root that is the union of directories: overlayfs, by descriptor.
//!
//! - The layers are opened once, and no part of their paths may be a link: what was resolved before is what is mounted.
//! - overlayfs reads `:`, `,` and `\` in its options itself, and before Linux 6.5 `fsconfig` gives it no string of more than 255 bytes. So it
//!   is told numbers: the working directory is `/proc/self/fd`, and `lowerdir=7:6` are two directories, whatever they are called.
//! - It takes only mounts of the caller's own namespace (Linux 5.14, 427215d85e8d): the memory of the upper layer is attached first, under the
//!   root that is to come, and unmounted when the union holds a clone of its own. Left there it would be what `pivot` unmounts in the
//!   place of the host's root, and who joins the container later would find that.
//! - A root that could not be written would be mounted read-only without a word (no room for the work directory): that is asked for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, Gid, Mode, OFlags, ResolveFlags, StatVfsMountFlags, Uid, chownat, fchmod, fstat, fstatfs, fstatvfs, mkdirat,
    openat, openat2,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    unmount,
};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};

use super::error::{StepError, about, call, errno_of};
use super::mount::{attach, clone_tree, filesystem, kernel_message};
use super::root::open_path;
use crate::oci::Upper;

/// statfs(2): `OVERLAYFS_SUPER_MAGIC`.
const OVERLAY: u64 = 0x794c_7630;
/// In the upper layer's directory: what is written, and what overlayfs needs beside it.
const PARTS: [&str; 2] = ["upper", "work"];
/// One inode for each of so many bytes.
const BYTES_PER_INODE: u64 = 1024;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Makes the union, which is attached nowhere yet. The working directory is another one then.
///
/// With a user namespace, `maps`, each directory is mounted with the ids of that namespace (Linux 5.19 takes such layers); what is written in
/// memory belongs to its users by itself, and no kernel before 6.3 maps a tmpfs.
pub(super) fn union(layers: &[PathBuf], upper: &Upper, maps: Option<BorrowedFd<'_>>) -> Result<OwnedFd, StepError> {
    let mut mapped = Vec::new();
    let mut lower: Vec<OwnedFd> = layers.iter().map(|path| open_layer(path)).collect::<Result<_, _>>()?;
    if let Some(maps) = maps {
        lower = lower.iter().zip(layers).map(|(fd, path)| map_ids(fd, path, maps)).collect::<Result<_, _>>()?;
        mapped = lower
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<Result<_, _>>()
            .map_err(|error| call("dup")(errno_of(&error)))?;
    }
    let top = lower.last().ok_or(StepError::EmptySlot { slot: "the layers" })?;
    let (memory, (upper, work)) = match (upper, maps) {
        (Upper::Memory { size_bytes }, _) => {
            in_memory(*size_bytes, top).map(|(memory, parts)| (Some(memory), parts))?
        }
        (Upper::Kept(dir), None) => (None, open_parts(&open_kept(dir)?, dir)?),
        (Upper::Kept(dir), Some(maps)) => {
            let tree = map_ids(&open_kept(dir)?, dir, maps)?;
            let parts = open_parts(&tree, dir)?;
            (Some(tree), parts)
        }
    };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
        Errno::NODEV => StepError::NoOverlay,
        errno => about("fsopen", "overlay")(errno),
    })?;
    let numbers: Vec<String> = lower.iter().rev().map(|fd| fd.as_raw_fd().to_string()).collect();
    rustix::process::chdir("/proc/self/fd").map_err(about("chdir", "/proc/self/fd"))?;
    let mounted = match (maps, &memory) {
        (Some(_), Some(_)) => as_owner(&work, || configure(&context, &numbers.join(":"), &upper, &work))?,
        _ => configure(&context, &numbers.join(":"), &upper, &work),
    };
    let tree = mounted.map_err(|errno| explain(layers, &lower, &upper, kernel_message(&context), errno))?;
    // The last one lies on top.
    for attached in memory.iter().chain(mapped.iter().rev()) {
        rustix::process::fchdir(attached).map_err(about("chdir", "a layer"))?;
        unmount(".", UnmountFlags::DETACH).map_err(about("umount", "a layer"))?;
    }
    if fstatvfs(&tree).map_err(about("statvfs", "/"))?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let message = "no room for its work directory, or its file system is read-only".to_owned();
        return Err(StepError::Union { message, errno: Errno::ROFS });
    }
    Ok(tree)
}

fn configure(context: &OwnedFd, lower: &str, upper: &OwnedFd, work: &OwnedFd) -> Result<OwnedFd, Errno> {
    fsconfig_set_string(context, "source", "moored")?;
    fsconfig_set_string(context, "lowerdir", lower)?;
    fsconfig_set_string(context, "upperdir", upper.as_raw_fd().to_string())?;
    fsconfig_set_string(context, "workdir", work.as_raw_fd().to_string())?;
    // With an index a kept upper layer is bound to the file handles of its layers: ours is the rule of what it may lie on.
    fsconfig_set_string(context, "index", "off")?;
    fsconfig_create(context)?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// Who mounts a union is who makes its work directory, and on an id-mapped mount nobody makes anything whose ids it does not have. So it is the
/// owner of that directory, with all rights of this process.
fn as_owner<T>(of: &OwnedFd, mount: impl FnOnce() -> T) -> Result<T, StepError> {
    let stat = fstat(of).map_err(about("stat", "work"))?;
    // Else another id takes rights away (capabilities(7)).
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP).map_err(call("set securebits"))?;
    let act_as = |uid: u32, gid: u32| {
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(gid));
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
    };
    act_as(stat.st_uid, stat.st_gid);
    let done = mount();
    act_as(0, 0);
    set_capabilities_secure_bits(CapabilitiesSecureBits::empty()).map_err(call("set securebits"))?;
    Ok(done)
}

fn open_layer(path: &Path) -> Result<OwnedFd, StepError> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, path, DIRECTORY, Mode::empty(), resolve).map_err(about("open the layer", path))
}

/// A mount of the directory with other ids, attached under the root that is to come.
fn map_ids(directory: &OwnedFd, path: &Path, maps: BorrowedFd<'_>) -> Result<OwnedFd, StepError> {
    let tree = clone_tree(directory.as_fd(), false).map_err(about("open_tree", path))?;
    super::mount::map_ids(&tree, false, maps, "/")?;
    let here = open_path(Path::new("/")).map_err(about("open", "/"))?;
    attach(&tree, here.as_fd()).map_err(about("move_mount", path))?;
    Ok(tree)
}

/// A tmpfs of the container's own. Its root looks like that of the highest layer: a union's root is that of its upper layer.
fn in_memory(size_bytes: u64, top: &OwnedFd) -> Result<(OwnedFd, (OwnedFd, OwnedFd)), StepError> {
    let inodes = (size_bytes / BYTES_PER_INODE).max(BYTES_PER_INODE);
    let options = [("size", size_bytes), ("nr_inodes", inodes)].map(|(name, n)| (name.to_owned(), Some(n.to_string())));
    let memory = filesystem("tmpfs", "moored", &options, u64::from(MountAttrFlags::MOUNT_ATTR_NODEV.bits()), "/")?;
    let here = open_path(Path::new("/")).map_err(about("open", "/"))?;
    attach(&memory, here.as_fd()).map_err(about("move_mount", "/"))?;
    for name in PARTS {
        mkdirat(&memory, name, Mode::from(0o755)).map_err(about("mkdir", name))?;
    }
    let (upper, work) = open_parts(&memory, Path::new("memory"))?;
    let like = fstat(top).map_err(about("stat", "the highest layer"))?;
    let ids = (Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)));
    chownat(&memory, "upper", ids.0, ids.1, rustix::fs::AtFlags::empty()).map_err(about("chown", "upper"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = openat(&memory, "upper", flags, Mode::empty()).map_err(about("open", "upper"))?;
    fchmod(&readable, Mode::from_raw_mode(like.st_mode & 0o7777)).map_err(about("chmod", "upper"))?;
    Ok((memory, (upper, work)))
}

fn open_kept(dir: &Path) -> Result<OwnedFd, StepError> {
    openat(CWD, dir, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(about("open", dir))
}

fn open_parts(parent: &OwnedFd, path: &Path) -> Result<(OwnedFd, OwnedFd), StepError> {
    let open = |name: &str| {
        let opened = openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        opened.map_err(about("open", path.join(name)))
    };
    Ok((open(PARTS[0])?, open(PARTS[1])?))
}

/// Why the kernel may have refused. Before Linux 6.5 it says that in its own log alone.
fn explain(layers: &[PathBuf], lower: &[OwnedFd], upper: &OwnedFd, said: String, errno: Errno) -> StepError {
    let is_overlay = |fd: &OwnedFd| fstatfs(fd).is_ok_and(|found| found.f_type as u64 == OVERLAY);
    let nested = layers.iter().zip(lower).find(|(_, fd)| is_overlay(fd)).map(|(path, _)| path);
    let message = match (errno, nested) {
        (Errno::INVAL, _) if is_overlay(upper) => {
            "what is kept would lie on an overlayfs, which takes no upper layer: give a --state-dir on another file system"
                .to_owned()
        }
        (Errno::INVAL, Some(path)) => {
            format!("{} lies on an overlayfs, and the kernel stacks no more of them ({said})", path.display())
        }
        _ => said,
    };
    StepError::Union { message, errno }
}

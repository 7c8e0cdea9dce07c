//! A root that is the union of directories: overlayfs, by descriptor.
//!
//! - The layers are opened once, and no part of their paths may be a link: what was resolved before is what is mounted.
//! - overlayfs reads `:`, `,` and `\` in its options itself, and before Linux 6.5 `fsconfig` gives it no string of more than 255 bytes. So it
//!   is told numbers: the working directory is `/proc/self/fd`, and `lowerdir=7:6` are two directories, whatever they are called.
//! - It takes only mounts of the caller's own namespace (Linux 5.14, 427215d85e8d): the memory of the upper layer is attached first, under the
//!   root that is to come, and unmounted when the union holds a clone of its own. Left there it would be what `pivot` unmounts in the
//!   place of the host's root, and who joins the container later would find that.
//! - A root that could not be written would be mounted read-only without a word (no room for the work directory): that is asked for.

use std::os::fd::{AsRawFd, OwnedFd};
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

use super::error::{StepError, about};
use super::mount::{attach, filesystem, kernel_message};
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
pub(super) fn union(layers: &[PathBuf], upper: &Upper) -> Result<OwnedFd, StepError> {
    let lower: Vec<OwnedFd> = layers.iter().map(|path| open_layer(path)).collect::<Result<_, _>>()?;
    let top = lower.last().ok_or(StepError::EmptySlot { slot: "the layers" })?;
    let (memory, (upper, work)) = match upper {
        Upper::Memory { size_bytes } => in_memory(*size_bytes, top).map(|(memory, parts)| (Some(memory), parts))?,
        Upper::Kept(dir) => (None, kept(dir)?),
    };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
        Errno::NODEV => StepError::NoOverlay,
        errno => about("fsopen", "overlay")(errno),
    })?;
    let numbers: Vec<String> = lower.iter().rev().map(|fd| fd.as_raw_fd().to_string()).collect();
    rustix::process::chdir("/proc/self/fd").map_err(about("chdir", "/proc/self/fd"))?;
    let mounted = configure(&context, &numbers.join(":"), &upper, &work);
    let tree = mounted.map_err(|errno| explain(layers, &lower, &upper, kernel_message(&context), errno))?;
    if let Some(memory) = memory {
        rustix::process::fchdir(&memory).map_err(about("chdir", "memory"))?;
        unmount(".", UnmountFlags::DETACH).map_err(about("umount", "memory"))?;
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

fn open_layer(path: &Path) -> Result<OwnedFd, StepError> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, path, DIRECTORY, Mode::empty(), resolve).map_err(about("open the layer", path))
}

/// A tmpfs of the container's own. Its root looks like that of the highest layer: a union's root is that of its upper layer.
fn in_memory(size_bytes: u64, top: &OwnedFd) -> Result<(OwnedFd, (OwnedFd, OwnedFd)), StepError> {
    let inodes = (size_bytes / BYTES_PER_INODE).max(BYTES_PER_INODE);
    let options = [("size", size_bytes), ("nr_inodes", inodes)].map(|(name, n)| (name.to_owned(), Some(n.to_string())));
    let memory = filesystem("tmpfs", "moored", &options, u64::from(MountAttrFlags::MOUNT_ATTR_NODEV.bits()), "/")?;
    let here = open_path(Path::new("/")).map_err(about("open", "/"))?;
    attach(&memory, std::os::fd::AsFd::as_fd(&here)).map_err(about("move_mount", "/"))?;
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

fn kept(dir: &Path) -> Result<(OwnedFd, OwnedFd), StepError> {
    let opened = openat(CWD, dir, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(about("open", dir))?;
    open_parts(&opened, dir)
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

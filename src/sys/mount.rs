//! mount_setattr(2): the attributes and propagation of mounts that are held by descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Changes the mount that `fd` is the root of: sets and clears `MOUNT_ATTR_…` bits and, if not 0, makes it
/// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE` (Linux 5.12). `recursive` takes the mounts below as well.
pub fn set_attributes(fd: BorrowedFd<'_>, recursive: bool, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
    change(fd, recursive, libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 })
}

/// Makes the mount that `fd` is the root of id-mapped as this user namespace maps ids (Linux 5.12). It is a copy that is attached
/// nowhere yet, of a file system that allows it: else EINVAL.
pub fn map_ids(fd: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = user_namespace.as_raw_fd() as u64;
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    change(fd, recursive, attr)
}

fn change(fd: BorrowedFd<'_>, recursive: bool, attr: libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a terminated literal and `attr` outlives the call, which gets its size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! mount_setattr(2): the attributes and propagation of mounts that are held by descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Changes the mount that `fd` is the root of: sets and clears `MOUNT_ATTR_…` bits and, if not 0, makes it
/// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE` (Linux 5.12). `recursive` takes the mounts below as well.
pub fn set_attributes(fd: BorrowedFd<'_>, recursive: bool, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
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

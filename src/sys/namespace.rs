//! What kind of namespace a descriptor is of (ioctl_ns(2), Linux 4.11).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Its `CLONE_NEW…` flag. ENOTTY: it is no namespace.
pub fn kind(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: NS_GET_NSTYPE takes no argument.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind as u32) }
}

//! A sealed memfd mapped for reading.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::SealFlags;

/// A read-only mapping of a memfd that can neither change nor shrink.
#[derive(Debug)]
pub struct Payload {
    start: *mut libc::c_void,
    length: usize,
}

impl Payload {
    /// Maps it. EPERM: not sealed; EFBIG: longer than `most` bytes; EINVAL: empty.
    pub fn map(fd: BorrowedFd<'_>, most: usize) -> io::Result<Self> {
        let needed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        if !rustix::fs::fcntl_get_seals(fd)?.contains(needed) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        let length = usize::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(usize::MAX);
        if length > most {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        // SAFETY: no address is asked for; the result is checked below.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Payload { start, length }) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped readable for `length` bytes as long as `self` lives, and the seals keep the file from changing.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours alone, and `bytes` cannot outlive `self`.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

//! Descriptor tables: close_range(2), and taking over numbers.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Sets close-on-exec on every descriptor from `first` up (Linux 5.11).
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes descriptor `number` refer to what `fd` refers to, without close-on-exec, and lets it go.
///
/// `fd` itself is closed unless it already has that number.
pub fn place(fd: OwnedFd, number: RawFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    if fd.as_raw_fd() == number {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
        std::mem::forget(fd);
        return Ok(());
    }
    // SAFETY: dup2 takes two numbers; `number` is handed to the program that is executed next, not used from here.
    let done = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes descriptor `number`, which this process was started with, or `None` where it is not open.
///
/// Call it at most once for a number.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl on a number that may be closed reports EBADF.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the caller's contract is that nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from `first` up but those of `keep`, which is sorted on the way (close_range(2), Linux 5.9). For a process
/// whose owned ones are forgotten by never returning.
pub fn close_from_except(first: RawFd, keep: &mut [RawFd]) -> io::Result<()> {
    keep.sort_unstable();
    let mut from = first;
    for kept in keep.iter().copied().filter(|kept| *kept >= first) {
        if from < kept {
            close_range(from as u32, kept as u32 - 1)?;
        }
        from = from.max(kept.saturating_add(1));
    }
    close_range(from as u32, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no memory is passed; the caller uses none of these descriptors any more.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor. For a process that keeps none, and whose owned ones are forgotten by never returning.
pub fn close_all() {
    // SAFETY: no memory is passed; the caller uses no descriptor any more.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
}

//! seccomp(2): a filter for the calling thread.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// Puts a BPF program in front of all later system calls of this thread (and of what it executes), for good.
/// `flags` are `SECCOMP_FILTER_FLAG_*`, without `NEW_LISTENER`.
///
/// Errs with EACCES where neither no_new_privs is set nor CAP_SYS_ADMIN held, EINVAL for a program or flag that the kernel
/// does not take, ENOMEM above 32768 instructions in all filters of the thread, and ESRCH where `TSYNC` met a thread that
/// has other filters.
pub fn load(program: &[libc::sock_filter], flags: u32) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 != 0 {
        return Err(Errno::INVAL.into()); // It would return a descriptor that nobody owns.
    }
    match set(program, len, flags)? {
        0 => Ok(()),
        // TSYNC reports the thread that it could not synchronise.
        _ => Err(Errno::SRCH.into()),
    }
}

/// The same with `NEW_LISTENER`, which it adds: a descriptor by which the calls that are notified are answered (Linux 5.0), close-on-exec.
///
/// Errs also with EBUSY where a filter of the thread has a listener. `TSYNC` must come with `TSYNC_ESRCH`.
pub fn load_listening(program: &[libc::sock_filter], flags: u32) -> io::Result<OwnedFd> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let listener = set(program, len, flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32)?;
    let listener = RawFd::try_from(listener).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: with NEW_LISTENER the kernel returns a new descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

fn set(program: &[libc::sock_filter], len: u16, flags: u32) -> io::Result<libc::c_long> {
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `fprog` is a valid sock_fprog whose filter points to `len` instructions; both outlive the call, which
    // copies them and writes to neither.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

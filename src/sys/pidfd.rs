//! pidfd_send_signal(2) for every signal number; rustix takes only those with a name.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `Pid:` of its fdinfo (proc_pid_fdinfo(5)): the number of its process here, where `/proc` says and while it is not reaped.
pub fn pid(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

/// Sends `signal` to the process behind `pidfd`. ESRCH: it has ended and was reaped.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: u8) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: `pidfd` is open for the call; a null siginfo is what kill(2) would send; flags must be 0.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::c_int::from(signal), info, 0) };
    match sent {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

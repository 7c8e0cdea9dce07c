//! waitid(2) for children of every kind (`__WALL`), with the raw status: nix knows no real-time signals there.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Whose.
    pub pid: i32,
    /// `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`.
    pub code: i32,
    /// Exit code or signal, as `code` says.
    pub status: i32,
}

/// Which children.
#[derive(Debug, Clone, Copy)]
pub enum Which<'fd> {
    /// Any.
    Any,
    /// The one of this pid.
    Pid(i32),
    /// The one of this pidfd (Linux 5.4).
    PidFd(BorrowedFd<'fd>),
}

/// Looks for a child that ended and leaves it as it is; `None` while none has. ECHILD: there is no such child.
pub fn peek(which: Which<'_>) -> io::Result<Option<Ended>> {
    wait(which, libc::WNOHANG | libc::WNOWAIT)
}

/// Looks for a child that ended and buries it: afterwards its pid may be another's.
pub fn reap(which: Which<'_>) -> io::Result<Option<Ended>> {
    wait(which, libc::WNOHANG)
}

/// Waits until a child has ended, and buries it.
pub fn await_end(which: Which<'_>) -> io::Result<Ended> {
    loop {
        match wait(which, 0) {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait(which: Which<'_>, options: i32) -> io::Result<Option<Ended>> {
    let (kind, id) = match which {
        Which::Any => (libc::P_ALL, 0),
        Which::Pid(pid) => (libc::P_PID, pid as libc::id_t),
        Which::PidFd(fd) => (libc::P_PIDFD, fd.as_raw_fd() as libc::id_t),
    };
    // SAFETY: all zeroes is a valid siginfo_t; waitid(2) leaves si_pid 0 where no child has ended.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a live out-pointer.
    if unsafe { libc::waitid(kind, id, &raw mut info, options | libc::WEXITED | libc::__WALL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid fills the SIGCHLD fields, or they are the zeroes from above.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then_some(Ended { pid, code: info.si_code, status }))
}

//! clone3(2): a child in new namespaces and in a cgroup, with a pidfd, in one call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// From linux/sched.h; the `libc` crate's constant is an `int`, in which nothing is left of it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What clone3(2) is asked for. The child gets a copy of the memory (no `CLONE_VM`).
#[derive(Debug, Default)]
pub struct Request<'fd> {
    /// `CLONE_NEW…` flags.
    pub namespaces: u64,
    /// A cgroup v2 directory the child is born in (Linux 5.7).
    pub cgroup: Option<BorrowedFd<'fd>>,
    /// Makes the child a sibling: its parent is the caller's parent, which gets the signal at its end that it would get at
    /// the caller's.
    pub sibling: bool,
    /// Asks for a pidfd.
    pub pidfd: bool,
}

/// Which side of the clone this is.
#[derive(Debug)]
pub enum Side {
    /// The new process. It has one thread, the caller's.
    Child,
    /// The caller.
    Parent {
        /// In the caller's pid namespace.
        pid: i32,
        /// The child's pidfd where one was asked for; `CLOEXEC`.
        pidfd: Option<OwnedFd>,
    },
}

/// Forks with clone3(2).
///
/// Only a process with one thread may call this: in the child of a threaded one, a lock that another thread held (the
/// allocator's, say) is never released.
pub fn clone3(request: &Request<'_>) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    let args = libc::clone_args {
        flags: request.namespaces
            | if request.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 }
            | if request.sibling { libc::CLONE_PARENT as u64 } else { 0 }
            | if request.pidfd { libc::CLONE_PIDFD as u64 } else { 0 },
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        // With CLONE_PARENT anything but 0 is EINVAL (clone(2)).
        exit_signal: if request.sibling { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: request.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: `args` and `pidfd` outlive the call; without CLONE_VM the child runs on its own copy of this stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent { pid: pid as i32, pidfd: owned(pidfd) }),
    }
}

fn owned(fd: RawFd) -> Option<OwnedFd> {
    if fd < 0 {
        return None;
    }
    // SAFETY: the kernel just put a new descriptor there and nobody else knows it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Ends this process and nothing else: no exit handler, and nothing written that its parent has in a buffer as well.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// unshare(2) for namespaces of the calling thread; `CLONE_FILES` and friends are not for this.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: no memory is passed; with namespace flags alone no descriptor and no memory changes its owner.
    let done = unsafe { libc::unshare(flags) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

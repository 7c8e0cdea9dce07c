//! Signal masks and dispositions, without handlers: a signal is blocked and read from a descriptor, ignored, or default.

use std::io;

pub use libc::{
    SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGPWR, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2,
};

/// Highest signal number on Linux.
const LAST: i32 = 64;

/// Ignores each of `signals`, here and in what is executed later.
pub fn ignore(signals: &[i32]) -> io::Result<()> {
    signals.iter().try_for_each(|signal| set(*signal, libc::SIG_IGN))
}

/// Whether `signal` is ignored (by `nohup`, say).
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeroes is a valid sigaction to be overwritten.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only reads; `old` is a live out-pointer.
    let done = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut old) };
    done == 0 && old.sa_sigaction == libc::SIG_IGN
}

/// Default action for every signal, none blocked. For a child between fork and exec.
pub fn reset_all() -> io::Result<()> {
    for signal in 1..=LAST {
        // KILL and STOP cannot be set.
        let _ = set_default(signal);
    }
    unblock_all()
}

/// Blocks every one that can be blocked, but for the C library's own two.
pub fn block_all() -> io::Result<()> {
    nix::sys::signal::SigSet::all().thread_set_mask().map_err(io::Error::from)
}

/// Waits for a signal, takes it and says which; all that are to be waited for are blocked (sigwaitinfo(2)). Real-time signals too, of which
/// nix and rustix know nothing.
pub fn wait_for_any() -> io::Result<i32> {
    let all = nix::sys::signal::SigSet::all();
    // SAFETY: the set is alive for the call; without a place for it nothing more is said of the signal.
    let signal = unsafe { libc::sigwaitinfo(all.as_ref(), std::ptr::null_mut()) };
    if signal < 0 { Err(io::Error::last_os_error()) } else { Ok(signal) }
}

/// Sends `signal` to a child that was not reaped, so that its number is still its own, or to this process itself.
pub fn send_to_child(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: no memory is passed.
    let done = unsafe { libc::kill(pid, signal) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Blocks none.
pub fn unblock_all() -> io::Result<()> {
    nix::sys::signal::SigSet::empty().thread_set_mask().map_err(io::Error::from)
}

/// By the kernel's call: the C library refuses 32 and 33, its own, which its posix_spawn(3) leaves ignored in what it starts.
fn set_default(signal: i32) -> io::Result<()> {
    /// Handler, flags, restorer and mask of the kernel's sigaction: all zeroes is SIG_DFL without flags.
    const DEFAULT: [u64; 4] = [0; 4];
    /// Bytes in the kernel's signal set.
    const SET_BYTES: usize = 8;
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: the kernel reads one sigaction, which is DEFAULT's size or smaller, and writes nothing to a null pointer.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), none, SET_BYTES) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set(signal: i32, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction: no flags, an empty mask.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = action;
    // SAFETY: `new` is valid and names no handler function, only SIG_IGN or SIG_DFL.
    let done = unsafe { libc::sigaction(signal, &raw const new, std::ptr::null_mut()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! Kernel keyrings (keyctl(2)).

use std::ffi::CStr;
use std::io;

/// Replaces the session keyring by a new one of that name, so that the caller's keys cannot be reached any more.
pub fn join_session(name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is a terminated string that outlives the call.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if serial < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

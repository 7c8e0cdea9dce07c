//! Kernel keyrings (keyctl(2)).

use std::ffi::CStr;
use std::io;

/// Replaces the session keyring by the one of that name, made if missing, or by a new one, so that the caller's keys cannot be reached any
/// more.
pub fn join_session(name: Option<&CStr>) -> io::Result<()> {
    let name = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: `name` is null or a terminated string that outlives the call.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) };
    if serial < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

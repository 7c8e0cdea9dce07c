//! The allocator's habits. glibc gives each thread an arena of its own and keeps what was freed: for threads that allocate little and one
//! after the other, that is memory for nothing.

use std::ffi::CStr;

/// Where glibc looks for its tunables when a program starts.
pub const TUNABLES_NAME: &str = "GLIBC_TUNABLES";

/// A thread keeps freed pieces to itself only up to 128 bytes: the others are 0.5 MB in a supervisor with 100 units. For the environment of
/// the next execve, as there is no call for it.
pub const TUNABLES: &CStr = c"GLIBC_TUNABLES=glibc.malloc.tcache_max=128";

/// All threads share one arena. Call it before the first thread: 0.3 MB less in a supervisor with one unit.
pub fn share() {
    // SAFETY: mallopt(3) takes two numbers and has no precondition; a value that it does not take changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives back to the system what is free. It walks the whole heap: for a moment when nobody waits.
pub fn trim() {
    // SAFETY: malloc_trim(3) takes the number of bytes to keep at the top and has no precondition.
    unsafe { libc::malloc_trim(0) };
}

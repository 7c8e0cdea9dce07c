//! The allocator's habits. glibc gives each thread an arena of its own and keeps what was freed: for threads that allocate little and one
//! after the other, that is memory for nothing.

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

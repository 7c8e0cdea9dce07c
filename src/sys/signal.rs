//! Signal dispositions for a program that is about to be executed.

/// Every signal back to its default; an ignored one would stay ignored across execve(2).
pub fn default_all() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL runs no code of ours. KILL, STOP and the C library's own two refuse with EINVAL, harmlessly.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

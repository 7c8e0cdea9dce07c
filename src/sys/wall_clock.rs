//! Whether somebody keeps the wall clock right: adjtimex(2).

/// The kernel's word for it: a daemon that knows the time has set the clock, and was heard of since. `false` also where it cannot be asked.
pub fn is_synchronised() -> bool {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the pointer is to a live, writable `timex`; zeroes are a valid one and, with no mode set, change nothing.
    let (answer, state) = unsafe {
        let answer = libc::adjtimex(state.as_mut_ptr());
        (answer, state.assume_init())
    };
    answer >= 0 && state.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_what_the_kernel_says() {
        let mut state = nix::libc::timex { ..unsafe { std::mem::zeroed() } };
        let answer = unsafe { libc::adjtimex(&mut state) };
        // TIME_ERROR is what an unsynchronised clock is answered with.
        assert_eq!(super::is_synchronised(), answer >= 0 && answer != libc::TIME_ERROR);
    }
}

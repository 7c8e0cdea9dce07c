//! How the program begins: without the start of std's, which reads `/proc/self/maps` for the guard page of the main thread and gives each
//! thread a stack for a handler that prints a line about an overflow. That is 45 µs of every command, and a container's start is 1.4 ms. An
//! overflow is the kernel's SIGSEGV all the same.
//!
//! What else std does there is done here: a closed standard stream is opened, so that no file of ours gets its number, and a reader that
//! went away is an error of write(2).

use std::ffi::{c_char, c_int};

use super::signal;

/// Makes `$main` (`fn() -> u8`, the exit code) the program's main function. For a file with `#![no_main]`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// What the C library calls.
        #[unsafe(no_mangle)]
        extern "C" fn main(_: ::core::ffi::c_int, _: *const *const ::core::ffi::c_char) -> ::core::ffi::c_int {
            $crate::sys::entry::begin($main)
        }
    };
}

/// See the module.
pub fn begin(main: fn() -> u8) -> c_int {
    if open_streams().is_err() || signal::ignore(&[signal::SIGPIPE]).is_err() {
        std::process::abort();
    }
    let code = main();
    // Flushes what is printed, and runs what the C library has for the end.
    std::process::exit(code.into())
}

/// Descriptors are given out from the lowest: whatever is closed of 0 to 2 is opened in this order.
fn open_streams() -> std::io::Result<()> {
    for number in 0..=2 {
        // SAFETY: F_GETFD takes no argument and changes nothing; the path is a C string.
        let opened = unsafe {
            match libc::fcntl(number, libc::F_GETFD) {
                -1 => libc::open(c"/dev/null".as_ptr().cast::<c_char>(), libc::O_RDWR),
                _ => number,
            }
        };
        if opened != number {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

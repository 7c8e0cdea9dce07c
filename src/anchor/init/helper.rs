//! A child of process 1 for what may block or take long. Process 1 waits for it with a deadline, or not at all.

use std::io;

use crate::sys::clone::{Request, Side, clone3, leave};
use crate::sys::{fd, signal};

/// Forks a child that does `work` and leaves with its code; returns its pid. Its signals are as any program expects them, and it has none of
/// our descriptors but the standard streams: one that stays would keep the watchdog open, which can be opened once, and sockets.
pub(super) fn start(work: impl FnOnce() -> u8) -> io::Result<i32> {
    match clone3(&Request::default())? {
        Side::Child => {
            let _ = signal::reset_all();
            let _ = fd::close_from_except(3, &mut []);
            leave(i32::from(work()))
        }
        Side::Parent { pid, .. } => Ok(pid),
    }
}

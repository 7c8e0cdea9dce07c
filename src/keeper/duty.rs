//! What process 1 has to do beside the work of an anchor or a keeper: it remembers which signal asked for the stop, ends a stop that takes too
//! long, and pets a watchdog. Asked in every round of both loops, so that it holds whichever of the two process 1 is in.

use super::process1::Seat;
use super::state::{Of, Passed};

/// The extra work of process 1.
pub(crate) trait Duty {
    /// When it wants the next round, in nanoseconds of `CLOCK_BOOTTIME`; `None`: it waits for nothing.
    fn due_ns(&self) -> Option<u64>;

    /// A signal other than SIGCHLD came.
    fn signalled(&mut self, signal: u32);

    /// One round. `supervisor` is the one that lives, and how many were started. `true`: leave the loop now, done or not.
    fn round(&mut self, now_ns: u64, supervisor: (Option<i32>, u32)) -> bool;

    /// What the next program of this process needs, whose work is `seat` now.
    fn record<'fd>(&'fd self, seat: Seat, passed: &mut Passed<'fd>) -> Of;
}

/// Of a process that is not process 1.
impl Duty for () {
    fn due_ns(&self) -> Option<u64> {
        None
    }

    fn signalled(&mut self, _: u32) {}

    fn round(&mut self, _: u64, _: (Option<i32>, u32)) -> bool {
        false
    }

    fn record<'fd>(&'fd self, seat: Seat, _: &mut Passed<'fd>) -> Of {
        seat.of()
    }
}

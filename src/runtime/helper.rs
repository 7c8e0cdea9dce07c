//! Waiting for a helper: a short-lived process that goes somewhere, or does something, on behalf of one that may not.
//!
//! A path of the host's may hang (a network file system whose server is gone), and with it whoever looks at it. The keeper, the parent of
//! every container, must not: it waits for a time, kills the helper and goes on. A helper in uninterruptible sleep ends when it wakes up and is buried
//! by its parent then, as any child that nobody waits for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::sys::pidfd::send_signal;
use crate::sys::wait::{Which, await_end};

/// What is usual takes some milliseconds. With a machine that is busy for this long, nothing else goes on either.
pub const KEEPERS_PATIENCE: Duration = Duration::from_secs(10);
const SIGKILL: u8 = 9;

/// Waits for its end, and buries it. `false`: it took longer, and was killed.
pub(super) fn await_helper(helper: &OwnedFd, patience: Option<Duration>) -> io::Result<bool> {
    if let Some(patience) = patience
        && !ends_within(helper, patience)?
    {
        send_signal(helper.as_fd(), SIGKILL)?;
        return Ok(false);
    }
    await_end(Which::PidFd(helper.as_fd())).map(|_| true)
}

/// A pidfd becomes readable with the end of its process (pidfd_open(2)).
fn ends_within(helper: &OwnedFd, patience: Duration) -> Result<bool, Errno> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(helper, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    fn sleeper(seconds: &str) -> (std::process::Child, OwnedFd) {
        let child = std::process::Command::new("sleep").arg(seconds).spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        (child, pidfd)
    }

    #[test]
    fn one_that_takes_too_long_is_killed_and_left_to_its_parent() {
        let (mut child, helper) = sleeper("1000");
        assert!(!await_helper(&helper, Some(Duration::from_millis(10))).unwrap());
        let ended = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
    }

    #[test]
    fn one_that_ends_is_buried() {
        for patience in [None, Some(Duration::from_secs(100))] {
            let (_, helper) = sleeper("0");
            assert!(await_helper(&helper, patience).unwrap());
            assert!(crate::sys::wait::peek(Which::PidFd(helper.as_fd())).is_err(), "it is gone");
        }
    }
}

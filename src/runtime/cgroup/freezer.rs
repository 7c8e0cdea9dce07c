//! Freezing: every process of a container stands still, wherever it is in the kernel, and goes on as if nothing had been.
//!
//! `cgroup.freeze` of the v2 directory does it on every host, as every container has one and the freezer of v2 is part of the core (Linux
//! 5.2), not of a controller that v1 could have taken. It is better than v1's: a fatal signal ends a frozen process at once, where v1 keeps
//! it until somebody thaws it, and `cgroup.events` says by event when all of them stand still, where `freezer.state` has to be read again
//! and again. Other signals wait until it goes on.
//!
//! | cgroup.freeze | `frozen` of cgroup.events | is |
//! |---|---|---|
//! | 0 | 0 | running |
//! | 1 | 0 | on its way: a process in an uninterruptible call holds it up |
//! | 1 | 1 | frozen |
//! | 0 | 1 | frozen from a cgroup above |

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::container::ContainerCgroup;
use super::legacy::{read, write};
use super::{CgroupError, failed};

/// A process that waits for a disk or a network file system may not come to a halt at all.
const FREEZING: Duration = Duration::from_secs(10);

impl ContainerCgroup {
    /// Freezes every process, nested cgroups too, and waits until they stand still. If one does not, all go on.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let events = self.events()?;
        self.write_freeze("1")?;
        match await_frozen(&events, Instant::now() + FREEZING) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.write_freeze("0")?;
                Err(CgroupError::NotFrozen { path: self.location.unified.clone(), seconds: FREEZING.as_secs() })
            }
            Err(errno) => {
                self.write_freeze("0")?;
                Err(failed("wait for", "cgroup.events")(errno))
            }
        }
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.write_freeze("0")
    }

    /// Whether they are to stand still, or do for a cgroup above.
    pub fn is_frozen(&self) -> bool {
        let says = |file: &str, line: &str| read(self.directory(), file).is_ok_and(|text| has_line(&text, line));
        says("cgroup.freeze", "1") || says("cgroup.events", "frozen 1")
    }

    fn write_freeze(&self, value: &str) -> Result<(), CgroupError> {
        write(self.directory(), "cgroup.freeze", value).map_err(failed("write", "cgroup.freeze"))
    }
}

/// The kernel raises an event at each change of the file; `false` when there was none that said so before the deadline.
fn await_frozen(events: &OwnedFd, deadline: Instant) -> Result<bool, Errno> {
    loop {
        if has_line(&again(events)?, "frozen 1") {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// From its beginning: what was read is what the next event is counted from.
fn again(events: &OwnedFd) -> Result<String, Errno> {
    let mut text = [0u8; 256];
    let length = rustix::io::pread(events, &mut text, 0)?;
    Ok(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned())
}

fn has_line(text: &str, wanted: &str) -> bool {
    text.lines().any(|line| line == wanted)
}

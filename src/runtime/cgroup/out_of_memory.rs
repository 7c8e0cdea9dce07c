//! Hearing of it when a container runs out of memory.
//!
//! On v2 `memory.events` counts the processes that were killed for it, and raises an event at each change. On v1 an eventfd is registered for
//! `memory.oom_control` (cgroup-v1/memory.rst), which is written once each time that memory runs out, and once more when the cgroup is removed.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::container::ContainerCgroup;
use super::legacy::{open, read, write};
use super::{CgroupError, failed};

/// See the module.
#[derive(Debug)]
pub(crate) enum OutOfMemory {
    /// On v1: the eventfd and the cgroup.
    Legacy(OwnedFd, OwnedFd),
    /// On v2: `memory.events`, and how many were killed so far.
    Unified(OwnedFd, u64),
}

impl ContainerCgroup {
    /// `None` where nobody counts: no memory controller.
    pub(crate) fn out_of_memory(&self) -> Result<Option<OutOfMemory>, CgroupError> {
        if let Some(memory) = self.hierarchy("memory") {
            use std::os::fd::AsRawFd;
            let control = open(memory, "memory.oom_control", OFlags::RDONLY).map_err(failed("open", "oom_control"))?;
            let event =
                eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed("eventfd", "memory"))?;
            let pair = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            write(memory, "cgroup.event_control", &pair).map_err(failed("write", "cgroup.event_control"))?;
            let memory = rustix::io::fcntl_dupfd_cloexec(memory, 3).map_err(failed("dup", "memory"))?;
            return Ok(Some(OutOfMemory::Legacy(event, memory)));
        }
        match open(self.directory(), "memory.events", OFlags::RDONLY) {
            Ok(events) => Ok(Some(OutOfMemory::Unified(events, self.oom_kills()))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("open", "memory.events")(errno)),
        }
    }
}

impl OutOfMemory {
    /// What to wait for.
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        match self {
            OutOfMemory::Legacy(event, _) => PollFd::from_borrowed_fd(event.as_fd(), PollFlags::IN),
            OutOfMemory::Unified(events, _) => PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI),
        }
    }

    /// How often it happened since the last look.
    pub(crate) fn take(&mut self, cgroup: &ContainerCgroup) -> u64 {
        match self {
            OutOfMemory::Legacy(event, memory) => {
                let mut count = [0u8; 8];
                let happened = rustix::io::read(event, &mut count).is_ok();
                let still_there = read(memory, "memory.oom_control").is_ok();
                if happened && still_there { u64::from_ne_bytes(count) } else { 0 }
            }
            OutOfMemory::Unified(events, seen) => {
                // Read through this descriptor, so that the next event is one after this.
                let mut text = [0u8; 512];
                let _ = rustix::io::pread(&*events, &mut text, 0);
                let killed = cgroup.oom_kills().max(*seen);
                let more = killed.saturating_sub(*seen);
                *seen = killed;
                more
            }
        }
    }
}

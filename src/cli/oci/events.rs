//! `events`: what a container uses, again and again or once, and when it runs out of memory: a JSON object a line, as runc prints it.
//!
//! It ends when the last process of the container has ended. Nothing is asked for again and again but the figures: both other things
//! are heard of by event.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use super::error::{OciError, call};
use crate::runtime::cgroup::{ContainerCgroup, OutOfMemory};
use crate::runtime::container::{ContainerError, StateRoot, Status};

#[derive(Debug, Args)]
pub struct Events {
    /// Which
    pub id: String,
    /// From one line of figures to the next
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = crate::cli::values::duration)]
    pub interval: Duration,
    /// One line of figures now
    #[arg(long)]
    pub stats: bool,
}

#[derive(Serialize)]
struct Event<'e, D: Serialize> {
    r#type: &'static str,
    id: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<D>,
}

/// Prints until the container ends, or once.
pub fn events(root: &StateRoot, events: &Events) -> Result<u8, OciError> {
    if events.interval.is_zero() {
        return Err(OciError::Value {
            what: "--interval",
            found: "0s".to_owned(),
            expected: "a duration above 0, as 5s or 500ms",
        });
    }
    let container = root.find(&events.id)?;
    let record = container.read_made()?.ok_or(ContainerError::Unknown)?;
    let not_running = || ContainerError::StatsOfStopped { id: events.id.clone() };
    if container.status(Some(&record)).0 == Status::Stopped {
        return Err(not_running().into());
    }
    let cgroup = record.need_cgroup("events")?.ok_or_else(not_running)?;
    if events.stats {
        return say_figures(&events.id, &cgroup).map(|()| 0);
    }
    follow(&events.id, &cgroup, events.interval)
}

fn follow(id: &str, cgroup: &ContainerCgroup, interval: Duration) -> Result<u8, OciError> {
    let populated = cgroup.events().map_err(ContainerError::from)?;
    let mut memory = cgroup.out_of_memory().map_err(ContainerError::from)?;
    let mut next = Instant::now() + interval;
    loop {
        // Before the wait: what happens from here on is an event.
        let ended = !is_populated(&populated);
        for _ in 0..memory.as_mut().map_or(0, |memory| memory.take(cgroup)) {
            say(&Event::<()> { r#type: "oom", id, data: None })?;
        }
        if ended {
            return Ok(0);
        }
        if Instant::now() >= next {
            say_figures(id, cgroup)?;
            next = Instant::now() + interval;
        }
        let left = next.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = vec![PollFd::from_borrowed_fd(populated.as_fd(), PollFlags::PRI)];
        fds.extend(memory.as_ref().map(OutOfMemory::poll_fd));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(call("wait for events")(errno)),
        }
    }
}

/// A cgroup that is gone has nobody in it either.
fn is_populated(events: &impl AsFd) -> bool {
    let mut text = [0u8; 256];
    let length = rustix::io::pread(events, &mut text, 0).unwrap_or(0);
    String::from_utf8_lossy(text.get(..length).unwrap_or_default()).lines().any(|line| line == "populated 1")
}

fn say_figures(id: &str, cgroup: &ContainerCgroup) -> Result<(), OciError> {
    say(&Event { r#type: "stats", id, data: Some(cgroup.statistics()) })
}

fn say(event: &impl Serialize) -> Result<(), OciError> {
    let line = serde_json::to_string(event).unwrap_or_default();
    Ok(crate::cli::print(&(line + "\n"))?)
}

//! What is done with a container that is there: look, start, kill, delete.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::ContainerError;
use super::directory::{Container, Process, Record};
use crate::oci::Rdt;
use crate::runtime::cgroup::{ContainerCgroup, Host, Location};
use crate::runtime::rdt::{self, RdtError};
use crate::runtime::{HookError, HostPid};
use crate::sys::pidfd::send_signal;
use crate::sys::stat::stat;

/// How long a killed process may take to end; one in uninterruptible sleep may not end at all.
const DYING: Duration = Duration::from_secs(10);
const SIGKILL: u8 = 9;

/// What a container is doing (runtime-spec, "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Waits for `start`.
    Created,
    /// Runs.
    Running,
    /// Made or started, and frozen.
    Paused,
    /// Does not run any more.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

impl Container {
    /// Its status, and its process if it lives.
    pub fn status(&self, record: Option<&Record>) -> (Status, Option<(HostPid, OwnedFd)>) {
        let Some((record, process)) = record.and_then(|record| Some((record, record.alive()?))) else {
            return (Status::Stopped, None);
        };
        let status = match (is_frozen(record), self.gate()) {
            (true, _) => Status::Paused,
            (false, Some(_)) => Status::Created,
            (false, None) => Status::Running,
        };
        (status, Some(process))
    }

    /// Freezes all its processes, and waits until they stand still. One that is frozen stays so.
    pub fn pause(&self) -> Result<(), ContainerError> {
        let _lock = self.lock()?;
        let record = self.read()?.ok_or(ContainerError::NotRunning)?;
        match self.status(Some(&record)).0 {
            Status::Created | Status::Running | Status::Paused => {}
            Status::Stopped => return Err(ContainerError::NotRunning),
        }
        let cgroup = record.need_cgroup("pause")?.ok_or(ContainerError::NotRunning)?;
        Ok(cgroup.freeze()?)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), ContainerError> {
        let _lock = self.lock()?;
        let record = self.read()?.ok_or(ContainerError::NotPaused)?;
        match self.status(Some(&record)).0 {
            Status::Paused => {}
            Status::Created | Status::Running | Status::Stopped => return Err(ContainerError::NotPaused),
        }
        let cgroup = cgroup_of(&record)?.ok_or(ContainerError::NotPaused)?;
        Ok(cgroup.thaw()?)
    }

    /// Lets the process execute its program.
    pub fn start(&self) -> Result<(), ContainerError> {
        let lock = self.lock()?;
        let record = self.read()?;
        match (self.status(record.as_ref()), self.gate()) {
            ((Status::Created, process), Some(gate)) => {
                let hooks =
                    record.as_ref().and_then(|record| record.hooks.as_ref()).filter(|hooks| hooks.follow_start());
                let started = hooks.map(|_| self.started()).transpose()?;
                self.open_gate(gate)?;
                // Hooks may look at the container, and join it.
                drop(lock);
                match (hooks, started, process) {
                    (Some(hooks), Some(started), Some((pid, _))) => self.follow(hooks, started, pid),
                    _ => Ok(()),
                }
            }
            ((Status::Stopped, _), _) => Err(ContainerError::HasStopped),
            ((Status::Paused, _), _) => Err(ContainerError::StartPaused),
            ((Status::Created | Status::Running, _), _) => Err(ContainerError::AlreadyRunning),
        }
    }

    /// Sends a signal to the first process, or to every process there is.
    pub fn kill(&self, signal: u8, all: bool) -> Result<(), ContainerError> {
        let record = self.read_made()?;
        let (_, process) = self.status(record.as_ref());
        // Without a cgroup the first process is known alone. With it all others in its pid namespace are killed.
        let is_alone = signal == SIGKILL && record.as_ref().is_some_and(|record| !record.has_cgroup());
        if all && !is_alone {
            return signal_all(record.as_ref(), signal, process.is_some());
        }
        let (_, pidfd) = process.ok_or(ContainerError::NotRunning)?;
        send_signal(pidfd.as_fd(), signal).map_err(|_| ContainerError::NotRunning)
    }

    /// Removes what is left of it; one that lives only with `force`, or before it was started. Which of its poststop hooks failed.
    ///
    /// They run when its processes and cgroups are gone and before its directory is: a deletion that is killed is done again, with its hooks.
    pub fn delete(&self, force: bool) -> Result<Vec<HookError>, ContainerError> {
        let _lock = self.lock()?;
        let record = self.read()?;
        let (status, process) = self.status(record.as_ref());
        // One that waits behind its gate is gone without a trace, frozen or not.
        if matches!(status, Status::Running | Status::Paused) && !force {
            return Err(ContainerError::NotStopped { id: self.id.clone(), status });
        }
        if let Some((_, pidfd)) = process {
            // It may have just ended.
            let _ = send_signal(pidfd.as_fd(), SIGKILL);
            if !wait_for_end(pidfd.as_fd()) {
                return Err(ContainerError::Undying { id: self.id.clone() });
            }
        }
        if let Some(cgroup) = record.as_ref().map(cgroup_of).transpose()?.flatten() {
            cgroup.kill()?;
            cgroup.remove()?;
        }
        remove_rdt(record.as_ref().and_then(|record| record.rdt.as_ref()))?;
        let failed = record.as_ref().and_then(|record| record.hooks.as_ref()).map(super::follow::poststop);
        self.remove().map(|()| failed.unwrap_or_default())
    }
}

/// What it had of its own in resctrl.
pub(super) fn remove_rdt(rdt: Option<&Rdt>) -> Result<(), RdtError> {
    match rdt.and_then(Rdt::removed) {
        Some(directory) => rdt::remove(&rdt::root()?, Some(&directory)),
        None => Ok(()),
    }
}

fn signal_all(record: Option<&Record>, signal: u8, alive: bool) -> Result<(), ContainerError> {
    let cgroup = record.map(|record| record.need_cgroup("kill --all")).transpose()?.flatten();
    let Some(cgroup) = cgroup else { return Err(ContainerError::NotRunning) };
    if !alive && cgroup.is_empty()? {
        return Err(ContainerError::NotRunning);
    }
    if signal == SIGKILL {
        cgroup.kill()?
    } else {
        cgroup.signal(signal)?
    }
    Ok(())
}

/// Whether its processes stand still. What cannot be looked at does not.
fn is_frozen(record: &Record) -> bool {
    cgroup_of(record).ok().flatten().is_some_and(|cgroup| cgroup.is_frozen())
}

/// The cgroups of a container, if there are any.
fn cgroup_of(record: &Record) -> Result<Option<ContainerCgroup>, ContainerError> {
    if !record.has_cgroup() {
        return Ok(None);
    }
    Ok(ContainerCgroup::open(&Host::detect()?, &record.cgroup)?)
}

impl Record {
    /// Its process, held, if it is still the recorded one and has not ended.
    pub fn alive(&self) -> Option<(HostPid, OwnedFd)> {
        let Process { pid, started_ticks: started } = self.process?;
        let pidfd = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
        // Looked at after it is held: what is read below is about the process behind the pidfd, or it has ended.
        let same = started_ticks(HostPid(pid)) == Some(started) && is_below(HostPid(pid), &self.cgroup);
        (same && !ended_within(pidfd.as_fd(), Duration::ZERO)).then_some((HostPid(pid), pidfd))
    }

    /// Whether it was made with cgroups: an ordinary user's may be without.
    pub fn has_cgroup(&self) -> bool {
        !self.cgroup.unified.is_empty()
    }

    /// Its cgroups, for `what`, which cannot be done without; `None` where they are gone.
    pub fn need_cgroup(&self, what: &str) -> Result<Option<ContainerCgroup>, ContainerError> {
        match self.has_cgroup() {
            true => cgroup_of(self),
            false => Err(ContainerError::NoCgroupFor { what: what.to_owned() }),
        }
    }

    /// Its cgroups, for a process that joins it.
    pub fn open_cgroup(&self) -> Result<Option<ContainerCgroup>, ContainerError> {
        cgroup_of(self)
    }
}

/// When it started, in clock ticks since boot.
pub(super) fn started_ticks(pid: HostPid) -> Option<u64> {
    stat(i32::try_from(pid.0).ok()?).map(|found| found.started_ticks)
}

/// Whether the process is in the container's v2 cgroup or in one below.
fn is_below(pid: HostPid, cgroup: &Location) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.0)).unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.and_then(|path| path.strip_prefix(&cgroup.unified))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Waits for a process that was killed; `false` when it does not end.
pub(super) fn wait_for_end(pidfd: BorrowedFd<'_>) -> bool {
    ended_within(pidfd, DYING)
}

/// A pidfd becomes readable when the whole process has ended (pidfd_open(2)).
fn ended_within(pidfd: BorrowedFd<'_>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) if ready > 0 => return true,
            Ok(_) if left.is_zero() => return false,
            Ok(_) | Err(_) => {}
        }
    }
}

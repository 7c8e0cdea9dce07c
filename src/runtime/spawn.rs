//! Making the process that runs a script.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::child;
use super::error::{ABANDONED, StepError};
use super::outside::Brought;
use super::slots::Slots;
use super::trampoline::{self, Trampoline};
use crate::oci::{Script, Step};
use crate::sys::clone::{Request, Side, clone3, leave};

/// A process as the host's pid namespace numbers it. It may be reused once the process is reaped: signals go through a
/// pidfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPid(pub u32);

/// A process that has been made and is setting itself up.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid.
    pub pid: HostPid,
    /// Its pidfd; close-on-exec.
    pub pidfd: OwnedFd,
}

/// Why a process could not be set up, as it says through the report pipe (postcard).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Index of the step.
    pub step: u16,
    /// What the kernel said; 0 where it did not.
    pub errno: i32,
    /// Both in words.
    pub text: String,
    /// It is the program itself that cannot be found or executed.
    pub program: bool,
}

/// The process could not be made at all.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No process, or no pipe.
    #[error("clone a process for the container: {0}")]
    Clone(#[source] std::io::Error),
    /// What is done for it from outside.
    #[error("{}", .0.text)]
    Outside(Failure),
    /// That takes too long.
    #[error(
        "the helper that was to make the container's process was not done in {} s and killed: a path of the host's may hang (a mount \
         of a network file system?)", super::helper::KEEPERS_PATIENCE.as_secs()
    )]
    Late,
    /// Whoever was to do that.
    #[error("the helper that was to make the container's process was killed")]
    Killed,
}

impl SpawnError {
    /// What the kernel said, 0 where it did not.
    pub fn errno(&self) -> i32 {
        match self {
            SpawnError::Clone(error) => error.raw_os_error().unwrap_or(0),
            SpawnError::Outside(failure) => failure.errno,
            SpawnError::Late | SpawnError::Killed => 0,
        }
    }
}

/// Clones a process that executes the script, and returns at once. It is the caller's child and is born in the cgroup
/// of the slots.
///
/// The caller must have one thread. The slots are closed here. `prepare` is called first in the new process. For a few containers
/// ([`Outside`](crate::oci::Outside)) somebody else makes it, whom this waits for. Without a trampoline the
/// caller's executable must be one that nobody can write.
pub fn spawn(
    script: &Script,
    slots: Slots,
    trampoline: Option<Trampoline>,
    prepare: impl FnOnce(),
) -> Result<Spawned, SpawnError> {
    spawn_within(script, slots, trampoline, None, prepare)
}

/// The same, with an end to the patience with that somebody else.
pub(super) fn spawn_within(
    script: &Script,
    slots: Slots,
    trampoline: Option<Trampoline>,
    patience: Option<Duration>,
    prepare: impl FnOnce(),
) -> Result<Spawned, SpawnError> {
    if !script.outside.is_empty() {
        return super::outside::spawn(script, slots, trampoline, patience, prepare);
    }
    let cgroup = slots.cgroup.as_ref().map(AsFd::as_fd);
    let namespaces = if script.new_pid_namespace { libc::CLONE_NEWPID as u64 } else { 0 };
    let request = Request { namespaces, cgroup, sibling: false, pidfd: true };
    match clone3(&request).map_err(SpawnError::Clone)? {
        Side::Child => {
            prepare();
            child::run(script, slots, trampoline, Brought::default())
        }
        Side::Parent { pid, pidfd: Some(pidfd) } => Ok(Spawned { pid: HostPid(pid as u32), pidfd }),
        Side::Parent { pidfd: None, .. } => Err(SpawnError::Clone(std::io::ErrorKind::Unsupported.into())),
    }
}

/// The same for a cgroup in which everything was killed once (`cgroup.kill`): Linux 6.18 kills what is cloned into it from elsewhere, as if it had been
/// forked there meanwhile. So the process is born in the caller's, and moves.
pub fn spawn_into_killed(script: &Script, slots: Slots, prepare: impl FnOnce()) -> Result<Spawned, SpawnError> {
    if !script.outside.is_empty() {
        return super::outside::spawn(script, slots, None, Some(super::helper::KEEPERS_PATIENCE), prepare);
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs = slots.cgroup.as_ref().map(|directory| openat(directory, "cgroup.procs", flags, Mode::empty()));
    let procs = procs.transpose().map_err(|errno| SpawnError::Clone(errno.into()))?;
    let namespaces = if script.new_pid_namespace { libc::CLONE_NEWPID as u64 } else { 0 };
    let request = Request { namespaces, cgroup: None, sibling: false, pidfd: true };
    match clone3(&request).map_err(SpawnError::Clone)? {
        Side::Child => {
            prepare();
            // "0" is whoever writes it.
            if procs.is_some_and(|procs| rustix::io::write(&procs, b"0").is_err()) {
                leave(127)
            }
            child::run(script, slots, None, Brought::default())
        }
        Side::Parent { pid, pidfd: Some(pidfd) } => Ok(Spawned { pid: HostPid(pid as u32), pidfd }),
        Side::Parent { pidfd: None, .. } => Err(SpawnError::Clone(std::io::ErrorKind::Unsupported.into())),
    }
}

impl Failure {
    /// The largest report that is read.
    pub const MAX_BYTES: usize = 8192;

    /// Of this step.
    pub(super) fn new(index: usize, step: &Step, error: &StepError) -> Failure {
        let program = matches!(step, Step::FindProgram { .. } | Step::Execute { .. });
        // Those speak to people who know runc, and a hook of the unit names itself: no prefix.
        let of_unit = matches!(step, Step::HostStart(_) | Step::OwnStart { .. });
        let text = if program || of_unit { error.to_string() } else { format!("{step}: {error}") };
        Failure { step: index as u16, errno: error.errno(), text, program }
    }

    /// Whether it is not the container's, which was never begun in earnest: whoever was to make its cgroups died meanwhile.
    pub fn is_abandoned(&self) -> bool {
        self.errno == ABANDONED
    }

    /// What a shell, docker and podman exit with: 127 for a program that is not there, 126 for one that cannot be executed, 125 where
    /// it did not come to that.
    pub fn code(&self) -> u8 {
        match (self.program, self.errno) {
            (true, libc::ENOENT) => 127,
            (true, _) => 126,
            (false, _) => 125,
        }
    }

    /// Reads what comes from a process that reports by itself, without a trampoline, to its end.
    pub(super) fn read_plain(report: OwnedFd) -> std::io::Result<Option<Failure>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::from(report).take(Failure::MAX_BYTES as u64).read_to_end(&mut bytes)?;
        Ok(postcard::from_bytes(&bytes).ok())
    }

    /// Reads the report pipe of a process that executes this script to its end, waiting as long as the process takes. `None` means that
    /// the program runs, or that the process was killed before it could say anything: only its exit status tells these apart.
    pub fn read(report: OwnedFd, script: &Script) -> Option<Failure> {
        use std::io::Read;
        let mut bytes = Vec::new();
        let limit = Failure::MAX_BYTES as u64;
        std::fs::File::from(report).take(limit).read_to_end(&mut bytes).ok()?;
        trampoline::failure(&bytes, script).or_else(|| postcard::from_bytes(&bytes).ok())
    }
}

//! Containers without a supervisor, as `moored oci` has them: one command makes one, others find it again.
//!
//! What is known of a container between two commands is its directory `ROOT/ID` (0700):
//!
//! | file | holds | written |
//! |---|---|---|
//! | `config.json` | the bundle's text as it was at `create` | first |
//! | `state.json` | a [`Record`] | before the cgroups are made, and again when the process is there |
//! | `exec.fifo` | the gate: the process waits for a byte in it | before the process is made; not by `run` |
//! | `start.fifo` | what the process says behind the gate | likewise, where hooks follow `start` |
//!
//! # Status
//!
//! | status | what is so |
//! |---|---|
//! | created | the process lives and has the gate open for reading |
//! | running | the process lives |
//! | paused | the process lives, and its cgroup is frozen (before or after `start`) |
//! | stopped | it does not, or it was never recorded |
//!
//! It is looked up, not written down, so no crash can make it wrong. The process is the recorded one if its start time *and* its cgroup
//! are those of the record; it is held by a pidfd before either is looked at.
//!
//! # Killed in between
//!
//! Making the directory claims the id. A command that dies before the process is ready takes it along (the process dies with its parent
//! until then); what is left is a record that names the cgroups, from which `delete` kills and removes what there is.
//! The container is locked until the process is set up, so that nothing joins it while it still has the host's mounts. Without a gate its
//! program may run, and be heard of, before the record names it: who finds no process in the record waits for the lock and looks again.

mod change;
mod directory;
mod follow;
mod launch;
mod operate;

pub use change::Change;
pub use directory::{Container, Lock, Process, Record, StateRoot};
pub use launch::{Launch, Launched};
pub use operate::Status;

use std::path::PathBuf;

use super::cgroup::CgroupError;

/// Why a command on a container failed. The texts are those that clients of runc match on.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// An id that could not be a file name of ours.
    #[error("invalid container ID format: {id:?}: expected letters, digits and _ + - . only, at most 1024")]
    BadId {
        /// As it was given.
        id: String,
    },
    /// The id is taken.
    #[error("container with given ID already exists")]
    Exists,
    /// No such directory.
    #[error("container does not exist")]
    Unknown,
    /// What is in there may be somebody else's.
    #[error("{}: owned by uid {uid} with mode {mode:o}: chown it to root and chmod it to 0700", .path.display())]
    NotOurs {
        /// Which directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// `start` on a container that runs.
    #[error("cannot start an already running container")]
    AlreadyRunning,
    /// `start` on one that ended.
    #[error("cannot start a container that has stopped")]
    HasStopped,
    /// `start` on one that is frozen.
    #[error("cannot start a container in the paused state")]
    StartPaused,
    /// `exec` in one that is frozen.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecInPaused,
    /// `resume` on one that is not frozen.
    #[error("container not paused")]
    NotPaused,
    /// `exec` in one that ended.
    #[error("cannot exec in a stopped container")]
    ExecInStopped,
    /// `kill` on one that ended.
    #[error("container not running")]
    NotRunning,
    /// `events` of one that ended.
    #[error("container with id {id} is not running")]
    StatsOfStopped {
        /// Which.
        id: String,
    },
    /// `delete` without `--force`.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped {
        /// Which.
        id: String,
        /// What it is.
        status: Status,
    },
    /// It was killed and does not go.
    #[error("container {id} was killed and does not end")]
    Undying {
        /// Which.
        id: String,
    },
    /// The process said which step failed.
    #[error("{0}")]
    Setup(String),
    /// A hook that follows the start failed.
    #[error("{0}: the container was stopped and deleted")]
    Hook(#[from] super::HookError),
    /// It was gone before it could say anything.
    #[error("the container's process was killed while it set itself up{}", if *.oom { ": its memory limit is too low" } else { "" })]
    KilledInSetup {
        /// For lack of memory.
        oom: bool,
    },
    /// A container that an ordinary user made has no cgroup.
    #[error("{what} needs a cgroup, which its user may not make here")]
    NoCgroupFor {
        /// A field of config.json, or a command.
        what: String,
    },
    /// Cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A group of resctrl.
    #[error(transparent)]
    Rdt(#[from] super::rdt::RdtError),
    /// Other schemata for a container that has no group.
    #[error("{option} needs a container with linux.intelRdt, which this one is without")]
    NoRdt {
        /// What was given.
        option: &'static str,
    },
    /// No process.
    #[error(transparent)]
    Spawn(#[from] super::SpawnError),
    /// The record does not read.
    #[error("{}: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A file or directory of the container's.
    #[error("{call} {}: {source}", path.display())]
    File {
        /// What was tried.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A call that is about no file.
    #[error("{call}: {source}")]
    Call {
        /// Which.
        call: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn file(call: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> ContainerError {
    let path = path.into();
    move |source| ContainerError::File { call, path, source }
}

fn call<E: Into<std::io::Error>>(call: &'static str) -> impl FnOnce(E) -> ContainerError {
    move |source| ContainerError::Call { call, source: source.into() }
}

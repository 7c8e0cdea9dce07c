//! The supervisor's side: [`Requests`] to send from its loop, [`Events`] to receive on a thread of their own.
//!
//! Requests have no answers. What comes of them is an [`Event`]: a child's state, or `Refused`. Events are newest state,
//! not history: an exit may be the first that is heard of a container, and the same state may be heard twice.
//!
//! # What the supervisor does
//!
//! 1. On [`Event::Welcome`] (the first, and again whenever the keeper died and another took its place): forget what was
//!    asked and not yet answered. Then come a `Child` with tag and descriptors for each container the keeper knows, a
//!    `Held` for each name, an `Orphan` for each child of a dead keeper, and `Synced`.
//! 2. On [`Event::Synced`]: adopt what is known and was not among the children ([`Requests::adopt`]; a living supervisor
//!    has pidfd, tag and descriptors; a new one finds the orphan by its cgroup), hold again what was held by name, then
//!    [`Requests::adoption_done`]. This is due after every `Welcome`, also when there was nothing to adopt.
//! 3. From then on: `spawn`; on `Exited` drain the pipes, record, then [`Requests::ack`].
//! 4. On [`Event::Stop`], or `stats.stopping` in a `Welcome`: stop all in order, once; then [`Requests::finish`] and exit.
//! 5. When [`Events::next`] says [`ClientError::Gone`] or [`ClientError::Denied`]: exit, and stop nothing. No parent is
//!    left to serve, or another supervisor serves it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use super::wire::{ChildState, Kind, Orphan, Refusal, Stats};

/// Why there is no keeper to talk to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket: keeper and anchor are gone.
    #[error("no keeper listens on {path}: {errno}")]
    Gone {
        /// The socket.
        path: std::path::PathBuf,
        /// What connecting said.
        errno: rustix::io::Errno,
    },
    /// The keeper does not take us in this role.
    #[error("the keeper refused the connection: {}{}", std::io::Error::from_raw_os_error(*errno), pid.map(|p| format!(" (pid {p} has the place)")).unwrap_or_default())]
    Denied {
        /// EBUSY, EPERM or EPROTO.
        errno: i32,
        /// Who has the place.
        pid: Option<i32>,
    },
    /// The request is beyond the bounds of the protocol; nothing was sent.
    #[error(transparent)]
    Wire(#[from] super::wire::WireError),
    /// The socket failed in a way that is no death of the keeper.
    #[error("talking to the keeper: {0}")]
    Socket(rustix::io::Errno),
}

/// One container or exec to fork.
#[derive(Debug, Clone, Copy)]
pub struct Spawn<'a> {
    /// Opaque, at most [`super::ID_BYTES_MAX`] bytes, never used twice.
    pub id: &'a str,
    /// What it is.
    pub kind: Kind,
    /// Opaque, at most [`super::TAG_BYTES_MAX`] bytes.
    pub tag: &'a [u8],
    /// A memfd sealed against writing, growing and shrinking, at most [`super::PAYLOAD_BYTES_MAX`] long.
    pub payload: BorrowedFd<'a>,
    /// The payload's slots, in its order.
    pub slots: &'a [BorrowedFd<'a>],
    /// What the keeper holds until [`Requests::ack`] (read ends of stdio and report), at most [`super::CHILD_HELD_MAX`].
    pub held: &'a [BorrowedFd<'a>],
}

/// What the keeper says.
#[derive(Debug)]
pub enum Event {
    /// A keeper begins to tell what it knows. See the module's step 1.
    Welcome(Stats),
    /// The newest state of a container or exec.
    Child(Child),
    /// A child of a dead keeper. See the module's step 2.
    Orphan(Orphan),
    /// A descriptor held by name. At connect only.
    Held {
        /// Its name.
        name: String,
        /// A duplicate.
        fd: OwnedFd,
    },
    /// All that was there at the `Welcome` is said.
    Synced,
    /// A request was not done. The record of that id, if there is one, is as it was: do not acknowledge it for this.
    Refused(Refusal),
    /// Begin the ordered stop.
    Stop,
    /// Asked for, or who controls us changed (`spare`, `anchor`).
    Stats(Stats),
}

/// The newest state of a container or exec.
#[derive(Debug)]
pub struct Child {
    /// As spawned.
    pub id: String,
    /// As spawned.
    pub kind: Kind,
    /// Its pid; 0 if it failed. Not to be signalled by number: use `pidfd`.
    pub pid: i32,
    /// Where it stands.
    pub state: ChildState,
    /// There whenever the state is `Running`.
    pub pidfd: Option<OwnedFd>,
    /// There after `Welcome` and [`Requests::report`] only.
    pub full: Option<Full>,
}

/// What the keeper holds for a child.
#[derive(Debug)]
pub struct Full {
    /// As spawned or set.
    pub tag: Vec<u8>,
    /// Duplicates of the held descriptors by their position at `spawn`; `None` where released.
    pub held: Vec<Option<OwnedFd>>,
}

/// Sends. One thread; blocks only while the keeper is busy and its socket full.
///
/// A request to a keeper that just died is lost, and `Ok`: the `Welcome` of the next one says so.
#[derive(Debug)]
pub struct Requests {}

/// Receives. One thread of its own; blocks.
#[derive(Debug)]
pub struct Events {}

/// Connects to the keeper of `run_dir` as its supervisor.
pub fn connect(run_dir: &Path) -> Result<(Requests, Events), ClientError> {
    let _ = run_dir;
    unimplemented!()
}

impl Events {
    /// The next event. Reconnects by itself when the keeper died. Not an iterator: an error is the end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Event, ClientError> {
        unimplemented!()
    }
}

#[allow(unused_variables)]
impl Requests {
    /// Forks. Answer: `Child` `Running` or `Failed`, or `Refused`.
    pub fn spawn(&self, spawn: &Spawn<'_>) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// Takes a child of a dead keeper, by pid of an [`Event::Orphan`] or with the pidfd it was announced with. Answer: as
    /// for `spawn`; `Refused` ECHILD means that its exit cannot be known any more.
    pub fn adopt(
        &self,
        id: &str,
        kind: Kind,
        tag: &[u8],
        pid: i32,
        pidfd: Option<BorrowedFd<'_>>,
        held: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// The exit or failure is recorded: the keeper may forget it. No answer.
    pub fn ack(&self, id: &str) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// Replaces the tag. No answer.
    pub fn set_tag(&self, id: &str, tag: &[u8]) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// Closes the keeper's held descriptor at `position`. No answer.
    pub fn release(&self, id: &str, position: u8) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// Asks for the child with tag and descriptors. Answer: `Child`.
    pub fn report(&self, id: &str) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// Keeps a descriptor under a name for the next supervisor; replaces one of that name. No answer.
    pub fn hold(&self, name: &str, fd: BorrowedFd<'_>) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// Closes a held descriptor. No answer.
    pub fn unhold(&self, name: &str) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// This supervisor is up and has adopted what it knows. Due after every `Welcome`.
    pub fn adoption_done(&self) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// Begins the ordered stop as a signal to the anchor would (`moored down`). Answer: `Stop`.
    pub fn stop(&self) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// No supervisor is needed after this one. Without `leave_running` the keeper ends when all children are gone.
    pub fn finish(&self, leave_running: bool) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// Asks for figures. Answer: `Stats`.
    pub fn stats(&self) -> Result<(), ClientError> {
        unimplemented!()
    }
}

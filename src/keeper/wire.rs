//! Messages between the keeper and the supervisor, the anchor and observers: postcard in one `SOCK_SEQPACKET` packet
//! each, descriptors beside them in the order the message says.
//!
//! What is new goes behind what is there: another variant, never another field. So a process of another build says nothing that is
//! misunderstood; a message that does not decode is left out by whom the keeper says it to.

use serde::{Deserialize, Serialize};

use super::{CHILD_HELD_MAX, ID_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGE_FDS_MAX, TAG_BYTES_MAX, TEXT_BYTES_MAX};

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The child the keeper started to decide things. One at a time.
    Supervisor,
    /// The process somebody started: forwards the ordered stop and waits for the end. One at a time.
    Anchor,
    /// Asks for [`Stats`].
    Observer,
}

/// What a spawned process is. The keeper treats both alike and tells the spawner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A container's init.
    Container,
    /// A process that joins a container: exec session, probe, hook.
    Exec,
}

/// How a process ended, as `waitid` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// A signal killed it.
    Signal {
        /// The signal's number, real-time ones included.
        signal: u8,
        /// Whether a core was dumped.
        core: bool,
    },
}

/// What the keeper knows of a container or exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChildState {
    /// It lives.
    Running,
    /// It could not be forked. Kept until `Ack`.
    Failed {
        /// The system's error number.
        errno: i32,
        /// Which step failed.
        text: String,
    },
    /// It ended. Kept until `Ack`.
    Exited {
        /// How.
        exit: Exit,
        /// When the keeper saw it, in nanoseconds of `CLOCK_BOOTTIME`.
        at_ns: u64,
    },
}

/// Figures of the keeper, for `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The process that is the containers' parent.
    pub keeper: i32,
    /// The supervisor it started, if one lives.
    pub supervisor: Option<i32>,
    /// The process that forwards signals, if one lives: the anchor, or a later `moored up` that took over.
    pub anchor: Option<i32>,
    /// Whether somebody would take the keeper's place: the anchor lives and is the keeper's parent.
    pub spare: bool,
    /// Whether an ordered stop was asked for.
    pub stopping: bool,
    /// Whether unknown children wait for `AdoptionDone`.
    pub adopting: bool,
    /// No supervisor has come up here yet, and none before a takeover did: what records tell of was forked by somebody else.
    pub fresh: bool,
    /// Containers and execs not yet forgotten.
    pub children: u32,
    /// Of those, the ones that wait for `Ack`.
    pub unacknowledged: u32,
    /// Descriptors held by name.
    pub held: u32,
    /// How often the supervisor was started, the first time included.
    pub supervisor_starts: u32,
    /// The keeper's `oom_score_adj` (-900 where the capability for it is there).
    pub oom_score_adj: i32,
}

/// What is asked of the keeper. Descriptors in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Must come first.
    Hello {
        /// [`super::VERSION`].
        version: u16,
        /// Who this is.
        role: Role,
    },
    /// Fork what the payload says. Descriptors: payload, slots, held.
    Spawn {
        /// Opaque, unique until acknowledged.
        id: String,
        /// What it is.
        kind: Kind,
        /// Opaque, given back with the child.
        tag: Vec<u8>,
        /// How many descriptors the payload's slots take; closed in the keeper after the fork.
        slots: u8,
        /// How many descriptors are kept until `Ack`.
        held: u8,
    },
    /// A child of a keeper that died. Descriptors: pidfd if `pidfd`, held.
    Adopt {
        /// As in `Spawn`.
        id: String,
        /// As in `Spawn`.
        kind: Kind,
        /// As in `Spawn`.
        tag: Vec<u8>,
        /// Its pid; must be an unreaped child of the keeper.
        pid: i32,
        /// Whether a pidfd is there to check the pid against.
        pidfd: bool,
        /// As in `Spawn`; bit n set: position n has a descriptor.
        held: u32,
    },
    /// The exit or failure is recorded: reap, close, forget.
    Ack {
        /// Whose.
        id: String,
    },
    /// Replaces the tag.
    SetTag {
        /// Whose.
        id: String,
        /// The new one.
        tag: Vec<u8>,
    },
    /// Closes one held descriptor of a child.
    Release {
        /// Whose.
        id: String,
        /// Its position among the held ones at `Spawn`.
        position: u8,
    },
    /// Say all of this child again, with tag and descriptors.
    Report {
        /// Whose.
        id: String,
    },
    /// Keep one descriptor under a name, across supervisors. Replaces one of the same name.
    Hold {
        /// Opaque.
        name: String,
    },
    /// Close it.
    Unhold {
        /// Opaque.
        name: String,
    },
    /// The supervisor is up: what it did not adopt is nobody's.
    AdoptionDone,
    /// Begin the ordered stop.
    Stop,
    /// The supervisor needs no successor: end when it and all children are gone.
    Finish {
        /// Children stay; the keeper waits for a later `moored up`.
        leave_running: bool,
    },
    /// Ask for [`Stats`].
    Stats,
    /// Say again what this child has said over its notify socket up to now.
    Hear {
        /// Whose.
        id: String,
    },
    /// The anchor or the supervisor says which moored it is.
    Build {
        /// [`super::build`].
        build: String,
        /// By the anchor: its program was just replaced, as [`Message::Replace`] asked for.
        resumed: bool,
    },
    /// By the anchor: its program could not be replaced.
    NotReplaced {
        /// Why.
        text: String,
    },
    /// Ask for [`Builds`].
    Builds,
    /// Replace all three. Descriptor: the program, in a memfd that is sealed.
    Upgrade,
}

/// What the keeper says. Descriptors in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Answer to `Hello`.
    Welcome {
        /// Figures.
        stats: Stats,
    },
    /// One container or exec. Descriptors: pidfd if running, held.
    Child {
        /// Whose.
        id: String,
        /// What it is.
        kind: Kind,
        /// Its pid, 0 if it failed.
        pid: i32,
        /// Where it stands.
        state: ChildState,
        /// In full reports only.
        tag: Option<Vec<u8>>,
        /// In full reports only; bit n set: position n has a descriptor.
        held: Option<u32>,
    },
    /// A child of the dead keeper that nobody has adopted yet.
    Orphan(Orphan),
    /// One descriptor held by name; to an anchor: hold a copy of it.
    Held {
        /// Its name.
        name: String,
    },
    /// All there was at `Hello` is said.
    Synced,
    /// A request was not done, and nothing was changed.
    Refused(Refusal),
    /// Begin the ordered stop.
    Stop,
    /// Figures.
    Stats(Stats),
    /// The connection is not accepted, and ends.
    Denied {
        /// EBUSY: another has the role; EPERM: not who it says; EPROTO: not this version.
        errno: i32,
        /// Who has the role, if somebody has.
        pid: Option<i32>,
    },
    /// For the anchor: all is done, leave with this code.
    Ended {
        /// For the shell.
        code: u8,
        /// Whether the keeper stays, with what still runs.
        stays: bool,
    },
    /// All that a container has said over its notify socket, as far as it counts.
    Said {
        /// Whose.
        id: String,
        /// The newest of each kind, oldest first.
        lines: Vec<Line>,
        /// To a `Hear`: nothing that was sent before that is missing.
        answers: bool,
    },
    /// Asked for, or to a supervisor that has said its own, whenever one is said.
    Builds(Builds),
    /// For the anchor: execute this program. Descriptor: the program.
    Replace,
    /// To an `Upgrade`: how it ended. The connection ends.
    Upgraded {
        /// What was not done, and why.
        trouble: Option<String>,
        /// What runs now.
        builds: Builds,
    },
    /// For the anchor: hold this no longer.
    Unheld {
        /// Its name.
        name: String,
    },
}

/// Which moored runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builds {
    /// The anchor, if one lives and has said it.
    pub anchor: Option<String>,
    /// The keeper.
    pub keeper: String,
    /// The supervisor, if one lives and has said it.
    pub supervisor: Option<String>,
    /// The path that `moored up` was started from; empty if it is not known.
    pub program: Vec<u8>,
}

/// One line of a message by sd_notify(3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// `READY=1`. From the container: to be trusted in nothing but its length.
    pub text: String,
    /// When the keeper read it, in nanoseconds of `CLOCK_BOOTTIME`.
    pub at_ns: u64,
}

/// A child of the dead keeper that nobody has adopted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Its pid; it cannot be another's before `AdoptionDone`.
    pub pid: i32,
    /// Its path in the v2 hierarchy (`0::` of `/proc/PID/cgroup`), `None` if unreadable. A zombie has one too.
    pub cgroup: Option<String>,
    /// Start time, in clock ticks since boot: a container's init is older than what else it left to us.
    pub started_ticks: u64,
}

/// A request that was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The request's name.
    pub request: String,
    /// The id or name it was about.
    pub id: String,
    /// EEXIST: live or unacknowledged; ENOENT: not known; ENOSPC: a bound; EINVAL, ECHILD, EBUSY, EPERM.
    pub errno: i32,
}

/// Why bytes are no message, or a message cannot be bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Too long for [`MESSAGE_BYTES_MAX`], or not to be encoded.
    #[error("the message exceeds {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// Not what this version sends.
    #[error("the message does not decode")]
    Malformed,
    /// Bytes after the message.
    #[error("the message has bytes after its end")]
    Trailing,
    /// A field beyond its bound.
    #[error("the message's {0} exceeds its bound")]
    Bound(&'static str),
    /// Not as many descriptors as it says.
    #[error("the message says {said} descriptors and brings {came}")]
    Descriptors {
        /// By the message.
        said: usize,
        /// Beside it.
        came: usize,
    },
}

/// One packet's bytes.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let bytes = postcard::to_stdvec(message).map_err(|_| WireError::TooLong)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    Ok(bytes)
}

/// Reads one packet's bytes; every field is within its bound and `fds` descriptors came with it.
pub fn decode_request(bytes: &[u8], fds: usize) -> Result<Request, WireError> {
    let request: Request = decode(bytes)?;
    request.check(fds)?;
    Ok(request)
}

/// Reads one packet's bytes. The keeper is trusted to keep the bounds.
pub fn decode_message(bytes: &[u8]) -> Result<Message, WireError> {
    decode(bytes)
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|_| WireError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(WireError::Trailing) }
}

impl Request {
    /// Its name, the id or name it is about, and its tag.
    pub(crate) fn subject(&self) -> (&'static str, &str, &[u8]) {
        match self {
            Request::Hello { .. } => ("hello", "", &[]),
            Request::Spawn { id, tag, .. } => ("spawn", id, tag),
            Request::Adopt { id, tag, .. } => ("adopt", id, tag),
            Request::Ack { id } => ("ack", id, &[]),
            Request::SetTag { id, tag } => ("set-tag", id, tag),
            Request::Release { id, .. } => ("release", id, &[]),
            Request::Report { id } => ("report", id, &[]),
            Request::Hold { name } => ("hold", name, &[]),
            Request::Unhold { name } => ("unhold", name, &[]),
            Request::AdoptionDone => ("adoption-done", "", &[]),
            Request::Stop => ("stop", "", &[]),
            Request::Finish { .. } => ("finish", "", &[]),
            Request::Stats => ("stats", "", &[]),
            Request::Hear { id } => ("hear", id, &[]),
            Request::Build { .. } => ("build", "", &[]),
            Request::NotReplaced { .. } => ("not-replaced", "", &[]),
            Request::Builds => ("builds", "", &[]),
            Request::Upgrade => ("upgrade", "", &[]),
        }
    }

    /// How many descriptors must come with it, and how many of them the keeper would hold.
    fn descriptors(&self) -> (usize, usize) {
        match self {
            Request::Spawn { slots, held, .. } => {
                let held = usize::from(*held);
                (usize::from(*slots).saturating_add(held).saturating_add(1), held)
            }
            Request::Adopt { pidfd, held, .. } => {
                let held = held.count_ones() as usize;
                (held.saturating_add(usize::from(*pidfd)), held)
            }
            Request::Hold { .. } | Request::Upgrade => (1, 0),
            Request::Hello { .. }
            | Request::Ack { .. }
            | Request::SetTag { .. }
            | Request::Release { .. }
            | Request::Report { .. }
            | Request::Unhold { .. }
            | Request::AdoptionDone
            | Request::Stop
            | Request::Finish { .. }
            | Request::Stats
            | Request::Hear { .. }
            | Request::Build { .. }
            | Request::NotReplaced { .. }
            | Request::Builds => (0, 0),
        }
    }

    /// Whether every field is within its bound and `came` descriptors are as many as it needs.
    pub(crate) fn check(&self, came: usize) -> Result<(), WireError> {
        let (_, id, tag) = self.subject();
        if id.len() > ID_BYTES_MAX {
            return Err(WireError::Bound("id"));
        }
        if tag.len() > TAG_BYTES_MAX {
            return Err(WireError::Bound("tag"));
        }
        if let Request::Build { build: text, .. } | Request::NotReplaced { text } = self
            && text.len() > TEXT_BYTES_MAX
        {
            return Err(WireError::Bound("text"));
        }
        let (said, held) = self.descriptors();
        if said > MESSAGE_FDS_MAX || held > CHILD_HELD_MAX {
            return Err(WireError::Bound("number of descriptors"));
        }
        if let Request::Adopt { held, .. } = self
            && held.checked_shr(CHILD_HELD_MAX as u32).unwrap_or(0) != 0
        {
            return Err(WireError::Bound("positions of held descriptors"));
        }
        if said == came { Ok(()) } else { Err(WireError::Descriptors { said, came }) }
    }
}

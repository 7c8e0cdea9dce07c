//! What the loop hands over to the hands: each job with all that it needs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::adopt::Unlisted;
use super::session::SessionJob;
use super::unit_hooks::HookJob;
use crate::keeper;
use crate::plan::{Limits, Run};
use crate::unit::{CheckKind, ContainerId, Health, Listen, Reload, Signal, SourceFacts, SwapMark, Unit, UnitName};

/// What the hands are to do.
pub enum Job {
    /// The keeper says something.
    Keeper(keeper::Event),
    /// The keeper is gone for good.
    KeeperGone(keeper::ClientError),
    /// Make the cgroup and the pipes, spawn.
    Start(Box<StartJob>),
    /// Send the stop signal, unless pid 1 of the container would ignore it.
    Stop(ContainerId, Option<Signal>),
    /// Kill the whole cgroup.
    Kill(ContainerId),
    /// Send a signal to pid 1 of the container.
    Signal(ContainerId, Signal),
    /// Tell it to reload.
    Reload(Box<ReloadJob>),
    /// Run a hook of its unit.
    Hook(Box<HookJob>),
    /// Ask the keeper for what it said last.
    Hear(ContainerId),
    /// Ask it whether it is well.
    Probe(Box<ProbeJob>),
    /// Ask it nothing more.
    ProbeNothing(ContainerId),
    /// Kill the program of a probe.
    EndProbe(u64),
    /// Write other limits into its cgroup.
    Limit(Box<LimitJob>),
    /// Swap in the contents of its files.
    Swap(Box<SwapJob>),
    /// Listen no more at these addresses of a unit.
    Close(UnitName, BTreeSet<Listen>),
    /// Acknowledge, remove cgroup and FIFOs.
    Clear(ContainerId),
    /// Find out what is left of a generation whose end is known.
    Look(ContainerId),
    /// Find out about a generation that is live by the records, and was not in the keeper's list.
    Settle(Box<Unlisted>),
    /// All that was known is adopted: for the keeper of this connection.
    AdoptionDone(keeper::Connection),
    /// Run a process inside, for a client.
    Session(Box<SessionJob>),
    /// The client of a session of an earlier supervisor's has come back.
    Attach {
        /// Which.
        session: String,
        /// To whom it is told how it ends.
        reply: crate::control::Reply,
    },
    /// Give a client the terminal of a unit.
    Terminal(Box<super::terminal::AttachJob>),
    /// A client of a session, or of a terminal, went away.
    SessionGone(crate::control::ClientId),
    /// Fill in what a container uses, and its log, and answer.
    Status(Box<super::usage::StatusJob>),
    /// Other limits for a unit's log.
    LogLimits(crate::unit::UnitName, crate::unit::Log),
    /// Begin the ordered stop at the keeper, so that it outlives this process.
    StopKeeper,
    /// This supervisor needs no successor.
    Finish {
        /// Containers stay.
        leave_running: bool,
        /// Answered when it is said.
        done: Sender<()>,
    },
}

/// All that a start needs.
pub struct StartJob {
    /// Which generation.
    pub id: ContainerId,
    /// What to run.
    pub unit: Arc<Unit>,
    /// Its source.
    pub facts: Arc<SourceFacts>,
    /// For the keeper's tag.
    pub run: Run,
}

/// All that a reload needs.
pub struct ReloadJob {
    /// Which generation.
    pub id: ContainerId,
    /// By which means.
    pub how: Reload,
    /// For a command that runs inside.
    pub unit: Arc<Unit>,
    /// Its source.
    pub facts: Arc<SourceFacts>,
}

/// All that asking needs.
pub struct ProbeJob {
    /// Which generation.
    pub id: ContainerId,
    /// Its checks.
    pub health: Arc<Health>,
    /// Those that are asked; `true`: there is a verdict already.
    pub asked: Vec<(CheckKind, bool)>,
    /// For programs that run inside.
    pub unit: Arc<Unit>,
    /// Its source.
    pub facts: Arc<SourceFacts>,
}

/// All that a change of limits needs.
pub struct LimitJob {
    /// Which generation.
    pub id: ContainerId,
    /// What is changed.
    pub limits: Limits,
    /// The text that says so.
    pub unit: Arc<Unit>,
    /// Its source.
    pub facts: Arc<SourceFacts>,
}

/// All that a swap needs.
pub struct SwapJob {
    /// Which generation.
    pub id: ContainerId,
    /// Which contents.
    pub contents: SwapMark,
    /// The text that has them.
    pub unit: Arc<Unit>,
    /// Its source.
    pub facts: Arc<SourceFacts>,
}

//! The one mailbox. Sources post, the loop drains; nothing acts on an event by itself.

use crate::control;
use crate::keeper;
use crate::plan::{Fact, HostPid, Run};
use crate::unit::ContainerId;
use crate::watch;

/// What can be in the mailbox.
pub enum Mail {
    /// A directory or file changed.
    Watch(watch::Event),
    /// What is at the place of a source.
    Look(super::watching::Look),
    /// A client asks, or went away.
    Control(control::Post),
    /// Something happened to a container.
    Fact(Fact),
    /// The keeper's list was taken over by the hands.
    Inventory(Inventory),
    /// Figures of the keeper.
    Keeper(keeper::Stats),
    /// Begin the ordered stop.
    StopAll {
        /// By whom, for people.
        by: String,
    },
    /// The keeper is gone for good, or serves somebody else: this process has nothing left to do.
    Orphaned(String),
    /// The log thread says something.
    Log(super::log::LogEvent),
    /// A state file was written, or could not be.
    Stored(crate::store::Fact),
}

/// What the keeper knows, once per connection to it.
pub struct Inventory {
    /// Containers that live: adopted.
    pub running: Vec<(ContainerId, HostPid, Run)>,
    /// Every container the keeper has a record of, ended ones included. A generation that is begun and not among them was
    /// never spawned, or is lost.
    pub known: Vec<ContainerId>,
    /// Children of a dead keeper that belong to a container's cgroup: id and pid of the eldest.
    pub orphans: Vec<(ContainerId, i32)>,
    /// Whether the keeper took over from a dead one: then what it does not know may have run and ended unseen.
    pub took_over: bool,
    /// Cgroups under our root that are no container's that the keeper knows.
    pub cgroups: Vec<ContainerId>,
    /// Figures.
    pub stats: keeper::Stats,
}

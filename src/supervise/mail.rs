//! The one mailbox. Sources post, the loop drains; nothing acts on an event by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::control;
use crate::keeper;
use crate::plan::{Fact, HostPid, Line, Run};
use crate::unit::{ContainerId, Listen, UnitName};
use crate::watch;

/// What can be in the mailbox.
pub enum Mail {
    /// A directory or file changed.
    Watch(watch::Event),
    /// What the watch posted together: nothing is decided before all of it is entered.
    Together(Vec<Mail>),
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
    /// Which builds run.
    Builds(keeper::Builds),
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
#[derive(Default)]
pub struct Inventory {
    /// Containers that live: adopted.
    pub running: Vec<(ContainerId, HostPid, Run)>,
    /// Those of them that are still being set up, by a hook of their unit for as long as it takes.
    pub setups: Vec<(ContainerId, HostPid, Run)>,
    /// Every container the keeper has a record of, ended ones included.
    pub known: BTreeSet<ContainerId>,
    /// What containers have said over their notify sockets.
    pub said: Vec<(ContainerId, Vec<Line>)>,
    /// Children of a dead keeper that belong to a container's cgroup.
    pub orphans: BTreeMap<ContainerId, Vec<super::adopt::Member>>,
    /// Cgroups under our root that are no container's that the keeper knows.
    pub cgroups: Vec<ContainerId>,
    /// Sockets that are open.
    pub listening: Vec<(UnitName, BTreeSet<Listen>)>,
    /// Figures.
    pub stats: keeper::Stats,
    /// Who said all this.
    pub connection: keeper::Connection,
}

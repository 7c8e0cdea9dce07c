//! The planner: the plan of [`reconcile`](super::reconcile()), for the price of what changed.
//!
//! ```text
//!             recorded, begun, changed               refresh                          plan
//! (all known) ──────────────────────▶ changed ───────────────────▶ to look at ───────────────────▶ quiet, or still to look at
//!     ▲                                  ▲      with those whose                 │                 while it has actions
//!     └───────────── look_at_all         │      last look saw it                 │
//!                                        └── its time has come ◀── quiet until ──┘
//! ```
//!
//! - Each unit is decided on by itself, and the look at it takes notes of whatever it asked: other units, places on the host
//!   ([`World`](super::world)). As long as nothing of that changes, another look finds what the last one found: nothing to do, or it would still be *to
//!   look at*. So a unit is looked at when it *changed* itself, or something that its last look saw did. It is not guessed from the texts who
//!   may concern whom: a unit on which thousands depend, of which one is edited, costs that one.
//! - A unit changed if a fact was recorded or an action begun for it, if another text of it is in force, if it is tangled otherwise than before
//!   ([`Links`](super::links)), or if one of its times has come: those at which something about it becomes otherwise by the clock alone, which are the
//!   wake-ups of its plan.
//! - Who depends on a unit, and who shares its network, is seen only by the look at that unit itself. So if there are others, it is to look at
//!   again, and nobody else.
//! - After a fact that is about no unit (the shutdown, somebody begins to listen) everything is to look at. So it is at first, after a crash: nothing of
//!   this is written down.
//!
//! The rule for whoever changes the plan: what a decision sees, it sees through [`World`](super::world); what the clock changes has its wake-up. Then
//! this plan equals that of a whole pass, always. Debug builds compare the two in every round of the supervisor, and so do the simulation and the tests
//! here.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::action::Action;
use super::desired::{Desired, Want};
use super::fact::Fact;
use super::links::{Links, Rewired};
use super::observed::Observed;
use super::reconcile::{Draft, Plan, plan_unit};
use super::status::Statuses;
use super::time::BootTime;
use super::world::{Notes, World};
use crate::unit::UnitName;

/// What is to be looked at, and when. It belongs to one `Desired` and one `Observed`, whose every change it is told of.
#[derive(Debug)]
pub struct Planner {
    /// Everything changed, and nobody knows how.
    all: bool,
    /// Everything is to look at.
    everything: bool,
    changed: BTreeSet<UnitName>,
    to_look: BTreeSet<UnitName>,
    links: Links,
    looks: BTreeMap<UnitName, Look>,
    /// By what they saw.
    seers: BTreeMap<UnitName, BTreeSet<UnitName>>,
    place_seers: BTreeMap<PathBuf, BTreeSet<UnitName>>,
    /// The times of all looks.
    due: BTreeSet<(BootTime, UnitName)>,
}

/// The last look at a unit.
#[derive(Debug, Default)]
struct Look {
    /// Other units that it saw, in order.
    units: Vec<UnitName>,
    /// Places that it saw, in order.
    places: Vec<PathBuf>,
    due: Option<BootTime>,
}

impl Default for Planner {
    fn default() -> Planner {
        Planner {
            all: true,
            everything: false,
            changed: BTreeSet::new(),
            to_look: BTreeSet::new(),
            links: Links::default(),
            looks: BTreeMap::new(),
            seers: BTreeMap::new(),
            place_seers: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }
}

impl Planner {
    // ---- what it is told ----

    /// This fact was recorded, and was news.
    pub fn recorded(&mut self, fact: &Fact) {
        match fact {
            Fact::Clock(_) | Fact::Zone { .. } => self.all = true,
            Fact::Awake | Fact::Booted { .. } | Fact::Shutdown { .. } => self.all = true,
            Fact::Found { path, .. } => self.to_look.extend(self.place_seers.get(path).into_iter().flatten().cloned()),
            other => match other.unit() {
                Some(unit) => self.changed(unit),
                None => self.all = true,
            },
        }
    }

    /// This action was begun.
    pub fn begun(&mut self, action: &Action) {
        match action {
            Action::Reboot { .. } => self.all = true,
            other => self.changed(other.unit()),
        }
        action.sockets_of().into_iter().for_each(|unit| self.changed(unit));
    }

    /// Something about this unit is otherwise: another text of it is in force, or none.
    pub fn changed(&mut self, unit: &UnitName) {
        self.changed.insert(unit.clone());
    }

    /// Whatever it knows, it looks at everything the next time.
    pub fn look_at_all(&mut self) {
        self.all = true;
    }

    // ---- what it says ----

    /// Whether there may be something to do now.
    pub fn is_due(&self, now: BootTime) -> bool {
        let is_told = self.all || self.everything || !self.changed.is_empty() || !self.to_look.is_empty();
        is_told || self.wake_at().is_some_and(|at| at <= now)
    }

    /// What [`reconcile`](super::reconcile()) says. Each action is to be begun, and told here.
    pub fn plan(&mut self, desired: &Desired, observed: &Observed, now: BootTime) -> Plan {
        self.come_due(now);
        self.refresh(desired, observed);
        let everything = std::mem::take(&mut self.everything);
        if everything {
            // Also those of which there is nothing any more.
            self.to_look.extend(self.looks.keys().cloned());
        }
        let links = std::mem::take(&mut self.links);
        let world = World::linked(desired, observed, now, &links).noting();
        let to_look = std::mem::take(&mut self.to_look);
        let look = |view| {
            let draft = plan_unit(&world, view);
            (view.name.clone(), draft, world.turn())
        };
        let looked: Vec<(UnitName, Draft, Notes)> = match everything {
            true => world.views().map(look).collect(),
            false => to_look.iter().filter_map(|name| world.find(name)).map(look).collect(),
        };
        let gone = to_look.into_iter().filter(|name| !is_known(name, desired, observed));
        gone.for_each(|name| self.keep(&name, &Notes::default(), None));
        let mut whole = Draft::default();
        let mut names = Vec::with_capacity(looked.len());
        for (name, draft, notes) in looked {
            self.keep(&name, &notes, draft.wake_at());
            if !draft.is_quiet() {
                self.to_look.insert(name.clone());
            }
            names.push(name);
            whole.add(draft);
        }
        self.links = links;
        if whole.first().is_some() {
            self.to_look.extend(names);
        }
        Plan { wake_at: self.wake_at(), ..whole.finish() }
    }

    /// What units are doing, looked up one by one; asked after [`Planner::refresh`].
    pub fn statuses<'w>(&'w self, desired: &'w Desired, observed: &'w Observed, now: BootTime) -> Statuses<'w> {
        Statuses::linked(desired, observed, now, &self.links)
    }

    // ---- how it knows ----

    /// Takes in what it was told.
    pub fn refresh(&mut self, desired: &Desired, observed: &Observed) {
        if std::mem::take(&mut self.all) {
            self.changed.clear();
            self.links = Links::new(desired, observed);
            self.everything = true;
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        let mut rewired = Rewired::default();
        changed.iter().for_each(|name| self.links.refresh(name, desired, observed, &mut rewired));
        let tangled = self.links.retangle(&rewired);
        for name in changed.into_iter().chain(tangled) {
            self.to_look.extend(self.seers.get(&name).into_iter().flatten().cloned());
            if let Some(group) = desired.units.get(&name).and_then(Want::group) {
                self.to_look.extend(self.seers.get(group).into_iter().flatten().cloned());
                // It has their sockets, and is not among those who see itself.
                self.to_look.insert(group.clone());
            }
            self.to_look.insert(name);
        }
        self.to_look.append(&mut rewired.named);
    }

    fn wake_at(&self) -> Option<BootTime> {
        self.due.first().map(|(at, _)| *at)
    }

    fn come_due(&mut self, now: BootTime) {
        while let Some((at, name)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, name));
                return;
            }
            if let Some(look) = self.looks.get_mut(&name) {
                look.due = None;
            }
            self.changed.insert(name);
        }
    }

    /// Takes the notes of a look in the place of those of the one before.
    fn keep(&mut self, name: &UnitName, notes: &Notes, due: Option<BootTime>) {
        let before = self.looks.remove(name).unwrap_or_default();
        let units: Vec<UnitName> = notes.units.iter().filter(|unit| *unit != name).cloned().collect();
        let places: Vec<PathBuf> = notes.places.iter().map(|place| Path::to_owned(place)).collect();
        if units != before.units {
            exchange(&mut self.seers, name, (&before.units, &units));
        }
        if places != before.places {
            exchange(&mut self.place_seers, name, (&before.places, &places));
        }
        if due != before.due {
            if let Some(at) = before.due {
                self.due.remove(&(at, name.clone()));
            }
            self.due.extend(due.map(|at| (at, name.clone())));
        }
        if !units.is_empty() || !places.is_empty() || due.is_some() {
            self.looks.insert(name.clone(), Look { units, places, due });
        }
    }
}

fn is_known(name: &UnitName, desired: &Desired, observed: &Observed) -> bool {
    desired.units.contains_key(name) || observed.units.contains_key(name)
}

/// `name` is among those of the new keys instead of the old ones.
fn exchange<K: Ord + Clone>(index: &mut BTreeMap<K, BTreeSet<UnitName>>, name: &UnitName, (old, new): (&[K], &[K])) {
    for key in old {
        if let Some(of) = index.get_mut(key) {
            of.remove(name);
            if of.is_empty() {
                index.remove(key);
            }
        }
    }
    for key in new {
        index.entry(key.clone()).or_default().insert(name.clone());
    }
}

//! Which unit waits for which: before a start, before a stop, and when a dependency is lost.
//!
//! - A start waits until each dependency is *there*: one that is to be `started` runs and is not about to stop (a oneshot runs, or has
//!   run with the text in force), one that is to be `healthy` runs and each of its checks passes, one that is to be `completed` has ended with code 0 with the text in force, and nobody has
//!   asked for another run since. An optional one is waited for only while it is on its way: not while it is missing,
//!   held, not enabled, ended for good, backing off, or waiting for the host.
//! - A dependency that goes takes nobody with it, unless `on_loss` says so. What a generation relies on is remembered with it
//!   ([`Live::relies`]): a dependency that was never there in its life is not lost, so an edit of `depends_on` stops nothing.
//! - A changed text that could not start, because something it waits for does not come by itself, waits, and the container of the old one runs on.
//! - A dependency stops after those dependents that are to stop too. A removed one does not wait for them: it is to be signalled
//!   within 2 s. Of units that wait for each other in a ring, none waits for the other to stop.
//! - Units that wait for each other to start, over dependencies and shared networks, are refused with the ring named.
//!
//! In a quiet world none of this costs more than a look at each unit's own text: rings and dependents are sought, in an index of who names
//! whom (`links`), only when a unit with dependencies is to start, or some unit is to stop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::action::Action;
use super::desired::Want;
use super::exit::ExitRecord;
use super::health::HealthStatus;
use super::links::network_owner;
use super::observed::{Live, State};
use super::reason::Why;
use super::world::{View, World};
use crate::compact;
use crate::unit::{Condition, Dependency, Kind, Need, OnLoss, UnitName};

/// Units that are looked at to name a ring. A longer one is not named, it only waits.
const RING_MAX: usize = 256;

/// Units that are looked at on the way from one, before all units are looked at for rings: a unit has few that it waits for.
const NEAR_MAX: usize = 16;

/// How many dependencies with `on_loss` are followed from one to the next; behind them a loss is noticed one stop later.
pub(super) const LOSS_CHAIN_MAX: usize = 32;

/// A dependency that is not there.
#[derive(Clone, Copy)]
pub(super) struct Lack<'a> {
    /// Which unit.
    pub unit: &'a UnitName,
    /// What it should have come to.
    pub need: Need,
}

/// What a container with `on_loss` relies on, by unit.
pub type Relies = BTreeMap<UnitName, Relied>;

/// A dependency that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relied {
    /// With which generation.
    pub generation: u64,
    /// That one has completed; else it lives, or has run.
    pub by_its_end: bool,
}

impl Live {
    /// The generation of a dependency that it relies on for this need.
    fn relied(&self, unit: &UnitName, need: Need) -> Option<u64> {
        let generation = self.relies.get(unit)?;
        (self.relies_on_ends.contains(unit) == (need == Need::Completed)).then_some(*generation)
    }

    /// Remembers what it relies on as well.
    pub(super) fn rely(&mut self, relies: &Relies) {
        for (unit, relied) in relies {
            self.relies.insert(unit.clone(), relied.generation);
            match relied.by_its_end {
                true => self.relies_on_ends.insert(unit.clone()),
                false => self.relies_on_ends.remove(unit),
            };
        }
    }
}

impl<'a> World<'a> {
    /// The dependencies for whose sake a start waits.
    pub fn lacks(&self, want: &'a Want, chain: usize) -> Vec<Lack<'a>> {
        let missing = |(unit, dependency): (&'a UnitName, &Dependency)| {
            let is_waited_for = || !dependency.optional || self.is_on_its_way(unit, dependency.state);
            let there = self.there(unit, dependency.state, chain).is_some();
            (!there && is_waited_for()).then_some(Lack { unit, need: dependency.state })
        };
        want.unit.depends_on.iter().filter_map(missing).collect()
    }

    /// The first condition that the host does not meet.
    pub fn unmet(&self, want: &'a Want) -> Option<&'a Condition> {
        want.unit.conditions.iter().find(|condition| !self.meets(condition))
    }

    /// The generation with which a unit has come to `need`, if it has.
    pub(super) fn there(&self, name: &UnitName, need: Need, chain: usize) -> Option<u64> {
        if self.group(name).is_some() {
            return self.group_there(name, need, chain);
        }
        let view = self.find(name)?;
        let want = view.want?;
        // In a start-first update either will do.
        let mut running = [view.seen.live.as_ref(), view.seen.successor()].into_iter().flatten();
        let mut running = running.by_ref().filter(|live| matches!(live.state, State::Running { .. }));
        let last = view.seen.last.as_ref().filter(|last| {
            // A run that somebody asked for since, or that a returned file is owed, is the one that counts; and so is the one that follows
            // a run of another text.
            let counts = |live: &&Live| {
                live.run.fingerprint != want.fingerprint || live.is_up() && (live.used.start_now || live.used.fresh)
            };
            let own = view.seen.live.as_ref();
            let other = own.filter(|live| live.id != last.id).filter(counts);
            // Asked for, it counts before the one that runs is stopped or handed over from, and while that stops.
            let other = other.or_else(|| own.filter(|live| live.restart));
            let other = other.or_else(|| view.seen.successor().filter(|next| next.is_up() && next.used.start_now));
            // Or that takes over from the one that ended.
            let next = view.seen.successor().filter(|_| !own.is_some_and(Live::is_up));
            let other = other.or_else(|| next.filter(counts));
            // So is one that ran since, and from which another one took over.
            let is_other_text = |old: &Live| old.run.fingerprint != want.fingerprint;
            let other = other.or_else(|| view.seen.predecessor().filter(|old| is_other_text(old)));
            last.fingerprint == want.fingerprint && !view.seen.start_now && !view.seen.fresh && other.is_none()
        });
        match (need, want.unit.kind) {
            (Need::Started, Kind::Service) => {
                running.find(|live| self.stays(view, live, chain)).map(|live| live.id.generation)
            }
            // A run that follows another is as good as that one from its beginning.
            (Need::Started, Kind::Oneshot) => {
                let up = view.seen.live.as_ref().filter(|live| live.is_up() && self.stays(view, live, chain));
                let ran = last.filter(|last| last.outcome.has_run()).map(|last| last.id.generation);
                let up = up.filter(|_| running.next().is_some() || ran.is_some()).map(|live| live.id.generation);
                up.or(ran)
            }
            (Need::Healthy, _) => running
                .filter(|live| self.health_of(view, live) == Some(HealthStatus::Healthy))
                .find(|live| self.stays(view, live, chain))
                .map(|live| live.id.generation),
            (Need::Completed, _) => last.filter(|last| last.outcome.is_success()).map(|last| last.id.generation),
        }
    }

    /// How it is by the checks of its own text, as far as that is known.
    pub(super) fn health_of(&self, view: View<'a>, live: &Live) -> Option<HealthStatus> {
        let text = self.own_text(view, live).or(view.want)?;
        live.health(text.unit.health.as_deref())
    }

    /// Whether a generation that is up has no reason to stop.
    fn stays(&self, view: View<'a>, live: &'a Live, chain: usize) -> bool {
        let Some(chain) = chain.checked_sub(1) else { return true };
        self.stays_or_ask(live, || self.stop_reason_after(view, live, chain).is_none())
    }

    /// Whether it will come to run without anybody doing something, as far as it alone is concerned.
    fn is_on_its_way(&self, name: &'a UnitName, need: Need) -> bool {
        if self.group(name).is_some() {
            return self.members(name).any(|view| self.is_on_its_way(view.name, need));
        }
        let view = self.view(name);
        let Some(want) = view.want else { return false };
        if need == Need::Healthy && want.unit.health.is_none() {
            return false;
        }
        view.seen.live.as_ref().is_some_and(Live::is_up)
            || self.rest_itself(view).is_none() && self.unmet(want).is_none()
    }

    /// Whether a start of this unit waits for something that does not come by itself: somebody has to act, here or on the host.
    pub fn is_stalled(&self, view: View<'a>, chain: usize) -> bool {
        let (mut seen, mut left) = (BTreeSet::new(), VecDeque::from([view.name]));
        let itself = view.name;
        while let Some(name) = left.pop_front() {
            if self.group(name).is_some() {
                continue;
            }
            let view = self.view(name);
            if !seen.insert(name) || name != itself && view.seen.live.as_ref().is_some_and(Live::is_up) {
                continue;
            }
            let Some(want) = view.want else { return true };
            let unmet = self.unmet(want).is_some_and(|condition| self.knows(condition));
            let rests = name != itself && self.rest_itself(view).is_some();
            if rests || unmet || seen.len() > RING_MAX {
                return true;
            }
            let lacks = self.lacks(want, chain);
            if lacks.iter().any(|lack| self.is_unwell(lack)) {
                return true;
            }
            left.extend(lacks.iter().map(|lack| lack.unit).chain(network_owner(&want.unit)));
        }
        false
    }

    /// Whether it runs, and is not healthy, and nothing says that it will be.
    pub fn is_unwell(&self, lack: &Lack<'a>) -> bool {
        if let Some(group) = self.group(lack.unit) {
            return lack.need == Need::Healthy && group.unit.health.is_none();
        }
        let Some(want) = self.view(lack.unit).want.filter(|_| lack.need == Need::Healthy) else { return false };
        let view = self.view(lack.unit);
        let health = view.seen.live.as_ref().and_then(|live| self.health_of(view, live));
        want.unit.health.is_none() || health == Some(HealthStatus::Unready)
    }

    // ---- losses ----

    /// The dependency for whose sake a generation that is up must stop.
    pub fn loss(&self, want: &'a Want, live: &Live, chain: usize) -> Option<Why> {
        let lost = |unit: &UnitName| {
            let dependency = want.unit.depends_on.get(unit)?;
            let relied = live.relied(unit, dependency.state)?;
            let there = || self.there(unit, dependency.state, chain);
            let lost = match dependency.on_loss {
                OnLoss::Keep => false,
                OnLoss::Stop => self.is_lost(unit, dependency.state, relied, chain),
                OnLoss::Restart if self.group(unit).is_some() => false,
                // Of two that run side by side, the one that it relies on is as good as the other.
                OnLoss::Restart => {
                    let stands = || self.is_up(unit, relied) && !self.is_lost(unit, dependency.state, relied, chain);
                    there().is_some_and(|generation| generation != relied) && !stands()
                }
            };
            lost.then(|| Why::Dependency(unit.clone()))
        };
        live.relies.keys().find_map(lost)
    }

    /// Whether this generation of a unit runs, or is to take over and runs.
    fn is_up(&self, unit: &UnitName, generation: u64) -> bool {
        let view = self.find(unit);
        let mut lives = view.iter().flat_map(|view| [view.seen.live.as_ref(), view.seen.successor()]).flatten();
        lives.any(|live| live.is_up() && live.id.generation == generation)
    }

    /// Whether this generation of a dependency is there no more. (After a crash the word that it runs may be missing: up is enough.)
    fn is_lost(&self, unit: &UnitName, need: Need, relied: u64, chain: usize) -> bool {
        if self.group(unit).is_some() {
            return self.group_there(unit, need, chain).is_none();
        }
        let Some(view) = self.find(unit) else { return true };
        let mut lives = [view.seen.live.as_ref(), view.seen.successor()].into_iter().flatten();
        let up = lives.find(|live| live.is_up() && live.id.generation == relied);
        let is_service = view.want.is_some_and(|want| want.unit.kind == Kind::Service);
        match up {
            Some(live) if need == Need::Healthy || need == Need::Started && is_service => {
                !self.stays(view, live, chain)
            }
            Some(_) => view.want.is_none(),
            None => {
                let own = view.seen.live.as_ref();
                let follows = |there: u64| own.is_some_and(|own| own.id.generation == there && own.follows(relied));
                self.there(unit, need, chain).is_none_or(|there| there != relied && !follows(there))
            }
        }
    }

    /// What a container of this text, started now or running, relies on besides what it is known to rely on.
    pub fn new_relies(&self, want: &Want, live: Option<&Live>) -> Relies {
        let is_known = |unit: &UnitName, need: Need| live.is_some_and(|live| live.relied(unit, need).is_some());
        let watched = want
            .unit
            .depends_on
            .iter()
            .filter(|(unit, dependency)| dependency.on_loss != OnLoss::Keep && !is_known(unit, dependency.state));
        let there = |(unit, dependency): (&UnitName, &Dependency)| {
            let generation = self.there(unit, dependency.state, LOSS_CHAIN_MAX)?;
            Some((unit.clone(), Relied { generation, by_its_end: dependency.state == Need::Completed }))
        };
        compact::map(watched.filter_map(there))
    }

    // ---- failures ----

    /// The units that `on_failure` starts for this end, once each, and not for one before an end that did it already; not one whose own failure led
    /// to this one.
    pub fn raises(&self, view: View<'a>, last: &ExitRecord) -> Vec<Action> {
        let Some(want) = view.want else { return Vec::new() };
        // Of two ends each may count for the text that is in force, and the texts may go to and fro.
        let is_done = |other: &View| other.seen.raised.get(view.name).is_some_and(|done| *done >= last.id.generation);
        let is_new = |unit: &&UnitName| self.find(unit).is_some_and(|other| other.want.is_some() && !is_done(&other));
        let new = want.unit.on_failure.iter().filter(is_new).filter(|unit| !self.is_raised_by(view, unit));
        new.map(|unit| Action::Raise { unit: unit.clone(), failed: last.id.clone() }).collect()
    }

    /// Whether the last end of `ancestor` is why this unit was started, if not directly.
    fn is_raised_by(&self, view: View<'a>, ancestor: &UnitName) -> bool {
        let (mut seen, mut left) = (BTreeSet::new(), VecDeque::from([view.name]));
        while let Some(name) = left.pop_front().filter(|_| seen.len() < RING_MAX) {
            if name == ancestor && name != view.name {
                return true;
            }
            let raised = self.find(name).into_iter().filter(|_| seen.insert(name)).flat_map(|view| &view.seen.raised);
            let still = |(unit, generation): &(&UnitName, &u64)| {
                let last = self.find(unit).and_then(|view| view.seen.last.as_ref());
                last.is_some_and(|last| last.id.generation == **generation)
            };
            left.extend(raised.filter(still).map(|(unit, _)| unit));
        }
        false
    }

    // ---- stops ----

    /// A dependent that is to stop before this generation, which is to stop for `why`.
    pub fn dependent_in_the_way(&self, live: &Live, why: &Why) -> Option<&'a UnitName> {
        let (unit, links) = (&live.id.unit, self.links());
        let in_the_way = |view: &View<'a>| {
            let mut lives = view.seen.lives().filter(|live| live.is_alive() && live.stuck_since(self.now).is_none());
            lives.any(|live| !live.is_up() || self.stop_reason(*view, live).is_some())
                && !(links.is_tangled(view.name) && links.is_tangled(unit))
        };
        let mut dependents = links.dependents(unit).filter(|_| *why != Why::Removed);
        dependents.find_map(|name| self.find(name).filter(in_the_way)).map(|view| view.name)
    }

    // ---- rings ----

    /// The ring through which `name` would wait for itself by the texts, beginning and ending with it: one of the shortest.
    pub fn ring(&self, name: &'a UnitName) -> Option<Vec<&'a UnitName>> {
        if !self.has_links() && !self.may_come_back(name) || !self.links().is_tangled(name) {
            return None;
        }
        let (mut from, mut left) = (BTreeMap::new(), VecDeque::from([name]));
        while let Some(unit) = left.pop_front() {
            for next in self.named_by(unit) {
                if next == name {
                    let mut ring = vec![name, unit];
                    while let Some(before) = ring.last().filter(|last| **last != name).and_then(|last| from.get(last)) {
                        ring.push(*before);
                    }
                    ring.reverse();
                    return Some(ring);
                }
                if self.links().is_tangled(next) && from.len() < RING_MAX && !from.contains_key(next) {
                    from.insert(next, unit);
                    left.push_back(next);
                }
            }
        }
        None
    }

    /// `false`: it certainly does not wait for itself, as those that it waits for are few and lead elsewhere. That spares who looks at one unit
    /// the look at all of them.
    fn may_come_back(&self, name: &'a UnitName) -> bool {
        let (mut near, mut next) = (vec![name], 0);
        while let Some(unit) = near.get(next).copied() {
            next += 1;
            for other in self.named_by(unit) {
                if other == name || near.len() > NEAR_MAX {
                    return true;
                }
                if !near.contains(&other) {
                    near.push(other);
                }
            }
        }
        false
    }
}

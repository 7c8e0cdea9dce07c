//! What the oracle says of dependencies, conditions and failures.
//!
//! Facts come late, so a dependency may have died the moment before a dependent is started: it must have been there once. In a shutdown the
//! supervisor has word of each end that it relies on, so there the order is exact.

use std::collections::BTreeSet;
use std::time::Duration;

use moored::plan::{BootTime, Exit, Outcome, Relies, Want, Why};
use moored::unit::{Condition, ContainerId, Kind, Need, Network, OnLoss, UnitName};

use super::host::{Host, Stage};
use super::oracle::{Begun, Oracle, Verdict, must};

/// Killed so long ago, it is stuck and not waited for.
const STUCK: Duration = Duration::from_secs(5);

fn has_run(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::StartFailed { .. })
}

impl Oracle {
    /// At the moment of a spawn: every dependency was there, the disk is, and the unit does not wait for itself.
    pub fn on_ordered_start(&mut self, host: &Host, id: &ContainerId, mounted: bool) -> Verdict {
        let Some(want) = self.units.get(&id.unit).and_then(|truth| truth.good.clone()) else { return Ok(()) };
        for (unit, dependency) in want.unit.depends_on.iter().filter(|(_, dependency)| !dependency.optional) {
            let ended = self.ended.iter().filter(|(id, _)| id.unit == *unit).map(|(_, end)| &end.outcome);
            let was_there = match dependency.state {
                Need::Started => {
                    host.of(unit).any(|(id, _)| host.is_alive(id))
                        || ended.into_iter().any(|outcome| matches!(outcome, Outcome::Exited { .. }))
                }
                Need::Healthy => self.well.contains(unit),
                Need::Completed => {
                    ended.into_iter().any(|outcome| *outcome == Outcome::Exited { exit: Exit::Code(0), oom: false })
                }
            };
            must(was_there, "order", || format!("{id} starts before {unit} is {}", dependency.state.word()))?;
        }
        let waits = want.unit.conditions.iter().any(|condition| matches!(condition, Condition::MountPoint(_)));
        must(mounted || !waits, "condition", || format!("{id} starts without its disk"))?;
        must(!self.is_in_ring(&want), "ring", || format!("{id} starts although it waits for itself"))
    }

    /// Whether this unit's text makes it wait for itself.
    pub fn is_in_ring(&self, want: &Want) -> bool {
        self.reachable(&want.unit.name, false).contains(&want.unit.name)
    }

    /// Units that `unit` waits for, directly or not; with the networks that containers are in, if `joined`.
    fn reachable(&self, unit: &UnitName, joined: bool) -> BTreeSet<UnitName> {
        let (mut seen, mut left) = (BTreeSet::new(), vec![unit.clone()]);
        while let Some(unit) = left.pop() {
            let good = self.units.get(&unit).and_then(|truth| truth.good.as_ref());
            let mut next: Vec<UnitName> =
                good.map(|want| want.unit.depends_on.keys().cloned().collect()).unwrap_or_default();
            if let Some(Network::Unit(owner)) = good.and_then(|want| want.unit.network.as_ref()) {
                next.push(owner.clone());
            }
            if joined {
                let open = self.begun.iter().filter(|(id, _)| id.unit == unit && !self.journal.contains_key(*id));
                next.extend(open.filter_map(|(_, begun)| begun.joined.as_ref()).map(|owner| owner.unit.clone()));
            }
            // A container whose file is gone may be in a ring with others; nothing is to start for its sake.
            let is_declared = |unit: &UnitName| self.units.get(unit).is_some_and(|truth| truth.good.is_some());
            left.extend(next.into_iter().filter(|unit| (joined || is_declared(unit)) && seen.insert(unit.clone())));
        }
        seen
    }

    /// In rings, or between two.
    fn entangled(&self) -> BTreeSet<UnitName> {
        let all: Vec<(UnitName, BTreeSet<UnitName>)> =
            self.units.keys().map(|unit| (unit.clone(), self.reachable(unit, true))).collect();
        let in_ring: BTreeSet<&UnitName> =
            all.iter().filter(|(unit, reach)| reach.contains(unit)).map(|(unit, _)| unit).collect();
        let reaches_ring = |reach: &BTreeSet<UnitName>| reach.iter().any(|unit| in_ring.contains(unit));
        let from_ring =
            |unit: &UnitName| all.iter().any(|(other, reach)| in_ring.contains(other) && reach.contains(unit));
        all.iter()
            .filter(|(unit, reach)| reaches_ring(reach) && from_ring(unit))
            .map(|(unit, _)| unit.clone())
            .collect()
    }

    /// The stop signal of a shutdown: what depends on it is gone, or does not die.
    pub fn on_order(&mut self, host: &Host, id: &ContainerId, why: &Why, now: BootTime) -> Verdict {
        if *why != Why::Shutdown || !host.is_alive(id) {
            return Ok(());
        }
        let entangled = self.entangled();
        let depends = |unit: &UnitName| {
            let good = self.units.get(unit).and_then(|truth| truth.good.as_ref());
            good.is_some_and(|want| want.unit.depends_on.contains_key(&id.unit))
                && !(entangled.contains(unit) && entangled.contains(&id.unit))
        };
        let is_stuck = |id: &ContainerId| self.killed.get(id).is_some_and(|killed| now.since(*killed) >= STUCK);
        let alive = host.containers.keys().filter(|other| host.is_alive(other) && !is_stuck(other));
        let first = alive.into_iter().find(|other| depends(&other.unit));
        must(first.is_none(), "order", || format!("{id} is stopped before {first:?}, which depends on it"))
    }

    pub fn on_kill(&mut self, id: &ContainerId, now: BootTime) {
        self.killed.entry(id.clone()).or_insert(now);
    }

    /// `on_failure`: once for each end of a unit that is not up. `takes`: the started one is neither up nor held.
    pub fn on_raise(&mut self, unit: &UnitName, failed: &ContainerId, takes: bool) -> Verdict {
        must(self.ended.contains_key(failed), "raise", || format!("{unit} starts for {failed}, which has not ended"))?;
        let first = self.raised.insert((unit.clone(), failed.clone()));
        must(first, "raise", || format!("{unit} starts twice for {failed}"))?;
        self.outdate(unit);
        let truth = self.truth(unit);
        if takes {
            (truth.wished, truth.by_hand) = (Some(truth.begun), true);
        }
        Ok(())
    }

    /// A generation relies on these from here on; each was there once.
    pub(super) fn on_rely(&mut self, host: &Host, id: &ContainerId, relies: &Relies) -> Verdict {
        self.ended(host);
        for (unit, relied) in relies {
            let other = ContainerId { unit: unit.clone(), generation: relied.generation };
            let outcome = self.ended.get(&other).map(|end| self.known_outcome(Some(&other), end));
            let was_there = match (relied.by_its_end, outcome) {
                (true, outcome) => outcome == Some(&Outcome::Exited { exit: Exit::Code(0), oom: false }),
                (false, Some(outcome)) => has_run(outcome) || self.follows_a_run(unit),
                (false, None) => host.is_alive(&other) || self.follows_a_run(unit),
            };
            must(was_there, "order", || format!("{id} relies on {other}, which never was there"))?;
        }
        let Some(begun) = self.begun.get_mut(id) else { return Ok(()) };
        begun.relies.extend(relies.iter().map(|(unit, relied)| (unit.clone(), *relied)));
        begun.outdated.retain(|unit| !relies.contains_key(unit));
        Ok(())
    }

    /// Of a oneshot that has run each later run is as good from its beginning.
    fn follows_a_run(&self, unit: &UnitName) -> bool {
        let good = self.units.get(unit).and_then(|truth| truth.good.as_ref());
        let is_oneshot = good.is_some_and(|good| good.unit.kind == Kind::Oneshot);
        is_oneshot && self.ended.iter().any(|(id, end)| id.unit == *unit && has_run(&end.outcome))
    }

    /// Somebody asked for another run of `unit`: its last end is no longer the one that counts.
    pub(super) fn outdate(&mut self, unit: &UnitName) {
        let relying = self.begun.values_mut().filter(|begun| begun.relies.contains_key(unit));
        for begun in relying {
            begun.outdated.insert(unit.clone());
        }
    }

    /// A dependency with `on_loss` on which a generation relies is there no more, or is to go.
    pub(super) fn has_lost(&self, host: &Host, id: &ContainerId, steps: usize) -> bool {
        let Some(want) = self.units.get(&id.unit).and_then(|truth| truth.good.as_ref()) else { return false };
        let Some(begun) = self.begun.get(id) else { return false };
        let watched = want.unit.depends_on.iter().filter(|(_, dependency)| dependency.on_loss != OnLoss::Keep);
        watched.into_iter().any(|(unit, dependency)| {
            let by_its_end = dependency.state == Need::Completed;
            let relied = begun.relies.get(unit).filter(|relied| relied.by_its_end == by_its_end);
            let Some(relied) = relied.map(|relied| ContainerId { unit: unit.clone(), generation: relied.generation })
            else {
                return false;
            };
            match by_its_end {
                true => begun.outdated.contains(unit) || self.is_outdone(host, &relied),
                false => {
                    let follows = |other: &ContainerId| other.unit == *unit && other.generation > relied.generation;
                    let is_own = |begun: &Begun| !begun.beside;
                    let other = || self.begun.iter().any(|(other, begun)| follows(other) && is_own(begun));
                    !host.is_alive(&relied)
                        || self.is_excused_within(host, &relied, steps)
                        || dependency.on_loss == OnLoss::Restart && other()
                }
            }
        })
    }

    /// The end of this generation is not the one that says whether its unit has completed: another run ended since, or another text is in force, or
    /// has a container.
    fn is_outdone(&self, host: &Host, id: &ContainerId) -> bool {
        let good = self.units.get(&id.unit).and_then(|truth| truth.good.as_ref());
        let Some(good) = good else { return true };
        let is_other_text = self.ended.get(id).is_none_or(|end| !end.is_of(good.fingerprint));
        // The older of two may end last.
        let is_later = |other: &ContainerId| other.generation > id.generation || self.told_at(other) > self.told_at(id);
        let ended_since = |other: &ContainerId| other.unit == id.unit && other != id && is_later(other);
        // Begun by somebody who died before the spawn: it counts as one that ran, with an end that nobody knows.
        let is_unknown = |other: &ContainerId| {
            let made = host.containers.get(other).is_none_or(|container| matches!(container.stage, Stage::Made));
            other.unit == id.unit && other.generation > id.generation && made && !self.ended.contains_key(other)
        };
        let has_another = host.of(&id.unit).any(|(_, found)| found.want.fingerprint != good.fingerprint);
        is_other_text || self.ended.keys().any(ended_since) || self.begun.keys().any(is_unknown) || has_another
    }
}

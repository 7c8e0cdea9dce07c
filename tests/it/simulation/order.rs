//! What the oracle says of dependencies, conditions and failures.
//!
//! Facts come late, so a dependency may have died the moment before a dependent is started: it must have been there once. In a shutdown the
//! supervisor has word of each end that it relies on, so there the order is exact.

use std::collections::BTreeSet;
use std::time::Duration;

use moored::plan::{BootTime, Exit, Outcome, Want, Why};
use moored::unit::{Condition, ContainerId, Need, Network, OnLoss, UnitName};

use super::host::Host;
use super::oracle::{Oracle, Verdict, must};

/// Killed so long ago, it is stuck and not waited for.
const STUCK: Duration = Duration::from_secs(5);

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
            let is_declared = |unit: &UnitName| self.units.get(unit).is_some_and(|truth| truth.good.is_some());
            left.extend(next.into_iter().filter(|unit| is_declared(unit) && seen.insert(unit.clone())));
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
        let truth = self.truth(unit);
        if takes {
            (truth.wished, truth.by_hand) = (Some(truth.begun), true);
        }
        Ok(())
    }

    /// A dependency with `on_loss` of a generation is gone, was begun after it, or is to go.
    pub(super) fn has_lost(&self, host: &Host, id: &ContainerId, steps: usize) -> bool {
        let Some(want) = self.units.get(&id.unit).and_then(|truth| truth.good.as_ref()) else { return false };
        let Some(container) = host.containers.get(id) else { return false };
        let watched = want.unit.depends_on.iter().filter(|(_, dependency)| dependency.on_loss != OnLoss::Keep);
        watched.into_iter().any(|(unit, dependency)| {
            // Its last end is no success any more.
            let since = self.ended.iter().filter(|(id, end)| id.unit == *unit && end.at >= container.run.begun);
            let is_bad = |outcome: &Outcome| *outcome != Outcome::Exited { exit: Exit::Code(0), oom: false };
            if dependency.state == Need::Completed && since.into_iter().any(|(_, end)| is_bad(&end.outcome)) {
                return true;
            }
            let alive = host.of(unit).find(|(id, _)| host.is_alive(id));
            alive.is_none_or(|(other, found)| {
                found.run.begun >= container.run.begun || self.is_excused_within(host, other, steps)
            })
        })
    }
}

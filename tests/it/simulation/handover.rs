//! What the oracle says of start-first updates: never more than two, two only then, and the old one runs until the new one has done well, unless
//! it is to stop anyway.

use moored::plan::{Action, BootTime, Reason, State, Want};
use moored::unit::{ContainerId, Kind, Order, UnitName};

use super::History;
use super::host::{Container, Host, Stage};
use super::oracle::{Begun, Oracle, Verdict, must};
use super::supervisor::Supervisor;

fn is_start_first(want: &Want) -> bool {
    want.unit.update.order == Order::StartFirst && want.unit.kind == Kind::Service
}

impl Oracle {
    /// Other containers are wanted than those. One that runs goes on until then, if the text says so; what was to take over does not.
    pub(super) fn supersede(&mut self, unit: &UnitName, which: impl Fn(&Begun) -> bool) {
        let good = self.truth(unit).good.clone();
        if !good.as_ref().is_some_and(|good| is_start_first(good) && good.unit.enabled) {
            // What was to go on until then, for a restart, does not wait for that any more.
            let left: Vec<_> =
                self.open(unit, |_| true).into_iter().filter(|id| self.superseded.contains(id)).collect();
            self.excused.extend(left);
            return self.excuse(unit, which);
        }
        let goes_on = |begun: &Begun| begun.kind == Kind::Service && !begun.beside;
        self.excuse(unit, |begun| which(begun) && !goes_on(begun));
        let superseded = self.open(unit, |begun| which(begun) && goes_on(begun));
        self.superseded.extend(superseded);
    }

    /// A start that is not known to have come to anything is not one that goes on.
    pub(super) fn stopped_unstarted(&mut self, id: &ContainerId, was_running: bool) {
        if !was_running && self.superseded.contains(id) {
            self.excused.insert(id.clone());
        }
    }

    /// It was to take over, and whether it is ready nobody knows any more: its word was lost with the keeper. Another one is tried.
    pub(super) fn is_unheard_try(&self, host: &Host, id: &ContainerId) -> bool {
        let is_unheard = |found: &Container| found.said.iter().any(|line| line.text == "UNHEARD=1");
        self.begun.get(id).is_some_and(|begun| begun.beside) && host.containers.get(id).is_some_and(is_unheard)
    }

    /// Those that were to take over, and whose time is up: one that has nothing to say of itself is well when it runs.
    pub(super) fn judge_tries(&mut self, host: &Host, now: BootTime) {
        let is_late = |(id, found): &(&ContainerId, &Container)| {
            let beside = self.begun.get(*id).is_some_and(|begun| begun.beside);
            let is_over = || now.since(found.run.begun) >= found.want.unit.update.deadline;
            let may_be_unwell = || found.want.unit.health.is_some() || !host.is_alive(id);
            beside && is_over() && may_be_unwell()
        };
        let late: Vec<ContainerId> = host.containers.iter().filter(is_late).map(|(id, _)| id.clone()).collect();
        self.sick.extend(late);
    }

    /// The one beside which this one may be started.
    pub(super) fn beside(&self, host: &Host, id: &ContainerId, want: &Want) -> Option<ContainerId> {
        let begun = self.begun.get(id).filter(|begun| begun.beside && is_start_first(want));
        let own = begun.and_then(|_| self.open(&id.unit, |begun| !begun.beside).pop());
        // The one that is left is the unit's, though it was to take over.
        own.or_else(|| {
            begun.and_then(|_| {
                self.open(&id.unit, |_| true)
                    .into_iter()
                    .find(|other| other != id && host.containers.contains_key(other))
            })
        })
    }

    /// It is the unit's from here on: it has done well, or the old one is up no more.
    pub(super) fn on_take_over(&mut self, host: &Host, id: &ContainerId, own_is_up: bool, now: BootTime) -> Verdict {
        self.ended(host);
        let want = self.truth(&id.unit).good.clone();
        let Some(want) = want else { return Err(format!("start-first: {id} takes over, and is removed")) };
        let has_run = |found: &Container| now.since(found.run.begun) >= want.unit.update.min_healthy;
        let is_well = want.unit.health.is_none() || self.well.contains(&id.unit);
        let did_well = is_well && host.containers.get(id).is_some_and(has_run);
        must(!own_is_up || did_well, "start-first", || format!("{id} takes over and has not done well"))?;
        let is_of = self.begun.get(id).is_some_and(|begun| begun.fingerprint == want.fingerprint);
        must(is_of, "start-first", || format!("{id} takes over with another text"))?;
        self.excuse(&id.unit, |begun| !begun.beside);
        if let Some(begun) = self.begun.get_mut(id) {
            begun.beside = false;
        }
        // It is there: nobody has to start it any more. (One that was never spawned may take over from one that is gone.)
        let is_there = host.containers.get(id).is_some_and(|found| !matches!(found.stage, Stage::Made));
        let truth = self.truth(&id.unit);
        truth.wished = truth.wished.filter(|_| !is_there);
        truth.by_hand &= !want.unit.enabled;
        Ok(())
    }
}

impl History {
    /// In the end there is one.
    pub(super) fn check_alone(&self, unit: &UnitName) -> Verdict {
        let alive = self.host.of(unit).filter(|(id, _)| self.host.is_alive(id));
        must(alive.count() < 2, "start-first", || format!("two of {unit} run in the end"))
    }

    /// Whether it runs although another text is in force: the one that was to take over ended, and no other is to be tried.
    pub(super) fn outlives_rightly(&self, id: &ContainerId, reason: &Reason) -> bool {
        let Reason::NextWaits(what) = reason else { return false };
        let over = matches!(**what, Reason::Failed { .. } | Reason::GaveUp { .. } | Reason::Completed);
        over && self.oracle.ended.keys().any(|other| other.unit == id.unit && other.generation > id.generation)
    }
}

impl Supervisor {
    /// Whether the unit's generation is up, before this action.
    pub(super) fn has_own_up(&self, action: &Action) -> bool {
        let seen = self.observed.unit(action.unit());
        seen.and_then(|seen| seen.live.as_ref()).is_some_and(|live| live.is_up())
    }

    /// Whether it stops one that is known to run.
    pub(super) fn stops_running(&self, action: &Action) -> bool {
        let Action::Stop { id, .. } = action else { return false };
        let live = self.observed.unit(&id.unit).and_then(|seen| seen.live_of(id));
        live.is_some_and(|live| matches!(live.state, State::Running { .. }))
    }
}

//! What a unit is doing, in one word and in a sentence.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decide::Rest;
use super::desired::Desired;
use super::exit::ExitRecord;
use super::handover::Role;
use super::health::HealthStatus;
use super::links::Links;
use super::observed::{Ended, Live, Observed, State, Stopping};
use super::order::{LOSS_CHAIN_MAX, Lack};
use super::reason::{Lacking, Reason, Remains, Why};
use super::schedule::Due;
use super::time::BootTime;
use super::told::Reloading;
use super::world::{View, World};
use crate::unit::{Condition, Need, UnitName};

/// The one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It will start when something else has happened.
    Waiting,
    /// Its container is being made.
    Starting,
    /// Its program runs.
    Running,
    /// It runs, and each of its checks passes.
    Ready,
    /// Being stopped, or cleared away after its end.
    Stopping,
    /// Ended; it starts again at a known time.
    Backoff,
    /// Ended well, and that is that.
    Completed,
    /// Ended badly, or cannot start, and that is that until somebody acts.
    Failed,
    /// Not to run.
    Stopped,
    /// Killed, and it does not die.
    Stuck,
}

/// The phase, the reason for it, and since when.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The one word.
    pub phase: Phase,
    /// The sentence.
    pub reason: Reason,
    /// Since when it is so, if it ever was otherwise.
    pub since: Option<BootTime>,
    /// How it is by its checks, if it has any and runs.
    pub health: Option<HealthStatus>,
    /// How far the reload is that a client asked for.
    pub reloading: Reloading,
}

/// What `unit` is doing. One that is neither declared nor known is `Stopped` because it is removed.
pub fn status(desired: &Desired, observed: &Observed, unit: &UnitName, now: BootTime) -> Status {
    let world = World::new(desired, observed, now);
    status_of(&world, world.view(unit))
}

/// What every unit is doing, declared or not, in name order.
pub fn statuses(desired: &Desired, observed: &Observed, now: BootTime) -> Vec<(UnitName, Status)> {
    let world = World::new(desired, observed, now);
    world.views().map(|view| (view.name.clone(), status_of(&world, view))).collect()
}

/// Units looked up one by one, at one moment.
pub struct Statuses<'w>(World<'w>);

impl<'w> Statuses<'w> {
    /// Looks at the whole once.
    pub fn new(desired: &'w Desired, observed: &'w Observed, now: BootTime) -> Statuses<'w> {
        Statuses(World::new(desired, observed, now))
    }

    /// The same with the links of somebody who keeps them.
    pub(super) fn linked(
        desired: &'w Desired,
        observed: &'w Observed,
        now: BootTime,
        links: &'w Links,
    ) -> Statuses<'w> {
        Statuses(World::linked(desired, observed, now, links))
    }

    /// What this unit is doing; `None` if it is neither declared nor known.
    pub fn get(&self, unit: &UnitName) -> Option<Status> {
        let Statuses(world) = self;
        Some(status_of(world, world.find(unit)?))
    }
}

fn status_of<'a>(world: &World<'a>, view: View<'a>) -> Status {
    world.turn();
    match &view.seen.live {
        Some(live) => live_status(world, view, live),
        None => rest_status(world, view, world.rest(view)),
    }
}

fn live_status<'a>(world: &World<'a>, view: View<'a>, live: &Live) -> Status {
    if let Some(since) = live.stuck_since(world.now) {
        let reason = Reason::Stuck { processes: live.left() };
        return Status { phase: Phase::Stuck, reason, since: Some(since), health: None, reloading: Reloading::Done };
    }
    let health = world.health_of(view, live);
    let (phase, reason, since) = match &live.state {
        State::Starting => (Phase::Starting, Reason::Starting, live.run.begun),
        State::Running { since } => {
            let phase = if health == Some(HealthStatus::Healthy) { Phase::Ready } else { Phase::Running };
            let other = beside_reason(world, view);
            let other = other.or_else(|| turn_reason(world, view, live)).or_else(|| next_reason(world, view, live));
            (phase, other.unwrap_or_else(|| running_reason(world, view, live)), *since)
        }
        State::Stopping(stopping) => (Phase::Stopping, stopping_reason(live, stopping), stopping.since),
        State::Ended(ended) => (Phase::Stopping, ended_reason(view, live, ended), ended.since),
    };
    let text = world.own_text(view, live).or(view.want);
    let reloading = live.reloading(text.and_then(|want| want.unit.notify()), world.now);
    Status { phase, reason, since: Some(since), health, reloading }
}

/// Which other replica is replaced before it.
fn turn_reason<'a>(world: &World<'a>, view: View<'a>, live: &Live) -> Option<Reason> {
    let want = view.want.filter(|want| live.restart || !live.is_of(want))?;
    let is_to_go = world.stop_reason(view, live).is_some();
    let before = world.waits_for_turn(view).filter(|_| !is_to_go && want.group().is_some())?;
    Some(Reason::Turn { before: before.clone(), stalled: world.holds_others_up(before) })
}

/// What the other one of a start-first update is doing.
fn beside_reason<'a>(world: &World<'a>, view: View<'a>) -> Option<Reason> {
    let other = view.seen.beside.as_deref()?;
    let id = other.id.clone();
    let how = Box::new(live_reason(world, view, other));
    match view.seen.role(other) {
        Role::Leaves => Some(Reason::Previous { id, how }),
        Role::Comes | Role::Own => {
            let stays = other.is_up() && world.stop_reason(view, other).is_none();
            let at = view.want.filter(|_| stays).and_then(|want| world.takes_over_at(want, other));
            Some(Reason::Next { id, how, at })
        }
    }
}

/// Why there is none, if one is wanted.
fn next_reason<'a>(world: &World<'a>, view: View<'a>, live: &Live) -> Option<Reason> {
    if world.stop_reason(view, live).is_some() {
        return None;
    }
    let rest = world.successor_rest(view, live)?;
    let has_failed = matches!(rest, Rest::Failed(_) | Rest::GaveUp(_) | Rest::Completed | Rest::Backoff(..));
    let is_other_text = view.want.is_some_and(|want| want.fingerprint != live.run.fingerprint);
    let reason = Box::new(rest_status(world, view, rest).reason);
    // In the same words as where the old one is to stop first.
    let is_as_ever = is_other_text && !has_failed;
    Some(if is_as_ever { Reason::ChangeWaits(reason) } else { Reason::NextWaits(reason) })
}

fn live_reason<'a>(world: &World<'a>, view: View<'a>, live: &Live) -> Reason {
    if live.stuck_since(world.now).is_some() {
        return Reason::Stuck { processes: live.left() };
    }
    match &live.state {
        State::Starting => Reason::Starting,
        State::Running { .. } => {
            unwell(world, view, live).or_else(|| tells(world, view, live)).unwrap_or(Reason::Running)
        }
        State::Stopping(stopping) => stopping_reason(live, stopping),
        State::Ended(ended) => ended_reason(view, live, ended),
    }
}

fn running_reason<'a>(world: &World<'a>, view: View<'a>, live: &Live) -> Reason {
    let why = world.stop_reason(view, live);
    let first = |why: Why| world.in_the_way(live, &why).map(|(unit, tie)| (why, unit.clone(), tie));
    match why.and_then(first) {
        Some((why, unit, tie)) => Reason::StopsAfter { why, unit, tie },
        None => match world.change_waits(view, live) {
            Some(rest) => Reason::ChangeWaits(Box::new(rest_status(world, view, rest).reason)),
            None => live_reason(world, view, live),
        },
    }
}

fn unwell<'a>(world: &World<'a>, view: View<'a>, live: &Live) -> Option<Reason> {
    let text = world.own_text(view, live).or(view.want)?;
    let (check, said) = live.complaint(text.unit.health.as_deref()?)?;
    Some(Reason::Unwell { check, said })
}

fn tells<'a>(world: &World<'a>, view: View<'a>, live: &Live) -> Option<Reason> {
    let text = world.own_text(view, live).or(view.want)?;
    live.told_words(text.unit.notify()).map(Reason::Tells)
}

fn stopping_reason(live: &Live, stopping: &Stopping) -> Reason {
    let why = stopping.why.clone();
    if live.pre_stop_runs(stopping) && stopping.killing.count == 0 {
        return Reason::PreStop { why };
    }
    match stopping.killing.count {
        0 => Reason::Stopping { why, kill_at: stopping.kill_at },
        _ => Reason::Killed { why, unhandled: stopping.unhandled },
    }
}

fn ended_reason(view: View, live: &Live, ended: &Ended) -> Reason {
    let last = view.seen.end_of(&live.id).map(|last| last.outcome.clone());
    let left = match (ended.empty, live.hook_at_end(), ended.drained) {
        (false, _, _) => Remains::Processes,
        (true, Some(point), _) => Remains::Hook(point),
        (true, None, false) => Remains::Log,
        (true, None, true) => Remains::Cgroup,
    };
    Reason::Clearing { last, left, trouble: view.seen.trouble.clone() }
}

fn rest_status<'a>(world: &World<'a>, view: View<'a>, rest: Rest<'a>) -> Status {
    let since = view.seen.last.as_ref().map(|last| last.at);
    let (phase, reason) = match rest {
        Rest::Down => (Phase::Stopped, Reason::Shutdown),
        Rest::Removed => (Phase::Stopped, Reason::Removed),
        Rest::Held(hold) => (Phase::Stopped, Reason::Held(hold.clone())),
        Rest::Disabled => (Phase::Stopped, Reason::Disabled),
        Rest::Cycle(ring) => (Phase::Failed, Reason::Cycle(ring.into_iter().cloned().collect())),
        Rest::Needs(lacks) => {
            let lacking = lacks.iter().map(|lack| lacking(world, *lack)).collect();
            (Phase::Waiting, Reason::Needs { lacking, stalled: world.is_stalled(view, LOSS_CHAIN_MAX) })
        }
        // It is the same until the next boot.
        Rest::Unmet(condition @ Condition::KernelCmdline(_)) => (Phase::Stopped, unmet(world, condition)),
        Rest::Unmet(condition) => (Phase::Waiting, unmet(world, condition)),
        Rest::Scheduled(due, _) => (Phase::Waiting, scheduled(view, due)),
        Rest::Completed => (Phase::Completed, Reason::Completed),
        Rest::Failed(last) => (Phase::Failed, Reason::Failed { last: last.outcome.clone() }),
        Rest::GaveUp(last) => (Phase::Failed, gave_up(view, last)),
        Rest::Backoff(last, until) => (Phase::Backoff, backing_off(view, last, until)),
        Rest::WaitsFor(owner) => (Phase::Waiting, Reason::WaitsFor(owner.clone())),
        Rest::Due(_) => (Phase::Waiting, Reason::Due),
    };
    Status { phase, reason, since, health: None, reloading: Reloading::Done }
}

fn unmet<'a>(world: &World<'a>, condition: &'a Condition) -> Reason {
    Reason::Unmet { condition: condition.clone(), known: world.knows(condition) }
}

fn lacking<'a>(world: &World<'a>, lack: Lack<'a>) -> Lacking {
    if let Some(group) = world.group(lack.unit) {
        let (unit, need) = (lack.unit.clone(), lack.need);
        let why = match (need, world.members(lack.unit).next()) {
            (_, None) => Some("it has no replicas"),
            (Need::Healthy, _) if group.unit.health.is_none() => Some("it has no health check"),
            (Need::Completed, _) => Some("not all of its replicas"),
            (Need::Started | Need::Healthy, _) => Some("none of its replicas"),
        };
        return Lacking { unit, need, why };
    }
    let view = world.view(lack.unit);
    let rest = view.seen.live.is_none().then(|| world.rest(view));
    let health = view.want.and_then(|want| want.unit.health.as_deref());
    let live = view.seen.live.as_ref().filter(|_| lack.need == Need::Healthy);
    let unwell = match (health, live.and_then(|live| world.health_of(view, live))) {
        (None, _) if lack.need == Need::Healthy && view.want.is_some() => Some("it has no health check"),
        (_, Some(HealthStatus::Unready)) => Some("it is not ready"),
        _ => None,
    };
    let why = unwell.or_else(|| rest.and_then(resting));
    Lacking { unit: lack.unit.clone(), need: lack.need, why }
}

fn resting(rest: Rest) -> Option<&'static str> {
    match rest {
        Rest::Removed => Some("no such unit"),
        Rest::Held(_) => Some("stopped by hand"),
        Rest::Disabled => Some("not enabled"),
        Rest::Completed => Some("it has ended"),
        Rest::Failed(_) | Rest::GaveUp(_) | Rest::Cycle(_) => Some("it has failed"),
        Rest::Backoff(..) => Some("it is backing off"),
        Rest::Scheduled(..) => Some("it waits for its time"),
        Rest::Needs(_) | Rest::Unmet(_) | Rest::WaitsFor(_) => Some("it waits itself"),
        Rest::Down | Rest::Due(_) => None,
    }
}

fn scheduled(view: View, due: Due) -> Reason {
    let last = view.seen.timetable.as_ref().and_then(|table| table.last.clone());
    let (next, blind) = match due {
        Due::At(next) => (next, None),
        Due::Now(_) => (None, None),
        Due::Unknown(blind) => (None, Some(blind)),
    };
    Reason::Scheduled { next, blind, last }
}

fn gave_up(view: View, last: &ExitRecord) -> Reason {
    let limit = view.want.and_then(|want| want.unit.restart.limit);
    let interval = limit.map_or(Duration::ZERO, |limit| limit.interval);
    Reason::GaveUp { starts: view.seen.backoff.window_starts, interval, last: last.outcome.clone() }
}

fn backing_off(view: View, last: &ExitRecord, until: BootTime) -> Reason {
    let attempt = view.seen.backoff.short_runs.saturating_add(1);
    Reason::Backoff { until, attempt, last: last.outcome.clone() }
}

impl Live {
    fn left(&self) -> Option<u32> {
        match &self.state {
            State::Starting | State::Running { .. } => None,
            State::Stopping(stopping) => stopping.killing.left,
            State::Ended(ended) => ended.killing.left,
        }
    }
}

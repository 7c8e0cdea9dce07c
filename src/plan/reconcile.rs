//! `reconcile`: what is to be done now, and when to look again.
//!
//! It looks at everything each time and compares what is with what should be. In-flight marks that
//! [`Observed::begin`] made keep it from asking twice. Who asks again and again lets a [`Planner`](super::Planner) look only at what changed; what comes
//! out is the same, because each unit is decided on by itself ([`plan_unit`]), and because its wake-ups are all the times at which anything about it,
//! be it for its own plan or for that of another unit, becomes otherwise by the clock alone.

use std::time::Duration;

use super::action::{Action, reload_of};
use super::contents::plan_contents;
use super::decide::Rest;
use super::desired::{Desired, Want};
use super::handover::plan_handover;
use super::health::Probing;
use super::hooks::{BeforeSignal, plan_post_start, plan_post_stop, plan_pre_stop};
use super::observed::{Asked, Backoff, Ended, Killing, Live, Observed, Seen, State, Stopping};
use super::schedule::plan_schedule;
use super::sockets::plan_sockets;
use super::time::BootTime;
use super::trial::Trial;
use super::world::{View, World};
use crate::unit::{ContainerId, OnLimit};

/// What to do now, and when to ask again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In this order; each through [`Observed::begin`].
    pub actions: Vec<Action>,
    /// The earliest deadline; `None` sleeps until something happens.
    pub wake_at: Option<BootTime>,
}

/// After the end of pid 1 the kernel ends the rest of its namespace in far less; what is left then is killed.
const LINGER: Duration = Duration::from_millis(100);

/// A plan in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    plan: Plan,
    forgets: Vec<Action>,
}

/// Compares `desired` with `observed`. Level-triggered: the whole state, each time; in a quiet world the plan is empty.
/// What others go by comes first, and alone (`Draft::first`).
pub fn reconcile(desired: &Desired, observed: &Observed, now: BootTime) -> Plan {
    let world = World::new(desired, observed, now);
    let mut draft = Draft::default();
    world.views().for_each(|view| draft.add(plan_unit(&world, view)));
    draft.finish()
}

/// All that there is to be done for one unit.
pub(super) fn plan_unit<'a>(world: &World<'a>, view: View<'a>) -> Draft {
    world.turn();
    let (mut plan, mut forgets) = (Plan::default(), Vec::new());
    plan_trial(world, view, &mut plan);
    plan_sockets(world, view, &mut plan);
    plan_schedule(world, view, &mut plan);
    match &view.seen.live {
        Some(live) => {
            plan_live(world, view, live, &mut plan);
            view.seen.beside.iter().for_each(|beside| plan_live(world, view, beside, &mut plan));
            plan_handover(world, view, live, &mut plan);
        }
        None => plan_rest(world, view, &mut plan),
    }
    plan_turns(world, view, &mut plan);
    if view.want.is_none() && view.seen.has_marks() {
        forgets.push(Action::Forget { unit: view.name.clone() });
    }
    Draft { plan, forgets }
}

impl Draft {
    /// Units are added in name order.
    pub fn add(&mut self, other: Draft) {
        let Draft { plan: Plan { actions, wake_at }, forgets } = other;
        self.plan.actions.extend(actions);
        wake_at.into_iter().for_each(|at| self.plan.wake(at));
        self.forgets.extend(forgets);
    }

    /// Whether nothing is to be done.
    pub fn is_quiet(&self) -> bool {
        self.plan.actions.is_empty() && self.forgets.is_empty()
    }

    /// When to look again.
    pub fn wake_at(&self) -> Option<BootTime> {
        self.plan.wake_at
    }

    /// Of actions by which all else is to be found anew the first kind that there is: a text is gone back to, so others are left; a run is asked for,
    /// so one before it does not count any more for those who need it.
    pub fn first(&self) -> Option<fn(&Action) -> bool> {
        let is_rollback = |action: &Action| matches!(action, Action::RollBack { .. });
        let is_raise = |action: &Action| matches!(action, Action::Raise { .. });
        let kinds: [fn(&Action) -> bool; 2] = [is_rollback, is_raise];
        kinds.into_iter().find(|is_of| self.plan.actions.iter().any(is_of))
    }

    /// The whole.
    pub fn finish(mut self) -> Plan {
        if let Some(first) = self.first() {
            self.plan.actions.retain(first);
            return self.plan;
        }
        // Last, because it raises the floor from which the starts above took their generation.
        self.plan.actions.append(&mut self.forgets);
        self.plan
    }
}

/// Times at which others see it otherwise, whether or not it has something to do then.
fn plan_turns<'a>(world: &World<'a>, view: View<'a>, plan: &mut Plan) {
    let live = view.seen.live.as_ref();
    let killing = view.seen.lives().filter_map(Live::killing).filter_map(Killing::stuck_at);
    let hold = view.seen.hold.as_ref().and_then(|hold| hold.until).map(|until| until.boot);
    killing.chain(hold).filter(|at| *at > world.now).for_each(|at| plan.wake(at));
    if live.is_some_and(Live::is_up) {
        return;
    }
    if let Some(Rest::Backoff(_, next_at)) = world.rest_itself(view) {
        plan.wake(next_at);
    }
}

/// Says how a text did that has not been judged.
fn plan_trial(world: &World, view: View, plan: &mut Plan) {
    let Some(want) = view.want.filter(|want| view.seen.proven != Some(want.fingerprint)) else { return };
    let (unit, fingerprint) = (view.name.clone(), want.fingerprint);
    if let Some(why) = world.rollback(view) {
        return plan.actions.push(Action::RollBack { unit, fingerprint, why });
    }
    match world.trial(view) {
        Trial::Passed => plan.actions.push(Action::Prove { unit, fingerprint }),
        Trial::Open(Some(until)) if until > world.now => plan.wake(until),
        Trial::Open(_) | Trial::Failed(_) => {}
    }
}

fn plan_live<'a>(world: &World<'a>, view: View<'a>, live: &Live, plan: &mut Plan) {
    match &live.state {
        State::Starting | State::Running { .. } => match world.stop_reason(view, live) {
            None => {
                plan_terms(view.want, live, plan);
                plan_contents(view.want, live, world.now, plan);
                plan_relies(world, view.want, live, plan);
                let text = world.own_text(view, live);
                plan_probes(live, world.probing(text, live), plan);
                plan_post_start(live, text.or(view.want).is_some_and(|want| want.unit.notify().is_some()), plan);
                plan_wishes(text.or(view.want), live, plan);
                plan_silence(world, text, live, plan);
                let until = world.runs_until(view.want, live).filter(|until| *until > world.now);
                until.into_iter().for_each(|until| plan.wake(until));
            }
            Some(why) if world.in_the_way(live, &why).is_some() => {}
            Some(why) => {
                let signal = live.pid.filter(|_| !live.stops_by_hook()).map(|_| live.run.stop_signal);
                plan.actions.push(Action::Stop { id: live.id.clone(), signal, why });
            }
        },
        State::Stopping(stopping) => {
            plan_probes(live, None, plan);
            plan_stopping(live, stopping, world.now, plan);
        }
        State::Ended(ended) => {
            plan_probes(live, None, plan);
            plan_ended(view, live, ended, world.now, plan);
        }
    }
}

/// A silence that is over its time is made sure of before it counts: what was said may be on its way.
fn plan_silence(world: &World, own_text: Option<&Want>, live: &Live, plan: &mut Plan) {
    let Some(want) = own_text else { return };
    world.reload_due(want, live).into_iter().for_each(|due| plan.wake(due));
    let Some((due, _)) = world.silence(&want.unit, live) else { return };
    if due > world.now {
        plan.wake(due);
    } else if live.is_to_be_heard(due) {
        plan.actions.push(Action::Hear { id: live.id.clone() });
    }
}

/// What is asked of it, if that is to be something else than it is.
fn plan_probes(live: &Live, probing: Option<Probing>, plan: &mut Plan) {
    if live.probing != probing {
        plan.actions.push(Action::Probe { id: live.id.clone(), probing });
    }
}

/// What the text changes of a generation that goes on running.
fn plan_terms(want: Option<&Want>, live: &Live, plan: &mut Plan) {
    // Terms of another text than it was made from are not its own: it goes on only because its successor could not start.
    let Some(want) = want.filter(|want| want.fingerprint == live.run.fingerprint) else { return };
    let limits = live.limits_to_ask(&want.unit);
    if limits.is_some() || live.run.terms(&want.unit) != live.run {
        plan.actions.push(Action::Update { id: live.id.clone(), unit: want.unit.clone(), limits });
    }
}

/// Dependencies with `on_loss` that have come, or that the text names since.
fn plan_relies(world: &World, want: Option<&Want>, live: &Live, plan: &mut Plan) {
    let relies = want.map(|want| world.new_relies(want, Some(live))).unwrap_or_default();
    if !relies.is_empty() {
        plan.actions.push(Action::Rely { id: live.id.clone(), relies });
    }
}

/// What clients want of a generation that goes on running.
fn plan_wishes(want: Option<&Want>, live: &Live, plan: &mut Plan) {
    if live.pid.is_none() {
        return;
    }
    plan_signals(live, plan);
    if let (Some(want), Some(Asked::No)) = (want, live.reload) {
        plan.actions.push(Action::Reload { id: live.id.clone(), how: reload_of(&want.unit) });
    }
}

fn plan_signals(live: &Live, plan: &mut Plan) {
    let signals = live.signals.iter().map(|signal| Action::Signal { id: live.id.clone(), signal: *signal });
    plan.actions.extend(signals);
}

fn plan_stopping(live: &Live, stopping: &Stopping, now: BootTime, plan: &mut Plan) {
    let id = &live.id;
    if live.pid.is_some() {
        plan_signals(live, plan);
        if stopping.signal == Asked::No {
            match plan_pre_stop(live, stopping, now, plan) {
                BeforeSignal::Begins => return,
                BeforeSignal::Runs => {}
                BeforeSignal::Over => {
                    let (signal, why) = (Some(live.run.stop_signal), stopping.why.clone());
                    plan.actions.push(Action::Stop { id: id.clone(), signal, why });
                }
            }
        }
    }
    let kill_at = if stopping.unhandled { stopping.since } else { stopping.kill_at };
    plan.at(stopping.killing.next_at(kill_at), now, || Action::Kill { id: id.clone() });
}

fn plan_ended(view: View, live: &Live, ended: &Ended, now: BootTime, plan: &mut Plan) {
    let id = &live.id;
    if !ended.empty {
        let kill_at = ended.killing.next_at(ended.since.after(LINGER));
        plan.at(kill_at, now, || Action::Kill { id: id.clone() });
    } else if !plan_post_stop(live, ended, view.seen.end_of(&live.id).is_some(), plan)
        && ended.drained
        && !ended.clearing
    {
        let clear_at = ended.clear_at.unwrap_or(ended.since);
        plan.at(clear_at, now, || Action::Clear { id: id.clone() });
    }
}

fn plan_rest<'a>(world: &World<'a>, view: View<'a>, plan: &mut Plan) {
    match world.rest(view) {
        Rest::Due(join) => plan.actions.extend(start(world, view, join, false)),
        Rest::Failed(last) => plan.actions.extend(world.raises(view, last)),
        Rest::GaveUp(last) => {
            plan.actions.extend(world.raises(view, last));
            plan.actions.extend(reboot(world, view));
        }
        // When these end by the clock, [`plan_turns`] says.
        Rest::Backoff(..) | Rest::Held(_) => {}
        Rest::Scheduled(_, lost) => {
            let Some(lost) = lost else { return };
            plan.actions.extend(world.raises(view, lost.last));
            if lost.is_spent {
                plan.actions.extend(reboot(world, view));
            }
        }
        Rest::Down | Rest::Removed | Rest::Disabled | Rest::Cycle(_) | Rest::Completed => {}
        Rest::Needs(_) | Rest::Unmet(_) | Rest::WaitsFor(_) => {}
    }
}

/// The next generation; `beside`: while the unit's runs on.
pub(super) fn start(world: &World, view: View, join: Option<&ContainerId>, beside: bool) -> Option<Action> {
    let want = view.want?;
    let id = ContainerId { unit: view.name.clone(), generation: world.used(view).checked_add(1)? };
    let (unit, fingerprint, join) = (want.unit.clone(), want.fingerprint, join.cloned());
    Some(Action::Start { id, unit, fingerprint, join, relies: world.new_relies(want, None), beside })
}

fn reboot(world: &World, view: View) -> Option<Action> {
    match view.want?.unit.restart.on_limit {
        OnLimit::StayFailed => None,
        OnLimit::Reboot => (!world.is_rebooting()).then(|| Action::Reboot { unit: view.name.clone() }),
    }
}

impl Plan {
    /// Do it if it is due, else look again when it is.
    pub(super) fn at(&mut self, due: BootTime, now: BootTime, action: impl FnOnce() -> Action) {
        if due <= now {
            self.actions.push(action());
        } else {
            self.wake(due);
        }
    }

    pub(super) fn wake(&mut self, at: BootTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

impl Seen {
    /// Something that is to go when the file goes: all if nothing is live and no socket open, else what would outlive these.
    fn has_marks(&self) -> bool {
        let wishes = self.hold.is_some() || self.manual || self.start_now || self.timetable.is_some();
        let is_over = self.live.is_none() && self.sockets.is_empty();
        is_over || !self.fresh || wishes || self.backoff != Backoff::default()
    }
}

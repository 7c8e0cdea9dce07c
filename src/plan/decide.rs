//! The two questions that everything else follows from: why must a live generation stop, and what keeps a unit without one
//! from starting. The plan and the words for people both come from these answers, so they cannot disagree.

use super::desired::Want;
use super::exit::ExitRecord;
use super::handover::Role;
use super::hold::Hold;
use super::links::network_owner;
use super::observed::{Killing, Live, Seen, State};
use super::order::{LOSS_CHAIN_MAX, Lack};
use super::reason::{Tie, Why};
use super::schedule::Due;
use super::time::BootTime;
use super::world::{View, World};
use crate::unit::{Condition, ContainerId, OnBad, Schedule, UnitName};

/// What a unit without a live generation is doing, the strongest reason first.
pub(super) enum Rest<'a> {
    /// Everything stops.
    Down,
    /// Its file is gone.
    Removed,
    /// `moored stop`.
    Held(&'a Hold),
    /// `enabled = false`, and nobody started it by hand.
    Disabled,
    /// Ended well, and the policy wants no other start.
    Completed,
    /// Ended badly, and the policy wants no other start.
    Failed(&'a ExitRecord),
    /// The policy wants another start, the limit does not.
    GaveUp(&'a ExitRecord),
    /// The policy's next start is not due yet.
    Backoff(&'a ExitRecord, BootTime),
    /// It would wait for itself, through these.
    Cycle(Vec<&'a UnitName>),
    /// These dependencies are not there.
    Needs(Vec<Lack<'a>>),
    /// The host is not as it must be.
    Unmet(&'a Condition),
    /// The unit whose network it is to share does not run.
    WaitsFor(&'a UnitName),
    /// Its schedule has no run for it now.
    Scheduled(Due, Option<Lost<'a>>),
    /// To be started now, in the network of that generation.
    Due(Option<&'a ContainerId>),
}

/// A run of a schedule that failed, and that the policy makes no other of before the next time.
#[derive(Clone, Copy)]
pub(super) struct Lost<'a> {
    pub last: &'a ExitRecord,
    /// It would make one, if the limit let it.
    pub is_spent: bool,
}

/// How many links from one unit's network to the next are followed.
const NETWORK_CHAIN_MAX: usize = 32;

impl<'a> World<'a> {
    /// Why the generation that is up must stop; `None` lets it run.
    pub fn stop_reason(&self, view: View<'a>, live: &Live) -> Option<Why> {
        self.stop_reason_within(view, live, NETWORK_CHAIN_MAX, LOSS_CHAIN_MAX)
    }

    /// The same, following dependencies only so far.
    pub(super) fn stop_reason_after(&self, view: View<'a>, live: &Live, losses: usize) -> Option<Why> {
        self.stop_reason_within(view, live, NETWORK_CHAIN_MAX, losses)
    }

    fn stop_reason_within(&self, view: View<'a>, live: &Live, chain: usize, losses: usize) -> Option<Why> {
        if self.shutdown().is_some() {
            return Some(Why::Shutdown);
        }
        let Some(want) = view.want else { return Some(Why::Removed) };
        if view.seen.hold_at(self.now).is_some() {
            return Some(Why::Held);
        }
        if !want.unit.enabled && !view.seen.manual {
            return Some(Why::Disabled);
        }
        let role = view.seen.role(live);
        if role == Role::Leaves || live.replaced {
            return Some(Why::Changed);
        }
        if let Some(owner) = live.run.joined.as_ref().filter(|owner| !self.stands(owner, chain, losses)) {
            return Some(Why::Network(owner.unit.clone()));
        }
        if let Some(lost) = self.loss(want, live, losses) {
            return Some(lost);
        }
        let same = live.is_of(want);
        if role == Role::Comes {
            return if same { self.successor_fails(want, live) } else { Some(Why::Changed) };
        }
        // Whether or not it could be started again: it is not stopped for the sake of that.
        if let Some(overrun) = self.overrun(view.want, live) {
            return Some(overrun);
        }
        if (live.restart || !same) && self.is_start_first(view, want, live) {
            return self.unhealthy(self.own_text(view, live)?, live).map(Why::Unhealthy);
        }
        let replace = match (live.restart, same) {
            (true, _) => Why::Restart,
            (false, false) => Why::Changed,
            (false, true) => Why::Unhealthy(self.unhealthy(want, live)?),
        };
        // What could not start again is not stopped for the sake of a start.
        let is_refused = self.is_tied(view) && self.ring(view.name).is_some();
        if matches!(replace, Why::Restart | Why::Changed) && self.waits_for_turn(view).is_some() {
            return self.own_complaint(view, live).filter(|_| !is_refused);
        }
        // What the host is like may not be known yet; it soon is.
        let waits = || replace == Why::Changed && (self.unmet(want).is_some() || self.is_stalled(view, losses));
        (!is_refused && !waits()).then_some(replace)
    }

    /// What is wrong with it by the checks of its own text.
    fn own_complaint(&self, view: View<'a>, live: &Live) -> Option<Why> {
        self.unhealthy(self.own_text(view, live)?, live).map(Why::Unhealthy)
    }

    /// Whether this very generation is up and may go on. (Up, not running: after a crash the word that it runs may be
    /// missing, while one that shares its network is proof of it.)
    fn stands(&self, id: &ContainerId, chain: usize, losses: usize) -> bool {
        let Some(chain) = chain.checked_sub(1) else { return false };
        let Some(view) = self.find(&id.unit) else { return false };
        let live = view.seen.live.as_ref().filter(|live| live.id == *id && live.is_up());
        live.is_some_and(|live| self.stop_reason_within(view, live, chain, losses).is_none())
    }

    /// A unit that is to stop before this generation, which is to stop for `why`; one that is stuck is not waited for.
    pub fn in_the_way(&self, live: &Live, why: &Why) -> Option<(&'a UnitName, Tie)> {
        let in_its_network = |other: &&Live| other.run.joined.as_ref() == Some(&live.id);
        let is_left = |other: &&Live| other.is_alive() && other.stuck_since(self.now).is_none();
        let joiners = self.links().joiners(&live.id.unit).filter_map(|name| self.find(name));
        let mut joiners =
            joiners.filter_map(|view| view.seen.lives().find(|other| in_its_network(other) && is_left(other)));
        let joiner = joiners.next().map(|live| (&live.id.unit, Tie::Network));
        joiner.or_else(|| self.dependent_in_the_way(live, why).map(|unit| (unit, Tie::Dependency)))
    }

    /// What a unit without a live generation is doing.
    pub fn rest(&self, view: View<'a>) -> Rest<'a> {
        self.rest_itself(view).unwrap_or_else(|| view.want.map_or(Rest::Removed, |want| self.due(view, want)))
    }

    /// What keeps it from a start that is a matter of itself; `None`: it is to start as soon as others and the host let it.
    pub(super) fn rest_itself(&self, view: View<'a>) -> Option<Rest<'a>> {
        let seen = view.seen;
        if self.shutdown().is_some() {
            return Some(Rest::Down);
        }
        let Some(want) = view.want else { return Some(Rest::Removed) };
        if let Some(hold) = seen.hold_at(self.now) {
            return Some(Rest::Held(hold));
        }
        if !want.unit.enabled && !seen.manual {
            return Some(Rest::Disabled);
        }
        if let Some(schedule) = want.unit.schedule.as_deref().filter(|_| !seen.start_now) {
            return self.after_schedule(view, want, schedule);
        }
        let wished = seen.start_now || seen.fresh;
        match seen.last_try(want) {
            Some(last) if !wished && last.stopped.is_none() => self.after_end(want, seen, last),
            Some(_) | None => None,
        }
    }

    /// Between the runs of a schedule: the restart policy makes new ones of a failure of this text, the calendar all others. One that was cut off for
    /// the sake of another text or unit is begun again, as any oneshot.
    fn after_schedule(&self, view: View<'a>, want: &'a Want, schedule: &Schedule) -> Option<Rest<'a>> {
        let last = view.seen.last_try(want).filter(|_| !view.seen.fresh);
        let due = self.schedule_due(view, schedule);
        if matches!(due, Due::Now(_)) || last.is_some_and(ExitRecord::is_cut_off) {
            return None;
        }
        let failed = last.filter(|last| {
            last.fingerprint == want.fingerprint && last.stopped.is_none() && !last.outcome.is_success()
        });
        let waits = |lost| Some(Rest::Scheduled(due, lost));
        match failed.map(|last| (last, self.after_end(want, view.seen, last))) {
            // Again at once, or soon.
            Some((_, None)) => None,
            Some((_, Some(rest @ Rest::Backoff(..)))) => Some(rest),
            Some((last, Some(rest))) => waits(Some(Lost { last, is_spent: matches!(rest, Rest::GaveUp(_)) })),
            None => waits(None),
        }
    }

    /// After a run that ended by itself: another text starts anew, the same one as its policy says.
    pub(super) fn after_end(&self, want: &'a Want, seen: &Seen, last: &'a ExitRecord) -> Option<Rest<'a>> {
        let restart = &want.unit.restart;
        let next_at = seen.backoff.next_at(restart, last);
        if last.fingerprint != want.fingerprint {
            // Started by hand, ended, then edited: a unit that is not enabled does not rise by itself.
            (!want.unit.enabled).then_some(Rest::Disabled)
        } else if want.trial == Some(OnBad::StayFailed)
            && seen.proven != Some(want.fingerprint)
            && !last.outcome.is_success()
        {
            Some(Rest::Failed(last))
        } else if !last.outcome.is_restarted_by(restart.policy) {
            Some(if last.outcome.is_success() { Rest::Completed } else { Rest::Failed(last) })
        } else if seen.backoff.fingerprint == want.fingerprint && seen.backoff.is_spent(restart, next_at) {
            Some(Rest::GaveUp(last))
        } else if next_at > self.now {
            Some(Rest::Backoff(last, next_at))
        } else {
            None
        }
    }

    /// What the start waits for that would come of a running unit's changed text.
    pub(super) fn change_waits(&self, view: View<'a>, live: &Live) -> Option<Rest<'a>> {
        let want = view.want.filter(|want| want.fingerprint != live.run.fingerprint)?;
        match self.due(view, want) {
            rest @ (Rest::Cycle(_) | Rest::Needs(_) | Rest::Unmet(_)) => Some(rest),
            _ => None,
        }
    }

    /// What others and the host have to say to a start.
    pub(super) fn due(&self, view: View<'a>, want: &'a Want) -> Rest<'a> {
        if self.is_tied(view) {
            if let Some(ring) = self.ring(view.name) {
                return Rest::Cycle(ring);
            }
            let lacks = self.lacks(want, LOSS_CHAIN_MAX);
            if !lacks.is_empty() {
                return Rest::Needs(lacks);
            }
        }
        if let Some(condition) = self.unmet(want) {
            return Rest::Unmet(condition);
        }
        let Some(owner) = network_owner(&want.unit) else { return Rest::Due(None) };
        let running = self.view(owner).seen.running().map(|live| &live.id);
        match running.filter(|id| self.stands(id, NETWORK_CHAIN_MAX, LOSS_CHAIN_MAX)) {
            Some(id) => Rest::Due(Some(id)),
            None => Rest::WaitsFor(owner),
        }
    }

    /// Its text names other units that it waits for.
    fn is_tied(&self, view: View<'a>) -> bool {
        view.want.is_some_and(|want| !want.unit.depends_on.is_empty() || network_owner(&want.unit).is_some())
    }
}

impl ExitRecord {
    /// It was stopped, and nobody wanted that it stays so.
    fn is_cut_off(&self) -> bool {
        match self.stopped {
            Some(Why::Changed | Why::Restart | Why::Unheard | Why::Network(_) | Why::Dependency(_)) => true,
            Some(Why::Shutdown | Why::Removed | Why::Held | Why::Disabled | Why::Unhealthy(_)) | None => false,
        }
    }
}

impl Seen {
    /// The hold, unless its time is over.
    pub fn hold_at(&self, now: BootTime) -> Option<&Hold> {
        self.hold.as_deref().filter(|hold| hold.until.is_none_or(|until| until.boot > now))
    }

    /// The end that counts for a start of this text. Of two that ran beside each other: that of the one that took over, if it did, for how the one
    /// that it replaced ended says nothing more; else, whichever ended last, that of the text; of the same text, that of the unit's own.
    pub(super) fn last_try(&self, want: &Want) -> Option<&ExitRecord> {
        let is_of = |record: &ExitRecord| record.fingerprint == want.fingerprint;
        let last = self.last.as_deref()?;
        let counts = |other: &&ExitRecord| match other.id.generation > last.id.generation {
            true => !other.beside || is_of(other) && !is_of(last),
            false => is_of(other) && last.beside && !other.beside,
        };
        Some(self.previous.as_deref().filter(counts).unwrap_or(last))
    }

    fn running(&self) -> Option<&Live> {
        self.live.as_ref().filter(|live| matches!(live.state, State::Running { .. }))
    }
}

impl Live {
    /// Something of its program may still run.
    pub(super) fn is_alive(&self) -> bool {
        match self.state {
            State::Starting | State::Running { .. } | State::Stopping(_) => true,
            State::Ended(_) => false,
        }
    }

    /// Since when it does not die although it was killed.
    pub fn stuck_since(&self, now: BootTime) -> Option<BootTime> {
        self.killing()?.stuck_since(now)
    }

    /// The kills of what there still may be of it.
    pub(super) fn killing(&self) -> Option<&Killing> {
        match &self.state {
            State::Starting | State::Running { .. } => None,
            State::Stopping(stopping) => Some(&stopping.killing),
            State::Ended(ended) if ended.empty => None,
            State::Ended(ended) => Some(&ended.killing),
        }
    }
}

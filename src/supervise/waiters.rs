//! Clients that wait: for units to come to a goal, for what is on disk to be read, for the end.
//!
//! Each round looks whether a wait is over; [`wait`](super::wait) judges one unit, [`marks`](super::marks) whether what was asked of it is on the
//! disk.

use super::clock::{self, wall};
use super::marks::Progress;
use super::ps::phase_word;
use super::round::Supervisor;
use super::wait::{Goal, Verdict, judge};
use crate::control::{Reply, Response};
use crate::plan::{BootTime, Phase, Seen, Statuses};
use crate::unit::{Kind, UnitName, replica_number};

/// A client that waits.
pub(super) struct Waiter {
    pub(super) reply: Reply,
    pub(super) what: Waiting,
    pub(super) deadline: Option<BootTime>,
    /// The goal that was pending at the last look. It is the first at the next: with a thousand goals, most rounds end there.
    pending: usize,
}

impl Waiter {
    pub(super) fn new(reply: Reply, what: Waiting, deadline: Option<BootTime>) -> Waiter {
        Waiter { reply, what, deadline, pending: 0 }
    }
}

/// Whether a unit was known when it was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    No,
}

pub(super) enum Waiting {
    /// Each unit for its goal.
    Goals(Vec<(UnitName, Goal)>),
    /// What is on disk now to be read, then these (empty: all) for [`Goal::Converged`].
    Read {
        /// Of the reading.
        token: u64,
        /// Which; those that are still unknown when it is done are mistakes, unless they were known before.
        units: Vec<(UnitName, Known)>,
    },
    /// A unit to run no more until somebody acts.
    Over(UnitName),
    /// Everything to be stopped.
    Down,
    /// A keeper to be met: until then there is nothing to say of it, and `down` would not wait for its end.
    Report,
}

impl Supervisor {
    pub(super) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Answers those whose wait is over; says when the next one's patience ends.
    pub(super) fn answer(&mut self) -> Option<BootTime> {
        if self.waiters.is_empty() {
            return None;
        }
        let now = clock::now();
        self.planner.refresh(&self.desired, &self.observed);
        let mut waiters = std::mem::take(&mut self.waiters);
        waiters.retain_mut(|waiter| !self.is_answered(waiter, now.boot));
        self.waiters = waiters;
        let late = if self.waiters.is_empty() { None } else { self.files.marks.next_late(now.boot) };
        self.waiters.iter().filter_map(|waiter| waiter.deadline).chain(late).min()
    }

    fn is_answered(&self, waiter: &mut Waiter, now: BootTime) -> bool {
        if !waiter.reply.is_open() {
            return true;
        }
        let expired = waiter.deadline.is_some_and(|deadline| deadline <= now);
        let answer = match &waiter.what {
            Waiting::Goals(goals) => self.goals_answer(goals, &mut waiter.pending, now),
            Waiting::Read { .. } if expired => vec![timeout(vec!["the directories are still being read".to_owned()])],
            Waiting::Over(unit) => self.over_answer(unit, now),
            Waiting::Report if self.has_met_keeper() => vec![self.supervisor_report()],
            Waiting::Read { .. } | Waiting::Down | Waiting::Report => Vec::new(),
        };
        let answer = match answer.is_empty() && expired {
            true => vec![timeout(self.pending(waiter, now))],
            false => answer,
        };
        for response in &answer {
            // Whether anybody still reads it makes no difference.
            waiter.reply.send(response);
        }
        if !answer.is_empty() {
            waiter.reply.close();
        }
        !answer.is_empty()
    }

    /// Empty: it runs, or will by itself.
    fn over_answer(&self, unit: &UnitName, now: BootTime) -> Vec<Response> {
        let statuses = self.planner.statuses(&self.desired, &self.observed, now);
        let phase = statuses.get(unit).map_or(Phase::Stopped, |status| status.phase);
        let is_over = matches!(phase, Phase::Completed | Phase::Failed | Phase::Stopped);
        is_over.then(|| Response::TerminalEnded { phase: phase_word(phase).to_owned() }).into_iter().collect()
    }

    /// Empty: not yet.
    fn goals_answer(&self, goals: &[(UnitName, Goal)], pending: &mut usize, now: BootTime) -> Vec<Response> {
        let statuses = self.planner.statuses(&self.desired, &self.observed, now);
        let is_pending = |(unit, goal): &(UnitName, Goal)| self.verdict(unit, goal, &statuses, now) == Verdict::Pending;
        if goals.get(*pending).is_some_and(is_pending) {
            return Vec::new();
        }
        let mut verdicts = Vec::with_capacity(goals.len());
        for (at, (unit, goal)) in goals.iter().enumerate() {
            match self.verdict(unit, goal, &statuses, now) {
                Verdict::Pending => {
                    *pending = at;
                    return Vec::new();
                }
                verdict => verdicts.push((unit, goal, verdict)),
            }
        }
        let sync = goals.is_empty() || goals.iter().any(|(_, goal)| *goal == Goal::Converged);
        if sync { vec![self.synced(&verdicts)] } else { done(&verdicts) }
    }

    fn verdict(&self, unit: &UnitName, goal: &Goal, statuses: &Statuses<'_>, now: BootTime) -> Verdict {
        let verdict = self.verdict_on_unit(unit, goal, statuses, now);
        let Verdict::Reached(how) = verdict else { return verdict };
        let without = match goal {
            Goal::Stopped => "a reboot would start it",
            Goal::Up | Goal::Newer(_) => "a reboot may find it stopped",
            Goal::Reloaded | Goal::Converged => return Verdict::Reached(how),
        };
        match self.files.marks.progress(unit, now) {
            Progress::OnDisk => Verdict::Reached(how),
            Progress::Underway(_) => Verdict::Pending,
            Progress::Lacking(why) => Verdict::Reached(format!("{how}, but {without}: {why}")),
        }
    }

    fn verdict_on_unit(&self, unit: &UnitName, goal: &Goal, statuses: &Statuses<'_>, now: BootTime) -> Verdict {
        if *goal == Goal::Converged {
            match self.catalogue.needs_no_order(unit) {
                _ if self.catalogue.is_unsettled(unit) => return Verdict::Pending,
                Some(true) => return Verdict::Pending,
                Some(false) => return Verdict::Missed(self.catalogue.drift(unit).unwrap_or_default()),
                None => {}
            }
        }
        if self.desired.groups.contains_key(unit) {
            return self.verdict_on_group(unit, goal, statuses, now);
        }
        let Some(status) = statuses.get(unit) else {
            return match (goal, self.catalogue.errors(unit).is_empty()) {
                (Goal::Converged | Goal::Up | Goal::Newer(_) | Goal::Reloaded, false) => {
                    Verdict::Missed("its text is not valid, and there is no earlier one".to_owned())
                }
                (Goal::Stopped | Goal::Converged, _) => Verdict::Reached("gone".to_owned()),
                (Goal::Up | Goal::Newer(_) | Goal::Reloaded, true) => Verdict::Missed("its file is gone".to_owned()),
            };
        };
        let words = status.reason.words(now, &wall);
        let want = self.desired.units.get(unit);
        let kind = want.map_or(Kind::Service, |want| want.unit.kind);
        let verdict = judge(goal, kind, self.observed.unit(unit), &status, &words);
        match (goal, verdict) {
            (Goal::Converged, _) if self.catalogue.bad(unit).is_some() => {
                Verdict::Missed(self.catalogue.drift(unit).unwrap_or_default())
            }
            // Whether it stays so is what the trial is about.
            (Goal::Converged, Verdict::Reached(_)) if self.is_trying(unit) => Verdict::Pending,
            (_, verdict) => verdict,
        }
    }

    /// All of its replicas: that one misses it says how it is with the whole.
    fn verdict_on_group(&self, unit: &UnitName, goal: &Goal, statuses: &Statuses<'_>, now: BootTime) -> Verdict {
        let (mut missed, mut count) = (Vec::new(), 0_usize);
        for replica in self.replicas_of(unit) {
            count = count.saturating_add(1);
            match self.verdict_on_unit(&replica, goal, statuses, now) {
                Verdict::Pending => return Verdict::Pending,
                Verdict::Missed(why) => missed.push(format!("{replica}: {why}")),
                Verdict::Reached(_) => {}
            }
        }
        // What it was before, or had more of, is to be gone.
        let is_left = |(name, seen): (&UnitName, &Seen)| {
            let is_of = name == unit || name.prefix() == unit.as_str() && replica_number(name).is_some();
            is_of && seen.live.is_some() && !self.desired.units.contains_key(name)
        };
        let near = self.observed.units.range(unit.clone()..).map(|(name, seen)| (name, &**seen));
        if near.take_while(|(name, _)| name.as_str().starts_with(unit.as_str())).any(is_left) {
            return Verdict::Pending;
        }
        if *goal == Goal::Stopped && self.observed.unit(unit).is_some_and(|seen| !seen.sockets.is_empty()) {
            return Verdict::Pending;
        }
        if *goal == Goal::Stopped && missed.is_empty() {
            return Verdict::Reached("nobody listens any more".to_owned());
        }
        match (self.catalogue.bad(unit).is_some(), missed.len(), missed.first()) {
            (true, _, _) => Verdict::Missed(self.catalogue.drift(unit).unwrap_or_default()),
            (false, 0, _) | (false, _, None) => Verdict::Reached(format!("{count} replicas")),
            (false, 1, Some(why)) => Verdict::Missed(why.clone()),
            (false, more, Some(why)) => Verdict::Missed(format!("{more} of {count} replicas; {why}")),
        }
    }

    /// Whether a text of the unit's is on trial, and runs: while it is stopped it can do neither well nor badly.
    pub(super) fn is_trying(&self, unit: &UnitName) -> bool {
        let has_trial = self.desired.units.get(unit).is_some_and(|want| want.trial.is_some());
        has_trial && self.observed.unit(unit).is_some_and(|seen| seen.lives().next().is_some())
    }

    fn synced(&self, verdicts: &[(&UnitName, &Goal, Verdict)]) -> Response {
        let invalid = self.catalogue.errors_of(verdicts.iter().map(|(unit, _, _)| *unit));
        // One without any text was missed for its errors, which are said already.
        let has_text =
            |unit: &UnitName| self.catalogue.errors(unit).is_empty() || self.catalogue.in_force(unit).is_some();
        let with_text = verdicts.iter().filter(|(unit, _, _)| has_text(unit));
        let missed = with_text.filter_map(|(unit, _, verdict)| match verdict {
            Verdict::Missed(why) => Some(format!("{unit}: {why}")),
            Verdict::Pending | Verdict::Reached(_) => None,
        });
        let missed: Vec<String> = missed.collect();
        let code = match (invalid.is_empty(), missed.is_empty()) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 0,
        };
        Response::Synced { code, lines: invalid.into_iter().chain(missed).collect() }
    }

    fn pending(&self, waiter: &Waiter, now: BootTime) -> Vec<String> {
        let Waiting::Goals(goals) = &waiter.what else { return Vec::new() };
        let statuses = self.planner.statuses(&self.desired, &self.observed, now);
        let is_pending =
            |(unit, goal): &&(UnitName, Goal)| self.verdict(unit, goal, &statuses, now) == Verdict::Pending;
        let words =
            |unit: &UnitName| statuses.get(unit).map_or(String::new(), |status| status.reason.words(now, &wall));
        goals.iter().filter(is_pending).map(|(unit, _)| format!("{unit}: {}", words(unit))).collect()
    }
}

fn timeout(lines: Vec<String>) -> Response {
    Response::Synced { code: 3, lines }
}

/// What was reached, then what was not.
fn done(verdicts: &[(&UnitName, &Goal, Verdict)]) -> Vec<Response> {
    let (mut reached, mut missed) = (Vec::new(), Vec::new());
    for (unit, _, verdict) in verdicts {
        match verdict {
            Verdict::Pending => {}
            Verdict::Reached(how) => reached.push(format!("{unit}: {how}")),
            Verdict::Missed(why) => missed.push(format!("{unit}: {why}")),
        }
    }
    let mut answer = Vec::new();
    if !reached.is_empty() || missed.is_empty() {
        answer.push(Response::Done { lines: reached });
    }
    if !missed.is_empty() {
        answer.push(Response::Error { message: missed.join("; "), code: 1 });
    }
    answer
}

//! What must hold, judged from the truth and by its own arithmetic, at the moment an effect reaches the host.
//!
//! Numbers are those of the invariants in SAFETY.md. An *excuse* is a reason for which a running container may be
//! stopped: its file was read as gone or changed, a client said so, everything stops, the network it shares went, or its checks failed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moored::plan::{BootTime, Exit, ExitRecord, Fact, Outcome, Relies, WallTime, Want};
use moored::unit::{ContainerId, Fingerprint, Kind, OnBad, RestartPolicy, UnitName};

use super::UNITS;
use super::host::{Host, Stage};
use super::schedules::{Dealt, Turns};

#[derive(Default)]
pub struct Oracle {
    pub(super) units: BTreeMap<UnitName, Truth>,
    pub(super) excused: BTreeSet<ContainerId>,
    /// Those that go on until another one, which is on its way or wanted, has done well.
    pub(super) superseded: BTreeSet<ContainerId>,
    pub(super) journal: BTreeMap<ContainerId, Outcome>,
    /// Those whose end the supervisor was told, in that order.
    told: Vec<ContainerId>,
    /// Journalled as not stopped by us.
    by_itself: BTreeSet<ContainerId>,
    pub(super) ended: BTreeMap<ContainerId, End>,
    /// Each generation that was written down.
    pub(super) begun: BTreeMap<ContainerId, Begun>,
    /// Each start that `on_failure` asked for, and for whose end.
    pub(super) raised: BTreeSet<(UnitName, ContainerId)>,
    /// The first kill of each generation.
    pub(super) killed: BTreeMap<ContainerId, BootTime>,
    /// Failed startup or liveness often enough for a verdict.
    pub sick: BTreeSet<ContainerId>,
    /// Passed a check in some generation.
    pub well: BTreeSet<UnitName>,
    pub shutdown: bool,
    pub starts: u64,
    /// When something was started or stopped last.
    pub touched: BootTime,
    /// Texts that were rolled back since the file of their unit was another one.
    pub(super) rolled_back: BTreeSet<(UnitName, Fingerprint)>,
    pub(super) turns: Turns,
}

/// What a generation was begun with.
pub struct Begun {
    pub fingerprint: Fingerprint,
    pub enabled: bool,
    pub kind: Kind,
    /// It was to take over from one that runs.
    pub beside: bool,
    /// Whose network it was to share.
    pub joined: Option<ContainerId>,
    /// The one that ran then, if this one is `beside`.
    pub other: Option<ContainerId>,
    /// The generations of dependencies with `on_loss` on which it relies.
    pub relies: Relies,
    /// Those of them of which somebody wants another run.
    pub outdated: BTreeSet<UnitName>,
    /// What the wall clock showed.
    pub wall: WallTime,
}

/// How a generation really ended.
pub(super) struct End {
    pub(super) at: BootTime,
    pub(super) ran_for: Duration,
    pub(super) outcome: Outcome,
    pub(super) fingerprint: Fingerprint,
    pub(super) forgotten: bool,
}

impl End {
    pub(super) fn is_of(&self, fingerprint: Fingerprint) -> bool {
        self.fingerprint == fingerprint
    }
}

/// What is true of one unit.
#[derive(Clone, Default)]
pub(super) struct Truth {
    /// The last good text that the supervisor read; `None` when the file is gone.
    pub(super) good: Option<Want>,
    /// Held until.
    pub(super) held: Option<BootTime>,
    /// Somebody asked for a start since the last one, when this generation was the last that was written down.
    pub(super) wished: Option<u64>,
    /// Somebody started it by hand since the last stop.
    pub(super) by_hand: bool,
    pub(super) last: Option<ContainerId>,
    /// The one that ran when `last` was started beside it.
    pub(super) other: Option<ContainerId>,
    /// `last` counts in `short_runs` already, or a client wiped the slate since.
    pub(super) counted: bool,
    pub(super) short_runs: u32,
    pub(super) highest: u64,
    /// The highest generation that was written down.
    pub(super) begun: u64,
    /// The text that did well last.
    pub(super) proven: Option<Fingerprint>,
    /// How far its schedule is.
    pub(super) dealt: Dealt,
    /// As it was before the last start.
    pub(super) before: Option<Box<Truth>>,
}

const UNKNOWN: Outcome = Outcome::Exited { exit: Exit::Unknown, oom: false };

/// What is wrong, in words.
pub type Verdict = Result<(), String>;

pub(super) fn must(holds: bool, invariant: &str, words: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(format!("{invariant}: {}", words())) }
}

impl Oracle {
    pub(super) fn truth(&mut self, unit: &UnitName) -> &mut Truth {
        self.units.entry(unit.clone()).or_default()
    }

    /// The supervisor has read the files. `None` is a text that is not valid: the last good one stays.
    pub fn read_files(&mut self, files: &BTreeMap<UnitName, Option<Want>>) {
        let gone: Vec<UnitName> = self.units.keys().filter(|unit| !files.contains_key(*unit)).cloned().collect();
        gone.iter().for_each(|unit| self.read(unit, None));
        let valid = files.iter().filter_map(|(unit, text)| Some((unit, text.as_ref()?)));
        valid.for_each(|(unit, text)| self.read(unit, Some(text)));
    }

    /// A text was rolled back to this one.
    pub fn read_back(&mut self, unit: &UnitName, earlier: &Want) {
        self.read(unit, Some(earlier));
    }

    fn read(&mut self, unit: &UnitName, good: Option<&Want>) {
        good.into_iter().for_each(|good| self.note_limit(unit, good));
        let truth = self.truth(unit);
        truth.good = good.cloned();
        // What an earlier boot remembers of a schedule goes with it.
        truth.dealt.lost |= truth.dealt.rebooted && good.is_none_or(|good| good.unit.schedule.is_none());
        // That is not forgotten in a crash.
        if let Some(good) = truth.good.as_mut().filter(|good| truth.proven == Some(good.fingerprint)) {
            good.trial = None;
        }
        self.supersede(unit, |begun| good.is_none_or(|good| good.fingerprint != begun.fingerprint));
    }

    /// What is known of a generation, if it is begun and its end is not written down.
    pub(super) fn open(&self, unit: &UnitName, which: impl Fn(&Begun) -> bool) -> Vec<ContainerId> {
        let of_unit = self.begun.iter().filter(|(id, begun)| id.unit == *unit && which(begun));
        of_unit.map(|(id, _)| id.clone()).filter(|id| !self.journal.contains_key(id)).collect()
    }

    /// There is a reason to stop those generations of `unit` whose end is not written down.
    pub(super) fn excuse(&mut self, unit: &UnitName, which: impl Fn(&Begun) -> bool) {
        let open = self.open(unit, which);
        self.excused.extend(open);
    }

    /// The file of `unit` is another one, or none.
    pub fn edited(&mut self, unit: &UnitName) {
        self.rolled_back.retain(|(rolled_back, _)| rolled_back != unit);
    }

    pub fn client_stop(&mut self, unit: &UnitName, until: BootTime) {
        self.excuse(unit, |_| true);
        let truth = self.truth(unit);
        (truth.held, truth.wished, truth.by_hand) = (Some(until), None, false);
        (truth.counted, truth.short_runs) = (true, 0);
        if let Some(before) = &mut truth.before {
            (before.wished, before.by_hand) = (None, false);
            (before.counted, before.short_runs) = (true, 0);
        }
    }

    /// The supervisor has written down that the file of `unit` was gone.
    pub fn forget(&mut self, unit: &UnitName) {
        self.outdate(unit);
        self.raised.retain(|(raised, _)| raised != unit);
        let truth = self.truth(unit);
        *truth = Truth { highest: truth.highest, begun: truth.begun, ..Truth::default() };
    }

    /// A client's start of a unit that is up or not, as far as the supervisor knows.
    pub fn client_start(&mut self, unit: &UnitName, up: bool) {
        self.outdate(unit);
        let truth = self.truth(unit);
        truth.held = None;
        truth.wished = if up { truth.wished } else { Some(truth.begun) };
        truth.by_hand |= !up;
        (truth.counted, truth.short_runs) = (true, 0);
        if let Some(before) = &mut truth.before {
            (before.counted, before.short_runs) = (true, 0);
        }
    }

    pub fn client_restart(&mut self, unit: &UnitName) {
        self.supersede(unit, |_| true);
        self.client_start(unit, false);
    }

    /// A generation is written down, to be spawned next.
    pub fn on_begin(&mut self, id: &ContainerId, begun: Begun) {
        let other = begun.beside.then(|| self.open(&id.unit, |begun| !begun.beside).pop()).flatten();
        let begun = Begun { other, ..begun };
        self.begun.insert(id.clone(), begun);
        self.truth(&id.unit).begun = id.generation;
    }

    /// A program ended, or its start failed.
    pub fn ended(&mut self, host: &Host) {
        for (id, container) in &host.containers {
            let Stage::Dead { at, outcome, forgotten } = &container.stage else { continue };
            if self.ended.get(id).is_some_and(|end| end.forgotten == *forgotten) {
                continue;
            }
            let ran_for = match outcome {
                Outcome::Exited { .. } | Outcome::Unhealthy { .. } => at.since(container.run.begun),
                Outcome::StartFailed { .. } => Duration::ZERO,
            };
            let fingerprint = container.want.fingerprint;
            let end = End { at: *at, ran_for, outcome: outcome.clone(), fingerprint, forgotten: *forgotten };
            self.ended.insert(id.clone(), end);
        }
    }

    /// The supervisor takes in something of this generation that is news to it: again, if a crash made it forget.
    pub fn told(&mut self, fact: &Fact) {
        if let Fact::Exited { id, .. } | Fact::StartFailed { id, .. } | Fact::NeverStarted { id } | Fact::Lost { id } =
            fact
        {
            self.told.retain(|told| told != id);
            self.told.push(id.clone());
        }
    }

    /// How many ends of others the supervisor was told before this one.
    pub(super) fn told_at(&self, id: &ContainerId) -> Option<usize> {
        self.told.iter().rposition(|told| told == id)
    }

    pub(super) fn is_excused(&self, host: &Host, id: &ContainerId) -> bool {
        self.is_excused_within(host, id, UNITS.len())
    }

    /// So many units away.
    pub(super) fn is_excused_within(&self, host: &Host, id: &ContainerId, steps: usize) -> bool {
        let Some(steps) = steps.checked_sub(1) else { return false };
        let owner = self.begun.get(id).and_then(|begun| begun.joined.as_ref());
        self.shutdown
            || self.excused.contains(id)
            || self.sick.contains(id)
            || self.is_unheard_try(host, id)
            || owner.is_some_and(|owner| !host.is_alive(owner) || self.is_excused_within(host, owner, steps))
            || self.has_lost(host, id, steps)
    }

    /// A stop is written down: that it had a reason stays true when the reason is gone.
    pub fn on_stop_written(&mut self, host: &Host, id: &ContainerId, was_running: bool) {
        self.stopped_unstarted(id, was_running);
        if self.is_excused(host, id) {
            self.excused.insert(id.clone());
        }
    }

    /// Invariants 4 and 12: what is healthy and unchanged is not touched.
    pub fn on_stop(&mut self, host: &Host, id: &ContainerId, now: BootTime) -> Verdict {
        self.touched = now;
        let excused = self.is_excused(host, id);
        if excused {
            self.excused.insert(id.clone());
        }
        let invariant = if self.superseded.contains(id) { "start-first" } else { "4/12" };
        must(excused || !host.is_alive(id), invariant, || format!("{id} is stopped for no reason"))
    }

    /// Invariants 1, 4 and 5 at the moment of a spawn.
    pub fn on_start(&mut self, host: &Host, id: &ContainerId, want: &Want, now: BootTime) -> Verdict {
        self.ended(host);
        let runs_on = self.beside(host, id, want);
        let is_old = |other: &&ContainerId| other.unit == id.unit && *other != id && Some(*other) != runs_on.as_ref();
        let old = host.containers.keys().find(is_old);
        must(old.is_none_or(|old| host.is_empty(old, now)), "1", || format!("{id} starts before {old:?} is empty"))?;
        must(old.is_none_or(|old| !host.containers[old].kept), "1", || format!("{id} starts beside {old:?}"))?;
        must(!self.shutdown, "14", || format!("{id} starts in a shutdown"))?;
        self.count_last(host, &id.unit);
        let before = self.units.get(&id.unit).and_then(|truth| self.begun.get(truth.last.as_ref()?));
        let is_other = before.is_some_and(|before| before.fingerprint != want.fingerprint);
        let truth = self.units.entry(id.unit.clone()).or_default();
        if is_other {
            // Another text begins anew, also beside a container of the one before.
            truth.short_runs = 0;
        }
        must(id.generation > truth.highest, "1", || format!("{id} is a generation that was there before"))?;
        let good = truth.good.as_ref().is_some_and(|good| good.fingerprint == want.fingerprint);
        must(good, "3", || format!("{id} is not the last good text"))?;
        must(truth.held.is_none_or(|until| until <= now), "hold", || format!("{id} starts although held"))?;
        let by_hand = truth.by_hand || truth.wished.is_some();
        must(want.unit.enabled || by_hand, "enabled", || format!("{id} starts although not enabled"))?;
        if want.unit.schedule.is_none() {
            (self.starts, self.touched) = (self.starts + 1, now);
        }
        if !self.starts_by_time(id, want)? {
            self.check_pause(host, id, want, runs_on.as_ref(), now)?;
        }
        let truth = self.units.entry(id.unit.clone()).or_default();
        truth.before = Some(Box::new(Truth { before: None, ..truth.clone() }));
        (truth.held, truth.wished, truth.counted) = (None, None, false);
        (truth.last, truth.highest, truth.other) = (Some(id.clone()), id.generation, runs_on);
        // One that was started by hand goes on if this one does not do well.
        let other = truth.other.as_ref().and_then(|other| self.begun.get(other));
        truth.by_hand &= !want.unit.enabled || other.is_some_and(|other| !other.enabled);
        self.on_turn(&id.unit, want);
        Ok(())
    }

    /// Brings `short_runs` up to date with the last run.
    fn count_last(&mut self, host: &Host, unit: &UnitName) {
        let Some(last) = self.units.get(unit).and_then(|truth| truth.last.clone()) else { return };
        let excused = self.is_excused(host, &last);
        let (Some(end), Some(truth)) = (self.ended.get(&last), self.units.get_mut(unit)) else { return };
        let reset_after = truth.good.as_ref().map_or(Duration::ZERO, |good| good.unit.restart.reset_after);
        let same = truth.good.as_ref().is_some_and(|good| good.fingerprint == end.fingerprint);
        if !same {
            truth.short_runs = 0;
            return;
        }
        if std::mem::replace(&mut truth.counted, true) {
            return;
        }
        let forgotten = end.forgotten && self.journal.get(&last) == Some(&UNKNOWN);
        if forgotten || end.ran_for >= reset_after {
            truth.short_runs = 0;
        } else if !excused {
            // Whether an excused run was stopped in time only the supervisor knows: the shorter pause is allowed.
            truth.short_runs += 1;
        }
        // One of the same text that ran on beside it, and long enough, begins the row anew.
        let other = truth.other.as_ref().and_then(|other| Some((self.ended.get(other)?, self.journal.get(other))));
        let is_later = |other: &End| other.at >= end.at && other.is_of(end.fingerprint);
        let is_long =
            |other: &End, journal| other.ran_for >= reset_after || other.forgotten && journal == Some(&UNKNOWN);
        if other.is_some_and(|(other, journal)| is_later(other) && is_long(other, journal)) {
            truth.short_runs = 0;
        }
    }

    /// Invariant 5, and the restart policy, for a start that nobody asked for. Of the ends of a unit that runs on no
    /// earlier one counts (the header of `plan::handover`: the one that is left is the unit's).
    fn check_pause(
        &self,
        host: &Host,
        id: &ContainerId,
        want: &Want,
        runs_on: Option<&ContainerId>,
        now: BootTime,
    ) -> Verdict {
        let Some(truth) = self.units.get(&id.unit) else { return Ok(()) };
        let counts = |last: &&ContainerId| runs_on.is_none_or(|own| last.generation > own.generation);
        let last = self.last_for(truth, want).filter(|_| truth.wished.is_none()).filter(counts);
        let Some(last) = last else { return Ok(()) };
        let Some(end) = self.ended.get(last) else { return Ok(()) };
        if end.fingerprint != want.fingerprint || self.is_excused(host, last) {
            return Ok(());
        }
        let outcome = self.known_outcome(Some(last), end);
        let restart = &want.unit.restart;
        must(wants_restart(restart.policy, outcome), "policy", || format!("{id} starts after {outcome}"))?;
        // Of the other one nothing is counted.
        let short_runs = if Some(last) == truth.last.as_ref() { truth.short_runs } else { 0 };
        let pause = match short_runs {
            0 => Duration::ZERO,
            count => restart.max_delay.min(restart.delay * 2u32.pow(count.min(20) - 1)),
        };
        let gap = now.since(end.at);
        must(gap >= pause, "5", || format!("{id} starts {gap:?} after {last} ended, which is less than {pause:?}"))
    }

    /// The generation whose end counts for a start of this text: of two that ran beside each other that of the text, or the unit's own; if neither is
    /// of the text, the one whose end was told last.
    pub(super) fn last_for<'t>(&self, truth: &'t Truth, want: &Want) -> Option<&'t ContainerId> {
        let (last, other) = (truth.last.as_ref()?, truth.other.as_ref());
        let is_of = |id: &ContainerId| self.ended.get(id).is_some_and(|end| end.is_of(want.fingerprint));
        let took_over = self.begun.get(last).is_some_and(|begun| !begun.beside);
        let counts = |other: &&ContainerId| is_of(other) || !is_of(last) && self.told_at(other) > self.told_at(last);
        // Who took over counts, whatever comes of the one before.
        other.filter(counts).filter(|_| !took_over).or(Some(last))
    }

    /// How a run ended, as far as it could be known.
    pub(super) fn known_outcome<'a>(&'a self, id: Option<&ContainerId>, end: &'a End) -> &'a Outcome {
        id.and_then(|id| self.journal.get(id)).unwrap_or(&end.outcome)
    }

    /// Invariant 6: exactly one record, and a true one.
    pub fn on_journal(&mut self, host: &Host, id: &ContainerId, record: Option<&ExitRecord>) -> Verdict {
        self.ended(host);
        let container = host.containers.get(id);
        let Some(record) = record else {
            let spawned = container.is_some_and(|container| !matches!(container.stage, Stage::Made));
            return must(!spawned, "6", || format!("{id} ran and has no record"));
        };
        let truth = self.ended.get(id);
        let unknown =
            record.outcome == UNKNOWN || matches!(record.outcome, Outcome::Unhealthy { exit: Exit::Unknown, .. });
        let right = truth.is_none_or(|end| match (&record.outcome, &end.outcome) {
            (Outcome::Unhealthy { exit, .. }, Outcome::Exited { exit: truth, .. }) => {
                self.sick.contains(id) && (exit == truth || end.forgotten && *exit == Exit::Unknown)
            }
            // It took too long before its program ran, and how its setup ended died with the keeper.
            (Outcome::Unhealthy { exit: Exit::Unknown, .. }, Outcome::StartFailed { .. }) => {
                self.sick.contains(id) && end.forgotten
            }
            (outcome, truth) => outcome == truth || end.forgotten && unknown,
        });
        must(right, "6", || format!("{id} is recorded as {}", record.outcome))?;
        must(truth.is_some() || unknown, "6", || format!("the record of {id} is invented"))?;
        if truth.is_none() {
            self.never_spawned(record);
        }
        if record.stopped.is_none() {
            self.by_itself.insert(id.clone());
        }
        self.note_cut_off(record);
        let earlier = self.journal.insert(id.clone(), record.outcome.clone());
        must(earlier.is_none_or(|earlier| earlier == record.outcome), "6", || format!("{id} has two records"))
    }

    /// Invariant 6 at the end of time: every generation that ended has its record.
    pub fn on_end_of_time(&self) -> Verdict {
        let missing = self.ended.keys().find(|id| !self.journal.contains_key(*id));
        must(missing.is_none(), "6", || format!("the record of {missing:?} is lost"))
    }

    /// Whether `unit` should be running, now that nothing happens any more; `Err` says why not.
    pub fn should_run(&self, unit: &UnitName, now: BootTime) -> Result<Want, String> {
        let truth = self.units.get(unit).ok_or("never declared")?;
        let want = truth.good.as_ref().ok_or("removed")?;
        if truth.held.is_some_and(|until| until > now) {
            return Err("held".into());
        }
        if !want.unit.enabled && !truth.by_hand && truth.wished.is_none() {
            return Err("not enabled".into());
        }
        if let Some(schedule) = want.unit.schedule.as_deref().filter(|_| truth.wished.is_none()) {
            return if self.is_due(truth, schedule) { Ok(want.clone()) } else { Err("waits for its time".into()) };
        }
        // It ran on beside one that came to nothing.
        let other = truth.other.as_ref().filter(|other| !self.ended.contains_key(*other));
        if other.and_then(|other| self.begun.get(other)).is_some_and(|begun| begun.fingerprint == want.fingerprint) {
            return Ok(want.clone());
        }
        let last = self.last_for(truth, want);
        let end = last.filter(|_| truth.wished.is_none()).and_then(|last| self.ended.get(last));
        if let Some(end) = end.filter(|_| last.is_some_and(|last| self.by_itself.contains(last))) {
            let same = end.fingerprint == want.fingerprint;
            let outcome = self.known_outcome(last, end);
            let good = matches!(outcome, Outcome::Exited { exit: Exit::Code(0), oom: false });
            if same && want.trial == Some(OnBad::StayFailed) && !good {
                return Err("ended while it was on trial, and is to stay so".into());
            }
            if same && (want.unit.restart.limit.is_some() || !wants_restart(want.unit.restart.policy, outcome)) {
                return Err("ended, or gave up".into());
            }
            // A try that came to nothing is not the run that somebody started by hand, which goes on.
            if !same && !want.unit.enabled && other.is_none() {
                return Err("not enabled, and its run by hand is over".into());
            }
        }
        Ok(want.clone())
    }
}

/// The restart policies, written down once more.
fn wants_restart(policy: RestartPolicy, outcome: &Outcome) -> bool {
    let (good, abnormal) = match outcome {
        Outcome::Exited { exit: Exit::Code(code), oom } => (*code == 0 && !oom, *oom),
        Outcome::Exited { exit: Exit::Signal(_) | Exit::Unknown, .. } => (false, true),
        Outcome::Unhealthy { .. } => (false, true),
        Outcome::StartFailed { .. } => (false, false),
    };
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnSuccess => good,
        RestartPolicy::OnFailure => !good,
        RestartPolicy::OnAbnormal => abnormal,
        RestartPolicy::Never => false,
    }
}

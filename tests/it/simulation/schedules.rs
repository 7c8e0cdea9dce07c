//! Schedules: units whose runs have their times, the wall clock that somebody sets, and what the oracle says of both.
//!
//! The calendars of the sample are written down twice: in words for the core, and as every so many seconds of a span for the oracle, which reckons with
//! nothing of the core's. They come often, and no more after an hour: so a world with them comes to rest. What they say of days, months and time zones is
//! tested where calendars are.
//!
//! - Up to when the times of a unit are *dealt with* is known from when it was first seen, its last start and its last end, by what the wall clock showed
//!   then. An end counts when its supervisor has written it down: one that died before that leaves it to be told again. A start that nobody asked for has a
//!   time behind that which has come, or makes good for a run that failed or that was cut off. So no time is run twice, whoever dies when, and one run makes
//!   up for all that were missed.
//! - While somebody supervises, what has come and is not dealt with runs in that moment if nothing is in the way; if a run goes on, it is told that one is
//!   left out, once for that run.
//! - What takes longer than `max_runtime` may be stopped, and in the end nothing has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use moored::plan::{BootTime, Clock, ExitRecord, Fact, Mark, Now, Seen, Timetable, WallTime, Want, Why};
use moored::unit::{Calendar, ContainerId, Fingerprint, Kind, RestartPolicy, Schedule, Unit, UnitName};

use super::History;
use super::host::Host;
use super::oracle::{Oracle, Truth, Verdict, must};
use super::rng::Rng;
use super::supervisor::{Disk, Outside, Supervisor};

/// A calendar: each second of this span that so many seconds divide.
struct Beat {
    calendar: &'static str,
    from: u64,
    until: u64,
    every: u64,
}

/// 2026-05-28, in seconds. Histories begin ten minutes before its end.
const DAY: u64 = 1_779_926_400;
const NEXT: u64 = DAY + 86_400;
const HOUR: u64 = NEXT - 3600;
const BEATS: [Beat; 5] = [
    Beat { calendar: "2026-05-28 *:*:0/10", from: DAY, until: NEXT, every: 10 },
    Beat { calendar: "2026-05-28 *:*:0/30", from: DAY, until: NEXT, every: 30 },
    Beat { calendar: "2026-05-28 23:*:0/15", from: HOUR, until: NEXT, every: 15 },
    Beat { calendar: "2026-05-28 23:*", from: HOUR, until: NEXT, every: 60 },
    Beat { calendar: "2026-05-28 23:53:20", from: NEXT - 400, until: NEXT - 399, every: 20 },
];

/// The wall clock when a history begins: 23:50:00 on that day.
pub const WALL_BEGAN_MS: i64 = (NEXT as i64 - 600) * 1000;
/// Before 2026 the clock was set by nobody.
const EPOCH: WallTime = WallTime(1_767_225_600_000);
/// A clock that goes back by more than a day was wrong before.
const SET_BACK_MS: u64 = 86_400_000;
/// A step of the clock that is smaller may go unnoticed: so much too early may a run come.
const EARLY_MS: u64 = 750;
/// So much of what comes after a start may count as dealt with by it.
const SLACK_MS: u64 = 2000;

impl Beat {
    fn of(schedule: &Schedule) -> &'static Beat {
        let words = schedule.calendar.to_string();
        BEATS.iter().find(|beat| beat.calendar == words).expect("a calendar of the sample")
    }

    /// The last time that has come when the clock shows this.
    fn last_by(&self, wall_ms: u64) -> Option<WallTime> {
        let second = (wall_ms / 1000).min(self.until - 1);
        let time = second - second % self.every;
        (time >= self.from).then_some(WallTime(time * 1000))
    }
}

/// Perhaps one with a schedule; perhaps instead the text before it, with another schedule or none.
pub fn with_schedule(rng: &mut Rng, fresh: Want, before: Option<&Want>) -> Want {
    let scheduled = before.filter(|before| before.unit.schedule.is_some() && rng.chance(50));
    let has_another = rng.chance(85);
    // Of one container a text makes either a service or not.
    let is_swapped = before.is_some_and(|before| before.fingerprint == fresh.fingerprint);
    if scheduled.is_none() && (!rng.chance(12) || is_swapped && fresh.unit.kind != Kind::Oneshot) {
        return fresh;
    }
    let want = scheduled.cloned().unwrap_or(fresh);
    let schedule = Schedule {
        calendar: Calendar::parse(rng.pick(&BEATS).calendar).expect("a calendar"),
        time_zone: None,
        persistent: rng.chance(50),
        random_delay: Duration::from_secs(*rng.pick(&[0, 0, 3, 8])),
        max_runtime: *rng.pick(&[None, None, Some(Duration::from_secs(2)), Some(Duration::from_secs(6))]),
        wait_for_clock: rng.chance(70),
    };
    let schedule = (has_another || scheduled.is_none()).then(|| Arc::new(schedule));
    let mut unit = Unit { kind: Kind::Oneshot, schedule, ..want.unit.as_ref().clone() };
    // Another run after one that did well is refused where texts are read.
    if matches!(unit.restart.policy, RestartPolicy::Always | RestartPolicy::OnSuccess) {
        unit.restart.policy = if rng.chance(50) { RestartPolicy::Never } else { RestartPolicy::OnFailure };
    }
    Want { unit: Arc::new(unit), ..want }
}

fn takes_too_long(want: &Want, begun: BootTime, now: BootTime) -> bool {
    let longest = want.unit.schedule.as_ref().and_then(|schedule| schedule.max_runtime);
    longest.is_some_and(|longest| now.since(begun) >= longest)
}

impl Outside<'_> {
    fn clock(&self) -> Clock {
        Clock { boot: self.now, wall: self.wall, is_set: self.is_set }
    }
}

impl Disk {
    /// How far schedules are outlives the boot.
    pub fn keep_timetable(&mut self, unit: &UnitName, seen: Option<&Seen>) {
        match seen.and_then(|seen| seen.timetable.as_deref()) {
            Some(table) => drop(self.timetables.insert(unit.clone(), table.clone())),
            None => drop(self.timetables.remove(unit)),
        }
    }
}

impl Supervisor {
    /// Of an earlier boot: schedules that are not persistent begin anew.
    pub(super) fn restore_timetables(&mut self, out: &mut Outside, timetables: &BTreeMap<UnitName, Timetable>) {
        for (unit, table) in timetables {
            let want = self.desired.units.get(unit);
            let schedule = want.and_then(|want| want.unit.schedule.clone());
            let dealt = &mut out.oracle.truth(unit).dealt;
            dealt.lost |= dealt.rebooted && schedule.as_ref().is_none_or(|schedule| !schedule.persistent);
            let Some(schedule) = schedule else { continue };
            let from = if schedule.persistent { table.from } else { WallTime(u64::MAX) };
            self.observed.restore_timetable(unit, Timetable { from, ..table.clone() });
            self.planner.changed(unit);
        }
    }

    /// Looks at the clock, as in each round, if any unit has a schedule.
    pub(super) fn follow_clock(&mut self, out: &mut Outside) {
        if !self.has_schedules() {
            return;
        }
        let seen = out.clock();
        if self.observed.clock.is_none_or(|before| before.differs_from(&seen)) {
            self.record(out, &Fact::Clock(seen));
        }
        if !self.observed.zones.contains_key(&None) {
            self.record(out, &Fact::Zone { name: None, zone: Some(TimeZone::UTC) });
        }
    }

    pub(super) fn has_schedules(&self) -> bool {
        self.desired.units.values().any(|want| want.unit.schedule.is_some())
    }

    /// Somebody set the clock: whoever waits for that says so. From the first schedule on somebody does, be there one now or not.
    pub(super) fn tell_clock(&mut self, out: &mut Outside) {
        if self.observed.clock.is_some() {
            let rng = &mut out.host.clock_rng;
            let late = if rng.chance(80) { 0 } else { rng.below(300) };
            let at = BootTime(out.now.0 + late * 1_000_000);
            self.mail.push((at, Fact::Clock(out.clock())));
        }
    }

    /// What is written of a schedule is not what it should be.
    pub(super) fn plant_schedule_bug(seen: &mut Seen) {
        if let Some(table) = &mut seen.timetable {
            table.from = WallTime(table.from.0.saturating_sub(60_000));
        }
    }
}

/// What the oracle keeps of schedules.
#[derive(Default)]
pub struct Turns {
    /// The clock now, and whether somebody has set it.
    pub clock: (WallTime, bool),
    /// Generations that were stopped for the sake of something else, by the journal.
    cut_off: BTreeSet<ContainerId>,
    /// In which run of each unit it was told that another one is left out.
    left_out: BTreeMap<UnitName, u64>,
    /// Starts of units that have one.
    pub runs: u64,
    /// The least that any text that was in force let a run take.
    shortest: BTreeMap<(UnitName, Fingerprint), Duration>,
    /// Ends that are not written down yet: who dies before that leaves them to be told again.
    unwritten: BTreeMap<UnitName, WallTime>,
}

/// What the oracle knows of one unit's schedule.
#[derive(Clone, Default)]
pub struct Dealt {
    /// Its times up to here are dealt with; `None`: nobody has seen it.
    pub by: Option<WallTime>,
    /// They are those of this calendar. Another one counts from when it is first seen: nothing starts because of an edit.
    pub calendar: String,
    /// The host lost its power since.
    pub rebooted: bool,
    /// And the text that the next supervisor read did not want that to be remembered, or the file was gone before.
    pub lost: bool,
    /// By what was written down when the power was lost they are, to here: of a start that was not made.
    pub perhaps_by: Option<WallTime>,
    /// The file was gone since they are counted.
    pub was_gone: bool,
    /// They are counted since this generation: what it was begun by, or one before it, may have been another calendar or clock.
    pub since: u64,
}

impl Dealt {
    fn is_of(&self, schedule: &Schedule) -> bool {
        self.calendar == schedule.calendar.to_string()
    }

    /// Up to when the times of this schedule are, or may be, dealt with.
    fn latest(&self, schedule: &Schedule) -> Option<WallTime> {
        let by = self.by.filter(|_| self.is_of(schedule))?;
        Some(self.perhaps_by.unwrap_or(by).max(by))
    }

    pub(super) fn with(&mut self, wall: WallTime) {
        self.by = self.by.map(|by| by.max(wall));
    }
}

impl Oracle {
    fn goes_by_clock(&self, schedule: &Schedule) -> bool {
        let (wall, is_set) = self.turns.clock;
        wall >= EPOCH && (is_set || !schedule.wait_for_clock)
    }

    /// A time may have come for which there was no run.
    fn may_be_due(&self, truth: &Truth, schedule: &Schedule) -> bool {
        let last = Beat::of(schedule).last_by(self.turns.clock.0.0 + EARLY_MS);
        let is_counted = self.goes_by_clock(schedule) && truth.dealt.is_of(schedule);
        is_counted && truth.dealt.by.is_some_and(|by| last.is_some_and(|last| last > by))
    }

    /// One has certainly.
    fn is_due_after(&self, schedule: &Schedule, by: WallTime) -> bool {
        // It shows whole milliseconds: this one is not over.
        let shown = self.turns.clock.0.0.saturating_sub(1);
        let latest = shown.saturating_sub(schedule.random_delay.as_millis() as u64);
        let last = Beat::of(schedule).last_by(latest);
        self.goes_by_clock(schedule) && last.is_some_and(|last| last.0 > by.0 + SLACK_MS)
    }

    /// One has certainly, and nobody has looked after that. What an earlier boot remembered and this one does not begins anew.
    pub(super) fn is_due(&self, truth: &Truth, schedule: &Schedule) -> bool {
        let latest = truth.dealt.latest(schedule).filter(|_| !truth.dealt.lost);
        latest.is_some_and(|by| self.is_due_after(schedule, by))
    }

    /// What is remembered of a schedule from here on.
    pub(super) fn on_schedule(&mut self, unit: &UnitName, mark: &Mark) -> Verdict {
        let wall = self.turns.clock.0;
        let schedule = self.truth(unit).good.as_ref().and_then(|good| good.unit.schedule.clone());
        let fails = |words: &str| Err(format!("schedule: {unit} {words}"));
        match (mark, schedule) {
            (Mark::Gone, None) => {
                let truth = self.truth(unit);
                truth.dealt = Dealt::default();
                truth.before.iter_mut().for_each(|before| before.dealt = Dealt::default());
            }
            (Mark::Gone, Some(_)) => return fails("has one that is forgotten"),
            (_, None) => return fails("has none"),
            (Mark::From(from, _), Some(schedule)) => {
                must(self.goes_by_clock(&schedule), "schedule", || format!("{unit} counts by a clock nobody set"))?;
                let is_now = from.0.abs_diff(wall.0) <= SLACK_MS;
                must(is_now, "schedule", || format!("{unit} counts from {from:?}, and it is {wall:?}"))?;
                // A start that was written down and never made may have stepped by a clock that was wrong.
                let last = ContainerId { unit: unit.clone(), generation: self.truth(unit).begun };
                let began = self.begun.get(&last).map_or(WallTime(0), |begun| begun.wall);
                let truth = self.truth(unit);
                let dealt = &mut truth.dealt;
                let was_wrong = |by: WallTime| by.max(began).0 + SLACK_MS > wall.0 + SET_BACK_MS;
                // Nothing is lost by another beginning at the moment up to which all is dealt with.
                let is_same = |by: WallTime| by.0.abs_diff(wall.0) <= SLACK_MS;
                let is_lost = dealt.lost;
                let is_new = dealt.by.is_none_or(|by| is_lost || was_wrong(by) || is_same(by))
                    || dealt.perhaps_by.is_some_and(was_wrong)
                    || !dealt.is_of(&schedule);
                // Of a clock that was set by a little nobody may have told yet.
                let by = wall.min(*from);
                let calendar = schedule.calendar.to_string();
                *dealt = Dealt { by: Some(by), calendar, since: last.generation, ..Dealt::default() };
                truth.before.iter_mut().for_each(|before| before.dealt = truth.dealt.clone());
                must(is_new, "schedule", || format!("{unit} forgets how far its schedule was"))?;
                self.turns.left_out.remove(unit);
            }
            (Mark::LeftOut(_), Some(schedule)) => {
                let run = self.truth(unit).begun;
                must(!self.open(unit, |_| true).is_empty(), "schedule", || format!("no run of {unit} goes on"))?;
                let is_due = self.units.get(unit).is_some_and(|truth| self.may_be_due(truth, &schedule));
                must(is_due, "schedule", || format!("of {unit} a run is left out that has no time"))?;
                let first = self.turns.left_out.insert(unit.clone(), run) != Some(run);
                must(first, "schedule", || format!("in one run of {unit} it is told twice that another is left out"))?;
            }
        }
        Ok(())
    }

    /// Whether a start of a unit with a schedule is one that its time makes, not a client, nor the end of the last run.
    pub(super) fn starts_by_time(&self, id: &ContainerId, want: &Want) -> Result<bool, String> {
        let Some(schedule) = want.unit.schedule.as_deref() else { return Ok(false) };
        let Some(truth) = self.units.get(&id.unit).filter(|truth| truth.wished.is_none()) else { return Ok(false) };
        if self.may_be_due(truth, schedule) {
            return Ok(true);
        }
        let last = self.last_for(truth, want);
        let is_again = last.is_some_and(|last| {
            let end = self.ended.get(last).filter(|end| end.is_of(want.fingerprint));
            let failed = end.is_some_and(|end| !self.known_outcome(Some(last), end).is_success());
            failed || self.turns.cut_off.contains(last)
        });
        must(is_again, "schedule", || format!("{id} starts, and it is not its time"))?;
        Ok(false)
    }

    /// Whether a run of this text need not end: the host ends those of a schedule, but for those that their schedule is to end; the one in force may
    /// be another one.
    pub(super) fn may_last(&self, unit: &UnitName, began_by: &Want) -> bool {
        let ends = |want: &Want| want.unit.schedule.as_ref().is_some_and(|schedule| schedule.max_runtime.is_some());
        let good = self.units.get(unit).and_then(|truth| truth.good.as_ref());
        began_by.unit.schedule.is_none() || ends(began_by) && !good.is_some_and(ends)
    }

    /// One is spawned: what has come is dealt with.
    pub(super) fn on_turn(&mut self, unit: &UnitName, want: &Want) {
        let wall = self.turns.clock.0;
        let Some(schedule) = &want.unit.schedule else { return };
        self.turns.runs += 1;
        let last = Beat::of(schedule).last_by(wall.0 + EARLY_MS).unwrap_or(wall);
        self.truth(unit).dealt.with(wall.max(last));
    }

    /// So is what came until its end.
    pub(super) fn on_turn_over(&mut self, fact: &Fact, now: Now) {
        let (id, at) = match fact {
            Fact::Exited { id, at, .. } => (id, (*at).min(now.boot)),
            Fact::StartFailed { id, .. } | Fact::Lost { id } => (id, now.boot),
            _ => return,
        };
        let ago = u64::try_from(now.boot.since(at).as_millis()).expect("a history is short");
        let wall = WallTime(now.wall.0.saturating_sub(ago));
        let end = self.turns.unwritten.entry(id.unit.clone()).or_insert(wall);
        *end = wall.max(*end);
    }

    /// This text is in force.
    pub(super) fn note_limit(&mut self, unit: &UnitName, want: &Want) {
        if let Some(longest) = want.unit.schedule.as_ref().and_then(|schedule| schedule.max_runtime) {
            let shortest = self.turns.shortest.entry((unit.clone(), want.fingerprint)).or_insert(longest);
            *shortest = longest.min(*shortest);
        }
    }

    /// What the supervisor knows of this unit is written down, or will be before it dies.
    pub fn on_written(&mut self, unit: &UnitName) {
        if let Some(end) = self.turns.unwritten.remove(unit) {
            self.truth(unit).dealt.with(end);
        }
    }

    /// It died, and knows no more than what is written down.
    pub fn unwritten_lost(&mut self) {
        self.turns.unwritten.clear();
    }

    pub(super) fn note_cut_off(&mut self, record: &ExitRecord) {
        if let Some(Why::Changed | Why::Restart | Why::Unheard | Why::Network(_) | Why::Dependency(_)) = record.stopped
        {
            self.turns.cut_off.insert(record.id.clone());
        }
    }

    /// Those that take longer than they may, by any form of their own text that was in force.
    pub(super) fn judge_runs(&mut self, host: &Host, now: BootTime) {
        let is_long = |(id, found): &(&ContainerId, &super::host::Container)| {
            let shortest = self.turns.shortest.get(&(id.unit.clone(), found.want.fingerprint));
            shortest.is_some_and(|shortest| now.since(found.run.begun) >= *shortest)
        };
        let long: Vec<ContainerId> = host.containers.iter().filter(is_long).map(|(id, _)| id.clone()).collect();
        self.sick.extend(long);
    }
}

impl History {
    /// While somebody supervises, each time that came was run, or it is told that it was not.
    pub(super) fn check_schedules(&self) -> Verdict {
        let Some(supervisor) = self.supervisor.as_ref().filter(|_| !self.oracle.shutdown) else { return Ok(()) };
        if supervisor.mail.iter().any(|(_, fact)| matches!(fact, Fact::Clock(_))) {
            return Ok(());
        }
        for (unit, truth) in &self.oracle.units {
            let Some(want) = truth.good.as_ref().filter(|want| want.unit.enabled) else { continue };
            let Some(schedule) = want.unit.schedule.as_deref() else { continue };
            let Some(by) = truth.dealt.latest(schedule) else { continue };
            let seen = supervisor.observed.unit(unit);
            let live = seen.and_then(|seen| seen.live.as_ref());
            match live {
                None => {
                    let is_held = truth.held.is_some_and(|until| until > self.now);
                    let waits = !want.unit.depends_on.is_empty() || !want.unit.conditions.is_empty();
                    let is_free = !is_held && !waits && want.unit.network.is_none();
                    let missed = is_free && self.oracle.is_due_after(schedule, by);
                    must(!missed, "schedule", || format!("a time of {unit} came, and it is not run"))?;
                }
                Some(live) if live.is_up() => {
                    let began = self.oracle.begun.get(&live.id).map_or(by, |begun| begun.wall);
                    let is_due = self.oracle.is_due_after(schedule, by.max(began));
                    let is_told = self.oracle.turns.left_out.get(unit) == Some(&truth.begun);
                    must(!is_due || is_told, "schedule", || format!("that a run of {unit} is left out is not told"))?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// In the end nothing runs longer than its schedule lets it.
    pub(super) fn check_runtimes(&self) -> Verdict {
        for (id, found) in self.host.containers.iter().filter(|(id, _)| self.host.is_alive(id)) {
            let good = self.oracle.units.get(&id.unit).and_then(|truth| truth.good.as_ref());
            let own = good.filter(|good| good.fingerprint == found.want.fingerprint);
            let is_long = own.is_some_and(|own| takes_too_long(own, found.run.begun, self.now));
            must(!is_long, "schedule", || format!("{id} runs longer than its schedule lets it"))?;
        }
        Ok(())
    }
}

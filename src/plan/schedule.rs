//! Schedules (`[schedule]`): when a oneshot has its turn.
//!
//! ```text
//!          from                                    due = elapse + delay
//! ──────────┼──────────────── elapse ─────────────────┼─────────────▶ wall time
//!  the last run began or ended,                       starts
//!  or the schedule was first seen
//! ```
//!
//! - The next *elapse* is the first moment of the calendar after [`Timetable::from`]. It is due a delay later that is between 0 and `random_delay`, the same
//!   whenever it is asked for, and another one for each unit and elapse.
//! - What elapses while a run goes on, or while it is due, is one run or none: `from` goes forward to the end of each run. So runs do not overlap, and
//!   however many were missed, one makes up for them.
//! - That a run goes on when the next is due is told, once for each run.
//! - A start and its step of `from` are one record, which is written before anything is started. So whenever the supervisor is killed, the next one finds
//!   either none of both, and starts; or both, and then the start was made, or it is known that it was not ([`Timetable::unbegin`]), and is made then. An
//!   end steps to when it was, not to when it was heard of: what elapsed while nobody was there is missed, not left out.
//! - On disk, for after a reboot, it is written at the same time, and not waited for: where the power fails within that moment, a persistent schedule runs
//!   once more. A run that the end of the host cuts off is not made again.
//! - A run that is stopped for the sake of another text, or of a unit that it depends on, is begun again; of one that a person stopped the next comes at its
//!   time.
//! - `from` outlives the supervisor. It outlives a reboot if the schedule is `persistent`; otherwise what elapsed meanwhile is left out.
//! - A schedule that is new, has another calendar than before, or is back after it was gone, counts from the moment at which that was seen: nothing
//!   starts because of an edit.
//! - The wall clock is an input as the boot clock is: what it was when it was last looked at ([`Clock`]); whoever looks also says when it was set. If it is set
//!   forward over an elapse, that is due at once. If it is set back by less than [`SET_BACK`], what has run does not run again; if by more, it was wrong before,
//!   and it is counted from now on.
//! - A clock that nobody has set is not followed: that shows a time before [`EPOCH`], or that the kernel calls unsynchronised on a host without a clock of
//!   its own that runs on while it is off.
//! - Of failures the restart policy makes new runs as ever; when it makes no more, the schedule does.
//!
//! # Where the clocks change
//!
//! | the time of day | with hours (`02:30`) | every hour (`*:30`) |
//! |---|---|---|
//! | is left out, in spring | comes when the clocks go on: once, and no day is without | is left out: an hour later it comes again |
//! | comes twice, in autumn | comes the first time | comes both times |
//!
//! So a daily run is daily, and one every quarter of an hour runs every quarter of an hour.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use serde::{Deserialize, Serialize};

use super::action::Action;
use super::desired::Want;
use super::exit::Outcome;
use super::observed::{Live, Seen};
use super::reason::Why;
use super::reconcile::Plan;
use super::time::{BootTime, WallTime};
use super::world::{View, World};
use crate::unit::{Calendar, Schedule, UnitName};

/// 2026-01-01, in ms since 1970: before this program there was no schedule of it.
const EPOCH: WallTime = WallTime(1_767_225_600_000);

/// A clock that goes back further was wrong before.
const SET_BACK: Duration = Duration::from_secs(86_400);

/// The clock is believed up to here: so much it may have drifted since it was looked at, without being told.
const DRIFT_MS: u64 = 1_500;

/// The wall clock as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// When.
    pub boot: BootTime,
    /// What it showed then.
    pub wall: WallTime,
    /// It was set by somebody who knows, or runs on while the host is off.
    pub is_set: bool,
}

/// What is remembered of a unit's schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timetable {
    /// What elapsed up to here is dealt with.
    pub from: WallTime,
    /// By which calendar, in which zone. `None`: of an earlier version, which did not say.
    #[serde(default)]
    pub calendar: Option<String>,
    /// A run was left out because one goes on: that was told since the last start.
    #[serde(default)]
    pub left_out: bool,
    /// The same as `from` before the start that is under way.
    #[serde(default)]
    pub before: Option<WallTime>,
    /// How the last run ended, and when.
    #[serde(default)]
    pub last: Option<(WallTime, Outcome)>,
}

/// What is to be remembered of a schedule from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// It counts from here on, by this calendar.
    From(WallTime, String),
    /// What elapsed here is left out, because a run goes on.
    LeftOut(WallTime),
    /// There is none any more.
    Gone,
}

/// Why nobody can say when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blind {
    /// The clock is not set.
    Clock,
    /// The time zone is not known.
    Zone,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Its own, for what elapsed then.
    Now(WallTime),
    /// Later, on both clocks; `None`: never again.
    At(Option<(WallTime, BootTime)>),
    /// Nobody can say.
    Unknown(Blind),
}

impl Clock {
    /// What it shows at this time, if nobody has set it since.
    pub(super) fn at(&self, now: BootTime) -> WallTime {
        let (since, before) = (now.since(self.boot).as_millis(), self.boot.since(now).as_millis());
        let ms = |span: u128| u64::try_from(span).unwrap_or(u64::MAX);
        WallTime(self.wall.0.saturating_add(ms(since)).saturating_sub(ms(before)))
    }

    /// When it shows this, if nobody sets it: the same whenever it is asked for.
    fn boot_of(&self, wall: WallTime) -> BootTime {
        let ns = |ms: u64| ms.saturating_mul(1_000_000);
        let (ahead, behind) = (wall.0.saturating_sub(self.wall.0), self.wall.0.saturating_sub(wall.0));
        BootTime(self.boot.0.saturating_add(ns(ahead)).saturating_sub(ns(behind)))
    }

    /// Whether another look shows that it was set, or has drifted.
    pub fn differs_from(&self, other: &Clock) -> bool {
        self.is_set != other.is_set || self.at(other.boot).0.abs_diff(other.wall.0) > DRIFT_MS / 2
    }
}

impl Timetable {
    /// One that begins now.
    pub(super) fn new(from: WallTime, calendar: String) -> Timetable {
        Timetable { from, calendar: Some(calendar), left_out: false, before: None, last: None }
    }

    /// A run of it is begun, by whatever wish.
    pub(super) fn begin(&mut self, schedule: &Schedule, wall: WallTime) {
        self.calendar.get_or_insert_with(|| words(schedule));
        (self.before, self.left_out) = (Some(self.from), false);
        self.from = self.from.max(WallTime(wall.0.saturating_add(DRIFT_MS)));
    }

    /// There was no start.
    pub(super) fn unbegin(&mut self) {
        self.from = self.before.take().unwrap_or(self.from);
    }

    /// The run is over.
    pub(super) fn end(&mut self, wall: WallTime, outcome: &Outcome) {
        // Another one may go on beside it: that a run is left out is told again after the next start.
        self.before = None;
        self.from = self.from.max(wall);
        self.last = Some((wall, outcome.clone()));
    }
}

impl Seen {
    /// Up to when what elapsed is dealt with; `None` if nobody knows.
    fn dealt_with(&self, schedule: &Schedule, wall: WallTime) -> Option<WallTime> {
        let latest = WallTime(wall.0.saturating_add(SET_BACK.as_millis() as u64));
        let is_same = |calendar: &String| *calendar == words(schedule);
        let table = self.timetable.as_ref().filter(|table| table.calendar.as_ref().is_none_or(is_same))?;
        (table.from <= latest).then_some(table.from)
    }

    /// Whether that is news.
    pub(super) fn begin_schedule(&mut self, mark: &Mark) -> bool {
        match (mark, &mut self.timetable) {
            (Mark::From(from, calendar), table) => {
                let last = table.as_ref().and_then(|table| table.last.clone());
                *table = Some(Box::new(Timetable { last, ..Timetable::new(*from, calendar.clone()) }));
                true
            }
            (Mark::LeftOut(_), Some(table)) => !std::mem::replace(&mut table.left_out, true),
            (Mark::LeftOut(_), None) => false,
            (Mark::Gone, table) => table.take().is_some(),
        }
    }
}

/// What its schedule has to remember; and when to look again: for a run that is due then, or for one to be left out.
pub(super) fn plan_schedule<'a>(world: &World<'a>, view: View<'a>, plan: &mut Plan) {
    let Some(want) = view.want else { return };
    let mut remember = |mark| plan.actions.push(Action::Schedule { unit: view.name.clone(), mark });
    let Some(schedule) = want.unit.schedule.as_deref() else {
        if view.seen.timetable.is_some() {
            remember(Mark::Gone);
        }
        return;
    };
    if let Some(from) = world.timetable_to_begin(view, schedule) {
        return remember(Mark::From(from, words(schedule)));
    }
    match (world.schedule_due(view, schedule), &view.seen.timetable) {
        (Due::Now(elapse), Some(table)) if !table.left_out && view.seen.live.as_ref().is_some_and(Live::is_up) => {
            remember(Mark::LeftOut(elapse));
        }
        (Due::At(Some((_, at))), _) => plan.wake(at),
        (Due::Now(_) | Due::At(None) | Due::Unknown(_), _) => {}
    }
}

impl<'a> World<'a> {
    /// The wall clock, if it is one to go by.
    fn wall(&self, schedule: &Schedule) -> Option<WallTime> {
        let clock = self.clock()?;
        let wall = clock.at(self.now);
        (wall >= EPOCH && (clock.is_set || !schedule.wait_for_clock)).then_some(wall)
    }

    /// From when on its schedule counts, if that is not remembered, or of another calendar, or of a clock that was wrong.
    fn timetable_to_begin(&self, view: View<'a>, schedule: &Schedule) -> Option<WallTime> {
        let wall = self.wall(schedule)?;
        view.seen.dealt_with(schedule, wall).is_none().then_some(wall)
    }

    /// Whether its schedule wants a run now.
    pub(super) fn schedule_due(&self, view: View<'a>, schedule: &Schedule) -> Due {
        let Some((clock, wall)) = self.clock().zip(self.wall(schedule)) else { return Due::Unknown(Blind::Clock) };
        let Some(zone) = self.zone(schedule.time_zone.as_deref()) else { return Due::Unknown(Blind::Zone) };
        let from = view.seen.dealt_with(schedule, wall).unwrap_or(wall);
        let Some(elapse) = next_elapse(&schedule.calendar, zone, from) else { return Due::At(None) };
        let due = WallTime(elapse.0.saturating_add(delay(view.name, elapse, schedule.random_delay)));
        match clock.boot_of(due) {
            at if at <= self.now => Due::Now(elapse),
            at => Due::At(Some((due, at))),
        }
    }

    /// When a run has taken too long: by its own text as that is now, or as that was when another one came, for which this one waits to go.
    pub(super) fn runs_until(&self, want: Option<&Want>, live: &Live) -> Option<BootTime> {
        let own = want.filter(|want| want.fingerprint == live.run.fingerprint);
        let longest = own.map_or(live.run.max_runtime, |own| own.unit.schedule.as_deref()?.max_runtime);
        Some(live.run.begun.after(longest?))
    }

    /// That it has: a reason to stop it whether or not another one can be started.
    pub(super) fn overrun(&self, want: Option<&Want>, live: &Live) -> Option<Why> {
        let until = self.runs_until(want, live).filter(|until| *until <= self.now);
        until.map(|_| Why::Unhealthy("it took longer than its schedule's max_runtime".to_owned()))
    }
}

/// What tells one calendar from another.
fn words(schedule: &Schedule) -> String {
    match &schedule.time_zone {
        Some(zone) => format!("{} {zone}", schedule.calendar),
        None => schedule.calendar.to_string(),
    }
}

/// Up to `most`, always the same for one unit and elapse: FNV-1a, 64 bits, with the upper half taken.
fn delay(unit: &UnitName, elapse: WallTime, most: Duration) -> u64 {
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    let bytes = unit.as_str().bytes().chain(elapse.0.to_le_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let part = u128::from(most) * u128::from(hash >> 32) / u128::from(u32::MAX);
    u64::try_from(part).unwrap_or(most)
}

/// The first moment of a calendar after this one.
pub fn next_elapse(calendar: &Calendar, zone: &TimeZone, after: WallTime) -> Option<WallTime> {
    let after = Timestamp::from_second(i64::try_from(after.0 / 1000).ok()?).ok()?;
    let next =
        if calendar.is_every_hour() { next_of_time(calendar, zone, after) } else { next_of_day(calendar, zone, after) };
    Some(WallTime(u64::try_from(next?.as_second()).ok()?.saturating_mul(1000)))
}

/// By the clock on the wall: each time of day once. Of the times that a clock skips, the first moment behind them is one.
fn next_of_day(calendar: &Calendar, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut civil = zone.to_datetime(after);
    loop {
        civil = calendar.next(civil)?;
        let moment = match zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                at(civil, offset)?
            }
            AmbiguousOffset::Gap { before, after } => change_between(zone, at(civil, after)?, at(civil, before)?),
        };
        // It may be one that has been, when the clock went back.
        if moment > after {
            return Some(moment);
        }
    }
}

/// By the time that goes by: where the clock changes, it is gone on with from there.
fn next_of_time(calendar: &Calendar, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut from = zone.to_datetime(after);
    let mut offset = zone.to_offset(after);
    let mut begin = after;
    loop {
        let moment = at(calendar.next(from)?, offset)?;
        if zone.to_offset(moment) == offset {
            return Some(moment);
        }
        // Its offset is another one: the clock changes on the way, at a moment that may be one itself.
        begin = change_between(zone, begin, moment);
        offset = zone.to_offset(begin);
        from = offset.to_datetime(begin).checked_sub(jiff::Span::new().seconds(1)).ok()?;
    }
}

fn at(civil: DateTime, offset: Offset) -> Option<Timestamp> {
    offset.to_timestamp(civil).ok()
}

/// The first moment that has the offset of `late`, which `early` has not.
fn change_between(zone: &TimeZone, early: Timestamp, late: Timestamp) -> Timestamp {
    let (mut early, mut late) = (early.as_second(), late.as_second());
    let of = |second: i64| Timestamp::from_second(second).map(|moment| zone.to_offset(moment)).ok();
    let offset = of(late);
    while late - early > 1 {
        let middle = early + (late - early) / 2;
        if of(middle) == offset { late = middle } else { early = middle }
    }
    Timestamp::from_second(late).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
    const NEW_YORK: &str = "EST5EDT,M3.2.0,M11.1.0";
    /// Half an hour, and the seasons the other way round.
    const LORD_HOWE: &str = "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0";

    fn zone(text: &str) -> TimeZone {
        TimeZone::posix(text).unwrap()
    }

    fn moment(text: &str, zone: &TimeZone) -> WallTime {
        let civil: DateTime = text.parse().unwrap();
        WallTime(civil.to_zoned(zone.clone()).unwrap().timestamp().as_millisecond() as u64)
    }

    /// Each elapse of a year, as local times with offset.
    fn year(calendar: &str, zone_text: &str) -> Vec<String> {
        let (calendar, zone) = (Calendar::parse(calendar).unwrap(), zone(zone_text));
        let (mut from, end) = (moment("2026-12-31T23:59:59", &zone), moment("2028-01-01T00:00:00", &zone));
        let mut all = Vec::new();
        while let Some(next) = next_elapse(&calendar, &zone, from).filter(|next| *next < end) {
            assert!(next > from, "time goes on");
            let zoned = Timestamp::from_millisecond(next.0 as i64).unwrap().to_zoned(zone.clone());
            all.push(zoned.strftime("%m-%d %H:%M %:z").to_string());
            from = next;
        }
        all
    }

    #[test]
    fn a_daily_run_is_daily_over_both_changes_in_three_zones() {
        // The days on which 02:30, or what the zone skips, is not as on others.
        for (text, calendar, spring, autumn) in [
            (BERLIN, "02:30", "03-28 03:00 +02:00", "10-31 02:30 +02:00"),
            (NEW_YORK, "02:30", "03-14 03:00 -04:00", "11-07 02:30 -05:00"),
            (NEW_YORK, "01:30", "03-14 01:30 -05:00", "11-07 01:30 -04:00"),
            (LORD_HOWE, "02:15", "10-03 02:30 +11:00", "04-04 02:15 +10:30"),
            (LORD_HOWE, "01:45", "10-03 01:45 +10:30", "04-04 01:45 +11:00"),
        ] {
            let all = year(calendar, text);
            assert_eq!(all.len(), 365, "{text} {calendar}: {all:?}");
            let days: std::collections::BTreeSet<&str> = all.iter().map(|time| &time[..5]).collect();
            assert_eq!(days.len(), 365, "{text} {calendar}: one each day");
            for expected in [spring, autumn] {
                assert!(all.iter().any(|time| time == expected), "{text} {calendar}: no {expected} in {all:?}");
            }
            let odd = all.iter().filter(|time| &time[6..11] != calendar).count();
            assert_eq!(odd, usize::from(&spring[6..11] != calendar), "{text} {calendar}");
        }
    }

    #[test]
    fn what_comes_every_hour_comes_each_hour_that_goes_by() {
        for (text, calendar, count) in [
            (BERLIN, "*:00", 8760),
            (BERLIN, "*:0/15", 4 * 8760),
            (NEW_YORK, "*:30", 8760),
            (BERLIN, "Sun *:30", 52 * 24),
            // The half hour that comes twice has it once, and the one that is left out has it not.
            (LORD_HOWE, "*:0/30", 2 * 8760),
        ] {
            let all = year(calendar, text);
            assert_eq!(all.len(), count, "{text} {calendar}");
        }
        let berlin = year("*:30", BERLIN);
        let around =
            |day: &str| -> Vec<String> { berlin.iter().filter(|time| time.starts_with(day)).cloned().collect() };
        assert_eq!(around("03-28")[..3], ["03-28 00:30 +01:00", "03-28 01:30 +01:00", "03-28 03:30 +02:00"]);
        let twice = ["10-31 01:30 +02:00", "10-31 02:30 +02:00", "10-31 02:30 +01:00", "10-31 03:30 +01:00"];
        assert_eq!(around("10-31")[1..5], twice);
    }

    #[test]
    fn a_calendar_that_is_over_has_no_next() {
        let calendar = Calendar::parse("2027-01-01").unwrap();
        let zone = TimeZone::UTC;
        let first = next_elapse(&calendar, &zone, EPOCH).unwrap();
        assert_eq!(first, moment("2027-01-01T00:00:00", &zone));
        assert_eq!(next_elapse(&calendar, &zone, first), None);
    }

    #[test]
    fn delays_are_spread_and_stay() {
        let (most, elapse) = (Duration::from_secs(3600), WallTime(1_800_000_000_000));
        let of = |name: &str| delay(&UnitName::new(name).unwrap(), elapse, most);
        let all: Vec<u64> = (0..1000).map(|n| of(&format!("unit{n}"))).collect();
        assert!(all.iter().all(|delay| *delay <= 3_600_000));
        let quarters = [0, 1, 2, 3].map(|n| all.iter().filter(|delay| **delay / 900_001 == n).count());
        assert!(quarters.iter().all(|count| (150..350).contains(count)), "{quarters:?}");
        assert_eq!(of("web"), of("web"));
        assert_eq!(delay(&UnitName::new("web").unwrap(), elapse, Duration::ZERO), 0);
    }

    #[test]
    fn a_clock_is_carried_on_and_a_step_is_seen() {
        let clock = Clock { boot: BootTime(1_000_000_000), wall: WallTime(5_000), is_set: true };
        assert_eq!((clock.at(BootTime(3_000_000_000)), clock.at(BootTime(0))), (WallTime(7_000), WallTime(4_000)));
        let later = |wall| Clock { boot: BootTime(3_000_000_000), wall: WallTime(wall), is_set: true };
        assert!(!clock.differs_from(&later(7_000)) && !clock.differs_from(&later(7_500)));
        assert!(clock.differs_from(&later(8_000)) && clock.differs_from(&later(6_000)));
        assert!(clock.differs_from(&Clock { is_set: false, ..later(7_000) }));
    }
}

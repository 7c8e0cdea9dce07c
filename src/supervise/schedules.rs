//! What schedules need of the host: the wall clock and who sets it, and the rules of time zones. What follows from them is the plan's.
//!
//! - That the clock is set is told by a timer of the kernel's (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`), which a thread waits for that exists as soon as a unit
//!   has a schedule. What drifts is seen whenever the loop has something to do.
//! - That it is *synchronised*, without being set, is told by nobody: while a schedule waits for that, it is looked at every minute.
//! - Rules are read when they are first needed, from `/usr/share/zoneinfo` or, of the host's own zone, `/etc/localtime`; the next supervisor reads them again.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread::Builder;
use std::time::Duration;

use jiff::tz::TimeZone;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::clock;
use super::mail::Mail;
use super::round::{Post, Supervisor};
use super::time_zone;
use crate::plan::{BootTime, Clock, Desired, Fact, WallTime, next_elapse};
use crate::unit::{Schedule, UnitName};

/// How often a clock is looked at that is not set.
const LOOK: Duration = Duration::from_secs(60);
/// A thread that calls nothing.
const STACK_BYTES: usize = 64 * 1024;

/// What the loop keeps of it.
pub struct Schedules {
    /// Units that have one.
    units: BTreeSet<UnitName>,
    /// To whom it is told that the clock is set; taken by the thread that tells it.
    pub post: Option<Post>,
}

/// The clocks, and whether the wall clock is one to go by.
fn look() -> Clock {
    let now = clock::now();
    Clock { boot: now.boot, wall: now.wall, is_set: crate::sys::wall_clock::is_synchronised() || has_own_clock() }
}

fn has_own_clock() -> bool {
    Path::new("/sys/class/rtc/rtc0").exists()
}

/// The next times of a schedule, in its zone, for people.
pub fn next_times(schedule: &Schedule, count: usize) -> Result<Vec<String>, String> {
    let zone = time_zone::read(schedule.time_zone.as_deref())?;
    let mut from = clock::now().wall;
    let mut next = || {
        from = next_elapse(&schedule.calendar, &zone, from)?;
        Some(in_zone(from, &zone))
    };
    Ok(std::iter::from_fn(&mut next).take(count).collect())
}

fn in_zone(at: WallTime, zone: &TimeZone) -> String {
    let moment = jiff::Timestamp::from_millisecond(i64::try_from(at.0).unwrap_or(0)).unwrap_or_default();
    moment.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M:%S %:z").to_string()
}

impl Schedules {
    /// Of the units that are declared from the start.
    pub fn of(desired: &Desired) -> Schedules {
        let units = desired.units.iter().filter(|(_, want)| want.unit.schedule.is_some());
        Schedules { units: units.map(|(name, _)| name.clone()).collect(), post: None }
    }
}

impl Supervisor {
    /// The texts of these units are others, or gone; of a unit with replicas it is theirs.
    pub(super) fn note_schedules(&mut self, changes: &BTreeSet<UnitName>) {
        let desired = &self.desired;
        let concerned =
            changes.iter().flat_map(|name| desired.units.get_key_value(name).into_iter().chain(desired.members(name)));
        let have = concerned.filter(|(_, want)| want.unit.schedule.is_some()).map(|(name, _)| name.clone());
        self.schedules.units.extend(have);
        let has = |name: &UnitName| desired.units.get(name).is_some_and(|want| want.unit.schedule.is_some());
        self.schedules.units.retain(has);
    }

    /// Tells the plan of the clock and of zones; says when to look again although nothing happens.
    pub(super) fn follow_schedules(&mut self) -> Option<BootTime> {
        if self.schedules.units.is_empty() {
            return None;
        }
        if let Some(post) = self.schedules.post.take()
            && let Err(error) =
                Builder::new().name("clock".to_owned()).stack_size(STACK_BYTES).spawn(move || watch(&post))
        {
            tracing::warn!("no thread for the clock: {error}: if it is set, schedules learn of it late");
        }
        let seen = look();
        if self.observed.clock.is_none_or(|before| before.differs_from(&seen)) {
            self.record(&Fact::Clock(seen));
        }
        let schedules: Vec<_> = self
            .schedules
            .units
            .iter()
            .filter_map(|name| self.desired.units.get(name)?.unit.schedule.clone())
            .collect();
        for schedule in &schedules {
            if !self.observed.zones.contains_key(&schedule.time_zone) {
                let zone = time_zone::read(schedule.time_zone.as_deref());
                let zone = zone.inspect_err(|error| tracing::warn!("{error}")).ok();
                self.record(&Fact::Zone { name: schedule.time_zone.clone(), zone });
            }
        }
        let waits = !seen.is_set && schedules.iter().any(|schedule| schedule.wait_for_clock);
        waits.then(|| seen.boot.after(LOOK))
    }
}

/// Waits for the clock to be set, again and again.
fn watch(post: &Post) {
    loop {
        let set = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC).and_then(|timer| {
            // It is never to be due: in the year 2400.
            let never = Timespec { tv_sec: 13_569_465_600, tv_nsec: 0 };
            let spec = Itimerspec { it_interval: Timespec::default(), it_value: never };
            timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &spec)?;
            rustix::io::read(&timer, &mut [0u8; 8])
        });
        match set {
            Err(rustix::io::Errno::CANCELED) => {
                if post.send(Mail::Fact(Fact::Clock(look()))).is_err() {
                    return;
                }
            }
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(errno) => return tracing::warn!("waiting for the clock to be set: {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_their_zone() {
        assert_eq!(in_zone(WallTime(1_800_000_000_000), &TimeZone::UTC), "Fri 2027-01-15 08:00:00 +00:00");
    }
}

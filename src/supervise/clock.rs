//! The two clocks, read.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::plan::{BootTime, Now, WallTime};

/// Both, now.
pub fn now() -> Now {
    let boot = clock_gettime(ClockId::Boottime);
    let wall = clock_gettime(ClockId::Realtime);
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    let boot_ns = unsigned(boot.tv_sec).saturating_mul(1_000_000_000).saturating_add(unsigned(boot.tv_nsec));
    let wall_ms = unsigned(wall.tv_sec).saturating_mul(1000).saturating_add(unsigned(wall.tv_nsec) / 1_000_000);
    Now { boot: BootTime(boot_ns), wall: WallTime(wall_ms) }
}

/// How long the host slept since it booted, in nanoseconds, give or take what is always the same: CLOCK_BOOTTIME counts that, CLOCK_MONOTONIC does not
/// (clock_gettime(2)). In a time namespace the two may begin apart, either way (time_namespaces(7)): only what it grows by says something.
pub fn slept_ns() -> i64 {
    let nanoseconds = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    };
    nanoseconds(ClockId::Boottime).saturating_sub(nanoseconds(ClockId::Monotonic))
}

/// A wake-up that comes so much too late is one of a process that was stopped. So much sleep of the host counts too: a deadline soon after it is met in
/// time, and yet the containers had little of the time before it.
const AWAY: Duration = Duration::from_secs(1);

/// Whether there was a time in which nobody looked although it was to be looked at `wake_at`, or the host slept, for `slept_ns` since the last look.
pub fn was_away(wake_at: Option<BootTime>, now: BootTime, slept_ns: i64) -> bool {
    let is_late = wake_at.is_some_and(|wake_at| now.since(wake_at) > AWAY);
    is_late || Duration::from_nanos(u64::try_from(slept_ns).unwrap_or(0)) > AWAY
}

/// The wall time of a moment on the other clock, as the clocks stand now.
pub fn wall_of(at: BootTime) -> WallTime {
    let now = now();
    let ago = u64::try_from(now.boot.since(at).as_millis()).unwrap_or(u64::MAX);
    let ahead = u64::try_from(at.since(now.boot).as_millis()).unwrap_or(u64::MAX);
    WallTime(now.wall.0.saturating_sub(ago).saturating_add(ahead))
}

/// A moment in local time, for people: the time of day if it is today, else with the date.
pub fn wall(at: WallTime) -> String {
    let local = |at: WallTime| {
        let seconds = i64::try_from(at.0 / 1000).unwrap_or(0);
        let shifted = at.0.saturating_add_signed(super::time_zone::offset_s(seconds).saturating_mul(1000));
        super::log::rfc3339_ms(shifted)
    };
    let (then, today) = (local(at), local(now().wall));
    let (date, time) = then.split_once('T').unwrap_or((&then, ""));
    let time = time.get(..8).unwrap_or(time);
    if today.starts_with(date) { time.to_owned() } else { format!("{date} {time}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_noticed_whether_or_not_a_deadline_passed_in_it() {
        let second = 1_000_000_000;
        let away = |wake_at: Option<u64>, slept_ns| {
            was_away(wake_at.map(|seconds| BootTime(seconds * 1_000_000_000)), BootTime(90 * 1_000_000_000), slept_ns)
        };
        assert!(away(Some(60), 0), "it should have looked long ago");
        assert!(away(Some(91), 80 * second), "a deadline is near, and most of the time before it was slept away");
        assert!(away(None, 2 * second));
        assert!(!away(Some(90), 0) && !away(None, 0) && !away(Some(91), second / 2));
        assert!(!away(None, -5 * second), "what the clocks are apart by shrinks by no sleep");
    }

    #[test]
    fn awake_the_clocks_go_together() {
        let (began, slept) = (now().boot, slept_ns());
        let grown = slept_ns().saturating_sub(slept).unsigned_abs();
        assert!(grown <= u64::try_from(now().boot.since(began).as_nanos()).unwrap());
    }
}

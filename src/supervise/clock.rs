//! The two clocks, read.

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
        let shifted = at.0.saturating_add_signed(crate::sys::local_time::offset_s(seconds).saturating_mul(1000));
        super::log::rfc3339_ms(shifted)
    };
    let (then, today) = (local(at), local(now().wall));
    let (date, time) = then.split_once('T').unwrap_or((&then, ""));
    let time = time.get(..8).unwrap_or(time);
    if today.starts_with(date) { time.to_owned() } else { format!("{date} {time}") }
}

//! Two clocks that must not be mixed: one for deadlines, one for people.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds of CLOCK_BOOTTIME: never steps, counts suspend, starts at 0 with each boot. Every deadline is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Later by `wait`; stays at the end of time (584 years) instead of overflowing.
    pub fn after(self, wait: Duration) -> BootTime {
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        BootTime(self.0.saturating_add(wait_ns))
    }

    /// How long from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: BootTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970 of CLOCK_REALTIME: shown to people; compared by schedules alone, which know that it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct WallTime(pub u64);

/// Both clocks, read at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Now {
    /// For deadlines.
    pub boot: BootTime,
    /// For people, and for schedules.
    pub wall: WallTime,
}

impl Now {
    /// The wall time of an earlier moment, as the clocks stand now.
    pub(super) fn wall_of(self, at: BootTime) -> WallTime {
        let ago_ms = u64::try_from(self.boot.since(at).as_millis()).unwrap_or(u64::MAX);
        WallTime(self.wall.0.saturating_sub(ago_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_saturate_at_both_ends() {
        assert_eq!(BootTime(u64::MAX).after(Duration::MAX), BootTime(u64::MAX));
        assert_eq!(BootTime(1).after(Duration::from_nanos(2)), BootTime(3));
        assert_eq!(BootTime(1).since(BootTime(2)), Duration::ZERO);
        assert_eq!(BootTime(5).since(BootTime(2)), Duration::from_nanos(3));
    }
}

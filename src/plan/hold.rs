//! Stop marks: what `moored stop` leaves, until a start, its time, or the removal of the file. They survive restarts of the supervisor by the unit's
//! record, and reboots by a file of their own, from which they are told again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::{BootTime, Now, WallTime};

/// A stop mark: stays until a start, its time, or the removal of the file; survives restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who.
    pub by: String,
    /// In their words.
    pub reason: Option<String>,
    /// When.
    pub since: WallTime,
    /// `None` is for ever.
    pub until: Option<Until>,
}

/// The end of a hold on both clocks; after a reboot the supervisor computes `boot` anew from `wall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Until {
    /// What counts.
    pub boot: BootTime,
    /// For people, and across a reboot.
    pub wall: WallTime,
}

impl Hold {
    /// The same mark in a later boot: its end on the boot clock of now. Only the wall clock can say how much of its time is left, and that may have
    /// been set, or begin at 1970: so what is left is never more than the whole of it.
    #[must_use]
    pub fn after_reboot(self, now: Now) -> Hold {
        let until = self.until.map(|until| {
            let (left_ms, whole_ms) =
                (until.wall.0.saturating_sub(now.wall.0), until.wall.0.saturating_sub(self.since.0));
            Until { boot: now.boot.after(Duration::from_millis(left_ms.min(whole_ms))), ..until }
        });
        Hold { until, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a mark of ten minutes, set at 1,000,000 ms, ends in a boot whose clocks show this, in milliseconds of that boot.
    fn ends(wall_ms: u64) -> u64 {
        let until = Until { boot: BootTime(99), wall: WallTime(1_600_000) };
        let hold = Hold { by: "root".into(), reason: None, since: WallTime(1_000_000), until: Some(until) };
        let now = Now { boot: BootTime(7_000_000), wall: WallTime(wall_ms) };
        hold.after_reboot(now).until.map_or(0, |until| until.boot.0 / 1_000_000)
    }

    #[test]
    fn the_time_that_is_left_is_by_the_wall_clock() {
        assert_eq!(ends(1_000_000), 600_007);
        assert_eq!(ends(1_400_000), 200_007);
        assert_eq!(ends(1_700_000), 7, "over");
    }

    #[test]
    fn a_clock_that_begins_at_1970_makes_no_mark_longer() {
        assert_eq!(ends(0), 600_007);
    }

    #[test]
    fn a_mark_without_an_end_has_none_after_a_reboot() {
        let hold = Hold { by: "root".into(), reason: None, since: WallTime(5), until: None };
        assert_eq!(hold.clone().after_reboot(Now::default()), hold);
    }
}

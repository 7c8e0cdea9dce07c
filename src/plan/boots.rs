//! The boot-loop guard: how many boots in a row were not good, and when one is.
//!
//! ```text
//!                all is well for `good_after`
//!   begun ───────────────────────────────────▶ good
//!     │    somebody stops the machine
//!     └───────────────────────────────────────▶ ended      (neither: the count stays)
//!
//!   the next boot finds `begun`: the one before was cut off, and counts as bad
//! ```
//!
//! - All is well when every unit is as its file says, as `moored sync` has it, and none is restarted meanwhile. What somebody stopped, what
//!   is not enabled and what has completed is well.
//! - A reboot that a unit's `on_limit` asks for is nobody's order: that boot is bad.
//! - After so many bad ones the set that was good last is in force, once: the count begins anew, so that whoever edits a file then has as many
//!   boots as anybody.
//!
//! Where the record is lost no boot was bad.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::BootTime;

/// What is known of this boot and those before it; on the disk before a unit starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boots {
    /// So many before this one were bad, in a row.
    pub bad: u32,
    /// How far this one is.
    pub course: Course,
}

/// How far a boot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Course {
    /// Nobody knows yet.
    Begun,
    /// All was well for long enough.
    Good,
    /// Somebody ended it before that.
    Ended,
}

/// What a boot is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    /// What is on disk.
    Disk,
    /// The set that was good last, after so many bad boots.
    LastGood(u32),
}

impl Boots {
    /// A machine boots that remembers this of the boot `before`. After `most` bad ones it is not to run what they ran.
    pub fn begin(before: Option<Boots>, most: u32) -> (Boots, Running) {
        let bad = match before {
            None => 0,
            Some(Boots { course: Course::Good, .. }) => 0,
            Some(Boots { bad, course: Course::Ended }) => bad,
            Some(Boots { bad, course: Course::Begun }) => bad.saturating_add(1),
        };
        let begun = |bad| Boots { bad, course: Course::Begun };
        match bad >= most {
            true => (begun(0), Running::LastGood(bad)),
            false => (begun(bad), Running::Disk),
        }
    }
}

/// How long all has been well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof {
    /// Since when, and how many restarts there were by then.
    well: Option<(BootTime, u64)>,
}

impl Proof {
    /// All is well, or not; `restarts` is how many there were in all. `Ok`: for long enough. `Err`: when to look again if nothing happens.
    pub fn look(
        &mut self,
        is_well: bool,
        restarts: u64,
        now: BootTime,
        good_after: Duration,
    ) -> Result<(), Option<BootTime>> {
        if !is_well {
            self.well = None;
            return Err(None);
        }
        let since = match self.well {
            Some((since, before)) if before == restarts => since,
            Some(_) | None => now,
        };
        self.well = Some((since, restarts));
        let good_at = since.after(good_after);
        if now >= good_at { Ok(()) } else { Err(Some(good_at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What boots run that end like this, one after the other, after three bad ones at most.
    fn runs(ends: &[Course]) -> Vec<Running> {
        let mut before = None;
        let mut run = |end: &Course| {
            let (boots, running) = Boots::begin(before, 3);
            before = Some(Boots { course: *end, ..boots });
            running
        };
        ends.iter().map(&mut run).collect()
    }

    #[test]
    fn so_many_bad_boots_in_a_row_lead_to_the_last_good_set() {
        use Course::{Begun, Ended, Good};
        use Running::{Disk, LastGood};
        let cases: [(&[Course], &[Running]); 6] = [
            (&[Begun, Begun, Begun, Good, Begun], &[Disk, Disk, Disk, LastGood(3), Disk]),
            // A good one in between begins the count anew.
            (&[Begun, Begun, Good, Begun, Begun, Begun, Good], &[Disk, Disk, Disk, Disk, Disk, Disk, LastGood(3)]),
            // One that somebody ends is neither.
            (&[Begun, Ended, Begun, Ended, Begun, Good], &[Disk, Disk, Disk, Disk, Disk, LastGood(3)]),
            (&[Ended, Ended, Ended, Ended, Ended], &[Disk; 5]),
            // Whatever the good set comes to, what is edited then has its own boots.
            (
                &[Begun, Begun, Begun, Begun, Begun, Begun, Begun],
                &[Disk, Disk, Disk, LastGood(3), Disk, Disk, LastGood(3)],
            ),
            (&[Begun, Begun, Begun, Ended, Begun, Begun], &[Disk, Disk, Disk, LastGood(3), Disk, Disk]),
        ];
        for (ends, expected) in cases {
            assert_eq!(runs(ends), expected, "{ends:?}");
        }
    }

    #[test]
    fn it_is_good_once_all_was_well_for_long_enough_without_a_restart() {
        const LONG: Duration = Duration::from_secs(120);
        let at = |seconds: u64| BootTime(seconds * 1_000_000_000);
        let mut proof = Proof::default();
        assert_eq!(proof.look(false, 0, at(1), LONG), Err(None));
        assert_eq!(proof.look(true, 0, at(2), LONG), Err(Some(at(122))));
        assert_eq!(proof.look(true, 0, at(100), LONG), Err(Some(at(122))));
        // Restarted, and well again before anybody looked.
        assert_eq!(proof.look(true, 1, at(110), LONG), Err(Some(at(230))));
        assert_eq!(proof.look(false, 1, at(229), LONG), Err(None));
        assert_eq!(proof.look(true, 1, at(230), LONG), Err(Some(at(350))));
        assert_eq!(proof.look(true, 1, at(350), LONG), Ok(()));
    }
}

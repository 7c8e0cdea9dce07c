//! The boot-loop guard at work ([`crate::plan::Boots`]): what a boot runs, and when it is good.
//!
//! # Order
//!
//! | when | what is written | killed in between |
//! |---|---|---|
//! | a boot begins after too many bad ones | the texts of the last good set as those in force, each with the one it replaces marked as bad | as if it had not begun: the next boot does it |
//! | a boot begins | the count, synced, before a unit starts | the same: this boot is not counted |
//! | all was well long enough | the texts in force as the good set, then that this boot is good | it is a bad one |
//! | somebody stops the machine | that this boot was ended | it is a bad one |
//!
//! # Rules
//!
//! - **Nothing of the user's is written.** A unit goes back to an earlier text as in a rollback (`catalogue/trial`): the text on disk is not
//!   taken as long as it is the bad one, and whoever edits the file has it tried. `ps` and `status` say so.
//! - A unit that the good set does not have is stopped with a reason, until `moored start`.
//! - A unit whose file is gone stays gone.
//! - Looking costs what `moored sync` costs, once a second at most, and ends when the boot is good.

use std::io::Write;
use std::time::Duration;

use super::files::{Files, Left};
use super::round::Supervisor;
use super::wait::{Goal, Verdict, judge};
use super::{catalogue, clock, narrate, validate};
use crate::plan::{BootTime, Boots, Course, Hold, Proof, Running, WallTime};
use crate::store::{Good, GoodSet};
use crate::unit::{BootGuard, UnitName};

/// Who stops units that the good set does not have.
const WHO: &str = "boot-loop guard";
/// From one look at all units to the next.
const LOOK: Duration = Duration::from_secs(1);

/// A boot that is not known to be good.
#[derive(Debug)]
pub struct Guard {
    wanted: BootGuard,
    boots: Boots,
    proof: Proof,
    looked: Option<BootTime>,
}

/// Begins a boot, or goes on with one; `None` where nothing is guarded, or is known already. Changes what is `left` to what is to run.
pub fn begin(wanted: Option<BootGuard>, files: &mut Files, left: &mut Left) -> Option<Guard> {
    let wanted = wanted?;
    let boots = match (left.new_boot, left.boots) {
        (false, boots) => boots?,
        (true, before) => {
            let (boots, running) = Boots::begin(before, wanted.boots);
            if let Running::LastGood(bad) = running {
                go_back(bad, files, left);
            }
            if let Err(error) = files.keep_boots_now(boots) {
                tracing::error!("boot-loop guard: this boot is not counted: {error}");
            }
            boots
        }
    };
    let guard = Guard { wanted, boots, proof: Proof::default(), looked: None };
    (boots.course == Course::Begun).then_some(guard)
}

/// The last good set is in force, with what it replaces marked as bad.
fn go_back(bad: u32, files: &mut Files, left: &mut Left) {
    let now = clock::now().wall;
    let why = format!("{bad} boots in a row were not good, and this text was not in the last good set");
    let mut said = format!("boot-loop guard: {bad} boots in a row were not good");
    if left.good_boot.is_empty() {
        said.push_str(", and there is no set of units that ever was: all goes on as before");
        return say(&said, files, left);
    }
    let (mut back, mut stopped) = (GoodSet::new(), Vec::new());
    for (name, current) in &mut left.good {
        match left.good_boot.get(name) {
            None => stopped.push(name.clone()),
            Some(good) if is_same(good, current) => {}
            Some(good) => {
                *current = replaced(name, good.clone(), current, &why, now);
                back.insert(name.clone(), Some(current.clone()));
            }
        }
    }
    if !back.is_empty()
        && let Err(error) = files.keep_set_now(back.clone())
    {
        tracing::error!("boot-loop guard: the next boot does not know that units went back: {error}");
    }
    let reason = format!("{bad} boots in a row were not good, and the last good set has no such unit");
    for name in &stopped {
        let hold = Hold { by: WHO.to_owned(), reason: Some(reason.clone()), since: now, until: None };
        files.keep_mark(name, &hold);
        left.marks.retain(|(other, _)| other != name);
        left.marks.push((name.clone(), hold));
    }
    let words = |names: Vec<&UnitName>| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    match (back.is_empty(), stopped.is_empty()) {
        (true, true) => said.push_str(", and the last good set is what runs"),
        (_, _) => said.push_str("; this one runs the last good set instead of what is on disk"),
    }
    if !back.is_empty() {
        said.push_str(&format!(
            ". Back to their earlier text until their files change: {}",
            words(back.keys().collect())
        ));
    }
    if !stopped.is_empty() {
        said.push_str(&format!(". Stopped until `moored start`, as they are new: {}", words(stopped.iter().collect())));
    }
    say(&said, files, left);
}

/// To the console, and where `ps` and `status` show it until the next boot.
fn say(text: &str, files: &Files, left: &mut Left) {
    tracing::error!("{text}");
    left.told.push(narrate::note("boot-loop", text.to_owned()));
    let file = std::fs::File::options().create(true).append(true).open(files.boot_notes());
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{text}")) {
        tracing::warn!("{}: {error}", files.boot_notes().display());
    }
}

fn is_same(a: &Good, b: &Good) -> bool {
    let plain = |good: &Good| Good { earlier: None, bad: None, since_ms: 0, directory: (0, 0), ..good.clone() };
    plain(a) == plain(b)
}

/// `good`, remembering that `current` is bad. One that is not valid is not taken from the disk anyhow.
fn replaced(name: &UnitName, good: Good, current: &Good, why: &str, now: WallTime) -> Good {
    let recalled = catalogue::recall(name, current.clone(), validate).ok();
    let bad = recalled.map(|(in_force, _)| catalogue::Bad::of(&in_force, why, now).stored());
    Good { earlier: None, bad, since_ms: now.0, directory: current.directory, ..good }
}

impl Supervisor {
    /// Looks whether the boot is good by now; says when to look again.
    pub(super) fn look_at_boot(&mut self) -> Option<BootTime> {
        let guard = self.guard.as_ref().filter(|_| self.observed.shutdown.is_none() && !self.is_beginning())?;
        let now = clock::now().boot;
        let next = guard.looked.map(|looked| looked.after(LOOK)).filter(|next| *next > now);
        if next.is_some() {
            return next;
        }
        let (is_well, restarts) = (self.is_all_well(now), self.observed.units.values().map(|seen| seen.restarts).sum());
        let guard = self.guard.as_mut()?;
        guard.looked = Some(now);
        match guard.proof.look(is_well, restarts, now, guard.wanted.good_after) {
            Err(again) => again,
            Ok(()) => {
                let boots = Boots { bad: 0, course: Course::Good };
                self.guard = None;
                self.files.keep_good_boot(self.catalogue.names().filter_map(|name| self.catalogue.in_force(name)));
                self.files.keep_boots(boots);
                self.tell(narrate::note("good-boot", "this boot is a good one: all units did well".to_owned()));
                None
            }
        }
    }

    fn is_all_well(&self, now: BootTime) -> bool {
        let statuses = self.planner.statuses(&self.desired, &self.observed, now);
        self.desired.units.iter().all(|(name, want)| {
            let verdict = statuses
                .get(name)
                .map(|status| judge(&Goal::Converged, want.unit.kind, self.observed.unit(name), &status, ""));
            !self.is_trying(name) && matches!(verdict, Some(Verdict::Reached(_)))
        })
    }

    /// Somebody ends it.
    pub(super) fn boot_ended(&mut self) {
        if let Some(guard) = self.guard.take() {
            self.files.keep_boots(Boots { course: Course::Ended, ..guard.boots });
        }
    }
}

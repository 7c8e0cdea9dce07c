//! What the oracle forgets or forgives when something is lost: the host's power, time, a keeper in the middle of a start.

use moored::plan::{BootTime, ExitRecord};
use moored::unit::{ContainerId, UnitName};

use super::oracle::{End, Oracle, Truth};
use super::schedules::Dealt;
use super::supervisor::Disk;

impl Oracle {
    /// The host lost its power: what had not ended has no record, in the next boot nothing has run yet, and only texts and stop marks are as they were
    /// on the disk.
    pub fn lose_power(&mut self, now: BootTime, disk: &Disk) {
        self.begun.clear();
        self.ended.clear();
        self.superseded.clear();
        self.raised.clear();
        self.killed.clear();
        self.sick.clear();
        self.well.clear();
        for (unit, truth) in &mut self.units {
            // A start that is written down is made at most once: whether it was nobody knows now.
            let table = disk.timetables.get(unit);
            let perhaps_by = table.map(|table| table.from).max(truth.dealt.perhaps_by);
            let lost = truth.dealt.lost || truth.dealt.was_gone && table.is_none();
            *truth = Truth {
                good: disk.good.get(unit).filter(|_| truth.good.is_some()).cloned(),
                // A mark goes with the file.
                held: truth.held.filter(|until| *until > now && disk.marks.contains_key(unit)),
                highest: truth.highest,
                begun: truth.begun,
                dealt: Dealt { rebooted: true, lost, perhaps_by, ..truth.dealt.clone() },
                ..Truth::default()
            };
        }
    }

    /// A stop mark of an earlier boot holds until then.
    pub fn held_again(&mut self, unit: &UnitName, until: BootTime) {
        self.truth(unit).held = Some(until);
    }

    /// What was started was not: its keeper died before its program ran. All is as before, but for what was asked for since.
    pub fn unstarted(&mut self, id: &ContainerId) {
        let truth = self.truth(&id.unit);
        let last = truth.last.as_ref() == Some(id);
        if let Some(before) = truth.before.take().filter(|_| last) {
            (truth.wished, truth.by_hand) = (truth.wished.or(before.wished), truth.by_hand || before.by_hand);
            (truth.last, truth.other) = (before.last, before.other);
            (truth.counted, truth.short_runs) = (before.counted, before.short_runs);
            truth.dealt = before.dealt;
        }
    }

    /// Supervisor and keeper died before the spawn: nobody can know that there was none, so it counts as a run.
    pub(super) fn never_spawned(&mut self, record: &ExitRecord) {
        let (at, outcome, fingerprint) = (record.at, record.outcome.clone(), record.fingerprint);
        let end = End { at, ran_for: record.ran_for, outcome, fingerprint, forgotten: true };
        self.ended.insert(record.id.clone(), end);
        if record.stopped.is_some() {
            // Of what never was nothing was touched.
            self.excused.insert(record.id.clone());
        }
        let begun = self.begun.get(&record.id);
        let (enabled, other) = begun.map_or((false, None), |begun| (begun.enabled, begun.other.clone()));
        let wall = begun.map(|begun| begun.wall);
        let goes_on = other.as_ref().and_then(|other| self.begun.get(other)).is_some_and(|other| !other.enabled);
        let truth = self.truth(&record.id.unit);
        truth.wished = truth.wished.filter(|begun| *begun >= record.id.generation);
        // As in any start.
        truth.by_hand &= !enabled || goes_on || truth.wished.is_some();
        (truth.last, truth.other, truth.counted) = (Some(record.id.clone()), other, false);
        let is_counted = record.id.generation > truth.dealt.since;
        wall.into_iter().filter(|_| is_counted).for_each(|wall| truth.dealt.with(wall));
    }
}

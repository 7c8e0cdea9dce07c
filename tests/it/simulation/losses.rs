//! What the oracle forgets or forgives when something is lost: the host's power, time, a keeper in the middle of a start.

use moored::plan::BootTime;
use moored::unit::{ContainerId, UnitName};

use super::oracle::{Oracle, Truth};
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
}

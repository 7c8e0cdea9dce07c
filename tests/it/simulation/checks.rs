//! What must hold when a world without faults has come to rest.

use moored::plan::{Phase, Reason, Want, status};
use moored::unit::{Need, SwapMark, UnitName};

use super::History;

impl History {
    pub(super) fn running(&self) -> Vec<String> {
        let alive = self.host.containers.keys().filter(|id| self.host.is_alive(id));
        alive.map(|id| id.to_string()).collect()
    }

    /// Invariant 13: what runs is what should run.
    pub(super) fn check_converged(&self) -> Result<(), String> {
        let Some(supervisor) = &self.supervisor else { return Ok(()) };
        for unit in &self.names {
            self.check_alone(unit)?;
            let should = self.oracle.should_run(unit, self.now);
            let words = status(supervisor.desired(), &supervisor.observed, unit, self.now);
            let alive = self.host.of(unit).find(|(id, _)| self.host.is_alive(id));
            match (should, alive, words.phase) {
                (Ok(want), Some((_, found)), Phase::Running | Phase::Ready)
                    if want.fingerprint == found.want.fingerprint => {}
                // A ring: what runs is left alone, nothing new starts. Or it waits, and what for does not come.
                (Ok(want), _, Phase::Waiting | Phase::Failed | Phase::Running | Phase::Ready)
                    if want.unit.network.is_some() => {}
                (Ok(want), None, Phase::Waiting) if self.waits_rightly(&want, &words.reason) => {}
                (Ok(want), Some(_), Phase::Running | Phase::Ready) if self.keeps_rightly(&want, &words.reason) => {}
                (_, Some((id, _)), Phase::Running | Phase::Ready) if self.outlives_rightly(id, &words.reason) => {}
                (Ok(want), _, Phase::Failed | Phase::Running | Phase::Ready) if self.oracle.is_in_ring(&want) => {}
                (Err(_), None, Phase::Stopped | Phase::Completed | Phase::Failed) => {}
                (Err(why), Some(_), _) if why.contains("gave up") => {}
                // Its text came to nothing beside it, and is not to be tried again; now it says stop-first, and that waits, or is refused.
                (Err(why), Some(_), Phase::Running | Phase::Ready)
                    if why.contains("stay so") && self.change_waits_rightly(unit, &words.reason) => {}
                // It began before its text had a schedule, or when that let no run last, and goes on.
                (Err(why), Some((_, found)), Phase::Running | Phase::Ready)
                    if why.contains("its time") && self.oracle.may_last(unit, &found.want) => {}
                (Err(_), None, Phase::Waiting) => {}
                (should, alive, phase) => {
                    let (alive, should) = (alive.map(|(id, _)| id.to_string()), should.map(|want| want.fingerprint));
                    return Err(format!("13: {unit} should be {should:?}, is {alive:?}, {phase:?} {:?}", words.reason));
                }
            }
        }
        Ok(())
    }

    /// Whether it runs on because the change to the text in force waits, or is refused.
    fn change_waits_rightly(&self, unit: &UnitName, reason: &Reason) -> bool {
        let good = self.oracle.units.get(unit).and_then(|truth| truth.good.as_ref());
        let is_waiting = matches!(reason, Reason::ChangeWaits(_));
        good.is_some_and(|want| is_waiting && self.oracle.is_in_ring(want) || self.keeps_rightly(want, reason))
    }

    /// Whether it runs on with its old text because the new one could not start.
    fn keeps_rightly(&self, want: &Want, reason: &Reason) -> bool {
        matches!(reason, Reason::ChangeWaits(what) if self.waits_rightly(want, what))
    }

    /// What runs has the contents that its text has, and was told of them. A swap that failed is tried again by the next supervisor.
    pub(super) fn check_contents(&self) -> Result<(), String> {
        for (id, container) in self.host.containers.iter().filter(|(id, _)| self.host.is_alive(id)) {
            let want = self.oracle.should_run(&id.unit, self.now);
            let same = |want: &Want| want.fingerprint == container.want.fingerprint;
            let Some(want) = want.ok().filter(same) else { continue };
            let should = SwapMark::of(&want.unit).unwrap_or_default();
            if container.contents != should {
                return Err(format!("contents: {id} has other contents than its text"));
            }
            if container.told != should.reload {
                return Err(format!("contents: {id} was not told of what it has"));
            }
        }
        Ok(())
    }

    /// Whether none of what it says it waits for is there.
    fn waits_rightly(&self, want: &Want, reason: &Reason) -> bool {
        let Reason::Needs { lacking, .. } = reason else { return false };
        let runs = |unit| self.host.of(unit).any(|(id, _)| self.host.is_alive(id));
        lacking.iter().all(|lack| {
            want.unit.depends_on.contains_key(&lack.unit) && (lack.need != Need::Started || !runs(&lack.unit))
        })
    }
}

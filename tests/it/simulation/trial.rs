//! What the oracle says of texts on trial.

use moored::plan::{BootTime, Exit, Outcome};
use moored::unit::{Fingerprint, Kind, OnBad, UnitName};

use super::host::Host;
use super::oracle::{Oracle, Verdict, must};

impl Oracle {
    /// A text that did well has a container that has run for so long, or is done.
    pub fn on_prove(&mut self, host: &Host, unit: &UnitName, fingerprint: Fingerprint, now: BootTime) -> Verdict {
        let Some(want) = self.units.get(unit).and_then(|truth| truth.good.clone()) else { return Ok(()) };
        let alive = host.of(unit).any(|(_, found)| {
            found.want.fingerprint == fingerprint && now.since(found.run.begun) >= want.unit.update.min_healthy
        });
        let done = |outcome: &Outcome| matches!(outcome, Outcome::Exited { exit: Exit::Code(0), oom: false });
        let done = self.ended.iter().any(|(id, end)| id.unit == *unit && done(&end.outcome));
        must(alive || done, "trial", || format!("the text of {unit} is said to have done well"))?;
        must(want.unit.kind == Kind::Service, "trial", || format!("{unit} is a oneshot"))?;
        let truth = self.truth(unit);
        truth.proven = Some(fingerprint);
        if let Some(good) = truth.good.as_mut().filter(|good| good.fingerprint == fingerprint) {
            good.trial = None;
        }
        Ok(())
    }

    /// Only a bad text is rolled back, and only one that is on trial.
    pub fn on_roll_back(&mut self, host: &Host, unit: &UnitName, fingerprint: Fingerprint, now: BootTime) -> Verdict {
        self.ended(host);
        let good = self.units.get(unit).and_then(|truth| truth.good.clone());
        let Some(want) = good.filter(|good| good.fingerprint == fingerprint) else {
            return Err(format!("trial: {unit} is rolled back from a text that is not in force"));
        };
        must(want.trial == Some(OnBad::Rollback), "trial", || format!("{unit} is on no trial"))?;
        let ended = self.ended.iter().any(|(id, end)| id.unit == *unit && end.is_of(fingerprint));
        let sick = self.sick.iter().any(|id| id.unit == *unit);
        let late = host.of(unit).any(|(_, found)| now.since(found.run.begun) >= want.unit.update.deadline);
        must(ended || sick || late, "trial", || format!("{unit} did nothing bad"))?;
        // It comes again only when somebody edits the file, and then it begins anew.
        let truth = self.truth(unit);
        (truth.counted, truth.short_runs) = (true, 0);
        Ok(())
    }

    /// It is done, once for each text, unless its file was another one meanwhile.
    pub fn rolled_back(&mut self, unit: &UnitName, fingerprint: Fingerprint) -> Verdict {
        let first = self.rolled_back.insert((unit.clone(), fingerprint));
        must(first, "trial", || format!("{unit} is rolled back a second time from a text that was not edited"))
    }
}

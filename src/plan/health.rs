//! What the checks of a generation have found, and what follows from it.
//!
//! - A verdict needs as many results in a row as the text says; one result the other way begins the row anew.
//! - A generation is *healthy* when each check of the text in force passes, and its own word is that it is (`told`). It is *unhealthy*, and is
//!   to be restarted, when startup or liveness fails; *unready* when only readiness does. Until then it is *starting*.
//! - What was found stays with the generation, over restarts of the supervisor too, until the text has another check in its place or none.
//! - Which checks are asked is decided here ([`Probing`]): only of a program that runs and is to go on, and only startup until that has passed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::desired::Want;
use super::exit::shortened;
use super::observed::{Live, State};
use super::time::BootTime;
use super::world::World;
use crate::unit::{CheckKind, Health};

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// It is well.
    Passed,
    /// It is not.
    Failed {
        /// What was found, for people.
        text: String,
        /// It was due. One that was asked early, to know of the first pass soon, does not count.
        counts: bool,
    },
}

/// The results of one check so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// What they amount to.
    verdict: Opinion,
    /// Passes since the last failure, as far as they are of interest.
    passes: u32,
    /// Failures since the last pass, as far as they count.
    failures: u32,
    /// The last failure since the last pass.
    said: Option<String>,
    /// Since when they amount to that.
    since: Option<BootTime>,
}

/// What the results of one check amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opinion {
    /// Nothing yet.
    #[default]
    Unknown,
    /// So many passes in a row.
    Passing,
    /// So many failures in a row.
    Failing,
}

/// What was found of one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    startup: Tally,
    readiness: Tally,
    liveness: Tally,
}

/// How a container is that has checks, or tells by itself; the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthStatus {
    /// Each passes.
    Healthy,
    /// Not every check has passed yet.
    Starting,
    /// Readiness fails.
    Unready,
    /// Startup or liveness fails.
    Unhealthy,
}

/// What a check that does not pass says of itself, with what it found last.
pub(super) fn unwell_words(check: CheckKind, said: Option<&str>) -> String {
    match said {
        None => format!("{} has not passed yet", check.word()),
        Some(said) => format!("{} does not pass: {said}", check.word()),
    }
}

/// What is asked of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probing {
    /// The checks of the text.
    pub health: Arc<Health>,
    /// Startup has passed, or there is no such check.
    pub started: bool,
}

impl HealthStatus {
    /// The word in `ps`.
    pub fn word(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unready => "unready",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

impl Probing {
    /// The checks that are asked.
    pub fn kinds(&self) -> impl Iterator<Item = CheckKind> {
        let asked = |kind: &CheckKind| (*kind != CheckKind::Startup) == self.started;
        self.health.checks().map(|(kind, _)| kind).filter(asked)
    }
}

impl Tally {
    /// Says whether that is news.
    fn take(&mut self, probed: &Probed, failures: u32, successes: u32, now: BootTime) -> bool {
        let before = self.clone();
        match probed {
            Probed::Passed => {
                (self.failures, self.said) = (0, None);
                self.passes = self.passes.saturating_add(1).min(successes);
                if self.passes >= successes {
                    self.verdict = Opinion::Passing;
                }
            }
            Probed::Failed { text, counts } => {
                self.passes = 0;
                self.said = Some(shortened(text));
                self.failures = self.failures.saturating_add(u32::from(*counts)).min(failures);
                if self.failures >= failures {
                    self.verdict = Opinion::Failing;
                }
            }
        }
        if self.verdict != before.verdict {
            self.since = Some(now);
        }
        *self != before
    }
}

impl Findings {
    fn of(&self, kind: CheckKind) -> &Tally {
        match kind {
            CheckKind::Startup => &self.startup,
            CheckKind::Readiness => &self.readiness,
            CheckKind::Liveness => &self.liveness,
        }
    }

    fn of_mut(&mut self, kind: CheckKind) -> &mut Tally {
        match kind {
            CheckKind::Startup => &mut self.startup,
            CheckKind::Readiness => &mut self.readiness,
            CheckKind::Liveness => &mut self.liveness,
        }
    }

    fn status(&self, health: &Health) -> HealthStatus {
        let any = |opinion, kinds: &[CheckKind]| {
            health.checks().any(|(kind, _)| kinds.contains(&kind) && self.of(kind).verdict == opinion)
        };
        if any(Opinion::Failing, &[CheckKind::Startup, CheckKind::Liveness]) {
            HealthStatus::Unhealthy
        } else if any(Opinion::Failing, &[CheckKind::Readiness]) {
            HealthStatus::Unready
        } else if any(Opinion::Unknown, &CheckKind::ALL) {
            HealthStatus::Starting
        } else {
            HealthStatus::Healthy
        }
    }
}

impl Live {
    /// Takes in what a probe found. Nothing does of one that is not to go on.
    pub(super) fn probed(
        &mut self,
        kind: CheckKind,
        probed: &Probed,
        (failures, successes): (u32, u32),
        now: BootTime,
    ) -> bool {
        let running = matches!(self.state, State::Running { .. });
        running && self.findings.get_or_insert_default().of_mut(kind).take(probed, failures, successes, now)
    }

    /// Since when it is well without a break: healthy by these checks and by its own word, or just running if there is neither.
    pub(super) fn well_since(&self, health: Option<&Health>) -> Option<BootTime> {
        let State::Running { since } = self.state else { return None };
        if self.awaits_post_start() {
            return None;
        }
        let Some(health) = health else { return Some(since) };
        if self.health(Some(health)) != Some(HealthStatus::Healthy) {
            return None;
        }
        let passed = health.checks().filter_map(|(kind, _)| self.findings.as_ref()?.of(kind).since);
        passed.chain(health.notify.and_then(|_| self.ready_since())).chain([since]).max()
    }

    /// What was found by a check that is not asked any more, or asks something else from now on, says nothing.
    pub(super) fn forget_findings(&mut self, probing: Option<&Probing>) {
        let Some(findings) = &mut self.findings else { return };
        for kind in CheckKind::ALL {
            let new = probing.and_then(|probing| probing.health.get(kind));
            let same = match &self.probing {
                Some(old) => old.health.get(kind) == new,
                // This supervisor has only begun to ask.
                None => new.is_some(),
            };
            if !same {
                *findings.of_mut(kind) = Tally::default();
            }
        }
    }

    /// What the results of a check amount to.
    pub fn opinion(&self, kind: CheckKind) -> Opinion {
        self.findings.as_ref().map_or(Opinion::Unknown, |findings| findings.of(kind).verdict)
    }

    /// The last failure of a check since its last pass.
    pub fn said(&self, kind: CheckKind) -> Option<&str> {
        self.findings.as_ref()?.of(kind).said.as_deref()
    }

    /// How it is by the checks of this text; `None`: it has none, or does not run.
    pub(super) fn health(&self, health: Option<&Health>) -> Option<HealthStatus> {
        let health = health.filter(|_| matches!(self.state, State::Running { .. }))?;
        let asked = match &self.findings {
            _ if !health.has_checks() => HealthStatus::Healthy,
            None => HealthStatus::Starting,
            Some(findings) => findings.status(health),
        };
        let hooked = if self.awaits_post_start() { HealthStatus::Starting } else { HealthStatus::Healthy };
        Some(asked.max(self.told_health(health.notify)).max(hooked))
    }

    /// The check that keeps it from being healthy, and what was found.
    pub(super) fn complaint(&self, health: &Health) -> Option<(CheckKind, Option<String>)> {
        let worst = |opinion| health.checks().map(|(kind, _)| kind).find(|kind| self.opinion(*kind) == opinion);
        let kind = worst(Opinion::Failing).or_else(|| worst(Opinion::Unknown))?;
        Some((kind, self.said(kind).map(str::to_owned)))
    }
}

impl World<'_> {
    /// Why a generation that runs is to be restarted, by its checks.
    pub(super) fn unhealthy(&self, want: &Want, live: &Live) -> Option<String> {
        if let Some(failure) = live.post_start_failure() {
            return Some(failure);
        }
        let health = want.unit.health.as_deref()?;
        if let Some((_, text)) = self.silence(&want.unit, live).filter(|(due, _)| live.is_heard_since(*due)) {
            return Some(text);
        }
        let failing = |kind: &CheckKind| live.opinion(*kind) == Opinion::Failing && health.get(*kind).is_some();
        let running = matches!(live.state, State::Running { .. });
        let kind = [CheckKind::Startup, CheckKind::Liveness].into_iter().find(failing).filter(|_| running)?;
        let times = live.findings.as_ref().map_or(0, |findings| findings.of(kind).failures);
        let said = live.said(kind).unwrap_or_default();
        Some(format!("{} failed {times} times in a row: {said}", kind.word()))
    }

    /// What is to be asked of a generation that is to go on.
    pub(super) fn probing(&self, own_text: Option<&Want>, live: &Live) -> Option<Probing> {
        match own_text {
            // It goes on only because its successor could not start or has not done well: the checks of that one are not its own.
            None => live.probing.clone(),
            Some(want) => {
                let health = want.unit.health.clone().filter(|health| health.has_checks())?;
                let health = Some(health).filter(|_| matches!(live.state, State::Running { .. }))?;
                let passed = live.opinion(CheckKind::Startup) == Opinion::Passing;
                let started = health.startup.is_none() || passed;
                Some(Probing { health, started })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(counts: bool) -> Probed {
        Probed::Failed { text: "no".to_owned(), counts }
    }

    #[test]
    fn a_verdict_takes_a_row_and_keeps_until_another_row() {
        let mut tally = Tally::default();
        for (probed, opinion) in [
            (failed(true), Opinion::Unknown),
            (failed(false), Opinion::Unknown),
            (failed(true), Opinion::Failing),
            (Probed::Passed, Opinion::Failing),
            (failed(true), Opinion::Failing),
            (Probed::Passed, Opinion::Failing),
            (Probed::Passed, Opinion::Passing),
            (failed(true), Opinion::Passing),
            (failed(false), Opinion::Passing),
            (Probed::Passed, Opinion::Passing),
            (failed(true), Opinion::Passing),
            (failed(true), Opinion::Failing),
        ] {
            tally.take(&probed, 2, 2, BootTime(1));
            assert_eq!(tally.verdict, opinion, "{probed:?}");
        }
    }

    #[test]
    fn what_says_nothing_new_is_no_news() {
        let mut tally = Tally::default();
        assert!(tally.take(&Probed::Passed, 3, 1, BootTime(1)));
        assert!(!tally.take(&Probed::Passed, 3, 1, BootTime(1)));
        assert!(
            tally.take(&failed(true), 3, 1, BootTime(2))
                && tally.take(&failed(true), 3, 1, BootTime(2))
                && tally.take(&failed(true), 3, 1, BootTime(2))
        );
        assert!(!tally.take(&failed(true), 3, 1, BootTime(2)));
    }
}

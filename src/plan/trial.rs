//! Whether a text has shown that it does well, and what follows if it does not.
//!
//! - A text has *done well* when a container of it was well for `update.min_healthy` without a break: healthy if it has checks, running if it has
//!   none. That is remembered ([`Seen::proven`]), so that it can be gone back to.
//! - A text that replaces a proven one is *on trial* ([`Want::trial`]) until it has done well itself. It is bad at its first end that is no success,
//!   start that fails, or failure of its checks, and when it is not well by `update.deadline`. An end that nobody saw says nothing.
//! - A bad text is rolled back at most once: what comes back is on no trial. Who holds the earlier text, and keeps the bad one from being taken
//!   again, is not decided here.
//! - Only services are put to it: running a oneshot once more is no way back.
//! - Beside a container that runs on (`handover`) any end is bad: a text that was to take over is not there to do it.

use super::desired::Want;
use super::exit::{Exit, ExitRecord, Outcome};
use super::observed::{Live, State};
use super::time::BootTime;
use super::world::{View, World};
use crate::unit::{Kind, OnBad};

/// How a text does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trial {
    /// It is not known yet; perhaps at this time.
    Open(Option<BootTime>),
    /// Well.
    Passed,
    /// Badly: why.
    Failed(String),
}

impl World<'_> {
    /// How the text of this unit does.
    pub(super) fn trial(&self, view: View) -> Trial {
        let Some(want) = view.want.filter(|want| want.unit.kind == Kind::Service) else { return Trial::Open(None) };
        match &view.seen.live {
            Some(live) if live.run.fingerprint != want.fingerprint => self.trial_beside(view, want, live),
            Some(live) if !matches!(live.state, State::Ended(_)) => self.trial_of(view, live),
            Some(_) | None => {
                let last = view.seen.last_try(want);
                let own = last.filter(|last| last.fingerprint == want.fingerprint && last.stopped.is_none());
                own.map_or(Trial::Open(None), |last| ended(last, view))
            }
        }
    }

    /// An end of this text before the unit's generation, if there is one, was on no trial.
    fn trial_beside(&self, view: View, want: &Want, own: &Live) -> Trial {
        let next = view.seen.successor().filter(|next| next.run.fingerprint == want.fingerprint);
        if let Some(next) = next.filter(|next| !matches!(next.state, State::Ended(_))) {
            return match self.trial_of(view, next) {
                // First it takes over.
                Trial::Passed => Trial::Open(None),
                // That says nothing about the text.
                Trial::Failed(_) if next.is_unheard() => Trial::Open(None),
                open_or_failed => open_or_failed,
            };
        }
        let last = view.seen.last.as_ref().filter(|last| {
            last.id.generation > own.id.generation && last.fingerprint == want.fingerprint && last.stopped.is_none()
        });
        match last.map(|last| &last.outcome) {
            None | Some(Outcome::Exited { exit: Exit::Unknown, .. }) => Trial::Open(None),
            Some(outcome) => Trial::Failed(outcome.to_string()),
        }
    }

    fn trial_of(&self, view: View, live: &Live) -> Trial {
        let Some(want) = view.want else { return Trial::Open(None) };
        let (health, update) = (want.unit.health.as_deref(), &want.unit.update);
        match (&live.state, live.well_since(health)) {
            // Its end will say.
            (State::Stopping(_), _) => Trial::Open(None),
            (State::Running { .. }, Some(since)) => {
                let until = since.after(update.min_healthy);
                if until <= self.now { Trial::Passed } else { Trial::Open(Some(until)) }
            }
            (State::Starting | State::Running { .. } | State::Ended(_), _) => {
                let until = self.well_until(live, want);
                if until > self.now {
                    return Trial::Open(Some(until).filter(|_| want.trial.is_some()));
                }
                Trial::Failed(self.late_words(live, want))
            }
        }
    }

    /// The reason to go back to the earlier text.
    pub(super) fn rollback(&self, view: View) -> Option<String> {
        let on_trial = view.want.is_some_and(|want| want.trial == Some(OnBad::Rollback));
        let down = self.shutdown().is_some() || view.seen.hold_at(self.now).is_some();
        match on_trial && !down {
            true => match self.trial(view) {
                Trial::Failed(why) => Some(why),
                Trial::Open(_) | Trial::Passed => None,
            },
            false => None,
        }
    }
}

/// One that ends as its policy takes for the end has done what it is for. What nobody saw speaks for nothing.
fn ended(last: &ExitRecord, view: View) -> Trial {
    if let Outcome::Exited { exit: Exit::Unknown, .. } = last.outcome {
        return Trial::Open(None);
    }
    let policy = view.want.map(|want| want.unit.restart.policy);
    let done = last.outcome.is_success() && policy.is_some_and(|policy| !last.outcome.is_restarted_by(policy));
    if done { Trial::Passed } else { Trial::Failed(last.outcome.to_string()) }
}

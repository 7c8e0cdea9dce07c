//! The contents of config files that are swapped into a container as it runs.
//!
//! ```text
//! as wanted ── others are wanted ──▶ settling ── the same for 200 ms ──▶ asked ── Swapped ──▶ as wanted, and if some
//!     ▲                                 │ │                               │                   are to be told: a reload
//!     └────── wanted as it has them ────┘ └── others again: anew          └── failed: till they are others
//! ```
//!
//! - Files that change together arrive one by one. They settle first, so that one swap and one reload follow for all.
//! - The record says that a swap was begun before it has any effect. After a crash it is not known what the container has: it is asked
//!   again, which costs nothing if it is there.
//! - A swap that follows one without word of it is followed by a reload even if it brings back what was there: a client's reload may
//!   have come in between.
//! - That a swap is done and that a reload is wanted is one record: neither is lost without the other.

use std::time::Duration;

use super::action::Action;
use super::desired::Want;
use super::observed::{Asked, Live, Seen};
use super::reconcile::Plan;
use super::time::BootTime;
use crate::unit::{ContainerId, Fingerprint, SwapMark, Unit};

/// Contents of files that are not swapped yet: those that change together arrive one by one, and are to be followed by one reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settling {
    /// Which.
    pub contents: SwapMark,
    /// Since when they are others than those that it has.
    pub since: BootTime,
    /// When they are swapped.
    pub due: BootTime,
}

/// Contents are swapped when they have been the same for so long: certbot, a package and a `..data` link are done in far less.
const SETTLE: Duration = Duration::from_millis(200);

/// And at the latest after so long, if they go on changing.
const SETTLE_MAX: Duration = Duration::from_secs(2);

impl Settling {
    /// These, which are wanted since now; `before` were others.
    pub(super) fn new(contents: SwapMark, before: Option<&Settling>, now: BootTime) -> Settling {
        let since = before.map_or(now, |before| before.since);
        Settling { contents, since, due: now.after(SETTLE).min(since.after(SETTLE_MAX)) }
    }
}

/// Contents of files that changed, when they have settled.
pub(super) fn plan_contents(want: Option<&Want>, live: &Live, now: BootTime, plan: &mut Plan) {
    let Some(want) = want.filter(|want| want.fingerprint == live.run.fingerprint) else { return };
    let (id, wanted) = (live.id.clone(), live.contents_to_ask(&want.unit));
    match (wanted, live.settling.as_deref()) {
        (Some(contents), Some(settling)) if settling.contents == contents => {
            plan.at(settling.due, now, || Action::Swap { id, unit: want.unit.clone(), contents });
        }
        (Some(_), _) | (None, Some(_)) => plan.actions.push(Action::Settle { id, contents: wanted }),
        (None, None) => {}
    }
}

impl Live {
    /// Whether it is what would be started now: of this text, with these secrets.
    pub(super) fn is_of(&self, want: &Want) -> bool {
        self.run.fingerprint == want.fingerprint && !self.has_another_secret(&want.unit)
    }

    /// Whether it has another secret than `unit` says, and is to be replaced for it. What is not known is no other one.
    pub(super) fn has_another_secret(&self, unit: &Unit) -> bool {
        SwapMark::of(unit).zip(self.contents.as_deref()).is_some_and(|(wanted, has)| wanted.restart != has.restart)
    }

    /// Contents of files that are still to be swapped.
    pub(super) fn contents_to_ask(&self, unit: &Unit) -> Option<SwapMark> {
        let known = self.contents_asked.as_deref().or(self.contents.as_deref().filter(|_| !self.swapping));
        SwapMark::of(unit).filter(|contents| Some(contents) != known)
    }

    /// Marks it as begun.
    pub(super) fn begin_settle(&mut self, contents: Option<SwapMark>, now: BootTime) -> bool {
        let before = self.settling.take();
        self.settling = contents.map(|contents| Box::new(Settling::new(contents, before.as_deref(), now)));
        true
    }

    /// Marks it as begun: from here on it may have them, whatever is killed.
    pub(super) fn begin_swap(&mut self, contents: SwapMark) -> bool {
        self.swapped_over |= self.swapping;
        (self.settling, self.contents_asked, self.swapping) = (None, Some(Box::new(contents)), true);
        true
    }
}

impl Seen {
    /// The wish to reload is made in the same record: neither is lost without the other.
    pub(super) fn swapped(&mut self, id: &ContainerId, contents: SwapMark) -> bool {
        // Word of one that another followed already says nothing of what is there now.
        let asked = |live: &&mut Live| live.contents_asked.as_deref() == Some(&contents);
        let Some(live) = self.live_of_mut(id).filter(asked) else { return false };
        (live.contents_asked, live.swapping) = (None, false);
        let before = live.contents.replace(Box::new(contents)).unwrap_or_default();
        let doubtful = std::mem::take(&mut live.swapped_over) && contents.reload != Fingerprint::default();
        if (before.reload != contents.reload || doubtful) && live.is_up() {
            live.reload = Some(Asked::No);
        }
        self.trouble = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u8) -> SwapMark {
        SwapMark { all: Fingerprint([number; 16]), ..SwapMark::default() }
    }

    #[test]
    fn each_change_begins_the_wait_anew_and_it_ends_all_the_same() {
        let at = |ms: u64| BootTime(ms * 1_000_000);
        let mut settling = Settling::new(mark(1), None, at(0));
        assert_eq!(settling.due, at(200));
        for (ms, due) in [(150, 350), (1790, 1990), (1950, 2000), (2500, 2000)] {
            settling = Settling::new(mark(2), Some(&settling), at(ms));
            assert_eq!((settling.due, settling.since), (at(due), at(0)), "{ms}");
        }
    }
}

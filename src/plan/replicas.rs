//! Replicas: the units of one group, of which one at a time is replaced.
//!
//! ```text
//!            a changed text, a restart        its turn              well, and proven
//! up to date ────────────────────────▶ waits ──────────▶ in the making ─────────▶ up to date ──▶ the next one's turn
//!     ▲                                  │                    │
//!     └──── the text is gone back to ────┴──── its text fails ┘
//! ```
//!
//! - A replica is *in the making* from when its container is to stop for another one, or another one starts beside it, until that is well and its
//!   text has done well with it (`trial`). So is one that is to run and does not, whatever the reason. While there is one, no other's turn
//!   comes; what is being made goes on. Then it is the turn of the one with the lowest number.
//! - A text that fails with one is bad for all: it is rolled back as a whole, and those that have it already return one after the other in the same
//!   way. Where it is not to be rolled back, the others stay as they are, with the text before.
//! - Who is held, not enabled or completed is not waited for. What is down starts with the present text at once, out of turn: nothing is lost by it.
//! - Only services take turns.
//!
//! Nothing of this is remembered: whose turn it is follows from what runs, so whoever takes over in the middle goes on there.
//!
//! What is there once is the group's: its name has the sockets (`sockets`), and stands for its replicas where others depend on it: it is there when one of
//! them is, completed when all are, and lost when none is left.

use std::collections::BTreeMap;

use super::decide::Rest;
use super::desired::{Want, in_number_order};
use super::observed::{Live, State};
use super::trial::Trial;
use super::world::{View, World};
use crate::unit::{Kind, Need, UnitName};

/// Whose turn it is in one group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Turns<'a> {
    /// In the making; of several one.
    making: Option<&'a UnitName>,
    /// There are more.
    several: bool,
    /// Waits with the lowest number.
    next: Option<&'a UnitName>,
}

/// Turns that were found out, by group.
pub(super) type KnownTurns<'a> = BTreeMap<&'a UnitName, Turns<'a>>;

enum Standing {
    UpToDate,
    Waits,
    Making,
    /// Not to run, by somebody's will or because it is done.
    Out,
}

impl<'a> World<'a> {
    /// The other replica for whose sake this one is not replaced now.
    pub(super) fn waits_for_turn(&self, view: View<'a>) -> Option<&'a UnitName> {
        let group = view.want.filter(|want| want.unit.kind == Kind::Service)?.group()?;
        let turns = self.turns(group);
        match turns.making {
            Some(making) if making != view.name || turns.several => Some(making),
            Some(_) => None,
            None => turns.next.filter(|next| *next != view.name),
        }
    }

    /// Whether a replica that others wait for does not get there by itself.
    pub(super) fn holds_others_up(&self, name: &'a UnitName) -> bool {
        let view = self.view(name);
        let rest = match &view.seen.live {
            None => self.rest_itself(view),
            Some(live) => self.successor_rest(view, live),
        };
        match rest {
            Some(Rest::Failed(_) | Rest::GaveUp(_) | Rest::Backoff(..) | Rest::Cycle(_) | Rest::Completed) => true,
            Some(_) | None => {
                let (want, live) = (view.want, view.seen.live.as_ref());
                want.zip(live).is_some_and(|(want, live)| live.is_of(want) && self.unhealthy(want, live).is_some())
            }
        }
    }

    fn find_turns(&self, group: &UnitName) -> Turns<'a> {
        let mut turns = Turns::default();
        for view in self.members(group) {
            match self.standing(view) {
                Standing::UpToDate | Standing::Out => {}
                Standing::Waits => {
                    let is_before = |next: &UnitName| in_number_order(view.name, next).is_lt();
                    if turns.next.is_none_or(is_before) {
                        turns.next = Some(view.name);
                    }
                }
                Standing::Making => (turns.several, turns.making) = (turns.making.is_some(), Some(view.name)),
            }
        }
        turns
    }

    fn turns(&self, group: &'a UnitName) -> Turns<'a> {
        self.note_group(group);
        self.turns_or_find(group, || self.find_turns(group))
    }

    fn standing(&self, view: View<'a>) -> Standing {
        let Some(want) = view.want else { return Standing::Out };
        let Some(live) = &view.seen.live else {
            return match self.rest_itself(view) {
                Some(
                    Rest::Down | Rest::Removed | Rest::Held(_) | Rest::Disabled | Rest::Completed | Rest::Scheduled(..),
                ) => Standing::Out,
                Some(_) | None => Standing::Making,
            };
        };
        if view.seen.hold_at(self.now).is_some() || !want.unit.enabled && !view.seen.manual {
            return Standing::Out;
        }
        match live.state {
            State::Starting | State::Running { .. } if view.seen.beside.is_none() => {
                match (live.restart || !live.is_of(want), self.has_done_well(view, want, live)) {
                    (true, _) => Standing::Waits,
                    (false, true) => Standing::UpToDate,
                    (false, false) => Standing::Making,
                }
            }
            State::Starting | State::Running { .. } | State::Stopping(_) | State::Ended(_) => Standing::Making,
        }
    }

    /// It is well, and its text is known to do well with it.
    fn has_done_well(&self, view: View<'a>, want: &Want, live: &Live) -> bool {
        let is_well = live.well_since(want.unit.health.as_deref()).is_some();
        is_well && (view.seen.proven == Some(want.fingerprint) || self.trial(view) == Trial::Passed)
    }

    // ---- as one that others depend on ----

    /// With which generation a group has come to `need`: none of its own, so the same number as long as it is there.
    pub(super) fn group_there(&self, group: &UnitName, need: Need, chain: usize) -> Option<u64> {
        let mut members = self.members(group).peekable();
        members.peek()?;
        let mut there = members.map(|view| self.there(view.name, need, chain).is_some());
        let all = need == Need::Completed;
        (if all { there.all(|there| there) } else { there.any(|there| there) }).then_some(0)
    }
}

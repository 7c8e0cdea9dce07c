//! Listening sockets: they are the unit's, not the generation's.
//!
//! ```text
//!            start of a generation that has it            not to stay                   closed
//! (not there) ─────────────────────────────▶ may be open ─────────────▶ to be closed ─────────▶ (not there)
//!                                                 ▲   another start that has it  │
//!                                                 └──────────────────────────────┘
//! ```
//!
//! A socket is made by the first start that has it, before anything else of that start; that it cannot be made, because its address is in
//! use, is that start's failure, and is tried again as any other. From then on it is open whatever becomes of the generations, so that who
//! connects waits instead of being refused. It stays
//!
//! - while a generation of another text than the present one is there, which may have it;
//! - while the unit's text has it, or the one that may come back (`trial`), and a generation is there or is to come: in a restart, an update, a
//!   backoff, and while it waits for others or the host.
//!
//! Else it is closed, and whoever connects is refused: the file is gone, somebody stopped the unit, it is not enabled, it completed, failed,
//! gave up or waits for itself, everything stops; or its text does not have it any more.
//!
//! The sockets of replicas are their group's: they stay as long as one of the replicas would have them stay.
//!
//! What may be open is written down before it is made. Whether it is, those who hold it say after a crash ([`Fact::Listening`](super::Fact)), also for
//! units that nobody knows any more: then it is closed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::action::Action;
use super::decide::Rest;
use super::desired::Want;
use super::observed::Seen;
use super::reconcile::Plan;
use super::world::{View, World};
use crate::compact;
use crate::unit::{Listen, Unit};

/// How far a socket is that is open or may be. Read back as `Unknown` after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "()", into = "()")]
pub enum Opening {
    /// It may be open: a start that makes it was begun.
    #[default]
    Unknown,
    /// Somebody listens, as was said in this life.
    Open,
    /// It was to be closed in this life; no word yet.
    Closing,
}

impl From<()> for Opening {
    fn from((): ()) -> Opening {
        Opening::Unknown
    }
}

impl From<Opening> for () {
    fn from(_: Opening) {}
}

/// What of a unit's sockets is to be closed. Before a start: it may want an address that is only then free.
pub(super) fn plan_sockets<'a>(world: &World<'a>, view: View<'a>, plan: &mut Plan) {
    let seen = view.seen;
    if seen.sockets.is_empty() {
        return;
    }
    let is_group = world.group(view.name).is_some();
    let mut holders: Vec<Staying> = vec![staying(world, view)];
    if is_group {
        holders.extend(world.members(view.name).map(|member| staying(world, member)));
    }
    let stays = |listen: &Listen| {
        holders.iter().any(|staying| match staying {
            Staying::All => true,
            Staying::Of(want) => has(want, listen),
            Staying::None => false,
        })
    };
    let open = seen.sockets.iter().filter(|(_, opening)| **opening != Opening::Closing);
    let sockets = compact::set(open.map(|(listen, _)| listen).filter(|listen| !stays(listen)).cloned());
    if !sockets.is_empty() {
        plan.actions.push(Action::Close { unit: view.name.clone(), sockets });
    }
}

/// Which sockets stay.
enum Staying<'a> {
    All,
    /// Those of this text, and of the one that may come back in its place.
    Of(&'a Want),
    None,
}

fn staying<'a>(world: &World<'a>, view: View<'a>) -> Staying<'a> {
    let is_of = |want: &Want| view.seen.lives().all(|live| live.is_of(want));
    match (view.want, view.seen.live.is_some()) {
        (Some(want), true) if is_of(want) => Staying::Of(want),
        (_, true) => Staying::All,
        (None, false) => Staying::None,
        (Some(want), false) => match world.rest(view) {
            Rest::Backoff(..) | Rest::Needs(_) | Rest::Unmet(_) | Rest::WaitsFor(_) | Rest::Due(_) => Staying::Of(want),
            Rest::Down | Rest::Removed | Rest::Held(_) | Rest::Disabled => Staying::None,
            Rest::Scheduled(..) => Staying::None,
            Rest::Completed | Rest::Failed(_) | Rest::GaveUp(_) | Rest::Cycle(_) => Staying::None,
        },
    }
}

fn has(want: &Want, listen: &Listen) -> bool {
    let texts = [Some(want), want.earlier.as_deref()];
    texts.into_iter().flatten().flat_map(|want| &want.unit.sockets).any(|socket| socket.listen == *listen)
}

impl Seen {
    /// Where somebody is known to listen for it.
    pub fn listening(&self) -> impl Iterator<Item = &Listen> {
        self.sockets.iter().filter(|(_, opening)| **opening == Opening::Open).map(|(listen, _)| listen)
    }

    /// Those that are to be closed, while there is no word of it.
    pub(super) fn closing(&self) -> BTreeSet<Listen> {
        let closing = self.sockets.iter().filter(|(_, opening)| **opening == Opening::Closing);
        compact::set(closing.map(|(listen, _)| listen.clone()))
    }

    /// A start begins that makes those of these sockets that are not there.
    pub(super) fn begin_sockets(&mut self, unit: &Unit) {
        for socket in &unit.sockets {
            let opening = self.sockets.entry(socket.listen.clone()).or_default();
            if *opening == Opening::Closing {
                *opening = Opening::Unknown;
            }
        }
    }

    pub(super) fn begin_close(&mut self, sockets: &BTreeSet<Listen>) -> bool {
        let mut is_news = false;
        for listen in sockets {
            let Some(opening) = self.sockets.get_mut(listen) else { continue };
            is_news |= std::mem::replace(opening, Opening::Closing) != Opening::Closing;
        }
        is_news
    }

    /// These are open: also one that is to be closed, of which there will be word.
    pub(super) fn opened(&mut self, sockets: &BTreeSet<Listen>) -> bool {
        let mut is_news = false;
        for listen in sockets {
            let opening = self.sockets.entry(listen.clone()).or_default();
            if *opening == Opening::Unknown {
                (*opening, is_news) = (Opening::Open, true);
            }
        }
        is_news
    }

    /// These are closed, unless a start wants them again meanwhile.
    pub(super) fn closed(&mut self, sockets: &BTreeSet<Listen>) -> bool {
        let before = self.sockets.len();
        self.sockets.retain(|listen, opening| *opening != Opening::Closing || !sockets.contains(listen));
        self.sockets.len() < before
    }
}

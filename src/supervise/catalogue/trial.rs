//! Texts on trial: the earlier text is kept until the new one has done well, and a bad one is not taken again.
//!
//! ```text
//! earlier in force ──another text──▶ new in force, earlier kept ──did well──▶ new in force
//!        ▲                                     │
//!        └───────────── was bad ───────────────┘  (the new one is marked, until its file or source is another)
//! ```
//!
//! Which text did well and which was bad is decided in [`plan`](crate::plan); here it is remembered, in the state-dir too. The file of the user is
//! never written.

use std::sync::Arc;

use super::{Catalogue, Entry, InForce};
use crate::plan::{Seen, State, WallTime, Want};
use crate::store::BadText;
use crate::unit::{Fingerprint, OnBad, Order, UnitName, fingerprint, on_bad};

/// A text that was rolled back.
#[derive(Debug, Clone, PartialEq)]
pub struct Bad {
    /// Of the file, and of all that was merged with it.
    pub texts: Arc<str>,
    /// With its source and the contents of its files.
    pub fingerprint: Fingerprint,
    /// What was bad.
    pub why: String,
    /// When it was left.
    pub at: WallTime,
}

/// What is remembered of a unit besides the text in force.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trial {
    /// The text to go back to.
    pub earlier: Option<Arc<InForce>>,
    /// The text that is not taken again.
    pub bad: Option<Bad>,
    /// What was in force before, until it is known whether it did well.
    before: Option<Arc<InForce>>,
}

impl Bad {
    /// A text that is left.
    pub fn of(good: &InForce, why: &str, now: WallTime) -> Bad {
        Bad { texts: texts_of(good).into(), fingerprint: fingerprint_of(good), why: why.to_owned(), at: now }
    }

    /// For the state-dir.
    pub fn stored(&self) -> BadText {
        BadText {
            texts: self.texts.to_string(),
            fingerprint: self.fingerprint.0,
            why: self.why.clone(),
            at_ms: self.at.0,
        }
    }
}

impl Trial {
    /// What an earlier run remembered.
    pub fn remembered(earlier: Option<InForce>, bad: Option<Bad>) -> Trial {
        Trial { earlier: earlier.map(Arc::new), bad, before: None }
    }

    /// Texts that may come back.
    pub(super) fn texts(&self) -> impl Iterator<Item = &Arc<InForce>> {
        self.earlier.iter().chain(&self.before)
    }

    /// `old` is left for another text.
    pub(super) fn left(&mut self, old: &Arc<InForce>) {
        self.before.get_or_insert_with(|| Arc::clone(old));
    }

    /// Whether `new` is the text that was rolled back.
    pub(super) fn is_bad(&self, new: &InForce) -> bool {
        self.bad.as_ref().is_some_and(|bad| *bad.texts == *texts_of(new) && bad.fingerprint == fingerprint_of(new))
    }
}

/// Of all that it means, contents of files included: another one of these is another try.
fn fingerprint_of(good: &InForce) -> Fingerprint {
    fingerprint(&good.unit, &good.facts)
}

fn texts_of(good: &InForce) -> String {
    good.all_layers().iter().map(|layer| layer.text).collect::<Vec<_>>().join("\n")
}

/// Which texts there is something good to say of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    /// Did well.
    pub proven: Option<Fingerprint>,
    /// Is that of the container that runs.
    pub running: Option<Fingerprint>,
}

impl Standing {
    /// By what was seen of the unit.
    pub fn of(seen: Option<&Seen>) -> Standing {
        let live = seen.and_then(|seen| seen.live.as_ref());
        let running = live.filter(|live| matches!(live.state, State::Running { .. }));
        Standing { proven: seen.and_then(|seen| seen.proven), running: running.map(|live| live.run.fingerprint) }
    }
}

/// The text to go back to from `next`, of the one `before` it and the one that is kept already. None from one that did well: who died after that was
/// recorded and before the text on disk was, left one that is still kept.
fn kept<'t>(
    next: &InForce,
    before: Option<&'t Arc<InForce>>,
    earlier: Option<&'t Arc<InForce>>,
    standing: Standing,
) -> Option<&'t Arc<InForce>> {
    if standing.proven == Some(next.fingerprint) {
        return None;
    }
    let is_start_first = next.unit.update.order == Order::StartFirst;
    let goes_on = |text: &&Arc<InForce>| is_start_first && standing.running == Some(text.fingerprint);
    let did_well = |text: &&Arc<InForce>| standing.proven == Some(text.fingerprint);
    let found = before.filter(goes_on).or(earlier).or(before.filter(did_well));
    found.filter(|found| found.fingerprint != next.fingerprint)
}

impl Entry {
    /// What is done if the text in force is bad.
    pub(super) fn on_trial(&self) -> Option<OnBad> {
        let good = self.in_force.as_ref().filter(|_| self.trial.earlier.is_some())?;
        Some(on_bad(&good.unit, &good.facts)).filter(|on_bad| *on_bad != OnBad::Retry)
    }
}

/// A text as it would run, on no trial.
pub(super) fn want_of(good: &InForce) -> Want {
    Want { unit: Arc::clone(&good.unit), fingerprint: good.fingerprint, trial: None, earlier: None }
}

impl Entry {
    /// The text to go back to, as it would run.
    pub(super) fn earlier(&self) -> Option<Arc<Want>> {
        self.trial.earlier.as_deref().map(want_of).map(Arc::new)
    }
}

impl Catalogue {
    /// After a change of what is in force: what was before is kept if it did well; or if a container of it runs and goes on while the
    /// new one is tried, as nothing has to be started for it to come back.
    pub fn keep_earlier(&mut self, name: &UnitName, standing: Standing) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let (before, earlier) = (entry.trial.before.take(), entry.trial.earlier.take());
        let next = entry.in_force.as_deref();
        entry.trial.earlier = next.and_then(|next| kept(next, before.as_ref(), earlier.as_ref(), standing)).cloned();
        self.update_addresses(name);
    }

    /// What [`Catalogue::keep_earlier`] will keep if `next` comes into force now.
    pub fn earlier_of(&self, name: &UnitName, next: &InForce, standing: Standing) -> Option<&InForce> {
        let entry = self.entries.get(name)?;
        kept(next, entry.in_force.as_ref(), entry.trial.earlier.as_ref(), standing).map(Arc::as_ref)
    }

    /// The text in force did well.
    pub fn prove(&mut self, name: &UnitName, fingerprint: Fingerprint) {
        let name = &self.declared(name).into_owned();
        let Some(entry) = self.entries.get_mut(name) else { return };
        if entry.in_force.as_ref().is_some_and(|good| good.fingerprint == fingerprint)
            && entry.trial.earlier.take().is_some()
        {
            self.changes.insert(name.clone());
            self.update_addresses(name);
        }
    }

    /// The text in force was bad: the earlier one is in force again.
    pub fn roll_back(&mut self, name: &UnitName, fingerprint: Fingerprint, why: &str, now: WallTime) {
        let name = &self.declared(name).into_owned();
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(good) = entry.in_force.as_ref().filter(|good| good.fingerprint == fingerprint) else { return };
        let bad = Bad::of(good, why, now);
        let Some(mut earlier) = entry.trial.earlier.take() else { return };
        // It may have been read in a directory whose place another one took since.
        if earlier.file == good.file && earlier.directory != good.directory {
            Arc::make_mut(&mut earlier).directory = good.directory;
        }
        (entry.in_force, entry.trial.bad) = (Some(earlier), Some(bad));
        self.changes.insert(name.clone());
        self.update_named(name);
        self.fill_secrets(name);
    }

    /// The text of this container fingerprint, if it is the one in force or the one to go back to.
    pub fn text_of(&self, name: &UnitName, fingerprint: Fingerprint) -> Option<&Arc<InForce>> {
        let entry = self.entry(name)?;
        entry.in_force.iter().chain(&entry.trial.earlier).find(|good| good.fingerprint == fingerprint)
    }

    /// What is remembered of it besides the text in force.
    pub fn trial(&self, name: &UnitName) -> Option<&Trial> {
        self.entry(name).map(|entry| &entry.trial)
    }

    /// The text on disk was rolled back.
    pub fn bad(&self, name: &UnitName) -> Option<&Bad> {
        self.trial(name)?.bad.as_ref()
    }
}

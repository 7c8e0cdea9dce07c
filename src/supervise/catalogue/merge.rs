//! When a unit's texts are merged and judged: at once, or with all that was posted together, some at a time.

use super::text::{OnDisk, parse};
use super::{Catalogue, Validate};
use crate::plan::WallTime;
use crate::unit::UnitName;

/// Units judged in one go: a change of the defaults is one of all units, and the loop has other things to do.
pub(super) const JUDGED_MAX: usize = 256;

impl Catalogue {
    /// What is entered from here on is judged when all of it is.
    pub fn begin_batch(&mut self) {
        self.in_batch = true;
    }

    /// All of it is entered: judges some of what waits for it.
    pub fn end_batch(&mut self, validate: Validate, now: WallTime) {
        self.in_batch = false;
        for _ in 0..JUDGED_MAX {
            let Some(name) = self.pending.pop_first() else { break };
            self.evaluate(&name, validate, now);
        }
        self.look_at_swap();
    }

    /// Whether more waits to be judged: [`Catalogue::end_batch`] goes on with it.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Merges and parses a unit's texts, if one of them changed.
    pub(super) fn merge(&mut self, name: &UnitName) {
        let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.stale) else { return };
        entry.stale = false;
        entry.merged = match entry.texts.last() {
            Some(OnDisk { path, text: Ok(read), .. }) => {
                let layers = self
                    .drop_ins
                    .of(name)
                    .map(|drop_ins| self.defaults.in_force.iter().cloned().chain(drop_ins).collect());
                Some(layers.and_then(|layers| parse(name, path, read.clone(), layers)))
            }
            Some(_) | None => None,
        };
        self.update_named(name);
    }

    /// What is merged with a unit's text changed.
    pub(super) fn set_stale(&mut self, name: &UnitName) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.stale = true;
        }
    }

    /// The same, and it is judged with others.
    pub(super) fn judge_later(&mut self, name: UnitName) {
        self.set_stale(&name);
        self.pending.insert(name);
    }
}

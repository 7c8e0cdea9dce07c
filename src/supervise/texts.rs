//! What came into force since the last round: taken over into the desired state, told, and stored as the last good text.

use std::sync::Arc;

use super::catalogue::{InForce, Trial};
use super::job::Job;
use super::narrate;
use super::round::Supervisor;
use crate::control::protocol::Event;
use crate::unit::{UnitName, changes, replica_name};

impl Supervisor {
    /// Puts in force what the catalogue found valid since the last round.
    pub(super) fn update_desired(&mut self) {
        let changes = self.catalogue.take_changes();
        if changes.is_empty() {
            return;
        }
        for name in &changes {
            self.note_change(name);
            self.planner.changed(name);
        }
        let before: Vec<UnitName> =
            changes.iter().flat_map(|name| self.desired.members(name)).map(|(name, _)| name.clone()).collect();
        // Of replicas others may be there, and all of them have another text.
        if self.catalogue.update(&mut self.desired, &changes) {
            self.planner.look_at_all();
        }
        self.note_schedules(&changes);
        let gone = before.iter().filter(|name| !self.desired.units.contains_key(*name));
        gone.for_each(|name| self.files.drop_mark(name));
    }

    fn note_change(&mut self, name: &UnitName) {
        let errors = self.catalogue.entered(name).errors.to_vec();
        let standing = self.catalogue.standing(name, &self.desired, &self.observed);
        self.catalogue.keep_earlier(name, standing);
        let good = self.catalogue.entered(name).in_force.map(Arc::clone);
        let was = self.desired.groups.get(name).or(self.desired.units.get(name)).map(|want| &want.unit);
        let was_invalid = self.invalid.remove(name);
        let edited = self.catalogue.take_edited(name);
        let event = match (&good, was) {
            _ if !errors.is_empty() => {
                self.invalid.insert(name.clone());
                Some(narrate::invalid(name, &errors, good.is_some()))
            }
            _ if self.catalogue.entered(name).next.is_some() => {
                // Of a set that is not settled it is told when it is.
                let is_told = !self.is_beginning() && !self.catalogue.is_unsettled(name);
                let why = self.catalogue.drift(name).filter(|_| is_told);
                why.map(|why| narrate::waits(name, why))
            }
            // Why it is another one was told.
            (Some(_), Some(_)) if self.catalogue.bad(name).is_some() => None,
            (Some(good), None) => Some(narrate::put_in_force(good, "added")),
            (Some(good), Some(was)) if **was != *good.unit || self.is_new_source(good) => {
                let facts = good.facts.as_ref();
                match changes((was, facts), (&good.unit, facts)) {
                    // A variable that nobody uses, since `env` wins.
                    what if what.is_empty() && !self.is_new_source(good) => {
                        was_invalid.then(|| narrate::valid_again(name))
                    }
                    what => Some(narrate::changed(good, &what, &edited)),
                }
            }
            (Some(_), Some(_)) => was_invalid.then(|| narrate::valid_again(name)),
            (None, _) => Some(match (self.catalogue.mask_of(name), self.catalogue.gone_words(name)) {
                (Some(mask), _) => narrate::masked(name, mask),
                (None, gone) => narrate::removed(name, gone),
            }),
        };
        if good.is_none() {
            self.catalogue.take_unlisted(name);
        }
        if !self.is_being_stored(name) {
            self.store_text(name);
        }
        if let Some(good) = &good {
            self.limit_log(good);
        }
        let by = self.ordered_by.remove(name);
        if let Some(event) = event.filter(|_| self.scanned) {
            self.tell(Event { by: by.or(event.by), ..event });
        }
    }

    /// The same words, and another container all the same: what they name is another one.
    fn is_new_source(&self, good: &InForce) -> bool {
        let want = self.desired.groups.get(&good.unit.name).or(self.desired.units.get(&good.unit.name));
        want.is_some_and(|want| want.fingerprint != good.fingerprint)
    }

    /// A text in force that was read on disk is stored, and none where none is in force.
    pub(super) fn store_text(&mut self, name: &UnitName) {
        let entered = self.catalogue.entered(name);
        match entered.in_force {
            Some(good) if entered.errors.is_empty() => {
                let none = Trial::default();
                self.files.keep_good(good, self.catalogue.trial(&good.unit.name).unwrap_or(&none));
            }
            Some(_) => {}
            None => self.files.drop_good(name),
        }
    }

    /// The limits of the log are those in force in any case.
    fn limit_log(&mut self, good: &InForce) {
        let name = &good.unit.name;
        let replicas = good.unit.replicas.as_ref().map_or(0, |replicas| replicas.count);
        for unit in std::iter::once(name.clone()).chain((1..=replicas).map(|number| replica_name(name, number))) {
            self.hands.push(Job::LogLimits(unit, good.unit.log.clone()));
        }
    }
}

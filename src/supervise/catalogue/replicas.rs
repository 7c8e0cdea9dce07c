//! Replicas: units without an entry of their own, which have the text of the unit that they are replicas of.
//!
//! | what `web.toml`, with `replicas = 2`, and other files say | `web@2` |
//! |---|---|
//! | nothing else | has the text of `web`, its errors, and what is told of its file |
//! | a file `web@2.toml`, also one that a template lists, in force | is a unit of its own, and no replica |
//! | a link `web@2.toml` to /dev/null | is masked: there is none |
//! | a file `web@2.toml` that is not valid, or not in force yet | is still the replica, with that file's errors |
//!
//! What is in force, next, on trial or rolled back is so for the group as a whole.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Catalogue, Entry, InForce, Next};
use crate::plan::{Desired, Observed, Seen, State, Want};
use crate::unit::{UnitName, replica_number};

use super::trial::{Standing, want_of};

/// What is known of one entry.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entered<'c> {
    /// The text in force.
    pub in_force: Option<&'c Arc<InForce>>,
    /// What is on disk, valid, and not in force.
    pub next: Option<&'c Next>,
    /// Why what is on disk is not in force, one line each.
    pub errors: &'c [String],
}

impl Entry {
    /// As it would run.
    pub(super) fn want(&self) -> Option<Want> {
        let good = self.in_force.as_ref()?;
        Some(Want { trial: self.on_trial(), earlier: self.earlier(), ..want_of(good) })
    }

    /// Some text of it has replicas.
    fn has_replicas(&self) -> bool {
        let texts = self.in_force.iter().chain(self.trial.texts());
        texts.map(|good| &good.unit).chain(self.text().map(|text| &text.unit)).any(|unit| unit.replicas.is_some())
    }
}

impl Catalogue {
    /// The name under which what is in force of a unit is entered: for a replica that of its group.
    pub fn declared<'n>(&self, name: &'n UnitName) -> Cow<'n, UnitName> {
        match self.group_of(name).filter(|_| !self.is_apart(name)) {
            Some(group) => Cow::Owned(group),
            None => Cow::Borrowed(name),
        }
    }

    /// The entry with what is in force of a unit.
    pub(super) fn entry(&self, name: &UnitName) -> Option<&Entry> {
        self.entries.get(self.declared(name).as_ref()).map(Box::as_ref)
    }

    /// The name under which what is on disk of a unit is entered: for a replica without a file of its own that of its group.
    pub(super) fn declared_on_disk<'n>(&self, name: &'n UnitName) -> Cow<'n, UnitName> {
        match self.group_of(name).filter(|_| !self.entries.contains_key(name)) {
            Some(group) => Cow::Owned(group),
            None => Cow::Borrowed(name),
        }
    }

    /// The entry with what is on disk of a unit.
    pub(super) fn entry_on_disk(&self, name: &UnitName) -> Option<&Entry> {
        self.entries.get(self.declared_on_disk(name).as_ref()).map(Box::as_ref)
    }

    /// What is entered under this very name: of a replica without a file of its own nothing.
    pub fn entered(&self, name: &UnitName) -> Entered<'_> {
        self.entries.get(name).map_or_else(Entered::default, |entry| Entered {
            in_force: entry.in_force.as_ref(),
            next: entry.next.as_ref(),
            errors: &entry.errors,
        })
    }

    /// The unit with replicas of which this name is, or would be, one.
    pub(super) fn group_of(&self, name: &UnitName) -> Option<UnitName> {
        replica_number(name)?;
        let group = UnitName::new(name.prefix()).ok()?;
        self.entries.get(&group).is_some_and(|entry| entry.has_replicas()).then_some(group)
    }

    /// It is a unit of its own, or masked.
    pub(super) fn is_apart(&self, name: &UnitName) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.in_force.is_some() || entry.mask().is_some())
    }

    /// What runs, and what did well, of a unit; of one with replicas what all of them do, as far as they are to run.
    pub fn standing(&self, name: &UnitName, desired: &Desired, observed: &Observed) -> Standing {
        if !desired.groups.contains_key(name) {
            return Standing::of(observed.unit(name));
        }
        let seen: Vec<&Seen> = desired.members(name).filter_map(|(member, _)| observed.unit(member)).collect();
        let up: Vec<&&Seen> = seen.iter().filter(|seen| seen.live.is_some()).collect();
        let runs = |seen: &&Seen| {
            let live = seen.live.as_ref().filter(|live| matches!(live.state, State::Running { .. }));
            live.map(|live| live.run.fingerprint)
        };
        let proven = up.first().and_then(|seen| seen.proven).or_else(|| seen.first()?.proven);
        let running = up.first().and_then(|seen| runs(seen));
        Standing {
            proven: proven.filter(|_| up.iter().all(|seen| seen.proven == proven)),
            running: running.filter(|_| up.iter().all(|seen| runs(seen) == running)),
        }
    }
}

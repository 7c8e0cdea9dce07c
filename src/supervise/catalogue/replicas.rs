//! Replicas: units without an entry of their own, which have the text of the unit that they are replicas of.
//!
//! | what `web.toml`, with `replicas = 2`, and other files say | `web@2` |
//! |---|---|
//! | nothing else | has the text of `web`, its errors, and what is told of its file |
//! | a file `web@2.toml`, also one that a template lists, in force | is a unit of its own, and no replica |
//! | a link `web@2.toml` to /dev/null | is masked: there is none |
//! | a file `web@2.toml` that is not valid, and never was | is still the replica |
//!
//! What is in force, next, on trial or rolled back is so for the group as a whole.

use std::borrow::Cow;

use super::{Catalogue, Entry};
use crate::plan::{Desired, Observed, Seen, State, Want};
use crate::unit::{UnitName, replica_number};

use super::trial::{Standing, want_of};

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
    /// The name under which what counts of a unit is entered: for a replica that of its group.
    pub fn declared<'n>(&self, name: &'n UnitName) -> Cow<'n, UnitName> {
        match self.group_of(name).filter(|_| !self.is_apart(name)) {
            Some(group) => Cow::Owned(group),
            None => Cow::Borrowed(name),
        }
    }

    pub(super) fn entry(&self, name: &UnitName) -> Option<&Entry> {
        self.entries.get(self.declared(name).as_ref()).map(Box::as_ref)
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

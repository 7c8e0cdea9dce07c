//! What should be: the units that the files declare, each with its last good text.
//!
//! A file with `replicas` declares a *group*: as many units as it says, which all have the group's text, and no unit of its own name.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::unit::{Fingerprint, OnBad, Unit, UnitName, replica_name, replica_number};

/// Every declared unit. One that is absent is removed: it is stopped and forgotten.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// By name. A unit whose text is not valid stays here with its last good one.
    pub units: BTreeMap<UnitName, Want>,
    /// Units with replicas. Replicas themselves are among the units.
    pub groups: BTreeMap<UnitName, Want>,
}

/// One unit as it should run.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// The parsed text. Replicas share it, so its name is that of the group.
    pub unit: Arc<Unit>,
    /// Its identity: another one means another container.
    pub fingerprint: Fingerprint,
    /// An earlier text did well and is kept until this one has: what is done if it does not.
    pub trial: Option<OnBad>,
    /// That earlier text: a container of it may run.
    pub earlier: Option<Arc<Want>>,
}

impl Want {
    /// Of which group it is a replica.
    pub fn group(&self) -> Option<&UnitName> {
        self.unit.replicas.as_ref().map(|_| &self.unit.name)
    }

    /// The replica of this number.
    fn replica(&self, number: u32) -> Want {
        let earlier = self.earlier.as_ref().map(|earlier| match earlier.unit.replicas.as_ref() {
            Some(replicas) if !replicas.each.is_empty() => Arc::new(earlier.replica(number)),
            Some(_) | None => Arc::clone(earlier),
        });
        Want { unit: self.unit.of_number(number), earlier, ..self.clone() }
    }
}

impl Desired {
    /// Declares a unit, or the replicas that its text asks for except those that are `taken` by units of their own. Says whether it is a group, or was.
    pub fn put(&mut self, name: &UnitName, want: Want, taken: impl Fn(&UnitName) -> bool) -> bool {
        let was_group = self.take(name);
        let Some(count) = want.unit.replicas.as_ref().map(|replicas| replicas.count) else {
            self.units.insert(name.clone(), want);
            return was_group;
        };
        for number in 1..=count {
            let replica = replica_name(name, number);
            if !taken(&replica) {
                self.units.insert(replica, want.replica(number));
            }
        }
        self.groups.insert(name.clone(), want);
        true
    }

    /// Declares it no more, nor its replicas. Says whether it was a group.
    pub fn take(&mut self, name: &UnitName) -> bool {
        if self.groups.remove(name).is_none() {
            self.units.remove(name);
            return false;
        }
        let members: Vec<UnitName> = self.members(name).map(|(name, _)| name.clone()).collect();
        members.iter().for_each(|member| drop(self.units.remove(member)));
        true
    }

    /// The replicas of a group, in the order of their names as text.
    pub fn members<'d>(&'d self, group: &UnitName) -> impl Iterator<Item = (&'d UnitName, &'d Want)> + use<'d> {
        let (first, group) = (replica_name(group, 1), group.clone());
        let near = self.units.range(first..);
        let near = near.take_while({
            let group = group.clone();
            move |(name, _)| name.prefix() == group.as_str()
        });
        near.filter(move |(_, want)| want.group() == Some(&group))
    }

    /// Whose text a name stands for: its own, or as a replica that of its group.
    pub fn declared<'d>(&'d self, name: &'d UnitName) -> &'d UnitName {
        self.units.get(name).and_then(Want::group).unwrap_or(name)
    }
}

/// By number where they are replicas, else by name.
pub fn in_number_order(a: &UnitName, b: &UnitName) -> std::cmp::Ordering {
    let key = |name: &UnitName| replica_number(name).unwrap_or(0);
    a.prefix().cmp(b.prefix()).then_with(|| key(a).cmp(&key(b))).then_with(|| a.cmp(b))
}

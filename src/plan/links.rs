//! Who names whom: an index of the texts and of the containers that share a network, behind stops and rings.
//!
//! - A unit *waits for* those that `depends_on` and `network` of its text name. A container that is in the network of another one, and has not
//!   ended, waits for it too, whatever the texts say by now, or if its own is gone: who shares a network stops first. Who
//!   depends on a unit with replicas waits for each of them.
//! - *Tangled* are units that wait for themselves, and those on the way from one such ring to another.
//!
//! The index is made of everything ([`Links::new`]) or brought up to date unit by unit ([`Links::refresh`], then [`Links::retangle`]); the outcome is the
//! same. Whether a new link makes a ring is found out by following the links of its own unit, as far as that is near; what is not found
//! out in this way, and every change while there is a ring, costs a look at all links. Rings are mistakes, and rare.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::desired::Desired;
use super::observed::{Observed, Seen};
use crate::compact;
use crate::unit::{Network, Unit, UnitName};

/// Units that are looked at from one with new links, before all are.
const NEAR_MAX: usize = 256;

/// Units whose links changed that are looked at one by one.
const FEW_MAX: usize = 64;

/// Who names whom, of all units.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Links {
    of: BTreeMap<UnitName, Named>,
    dependents: BTreeMap<UnitName, BTreeSet<UnitName>>,
    joiners: BTreeMap<UnitName, BTreeSet<UnitName>>,
    tangled: BTreeSet<UnitName>,
}

/// Whom one unit names.
#[derive(Debug, Clone, Default, PartialEq)]
struct Named {
    /// By its text; `None` if it is not declared.
    unit: Option<Arc<Unit>>,
    /// Replicas of units that its text depends on.
    replicas: Vec<UnitName>,
    /// In whose networks its containers are.
    joined: Vec<UnitName>,
}

/// What a change of links is to others.
#[derive(Debug, Default)]
pub(super) struct Rewired {
    /// Others than before name these.
    pub named: BTreeSet<UnitName>,
    /// These name others than before, or are, or are no more.
    naming: BTreeSet<UnitName>,
}

impl Named {
    fn now(name: &UnitName, desired: &Desired, observed: &Observed) -> Named {
        let lives = observed.unit(name).into_iter().flat_map(Seen::lives).filter(|live| live.is_alive());
        let joined = lives.filter_map(|live| live.run.joined.as_ref()).map(|owner| owner.unit.clone());
        let joined = compact::set(joined).into_iter().collect();
        let unit = desired.units.get(name).map(|want| Arc::clone(&want.unit));
        let groups = unit.iter().flat_map(|unit| unit.depends_on.keys());
        let groups = groups.filter(|group| desired.groups.contains_key(*group));
        let replicas = groups.flat_map(|group| desired.members(group)).map(|(name, _)| name.clone()).collect();
        Named { unit, replicas, joined }
    }

    fn depends_on(&self) -> impl Iterator<Item = &UnitName> {
        self.unit.iter().flat_map(|unit| unit.depends_on.keys()).chain(&self.replicas)
    }

    /// All that its text names.
    fn named(&self) -> impl Iterator<Item = &UnitName> {
        self.unit.iter().flat_map(|unit| named_in(unit)).chain(&self.replicas)
    }

    /// All that it may wait for.
    fn waits_for(&self) -> impl Iterator<Item = &UnitName> {
        self.named().chain(&self.joined)
    }
}

/// The units that a text waits for.
pub(super) fn named_in(unit: &Unit) -> impl Iterator<Item = &UnitName> {
    network_owner(unit).into_iter().chain(unit.depends_on.keys())
}

/// The unit whose network this one shares.
pub(super) fn network_owner(unit: &Unit) -> Option<&UnitName> {
    match &unit.network {
        Some(Network::Unit(owner)) => Some(owner),
        Some(Network::None | Network::Host) | None => None,
    }
}

impl Links {
    /// Of all that there are.
    pub fn new(desired: &Desired, observed: &Observed) -> Links {
        let undeclared = observed.units.keys().filter(|name| !desired.units.contains_key(*name));
        let named = |name: &UnitName| (name.clone(), Named::now(name, desired, observed));
        let all = desired.units.keys().chain(undeclared).map(named).filter(|(_, named)| *named != Named::default());
        let mut links = Links { of: compact::map(all), ..Links::default() };
        for (name, named) in &links.of {
            for other in named.depends_on() {
                links.dependents.entry(other.clone()).or_default().insert(name.clone());
            }
            for owner in &named.joined {
                links.joiners.entry(owner.clone()).or_default().insert(name.clone());
            }
        }
        links.tangled = links.find_tangled();
        links
    }

    /// Takes in whom one unit names now.
    pub fn refresh(&mut self, name: &UnitName, desired: &Desired, observed: &Observed, rewired: &mut Rewired) {
        let new = Named::now(name, desired, observed);
        let old = self.of.remove(name).unwrap_or_default();
        let is_same = old.unit.is_some() == new.unit.is_some() && old.waits_for().eq(new.waits_for());
        if !is_same {
            rewired.naming.insert(name.clone());
        }
        if !old.depends_on().eq(new.depends_on()) {
            let depends_on = (old.depends_on(), new.depends_on());
            rewire(&mut self.dependents, name, depends_on, &mut rewired.named);
        }
        if old.joined != new.joined {
            rewire(&mut self.joiners, name, (old.joined.iter(), new.joined.iter()), &mut rewired.named);
        }
        if new != Named::default() {
            self.of.insert(name.clone(), new);
        }
    }

    /// After that: which units are tangled now. Says for which that may be otherwise than before.
    pub fn retangle(&mut self, rewired: &Rewired) -> BTreeSet<UnitName> {
        let naming = &rewired.naming;
        let is_safe = |name: &UnitName| self.comes_back(name) == Some(false);
        if naming.is_empty() || self.tangled.is_empty() && naming.len() <= FEW_MAX && naming.iter().all(is_safe) {
            return BTreeSet::new();
        }
        let tangled = self.find_tangled();
        let is_untouched = tangled == self.tangled && naming.is_disjoint(&tangled);
        let mut old = std::mem::replace(&mut self.tangled, tangled);
        if is_untouched {
            return BTreeSet::new();
        }
        old.extend(self.tangled.iter().cloned());
        old
    }

    /// Those whose text names it in `depends_on`.
    pub fn dependents(&self, unit: &UnitName) -> impl Iterator<Item = &UnitName> {
        self.dependents.get(unit).into_iter().flatten()
    }

    /// Those that have a container in the network of one of its generations.
    pub fn joiners(&self, unit: &UnitName) -> impl Iterator<Item = &UnitName> {
        self.joiners.get(unit).into_iter().flatten()
    }

    /// Whether it waits for itself, or is on the way from one ring to another.
    pub fn is_tangled(&self, unit: &UnitName) -> bool {
        self.tangled.contains(unit)
    }

    fn waits_for(&self, unit: &UnitName) -> impl Iterator<Item = &UnitName> {
        self.of.get(unit).into_iter().flat_map(Named::waits_for)
    }

    /// Whether it waits for itself; `None`: that is not near enough to see.
    fn comes_back(&self, name: &UnitName) -> Option<bool> {
        let (mut met, mut left) = (BTreeSet::new(), VecDeque::from([name]));
        while let Some(unit) = left.pop_front() {
            for next in self.waits_for(unit) {
                if next == name {
                    return Some(true);
                }
                if met.insert(next) {
                    left.push_back(next);
                }
            }
            if met.len() > NEAR_MAX {
                return None;
            }
        }
        Some(false)
    }

    /// What is left when those that wait for nobody, and those that nobody waits for, are taken away again and again.
    fn find_tangled(&self) -> BTreeSet<UnitName> {
        let edges: Vec<_> =
            self.of.keys().flat_map(|unit| self.waits_for(unit).map(move |other| (unit, other))).collect();
        let waiting = peel(&edges);
        if waiting.is_empty() {
            return BTreeSet::new();
        }
        let reversed: Vec<_> = edges.iter().map(|(unit, other)| (*other, *unit)).collect();
        let waited_for = peel(&reversed);
        compact::set(waiting.into_iter().filter(|unit| waited_for.contains(unit)).cloned())
    }
}

/// `name` is among those of the new ones instead of the old ones.
fn rewire<'n>(
    index: &mut BTreeMap<UnitName, BTreeSet<UnitName>>,
    name: &UnitName,
    (old, new): (impl Iterator<Item = &'n UnitName>, impl Iterator<Item = &'n UnitName>),
    changed: &mut BTreeSet<UnitName>,
) {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (compact::set(old), compact::set(new));
    for gone in old.difference(&new) {
        if let Some(of) = index.get_mut(*gone) {
            of.remove(name);
            if of.is_empty() {
                index.remove(*gone);
            }
        }
    }
    for come in new.difference(&old) {
        index.entry(UnitName::clone(come)).or_default().insert(name.clone());
    }
    changed.extend(old.symmetric_difference(&new).copied().cloned());
}

/// The units that are left when those without an edge out of them are taken away until there is none (Kahn).
fn peel<'a>(edges: &[(&'a UnitName, &'a UnitName)]) -> HashSet<&'a UnitName> {
    let (mut out, mut into): (HashMap<_, usize>, HashMap<_, Vec<_>>) = (HashMap::new(), HashMap::new());
    for (unit, other) in edges {
        *out.entry(*unit).or_default() += 1;
        into.entry(*other).or_default().push(*unit);
    }
    let mut free: Vec<&UnitName> = into.keys().filter(|unit| !out.contains_key(*unit)).copied().collect();
    while let Some(unit) = free.pop() {
        for before in into.get(unit).into_iter().flatten() {
            let Some(count) = out.get_mut(before) else { continue };
            *count -= 1;
            if *count == 0 {
                out.remove(before);
                free.push(before);
            }
        }
    }
    out.into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::super::desired::Want;
    use super::*;
    use crate::unit::{Fingerprint, parse};

    fn name(text: &str) -> UnitName {
        UnitName::new(text).unwrap()
    }

    fn want(unit: &UnitName, depends_on: &[&UnitName], network: Option<&UnitName>) -> Want {
        let depends_on: Vec<String> = depends_on.iter().map(|unit| format!("{unit} = \"started\"")).collect();
        let network = network.map(|owner| format!("network.mode = \"unit:{owner}\"\n")).unwrap_or_default();
        let text = format!("bundle = \"/x\"\ndepends_on = {{ {} }}\n{network}", depends_on.join(", "));
        let parsed = parse(unit, std::path::Path::new("x.toml"), &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        Want { unit: Arc::new(parsed.unit), fingerprint: Fingerprint([1; 16]), trial: None, earlier: None }
    }

    fn one_in(state: &mut u64, n: usize) -> bool {
        next(state).is_multiple_of(n)
    }

    /// SplitMix64.
    fn next(state: &mut u64) -> usize {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) as usize
    }

    #[test]
    fn brought_up_to_date_unit_by_unit_they_are_those_of_all() {
        let names: Vec<UnitName> = (0..8).map(|n| name(&format!("u{n}"))).collect();
        let (mut desired, observed, mut links, mut state) =
            (Desired::default(), Observed::default(), Links::default(), 7);
        let (mut tangles, mut untangled) = (0, 0);
        for _ in 0..2000 {
            let unit = &names[next(&mut state) % names.len()];
            if one_in(&mut state, 5) {
                desired.units.remove(unit);
            } else {
                let others = names.iter().filter(|other| *other != unit && one_in(&mut state, 8));
                let others: Vec<&UnitName> = others.collect();
                let owner = others.first().copied().filter(|_| one_in(&mut state, 3));
                desired.units.insert(unit.clone(), want(unit, &others, owner));
            }
            let (before, mut rewired) = (links.tangled.clone(), Rewired::default());
            links.refresh(unit, &desired, &observed, &mut rewired);
            let changed = links.retangle(&rewired);
            assert_eq!(links, Links::new(&desired, &observed));
            let other: BTreeSet<UnitName> = before.symmetric_difference(&links.tangled).cloned().collect();
            assert!(other.is_subset(&changed), "{other:?} {changed:?}");
            tangles += usize::from(!links.tangled.is_empty());
            untangled += usize::from(links.tangled.is_empty());
        }
        assert!(tangles > 100 && untangled > 100, "{tangles} {untangled}");
    }

    #[test]
    fn who_comes_and_goes_is_news_to_those_that_it_names() {
        let (a, b) = (name("a"), name("b"));
        let (mut desired, observed, mut links) = (Desired::default(), Observed::default(), Links::default());
        desired.units.insert(a.clone(), want(&a, &[&b], None));
        for (named, again) in [(vec![&b], false), (vec![], true)] {
            let mut rewired = Rewired::default();
            links.refresh(&a, &desired, &observed, &mut rewired);
            assert_eq!(rewired.named.iter().collect::<Vec<_>>(), named, "{again}");
        }
        assert_eq!(links.dependents(&b).collect::<Vec<_>>(), [&a]);
        desired.units.clear();
        let mut rewired = Rewired::default();
        links.refresh(&a, &desired, &observed, &mut rewired);
        assert_eq!((rewired.named, links), (BTreeSet::from([b]), Links::default()));
    }
}

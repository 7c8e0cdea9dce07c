//! Everything there is to look at, at one moment, and the only way to look at it.
//!
//! A decision about one unit sees other units, and the host, through a [`World`] alone. So a world that takes notes ([`World::noting`]) knows
//! what a decision depends on: as long as nothing of that changes, and none of the times comes that the plan of each unit names
//! ([`Draft`](super::reconcile::Draft)), the same decision comes out again. The [`Planner`](super::planner) is built on that.
//!
//! What is the same for all units (the shutdown, since when somebody listens, the command line of the kernel, the wall clock, time zones) is not noted: when it
//! changes, everything is looked at.

use std::cell::{OnceCell, RefCell};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::tz::TimeZone;

use super::desired::{Desired, Want};
use super::links::{Links, named_in};
use super::observed::{Backoff, Live, Observed, Seen, Shutdown};
use super::replicas::{KnownTurns, Turns};
use super::schedule::Clock;
use super::time::BootTime;
use crate::unit::{Condition, ContainerId, Fingerprint, UnitName};

/// Desired and observed at one moment.
pub(super) struct World<'a> {
    pub now: BootTime,
    desired: &'a Desired,
    observed: &'a Observed,
    /// Those that somebody keeps up to date …
    kept: Option<&'a Links>,
    /// … or else made when they are first asked for.
    made: OnceCell<Links>,
    /// Whether the generation of a unit that is up has no reason to stop, as far as it was asked for the sake of the unit that is being
    /// decided on. Kept no longer: on a ring the answer depends on where it was asked first.
    stays: RefCell<BTreeMap<ContainerId, bool>>,
    /// Whose turn it is, by group: the same for all that ask.
    turns: RefCell<KnownTurns<'a>>,
    notes: Option<RefCell<Notes<'a>>>,
}

/// What decisions depended on.
#[derive(Debug, Default)]
pub(super) struct Notes<'a> {
    /// Units, whether or not there are any of these names.
    pub units: BTreeSet<UnitName>,
    /// Places on the host.
    pub places: BTreeSet<&'a Path>,
}

/// One unit in it: declared, known, or both.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub name: &'a UnitName,
    pub want: Option<&'a Want>,
    pub seen: &'a Seen,
}

/// What is known of a unit that nothing is known of.
static UNSEEN: Seen = Seen {
    live: None,
    beside: None,
    high_water: 0,
    last: None,
    previous: None,
    backoff: Backoff { fingerprint: Fingerprint([0; 16]), short_runs: 0, window_starts: 0, window_since: BootTime(0) },
    hold: None,
    manual: false,
    start_now: false,
    fresh: false,
    raised: BTreeMap::new(),
    proven: None,
    restarts: 0,
    trouble: None,
    sockets: BTreeMap::new(),
    timetable: None,
};

impl<'a> World<'a> {
    /// One that makes what it needs.
    pub fn new(desired: &'a Desired, observed: &'a Observed, now: BootTime) -> World<'a> {
        let (made, stays) = (OnceCell::new(), RefCell::default());
        World { now, desired, observed, kept: None, made, stays, turns: RefCell::default(), notes: None }
    }

    /// One with the links of somebody who keeps them: those of these units.
    pub fn linked(desired: &'a Desired, observed: &'a Observed, now: BootTime, links: &'a Links) -> World<'a> {
        World { kept: Some(links), ..World::new(desired, observed, now) }
    }

    /// The same, which takes notes of what decisions depend on.
    pub fn noting(self) -> World<'a> {
        World { notes: Some(RefCell::default()), ..self }
    }

    /// What was noted since the last call. From here on it is another unit that is decided on.
    pub fn turn(&self) -> Notes<'a> {
        self.stays.borrow_mut().clear();
        self.notes.as_ref().map(RefCell::take).unwrap_or_default()
    }

    fn note(&self, name: &UnitName) {
        if let Some(notes) = &self.notes {
            notes.borrow_mut().units.insert(name.clone());
        }
    }

    // ---- units ----

    /// One unit.
    pub fn view(&self, name: &'a UnitName) -> View<'a> {
        self.note(name);
        let seen = self.observed.unit(name).unwrap_or(&UNSEEN);
        View { name, want: self.desired.units.get(name), seen }
    }

    /// The same by a name of any lifetime; `None` if nothing is known of it.
    pub fn find(&self, name: &UnitName) -> Option<View<'a>> {
        self.note(name);
        let want = self.desired.units.get_key_value(name);
        let seen = self.observed.units.get_key_value(name);
        let name = want.map(|(name, _)| name).or(seen.map(|(name, _)| name))?;
        Some(View { name, want: want.map(|(_, want)| want), seen: seen.map_or(&UNSEEN, |(_, seen)| seen) })
    }

    // ---- groups ----

    /// The text of a unit that has replicas.
    pub fn group(&self, name: &UnitName) -> Option<&'a Want> {
        self.desired.groups.get(name)
    }

    /// Its replicas. Who looks at them notes the group: whatever changes about one of them is a change of that.
    pub fn members(&self, group: &UnitName) -> impl Iterator<Item = View<'a>> + use<'a> {
        self.note_group(group);
        let observed = self.observed;
        let seen = move |name: &UnitName| observed.unit(name).unwrap_or(&UNSEEN);
        self.desired.members(group).map(move |(name, want)| View { name, want: Some(want), seen: seen(name) })
    }

    pub(super) fn note_group(&self, group: &UnitName) {
        self.note(group);
    }

    /// Whose turn it is, if that was asked already.
    pub fn turns_or_find(&self, group: &'a UnitName, find: impl FnOnce() -> Turns<'a>) -> Turns<'a> {
        if let Some(known) = self.turns.borrow().get(group) {
            return *known;
        }
        let turns = find();
        self.turns.borrow_mut().insert(group, turns);
        turns
    }

    /// Every unit once, in name order: the union of two sorted maps.
    pub fn views(&self) -> impl Iterator<Item = View<'a>> + use<'a> {
        let mut wants = self.desired.units.iter().peekable();
        let mut seens = self.observed.units.iter().peekable();
        std::iter::from_fn(move || {
            let order = match (wants.peek(), seens.peek()) {
                (Some((want, _)), Some((seen, _))) => want.cmp(seen),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return None,
            };
            let want = if order.is_le() { wants.next() } else { None };
            let seen = if order.is_ge() { seens.next() } else { None };
            let name = want.map(|(name, _)| name).or(seen.map(|(name, _)| name))?;
            Some(View { name, want: want.map(|(_, want)| want), seen: seen.map_or(&UNSEEN, |(_, seen)| seen) })
        })
    }

    /// Declared units that `unit` waits for by its text. For rings, which see [`World::links`].
    pub fn named_by(&self, unit: &UnitName) -> impl Iterator<Item = &'a UnitName> + use<'a> {
        let desired = self.desired;
        let named = desired.units.get(unit).into_iter().flat_map(|want| named_in(&want.unit));
        named.flat_map(move |unit| {
            let own = desired.units.get_key_value(unit).map(|(name, _)| name);
            let is_group = desired.groups.contains_key(unit);
            own.into_iter().chain(is_group.then(|| desired.members(unit)).into_iter().flatten().map(|(name, _)| name))
        })
    }

    /// Who names whom. It is asked only about the unit that is decided on, or about rings: who keeps links knows what changes there.
    pub fn links(&self) -> &Links {
        self.kept.unwrap_or_else(|| self.made.get_or_init(|| Links::new(self.desired, self.observed)))
    }

    /// Whether nobody has made or kept them.
    pub fn has_links(&self) -> bool {
        self.kept.is_some() || self.made.get().is_some()
    }

    // ---- what is the same for all ----

    /// Everything stops.
    pub fn shutdown(&self) -> Option<&'a Shutdown> {
        self.observed.shutdown.as_ref()
    }

    /// Somebody listens since then to what containers say.
    pub fn awake_since(&self) -> BootTime {
        self.observed.awake_since
    }

    /// The wall clock, if it was looked at.
    pub fn clock(&self) -> Option<&'a Clock> {
        self.observed.clock.as_ref()
    }

    /// The rules of this zone, if they are known.
    pub fn zone(&self, name: Option<&str>) -> Option<&'a TimeZone> {
        // There are few.
        let found = self.observed.zones.iter().find(|(known, _)| known.as_deref() == name);
        found.and_then(|(_, zone)| zone.as_ref())
    }

    /// A reboot was asked for.
    pub fn is_rebooting(&self) -> bool {
        self.observed.rebooting
    }

    /// The generation that the next one of this unit is to be above.
    pub fn used(&self, view: View) -> u64 {
        // That of a unit of which nothing is known yet only changes while others are forgotten, and it is about to start.
        self.observed.unit(view.name).map_or(self.observed.floor, |seen| seen.high_water)
    }

    // ---- the host ----

    /// Whether the host is known to be so.
    pub fn meets(&self, condition: &'a Condition) -> bool {
        self.note_place(condition);
        self.observed.host.meets(condition)
    }

    /// Whether it was looked at.
    pub fn knows(&self, condition: &'a Condition) -> bool {
        self.note_place(condition);
        self.observed.host.knows(condition)
    }

    fn note_place(&self, condition: &'a Condition) {
        if let (Some(notes), Some(path)) = (&self.notes, condition.path()) {
            notes.borrow_mut().places.insert(path);
        }
    }

    // ---- what was asked already ----

    /// Whether `live` stays, if that was asked already; if not, it does as far as the question that is being asked now is concerned.
    pub fn stays_or_ask(&self, live: &Live, ask: impl FnOnce() -> bool) -> bool {
        if let Some(known) = self.stays.borrow().get(&live.id) {
            return *known;
        }
        // Asked again on the way (a ring) it stays, as far as that is concerned.
        self.stays.borrow_mut().insert(live.id.clone(), true);
        let stays = ask();
        self.stays.borrow_mut().insert(live.id.clone(), stays);
        stays
    }
}

//! A plan for people and programs: of each unit what would become of it, why, and which settings differ; in the order in which it would happen.
//!
//! What happens is not guessed from the settings but rehearsed ([`rehearse`]): so a plan also has the units whose text stays as it is and
//! that are started, stopped or replaced because of others.

use std::path::PathBuf;
use std::sync::Arc;

use super::clock::{self, wall};
use super::round::Supervisor;
use crate::compact;
use crate::control::protocol::{Change, ChangedSetting};
use crate::control::{Reply, Response};
use crate::plan::{BootTime, Desired, Observed, Phase, Reason, Rehearsal, Status, Turn, Want, Why, rehearse};
use crate::unit::{
    Effect, SettingChange, SourceFacts, Unit, UnitName, changes as setting_changes, container_fingerprint,
};

/// How a unit is replaced that says so.
const START_FIRST: &str = "start-first: the new one runs beside the old one until it has done well";

/// Settings that take a new container are named up to here; all are listed.
const NAMES_MAX: usize = 5;

/// A unit with something that is not in force.
pub struct Item {
    /// Which.
    pub unit: UnitName,
    /// What is in force.
    pub old: Option<(Arc<Unit>, Arc<SourceFacts>)>,
    /// What would be.
    pub what: What,
    /// The template that lists it.
    pub listed_by: Option<PathBuf>,
}

/// What would be in force.
pub enum What {
    /// This.
    Text(Arc<Unit>, Arc<SourceFacts>),
    /// Nothing: why.
    Gone(String),
    /// What is now, as what is on disk is not valid.
    Invalid,
    /// What is now, for this reason.
    Waits(String),
}

/// A copy of what is known, for a thread of its own.
pub struct World {
    /// What should be.
    pub desired: Desired,
    /// What is.
    pub observed: Observed,
    /// When.
    pub now: BootTime,
}

/// What would become of the items' units and of others because of them.
pub fn changes(items: Vec<Item>, world: &World) -> Vec<Change> {
    let mut after = world.desired.clone();
    for item in &items {
        match &item.what {
            What::Text(unit, facts) => {
                let want = Want {
                    unit: unit.clone(),
                    fingerprint: container_fingerprint(unit, facts),
                    trial: None,
                    earlier: None,
                };
                after.put(&item.unit, want, |_| false);
            }
            What::Gone(_) => drop(after.take(&item.unit)),
            What::Invalid | What::Waits(_) => {}
        }
    }
    let rehearsal = rehearse(&world.desired, &after, &world.observed, world.now);
    let order = compact::map(rehearsal.turns.iter().enumerate().map(|(at, (unit, _))| (unit, at.saturating_add(1))));
    let mut placed: Vec<((usize, UnitName), Change)> = Vec::new();
    for item in &items {
        let place = match &item.what {
            What::Text(..) | What::Gone(_) => order.get(&item.unit).copied().unwrap_or(0),
            What::Invalid | What::Waits(_) => usize::MAX,
        };
        let replicas = replicas_words(&item.unit, (&world.desired, &after), &rehearsal);
        placed
            .extend(of_item(item, &rehearsal, replicas, world.now).map(|change| ((place, item.unit.clone()), change)));
    }
    let changing = |unit: &UnitName| {
        let group = [after.declared(unit), world.desired.declared(unit)];
        items.iter().any(|item| {
            (item.unit == *unit || group.contains(&&item.unit)) && matches!(item.what, What::Text(..) | What::Gone(_))
        })
    };
    for (unit, turn) in rehearsal.turns.iter().filter(|(unit, _)| !changing(unit)) {
        let place = order.get(unit).copied().unwrap_or(0);
        placed.extend(of_other(unit, turn, &rehearsal, world.now).map(|change| ((place, unit.clone()), change)));
    }
    compact::sort_by(&mut placed, |(a, _), (b, _)| a.cmp(b));
    placed.into_iter().map(|(_, change)| change).collect()
}

fn change(unit: &UnitName, how: &str, why: impl Into<String>) -> Change {
    Change { unit: unit.to_string(), how: how.to_owned(), why: why.into(), settings: Vec::new() }
}

/// `None`: both texts mean the same, and nothing happens.
fn of_item(item: &Item, rehearsal: &Rehearsal, replicas: Option<(&str, String)>, now: BootTime) -> Option<Change> {
    let unit = &item.unit;
    let (new, new_facts) = match &item.what {
        What::Text(unit, facts) => (unit, facts),
        What::Gone(why) => return Some(change(unit, "remove", why)),
        What::Invalid if item.old.is_some() => {
            return Some(change(unit, "invalid", "its text is not valid: the one in force stays"));
        }
        What::Invalid => return Some(change(unit, "invalid", "its text is not valid, and there is no earlier one")),
        What::Waits(why) => return Some(change(unit, "wait", why)),
    };
    let end = end_words(rehearsal.ends.get(unit), now);
    let Some((old, old_facts)) = &item.old else {
        let listed = item.listed_by.as_ref().map(|template| format!("{} lists it", template.display()));
        let end = replicas.map_or(end, |(_, words)| words);
        return Some(change(unit, "add", joined(&joined("it is not in force", &listed.unwrap_or_default()), &end)));
    };
    let settings = setting_changes((old, old_facts), (new, new_facts));
    if let Some((how, words)) = replicas {
        let why = if how == "replace" { joined(&replacing(&settings), &words) } else { words };
        let is_any = !settings.is_empty() || how != "live";
        let settings = settings.into_iter().map(setting).collect();
        return is_any.then(|| Change { settings, ..change(unit, how, why) });
    }
    let turn = rehearsal.turns.iter().find(|(other, _)| other == unit).map(|(_, turn)| turn);
    let waits = rehearsal.ends.get(unit).filter(|end| matches!(end.reason, Reason::ChangeWaits(_)));
    let waits = waits.map(|end| end.reason.words(now, &wall));
    let (how, why) = match turn {
        None if settings.is_empty() => return None,
        None | Some(Turn::Update) if settings.iter().any(|setting| setting.effect == Effect::Reload) => {
            ("reload", joined("its container runs on, and is told to reload once", &end))
        }
        None | Some(Turn::Update) if waits.is_some() => ("wait", waits.unwrap_or_default()),
        None | Some(Turn::Update) => ("live", live_words(rehearsal.ends.get(unit), &end)),
        Some(Turn::Replace(Why::Changed)) => ("replace", joined(&replacing(&settings), &end)),
        Some(Turn::StartFirst) => ("replace", joined(&format!("{}; {START_FIRST}", replacing(&settings)), &end)),
        Some(Turn::Stop(Why::Changed)) => ("stop", joined(&replacing(&settings), &end)),
        Some(Turn::Start) => ("start", joined("nothing of it runs", &end)),
        Some(other) => words(other, &end),
    };
    Some(Change { settings: settings.into_iter().map(setting).collect(), ..change(unit, how, why) })
}

/// What becomes of the replicas of a unit that has some now, or had.
fn replicas_words(
    unit: &UnitName,
    (before, after): (&Desired, &Desired),
    rehearsal: &Rehearsal,
) -> Option<(&'static str, String)> {
    if !before.groups.contains_key(unit) && !after.groups.contains_key(unit) {
        return None;
    }
    let members = compact::set(before.members(unit).chain(after.members(unit)).map(|(name, _)| name));
    let (mut replaced, mut started, mut stopped, mut beside) = (0_usize, 0_usize, 0_usize, false);
    for (_, turn) in rehearsal.turns.iter().filter(|(name, _)| members.contains(name)) {
        let count = match turn {
            Turn::Replace(_) => &mut replaced,
            Turn::StartFirst => {
                beside = true;
                &mut replaced
            }
            Turn::Start => &mut started,
            Turn::Stop(_) => &mut stopped,
            Turn::Update | Turn::Reload => continue,
        };
        *count = count.saturating_add(1);
    }
    let replicas = |count: usize| if count == 1 { "1 replica".to_owned() } else { format!("{count} replicas") };
    let one_by_one = if beside { ", one after the other, start-first" } else { ", one after the other" };
    let words = [
        (replaced > 0).then(|| format!("{} replaced{one_by_one}", replicas(replaced))),
        (started > 0).then(|| format!("{} started", replicas(started))),
        (stopped > 0).then(|| format!("{} stopped", replicas(stopped))),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    let how = match (replaced, started, stopped) {
        (0, 0, 0) => "live",
        (0, _, 0) => "start",
        (0, 0, _) => "stop",
        (_, _, _) => "replace",
    };
    Some((how, if words.is_empty() { "its containers run on".to_owned() } else { words.join(", ") }))
}

/// A unit whose text stays as it is.
fn of_other(unit: &UnitName, turn: &Turn, rehearsal: &Rehearsal, now: BootTime) -> Option<Change> {
    let end = end_words(rehearsal.ends.get(unit), now);
    let (how, why) = match turn {
        // Terms are taken over from a text, and this one is in force.
        Turn::Update => return None,
        Turn::Start => ("start", joined("what it waits for comes", &end)),
        other => words(other, &end),
    };
    Some(change(unit, how, why))
}

fn words(turn: &Turn, end: &str) -> (&'static str, String) {
    match turn {
        Turn::Start => ("start", end.to_owned()),
        Turn::Replace(why) => ("replace", joined(&why.to_string(), end)),
        Turn::StartFirst => ("replace", joined(START_FIRST, end)),
        Turn::Stop(why) if why.to_string() == end => ("stop", end.to_owned()),
        Turn::Stop(why) => ("stop", joined(&why.to_string(), end)),
        Turn::Update => ("live", end.to_owned()),
        Turn::Reload => ("reload", joined("it is told to reload, and runs on", end)),
    }
}

fn live_words(end: Option<&Status>, words: &str) -> String {
    match end.map(|end| end.phase) {
        Some(Phase::Running) => "its container runs on".to_owned(),
        Some(_) | None => joined("nothing of it runs", words),
    }
}

/// Why it does not run in the end; empty if it does, has completed, or nobody can say.
fn end_words(end: Option<&Status>, now: BootTime) -> String {
    match end {
        Some(Status { phase: Phase::Running | Phase::Completed, .. }) | None => String::new(),
        // Its path is looked at when the text is on disk.
        Some(Status { reason: Reason::Unmet { known: false, .. }, .. }) => String::new(),
        Some(status) => status.reason.words(now, &wall),
    }
}

fn joined(words: &str, end: &str) -> String {
    match end.is_empty() {
        true => words.to_owned(),
        false => format!("{words}; {end}"),
    }
}

/// Which settings take a new container.
fn replacing(settings: &[SettingChange]) -> String {
    let names: Vec<&str> =
        settings.iter().filter(|change| change.effect == Effect::Replace).map(|change| change.name.as_str()).collect();
    match names.as_slice() {
        [] => Why::Changed.to_string(),
        [name] => format!("{name} takes a new container"),
        names => {
            let more = names.len().checked_sub(NAMES_MAX).filter(|more| *more > 0);
            let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
            let names = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
            format!("{names}{more} take a new container")
        }
    }
}

fn setting(change: SettingChange) -> ChangedSetting {
    let SettingChange { name, old, new, effect, hidden } = change;
    let how = match effect {
        Effect::Replace => "replace",
        Effect::Reload => "reload",
        Effect::Live | Effect::Supervisor => "live",
    };
    ChangedSetting { name, how: how.to_owned(), old, new, hidden }
}

impl Supervisor {
    /// Rehearsed on a thread of its own: it plays with a copy of all units.
    pub(super) fn answer_plan(
        &self,
        reply: Reply,
        items: Vec<Item>,
        errors: Vec<String>,
        hash: Option<String>,
    ) -> Result<(), String> {
        let is_change = |item: &Item| matches!(item.what, What::Text(..) | What::Gone(_));
        let world = match items.iter().any(is_change) {
            true => self.world(),
            false => World { desired: Desired::default(), observed: Observed::default(), now: clock::now().boot },
        };
        let work = move || {
            reply.send(&Response::Plan { changes: changes(items, &world), errors, hash });
            reply.close();
        };
        let thread = std::thread::Builder::new().name("plan".to_owned()).spawn(work);
        thread.map(drop).map_err(|error| format!("no thread for the plan: {error}"))
    }

    /// What the texts in `dir` would change; read on a thread of its own, since a directory may be slow.
    pub(super) fn compare(&self, dir: std::path::PathBuf, reply: Reply) -> Result<(), String> {
        let in_force = |name: &UnitName| {
            let good = self.catalogue.in_force(name)?;
            Some((name.clone(), (Arc::clone(&good.unit), Arc::clone(&good.facts))))
        };
        let ours = compact::map(self.catalogue.names().filter_map(in_force));
        let (world, defaults) = (self.world(), self.catalogue.defaults().cloned());
        let work = move || {
            reply.send(&super::offline::compare(&dir, &ours, &world, defaults.as_ref()));
            reply.close();
        };
        let thread = std::thread::Builder::new().name("plan".to_owned()).spawn(work);
        thread.map(drop).map_err(|error| format!("no thread for the comparison: {error}"))
    }

    fn world(&self) -> World {
        World { desired: self.desired.clone(), observed: self.observed.clone(), now: clock::now().boot }
    }
}

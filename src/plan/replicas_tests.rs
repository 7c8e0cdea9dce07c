//! Replicas on a host that does at once what it is asked to: one at a time, and what follows when one does badly.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::desired::{Desired, Want};
use super::exit::Exit;
use super::hold::Hold;
use super::observed::{HostPid, State};
use super::time::{BootTime, Now, WallTime};
use super::{Action, Fact, Observed, Phase, Planner, Rehearsal, Turn, reconcile, rehearse, statuses};
use crate::unit::{
    ContainerId, Fingerprint, Listen, OnBad, SourceFacts, UnitName, container_fingerprint, parse, replica_name,
};

fn name(text: &str) -> UnitName {
    UnitName::new(text).unwrap()
}

fn want(unit: &str, text: &str) -> Want {
    let text = format!("executable = \"/bin/web\"\n{text}");
    let unit = Arc::new(parse(&name(unit), Path::new("/u/web.toml"), &text).unwrap_or_else(|e| panic!("{e:?}")).unit);
    let facts = SourceFacts { resolved: "/bin/web".into(), ..SourceFacts::default() };
    Want { fingerprint: container_fingerprint(&unit, &facts), unit, trial: None, earlier: None }
}

/// A unit with so many replicas; `tag` makes it another text.
fn web(count: u32, tag: &str, tables: &str) -> Want {
    want("web", &format!("replicas = {count}\nprocess.env.TAG = \"{tag}\"\n{tables}"))
}

struct World {
    desired: Desired,
    observed: Observed,
    planner: Planner,
    now: BootTime,
    /// Started, in this order.
    started: Vec<String>,
    /// Programs of this text end as soon as they run.
    crashing: Option<Fingerprint>,
    /// The most that did not run at a time, of those that did before.
    least_up: usize,
    rolled_back: Vec<String>,
}

impl World {
    fn new() -> World {
        World {
            desired: Desired::default(),
            observed: Observed::default(),
            planner: Planner::default(),
            now: BootTime(1_000_000_000_000),
            started: Vec::new(),
            crashing: None,
            least_up: usize::MAX,
            rolled_back: Vec::new(),
        }
    }

    fn running(want: Want) -> World {
        let mut world = World::new();
        world.put(want);
        world.hours(1);
        world.started.clear();
        world.least_up = usize::MAX;
        world
    }

    fn put(&mut self, want: Want) {
        if self.desired.put(&want.unit.name.clone(), want.clone(), |_| false) {
            self.planner.look_at_all();
        }
        self.planner.changed(&want.unit.name);
        self.play();
    }

    /// Another text on trial, as the catalogue would put it in force.
    fn edit(&mut self, next: Want) {
        let before = self.desired.groups.get(&next.unit.name).cloned().unwrap();
        let earlier = Arc::new(Want { trial: None, earlier: None, ..before });
        self.put(Want { trial: Some(OnBad::Rollback), earlier: Some(earlier), ..next });
    }

    fn now(&self) -> Now {
        Now { boot: self.now, wall: WallTime(0) }
    }

    fn record(&mut self, fact: Fact) {
        if self.observed.record(&fact, self.now()) {
            self.planner.recorded(&fact);
        }
    }

    fn fact(&mut self, fact: Fact) {
        self.record(fact);
        self.play();
    }

    fn up(&self) -> usize {
        let is_up =
            |seen: &&super::Seen| seen.live.as_ref().is_some_and(|live| matches!(live.state, State::Running { .. }));
        self.observed.units.values().map(|seen| &**seen).filter(is_up).count()
    }

    fn play(&mut self) {
        for _ in 0..1000 {
            let plan = self.planner.plan(&self.desired, &self.observed, self.now);
            assert_eq!(plan, reconcile(&self.desired, &self.observed, self.now));
            if plan.actions.is_empty() {
                return;
            }
            for action in plan.actions {
                if !self.observed.begin(&action, self.now()) {
                    continue;
                }
                self.planner.begun(&action);
                self.answer(action);
                self.least_up = self.least_up.min(self.up());
            }
        }
        panic!("it does not come to rest");
    }

    fn answer(&mut self, action: Action) {
        match action {
            Action::Start { id, fingerprint, unit, .. } => {
                self.started.push(id.unit.to_string());
                let listens: BTreeSet<Listen> = unit.sockets.iter().map(|socket| socket.listen.clone()).collect();
                if !listens.is_empty() {
                    self.record(Fact::Listening { unit: unit.name.clone(), sockets: listens });
                }
                self.record(Fact::Started { id: id.clone(), pid: HostPid(1) });
                if self.crashing == Some(fingerprint) {
                    self.ends(&id, Exit::Code(1));
                }
            }
            Action::Stop { id, .. } => self.ends(&id, Exit::Code(0)),
            Action::Clear { id } => self.record(Fact::Cleared { id }),
            Action::Close { unit, sockets } => self.record(Fact::Closed { unit, sockets }),
            Action::RollBack { unit, fingerprint, .. } => {
                self.rolled_back.push(unit.to_string());
                let group = self.desired.declared(&unit).clone();
                // One that went with the text from which another one of them was rolled back.
                let Some(now) = self.desired.groups.get(&group).cloned() else { return };
                if now.fingerprint == fingerprint
                    && let Some(earlier) = now.earlier
                {
                    self.desired.put(&group, Want::clone(&earlier), |_| false);
                    self.planner.look_at_all();
                }
            }
            _ => {}
        }
    }

    fn ends(&mut self, id: &ContainerId, exit: Exit) {
        let (id, at) = (id.clone(), self.now);
        self.record(Fact::Exited { id: id.clone(), exit, oom: false, at });
        self.record(Fact::CgroupEmpty { id: id.clone() });
        self.record(Fact::Drained { id });
    }

    fn seconds(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.play();
    }

    fn hours(&mut self, hours: u64) {
        (0..hours * 360).for_each(|_| self.seconds(10));
    }

    fn generation(&self, unit: &str) -> u64 {
        self.observed.unit(&name(unit)).and_then(|seen| seen.live.as_ref()).map_or(0, |live| live.id.generation)
    }

    fn all_of(&self, want: &Want) -> bool {
        self.desired.members(&name("web")).all(|(unit, _)| {
            let live = self.observed.unit(unit).and_then(|seen| seen.live.as_ref());
            live.is_some_and(|live| live.run.fingerprint == want.fingerprint && live.is_up())
        })
    }

    fn hold(&mut self, unit: &str) {
        let hold = Hold { by: "root".into(), reason: None, since: WallTime(0), until: None };
        self.fact(Fact::ClientStop { unit: name(unit), hold });
    }
}

fn numbered(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("web@{number}")).collect()
}

#[test]
fn as_many_as_the_text_says_start_together_and_an_edit_of_the_number_touches_no_other() {
    let mut world = World::new();
    world.put(web(12, "a", ""));
    assert_eq!(world.started.len(), 12);
    assert!(world.desired.units.values().all(|want| Arc::ptr_eq(&want.unit, &world.desired.groups[&name("web")].unit)));
    world.put(web(14, "a", ""));
    assert_eq!(world.started[12..], numbered([13, 14]));
    world.put(web(2, "a", ""));
    assert_eq!((world.started.len(), world.up()), (14, 2));
    assert_eq!((world.generation("web@1"), world.generation("web@2")), (1, 1));
    world.put(web(0, "a", ""));
    assert_eq!((world.up(), world.observed.units.len()), (0, 0));
    // And a unit of one container is another thing.
    world.put(want("web", ""));
    assert_eq!(world.started.last().unwrap(), "web");
    world.put(web(1, "a", ""));
    assert_eq!((world.started.last().unwrap().as_str(), world.up()), ("web@1", 1));
}

#[test]
fn another_text_replaces_one_after_the_other_by_number() {
    let mut world = World::running(web(11, "a", ""));
    let next = web(11, "b", "");
    world.edit(next.clone());
    assert_eq!((world.started.clone(), world.least_up), (numbered([1]), 10));
    world.seconds(9);
    assert_eq!(world.started.len(), 1, "the first one has not done well yet");
    world.seconds(1);
    assert_eq!(world.started, numbered([1, 2]));
    let waits =
        statuses(&world.desired, &world.observed, world.now).into_iter().find(|(unit, _)| *unit == name("web@7"));
    let words = waits.unwrap().1.reason.words(world.now, &|_| String::new());
    assert_eq!(words, "to be replaced after web@2");
    world.hours(1);
    assert!(world.all_of(&next));
    assert_eq!((world.started.clone(), world.least_up), (numbered(1..=11), 10));
}

#[test]
fn the_first_that_fails_ends_it_and_all_return_to_the_text_before() {
    let before = web(5, "a", "");
    let mut world = World::running(before.clone());
    let next = web(5, "b", "");
    world.edit(next.clone());
    world.seconds(10);
    world.seconds(10);
    assert_eq!(world.started, numbered([1, 2, 3]));
    // The third one ends while it is on trial; the first two had done well.
    let third = world.observed.unit(&name("web@3")).unwrap().live.as_ref().unwrap().id.clone();
    world.ends(&third, Exit::Code(3));
    world.play();
    assert_eq!(world.rolled_back, ["web@3"]);
    world.hours(1);
    assert!(world.all_of(&before), "{:?}", world.started);
    // What has the new text, or is down, starts again; the last two were never touched.
    assert_eq!(world.started[3..].iter().collect::<BTreeSet<_>>(), numbered([1, 2, 3]).iter().collect());
    assert_eq!((world.generation("web@4"), world.generation("web@5"), world.least_up), (1, 1, 4));

    // Where it is not to be rolled back the others keep the text that they have.
    let mut world = World::running(before.clone());
    world.crashing = Some(next.fingerprint);
    let earlier = Arc::new(Want { trial: None, earlier: None, ..before });
    world.put(Want { trial: Some(OnBad::StayFailed), earlier: Some(earlier), ..next });
    world.hours(1);
    assert_eq!((world.started.clone(), world.up(), world.rolled_back.len()), (numbered([1]), 4, 0));
    let all = statuses(&world.desired, &world.observed, world.now);
    let status = |unit: &str| all.iter().find(|(name, _)| name.as_str() == unit).map(|(_, status)| status).unwrap();
    assert_eq!(status("web@1").phase, Phase::Failed);
    assert!(status("web@2").reason.is_stalled(), "nobody waits for what does not come");
    // A better text goes on from there.
    world.edit(web(5, "c", ""));
    world.hours(1);
    assert!(world.all_of(&web(5, "c", "")));
}

#[test]
fn who_is_not_to_run_is_not_waited_for_and_who_is_down_needs_no_turn() {
    let mut world = World::running(web(4, "a", ""));
    world.hold("web@1");
    let second = world.observed.unit(&name("web@2")).unwrap().live.as_ref().unwrap().id.clone();
    world.fact(Fact::StopUnhandled { id: second.clone() });
    world.ends(&second, Exit::Code(1));
    world.started.clear();
    world.edit(web(4, "b", ""));
    assert_eq!(world.started, numbered([2]), "down, so it starts with the new text at once");
    world.hours(1);
    assert_eq!(world.started, numbered([2, 3, 4]));
    world.fact(Fact::ClientStart { unit: name("web@1") });
    assert!(world.all_of(&web(4, "b", "")));
}

#[test]
fn restarts_take_turns_too_and_proven_ones_only_need_to_be_well() {
    let mut world = World::running(web(3, "a", ""));
    for number in [3, 1, 2] {
        world.record(Fact::ClientRestart { unit: replica_name(&name("web"), number) });
    }
    world.play();
    assert_eq!((world.started.clone(), world.least_up), (numbered([1, 2, 3]), 2));
    world.fact(Fact::ClientRestart { unit: name("web@2") });
    assert_eq!(world.started.last().unwrap(), "web@2");
}

#[test]
fn start_first_has_one_more_at_a_time() {
    let mut world = World::running(web(3, "a", "update.order = \"start-first\"\n"));
    let next = web(3, "b", "update.order = \"start-first\"\n");
    world.edit(next.clone());
    let lives = |world: &World| world.observed.units.values().map(|seen| seen.lives().count()).sum::<usize>();
    assert_eq!((world.started.clone(), world.up(), lives(&world)), (numbered([1]), 3, 4));
    for _ in 0..20 {
        world.seconds(2);
        assert!(lives(&world) <= 4 && world.up() == 3);
    }
    assert!(world.all_of(&next));
    assert_eq!((world.started.clone(), world.least_up), (numbered([1, 2, 3]), 3));
    // A bad one never touches those that run.
    let bad = web(3, "c", "update.order = \"start-first\"\n");
    world.crashing = Some(bad.fingerprint);
    world.edit(bad);
    world.hours(1);
    assert_eq!((world.rolled_back.as_slice(), world.started.len()), (&["web@1".to_owned()][..], 4));
    assert!(world.all_of(&next) && world.least_up == 3);
}

#[test]
fn a_group_is_there_when_one_is_and_lost_when_none_is() {
    let mut world = World::new();
    let on = |terms: &str| want("api", &format!("depends_on.web = {terms}\n"));
    world.put(on("{ state = \"started\", on_loss = \"stop\" }"));
    assert_eq!(world.started.len(), 0);
    world.put(web(3, "a", ""));
    assert_eq!(world.started.iter().filter(|unit| *unit == "api").count(), 1);
    world.hold("web@1");
    world.hold("web@2");
    assert!(world.generation("api") > 0, "the third one is there");
    world.hold("web@3");
    assert_eq!(world.generation("api"), 0, "none is left");
    world.fact(Fact::ClientStart { unit: name("web@2") });
    assert!(world.generation("api") > 0);
    // Whoever depends on it stops first.
    world.fact(Fact::Shutdown { by: "test".into() });
    assert_eq!(world.up(), 0);

    // A ring through a group is one.
    let mut world = World::new();
    world.put(want("api", "depends_on.web = \"started\"\n"));
    world.put(web(2, "a", "depends_on.api = \"started\"\n"));
    let all = statuses(&world.desired, &world.observed, world.now);
    assert!(all.iter().all(|(_, status)| status.phase == Phase::Failed), "{all:?}");
}

#[test]
fn all_must_complete() {
    let mut world = World::new();
    world.put(want("api", "depends_on.job = \"completed\"\n"));
    world.put(want("job", "type = \"oneshot\"\nreplicas = 2\n"));
    for number in [1, 2] {
        assert_eq!(world.generation("api"), 0);
        let unit = replica_name(&name("job"), number);
        let id = world.observed.unit(&unit).unwrap().live.as_ref().unwrap().id.clone();
        world.ends(&id, Exit::Code(0));
        world.play();
    }
    assert_eq!(world.generation("api"), 1);
}

#[test]
fn sockets_are_the_groups_and_stay_for_the_last() {
    let socket = "[[socket]]\nlisten = \"unix:///a\"\n";
    let mut world = World::running(web(3, "a", socket));
    let open = |world: &World| world.observed.unit(&name("web")).map_or(0, |seen| seen.sockets.len());
    assert_eq!(open(&world), 1);
    assert!(world.observed.unit(&name("web@1")).unwrap().sockets.is_empty());
    world.hold("web@1");
    world.hold("web@2");
    world.edit(web(3, "b", socket));
    assert_eq!(open(&world), 1);
    world.hold("web@3");
    assert_eq!(open(&world), 0, "nobody is to run");
    world.fact(Fact::ClientStart { unit: name("web@2") });
    assert_eq!(open(&world), 1);
    // What takes its place keeps it: one container of its name, and nothing.
    world.put(want("web", socket));
    assert_eq!((open(&world), world.up()), (1, 1));
    world.desired.take(&name("web"));
    world.planner.look_at_all();
    world.play();
    assert_eq!((open(&world), world.observed.units.len()), (0, 0));
}

#[test]
fn a_rehearsal_plays_all_turns() {
    let world = World::running(web(4, "a", ""));
    let mut after = world.desired.clone();
    after.put(&name("web"), web(5, "b", ""), |_| false);
    let Rehearsal { turns, .. } = rehearse(&world.desired, &after, &world.observed, world.now);
    let replaced = turns.iter().filter(|(_, turn)| matches!(turn, Turn::Replace(_))).count();
    let started = turns.iter().filter(|(_, turn)| *turn == Turn::Start).count();
    assert_eq!((replaced, started), (4, 1), "{turns:?}");
}

// ---- histories ----

/// A stream of numbers (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 33) % bound
    }
}

impl World {
    /// The supervisor dies, and the next one reads what is written down.
    fn crash(&mut self) {
        for seen in self.observed.units.values_mut() {
            let json = serde_json::to_vec(&**seen).unwrap();
            **seen = serde_json::from_slice(&json).unwrap();
        }
        self.planner = Planner::default();
        self.record(Fact::Awake);
        self.play();
    }

    /// How many of the group have no container of theirs running, though they are to run.
    fn missing(&self) -> usize {
        let is_missing = |(unit, _): &(&UnitName, &Want)| {
            let Some(seen) = self.observed.unit(unit) else { return true };
            seen.hold.is_none() && !seen.live.as_ref().is_some_and(|live| matches!(live.state, State::Running { .. }))
        };
        self.desired.members(&name("web")).filter(is_missing).count()
    }
}

/// Edits, good and bad, with crashes of the supervisor and of programs, holds, restarts and other numbers in between: an update of which nothing else goes wrong never
/// takes more than one away, and in the end all that are to run have one text.
#[test]
fn in_histories_by_chance_one_at_a_time_is_replaced_and_all_end_with_one_text() {
    for seed in 0..60 {
        let mut chance = Chance(seed);
        let order = if seed % 2 == 0 { "update.order = \"start-first\"\n" } else { "" };
        let mut world = World::running(web(4, "0", order));
        let (mut count, mut texts) = (4_u32, 0_u32);
        for step in 0..60 {
            let is_quiet = world.missing() == 0;
            world.least_up = usize::MAX;
            let up = world.up();
            let unit = replica_name(&name("web"), 1 + chance.below(u64::from(count.max(1))) as u32);
            match chance.below(12) {
                0 | 1 => {
                    texts += 1;
                    let next = web(count, &texts.to_string(), order);
                    world.crashing = (chance.below(3) == 0).then_some(next.fingerprint);
                    // The text before is gone back to only if it did well with all.
                    let now = &world.desired.groups[&name("web")];
                    let is_proven = world.desired.members(&name("web")).all(|(unit, _)| {
                        world.observed.unit(unit).is_some_and(|seen| seen.proven == Some(now.fingerprint))
                    });
                    match is_proven {
                        true => world.edit(next),
                        false => world.put(next),
                    }
                }
                2 => {
                    count = 1 + chance.below(6) as u32;
                    let now = world.desired.groups[&name("web")].clone();
                    let tag = now.unit.process.env["TAG"].clone();
                    world.put(Want { trial: now.trial, earlier: now.earlier, ..web(count, &tag, order) });
                }
                3 => world.crash(),
                4 => world.hold(unit.as_str()),
                5 => world.fact(Fact::ClientStart { unit }),
                6 => world.fact(Fact::ClientRestart { unit }),
                7 => {
                    let id = world.observed.unit(&unit).and_then(|seen| seen.live.as_ref()).map(|live| live.id.clone());
                    if let Some(id) = id {
                        world.ends(&id, Exit::Code(1));
                        world.play();
                    }
                }
                _ => world.seconds(1 + chance.below(30)),
            }
            // The text that was gone back to may say another number.
            count = u32::try_from(world.desired.members(&name("web")).count()).unwrap();
            let is_update = world.least_up != usize::MAX && is_quiet;
            assert!(!is_update || world.least_up + 2 >= up.min(count as usize), "seed {seed}, step {step}");
        }
        world.crashing = None;
        for number in 1..=count {
            world.fact(Fact::ClientStart { unit: replica_name(&name("web"), number) });
        }
        world.hours(2);
        let now = world.desired.groups[&name("web")].clone();
        assert!(world.all_of(&now), "seed {seed}: {:?}", statuses(&world.desired, &world.observed, world.now));
        assert_eq!(world.up(), count as usize, "seed {seed}");
    }
}

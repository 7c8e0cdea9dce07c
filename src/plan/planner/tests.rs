//! The planner against a look at everything, in worlds made by chance; and what it does not look at.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::desired::Want;
use super::super::hold::{Hold, Until};
use super::super::observed::HostPid;
use super::super::{Exit, Now, Presence, Probed, WallTime, reconcile};
use super::*;
use crate::unit::{CheckKind, Fingerprint, parse, replica_name};

const UNITS: usize = 9;
const DISK: &str = "/disk";

fn name(n: usize) -> UnitName {
    UnitName::new(&format!("u{n}")).unwrap()
}

fn want(unit: &UnitName, text: &str, version: u8) -> Want {
    let text = format!("executable = \"/bin/x\"\n{text}");
    let parsed = parse(unit, Path::new("x.toml"), &text).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
    Want { unit: Arc::new(parsed.unit), fingerprint: Fingerprint([version; 16]), trial: None, earlier: None }
}

/// A world, whoever plans it, and a stream of numbers (SplitMix64).
struct Stage {
    desired: Desired,
    observed: Observed,
    planner: Planner,
    now: Now,
    state: u64,
}

impl Stage {
    fn new(seed: u64) -> Stage {
        let now = Now { boot: BootTime(1_000_000_000), wall: WallTime(0) };
        let (desired, observed) = (Desired::default(), Observed::default());
        Stage { desired, observed, planner: Planner::default(), now, state: seed }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 33) as usize % bound
    }

    fn pick<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from[self.below(from.len())]
    }

    fn text(&mut self, itself: usize) -> String {
        let mut text = String::new();
        let mut depends_on = Vec::new();
        for n in (0..UNITS).filter(|n| *n != itself) {
            if self.below(6) == 0 {
                let state = self.pick(&["started", "started", "healthy", "completed"]);
                let on_loss = self.pick(&["keep", "stop", "restart"]);
                let optional = self.below(3) == 0;
                let terms = format!("{{ state = \"{state}\", on_loss = \"{on_loss}\", optional = {optional} }}");
                depends_on.push(format!("u{n} = {terms}"));
            }
        }
        text += &format!("depends_on = {{ {} }}\n", depends_on.join(", "));
        text += self.pick(&["", "", "", "type = \"oneshot\"\n", "enabled = false\n"]);
        let other = (itself + 1 + self.below(UNITS - 1)) % UNITS;
        text += &self.pick(&["", "", "on_failure = [\"OTHER\"]\n"]).replace("OTHER", &format!("u{other}"));
        text += self.pick(&["", "", "[restart]\npolicy = \"never\"\n", "[restart]\ndelay = \"2s\"\n"]);
        text += self.pick(&["", "[stop]\ntimeout = \"1s\"\n"]);
        text += self.pick(&["", "", "[health.liveness]\nfile = \"/beat\"\n"]);
        text += &self.pick(&["", "", "[network]\nmode = \"unit:OTHER\"\n"]).replace("OTHER", &format!("u{other}"));
        text += self.pick(&["", "", "[[mount]]\nsource = \"/disk\"\ntarget = \"/d\"\nrequire_mountpoint = true\n"]);
        text
    }

    fn edit(&mut self) {
        let n = self.below(UNITS);
        let regrouped = if self.below(6) == 0 {
            self.desired.take(&name(n))
        } else {
            let replicas =
                if n < 3 && self.below(2) == 0 { format!("replicas = {}\n", self.below(4)) } else { String::new() };
            let (text, version) = (format!("{replicas}{}", self.text(n)), 1 + self.below(3) as u8);
            self.desired.put(&name(n), want(&name(n), &text, version), |_| false)
        };
        if regrouped {
            self.planner.look_at_all();
        }
        self.planner.changed(&name(n));
    }

    fn record(&mut self, fact: &Fact) {
        if self.observed.record(fact, self.now) {
            self.planner.recorded(fact);
        }
    }

    fn fact(&mut self) -> Fact {
        let unit = name(self.below(UNITS));
        let unit = match self.desired.groups.contains_key(&unit) {
            true => replica_name(&unit, 1 + self.below(3) as u32),
            false => unit,
        };
        let live = self.observed.unit(&unit).and_then(|seen| seen.live.as_ref());
        let at = self.now.boot;
        if let Some(id) = live.map(|live| live.id.clone()).filter(|_| self.below(5) > 0) {
            let probed = match self.below(2) {
                0 => Probed::Passed,
                _ => Probed::Failed { text: "no".to_owned(), counts: true },
            };
            return match self.below(8) {
                0 | 1 => Fact::Started { id, pid: HostPid(1) },
                2 => Fact::Exited { id, exit: Exit::Code(self.below(2) as u8), oom: false, at },
                3 => Fact::CgroupEmpty { id },
                4 => Fact::Drained { id },
                5 => Fact::Cleared { id },
                6 => Fact::StopUnhandled { id },
                _ => Fact::Probed { id, check: CheckKind::Liveness, probed, failures: 2, successes: 1 },
            };
        }
        match self.below(9) {
            0 | 1 => Fact::ClientStart { unit },
            2 => Fact::ClientRestart { unit },
            3 | 4 => {
                let boot = at.after(Duration::from_millis(self.below(9000) as u64));
                let until = (self.below(3) > 0).then_some(Until { boot, wall: WallTime(0) });
                Fact::ClientStop { unit, hold: Hold { by: "root".into(), reason: None, since: WallTime(0), until } }
            }
            5..8 => {
                let is_mount_point = self.below(3) > 0;
                Fact::Found { path: DISK.into(), presence: Presence { exists: true, is_mount_point } }
            }
            _ => Fact::Awake,
        }
    }

    /// Something happens, or time goes by; then both are asked, until they say no more.
    fn step(&mut self) -> Result<(), String> {
        match self.below(10) {
            0 | 1 => self.edit(),
            2 | 3 => self.now.boot = self.now.boot.after(Duration::from_millis(self.below(7000) as u64)),
            _ => {
                let fact = self.fact();
                self.record(&fact);
            }
        }
        for _ in 0..10 {
            let whole = reconcile(&self.desired, &self.observed, self.now.boot);
            let plan = self.planner.plan(&self.desired, &self.observed, self.now.boot);
            if plan != whole {
                return Err(format!("{:?} instead of {:?}", plan, whole));
            }
            for action in &plan.actions {
                // Some are begun in the next pass.
                if self.below(4) > 0 && self.observed.begin(action, self.now) {
                    self.planner.begun(action);
                }
            }
            if plan.actions.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[test]
fn it_plans_what_a_look_at_everything_plans() {
    for seed in 0..40 {
        let mut stage = Stage::new(seed);
        for step in 0..400 {
            stage.step().unwrap_or_else(|words| panic!("seed {seed}, step {step}: {words}"));
        }
        stage.record(&Fact::Shutdown { by: "test".to_owned() });
        for step in 0..100 {
            stage.step().unwrap_or_else(|words| panic!("seed {seed}, shutdown, step {step}: {words}"));
        }
    }
}

/// Whether a planner that is damaged before each step is found out, in one of a few worlds.
fn is_caught(damage: impl Fn(&mut Planner)) -> bool {
    (0..20).any(|seed| {
        let mut stage = Stage::new(seed);
        (0..400).any(|_| {
            damage(&mut stage.planner);
            stage.step().is_err()
        })
    })
}

#[test]
fn a_planner_that_forgets_something_is_caught() {
    assert!(!is_caught(|_| ()));
    assert!(is_caught(|planner| planner.seers.clear()), "neighbours");
    assert!(is_caught(|planner| planner.place_seers.clear()), "places");
    assert!(is_caught(|planner| planner.due.clear()), "times");
    assert!(is_caught(|planner| planner.links = Links::default()), "links");
}

/// A hub on which many depend, all running and quiet.
fn hub(count: usize) -> Stage {
    let mut stage = Stage::new(0);
    let hub = UnitName::new("hub").unwrap();
    stage.desired.units.insert(hub.clone(), want(&hub, "", 1));
    for n in 0..count {
        let text = "depends_on.hub = { state = \"started\", on_loss = \"restart\" }\n";
        stage.desired.units.insert(name(n), want(&name(n), text, 1));
    }
    for _ in 0..2 {
        for action in stage.planner.plan(&stage.desired, &stage.observed, stage.now.boot).actions {
            assert!(stage.observed.begin(&action, stage.now));
            stage.planner.begun(&action);
            let id = stage.observed.unit(action.unit()).and_then(|seen| Some(seen.live.as_ref()?.id.clone())).unwrap();
            stage.record(&Fact::Started { id, pid: HostPid(1) });
        }
    }
    // The time comes at which each has done well.
    stage.now.boot = stage.now.boot.after(Duration::from_secs(60));
    for action in stage.planner.plan(&stage.desired, &stage.observed, stage.now.boot).actions {
        assert!(stage.observed.begin(&action, stage.now));
        stage.planner.begun(&action);
    }
    assert!(stage.planner.plan(&stage.desired, &stage.observed, stage.now.boot).actions.is_empty());
    assert!(!stage.planner.is_due(stage.now.boot) && stage.planner.wake_at().is_none());
    stage
}

#[test]
fn an_edit_of_one_of_many_that_depend_on_the_same_is_a_look_at_that_one() {
    let mut stage = hub(50);
    let one = name(7);
    stage.desired.units.insert(one.clone(), want(&one, "depends_on.hub = \"started\"\n", 2));
    stage.planner.changed(&one);
    stage.planner.refresh(&stage.desired, &stage.observed);
    assert_eq!(stage.planner.to_look, BTreeSet::from([one.clone()]));
    let plan = stage.planner.plan(&stage.desired, &stage.observed, stage.now.boot);
    assert!(matches!(&plan.actions[..], [Action::Stop { id, .. }] if id.unit == one), "{plan:?}");
    // One that depends on it no more is news to the hub, and to nobody else.
    stage.desired.units.insert(one.clone(), want(&one, "", 3));
    stage.planner.changed(&one);
    stage.planner.refresh(&stage.desired, &stage.observed);
    assert_eq!(stage.planner.to_look, BTreeSet::from([one, UnitName::new("hub").unwrap()]));
}

#[test]
fn a_change_of_the_one_is_a_look_at_all_that_depend_on_it() {
    let mut stage = hub(50);
    let hub = UnitName::new("hub").unwrap();
    stage.desired.units.insert(hub.clone(), want(&hub, "", 2));
    stage.planner.changed(&hub);
    stage.planner.refresh(&stage.desired, &stage.observed);
    assert_eq!(stage.planner.to_look.len(), 51);
}

#[test]
fn what_is_gone_leaves_nothing_behind() {
    let mut stage = hub(5);
    let names: Vec<UnitName> = stage.desired.units.keys().cloned().collect();
    stage.desired.units.clear();
    stage.observed.units.clear();
    names.iter().for_each(|name| stage.planner.changed(name));
    assert_eq!(stage.planner.plan(&stage.desired, &stage.observed, stage.now.boot), Plan::default());
    let Planner { all, everything, changed, to_look, links, looks, seers, place_seers, due } = &stage.planner;
    assert!(!all && !everything && changed.is_empty() && to_look.is_empty() && *links == Links::default());
    assert!(looks.is_empty() && seers.is_empty() && place_seers.is_empty() && due.is_empty());
}

#[test]
fn a_place_concerns_those_that_ask_about_it() {
    let mut stage = hub(5);
    let text = "[[mount]]\nsource = \"/disk\"\ntarget = \"/d\"\nrequire_mountpoint = true\n";
    stage.desired.units.insert(name(9), want(&name(9), text, 1));
    stage.planner.changed(&name(9));
    assert!(stage.planner.plan(&stage.desired, &stage.observed, stage.now.boot).actions.is_empty());
    assert_eq!(stage.planner.place_seers.keys().collect::<Vec<_>>(), [&PathBuf::from(DISK)]);
    let presence = Presence { exists: true, is_mount_point: true };
    stage.record(&Fact::Found { path: DISK.into(), presence });
    assert_eq!(stage.planner.to_look, BTreeSet::from([name(9)]));
    assert_eq!(stage.planner.plan(&stage.desired, &stage.observed, stage.now.boot).actions.len(), 1);
}

//! What follows from a container's own word, and from its silence.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::unit::{ContainerId, Fingerprint, UnitName, parse};

/// One unit that runs since second 0, and a clock in milliseconds.
struct World {
    desired: Desired,
    observed: Observed,
    now: u64,
}

impl World {
    /// These keys of `[process]`, and tables.
    fn new(text: &str) -> World {
        let unit = UnitName::new("web").unwrap();
        let text = format!(
            "bundle = \"/srv/x\"\n[process]\nnotify = \"systemd\"\n{text}\n[update]\nmin_healthy = \"0s\"\ndeadline = \"3650d\"\n"
        );
        let parsed = parse(&unit, Path::new("x.toml"), &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        let want = Want { unit: Arc::new(parsed.unit), fingerprint: Fingerprint([1; 16]), trial: None, earlier: None };
        let desired = Desired { units: [(unit, want)].into(), ..Desired::default() };
        let mut world = World { desired, observed: Observed::default(), now: 0 };
        assert_eq!(world.plans(), ["start web.1"]);
        world.record(Fact::Started { id: id(), pid: HostPid(1) });
        // Whether the text does well is asked elsewhere.
        world.observed.seen_mut(&id().unit).proven = Some(Fingerprint([1; 16]));
        world
    }

    fn time(&self) -> Now {
        Now { boot: BootTime(self.now * 1_000_000), wall: WallTime(self.now) }
    }

    fn record(&mut self, fact: Fact) -> bool {
        let now = self.time();
        self.observed.record(&fact, now)
    }

    fn says(&mut self, text: &str) -> bool {
        let at = self.time().boot;
        let lines = text.lines().map(|line| Line { text: line.to_owned(), at }).collect();
        self.record(Fact::Notified { id: id(), lines })
    }

    fn plans(&mut self) -> Vec<String> {
        self.prove();
        let now = self.time();
        let plan = reconcile(&self.desired, &self.observed, now.boot);
        plan.actions.iter().for_each(|action| assert!(self.observed.begin(action, now), "{action}"));
        plan.actions.iter().map(ToString::to_string).collect()
    }

    /// That its text has done well is remembered, which is no matter here.
    fn prove(&mut self) {
        let now = self.time();
        let plan = reconcile(&self.desired, &self.observed, now.boot);
        let proofs = plan.actions.iter().filter(|action| matches!(action, Action::Prove { .. }));
        proofs.for_each(|action| assert!(self.observed.begin(action, now), "{action}"));
    }

    /// In milliseconds.
    fn wakes_at(&mut self) -> Option<u64> {
        self.prove();
        let never = Duration::from_secs(3650 * 86_400).as_nanos();
        let wake_at = reconcile(&self.desired, &self.observed, self.time().boot).wake_at;
        wake_at.filter(|at| u128::from(at.0) < never).map(|at| at.0 / 1_000_000)
    }

    /// Health, and the words of `ps`.
    fn is(&self) -> (String, String) {
        let now = self.time().boot;
        let status = status(&self.desired, &self.observed, &UnitName::new("web").unwrap(), now);
        let words = status.reason.words(now, &|_| String::new());
        (status.health.map_or("none", HealthStatus::word).to_owned(), words)
    }

    fn reloading(&self) -> Reloading {
        status(&self.desired, &self.observed, &UnitName::new("web").unwrap(), self.time().boot).reloading
    }

    /// At its due time, and not before, it is stopped for this.
    fn stops_at(&mut self, due: u64, why: &str) {
        assert_eq!(self.wakes_at(), Some(due));
        self.now = due - 1;
        assert_eq!(self.plans(), [""; 0]);
        self.now = due;
        self.confirms();
        assert_eq!(self.plans(), [format!("stop web.1: unhealthy: {why}")]);
    }

    /// The keeper is asked, and has heard nothing more.
    fn confirms(&mut self) {
        assert_eq!(self.plans(), ["hear web.1"]);
        assert_eq!(self.plans(), [""; 0], "it is asked once");
        assert!(self.record(Fact::Heard { id: id() }));
    }

    /// As the next supervisor reads it.
    fn crash(&mut self) {
        let json = serde_json::to_vec(&self.observed).unwrap();
        self.observed = serde_json::from_slice(&json).unwrap();
        self.record(Fact::Awake);
    }
}

fn id() -> ContainerId {
    ContainerId::parse("web.1").unwrap()
}

fn words(health: &str, words: &str) -> (String, String) {
    (health.to_owned(), words.to_owned())
}

#[test]
fn it_is_starting_until_it_says_otherwise_and_its_status_is_shown() {
    let mut world = World::new("");
    assert_eq!(world.is(), words("starting", "no READY=1 yet"));
    assert!(world.says("STATUS=loading 3 of 7\u{1b}[31m\u{202e}\nERRNO=0"));
    assert_eq!(world.is(), words("starting", "no READY=1 yet: loading 3 of 7 [31m"));
    assert!(world.says("READY=1") && !world.says("READY=0\nBARRIER=1\nREADY"));
    assert_eq!(world.is().0, "healthy");
    assert_eq!(world.wakes_at(), None, "nothing is due in a quiet world");
    world.now = 5;
    world.says("RELOADING=1\nSTATUS=");
    assert_eq!(world.is(), words("healthy", "it reloads"));
    world.now = 6;
    world.says("READY=1\nERRNO=5");
    assert_eq!(world.is(), words("healthy", "errno 5"));
    let old = Line { text: "STATUS=an old one".to_owned(), at: BootTime(0) };
    assert!(!world.record(Fact::Notified { id: id(), lines: vec![old] }), "told late, it takes nothing back");
    world.says(&format!("STATUS={}", "ä".repeat(4000)));
    assert!(world.is().1.chars().count() < 300);
}

#[test]
fn a_start_that_is_never_ready_is_a_failure_unless_it_asks_for_time() {
    World::new("").stops_at(90_000, "no READY=1 within 1m30s");
    let mut world = World::new("");
    world.now = 80_000;
    world.says("EXTEND_TIMEOUT_USEC=20000000");
    world.stops_at(100_000, "no READY=1 within 1m30s");
    let mut world = World::new("");
    world.says("EXTEND_TIMEOUT_USEC=18446744073709551616\nEXTEND_TIMEOUT_USEC=-1");
    assert_eq!(world.wakes_at(), Some(90_000), "no numbers that it could be");
    world.says("EXTEND_TIMEOUT_USEC=18446744073709551615");
    assert_eq!(world.wakes_at(), Some(3_600_000), "an hour at a time");
    let mut oneshot = World::new("");
    let want = oneshot.desired.units.values_mut().next().unwrap();
    Arc::make_mut(&mut want.unit).kind = crate::unit::Kind::Oneshot;
    assert_eq!(oneshot.wakes_at(), None, "a oneshot takes as long as it takes");
}

#[test]
fn a_watchdog_that_hears_nothing_restarts_it() {
    let mut world = World::new("watchdog = \"30s\"");
    assert_eq!(world.wakes_at(), Some(90_000), "it begins when the start is over");
    world.says("READY=1");
    world.now = 10_000;
    assert!(!world.says("WATCHDOG=1"), "not to be written down");
    world.stops_at(40_000, "watchdog: nothing heard for 30s");
    let mut world = World::new("watchdog = \"30s\"");
    world.says("READY=1\nWATCHDOG_USEC=2000000");
    assert_eq!(world.wakes_at(), Some(2_000));
    world.says("WATCHDOG_USEC=1");
    assert_eq!(world.wakes_at(), Some(100), "not a wake-up for each word");
    world.says("WATCHDOG_USEC=0");
    assert_eq!(world.wakes_at(), None);
    world.says("WATCHDOG=trigger");
    world.confirms();
    assert_eq!(world.plans(), ["stop web.1: unhealthy: watchdog: it triggered it itself"]);
    let mut none = World::new("");
    none.says("READY=1\nWATCHDOG=1");
    assert_eq!(none.wakes_at(), None, "none was asked for");
}

#[test]
fn a_word_that_is_on_its_way_is_waited_for() {
    let mut world = World::new("watchdog = \"30s\"");
    world.says("READY=1");
    world.now = 30_500;
    assert_eq!(world.plans(), ["hear web.1"]);
    let at = BootTime(29_000 * 1_000_000);
    world.record(Fact::Notified { id: id(), lines: vec![Line { text: "WATCHDOG=1".to_owned(), at }] });
    world.record(Fact::Heard { id: id() });
    world.stops_at(59_000, "watchdog: nothing heard for 30s");
}

#[test]
fn time_in_which_nobody_listened_is_no_silence() {
    let mut world = World::new("watchdog = \"30s\"");
    world.says("READY=1");
    world.now = 100_000;
    world.crash();
    assert_eq!(world.plans(), [""; 0], "the last word that this supervisor knows of is old");
    assert_eq!((world.wakes_at(), world.is().0), (Some(130_000), "healthy".to_owned()));
    // What the keeper heard meanwhile.
    let at = BootTime(99_000 * 1_000_000);
    world.record(Fact::Notified { id: id(), lines: vec![Line { text: "WATCHDOG=1".to_owned(), at }] });
    world.stops_at(130_000, "watchdog: nothing heard for 30s");

    let mut starting = World::new("");
    starting.now = 200_000;
    starting.record(Fact::Awake);
    starting.stops_at(290_000, "no READY=1 within 1m30s");
}

#[test]
fn where_words_may_be_lost_none_is_missed() {
    let mut world = World::new("watchdog = \"30s\"");
    world.now = 10;
    let unheard = Line::unheard(world.time().boot);
    assert!(world.record(Fact::Notified { id: id(), lines: vec![unheard] }));
    assert_eq!(world.wakes_at(), None, "it may have said READY=1");
    assert_eq!(world.is(), words("starting", "no READY=1 heard since the keeper died"));
    world.says("READY=1");
    assert_eq!(world.wakes_at(), None);
    world.now = 20;
    world.says("WATCHDOG=1");
    world.stops_at(30_020, "watchdog: nothing heard for 30s");
}

#[test]
fn who_says_that_it_stops_is_to_end() {
    let mut world = World::new("[stop]\ntimeout = \"5s\"");
    world.says("READY=1");
    world.now = 1_000;
    world.says("STOPPING=1\nSTATUS=bye");
    assert_eq!(world.is(), words("unready", "it stops by itself: bye"));
    world.stops_at(6_000, "it said STOPPING=1 and did not end within 5s");
}

#[test]
fn a_stop_takes_longer_if_asked_and_not_for_ever() {
    let kill_at = |world: &World| {
        let live = world.observed.unit(&UnitName::new("web").unwrap()).unwrap().live.as_ref().unwrap();
        let State::Stopping(stopping) = &live.state else { panic!("{live:?}") };
        stopping.kill_at.0 / 1_000_000
    };
    let mut world = World::new("[stop]\ntimeout = \"5s\"");
    world.says("READY=1\nEXTEND_TIMEOUT_USEC=60000000");
    world.record(Fact::ClientRestart { unit: UnitName::new("web").unwrap() });
    world.now = 1_000;
    assert_eq!(world.plans(), ["stop web.1: restart asked for"]);
    // The keeper tells all of it again and again.
    let old = Line { text: "EXTEND_TIMEOUT_USEC=60000000".to_owned(), at: BootTime(0) };
    world.record(Fact::Notified { id: id(), lines: vec![old] });
    assert_eq!(kill_at(&world), 6_000, "what it asked for before was for something else");
    world.now = 2_000;
    world.says("EXTEND_TIMEOUT_USEC=9000000");
    assert_eq!(kill_at(&world), 11_000);
    world.now = 3_000;
    world.says("EXTEND_TIMEOUT_USEC=1000000");
    assert_eq!(kill_at(&world), 11_000, "it never takes less");
    world.says("EXTEND_TIMEOUT_USEC=3600000000");
    assert_eq!(kill_at(&world), 601_000);
}

#[test]
fn a_reload_is_over_with_the_ready_that_follows() {
    let ask = |world: &mut World| {
        world.record(Fact::ClientReload { unit: UnitName::new("web").unwrap() });
        assert_eq!(world.plans(), ["reload web.1"]);
    };
    let mut world = World::new("");
    world.says("READY=1");
    world.now = 1_000;
    ask(&mut world);
    // Its answer may come before the word that it was told.
    world.says("RELOADING=1");
    world.record(Fact::Reloaded { id: id() });
    assert_eq!(world.reloading(), Reloading::Awaited(BootTime(91_000 * 1_000_000)));
    assert_eq!(world.wakes_at(), Some(91_000));
    world.crash();
    world.now = 2_000;
    world.says("READY=1");
    assert_eq!((world.reloading(), world.wakes_at()), (Reloading::Done, None));
    // Another, of which the keeper tells both words at once, and one that never ends.
    world.now = 3_000;
    ask(&mut world);
    world.says("RELOADING=1\nREADY=1");
    assert_eq!(world.reloading(), Reloading::Done);
    world.now = 4_000;
    ask(&mut world);
    world.says("RELOADING=1");
    world.now = 94_000;
    assert_eq!((world.reloading(), world.plans()), (Reloading::Late, vec![]), "it runs on");
    // One that takes no part in this.
    let mut silent = World::new("");
    silent.says("READY=1");
    silent.now = 1_000;
    ask(&mut silent);
    assert_eq!(silent.wakes_at(), Some(11_000));
    silent.now = 11_000;
    assert_eq!((silent.reloading(), silent.wakes_at()), (Reloading::Silent, None));
}

#[test]
fn its_word_and_the_checks_count_together() {
    let mut world = World::new("[health.readiness]\ntcp = \"localhost:1\"");
    let probed =
        |probed| Fact::Probed { id: id(), check: crate::unit::CheckKind::Readiness, probed, failures: 1, successes: 1 };
    world.says("READY=1");
    assert_eq!(world.is(), words("starting", "readiness has not passed yet"));
    world.record(probed(Probed::Passed));
    assert_eq!(world.is().0, "healthy");
    world.record(probed(Probed::Failed { text: "no".to_owned(), counts: true }));
    assert_eq!(world.is(), words("unready", "readiness does not pass: no"));
    let mut world = World::new("[health.readiness]\ntcp = \"localhost:1\"");
    world.record(probed(Probed::Passed));
    assert_eq!(world.is(), words("starting", "no READY=1 yet"));
}

#[test]
fn a_record_of_a_supervisor_that_knew_no_words_still_reads() {
    let world = World::new("");
    let seen = world.observed.unit(&UnitName::new("web").unwrap()).unwrap();
    let mut json = serde_json::to_value(seen).unwrap();
    let live = json["live"].as_object_mut().unwrap();
    assert!(live.remove("told").is_some() && live.remove("reload_sent").is_some());
    let mut expected = seen.clone();
    expected.live.as_mut().unwrap().told = None;
    assert_eq!(serde_json::from_value::<Seen>(json).unwrap(), expected);
    let some: Told = serde_json::from_str("{}").unwrap();
    assert_eq!(some, Told::default());
    assert_eq!(Duration::ZERO, BootTime::default().since(world.observed.awake_since));
}

#[test]
fn what_it_does_before_it_is_ready_is_no_run() {
    // Second at which it says that it is ready, and at which it ends; delays after that.
    for (ready, end, short_runs) in
        [(None, 90, 1), (Some(80), 90, 1), (Some(5), 64, 1), (Some(5), 65, 0), (Some(0), 60, 0)]
    {
        let mut world = World::new("");
        if let Some(ready) = ready {
            world.now = ready * 1000;
            world.says("READY=1");
        }
        world.now = end * 1000;
        let at = world.time().boot;
        world.record(Fact::Exited { id: id(), exit: Exit::Code(1), oom: false, at });
        let seen = world.observed.unit(&id().unit).unwrap();
        assert_eq!(seen.backoff.short_runs, short_runs, "ready at {ready:?}, end at {end}");
        assert_eq!(seen.last.as_ref().unwrap().ran_for, Duration::from_secs(end), "as people count");
    }
    // A oneshot is ready when it has ended.
    let mut world = World::new("[restart]\nreset_after = \"1s\"");
    let oneshot = Arc::make_mut(&mut world.desired.units.get_mut(&id().unit).unwrap().unit);
    oneshot.kind = crate::unit::Kind::Oneshot;
    assert_eq!(Told::begin(oneshot), None);
}

#[test]
fn one_whose_startup_check_fails_has_not_run_however_long_it_took() {
    let mut world = World::new("[health.startup]\nexec = [\"/x\"]");
    world.says("READY=1");
    world.plans();
    world.now = 100_000;
    let check = crate::unit::CheckKind::Startup;
    let probed = Probed::Failed { text: "no".to_owned(), counts: true };
    world.record(Fact::Probed { id: id(), check, probed, failures: 1, successes: 1 });
    assert_eq!(world.plans(), ["stop web.1: unhealthy: startup failed 1 times in a row: no"]);
    assert_eq!(world.plans(), ["probe web.1"], "it is asked no more");
    let at = world.time().boot;
    world.record(Fact::Exited { id: id(), exit: Exit::Code(0), oom: false, at });
    assert_eq!(world.observed.unit(&id().unit).unwrap().backoff.short_runs, 1);
}

#[test]
fn it_does_well_since_it_first_said_so() {
    let mut world = World::new("");
    let well_since = |world: &World| {
        let (name, want) = world.desired.units.first_key_value().unwrap();
        let live = world.observed.unit(name).unwrap().live.as_ref().unwrap();
        live.well_since(want.unit.health.as_deref()).map(|at| at.0 / 1_000_000)
    };
    assert_eq!(well_since(&world), None);
    world.now = 5;
    world.says("READY=1");
    for text in ["RELOADING=1", "READY=1"] {
        world.now += 1;
        world.says(text);
        assert_eq!(well_since(&world), Some(5), "to reload is no break");
    }
    world.says("STOPPING=1");
    assert_eq!(well_since(&world), None);
}

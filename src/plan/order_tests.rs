//! Orders and rings, on many units at once.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::unit::{CheckKind, ContainerId, Fingerprint, UnitName, parse};

fn name(text: &str) -> UnitName {
    UnitName::new(text).unwrap()
}

/// Declared units, by name and top-level keys.
fn desired(units: &[(String, String)]) -> Desired {
    let want = |(unit, top): &(String, String)| {
        let text = format!("bundle = \"/srv/x\"\n{top}\n");
        let unit = name(unit);
        let parsed = parse(&unit, Path::new("x.toml"), &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        (unit, Want { unit: Arc::new(parsed.unit), fingerprint: Fingerprint([1; 16]), trial: None, earlier: None })
    };
    Desired { units: units.iter().map(want).collect(), ..Desired::default() }
}

/// A chain: each unit depends on the one before.
fn chain(length: usize) -> Vec<(String, String)> {
    let depends =
        |n: usize| n.checked_sub(1).map_or(String::new(), |before| format!("depends_on.u{before} = \"started\""));
    (0..length).map(|n| (format!("u{n}"), depends(n))).collect()
}

fn at(ms: u64) -> Now {
    Now { boot: BootTime(ms * 1_000_000), wall: WallTime(ms) }
}

/// Begins all that is planned, and says which units that were.
fn begin(desired: &Desired, observed: &mut Observed, now: Now) -> Vec<String> {
    let plan = reconcile(desired, observed, now.boot);
    plan.actions.iter().for_each(|action| assert!(observed.begin(action, now), "{action}"));
    plan.actions.iter().map(ToString::to_string).collect()
}

fn started(observed: &mut Observed, unit: &str, now: Now) {
    let id = observed.unit(&name(unit)).unwrap().live.as_ref().unwrap().id.clone();
    assert!(observed.record(&Fact::Started { id, pid: HostPid(1) }, now));
}

fn words(desired: &Desired, observed: &Observed, unit: &str) -> String {
    status(desired, observed, &name(unit), BootTime(0)).reason.words(BootTime(0), &|_| String::new())
}

#[test]
fn a_chain_starts_link_by_link_and_stops_from_its_end() {
    let (desired, mut observed) = (desired(&chain(3)), Observed::default());
    for (n, unit) in ["u0", "u1", "u2"].iter().enumerate() {
        let now = at(n as u64);
        assert_eq!(begin(&desired, &mut observed, now), [format!("start {unit}.1")]);
        assert_eq!(begin(&desired, &mut observed, now), [""; 0], "not before the one before runs");
        started(&mut observed, unit, now);
    }
    observed.record(&Fact::Shutdown { by: "test".to_owned() }, at(5));
    for unit in ["u2", "u1", "u0"] {
        assert_eq!(begin(&desired, &mut observed, at(6)), [format!("stop {unit}.1: everything stops")]);
        let before = words(&desired, &observed, "u0");
        assert!(unit == "u0" || before == "everything stops; stops after u1, which depends on it", "{before}");
        let id = observed.unit(&name(unit)).unwrap().live.as_ref().unwrap().id.clone();
        observed.record(&Fact::Exited { id, exit: Exit::Code(0), oom: false, at: at(6).boot }, at(6));
    }
}

#[test]
fn a_record_of_a_supervisor_that_knew_no_dependencies_still_reads() {
    let (desired, mut observed) = (desired(&chain(1)), Observed::default());
    begin(&desired, &mut observed, at(0));
    let seen = observed.unit(&name("u0")).unwrap();
    let mut json = serde_json::to_value(seen).unwrap();
    assert!(json.as_object_mut().unwrap().remove("raised").is_some());
    assert!(json["live"].as_object_mut().unwrap().remove("relies").is_some());
    assert_eq!(serde_json::from_value::<Seen>(json).unwrap(), *seen);
}

#[test]
fn a_ring_is_named_from_each_of_its_units_and_who_waits_for_it_only_waits() {
    let units = [
        ("a", "depends_on.b = \"started\""),
        ("b", "network.mode = \"unit:c\""),
        ("c", "depends_on = { a = \"completed\", e = \"started\" }"),
        ("d", "depends_on.a = \"started\""),
        ("e", ""),
    ]
    .map(|(unit, top)| (unit.to_owned(), top.to_owned()));
    let (desired, observed) = (desired(&units), Observed::default());
    assert_eq!(words(&desired, &observed, "a"), "waits for itself: a -> b -> c -> a");
    assert_eq!(words(&desired, &observed, "b"), "waits for itself: b -> c -> a -> b");
    assert_eq!(words(&desired, &observed, "d"), "waits for a (started; it has failed)");
    let plan = reconcile(&desired, &observed, BootTime(0));
    assert_eq!(plan.actions.iter().map(ToString::to_string).collect::<Vec<_>>(), ["start e.1"]);
}

/// CPU seconds of this thread: what else runs on the machine does not count.
fn worked() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[test]
fn ten_thousand_units_are_planned_in_time_that_grows_with_their_number() {
    let cost = |length: usize, ring: bool| {
        let mut units = chain(length);
        if ring {
            units[0].1 = format!("depends_on.u{} = \"started\"", length - 1);
        }
        let (desired, observed) = (desired(&units), Observed::default());
        let begun = worked();
        let plan = reconcile(&desired, &observed, BootTime(0));
        assert_eq!(plan.actions.len(), usize::from(!ring));
        worked() - begun
    };
    // A hundred times as many would take 10,000 times as long if it were not so.
    let (few, many) = (cost(100, false).max(1e-4), cost(10_000, false));
    assert!(many < few * 1500.0, "{few} s, {many} s");
    assert!(cost(10_000, true) < 60.0, "a ring too long to be named only waits");
}

#[test]
fn what_an_earlier_run_of_a_text_completed_counts_no_more_while_another_text_runs() {
    let text = |mark: u8| {
        let units = [
            ("job", "type = \"oneshot\""),
            ("web", "depends_on = { job = { state = \"completed\", on_loss = \"stop\" } }"),
        ];
        let mut desired = desired(&units.map(|(unit, top)| (unit.to_owned(), top.to_owned())));
        desired.units.get_mut(&name("job")).unwrap().fingerprint = Fingerprint([mark; 16]);
        desired
    };
    let exited = |observed: &mut Observed, id: &str, now: Now| {
        let id = ContainerId::parse(id).unwrap();
        for fact in [
            Fact::Exited { id: id.clone(), exit: Exit::Code(0), oom: false, at: now.boot },
            Fact::CgroupEmpty { id: id.clone() },
            Fact::Drained { id: id.clone() },
            Fact::Cleared { id },
        ] {
            assert!(observed.record(&fact, now), "{fact}");
        }
    };
    let mut observed = Observed::default();
    begin(&text(1), &mut observed, at(0));
    exited(&mut observed, "job.1", at(1));
    begin(&text(1), &mut observed, at(2));
    started(&mut observed, "web", at(2));
    // Another text, and back again before it has ended.
    assert_eq!(begin(&text(2), &mut observed, at(3))[..1], ["start job.2"]);
    started(&mut observed, "job", at(3));
    let mut seen = begin(&text(2), &mut observed, at(4));
    seen.extend(begin(&text(1), &mut observed, at(5)));
    exited(&mut observed, "web.1", at(6));
    seen.extend(begin(&text(1), &mut observed, at(6)));
    assert!(!seen.contains(&"start web.2".to_owned()), "{seen:?}");
    assert!(seen.contains(&"stop job.2: its text changed".to_owned()), "{seen:?}");
    exited(&mut observed, "job.2", at(7));
    assert_eq!(begin(&text(1), &mut observed, at(8)), ["start job.3"]);
    exited(&mut observed, "job.3", at(9));
    assert_eq!(begin(&text(1), &mut observed, at(10)), ["start web.2"]);
}

#[test]
fn a_run_that_is_asked_for_counts_from_the_wish_and_not_from_the_handover() {
    let unit = |unit: &str, top: &str| (unit.to_owned(), top.to_owned());
    let texts = desired(&[
        unit("job", "[update]\norder = \"start-first\""),
        unit("web", "depends_on.job = { state = \"completed\", on_loss = \"stop\" }"),
    ]);
    let mut observed = Observed::default();
    begin(&texts, &mut observed, at(0));
    started(&mut observed, "job", at(0));
    let job = ContainerId::parse("job.1").unwrap();
    for fact in [
        Fact::Exited { id: job.clone(), exit: Exit::Code(0), oom: false, at: at(1).boot },
        Fact::CgroupEmpty { id: job.clone() },
        Fact::Drained { id: job.clone() },
        Fact::Cleared { id: job },
    ] {
        observed.record(&fact, at(1));
    }
    // It has completed once, and runs again by its policy.
    let starts = begin(&texts, &mut observed, at(600_000));
    assert!(starts.contains(&"start web.1".to_owned()) && starts.contains(&"start job.2".to_owned()), "{starts:?}");
    started(&mut observed, "job", at(600_000));
    started(&mut observed, "web", at(600_000));
    let stops = begin(&texts, &mut observed, at(600_000));
    assert!(!stops.iter().any(|action| action.starts_with("stop")), "{stops:?}");
    observed.record(&Fact::ClientRestart { unit: name("job") }, at(600_001));
    let stops = begin(&texts, &mut observed, at(600_001));
    assert!(stops.iter().any(|action| action.starts_with("stop web.1: job, which it depends on")), "{stops:?}");
    assert!(stops.iter().any(|action| action.starts_with("start job.3 beside")), "{stops:?}");
}

#[test]
fn a_ring_through_a_container_without_a_file_is_one() {
    let unit = |unit: &str, top: &str| (unit.to_owned(), top.to_owned());
    let before = desired(&[unit("job", "network.mode = \"unit:net\""), unit("net", "")]);
    let mut observed = Observed::default();
    assert_eq!(begin(&before, &mut observed, at(0)), ["start net.1"]);
    started(&mut observed, "net", at(0));
    assert!(begin(&before, &mut observed, at(1)).contains(&"start job.1".to_owned()));
    // Its file is gone, and the unit whose network it is in needs it from here on. Then everything stops before its program runs.
    let after = desired(&[unit("net", "depends_on.job = \"completed\"")]);
    observed.record(&Fact::Shutdown { by: "test".to_owned() }, at(2));
    let stops = begin(&after, &mut observed, at(2));
    assert!(stops.contains(&"stop job.1: everything stops".to_owned()), "{stops:?}");
}

#[test]
fn who_has_ended_in_a_network_is_in_no_ring_any_more() {
    let unit = |unit: &str, top: &str| (unit.to_owned(), top.to_owned());
    let before = desired(&[unit("job", "network.mode = \"unit:net\""), unit("net", "")]);
    let mut observed = Observed::default();
    begin(&before, &mut observed, at(0));
    started(&mut observed, "net", at(0));
    begin(&before, &mut observed, at(1));
    started(&mut observed, "job", at(1));
    let job = ContainerId::parse("job.1").unwrap();
    let mut after = desired(&[unit("job", ""), unit("net", "depends_on.job = \"started\"")]);
    let tangled =
        |after: &Desired, observed: &Observed| super::links::Links::new(after, observed).is_tangled(&name("net"));
    assert!(tangled(&after, &observed));
    observed.record(&Fact::Exited { id: job, exit: Exit::Code(0), oom: false, at: at(2).boot }, at(2));
    assert!(!tangled(&after, &observed), "it is not cleared away yet, and nothing of it runs");
    after.units.remove(&name("job"));
    assert!(!tangled(&after, &observed));
}

#[test]
fn of_two_side_by_side_the_one_that_is_relied_on_is_as_good_as_the_other() {
    let texts = desired(&[
        ("db".to_owned(), "[health.liveness]\nfile = \"/up\"\n[update]\norder = \"start-first\"".to_owned()),
        ("web".to_owned(), "depends_on.db = { state = \"healthy\", on_loss = \"restart\" }".to_owned()),
    ]);
    let mut observed = Observed::default();
    assert_eq!(begin(&texts, &mut observed, at(0)), ["start db.1"]);
    started(&mut observed, "db", at(0));
    let id = |n: u64| ContainerId::parse(&format!("db.{n}")).unwrap();
    let passes = |observed: &mut Observed, n: u64, now: Now| {
        let (check, probed) = (CheckKind::Liveness, Probed::Passed);
        assert!(observed.record(&Fact::Probed { id: id(n), check, probed, failures: 1, successes: 1 }, now));
    };
    begin(&texts, &mut observed, at(1));
    observed.record(&Fact::ClientRestart { unit: name("db") }, at(1));
    assert_eq!(begin(&texts, &mut observed, at(1)), ["start db.2 beside the one that runs"]);
    observed.record(&Fact::Started { id: id(2), pid: HostPid(2) }, at(2));
    begin(&texts, &mut observed, at(2));
    // The one that is to take over is well first.
    passes(&mut observed, 2, at(3));
    let starts = begin(&texts, &mut observed, at(3));
    assert!(starts.contains(&"start web.1".to_owned()), "{starts:?}");
    started(&mut observed, "web", at(3));
    passes(&mut observed, 1, at(4));
    let after = begin(&texts, &mut observed, at(4));
    assert!(!after.iter().any(|action| action.starts_with("stop web")), "{after:?}");
}

#[test]
fn a_run_that_is_asked_for_counts_while_the_one_before_it_stops() {
    let job = || ("job".to_owned(), String::new());
    let (alone, both) =
        (desired(&[job()]), desired(&[job(), ("web".to_owned(), "depends_on.job = \"completed\"".to_owned())]));
    let mut observed = Observed::default();
    let ended = |observed: &mut Observed, n: u64, now: Now| {
        let id = ContainerId::parse(&format!("job.{n}")).unwrap();
        let exited = Fact::Exited { id: id.clone(), exit: Exit::Code(0), oom: false, at: now.boot };
        for fact in
            [exited, Fact::CgroupEmpty { id: id.clone() }, Fact::Drained { id: id.clone() }, Fact::Cleared { id }]
        {
            observed.record(&fact, now);
        }
    };
    begin(&alone, &mut observed, at(0));
    started(&mut observed, "job", at(0));
    ended(&mut observed, 1, at(1));
    assert_eq!(begin(&alone, &mut observed, at(600_000)), ["start job.2"]);
    started(&mut observed, "job", at(600_000));
    observed.record(&Fact::ClientRestart { unit: name("job") }, at(600_001));
    assert_eq!(begin(&alone, &mut observed, at(600_001)), ["stop job.2: restart asked for"]);
    // The first run completed, and so may this one: it is the third that counts.
    assert_eq!(begin(&both, &mut observed, at(600_002)), Vec::<String>::new());
    ended(&mut observed, 2, at(600_003));
    assert_eq!(begin(&both, &mut observed, at(600_004)), ["start job.3"]);
    started(&mut observed, "job", at(600_005));
    assert_eq!(begin(&both, &mut observed, at(600_006)), Vec::<String>::new());
    ended(&mut observed, 3, at(600_007));
    assert!(begin(&both, &mut observed, at(600_008)).contains(&"start web.1".to_owned()));
}

#[test]
fn an_edit_of_what_is_needed_of_a_dependency_loses_nothing() {
    let text = |need: &str| {
        let web = format!("depends_on.job = {{ state = \"{need}\", on_loss = \"stop\" }}");
        desired(&[("job".to_owned(), String::new()), ("web".to_owned(), web)])
    };
    let (mut observed, job) = (Observed::default(), |n: u64| ContainerId::parse(&format!("job.{n}")).unwrap());
    let ended = |observed: &mut Observed, id: ContainerId, now: Now| {
        let exited = Fact::Exited { id: id.clone(), exit: Exit::Code(0), oom: false, at: now.boot };
        for fact in
            [exited, Fact::CgroupEmpty { id: id.clone() }, Fact::Drained { id: id.clone() }, Fact::Cleared { id }]
        {
            observed.record(&fact, now);
        }
    };
    assert_eq!(begin(&text("completed"), &mut observed, at(0)), ["start job.1"]);
    started(&mut observed, "job", at(0));
    ended(&mut observed, job(1), at(1));
    assert!(begin(&text("completed"), &mut observed, at(2)).contains(&"start web.1".to_owned()));
    started(&mut observed, "web", at(2));
    // The job runs again. It is the life of this run that counts from here on, and not the end of the one before.
    assert!(begin(&text("completed"), &mut observed, at(600_000)).contains(&"start job.2".to_owned()));
    started(&mut observed, "job", at(600_000));
    let after = begin(&text("started"), &mut observed, at(600_001));
    assert!(!after.iter().any(|action| action.starts_with("stop")), "{after:?}");
    ended(&mut observed, job(2), at(600_002));
    let after = begin(&text("started"), &mut observed, at(600_003));
    assert!(after.iter().any(|action| action.starts_with("stop web.1: job, which it depends on")), "{after:?}");
}

#[test]
fn a_kill_that_came_before_its_keeper_forked_takes_nothing_from_the_stop_timeout() {
    let (desired, mut observed) = (desired(&chain(1)), Observed::default());
    assert_eq!(begin(&desired, &mut observed, at(0)), ["start u0.1"]);
    observed.record(&Fact::Shutdown { by: "test".to_owned() }, at(1));
    assert_eq!(begin(&desired, &mut observed, at(1)), ["stop u0.1: everything stops"]);
    assert_eq!(begin(&desired, &mut observed, at(2001)), ["kill u0.1"]);
    started(&mut observed, "u0", at(2500));
    assert_eq!(begin(&desired, &mut observed, at(2500)), ["stop u0.1: everything stops"]);
    // The kill's own pause would be over.
    assert_eq!(begin(&desired, &mut observed, at(20_000)), [""; 0]);
    assert_eq!(status(&desired, &observed, &name("u0"), at(20_000).boot).phase, Phase::Stopping, "not stuck");
    assert_eq!(begin(&desired, &mut observed, at(32_500)), ["kill u0.1"]);
}

/// How a generation ended that is cleared away.
fn ended(unit: &str, generation: u64, mark: u8, code: u8) -> Box<ExitRecord> {
    Box::new(ExitRecord {
        id: ContainerId { unit: name(unit), generation },
        fingerprint: Fingerprint([mark; 16]),
        outcome: Outcome::Exited { exit: Exit::Code(code), oom: false },
        at: at(generation).boot,
        wall: at(generation).wall,
        ran_for: std::time::Duration::ZERO,
        stopped: None,
        beside: false,
    })
}

#[test]
fn two_ends_of_a_unit_start_another_once_each_however_its_text_goes_to_and_fro() {
    let text = |mark: u8| {
        let web = "on_failure = [\"alert\"]\nrestart.policy = \"never\"";
        let mut desired = desired(&[("alert".to_owned(), String::new()), ("web".to_owned(), web.to_owned())]);
        desired.units.get_mut(&name("web")).unwrap().fingerprint = Fingerprint([mark; 16]);
        desired
    };
    let mut observed = Observed::default();
    // The second was to take over from the first, and ended before it.
    let second = ExitRecord { beside: true, ..*ended("web", 2, 2, 1) };
    let (last, previous) = (Some(ended("web", 1, 1, 1)), Some(Box::new(second)));
    observed.units.insert(name("web"), Box::new(Seen { high_water: 2, last, previous, ..Seen::default() }));
    let mut raised = Vec::new();
    for (n, mark) in [1, 2, 1, 2, 1].into_iter().enumerate() {
        raised.extend(begin(&text(mark), &mut observed, at(n as u64 + 10)));
    }
    raised.retain(|action| action.starts_with("start alert,"));
    assert_eq!(raised, [1, 2].map(|n| format!("start alert, because web.{n} was the last try")));
}

#[test]
fn nobody_starts_for_an_end_after_which_another_run_is_asked_for_in_the_same_moment() {
    let unit = |unit: &str, top: &str| (unit.to_owned(), top.to_owned());
    let texts = desired(&[
        unit("bad", "on_failure = [\"job\"]\nrestart.policy = \"never\""),
        unit("job", "type = \"oneshot\""),
        unit("web", "depends_on.job = { state = \"completed\", on_loss = \"stop\" }"),
    ]);
    let mut observed = Observed::default();
    for (unit, code) in [("bad", 1), ("job", 0)] {
        let seen = Seen { high_water: 1, last: Some(ended(unit, 1, 1, code)), ..Seen::default() };
        observed.units.insert(name(unit), Box::new(seen));
    }
    // To a planner, which looks only at what changed, it is the same.
    let mut planner = Planner::default();
    for expected in [vec!["start job, because bad.1 was the last try"], vec!["start job.2"], vec![]] {
        let plan = planner.plan(&texts, &observed, at(2).boot);
        assert_eq!(plan, reconcile(&texts, &observed, at(2).boot));
        assert_eq!(begin(&texts, &mut observed, at(2)), expected);
        plan.actions.iter().for_each(|action| planner.begun(action));
    }
}

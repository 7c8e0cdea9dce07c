//! Schedules by a fake clock: a host that does at once what it is asked to, and sleeps until the plan wants to look again.

use std::path::Path;
use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::desired::{Desired, Want};
use super::exit::Exit;
use super::observed::HostPid;
use super::schedule::Clock;
use super::time::{BootTime, Now, WallTime};
use super::{Action, Fact, Observed, Phase, Planner, Reason, reconcile, statuses};
use crate::unit::{ContainerId, SourceFacts, UnitName, container_fingerprint, parse};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const ZONES: [&str; 3] =
    ["CET-1CEST,M3.5.0,M10.5.0/3", "EST5EDT,M3.2.0,M11.1.0", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"];

fn web() -> UnitName {
    UnitName::new("web").unwrap()
}

fn moment(text: &str, zone: &TimeZone) -> u64 {
    let civil: DateTime = text.parse().unwrap();
    civil.to_zoned(zone.clone()).unwrap().timestamp().as_millisecond() as u64
}

struct World {
    desired: Desired,
    observed: Observed,
    planner: Planner,
    zone: TimeZone,
    boot: u64,
    wall: u64,
    /// How long a run takes, in ms.
    takes: u64,
    exit: Exit,
    runs: Vec<u64>,
    left_out: usize,
    reboots: usize,
    /// What goes on, and until when.
    live: Option<(ContainerId, u64)>,
}

impl World {
    fn new(zone: &str, from: &str, text: &str) -> World {
        let zone = TimeZone::posix(zone).unwrap();
        let mut world = World {
            desired: Desired::default(),
            observed: Observed::default(),
            planner: Planner::default(),
            boot: 1_000_000,
            wall: moment(from, &zone),
            zone: zone.clone(),
            takes: 1000,
            exit: Exit::Code(0),
            runs: Vec::new(),
            left_out: 0,
            reboots: 0,
            live: None,
        };
        world.put(text);
        world.record(Fact::Zone { name: None, zone: Some(zone) });
        world.look(true);
        world
    }

    fn put(&mut self, text: &str) {
        self.declare(text);
        self.play();
    }

    fn declare(&mut self, text: &str) {
        self.declare_unit(&web(), text);
    }

    fn declare_unit(&mut self, name: &UnitName, text: &str) {
        let text = format!("executable = \"/bin/web\"\n{text}");
        let unit = parse(name, Path::new("x.toml"), &text).unwrap_or_else(|e| panic!("{e:?}")).unit;
        let facts = SourceFacts { resolved: "/bin/web".into(), ..SourceFacts::default() };
        let fingerprint = container_fingerprint(&unit, &facts);
        self.desired.put(name, Want { fingerprint, unit: Arc::new(unit), trial: None, earlier: None }, |_| false);
        self.planner.changed(name);
    }

    fn now(&self) -> Now {
        Now { boot: BootTime(self.boot * 1_000_000), wall: WallTime(self.wall) }
    }

    fn record(&mut self, fact: Fact) {
        if self.observed.record(&fact, self.now()) {
            self.planner.recorded(&fact);
        }
    }

    fn look(&mut self, is_set: bool) {
        let Now { boot, wall } = self.now();
        self.record(Fact::Clock(Clock { boot, wall, is_set }));
        self.play();
    }

    /// Somebody sets the clock.
    fn set(&mut self, wall: u64) {
        self.wall = wall;
        self.look(true);
    }

    /// Does what there is to be done now, and says when to look again.
    fn play(&mut self) -> Option<u64> {
        for _ in 0..1000 {
            let now = self.now().boot;
            let plan = self.planner.plan(&self.desired, &self.observed, now);
            assert_eq!(plan, reconcile(&self.desired, &self.observed, now));
            if plan.actions.is_empty() {
                return plan.wake_at.map(|at| at.0.div_ceil(1_000_000));
            }
            for action in plan.actions {
                if self.observed.begin(&action, self.now()) {
                    self.planner.begun(&action);
                    self.answer(action);
                }
            }
        }
        panic!("it does not come to rest");
    }

    fn answer(&mut self, action: Action) {
        match action {
            Action::Start { id, .. } => {
                assert_eq!(self.live, None, "runs do not overlap");
                self.runs.push(self.wall);
                self.live = Some((id.clone(), self.boot + self.takes));
                self.record(Fact::Started { id, pid: HostPid(1) });
            }
            Action::Stop { .. } => self.end(Exit::Signal(15)),
            Action::Clear { id } => self.record(Fact::Cleared { id }),
            Action::Schedule { mark: super::Mark::LeftOut(_), .. } => self.left_out += 1,
            Action::Reboot { .. } => self.reboots += 1,
            _ => {}
        }
    }

    fn end(&mut self, exit: Exit) {
        let Some((id, _)) = self.live.take() else { return };
        let at = self.now().boot;
        self.record(Fact::Exited { id: id.clone(), exit, oom: false, at });
        self.record(Fact::CgroupEmpty { id: id.clone() });
        self.record(Fact::Drained { id });
    }

    /// So much time goes by.
    fn pass(&mut self, ms: u64) {
        let until = self.boot + ms;
        loop {
            let wake = self.play();
            let ends = self.live.as_ref().map(|(_, at)| *at);
            let wake = wake.into_iter().chain(ends).filter(|at| *at < until).min();
            let next = wake.unwrap_or(until).max(self.boot);
            (self.boot, self.wall) = (next, self.wall + (next - self.boot));
            if ends.is_some_and(|at| at <= next) {
                self.end(self.exit);
            }
            if wake.is_none() {
                self.play();
                return;
            }
        }
    }

    /// The supervisor is killed, and another one reads what the records say; that looks at the clock.
    fn next_supervisor(&mut self) {
        let record = serde_json::to_string(self.observed.unit(&web()).unwrap()).unwrap();
        self.observed = Observed::default();
        self.observed.units.insert(web(), Box::new(serde_json::from_str(&record).unwrap()));
        self.planner = Planner::default();
        self.record(Fact::Zone { name: None, zone: Some(self.zone.clone()) });
        self.look(true);
    }

    fn local(&self) -> Vec<String> {
        let text = |ms: &u64| {
            let moment = jiff::Timestamp::from_millisecond(*ms as i64).unwrap();
            moment.to_zoned(self.zone.clone()).strftime("%m-%d %H:%M:%S").to_string()
        };
        self.runs.iter().map(text).collect()
    }

    fn reason(&self) -> Reason {
        let all = statuses(&self.desired, &self.observed, self.now().boot);
        assert_eq!(all[0].1.phase, Phase::Waiting);
        all[0].1.reason.clone()
    }
}

#[test]
fn a_whole_year_has_a_run_each_day_in_three_zones_and_kills_in_between_change_nothing() {
    for zone in ZONES {
        let mut world = World::new(zone, "2027-01-01T00:00:00", "[schedule]\ncalendar = \"02:15\"\n");
        for hours in 0..365 * 24 {
            world.pass(HOUR);
            if hours % 5 == 0 {
                world.next_supervisor();
            }
        }
        let runs = world.local();
        assert_eq!(runs.len(), 365, "{zone}: {runs:?}");
        let days: std::collections::BTreeSet<&str> = runs.iter().map(|run| &run[..5]).collect();
        assert_eq!(days.len(), 365, "{zone}");
        assert_eq!(world.observed.unit(&web()).unwrap().restarts, 0, "{zone}");
        let odd: Vec<&String> = runs.iter().filter(|run| !run.ends_with(" 02:15:00")).collect();
        let expected = match zone {
            zone if zone == ZONES[0] => "03-28 03:00:00",
            zone if zone == ZONES[1] => "03-14 03:00:00",
            _ => "10-03 02:30:00",
        };
        assert_eq!(odd, [expected], "{zone}");
    }
}

#[test]
fn nothing_runs_because_a_text_is_there() {
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", "[schedule]\ncalendar = \"02:00\"\n");
    world.pass(HOUR);
    world.put("process.env.A = \"b\"\n[schedule]\ncalendar = \"02:00\"\n");
    // 11:00 has been, and is none of it.
    world.put("[schedule]\ncalendar = \"11:00\"\n");
    world.pass(HOUR);
    assert_eq!(world.runs, [0; 0]);
    let Reason::Scheduled { next: Some((next, _)), last: None, .. } = world.reason() else { panic!() };
    assert_eq!(next.0, moment("2027-01-02T11:00:00", &world.zone));
    // Nor is 12:30, which has been since the schedule is there, …
    world.put("[schedule]\ncalendar = \"12:30\"\n");
    let Reason::Scheduled { next: Some((next, _)), .. } = world.reason() else { panic!() };
    assert_eq!((next.0, world.runs.len()), (moment("2027-01-02T12:30:00", &world.zone), 0));
    // … nor 13:30, if that is written while nobody is there.
    world.pass(HOUR);
    world.declare("[schedule]\ncalendar = \"13:30\"\n");
    world.next_supervisor();
    world.pass(HOUR);
    assert_eq!(world.runs, [0; 0]);
    // Without a schedule it is a service; with one again it counts from then on.
    world.put("");
    assert_eq!(world.runs.len(), 1);
}

#[test]
fn a_run_by_hand_takes_no_turn_away() {
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", "[schedule]\ncalendar = \"13:00\"\n");
    world.record(Fact::ClientStart { unit: web() });
    world.pass(2 * HOUR);
    assert_eq!(world.local(), ["01-01 12:00:00", "01-01 13:00:00"]);
    let Reason::Scheduled { last: Some((at, outcome)), .. } = world.reason() else { panic!() };
    assert!(outcome.is_success() && at.0 == moment("2027-01-01T13:00:01", &world.zone));
}

#[test]
fn what_comes_while_a_run_goes_on_is_left_out_and_told_once() {
    let mut world = World::new("UTC0", "2027-01-01T11:59:00", "[schedule]\ncalendar = \"*:0/10\"\n");
    world.takes = 35 * 60_000;
    world.pass(2 * HOUR);
    assert_eq!(world.local(), ["01-01 12:00:00", "01-01 12:40:00", "01-01 13:20:00"]);
    assert_eq!(world.left_out, 3);
}

#[test]
fn however_much_was_missed_one_run_makes_up_for_it() {
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", "[schedule]\ncalendar = \"13:00\"\n");
    // Nobody plans for three days.
    (world.boot, world.wall) = (world.boot + 3 * DAY, world.wall + 3 * DAY);
    world.next_supervisor();
    world.pass(2 * HOUR);
    assert_eq!(world.local(), ["01-04 12:00:00", "01-04 13:00:00"]);
}

#[test]
fn what_comes_between_an_end_and_the_word_of_it_is_not_lost() {
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", "[schedule]\ncalendar = \"*:00\"\n");
    world.pass(HOUR);
    world.pass(1);
    let (id, at) = world.live.take().unwrap();
    // The supervisor is dead over 14:00, and the keeper knows when the run of 13:00 ended.
    (world.boot, world.wall) = (world.boot + HOUR + 60_000, world.wall + HOUR + 60_000);
    world.record(Fact::Exited { id: id.clone(), exit: Exit::Code(0), oom: false, at: BootTime(at * 1_000_000) });
    world.record(Fact::CgroupEmpty { id: id.clone() });
    world.record(Fact::Drained { id });
    world.next_supervisor();
    assert_eq!(world.local(), ["01-01 13:00:00", "01-01 14:01:00"]);
}

#[test]
fn steps_of_the_clock_are_followed_and_nothing_runs_twice() {
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", "[schedule]\ncalendar = \"13:00\"\n");
    let at = |world: &World, text: &str| moment(&format!("2027-01-{text}:00"), &world.zone);
    // Over it: at once. Back before it: not again that day.
    world.set(at(&world, "01T14:00"));
    assert_eq!(world.runs.len(), 1);
    world.set(at(&world, "01T12:30"));
    world.pass(12 * HOUR);
    assert_eq!(world.runs.len(), 1);
    world.pass(24 * HOUR);
    assert_eq!(world.local(), ["01-01 14:00:00", "01-02 13:00:00"]);
    // One that was wrong by years counts from where it is set right.
    let mut world = World::new("UTC0", "2037-01-01T12:00:00", "[schedule]\ncalendar = \"13:00\"\n");
    world.set(at(&world, "05T12:00"));
    world.pass(2 * HOUR);
    assert_eq!(world.local(), ["01-05 13:00:00"]);
}

#[test]
fn a_look_at_the_clock_that_is_told_late_takes_nothing_back() {
    let mut world = World::new("UTC0", "2027-01-01T12:59:59", "[schedule]\ncalendar = \"13:00\"\n");
    let early = Clock { boot: world.now().boot, wall: WallTime(world.wall - 700), is_set: true };
    world.pass(100);
    world.set(world.wall);
    world.record(Fact::Clock(early));
    world.pass(901);
    assert_eq!(world.local(), ["01-01 13:00:00"]);
}

#[test]
fn a_clock_that_nobody_set_starts_nothing() {
    let mut world = World::new("UTC0", "1970-01-01T00:00:00", "[schedule]\ncalendar = \"*:0/10\"\n");
    world.pass(2 * HOUR);
    world.set(moment("2027-01-01T12:05:00", &world.zone.clone()));
    assert_eq!(world.runs, [0; 0], "nor does it make up for 57 years");
    world.look(false);
    world.pass(HOUR);
    assert_eq!(world.runs, [0; 0]);
    world.look(true);
    world.pass(HOUR);
    assert!(!world.runs.is_empty());
}

#[test]
fn a_run_that_takes_too_long_is_stopped_and_has_failed() {
    let text = "[schedule]\ncalendar = \"13:00\"\nmax_runtime = \"10m\"\n";
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", text);
    world.takes = DAY;
    world.pass(2 * HOUR);
    let Reason::Scheduled { last: Some((at, outcome)), .. } = world.reason() else { panic!() };
    assert_eq!(at.0, moment("2027-01-01T13:10:00", &world.zone));
    assert!(!outcome.is_success() && outcome.to_string().contains("max_runtime"), "{outcome}");
}

#[test]
fn a_run_that_takes_too_long_is_stopped_though_it_could_not_be_started_again() {
    let text = "[schedule]\ncalendar = \"13:00\"\nmax_runtime = \"10m\"\n";
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", text);
    world.takes = DAY;
    world.pass(HOUR + 60_000);
    // Each waits for the other.
    world.declare_unit(&UnitName::new("db").unwrap(), "depends_on.web = \"started\"\n");
    world.put(&format!("depends_on.db = \"started\"\n{text}"));
    assert!(world.live.is_some());
    world.pass(HOUR);
    assert_eq!((world.live, world.runs.len()), (None, 1));
}

#[test]
fn a_run_that_goes_on_because_the_next_text_waits_is_stopped_by_the_limit_of_its_own() {
    let text = |limit: &str| format!("[schedule]\ncalendar = \"13:00\"\nmax_runtime = \"{limit}\"\n");
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", &text("10m"));
    world.takes = DAY;
    world.pass(HOUR + 60_000);
    // The limit is another one, then so is the rest, which needs what is not there; and then who knew the first text is gone.
    world.put(&text("20m"));
    world.put(&format!("process.env.A = \"b\"\ndepends_on.db = \"started\"\n{}", text("1h")));
    world.next_supervisor();
    world.pass(18 * 60_000);
    assert!(world.live.is_some(), "13:19");
    world.pass(2 * 60_000);
    assert_eq!((world.live, world.runs.len()), (None, 1));
}

#[test]
fn a_failure_is_tried_again_as_its_policy_says_and_then_waits_for_its_time() {
    let restart =
        "[restart]\npolicy = \"on-failure\"\nlimit = { burst = 3, interval = \"1h\" }\non_limit = \"reboot\"\n";
    let text = format!("{restart}[schedule]\ncalendar = \"13:00\"\n");
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", &text);
    world.exit = Exit::Code(3);
    world.pass(2 * HOUR);
    assert_eq!((world.runs.len(), world.reboots), (3, 1), "{:?}", world.local());
    let text = "[schedule]\ncalendar = \"13:00\"\n";
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", text);
    world.exit = Exit::Code(3);
    world.pass(2 * HOUR);
    assert_eq!(world.runs.len(), 1);
    world.pass(DAY);
    assert_eq!(world.runs.len(), 2);
}

#[test]
fn a_run_that_an_edit_cuts_off_is_begun_again() {
    let text = |tag: &str| format!("process.env.A = \"{tag}\"\n[schedule]\ncalendar = \"13:00\"\n");
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", &text("a"));
    world.takes = HOUR;
    world.pass(HOUR + 60_000);
    world.put(&text("b"));
    world.pass(3 * HOUR);
    assert_eq!(world.local(), ["01-01 13:00:00", "01-01 13:01:00"]);
}

#[test]
fn a_start_that_was_never_made_is_made_by_the_next_supervisor() {
    let mut world = World::new("UTC0", "2027-01-01T12:00:00", "[schedule]\ncalendar = \"13:00\"\n");
    (world.boot, world.wall) = (world.boot + HOUR, world.wall + HOUR);
    let plan = world.planner.plan(&world.desired, &world.observed, world.now().boot);
    let [action @ Action::Start { id, .. }] = plan.actions.as_slice() else { panic!("{plan:?}") };
    // It is on record, and then everything is killed.
    assert!(world.observed.begin(action, world.now()));
    let id = id.clone();
    world.next_supervisor();
    world.record(Fact::NeverStarted { id: id.clone() });
    world.record(Fact::CgroupEmpty { id: id.clone() });
    world.record(Fact::Drained { id });
    world.pass(2 * HOUR);
    assert_eq!(world.local(), ["01-01 13:00:00"]);
}

#[test]
fn one_that_is_gone_while_a_run_goes_on_counts_from_when_it_is_back() {
    let text = "[schedule]\ncalendar = \"*:0/10\"\n[stop]\ntimeout = \"2h\"\n";
    let mut world = World::new("UTC0", "2027-01-01T11:59:00", text);
    world.takes = 3 * HOUR;
    world.pass(5 * 60_000);
    let (id, _) = world.live.take().unwrap();
    // Its file is gone, and back before its run has ended: that is stopped, and takes its time.
    world.desired = Desired::default();
    world.planner.changed(&web());
    world.pass(25 * 60_000);
    world.put(text);
    let at = world.now().boot;
    world.record(Fact::Exited { id: id.clone(), exit: Exit::Signal(15), oom: false, at });
    world.record(Fact::CgroupEmpty { id: id.clone() });
    world.record(Fact::Drained { id });
    world.pass(30_000);
    assert_eq!(world.local(), ["01-01 12:00:00"], "nothing starts because a file is back");
    world.pass(60_000);
    assert_eq!(world.local(), ["01-01 12:00:00", "01-01 12:30:00"]);
}

//! Seeded histories with faults: the real `reconcile`, `record` and `begin` against a fake host and a fake clock.
//!
//! One history is some units, a few pools of texts for them, and 200 events: edits, removals, texts that are not valid,
//! programs that end in every way, clients' commands, the supervisor crashing between any two of its steps, the keeper
//! lost with its records, facts late and twice, actions that fail, changes that the watch misses, a host that sleeps, a
//! wall clock that jumps. Then the faults end, the world comes to rest, and what runs must be what
//! should run; a crash and a shutdown later every generation must have its one exit record. The oracle judges each
//! effect as it reaches the host.
//!
//! `MOORED_HISTORIES=1000000` runs more, `MOORED_SEED=n` shows one. A failure prints its seed and its history.

mod answers;
mod handover;
mod host;
mod oracle;
mod order;
mod rehearsal;
pub mod rng;
mod sample;
mod sockets;
mod supervisor;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use moored::plan::{BootTime, Fact, Hold, Phase, Reason, Until, WallTime, Want, status};
use moored::unit::{Need, Signal, SwapMark, UnitName};

use host::{Host, millis};
use oracle::Oracle;
use rng::Rng;
use supervisor::{Disk, Outside, Stop, Supervisor};

/// A fault that is planted in the fakes around the core, to see that the checks bite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// The cgroup of the old generation is said to be empty without looking.
    StartBesideOld,
    /// What the backoff counts is not read back after a crash.
    BackoffForgotten,
    /// The last good texts are not read back after a crash.
    LastGoodLost,
    /// `depends_on` is not read.
    DependenciesForgotten,
    /// The planner is not told which texts are others.
    EditsUntold,
    /// The contents of files that a container has, and the wish to reload it, are not read back after a crash.
    ContentsForgotten,
    /// Which sockets are open is neither read back nor told after a crash.
    SocketsForgotten,
    /// Of two containers of a unit the one that comes is taken for the one that runs, after a crash.
    RolesSwapped,
}

const EVENTS: usize = 200;
const UNITS: [&str; 4] = ["alpha", "bravo", "charlie", "delta"];
/// Edits go back and forth between so many texts of one unit.
const TEXTS: u8 = 3;
/// A world that has no faults comes to rest within so many steps of the clock.
const STEPS_TO_REST: usize = 2000;

struct History {
    rng: Rng,
    now: BootTime,
    names: Vec<UnitName>,
    texts: BTreeMap<UnitName, Vec<Want>>,
    /// `None` is a text that is not valid.
    files: BTreeMap<UnitName, Option<Want>>,
    host: Host,
    disk: Disk,
    oracle: Oracle,
    supervisor: Option<Supervisor>,
    trace: Option<Vec<String>>,
    bug: Bug,
    /// The disk that some units wait for.
    mounted: bool,
}

/// Splits the borrow: the supervisor, and all that it may touch.
macro_rules! outside {
    ($history:expr) => {
        Outside {
            rng: &mut $history.rng,
            now: $history.now,
            host: &mut $history.host,
            disk: &mut $history.disk,
            oracle: &mut $history.oracle,
            trace: &mut $history.trace,
            bug: $history.bug,
            mounted: $history.mounted,
        }
    };
}

impl History {
    fn new(seed: u64, bug: Bug, traced: bool) -> History {
        let mut rng = Rng::new(seed);
        let names: Vec<UnitName> = UNITS.iter().map(|name| UnitName::new(name).expect("a name")).collect();
        // Of its own, so that what files a text has changes nothing else of a history.
        let mut files_rng = Rng::new(seed ^ 0x5eed);
        let mut order_rng = Rng::new(seed ^ 0x0bde);
        let mut sockets_rng = Rng::new(seed ^ 0x50c7);
        let mut texts = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            let number = |version| (index as u8) * 16 + version + 1;
            let mut pool: Vec<Want> = Vec::new();
            for version in 0..TEXTS {
                let fresh = sample::random(&mut rng, name, number(version), &names);
                let fresh = sockets::with_sockets(&mut sockets_rng, fresh);
                let text = sample::with_files(&mut files_rng, fresh, pool.last());
                pool.push(sample::with_order(&mut order_rng, text));
            }
            texts.insert(name.clone(), pool);
        }
        let host = Host {
            containers: BTreeMap::new(),
            sockets: BTreeSet::new(),
            sockets_rng,
            keeper_since: BootTime(1),
            calm: false,
            sick: Vec::new(),
            ready: Vec::new(),
        };
        let (files, disk, oracle) = (BTreeMap::new(), Disk::default(), Oracle::default());
        let (trace, now) = (traced.then(Vec::new), BootTime(1_000_000_000));
        History { rng, now, names, texts, files, host, disk, oracle, supervisor: None, trace, bug, mounted: false }
    }

    /// All of it, or what went wrong.
    fn run(&mut self) -> Result<(), String> {
        for _ in 0..EVENTS {
            self.event()?;
        }
        self.say("the faults end");
        self.host.calm_down();
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.probe_all(&mut outside!(self));
        }
        self.mount(true);
        self.rest()?;
        self.check_converged()?;
        self.check_sockets()?;
        let before = self.running();
        self.say("one more crash");
        self.crash();
        self.rest()?;
        if self.running() != before {
            return Err(format!("12: a crash changed what runs: {before:?} to {:?}", self.running()));
        }
        self.check_contents()?;
        self.check_sockets()?;
        self.say("shutdown");
        self.oracle.shutdown = true;
        self.crash();
        self.rest()?;
        self.check_closed()?;
        match self.host.containers.keys().next() {
            Some(left) => Err(format!("14: {left} outlives the shutdown")),
            None => self.oracle.on_end_of_time(),
        }
    }

    fn event(&mut self) -> Result<(), String> {
        let unit = self.rng.pick(&self.names).clone();
        match self.rng.below(100) {
            0..35 => {
                let wait = *self.rng.pick(&[1, 10, 100, 1000, 1000, 5000]);
                let wait = self.rng.below(wait) + 1;
                return self.advance(self.now.after(millis(wait)));
            }
            35..50 => self.edit(unit),
            50..54 => self.change_file("is not valid", unit, Some(None)),
            54..58 => self.change_file("is removed", unit, None),
            58..68 => {
                self.say(&format!("{unit} ends by itself"));
                self.host.crash(&mut self.rng, &unit, self.now);
            }
            68..80 => self.client(unit),
            80..88 => self.arm_fuse(),
            88..92 => self.crash(),
            92..95 => self.lose_keeper(),
            95..97 => {
                self.say("the host sleeps");
                self.now = self.now.after(millis(self.rng.below(100_000)));
            }
            97..99 => {
                let mounted = self.rng.chance(60);
                self.mount(mounted);
            }
            _ => {}
        }
        if self.rng.chance(40) {
            self.start_supervisor();
        }
        self.advance(self.now)
    }

    fn mount(&mut self, mounted: bool) {
        self.say(if mounted { "the disk is mounted" } else { "the disk is unmounted" });
        self.mounted = mounted;
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.found_disk(&mut outside!(self));
        }
    }

    fn edit(&mut self, unit: UnitName) {
        let text = self.rng.pick(&self.texts[&unit]).clone();
        self.change_file("is edited", unit, Some(Some(text)));
    }

    fn change_file(&mut self, what: &str, unit: UnitName, text: Option<Option<Want>>) {
        let print = text.as_ref().and_then(|text| text.as_ref()).map(|want| want.fingerprint.0[0]);
        self.say(&format!("{unit}.toml {what} {print:?}"));
        match text {
            Some(text) => drop(self.files.insert(unit, text)),
            None => drop(self.files.remove(&unit)),
        }
        if self.rng.chance(10) {
            return self.say("and the watch misses it");
        }
        self.read_files();
    }

    fn read_files(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.read_files(&mut outside!(self), &self.files);
        }
    }

    fn client(&mut self, unit: UnitName) {
        let Some(supervisor) = &mut self.supervisor else { return };
        if !self.disk.good.contains_key(&unit) {
            return;
        }
        let live = supervisor.observed.unit(&unit).and_then(|seen| seen.live.as_ref());
        let up = live.is_some_and(|live| live.is_up());
        let fact = match self.rng.below(5) {
            0 => {
                self.oracle.client_start(&unit, up);
                Fact::ClientStart { unit: unit.clone() }
            }
            1 => {
                self.oracle.client_restart(&unit);
                Fact::ClientRestart { unit: unit.clone() }
            }
            2 => Fact::ClientReload { unit: unit.clone() },
            3 => Fact::ClientKill { unit: unit.clone(), signal: Signal(10) },
            _ => {
                let hold = random_hold(&mut self.rng, self.now);
                let until = hold.until.map_or(BootTime(u64::MAX), |until| until.boot);
                self.oracle.client_stop(&unit, until);
                Fact::ClientStop { unit: unit.clone(), hold }
            }
        };
        let mut out = outside!(self);
        out.say(|| format!("client: {fact}"));
        supervisor.client(&mut out, &unit, fact);
    }

    fn arm_fuse(&mut self) {
        let steps = self.rng.below(12) as u32;
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.fuse = Some(steps);
        }
    }

    fn crash(&mut self) {
        self.say("the supervisor crashes");
        self.supervisor = None;
    }

    fn lose_keeper(&mut self) {
        self.say("the keeper dies with its records, and the supervisor with it");
        self.host.lose_keeper(self.now);
        self.supervisor = None;
    }

    fn start_supervisor(&mut self) {
        if self.supervisor.is_none() {
            self.say("the supervisor starts");
            self.supervisor = Some(Supervisor::start(&mut outside!(self), &self.files));
        }
    }

    /// Lets the time pass up to `until`, with all that happens on the way.
    fn advance(&mut self, until: BootTime) -> Result<(), String> {
        loop {
            self.settle()?;
            match self.next_at() {
                Some(at) if at <= until => self.now = at.max(self.now),
                Some(_) | None => break,
            }
        }
        self.now = until;
        self.settle()
    }

    /// Everything that is due at this moment.
    fn settle(&mut self) -> Result<(), String> {
        let news = self.host.advance(&mut self.rng, self.now);
        self.oracle.ended(&self.host);
        self.oracle.sick.extend(self.host.sick.drain(..));
        self.oracle.well.extend(self.host.ready.drain(..).map(|id| id.unit));
        let Some(supervisor) = &mut self.supervisor else { return Ok(()) };
        let mut out = outside!(self);
        news.into_iter().for_each(|fact| supervisor.post(&mut out, fact));
        match supervisor.run(&mut out) {
            Ok(()) => Ok(()),
            Err(Stop::Wrong(words)) => Err(words),
            Err(Stop::Crashed) => {
                self.crash();
                Ok(())
            }
        }
    }

    fn next_at(&self) -> Option<BootTime> {
        let supervisor = self.supervisor.as_ref().and_then(Supervisor::next_at);
        self.host.next_at(self.now).into_iter().chain(supervisor).min()
    }

    /// Lets the time pass until nothing is to come.
    fn rest(&mut self) -> Result<(), String> {
        self.start_supervisor();
        self.read_files();
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.fuse = None;
        }
        for _ in 0..STEPS_TO_REST {
            self.settle()?;
            match self.next_at() {
                Some(at) => self.now = at.max(self.now),
                None => return Ok(()),
            }
        }
        Err("13: the world does not come to rest".into())
    }

    fn running(&self) -> Vec<String> {
        let alive = self.host.containers.keys().filter(|id| self.host.is_alive(id));
        alive.map(|id| id.to_string()).collect()
    }

    /// Invariant 13: what runs is what should run.
    fn check_converged(&self) -> Result<(), String> {
        let Some(supervisor) = &self.supervisor else { return Ok(()) };
        for unit in &self.names {
            self.check_alone(unit)?;
            let should = self.oracle.should_run(unit, self.now);
            let words = status(supervisor.desired(), &supervisor.observed, unit, self.now);
            let alive = self.host.of(unit).find(|(id, _)| self.host.is_alive(id));
            match (should, alive, words.phase) {
                (Ok(want), Some((_, found)), Phase::Running | Phase::Ready)
                    if want.fingerprint == found.want.fingerprint => {}
                // A ring: what runs is left alone, nothing new starts. Or it waits, and what for does not come.
                (Ok(want), _, Phase::Waiting | Phase::Failed | Phase::Running | Phase::Ready)
                    if want.unit.network.is_some() => {}
                (Ok(want), None, Phase::Waiting) if self.waits_rightly(&want, &words.reason) => {}
                (Ok(want), Some(_), Phase::Running | Phase::Ready) if self.keeps_rightly(&want, &words.reason) => {}
                (_, Some((id, _)), Phase::Running | Phase::Ready) if self.outlives_rightly(id, &words.reason) => {}
                (Ok(want), _, Phase::Failed | Phase::Running | Phase::Ready) if self.oracle.is_in_ring(&want) => {}
                (Err(_), None, Phase::Stopped | Phase::Completed | Phase::Failed) => {}
                (Err(why), Some(_), _) if why.contains("gave up") => {}
                (Err(_), None, Phase::Waiting) => {}
                (should, alive, phase) => {
                    let (alive, should) = (alive.map(|(id, _)| id.to_string()), should.map(|want| want.fingerprint));
                    return Err(format!("13: {unit} should be {should:?}, is {alive:?}, {phase:?} {:?}", words.reason));
                }
            }
        }
        Ok(())
    }

    /// Whether it runs on with its old text because the new one could not start.
    fn keeps_rightly(&self, want: &Want, reason: &Reason) -> bool {
        matches!(reason, Reason::ChangeWaits(what) if self.waits_rightly(want, what))
    }

    /// What runs has the contents that its text has, and was told of them. A swap that failed is tried again by the next supervisor.
    fn check_contents(&self) -> Result<(), String> {
        for (id, container) in self.host.containers.iter().filter(|(id, _)| self.host.is_alive(id)) {
            let want = self.oracle.should_run(&id.unit, self.now);
            let same = |want: &Want| want.fingerprint == container.want.fingerprint;
            let Some(want) = want.ok().filter(same) else { continue };
            let should = SwapMark::of(&want.unit).unwrap_or_default();
            if container.contents != should {
                return Err(format!("contents: {id} has other contents than its text"));
            }
            if container.told != should.reload {
                return Err(format!("contents: {id} was not told of what it has"));
            }
        }
        Ok(())
    }

    /// Whether none of what it says it waits for is there.
    fn waits_rightly(&self, want: &Want, reason: &Reason) -> bool {
        let Reason::Needs { lacking, .. } = reason else { return false };
        let runs = |unit| self.host.of(unit).any(|(id, _)| self.host.is_alive(id));
        lacking.iter().all(|lack| {
            want.unit.depends_on.contains_key(&lack.unit) && (lack.need != Need::Started || !runs(&lack.unit))
        })
    }

    fn say(&mut self, words: &str) {
        let mut out = outside!(self);
        out.say(|| words.to_owned());
    }
}

fn random_hold(rng: &mut Rng, now: BootTime) -> Hold {
    let until = rng.chance(60).then(|| Until { boot: now.after(millis(rng.below(20_000))), wall: WallTime(0) });
    Hold { by: "root".into(), reason: None, since: WallTime(0), until }
}

/// The first seed below `end` whose history goes wrong, and how; sought on every CPU.
fn first_failure(end: u64, bug: Bug) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None::<(u64, String)>));
    let seek = || {
        let mut seeds = std::iter::repeat_with(|| next.fetch_add(1, Relaxed)).take_while(|seed| *seed < end);
        let Some(failure) =
            seeds.find_map(|seed| History::new(seed, bug, false).run().err().map(|words| (seed, words)))
        else {
            return;
        };
        // The others end the history that they are at, which may be an earlier one.
        next.store(end, Relaxed);
        let mut found = found.lock().expect("no other thread panics");
        *found = found.take().into_iter().chain([failure]).min();
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(seek))));
    found.into_inner().expect("no thread panics")
}

/// The history of `seed` in readable lines.
fn retell(seed: u64, bug: Bug) -> String {
    let mut history = History::new(seed, bug, true);
    let end = history.run();
    let lines = history.trace.unwrap_or_default();
    format!("{}\nseed {seed}: {end:?}", lines.join("\n"))
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn ten_thousand_histories_break_no_invariant() {
    if let Some(seed) = number_from("MOORED_SEED") {
        println!("{}", retell(seed, Bug::None));
        return;
    }
    let histories = number_from("MOORED_HISTORIES").unwrap_or(10_000);
    if let Some((seed, words)) = first_failure(histories, Bug::None) {
        panic!("{}\n{words}\nagain with MOORED_SEED={seed}", retell(seed, Bug::None));
    }
}

/// A planted bug shows within so many histories.
const BITES_WITHIN: u64 = 200;

/// The planted bug is caught, by one of the invariants that it breaks.
fn assert_caught(bug: Bug, invariants: &[&str]) {
    let (seed, words) = first_failure(BITES_WITHIN, bug).expect("a planted bug is caught");
    println!("{bug:?} is caught at seed {seed}: {words}");
    assert!(
        invariants.iter().any(|invariant| words.starts_with(invariant)),
        "{bug:?} is caught by another check: {words}"
    );
}

#[test]
fn a_start_beside_the_old_cgroup_is_caught() {
    assert_caught(Bug::StartBesideOld, &["1:"]);
}

#[test]
fn a_backoff_forgotten_in_a_crash_is_caught() {
    // A start too soon, or in the end one of a unit that had given up.
    assert_caught(Bug::BackoffForgotten, &["5:", "12:"]);
}

#[test]
fn a_last_good_text_lost_in_a_crash_is_caught() {
    assert_caught(Bug::LastGoodLost, &["4/12:"]);
}

#[test]
fn a_text_that_the_planner_is_not_told_of_is_caught() {
    assert_caught(Bug::EditsUntold, &["planner:"]);
}

#[test]
fn roles_swapped_in_a_crash_are_caught() {
    assert_caught(Bug::RolesSwapped, &["start-first:"]);
}

#[test]
fn contents_forgotten_in_a_crash_are_caught() {
    assert_caught(Bug::ContentsForgotten, &["contents:"]);
}

#[test]
fn dependencies_that_are_not_read_are_caught() {
    assert_caught(Bug::DependenciesForgotten, &["order:", "ring:"]);
}

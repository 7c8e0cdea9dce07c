//! Random kills under load: fifty containers that print numbered lines, end each with another code, and are started again.
//!
//! In each epoch the supervisor dies again and again, at random moments, and once the keeper (the anchor takes its place) or the anchor (the
//! keeper goes on without). Not both: then nobody is left whom the kernel would tell. An epoch ends with an ordered stop, since neither is
//! there a second time.
//!
//! The containers are the witnesses: what run it is, and how often they were told to stop, is on disk before they print or end.
//! `MOORED_KILLS` says how many kills there are, `MOORED_SEED` makes them the same ones again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moored::control::Client;
use moored::keeper::{self, Stats};
use rustix::process::Signal;

use super::super::support::wait_for;
use super::{World, generation, name, signal, world};

const UNITS: usize = 50;
/// Kills without the environment saying so.
const KILLS: usize = 24;
/// Kills of one epoch.
const EPOCH: usize = 24;
/// Epochs between two looks at what was recorded.
const LOOK: usize = 4;
/// The longest pause before a kill.
const PAUSE_MAX_MS: u64 = 600;
/// What one run prints, half of it just before it ends.
const LINES: usize = 20;
/// Codes of the runs go round.
const CODES: usize = 200;
/// The code of a run that was told to stop.
const STOPPED: usize = 250;

fn script(n: usize) -> String {
    format!(
        "trap 'exit {STOPPED}' TERM; i=$(cat /data/{n} 2>/dev/null | wc -l); echo $i >> /data/{n}
print() {{ while [ $k -lt $1 ]; do echo run $i line $k; k=$((k + 1)); done; }}
k=0; print {half}; sleep 1.{tenths} & wait; print {LINES}; exit $((i % {CODES} + 1))",
        half = LINES / 2,
        tenths = n % 10,
    )
}

#[derive(Debug, Default)]
struct Killed {
    supervisor: usize,
    keeper: usize,
    anchor: usize,
}

#[test]
fn no_code_and_no_line_is_lost_whoever_is_killed_at_random_under_load() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number("MOORED_KILLS").map_or(KILLS, |kills| kills as usize);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("MOORED_SEED").unwrap_or_else(clock) | 1;
    println!("MOORED_SEED={seed} MOORED_KILLS={kills}");
    let Some(mut world) = world("random", &[]) else { return };
    world.units(UNITS, script, "[restart]\ndelay = \"200ms\"\nmax_delay = \"200ms\"\n[log]\nmax_files = 100\n");
    let run_dir = world.moored.dir.join("run");
    let mut random = seed;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    wait_for("all to run once", || (0..UNITS).all(|n| !world.lines(&n.to_string()).is_empty()).then_some(()));
    let (mut killed, mut left, mut epochs) = (Killed::default(), kills, 0);
    while left > 0 {
        let here = left.min(EPOCH);
        let (once, is_keeper) = (next(here as u64) as usize, next(2) == 0);
        for at in 0..here {
            // One in four dies on its way up.
            if next(4) > 0 {
                wait_for("a supervisor that answers", || Client::connect_once(&run_dir).ok());
            }
            std::thread::sleep(Duration::from_millis(next(PAUSE_MAX_MS)));
            let stats = with_supervisor(&world, |_| true);
            let victim = match (at == once, is_keeper) {
                (false, _) => stats.supervisor,
                (true, true) => Some(stats.keeper),
                (true, false) => stats.anchor,
            };
            signal(victim.unwrap(), Signal::KILL);
            let count = match (at == once, is_keeper) {
                (false, _) => &mut killed.supervisor,
                (true, true) => &mut killed.keeper,
                (true, false) => &mut killed.anchor,
            };
            *count += 1;
            with_supervisor(&world, |now| match (at == once, is_keeper) {
                (false, _) => now.supervisor != stats.supervisor,
                (true, true) => now.keeper != stats.keeper,
                (true, false) => now.anchor != stats.anchor,
            });
        }
        left -= here;
        epochs += 1;
        if killed.anchor > 0 && !super::is_alive(world.moored.anchor_pid()) {
            // Another one takes control, so that there is somebody to be told to stop.
            world.moored.up();
        }
        assert_eq!(world.moored.stop().code(), Some(0), "{}", world.moored.output());
        assert!(world.cgroups().is_empty(), "{:?}", world.cgroups());
        // Of all epochs so far: a long run that is broken off has shown something too.
        if left == 0 || epochs % LOOK == 0 {
            let (runs, lines) = check(&world, epochs);
            println!("{killed:?} in {epochs} epochs: {runs} exits once and right, {lines} lines complete");
        }
        if left > 0 {
            world.moored.up();
        }
    }
}

/// As the keeper says, once a supervisor lives that is as wanted.
fn with_supervisor(world: &World, is_wanted: impl Fn(&Stats) -> bool) -> Stats {
    let run_dir = world.moored.dir.join("run");
    wait_for("the next of those that were killed", || {
        keeper::observe(&run_dir).ok().filter(|stats| stats.supervisor.is_some() && is_wanted(stats))
    })
}

/// Compares what the containers know with what was recorded; returns how many runs and lines there were.
fn check(world: &World, epochs: usize) -> (usize, usize) {
    world.check_records();
    let mut codes: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
    for (id, said) in world.said("exited:") {
        let unit = id.split('.').next().unwrap().to_owned();
        codes.entry(unit).or_default().insert(generation(&id), said.first().unwrap().clone());
    }
    let (mut all_runs, mut all_lines) = (0, 0);
    for n in 0..UNITS {
        let unit = name(n);
        let runs = world.lines(&n.to_string());
        assert!(runs.iter().map(|run| run.parse::<usize>().unwrap()).eq(0..runs.len()), "{unit}: one run at a time");
        let stopped = format!("exited: code {STOPPED}");
        // One that was told to stop before it could hear that was killed, and has printed nothing.
        let killed = |said: &&String| *said == "exited: signal SIGKILL";
        let said: Vec<&String> = codes.get(&unit).map_or_else(Vec::new, |codes| codes.values().collect());
        assert!(said.iter().filter(|said| killed(said) || ***said == stopped).count() <= epochs, "{unit}: {said:?}");
        let said: Vec<&String> = said.into_iter().filter(|said| !killed(said)).collect();
        assert_eq!(said.len(), runs.len(), "{unit}: as many exits as runs\n{said:?}");
        let log = world.moored.log(&unit);
        let mut lines = log.lines().peekable();
        for (run, said) in said.iter().enumerate() {
            let is_whole = **said == format!("exited: code {}", run % CODES + 1);
            assert!(is_whole || **said == stopped, "{unit}: run {run} {said}");
            let mut printed = 0;
            while printed < LINES && lines.next_if(|line| **line == format!("run {run} line {printed}")).is_some() {
                printed += 1;
            }
            assert!(
                !is_whole || printed == LINES,
                "{unit}: {printed} of {LINES} lines of run {run}, then {:?}",
                lines.peek()
            );
            all_lines += printed;
        }
        assert_eq!(lines.next(), None, "{unit}: a line that was not printed");
        all_runs += runs.len();
    }
    (all_runs, all_lines)
}

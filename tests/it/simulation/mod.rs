//! Seeded histories with faults: the real `reconcile`, `record` and `begin` against a fake host and fake clocks.
//!
//! One history is some units, a few pools of texts for them, and 200 steps: edits, removals, texts that are not valid, programs that end in every way,
//! clients' commands, the supervisor crashing between any two of its steps or replaced in place, the keeper lost with its records, the anchor lost too,
//! a host without power, facts late and twice, actions that fail, changes that the watch misses, records that cannot be written, a host that sleeps, a
//! wall clock that jumps, is lost with the power and set by somebody. The oracle judges each effect as it reaches the host.
//!
//! - A *safety* history then stops everything: every generation must have its one exit record, and nothing may be left.
//! - A *liveness* history comes to rest first: what runs must be what should run, within bounded time and a bounded number of starts, and stay so over
//!   a crash, an upgrade, a clock set to 1970 and a day in which nothing happens.
//!
//! `MOORED_HISTORIES=1000000` runs more, from seed `MOORED_FIRST` on, `MOORED_SEED=n` tells one. A failure is shrunk and told in words (`shrink`). Optimised, with all checks on:
//! `cargo test --profile simulation --test it -- simulation`.

mod answers;
mod checks;
mod effects;
mod handover;
mod history;
mod hooks;
mod host;
mod losses;
mod oracle;
mod order;
mod planted;
mod rehearsal;
pub mod rng;
mod sample;
mod schedules;
mod shrink;
mod sockets;
mod steps;
mod supervisor;
mod trial;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use history::History;
use planted::Bug;
use steps::{Course, Plot};

const UNITS: [&str; 4] = ["alpha", "bravo", "charlie", "delta"];
/// A world that has no faults comes to rest within so many steps of the clock.
const STEPS_TO_REST: u64 = 2000;
/// And so many for each run of a schedule in the meantime, which may let all others start that depend on it.
const STEPS_OF_RUN: u64 = 100;
/// And what should run does within this time. What could not be killed or cleared away is tried again after ten minutes at most, and what waits for
/// it starts then.
const LIVE_WITHIN: Duration = Duration::from_secs(700);
/// With so many starts for each unit.
const STARTS_TO_REST: u64 = 5;

/// The first of these seeds whose history goes wrong, and how; sought on every CPU.
fn first_failure(seeds: Range<u64>, course: Course, bug: Bug) -> Option<(u64, String)> {
    let Range { start, end } = seeds;
    let (next, found) = (AtomicU64::new(start), Mutex::new(None::<(u64, String)>));
    let fails = |seed| History::new(&Plot::new(seed, course, bug), false).run().err().map(|words| (seed, words));
    let seek = || {
        let mut seeds = std::iter::repeat_with(|| next.fetch_add(1, Relaxed)).take_while(|seed| *seed < end);
        let Some(failure) = seeds.find_map(fails) else { return };
        // The others end the history that they are at, which may be an earlier one.
        next.store(end, Relaxed);
        let mut found = found.lock().expect("no other thread panics");
        *found = found.take().into_iter().chain([failure]).min();
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(seek))));
    found.into_inner().expect("no thread panics")
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// So many histories, or one of them, in words.
fn run_all(course: Course, histories: u64) {
    if let Some(seed) = number_from("MOORED_SEED") {
        let mut history = History::new(&Plot::new(seed, course, Bug::None), true);
        let end = history.run();
        return println!("{}\nseed {seed}: {end:?}", history.trace.unwrap_or_default().join("\n"));
    }
    let first = number_from("MOORED_FIRST").unwrap_or(0);
    let seeds = first..first.saturating_add(number_from("MOORED_HISTORIES").unwrap_or(histories));
    if let Some((seed, words)) = first_failure(seeds.clone(), course, Bug::None) {
        panic!("{}", shrink::told(&Plot::new(seed, course, Bug::None), &words));
    }
    println!("{course:?}: the histories of the seeds {seeds:?} hold");
}

#[test]
fn safety_holds_at_each_step_of_thousands_of_histories() {
    run_all(Course::Safety, 3_000);
}

#[test]
fn liveness_what_should_run_does_once_the_faults_end() {
    run_all(Course::Liveness, 2_000);
}

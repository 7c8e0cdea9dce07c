//! A seeded fuzzer of edits: unit files are written, renamed, truncated, linked, swapped and masked under load (issue 3).
//!
//! Four workers own a few units each and do to their files what people and tools do ([`operations`]): plain files, links into other
//! directories, a `..data` set, instances of a template. After a storm of edits, or after a single one, comes a quiet moment: `moored sync`
//! returns, and then ([`model`]):
//! - each unit whose text on disk is valid has exactly this text in force, and its container was made from it;
//! - each unit whose text is not valid has its own last valid text in force. Where several edits came between two quiet moments, that is any
//!   valid text which was whole on disk, never one that a writer still had open;
//! - no unit whose texts all mean the same container has another one;
//! - what has no file, or is masked, does not run; and what nobody touched was not touched.
//!
//! Between storms the directory is away for a while, or a copy takes its place.
//!
//! `MOORED_FUZZ_SECONDS=600` runs it for longer, `MOORED_FUZZ_SEED=n` with another seed. A failure prints the seed and the last operations;
//! what each worker does follows from the seed, how the workers meet does not.

mod model;
mod operations;
mod texts;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use model::Model;
use operations::{Kind, Worker};
use rustix::fs::{CWD, RenameFlags};

use super::simulation::rng::Rng;
use super::support::wait_for;
use super::world::{FOREVER, Running, World};

/// In the suite; the acceptance run is ten minutes.
const SECONDS: u64 = 15;
/// Operations that a failure shows.
const SHOWN: usize = 120;
/// Longer than a removal settles (1 s).
const PAST_A_REMOVAL: Duration = Duration::from_millis(1300);

/// Where everything is.
struct Site {
    units: PathBuf,
    /// A later directory: for masks, and for files that win.
    above: PathBuf,
    /// What links lead to.
    store: PathBuf,
    root: PathBuf,
    /// Where the expected texts are written, to be compared with those in force.
    expected: PathBuf,
}

/// The last operations, for a failure to show.
struct Journal {
    began: Instant,
    lines: Mutex<VecDeque<String>>,
}

impl Journal {
    fn say(&self, who: &str, what: &str) {
        let Ok(mut lines) = self.lines.lock() else { return };
        if lines.len() == SHOWN {
            lines.pop_front();
        }
        lines.push_back(format!("{:9.3} {who:9} {what}", self.began.elapsed().as_secs_f64()));
    }
}

/// Shown when the test fails, wherever it does.
struct Story<'j> {
    seed: u64,
    journal: &'j Journal,
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(lines) = self.journal.lines.lock()
        {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            eprintln!("--- the last operations\n{}\n--- again with MOORED_FUZZ_SEED={}", lines.join("\n"), self.seed);
        }
    }
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn whatever_is_done_to_the_files_each_unit_runs_its_own_last_valid_text() {
    let Some(mut world) = World::prepare("edits-fuzz") else { return };
    let (seconds, seed) = (number_from("MOORED_FUZZ_SECONDS", SECONDS), number_from("MOORED_FUZZ_SEED", 1));
    let at = |name: &str| world.dir.join(name);
    let site = Site {
        units: world.units(),
        above: at("above"),
        store: at("store"),
        root: world.root.clone(),
        expected: at("expected"),
    };
    for dir in [&site.above, &site.expected, &site.store.join("x"), &site.store.join("y")] {
        fs::create_dir_all(dir).unwrap();
    }
    world.supervisor = world.supervisor.with(&["--units", site.above.to_str().unwrap()]);
    world.supervisor.up();
    world.script("chatty", "while :; do echo a line; usleep 2000; done", "");
    let still = vec![("still", world.service("still", "nobody touches it")), ("chatty", world.running("chatty"))];

    let journal = Journal { began: Instant::now(), lines: Mutex::default() };
    let _story = Story { seed, journal: &journal };
    let mut rng = Rng::new(seed);
    let model = Model::new(&site, Kind::ALL.iter().flat_map(|kind| kind.units().iter().copied()), still);
    let worker = |kind: &Kind| Worker::new(*kind, &site, &model, &journal, seed.wrapping_mul(31) + *kind as u64);
    let mut workers: Vec<Worker> = Kind::ALL.iter().map(worker).collect();
    workers.iter_mut().for_each(Worker::set_up);
    model.check(&world, &journal);

    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut quiet, mut edits) = (0u64, 0u64);
    while Instant::now() < end {
        edits += match rng.below(10) {
            0..4 => one_edit(&mut rng, &mut workers),
            4 if rng.chance(50) => directory_replaced(&mut rng, &site, &model, &journal),
            4 => directory_away(&mut rng, &site, &journal),
            _ => storm(&mut rng, &world, &mut workers),
        };
        // Otherwise the sync cuts short whatever settles: quiet times, absences.
        if rng.chance(15) {
            std::thread::sleep(PAST_A_REMOVAL);
        }
        model.check(&world, &journal);
        quiet += 1;
    }
    println!("seed {seed}: {edits} edits, {quiet} quiet moments, {} containers", model.containers());
}

fn one_edit(rng: &mut Rng, workers: &mut [Worker]) -> u64 {
    let at = rng.below(workers.len() as u64) as usize;
    workers[at].step();
    1
}

/// Not an empty one: nothing of it may go.
fn directory_away(rng: &mut Rng, site: &Site, journal: &Journal) -> u64 {
    let away = site.units.with_extension("away");
    let pause = Duration::from_millis(rng.below(1600));
    journal.say("-", &format!("the directory is away for {pause:?}"));
    fs::rename(&site.units, &away).unwrap();
    std::thread::sleep(pause);
    fs::rename(&away, &site.units).unwrap();
    1
}

/// A copy takes its place. While something of it is not valid, that would hold back all later edits of it.
fn directory_replaced(rng: &mut Rng, site: &Site, model: &Model, journal: &Journal) -> u64 {
    if model.is_any_invalid() {
        return 0;
    }
    let [copy, away] = ["copy", "away"].map(|name| site.units.with_extension(name));
    let copied = Command::new("cp").arg("-a").arg(&site.units).arg(&copy).status().unwrap();
    assert!(copied.success());
    let at_once = rng.chance(50);
    journal.say("-", &format!("a copy takes the directory's place{}", if at_once { " at once" } else { "" }));
    if at_once {
        rustix::fs::renameat_with(CWD, &copy, CWD, &site.units, RenameFlags::EXCHANGE).unwrap();
        fs::rename(&copy, &away).unwrap();
    } else {
        fs::rename(&site.units, &away).unwrap();
        std::thread::sleep(Duration::from_millis(rng.below(50)));
        fs::rename(&copy, &site.units).unwrap();
    }
    fs::remove_dir_all(away).unwrap();
    1
}

/// All workers at once, with clients that ask and a machine that has something else to do.
fn storm(rng: &mut Rng, world: &World, workers: &mut [Worker]) -> u64 {
    let steps = 1 + rng.below(8);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Relaxed) {
                world.moored(&["ps", "--json"]).stdout(Stdio::null()).status().unwrap();
                let moment = Instant::now();
                while moment.elapsed() < Duration::from_millis(15) {
                    std::hint::spin_loop();
                }
            }
        });
        let work = |worker: &mut Worker| (0..steps).for_each(|_| worker.step());
        let busy: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(move || work(worker))).collect();
        let ended: Vec<_> = busy.into_iter().map(|worker| worker.join()).collect();
        over.store(true, Relaxed);
        load.join().unwrap();
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    steps * workers.len() as u64
}

/// What the fuzzer relies on: the model sees a half text in force, and a container that was replaced for nothing.
#[test]
fn the_model_catches_what_it_should() {
    let Some(world) = World::start("edits-model") else { return };
    let site = Site {
        units: world.units(),
        above: world.dir.join("above"),
        store: world.dir.join("store"),
        root: world.root.clone(),
        expected: world.dir.join("expected"),
    };
    fs::create_dir(&site.expected).unwrap();
    let journal = Journal { began: Instant::now(), lines: Mutex::default() };
    let caught = |model: &Model| {
        let check = std::panic::AssertUnwindSafe(|| model.check(&world, &journal));
        let cause = std::panic::catch_unwind(check).expect_err("it was not caught");
        cause.downcast_ref::<String>().cloned().unwrap_or_default()
    };
    let text = |tag: &str, tables: &str| world.text("", &format!(": {tag}; {FOREVER}"), tables);
    world.unit("p0", &text("one", ""));
    let model = Model::new(&site, ["p0"], Vec::new());
    model.note(["p0"]);
    model.check(&world, &journal);

    // The container is another one although every text means the same.
    world.ok(&["restart", "p0"]);
    let said = caught(&model);
    assert!(said.contains("p0 has another container"), "{said}");
    model.check(&world, &journal);

    // A text was in force that the model knows nothing of, and is followed by one that is not valid.
    let first = world.running("p0");
    world.unit("p0", &text("one", "[stop]\ntimeout = \"9s\""));
    world.kept("p0", &first, "only the timeout changed");
    world.unit("p0", "no unit");
    model.note(["p0"]);
    let said = caught(&model);
    assert!(said.contains("p0 has a text in force that it never had"), "{said}");
    wait_for("the container", || (Running::of(&world.find("p0")?) == first).then_some(()));
}

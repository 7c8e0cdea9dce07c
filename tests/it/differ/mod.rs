//! Generated config.json files through moored, runc and crun: what their programs see of themselves, what their cgroups and hooks get, what is
//! refused, and what is left.
//!
//! Where runc and crun agree we must agree, also about refusing. Where they do not, `src/oci/differences.md` has what was chosen and why; a difference that is
//! not listed there fails the test. `MOORED_CASES=5000` runs more, from seed `MOORED_FIRST` on, `MOORED_SEED=n` shows one of them,
//! `MOORED_GENES="time,device"` plays only those that have one of these, `MOORED_USES=1` tells what each row of the table was used for. What fails is shrunk and printed as its config.json.

mod case;
mod choices;
mod compare;
mod genes;
mod genes_linux;
mod genes_mounts;
mod genes_rest;
mod place;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use case::Case;
use choices::Choice;
use compare::{Difference, Uses, differences};
use stage::{Seen, Stage};

use crate::oracle::{Runtime, runtimes};
use crate::support::is_root;

/// Some 15 s.
const CASES: u64 = 200;
/// Of a failure, and how many failures are shrunk.
const TRIES_MAX: usize = 60;
const TOLD_MAX: usize = 5;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn play(stage: &Stage, case: &Case, runtimes: &[Runtime]) -> [Seen; 3] {
    let [ours, runc, crun] = runtimes else { unreachable!("three of them") };
    [ours, runc, crun].map(|runtime| stage.play(case, runtime))
}

#[derive(Default)]
struct Found {
    /// By kind: how often, and the first case of it.
    kinds: BTreeMap<String, (u64, u64)>,
    choices: Uses,
    ran: u64,
}

#[test]
fn generated_configs_do_what_they_do_elsewhere() {
    let (Some(runtimes), true) = (runtimes(), is_root()) else { return };
    let look = Path::new(env!("CARGO_BIN_EXE_moored")).with_file_name("examples").join("look");
    if let Some(seed) = number_from("MOORED_SEED") {
        return show(seed, &look, &runtimes);
    }
    let choices = choices::read();
    let first = number_from("MOORED_FIRST").unwrap_or(0);
    let end = first + number_from("MOORED_CASES").unwrap_or(CASES);
    let (next, found) = (AtomicU64::new(first), Mutex::new(Found::default()));
    let genes: Vec<String> =
        std::env::var("MOORED_GENES").iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
    let work = || {
        let stage = Stage::new(&look);
        let mut used = BTreeMap::new();
        for seed in std::iter::repeat_with(|| next.fetch_add(1, Relaxed)).take_while(|seed| *seed < end) {
            let case = Case::new(seed);
            if !genes.is_empty() && !case.genes.iter().any(|gene| genes.iter().any(|wanted| wanted == gene.name)) {
                continue;
            }
            let seen = play(&stage, &case, &runtimes);
            let wrong = differences(&seen, &choices, &mut used);
            for (runtime, _) in runtimes.iter().zip(&seen).filter(|(_, seen)| seen.hangs) {
                println!("seed {seed}: {} hangs", runtime.name);
            }
            let mut found = found.lock().unwrap();
            found.ran += u64::from(seen[0].lines["outcome"] == "ran");
            for difference in wrong {
                found.kinds.entry(difference.kind()).or_insert((0, seed)).0 += 1;
            }
        }
        let mut found = found.lock().unwrap();
        for (choice, uses) in used {
            let of_all = found.choices.entry(choice).or_default();
            uses.into_iter().for_each(|(what, count)| *of_all.entry(what).or_default() += count);
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let found = found.into_inner().unwrap();
    println!("of {} configs {} ran", end - first, found.ran);
    for (choice, uses) in &found.choices {
        println!("{:6} times: {}", uses.values().sum::<u64>(), choices[*choice].why);
        if number_from("MOORED_USES").is_some() {
            uses.iter().for_each(|(what, count)| println!("         {count:6} {what}"));
        }
    }
    if !found.kinds.is_empty() {
        panic!("{}", told(&found, &look, &runtimes, &choices));
    }
}

fn told(found: &Found, look: &Path, runtimes: &[Runtime], choices: &[Choice]) -> String {
    let mut kinds: Vec<_> = found.kinds.iter().collect();
    kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let mut text: String =
        kinds.iter().map(|(kind, (count, seed))| format!("{count} times, first of seed {seed}: {kind}\n")).collect();
    if number_from("MOORED_SHRINK") == Some(0) {
        return text;
    }
    // A thread of its own: a stage changes the namespace of who makes it.
    let small = |seed: u64, kind: &str| {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let stage = Stage::new(look);
                    let has = |case: &Case| {
                        wrong(&stage, case, runtimes, choices).iter().any(|difference| difference.kind() == *kind)
                    };
                    let small = Case::new(seed).shrunk(TRIES_MAX, has);
                    let exec = small
                        .exec()
                        .map_or(String::new(), |process| format!("\nand an exec of {}", stage.text(&process)));
                    let genes: Vec<_> = small.genes.iter().map(|gene| format!("{gene:?}")).collect();
                    format!("{}\n{}{exec}", genes.join("\n"), stage.text(&small.config()))
                })
                .join()
                .unwrap()
        })
    };
    for (kind, (_, seed)) in kinds.iter().take(TOLD_MAX) {
        text += &format!(
            "\n{kind}\nMOORED_SEED={seed} cargo test --test it generated_configs -- --nocapture\n{}\n",
            small(*seed, kind)
        );
    }
    text
}

fn wrong(stage: &Stage, case: &Case, runtimes: &[Runtime], choices: &[Choice]) -> Vec<Difference> {
    differences(&play(stage, case, runtimes), choices, &mut BTreeMap::new())
}

/// One case, with all that was seen where it differs.
fn show(seed: u64, look: &Path, runtimes: &[Runtime]) {
    let case = Case::new(seed);
    let show = || {
        let stage = Stage::new(look);
        println!("{}", stage.text(&case.config()));
        case.genes.iter().for_each(|gene| println!("{gene:?}"));
        let seen = play(&stage, &case, runtimes);
        for (runtime, seen) in runtimes.iter().zip(&seen) {
            println!("{}: {} {:?}", runtime.name, seen.lines["outcome"], seen.left);
        }
        for wrong in differences(&seen, &choices::read(), &mut BTreeMap::new()) {
            println!(
                "{} {}\n    moored {}\n    runc   {}\n    crun   {}",
                wrong.what, wrong.key, wrong.values[0], wrong.values[1], wrong.values[2]
            );
        }
    };
    std::thread::scope(|scope| scope.spawn(show).join().unwrap());
}

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::{TARGETS, run};

/// For so long inputs are made up for a target in an ordinary run; `MOORED_FUZZ_SECONDS` says another number.
const SECONDS: u64 = 40;
/// What one changes of a seed at most.
const CHANGES_MAX: usize = 12;

/// `fuzz/seeds/TARGET/*`, in the order of their names.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Says which input it was: what panics says only where.
fn answered(target: &str, path: &Path, bytes: &[u8]) {
    let answer = std::panic::catch_unwind(|| run(target, bytes));
    assert!(answer.is_ok(), "{target}: {} is not answered", path.display());
}

#[test]
fn the_seeds_of_the_fuzzers_are_answered() {
    for (target, _) in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        seeds.iter().for_each(|(path, bytes)| answered(target, path, bytes));
    }
}

/// Cut short, and with each bit of a byte turned, at places all over it.
#[test]
fn damaged_seeds_are_answered() {
    const PLACES: usize = 24;
    for (target, _) in TARGETS {
        for (path, bytes) in seeds(target).iter().filter(|(_, bytes)| bytes.len() < 20_000) {
            for at in (0..bytes.len()).step_by((bytes.len() / PLACES).max(1)) {
                answered(target, path, &bytes[..at]);
                let mut turned = bytes.clone();
                turned[at] ^= 1 << (at % 8);
                answered(target, path, &turned);
            }
        }
    }
}

/// A seed, with pieces of it cut out, doubled, turned, of another seed, or of the dictionary, as its number has it.
fn made_up(number: u64, seeds: &[(PathBuf, Vec<u8>)], words: &[Vec<u8>]) -> Vec<u8> {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut below = |end: usize| (rng.next_u64() % end.max(1) as u64) as usize;
    let mut bytes = seeds[below(seeds.len())].1.clone();
    for _ in 0..=below(CHANGES_MAX) {
        let at = below(bytes.len() + 1);
        let end = (at + below(32)).min(bytes.len());
        match below(6) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            2 if at < bytes.len() => bytes[at] ^= 1 << below(8),
            3 if at < bytes.len() => bytes[at] = below(256) as u8,
            4 if !words.is_empty() => {
                let word = words[below(words.len())].clone();
                bytes.splice(at..if below(2) == 0 { at } else { end }, word);
            }
            _ => {
                let other = &seeds[below(seeds.len())].1;
                let from = below(other.len() + 1);
                let piece = other[from..(from + below(64)).min(other.len())].to_vec();
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes
}

/// Its words, of which those with escapes are left to the fuzzer.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/dictionaries").join(format!("{target}.dict"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let words = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    words.map(|word| word.replace("\\x22", "\"")).filter(|word| !word.contains('\\')).map(String::into_bytes).collect()
}

/// Inputs that nobody has seen before. One that is not answered comes again by `MOORED_FIRST` and its number.
fn made_up_inputs_are_answered(target: &str) {
    let from = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (seeds, words) = (seeds(target), dictionary(target));
    let now = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64);
    let (first, begun) = (from("MOORED_FIRST").unwrap_or_else(now), Instant::now());
    let patience = Duration::from_secs(from("MOORED_FUZZ_SECONDS").unwrap_or(SECONDS));
    let mut number = first;
    while number == first || begun.elapsed() < patience {
        let input = made_up(number, &seeds, &words);
        let answer = std::panic::catch_unwind(|| run(target, &input));
        assert!(answer.is_ok(), "{target}: MOORED_FIRST={number} is not answered: {}", input.escape_ascii());
        number += 1;
    }
    println!("{target}: {} inputs", number - first);
}

#[test]
fn a_config_that_is_made_up_is_answered() {
    made_up_inputs_are_answered("config");
}

#[test]
fn a_seccomp_profile_that_is_made_up_is_answered() {
    made_up_inputs_are_answered("seccomp");
}

#[test]
fn mount_options_that_are_made_up_are_answered() {
    made_up_inputs_are_answered("mounts");
}

/// Every target has a program of its own, and a program for each is one.
#[test]
fn each_target_has_its_program() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut programs: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    programs.sort();
    let mut targets = TARGETS.map(|(name, _)| name.to_owned()).to_vec();
    targets.sort();
    assert_eq!(programs, targets);
}

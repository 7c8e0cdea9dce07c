use std::path::{Path, PathBuf};

use super::{TARGETS, run};

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

//! Thousands of processes that joined one container, a tenth of which left a child that holds their output: nothing is left of them.
//!
//! `MOORED_EXECS=10000` makes more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::leaks::{SLACK_KIB, memory_kib, settled};
use super::oci::Place;
use super::support::{cgroup2, wait_for};
use super::world::{FOREVER, World};

/// A few seconds.
const EXECS: usize = 150;
/// Before the first look, so that what is only allocated once is.
const WARM_UP: usize = 50;
/// At a time.
const SIDE_BY_SIDE: usize = 8;
/// Every so many leave a child.
const LEAVES: usize = 10;

fn execs() -> usize {
    std::env::var("MOORED_EXECS").ok().and_then(|count| count.parse().ok()).unwrap_or(EXECS)
}

/// The child outlives its parent, and ends by itself.
fn script(number: usize) -> &'static str {
    if number.is_multiple_of(LEAVES) { "sleep 1 & echo left; exit 5" } else { "echo done; exit 5" }
}

fn in_turns(count: usize, one: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for first in 0..SIDE_BY_SIDE {
            let one = &one;
            scope.spawn(move || (first..count).step_by(SIDE_BY_SIDE).for_each(one));
        }
    });
}

/// How many processes are in the cgroup below this one that has some.
fn processes(cgroup: &Path) -> usize {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().lines().count();
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    own + below.map(|entry| processes(&entry.path())).sum::<usize>()
}

/// Waits until the shell of [`FOREVER`] and its `sleep` are there, and nobody else.
fn only_its_own(cgroup: &Path) {
    wait_for("the container to have its two processes", || (processes(cgroup) == 2).then_some(()));
}

#[test]
fn thousands_that_join_a_unit_leave_nothing_with_the_supervisor() {
    let Some(world) = World::start("exec-leaks") else { return };
    world.service("web", "");
    let one = |number: usize| {
        let output = world.moored(&["exec", "web", "--", "sh", "-c", script(number)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{number}: {said}");
        assert!(!output.stdout.is_empty(), "{number}: {said}");
    };
    let all_gone = || only_its_own(&world.cgroup());
    all_gone();
    in_turns(WARM_UP, one);
    all_gone();
    let (before, kib_before) = (settled(&world), memory_kib(&world));
    let count = execs();
    in_turns(count, one);
    all_gone();
    assert_eq!(settled(&world), before, "after {count}");
    let kib = memory_kib(&world);
    println!("{kib_before} KiB before, {kib} KiB after {count}\n{before:#?}");
    let most = kib_before + (kib_before / 50).max(SLACK_KIB);
    assert!(kib <= most, "{kib_before} KiB before, {kib} KiB after {count}");
}

/// What is there of a container: files of its state, cgroups of its name and below, mounts.
fn traces(place: &Place) -> BTreeSet<PathBuf> {
    fn walk(dir: &Path, all: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            all.insert(entry.path());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), all);
            }
        }
    }
    let mut all = BTreeSet::new();
    walk(&place.dir.join("state"), &mut all);
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    hierarchies.chain([cgroup2()]).for_each(|hierarchy| walk(&hierarchy.join(&place.id), &mut all));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = place.dir.0.to_str().unwrap();
    all.extend(mounts.lines().filter(|line| line.contains(dir)).map(PathBuf::from));
    all
}

#[test]
fn thousands_that_join_a_bundle_leave_nothing_behind() {
    let Some(place) = Place::shell("oci-exec-leaks", FOREVER) else { return };
    place.ok("run --detach {}");
    let cgroup = cgroup2().join(&place.id);
    only_its_own(&cgroup);
    let before = traces(&place);
    let count = execs();
    in_turns(count, |number| {
        // Through files: whoever is left holds them.
        let out = place.dir.join(&format!("out-{}", number % SIDE_BY_SIDE));
        let mut exec = place.command("exec {} /bin/sh -c");
        exec.arg(script(number)).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::inherit());
        assert_eq!(exec.status().unwrap().code(), Some(5), "{number}");
        assert!(!fs::read_to_string(out).unwrap().is_empty(), "{number}");
    });
    only_its_own(&cgroup);
    assert_eq!(traces(&place), before, "after {count}");
    place.ok("delete --force {}");
    place.assert_gone("after all of them");
}

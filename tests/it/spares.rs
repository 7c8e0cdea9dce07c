//! Namespaces made ahead: taken by starts, refilled, thrown away when somebody changed one, and not missed when there are none.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::support::wait_for;
use super::world::{FOREVER, World};

/// As many as there are without `--spare-namespaces`.
const KEPT: usize = 4;

/// The supervisor's descriptors of network namespaces.
fn held(world: &World) -> Vec<PathBuf> {
    held_of(world, "net:[")
}

fn held_of(world: &World, kind: &str) -> Vec<PathBuf> {
    let fds = fs::read_dir(format!("/proc/{}/fd", world.pids().supervisor)).unwrap();
    let is_one = |path: &PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with(kind));
    fds.flatten().map(|fd| fd.path()).filter(is_one).collect()
}

/// Waits until all are there.
fn full(world: &World) -> BTreeSet<u64> {
    let inodes = || held(world).iter().map(|path| fs::metadata(path).map_or(0, |found| found.ino())).collect();
    wait_for("the spares", || Some(inodes()).filter(|spares: &BTreeSet<u64>| spares.len() == KEPT))
}

/// Does something in the network namespace that this leads to.
fn inside<T: Send>(path: &Path, what: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        let namespace = fs::File::open(path).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        what()
    };
    std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

fn network_of(pid: i64) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino()
}

fn mounts_of(pid: i64) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/mnt")).unwrap().ino()
}

#[test]
fn a_start_takes_one_and_finds_in_it_what_it_would_have_made() {
    let Some(world) = World::start("spares") else { return };
    assert!(held(&world).is_empty(), "before the first start");
    let look = "ls /sys/class/net; grep -c : /proc/net/dev; cat /sys/class/net/lo/flags; ip -o -4 address show dev lo | grep -c 127.0.0.1; \
        sed 's/^[0-9]* [0-9]* [0-9:]* //; s,^[^ ]*/null \\([^ ]*\\) .*,null \\1,; s/master:[0-9]*/master/' /proc/self/mountinfo | sort; \
        ls -a / /dev; echo looked";
    world.script("own", &format!("{look}; {FOREVER}"), "");
    let own = world.running("own");
    let spares = full(&world);
    assert!(!spares.contains(&network_of(own.pid)));
    let mounts: BTreeSet<u64> =
        held_of(&world, "mnt:[").iter().map(|path| fs::metadata(path).map_or(0, |found| found.ino())).collect();
    assert_eq!(mounts.len(), KEPT);
    world.script("taker", &format!("{look}; {FOREVER}"), "");
    let taker = world.running("taker");
    assert!(spares.contains(&network_of(taker.pid)), "it took one of {spares:?}");
    assert!(mounts.contains(&mounts_of(taker.pid)) && !mounts.contains(&mounts_of(own.pid)));
    for unit in ["own", "taker"] {
        world.wait_log(unit, "looked");
    }
    assert_eq!(world.log("own"), world.log("taker"));
    assert!(world.log("taker").starts_with("lo\n1\n0x9\n1\n"), "{}", world.log("taker"));
    let refilled = full(&world);
    assert!(!refilled.contains(&network_of(taker.pid)), "nobody else gets it");
    assert_eq!(refilled.intersection(&spares).count(), KEPT - 1);
}

#[test]
fn one_that_somebody_changed_is_thrown_away() {
    let Some(world) = World::start("poisoned") else { return };
    world.service("first", "");
    full(&world);
    let forwarding = "/proc/sys/net/ipv4/conf/lo/forwarding";
    held(&world).iter().for_each(|path| inside(path, || fs::write(forwarding, "1").unwrap()));
    let second = world.service("second", "");
    // By what they are, not by their numbers: those of the old ones are used again.
    let unchanged = |path: &PathBuf| inside(path, || fs::read_to_string(forwarding).unwrap().trim() == "0");
    assert!(unchanged(&PathBuf::from(format!("/proc/{}/ns/net", second.pid))));
    assert_eq!(world.output().matches("was changed by somebody").count(), KEPT, "{}", world.output());
    full(&world);
    assert!(held(&world).iter().all(unchanged));
}

#[test]
fn without_spares_every_start_makes_its_own() {
    let Some(mut world) = World::prepare("no-spares") else { return };
    world.supervisor = world.supervisor.with(&["--spare-namespaces", "0"]);
    world.supervisor.up();
    let (one, two) = (world.service("one", ""), world.service("two", ""));
    assert_ne!(network_of(one.pid), network_of(two.pid));
    assert!(held(&world).is_empty());
}

//! A container, a client or a disk that takes all it can get: the others go on, who is at fault is shown as what it is, and nothing is left when it
//! is over. (Memory that runs out, and a clock that jumps: `vm/scenarios`. A log disk without room: `complaints`.)

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::support::{is_alive, wait_for};
use super::world::{Running, World};

/// Clients that say nothing.
const IDLE: usize = 1000;
/// Clients that do not finish their sentence, and such that do not read the answer.
const SLOW: usize = 20;
/// What `ps` may take while all of this is there, on a machine that is busy with other tests too.
const ANSWER: Duration = Duration::from_secs(5);
/// Processes that the fork bomb may have.
const PIDS: usize = 40;

/// `other` is as it was, and somebody answers about it and lets into it.
fn goes_on(world: &World, other: &Running) {
    let begin = Instant::now();
    assert_eq!(world.find("other").map(|row| Running::of(&row)).as_ref(), Some(other), "{}", world.output());
    assert!(begin.elapsed() < ANSWER, "{:?}", begin.elapsed());
    assert_eq!(world.ok(&["exec", "other", "--", "/bin/sh", "-c", "echo within"]), "within\n");
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[test]
fn a_fork_bomb_and_a_log_flood_leave_the_others_alone() {
    let Some(world) = World::start("pressure") else { return };
    let other = world.service("other", "nobody touches it");
    // At its limit it cannot even start a `sleep`: its first process becomes one.
    let bomb = "trap '' TERM INT HUP QUIT USR1 USR2; (while :; do sleep 100000 & done) & wait; exec sleep 100000";
    world.script("bomb", bomb, &format!("[resources]\npids = {PIDS}\n[stop]\ntimeout = \"1s\""));
    world.script("flood", "exec yes flood", "[log]\nmax_size = \"64K\"\nmax_files = 2\n[stop]\ntimeout = \"1s\"");
    let bomb = world.running("bomb");
    world.running("flood");
    let cgroup = world.cgroup().join(&bomb.id);
    let processes = || -> Vec<i32> {
        let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    };
    wait_for("the bomb to be at its limit", || (processes().len() + 2 >= PIDS).then_some(()));
    for _ in 0..5 {
        goes_on(&world, &other);
    }
    let all = processes();
    assert!(all.len() <= PIDS, "{}", all.len());
    // One of them may be rotated away meanwhile.
    let files = fs::read_dir(world.dir.join("log/flood")).unwrap().flatten();
    let size: u64 = files.filter_map(|file| file.metadata().ok()).map(|found| found.len()).sum();
    assert!(size < 1 << 20, "{size} bytes of a log of 2 x 64K");
    world.ok(&["stop", "bomb", "flood"]);
    wait_for("each of the bomb's to be gone", || all.iter().all(|pid| !is_alive(*pid)).then_some(()));
    wait_for("its cgroup to be gone", || (!cgroup.exists()).then_some(()));
    goes_on(&world, &other);
}

/// One whose output nobody takes.
fn slow(world: &World) -> Child {
    let mut command = world.moored(&["logs", "-f", "flood"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_thousand_idle_and_slow_clients_hold_nobody_up() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let Some(world) = World::start("clients") else { return };
    let other = world.service("other", "nobody touches it");
    world.script("flood", "exec yes flood", "[log]\nmax_size = \"64K\"\nmax_files = 2\n[stop]\ntimeout = \"1s\"");
    world.running("flood");
    goes_on(&world, &other);
    let supervisor = world.pids().supervisor;
    let before = descriptors(supervisor);
    let socket = world.dir.join("run/control.sock");
    let connect = || UnixStream::connect(&socket).unwrap();
    let idle: Vec<UnixStream> = (0..IDLE).map(|_| connect()).collect();
    let half: Vec<UnixStream> = (0..SLOW)
        .map(|_| {
            let mut client = connect();
            client.write_all(&[0]).unwrap();
            client
        })
        .collect();
    let mut deaf: Vec<Child> = (0..SLOW).map(|_| slow(&world)).collect();
    wait_for("all to be let in", || (descriptors(supervisor) >= before + IDLE).then_some(()));
    for _ in 0..5 {
        goes_on(&world, &other);
    }
    world.ok(&["stop", "flood"]);
    drop((idle, half));
    for client in &mut deaf {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    wait_for("all of them to be forgotten", || (descriptors(supervisor) <= before).then_some(()));
    assert_eq!(world.pids().supervisor, supervisor);
    goes_on(&world, &other);
}

/// A tmpfs of a megabyte.
fn small_disk(path: &Path) {
    fs::create_dir_all(path).unwrap();
    mount("moored-test", path, "tmpfs", MountFlags::empty(), Some(c"size=1m,mode=700")).unwrap();
}

/// Writes until there is no room for a byte more.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn a_full_run_dir_stops_nothing_and_comes_right_when_there_is_room() {
    let Some(mut world) = World::prepare("full-run") else { return };
    let run = world.dir.join("run");
    small_disk(&run);
    world.supervisor.up();
    let other = world.service("other", "nobody touches it");
    fill(&run.join("ballast"));
    goes_on(&world, &other);
    world.script("late", super::world::FOREVER, "");
    wait_for("words about what is missing", || world.output().contains("No space left on device").then_some(()));
    // It runs all the same, and no file knows of it: the next supervisor has the keeper's word alone.
    let late = world.running("late");
    goes_on(&world, &other);
    let supervisor = world.pids().supervisor;
    rustix::process::kill_process(rustix::process::Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
    wait_for("the next supervisor", || (world.pids().supervisor != supervisor).then_some(()));
    goes_on(&world, &other);
    assert_eq!(world.running("late"), late, "{}", world.output());
    fs::remove_file(run.join("ballast")).unwrap();
    world.ok(&["stop", "late"]);
    assert!(!is_alive(late.pid as i32));
    wait_for("its record", || run.join("records/late.json").exists().then_some(()));
    goes_on(&world, &other);
    world.supervisor.stop();
    let _ = unmount(&run, UnmountFlags::DETACH);
}

#[test]
fn a_read_only_log_disk_holds_nobody_up() {
    let Some(mut world) = World::prepare("read-only-log") else { return };
    let log = world.dir.join("log");
    small_disk(&log);
    mount_remount(&log, MountFlags::RDONLY, "").unwrap();
    world.supervisor.up();
    let other = world.service("other", "nobody touches it");
    world.unit("web", &world.text("type = \"oneshot\"", "yes line | head -n 20000", ""));
    // It would wait for its reader for ever.
    world.wait_phase("web", &["completed"]);
    wait_for("words about what is lost", || {
        let told = |text: &str| text.contains("what it prints is dropped and counted");
        world.happened("web").iter().any(|(_, text)| told(text)).then_some(())
    });
    goes_on(&world, &other);
    world.supervisor.stop();
    let _ = unmount(&log, UnmountFlags::DETACH);
}

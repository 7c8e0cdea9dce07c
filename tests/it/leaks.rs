//! What a thousand containers leave behind, and what an idle supervisor does: nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::support::{Supervisor, TempDir, busybox_root, is_root, wait_for};

/// Units that start and end side by side.
const UNITS: usize = 20;
/// Starts before the first look, so that what is only allocated once is allocated: buffers, the allocator's arenas, the events kept.
const WARM_UP: u64 = 200;
/// Starts between the two looks; `MOORED_STARTS=10000` makes more.
const CYCLES: u64 = 1000;
/// Network namespaces that the supervisor has ready, and of which these starts take theirs.
const SPARES: usize = 4;
/// What memory may differ, in KiB, where 2 % is less: pages that the allocator happens to hold at the time of the look.
pub const SLACK_KIB: u64 = 192;
/// An idle supervisor is watched for so long.
const IDLE: Duration = Duration::from_secs(3);

/// What must be as it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// Per process: how many descriptors of which kind.
    fds: Vec<BTreeMap<String, usize>>,
    threads: Vec<usize>,
    mounts: usize,
    cgroups: Vec<PathBuf>,
    zombies: usize,
}

fn processes(moored: &Supervisor) -> [i32; 3] {
    let pids = moored.pids();
    [pids.anchor.unwrap(), pids.keeper, pids.supervisor]
}

fn look(moored: &Supervisor) -> Left {
    let pids = processes(moored);
    Left {
        fds: pids.iter().map(|pid| fds(*pid)).collect(),
        threads: pids.iter().map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()).collect(),
        mounts: mounts(pids[1], &moored.dir.0),
        cgroups: cgroups(&moored.cgroup_root),
        zombies: pids.iter().map(|pid| zombies_of(*pid)).sum(),
    }
}

/// Of the host's, those that have to do with this supervisor: other tests mount too.
fn mounts(pid: i32, dir: &Path) -> usize {
    let name = dir.file_name().unwrap().to_str().unwrap();
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    table.lines().filter(|line| line.contains(name)).count()
}

/// What stays so: a client that was just answered leaves a thread and a socket behind for a moment.
pub fn settled(moored: &Supervisor) -> Left {
    wait_for("two looks that agree", || {
        let first = look(moored);
        std::thread::sleep(Duration::from_millis(300));
        Some(look(moored)).filter(|second| *second == first)
    })
}

/// `socket:[123]` is a socket, wherever it was made, and a mountinfo is that of some thread.
fn fds(pid: i32) -> BTreeMap<String, usize> {
    let links =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let mut kinds = BTreeMap::new();
    for link in links {
        let text = link.to_string_lossy().into_owned();
        let kind = text.split_once(":[").map_or(text.clone(), |(kind, _)| kind.to_owned());
        let kind = if kind.ends_with("/mountinfo") { "mountinfo".to_owned() } else { kind };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// In every hierarchy.
fn cgroups(root: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let tops = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|top| top.join(root.trim_start_matches('/')));
    let mut found: Vec<PathBuf> = tops.flat_map(|top| directories(&top)).collect();
    found.sort();
    found
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

fn zombies_of(parent: i32) -> usize {
    let stats =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let is_one = |stat: &String| {
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        (fields.next(), fields.next()) == (Some("Z"), Some(parent.to_string().as_str()))
    };
    stats.filter(is_one).count()
}

/// Proportional set size of all three, in KiB, without their program: of that as much is mapped as was called by then.
pub fn memory_kib(moored: &Supervisor) -> u64 {
    let pss = |pid: i32| {
        let mappings = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let mut is_program = false;
        let mut sum = 0;
        for line in mappings.lines() {
            // Each begins with its addresses; lines about it, with a name and a colon.
            if line.split_whitespace().next().is_some_and(|word| word.contains('-')) {
                is_program = line.contains("/memfd:moored");
            }
            let kib = line.strip_prefix("Pss:").map(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
            sum += kib.filter(|_| !is_program).unwrap_or(0);
        }
        sum
    };
    processes(moored).into_iter().map(pss).sum()
}

fn starts(moored: &Supervisor) -> u64 {
    moored.ps().iter().map(|row| row["restarts"].as_u64().unwrap()).sum()
}

fn is_quiet(moored: &Supervisor) -> bool {
    moored.ps().iter().all(|row| row["phase"] == "stopped" && row["id"] == Value::Null)
}

/// Lets all units run until so many starts were made, then stops them.
fn cycle(moored: &Supervisor, units: &[&str], goal: u64) {
    // Nobody waits for its answer: they are hardly ever all up at once.
    let mut start = moored.moored(&[&["start"], units].concat()).spawn().unwrap();
    // Longer than the usual patience on a busy machine, but each start is a sign of life.
    let mut last = 0;
    while last < goal {
        last = wait_for("more starts", || Some(starts(moored)).filter(|now| *now > last || *now >= goal));
    }
    moored.ok(&[&["stop"], units].concat());
    let _ = start.kill();
    let _ = start.wait();
    wait_for("all to be stopped", || is_quiet(moored).then_some(()));
}

#[test]
fn a_thousand_containers_leave_nothing_behind() {
    if !is_root() {
        return;
    }
    let mut moored = Supervisor::prepare("leaks");
    let Some(root) = busybox_root(&moored.dir.0) else { return };
    let names: Vec<String> = (0..UNITS).map(|n| format!("u{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        let process = "[process]\nargs = [\"/bin/sh\", \"-c\", \"echo line; exit 3\"]";
        let restart = "[restart]\ndelay = \"10ms\"\nmax_delay = \"10ms\"";
        moored.unit(name, &format!("enabled = false\nrootfs = \"{}\"\n{process}\n{restart}\n", root.display()));
    }
    moored.up();
    wait_for("the units to be read", || (moored.ps().len() == UNITS).then_some(()));
    cycle(&moored, &names, WARM_UP);
    let (before, kib_before) = (settled(&moored), memory_kib(&moored));
    // More at once than there are: some find none, and make their own.
    assert_eq!(before.fds[2].get("net"), Some(&SPARES), "{before:?}");
    let cycles = std::env::var("MOORED_STARTS").ok().and_then(|count| count.parse().ok()).unwrap_or(CYCLES);
    cycle(&moored, &names, WARM_UP + cycles);
    assert_eq!(settled(&moored), before, "after {cycles} starts");
    let kib = memory_kib(&moored);
    println!("{kib_before} KiB before, {kib} KiB after {cycles} starts\n{before:#?}");
    let most = kib_before + (kib_before / 50).max(SLACK_KIB);
    assert!(kib <= most, "{kib_before} KiB before, {kib} KiB after {cycles} starts");
}

/// Context switches of every thread, voluntary or not: a thread that sleeps has none.
fn switches(pid: i32) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of_task = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let name = status.lines().next().unwrap_or_default().trim_start_matches("Name:\t").to_owned();
        let count = field("voluntary_ctxt_switches:").unwrap() + field("nonvoluntary_ctxt_switches:").unwrap();
        (format!("{name} {}", task.file_name().to_string_lossy()), count)
    };
    tasks.map(of_task).collect()
}

/// Not below the temporary directory: whoever makes a file in a directory on the way to units and roots wakes the watch.
const QUIET_PLACE: &str = "/var/lib";

/// For as long as others mount and unmount on this machine, which the watch must look at.
const QUIET_PATIENCE: usize = 15;

#[test]
fn nobody_wakes_up_when_nothing_happens() {
    if !is_root() {
        return;
    }
    let mut moored = Supervisor::prepare_in(TempDir::below(Path::new(QUIET_PLACE), "idle"));
    let Some(root) = busybox_root(&moored.dir.0) else { return };
    for (name, script) in [("a", "exec sleep 100000"), ("b", "exec sleep 100000"), ("done", "exit 0")] {
        let process = format!("[process]\nargs = [\"/bin/sh\", \"-c\", \"{script}\"]");
        let text = format!("type = \"oneshot\"\nrootfs = \"{}\"\n{process}\n", root.display());
        moored.unit(name, &text);
    }
    moored.up();
    moored.wait_phase("done", &["completed"]);
    ["a", "b"].iter().for_each(|unit| assert!(moored.pid(unit) > 0));
    let pids = processes(&moored);
    let all = || pids.iter().flat_map(|pid| switches(*pid)).collect::<BTreeMap<_, _>>();
    // The last client's thread ends, the last state file is written: then it is quiet, and stays so.
    let mut last = Vec::new();
    let is_quiet = || {
        let before = all();
        std::thread::sleep(IDLE);
        let after = all();
        last = after
            .iter()
            .filter(|(task, count)| before.get(*task) != Some(*count))
            .map(|(task, _)| task.clone())
            .collect();
        after == before
    };
    let quiet = std::iter::repeat_with(is_quiet).take(QUIET_PATIENCE).any(|quiet| quiet);
    assert!(quiet, "never {IDLE:?} without a wake-up; the last ones of {last:?}");
}

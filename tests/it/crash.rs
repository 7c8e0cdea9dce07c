//! `kill -9` of the supervisor, the keeper and the anchor, in every combination and at bad moments: SAFETY's invariants 1, 5, 6, 8 and 12
//! on real containers.
//!
//! What happened is read from three places that none of the killed processes can make up: what the containers themselves wrote below
//! `/data`, the kernel's view (pids, cgroups), and what `up` printed. A supervisor that dies between saying and writing down says it
//! again after its next start, so each sentence counts once; two different ones about one end are an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use super::support::{Pids, Supervisor, busybox_root, is_root, tool, wait_for};

/// Containers of a burst of starts or stops.
const BURST: usize = 30;

/// A supervisor, a root with busybox, and a directory that every container sees as `/data`.
struct World {
    moored: Supervisor,
    root: PathBuf,
    data: PathBuf,
}

/// `None` (skipped) without root or busybox.
fn world(name: &str, arguments: &[&str]) -> Option<World> {
    if !is_root() {
        return None;
    }
    let mut moored = Supervisor::prepare(name).with(arguments);
    let root = busybox_root(&moored.dir.0)?;
    let data = moored.dir.join("data");
    fs::create_dir(&data).unwrap();
    moored.up();
    Some(World { moored, root, data })
}

/// One run and no other.
const NEVER: &str = "[restart]\npolicy = \"never\"";

/// Lives until SIGTERM.
const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

impl World {
    fn unit_text(&self, script: &str, more: &str) -> String {
        let (root, data) = (self.root.display(), self.data.display());
        format!(
            "rootfs = \"{root}\"\n{more}\n[process]\nargs = [\"/bin/sh\", \"-c\", \"\"\"{script}\"\"\"]\n\
             [[mount]]\nsource = \"{data}\"\ntarget = \"/data\"\nread_only = false\n"
        )
    }

    fn unit(&self, name: &str, script: &str, more: &str) {
        self.moored.unit(name, &self.unit_text(script, more));
    }

    /// Writes all of these at once: their starts come in one burst.
    fn units(&self, count: usize, script: impl Fn(usize) -> String, more: &str) {
        (0..count).for_each(|n| self.unit(&name(n), &script(n), more));
    }

    /// The three processes, as soon as there is somebody to ask.
    fn pids(&self) -> Pids {
        wait_for("somebody who knows the pids", || {
            let output = self.moored.run(&["status", "--json"]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let pid = |name: &str| status[name].as_i64().map(|pid| pid as i32);
            Some(Pids { anchor: pid("anchor"), keeper: pid("keeper")?, supervisor: pid("supervisor")? })
        })
    }

    /// Kills, and waits until a supervisor answers that lives.
    fn kill(&self, victims: &[Victim]) {
        let pids = self.pids();
        self.kill_without_waiting(pids, victims);
        self.wait_supervisor(pids, victims);
    }

    fn kill_without_waiting(&self, pids: Pids, victims: &[Victim]) {
        for victim in victims {
            let pid = match victim {
                Victim::Supervisor => pids.supervisor,
                Victim::Keeper => pids.keeper,
                Victim::Anchor => pids.anchor.unwrap(),
            };
            signal(pid, Signal::KILL);
        }
    }

    fn wait_supervisor(&self, before: Pids, victims: &[Victim]) {
        wait_for("the next of those that were killed", || {
            let now = self.pids();
            let other = |victim: &Victim| match victim {
                Victim::Supervisor => now.supervisor != before.supervisor,
                Victim::Keeper => now.keeper != before.keeper,
                Victim::Anchor => now.anchor != before.anchor,
            };
            victims.iter().all(other).then_some(())
        });
    }

    /// Containers as `ps` has them, once it has them all.
    fn running(&self, count: usize) -> BTreeMap<String, i32> {
        wait_for(&format!("{count} units that run\n{}", self.moored.output()), || {
            let found = self.rows().into_iter().filter(|row| row["phase"] == "running");
            let found: BTreeMap<_, _> =
                found.filter_map(|row| Some((text(&row, "unit"), row["pid"].as_i64()? as i32))).collect();
            (found.len() == count).then_some(found)
        })
    }

    fn running_unit(&self, unit: &str) {
        self.moored.wait_phase(unit, &["running"]);
    }

    /// Empty while nobody answers.
    fn rows(&self) -> Vec<Value> {
        serde_json::from_slice(&self.moored.run(&["ps", "--json"]).stdout).unwrap_or_default()
    }

    /// Ids of containers that have a v2 cgroup.
    fn cgroups(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.moored.cgroup()).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// All `<what>` that `up` said of each id: `exited: code 3`. A set, since a killed supervisor's successor may repeat it.
    fn said(&self, what: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut said: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in self.moored.output().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(at) = words.iter().position(|word| word.contains(what)) else { continue };
            let id = words[..at]
                .iter()
                .rev()
                .find(|word| word.contains('.'))
                .or(words[at..].iter().find(|word| word.contains('.')));
            if let Some(id) = id {
                said.entry(id.trim_end_matches(',').to_owned()).or_default().insert(words[at..].join(" "));
            }
        }
        said
    }

    /// What containers appended to a file of `/data`, line by line.
    fn lines(&self, file: &str) -> Vec<String> {
        fs::read_to_string(self.data.join(file)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The log files of a unit, oldest first, as they are.
    fn raw(&self, unit: &str) -> Vec<u8> {
        let dir = self.moored.dir.join("log").join(unit);
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut logs: Vec<(u64, PathBuf)> = entries
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .filter_map(|path| Some((number(&path)?, path)))
            .collect();
        logs.sort();
        logs.iter().flat_map(|(_, path)| fs::read(path).unwrap_or_default()).collect()
    }

    fn touch(&self, file: &str) {
        fs::write(self.data.join(file), "").unwrap();
    }

    /// Each generation began at most once and ended in at most one way.
    fn check_records(&self) {
        for what in ["started", "exited:"] {
            for (id, sentences) in self.said(what) {
                assert_eq!(sentences.len(), 1, "{id} more than once: {sentences:?}\n{}", self.moored.output());
            }
        }
        assert!(!self.moored.output().contains("nobody saw how"), "{}", self.moored.output());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Keeper,
    Anchor,
}

fn name(n: usize) -> String {
    format!("u{n:02}")
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}

fn signal(pid: i32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// The state letter of `/proc/PID/stat`.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn freeze(pid: i32) {
    signal(pid, Signal::STOP);
    wait_for("it to be frozen", || (state(pid) == Some('T')).then_some(()));
}

#[test]
fn whoever_is_killed_the_containers_keep_their_pids() {
    use Victim::{Anchor, Keeper, Supervisor};
    let deaths: [&[&[Victim]]; 5] = [
        &[&[Supervisor], &[Supervisor]],
        &[&[Keeper], &[Supervisor]],
        &[&[Supervisor, Keeper]],
        &[&[Keeper, Supervisor]],
        &[&[Anchor], &[Supervisor]],
    ];
    for (n, rounds) in deaths.into_iter().enumerate() {
        let Some(world) = world(&format!("kept{n}"), &[]) else { return };
        world.units(3, |n| format!("trap 'exit {n}' TERM; while :; do sleep 1000 & wait; done"), NEVER);
        let before = world.running(3);
        for victims in rounds {
            world.kill(victims);
            assert_eq!(world.running(3), before, "after {victims:?}");
        }
        // They are supervised as before: exits are seen, starts and stops work.
        signal(before[&name(1)], Signal::TERM);
        let row = world.moored.wait_phase(&name(1), &["failed"]);
        assert_eq!(row["exit"], "code 1", "{rounds:?}");
        world.moored.ok(&["stop", &name(2)]);
        world.moored.ok(&["start", &name(2)]);
        let after = world.running(2);
        assert_eq!(after[&name(0)], before[&name(0)]);
        assert_ne!(after[&name(2)], before[&name(2)]);
        world.check_records();
    }
}

/// A frozen process stands for one that does not come to do its work before it is killed.
#[test]
fn exits_that_nobody_could_look_at_are_known() {
    use Victim::{Keeper, Supervisor};
    const COUNT: usize = 20;
    let all: [&[Victim]; 3] = [&[Supervisor], &[Keeper], &[Supervisor, Keeper]];
    for (n, victims) in all.into_iter().enumerate() {
        let Some(world) = world(&format!("codes{n}"), &[]) else { return };
        let script = |n| format!("until [ -e /data/go ]; do sleep 0.05; done; exit {n}");
        world.units(COUNT, script, NEVER);
        let running = world.running(COUNT);
        let pids = world.pids();
        for victim in victims {
            freeze(if *victim == Supervisor { pids.supervisor } else { pids.keeper });
        }
        signal(running[&name(7)], Signal::KILL);
        world.touch("go");
        wait_for("all to end", || running.values().all(|pid| !is_alive(*pid)).then_some(()));
        world.kill_without_waiting(pids, victims);
        for n in 0..COUNT {
            let row = world.moored.wait_phase(&name(n), &["failed", "completed"]);
            let expected = if n == 7 { "signal SIGKILL".to_owned() } else { format!("code {n}") };
            assert_eq!(row["exit"], expected.as_str(), "{victims:?}: {row}\n{}", world.moored.output());
        }
        world.check_records();
        wait_for("no cgroup to be left", || world.cgroups().is_empty().then_some(()));
    }
}

/// While containers end and begin all the time, each with another code, somebody is killed again and again.
#[test]
fn no_code_is_lost_or_invented_while_containers_come_and_go() {
    use Victim::{Keeper, Supervisor};
    const UNITS: usize = 8;
    const RUNS: usize = 12;
    let Some(world) = world("churn", &[]) else { return };
    // The run's number is its exit code; it is on disk before the exit, as the only witness.
    let script = |n: usize| {
        format!(
            "i=$(cat /data/{n} 2>/dev/null | wc -l); [ $i -ge {RUNS} ] && exit 100; echo $i >> /data/{n}; sleep 0.1; exit $((i + 1))"
        )
    };
    world.units(UNITS, script, "[restart]\npolicy = \"always\"\ndelay = \"50ms\"\nmax_delay = \"100ms\"");
    for victims in [&[Supervisor][..], &[Supervisor], &[Keeper], &[Supervisor], &[Supervisor], &[Supervisor]] {
        let before = world.lines("0").len();
        wait_for("the next run", || (world.lines("0").len() > before || before >= RUNS).then_some(()));
        world.kill(victims);
    }
    for n in 0..UNITS {
        world.moored.wait_unit(&name(n), "at its last code", |row| row["exit"] == "code 100");
        let runs: Vec<String> = world.lines(&n.to_string());
        let expected: Vec<String> = (0..RUNS).map(|run| run.to_string()).collect();
        assert_eq!(runs, expected, "one run at a time, each counted");
    }
    world.check_records();
    for n in 0..UNITS {
        let exits = world.said("exited:");
        let of_unit = exits.iter().filter(|(id, _)| id.starts_with(&format!("{}.", name(n))));
        let mut by_generation: Vec<(u64, &str)> =
            of_unit.map(|(id, said)| (generation(id), said.first().unwrap().as_str())).collect();
        by_generation.sort_unstable();
        let codes: Vec<&str> = by_generation.iter().take(RUNS).map(|(_, said)| *said).collect();
        let expected: Vec<String> = (1..=RUNS).map(|code| format!("exited: code {code}")).collect();
        assert_eq!(codes, expected, "{}\n{}", name(n), world.moored.output());
    }
}

fn generation(id: &str) -> u64 {
    id.rsplit_once('.').unwrap().1.parse().unwrap()
}

fn is_alive(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

#[test]
fn a_burst_of_starts_is_finished_by_whoever_comes_next() {
    use Victim::{Keeper, Supervisor};
    let all: [&[&[Victim]]; 3] =
        [&[&[Supervisor], &[Supervisor], &[Supervisor]], &[&[Keeper]], &[&[Supervisor, Keeper]]];
    for (n, rounds) in all.into_iter().enumerate() {
        let Some(world) = world(&format!("burst{n}"), &[]) else { return };
        let script = |n| format!("echo $$ >> /data/{n}; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done");
        world.units(BURST, script, NEVER);
        for (round, victims) in rounds.iter().enumerate() {
            let pids = world.pids();
            let some = BURST * (round + 1) / (rounds.len() + 2);
            wait_for("some to be started", || (world.cgroups().len() >= some).then_some(()));
            world.kill_without_waiting(pids, victims);
            world.wait_supervisor(pids, victims);
        }
        let running = world.running(BURST);
        assert_eq!(running.values().collect::<BTreeSet<_>>().len(), BURST);
        let cgroups = world.cgroups();
        assert_eq!(cgroups.len(), BURST, "one cgroup each: {cgroups:?}\n{}", world.moored.output());
        for n in 0..BURST {
            assert_eq!(world.lines(&n.to_string()).len(), 1, "{} ran once\n{}", name(n), world.moored.output());
        }
        world.check_records();
    }
}

#[test]
fn a_burst_of_stops_is_finished_by_whoever_comes_next() {
    use Victim::{Keeper, Supervisor};
    let all: [&[Victim]; 3] = [&[Supervisor], &[Keeper], &[Supervisor, Keeper]];
    for (n, victims) in all.into_iter().enumerate() {
        let Some(world) = world(&format!("stops{n}"), &[]) else { return };
        let script =
            |_| "trap 'touch /data/stopping; sleep 0.3; exit 5' TERM; while :; do sleep 1000 & wait; done".to_owned();
        world.units(BURST, script, "[restart]\npolicy = \"always\"");
        world.running(BURST);
        let pids = world.pids();
        let units: Vec<String> = (0..BURST).map(name).collect();
        let mut stop = world.moored.moored(&["stop"]);
        let mut stop = stop.args(&units).stderr(std::process::Stdio::null()).spawn().unwrap();
        wait_for("the stops to begin", || world.data.join("stopping").exists().then_some(()));
        world.kill_without_waiting(pids, victims);
        world.wait_supervisor(pids, victims);
        for unit in &units {
            let row = world.moored.wait_phase(unit, &["stopped"]);
            assert_eq!(row["exit"], "code 5", "{row}");
        }
        let _ = stop.wait();
        wait_for("no cgroup to be left", || world.cgroups().is_empty().then_some(()));
        assert_eq!(world.said("started").len(), BURST, "none came back\n{}", world.moored.output());
        world.check_records();
    }
}

#[test]
fn holds_and_backoff_outlive_the_supervisor() {
    let Some(world) = world("marks", &[]) else { return };
    world.unit("held", WAITS, "");
    world.unit(
        "fails",
        "cut -d' ' -f1 /proc/uptime >> /data/starts; exit 3",
        "[restart]\ndelay = \"1s\"\nmax_delay = \"1s\"",
    );
    world.running_unit("held");
    world.moored.ok(&["stop", "--reason", "for the test", "held"]);
    world.moored.wait_phase("fails", &["backoff"]);
    while world.lines("starts").len() < 5 {
        world.kill(&[Victim::Supervisor]);
    }
    let row = world.moored.wait_phase("held", &["stopped"]);
    assert!(text(&row, "reason").contains("for the test"), "{row}");
    let starts: Vec<f64> = world.lines("starts").iter().map(|line| line.parse().unwrap()).collect();
    // The first restart is immediate; /proc/uptime counts hundredths.
    for gap in starts.windows(2).skip(1).map(|pair| pair[1] - pair[0]) {
        assert!(gap >= 0.98, "a gap of {gap} s between two starts of {starts:?}");
    }
    world.check_records();
}

#[test]
fn without_an_anchor_all_goes_on_and_the_next_up_takes_control() {
    let Some(mut world) = world("anchor", &[]) else { return };
    world.units(2, |_| WAITS.to_owned(), "");
    let before = world.running(2);
    world.kill(&[Victim::Anchor]);
    assert_eq!(world.pids().anchor, None);
    assert!(world.moored.ok(&["status"]).contains("no spare"));
    assert_eq!(world.running(2), before);
    signal(before[&name(0)], Signal::KILL);
    world.moored.wait_unit(&name(0), "restarted", |row| row["restarts"] == 1 && row["phase"] == "running");
    world.moored.up();
    wait_for("the new anchor to be known", || (world.pids().anchor == Some(world.moored.anchor_pid())).then_some(()));
    assert_eq!(world.running(2)[&name(1)], before[&name(1)]);
    assert_eq!(world.moored.stop().code(), Some(0));
    assert!(!is_alive(before[&name(1)]));
}

/// Nobody is left that could know how the containers end; they need not end for that.
#[test]
fn with_keeper_and_anchor_dead_the_next_up_finds_what_runs() {
    let Some(mut world) = world("orphaned", &[]) else { return };
    world.units(
        3,
        |n| format!("trap 'exit {n}' TERM; while :; do echo alive; sleep 0.2; done"),
        "[restart]\npolicy = \"never\"",
    );
    let before = world.running(3);
    let pids = world.pids();
    signal(pids.anchor.unwrap(), Signal::KILL);
    signal(pids.keeper, Signal::KILL);
    wait_for("the supervisor to leave", || (!is_alive(pids.supervisor)).then_some(()));
    world.moored.up();
    assert_eq!(world.running(3), before, "{}", world.moored.output());
    signal(before[&name(1)], Signal::TERM);
    let row = world.moored.wait_phase(&name(1), &["failed", "completed"]);
    assert!(["unknown", "code 1"].contains(&row["exit"].as_str().unwrap()), "never another code: {row}");
    world.moored.ok(&["stop", &name(2)]);
    assert!(!is_alive(before[&name(2)]));
    world.kill(&[Victim::Supervisor]);
    assert_eq!(world.running(1)[&name(0)], before[&name(0)]);
    assert_eq!(world.moored.stop().code(), Some(0));
    assert!(!is_alive(before[&name(0)]));
    assert!(world.cgroups().is_empty());
}

#[test]
fn what_was_left_running_is_found_by_the_next_up() {
    let Some(mut world) = world("detached", &["--detach-on-exit"]) else { return };
    world.units(3, |n| format!("until [ -e /data/go ]; do sleep 0.05; done; exit {n}"), NEVER);
    let before = world.running(3);
    assert_eq!(world.moored.stop().code(), Some(0));
    assert!(before.values().all(|pid| is_alive(*pid)));
    world.moored.up();
    assert_eq!(world.running(3), before);
    // Once more, and this time they end while nobody supervises them.
    assert_eq!(world.moored.stop().code(), Some(0));
    world.touch("go");
    wait_for("all to end", || before.values().all(|pid| !is_alive(*pid)).then_some(()));
    world.moored.up();
    for n in 0..3 {
        let row = world.moored.wait_phase(&name(n), &["failed", "completed"]);
        assert_eq!(row["exit"], format!("code {n}").as_str(), "{}", world.moored.output());
    }
    world.check_records();
}

#[test]
fn an_ordered_stop_is_finished_whoever_is_killed_in_it() {
    use Victim::{Keeper, Supervisor};
    let all: [&[Victim]; 3] = [&[Supervisor], &[Keeper], &[Keeper, Supervisor]];
    for (n, victims) in all.into_iter().enumerate() {
        let Some(mut world) = world(&format!("down{n}"), &[]) else { return };
        let script =
            |n| format!("trap 'touch /data/stopped{n}; sleep 0.5; exit 0' TERM; while :; do sleep 1000 & wait; done");
        world.units(6, script, "");
        let running = world.running(6);
        let pids = world.pids();
        signal(pids.anchor.unwrap(), Signal::TERM);
        wait_for("the stop to begin", || world.data.join("stopped3").exists().then_some(()));
        world.kill_without_waiting(pids, victims);
        assert_eq!(world.moored.stop().code(), Some(0), "{victims:?}\n{}", world.moored.output());
        assert!(running.values().all(|pid| !is_alive(*pid)));
        assert!(world.cgroups().is_empty());
        assert!(!world.moored.output().contains("SIGKILL"), "each had its time\n{}", world.moored.output());
    }
}

#[test]
fn a_stop_that_comes_while_the_anchor_adopts_is_a_stop() {
    let Some(mut world) = world("adopting", &[]) else { return };
    world.units(6, |_| WAITS.to_owned(), "");
    let running = world.running(6);
    let pids = world.pids();
    signal(pids.keeper, Signal::KILL);
    signal(pids.supervisor, Signal::KILL);
    assert_eq!(world.moored.stop().code(), Some(0));
    assert!(running.values().all(|pid| !is_alive(*pid)));
    assert!(world.cgroups().is_empty());
}

#[test]
fn a_supervisor_that_is_killed_as_soon_as_it_lives_costs_no_container() {
    let Some(world) = world("again", &[]) else { return };
    world.units(4, |_| WAITS.to_owned(), "");
    let before = world.running(4);
    let keeper = world.pids().keeper;
    let mut last = world.pids().supervisor;
    signal(last, Signal::KILL);
    for _ in 0..8 {
        last = wait_for("the next supervisor", || child_of(keeper, "supervisor").filter(|pid| *pid != last));
        signal(last, Signal::KILL);
    }
    assert_eq!(world.running(4), before);
    world.check_records();
}

/// Numbered lines on both streams, slowly enough for the kills to land among them.
fn counts(lines: usize, both: bool) -> String {
    let err = if both { "echo err $i >&2;" } else { "" };
    format!(
        "i=0; while [ $i -lt {lines} ]; do echo out $i; {err} i=$((i + 1)); [ $((i % 2500)) = 0 ] && sleep 0.05; done"
    )
}

/// Five kills land while 100,000 numbered lines are written, half of them on one stream and half on two. (Where keeper and supervisor die
/// at once, nobody holds the pipe of a container that ends in that moment; so all of them land early.)
fn lines_survive(test: &str, log: &str, kills: [&[Victim]; 5]) -> Option<()> {
    const UNITS: [(&str, usize, bool); 2] = [("both", 25_000, true), ("plain", 50_000, false)];
    let world = world(test, &[])?;
    for (unit, lines, both) in UNITS {
        world.unit(unit, &counts(lines, both), &format!("{NEVER}\n{log}"));
    }
    for (n, victims) in kills.into_iter().enumerate() {
        let goal = (n + 1) * 3_500 * "out 1000\n".len();
        wait_for("more to be written", || (world.raw("plain").len() >= goal).then_some(()));
        world.kill(victims);
    }
    for (unit, lines, both) in UNITS {
        let row = world.moored.wait_phase(unit, &["completed", "failed"]);
        assert_eq!(row["exit"], "code 0", "{row}");
        let text = world.moored.log(unit);
        let of =
            |stream: &str| text.lines().filter(|line| line.starts_with(stream)).map(str::to_owned).collect::<Vec<_>>();
        let expected = |stream: &str| (0..lines).map(|n| format!("{stream} {n}")).collect::<Vec<_>>();
        assert!(of("out") == expected("out"), "{unit}: stdout is not what was written");
        assert!(of("err") == if both { expected("err") } else { Vec::new() }, "{unit}: stderr is not what was written");
        let bytes: usize = text.lines().map(|line| line.len() + 1).sum();
        assert_eq!(world.raw(unit).len(), bytes, "{unit}: the files hold what was written, no more");
    }
    let expected: String = (0..50_000).map(|n| format!("out {n}\n")).collect();
    assert!(world.raw("plain") == expected.as_bytes(), "the files of one stream are what was written");
    world.check_records();
    Some(())
}

#[test]
fn a_hundred_thousand_lines_survive_five_kills() {
    use Victim::{Keeper, Supervisor};
    lines_survive("lines", "", [&[Supervisor], &[Supervisor], &[Keeper], &[Supervisor], &[Supervisor]]);
}

#[test]
fn a_hundred_thousand_lines_survive_five_kills_and_rotation() {
    use Victim::{Keeper, Supervisor};
    let log = "[log]\nmax_size = \"16K\"\nmax_files = 1000";
    lines_survive("rotated", log, [&[Supervisor, Keeper], &[Supervisor], &[Supervisor], &[Supervisor], &[Supervisor]]);
}

/// Kills a process at the `n`th system call that one of its threads makes from now on.
struct Trap(std::process::Child);

impl Trap {
    /// Returns when every thread is watched. The signal lands before the call.
    fn set(strace: &Path, pid: i32, threads: bool, n: usize) -> Trap {
        let mut command = std::process::Command::new(strace);
        command.args(["-o", "/dev/null", "-e", &format!("inject=all:signal=KILL:when={n}"), "-p", &pid.to_string()]);
        if threads {
            command.arg("-f");
        }
        let trap = Trap(command.stderr(std::process::Stdio::null()).spawn().unwrap());
        let is_watched = |task: &fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
        };
        let tasks = || fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        // It may be dead already, if it made calls meanwhile.
        wait_for("strace to watch", || (!is_alive(pid) || tasks().all(|task| is_watched(&task))).then_some(()));
        trap
    }
}

impl Drop for Trap {
    /// Its death lets go of what it traces, alive or dead; a zombie that it has not looked at is hidden from its parent till then.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tells on itself if it ever runs twice at a time.
const ALONE: &str = "mkdir /data/alone || echo twice >> /data/twice; echo run >> /data/runs; \
                     trap 'rmdir /data/alone; exit 7' TERM; while :; do sleep 1000 & wait; done";

/// One unit that is restarted and one that is not, whoever dies on the way.
fn restart_across_a_death(world: &World, strace: &Path, victim: Victim, n: usize) {
    let (before, pids) = (world.running(2), world.pids());
    let traced = if victim == Victim::Keeper { pids.keeper } else { pids.supervisor };
    let trap = Trap::set(strace, traced, victim == Victim::Supervisor, n);
    // The client may lose its connection; what it asked for was done or not.
    let mut client = world.moored.moored(&["restart", "alone"]);
    let mut client = client.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_for("an answer or a death", || (client.try_wait().unwrap().is_some() || !is_alive(traced)).then_some(()));
    drop(trap);
    wait_for("an answer", || client.try_wait().unwrap());
    let after = world.running(2);
    assert_eq!(after["other"], before["other"], "at call {n} of the {victim:?}");
    wait_for("one cgroup each", || (world.cgroups().len() == 2).then_some(()));
    assert!(
        !world.data.join("twice").exists(),
        "two at a time at call {n} of the {victim:?}\n{}",
        world.moored.output()
    );
    world.check_records();
}

#[test]
fn a_restart_converges_whichever_call_the_supervisor_dies_at() {
    let Some(strace) = tool("strace") else { return };
    let Some(world) = world("calls", &[]) else { return };
    world.unit("alone", ALONE, "");
    world.unit("other", WAITS, "");
    for n in [1, 2, 4, 7, 11, 16, 22, 29, 37, 46, 56, 67, 79, 92] {
        restart_across_a_death(&world, &strace, Victim::Supervisor, n);
    }
}

#[test]
fn a_restart_converges_whichever_call_the_keeper_dies_at() {
    let Some(strace) = tool("strace") else { return };
    for n in [1, 2, 3, 5, 8, 12, 17, 23] {
        let Some(world) = world(&format!("keepercalls{n}"), &[]) else { return };
        world.unit("alone", ALONE, "");
        world.unit("other", WAITS, "");
        restart_across_a_death(&world, &strace, Victim::Keeper, n);
    }
}

/// A living child of this process with that word in its command line.
fn child_of(parent: i32, word: &str) -> Option<i32> {
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent_of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        parent_of == Some(parent) && String::from_utf8_lossy(&line).split('\0').any(|part| part == word)
    };
    pids.filter(|pid| is_alive(*pid)).find(is_it)
}

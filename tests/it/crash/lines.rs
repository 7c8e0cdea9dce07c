//! What containers print while their supervisor and keeper die.

use moored::keeper;
use rustix::process::Signal;

use super::super::support::wait_for;
use super::{NEVER, Victim, World, child_of, freeze, is_alive, name, signal, world};

/// Numbered lines on both streams, slowly enough for the kills to land among them.
fn counts(lines: usize, both: bool) -> String {
    let err = if both { "echo err $i >&2;" } else { "" };
    format!(
        "i=0; while [ $i -lt {lines} ]; do echo out $i; {err} i=$((i + 1)); [ $((i % 2500)) = 0 ] && sleep 0.05; done"
    )
}

/// Five kills land while 100,000 numbered lines are written, half of them on one stream and half on two. (Where keeper and supervisor die
/// at once, nobody holds the pipe of a container that ends before the anchor has opened it; so all of them land early.)
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

/// The keeper is dead, and the supervisor dies before the anchor has its descriptors. A frozen process stands for one that does not come
/// to do its work in time: the anchor has opened the FIFOs, and they are all that holds what the containers left. The next supervisor dies too, at
/// once.
#[test]
fn what_ends_while_only_the_anchor_lives_loses_no_line() {
    const UNITS: usize = 8;
    const LINES: usize = 200;
    let Some(world) = world("last-words", &[]) else { return };
    let script = |n| {
        format!(
            "until [ -e /data/go ]; do sleep 0.05; done; i=0
while [ $i -lt {LINES} ]; do echo out $i; echo err $i >&2; i=$((i + 1)); done; exit {n}"
        )
    };
    world.units(UNITS, script, NEVER);
    let running = world.running(UNITS);
    let (pids, anchor) = (world.pids(), world.moored.anchor_pid());
    freeze(pids.supervisor);
    signal(pids.keeper, Signal::KILL);
    wait_anchor_adopts(&world, anchor);
    freeze(anchor);
    signal(pids.supervisor, Signal::KILL);
    wait_for("the supervisor to end", || (!is_alive(pids.supervisor)).then_some(()));
    world.touch("go");
    wait_for("all to end", || running.values().all(|pid| !is_alive(*pid)).then_some(()));
    signal(anchor, Signal::CONT);
    let next = wait_for("the next supervisor", || child_of(anchor, "supervisor"));
    signal(next, Signal::KILL);
    for n in 0..UNITS {
        let row = world.moored.wait_phase(&name(n), &["completed", "failed"]);
        assert_eq!(row["exit"], format!("code {n}").as_str(), "{row}\n{}", world.moored.output());
        let log = world.moored.log(&name(n));
        for stream in ["out", "err"] {
            let of: Vec<&str> = log.lines().filter(|line| line.starts_with(stream)).collect();
            let expected: Vec<String> = (0..LINES).map(|i| format!("{stream} {i}")).collect();
            assert_eq!(of, expected, "{stream} of {}", name(n));
        }
    }
    world.check_records();
    wait_for("the anchor to have let go of every FIFO", || fifos_open(anchor).eq(&0).then_some(()));
}

/// Until the anchor answers in the keeper's place.
fn wait_anchor_adopts(world: &World, anchor: i32) {
    let run_dir = world.moored.dir.join("run");
    wait_for("the anchor in the keeper's place", || {
        keeper::observe(&run_dir).ok().filter(|stats| stats.keeper == anchor && stats.adopting)
    });
}

/// How many FIFOs of containers a process has open.
fn fifos_open(pid: i32) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let paths = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    paths.filter(|path| path.to_string_lossy().contains("/run/c/")).count()
}

//! Who dies, and what of it containers and their records may show: nothing.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;

use super::super::support::wait_for;
use super::{NEVER, Victim, WAITS, child_of, freeze, generation, is_alive, name, signal, text, world};

/// Containers of a burst of starts or stops.
const BURST: usize = 30;

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

/// What sets a container up dies with its keeper; the init in front of a program is no longer that.
#[test]
fn an_init_in_front_of_the_program_outlives_the_keeper() {
    let Some(world) = world("init", &[]) else { return };
    let text = world.unit_text("trap 'exit 4' TERM; while :; do sleep 1000 & wait; done", NEVER);
    world.moored.unit("web", &text.replace("[process]\n", "[process]\ninit = true\n"));
    let before = world.running(1);
    world.kill(&[Victim::Keeper]);
    assert_eq!(world.running(1), before);
    signal(before["web"], Signal::TERM);
    assert_eq!(world.moored.wait_phase("web", &["failed"])["exit"], "code 4");
    world.check_records();
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
    let before = world.waiting(2);
    world.kill(&[Victim::Anchor]);
    assert_eq!(world.pids().anchor, None);
    assert!(world.moored.ok(&["status"]).contains("no spare"));
    assert_eq!(world.running(2), before);
    signal(before[&name(0)], Signal::KILL);
    world.moored.wait_unit(&name(0), "restarted", |row| row["restarts"] == 1 && row["phase"] == "running");
    world.moored.up();
    wait_for("the new anchor to be known", || (world.pids().anchor == Some(world.moored.anchor_pid())).then_some(()));
    assert_eq!(world.waiting(2)[&name(1)], before[&name(1)]);
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

/// Of its processes the one with the lowest number, which is not the first where numbers began anew in between.
#[test]
fn with_all_three_dead_its_first_process_is_found_among_lower_numbers() {
    let Some(mut world) = world("wrapped", &[]) else { return };
    world.unit("web", "trap 'touch /data/heard; exit 0' TERM; sleep 1000000 & while :; do wait; done", NEVER);
    world.waiting(1);
    let last: i32 = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim().parse().unwrap();
    let next = |back: i32| fs::write("/proc/sys/kernel/ns_last_pid", (last - 2 - back).to_string()).unwrap();
    // How many numbers others take until it gets its own is not the same each time.
    let first = (0..400).find_map(|n| {
        next(n % 20);
        world.moored.ok(&["restart", "web"]);
        let first = world.waiting(1)["web"];
        let child = wait_for("its child", || children(first).first().copied());
        (child < first && started(child) == started(first)).then_some(first)
    });
    let first = first.expect("numbers to begin anew between it and its child, in 400 tries");
    let pids = world.pids();
    for pid in [pids.supervisor, pids.keeper, pids.anchor.unwrap()] {
        signal(pid, Signal::KILL);
    }
    wait_for("all to be gone", || (!is_alive(pids.anchor.unwrap()) && !is_alive(pids.supervisor)).then_some(()));
    let _ = fs::remove_file(world.data.join("heard"));
    world.moored.up();
    assert_eq!(world.running(1)["web"], first, "{}", world.moored.output());
    assert_eq!(world.moored.stop().code(), Some(0));
    assert!(world.data.join("heard").exists(), "it was killed: {}", world.moored.output());
}

fn children(pid: i32) -> Vec<i32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// In ticks since the boot.
fn started(pid: i32) -> u64 {
    moored::sys::stat::stat(pid).expect("that it lives").started_ticks
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
        let running = world.waiting(6);
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
    let running = world.waiting(6);
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

/// A record that is lost or torn (SAFETY.md 11) costs its unit what was counted, and no container: the keeper knows it.
#[test]
fn a_record_that_is_gone_or_torn_costs_no_container() {
    let Some(world) = world("records", &[]) else { return };
    world.units(3, |_| WAITS.to_owned(), "");
    let before = world.waiting(3);
    let pids = world.pids();
    let record = |n| world.moored.dir.join(&format!("run/records/{}.json", name(n)));
    freeze(pids.supervisor);
    std::fs::remove_file(record(0)).unwrap();
    let text = std::fs::read(record(1)).unwrap();
    std::fs::write(record(1), &text[..text.len() / 2]).unwrap();
    let victims = [Victim::Supervisor];
    world.kill_without_waiting(pids, &victims);
    world.wait_supervisor(pids, &victims);
    assert_eq!(world.running(3), before, "{}", world.moored.output());
    world.moored.ok(&["restart", &name(0), &name(1)]);
    let after = world.running(3);
    assert!(after[&name(0)] != before[&name(0)] && after[&name(1)] != before[&name(1)]);
    assert_eq!(after[&name(2)], before[&name(2)]);
    world.check_records();
}

//! The supervisor and the keeper killed at each of their system calls: a sample of them, whose steps grow.

use std::fs;
use std::path::Path;

use super::super::support::{tool, wait_for};
use super::{Victim, WAITS, World, is_alive, world};

/// Kills a process at the `n`th system call that one of its threads makes from now on.
pub struct Trap(std::process::Child);

impl Trap {
    /// Returns when every thread is watched. The signal lands before the call.
    pub fn set(strace: &Path, pid: i32, threads: bool, n: usize) -> Trap {
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

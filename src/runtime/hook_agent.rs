//! Hooks of a container whose maker may wait for nothing: the keeper.
//!
//! | who | does |
//! |---|---|
//! | the keeper | forks the agent, then the container's process, and goes on |
//! | the process | sets itself up, asks the agent and waits (`maker`), executes the program |
//! | the agent | runs what is to come before anything of the container is there, when asked; prestart and createRuntime when asked; poststart when the program is executed; ends |
//!
//! The agent holds the report pipe as well, so a container has started when its poststart hooks are done. If one fails, the agent says so in
//! the report and kills the process; what follows is what follows any end. poststop hooks are not the agent's: whoever records the exit runs
//! them.
//!
//! - The process is known by the number that the kernel gives with its message, and held by a pidfd from then on.
//! - The process dies while it waits, also because the keeper died: the hook that it waits for is killed, and the agent ends. A poststart hook
//!   that runs is not interrupted.
//! - The agent dies: the process finds its socket closed and fails, or, if the program runs, the rest of the poststart hooks is not run.

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::executed::has_executed;
use super::helper::KEEPERS_PATIENCE;
use super::hook::{run_all, run_all_for};
use super::maker::{self, Maker};
use super::slots::Slots;
use super::spawn::{Failure, SpawnError, Spawned, spawn_within};
use crate::oci::{Hooks, Script, Step};
use crate::sys::clone::{Request, Side, clone3, leave};
use crate::sys::pidfd::send_signal;

const SIGKILL: u8 = 9;

/// As [`super::spawn`], for any script and for the keeper, who does not wait for ever: one with hooks gets an agent.
pub fn spawn(script: &Script, mut slots: Slots, prepare: impl Fn()) -> Result<Spawned, SpawnError> {
    let hooks = script.hooks().filter(|hooks| hooks.need_maker());
    if hooks.is_none() && script.host_start().is_none() {
        return spawn_within(script, slots, None, Some(KEEPERS_PATIENCE), prepare);
    }
    let (ours, theirs) = maker::pair().map_err(SpawnError::Clone)?;
    match clone3(&Request::default()).map_err(SpawnError::Clone)? {
        Side::Child => {
            prepare();
            serve(script, hooks, ours, slots)
        }
        Side::Parent { .. } => drop(ours),
    }
    slots.maker = Some(theirs);
    // Without a process the agent finds its socket closed.
    spawn_within(script, slots, None, Some(KEEPERS_PATIENCE), prepare)
}

/// The agent's life.
fn serve(script: &Script, hooks: Option<&Hooks>, maker: Maker, slots: Slots) -> ! {
    if script.host_start().is_some() {
        // What it says is in the container's log. This fails only for descriptors that are none.
        let _ = slots.stdout.as_ref().map(rustix::stdio::dup2_stdout);
        let _ = slots.stderr.as_ref().map(rustix::stdio::dup2_stderr);
    }
    let report = slots.report;
    let mut keep = [maker.as_fd().as_raw_fd(), report.as_raw_fd()];
    if crate::sys::fd::close_from_except(3, &mut keep).is_ok() {
        // Its own session: the terminal's signals are the supervisor's.
        let _ = rustix::process::setsid();
        if let Err(failure) = run(script, hooks, &maker)
            && let Ok(bytes) = postcard::to_stdvec(&failure)
        {
            let _ = rustix::io::write(&report, &bytes);
        }
    }
    leave(0)
}

/// An error is one of poststart; the others are the process's to tell.
fn run(script: &Script, hooks: Option<&Hooks>, maker: &Maker) -> Result<(), Failure> {
    let Some(pid) = maker.await_process() else { return Ok(()) };
    let Some(pidfd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return Ok(());
    };
    if let Some(hook) = script.host_start() {
        let done = run_all_for(pidfd.as_fd(), std::slice::from_ref(hook), "", None);
        maker.answer(&done);
        // The next thing that it asks for is of the spec's hooks.
        if done.is_err() || hooks.is_none() || maker.await_process() != Some(pid) {
            return Ok(());
        }
    }
    let Some(hooks) = hooks else { return Ok(()) };
    let (bundle, number) = (hooks.state.bundle.as_path(), pid.unsigned_abs());
    let state = hooks.state.json("creating", number);
    let done = run_all_for(pidfd.as_fd(), &hooks.create_runtime, &state, Some(bundle));
    maker.answer(&done);
    if done.is_err() || hooks.poststart.is_empty() {
        return Ok(());
    }
    maker.await_program();
    // It can be signalled until it is reaped, and until then the number is its own.
    let executed = has_executed(pid) == Some(true) && send_signal(pidfd.as_fd(), 0).is_ok();
    if !executed {
        return Ok(());
    }
    run_all(&hooks.poststart, &hooks.state.json("running", number), Some(bundle)).map_err(|error| {
        let _ = send_signal(pidfd.as_fd(), SIGKILL);
        let step = script.steps.iter().position(|step| matches!(step, Step::MakerHooks(_))).unwrap_or_default();
        Failure { step: step as u16, errno: 0, text: error.to_string(), program: false }
    })
}

//! The hooks that follow the start of a container, and its end.

use std::os::fd::OwnedFd;

use super::directory::Container;
use super::operate::started_ticks;
use super::{ContainerError, call};
use crate::oci::Hooks;
use crate::runtime::executed::has_executed;
use crate::runtime::hook::keep_descriptors;
use crate::runtime::{Failure, HookError, HostPid, run_each_hook, run_hooks};

impl Container {
    /// Behind the gate: waits until the process has run its startContainer hooks and executed its program, then runs poststart. Whatever
    /// fails, the container is stopped and deleted (runtime-spec, "Lifecycle").
    pub(super) fn follow(&self, hooks: &Hooks, started: OwnedFd, pid: HostPid) -> Result<(), ContainerError> {
        let followed = match Failure::read_plain(started).map_err(call("read start.fifo"))? {
            Some(failure) => Err(ContainerError::Setup(failure.text)),
            None if self.was_killed(pid) => Err(ContainerError::KilledInSetup { oom: false }),
            None => poststart(hooks, pid).map_err(ContainerError::from),
        };
        if followed.is_err() {
            // The first error is the one that matters.
            let _ = self.delete(true);
        }
        followed
    }

    /// Whether it ended before its program, by what is left of it. Of one that was reaped nothing is known: it ran.
    fn was_killed(&self, pid: HostPid) -> bool {
        let begun = self.read().ok().flatten().and_then(|record| record.process).map(|process| process.started_ticks);
        begun.is_some() && begun == started_ticks(pid) && has_executed(pid.0.cast_signed()) != Some(true)
    }
}

/// Once the program is executed.
pub(super) fn poststart(hooks: &Hooks, pid: HostPid) -> Result<(), HookError> {
    keep_descriptors();
    run_hooks(&hooks.poststart, &hooks.state.json("running", pid.0), Some(&hooks.state.bundle))
}

/// Once nothing of it runs any more. What failed is the caller's to tell.
pub(super) fn poststop(hooks: &Hooks) -> Vec<HookError> {
    keep_descriptors();
    run_each_hook(&hooks.poststop, &hooks.state.json("stopped", 0), Some(&hooks.state.bundle))
}

//! How the process is served by the kernel.

use rustix::io::Errno;

use super::error::{StepError, call, errno_of};
use crate::oci::{Affinity, MemoryPolicy, Scheduler};
use crate::sys::scheduling;

pub(super) fn set_scheduler(scheduler: &Scheduler) -> Result<(), StepError> {
    let attributes = scheduling::Attributes {
        policy: scheduler.policy,
        flags: scheduler.flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        runtime_ns: scheduler.runtime_ns,
        deadline_ns: scheduler.deadline_ns,
        period_ns: scheduler.period_ns,
        ..scheduling::Attributes::default()
    };
    scheduling::set_scheduler(attributes).map_err(|error| call("sched_setattr")(errno_of(&error)))
}

pub(super) fn set_affinity(affinity: &Affinity) -> Result<(), StepError> {
    match scheduling::set_affinity(&affinity.cpus).map_err(|error| errno_of(&error)) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL) if affinity.best_effort => Ok(()),
        Err(errno) => Err(call("sched_setaffinity")(errno)),
    }
}

pub(super) fn set_io_priority(value: u16) -> Result<(), StepError> {
    scheduling::set_io_priority(value).map_err(|error| call("ioprio_set")(errno_of(&error)))
}

pub(super) fn set_memory_policy(policy: &MemoryPolicy) -> Result<(), StepError> {
    scheduling::set_memory_policy(policy.mode, &policy.nodes).map_err(|error| call("set_mempolicy")(errno_of(&error)))
}

pub(super) fn set_personality(persona: u32) -> Result<(), StepError> {
    scheduling::set_personality(persona).map_err(|error| call("personality")(errno_of(&error)))
}

//! The seccomp filter of the process.

use super::error::{StepError, call, errno_of};
use crate::oci::seccomp::Filter;

/// Loads it into the calling thread, the only one.
pub(super) fn load(filter: &Filter) -> Result<(), StepError> {
    crate::sys::seccomp::load(&program(filter), filter.flags.bits()).map_err(|error| call("seccomp")(errno_of(&error)))
}

/// As the kernel takes it.
pub(super) fn program(filter: &Filter) -> Vec<libc::sock_filter> {
    let instruction =
        |one: &crate::oci::seccomp::Instruction| libc::sock_filter { code: one.code, jt: one.jt, jf: one.jf, k: one.k };
    filter.program.iter().map(instruction).collect()
}

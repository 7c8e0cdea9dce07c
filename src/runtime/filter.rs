//! The seccomp filter of the process.
//!
//! Compiling one takes as long as a good part of what the process does to set itself up. So where its parent makes it directly, that happens
//! meanwhile: the process, which loads its filter last, waits for it at the end of a pipe. In front of a trampoline it waits for the word that the trampoline has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{OwnedFd, RawFd};

use super::error::{StepError, call, errno_of};
use super::trampoline::Trampoline;
use crate::oci::Script;
use crate::oci::seccomp::Filter;

/// That the trampoline has the filter.
const WORD: [u8; 1] = [b'1'];
/// A filter of the kernel's greatest length, each instruction at its longest: 3 + 1 + 1 + 5 bytes, and what says how many.
const MAX_BYTES: u64 = 10 * crate::oci::seccomp::MAX_INSTRUCTIONS as u64 + 16;

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

/// Gives it to the process that executes this script and waits at the other end, or to its trampoline, whose report has this number. A
/// process that is gone reads nothing: its report says why.
pub(super) fn hand_over(
    filter: &Filter,
    script: &Script,
    to: OwnedFd,
    trampoline: Option<(Trampoline, RawFd)>,
) -> std::io::Result<()> {
    match trampoline {
        Some((trampoline, report)) if Trampoline::awaits_filter(script) => {
            trampoline.write(script, Some(filter), report)?;
            let _ = rustix::io::write(to, &WORD);
        }
        _ => {
            let _ = File::from(to).write_all(&postcard::to_stdvec(filter).unwrap_or_default());
        }
    }
    Ok(())
}

/// In the process: the filter.
pub(super) fn receive(coming: OwnedFd) -> Result<Filter, StepError> {
    let mut bytes = Vec::new();
    let read = File::from(coming).take(MAX_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| call("wait for the filter")(errno_of(&error)))?;
    postcard::from_bytes(&bytes).map_err(|_| StepError::NoFilter)
}

/// In the process: that its trampoline has it.
pub(super) fn await_word(coming: &OwnedFd) -> Result<(), StepError> {
    match rustix::io::retry_on_intr(|| rustix::io::read(coming, &mut [0])) {
        Ok(1) => Ok(()),
        Ok(_) => Err(StepError::NoFilter),
        Err(errno) => Err(call("wait for the filter")(errno)),
    }
}

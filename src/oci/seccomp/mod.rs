//! An OCI seccomp profile compiled to a classic BPF program. Pure.
//!
//! The way: `rules` checks the profile and lowers it, `outcome` gathers what happens to each call number of each
//! ABI and joins equal neighbours to ranges, `assemble` lays the ranges out as a balanced binary tree. The kernel runs
//! a filter once per known call number when it loads it, so a tree (depth 7 for 340 names) is not only faster at each
//! call than a list of comparisons, it loads in a tenth of the time.
//!
//! The spec (config-linux.md, "Seccomp") leaves open what libseccomp happens to do. Profiles are written against runc,
//! so its answers count, and a profile means here what it means there:
//!
//! - The native architecture is always part of the filter; listed ones that this kernel serves (x32 and i386 on x86-64,
//!   arm on aarch64) are added. Listed ones that it can never report (mips on x86-64) change nothing.
//! - A call from an ABI that is not listed kills the thread (libseccomp's bad-architecture action). That includes x32,
//!   which reports x86-64's architecture and differs in one bit of the number. Number -1 is not x32: it is what a tracer
//!   leaves behind when it skips a call.
//! - Names that no table knows are skipped: profiles name calls of other architectures and newer kernels.
//! - A rule whose action (and errno) is the default one is skipped, so it does not shadow a conditional rule.
//! - A rule without conditions wins over all rules with conditions for its syscall, wherever it stands; the first of
//!   several wins. Among rules with conditions the first that holds wins. (libseccomp refuses or reorders overlapping
//!   ones with different actions: there the order of the file is the only answer a reader can predict.)
//! - All conditions of a rule must hold, but if a rule names the same argument twice, each of its conditions is a rule of
//!   its own (runc: profiles once relied on it).
//! - In a masked comparison the value is masked as well.
//! - i386 and arm compare low halves only, as their registers have no others. x32 compares all 64 bits, unlike
//!   libseccomp: its callers control the upper halves, and the kernel reads them in calls it shares with x86-64.
//! - i386 reaches sockets and System V IPC also through `socketcall` and `ipc`. A rule without conditions covers that way
//!   too. The arguments behind it cannot be seen, so of the rules with conditions those that refuse cover it and those
//!   that allow do not: a filter is never looser there than it reads. (libseccomp allows.)
//! - Calls newer than every call that the profile names, for that ABI, get ENOSYS instead of a refusing default action
//!   (runc's rule; not if the default is ENOSYS already): the C library's fallback depends on it, and a profile cannot
//!   have meant to refuse what did not exist. Unlike runc, which needs `architectures`, this holds for the native one too
//!   where none is listed.
//! - An absent errnoRet is EPERM; one above what the kernel keeps, or beside an action that has none, is an error (the
//!   spec's MUST).
//! - Absent `flags` are SPEC_ALLOW (as in runc and crun: without it, kernels before 5.16 slow the whole process down).
//!   An empty list is none. WAIT_KILLABLE_RECV has no effect without a listener: the kernel takes it only with one.
//! - `SCMP_ACT_NOTIFY` needs `listenerPath`. It cannot be the default action (as for runc), and the profile must let sendmsg run, by which
//!   the process hands its listener over (runc needs write for that).

mod abi;
mod assemble;
#[cfg(any(test, fuzzing))]
mod evaluate;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[doc(hidden)]
pub mod interpret;
mod lookup;
mod multiplex;
mod outcome;
mod rules;
mod syscalls;
#[cfg(test)]
mod tests;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};
use serde::{Deserialize, Serialize};

/// `BPF_MAXINSNS`: the kernel refuses longer programs.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// `SECCOMP_RET_KILL_THREAD`, libseccomp's answer to a call from an ABI that the filter does not list.
const BAD_ARCH: u32 = 0;

/// A compiled profile, ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Between 1 and [`MAX_INSTRUCTIONS`].
    pub program: Vec<Instruction>,
    /// For `SECCOMP_SET_MODE_FILTER`.
    pub flags: Flags,
}

/// `struct sock_filter` (linux/filter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// Class, size, mode, operation.
    pub code: u16,
    /// Instructions to skip when a condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// `SECCOMP_FILTER_FLAG_*` (linux/seccomp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags(u32);

impl Flags {
    /// None.
    pub const NONE: Flags = Flags(0);
    /// Load into all threads of the process.
    pub const TSYNC: Flags = Flags(1 << 0);
    /// Log every answer but "allow".
    pub const LOG: Flags = Flags(1 << 1);
    /// Leave speculative store bypass as it is.
    pub const SPEC_ALLOW: Flags = Flags(1 << 2);

    /// Ask an agent: the call returns the listener.
    pub const NEW_LISTENER: Flags = Flags(1 << 3);
    /// TSYNC fails with ESRCH: with a listener its usual answer would be taken for one (Linux 5.7).
    pub const TSYNC_ESRCH: Flags = Flags(1 << 4);
    /// A process that waits for an agent that has its call can only be killed (Linux 5.19).
    pub const WAIT_KILLABLE_RECV: Flags = Flags(1 << 5);

    /// Whether it has all of the other.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// As seccomp(2) takes them.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// Why a profile does not compile. The path is that of the value in config.json.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not something that this program is built for.
    #[error("seccomp filters are compiled for x86-64 and aarch64, not for {arch}")]
    Native {
        /// What was asked for.
        arch: Arch,
    },
    /// A listener that cannot be.
    #[error("{path}: {reason}")]
    Notify {
        /// Where.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// The kernel would cut it.
    #[error("{path}: {found} is out of range, expected at most {max}")]
    ErrnoRange {
        /// Where.
        path: String,
        /// What stands there.
        found: u32,
        /// The largest that the action can carry.
        max: u32,
    },
    /// The spec demands an error.
    #[error("{path}: {action} has no errno, only SCMP_ACT_ERRNO and SCMP_ACT_TRACE do")]
    ErrnoUnused {
        /// Where.
        path: String,
        /// Its action.
        action: LinuxSeccompAction,
    },
    /// System calls have six arguments.
    #[error("{path}: there is no argument {found}, expected 0 to 5")]
    ArgIndex {
        /// Where.
        path: String,
        /// What stands there.
        found: usize,
    },
    /// The spec demands at least one.
    #[error("{path}: is empty, expected at least one syscall name")]
    NoNames {
        /// Where.
        path: String,
    },
    /// A name of no letters.
    #[error("{path}: is an empty string, expected a syscall name")]
    EmptyName {
        /// Where.
        path: String,
    },
    /// The kernel takes no longer ones.
    #[error(
        "linux.seccomp: the profile needs at least {length} BPF instructions, the kernel takes {MAX_INSTRUCTIONS}: use \
         fewer conditions on arguments"
    )]
    TooLong {
        /// Instructions; building stops at some multiple of the limit.
        length: usize,
    },
}

/// Whether any ABI has a call of this name; [`compile`] skips other names.
pub fn knows(name: &str) -> bool {
    syscalls::lookup().find(name).is_some() || multiplex::lookup().find(name).is_some()
}

/// The architecture that this program is built for, if [`compile`] knows it.
pub const fn native() -> Option<Arch> {
    if cfg!(target_arch = "x86_64") {
        Some(Arch::ScmpArchX86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Arch::ScmpArchAarch64)
    } else {
        None
    }
}

/// Whether a profile can be compiled; all that is wrong with it but [`Error::TooLong`]. It takes a fraction of the time.
pub fn check(profile: &LinuxSeccomp, native: Arch) -> Result<(), Vec<Error>> {
    rules::check(profile, native).map(drop)
}

/// Whether calls are handed to an agent.
pub fn notifies(profile: &LinuxSeccomp) -> bool {
    profile.syscalls().iter().flatten().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

/// Compiles a profile for a kernel whose own architecture is `native` (`SCMP_ARCH_X86_64` or `SCMP_ARCH_AARCH64`).
///
/// Errs with everything that is wrong with the profile, or with [`Error::TooLong`].
pub fn compile(profile: &LinuxSeccomp, native: Arch) -> Result<Filter, Vec<Error>> {
    let checked = rules::check(profile, native)?;
    let flags = checked.flags;
    let plan = outcome::plan(checked, BAD_ARCH);
    let program = assemble::assemble(&plan.sections, &plan.chains, &plan.rules, BAD_ARCH);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(vec![Error::TooLong { length: program.len() }]);
    }
    if flags.has(Flags::NEW_LISTENER) && !lets_hand_over(&program, native) {
        let reason = "with SCMP_ACT_NOTIFY sendmsg must be allowed: the process hands its listener over by it";
        return Err(vec![Error::Notify { path: "linux.seccomp.syscalls".into(), reason }]);
    }
    Ok(Filter { program, flags })
}

/// Whether the process can send the listener of this filter, which holds by then.
fn lets_hand_over(program: &[Instruction], native: Arch) -> bool {
    let (Some(abi), Some(row)) = (abi::Abi::from_oci(native), syscalls::lookup().find("sendmsg")) else { return false };
    let Some(nr) = syscalls::number_in(row, abi) else { return false };
    let call = interpret::Data { nr, arch: abi.audit_arch(), args: [0; 6] };
    rules::lets_run(interpret::interpret(program, &call).0)
}

//! An OCI profile, checked and lowered: actions as kernel return values, rules as lists of conditions that must all hold.

use std::ops::Range;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};

use super::abi::Abi;
use super::{Error, Flags};

/// `SECCOMP_RET_ERRNO` with `ENOSYS`.
pub(super) const RETURN_ENOSYS: u32 = RETURN_ERRNO | 38;
/// `SECCOMP_RET_ERRNO`; the low half is the errno.
const RETURN_ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_USER_NOTIF`.
const RETURN_USER_NOTIF: u32 = 0x7fc0_0000;
/// `SECCOMP_RET_TRACE`; the low half is passed to the tracer.
const RETURN_TRACE: u32 = 0x7ff0_0000;
/// `EPERM`, which OCI says an absent errnoRet stands for.
const EPERM: u32 = 1;
/// One less than the kernel's own `MAX_ERRNO`, to which it cuts larger ones without a word: libseccomp takes no more.
const MAX_ERRNO: u32 = 4094;
/// `SECCOMP_RET_DATA`: what a tracer can be handed.
const MAX_TRACE: u32 = 0xffff;
/// A system call has this many arguments.
const ARGUMENTS: usize = 6;

/// A whole profile, checked.
pub(super) struct Profile<'a> {
    /// `SECCOMP_RET_*` for what no rule covers.
    pub(super) default: u32,
    /// Whether calls newer than the profile get ENOSYS instead of the default.
    pub(super) enosys_for_newer: bool,
    /// Served ABIs, the native one first, each once.
    pub(super) abis: Vec<Abi>,
    /// All rules in the order of the file.
    pub(super) rules: Vec<Rule>,
    /// One per entry of `syscalls`.
    pub(super) entries: Vec<Entry<'a>>,
    /// For seccomp(2).
    pub(super) flags: Flags,
}

/// One entry of `syscalls`: several names that share rules. Without rules where the action is the default one.
pub(super) struct Entry<'a> {
    pub(super) names: &'a [String],
    pub(super) rules: Range<usize>,
}

/// "Return `action` if all conditions hold."
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// One comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) arg: u8,
    pub(super) test: Test,
    /// Holds when the test does not.
    pub(super) negated: bool,
}

/// What is compared; the other operators are negations of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u64),
    Greater(u64),
    GreaterEqual(u64),
    /// `arg & mask == value & mask`.
    Masked {
        mask: u64,
        value: u64,
    },
}

impl Test {
    /// Whether bits above the 32nd can change the answer.
    pub(super) fn reads_upper_half(self) -> bool {
        match self {
            Test::Masked { mask, .. } => mask > u64::from(u32::MAX),
            Test::GreaterEqual(0) => false,
            Test::Equal(_) | Test::Greater(_) | Test::GreaterEqual(_) => true,
        }
    }
}

/// Checks everything in the profile; all errors at once.
pub(super) fn check<'a>(profile: &'a LinuxSeccomp, native: Arch) -> Result<Profile<'a>, Vec<Error>> {
    let mut errors = Vec::new();
    let abis = check_architectures(profile, native, &mut errors);
    let notifies = check_listener(profile, &mut errors);
    let default = check_action(
        ("defaultAction", "defaultErrnoRet"),
        "linux.seccomp",
        profile.default_action(),
        profile.default_errno_ret(),
        &mut errors,
    );
    let mut rules = Vec::new();
    let mut entries = Vec::new();
    for (index, syscall) in profile.syscalls().iter().flatten().enumerate() {
        let path = format!("linux.seccomp.syscalls[{index}]");
        entries.push(check_entry(&path, syscall, default, &mut rules, &mut errors));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let default = default.unwrap_or(0);
    let enosys_for_newer = refuses(profile.default_action()) && default != RETURN_ENOSYS;
    Ok(Profile { default, enosys_for_newer, abis, rules, entries, flags: flags(profile, notifies) })
}

/// Whether an action keeps the call from running for good. A tracer is asked about calls that it does not know, too.
fn refuses(action: LinuxSeccompAction) -> bool {
    use LinuxSeccompAction as A;
    match action {
        A::ScmpActKill | A::ScmpActKillThread | A::ScmpActKillProcess | A::ScmpActTrap | A::ScmpActErrno => true,
        A::ScmpActNotify | A::ScmpActTrace | A::ScmpActLog | A::ScmpActAllow => false,
    }
}

/// Whether a return value lets the call run without asking anybody.
pub(super) fn lets_run(action: u32) -> bool {
    const ALLOW: u32 = 0x7fff_0000;
    const LOG: u32 = 0x7ffc_0000;
    matches!(action, ALLOW | LOG)
}

fn check_architectures(profile: &LinuxSeccomp, native: Arch, errors: &mut Vec<Error>) -> Vec<Abi> {
    let Some(own @ (Abi::X86_64 | Abi::Aarch64)) = Abi::from_oci(native) else {
        errors.push(Error::Native { arch: native });
        return Vec::new();
    };
    let mut abis = vec![own];
    for abi in profile.architectures().iter().flatten().filter_map(|arch| Abi::from_oci(*arch)) {
        if abi.is_served_by(own) && !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    abis
}

/// Whether calls are handed to an agent, and so a listener to it.
fn check_listener(profile: &LinuxSeccomp, errors: &mut Vec<Error>) -> bool {
    let path = profile.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    let mut wrong = |field: &str, reason| {
        errors.push(Error::Notify { path: format!("linux.seccomp.{field}"), reason });
    };
    if path.is_some_and(|path| !path.is_absolute()) {
        wrong("listenerPath", "expected the absolute path of a unix socket");
    }
    if path.is_none() && profile.listener_metadata().as_ref().is_some_and(|text| !text.is_empty()) {
        wrong("listenerMetadata", "is for an agent: expected listenerPath beside it");
    }
    let notifies = super::notifies(profile);
    if notifies && path.is_none() {
        wrong("listenerPath", "is missing, expected the socket of the agent that SCMP_ACT_NOTIFY asks");
    }
    notifies
}

/// The kernel's return value for an action. `None` (and an error) where it makes none.
fn check_action(
    (action_key, errno_key): (&str, &str),
    path: &str,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    errors: &mut Vec<Error>,
) -> Option<u32> {
    use LinuxSeccompAction as A;
    let (base, max) = match action {
        A::ScmpActErrno => (RETURN_ERRNO, MAX_ERRNO),
        A::ScmpActTrace => (RETURN_TRACE, MAX_TRACE),
        A::ScmpActNotify if action_key == "defaultAction" => {
            let reason = "SCMP_ACT_NOTIFY cannot be the default: the process could not hand its listener over";
            errors.push(Error::Notify { path: format!("{path}.{action_key}"), reason });
            return None;
        }
        A::ScmpActNotify
        | A::ScmpActKill
        | A::ScmpActKillThread
        | A::ScmpActKillProcess
        | A::ScmpActTrap
        | A::ScmpActLog
        | A::ScmpActAllow => {
            if errno.is_some() {
                errors.push(Error::ErrnoUnused { path: format!("{path}.{errno_key}"), action });
                return None;
            }
            return Some(if action == A::ScmpActNotify { RETURN_USER_NOTIF } else { action.as_u32(None) });
        }
    };
    let errno = errno.unwrap_or(EPERM);
    if errno > max {
        errors.push(Error::ErrnoRange { path: format!("{path}.{errno_key}"), found: errno, max });
        return None;
    }
    Some(base | errno)
}

fn check_entry<'a>(
    path: &str,
    syscall: &'a LinuxSyscall,
    default: Option<u32>,
    rules: &mut Vec<Rule>,
    errors: &mut Vec<Error>,
) -> Entry<'a> {
    if syscall.names().is_empty() {
        errors.push(Error::NoNames { path: format!("{path}.names") });
    }
    for (index, _) in syscall.names().iter().enumerate().filter(|(_, name)| name.is_empty()) {
        errors.push(Error::EmptyName { path: format!("{path}.names[{index}]") });
    }
    let action = check_action(("action", "errnoRet"), path, syscall.action(), syscall.errno_ret(), errors);
    let args = syscall.args().as_deref().unwrap_or_default();
    let conditions: Vec<Condition> =
        args.iter().enumerate().filter_map(|(index, arg)| check_arg(path, index, arg, errors)).collect();
    let start = rules.len();
    if let Some(action) = action.filter(|action| Some(*action) != default) {
        if names_an_argument_twice(&conditions) {
            rules.extend(conditions.into_iter().map(|one| Rule { conditions: vec![one], action }));
        } else {
            rules.push(Rule { conditions, action });
        }
    }
    Entry { names: syscall.names(), rules: start..rules.len() }
}

fn names_an_argument_twice(conditions: &[Condition]) -> bool {
    conditions.iter().enumerate().any(|(at, one)| conditions.iter().take(at).any(|other| other.arg == one.arg))
}

fn check_arg(path: &str, index: usize, arg: &LinuxSeccompArg, errors: &mut Vec<Error>) -> Option<Condition> {
    use LinuxSeccompOperator as Op;
    let Some(number) = u8::try_from(arg.index()).ok().filter(|number| usize::from(*number) < ARGUMENTS) else {
        errors.push(Error::ArgIndex { path: format!("{path}.args[{index}].index"), found: arg.index() });
        return None;
    };
    let value = arg.value();
    let (test, negated) = match arg.op() {
        Op::ScmpCmpEq => (Test::Equal(value), false),
        Op::ScmpCmpNe => (Test::Equal(value), true),
        Op::ScmpCmpGt => (Test::Greater(value), false),
        Op::ScmpCmpLe => (Test::Greater(value), true),
        Op::ScmpCmpGe => (Test::GreaterEqual(value), false),
        Op::ScmpCmpLt => (Test::GreaterEqual(value), true),
        Op::ScmpCmpMaskedEq => (Test::Masked { mask: value, value: arg.value_two().unwrap_or(0) }, false),
    };
    Some(Condition { arg: number, test, negated })
}

fn flags(profile: &LinuxSeccomp, notifies: bool) -> Flags {
    use LinuxSeccompFilterFlag as F;
    let listener = if notifies { Flags::NEW_LISTENER } else { Flags::NONE };
    let Some(asked) = profile.flags() else {
        return Flags::SPEC_ALLOW.with(listener);
    };
    asked.iter().fold(listener, |flags, flag| {
        flags.with(match flag {
            F::SeccompFilterFlagTsync if notifies => Flags::TSYNC.with(Flags::TSYNC_ESRCH),
            F::SeccompFilterFlagTsync => Flags::TSYNC,
            F::SeccompFilterFlagLog => Flags::LOG,
            F::SeccompFilterFlagSpecAllow => Flags::SPEC_ALLOW,
            F::SeccompFilterFlagWaitKillableRecv if notifies => Flags::WAIT_KILLABLE_RECV,
            F::SeccompFilterFlagWaitKillableRecv => Flags::NONE,
        })
    })
}

//! Any bytes as a seccomp profile, compiled and asked about calls, against what the profile says read straight.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Op, LinuxSyscall,
};

use super::evaluate::evaluate;
use super::interpret::{Data, interpret, verify};
use super::{MAX_INSTRUCTIONS, compile, syscalls};
use crate::fuzzing::assert_plain;

const ACTIONS: [Action; 8] = [
    Action::ScmpActAllow,
    Action::ScmpActErrno,
    Action::ScmpActKill,
    Action::ScmpActKillThread,
    Action::ScmpActKillProcess,
    Action::ScmpActTrap,
    Action::ScmpActTrace,
    Action::ScmpActLog,
];
const OPERATORS: [Op; 7] =
    [Op::ScmpCmpNe, Op::ScmpCmpLt, Op::ScmpCmpLe, Op::ScmpCmpEq, Op::ScmpCmpGe, Op::ScmpCmpGt, Op::ScmpCmpMaskedEq];
const ARCHITECTURES: [Arch; 6] = [
    Arch::ScmpArchX86_64,
    Arch::ScmpArchX86,
    Arch::ScmpArchX32,
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchMips,
];
/// `AUDIT_ARCH_*` of those that report one, and one that nothing reports.
const REPORTED: [u32; 5] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0x4000_0008];
/// What values are near.
const VALUES: [u64; 8] = [0, 1, 0xffff_ffff, 1 << 32, 1 << 63, u64::MAX, 0x8000_0000, 0x7fff_ffff];
/// Names that mean several calls, or none.
const ODD: [&str; 8] = ["socketcall", "ipc", "socket", "semop", "recv", "cacheflush", "nonsense", ""];
/// Rules of one profile: their conditions alone can fill a program.
const RULES_MAX: usize = 24;

/// Bytes as decisions; when they are at an end, each is 0.
struct Choices<'b>(&'b [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Near one of the values where something changes, or any.
    fn value(&mut self) -> u64 {
        match self.byte() {
            0 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            near => self.pick(&VALUES).wrapping_add(u64::from(near % 3)).wrapping_sub(1),
        }
    }
}

/// A profile of these bytes, and calls of what is left of them.
pub(crate) fn profile(bytes: &[u8]) {
    if let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) {
        return check(&profile, &mut Choices(&[]));
    }
    let mut choices = Choices(bytes);
    let profile = any_profile(&mut choices);
    check(&profile, &mut choices);
}

fn check(profile: &LinuxSeccomp, choices: &mut Choices<'_>) {
    for native in [Arch::ScmpArchX86_64, Arch::ScmpArchAarch64] {
        let filter = match compile(profile, native) {
            Ok(filter) => filter,
            Err(errors) => {
                assert!(!errors.is_empty(), "refused without a reason");
                errors.iter().for_each(|error| assert_plain(&error.to_string()));
                continue;
            }
        };
        verify(&filter.program);
        assert!(filter.program.len() <= MAX_INSTRUCTIONS);
        for data in calls(profile, Choices(choices.0)) {
            let (found, expected) = (interpret(&filter.program, &data).0, evaluate(profile, native, &data));
            assert_eq!(found, expected, "{native} {data:x?}: {found:#x}, the profile says {expected:#x}");
        }
    }
}

/// What the profile names, with the values it compares and some of the bytes' own.
fn calls(profile: &LinuxSeccomp, mut choices: Choices<'_>) -> Vec<Data> {
    const CALLS_MAX: usize = 400;
    let entries = profile.syscalls().as_deref().unwrap_or_default();
    let conditions = entries.iter().filter_map(|entry| entry.args().as_ref()).flatten();
    let mut values: Vec<u64> =
        conditions.flat_map(|arg| [arg.value(), !arg.value(), arg.value() ^ (1 << 32)]).collect();
    values.truncate(12);
    values.extend([0, u64::MAX, choices.value(), choices.value()]);
    let names = entries.iter().flat_map(LinuxSyscall::names).filter_map(|name| syscalls::lookup().find(name));
    let mut numbers: Vec<u32> = names.flat_map(|row| row.1).filter(|nr| *nr != u16::MAX).map(u32::from).collect();
    numbers.truncate(20);
    numbers.extend([0, 102, 117, u32::from(choices.word()), 0x4000_0000 | u32::from(choices.word()), u32::MAX]);
    let mut calls = Vec::new();
    for nr in numbers {
        for (at, value) in values.iter().enumerate() {
            let arch = REPORTED[(at + nr as usize) % REPORTED.len()];
            let other = values[(at + 1) % values.len()];
            let nr = if at % 7 == 6 { nr.wrapping_add(1) } else { nr };
            calls.push(Data { nr, arch, args: [*value, other, *value, other, *value, other] });
        }
    }
    calls.truncate(CALLS_MAX);
    calls
}

fn any_profile(choices: &mut Choices<'_>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    let (default, errno) = any_action(choices);
    let listed = choices.byte();
    let architectures = ARCHITECTURES.iter().enumerate().filter(|(at, _)| listed & 1 << at != 0).map(|(_, arch)| *arch);
    profile.set_default_action(default).set_default_errno_ret(errno).set_architectures(Some(architectures.collect()));
    let rules = usize::from(choices.byte()) % RULES_MAX;
    profile.set_syscalls(Some((0..rules).map(|_| any_rule(choices)).collect()));
    profile
}

fn any_action(choices: &mut Choices<'_>) -> (Action, Option<u32>) {
    let action = choices.pick(&ACTIONS);
    let takes_errno = matches!(action, Action::ScmpActErrno | Action::ScmpActTrace);
    // Seldom where it is a mistake.
    let wanted = choices.byte();
    let errno = if takes_errno { !wanted.is_multiple_of(4) } else { wanted == 255 };
    (action, errno.then(|| u32::from(choices.word())))
}

fn any_rule(choices: &mut Choices<'_>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    let (action, errno) = any_action(choices);
    let count = 1 + choices.byte() % 6;
    let names = (0..count).map(|_| any_name(choices)).collect();
    let conditions = choices.byte() % 5;
    let args = (0..conditions).map(|_| any_condition(choices)).collect();
    rule.set_names(names).set_action(action).set_errno_ret(errno).set_args(Some(args));
    rule
}

fn any_name(choices: &mut Choices<'_>) -> String {
    match choices.word() {
        odd if odd % 16 == 0 => choices.pick(&ODD).to_owned(),
        at => syscalls::TABLE[usize::from(at) % syscalls::TABLE.len()].0.to_owned(),
    }
}

fn any_condition(choices: &mut Choices<'_>) -> LinuxSeccompArg {
    // 6 is a mistake.
    let index = usize::from(choices.byte() % 64).min(if choices.byte() == 255 { 6 } else { 5 });
    let condition = LinuxSeccompArgBuilder::default().index(index % 7).op(choices.pick(&OPERATORS));
    condition.value(choices.value()).value_two(choices.value()).build().expect("nothing is required")
}

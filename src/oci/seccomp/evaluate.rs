//! What a profile says about one call, read straight from the spec's types: the oracle that compiled filters are tested
//! against. Shares nothing with the compiler but the syscall table.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Op, LinuxSyscall,
};

use super::interpret::Data;
use super::{multiplex, rules, syscalls};

const ENOSYS: u32 = 0x0005_0026;

/// The `SECCOMP_RET_*` value for one call.
pub(super) fn evaluate(profile: &LinuxSeccomp, native: Arch, data: &Data) -> u32 {
    let Some((arch, column)) = abi(profile, native, data) else { return 0 };
    let empty = Vec::new();
    let entries = profile.syscalls().as_ref().unwrap_or(&empty);
    let default = value(profile.default_action(), profile.default_errno_ret());
    let number_of = |name: &str| {
        let row = syscalls::lookup().find(name)?;
        match (row.1[column], arch) {
            (u16::MAX, _) => None,
            (n, Arch::ScmpArchX32) => Some(0x4000_0000 + u32::from(n)),
            (n, Arch::ScmpArchArm) if n >= 0x8000 => Some(0xf_0000 + u32::from(n) - 0x8000),
            (n, _) => Some(u32::from(n)),
        }
    };
    let newest = entries
        .iter()
        .flat_map(|entry| entry.names().iter().filter_map(|name| number_of(name)))
        .filter(|number| !(0xf_0000..0xf_ffff).contains(number))
        .max();

    // What applies to this number: (conditions, their narrowness, action), rules split where an argument repeats.
    let mut applying: Vec<(Vec<LinuxSeccompArg>, u32)> = Vec::new();
    for entry in entries {
        let action = value(entry.action(), entry.errno_ret());
        if action == default {
            continue;
        }
        for name in entry.names() {
            if number_of(name) == Some(data.nr) {
                applying.extend(alternatives(entry).into_iter().map(|args| (args, action)));
            }
            if arch == Arch::ScmpArchX86 && multiplexes(name, data) {
                let unconditional = entry.args().as_ref().is_none_or(Vec::is_empty);
                if unconditional || !matches!(entry.action(), Action::ScmpActAllow | Action::ScmpActLog) {
                    applying.push((vec![always()], action));
                }
            }
        }
    }
    let narrow = matches!(arch, Arch::ScmpArchX86 | Arch::ScmpArchArm);
    if let Some((_, action)) = applying.iter().find(|(args, _)| args.is_empty()) {
        return *action;
    }
    if let Some((_, action)) = applying.iter().find(|(args, _)| args.iter().all(|arg| holds(arg, narrow, data))) {
        return *action;
    }
    let named = applying.iter().any(|(args, _)| args != &[always()]);
    let refusing =
        !matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
    match newest {
        Some(newest) if refusing && !named && data.nr > newest => ENOSYS,
        _ => default,
    }
}

/// A condition that always holds, to tell a multiplexed rule from one without conditions.
fn always() -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .op(Op::ScmpCmpGe)
        .value(0_u64)
        .build()
        .expect("nothing is required")
}

fn multiplexes(name: &str, data: &Data) -> bool {
    let Some(call) = multiplex::lookup().find(name) else { return false };
    let (number, condition) = (call.1, multiplex::condition(call));
    let call = data.args[0] as u32;
    number == data.nr
        && match condition.test {
            rules::Test::Masked { value, .. } => u64::from(call & 0xffff) == value,
            rules::Test::Equal(value) => u64::from(call) == value,
            rules::Test::Greater(_) | rules::Test::GreaterEqual(_) => unreachable!("not used for multiplexers"),
        }
}

/// Which ABI the call came by, with its table column; `None` where the profile does not list it.
fn abi(profile: &LinuxSeccomp, native: Arch, data: &Data) -> Option<(Arch, usize)> {
    let empty = Vec::new();
    let listed = |arch: Arch| arch == native || profile.architectures().as_ref().unwrap_or(&empty).contains(&arch);
    let x86 = native == Arch::ScmpArchX86_64;
    let (arch, column) = match data.arch {
        0xc000_003e if x86 && data.nr >= 0x4000_0000 && listed(Arch::ScmpArchX32) => (Arch::ScmpArchX32, 1),
        0xc000_003e if x86 && data.nr >= 0x4000_0000 && data.nr != u32::MAX => return None,
        0xc000_003e if x86 => (Arch::ScmpArchX86_64, 0),
        0x4000_0003 if x86 => (Arch::ScmpArchX86, 2),
        0xc000_00b7 if !x86 => (Arch::ScmpArchAarch64, 3),
        0x4000_0028 if !x86 => (Arch::ScmpArchArm, 4),
        _ => return None,
    };
    listed(arch).then_some((arch, column))
}

fn value(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActKillProcess => 0x8000_0000,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActErrno => 0x0005_0000 + errno.unwrap_or(1),
        Action::ScmpActTrace => 0x7ff0_0000 + errno.unwrap_or(1),
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => 0x7fff_0000,
        Action::ScmpActNotify => 0x7fc0_0000,
    }
}

/// The lists of conditions, any of which is enough.
fn alternatives(entry: &LinuxSyscall) -> Vec<Vec<LinuxSeccompArg>> {
    let args = entry.args().clone().unwrap_or_default();
    let mut seen = [0_u8; 6];
    args.iter().for_each(|arg| seen[arg.index()] += 1);
    if seen.iter().any(|times| *times > 1) { args.into_iter().map(|arg| vec![arg]).collect() } else { vec![args] }
}

fn holds(arg: &LinuxSeccompArg, narrow: bool, data: &Data) -> bool {
    let cut = |value: u64| if narrow { u64::from(value as u32) } else { value };
    let (found, value) = (cut(data.args[arg.index()]), cut(arg.value()));
    match arg.op() {
        Op::ScmpCmpNe => found != value,
        Op::ScmpCmpLt => found < value,
        Op::ScmpCmpLe => found <= value,
        Op::ScmpCmpEq => found == value,
        Op::ScmpCmpGe => found >= value,
        Op::ScmpCmpGt => found > value,
        Op::ScmpCmpMaskedEq => found & value == cut(arg.value_two().unwrap_or(0)) & value,
    }
}

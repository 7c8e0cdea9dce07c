use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator as Op, LinuxSyscall,
};
use proptest::prelude::*;

use super::evaluate::evaluate;
use super::interpret::{Data, interpret, verify};
use super::{Error, Filter, Flags, compile, multiplex, syscalls};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;
const X32: u32 = 0x4000_0000;
const NATIVES: [Arch; 2] = [Arch::ScmpArchX86_64, Arch::ScmpArchAarch64];

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error} in {json}"))
}

fn filter(json: &str) -> Filter {
    compile(&profile(json), Arch::ScmpArchX86_64).unwrap()
}

/// The answer of the compiled profile to an x86-64 call.
fn answer(filter: &Filter, nr: u32, args: [u64; 6]) -> u32 {
    interpret(&filter.program, &Data { nr, arch: X86_64, args }).0
}

fn errors(json: &str) -> Vec<String> {
    compile(&profile(json), Arch::ScmpArchX86_64).unwrap_err().iter().map(Error::to_string).collect()
}

/// Every number that could matter: all small ones, arm's private ones, x32's, the limits of each range.
fn numbers() -> Vec<u32> {
    let edges = [0x7fff, 0x8000, 0xffff, 0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX];
    (0..=0x3ff).chain(0xe_fff0..=0xf_0010).chain(X32..=X32 + 0x3ff).chain(edges).collect()
}

/// Arguments at and around every value that the profile compares, in each half.
fn arguments(profile: &LinuxSeccomp) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6], [u64::MAX; 6], [1, 2, 3, 4, 5, 6]];
    for arg in profile.syscalls().iter().flatten().filter_map(|entry| entry.args().as_ref()).flatten() {
        for value in [arg.value(), arg.value_two().unwrap_or(0), !arg.value()] {
            let near = [value, value.wrapping_add(1), value.wrapping_sub(1), value ^ (1 << 32), value ^ (1 << 63)];
            let halves =
                [value & 0xffff_ffff, value & !0xffff_ffff, value.rotate_left(32), value | 0xffff_ffff_0000_0000];
            for one in near.into_iter().chain(halves) {
                all.push([one; 6]);
                let mut alone = [0; 6];
                alone[arg.index()] = one;
                all.push(alone);
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Compares the filter with the profile for every number, and with all arguments where arguments can matter.
fn check_everything(profile: &LinuxSeccomp) {
    for native in NATIVES {
        let filter = compile(profile, native).unwrap();
        verify(&filter.program);
        let all = arguments(profile);
        for arch in [X86_64, I386, AARCH64, ARM, 0x4000_0008, 0] {
            for nr in numbers() {
                let args = if reads_arguments(profile, nr) { all.as_slice() } else { &all[..1] };
                for args in args {
                    let data = Data { nr, arch, args: *args };
                    let (found, expected) = (interpret(&filter.program, &data).0, evaluate(profile, native, &data));
                    assert_eq!(found, expected, "{native} {data:x?}: {found:#x}, the profile says {expected:#x}");
                }
            }
        }
    }
}

/// Whether some ABI's call of this number is named with conditions, or is a multiplexer.
fn reads_arguments(profile: &LinuxSeccomp, nr: u32) -> bool {
    let low = (nr & !X32) as u16 | if nr & 0xf_0000 != 0 { 0x8000 } else { 0 };
    [multiplex::SOCKETCALL, multiplex::IPC].contains(&nr)
        || profile.syscalls().iter().flatten().filter(|entry| entry.args().is_some()).any(|entry| {
            let mut rows = entry.names().iter().filter_map(|name| syscalls::lookup().find(name));
            rows.any(|row| row.1.contains(&low))
        })
}

#[test]
fn the_table_is_sorted_and_its_numbers_are_unique() {
    assert!(syscalls::TABLE.is_sorted_by(|one, other| one.0 < other.0));
    for column in 0..5 {
        let mut numbers: Vec<u16> =
            syscalls::TABLE.iter().map(|row| row.1[column]).filter(|n| *n != u16::MAX).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        // arm names 341 twice: sync_file_range2 and arm_sync_file_range.
        assert_eq!(numbers.len() + usize::from(column == 4), all, "column {column}");
    }
}

#[test]
fn the_table_says_what_the_c_library_says() {
    for (name, number) in [
        ("read", libc::SYS_read),
        ("openat", libc::SYS_openat),
        ("clone3", libc::SYS_clone3),
        ("futex_waitv", libc::SYS_futex_waitv),
        ("mseal", libc::SYS_mseal),
        ("seccomp", libc::SYS_seccomp),
        ("execveat", libc::SYS_execveat),
        ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ] {
        let column = if cfg!(target_arch = "x86_64") { 0 } else { 3 };
        assert_eq!(syscalls::lookup().find(name).map(|row| i64::from(row.1[column])), Some(number), "{name}");
    }
}

/// The headers of the distribution know fewer calls than the table, never others.
#[test]
fn the_table_says_what_the_installed_headers_say() {
    for (column, file) in [(0, "unistd_64.h"), (1, "unistd_x32.h"), (2, "unistd_32.h")] {
        let path = format!("/usr/include/x86_64-linux-gnu/asm/{file}");
        let Ok(text) = std::fs::read_to_string(&path) else {
            assert!(std::env::var_os("MOORED_NO_SKIP").is_none(), "{path} is missing");
            println!("SKIP {path} is missing: install linux-libc-dev");
            continue;
        };
        let defines = text.lines().filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '));
        for (name, number) in defines {
            let digits = number.trim().trim_start_matches("(__X32_SYSCALL_BIT + ").trim_end_matches(')');
            let number: u16 = digits.parse().unwrap();
            assert_eq!(syscalls::lookup().find(name).map(|row| row.1[column]), Some(number), "{name} in {file}");
        }
    }
}

#[test]
fn an_allow_list_allows_and_refuses() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read", "write", "futex_waitv", "not_a_call"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    verify(&filter.program);
    assert_eq!([0, 1, 2, 449].map(|nr| answer(&filter, nr, [0; 6])), [ALLOW, ALLOW, EPERM, ALLOW]);
    assert_eq!(filter.flags, Flags::SPEC_ALLOW);
}

#[test]
fn calls_newer_than_the_profile_get_enosys_unless_the_default_lets_them_run() {
    let with = |default: &str| {
        filter(&format!(
            r#"{{"defaultAction": "{default}", "syscalls": [{{"names": ["mseal"], "action": "SCMP_ACT_ERRNO"}}]}}"#
        ))
    };
    for (default, newer) in [
        ("SCMP_ACT_ERRNO", ENOSYS),
        ("SCMP_ACT_KILL", ENOSYS),
        ("SCMP_ACT_TRAP", ENOSYS),
        ("SCMP_ACT_ALLOW", ALLOW),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
    ] {
        assert_eq!(answer(&with(default), 463, [0; 6]), newer, "{default}");
    }
    assert_eq!(answer(&with("SCMP_ACT_ERRNO"), u32::MAX, [0; 6]), ENOSYS);
}

#[test]
fn x32_and_unlisted_architectures_are_killed() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": [ARCH]}"#;
    let native = filter(&text.replace("ARCH", r#""SCMP_ARCH_X86_64""#));
    assert_eq!(answer(&native, X32, [0; 6]), KILL);
    assert_eq!(answer(&native, u32::MAX, [0; 6]), ALLOW, "a skipped call is no x32 call");
    assert_eq!(interpret(&native.program, &Data { nr: 1, arch: I386, args: [0; 6] }).0, KILL);
    let both = filter(&text.replace("ARCH", r#""SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_MIPS""#));
    assert_eq!(answer(&both, X32, [0; 6]), ALLOW);
    assert_eq!(interpret(&both.program, &Data { nr: 1, arch: I386, args: [0; 6] }).0, ALLOW);
}

#[test]
fn a_rule_without_conditions_wins_over_those_with() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["kill"], "action": "SCMP_ACT_KILL", "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]},
            {"names": ["kill"], "action": "SCMP_ACT_ALLOW"}, {"names": ["kill"], "action": "SCMP_ACT_TRAP"}]}"#,
    );
    assert_eq!(answer(&filter, 62, [0, 9, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn a_rule_with_the_default_action_does_not_shadow() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(answer(&filter, 62, [0, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&filter, 62, [0, 9, 0, 0, 0, 0]), EPERM);
}

#[test]
fn conditions_are_anded_unless_an_argument_is_named_twice() {
    let args = |second: u8| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                {{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}}, {{"index": {second}, "value": 10, "op": "SCMP_CMP_EQ"}}]}}]}}"#
        )
    };
    let (and, or) = (filter(&args(1)), filter(&args(0)));
    assert_eq!(answer(&and, 41, [2, 10, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&and, 41, [2, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(answer(&or, 41, [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&or, 41, [10, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&or, 41, [3, 0, 0, 0, 0, 0]), EPERM);
}

/// Every operator against every boundary, on every ABI, over every number.
#[test]
fn operators_agree_with_the_profile_on_all_abis() {
    let values = [0, 1, 0x5412, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x8000_0000_0000_0000, u64::MAX];
    let ops = [Op::ScmpCmpNe, Op::ScmpCmpLt, Op::ScmpCmpLe, Op::ScmpCmpEq, Op::ScmpCmpGe, Op::ScmpCmpGt];
    let mut entries = Vec::new();
    let mut names = ["ioctl", "kill", "socket", "clone", "bind", "personality", "semctl", "prctl"].into_iter().cycle();
    for op in ops {
        for value in values {
            let arg = arg(entries.len() % 6, op, value, 0);
            entries.push(rule(
                &[names.next().unwrap()],
                Action::ScmpActErrno,
                Some(entries.len() as u32 + 2),
                vec![arg],
            ));
        }
    }
    for (mask, value) in [(0, 7), (0xff, 0x1ff), (0x7e02_0000, 0), (0xffff_ffff_0000_0000, 1 << 33), (u64::MAX, 5)] {
        let arg = arg(1, Op::ScmpCmpMaskedEq, mask, value);
        entries.push(rule(&["fcntl"], Action::ScmpActTrace, Some(entries.len() as u32), vec![arg]));
    }
    for chunk in entries.chunks(4) {
        check_everything(&build(Action::ScmpActAllow, None, all_architectures(), chunk.to_vec()));
        check_everything(&build(Action::ScmpActErrno, None, all_architectures(), chunk.to_vec()));
    }
}

#[test]
fn multiplexed_calls_are_never_looser_than_the_profile_reads() {
    let text = r#"{"defaultAction": "SCMP_ACT_DEFAULT", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
        {"names": ["socket"], "action": "SCMP_ACT_THEN", "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]},
        {"names": ["bind", "shmat"], "action": "SCMP_ACT_THEN"}]}"#;
    let deny = filter(&text.replace("DEFAULT", "ALLOW").replace("THEN", "ERRNO"));
    let allow = filter(&text.replace("DEFAULT", "ERRNO").replace("THEN", "ALLOW"));
    let call =
        |filter: &Filter, nr, call| interpret(&filter.program, &Data { nr, arch: I386, args: [call, 0, 0, 0, 0, 0] }).0;
    assert_eq!([1, 2, 3].map(|n| call(&deny, multiplex::SOCKETCALL, n)), [EPERM, EPERM, ALLOW]);
    assert_eq!([1, 2, 3].map(|n| call(&allow, multiplex::SOCKETCALL, n)), [EPERM, ALLOW, EPERM]);
    assert_eq!([21, 0x1_0015, 22].map(|n| call(&deny, multiplex::IPC, n)), [EPERM, EPERM, ALLOW]);
}

#[test]
fn errors_are_reported_all_at_once_with_their_paths() {
    let found = errors(
        r#"{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "x", "listenerMetadata": "m", "syscalls": [
            {"names": [], "action": "SCMP_ACT_ALLOW", "errnoRet": 1},
            {"names": ["read", ""], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096},
            {"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536,
             "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(
        found,
        [
            "linux.seccomp.listenerPath: expected the absolute path of a unix socket",
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default: the process could not hand its listener over",
            "linux.seccomp.syscalls[0].names: is empty, expected at least one syscall name",
            "linux.seccomp.syscalls[0].errnoRet: SCMP_ACT_ALLOW has no errno, only SCMP_ACT_ERRNO and SCMP_ACT_TRACE do",
            "linux.seccomp.syscalls[1].names[1]: is an empty string, expected a syscall name",
            "linux.seccomp.syscalls[1].errnoRet: 4096 is out of range, expected at most 4094",
            "linux.seccomp.syscalls[2].errnoRet: 65536 is out of range, expected at most 65535",
            "linux.seccomp.syscalls[2].args[0].index: there is no argument 6, expected 0 to 5",
        ]
    );
    assert_eq!(
        compile(&profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#), Arch::ScmpArchMips).unwrap_err(),
        [Error::Native { arch: Arch::ScmpArchMips }]
    );
}

#[test]
fn an_agent_is_asked_by_way_of_a_listener() {
    let with =
        |more: &str, rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", {more} "syscalls": [{rule}]}}"#);
    let notify = |names: &str| format!(r#"{{"names": [{names}], "action": "SCMP_ACT_NOTIFY"}}"#);
    let flags =
        r#""listenerPath": "/x", "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"#;
    let asks = filter(&with(flags, &notify("\"mkdir\"")));
    assert_eq!(asks.flags.bits(), 1 | 8 | 16 | 32);
    let mkdir = Data { nr: 83, arch: X86_64, args: [0; 6] };
    assert_eq!(interpret(&asks.program, &mkdir).0, 0x7fc0_0000);
    assert_eq!(
        errors(&with(r#""listenerMetadata": "m","#, &notify("\"mkdir\""))),
        [
            "linux.seccomp.listenerMetadata: is for an agent: expected listenerPath beside it",
            "linux.seccomp.listenerPath: is missing, expected the socket of the agent that SCMP_ACT_NOTIFY asks",
        ]
    );
    let rest =
        r#"{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}, {"names": ["sendmsg"], "action": "SCMP_ACT_ERRNO"}"#;
    for rules in [notify("\"sendmsg\""), rest.to_owned()] {
        let found = errors(&with(r#""listenerPath": "/x","#, &rules));
        assert!(found.len() == 1 && found[0].contains("sendmsg must be allowed"), "{found:?}");
    }
    // A listener that nobody is told of asks nobody.
    assert_eq!(filter(&with(r#""listenerPath": "/x","#, "")).flags, Flags::SPEC_ALLOW);
}

#[test]
fn flags_are_those_asked_for() {
    let with = |flags: Option<Vec<LinuxSeccompFilterFlag>>| {
        let mut profile = build(Action::ScmpActAllow, None, Vec::new(), Vec::new());
        profile.set_flags(flags);
        compile(&profile, Arch::ScmpArchX86_64).unwrap().flags
    };
    use LinuxSeccompFilterFlag as F;
    assert_eq!(with(None), Flags::SPEC_ALLOW);
    assert_eq!(with(Some(Vec::new())), Flags::NONE);
    assert_eq!(with(Some(vec![F::SeccompFilterFlagTsync, F::SeccompFilterFlagLog])).bits(), 3);
    assert_eq!(with(Some(vec![F::SeccompFilterFlagWaitKillableRecv])), Flags::NONE);
}

#[test]
fn long_jumps_reach_and_too_long_programs_are_refused() {
    let many = |count: u64| {
        let one = |value| {
            let arg = arg(1, Op::ScmpCmpEq, value, 0);
            rule(&["ioctl"], Action::ScmpActErrno, Some(2 + value as u32 % 7), vec![arg])
        };
        let mut entries: Vec<LinuxSyscall> = (0..count).map(one).collect();
        entries.push(rule(&["read", "exit_group", "socketcall", "mseal"], Action::ScmpActErrno, Some(9), Vec::new()));
        build(Action::ScmpActAllow, None, vec![Arch::ScmpArchX86], entries)
    };
    for count in [30, 60, 64, 120, 500] {
        let profile = many(count);
        let filter = compile(&profile, Arch::ScmpArchX86_64).unwrap();
        verify(&filter.program);
        for arch in [X86_64, I386] {
            for nr in [0, 1, 3, 15, 16, 17, 53, 54, 55, 102, 231, 252, 461, 462, 463] {
                for value in (0..=count).chain([1 << 32, u64::MAX]) {
                    let data = Data { nr, arch, args: [0, value, 0, 0, 0, 0] };
                    let expected = evaluate(&profile, Arch::ScmpArchX86_64, &data);
                    assert_eq!(interpret(&filter.program, &data).0, expected, "{data:?} of {count}");
                }
            }
        }
    }
    let errors = compile(&many(20_000), Arch::ScmpArchX86_64).unwrap_err();
    assert!(matches!(errors[..], [Error::TooLong { length }] if length > super::MAX_INSTRUCTIONS), "{errors:?}");
}

#[test]
fn the_tree_is_shallow() {
    let names: Vec<&str> = syscalls::TABLE.iter().map(|row| row.0).step_by(2).collect();
    let profile =
        build(Action::ScmpActErrno, None, Vec::new(), vec![rule(&names, Action::ScmpActAllow, None, Vec::new())]);
    let filter = compile(&profile, Arch::ScmpArchX86_64).unwrap();
    let steps = (0..=0x200).map(|nr| interpret(&filter.program, &Data { nr, arch: X86_64, args: [0; 6] }).1);
    assert!(steps.max().unwrap() <= 13, "three to get there, at most 9 comparisons, one return");
}

#[test]
fn a_filter_survives_the_wire() {
    let filter =
        filter(r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#);
    let bytes = postcard::to_stdvec(&filter).unwrap();
    assert_eq!(postcard::from_bytes::<Filter>(&bytes).unwrap(), filter);
}

fn all_architectures() -> Vec<Arch> {
    vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchAarch64, Arch::ScmpArchArm]
}

fn build(default: Action, errno: Option<u32>, architectures: Vec<Arch>, entries: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(default).set_default_errno_ret(errno);
    profile.set_architectures(Some(architectures)).set_syscalls(Some(entries));
    profile
}

fn arg(index: usize, op: Op, value: u64, two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default().index(index).op(op).value(value).value_two(two).build().unwrap()
}

fn rule(names: &[&str], action: Action, errno: Option<u32>, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut entry = LinuxSyscall::default();
    entry.set_names(names.iter().map(|name| (*name).to_owned()).collect()).set_action(action).set_errno_ret(errno);
    entry.set_args(Some(args));
    entry
}

prop_compose! {
    fn any_arg()(
        index in 0_usize..3,
        value in prop_oneof![Just(0), Just(1), Just(0xffff_ffff_u64), Just(1 << 32), Just(u64::MAX), any::<u64>(), 0_u64..64],
        two in prop_oneof![Just(0), Just(1), any::<u64>()],
        op in prop_oneof![Just(Op::ScmpCmpNe), Just(Op::ScmpCmpLt), Just(Op::ScmpCmpLe), Just(Op::ScmpCmpEq),
            Just(Op::ScmpCmpGe), Just(Op::ScmpCmpGt), Just(Op::ScmpCmpMaskedEq)],
    ) -> LinuxSeccompArg {
        arg(index, op, value, two)
    }
}

fn any_action() -> impl Strategy<Value = (Action, Option<u32>)> {
    prop_oneof![
        Just((Action::ScmpActAllow, None)),
        Just((Action::ScmpActLog, None)),
        Just((Action::ScmpActKill, None)),
        Just((Action::ScmpActKillThread, None)),
        Just((Action::ScmpActKillProcess, None)),
        Just((Action::ScmpActTrap, None)),
        prop::option::of(0_u32..4096).prop_map(|errno| (Action::ScmpActErrno, errno)),
        prop::option::of(0_u32..65536).prop_map(|errno| (Action::ScmpActTrace, errno)),
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    let few =
        ["socket", "bind", "accept", "recv", "ioctl", "semop", "shmat", "socketcall", "ipc", "cacheflush", "nonsense"];
    prop_oneof![
        prop::sample::select(few.to_vec()).prop_map(str::to_owned),
        (0..syscalls::TABLE.len()).prop_map(|at| syscalls::TABLE[at].0.to_owned()),
    ]
}

prop_compose! {
    fn any_entry()(
        names in prop::collection::vec(any_name(), 1..60),
        (action, errno) in any_action(),
        args in prop_oneof![Just(Vec::new()), prop::collection::vec(any_arg(), 0..4)],
    ) -> LinuxSyscall {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        rule(&names, action, errno, args)
    }
}

prop_compose! {
    fn any_profile()(
        (default, errno) in any_action(),
        architectures in prop::sample::subsequence(all_architectures(), 0..=5),
        entries in prop::collection::vec(any_entry(), 0..12),
    ) -> LinuxSeccomp {
        build(default, errno, architectures, entries)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// A random call: a number that is named or near one, arguments at or near compared values.
    #[test]
    fn any_profile_compiles_to_what_it_says(
        profile in any_profile(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u32>()), 1500),
    ) {
        let numbers = numbers();
        let arguments = arguments(&profile);
        for native in NATIVES {
            let filter = compile(&profile, native).unwrap();
            verify(&filter.program);
            for (number, args, other) in &picks {
                let arch = [X86_64, I386, AARCH64, ARM, *other][*other as usize % 5];
                let nr = if other % 16 == 0 { *other } else { numbers[number.index(numbers.len())] };
                let data = Data { nr, arch, args: arguments[args.index(arguments.len())] };
                prop_assert_eq!(interpret(&filter.program, &data).0, evaluate(&profile, native, &data), "{:x?}", data);
            }
        }
    }
}

/// The first rule never holds, so its test of the same argument falls away, and with it the load that the second one could have shared.
#[test]
fn a_test_that_falls_away_takes_no_load_with_it() {
    let profile = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_ARM", "SCMP_ARCH_X86_64"], "syscalls": [
            {"names": ["arm_sync_file_range", "read"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 1, "value": 1, "op": "SCMP_CMP_NE"}, {"index": 0, "value": 0, "op": "SCMP_CMP_LT"}]},
            {"names": ["sync_file_range2", "read"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 1, "value": 14941158739406741971, "op": "SCMP_CMP_GT"}]}]}"#,
    );
    for (native, arch, nr) in [(Arch::ScmpArchAarch64, ARM, 341), (Arch::ScmpArchX86_64, X86_64, 0)] {
        let filter = compile(&profile, native).unwrap();
        for argument in [0, 1, 2, 14941158739406741971, u64::MAX - 1] {
            let data = Data { nr, arch, args: [argument; 6] };
            assert_eq!(interpret(&filter.program, &data).0, evaluate(&profile, native, &data), "{data:x?}");
        }
    }
}

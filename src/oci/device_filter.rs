//! Device rules as an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE, for cgroups that have no v1 devices controller. Pure.
//!
//! The kernel runs the program whenever a process of the cgroup opens or makes a device node, with what is asked for: kind, numbers, and some
//! of "make", "read", "write". It answers 1 (may) or 0 (EPERM).
//!
//! A request is allowed if each of its parts is: of the rules that speak of the device and of that part, the last one counts; what none speaks
//! of is denied. So the rules are tried from the last to the first; what one allows is crossed off, what one denies ends it, and when nothing is
//! left the answer is yes. (A rule that is only asked whether it covers the whole request, as elsewhere, lets "read and write" pass where
//! "write" alone is denied.)
//!
//! There is no loop and no stack; every jump goes forward, past one rule. A rule for all devices and everything ends the program.

use super::cgroup::{DeviceRule, RuleTarget};

/// `BPF_DEVCG_DEV_*`.
pub const BLOCK: u32 = 1;
/// A character device.
pub const CHARACTER: u32 = 2;
/// `BPF_DEVCG_ACC_*`.
pub const MAKE: u32 = 1;
/// To open for reading.
pub const READ: u32 = 2;
/// To open for writing.
pub const WRITE: u32 = 4;
const ALL: u32 = MAKE | READ | WRITE;

/// One eBPF instruction: code, registers (source in the high half), offset, constant, as the kernel lays them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// With what: destination, source.
    pub registers: (u8, u8),
    /// How far to jump or load from.
    pub offset: i16,
    /// The constant.
    pub constant: i32,
}

impl Instruction {
    /// `struct bpf_insn` of a little-endian machine.
    pub fn encode(self) -> u64 {
        let registers = self.registers.0 | self.registers.1 << 4;
        let [a, b] = self.offset.to_le_bytes();
        let [c, d, e, f] = self.constant.to_le_bytes();
        u64::from_le_bytes([self.code, registers, a, b, c, d, e, f])
    }
}

/// Where the kernel gives the context, and the answer goes.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// The parts of the request that no rule has spoken of yet.
const LEFT: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Codes of instructions (linux/bpf_common.h): all on the low 32 bits.
const LOAD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const UNLESS_EQUAL: u8 = 0x56;
const IF_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

fn plain(code: u8, register: u8, constant: u32) -> Instruction {
    Instruction { code, registers: (register, 0), offset: 0, constant: constant.cast_signed() }
}

fn jump(code: u8, register: u8, constant: u32, offset: usize) -> Instruction {
    // At most the length of one rule.
    Instruction { offset: offset as i16, ..plain(code, register, constant) }
}

fn answer(may: u32) -> [Instruction; 2] {
    [plain(MOVE, ANSWER, may), plain(EXIT, 0, 0)]
}

/// The program. A rule by path is none here: the caller has looked its numbers up.
pub fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let load = |register, offset| Instruction { code: LOAD, registers: (register, CONTEXT), offset, constant: 0 };
    let mut program = vec![
        // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor.
        load(KIND, 0),
        Instruction { code: MOVE_REGISTER, registers: (LEFT, KIND), offset: 0, constant: 0 },
        plain(AND, KIND, 0xffff),
        plain(SHIFT_RIGHT, LEFT, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        let Some(Matched { kind, major, minor, access }) = matched(rule) else { continue };
        let last = kind.is_none() && major.is_none() && minor.is_none() && access == ALL;
        if last {
            program.extend(answer(u32::from(rule.allow)));
            return program;
        }
        let verdict = if rule.allow { allow(access) } else { deny(access) };
        let tests = [(KIND, kind), (MAJOR, major), (MINOR, minor)];
        let tests: Vec<(u8, u32)> =
            tests.into_iter().filter_map(|(register, value)| Some((register, value?))).collect();
        for (at, (register, value)) in tests.iter().enumerate() {
            let rest = tests.len() - at - 1 + verdict.len();
            program.push(jump(UNLESS_EQUAL, *register, *value, rest));
        }
        program.extend(verdict);
    }
    program.extend(answer(0));
    program
}

/// Crosses off what is allowed; answers when nothing is left.
fn allow(access: u32) -> Vec<Instruction> {
    let [may, exit] = answer(1);
    vec![plain(AND, LEFT, !access), jump(UNLESS_EQUAL, LEFT, 0, 2), may, exit]
}

/// Answers if anything that is left is denied.
fn deny(access: u32) -> Vec<Instruction> {
    let [may_not, exit] = answer(0);
    let copy = Instruction { code: MOVE_REGISTER, registers: (ANSWER, LEFT), offset: 0, constant: 0 };
    vec![copy, plain(AND, ANSWER, access), jump(IF_EQUAL, ANSWER, 0, 2), may_not, exit]
}

/// What a rule speaks of.
struct Matched {
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

fn matched(rule: &DeviceRule) -> Option<Matched> {
    let RuleTarget::Numbers { kind, major, minor } = rule.device else { return None };
    let letters = [('m', MAKE), ('r', READ), ('w', WRITE)];
    let access = letters.into_iter().filter(|(letter, _)| rule.access.contains(*letter)).map(|(_, bit)| bit).sum();
    Some(match kind {
        // All devices, whatever else it says (cgroup-v1/devices.rst).
        'a' => Matched { kind: None, major: None, minor: None, access: ALL },
        'b' => Matched { kind: Some(BLOCK), major, minor, access },
        _ => Matched { kind: Some(CHARACTER), major, minor, access },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::default_devices;

    /// What a process asks for.
    #[derive(Debug, Clone, Copy)]
    struct Request {
        kind: u32,
        major: u32,
        minor: u32,
        access: u32,
    }

    /// What the rules mean, said as plainly as can be: part for part, the last rule that speaks of it.
    fn evaluate(rules: &[DeviceRule], request: Request) -> bool {
        let speaks = |rule: &&DeviceRule| match &rule.device {
            RuleTarget::Numbers { kind: 'a', .. } => true,
            RuleTarget::Numbers { kind, major, minor } => {
                let of_kind = request.kind == if *kind == 'b' { BLOCK } else { CHARACTER };
                of_kind && major.is_none_or(|n| n == request.major) && minor.is_none_or(|n| n == request.minor)
            }
            RuleTarget::HostPath(_) => false,
        };
        let all = |rule: &DeviceRule| matches!(rule.device, RuleTarget::Numbers { kind: 'a', .. });
        [('m', MAKE), ('r', READ), ('w', WRITE)].into_iter().filter(|(_, bit)| request.access & bit != 0).all(
            |(letter, _)| {
                let about = |rule: &&DeviceRule| all(rule) || rule.access.contains(letter);
                rules.iter().rev().filter(speaks).find(about).is_some_and(|rule| rule.allow)
            },
        )
    }

    /// The instructions that are used here, as eBPF has them; panics at any other, at a jump out, and at a register that was never written.
    fn interpret(program: &[Instruction], request: Request) -> u32 {
        let context = [request.access << 16 | request.kind, request.major, request.minor];
        let mut registers = [None; 6];
        let mut at = 0;
        loop {
            let Instruction { code, registers: (to, from), offset, constant } = program[at];
            let (to, from, constant) = (usize::from(to), usize::from(from), constant.cast_unsigned());
            let value = |index: usize| registers[index].expect("a register that was written");
            at += 1;
            match code {
                LOAD => {
                    assert_eq!(from, usize::from(CONTEXT));
                    registers[to] = Some(context[offset as usize / 4]);
                }
                MOVE => registers[to] = Some(constant),
                MOVE_REGISTER => registers[to] = Some(value(from)),
                AND => registers[to] = Some(value(to) & constant),
                SHIFT_RIGHT => registers[to] = Some(value(to) >> constant),
                UNLESS_EQUAL if value(to) != constant => at += offset as usize,
                IF_EQUAL if value(to) == constant => at += offset as usize,
                UNLESS_EQUAL | IF_EQUAL => {}
                EXIT => return value(0),
                _ => panic!("code {code:#x}"),
            }
        }
    }

    fn rule(allow: bool, kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule { allow, device: RuleTarget::Numbers { kind, major, minor }, access: access.to_owned() }
    }

    fn may(rules: &[DeviceRule], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        interpret(&compile(rules), Request { kind, major, minor, access }) == 1
    }

    #[test]
    fn what_no_rule_allows_is_denied() {
        assert!(!may(&[], CHARACTER, 1, 3, READ));
        let rules = default_devices();
        assert!(may(&rules, CHARACTER, 1, 3, READ | WRITE));
        assert!(may(&rules, CHARACTER, 136, 77, READ | WRITE));
        assert!(may(&rules, BLOCK, 8, 0, MAKE));
        assert!(!may(&rules, BLOCK, 8, 0, READ));
        assert!(!may(&rules, BLOCK, 8, 0, MAKE | READ));
        assert!(!may(&rules, BLOCK, 1, 3, READ));
    }

    #[test]
    fn a_denied_part_is_denied_beside_an_allowed_one() {
        let rules = [DeviceRule::everything(), rule(false, 'c', Some(10), Some(200), "w")];
        assert!(may(&rules, CHARACTER, 10, 200, READ));
        assert!(!may(&rules, CHARACTER, 10, 200, WRITE));
        assert!(!may(&rules, CHARACTER, 10, 200, READ | WRITE));
        assert!(may(&rules, CHARACTER, 10, 201, READ | WRITE));
    }

    #[test]
    fn parts_may_be_allowed_by_different_rules() {
        let rules = [rule(true, 'b', Some(8), None, "r"), rule(true, 'b', None, Some(1), "w")];
        assert!(may(&rules, BLOCK, 8, 1, READ | WRITE));
        assert!(!may(&rules, BLOCK, 8, 2, READ | WRITE));
    }

    #[test]
    fn a_rule_for_everything_ends_the_program() {
        let rules = vec![rule(true, 'c', Some(1), Some(3), "rwm"); 1000];
        let long = compile(&rules).len();
        let all = compile(&[rules.as_slice(), &[rule(false, 'a', None, None, "rwm")]].concat()).len();
        assert!(long > 1000 && all == 8, "{long} {all}");
    }

    #[test]
    fn numbers_above_the_middle_are_compared_as_they_are() {
        let rules = [rule(true, 'c', Some(u32::MAX), Some(1 << 31), "r")];
        assert!(may(&rules, CHARACTER, u32::MAX, 1 << 31, READ));
        assert!(!may(&rules, CHARACTER, u32::MAX, 0, READ));
    }

    /// `mov32 r0, 1` and `r2 = *(u32 *)(r1 + 8)` as any assembler writes them.
    #[test]
    fn instructions_are_laid_out_as_the_kernel_reads_them() {
        let bytes = |instruction: Instruction| instruction.encode().to_le_bytes();
        assert_eq!(bytes(plain(MOVE, ANSWER, 1)), [0xb4, 0, 0, 0, 1, 0, 0, 0]);
        let load = Instruction { code: LOAD, registers: (KIND, CONTEXT), offset: 8, constant: 0 };
        assert_eq!(bytes(load), [0x61, 0x12, 8, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(jump(UNLESS_EQUAL, LEFT, u32::MAX, 2)), [0x56, 3, 2, 0, 0xff, 0xff, 0xff, 0xff]);
    }

    fn any_rule() -> impl Strategy<Value = DeviceRule> {
        let number = || prop_oneof![Just(None), (0u32..3).prop_map(Some)];
        let kind = prop_oneof![1 => Just('a'), 4 => Just('b'), 8 => Just('c')];
        let access = proptest::sample::select(vec!["r", "w", "m", "rw", "rm", "wm", "rwm"]);
        (any::<bool>(), kind, number(), number(), access)
            .prop_map(|(allow, kind, major, minor, access)| rule(allow, kind, major, minor, access))
    }

    proptest! {
        /// For each request there can be about three numbers.
        #[test]
        fn the_program_answers_what_the_rules_mean(rules in proptest::collection::vec(any_rule(), 0..12)) {
            let program = compile(&rules);
            for kind in [BLOCK, CHARACTER] {
                for (major, minor, access) in (0..4).flat_map(|a| (0..4).flat_map(move |b| (1..8).map(move |c| (a, b, c)))) {
                    let request = Request { kind, major, minor, access };
                    let answer = interpret(&program, request);
                    prop_assert_eq!(answer == 1, evaluate(&rules, request), "{:?}", request);
                }
            }
        }
    }
}

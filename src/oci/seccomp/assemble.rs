//! Outcomes laid out as a BPF program: a balanced binary tree of number ranges per architecture, comparisons of
//! arguments at its leaves.
//!
//! Classic BPF only jumps forward, so the program is built from its end to its start: whatever a jump goes to exists
//! already, and where it lies is known. A conditional jump reaches 255 instructions; farther targets get a copy (a
//! `RET`) or an unconditional jump, whose reach is 32 bits, right behind the jump.

use super::Instruction;
use super::outcome::{Chain, Outcome, Section};
use super::rules::{Condition, Rule, Test};

/// `BPF_LD | BPF_W | BPF_ABS`: a word of `seccomp_data` to the accumulator.
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_EQ: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`, unsigned.
const JUMP_GT: u16 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`, unsigned.
const JUMP_GE: u16 = 0x35;
/// `BPF_JMP | BPF_JSET | BPF_K`: any of the bits.
const JUMP_SET: u16 = 0x45;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// A conditional jump skips at most 255; two more instructions may come between before it is written (a trampoline for
/// each of its two targets).
const REACH: usize = 255 - 2;

/// Building stops here, far above what the kernel takes, so that a hostile profile costs bounded memory. What is
/// returned then is too long and refused as such.
pub(super) const LENGTH_STOP: usize = 4 * super::MAX_INSTRUCTIONS;

/// Where an instruction lies, counted from the program's end.
type Place = usize;

/// The program for all sections, tested in their order; other architectures get `bad_arch`.
pub(super) fn assemble(sections: &[Section], chains: &[Chain], rules: &[Rule], bad_arch: u32) -> Vec<Instruction> {
    let mut code = Assembler { reversed: Vec::new(), returns: Vec::new(), chains, rules, placed: Vec::new() };
    code.placed.resize(chains.len(), None);
    let mut next = code.ret(bad_arch);
    for section in sections.iter().rev() {
        let root = code.tree(&section.ranges);
        code.fall_into(root);
        code.push(LOAD, OFFSET_NR);
        let enter = code.last();
        next = code.branch(JUMP_EQ, section.audit_arch, enter, next);
    }
    code.push(LOAD, OFFSET_ARCH);
    code.reversed.reverse();
    drop_unreachable(&code.reversed)
}

/// Without the instructions that nothing leads to: loads that every jump goes past.
fn drop_unreachable(program: &[Instruction]) -> Vec<Instruction> {
    // Jumps go forward only, so one pass sees every way to an instruction before the instruction.
    let mut reached = vec![false; program.len()];
    let mark = |at: usize, reached: &mut [bool]| reached.get_mut(at).map_or((), |slot| *slot = true);
    mark(0, &mut reached);
    for (at, instruction) in program.iter().enumerate() {
        if reached.get(at) == Some(&true) {
            successors(at, instruction).into_iter().flatten().for_each(|to| mark(to, &mut reached));
        }
    }
    // How many instructions before each stay.
    let places: Vec<usize> = reached
        .iter()
        .scan(0, |kept, reached| {
            let place = *kept;
            *kept += usize::from(*reached);
            Some(place)
        })
        .collect();
    let distance = |from: usize, to: usize| match (places.get(from), places.get(to)) {
        (Some(from), Some(to)) => to.saturating_sub(*from).saturating_sub(1),
        _ => 0,
    };
    let kept = program.iter().enumerate().filter(|(at, _)| reached.get(*at) == Some(&true));
    kept.map(|(at, instruction)| {
        let [holds, fails] = successors(at, instruction).map(|to| distance(at, to.unwrap_or(at)));
        match instruction.code {
            // Distances only shrink, so they fit.
            JUMP => Instruction { k: holds as u32, ..*instruction },
            JUMP_EQ | JUMP_GT | JUMP_GE | JUMP_SET => Instruction { jt: holds as u8, jf: fails as u8, ..*instruction },
            _ => *instruction,
        }
    })
    .collect()
}

/// Where an instruction leads to.
fn successors(at: usize, instruction: &Instruction) -> [Option<usize>; 2] {
    let skip = |count: usize| at.checked_add(1)?.checked_add(count);
    match instruction.code {
        RETURN => [None, None],
        JUMP => [skip(instruction.k as usize), None],
        JUMP_EQ | JUMP_GT | JUMP_GE | JUMP_SET => [skip(instruction.jt.into()), skip(instruction.jf.into())],
        _ => [skip(0), None],
    }
}

struct Assembler<'a> {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    /// The nearest `RET` of each value.
    returns: Vec<(u32, Place)>,
    chains: &'a [Chain],
    rules: &'a [Rule],
    /// Where each chain starts, once it is laid out.
    placed: Vec<Option<Place>>,
}

impl Assembler<'_> {
    fn last(&self) -> Place {
        self.reversed.len().saturating_sub(1)
    }

    fn push(&mut self, code: u16, k: u32) {
        self.reversed.push(Instruction { code, jt: 0, jf: 0, k });
    }

    /// How many instructions a jump written now would skip to get to `place`.
    fn distance(&self, place: Place) -> usize {
        self.last().saturating_sub(place)
    }

    /// A `RET value` within reach.
    fn ret(&mut self, value: u32) -> Place {
        let known = self.returns.iter().position(|(of, _)| *of == value);
        if let Some((_, place)) = known.and_then(|at| self.returns.get(at))
            && self.distance(*place) <= REACH
        {
            return *place;
        }
        self.push(RETURN, value);
        let place = self.last();
        match known.and_then(|at| self.returns.get_mut(at)) {
            Some(slot) => slot.1 = place,
            None => self.returns.push((value, place)),
        }
        place
    }

    /// A place within reach that leads to `place`.
    fn near(&mut self, place: Place) -> Place {
        if self.distance(place) <= REACH {
            return place;
        }
        match self.reversed.get(place) {
            Some(Instruction { code: RETURN, k, .. }) => self.ret(*k),
            _ => {
                // Fits: programs end at LENGTH_STOP.
                let skip = u32::try_from(self.distance(place)).unwrap_or(u32::MAX);
                self.push(JUMP, skip);
                self.last()
            }
        }
    }

    /// A conditional jump to either place; it is where this returns.
    fn branch(&mut self, code: u16, k: u32, holds: Place, fails: Place) -> Place {
        if holds == fails {
            return holds;
        }
        let holds = self.near(holds);
        let fails = self.near(fails);
        // Both fit: each `near` is within REACH, and at most two instructions were pushed since.
        let jt = u8::try_from(self.distance(holds)).unwrap_or(u8::MAX);
        let jf = u8::try_from(self.distance(fails)).unwrap_or(u8::MAX);
        self.reversed.push(Instruction { code, jt, jf, k });
        self.last()
    }

    /// Makes the instruction that is pushed next fall into `place`.
    fn fall_into(&mut self, place: Place) {
        if place != self.last() {
            let skip = u32::try_from(self.distance(place)).unwrap_or(u32::MAX);
            self.push(JUMP, skip);
        }
    }

    /// Half the ranges on either side of a comparison; the depth is the logarithm of their number. The number is in the
    /// accumulator.
    fn tree(&mut self, ranges: &[(u32, Outcome)]) -> Place {
        match ranges {
            [] => self.ret(0),
            [(_, only)] => self.outcome(*only),
            _ => {
                let (below, above) = ranges.split_at(ranges.len() / 2);
                let start = above.first().map_or(0, |(start, _)| *start);
                let above = self.tree(above);
                let below = self.tree(below);
                self.branch(JUMP_GE, start, above, below)
            }
        }
    }

    fn outcome(&mut self, outcome: Outcome) -> Place {
        let index = match outcome {
            Outcome::Return(value) => return self.ret(value),
            Outcome::Chain(index) => index,
        };
        if let Some(Some(place)) = self.placed.get(index) {
            return *place;
        }
        let Some(chain) = self.chains.get(index) else { return self.ret(0) };
        let place = self.chain(chain);
        if let Some(slot) = self.placed.get_mut(index) {
            *slot = Some(place);
        }
        place
    }

    /// The first rule whose conditions all hold; else the chain's last resort.
    fn chain(&mut self, chain: &Chain) -> Place {
        let mut next = self.ret(chain.otherwise);
        for rule in chain.rules.iter().rev().filter_map(|rule| self.rules.get(*rule)) {
            if self.reversed.len() > LENGTH_STOP {
                return next;
            }
            let mut holds = self.ret(rule.action);
            for condition in rule.conditions.iter().rev() {
                holds = self.condition(condition, chain.narrow, holds, next);
            }
            next = holds;
        }
        next
    }

    fn condition(&mut self, condition: &Condition, narrow: bool, holds: Place, fails: Place) -> Place {
        let (holds, fails) = if condition.negated { (fails, holds) } else { (holds, fails) };
        let word = OFFSET_ARGS + 8 * u32::from(condition.arg);
        // Little endian, as x86-64 and aarch64 are: the low half comes first.
        let (low, high) = (word, word + 4);
        match condition.test {
            Test::Equal(value) => {
                let rest = self.test(low, None, JUMP_EQ, lower(value), holds, fails);
                if narrow { rest } else { self.test(high, None, JUMP_EQ, upper(value), rest, fails) }
            }
            Test::Masked { mask, value } => {
                let rest = self.masked(low, lower(mask), lower(value), holds, fails);
                if narrow { rest } else { self.masked(high, upper(mask), upper(value), rest, fails) }
            }
            Test::GreaterEqual(0) => holds,
            Test::Greater(value) => self.ordered((low, high), JUMP_GT, value, narrow, holds, fails),
            Test::GreaterEqual(value) => self.ordered((low, high), JUMP_GE, value, narrow, holds, fails),
        }
    }

    /// The upper halves decide unless they are equal; then the lower ones do.
    fn ordered(
        &mut self,
        (low, high): (u32, u32),
        code: u16,
        value: u64,
        narrow: bool,
        holds: Place,
        fails: Place,
    ) -> Place {
        let rest = self.test(low, None, code, lower(value), holds, fails);
        if narrow {
            return rest;
        }
        let equal = self.branch(JUMP_EQ, upper(value), rest, fails);
        self.test(high, None, JUMP_GT, upper(value), holds, equal)
    }

    /// Without masking where one jump can tell: no bit of the mask set, or the only one set.
    fn masked(&mut self, offset: u32, mask: u32, value: u32, holds: Place, fails: Place) -> Place {
        match value & mask {
            _ if mask == 0 => holds,
            0 => self.test(offset, None, JUMP_SET, mask, fails, holds),
            value if mask.is_power_of_two() => self.test(offset, None, JUMP_SET, value, holds, fails),
            value => self.test(offset, Some(mask), JUMP_EQ, value, holds, fails),
        }
    }

    /// Load, mask, compare, jump.
    fn test(&mut self, offset: u32, mask: Option<u32>, code: u16, k: u32, holds: Place, fails: Place) -> Place {
        // Nothing to tell apart: no load either, so what comes next keeps its own.
        if holds == fails {
            return holds;
        }
        let (holds, fails) = match mask {
            Some(_) => (holds, fails),
            None => (self.past_load(offset, holds), self.past_load(offset, fails)),
        };
        // With two different targets this is always a new instruction, so what is pushed next falls into it.
        self.branch(code, k, holds, fails);
        if let Some(mask) = mask {
            self.push(AND, mask);
        }
        self.push(LOAD, offset);
        self.last()
    }

    /// Where to go on if the accumulator holds the word at `offset` already.
    fn past_load(&self, offset: u32, place: Place) -> Place {
        match (self.reversed.get(place), place.checked_sub(1)) {
            (Some(Instruction { code: LOAD, k, .. }), Some(next)) if *k == offset => next,
            _ => place,
        }
    }
}

/// The low 32 bits.
fn lower(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

/// The high 32 bits.
fn upper(value: u64) -> u32 {
    (value >> 32) as u32
}

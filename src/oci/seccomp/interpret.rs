//! The part of classic BPF that seccomp takes, interpreted, with the kernel's checks: what a compiled filter answers
//! without loading it. For programs of ours, tests and benchmarks: panics on those that [`verify`] refuses.

use super::Instruction;

/// `struct seccomp_data`, without the instruction pointer's value.
#[derive(Debug, Clone, Copy)]
pub struct Data {
    /// Call number.
    pub nr: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Registers.
    pub args: [u64; 6],
}

impl Data {
    /// The word at a byte offset, as a little-endian kernel lays the structure out.
    fn word(&self, offset: u32) -> u32 {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(4) && offset < 64, "load from {offset}");
        match offset {
            0 => self.nr,
            4 => self.arch,
            8 | 12 => 0,
            _ => {
                let arg = self.args[(offset - 16) / 8];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
        }
    }
}

/// What the program returns for a call, and how many instructions that took.
pub fn interpret(program: &[Instruction], data: &Data) -> (u32, usize) {
    let (mut at, mut accumulator) = (0, 0_u32);
    for steps in 1..=program.len() {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = data.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x45 => branch(accumulator & k != 0),
            0x06 => return (k, steps),
            _ => panic!("instruction {} has the unknown code {code:#x}", at - 1),
        }
    }
    panic!("the program does not end");
}

/// The kernel's own demands on a program: its length, known codes, and every jump inside.
pub fn verify(program: &[Instruction]) {
    assert!((1..=super::MAX_INSTRUCTIONS).contains(&program.len()), "{} instructions", program.len());
    for (at, instruction) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match instruction.code {
            0x05 => assert!((instruction.k as usize) < left, "instruction {at} jumps out"),
            0x15 | 0x25 | 0x35 | 0x45 => {
                assert!(usize::from(instruction.jt.max(instruction.jf)) < left, "instruction {at} jumps out");
            }
            0x20 => {
                assert!(instruction.k.is_multiple_of(4) && instruction.k < 64, "instruction {at} loads from nowhere")
            }
            0x54 | 0x06 => {}
            code => panic!("instruction {at} has the unknown code {code:#x}"),
        }
    }
    assert_eq!(program.last().map(|last| last.code), Some(0x06), "the last instruction returns");
}

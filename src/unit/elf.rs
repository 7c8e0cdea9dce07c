//! Whether a file can be the only file of a container: an ELF program for this machine that needs no loader.

/// How many bytes from the beginning of a file [`check_executable`] wants: linkers put the program headers there.
pub const ELF_BYTES: usize = 4096;

/// elf(5): offsets into the 64-bit header, sizes and values used below.
const HEADER_LEN: usize = 64;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_INTERP: u32 = 3;
const PHENTSIZE: usize = 56;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Why a file is not a static executable for this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStatic {
    /// No bytes at all.
    #[error("the file is empty, expected a static ELF executable")]
    Empty,
    /// `#!`: there is nothing in the container that could run it.
    #[error("a script, expected a static ELF executable: with an interpreter it needs a root, use `rootfs`")]
    Script,
    /// Something else.
    #[error("not an ELF file, expected a static ELF executable")]
    NotElf,
    /// An object file, a core dump.
    #[error("an ELF file, but not a program (type {0}), expected a static executable")]
    NotProgram(u16),
    /// Built for another machine.
    #[error("an executable for {0}, but this machine is {this}", this = machine_name(MACHINE))]
    Machine(String),
    /// It names a loader.
    #[error(
        "dynamically linked: it needs {0}, which the container does not have; link it statically (Rust: target-feature=+crt-static, Go: CGO_ENABLED=0, C: -static) or use `rootfs`"
    )]
    Dynamic(String),
    /// Header or program headers are cut off or lie beyond the bytes that were read.
    #[error("an ELF file whose headers are cut off, expected a static executable")]
    Truncated,
}

/// Looks at the first [`ELF_BYTES`] bytes of a file (all of them if it is shorter).
pub fn check_executable(first: &[u8]) -> Result<(), NotStatic> {
    if first.is_empty() {
        return Err(NotStatic::Empty);
    }
    if first.starts_with(b"#!") {
        return Err(NotStatic::Script);
    }
    if !first.starts_with(b"\x7fELF") {
        return Err(NotStatic::NotElf);
    }
    if first.len() < HEADER_LEN {
        return Err(NotStatic::Truncated);
    }
    if (first[4], first[5]) != (CLASS_64, LITTLE_ENDIAN) {
        return Err(NotStatic::Machine("a 32-bit or big-endian machine".to_owned()));
    }
    let kind = u16_at(first, 16)?;
    if !matches!(kind, ET_EXEC | ET_DYN) {
        return Err(NotStatic::NotProgram(kind));
    }
    let machine = u16_at(first, 18)?;
    if machine != MACHINE {
        return Err(NotStatic::Machine(machine_name(machine)));
    }
    find_interpreter(first)
}

fn find_interpreter(first: &[u8]) -> Result<(), NotStatic> {
    let table = usize::try_from(u64_at(first, 32)?).map_err(|_| NotStatic::Truncated)?;
    let entries = u16_at(first, 56)?;
    if usize::from(u16_at(first, 54)?) != PHENTSIZE || entries == 0 {
        return Err(NotStatic::Truncated);
    }
    for n in 0..usize::from(entries) {
        let at = table.checked_add(n * PHENTSIZE).ok_or(NotStatic::Truncated)?;
        // The kernel maps what PT_INTERP names and runs that instead; a static-pie has PT_DYNAMIC but no PT_INTERP.
        if u32_at(first, at)? == PT_INTERP {
            return Err(NotStatic::Dynamic(interpreter(first, at)));
        }
        u64_at(first, at.saturating_add(PHENTSIZE - 8))?;
    }
    Ok(())
}

fn interpreter(first: &[u8], entry: usize) -> String {
    let name = || {
        let start = usize::try_from(u64_at(first, entry.checked_add(8)?).ok()?).ok()?;
        let bytes = first.get(start..)?.split(|b| *b == 0).next()?;
        std::str::from_utf8(bytes)
            .ok()
            .filter(|name| !name.is_empty() && name.len() < 200)
            .map(super::diagnostic::quote)
    };
    name().unwrap_or_else(|| "a loader".to_owned())
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86 (32 bit)".to_owned(),
        40 => "arm (32 bit)".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv".to_owned(),
        other => format!("machine {other}"),
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], NotStatic> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(NotStatic::Truncated)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, NotStatic> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, NotStatic> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, NotStatic> {
    field(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16, kind: u16, segments: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN + segments.len() * PHENTSIZE];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&kind.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&(HEADER_LEN as u64).to_le_bytes());
        bytes[54..56].copy_from_slice(&(PHENTSIZE as u16).to_le_bytes());
        bytes[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for (n, segment) in segments.iter().enumerate() {
            let at = HEADER_LEN + n * PHENTSIZE;
            bytes[at..at + 4].copy_from_slice(&segment.to_le_bytes());
            let end = bytes.len() as u64;
            bytes[at + 8..at + 16].copy_from_slice(&end.to_le_bytes());
        }
        bytes.extend_from_slice(b"/lib/ld.so\0");
        bytes
    }

    #[test]
    fn static_programs_and_static_pies_pass() {
        assert_eq!(check_executable(&elf(MACHINE, ET_EXEC, &[1, 1])), Ok(()));
        assert_eq!(check_executable(&elf(MACHINE, ET_DYN, &[1, 2])), Ok(()));
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(check_executable(&own[..ELF_BYTES]), Ok(()), "the tests themselves are linked statically");
    }

    #[test]
    fn others_are_named() {
        let dynamic = NotStatic::Dynamic("/lib/ld.so".to_owned());
        assert_eq!(check_executable(&elf(MACHINE, ET_DYN, &[1, PT_INTERP])), Err(dynamic));
        assert_eq!(check_executable(&elf(243, ET_EXEC, &[1])), Err(NotStatic::Machine("riscv".to_owned())));
        assert_eq!(check_executable(&elf(MACHINE, 1, &[1])), Err(NotStatic::NotProgram(1)));
        assert_eq!(check_executable(b""), Err(NotStatic::Empty));
        assert_eq!(check_executable(b"#!/bin/sh\n"), Err(NotStatic::Script));
        assert_eq!(check_executable(b"MZ"), Err(NotStatic::NotElf));
        assert_eq!(check_executable(b"\x7fELF\x02\x01"), Err(NotStatic::Truncated));
        let whole = elf(MACHINE, ET_EXEC, &[1, 1]);
        for cut in 4..HEADER_LEN + 2 * PHENTSIZE {
            assert_eq!(check_executable(&whole[..cut]), Err(NotStatic::Truncated), "{cut}");
        }
    }

    #[test]
    fn offsets_that_overflow_do_not_panic() {
        let mut bytes = elf(MACHINE, ET_EXEC, &[1]);
        bytes[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(check_executable(&bytes), Err(NotStatic::Truncated));
    }
}

//! What is looked for in the file of a program of ours: elf(5).

use std::ops::Range;
use std::os::fd::BorrowedFd;

/// Program headers come first, and notes are short.
const READ_BYTES: usize = 4096;
/// 64 bits, little-endian.
const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const FILE_HEADER_BYTES: usize = 64;
const HEADER_BYTES: usize = 56;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const OWNER: &[u8] = b"GNU\0";

/// The sections by which a stack is unwound.
const UNWIND: [&[u8]; 2] = [b".eh_frame_hdr", b".eh_frame"];
const SECTION_BYTES: usize = 64;
const SHT_SYMTAB: u32 = 2;

/// The number that the linker gave to a program (`NT_GNU_BUILD_ID`), by which two builds of one version differ. In hexadecimal digits; `None` where
/// the linker gave none.
pub fn build_id(program: BorrowedFd<'_>) -> Option<String> {
    let first = read(program, 0, READ_BYTES)?;
    segments(&first).find_map(|(offset, size)| {
        let notes = read(program, offset, usize::try_from(size).ok()?.min(READ_BYTES))?;
        let id = find(&notes)?;
        Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
    })
}

/// Where a program without symbols keeps what a stack is unwound by, in the order of the file. A backtrace is all that is lost with it where a
/// panic aborts, and there it says nothing. A program with symbols counts as having none.
pub fn idle_unwind_tables(program: BorrowedFd<'_>) -> Vec<Range<u64>> {
    match sections(program) {
        Some(sections) if !sections.iter().any(|section| section.kind == SHT_SYMTAB) => sections
            .into_iter()
            .filter(|section| UNWIND.contains(&section.name.as_slice()))
            .map(|section| section.place)
            .collect(),
        Some(_) | None => Vec::new(),
    }
}

struct Section {
    name: Vec<u8>,
    kind: u32,
    /// In the file.
    place: Range<u64>,
}

fn sections(program: BorrowedFd<'_>) -> Option<Vec<Section>> {
    let first = read(program, 0, FILE_HEADER_BYTES)?;
    let start = u64_at(&first, 40).filter(|_| first.starts_with(MAGIC))?;
    let (count, names) = (usize::from(u16_at(&first, 60)?), usize::from(u16_at(&first, 62)?));
    let table = read(program, start, count.checked_mul(SECTION_BYTES)?.min(READ_BYTES))?;
    let place = |section: &[u8]| {
        let (offset, size) = (u64_at(section, 24)?, u64_at(section, 32)?);
        Some(offset..offset.checked_add(size)?)
    };
    let names = place(table.chunks_exact(SECTION_BYTES).nth(names)?)?;
    let names = read(program, names.start, READ_BYTES)?;
    let section = |section: &[u8]| {
        let name = names.get(usize::try_from(u32_at(section, 0)?).ok()?..)?.split(|byte| *byte == 0).next()?;
        Some(Section { name: name.to_vec(), kind: u32_at(section, 4)?, place: place(section)? })
    };
    table.chunks_exact(SECTION_BYTES).map(section).collect()
}

fn read(program: BorrowedFd<'_>, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let read = rustix::io::pread(program, &mut bytes, offset).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_le_bytes(*two))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_le_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))
}

/// Offset and size in the file of each segment with notes.
fn segments(first: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let start = u64_at(first, 32).and_then(|at| usize::try_from(at).ok()).filter(|_| first.starts_with(MAGIC));
    let headers = start.and_then(|start| first.get(start..)).unwrap_or_default();
    let count = u16_at(first, 56).map_or(0, usize::from);
    let notes = headers.chunks_exact(HEADER_BYTES).take(count).filter(|header| u32_at(header, 0) == Some(PT_NOTE));
    notes.filter_map(|header| Some((u64_at(header, 8)?, u64_at(header, 32)?)))
}

/// Notes lie one after the other, name and contents each filled up to a multiple of four.
fn find(notes: &[u8]) -> Option<&[u8]> {
    let mut rest = notes;
    loop {
        let (name, contents) = (u32_at(rest, 0)? as usize, u32_at(rest, 4)? as usize);
        let kind = u32_at(rest, 8)?;
        rest = rest.get(12..)?;
        let owner = rest.get(..name)?;
        rest = rest.get(name.checked_next_multiple_of(4)?..)?;
        if (kind, owner) == (NT_GNU_BUILD_ID, OWNER) {
            return rest.get(..contents);
        }
        rest = rest.get(contents.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: u32, owner: &[u8], contents: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [owner.len() as u32, contents.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        for part in [owner, contents] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn it_is_found_behind_other_notes() {
        let notes = [note(1, OWNER, &[1; 16]), note(3, b"Linux\0", &[2; 5]), note(3, OWNER, &[0xab, 0x0c, 3])].concat();
        assert_eq!(find(&notes), Some(&[0xab, 0x0c, 3][..]));
        for length in 0..notes.len() - 1 {
            assert_eq!(find(&notes[..length]), None, "cut to {length} bytes");
        }
        assert_eq!(find(&[0xff; 64]), None);
    }

    #[test]
    fn this_program_has_one() {
        use std::os::fd::AsFd;
        let own = std::fs::File::open("/proc/self/exe").unwrap();
        let id = build_id(own.as_fd()).unwrap_or_default();
        assert!(id.len() >= 8 && id.chars().all(|digit| digit.is_ascii_hexdigit()), "{id:?}");
        let other = std::fs::File::open("/etc/passwd").unwrap();
        assert_eq!((build_id(other.as_fd()), sections(other.as_fd()).is_none()), (None, true));
    }

    #[test]
    fn the_sections_of_this_program_are_found() {
        use std::os::fd::AsFd;
        let own = std::fs::File::open("/proc/self/exe").unwrap();
        let sections = sections(own.as_fd()).unwrap();
        let [index, frames] = UNWIND.map(|name| &sections.iter().find(|section| section.name == name).unwrap().place);
        // The index begins with its version and the form of the pointer to the frames (LSB, "The .eh_frame_hdr section").
        let begin = read(own.as_fd(), index.start, 8).unwrap();
        assert_eq!(begin[..2], [1, 0x1b]);
        let offset = u64::from(u32_at(&begin, 4).unwrap());
        assert_eq!(index.start + 4 + offset, frames.start);
        // It has symbols.
        assert_eq!(idle_unwind_tables(own.as_fd()), []);
    }
}

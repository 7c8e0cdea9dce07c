//! Any bytes as a log and its index.

use std::collections::VecDeque;

use super::index::{Cursor, Extent, Piece, RECORD_BYTES, Record, Stream, pieces, valid_records};
use super::lines::{Assembler, LINE_MAX_BYTES, What};
use super::render::{Style, render};

/// Two bytes say how much of the rest is the index; the log follows. With an odd first byte the checks of the index's records are made right.
pub(crate) fn files(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (index, log) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let mut index = index.to_vec();
    if length[0] & 1 == 1 {
        index.as_chunks_mut::<RECORD_BYTES>().0.iter_mut().for_each(repair);
    }
    let log_bytes = log.len() as u64;
    let records: Vec<Record> = valid_records(&index, log_bytes).collect();
    let mut entries = VecDeque::new();
    let mut lines = Assembler::default();
    let mut covered = 0;
    for piece in pieces(records.iter().copied(), log_bytes) {
        match piece {
            Piece::Bytes(Extent { offset, bytes, owner, time_ms }) => {
                assert!(offset == covered && bytes > 0, "{bytes} bytes at {offset} after {covered}");
                covered += bytes;
                lines.bytes(owner, time_ms, &log[offset as usize..covered as usize], &mut entries);
            }
            Piece::Begins { .. } => {}
            Piece::Ends { generation } => lines.ends(generation, &mut entries),
            Piece::Dropped { owner, bytes, time_ms } => lines.dropped(owner, bytes, time_ms, &mut entries),
        }
    }
    assert_eq!(covered, log_bytes, "every byte is in one piece");
    lines.flush(&mut entries);
    told(&entries, log);
    go_on(&records, log_bytes);
}

/// Makes the check of a record right, and its kind one that there is.
fn repair(text: &mut [u8; RECORD_BYTES]) {
    text[6] = 1 + text[6] % 7;
    // Offsets of a log that is small.
    text[2..6].fill(0);
    for check in 0..=255 {
        text[7] = check;
        if Record::decode(text).is_some() {
            return;
        }
    }
    panic!("no check is right");
}

/// No byte is lost or invented, and none of them controls a terminal.
fn told(entries: &VecDeque<super::Entry>, log: &[u8]) {
    let mut bytes = 0;
    for entry in entries {
        if let What::Line { bytes: line, end } = &entry.what {
            assert!(line.len() <= LINE_MAX_BYTES && !line.contains(&b'\n'));
            bytes += line.len() + usize::from(*end == super::End::Newline);
        }
        for (terminal, json) in [(true, false), (false, true)] {
            let mut text = Vec::new();
            render(entry, Style { terminal, timestamps: true, json }, &mut text);
            let line = std::str::from_utf8(&text).expect("text").strip_suffix('\n').expect("a line");
            let controls = |c: char| c.is_control() && (json || c != '\t');
            assert!(!line.chars().any(controls), "{line:?}");
        }
    }
    assert_eq!(bytes, log.len());
}

/// A writer that takes the file up again owns what it writes.
fn go_on(records: &[Record], log_bytes: u64) {
    let mut cursor = Cursor::resume(records.iter().copied(), log_bytes);
    let mut all = records.to_vec();
    for (generation, stream) in [(1, Stream::Out), (1, Stream::Err), (2, Stream::Err)] {
        for record in cursor.before_splice(generation, stream, 5) {
            cursor.wrote(record);
            all.push(record);
        }
        cursor.moved(3);
        let Some(Piece::Bytes(last)) = pieces(all.iter().copied(), cursor.offset).pop() else { panic!("no bytes") };
        assert_eq!((last.bytes, last.owner.generation, last.owner.stream), (3, generation, stream));
    }
}

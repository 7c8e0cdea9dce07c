//! Where to begin reading: found from the end of a log, without reading all of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::index::{Extent, Owner, Piece, Stream, pieces, valid_records};
use super::reader::{ReadError, open_for_reading};
use super::segment;
use super::unit_log::INDEX_MAX_BYTES;

/// One read, from the end of an extent towards its beginning.
const CHUNK_BYTES: u64 = 64 * 1024;

/// A position in a unit's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Of the file.
    pub number: u64,
    /// In the file.
    pub offset: u64,
}

/// Where each stream begins to be of interest: at the beginning of a line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// For those that are in the middle of a line at `rest`.
    heads: Vec<(Owner, Place)>,
    /// For all others, and for notes.
    pub rest: Place,
}

impl Start {
    /// The file in which reading begins.
    pub fn first_number(&self) -> u64 {
        self.heads.iter().map(|(_, place)| place.number).fold(self.rest.number, u64::min)
    }

    /// From which offset on this owner's bytes in this file are wanted.
    pub fn offset_in(&self, number: u64, owner: Owner) -> u64 {
        let head = self.heads.iter().find(|(o, _)| *o == owner).map_or(self.rest, |(_, place)| *place);
        match number.cmp(&head.number) {
            std::cmp::Ordering::Less => u64::MAX,
            std::cmp::Ordering::Equal => head.offset,
            std::cmp::Ordering::Greater => 0,
        }
    }
}

/// A file's pieces, and the file.
struct Loaded {
    number: u64,
    log: File,
    pieces: Vec<Piece>,
}

/// Reads an index (bounded by the writer, and here). `None` if the file is gone.
fn load(dir: &Path, number: u64, end: Place) -> Result<Option<Loaded>, ReadError> {
    let (log_path, index_path) = (segment::log_path(dir, number), segment::index_path(dir, number));
    let Some(log) = open_for_reading(log_path.clone())? else { return Ok(None) };
    let limit = if number == end.number { end.offset } else { u64::MAX };
    let size = log.metadata().map_err(|source| ReadError::Read { path: log_path, source })?.len().min(limit);
    let mut text = Vec::new();
    if let Some(index) = open_for_reading(index_path.clone())? {
        let read = std::io::Read::read_to_end(&mut std::io::Read::take(index, INDEX_MAX_BYTES + 4096), &mut text);
        read.map_err(|source| ReadError::Read { path: index_path, source })?;
    }
    Ok(Some(Loaded { number, log, pieces: pieces(valid_records(&text, size), size) }))
}

/// The search for the beginnings of lines, going backwards.
struct Search {
    only: Option<u64>,
    /// Line ends still to be passed.
    lines: u64,
    /// Where the last of them was; then only beginnings are searched for.
    rest: Option<Place>,
    /// Both streams of every generation met after `rest` (one may have a line that is unfinished since long before), and where the
    /// line at `rest` begins, once that is known.
    heads: Vec<(Owner, Option<Place>)>,
}

impl Search {
    fn done(&self) -> bool {
        self.rest.is_some() && self.heads.iter().all(|(_, place)| place.is_some())
    }

    fn wants(&self, owner: Owner) -> bool {
        let generation = self.only.is_none_or(|only| only == owner.generation);
        let open = self.heads.iter().any(|(o, place)| *o == owner && place.is_none());
        generation && (self.rest.is_none() || open)
    }

    /// A line of this owner ended before `next`.
    fn line_end(&mut self, owner: Owner, number: u64, next: u64) {
        if self.rest.is_some() {
            self.found(|o| o == owner, Place { number, offset: next });
            return;
        }
        self.lines -= 1;
        if self.lines == 0 {
            // The line that ended here is the last one wanted; it began before.
            self.rest = Some(Place { number, offset: next - 1 });
        }
    }

    fn meet(&mut self, generation: u64) {
        let known = self.heads.iter().any(|(owner, _)| owner.generation == generation);
        if self.rest.is_none() && !known && self.only.is_none_or(|only| only == generation) {
            self.heads.extend([Stream::Out, Stream::Err].map(|stream| (Owner { generation, stream }, None)));
        }
    }

    fn found(&mut self, whose: impl Fn(Owner) -> bool, place: Place) {
        for (owner, head) in &mut self.heads {
            if head.is_none() && whose(*owner) {
                *head = Some(place);
            }
        }
    }

    fn go_back(&mut self, file: &Loaded, path: &Path) -> Result<(), ReadError> {
        for piece in file.pieces.iter().rev() {
            if self.done() {
                return Ok(());
            }
            self.meet(piece.generation());
            match *piece {
                Piece::Bytes(extent) if self.wants(extent.owner) => self.bytes(file, path, extent)?,
                Piece::Begins { offset, generation } => {
                    self.found(|owner| owner.generation == generation, Place { number: file.number, offset });
                }
                Piece::Bytes(_) | Piece::Ends { .. } | Piece::Dropped { .. } => {}
            }
        }
        Ok(())
    }

    fn bytes(&mut self, file: &Loaded, path: &Path, extent: Extent) -> Result<(), ReadError> {
        let mut end = extent.offset + extent.bytes;
        let mut buffer = [0; CHUNK_BYTES as usize];
        while end > extent.offset {
            let from = end.saturating_sub(CHUNK_BYTES).max(extent.offset);
            let chunk = &mut buffer[..(end - from) as usize];
            let read = file.log.read_exact_at(chunk, from);
            read.map_err(|source| ReadError::Read { path: segment::log_path(path, file.number), source })?;
            for at in (0..chunk.len()).rev().filter(|at| chunk[*at] == b'\n') {
                self.line_end(extent.owner, file.number, from + at as u64 + 1);
                if !self.wants(extent.owner) {
                    return Ok(());
                }
            }
            end = from;
        }
        Ok(())
    }

    /// What was not found begins where the log begins.
    fn start(self) -> Start {
        let rest = self.rest.unwrap_or_default();
        let heads = self.heads.into_iter().map(|(owner, place)| (owner, place.unwrap_or_default())).collect();
        Start { heads, rest }
    }
}

/// Where the newest `lines` lines of a log (of one generation) begin, or earlier.
pub fn start_of_last(dir: &Path, logs: &[u64], end: Place, only: Option<u64>, lines: u64) -> Result<Start, ReadError> {
    let rest = (lines == 0).then_some(end);
    let mut search = Search { only, lines, rest, heads: Vec::new() };
    for number in logs.iter().rev() {
        if search.done() {
            break;
        }
        if let Some(file) = load(dir, *number, end)? {
            search.go_back(&file, dir)?;
        }
    }
    Ok(search.start())
}

/// Where the lines since a time begin, or earlier: at the beginning of the newest file whose first bytes are older. Assumes
/// that the clock was not set back by more than a file's span.
pub fn start_since(dir: &Path, logs: &[u64], end: Place, since_ms: u64) -> Result<Start, ReadError> {
    let mut search: Option<Search> = None;
    for number in logs.iter().rev() {
        let Some(file) = load(dir, *number, end)? else { continue };
        if let Some(search) = search.as_mut() {
            search.go_back(&file, dir)?;
            if search.done() {
                break;
            }
            continue;
        }
        let first = file.pieces.iter().find_map(|piece| match piece {
            Piece::Bytes(extent) => Some(*extent),
            Piece::Begins { .. } | Piece::Ends { .. } | Piece::Dropped { .. } => None,
        });
        if first.is_some_and(|first| first.time_ms < since_ms) {
            // Lines in the middle at this file's beginning: whoever writes first in it may be so, on either stream.
            let heads = open_at_beginning(&file).map(|owner| (owner, None)).collect();
            let rest = Some(Place { number: *number, offset: 0 });
            search = Some(Search { only: None, lines: 0, rest, heads });
        }
    }
    Ok(search.map_or(Start::default(), Search::start))
}

/// Owners that write in this file and did not begin in it.
fn open_at_beginning(file: &Loaded) -> impl Iterator<Item = Owner> + use<'_> {
    let mut begun = Vec::new();
    let mut open: Vec<Owner> = Vec::new();
    for piece in &file.pieces {
        match piece {
            Piece::Begins { generation, .. } => begun.push(*generation),
            Piece::Bytes(Extent { owner, .. }) if !begun.contains(&owner.generation) && !open.contains(owner) => {
                open.push(*owner);
            }
            Piece::Bytes(_) | Piece::Ends { .. } | Piece::Dropped { .. } => {}
        }
    }
    open.into_iter()
}

/// The generation before the last one.
pub fn find_previous(dir: &Path, logs: &[u64], end: Place) -> Result<Option<u64>, ReadError> {
    let mut last = None;
    for number in logs.iter().rev() {
        let Some(file) = load(dir, *number, end)? else { continue };
        for piece in file.pieces.iter().rev() {
            let generation = piece.generation();
            match last {
                None => last = Some(generation),
                Some(last) if last != generation => return Ok(Some(generation)),
                Some(_) => {}
            }
        }
    }
    Ok(None)
}

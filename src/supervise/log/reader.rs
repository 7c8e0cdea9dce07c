//! Reading a unit's log from its files, with or without a supervisor, while it grows and rotates.
//!
//! A reader takes the size of the log first and the index after it: what is below that size has its records, because they were written
//! before. A record beyond the size waits until the log has grown up to it. Nothing is written to a file once its successor exists, so the
//! reader goes on to the next after a last look at this one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::growth::Growth;
use super::index::{Extent, Piece, RECORD_BYTES, Record, Walk};
use super::lines::{Assembler, Entry};
use super::render::{Style, render};
use super::segment;
use super::tail::{Place, Start, find_previous, start_of_last, start_since};
use crate::unit::UnitName;

/// One read of the log.
const CHUNK_BYTES: usize = 64 * 1024;
/// One read of the index.
const RECORDS_BYTES: usize = 4096;
/// Output is written in pieces of about this size.
const OUTPUT_BYTES: usize = 64 * 1024;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The unit has never written a log here.
    #[error("{unit} has no log in {log_dir}: it has not run, or its logs were removed")]
    NoLog {
        /// Asked for.
        unit: UnitName,
        /// Looked in.
        log_dir: PathBuf,
    },
    /// There is only one generation in the log.
    #[error("the log of {unit} holds no generation before the last one")]
    NoPrevious {
        /// Asked for.
        unit: UnitName,
    },
    /// The directory cannot be listed.
    #[error("cannot list {path}: {source}")]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Changes cannot be waited for.
    #[error("cannot watch {path}: {source}")]
    Watch {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output failed.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
}

/// Which lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Query {
    /// Only so many of the newest.
    pub lines: Option<u64>,
    /// Only those that began at or after this time, ms since 1970.
    pub since_ms: Option<u64>,
    /// Only those of the generation before the last one.
    pub previous: bool,
    /// Go on as the log grows.
    pub follow: bool,
}

/// Reads entries in the order in which their lines ended.
#[derive(Debug)]
pub struct LogReader {
    forward: Forward,
    /// Entries to leave out first: those older than the newest `lines`.
    skip: u64,
    since_ms: u64,
    watch: Option<Growth>,
}

impl LogReader {
    /// Finds where to begin. With `follow` the log need not exist yet.
    pub fn open(log_dir: &Path, unit: &UnitName, query: &Query) -> Result<LogReader, ReadError> {
        let dir = log_dir.join(unit.as_str());
        // Watched before the first look, so that nothing falls between.
        let watch = query.follow.then(|| Growth::new(log_dir, &dir)).transpose()?;
        let logs = list(&dir)?;
        if logs.is_empty() && !query.follow {
            return Err(ReadError::NoLog { unit: unit.clone(), log_dir: log_dir.to_owned() });
        }
        let end = end_of(&dir, &logs);
        let only = match query.previous {
            true => Some(find_previous(&dir, &logs, end)?.ok_or(ReadError::NoPrevious { unit: unit.clone() })?),
            false => None,
        };
        let start = match (query.lines, query.since_ms) {
            (Some(lines), _) => start_of_last(&dir, &logs, end, only, lines)?,
            (None, Some(since_ms)) => start_since(&dir, &logs, end, since_ms)?,
            (None, None) => Start::default(),
        };
        let mut forward = Forward::new(dir, start, Some(end), only);
        let skip = match query.lines {
            Some(lines) => forward.clone_at_start().count(!query.follow)?.saturating_sub(lines),
            None => 0,
        };
        if query.follow {
            forward.end = None;
        }
        Ok(LogReader { forward, skip, since_ms: query.since_ms.unwrap_or(0), watch })
    }

    /// The next entry; `None` at the end of what there is (with `follow`: for now).
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        while let Some(entry) = self.forward.next_entry()? {
            if self.wanted(&entry) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Lines that have no newline yet, at the end.
    pub fn unfinished(&mut self) -> Vec<Entry> {
        self.forward.flush();
        let entries = std::mem::take(&mut self.forward.ready);
        entries.into_iter().filter(|entry| self.wanted(entry)).collect()
    }

    fn wanted(&mut self, entry: &Entry) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        entry.time_ms >= self.since_ms
    }

    /// Sleeps until something may have been added; returns at once without `follow`.
    pub fn wait(&mut self) -> Result<(), ReadError> {
        self.watch.as_mut().map_or(Ok(()), Growth::wait)
    }
}

/// The newest `lines` lines, unfinished ones included; none if there is no log.
pub fn last_lines(log_dir: &Path, unit: &UnitName, lines: u64) -> Result<Vec<Entry>, ReadError> {
    let query = Query { lines: Some(lines), ..Query::default() };
    let mut reader = match LogReader::open(log_dir, unit, &query) {
        Err(ReadError::NoLog { .. }) => return Ok(Vec::new()),
        reader => reader?,
    };
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    entries.extend(reader.unfinished());
    Ok(entries)
}

/// `moored logs`: writes what is asked for; with `follow` until the output is closed.
pub fn print(
    log_dir: &Path,
    unit: &UnitName,
    query: &Query,
    style: Style,
    out: &mut dyn Write,
) -> Result<(), ReadError> {
    match print_all(log_dir, unit, query, style, out) {
        Err(ReadError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn print_all(
    log_dir: &Path,
    unit: &UnitName,
    query: &Query,
    style: Style,
    out: &mut dyn Write,
) -> Result<(), ReadError> {
    let mut reader = LogReader::open(log_dir, unit, query)?;
    let mut text = Vec::with_capacity(OUTPUT_BYTES);
    loop {
        while let Some(entry) = reader.next_entry()? {
            render(&entry, style, &mut text);
            if text.len() >= OUTPUT_BYTES {
                out.write_all(&text).map_err(ReadError::Output)?;
                text.clear();
            }
        }
        if !query.follow {
            reader.unfinished().iter().for_each(|entry| render(entry, style, &mut text));
        }
        out.write_all(&text).and_then(|()| out.flush()).map_err(ReadError::Output)?;
        text.clear();
        if !query.follow {
            return Ok(());
        }
        reader.wait()?;
    }
}

/// The numbers of a unit's logs, ascending.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, ReadError> {
    let listing = segment::list(dir).map_err(|source| ReadError::List { path: dir.to_owned(), source })?;
    Ok(listing.logs)
}

/// Where the log ends now.
pub(super) fn end_of(dir: &Path, logs: &[u64]) -> Place {
    let number = logs.last().copied().unwrap_or(0);
    let offset = std::fs::metadata(segment::log_path(dir, number)).map_or(0, |found| found.len());
    Place { number, offset }
}

/// Opens for reading; `None` if the file is gone (it was the oldest, and too much).
pub fn open_for_reading(path: PathBuf) -> Result<Option<File>, ReadError> {
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReadError::Open { path, source }),
    }
}

/// One file being read.
#[derive(Debug)]
struct Segment {
    number: u64,
    log_path: PathBuf,
    index_path: PathBuf,
    log: File,
    /// Absent if somebody removed it: then all is stdout's.
    index: Option<File>,
    index_at: u64,
    records: VecDeque<Record>,
    walk: Walk,
    /// The log is read up to here for now.
    size: u64,
    pieces: VecDeque<Piece>,
}

impl Segment {
    fn open(dir: &Path, number: u64) -> Result<Option<Segment>, ReadError> {
        let (log_path, index_path) = (segment::log_path(dir, number), segment::index_path(dir, number));
        let Some(log) = open_for_reading(log_path.clone())? else { return Ok(None) };
        let index = open_for_reading(index_path.clone())?;
        let (records, pieces) = Default::default();
        let walk = Walk::start();
        Ok(Some(Segment { number, log_path, index_path, log, index, index_at: 0, records, walk, size: 0, pieces }))
    }

    /// The next piece below `limit`; `None` at the end for now.
    fn piece(&mut self, limit: u64) -> Result<Option<Piece>, ReadError> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Ok(Some(piece));
            }
            match self.records.front().copied() {
                Some(record) if record.offset <= self.size => {
                    self.records.pop_front();
                    self.pieces.extend(self.walk.record(record, self.size).into_iter().flatten());
                }
                Some(_) => {
                    if let Some(piece) = self.walk.bytes_until(self.size) {
                        return Ok(Some(piece));
                    }
                    let before = self.size;
                    self.look_at_size(limit)?;
                    if self.size == before {
                        return Ok(None);
                    }
                }
                None => {
                    self.look_at_size(limit)?;
                    if !self.read_records()? {
                        return Ok(self.walk.bytes_until(self.size));
                    }
                }
            }
        }
    }

    fn look_at_size(&mut self, limit: u64) -> Result<(), ReadError> {
        let found = self.log.metadata().map_err(|source| ReadError::Read { path: self.log_path.clone(), source })?;
        self.size = found.len().min(limit);
        Ok(())
    }

    /// Takes the next records; false if there are none (yet), or only a torn one.
    fn read_records(&mut self) -> Result<bool, ReadError> {
        let Some(index) = self.index.as_ref() else { return Ok(false) };
        let mut text = [0; RECORDS_BYTES];
        let read = index.read_at(&mut text, self.index_at);
        let read = read.map_err(|source| ReadError::Read { path: self.index_path.clone(), source })?;
        self.records.extend(text[..read].as_chunks().0.iter().map_while(Record::decode));
        self.index_at += (self.records.len() * RECORD_BYTES) as u64;
        Ok(!self.records.is_empty())
    }
}

/// From a start to an end, or on and on.
#[derive(Debug)]
pub struct Forward {
    dir: PathBuf,
    start: Start,
    end: Option<Place>,
    only: Option<u64>,
    /// The next file's number is at least this.
    next_number: u64,
    file: Option<Segment>,
    /// What is left to read of the piece at hand.
    extent: Option<Extent>,
    lines: Assembler,
    ready: VecDeque<Entry>,
}

impl Forward {
    fn new(dir: PathBuf, start: Start, end: Option<Place>, only: Option<u64>) -> Forward {
        let next_number = start.first_number();
        let (lines, ready) = Default::default();
        Forward { dir, start, end, only, next_number, file: None, extent: None, lines, ready }
    }

    fn clone_at_start(&self) -> Forward {
        Forward::new(self.dir.clone(), self.start.clone(), self.end, self.only)
    }

    /// How many entries there are up to the end.
    fn count(mut self, unfinished: bool) -> Result<u64, ReadError> {
        let mut count = 0;
        while self.next_entry()?.is_some() {
            count += 1;
        }
        if unfinished {
            self.flush();
        }
        Ok(count + self.ready.len() as u64)
    }

    fn flush(&mut self) {
        self.lines.flush(&mut self.ready);
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            if self.read_chunk()? {
                continue;
            }
            let Some(file) = self.file.as_mut() else {
                if self.open_next()? {
                    continue;
                }
                return Ok(None);
            };
            let number = file.number;
            let limit = self.end.filter(|end| end.number == number).map_or(u64::MAX, |end| end.offset);
            match file.piece(limit)? {
                Some(piece) => self.take(piece),
                None if !self.leave(number, limit)? => return Ok(None),
                None => {}
            }
        }
    }

    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Bytes(extent) => self.extent = Some(extent),
            Piece::Begins { .. } => {}
            Piece::Ends { generation } => self.lines.ends(generation, &mut self.ready),
            Piece::Dropped { owner, bytes, time_ms } => {
                if self.only.is_none_or(|only| only == owner.generation) && self.is_after_start() {
                    self.lines.dropped(owner, bytes, time_ms, &mut self.ready);
                }
            }
        }
    }

    fn is_after_start(&self) -> bool {
        let place = self.file.as_ref().map(|file| Place { number: file.number, offset: file.walk.offset() });
        place >= Some(self.start.rest)
    }

    /// Reads a part of the piece at hand, if any of it is wanted; false when there is none left.
    fn read_chunk(&mut self) -> Result<bool, ReadError> {
        let (Some(extent), Some(file)) = (self.extent.take(), self.file.as_ref()) else { return Ok(false) };
        let wanted = self.only.is_none_or(|only| only == extent.owner.generation);
        let from = self.start.offset_in(file.number, extent.owner).max(extent.offset);
        let left = (extent.offset + extent.bytes).saturating_sub(from);
        if !wanted || left == 0 {
            return Ok(true);
        }
        let mut buffer = [0; CHUNK_BYTES];
        let chunk = &mut buffer[..CHUNK_BYTES.min(left as usize)];
        let read = file.log.read_at(chunk, from);
        let read = read.map_err(|source| ReadError::Read { path: file.log_path.clone(), source })?;
        self.lines.bytes(extent.owner, extent.time_ms, &chunk[..read], &mut self.ready);
        let rest = Extent { offset: from + read as u64, bytes: left - read as u64, ..extent };
        // Nothing read below the size: somebody cut the file. The rest of the piece is gone.
        self.extent = (read > 0 && rest.bytes > 0).then_some(rest);
        Ok(true)
    }

    fn open_next(&mut self) -> Result<bool, ReadError> {
        let end = self.end.map_or(u64::MAX, |end| end.number);
        for number in list(&self.dir)?.into_iter().filter(|n| (self.next_number..=end).contains(n)) {
            self.file = Segment::open(&self.dir, number)?;
            if self.file.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// At the end of a file: if it has a successor, takes a last look at it, then lets go of it. False if there is nothing more.
    fn leave(&mut self, number: u64, limit: u64) -> Result<bool, ReadError> {
        if self.end.is_some_and(|end| end.number <= number)
            || list(&self.dir)?.last().is_none_or(|last| *last <= number)
        {
            return Ok(false);
        }
        match self.file.as_mut().map(|file| file.piece(limit)).transpose()?.flatten() {
            Some(piece) => self.take(piece),
            None => {
                self.file = None;
                self.next_number = number + 1;
            }
        }
        Ok(true)
    }
}

//! The files of one unit, as the writer sees them: append, rotate, remove.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::index::{Cursor, Mark, RECORD_BYTES, Record, Stream, valid_records};
use super::segment;
use crate::unit::Log;

/// A smaller `max_size` is taken as this: a file must have room for its records and some text.
const SIZE_MIN_BYTES: u64 = 4096;
/// An index is not larger than this, whatever `max_size` is: readers load one at a time.
pub const INDEX_MAX_BYTES: u64 = 8 << 20;
/// One read where splice does not work; also the most that a crash can lose there.
const COPY_MAX_BYTES: usize = 64 * 1024;
/// A removed file is noticed by the next write after this time.
const LINK_CHECK_MS: u64 = 1000;
/// What the next append may add to the index.
const RECORDS_ROOM_BYTES: u64 = 2 * RECORD_BYTES as u64;

/// Why bytes could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The unit's directory cannot be made.
    #[error("cannot make {path}: {source}")]
    MakeDir { path: PathBuf, source: io::Error },
    /// Nor listed.
    #[error("cannot list {path}: {source}")]
    List { path: PathBuf, source: io::Error },
    /// A file cannot be opened or made.
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    /// An index cannot be read or cut at its last good record.
    #[error("cannot read {path}: {source}")]
    ReadIndex { path: PathBuf, source: io::Error },
    /// A record was not taken.
    #[error("cannot write {path}: {source}")]
    WriteIndex { path: PathBuf, source: io::Error },
    /// Bytes were not taken.
    #[error("cannot write {path}: {source}")]
    WriteLog {
        path: PathBuf,
        /// Bytes that had left the pipe (only where splice does not work).
        lost_bytes: u64,
        source: io::Error,
    },
}

/// What one append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes went from the pipe to the file.
    Bytes(usize),
    /// The pipe was empty.
    Empty,
    /// The pipe is empty and nobody has it open for writing.
    Closed,
}

#[derive(Debug)]
struct Files {
    log: File,
    index: File,
    /// The file system has no `splice_write`.
    copies: bool,
    checked_ms: u64,
}

/// The log of one unit.
#[derive(Debug)]
pub struct UnitLog {
    /// Number and size of the files before the current one, oldest first.
    rotated: VecDeque<(u64, u64)>,
    rotated_bytes: u64,
    /// Of the current file; 0 before the first.
    number: u64,
    index_bytes: u64,
    cursor: Cursor,
    files: Option<Files>,
    /// Whether the current file was open before, so that its absence means that somebody removed it.
    known: bool,
    limits: Log,
    /// Containers that write here now.
    pub attached: u32,
    /// Missing bytes of a generation that was detached while the disk failed, not in the index yet.
    owed: Option<(u64, [u64; 2])>,
}

/// Caps in force until somebody says others: the host's cap alone.
const NO_LIMITS: Log = Log { max_size_bytes: u64::MAX, max_files: u32::MAX };

impl UnitLog {
    /// What is on disk already. Removes leftovers of a rotation that a crash cut short.
    pub fn found(dir: &Path) -> Result<UnitLog, StoreError> {
        let listing = segment::list(dir).map_err(|source| StoreError::List { path: dir.to_owned(), source })?;
        for number in listing.lone_indexes {
            let _ = segment::remove(dir, number);
        }
        let mut sized: VecDeque<_> = listing.logs.into_iter().map(|n| (n, segment::size_bytes(dir, n))).collect();
        let (number, bytes) = sized.pop_back().unwrap_or((0, 0));
        // The split into log and index is learnt when the file is opened; only the sum counts until then.
        let cursor = Cursor::resume(std::iter::empty(), bytes);
        let rotated_bytes = sized.iter().map(|(_, bytes)| bytes).sum();
        Ok(UnitLog { rotated: sized, rotated_bytes, number, cursor, ..UnitLog::empty() })
    }

    /// Nothing on disk.
    pub fn empty() -> UnitLog {
        UnitLog {
            rotated: VecDeque::new(),
            rotated_bytes: 0,
            number: 0,
            index_bytes: 0,
            cursor: Cursor::default(),
            files: None,
            known: false,
            limits: NO_LIMITS,
            attached: 0,
            owed: None,
        }
    }

    /// Bytes of all files, indexes included.
    pub fn bytes(&self) -> u64 {
        self.rotated_bytes + self.current_bytes()
    }

    /// Bytes of the current file and its index.
    pub fn current_bytes(&self) -> u64 {
        self.cursor.offset + self.index_bytes
    }

    /// How many files there are before the current one.
    pub fn rotated(&self) -> usize {
        self.rotated.len()
    }

    /// New caps; what is too much goes at the next rotation.
    pub fn set_limits(&mut self, limits: Log) {
        self.limits =
            Log { max_size_bytes: limits.max_size_bytes.max(SIZE_MIN_BYTES), max_files: limits.max_files.max(1) };
    }

    /// Closes the files; the position is remembered.
    pub fn close(&mut self) {
        self.files = None;
    }

    /// Says that a generation begins, unless the index says it already.
    pub fn begin(&mut self, dir: &Path, generation: u64) -> Result<(), StoreError> {
        self.open(dir)?;
        if self.cursor.generation == Some(generation) {
            return Ok(());
        }
        self.make_room(dir)?;
        self.write_records(dir, [self.cursor.record(Mark::Begins { generation })])
    }

    /// Says that a generation has written its last byte.
    pub fn end(&mut self, dir: &Path, generation: u64) -> Result<(), StoreError> {
        self.open(dir)?;
        self.make_room(dir)?;
        self.write_records(dir, [self.cursor.record(Mark::Ends { generation })])
    }

    /// Says that bytes are missing here.
    pub fn dropped(
        &mut self,
        dir: &Path,
        generation: u64,
        stream: Stream,
        bytes: u64,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.open(dir)?;
        self.make_room(dir)?;
        let owner = self.cursor.before_splice(generation, stream, now_ms);
        let missing = self.cursor.record(Mark::Dropped { stream, bytes });
        self.write_records(dir, owner.chain([missing]))
    }

    /// Takes over the count of a container that goes while the disk fails; told with the next one's, as the last one's.
    pub fn owe(&mut self, generation: u64, bytes: [u64; 2]) {
        if bytes != [0; 2] {
            let before = self.owed.map_or([0; 2], |(_, before)| before);
            self.owed = Some((generation, [before[0] + bytes[0], before[1] + bytes[1]]));
        }
    }

    /// Writes down what is owed.
    pub fn pay(&mut self, dir: &Path, now_ms: u64) -> Result<(), StoreError> {
        let Some((generation, [out, err])) = self.owed else { return Ok(()) };
        for (stream, bytes) in [(Stream::Out, out), (Stream::Err, err)] {
            if bytes > 0 {
                self.dropped(dir, generation, stream, bytes, now_ms)?;
            }
        }
        self.owed = None;
        Ok(())
    }

    /// Moves up to `max` bytes from a pipe to the end of the log. Never blocks on the pipe.
    pub fn append(
        &mut self,
        dir: &Path,
        (generation, stream): (u64, Stream),
        now_ms: u64,
        pipe: BorrowedFd<'_>,
        max: usize,
    ) -> Result<Moved, StoreError> {
        self.notice_removal(now_ms);
        self.open(dir)?;
        self.make_room(dir)?;
        self.write_records(dir, self.cursor.before_splice(generation, stream, now_ms))?;
        let room = self.limits.max_size_bytes.saturating_sub(self.current_bytes()).max(1);
        let max = max.min(usize::try_from(room).unwrap_or(usize::MAX));
        let moved = self.move_bytes(pipe, max);
        self.cursor.moved(moved.as_ref().map_or(0, |n| *n as u64));
        match moved {
            Ok(0) => Ok(Moved::Closed),
            Ok(bytes) => Ok(Moved::Bytes(bytes)),
            Err((Errno::AGAIN, _)) => Ok(Moved::Empty),
            Err((errno, lost_bytes)) => {
                let path = segment::log_path(dir, self.number);
                Err(StoreError::WriteLog { path, lost_bytes, source: errno.into() })
            }
        }
    }

    fn move_bytes(&mut self, pipe: BorrowedFd<'_>, max: usize) -> Result<usize, (Errno, u64)> {
        let Some(files) = self.files.as_mut() else { return Err((Errno::BADF, 0)) };
        if !files.copies {
            let mut offset = self.cursor.offset;
            let moved =
                retry(|| rustix::pipe::splice(pipe, None, &files.log, Some(&mut offset), max, SpliceFlags::NONBLOCK));
            if moved != Err(Errno::INVAL) {
                return moved.map_err(|errno| (errno, 0));
            }
            files.copies = true;
        }
        copy(pipe, &files.log, self.cursor.offset, max)
    }

    /// A file that somebody removed is written to no longer: the next one is begun.
    fn notice_removal(&mut self, now_ms: u64) {
        let Some(files) = self.files.as_mut() else { return };
        if now_ms.abs_diff(files.checked_ms) < LINK_CHECK_MS {
            return;
        }
        files.checked_ms = now_ms;
        if files.log.metadata().is_ok_and(|found| found.nlink() == 0) {
            self.files = None;
        }
    }

    /// Opens the newest file, or makes the first, and finds the place to go on from.
    fn open(&mut self, dir: &Path) -> Result<(), StoreError> {
        if self.files.is_some() {
            return Ok(());
        }
        segment::make_dir(dir).map_err(|source| StoreError::MakeDir { path: dir.to_owned(), source })?;
        if self.known && !segment::log_path(dir, self.number).exists() {
            return self.open_after_removal(dir);
        }
        let fresh = self.number == 0;
        self.number = self.number.max(1);
        let files = open_files(dir, self.number)?;
        self.find_place(dir, &files)?;
        self.files = Some(files);
        self.known = true;
        if fresh {
            segment::link_current(dir, self.number);
        }
        Ok(())
    }

    /// Somebody removed the current file (or all of them): go on in the next number, which no reader has open.
    fn open_after_removal(&mut self, dir: &Path) -> Result<(), StoreError> {
        let next = self.number + 1;
        let found = UnitLog::found(dir)?;
        let (mut rotated, newest) = (found.rotated, (found.number, found.cursor.offset));
        if newest.0 != 0 {
            rotated.push_back(newest);
        }
        self.rotated_bytes = rotated.iter().map(|(_, bytes)| bytes).sum();
        self.rotated = rotated;
        self.start_file(dir, next.max(newest.0 + 1))
    }

    /// Reads the index, unless file and index are as they were left, and cuts off what a crash made invalid.
    fn find_place(&mut self, dir: &Path, files: &Files) -> Result<(), StoreError> {
        let failed = |source| StoreError::ReadIndex { path: segment::index_path(dir, self.number), source };
        let log_bytes = files.log.metadata().map_err(failed)?.len();
        let index_bytes = files.index.metadata().map_err(failed)?.len();
        if self.known && (self.cursor.offset, self.index_bytes) == (log_bytes, index_bytes) {
            self.cursor.moved(0);
            return Ok(());
        }
        // Indexes are bounded; one that is larger was not made by this program and is cut.
        let mut text = vec![0; index_bytes.min(INDEX_MAX_BYTES + RECORDS_ROOM_BYTES) as usize];
        files.index.read_exact_at(&mut text, 0).map_err(failed)?;
        let valid = valid_records(&text, log_bytes).count() * RECORD_BYTES;
        if valid as u64 != index_bytes {
            files.index.set_len(valid as u64).map_err(failed)?;
        }
        self.cursor = Cursor::resume(valid_records(&text[..valid], log_bytes), log_bytes);
        self.index_bytes = valid as u64;
        Ok(())
    }

    fn make_room(&mut self, dir: &Path) -> Result<(), StoreError> {
        let full = self.current_bytes() + RECORDS_ROOM_BYTES >= self.limits.max_size_bytes
            || self.index_bytes + RECORDS_ROOM_BYTES > INDEX_MAX_BYTES;
        if full { self.rotate(dir) } else { Ok(()) }
    }

    /// Begins the next file and removes what is too old.
    pub fn rotate(&mut self, dir: &Path) -> Result<(), StoreError> {
        self.open(dir)?;
        let old = (self.number, self.current_bytes());
        self.start_file(dir, self.number + 1)?;
        self.rotated.push_back(old);
        self.rotated_bytes += old.1;
        while self.rotated.len() >= self.limits.max_files as usize && self.remove_oldest(dir) {}
        Ok(())
    }

    /// The index first: a log must never be without one.
    fn start_file(&mut self, dir: &Path, number: u64) -> Result<(), StoreError> {
        let files = open_files(dir, number)?;
        let path = segment::index_path(dir, number);
        files.index.set_len(0).map_err(|source| StoreError::ReadIndex { path, source })?;
        let log_bytes = files.log.metadata().map_or(0, |found| found.len());
        (self.number, self.index_bytes, self.known) = (number, 0, true);
        self.cursor = Cursor::resume(std::iter::empty(), log_bytes);
        self.files = Some(files);
        segment::link_current(dir, number);
        Ok(())
    }

    /// Removes the oldest file before the current one; false if there is none or it cannot be removed.
    pub fn remove_oldest(&mut self, dir: &Path) -> bool {
        let Some((number, bytes)) = self.rotated.front().copied() else { return false };
        let removed = segment::remove(dir, number).is_ok();
        if removed {
            self.rotated.pop_front();
            self.rotated_bytes -= bytes;
        }
        removed
    }

    fn write_records(&mut self, dir: &Path, records: impl IntoIterator<Item = Record>) -> Result<(), StoreError> {
        for record in records {
            let Some(files) = self.files.as_ref() else { continue };
            let written = files.index.write_all_at(&record.encode(), self.index_bytes);
            written.map_err(|source| StoreError::WriteIndex { path: segment::index_path(dir, self.number), source })?;
            self.index_bytes += RECORD_BYTES as u64;
            self.cursor.wrote(record);
        }
        Ok(())
    }
}

fn open_files(dir: &Path, number: u64) -> Result<Files, StoreError> {
    let open =
        |path: PathBuf| segment::open_for_writing(&path, true).map_err(|source| StoreError::Open { path, source });
    let index = open(segment::index_path(dir, number))?;
    let log = open(segment::log_path(dir, number))?;
    Ok(Files { log, index, copies: false, checked_ms: 0 })
}

/// What splice does, in two steps; the error comes with the bytes that had been read and were not written.
fn copy(pipe: BorrowedFd<'_>, log: &File, offset: u64, max: usize) -> Result<usize, (Errno, u64)> {
    let mut buffer = vec![0; max.min(COPY_MAX_BYTES)];
    let got = retry(|| rustix::io::read(pipe, &mut buffer)).map_err(|errno| (errno, 0))?;
    match log.write_all_at(&buffer[..got], offset) {
        Ok(()) => Ok(got),
        Err(error) => {
            // Part of it may be there without a right to be: the next write goes over it.
            let _ = log.set_len(offset);
            Err((Errno::from_io_error(&error).unwrap_or(Errno::IO), got as u64))
        }
    }
}

/// Calls again while a signal interrupts; nobody sends this thread an endless stream of them.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

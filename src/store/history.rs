//! What happened, for `moored events` and `why`: two files of bounded size that are appended to.
//!
//! Every other file here is written anew and renamed; for a line every few seconds that would be a rewrite of 256 KiB
//! each. So each line has a checksum of its own: `FNV64-HEX JSON`. A line cut short by a crash is skipped and counted, and
//! the next one starts on a line of its own. At [`FILE_MAX_BYTES`] both files are made into `history.1`, and a new one begins.
//!
//! What is kept then is fair: of every unit the newest line, then of every unit the one before, and so on until the file is full. A unit
//! that flaps pushes out its own past first. Killed between the two steps, a line is in both files; it is read once.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use super::atomic::{read_all, write_all};
use super::{Note, StoreError, fnv64};
use crate::compact;
use crate::sys::heap;

/// One file; there are two.
pub const FILE_MAX_BYTES: u64 = 256 * 1024;

const NEW: &str = "history";
const OLD: &str = "history.1";
/// `history.1` while it is written.
const TEMPORARY: &str = "history.tmp";

/// Appends whole lines, makes room, syncs. Of more than [`FILE_MAX_BYTES`] at once the oldest are left out.
pub fn append(dir: &Path, lines: &[String]) -> Result<(), StoreError> {
    let path = dir.join(NEW);
    let mut fd = open_new(&path)?;
    let end =
        rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(|errno| StoreError::Read { path: path.clone(), errno })?;
    let mut text = String::new();
    if end > FILE_MAX_BYTES {
        make_room(dir)?;
        // Both files were in memory for that.
        heap::trim();
        fd = open_new(&path)?;
    } else if end > 0 && last_byte(&fd, end) != Some(b'\n') {
        text.push('\n');
    }
    let mut bytes = 0;
    let fits = |line: &&String| {
        bytes += line.len() as u64;
        bytes <= FILE_MAX_BYTES
    };
    let newest = lines.iter().rev().take_while(fits).count();
    for line in lines.iter().skip(lines.len() - newest) {
        text.push_str(&format!("{:016x} {line}\n", fnv64(&[line.as_bytes()])));
    }
    write_all(&fd, text.as_bytes()).map_err(|errno| StoreError::Write { path: path.clone(), errno })?;
    rustix::fs::fdatasync(&fd).map_err(|errno| StoreError::Sync { path, errno })
}

/// Both files into `history.1`, as many lines as fit; `history` is gone afterwards.
fn make_room(dir: &Path) -> Result<(), StoreError> {
    let (lines, _) = read_lines(dir)?;
    let text: String = fair(&lines, FILE_MAX_BYTES as usize).into_iter().flat_map(|line| [line, "\n"]).collect();
    let path = dir.join(TEMPORARY);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::from(0o600))
        .map_err(|errno| StoreError::Open { path: path.clone(), errno })?;
    write_all(&fd, text.as_bytes()).map_err(|errno| StoreError::Write { path: path.clone(), errno })?;
    rustix::fs::fdatasync(&fd).map_err(|errno| StoreError::Sync { path: path.clone(), errno })?;
    rustix::fs::rename(&path, dir.join(OLD)).map_err(|errno| StoreError::Rename { path, errno })?;
    // The new name must be there for good before the old contents go.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
        .and_then(|fd| rustix::fs::fsync(&fd))
        .map_err(|errno| StoreError::Sync { path: dir.to_owned(), errno })?;
    rustix::fs::unlink(dir.join(NEW)).map_err(|errno| StoreError::Remove { path: dir.join(NEW), errno })
}

/// The lines to keep in `max_bytes`, in their order: the newest of each unit first, then the one before it, and so on.
fn fair(lines: &[String], max_bytes: usize) -> Vec<&str> {
    let mut newer: HashMap<Option<String>, usize> = HashMap::new();
    let mut ranked: Vec<(usize, usize, &str)> = Vec::with_capacity(lines.len());
    for (place, line) in lines.iter().enumerate().rev() {
        let rank = newer.entry(unit_of(line)).or_default();
        ranked.push((*rank, place, line));
        *rank += 1;
    }
    // Of one rank the newest first: a unit that is gone for long gives way to one that is not.
    compact::sort_by_key(&mut ranked, |(rank, place, _)| (*rank, std::cmp::Reverse(*place)));
    let mut left = max_bytes;
    let mut kept: Vec<(usize, &str)> = Vec::new();
    for (_, place, line) in ranked {
        let Some(rest) = left.checked_sub(line.len() + 1) else { break };
        left = rest;
        kept.push((place, line));
    }
    kept.sort_unstable();
    kept.into_iter().map(|(_, line)| line).collect()
}

/// Lines without one are a group of their own.
fn unit_of(line: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct About {
        unit: Option<String>,
    }
    serde_json::from_str::<About>(line.split_once(' ')?.1).ok()?.unit
}

/// All entries of a state-dir that are whole and read as a `T`, oldest first: at most some 512 KiB of them. Reads the disk.
pub fn read_history<T: DeserializeOwned>(state_dir: &Path) -> Result<(Vec<T>, Vec<Note>), StoreError> {
    let (lines, mut notes) = read_lines(state_dir)?;
    let entries: Vec<T> = lines.iter().filter_map(|line| serde_json::from_str(line.split_once(' ')?.1).ok()).collect();
    if entries.len() < lines.len() {
        let text =
            format!("{} of {} lines are of another kind and are left out", lines.len() - entries.len(), lines.len());
        notes.push(Note { path: state_dir.join(NEW), text });
    }
    Ok((entries, notes))
}

/// The whole lines of both files with their checksums, oldest first, each once.
fn read_lines(dir: &Path) -> Result<(Vec<String>, Vec<Note>), StoreError> {
    let (mut files, mut notes) = (Vec::new(), Vec::new());
    for name in [OLD, NEW] {
        let path = dir.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(StoreError::Open { path, errno }),
        };
        // One batch may go beyond the size at which the file is changed, by as much again and the checksums.
        let bytes = read_all(&fd, 8 * FILE_MAX_BYTES as usize)
            .map_err(|errno| StoreError::Read { path: path.clone(), errno })?;
        files.push((path, bytes));
    }
    let (mut lines, mut met) = (Vec::new(), HashSet::new());
    for (path, bytes) in &files {
        let found: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        let whole: Vec<&str> = found.iter().filter_map(|line| whole(line)).collect();
        if whole.len() < found.len() {
            let text = format!("{} of {} lines are not whole and are left out", found.len() - whole.len(), found.len());
            notes.push(Note { path: path.clone(), text });
        }
        lines.extend(whole.into_iter().filter(|line| met.insert(*line)).map(str::to_owned));
    }
    Ok((lines, notes))
}

pub(super) fn whole(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let (sum, json) = line.split_once(' ')?;
    (u64::from_str_radix(sum, 16).ok()? == fnv64(&[json.as_bytes()])).then_some(line)
}

fn open_new(path: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from(0o600)).map_err(|errno| StoreError::Open { path: path.to_owned(), errno })
}

fn last_byte(fd: &OwnedFd, end: u64) -> Option<u8> {
    let mut byte = [0];
    let read = rustix::io::pread(fd, &mut byte, end.checked_sub(1)?).ok()?;
    (read == 1).then_some(byte[0])
}

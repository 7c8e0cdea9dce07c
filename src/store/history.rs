//! What happened, for `moored events` and `why`: two files of bounded size that are appended to.
//!
//! Every other file here is written anew and renamed; for a line every few seconds that would be a rewrite of 256 KiB
//! each. So each line has a checksum of its own: `FNV64-HEX JSON`. A line cut short by a crash is skipped and counted, and
//! the next one starts on a line of its own. At [`FILE_MAX_BYTES`] the file becomes `history.1`, and the one before goes.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use super::atomic::{read_all, write_all};
use super::{Note, StoreError, fnv64};

/// One file; there are two.
pub const FILE_MAX_BYTES: u64 = 256 * 1024;

const NEW: &str = "history";
const OLD: &str = "history.1";

/// Appends whole lines, makes room, syncs.
pub fn append(dir: &Path, lines: &[String]) -> Result<(), StoreError> {
    let path = dir.join(NEW);
    let mut fd = open_new(&path)?;
    let end =
        rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(|errno| StoreError::Read { path: path.clone(), errno })?;
    let mut text = String::new();
    if end > FILE_MAX_BYTES {
        rustix::fs::rename(&path, dir.join(OLD)).map_err(|errno| StoreError::Rename { path: path.clone(), errno })?;
        fd = open_new(&path)?;
    } else if end > 0 && last_byte(&fd, end) != Some(b'\n') {
        text.push('\n');
    }
    for line in lines {
        text.push_str(&format!("{:016x} {line}\n", fnv64(&[line.as_bytes()])));
    }
    write_all(&fd, text.as_bytes()).map_err(|errno| StoreError::Write { path: path.clone(), errno })?;
    rustix::fs::fdatasync(&fd).map_err(|errno| StoreError::Sync { path, errno })
}

/// All entries of a state-dir that are whole and read as a `T`, oldest first: at most some 512 KiB of them. Reads the disk.
pub fn read_history<T: DeserializeOwned>(state_dir: &Path) -> Result<(Vec<T>, Vec<Note>), StoreError> {
    let (mut entries, mut notes) = (Vec::new(), Vec::new());
    for name in [OLD, NEW] {
        let path = state_dir.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(StoreError::Open { path, errno }),
        };
        // One batch may go beyond the size at which the file is changed.
        let bytes = read_all(&fd, 8 * FILE_MAX_BYTES as usize)
            .map_err(|errno| StoreError::Read { path: path.clone(), errno })?;
        let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        let whole: Vec<T> = lines.iter().filter_map(|line| parse(line)).collect();
        if whole.len() < lines.len() {
            let text = format!("{} of {} lines are not whole and are left out", lines.len() - whole.len(), lines.len());
            notes.push(Note { path, text });
        }
        entries.extend(whole);
    }
    Ok((entries, notes))
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (u64::from_str_radix(sum, 16).ok()? == fnv64(&[json.as_bytes()])).then_some(())?;
    serde_json::from_str(json).ok()
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

//! The numbered files of one unit: names, listing, opening.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The link to the newest log.
pub const CURRENT: &str = "current";
/// Digits of a number, zero-padded, so that names sort as numbers for a long time.
const DIGITS: usize = 8;

/// `NNNNNNNN.log`.
pub fn log_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(log_name(number))
}

fn log_name(number: u64) -> String {
    format!("{number:0DIGITS$}.log")
}

/// `NNNNNNNN.idx`.
pub fn index_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:0DIGITS$}.idx"))
}

/// The number in a name with this extension; `None` for anything else.
fn number_in(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    let plain = digits.len() >= DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// What is in a unit's directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Numbers that have a log, ascending.
    pub logs: Vec<u64>,
    /// Numbers that have an index but no log: made first and never used, or removed last.
    pub lone_indexes: Vec<u64>,
}

/// Lists a unit's directory; one that does not exist is empty.
pub fn list(dir: &Path) -> io::Result<Listing> {
    let mut found = Listing::default();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        found.logs.extend(number_in(name, "log"));
        found.lone_indexes.extend(number_in(name, "idx"));
    }
    found.logs.sort_unstable();
    found.lone_indexes.retain(|number| found.logs.binary_search(number).is_err());
    Ok(found)
}

/// Bytes of a log and its index together; a file that is gone counts as empty.
pub fn size_bytes(dir: &Path, number: u64) -> u64 {
    let size = |path: PathBuf| std::fs::symlink_metadata(path).map_or(0, |found| found.len());
    size(log_path(dir, number)) + size(index_path(dir, number))
}

/// Removes a file pair, the log first: an index without a log is seen as a leftover, a log without an index would be seen as a log.
pub fn remove(dir: &Path, number: u64) -> io::Result<()> {
    let gone = |path: PathBuf| match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(log_path(dir, number))?;
    gone(index_path(dir, number))
}

/// Opens a log or an index for writing at explicit offsets, and reading; never `O_APPEND`, which splice refuses.
pub fn open_for_writing(path: &Path, create: bool) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o640).custom_flags(flags).open(path)
}

/// Makes a unit's directory, and those above.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)
}

/// Points `current` to this log, for people; nothing of ours reads it, so a failure is of no consequence.
pub fn link_current(dir: &Path, number: u64) {
    let fresh = dir.join(".current");
    let _ = std::fs::remove_file(&fresh);
    if std::os::unix::fs::symlink(log_name(number), &fresh).is_ok() {
        let _ = std::fs::rename(&fresh, dir.join(CURRENT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_numbers() {
        assert_eq!(number_in("00000007.log", "log"), Some(7));
        assert_eq!(number_in("123456789.idx", "idx"), Some(123_456_789));
        for other in
            ["7.log", "00000007.idx", "00000007log", "0000000a.log", "-0000007.log", "current", ".log", "+00000007.log"]
        {
            assert_eq!(number_in(other, "log"), None, "{other}");
        }
    }
}

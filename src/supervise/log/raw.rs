//! A unit's log as bytes, from now on: for `moored attach` to a terminal, which draws more than lines.
//!
//! Nothing is cut, reordered or escaped, and both streams come as they were stored. As every reader it takes nothing from anybody, keeps nobody
//! waiting, and needs no supervisor.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::growth::Growth;
use super::reader::{ReadError, end_of, list, open_for_reading};
use super::segment;
use super::tail::Place;
use crate::unit::UnitName;

/// See above.
#[derive(Debug)]
pub struct RawTail {
    dir: PathBuf,
    /// Of the next byte.
    at: Place,
    /// The file of `at`, once it was there.
    file: Option<File>,
    watch: Growth,
}

impl RawTail {
    /// Begins where the log ends now; it need not be there yet.
    pub fn open(log_dir: &Path, unit: &UnitName) -> Result<RawTail, ReadError> {
        let dir = log_dir.join(unit.as_str());
        // Watched before the first look, so that nothing falls between.
        let watch = Growth::new(log_dir, &dir)?;
        let at = end_of(&dir, &list(&dir)?);
        Ok(RawTail { dir, at, file: None, watch })
    }

    /// The next bytes; 0: there are no more for now.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        loop {
            let read = self.read_here(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            let Some(next) = list(&self.dir)?.into_iter().find(|number| *number > self.at.number) else { return Ok(0) };
            // Nothing is written to a file once its successor is there, but it may have been since the last look.
            let read = self.read_here(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            (self.at, self.file) = (Place { number: next, offset: 0 }, None);
        }
    }

    fn read_here(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let path = segment::log_path(&self.dir, self.at.number);
        if self.file.is_none() {
            self.file = open_for_reading(path.clone())?;
        }
        let Some(file) = &self.file else { return Ok(0) };
        let read = file.read_at(buffer, self.at.offset).map_err(|source| ReadError::Read { path, source })?;
        self.at.offset += read as u64;
        Ok(read)
    }

    /// Readable when there may be more; then [`RawTail::awake`] is due before the next read.
    pub fn watched(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Takes note that there may be more. Waits for it if [`RawTail::watched`] is not readable.
    pub fn awake(&mut self) -> Result<(), ReadError> {
        self.watch.wait()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn all(tail: &mut RawTail) -> String {
        let (mut text, mut chunk) = (Vec::new(), [0; 7]);
        loop {
            match tail.read(&mut chunk).unwrap() {
                0 => return String::from_utf8(text).unwrap(),
                read => text.extend_from_slice(&chunk[..read]),
            }
        }
    }

    #[test]
    fn it_begins_at_the_end_and_goes_on_over_rotations_and_files_that_are_gone() {
        let base = std::env::temp_dir().join(format!("moored-raw-{}", std::process::id()));
        let unit = UnitName::new("web").unwrap();
        let dir = base.join("web");
        fs::create_dir_all(&base).unwrap();
        let mut early = RawTail::open(&base, &unit).unwrap();
        assert_eq!(all(&mut early), "");
        fs::create_dir(&dir).unwrap();
        let add = |number: u64, text: &str| {
            let file = fs::File::options().create(true).append(true).open(segment::log_path(&dir, number));
            file.unwrap().write_all(text.as_bytes()).unwrap();
        };
        add(1, "before ");
        early.awake().unwrap();
        let mut tail = RawTail::open(&base, &unit).unwrap();
        assert_eq!((all(&mut early).as_str(), all(&mut tail).as_str()), ("before ", ""));
        add(1, "one $ ");
        tail.awake().unwrap();
        assert_eq!(all(&mut tail), "one $ ", "a line need not be whole");
        add(1, "the last of one ");
        add(2, "\x1b[1mtwo ");
        assert_eq!(all(&mut tail), "the last of one \x1b[1mtwo ");
        add(3, "three ");
        add(4, "four");
        fs::remove_file(segment::log_path(&dir, 2)).unwrap();
        fs::remove_file(segment::log_path(&dir, 3)).unwrap();
        assert_eq!(all(&mut tail), "four");
        fs::remove_dir_all(&base).unwrap();
    }
}

//! The pipe between a busy container's pipe and its file.
//!
//! A splice to a file keeps its pipe locked while it writes, and whoever writes to that pipe waits meanwhile: the two take turns
//! (0.6 of what `cat` moves). From pipe to pipe only pages change hands, so a busy pipe is emptied into this one, and the file is
//! written from here while the container goes on.
//!
//! The stage is empty, or it holds bytes of one stream of one container, its owner:
//!
//! 1. The owner is written down (`RUN/log.owner`) before its first byte comes in, and changes only while the stage is empty.
//! 2. What came in goes to the file, or is counted as dropped, before anything else is moved.
//! 3. Anchor and keeper keep the stage open too. If the supervisor dies, the next one begins with what is left there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::index::Stream;
use crate::keeper;
use crate::unit::ContainerId;

/// Its size, best effort as with any pipe.
const CAPACITY_BYTES: usize = 1 << 20;
/// The most that comes in at once: small enough that the writer's next pages are soon free again.
const TAKE_MAX_BYTES: usize = 256 << 10;
/// The owner's name in the run-dir.
const OWNER_NAME: &str = "log.owner";
/// Length of the owner's text, filled up with blanks: it is replaced by one write.
const OWNER_BYTES: usize = 192;

/// Whose bytes.
pub type Owner = (ContainerId, Stream);

/// See above.
#[derive(Debug)]
pub struct Stage {
    pipe: OwnedFd,
    owner_file: File,
    owner: Option<Owner>,
}

impl Stage {
    /// Opens what `RUN` holds, or makes it. It may hold what another supervisor left: ask [`Stage::left`] first.
    pub fn open(run_dir: &Path) -> io::Result<Stage> {
        let pipe = keeper::open_stage(run_dir)?;
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, CAPACITY_BYTES);
        let mut options = File::options();
        let path = run_dir.join(OWNER_NAME);
        let owner_file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut text = [0; OWNER_BYTES];
        let length = owner_file.read_at(&mut text, 0)?;
        let owner = text.get(..length).and_then(|text| parse(std::str::from_utf8(text).ok()?));
        Ok(Stage { pipe, owner_file, owner })
    }

    /// Whose bytes are left in it, and how many. Bytes of nobody, which only a foreign hand can have left, are taken out.
    pub fn left(&self) -> Option<(Owner, usize)> {
        let bytes = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0) as usize;
        match &self.owner {
            Some(owner) if bytes > 0 => Some((owner.clone(), bytes)),
            _ => {
                self.discard();
                None
            }
        }
    }

    /// Takes in what a pipe of this container's holds, up to a bound; the stage must be empty. `Ok(0)`: the pipe is empty and nobody writes.
    pub fn take(&mut self, id: &ContainerId, stream: Stream, from: BorrowedFd<'_>) -> Result<usize, Errno> {
        if self.owner.as_ref().is_none_or(|owner| (&owner.0, owner.1) != (id, stream)) {
            self.owner = None;
            let text = format!("{:OWNER_BYTES$}", format!("{id} {}", stream as u8));
            let written = self.owner_file.write_all_at(text.as_bytes(), 0);
            written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            self.owner = Some((id.clone(), stream));
        }
        rustix::pipe::splice(from, None, &self.pipe, None, TAKE_MAX_BYTES, SpliceFlags::NONBLOCK)
    }

    /// Empties it to nowhere; returns how many bytes that were.
    pub fn discard(&self) -> u64 {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| rustix::io::read(&self.pipe, &mut buffer).ok().filter(|read| *read > 0))
            .map(|read| read as u64)
            .sum()
    }
}

impl AsFd for Stage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn parse(text: &str) -> Option<Owner> {
    let (id, stream) = text.trim_end().split_once(' ')?;
    let stream = [Stream::Out, Stream::Err].into_iter().find(|known| (*known as u8).to_string() == stream)?;
    Some((ContainerId::parse(id)?, stream))
}

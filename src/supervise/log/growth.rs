//! Waiting for a log to grow or rotate.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use rustix::io::Errno;

use super::reader::ReadError;

/// Waits for changes of a unit's directory, or for the directory.
#[derive(Debug)]
pub(super) struct Growth {
    inotify: OwnedFd,
    log_dir: PathBuf,
    dir: PathBuf,
    watched: bool,
}

impl Growth {
    pub(super) fn new(log_dir: &Path, dir: &Path) -> Result<Growth, ReadError> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC);
        let inotify = inotify.map_err(|errno| ReadError::Watch { path: dir.to_owned(), source: errno.into() })?;
        let mut watch = Growth { inotify, log_dir: log_dir.to_owned(), dir: dir.to_owned(), watched: false };
        watch.look()?;
        Ok(watch)
    }

    /// Watches the unit's directory if it is there, else the one above.
    fn look(&mut self) -> Result<(), ReadError> {
        use inotify::WatchFlags as On;
        let failed = |path: &Path, errno: Errno| ReadError::Watch { path: path.to_owned(), source: errno.into() };
        let inside = On::MODIFY | On::CREATE | On::MOVED_TO | On::DELETE_SELF | On::MOVE_SELF | On::ONLYDIR;
        match inotify::add_watch(&self.inotify, &self.dir, inside) {
            Ok(_) => self.watched = true,
            Err(Errno::NOENT) => {
                let above = On::CREATE | On::MOVED_TO | On::ONLYDIR;
                inotify::add_watch(&self.inotify, &self.log_dir, above)
                    .map_err(|errno| failed(&self.log_dir, errno))?;
            }
            Err(errno) => return Err(failed(&self.dir, errno)),
        }
        Ok(())
    }

    /// Returns when something may have changed.
    pub(super) fn wait(&mut self) -> Result<(), ReadError> {
        if !self.watched {
            self.look()?;
            // It came just now: it may hold something already.
            if self.watched {
                return Ok(());
            }
        }
        let mut events = [0; 4096];
        match rustix::io::read(&self.inotify, &mut events) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(ReadError::Watch { path: self.dir.clone(), source: errno.into() }),
        }
        // Adding the watch again is free if it is there, and finds a directory that was removed and made anew.
        self.watched = false;
        self.look()
    }
}

impl AsFd for Growth {
    /// Readable when something may have changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

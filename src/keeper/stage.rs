//! The pipe that anchor, keeper and supervisor all keep open, so that what is in it outlives any of them. Only the
//! supervisor's log thread puts anything in and takes it out (`supervise::log::stage`).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::io::Errno;

/// Its name in the run-dir.
const NAME: &str = "log.stage";

/// Opens it read-write and non-blocking; makes it if it is missing.
pub(crate) fn open_stage(run_dir: &Path) -> io::Result<OwnedFd> {
    let path = run_dir.join(NAME);
    match mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(&path, flags, Mode::empty())?)
}

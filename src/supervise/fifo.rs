//! The FIFOs of a container: `RUN/c/<id>/{out,err}`, 0600 in a 0700 directory.
//!
//! Named, so that whoever comes back after a crash opens them again; the container has its ends open for reading and writing, so no death
//! on our side is a SIGPIPE; and the keeper holds the read ends, so what an exited writer left in them is not lost. The
//! anchor that takes a dead keeper's place opens them before all else (`keeper::takeover`), hence the names are the keeper's.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::keeper::FIFOS;
use crate::unit::ContainerId;

/// Their names.
const OUT: &str = FIFOS[0];
const ERR: &str = FIFOS[1];

/// Both ends of both.
pub struct Fifos {
    /// Read end of standard output, not blocking.
    pub out_read: OwnedFd,
    /// Read end of standard error, not blocking.
    pub err_read: OwnedFd,
    /// The container's standard output.
    pub out_write: OwnedFd,
    /// The container's standard error.
    pub err_write: OwnedFd,
}

/// Which step failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} {}: {errno}", path.display())]
pub struct FifoError {
    call: &'static str,
    path: PathBuf,
    errno: Errno,
}

pub(super) fn about<'p>(call: &'static str, path: &'p Path) -> impl FnOnce(Errno) -> FifoError + use<'p> {
    move |errno| FifoError { call, path: path.to_owned(), errno }
}

pub(super) fn directory(containers: &Path, id: &ContainerId) -> PathBuf {
    containers.join(id.to_string())
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, FifoError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).map_err(about("open", path))
}

impl Fifos {
    /// Makes the directory and both FIFOs; those of an attempt that a crash cut short are used again.
    pub fn make(containers: &Path, id: &ContainerId) -> Result<Fifos, FifoError> {
        let dir = directory(containers, id);
        exist_is_fine(rustix::fs::mkdir(&dir, Mode::RWXU)).map_err(about("mkdir", &dir))?;
        let [(out_read, out_write), (err_read, err_write)] = [make_one(&dir.join(OUT))?, make_one(&dir.join(ERR))?];
        Ok(Fifos { out_read, err_read, out_write, err_write })
    }
}

fn make_one(path: &Path) -> Result<(OwnedFd, OwnedFd), FifoError> {
    let made = rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
    exist_is_fine(made).map_err(about("mkfifo", path))?;
    let read = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    Ok((read, open(path, OFlags::RDWR)?))
}

pub(super) fn exist_is_fine(made: Result<(), Errno>) -> Result<(), Errno> {
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// The read ends of a container that an earlier supervisor started; `None` if they are gone.
pub fn reopen(containers: &Path, id: &ContainerId) -> Option<(OwnedFd, OwnedFd)> {
    let dir = directory(containers, id);
    let read = |name: &str| open(&dir.join(name), OFlags::RDONLY | OFlags::NONBLOCK).ok();
    Some((read(OUT)?, read(ERR)?))
}

/// What else is to be in the container's log: standard output and standard error of one more process inside. Open for both, so that no
/// death on our side is a SIGPIPE.
pub fn write_ends(containers: &Path, id: &ContainerId) -> Option<(OwnedFd, OwnedFd)> {
    let dir = directory(containers, id);
    let write = |name: &str| open(&dir.join(name), OFlags::RDWR).ok();
    Some((write(OUT)?, write(ERR)?))
}

/// Removes them; what is gone already is fine.
pub fn remove(containers: &Path, id: &ContainerId) -> io::Result<()> {
    match std::fs::remove_dir_all(directory(containers, id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// `/dev/null`, to read nothing from and to write nowhere.
pub fn null() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

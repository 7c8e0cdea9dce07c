//! One supervisor for each run-dir: flock(2) on `RUN/lock`, which ends with the process, however that ends.
//!
//! The kernel takes a process apart one thing after the other. One that was killed may have lost its program and still hold the lock; its
//! successor waits for that. So it does for one that still has to notice that it is killed, or that keeper and anchor are dead and that it is to end:
//! whoever works under a keeper is met at the keeper's socket, before anybody asks for this lock.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys::stat::{PF_EXITING, stat};

/// Longest pid and a newline, generously.
const PID_MAX_BYTES: u64 = 32;

/// A supervisor that is to end has ended by then.
const ENDS_WITHIN: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

/// Why the run-dir is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another supervisor lives there.
    #[error("{}: another supervisor{} works here: stop it with `moored down`, or give another --run-dir", .run_dir.display(), .pid.map(|pid| format!(", pid {pid},")).unwrap_or_default())]
    Held {
        /// Which run-dir.
        run_dir: PathBuf,
        /// As it wrote it.
        pid: Option<u32>,
    },
    /// mkdir(2).
    #[error("{}: cannot make the directory", .path.display())]
    MakeDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// open(2).
    #[error("{}: cannot open", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// flock(2).
    #[error("{}: cannot lock", .path.display())]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// write(2).
    #[error("{}: cannot write the pid", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Held until it is dropped. The descriptor is close-on-exec: no child inherits it.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock or says who has it; waits for one that ends, and a moment for one of which that is not known.
    pub fn take(run_dir: &Path) -> Result<RunLock, LockError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir)
            .map_err(|source| LockError::MakeDir { path: run_dir.to_owned(), source })?;
        let path = run_dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|source| LockError::Open { path: path.clone(), source })?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => match pid_in(&file) {
                Some(pid) if ends(pid) => {
                    let locked = rustix::fs::flock(&file, FlockOperation::LockExclusive);
                    locked.map_err(|source| LockError::Lock { path: path.clone(), source })?;
                }
                pid => return Err(LockError::Held { run_dir: run_dir.to_owned(), pid }),
            },
            Err(source) => return Err(LockError::Lock { path, source }),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        written.map_err(|source| LockError::Write { path, source })?;
        Ok(RunLock { _file: file })
    }
}

/// Whether a process has ended, is on the way, or does so within [`ENDS_WITHIN`].
fn ends(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return true };
    if stat(pid).is_none_or(|found| found.flags & PF_EXITING != 0) {
        return true;
    }
    let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != rustix::process::getpid()) else { return false };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&ENDS_WITHIN))).is_ok_and(|ready| ready > 0)
}

/// `None` in the moment between the lock and the pid.
fn pid_in(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_MAX_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

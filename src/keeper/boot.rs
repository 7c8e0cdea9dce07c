//! From anchor to keeper: what a new keeper is given, and its start.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use serde::{Deserialize, Serialize};

use super::run::{Keeper, Parts, signals};
use super::state::{self, KeeperState, StateError};
use super::supervisor::Command;
use super::{IGNORED, Spawner};
use crate::sys::base::Base;
use crate::sys::signal::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use crate::sys::{fd, image, signal};

/// Where a keeper finds its settings.
const SETTINGS_FD: i32 = 3;
/// Where a keeper finds its listening socket.
const LISTENER_FD: i32 = 4;
/// Descriptors are moved here and up, out of the way of the fixed ones.
pub(super) const SPARE_FD: i32 = 10;
/// Longest settings, in bytes: two argument lists' worth.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;
/// What a program ends with that cannot go on from the state it was given.
pub(crate) const NOT_RESUMED: u8 = 124;
/// What `execve` of something that is not to be executed by hand says.
const NOT_STARTED_BY_ANCHOR: u8 = 125;

#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    run_dir: Vec<u8>,
    supervisor: Vec<Vec<u8>>,
}

/// The environment as `execve` takes it; what cannot be passed (it cannot hold a NUL) is left out, and what was for this process alone.
pub(crate) fn environment() -> Vec<CString> {
    let pair = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let mut bytes = name.into_vec();
        bytes.push(b'=');
        bytes.extend(value.into_vec());
        CString::new(bytes).ok()
    };
    std::env::vars_os().filter(|(name, _)| name != state::NAME).filter_map(pair).collect()
}

impl Command {
    /// With this process' environment.
    pub(crate) fn new(argv: Vec<CString>) -> Self {
        Command { argv, env: environment() }
    }
}

/// Forks the keeper from `image`; returns its pid. The caller has blocked the signals it waits for.
pub(crate) fn start(
    image: BorrowedFd<'_>,
    listener: BorrowedFd<'_>,
    run_dir: &Path,
    argv: &[CString],
    supervisor: &[CString],
) -> io::Result<i32> {
    let settings = Settings {
        run_dir: run_dir.as_os_str().as_bytes().to_vec(),
        supervisor: supervisor.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
    };
    let bytes = postcard::to_stdvec(&settings).map_err(io::Error::other)?;
    let mut file = File::from(memfd_create(c"moored-settings", MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    file.rewind()?;
    let settings = fcntl_dupfd_cloexec(&file, SPARE_FD)?;
    let listener = fcntl_dupfd_cloexec(listener, SPARE_FD)?;
    let image = fcntl_dupfd_cloexec(image, SPARE_FD)?;
    image::spawn(image.as_fd(), argv, &environment(), || {
        fd::place(settings, SETTINGS_FD)?;
        fd::place(listener, LISTENER_FD)
    })
}

/// The keeper process, started by the anchor with its listening socket and settings on descriptors. The code is for the
/// anchor. Call it once, before any thread.
pub fn main(spawner: &mut dyn Spawner) -> u8 {
    match parts() {
        Ok(parts) => Keeper::new(parts, spawner).run(),
        Err(_) => NOT_STARTED_BY_ANCHOR,
    }
}

/// The keeper in its next program, or an anchor that has taken its place. It cannot say why it cannot go on; whoever is its spare does.
pub(crate) fn resume(state: KeeperState, spawner: &mut dyn Spawner) -> u8 {
    // Executed by descriptor it would be called by the descriptor's number.
    let _ = rustix::thread::set_name(if state.is_anchor { c"moored" } else { c"moored-keeper" });
    let kept = fd::cloexec_from(3).map_err(StateError::from).and_then(|()| Keeper::resume(state, spawner));
    match kept {
        Ok(keeper) => keeper.run(),
        Err(_) => NOT_RESUMED,
    }
}

fn parts() -> io::Result<Parts> {
    let base = Base::capture();
    // Ignored before they are unblocked: the anchor, in the same process group, takes them.
    signal::ignore(&IGNORED)?;
    signal::ignore(&[SIGINT, SIGHUP, SIGQUIT])?;
    let waited_for = vec![SIGCHLD, SIGTERM];
    let signals = signals(&waited_for)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let _ = rustix::thread::set_name(c"moored-keeper");
    let missing = || io::Error::from_raw_os_error(libc::EBADF);
    let settings = File::from(inherited(SETTINGS_FD).ok_or_else(missing)?);
    let listener = inherited(LISTENER_FD).ok_or_else(missing)?;
    let mut bytes = Vec::new();
    settings.take(SETTINGS_BYTES_MAX).read_to_end(&mut bytes)?;
    let settings: Settings = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
    let (image, _) = image::own()?;
    let run_dir = PathBuf::from(std::ffi::OsString::from_vec(settings.run_dir));
    let argv = settings.supervisor.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let (stage, command) = (super::open_stage(&run_dir).ok(), Command::new(argv));
    Ok(Parts { run_dir, listener, stage, image, signals, waited_for, base, command })
}

fn inherited(number: i32) -> Option<OwnedFd> {
    let fd = fd::inherited(number)?;
    fcntl_setfd(fd.as_fd(), FdFlags::CLOEXEC).ok()?;
    Some(fd)
}

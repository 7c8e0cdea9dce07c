//! The run-dir: whether somebody is there already, and the socket if not.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::AnchorError;
use crate::keeper::wire::{Message, Role};
use crate::keeper::{ClientError, SOCKET_NAME, hello, next_message};

/// Held while the place is looked at and taken, so that two anchors do not take it at once.
const LOCK_NAME: &str = "anchor.lock";
/// Connections that wait while the anchor takes the keeper's place.
const BACKLOG: i32 = 64;
/// How often, and how far apart, a keeper that is just ending is asked again.
const ENDING_TRIES: u32 = 50;
const ENDING_PAUSE: Duration = Duration::from_millis(100);

/// What a run-dir turned out to be. `control` is a connection with the anchor's role.
pub(super) enum Place {
    /// Nobody was there.
    Free { listener: OwnedFd, control: OwnedFd },
    /// A keeper is there whose anchor is gone.
    Kept { control: OwnedFd },
}

/// Takes the place, or the control of the keeper that is there.
pub(super) fn claim(run_dir: &Path) -> Result<Place, AnchorError> {
    make(run_dir)?;
    let failed = |step| move |source| AnchorError::RunDir { step, path: run_dir.join(LOCK_NAME), source };
    let lock = File::options().create(true).truncate(false).write(true).open(run_dir.join(LOCK_NAME));
    let lock = lock.map_err(failed("opening"))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed("locking")(errno.into()))?;
    let path = run_dir.join(SOCKET_NAME);
    for _ in 0..ENDING_TRIES {
        match hello(&path, Role::Anchor) {
            Ok(control) => match next_message(control.as_fd())? {
                Some(Message::Welcome { .. }) => return Ok(Place::Kept { control }),
                Some(Message::Denied { pid: Some(pid), .. }) => return Err(AnchorError::AlreadyRunning { pid }),
                Some(Message::Denied { .. }) => return Err(AnchorError::OtherVersion { run_dir: run_dir.to_owned() }),
                // It is just ending.
                Some(_) | None => std::thread::sleep(ENDING_PAUSE),
            },
            Err(ClientError::Gone { errno: Errno::NOENT | Errno::CONNREFUSED, .. }) => return take(&path),
            Err(error) => return Err(error.into()),
        }
    }
    Err(ClientError::Gone { path, errno: Errno::CONNRESET }.into())
}

/// A run-dir of our own that nobody else can enter.
fn make(run_dir: &Path) -> Result<(), AnchorError> {
    let failed = |step| move |source| AnchorError::RunDir { step, path: run_dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(run_dir).map_err(failed("making"))?;
    let owner = std::fs::metadata(run_dir).map_err(failed("looking at"))?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(AnchorError::Owner { run_dir: run_dir.to_owned(), owner });
    }
    std::fs::set_permissions(run_dir, Permissions::from_mode(0o700)).map_err(failed("closing to others"))
}

/// Binds the socket, over one that a dead keeper left, and is the first to connect to it.
fn take(path: &Path) -> Result<Place, AnchorError> {
    let listener =
        bound(path).map_err(|source| AnchorError::RunDir { step: "listening on", path: path.to_owned(), source })?;
    let control = hello(path, Role::Anchor)?;
    Ok(Place::Free { listener, control })
}

fn bound(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listen(&listener, BACKLOG)?;
    Ok(listener)
}

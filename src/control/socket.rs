//! The socket's place in the file system.
//!
//! A socket file gets its mode from the umask at bind(2), and a chmod after bind leaves a moment in which others may connect. So it is
//! bound inside a new directory that is 0700, made 0600 there, set to listen, and renamed into place: whoever sees the name sees a socket
//! that listens and that only its owner may use, and a stale one is replaced without a gap.
//!
//! unix(7) allows 107 bytes of path. A longer run directory is reached through `/proc/self/fd/N`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that may wait while the supervisor is busy or being restarted; the kernel caps it with `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// The directory in which the socket is born. A fixed name: what a crash left there is removed by the next bind.
const NURSERY: &str = ".control.new";

/// Binds and listens on `RUN/control.sock`, mode 0600, replacing a stale socket. The run directory must exist.
///
/// The descriptor is nonblocking and close-on-exec, and ready for [`Server::start`](super::Server::start).
pub fn bind(run_dir: &Path) -> io::Result<OwnedFd> {
    let nursery = run_dir.join(NURSERY);
    let born = nursery.join(super::SOCKET_NAME);
    if nursery.symlink_metadata().is_ok() {
        fs::remove_dir_all(&nursery)?;
    }
    fs::DirBuilder::new().mode(0o700).create(&nursery)?;
    let socket = stream_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    with_address(&born, |address| Ok(rustix::net::bind(&socket, address)?))?;
    fs::set_permissions(&born, fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    fs::rename(&born, run_dir.join(super::SOCKET_NAME))?;
    fs::remove_dir(&nursery)?;
    Ok(socket)
}

/// Connects to a socket by path, of any length. Blocking, close-on-exec.
pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = stream_socket(SocketFlags::CLOEXEC)?;
    with_address(path, |address| Ok(rustix::net::connect(&socket, address)?))?;
    Ok(socket)
}

fn stream_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn with_address<T>(path: &Path, then: impl FnOnce(&SocketAddrUnix) -> io::Result<T>) -> io::Result<T> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return then(&address);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short: PathBuf = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    then(&SocketAddrUnix::new(short)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt;

    #[test]
    fn a_bound_socket_is_private_and_replaces_a_stale_one() {
        let dir = crate::control::testing::TempDir::new("bind");
        let first = bind(dir.path()).unwrap();
        drop(first);
        let path = dir.path().join(crate::control::SOCKET_NAME);
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        fs::create_dir_all(dir.path().join(NURSERY).join("left over")).unwrap();
        let _second = bind(dir.path()).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        connect(&path).unwrap();
        assert!(!dir.path().join(NURSERY).exists());
    }

    #[test]
    fn a_path_longer_than_unix_addresses_works() {
        let dir = crate::control::testing::TempDir::new("long");
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let _listener = bind(&deep).unwrap();
        connect(&deep.join(crate::control::SOCKET_NAME)).unwrap();
    }
}

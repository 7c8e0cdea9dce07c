//! The notify socket of a container that tells by itself: `RUN/c/<id>/notify/notify`, a datagram socket whose directory is mounted into it.
//!
//! It is made here, once per generation, and read by the keeper (`keeper::notify` says why). Open to every user, since the program may be any:
//! who can reach it is a matter of the directories, of which the host's are closed (0700) and the container sees the last one alone, read-only.
//!
//! A socket cannot be opened again by its name as a FIFO can. One that died with keeper and supervisor is replaced by another of the same
//! name, which the next message finds; what was in the queue of the old one is lost, and the keeper that is given the new one says so.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::fifo::{FifoError, about, directory, exist_is_fine};
use crate::unit::{ContainerId, NOTIFY_NAME};

/// What a socket is called until everybody may send to it.
const NEW_NAME: &str = "new";

/// The directory that is mounted into the container; its parent is the FIFOs'.
pub fn dir(containers: &Path, id: &ContainerId) -> PathBuf {
    directory(containers, id).join("notify")
}

/// Makes the socket, in the place of one that is there.
pub fn make(containers: &Path, id: &ContainerId) -> Result<OwnedFd, FifoError> {
    let path = dir(containers, id);
    exist_is_fine(rustix::fs::mkdir(&path, Mode::RWXU)).map_err(about("mkdir", &path))?;
    // Whatever the umask is, the container's user must get through it.
    rustix::fs::chmod(&path, Mode::from(0o755)).map_err(about("chmod", &path))?;
    bind(&path)
}

/// Another one for a container that has such a directory; `None`: it has none, or it cannot be.
pub fn make_again(containers: &Path, id: &ContainerId) -> Option<OwnedFd> {
    let path = dir(containers, id);
    path.is_dir().then(|| bind(&path).inspect_err(|error| tracing::warn!("{id}: its notify socket: {error}")).ok())?
}

/// By way of the directory's descriptor: an address holds no more than 107 bytes (unix(7)), a path may be longer.
fn bind(path: &Path) -> Result<OwnedFd, FifoError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(about("open", path))?;
    match rustix::fs::unlinkat(&dir, NEW_NAME, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(about("unlink", path)(errno)),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    let socket = socket.map_err(about("socket", path))?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{NEW_NAME}", dir.as_raw_fd()));
    address.and_then(|address| rustix::net::bind(&socket, &address)).map_err(about("bind", path))?;
    rustix::fs::chmodat(&dir, NEW_NAME, Mode::from(0o666), AtFlags::empty()).map_err(about("chmod", path))?;
    rustix::fs::renameat(&dir, NEW_NAME, &dir, NOTIFY_NAME).map_err(about("rename", path))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_socket_at_a_long_path_is_everybodys_and_can_be_replaced() {
        let containers = std::env::temp_dir().join(format!("moored-notify-{}-{}", std::process::id(), "x".repeat(120)));
        let id = ContainerId::parse("web.1").unwrap();
        std::fs::create_dir_all(directory(&containers, &id)).unwrap();
        assert!(make_again(&containers, &id).is_none(), "it had none");
        let first = make(&containers, &id).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = dir(&containers, &id);
        assert_eq!((mode(&path), mode(&path.join(NOTIFY_NAME))), (0o755, 0o666));
        drop(first);
        let second = UnixDatagram::from(make_again(&containers, &id).unwrap());
        let names: Vec<_> = std::fs::read_dir(&path).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, [NOTIFY_NAME]);
        let sender = UnixDatagram::unbound().unwrap();
        let dir = std::fs::File::open(&path).unwrap();
        sender.send_to(b"READY=1", format!("/proc/self/fd/{}/{NOTIFY_NAME}", dir.as_raw_fd())).unwrap();
        let mut message = [0; 16];
        assert_eq!(second.recv(&mut message).unwrap(), 7);
        std::fs::remove_dir_all(&containers).unwrap();
    }
}

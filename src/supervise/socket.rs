//! Making one socket of `[[socket]]`, and what its options ask of one that is open.
//!
//! | option | when it counts |
//! |---|---|
//! | `backlog`, `mode`, `user`, `group`, `reuse_port` | at each start of a container of another text, also for a socket that is open all the while |
//! | `free_bind` | when the socket is made: one that is bound has no need of it |
//!
//! - A unix socket is bound at its path itself and not renamed there, since programs look at the name that they were bound to
//!   (`sd_is_socket_unix(3)`, php-fpm). Nobody is refused by that who would not have been: before it there is none.
//! - A path at which nobody listens any more is replaced, one that is no socket or at which somebody listens is not.
//! - Users and groups are the host's own, from its /etc/passwd and /etc/group: static glibc must not ask NSS.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
};

use super::holder;
use crate::unit::{Listen, SocketOptions};

/// Connections that wait; the kernel takes less (net.core.somaxconn).
const BACKLOG: u32 = 65_535;

/// Of a unix socket, as systemd's `SocketMode=` has it.
const MODE: u32 = 0o666;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOpen {
    /// Somebody listens there: who, if that is known.
    #[error("in use{}", .0.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    InUse(Option<String>),
    #[error("something else than a socket is there")]
    NoSocket,
    /// There is no such user or group on the host.
    #[error("no {kind} {name} in {file}")]
    NoAccount { kind: &'static str, name: String, file: &'static str },
    #[error("{call}: {why}")]
    Call {
        call: &'static str,
        #[source]
        why: std::io::Error,
    },
}

fn failed<E: Into<std::io::Error>>(call: &'static str) -> impl FnOnce(E) -> NotOpen {
    move |why| NotOpen::Call { call, why: why.into() }
}

/// A socket at this address, at which somebody listens from here on.
pub(super) fn open(address: &Listen, options: &SocketOptions) -> Result<OwnedFd, NotOpen> {
    let socket = match address {
        Listen::Tcp(address) => bound_inet(*address, SocketType::STREAM, options)?,
        Listen::Udp(address) => bound_inet(*address, SocketType::DGRAM, options)?,
        Listen::Unix(path) => bound_unix(path, SocketType::STREAM)?,
        Listen::Seqpacket(path) => bound_unix(path, SocketType::SEQPACKET)?,
        Listen::Unixgram(path) => bound_unix(path, SocketType::DGRAM)?,
    };
    match apply(socket.as_fd(), address, options) {
        Ok(()) => Ok(socket),
        Err(why) => {
            // Nobody listens there: the next try does not find it in its way.
            if let Some(path) = address.path() {
                let _ = rustix::fs::unlink(path);
            }
            Err(why)
        }
    }
}

/// Makes a socket that is bound be as its options say.
pub(super) fn apply(socket: BorrowedFd<'_>, address: &Listen, options: &SocketOptions) -> Result<(), NotOpen> {
    if let Some(path) = address.path() {
        let owner = owner(options)?;
        change_path(path, options.mode.unwrap_or(MODE), owner).map_err(failed("chmod or chown"))?;
    } else {
        sockopt::set_socket_reuseport(socket, options.reuse_port).map_err(failed("setsockopt"))?;
    }
    if !address.is_datagram() {
        let backlog = i32::try_from(options.backlog.unwrap_or(BACKLOG)).unwrap_or(i32::MAX);
        match (listen(socket, backlog), address) {
            (Ok(()), _) => {}
            (Err(Errno::ADDRINUSE), Listen::Tcp(address)) => return Err(NotOpen::InUse(holder::of_tcp(*address))),
            (Err(errno), _) => return Err(failed("listen")(errno)),
        }
    }
    Ok(())
}

/// Whether somebody still listens there: not if it was shut down.
pub(super) fn listens(socket: BorrowedFd<'_>) -> bool {
    let mut polls = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    let hung_up = match poll(&mut polls, Some(&Timespec::default())) {
        Ok(_) => polls.iter().any(|poll| poll.revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)),
        Err(_) => true,
    };
    let is_datagram = sockopt::socket_type(socket).is_ok_and(|kind| kind == SocketType::DGRAM);
    !hung_up && (is_datagram || sockopt::socket_acceptconn(socket).unwrap_or(false))
}

fn bound_inet(address: SocketAddr, kind: SocketType, options: &SocketOptions) -> Result<OwnedFd, NotOpen> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(failed("socket"))?;
    if kind == SocketType::STREAM {
        // Connections of an earlier one that are still being closed do not count. Two datagram sockets would share the address by it.
        sockopt::set_socket_reuseaddr(&socket, true).map_err(failed("setsockopt"))?;
    }
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says: [::] takes IPv4 too.
        sockopt::set_ipv6_v6only(&socket, false).map_err(failed("setsockopt"))?;
    }
    sockopt::set_socket_reuseport(&socket, options.reuse_port).map_err(failed("setsockopt"))?;
    match (options.free_bind, address.is_ipv4()) {
        (false, _) => {}
        (true, true) => sockopt::set_ip_freebind(&socket, true).map_err(failed("setsockopt"))?,
        (true, false) => sockopt::set_ipv6_freebind(&socket, true).map_err(failed("setsockopt"))?,
    }
    match bind(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(Errno::ADDRINUSE) if kind == SocketType::STREAM => Err(NotOpen::InUse(holder::of_tcp(address))),
        Err(Errno::ADDRINUSE) => Err(NotOpen::InUse(holder::of_udp(address))),
        Err(errno) => Err(failed("bind")(errno)),
    }
}

fn bound_unix(path: &str, kind: SocketType) -> Result<OwnedFd, NotOpen> {
    if let Some(dir) = Path::new(path).parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed("mkdir"))?;
    }
    take_away(path)?;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map_err(failed("socket"))?;
    let address = SocketAddrUnix::new(path).map_err(failed("bind"))?;
    match bind(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(Errno::ADDRINUSE) => Err(NotOpen::InUse(None)),
        Err(errno) => Err(failed("bind")(errno)),
    }
}

/// Whatever the umask is; not by its name twice, at which something else may be by now.
fn change_path(path: &str, mode: u32, (user, group): (Option<Uid>, Option<Gid>)) -> Result<(), Errno> {
    let found = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK);
    }
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    if user.is_some() || group.is_some() {
        rustix::fs::chown(&link, user, group)?;
    }
    rustix::fs::chmod(&link, Mode::from(mode))
}

/// Whose a path is to be: a user by name has its own group, unless that is said too.
fn owner(options: &SocketOptions) -> Result<(Option<Uid>, Option<Gid>), NotOpen> {
    const PASSWD: &str = "/etc/passwd";
    const GROUP: &str = "/etc/group";
    let (mut uid, mut gid) = (None, None);
    if let Some(name) = &options.user {
        let found = account(PASSWD, name);
        uid = found.as_ref().map(|fields| fields.0).or(name.parse().ok());
        gid = found.and_then(|fields| fields.1);
        if uid.is_none() {
            return Err(NotOpen::NoAccount { kind: "user", name: name.clone(), file: PASSWD });
        }
    }
    if let Some(name) = &options.group {
        gid = account(GROUP, name).map(|fields| fields.0).or(name.parse().ok());
        if gid.is_none() {
            return Err(NotOpen::NoAccount { kind: "group", name: name.clone(), file: GROUP });
        }
    }
    Ok((uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
}

/// The third field of a line of this name, and the fourth where it is a number.
fn account(file: &str, name: &str) -> Option<(u32, Option<u32>)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        let id = fields.nth(1)?.parse().ok().filter(|_| is_it)?;
        Some((id, fields.next().and_then(|field| field.parse().ok())))
    })
}

/// Removes a socket at which nobody listens; nothing there is fine.
pub(super) fn take_away(path: &str) -> Result<(), NotOpen> {
    match rustix::fs::lstat(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(failed("lstat")(errno)),
        Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Socket => return Err(NotOpen::NoSocket),
        Ok(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // One of another type says EPROTOTYPE, whether or not anybody has it: it is asked as what it is.
    for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
        let asking = socket_with(AddressFamily::UNIX, kind, flags, None).map_err(failed("socket"))?;
        let address = SocketAddrUnix::new(path).map_err(failed("connect"))?;
        return match connect(&asking, &address) {
            Err(Errno::PROTOTYPE) => continue,
            Err(Errno::CONNREFUSED) => unlink(path),
            Err(Errno::NOENT) => Ok(()),
            // Its backlog is full: it is somebody's.
            Ok(()) | Err(Errno::AGAIN) => Err(NotOpen::InUse(holder::of_unix(asking.as_fd()))),
            Err(errno) => Err(failed("connect")(errno)),
        };
    }
    Err(NotOpen::InUse(None))
}

/// Removes the path of a socket of ours that was closed. One for datagrams can be connected to as long as anybody has it, so that it is not asked
/// whether somebody listens: whoever took its place had to take ours away first.
pub(super) fn take_away_own(address: &Listen, path: &str) -> Result<(), NotOpen> {
    let is_socket = || rustix::fs::lstat(path).is_ok_and(|at| FileType::from_raw_mode(at.st_mode) == FileType::Socket);
    match address.is_datagram() && is_socket() {
        true => unlink(path),
        false => take_away(path),
    }
}

fn unlink(path: &str) -> Result<(), NotOpen> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("unlink")(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpStream;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use rustix::net::{Shutdown, shutdown};

    use super::*;

    fn dir(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("moored-socket-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn plain() -> SocketOptions {
        SocketOptions::default()
    }

    fn connects(path: &str, kind: SocketType) -> bool {
        let asking = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&asking, &SocketAddrUnix::new(path).unwrap()).is_ok()
    }

    #[test]
    fn a_stale_path_is_replaced_and_one_in_use_is_not() {
        let dir = dir("unix");
        let path = dir.join("deep/er/web.sock").display().to_string();
        let first = open(&Listen::Unix(path.clone()), &plain()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        UnixStream::connect(&path).unwrap();
        let Err(NotOpen::InUse(holder)) = open(&Listen::Unix(path.clone()), &plain()) else { panic!("it is in use") };
        assert!(holder.unwrap().contains(&format!("pid {}", std::process::id())));
        drop(first);
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let second = open(&Listen::Unix(path.clone()), &plain()).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(take_away(&path).is_err());
        shutdown(&second, Shutdown::Both).unwrap();
        take_away(&path).unwrap();
        assert!(!Path::new(&path).exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(matches!(open(&Listen::Unix(path.clone()), &plain()), Err(NotOpen::NoSocket)));
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
        // Somebody else took the place meanwhile: it stays.
        std::fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        assert!(take_away(&path).is_err() && Path::new(&path).exists());
        drop(other);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_that_is_shut_down_listens_for_nobody_who_has_it() {
        let dir = dir("shut");
        let path = dir.join("s").display().to_string();
        let packets = Listen::Seqpacket(dir.join("p").display().to_string());
        let addresses = [Listen::Unix(path.clone()), packets, Listen::parse("tcp://127.0.0.1:40917").unwrap()];
        for address in addresses {
            let socket = open(&address, &plain()).unwrap();
            let others = socket.try_clone().unwrap();
            let reached = || match &address {
                Listen::Unix(path) => UnixStream::connect(path).is_ok(),
                Listen::Seqpacket(path) => connects(path, SocketType::SEQPACKET),
                Listen::Tcp(address) => TcpStream::connect(address).is_ok(),
                Listen::Udp(_) | Listen::Unixgram(_) => unreachable!(),
            };
            assert!(listens(others.as_fd()) && reached(), "{address}");
            shutdown(&socket, Shutdown::Both).unwrap();
            assert!(!listens(others.as_fd()) && !reached(), "{address}");
            // And it is in nobody's way.
            drop(open(&address, &plain()).unwrap());
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_address_in_use_names_who_has_it() {
        for (first, others) in [
            ("tcp://127.0.0.1:40918", ["tcp://127.0.0.1:40918", "tcp://0.0.0.0:40918", "tcp://[::]:40918"]),
            ("udp://127.0.0.1:40918", ["udp://127.0.0.1:40918", "udp://0.0.0.0:40918", "udp://[::]:40918"]),
        ] {
            let first = open(&Listen::parse(first).unwrap(), &plain()).unwrap();
            for other in others {
                let why = open(&Listen::parse(other).unwrap(), &plain()).unwrap_err().to_string();
                assert!(why.starts_with(&format!("in use by pid {}", std::process::id())), "{other}: {why}");
            }
            drop(first);
        }
    }

    #[test]
    fn datagrams_come_and_a_path_of_theirs_goes_with_it() {
        let dir = dir("datagrams");
        let path = dir.join("log").display().to_string();
        let address = Listen::Unixgram(path.clone());
        let socket = open(&address, &plain()).unwrap();
        assert!(listens(socket.as_fd()));
        UnixDatagram::unbound().unwrap().send_to(b"word", &path).unwrap();
        assert!(matches!(open(&address, &plain()), Err(NotOpen::InUse(_))));
        assert!(matches!(open(&Listen::Unix(path.clone()), &plain()), Err(NotOpen::InUse(_))), "of another type");
        let other = socket.try_clone().unwrap();
        shutdown(&socket, Shutdown::Both).unwrap();
        assert!(!listens(other.as_fd()));
        take_away_own(&address, &path).unwrap();
        assert!(!Path::new(&path).exists());
        drop((socket, other));
        drop(open(&address, &plain()).unwrap());
        drop(open(&Listen::Seqpacket(path), &plain()).unwrap());
        let udp = Listen::parse("udp://127.0.0.1:40919").unwrap();
        let socket = open(&udp, &plain()).unwrap();
        assert!(listens(socket.as_fd()));
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"word", "127.0.0.1:40919").unwrap();
        let mut bytes = [0; 8];
        assert_eq!(rustix::net::recv(&socket, &mut bytes[..], rustix::net::RecvFlags::empty()).unwrap().0, 4);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn options_are_those_of_the_text_also_later() {
        let dir = dir("options");
        let path = dir.join("s").display().to_string();
        let address = Listen::Unix(path.clone());
        let options = SocketOptions { mode: Some(0o600), user: Some("daemon".into()), backlog: Some(7), ..plain() };
        let socket = open(&address, &options).unwrap();
        let found = || {
            let found = std::fs::metadata(&path).unwrap();
            (found.permissions().mode() & 0o777, found.uid(), found.gid())
        };
        let (daemon, root) = (account("/etc/passwd", "daemon").unwrap(), rustix::process::geteuid().is_root());
        if root {
            assert_eq!(found(), (0o600, daemon.0, daemon.1.unwrap()));
            let options =
                SocketOptions { mode: Some(0o660), user: Some("0".into()), group: Some("7".into()), ..plain() };
            apply(socket.as_fd(), &address, &options).unwrap();
            assert_eq!(found(), (0o660, 0, 7));
        }
        drop(socket);
        let nobody = SocketOptions { group: Some("nosuchgroup".into()), ..plain() };
        assert_eq!(open(&address, &nobody).unwrap_err().to_string(), "no group nosuchgroup in /etc/group");
        assert!(!Path::new(&path).exists(), "it is in nobody's way");
        let tcp = Listen::parse("tcp://127.0.0.1:40920").unwrap();
        let shared = SocketOptions { reuse_port: true, free_bind: true, ..plain() };
        let both = [open(&tcp, &shared).unwrap(), open(&tcp, &shared).unwrap()];
        assert!(open(&tcp, &plain()).is_err());
        drop(both);
        let nowhere = Listen::parse("tcp://192.0.2.1:40920").unwrap();
        assert!(open(&nowhere, &plain()).is_err() && open(&nowhere, &shared).is_ok());
        std::fs::remove_dir_all(dir).unwrap();
    }
}

//! The sockets of `[[socket]]`: made here, held by the keeper, passed to every container of their unit.
//!
//! | what | by whom it is held | what becomes of the socket |
//! |---|---|---|
//! | a restart, an update, a crash of the container | keeper and supervisor | it stays open; who connects waits in its backlog |
//! | the supervisor dies | the keeper | the next one is given it |
//! | the keeper dies | the supervisor | the next keeper is given it |
//! | both die | the container, if it runs | that goes on; its next start makes another one, before which connections are refused |
//! | the anchor dies | both | nothing |
//!
//! With keeper and supervisor both dead, a start beside the container that runs (`start-first`) finds the address in use, by that container.
//!
//! # Order of effects and records
//!
//! The loop has written down that a socket may be open before the start that makes it comes here. Made: bind, listen, hold. A crash before
//! the keeper holds it closes it, and leaves at most the path of a unix socket at which nobody listens; that is replaced by the next start and
//! removed by the next close. Closed: shut down, so that nobody who still has it accepts anything; the path removed; let go. A crash in
//! between leaves one that is shut down and held: it is let go when it is met.
//!
//! # Rules
//!
//! - They are made in the host's network namespace: that is where the supervisor is.
//! - A unix socket is bound at its path itself and not renamed there, since programs look at the name that they were bound to
//!   (`sd_is_socket_unix(3)`, php-fpm). Nobody is refused by that who would not have been: before it there is none. It is open to every user.
//! - A path at which nobody listens any more is replaced, one that is no socket or at which somebody listens is not.
//! - A name with the keeper is `socket UNIT ADDRESS`. Two units may have one address for a moment, when it moves from one to the other while
//!   the first one's container is still being stopped: then both have the same socket, and only the last one closes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, shutdown, socket_with,
    sockopt,
};

use super::hands::Hands;
use super::holder;
use crate::plan::Fact;
use crate::unit::{Listen, Unit, UnitName};

/// Begins the name of a socket with the keeper.
const HELD: &str = "socket";

/// Connections that wait; the kernel takes less (net.core.somaxconn).
const BACKLOG: i32 = 65_535;

/// Of a unix socket, as systemd's `SocketMode=` has it.
const MODE: u32 = 0o666;

/// All that are open, and who they are for.
#[derive(Default)]
pub(super) struct Listeners {
    open: BTreeMap<(UnitName, Listen), Open>,
}

struct Open {
    socket: OwnedFd,
    /// The keeper that is there now has it.
    held: bool,
}

impl Hands {
    /// What a container of this unit is passed, in its order; what is not open yet is made.
    pub(super) fn listen(&mut self, unit: &Unit) -> Result<Vec<OwnedFd>, String> {
        if unit.sockets.is_empty() {
            return Ok(Vec::new());
        }
        let made = unit.sockets.iter().map(|socket| self.listener(unit, &socket.listen)).collect();
        let sockets = self.listeners.of(&unit.name);
        if !sockets.is_empty() {
            self.fact(Fact::Listening { unit: unit.name.clone(), sockets });
        }
        made
    }

    fn listener(&mut self, unit: &Unit, listen: &Listen) -> Result<OwnedFd, String> {
        let key = (unit.name.clone(), listen.clone());
        if !self.listeners.open.contains_key(&key) {
            let socket = match self.listeners.anybodys(listen) {
                Some(socket) => copy(socket.as_fd())?,
                None => open(listen).map_err(|why| self.listeners.in_words(listen, &why))?,
            };
            self.ask(self.keeper.hold(&held_name(&key), socket.as_fd()));
            self.listeners.open.insert(key.clone(), Open { socket, held: true });
        }
        let open = self.listeners.open.get(&key).ok_or("it is not open")?;
        let alone = !self.handles.iter().any(|(id, handle)| id.unit == unit.name && !handle.ended);
        if alone {
            // Whoever had it before may have changed that, and it is common to all who have it (fcntl(2)).
            let _ = rustix::io::ioctl_fionbio(&open.socket, false);
        }
        copy(open.socket.as_fd())
    }

    /// From here on nobody listens there, whoever still has the socket.
    pub(super) fn close(&mut self, unit: UnitName, sockets: BTreeSet<Listen>) {
        for listen in &sockets {
            let key = (unit.clone(), listen.clone());
            let own = self.listeners.open.remove(&key);
            if self.listeners.anybodys(listen).is_none() {
                if let Some(own) = &own {
                    // ENOTCONN: it did not listen any more.
                    let _ = shutdown(&own.socket, Shutdown::Both);
                }
                if let Listen::Unix(path) = listen
                    && let Err(why) = take_away(path)
                {
                    tracing::warn!("{listen} of {unit} is closed; its path stays: {why}");
                }
            }
            if own.is_some() {
                self.ask(self.keeper.unhold(&held_name(&key)));
            }
        }
        self.fact(Fact::Closed { unit, sockets });
    }

    // ---- the keeper ----

    /// A keeper is met; what it has it will say.
    pub(super) fn forget_held(&mut self) {
        self.listeners.open.values_mut().for_each(|open| open.held = false);
    }

    /// It has this one; `false`: that is none of these.
    pub(super) fn held(&mut self, name: &str, socket: OwnedFd) -> bool {
        let Some(key) = key_of(name) else { return false };
        if let Some(open) = self.listeners.open.get_mut(&key) {
            open.held = true;
        } else if listens(socket.as_fd()) {
            self.listeners.open.insert(key, Open { socket, held: true });
        } else {
            self.ask(self.keeper.unhold(name));
        }
        true
    }

    /// It has said all: the rest is given to it. Says what is open.
    pub(super) fn hold_again(&mut self) -> Vec<(UnitName, BTreeSet<Listen>)> {
        for (key, open) in self.listeners.open.iter_mut().filter(|(_, open)| !open.held) {
            match self.keeper.hold(&held_name(key), open.socket.as_fd()) {
                Ok(()) => open.held = true,
                Err(error) => tracing::warn!("keeper: {error}"),
            }
        }
        let units: BTreeSet<UnitName> = self.listeners.open.keys().map(|(unit, _)| unit.clone()).collect();
        units.into_iter().map(|unit| (unit.clone(), self.listeners.of(&unit))).collect()
    }
}

impl Listeners {
    fn of(&self, unit: &UnitName) -> BTreeSet<Listen> {
        self.open.keys().filter(|(name, _)| name == unit).map(|(_, listen)| listen.clone()).collect()
    }

    /// The one at this address, whose ever.
    fn anybodys(&self, listen: &Listen) -> Option<&OwnedFd> {
        self.open.iter().find(|((_, other), _)| other == listen).map(|(_, open)| &open.socket)
    }

    /// Why it cannot be made; who has the address, if that is known.
    fn in_words(&self, listen: &Listen, why: &NotOpen) -> String {
        let ours = self.open.keys().find(|(_, other)| other.excludes(listen));
        match (why, ours) {
            (NotOpen::InUse(_), Some((unit, other))) => format!("{listen} is in use: {unit} still listens at {other}"),
            (NotOpen::InUse(_), None) => format!("{listen} is {why}"),
            (NotOpen::NoSocket | NotOpen::Call { .. }, _) => format!("{listen} cannot be listened at: {why}"),
        }
    }
}

fn held_name((unit, listen): &(UnitName, Listen)) -> String {
    format!("{HELD} {unit} {listen}")
}

fn key_of(name: &str) -> Option<(UnitName, Listen)> {
    let (unit, listen) = name.strip_prefix(HELD)?.strip_prefix(' ')?.split_once(' ')?;
    Some((UnitName::new(unit).ok()?, Listen::parse(listen).ok()?))
}

fn copy(socket: BorrowedFd<'_>) -> Result<OwnedFd, String> {
    socket.try_clone_to_owned().map_err(|error| format!("copying a socket: {error}"))
}

/// Whether it still does: not if it was shut down.
fn listens(socket: BorrowedFd<'_>) -> bool {
    let mut polls = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    let hung_up = match poll(&mut polls, Some(&Timespec::default())) {
        Ok(_) => polls.iter().any(|poll| poll.revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)),
        Err(_) => true,
    };
    !hung_up && sockopt::socket_acceptconn(socket).unwrap_or(false)
}

// --- making one ---------------------------------------------------------------------------------------------------

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
enum NotOpen {
    /// Somebody listens there: who, if that is known.
    #[error("in use{}", .0.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    InUse(Option<String>),
    #[error("something else than a socket is there")]
    NoSocket,
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

fn open(address: &Listen) -> Result<OwnedFd, NotOpen> {
    match address {
        Listen::Tcp(address) => open_tcp(*address),
        Listen::Unix(path) => open_unix(path),
    }
}

fn open_tcp(address: SocketAddr) -> Result<OwnedFd, NotOpen> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed("socket"))?;
    // Connections of an earlier one that are still being closed do not count.
    sockopt::set_socket_reuseaddr(&socket, true).map_err(failed("setsockopt"))?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says: [::] takes IPv4 too.
        sockopt::set_ipv6_v6only(&socket, false).map_err(failed("setsockopt"))?;
    }
    let bound = bind(&socket, &address).map_err(|errno| ("bind", errno));
    match bound.and_then(|()| listen(&socket, BACKLOG).map_err(|errno| ("listen", errno))) {
        Ok(()) => Ok(socket),
        Err((_, Errno::ADDRINUSE)) => Err(NotOpen::InUse(holder::of_tcp(address))),
        Err((call, errno)) => Err(failed(call)(errno)),
    }
}

fn open_unix(path: &str) -> Result<OwnedFd, NotOpen> {
    if let Some(dir) = Path::new(path).parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed("mkdir"))?;
    }
    take_away(path)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed("socket"))?;
    let address = SocketAddrUnix::new(path).map_err(failed("bind"))?;
    match bind(&socket, &address) {
        Ok(()) => {}
        Err(Errno::ADDRINUSE) => return Err(NotOpen::InUse(None)),
        Err(errno) => return Err(failed("bind")(errno)),
    }
    open_to_all(path).map_err(failed("chmod"))?;
    listen(&socket, BACKLOG).map_err(failed("listen"))?;
    Ok(socket)
}

/// Whatever the umask is; not by its name twice, at which something else may be by now.
fn open_to_all(path: &str) -> Result<(), Errno> {
    let found = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK);
    }
    rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::from(MODE))
}

/// Removes a socket at which nobody listens; nothing there is fine.
fn take_away(path: &str) -> Result<(), NotOpen> {
    match rustix::fs::lstat(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(failed("lstat")(errno)),
        Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Socket => return Err(NotOpen::NoSocket),
        Ok(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let asking = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed("socket"))?;
    let address = SocketAddrUnix::new(path).map_err(failed("connect"))?;
    match connect(&asking, &address) {
        Err(Errno::CONNREFUSED) => match rustix::fs::unlink(path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("unlink")(errno)),
        },
        Err(Errno::NOENT) => Ok(()),
        // Its backlog is full, or it is of another type: it is somebody's.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(NotOpen::InUse(holder::of_unix(asking.as_fd()))),
        Err(errno) => Err(failed("connect")(errno)),
    }
}

/// For the keeper's refusals.
pub(super) fn is_held_name(name: &str) -> bool {
    key_of(name).is_some()
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::keeper;

    fn dir(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("moored-listen-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_stale_path_is_replaced_and_one_in_use_is_not() {
        let dir = dir("unix");
        let path = dir.join("deep/er/web.sock").display().to_string();
        let first = open_unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        UnixStream::connect(&path).unwrap();
        let Err(NotOpen::InUse(holder)) = open_unix(&path) else { panic!("it is in use") };
        assert!(holder.unwrap().contains(&format!("pid {}", std::process::id())));
        drop(first);
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let second = open_unix(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(take_away(&path).is_err());
        shutdown(&second, Shutdown::Both).unwrap();
        take_away(&path).unwrap();
        assert!(!Path::new(&path).exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(matches!(open_unix(&path), Err(NotOpen::NoSocket)));
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
        let addresses = [Listen::Unix(path.clone()), Listen::parse("tcp://127.0.0.1:40917").unwrap()];
        for address in addresses {
            let socket = open(&address).unwrap();
            let others = socket.try_clone().unwrap();
            let reached = || match &address {
                Listen::Unix(path) => UnixStream::connect(path).is_ok(),
                Listen::Tcp(address) => TcpStream::connect(address).is_ok(),
            };
            assert!(listens(others.as_fd()) && reached(), "{address}");
            shutdown(&socket, Shutdown::Both).unwrap();
            assert!(!listens(others.as_fd()) && !reached(), "{address}");
            // And it is in nobody's way.
            drop(open(&address).unwrap());
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_address_in_use_names_who_has_it() {
        let first = open(&Listen::parse("tcp://127.0.0.1:40918").unwrap()).unwrap();
        for other in ["tcp://127.0.0.1:40918", "tcp://0.0.0.0:40918", "tcp://[::]:40918"] {
            let listen = Listen::parse(other).unwrap();
            let words = Listeners::default().in_words(&listen, &open(&listen).unwrap_err());
            let expected = format!("{other} is in use by pid {}", std::process::id());
            assert!(words.starts_with(&expected), "{words}");
        }
        drop(first);
    }

    #[test]
    fn names_with_the_keeper_are_read_back() {
        let long = UnitName::new(&format!("{}@{}", "a".repeat(64), "b".repeat(64))).unwrap();
        let path = Listen::parse(&format!("unix:///{}", "c d".repeat(35))).unwrap();
        let key = (long, path);
        assert!(held_name(&key).len() <= keeper::ID_BYTES_MAX, "{}", held_name(&key).len());
        assert_eq!(key_of(&held_name(&key)), Some(key));
        for other in ["socket", "socket web", "socket web x", "sockets web tcp://1.2.3.4:5", "web.1"] {
            assert_eq!(key_of(other), None);
        }
    }
}

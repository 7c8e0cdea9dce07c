//! The supervisor's side: [`Requests`] to send from its loop, [`Events`] to receive on a thread of their own.
//!
//! Requests have no answers. What comes of them is an [`Event`]: a child's state, or `Refused`. Events are newest state,
//! not history: an exit may be the first that is heard of a container, and the same state may be heard twice.
//!
//! # What the supervisor does
//!
//! 1. On [`Event::Welcome`] (the first, and again whenever the keeper died and another took its place): forget what was
//!    asked and not yet answered. Then come a `Child` with tag and descriptors for each container the keeper knows, a
//!    `Held` for each name, an `Orphan` for each child of a dead keeper, and `Synced`.
//! 2. On [`Event::Synced`]: adopt what is known and was not among the children ([`Requests::adopt`]; a living supervisor
//!    has pidfd, tag and descriptors; a new one finds the orphan by its cgroup), hold again what was held by name, then
//!    [`Requests::adoption_done`]. This is due after every `Welcome`, also when there was nothing to adopt.
//! 3. From then on: `spawn`; on `Exited` drain the pipes, record, then [`Requests::ack`].
//! 4. On [`Event::Stop`], or `stats.stopping` in a `Welcome`: stop all in order, once; then [`Requests::finish`] and exit.
//! 5. When [`Events::next`] says [`ClientError::Gone`] or [`ClientError::Denied`]: exit, and stop nothing. No parent is
//!    left to serve, or another supervisor serves it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};

use super::packet::{receive, send};
use super::wire::{
    Builds, ChildState, Kind, Line, Message, Orphan, Refusal, Request, Role, Stats, WireError, decode_message, encode,
};
use super::{CHILD_HELD_MAX, SOCKET_NAME, VERSION};

/// How often a request is sent again for which the kernel had nothing left, and how long after.
const SEND_TRIES: u32 = 200;
const SEND_AGAIN: Duration = Duration::from_millis(10);

/// Why there is no keeper to talk to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket: keeper and anchor are gone.
    #[error("no keeper listens on {path}: {errno}")]
    Gone {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        errno: Errno,
    },
    /// The keeper does not take us in this role.
    #[error("the keeper refused the connection: {}{}", std::io::Error::from_raw_os_error(*errno), pid.map(|p| format!(" (pid {p} has the place)")).unwrap_or_default())]
    Denied {
        /// EBUSY, EPERM or EPROTO.
        errno: i32,
        /// Who has the place.
        pid: Option<i32>,
    },
    /// The request is beyond the bounds of the protocol; nothing was sent.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The socket failed in a way that is no death of the keeper.
    #[error("talking to the keeper: {0}")]
    Socket(Errno),
}

/// One container or exec to fork.
#[derive(Debug, Clone, Copy)]
pub struct Spawn<'a> {
    /// Opaque, at most [`super::ID_BYTES_MAX`] bytes, never used twice.
    pub id: &'a str,
    /// What it is.
    pub kind: Kind,
    /// Opaque, at most [`super::TAG_BYTES_MAX`] bytes.
    pub tag: &'a [u8],
    /// A memfd sealed against writing, growing and shrinking, at most [`super::PAYLOAD_BYTES_MAX`] long.
    pub payload: BorrowedFd<'a>,
    /// The payload's slots, in its order.
    pub slots: &'a [BorrowedFd<'a>],
    /// What the keeper holds until [`Requests::ack`] (read ends of stdio and report), at most [`super::CHILD_HELD_MAX`].
    pub held: &'a [BorrowedFd<'a>],
}

/// Which connection to a keeper: the first is 0, and each begins with a `Welcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection(u64);

/// What the keeper says.
#[derive(Debug)]
pub enum Event {
    /// A keeper begins to tell what it knows, on this connection. See the module's step 1.
    Welcome(Stats, Connection),
    /// The newest state of a container or exec.
    Child(Child),
    /// A child of a dead keeper. See the module's step 2.
    Orphan(Orphan),
    /// A descriptor held by name. At connect only.
    Held {
        /// Its name.
        name: String,
        /// A duplicate.
        fd: OwnedFd,
    },
    /// All that was there at the `Welcome` is said.
    Synced,
    /// A request was not done. The record of that id, if there is one, is as it was: do not acknowledge it for this.
    Refused(Refusal),
    /// What a container has said over its notify socket: the newest line of each kind, oldest first. After its `Child`.
    Said {
        /// As spawned.
        id: String,
        /// Of sd_notify(3).
        lines: Vec<Line>,
        /// To [`Requests::hear`]: nothing that was sent before that is missing.
        answers: bool,
    },
    /// Begin the ordered stop.
    Stop,
    /// Asked for, or who controls us changed (`spare`, `anchor`).
    Stats(Stats),
    /// Which builds run: asked for, or one of them became another.
    Builds(Builds),
}

/// The newest state of a container or exec.
#[derive(Debug)]
pub struct Child {
    /// As spawned.
    pub id: String,
    /// As spawned.
    pub kind: Kind,
    /// Its pid; 0 if it failed. Not to be signalled by number: use `pidfd`.
    pub pid: i32,
    /// Where it stands.
    pub state: ChildState,
    /// There whenever the state is `Running`.
    pub pidfd: Option<OwnedFd>,
    /// There after `Welcome` and [`Requests::report`] only.
    pub full: Option<Full>,
}

/// What the keeper holds for a child.
#[derive(Debug)]
pub struct Full {
    /// As spawned or set.
    pub tag: Vec<u8>,
    /// Duplicates of the held descriptors by their position at `spawn`; `None` where released.
    pub held: Vec<Option<OwnedFd>>,
}

/// The connection in force; replaced by the receiving side when the keeper died.
#[derive(Debug)]
struct Link {
    path: PathBuf,
    socket: Mutex<(Connection, Arc<OwnedFd>)>,
}

impl Link {
    fn socket(&self) -> (Connection, Arc<OwnedFd>) {
        // A poisoned lock holds a good descriptor all the same: it is replaced in one step.
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        (socket.0, Arc::clone(&socket.1))
    }

    fn replace(&self, socket: OwnedFd) {
        let mut place = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let Connection(number) = place.0;
        *place = (Connection(number.saturating_add(1)), Arc::new(socket));
    }
}

/// Sends. One thread; blocks only while the keeper is busy and its socket full.
///
/// A request to a keeper that just died is lost, and `Ok`: the `Welcome` of the next one says so.
#[derive(Debug)]
pub struct Requests {
    link: Arc<Link>,
}

/// Receives. One thread of its own; blocks.
#[derive(Debug)]
pub struct Events {
    link: Arc<Link>,
}

/// Connects to the keeper of `run_dir` as its supervisor. The first event is `Welcome`.
pub fn connect(run_dir: &Path) -> Result<(Requests, Events), ClientError> {
    let path = run_dir.join(SOCKET_NAME);
    let socket = hello(&path, Role::Supervisor)?;
    let link = Arc::new(Link { path, socket: Mutex::new((Connection::default(), Arc::new(socket))) });
    Ok((Requests { link: Arc::clone(&link) }, Events { link }))
}

/// The keeper's figures, for whoever may ask (root, or the keeper's user).
pub fn observe(run_dir: &Path) -> Result<Stats, ClientError> {
    let path = run_dir.join(SOCKET_NAME);
    let socket = hello(&path, Role::Observer)?;
    match next_message(socket.as_fd())? {
        Some(Message::Denied { errno, pid }) => Err(ClientError::Denied { errno, pid }),
        Some(Message::Welcome { stats }) => Ok(stats),
        Some(_) => Err(ClientError::Wire(WireError::Malformed)),
        None => Err(ClientError::Gone { path, errno: Errno::CONNRESET }),
    }
}

/// A connection on which `Hello` is said.
pub(crate) fn hello(path: &Path, role: Role) -> Result<OwnedFd, ClientError> {
    let gone = |errno| ClientError::Gone { path: path.to_owned(), errno };
    let address = SocketAddrUnix::new(path).map_err(gone)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(ClientError::Socket)?;
    connect_to(&socket, &address).map_err(gone)?;
    let bytes = encode(&Request::Hello { version: VERSION, role })?;
    match send(socket.as_fd(), &bytes, &[], SendFlags::empty()) {
        // Gone again, or refused before it read: what it said is still to be received.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(socket),
        Err(errno) => Err(ClientError::Socket(errno)),
    }
}

/// The next message on a connection of another role that this version knows; `None` when the keeper is gone.
pub(crate) fn next_message(socket: BorrowedFd<'_>) -> Result<Option<Message>, ClientError> {
    loop {
        match next_message_with(socket)? {
            Some(Received { message: Some(message), .. }) => return Ok(Some(message)),
            Some(Received { message: None, .. }) => {}
            None => return Ok(None),
        }
    }
}

/// What came on a connection of another role.
pub(crate) struct Received {
    /// `None`: one of another version.
    pub message: Option<Message>,
    /// Beside it.
    pub fds: Vec<OwnedFd>,
}

/// The next message with its descriptors.
pub(crate) fn next_message_with(socket: BorrowedFd<'_>) -> Result<Option<Received>, ClientError> {
    let packet = receive(socket, RecvFlags::empty()).map_err(ClientError::Socket)?;
    Ok(packet.map(|packet| Received { message: decode_message(&packet.bytes).ok(), fds: packet.fds }))
}

/// Sends a request without descriptors on a connection of another role.
pub(crate) fn send_request(socket: BorrowedFd<'_>, request: &Request) -> Result<(), ClientError> {
    send_request_with(socket, request, &[])
}

/// The same with descriptors.
pub(super) fn send_request_with(
    socket: BorrowedFd<'_>,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<(), ClientError> {
    send(socket, &encode(request)?, fds, SendFlags::empty()).map_err(ClientError::Socket)
}

impl Events {
    /// The next event. Reconnects by itself when the keeper died. Not an iterator: an error is the end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            let (connection, socket) = self.link.socket();
            match receive(socket.as_fd(), RecvFlags::empty()) {
                Ok(Some(packet)) => {
                    // One that does not decode is a newer keeper's, and nothing that this version needs.
                    let message = decode_message(&packet.bytes).ok();
                    let event = message.map(|message| event(message, packet.fds, connection)).transpose()?;
                    if let Some(event) = event.flatten() {
                        return Ok(event);
                    }
                }
                // Ends: with no listener left, connecting fails.
                Ok(None) => self.link.replace(hello(&self.link.path, Role::Supervisor)?),
                Err(errno) => return Err(ClientError::Socket(errno)),
            }
        }
    }
}

/// What a message means to a supervisor; `None` for one that is not for it.
fn event(message: Message, fds: Vec<OwnedFd>, connection: Connection) -> Result<Option<Event>, ClientError> {
    let mut fds = fds.into_iter();
    Ok(Some(match message {
        Message::Welcome { stats } => Event::Welcome(stats, connection),
        Message::Child { id, kind, pid, state, tag, held } => {
            let pidfd = if state == ChildState::Running { fds.next() } else { None };
            let full = tag.map(|tag| Full { tag, held: place(held.unwrap_or(0), &mut fds) });
            Event::Child(Child { id, kind, pid, state, pidfd, full })
        }
        Message::Orphan(orphan) => Event::Orphan(orphan),
        Message::Held { name } => match fds.next() {
            Some(fd) => Event::Held { name, fd },
            // This process had no room for the descriptor; the keeper still has it.
            None => return Err(ClientError::Socket(Errno::MFILE)),
        },
        Message::Synced => Event::Synced,
        Message::Refused(refusal) => Event::Refused(refusal),
        Message::Said { id, lines, answers } => Event::Said { id, lines, answers },
        Message::Stop => Event::Stop,
        Message::Stats(stats) => Event::Stats(stats),
        Message::Denied { errno, pid } => return Err(ClientError::Denied { errno, pid }),
        Message::Builds(builds) => Event::Builds(builds),
        Message::Ended { .. } | Message::Replace | Message::Upgraded { .. } | Message::Unheld { .. } => {
            return Ok(None);
        }
    }))
}

/// Descriptors put at the positions of the bits of `mask`.
pub(super) fn place(mask: u32, fds: &mut impl Iterator<Item = OwnedFd>) -> Vec<Option<OwnedFd>> {
    let count = u32::BITS.saturating_sub(mask.leading_zeros());
    (0..count).map(|bit| if mask.checked_shr(bit).is_some_and(|m| m & 1 == 1) { fds.next() } else { None }).collect()
}

/// The bits of the positions that are filled.
pub(super) fn mask<T>(held: &[Option<T>]) -> u32 {
    let bit = |(n, fd): (usize, &Option<T>)| fd.as_ref().and_then(|_| 1_u32.checked_shl(u32::try_from(n).ok()?));
    held.iter().enumerate().filter_map(bit).fold(0, |mask, bit| mask | bit)
}

impl Requests {
    /// Forks. Answer: `Child` `Running` or `Failed`, or `Refused`.
    pub fn spawn(&self, spawn: &Spawn<'_>) -> Result<(), ClientError> {
        let bound = |n: usize| u8::try_from(n).map_err(|_| WireError::Bound("number of descriptors"));
        let request = Request::Spawn {
            id: spawn.id.to_owned(),
            kind: spawn.kind,
            tag: spawn.tag.to_vec(),
            slots: bound(spawn.slots.len())?,
            held: bound(spawn.held.len())?,
        };
        let fds: Vec<_> = [spawn.payload].iter().chain(spawn.slots).chain(spawn.held).copied().collect();
        self.request(&request, &fds)
    }

    /// Takes a child of a dead keeper, by pid of an [`Event::Orphan`] or with the pidfd it was announced with. Answer: as
    /// for `spawn`; `Refused` ECHILD means that its exit cannot be known any more.
    pub fn adopt(
        &self,
        id: &str,
        kind: Kind,
        tag: &[u8],
        pid: i32,
        pidfd: Option<BorrowedFd<'_>>,
        held: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), ClientError> {
        if held.len() > CHILD_HELD_MAX {
            return Err(WireError::Bound("number of descriptors").into());
        }
        let request = Request::Adopt {
            id: id.to_owned(),
            kind,
            tag: tag.to_vec(),
            pid,
            pidfd: pidfd.is_some(),
            held: mask(held),
        };
        let fds: Vec<_> = pidfd.into_iter().chain(held.iter().flatten().copied()).collect();
        self.request(&request, &fds)
    }

    /// The exit or failure is recorded: the keeper may forget it. No answer.
    pub fn ack(&self, id: &str) -> Result<(), ClientError> {
        self.request(&Request::Ack { id: id.to_owned() }, &[])
    }

    /// Replaces the tag. No answer.
    pub fn set_tag(&self, id: &str, tag: &[u8]) -> Result<(), ClientError> {
        self.request(&Request::SetTag { id: id.to_owned(), tag: tag.to_vec() }, &[])
    }

    /// Closes the keeper's held descriptor at `position`. No answer.
    pub fn release(&self, id: &str, position: u8) -> Result<(), ClientError> {
        self.request(&Request::Release { id: id.to_owned(), position }, &[])
    }

    /// Asks for the child with tag and descriptors. Answer: `Child`.
    pub fn report(&self, id: &str) -> Result<(), ClientError> {
        self.request(&Request::Report { id: id.to_owned() }, &[])
    }

    /// Asks for all that a child has said over its notify socket. Answer: `Said`; one that is not known, or a keeper that dies, gives none.
    pub fn hear(&self, id: &str) -> Result<(), ClientError> {
        self.request(&Request::Hear { id: id.to_owned() }, &[])
    }

    /// Keeps a descriptor under a name for the next supervisor; replaces one of that name. No answer.
    pub fn hold(&self, name: &str, fd: BorrowedFd<'_>) -> Result<(), ClientError> {
        self.request(&Request::Hold { name: name.to_owned() }, &[fd])
    }

    /// Closes a held descriptor. No answer.
    pub fn unhold(&self, name: &str) -> Result<(), ClientError> {
        self.request(&Request::Unhold { name: name.to_owned() }, &[])
    }

    /// This supervisor is up and has adopted what it knows. Due after every `Welcome`, and said to that keeper alone: the next one, which
    /// may be there already, would take it for its own and give up the children that it is still to tell of.
    pub fn adoption_done(&self, connection: Connection) -> Result<(), ClientError> {
        let (present, socket) = self.link.socket();
        if present == connection { send_on(&socket, &Request::AdoptionDone, &[]) } else { Ok(()) }
    }

    /// Begins the ordered stop as a signal to the anchor would (`moored down`). Answer: `Stop`.
    pub fn stop(&self) -> Result<(), ClientError> {
        self.request(&Request::Stop, &[])
    }

    /// No supervisor is needed after this one. Without `leave_running` the keeper ends when all children are gone.
    pub fn finish(&self, leave_running: bool) -> Result<(), ClientError> {
        self.request(&Request::Finish { leave_running }, &[])
    }

    /// Says which moored this supervisor is. Answer: `Builds`, now and whenever the others say theirs.
    pub fn build(&self) -> Result<(), ClientError> {
        self.request(&Request::Build { build: super::build(), resumed: false }, &[])
    }

    /// Asks for figures. Answer: `Stats`.
    pub fn stats(&self) -> Result<(), ClientError> {
        self.request(&Request::Stats, &[])
    }

    fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        send_on(&self.link.socket().1, request, fds)
    }
}

fn send_on(socket: &OwnedFd, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
    request.check(fds.len())?;
    let bytes = encode(request)?;
    let mut tries = 0..SEND_TRIES;
    loop {
        match send(socket.as_fd(), &bytes, fds, SendFlags::empty()) {
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Ok(()),
            // No answer will tell that it did not arrive. Nothing says when there is memory again, or the receiver has taken descriptors.
            Err(Errno::NOMEM | Errno::NOBUFS | Errno::TOOMANYREFS) if tries.next().is_some() => {
                std::thread::sleep(SEND_AGAIN);
            }
            Err(errno) => return Err(ClientError::Socket(errno)),
        }
    }
}

//! The server: one thread, one epoll, every socket nonblocking.
//!
//! A client is `Reading` until its request line is complete, then `Served`: the call is posted and the supervisor answers through a
//! [`Reply`] whenever it likes. A client that the server itself refuses is `Served` too, with a reply that is already closed.
//!
//! | state | epoll waits for | ends by |
//! |---|---|---|
//! | Reading | input | a complete line, 10 s, 64 KiB, end of input |
//! | Served, nothing queued | hang-up only: what else a client sends stays in the kernel | the client goes, the reply is closed |
//! | Served, bytes queued | room, hang-up | the same, 30 s without progress, a full queue |
//!
//! Deadlines exist only while a request is incomplete, while a client does not read what waits for it, and for a moment after accept(2)
//! ran out of descriptors: with nothing of that the thread sleeps without a timeout. End of input is not the end of a client (it may have
//! shut down its sending side); hang-up is.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags};

use super::protocol::{Hello, VERSION};
use super::reply::{ClientId, Next, Outbox, Phase, Reply, Wake};
use super::{MAX_REQUEST_BYTES, MAX_REQUEST_FDS, Request, Response};
use crate::compact;
use crate::unit::diagnostic::one_line;

/// Connections at once. `events -f`, `sync` and `exec` hold one each for as long as they run.
pub const MAX_CLIENTS: usize = 4096;

/// A request must be complete this long after the connection.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// A client with bytes waiting for it must take some this often.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// When descriptors ran out, accept again after this long: the listener stays readable, and waiting for it would spin.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long a server that ends waits for clients to take their last lines.
const LAST_FLUSH: Duration = Duration::from_secs(1);

/// Read at once. Level-triggered: what is left is read in the next round.
const READ_BYTES: usize = 16 * 1024;

/// Events taken at once.
const MAX_EVENTS: usize = 64;

const LISTENER: u64 = 0;
const BELL: u64 = 1;
const FIRST_CLIENT: u64 = 2;

/// Who asks, by SO_PEERCRED: as it was at connect(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// 0 when it is not visible in our pid namespace.
    pub pid: i32,
    /// 0, or the user the supervisor runs as.
    pub uid: u32,
}

/// One request.
pub struct Call {
    /// What is wanted.
    pub request: Request,
    /// What came beside it, in order, at most [`MAX_REQUEST_FDS`]. The number is the client's word only.
    pub fds: Vec<OwnedFd>,
    /// Who asks.
    pub peer: Peer,
    /// Where the answer goes.
    pub reply: Reply,
}

/// What the server tells the supervisor.
pub enum Post {
    /// Somebody asks.
    Call(Call),
    /// The client of an earlier call went away or was cut off, before its reply was closed. Once per call at most.
    Gone(ClientId),
}

/// The running thread. Dropping it flushes what is queued for at most a second, closes all connections and waits for the thread.
pub struct Server {
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `listener`, a listening unix stream socket (see [`bind`](super::socket::bind)); it is made nonblocking. `post` runs on the
    /// server's thread and must not block.
    pub fn start(listener: OwnedFd, post: impl Fn(Post) + Send + 'static) -> io::Result<Server> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let wake = Arc::new(Wake::new()?);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, wake.eventfd(), EventData::new_u64(BELL), EventFlags::IN)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let mut rounds = Rounds {
            epoll,
            listener,
            wake: Arc::clone(&wake),
            clients: HashMap::new(),
            next_id: FIRST_CLIENT,
            accept_again: None,
            our_uid: rustix::process::geteuid().as_raw(),
            post,
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || rounds.run())?;
        Ok(Server { wake, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.wake.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Client {
    socket: OwnedFd,
    peer: Peer,
    stage: Stage,
    outbox: Arc<Outbox>,
    deadline: Option<Instant>,
    interest: EventFlags,
}

enum Stage {
    Reading { bytes: Vec<u8>, fds: Vec<OwnedFd> },
    Served { posted: bool },
}

/// What a look at a readable client gave.
enum Input {
    Incomplete,
    Complete,
    Nothing,
    Refused(String),
    Broken,
}

struct Rounds<P> {
    epoll: OwnedFd,
    listener: OwnedFd,
    wake: Arc<Wake>,
    clients: HashMap<u64, Client>,
    next_id: u64,
    accept_again: Option<Instant>,
    our_uid: u32,
    post: P,
}

impl<P: Fn(Post)> Rounds<P> {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(MAX_EVENTS);
        let mut end: Option<Instant> = None;
        loop {
            let timeout = self.earliest(end).map(until);
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // EBADF, EFAULT, EINVAL: a bug of ours. Ending closes every client, which is an answer.
                Err(_) => return,
            }
            for event in &events {
                let (data, flags) = (event.data.u64(), event.flags);
                match data {
                    LISTENER => self.accept(),
                    BELL => self.flush_marked(),
                    id => self.ready(id, flags),
                }
            }
            self.expire(Instant::now());
            if self.wake.stopping() {
                // What was sent before the stop is marked by now, but its bell may not have been heard yet.
                self.flush_marked();
                let end = *end.get_or_insert_with(|| Instant::now() + LAST_FLUSH);
                if self.ended(end) {
                    return;
                }
            }
        }
    }

    fn earliest(&self, end: Option<Instant>) -> Option<Instant> {
        let clients = self.clients.values().filter_map(|client| client.deadline);
        clients.chain(self.accept_again).chain(end).min()
    }

    fn accept(&mut self) {
        // Bounded so that a flood of connections does not starve those that are here.
        for _ in 0..MAX_EVENTS {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.admit(socket),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    let _ = epoll::delete(&self.epoll, &self.listener);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd) {
        let id = self.next_id;
        self.next_id += 1;
        let peer = peer_of(socket.as_fd());
        let outbox = Arc::new(Outbox::new(ClientId(id), Arc::clone(&self.wake)));
        let mut client = Client {
            socket,
            peer: peer.unwrap_or(Peer { pid: 0, uid: u32::MAX }),
            stage: Stage::Reading { bytes: Vec::new(), fds: Vec::new() },
            outbox,
            deadline: Some(Instant::now() + REQUEST_DEADLINE),
            interest: EventFlags::IN,
        };
        if self.clients.len() >= MAX_CLIENTS {
            return client.refuse_at_once(format!("too many clients: {MAX_CLIENTS} are connected"));
        }
        if client.peer.uid != 0 && client.peer.uid != self.our_uid {
            let uid = client.peer.uid;
            return client.refuse_at_once(format!("uid {uid} may not control this supervisor: only root may"));
        }
        if epoll::add(&self.epoll, &client.socket, EventData::new_u64(id), client.interest).is_ok() {
            self.clients.insert(id, client);
        }
    }

    fn ready(&mut self, id: u64, flags: EventFlags) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        match client.stage {
            Stage::Reading { .. } => self.read(id),
            Stage::Served { .. } if flags.intersects(EventFlags::HUP | EventFlags::ERR) => self.remove(id),
            Stage::Served { .. } => self.flush(id),
        }
    }

    fn read(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        match client.read() {
            Input::Incomplete => {}
            Input::Complete => self.call(id),
            Input::Nothing | Input::Broken => self.remove(id),
            Input::Refused(message) => self.refuse(id, message),
        }
    }

    /// A line is complete: posts the call, or says what is wrong with it.
    fn call(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Stage::Reading { bytes, fds } = std::mem::replace(&mut client.stage, Stage::Served { posted: true }) else {
            return;
        };
        match parse_request(&bytes) {
            Ok(request) => {
                let reply = Reply::new(Arc::clone(&client.outbox));
                let call = Call { request, fds, peer: client.peer, reply };
                client.deadline = None;
                (self.post)(Post::Call(call));
                self.flush(id);
            }
            Err(message) => self.refuse(id, message),
        }
    }

    fn refuse(&mut self, id: u64, message: String) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.stage = Stage::Served { posted: false };
        client.deadline = None;
        client.outbox.push(&Response::Error { message, code: 1 });
        client.outbox.close();
        self.flush(id);
    }

    fn flush_marked(&mut self) {
        for ClientId(id) in self.wake.take() {
            self.flush(id);
        }
    }

    /// Writes what is queued, and sees to what the socket is watched for.
    fn flush(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let socket = client.socket.as_fd();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let interest = match client.outbox.flush(|bytes| rustix::net::send(socket, bytes, flags)) {
            Ok((Next::Idle, _)) => {
                client.deadline = None;
                EventFlags::empty()
            }
            Ok((Next::Blocked, progress)) => {
                if progress || client.deadline.is_none() {
                    client.deadline = Some(Instant::now() + WRITE_DEADLINE);
                }
                EventFlags::OUT
            }
            Ok((Next::Finished | Next::CutOff, _)) | Err(_) => return self.remove(id),
        };
        if interest != client.interest {
            client.interest = interest;
            if epoll::modify(&self.epoll, &client.socket, EventData::new_u64(id), interest).is_err() {
                self.remove(id);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            let added = epoll::add(&self.epoll, &self.listener, EventData::new_u64(LISTENER), EventFlags::IN);
            if added.is_err() {
                self.accept_again = Some(now + ACCEPT_PAUSE);
            }
        }
        let late = |client: &Client| client.deadline.is_some_and(|at| at <= now);
        let ids: Vec<u64> = self.clients.iter().filter(|(_, client)| late(client)).map(|(id, _)| *id).collect();
        for id in ids {
            match self.clients.get(&id).map(|client| &client.stage) {
                Some(Stage::Reading { .. }) => {
                    let seconds = REQUEST_DEADLINE.as_secs();
                    self.refuse(id, format!("no complete request within {seconds} s"));
                }
                Some(Stage::Served { .. }) => self.remove(id),
                None => {}
            }
        }
    }

    /// Ends a connection; the supervisor hears of it unless it closed the reply itself.
    fn remove(&mut self, id: u64) {
        let Some(client) = self.clients.remove(&id) else { return };
        let closed = client.outbox.phase() == Phase::Closing;
        client.outbox.end();
        if matches!(client.stage, Stage::Served { posted: true }) && !closed {
            (self.post)(Post::Gone(ClientId(id)));
        }
    }

    /// The server is being dropped: true once every client has its last lines, or did not take them in time. No `Gone` is posted: who
    /// drops the server forgets its clients.
    fn ended(&mut self, end: Instant) -> bool {
        if Instant::now() < end && self.clients.values().any(|client| client.interest == EventFlags::OUT) {
            return false;
        }
        for client in self.clients.values() {
            client.outbox.end();
        }
        true
    }
}

impl Client {
    fn read(&mut self) -> Input {
        let Stage::Reading { bytes, fds } = &mut self.stage else { return Input::Incomplete };
        let mut chunk = [0u8; READ_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REQUEST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut chunk)];
        let taken = match rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Input::Incomplete,
            Err(_) => return Input::Broken,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                // Dropping what is beyond the bound closes it.
                for fd in received {
                    if fds.len() < MAX_REQUEST_FDS {
                        fds.push(fd);
                    }
                }
            }
        }
        let fresh = chunk.get(..taken).unwrap_or_default();
        let line_end = fresh.iter().position(|byte| *byte == b'\n');
        bytes.extend_from_slice(fresh.get(..line_end.unwrap_or(taken)).unwrap_or_default());
        if bytes.len() > MAX_REQUEST_BYTES {
            return Input::Refused(format!("the request is longer than {MAX_REQUEST_BYTES} bytes"));
        }
        match (line_end, taken) {
            (Some(_), _) => Input::Complete,
            (None, 0) if bytes.is_empty() => Input::Nothing,
            // The end of input ends the line too: `printf … | nc -NU` needs no newline.
            (None, 0) => Input::Complete,
            (None, _) => Input::Incomplete,
        }
    }

    /// For a client that is not let in: one line if it fits the empty socket, which it does, and the end.
    fn refuse_at_once(&mut self, message: String) {
        self.outbox.push(&Response::Error { message, code: 1 });
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = self.outbox.flush(|bytes| rustix::net::send(&self.socket, bytes, flags));
        self.outbox.end();
    }
}

fn peer_of(socket: BorrowedFd<'_>) -> Option<Peer> {
    // Not rustix: its pid is never 0, but a peer outside our pid namespace has 0.
    let credentials = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    Some(Peer { pid: credentials.pid(), uid: credentials.uid() })
}

/// The version is looked at alone first: another version's request need not parse. serde_json stops at 128 levels of nesting.
pub(super) fn parse_request(line: &[u8]) -> Result<Request, String> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    // It quotes what was sent.
    let not_a_request = |error: serde_json::Error| format!("not a request: {}", one_line(&error.to_string()));
    let Versioned { version } = compact::from_json(line).map_err(not_a_request)?;
    if version != VERSION {
        return Err(format!(
            "the client speaks version {version} of the control protocol, the supervisor version {VERSION}: use the `moored` that it was \
             started with"
        ));
    }
    let hello: Hello = compact::from_json(line).map_err(not_a_request)?;
    Ok(hello.request)
}

fn until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up to a millisecond: epoll_wait(2) counts in those, and waking early would only go round again.
    let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).saturating_add(1);
    Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 }
}

#[cfg(test)]
mod tests;

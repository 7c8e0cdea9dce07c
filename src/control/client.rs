//! The client: one connection, one request, an iterator of answers. Blocking.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::protocol::{Hello, VERSION};
use super::{MAX_REQUEST_BYTES, MAX_REQUEST_FDS, Request, Response, SOCKET_NAME};
use crate::compact;

/// How long a supervisor that is being started again by its keeper is waited for.
pub const RESTART_WAIT: Duration = Duration::from_secs(5);

/// Between two tries.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// No answer is longer: the server queues less.
const MAX_RESPONSE_BYTES: u64 = 16 * 1024 * 1024;

/// Why no supervisor could be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing was ever started there.
    #[error("no supervisor is running for {}: there is no such directory. Start one with `moored up`", .0.display())]
    NoRunDir(PathBuf),
    /// The directory is there, but nobody listens.
    #[error("no supervisor is running for {} ({}: {why}). Start one with `moored up`", .run_dir.display(), .socket.display())]
    NoSupervisor {
        /// As given.
        run_dir: PathBuf,
        /// What was tried.
        socket: PathBuf,
        /// connect(2)'s word.
        why: String,
    },
    /// Not ours to ask.
    #[error("{}: permission denied: need root (or the user that the supervisor runs as)", .0.display())]
    Denied(PathBuf),
    /// Anything else.
    #[error("{}: {source}", .socket.display())]
    Failed {
        /// What was tried.
        socket: PathBuf,
        /// connect(2)'s error.
        source: io::Error,
    },
}

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server would refuse it.
    #[error("the request is longer than {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// More descriptors than the server takes.
    #[error("more than {MAX_REQUEST_FDS} descriptors beside a request")]
    TooManyFds,
    /// Writing the request.
    #[error("sending the request: {0}")]
    Send(#[source] io::Error),
    /// Reading an answer.
    #[error("reading the answer: {0}")]
    Receive(#[source] io::Error),
    /// The line is no [`Response`] that we know.
    #[error("the supervisor's answer is not understood ({0}): is it of another version?")]
    NotUnderstood(#[source] serde_json::Error),
}

/// A connection on which nothing was asked yet.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the supervisor of a run directory. If it is only being restarted (its keeper's socket is there), waits up to
    /// [`RESTART_WAIT`] for it.
    pub fn connect(run_dir: &Path) -> Result<Client, ConnectError> {
        let give_up = Instant::now() + RESTART_WAIT;
        loop {
            let error = match Self::connect_once(run_dir) {
                Err(error @ ConnectError::NoSupervisor { .. }) => error,
                done => return done,
            };
            if !keeper_lives(run_dir) || Instant::now() >= give_up {
                return Err(error);
            }
            std::thread::sleep(RETRY_EVERY);
        }
    }

    /// One try.
    pub fn connect_once(run_dir: &Path) -> Result<Client, ConnectError> {
        let socket = run_dir.join(SOCKET_NAME);
        match super::socket::connect(&socket) {
            Ok(fd) => Ok(Client { stream: UnixStream::from(fd) }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound if !run_dir.exists() => ConnectError::NoRunDir(run_dir.into()),
                io::ErrorKind::NotFound => {
                    ConnectError::NoSupervisor { run_dir: run_dir.into(), socket, why: "no such file".into() }
                }
                io::ErrorKind::ConnectionRefused => {
                    ConnectError::NoSupervisor { run_dir: run_dir.into(), socket, why: "connection refused".into() }
                }
                io::ErrorKind::PermissionDenied => ConnectError::Denied(socket),
                _ => ConnectError::Failed { socket, source: error },
            }),
        }
    }

    /// Sends a request, with descriptors beside it, and returns its answers.
    pub fn call(self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Responses, CallError> {
        let hello = Hello { version: VERSION, request: request.clone() };
        let mut line = serde_json::to_vec(&hello).map_err(|error| CallError::Send(error.into()))?;
        if line.len() > MAX_REQUEST_BYTES {
            return Err(CallError::TooLong);
        }
        line.push(b'\n');
        match send_with_fds(&self.stream, &line, fds)? {
            Ok(()) => {}
            // Refused on accept: the reason is waiting to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(CallError::Send(error)),
        }
        Ok(Responses { reader: BufReader::new(self.stream), any: false, done: false })
    }
}

fn send_with_fds(mut stream: &UnixStream, line: &[u8], fds: &[BorrowedFd<'_>]) -> Result<io::Result<()>, CallError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REQUEST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MAX_REQUEST_FDS || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(CallError::TooManyFds);
    }
    // The descriptors travel with the first bytes; a stream socket may take the rest in parts.
    let sent = match rustix::net::sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL) {
        Ok(sent) => sent,
        Err(error) => return Ok(Err(error.into())),
    };
    Ok(stream.write_all(line.get(sent..).unwrap_or_default()))
}

/// Whether the run directory has a keeper, which starts a dead supervisor again. Its socket file outlives it, so /proc/net/unix is asked
/// whether somebody listens: connecting would tell too, but the keeper would take that for a supervisor. Where the table cannot be
/// read, the file's existence has to do.
fn keeper_lives(run_dir: &Path) -> bool {
    let path = run_dir.join("keeper.sock");
    let bound_at = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
    match std::fs::read_to_string("/proc/net/unix") {
        Ok(table) => table.lines().any(|line| is_listening(line) && line.ends_with(&*bound_at.to_string_lossy())),
        Err(_) => path.exists(),
    }
}

/// `Num RefCount Protocol Flags Type St Inode Path`: Flags holds __SO_ACCEPTCON (0x10000).
fn is_listening(line: &str) -> bool {
    line.split_whitespace().nth(3) == Some("00010000")
}

/// The answers to one request, until the server closes. An `Error` response is an item like any other.
#[derive(Debug)]
pub struct Responses {
    reader: BufReader<UnixStream>,
    any: bool,
    done: bool,
}

impl Responses {
    /// True when an answer, or part of one, is already read into memory: poll(2) on the socket would not tell.
    pub fn is_buffered(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    fn read(&mut self) -> Option<Result<Response, CallError>> {
        let mut line = Vec::new();
        match (&mut self.reader).take(MAX_RESPONSE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => {}
            // The server closed with bytes of ours unread; what it said before was read first.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && self.any => return None,
            Err(error) => return Some(Err(CallError::Receive(error))),
        }
        if line.last() != Some(&b'\n') {
            return Some(Err(CallError::Receive(io::ErrorKind::UnexpectedEof.into())));
        }
        self.any = true;
        Some(compact::from_json(&line).map_err(CallError::NotUnderstood))
    }
}

impl AsFd for Responses {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.get_ref().as_fd()
    }
}

impl Iterator for Responses {
    type Item = Result<Response, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.read();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

//! One probe under way: a connection, an answer, a program's output. Each step is taken when epoll says that it can be; none of them waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use super::{Found, Subject};
use crate::unit::From;

/// A status line is far shorter.
const LINE_MAX: usize = 512;

/// Of a program's output the end is kept.
const OUTPUT_MAX: usize = 256;

/// The network namespace in which this process is.
pub struct Home(OwnedFd);

/// What is waited for.
pub enum Asking {
    /// For a connection.
    Connecting {
        socket: OwnedFd,
        address: SocketAddr,
        /// Tried when this one refuses.
        others: Vec<SocketAddr>,
        /// Of the first that refused.
        refused: Option<String>,
        /// To be sent; without one the connection is all.
        request: Option<Vec<u8>>,
    },
    /// For the first line of an answer.
    Reading { socket: OwnedFd, line: Vec<u8> },
    /// For a program: the read end of what it prints, until it has closed that.
    Program { output: Option<OwnedFd>, tail: Vec<u8> },
    /// For a thread.
    Elsewhere,
}

/// How a probe goes on.
pub enum Step {
    /// The same descriptor is waited for.
    Same(Asking),
    /// Another one is, or for something else.
    Next(Asking),
    /// It is over.
    Answered(Found),
}

/// A GET, HTTP/1.1.
pub fn request(host: &str, path: &str) -> Vec<u8> {
    let agent = concat!("moored/", env!("CARGO_PKG_VERSION"));
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// For a program: where it prints to, and the wait for it.
pub fn output() -> Result<(OwnedFd, Asking), String> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (read, write) = rustix::pipe::pipe_with(flags).map_err(|errno| format!("making a pipe: {errno}"))?;
    // Only our end: the program's is an ordinary one.
    rustix::io::ioctl_fionbio(&read, true).map_err(|errno| format!("making a pipe: {errno}"))?;
    Ok((write, Asking::Program { output: Some(read), tail: Vec::new() }))
}

impl Home {
    /// The one this thread is in.
    pub fn here() -> io::Result<Home> {
        let path = "/proc/thread-self/ns/net";
        Ok(Home(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Begins to connect to the first of these.
    pub fn connect(
        &self,
        subject: &Subject,
        from: From,
        addresses: &[SocketAddr],
        request: Option<Vec<u8>>,
    ) -> Result<Asking, String> {
        let [address, others @ ..] = addresses else { return Err("no address".to_owned()) };
        self.connect_to(subject, from, *address, others.to_vec(), None, request)
    }

    fn connect_to(
        &self,
        subject: &Subject,
        from: From,
        address: SocketAddr,
        others: Vec<SocketAddr>,
        refused: Option<String>,
        request: Option<Vec<u8>>,
    ) -> Result<Asking, String> {
        let socket = match from {
            From::Host => socket(address),
            From::Container => self.inside(subject.pidfd.as_fd(), || socket(address))?,
        };
        let socket = socket.map_err(|errno| format!("making a socket: {errno}"))?;
        // A failure that comes at once is found on the socket like a later one, or again by its error.
        let refused_at_once = match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => None,
            Err(errno) => Some(refusal(address, errno)),
        };
        match (refused_at_once, others.split_first()) {
            (None, _) => Ok(Asking::Connecting { socket, address, others, refused, request }),
            (Some(text), Some((next, rest))) => {
                self.connect_to(subject, from, *next, rest.to_vec(), refused.or(Some(text)), request)
            }
            // Told by the next step, as if it had come then.
            (Some(text), None) => {
                let refused = refused.or(Some(text));
                Ok(Asking::Connecting { socket, address, others, refused, request })
            }
        }
    }

    /// Does something in the network namespace of a process. A thread that cannot come back must not go on.
    fn inside<T>(&self, pidfd: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T, String> {
        enter(pidfd).map_err(|errno| format!("entering its network namespace: {errno}"))?;
        let done = work();
        if let Err(errno) = rustix::thread::move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
        {
            tracing::error!("coming back from a network namespace: {errno}: the supervisor starts anew");
            std::process::exit(1);
        }
        Ok(done)
    }
}

fn enter(pidfd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::thread::move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::NETWORK)
}

fn socket(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None)
}

fn refusal(address: SocketAddr, errno: Errno) -> String {
    let error = io::Error::from(errno).to_string();
    let words = error.split(" (os error").next().unwrap_or_default().to_lowercase();
    format!("connecting to {address}: {words}")
}

impl Asking {
    /// Not over when it is given up.
    pub fn is_elsewhere(&self) -> bool {
        match self {
            Asking::Program { .. } | Asking::Elsewhere => true,
            Asking::Connecting { .. } | Asking::Reading { .. } => false,
        }
    }

    /// What epoll is to wait for.
    pub fn awaits(&self) -> Option<(BorrowedFd<'_>, EventFlags)> {
        match self {
            Asking::Connecting { socket, .. } => Some((socket.as_fd(), EventFlags::OUT)),
            Asking::Reading { socket, .. } => Some((socket.as_fd(), EventFlags::IN)),
            Asking::Program { output, .. } => output.as_ref().map(|output| (output.as_fd(), EventFlags::IN)),
            Asking::Elsewhere => None,
        }
    }

    /// The descriptor is ready.
    pub fn go_on(self, home: &Home, subject: &Subject, from: From) -> Step {
        match self {
            Asking::Connecting { socket, address, others, refused, request } => {
                let refused = match rustix::net::sockopt::socket_error(&socket) {
                    Ok(Ok(())) if is_connected(&socket) => return connected(socket, request),
                    // It was refused at once, and that is known.
                    Ok(Ok(())) => refused.unwrap_or_else(|| refusal(address, Errno::NOTCONN)),
                    Ok(Err(errno)) | Err(errno) => refused.unwrap_or_else(|| refusal(address, errno)),
                };
                match others.split_first() {
                    None => Step::Answered(Found::Sick(refused)),
                    Some((next, rest)) => {
                        match home.connect_to(subject, from, *next, rest.to_vec(), Some(refused), request) {
                            Ok(asking) => Step::Next(asking),
                            Err(text) => Step::Answered(Found::Fault(text)),
                        }
                    }
                }
            }
            Asking::Reading { socket, line } => reading(socket, line),
            Asking::Program { output, tail } => Step::Same(Asking::Program { output, tail }.drained()),
            Asking::Elsewhere => Step::Same(Asking::Elsewhere),
        }
    }

    /// Takes what a program printed, so that it does not wait for us.
    pub fn drained(self) -> Asking {
        let Asking::Program { output: Some(output), mut tail } = self else { return self };
        let mut bytes = [0u8; 4096];
        loop {
            match rustix::io::read(&output, &mut bytes) {
                Ok(0) => return Asking::Program { output: None, tail },
                Ok(length) => {
                    tail.extend_from_slice(bytes.get(..length).unwrap_or_default());
                    tail.drain(..tail.len().saturating_sub(OUTPUT_MAX));
                }
                Err(Errno::INTR) => {}
                Err(_) => return Asking::Program { output: Some(output), tail },
            }
        }
    }

    /// What was found, with what the program had to say about it.
    pub fn with_output(self, found: Found) -> Found {
        match (self.drained(), found) {
            (Asking::Program { tail, .. }, Found::Sick(text)) => {
                let said = String::from_utf8_lossy(&tail);
                let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
                Found::Sick(last.map_or(text.clone(), |last| format!("{text}: {last}")))
            }
            (_, found) => found,
        }
    }
}

fn is_connected(socket: &OwnedFd) -> bool {
    rustix::net::getpeername(socket).is_ok()
}

/// The request is smaller than any socket's buffer, and the buffer is empty.
fn connected(socket: OwnedFd, request: Option<Vec<u8>>) -> Step {
    let Some(request) = request else { return Step::Answered(Found::Well) };
    match rustix::net::send(&socket, &request, rustix::net::SendFlags::NOSIGNAL) {
        Ok(sent) if sent == request.len() => Step::Next(Asking::Reading { socket, line: Vec::new() }),
        Ok(_) => Step::Answered(Found::Fault("the request was cut".to_owned())),
        Err(errno) => Step::Answered(Found::Sick(format!("sending the request: {errno}"))),
    }
}

fn reading(socket: OwnedFd, mut line: Vec<u8>) -> Step {
    let mut bytes = [0u8; LINE_MAX];
    let ended = match rustix::io::read(&socket, &mut bytes) {
        Ok(0) => true,
        Ok(length) => {
            line.extend_from_slice(bytes.get(..length).unwrap_or_default());
            false
        }
        Err(Errno::AGAIN | Errno::INTR) => false,
        Err(errno) => return Step::Answered(Found::Sick(format!("reading the answer: {errno}"))),
    };
    match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => Step::Answered(status(line.get(..end).unwrap_or_default())),
        None if ended && line.is_empty() => Step::Answered(Found::Sick("closed without an answer".to_owned())),
        None if ended || line.len() >= LINE_MAX => Step::Answered(status(&line)),
        None => Step::Same(Asking::Reading { socket, line }),
    }
}

/// `HTTP/1.1 200 OK` (RFC 9112, 4).
fn status(line: &[u8]) -> Found {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let version = words.next().filter(|version| version.starts_with("HTTP/1."));
    let code = words.next().filter(|code| code.len() == 3).and_then(|code| code.parse::<u16>().ok());
    match version.and(code) {
        Some(200..=399) => Found::Well,
        Some(code) => Found::Sick(format!("status {code}")),
        None => Found::Sick("the answer is not HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK\r", Found::Well),
            ("HTTP/1.0 399", Found::Well),
            ("HTTP/1.1 400 Bad Request", Found::Sick("status 400".to_owned())),
            ("HTTP/1.1 503\r", Found::Sick("status 503".to_owned())),
            ("HTTP/2 200", Found::Sick("the answer is not HTTP".to_owned())),
            ("SSH-2.0-x 200", Found::Sick("the answer is not HTTP".to_owned())),
            ("HTTP/1.1 2000", Found::Sick("the answer is not HTTP".to_owned())),
            ("", Found::Sick("the answer is not HTTP".to_owned())),
        ] {
            assert_eq!(status(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn what_a_program_said_last_is_told() {
        let (write, asking) = output().unwrap();
        rustix::io::write(&write, b"trying\nno such table\n\n").unwrap();
        drop(write);
        let found = asking.with_output(Found::Sick("code 1".to_owned()));
        assert_eq!(found, Found::Sick("code 1: no such table".to_owned()));
        let (_write, asking) = output().unwrap();
        assert_eq!(asking.with_output(Found::Well), Found::Well);
    }
}

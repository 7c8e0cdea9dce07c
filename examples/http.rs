//! A small HTTP/1.1 server: one page, on port 8080 or that of the first argument, or on the sockets that it is passed (sd_listen_fds(3)).
//! `http get [PORT]` asks it for the page.
//!
//! A thread per connection, at most [`CONNECTIONS_MAX`]; requests of at most [`REQUEST_MAX_BYTES`] that arrive within [`PATIENCE`]; one answer,
//! then the connection is closed.
//!
//! It is made to be restarted and updated start-first: its own port may be another one's too (SO_REUSEPORT, socket(7); the kernel gives each
//! connection to one of them), READY=1 is said when it listens, and TERM has it answer what it has, and then end. What waits at its own port it
//! takes first; what waits in the backlog of a socket that it was passed is for who comes next.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, bind, listen, socket, sockopt};

const PORT: u16 = 8080;
const CONNECTIONS_MAX: usize = 64;
const REQUEST_MAX_BYTES: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// accept fails while descriptors are short: then not at full speed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const STACK_BYTES: usize = 64 * 1024;

#[derive(Default)]
struct Counters {
    served: AtomicU64,
    open: AtomicUsize,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let get = arguments.next_if_eq("get").is_some();
    let port = match arguments.next().map(|text| text.parse()) {
        None => PORT,
        Some(Ok(port)) => port,
        Some(Err(error)) => return fail("the port", error),
    };
    if get {
        return ask(port).map_or_else(|error| fail(&format!("port {port}"), error), |()| ExitCode::SUCCESS);
    }
    let listeners = passed();
    if !listeners.is_empty() {
        return serve_until_stopped(listeners, false)
            .map_or_else(|error| fail("serving", error), |()| ExitCode::SUCCESS);
    }
    let served = bound(port).and_then(|listener| serve_until_stopped(vec![listener], true));
    served.map_or_else(|error| fail(&format!("port {port}"), error), |()| ExitCode::SUCCESS)
}

/// LISTEN_FDS sockets from descriptor 3 on, if they are for this process.
fn passed() -> Vec<OwnedFd> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    let fds: Vec<OwnedFd> = (3..3 + count as i32).filter_map(moored::sys::fd::inherited).collect();
    say(&format!("listening on {} sockets", fds.len()));
    fds
}

/// Both families where there are two, else IPv4.
fn bound(port: u16) -> io::Result<OwnedFd> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = listen_at(both).or_else(|_| listen_at(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
    say(&format!("listening on port {port}"));
    Ok(listener)
}

fn listen_at(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// sd_notify(3), where somebody wants to know.
fn ready() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    UnixDatagram::unbound()?.send_to(b"READY=1", path).map(drop)
}

/// Until SIGTERM. `is_own`: nobody else accepts there when this one has ended.
fn serve_until_stopped(listeners: Vec<OwnedFd>, is_own: bool) -> io::Result<()> {
    // Before there are threads: it is blocked in all of them.
    let stop = SigSet::from(Signal::SIGTERM);
    stop.thread_block()?;
    let stop = SignalFd::new(&stop)?;
    // Another process may have the socket too, and be the faster one.
    listeners.iter().try_for_each(|listener| rustix::io::ioctl_fionbio(listener, true))?;
    ready()?;
    let counters = Arc::new(Counters::default());
    loop {
        let fds = std::iter::once(stop.as_fd()).chain(listeners.iter().map(AsFd::as_fd));
        let mut polls: Vec<PollFd> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut polls, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_stopped = !polls[0].revents().is_empty();
        if !is_stopped || is_own {
            listeners.iter().for_each(|listener| accept_all(listener, &counters));
        }
        if is_stopped {
            break;
        }
    }
    // What the kernel has put into the queue of its own port since is reset: a moment, which no program can avoid but by
    // net.ipv4.tcp_migrate_req.
    drop(listeners);
    let deadline = Instant::now() + PATIENCE;
    while counters.open.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn accept_all(listener: &OwnedFd, counters: &Arc<Counters>) {
    loop {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            // Of whatever family it is: what is done with it is the same.
            Ok(stream) => accept(TcpStream::from(stream), counters),
            Err(Errno::AGAIN) => return,
            Err(_) => return std::thread::sleep(ACCEPT_PAUSE),
        }
    }
}

/// For machines without curl.
fn ask(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.take(REQUEST_MAX_BYTES as u64).read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    io::stdout().write_all(body.as_bytes())
}

fn fail(what: &str, error: impl std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "{what}: {error}");
    ExitCode::FAILURE
}

/// Not println!, which panics when nobody listens.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn accept(stream: TcpStream, counters: &Arc<Counters>) {
    let counters = Arc::clone(counters);
    if counters.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
        counters.open.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let connection = {
        let counters = Arc::clone(&counters);
        move || {
            let _ = serve(stream, &counters);
            counters.open.fetch_sub(1, Ordering::Release);
        }
    };
    if std::thread::Builder::new().stack_size(STACK_BYTES).spawn(connection).is_err() {
        counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve(mut stream: TcpStream, counters: &Counters) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let (status, body) = match read_head(&mut stream)? {
        None => ("431 Request Header Fields Too Large", "that is too much\n".to_owned()),
        Some(head) => answer(&head, counters),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// Everything up to the empty line; `None` if that is too long. Slow senders are cut off as a whole, not per byte.
fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && !head.windows(2).any(|end| end == b"\n\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..read]);
        if head.len() > REQUEST_MAX_BYTES {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

fn answer(head: &[u8], counters: &Counters) -> (&'static str, String) {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("GET"), Some(path), Some(version)) if version.starts_with("HTTP/1.") => {
            say(&format!("GET {}", path.escape_default()));
            page(path, counters)
        }
        (Some(_), Some(_), Some(version)) if version.starts_with("HTTP/1.") => {
            ("405 Method Not Allowed", "GET only\n".into())
        }
        _ => ("400 Bad Request", "that is not HTTP/1.1\n".into()),
    }
}

fn page(path: &str, counters: &Counters) -> (&'static str, String) {
    if path != "/" {
        return ("404 Not Found", "there is one page: /\n".into());
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let served = counters.served.fetch_add(1, Ordering::Relaxed) + 1;
    ("200 OK", format!("hello from {}, page {served} of process {}\n", host.trim(), std::process::id()))
}

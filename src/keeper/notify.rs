//! What containers say over their notify sockets, by sd_notify(3): read here, told to the supervisor.
//!
//! A unit with `notify` has a datagram socket, bound by the supervisor and held at [`HELD_NOTIFY`](super::HELD_NOTIFY). Its queue is short
//! (`net.unix.max_dgram_qlen` is 10), and whoever sends to a full one waits, usually in the middle of its work. So somebody who is always there
//! must read it, and the keeper is the only one who does, whether a supervisor lives or not.
//!
//! # Rules
//!
//! - Of each kind of message only the newest is kept, with the time at which it was read, in the order in which they came. That is bounded, and
//!   never old: a supervisor that comes back is told all of it, as it is told of every child, and nothing that was said meanwhile is lost.
//! - Asked for (`Hear`), it is all that was sent before: the socket is read once more, if it does not rest.
//! - The keeper does not know what they mean. Kinds that nobody asks about are dropped here (MAINPID=, FDSTORE=1, MONOTONIC_USEC=, BARRIER=1 …).
//! - Descriptors that come along are never taken: without room for them the kernel closes them, by which sd_notify_barrier(3) knows that its
//!   message was read.
//! - A keeper that took over from a dead one says so first ([`UNHEARD`], which no container can say): what that one had read, and not told, is lost.
//! - Who talks much is read little: after [`BURST`] messages a socket rests for [`REST_NS`], and its senders wait.
//! - Who sends is not asked: only the container can reach its socket, and in a container the one who knows that all is ready is often not
//!   process 1 (systemd's `NotifyAccess=all`).

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::HELD_NOTIFY;
use super::child::Child;
use super::run::{Keeper, now_ns};
use super::wire::Line;

/// Longest message that is read: systemd's NOTIFY_BUFFER_MAX, which is PIPE_BUF. A longer one is dropped.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Longest STATUS=, in bytes; the rest is cut. Other lines are numbers, and dropped if they are longer than [`NUMBER_BYTES_MAX`].
const STATUS_BYTES_MAX: usize = 512;
/// Name and 64 bits in decimal.
const NUMBER_BYTES_MAX: usize = 48;
/// Most messages read from one socket without a rest.
const BURST: usize = 32;
/// The rest: a container that sends without end costs ten wake-ups a second.
const REST_NS: u64 = 100_000_000;

/// Lines with a value of their own; every one is a kind.
const WORDS: [&[u8]; 5] = [b"READY=1", b"RELOADING=1", b"STOPPING=1", b"WATCHDOG=1", b"WATCHDOG=trigger"];
/// Lines with any value.
const NAMES: [&[u8]; 4] = [STATUS, b"ERRNO=", b"EXTEND_TIMEOUT_USEC=", b"WATCHDOG_USEC="];
const STATUS: &[u8] = b"STATUS=";

/// A line of the keeper's own: the container may have said what nobody remembers.
const UNHEARD: &str = "UNHEARD=1";

/// What one container has said.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub lines: Vec<Line>,
    pub untold: bool,
    /// To be told even if it is nothing new.
    pub asked: bool,
    /// Its socket rests until then.
    pub rests_until_ns: u64,
}

impl Said {
    /// Of a child that a dead keeper listened to.
    pub fn taken_over(at_ns: u64) -> Said {
        Said { lines: vec![Line { text: UNHEARD.to_owned(), at_ns }], untold: true, ..Said::default() }
    }

    /// Takes in one message.
    pub(super) fn take(&mut self, message: &[u8], at_ns: u64) {
        for line in message.split(|byte| *byte == b'\n') {
            let Some((kind, line)) = known(line) else { continue };
            self.lines.retain(|earlier| known(earlier.text.as_bytes()).is_none_or(|(other, _)| other != kind));
            self.lines.push(Line { text: String::from_utf8_lossy(line).into_owned(), at_ns });
            self.untold = true;
        }
    }

    /// When its socket is to be read again, if it rests.
    fn rests_until(&self, now_ns: u64) -> Option<u64> {
        Some(self.rests_until_ns).filter(|until| *until > now_ns)
    }
}

/// The kind of a line, and as much of it as is kept.
fn known(line: &[u8]) -> Option<(&'static [u8], &[u8])> {
    if let Some(word) = WORDS.into_iter().find(|word| *word == line) {
        return Some((word, line));
    }
    let name = NAMES.into_iter().find(|name| line.starts_with(name))?;
    match name == STATUS {
        true => Some((name, line.get(..STATUS_BYTES_MAX).unwrap_or(line))),
        // A number is ASCII. What is not would be kept as a longer text than it was, which would not be known for what it is again.
        false => Some((name, line)).filter(|(_, line)| line.len() <= NUMBER_BYTES_MAX && line.is_ascii()),
    }
}

impl Child {
    /// The socket to read, unless it rests.
    pub fn notify_socket(&self, now_ns: u64) -> Option<BorrowedFd<'_>> {
        let socket = self.held.get(HELD_NOTIFY)?.as_ref().filter(|_| self.is_running())?;
        self.said.rests_until(now_ns).is_none().then_some(socket.as_fd())
    }

    /// All that it has said is to be told, what is still in its queue too.
    pub fn ask(&mut self) {
        self.hear();
        self.said.asked = true;
    }

    fn hear(&mut self) {
        let now = now_ns();
        let mut message = [0_u8; MESSAGE_BYTES_MAX + 1];
        for _ in 0..BURST {
            let Some(socket) = self.notify_socket(now) else { return };
            match rustix::net::recv(socket, &mut message, RecvFlags::DONTWAIT) {
                Ok((read, _)) if read <= MESSAGE_BYTES_MAX => {
                    self.said.take(message.get(..read).unwrap_or_default(), now_ns());
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // What it is would be there at the next look too.
                Err(_) => break,
            }
        }
        self.said.rests_until_ns = now.saturating_add(REST_NS);
    }
}

impl Keeper<'_> {
    /// Reads what these children, by their places, have to say.
    pub(super) fn hear(&mut self, places: &[usize]) {
        for place in places {
            if let Some(child) = self.children.get_mut(*place) {
                child.hear();
            }
        }
    }

    /// When the first socket that rests is to be read again.
    pub(super) fn next_hearing(&self, now_ns: u64) -> Option<u64> {
        self.children.iter().filter(|child| child.is_running()).filter_map(|child| child.said.rests_until(now_ns)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(said: &Said) -> Vec<&str> {
        said.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn the_newest_of_each_kind_stays_in_order() {
        let mut said = Said::default();
        said.take(b"READY=1\nSTATUS=up\nMAINPID=7\n", 1);
        said.take(b"WATCHDOG=1", 2);
        said.take(b"RELOADING=1\nMONOTONIC_USEC=5", 3);
        said.take(b"STATUS=again", 4);
        said.take(b"READY=1", 5);
        said.take(b"WATCHDOG=trigger\nWATCHDOG=1", 6);
        let expected = ["RELOADING=1", "STATUS=again", "READY=1", "WATCHDOG=trigger", "WATCHDOG=1"];
        assert_eq!(texts(&said), expected);
        assert_eq!(said.lines.iter().map(|line| line.at_ns).collect::<Vec<_>>(), [3, 4, 5, 6, 6]);
    }

    #[test]
    fn what_nobody_asks_about_is_no_news() {
        let mut said = Said::default();
        for message in
            [&b""[..], b"\n\n", b"FDSTORE=1", b"READY=0", b"READY", b"ready=1", b" READY=1", b"\0READY=1", b"UNHEARD=1"]
        {
            said.take(message, 1);
        }
        assert!(said.lines.is_empty() && !said.untold);
    }

    #[test]
    fn any_bytes_leave_little() {
        let mut said = Said::default();
        let long = [b"STATUS=".as_slice(), &[0xff; 4000]].concat();
        said.take(&long, 1);
        said.take(&[b"ERRNO=".as_slice(), &[b'1'; 4000]].concat(), 1);
        said.take("STATUS=grün\u{1b}[31m".as_bytes(), 2);
        assert_eq!(texts(&said), ["STATUS=grün\u{1b}[31m"]);
        said.take(&long, 3);
        assert!(said.lines.len() == 1 && said.lines[0].text.len() < 2048, "{}", said.lines[0].text.len());
        for byte in 0..=255_u8 {
            said.take(&[byte; 300], 4);
            // Short enough as bytes, and longer as text.
            said.take(&[b"ERRNO=".as_slice(), &[byte; 42]].concat(), 4);
        }
        assert_eq!(said.lines.len(), 2, "the newest of each kind");
    }
}

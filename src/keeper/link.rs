//! One connection: who it is, and what it is still to be told besides children, names and orphans.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::packet::{self, Packet};
use super::wire::{Message, Refusal, Role, encode};

/// How sending went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way.
    Yes,
    /// The peer does not read: go on when the socket is writable.
    Full,
    /// The system lacks something for a moment: try again later.
    Starved,
    /// The peer is gone.
    Gone,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub socket: OwnedFd,
    /// The peer when it connected.
    pub peer: i32,
    /// Known after `Hello`.
    pub role: Option<Role>,
    /// Full at the last try.
    pub blocked: bool,
    /// Not to be told anything any more; what it sent before it went is still to be read.
    pub deaf: bool,
    /// To be dropped.
    pub closed: bool,
    pub welcome: bool,
    pub synced: bool,
    pub stop: bool,
    pub stats: bool,
    /// Which builds run is to be told.
    pub builds: bool,
    /// The program that runs here is to be given to it.
    pub replace: bool,
    /// What it said of itself.
    pub build: Option<String>,
    /// It asked for the upgrade that is under way.
    pub upgrades: bool,
    /// While there is one, no further request is read: so one place is enough.
    pub refusal: Option<Refusal>,
    /// Said last, then the connection ends.
    pub last: Option<Message>,
}

impl Link {
    pub fn new(socket: OwnedFd, peer: i32) -> Self {
        Link {
            socket,
            peer,
            role: None,
            blocked: false,
            deaf: false,
            closed: false,
            welcome: false,
            synced: false,
            stop: false,
            stats: false,
            builds: false,
            replace: false,
            build: None,
            upgrades: false,
            refusal: None,
            last: None,
        }
    }

    pub fn is(&self, role: Role) -> bool {
        self.role == Some(role) && !self.closed && self.last.is_none()
    }

    /// Whether requests are to be read now.
    pub fn listens(&self) -> bool {
        !self.closed && self.refusal.is_none() && self.last.is_none()
    }

    /// The next packet; `None` when there is none now. Marks the link closed when there will be none any more, which also
    /// meets a peer that breaks the protocol.
    pub fn receive(&mut self) -> Option<Packet> {
        match packet::receive(self.socket.as_fd(), RecvFlags::DONTWAIT) {
            Ok(Some(packet)) => Some(packet),
            Err(Errno::AGAIN) => None,
            Ok(None) | Err(_) => {
                self.closed = true;
                None
            }
        }
    }

    /// Sends without waiting.
    pub fn send(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> Sent {
        let Ok(bytes) = encode(message) else {
            // Bounds at the entrance keep every message below the limit.
            self.closed = true;
            return Sent::Gone;
        };
        match packet::send(self.socket.as_fd(), &bytes, fds, SendFlags::DONTWAIT) {
            Ok(()) => Sent::Yes,
            Err(Errno::AGAIN) => {
                self.blocked = true;
                Sent::Full
            }
            Err(Errno::TOOMANYREFS | Errno::NOMEM | Errno::NOBUFS | Errno::MFILE | Errno::NFILE) => Sent::Starved,
            Err(_) => {
                self.deaf = true;
                self.refusal = None;
                Sent::Gone
            }
        }
    }
}

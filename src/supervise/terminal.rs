//! Terminals of containers (`process.terminal`, `terminal` of a config.json), and who is attached to them.
//!
//! The container makes its pty itself, in its own devpts, as with `moored oci run`, and sends the master through one end of a pair of
//! sockets. It is never taken out of the other end, the *line*: whoever needs it looks at the message (`MSG_PEEK` gives copies of its
//! descriptors too). So who holds the line holds the master, from the moment it was sent, and there is no moment between receiving and
//! holding in which a death hangs up the terminal.
//!
//! | who | has | for |
//! |---|---|---|
//! | supervisor, keeper, anchor (`keeper::spares`) | the line | the next one that needs the master |
//! | the log's thread | the master | what the program writes: it goes on into the FIFO of its standard output, and from there as ever |
//! | the hands | the master | who attaches |
//! | `moored attach` | the master | what is typed, and the window's size. Its output comes from the log: it takes no byte from it |
//!
//! Only the log's thread reads the master. From there to the FIFO bytes go by `splice(2)`, so none is in this process' memory when it dies:
//! it is in the terminal, in the FIFO, which the keeper holds, or in the log. While no supervisor reads it the terminal fills up, and a
//! program that writes waits, as it does with a full pipe.
//!
//! # States of one
//!
//! | state | entered | then |
//! |---|---|---|
//! | awaited | the container is started or met again | the line is readable: open. It is hung up: the setup failed, there is none |
//! | open | the master is there: the log's thread and whoever is attached have it | the container is cleared away |
//!
//! An end is not seen by the master: when nobody has the terminal open it says EIO, but somebody may open it again (`/dev/console`). It is
//! the container's end, behind which the log's thread takes what is left.
//!
//! # Who is attached
//!
//! [`Request::Terminal`](crate::control::Request::Terminal) brings one end of a pair of sockets, on which a master is sent whenever there is
//! one: the present one, and that of each further container of the unit. The loop tells them when there will be none. Nothing of what they
//! do passes through here, so this supervisor's death does not stop their typing; they come again to the next one.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket_with, socketpair,
};

use super::fifo;
use super::hands::{Hands, Watched};
use super::mail::Mail;
use crate::control::{ClientId, Reply, Response};
use crate::keeper;
use crate::unit::{ContainerId, UnitName};

/// Most that are attached at a time: each costs two descriptors.
const ATTACHED_MAX: usize = 256;
/// Longer than the name of any terminal.
const NAME_BYTES: usize = 256;

/// Of one container.
pub(super) struct Terminal {
    /// In its queue lies the master, once it was sent.
    line: OwnedFd,
    /// While it is awaited.
    token: Option<u64>,
    master: Option<OwnedFd>,
}

/// One that is attached.
pub(super) struct Attached {
    unit: UnitName,
    to: OwnedFd,
    reply: Reply,
}

/// Somebody attaches.
pub struct AttachJob {
    /// To which unit.
    pub unit: UnitName,
    /// Its container, if it has one.
    pub container: Option<ContainerId>,
    /// On the first of them the master is sent.
    pub fds: Vec<OwnedFd>,
    /// Where he hears of ends.
    pub reply: Reply,
}

/// The ends of a container that has a terminal: the line, and what its console's slot gets.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), String> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| format!("making a pair of sockets: {errno}"))
}

/// Stands where the notify socket of a container would, if it has none and the line comes behind it: a socket that nobody can reach.
pub(super) fn nobody() -> Result<OwnedFd, String> {
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| format!("making a socket: {errno}"))
}

/// A copy of the master in a line's queue. `None`: there is none, and there will be none.
fn peek(line: BorrowedFd<'_>) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0_u8; NAME_BYTES];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(line, &mut [std::io::IoSliceMut::new(&mut name)], &mut control, flags)?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match fds.last() {
        // The message is there, and this process has no room for a descriptor.
        None if got.bytes > 0 => Err(Errno::MFILE),
        found => Ok(found),
    }
}

fn send(to: BorrowedFd<'_>, master: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let fds = [master];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(to, &[IoSlice::new(b"terminal")], &mut control, flags).map(drop)
}

impl Hands {
    /// Waits for the master of a container's terminal.
    pub(super) fn await_terminal(&mut self, id: &ContainerId, line: OwnedFd) -> Terminal {
        let (token, line) = self.watch(line, EventFlags::IN, Watched::Terminal(id.clone()));
        Terminal { line, token: Some(token), master: None }
    }

    /// An anchor in its keeper's place has the line of this container; `false`: that is no terminal's name.
    pub(super) fn spare_terminal(&mut self, name: &str, line: OwnedFd) -> bool {
        let Some(id) = keeper::spares::owner_of(name).and_then(ContainerId::parse) else { return false };
        self.spare_terminals.insert(id, line);
        true
    }

    /// The master is there, or there will be none; nothing happens where it is known already.
    pub(super) fn take_terminal(&mut self, id: &ContainerId) {
        let is_awaited = |terminal: &mut Terminal| terminal.master.is_none();
        let Some(mut terminal) = self.handles.get_mut(id).and_then(|handle| handle.terminal.take_if(is_awaited)) else {
            return;
        };
        if let Err(why) = self.look_at_line(id, &mut terminal) {
            // Its program would wait for a reader: the next supervisor tries again.
            self.say(Mail::Orphaned(format!("{id}: its terminal cannot be read: {why}")));
        }
        if let Some(handle) = self.handles.get_mut(id) {
            handle.terminal = Some(terminal);
        }
    }

    fn look_at_line(&mut self, id: &ContainerId, terminal: &mut Terminal) -> Result<(), String> {
        let taken = peek(terminal.line.as_fd());
        if matches!(taken, Err(Errno::AGAIN | Errno::INTR)) {
            return Ok(());
        }
        if let Some(token) = terminal.token.take() {
            // The line is not only ours: closing it would not end the watch.
            self.unwatch(token, &terminal.line);
        }
        if let Some(master) = taken.map_err(|errno| errno.to_string())? {
            self.read_terminal(id, master.as_fd())?;
            self.attached.retain(|one| one.unit != id.unit || one.give(master.as_fd()));
            terminal.master = Some(master);
        }
        Ok(())
    }

    /// What is written there goes into the log from here on.
    fn read_terminal(&self, id: &ContainerId, master: BorrowedFd<'_>) -> Result<(), String> {
        // Whatever its owner made it: nobody who reads it may wait.
        rustix::io::ioctl_fionbio(master, true).map_err(|errno| errno.to_string())?;
        let containers = &self.places.containers;
        let Some((out, _)) = fifo::write_ends(containers, id) else {
            if fifo::directory(containers, id).exists() {
                return Err("its FIFO cannot be opened".to_owned());
            }
            // Somebody has removed it, so nobody after us would find it either.
            tracing::warn!("{id}: its FIFO is gone: what is on its terminal is not in its log");
            return Ok(());
        };
        let copy = master.try_clone_to_owned().map_err(|error| error.to_string())?;
        self.log.read_terminal(id.clone(), copy, out);
        Ok(())
    }

    /// The container is cleared away.
    pub(super) fn terminal_gone(&mut self, id: &ContainerId, terminal: Option<Terminal>) {
        self.spare_terminals.remove(id);
        let Some(Terminal { line, token, .. }) = terminal else { return };
        if let Some(token) = token {
            self.unwatch(token, &line);
        }
    }

    pub(super) fn attach_terminal(&mut self, job: AttachJob) {
        let AttachJob { unit, container, fds, reply } = job;
        let refused = match fds.len() {
            1 if self.attached.len() < ATTACHED_MAX => None,
            1 => Some(format!("{ATTACHED_MAX} are attached to terminals already")),
            found => Some(format!("{found} descriptors came with the request, expected one end of a pair of sockets")),
        };
        if let Some(message) = refused {
            reply.send(&Response::Error { message, code: 1 });
            return;
        }
        let master = container.and_then(|id| self.handles.get(&id)?.terminal.as_ref()?.master.as_ref());
        let new = fds.into_iter().map(|to| Attached { unit: unit.clone(), to, reply: reply.clone() });
        self.attached.extend(new.filter(|one| master.is_none_or(|master| one.give(master.as_fd()))));
    }

    pub(super) fn detach_client(&mut self, client: ClientId) {
        self.attached.retain(|one| one.reply.id() != client);
    }
}

impl Attached {
    /// `false`: he does not read, or is gone. One who comes again is given it.
    fn give(&self, master: BorrowedFd<'_>) -> bool {
        let given = send(self.to.as_fd(), master).is_ok();
        if !given {
            self.reply.close();
        }
        given
    }
}

impl Terminal {
    /// For a keeper that has it not.
    pub(super) fn line(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_can_be_looked_at_again_and_again_and_outlives_its_sender() {
        let (line, theirs) = pair().unwrap();
        assert_eq!(peek(line.as_fd()).err(), Some(Errno::AGAIN), "not yet");
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(theirs.as_fd(), write.as_fd()).unwrap();
        drop((theirs, write));
        for _ in 0..3 {
            let copy = peek(line.as_fd()).unwrap().unwrap();
            assert_eq!(rustix::io::write(&copy, b"x"), Ok(1));
        }
        let mut bytes = [0; 8];
        assert_eq!(rustix::io::read(&read, &mut bytes), Ok(3));
        drop(line);
        assert_eq!(rustix::io::read(&read, &mut bytes), Ok(0), "the queue held it, and nobody else");
    }

    #[test]
    fn a_sender_that_goes_without_a_word_sends_nothing() {
        let (line, theirs) = pair().unwrap();
        drop(theirs);
        assert!(peek(line.as_fd()).unwrap().is_none());
    }
}

//! What the keeper does about each request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::child::{Child, Named, Untold, exit};
use super::notify::Said;
use super::packet::Packet;
use super::run::{Finish, Keeper, now_ns};
use super::spares;
use super::wire::{ChildState, Kind, Message, Refusal, Request, Role, WireError, decode_request};
use super::{CHILDREN_MAX, FIFOS, HELD_MAX, HELD_NOTIFY, PAYLOAD_BYTES_MAX, SpawnError, TEXT_BYTES_MAX, VERSION};
use crate::sys::payload::Payload;
use crate::sys::wait::{Which, peek, reap};

impl Keeper<'_> {
    /// Executes one packet of the connection at `at`.
    pub(super) fn handle(&mut self, at: usize, packet: Packet) {
        let request = match decode_request(&packet.bytes, packet.fds.len()) {
            Ok(request) => request,
            Err(WireError::Descriptors { .. }) if packet.cut => return self.refuse_cut(at, &packet),
            Err(_) => return self.close(at),
        };
        let role = self.links.get(at).and_then(|link| link.role);
        let done = match (role, request) {
            (None, Request::Hello { version, role }) => {
                self.greet(at, version, role);
                return;
            }
            (None, _) | (Some(_), Request::Hello { .. }) => return self.close(at),
            (Some(_), Request::Stats) => {
                if let Some(link) = self.links.get_mut(at) {
                    link.stats = true;
                }
                Ok(())
            }
            (Some(_), Request::Stop) => {
                self.begin_stop();
                Ok(())
            }
            (Some(_), Request::Builds) => {
                if let Some(link) = self.links.get_mut(at) {
                    link.builds = true;
                }
                Ok(())
            }
            (Some(_), Request::Upgrade) => {
                self.begin_upgrade(at, packet.fds.into_iter().next());
                return;
            }
            (Some(Role::Anchor | Role::Supervisor), Request::Build { build, resumed }) => {
                self.says_build(at, &build, resumed);
                Ok(())
            }
            (Some(Role::Anchor), Request::NotReplaced { text }) => {
                self.anchor_says(Some(text));
                Ok(())
            }
            (Some(Role::Supervisor), request) => self.command(&request, packet.fds).map_err(|errno| (request, errno)),
            (Some(_), request) => Err((request, Errno::PERM)),
        };
        if let Err((request, errno)) = done {
            self.refuse(at, &request, errno);
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(link) = self.links.get_mut(at) {
            link.closed = true;
        }
    }

    fn refuse(&mut self, at: usize, request: &Request, errno: Errno) {
        let (name, id, _) = request.subject();
        if let Some(link) = self.links.get_mut(at) {
            let refusal = Refusal { request: name.to_owned(), id: id.to_owned(), errno: errno.raw_os_error() };
            link.refusal = Some(refusal);
        }
    }

    /// The kernel left descriptors out because this process has no room for more.
    fn refuse_cut(&mut self, at: usize, packet: &Packet) {
        match postcard::from_bytes::<Request>(&packet.bytes) {
            Ok(request) => self.refuse(at, &request, Errno::MFILE),
            Err(_) => self.close(at),
        }
    }

    /// Takes a connection into its role, or says why not.
    fn greet(&mut self, at: usize, version: u16, role: Role) {
        let Some(peer) = self.links.get(at).map(|link| link.peer) else { return };
        // What the others say is of every version: see `upgrade`.
        let speaks = version == VERSION || role != Role::Supervisor;
        let denial = if speaks { self.denial(peer, role) } else { Some((Errno::PROTO, None)) };
        if let Some((errno, pid)) = denial {
            if let Some(link) = self.links.get_mut(at) {
                link.last = Some(Message::Denied { errno: errno.raw_os_error(), pid });
            }
            return;
        }
        if role == Role::Supervisor {
            self.supersede(at);
            for child in &mut self.children {
                child.untold = Untold::All;
                child.said.untold = !child.said.lines.is_empty();
            }
            self.named.iter_mut().for_each(|named| named.untold = true);
            self.orphans.iter_mut().for_each(|orphan| orphan.untold = true);
        }
        if let Some(link) = self.links.get_mut(at) {
            link.role = Some(role);
            link.welcome = true;
            link.synced = role == Role::Supervisor;
        }
        if role == Role::Anchor {
            if self.is_dormant() {
                self.wake();
            }
            self.each_link(Role::Supervisor, |link| link.stats = true);
            self.spare_again();
        }
    }

    fn denial(&self, peer: i32, role: Role) -> Option<(Errno, Option<i32>)> {
        match role {
            Role::Observer => None,
            Role::Supervisor if self.supervisor.pid == Some(peer) => None,
            Role::Supervisor => Some((Errno::PERM, self.supervisor.pid)),
            Role::Anchor => self.stats().anchor.map(|pid| (Errno::BUSY, Some(pid))),
        }
    }

    /// The supervisor connects again: what it said on its earlier connection comes first.
    fn supersede(&mut self, at: usize) {
        let earlier = self.links.iter().enumerate().position(|(n, link)| n != at && link.is(Role::Supervisor));
        if let Some(earlier) = earlier {
            self.drain(earlier);
        }
    }

    /// A request of the supervisor's. An error changed nothing.
    fn command(&mut self, request: &Request, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        match request {
            Request::Spawn { id, kind, tag, slots, .. } => {
                self.vacancy(id)?;
                self.spawn(id, *kind, tag, usize::from(*slots), fds)
            }
            Request::Adopt { id, kind, tag, pid, pidfd, held } => {
                self.vacancy(id)?;
                let mut fds = fds.into_iter();
                let pidfd = if *pidfd { fds.next() } else { None };
                self.adopt(id, *kind, tag, *pid, pidfd, super::client::place(*held, &mut fds))
            }
            Request::Ack { id } => self.acknowledge(id),
            Request::SetTag { id, tag } => self.child(id).map(|child| child.tag.clone_from(tag)),
            Request::Release { id, position } => {
                let slot = self.child(id)?.held.get_mut(usize::from(*position));
                slot.map(|slot| *slot = None).ok_or(Errno::INVAL)
            }
            Request::Report { id } => self.child(id).map(|child| child.untold = Untold::All),
            Request::Hear { id } => self.child(id).map(Child::ask),
            Request::Hold { name } => self.hold(name, fds),
            Request::Unhold { name } => {
                let at = self.named.iter().position(|named| named.name == *name).ok_or(Errno::NOENT)?;
                self.named.remove(at);
                Ok(())
            }
            Request::AdoptionDone => {
                self.adoption_done();
                Ok(())
            }
            Request::Finish { leave_running } => {
                self.finish = Some(Finish { leave_running: *leave_running });
                Ok(())
            }
            // Anybody's, and served before.
            Request::Hello { .. } | Request::Stop | Request::Stats | Request::Builds | Request::Upgrade => Ok(()),
            Request::Build { .. } => Ok(()),
            Request::NotReplaced { .. } => Err(Errno::PERM),
        }
    }

    fn child(&mut self, id: &str) -> Result<&mut Child, Errno> {
        self.children.iter_mut().find(|child| child.id == id).ok_or(Errno::NOENT)
    }

    /// Whether a new child of this id may be.
    fn vacancy(&self, id: &str) -> Result<(), Errno> {
        if self.children.iter().any(|child| child.id == id) {
            return Err(Errno::EXIST);
        }
        if self.children.len() >= CHILDREN_MAX { Err(Errno::NOSPC) } else { Ok(()) }
    }

    fn spawn(&mut self, id: &str, kind: Kind, tag: &[u8], slots: usize, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let mut fds = fds.into_iter();
        let payload = fds.next().ok_or(Errno::INVAL)?;
        let slots: Vec<OwnedFd> = fds.by_ref().take(slots).collect();
        let held: Vec<_> = fds.map(Some).collect();
        let (pid, state) = match self.fork(kind, payload.as_fd(), slots) {
            Ok(pid) => (pid, ChildState::Running),
            Err(SpawnError { errno, text }) => {
                let text = text.chars().take(TEXT_BYTES_MAX / 4).collect();
                (0, ChildState::Failed { errno, text })
            }
        };
        self.children.push(Child {
            id: id.to_owned(),
            kind,
            pid,
            state,
            tag: tag.to_vec(),
            spare_untold: spares::is_at(&held),
            held,
            untold: Untold::State,
            said: Said::default(),
        });
        Ok(())
    }

    fn fork(&mut self, kind: Kind, payload: BorrowedFd<'_>, slots: Vec<OwnedFd>) -> Result<i32, SpawnError> {
        let payload = Payload::map(payload, PAYLOAD_BYTES_MAX).map_err(|error| SpawnError {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            text: "mapping the script".to_owned(),
        })?;
        self.spawner.spawn(kind, payload.bytes(), slots, &self.parts.base)
    }

    /// Only a child of ours that nobody knows, and only while such are expected.
    fn adopt(
        &mut self,
        id: &str,
        kind: Kind,
        tag: &[u8],
        pid: i32,
        pidfd: Option<OwnedFd>,
        held: Vec<Option<OwnedFd>>,
    ) -> Result<(), Errno> {
        let taken = self.supervisor.pid == Some(pid) || self.children.iter().any(|child| child.pid == pid);
        if !self.adopting || taken || pid <= 0 {
            return Err(Errno::CHILD);
        }
        if let Some(pidfd) = &pidfd
            && !is_of(pidfd.as_fd(), pid)
        {
            return Err(Errno::CHILD);
        }
        let state = match peek(Which::Pid(pid)).map_err(errno)? {
            Some(ended) => ChildState::Exited { exit: exit(ended), at_ns: now_ns() },
            None => ChildState::Running,
        };
        self.orphans.retain(|unadopted| unadopted.orphan.pid != pid);
        // Only for what takes their place: a supervisor that has none may die before it opens them.
        if held.iter().take(FIFOS.len()).flatten().count() == FIFOS.len() {
            self.kept.retain(|kept| kept.id != id);
        }
        let tells = held.get(HELD_NOTIFY).is_some_and(Option::is_some);
        let said = if tells { Said::taken_over(now_ns()) } else { Said::default() };
        self.children.push(Child {
            id: id.to_owned(),
            kind,
            pid,
            state,
            tag: tag.to_vec(),
            spare_untold: spares::is_at(&held),
            held,
            untold: Untold::State,
            said,
        });
        Ok(())
    }

    /// Reaps, closes and forgets. A running child is not acknowledged away.
    fn acknowledge(&mut self, id: &str) -> Result<(), Errno> {
        let at = self.children.iter().position(|child| child.id == id).ok_or(Errno::NOENT)?;
        if self.children.get(at).is_none_or(Child::is_running) {
            return Err(Errno::BUSY);
        }
        let child = self.children.swap_remove(at);
        self.no_more_spare(&child);
        if child.pid > 0 {
            let _ = reap(Which::Pid(child.pid));
        }
        // It may have hidden zombies that nobody waits for.
        self.look = true;
        Ok(())
    }

    fn hold(&mut self, name: &str, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let fd = fds.into_iter().next().ok_or(Errno::INVAL)?;
        if let Some(named) = self.named.iter_mut().find(|named| named.name == name) {
            named.fd = fd;
            return Ok(());
        }
        if self.named.len() >= HELD_MAX {
            return Err(Errno::NOSPC);
        }
        self.named.push(Named { name: name.to_owned(), fd, untold: false });
        Ok(())
    }

    fn adoption_done(&mut self) {
        self.supervisor.ready = true;
        self.supervisor.ever_ready = true;
        self.adopting = false;
        self.orphans.clear();
        self.kept.clear();
        self.named.retain(|named| spares::owner_of(&named.name).is_none());
        self.look = true;
    }
}

/// Whether `pidfd` is of our child `pid`.
fn is_of(pidfd: BorrowedFd<'_>, pid: i32) -> bool {
    match peek(Which::PidFd(pidfd)) {
        Ok(Some(ended)) => ended.pid == pid,
        Ok(None) => crate::sys::pidfd::pid(pidfd).is_none_or(|found| found == pid),
        Err(_) => false,
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::CHILD)
}

//! Sessions of an earlier supervisor's clients: they go on, and their clients come back.
//!
//! | a session of an earlier supervisor | and | so |
//! |---|---|---|
//! | runs | its client asks for it ([`Request::Attach`](crate::control::Request::Attach)) | it is that client's as before |
//! | has ended | its client asks for it | it is told the code; then the keeper may forget it |
//! | | nobody has asked in [`PATIENCE`] | it is hung up, or forgotten: its client went while there was no supervisor |
//!
//! A client may ask before the keeper has said what there is: it waits for that. A keeper that died meanwhile has taken the record along: its
//! successor names none, and the client hears that nothing is known.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::mail::Mail;
use super::session::{NotRun, Purpose, Session, Sessions, TAG_CLIENT, code_of, hang_up};
use crate::control::{ClientId, Reply, Response};
use crate::keeper::{self, ChildState};
use crate::unit::ContainerId;

/// A client looks for a supervisor for half of it ([`crate::control::client::RESTART_WAIT`]).
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client exits with that learns nothing of its process: as `exec` has it for what did not run.
const NOT_KNOWN: u8 = 125;

/// See the module.
#[derive(Default)]
pub struct Left {
    by_id: HashMap<String, One>,
    /// They asked before the keeper has said all.
    asking: Vec<(String, Reply)>,
    /// It has.
    synced: bool,
}

struct One {
    container: ContainerId,
    report: Option<OwnedFd>,
    state: State,
    until: Instant,
}

enum State {
    Running(i32, OwnedFd),
    Ended(Result<u8, String>),
}

impl Left {
    /// A keeper begins to say what it knows.
    pub(super) fn keeper_met(&mut self) {
        self.synced = false;
        self.by_id.clear();
    }

    /// When the first is to be given up.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.by_id.values().map(|one| one.until).min()
    }

    /// It asks no more.
    pub(super) fn client_gone(&mut self, client: ClientId) {
        self.asking.retain(|(_, reply)| reply.id() != client);
    }
}

impl Sessions {
    /// Keeps what the keeper says if it is about a session that an earlier supervisor had for a client.
    pub(super) fn leave(&mut self, child: keeper::Child) -> Option<keeper::Child> {
        if self.by_id.contains_key(&child.id) {
            return Some(child);
        }
        let is_clients = child.full.as_ref().is_some_and(|full| full.tag == TAG_CLIENT);
        let Some(container) = container_of(&child.id).filter(|_| is_clients || self.left.by_id.contains_key(&child.id))
        else {
            return Some(child);
        };
        let state = match (child.state, child.pidfd) {
            (ChildState::Running, Some(pidfd)) => State::Running(child.pid, pidfd),
            (ChildState::Running, None) => return None,
            (ChildState::Failed { text, .. }, _) => State::Ended(Err(text)),
            (ChildState::Exited { exit, .. }, _) => State::Ended(Ok(code_of(exit))),
        };
        let report = child.full.and_then(|full| full.held.into_iter().flatten().next());
        let until = Instant::now() + PATIENCE;
        match self.left.by_id.get_mut(&child.id) {
            Some(one) => one.state = state,
            None => drop(self.left.by_id.insert(child.id, One { container, report, state, until })),
        }
        None
    }

    /// A client comes back.
    pub(super) fn attach(&mut self, id: String, reply: Reply, keeper: &keeper::Requests, post: &Sender<Mail>) {
        if !self.left.synced {
            return self.left.asking.push((id, reply));
        }
        let Some(One { container, report, state, .. }) = self.left.by_id.remove(&id) else {
            let message =
                "the process is not known any more: the keeper that had it died too, or nobody asked for it in 10 s";
            reply.send(&Response::Error { message: message.to_owned(), code: NOT_KNOWN });
            return;
        };
        let pid = if let State::Running(pid, _) = state { pid } else { 0 };
        reply.send(&Response::ExecStarted { pid, session: id.clone() });
        let session = Session::new(container, report, Purpose::Client(reply));
        match state {
            State::Running(pid, pidfd) => drop(self.by_id.insert(id, session.with((pid, pidfd)))),
            State::Ended(outcome) => {
                self.by_id.insert(id.clone(), session);
                self.ended(&id, outcome.map_err(NotRun::from), post);
                forget(keeper, &id);
            }
        }
    }

    /// The keeper has said all.
    pub(super) fn attach_waiting(&mut self, keeper: &keeper::Requests, post: &Sender<Mail>) {
        self.left.synced = true;
        for (id, reply) in std::mem::take(&mut self.left.asking) {
            self.attach(id, reply, keeper, post);
        }
    }

    /// Hangs up those whose client has not come back, and forgets those that have ended.
    pub(super) fn give_up(&mut self, now: Instant, keeper: &keeper::Requests) {
        for (id, one) in self.left.by_id.extract_if(|_, one| one.until <= now) {
            match one.state {
                State::Running(pid, pidfd) => hang_up(pid, pidfd.as_fd()),
                State::Ended(_) => forget(keeper, &id),
            }
        }
    }
}

fn forget(keeper: &keeper::Requests, id: &str) {
    if let Err(error) = keeper.ack(id) {
        tracing::warn!("keeper: {error}");
    }
}

/// `exec:CONTAINER:…`
fn container_of(id: &str) -> Option<ContainerId> {
    ContainerId::parse(id.strip_prefix("exec:")?.split(':').next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_names_its_container() {
        assert_eq!(container_of("exec:web@1.7:12:3"), ContainerId::parse("web@1.7"));
        assert_eq!(container_of("web.7"), None);
    }
}

//! Processes that join a container: `moored exec`, and `[reload] exec`.
//!
//! A session is a helper of the keeper's. The client's own descriptors (or one end of a socket pair, on which the terminal's master
//! arrives) go straight to the process: nothing of what it reads and writes passes through here, so it outlives this supervisor; only its
//! exit code comes this way.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::fifo;
use super::mail::Mail;
use super::program;
use super::report::{self, Report};
use crate::control::{ClientId, Reply, Response};
use crate::keeper::{self, ChildState, Kind};
use crate::oci::Script;
use crate::plan::{Deed, Fact};
use crate::runtime::cgroup::ContainerCgroup;
use crate::runtime::{Payload, Slots};
use crate::unit::{ContainerId, SourceFacts, Unit};

/// Sessions at a time, of all units: each costs the keeper a record and this process a descriptor.
const SESSIONS_MAX: usize = 1024;

/// What is to run, where, and who wants to know.
pub struct SessionJob {
    /// Where.
    pub container: ContainerId,
    /// As what the container's own process is.
    pub unit: Arc<Unit>,
    /// The unit's source.
    pub facts: Arc<SourceFacts>,
    /// What.
    pub process: ExecProcess,
    /// stdin, stdout, stderr; with a terminal one end of a socket pair.
    pub fds: Vec<OwnedFd>,
    /// Who.
    pub purpose: Purpose,
}

/// What a joining process has of its own; the rest is as the container's.
#[derive(Debug, Clone, Default)]
pub struct ExecProcess {
    /// `argv`.
    pub args: Vec<String>,
    /// `NAME=value`, over the container's own.
    pub env: Vec<String>,
    /// Working directory; `None`: the container's own.
    pub cwd: Option<String>,
    /// `user[:group]`; `None`: the container's own.
    pub user: Option<String>,
    /// With a terminal of the container's.
    pub terminal: bool,
    /// Rows and columns of the terminal at the start.
    pub size: Option<(u16, u16)>,
}

/// Who wants to know how it ends.
pub enum Purpose {
    /// A client.
    Client(Reply),
    /// The loop: it was `[reload] exec`.
    Reload,
}

struct Session {
    container: ContainerId,
    report: OwnedFd,
    purpose: Option<Purpose>,
    /// Once it runs.
    pid: Option<i32>,
}

/// All that run.
#[derive(Default)]
pub struct Sessions {
    by_id: HashMap<String, Session>,
    next: u64,
}

impl SessionJob {
    /// `[reload] exec`: as the container's own process, with nothing to read and nowhere to write.
    pub fn reload(container: ContainerId, unit: Arc<Unit>, facts: Arc<SourceFacts>, args: Vec<String>) -> SessionJob {
        SessionJob {
            container,
            unit,
            facts,
            process: ExecProcess { args, ..ExecProcess::default() },
            fds: Vec::new(),
            purpose: Purpose::Reload,
        }
    }
}

impl Sessions {
    /// Asks the keeper for the process. `target`: pidfd and cgroup of the container, if it runs.
    pub fn open(
        &mut self,
        job: SessionJob,
        target: Option<(BorrowedFd<'_>, &ContainerCgroup)>,
        keeper: &keeper::Requests,
        post: &Sender<Mail>,
    ) {
        let SessionJob { container, unit, facts, process, fds, purpose } = job;
        let spawned = match target {
            None => Err(format!("{container} is not running")),
            Some(_) if self.by_id.len() >= SESSIONS_MAX => Err(format!("{SESSIONS_MAX} sessions are open already")),
            Some(target) => program::compile_exec(&unit, &facts, &container.to_string(), &process)
                .map_err(|errors| errors.join("; "))
                .and_then(|script| self.spawn(&container, &script, process.terminal, fds, target, keeper)),
        };
        match spawned {
            Ok((id, report)) => {
                drop(self.by_id.insert(id, Session { container, report, purpose: Some(purpose), pid: None }))
            }
            Err(text) => end(Some(purpose), &container, Err(text), post),
        }
    }

    fn spawn(
        &mut self,
        container: &ContainerId,
        script: &Script,
        terminal: bool,
        fds: Vec<OwnedFd>,
        (pidfd, cgroup): (BorrowedFd<'_>, &ContainerCgroup),
        keeper: &keeper::Requests,
    ) -> Result<(String, OwnedFd), String> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (report, report_write) =
            rustix::pipe::pipe_with(flags).map_err(|errno| format!("making a pipe: {errno}"))?;
        let mut slots = Slots::new(report_write);
        let mut fds = fds.into_iter();
        match terminal {
            true => slots.console = fds.next(),
            false => (slots.stdin, slots.stdout, slots.stderr) = (fds.next(), fds.next(), fds.next()),
        }
        if !terminal {
            for slot in [&mut slots.stdin, &mut slots.stdout, &mut slots.stderr] {
                if slot.is_none() {
                    *slot = Some(fifo::null().map_err(|errno| format!("opening /dev/null: {errno}"))?);
                }
            }
        }
        slots.container = Some(pidfd.try_clone_to_owned().map_err(|error| format!("copying a pidfd: {error}"))?);
        cgroup.fill(&mut slots).map_err(|error| error.to_string())?;
        let payload = Payload::new(script, slots).map_err(|error| error.to_string())?;
        self.next += 1;
        let id = format!("exec:{container}:{}:{}", std::process::id(), self.next);
        let spawn = keeper::Spawn {
            id: &id,
            kind: Kind::Exec,
            tag: &[],
            payload: payload.memfd(),
            slots: &payload.slots(),
            held: &[],
        };
        keeper.spawn(&spawn).map_err(|error| error.to_string())?;
        Ok((id, report))
    }

    /// The keeper says how one fares.
    pub fn child(&mut self, child: keeper::Child, keeper: &keeper::Requests, post: &Sender<Mail>) {
        let outcome = match child.state {
            ChildState::Running => {
                if let Some(session) = self.by_id.get_mut(&child.id) {
                    session.tell_started(child.pid);
                }
                return;
            }
            ChildState::Failed { errno, text } => Err(format!("{text}: {}", std::io::Error::from_raw_os_error(errno))),
            ChildState::Exited { exit, .. } => Ok(code_of(exit)),
        };
        // One of an earlier supervisor has no session here: its client is gone, only the record is left.
        if let Some(session) = self.by_id.remove(&child.id) {
            let outcome = match (outcome, report::read(session.report.as_fd())) {
                (Ok(_), Report::Failed(text)) => Err(text),
                (outcome, _) => outcome,
            };
            end(session.purpose, &session.container, outcome, post);
        }
        if let Err(error) = keeper.ack(&child.id) {
            tracing::warn!("keeper: {error}");
        }
    }

    /// A keeper was met that may not know them: those that run are its children now, of the others it may have heard.
    pub fn announce(&self, keeper: &keeper::Requests) {
        for (id, session) in &self.by_id {
            let asked = match session.pid {
                Some(pid) => keeper.adopt(id, Kind::Exec, &[], pid, None, &[]),
                None => keeper.report(id),
            };
            if let Err(error) = asked {
                tracing::warn!("keeper: {error}");
            }
        }
    }

    /// The keeper did not spawn one, or cannot find it. One that it knows already is no loss.
    pub fn refused(&mut self, id: &str, why: &std::io::Error, post: &Sender<Mail>) {
        if why.raw_os_error() == Some(libc::EEXIST) {
            return;
        }
        if let Some(session) = self.by_id.remove(id) {
            let text = match session.pid {
                None => format!("the keeper did not run it: {why}"),
                Some(_) => "it went on while its keeper died, and how it ended is unknown".to_owned(),
            };
            end(session.purpose, &session.container, Err(text), post);
        }
    }

    /// Nobody waits for its end any more. The process is left alone: a terminal that is gone hangs it up by itself.
    pub fn client_gone(&mut self, client: ClientId) {
        for session in self.by_id.values_mut() {
            session.purpose.take_if(|purpose| matches!(purpose, Purpose::Client(reply) if reply.id() == client));
        }
    }
}

impl Session {
    fn tell_started(&mut self, pid: i32) {
        if let (None, Some(Purpose::Client(reply))) = (self.pid.replace(pid), &self.purpose) {
            reply.send(&Response::ExecStarted { pid });
        }
    }
}

fn end(purpose: Option<Purpose>, container: &ContainerId, outcome: Result<u8, String>, post: &Sender<Mail>) {
    match (purpose, outcome) {
        (None, _) => {}
        (Some(Purpose::Client(reply)), Ok(code)) => drop(reply.send(&Response::ExecEnded { code })),
        // What runc's clients expect of an exec that could not run.
        (Some(Purpose::Client(reply)), Err(message)) => drop(reply.send(&Response::Error { message, code: 255 })),
        (Some(Purpose::Reload), outcome) => {
            let id = container.clone();
            let fact = match outcome {
                Ok(0) => Fact::Reloaded { id },
                Ok(code) => Fact::ActionFailed {
                    id,
                    deed: Deed::Reload,
                    text: format!("the reload command exited with code {code}"),
                },
                Err(text) => Fact::ActionFailed { id, deed: Deed::Reload, text },
            };
            let _ = post.send(Mail::Fact(fact));
        }
    }
}

fn code_of(exit: keeper::Exit) -> u8 {
    match exit {
        keeper::Exit::Code(code) => code,
        keeper::Exit::Signal { signal, .. } => 128u8.saturating_add(signal),
    }
}

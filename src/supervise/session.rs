//! Processes that join a container: `moored exec`, `[reload] exec`, and the programs of health checks.
//!
//! The client's own descriptors (or one end of a socket pair, on which the terminal's master arrives) go straight to the process, which is
//! the keeper's child: nothing of what it reads and writes passes through here, only its exit code comes this way.
//!
//! | who ends | what becomes of the process |
//! |---|---|
//! | the client | it is hung up (SIGHUP, as by a terminal that is gone): what was started for somebody is not left to nobody |
//! | this supervisor | it goes on, and its client comes back to the next supervisor ([`super::attach`]); a probe is killed. A reload goes on |
//! | the keeper | it is handed to the next keeper; the client notices nothing |
//! | the container | the kernel ends it: 128 + SIGKILL |
//!
//! Hooks of units are such processes too (`unit_hooks`), and outlive everybody but the keeper.
//!
//! A reload that takes longer than [`RELOAD_TIMEOUT`] is killed and has failed: until it is over no other one begins.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::attach::Left;
use super::bell::Inbox;
use super::fifo;
use super::mail::Mail;
use super::probe;
use super::program;
use super::report::{self, Report};
use crate::control::{ClientId, Reply, Response};
use crate::keeper::{self, ChildState, Kind};
use crate::oci::Script;
use crate::plan::{Deed, Fact};
use crate::runtime::cgroup::ContainerCgroup;
use crate::runtime::{Failure, Payload, Slots};
use crate::unit::{ContainerId, HookPoint, SourceFacts, Unit};

/// Sessions at a time, of all units: each costs the keeper a record and this process a descriptor.
const SESSIONS_MAX: usize = 1024;

/// systemd's DefaultTimeoutStartSec, which is also that of a reload.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(90);

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
    /// The loop: it was a hook of the unit, which has so much time.
    Hook(HookPoint, Duration),
    /// The prober: the number of its probe.
    Probe(u64, Arc<Inbox<probe::Order>>),
}

/// The keeper's tag of a process that has a client.
pub(super) const TAG_CLIENT: &[u8] = b"client";
/// The keeper's tag of one that goes on without.
const TAG_RELOAD: &[u8] = b"reload";
/// The keeper's tag of one that says whether its container is well.
const TAG_PROBE: &[u8] = b"probe";

/// The keeper's tag of a hook.
const TAG_HOOK: &[u8] = b"hook";

/// A program that could not be run, for what is neither 126 nor 127.
const NOT_RUN: u8 = 125;

pub(super) struct Session {
    pub(super) container: ContainerId,
    /// The keeper has it too, if it is a client's; none of one that it had none of.
    report: Option<OwnedFd>,
    purpose: Option<Purpose>,
    /// It is to be killed as soon as there is a process.
    killed: bool,
    /// When it will have taken too long.
    ends_by: Option<Instant>,
    /// How long that is.
    patience: Duration,
    /// Of the process, once the keeper has said so.
    process: Option<(i32, OwnedFd)>,
    /// The keeper met last has not named it.
    missing: bool,
}

impl Session {
    pub(super) fn new(container: ContainerId, report: Option<OwnedFd>, purpose: Purpose) -> Session {
        let patience = match purpose {
            Purpose::Reload => Some(RELOAD_TIMEOUT),
            Purpose::Hook(_, timeout) => Some(timeout),
            Purpose::Client(_) | Purpose::Probe(..) => None,
        };
        let (ends_by, patience) = (patience.map(|time| Instant::now() + time), patience.unwrap_or_default());
        let (purpose, killed, process, missing) = (Some(purpose), false, None, false);
        Session { container, report, purpose, killed, ends_by, patience, process, missing }
    }

    /// Of a process that runs already.
    pub(super) fn with(self, process: (i32, OwnedFd)) -> Session {
        Session { process: Some(process), ..self }
    }

    fn kill(&mut self) {
        if !std::mem::replace(&mut self.killed, true)
            && let Some((pid, pidfd)) = &self.process
        {
            kill(*pid, pidfd.as_fd());
        }
    }
}

/// Why there is no exit code.
pub(super) struct NotRun {
    text: String,
    code: u8,
}

impl From<String> for NotRun {
    fn from(text: String) -> NotRun {
        NotRun { text, code: NOT_RUN }
    }
}

impl From<Failure> for NotRun {
    fn from(failure: Failure) -> NotRun {
        NotRun { code: failure.code(), text: failure.text }
    }
}

/// All that run.
#[derive(Default)]
pub struct Sessions {
    pub(super) by_id: HashMap<String, Session>,
    /// Of earlier supervisors.
    pub(super) left: Left,
    /// Hooks that are over, with what went wrong, by name: until that is noted.
    pub(super) hooks: HashMap<String, Option<String>>,
    next: u64,
}

impl SessionJob {
    /// `[reload] exec`: as the container's own process, with nothing to read; what it writes is in the container's log.
    pub fn reload(
        container: ContainerId,
        unit: Arc<Unit>,
        facts: Arc<SourceFacts>,
        args: Vec<String>,
        log: Option<(OwnedFd, OwnedFd)>,
    ) -> SessionJob {
        let process = ExecProcess { args, ..ExecProcess::default() };
        // Without either it runs all the same.
        let fds = fifo::null().ok().zip(log).map_or_else(Vec::new, |(null, (out, err))| vec![null, out, err]);
        SessionJob { container, unit, facts, process, fds, purpose: Purpose::Reload }
    }
}

impl Sessions {
    /// Asks the keeper for the process. `target`: pidfd and cgroup of the container, if it runs; `ids`: the first of its own ids, if it has any.
    pub fn open(
        &mut self,
        job: SessionJob,
        target: Option<(BorrowedFd<'_>, &ContainerCgroup)>,
        ids: Option<u32>,
        keeper: &keeper::Requests,
        post: &Sender<Mail>,
    ) {
        let SessionJob { container, unit, facts, process, fds, purpose } = job;
        let spawned = match target {
            None => Err(format!("{container} is not running yet or any more: there is nothing to run in")),
            Some(_) if self.by_id.len() >= SESSIONS_MAX => Err(format!("{SESSIONS_MAX} sessions are open already")),
            Some(target) => program::compile_exec(&unit, &facts, &container.to_string(), &process, ids)
                .map_err(|errors| errors.join("; "))
                .and_then(|script| {
                    let (report, slots) = slots(process.terminal, fds, target)?;
                    let id = self.spawn(&container, &script, slots, &report, purpose.tag(), keeper)?;
                    Ok((id, report))
                }),
        };
        match spawned {
            Ok((id, report)) => drop(self.by_id.insert(id, Session::new(container, Some(report), purpose))),
            Err(text) => end(Some(purpose), &container, Err(text.into()), post),
        }
    }

    fn spawn(
        &mut self,
        container: &ContainerId,
        script: &Script,
        slots: Slots,
        report: &OwnedFd,
        tag: &[u8],
        keeper: &keeper::Requests,
    ) -> Result<String, String> {
        let payload = Payload::new(script, slots).map_err(|error| error.to_string())?;
        self.next += 1;
        let id = format!("exec:{container}:{}:{}", std::process::id(), self.next);
        let (payload_fd, slots) = (payload.memfd(), payload.slots());
        // Of these alone the next supervisor may be asked.
        let held: &[BorrowedFd<'_>] = if tag == TAG_CLIENT { &[report.as_fd()] } else { &[] };
        let spawn = keeper::Spawn { id: &id, kind: Kind::Exec, tag, payload: payload_fd, slots: &slots, held };
        keeper.spawn(&spawn).map_err(|error| error.to_string())?;
        Ok(id)
    }

    /// Asks the keeper for a hook, by a name that it has once for each container.
    pub(super) fn open_hook(
        &mut self,
        name: &str,
        hook: (ContainerId, HookPoint, Duration),
        script: &Script,
        (report, slots): (OwnedFd, Slots),
        keeper: &keeper::Requests,
    ) -> Result<(), String> {
        let payload = Payload::new(script, slots).map_err(|error| error.to_string())?;
        let (payload_fd, slots) = (payload.memfd(), payload.slots());
        let (kind, tag, held) = (Kind::Exec, TAG_HOOK, &[report.as_fd()]);
        let spawn = keeper::Spawn { id: name, kind, tag, payload: payload_fd, slots: &slots, held };
        keeper.spawn(&spawn).map_err(|error| error.to_string())?;
        self.take_hook(name, hook, Some(report));
        Ok(())
    }

    /// One that the keeper has.
    pub(super) fn take_hook(
        &mut self,
        name: &str,
        (container, point, timeout): (ContainerId, HookPoint, Duration),
        report: Option<OwnedFd>,
    ) {
        let session = Session::new(container, report, Purpose::Hook(point, timeout));
        self.by_id.insert(name.to_owned(), session);
    }

    /// The keeper says how one fares.
    pub fn child(&mut self, child: keeper::Child, keeper: &keeper::Requests, post: &Sender<Mail>) {
        let Some(child) = self.leave(child) else { return };
        let outcome = match child.state {
            ChildState::Running => return self.running(child),
            ChildState::Failed { text, .. } => Err(text.into()),
            ChildState::Exited { exit, .. } => Ok(code_of(exit)),
        };
        self.ended(&child.id, outcome, post);
        // First it is noted that it was run ([`Hands::hook_child`]).
        if super::unit_hooks::of_name(&child.id).is_some() {
            return;
        }
        if let Err(error) = keeper.ack(&child.id) {
            tracing::warn!("keeper: {error}");
        }
    }

    /// One of an earlier supervisor has no session here: its client is gone, only the record is left.
    pub(super) fn ended(&mut self, id: &str, outcome: Result<u8, NotRun>, post: &Sender<Mail>) {
        let Some(session) = self.by_id.remove(id) else { return };
        let is_overdue = session.killed && session.ends_by.is_some();
        let report = session.report.as_ref().map_or(Report::Closed, |report| report::read(report.as_fd()));
        let outcome = match (outcome, report) {
            (Ok(_), Report::Failed(failure)) => Err(failure.into()),
            (Ok(_), _) if is_overdue => {
                Err(format!("it took longer than {} s and was killed", session.patience.as_secs()).into())
            }
            (outcome, _) => outcome,
        };
        if let Some(Purpose::Hook(..)) = session.purpose {
            self.hooks.insert(id.to_owned(), failure_of(&outcome));
        }
        end(session.purpose, &session.container, outcome, post);
    }

    fn running(&mut self, child: keeper::Child) {
        let Some(pidfd) = child.pidfd else { return };
        let Some(session) = self.by_id.get_mut(&child.id) else {
            if child.full.is_some_and(|full| full.tag == TAG_PROBE) {
                kill(child.pid, pidfd.as_fd());
            }
            return;
        };
        session.missing = false;
        if session.killed {
            kill(child.pid, pidfd.as_fd());
        }
        match &session.purpose {
            None => hang_up(child.pid, pidfd.as_fd()),
            Some(Purpose::Client(reply)) if session.process.is_none() => {
                reply.send(&Response::ExecStarted { pid: child.pid, session: child.id });
            }
            Some(Purpose::Client(_) | Purpose::Reload | Purpose::Hook(..) | Purpose::Probe(..)) => {}
        }
        session.process = Some((child.pid, pidfd));
    }

    /// The keeper did not spawn or adopt one.
    pub fn refused(&mut self, id: &str, why: &std::io::Error, post: &Sender<Mail>) {
        if let Some(session) = self.by_id.remove(id) {
            let text = match session.process {
                None => format!("the keeper refused to run it: {why}"),
                Some(_) => format!("it ended while the keeper died, so its exit code is not known: {why}"),
            };
            end(session.purpose, &session.container, Err(text.into()), post);
        }
    }

    /// A keeper begins to say what it knows.
    pub fn keeper_met(&mut self) {
        self.by_id.values_mut().for_each(|session| session.missing = true);
        self.left.keeper_met();
    }

    /// It has said all: what it has not named was a dead keeper's.
    pub fn keeper_synced(&mut self, keeper: &keeper::Requests, post: &Sender<Mail>) {
        let lost: Vec<String> =
            self.by_id.iter().filter(|(_, session)| session.missing).map(|(id, _)| id.clone()).collect();
        for id in lost {
            let Some(session) = self.by_id.get(&id) else { continue };
            let tag = session.purpose.as_ref().map_or(TAG_CLIENT, Purpose::tag);
            let adopted = session
                .process
                .as_ref()
                .map(|(pid, pidfd)| keeper.adopt(&id, Kind::Exec, tag, *pid, Some(pidfd.as_fd()), &[]));
            if !matches!(adopted, Some(Ok(())))
                && let Some(session) = self.by_id.remove(&id)
            {
                let text = "the keeper died before it said that it runs".to_owned();
                end(session.purpose, &session.container, Err(text.into()), post);
            }
        }
        self.attach_waiting(keeper, post);
    }

    /// When one of those that run will have taken too long.
    pub fn next_due(&self) -> Option<Instant> {
        let reloads = self.by_id.values().filter(|session| !session.killed).filter_map(|session| session.ends_by);
        reloads.chain(self.left.next_due()).min()
    }

    /// Kills those that have. Their end is told all the same.
    pub fn kill_overdue(&mut self, now: Instant) {
        let is_overdue = |session: &&mut Session| session.ends_by.is_some_and(|ends_by| ends_by <= now);
        for session in self.by_id.values_mut().filter(is_overdue) {
            session.kill();
        }
    }

    /// A probe took too long, or nobody asks any more. Its end is told all the same.
    pub fn end_probe(&mut self, token: u64) {
        let is_it = |purpose: &Purpose| matches!(purpose, Purpose::Probe(other, _) if *other == token);
        for session in self.by_id.values_mut().filter(|session| session.purpose.as_ref().is_some_and(is_it)) {
            session.kill();
        }
    }

    /// Nobody waits for its end any more.
    pub fn client_gone(&mut self, client: ClientId) {
        self.left.client_gone(client);
        for session in self.by_id.values_mut() {
            let gone = |purpose: &mut Purpose| matches!(purpose, Purpose::Client(reply) if reply.id() == client);
            if session.purpose.take_if(gone).is_some()
                && let Some((pid, pidfd)) = &session.process
            {
                hang_up(*pid, pidfd.as_fd());
            }
        }
    }
}

/// The report's read end, and a process that reads nothing and writes into a container's log, if there is one.
pub(super) fn streams(log: Option<(OwnedFd, OwnedFd)>) -> Result<(OwnedFd, Slots), String> {
    let null = || fifo::null().map_err(|errno| format!("opening /dev/null: {errno}"));
    let (out, err) = match log {
        Some(log) => log,
        None => (null()?, null()?),
    };
    let (report, mut slots) = reporting()?;
    (slots.stdin, slots.stdout, slots.stderr) = (Some(null()?), Some(out), Some(err));
    Ok((report, slots))
}

fn reporting() -> Result<(OwnedFd, Slots), String> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
    let (report, report_write) = rustix::pipe::pipe_with(flags).map_err(|errno| format!("making a pipe: {errno}"))?;
    Ok((report, Slots::new(report_write)))
}

/// The report's read end, and what the process is given. What the client did not send is /dev/null.
fn slots(
    terminal: bool,
    fds: Vec<OwnedFd>,
    (pidfd, cgroup): (BorrowedFd<'_>, &ContainerCgroup),
) -> Result<(OwnedFd, Slots), String> {
    let (report, mut slots) = reporting()?;
    let mut fds = fds.into_iter();
    if terminal {
        slots.console = fds.next();
    } else {
        for slot in [&mut slots.stdin, &mut slots.stdout, &mut slots.stderr] {
            let null = || fifo::null().map_err(|errno| format!("opening /dev/null: {errno}"));
            *slot = Some(fds.next().map_or_else(null, Ok)?);
        }
    }
    slots.container = Some(pidfd.try_clone_to_owned().map_err(|error| format!("copying a pidfd: {error}"))?);
    cgroup.fill(&mut slots).map_err(|error| error.to_string())?;
    Ok((report, slots))
}

impl Purpose {
    fn tag(&self) -> &'static [u8] {
        match self {
            Purpose::Client(_) => TAG_CLIENT,
            Purpose::Reload => TAG_RELOAD,
            Purpose::Hook(..) => TAG_HOOK,
            Purpose::Probe(..) => TAG_PROBE,
        }
    }
}

/// As the kernel does when a terminal is gone: SIGHUP to the process group that it leads, and SIGCONT, so that one which is stopped
/// gets it. `nohup` inside has the effect that it has outside. The pid is not yet acknowledged, so the number is still its own; until it
/// leads a group it is itself all there is.
pub(super) fn hang_up(pid: i32, pidfd: BorrowedFd<'_>) {
    signal_group(pid, pidfd, &[Signal::HUP, Signal::CONT]);
}

fn kill(pid: i32, pidfd: BorrowedFd<'_>) {
    signal_group(pid, pidfd, &[Signal::KILL]);
}

fn signal_group(pid: i32, pidfd: BorrowedFd<'_>, signals: &[Signal]) {
    let Some(group) = rustix::process::Pid::from_raw(pid) else { return };
    for signal in signals {
        if rustix::process::kill_process_group(group, *signal).is_err() {
            // ESRCH: it has just ended.
            let _ = rustix::process::pidfd_send_signal(pidfd, *signal);
        }
    }
}

fn end(purpose: Option<Purpose>, container: &ContainerId, outcome: Result<u8, NotRun>, post: &Sender<Mail>) {
    match (purpose, outcome) {
        (None, _) => {}
        (Some(Purpose::Client(reply)), Ok(code)) => {
            reply.send(&Response::ExecEnded { code });
        }
        (Some(Purpose::Client(reply)), Err(NotRun { text, code })) => {
            reply.send(&Response::Error { message: text, code });
        }
        (Some(Purpose::Probe(token, inbox)), outcome) => inbox.push(probe::Order::Done(token, found(outcome))),
        (Some(Purpose::Hook(point, _)), outcome) => {
            let fact = Fact::HookEnded { id: container.clone(), point, failure: failure_of(&outcome) };
            let _ = post.send(Mail::Fact(fact));
        }
        (Some(Purpose::Reload), outcome) => {
            let id = container.clone();
            let fact = match outcome {
                Ok(0) => Fact::Reloaded { id },
                Ok(code) => Fact::ActionFailed {
                    id,
                    deed: Deed::Reload,
                    text: format!("the reload command exited with code {code}"),
                },
                Err(NotRun { text, .. }) => Fact::ActionFailed { id, deed: Deed::Reload, text },
            };
            let _ = post.send(Mail::Fact(fact));
        }
    }
}

/// What went wrong with a hook.
fn failure_of(outcome: &Result<u8, NotRun>) -> Option<String> {
    match outcome {
        Ok(0) => None,
        Ok(code) => Some(format!("exited with {code}")),
        Err(NotRun { text, .. }) => Some(text.clone()),
    }
}

fn found(outcome: Result<u8, NotRun>) -> probe::Found {
    match outcome {
        Ok(0) => probe::Found::Well,
        Ok(code) => probe::Found::Sick(format!("code {code}")),
        Err(NotRun { text, code: NOT_RUN }) => probe::Found::Fault(text),
        Err(NotRun { text, .. }) => probe::Found::Sick(text),
    }
}

pub(super) fn code_of(exit: keeper::Exit) -> u8 {
    match exit {
        keeper::Exit::Code(code) => code,
        keeper::Exit::Signal { signal, .. } => 128u8.saturating_add(signal),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_reload_that_takes_too_long_is_killed_and_has_failed() {
        let container = ContainerId::parse("web.1").unwrap();
        let mut sleep = std::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = i32::try_from(sleep.id()).unwrap();
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        let (report, _) = rustix::pipe::pipe().unwrap();
        let mut sessions = Sessions::default();
        assert_eq!(sessions.next_due(), None, "nothing wakes up");
        let session = Session::new(container.clone(), Some(report), Purpose::Reload);
        sessions.by_id.insert("exec".to_owned(), session.with((pid, pidfd)));
        let due = sessions.next_due().unwrap();
        sessions.kill_overdue(due - Duration::from_secs(1));
        assert_eq!(sleep.try_wait().unwrap(), None, "it has its time");
        sessions.kill_overdue(due);
        assert_eq!(sleep.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(sessions.next_due(), None, "once");
        let (post, mailbox) = std::sync::mpsc::channel();
        sessions.ended("exec", Ok(128 + 9), &post);
        let Ok(Mail::Fact(fact)) = mailbox.try_recv() else { panic!("nothing is said") };
        let text = "it took longer than 90 s and was killed".to_owned();
        assert_eq!(fact, Fact::ActionFailed { id: container, deed: Deed::Reload, text });
    }
}

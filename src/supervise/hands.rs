//! The hands: the thread that does what the loop decided, and watches the descriptors of what it did.
//!
//! Everything that may take a while on the way to a container happens here: making and removing cgroups, FIFOs, the talk with the keeper.
//! Each [`Job`] is answered by a [`Fact`] (or by a client's reply); a job that fails is a fact too. The hands decide nothing.
//!
//! # Order of effects and records
//!
//! The loop has written the generation down before a `Start` comes here. Then: cgroup, FIFOs, log, `spawn`. A crash before the spawn leaves
//! a cgroup and FIFOs that `Clear` removes; a crash after it leaves a container that the keeper's list brings back. After an end: the pipes
//! are drained, the loop writes the exit record, and only `Clear` acknowledges it to the keeper.
//!
//! # What ends a setup
//!
//! The report pipe. Its end of file without a failure means that the program was executed, or that the setup was killed: which of them,
//! the kernel says (`executed`). An exit that comes first is looked at after the report was read to its end: the process is dead, so
//! nothing more can come.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::ahead::Ahead;
use super::bell::Inbox;
use super::job::Job;
use super::listen::{self, Listeners};
use super::log::LogWriter;
use super::mail::{Inventory, Mail};
use super::narrate;
use super::probe;
use super::report::{self, Report};
use super::session::{SessionJob, Sessions};
use super::spares::Spares;
use super::terminal::{Attached, Terminal};
use super::unit_hooks;
use crate::keeper::{self, ChildState, Kind};
use crate::plan::{BootTime, Deed, Exit, Fact, HostPid, Line, Run};
use crate::runtime::cgroup::{CgroupError, CgroupRoot, ContainerCgroup};
use crate::store::IdPool;
use crate::unit::{ContainerId, Signal};

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// `RUN/c`: one directory per container.
    pub containers: PathBuf,
    /// The state-dir.
    pub state: PathBuf,
    /// Where the ids of units with their own come from.
    pub userns_pool: IdPool,
}

/// Positions of what the keeper holds for a container.
/// Standard output, standard error, and this; then, if it has them, its notify socket ([`keeper::HELD_NOTIFY`]) and the line of its terminal
/// ([`keeper::HELD_TERMINAL`]).
const HELD_REPORT: u8 = 2;

/// Wakes the hands for a job; the other tokens are [`Watched`].
const BELL: u64 = 0;

/// Events taken from the kernel at a time.
const EVENTS_MAX: usize = 64;

/// A container that was started or found.
#[derive(Default)]
pub(super) struct Handle {
    /// 0 until the keeper says it.
    pub(super) pid: i32,
    pub(super) pidfd: Option<OwnedFd>,
    /// A stop signal that waits for the pidfd.
    pub(super) owed: Option<Signal>,
    pub(super) cgroup: Option<ContainerCgroup>,
    pub(super) report: Option<(u64, OwnedFd)>,
    /// Its notify socket, which the keeper reads: kept for the next one.
    pub(super) notify: Option<OwnedFd>,
    /// Its terminal, if it has one.
    pub(super) terminal: Option<Terminal>,
    /// The lock of its writable layer, if that is kept.
    pub(super) upper: Option<OwnedFd>,
    pub(super) tag: Vec<u8>,
    /// The program runs or ran.
    pub(super) executed: bool,
    /// `Started`, or a failure, was said.
    pub(super) announced: bool,
    pub(super) ended: bool,
    /// Its keeper died under it.
    pub(super) orphaned: bool,
    /// Its cgroup was killed once.
    pub(super) killed: bool,
    /// The cgroup's events and their token, while they are waited for.
    pub(super) emptying: Option<(u64, OwnedFd)>,
    /// A duplicate of the pidfd and its token, for one that is nobody's child that we know.
    pub(super) foreign: Option<(u64, OwnedFd)>,
}

/// What a token of the epoll set stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Watched {
    Report(ContainerId),
    Cgroup(ContainerId),
    Foreign(ContainerId),
    Terminal(ContainerId),
}

/// The thread's state.
pub struct Hands {
    pub(super) inbox: Arc<Inbox<Job>>,
    pub(super) post: Sender<Mail>,
    epoll: OwnedFd,
    pub(super) keeper: keeper::Requests,
    pub(super) cgroups: Arc<CgroupRoot>,
    pub(super) log: Arc<LogWriter>,
    pub(super) places: Places,
    pub(super) handles: BTreeMap<ContainerId, Box<Handle>>,
    pub(super) sessions: Sessions,
    pub(super) spares: Spares,
    pub(super) ahead: Ahead,
    pub(super) listeners: Listeners,
    /// Lines of terminals that an anchor in its keeper's place held, until adoption is done.
    pub(super) spare_terminals: BTreeMap<ContainerId, OwnedFd>,
    /// To terminals.
    pub(super) attached: Vec<Attached>,
    /// Started when something is to be asked.
    pub(super) prober: Option<Arc<Inbox<probe::Order>>>,
    watched: HashMap<u64, Watched>,
    next_token: u64,
    /// Collected between `Welcome` and `Synced`.
    pub(super) inventory: Option<Inventory>,
}

impl Hands {
    /// Ready to run; [`Hands::run`] is the thread.
    pub fn new(
        inbox: Arc<Inbox<Job>>,
        post: Sender<Mail>,
        keeper: keeper::Requests,
        cgroups: Arc<CgroupRoot>,
        log: Arc<LogWriter>,
        places: Places,
        spares: Spares,
    ) -> std::io::Result<Hands> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, inbox.bell(), epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        let (handles, watched, sessions) = (BTreeMap::new(), HashMap::new(), Sessions::default());
        Ok(Hands {
            inbox,
            post,
            epoll,
            keeper,
            cgroups,
            log,
            places,
            handles,
            sessions,
            spares,
            ahead: Ahead::default(),
            listeners: Listeners::default(),
            spare_terminals: BTreeMap::new(),
            attached: Vec::new(),
            prober: None,
            watched,
            next_token: 1,
            inventory: None,
        })
    }

    /// Works until the keeper is gone or the loop has ended.
    pub fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            let timeout = self.sessions.next_due().map(until);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return self.say(Mail::Orphaned(format!("waiting for events: {errno}"))),
            }
            for event in &events {
                match event.data.u64() {
                    BELL => {}
                    token => self.ready(token),
                }
            }
            if timeout.is_some() {
                self.sessions.kill_overdue(Instant::now());
                self.sessions.give_up(Instant::now(), &self.keeper);
            }
            for job in self.inbox.take() {
                if self.work(job).is_break() {
                    return;
                }
            }
            // Off the way of those that are being set up.
            if !self.watched.values().any(|watched| matches!(watched, Watched::Report(_))) {
                self.spares.refill();
                self.ahead.make(&self.places.containers);
            }
        }
    }

    pub(super) fn say(&self, mail: Mail) {
        // The loop ends before the hands only when the process ends.
        let _ = self.post.send(mail);
    }

    pub(super) fn fact(&self, fact: Fact) {
        self.say(Mail::Fact(fact));
    }

    pub(super) fn failed(&self, id: ContainerId, deed: Deed, text: String) {
        self.fact(Fact::ActionFailed { id, deed, text });
    }

    fn work(&mut self, job: Job) -> std::ops::ControlFlow<()> {
        match job {
            Job::Keeper(event) => self.keeper_says(event),
            Job::KeeperGone(error) => {
                self.say(Mail::Orphaned(error.to_string()));
                return std::ops::ControlFlow::Break(());
            }
            Job::Start(job) => self.start(*job),
            Job::Stop(id, signal) => self.stop(id, signal),
            Job::Kill(id) => self.kill(id),
            Job::Signal(id, signal) => self.signal(id, signal),
            Job::Reload(job) => self.reload(*job),
            Job::Hook(job) => self.hook(*job),
            Job::Hear(id) => self.hear(id),
            Job::Probe(job) => self.probe(*job),
            Job::ProbeNothing(id) => self.probe_nothing(id),
            Job::EndProbe(token) => self.sessions.end_probe(token),
            Job::Limit(job) => self.limit(*job),
            Job::Swap(job) => self.swap(*job),
            Job::Close(unit, sockets) => self.close(unit, sockets),
            Job::Clear(id) => self.clear(id),
            Job::Look(id) => self.look(id),
            Job::Settle(unlisted) => self.settle(*unlisted),
            Job::AdoptionDone(connection) => {
                self.ask(self.keeper.adoption_done(connection));
                self.spare_terminals.clear();
            }
            Job::Session(job) => self.open_session(*job),
            Job::Attach { session, reply } => self.sessions.attach(session, reply, &self.keeper, &self.post),
            Job::Terminal(job) => self.attach_terminal(*job),
            Job::SessionGone(client) => {
                self.sessions.client_gone(client);
                self.detach_client(client);
            }
            Job::Status(job) => self.status(*job),
            Job::LogLimits(unit, limits) => self.log.set_limits(unit, limits),
            Job::StopKeeper => self.ask(self.keeper.stop()),
            Job::Finish { leave_running, done } => {
                self.ask(self.keeper.finish(leave_running));
                let _ = done.send(());
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// A request that the keeper did not get is lost with the keeper; its successor's `Welcome` begins everything anew. One that could not be sent
    /// to a living keeper would never be missed: the next supervisor's does.
    pub(super) fn ask(&self, sent: Result<(), keeper::ClientError>) {
        match sent {
            Ok(()) => {}
            Err(keeper::ClientError::Socket(errno)) => {
                self.say(Mail::Orphaned(format!("sending to the keeper: {errno}")));
            }
            Err(error) => tracing::warn!("keeper: {error}"),
        }
    }

    // ---- what the kernel says ----

    /// Registers a descriptor; it stays open with the entry. If that fails, this supervisor ends.
    pub(super) fn watch(&mut self, fd: OwnedFd, flags: epoll::EventFlags, what: Watched) -> (u64, OwnedFd) {
        let token = self.next_token;
        self.next_token += 1;
        match epoll::add(&self.epoll, &fd, epoll::EventData::new_u64(token), flags) {
            Ok(()) => drop(self.watched.insert(token, what)),
            // What nobody waits for would never be heard of: the next supervisor waits for it.
            Err(errno) => self.say(Mail::Orphaned(format!("watching {what:?}: {errno}"))),
        }
        (token, fd)
    }

    pub(super) fn unwatch(&mut self, token: u64, fd: &OwnedFd) {
        self.watched.remove(&token);
        // It may already be closed on the other side, never on ours.
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn ready(&mut self, token: u64) {
        match self.watched.get(&token).cloned() {
            Some(Watched::Report(id)) => self.read_report(&id),
            Some(Watched::Cgroup(id)) => self.look_at_cgroup(&id),
            Some(Watched::Foreign(id)) => self.foreign_ended(&id),
            Some(Watched::Terminal(id)) => self.take_terminal(&id),
            None => {}
        }
    }

    /// Reads what the setup had to say, if it has ended.
    fn read_report(&mut self, id: &ContainerId) {
        let Some(handle) = self.handles.get_mut(id) else { return };
        let Some((token, fd)) = handle.report.take() else { return };
        let report = report::read(fd.as_fd());
        if report == Report::Pending {
            handle.report = Some((token, fd));
            return;
        }
        self.unwatch(token, &fd);
        self.ask(self.keeper.release(&id.to_string(), HELD_REPORT));
        match report {
            // The supervisor before this one died in the middle of it.
            Report::Failed(failure) if failure.is_abandoned() => {
                self.announce(id, Fact::NeverStarted { id: id.clone() })
            }
            Report::Failed(failure) => self.announce(id, Fact::StartFailed { id: id.clone(), text: failure.text }),
            Report::Closed | Report::Pending => self.announce_started(id),
        }
        self.look_at_cgroup(id);
    }

    /// The program may run before the keeper has said its pid, which is part of the fact. A report pipe that nobody holds any more says
    /// that the setup is over, in one way or the other: an orphan has none.
    pub(super) fn announce_started(&mut self, id: &ContainerId) {
        let over = |handle: &&mut Box<Handle>| handle.report.is_none() && handle.pid != 0 && !handle.announced;
        let Some(handle) = self.handles.get_mut(id).filter(over) else { return };
        handle.executed = handle.executed || ran_program(handle.pid);
        let (executed, pid) = (handle.executed, host_pid(handle.pid));
        if executed {
            self.announce(id, Fact::Started { id: id.clone(), pid });
        }
    }

    pub(super) fn announce(&mut self, id: &ContainerId, fact: Fact) {
        let first = self.handles.get_mut(id).is_some_and(|handle| !std::mem::replace(&mut handle.announced, true));
        if first {
            self.fact(fact);
        }
    }

    pub(super) fn look_at_cgroup(&mut self, id: &ContainerId) {
        // A hook on the host that its setup waited for, and that is about to be killed, is something of it too: it holds the report.
        let in_setup = |handle: &Handle| handle.report.is_some() && !handle.executed;
        if self.handles.get(id).is_none_or(|handle| !handle.ended || in_setup(handle)) {
            return;
        }
        // One that cannot be looked at is not empty: the plan has it killed, which looks again.
        match self.is_empty(id) {
            Ok(true) => {
                if let Some((token, fd)) = self.handles.get_mut(id).and_then(|handle| handle.emptying.take()) {
                    self.unwatch(token, &fd);
                }
                self.fact(Fact::CgroupEmpty { id: id.clone() });
            }
            Ok(false) => {}
            Err(error) => tracing::warn!("{id}: it cannot be seen whether its cgroup is empty: {error}"),
        }
    }

    /// Where it is not, it is watched from here on.
    fn is_empty(&mut self, id: &ContainerId) -> Result<bool, CgroupError> {
        let Some(cgroup) = self.cgroup_of(id)? else { return Ok(true) };
        if cgroup.is_empty()? {
            return Ok(true);
        }
        let events = cgroup.events()?;
        if self.handles.get(id).is_none_or(|handle| handle.emptying.is_some()) {
            return Ok(false);
        }
        let watched = self.watch(events, epoll::EventFlags::PRI, Watched::Cgroup(id.clone()));
        let Some(handle) = self.handles.get_mut(id) else { return Ok(true) };
        handle.emptying = Some(watched);
        // Asked again behind the watch: it may have emptied in between.
        handle.cgroup.as_ref().map_or(Ok(true), ContainerCgroup::is_empty)
    }

    /// The cgroup of a container, opened if it was not; `None`: there is none any more.
    pub(super) fn cgroup_of(&mut self, id: &ContainerId) -> Result<Option<&ContainerCgroup>, CgroupError> {
        let Some(handle) = self.handles.get_mut(id) else { return Ok(None) };
        if handle.cgroup.is_none() {
            handle.cgroup = self.cgroups.find(&id.to_string())?;
        }
        Ok(handle.cgroup.as_ref())
    }

    // ---- what the keeper says ----

    fn keeper_says(&mut self, event: keeper::Event) {
        match event {
            keeper::Event::Welcome(stats, connection) => self.begin_inventory(stats, connection),
            keeper::Event::Child(mut child) if child.kind == Kind::Exec => {
                self.meet_hook(&mut child);
                let (name, is_over) = (child.id.clone(), unit_hooks::is_over(&child.state));
                self.sessions.child(child, &self.keeper, &self.post);
                self.hook_child(&name, is_over);
            }
            keeper::Event::Child(child) => self.child(child),
            keeper::Event::Said { id, lines, answers } => self.said(&id, lines, answers),
            keeper::Event::Orphan(orphan) => self.orphan(&orphan),
            keeper::Event::Held { name, fd } => {
                if keeper::spares::owner_of(&name).is_some() {
                    self.spare_terminal(&name, fd);
                } else if !self.held(&name, fd) {
                    tracing::warn!("the keeper holds {name}, which this version does not know")
                }
            }
            keeper::Event::Synced => self.end_inventory(),
            keeper::Event::Refused(refusal) => self.refused(&refusal),
            keeper::Event::Stop => self.say(Mail::StopAll { by: "signal".to_owned() }),
            keeper::Event::Stats(stats) => self.say(Mail::Keeper(stats)),
            keeper::Event::Builds(builds) => self.say(Mail::Builds(builds)),
        }
    }

    fn child(&mut self, child: keeper::Child) {
        let Some(id) = ContainerId::parse(&child.id) else {
            return tracing::warn!("the keeper knows {}, which is no container of ours", child.id);
        };
        if child.full.is_some() || !self.handles.contains_key(&id) {
            self.take_over(&id, child.full);
        }
        if let Some(inventory) = &mut self.inventory {
            inventory.known.insert(id.clone());
        }
        let Some(handle) = self.handles.get_mut(&id) else { return };
        match child.state {
            ChildState::Running => {
                handle.pid = child.pid;
                handle.pidfd = child.pidfd;
                let stopped = id.clone();
                // Whoever released the report had read it to its end.
                handle.executed |= handle.report.is_none() && ran_program(child.pid);
                let run = Run::of_tag(&handle.tag);
                let in_setup = handle.report.is_some() && !ran_program(child.pid);
                match (&mut self.inventory, run) {
                    (Some(inventory), Ok(run)) => {
                        let list = if in_setup { &mut inventory.setups } else { &mut inventory.running };
                        list.push((id, host_pid(child.pid), run));
                    }
                    (Some(_), Err(error)) => tracing::error!("{id}: the keeper's tag does not decode: {error}"),
                    (None, _) => self.announce_started(&id),
                }
                self.stop_if_owed(&stopped);
            }
            ChildState::Failed { errno, text } => {
                handle.announced = true;
                handle.ended = true;
                let text = format!("{text}: {}", std::io::Error::from_raw_os_error(errno));
                self.fact(Fact::StartFailed { id: id.clone(), text });
                self.after_end(&id);
            }
            ChildState::Exited { exit, at_ns } => self.exited(&id, child.pid, exit, BootTime(at_ns)),
        }
    }

    fn said(&mut self, id: &str, lines: Vec<keeper::Line>, answers: bool) {
        let Some(id) = ContainerId::parse(id) else { return };
        let line = |line: keeper::Line| Line { text: line.text, at: BootTime(line.at_ns) };
        let lines = lines.into_iter().map(line).collect();
        if let Some(inventory) = &mut self.inventory {
            // The loop may know the container by this list alone.
            return inventory.said.push((id, lines));
        }
        self.fact(Fact::Notified { id: id.clone(), lines });
        if answers {
            self.fact(Fact::Heard { id });
        }
    }

    /// It is a zombie until it is acknowledged, so its pid is still its own.
    fn exited(&mut self, id: &ContainerId, pid: i32, exit: keeper::Exit, at: BootTime) {
        self.read_report(id);
        let Some(handle) = self.handles.get_mut(id) else { return };
        handle.ended = true;
        handle.pidfd = None;
        let oom = handle.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
        let exit = match exit {
            keeper::Exit::Code(code) => Exit::Code(code),
            keeper::Exit::Signal { signal, .. } => Exit::Signal(signal),
        };
        let (executed, orphaned) = (handle.executed || ran_program(pid), handle.orphaned);
        self.fact(match (executed, orphaned) {
            (true, _) => Fact::Exited { id: id.clone(), exit, oom, at },
            // What sets a container up dies with its keeper.
            (false, true) => Fact::NeverStarted { id: id.clone() },
            (false, false) => {
                let text = format!("its setup ended with {} before the program ran", narrate::words(exit));
                Fact::StartFailed { id: id.clone(), text }
            }
        });
        self.after_end(id);
    }

    pub(super) fn after_end(&mut self, id: &ContainerId) {
        // First: what it wrote last is still in there.
        self.take_terminal(id);
        self.log.drain(id.clone());
        self.look_at_cgroup(id);
    }

    /// The names are those of the wire.
    fn refused(&mut self, refusal: &keeper::Refusal) {
        let why = std::io::Error::from_raw_os_error(refusal.errno);
        match (refusal.request.as_str(), ContainerId::parse(&refusal.id)) {
            ("spawn", Some(id)) => {
                self.fact(Fact::StartFailed { id: id.clone(), text: format!("the keeper refused to spawn it: {why}") });
                self.look(id);
            }
            // A keeper that took over was asked, and does not know it: the spawn was lost with the one before.
            ("report", Some(id)) => {
                self.fact(Fact::NeverStarted { id: id.clone() });
                self.look(id);
            }
            ("adopt", Some(id)) => {
                self.fact(Fact::Lost { id: id.clone() });
                self.look(id);
            }
            ("spawn" | "report" | "adopt", None) => {
                self.sessions.refused(&refusal.id, &why, &self.post);
                self.hook_child(&refusal.id, true);
            }
            ("hold", _) if listen::is_held_name(&refusal.id) => {
                tracing::warn!("the keeper does not hold {}: {why}: it closes if this process dies", refusal.id)
            }
            (request, _) => tracing::debug!("the keeper refused {request} of {}: {why}", refusal.id),
        }
    }

    // ---- sessions and figures ----

    /// Only where the program was executed: until the setup has changed its root, the namespaces of a container show the host.
    pub(super) fn open_session(&mut self, job: SessionJob) {
        let container = self.handles.get(&job.container).filter(|handle| handle.executed && !handle.ended);
        let target = container.and_then(|handle| Some((handle.pidfd.as_ref()?.as_fd(), handle.cgroup.as_ref()?)));
        let ids = if job.unit.has_own_users() { self.ids_of(&job.container) } else { None };
        self.sessions.open(job, target, ids, &self.keeper, &self.post);
    }

    fn status(&mut self, job: super::usage::StatusJob) {
        let cgroup = job.id.as_ref().and_then(|id| self.handles.get(id)).and_then(|handle| handle.cgroup.as_ref());
        job.spawn(cgroup.map(ContainerCgroup::figures));
    }
}

/// Rounded up, so that it is over then.
fn until(due: Instant) -> Timespec {
    let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: i64::from(left.subsec_nanos()) }
}

/// One that cannot be looked at is taken for one that did.
fn ran_program(pid: i32) -> bool {
    crate::runtime::has_executed(pid).unwrap_or(true)
}

pub(super) fn host_pid(pid: i32) -> HostPid {
    HostPid(u32::try_from(pid).unwrap_or(0))
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)).
pub(super) fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(pidfd, rustix::event::PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())), Ok(0))
}

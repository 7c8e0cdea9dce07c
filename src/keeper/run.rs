//! The keeper's loop: wait, note what ended, serve, tell, start the supervisor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt::socket_peercred};
use rustix::time::{ClockId, clock_gettime};

use super::child::{Child, Named, Unadopted, exit};
use super::link::Link;
use super::supervisor::{Command, Supervisor};
use super::takeover::Kept;
use super::upgrade::Upgrade;
use super::wire::{Message, Role};
use super::{CONNECTIONS_MAX, Duty, Spawner};
use crate::sys::base::Base;
use crate::sys::signal::SIGCHLD;
use crate::sys::wait::{Which, peek, reap};

/// What the supervisor and the keeper are allowed before others, in `oom_score_adj`.
pub(super) const OOM_SCORE_ADJ: i32 = -900;
/// When the system lacks descriptors or memory, the next try is this much later.
const RETRY_NS: u64 = 100_000_000;
/// Most signals, packets of one connection, or unknown zombies handled before the others have their turn.
const TURN_MAX: usize = 64;
/// Most packets taken from a supervisor that died: more than its socket can hold.
const DRAIN_MAX: usize = 4096;

/// What a [`Keeper`] is made of.
pub(crate) struct Parts {
    /// Holds the socket's path; removed at the end.
    pub run_dir: PathBuf,
    /// Bound, listening, not blocking.
    pub listener: OwnedFd,
    /// The program, for `execveat`.
    pub image: OwnedFd,
    /// The pipe of the logs, kept open ([`super::open_stage`]).
    pub stage: Option<OwnedFd>,
    /// SIGCHLD and those that mean an ordered stop, blocked.
    pub signals: SignalFd,
    /// The same, by number.
    pub waited_for: Vec<i32>,
    /// As the program was started.
    pub base: Base,
    /// The supervisor's.
    pub command: Command,
}

/// The parent of every container. See the module.
pub(crate) struct Keeper<'s> {
    pub(super) parts: Parts,
    pub(super) spawner: &'s mut dyn Spawner,
    pub(super) children: Vec<Child>,
    pub(super) named: Vec<Named>,
    /// Whose terminals the anchor need not hold any more ([`super::spares`]).
    pub(super) spares_over: Vec<String>,
    pub(super) orphans: Vec<Unadopted>,
    /// A dead keeper's, until others hold them ([`super::takeover`]).
    pub(super) kept: Vec<Kept>,
    /// Children that nobody knows may be containers: none is reaped.
    pub(super) adopting: bool,
    /// This process is the anchor in the place of its keeper: nobody would take its own.
    pub(super) is_anchor: bool,
    pub(super) stopping: bool,
    pub(super) finish: Option<Finish>,
    pub(super) links: Vec<Link>,
    pub(super) supervisor: Supervisor,
    /// Something failed for want of a resource: try again soon.
    pub(super) starved: bool,
    /// Somebody may have ended since the last look.
    pub(super) look: bool,
    pub(super) upgrade: Option<Upgrade>,
    /// Which moored this is.
    pub(super) build: String,
    oom_score_adj: i32,
    pub(super) refused: Option<u8>,
    /// This process is process 1.
    pub(super) duty: Option<&'s mut dyn Duty>,
}

/// The supervisor said that it needs no successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finish {
    pub leave_running: bool,
}

struct Ready {
    signals: bool,
    listener: bool,
    links: Vec<bool>,
    /// Places of children that have something to say.
    said: Vec<usize>,
}

impl<'s> Keeper<'s> {
    /// At the beginning: no children, the supervisor due at once.
    pub fn new(mut parts: Parts, spawner: &'s mut dyn Spawner) -> Self {
        parts.base.raise(OOM_SCORE_ADJ);
        Keeper::with(parts, spawner)
    }

    /// The same where the limits are set already.
    pub(super) fn with(parts: Parts, spawner: &'s mut dyn Spawner) -> Self {
        Keeper {
            parts,
            spawner,
            children: Vec::new(),
            named: Vec::new(),
            spares_over: Vec::new(),
            orphans: Vec::new(),
            kept: Vec::new(),
            adopting: false,
            is_anchor: false,
            stopping: false,
            finish: None,
            links: Vec::new(),
            supervisor: Supervisor::due_at_once(),
            starved: false,
            look: true,
            upgrade: None,
            build: super::build(),
            oom_score_adj: crate::sys::base::oom_score_adj().unwrap_or(0),
            refused: None,
            duty: None,
        }
    }

    /// The same as process 1.
    pub fn with_duty(mut self, duty: &'s mut dyn Duty) -> Self {
        self.duty = Some(duty);
        self
    }

    /// Runs to the end, whose code is for the shell.
    pub fn run(mut self) -> u8 {
        loop {
            self.start_supervisor();
            self.flush();
            if let Some(code) = self.outcome() {
                self.end(code);
                return code;
            }
            if self.is_out_of_time() {
                self.end(1);
                return 1;
            }
            let ready = self.wait();
            // First, while the places are what they were.
            self.hear(&ready.said);
            if ready.signals {
                self.take_signals();
            }
            if ready.listener {
                self.accept();
            }
            self.serve(&ready.links);
            if std::mem::take(&mut self.look) {
                self.note_exits();
            }
            self.drop_closed();
            self.go_on_with_upgrade();
        }
    }

    /// Sleeps until something is to be done. With nothing to be done there is no timeout.
    fn wait(&mut self) -> Ready {
        let timeout = self.timeout();
        let starved = std::mem::take(&mut self.starved);
        let interest = |link: &Link| {
            let read = if link.listens() { PollFlags::IN } else { PollFlags::empty() };
            if link.blocked { read | PollFlags::OUT } else { read }
        };
        let listen = if starved { PollFlags::empty() } else { PollFlags::IN };
        let mut polls = Vec::with_capacity(self.links.len().saturating_add(2));
        polls.push(PollFd::new(&self.parts.signals, PollFlags::IN));
        polls.push(PollFd::new(&self.parts.listener, listen));
        polls.extend(self.links.iter().map(|link| PollFd::new(&link.socket, interest(link))));
        let now = now_ns();
        let children = self.children.iter().enumerate();
        let (places, sockets): (Vec<usize>, Vec<_>) =
            children.filter_map(|(place, child)| Some((place, child.notify_socket(now)?))).unzip();
        polls.extend(sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
        // EINTR cannot come, for there are no handlers; after any error, whoever is ready is asked without waiting.
        let failed = poll(&mut polls, timeout.as_ref()).is_err();
        let ready: Vec<PollFlags> = polls.iter().map(PollFd::revents).collect();
        let any = |at: usize| failed || ready.get(at).is_some_and(|flags| !flags.is_empty());
        let links = (0..self.links.len()).map(|n| any(n.saturating_add(2))).collect();
        let first = self.links.len().saturating_add(2);
        let said = places.into_iter().enumerate().filter(|(n, _)| any(n.saturating_add(first))).map(|(_, at)| at);
        let state = Ready { signals: any(0), listener: any(1), links, said: said.collect() };
        for (link, writable) in self.links.iter_mut().zip(ready.iter().skip(2)) {
            if writable.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) {
                link.blocked = false;
            }
        }
        state
    }

    /// Whether process 1 has no more time for an ordered stop.
    fn is_out_of_time(&mut self) -> bool {
        let supervisor = (self.supervisor.pid, self.supervisor.starts);
        self.duty.as_mut().is_some_and(|duty| duty.round(now_ns(), supervisor))
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = now_ns();
        let duty = self.duty.as_ref().and_then(|duty| duty.due_ns());
        // More children ended than were buried in one turn.
        let more = self.look.then_some(now);
        let retry = self.starved.then(|| now.saturating_add(RETRY_NS));
        let upgrade = self.upgrade_due();
        let due = [self.supervisor.due_ns, retry, self.next_hearing(now), duty, more, upgrade];
        let due = due.into_iter().flatten().min()?;
        let left = due.saturating_sub(now);
        let part = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        let (seconds, rest) = (left.checked_div(1_000_000_000)?, left.checked_rem(1_000_000_000)?);
        Some(Timespec { tv_sec: part(seconds), tv_nsec: part(rest) })
    }

    /// SIGCHLD only wakes; who ended is asked for. Of those we do not know, its sender is a hint worth taking: an unread
    /// zombie of ours may hide it from a look at all.
    fn take_signals(&mut self) {
        for _ in 0..TURN_MAX {
            let Ok(Some(info)) = self.parts.signals.read_signal() else { return };
            if i32::try_from(info.ssi_signo) == Ok(SIGCHLD) {
                self.look = true;
                if let Ok(pid) = i32::try_from(info.ssi_pid) {
                    self.bury_unknown(pid);
                }
            } else {
                self.begin_stop();
                if let Some(duty) = self.duty.as_mut() {
                    duty.signalled(info.ssi_signo);
                }
            }
        }
    }

    /// From here on, whoever is the supervisor is to stop everything in order.
    pub(super) fn begin_stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.each_link(Role::Supervisor, |link| link.stop = true);
        }
    }

    pub(super) fn each_link(&mut self, role: Role, change: impl FnMut(&mut Link)) {
        self.links.iter_mut().filter(|link| link.is(role)).for_each(change);
    }

    /// Forgets closed connections. The supervisor hears of it when nobody controls us any more.
    pub(super) fn drop_closed(&mut self) {
        let anchors = |links: &[Link]| links.iter().filter(|link| link.role == Some(Role::Anchor)).count();
        let before = anchors(&self.links);
        self.links.retain(|link| !link.closed);
        if anchors(&self.links) < before {
            self.each_link(Role::Supervisor, |link| link.stats = true);
        }
    }

    /// Takes new connections, from root and from our own user.
    pub(super) fn accept(&mut self) {
        for _ in 0..TURN_MAX {
            match accept_with(&self.parts.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.admit(socket),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    self.starved = true;
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd) {
        let Ok(peer) = socket_peercred(&socket) else { return };
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            return;
        }
        if self.links.len() >= CONNECTIONS_MAX {
            // The oldest of those without a duty makes room.
            let idle = |link: &Link| !matches!(link.role, Some(Role::Supervisor | Role::Anchor));
            let Some(oldest) = self.links.iter().position(idle) else { return };
            self.links.remove(oldest);
        }
        self.links.push(Link::new(socket, peer.pid.as_raw_nonzero().get()));
    }

    /// Executes what ready connections ask.
    fn serve(&mut self, ready: &[bool]) {
        for at in 0..self.links.len() {
            // A connection accepted in this turn may have something already; if not, asking costs one call.
            if ready.get(at).copied().unwrap_or(true) {
                self.serve_one(at, TURN_MAX);
            }
        }
    }

    fn serve_one(&mut self, at: usize, most: usize) {
        for _ in 0..most {
            let Some(link) = self.links.get_mut(at).filter(|link| link.listens()) else { return };
            let Some(packet) = link.receive() else { return };
            self.handle(at, packet);
        }
    }

    /// Notes who ended, and buries those that nobody waits for.
    pub(super) fn note_exits(&mut self) {
        if let Some(pid) = self.supervisor.pid
            && let Some(exit) = ended(pid)
        {
            self.bury_supervisor(pid, exit);
        }
        let now = now_ns();
        for child in self.children.iter_mut().filter(|child| child.is_running()) {
            // ECHILD cannot be, for nobody else reaps: it would be an exit that nobody can tell.
            if let Ok(Some(ended)) = peek(Which::Pid(child.pid)) {
                child.exited(ended, now);
            }
        }
        self.forget_after_finish();
        for _ in 0..TURN_MAX {
            match peek(Which::Any) {
                Ok(Some(ended)) if self.may_bury(ended.pid) => self.bury_unknown(ended.pid),
                _ => return,
            }
        }
        self.look = true;
    }

    fn may_bury(&self, pid: i32) -> bool {
        !self.adopting
            && self.supervisor.pid != Some(pid)
            && !self.is_check(pid)
            && self.children.iter().all(|child| child.pid != pid)
    }

    fn bury_unknown(&mut self, pid: i32) {
        if self.may_bury(pid) {
            let _ = reap(Which::Pid(pid));
        }
    }

    /// The supervisor died: what it asked for last is done first, so that the next one finds it done. Only then is its
    /// pid given up, by which its connections are known.
    fn bury_supervisor(&mut self, pid: i32, exit: super::Exit) {
        self.accept();
        for at in 0..self.links.len() {
            let Some(link) = self.links.get_mut(at) else { break };
            if link.peer == pid {
                self.drain(at);
            }
        }
        self.links.retain(|link| link.peer != pid);
        let _ = reap(Which::Pid(pid));
        let nothing_at_stake = self.children.is_empty() && self.orphans.is_empty() && self.finish.is_none();
        self.refused = self.supervisor.refused_to_start(exit).filter(|_| nothing_at_stake);
        self.supervisor.died(now_ns(), self.finish.is_none());
    }

    /// Executes all that a connection has sent, then drops it.
    pub(super) fn drain(&mut self, at: usize) {
        for _ in 0..DRAIN_MAX {
            let Some(link) = self.links.get_mut(at).filter(|link| !link.closed) else { return };
            link.refusal = None;
            let Some(packet) = link.receive() else { break };
            self.handle(at, packet);
        }
        if let Some(link) = self.links.get_mut(at) {
            link.closed = true;
        }
    }

    /// With the supervisor gone for good, records of exits are nobody's.
    fn forget_after_finish(&mut self) {
        if self.finish == Some(Finish { leave_running: false }) && self.supervisor.pid.is_none() {
            let over = self.children.extract_if(.., |child| !child.is_running());
            for child in over {
                let _ = reap(Which::Pid(child.pid));
            }
        }
    }

    fn start_supervisor(&mut self) {
        let now = now_ns();
        if self.supervisor.pid.is_none()
            && self.refused.is_none()
            && self.supervisor.due_ns.is_some_and(|due| due <= now)
        {
            self.supervisor.start(self.parts.image.as_fd(), &self.parts.command, now);
        }
    }

    /// The code to end with, once there is nothing left to do.
    fn outcome(&self) -> Option<u8> {
        if self.supervisor.pid.is_some() {
            return None;
        }
        let empty = self.children.is_empty();
        let finished = self.finish.is_some_and(|finish| empty || (finish.leave_running && self.is_anchor));
        let hopeless = self.stopping && empty && self.orphans.is_empty() && self.supervisor.is_hopeless();
        self.refused.or(finished.then_some(0)).or(hopeless.then_some(1))
    }

    /// Whether children run without a supervisor until a later `moored up`.
    pub(super) fn is_dormant(&self) -> bool {
        let leaves = self.finish == Some(Finish { leave_running: true });
        leaves && self.supervisor.pid.is_none() && !self.is_anchor && !self.children.is_empty()
    }

    /// The next supervisor is wanted after all.
    pub(super) fn wake(&mut self) {
        self.finish = None;
        self.stopping = false;
        self.supervisor.due_ns = Some(0);
    }

    fn end(&mut self, code: u8) {
        // First the name: who connects from now on finds nobody and may start anew.
        let _ = std::fs::remove_file(self.parts.run_dir.join(super::SOCKET_NAME));
        let ended = Message::Ended { code, stays: false };
        self.each_link(Role::Anchor, |link| {
            link.send(&ended, &[]);
        });
    }

    pub(super) fn stats(&self) -> super::Stats {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let anchor = self.links.iter().find(|link| link.is(Role::Anchor)).map(|link| link.peer);
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        super::Stats {
            keeper: me,
            supervisor: self.supervisor.pid,
            anchor: if self.is_anchor { Some(me) } else { anchor },
            spare: !self.is_anchor && anchor.is_some() && anchor == parent,
            stopping: self.stopping,
            adopting: self.adopting,
            fresh: !self.supervisor.ever_ready && !self.is_anchor,
            children: count(self.children.len()),
            unacknowledged: count(self.children.iter().filter(|child| !child.is_running()).count()),
            held: count(self.named.len()),
            supervisor_starts: self.supervisor.starts,
            oom_score_adj: self.oom_score_adj,
        }
    }
}

fn ended(pid: i32) -> Option<super::Exit> {
    match peek(Which::Pid(pid)) {
        Ok(Some(ended)) => Some(exit(ended)),
        Ok(None) => None,
        // Not our child: then it is certainly not our supervisor any more.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
            Some(super::Exit::Signal { signal: 0, core: false })
        }
        Err(_) => None,
    }
}

/// `CLOCK_BOOTTIME`, which no clock step moves.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(now.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(now.tv_nsec))
}

/// A descriptor of the signals, which are blocked from here on; all others keep their way.
pub(crate) fn signals(wanted: &[i32]) -> io::Result<SignalFd> {
    use nix::sys::signalfd::SfdFlags;
    let set = signal_set(wanted)?;
    set.thread_set_mask()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// They must all be signals.
pub(super) fn signal_set(wanted: &[i32]) -> io::Result<nix::sys::signal::SigSet> {
    let mut set = nix::sys::signal::SigSet::empty();
    for signal in wanted {
        set.add(nix::sys::signal::Signal::try_from(*signal)?);
    }
    Ok(set)
}

//! The anchor's loop: signals in, one `Stop` out, the keeper's end.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::keeper::spares::Spares;
use crate::keeper::wire::{Message, Request, Stats};
use crate::keeper::{Duty, next_message_with, now_ns, send_request};
use crate::sys::signal::SIGCHLD;
use crate::sys::wait::{Which, peek, reap};

/// Most signals, messages or dead children handled in a row.
const TURN_MAX: usize = 4096;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The keeper said so; the code is for the shell.
    Done(u8),
    /// Without a word.
    KeeperDied,
    /// Not at all: it gave the anchor another program ([`Control::program`]).
    Replace,
    /// Process 1 has no more time for it.
    Late,
}

/// The control of one keeper.
pub(super) struct Control {
    pub socket: OwnedFd,
    /// The keeper if it is our child.
    pub keeper: Option<i32>,
    /// What the keeper gave to be executed.
    pub program: Option<OwnedFd>,
    /// What it gave to be held, in case that it dies.
    pub spares: Spares,
    /// An ordered stop was asked for.
    pub stopping: bool,
    /// What the keeper said last.
    ended: Option<u8>,
    /// The keeper will say nothing more.
    hung_up: bool,
    /// As the keeper said last, when it was asked.
    pub stats: Stats,
    /// More children may have ended than were buried in one turn.
    more: bool,
}

impl Control {
    pub fn new(socket: OwnedFd, keeper: Option<i32>) -> Self {
        let (stats, spares) = (Stats::default(), Spares::default());
        let (stopping, ended, hung_up, more) = (false, None, false, false);
        Control { socket, keeper, program: None, spares, stopping, ended, hung_up, stats, more }
    }

    /// Says something, if there is somebody to hear it.
    pub fn say(&self, request: &Request) {
        let _ = send_request(self.socket.as_fd(), request);
    }

    /// Waits for the keeper's end.
    pub fn run(&mut self, signals: &SignalFd, duty: &mut dyn Duty) -> End {
        loop {
            if self.attend(duty) {
                return End::Late;
            }
            let listen = if self.hung_up { PollFlags::empty() } else { PollFlags::IN };
            let mut polls = [PollFd::new(signals, PollFlags::IN), PollFd::new(&self.socket, listen)];
            // A closed peer is reported for ever, asked for or not: leave it out then.
            let polls = if self.hung_up { polls.split_at_mut(1).0 } else { polls.as_mut_slice() };
            let timeout = self.timeout(duty);
            let _ = poll(polls, timeout.as_ref());
            self.take_signals(signals, duty);
            if let Some(end) = self.look() {
                return end;
            }
        }
    }

    /// One round of the duty; asks for the figures that its next one takes. `true`: leave.
    fn attend(&mut self, duty: &mut dyn Duty) -> bool {
        let now = now_ns();
        let is_due = duty.due_ns().is_some_and(|due| due <= now);
        let leave = duty.round(now, (self.stats.supervisor, self.stats.supervisor_starts));
        if is_due && !leave {
            self.say(&Request::Stats);
        }
        leave
    }

    fn timeout(&self, duty: &dyn Duty) -> Option<Timespec> {
        if self.more {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        duty.due_ns().map(|due| span(due.saturating_sub(now_ns())))
    }

    fn take_signals(&mut self, signals: &SignalFd, duty: &mut dyn Duty) {
        for _ in 0..TURN_MAX {
            let Ok(Some(info)) = signals.read_signal() else { return };
            if i32::try_from(info.ssi_signo) == Ok(SIGCHLD) {
                continue;
            }
            duty.signalled(info.ssi_signo);
            if !self.stopping {
                self.stopping = true;
                // A keeper that just died gets it from us in its place.
                self.say(&Request::Stop);
            }
        }
    }

    /// Whether it is over: by word of the keeper, or by its death.
    fn look(&mut self) -> Option<End> {
        // The order matters: what the keeper said before it died is there once it is seen dead.
        let died = self.keeper_died();
        self.take_messages();
        if !died && self.ended.is_none() && self.program.is_some() {
            return Some(End::Replace);
        }
        match (self.ended, self.keeper) {
            (Some(code), None) => Some(End::Done(code)),
            (None, None) => self.hung_up.then_some(End::KeeperDied),
            (ended, Some(pid)) if died => {
                let _ = reap(Which::Pid(pid));
                Some(ended.map_or(End::KeeperDied, End::Done))
            }
            (_, Some(_)) => None,
        }
    }

    fn take_messages(&mut self) {
        while !self.hung_up && self.readable() {
            let Ok(Some(received)) = next_message_with(self.socket.as_fd()) else {
                self.hung_up = true;
                return;
            };
            match received.message {
                Some(Message::Ended { code, stays }) => {
                    self.ended = Some(code);
                    if stays {
                        // It goes on without us.
                        self.keeper = None;
                    }
                }
                Some(Message::Replace) => self.program = received.fds.into_iter().next(),
                Some(Message::Welcome { stats } | Message::Stats(stats)) => self.stats = stats,
                Some(Message::Held { name }) => {
                    if let Some(fd) = received.fds.into_iter().next() {
                        self.spares.hold(name, fd);
                    }
                }
                Some(Message::Unheld { name }) => self.spares.drop_one(&name),
                // What this version does not know is no end.
                Some(_) | None => {}
            }
        }
    }

    fn readable(&self) -> bool {
        !self.events().is_empty()
    }

    fn has_hung_up(&self) -> bool {
        self.hung_up || self.events().contains(PollFlags::HUP)
    }

    fn events(&self) -> PollFlags {
        let mut polls = [PollFd::new(&self.socket, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut polls, Some(&now)) {
            Ok(_) => polls.first().map_or(PollFlags::empty(), PollFd::revents),
            Err(_) => PollFlags::empty(),
        }
    }

    /// Whether the keeper is dead. Buries other children on the way: seeing the keeper alive after one of them was seen
    /// dead proves that it is not one that the keeper left to us. (Alive is one that has its socket open: a tracer may keep a
    /// death from us that has already left us the children, ptrace(2).)
    fn keeper_died(&mut self) -> bool {
        self.more = false;
        for _ in 0..TURN_MAX {
            let Ok(Some(ended)) = peek(Which::Any) else { return false };
            if let Some(keeper) = self.keeper
                && !matches!(peek(Which::Pid(keeper)), Ok(None))
            {
                return true;
            }
            if self.keeper.is_some() && self.has_hung_up() {
                return false;
            }
            let _ = reap(Which::Pid(ended.pid));
        }
        self.more = true;
        false
    }
}

/// For poll(2).
pub(super) fn span(ns: u64) -> Timespec {
    let part = |ns: Option<u64>| ns.and_then(|ns| i64::try_from(ns).ok()).unwrap_or(0);
    Timespec { tv_sec: part(ns.checked_div(1_000_000_000)), tv_nsec: part(ns.checked_rem(1_000_000_000)) }
}

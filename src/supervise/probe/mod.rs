//! The prober: the thread that asks containers whether they are well. It exists as soon as a unit with `[health]` runs.
//!
//! ```text
//! hands ──Ask, Leave──▶ inbox ──▶ prober ──Probed──▶ mailbox
//!                         ▲         ├─ exec: a session of the hands ─┐
//!                         └─ Done ──┴─ file: a thread of its own ────┘
//! ```
//!
//! - It knows no policy: what is asked, and what follows from the answers, is decided in [`plan`](crate::plan). It keeps the times.
//! - One probe at a time for each check. One that is not answered in time has failed; what does not even end then (a program that cannot be
//!   killed, a file system that hangs) fails again each time another one would have been due.
//! - Readiness and liveness are asked ever more rarely until they pass for the first time, beginning at once, so that the first pass is
//!   known soon; of these early ones only those count that were due anyway.
//! - A fault of ours (no descriptors, no memory) is no answer. It is told once, and changes no verdict.
//! - Passes that say nothing new are not told: a container that is well wakes nobody but this thread.
//! - Of a connection only the socket is made in the container's network namespace: this thread enters it and leaves it at once.

mod ask;
mod file;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::Builder;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use ask::{Asking, Home};

use super::bell::Inbox;
use super::job::Job;
use super::mail::Mail;
use super::session::{ExecProcess, Purpose, SessionJob};
use crate::plan::{Deed, Fact, Probed};
use crate::unit::{Check, CheckKind, ContainerId, Health, Probe, SourceFacts, Unit};

/// What the prober is told.
pub enum Order {
    /// Ask this from now on, instead of what was asked.
    Ask(Box<Subject>),
    /// Ask it nothing more.
    Leave(ContainerId),
    /// What was begun elsewhere under this number has ended.
    Done(u64, Found),
}

/// A container that is asked.
pub struct Subject {
    /// Which.
    pub id: ContainerId,
    /// Its checks.
    pub health: Arc<Health>,
    /// Those that are asked; `true`: there is a verdict already.
    pub asked: Vec<(CheckKind, bool)>,
    /// For programs that run inside.
    pub unit: Arc<Unit>,
    /// Its source.
    pub facts: Arc<SourceFacts>,
    /// Its pid 1 as the host numbers it, the number of `pidfd`.
    pub pid: i32,
    /// Of the same.
    pub pidfd: OwnedFd,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is well.
    Well,
    /// It is not: what was found.
    Sick(String),
    /// It could not be asked.
    Fault(String),
}

/// The first pause before the first pass; doubled up to the interval.
const EARLY: Duration = Duration::from_millis(250);

/// A check with a verdict is asked again within this time after the supervisor took over, each at a moment of its own.
const SPREAD: Duration = Duration::from_secs(2);

/// Programs at a time: each is a process that joins a container.
const PROGRAMS_MAX: usize = 16;

const STACK_BYTES: usize = 128 * 1024;
const EVENTS: usize = 64;
/// The inbox; checks count from 1.
const BELL: u64 = 0;

/// One check of one container.
struct Slot {
    subject: Arc<Subject>,
    kind: CheckKind,
    state: State,
    /// When the timer of this state is due; also in `timers`.
    at: Instant,
    /// The last failure that counted, or the beginning.
    counted: Instant,
    /// The next pause before the first pass.
    early: Duration,
    /// It passed once.
    passed: bool,
    /// Passes in a row that were told.
    told: u32,
    /// The last probe could not be asked, which was told.
    faulted: bool,
}

enum State {
    /// Until the next probe.
    Waiting,
    /// For one of [`PROGRAMS_MAX`] to end.
    Queued,
    /// A probe that began then.
    Asking(Instant, Asking),
    /// Failed for want of an answer, and not over yet.
    Late(Asking),
}

struct Prober {
    epoll: OwnedFd,
    inbox: Arc<Inbox<Order>>,
    hands: Arc<Inbox<Job>>,
    post: Sender<Mail>,
    home: Home,
    slots: HashMap<u64, Slot>,
    timers: BTreeSet<(Instant, u64)>,
    /// Checks whose program waits for its turn.
    queue: VecDeque<u64>,
    /// Programs that are in time; those that are late and do not die keep no others from their turn.
    programs: BTreeSet<u64>,
    next: u64,
}

/// Starts the thread.
pub fn start(hands: Arc<Inbox<Job>>, post: Sender<Mail>) -> std::io::Result<Arc<Inbox<Order>>> {
    let inbox = Arc::new(Inbox::new()?);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, inbox.bell(), epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
    let prober = Prober {
        epoll,
        inbox: Arc::clone(&inbox),
        hands,
        post,
        home: Home::here()?,
        slots: HashMap::new(),
        timers: BTreeSet::new(),
        queue: VecDeque::new(),
        programs: BTreeSet::new(),
        next: BELL + 1,
    };
    Builder::new().name("prober".to_owned()).stack_size(STACK_BYTES).spawn(move || prober.run())?;
    Ok(inbox)
}

impl Prober {
    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let timeout = self.timers.first().map(|(at, _)| timespec(at.saturating_duration_since(Instant::now())));
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return tracing::error!("the prober cannot wait: {errno}: checks are not asked any more"),
            }
            for event in &events {
                match event.data.u64() {
                    BELL => self.inbox.take().into_iter().for_each(|order| self.take(order)),
                    token => self.ready(token),
                }
            }
            self.expire(Instant::now());
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Ask(subject) => self.ask_from_now_on(*subject),
            Order::Leave(id) => self.keep_only(&id, |_| false),
            Order::Done(token, found) => self.done(token, found),
        }
    }

    // ---- who is asked what ----

    fn ask_from_now_on(&mut self, subject: Subject) {
        let subject = Arc::new(subject);
        let same = |slot: &Slot| subject.health.get(slot.kind).filter(|check| slot.check() == Some(check));
        self.keep_only(&subject.id, |slot| {
            same(slot).is_some() && subject.asked.iter().any(|(kind, _)| *kind == slot.kind)
        });
        for (kind, known) in &subject.asked {
            let there = self.slots.values_mut().find(|slot| slot.kind == *kind && slot.subject.id == subject.id);
            match there {
                Some(slot) => slot.subject = Arc::clone(&subject),
                None => self.add(&subject, *kind, *known),
            }
        }
    }

    fn add(&mut self, subject: &Arc<Subject>, kind: CheckKind, known: bool) {
        let (token, now) = (self.next, Instant::now());
        self.next += 1;
        let at = if known { now + spread(token) } else { now };
        let subject = Arc::clone(subject);
        let slot = Slot {
            subject,
            kind,
            state: State::Waiting,
            at,
            counted: now,
            early: EARLY,
            passed: known,
            told: 0,
            faulted: false,
        };
        self.slots.insert(token, slot);
        self.timers.insert((at, token));
    }

    fn keep_only(&mut self, id: &ContainerId, stays: impl Fn(&Slot) -> bool) {
        let goes = |(token, slot): (&u64, &Slot)| (slot.subject.id == *id && !stays(slot)).then_some(*token);
        let gone: Vec<u64> = self.slots.iter().filter_map(goes).collect();
        for token in gone {
            self.end_program(token);
            if let Some(slot) = self.slots.remove(&token) {
                self.timers.remove(&(slot.at, token));
            }
        }
    }

    // ---- time ----

    fn set(&mut self, token: u64, state: State, at: Instant) {
        if let Some(slot) = self.slots.get_mut(&token) {
            self.timers.remove(&(slot.at, token));
            (slot.state, slot.at) = (state, at);
            self.timers.insert((at, token));
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, token)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, token));
            let Some(slot) = self.slots.get_mut(&token) else { continue };
            match std::mem::replace(&mut slot.state, State::Waiting) {
                State::Waiting => self.begin(token, now),
                // It has no timer.
                State::Queued => slot.state = State::Queued,
                State::Asking(began, asking) => self.late(token, began, asking, now),
                State::Late(asking) => self.late(token, now, asking, now),
            }
        }
    }

    /// No answer in time. A connection is given up; what runs elsewhere is waited for, however long it takes.
    fn late(&mut self, token: u64, began: Instant, asking: Asking, now: Instant) {
        let Some(check) = self.check(token) else { return };
        let text = format!("no answer in {}", shown(check.timeout));
        let next = self.tell(token, Found::Sick(text), began, now);
        match asking.is_elsewhere() {
            false => self.set(token, State::Waiting, next),
            true => {
                self.set(token, State::Late(asking), next + check.timeout);
                self.end_program(token);
            }
        }
    }

    fn check(&self, token: u64) -> Option<Check> {
        self.slots.get(&token)?.check().cloned()
    }

    // ---- one probe ----

    fn begin(&mut self, token: u64, now: Instant) {
        let Some(check) = self.check(token) else { return };
        let Some(slot) = self.slots.get(&token) else { return };
        let subject = Arc::clone(&slot.subject);
        let begun = match &check.probe {
            Probe::Exec(_) if self.programs.len() >= PROGRAMS_MAX => {
                self.queue.push_back(token);
                if let Some(slot) = self.slots.get_mut(&token) {
                    slot.state = State::Queued;
                }
                return;
            }
            Probe::Exec(args) => self.run_program(token, &subject, args.clone()),
            Probe::File { path, max_age } => {
                file::look(token, &subject, path.clone(), *max_age, Arc::clone(&self.inbox)).map(|()| Asking::Elsewhere)
            }
            Probe::Tcp { addresses, .. } => self.home.connect(&subject, check.from, addresses, None),
            Probe::Http { addresses, host, path, .. } => {
                self.home.connect(&subject, check.from, addresses, Some(ask::request(host, path)))
            }
        };
        match begun.and_then(|asking| self.watch(token, &asking).map(|()| asking)) {
            Ok(asking) => self.set(token, State::Asking(now, asking), now + check.timeout),
            Err(text) => self.answered(token, Found::Fault(text), now),
        }
    }

    fn watch(&self, token: u64, asking: &Asking) -> Result<(), String> {
        let Some((fd, flags)) = asking.awaits() else { return Ok(()) };
        let data = epoll::EventData::new_u64(token);
        let added = match epoll::add(&self.epoll, fd, data, flags) {
            Err(rustix::io::Errno::EXIST) => epoll::modify(&self.epoll, fd, data, flags),
            added => added,
        };
        added.map_err(|errno| format!("watching a descriptor: {errno}"))
    }

    fn run_program(&mut self, token: u64, subject: &Arc<Subject>, args: Vec<String>) -> Result<Asking, String> {
        let (output, asking) = ask::output()?;
        let copy = output.try_clone().map_err(|error| format!("copying a descriptor: {error}"))?;
        let null = super::fifo::null().map_err(|errno| format!("opening /dev/null: {errno}"))?;
        self.programs.insert(token);
        self.hands.push(Job::Session(Box::new(SessionJob {
            container: subject.id.clone(),
            unit: Arc::clone(&subject.unit),
            facts: Arc::clone(&subject.facts),
            process: ExecProcess { args, ..ExecProcess::default() },
            fds: vec![null, output, copy],
            purpose: Purpose::Probe(token, Arc::clone(&self.inbox)),
        })));
        Ok(asking)
    }

    /// A program that nobody waits for any more is killed; whoever waits for a turn has one more.
    fn end_program(&mut self, token: u64) {
        let asking = self.slots.get(&token).and_then(|slot| match &slot.state {
            State::Asking(_, asking) | State::Late(asking) => Some(asking),
            State::Waiting | State::Queued => None,
        });
        if let Some(Asking::Program { .. }) = asking {
            self.hands.push(Job::EndProbe(token));
            self.free_turn(token);
        }
    }

    fn free_turn(&mut self, token: u64) {
        if !self.programs.remove(&token) {
            return;
        }
        while let Some(next) = self.queue.pop_front() {
            if self.slots.contains_key(&next) {
                return self.begin(next, Instant::now());
            }
        }
    }

    /// Something happened on the descriptor of a probe.
    fn ready(&mut self, token: u64) {
        let Some(slot) = self.slots.get_mut(&token) else { return };
        match std::mem::replace(&mut slot.state, State::Waiting) {
            State::Asking(began, asking) => {
                let (subject, at) = (Arc::clone(&slot.subject), slot.at);
                let from = slot.check().map_or(crate::unit::From::Container, |check| check.from);
                match asking.go_on(&self.home, &subject, from) {
                    ask::Step::Same(asking) => self.set(token, State::Asking(began, asking), at),
                    ask::Step::Next(asking) => match self.watch(token, &asking) {
                        Ok(()) => self.set(token, State::Asking(began, asking), at),
                        Err(text) => self.answered(token, Found::Fault(text), began),
                    },
                    ask::Step::Answered(found) => self.answered(token, found, began),
                }
            }
            State::Late(asking) => {
                let at = slot.at;
                let asking = asking.drained();
                self.set(token, State::Late(asking), at);
            }
            other => slot.state = other,
        }
    }

    /// A program or a look has ended.
    fn done(&mut self, token: u64, found: Found) {
        if let Some(slot) = self.slots.get_mut(&token) {
            match std::mem::replace(&mut slot.state, State::Waiting) {
                State::Asking(began, asking) => self.answered(token, asking.with_output(found), began),
                // It has failed already; now the next one can be asked.
                State::Late(_) => {
                    let pause = slot.check().map_or(EARLY, |check| check.interval);
                    self.set(token, State::Waiting, Instant::now() + pause);
                }
                other => slot.state = other,
            }
        }
        self.free_turn(token);
    }

    fn answered(&mut self, token: u64, found: Found, began: Instant) {
        let next = self.tell(token, found, began, Instant::now());
        self.set(token, State::Waiting, next);
    }

    /// Posts what is news; says when to ask again.
    fn tell(&mut self, token: u64, found: Found, began: Instant, now: Instant) -> Instant {
        let Some(slot) = self.slots.get_mut(&token) else { return now };
        let Some(check) = slot.check().cloned() else { return now };
        let (id, kind) = (slot.subject.id.clone(), slot.kind);
        let first_fault = !std::mem::replace(&mut slot.faulted, matches!(found, Found::Fault(_)));
        let (fact, next) = match found {
            Found::Fault(text) => {
                let text = format!("{} could not be asked: {text}", kind.word());
                let fact = Fact::ActionFailed { id, deed: Deed::Probe, text };
                (Some(fact).filter(|_| first_fault), now + check.interval.max(EARLY))
            }
            Found::Well => {
                let news = slot.told < check.successes;
                slot.told = slot.told.saturating_add(1);
                slot.passed = true;
                (Some(slot.probed(Probed::Passed, &check)).filter(|_| news), now + check.interval)
            }
            Found::Sick(text) => {
                let text = phrase(&check.probe, text);
                slot.told = 0;
                let regular = slot.passed || kind == CheckKind::Startup;
                let counts = regular || began.saturating_duration_since(slot.counted) >= check.interval;
                if counts {
                    slot.counted = began;
                }
                let pause = if regular { check.interval } else { slot.early.min(check.interval) };
                slot.early = slot.early.saturating_mul(2);
                (Some(slot.probed(Probed::Failed { text, counts }, &check)), now + pause)
            }
        };
        if let Some(fact) = fact {
            let _ = self.post.send(Mail::Fact(fact));
        }
        next
    }
}

impl Slot {
    fn check(&self) -> Option<&Check> {
        self.subject.health.get(self.kind)
    }

    fn probed(&self, probed: Probed, check: &Check) -> Fact {
        let id = self.subject.id.clone();
        Fact::Probed { id, check: self.kind, probed, failures: check.failures, successes: check.successes }
    }
}

/// What was asked and what was found, for people.
fn phrase(probe: &Probe, text: String) -> String {
    match probe {
        Probe::Exec(args) => format!("{}: {text}", args.first().map_or("", String::as_str)),
        Probe::Http { url, .. } => format!("GET {url}: {text}"),
        Probe::Tcp { address, .. } if !text.contains(':') => format!("{address}: {text}"),
        Probe::File { path, .. } if !text.starts_with('/') => format!("{}: {text}", path.display()),
        Probe::Tcp { .. } | Probe::File { .. } => text,
    }
}

fn shown(duration: Duration) -> String {
    crate::unit::quantity::show_duration(duration)
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up: a wake-up before the time would be one for nothing.
    Timespec::try_from(duration + Duration::from_micros(50)).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
}

/// Multiplicative hashing (Knuth) of consecutive numbers spreads them evenly.
fn spread(token: u64) -> Duration {
    let hash = token.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    SPREAD.mul_f64(hash as f64 / f64::from(u32::MAX))
}

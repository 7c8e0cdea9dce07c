//! The log thread: which pipe is moved when. Header of [`super`] for the rules of what is written.
//!
//! A container is attached, then maybe failing (the disk does not take its bytes: they are read, counted and a retry is due), then drained.
//! Commands come through a channel and an eventfd; the caller never waits.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll};
use rustix::io::Errno;

use super::cap::{Cut, Use, plan_cut};
use super::index::Stream;
use super::segment;
use super::unit_log::{Moved, StoreError, UnitLog};
use crate::unit::{ContainerId, Log, UnitName};

/// The most that one pipe moves before the next has its turn.
const TURN_MAX_BYTES: usize = 1 << 20;
/// Readiness reports taken at once.
const BATCH: usize = 64;
/// A pipe that was found full twice in a row becomes this large (a pipe starts with 64 KiB). Best effort: the kernel limits what a
/// user's pipes may take.
const BUSY_PIPE_BYTES: usize = 1 << 20;
/// Full turns in a row that make a pipe busy.
const BUSY_TURNS: u8 = 2;
/// After small moves from a busy pipe the thread lets it fill for this long instead of waking up for each write.
const GATHER: Duration = Duration::from_micros(500);
/// What counts as small: then the pipe has room for what comes meanwhile.
const GATHER_BELOW_BYTES: usize = 16 * 1024;
/// Times between two tries to write to a disk that failed.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// One read of what is dropped.
const DISCARD_BYTES: usize = 64 * 1024;
/// The host's cap is not below this.
const HOST_CAP_MIN_BYTES: u64 = 1 << 20;
/// The eventfd's token; containers' are `slot * 2 + stream`.
const WAKE: u64 = u64::MAX;
/// The thread calls little of anything.
const STACK_BYTES: usize = 256 * 1024;

/// What the log thread tells the loop.
#[derive(Debug)]
pub enum LogEvent {
    /// Both pipes of this container were read empty after [`LogWriter::drain`], and it is detached.
    Drained(ContainerId),
    /// The disk does not take this unit's bytes; they are counted and dropped from now on.
    Dropping {
        /// Whose.
        unit: UnitName,
        /// What failed.
        error: StoreError,
    },
    /// The disk takes bytes again, and the count is in the index.
    Recorded {
        /// Whose.
        unit: UnitName,
        /// How many are missing.
        dropped_bytes: u64,
    },
}

/// Why the log thread could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log directory cannot be made.
    #[error("cannot make the log directory {path}: {source}")]
    MakeDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nor listed.
    #[error("cannot list the log directory {path}: {source}")]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No epoll, eventfd or thread.
    #[error("cannot start the log thread ({step}): {source}")]
    Thread {
        /// The call.
        step: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

enum Command {
    Attach { id: ContainerId, pipes: [OwnedFd; 2], limits: Option<Log> },
    Drain(ContainerId),
    Detach(ContainerId),
    SetLimits(UnitName, Log),
    Shutdown,
}

/// The handle of the log thread. Dropping it ends the thread; what is in the pipes stays there.
#[derive(Debug)]
pub struct LogWriter {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Makes `log_dir`, counts what is in it, starts the thread. `post` is called on that thread and must not block.
    pub fn start(
        log_dir: &Path,
        host_cap_bytes: u64,
        post: impl Fn(LogEvent) + Send + 'static,
    ) -> Result<LogWriter, LogError> {
        let made = segment::make_dir(log_dir);
        made.map_err(|source| LogError::MakeDir { path: log_dir.to_owned(), source })?;
        let failed = |step| move |errno: Errno| LogError::Thread { step, source: errno.into() };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).map_err(failed("eventfd"))?);
        let token = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &wake, token, epoll::EventFlags::IN).map_err(failed("epoll_ctl"))?;
        let (commands, inbox) = channel();
        let bytes = Arc::new(AtomicU64::new(0));
        let mut mover = Mover {
            log_dir: log_dir.to_owned(),
            cap_bytes: host_cap_bytes.max(HOST_CAP_MIN_BYTES),
            post: Box::new(post),
            epoll,
            wake: Arc::clone(&wake),
            inbox,
            containers: Vec::new(),
            slots: BTreeMap::new(),
            units: BTreeMap::new(),
            total_bytes: 0,
            shared_bytes: Arc::clone(&bytes),
            failing: 0,
        };
        mover.find_units().map_err(|source| LogError::List { path: log_dir.to_owned(), source })?;
        let thread = std::thread::Builder::new().name("logs".into()).stack_size(STACK_BYTES).spawn(move || mover.run());
        let thread = thread.map_err(|source| LogError::Thread { step: "clone", source })?;
        Ok(LogWriter { commands, wake, bytes, thread: Some(thread) })
    }

    /// Takes the read ends of a container's two FIFOs (`O_RDONLY` or `O_RDWR`; made non-blocking). After a crash of the
    /// supervisor the same FIFOs are attached again and the log goes on where the kernel left it.
    pub fn attach(&self, id: ContainerId, out: OwnedFd, err: OwnedFd, limits: Log) {
        self.send(Command::Attach { id, pipes: [out, err], limits: Some(limits) });
    }

    /// The same for a container found at work, whose caps are those that [`LogWriter::set_limits`] said or says: until then its log grows,
    /// for a file that is removed too early does not come back.
    pub fn attach_again(&self, id: ContainerId, out: OwnedFd, err: OwnedFd) {
        self.send(Command::Attach { id, pipes: [out, err], limits: None });
    }

    /// The container has ended: move what is in its pipes now, detach it, post [`LogEvent::Drained`]. Also posted for an id that is not attached.
    pub fn drain(&self, id: ContainerId) {
        self.send(Command::Drain(id));
    }

    /// Lets go of a container without reading its pipes (a start that failed, a hand-over).
    pub fn detach(&self, id: ContainerId) {
        self.send(Command::Detach(id));
    }

    /// Caps of a unit, attached or not.
    pub fn set_limits(&self, unit: UnitName, limits: Log) {
        self.send(Command::SetLimits(unit, limits));
    }

    /// Bytes of all logs below the log directory, as tracked.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends the thread after the commands given so far, and waits for it (at most one turn of moving, unless the disk hangs).
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.send(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn send(&self, command: Command) {
        // The receiver lives as long as the thread, which ends only on Shutdown. A full eventfd counter is a wake-up too.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end();
        }
    }
}

#[derive(Debug)]
struct Pipe {
    fd: OwnedFd,
    /// Turns in a row that found it full.
    full_turns: u8,
    /// It was busy once and has its large size (or the kernel refused).
    grown: bool,
    /// Nobody has it open for writing: reported once per change instead of all the time.
    hushed: bool,
}

#[derive(Debug)]
struct Container {
    id: ContainerId,
    pipes: [Pipe; 2],
    /// Bytes read and not stored, not yet in the index.
    dropped: [u64; 2],
    /// Whether the index says that this generation began.
    begun: bool,
    failing: Option<Failing>,
}

/// The disk did not take this container's bytes.
#[derive(Debug, Clone, Copy)]
struct Failing {
    retry_at: Instant,
    wait: Duration,
}

const STREAMS: [Stream; 2] = [Stream::Out, Stream::Err];

/// The thread's state.
struct Mover {
    log_dir: PathBuf,
    cap_bytes: u64,
    post: Box<dyn Fn(LogEvent) + Send>,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    inbox: Receiver<Command>,
    containers: Vec<Option<Container>>,
    slots: BTreeMap<ContainerId, usize>,
    units: BTreeMap<UnitName, UnitLog>,
    total_bytes: u64,
    shared_bytes: Arc<AtomicU64>,
    /// Containers with `failing` set: without any the thread sleeps without a timeout.
    failing: usize,
}

impl Mover {
    /// Counts what is on disk: it takes part in the host's cap, also of units that are gone.
    fn find_units(&mut self) -> std::io::Result<()> {
        for entry in std::fs::read_dir(&self.log_dir)? {
            let entry = entry?;
            let Some(unit) = entry.file_name().to_str().and_then(|name| UnitName::new(name).ok()) else { continue };
            if !entry.file_type()?.is_dir() {
                continue;
            }
            if let Ok(found) = UnitLog::found(&entry.path()) {
                self.total_bytes += found.bytes();
                self.units.insert(unit, found);
            }
        }
        self.shared_bytes.store(self.total_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            events.clear();
            let timeout = self.next_retry();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                // Any other error means that the epoll descriptor is none: a bug, and nothing more can be moved.
                Err(Errno::INTR) | Ok(_) => {}
                Err(_) => return,
            }
            let mut gather = false;
            for event in &events {
                let epoll::Event { data, flags } = *event;
                match data.u64() {
                    WAKE => {}
                    token => gather |= self.turn(token, flags),
                }
            }
            if events.iter().any(|event| { event.data }.u64() == WAKE) && !self.obey() {
                return;
            }
            self.retry_due();
            self.hold_cap();
            if gather {
                std::thread::sleep(GATHER);
            }
        }
    }

    /// Does what was asked; false at the end.
    fn obey(&mut self) -> bool {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Attach { id, pipes, limits }) => self.attach(id, pipes, limits),
                Ok(Command::Drain(id)) => self.drain(id),
                Ok(Command::Detach(id)) => self.detach(&id),
                Ok(Command::SetLimits(unit, limits)) => {
                    self.units.entry(unit).or_insert_with(UnitLog::empty).set_limits(limits)
                }
                Err(TryRecvError::Empty) => return true,
                Ok(Command::Shutdown) | Err(TryRecvError::Disconnected) => {
                    self.retry_all();
                    return false;
                }
            }
        }
    }

    fn attach(&mut self, id: ContainerId, [out, err]: [OwnedFd; 2], limits: Option<Log>) {
        self.detach(&id);
        let pipe = |fd| Pipe { fd, full_turns: 0, grown: false, hushed: false };
        let pipes = [pipe(out), pipe(err)];
        let slot = self.containers.iter().position(Option::is_none).unwrap_or(self.containers.len());
        for (stream, pipe) in pipes.iter().enumerate() {
            let _ = rustix::io::ioctl_fionbio(&pipe.fd, true);
            let token = epoll::EventData::new_u64((slot * 2 + stream) as u64);
            // Fails only for lack of memory or watches; the pipe is then still read when it is drained.
            let _ = epoll::add(&self.epoll, &pipe.fd, token, epoll::EventFlags::IN);
        }
        if slot == self.containers.len() {
            self.containers.push(None);
        }
        let log = match self.units.entry(id.unit.clone()) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let dir = self.log_dir.join(id.unit.as_str());
                // A directory that cannot be listed fails again, and is reported, when it is opened for writing.
                new.insert(UnitLog::found(&dir).unwrap_or_else(|_| UnitLog::empty()))
            }
        };
        limits.into_iter().for_each(|limits| log.set_limits(limits));
        log.attached += 1;
        self.slots.insert(id.clone(), slot);
        self.containers[slot] = Some(Container { id, pipes, dropped: [0; 2], begun: false, failing: None });
        self.store(slot, |_, _, _, _| Ok(()));
    }

    /// Takes the container away and closes its pipes.
    fn detach(&mut self, id: &ContainerId) {
        let Some(container) = self.slots.remove(id).and_then(|slot| self.containers[slot].take()) else { return };
        self.failing -= usize::from(container.failing.is_some());
        if let Some(log) = self.units.get_mut(&id.unit) {
            log.owe(id.generation, container.dropped);
            log.attached -= 1;
            if log.attached == 0 {
                log.close();
            }
        }
    }

    /// What was in the pipes when the container had ended is at most what they hold now: a process that escaped and
    /// goes on writing cannot keep this from ending.
    fn drain(&mut self, id: ContainerId) {
        if let Some(slot) = self.slots.get(&id).copied() {
            for stream in STREAMS {
                let mut pending = self.pending(slot, stream);
                while pending > 0 {
                    let Some(moved) = self.move_some(slot, stream, TURN_MAX_BYTES).filter(|moved| *moved > 0) else {
                        break;
                    };
                    pending = pending.saturating_sub(moved as u64);
                }
            }
            self.retry(slot);
            self.store(slot, |log, dir, id, _| log.end(dir, id.generation));
            self.detach(&id);
            self.hold_cap();
        }
        (self.post)(LogEvent::Drained(id));
    }

    fn pending(&self, slot: usize, stream: Stream) -> u64 {
        let pipe = self.containers[slot].as_ref().map(|container| &container.pipes[stream as usize].fd);
        pipe.and_then(|fd| rustix::io::ioctl_fionread(fd).ok()).unwrap_or(0)
    }

    /// One report of epoll. True if the pipe is busy with small writes.
    fn turn(&mut self, token: u64, flags: epoll::EventFlags) -> bool {
        let (slot, stream) = ((token / 2) as usize, STREAMS[(token % 2) as usize]);
        if self.containers.get(slot).is_none_or(Option::is_none) {
            return false;
        }
        if !flags.contains(epoll::EventFlags::IN) {
            self.hush(slot, stream, true);
            return false;
        }
        match self.move_some(slot, stream, TURN_MAX_BYTES) {
            None => {
                self.hush(slot, stream, true);
                false
            }
            Some(moved) => {
                self.hush(slot, stream, false);
                self.notice_busy(slot, stream, moved)
            }
        }
    }

    /// A pipe without writers is reported as hung up for ever; edge-triggered it is reported once, and again when it has data.
    fn hush(&mut self, slot: usize, stream: Stream, hushed: bool) {
        let Some(container) = self.containers[slot].as_mut() else { return };
        let pipe = &mut container.pipes[stream as usize];
        if pipe.hushed == hushed {
            return;
        }
        pipe.hushed = hushed;
        let edge = if hushed { epoll::EventFlags::ET } else { epoll::EventFlags::empty() };
        let token = epoll::EventData::new_u64((slot * 2 + stream as usize) as u64);
        let _ = epoll::modify(&self.epoll, &pipe.fd, token, epoll::EventFlags::IN | edge);
    }

    /// Makes a busy pipe larger; true if it is large and there was little in it.
    fn notice_busy(&mut self, slot: usize, stream: Stream, moved: usize) -> bool {
        let Some(container) = self.containers[slot].as_mut() else { return false };
        let pipe = &mut container.pipes[stream as usize];
        if pipe.grown {
            return moved < GATHER_BELOW_BYTES;
        }
        let full = rustix::pipe::fcntl_getpipe_size(&pipe.fd).is_ok_and(|size| moved >= size / 2);
        pipe.full_turns = if full { pipe.full_turns + 1 } else { 0 };
        if pipe.full_turns >= BUSY_TURNS {
            pipe.grown = true;
            let _ = rustix::pipe::fcntl_setpipe_size(&pipe.fd, BUSY_PIPE_BYTES);
        }
        false
    }

    /// One bounded move from a pipe, to the file or (while the disk fails) to nowhere. `None`: empty, and nobody writes.
    fn move_some(&mut self, slot: usize, stream: Stream, max: usize) -> Option<usize> {
        let failing = self.containers[slot].as_ref().and_then(|container| container.failing);
        if failing.is_some_and(|failing| Instant::now() < failing.retry_at) {
            return self.discard(slot, stream);
        }
        let mut moved = Moved::Empty;
        let stored = self.store(slot, |log, dir, id, pipes| {
            moved = log.append(dir, (id.generation, stream), now_ms(), pipes[stream as usize].fd.as_fd(), max)?;
            Ok(())
        });
        match moved {
            _ if !stored => self.discard(slot, stream),
            Moved::Bytes(bytes) => Some(bytes),
            Moved::Empty => Some(0),
            Moved::Closed => None,
        }
    }

    fn discard(&mut self, slot: usize, stream: Stream) -> Option<usize> {
        let container = self.containers[slot].as_mut()?;
        let mut buffer = [0; DISCARD_BYTES];
        let read = match rustix::io::read(&container.pipes[stream as usize].fd, &mut buffer) {
            Ok(0) => return None,
            read => read.unwrap_or(0),
        };
        container.dropped[stream as usize] += read as u64;
        Some(read)
    }

    /// Everything that touches a unit's files passes here: first what the index lacks (the generation's beginning, what was
    /// dropped), then `write`. False if the disk did not take it: then the container is failing and a retry is due.
    fn store(
        &mut self,
        slot: usize,
        write: impl FnOnce(&mut UnitLog, &Path, &ContainerId, &[Pipe; 2]) -> Result<(), StoreError>,
    ) -> bool {
        let Some(container) = self.containers[slot].as_mut() else { return false };
        let Some(log) = self.units.get_mut(&container.id.unit) else { return false };
        let dir = self.log_dir.join(container.id.unit.as_str());
        let before = log.bytes();
        let lacking = container.dropped.iter().sum();
        let mut stored = tell_lacking(container, log, &dir);
        if stored.is_ok() {
            if container.failing.take().is_some() {
                self.failing -= 1;
                (self.post)(LogEvent::Recorded { unit: container.id.unit.clone(), dropped_bytes: lacking });
            }
            stored = write(log, &dir, &container.id, &container.pipes);
        }
        self.total_bytes = (self.total_bytes + log.bytes()).saturating_sub(before);
        let Err(error) = stored else { return true };
        let wait = container.failing.map_or(RETRY_FIRST, |failing| (failing.wait * 2).min(RETRY_MAX));
        let first = container.failing.replace(Failing { retry_at: Instant::now() + wait, wait }).is_none();
        if first {
            self.failing += 1;
            (self.post)(LogEvent::Dropping { unit: container.id.unit.clone(), error });
        }
        false
    }

    fn retry(&mut self, slot: usize) {
        if self.containers[slot].as_ref().is_some_and(|container| container.failing.is_some()) {
            self.store(slot, |_, _, _, _| Ok(()));
        }
    }

    fn retry_all(&mut self) {
        (0..self.containers.len()).for_each(|slot| self.retry(slot));
    }

    fn retry_due(&mut self) {
        if self.failing == 0 {
            return;
        }
        let now = Instant::now();
        for slot in 0..self.containers.len() {
            let failing = self.containers[slot].as_ref().and_then(|container| container.failing);
            if failing.is_some_and(|failing| failing.retry_at <= now) {
                self.retry(slot);
            }
        }
    }

    /// How long to sleep at most; `None` (for ever) unless a disk fails.
    fn next_retry(&self) -> Option<Timespec> {
        if self.failing == 0 {
            return None;
        }
        let failing = self.containers.iter().flatten().filter_map(|container| container.failing);
        let wait = failing.map(|failing| failing.retry_at).min()?.saturating_duration_since(Instant::now());
        Timespec::try_from(wait).ok()
    }

    fn hold_cap(&mut self) {
        self.cut_to_cap();
        self.shared_bytes.store(self.total_bytes, Ordering::Relaxed);
    }

    /// Removes files until the host's cap is kept; each step removes or empties one, so it ends.
    fn cut_to_cap(&mut self) {
        while self.total_bytes > self.cap_bytes {
            let uses = self.units.values().map(|log| Use {
                bytes: log.bytes(),
                rotated: log.rotated(),
                current_bytes: log.current_bytes(),
            });
            let Some(cut) = plan_cut(uses) else { return };
            let (Cut::Oldest(at) | Cut::Rotate(at)) = cut;
            let Some((unit, log)) = self.units.iter_mut().nth(at) else { return };
            let (dir, before) = (self.log_dir.join(unit.as_str()), log.bytes());
            let cut = match cut {
                Cut::Oldest(_) => log.remove_oldest(&dir),
                Cut::Rotate(_) => log.rotate(&dir).is_ok() && (log.rotated() == 0 || log.remove_oldest(&dir)),
            };
            if log.attached == 0 {
                log.close();
            }
            self.total_bytes = (self.total_bytes + log.bytes()).saturating_sub(before);
            if !cut {
                return;
            }
        }
    }
}

/// Writes to the index what it should say of this container already.
fn tell_lacking(container: &mut Container, log: &mut UnitLog, dir: &Path) -> Result<(), StoreError> {
    let generation = container.id.generation;
    log.pay(dir, now_ms())?;
    if !container.begun {
        log.begin(dir, generation)?;
        container.begun = true;
    }
    for stream in STREAMS {
        let dropped = &mut container.dropped[stream as usize];
        if *dropped > 0 {
            log.dropped(dir, generation, stream, *dropped, now_ms())?;
            *dropped = 0;
        }
    }
    Ok(())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

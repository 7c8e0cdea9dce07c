//! The log thread: which pipe is moved when. Header of [`super`] for the rules of what is written.
//!
//! A container is attached, then maybe failing (the disk does not take its bytes: they are read, counted and a retry is due), then drained.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::cap::{Cut, Use, plan_cut};
use super::index::Stream;
use super::stage::Stage;
use super::terminal::Terminal;
use super::unit_log::{Moved, StoreError, UnitLog};
use super::writer::LogEvent;
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
/// Most that is taken from the terminal of a container that has ended; the kernel keeps far less of it. A process that escaped and goes on
/// writing cannot keep this from ending.
const TERMINAL_MAX_BYTES: usize = 1 << 20;
/// One read of what is dropped.
const DISCARD_BYTES: usize = 64 * 1024;
/// The eventfd's token; containers' are `slot * SOURCES + stream`, and the terminal behind the streams.
pub(super) const WAKE: u64 = u64::MAX;

/// What the handle wants of the thread.
pub(super) enum Command {
    Attach { id: ContainerId, pipes: [OwnedFd; 2], limits: Option<Log> },
    Terminal { id: ContainerId, master: OwnedFd, into: OwnedFd },
    Drain(ContainerId),
    Detach(ContainerId),
    SetLimits(UnitName, Log),
    Shutdown,
}

#[derive(Debug)]
struct Pipe {
    fd: OwnedFd,
    /// Turns in a row that found it full.
    full_turns: u8,
    /// It was busy once, maybe under an earlier supervisor, and has its large size (or the kernel refused).
    grown: bool,
    /// Nobody has it open for writing: reported once per change instead of all the time.
    hushed: bool,
}

#[derive(Debug)]
struct Container {
    id: ContainerId,
    pipes: [Pipe; 2],
    terminal: Option<Terminal>,
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
/// What is read of one container: its streams, and its terminal.
const SOURCES: usize = STREAMS.len() + 1;

/// What wakes the thread.
pub(super) struct Inlet {
    /// Waits for the eventfd and all pipes.
    pub epoll: OwnedFd,
    /// Tells that there are commands.
    pub wake: Arc<OwnedFd>,
    /// The commands.
    pub inbox: Receiver<Command>,
}

/// The thread's state.
pub(super) struct Mover {
    log_dir: PathBuf,
    cap_bytes: u64,
    post: Box<dyn Fn(LogEvent) + Send>,
    inlet: Inlet,
    stage: Stage,
    containers: Vec<Option<Container>>,
    slots: BTreeMap<ContainerId, usize>,
    units: BTreeMap<UnitName, Box<UnitLog>>,
    total_bytes: u64,
    shared_bytes: Arc<AtomicU64>,
    /// Containers with `failing` set: without any the thread sleeps without a timeout.
    failing: usize,
}

impl Mover {
    /// Nothing is attached yet, and nothing counted.
    pub(super) fn new(
        log_dir: &Path,
        cap_bytes: u64,
        post: Box<dyn Fn(LogEvent) + Send>,
        inlet: Inlet,
        stage: Stage,
        shared_bytes: Arc<AtomicU64>,
    ) -> Mover {
        Mover {
            log_dir: log_dir.to_owned(),
            cap_bytes,
            post,
            inlet,
            stage,
            containers: Vec::new(),
            slots: BTreeMap::new(),
            units: BTreeMap::new(),
            total_bytes: 0,
            shared_bytes,
            failing: 0,
        }
    }

    /// Counts what is on disk: it takes part in the host's cap, also of units that are gone.
    pub(super) fn find_units(&mut self) -> std::io::Result<()> {
        for entry in std::fs::read_dir(&self.log_dir)? {
            let entry = entry?;
            let Some(unit) = entry.file_name().to_str().and_then(|name| UnitName::new(name).ok()) else { continue };
            if !entry.file_type()?.is_dir() {
                continue;
            }
            if let Ok(found) = UnitLog::found(&entry.path()) {
                self.total_bytes += found.bytes();
                self.units.insert(unit, Box::new(found));
            }
        }
        self.shared_bytes.store(self.total_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Stores what a supervisor before this one had taken from a container's pipe and not yet written.
    pub(super) fn finish_staged(&mut self) {
        let Some(((id, stream), mut bytes)) = self.stage.left() else { return };
        let dir = self.log_dir.join(id.unit.as_str());
        let log = self.units.entry(id.unit).or_insert_with(|| Box::new(UnitLog::empty()));
        let before = log.bytes();
        while bytes > 0 {
            match log.append(&dir, (id.generation, stream), now_ms(), self.stage.as_fd(), bytes) {
                Ok(Moved::Bytes(moved)) => bytes -= moved,
                Ok(Moved::Empty | Moved::Closed) => break,
                Err(_) => {
                    let mut dropped = [0; 2];
                    dropped[stream as usize] = self.stage.discard();
                    log.owe(id.generation, dropped);
                    break;
                }
            }
        }
        log.close();
        self.total_bytes = (self.total_bytes + log.bytes()).saturating_sub(before);
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            events.clear();
            let timeout = self.next_retry();
            match epoll::wait(&self.inlet.epoll, spare_capacity(&mut events), timeout.as_ref()) {
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
        let _ = rustix::io::read(&*self.inlet.wake, &mut [0; 8]);
        loop {
            match self.inlet.inbox.try_recv() {
                Ok(Command::Attach { id, pipes, limits }) => self.attach(id, pipes, limits),
                Ok(Command::Terminal { id, master, into }) => self.attach_terminal(&id, master, into),
                Ok(Command::Drain(id)) => self.drain(id),
                Ok(Command::Detach(id)) => self.detach(&id),
                Ok(Command::SetLimits(unit, limits)) => {
                    self.units.entry(unit).or_insert_with(|| Box::new(UnitLog::empty())).set_limits(limits)
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
        let pipe = |fd| {
            let grown = rustix::pipe::fcntl_getpipe_size(&fd).is_ok_and(|size| size >= BUSY_PIPE_BYTES);
            Pipe { fd, full_turns: 0, grown, hushed: false }
        };
        let pipes = [pipe(out), pipe(err)];
        let slot = self.containers.iter().position(Option::is_none).unwrap_or(self.containers.len());
        for (stream, pipe) in pipes.iter().enumerate() {
            let _ = rustix::io::ioctl_fionbio(&pipe.fd, true);
            let token = epoll::EventData::new_u64((slot * SOURCES + stream) as u64);
            // Fails only for lack of memory or watches; the pipe is then still read when it is drained.
            let _ = epoll::add(&self.inlet.epoll, &pipe.fd, token, epoll::EventFlags::IN);
        }
        if slot == self.containers.len() {
            self.containers.push(None);
        }
        let log = match self.units.entry(id.unit.clone()) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let dir = self.log_dir.join(id.unit.as_str());
                // A directory that cannot be listed fails again, and is reported, when it is opened for writing.
                new.insert(Box::new(UnitLog::found(&dir).unwrap_or_else(|_| UnitLog::empty())))
            }
        };
        limits.into_iter().for_each(|limits| log.set_limits(limits));
        log.attached += 1;
        self.slots.insert(id.clone(), slot);
        self.containers[slot] =
            Some(Container { id, pipes, terminal: None, dropped: [0; 2], begun: false, failing: None });
        self.store(slot, |_, _, _, _, _| Ok(()));
    }

    /// Takes the container away and closes its pipes.
    fn detach(&mut self, id: &ContainerId) {
        let Some(container) = self.slots.remove(id).and_then(|slot| self.containers[slot].take()) else { return };
        self.failing -= usize::from(container.failing.is_some());
        if let Some(terminal) = &container.terminal {
            terminal.forget(&self.inlet.epoll);
        }
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
            self.empty_terminal(slot);
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
            self.store(slot, |log, dir, id, _, _| log.end(dir, id.generation));
            self.detach(&id);
            self.hold_cap();
        }
        (self.post)(LogEvent::Drained(id));
    }

    fn attach_terminal(&mut self, id: &ContainerId, master: OwnedFd, into: OwnedFd) {
        let Some(slot) = self.slots.get(id).copied() else { return };
        let Some(container) = self.containers.get_mut(slot).and_then(Option::as_mut) else { return };
        let token = (slot * SOURCES + STREAMS.len()) as u64;
        container.terminal = Some(Terminal::new(&self.inlet.epoll, token, master, into));
    }

    /// The container has ended: what its terminal still has is moved too, as far as the FIFO is emptied.
    fn empty_terminal(&mut self, slot: usize) {
        let mut left = TERMINAL_MAX_BYTES;
        while left > 0 {
            let terminal = self.containers[slot].as_mut().and_then(|container| container.terminal.as_mut());
            let moved = terminal.map_or(0, Terminal::pump);
            if moved == 0 {
                return;
            }
            left = left.saturating_sub(moved);
            while self.pending(slot, Stream::Out) > 0 {
                if self.move_some(slot, Stream::Out, TURN_MAX_BYTES).is_none_or(|moved| moved == 0) {
                    return;
                }
            }
        }
    }

    fn pending(&self, slot: usize, stream: Stream) -> u64 {
        let pipe = self.containers[slot].as_ref().map(|container| &container.pipes[stream as usize].fd);
        pipe.and_then(|fd| rustix::io::ioctl_fionread(fd).ok()).unwrap_or(0)
    }

    /// One report of epoll. True if the pipe is busy with small writes.
    fn turn(&mut self, token: u64, flags: epoll::EventFlags) -> bool {
        let (slot, source) = ((token / SOURCES as u64) as usize, (token % SOURCES as u64) as usize);
        let Some(container) = self.containers.get_mut(slot).and_then(Option::as_mut) else { return false };
        let Some(stream) = STREAMS.get(source).copied() else {
            if let Some(terminal) = &mut container.terminal {
                terminal.turn(&self.inlet.epoll, flags);
            }
            return false;
        };
        if !flags.contains(epoll::EventFlags::IN) {
            self.hush(slot, stream, true);
            return false;
        }
        let busy = self.containers[slot].as_ref().is_some_and(|container| container.pipes[stream as usize].grown);
        let moved = if busy { self.move_staged(slot, stream) } else { self.move_some(slot, stream, TURN_MAX_BYTES) };
        match moved {
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
        let token = epoll::EventData::new_u64((slot * SOURCES + stream as usize) as u64);
        let _ = epoll::modify(&self.inlet.epoll, &pipe.fd, token, epoll::EventFlags::IN | edge);
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
        let stored = self.store(slot, |log, dir, id, pipes, _| {
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

    /// One bounded move from a busy pipe, by way of the stage. `None`: empty, and nobody writes.
    fn move_staged(&mut self, slot: usize, stream: Stream) -> Option<usize> {
        let container = self.containers[slot].as_ref()?;
        let taken = match container.failing {
            Some(_) => Err(Errno::IO),
            None => self.stage.take(&container.id, stream, container.pipes[stream as usize].fd.as_fd()),
        };
        let taken = match taken {
            Ok(0) => return None,
            Ok(taken) => taken,
            Err(Errno::AGAIN) => return Some(0),
            Err(_) => return self.move_some(slot, stream, TURN_MAX_BYTES),
        };
        let mut left = taken;
        while left > 0 {
            let mut moved = Moved::Empty;
            let stored = self.store(slot, |log, dir, id, _, stage| {
                moved = log.append(dir, (id.generation, stream), now_ms(), stage.as_fd(), left)?;
                Ok(())
            });
            match moved {
                Moved::Bytes(moved) if stored => left -= moved,
                _ => {
                    let dropped = self.stage.discard();
                    self.containers[slot].as_mut()?.dropped[stream as usize] += dropped;
                    break;
                }
            }
        }
        Some(taken)
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
        write: impl FnOnce(&mut UnitLog, &Path, &ContainerId, &[Pipe; 2], &Stage) -> Result<(), StoreError>,
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
            stored = write(log, &dir, &container.id, &container.pipes, &self.stage);
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
            self.store(slot, |_, _, _, _, _| Ok(()));
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

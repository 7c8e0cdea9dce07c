//! The supervisor's side of one connection: a bounded queue of lines that the server's thread writes.
//!
//! A reply is `Open` until the supervisor closes it (`Closing`: what is queued is still written) or the client goes or is cut off
//! (`Ended`: whatever is sent is thrown away). Sending never blocks and never writes: it queues, marks the client dirty and, if no mark
//! was pending, writes the eventfd once. So any number of sends between two rounds of the thread costs one wake-up.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Response;

/// What may wait for one client. A `ps` of 10,000 units is about 3 MB.
pub const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;

/// What may wait for all clients together.
pub const MAX_QUEUED_BYTES_ALL: usize = 64 * 1024 * 1024;

/// Tells connections apart; never repeats in one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// How the supervisor answers one call. Clones share the connection; dropping the last one closes it after what is queued is written.
#[derive(Clone)]
pub struct Reply {
    hold: Arc<Hold>,
}

struct Hold {
    outbox: Arc<Outbox>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

impl Reply {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self { hold: Arc::new(Hold { outbox }) }
    }

    /// Whose it is: the same as in [`Post::Gone`](super::Post::Gone).
    pub fn id(&self) -> ClientId {
        self.hold.outbox.id
    }

    /// Queues one line. False when nobody will read it: the client went, was cut off just now for not reading, or the reply is closed.
    pub fn send(&self, response: &Response) -> bool {
        self.hold.outbox.push(response)
    }

    /// Ends the connection after what is queued is written; later sends are thrown away.
    pub fn close(&self) {
        self.hold.outbox.close();
    }

    /// False once closed, cut off, or the client went.
    pub fn is_open(&self) -> bool {
        self.hold.outbox.lock().phase == Phase::Open
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Closing,
    Ended,
}

/// What the thread does with a client after a look at its outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// All is written; the reply is open.
    Idle,
    /// The socket is full.
    Blocked,
    /// All is written and the reply is closed.
    Finished,
    /// It did not read what was sent.
    CutOff,
}

pub(super) struct Outbox {
    id: ClientId,
    wake: Arc<Wake>,
    state: Mutex<State>,
}

struct State {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of the first line that are written.
    written: usize,
    bytes: usize,
    phase: Phase,
    overflowed: bool,
    dirty: bool,
}

impl Outbox {
    pub(super) fn new(id: ClientId, wake: Arc<Wake>) -> Self {
        let state =
            State { lines: VecDeque::new(), written: 0, bytes: 0, phase: Phase::Open, overflowed: false, dirty: false };
        Self { id, wake, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the queue half changed: nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub(super) fn push(&self, response: &Response) -> bool {
        // Serialising plain data with string keys into memory does not fail; if it ever did, closing tells the client.
        let Ok(mut line) = serde_json::to_vec(response) else {
            self.close();
            return false;
        };
        line.push(b'\n');
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return false;
        }
        let fits = state.bytes.saturating_add(line.len()) <= MAX_QUEUED_BYTES && self.wake.reserve(line.len());
        if fits {
            state.bytes += line.len();
            state.lines.push_back(line);
        } else {
            state.phase = Phase::Ended;
            state.overflowed = true;
        }
        self.mark(state);
        fits
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
            self.mark(state);
        }
    }

    fn mark(&self, mut state: MutexGuard<'_, State>) {
        if state.dirty {
            return;
        }
        state.dirty = true;
        drop(state);
        self.wake.mark(self.id);
    }

    /// The client is gone: frees the queue and throws away what comes.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.phase = Phase::Ended;
        state.lines = VecDeque::new();
        self.wake.release(std::mem::take(&mut state.bytes));
    }

    /// Writes with `write` until it says how much less than asked was taken. `Err` is the socket's.
    pub(super) fn flush(
        &self,
        mut write: impl FnMut(&[u8]) -> rustix::io::Result<usize>,
    ) -> rustix::io::Result<(Next, bool)> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.dirty = false;
        let mut progress = false;
        if state.overflowed {
            return Ok((Next::CutOff, progress));
        }
        while let Some(line) = state.lines.front() {
            let rest = line.get(state.written..).unwrap_or_default();
            let taken = match write(rest) {
                Ok(taken) => taken.min(rest.len()),
                Err(rustix::io::Errno::AGAIN) => return Ok((Next::Blocked, progress)),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            progress |= taken > 0;
            state.written += taken;
            state.bytes = state.bytes.saturating_sub(taken);
            self.wake.release(taken);
            if state.written == line.len() {
                state.lines.pop_front();
                state.written = 0;
            }
        }
        Ok((if state.phase == Phase::Open { Next::Idle } else { Next::Finished }, progress))
    }
}

/// Shared by the thread and all replies: who has something to write, and how much is queued in all.
pub(super) struct Wake {
    eventfd: OwnedFd,
    dirty: Mutex<Vec<ClientId>>,
    queued: AtomicUsize,
    stop: AtomicBool,
}

impl Wake {
    pub(super) fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { eventfd, dirty: Mutex::new(Vec::new()), queued: AtomicUsize::new(0), stop: AtomicBool::new(false) })
    }

    pub(super) fn eventfd(&self) -> &OwnedFd {
        &self.eventfd
    }

    fn mark(&self, id: ClientId) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        dirty.push(id);
        if dirty.len() == 1 {
            self.ring();
        }
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn ring(&self) {
        // EAGAIN means that 2^64 - 2 rings are pending: the thread wakes anyway.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }

    /// Silences the bell and takes the marks, in that order: a mark set in between rings again.
    pub(super) fn take(&self) -> Vec<ClientId> {
        let _ = rustix::io::read(&self.eventfd, &mut [0u8; 8]);
        std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn reserve(&self, bytes: usize) -> bool {
        let before = self.queued.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= MAX_QUEUED_BYTES_ALL;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    fn release(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

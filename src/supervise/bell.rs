//! An inbox with a bell: a queue whose reader sleeps in epoll.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Jobs for a thread that waits for descriptors too. Its length is bounded by what there is to do: each container has at most a handful
/// of jobs in flight, each client at most one.
#[derive(Debug)]
pub struct Inbox<T> {
    queue: Mutex<VecDeque<T>>,
    bell: OwnedFd,
}

impl<T> Inbox<T> {
    /// An empty one.
    pub fn new() -> std::io::Result<Inbox<T>> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Inbox { queue: Mutex::new(VecDeque::new()), bell })
    }

    /// Readable while something is in it.
    pub fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Adds one, and rings if it was empty.
    pub fn push(&self, item: T) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(item);
        if queue.len() == 1 {
            // EAGAIN: more rings are pending than 64 bits count; the reader wakes anyway.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// Takes all; silences the bell first, so that what is pushed meanwhile rings again.
    pub fn take(&self) -> VecDeque<T> {
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

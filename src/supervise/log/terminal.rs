//! What a program writes on its terminal: from the master into the FIFO that is the container's standard output.
//!
//! `splice` does it, so that a byte is in one of the two and never in this process' memory. The FIFO is then moved into the log as any
//! other. Where it is full the master waits, and so does the program in the end.
//!
//! | the master | and |
//! |---|---|
//! | readable | it is moved, as much as the FIFO takes, and a bound |
//! | hung up, nothing left | nobody has the terminal open: reported for ever, so it is watched by the edge until there is something again |
//!
//! A hang-up is no end: whoever is inside may open the terminal again, by `/dev/console` or `/dev/tty`.

use std::os::fd::OwnedFd;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

/// The most of one turn. One call moves 4 KiB (the kernel's buffer of a terminal).
const TURN_MAX_BYTES: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    into: OwnedFd,
    token: u64,
    hushed: bool,
}

impl Terminal {
    /// Watched from here on. Should that fail, for want of memory, it is still read when the container ends.
    pub fn new(watch: &OwnedFd, token: u64, master: OwnedFd, into: OwnedFd) -> Terminal {
        let _ = epoll::add(watch, &master, epoll::EventData::new_u64(token), epoll::EventFlags::IN);
        Terminal { master, into, token, hushed: false }
    }

    /// Others have the master too, so closing it here would not end the watch.
    pub fn forget(&self, watch: &OwnedFd) {
        let _ = epoll::delete(watch, &self.master);
    }

    /// One report of the watch.
    pub fn turn(&mut self, watch: &OwnedFd, flags: epoll::EventFlags) {
        let readable = flags.contains(epoll::EventFlags::IN);
        if readable {
            self.pump();
        }
        self.hush(watch, !readable);
    }

    /// Moves what there is, and returns how many bytes that were.
    pub fn pump(&mut self) -> usize {
        let mut moved = 0;
        while moved < TURN_MAX_BYTES {
            match rustix::pipe::splice(&self.master, None, &self.into, None, TURN_MAX_BYTES, SpliceFlags::NONBLOCK) {
                Ok(bytes) if bytes > 0 => moved += bytes,
                Err(Errno::INTR) => {}
                // EAGAIN: nothing there, or no room. EIO: nobody has it open.
                Ok(_) | Err(_) => break,
            }
        }
        moved
    }

    fn hush(&mut self, watch: &OwnedFd, hushed: bool) {
        if self.hushed != hushed {
            self.hushed = hushed;
            let edge = if hushed { epoll::EventFlags::ET } else { epoll::EventFlags::empty() };
            let data = epoll::EventData::new_u64(self.token);
            let _ = epoll::modify(watch, &self.master, data, epoll::EventFlags::IN | edge);
        }
    }
}

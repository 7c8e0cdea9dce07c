//! What others leave for the watch thread: hints of `notify`'s thread, wishes of the supervisor. Bounded; never waits.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind};
use rustix::event::EventfdFlags;

use super::Follow;

/// Hints kept; when there are more, everything is looked at instead.
const HINTS_MAX: usize = 8192;

/// Commands kept; a supervisor has a handful of clients that wait for a sync.
const COMMANDS_MAX: usize = 256;

/// What a hint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HintKind {
    /// Bytes were written by somebody who has it open.
    Written,
    /// It was renamed or removed.
    Moved,
    /// It was made, closed after writing, or got other permissions or times.
    Other,
}

/// Something happened at this path: a name in a watched directory, or that directory itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Below a directory as it was given to `notify`, or that directory.
    pub path: PathBuf,
    /// What happened.
    pub kind: HintKind,
}

/// One change of what is followed.
#[derive(Debug)]
pub enum Following {
    /// From now on.
    Begin(Follow),
    /// No more.
    End(Follow),
}

/// What the supervisor wants.
#[derive(Debug)]
pub enum Command {
    /// In this order.
    Follow(Vec<Following>),
    /// Read these files of the directories, or without any everything, and say so.
    Sync { token: u64, files: Vec<OsString> },
}

/// All that came in since the last [`Inbox::take`].
#[derive(Debug, Default)]
pub struct Letters {
    /// In their order.
    pub hints: Vec<Hint>,
    /// Hints were lost.
    pub rescan: bool,
    /// In their order.
    pub commands: Vec<Command>,
    /// End.
    pub stop: bool,
}

/// The letters, and an eventfd that is readable while there are some.
#[derive(Debug)]
pub struct Inbox {
    letters: Mutex<Letters>,
    wake: OwnedFd,
}

impl Inbox {
    /// eventfd(2).
    pub fn new() -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Inbox { letters: Mutex::default(), wake })
    }

    /// Readable when there is something to take.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Everything, leaving nothing.
    pub fn take(&self) -> Letters {
        // EAGAIN: nobody woke us.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        std::mem::take(&mut *self.lock())
    }

    /// Called in `notify`'s thread with whatever it has.
    pub fn notified(&self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.lost() };
        if event.need_rescan() {
            return self.lost();
        }
        let kind = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => HintKind::Other,
            // Opens: also our own.
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => HintKind::Written,
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => HintKind::Moved,
            EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Other => HintKind::Other,
        };
        let mut letters = self.lock();
        for path in event.paths {
            let hint = Hint { path, kind };
            if letters.hints.last() == Some(&hint) {
                continue;
            }
            if letters.hints.len() == HINTS_MAX {
                letters.hints.clear();
                letters.rescan = true;
            }
            letters.hints.push(hint);
        }
        drop(letters);
        self.wake();
    }

    /// Events were lost: look at everything.
    pub fn lost(&self) {
        self.lock().rescan = true;
        self.wake();
    }

    /// `false` when there are too many. Newer changes of what is followed join older ones: then a sync between them waits for more.
    pub fn command(&self, command: Command) -> bool {
        let mut letters = self.lock();
        if let Command::Follow(changes) = command {
            let earlier = letters.commands.iter_mut().find_map(|other| match other {
                Command::Follow(earlier) => Some(earlier),
                Command::Sync { .. } => None,
            });
            match earlier {
                Some(earlier) => earlier.extend(changes),
                None => letters.commands.push(Command::Follow(changes)),
            }
        } else if letters.commands.len() >= COMMANDS_MAX {
            return false;
        } else {
            letters.commands.push(command);
        }
        drop(letters);
        self.wake();
        true
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.wake();
    }

    /// The counter cannot overflow into EAGAIN before it is read: that takes 2^64 wakes.
    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Letters are whole after every statement, so a panic elsewhere leaves them usable.
    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

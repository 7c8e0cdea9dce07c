//! Numbers for containers that never repeat, also not across reboots and lost disks.
//!
//! - Within a boot the run-dir holds the last number, written before the number is used: a supervisor that crashes goes on
//!   from there.
//! - Across reboots the state-dir holds a mark that no number of an earlier boot exceeds: a block is reserved, synced,
//!   before the first number of a boot, and the next block when half of it is used, through the writer thread. So the
//!   numbers jump to a multiple of the block at a reboot, and no start waits for a disk.
//! - Where the mark is lost or cannot be written, numbers go on from the wall clock's seconds: higher than any block that
//!   was ever counted up to, and higher than the seconds of a boot before, as long as no more than one container a second
//!   was started on average.
//!
//! Once a block is used up whose successor the disk still refuses (a [`Fact::Failed`](super::Fact) said so), numbers go on:
//! they repeat only if the host then reboots with that disk healed, and then only names of containers that are gone.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Note, RunStore, StateStore, StoreError};

/// Numbers reserved at once.
pub const GENERATIONS_PER_BLOCK: u64 = 1000;

/// What the state-dir says of the numbers used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The directory is new.
    Never,
    /// None above this.
    At(u64),
    /// It cannot be read.
    Unknown,
}

/// The counter.
#[derive(Debug)]
pub struct Generations {
    last: u64,
    /// Reserved, or asked for.
    asked: u64,
}

impl Generations {
    /// Goes on where the last supervisor ended. Reserves the first block before it returns: one sync, at the start only.
    pub fn open(run: &RunStore, state: &StateStore, mark: Mark, now: SystemTime) -> (Generations, Vec<Note>) {
        let (here, mut notes) = run.generation().unwrap_or_else(|error| (None, vec![note(run, &error)]));
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut last = match (here, mark) {
            (Some(here), _) => here,
            (None, Mark::At(mark)) => mark,
            (None, Mark::Never) => 0,
            (None, Mark::Unknown) => seconds,
        };
        let marked = if let Mark::At(mark) = mark { mark } else { 0 };
        let mut asked = marked;
        if marked < last.saturating_add(GENERATIONS_PER_BLOCK / 2) {
            asked = last.saturating_add(GENERATIONS_PER_BLOCK);
            if let Err(error) = state.reserve_now(asked) {
                notes.push(note(run, &error));
                last = last.max(seconds);
                asked = last.saturating_add(GENERATIONS_PER_BLOCK);
            }
        }
        (Generations { last, asked }, notes)
    }

    /// The highest number in use so far, or in an earlier boot. A unit without a record starts above it.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// A generation of this number is about to start. Says whether the run-dir holds that; if not, the number is unique all the
    /// same until this supervisor dies. Units count on their own, so most calls are below the highest number and do nothing.
    pub fn used(&mut self, number: u64, run: &RunStore, state: &StateStore) -> Result<(), StoreError> {
        if number <= self.last {
            return Ok(());
        }
        self.last = number;
        if self.asked.saturating_sub(self.last) < GENERATIONS_PER_BLOCK / 2 {
            self.asked = self.last.saturating_add(GENERATIONS_PER_BLOCK);
            state.reserve(self.asked);
        }
        run.set_generation(self.last)
    }
}

fn note(run: &RunStore, error: &StoreError) -> Note {
    let text = format!("the last container number could not be kept, going on from the clock: {error}");
    Note { path: run.path().to_owned(), text }
}

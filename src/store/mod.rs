//! What must survive a crash of the supervisor, and what must survive a reboot.
//!
//! | where | what | survives | written |
//! |---|---|---|---|
//! | run-dir ([`RunStore`]) | small records per unit, the last generation | the supervisor | by the loop, no fsync: `/run` is memory |
//! | state-dir ([`StateStore`]) | last good texts and config.json copies, stop marks, history, the generation mark | the host | by a thread of its own, synced |
//! | run-dir ([`RunLock`]) | who is the supervisor here | nothing | flock |
//!
//! Rules:
//! - A file is written to a temporary name, (synced,) renamed, and its directory synced ([`atomic`]); it carries a length
//!   and a checksum. One that does not add up is put aside with a [`Note`], never trusted, and costs no running container.
//! - A disk that is full or read-only is a fact, posted as [`Fact::Failed`]; nothing waits for it and nothing is refused.
//! - Records are JSON inside their frame: an upgraded supervisor reads what the old one wrote, unknown fields and all,
//!   which postcard could not.

pub mod atomic;
mod disk;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod generation;
mod history;
mod ids;
mod index;
mod lock;
mod run;
mod state;
mod upper;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use rustix::io::Errno;

pub use generation::{GENERATIONS_PER_BLOCK, Generations, Mark};
pub use history::read_history;
pub use ids::{COUNT as IDS_OF_UNIT, IdPool, IdsError, range_of, release_range};
pub use lock::{LockError, RunLock};
pub use run::{Records, RunStore, boot_id};
pub use state::{BadText, Fact, Good, GoodSet, Key, Loaded, StateStore, StopMark, Ticket};
pub use upper::{KeptUpper, UpperError, kept_upper, lock_again, open_upper};

/// Something that an operator should know and that stopped nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Which file or directory.
    pub path: PathBuf,
    /// What about it.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.text)
    }
}

/// Which step failed, on what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// mkdir(2).
    #[error("{}: cannot make the directory: {errno}", .path.display())]
    MakeDir {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// open(2).
    #[error("{}: cannot open: {errno}", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// getdents(2).
    #[error("{}: cannot list: {errno}", .path.display())]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// read(2).
    #[error("{}: cannot read: {errno}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// write(2).
    #[error("{}: cannot write: {errno}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// fsync(2).
    #[error("{}: cannot sync: {errno}", .path.display())]
    Sync {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// rename(2).
    #[error("{}: cannot rename into place: {errno}", .path.display())]
    Rename {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// unlink(2).
    #[error("{}: cannot remove: {errno}", .path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// Others may write there.
    #[error("{}: owned by uid {uid} with mode {mode:o}: chown root and chmod 0700 it", .path.display())]
    NotOurs {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// Larger than is ever read back.
    #[error("{}: {bytes} bytes, more than the {limit} of a record", .path.display())]
    TooBig {
        /// Which.
        path: PathBuf,
        /// How many there are.
        bytes: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The value has no JSON.
    #[error("{}: cannot be written as JSON: {text}", .path.display())]
    Encode {
        /// Which.
        path: PathBuf,
        /// serde's words.
        text: String,
    },
}

/// FNV-1a, 64 bits. Small, and every step is a bijection of the state for a given byte: two texts of the same length that
/// differ in one byte never have the same sum, and a torn one passes once in 2^64. It is no defence against forgery; what
/// root wrote into root's directory needs none.
fn fnv64(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().copied().flatten();
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// FNV-1a, 128 bits: names a text by its content. The texts are root's own, so accidents are what counts, and 2^64 texts
/// make one likely.
fn fnv128(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |sum, byte| (sum ^ u128::from(*byte)).wrapping_mul(PRIME))
}

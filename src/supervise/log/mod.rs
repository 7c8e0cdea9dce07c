//! What containers print: from their pipes to plain files, and back to people.
//!
//! Every container has two named FIFOs, stdout and stderr, which it holds open read-write; the keeper and the supervisor hold
//! the read ends. One thread ([`LogWriter`]) moves what arrives with `splice(2)` into one stream of files per unit, across
//! all of its generations:
//!
//! ```text
//! LOG_DIR/web/00000007.log   the bytes, stdout and stderr as they came: a plain text file
//! LOG_DIR/web/00000007.idx   16-byte records: from this offset on, this stream, at this time
//! LOG_DIR/web/current        a link to the newest .log, for tail -F
//! ```
//!
//! # What makes it exact under `kill -9`
//!
//! 1. The record goes to the index *before* the splice; its length follows from the next record, or from the file's size.
//!    A crash between the two leaves a void record, which costs nothing. The other order leaves bytes without an owner.
//! 2. `splice` from a pipe to a plain file consumes exactly what it wrote: a killed process has moved a byte or has left it in the
//!    pipe. `read` + `write` loses what was read. The file must not be `O_APPEND` (EINVAL): the offset is the file's size at
//!    attach, and nobody else writes.
//! 3. A void record is never coalesced into: after a splice that moved nothing, and after every attach, the next splice has a
//!    record of its own. Otherwise one record is enough as long as stream and generation stay the same and 10 ms have not passed.
//! 4. A torn last record is cut off at attach; so are records beyond the file's end (after a power loss).
//!
//! 5. What is written on a terminal goes into the FIFO first (`terminal`), by `splice` too: a terminal cannot be spliced to a file.
//! 6. What takes the way over the stage (`stage`), because its pipe is busy, is in one of two pipes or in the file at any time.
//!
//! # Rotation
//!
//! Files have their number from birth and are never renamed, so there is no moment between two renames to crash in, and a reader's
//! position (number, offset) stays right for ever. Going from n to n+1: create `n+1.idx`, create `n+1.log`, repoint `current`, remove
//! what is too old (its `.log` first, then its `.idx`). Nothing is written to n once n+1 exists. A crash after any of
//! these steps leaves a longer list of files, an empty newest file, or an index without a log, which the next start removes.
//! A line may begin in n and end in n+1; the reader joins it.
//!
//! # When the disk does not take it
//!
//! ENOSPC, EDQUOT, EIO and the like never block a container: its bytes are read and counted, and the count becomes a `Dropped`
//! record as soon as the disk takes one (tried again after 1 s, doubling to a minute). The count is in memory until then, so a crash
//! on a full disk loses the count along with the bytes. On a file system that has no `splice_write` (EINVAL) the bytes are
//! read and written; there a crash can lose what had been read, at most 64 KiB a pipe.
//!
//! # Bounds
//!
//! A file's log and index together stay below the unit's `max_size` (an index below 8 MiB), a unit has at most `max_files` of
//! them, and the host has a cap: when it is passed, the oldest file of the largest unit goes first. Sizes are tracked, not polled.
//! One turn moves at most 1 MiB of one pipe, then the next pipe has its turn. An idle writer sleeps in `epoll_wait` without a timeout.

mod cap;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod growth;
mod index;
mod lines;
mod mover;
mod raw;
mod reader;
mod render;
mod segment;
mod several;
mod since;
mod stage;
mod tail;
mod terminal;
mod unit_log;
mod writer;

#[cfg(test)]
mod tests;

pub use index::Stream;
pub use lines::{End, Entry, What};
pub use raw::RawTail;
pub use reader::{LogReader, Query, ReadError, last_lines, print};
pub use render::{Style, escape_controls, json_line, render};
pub use several::{print_several, with_replicas};
pub use since::{BadTime, parse_since, rfc3339_ms};
pub use writer::{LogError, LogEvent, LogWriter};

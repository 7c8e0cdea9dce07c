//! Directories to settled texts.
//!
//! [`Watch`] follows directories of unit files, and single files and paths that units name, and posts what it read. It
//! decides nothing about units: an [`Event`] is a fact.
//!
//! ```text
//! notify (contents) ──▶ inbox ─┐
//! inotify (ways)    ──────────▶├─▶ thread: settle ─▶ walk, lease, read ─▶ differs from the last? ─▶ Vec<Event>
//! mountinfo         ──────────▶│
//! follow, sync      ──▶ inbox ─┘
//! ```
//!
//! Rules (DESIGN §5):
//! - **Events are hints.** What is true is looked up each time, by descriptor; an event too many costs a look, a lost one
//!   (overflow) is answered by looking at everything.
//! - **Settled** ([`settle`]): nothing is read within 20 ms of its last event or while a writer has it open (a read lease
//!   must be granted; where there are none, two looks 2 s apart must agree). Absence counts after 1 s.
//! - **Trusted** ([`trusted`]): the file and every link and directory on the way.
//! - **A directory that is missing or unreadable is not an empty one**: nothing in it is [`Event::Gone`] then. When another
//!   directory is at the path (replaced, mounted over, unmounted), [`Event::Directory`] comes first and says which names
//!   are in it. The supervisor compares these with what it runs, decides on the brake, and then knows what a
//!   [`Event::Gone`] that follows a second later means. `names` itself removes nothing, and each of them is told of in an event of
//!   its own that follows: what it says now, the same as before or not, or that it is gone again.
//! - **Drop-ins** are files of a directory `NAME.toml.d` beside the unit files, with events of the same kinds: their path tells them
//!   from units. That such a directory is missing, while the one above is there, says that all in it is gone; there is no
//!   [`Event::Gone`] for each then.
//! - **Everything that one cause changed is in one batch**: the files behind a swapped `..data`, or of a directory that was
//!   renamed in, arrive in one call of `post` (texts of up to 4 MiB), so that one reconciliation sees them all.
//! - **Idle is idle**: no timer runs unless a look is due. Only directories on network file systems are looked at every 5 s.
//!
//! The thread posts in this order: a directory before its files; [`Event::Synced`] after everything that it covers.

mod error;
mod inbox;
mod node;
mod places;
pub mod settle;
mod shell;
pub mod trusted;
mod writer;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::unit::UnitName;
use inbox::{Command, Following, Inbox};
pub use places::Blind;
pub use trusted::{Identity, ReadError, Trust};

/// Most bytes of a unit file, and of a followed file.
pub const TEXT_MAX_BYTES: u64 = 1 << 20;

/// What to watch, and whom to trust.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directories of unit files, absolute, in the order of precedence. They need not exist.
    pub dirs: Vec<PathBuf>,
    /// Who may own what is read.
    pub trusted: Trust,
}

/// A file or path, besides the unit files, that a unit depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Follow {
    /// Absolute.
    pub path: PathBuf,
    /// What is wanted of it.
    pub purpose: Purpose,
}

/// What is wanted of a followed path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Its contents: [`Event::File`]. Checked as unit files are.
    Contents,
    /// Where it leads: [`Event::Place`]. Nobody's ownership is checked.
    Place,
    /// Whether something is there, and whether it is a mount point: [`Event::Presence`]. Nobody's ownership is checked.
    Presence,
}

/// A fact about what is on disk. `path` is always as it was given (a unit's is the directory as given, and the name; a drop-in's the same
/// with the name of its directory in between).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A unit file's settled text; it, or where it was read, differs from what was posted last, or its directory was told of since.
    Text {
        /// Which file.
        path: PathBuf,
        /// Its name in the directory, ending in `.toml`.
        name: OsString,
        /// Whole, at most [`TEXT_MAX_BYTES`].
        text: String,
        /// Without links: relative paths in the text start from its directory.
        resolved: PathBuf,
    },
    /// A unit file that is there and is not read. The last good text stays in force.
    Refused {
        /// Which file.
        path: PathBuf,
        /// Its name in the directory.
        name: OsString,
        /// Why, with the cure.
        why: ReadError,
    },
    /// A unit file that was posted before and was absent for 1 s, from a directory that was there and readable.
    Gone {
        /// Which file.
        path: PathBuf,
        /// Its name in the directory.
        name: OsString,
    },
    /// A writer has had the file open for a while. Said once; what comes of it is another event.
    Busy {
        /// Which unit file or followed file.
        path: PathBuf,
        /// Its process, if it could be found.
        writer: Option<u32>,
    },
    /// A directory of unit files, or of drop-ins, became another one, appeared, disappeared, or was seen for the first time.
    Directory {
        /// As given.
        dir: PathBuf,
        /// What is there now.
        state: DirectoryState,
    },
    /// A followed file: the first look, and whenever its contents or where they were read changed.
    File {
        /// As followed.
        path: PathBuf,
        /// Contents and path without links, or why there are none. Missing is told at the first look, later after 1 s.
        file: Result<Contents, ReadError>,
    },
    /// Where a followed path leads: the first look, and whenever that changed.
    Place {
        /// As followed.
        path: PathBuf,
        /// Where it leads, or why nowhere.
        place: Result<Place, ReadError>,
    },
    /// What is at a followed path: the first look, and whenever that changed.
    Presence {
        /// As followed.
        path: PathBuf,
        /// Something is there. What cannot be looked at is not.
        exists: bool,
        /// And a mount begins there.
        is_mount_point: bool,
    },
    /// A directory cannot be watched. Said once for each.
    Blind(Blind),
    /// Everything on disk at the time of [`Watch::sync`] was posted, except what a writer holds.
    Synced {
        /// As given to [`Watch::sync`].
        token: u64,
        /// Files not read because a writer has them open.
        held: Vec<PathBuf>,
    },
}

/// What is at a directory's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryState {
    /// A directory.
    Present {
        /// Which one.
        identity: Identity,
        /// Its path without links.
        resolved: PathBuf,
        /// The unit files in it, sorted; each read, refused or gone in an event of its own.
        names: Vec<OsString>,
        /// The directories of drop-ins in it, sorted.
        drop_ins: Vec<OsString>,
    },
    /// Nothing. At the start told at once, later after 1 s.
    Missing,
    /// Something that cannot be read or is not trusted.
    Unreadable(ReadError),
}

/// A followed file's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// At most [`TEXT_MAX_BYTES`].
    pub bytes: Vec<u8>,
    /// Without links.
    pub resolved: PathBuf,
    /// Others than its owner and root's group may read it.
    pub readable_by_others: bool,
}

/// Where a followed path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Without links.
    pub resolved: PathBuf,
    /// Which file or directory that is: another one at the same path is a replacement.
    pub identity: Identity,
}

/// A running watch. Dropping it ends and joins its thread.
#[derive(Debug)]
pub struct Watch {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts watching in a thread of its own, which calls `post` with one round's events, never with none.
    ///
    /// First come the directories and then their files, as soon as they are settled; call [`Watch::sync`] to know when
    /// these are complete. `post` may block: hints that do not fit meanwhile are replaced by one look at everything.
    pub fn start(options: Options, post: impl Fn(Vec<Event>) + Send + 'static) -> io::Result<Watch> {
        let inbox = Arc::new(Inbox::new()?);
        let shell = shell::Shell::new(options, Arc::clone(&inbox), post)?;
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(move || shell.run())?;
        Ok(Watch { inbox, thread: Some(thread) })
    }

    /// Follows `more` files and paths, and some `no_more`. What is new is looked at and posted; what was followed before keeps
    /// what was posted; what is followed no more is forgotten.
    pub fn follow(&self, more: Vec<Follow>, no_more: Vec<Follow>) {
        let ends = no_more.into_iter().map(Following::End);
        self.inbox.command(Command::Follow(ends.chain(more.into_iter().map(Following::Begin)).collect()));
    }

    /// Reads now what is pending, without its quiet time, and looks for changes that no event told of; then posts
    /// [`Event::Synced`]. With `files`, names of unit files, only these are looked for in the directories. A writer's open file is not
    /// waited for, the second look of a file without leases is (2 s).
    ///
    /// `false`: too many are waiting; nothing will be posted for this token.
    #[must_use]
    pub fn sync(&self, token: u64, files: Vec<OsString>) -> bool {
        self.inbox.command(Command::Sync { token, files })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inbox.stop();
        if let Some(thread) = self.thread.take() {
            // It ends only by stop or by a panic, which was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// The unit that a file of this name declares.
fn unit_of_file(name: &OsStr) -> Option<UnitName> {
    UnitName::new(name.to_str()?.strip_suffix(".toml")?).ok()
}

/// Whether a name in a directory is a unit file's. Hidden files are editors' and rsync's temporary ones.
pub fn is_unit_file(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.len() > ".toml".len() && bytes.ends_with(b".toml") && !bytes.starts_with(b".")
}

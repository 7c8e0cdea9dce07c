//! Which directories are watched, and on whose behalf.
//!
//! Two kinds of watch, because they cost differently:
//! - a directory whose **contents** matter (it holds unit files, or a file that is followed) is watched by `notify`:
//!   writes and closes in it are events;
//! - a directory that was only **passed** on the way (`/`, `/etc`, the place of a `current` link) is watched for names
//!   that come, go or move, and nothing else. `notify` 8 cannot do that: its inotify mask is fixed and holds IN_OPEN and
//!   IN_MODIFY, so that every open of a file in `/etc` would wake the supervisor.
//!
//! What an item looked up on its way are its steps. [`Places::set`] takes them after each walk, watches what is not
//! watched yet and lets go of what nobody needs. A watch made after the walk may have come too late for a change, so
//! `set` says when to walk again.
//!
//! inotify watches inodes, and `notify` keeps one path for each: where one directory has two paths (bind mounts),
//! [`Places::aliases`] gives all of them.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use notify::Watcher;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::settle::Key;
use super::trusted::{Identity, Step};

/// Room for some hundred events; the kernel keeps the others until the next read.
const BUFFER_BYTES: usize = 16 * 1024;

/// Events taken in one go; the rest wait for the next round.
const EVENTS_MAX: usize = 4096;

/// What is wanted to know of a directory that was passed.
const PASSED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW);

/// One watched directory.
#[derive(Debug)]
struct Place {
    id: Identity,
    /// The inotify descriptor of a watch for passing.
    passed: Option<i32>,
    /// Whether `notify` watches it.
    contents: bool,
}

/// What one item needs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    steps: Vec<Step>,
    contents: Option<(PathBuf, Identity)>,
}

/// Something happened to a name in a directory, or to the directory itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// A watched directory.
    pub dir: PathBuf,
    /// `None`: the directory itself was moved, removed or got other permissions.
    pub name: Option<OsString>,
}

/// A directory that could not be watched: changes in it are seen by `moored sync` only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blind {
    /// The user's limit is reached.
    #[error("{}: no inotify watches left, changes are not noticed: raise fs.inotify.max_user_watches", .dir.display())]
    Limit {
        /// Which directory.
        dir: PathBuf,
    },
    /// inotify_add_watch(2) for another reason.
    #[error("{}: cannot be watched, changes are not noticed: {text}", .dir.display())]
    Refused {
        /// Which directory.
        dir: PathBuf,
        /// The system's words.
        text: String,
    },
}

impl Blind {
    /// Which directory it is about.
    pub fn dir(&self) -> &Path {
        match self {
            Blind::Limit { dir } | Blind::Refused { dir, .. } => dir,
        }
    }
}

/// All watches.
pub struct Places {
    notify: notify::INotifyWatcher,
    inotify: OwnedFd,
    places: HashMap<PathBuf, Place>,
    needs: HashMap<Key, Box<Needs>>,
    index: HashMap<PathBuf, HashMap<OsString, Vec<Key>>>,
    /// How many items need the contents of a directory.
    contents: HashMap<PathBuf, u32>,
    descriptors: HashMap<i32, Vec<PathBuf>>,
    /// The paths at which an inode's contents are watched.
    inodes: HashMap<(u64, u64), Vec<PathBuf>>,
    /// Directories whose contents are not watched any more although items need them.
    orphans: Vec<PathBuf>,
    blind: Vec<Blind>,
    blind_said: HashSet<PathBuf>,
}

impl Places {
    /// `handler` is called in `notify`'s own thread.
    pub fn new(handler: impl notify::EventHandler) -> std::io::Result<Self> {
        let notify = notify::INotifyWatcher::new(handler, notify::Config::default()).map_err(io_error)?;
        Ok(Places {
            notify,
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            places: HashMap::new(),
            needs: HashMap::new(),
            index: HashMap::new(),
            contents: HashMap::new(),
            descriptors: HashMap::new(),
            inodes: HashMap::new(),
            orphans: Vec::new(),
            blind: Vec::new(),
            blind_said: HashSet::new(),
        })
    }

    /// Readable when [`Places::changes`] has something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// What happened in directories that were passed. `Err` when events were lost.
    pub fn changes(&mut self) -> Result<Vec<Change>, Errno> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        let mut changes = Vec::new();
        let mut ended = Vec::new();
        let mut lost = None;
        for _ in 0..EVENTS_MAX {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(errno) => {
                    lost = Some(errno);
                    break;
                }
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                lost = Some(Errno::OVERFLOW);
            }
            if event.events().contains(ReadFlags::IGNORED) {
                ended.push(event.wd());
            }
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
            for dir in self.descriptors.get(&event.wd()).into_iter().flatten() {
                changes.push(Change { dir: dir.clone(), name: name.clone() });
            }
        }
        for wd in ended {
            for dir in self.descriptors.remove(&wd).into_iter().flatten() {
                if let Some(place) = self.places.get_mut(&dir) {
                    place.passed = None;
                }
            }
        }
        lost.map_or(Ok(changes), Err)
    }

    /// Whose way leads through this name.
    pub fn who_passed(&self, dir: &Path, name: &OsStr) -> &[Key] {
        self.index.get(dir).and_then(|names| names.get(name)).map_or(&[], Vec::as_slice)
    }

    /// Whose way leads through this directory.
    pub fn who_looked_into(&self, dir: &Path) -> impl Iterator<Item = Key> + use<'_> {
        self.index.get(dir).into_iter().flat_map(|names| names.values().flatten().copied())
    }

    /// All paths at which the directory whose contents are watched at `dir` is watched; none if it is not.
    pub fn aliases(&self, dir: &Path) -> &[PathBuf] {
        let place = self.places.get(dir).filter(|place| place.contents);
        place.and_then(|place| self.inodes.get(&(place.id.dev, place.id.ino))).map_or(&[], Vec::as_slice)
    }

    /// `notify` lets go of a watched directory that is moved within another watched one, even when it comes back.
    pub fn doubt(&mut self, dir: &Path) {
        if let Some(place) = self.places.get_mut(dir)
            && place.contents
        {
            self.let_go_of_contents(dir);
            self.orphans.push(dir.to_owned());
        }
    }

    /// Where mount ids are used again, a mount may have taken away any watch and look the same.
    pub fn doubt_all(&mut self) {
        let dirs: Vec<PathBuf> = self.inodes.values().flatten().cloned().collect();
        dirs.iter().for_each(|dir| self.doubt(dir));
    }

    /// What could not be watched since the last call; each directory once.
    pub fn take_blind(&mut self) -> Vec<Blind> {
        std::mem::take(&mut self.blind)
    }

    /// What the item's last walk looked up, and the directory whose contents it needs. `true` when a watch was made that
    /// was not there during the walk: walk again.
    pub fn set(&mut self, key: Key, steps: Vec<Step>, contents: Option<(PathBuf, Identity)>) -> bool {
        let needs = Needs { steps, contents };
        if self.needs.get(&key).is_some_and(|known| **known == needs) && self.is_watched(&needs) {
            return false;
        }
        let before = self.remove_needs(key);
        for step in &needs.steps {
            let keys = self.index.entry(step.dir.clone()).or_default().entry(step.name.clone()).or_default();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        if let Some((dir, _)) = &needs.contents {
            *self.contents.entry(dir.clone()).or_default() += 1;
        }
        let mut news = false;
        for step in &needs.steps {
            // What `notify` reports of a directory includes all that matters of one that was passed.
            if needs.contents.as_ref().is_none_or(|(dir, _)| *dir != step.dir) {
                news |= self.watch_passed(&step.dir, step.id);
            }
        }
        if let Some((dir, id)) = &needs.contents {
            news |= self.watch_contents(dir, *id);
        }
        self.needs.insert(key, Box::new(needs));
        self.release(before);
        news
    }

    /// Directories that lost their watch for no fault of their own: look at them, which watches them again.
    pub fn take_orphans(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.orphans)
    }

    /// The item is gone.
    pub fn forget(&mut self, key: Key) {
        let before = self.remove_needs(key);
        self.release(before);
    }

    fn is_watched(&self, needs: &Needs) -> bool {
        let contents = needs.contents.as_ref().map(|(dir, _)| dir);
        let watched = |dir: &PathBuf| {
            self.places.get(dir).is_some_and(|p| if contents == Some(dir) { p.contents } else { p.passed.is_some() })
        };
        contents.is_none_or(watched) && needs.steps.iter().all(|step| watched(&step.dir))
    }

    fn remove_needs(&mut self, key: Key) -> Option<Needs> {
        let needs = self.needs.remove(&key)?;
        for step in &needs.steps {
            if let Some(names) = self.index.get_mut(&step.dir) {
                if let Some(keys) = names.get_mut(&step.name) {
                    keys.retain(|&other| other != key);
                    if keys.is_empty() {
                        names.remove(&step.name);
                    }
                }
                if names.is_empty() {
                    self.index.remove(&step.dir);
                }
            }
        }
        if let Some((dir, _)) = &needs.contents
            && let Some(count) = self.contents.get_mut(dir)
        {
            *count -= 1;
            if *count == 0 {
                self.contents.remove(dir);
            }
        }
        Some(*needs)
    }

    /// Ends the watches that nobody needs any more.
    fn release(&mut self, needs: Option<Needs>) {
        let Some(needs) = needs else { return };
        let dirs = needs.steps.into_iter().map(|step| step.dir).chain(needs.contents.map(|(dir, _)| dir));
        for dir in dirs {
            let (passed, contents) = (self.index.contains_key(&dir), self.contents.contains_key(&dir));
            if !passed {
                self.let_go_of_passed(&dir);
            }
            if !contents {
                self.let_go_of_contents(&dir);
            }
            if !passed && !contents {
                self.places.remove(&dir);
            }
        }
    }

    /// The entry for `dir`; another directory at the same path takes the old one's watches away.
    fn place(&mut self, dir: &Path, id: Identity) -> &mut Place {
        if self.places.get(dir).is_some_and(|place| place.id != id) {
            self.let_go_of_passed(dir);
            self.let_go_of_contents(dir);
            self.places.remove(dir);
        }
        self.places.entry(dir.to_owned()).or_insert(Place { id, passed: None, contents: false })
    }

    fn watch_passed(&mut self, dir: &Path, id: Identity) -> bool {
        if self.place(dir, id).passed.is_some() {
            return false;
        }
        match inotify::add_watch(&self.inotify, dir, PASSED) {
            Ok(wd) => {
                self.place(dir, id).passed = Some(wd);
                let paths = self.descriptors.entry(wd).or_default();
                if !paths.iter().any(|path| path == dir) {
                    paths.push(dir.to_owned());
                }
                true
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => true,
            Err(Errno::NOSPC) => self.not_watched(Blind::Limit { dir: dir.to_owned() }),
            Err(errno) => self.not_watched(Blind::Refused { dir: dir.to_owned(), text: errno.to_string() }),
        }
    }

    fn watch_contents(&mut self, dir: &Path, id: Identity) -> bool {
        if self.place(dir, id).contents {
            return false;
        }
        match self.notify.watch(dir, notify::RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.place(dir, id).contents = true;
                self.inodes.entry((id.dev, id.ino)).or_default().push(dir.to_owned());
                true
            }
            Err(error) => match error.kind {
                notify::ErrorKind::PathNotFound => true,
                notify::ErrorKind::MaxFilesWatch => self.not_watched(Blind::Limit { dir: dir.to_owned() }),
                _ => self.not_watched(Blind::Refused { dir: dir.to_owned(), text: error.to_string() }),
            },
        }
    }

    fn not_watched(&mut self, blind: Blind) -> bool {
        if self.blind_said.insert(blind.dir().to_owned()) {
            self.blind.push(blind);
        }
        false
    }

    fn let_go_of_passed(&mut self, dir: &Path) {
        let Some(wd) = self.places.get_mut(dir).and_then(|place| place.passed.take()) else { return };
        if let Some(paths) = self.descriptors.get_mut(&wd) {
            paths.retain(|path| path != dir);
            if paths.is_empty() {
                self.descriptors.remove(&wd);
                // EINVAL: the directory went away, and its watch with it.
                let _ = inotify::remove_watch(&self.inotify, wd);
            }
        }
    }

    /// One inode has one inotify descriptor: with it go the watches at the other paths of the same directory, which are
    /// made again when their items are looked at.
    fn let_go_of_contents(&mut self, dir: &Path) {
        let Some(place) = self.places.get(dir).filter(|place| place.contents) else { return };
        for path in self.inodes.remove(&(place.id.dev, place.id.ino)).unwrap_or_default() {
            if let Some(place) = self.places.get_mut(&path) {
                place.contents = false;
            }
            // "Not found": it let go by itself.
            let _ = self.notify.unwatch(&path);
            if path != dir {
                self.orphans.push(path);
            }
        }
    }
}

fn io_error(error: notify::Error) -> std::io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        _ => std::io::Error::other(error),
    }
}

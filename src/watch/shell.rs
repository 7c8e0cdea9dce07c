//! The watch thread: waits, takes what came in, looks, and posts. The decisions are in [`settle`](super::settle).

mod drop_ins;
mod look;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD};

use drop_ins::DropInDirs;

use super::inbox::{Command, Following, Hint, HintKind, Inbox};
use super::places::{Change, Places};
use super::settle::{Key, Moment, QUIET, Settle};
use super::trusted::{self, Identity, Node, Trust};
use super::{Event, Follow, Options, Purpose, is_unit_file};

/// Unit files in one directory; a host runs some hundreds.
const NAMES_MAX: usize = 65_536;

/// How much of a directory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Listing {
    /// Nothing but the directory itself.
    None,
    /// Names, and files whose size, times or inode changed.
    Changed,
    /// Names, and every file.
    All,
}

/// One directory of unit files, or of a unit's drop-ins.
#[derive(Debug)]
struct UnitDir {
    path: PathBuf,
    key: Key,
    /// What was there at the last look that found a directory.
    seen: Option<(Identity, PathBuf)>,
    /// Whether the last look found one.
    present: bool,
    wanted: Listing,
    names: HashMap<OsString, Key>,
    /// Of a directory of drop-ins: the directory of units that it is in.
    parent: Option<usize>,
}

/// What a key stands for.
#[derive(Debug)]
enum Item {
    Dir(usize),
    Unit {
        dir: usize,
        name: OsString,
        /// What was read at the last look, if a later change cannot look the same.
        seen: Option<Node>,
        /// Reached through a link.
        linked: bool,
    },
    Follow {
        follow: Follow,
        seen: Option<Node>,
    },
}

/// A sync that waits for second looks.
#[derive(Debug)]
struct Sync {
    token: u64,
    left: HashSet<Key>,
}

/// All that the thread owns.
pub struct Shell<P> {
    inbox: Arc<Inbox>,
    post: P,
    trust: Trust,
    began: Instant,
    settle: Settle,
    places: Places,
    unique_mounts: bool,
    items: HashMap<Key, Box<Item>>,
    next_key: Key,
    dirs: Vec<UnitDir>,
    drop_ins: DropInDirs,
    /// Which directories were last seen at a path without links.
    here: HashMap<PathBuf, Vec<usize>>,
    follows: HashMap<Follow, Key>,
    syncs: Vec<Sync>,
    /// A sync is being answered: no quiet time.
    hurry: bool,
    batch: Vec<Event>,
    batch_bytes: usize,
}

impl<P: Fn(Vec<Event>)> Shell<P> {
    /// Makes the inotify instances, so that a failure is the caller's to report.
    pub fn new(options: Options, inbox: Arc<Inbox>, post: P) -> io::Result<Self> {
        let places = Places::new({
            let inbox = Arc::clone(&inbox);
            move |event| inbox.notified(event)
        })?;
        let mut shell = Shell {
            inbox,
            post,
            trust: options.trusted,
            began: Instant::now(),
            settle: Settle::default(),
            places,
            unique_mounts: trusted::mount_ids_are_unique(),
            items: HashMap::new(),
            next_key: 0,
            dirs: Vec::new(),
            drop_ins: DropInDirs::default(),
            here: HashMap::new(),
            follows: HashMap::new(),
            syncs: Vec::new(),
            hurry: false,
            batch: Vec::new(),
            batch_bytes: 0,
        };
        for (index, path) in options.dirs.into_iter().enumerate() {
            let key = shell.new_key(Item::Dir(index));
            let (wanted, names) = (Listing::All, HashMap::new());
            shell.dirs.push(UnitDir { path, key, seen: None, present: false, wanted, names, parent: None });
            shell.settle.look_by(key, Moment::ZERO);
        }
        Ok(shell)
    }

    /// Until [`Inbox::stop`].
    pub fn run(mut self) {
        // Its own namespace's: `self` would be the process's first thread's.
        let mounts = File::open("/proc/thread-self/mountinfo").ok();
        loop {
            self.round();
            let mounted = self.wait(mounts.as_ref());
            let letters = self.inbox.take();
            if letters.stop {
                return;
            }
            if mounted {
                self.mounts_changed();
            }
            self.passed();
            if letters.rescan {
                self.look_at_everything();
            }
            letters.hints.into_iter().for_each(|hint| self.hinted(hint));
            letters.commands.into_iter().for_each(|command| self.commanded(command));
        }
    }

    /// Sleeps until something happens or a look is due. Whether the mounts changed: proc_pid_mountinfo(5), POLLPRI.
    fn wait(&self, mounts: Option<&File>) -> bool {
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.inbox.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.places.fd(), PollFlags::IN),
        ];
        if let Some(mounts) = mounts {
            fds.push(PollFd::from_borrowed_fd(mounts.as_fd(), PollFlags::PRI));
        }
        let wait = self.settle.next_deadline().map(|at| at.saturating_sub(self.now()));
        let timeout = wait.and_then(|wait| Timespec::try_from(wait).ok());
        // EINTR: a round too many.
        poll(&mut fds, timeout.as_ref()).is_ok() && fds.get(2).is_some_and(|fd| !fd.revents().is_empty())
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    fn path_of(&self, item: &Item) -> Option<PathBuf> {
        match item {
            Item::Dir(index) => self.dirs.get(*index).map(|dir| dir.path.clone()),
            Item::Unit { dir, name, .. } => self.dirs.get(*dir).map(|dir| dir.path.join(name)),
            Item::Follow { follow, .. } => Some(follow.path.clone()),
        }
    }

    fn item(&self, key: Key) -> Option<&Item> {
        self.items.get(&key).map(Box::as_ref)
    }

    fn item_mut(&mut self, key: Key) -> Option<&mut Item> {
        self.items.get_mut(&key).map(Box::as_mut)
    }

    fn new_key(&mut self, item: Item) -> Key {
        self.next_key = self.next_key.wrapping_add(1);
        while self.items.contains_key(&self.next_key) {
            self.next_key = self.next_key.wrapping_add(1);
        }
        self.items.insert(self.next_key, Box::new(item));
        self.next_key
    }
}

/// What came in.
impl<P: Fn(Vec<Event>)> Shell<P> {
    fn passed(&mut self) {
        match self.places.changes() {
            Ok(changes) => changes.into_iter().for_each(|change| self.changed(&change, HintKind::Other)),
            Err(_) => self.look_at_everything(),
        }
    }

    /// A hint's path is a name in a watched directory or such a directory itself; both are asked.
    fn hinted(&mut self, hint: Hint) {
        if hint.kind == HintKind::Moved {
            self.places.doubt(&hint.path);
        }
        if let (Some(parent), Some(name)) = (hint.path.parent(), hint.path.file_name()) {
            for dir in self.places.aliases(parent).to_vec() {
                self.changed(&Change { dir, name: Some(name.to_owned()) }, hint.kind);
            }
        }
        if hint.kind != HintKind::Written {
            self.changed(&Change { dir: hint.path, name: None }, hint.kind);
        }
    }

    fn changed(&mut self, change: &Change, kind: HintKind) {
        let dirs: Vec<usize> = self.here.get(&change.dir).cloned().unwrap_or_default();
        let mut keys: Vec<Key> = match &change.name {
            Some(name) => self.places.who_passed(&change.dir, name).to_vec(),
            None => self.places.who_looked_into(&change.dir).collect(),
        };
        for index in dirs {
            match &change.name {
                None => keys.push(self.dirs[index].key),
                Some(name) if is_unit_file(name) => keys.extend(self.unit_key(index, name)),
                Some(name) if self.dirs[index].parent.is_none() => {
                    let drop_ins = self.drop_in_dir(index, name);
                    keys.extend(drop_ins.map(|index| self.dirs[index].key));
                }
                Some(_) => {}
            }
        }
        let now = self.now();
        for key in keys {
            match (self.item(key), kind) {
                (Some(Item::Dir(_)), _) => self.settle.look_by(key, now),
                (Some(_), HintKind::Written) => self.settle.written(key, now),
                (Some(_), _) => self.settle.touched(key, now),
                (None, _) => {}
            }
        }
    }

    /// `None`: there are too many already, which the directory's listing says.
    fn unit_key(&mut self, index: usize, name: &OsStr) -> Option<Key> {
        let dir = &self.dirs[index];
        if let Some(&key) = dir.names.get(name) {
            return Some(key);
        }
        if dir.names.len() >= NAMES_MAX {
            return None;
        }
        let key = self.new_key(Item::Unit { dir: index, name: name.to_owned(), seen: None, linked: false });
        self.dirs[index].names.insert(name.to_owned(), key);
        Some(key)
    }

    /// Any directory on any way may have been mounted over.
    fn mounts_changed(&mut self) {
        if !self.unique_mounts {
            self.places.doubt_all();
        }
        let now = self.now();
        for index in self.dirs_in_use() {
            let linked = |key: &Key| matches!(self.item(*key), Some(Item::Unit { linked: true, .. }));
            let wanted = if self.dirs[index].names.values().any(linked) { Listing::Changed } else { Listing::None };
            self.want(index, wanted, now);
        }
        self.look_at_follows(now);
    }

    /// Events were lost. The quiet time limits how often this happens.
    fn look_at_everything(&mut self) {
        let soon = self.now().saturating_add(QUIET);
        for index in self.dirs_in_use() {
            self.want(index, Listing::All, soon);
        }
        for &key in self.follows.values() {
            self.settle.look_by(key, soon);
        }
    }

    /// Without those that were forgotten.
    fn dirs_in_use(&self) -> Vec<usize> {
        (0..self.dirs.len()).filter(|&index| self.items.contains_key(&self.dirs[index].key)).collect()
    }

    /// Where a directory is, without links; another one may have been there.
    fn is_here(&mut self, index: usize, resolved: &Path) {
        if self.dirs[index].seen.as_ref().is_some_and(|(_, before)| before == resolved) {
            return;
        }
        self.not_here(index);
        self.here.entry(resolved.to_owned()).or_default().push(index);
    }

    fn not_here(&mut self, index: usize) {
        let Some((_, before)) = &self.dirs[index].seen else { return };
        if let Some(dirs) = self.here.get_mut(before) {
            dirs.retain(|other| *other != index);
            if dirs.is_empty() {
                self.here.remove(before);
            }
        }
    }

    fn want(&mut self, index: usize, wanted: Listing, at: Moment) {
        let dir = &mut self.dirs[index];
        dir.wanted = dir.wanted.max(wanted);
        self.settle.look_by(dir.key, at);
    }

    /// Who is told of a directory is told of each name in it too, the same or not.
    fn tell_all_again(&mut self, index: usize, names: &[OsString], drop_ins: &[OsString]) {
        let files: Vec<Key> = names.iter().filter_map(|name| self.unit_key(index, name)).collect();
        let dirs: Vec<usize> = drop_ins.iter().filter_map(|name| self.drop_in_dir(index, name)).collect();
        let dirs = dirs.into_iter().map(|index| self.dirs[index].key);
        files.into_iter().chain(dirs).for_each(|key| self.settle.again(key));
    }

    /// Those of which one system call says that they may have changed.
    fn look_at_follows(&mut self, now: Moment) {
        for (follow, &key) in &self.follows {
            let Some(Item::Follow { seen, .. }) = self.item(key) else { continue };
            let there = Node::at(CWD, follow.path.as_os_str(), AtFlags::empty()).ok();
            let same = match follow.purpose {
                Purpose::Contents => there == *seen,
                Purpose::Place => there.map(|node| node.id) == seen.map(|node| node.id),
                Purpose::Presence => {
                    let facts = |node: Node| (node.id, node.is_mount_point);
                    there.map(facts) == seen.map(facts)
                }
            };
            if !same || seen.is_none() {
                self.settle.look_by(key, now);
            }
        }
    }

    fn commanded(&mut self, command: Command) {
        match command {
            Command::Follow(changes) => self.follow(changes),
            Command::Sync { token, files } => self.sync(token, &files),
        }
    }

    fn follow(&mut self, changes: Vec<Following>) {
        let now = self.now();
        for change in changes {
            match change {
                Following::End(follow) => self.follows.remove(&follow).into_iter().for_each(|key| self.forget(key)),
                Following::Begin(follow) if self.follows.contains_key(&follow) => {}
                Following::Begin(follow) => {
                    let key = self.new_key(Item::Follow { follow: follow.clone(), seen: None });
                    self.follows.insert(follow, key);
                    self.settle.look_by(key, now);
                }
            }
        }
    }

    fn forget(&mut self, key: Key) {
        if let Some(Item::Unit { dir, name, .. }) = self.items.remove(&key).map(|item| *item) {
            self.dirs[dir].names.remove(&name);
        }
        self.settle.forget(key);
        self.places.forget(key);
    }

    fn look_at_unit_named(&mut self, index: usize, name: &OsStr, now: Moment) {
        if let Some(key) = self.unit_key(index, name) {
            self.settle.look_by(key, now);
        }
        self.look_at_drop_ins_of(index, name, now);
    }

    /// Answered within this call, except for second looks.
    fn sync(&mut self, token: u64, files: &[OsString]) {
        let now = self.now();
        for index in self.dirs_in_use() {
            if files.is_empty() {
                self.want(index, Listing::Changed, now);
            } else if self.dirs[index].parent.is_none() {
                self.want(index, Listing::None, now);
                files.iter().for_each(|name| self.look_at_unit_named(index, name, now));
            }
        }
        self.look_at_follows(now);
        self.settle.hurry(now);
        self.hurry = true;
        self.looks();
        self.hurry = false;
        let left = self.settle.waiting().collect();
        self.syncs.push(Sync { token, left });
    }
}

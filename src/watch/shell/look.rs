//! Looking at directories, files and places, and saying what is new.

use std::cmp::Reverse;
use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::super::places::Change;
use super::super::settle::{Digest, Key, Moment, Outcome, QUIET, Verdict};
use super::super::trusted::{self, Identity, Node, OpenDir, ReadError, Settled, Step, TrustedFile};
use super::super::{
    Contents, DirectoryState, Event, Follow, Place, Purpose, TEXT_MAX_BYTES, inbox::HintKind, is_unit_file, writer,
};
use super::{Item, Listing, NAMES_MAX, Shell};
use crate::compact;
use crate::unit::drop_in_target;

/// A batch is posted when its texts have this many bytes, even if the round goes on.
pub const BATCH_MAX_BYTES: usize = 4 << 20;

/// A walk is repeated when it led to new watches; each repetition needs somebody who changed the way meanwhile.
const WALKS_MAX: u32 = 8;

/// Looks that lead to further looks which are due at once: a directory's to its files'. The rest wait for the next round.
const PASSES_MAX: u32 = 8;

/// Syncs that wait for a second look.
const SYNCS_MAX: usize = 256;

/// How often a directory on a network file system is looked at.
const REMOTE_PERIOD: Duration = Duration::from_secs(5);

/// A change this shortly before a look could be followed by another with the same ctime: a coarse clock's tick, doubled.
const RACY: Duration = Duration::from_millis(20);

impl<P: Fn(Vec<Event>)> Shell<P> {
    pub(super) fn round(&mut self) {
        self.drop_ins.new_round();
        self.looks();
        for dir in self.places.take_orphans() {
            self.changed(&Change { dir, name: None }, HintKind::Other);
        }
        let blind = self.places.take_blind();
        self.batch.extend(blind.into_iter().map(Event::Blind));
        self.answer_syncs();
        self.flush();
    }

    pub(super) fn looks(&mut self) {
        for _ in 0..PASSES_MAX {
            let due = self.settle.take_due(self.now());
            if due.is_empty() {
                return;
            }
            self.look_at(&due);
        }
    }

    /// Directories first: what a file's absence means depends on its directory.
    fn look_at(&mut self, due: &[Key]) {
        let mut open: HashMap<usize, Option<OpenDir>> = HashMap::new();
        for key in due {
            let index = match self.item(*key) {
                Some(Item::Dir(index)) | Some(Item::Unit { dir: index, .. }) => *index,
                Some(Item::Follow { .. }) | None => continue,
            };
            let parent = self.dirs[index].parent;
            let above = parent.map(|parent| open.entry(parent).or_insert_with(|| self.look_at_dir(parent)).is_some());
            open.entry(index).or_insert_with(|| match above {
                Some(false) => self.rest_dir(index),
                Some(true) | None => self.look_at_dir(index),
            });
        }
        let mut first = self.batch.len();
        for &key in due {
            match self.item(key) {
                Some(Item::Unit { dir, name, .. }) => {
                    let (index, name) = (*dir, name.clone());
                    let now = self.now();
                    let together = self.settles_with(index, &name, key, now).filter(|_| !self.hurry);
                    match (open.get(&index), together) {
                        (Some(Some(_)), Some(at)) => self.settle.look_by(key, at),
                        (Some(Some(dir)), None) => self.look_at_unit(index, dir, key, name),
                        (Some(None) | None, _) => self.settle.rest(key),
                    }
                }
                Some(Item::Follow { follow, .. }) => {
                    let follow = follow.clone();
                    match follow.purpose {
                        Purpose::Contents => self.look_at_file(key, follow.path),
                        Purpose::Place | Purpose::Presence => self.look_at_place(key, follow),
                    }
                }
                Some(Item::Dir(_)) | None => {}
            }
            if self.batch_bytes > BATCH_MAX_BYTES {
                self.order_from(first);
                self.flush();
                first = 0;
            }
        }
        self.order_from(first);
    }

    /// Files of several directories that have one name cover each other. Of those that were looked at together, what covers comes before what
    /// it covers, and what goes after what it uncovers: else a text that never counted on disk would come into force in between, and
    /// stay as the last good one. Each file is in it once.
    fn order_from(&mut self, first: usize) {
        if self.dirs.len() < 2 {
            return;
        }
        let rank = |path: &Path| self.dirs.iter().position(|dir| Some(dir.path.as_path()) == path.parent());
        let events = self.batch.get_mut(first..).unwrap_or_default();
        compact::sort_by_key(events, |event| match event {
            Event::Text { path, .. } | Event::Refused { path, .. } => (1, Reverse(rank(path)), None),
            Event::Gone { path, .. } => (2, Reverse(None), rank(path)),
            Event::Directory { .. } | Event::Busy { .. } | Event::File { .. } => (0, Reverse(None), None),
            Event::Place { .. } | Event::Presence { .. } => (0, Reverse(None), None),
            Event::Blind(_) | Event::Synced { .. } => (3, Reverse(None), None),
        });
    }

    fn look_at_dir(&mut self, index: usize) -> Option<OpenDir> {
        let (key, path) = (self.dirs[index].key, self.dirs[index].path.clone());
        let mut result = Err(ReadError::Changing { path: path.clone() });
        for _ in 0..WALKS_MAX {
            let mut steps = Vec::new();
            result = trusted::open_dir(&path, &self.trust, &mut steps);
            let contents = result.as_ref().ok().map(|dir| (dir.resolved.clone(), dir.node.id));
            if !self.places.set(key, steps, contents) {
                break;
            }
            // A watch was made: what happened before it gave no event.
            self.dirs[index].wanted = self.dirs[index].wanted.max(Listing::Changed);
        }
        let listed = result.and_then(|dir| self.list(index, &dir).map(|names| (dir, names)));
        match listed {
            Ok((dir, names)) => {
                self.dir_is_there(index, &dir, names);
                Some(dir)
            }
            Err(why) => {
                self.dir_is_not_there(index, why);
                None
            }
        }
    }

    /// The names, if they are of interest.
    fn list(&mut self, index: usize, dir: &OpenDir) -> Result<Option<Vec<OsString>>, ReadError> {
        let here = &mut self.dirs[index];
        let seen = Some((dir.node.id, dir.resolved.clone()));
        if here.seen != seen || !here.present {
            here.wanted = Listing::All;
        } else if dir.is_remote() {
            here.wanted = here.wanted.max(Listing::Changed);
        }
        if here.wanted == Listing::None {
            return Ok(None);
        }
        let has_drop_ins = here.parent.is_none();
        let wanted = |name: &OsStr| is_unit_file(name) || has_drop_ins && drop_in_target(name).is_some();
        dir.list(NAMES_MAX, wanted).map(Some)
    }

    fn dir_is_there(&mut self, index: usize, dir: &OpenDir, names: Option<Vec<OsString>>) {
        let now = self.now();
        self.is_here(index, &dir.resolved);
        let here = &mut self.dirs[index];
        let key = here.key;
        here.seen = Some((dir.node.id, dir.resolved.clone()));
        here.present = true;
        let wanted = std::mem::replace(&mut here.wanted, Listing::None);
        let outcome = Outcome::Found(digest(&(dir.node.id, &dir.resolved)));
        let verdict = self.settle.outcome(key, outcome, now, self.hurry);
        if dir.is_remote() {
            self.settle.look_by(key, now.saturating_add(REMOTE_PERIOD));
        }
        let Some(names) = names else { return };
        let (names, drop_ins): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| is_unit_file(name));
        self.look_at_names(index, dir, &names, wanted, now);
        self.look_at_drop_in_dirs(index, &drop_ins, wanted, now);
        if verdict == Verdict::Post {
            self.tell_all_again(index, &names, &drop_ins);
            let (identity, resolved) = (dir.node.id, dir.resolved.clone());
            let state = DirectoryState::Present { identity, resolved, names, drop_ins };
            self.batch.push(Event::Directory { dir: self.dirs[index].path.clone(), state });
        }
    }

    /// Has every file looked at that is new, may have changed, or is not there any more.
    fn look_at_names(&mut self, index: usize, dir: &OpenDir, names: &[OsString], wanted: Listing, now: Moment) {
        for name in names {
            let Some(key) = self.unit_key(index, name) else { continue };
            let same = wanted == Listing::Changed
                && match self.item(key) {
                    Some(Item::Unit { seen: Some(seen), .. }) => dir.peek(name) == Some(*seen),
                    _ => false,
                };
            if !same {
                self.settle.look_by(key, now);
            }
        }
        let there: HashSet<&OsString> = names.iter().collect();
        for (name, &key) in &self.dirs[index].names {
            if !there.contains(name) {
                self.settle.look_by(key, now);
            }
        }
    }

    fn dir_is_not_there(&mut self, index: usize, why: ReadError) {
        let now = self.now();
        let key = self.dirs[index].key;
        let at_once = !self.settle.is_posted(key);
        let is_drop_ins = self.dirs[index].parent.is_some();
        let is_no_link = |missing: &Path| !is_drop_ins || self.is_in_parent(index, missing);
        let absent = matches!(&why, ReadError::Missing { .. })
            || matches!(&why, ReadError::Dangling { missing, .. } if is_no_link(missing));
        if is_drop_ins && absent && at_once {
            return self.forget_drop_in_dir(index);
        }
        let outcome = match &why {
            _ if absent => Outcome::Absent { why: 0, at_once },
            ReadError::Changing { .. } => Outcome::Young { wait: QUIET },
            other => Outcome::Refused(digest(&other.to_string())),
        };
        self.dirs[index].present = false;
        for &unit in self.dirs[index].names.values() {
            self.settle.rest(unit);
        }
        if self.settle.outcome(key, outcome, now, self.hurry) == Verdict::Post {
            let state = if absent { DirectoryState::Missing } else { DirectoryState::Unreadable(why) };
            self.batch.push(Event::Directory { dir: self.dirs[index].path.clone(), state });
            if is_drop_ins && absent {
                self.forget_drop_in_dir(index);
            }
        }
    }

    fn look_at_unit(&mut self, index: usize, dir: &OpenDir, key: Key, name: OsString) {
        let mut result;
        let mut linked;
        let mut walks = 0;
        loop {
            let mut steps = Vec::new();
            result = dir.read(&name, &self.trust, TEXT_MAX_BYTES, &mut steps);
            linked = !steps.is_empty();
            walks += 1;
            if !linked {
                // The directory's own watch is enough.
                self.places.forget(key);
                break;
            }
            let contents = contents_of(&result, &steps);
            if !self.places.set(key, steps, contents) || walks == WALKS_MAX {
                break;
            }
        }
        let node = node_of(&result);
        let result = result.and_then(|settled| text_of(settled, &dir.resolved.join(&name)));
        let outcome = match &result {
            Ok(Text::Held(_)) => Outcome::Held,
            Ok(Text::Whole(text, file)) => Outcome::Found(digest(&(text, &file.resolved))),
            Ok(Text::Unleased(text, file)) => Outcome::Unleased {
                text: digest(&(text, &file.resolved)),
                look: digest(&(text, &file.resolved, file.node)),
            },
            Err(ReadError::Missing { .. }) if !self.settle.is_posted(key) => return self.forget(key),
            Err(why) => Self::outcome_of(why, false),
        };
        let outcome = self.unless_young(outcome, node);
        let verdict = self.settle.outcome(key, outcome, self.now(), self.hurry);
        if let Some(Item::Unit { seen, linked: through, .. }) = self.item_mut(key) {
            *seen = node.filter(|node| verdict != Verdict::Wait && !is_racy(node));
            *through = linked;
        }
        let path = self.dirs[index].path.join(&name);
        match (verdict, result) {
            (Verdict::Busy, Ok(Text::Held(resolved))) => self.busy(path, &resolved),
            (Verdict::Post, Ok(Text::Whole(text, file) | Text::Unleased(text, file))) => {
                self.batch_bytes += text.len();
                self.batch.push(Event::Text { path, name, text, resolved: file.resolved });
            }
            (Verdict::Post, Err(ReadError::Missing { .. })) => {
                self.forget(key);
                self.batch.push(Event::Gone { path, name });
            }
            (Verdict::Post, Err(why)) => self.batch.push(Event::Refused { path, name, why }),
            (Verdict::Post | Verdict::Busy, _) | (Verdict::Same | Verdict::Wait, _) => {}
        }
    }

    fn look_at_file(&mut self, key: Key, path: PathBuf) {
        let mut result;
        let mut walks = 0;
        loop {
            let mut steps = Vec::new();
            result = trusted::read_settled(&path, &self.trust, TEXT_MAX_BYTES, &mut steps);
            walks += 1;
            let contents = contents_of(&result, &steps);
            if !self.places.set(key, steps, contents) || walks == WALKS_MAX {
                break;
            }
        }
        let node = node_of(&result);
        let outcome = match &result {
            Ok(Settled::Held { .. }) => Outcome::Held,
            Ok(Settled::Read(file)) => Outcome::Found(of_file(file)),
            Ok(Settled::Unleased(file)) => {
                Outcome::Unleased { text: of_file(file), look: digest(&(&file.bytes, &file.resolved, file.node)) }
            }
            Err(why) => Self::outcome_of(why, !self.settle.is_posted(key)),
        };
        let outcome = self.unless_young(outcome, node);
        let verdict = self.settle.outcome(key, outcome, self.now(), self.hurry);
        self.saw(key, node.filter(|node| verdict != Verdict::Wait && !is_racy(node)), &path);
        let file = match (verdict, result) {
            (Verdict::Busy, Ok(Settled::Held { resolved })) => return self.busy(path, &resolved),
            (Verdict::Post, Ok(Settled::Read(file) | Settled::Unleased(file))) => {
                self.batch_bytes += file.bytes.len();
                let readable_by_others = file.node.is_readable_by_others();
                Ok(Contents { bytes: file.bytes, resolved: file.resolved, readable_by_others })
            }
            (Verdict::Post, Err(why)) => Err(why),
            (Verdict::Post | Verdict::Busy, _) | (Verdict::Same | Verdict::Wait, _) => return,
        };
        self.batch.push(Event::File { path, file });
    }

    fn look_at_place(&mut self, key: Key, follow: Follow) {
        let Follow { path, purpose } = follow;
        let mut result = Err(ReadError::Changing { path: path.clone() });
        for _ in 0..WALKS_MAX {
            let mut steps = Vec::new();
            result = trusted::walk(&path, None, &mut steps);
            if !self.places.set(key, steps, None) {
                break;
            }
        }
        let node = result.as_ref().ok().map(|found| found.node);
        let outcome = match &result {
            Ok(found) => {
                Outcome::Found(digest(&(&found.resolved, found.node.id, found.node.mode, found.node.is_mount_point)))
            }
            Err(why) => Self::outcome_of(why, !self.settle.is_posted(key)),
        };
        let verdict = self.settle.outcome(key, outcome, self.now(), self.hurry);
        self.saw(key, node, &path);
        if verdict != Verdict::Post {
            return;
        }
        self.batch.push(match purpose {
            Purpose::Presence => {
                let is_mount_point = node.is_some_and(|node| node.is_mount_point);
                Event::Presence { path, exists: node.is_some(), is_mount_point }
            }
            Purpose::Contents | Purpose::Place => {
                let place = result.map(|found| Place { resolved: found.resolved, identity: found.node.id });
                Event::Place { path, place }
            }
        });
    }

    fn outcome_of(why: &ReadError, at_once: bool) -> Outcome {
        match why {
            ReadError::Missing { .. } | ReadError::Dangling { .. } => {
                Outcome::Absent { why: digest(&why.to_string()), at_once }
            }
            ReadError::Changing { .. } => Outcome::Young { wait: QUIET },
            other => Outcome::Refused(digest(&other.to_string())),
        }
    }

    /// A file that was found by a listing had its events, if any, before there was a watch.
    fn unless_young(&self, outcome: Outcome, node: Option<Node>) -> Outcome {
        match node.and_then(|node| age(&node)).and_then(|age| QUIET.checked_sub(age)) {
            Some(wait) if !self.hurry && !wait.is_zero() && outcome != Outcome::Held => Outcome::Young { wait },
            _ => outcome,
        }
    }

    fn saw(&mut self, key: Key, node: Option<Node>, path: &Path) {
        if let Some(Item::Follow { seen, .. }) = self.item_mut(key) {
            *seen = node;
        }
        if path.parent().is_some_and(trusted::is_remote) {
            self.settle.look_by(key, self.now().saturating_add(REMOTE_PERIOD));
        }
    }

    fn busy(&mut self, path: PathBuf, resolved: &Path) {
        self.batch.push(Event::Busy { path, writer: writer::find(resolved) });
    }

    fn answer_syncs(&mut self) {
        let settle = &self.settle;
        for sync in &mut self.syncs {
            sync.left.retain(|&key| settle.is_waiting(key));
        }
        let too_many = self.syncs.len().saturating_sub(SYNCS_MAX);
        let mut done = Vec::new();
        let mut index = 0;
        self.syncs.retain_mut(|sync| {
            index += 1;
            let answer = sync.left.is_empty() || index <= too_many;
            if answer {
                done.push((sync.token, std::mem::take(&mut sync.left)));
            }
            !answer
        });
        for (token, left) in done {
            let mut held: Vec<PathBuf> = self
                .items
                .iter()
                .filter(|(key, _)| self.settle.is_held(**key) || left.contains(key))
                .filter_map(|(_, item)| self.path_of(item))
                .collect();
            compact::sort(&mut held);
            self.batch.push(Event::Synced { token, held });
        }
    }

    fn flush(&mut self) {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            (self.post)(batch);
        }
    }
}

/// A unit file that was opened.
enum Text {
    Held(PathBuf),
    Whole(String, TrustedFile),
    Unleased(String, TrustedFile),
}

fn text_of(settled: Settled, path: &Path) -> Result<Text, ReadError> {
    Ok(match settled {
        Settled::Held { resolved } => Text::Held(resolved),
        Settled::Read(mut file) => Text::Whole(utf8(&mut file, path)?, file),
        Settled::Unleased(mut file) => Text::Unleased(utf8(&mut file, path)?, file),
    })
}

fn utf8(file: &mut TrustedFile, path: &Path) -> Result<String, ReadError> {
    String::from_utf8(std::mem::take(&mut file.bytes)).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(error.as_bytes().get(..good).unwrap_or_default());
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        ReadError::NotUtf8 { path: path.to_owned(), line, column }
    })
}

/// The directory whose contents matter: where the last name was looked up, if there is something.
fn contents_of(result: &Result<Settled, ReadError>, steps: &[Step]) -> Option<(PathBuf, Identity)> {
    match result {
        Err(ReadError::Missing { .. } | ReadError::Dangling { .. } | ReadError::NotDirectory { .. }) => None,
        _ => steps.last().map(|step| (step.dir.clone(), step.id)),
    }
}

fn node_of(result: &Result<Settled, ReadError>) -> Option<Node> {
    match result {
        Ok(Settled::Read(file) | Settled::Unleased(file)) => Some(file.node),
        Ok(Settled::Held { .. }) | Err(_) => None,
    }
}

/// `None`: changed in the future, which a clock that was set back does.
fn age(node: &Node) -> Option<Duration> {
    let now = clock_gettime(ClockId::Realtime);
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let age = nanos(now.tv_sec, now.tv_nsec) - nanos(node.ctime.0, i64::from(node.ctime.1));
    u64::try_from(age).ok().map(Duration::from_nanos)
}

fn is_racy(node: &Node) -> bool {
    age(node).is_none_or(|age| age < RACY)
}

/// What is told of a followed file.
fn of_file(file: &TrustedFile) -> Digest {
    digest(&(&file.bytes, &file.resolved, file.node.is_readable_by_others()))
}

fn digest(what: &impl Hash) -> Digest {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

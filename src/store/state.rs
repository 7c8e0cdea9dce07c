//! The state-dir: what the next boot must know. One thread writes; nobody waits for it.
//!
//! A request replaces the pending one of the same [`Key`] (history is added to), so the queue is as long as there are
//! units, however slow the disk is. Each request gets a [`Ticket`]; a fact names the latest ticket that it covers.
//! What failed stays pending and is tried again with the next request, and after [`RETRY`]; the failure is posted once,
//! and again when it is another one. A request for what somebody waits for is answered anew; one for the history is not: what people are told goes
//! into it, so that a failure of its own would be told for ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::generation::Mark;
use super::{Note, StoreError};
use crate::plan::{Boots, Timetable};
use crate::unit::{LayerText, UnitName};

/// While something could not be written, and only then.
const RETRY: Duration = Duration::from_secs(30);

/// Lines of history that wait for the disk; the oldest go first.
const HISTORY_PENDING_MAX: usize = 1024;

/// Counts requests.
pub type Ticket = u64;

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The unit's stop mark. First: somebody waits for it.
    Stop(UnitName),
    /// The unit's last good text and config.json.
    Good(UnitName),
    /// How far the unit's schedule is.
    Timetable(UnitName),
    /// The last good defaults.
    Defaults,
    /// The generation mark.
    Generation,
    /// The history.
    History,
    /// The last good texts of several units. After those of single units, which were asked for before.
    Set,
    /// The texts of the last good boot.
    GoodBoot,
    /// The count of boots; after the texts of one that was good.
    Boots,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// It is on the disk.
    Persisted {
        /// What.
        key: Key,
        /// The latest request that this covers.
        ticket: Ticket,
    },
    /// It is not, and will be tried again.
    Failed {
        /// What.
        key: Key,
        /// The latest request that this covers.
        ticket: Ticket,
        /// Why.
        error: StoreError,
    },
}

/// What a unit ran with when it was last valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Good {
    /// The unit file's text.
    pub text: String,
    /// What was merged with it.
    pub layers: Vec<LayerText>,
    /// config.json's bytes, for a bundle.
    pub config: Option<Arc<[u8]>>,
    /// What its env files defined, for a unit that has some.
    pub variables: Option<BTreeMap<String, String>>,
    /// The contents of its config files, by target.
    pub configs: Vec<(String, Vec<u8>)>,
    /// The unit file as it was found.
    pub path: PathBuf,
    /// Where the unit file was read, links resolved.
    pub resolved: PathBuf,
    /// Where the unit's source was found, links resolved.
    pub source: PathBuf,
    /// Where each of its `layers` was found, for a unit that has some.
    pub roots: Vec<PathBuf>,
    /// Device and inode of the unit file's directory; zeroes if unknown.
    pub directory: (u64, u64),
    /// Since when it is in force, in ms since 1970.
    pub since_ms: u64,
    /// The text to go back to if this one turns out to be bad.
    pub earlier: Option<Box<Good>>,
    /// A text that was left because it was bad.
    pub bad: Option<BadText>,
}

/// A text that is not to be taken again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadText {
    /// The unit file's text and all that was merged with it.
    pub texts: String,
    /// Of the unit and its source.
    pub fingerprint: [u8; 16],
    /// What was bad.
    pub why: String,
    /// When it was left, in ms since 1970.
    pub at_ms: u64,
}

/// Last good texts that are to come all at once; `None`: the unit has none.
pub type GoodSet = BTreeMap<UnitName, Option<Good>>;

/// Why a unit is stopped by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopMark {
    /// Who asked, as the control socket saw it.
    pub who: String,
    /// When, in ms since 1970.
    pub when_ms: u64,
    /// `--reason`.
    pub why: Option<String>,
    /// `--for`: the end, in ms since 1970.
    pub until_ms: Option<u64>,
}

/// What was found in the state-dir.
#[derive(Debug)]
pub struct Loaded {
    /// Last good texts, by unit.
    pub good: Vec<(UnitName, Good)>,
    /// The last good defaults.
    pub defaults: Option<LayerText>,
    /// Stop marks, by unit.
    pub stops: Vec<(UnitName, StopMark)>,
    /// How far schedules are, by unit.
    pub timetables: Vec<(UnitName, Timetable)>,
    /// The texts of the last good boot.
    pub good_boot: BTreeMap<UnitName, Good>,
    /// What was counted of the boots so far.
    pub boots: Option<Boots>,
    /// For [`Generations`](super::Generations).
    pub mark: Mark,
    /// What was wrong.
    pub notes: Vec<Note>,
}

/// What the writer does.
#[derive(Debug)]
pub enum Work {
    /// Last good text.
    Keep(UnitName, Box<Good>),
    /// No last good text.
    Forget(UnitName),
    /// Several of both, all or none.
    Set(GoodSet),
    /// The last good defaults; `None`: there are none.
    Defaults(Option<Box<LayerText>>),
    /// Stop mark.
    Mark(UnitName, StopMark),
    /// No stop mark.
    Clear(UnitName),
    /// How far a schedule is; `None`: there is none.
    Timetable(UnitName, Option<Box<Timetable>>),
    /// Generation mark.
    Reserve(u64),
    /// Lines of JSON.
    History(Vec<String>),
    /// The texts of this boot, which is good.
    GoodBoot(BTreeMap<UnitName, Good>),
    /// What is counted of the boots so far.
    Boots(Boots),
}

impl Work {
    fn key(&self) -> Key {
        match self {
            Work::Keep(unit, _) | Work::Forget(unit) => Key::Good(unit.clone()),
            Work::Set(_) => Key::Set,
            Work::Defaults(_) => Key::Defaults,
            Work::Mark(unit, _) | Work::Clear(unit) => Key::Stop(unit.clone()),
            Work::Timetable(unit, _) => Key::Timetable(unit.clone()),
            Work::Reserve(_) => Key::Generation,
            Work::History(_) => Key::History,
            Work::GoodBoot(_) => Key::GoodBoot,
            Work::Boots(_) => Key::Boots,
        }
    }

    /// What is left to do when `self` was asked for after `earlier`, which is not done.
    fn after(self, earlier: Work) -> Work {
        match (earlier, self) {
            (Work::History(mut lines), Work::History(new)) => {
                lines.extend(new);
                let too_many = lines.len().saturating_sub(HISTORY_PENDING_MAX);
                lines.drain(..too_many);
                Work::History(lines)
            }
            (_, new) => new,
        }
    }
}

#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    work: Work,
    /// What was said of its failure.
    failed: Option<StoreError>,
}

#[derive(Debug, Default)]
struct Queue {
    pending: BTreeMap<Key, Pending>,
    ticket: Ticket,
    /// Something is pending that was not tried.
    fresh: bool,
    stop: bool,
}

impl Queue {
    /// What was asked for of the units of a set before it, and was refused, is not tried again behind it.
    fn withdraw_older(&mut self, set: &GoodSet, ticket: Ticket) {
        for unit in set.keys() {
            let key = Key::Good(unit.clone());
            if self.pending.get(&key).is_some_and(|pending| pending.ticket < ticket) {
                self.pending.remove(&key);
            }
        }
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    disk: Mutex<Disk>,
}

/// The state-dir and its writer. Dropping it tries what is pending once more and joins the thread.
#[derive(Debug)]
pub struct StateStore {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl StateStore {
    /// Reads the state-dir, making it where it is missing, and starts the writer. That the directory is unusable is a note,
    /// and later a fact, not an error; the error is a thread that could not be started.
    pub fn open(state_dir: &Path, post: impl Fn(Fact) + Send + 'static) -> std::io::Result<(StateStore, Loaded)> {
        let (disk, loaded) = Disk::open(state_dir);
        let shared = Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new(), disk: Mutex::new(disk) });
        let thread = std::thread::Builder::new().name("state".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.write(&post)
        })?;
        Ok((StateStore { shared, thread: Some(thread) }, loaded))
    }

    /// Keeps the unit's text and config.json as its last good ones.
    pub fn keep_good(&self, unit: UnitName, good: Good) -> Ticket {
        self.request(Work::Keep(unit, Box::new(good)))
    }

    /// The unit is gone.
    pub fn forget_good(&self, unit: UnitName) -> Ticket {
        self.request(Work::Forget(unit))
    }

    /// All of these or, after a crash before [`Fact::Persisted`], perhaps none. One that failed is withdrawn by an empty set.
    pub fn keep_set(&self, set: GoodSet) -> Ticket {
        self.request(Work::Set(set))
    }

    /// Keeps the defaults of all units as the last good ones.
    pub fn keep_defaults(&self, defaults: Option<LayerText>) -> Ticket {
        self.request(Work::Defaults(defaults.map(Box::new)))
    }

    /// The unit was stopped by hand.
    pub fn mark_stop(&self, unit: UnitName, mark: StopMark) -> Ticket {
        self.request(Work::Mark(unit, mark))
    }

    /// It may run again.
    pub fn clear_stop(&self, unit: UnitName) -> Ticket {
        self.request(Work::Clear(unit))
    }

    /// Keeps how far a unit's schedule is.
    pub fn keep_timetable(&self, unit: UnitName, table: Option<Timetable>) -> Ticket {
        self.request(Work::Timetable(unit, table.map(Box::new)))
    }

    /// Adds an entry to the history, which [`read_history`](super::read_history) reads. At most 1024 wait for a disk that
    /// refuses them; then the oldest of these are lost. An entry that has no JSON is an error here.
    pub fn add_history(&self, entry: &impl Serialize) -> Result<Ticket, StoreError> {
        let line = serde_json::to_string(entry)
            .map_err(|error| StoreError::Encode { path: "history".into(), text: error.to_string() })?;
        Ok(self.request(Work::History(vec![line])))
    }

    /// No generation above this will be used without another call.
    pub(super) fn reserve(&self, mark: u64) -> Ticket {
        self.request(Work::Reserve(mark))
    }

    /// The same, waiting for the disk: at the start only.
    pub(super) fn reserve_now(&self, mark: u64) -> Result<(), StoreError> {
        lock(&self.shared.disk).apply(&Work::Reserve(mark))
    }

    /// Keeps the texts of a good boot.
    pub fn keep_good_boot(&self, texts: BTreeMap<UnitName, Good>) -> Ticket {
        self.request(Work::GoodBoot(texts))
    }

    /// Keeps the count of boots.
    pub fn keep_boots(&self, boots: Boots) -> Ticket {
        self.request(Work::Boots(boots))
    }

    /// The same, waiting for the disk: at the start only.
    pub fn keep_boots_now(&self, boots: Boots) -> Result<(), StoreError> {
        lock(&self.shared.disk).apply(&Work::Boots(boots))
    }

    /// As [`StateStore::keep_set`], waiting for the disk: at the start only.
    pub fn keep_set_now(&self, set: GoodSet) -> Result<(), StoreError> {
        lock(&self.shared.disk).apply(&Work::Set(set))
    }

    fn request(&self, work: Work) -> Ticket {
        let mut queue = lock(&self.shared.queue);
        queue.ticket = queue.ticket.wrapping_add(1);
        let ticket = queue.ticket;
        let key = work.key();
        let (work, failed) = match queue.pending.remove(&key) {
            Some(earlier) => (work.after(earlier.work), earlier.failed.filter(|_| key == Key::History)),
            None => (work, None),
        };
        queue.pending.insert(key, Pending { ticket, work, failed });
        queue.fresh = true;
        drop(queue);
        self.shared.wake.notify_one();
        ticket
    }
}

impl Drop for StateStore {
    fn drop(&mut self) {
        lock(&self.shared.queue).stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It ends only by stop or by a panic, which was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn write(&self, post: &impl Fn(Fact)) {
        loop {
            let (works, stop) = self.take();
            for (key, pending) in works {
                // Those of this batch came first; what was asked for since goes ahead of the rest of it.
                if !matches!(key, Key::Stop(_)) {
                    self.write_marks(post);
                }
                if let Some(fact) = self.write_one(key, pending) {
                    post(fact);
                }
            }
            if stop {
                return;
            }
        }
    }

    /// Stop marks that were asked for and not tried.
    fn write_marks(&self, post: &impl Fn(Fact)) {
        let mut queue = lock(&self.queue);
        // They are the first in it.
        let of_stops = queue.pending.iter().take_while(|(key, _)| matches!(key, Key::Stop(_)));
        let new = of_stops.filter(|(_, pending)| pending.failed.is_none()).map(|(key, _)| key.clone());
        let new: Vec<Key> = new.collect();
        let marks: Vec<(Key, Pending)> = new.iter().filter_map(|key| queue.pending.remove_entry(key)).collect();
        drop(queue);
        for (key, pending) in marks {
            self.write_one(key, pending).into_iter().for_each(post);
        }
    }

    /// Waits for something to do, or to do again. What comes with a stop is the last.
    fn take(&self) -> (BTreeMap<Key, Pending>, bool) {
        let mut queue = lock(&self.queue);
        let retry_at = Instant::now() + RETRY;
        while !queue.fresh && !queue.stop {
            queue = if queue.pending.is_empty() {
                self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner)
            } else {
                let left = retry_at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                self.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
            };
        }
        queue.fresh = false;
        (std::mem::take(&mut queue.pending), queue.stop)
    }

    /// `None`: it failed as it did before, or something newer is pending.
    fn write_one(&self, key: Key, pending: Pending) -> Option<Fact> {
        let result = lock(&self.disk).apply(&pending.work);
        let Pending { ticket, work, failed } = pending;
        let mut queue = lock(&self.queue);
        let Err(error) = result else {
            if let Work::Set(set) = &work {
                queue.withdraw_older(set, ticket);
            }
            return Some(Fact::Persisted { key, ticket });
        };
        let (ticket, work) = match queue.pending.remove(&key) {
            None => (ticket, work),
            // More lines, which were not tried and fail as these did.
            Some(newer) if key == Key::History => (newer.ticket, newer.work.after(work)),
            Some(newer) => {
                let work = newer.work.after(work);
                queue.pending.insert(key, Pending { work, ..newer });
                return None;
            }
        };
        let said = failed.as_ref() == Some(&error);
        queue.pending.insert(key.clone(), Pending { ticket, work, failed: Some(error.clone()) });
        (!said).then_some(Fact::Failed { key, ticket, error })
    }
}

/// Queue and disk are whole after every statement, or found out to be wrong by their checksums.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(ticket: Ticket, work: Work) -> (Key, Pending) {
        (work.key(), Pending { ticket, work, failed: None })
    }

    #[test]
    fn behind_a_set_nothing_older_of_its_units_is_tried_again() {
        let unit = |name| UnitName::new(name).unwrap();
        let forget = |ticket, name| pending(ticket, Work::Forget(unit(name)));
        let dir = std::env::temp_dir().join(format!("moored-behind-a-set-{}", std::process::id()));
        let (disk, _) = Disk::open(&dir);
        let older_and_newer = [forget(1, "older"), forget(2, "another"), forget(4, "newer")];
        let queue = Queue { pending: older_and_newer.into(), ..Queue::default() };
        let shared = Shared { queue: Mutex::new(queue), wake: Condvar::new(), disk: Mutex::new(disk) };
        let (key, set) = pending(3, Work::Set([(unit("older"), None), (unit("newer"), None)].into()));
        assert_eq!(shared.write_one(key, set), Some(Fact::Persisted { key: Key::Set, ticket: 3 }));
        let left: Vec<Key> = lock(&shared.queue).pending.keys().cloned().collect();
        assert_eq!(left, ["another", "newer"].map(|name| Key::Good(unit(name))));
        std::fs::remove_dir_all(dir).unwrap();
    }
}

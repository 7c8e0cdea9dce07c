//! What the supervisor writes down, and the watch it reads with: one place for the loop to say "keep this".
//!
//! Records under `/run` are written by the loop itself, before an action's effect; they are memory. What must survive the host goes to the
//! writer thread of the state store, which answers with a fact; a disk that refuses is told once and costs nothing that runs.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use super::catalogue::InForce;
use super::narrate;
use crate::control::protocol::Event;
use crate::plan::{BootTime, Hold, Observed, Seen, Until, WallTime};
use crate::store::{self, Generations, Good, Note, RunLock, RunStore, StateStore, StopMark, StoreError};
use crate::unit::UnitName;
use crate::watch::{self, Follow, Watch};

/// The stores, and the watch.
pub struct Files {
    _lock: RunLock,
    run: RunStore,
    state: StateStore,
    generations: Generations,
    watch: Option<Watch>,
    followed: BTreeSet<Follow>,
    /// Units whose last good text is stored, or about to be.
    stored: BTreeSet<UnitName>,
    /// A failure to write records was told, and not yet a success.
    failing: bool,
}

/// Why there is nothing to go on from.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Somebody else works here.
    #[error(transparent)]
    Lock(#[from] store::LockError),
    /// Nor can records be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No writer thread.
    #[error("starting the writer of the state-dir: {0}")]
    Thread(#[from] std::io::Error),
}

/// What an earlier supervisor left.
pub struct Left {
    /// The world as it knew it.
    pub observed: Observed,
    /// Last good texts.
    pub good: Vec<(UnitName, Good)>,
    /// Stop marks of units without a record: those of an earlier boot.
    pub marks: Vec<(UnitName, Hold)>,
    /// Events, oldest first.
    pub events: Vec<Event>,
    /// What was wrong with it.
    pub notes: Vec<Note>,
}

impl Files {
    /// Takes the run-dir, reads what is there.
    pub fn open(
        run_dir: &Path,
        state_dir: &Path,
        post: impl Fn(store::Fact) + Send + 'static,
    ) -> Result<(Files, Left), FilesError> {
        let lock = RunLock::take(run_dir)?;
        let (run, mut notes) = RunStore::open(run_dir, &store::boot_id())?;
        let (salt, is_new) = run.salt()?;
        super::contents::set_salt(salt);
        let (records, more) = run.load_all::<Seen>()?;
        notes.extend(more);
        let (state, loaded) = StateStore::open(state_dir, post)?;
        notes.extend(loaded.notes);
        let (generations, more) = Generations::open(&run, &state, loaded.mark, SystemTime::now());
        notes.extend(more);
        let observed = Observed {
            units: records.into_iter().map(|(unit, seen)| (unit, Box::new(comparable(seen, is_new)))).collect(),
            floor: generations.last(),
            ..Observed::default()
        };
        let events = store::read_history::<Event>(state_dir);
        let (events, more) = events.unwrap_or_else(|error| {
            let text = format!("past events are not read: {error}");
            (Vec::new(), vec![Note { path: state_dir.to_owned(), text }])
        });
        notes.extend(more);
        let without_record = |(unit, _): &(UnitName, StopMark)| !observed.units.contains_key(unit);
        let marks = loaded.stops.into_iter().filter(without_record).map(|(unit, mark)| (unit, hold_of(mark))).collect();
        let stored = loaded.good.iter().map(|(unit, _)| unit.clone()).collect();
        let files = Files {
            _lock: lock,
            run,
            state,
            generations,
            watch: None,
            followed: BTreeSet::new(),
            stored,
            failing: false,
        };
        Ok((files, Left { observed, good: loaded.good, marks, events, notes }))
    }

    /// From here on there is something to follow and to sync.
    pub fn watch_with(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Follows these; says whether they are others than before.
    pub fn follow(&mut self, wanted: BTreeSet<Follow>) -> bool {
        if wanted == self.followed {
            return false;
        }
        if let Some(watch) = &self.watch {
            watch.follow(wanted.iter().cloned().collect());
        }
        self.followed = wanted;
        true
    }

    /// Asks for what is on disk of these units, or without any of all, to be read now. `false`: too many ask already.
    pub fn sync<'n>(&self, token: u64, units: impl IntoIterator<Item = &'n UnitName>) -> bool {
        let files = units.into_iter().map(watch::unit_file).collect();
        self.watch.as_ref().is_some_and(|watch| watch.sync(token, files))
    }

    /// An event, for those who ask after the next start. It waits for nothing: one that the disk refuses is told of like other state.
    pub fn add_event(&self, event: &Event) {
        if let Err(error) = self.state.add_history(event) {
            tracing::warn!("{error}");
        }
    }

    /// The unit's record under `/run`, or its removal. An event if that does not work, once.
    pub fn save(&mut self, name: &UnitName, seen: Option<&Seen>) -> Option<Event> {
        let saved = match seen {
            Some(seen) => {
                let used = self.generations.used(seen.high_water, &self.run, &self.state);
                used.and(self.run.save(name, seen))
            }
            None => self.run.remove(name),
        };
        let failed = saved.as_ref().is_err();
        let told = std::mem::replace(&mut self.failing, failed);
        saved.err().filter(|_| !told).map(|error| narrate::trouble(format!("records cannot be written: {error}")))
    }

    /// Everything was stopped in order: the next run begins anew, as after a boot.
    pub fn forget_all(&mut self, observed: &Observed) {
        for name in observed.units.keys() {
            if let Err(error) = self.run.remove(name) {
                tracing::warn!("{error}");
            }
        }
    }

    /// The text in force survives a reboot.
    pub fn keep_good(&mut self, good: &InForce) {
        let kept = Good {
            text: good.text.to_string(),
            config: good.facts.config_json.clone(),
            variables: (!good.unit.process.env_files.is_empty()).then(|| good.unit.process.variables.map().clone()),
            configs: (good.unit.configs.iter().filter(|config| !config.secret))
                .filter_map(|config| Some((config.target.clone(), config.contents.as_ref()?.bytes().to_vec())))
                .collect(),
            path: good.file.clone(),
            resolved: good.resolved.clone(),
            source: good.facts.resolved.clone(),
            directory: (good.directory.device, good.directory.inode),
            since_ms: good.since.0,
        };
        self.stored.insert(good.unit.name.clone());
        self.state.keep_good(good.unit.name.clone(), kept);
    }

    /// The unit was removed: neither its text nor a mark outlives that.
    pub fn drop_good(&mut self, name: &UnitName) {
        if self.stored.remove(name) {
            self.state.forget_good(name.clone());
        }
        self.state.clear_stop(name.clone());
    }

    /// A stop mark survives a reboot.
    pub fn keep_mark(&mut self, name: &UnitName, hold: &Hold) {
        let until_ms = hold.until.map(|until| until.wall.0);
        let mark = StopMark { who: hold.by.clone(), when_ms: hold.since.0, why: hold.reason.clone(), until_ms };
        self.state.mark_stop(name.clone(), mark);
    }

    /// It was lifted.
    pub fn drop_mark(&mut self, name: &UnitName) {
        self.state.clear_stop(name.clone());
    }
}

/// What was made with another salt says nothing of the contents that a container has.
fn comparable(mut seen: Seen, is_new_salt: bool) -> Seen {
    if let Some(live) = seen.live.as_mut().filter(|_| is_new_salt) {
        live.contents = None;
    }
    seen
}

/// The mark's end on the clock of this boot.
fn hold_of(mark: StopMark) -> Hold {
    let now = super::clock::now();
    let until = mark.until_ms.map(|until_ms| {
        let left = std::time::Duration::from_millis(until_ms.saturating_sub(now.wall.0));
        Until { boot: BootTime::after(now.boot, left), wall: WallTime(until_ms) }
    });
    Hold { by: mark.who, reason: mark.why, since: WallTime(mark.when_ms), until }
}

/// What the writer thread says, if people should know.
pub fn told(fact: &store::Fact) -> Option<Event> {
    match fact {
        store::Fact::Persisted { .. } => None,
        store::Fact::Failed { error, .. } => {
            Some(narrate::trouble(format!("state cannot be written, and is tried again: {error}")))
        }
    }
}

//! What the supervisor writes down, and the watch it reads with: one place for the loop to say "keep this".
//!
//! Records under `/run` are written by the loop itself, before an action's effect; they are memory. What must survive the host goes to the
//! writer thread of the state store, which answers with a fact; a disk that refuses is told once and costs nothing that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::catalogue::{Bad, InForce, Next, Trial};
use super::marks::Marks;
use super::{clock, contents, narrate};
use crate::compact;
use crate::control::protocol::Event;
use crate::plan::{BootTime, Boots, Hold, Observed, Seen, Timetable, Until, WallTime};
use crate::store::{
    self, Generations, Good, GoodSet, Note, RunLock, RunStore, StateStore, StopMark, StoreError, Ticket,
};
use crate::unit::{LayerText, UnitName, files_with_drop_ins};
use crate::watch::{Follow, Watch};

/// What there is to say about this boot, a line each; process 1 begins it.
pub const BOOT_NOTES: &str = "init.notes";

/// The stores, and the watch.
pub struct Files {
    _lock: RunLock,
    run: RunStore,
    state: StateStore,
    generations: Generations,
    watch: Option<Watch>,
    /// For how many things each is followed.
    followed: BTreeMap<Follow, usize>,
    /// Units whose last good text is stored, or about to be.
    stored: BTreeSet<UnitName>,
    /// The defaults that are stored, or about to be.
    defaults: Option<LayerText>,
    /// Schedules as they are stored, or about to be.
    timetables: BTreeMap<UnitName, Timetable>,
    /// A failure to write records was told, and not yet a success.
    failing: bool,
    /// Events for the history.
    history: Vec<Event>,
    boot_notes: PathBuf,
    state_dir: PathBuf,
    /// Stop marks on their way to the disk.
    pub(super) marks: Marks,
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
    /// Last good defaults.
    pub defaults: Option<LayerText>,
    /// Stop marks of units without a record: those of an earlier boot.
    pub marks: Vec<(UnitName, Hold)>,
    /// How far schedules were.
    pub timetables: Vec<(UnitName, Timetable)>,
    /// Texts of the last good boot.
    pub good_boot: BTreeMap<UnitName, Good>,
    /// What was counted of the boots so far.
    pub boots: Option<Boots>,
    /// Nobody was here before since the machine was started.
    pub new_boot: bool,
    /// Events, oldest first.
    pub events: Vec<Event>,
    /// What is to be told beside that the supervisor begins.
    pub told: Vec<Event>,
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
            units: compact::map(records.into_iter().map(|(unit, seen)| (unit, Box::new(comparable(seen, is_new))))),
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
        let stored = compact::set(loaded.good.iter().map(|(unit, _)| unit.clone()));
        let files = Files {
            _lock: lock,
            run,
            state,
            generations,
            watch: None,
            followed: BTreeMap::new(),
            stored,
            defaults: loaded.defaults.clone(),
            timetables: compact::map(loaded.timetables.iter().cloned()),
            failing: false,
            history: Vec::new(),
            boot_notes: run_dir.join(BOOT_NOTES),
            state_dir: state_dir.to_owned(),
            marks: Marks::default(),
        };
        let left = Left {
            observed,
            good: loaded.good,
            defaults: loaded.defaults,
            marks,
            timetables: loaded.timetables,
            good_boot: loaded.good_boot,
            boots: loaded.boots,
            new_boot: is_new,
            events,
            told: Vec::new(),
            notes,
        };
        Ok((files, left))
    }

    /// From here on there is something to follow and to sync.
    pub fn watch_with(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Follows these too, each for one thing more, and for one thing less those that it followed before.
    pub fn follow(&mut self, more: impl Iterator<Item = Follow>, less: impl Iterator<Item = Follow>) {
        let (mut begun, mut ended) = (BTreeSet::new(), Vec::new());
        for follow in more {
            let count = self.followed.entry(follow.clone()).or_default();
            if *count == 0 {
                begun.insert(follow);
            }
            *count += 1;
        }
        for follow in less {
            let Some(count) = self.followed.get_mut(&follow) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.followed.remove(&follow);
                // One that was only begun in this call was never told of.
                if !begun.remove(&follow) {
                    ended.push(follow);
                }
            }
        }
        if let Some(watch) = self.watch.as_ref().filter(|_| !begun.is_empty() || !ended.is_empty()) {
            watch.follow(begun.into_iter().collect(), ended);
        }
    }

    /// Asks for what is on disk of these units, or without any of all, to be read now. `false`: too many ask already.
    pub fn sync<'n>(&self, token: u64, units: impl IntoIterator<Item = &'n UnitName>) -> bool {
        let files = units.into_iter().flat_map(files_with_drop_ins).collect();
        self.watch.as_ref().is_some_and(|watch| watch.sync(token, files))
    }

    /// An event, for those who ask after the next start: to be written with the others of this round.
    pub fn add_event(&mut self, event: &Event) {
        self.history.push(event.clone());
    }

    /// Hands the events over to the writer, which wakes up for them: what they are about is on its way by now. It waits for nothing: one that the
    /// disk refuses is told of like other state.
    pub fn write_events(&mut self) {
        for event in self.history.drain(..) {
            if let Err(error) = self.state.add_history(&event) {
                tracing::warn!("{error}");
            }
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

    /// Whether the last record could not be written.
    pub fn is_failing(&self) -> bool {
        self.failing
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
    pub fn keep_good(&mut self, good: &InForce, trial: &Trial) {
        let bad = trial.bad.as_ref().map(Bad::stored);
        let earlier = trial.earlier.as_deref().map(good_of).map(Box::new);
        let kept = Good { earlier, bad, ..good_of(good) };
        self.stored.insert(good.unit.name.clone());
        self.state.keep_good(good.unit.name.clone(), kept);
    }

    /// These go in force together, since `now`, each with the text to go back to: all or none survive a crash. Answered by a fact with this
    /// ticket.
    pub fn keep_set<'a>(
        &mut self,
        set: &[(UnitName, Next)],
        earlier_of: impl Fn(&UnitName, &InForce) -> Option<&'a InForce>,
        now: WallTime,
    ) -> Ticket {
        let form = |unit: &UnitName, next: &Next| {
            let good = next.text()?;
            let earlier = earlier_of(unit, good).map(good_of).map(Box::new);
            Some(Good { since_ms: now.0, earlier, ..good_of(good) })
        };
        let set = compact::map(set.iter().map(|(unit, next)| (unit.clone(), form(unit, next))));
        self.state.keep_set(set)
    }

    /// As [`StateStore::keep_set_now`].
    pub fn keep_set_now(&self, set: GoodSet) -> Result<(), StoreError> {
        self.state.keep_set_now(set)
    }

    /// The texts of a boot that is good.
    pub fn keep_good_boot<'a>(&self, texts: impl Iterator<Item = &'a Arc<InForce>>) {
        let texts = texts.map(|text| (text.unit.name.clone(), good_of(text)));
        self.state.keep_good_boot(compact::map(texts));
    }

    /// What is counted of the boots.
    pub fn keep_boots(&self, boots: Boots) {
        self.state.keep_boots(boots);
    }

    /// As [`StateStore::keep_boots_now`].
    pub fn keep_boots_now(&self, boots: Boots) -> Result<(), StoreError> {
        self.state.keep_boots_now(boots)
    }

    /// Where notes about this boot are.
    pub fn boot_notes(&self) -> &Path {
        &self.boot_notes
    }

    /// A set that could not be written is not tried again.
    pub fn withdraw_set(&mut self) {
        self.state.keep_set(GoodSet::new());
    }

    /// The defaults in force survive a reboot.
    pub fn keep_defaults(&mut self, defaults: Option<&LayerText>) {
        if self.defaults.as_ref() != defaults {
            self.defaults = defaults.cloned();
            self.state.keep_defaults(defaults.cloned());
        }
    }

    /// How far a schedule is survives a reboot.
    pub fn keep_timetable(&mut self, name: &UnitName, table: Option<&Timetable>) {
        if self.timetables.get(name) == table {
            return;
        }
        match table {
            Some(table) => drop(self.timetables.insert(name.clone(), table.clone())),
            None => drop(self.timetables.remove(name)),
        }
        self.state.keep_timetable(name.clone(), table.cloned());
    }

    /// The unit was removed: neither its text nor a mark outlives that.
    pub fn drop_good(&mut self, name: &UnitName) {
        self.keep_timetable(name, None);
        if let Err(why) = store::release_range(&self.state_dir, name) {
            tracing::warn!("{name}: its ids stay taken: {why}");
        }
        if self.stored.remove(name) {
            self.state.forget_good(name.clone());
        }
        self.drop_mark(name);
    }

    /// A stop mark survives a reboot.
    pub fn keep_mark(&mut self, name: &UnitName, hold: &Hold) {
        let until_ms = hold.until.map(|until| until.wall.0);
        let mark = StopMark { who: hold.by.clone(), when_ms: hold.since.0, why: hold.reason.clone(), until_ms };
        let ticket = self.state.mark_stop(name.clone(), mark);
        self.marks.ask(name, ticket, clock::now().boot);
    }

    /// It was lifted.
    pub fn drop_mark(&mut self, name: &UnitName) {
        let ticket = self.state.clear_stop(name.clone());
        self.marks.ask(name, ticket, clock::now().boot);
    }
}

fn good_of(text: &InForce) -> Good {
    Good {
        text: text.text.to_string(),
        layers: text.layers.clone(),
        config: text.facts.config_json.clone(),
        variables: (!text.unit.process.env_files.is_empty()).then(|| text.unit.process.variables.map().clone()),
        configs: contents::to_store(&text.unit),
        path: text.file.clone(),
        resolved: text.resolved.clone(),
        source: text.facts.resolved.clone(),
        roots: text.facts.layers.clone(),
        directory: (text.directory.device, text.directory.inode),
        since_ms: text.since.0,
        earlier: None,
        bad: None,
    }
}

/// What was made with another salt says nothing of the contents that a container has.
fn comparable(mut seen: Seen, is_new_salt: bool) -> Seen {
    if is_new_salt {
        seen.live.iter_mut().chain(seen.beside.as_deref_mut()).for_each(|live| live.contents = None);
    }
    seen
}

/// With its end on the clock of this boot.
fn hold_of(mark: StopMark) -> Hold {
    let until = mark.until_ms.map(|until_ms| Until { boot: BootTime::default(), wall: WallTime(until_ms) });
    let hold = Hold { by: mark.who, reason: mark.why, since: WallTime(mark.when_ms), until };
    hold.after_reboot(super::clock::now())
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

//! The state-dir as it lies on the disk. Used by one thread at a time; everything is synced.
//!
//! ```text
//! generation            the mark
//! good/<hash>           texts, config.json copies, variables and config files, by content: what 40 units share is one file
//! defaults.json         the last good defaults
//! units/<unit>.json     which of these are the unit's last good ones, and where they came from
//! stops/<unit>.json     why it is stopped
//! schedules/<unit>.json how far its schedule is
//! set                   indices of several units that come all at once, until each is in its own file
//! boots.json            how many boots in a row were not good
//! good-boot             indices of all units of the last good boot
//! history, history.1
//! ```
//!
//! Contents are written before the index that names them and removed after the last index that did. A crash in between
//! leaves contents without an index, which the next open removes.
//!
//! A set is one file, so it is there whole or not at all. Once it is there it counts: the units' own files are written from it, by this
//! process before any other of them is written, or by the next open after a crash. Then it is removed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic::{Dir, Durability, Read};
use super::generation::Mark;
use super::index::{Index, Kept, PathText, StoredDefaults, content_name, content_number, json_of, name_of};
use super::run::{file_name, load_records, read_number};
use super::state::{Good, GoodSet, Loaded, StopMark, Work};
use super::{Note, StoreError, history};
use crate::compact;
use crate::unit::{LayerText, UnitName};

const GENERATION: &str = "generation";
const SET: &str = "set";
const DEFAULTS: &str = "defaults.json";
const BOOTS: &str = "boots.json";
const GOOD_BOOT: &str = "good-boot";

/// The state-dir, opened when that is possible.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    dirs: Option<Dirs>,
    index: HashMap<UnitName, Kept>,
    /// A set that is written, and not yet unit by unit.
    set: IndexSet,
    /// The texts of the last good boot.
    good_boot: BTreeMap<UnitName, Index>,
}

type IndexSet = BTreeMap<UnitName, Option<Index>>;

#[derive(Debug)]
struct Dirs {
    root: Dir,
    good: Dir,
    units: Dir,
    stops: Dir,
    schedules: Dir,
}

impl Disk {
    /// Opens what can be opened; what cannot is in the notes, and is tried again at each write.
    pub fn open(root: &Path) -> (Disk, Loaded) {
        let (index, set, good_boot) = (HashMap::new(), IndexSet::new(), BTreeMap::new());
        let mut disk = Disk { root: root.to_owned(), dirs: None, index, set, good_boot };
        let mut loaded = Loaded {
            good: Vec::new(),
            defaults: None,
            stops: Vec::new(),
            timetables: Vec::new(),
            good_boot: BTreeMap::new(),
            boots: None,
            mark: Mark::Unknown,
            notes: Vec::new(),
        };
        if let Err(error) = disk.load(&mut loaded) {
            let text = format!("state is not loaded: {error}");
            loaded.notes.push(Note { path: root.to_owned(), text });
        }
        (disk, loaded)
    }

    /// Does one piece of work, once.
    pub fn apply(&mut self, work: &Work) -> Result<(), StoreError> {
        self.dirs()?;
        match work {
            Work::Keep(unit, good) => self.settle_set().and_then(|()| self.keep(unit, good)),
            Work::Forget(unit) => self.settle_set().and_then(|()| self.forget(unit)),
            Work::Set(set) => self.settle_set().and_then(|()| self.keep_set(set)),
            Work::Defaults(Some(defaults)) => write_json(&self.dirs()?.root, DEFAULTS, &StoredDefaults::of(defaults)),
            Work::Defaults(None) => self.dirs()?.root.remove(DEFAULTS, Durability::Sync),
            Work::Mark(unit, mark) => self.mark(unit, mark),
            Work::Clear(unit) => self.dirs()?.stops.remove(&file_name(unit), Durability::Sync),
            Work::Timetable(unit, Some(table)) => write_json(&self.dirs()?.schedules, &file_name(unit), table),
            Work::Timetable(unit, None) => self.dirs()?.schedules.remove(&file_name(unit), Durability::Sync),
            Work::Reserve(mark) => self.dirs()?.root.write(GENERATION, &mark.to_le_bytes(), Durability::Sync),
            Work::History(lines) => history::append(&self.root, lines),
            Work::GoodBoot(texts) => self.keep_good_boot(texts),
            Work::Boots(boots) => write_json(&self.dirs()?.root, BOOTS, boots),
        }
    }

    fn dirs(&mut self) -> Result<&Dirs, StoreError> {
        if self.dirs.is_none() {
            let open = |name: &str| Dir::open(&self.root.join(name));
            let root = Dir::open(&self.root)?;
            let (good, units, stops, schedules) = (open("good")?, open("units")?, open("stops")?, open("schedules")?);
            self.dirs = Some(Dirs { root, good, units, stops, schedules });
        }
        let missing = || StoreError::Open { path: self.root.clone(), errno: rustix::io::Errno::NOENT };
        self.dirs.as_ref().ok_or_else(missing)
    }

    fn load(&mut self, loaded: &mut Loaded) -> Result<(), StoreError> {
        self.dirs()?;
        let Some(dirs) = &self.dirs else { return Ok(()) };
        let (mark, notes) = read_number(&dirs.root, GENERATION)?;
        let torn = !notes.is_empty();
        loaded.notes.extend(notes);
        let (stops, notes) = load_records(&dirs.stops)?;
        loaded.stops = stops;
        loaded.notes.extend(notes);
        let (timetables, notes) = load_records(&dirs.schedules)?;
        loaded.timetables = timetables;
        loaded.notes.extend(notes);
        let (indices, notes) = load_records::<Index>(&dirs.units)?;
        loaded.notes.extend(notes);
        let used = !indices.is_empty() || !loaded.stops.is_empty() || !loaded.notes.is_empty();
        loaded.mark = match mark {
            Some(mark) => Mark::At(mark),
            None if torn || used || self.root.join("history").exists() => Mark::Unknown,
            None => Mark::Never,
        };
        for (unit, index) in indices {
            match dirs.good_of(&index, &mut loaded.notes)? {
                Some(good) => {
                    loaded.good.push((unit.clone(), good));
                    self.index.insert(unit, Kept::of(&index));
                }
                None => loaded.notes.push(dirs.units.put_aside(&file_name(&unit), "its contents are lost")),
            }
        }
        self.load_set(loaded)?;
        self.load_boots(loaded)?;
        self.remove_unused();
        self.load_defaults(loaded)
    }

    fn load_defaults(&self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let Some(dirs) = &self.dirs else { return Ok(()) };
        let stored: Option<StoredDefaults> = read_json(&dirs.root, DEFAULTS, &mut loaded.notes)?;
        loaded.defaults = stored.map(StoredDefaults::into_layer);
        Ok(())
    }

    /// What an earlier run wrote as a set and not unit by unit.
    fn load_set(&mut self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let Some(dirs) = &self.dirs else { return Ok(()) };
        let set: IndexSet = read_json(&dirs.root, SET, &mut loaded.notes)?.unwrap_or_default();
        for (unit, index) in set {
            let good = match &index {
                None => None,
                Some(index) => match dirs.good_of(index, &mut loaded.notes)? {
                    Some(good) => Some(good),
                    None => {
                        let text = format!("the text of {unit} in it is lost: the one before stays");
                        loaded.notes.push(Note { path: self.root.join(SET), text });
                        continue;
                    }
                },
            };
            loaded.good.retain(|(other, _)| *other != unit);
            loaded.good.extend(good.map(|good| (unit.clone(), good)));
            self.set.insert(unit, index);
        }
        compact::sort_by(&mut loaded.good, |(a, _), (b, _)| a.cmp(b));
        if let Err(error) = self.settle_set() {
            let text = format!("it counts, and is not taken apart yet: {error}");
            loaded.notes.push(Note { path: self.root.join(SET), text });
        }
        Ok(())
    }

    /// What is torn or lost of it is as if it had never been: then no boot was bad, or a unit is not in the good set.
    fn load_boots(&mut self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let Some(dirs) = &self.dirs else { return Ok(()) };
        loaded.boots = read_json(&dirs.root, BOOTS, &mut loaded.notes)?;
        self.good_boot = read_json(&dirs.root, GOOD_BOOT, &mut loaded.notes)?.unwrap_or_default();
        for (unit, index) in &self.good_boot {
            match dirs.good_of(index, &mut loaded.notes)? {
                Some(good) => drop(loaded.good_boot.insert(unit.clone(), good)),
                None => loaded
                    .notes
                    .push(Note { path: self.root.join(GOOD_BOOT), text: format!("the text of {unit} in it is lost") }),
            }
        }
        Ok(())
    }

    fn keep_good_boot(&mut self, texts: &BTreeMap<UnitName, Good>) -> Result<(), StoreError> {
        self.settle_set()?;
        let mut indices = BTreeMap::new();
        for (unit, good) in texts {
            indices.insert(unit.clone(), self.write_contents(good)?);
        }
        if indices == self.good_boot {
            return Ok(());
        }
        write_json(&self.dirs()?.root, GOOD_BOOT, &indices)?;
        let before = std::mem::replace(&mut self.good_boot, indices);
        before.values().try_for_each(|index| self.release(index.contents()))
    }

    fn keep_set(&mut self, set: &GoodSet) -> Result<(), StoreError> {
        if set.is_empty() {
            return self.dirs()?.root.remove(SET, Durability::Sync);
        }
        let path = self.root.join(SET);
        let index = |good: &Option<Good>| good.as_ref().map(|good| Index::of(good, &path)).transpose();
        let indices = set.iter().map(|(unit, good)| Ok((unit.clone(), index(good)?)));
        let indices: IndexSet = indices.collect::<Result<_, StoreError>>()?;
        // Before any of the contents: with some thousand units they are many, and it is no record any more.
        let json = json_of(&path, &indices)?;
        self.dirs()?.root.accepts(SET, &json)?;
        let written = self.write_set(set, &indices);
        match &written {
            Ok(()) => self.set = indices,
            // As for a single unit.
            Err(_) => indices.values().flatten().for_each(|index| drop(self.release(index.contents()))),
        }
        written
    }

    fn write_set(&mut self, set: &GoodSet, indices: &IndexSet) -> Result<(), StoreError> {
        for good in set.values().flatten() {
            self.write_contents(good)?;
        }
        write_json(&self.dirs()?.root, SET, indices)
    }

    /// Writes what a set says into the units' own files, and removes it.
    fn settle_set(&mut self) -> Result<(), StoreError> {
        if self.set.is_empty() {
            return Ok(());
        }
        for (unit, index) in self.set.clone() {
            match index {
                Some(index) if self.knows(&unit, &index) => {}
                Some(index) => self.put_index(&unit, index)?,
                None => self.forget(&unit)?,
            }
        }
        self.dirs()?.root.remove(SET, Durability::Sync)?;
        self.set.clear();
        Ok(())
    }

    fn keep(&mut self, unit: &UnitName, good: &Good) -> Result<(), StoreError> {
        let index = self.write_contents(good)?;
        match self.knows(unit, &index) {
            true => Ok(()),
            false => self.put_index(unit, index),
        }
    }

    fn knows(&self, unit: &UnitName, index: &Index) -> bool {
        self.index.get(unit).is_some_and(|known| known.is_of(index))
    }

    /// What an index is to name, and the index.
    fn write_contents(&mut self, good: &Good) -> Result<Index, StoreError> {
        let variables = good.variables.as_ref().map(|variables| json_of(&self.root, variables)).transpose()?;
        let index = Index::of(good, &self.root)?;
        if let Some(earlier) = &good.earlier {
            self.write_contents(earlier)?;
        }
        self.write_content(&index.text, good.text.as_bytes())?;
        for (named, layer) in index.layers.iter().zip(&good.layers) {
            self.write_content(&named.text, layer.text.as_bytes())?;
        }
        if let (Some(name), Some(config)) = (&index.config, &good.config) {
            self.write_content(name, config)?;
        }
        if let (Some(name), Some(variables)) = (&index.variables, &variables) {
            self.write_content(name, variables)?;
        }
        for ((_, name), (_, bytes)) in index.configs.iter().zip(&good.configs) {
            self.write_content(name, bytes)?;
        }
        Ok(index)
    }

    fn put_index(&mut self, unit: &UnitName, index: Index) -> Result<(), StoreError> {
        if let Err(error) = write_json(&self.dirs()?.units, &file_name(unit), &index) {
            // Nobody names them now; a full disk wants the space back. What stays is removed at the next open.
            let _ = self.release(index.contents());
            return Err(error);
        }
        let before = self.index.insert(unit.clone(), Kept::of(&index));
        self.release(before.into_iter().flat_map(|kept| kept.contents))
    }

    fn forget(&mut self, unit: &UnitName) -> Result<(), StoreError> {
        self.dirs()?.units.remove(&file_name(unit), Durability::Sync)?;
        let before = self.index.remove(unit);
        self.release(before.into_iter().flat_map(|kept| kept.contents))
    }

    fn mark(&mut self, unit: &UnitName, mark: &StopMark) -> Result<(), StoreError> {
        write_json(&self.dirs()?.stops, &file_name(unit), mark)
    }

    /// What an index names was written whole and read back or written in this run.
    fn write_content(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if content_number(name).is_some_and(|number| self.is_used(number)) {
            return Ok(());
        }
        self.dirs()?.good.write(name, bytes, Durability::Sync)
    }

    fn is_used(&self, contents: u128) -> bool {
        self.used().any(|used| used == contents)
    }

    /// All contents that an index names.
    fn used(&self) -> impl Iterator<Item = u128> {
        let whole = self.set.values().flatten().chain(self.good_boot.values());
        self.index.values().flat_map(|kept| kept.contents.iter().copied()).chain(whole.flat_map(Index::contents))
    }

    /// Not synced: one that comes back after a power cut is removed at the next open.
    fn release(&mut self, contents: impl IntoIterator<Item = u128>) -> Result<(), StoreError> {
        for number in contents {
            if !self.is_used(number) {
                self.dirs()?.good.remove(&name_of(number), Durability::NoSync)?;
            }
        }
        Ok(())
    }

    /// Best effort: what stays is removed the next time.
    fn remove_unused(&self) {
        let Some(dirs) = &self.dirs else { return };
        let used: HashSet<u128> = self.used().collect();
        for name in dirs.good.names().unwrap_or_default() {
            if !content_number(&name).is_some_and(|number| used.contains(&number)) {
                let _ = dirs.good.remove(&name, Durability::NoSync);
            }
        }
    }
}

impl Dirs {
    /// `None`: a part is missing, torn, or not what its name says.
    fn good_of(&self, index: &Index, notes: &mut Vec<Note>) -> Result<Option<Good>, StoreError> {
        let Some(text) = self.content(&index.text, notes)? else { return Ok(None) };
        let Ok(text) = String::from_utf8(text) else { return Ok(None) };
        let config = match &index.config {
            None => None,
            Some(name) => match self.content(name, notes)? {
                None => return Ok(None),
                config => config,
            },
        };
        let mut layers = Vec::with_capacity(index.layers.len());
        for layer in &index.layers {
            let text = self.content(&layer.text, notes)?.and_then(|text| String::from_utf8(text).ok());
            let Some(text) = text else { return Ok(None) };
            let (file, resolved) = (layer.file.clone().into_path(), layer.resolved.clone().into_path());
            layers.push(LayerText { kind: layer.kind, file, resolved, text: text.into() });
        }
        let variables = match &index.variables {
            None => None,
            Some(name) => match self.content(name, notes)?.and_then(|bytes| compact::from_json(&bytes).ok()) {
                None => return Ok(None),
                variables => variables,
            },
        };
        let mut configs = Vec::new();
        for (target, name) in &index.configs {
            let Some(bytes) = self.content(name, notes)? else { return Ok(None) };
            configs.push((target.clone(), bytes));
        }
        // Without the earlier one there is none to go back to.
        let earlier = index.earlier.as_deref().map(|earlier| self.good_of(earlier, notes)).transpose()?.flatten();
        Ok(Some(Good {
            text,
            layers,
            config: config.map(Vec::into),
            variables,
            configs,
            path: index.path.clone().into_path(),
            resolved: index.resolved.clone().into_path(),
            source: index.source.clone().into_path(),
            roots: index.roots.iter().cloned().map(PathText::into_path).collect(),
            directory: index.directory,
            since_ms: index.since_ms,
            earlier: earlier.map(Box::new),
            bad: index.bad.clone(),
        }))
    }

    fn content(&self, name: &str, notes: &mut Vec<Note>) -> Result<Option<Vec<u8>>, StoreError> {
        // Only names that this program makes: the index is a file like any other.
        if name.len() != 32 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        Ok(match self.good.read(name)? {
            Read::Found(bytes) if content_name(&bytes) == name => Some(bytes),
            Read::Found(_) => {
                notes.push(self.good.put_aside(name, "its name is another content's"));
                None
            }
            Read::Missing => None,
            Read::PutAside(note) => {
                notes.push(note);
                None
            }
        })
    }
}

/// `None`: it is not there, or was put aside.
fn read_json<T: DeserializeOwned>(dir: &Dir, name: &str, notes: &mut Vec<Note>) -> Result<Option<T>, StoreError> {
    Ok(match dir.read(name)? {
        Read::Missing => None,
        Read::PutAside(note) => {
            notes.push(note);
            None
        }
        Read::Found(bytes) => match compact::from_json(&bytes) {
            Ok(record) => Some(record),
            Err(error) => {
                notes.push(dir.put_aside(name, &error.to_string()));
                None
            }
        },
    })
}

fn write_json(dir: &Dir, name: &str, record: &impl Serialize) -> Result<(), StoreError> {
    dir.write(name, &json_of(&dir.path().join(name), record)?, Durability::Sync)
}

#[cfg(test)]
mod tests;

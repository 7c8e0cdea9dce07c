//! The state-dir as it lies on the disk. Used by one thread at a time; everything is synced.
//!
//! ```text
//! generation            the mark
//! good/<hash>           texts, config.json copies, variables and config files, by content: a config.json shared by 40 units is one file
//! units/<unit>.json     which of these are the unit's last good ones, and where they came from
//! stops/<unit>.json     why it is stopped
//! history, history.1
//! ```
//!
//! Contents are written before the index that names them and removed after the last index that did. A crash in between
//! leaves contents without an index, which the next open removes.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic::{Dir, Durability, Read};
use super::generation::Mark;
use super::run::{file_name, load_records, read_number};
use super::state::{Good, Loaded, StopMark, Work};
use super::{Note, StoreError, fnv128, history};
use crate::unit::UnitName;

const GENERATION: &str = "generation";

/// The state-dir, opened when that is possible.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    dirs: Option<Dirs>,
    index: HashMap<UnitName, Index>,
}

#[derive(Debug)]
struct Dirs {
    root: Dir,
    good: Dir,
    units: Dir,
    stops: Dir,
}

/// `units/<unit>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    text: String,
    config: Option<String>,
    #[serde(default)]
    variables: Option<String>,
    #[serde(default)]
    configs: Vec<(String, String)>,
    path: PathText,
    resolved: PathText,
    source: PathText,
    directory: (u64, u64),
    since_ms: u64,
}

/// A path in JSON: text where it is text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum PathText {
    Text(String),
    Bytes(Vec<u8>),
}

impl PathText {
    fn of(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => PathText::Text(text.to_owned()),
            None => PathText::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }

    fn into_path(self) -> PathBuf {
        match self {
            PathText::Text(text) => text.into(),
            PathText::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

impl Disk {
    /// Opens what can be opened; what cannot is in the notes, and is tried again at each write.
    pub fn open(root: &Path) -> (Disk, Loaded) {
        let mut disk = Disk { root: root.to_owned(), dirs: None, index: HashMap::new() };
        let mut loaded = Loaded { good: Vec::new(), stops: Vec::new(), mark: Mark::Unknown, notes: Vec::new() };
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
            Work::Keep(unit, good) => self.keep(unit, good),
            Work::Forget(unit) => self.forget(unit),
            Work::Mark(unit, mark) => self.mark(unit, mark),
            Work::Clear(unit) => self.dirs()?.stops.remove(&file_name(unit), Durability::Sync),
            Work::Reserve(mark) => self.dirs()?.root.write(GENERATION, &mark.to_le_bytes(), Durability::Sync),
            Work::History(lines) => history::append(&self.root, lines),
        }
    }

    fn dirs(&mut self) -> Result<&Dirs, StoreError> {
        if self.dirs.is_none() {
            let open = |name: &str| Dir::open(&self.root.join(name));
            let root = Dir::open(&self.root)?;
            self.dirs = Some(Dirs { root, good: open("good")?, units: open("units")?, stops: open("stops")? });
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
                    self.index.insert(unit, index);
                }
                None => loaded.notes.push(dirs.units.put_aside(&file_name(&unit), "its contents are lost")),
            }
        }
        self.remove_unused();
        Ok(())
    }

    fn keep(&mut self, unit: &UnitName, good: &Good) -> Result<(), StoreError> {
        let variables = good.variables.as_ref().map(|variables| to_json(&self.root, variables)).transpose()?;
        let index = Index {
            text: content_name(good.text.as_bytes()),
            config: good.config.as_deref().map(content_name),
            variables: variables.as_deref().map(content_name),
            configs: good.configs.iter().map(|(target, bytes)| (target.clone(), content_name(bytes))).collect(),
            path: PathText::of(&good.path),
            resolved: PathText::of(&good.resolved),
            source: PathText::of(&good.source),
            directory: good.directory,
            since_ms: good.since_ms,
        };
        self.write_content(&index.text, good.text.as_bytes())?;
        if let (Some(name), Some(config)) = (&index.config, &good.config) {
            self.write_content(name, config)?;
        }
        if let (Some(name), Some(variables)) = (&index.variables, &variables) {
            self.write_content(name, variables)?;
        }
        for ((_, name), (_, bytes)) in index.configs.iter().zip(&good.configs) {
            self.write_content(name, bytes)?;
        }
        if let Err(error) = write_json(&self.dirs()?.units, &file_name(unit), &index) {
            // Nobody names them now; a full disk wants the space back. What stays is removed at the next open.
            let _ = self.release(Some(index));
            return Err(error);
        }
        let before = self.index.insert(unit.clone(), index);
        self.release(before)
    }

    fn forget(&mut self, unit: &UnitName) -> Result<(), StoreError> {
        self.dirs()?.units.remove(&file_name(unit), Durability::Sync)?;
        let before = self.index.remove(unit);
        self.release(before)
    }

    fn mark(&mut self, unit: &UnitName, mark: &StopMark) -> Result<(), StoreError> {
        write_json(&self.dirs()?.stops, &file_name(unit), mark)
    }

    /// What an index names was written whole and read back or written in this run.
    fn write_content(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if self.is_used(name) {
            return Ok(());
        }
        self.dirs()?.good.write(name, bytes, Durability::Sync)
    }

    fn is_used(&self, name: &str) -> bool {
        self.index.values().any(|index| index.names().any(|used| used == name))
    }

    /// Not synced: one that comes back after a power cut is removed at the next open.
    fn release(&mut self, before: Option<Index>) -> Result<(), StoreError> {
        for name in before.iter().flat_map(Index::names) {
            if !self.is_used(name) {
                self.dirs()?.good.remove(name, Durability::NoSync)?;
            }
        }
        Ok(())
    }

    /// Best effort: what stays is removed the next time.
    fn remove_unused(&self) {
        let Some(dirs) = &self.dirs else { return };
        let used: HashSet<&str> = self.index.values().flat_map(Index::names).collect();
        for name in dirs.good.names().unwrap_or_default() {
            if !used.contains(name.as_str()) {
                let _ = dirs.good.remove(&name, Durability::NoSync);
            }
        }
    }
}

impl Index {
    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.text.as_str())
            .chain(self.config.as_deref())
            .chain(self.variables.as_deref())
            .chain(self.configs.iter().map(|(_, name)| name.as_str()))
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
        let variables = match &index.variables {
            None => None,
            Some(name) => match self.content(name, notes)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
                None => return Ok(None),
                variables => variables,
            },
        };
        let mut configs = Vec::new();
        for (target, name) in &index.configs {
            let Some(bytes) = self.content(name, notes)? else { return Ok(None) };
            configs.push((target.clone(), bytes));
        }
        let (path, resolved) = (index.path.clone().into_path(), index.resolved.clone().into_path());
        let (source, directory) = (index.source.clone().into_path(), index.directory);
        Ok(Some(Good { text, config, variables, configs, path, resolved, source, directory, since_ms: index.since_ms }))
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

fn content_name(bytes: &[u8]) -> String {
    format!("{:032x}", fnv128(bytes))
}

fn write_json(dir: &Dir, name: &str, record: &impl Serialize) -> Result<(), StoreError> {
    let json = to_json(&dir.path().join(name), record)?;
    dir.write(name, &json, Durability::Sync)
}

fn to_json(path: &Path, record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|error| StoreError::Encode { path: path.to_owned(), text: error.to_string() })
}

//! What is merged with a unit's own file: its drop-ins, over all directories.
//!
//! | what is at a drop-in's name | what it does |
//! |---|---|
//! | a text, in the last directory that has the name | it is merged |
//! | an empty text, or a link to /dev/null | it takes the place of one of an earlier directory, and adds nothing |
//! | what cannot or may not be read, or a directory of drop-ins that cannot | no unit that it applies to gets another text |
//! | what an earlier run knew and nobody has seen yet | it counts, until its directory is listed without it and [`ABSENCE`] is over |
//! | nothing, from a directory that was replaced by another one and is braked | it counts, as the units of that directory do |
//!
//! Pure, as all of the catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::text::NoText;
use super::{ABSENCE, Catalogue, InForce, Validate};
use crate::compact;
use crate::plan::{BootTime, Now, WallTime};
use crate::unit::{LayerKind, LayerText, UnitName, drop_in_target, file_stem_to_name, files_with_drop_ins};

/// Drop-ins by the file that they belong to (`web.toml`, `worker@.toml`) and by their own name.
#[derive(Debug, Default)]
pub(super) struct DropIns {
    by_file: BTreeMap<OsString, BTreeMap<OsString, Vec<DropIn>>>,
    /// Directories of drop-ins that are there and cannot be read, and why.
    troubles: BTreeMap<PathBuf, String>,
    /// Remembered ones that were not listed, and until when they may come back.
    absent: BTreeMap<PathBuf, BootTime>,
    /// Who writes one of them.
    busy: BTreeMap<PathBuf, String>,
}

/// One drop-in of one directory.
#[derive(Debug)]
struct DropIn {
    /// Of the directory of units.
    rank: usize,
    path: PathBuf,
    text: Result<LayerText, NoText>,
    /// An earlier run read it, this one did not yet.
    remembered: bool,
}

impl DropIns {
    /// What is merged with a unit's own text, in order; or why that is not known.
    pub(super) fn of(&self, unit: &UnitName) -> Result<Vec<LayerText>, Vec<String>> {
        let (mut layers, mut errors) = (Vec::new(), Vec::new());
        for file in files_with_drop_ins(unit) {
            errors.extend(
                self.troubles.iter().filter(|(dir, _)| target(dir).as_ref() == Some(&file)).map(|(_, why)| why.clone()),
            );
            for drop_ins in self.by_file.get(&file).into_iter().flat_map(BTreeMap::values) {
                match drop_ins.last().map(|drop_in| &drop_in.text) {
                    Some(Ok(layer)) => layers.push(layer.clone()),
                    Some(Err(NoText::Bad(why))) => errors.extend(why.iter().cloned()),
                    Some(Err(NoText::Mask)) | None => {}
                }
            }
        }
        if errors.is_empty() { Ok(layers) } else { Err(errors) }
    }

    /// Who writes one of a unit's drop-ins.
    pub(super) fn writer(&self, unit: &UnitName) -> Option<String> {
        if self.busy.is_empty() {
            return None;
        }
        let files = files_with_drop_ins(unit);
        let is_of = |path: &Path| path.parent().and_then(target).is_some_and(|file| files.contains(&file));
        let (path, who) = self.busy.iter().find(|(path, _)| is_of(path))?;
        Some(format!("{} is being written{who}", path.display()))
    }

    fn put(&mut self, drop_in: DropIn) {
        let Some((file, name)) = names(&drop_in.path) else { return };
        self.busy.remove(&drop_in.path);
        self.absent.remove(&drop_in.path);
        let here = self.by_file.entry(file).or_default().entry(name).or_default();
        here.retain(|other| other.rank != drop_in.rank);
        here.push(drop_in);
        compact::sort_by_key(here, |drop_in| drop_in.rank);
    }

    fn remove(&mut self, path: &Path) {
        let Some((file, name)) = names(path) else { return };
        self.busy.remove(path);
        self.absent.remove(path);
        if let Some(of_file) = self.by_file.get_mut(&file) {
            if let Some(here) = of_file.get_mut(&name) {
                here.retain(|other| other.path != path);
            }
            of_file.retain(|_, here| !here.is_empty());
        }
        self.by_file.retain(|_, of_file| !of_file.is_empty());
    }

    /// All of one directory of drop-ins.
    fn in_dir(&self, dir: &Path) -> Vec<(&Path, bool)> {
        let of_file = target(dir).and_then(|file| self.by_file.get(&file));
        let all = of_file.into_iter().flat_map(BTreeMap::values).flatten();
        all.filter(|drop_in| drop_in.path.parent() == Some(dir))
            .map(|one| (one.path.as_path(), one.remembered))
            .collect()
    }

    /// The directories of drop-ins below a directory of units of which any was read in this run.
    pub(super) fn dirs_read(&self, dir: &Path) -> BTreeSet<PathBuf> {
        let all = self.by_file.values().flat_map(BTreeMap::values).flatten().filter(|one| !one.remembered);
        let dirs = all.filter_map(|one| one.path.parent()).chain(self.troubles.keys().map(PathBuf::as_path));
        compact::set(dirs.filter(|of| of.parent() == Some(dir)).map(Path::to_owned))
    }

    /// Whether a unit has any in this directory of units, or may have, as they cannot be read.
    pub(super) fn has_of(&self, unit: &UnitName, dir: &Path) -> bool {
        if self.by_file.is_empty() && self.troubles.is_empty() {
            return false;
        }
        let is_below = |path: &Path| path.parent() == Some(dir);
        let in_trouble =
            |file: &OsString| self.troubles.keys().any(|of| is_below(of) && target(of).as_ref() == Some(file));
        let has = |file: &OsString| {
            let mut all = self.by_file.get(file).into_iter().flat_map(BTreeMap::values).flatten();
            all.any(|one| one.path.parent().is_some_and(is_below)) || in_trouble(file)
        };
        files_with_drop_ins(unit).iter().any(has)
    }

    /// Remembered ones that are not there, until that has settled.
    pub(super) fn absent(&self) -> impl Iterator<Item = &Path> {
        self.absent.keys().map(PathBuf::as_path)
    }

    /// The directories of drop-ins below a directory of units that hold any.
    pub(super) fn dirs_below(&self, dir: &Path) -> BTreeSet<PathBuf> {
        let all = self.by_file.values().flat_map(BTreeMap::values).flatten().filter_map(|one| one.path.parent());
        compact::set(all.filter(|of| of.parent() == Some(dir)).map(Path::to_owned))
    }
}

/// Of a drop-in's path, the file it belongs to and its own name.
fn names(path: &Path) -> Option<(OsString, OsString)> {
    Some((target(path.parent()?)?, path.file_name()?.to_owned()))
}

fn target(dir: &Path) -> Option<OsString> {
    drop_in_target(dir.file_name()?)
}

/// The files that only one of two merges has, or that say something else in the other.
pub(super) fn differing(old: &InForce, new: &InForce) -> BTreeSet<PathBuf> {
    let texts = |good: &InForce| -> BTreeMap<PathBuf, Arc<str>> {
        let layers = good.layers.iter().map(|layer| (layer.file.clone(), Arc::clone(&layer.text)));
        compact::map(layers.chain([(good.file.clone(), Arc::clone(&good.text))]))
    };
    let (old, new) = (texts(old), texts(new));
    let files = compact::set(old.keys().chain(new.keys()));
    compact::set(files.into_iter().filter(|file| old.get(*file) != new.get(*file)).cloned())
}

impl Catalogue {
    /// Whether a path is a directory of drop-ins of a watched directory.
    pub fn is_drop_in_dir(&self, dir: &Path) -> bool {
        !self.directories.contains_key(dir)
            && target(dir).is_some()
            && dir.parent().is_some_and(|parent| self.directories.contains_key(parent))
    }

    /// Drop-ins that were in force in an earlier run count until their directory says otherwise.
    pub(super) fn remember_drop_ins(&mut self, good: &InForce) {
        for layer in good.layers.iter().filter(|layer| layer.kind == LayerKind::DropIn) {
            let path = layer.file.clone();
            if let Some(dir) = path.parent().filter(|dir| self.is_drop_in_dir(dir)) {
                let rank = self.rank_of(dir);
                self.drop_ins.put(DropIn { rank, path, text: Ok(layer.clone()), remembered: true });
            }
        }
    }

    /// A drop-in's settled text; `resolved` is the file without links.
    pub fn drop_in_read(&mut self, path: &Path, text: String, resolved: PathBuf, validate: Validate, now: WallTime) {
        let layer = LayerText { kind: LayerKind::DropIn, file: path.to_owned(), resolved, text: text.into() };
        self.put_drop_in(path, Ok(layer), validate, now);
    }

    /// One that may not or cannot be read; `None`: a link to /dev/null.
    pub fn drop_in_refused(&mut self, path: &Path, why: Option<String>, validate: Validate, now: WallTime) {
        let text = why.map_or(NoText::Mask, |why| NoText::Bad(vec![why]));
        self.put_drop_in(path, Err(text), validate, now);
    }

    fn put_drop_in(&mut self, path: &Path, text: Result<LayerText, NoText>, validate: Validate, now: WallTime) {
        self.told_of(path);
        let Some(dir) = path.parent() else { return };
        let rank = self.rank_of(dir);
        if let Some(view) = dir.parent().and_then(|dir| self.directories.get_mut(dir)) {
            view.braked_drop_ins.remove(dir);
        }
        self.drop_ins.put(DropIn { rank, path: path.to_owned(), text, remembered: false });
        self.drop_ins_changed(dir, validate, now);
    }

    /// One is gone for good.
    pub fn drop_in_gone(&mut self, path: &Path, validate: Validate, now: WallTime) {
        self.told_of(path);
        let Some(dir) = path.parent() else { return };
        if !self.is_braked_drop_in(dir) {
            self.drop_ins.remove(path);
            self.drop_ins_changed(dir, validate, now);
        }
    }

    /// Somebody writes one.
    pub fn drop_in_busy(&mut self, path: &Path, who: String) {
        self.drop_ins.busy.insert(path.to_owned(), who);
    }

    /// A directory of drop-ins is there, whole. What an earlier run knew of and is not listed may come back for a while.
    pub fn drop_ins_listed(&mut self, dir: &Path, listed: &[OsString], validate: Validate, now: Now) {
        let why = target(dir).and_then(|file| file_stem_to_name(&file).err());
        self.stray(dir, why.map(|bad| bad.to_string()));
        let until = now.boot.after(ABSENCE);
        let is_listed = |path: &Path| path.file_name().is_some_and(|name| listed.iter().any(|other| other == name));
        let unseen = self.drop_ins.in_dir(dir).into_iter().filter(|(path, remembered)| *remembered && !is_listed(path));
        let unseen: Vec<PathBuf> = unseen.map(|(path, _)| path.to_owned()).collect();
        self.drop_ins.absent.extend(unseen.into_iter().map(|path| (path, until)));
        let read = self.drop_ins.in_dir(dir).into_iter().filter(|(_, remembered)| !remembered);
        let read: Vec<PathBuf> = read.map(|(path, _)| path.to_owned()).collect();
        self.will_tell_of(dir, listed.iter().map(|name| dir.join(name)).chain(read));
        if self.drop_ins.troubles.remove(dir).is_some() {
            self.drop_ins_changed(dir, validate, now.wall);
        }
    }

    /// A directory of drop-ins is there and cannot be read: what was read of it stays.
    pub fn drop_ins_lost(&mut self, dir: &Path, why: String, validate: Validate, now: WallTime) {
        self.told_of_all_in(dir);
        self.drop_ins.troubles.insert(dir.to_owned(), why);
        self.drop_ins_changed(dir, validate, now);
    }

    /// A directory of drop-ins is gone for good, from a directory of units that is there.
    pub fn drop_ins_gone(&mut self, dir: &Path, validate: Validate, now: WallTime) {
        self.stray(dir, None);
        self.told_of_all_in(dir);
        self.drop_ins.troubles.remove(dir);
        if !self.is_braked_drop_in(dir) {
            let gone: Vec<PathBuf> = self.drop_ins.in_dir(dir).into_iter().map(|(path, _)| path.to_owned()).collect();
            gone.iter().for_each(|path| self.drop_ins.remove(path));
        }
        self.drop_ins_changed(dir, validate, now);
    }

    fn is_braked_drop_in(&self, dir: &Path) -> bool {
        let view = dir.parent().and_then(|parent| self.directories.get(parent));
        view.is_some_and(|view| view.braked_drop_ins.contains(dir))
    }

    /// What an earlier run knew of a directory of units, and that is not listed there.
    pub(super) fn drop_in_dirs_listed(&mut self, dir: &Path, listed: &BTreeSet<OsString>, now: Now) {
        let is_listed = |of: &PathBuf| of.file_name().is_some_and(|name| listed.contains(name));
        for missing in self.drop_ins.dirs_below(dir).into_iter().filter(|of| !is_listed(of)) {
            let remembered = self.drop_ins.in_dir(&missing).into_iter().filter(|(_, remembered)| *remembered);
            let unseen: Vec<PathBuf> = remembered.map(|(path, _)| path.to_owned()).collect();
            let until = now.boot.after(ABSENCE);
            self.drop_ins.absent.extend(unseen.into_iter().map(|path| (path, until)));
        }
    }

    /// Removes what was absent long enough; says when to ask again.
    pub(super) fn expire_drop_ins(&mut self, validate: Validate, now: Now) -> Option<BootTime> {
        let due = self.drop_ins.absent.iter().filter(|(_, until)| **until <= now.boot);
        let due: Vec<PathBuf> = due.map(|(path, _)| path.clone()).collect();
        for path in due {
            self.drop_ins.remove(&path);
            path.parent().into_iter().for_each(|dir| self.drop_ins_changed(dir, validate, now.wall));
        }
        self.drop_ins.absent.values().min().copied()
    }

    /// Removals of drop-ins that the brake held are meant.
    pub(super) fn confirm_drop_in_removals(&mut self) {
        let held: Vec<PathBuf> =
            self.directories.values_mut().flat_map(|view| std::mem::take(&mut view.braked_drop_ins)).collect();
        for dir in held {
            let gone: Vec<PathBuf> = self.drop_ins.in_dir(&dir).into_iter().map(|(path, _)| path.to_owned()).collect();
            gone.iter().for_each(|path| self.drop_ins.remove(path));
            self.concerned_by(&dir).into_iter().for_each(|unit| self.judge_later(unit));
        }
    }

    fn drop_ins_changed(&mut self, dir: &Path, validate: Validate, now: WallTime) {
        for unit in self.concerned_by(dir) {
            self.set_stale(&unit);
            self.evaluate(&unit, validate, now);
        }
    }

    /// The units on disk to which the drop-ins of a directory apply.
    fn concerned_by(&self, dir: &Path) -> Vec<UnitName> {
        let Some(file) = dir.file_name().and_then(drop_in_target) else { return Vec::new() };
        let applies = |name: &&UnitName| files_with_drop_ins(name).contains(&file);
        match UnitName::new(file.to_str().and_then(|file| file.strip_suffix(".toml")).unwrap_or_default()) {
            Ok(name) => self.entries.contains_key(&name).then_some(name).into_iter().collect(),
            // A template's.
            Err(_) => self.entries.keys().filter(applies).cloned().collect(),
        }
    }
}

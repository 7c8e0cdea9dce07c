//! Directories of drop-ins: `web.toml.d` in a directory of unit files.
//!
//! Such a directory is followed like the one that it is in, from when it is listed there or an event names it, until it was absent for
//! [`ABSENT`](super::super::settle::ABSENT) from a directory that is there; then it is forgotten with all in it, and posted as missing once.
//! While the directory above is not there, nothing is said of it.
//!
//! A unit's file and its drop-ins settle together: one that is quiet waits for another that will be so within [`QUIET`], so that what
//! was written in one go is posted in one batch.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::super::settle::{Key, Moment, QUIET};
use super::super::trusted::OpenDir;
use super::super::{Event, unit_of_file};
use super::{Item, Listing, Shell, UnitDir};
use crate::unit::{drop_in_target, files_with_drop_ins, template_sample};

/// Which directories of drop-ins there are.
#[derive(Debug, Default)]
pub(super) struct DropInDirs {
    /// By the directory of units and their name in it.
    by_name: HashMap<(usize, OsString), usize>,
    /// By the file that they belong to.
    by_file: HashMap<OsString, Vec<usize>>,
    /// Places that may be used again.
    free: Vec<usize>,
    /// The same from the next round on: this one may still hold the number.
    freed: Vec<usize>,
}

impl DropInDirs {
    /// A round begins: nobody holds the number of a directory that was forgotten.
    pub(super) fn new_round(&mut self) {
        self.free.append(&mut self.freed);
    }
}

impl<P: Fn(Vec<Event>)> Shell<P> {
    /// The directory of drop-ins of this name; followed from now on.
    pub(super) fn drop_in_dir(&mut self, parent: usize, name: &OsStr) -> Option<usize> {
        let file = drop_in_target(name)?;
        if let Some(&index) = self.drop_ins.by_name.get(&(parent, name.to_owned())) {
            return Some(index);
        }
        let path = self.dirs[parent].path.join(name);
        let index = self.drop_ins.free.pop().unwrap_or(self.dirs.len());
        let key = self.new_key(Item::Dir(index));
        let dir = UnitDir {
            path,
            key,
            seen: None,
            present: false,
            wanted: Listing::All,
            names: HashMap::new(),
            parent: Some(parent),
        };
        match self.dirs.get_mut(index) {
            Some(free) => *free = dir,
            None => self.dirs.push(dir),
        }
        self.drop_ins.by_name.insert((parent, name.to_owned()), index);
        self.drop_ins.by_file.entry(file).or_default().push(index);
        Some(index)
    }

    /// The directory above is not there: nothing is to be said of this one.
    pub(super) fn rest_dir(&mut self, index: usize) -> Option<OpenDir> {
        self.dirs[index].present = false;
        self.settle.rest(self.dirs[index].key);
        self.dirs[index].names.values().for_each(|&key| self.settle.rest(key));
        None
    }

    /// Whether a directory of drop-ins that is missing is so itself. A link of its own that leads to nothing is no removal of drop-ins, as
    /// what they say is not known; one on the way to the directory above is none of its own.
    pub(super) fn is_in_parent(&self, index: usize, missing: &Path) -> bool {
        let dir = &self.dirs[index];
        let above = dir.parent.and_then(|parent| self.dirs[parent].seen.as_ref());
        let name = dir.path.file_name();
        above.zip(name).is_some_and(|((_, above), name)| above.join(name) == missing)
    }

    /// With all in it.
    pub(super) fn forget_drop_in_dir(&mut self, index: usize) {
        let Some(parent) = self.dirs[index].parent else { return };
        let files: Vec<Key> = self.dirs[index].names.values().copied().collect();
        files.into_iter().for_each(|key| self.forget(key));
        let name = self.dirs[index].path.file_name().unwrap_or_default().to_owned();
        self.not_here(index);
        self.forget(self.dirs[index].key);
        let of_file = drop_in_target(&name).unwrap_or_default();
        if let Some(dirs) = self.drop_ins.by_file.get_mut(&of_file) {
            dirs.retain(|other| *other != index);
            if dirs.is_empty() {
                self.drop_ins.by_file.remove(&of_file);
            }
        }
        if self.drop_ins.by_name.remove(&(parent, name)).is_some() {
            self.drop_ins.freed.push(index);
        }
    }

    /// Those that a listing of the directory above named are looked into, and those that it did not are looked for.
    pub(super) fn look_at_drop_in_dirs(&mut self, parent: usize, listed: &[OsString], wanted: Listing, now: Moment) {
        for name in listed {
            if let Some(index) = self.drop_in_dir(parent, name) {
                self.want(index, wanted, now);
            }
        }
        let of_parent = self.drop_ins.by_name.iter().filter(|((above, _), _)| *above == parent);
        let missing: Vec<usize> =
            of_parent.filter(|((_, name), _)| !listed.contains(name)).map(|(_, &at)| at).collect();
        missing.into_iter().for_each(|index| self.settle.look_by(self.dirs[index].key, now));
    }

    /// Those of a unit, in this directory of units; `file` is the unit's.
    pub(super) fn look_at_drop_ins_of(&mut self, parent: usize, file: &OsStr, now: Moment) {
        for file in unit_of_file(file).iter().flat_map(files_with_drop_ins) {
            let mut name = file;
            name.push(".d");
            if let Some(index) = self.drop_in_dir(parent, &name) {
                self.want(index, Listing::Changed, now);
            }
        }
    }

    /// When another text of the same unit is about to be quiet, if one is: until then this one waits.
    pub(super) fn settles_with(&self, index: usize, name: &OsStr, key: Key, now: Moment) -> Option<Moment> {
        let dir = &self.dirs[index];
        let target = dir.parent.and_then(|_| drop_in_target(dir.path.file_name()?));
        let files = match (&target, unit_of_file(name)) {
            (Some(file), _) => vec![file.clone()],
            (None, Some(unit)) => files_with_drop_ins(&unit),
            (None, None) if template_sample(name).is_some() => vec![name.to_owned()],
            (None, None) => return None,
        };
        let drop_ins: Vec<usize> =
            files.iter().filter_map(|file| self.drop_ins.by_file.get(file)).flatten().copied().collect();
        if drop_ins.is_empty() {
            return None;
        }
        let above = self.dirs.iter().filter(|dir| dir.parent.is_none());
        let own: Vec<Key> = match &target {
            Some(template) if template_sample(template).is_some() => {
                let is_of_it = |name: &OsStr| {
                    name == template
                        || unit_of_file(name).is_some_and(|unit| files_with_drop_ins(&unit).contains(template))
                };
                above.flat_map(|dir| &dir.names).filter(|(name, _)| is_of_it(name)).map(|(_, key)| *key).collect()
            }
            Some(file) => above.filter_map(|dir| dir.names.get(file)).copied().collect(),
            None => above.filter_map(|dir| dir.names.get(name)).copied().collect(),
        };
        let texts = own.iter().chain(drop_ins.iter().flat_map(|&index| self.dirs[index].names.values()));
        let due = texts.filter(|other| **other != key).filter_map(|other| self.settle.due(*other));
        due.filter(|due| *due > now && *due <= now.saturating_add(QUIET)).max()
    }
}

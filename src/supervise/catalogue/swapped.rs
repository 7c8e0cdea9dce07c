//! A directory of units that became another one, as a set: `mv units.new units`, two directories exchanged, a link to a directory that leads
//! elsewhere, something mounted over it.
//!
//! | | |
//! |---|---|
//! | it begins | when the directory is listed and is another one, by device and inode: than the one listed before, or, after a start, than the one from which what is in force was read, by inode alone, as devices are numbered anew at each boot |
//! | of it are | all units of which something lies in the directory or lay there when it was put in force: a file, a mask, a drop-in, the template that lists it; and so what is not there any more |
//! | it goes in force | as a whole: when the watch has told of every file in the directory and of every one that is missing, nothing of it is not valid, being written, or waits for a look at its source, and what is missing has settled |
//! | it ends | when it is in force, also if nothing differed. A later edit in the directory is its unit's again |
//!
//! Until it ends, an edit of one of its files, a new file and a removal belong to it: so is one repaired that is not valid. A rescan, also
//! after lost events, finds the directory that it was, and begins nothing; nor does the same directory when it comes back.
//!
//! Unlike what is swapped through `..data` ([`sets`](super::sets)), removals are a part of it and wait with it: that a unit is missing may mean
//! that another one of the directory takes its place. What the brake holds is no part of it.
//!
//! Directories that became others and are not in force yet are one set, as a unit may have texts in several. So are those swapped through
//! `..data` of which a unit has something in such a directory.
//!
//! A supervisor that is killed meanwhile begins the same set again: what is in force is said to be of the directory only when the set ends.
//! Where nothing in it was in force before there is nothing to tell it by, and nothing to keep: each of its files is by itself then.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::sets::{Hold, Part};
use super::{Catalogue, DirectoryId, Entry, InForce};
use crate::unit::{LayerKind, UnitName};

/// Of a directory that became another one, until it is in force.
#[derive(Debug, Default)]
pub(super) struct Swap {
    /// Files and directories of drop-ins, there or missing, of which the watch has not told since.
    unread: BTreeSet<PathBuf>,
}

/// How far the set is that these directories are.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// What keeps it from going in force.
    hold: Option<Hold>,
    /// An order to put all in force or nothing left some of it behind.
    left_behind: bool,
}

impl InForce {
    /// Whether it, or a drop-in of it, is from this directory.
    fn is_from(&self, dir: &Path) -> bool {
        let of_dir = |file: &Path| file.parent().and_then(Path::parent) == Some(dir);
        let drop_ins = self.layers.iter().filter(|layer| layer.kind == LayerKind::DropIn);
        self.file.parent() == Some(dir) || drop_ins.into_iter().any(|layer| of_dir(&layer.file))
    }
}

impl Catalogue {
    /// Whether what was in force from these files of the directory, in an earlier run, was read in another one.
    pub(super) fn is_other_than_remembered(&self, dir: &Path, id: DirectoryId, files: &BTreeSet<OsString>) -> bool {
        let is_there = |good: &InForce| good.file.file_name().is_some_and(|file| files.contains(file));
        let is_other = |good: &InForce| good.directory.inode != 0 && good.directory.inode != id.inode;
        let mut goods = self.entries.values().filter_map(|entry| entry.in_force.as_deref());
        goods.any(|good| good.file.parent() == Some(dir) && is_there(good) && is_other(good))
    }

    /// A directory is listed: begins the set if it is another one, and notes of what the watch will tell.
    pub(super) fn swap_listed(
        &mut self,
        dir: &Path,
        is_other: bool,
        files: &BTreeSet<OsString>,
        drop_in_dirs: &BTreeSet<OsString>,
    ) {
        if !self.directories.get(dir).is_some_and(|view| is_other || view.swap.is_some()) {
            return;
        }
        let texts = self.entries.values().flat_map(|entry| &entry.texts).map(|on_disk| on_disk.path.as_path());
        let read = texts.chain(self.templates.paths()).filter(|path| path.parent() == Some(dir));
        let read = read.map(Path::to_owned).chain(self.drop_ins.dirs_read(dir));
        let unread = files.iter().chain(drop_in_dirs).map(|name| dir.join(name)).chain(read).collect();
        if let Some(view) = self.directories.get_mut(dir) {
            view.swap = Some(Swap { unread });
        }
        self.progress = Progress { hold: Some(Hold::unsettled(dir)), left_behind: false };
    }

    /// The watch has told of a file, or of a directory of drop-ins.
    pub(super) fn told_of(&mut self, path: &Path) {
        for swap in self.directories.values_mut().filter_map(|view| view.swap.as_mut()) {
            swap.unread.remove(path);
        }
    }

    /// Of a directory of drop-ins, and of what is in it there is nothing to tell.
    pub(super) fn told_of_all_in(&mut self, dir: &Path) {
        for swap in self.directories.values_mut().filter_map(|view| view.swap.as_mut()) {
            swap.unread.retain(|unread| !unread.starts_with(dir));
        }
    }

    /// A directory of drop-ins is listed: of these it will tell too.
    pub(super) fn will_tell_of(&mut self, dir: &Path, files: impl Iterator<Item = PathBuf>) {
        let view = dir.parent().and_then(|dir| self.directories.get_mut(dir));
        if let Some(swap) = view.and_then(|view| view.swap.as_mut()) {
            swap.unread.extend(files);
        }
    }

    fn swapped_dirs(&self) -> impl Iterator<Item = (&Path, &Swap)> {
        self.directories.iter().filter_map(|(dir, view)| Some((dir.as_path(), view.swap.as_ref()?)))
    }

    /// Whether there is such a set.
    pub(super) fn is_swapping(&self) -> bool {
        self.swapped_dirs().next().is_some()
    }

    /// Whether a unit is of it.
    pub(super) fn is_swapped(&self, name: &UnitName) -> bool {
        self.is_swapping() && self.entries.get(name).is_some_and(|entry| self.is_of_swap(name, entry))
    }

    fn is_of_swap(&self, name: &UnitName, entry: &Entry) -> bool {
        if self.lies_in_swap(name, entry) {
            return true;
        }
        let Some(data) = entry.set() else { return false };
        self.entries().any(|(other, entry)| entry.set() == Some(data) && self.lies_in_swap(other, entry))
    }

    fn lies_in_swap(&self, name: &UnitName, entry: &Entry) -> bool {
        let lies_in = |dir: &Path| {
            entry.newest().is_some_and(|on_disk| on_disk.path.parent() == Some(dir))
                || entry.in_force.as_ref().is_some_and(|good| good.is_from(dir))
                || self.drop_ins.has_of(name, dir)
        };
        self.swapped_dirs().any(|(dir, _)| lies_in(dir))
    }

    /// All units of the set.
    pub(super) fn swapped(&self) -> impl Iterator<Item = (&UnitName, &Entry)> {
        self.entries().filter(|(name, entry)| self.is_of_swap(name, entry))
    }

    /// What keeps the set from going in force.
    pub(super) fn swap_hold(&self) -> Option<&Hold> {
        self.progress.hold.as_ref()
    }

    /// An order to put all in force or nothing left it behind.
    pub(super) fn is_swap_left_behind(&self) -> bool {
        self.progress.left_behind
    }

    /// Looks how far the set is, and ends it when it is in force. Of thousands of units each has the same answer, hence it is kept: after each
    /// batch, and before anything goes in force, it is looked for anew.
    pub(super) fn look_at_swap(&mut self) {
        if !self.is_swapping() {
            return;
        }
        let progress = self.swap_progress();
        let waits = |(_, entry): &(&UnitName, &Entry)| entry.next.is_some();
        let waiting: Vec<UnitName> = self.swapped().filter(waits).map(|(name, _)| name.clone()).collect();
        if progress.hold.is_none() && waiting.is_empty() {
            return self.end_swap();
        }
        // There is something else to tell of them.
        if progress.hold != self.progress.hold {
            self.changes.extend(waiting);
        }
        self.progress = progress;
    }

    fn swap_progress(&self) -> Progress {
        let held = |hold| Progress { hold: Some(hold), left_behind: false };
        let unread = self.swapped_dirs().find_map(|(dir, swap)| {
            let first = swap.unread.first()?;
            Some(first.strip_prefix(dir).unwrap_or(first))
        });
        if let Some(unread) = unread {
            return held(Hold::unsettled(unread));
        }
        let in_swap = |path: &Path| self.swapped_dirs().any(|(dir, _)| path.starts_with(dir));
        if let Some(bad) = self.templates.bad().find(|path| in_swap(path)) {
            return held(Hold::invalid(bad.file_name().map_or(bad, Path::new)));
        }
        if let Some(absent) = self.drop_ins.absent().find(|path| in_swap(path)) {
            return held(Hold::unsettled(absent.file_name().map_or(absent, Path::new)));
        }
        let (mut left_behind, mut versions) = (false, BTreeMap::<&Path, &Part>::new());
        for (name, entry) in self.swapped() {
            let is_unsettled = self.pending.contains(name) || self.absent.contains_key(name);
            if let Some(hold) =
                entry.hold(name).or_else(|| is_unsettled.then(|| Hold::unsettled(entry.file_name(name))))
            {
                return held(hold);
            }
            if let (Some(data), Some(on_disk)) = (entry.set(), entry.newest())
                && *versions.entry(data).or_insert(&on_disk.part) != &on_disk.part
            {
                return held(Hold::other_version(entry.file_name(name)));
            }
            left_behind |= entry.left_behind;
        }
        Progress { hold: None, left_behind }
    }

    /// It is in force: what is in force from these directories is of these.
    fn end_swap(&mut self) {
        let ended = self.directories.iter_mut().filter_map(|(dir, view)| {
            view.swap.take()?;
            Some((dir.clone(), view.id.unwrap_or_default()))
        });
        for (dir, id) in ended.collect::<Vec<_>>() {
            for (name, entry) in self.entries.iter_mut().filter(|(_, entry)| !entry.texts.is_empty()) {
                let good = entry.in_force.as_mut().filter(|good| good.file.parent() == Some(&dir));
                if let Some(good) = good.filter(|good| good.directory != id) {
                    std::sync::Arc::make_mut(good).directory = id;
                    self.changes.insert(name.clone());
                }
            }
        }
        self.progress = Progress::default();
    }
}

//! The directories of units as the catalogue knows them, and the brake: what may go with a directory that became another one.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::swapped::Swap;
use super::{ABSENCE, Catalogue, Entry, Next, Validate};
use crate::compact;
use crate::plan::{Now, WallTime};
use crate::unit::{UnitName, template_sample};

/// Which directory it is; both 0 if unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DirectoryId {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Mount id; 0 if unknown, as across a reboot.
    pub mount: u64,
}

/// A watched directory.
#[derive(Debug, Default)]
pub(super) struct DirectoryView {
    pub(super) rank: usize,
    pub(super) id: Option<DirectoryId>,
    /// Why it cannot be read, if so.
    pub(super) trouble: Option<String>,
    /// Units that the brake holds.
    pub(super) braked: BTreeSet<UnitName>,
    /// Templates in it, since it became another one, that have not been read there.
    pub(super) other_templates: BTreeSet<OsString>,
    /// Directories of drop-ins that it holds.
    pub(super) braked_drop_ins: BTreeSet<PathBuf>,
    /// It became another one, and what is in that is not in force yet.
    pub(super) swap: Option<Swap>,
}

impl DirectoryView {
    /// What the brake holds, in words.
    pub(super) fn held(&self) -> Option<String> {
        let drop_ins = format!("the drop-ins of {}", self.braked_drop_ins.len());
        match (self.braked.len(), self.braked_drop_ins.is_empty()) {
            (0, true) => None,
            (0, false) => Some(drop_ins),
            (units, true) => Some(format!("{units} of its units")),
            (units, false) => Some(format!("{units} of its units and {drop_ins}")),
        }
    }
}

impl Catalogue {
    /// A directory cannot be read: what it declared stays.
    pub fn directory_lost(&mut self, dir: &Path, why: String) {
        if let Some(view) = self.directories.get_mut(dir) {
            view.trouble = Some(why);
        }
    }

    /// A directory is there, whole: `files` are the names of all its unit files and templates. If it is not the one it was, it is a set
    /// (`swapped`), and a mass removal is braked; else what an earlier run remembered and is not there any more is
    /// removed. Says what is braked, if so.
    pub fn directory_listed(
        &mut self,
        dir: &Path,
        id: DirectoryId,
        files: &BTreeSet<OsString>,
        drop_in_dirs: &BTreeSet<OsString>,
        now: Now,
    ) -> Option<String> {
        let declared: Vec<UnitName> = self.declared_in(dir);
        let is_there = |name: &&UnitName| {
            let good = self.in_force(name).and_then(|good| good.file.file_name());
            good.is_some_and(|file| files.contains(file)) || files.contains(OsStr::new(&format!("{name}.toml")))
        };
        let missing = compact::set(declared.iter().filter(|name| !is_there(name)).cloned());
        self.drop_in_dirs_listed(dir, drop_in_dirs, now);
        let drop_ins = self.drop_ins.dirs_below(dir);
        let there = |of: &&PathBuf| of.file_name().is_some_and(|name| drop_in_dirs.contains(name));
        let lost = compact::set(drop_ins.iter().filter(|of| !there(of)).cloned());
        let earlier = self.earlier_id(dir, id);
        let listed = self.directories.get(dir).and_then(|view| view.id);
        let is_other = match listed {
            Some(listed) => !listed.is_same_inode(id),
            None => self.is_other_than_remembered(dir, id, files),
        };
        self.swap_listed(dir, is_other, files, drop_in_dirs);
        let view = self.directories.get_mut(dir)?;
        let replaced = earlier.is_some_and(|earlier| !earlier.is_same(id));
        (view.id, view.trouble) = (Some(id), None);
        view.other_templates.retain(|name| files.contains(name));
        if replaced {
            view.other_templates.extend(files.iter().filter(|name| template_sample(name).is_some()).cloned());
        }
        if replaced && (missing.len() + lost.len()) * 2 > declared.len() + drop_ins.len() {
            (view.braked, view.braked_drop_ins) = (missing, lost);
            return view.held();
        }
        view.braked.clear();
        view.braked_drop_ins.clear();
        let unseen = |name: &UnitName| self.entries.get(name).is_some_and(|entry| entry.texts.is_empty());
        self.absent.extend(missing.into_iter().filter(unseen).map(|name| (name, now.boot.after(ABSENCE))));
        None
    }

    fn declared_in(&self, dir: &Path) -> Vec<UnitName> {
        let stays = |entry: &Entry| entry.next != Some(Next::Removed);
        let in_dir =
            |entry: &Entry| entry.in_force.as_ref().is_some_and(|good| good.file.parent() == Some(dir) && stays(entry));
        self.entries.iter().filter(|(_, entry)| in_dir(entry)).map(|(name, _)| name.clone()).collect()
    }

    /// The one that was listed before; else, of those in which an earlier run read what is in force, one that is not `id`, if there is one:
    /// what the brake held is of an older directory than the rest.
    fn earlier_id(&self, dir: &Path, id: DirectoryId) -> Option<DirectoryId> {
        let of_view = self.directories.get(dir).and_then(|view| view.id);
        let remembered = || {
            let goods = self.entries.values().filter_map(|entry| entry.in_force.as_ref());
            let mut ids = goods.filter(|good| good.file.parent() == Some(dir)).map(|good| good.directory);
            let first = ids.next()?;
            Some(std::iter::once(first).chain(ids).find(|earlier| !earlier.is_same(id)).unwrap_or(first))
        };
        of_view.or_else(remembered)
    }

    /// The removals that the brake holds are meant, of these units (empty: of all, and of drop-ins). Returns what goes, when its absence
    /// has settled.
    pub fn confirm_removals(&mut self, units: &[UnitName], validate: Validate, now: WallTime) -> BTreeSet<UnitName> {
        let is_meant = |name: &UnitName| units.is_empty() || units.contains(name);
        let mut braked = BTreeSet::new();
        for view in self.directories.values_mut() {
            let (meant, others) = std::mem::take(&mut view.braked).into_iter().partition(is_meant);
            view.braked = others;
            braked.append(&mut { meant });
        }
        if units.is_empty() {
            self.confirm_drop_in_removals();
        }
        let gone = |name: &&UnitName| self.entries.get(*name).is_some_and(|entry| entry.texts.is_empty());
        let gone: Vec<UnitName> = braked.iter().filter(gone).cloned().collect();
        gone.iter().for_each(|name| self.remove(name, validate, now));
        braked
    }
}

impl DirectoryId {
    /// Whether both may be the same directory: what one of them does not know cannot tell them apart.
    fn is_same(self, other: DirectoryId) -> bool {
        let same = |a: u64, b: u64| a == b || a == 0 || b == 0;
        same(self.mount, other.mount) && self.is_same_inode(other)
    }

    /// The same directory, perhaps through another mount.
    fn is_same_inode(self, other: DirectoryId) -> bool {
        let same = |a: u64, b: u64| a == b || a == 0 || b == 0;
        same(self.device, other.device) && same(self.inode, other.inode)
    }
}

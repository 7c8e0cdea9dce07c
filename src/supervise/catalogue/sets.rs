//! Sets of files that are swapped together: those that links in a directory reach through its `..data` link, as the mounts of a
//! Kubernetes ConfigMap are made.
//!
//! ```text
//! units/web.toml ─▶ ..data/web.toml      units/..data ─▶ ..2026_11_28   (one rename swaps it)
//! ```
//!
//! A set goes in force as a whole or not at all. It is whole when all of it was read from one version, and nothing of it is not valid, is
//! being written, or waits for a look at its source. A file that is removed from the set is not of it any more: its removal waits for nobody.
//! What is seen is where a link ends, not the way: a version is a directory whose name begins with `..`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::text::OnDisk;
use super::{Catalogue, Entry};
use crate::unit::UnitName;

/// What a file is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Of no set.
    OfNone,
    /// Of its directory's set, in this version.
    Of(PathBuf),
    /// It could not be read. If it was of a set, it still is.
    Unknown,
}

impl Part {
    /// What a file is part of that was read at `resolved`.
    pub(super) fn of(path: &Path, resolved: &Path) -> Part {
        let version = resolved.parent().filter(|version| Some(*version) != path.parent());
        let is_version = |version: &&Path| version.file_name().is_some_and(|name| name.as_bytes().starts_with(b".."));
        version.filter(is_version).map_or(Part::OfNone, |version| Part::Of(version.to_owned()))
    }

    /// The same in the place of an earlier reading.
    pub(super) fn after(self, earlier: Option<&Part>) -> Part {
        match (self, earlier) {
            (Part::Unknown, None | Some(Part::OfNone)) => Part::OfNone,
            (part, _) => part,
        }
    }
}

impl OnDisk {
    /// The directory whose set it is of.
    fn set(&self) -> Option<&Path> {
        match self.part {
            Part::OfNone => None,
            Part::Of(_) | Part::Unknown => self.path.parent(),
        }
    }
}

impl Entry {
    pub(super) fn set(&self) -> Option<&Path> {
        self.newest()?.set()
    }

    /// That of what counts on disk.
    fn file_name(&self, name: &UnitName) -> String {
        let file = self.newest().and_then(|on_disk| on_disk.path.file_name());
        file.map_or_else(|| format!("{name}.toml"), |file| file.to_string_lossy().into_owned())
    }
}

impl Catalogue {
    /// Every unit of the set that this one is of, itself included; alone if it is of none.
    pub(super) fn set_of(&self, name: &UnitName) -> Vec<UnitName> {
        match self.entries.get(name).and_then(|entry| entry.set()) {
            None => vec![name.clone()],
            Some(dir) => self.members(dir).map(|(name, _)| name.clone()).collect(),
        }
    }

    fn members<'c>(&'c self, dir: &'c Path) -> impl Iterator<Item = (&'c UnitName, &'c Entry)> {
        self.entries().filter(move |(_, entry)| entry.set() == Some(dir))
    }

    /// Why what is next of this unit waits for others, if it does.
    pub fn held_by_set(&self, name: &UnitName) -> Option<String> {
        self.next(name)?;
        self.set_holds(name)
    }

    /// What keeps the set of this unit from going in force; `None` if nothing does, or it is of no set.
    fn set_holds(&self, name: &UnitName) -> Option<String> {
        let entry = self.entries.get(name)?;
        let dir = entry.set()?;
        let version = |entry: &Entry| entry.newest().map(|on_disk| on_disk.part.clone());
        let mine = version(entry);
        self.members(dir).find_map(|(other, member)| {
            if !member.errors.is_empty() {
                Some(format!("{}, which is swapped with it, is not valid", member.file_name(other)))
            } else if member.looking || member.busy.is_some() || member.stale {
                Some(format!("{}, which is swapped with it, is not settled", member.file_name(other)))
            } else {
                let other = member.file_name(other);
                (version(member) != mine).then(|| format!("{other}, which is swapped with it, is of another version"))
            }
        })
    }
}

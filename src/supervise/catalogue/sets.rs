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
//!
//! A directory of units that became another one is a set as well: [`swapped`](super::swapped).

use std::fmt;
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

/// What keeps a set from going in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    /// Of the set, as people know it.
    file: PathBuf,
    what: Lack,
}

/// What a file of a set lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    Validity,
    /// It will be known by itself.
    Rest,
    /// It was read from another version than others.
    Version,
}

impl Hold {
    pub(super) fn invalid(file: impl Into<PathBuf>) -> Hold {
        Hold { file: file.into(), what: Lack::Validity }
    }

    pub(super) fn unsettled(file: impl Into<PathBuf>) -> Hold {
        Hold { file: file.into(), what: Lack::Rest }
    }

    pub(super) fn other_version(file: impl Into<PathBuf>) -> Hold {
        Hold { file: file.into(), what: Lack::Version }
    }

    /// Whether it ends by itself.
    pub(super) fn is_settling(&self) -> bool {
        self.what == Lack::Rest
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            Lack::Validity => "not valid",
            Lack::Rest => "not settled",
            Lack::Version => "of another version",
        };
        write!(f, "{}, which is swapped with it, is {what}", self.file.display())
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
    pub(super) fn file_name(&self, name: &UnitName) -> String {
        let file = self.newest().and_then(|on_disk| on_disk.path.file_name());
        file.map_or_else(|| format!("{name}.toml"), |file| file.to_string_lossy().into_owned())
    }

    /// What keeps a set from going in force that this unit is of.
    pub(super) fn hold(&self, name: &UnitName) -> Option<Hold> {
        if !self.errors.is_empty() {
            return Some(Hold::invalid(self.file_name(name)));
        }
        // What is merged of no text is merged when there is one.
        let is_stale = self.stale && !self.texts.is_empty();
        (self.looking || self.busy.is_some() || is_stale).then(|| Hold::unsettled(self.file_name(name)))
    }
}

impl Catalogue {
    /// Every unit of the set that this one is of, itself included; alone if it is of none.
    pub(super) fn set_of(&self, name: &UnitName) -> Vec<UnitName> {
        match self.entries.get(name).and_then(|entry| entry.set()) {
            _ if self.is_swapped(name) => self.swapped().map(|(name, _)| name.clone()).collect(),
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
        self.set_holds(name).map(|hold| hold.to_string())
    }

    /// What keeps the set of this unit from going in force; `None` if nothing does, or it is of no set.
    pub(super) fn set_holds(&self, name: &UnitName) -> Option<Hold> {
        if self.is_swapped(name) {
            return self.swap_hold().cloned();
        }
        let entry = self.entries.get(name)?;
        let dir = entry.set()?;
        let version = |entry: &Entry| entry.newest().map(|on_disk| on_disk.part.clone());
        let mine = version(entry);
        self.members(dir).find_map(|(other, member)| {
            let is_other = || (version(member) != mine).then(|| Hold::other_version(member.file_name(other)));
            member.hold(other).or_else(is_other)
        })
    }
}

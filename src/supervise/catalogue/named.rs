//! What texts name besides themselves: sources, other files, places that conditions ask about. Kept by unit and by thing, so that an edit
//! of one of thousands costs what that one names, and so does a look at one thing.
//!
//! A unit names what its text on disk names, and of its text in force the conditions and the files of which something is lacking.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Catalogue, Entry};
use crate::compact;
use crate::unit::{Condition, Source, UnitName};

/// A thing that is to be followed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// By its kind, not by its path alone: a file is no rootfs and may be an executable.
    Source(Source),
    /// An env file, a config file or a secret.
    File(PathBuf),
    /// What is there.
    Place(PathBuf),
}

/// Things that are named since, and that are named no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedChanges {
    /// By some unit, and by none before.
    pub more: BTreeSet<Named>,
    /// By none any more.
    pub no_more: BTreeSet<Named>,
}

/// Who names what.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Names {
    /// Sorted. Nearly always one or two: a set would keep room for eleven.
    of: BTreeMap<UnitName, Box<[Named]>>,
    by: BTreeMap<Named, BTreeSet<UnitName>>,
    changes: NamedChanges,
}

impl NamedChanges {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.more.is_empty() && self.no_more.is_empty()
    }

    /// What came and went again meanwhile is no change, nor what went and came again.
    fn came(&mut self, named: &Named) {
        if !self.no_more.remove(named) {
            self.more.insert(named.clone());
        }
    }

    fn went(&mut self, named: &Named) {
        if !self.more.remove(named) {
            self.no_more.insert(named.clone());
        }
    }
}

impl Names {
    /// What a unit names now.
    fn set(&mut self, unit: &UnitName, named: Box<[Named]>) {
        let before = self.of.remove(unit).unwrap_or_default();
        for gone in before.iter().filter(|named_before| !named.contains(named_before)) {
            if let Some(of) = self.by.get_mut(gone) {
                of.remove(unit);
                if of.is_empty() {
                    self.by.remove(gone);
                    self.changes.went(gone);
                }
            }
        }
        for new in named.iter().filter(|named_now| !before.contains(named_now)) {
            let of = self.by.entry(new.clone()).or_default();
            if of.is_empty() {
                self.changes.came(new);
            }
            of.insert(unit.clone());
        }
        if !named.is_empty() {
            self.of.insert(unit.clone(), named);
        }
    }

    /// Who names it.
    pub(super) fn by(&self, named: &Named) -> Vec<UnitName> {
        self.by.get(named).into_iter().flatten().cloned().collect()
    }

    pub(super) fn has(&self, named: &Named) -> bool {
        self.by.contains_key(named)
    }

    /// Whether some text names a source there, whatever it takes it for.
    fn has_source_at(&self, path: &Path) -> bool {
        let kinds = [Source::Bundle, Source::Rootfs, Source::Executable];
        kinds.iter().any(|kind| self.has(&Named::Source(kind(path.to_owned()))))
    }
}

impl Catalogue {
    /// What became otherwise since the last call. Of what is named no more, what was found is forgotten.
    pub fn take_named(&mut self) -> NamedChanges {
        if cfg!(debug_assertions) {
            let all = self.entries.iter().map(|(name, entry)| (name.clone(), entry.named()));
            let all = compact::map(all.filter(|(_, named)| !named.is_empty()));
            assert!(all == self.names.of, "named: {:?}; a look at everything finds {all:?}", self.names.of);
        }
        let changes = std::mem::take(&mut self.names.changes);
        for named in &changes.no_more {
            match named {
                Named::Source(source) => self.forget_source(source.path()),
                Named::File(path) => {
                    self.files.remove(path);
                    path.parent().into_iter().for_each(|dir| self.forget_source(dir));
                }
                Named::Place(_) => {}
            }
        }
        changes
    }

    /// What was found at a path stays as long as the path is followed, for whose sake ever: nobody would say it again.
    fn forget_source(&mut self, path: &Path) {
        let config = Named::File(path.join("config.json"));
        if !self.names.has_source_at(path) && !self.names.has(&config) {
            for kind in [Source::Bundle, Source::Rootfs, Source::Executable] {
                self.sources.remove(&kind(path.to_owned()));
            }
        }
    }

    /// Whether texts name a source at this path.
    pub fn names_source_at(&self, path: &Path) -> bool {
        self.names.has_source_at(path)
    }

    /// After a change of a unit's texts.
    pub(super) fn update_named(&mut self, unit: &UnitName) {
        let named = self.entries.get(unit).map(|entry| entry.named()).unwrap_or_default();
        self.names.set(unit, named);
        self.update_addresses(unit);
    }
}

impl Entry {
    fn named(&self) -> Box<[Named]> {
        // The host itself is there, and nothing of it is followed.
        let source = self.text().map(|text| &text.unit.source).filter(|source| **source != Source::Host);
        let source = source.into_iter().flat_map(|source| parts(source).map(Named::Source));
        let files = self.files().map(|path| Named::File(path.to_owned()));
        let places = self.units().flat_map(|unit| &unit.conditions).filter_map(Condition::path);
        let all = compact::set(source.chain(files).chain(places.cloned().map(Named::Place)));
        all.into_iter().collect()
    }
}

/// What is looked at for a source: of layers each directory by itself.
fn parts(source: &Source) -> impl Iterator<Item = Source> {
    let (layers, whole) = match source {
        Source::Layers(layers) => (layers.as_slice(), None),
        other => (&[][..], Some(other.clone())),
    };
    layers.iter().cloned().map(Source::Rootfs).chain(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UnitName {
        UnitName::new(text).unwrap()
    }

    fn file(path: &str) -> Named {
        Named::File(path.into())
    }

    #[test]
    fn a_thing_comes_with_the_first_who_names_it_and_goes_with_the_last() {
        let mut names = Names::default();
        let mut set = |unit: &str, files: &[&str]| {
            names.set(&name(unit), files.iter().map(|path| file(path)).collect());
            let NamedChanges { more, no_more } = std::mem::take(&mut names.changes);
            (more.into_iter().collect::<Vec<_>>(), no_more.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(set("a", &["/x", "/y"]), (vec![file("/x"), file("/y")], vec![]));
        assert_eq!(set("b", &["/x"]), (vec![], vec![]));
        assert_eq!(set("a", &["/z"]), (vec![file("/z")], vec![file("/y")]));
        assert_eq!(set("b", &[]), (vec![], vec![file("/x")]));
        assert_eq!(names.by(&file("/z")), [name("a")]);
    }

    #[test]
    fn what_goes_and_comes_again_is_no_change() {
        let mut names = Names::default();
        names.set(&name("a"), [file("/x")].into());
        names.set(&name("a"), Box::default());
        assert!(names.changes.is_empty() && names == Names::default());
        names.set(&name("a"), [file("/x")].into());
        names.changes = NamedChanges::default();
        names.set(&name("a"), Box::default());
        names.set(&name("b"), [file("/x")].into());
        assert!(names.changes.is_empty() && names.by(&file("/x")) == [name("b")]);
    }
}

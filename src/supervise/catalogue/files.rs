//! Files besides the sources whose contents texts name: what was read of them, and whom that concerns.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::contents::{self, FileView};
use super::{Catalogue, Entry, Validate};
use crate::plan::WallTime;
use crate::unit::UnitName;

impl Catalogue {
    /// What a read of a file that texts name came to.
    pub fn file_read(&mut self, path: &Path, view: FileView, validate: Validate, now: WallTime) {
        if self.files.get(path) == Some(&view) {
            return;
        }
        self.files.insert(path.to_owned(), view);
        let names_it = |entry: &Entry| entry.files().any(|named| named == path);
        let concerned: Vec<UnitName> =
            self.entries.iter().filter(|(_, entry)| names_it(entry)).map(|(name, _)| name.clone()).collect();
        concerned.iter().for_each(|name| self.evaluate(name, validate, now));
    }

    /// Every file besides the sources whose contents a text on disk names.
    pub fn files(&self) -> BTreeSet<&Path> {
        self.entries.values().flat_map(Entry::files).collect()
    }
}

impl Entry {
    fn files(&self) -> impl Iterator<Item = &Path> {
        let newest = self.newest().and_then(|on_disk| on_disk.text.as_ref().ok());
        newest.into_iter().flat_map(|text| contents::paths(&text.unit))
    }
}

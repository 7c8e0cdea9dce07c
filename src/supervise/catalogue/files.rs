//! Files besides the sources whose contents texts name: what was read of them, and whom that concerns.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::super::contents::{self, FileView};
use super::{Catalogue, Entry, InForce, Named, Validate};
use crate::plan::{Fact, WallTime};
use crate::unit::{ConfigFile, ContainerId, Source, Unit, UnitName};

impl Catalogue {
    /// What a read of a file came to, if texts name it.
    pub fn file_read(&mut self, path: &Path, view: FileView, validate: Validate, now: WallTime) {
        let Some(known) = self.files.get_mut(path) else { return };
        if known.as_ref() == Some(&view) {
            return;
        }
        *known = Some(view);
        for name in &self.names.by(&Named::File(path.to_owned())) {
            self.evaluate(name, validate, now);
            self.fill_secrets(name);
        }
    }

    /// Secrets are in no last good text: one that is recalled, and stays in force because the text on disk does not do, has them from where
    /// they lie now.
    pub(super) fn fill_secrets(&mut self, name: &UnitName) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(good) = entry.in_force.as_ref().filter(|good| unknown_secrets(&good.unit).next().is_some()) else {
            return;
        };
        let mut unit = Unit::clone(&good.unit);
        for config in unit.configs.iter_mut().filter(|config| is_unknown_secret(config)) {
            config.contents = self.files.get(&config.source).and_then(|view| view.as_ref()?.as_secret());
        }
        unit.share_files();
        if unit != *good.unit {
            entry.in_force = Some(Arc::new(InForce { unit: Arc::new(unit), ..InForce::clone(good) }));
            self.changes.insert(name.clone());
            self.update_named(name);
        }
    }

    /// What is read of this one counts from here on. A file that is followed already, as a bundle's config.json, is not told of again: it is
    /// taken from there.
    pub fn expect_file(&mut self, path: &Path, validate: Validate, now: WallTime) {
        if !self.files.contains_key(path) {
            self.files.insert(path.to_owned(), None);
            if let Some(view) = self.of_bundle(path) {
                self.file_read(path, view, validate, now);
            }
        }
    }

    fn of_bundle(&self, path: &Path) -> Option<FileView> {
        let bundle = path.parent().filter(|_| path.file_name() == Some(OsStr::new("config.json")))?;
        Some(match self.sources.get(&Source::Bundle(bundle.to_owned()))? {
            // Nobody has looked at who may read it: no secret is there.
            Ok(facts) => FileView::Found {
                bytes: facts.config_json.as_deref().unwrap_or_default().into(),
                readable_by_others: true,
            },
            Err(why) => FileView::Refused(why.clone()),
        })
    }

    /// Whether texts name it.
    pub fn names_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// What the runtime says of a failure may repeat an argument into which a variable was put.
    pub fn hide(&self, fact: Fact) -> Fact {
        let hidden = |id: &ContainerId, text: String| match self.in_force(&id.unit) {
            Some(good) => good.unit.process.variables.hide(&text),
            None => text,
        };
        match fact {
            Fact::StartFailed { id, text } => Fact::StartFailed { text: hidden(&id, text), id },
            Fact::ActionFailed { id, deed, text } => Fact::ActionFailed { text: hidden(&id, text), id, deed },
            other => other,
        }
    }
}

impl Entry {
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let of_text = self.text().into_iter().flat_map(|text| contents::paths(&text.unit));
        of_text.chain(self.in_force.iter().flat_map(|good| unknown_secrets(&good.unit)))
    }
}

fn unknown_secrets(unit: &Unit) -> impl Iterator<Item = &Path> {
    unit.configs.iter().filter(|config| is_unknown_secret(config)).map(|config| config.source.as_path())
}

fn is_unknown_secret(config: &ConfigFile) -> bool {
    config.secret && config.contents.is_none()
}

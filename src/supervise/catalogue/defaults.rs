//! The defaults of moored.toml: the lowest layer of every unit.
//!
//! | what is at the path | what is in force |
//! |---|---|
//! | a valid text | its `[defaults]` |
//! | a link to /dev/null | nothing |
//! | a text that is not valid, or may not or cannot be read | what was before; it is said everywhere |
//! | nothing | nothing; if an earlier run knew some, after [`ABSENCE`] |
//! | nothing, and its directory is not there either | what was before: a directory that is missing is not an empty one |

use std::path::{Path, PathBuf};

use super::{ABSENCE, Catalogue, Validate};
use crate::plan::{BootTime, Now, WallTime};
use crate::unit::{LayerKind, LayerText, UnitName, check_moored_toml};

/// What is known of moored.toml.
#[derive(Debug, Default)]
pub(super) struct Defaults {
    pub(super) in_force: Option<LayerText>,
    /// Why what is on disk is not in force, one line each.
    pub(super) errors: Vec<String>,
    /// It comes from an earlier run, and nobody has seen it yet.
    remembered: bool,
    absent: Option<BootTime>,
}

/// Why there is no text.
pub enum NoDefaults {
    /// A link to /dev/null: nobody is to have any.
    Mask,
    /// The file does not exist; its directory does.
    Missing,
    /// Neither does its directory.
    MissingDirectory(String),
    /// It may not or cannot be read.
    Refused(String),
}

impl Catalogue {
    /// Defaults that were in force in an earlier run hold until the file says otherwise.
    pub fn remember_defaults(&mut self, layer: LayerText) {
        self.defaults = Defaults { in_force: Some(layer), remembered: true, ..Defaults::default() };
    }

    /// The file's settled text; `resolved` is the file without links.
    pub fn defaults_read(&mut self, file: &Path, text: &str, resolved: PathBuf, validate: Validate, now: WallTime) {
        self.defaults.remembered = false;
        self.defaults.absent = None;
        match check_moored_toml(file, text) {
            Err(errors) => self.defaults.errors = errors.iter().map(ToString::to_string).collect(),
            Ok(some) => {
                let layer = LayerText { kind: LayerKind::Defaults, file: file.to_owned(), resolved, text: text.into() };
                self.put_defaults(some.then_some(layer), validate, now);
            }
        }
    }

    /// There is no text.
    pub fn defaults_not_read(&mut self, why: NoDefaults, validate: Validate, now: Now) {
        match why {
            NoDefaults::Refused(why) => self.defaults.errors = vec![why],
            NoDefaults::MissingDirectory(why) if self.defaults.in_force.is_some() => self.defaults.errors = vec![why],
            NoDefaults::Missing if self.defaults.remembered => self.defaults.absent = Some(now.boot.after(ABSENCE)),
            NoDefaults::Mask | NoDefaults::Missing | NoDefaults::MissingDirectory(_) => {
                self.put_defaults(None, validate, now.wall)
            }
        }
    }

    fn put_defaults(&mut self, layer: Option<LayerText>, validate: Validate, now: WallTime) {
        let same = self.defaults.in_force == layer;
        self.defaults = Defaults { in_force: layer, ..Defaults::default() };
        if !same {
            let all: Vec<UnitName> = self.entries.keys().cloned().collect();
            all.into_iter().for_each(|name| self.judge_later(name));
            if !self.in_batch {
                self.end_batch(validate, now);
            }
        }
    }

    /// As for units and drop-ins.
    pub(super) fn expire_defaults(&mut self, validate: Validate, now: Now) -> Option<BootTime> {
        if self.defaults.absent.is_some_and(|until| until <= now.boot) {
            self.put_defaults(None, validate, now.wall);
        }
        self.defaults.absent
    }

    /// The defaults in force.
    pub fn defaults(&self) -> Option<&LayerText> {
        self.defaults.in_force.as_ref()
    }

    /// Why what is on disk is not in force, one line each.
    pub fn defaults_errors(&self) -> &[String] {
        &self.defaults.errors
    }
}

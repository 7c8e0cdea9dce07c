//! One file's text: parsed, and judged together with its source.
//!
//! A text is good when it, its source and its config.json are valid together, whether it was just read or is recalled from an earlier
//! run. Which of several counts, and what is in force meanwhile, is the catalogue's.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::contents::{self, FileView, Found, Places};
use super::{DirectoryId, InForce, Validate};
use crate::plan::WallTime;
use crate::store::Good;
use crate::unit::{Diagnostic, Parsed, SourceFacts, SpecError, Unit, UnitName, parse_from};

/// One file as it was last read.
#[derive(Debug)]
pub(super) struct OnDisk {
    pub(super) rank: usize,
    pub(super) path: PathBuf,
    pub(super) text: Result<Text, NoText>,
}

/// Why a file has no text that could be in force.
#[derive(Debug)]
pub(super) enum NoText {
    /// What is wrong with it, one line each.
    Bad(Vec<String>),
    /// It is a link to /dev/null.
    Mask,
}

/// A unit's text that parsed.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) unit: Arc<Unit>,
    pub(super) text: Arc<str>,
    pub(super) resolved: PathBuf,
    pub(super) warnings: Vec<String>,
    /// Line and column of the key that names the source.
    pub(super) source_at: (u32, u32),
    /// The same of its files. The unit has neither variables nor contents until these are read.
    pub(super) places: Places,
}

/// What a text is worth together with its source.
pub(super) enum Verdict {
    Looking,
    Masked,
    Bad(Vec<String>),
    Good(InForce),
}

fn lines(found: Vec<Diagnostic>) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

pub(super) fn parse(path: &Path, name: &UnitName, text: String, resolved: PathBuf) -> Result<Text, Vec<String>> {
    let base = resolved.parent().unwrap_or(Path::new("/"));
    let parsed = parse_from(name, path, base, &text).map_err(lines)?;
    Ok(Text::of(parsed, text.into(), resolved))
}

impl Text {
    fn of(parsed: Parsed, text: Arc<str>, resolved: PathBuf) -> Text {
        let places = Places::of(&parsed);
        let Parsed { unit, warnings, source_at, .. } = parsed;
        Text { unit: Arc::new(unit), warnings: lines(warnings), text, resolved, source_at, places }
    }

    /// With what its files hold, from what `look` finds at their paths; `None`: one is not looked at yet.
    pub(super) fn with_files<'v>(
        &self,
        path: &Path,
        look: impl Fn(&Path) -> Option<&'v FileView>,
    ) -> Option<Result<Cow<'_, Text>, Vec<String>>> {
        if contents::paths(&self.unit).next().is_none() {
            return Some(Ok(Cow::Borrowed(self)));
        }
        let found = contents::find(path, &self.unit, &self.places, look)?.map_err(lines);
        Some(found.and_then(|found| self.with_found(path, &found)).map(Cow::Owned))
    }

    fn with_found(&self, path: &Path, found: &Found) -> Result<Text, Vec<String>> {
        let base = self.resolved.parent().unwrap_or(Path::new("/"));
        let parsed = contents::parse_found(&self.unit.name, path, base, &self.text, found).map_err(lines)?;
        Ok(Text::of(parsed, Arc::clone(&self.text), self.resolved.clone()))
    }
}

/// A text that an earlier run found good, with the source as it was then.
pub fn recall(name: &UnitName, good: Good, validate: Validate) -> Result<InForce, Vec<String>> {
    let text = parse(&good.path, name, good.text, good.resolved)?;
    let text = text.with_found(&good.path, &Found::from_stored(good.variables, good.configs))?;
    let facts = Arc::new(SourceFacts { resolved: good.source, config_json: good.config });
    let directory = DirectoryId { device: good.directory.0, inode: good.directory.1, mount: 0 };
    let on_disk = OnDisk { rank: 0, path: good.path, text: Ok(text) };
    let Ok(text) = &on_disk.text else { return Err(Vec::new()) };
    match judge(&on_disk, text, &facts, validate) {
        Verdict::Good(recalled) => Ok(InForce { directory, since: WallTime(good.since_ms), ..recalled }),
        Verdict::Bad(errors) => Err(errors),
        Verdict::Looking | Verdict::Masked => Err(Vec::new()),
    }
}

pub(super) fn judge(on_disk: &OnDisk, text: &Text, facts: &Arc<SourceFacts>, validate: Validate) -> Verdict {
    match validate(&text.unit, facts) {
        Err(errors) => {
            // A mistake in config.json has its place there.
            let line = |error: &SpecError| match error.file {
                Some(_) => error.to_string(),
                None => on_disk.at_source(text, error),
            };
            // These know of no secrets.
            let variables = &text.unit.process.variables;
            Verdict::Bad(errors.iter().map(line).map(|line| variables.hide(&line)).collect())
        }
        Ok(more) => Verdict::Good(InForce {
            file: on_disk.path.clone(),
            directory: DirectoryId::default(),
            resolved: text.resolved.clone(),
            text: Arc::clone(&text.text),
            unit: Arc::clone(&text.unit),
            facts: Arc::clone(facts),
            fingerprint: crate::unit::container_fingerprint(&text.unit, facts),
            since: WallTime(0),
            warnings: text
                .warnings
                .iter()
                .cloned()
                .chain(more.iter().map(|more| text.unit.process.variables.hide(more)))
                .collect(),
        }),
    }
}

impl OnDisk {
    /// What is wrong with the source, at the line that names it.
    pub(super) fn at_source(&self, text: &Text, why: &dyn fmt::Display) -> String {
        let (line, column) = text.source_at;
        format!("{}:{line}:{column} {why}", self.path.display())
    }
}

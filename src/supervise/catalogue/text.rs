//! A unit's texts: merged, parsed, and judged together with its source.
//!
//! They are good when they, the source and its config.json are valid together, whether they were just read or are recalled from an earlier
//! run. Which of several files counts, and what is in force meanwhile, is the catalogue's.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::contents::{self, FileView, Found, Places};
use super::super::host;
use super::sets::Part;
use super::{Bad, DirectoryId, InForce, Trial, Validate};
use crate::plan::WallTime;
use crate::store::Good;
use crate::unit::{
    Diagnostic, Fingerprint, Layer, LayerKind, LayerText, Parsed, Place, SourceFacts, SpecError, Unit, UnitName,
    is_template,
};

/// Where a text comes among those of a unit: the last one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// That of the template which lists the unit.
    Listed,
    /// A file of the unit's own name, in the directory of this place.
    Own(usize),
}

/// One file as it was last read.
#[derive(Debug)]
pub(super) struct OnDisk {
    pub(super) rank: Rank,
    pub(super) path: PathBuf,
    pub(super) part: Part,
    pub(super) text: Result<Read, NoText>,
}

/// What was read of a unit's own file.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) text: Arc<str>,
    /// Without links.
    pub(super) resolved: PathBuf,
}

/// Why a file has no text that could be in force.
#[derive(Debug, Clone)]
pub(super) enum NoText {
    /// What is wrong with it, one line each.
    Bad(Vec<String>),
    /// It is a link to /dev/null.
    Mask,
}

/// A unit's texts that parsed together.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) unit: Arc<Unit>,
    pub(super) file: PathBuf,
    pub(super) read: Read,
    /// All others: defaults first, then the drop-ins.
    pub(super) layers: Vec<LayerText>,
    pub(super) warnings: Vec<String>,
    /// The key that names the source.
    pub(super) source_at: Place,
    /// The address of each socket.
    pub(super) sockets_at: Vec<Place>,
    /// Where its files are named. The unit has neither variables nor contents until these are read.
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

/// `layers` as in [`Text`].
pub(super) fn parse(name: &UnitName, file: &Path, read: Read, layers: Vec<LayerText>) -> Result<Text, Vec<String>> {
    let all = all_layers(file, &read.resolved, &read.text, &layers);
    let parsed = crate::unit::parse_layers(host::names(name), &all).map_err(lines)?;
    Ok(Text::of(parsed, file.to_owned(), read, layers))
}

impl Text {
    fn of(parsed: Parsed, file: PathBuf, read: Read, layers: Vec<LayerText>) -> Text {
        let places = Places::of(&parsed);
        let Parsed { unit, warnings, source_at, sockets_at, .. } = parsed;
        // A copy: what it was read from is gone by now, so its pieces lie close together, and its lists have no room to spare. It stays for long.
        let (unit, warnings) = (Arc::new(unit.clone()), lines(warnings));
        Text { unit, file, read, layers, warnings, source_at, sockets_at, places }
    }

    /// With what its files hold, from what `look` finds at their paths; `None`: one is not looked at yet.
    pub(super) fn with_files<'v>(
        &self,
        name: &UnitName,
        look: impl Fn(&Path) -> Option<&'v FileView>,
    ) -> Option<Result<Cow<'_, Text>, Vec<String>>> {
        if contents::paths(&self.unit).next().is_none() {
            return Some(Ok(Cow::Borrowed(self)));
        }
        let found = contents::find(&self.unit, &self.places, look)?.map_err(lines);
        Some(found.and_then(|found| self.with_found(name, &found)).map(Cow::Owned))
    }

    fn with_found(&self, name: &UnitName, found: &Found) -> Result<Text, Vec<String>> {
        let all = all_layers(&self.file, &self.read.resolved, &self.read.text, &self.layers);
        let parsed = contents::parse_found(name, &self.file, &all, found).map_err(lines)?;
        Ok(Text::of(parsed, self.file.clone(), self.read.clone(), self.layers.clone()))
    }
}

/// The defaults, the unit's own text, its drop-ins.
fn all_layers<'t>(file: &'t Path, resolved: &'t Path, text: &'t str, layers: &'t [LayerText]) -> Vec<Layer<'t>> {
    let base = resolved.parent().unwrap_or(Path::new("/"));
    let is_template = is_template(file, resolved);
    let main = Layer { kind: LayerKind::Main, file, base, text, is_template };
    let (below, above): (Vec<_>, Vec<_>) =
        layers.iter().map(LayerText::layer).partition(|layer| layer.kind == LayerKind::Defaults);
    below.into_iter().chain([main]).chain(above).collect()
}

impl InForce {
    /// All texts, in the order in which later ones win.
    pub fn all_layers(&self) -> Vec<Layer<'_>> {
        all_layers(&self.file, &self.resolved, &self.text, &self.layers)
    }
}

/// What an earlier run had in force, with what it remembered of a trial.
pub fn recall(name: &UnitName, mut good: Good, validate: Validate) -> Result<(InForce, Trial), Vec<String>> {
    let bad = good.bad.take().map(|bad| Bad {
        texts: bad.texts.into(),
        fingerprint: Fingerprint(bad.fingerprint),
        why: bad.why,
        at: WallTime(bad.at_ms),
    });
    // One that is not valid any more is nothing to go back to.
    let earlier = good.earlier.take().and_then(|earlier| recall_text(name, *earlier, validate).ok());
    Ok((recall_text(name, good, validate)?, Trial::remembered(earlier, bad)))
}

/// Texts that an earlier run found good, with the source and the files as they were then.
fn recall_text(name: &UnitName, good: Good, validate: Validate) -> Result<InForce, Vec<String>> {
    let read = Read { text: good.text.into(), resolved: good.resolved };
    let text = parse(name, &good.path, read, good.layers)?;
    let text = text.with_found(name, &Found::from_stored(good.variables, good.configs))?;
    let facts = Arc::new(SourceFacts { resolved: good.source, config_json: good.config, layers: good.roots });
    let directory = DirectoryId { device: good.directory.0, inode: good.directory.1, mount: 0 };
    match judge(&text, &facts, validate) {
        Verdict::Good(recalled) => Ok(InForce { directory, since: WallTime(good.since_ms), ..recalled }),
        Verdict::Bad(errors) => Err(errors),
        Verdict::Looking | Verdict::Masked => Err(Vec::new()),
    }
}

pub(super) fn judge(text: &Text, facts: &Arc<SourceFacts>, validate: Validate) -> Verdict {
    match validate(&text.unit, facts) {
        Err(errors) => {
            // A mistake in config.json has its place there.
            let line = |error: &SpecError| match error.file {
                Some(_) => error.to_string(),
                None => text.at_source(error),
            };
            // These know of no secrets.
            let variables = &text.unit.process.variables;
            Verdict::Bad(errors.iter().map(line).map(|line| variables.hide(&line)).collect())
        }
        Ok(more) => Verdict::Good(InForce {
            file: text.file.clone(),
            directory: DirectoryId::default(),
            resolved: text.read.resolved.clone(),
            text: Arc::clone(&text.read.text),
            layers: text.layers.clone(),
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

impl Text {
    /// What is wrong with the source, at the line that names it.
    pub(super) fn at_source(&self, why: &dyn fmt::Display) -> String {
        format!("{} {why}", self.source_at)
    }
}

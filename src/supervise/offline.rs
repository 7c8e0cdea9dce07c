//! Unit files read without a watch: for `moored plan --units DIR` and `moored check`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{contents, source, validate};
use crate::control::Response;
use crate::control::protocol::{Change, ChangedSetting};
use crate::unit::{
    Effect, SettingChange, SourceFacts, SpecError, Unit, UnitName, changes, file_stem_to_name, parse_from,
    template_sample, text_of,
};
use crate::watch::TEXT_MAX_BYTES;
use crate::watch::trusted::{Trust, read_trusted};

/// Settings that take a new container are named up to here; all are listed.
const NAMES_MAX: usize = 5;

/// A unit file that is valid together with its source.
#[derive(Debug)]
pub struct Checked {
    /// The unit.
    pub unit: Unit,
    /// Its source.
    pub facts: Arc<SourceFacts>,
    /// What is odd but no error.
    pub warnings: Vec<String>,
}

/// Reads and checks one file as the supervisor would. Errors are lines for people, all of them.
pub fn check(path: &Path, trust: &Trust) -> Result<Checked, Vec<String>> {
    let name = path.file_name().unwrap_or_default();
    let name = match file_stem_to_name(name) {
        Ok(Some(name)) => name,
        Ok(None) => {
            return Err(vec![format!(
                "{}: not a unit file: expected a name that ends in .toml, rename it",
                path.display()
            )]);
        }
        Err(bad) => return Err(vec![format!("{}: {bad}", path.display())]),
    };
    let file = read_trusted(path, trust, TEXT_MAX_BYTES).map_err(|error| vec![error.to_string()])?;
    let text = text_of(path, &file.bytes).map_err(|error| vec![error.to_string()])?;
    let lines = |found: Vec<crate::unit::Diagnostic>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
    let base = file.resolved.parent().unwrap_or(Path::new("/"));
    let parsed = parse_from(&name, path, base, text).map_err(lines)?;
    let parsed = contents::read(parsed, &name, path, base, text, Some(trust)).map_err(lines)?;
    let (line, column) = parsed.source_at;
    let at_source = |error: &dyn std::fmt::Display| format!("{}:{line}:{column} {error}", path.display());
    let facts = source::find(&parsed.unit.source, Some(trust)).map_err(|error| vec![at_source(&error)])?;
    let placed = |error: &SpecError| if error.file.is_some() { error.to_string() } else { at_source(error) };
    let hidden = |line: String| parsed.unit.process.variables.hide(&line);
    let more =
        validate(&parsed.unit, &facts).map_err(|errors| errors.iter().map(placed).map(&hidden).collect::<Vec<_>>())?;
    let more: Vec<String> = more.into_iter().map(hidden).collect();
    Ok(Checked {
        unit: parsed.unit,
        facts: Arc::new(facts),
        warnings: lines(parsed.warnings).into_iter().chain(more).collect(),
    })
}

/// The unit files of a directory, in name order. A template is none: its instances are. Nor is a link to /dev/null: it masks.
pub fn unit_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if crate::watch::is_unit_file(&entry.file_name())
            && template_sample(&entry.file_name()).is_none()
            && !is_mask(&entry.path())
        {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn is_mask(path: &Path) -> bool {
    std::fs::canonicalize(path).is_ok_and(|real| real == Path::new("/dev/null"))
}

/// A unit in force, with its source.
pub type Ours = BTreeMap<UnitName, (Arc<Unit>, Arc<SourceFacts>)>;

/// What the texts in `dir` would change of what is in force.
pub fn compare(dir: &Path, ours: &Ours) -> Response {
    let files = match unit_files(dir) {
        Ok(files) => files,
        Err(error) => return Response::Error { message: format!("{}: {error}", dir.display()), code: 1 },
    };
    let trust = Trust::new(rustix::process::geteuid().as_raw());
    let (mut theirs, mut errors) = (BTreeMap::new(), Vec::new());
    for path in files {
        let name = path.file_name().and_then(|name| file_stem_to_name(name).ok().flatten());
        let checked = check(&path, &trust).map_err(|found| errors.extend(found)).ok();
        if let Some(name) = name {
            theirs.insert(name, checked);
        }
    }
    let there = theirs.iter().filter_map(|(unit, checked)| match (ours.get(unit), checked) {
        (_, None) => None,
        (None, Some(_)) => Some(change(unit, "add", "it is not in force")),
        (Some((unit, facts)), Some(theirs)) => difference((unit, facts), (&theirs.unit, &theirs.facts)),
    });
    let gone = ours
        .keys()
        .filter(|unit| !theirs.contains_key(*unit))
        .map(|unit| change(unit, "remove", "it has no file there"));
    let mut changes: Vec<Change> = there.chain(gone).collect();
    changes.sort_by(|a, b| a.unit.cmp(&b.unit));
    Response::Plan { changes, errors }
}

fn change(unit: &UnitName, how: &str, why: &str) -> Change {
    Change { unit: unit.to_string(), how: how.to_owned(), why: why.to_owned(), settings: Vec::new() }
}

/// `replace` if any setting that differs takes a new container, `reload` if contents are swapped and the program is told, else `live`.
fn difference(ours: (&Unit, &SourceFacts), theirs: (&Unit, &SourceFacts)) -> Option<Change> {
    let changes = changes(ours, theirs);
    let replacing: Vec<&str> =
        changes.iter().filter(|change| change.effect == Effect::Replace).map(|change| change.name.as_str()).collect();
    let (how, why) = match replacing.len() {
        0 if changes.is_empty() => return None,
        0 if changes.iter().any(|change| change.effect == Effect::Reload) => {
            ("reload", "its container runs on, and is told to reload once".to_owned())
        }
        0 => ("live", "its container runs on".to_owned()),
        1 => ("replace", format!("{} takes a new container", replacing[0])),
        many => {
            let more = many.checked_sub(NAMES_MAX).filter(|more| *more > 0);
            let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
            let names = replacing.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
            ("replace", format!("{names}{more} take a new container"))
        }
    };
    Some(Change { settings: changes.into_iter().map(setting).collect(), ..change(&ours.0.name, how, &why) })
}

fn setting(change: SettingChange) -> ChangedSetting {
    let SettingChange { name, old, new, effect, hidden } = change;
    let how = match effect {
        Effect::Replace => "replace",
        Effect::Reload => "reload",
        Effect::Live | Effect::Supervisor => "live",
    };
    ChangedSetting { name, how: how.to_owned(), old, new, hidden }
}

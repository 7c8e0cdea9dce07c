//! Unit files read without a watch: for `moored plan --units DIR` and `moored check`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::planned::{Item, What, World, changes};
use super::{source, validate};
use crate::control::Response;
use crate::unit::{SourceFacts, SpecError, Unit, UnitName, file_stem_to_name, parse_from, template_sample, text_of};
use crate::watch::TEXT_MAX_BYTES;
use crate::watch::trusted::{Trust, read_trusted};

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
    let (line, column) = parsed.source_at;
    let at_source = |error: &dyn std::fmt::Display| format!("{}:{line}:{column} {error}", path.display());
    let facts = source::find(&parsed.unit.source, Some(trust)).map_err(|error| vec![at_source(&error)])?;
    let placed = |error: &SpecError| if error.file.is_some() { error.to_string() } else { at_source(error) };
    let more = validate(&parsed.unit, &facts).map_err(|errors| errors.iter().map(placed).collect::<Vec<_>>())?;
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
pub fn compare(dir: &Path, ours: &Ours, world: &World) -> Response {
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
    let gone = ours.keys().filter(|unit| !theirs.contains_key(*unit)).cloned();
    let gone: Vec<UnitName> = gone.collect();
    let there = theirs.into_iter().map(|(unit, checked)| {
        let what = checked.map_or(What::Invalid, |checked| What::Text(Arc::new(checked.unit), checked.facts));
        (unit, what)
    });
    let items = there.chain(gone.into_iter().map(|unit| (unit, What::Gone("it has no file there".to_owned()))));
    let items = items.map(|(unit, what)| Item { old: ours.get(&unit).cloned(), unit, what }).collect();
    Response::Plan { changes: changes(items, world), errors, hash: None }
}

//! Unit files read without a watch: for `moored plan --units DIR` and `moored check`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::planned::{Item, What, World, changes};
use super::{contents, host, source, validate};
use crate::control::Response;
use crate::unit::{
    Diagnostic, Layer, LayerKind, LayerText, SourceFacts, SpecError, Unit, UnitName, file_stem_to_name,
    files_with_drop_ins, parse_layers, template_sample, text_of,
};
use crate::watch::TEXT_MAX_BYTES;
use crate::watch::trusted::{ReadError, Trust, TrustedFile, read_trusted};

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

/// How a file is read.
pub type ReadFile<'r> = &'r dyn Fn(&Path) -> Result<TrustedFile, ReadError>;

/// The drop-ins of a unit in these directories of units, later ones winning, in the order in which they are merged; what is wrong with one
/// is in its place.
pub fn drop_ins(name: &UnitName, dirs: &[PathBuf], read: ReadFile) -> Vec<Result<LayerText, Diagnostic>> {
    let mut found = Vec::new();
    for file in files_with_drop_ins(name) {
        let mut paths = BTreeMap::new();
        for dir in dirs {
            let mut of_dir = dir.join(&file).into_os_string();
            of_dir.push(".d");
            match drop_in_files(Path::new(&of_dir)) {
                Ok(files) => paths.extend(files),
                Err(error) => {
                    let message = format!("cannot be listed: {error}");
                    found.push(Err(Diagnostic::of_file(Path::new(&of_dir), message, None)));
                }
            }
        }
        found.extend(paths.into_values().filter(|path| !is_mask(path)).map(|path| drop_in(path, read)));
    }
    found
}

/// By name; none if there is no such directory.
fn drop_in_files(dir: &Path) -> std::io::Result<Vec<(OsString, PathBuf)>> {
    if std::fs::symlink_metadata(dir).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if crate::watch::is_unit_file(&entry.file_name()) {
            files.push((entry.file_name(), entry.path()));
        }
    }
    Ok(files)
}

fn drop_in(path: PathBuf, read: ReadFile) -> Result<LayerText, Diagnostic> {
    let file = read(&path).map_err(|error| Diagnostic::of_file(&path, words(&path, &error), None))?;
    let text = text_of(&path, &file.bytes)?.into();
    Ok(LayerText { kind: LayerKind::DropIn, resolved: file.resolved, file: path, text })
}

/// Why a file is not read, without its path, which is said already.
pub fn words(path: &Path, error: &ReadError) -> String {
    let text = error.to_string();
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    text.strip_prefix(&format!("{}: ", whole.display())).map(str::to_owned).unwrap_or(text)
}

/// Reads and checks one file, with its drop-ins, as the supervisor would. Errors are lines for people, all of them.
pub fn check(path: &Path, trust: &Trust, defaults: Option<&LayerText>) -> Result<Checked, Vec<String>> {
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
    let lines = |found: Vec<Diagnostic>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
    let base = file.resolved.parent().unwrap_or(Path::new("/"));
    let dirs: Vec<PathBuf> = path.parent().map(Path::to_owned).into_iter().collect();
    let found = drop_ins(&name, &dirs, &|path| read_trusted(path, trust, TEXT_MAX_BYTES));
    let (drop_ins, broken): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    let broken: Vec<String> = broken.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    if !broken.is_empty() {
        return Err(broken);
    }
    let main = Layer { kind: LayerKind::Main, file: path, base, text };
    let layers: Vec<Layer> = defaults
        .map(LayerText::layer)
        .into_iter()
        .chain([main])
        .chain(drop_ins.iter().flatten().map(LayerText::layer))
        .collect();
    let parsed = parse_layers(host::names(&name), &layers).map_err(lines)?;
    let parsed = contents::read(parsed, &name, &layers, Some(trust)).map_err(lines)?;
    let at_source = |error: &dyn std::fmt::Display| format!("{} {error}", parsed.source_at);
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

/// What the texts in `dir`, with the `defaults` in force, would change of what is in force.
pub fn compare(dir: &Path, ours: &Ours, world: &World, defaults: Option<&LayerText>) -> Response {
    let files = match unit_files(dir) {
        Ok(files) => files,
        Err(error) => return Response::Error { message: format!("{}: {error}", dir.display()), code: 1 },
    };
    let trust = Trust::new(rustix::process::geteuid().as_raw());
    let (mut theirs, mut errors) = (BTreeMap::new(), Vec::new());
    for path in files {
        let name = path.file_name().and_then(|name| file_stem_to_name(name).ok().flatten());
        let checked = check(&path, &trust, defaults).map_err(|found| errors.extend(found)).ok();
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

//! Unit files read without a watch: for `moored plan --units DIR` and `moored check`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::planned::{Item, What, World, changes};
use super::{contents, host, source, validate};
use crate::compact;
use crate::control::Response;
use crate::unit::socket::{Claims, taken_by};
use crate::unit::{
    Diagnostic, Layer, LayerKind, LayerText, Place, Socket, SourceFacts, SpecError, Unit, UnitName, file_stem_to_name,
    files_with_drop_ins, instances_of, is_template, parse_layers, template_of, template_sample, text_of,
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
    /// Where its sockets stand.
    sockets_at: Vec<Place>,
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

/// Reads and checks the file of a unit, with its drop-ins, as the supervisor would. Errors are lines for people, all of them.
fn check(path: &Path, name: &UnitName, trust: &Trust, defaults: Option<&LayerText>) -> Result<Checked, Vec<String>> {
    let file = read_trusted(path, trust, TEXT_MAX_BYTES).map_err(|error| vec![error.to_string()])?;
    let text = text_of(path, &file.bytes).map_err(|error| vec![error.to_string()])?;
    let lines = |found: Vec<Diagnostic>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
    let base = file.resolved.parent().unwrap_or(Path::new("/"));
    let dirs: Vec<PathBuf> = path.parent().map(Path::to_owned).into_iter().collect();
    let found = drop_ins(name, &dirs, &|path| read_trusted(path, trust, TEXT_MAX_BYTES));
    let (drop_ins, broken): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    let broken: Vec<String> = broken.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    if !broken.is_empty() {
        return Err(broken);
    }
    let is_template = is_template(path, &file.resolved);
    let main = Layer { kind: LayerKind::Main, file: path, base, text, is_template };
    let layers: Vec<Layer> = defaults
        .map(LayerText::layer)
        .into_iter()
        .chain([main])
        .chain(drop_ins.iter().flatten().map(LayerText::layer))
        .collect();
    let parsed = parse_layers(host::names(name), &layers).map_err(lines)?;
    let parsed = contents::read(parsed, name, &layers, Some(trust)).map_err(lines)?;
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
        sockets_at: parsed.sockets_at,
        warnings: lines(parsed.warnings).into_iter().chain(more).collect(),
    })
}

/// What a directory declares.
#[derive(Default)]
struct Declared {
    /// Units with their files, masks among them, and those that templates list.
    units: BTreeMap<UnitName, PathBuf>,
    /// Templates of which nobody can say what they list.
    broken: BTreeSet<OsString>,
    errors: Vec<String>,
}

fn declared_in(dir: &Path, trust: &Trust) -> std::io::Result<Declared> {
    let mut names: Vec<OsString> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name());
    }
    names.retain(|name| crate::watch::is_unit_file(name));
    compact::sort(&mut names);
    let (mut found, mut listed) = (Declared::default(), Vec::new());
    for name in names {
        let path = dir.join(&name);
        if template_sample(&name).is_none() {
            match file_stem_to_name(&name) {
                Ok(unit) => found.units.extend(unit.map(|unit| (unit, path))),
                Err(bad) => found.errors.push(format!("{}: {bad}", path.display())),
            }
        } else if !is_mask(&path) {
            match read_instances(&path, &|path| read_trusted(path, trust, TEXT_MAX_BYTES)) {
                Ok(instances) => listed.extend(instances.into_iter().map(|unit| (unit, path.clone()))),
                Err(errors) => {
                    found.errors.extend(errors.iter().map(ToString::to_string));
                    found.broken.insert(name);
                }
            }
        }
    }
    for (unit, path) in listed {
        found.units.entry(unit).or_insert(path);
    }
    Ok(found)
}

/// The units that a template lists.
pub fn read_instances(path: &Path, read: ReadFile) -> Result<BTreeSet<UnitName>, Vec<Diagnostic>> {
    let file = read(path).map_err(|error| vec![Diagnostic::of_file(path, words(path, &error), None)])?;
    let text = text_of(path, &file.bytes).map_err(|error| vec![error])?;
    instances_of(path, text)
}

/// Whether it is a link to /dev/null.
pub fn is_mask(path: &Path) -> bool {
    std::fs::canonicalize(path).is_ok_and(|real| real == Path::new("/dev/null"))
}

/// A unit in force, with its source.
pub type Ours = BTreeMap<UnitName, (Arc<Unit>, Arc<SourceFacts>)>;

/// Unless it wants an address that another unit has.
fn is_free(checked: Checked, claims: &mut Claims) -> Result<Checked, Vec<String>> {
    let unit = &checked.unit;
    let Err((n, other)) = claims.claim(&unit.name, &unit.sockets) else { return Ok(checked) };
    let (Some(socket), Some(at)) = (unit.sockets.get(n), checked.sockets_at.get(n)) else { return Ok(checked) };
    let (line, column) = (at.line, at.column);
    let error = Diagnostic::of_file(&at.file, taken_by(socket, &other), None);
    Err(vec![Diagnostic { line, column, ..error }.to_string()])
}

/// What the texts in `dir`, with the `defaults` in force, would change of what is in force.
pub fn compare(dir: &Path, ours: &Ours, world: &World, defaults: Option<&LayerText>) -> Response {
    let trust = Trust::new(rustix::process::geteuid().as_raw());
    let Declared { mut units, broken, mut errors } = match declared_in(dir, &trust) {
        Ok(found) => found,
        Err(error) => return Response::Error { message: format!("{}: {error}", dir.display()), code: 1 },
    };
    units.retain(|_, path| !is_mask(path));
    let mut items = Vec::new();
    let checked: Vec<_> = units.iter().map(|(unit, path)| (unit, path, check(path, unit, &trust, defaults))).collect();
    let mut claims = Claims::default();
    // The address that a unit has and keeps is not another one's, whatever their names.
    for (unit, _, checked) in &checked {
        let old = ours.get(*unit).map(|(old, _)| old.sockets.as_slice()).unwrap_or_default();
        let is_kept = |socket: &&Socket| match checked {
            Ok(new) => new.unit.sockets.iter().any(|new| new.listen == socket.listen),
            Err(_) => true,
        };
        let kept: Vec<Socket> = old.iter().filter(is_kept).cloned().collect();
        let _ = claims.claim(unit, &kept);
    }
    for (unit, path, checked) in checked {
        let checked = checked.and_then(|checked| is_free(checked, &mut claims));
        let checked = checked.map_err(|found| errors.extend(found));
        let what = checked.map_or(What::Invalid, |checked| What::Text(Arc::new(checked.unit), checked.facts));
        let is_template = path.file_name().is_some_and(|name| template_sample(name).is_some());
        let listed_by = is_template.then(|| path.clone());
        items.push(Item { old: ours.get(unit).cloned(), unit: unit.clone(), what, listed_by });
    }
    for (unit, old) in ours.iter().filter(|(unit, _)| !units.contains_key(*unit)) {
        let what = match template_of(unit).is_some_and(|template| broken.contains(&template)) {
            true => What::Invalid,
            false => What::Gone("it has no file there".to_owned()),
        };
        items.push(Item { old: Some(old.clone()), unit: unit.clone(), what, listed_by: None });
    }
    let mut seen = BTreeSet::new();
    errors.retain(|error| seen.insert(error.clone()));
    Response::Plan { changes: changes(items, world), errors, hash: None }
}

//! `moored check`: what `up` would say of unit files, without `up`.
//!
//! Texts are parsed one by one, and the sources that they name are looked at as far as this user can: a bundle's config.json, whether a
//! rootfs is a directory, whether an executable is one that can stand alone. What a source lacks is reported at the line that names it.
//! Who owns the files is not judged: somebody may check what is only to be installed later.
//!
//! A unit is checked with its drop-ins of the same directory, or, where no path is given, of all directories that `up` reads; and with the
//! defaults of moored.toml, which is checked itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::settings::UNITS_DIRS;
use super::text::{Colour, Style};
use super::{Failure, ask, print};
use crate::compact;
use crate::supervise::schedules::next_times;
use crate::supervise::{contents, host, offline, source, validate};
use crate::unit::{self, Diagnostic, Place, SpecError, TEXT_MAX, Unit};
use crate::watch::is_unit_file;
use crate::watch::trusted::{ReadError, TrustedFile, read_any};

/// Directory entries looked at; the supervisor takes no more units either.
const ENTRIES_MAX: usize = 100_000;

/// One thing to say about one place.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    error: bool,
    diagnostic: Diagnostic,
}

/// What of a unit is looked at.
#[derive(Debug, Clone, Copy)]
enum Depth {
    /// Its text.
    Text,
    /// And the files whose contents are part of it.
    Files,
}

/// So many of the next times of a schedule are shown.
const TIMES: usize = 3;

/// Everything found.
#[derive(Debug, Default)]
struct Report {
    files: usize,
    defaults: Option<unit::LayerText>,
    findings: Vec<Finding>,
    /// Of each unit the sockets of the text that counts, and where they stand.
    sockets: BTreeMap<unit::UnitName, (Vec<unit::Socket>, Vec<Place>)>,
    /// When units with a schedule run next, a line for each.
    times: Vec<String>,
}

impl Report {
    fn error(&mut self, diagnostic: Diagnostic) {
        self.say(Finding { error: true, diagnostic });
    }

    fn warning(&mut self, diagnostic: Diagnostic) {
        self.say(Finding { error: false, diagnostic });
    }

    /// Once: a drop-in may be of several instances.
    fn say(&mut self, finding: Finding) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn of_file(&mut self, file: &Path, message: impl Into<String>) {
        self.error(Diagnostic::of_file(file, message, None));
    }
}

/// Checks files and directories (none: those that `up` reads), prints, and returns 1 if anything is invalid.
pub fn check(paths: &[PathBuf], config: &Path, init: Option<&Path>, json: bool) -> Result<u8, Failure> {
    let mut report = check_all(paths, config);
    let own = Path::new(unit::INIT_TOML);
    if let Some(init) = init.or((paths.is_empty() && own.exists()).then_some(own)) {
        check_init(init, &mut report);
    }
    let invalid = report.findings.iter().any(|finding| finding.error);
    print(&if json { as_json(&report)? } else { as_text(&report, &Style::of_stdout()) })?;
    Ok(u8::from(invalid))
}

fn check_all(paths: &[PathBuf], config: &Path) -> Report {
    let mut report = Report::default();
    report.defaults = check_config(config, &mut report);
    for path in paths {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if whole == config {
            continue;
        }
        if whole == Path::new(unit::INIT_TOML) {
            check_init(path, &mut report);
            continue;
        }
        if path.is_dir() && whole.file_name().and_then(unit::drop_in_target).is_none() {
            check_dir(path, std::slice::from_ref(path), &mut report);
        } else {
            check_named(path, &mut report);
        }
    }
    if paths.is_empty() {
        let dirs: Vec<PathBuf> = UNITS_DIRS.iter().map(PathBuf::from).filter(|dir| dir.exists()).collect();
        dirs.iter().for_each(|dir| check_dir(dir, &dirs, &mut report));
    }
    check_addresses(&mut report);
    report
}

/// Two units that want one address.
fn check_addresses(report: &mut Report) {
    let mut claims = unit::socket::Claims::default();
    for (name, (sockets, places)) in std::mem::take(&mut report.sockets) {
        let Err((n, other)) = claims.claim(&name, &sockets) else { continue };
        if let (Some(socket), Some(Place { file, line, column })) = (sockets.get(n), places.get(n).cloned()) {
            let error = Diagnostic::of_file(&file, unit::socket::taken_by(socket, &other), None);
            report.error(Diagnostic { line, column, ..error });
        }
    }
}

/// moored.toml, if there is one; the defaults that it holds if it is valid.
fn check_config(config: &Path, report: &mut Report) -> Option<unit::LayerText> {
    let file = match read(config) {
        Err(ReadError::Missing { .. } | ReadError::Mask { .. }) => return None,
        Err(error) => {
            report.of_file(config, offline::words(config, &error));
            return None;
        }
        Ok(file) => file,
    };
    let text = unit::text_of(config, &file.bytes).map_err(|diagnostic| report.error(diagnostic)).ok()?;
    let checked = unit::check_moored_toml(config, text);
    let some = checked.map_err(|errors| errors.into_iter().for_each(|error| report.error(error))).ok()?;
    let kind = unit::LayerKind::Defaults;
    some.then(|| unit::LayerText { kind, file: config.to_owned(), resolved: file.resolved, text: text.into() })
}

/// What process 1 of a machine reads; no unit, whatever it is called.
fn check_init(file: &Path, report: &mut Report) {
    report.files += 1;
    let read = match read(file) {
        Err(error) => return report.of_file(file, offline::words(file, &error)),
        Ok(read) => read,
    };
    let parsed = unit::text_of(file, &read.bytes)
        .map_err(|diagnostic| vec![diagnostic])
        .and_then(|text| unit::parse_init_toml(file, text));
    parsed.err().into_iter().flatten().for_each(|error| report.error(error));
}

/// `dirs` are those that drop-ins may be in.
fn check_dir(dir: &Path, dirs: &[PathBuf], report: &mut Report) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return report.of_file(dir, format!("cannot be listed: {error}")),
    };
    let mut names: Vec<_> = entries.take(ENTRIES_MAX).flatten().map(|entry| entry.file_name()).collect();
    compact::sort(&mut names);
    for name in names {
        let path = dir.join(&name);
        match unit::file_stem_to_name(&name) {
            Ok(None) if unit::drop_in_target(&name).is_some() => check_lonely_drop_ins(&path, dirs, report),
            Ok(None) => drop(check_template(&path, dirs, report)),
            Ok(Some(unit)) => check_file(&path, &unit, dirs, report),
            Err(error) => report.of_file(&path, error.to_string()),
        }
    }
}

/// A file given by hand: its name must be a unit's, or it must be a drop-in, or all of a unit's.
fn check_named(path: &Path, report: &mut Report) {
    let parent = |path: &Path| path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new(".")).to_owned();
    let dirs = [path.parent().unwrap_or(Path::new("")).to_owned()];
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().unwrap_or_default();
    let above = whole.parent().and_then(Path::file_name).and_then(unit::drop_in_target);
    let (is_drop_in, is_dir) =
        (above.is_some() && is_unit_file(name), whole.file_name().and_then(unit::drop_in_target).is_some());
    match unit::file_stem_to_name(name) {
        _ if is_drop_in && path.exists() => check_drop_ins(&parent(path), report),
        Ok(None) if is_dir && path.exists() => check_drop_ins(path, report),
        Ok(Some(unit)) => check_file(path, &unit, &dirs, report),
        Ok(None) if check_template(path, &dirs, report) => {}
        Ok(None) if !path.exists() => report.of_file(path, "does not exist: create it or correct the path"),
        Ok(None) => report.of_file(path, "not a unit file's name, expected NAME.toml: rename it"),
        Err(error) => report.of_file(path, error.to_string()),
    }
}

/// The unit that drop-ins belong to, with them; alone if it is not beside them.
fn check_drop_ins(dir: &Path, report: &mut Report) {
    let whole = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let above = match dir.parent() {
        Some(parent) if dir.file_name().is_some() => parent.to_owned(),
        // "." is the directory itself.
        Some(_) | None => whole.parent().unwrap_or(Path::new("/")).to_owned(),
    };
    let Some(file) = whole.file_name().and_then(unit::drop_in_target) else { return };
    let dirs = [above.clone()];
    let path = above.join(&file);
    match unit::file_stem_to_name(&file) {
        Ok(Some(unit)) if path.exists() => check_file(&path, &unit, &dirs, report),
        Ok(None) if path.exists() => drop(check_template(&path, &dirs, report)),
        _ => check_lonely_drop_ins(&above.join(whole.file_name().unwrap_or_default()), &dirs, report),
    }
}

/// Drop-ins of a unit that is not there are told of, and their own mistakes are; those of one that is there are checked with it.
fn check_lonely_drop_ins(dir: &Path, dirs: &[PathBuf], report: &mut Report) {
    let Some(file) = dir.file_name().and_then(unit::drop_in_target) else { return };
    let name = match (unit::file_stem_to_name(&file), unit::template_sample(&file)) {
        (Ok(Some(name)), _) | (Ok(None), Some(name)) => name,
        (Ok(None), None) => return,
        (Err(error), _) => return report.of_file(dir, error.to_string()),
    };
    let applies = |entry: &std::ffi::OsStr| {
        let unit = unit::file_stem_to_name(entry).ok().flatten();
        entry == file || unit.is_some_and(|unit| unit::files_with_drop_ins(&unit).contains(&file))
    };
    let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().take(ENTRIES_MAX).flatten();
    if entries.map(|entry| entry.file_name()).any(|entry| applies(&entry)) {
        return;
    }
    let message = format!("there is no {}: these drop-ins change nothing", file.to_string_lossy());
    report.warning(Diagnostic::of_file(dir, message, None));
    let above = [dir.parent().unwrap_or(Path::new("")).to_owned()];
    let layers = drop_ins(&name, &above, report);
    let layers: Vec<unit::Layer> = layers.iter().map(unit::LayerText::layer).collect();
    unit::mistakes_of_part(host::names(&name), &layers).into_iter().for_each(|error| report.error(error));
}

/// A template's text, as some instance and as each that it lists and that has no file of its own; what it names depends on the instance and is
/// looked at for these only. `false`: it is none.
fn check_template(path: &Path, dirs: &[PathBuf], report: &mut Report) -> bool {
    let Some(sample) = path.file_name().and_then(unit::template_sample) else { return false };
    if check_text(path, &sample, dirs, Depth::Text, report).is_none() {
        return true;
    }
    let files = report.files;
    for instance in offline::read_instances(path, &read).unwrap_or_default() {
        let file = format!("{instance}.toml");
        if !dirs.iter().any(|dir| dir.join(&file).symlink_metadata().is_ok()) {
            check_file(path, &instance, dirs, report);
        }
    }
    report.files = files;
    true
}

fn check_file(path: &Path, name: &unit::UnitName, dirs: &[PathBuf], report: &mut Report) {
    if let Some(parsed) = check_text(path, name, dirs, Depth::Files, report) {
        report.sockets.insert(name.clone(), (parsed.unit.sockets.clone(), parsed.sockets_at.clone()));
        check_source(parsed.source_at, &parsed.unit, report);
    }
}

/// The text with its drop-ins; what it says if it is valid.
fn check_text(
    path: &Path,
    name: &unit::UnitName,
    dirs: &[PathBuf],
    depth: Depth,
    report: &mut Report,
) -> Option<unit::Parsed> {
    // A link to /dev/null masks a unit of an earlier directory.
    if std::fs::canonicalize(path).is_ok_and(|real| real == Path::new("/dev/null")) {
        return None;
    }
    report.files += 1;
    let bytes = read(path).map(|file| file.bytes);
    let bytes = bytes.map_err(|error| report.of_file(path, offline::words(path, &error))).ok()?;
    let text = unit::text_of(path, &bytes).map_err(|diagnostic| report.error(diagnostic)).ok()?;
    // Relative paths start from where the links lead, and facts are looked up by absolute ones.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let base = real.parent().unwrap_or(Path::new("/"));
    let drop_ins = drop_ins(name, dirs, report);
    let is_template = unit::is_template(path, &real);
    let main = unit::Layer { kind: unit::LayerKind::Main, file: path, base, text, is_template };
    let defaults = report.defaults.clone();
    let below = defaults.iter().map(unit::LayerText::layer);
    let layers: Vec<unit::Layer> = below.chain([main]).chain(drop_ins.iter().map(unit::LayerText::layer)).collect();
    let parsed = unit::parse_layers(host::names(name), &layers).and_then(|parsed| match depth {
        Depth::Text => Ok(parsed),
        Depth::Files => match contents::denied(&parsed) {
            Some(why) => {
                report.warning(Diagnostic::of_file(path, format!("its files are not checked: {why}"), None));
                Ok(parsed)
            }
            None => contents::read(parsed, name, &layers, None),
        },
    });
    match parsed {
        Ok(mut parsed) => {
            parsed.warnings.drain(..).for_each(|warning| report.warning(warning));
            // A zone that there is not is told as the mistake that it is.
            if let Some(times) = parsed.unit.schedule.as_deref().and_then(|schedule| next_times(schedule, TIMES).ok()) {
                report.times.push(format!("{}: next {}", path.display(), times.join(", ")));
            }
            Some(parsed)
        }
        Err(errors) => {
            errors.into_iter().for_each(|error| report.error(error));
            None
        }
    }
}

/// Those that can be read; the others are reported.
fn drop_ins(name: &unit::UnitName, dirs: &[PathBuf], report: &mut Report) -> Vec<unit::LayerText> {
    let found = offline::drop_ins(name, dirs, &read);
    found.into_iter().filter_map(|drop_in| drop_in.map_err(|error| report.error(error)).ok()).collect()
}

fn read(path: &Path) -> Result<TrustedFile, ReadError> {
    read_any(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), TEXT_MAX as u64)
}

fn check_source(Place { file, line, column }: Place, unit: &Unit, report: &mut Report) {
    let at = |message: String| Diagnostic { line, column, ..Diagnostic::of_file(&file, message, None) };
    let facts = match source::find(&unit.source, None) {
        Ok(facts) => facts,
        Err(error) if error.is_denied() => return report.warning(at(format!("not checked: {error}"))),
        Err(error) => return report.error(at(error.to_string())),
    };
    let hidden = |text: String| unit.process.variables.hide(&text);
    // Down to the last step, as at a start: what the kernel or this version does not offer is named by its JSON path.
    match validate(unit, &facts) {
        Ok(warnings) => warnings.into_iter().for_each(|warning| report.warning(at(hidden(warning)))),
        Err(errors) => errors.iter().for_each(|error| match &error.file {
            Some(config) => report.error(of_config(config, error)),
            None => report.error(at(hidden(error.to_string()))),
        }),
    }
}

/// A mistake in config.json has its own place.
fn of_config(config: &Path, error: &SpecError) -> Diagnostic {
    let (line, column) = error.place.unwrap_or((1, 1));
    let message =
        if error.path.is_empty() { error.message.clone() } else { format!("{}: {}", error.path, error.message) };
    Diagnostic { line, column, ..Diagnostic::of_file(config, message, None) }
}

fn as_text(report: &Report, style: &Style) -> String {
    let mut out = String::new();
    for Finding { error, diagnostic } in &report.findings {
        let line = diagnostic.to_string();
        if *error {
            out.push_str(&line);
        } else {
            let place = line.len() - diagnostic_text(diagnostic).len();
            let (place, text) = line.split_at_checked(place).unwrap_or(("", &line));
            out.push_str(place);
            out.push_str(&style.paint(Colour::Yellow, "warning:"));
            out.push(' ');
            out.push_str(text);
        }
        out.push('\n');
    }
    report.times.iter().for_each(|line| out.extend([line, "\n"]));
    let errors = report.findings.iter().filter(|finding| finding.error).count();
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let files = plural(report.files, "unit file");
    match errors {
        0 => out.push_str(&format!("{files} checked, no errors\n")),
        _ => out.push_str(&format!("{files} checked, {}\n", plural(errors, "error"))),
    }
    out
}

/// What follows file:line:column in the diagnostic's text.
fn diagnostic_text(diagnostic: &Diagnostic) -> String {
    match &diagnostic.help {
        Some(help) => format!("{}, {help}", diagnostic.message),
        None => diagnostic.message.clone(),
    }
}

fn as_json(report: &Report) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Shown<'a> {
        file: String,
        line: u32,
        column: u32,
        severity: &'static str,
        message: &'a str,
        help: Option<&'a str>,
    }
    let shown = report.findings.iter().map(|Finding { error, diagnostic }| Shown {
        file: diagnostic.file.to_string_lossy().into_owned(),
        line: diagnostic.line,
        column: diagnostic.column,
        severity: if *error { "error" } else { "warning" },
        message: &diagnostic.message,
        help: diagnostic.help.as_deref(),
    });
    ask::json_line(&shown.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;

//! `moored check`: what `up` would say of unit files, without `up`.
//!
//! Texts are parsed one by one, and the sources that they name are looked at as far as this user can: a bundle's config.json, whether a
//! rootfs is a directory, whether an executable is one that can stand alone. What a source lacks is reported at the line that names it.
//! Who owns the files is not judged: somebody may check what is only to be installed later.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::settings::UNITS_DIRS;
use super::text::{Colour, Style};
use super::{Failure, ask, print};
use crate::supervise::validate;
use crate::unit::{self, Diagnostic, ELF_BYTES, Source, SourceFacts, TEXT_MAX, Unit};

/// Directory entries looked at; the supervisor takes no more units either.
const ENTRIES_MAX: usize = 100_000;

/// Largest config.json that is read.
const CONFIG_MAX: usize = unit::spec::CONFIG_MAX;

/// One thing to say about one place.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    error: bool,
    diagnostic: Diagnostic,
}

/// Everything found.
#[derive(Debug, Default)]
struct Report {
    files: usize,
    findings: Vec<Finding>,
}

impl Report {
    fn error(&mut self, diagnostic: Diagnostic) {
        self.findings.push(Finding { error: true, diagnostic });
    }

    fn warning(&mut self, diagnostic: Diagnostic) {
        self.findings.push(Finding { error: false, diagnostic });
    }

    fn of_file(&mut self, file: &Path, message: impl Into<String>) {
        self.error(Diagnostic::of_file(file, message, None));
    }
}

/// Checks files and directories (none: those that `up` reads), prints, and returns 1 if anything is invalid.
pub fn check(paths: &[PathBuf], json: bool) -> Result<u8, Failure> {
    let report = check_all(paths);
    let invalid = report.findings.iter().any(|finding| finding.error);
    print(&if json { as_json(&report)? } else { as_text(&report, &Style::of_stdout()) })?;
    Ok(u8::from(invalid))
}

fn check_all(paths: &[PathBuf]) -> Report {
    let mut report = Report::default();
    for path in paths {
        if path.is_dir() { check_dir(path, &mut report) } else { check_named(path, &mut report) }
    }
    if paths.is_empty() {
        UNITS_DIRS.iter().map(Path::new).filter(|dir| dir.exists()).for_each(|dir| check_dir(dir, &mut report));
    }
    report
}

fn check_dir(dir: &Path, report: &mut Report) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return report.of_file(dir, format!("cannot be listed: {error}")),
    };
    let mut names: Vec<_> = entries.take(ENTRIES_MAX).flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        match unit::file_stem_to_name(&name) {
            Ok(None) => {}
            Ok(Some(unit)) => check_file(&dir.join(&name), &unit, report),
            Err(error) => report.of_file(&dir.join(&name), error.to_string()),
        }
    }
}

/// A file given by hand: its name must be a unit's.
fn check_named(path: &Path, report: &mut Report) {
    match unit::file_stem_to_name(path.file_name().unwrap_or_default()) {
        Ok(Some(unit)) => check_file(path, &unit, report),
        Ok(None) if !path.exists() => report.of_file(path, "no such file or directory"),
        Ok(None) => report.of_file(path, "not a unit file's name: expected NAME.toml"),
        Err(error) => report.of_file(path, error.to_string()),
    }
}

fn check_file(path: &Path, name: &unit::UnitName, report: &mut Report) {
    // A link to /dev/null masks a unit of an earlier directory.
    if std::fs::canonicalize(path).is_ok_and(|real| real == Path::new("/dev/null")) {
        return;
    }
    report.files += 1;
    let bytes = match read_regular(path, TEXT_MAX) {
        Ok(bytes) => bytes,
        Err(message) => return report.of_file(path, message),
    };
    let text = match unit::text_of(path, &bytes) {
        Ok(text) => text,
        Err(diagnostic) => return report.error(diagnostic),
    };
    // Relative paths start from where the links lead, and facts are looked up by absolute ones.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let base = real.parent().unwrap_or(Path::new("/"));
    match unit::parse_from(name, path, base, text) {
        Ok(parsed) => {
            parsed.warnings.into_iter().for_each(|warning| report.warning(warning));
            check_source(path, text, &parsed.unit, report);
        }
        Err(errors) => errors.into_iter().for_each(|error| report.error(error)),
    }
}

/// The bytes of a regular file of at most so many, or why not, in words.
fn read_regular(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    // A device or FIFO is not opened at all: opening may already do something, or wait.
    let found = std::fs::metadata(path).map_err(cannot)?;
    if !found.is_file() {
        return Err(format!("{}, expected a regular file", kind_of(&found)));
    }
    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    let taken = file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if taken > limit {
        return Err(format!("{} bytes, expected at most {limit}", found.size()));
    }
    Ok(bytes)
}

fn kind_of(found: &std::fs::Metadata) -> &'static str {
    let kind = found.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_block_device() || kind.is_char_device() => "a device",
        () => "a file",
    }
}

fn check_source(file: &Path, text: &str, unit: &Unit, report: &mut Report) {
    let (key, source) = match &unit.source {
        Source::Bundle(path) => ("bundle", path),
        Source::Rootfs(path) => ("rootfs", path),
        Source::Executable(path) => ("executable", path),
    };
    let (line, column) = place_of(text, key);
    let at = |message: String| Diagnostic { line, column, ..Diagnostic::of_file(file, message, None) };
    let shown = source.display();
    let found = match std::fs::metadata(source) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return report.warning(at(format!("{key} {shown}: not checked: {error}")));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return report.error(at(format!("{key} {shown}: there is nothing of this name")));
        }
        Err(error) => return report.error(at(format!("{key} {shown}: {error}"))),
    };
    let is_executable = matches!(unit.source, Source::Executable(_));
    if is_executable && !found.is_file() {
        return report.error(at(format!("{key} {shown}: {}, expected a static executable", kind_of(&found))));
    }
    if !is_executable && !found.is_dir() {
        return report.error(at(format!("{key} {shown}: {}, expected a directory", kind_of(&found))));
    }
    let mut facts =
        SourceFacts { resolved: std::fs::canonicalize(source).unwrap_or(source.clone()), ..SourceFacts::default() };
    let looked = match &unit.source {
        Source::Executable(_) => check_executable(source, found.mode()).map(|()| None),
        Source::Bundle(_) => read_regular(&source.join("config.json"), CONFIG_MAX)
            .map(Some)
            .map_err(|message| format!("its config.json: {message}")),
        Source::Rootfs(_) => Ok(None),
    };
    match looked {
        Ok(config_json) => facts.config_json = config_json,
        Err(message) => return report.error(at(format!("{key} {shown}: {message}"))),
    }
    match unit::compile(unit, &facts) {
        // Down to the last step, as at a start: what the kernel or this version does not offer is named by its JSON path.
        Ok(_) => match validate(unit, &facts) {
            Ok(warnings) => warnings.into_iter().for_each(|warning| report.warning(at(warning))),
            Err(errors) => errors.into_iter().for_each(|error| report.error(at(error))),
        },
        Err(errors) => errors.iter().for_each(|error| match (&error.file, error.place) {
            (Some(_), _) => report.error(of_config(error)),
            (None, _) => report.error(at(error.to_string())),
        }),
    }
}

/// A mistake in config.json has its own place.
fn of_config(error: &unit::SpecError) -> Diagnostic {
    let file = error.file.as_deref().unwrap_or(Path::new("config.json"));
    let (line, column) = error.place.unwrap_or((1, 1));
    let message =
        if error.path.is_empty() { error.message.clone() } else { format!("{}: {}", error.path, error.message) };
    Diagnostic { line, column, ..Diagnostic::of_file(file, message, None) }
}

fn check_executable(path: &Path, mode: u32) -> Result<(), String> {
    if mode & 0o111 == 0 {
        return Err("not executable: chmod +x".into());
    }
    let mut first = Vec::new();
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(ELF_BYTES as u64).read_to_end(&mut first).map_err(|error| format!("cannot be read: {error}"))?;
    unit::check_executable(&first).map_err(|error| error.to_string())
}

/// Line and column, from 1, of a key of the top table. The text parsed, so a line that begins with the key and `=` is that; a multi-line
/// string or a table that looks alike would only move the message.
fn place_of(text: &str, key: &str) -> (u32, u32) {
    for (number, line) in (1u32..).zip(text.lines()) {
        let trimmed = line.trim_start();
        let bare = trimmed.trim_start_matches(['"', '\'']);
        let rest = bare.strip_prefix(key).map(|rest| rest.trim_start_matches(['"', '\'']).trim_start());
        if rest.is_some_and(|rest| rest.starts_with('=')) {
            let column = line.chars().count() - trimmed.chars().count() + 1;
            return (number, u32::try_from(column).unwrap_or(u32::MAX));
        }
    }
    (1, 1)
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

//! `moored check`: what `up` would say of unit files, without `up`.
//!
//! Texts are parsed one by one, and the sources that they name are looked at as far as this user can: a bundle's config.json, whether a
//! rootfs is a directory, whether an executable is one that can stand alone. What a source lacks is reported at the line that names it.
//! Who owns the files is not judged: somebody may check what is only to be installed later.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::settings::UNITS_DIRS;
use super::text::{Colour, Style};
use super::{Failure, ask, print};
use crate::supervise::{contents, source, validate};
use crate::unit::{self, Diagnostic, SpecError, TEXT_MAX, Unit};
use crate::watch::trusted::read_any;

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
            Ok(None) => drop(check_template(&dir.join(&name), report)),
            Ok(Some(unit)) => check_file(&dir.join(&name), &unit, report),
            Err(error) => report.of_file(&dir.join(&name), error.to_string()),
        }
    }
}

/// A file given by hand: its name must be a unit's.
fn check_named(path: &Path, report: &mut Report) {
    match unit::file_stem_to_name(path.file_name().unwrap_or_default()) {
        Ok(Some(unit)) => check_file(path, &unit, report),
        Ok(None) if check_template(path, report) => {}
        Ok(None) if !path.exists() => report.of_file(path, "does not exist: create it or correct the path"),
        Ok(None) => report.of_file(path, "not a unit file's name, expected NAME.toml: rename it"),
        Err(error) => report.of_file(path, error.to_string()),
    }
}

/// A template's text, as some instance; what it names depends on the instance and is not looked at. `false`: it is none.
fn check_template(path: &Path, report: &mut Report) -> bool {
    let Some(sample) = path.file_name().and_then(unit::template_sample) else { return false };
    drop(check_text(path, &sample, Depth::Text, report));
    true
}

fn check_file(path: &Path, name: &unit::UnitName, report: &mut Report) {
    if let Some(parsed) = check_text(path, name, Depth::Files, report) {
        check_source(path, parsed.source_at, &parsed.unit, report);
    }
}

/// The text alone; what it says if it is valid.
fn check_text(path: &Path, name: &unit::UnitName, depth: Depth, report: &mut Report) -> Option<unit::Parsed> {
    // A link to /dev/null masks a unit of an earlier directory.
    if std::fs::canonicalize(path).is_ok_and(|real| real == Path::new("/dev/null")) {
        return None;
    }
    report.files += 1;
    let bytes = read_unit(path).map_err(|message| report.of_file(path, message)).ok()?;
    let text = unit::text_of(path, &bytes).map_err(|diagnostic| report.error(diagnostic)).ok()?;
    // Relative paths start from where the links lead, and facts are looked up by absolute ones.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let base = real.parent().unwrap_or(Path::new("/"));
    let parsed = unit::parse_from(name, path, base, text).and_then(|parsed| match depth {
        Depth::Text => Ok(parsed),
        Depth::Files => match contents::denied(&parsed) {
            Some(why) => {
                report.warning(Diagnostic::of_file(path, format!("its files are not checked: {why}"), None));
                Ok(parsed)
            }
            None => contents::read(parsed, name, path, base, text, None),
        },
    });
    match parsed {
        Ok(mut parsed) => {
            parsed.warnings.drain(..).for_each(|warning| report.warning(warning));
            Some(parsed)
        }
        Err(errors) => {
            errors.into_iter().for_each(|error| report.error(error));
            None
        }
    }
}

/// A unit file's bytes, or why not, in words without its path.
fn read_unit(path: &Path) -> Result<Vec<u8>, String> {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    read_any(&whole, TEXT_MAX as u64).map(|file| file.bytes).map_err(|error| {
        let text = error.to_string();
        text.strip_prefix(&format!("{}: ", whole.display())).map(str::to_owned).unwrap_or(text)
    })
}

fn check_source(file: &Path, (line, column): (u32, u32), unit: &Unit, report: &mut Report) {
    let at = |message: String| Diagnostic { line, column, ..Diagnostic::of_file(file, message, None) };
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

//! A unit's text to a [`Unit`], or to all of its mistakes.
//!
//! The text is parsed with recovery, so that a slip in one line does not hide the mistakes of the others. What follows
//! from broken syntax is left out: on the line itself, below a table header that could not be read (its keys may have
//! gone to another table), and whatever is only missing.

use std::collections::BTreeSet;
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use super::diagnostic::{Diagnostic, Lines, one_line, quote};
use super::variable::Given;
use super::walk::{Table, Walk};
use super::{Unit, UnitName, Variables, sections};

/// Largest unit file, in bytes.
pub const TEXT_MAX: usize = 1024 * 1024;

/// Most tables and arrays: one costs some 2 KiB while it is read, so that 1 MiB of text could take half a gigabyte.
const BRACKETS_MAX: usize = 32 * 1024;

/// Above this many bytes only the first mistake of syntax is reported: every line could hold several.
const RECOVER_MAX: usize = 64 * 1024;

/// Most mistakes of syntax that are looked at.
const SYNTAX_MAX: usize = 20;

/// A unit, and what is allowed but probably not meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The unit.
    pub unit: Unit,
    /// In the order of the text.
    pub warnings: Vec<Diagnostic>,
    /// Line and column of the key that names the source: where to say what is wrong with it.
    pub source_at: (u32, u32),
    /// The same of each env file, in their order.
    pub env_files_at: Vec<(u32, u32)>,
    /// The same of the source of each config file.
    pub configs_at: Vec<(u32, u32)>,
}

/// Parses the unit `name` from the `text` of `file`. Relative paths start from `file`'s directory, so that they become
/// absolute if `file` is. All mistakes are returned, in the order of the text, each with its place in it.
pub fn parse(name: &UnitName, file: &Path, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    parse_from(name, file, file.parent().unwrap_or(Path::new("")), text)
}

/// The same where relative paths start elsewhere: `base` is the directory of the file that a link at `file` leads to.
///
/// If the unit has env files, which are not read yet, values that name variables are not judged, nor are they what will run.
pub fn parse_from(name: &UnitName, file: &Path, base: &Path, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    parse_given(name, file, base, text, Given::Unread)
}

/// The same with what its env files define.
pub fn parse_with(
    name: &UnitName,
    file: &Path,
    base: &Path,
    text: &str,
    variables: &Variables,
) -> Result<Parsed, Vec<Diagnostic>> {
    let mut parsed = parse_given(name, file, base, text, Given::Known(variables))?;
    if !parsed.unit.process.env_files.is_empty() {
        parsed.unit.process.variables = variables.clone();
    }
    Ok(parsed)
}

fn parse_given(name: &UnitName, file: &Path, base: &Path, text: &str, given: Given) -> Result<Parsed, Vec<Diagnostic>> {
    if text.len() > TEXT_MAX {
        let message = format!("the file has {} bytes, expected at most {TEXT_MAX} (1M)", text.len());
        return Err(vec![Diagnostic::of_file(file, message, None)]);
    }
    let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if brackets > BRACKETS_MAX {
        let message = format!("the file opens {brackets} brackets, expected at most {BRACKETS_MAX}");
        return Err(vec![Diagnostic::of_file(file, message, None)]);
    }
    let (document, syntax) = read(file, text);
    let mut walk = Walk::new(name, file, base, text, given);
    let top = walk.checked(Table { name: "", span: 0..0, map: document.get_ref() });
    let unit = sections::unit(&mut walk, name, &top);
    finish(walk, unit, syntax)
}

/// The text of a unit file from its bytes; the first byte that is not UTF-8 is the mistake.
pub fn text_of<'b>(file: &Path, bytes: &'b [u8]) -> Result<&'b str, Diagnostic> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or(bytes);
        let start = valid.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        let column = String::from_utf8_lossy(valid.get(start..).unwrap_or(&[])).chars().count() + 1;
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Diagnostic {
            line: number(line),
            column: number(column),
            ..Diagnostic::of_file(file, "a byte that is not UTF-8", Some("save the file as UTF-8"))
        }
    })
}

/// The document as far as it can be read, and the mistakes of its syntax.
fn read<'t>(file: &Path, text: &'t str) -> (Spanned<DeTable<'t>>, Vec<Diagnostic>) {
    let first = match DeTable::parse(text) {
        Ok(document) => return (document, Vec::new()),
        Err(first) => first,
    };
    let (document, errors) = if text.len() <= RECOVER_MAX {
        DeTable::parse_recoverable(text)
    } else {
        (Spanned::new(0..0, DeTable::new()), vec![first])
    };
    let lines = Lines::new(text);
    let mut seen = BTreeSet::new();
    let each = errors.iter().take(SYNTAX_MAX).map(|error| syntax_error(file, text, &lines, error));
    // One slip often gives several errors on its line; the first is the one that names it.
    (document, each.filter(|diagnostic| seen.insert(diagnostic.line)).collect())
}

fn syntax_error(file: &Path, text: &str, lines: &Lines, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    let (line, column) = lines.position(span.start);
    let mut message = one_line(error.message());
    let mut help = None;
    if message == "duplicate key" {
        message = format!("the key `{}` is there twice", quote(text.get(span).unwrap_or("")));
        help = Some("keep one of them");
    } else if message.starts_with("string values must be quoted") {
        message = format!("`{}` is not a TOML value", quote(text.get(span).unwrap_or("").trim_end()));
        help = Some("put a string into double quotes");
    } else if message.starts_with("invalid mantissa") {
        let value = lines.line(line).split_once('=').map_or("", |(_, value)| value.trim());
        message = format!("`{}` is not a TOML value", quote(value));
        help = Some("put a string into double quotes");
    } else if message.starts_with("cannot recurse further") {
        message = "brackets nested too deep, expected at most 80 levels".to_owned();
    } else if message.starts_with("invalid basic string") || message.starts_with("invalid literal string") {
        match text.get(span.start..).and_then(|rest| rest.chars().next()) {
            Some(c) if c.is_control() && !matches!(c, '\r' | '\n') => {
                message = format!("the control character {} in a string, expected visible ones", c.escape_default());
                help = Some("write an escape like \\t, or take it out");
            }
            Some('\r' | '\n') | None => help = Some("close the string on its line"),
            Some(_) => {}
        }
    } else if message.starts_with("key with no value") && lines.line(line).contains(':') {
        help = Some("TOML is written key = value");
    }
    Diagnostic { file: file.to_owned(), line, column, message, help: help.map(str::to_owned) }
}

/// Puts all mistakes together in the order of the text.
fn finish(mut walk: Walk, unit: Option<Unit>, syntax: Vec<Diagnostic>) -> Result<Parsed, Vec<Diagnostic>> {
    let left_out = walk.left_out();
    let mut errors = std::mem::take(&mut walk.errors);
    if syntax.is_empty() {
        errors.append(&mut walk.absent);
    } else {
        let broken: BTreeSet<u32> = syntax.iter().map(|d| d.line).collect();
        let is_header = |line: &&u32| {
            let text = walk.lines.line(**line).trim_start();
            !text.contains('=') || text.starts_with('[')
        };
        let lost_from = broken.iter().find(is_header).copied().unwrap_or(u32::MAX);
        errors.retain(|d| !broken.contains(&d.line) && d.line < lost_from);
        errors.extend(syntax);
    }
    errors.sort_by_key(|d| (d.line, d.column));
    errors.dedup();
    if left_out > 0
        && let Some(last) = errors.last().cloned()
    {
        errors.push(Diagnostic { message: format!("and {left_out} more mistakes"), help: None, ..last });
    }
    match unit {
        Some(unit) if errors.is_empty() => {
            walk.warnings.sort_by_key(|d| (d.line, d.column));
            Ok(Parsed {
                unit,
                warnings: walk.warnings,
                source_at: walk.source_at,
                env_files_at: walk.env_files_at,
                configs_at: walk.configs_at,
            })
        }
        _ => Err(errors),
    }
}

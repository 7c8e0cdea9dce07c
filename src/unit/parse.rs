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
use super::entry::is_template;
use super::layer::{Layer, LayerKind, Place, Placed, Places};
use super::overlay::{self, Document};
use super::specifier::Names;
use super::variable::Given;
use super::walk::{Table, Walk};
use super::{Unit, UnitName, Variables, replicas, sections};
use crate::compact;

/// Largest unit file, in bytes; all texts of a unit together have no more either.
pub const TEXT_MAX: usize = 1024 * 1024;

/// Most texts of a unit.
const LAYERS_MAX: usize = 256;

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
    /// The key that names the source: where to say what is wrong with it.
    pub source_at: Place,
    /// The same of each env file, in their order.
    pub env_files_at: Vec<Place>,
    /// Where the file of the system call filter is named.
    pub seccomp_at: Option<Place>,
    /// The same of the source of each config file.
    pub configs_at: Vec<Place>,
    /// The same of the address of each socket.
    pub sockets_at: Vec<Place>,
}

/// Parses the unit `name` from the `text` of `file`. Relative paths start from `file`'s directory, so that they become
/// absolute if `file` is. All mistakes are returned, in the order of the text, each with its place in it. The host is called localhost.
pub fn parse(name: &UnitName, file: &Path, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    parse_from(name, file, file.parent().unwrap_or(Path::new("")), text)
}

/// The same where relative paths start elsewhere: `base` is the directory of the file that a link at `file` leads to.
///
/// If the unit has env files, which are not read yet, values that name variables are not judged, nor are they what will run.
pub fn parse_from(name: &UnitName, file: &Path, base: &Path, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let is_template = is_template(file, file);
    parse_layers(Names::of(name), &[Layer { kind: LayerKind::Main, file, base, text, is_template }])
}

/// The unit that several texts make together, later ones winning. Mistakes are in the order of the unit's own text and then of the others.
/// Its env files are not read, as in [`parse_from`].
pub fn parse_layers(names: Names, layers: &[Layer]) -> Result<Parsed, Vec<Diagnostic>> {
    parse_given(names, layers, Given::Unread)
}

/// The same with what its env files define.
pub fn parse_with(names: Names, layers: &[Layer], variables: &Variables) -> Result<Parsed, Vec<Diagnostic>> {
    let mut parsed = parse_given(names, layers, Given::Known(variables))?;
    if !parsed.unit.process.env_files.is_empty() {
        parsed.unit.process.variables = variables.clone();
        parsed.unit.share_files();
    }
    Ok(parsed)
}

fn parse_given(names: Names, layers: &[Layer], given: Given) -> Result<Parsed, Vec<Diagnostic>> {
    let parse = |unit: &UnitName, of_replica: bool| {
        with_document(Names { unit, ..names }, layers, given, |walk, document, syntax| {
            walk.of_replica = of_replica;
            let top = walk.checked(Table { name: "", span: 0..0, map: document });
            // Read as that of a replica, and it is none: it is read as what it is.
            let is_plain = of_replica && top.field("replicas").is_none();
            let unit = if is_plain { None } else { sections::unit(walk, unit, &top) };
            if is_plain { Ok(None) } else { finish(walk, unit, syntax).map(Some) }
        })
    };
    // What is not there was read as that of a replica, which these are not.
    let plain = || parse(names.unit, false).and_then(|parsed| parsed.ok_or_else(Vec::new));
    if names.unit.instance().is_some() || !replicas::may_be_said(layers) {
        return plain();
    }
    match parse(&replicas::replica_name(names.unit, 1), true)? {
        None => plain(),
        Some(first) => {
            let other = |name: &UnitName| parse(name, true).and_then(|parsed| parsed.ok_or_else(Vec::new));
            replicas::together(names.unit, first, other)
        }
    }
}

/// What is wrong with texts that are only a part of a unit; what they lack is not missed.
pub fn mistakes_of_part(names: Names, layers: &[Layer]) -> Vec<Diagnostic> {
    let may_be_replica = names.unit.instance().is_none() && replicas::may_be_said(layers);
    let replica = may_be_replica.then(|| replicas::replica_name(names.unit, 1));
    let names = Names { unit: replica.as_ref().unwrap_or(names.unit), ..names };
    let found = with_document(names, layers, Given::Unread, |walk, document, syntax| {
        let top = walk.checked(Table { name: "", span: 0..0, map: document });
        walk.of_replica = may_be_replica || names.unit.instance().is_none();
        sections::unit(walk, names.unit, &top);
        walk.absent.clear();
        let errors = mistakes(walk, syntax);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    });
    found.err().unwrap_or_default()
}

/// Reads and merges the texts, and hands on the document with what is wrong with their syntax.
pub(crate) fn with_document<T>(
    names: Names,
    layers: &[Layer],
    given: Given,
    then: impl FnOnce(&mut Walk, &DeTable, Vec<Diagnostic>) -> Result<T, Vec<Diagnostic>>,
) -> Result<T, Vec<Diagnostic>> {
    check_size(layers)?;
    let mut walk = Walk::new(names, Places::new(layers), given);
    let mut syntax = Vec::new();
    let mut documents = Vec::with_capacity(layers.len());
    for layer in layers {
        let (document, mistakes) = read(layer.file, layer.text);
        syntax.extend(mistakes);
        let start = walk.places.texts().iter().find(|placed| placed.layer.file == layer.file).map_or(0, |at| at.start);
        let table = match layer.kind {
            LayerKind::Defaults => overlay::defaults(document.into_inner()),
            LayerKind::Main | LayerKind::DropIn => document.into_inner(),
        };
        documents.push(Document { kind: layer.kind, table: overlay::shifted(table, start) });
    }
    let document = overlay::merged(&mut walk, names, documents);
    then(&mut walk, &document, syntax)
}

fn check_size(layers: &[Layer]) -> Result<(), Vec<Diagnostic>> {
    let refuse = |layer: &Layer, message| Err(vec![Diagnostic::of_file(layer.file, message, None)]);
    let (mut bytes, mut brackets) = (0usize, 0usize);
    for (n, layer) in layers.iter().enumerate() {
        let here = layer.text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
        let so_far = if n == 0 { "" } else { ", with those before it" };
        (bytes, brackets) = (bytes.saturating_add(layer.text.len()), brackets.saturating_add(here));
        if bytes > TEXT_MAX {
            return refuse(layer, format!("the file has {bytes} bytes{so_far}, expected at most {TEXT_MAX} (1M)"));
        }
        if brackets > BRACKETS_MAX {
            return refuse(
                layer,
                format!("the file opens {brackets} brackets{so_far}, expected at most {BRACKETS_MAX}"),
            );
        }
        if n >= LAYERS_MAX {
            return refuse(layer, format!("the unit has {} texts, expected at most {LAYERS_MAX}", layers.len()));
        }
    }
    Ok(())
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

/// Puts all mistakes together in the order of the texts.
fn finish(walk: &mut Walk, unit: Option<Unit>, syntax: Vec<Diagnostic>) -> Result<Parsed, Vec<Diagnostic>> {
    let errors = mistakes(walk, syntax);
    match unit {
        Some(unit) if errors.is_empty() => {
            let mut warnings = std::mem::take(&mut walk.warnings);
            sort(walk, &mut warnings);
            let positions = |offsets: &[usize]| offsets.iter().map(|at| walk.places.position(*at)).collect();
            Ok(Parsed {
                unit,
                warnings,
                source_at: walk.places.position(walk.source_at),
                env_files_at: positions(&walk.env_files_at),
                configs_at: positions(&walk.configs_at),
                seccomp_at: walk.seccomp_at.map(|at| walk.places.position(at)),
                sockets_at: positions(&walk.sockets_at),
            })
        }
        _ => Err(errors),
    }
}

/// All mistakes that were noted; what follows from broken syntax is left out.
pub(crate) fn mistakes(walk: &mut Walk, syntax: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let left_out = walk.left_out();
    let mut errors = std::mem::take(&mut walk.errors);
    if syntax.is_empty() {
        errors.append(&mut walk.absent);
    } else {
        for placed in walk.places.texts() {
            leave_out_what_follows(placed, &syntax, &mut errors);
        }
        errors.extend(syntax);
    }
    sort(walk, &mut errors);
    errors.dedup();
    if left_out > 0
        && let Some(last) = errors.last().cloned()
    {
        errors.push(Diagnostic { message: format!("and {left_out} more mistakes"), help: None, ..last });
    }
    errors
}

/// Of one text: what is on a broken line, or below a table header that could not be read.
fn leave_out_what_follows(placed: &Placed, syntax: &[Diagnostic], errors: &mut Vec<Diagnostic>) {
    let file = placed.layer.file;
    let broken = compact::set(syntax.iter().filter(|d| d.file == file).map(|d| d.line));
    let is_header = |line: &&u32| {
        let text = placed.lines.line(**line).trim_start();
        !text.contains('=') || text.starts_with('[')
    };
    let lost_from = broken.iter().find(is_header).copied().unwrap_or(u32::MAX);
    errors.retain(|d| d.file != file || !broken.contains(&d.line) && d.line < lost_from);
}

fn sort(walk: &Walk, diagnostics: &mut [Diagnostic]) {
    compact::sort_by_key(diagnostics, |d| (walk.places.rank(&d.file), d.line, d.column));
}

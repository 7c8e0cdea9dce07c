//! Walking a parsed TOML document: typed access to tables and values, which notes every mistake and goes on.
//!
//! A getter returns `None` both for an absent key and for a bad value; the bad one has left a [`Diagnostic`], so the
//! default that takes its place is never seen.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, quote};
use super::layer::{Place, Places};
use super::quantity::{self, Bad};
use super::specifier::{self, Names};
use super::variable::Given;
use super::{UnitName, path, schema};
use crate::words::nearest;

/// More mistakes than a person reads at once; what is left out is counted.
const ERRORS_MAX: usize = 100;

/// Longest string: the kernel's MAX_ARG_STRLEN, less its NUL.
pub(super) const STRING_MAX: usize = 131_071;

/// Longest list of strings or tables.
const LIST_MAX: usize = 1024;

/// A value with its place.
pub(crate) type Value<'w> = Spanned<DeValue<'w>>;

/// One table of the document.
#[derive(Clone)]
pub(crate) struct Table<'w> {
    /// Its name in the schema: "", "process", "restart.limit".
    pub(crate) name: &'static str,
    pub(crate) span: Range<usize>,
    pub(crate) map: &'w DeTable<'w>,
}

/// One key that is there, with its value.
#[derive(Clone)]
pub(crate) struct Field<'w> {
    /// As messages call it: `stop.timeout`.
    pub(crate) name: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) value: &'w Value<'w>,
}

impl<'w> Table<'w> {
    pub(crate) fn field(&self, key: &str) -> Option<Field<'w>> {
        let (found, value) = self.map.get_key_value(key)?;
        let name = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        Some(Field { name, key_span: found.span(), value })
    }

    /// Whether the schema has every key of it.
    pub(crate) fn is_regular(&self) -> bool {
        self.map.keys().all(|key| key.get_ref().starts_with("x-") || schema::is_key(self.name, key.get_ref()))
    }
}

impl Field<'_> {
    pub(crate) fn at(&self) -> Range<usize> {
        self.value.span()
    }
}

/// The mistakes found so far, and what is needed to place them.
pub(crate) struct Walk<'t> {
    /// What the specifiers stand for.
    names: Names<'t>,
    /// Which texts the spans are of.
    pub(crate) places: Places<'t>,
    pub(crate) errors: Vec<Diagnostic>,
    /// Of what is not there; they mean nothing where the syntax is broken.
    pub(crate) absent: Vec<Diagnostic>,
    pub(crate) warnings: Vec<Diagnostic>,
    /// A key that names a source stands in a wrong place or is not built: "no source" would be noise.
    pub(crate) source_misplaced: bool,
    /// The offset of the source's key.
    pub(crate) source_at: usize,
    /// The same of each env file.
    pub(crate) env_files_at: Vec<usize>,
    /// The same of the source of each config file.
    pub(crate) configs_at: Vec<usize>,
    /// The same of the file of the system call filter.
    pub(crate) seccomp_at: Option<usize>,
    /// Where each socket is to listen, the same.
    pub(crate) sockets_at: Vec<usize>,
    /// What `${…}` stands for.
    pub(crate) variables: Given<'t>,
    /// `[oci]` names variables that are not known yet.
    pub(crate) oci_unread: bool,
    /// Settings into which variables were put.
    pub(crate) hidden: BTreeSet<String>,
    /// Units that a template lists.
    pub(crate) instances: BTreeSet<UnitName>,
    /// The text is read as that of a replica.
    pub(crate) of_replica: bool,
    left_out: usize,
}

impl<'t> Walk<'t> {
    pub(crate) fn new(names: Names<'t>, places: Places<'t>, variables: Given<'t>) -> Self {
        Walk {
            names,
            places,
            errors: Vec::new(),
            absent: Vec::new(),
            warnings: Vec::new(),
            source_misplaced: false,
            source_at: 0,
            env_files_at: Vec::new(),
            configs_at: Vec::new(),
            seccomp_at: None,
            sockets_at: Vec::new(),
            variables,
            oci_unread: false,
            hidden: BTreeSet::new(),
            instances: BTreeSet::new(),
            of_replica: false,
            left_out: 0,
        }
    }

    pub(crate) fn diagnostic(&self, at: &Range<usize>, message: String, help: Option<String>) -> Diagnostic {
        let Place { file, line, column } = self.places.position(at.start);
        Diagnostic { file, line, column, message, help }
    }

    pub(crate) fn error(&mut self, at: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        if self.errors.len() >= ERRORS_MAX {
            self.left_out += 1;
            return;
        }
        self.errors.push(self.diagnostic(at, message.into(), help));
    }

    pub(crate) fn absent(&mut self, at: &Range<usize>, message: &str, help: Option<&str>) {
        self.absent.push(self.diagnostic(at, message.to_owned(), help.map(str::to_owned)));
    }

    pub(crate) fn warn(&mut self, at: &Range<usize>, message: &str, help: Option<&str>) {
        self.warnings.push(self.diagnostic(at, message.to_owned(), help.map(str::to_owned)));
    }

    /// How many mistakes were not kept.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Notes that a value is not what was expected.
    pub(crate) fn mismatch(&mut self, field: &Field, expected: &str, help: Option<String>) {
        let message = format!("`{}` is {}, expected {expected}", field.name, found(field.value.get_ref()));
        self.error(&field.at(), message, help);
    }

    // --- tables -----------------------------------------------------------------------------------------------

    /// The table at a key, its own keys checked against the schema.
    pub(crate) fn table<'w>(&mut self, parent: &Table<'w>, key: &str, name: &'static str) -> Option<Table<'w>> {
        let field = parent.field(key)?;
        match field.value.get_ref() {
            DeValue::Table(map) => Some(self.checked(Table { name, span: field.key_span, map })),
            DeValue::Array(_) => {
                let help = format!("write {} once, with single brackets", schema::header(name));
                self.mismatch(&field, "one table", Some(help));
                None
            }
            value => {
                let first = table_hint(name, value);
                self.mismatch(&field, "a table", first);
                None
            }
        }
    }

    /// The tables of an array of tables that were looked at before.
    pub(crate) fn quiet_tables<'w>(&self, parent: &Table<'w>, name: &'static str) -> Vec<Table<'w>> {
        let items = parent.field(name).and_then(|field| field.value.get_ref().as_array());
        let table = |item: &'w Value<'w>| match item.get_ref() {
            DeValue::Table(map) => Some(Table { name, span: item.span(), map }),
            _ => None,
        };
        items.into_iter().flat_map(|items| items.iter()).filter_map(table).collect()
    }

    /// The tables of an array of tables.
    pub(crate) fn tables<'w>(&mut self, parent: &Table<'w>, name: &'static str) -> Vec<Table<'w>> {
        let Some(field) = parent.field(name) else { return Vec::new() };
        let help = Some(format!("write {}", schema::header(name)));
        let Some(items) = field.value.get_ref().as_array() else {
            self.mismatch(&field, "an array of tables", help);
            return Vec::new();
        };
        if items.len() > LIST_MAX {
            let message = format!("`{name}` has {} tables, expected at most {LIST_MAX}", items.len());
            self.error(&field.at(), message, None);
            return Vec::new();
        }
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(map) => tables.push(self.checked(Table { name, span: item.span(), map })),
                _ => self.mismatch(&Field { value: item, ..field.clone() }, "a table", help.clone()),
            }
        }
        tables
    }

    /// Reports every key of a table that the schema does not have.
    pub(crate) fn checked<'w>(&mut self, table: Table<'w>) -> Table<'w> {
        for key in table.map.keys() {
            let word: &str = key.get_ref();
            if word.starts_with("x-") || schema::is_key(table.name, word) {
                continue;
            }
            self.source_misplaced |= matches!(word, "bundle" | "rootfs" | "layers" | "executable" | "image");
            if let Some(help) = schema::later(table.name, word) {
                let message = format!("`{}` is known but not built in this version", quote(word));
                self.error(&key.span(), message, help.map(str::to_owned));
                continue;
            }
            self.error(&key.span(), format!("unknown key `{}`", quote(word)), schema::suggest(table.name, word));
        }
        table
    }

    // --- values -----------------------------------------------------------------------------------------------

    pub(crate) fn boolean(&mut self, field: Option<Field>) -> Option<bool> {
        let field = field?;
        if let DeValue::Boolean(value) = field.value.get_ref() {
            return Some(*value);
        }
        let word = field.value.get_ref().as_str().unwrap_or("").to_ascii_lowercase();
        let help = match word.as_str() {
            "true" | "yes" | "on" | "1" => Some("write true, without quotes".to_owned()),
            "false" | "no" | "off" | "0" => Some("write false, without quotes".to_owned()),
            _ => None,
        };
        self.mismatch(&field, "true or false", help);
        None
    }

    /// A string as it stands, for words with a fixed meaning.
    pub(crate) fn word<'w>(&mut self, field: &Field<'w>, expected: &str) -> Option<&'w str> {
        let DeValue::String(text) = field.value.get_ref() else {
            let help = match field.value.get_ref() {
                DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
                    Some(format!("write \"{}\"", scalar(field.value.get_ref()).unwrap_or_default()))
                }
                _ => None,
            };
            self.mismatch(field, expected, help);
            return None;
        };
        if text.contains('\0') {
            self.mismatch(field, &format!("{expected} without NUL"), None);
            return None;
        }
        if text.len() > STRING_MAX {
            let message = format!("`{}` has {} bytes, expected at most {STRING_MAX}", field.name, text.len());
            self.error(&field.at(), message, None);
            return None;
        }
        Some(text)
    }

    /// A string with its specifiers expanded.
    pub(crate) fn text(&mut self, field: &Field, expected: &str) -> Option<String> {
        self.expanded(field, expected, self.names.unit.as_str())
    }

    /// The same with a spelling of its own for `%n`.
    pub(crate) fn expanded(&mut self, field: &Field, expected: &str, whole: &str) -> Option<String> {
        let text = self.word(field, expected)?;
        match specifier::expand(text, self.names, whole) {
            Ok(text) if text.len() <= STRING_MAX => Some(text),
            Ok(text) => {
                let message =
                    format!("`{}` has {} bytes when expanded, expected at most {STRING_MAX}", field.name, text.len());
                self.error(&field.at(), message, None);
                None
            }
            Err(bad) => {
                let help = Some(bad.cure());
                self.error(&field.at(), format!("`{}` holds {bad}", field.name), help);
                None
            }
        }
    }

    pub(crate) fn items<'w>(&mut self, field: &Field<'w>) -> Option<Vec<&'w Value<'w>>> {
        let Some(items) = field.value.get_ref().as_array() else {
            let help = field.value.get_ref().as_str().map(|text| {
                let words: Vec<String> = text.split_whitespace().take(8).map(|w| format!("{:?}", quote(w))).collect();
                format!("write [{}]", words.join(", "))
            });
            self.mismatch(field, "an array of strings", help);
            return None;
        };
        if items.len() > LIST_MAX {
            let message = format!("`{}` has {} items, expected at most {LIST_MAX}", field.name, items.len());
            self.error(&field.at(), message, None);
            return None;
        }
        Some(items.iter().collect())
    }

    /// One of some words, with what it stands for. `hints` are words of others for the same.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        field: Option<Field>,
        words: &[(&str, T)],
        hints: &[(&str, &str)],
    ) -> Option<T> {
        let field = field?;
        let expected = list(words.iter().map(|(word, _)| *word));
        let word = self.word(&field, &expected)?;
        if let Some((_, value)) = words.iter().find(|(known, _)| *known == word) {
            return Some(*value);
        }
        let plain = word.to_ascii_lowercase().replace('_', "-");
        let hint = hints.iter().find(|(other, _)| *other == plain).map(|(_, ours)| *ours);
        let meant = hint.or_else(|| nearest(&plain, words.iter().map(|(known, _)| *known)));
        self.mismatch(&field, &expected, meant.map(|word| format!("did you mean \"{word}\"?")));
        None
    }

    pub(crate) fn integer(&mut self, field: Option<Field>, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let field = field?;
        let value = match field.value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        if let Some(value) = value.filter(|value| range.contains(value)) {
            return Some(value);
        }
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let quoted =
            field.value.get_ref().as_str().filter(digits).map(|text| format!("write {}, without quotes", quote(text)));
        self.mismatch(&field, &format!("a whole number from {} to {}", range.start(), range.end()), quoted);
        None
    }

    pub(crate) fn duration(&mut self, field: Option<Field>, least: Duration) -> Option<Duration> {
        let field = field?;
        const EXPECTED: &str = "a duration like \"250ms\" or \"1m30s\"";
        let bad = match field.value.get_ref() {
            DeValue::String(text) => match quantity::duration(text) {
                Ok(duration) if duration >= least => return Some(duration),
                Ok(_) => {
                    self.mismatch(&field, &format!("at least \"{}\"", quantity::show_duration(least)), None);
                    return None;
                }
                Err(bad) => bad,
            },
            DeValue::Integer(number) => match number.as_str().parse::<u32>() {
                Ok(n) if number.radix() == 10 => Bad::Form(Some(format!("{n}s"))),
                _ => Bad::Form(None),
            },
            _ => Bad::Form(None),
        };
        match bad {
            Bad::Form(cure) => self.mismatch(&field, EXPECTED, cure.map(|cure| format!("did you mean \"{cure}\"?"))),
            Bad::TooLarge => self.mismatch(&field, "at most \"3650d\"", None),
        }
        None
    }

    /// Bytes, written "256M" or as a plain number.
    pub(crate) fn size(&mut self, field: Option<Field>, least: u64) -> Option<u64> {
        let field = field?;
        const EXPECTED: &str = "a size like \"256M\" or a number of bytes";
        let read = match field.value.get_ref() {
            DeValue::String(text) => quantity::size(text),
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(n) if n < 0 => Err(Bad::Form(None)),
                Ok(n) => u64::try_from(n).ok().filter(|n| *n <= quantity::SIZE_MAX).ok_or(Bad::TooLarge),
                Err(_) => Err(Bad::TooLarge),
            },
            _ => Err(Bad::Form(None)),
        };
        match read {
            Ok(bytes) if bytes >= least => return Some(bytes),
            Ok(bytes) => {
                let help = (bytes > 0).then(|| format!("did you mean \"{bytes}M\"? A bare number is bytes"));
                let bare = matches!(field.value.get_ref(), DeValue::Integer(_));
                let expected = format!("at least \"{}\"", quantity::show_size(least));
                self.mismatch(&field, &expected, help.filter(|_| bare));
            }
            Err(Bad::Form(cure)) => {
                self.mismatch(&field, EXPECTED, cure.map(|cure| format!("did you mean \"{cure}\"?")))
            }
            Err(Bad::TooLarge) => self.mismatch(&field, "at most 8 EiB", None),
        }
        None
    }

    /// A path of the host's: absolute in the result.
    pub(crate) fn host_path(&mut self, field: Option<Field>) -> Option<PathBuf> {
        let field = field?;
        let text = self.text(&field, "a path")?;
        self.host_path_of(&field, &text)
    }

    /// `text`, which stands at `field`, as such a path.
    pub(crate) fn host_path_of(&mut self, field: &Field, text: &str) -> Option<PathBuf> {
        if text.is_empty() || text.len() > path::PATH_MAX {
            self.mismatch(field, &format!("a path of 1 to {} bytes", path::PATH_MAX), None);
            return None;
        }
        if text.starts_with('~') || text.starts_with('$') {
            let help = "write the path out: `~` and variables are not expanded, `./` in front takes them literally";
            self.mismatch(field, "a path", Some(help.to_owned()));
            return None;
        }
        Some(path::absolute(self.places.base(field.at().start), text))
    }

    /// A path inside the container.
    pub(crate) fn inside_path(&mut self, field: &Field) -> Option<String> {
        let text = self.text(field, "an absolute path")?;
        self.inside(field, &text)
    }

    /// `text`, which stands at `field`, as such a path.
    pub(crate) fn inside(&mut self, field: &Field, text: &str) -> Option<String> {
        if text.len() > path::PATH_MAX {
            self.mismatch(field, &format!("a path of at most {} bytes", path::PATH_MAX), None);
            return None;
        }
        match path::inside(text) {
            Ok(tidy) => return Some(tidy),
            Err(path::BadInside::Relative) => {
                let shown = self.hide(text.trim_start_matches("./"));
                let help = (!text.is_empty()).then(|| format!("write \"/{}\"", quote(&shown)));
                self.mismatch(field, "an absolute path inside the container", help);
            }
            Err(path::BadInside::Dots) => self.mismatch(field, "a path without `..`", None),
        }
        None
    }
}

/// `"a", "b" or "c"`.
fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.join(""),
    }
}

/// A value as a message names it.
pub(crate) fn found(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{}\"", quote(text)),
        DeValue::Integer(number) => format!("the integer {}", quote(&number.to_string())),
        DeValue::Float(number) => format!("the float {}", quote(number.as_str())),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(date) => format!("the date {date}"),
        DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => "an array of tables".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Numbers and booleans as the strings that they become in an environment; `None` for anything else.
pub(crate) fn scalar(value: &DeValue) -> Option<String> {
    match value {
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::String(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// For somebody who gave a table's main key as the table: `restart = "always"`.
fn table_hint(name: &str, value: &DeValue) -> Option<String> {
    let main = match name {
        "restart" => "policy",
        "network" => "mode",
        "stop" | "reload" => "signal",
        "hooks" => return Some("write [hooks.pre_start] and exec = [\"/bin/program\"]".to_owned()),
        "restart.limit" => return Some("write { burst = 5, interval = \"1m\" }".to_owned()),
        _ => return None,
    };
    value.as_str().map(|text| format!("write {name}.{main} = \"{}\"", quote(text)))
}

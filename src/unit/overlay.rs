//! Merging the documents of a unit's texts: what a later one says wins.
//!
//! - Tables merge key by key; a value, or an array of values, takes the place of the earlier one.
//! - Arrays of tables merge by the key that names their tables ([`NAMED_BY`]): a `[[mount]]` with a known `target` merges into that one,
//!   any other is added.
//! - Of keys that exclude each other ([`ALTERNATIVES`]) a later text's takes the place of an earlier one's: `bundle` over `rootfs`.
//! - `depends_on.db = "completed"` stands for `{ state = "completed" }` where a table comes over it.
//! - `unset` of a drop-in takes away from what is below it, then the drop-in's own keys are merged.
//!
//! Every key and value keeps the place that it came from; nothing is judged here but `unset`.

use std::borrow::Cow;
use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::diagnostic::quote;
use super::layer::LayerKind;
use super::socket::Listen;
use super::specifier::{self, Names};
use super::walk::{Field, Walk};
use super::{path, schema};

/// Arrays of tables, with the key that names each of their tables.
pub(crate) const NAMED_BY: [(&str, &str); 5] =
    [("mount", "target"), ("device", "path"), ("config", "target"), ("secret", "target"), ("socket", "listen")];

/// Of these keys of a table there is one at most. The star is any name.
pub(crate) const ALTERNATIVES: [(&str, &[&str]); 3] = [
    ("", &["bundle", "rootfs", "layers", "executable"]),
    ("reload", &["signal", "exec"]),
    ("health.*", &["exec", "http", "tcp", "file"]),
];

/// Longest path in `unset`: that of a mount's target, and some keys.
const UNSET_MAX: usize = 2 * path::PATH_MAX;

type Key<'t> = Spanned<Cow<'t, str>>;
type Value<'t> = Spanned<DeValue<'t>>;

/// One text's document, its spans already in the common range.
pub(crate) struct Document<'t> {
    pub(crate) kind: LayerKind,
    pub(crate) table: DeTable<'t>,
}

/// All documents as one, in the order in which later ones win.
pub(crate) fn merged<'t>(walk: &mut Walk, names: Names, documents: Vec<Document<'t>>) -> DeTable<'t> {
    let mut documents = documents.into_iter().peekable();
    // Below drop-ins that are looked at alone there is nothing.
    let lowest = documents.next_if(|document| document.kind != LayerKind::DropIn);
    let mut table = lowest.map_or_else(DeTable::new, |document| document.table);
    for Document { kind, table: mut above } in documents {
        if kind == LayerKind::DropIn {
            unset(walk, names, &mut table, &mut above);
        }
        merge(names, "", &mut table, above);
    }
    table
}

/// What moored.toml says for every unit.
pub(crate) fn defaults(mut document: DeTable<'_>) -> DeTable<'_> {
    match document.remove("defaults").map(Spanned::into_inner) {
        Some(DeValue::Table(table)) => table,
        Some(_) | None => DeTable::new(),
    }
}

/// Moves every span of a document by the offset of its text.
pub(crate) fn shifted(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    if by == 0 {
        return table;
    }
    table.into_iter().map(|(key, value)| (moved(key, by), moved_value(value, by))).collect()
}

fn moved<T>(spanned: Spanned<T>, by: usize) -> Spanned<T> {
    let span = spanned.span();
    Spanned::new(span.start.saturating_add(by)..span.end.saturating_add(by), spanned.into_inner())
}

/// As deep as TOML nests: 80 levels.
fn moved_value(value: Value<'_>, by: usize) -> Value<'_> {
    let value = moved(value, by);
    let span = value.span();
    let inner = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shifted(table, by)),
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(|item| moved_value(item, by)).collect()),
        plain => plain,
    };
    Spanned::new(span, inner)
}

// --- merge --------------------------------------------------------------------------------------------------------

/// `at` is the table's dotted name.
fn merge<'t>(names: Names, at: &str, below: &mut DeTable<'t>, above: DeTable<'t>) {
    drop_alternatives(at, below, &above);
    for (key, value) in above {
        let (key, value) = match below.remove_entry(key.get_ref().as_ref()) {
            Some(earlier) => over(names, at, earlier, (key, value)),
            None => (key, value),
        };
        below.insert(key, value);
    }
}

/// What becomes of a key that is there twice.
fn over<'t>(names: Names, at: &str, below: (Key<'t>, Value<'t>), above: (Key<'t>, Value<'t>)) -> (Key<'t>, Value<'t>) {
    let here = joined(at, above.0.get_ref());
    let (span, above_span) = (below.1.span(), above.1.span());
    match (below.1.into_inner(), above.1.into_inner()) {
        (DeValue::Table(mut earlier), DeValue::Table(later)) => {
            merge(names, &here, &mut earlier, later);
            (below.0, Spanned::new(span, DeValue::Table(earlier)))
        }
        (DeValue::String(state), DeValue::Table(later)) if at == "depends_on" => {
            let key = Spanned::new(below.0.span(), Cow::Borrowed("state"));
            let mut earlier: DeTable =
                [(key, Spanned::new(span.clone(), DeValue::String(state)))].into_iter().collect();
            merge(names, &here, &mut earlier, later);
            (below.0, Spanned::new(span, DeValue::Table(earlier)))
        }
        (DeValue::Array(earlier), DeValue::Array(later)) if named_by(&here).is_some() => {
            let merged = merge_named(names, &here, earlier, later);
            (below.0, Spanned::new(span, DeValue::Array(merged)))
        }
        (_, later) => (above.0, Spanned::new(above_span, later)),
    }
}

fn drop_alternatives(at: &str, below: &mut DeTable, above: &DeTable) {
    let Some((_, keys)) = ALTERNATIVES.iter().find(|(table, _)| is_at(at, table)) else { return };
    if keys.iter().any(|key| above.contains_key(*key)) {
        for key in keys.iter().filter(|key| !above.contains_key(**key)) {
            below.remove(*key);
        }
    }
}

fn is_at(at: &str, pattern: &str) -> bool {
    match pattern.strip_suffix(".*") {
        Some(parent) => at.rsplit_once('.').is_some_and(|(above, _)| above == parent),
        None => at == pattern,
    }
}

/// Two tables of one name in one text stay two: that is a mistake of its own.
fn merge_named<'t>(names: Names, at: &str, below: DeArray<'t>, above: DeArray<'t>) -> DeArray<'t> {
    let mut items: Vec<Option<Value<'t>>> = below.into_iter().map(Some).collect();
    let named = items.iter().enumerate().filter_map(|(n, item)| Some((identity(names, at, item.as_ref()?)?, n)));
    let mut known: HashMap<String, usize> = named.collect();
    for item in above {
        let place = identity(names, at, &item).and_then(|identity| known.remove(&identity));
        let earlier = place.and_then(|n| Some((n, items.get_mut(n)?.take()?)));
        match earlier {
            Some((n, earlier)) => {
                let merged = over_table(names, at, earlier, item);
                if let Some(slot) = items.get_mut(n) {
                    *slot = Some(merged);
                }
            }
            None => items.push(Some(item)),
        }
    }
    items.into_iter().flatten().collect()
}

fn over_table<'t>(names: Names, at: &str, below: Value<'t>, above: Value<'t>) -> Value<'t> {
    let (span, above_span) = (below.span(), above.span());
    match (below.into_inner(), above.into_inner()) {
        (DeValue::Table(mut earlier), DeValue::Table(later)) => {
            merge(names, &joined(at, "*"), &mut earlier, later);
            Spanned::new(span, DeValue::Table(earlier))
        }
        (_, later) => Spanned::new(above_span, later),
    }
}

/// By what a table of an array is known; `None`: by nothing.
pub(crate) fn identity(names: Names, at: &str, item: &Value) -> Option<String> {
    let DeValue::Table(table) = item.get_ref() else { return None };
    Some(tidy(names, table.get(named_by(at)?)?.get_ref().as_str()?))
}

/// As it is compared: what it stands for, without doubled slashes, an address in its one spelling.
fn tidy(names: Names, text: &str) -> String {
    let text = specifier::expand(text, names, names.unit.as_str()).unwrap_or_else(|_| text.to_owned());
    match (Listen::parse(&text), path::inside(&text)) {
        (Ok(listen), _) => listen.to_string(),
        (Err(_), Ok(tidy)) => tidy,
        (Err(_), Err(_)) => text,
    }
}

/// The key that names the tables of an array of tables.
pub(crate) fn named_by(at: &str) -> Option<&'static str> {
    NAMED_BY.iter().find(|(array, _)| *array == at).map(|(_, key)| *key)
}

fn joined(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

// --- unset --------------------------------------------------------------------------------------------------------

/// Takes `unset` out of a drop-in, and what it names out of what is below.
fn unset(walk: &mut Walk, names: Names, below: &mut DeTable, above: &mut DeTable) {
    let Some((key, value)) = above.remove_entry("unset") else { return };
    let field = Field { name: "unset".to_owned(), key_span: key.span(), value: &value };
    for (n, value) in walk.items(&field).unwrap_or_default().into_iter().enumerate() {
        let item = Field { name: format!("unset[{n}]"), value, ..field.clone() };
        let Some(path) = walk.word(&item, "a key like \"resources.memory\" or \"mount./data\"") else { continue };
        if path == "instances" {
            let message = "`unset` names `instances`, which is the template's own";
            walk.error(&item.at(), message, Some("edit the list in NAME@.toml".to_owned()));
            continue;
        }
        if path.len() > UNSET_MAX || !take_from_table(names, "", below, path) {
            nothing_taken(walk, &item, path);
        }
    }
}

/// A key that no unit has is a mistake; one that is just not set may be set again tomorrow.
fn nothing_taken(walk: &mut Walk, item: &Field, path: &str) {
    let shown = quote(path);
    match schema::strange(path) {
        None => walk.warn(&item.at(), &format!("`unset` names `{shown}`, which nothing below this drop-in sets"), None),
        Some((table, key)) => match schema::later(table, key) {
            Some(help) => {
                let message = format!("`{}` is known but not built in this version", quote(key));
                walk.error(&item.at(), message, help.map(str::to_owned));
            }
            None => {
                let message = format!("`unset` names `{shown}`: unknown key `{}`", quote(key));
                walk.error(&item.at(), message, schema::suggest(table, key));
            }
        },
    }
}

/// Keys and targets may hold dots, so that the longest that is there is taken for the first part.
fn take_from_table(names: Names, at: &str, table: &mut DeTable, path: &str) -> bool {
    table.remove(path).is_some()
        || parts(path).any(|(head, rest)| {
            table.get_mut(head).is_some_and(|value| take_from(names, &joined(at, head), value, rest))
        })
}

fn take_from(names: Names, at: &str, value: &mut Value, path: &str) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => take_from_table(names, at, table, path),
        DeValue::Array(items) if named_by(at).is_some() => take_from_named(names, at, items, path),
        _ => false,
    }
}

fn take_from_named(names: Names, at: &str, items: &mut DeArray, path: &str) -> bool {
    let is = |item: &Value, wanted: &str| identity(names, at, item).is_some_and(|known| known == tidy(names, wanted));
    let before = items.len();
    *items = std::mem::replace(items, DeArray::new()).into_iter().filter(|item| !is(item, path)).collect();
    items.len() < before
        || parts(path).any(|(head, rest)| match items.iter_mut().find(|item| is(item, head)) {
            Some(item) => take_from(names, &joined(at, "*"), item, rest),
            None => false,
        })
}

/// The ways to split at a dot, longest first part first.
fn parts(path: &str) -> impl Iterator<Item = (&str, &str)> {
    path.rmatch_indices('.').filter_map(|(at, _)| Some((path.get(..at)?, path.get(at + 1..)?)))
}

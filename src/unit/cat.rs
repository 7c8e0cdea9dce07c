//! The merged text of a unit: one file that means what all of its texts mean together, each value with the place that it came from.
//!
//! What is nested is written with dotted keys, so that every value has a line of its own for its comment. Relative paths are written out,
//! as they start from the file that they stood in. Specifiers stay: they mean the same anywhere in one unit. Values that a later text
//! replaced are not in it, and no defaults of this program are.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Number};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::layer::{Layer, Place, Places};
use super::seccomp_file::is_profile_path;
use super::specifier::Names;
use super::variable::Given;
use super::walk::Walk;
use super::{overlay, parse, path, schema};
use crate::compact;

/// Paths of the host's, by table and key.
const PATHS: [(&str, &str); 9] = [
    ("", "bundle"),
    ("", "rootfs"),
    ("", "layers"),
    ("", "executable"),
    ("condition", "path_exists"),
    ("process", "env_file"),
    ("mount", "source"),
    ("config", "source"),
    ("secret", "source"),
];

/// One value of a unit, and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct MergedValue {
    /// `resources.memory`, `mount./data.source`.
    pub key: String,
    /// As JSON has it.
    pub value: serde_json::Value,
    /// Its place.
    pub place: Place,
}

/// The merged text.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// TOML, with a comment on each value.
    pub text: String,
    /// The same, one by one.
    pub values: Vec<MergedValue>,
}

/// Merges texts without judging what they say; that they are TOML is asked for.
pub fn cat(names: Names, layers: &[Layer]) -> Result<Merged, Vec<Diagnostic>> {
    parse::with_document(names, layers, Given::Unread, |walk: &mut Walk, document, syntax| {
        if !syntax.is_empty() {
            return Err(syntax);
        }
        let base = layers.iter().find(|layer| layer.kind == super::LayerKind::Main).and_then(|main| main.file.parent());
        let mut writer = Writer { places: &walk.places, base, names, text: String::new(), values: Vec::new() };
        writer.document(document);
        Ok(Merged { text: writer.text, values: writer.values })
    })
}

struct Writer<'w, 't> {
    places: &'w Places<'t>,
    /// Of the unit's own file: below it files are named without it.
    base: Option<&'t Path>,
    names: Names<'w>,
    text: String,
    values: Vec<MergedValue>,
}

type Entry<'d, 't> = (&'d Spanned<Cow<'t, str>>, &'d Spanned<DeValue<'t>>);

impl Writer<'_, '_> {
    /// Plain keys before the first table: below one they would belong to it.
    fn document(&mut self, document: &DeTable) {
        let mut entries = in_order("", document);
        // A template's, and no setting of the unit.
        entries.retain(|(key, _)| key.get_ref() != "instances");
        let is_plain = |value: &DeValue| !is_section(value);
        for (key, value) in entries.iter().filter(|(_, value)| is_plain(value.get_ref())) {
            self.value("", &[key.get_ref()], key.get_ref(), value);
        }
        for (key, value) in entries {
            let name: &str = key.get_ref();
            match value.get_ref() {
                DeValue::Table(table) if !table.is_empty() => {
                    self.header(&format!("[{}]", key_text(name)));
                    self.table(name, &[], name, table);
                }
                DeValue::Array(items) if is_section(value.get_ref()) => {
                    for item in items.iter() {
                        let DeValue::Table(table) = item.get_ref() else { continue };
                        let known = overlay::identity(self.names, name, item);
                        let known = known.map_or_else(|| name.to_owned(), |known| format!("{name}.{known}"));
                        self.header(&format!("[[{}]]", key_text(name)));
                        self.table(name, &[], &known, table);
                    }
                }
                _ => {}
            }
        }
    }

    fn header(&mut self, header: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        self.text.push_str(&format!("{gap}{header}\n"));
    }

    /// `path` is where it is below its header, `known` its dotted name.
    fn table(&mut self, at: &str, path: &[&str], known: &str, table: &DeTable) {
        for (key, value) in in_order(at, table) {
            let path: Vec<&str> = path.iter().copied().chain([key.get_ref().as_ref()]).collect();
            let known = format!("{known}.{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(below) if !below.is_empty() => {
                    self.table(&format!("{at}.{}", key.get_ref()), &path, &known, below);
                }
                _ => self.value(at, &path, &known, value),
            }
        }
    }

    fn value(&mut self, at: &str, path: &[&str], known: &str, value: &Spanned<DeValue>) {
        let place = self.places.position(value.span().start);
        let key = path.last().copied().unwrap_or_default();
        let is_profile = (at, key) == ("security", "seccomp") && value.get_ref().as_str().is_some_and(is_profile_path);
        let is_path = is_profile || PATHS.contains(&(at, key));
        let base = is_path.then(|| self.places.base(value.span().start));
        let keys: Vec<String> = path.iter().map(|key| key_text(key)).collect();
        let line = format!("{} = {}", keys.join("."), toml_text(value.get_ref(), base));
        let file = self.base.and_then(|base| place.file.strip_prefix(base).ok()).unwrap_or(&place.file);
        let from = Place { file: file.to_owned(), ..place.clone() };
        self.text.push_str(&format!(
            "{line:<40} # {}:{}\n",
            super::diagnostic::one_line(&from.file.to_string_lossy()),
            from.line
        ));
        self.values.push(MergedValue { key: known.to_owned(), value: json(value.get_ref(), base), place });
    }
}

/// Written with a header of its own.
fn is_section(value: &DeValue) -> bool {
    match value {
        DeValue::Table(table) => !table.is_empty(),
        DeValue::Array(items) => !items.is_empty() && items.iter().all(|item| item.get_ref().is_table()),
        _ => false,
    }
}

/// In the order of the documentation, what it does not name behind.
fn in_order<'d, 't>(at: &str, table: &'d DeTable<'t>) -> Vec<Entry<'d, 't>> {
    let mut entries: Vec<Entry<'d, 't>> = table.iter().collect();
    compact::sort_by_key(&mut entries, |(key, _)| schema::position(at, key.get_ref()).unwrap_or(usize::MAX));
    entries
}

fn key_text(key: &str) -> String {
    let is_bare =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_bare { key.to_owned() } else { string_text(key) }
}

/// A basic string: what does not show is escaped.
fn string_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if crate::words::is_hidden(letter) => out.push_str(&format!("\\U{:08X}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// `base`: strings in it are paths that start there.
fn toml_text(value: &DeValue, base: Option<&Path>) -> String {
    match value {
        DeValue::String(text) => string_text(&written_out(text, base)),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| toml_text(item.get_ref(), base)).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) if table.is_empty() => "{}".to_owned(),
        DeValue::Table(table) => {
            let pair = |(key, value): (&Spanned<Cow<str>>, &Spanned<DeValue>)| {
                format!("{} = {}", key_text(key.get_ref()), toml_text(value.get_ref(), base))
            };
            format!("{{ {} }}", table.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

fn json(value: &DeValue, base: Option<&Path>) -> serde_json::Value {
    use serde_json::Value;
    match value {
        DeValue::String(text) => Value::String(written_out(text, base)),
        DeValue::Integer(number) => {
            let read = i128::from_str_radix(number.as_str(), number.radix()).ok().and_then(Number::from_i128);
            read.map_or_else(|| Value::String(number.to_string()), Value::Number)
        }
        DeValue::Float(number) => {
            let read = number.as_str().parse().ok().and_then(Number::from_f64);
            read.map_or_else(|| Value::String(number.to_string()), Value::Number)
        }
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| json(item.get_ref(), base)).collect()),
        DeValue::Table(table) => {
            let pair = |(key, value): (&Spanned<Cow<str>>, &Spanned<DeValue>)| {
                (key.get_ref().to_string(), json(value.get_ref(), base))
            };
            Value::Object(table.iter().map(pair).collect::<Map<_, _>>())
        }
    }
}

/// A leading `-` is what makes a file optional.
fn written_out(text: &str, base: Option<&Path>) -> String {
    let Some(base) = base else { return text.to_owned() };
    let (optional, file) = text.strip_prefix('-').map_or(("", text), |file| ("-", file));
    if file.is_empty() || file.starts_with('/') {
        return text.to_owned();
    }
    format!("{optional}{}", path::absolute(base, file).display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{LayerKind, UnitName, parse_from, parse_layers};

    fn layer(kind: LayerKind, file: &'static str, text: &'static str) -> Layer<'static> {
        let path = Path::new(file);
        Layer { kind, file: path, base: path.parent().unwrap(), text, is_template: false }
    }

    fn web() -> UnitName {
        UnitName::new("web").unwrap()
    }

    #[test]
    fn the_text_means_what_its_texts_mean_together() {
        let above = "unset = [\"mount./cache\", \"oci\"]\ndepends_on.\"a@b\".optional = true\nprocess.env = { A = \"\\t\\\"\\u0001\", \"b c\" = 1.5 }\n\
            x-mine = { a = [1, { b = 2020-01-01 }], c = {} }\nmount = [{ source = \"./more\", target = \"/more\" }]\n\
            [oci.annotations]\n\"a.b\" = \"c\"\n";
        let layers = [
            layer(LayerKind::Main, "/d/web.toml", include_str!("whole.toml")),
            layer(LayerKind::DropIn, "/e/web.toml.d/10.toml", above),
        ];
        let expected = parse_layers(Names::of(&web()), &layers).unwrap().unit;
        let merged = cat(Names::of(&web()), &layers).unwrap();
        let again = parse_from(&web(), Path::new("/other/web.toml"), Path::new("/other"), &merged.text);
        assert_eq!(again.unwrap_or_else(|errors| panic!("{errors:?} in\n{}", merged.text)).unit, expected);
    }

    #[test]
    fn each_value_has_the_place_that_it_came_from() {
        let main = "rootfs = \"root\"\n[restart]\nlimit = { burst = 3, interval = \"1m\" }\n[process]\nargs = [\"/a\"]\n\
            [[mount]]\nsource = \"/s\"\ntarget = \"/data\"\n";
        let above = "restart.limit.burst = 5\n[[mount]]\ntarget = \"/data\"\nread_only = false\n";
        let layers =
            [layer(LayerKind::Main, "/d/web.toml", main), layer(LayerKind::DropIn, "/d/web.toml.d/10.toml", above)];
        let merged = cat(Names::of(&web()), &layers).unwrap();
        let expected = "\
rootfs = \"/d/root\"                       # web.toml:1

[process]
args = [\"/a\"]                            # web.toml:5

[restart]
limit.burst = 5                          # web.toml.d/10.toml:1
limit.interval = \"1m\"                    # web.toml:3

[[mount]]
source = \"/s\"                            # web.toml:7
target = \"/data\"                         # web.toml.d/10.toml:3
read_only = false                        # web.toml.d/10.toml:4
";
        assert_eq!(merged.text, expected);
        let last = merged.values.last().unwrap();
        assert_eq!((last.key.as_str(), &last.value), ("mount./data.read_only", &serde_json::json!(false)));
        assert_eq!(last.place.to_string(), "/d/web.toml.d/10.toml:4:13");
    }
}

//! The shape of a config.json, held against the table of [`super::fields`].
//!
//! The parsed spec says of a wrong type only that there is one, of an unknown word only which ones there are, and of an
//! unknown field nothing. So the raw JSON is walked along the table first, and every mistake gets its path.

use std::fmt;

use oci_spec::runtime::LinuxResources;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::capability::{Capability, NameError};
use super::cgroup::CgroupSettings;
use super::error::{CompileError, Problem, Report, Warning};
use super::fields::{CONFIG, Kind, PROCESS, RESOURCES};
use super::fits::fits;
use crate::compact;
use crate::config::{Process, Spec};
use crate::words::nearest;

/// The largest config.json that is read.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Where they stand in a config.json.
const RESOURCES_PATH: &str = "linux.resources";

/// What parsing gives.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The whole spec.
    pub spec: Spec,
    /// Unknown fields.
    pub warnings: Vec<Warning>,
}

/// Parses a config.json. All mistakes at once, except that text which is no JSON at all is one mistake.
pub fn parse(text: &[u8]) -> Result<Parsed, Vec<CompileError>> {
    if text.len() <= MAX_CONFIG_BYTES
        && fits(text, &CONFIG)
        && let Ok(spec) = compact::from_json::<Spec>(text)
        && !spec.version.is_empty()
    {
        return Ok(Parsed { spec, warnings: Vec::new() });
    }
    let mut raw = read(text, "config.json")?;
    let mut report = Report::default();
    check(&raw, &mut report);
    if !report.errors.is_empty() {
        return Err(report.errors);
    }
    // The derived code refuses a field that is there twice, of which JSON readers take the last.
    let spec = compact::from_json(text).or_else(|_| {
        raw.get_mut("process").map(drop_unknown_capabilities);
        typed(&raw, "config.json")
    })?;
    Ok(Parsed { spec, warnings: report.warnings })
}

/// All mistakes in the shape of a config.json that a unit names: types, words, numbers out of range, and capabilities that nobody knows, which
/// [`parse`] leaves out. Text that is no JSON has none here.
pub fn mistakes(text: &[u8]) -> Vec<CompileError> {
    let mut report = Report { strict: true, ..Report::default() };
    if let Ok(raw @ Value::Object(_)) = compact::from_json(text) {
        check(&raw, &mut report);
    }
    report.errors
}

/// Parses the process of `exec --process`.
pub fn parse_process(text: &[u8]) -> Result<(Process, Vec<Warning>), Vec<CompileError>> {
    let mut raw = read(text, "process")?;
    let mut report = Report::default();
    walk(&raw, &PROCESS, &At::Top("process"), &mut report);
    if !report.errors.is_empty() {
        return Err(report.errors);
    }
    drop_unknown_capabilities(&mut raw);
    Ok((typed(&raw, "process")?, report.warnings))
}

/// What this version of moored has no name for cannot be given; the specification wants a warning (config.md, "capabilities").
fn drop_unknown_capabilities(process: &mut Value) {
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(Map::values_mut).filter_map(Value::as_array_mut) {
        set.retain(|name| name.as_str().is_none_or(|name| name.parse::<Capability>().is_ok()));
    }
}

/// Parses a `linux.resources` that comes by itself (`update --resources`), and leaves it as it is: it goes with others.
pub fn parse_resources(text: &[u8]) -> Result<Value, Vec<CompileError>> {
    let raw = read(text, RESOURCES_PATH)?;
    let mut report = Report::default();
    walk(&raw, &RESOURCES, &At::Top(RESOURCES_PATH), &mut report);
    if report.errors.is_empty() { Ok(raw) } else { Err(report.errors) }
}

/// Compiles such resources, without a container around them.
pub fn compile_resources(raw: &Value) -> Result<(CgroupSettings, Vec<Warning>), Vec<CompileError>> {
    let resources: LinuxResources = typed(raw, RESOURCES_PATH)?;
    let mut report = Report::default();
    walk(raw, &RESOURCES, &At::Top(RESOURCES_PATH), &mut report);
    let settings = super::resources::compile(Some(&resources), &mut report);
    if report.errors.is_empty() { Ok((settings, report.warnings)) } else { Err(report.errors) }
}

/// Always by way of text, as everybody reads it: the derived code is big, and one copy of it is enough.
fn typed<T: DeserializeOwned>(raw: &Value, path: &str) -> Result<T, Vec<CompileError>> {
    serde_json::from_str(&raw.to_string()).map_err(|error| vec![unexpected(path, &error)])
}

/// Checks the shape of a whole config.
pub(super) fn check(raw: &Value, report: &mut Report) {
    walk(raw, &CONFIG, &At::Top(""), report);
    if raw.get("ociVersion").is_none_or(Value::is_null) {
        report.error("ociVersion", Problem::Missing { expected: "a version such as \"1.3.0\"" });
    }
}

fn read(text: &[u8], path: &str) -> Result<Value, Vec<CompileError>> {
    if text.len() > MAX_CONFIG_BYTES {
        let found = format!("a file of {} bytes", text.len());
        return Err(vec![CompileError {
            path: path.into(),
            problem: Problem::Range { found, expected: "at most 1 MiB" },
        }]);
    }
    // serde_json itself bounds the depth, at 128.
    compact::from_json(text).map_err(|error| vec![unexpected(path, &error)])
}

fn unexpected(path: &str, error: &serde_json::Error) -> CompileError {
    CompileError { path: path.into(), problem: Problem::Type { expected: "a runtime-spec", found: error.to_string() } }
}

/// A place in the JSON. Spelled out only where something is wrong.
enum At<'p> {
    Top(&'p str),
    Field(&'p At<'p>, &'p str),
    Item(&'p At<'p>, usize),
    Entry(&'p At<'p>, &'p str),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Top(path) => f.write_str(path),
            At::Field(of, name) => {
                if !matches!(of, At::Top("")) {
                    write!(f, "{of}.")?;
                }
                // A name must not be able to look like another message.
                if name.contains(char::is_control) { write!(f, "{name:?}") } else { f.write_str(name) }
            }
            At::Item(of, index) => write!(f, "{of}[{index}]"),
            At::Entry(of, key) => write!(f, "{of}[{key:?}]"),
        }
    }
}

fn walk(value: &Value, kind: &Kind, path: &At<'_>, report: &mut Report) {
    let mismatch = |expected| Problem::Type { expected, found: describe(value) };
    match (kind, value) {
        // Absent, for the Go programs that write these files.
        (_, Value::Null) | (Kind::Any, _) | (Kind::Bool, Value::Bool(_)) | (Kind::Text, Value::String(_)) => {}
        (Kind::Word(_, known), Value::String(word)) if known.contains(&word.as_str()) => {}
        (Kind::Word(what, known), Value::String(word)) => {
            let suggestion = nearest(word, known.iter().copied()).map(str::to_owned);
            report.error(path, Problem::Unknown { what, found: word.clone(), suggestion });
        }
        (Kind::Capability, Value::String(name)) => {
            if let Err(NameError { found, suggestion }) = name.parse::<Capability>() {
                let suggestion = suggestion.map(|capability| capability.to_string());
                let problem = Problem::Unknown { what: "capability", found, suggestion };
                if report.strict {
                    report.error(path, problem);
                } else {
                    report.warn(path, format!("is not given: {problem}"));
                }
            }
        }
        (Kind::Signed, Value::Number(number)) if number.is_i64() => {}
        (Kind::Unsigned, Value::Number(number)) if number.is_u64() => {}
        (Kind::Id, Value::Number(number)) if number.as_u64().is_some_and(|id| u32::try_from(id).is_ok()) => {}
        (Kind::Short, Value::Number(number)) if number.as_u64().is_some_and(|n| u16::try_from(n).is_ok()) => {}
        (Kind::Int, Value::Number(number)) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
        (Kind::List(inner), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, inner, &At::Item(path, index), report);
            }
        }
        (Kind::Map(inner), Value::Object(entries)) => {
            for (key, entry) in entries {
                walk(entry, inner, &At::Entry(path, key), report);
            }
        }
        (Kind::Object(fields), Value::Object(entries)) => walk_fields(entries, fields, path, report),
        (Kind::Bool, _) => report.error(path, mismatch("true or false")),
        (Kind::Text | Kind::Word(..) | Kind::Capability, _) => report.error(path, mismatch("a string")),
        (Kind::Signed, _) => report.error(path, mismatch("a whole number")),
        (Kind::Unsigned, _) => report.error(path, mismatch("a whole number from 0")),
        (Kind::Id, _) => report.error(path, mismatch("a whole number from 0 to 4294967295")),
        (Kind::Short, _) => report.error(path, mismatch("a whole number from 0 to 65535")),
        (Kind::Int, _) => report.error(path, mismatch("a whole number from -2147483648 to 2147483647")),
        (Kind::List(_), _) => report.error(path, mismatch("a list")),
        (Kind::Map(_) | Kind::Object(_), _) => report.error(path, mismatch("an object")),
    }
}

fn walk_fields(entries: &Map<String, Value>, fields: &[(&str, Kind)], path: &At<'_>, report: &mut Report) {
    for (key, entry) in entries {
        let inner = At::Field(path, key);
        match fields.iter().find(|(name, _)| name == key) {
            Some((_, kind)) => walk(entry, kind, &inner, report),
            None => {
                let text = match nearest(key, fields.iter().map(|(name, _)| *name)) {
                    Some(near) => format!("is not a field of runtime-spec and ignored, did you mean {near:?}?"),
                    None => "is not a field of runtime-spec and ignored".to_owned(),
                };
                report.warn(inner, text);
            }
        }
    }
}

fn describe(value: &Value) -> String {
    /// Longer values are cut in messages.
    const MAX_SHOWN: usize = 40;
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => {
            let text = other.to_string();
            if text.chars().count() > MAX_SHOWN { text.chars().take(MAX_SHOWN).chain(['…']).collect() } else { text }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(json: &str) -> Vec<String> {
        match parse(json.as_bytes()) {
            Ok(parsed) => parsed.warnings.iter().map(ToString::to_string).collect(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_path() {
        let json = r#"{"ociVersion": "1.0.2", "hostname": 3, "process": {"cwd": "/", "args": "sh",
            "user": {"uid": -1},
            "rlimits": [{"type": "RLIMIT_NOFILES", "hard": 1, "soft": 1}]},
            "linux": {"namespaces": [{"type": "net"}], "resources": {"memory": {"limit": "256M"}}}}"#;
        let mut got = messages(json);
        got.sort();
        let expected = [
            "hostname: expected a string, found 3",
            "linux.namespaces[0].type: unknown namespace \"net\", did you mean \"network\"?",
            "linux.resources.memory.limit: expected a whole number, found \"256M\"",
            "process.args: expected a list, found \"sh\"",
            "process.rlimits[0].type: unknown limit \"RLIMIT_NOFILES\", did you mean \"RLIMIT_NOFILE\"?",
            "process.user.uid: expected a whole number from 0 to 4294967295, found -1",
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn capabilities_that_nobody_knows_are_left_out_with_a_warning() {
        let process = r#"{"cwd": "/", "args": ["sh"], "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_KILL", "CAP_KIL", "CAP_FOO"], "permitted": ["CAP_FOO"]}}"#;
        let config = format!(r#"{{"ociVersion": "1.0.2", "process": {process}}}"#);
        let mut parsed = parse(config.as_bytes()).expect("they are no mistake");
        let (of_exec, warnings) = parse_process(process.as_bytes()).expect("nor in the process of an exec");
        let expected = [
            r#"process.capabilities.bounding[1]: is not given: unknown capability "CAP_KIL", did you mean "CAP_KILL"?"#,
            r#"process.capabilities.bounding[2]: is not given: unknown capability "CAP_FOO""#,
            r#"process.capabilities.permitted[0]: is not given: unknown capability "CAP_FOO""#,
        ];
        for warnings in [parsed.warnings, warnings] {
            assert_eq!(warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
        assert_eq!(mistakes(config.as_bytes()).len(), 3, "but for who writes it himself they are");
        for process in [parsed.spec.process.take().unwrap(), of_exec] {
            let sets = process.capabilities.unwrap();
            assert_eq!(sets.bounding().iter().flatten().map(ToString::to_string).collect::<Vec<_>>(), ["KILL"]);
            assert!(sets.permitted().as_ref().unwrap().is_empty());
        }
    }

    #[test]
    fn unknown_fields_are_warned_about_and_nulls_are_absent() {
        let json = r#"{"ociVersion": "1.0.2", "foo": 1, "process": {"cwd": "/", "argz": [], "rlimits": null},
            "linux": null}"#;
        let mut got = messages(json);
        got.sort();
        let expected = [
            "foo: is not a field of runtime-spec and ignored, did you mean \"root\"?",
            "process.argz: is not a field of runtime-spec and ignored, did you mean \"args\"?",
        ];
        assert_eq!(got[1..], expected[1..]);
        assert!(got[0].starts_with("foo: is not a field"));
    }

    /// Whatever a byte of it becomes, a text that fits is one that there is nothing to say of.
    #[test]
    fn what_fits_has_no_mistakes_and_the_other_way_round() {
        let base = include_bytes!("template.json");
        assert!(fits(base, &CONFIG));
        let mut fitting = 0_usize;
        let bytes = b"\"{}[],:019-.aZn \\";
        for at in 0..base.len() {
            for n in 0..3 {
                let byte = bytes[(at * 3 + n) % bytes.len()];
                let mut text = base.to_vec();
                text[at] = byte;
                let mut report = Report::default();
                let silent = serde_json::from_slice(&text).is_ok_and(|raw: Value| {
                    walk(&raw, &CONFIG, &At::Top(""), &mut report);
                    report.errors.is_empty() && report.warnings.is_empty()
                });
                assert_eq!(fits(&text, &CONFIG), silent, "{}", String::from_utf8_lossy(&text));
                fitting += usize::from(silent);
            }
        }
        assert!(fitting > base.len() / 4, "{fitting} of {}: much of it is spaces and texts", 3 * base.len());
    }

    #[test]
    fn text_that_is_no_json_or_too_long_is_one_mistake() {
        assert_eq!(messages("{").len(), 1);
        assert_eq!(messages(&"[".repeat(100_000)).len(), 1);
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(MAX_CONFIG_BYTES));
        assert!(messages(&long)[0].contains("at most 1 MiB"));
    }
}

//! The keys as JSON Schemas (draft 2020-12), for editors and other tools: of a unit file, of a drop-in, of moored.toml.
//!
//! What a unit file must have, a drop-in or a default need not: another text may say it. What excludes each other does so in each text, and
//! a table of an array says in each of them which one it is. `instances` is a template's own; `unset` is a drop-in's.

use serde_json::{Map, Value, json};

use super::{KEYS, Key, Kind, OF_CHECK, OF_DEPENDENCY, OF_HOOK, STATES, class};
use crate::unit::overlay::{ALTERNATIVES, NAMED_BY};
use crate::unit::{CheckKind, HookPoint, Signal, moored_toml};
use crate::words::CAPABILITIES;

/// What a schema is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaOf {
    /// `web.toml`, `worker@.toml`.
    Unit,
    /// `web.toml.d/*.toml`.
    DropIn,
    /// `moored.toml`.
    MooredToml,
}

/// A JSON Schema of such a file, as TOML maps to JSON.
pub fn json_schema(of: SchemaOf) -> Value {
    let mut schema = match of {
        SchemaOf::Unit => unit(),
        SchemaOf::DropIn => drop_in(),
        SchemaOf::MooredToml => {
            let defaults = part(&|key| moored_toml::is_default(key.name));
            object(Map::from_iter([("defaults".to_owned(), defaults)]))
        }
    };
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(match of {
        SchemaOf::Unit => "moored unit file",
        SchemaOf::DropIn => "moored drop-in",
        SchemaOf::MooredToml => "moored.toml",
    });
    schema
}

fn unit() -> Value {
    let requires = |name: &str| json!({ "required": [name] });
    let mut schema = object_of(&|_| true);
    let profile = json!({ "required": ["security"], "properties": { "security": { "required": ["profile"] } } });
    let sources = ["bundle", "rootfs", "layers", "executable"].map(requires);
    schema["oneOf"] = sources.into_iter().chain([profile.clone()]).collect();
    let args = json!({ "required": ["process"], "properties": { "process": { "required": ["args"] } } });
    schema["allOf"] = json!([{ "if": requires("rootfs"), "then": args }, { "if": requires("layers"), "then": args }, { "if": profile, "then": args }]);
    let one_of = ["exec", "http", "tcp", "file"].map(requires);
    for kind in CheckKind::ALL {
        schema["properties"]["health"]["properties"][kind.word()]["oneOf"] = json!(one_of);
    }
    schema["properties"]["health"]["minProperties"] = json!(1);
    for point in HookPoint::ALL {
        schema["properties"]["hooks"]["properties"][point.word()]["required"] = json!(["exec"]);
    }
    schema["properties"]["schedule"]["required"] = json!(["calendar"]);
    schema["properties"]["hooks"]["minProperties"] = json!(1);
    schema["properties"]["process"]["dependentRequired"] = json!({ "watchdog": ["notify"] });
    schema["properties"]["restart"]["properties"]["limit"]["required"] = json!(["burst", "interval"]);
    for (table, keys) in [
        ("mount", &["target"][..]),
        ("config", &["source", "target"]),
        ("secret", &["source", "target"]),
        ("device", &["path"]),
        ("socket", &["listen"]),
    ] {
        schema["properties"][table]["items"]["required"] = json!(keys);
    }
    exclude(&mut schema, &["reload"], &["signal", "exec"]);
    schema
}

fn drop_in() -> Value {
    let mut schema = part(&|key| key.name != "instances");
    let word = json!({ "type": "string", "minLength": 1, "not": { "const": "instances" } });
    schema["properties"]["unset"] = json!({
        "type": "array",
        "items": word,
        "description": "What is taken away of the texts below: keys like resources.memory or mount./data.",
    });
    schema
}

/// One text of several that make a unit.
fn part(wanted: &dyn Fn(&Key) -> bool) -> Value {
    let mut schema = object_of(wanted);
    for (table, keys) in ALTERNATIVES {
        match table {
            "health.*" => {
                CheckKind::ALL.iter().for_each(|kind| exclude(&mut schema, &["health", kind.word()], keys));
            }
            "" => exclude(&mut schema, &[], keys),
            table => exclude(&mut schema, &[table], keys),
        }
    }
    for (table, key) in NAMED_BY {
        if let Some(tables) = schema["properties"].get_mut(table) {
            tables["items"]["required"] = json!([key]);
        }
    }
    schema
}

/// At most one of these keys of the table at `path`, if there is such a table.
fn exclude(schema: &mut Value, path: &[&str], keys: &[&str]) {
    let mut table = Some(schema);
    for name in path {
        table = table.and_then(|table| table.get_mut("properties")?.get_mut(*name));
    }
    let Some(table) = table else { return };
    let pairs = keys.iter().enumerate().flat_map(|(n, one)| keys.iter().skip(n + 1).map(move |other| [one, other]));
    let known = |key: &&str| table["properties"].get(*key).is_some();
    let pairs: Vec<Value> =
        pairs.filter(|pair| pair.iter().all(|key| known(key))).map(|pair| json!({ "required": pair })).collect();
    if !pairs.is_empty() {
        table["not"] = json!({ "anyOf": pairs });
    }
}

/// A table of the wanted keys.
fn object_of(wanted: &dyn Fn(&Key) -> bool) -> Value {
    let mut top = Map::new();
    for key in KEYS.iter().filter(|key| wanted(key) && !key.name.starts_with(OF_DEPENDENCY)) {
        for name in spelled_out(key.name) {
            insert(&mut top, &name.split('.').collect::<Vec<_>>(), described(key));
        }
    }
    object(top)
}

/// What the star of a check or of a hook stands for, written out.
fn spelled_out(name: &str) -> Vec<String> {
    match (name.strip_prefix(OF_CHECK), name.strip_prefix(OF_HOOK)) {
        (Some(key), _) => CheckKind::ALL.iter().map(|kind| format!("health.{}.{key}", kind.word())).collect(),
        (_, Some(key)) => HookPoint::ALL.iter().map(|point| format!("hooks.{}.{key}", point.word())).collect(),
        (None, None) => vec![name.to_owned()],
    }
}

/// A table of these keys, and of those that are other people's.
fn object(keys: Map<String, Value>) -> Value {
    json!({ "type": "object", "properties": keys, "patternProperties": { "^x-": {} }, "additionalProperties": false })
}

fn insert(keys: &mut Map<String, Value>, path: &[&str], value: Value) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        keys.insert((*first).to_owned(), value);
        return;
    }
    let (name, several) = first.strip_suffix("[]").map_or((*first, false), |name| (name, true));
    let empty = || object(Map::new());
    let table = keys
        .entry(name)
        .or_insert_with(|| if several { json!({ "type": "array", "items": empty() }) } else { empty() });
    let table = if several { &mut table["items"] } else { table };
    if let Some(keys) = table["properties"].as_object_mut() {
        insert(keys, rest, value);
    }
}

fn described(key: &Key) -> Value {
    let mut schema = kind(&key.kind);
    schema["description"] = json!(key.about);
    schema["x-default"] = json!(key.default);
    schema["x-class"] = json!(class(key.class));
    schema
}

fn kind(kind: &Kind) -> Value {
    let text = json!({ "type": "string" });
    let pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    match kind {
        Kind::Text => text,
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Path => json!({ "type": "string", "minLength": 1, "maxLength": 4095 }),
        Kind::Duration => pattern("^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"),
        Kind::Size { least } => json!({ "anyOf": [
            { "type": "string", "pattern": "^[0-9]+[KMGT]?$" },
            { "type": "integer", "minimum": least },
        ] }),
        Kind::Whole { most } => json!({ "type": "integer", "minimum": 1, "maximum": most }),
        Kind::Count { most } => json!({ "type": "integer", "minimum": 0, "maximum": most }),
        Kind::Number { least, most } => json!({ "type": "number", "minimum": least, "maximum": most }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Pattern(text) => pattern(text),
        Kind::Signal => json!({ "anyOf": [
            { "type": "string", "pattern": signal_pattern() },
            { "type": "integer", "minimum": 1, "maximum": 64 },
        ] }),
        Kind::Args => json!({ "type": "array", "items": text, "minItems": 1 }),
        Kind::Env => json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } }),
        Kind::Capabilities => json!({ "anyOf": [
            { "const": "docker" },
            { "type": "array", "items": { "type": "string", "pattern": capability_pattern() } },
        ] }),
        Kind::Paths => json!({ "type": "array", "items": text, "minItems": 1, "uniqueItems": true }),
        Kind::Texts => json!({ "anyOf": [text, { "type": "array", "items": text }] }),
        Kind::List(each) => json!({ "type": "array", "items": pattern(each), "uniqueItems": true }),
        Kind::Dependencies => {
            let mut keys = Map::new();
            for key in KEYS {
                if let Some(name) = key.name.strip_prefix(OF_DEPENDENCY) {
                    keys.insert(name.to_owned(), described(key));
                }
            }
            json!({ "type": "object", "additionalProperties": { "anyOf": [{ "enum": STATES }, object(keys)] } })
        }
        Kind::Object => json!({ "type": "object" }),
    }
}

/// In capitals or in small letters.
fn either_case<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.flat_map(|word| [word.to_ascii_uppercase(), word.to_ascii_lowercase()]).collect::<Vec<_>>().join("|")
}

fn signal_pattern() -> String {
    let names = either_case(Signal::names().iter().copied());
    format!("^((SIG|sig)?({names}|RTMIN([+][0-9]+)?|RTMAX(-[0-9]+)?)|[1-9]|[1-5][0-9]|6[0-4])$")
}

fn capability_pattern() -> String {
    format!("^((CAP_|cap_)?({})|docker)$", either_case(CAPABILITIES.iter().copied()))
}

//! `[oci]`: the one way out, merged into config.json as it is. Objects merge key by key, anything else replaces.

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};

use super::filled::From;
use super::walk::{Field, Table, Walk};
use super::{Source, defaults, host, json};

/// Most mistakes of `[oci]` that are looked for: each costs reading a spec.
const MISTAKES_MAX: usize = 20;

/// Merges `over` into `base`.
pub(crate) fn deep_merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => deep_merge(below, above),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}

/// `[oci]` as JSON, its types checked against the OCI spec.
pub(crate) fn overrides(walk: &mut Walk, top: &Table, source: Option<&Source>) -> Map<String, Value> {
    let Some(field) = top.field("oci") else { return Map::new() };
    let DeValue::Table(table) = field.value.get_ref() else {
        walk.mismatch(&field, "a table", None);
        return Map::new();
    };
    let map = object(walk, "oci", table);
    refuse_what_is_ours(walk, table, &map, source);
    if !walk.oci_unread {
        check_types(walk, &field, table, map.clone());
    }
    map
}

fn object(walk: &mut Walk, name: &str, table: &DeTable) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in table.iter() {
        let field = Field { name: format!("{name}.{}", key.get_ref()), key_span: key.span(), value };
        map.extend(convert(walk, &field).map(|value| (key.get_ref().to_string(), value)));
    }
    map
}

fn convert(walk: &mut Walk, field: &Field) -> Option<Value> {
    match field.value.get_ref() {
        DeValue::String(text) => walk.fill(field, text.to_string()).map(|filled| {
            match filled.from {
                From::Text => {}
                From::Variables => drop(walk.hidden.insert("oci".to_owned())),
                From::Unread => walk.oci_unread = true,
            }
            Value::String(filled.text)
        }),
        DeValue::Boolean(value) => Some(Value::Bool(*value)),
        DeValue::Integer(number) => {
            let value = i128::from_str_radix(number.as_str(), number.radix()).ok().and_then(Number::from_i128);
            if value.is_none() {
                walk.mismatch(field, "a number of 64 bits", None);
            }
            value.map(Value::Number)
        }
        DeValue::Float(number) => {
            let value = number.as_str().parse().ok().and_then(Number::from_f64);
            if value.is_none() {
                walk.mismatch(field, "a number that JSON has", None);
            }
            value.map(Value::Number)
        }
        DeValue::Array(items) => {
            let each =
                |(n, value)| Field { name: format!("{}[{n}]", field.name), key_span: field.key_span.clone(), value };
            let fields: Vec<Field> = items.iter().enumerate().map(each).collect();
            Some(Value::Array(fields.iter().filter_map(|field| convert(walk, field)).collect()))
        }
        DeValue::Table(table) => Some(Value::Object(object(walk, &field.name, table))),
        DeValue::Datetime(_) => {
            walk.mismatch(field, "a value that JSON has", Some("quote it".to_owned()));
            None
        }
    }
}

/// What the supervisor decides itself cannot be overridden.
fn refuse_what_is_ours(walk: &mut Walk, table: &DeTable, map: &Map<String, Value>, source: Option<&Source>) {
    let at = |path: &str| map.get(path.split('.').next()?)?.get(path.split('.').nth(1)?);
    let mut refuse = |path: &str, why: &str| {
        let span = deepest(table, path).unwrap_or(0..0);
        walk.error(&span, format!("`oci.{path}` cannot be set"), Some(why.to_owned()));
    };
    if at("linux.cgroupsPath").is_some() {
        refuse("linux.cgroupsPath", "a unit's cgroup is placed by the supervisor: see --cgroup-root");
    }
    if at("process.terminal").is_some_and(|value| *value == Value::Bool(true)) {
        refuse("process.terminal", "it is a key of a unit's own: `terminal` in [process]");
    }
    if matches!(source, Some(Source::Executable(_))) && at("root.path").is_some() {
        refuse("root.path", "an `executable` unit's root is made around the file: use `rootfs`");
    }
    if matches!(source, Some(Source::Layers(_))) && at("root.path").is_some() {
        refuse("root.path", "the root is what `layers` make: use `rootfs`");
    }
    if matches!(source, Some(Source::Host)) {
        host::refuse_oci(map, refuse);
    }
}

/// Reads the hardened defaults merged with `[oci]` as a spec; what fails is taken out and the rest read again.
fn check_types(walk: &mut Walk, field: &Field, table: &DeTable, mut map: Map<String, Value>) {
    for _ in 0..MISTAKES_MAX {
        let mut merged = defaults::hardened();
        deep_merge(&mut merged, &map);
        let Err(error) = json::read_spec(Value::Object(merged).to_string().as_bytes()) else { return };
        let span = deepest(table, &error.path).unwrap_or_else(|| field.key_span.clone());
        let message = walk.hide(&error.message);
        walk.error(&span, format!("`oci.{}`: {message}", error.path), None);
        if !remove(&mut map, &error.path) {
            return;
        }
    }
}

/// The place of the value at a JSON path, or of what is nearest above it.
fn deepest(table: &DeTable, path: &str) -> Option<std::ops::Range<usize>> {
    let mut parts = path.split(['.', '[']);
    let (_, mut value) = table.get_key_value(parts.next()?)?;
    for part in parts {
        let below = match (value.get_ref(), part.strip_suffix(']')) {
            (DeValue::Array(items), Some(index)) => index.parse::<usize>().ok().and_then(|n| items.get(n)),
            (DeValue::Table(table), None) => table.get_key_value(part).map(|(_, value)| value),
            _ => None,
        };
        match below {
            Some(below) => value = below,
            None => break,
        }
    }
    Some(value.span())
}

/// Takes out the deepest key on a JSON path; false if the path is not in the map.
fn remove(map: &mut Map<String, Value>, path: &str) -> bool {
    let (key, rest) = path.split_once('.').unwrap_or((path, ""));
    let key = key.split('[').next().unwrap_or(key);
    match map.get_mut(key) {
        Some(Value::Object(below)) => remove(below, rest) || map.remove(key).is_some(),
        Some(_) => map.remove(key).is_some(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_merge_and_everything_else_replaces() {
        let base = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        let over = json!({"a": {"c": [3], "e": {"f": 1}}, "d": {"g": 1}});
        let mut merged = base.as_object().unwrap().clone();
        deep_merge(&mut merged, over.as_object().unwrap());
        assert_eq!(Value::Object(merged), json!({"a": {"b": 1, "c": [3], "e": {"f": 1}}, "d": {"g": 1}}));
    }

    #[test]
    fn the_deepest_key_on_a_path_is_taken_out() {
        let value = json!({"linux": {"resources": {"memory": {"limit": "x"}}, "devices": [{"type": 1}]}});
        let mut map = value.as_object().unwrap().clone();
        assert!(remove(&mut map, "linux.resources.memory.limit"));
        assert!(remove(&mut map, "linux.devices[0].type"));
        assert_eq!(Value::Object(map.clone()), json!({"linux": {"resources": {"memory": {}}}}));
        assert!(!remove(&mut map, "process.user"));
    }
}

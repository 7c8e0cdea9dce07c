//! What two texts of a unit differ in: each setting by its key, the old and the new value as a unit file would have
//! them, and what the change asks for.
//!
//! A setting that is absent is at its default. config.json and `[oci]` are compared value by value: their changes are
//! named by the JSON path (`config.json process.args[1]`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::fingerprint::{Setting, settings};
use super::quantity::{show_duration, show_size};
use super::{Effect, Signal, SourceFacts, Unit};
use crate::compact;

/// A longer value is cut: two of them are to fit into a few lines.
const VALUE_MAX_CHARS: usize = 160;

/// One setting that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// `restart.policy`, `mount./data`, `config.json process.cwd`.
    pub name: String,
    /// `None`: absent, so at its default.
    pub old: Option<String>,
    /// As `old`.
    pub new: Option<String>,
    /// What it asks for.
    pub effect: Effect,
    /// What env files define is in it: `old` and `new` say only that there is something.
    pub hidden: bool,
}

/// Stands for a value that is not shown.
const HIDDEN: &str = "(not shown)";
/// The same for another one.
const HIDDEN_OTHER: &str = "(changed, not shown)";

/// The settings that differ, by name. Empty: the two mean the same.
pub fn changes(old: (&Unit, &SourceFacts), new: (&Unit, &SourceFacts)) -> Vec<SettingChange> {
    let (before, after) = (by_name(old), by_name(new));
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    // Not whether it is shown: the same value may come from a text and from an env file.
    let meaning = |setting: &Setting| (setting.value.clone(), setting.effect);
    let differing = names.filter(|name| before.get(*name).map(meaning) != after.get(*name).map(meaning));
    let mut changes: Vec<SettingChange> =
        differing.flat_map(|name| change(before.get(name), after.get(name))).collect();
    compact::sort_by(&mut changes, |a, b| a.name.cmp(&b.name));
    // That replicas differ by their number is worth a word only where nothing else says what changed.
    let has_other = |least: Effect| changes.iter().any(|other| !is_by_number(other) && other.effect >= least);
    let (any, replacing) = (has_other(Effect::Supervisor), has_other(Effect::Replace));
    changes.retain(|change| !is_by_number(change) || !if change.effect == Effect::Replace { replacing } else { any });
    changes
}

fn is_by_number(change: &SettingChange) -> bool {
    change.name.starts_with("replicas.2")
}

fn by_name((unit, facts): (&Unit, &SourceFacts)) -> BTreeMap<String, Setting> {
    compact::map(settings(unit, facts).into_iter().map(|setting| (setting.name.clone(), setting)))
}

fn change(old: Option<&Setting>, new: Option<&Setting>) -> Vec<SettingChange> {
    let Some(either) = old.or(new) else { return Vec::new() };
    let name = either.name.clone();
    // One that moves from one effect to another asks for the stronger.
    let effects = [old, new].into_iter().flatten().map(|setting| setting.effect);
    let effect = effects.max().unwrap_or(either.effect);
    let hidden = [old, new].into_iter().flatten().any(|setting| setting.hidden);
    let shown = |setting: &Setting| if hidden { HIDDEN.to_owned() } else { shown(setting) };
    // An absent [oci] adds nothing, an absent config.json is something else than an empty one.
    let values = |setting: Option<&Setting>| match setting {
        None => (name == "oci").then(BTreeMap::new),
        Some(setting) => json(setting),
    };
    if let (Some(old), Some(new)) = (values(old), values(new)) {
        let paths = compact::set(old.keys().chain(new.keys()));
        let value = |all: &BTreeMap<String, String>, path: &String| {
            all.get(path).map(|value| if hidden { HIDDEN.to_owned() } else { cut(value) })
        };
        let differing = paths.into_iter().filter(|path| old.get(*path) != new.get(*path));
        let named = |path| SettingChange {
            name: format!("{name} {path}"),
            old: value(&old, path),
            new: value(&new, path),
            effect,
            hidden,
        };
        let found: Vec<SettingChange> = differing.map(named).map(SettingChange::with_other).collect();
        // A key with a dot in it and an object look the same.
        if !found.is_empty() {
            return found;
        }
    }
    let change = SettingChange { name, old: old.map(shown), new: new.map(shown), effect, hidden };
    let same = old.map(|setting| &setting.value) == new.map(|setting| &setting.value);
    vec![if same { change } else { change.with_other() }]
}

impl SettingChange {
    /// Says of two values that are not shown that they differ.
    fn with_other(mut self) -> SettingChange {
        if self.hidden && self.old.is_some() {
            self.new = self.new.map(|_| HIDDEN_OTHER.to_owned());
        }
        self
    }
}

/// The values of a setting that is JSON.
fn json(setting: &Setting) -> Option<BTreeMap<String, String>> {
    let value = matches!(setting.name.as_str(), "config.json" | "oci").then(|| compact::from_json(&setting.value));
    let mut all = BTreeMap::new();
    leaves(&value?.ok()?, "", &mut all);
    Some(all)
}

/// A value as a unit file has it.
fn shown(setting: &Setting) -> String {
    let Ok(text) = std::str::from_utf8(&setting.value) else { return quoted(&String::from_utf8_lossy(&setting.value)) };
    let number = text.parse::<u64>();
    let last = setting.name.rsplit('.').next().unwrap_or_default();
    let value = match (setting.name.as_str(), last, number) {
        ("config.json" | "oci", _, _) => text.to_owned(),
        ("layers" | "process.args" | "reload.exec" | "security.capabilities", _, _) => list(text),
        (name, "exec", _) if name.starts_with("health.") || name.starts_with("hooks.") => list(text),
        (name, _, _) if name.starts_with("process.env.") => quoted(text),
        (name, _, _) if name.starts_with("process.env_file.") => {
            if text.is_empty() { "required" } else { text }.to_owned()
        }
        (
            _,
            "delay" | "max_delay" | "reset_after" | "timeout" | "interval" | "max_age" | "min_healthy" | "deadline"
            | "watchdog" | "random_delay" | "max_runtime",
            Ok(ms),
        ) => quoted(&show_duration(Duration::from_millis(ms))),
        (_, "memory" | "shm" | "max_size", Ok(bytes)) | ("upper.size", _, Ok(bytes)) => quoted(&show_size(bytes)),
        ("resources.cpus", _, Ok(milli)) => format!("{}", milli as f64 / 1000.0),
        ("stop.signal" | "reload.signal", _, Ok(number)) => {
            Signal::from_number(number).map_or_else(|| text.to_owned(), |signal| quoted(&signal.to_string()))
        }
        ("restart.limit", _, _) => limit(text),
        (name, _, _) if name.starts_with("replicas.2") => "what it says by number".to_owned(),
        (name, "backlog", Ok(number)) if name.starts_with("socket.") => number.to_string(),
        (name, "mode" | "user" | "group", _) if name.starts_with("socket.") => quoted(text),
        (name, _, Ok(number)) if name.starts_with("socket.") => format!("descriptor {number}"),
        ("security.seccomp", _, _) if text.is_empty() => "a file".to_owned(),
        (name, _, _) if (name.starts_with("config.") || name.starts_with("secret.")) && text.is_empty() => {
            "a file".to_owned()
        }
        (_, _, Ok(_)) | ("enabled", _, _) => text.to_owned(),
        _ if matches!(text, "true" | "false") => text.to_owned(),
        _ => quoted(text),
    };
    cut(&value)
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn list(text: &str) -> String {
    let members: Vec<String> = text.split('\0').map(quoted).collect();
    format!("[{}]", members.join(", "))
}

fn limit(text: &str) -> String {
    let Some((burst, ms)) = text.split_once(' ').and_then(|(burst, ms)| Some((burst, ms.parse().ok()?))) else {
        return quoted(text);
    };
    format!("{{ burst = {burst}, interval = {} }}", quoted(&show_duration(Duration::from_millis(ms))))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(VALUE_MAX_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The values that hold no others, by their paths: an empty list is one, a list is not.
fn leaves(value: &Value, path: &str, all: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                leaves(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, all);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, value) in items.iter().enumerate() {
                leaves(value, &format!("{path}[{at}]"), all);
            }
        }
        leaf => drop(all.insert(path.to_owned(), leaf.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::unit::{UnitName, parse};

    fn unit(text: &str) -> Unit {
        let name = UnitName::new("web").unwrap();
        parse(&name, Path::new("/etc/moored/units/web.toml"), text).unwrap().unit
    }

    fn facts(config: &str) -> SourceFacts {
        SourceFacts { resolved: "/srv/web".into(), config_json: Some(config.as_bytes().into()), layers: Vec::new() }
    }

    fn between(old: &str, new: &str) -> Vec<(String, String, Effect)> {
        let (old, new) =
            (unit(&format!("bundle = \"/srv/web\"\n{old}")), unit(&format!("bundle = \"/srv/web\"\n{new}")));
        let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let changes = changes((&old, &facts("{}")), (&new, &facts("{}")));
        changes.into_iter().map(|c| (c.name, format!("{} {}", shown(c.old), shown(c.new)), c.effect)).collect()
    }

    #[test]
    fn values_are_shown_as_a_file_has_them() {
        use Effect::{Live, Replace, Supervisor};
        for (old, new, name, values, effect) in [
            ("", "enabled = false", "enabled", "- false", Supervisor),
            ("description = \"a\"", "description = \"b\"", "description", "\"a\" \"b\"", Supervisor),
            ("[stop]\ntimeout = \"90s\"", "[stop]\ntimeout = \"2m\"", "stop.timeout", "\"1m30s\" \"2m\"", Supervisor),
            ("", "[stop]\nsignal = 2", "stop.signal", "- \"SIGINT\"", Supervisor),
            (
                "",
                "[restart]\nlimit = { burst = 5, interval = \"60s\" }",
                "restart.limit",
                "- { burst = 5, interval = \"1m\" }",
                Supervisor,
            ),
            ("[resources]\nmemory = \"64M\"", "", "resources.memory", "\"64M\" -", Live),
            ("", "[resources]\ncpus = 1.5", "resources.cpus", "- 1.5", Live),
            ("", "[process]\nargs = [\"/a\", \"b c\"]", "process.args", "- [\"/a\", \"b c\"]", Replace),
            ("[process]\nenv = { A = 1 }", "[process]\nenv = { A = 2 }", "process.env.A", "\"1\" \"2\"", Replace),
            ("", "[process]\nnotify = \"systemd\"", "process.notify", "- \"systemd\"", Replace),
            (
                "[process]\nnotify = \"systemd\"\nwatchdog = \"30s\"",
                "[process]\nnotify = \"systemd\"\nwatchdog = \"90s\"",
                "process.watchdog",
                "\"30s\" \"1m30s\"",
                Replace,
            ),
            ("", "[[socket]]\nlisten = \"unix:///a.b\"", "socket.unix:///a.b", "- descriptor 3", Replace),
            ("", "[oci]\nprocess.umask = 1", "oci process.umask", "- 1", Replace),
            ("[oci]\nprocess.umask = 2", "[oci]\nprocess.umask = 1", "oci process.umask", "2 1", Replace),
        ] {
            assert_eq!(between(old, new), [(name.to_owned(), values.to_owned(), effect)], "{old} {new}");
        }
        assert_eq!(between("[stop]\ntimeout = \"60s\"", "[stop]\ntimeout = \"1m\""), []);
    }

    #[test]
    fn a_config_json_is_compared_value_by_value() {
        let unit = unit("bundle = \"/srv/web\"\n");
        let old = facts(r#"{"process": {"args": ["a", "b"], "cwd": "/"}, "mounts": []}"#);
        let new = facts(r#"{"process": {"args": ["a", "c", "d"]}, "mounts": [], "hostname": "x"}"#);
        let found = changes((&unit, &old), (&unit, &new));
        let found: Vec<_> = found.iter().map(|c| (c.name.as_str(), c.old.as_deref(), c.new.as_deref())).collect();
        let expected = [
            ("config.json hostname", None, Some("\"x\"")),
            ("config.json process.args[1]", Some("\"b\""), Some("\"c\"")),
            ("config.json process.args[2]", None, Some("\"d\"")),
            ("config.json process.cwd", Some("\"/\""), None),
        ];
        assert_eq!(found, expected);
        assert_eq!(changes((&unit, &old), (&unit, &old)), []);
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = format!("description = \"{}\"", "ä".repeat(1000));
        let [(_, values, _)] = between("", &long).try_into().unwrap();
        assert!(values.ends_with("ä…") && values.chars().count() < 200, "{values}");
    }
}

//! `moored.toml`, the supervisor's own file: its `[defaults]` are the lowest layer of every unit.
//!
//! Defaults may say what makes sense for every unit; what a unit is made of and runs is its own. They are judged by themselves, as those
//! of a unit without an instance, so that a mistake in them is one mistake and not one of each unit. Other tables come later.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, quote};
use super::layer::{Layer, LayerKind};
use super::specifier::Names;
use super::variable::Given;
use super::walk::{Field, Table, Walk};
use super::{UnitName, parse, schema, sections};

/// What `[defaults]` may hold, by table; of a table that is not named here, everything.
const ALLOWED: [(&str, &[&str]); 4] = [
    ("", &["process", "restart", "stop", "reload", "update", "resources", "network", "log", "security"]),
    ("process", &["env", "user", "init"]),
    ("network", &["mode"]),
    ("security", &["capabilities", "no_new_privileges", "seccomp", "read_only"]),
];

/// Whether `[defaults]` may hold a key, which is named with its tables.
pub(crate) fn is_default(name: &str) -> bool {
    let (table, key) = name.split_once('.').unwrap_or((name, ""));
    let is_in = |at: &str, key: &str| {
        ALLOWED.iter().find(|(table, _)| *table == at).is_none_or(|(_, allowed)| allowed.contains(&key))
    };
    is_in("", table) && is_in(table, key)
}

/// Whether a valid text holds defaults; or all that is wrong with it.
pub fn check_moored_toml(file: &Path, text: &str) -> Result<bool, Vec<Diagnostic>> {
    // No instance: what stands for nothing in some unit is no default.
    let Ok(name) = UnitName::new("unit") else { return Ok(false) };
    let base = file.parent().unwrap_or(Path::new("/"));
    let layer = Layer { kind: LayerKind::Main, file, base, text, is_template: false };
    parse::with_document(Names::of(&name), &[layer], Given::Unread, |walk, document, syntax| {
        let defaults = tables(walk, document);
        if let Some(map) = defaults {
            let mut allowed = map.clone();
            refuse(walk, "", &mut allowed);
            let top = walk.checked(Table { name: "", span: 0..0, map: &allowed });
            sections::unit(walk, &name, &top);
        }
        // A default need not be whole: a unit may say the rest.
        walk.absent.clear();
        match parse::mistakes(walk, syntax) {
            errors if errors.is_empty() => Ok(defaults.is_some_and(|map| !map.is_empty())),
            errors => Err(errors),
        }
    })
}

fn tables<'d, 't>(walk: &mut Walk, document: &'d DeTable<'t>) -> Option<&'d DeTable<'t>> {
    let mut defaults = None;
    for (key, value) in document.iter() {
        let word: &str = key.get_ref();
        match (word, value.get_ref()) {
            ("defaults", DeValue::Table(map)) => defaults = Some(map),
            ("defaults", _) => {
                let field = Field { name: word.to_owned(), key_span: key.span(), value };
                walk.mismatch(&field, "a table", Some("write [defaults]".to_owned()));
            }
            (word, _) if word.starts_with("x-") => {}
            (word, _) => {
                let unit_key = schema::is_key("", word).then(|| format!("did you mean {word} in [defaults]?"));
                let help = unit_key.or_else(|| {
                    crate::words::nearest(word, ["defaults"]).map(|word| format!("did you mean [{word}]?"))
                });
                let message = format!("unknown key `{}`, expected [defaults]", quote(word));
                walk.error(&key.span(), message, help);
            }
        }
    }
    defaults
}

/// Takes out what is no default, each with a mistake.
fn refuse(walk: &mut Walk, at: &str, map: &mut DeTable) {
    let Some((_, allowed)) = ALLOWED.iter().find(|(table, _)| *table == at) else { return };
    let is_refused = |key: &str| schema::is_key(at, key) && !allowed.contains(&key);
    let refused: Vec<String> = map.keys().map(|key| key.get_ref().to_string()).filter(|key| is_refused(key)).collect();
    for key in refused {
        let Some((found, _)) = map.remove_entry(key.as_str()) else { continue };
        let name = if at.is_empty() { key } else { format!("{at}.{key}") };
        let message = format!("`{name}` in [defaults], expected what makes sense for every unit");
        walk.error(&found.span(), message, Some("write it into the units' own files".to_owned()));
    }
    if at.is_empty() {
        for (key, value) in map.iter_mut() {
            if let DeValue::Table(below) = value.get_mut() {
                refuse(walk, key.get_ref(), below);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<bool, Vec<String>> {
        let lines = |errors: Vec<Diagnostic>| errors.iter().map(ToString::to_string).collect();
        check_moored_toml(Path::new("moored.toml"), text).map_err(lines)
    }

    #[test]
    fn what_makes_sense_for_every_unit_is_a_default() {
        let text = "x-mine = 1\n[defaults]\nx-too = 2\nprocess = { env = { ID = \"%n\" }, user = \"1000:1000\", init = true }\n\
            stop.timeout = \"5s\"\nreload.signal = \"SIGUSR1\"\nresources = { memory = \"1G\", pids = 10 }\nlog.max_files = 2\n\
            network.mode = \"host\"\nsecurity.read_only = false\n[defaults.restart]\npolicy = \"on-failure\"\nlimit.burst = 3\n";
        assert_eq!(read(text), Ok(true));
        for nothing in ["", "# a comment\n", "[defaults]\n", "x-mine = 1\n"] {
            assert_eq!(read(nothing), Ok(false), "{nothing}");
        }
    }

    #[test]
    fn what_is_a_units_own_is_refused_by_name() {
        let text = "defaults.bundle = \"/b\"\ndefaults.process.args = [1]\ndefaults.mount = 3\n[defaults.stop]\ntimeot = 5\nsignal = 99\n\
            [defaults.process.env]\nA = \"%i\"\n";
        let errors = read(text).unwrap_err();
        let expected = [
            "moored.toml:1:10 `bundle` in [defaults], expected what makes sense for every unit, write it into the units' own files",
            "moored.toml:2:18 `process.args` in [defaults], expected what makes sense for every unit, write it into the units' own files",
            "moored.toml:3:10 `mount` in [defaults], expected what makes sense for every unit, write it into the units' own files",
            "moored.toml:5:1 unknown key `timeot`, did you mean `timeout`?",
            "moored.toml:6:10 `stop.signal` is the integer 99, expected a signal from 1 to 64",
        ];
        assert_eq!(errors[..5], expected);
        assert!(errors[5].starts_with("moored.toml:8:5 `process.env.A` holds the specifier `%i`"), "{errors:?}");
        assert_eq!(errors.len(), 6);
    }

    #[test]
    fn other_tables_are_refused_by_name() {
        assert_eq!(
            read("defaults = 1\n[stop]\n[default]\n[zebra]\n").unwrap_err(),
            [
                "moored.toml:1:12 `defaults` is the integer 1, expected a table, write [defaults]",
                "moored.toml:2:2 unknown key `stop`, expected [defaults], did you mean stop in [defaults]?",
                "moored.toml:3:2 unknown key `default`, expected [defaults], did you mean [defaults]?",
                "moored.toml:4:2 unknown key `zebra`, expected [defaults]",
            ]
        );
        assert_eq!(read("[defaults\n").unwrap_err().len(), 1);
    }
}

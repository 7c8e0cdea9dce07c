use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::unit::{
    Effect, FileContents, Layer, LayerKind, Names, Source, SourceFacts, SwapMark, Unit, UnitName, Variables, changes,
    check_moored_toml, container_fingerprint, instances_of, mistakes_of_part, parse, parse_init_toml, schema,
};

fn unit(text: &str) -> Unit {
    let name = UnitName::new("web").unwrap();
    parse(&name, Path::new("/etc/moored/units/web.toml"), text).unwrap_or_else(|e| panic!("{e:?} in {text}")).unit
}

#[test]
fn the_keys_are_those_that_the_parser_knows() {
    let listed: BTreeSet<String> = KEYS.iter().map(|key| key.name.replace("[]", "")).collect();
    let known = schema::all_keys().map(|(table, key)| match table {
        "" => key.to_owned(),
        table => format!("{table}.{key}"),
    });
    // A table is listed by its keys.
    let is_written_out = |name: &str| name.starts_with("health.") || name.starts_with("hooks.");
    let known = known.filter(|name| !is_written_out(name) || name.contains('*'));
    let known: BTreeSet<String> =
        known.filter(|name| *name == "oci" || !schema::all_keys().any(|(table, _)| table == name.as_str())).collect();
    assert_eq!(listed, known);
}

/// The text with a key, and one that differs from it in that key alone.
fn texts(key: &Key) -> (String, String) {
    let base = "bundle = \"/srv/b\"\n";
    let (name, example) = (key.name, key.example);
    match name {
        "bundle" | "rootfs" | "executable" => {
            let other = if name == "bundle" { "\"/srv/other\"" } else { "\"/srv/b\"" };
            let text = |path: &str| format!("{name} = {path}\n[process]\nargs = [\"/b\"]\n");
            let executable = name == "executable";
            (
                text(if executable { "\"/srv/b\"" } else { other }),
                text(if executable { "\"/srv/c/b\"" } else { example }),
            )
        }
        "layers" => {
            let text = |layers: &str| format!("layers = {layers}\nprocess.args = [\"/b\"]\n");
            (text("[\"/srv/base\", \"/srv/other\"]"), text(example))
        }
        "overlay" => {
            let text = |more: &str| format!("rootfs = \"/srv/b\"\n{more}process.args = [\"/b\"]\n");
            (text(""), text(&format!("overlay = {example}\n")))
        }
        _ if name.starts_with("upper.") => {
            let persist = if name == "upper.on_change" { "upper.persist = true\n" } else { "" };
            let text = format!("layers = [\"/srv/b\"]\nprocess.args = [\"/b\"]\n{persist}");
            (text.clone(), format!("{text}{name} = {example}\n"))
        }
        "security.profile" => {
            let text = |more: &str| format!("{more}[process]\nargs = [\"/b\"]\n");
            (text("rootfs = \"/srv\"\n"), text(&format!("security.profile = {example}\n")))
        }
        "restart.limit.burst" | "restart.limit.interval" => {
            let text =
                |burst, interval| format!("{base}[restart]\nlimit = {{ burst = {burst}, interval = {interval} }}\n");
            if name.ends_with("burst") {
                (text("9", "\"1h\""), text(example, "\"1h\""))
            } else {
                (text("9", "\"1h\""), text("9", example))
            }
        }
        "reload.exec" => {
            (format!("{base}[reload]\nsignal = \"SIGHUP\"\n"), format!("{base}[reload]\nexec = {example}\n"))
        }
        "process.watchdog" => {
            let text = format!("{base}[process]\nnotify = \"systemd\"\n");
            (text.clone(), format!("{text}watchdog = {example}\n"))
        }
        "mount[].target" => {
            let text = |target| format!("{base}[[mount]]\nsource = \"/x\"\ntarget = {target}\n");
            (text("\"/y\""), text(example))
        }
        "mount[].type" => (
            format!("{base}[[mount]]\nsource = \"/x\"\ntarget = \"/y\"\n"),
            format!("{base}[[mount]]\ntarget = \"/y\"\ntype = {example}\n"),
        ),
        "mount[].size" => {
            let text = format!("{base}[[mount]]\ntarget = \"/y\"\ntype = \"tmpfs\"\n");
            (text.clone(), format!("{text}size = {example}\n"))
        }
        "mount[].source" => {
            let text = |source| format!("{base}[[mount]]\nsource = {source}\ntarget = \"/y\"\n");
            (text("\"/x\""), text(example))
        }
        "depends_on.*.state" | "depends_on.*.optional" | "depends_on.*.on_loss" => {
            let text = format!("{base}[depends_on.db]\n");
            let key = name.strip_prefix(OF_DEPENDENCY).unwrap();
            (text.clone(), format!("{text}{key} = {example}\n"))
        }
        "health.*.exec" | "health.*.http" | "health.*.tcp" | "health.*.file" => {
            let text = format!("{base}[health.liveness]\n");
            (format!("{text}tcp = \"localhost:1\"\n"), format!("{text}{} = {example}\n", &name[OF_CHECK.len()..]))
        }
        "schedule.calendar" => {
            let text = format!("{base}[schedule]\n");
            (format!("{text}calendar = \"daily\"\n"), format!("{text}calendar = {example}\n"))
        }
        _ if name.starts_with("schedule.") => {
            let text = format!("{base}[schedule]\ncalendar = \"daily\"\n");
            (text.clone(), format!("{text}{} = {example}\n", name.trim_start_matches("schedule.")))
        }
        "hooks.*.exec" => {
            let text = format!("{base}[hooks.pre_stop]\n");
            (format!("{text}exec = [\"/bin/x\"]\n"), format!("{text}exec = {example}\n"))
        }
        _ if name.starts_with(OF_HOOK) => {
            let text = format!("{base}[hooks.pre_stop]\nexec = [\"/bin/x\"]\n");
            (text.clone(), format!("{text}{} = {example}\n", &name[OF_HOOK.len()..]))
        }
        _ if name.starts_with(OF_CHECK) => {
            let text = format!("{base}[health.liveness]\nfile = \"/x\"\n");
            (text.clone(), format!("{text}{} = {example}\n", &name[OF_CHECK.len()..]))
        }
        "mount[].idmap" => {
            let text = format!("{base}[security]\nuserns = \"auto\"\n[[mount]]\nsource = \"/x\"\ntarget = \"/y\"\n");
            (text.clone(), format!("{text}idmap = {example}\n"))
        }
        "mount[].read_only" | "mount[].require_mountpoint" => {
            let text = format!("{base}[[mount]]\nsource = \"/x\"\ntarget = \"/y\"\n");
            (text.clone(), format!("{text}{} = {example}\n", name.trim_start_matches("mount[].")))
        }
        "config[].source" | "config[].target" | "secret[].source" | "secret[].target" => {
            let table = name.split('[').next().unwrap();
            let text = |source, target| format!("{base}[[{table}]]\nsource = {source}\ntarget = {target}\n");
            let other = if name.ends_with("source") { text(example, "\"/y\"") } else { text("\"/x\"", example) };
            (text("\"/x\"", "\"/y\""), other)
        }
        "config[].on_change" | "secret[].on_change" | "config[].mode" | "secret[].mode" => {
            let table = name.split('[').next().unwrap();
            let text = format!("{base}[[{table}]]\nsource = \"/x\"\ntarget = \"/y\"\n");
            (text.clone(), format!("{text}{} = {example}\n", name.rsplit('.').next().unwrap()))
        }
        "socket[].listen" => (base.to_owned(), format!("{base}[[socket]]\nlisten = {example}\n")),
        "socket[].name" => {
            let text = format!("{base}[[socket]]\nlisten = \"unix:///x\"\n");
            (text.clone(), format!("{text}name = {example}\n"))
        }
        "socket[].backlog" | "socket[].mode" | "socket[].user" | "socket[].group" => {
            let text = format!("{base}[[socket]]\nlisten = \"unix:///x\"\n");
            (text.clone(), format!("{text}{} = {example}\n", &name["socket[].".len()..]))
        }
        "socket[].reuse_port" | "socket[].free_bind" => {
            let text = format!("{base}[[socket]]\nlisten = \"udp://1.2.3.4:5\"\n");
            (text.clone(), format!("{text}{} = {example}\n", &name["socket[].".len()..]))
        }
        "device[].path" => (base.to_owned(), format!("{base}[[device]]\npath = {example}\n")),
        _ => match name.split_once('.') {
            None => (base.to_owned(), format!("{base}{name} = {example}\n")),
            Some((table, key)) => (base.to_owned(), format!("{base}[{table}]\n{key} = {example}\n")),
        },
    }
}

/// The README's table says what a change of each key does: here it is done.
#[test]
fn each_key_has_the_class_that_the_table_says() {
    for key in KEYS.iter().filter(|key| NOT_IN_CLASS_TEST.iter().all(|(other, _)| *other != key.name)) {
        let (old, new) = texts(key);
        let (mut old, mut new) = (unit(&old), unit(&new));
        if !new.process.env_files.is_empty() {
            new.process.variables = Variables::of_files([(Path::new("web.env"), &b"A=1"[..])]).unwrap();
        }
        for unit in [&mut old, &mut new] {
            unit.configs.iter_mut().for_each(|file| file.contents = Some(FileContents::new(b"x"[..].into())));
        }
        let facts = |unit: &Unit| SourceFacts {
            resolved: unit.source.path().to_owned(),
            config_json: None,
            layers: if let Source::Layers(layers) = &unit.source { layers.clone() } else { Vec::new() },
        };
        let found = changes((&old, &facts(&old)), (&new, &facts(&new)));
        assert!(!found.is_empty(), "{}: {} changes nothing", key.name, key.example);
        let replaces = found.iter().any(|change| change.effect == Effect::Replace);
        assert_eq!(replaces, key.class == Class::Replace, "{}: {found:?}", key.name);
        // Secrets are no part of the fingerprint, but of a mark that replaces a container in the same way.
        let secrets = |unit: &Unit| SwapMark::of(unit).map(|mark| mark.restart).unwrap_or_default();
        let prints = [&old, &new].map(|unit| (container_fingerprint(unit, &facts(unit)), secrets(unit)));
        assert_eq!(prints[0] != prints[1], key.class == Class::Replace, "{}: another container", key.name);
    }
}

#[test]
fn the_readme_names_tests_that_there_are() {
    assert!(include_str!("tests.rs").contains(&format!("fn {CLASS_TEST}()")));
    let other = "it_stands_in_templates_alone_and_is_no_setting";
    assert!(NOT_IN_CLASS_TEST[0].1.contains(other));
    assert!(include_str!("../instances.rs").contains(&format!("fn {other}()")));
}

/// `MOORED_BLESS=1` writes it anew.
#[test]
fn the_readme_has_the_table() {
    let readme = include_str!("../../../README.md");
    if std::env::var_os("MOORED_BLESS").is_some() {
        let (before, rest) = readme.split_once("The class of each key is shown by").unwrap();
        let after = rest.split_once("|\n\n").unwrap().1;
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        return std::fs::write(path, format!("{before}{}\n{after}", markdown_table())).unwrap();
    }
    assert!(readme.contains(&markdown_table()), "README.md lacks this table:\n\n{}", markdown_table());
}

/// What a reader copies from the README is taken.
#[test]
fn every_sample_of_the_readme_is_right() {
    let readme = include_str!("../../../README.md");
    let blocks =
        readme.split("\n```toml\n").skip(1).filter_map(|block| block.split_once("\n```")).map(|(toml, _)| toml);
    let (name, mut samples) = (UnitName::new("worker@a").unwrap(), 0);
    for text in blocks {
        let name = if text.contains("replicas =") { UnitName::new("web").unwrap() } else { name.clone() };
        let errors = if text.contains("[defaults]") {
            check_moored_toml(Path::new("moored.toml"), text).err().unwrap_or_default()
        } else if text.contains("host_name") {
            parse_init_toml(Path::new("init.toml"), text).err().unwrap_or_default()
        } else if text.contains("instances =") {
            instances_of(Path::new("/etc/moored/units/worker@.toml"), text).err().unwrap_or_default()
        } else {
            let layer = |kind, text| {
                let (file, base) = (Path::new("/etc/moored/units/x.toml"), Path::new("/"));
                Layer { kind, file, base, text, is_template: text.contains("instances") }
            };
            let below = "resources.memory = \"1G\"\nmount = [{ source = \"/c\", target = \"/cache\" }]\n";
            // What takes something away is a drop-in.
            let layers = match text.contains("unset") {
                true => vec![layer(LayerKind::Main, below), layer(LayerKind::DropIn, text)],
                false => vec![layer(LayerKind::Main, text)],
            };
            mistakes_of_part(Names::of(&name), &layers)
        };
        assert!(errors.is_empty(), "{text}\n{errors:?}");
        samples += 1;
    }
    assert!(samples > 10, "{samples}");
}

//! What several texts of a unit mean together, and where their mistakes are told.

use std::path::Path;

use super::*;

const MAIN: &str = "rootfs = \"roots/web\"\n[process]\nargs = [\"/bin/web\"]\n";

fn layer(kind: LayerKind, file: &'static str, text: &'static str) -> Layer<'static> {
    let path = Path::new(file);
    Layer { kind, file: path, base: path.parent().unwrap(), text, is_template: false }
}

/// `web.toml` with these drop-ins, `10.toml` and so on in a directory of their own.
fn read(main: &'static str, drop_ins: &[&'static str]) -> Result<Parsed, Vec<Diagnostic>> {
    const FILES: [&str; 3] = ["/d/web.toml.d/10.toml", "/d/web.toml.d/20.toml", "/d/web.toml.d/30.toml"];
    let above = FILES.iter().zip(drop_ins).map(|(file, text)| layer(LayerKind::DropIn, file, text));
    let layers: Vec<Layer> = [layer(LayerKind::Main, "/d/web.toml", main)].into_iter().chain(above).collect();
    parse_layers(Names::of(&UnitName::new("web").unwrap()), &layers)
}

fn unit(main: &'static str, drop_ins: &[&'static str]) -> Unit {
    let parsed = read(main, drop_ins).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(parsed.warnings, []);
    parsed.unit
}

fn errors(main: &'static str, drop_ins: &[&'static str]) -> Vec<String> {
    read(main, drop_ins).unwrap_err().iter().map(|error| error.to_string().replace("/d/", "")).collect()
}

fn plain(text: &'static str) -> Unit {
    unit(text, &[])
}

#[test]
fn tables_merge_and_values_and_arrays_replace() {
    let merged = unit(
        "rootfs = \"/r\"\n[process]\nargs = [\"/a\", \"b\"]\nenv = { A = 1, B = 2 }\n[stop]\ntimeout = \"5s\"\n",
        &["[process]\nargs = [\"/c\"]\nenv.B = 3\nenv.C = 4\n", "stop.signal = \"SIGINT\"\nprocess.env.C = \"x\"\n"],
    );
    let expected = "rootfs = \"/r\"\nstop = { timeout = \"5s\", signal = \"SIGINT\" }\n\
        process = { args = [\"/c\"], env = { A = 1, B = 3, C = \"x\" } }\n";
    assert_eq!(merged, plain(expected));
    assert_eq!(unit(MAIN, &["", "# nothing\n", "[process]\n"]), plain(MAIN), "what says nothing changes nothing");
}

#[test]
fn arrays_of_tables_merge_by_the_key_that_names_them() {
    let main = "rootfs = \"/r\"\nprocess.args = [\"/a\"]\n[[mount]]\nsource = \"/s\"\ntarget = \"/data\"\n\
        [[mount]]\ntype = \"tmpfs\"\ntarget = \"/run\"\n[[device]]\npath = \"/dev/a\"\n";
    let above = "[[mount]]\ntarget = \"//data/\"\nread_only = false\n[[mount]]\nsource = \"/t\"\ntarget = \"/%p\"\n\
        [[device]]\npath = \"/dev/b\"\n[[device]]\npath = \"/dev/a\"\n";
    let expected = "rootfs = \"/r\"\nprocess.args = [\"/a\"]\n\
        mount = [{ source = \"/s\", target = \"/data\", read_only = false }, { type = \"tmpfs\", target = \"/run\" },\n\
        { source = \"/t\", target = \"/web\" }]\ndevice = [{ path = \"/dev/a\" }, { path = \"/dev/b\" }]\n";
    assert_eq!(unit(main, &[above]), plain(expected));
    let twice = "[[mount]]\ntarget = \"/data\"\nread_only = false\n[[mount]]\nsource = \"/t\"\ntarget = \"/data\"\n";
    assert_eq!(
        errors(main, &[twice]),
        ["web.toml.d/10.toml:6:10 `mount.target` \"/data\" is taken by the mount of line 2, one mount for each target"]
    );
}

#[test]
fn unset_takes_away_what_is_below_and_then_the_drop_in_is_merged() {
    let main = "rootfs = \"/r\"\nprocess = { args = [\"/a\"], env = { \"a.b\" = 1, C = 2 } }\nresources.memory = \"1G\"\n\
        restart.limit = { burst = 1, interval = \"1m\" }\n[[mount]]\nsource = \"/s\"\ntarget = \"/etc/app.conf\"\n\
        [[mount]]\nsource = \"/s\"\ntarget = \"/b\"\nrequire_mountpoint = true\n";
    let above = "unset = [\"resources.memory\", \"mount./etc/app.conf\", \"mount.//b/.require_mountpoint\", \"process.env.a.b\", \"restart\"]\n\
        [[mount]]\ntype = \"tmpfs\"\ntarget = \"/etc/app.conf\"\n";
    let expected = "rootfs = \"/r\"\nprocess = { args = [\"/a\"], env = { C = 2 } }\n\
        mount = [{ type = \"tmpfs\", target = \"/etc/app.conf\" }, { source = \"/s\", target = \"/b\" }]\n";
    assert_eq!(unit(main, &[above]), plain(expected));
    assert_eq!(
        unit(main, &["unset = [\"mount\"]\n", "unset = [\"resources\", \"restart\", \"process.env\"]\n"]).mounts,
        []
    );
}

#[test]
fn unset_of_what_is_not_there_is_a_warning_and_of_what_cannot_be_a_mistake() {
    let parsed = read(MAIN, &["unset = [\"stop.timeout\", \"mount./x\", \"process.env.A\", \"x-mine\"]\n"]).unwrap();
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert_eq!(
        warnings[0],
        "/d/web.toml.d/10.toml:1:10 `unset` names `stop.timeout`, which nothing below this drop-in sets"
    );
    assert_eq!(
        errors(MAIN, &["unset = [\"resources.memmory\", 3, \"image\"]\n", "unset = \"stop\"\n"]),
        [
            "web.toml.d/10.toml:1:10 `unset` names `resources.memmory`: unknown key `memmory`, did you mean `memory`?",
            "web.toml.d/10.toml:1:31 `unset[1]` is the integer 3, expected a key like \"resources.memory\" or \"mount./data\", write \"3\"",
            "web.toml.d/10.toml:1:34 `image` is known but not built in this version, unpack it into a directory (docker export … | tar x) and use `rootfs`",
            "web.toml.d/20.toml:1:9 `unset` is the string \"stop\", expected an array of strings, write [\"stop\"]",
        ]
    );
    assert_eq!(
        errors(MAIN, &["unset = [\"health.liveness.htp\"]\n"]),
        ["web.toml.d/10.toml:1:10 `unset` names `health.liveness.htp`: unknown key `htp`, did you mean `http`?"]
    );
    let in_main = "unset = []\nrootfs = \"/r\"\nprocess.args = [\"/a\"]\n";
    assert_eq!(
        errors(in_main, &[]),
        ["web.toml:1:1 unknown key `unset`, it belongs to the top level of a drop-in, NAME.toml.d/*.toml"]
    );
}

#[test]
fn of_keys_that_exclude_each_other_the_later_text_counts() {
    let main = "rootfs = \"/r\"\nprocess.args = [\"/a\"]\nreload.signal = \"SIGHUP\"\n";
    let merged = unit(main, &["bundle = \"/b\"\nreload.exec = [\"/x\"]\n"]);
    assert_eq!(merged.source, Source::Bundle("/b".into()));
    assert_eq!(merged.reload, Some(Reload::Exec(vec!["/x".to_owned()])));
    assert_eq!(
        errors(main, &["bundle = \"/b\"\nexecutable = \"/c\"\n"]),
        ["web.toml.d/10.toml:2:1 `executable` beside `bundle` (line 1), expected exactly one source, keep one of them"]
    );
}

#[test]
fn a_probe_of_another_kind_takes_the_place_of_the_one_below() {
    let main = "bundle = \"/b\"\n[health.liveness]\nhttp = \"http://127.0.0.1:80/\"\ninterval = \"3s\"\n";
    let expected = plain("bundle = \"/b\"\n[health.liveness]\nexec = [\"/x\"]\ninterval = \"3s\"\n");
    assert_eq!(unit(main, &["health.liveness.exec = [\"/x\"]\n"]), expected);
}

#[test]
fn a_dependency_written_as_its_state_takes_more_keys() {
    let main = "bundle = \"/b\"\ndepends_on = { db = \"completed\" }\n";
    let merged = unit(main, &["[depends_on.db]\noptional = true\n"]);
    let db = merged.depends_on[&UnitName::new("db").unwrap()];
    assert_eq!((db.state, db.optional), (Need::Completed, true));
}

#[test]
fn relative_paths_start_from_the_file_that_they_stand_in() {
    let merged =
        unit(MAIN, &["[[mount]]\nsource = \"data\"\ntarget = \"/data\"\n", "condition.path_exists = [\"flag\"]\n"]);
    assert_eq!(merged.source, Source::Rootfs("/d/roots/web".into()));
    assert_eq!(merged.mounts[0].kind, MountKind::Bind { source: "/d/web.toml.d/data".into() });
    assert_eq!(merged.conditions, [Condition::PathExists("/d/web.toml.d/flag".into())]);
}

#[test]
fn mistakes_are_told_in_the_file_that_they_stand_in() {
    assert_eq!(
        errors(
            "rootfs = \"/r\"\nenabeld = true\n[stop]\ntimeout = 5\n",
            &["\n[stop]\nsignal = \"TERN\"\n", "[process]\nargs = 1\n"]
        ),
        [
            "web.toml:2:1 unknown key `enabeld`, did you mean `enabled`?",
            "web.toml:4:11 `stop.timeout` is the integer 5, expected a duration like \"250ms\" or \"1m30s\", did you mean \"5s\"?",
            "web.toml.d/10.toml:3:10 `stop.signal` is the string \"TERN\", expected a signal like \"SIGTERM\", did you mean \"SIGTERM\"?",
            "web.toml.d/20.toml:2:8 `process.args` is the integer 1, expected an array of strings",
        ]
    );
    let broken = errors(MAIN, &["[stop]\ntimeout = 5s\n", "stop.signal = 99\n"]);
    assert!(broken[0].starts_with("web.toml.d/10.toml:2:"), "{broken:?}");
    assert!(broken[1].starts_with("web.toml.d/20.toml:1:15 "), "{broken:?}");
    assert_eq!(broken.len(), 2, "{broken:?}");
    // Nothing is said to be missing while a text cannot be read.
    assert_eq!(errors("", &["stop = [\n"]).len(), 1);
    assert_eq!(errors("", &["stop.timeout = \"1s\"\n"])[0].split(' ').next(), Some("web.toml:1:1"));
    // What a later text replaces is not judged.
    assert_eq!(
        unit("rootfs = 3\nprocess.args = [\"/a\"]\n", &["rootfs = \"/r\"\n"]).source,
        Source::Rootfs("/r".into())
    );
}

#[test]
fn all_texts_together_have_the_bounds_of_one() {
    let big: &'static str = Box::leak("#".repeat(TEXT_MAX / 2).into_boxed_str());
    assert_eq!(
        errors(MAIN, &[big, big]),
        [format!(
            "web.toml.d/20.toml:1:1 the file has {} bytes, with those before it, expected at most 1048576 (1M)",
            TEXT_MAX + MAIN.len()
        )]
    );
}

#[test]
fn a_drop_in_that_says_what_the_text_says_means_the_same() {
    let whole = include_str!("whole.toml");
    let main = layer(LayerKind::Main, "/d/web.toml", whole);
    let above = layer(LayerKind::DropIn, "/d/again.toml", whole);
    let parse = |layers: &[Layer]| parse_layers(Names::of(&UnitName::new("web").unwrap()), layers).unwrap().unit;
    assert_eq!(parse(&[main, above]), parse(&[main]));
}

//! What is said of files as they are found.

use super::*;
use crate::control::testing::TempDir;

const PLAIN: Style = Style { colour: false, width: None, now_ms: 0 };

/// A program of this machine's that stands alone: this test is linked like the product.
fn static_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn said(dir: &TempDir, paths: &[&str]) -> String {
    let paths: Vec<PathBuf> = paths.iter().map(|path| dir.path().join(path)).collect();
    let text = as_text(&check_all(&paths, &dir.path().join("moored.toml")), &PLAIN);
    text.replace(&format!("{}/", dir.path().display()), "")
}

fn write(dir: &TempDir, name: &str, text: &str) {
    let path = dir.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_directory_of_valid_units_is_counted() {
    let dir = TempDir::new("check");
    write(&dir, "u/one.toml", &format!("executable = \"{}\"\n", static_program().display()));
    std::fs::create_dir(dir.path().join("root")).unwrap();
    write(&dir, "u/two.toml", "rootfs = \"../root\"\n[process]\nargs = [\"/bin/true\"]\n");
    std::os::unix::fs::symlink("/dev/null", dir.path().join("u/masked.toml")).unwrap();
    for other in ["u/.one.toml.swp", "u/one.toml~", "u/README"] {
        write(&dir, other, "not looked at = [");
    }
    assert_eq!(said(&dir, &["u"]), "2 unit files checked, no errors\n");
}

#[test]
fn a_template_is_checked_as_some_instance_without_its_source() {
    let dir = TempDir::new("template");
    write(&dir, "u/worker@.toml", "rootfs = \"roots/%i\"\n[process]\nargs = [\"/bin/%p\"]\n");
    assert_eq!(said(&dir, &["u"]), "1 unit file checked, no errors\n");
    assert_eq!(said(&dir, &["u/worker@.toml"]), "1 unit file checked, no errors\n");
    std::os::unix::fs::symlink("worker@.toml", dir.path().join("u/worker@a.toml")).unwrap();
    let text = said(&dir, &["u"]);
    assert!(text.starts_with("u/worker@a.toml:1:1 ") && text.contains("roots/a"), "{text}");
    write(&dir, "u/worker@.toml", "rootfs = \"/srv/%x\"\n[process]\nargs = [\"/bin/%p\"]\n");
    assert!(
        said(&dir, &["u/worker@.toml"]).starts_with("u/worker@.toml:1:10 `rootfs` holds the unknown specifier `%x`")
    );
}

#[test]
fn a_unit_is_checked_with_its_drop_ins() {
    let dir = TempDir::new("drop-ins");
    std::fs::create_dir(dir.path().join("root")).unwrap();
    write(&dir, "u/web.toml", "rootfs = \"../root\"\n[process]\nargs = [\"/bin/true\"]\n");
    write(&dir, "u/web.toml.d/10.toml", "[stop]\ntimeout = \"5s\"\n");
    write(&dir, "u/web.toml.d/README", "not looked at = [");
    std::os::unix::fs::symlink("/dev/null", dir.path().join("u/web.toml.d/20.toml")).unwrap();
    for path in ["u", "u/web.toml", "u/web.toml.d", "u/web.toml.d/10.toml"] {
        assert_eq!(said(&dir, &[path]), "1 unit file checked, no errors\n", "{path}");
    }
    write(&dir, "u/web.toml.d/30.toml", "rootfs = \"nowhere\"\n");
    let text = said(&dir, &["u"]);
    assert!(
        text.starts_with("u/web.toml.d/30.toml:1:1 rootfs ") && text.contains("/web.toml.d/nowhere does not"),
        "{text}"
    );
    write(&dir, "u/web.toml.d/30.toml", "unset = [\"restart\"]\nenabeld = true\n");
    let text =
        "u/web.toml.d/30.toml:2:1 unknown key `enabeld`, did you mean `enabled`?\n1 unit file checked, 1 error\n";
    for path in ["u", "u/web.toml", "u/web.toml.d/30.toml", "u/web.toml.d"] {
        assert_eq!(said(&dir, &[path]), text, "{path}");
    }
}

#[test]
fn drop_ins_of_no_unit_are_told_of() {
    let dir = TempDir::new("lonely");
    write(&dir, "u/web.toml.d/10.toml", "[stop]\ntimeout = \"5s\"\n");
    write(&dir, "u/db.toml.d/10.toml", "[stop]\ntimeout = 5\n");
    write(&dir, "u/my web.toml.d/10.toml", "");
    write(&dir, "u/worker@.toml.d/10.toml", "process.args = [\"/bin/x\", \"%i\"]\n");
    let text = said(&dir, &["u"]);
    let expected = [
        "u/db.toml.d:1:1 warning: there is no db.toml: these drop-ins change nothing",
        "u/db.toml.d/10.toml:2:11 `stop.timeout` is the integer 5",
        "u/my web.toml.d:1:1 `my web` is not a unit name",
        "u/web.toml.d:1:1 warning: there is no web.toml: these drop-ins change nothing",
        "u/worker@.toml.d:1:1 warning: there is no worker@.toml: these drop-ins change nothing",
        "0 unit files checked, 2 errors",
    ];
    for (line, start) in text.lines().zip(expected) {
        assert!(line.starts_with(start), "{text}");
    }
    assert_eq!(text.lines().count(), expected.len(), "{text}");
    assert!(said(&dir, &["u/web.toml.d/10.toml"]).starts_with("u/web.toml.d:1:1 warning: there is no web.toml"));
    write(&dir, "u/worker@a.toml", &format!("executable = \"{}\"\n", static_program().display()));
    assert!(!said(&dir, &["u"]).contains("there is no worker@.toml"));
}

#[test]
fn moored_toml_is_checked_and_its_defaults_are_below_every_unit() {
    let dir = TempDir::new("defaults");
    write(&dir, "u/web.toml", &format!("executable = \"{}\"\nstop.timeout = \"5s\"\n", static_program().display()));
    write(&dir, "moored.toml", "[defaults]\nreload.signal = \"SIGUSR1\"\nrestart.on_limit = \"reboot\"\n");
    let text = said(&dir, &["u"]);
    let expected = "moored.toml:3:9 warning: `on_limit` without `limit` means nothing, write limit = { burst = 5, interval = \"1m\" }\n\
        1 unit file checked, no errors\n";
    assert_eq!(text, expected);
    write(&dir, "moored.toml", "[defaults]\nrootfs = \"/r\"\nstop.timeout = 5\n[log]\n");
    let text = said(&dir, &["u", "moored.toml"]);
    let starts = [
        "moored.toml:2:1 `rootfs` in [defaults]",
        "moored.toml:3:16 `stop.timeout` is",
        "moored.toml:4:2 unknown key `log`",
    ];
    for (line, start) in text.lines().zip(starts) {
        assert!(line.starts_with(start), "{text}");
    }
    assert!(text.ends_with("1 unit file checked, 3 errors\n"), "{text}");
}

#[test]
fn every_mistake_of_every_file_is_said() {
    let dir = TempDir::new("mistakes");
    write(&dir, "a.toml", "rootfs = 3\nenabeld = true\n");
    write(&dir, "b c.toml", "");
    write(&dir, "big.toml", &"#".repeat(TEXT_MAX + 1));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("fifo.toml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let text = said(&dir, &[""]);
    let starts = [
        "a.toml:1:",
        "a.toml:2:1 ",
        "b c.toml:1:1 ",
        "big.toml:1:1 1048577 bytes, expected at most 1048576",
        "fifo.toml:1:1 is a FIFO, expected a regular file",
    ];
    for (line, start) in text.lines().zip(starts) {
        assert!(line.starts_with(start), "{text}");
    }
    assert!(text.ends_with("3 unit files checked, 5 errors\n"), "{text}");
}

#[test]
fn a_path_given_by_hand_must_be_there_and_a_unit() {
    let dir = TempDir::new("named");
    write(&dir, "web.conf", "");
    let text = said(&dir, &["none.toml", "nowhere", "web.conf"]);
    let expected = "\
none.toml:1:1 does not exist: create it or correct the path
nowhere:1:1 does not exist: create it or correct the path
web.conf:1:1 not a unit file's name, expected NAME.toml: rename it
1 unit file checked, 3 errors
";
    assert_eq!(text, expected);
}

#[test]
fn sources_are_looked_at_where_they_are_named() {
    let dir = TempDir::new("sources");
    write(&dir, "script", "#!/bin/sh\n");
    write(&dir, "file", "");
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    write(&dir, "wrong/config.json", "{\n  \"ociVersion\": 1\n}\n");
    write(&dir, "a.toml", "description = \"x\"\n bundle = \"nothing\"\n");
    write(&dir, "b.toml", "bundle = \"empty\"\n");
    write(&dir, "c.toml", "bundle = \"wrong\"\n");
    write(&dir, "d.toml", "rootfs = \"file\"\n[process]\nargs = [\"/x\"]\n");
    write(&dir, "e.toml", "executable = \"script\"\n");
    write(&dir, "f.toml", "executable = \"empty\"\n");
    let text = said(&dir, &[""]);
    let expected = [
        "a.toml:2:2 bundle nothing does not exist: create it",
        "b.toml:1:1 bundle empty holds no config.json: `moored oci spec",
        "wrong/config.json:2:",
        "d.toml:1:1 rootfs file is a regular file, expected a directory",
        "e.toml:1:1 executable script may not be executed: chmod +x",
        "f.toml:1:1 executable empty is a directory, expected a static program",
    ];
    for expected in expected {
        assert!(text.contains(&format!("\n{expected}")) || text.starts_with(expected), "{expected}\nin {text}");
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path().join("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(said(&dir, &["e.toml"]).contains("a script, expected a static ELF executable"));
}

#[test]
fn a_spec_that_could_not_start_is_refused_by_its_json_path() {
    let dir = TempDir::new("spec");
    std::fs::create_dir_all(dir.path().join("b/rootfs")).unwrap();
    let config = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"user":{"uid":0,"gid":0},"cwd":"/","args":["/x"],
        "capabilities":{"bounding":["CAP_DANCE"]}},"linux":{}}"#;
    write(&dir, "b/config.json", config);
    write(&dir, "a.toml", "bundle = \"b\"\n");
    let text = said(&dir, &["a.toml"]);
    assert!(text.contains("CAP_DANCE") && text.ends_with("1 error\n"), "{text}");
}

#[test]
fn json_has_every_finding() {
    let dir = TempDir::new("json");
    write(&dir, "a.toml", "rootfs = \"/nonexistent\"\n[process]\nargs = [\"/x\"]\n");
    let json = as_json(&check_all(&[dir.path().join("a.toml")], Path::new("/nonexistent/moored.toml"))).unwrap();
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found[0]["line"], 1);
    assert_eq!(found[0]["severity"], "error");
    assert_eq!(found[0]["message"], "rootfs /nonexistent does not exist: create it or correct the path");
}

//! What bad input gets: each mistake through `moored check` and through a real `moored up`, word for word.
//!
//! The words are in mistakes.txt beside this file; `MOORED_BLESS=1` writes them anew. Somebody has to read the difference: a message says what
//! was found, where, what was expected and the cure.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use serde_json::Value;

use super::support::{self, Supervisor, TempDir, wait_for};

/// Unit files by name, the most common slips. `../` is where [`sources`] are.
const TEXTS: &[(&str, &[u8])] = &[
    ("bom-and-crlf", b"\xef\xbb\xbfrootfs = \"../dir\"\r\n[process]\r\nargs = [\"/x\"]\r\ncomand = 1\r\n"),
    ("bundle-missing", b"# one\n\nbundle = \"../nowhere\"\n"),
    ("bundle-file", b"bundle = \"../file\"\n"),
    ("bundle-empty", b"bundle = \"../dir\"\n"),
    ("config-files", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n[[config]]\nsource = \"../nowhere.conf\"\ntarget = \"/a\"\n[[config]]\nsource = \"../dir\"\ntarget = \"/b\"\non_change = \"restart\"\n"),
    ("config-keys", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n[[config]]\nsource = \"../file\"\ndestination = \"/a\"\non_change = \"hup\"\n[[secret]]\nsource = \"../file\"\ntarget = \"/b\"\n"),
    ("config-capability", b"bundle = \"../capability\"\n"),
    ("config-syntax", b"bundle = \"../syntax\"\n"),
    ("config-type", b"bundle = \"../type\"\n"),
    ("control-character", b"rootfs = \"../d\x00r\"\n[process]\nargs = [\"/x\"]\n"),
    (
        "destination",
        b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n[[mount]]\nsource = \"/srv\"\ndestination = \"/data\"\n",
    ),
    (
        "depends",
        b"rootfs = \"../dir\"\ndepends_on = { depends = \"started\", db = \"up\", x = { on_loss = \"die\" } }\non_failure = [\"a b\"]\n[process]\nargs = [\"/x\"]\n",
    ),
    ("duration", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n[stop]\ntimeout = \"abc\"\nsignal = \"SIGFOO\"\n"),
    ("env", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\nenv = { A = [1], B = 1979-05-27, C = {} }\n"),
    ("env-file", b"rootfs = \"../dir\"\n[process]\nenv_file = [\"../bad.env\", \"-../nowhere.env\", \"../nowhere.env\"]\nargs = [\"/x\", \"${NO}\"]\n"),
    ("env-variable", b"rootfs = \"../dir\"\n[process]\nenv_file = \"../good.env\"\nargs = [\"/x\", \"${NO}\", \"${A:?set A}\", \"${A\"]\n"),
    ("executable-directory", b"executable = \"../dir\"\n"),
    ("executable-dynamic", b"executable = \"../dynamic\"\n"),
    ("executable-mode", b"executable = \"../mode\"\n"),
    ("executable-missing", b"executable = \"../nowhere/deeper/prog\"\n"),
    ("executable-script", b"executable = \"../script\"\n"),
    (
        "host-profile",
        b"rootfs = \"../dir\"\nhostname = \"x\"\n[process]\nargs = [\"/x\"]\ninit = true\n[security]\nprofile = \"host\"\nread_only = false\n[network]\nmode = \"none\"\n[oci]\nmounts = []\n",
    ),
    ("host-without-args", b"[security]\nprofile = \"host\"\n"),
    ("instances", b"instances = [\"a\"]\nrootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n"),
    ("layers", b"layers = [\"../nowhere\", \"../file\", \"../dir\"]\n[process]\nargs = [\"/x\"]\n"),
    ("layers-upper", b"executable = \"../script\"\noverlay = true\n[upper]\npersist = true\nsize = \"1M\"\n[update]\norder = \"start-first\"\n"),
    ("key-twice", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\nargs = [\"/y\"]\n"),
    ("memory-bare", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n[resources]\nmemory = 256\n"),
    ("memory-negative", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n[resources]\nmemory = -1\n"),
    ("memory-suffix", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n[resources]\nmemory = \"256MB\"\n"),
    (
        "misplaced",
        b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\nenabled = false\ncomand = 1\n[restart]\npolicy = \"on-fail\"\n",
    ),
    ("no-source", b"enabled = true\n"),
    ("not-utf8", b"rootfs = \"../dir\"\n[process]\nargs = [\"\xff\"]\n"),
    ("oci-capability", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n[oci]\nprocess.capabilities.bounding = [\"CAP_DANCE\"]\n"),
    ("rootfs-file", b"rootfs = \"../file\"\n[process]\nargs = [\"/x\"]\n"),
    ("security", b"rootfs = \"../dir\"\n[process]\nargs = [\"/x\"]\n[security]\ncapabilities = [\"CAP_NET_ADMIM\", \"NET_ADMIN\"]\n"),
    ("tabs", b"rootfs = \"../dir\"\n[process]\n\targs = [\"/x\"]\n\tcwdd\t=\t\"/\"\n"),
    ("two-sources", b"rootfs = \"../dir\"\nbundle = \"../type\"\n"),
    ("unclosed-string", b"rootfs = \"../dir\n[process]\nargs = [\"/x\"]\n"),
];

/// Config files of bundles.
const CONFIGS: &[(&str, &str)] = &[
    (
        "capability",
        r#"{
  "ociVersion": "1.3.0",
  "root": { "path": "rootfs" },
  "process": {
    "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/x"],
    "capabilities": { "bounding": ["CAP_DANCE", "NET_ADMIN"] }
  },
  "linux": { "namespaces": [{ "type": "pidd" }] }
}
"#,
    ),
    ("syntax", "{\n  \"ociVersion\": \"1.3.0\",\n  \"process\": { \"args\": [\"/x\",] }\n}\n"),
    (
        "type",
        r#"{
  "ociVersion": "1.3.0",
  "root": { "path": "rootfs", "readonly": "yes" },
  "process": { "user": { "uid": -1, "gid": 0 }, "cwd": "/", "args": "/x --port 80" },
  "linux": { "resources": { "memory": { "limit": "1G" } } }
}
"#,
    ),
];

/// What the texts name.
fn sources(dir: &Path) {
    fs::create_dir(dir.join("dir")).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    fs::write(dir.join("bad.env"), "A=1\nB 2\nC='3\n").unwrap();
    fs::write(dir.join("good.env"), "A=\n").unwrap();
    for (name, text, mode) in [("script", "#!/bin/sh\n", 0o755), ("mode", "", 0o644)] {
        fs::write(dir.join(name), text).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    support::install(Path::new("/bin/sh"), &dir.join("dynamic"));
    for (name, text) in CONFIGS {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("config.json"), text).unwrap();
    }
}

/// The unit files, and those entries that are not even that.
fn units(units: &Path) {
    for (name, text) in TEXTS {
        fs::write(units.join(format!("{name}.toml")), text).unwrap();
    }
    let deep = format!("rootfs = \"../dir\"\nx-deep = {}{}\n", "[".repeat(5000), "]".repeat(5000));
    fs::write(units.join("deep.toml"), deep).unwrap();
    fs::File::create(units.join("huge.toml")).unwrap().write_all(&vec![b'#'; 10 << 20]).unwrap();
    fs::write(units.join("bad name.toml"), "rootfs = \"/x\"\n").unwrap();
    fs::create_dir(units.join("directory.toml")).unwrap();
    symlink("nowhere.toml", units.join("dangling.toml")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, units.join("fifo.toml"), fifo, rustix::fs::Mode::RUSR, 0).unwrap();
}

/// Compares with the section of mistakes.txt, or writes it.
fn assert_words(section: &str, found: &str) {
    static BLESSING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mistakes.txt");
    let _one = BLESSING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let words = fs::read_to_string(&path).unwrap_or_default();
    let mut sections: Vec<(&str, &str)> =
        words.split("== ").skip(1).map(|part| part.split_once('\n').unwrap()).collect();
    let expected = sections.iter().find(|(name, _)| *name == section).map_or("", |(_, text)| text);
    if std::env::var_os("MOORED_BLESS").is_some() {
        sections.retain(|(name, _)| *name != section);
        sections.push((section, found));
        sections.sort();
        fs::write(&path, sections.iter().map(|(name, text)| format!("== {name}\n{text}")).collect::<String>()).unwrap();
        return;
    }
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected, "in {section}");
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "in {section}:\n{found}");
}

#[test]
fn check_answers_each_mistake() {
    let dir = TempDir::new("mistakes-check");
    fs::create_dir(dir.join("units")).unwrap();
    sources(&dir.0);
    units(&dir.join("units"));
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_moored"));
    let output = check.arg("check").arg(dir.join("units")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let found = String::from_utf8(output.stdout).unwrap().replace(&format!("{}/", dir.0.display()), "");
    assert_words("check", &found);
}

#[test]
fn up_answers_each_mistake_and_touches_nothing_that_runs() {
    let (true, Some(busybox)) = (support::is_root(), support::tool("busybox")) else { return };
    let mut supervisor = Supervisor::prepare("mistakes");
    sources(&supervisor.dir.0);
    support::install(&busybox, &supervisor.dir.join("busybox"));
    let good = "executable = \"../busybox\"\n[process]\nargs = [\"/busybox\", \"sleep\", \"10000\"]\n";
    ["steady", "broken"].iter().for_each(|name| supervisor.unit(name, good));
    supervisor.up();
    let before = ["steady", "broken"].map(|name| supervisor.pid(name));
    units(&supervisor.units());
    supervisor.unit("broken", "executable = ../busybox\n[process\n");
    for (name, owner, mode) in [("owner", 54_321, 0o644), ("writable", 0, 0o666)] {
        supervisor.unit(name, good);
        let file = supervisor.units().join(format!("{name}.toml"));
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        chown(&file, Some(owner), None).unwrap();
    }
    assert_eq!(supervisor.run(&["sync"]).status.code(), Some(1), "sync says that something is not valid");
    let found = words_of(&supervisor);
    assert_words("up", &found.replace(&format!("{}/", supervisor.dir.0.display()), ""));
    assert_eq!(["steady", "broken"].map(|name| supervisor.pid(name)), before);
    supervisor.unit("broken", good);
    supervisor.ok(&["sync", "broken"]);
    assert_eq!(supervisor.pid("broken"), before[1], "the same text again restarts nothing");
}

/// All that is said of each unit, and of none.
fn words_of(supervisor: &Supervisor) -> String {
    let mut words = String::new();
    for row in supervisor.ps() {
        let unit = row["unit"].as_str().unwrap();
        let status: Value = serde_json::from_str(&supervisor.ok(&["status", unit, "--json"])).unwrap();
        let status = status.as_array().map_or(&status, |units| &units[0]);
        let errors = status["errors"].as_array().unwrap_or_else(|| panic!("no errors in {status}"));
        errors.iter().for_each(|error| words.push_str(&format!("{}\n", error.as_str().unwrap())));
    }
    let status: Value = serde_json::from_str(&supervisor.ok(&["status", "--json"])).unwrap();
    // Others are about this machine.
    let notes = status["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap());
    words.extend(notes.filter(|note| note.contains(".toml")).map(|note| format!("note: {note}\n")));
    words
}

#[test]
fn what_only_a_start_can_know_is_the_reason_in_ps() {
    if !support::is_root() {
        return;
    }
    let mut supervisor = Supervisor::prepare("mistakes-start");
    let Some(_) = support::busybox_root(&supervisor.dir.0) else { return };
    let unit = |more: &str| format!("rootfs = \"../busybox-root\"\n{more}\n[restart]\npolicy = \"never\"\n");
    supervisor.unit("user", &unit("process.args = [\"/bin/true\"]\nprocess.user = \"abc\""));
    supervisor.unit("group", &unit("process.args = [\"/bin/true\"]\nprocess.user = \"nobody:abc\""));
    supervisor.unit("program", &unit("process.args = [\"/bin/thing\"]"));
    supervisor.unit("search", &unit("process.args = [\"thing\"]"));
    supervisor.unit("directory", &unit("process.args = [\"/etc\"]"));
    supervisor.unit(
        "mount",
        &unit("process.args = [\"/bin/true\"]\nmount = [{ source = \"/nowhere/x\", target = \"/data\", read_only = false }]"),
    );
    supervisor.up();
    let mut words = String::new();
    for name in ["directory", "group", "mount", "program", "search", "user"] {
        let row = supervisor.wait_phase(name, &["failed"]);
        words.push_str(&format!("{name}: {}\n", row["reason"].as_str().unwrap()));
    }
    assert_words("start", &words.replace(&format!("{}/", supervisor.dir.0.display()), ""));
}

#[test]
fn up_waits_for_a_directory_that_is_not_there_and_says_so() {
    let (true, Some(busybox)) = (support::is_root(), support::tool("busybox")) else { return };
    let mut supervisor = Supervisor::prepare("mistakes-directory");
    fs::remove_dir(supervisor.units()).unwrap();
    support::install(&busybox, &supervisor.dir.join("busybox"));
    supervisor.up();
    let words = format!("{} does not exist: waiting for it", supervisor.units().display());
    wait_for("up to say that it waits", || supervisor.output().contains(&words).then_some(()));
    fs::create_dir(supervisor.units()).unwrap();
    supervisor.unit("web", "executable = \"../busybox\"\n[process]\nargs = [\"/busybox\", \"sleep\", \"10000\"]\n");
    supervisor.pid("web");
}

//! What units compile to.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Contents, RootPlan, SourceFacts, SpecText, Unit, UnitName, compile, parse};

/// As `runc spec` writes it, shortened.
const CONFIG: &str = r#"{
  "ociVersion": "1.0.2",
  "process": {
    "terminal": true,
    "user": { "uid": 5, "gid": 5, "additionalGids": [7] },
    "args": ["sh"],
    "env": ["PATH=/bin", "TERM=xterm"],
    "cwd": "/",
    "capabilities": { "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"] },
    "noNewPrivileges": true
  },
  "root": { "path": "rootfs", "readonly": true },
  "hostname": "runc",
  "mounts": [
    { "destination": "/proc", "type": "proc", "source": "proc" },
    { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "size=65536k"] },
    { "destination": "/data/", "type": "tmpfs", "source": "tmpfs" }
  ],
  "linux": {
    "cgroupsPath": "/x",
    "unknownField": 1,
    "namespaces": [ { "type": "pid" }, { "type": "network", "path": "/run/netns/x" }, { "type": "mount" } ],
    "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" }
  }
}"#;

fn unit(text: &str) -> Unit {
    let name = UnitName::new("web").unwrap();
    let parsed = parse(&name, Path::new("/etc/moored/units/web.toml"), text);
    parsed.unwrap_or_else(|errors| panic!("{errors:?}")).unit
}

fn bundle(text: &str) -> SpecText {
    let facts =
        SourceFacts { resolved: "/srv/web-2".into(), config_json: Some(CONFIG.as_bytes().into()), layers: Vec::new() };
    compile(&unit(&format!("bundle = \"/srv/web\"\n{text}")), &facts).unwrap()
}

fn rootfs(text: &str) -> SpecText {
    let facts = SourceFacts { resolved: "/srv/web".into(), config_json: None, layers: Vec::new() };
    compile(&unit(&format!("rootfs = \"/srv/web\"\nprocess.args = [\"/bin/web\"]\n{text}")), &facts).unwrap()
}

fn executable(text: &str) -> SpecText {
    let facts = SourceFacts { resolved: "/opt/bin/thing".into(), config_json: None, layers: Vec::new() };
    compile(&unit(&format!("executable = \"/opt/bin/thing\"\n{text}")), &facts).unwrap()
}

fn at<'v>(text: &'v SpecText, pointer: &str) -> &'v Value {
    text.raw.pointer(pointer).unwrap_or(&Value::Null)
}

fn mount<'v>(text: &'v SpecText, target: &str) -> &'v Value {
    let mounts = at(text, "/mounts").as_array().unwrap();
    mounts.iter().find(|mount| mount["destination"] == target).unwrap_or(&Value::Null)
}

fn namespaces(text: &SpecText) -> Vec<&str> {
    at(text, "/linux/namespaces").as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect()
}

#[test]
fn a_bundle_without_overrides_is_its_config_json_but_for_what_is_ours() {
    let text = bundle("");
    let mut expected: Value = serde_json::from_str(CONFIG).unwrap();
    expected["root"]["path"] = json!("/srv/web-2/rootfs");
    expected["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    assert_eq!(text.raw, expected);
    assert_eq!(text.root, RootPlan::Directory("/srv/web-2/rootfs".into()));
    assert_eq!(text.warnings.len(), 1, "{:?}", text.warnings);
    assert_eq!((text.user_lookup, text.network_of, text.init), (None, None, false));
}

#[test]
fn a_terminal_is_what_the_unit_says_and_else_what_config_json_says() {
    let facts = |config: &str| SourceFacts {
        resolved: "/srv/web".into(),
        config_json: Some(config.as_bytes().into()),
        layers: Vec::new(),
    };
    let of_bundle = |key: &str, config: &str| {
        let unit = unit(&format!("bundle = \"/srv/web\"\nprocess.args = [\"/x\"]\n{key}"));
        let text = compile(&unit, &facts(config)).unwrap();
        let has = text.spec.process.as_ref().unwrap().terminal.unwrap_or(false);
        assert_eq!(super::has_terminal(&unit, &facts(config)), has, "{key} {config}");
        let env = text.spec.process.unwrap().env.unwrap_or_default();
        (has, env.into_iter().find(|entry| entry.starts_with("TERM=")))
    };
    let dumb = CONFIG.replace("TERM=xterm", "TERM=dumb");
    let none = CONFIG.replace("\"terminal\": true,", "").replace(", \"TERM=xterm\"", "");
    let term = |name: &str| Some(format!("TERM={name}"));
    assert_eq!(of_bundle("", &dumb), (true, term("dumb")));
    assert_eq!(of_bundle("process.terminal = false", &dumb), (false, term("dumb")));
    assert_eq!(of_bundle("process.terminal = true", &dumb), (true, term("dumb")));
    assert_eq!(of_bundle("", &none), (false, None));
    assert_eq!(of_bundle("process.terminal = true", &none), (true, term("xterm")), "somebody must say what it is");
    let rootfs = rootfs("process.terminal = true\n[oci]\nprocess.consoleSize = { height = 24, width = 80 }");
    assert_eq!(at(&rootfs, "/process/terminal"), &json!(true));
    assert_eq!(at(&rootfs, "/process/consoleSize/width"), &json!(80));
}

#[test]
fn a_unit_overrides_config_json_and_oci_overrides_both() {
    let text = bundle(
        r#"
        hostname = "%n"
        [process]
        args = ["/bin/web"]
        env = { TERM = "dumb", PORT = 8080 }
        user = "1000:100"
        cwd = "/srv"
        init = true
        [resources]
        memory = "64M"
        cpus = 1.5
        pids = 10
        shm = "1M"
        [network]
        mode = "host"
        [[mount]]
        source = "data"
        target = "/data"
        [security]
        capabilities = ["chown", "NET_RAW"]
        no_new_privileges = false
        seccomp = "unconfined"
        read_only = false
        [oci]
        process.cwd = "/oci"
        linux.sysctl = { "net.core.somaxconn" = "1024" }
        "#,
    );
    assert_eq!(at(&text, "/hostname"), "web");
    assert_eq!(at(&text, "/process/args"), &json!(["/bin/web"]));
    assert_eq!(at(&text, "/process/env"), &json!(["PATH=/bin", "PORT=8080", "TERM=dumb"]));
    assert_eq!(at(&text, "/process/user"), &json!({"uid": 1000, "gid": 100}));
    assert_eq!(at(&text, "/process/cwd"), "/oci");
    assert_eq!(at(&text, "/process/capabilities/bounding"), &json!(["CAP_CHOWN", "CAP_NET_RAW"]));
    assert_eq!(at(&text, "/process/capabilities/ambient"), &json!([]));
    assert_eq!(at(&text, "/process/noNewPrivileges"), false);
    assert_eq!(at(&text, "/root/readonly"), false);
    assert_eq!(at(&text, "/linux/seccomp"), &Value::Null);
    assert_eq!(at(&text, "/linux/resources/memory/limit"), 64 << 20);
    assert_eq!(at(&text, "/linux/resources/cpu"), &json!({"quota": 150_000, "period": 100_000}));
    assert_eq!(at(&text, "/linux/resources/pids/limit"), 10);
    assert_eq!(at(&text, "/linux/sysctl"), &json!({"net.core.somaxconn": "1024"}));
    assert_eq!(namespaces(&text), ["pid", "mount"]);
    assert_eq!(mount(&text, "/dev/shm")["options"], json!(["nosuid", "size=1048576"]));
    assert_eq!(mount(&text, "/data")["source"], "/etc/moored/units/data");
    assert_eq!(mount(&text, "/data/"), &Value::Null, "replaced");
    assert_eq!(at(&text, "/linux/unknownField"), 1, "left for the OCI layer to name");
    assert!(text.init);
    assert_eq!(text.spec.process.as_ref().unwrap().cwd, PathBuf::from("/oci"));
}

#[test]
fn a_rootfs_is_hardened() {
    let text = rootfs("");
    assert_eq!(text.root, RootPlan::Directory("/srv/web".into()));
    assert_eq!(at(&text, "/root"), &json!({"path": "/srv/web", "readonly": true}));
    assert_eq!(at(&text, "/hostname"), "web");
    assert_eq!(namespaces(&text), ["pid", "ipc", "uts", "mount", "cgroup", "network"]);
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        assert_eq!(at(&text, &format!("/process/capabilities/{set}")), &json!([]));
    }
    assert_eq!(at(&text, "/process/noNewPrivileges"), true);
    assert_eq!(at(&text, "/linux/resources/pids/limit"), 2048);
    assert_eq!(at(&text, "/linux/resources/devices"), &json!([{"allow": false, "access": "rwm"}]));
    assert!(mount(&text, "/dev/shm")["options"].as_array().unwrap().contains(&json!("size=67108864")));
    for (target, option) in [("/sys", "ro"), ("/sys/fs/cgroup", "ro"), ("/tmp", "nosuid"), ("/tmp", "size=67108864")] {
        assert!(mount(&text, target)["options"].as_array().unwrap().contains(&json!(option)), "{target} {option}");
    }
    for masked in ["/proc/kcore", "/proc/keys", "/sys/firmware"] {
        assert!(at(&text, "/linux/maskedPaths").as_array().unwrap().contains(&json!(masked)));
    }
    assert!(at(&text, "/linux/readonlyPaths").as_array().unwrap().contains(&json!("/proc/sys")));
}

#[test]
fn the_allow_list_holds_as_it_is_or_as_oci_changes_it() {
    let ours = super::seccomp_default::profile();
    let filter = |text: &SpecText| text.spec.linux.as_ref().and_then(|linux| linux.seccomp().clone());
    for (more, holds) in
        [("", true), ("security.seccomp = \"default\"", true), ("security.seccomp = \"unconfined\"", false)]
    {
        let text = rootfs(more);
        assert_eq!((text.allow_list, filter(&text)), (holds, None), "{more}");
    }
    let text = rootfs("[oci]\nlinux.seccomp = { defaultAction = \"SCMP_ACT_ERRNO\", defaultErrnoRet = 1 }");
    let changed = filter(&text).unwrap();
    assert!(!text.allow_list);
    assert_eq!((changed.default_errno_ret(), changed.syscalls()), (Some(1), ours.syscalls()));
}

#[test]
fn mounts_come_parents_first_and_recursively_read_only() {
    let text = rootfs(
        r#"
        [[mount]]
        source = "/b"
        target = "/a/b"
        read_only = false
        [[mount]]
        source = "/a"
        target = "/a"
        [[mount]]
        type = "tmpfs"
        target = "/tmp"
        size = "1M"
        "#,
    );
    let targets: Vec<&str> =
        at(&text, "/mounts").as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
    assert_eq!(targets[4..], ["/tmp", "/sys", "/sys/fs/cgroup", "/a", "/a/b"]);
    assert_eq!(mount(&text, "/a")["options"], json!(["rbind", "rprivate", "nosuid", "nodev", "ro", "rro"]));
    assert_eq!(mount(&text, "/a/b")["options"], json!(["rbind", "rprivate", "nosuid", "nodev", "rw"]));
    assert_eq!(mount(&text, "/tmp")["options"], json!(["nosuid", "nodev", "mode=1777", "size=1048576", "rw"]));
}

#[test]
fn who_tells_by_itself_is_told_where_and_how_often() {
    let found = |text: &SpecText| {
        let env = at(text, "/process/env").as_array().cloned().unwrap_or_default();
        let ours = |entry: &Value| {
            Some(entry.as_str()?.to_owned()).filter(|e| e.starts_with("NOTIFY_") || e.starts_with("WATCHDOG_"))
        };
        env.iter().filter_map(ours).collect::<Vec<_>>()
    };
    assert_eq!(found(&rootfs("")), [""; 0]);
    assert_eq!(found(&rootfs("process.notify = \"systemd\"")), ["NOTIFY_SOCKET=/dev/moored-notify/socket"]);
    let watched = "process.notify = \"systemd\"\nprocess.watchdog = \"1s\"\n";
    let all = ["NOTIFY_SOCKET=/dev/moored-notify/socket", "WATCHDOG_USEC=1000000", "WATCHDOG_PID=1"];
    assert_eq!(found(&rootfs(watched)), all);
    assert_eq!(found(&bundle(watched)), all);
    // Behind the tiny init it is the second process; where pids are the host's, nobody knows.
    assert_eq!(found(&rootfs(&format!("{watched}process.init = true")))[2], "WATCHDOG_PID=2");
    let shared = format!("{watched}oci.linux.namespaces = [{{ type = \"mount\" }}]");
    assert_eq!(found(&bundle(&shared)), all[..2]);
    // What the file says stands.
    let own = format!("{watched}process.env = {{ WATCHDOG_PID = 7 }}");
    assert_eq!(found(&rootfs(&own)), ["WATCHDOG_PID=7", all[0], all[1]]);
}

#[test]
fn users_that_are_not_two_numbers_are_looked_up_at_start() {
    for (user, uid, gid, lookup) in [
        ("1000:1000", 1000, 1000, None),
        ("1000", 1000, 1000, Some("1000")),
        ("web", 65_534, 65_534, Some("web")),
        ("0:adm", 0, 65_534, Some("0:adm")),
    ] {
        let text = rootfs(&format!("process.user = \"{user}\""));
        assert_eq!(at(&text, "/process/user"), &json!({"uid": uid, "gid": gid}), "{user}");
        assert_eq!(text.user_lookup.as_deref(), lookup, "{user}");
    }
    for (user, uid, gid) in [("nobody", 65_534, 65_534), ("root", 0, 0), ("7", 7, 7), ("7:nogroup", 7, 65_534)] {
        let text = executable(&format!("process.user = \"{user}\""));
        assert_eq!(at(&text, "/process/user"), &json!({"uid": uid, "gid": gid}), "{user}");
        assert_eq!(text.user_lookup, None);
    }
}

#[test]
fn an_executable_gets_a_root_made_around_it() {
    let text = executable("network.mode = \"unit:db\"\n[[device]]\npath = \"/dev/net/tun\"\n");
    let RootPlan::Tmpfs { files, dirs, .. } = &text.root else { panic!("{:?}", text.root) };
    let program = files.iter().find(|file| file.path == "/thing").unwrap();
    assert_eq!(program.contents, Contents::HostFile("/opt/bin/thing".into()));
    assert!(dirs.iter().any(|dir| dir == "/etc"));
    assert_eq!(at(&text, "/process/args"), &json!(["/thing"]));
    assert_eq!(at(&text, "/root"), &json!({"path": "tmpfs", "readonly": true}));
    assert_eq!(mount(&text, "/sys"), &Value::Null);
    assert_eq!(text.network_of, Some(UnitName::new("db").unwrap()));
    assert!(namespaces(&text).contains(&"network"));
    assert_eq!(text.devices, [PathBuf::from("/dev/net/tun")]);
}

#[test]
fn mistakes_in_config_json_are_placed_in_it() {
    let compiled = |config: &str| {
        let facts = SourceFacts {
            resolved: "/srv/web".into(),
            config_json: Some(config.as_bytes().into()),
            layers: Vec::new(),
        };
        let errors = compile(&unit("bundle = \"/srv/web\""), &facts).unwrap_err();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        compiled(&CONFIG.replace("\"uid\": 5", "\"uid\": -5")),
        ["/srv/web/config.json:5:23 process.user.uid: invalid value: integer `-5`, expected u32"]
    );
    assert_eq!(compiled("{\n \"root\": }"), ["/srv/web/config.json:2:10 root: not JSON from here on: expected value"]);
    assert_eq!(compiled(""), ["/srv/web/config.json:1:1 not JSON from here on: EOF while parsing a value"]);
    assert_eq!(
        compiled("{}"),
        [
            "/srv/web/config.json:1:1 process.args: missing, expected a program here or in the unit's [process] args",
            "/srv/web/config.json:1:1 root.path: missing, expected the directory that becomes the root",
        ]
    );
    assert!(compiled(&CONFIG.replace("CAP_KILL", "CAP_KILLER"))[0].starts_with("/srv/web/config.json:9:"));
    assert_eq!(
        compiled(&" ".repeat(1 << 21)),
        ["/srv/web/config.json:1:1 2097152 bytes, expected at most 1048576 (1M)"]
    );
}

#[test]
fn relative_sources_of_binds_start_from_the_bundle() {
    let config = CONFIG.replace(
        r#""type": "tmpfs", "source": "tmpfs" }"#,
        r#""source": "data", "options": ["rbind"] }, { "destination": "/t", "type": "tmpfs", "source": "t" }"#,
    );
    let facts =
        SourceFacts { resolved: "/srv/web".into(), config_json: Some(config.into_bytes().into()), layers: Vec::new() };
    let text = compile(&unit("bundle = \"/srv/web\""), &facts).unwrap();
    assert_eq!(mount(&text, "/data/")["source"], "/srv/web/data");
    assert_eq!(mount(&text, "/t")["source"], "t");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_config_json_compiles_or_is_answered(edits in proptest::collection::vec((0..CONFIG.len(), 0..30usize, 0..8usize), 1..5)) {
        let mut config = CONFIG.to_owned();
        for (at, length, piece) in edits {
            let (start, end) = (at.min(config.len()), (at + length).min(config.len()));
            config.replace_range(start..end, ["", "{", "}", "[]", "null", "\"x\"", "1", ","][piece]);
        }
        let whole = unit(concat!("bundle = \"/srv/web\"\nprocess.user = \"x\"\n", "process.env.A = 1\nresources.memory = \"1M\"\n",
            "resources.shm = \"1M\"\nnetwork.mode = \"host\"\n[[mount]]\ntype = \"tmpfs\"\ntarget = \"/data\"\n"));
        let facts = SourceFacts { resolved: "/srv/web".into(), config_json: Some(config.into_bytes().into()), layers: Vec::new() };
        if let Err(errors) = compile(&whole, &facts) {
            assert!(!errors.is_empty() && errors.iter().all(|error| !error.to_string().contains('\n')));
        }
    }
}

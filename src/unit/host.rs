//! `security.profile = "host"`: a service of the host itself (getty, sshd, udev, DHCP), not a container.
//!
//! | of the host's, and not to be had otherwise | the unit's to narrow | as in every unit |
//! |---|---|---|
//! | root, mounts, `/dev`, `/proc`, `/sys`, all namespaces, host name | user, capabilities, no_new_privileges, seccomp | cgroup and its limits, log, restart, health, stop, notify, sockets |
//!
//! - Such a unit names no source: its root is the host's.
//! - It has no mount namespace. What a login mounts is mounted for everybody, and nothing can be put in front of a file: no `[[mount]]`,
//!   `[[config]]`, `[[secret]]`, `[[device]]`.
//! - `[defaults]` are written for containers: what of them does not suit, or would take a right away, is passed over. A unit that writes it
//!   itself is told.

use serde_json::{Map, Value};
use toml::de::DeValue;

use super::layer::LayerKind;
use super::walk::{Field, Table, Walk};
use super::{Network, Security, Unit};

/// What goes without saying, or cannot be: table, key, why not.
const REFUSED: [(&str, &str, &str); 10] = [
    ("", "hostname", "it has the host's name: `host_name` in init.toml sets that"),
    ("", "mount", "it has the host's mounts: a mount for itself alone takes a `rootfs`"),
    ("", "config", "it reads the host's own files"),
    ("", "secret", "it reads the host's own files"),
    ("", "device", "it has all devices of the host's"),
    ("process", "init", "what it leaves behind is reaped anyway"),
    ("process", "terminal", "it has the host's /dev: the program opens a terminal there itself, as getty does"),
    ("resources", "shm", "/dev/shm is the host's"),
    ("security", "read_only", "its root is the host's"),
    ("security", "userns", "its users are the host's"),
];

/// What of `[defaults]` is for containers.
const OF_CONTAINERS: [(&str, &str); 8] = [
    ("process", "user"),
    ("process", "init"),
    ("resources", "shm"),
    ("network", "mode"),
    ("security", "capabilities"),
    ("security", "no_new_privileges"),
    ("security", "seccomp"),
    ("security", "read_only"),
];

/// What of `[oci]` is about the process and its limits.
const OCI: [&str; 4] = ["process", "linux", "annotations", "ociVersion"];

/// Whether the unit is one, and the field that says so. Nothing is noted of a value that is not right: that is told where the table is read.
pub(crate) fn profile<'w>(top: &Table<'w>) -> Option<Field<'w>> {
    let field = inner(top, "security")?.field("profile")?;
    (field.value.get_ref().as_str() == Some("host")).then_some(field)
}

/// The value of `security.profile`; there is one.
pub(crate) fn check_profile(walk: &mut Walk, field: Option<Field>) {
    walk.choice(field, &[("host", ())], &[("privileged", "host"), ("system", "host")]);
}

/// Tells what does not go with the profile, and takes it out.
pub(crate) fn settle(walk: &mut Walk, top: &Table, unit: &mut Unit) {
    for (table, key, why) in REFUSED {
        let Some(field) = field(top, table, key).filter(|field| !is_default(walk, field)) else { continue };
        let message = format!("`{}` beside `security.profile = \"host\"`", field.name);
        walk.error(&field.key_span, message, Some(why.to_owned()));
    }
    let written = field(top, "network", "mode").filter(|field| !is_default(walk, field));
    if let Some(field) = written.filter(|_| unit.network.as_ref().is_some_and(|network| *network != Network::Host)) {
        walk.mismatch(&field, "\"host\" beside `security.profile = \"host\"`", None);
    }
    for (table, key) in OF_CONTAINERS {
        if field(top, table, key).is_some_and(|field| is_default(walk, &field)) {
            pass_over(unit, table, key);
        }
    }
    if let Some(field) = field(top, "process", "notify")
        && unit.notify().is_some()
        && !is_root(unit)
    {
        let message = "`process.notify` with a `user` beside `security.profile = \"host\"` is known but not built in this version";
        let help = "the socket is in a directory of root's: use a check of [health.readiness], or let the program change its user itself";
        walk.error(&field.key_span, message, Some(help.to_owned()));
    }
    unit.hostname = None;
    unit.network = Some(Network::Host);
}

/// Refuses what of `[oci]` is about a container.
pub(crate) fn refuse_oci(map: &Map<String, Value>, mut refuse: impl FnMut(&str, &str)) {
    let why = "beside `security.profile = \"host\"` there is no container: only process and linux.resources can be set";
    map.keys().filter(|key| !OCI.contains(&key.as_str())).for_each(|key| refuse(key, why));
    let linux = map.get("linux").and_then(Value::as_object);
    let others = linux.into_iter().flat_map(Map::keys).filter(|key| *key != "resources");
    others.for_each(|key| refuse(&format!("linux.{key}"), why));
}

fn pass_over(unit: &mut Unit, table: &str, key: &str) {
    let Security { capabilities, no_new_privileges, seccomp, read_only, .. } = &mut unit.security;
    match (table, key) {
        ("process", "user") => unit.process.user = None,
        ("process", "init") => unit.process.init = false,
        ("resources", "shm") => unit.resources.shm_bytes = None,
        (_, "capabilities") => *capabilities = None,
        (_, "no_new_privileges") => *no_new_privileges = None,
        (_, "seccomp") => *seccomp = None,
        (_, "read_only") => *read_only = None,
        _ => {}
    }
}

fn is_root(unit: &Unit) -> bool {
    unit.process.user.as_deref().is_none_or(|user| matches!(user.split(':').next(), Some("0" | "root")))
}

fn is_default(walk: &Walk, field: &Field) -> bool {
    walk.places.text_at(field.key_span.start).is_some_and(|text| text.layer.kind == LayerKind::Defaults)
}

fn field<'w>(top: &Table<'w>, table: &'static str, key: &str) -> Option<Field<'w>> {
    if table.is_empty() { top.field(key) } else { inner(top, table)?.field(key) }
}

/// A table whose keys are checked elsewhere.
fn inner<'w>(top: &Table<'w>, name: &'static str) -> Option<Table<'w>> {
    let field = top.field(name)?;
    match field.value.get_ref() {
        DeValue::Table(map) => Some(Table { name, span: field.key_span, map }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::unit::{
        Layer, Names, OnBad, Parsed, RootPlan, Source, SourceFacts, UnitName, compile, on_bad, parse_layers,
    };

    fn layers(defaults: &str, text: &str) -> Result<Parsed, Vec<String>> {
        let name = UnitName::new("sshd").unwrap();
        let layer = |kind, file, text| {
            let (file, base) = (Path::new(file), Path::new("/"));
            Layer { kind, file, base, text, is_template: false }
        };
        let all = [layer(LayerKind::Defaults, "moored.toml", defaults), layer(LayerKind::Main, "sshd.toml", text)];
        parse_layers(Names::of(&name), &all).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    const SSHD: &str = "process.args = [\"/usr/sbin/sshd\", \"-D\"]\nsecurity.profile = \"host\"\n";

    #[test]
    fn it_has_no_source_and_all_that_the_host_has() {
        let unit = layers("", SSHD).unwrap().unit;
        assert_eq!((&unit.source, &unit.hostname, &unit.network), (&Source::Host, &None, &Some(Network::Host)));
        assert_eq!((unit.resources.pids, unit.resources.shm_bytes), (None, None));
        assert_eq!(unit.security, Security::default());
        let facts = SourceFacts { resolved: "/".into(), config_json: None, layers: Vec::new() };
        let spec = compile(&unit, &facts).unwrap();
        assert_eq!(spec.root, RootPlan::Directory("/".into()));
        let value = spec.raw;
        let process = &value["process"];
        assert!(process["capabilities"].is_null() && process["noNewPrivileges"].is_null(), "{value:#}");
        let linux = &value["linux"];
        assert!(linux["namespaces"].is_null() && linux["seccomp"].is_null() && value["mounts"].is_null(), "{value:#}");
        assert_eq!(on_bad(&unit, &facts), OnBad::Retry, "it may have changed the host");
    }

    #[test]
    fn a_unit_may_give_rights_away_and_set_limits() {
        let more = "no_new_privileges = true\ncapabilities = [\"SYS_TIME\"]\nseccomp = \"default\"\n[resources]\nmemory = \"64M\"\npids = 9\n\
                    [oci]\nprocess.oomScoreAdj = -900\nlinux.resources.cpu.shares = 512\n";
        let text = format!("process.args = [\"/x\"]\n[security]\nprofile = \"host\"\n{more}");
        let unit = layers("", &text).unwrap().unit;
        let spec =
            compile(&unit, &SourceFacts { resolved: "/".into(), config_json: None, layers: Vec::new() }).unwrap();
        let value = spec.raw;
        assert_eq!(value["process"]["capabilities"]["bounding"], serde_json::json!(["CAP_SYS_TIME"]));
        assert_eq!(
            (&value["process"]["noNewPrivileges"], &value["process"]["oomScoreAdj"]),
            (&true.into(), &(-900).into())
        );
        assert_eq!(value["linux"]["resources"]["pids"]["limit"], 9);
        assert!(spec.allow_list);
    }

    #[test]
    fn defaults_for_containers_are_passed_over_and_others_count() {
        let defaults = "[defaults]\nprocess = { user = \"1000\", init = true, env = { TZ = \"UTC\" } }\nnetwork.mode = \"none\"\n\
                        security = { capabilities = \"docker\", read_only = false, seccomp = \"default\", no_new_privileges = true }\n\
                        resources = { shm = \"1M\", memory = \"1G\" }\nlog.max_files = 2\n";
        let unit = layers(defaults, SSHD).unwrap().unit;
        assert_eq!(unit.security, Security::default());
        assert_eq!((&unit.process.user, unit.process.init, &unit.network), (&None, false, &Some(Network::Host)));
        assert_eq!((unit.resources.shm_bytes, unit.resources.memory_bytes), (None, Some(1 << 30)));
        assert_eq!((unit.process.env["TZ"].as_str(), unit.log.max_files), ("UTC", 2));
    }

    #[test]
    fn who_moves_a_service_of_systemds_is_told_what_is_meant() {
        let text = "Type = \"notify\"\nExecStartPre = \"/bin/true\"\nRuntimeDirectory = \"sshd\"\nKillMode = \"process\"\nOOMScoreAdjust = -900\n\
                    LimitNOFILE = 1024\nExecStop = \"/bin/true\"\n[process]\nargs = [\"/x\"]\n[security]\nprofile = \"host\"\n";
        let told = layers("", text).unwrap_err();
        let said: Vec<&str> = told.iter().filter_map(|line| line.split_once("`, ").map(|(_, said)| said)).collect();
        let expected = [
            "did you mean `type`?",
            "did you mean `pre_start` in [hooks]?",
            "did you mean `args = [\"/bin/sh\", \"-ec\", \"mkdir -p /run/x; exec program\"]` in [process]?",
            "the first process gets the signal, and what is left when it has ended is killed",
            "did you mean `process.oomScoreAdj` in [oci]?",
            "did you mean `process.rlimits` in [oci]?",
            "did you mean `pre_stop` in [hooks]?",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn what_does_not_go_with_it_is_told_at_its_place() {
        let text = "hostname = \"x\"\nrootfs = \"/srv/x\"\nmount = []\n[process]\nargs = [\"/x\"]\ninit = true\nterminal = true\nuser = \"ntp\"\nnotify = \"systemd\"\n\
                    [security]\nprofile = \"host\"\nread_only = false\n[network]\nmode = \"none\"\n[resources]\nshm = \"1M\"\n\
                    [[device]]\npath = \"/dev/fuse\"\n[oci]\nmounts = []\nprocess.umask = 63\nlinux.namespaces = []\n";
        let expected = "\
            sshd.toml:1:1 `hostname` beside `security.profile = \"host\"`, it has the host's name: `host_name` in init.toml sets that\n\
            sshd.toml:2:1 `rootfs` beside `security.profile = \"host\"`, whose root is the host's, keep one of them\n\
            sshd.toml:3:1 `mount` beside `security.profile = \"host\"`, it has the host's mounts: a mount for itself alone takes a `rootfs`\n\
            sshd.toml:6:1 `process.init` beside `security.profile = \"host\"`, what it leaves behind is reaped anyway\n\
            sshd.toml:7:1 `process.terminal` beside `security.profile = \"host\"`, it has the host's /dev: the program opens a terminal there itself, as getty does\n\
            sshd.toml:9:1 `process.notify` with a `user` beside `security.profile = \"host\"` is known but not built in this version, \
            the socket is in a directory of root's: use a check of [health.readiness], or let the program change its user itself\n\
            sshd.toml:12:1 `security.read_only` beside `security.profile = \"host\"`, its root is the host's\n\
            sshd.toml:14:8 `network.mode` is the string \"none\", expected \"host\" beside `security.profile = \"host\"`\n\
            sshd.toml:16:1 `resources.shm` beside `security.profile = \"host\"`, /dev/shm is the host's\n\
            sshd.toml:17:3 `device` beside `security.profile = \"host\"`, it has all devices of the host's\n\
            sshd.toml:20:10 `oci.mounts` cannot be set, beside `security.profile = \"host\"` there is no container: only process and linux.resources can be set\n\
            sshd.toml:22:20 `oci.linux.namespaces` cannot be set, beside `security.profile = \"host\"` there is no container: only process and linux.resources can be set";
        assert_eq!(layers("", text).unwrap_err().join("\n"), expected);
        for (text, expected) in [
            (
                "security.profile = \"host\"\n",
                "sshd.toml:1:10 nothing to run: a unit of the host needs `args` in [process], write [process] and args = [\"/usr/sbin/sshd\", \"-D\"]",
            ),
            (
                "rootfs = \"/r\"\nprocess.args = [\"/x\"]\nsecurity.profile = \"hots\"\n",
                "sshd.toml:3:20 `security.profile` is the string \"hots\", expected \"host\", did you mean \"host\"?",
            ),
        ] {
            assert_eq!(layers("", text).unwrap_err(), [expected]);
        }
    }
}

//! What this runtime does, as runtime-spec's "Features" structure (features.md, features-linux.md) tells it to clients.
//!
//! Nothing here says so by itself: every name is asked of the compiler, by a config.json that uses it, and is listed unless the answer is
//! that this version does not do it. So the list cannot go another way than the code. It does not depend on the host, as the spec demands.

use serde_json::{Map, Value, json};

use super::capability::Capability;
use super::error::{CompileError, Problem};
use super::fields::{ACTION_NAMES, NAMESPACE_NAMES, OPERATOR_NAMES};
use super::{Context, compile, parse};

/// The oldest and the newest runtime-spec whose config.json is accepted, whole.
const VERSIONS: [&str; 2] = ["1.0.0", super::SPEC_VERSION];

/// Keys of `hooks`.
const HOOK_NAMES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Options of mounts that are not left to the file system.
const MOUNT_OPTIONS: [&str; 64] = [
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "src-nofollow",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// `SECCOMP_FILTER_FLAG_*` that the spec has.
const SECCOMP_FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Architectures whose call numbers are in the table of system calls.
const SECCOMP_ARCHITECTURES: [&str; 5] =
    ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];

/// Modes of set_mempolicy(2) that the spec has.
const MEMORY_MODES: [&str; 7] = [
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

/// And flags.
const MEMORY_FLAGS: [&str; 3] = ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// The structure, indented as by runc.
pub fn features() -> Value {
    let list = |names: &[&str], probe: &dyn Fn(&str) -> Value| -> Vec<String> {
        names.iter().filter(|name| is_done(probe(name))).map(|name| (*name).to_owned()).collect()
    };
    let linux = |key: &str, value: Value| -> Value { json!({ "linux": { key: value } }) };
    let resources = |key: &str, value: Value| linux("resources", json!({ key: value }));
    let seccomp = |key: &str, value: Value| {
        let mut profile = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
        set(&mut profile, key, value);
        linux("seccomp", profile)
    };
    let rule = |key: &str, value: Value| {
        let mut rule = json!({ "names": ["read"], "action": "SCMP_ACT_ERRNO" });
        set(&mut rule, key, value);
        seccomp("syscalls", json!([rule]))
    };
    let compared = |op: &str| rule("args", json!([{ "index": 0, "value": 1, "op": op }]));
    let policy =
        |mode: &str, flags: Value| linux("memoryPolicy", json!({ "mode": mode, "nodes": "0", "flags": flags }));
    let enabled = |done: bool| json!({ "enabled": done });
    let mapped = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
    let mapped = json!({ "mounts": [{ "destination": "/m", "type": "bind", "source": "/m", "options": ["bind", "idmap"],
        "uidMappings": mapped, "gidMappings": mapped }] });
    let modes = list(&MEMORY_MODES, &|mode| policy(mode, Value::Null));
    let mut features = json!({
        "ociVersionMin": VERSIONS[0],
        "ociVersionMax": VERSIONS[1],
        "hooks": list(&HOOK_NAMES, &|name| json!({ "hooks": { name: [{ "path": "/h" }] } })),
        "mountOptions": list(&MOUNT_OPTIONS, &|option| {
            json!({ "mounts": [{ "destination": "/m", "type": "tmpfs", "source": "/m", "options": [option] }] })
        }),
        "linux": {
            "namespaces": list(&NAMESPACE_NAMES, &|kind| linux("namespaces", json!([{ "type": kind }]))),
            "capabilities": Capability::all().map(|capability| capability.to_string()).collect::<Vec<_>>(),
            "cgroup": {
                "v1": true,
                "v2": true,
                // Its paths are understood, systemd itself is not asked.
                "systemd": false,
                "systemdUser": false,
                "rdma": is_done(resources("rdma", json!({ "mlx5_1": { "hcaHandles": 1 } }))),
            },
            "seccomp": {
                "enabled": true,
                "actions": list(&ACTION_NAMES, &|action| rule("action", json!(action))),
                "operators": list(&OPERATOR_NAMES, &compared),
                "archs": list(&SECCOMP_ARCHITECTURES, &|arch| seccomp("architectures", json!([arch]))),
                "knownFlags": SECCOMP_FLAGS,
                "supportedFlags": list(&SECCOMP_FLAGS, &|flag| seccomp("flags", json!([flag]))),
            },
            "apparmor": enabled(is_done(json!({ "process": { "apparmorProfile": "p" } }))),
            "selinux": enabled(is_done(json!({ "process": { "selinuxLabel": "a:b:c:d" } }))),
            "intelRdt": {
                "enabled": is_done(linux("intelRdt", json!({ "closID": "c" }))),
                "schemata": is_done(linux("intelRdt", json!({ "schemata": ["L3:0=f"] }))),
                "monitoring": is_done(linux("intelRdt", json!({ "enableMonitoring": true }))),
            },
            "mountExtensions": { "idmap": enabled(is_done(mapped)) },
            "netDevices": enabled(is_done(linux("netDevices", json!({ "eth0": {} })))),
        },
        "annotations": { "moored.version": env!("CARGO_PKG_VERSION") },
    });
    if let (false, Some(linux)) = (modes.is_empty(), features.get_mut("linux")) {
        let flags = list(&MEMORY_FLAGS, &|flag| policy("MPOL_BIND", json!([flag])));
        set(linux, "memoryPolicy", json!({ "modes": modes, "flags": flags }));
    }
    features
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

/// Whether a config.json with this in it is refused for nothing but what is wrong with it.
fn is_done(change: Value) -> bool {
    let mut config = json!({
        "ociVersion": super::SPEC_VERSION,
        "root": { "path": "rootfs" },
        "process": { "args": ["a"], "cwd": "/" },
        "linux": { "namespaces": [{ "type": "mount" }] },
    });
    lay_over(&mut config, change);
    let compiled = parse(config.to_string().as_bytes())
        .and_then(|parsed| compile(&parsed.spec, None, &Context::new("/".into(), "probe".into())).map(drop));
    // A word that is not known at all is not done either.
    let refuses = |error: &CompileError| match &error.problem {
        Problem::Unknown { .. } => true,
        Problem::Missing { .. }
        | Problem::Type { .. }
        | Problem::Range { .. }
        | Problem::Duplicate { .. }
        | Problem::Conflict { .. }
        | Problem::Seccomp(_) => false,
    };
    compiled.err().is_none_or(|errors| !errors.iter().any(refuses))
}

fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            let below: &mut Map<String, Value> = below;
            above.into_iter().for_each(|(key, value)| lay_over(below.entry(key).or_insert(Value::Null), value));
        }
        (below, above) => *below = above,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &Value) -> Vec<&str> {
        value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
    }

    #[test]
    fn what_is_listed_is_what_the_compiler_takes() {
        let features = features();
        assert_eq!(
            (features["ociVersionMin"].as_str(), features["ociVersionMax"].as_str()),
            (Some("1.0.0"), Some("1.3.0"))
        );
        let namespaces = texts(&features["linux"]["namespaces"]);
        for kind in ["cgroup", "ipc", "mount", "network", "pid", "uts"] {
            assert!(namespaces.contains(&kind), "{kind} in {namespaces:?}");
        }
        let options = texts(&features["mountOptions"]);
        assert!(["ro", "rro", "rbind", "nosuid"].iter().all(|option| options.contains(option)), "{options:?}");
        let seccomp = &features["linux"]["seccomp"];
        assert_eq!(texts(&seccomp["operators"]).len(), OPERATOR_NAMES.len());
        assert_eq!(texts(&seccomp["actions"]).len(), ACTION_NAMES.len());
        assert!(texts(&seccomp["supportedFlags"]).contains(&"SECCOMP_FILTER_FLAG_LOG"));
        assert_eq!(texts(&features["linux"]["capabilities"]).len(), 41);
    }

    #[test]
    fn what_is_refused_by_name_is_not_listed() {
        assert!(!is_done(json!({ "linux": { "namespaces": [{ "type": "nonsense" }] } })));
        assert!(is_done(json!({ "hostname": "h" })), "a mistake of another kind says nothing");
    }

    #[test]
    fn every_mount_option_listed_is_one_of_ours() {
        for option in MOUNT_OPTIONS {
            assert!(super::super::mount::is_option(option), "{option}");
        }
    }
}

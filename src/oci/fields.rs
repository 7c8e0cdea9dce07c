//! Every field that runtime-spec 1.3 knows, its type and its words, as a table.

use super::scheduler::{FLAGS, IO_CLASSES, POLICIES};

/// What a value may be.
pub(super) enum Kind {
    Any,
    Bool,
    Text,
    /// A word out of a list; what it is called.
    Word(&'static str, &'static [&'static str]),
    Capability,
    /// Signed 64 bits.
    Signed,
    /// Unsigned 64 bits.
    Unsigned,
    /// Unsigned 32 bits.
    Id,
    /// Unsigned 16 bits.
    Short,
    /// Signed 32 bits.
    Int,
    List(&'static Kind),
    /// Free keys.
    Map(&'static Kind),
    Object(&'static [(&'static str, Kind)]),
}

/// `linux.namespaces[].type`.
pub(super) const NAMESPACE_NAMES: [&str; 8] = ["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"];

/// Actions of a seccomp profile.
pub(super) const ACTION_NAMES: [&str; 9] = [
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
];

/// Comparisons of a seccomp profile.
pub(super) const OPERATOR_NAMES: [&str; 7] =
    ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];

const TEXTS: Kind = Kind::List(&Kind::Text);
const CAPABILITIES: Kind = Kind::List(&Kind::Capability);

/// A whole config.json.
pub(super) const CONFIG: Kind = Kind::Object(&[
    ("ociVersion", Kind::Text),
    ("process", PROCESS),
    ("root", Kind::Object(&[("path", Kind::Text), ("readonly", Kind::Bool)])),
    ("hostname", Kind::Text),
    ("domainname", Kind::Text),
    ("mounts", Kind::List(&MOUNT)),
    ("hooks", HOOKS),
    ("annotations", Kind::Map(&Kind::Text)),
    ("linux", LINUX),
    ("windows", Kind::Any),
    ("solaris", Kind::Any),
    ("vm", Kind::Any),
    ("zos", Kind::Any),
]);

/// `process`, also by itself (`exec --process`).
pub(super) const PROCESS: Kind = Kind::Object(&[
    ("terminal", Kind::Bool),
    ("consoleSize", Kind::Object(&[("height", Kind::Unsigned), ("width", Kind::Unsigned)])),
    ("user", USER),
    ("args", TEXTS),
    ("commandLine", Kind::Text),
    ("env", TEXTS),
    ("cwd", Kind::Text),
    (
        "capabilities",
        Kind::Object(&[
            ("bounding", CAPABILITIES),
            ("effective", CAPABILITIES),
            ("inheritable", CAPABILITIES),
            ("permitted", CAPABILITIES),
            ("ambient", CAPABILITIES),
        ]),
    ),
    ("rlimits", Kind::List(&RLIMIT)),
    ("noNewPrivileges", Kind::Bool),
    ("apparmorProfile", Kind::Text),
    ("oomScoreAdj", Kind::Signed),
    ("selinuxLabel", Kind::Text),
    (
        "scheduler",
        Kind::Object(&[
            ("policy", Kind::Word("policy", &POLICIES)),
            ("nice", Kind::Int),
            ("priority", Kind::Int),
            ("flags", Kind::List(&Kind::Word("flag", &FLAGS))),
            ("runtime", Kind::Unsigned),
            ("deadline", Kind::Unsigned),
            ("period", Kind::Unsigned),
        ]),
    ),
    ("ioPriority", Kind::Object(&[("class", Kind::Word("I/O class", &IO_CLASSES)), ("priority", Kind::Signed)])),
    ("execCPUAffinity", Kind::Object(&[("initial", Kind::Text), ("final", Kind::Text)])),
]);

const USER: Kind = Kind::Object(&[
    ("uid", Kind::Id),
    ("gid", Kind::Id),
    ("umask", Kind::Id),
    ("additionalGids", Kind::List(&Kind::Id)),
    ("username", Kind::Text),
]);

const RLIMIT: Kind = Kind::Object(&[
    (
        "type",
        Kind::Word(
            "limit",
            &[
                "RLIMIT_AS",
                "RLIMIT_CORE",
                "RLIMIT_CPU",
                "RLIMIT_DATA",
                "RLIMIT_FSIZE",
                "RLIMIT_LOCKS",
                "RLIMIT_MEMLOCK",
                "RLIMIT_MSGQUEUE",
                "RLIMIT_NICE",
                "RLIMIT_NOFILE",
                "RLIMIT_NPROC",
                "RLIMIT_RSS",
                "RLIMIT_RTPRIO",
                "RLIMIT_RTTIME",
                "RLIMIT_SIGPENDING",
                "RLIMIT_STACK",
            ],
        ),
    ),
    ("hard", Kind::Unsigned),
    ("soft", Kind::Unsigned),
]);

const ID_MAPPINGS: Kind =
    Kind::List(&Kind::Object(&[("containerID", Kind::Id), ("hostID", Kind::Id), ("size", Kind::Id)]));

const MOUNT: Kind = Kind::Object(&[
    ("destination", Kind::Text),
    ("type", Kind::Text),
    ("source", Kind::Text),
    ("options", TEXTS),
    ("uidMappings", ID_MAPPINGS),
    ("gidMappings", ID_MAPPINGS),
]);

const HOOK: Kind =
    Kind::List(&Kind::Object(&[("path", Kind::Text), ("args", TEXTS), ("env", TEXTS), ("timeout", Kind::Signed)]));

const HOOKS: Kind = Kind::Object(&[
    ("prestart", HOOK),
    ("createRuntime", HOOK),
    ("createContainer", HOOK),
    ("startContainer", HOOK),
    ("poststart", HOOK),
    ("poststop", HOOK),
]);

const LINUX: Kind = Kind::Object(&[
    ("uidMappings", ID_MAPPINGS),
    ("gidMappings", ID_MAPPINGS),
    ("sysctl", Kind::Map(&Kind::Text)),
    ("resources", RESOURCES),
    ("cgroupsPath", Kind::Text),
    ("namespaces", Kind::List(&NAMESPACE)),
    ("devices", Kind::List(&DEVICE)),
    ("netDevices", Kind::Map(&Kind::Object(&[("name", Kind::Text)]))),
    ("seccomp", SECCOMP),
    ("rootfsPropagation", Kind::Text),
    ("maskedPaths", TEXTS),
    ("readonlyPaths", TEXTS),
    ("mountLabel", Kind::Text),
    ("intelRdt", INTEL_RDT),
    ("memoryPolicy", MEMORY_POLICY),
    ("personality", Kind::Object(&[("domain", Kind::Word("domain", &["LINUX", "LINUX32"])), ("flags", TEXTS)])),
    ("timeOffsets", Kind::Map(&CLOCK_OFFSET)),
]);

const INTEL_RDT: Kind = Kind::Object(&[
    ("closID", Kind::Text),
    ("schemata", TEXTS),
    ("l3CacheSchema", Kind::Text),
    ("memBwSchema", Kind::Text),
    ("enableCMT", Kind::Bool),
    ("enableMBM", Kind::Bool),
    ("enableMonitoring", Kind::Bool),
]);

const MEMORY_POLICY: Kind = Kind::Object(&[
    (
        "mode",
        Kind::Word(
            "mode",
            &[
                "MPOL_DEFAULT",
                "MPOL_BIND",
                "MPOL_INTERLEAVE",
                "MPOL_WEIGHTED_INTERLEAVE",
                "MPOL_PREFERRED",
                "MPOL_PREFERRED_MANY",
                "MPOL_LOCAL",
            ],
        ),
    ),
    ("nodes", Kind::Text),
    (
        "flags",
        Kind::List(&Kind::Word("flag", &["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"])),
    ),
]);

const NAMESPACE: Kind = Kind::Object(&[("type", Kind::Word("namespace", &NAMESPACE_NAMES)), ("path", Kind::Text)]);

const CLOCK_OFFSET: Kind = Kind::Object(&[("secs", Kind::Signed), ("nanosecs", Kind::Id)]);

const DEVICE: Kind = Kind::Object(&[
    ("path", Kind::Text),
    ("type", Kind::Word("device type", &["c", "b", "u", "p"])),
    ("major", Kind::Signed),
    ("minor", Kind::Signed),
    ("fileMode", Kind::Id),
    ("uid", Kind::Id),
    ("gid", Kind::Id),
]);

/// `linux.resources`, also by itself (`update --resources`).
pub(super) const RESOURCES: Kind = Kind::Object(&[
    (
        "devices",
        Kind::List(&Kind::Object(&[
            ("allow", Kind::Bool),
            ("type", Kind::Word("device type", &["a", "b", "c", "u", "p"])),
            ("major", Kind::Signed),
            ("minor", Kind::Signed),
            ("access", Kind::Text),
        ])),
    ),
    (
        "memory",
        Kind::Object(&[
            ("limit", Kind::Signed),
            ("reservation", Kind::Signed),
            ("swap", Kind::Signed),
            ("kernel", Kind::Signed),
            ("kernelTCP", Kind::Signed),
            ("swappiness", Kind::Unsigned),
            ("disableOOMKiller", Kind::Bool),
            ("useHierarchy", Kind::Bool),
            ("checkBeforeUpdate", Kind::Bool),
        ]),
    ),
    (
        "cpu",
        Kind::Object(&[
            ("shares", Kind::Unsigned),
            ("quota", Kind::Signed),
            ("burst", Kind::Unsigned),
            ("period", Kind::Unsigned),
            ("realtimeRuntime", Kind::Signed),
            ("realtimePeriod", Kind::Unsigned),
            ("cpus", Kind::Text),
            ("mems", Kind::Text),
            ("idle", Kind::Signed),
        ]),
    ),
    ("pids", Kind::Object(&[("limit", Kind::Signed)])),
    ("blockIO", BLOCK_IO),
    ("hugepageLimits", Kind::List(&Kind::Object(&[("pageSize", Kind::Text), ("limit", Kind::Signed)]))),
    (
        "network",
        Kind::Object(&[
            ("classID", Kind::Id),
            ("priorities", Kind::List(&Kind::Object(&[("name", Kind::Text), ("priority", Kind::Id)]))),
        ]),
    ),
    ("rdma", Kind::Map(&Kind::Object(&[("hcaHandles", Kind::Id), ("hcaObjects", Kind::Id)]))),
    ("unified", Kind::Map(&Kind::Text)),
]);

const RATES: Kind =
    Kind::List(&Kind::Object(&[("major", Kind::Signed), ("minor", Kind::Signed), ("rate", Kind::Unsigned)]));

const BLOCK_IO: Kind = Kind::Object(&[
    ("weight", Kind::Short),
    ("leafWeight", Kind::Short),
    (
        "weightDevice",
        Kind::List(&Kind::Object(&[
            ("major", Kind::Signed),
            ("minor", Kind::Signed),
            ("weight", Kind::Short),
            ("leafWeight", Kind::Short),
        ])),
    ),
    ("throttleReadBpsDevice", RATES),
    ("throttleWriteBpsDevice", RATES),
    ("throttleReadIOPSDevice", RATES),
    ("throttleWriteIOPSDevice", RATES),
]);

const ACTIONS: Kind = Kind::Word("action", &ACTION_NAMES);

const SECCOMP: Kind = Kind::Object(&[
    ("defaultAction", ACTIONS),
    ("defaultErrnoRet", Kind::Id),
    ("architectures", TEXTS),
    ("flags", TEXTS),
    ("listenerPath", Kind::Text),
    ("listenerMetadata", Kind::Text),
    (
        "syscalls",
        Kind::List(&Kind::Object(&[
            ("names", TEXTS),
            ("action", ACTIONS),
            ("errnoRet", Kind::Id),
            (
                "args",
                Kind::List(&Kind::Object(&[
                    ("index", Kind::Unsigned),
                    ("value", Kind::Unsigned),
                    ("valueTwo", Kind::Unsigned),
                    ("op", Kind::Word("operator", &OPERATOR_NAMES)),
                ])),
            ),
        ])),
    ),
]);

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of fields, by row: what a field of it begins with, and how it ends.
    fn rows() -> Vec<(Vec<String>, Vec<String>)> {
        let words = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<String>>();
        let cells = include_str!("fields.md").lines().filter(|line| line.starts_with("| `"));
        let row = |line: &str| {
            let cell = line.split('|').nth(1).unwrap_or_default();
            match cell.split_once(": ") {
                Some((places, names)) => (words(places), words(names)),
                None => (vec![String::new()], words(cell)),
            }
        };
        cells.map(row).collect()
    }

    fn leaves(kind: &Kind, place: &str, found: &mut Vec<(String, String)>) {
        let Kind::Object(fields) = kind else { return };
        for (name, kind) in *fields {
            let below = if place.is_empty() { (*name).to_owned() } else { format!("{place}.{name}") };
            match kind {
                Kind::Object(_) => leaves(kind, &below, found),
                Kind::List(of) if matches!(of, Kind::Object(_)) => leaves(of, &format!("{below}[]"), found),
                Kind::Map(of) if matches!(of, Kind::Object(_)) => leaves(of, &format!("{below}.*"), found),
                _ => found.push((place.to_owned(), (*name).to_owned())),
            }
        }
    }

    #[test]
    fn the_table_of_fields_has_each_of_them_once() {
        let mut fields = Vec::new();
        leaves(&CONFIG, "", &mut fields);
        let rows = rows();
        let is_once = |(place, name): &&(String, String)| {
            let of = |(places, names): &&(Vec<String>, Vec<String>)| places.contains(place) && names.contains(name);
            rows.iter().filter(of).count() == 1
        };
        let wrong: Vec<_> = fields.iter().filter(|field| !is_once(field)).collect();
        assert!(wrong.is_empty(), "not there, or more than once: {wrong:?}");
        let listed: usize = rows.iter().map(|(places, names)| places.len() * names.len()).sum();
        assert_eq!(listed, fields.len(), "fields that there are not");
    }
}

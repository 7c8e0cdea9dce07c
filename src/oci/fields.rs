//! Every field that runtime-spec 1.3 knows, its type and its words, as a table.

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
    ("scheduler", Kind::Any),
    ("ioPriority", Kind::Any),
    ("execCPUAffinity", Kind::Any),
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
    ("netDevices", Kind::Any),
    ("seccomp", SECCOMP),
    ("rootfsPropagation", Kind::Text),
    ("maskedPaths", TEXTS),
    ("readonlyPaths", TEXTS),
    ("mountLabel", Kind::Text),
    ("intelRdt", Kind::Any),
    ("memoryPolicy", Kind::Any),
    ("personality", Kind::Any),
    ("timeOffsets", Kind::Map(&CLOCK_OFFSET)),
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
    ("blockIO", Kind::Any),
    ("hugepageLimits", Kind::Any),
    ("network", Kind::Any),
    ("rdma", Kind::Any),
    ("unified", Kind::Map(&Kind::Text)),
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

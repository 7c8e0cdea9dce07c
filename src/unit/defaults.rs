//! The spec of `rootfs` and `executable` units before the unit's own words: hardened. A looser setting must be written
//! in the unit.

use serde_json::{Map, Value, json};

/// Size of the tmpfs at `/tmp`, and of a `[[mount]]` of type tmpfs that names none. It counts as the container's memory.
pub(crate) const TMPFS_BYTES: u64 = 64 << 20;

/// What a program finds its helpers by.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// In a root without /sys, what is masked below it is simply not there; the runtime skips missing paths.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Everything but root, args, seccomp, and the mounts below /sys.
///
/// Capabilities are all empty rather than absent: absent means "as the runtime has them". The device rule denies all;
/// the runtime adds those that OCI demands (null zero full random urandom tty ptmx and pts). /tmp is there because a
/// read-only root leaves a program no other place for its temporary files.
pub(crate) fn hardened() -> Map<String, Value> {
    let value = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [],
            "env": [PATH],
            "cwd": "/",
            "capabilities": { "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [] },
            "noNewPrivileges": true,
        },
        "root": { "path": "", "readonly": true },
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777"]),
            tmpfs("/tmp", None, false),
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" },
                { "type": "network" },
            ],
            "resources": { "devices": [ { "allow": false, "access": "rwm" } ] },
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A service of the host's before the unit's own words: what is not said here stays as the host has it.
pub(crate) fn host() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": { "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": [], "env": [PATH], "cwd": "/" },
        "root": { "path": "/" },
        "linux": { "resources": {} },
    })
}

/// /sys and the container's own part of the cgroup tree, both read-only (CVE-2022-0492, CVE-2023-25809).
pub(crate) fn sys_mounts() -> [Value; 2] {
    let options = ["nosuid", "noexec", "nodev", "ro"];
    [
        mount("/sys", "sysfs", "sysfs", &options),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

/// An empty memory file system anybody inside may write to, as /tmp is.
pub(crate) fn tmpfs(target: &str, size_bytes: Option<u64>, read_only: bool) -> Value {
    let size = format!("size={}", size_bytes.unwrap_or(TMPFS_BYTES));
    let access = if read_only { "ro" } else { "rw" };
    mount(target, "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777", &size, access])
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}

//! What is in `linux`: namespaces, devices, limits, filters.

use serde_json::{Value, json};

use crate::simulation::rng::Rng;

use super::case::Edit::{self, Push, Remove, Set};
use super::genes::mostly;
use super::stage::STAGE;

const NAMESPACES: [&str; 6] = ["pid", "network", "ipc", "uts", "mount", "cgroup"];

pub fn device(rng: &mut Rng) -> Value {
    let good = ["/dev/fuse", "/dev/new", "/dev/sub/dir/new", "/dev/zero", "/dev/shm/in"];
    let odd = [
        "/data/node",
        "/new/node",
        "dev/relative",
        "/data/file",
        "/data/link/node",
        "/data/none",
        "/dev/ptmx",
        "/proc/node",
    ];
    let mut device = json!({ "path": mostly(rng, &good, &odd) });
    let good = [("c", 1, 3), ("c", 1, 5), ("c", 1, 7), ("c", 10, 229), ("u", 1, 8), ("b", 7, 0), ("p", 0, 0)];
    let (kind, major, minor) = mostly(rng, &good, &[("x", 1, 3), ("c", -1, -1), ("p", 1, 3)]);
    device["type"] = json!(kind);
    if kind != "p" || rng.chance(30) {
        (device["major"], device["minor"]) = (json!(major), json!(minor));
    }
    if rng.chance(70) {
        device["fileMode"] = json!(*rng.pick(&[0o666, 0o600, 0o640, 0o4755, 0]));
    }
    if rng.chance(40) {
        (device["uid"], device["gid"]) = (json!(rng.below(2) * 1000), json!(rng.below(2) * 7));
    }
    device
}

pub fn device_rules(rng: &mut Rng) -> Value {
    let rule = |rng: &mut Rng| {
        let mut rule = json!({ "allow": rng.chance(70), "access": *rng.pick(&["r", "w", "m", "rw", "rwm", "rwm"]) });
        if rng.chance(85) {
            rule["type"] = json!(*rng.pick(&["c", "b", "c", "a"]));
        }
        if rng.chance(80) {
            rule["major"] = json!(*rng.pick(&[1, 10, 7, -1]));
        }
        if rng.chance(60) {
            rule["minor"] = json!(*rng.pick(&[3, 229, 0, -1]));
        }
        rule
    };
    let mut rules = if rng.chance(70) { vec![json!({ "allow": false, "access": "rwm" })] } else { Vec::new() };
    let count = rng.below(4);
    rules.extend((0..count).map(|_| rule(rng)));
    Value::Array(rules)
}

pub fn resources(rng: &mut Rng) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut set = |field: &str, value: Value| edits.push(Set(format!("/linux/resources/{field}"), value));
    let mib = 1_i64 << 20;
    for _ in 0..=rng.below(4) {
        match rng.below(17) {
            0 => set("memory/limit", json!(mostly(rng, &[64 * mib, 100 * mib + 1, 1 << 40], &[-1, 0]))),
            1 => set("memory/reservation", json!(mostly(rng, &[32 * mib, 33 * mib + 5], &[-1, 0]))),
            2 => set("memory/swappiness", json!(mostly(rng, &[0, 50, 100], &[101]))),
            3 => set("memory/disableOOMKiller", json!(rng.chance(50))),
            4 => set("cpu/shares", json!(mostly(rng, &[2, 512, 1024, 262_144], &[0, 1, 300_000]))),
            5 => set("cpu/quota", json!(mostly(rng, &[50_000, 20_000], &[-1, 0, 500]))),
            6 => set("cpu/period", json!(mostly(rng, &[100_000, 50_000], &[0, 100, 2_000_000]))),
            7 => set("cpu/cpus", json!(mostly(rng, &["0", "0-1", "1"], &["", "7000", "x"]))),
            8 => set("cpu/mems", json!(mostly(rng, &["0"], &["", "63", "x"]))),
            9 => set("pids/limit", json!(mostly(rng, &[20_i64, 1000, 30_000], &[0, -1, 1 << 40]))),
            10 if rng.chance(30) => set("blockIO/weight", json!(mostly(rng, &[10, 500, 1000], &[0, 1, 2000]))),
            11 if rng.chance(30) => set("hugepageLimits", json!([{ "pageSize": "2MB", "limit": 4 * mib }])),
            12 if rng.chance(30) => set("network/classID", json!(1_048_577)),
            13 if rng.chance(30) => set("unified", json!({ "memory.high": "50000000" })),
            14 if rng.chance(30) => set("memory/swap", json!(*rng.pick(&[128 * mib, -1, 0]))),
            15 if rng.chance(30) => set("cpu/realtimeRuntime", json!(*rng.pick(&[0, 1000]))),
            16 if rng.chance(30) => set("cpu/burst", json!(*rng.pick(&[0, 1000]))),
            _ => set("pids/limit", json!(100)),
        }
    }
    edits
}

fn namespaces(keep: impl Fn(&str) -> bool) -> Vec<Value> {
    NAMESPACES.into_iter().filter(|kind| keep(kind)).map(|kind| json!({ "type": kind })).collect()
}

pub fn no_namespace(rng: &mut Rng) -> Vec<Edit> {
    let out = *rng.pick(&["pid", "network", "ipc", "uts", "cgroup"]);
    let mut edits = vec![Set("/linux/namespaces".into(), json!(namespaces(|kind| kind != out)))];
    // A name that a runtime sets all the same is the host's already.
    let own = rustix::system::uname();
    match out {
        "uts" if rng.chance(60) => edits.push(Remove("/hostname".into())),
        "uts" => edits.push(Set("/hostname".into(), json!(own.nodename().to_string_lossy()))),
        _ => {}
    }
    edits
}

pub fn joined_namespace(rng: &mut Rng) -> Vec<Edit> {
    let (kind, file) =
        *rng.pick(&[("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup"), ("pid", "pid")]);
    let mut all = namespaces(|name| name != kind);
    let path = match rng.below(25) {
        0 => format!("{STAGE}/ns/nothing"),
        1 => format!("{STAGE}/src/file"),
        2 => format!("{STAGE}/ns/{}", if file == "ipc" { "uts" } else { "ipc" }),
        3 => String::new(),
        _ => format!("{STAGE}/ns/{file}"),
    };
    all.push(json!({ "type": kind, "path": path }));
    vec![Set("/linux/namespaces".into(), json!(all))]
}

pub fn odd_namespace(rng: &mut Rng) -> Vec<Edit> {
    let odd = [
        json!({ "type": "pid" }),
        json!({ "type": "bogus" }),
        json!({ "type": "network", "path": "relative" }),
        json!({}),
        json!({ "type": "time" }),
    ];
    vec![Push("/linux/namespaces".into(), rng.pick(&odd).clone())]
}

pub fn user_namespace(rng: &mut Rng) -> Vec<Edit> {
    let range =
        |container: u32, host: u32, size: u32| json!({ "containerID": container, "hostID": host, "size": size });
    let maps = match rng.below(16) {
        0..3 => json!([range(0, 700_000, 10), range(10, 800_000, 65_000)]),
        3 => json!([range(0, 0, 65_536)]),
        4 => json!([range(1, 700_000, 1000)]),
        5 => json!([]),
        6 => json!([range(0, 700_000, 1000), range(500, 800_000, 1000)]),
        _ => json!([range(0, 700_000, 100_000)]),
    };
    let gids = if rng.chance(85) { maps.clone() } else { json!([range(0, 900_000, 70_000)]) };
    vec![
        Push("/linux/namespaces".into(), json!({ "type": "user" })),
        Set("/linux/uidMappings".into(), maps),
        Set("/linux/gidMappings".into(), gids),
    ]
}

/// None of these reaches the host: without a namespace of its own a container is refused them, or they are what the host has.
pub fn sysctl(rng: &mut Rng) -> Value {
    let own = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).unwrap_or_default().trim().to_owned()
    };
    let mut all = json!({});
    for _ in 0..=rng.below(3) {
        let kinds = if rng.chance(15) { 11 } else { 7 };
        let (name, value) = match rng.below(kinds) {
            0 => ("net.ipv4.ip_unprivileged_port_start", own("net.ipv4.ip_unprivileged_port_start")),
            1 => ("net.ipv4.ping_group_range", own("net.ipv4.ping_group_range")),
            2 => ("net.ipv6.conf.all.disable_ipv6", own("net.ipv6.conf.all.disable_ipv6")),
            3 => ("kernel.msgmax", own("kernel.msgmax")),
            4 => ("kernel.shm_rmid_forced", own("kernel.shm_rmid_forced")),
            5 => ("fs.mqueue.msg_max", own("fs.mqueue.msg_max")),
            6 => ("kernel.sem", own("kernel.sem")),
            7 => ("kernel.pid_max", own("kernel.pid_max")),
            8 => ("vm.swappiness", own("vm.swappiness")),
            9 => ("net.nothing.here", "1".to_owned()),
            _ => ("kernel.hostname", own("kernel.hostname")),
        };
        all[name] = json!(value);
    }
    all
}

pub fn seccomp(rng: &mut Rng) -> Value {
    const CALLS: [&str; 12] = [
        "mkdirat",
        "mkdir",
        "mknodat",
        "mknod",
        "symlinkat",
        "linkat",
        "fchownat",
        "socket",
        "sethostname",
        "setpriority",
        "chroot",
        "no_such_call",
    ];
    // One rule for each call: what two of different actions mean together is nobody's promise.
    let mut free: Vec<&str> = CALLS.to_vec();
    let mut rule = |rng: &mut Rng| {
        let count = (1 + rng.below(3)).min(free.len() as u64);
        let names: Vec<&str> = (0..count).map(|_| free.swap_remove(rng.below(free.len() as u64) as usize)).collect();
        let action = *rng.pick(&[
            "SCMP_ACT_ERRNO",
            "SCMP_ACT_ERRNO",
            "SCMP_ACT_ALLOW",
            "SCMP_ACT_LOG",
            "SCMP_ACT_TRACE",
            "SCMP_ACT_KILL",
            "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_TRAP",
        ]);
        let mut rule = json!({ "names": names, "action": action });
        if action == "SCMP_ACT_ERRNO" && rng.chance(60) {
            rule["errnoRet"] = json!(mostly(rng, &[1, 38, 95], &[0, 4095, 5000]));
        }
        if names.contains(&"socket") {
            let arg = |rng: &mut Rng| {
                let op = *rng.pick(&[
                    "SCMP_CMP_EQ",
                    "SCMP_CMP_NE",
                    "SCMP_CMP_LT",
                    "SCMP_CMP_LE",
                    "SCMP_CMP_GT",
                    "SCMP_CMP_GE",
                    "SCMP_CMP_MASKED_EQ",
                ]);
                let mut arg = json!({ "value": *rng.pick(&[0, 1, 2, 16, 0xff]), "op": op });
                if op == "SCMP_CMP_MASKED_EQ" {
                    arg["valueTwo"] = json!(*rng.pick(&[0, 1, 2, 16]));
                }
                arg
            };
            // Of one argument twice, runc makes alternatives.
            let mut first = arg(rng);
            let mut second = arg(rng);
            (first["index"], second["index"]) = (json!(0), json!(1));
            rule["names"] = json!(["socket"]);
            rule["args"] = if rng.chance(50) { json!([first]) } else { json!([first, second]) };
        }
        rule
    };
    let mut profile = json!({ "defaultAction": if rng.chance(90) { "SCMP_ACT_ALLOW" } else { "SCMP_ACT_LOG" } });
    let count = rng.below(4);
    if count > 0 || rng.chance(50) {
        profile["syscalls"] = (0..count).map(|_| rule(rng)).collect();
    }
    if rng.chance(40) {
        profile["architectures"] = json!(
            rng.pick(&[
                vec!["SCMP_ARCH_X86_64"],
                vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                vec!["SCMP_ARCH_AARCH64"],
                vec![]
            ])
            .clone()
        );
    }
    if rng.chance(15) {
        profile["flags"] = json!([*rng.pick(&[
            "SECCOMP_FILTER_FLAG_LOG",
            "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "BOGUS"
        ])]);
    }
    profile
}

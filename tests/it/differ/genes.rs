//! What a config.json may have, each kind with its weight: most of it is right, some of it is not. Nothing here reaches the host: what has no
//! namespace of its own gets what the host has already.

use serde_json::{Value, json};

use crate::simulation::rng::Rng;

use super::case::Edit::{self, Exec, Push, Remove, Set};
use super::stage::STAGE;
use super::{genes_linux, genes_mounts};

type Make = fn(&mut Rng) -> Vec<Edit>;

/// Name, weight, and what it changes.
pub const GENES: [(&str, u64, Make); 32] = [
    ("version", 1, version),
    ("user", 5, |rng| vec![Set("/process/user".into(), user(rng))]),
    ("cwd", 4, cwd),
    ("env", 4, env),
    ("args", 4, args),
    ("rlimits", 4, |rng| vec![Set("/process/rlimits".into(), rlimits(rng))]),
    ("capabilities", 6, |rng| capabilities(rng, "/process/capabilities")),
    ("no new privileges", 3, |rng| vec![Set("/process/noNewPrivileges".into(), json!(rng.chance(30)))]),
    ("oom score", 3, |rng| {
        vec![Set("/process/oomScoreAdj".into(), json!(mostly(rng, &[0, 1, 500, 1000], &[1001, -1001, -1000])))]
    }),
    ("terminal", 2, terminal),
    ("hostname", 3, |rng| {
        vec![Set("/hostname".into(), json!(mostly(rng, &["", "a", "a.b-c", "UPPER_1"], &[LONG_NAME, "ünï"])))]
    }),
    ("domainname", 1, |rng| vec![Set("/domainname".into(), json!(*rng.pick(&["", "example.com"])))]),
    ("root", 5, root),
    ("propagation", 3, |rng| {
        let words = ["private", "slave", "shared", "unbindable", "rprivate", "rslave", "rshared", "runbindable"];
        vec![Set("/linux/rootfsPropagation".into(), json!(mostly(rng, &words, &["", "bogus"])))]
    }),
    ("mount", 24, |rng| vec![Push("/mounts".into(), genes_mounts::any(rng))]),
    ("default mount", 4, genes_mounts::default_mount),
    ("masked", 4, |rng| vec![Set("/linux/maskedPaths".into(), genes_mounts::paths(rng))]),
    ("readonly", 4, |rng| vec![Set("/linux/readonlyPaths".into(), genes_mounts::paths(rng))]),
    ("device", 6, |rng| vec![Push("/linux/devices".into(), genes_linux::device(rng))]),
    ("device rules", 3, |rng| vec![Set("/linux/resources/devices".into(), genes_linux::device_rules(rng))]),
    ("resources", 6, genes_linux::resources),
    ("no namespace", 4, genes_linux::no_namespace),
    ("joined namespace", 4, genes_linux::joined_namespace),
    ("namespaces", 1, genes_linux::odd_namespace),
    ("user namespace", 5, genes_linux::user_namespace),
    ("sysctl", 4, |rng| vec![Set("/linux/sysctl".into(), genes_linux::sysctl(rng))]),
    ("seccomp", 6, |rng| vec![Set("/linux/seccomp".into(), genes_linux::seccomp(rng))]),
    ("hooks", 5, hooks),
    ("annotations", 2, |rng| {
        vec![Set("/annotations".into(), json!({ "org.example.a": *rng.pick(&["", "1", "x y", "\"\n"]), "b": "c" }))]
    }),
    ("exec", 6, exec),
    ("missing", 2, missing),
    ("wrong type", 2, wrong_type),
];

/// One time in twelve what is odd.
pub fn mostly<T: Copy>(rng: &mut Rng, good: &[T], odd: &[T]) -> T {
    let from = if rng.chance(8) { odd } else { good };
    *rng.pick(from)
}

const LONG_NAME: &str = "a-name-that-is-longer-than-sixty-four-bytes-which-is-all-that-the-kernel-takes";

fn version(rng: &mut Rng) -> Vec<Edit> {
    vec![Set(
        "/ociVersion".into(),
        json!(mostly(rng, &["1.0.0", "1.0.2-dev", "1.0.9", "1.0.0-rc5"], &["", "2.0.0", "0.5.0", "x"])),
    )]
}

fn user(rng: &mut Rng) -> Value {
    let id = |rng: &mut Rng| json!(mostly(rng, &[0_i64, 0, 1, 12, 1000, 65534], &[65535, 70_000, 4_294_967_294]));
    let mut user = json!({ "uid": id(rng), "gid": id(rng) });
    if rng.chance(40) {
        let count = rng.below(4);
        user["additionalGids"] = (0..count).map(|_| id(rng)).collect();
    }
    if rng.chance(30) {
        user["umask"] = json!(*rng.pick(&[0, 0o22, 0o27, 0o77, 0o777]));
    }
    user
}

fn cwd(rng: &mut Rng) -> Vec<Edit> {
    let good = [
        "/",
        "/tmp",
        "/data/sub",
        "/data/../tmp",
        "/made/for/it",
        "/data/link",
        "/closed",
        "/home",
        "//data//",
        "/proc/self",
        "/dev/shm",
    ];
    let odd = ["/data/file", "/data/up", "/data/none", "/data/loop", "tmp", "", "/proc/self/fd"];
    vec![Set("/process/cwd".into(), json!(mostly(rng, &good, &odd)))]
}

fn env(rng: &mut Rng) -> Vec<Edit> {
    let good = ["A=1", "A=2", "B=x=y", "EMPTY=", "HOME=/tmp", "HOME=", "PATH=/bin", "S= a b ", "LANG=ü"];
    match rng.below(8) {
        0 => vec![Set("/process/env".into(), json!([]))],
        1 => vec![Remove("/process/env".into())],
        _ => vec![Push(
            "/process/env".into(),
            json!(mostly(rng, &good, &["NOVALUE", "=novalue", "", "PATH=", "PATH=/nowhere:/bin"])),
        )],
    }
}

fn args(rng: &mut Rng) -> Vec<Edit> {
    let good = ["look", "./look", "bin/look", "/bin/look", "//look"];
    let odd = [
        "/nothing",
        "nothing",
        "/data",
        "/data/file",
        "",
        "/data/file/x",
        "/data/loop",
        "../look",
        "/closed/x",
        "etc/passwd",
    ];
    let args = if rng.chance(3) { json!([]) } else { json!([mostly(rng, &good, &odd)]) };
    vec![Set("/process/args".into(), args)]
}

fn rlimits(rng: &mut Rng) -> Value {
    let kinds = [
        "CORE",
        "CPU",
        "FSIZE",
        "LOCKS",
        "MEMLOCK",
        "MSGQUEUE",
        "NOFILE",
        "NPROC",
        "RSS",
        "RTTIME",
        "SIGPENDING",
        "STACK",
    ];
    let limit = |rng: &mut Rng| {
        let kind = mostly(rng, &kinds, &["NICE", "RTPRIO", "BOGUS"]);
        // The host's own hard limits are finite for some, and may not be raised everywhere.
        let hard = mostly(rng, &[100_u64, 1000, 4096, 8192], &[0, 1 << 40]);
        let hard = match kind {
            "FSIZE" | "STACK" => hard.max(1 << 20),
            // None at all is over at whichever tick of the clock comes next.
            "CPU" => hard.max(100),
            _ => hard,
        };
        let soft = if rng.chance(3) { hard + 1 } else { *rng.pick(&[hard, hard / 2, hard]) };
        json!({ "type": format!("RLIMIT_{kind}"), "hard": hard, "soft": soft })
    };
    let count = rng.below(4);
    (0..count).map(|_| limit(rng)).collect()
}

const CAPABILITIES: [&str; 12] = [
    "CAP_CHOWN",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_AUDIT_WRITE",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_NET_RAW",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_MKNOD",
    "CAP_DAC_OVERRIDE",
    "CAP_SYS_NICE",
];

fn capabilities(rng: &mut Rng, pointer: &str) -> Vec<Edit> {
    if rng.chance(10) {
        return vec![Remove(pointer.into())];
    }
    let some = |rng: &mut Rng, percent| CAPABILITIES.into_iter().filter(|_| rng.chance(percent)).collect::<Vec<_>>();
    let base = some(rng, 50);
    let mut sets = json!({});
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        let percent = if matches!(set, "inheritable" | "ambient") { 40 } else { 90 };
        if !rng.chance(percent) {
            continue;
        }
        // Mostly what is right: effective in permitted, ambient in both.
        let names = if rng.chance(90) { base.clone() } else { some(rng, 50) };
        sets[set] = json!(names);
    }
    if rng.chance(4) {
        sets["bounding"] = json!(["CAP_BOGUS"]);
    }
    vec![Set(pointer.into(), sets)]
}

fn terminal(rng: &mut Rng) -> Vec<Edit> {
    let mut edits = vec![Set("/process/terminal".into(), json!(true))];
    if rng.chance(70) {
        edits.push(Set(
            "/process/consoleSize".into(),
            json!({ "height": 20 + rng.below(30), "width": 70 + rng.below(30) }),
        ));
    }
    edits
}

fn root(rng: &mut Rng) -> Vec<Edit> {
    match rng.below(30) {
        0 => vec![Set("/root/path".into(), json!("../root"))],
        1 => vec![Set("/root/path".into(), json!(format!("{STAGE}/nothing")))],
        2 => vec![Set("/root/path".into(), json!(format!("{STAGE}/root/data/file")))],
        3 => vec![Set("/root/path".into(), json!(""))],
        4 => vec![Remove("/root/readonly".into())],
        _ => vec![Set("/root/readonly".into(), json!(false))],
    }
}

fn hooks(rng: &mut Rng) -> Vec<Edit> {
    let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    let hook = |rng: &mut Rng, kind: &str| {
        let inside = kind == "startContainer";
        let (program, log) = if inside {
            ("/look".to_owned(), "/data/hooks".to_owned())
        } else {
            (format!("{STAGE}/look"), format!("{STAGE}/root/data/hooks"))
        };
        let name = if rng.chance(3) { format!("{kind}-fail") } else { kind.to_owned() };
        let mut hook = json!({ "path": program, "args": ["a-hook", "hook", name, log] });
        match rng.below(12) {
            0 => hook["env"] = json!(["A=b"]),
            1 => hook["timeout"] = json!(*rng.pick(&[60, 0, -1])),
            2 if rng.chance(25) => hook["path"] = json!(*rng.pick(&["/nothing", "relative"])),
            _ => {}
        }
        hook
    };
    // What a hook inside writes is in the root.
    let mut edits = vec![Set("/root/readonly".into(), json!(false))];
    for kind in kinds {
        if rng.chance(35) {
            let count = 1 + rng.below(2);
            edits.push(Set(format!("/hooks/{kind}"), (0..count).map(|_| hook(rng, kind)).collect()));
        }
    }
    edits
}

fn exec(rng: &mut Rng) -> Vec<Edit> {
    let mut process = json!({ "args": ["/look", "ls=/dev", "open=/", "exit=9"], "cwd": "/", "env": ["PATH=/bin", "E=x"], "user": { "uid": 0, "gid": 0 } });
    let mut take = |edits: Vec<Edit>| {
        for edit in edits {
            if let Set(pointer, value) = edit
                && let Some(field) = pointer.strip_prefix("/process/")
            {
                process[field] = value;
            }
        }
    };
    for _ in 0..rng.below(4) {
        match rng.below(7) {
            0 => take(vec![Set("/process/user".into(), user(rng))]),
            1 => take(capabilities(rng, "/process/capabilities")),
            2 => take(cwd(rng)),
            3 => take(vec![Set("/process/noNewPrivileges".into(), json!(rng.chance(50)))]),
            4 => take(vec![Set("/process/rlimits".into(), rlimits(rng))]),
            5 => take(vec![Set("/process/oomScoreAdj".into(), json!(*rng.pick(&[0, 7, 1000])))]),
            _ => take(args(rng)),
        }
    }
    vec![Exec(process)]
}

fn missing(rng: &mut Rng) -> Vec<Edit> {
    let fields = [
        "/ociVersion",
        "/process",
        "/process/args",
        "/process/cwd",
        "/process/user",
        "/root",
        "/root/path",
        "/mounts",
        "/linux/resources",
        "/linux/maskedPaths",
        "/linux/cgroupsPath",
        "/hostname",
    ];
    vec![Remove((*rng.pick(&fields)).into())]
}

fn wrong_type(rng: &mut Rng) -> Vec<Edit> {
    let rows = [
        ("/process/args", json!("sh")),
        ("/process/user/uid", json!(-1)),
        ("/process/user/uid", json!("0")),
        ("/process/cwd", json!(1)),
        ("/process/env", json!("A=b")),
        ("/root/readonly", json!("yes")),
        ("/hostname", json!(1)),
        ("/mounts", json!({})),
        ("/linux/namespaces", json!("pid")),
        ("/process/oomScoreAdj", json!("1")),
        ("/process/terminal", json!(1)),
        ("/annotations", json!({ "a": 1 })),
        ("/linux/sysctl", json!([])),
        ("/process/oomScoreAdj", json!(1.5)),
        ("/process/rlimits", json!(null)),
        ("/mounts", json!(null)),
        ("/unknown", json!(1)),
        ("/process/unknown", json!({})),
    ];
    let (pointer, value) = rng.pick(&rows).clone();
    vec![Set(pointer.into(), value)]
}

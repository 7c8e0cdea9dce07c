//! Mounts, and paths that are masked or made read-only.

use serde_json::{Value, json};

use crate::simulation::rng::Rng;

use super::case::Edit::{self, Remove, Set};
use super::genes::mostly;
use super::stage::STAGE;

/// One more entry of `mounts`.
pub fn any(rng: &mut Rng) -> Value {
    let good = [
        "/data",
        "/data/sub",
        "/tmp",
        "/made/for/it",
        "/data/new",
        "/data/../tmp",
        "data/sub",
        "/home/",
        "//data//sub",
        "/dev/sub",
        "/data/link",
    ];
    let odd = [
        "/data/file",
        "/data/up",
        "/data/none",
        "/data/loop",
        "/closed/x",
        "/etc/passwd",
        "/",
        "/proc/sub",
        "/data/none/x",
        "/sys/fs",
        "/dev/shm",
    ];
    let target = mostly(rng, &good, &odd);
    let mut mount = match rng.below(20) {
        0..9 => bind(rng),
        9..18 => tmpfs(rng),
        _ => other(rng),
    };
    mount["destination"] = json!(target);
    if rng.chance(10) {
        mount = json!({ "source": format!("{STAGE}/src/file"), "options": ["bind", *rng.pick(&["ro", "rw", "nosuid", "rslave"])], "type": "bind" });
        mount["destination"] = json!(*rng.pick(&["/data/file", "/etc/passwd", "/made/file", "/data/new"]));
    }
    mount
}

const FLAGS: [&str; 28] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "atime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "nodiratime",
    "diratime",
    "async",
    "sync",
    "dirsync",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "defaults",
];
const PROPAGATIONS: [&str; 8] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];
const BELOW: [&str; 12] = [
    "rro",
    "rrw",
    "rnosuid",
    "rnodev",
    "rnoexec",
    "rnoatime",
    "rrelatime",
    "rstrictatime",
    "rnodiratime",
    "rsuid",
    "rdev",
    "rexec",
];

fn flags(rng: &mut Rng, options: &mut Vec<Value>) {
    // What is asked for most of the time comes most of the time.
    for _ in 0..rng.below(4) {
        let flag = if rng.chance(60) {
            *rng.pick(&["ro", "nosuid", "nodev", "noexec", "relatime", "noatime"])
        } else {
            *rng.pick(&FLAGS)
        };
        options.push(json!(flag));
    }
    if rng.chance(20) {
        options.push(json!(*rng.pick(&PROPAGATIONS)));
    }
    if rng.chance(10) {
        options.push(json!(*rng.pick(&BELOW)));
    }
}

fn bind(rng: &mut Rng) -> Value {
    let good = ["src/dir", "src/tree", "src/dir", "src/link", "src/private"];
    let source = mostly(rng, &good, &["src/file", "src/empty", "src/nothing", "../src/dir"]);
    let source = if source.starts_with("..") { source.to_owned() } else { format!("{STAGE}/{source}") };
    let mut options = vec![json!(*rng.pick(&["bind", "rbind"]))];
    flags(rng, &mut options);
    if rng.chance(5) {
        options.push(json!("mode=755"));
    }
    if rng.chance(20) {
        options.rotate_left(1);
    }
    let mut mount = json!({ "source": source, "options": options });
    match rng.below(6) {
        0 => {}
        1 => mount["type"] = json!("none"),
        2 => mount["type"] = json!(""),
        _ => mount["type"] = json!("bind"),
    }
    if rng.chance(5) {
        mount.as_object_mut().unwrap().remove("options");
    }
    mount
}

fn tmpfs(rng: &mut Rng) -> Value {
    let data = [
        "size=64k",
        "size=1m",
        "mode=700",
        "mode=0755",
        "mode=1777",
        "uid=1000",
        "gid=7",
        "nr_inodes=100",
        "bogus=1",
        "bogus",
        "size=1m,mode=711",
        "",
    ];
    let mut options = Vec::new();
    flags(rng, &mut options);
    for _ in 0..rng.below(3) {
        let option = mostly(rng, &data[..8], &data[8..]);
        options.push(json!(option));
    }
    if rng.chance(15) {
        options.push(json!("tmpcopyup"));
    }
    let mut mount = json!({ "type": "tmpfs" });
    match rng.below(4) {
        0 => {}
        1 => mount["source"] = json!("something"),
        _ => mount["source"] = json!("tmpfs"),
    }
    if !options.is_empty() || rng.chance(50) {
        mount["options"] = json!(options);
    }
    mount
}

fn other(rng: &mut Rng) -> Value {
    let rows = [
        json!({ "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "type": "sysfs", "source": "sysfs", "options": ["ro"] }),
        json!({ "type": "mqueue", "source": "mqueue" }),
        json!({ "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0620", "mode=0600"] }),
        json!({ "type": "nothing", "source": "x" }),
        json!({ "type": "ramfs", "source": "x", "options": ["mode=700"] }),
        json!({ "source": "x" }),
        json!({}),
    ];
    rng.pick(&rows).clone()
}

/// One of those that every container has, missing or with other options.
pub fn default_mount(rng: &mut Rng) -> Vec<Edit> {
    let template: Value = serde_json::from_str(moored::oci::template()).unwrap();
    let mut mounts = template["mounts"].as_array().unwrap().clone();
    let at = rng.below(mounts.len() as u64) as usize;
    if rng.chance(40) {
        let target = mounts.remove(at)["destination"].clone();
        // What is mounted below something needs it.
        if target == "/dev" {
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        }
    } else {
        let mut options = mounts[at]["options"].as_array().cloned().unwrap_or_default();
        flags(rng, &mut options);
        mounts[at]["options"] = json!(options);
    }
    if mounts.is_empty() { vec![Remove("/mounts".into())] } else { vec![Set("/mounts".into(), json!(mounts))] }
}

/// Some that are there, some that are not, and some that are not what they seem.
pub fn paths(rng: &mut Rng) -> Value {
    let all = [
        "/proc/kcore",
        "/proc/keys",
        "/sys/firmware",
        "/proc/sys",
        "/proc/bus",
        "/proc/sysrq-trigger",
        "/data",
        "/data/file",
        "/data/sub",
        "/data/link",
        "/data/none",
        "/data/loop",
        "/nothing",
        "/etc/passwd",
        "/dev/null",
        "/dev/shm",
        "/tmp",
        "/data/sub/",
        "relative",
        "/data/up",
    ];
    let count = rng.below(5);
    (0..count).map(|_| mostly(rng, &all[..9], &all[9..])).collect()
}

//! The rest of what runc or crun knows: one time in eight beside the other genes.

use serde_json::{Value, json};

use crate::simulation::rng::Rng;

use super::case::Edit::{self, Push, Remove, Set};
use super::case::Gene;
use super::stage::{CGROUPS, STAGE};

/// From a sequence of its own, so that the other genes of a seed are what they were before there was this.
pub fn any(seed: u64) -> Option<Gene> {
    let mut rng = Rng::new(seed ^ 0x5eed_0f7e_4e57);
    if !rng.chance(12) {
        return None;
    }
    type Make = fn(&mut Rng) -> Vec<Edit>;
    let kinds: [(&'static str, Make); 9] = [
        ("personality", |rng| {
            let domain = *rng.pick(&["LINUX", "LINUX32", "BOGUS", ""]);
            vec![Set("/linux/personality".into(), json!({ "domain": domain }))]
        }),
        ("labels", labels),
        ("cgroups path", |rng| match rng.below(4) {
            0 => vec![Remove("/linux/cgroupsPath".into())],
            1 => vec![Set("/linux/cgroupsPath".into(), json!(""))],
            2 => vec![Set("/linux/cgroupsPath".into(), json!(format!("{CGROUPS}/./@id/")))],
            _ => vec![Set("/linux/cgroupsPath".into(), json!(format!("{CGROUPS}/x/../@id")))],
        }),
        ("time", time),
        ("rest of resources", resources),
        ("rest of a mount", |rng| vec![Push("/mounts".into(), mount(rng))]),
        ("rest of seccomp", seccomp),
        ("resctrl", |rng| vec![Set("/linux/intelRdt".into(), json!({ "closID": *rng.pick(&["", "of-nobody"]) }))]),
        ("other platforms", |rng| {
            let field = *rng.pick(&["windows", "solaris", "vm"]);
            vec![Set(format!("/{field}"), json!({}))]
        }),
    ];
    let (name, make) = *rng.pick(&kinds);
    Some(Gene { name, edits: make(&mut rng) })
}

fn labels(rng: &mut Rng) -> Vec<Edit> {
    let label = "system_u:system_r:container_t:s0";
    let (field, values): (_, &[&str]) = match rng.below(3) {
        0 => ("/process/apparmorProfile", &["", "unconfined", "of-nobody"]),
        1 => ("/process/selinuxLabel", &["", label]),
        _ => ("/linux/mountLabel", &["", label]),
    };
    vec![Set(field.into(), json!(*rng.pick(values)))]
}

fn time(rng: &mut Rng) -> Vec<Edit> {
    let secs = *rng.pick(&[0_i64, 1, 86_400, -1]);
    let mut edits =
        vec![Set("/linux/timeOffsets".into(), json!({ "monotonic": { "secs": secs, "nanosecs": 5 }, "boottime": {} }))];
    if rng.chance(75) {
        edits.push(Push("/linux/namespaces".into(), json!({ "type": "time" })));
    }
    edits
}

fn resources(rng: &mut Rng) -> Vec<Edit> {
    let rate = |rate: u64| json!([{ "major": 7, "minor": 0, "rate": rate }]);
    let (field, value) = match rng.below(13) {
        0 => ("cpu/idle", json!(rng.below(2))),
        1 => ("cpu/realtimePeriod", json!(*rng.pick(&[1_000_000, 0]))),
        2 => ("blockIO/throttleReadBpsDevice", rate(1 << 20)),
        3 => ("blockIO/throttleWriteIOPSDevice", rate(*rng.pick(&[100, 0]))),
        4 => ("blockIO/leafWeight", json!(500)),
        5 => ("network/priorities", json!([{ "name": "lo", "priority": 5 }])),
        6 => ("rdma", json!({ "nothing0": { "hcaHandles": 3 } })),
        7 => ("memory/useHierarchy", json!(rng.chance(50))),
        8 => ("memory/kernel", json!(*rng.pick(&[-1_i64, 64 << 20]))),
        9 => ("memory/kernelTCP", json!(*rng.pick(&[-1_i64, 64 << 20]))),
        10 => ("memory/checkBeforeUpdate", json!(true)),
        11 => ("hugepageLimits", json!([{ "pageSize": *rng.pick(&["1GB", "3MB", "2MB"]), "limit": 0 }])),
        _ => ("pids", json!({})),
    };
    vec![Set(format!("/linux/resources/{field}"), value)]
}

fn mount(rng: &mut Rng) -> Value {
    let bind = |options: &[&str]| json!({ "destination": "/data/rest", "type": "bind", "source": format!("{STAGE}/src/tree"), "options": options });
    let maps = json!([{ "containerID": 0, "hostID": 1000, "size": 65536 }]);
    match rng.below(6) {
        0 => bind(&["bind", "nosymfollow"]),
        1 => bind(&["rbind", "rnosymfollow"]),
        2 => bind(&["rbind", "symfollow"]),
        3 => bind(&["bind", "idmap"]),
        4 => {
            let mut mount = bind(&["bind"]);
            (mount["uidMappings"], mount["gidMappings"]) = (maps.clone(), maps);
            mount
        }
        _ => {
            json!({ "destination": "/data/rest", "type": "tmpfs", "source": "x", "options": ["nosymfollow", "mode=0711"] })
        }
    }
}

fn seccomp(rng: &mut Rng) -> Vec<Edit> {
    let rule = |name: &str, action: &str| json!({ "names": [name], "action": action });
    let profile = match rng.below(4) {
        // What the rest of the program needs is allowed by name.
        0 => json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5 }),
        1 => json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("mkdirat", "SCMP_ACT_NOTIFY")] }),
        2 => json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("mkdirat", "BOGUS")] }),
        _ => json!({ "defaultAction": "SCMP_ACT_LOG", "syscalls": [
            rule("mkdirat", "SCMP_ACT_ERRNO"), rule("mkdirat", "SCMP_ACT_ALLOW"), rule("symlinkat", "SCMP_ACT_ERRNO")
        ] }),
    };
    vec![Set("/linux/seccomp".into(), profile)]
}

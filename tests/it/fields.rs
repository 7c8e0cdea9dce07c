//! Fields of config.json that hold in the kernel: what it says of a container that has them, and of one that it has no file for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::support::{TempDir, busybox_root, cgroup2, is_root, skip};

/// Bundles on one root, and a cgroup that no other test has.
struct Place {
    dir: TempDir,
    root: PathBuf,
    id: String,
}

impl Place {
    fn new(name: &str) -> Option<Place> {
        let dir = TempDir::new(name);
        let root = busybox_root(&dir.0).filter(|_| is_root())?;
        Some(Place { root, dir, id: format!("moored-it-{name}-{}", std::process::id()) })
    }

    fn oci(&self, words: &[&str], change: impl FnOnce(&mut Value)) -> Output {
        let mut config: Value = serde_json::from_str(moored::oci::template()).unwrap();
        config["root"]["path"] = json!(self.root);
        config["process"]["terminal"] = json!(false);
        change(&mut config);
        fs::create_dir_all(self.dir.join("b")).unwrap();
        fs::write(self.dir.join("b/config.json"), config.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_moored"));
        command.arg("oci").arg("--root").arg(self.dir.join("state")).args(words).stdin(Stdio::null());
        // Through files: a container that goes on holds what it inherited open.
        let (out, err) = (self.dir.join("stdout"), self.dir.join("stderr"));
        command.current_dir(self.dir.join("b"));
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let status = command.status().unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    /// Runs a shell to its end; what it printed.
    fn shell(&self, script: &str, change: impl FnOnce(&mut Value)) -> String {
        let output = self.oci(&["run", &self.id], |config| {
            config["process"]["args"] = json!(["/bin/sh", "-c", script]);
            change(config);
        });
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is said when these resources are refused. Nothing is left of the container.
    fn refusal(&self, resources: &Value) -> String {
        let refused = self.oci(&["run", &self.id], |config| {
            config["linux"]["resources"] = resources.clone();
        });
        assert!(!refused.status.success(), "{resources}");
        assert!(!cgroup2().join(&self.id).exists());
        String::from_utf8(refused.stderr).unwrap()
    }

    /// Starts one that stays, with these resources in the cgroup of this place, and reads files of its v1 cgroups.
    fn limits(&self, resources: &Value, files: &[&str]) -> Vec<String> {
        let started = self.oci(&["run", "--detach", &self.id], |config| {
            config["process"]["args"] = json!(["/bin/sleep", "1000"]);
            config["linux"]["cgroupsPath"] = json!(format!("/{}", self.id));
            config["linux"]["resources"] = resources.clone();
        });
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        let read = |file: &&str| {
            let controller = file.split('.').next().unwrap();
            let path = Path::new("/sys/fs/cgroup").join(controller).join(&self.id).join(file);
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            text.trim().to_owned()
        };
        files.iter().map(read).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.oci(&["delete", "--force", &self.id], |_| {});
    }
}

fn is_legacy() -> bool {
    let legacy = Path::new("/sys/fs/cgroup/blkio").is_dir();
    if !legacy {
        skip("needs a host with cgroup v1");
    }
    legacy
}

/// Major and minor number of a disk of this host's.
fn disk() -> Option<String> {
    let disks = fs::read_dir("/sys/block").ok()?.flatten();
    let with_device = disks.filter(|disk| disk.path().join("device").exists());
    let first = with_device.filter_map(|disk| fs::read_to_string(disk.path().join("dev")).ok()).next();
    if first.is_none() {
        skip("needs a disk");
    }
    first.map(|numbers| numbers.trim().to_owned())
}

#[test]
fn limits_of_memory_and_cpu_reach_the_files_of_v1() {
    let Some(place) = is_legacy().then(|| Place::new("fields-v1")).flatten() else { return };
    let resources = json!({
        "memory": { "limit": 67108864, "reservation": 33554432, "swappiness": 7, "disableOOMKiller": true, "useHierarchy": true },
        "cpu": { "quota": 50000, "period": 100000, "burst": 1000, "idle": 1, "cpus": "0", "mems": "0" },
    });
    let files = [
        "memory.limit_in_bytes",
        "memory.soft_limit_in_bytes",
        "memory.swappiness",
        "memory.oom_control",
        "memory.use_hierarchy",
        "cpu.cfs_quota_us",
        "cpu.cfs_burst_us",
        "cpu.idle",
        "cpuset.cpus",
        "cpuset.mems",
    ];
    let mut found = place.limits(&resources, &files);
    found[3].truncate("oom_kill_disable 1".len());
    assert_eq!(found, ["67108864", "33554432", "7", "oom_kill_disable 1", "1", "50000", "1000", "1", "0", "0"]);
}

#[test]
fn rates_of_a_disk_reach_the_files_of_v1() {
    let Some(disk) = is_legacy().then(disk).flatten() else { return };
    let Some(place) = Place::new("fields-blkio") else { return };
    let (major, minor) = disk.split_once(':').unwrap();
    let rate = |rate: u64| json!([{ "major": major.parse::<i64>().unwrap(), "minor": minor.parse::<i64>().unwrap(), "rate": rate }]);
    let resources = json!({ "blockIO": {
        "throttleReadBpsDevice": rate(1048576), "throttleWriteBpsDevice": rate(2097152),
        "throttleReadIOPSDevice": rate(100), "throttleWriteIOPSDevice": rate(200),
    }});
    let files = [
        "blkio.throttle.read_bps_device",
        "blkio.throttle.write_bps_device",
        "blkio.throttle.read_iops_device",
        "blkio.throttle.write_iops_device",
    ];
    let expected = ["1048576", "2097152", "100", "200"].map(|rate| format!("{disk} {rate}"));
    assert_eq!(place.limits(&resources, &files), expected);
}

#[test]
fn what_the_host_lacks_is_named_with_its_file() {
    let Some(place) = is_legacy().then(|| Place::new("fields-lacks")).flatten() else { return };
    let unified = place.refusal(&json!({ "unified": { "memory.high": "1000000" } }));
    let expected =
        "linux.resources.unified[\"memory.high\"] is a file of cgroup v2: this host has its controllers on v1";
    assert!(unified.contains(expected), "{unified}");
    let rows = [
        (json!({ "rdma": { "mlx5_1": { "hcaHandles": 1 } } }), "rdma", "rdma", "rdma.max"),
        (json!({ "network": { "classID": 1 } }), "network.classID", "net_cls", "net_cls.classid"),
        (
            json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4194304 }] }),
            "hugepageLimits",
            "hugetlb",
            "hugetlb.2MB.limit_in_bytes",
        ),
    ];
    for (resources, field, controller, file) in rows {
        if Path::new("/sys/fs/cgroup").join(controller).exists() {
            skip(&format!("this host has {controller}"));
            continue;
        }
        let expected = format!(
            "linux.resources.{field} needs the {controller} controller, which this host does not offer here: there is no {file}"
        );
        let said = place.refusal(&resources);
        assert!(said.contains(&expected), "{said}");
    }
    if !Path::new("/sys/fs/cgroup/blkio/blkio.leaf_weight").exists() {
        let said = place.refusal(&json!({ "blockIO": { "leafWeight": 500 } }));
        let expected = "linux.resources.blockIO.leafWeight needs blkio.leaf_weight, which this kernel does not have";
        assert!(said.contains(expected), "{said}");
    }
}

/// What a shell sees of how it is served: nice value and policy (proc(5)), I/O priority, machine, memory policy.
const SERVED: &str = "cut -d' ' -f19,41 /proc/$$/stat; ionice -p $$; uname -m; \
    sed -n '1s/^[^ ]* \\([^ ]*\\).*/\\1/p' /proc/self/numa_maps";

fn serve(config: &mut Value) {
    config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    config["linux"]["personality"] = json!({ "domain": "LINUX32" });
    config["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_process_is_served_as_it_asks_and_so_is_one_that_joins() {
    let Some(place) = Place::new("fields-served") else { return };
    let expected = "5 3\nbest-effort: prio 6\ni686\nbind=static:0\n";
    assert_eq!(place.shell(SERVED, serve), expected);
    let started = place.oci(&["run", "--detach", &place.id], |config| {
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        serve(config);
    });
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let joined = place.oci(&["exec", &place.id, "/bin/sh", "-c", SERVED], serve);
    assert_eq!(String::from_utf8_lossy(&joined.stdout), expected, "{}", String::from_utf8_lossy(&joined.stderr));
}

#[test]
fn realtime_and_deadline_are_the_kernels() {
    let Some(place) = Place::new("fields-realtime") else { return };
    let fifo = json!({ "policy": "SCHED_FIFO", "priority": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
    // The shell's own child is not realtime any more, so it asks for itself.
    let look = "cut -d' ' -f40,41 /proc/$$/stat";
    assert_eq!(place.shell(look, |config| config["process"]["scheduler"] = fifo), "3 1\n");
    let deadline = json!({ "policy": "SCHED_DEADLINE", "runtime": 1000000, "deadline": 10000000, "period": 10000000,
        "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
    assert_eq!(place.shell(look, |config| config["process"]["scheduler"] = deadline), "0 6\n");
    // More than there is.
    let deadline = json!({ "policy": "SCHED_DEADLINE", "runtime": 20000000, "deadline": 10000000, "period": 10000000 });
    let refused = place.oci(&["run", &place.id], |config| config["process"]["scheduler"] = deadline);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("process.scheduler") && said.contains("sched_setattr"),
        "{said}"
    );
}

#[test]
fn who_joins_runs_on_the_cpus_that_it_names() {
    let Some(place) = Place::new("fields-affinity") else { return };
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    if online.trim() == "0" {
        return skip("needs two CPUs");
    }
    let look = json!(["/bin/sh", "-c", "sed -n 's/^Cpus_allowed_list:.//p' /proc/self/status"]);
    let started =
        place.oci(&["run", "--detach", &place.id], |config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let all = place.shell_in(&look, &Value::Null);
    assert_eq!(place.shell_in(&look, &json!({ "initial": "0", "final": "1" })), "1\n");
    assert_eq!(place.shell_in(&look, &json!({ "final": "0" })), "0\n");
    assert_eq!(place.shell_in(&look, &json!({ "initial": "0" })), all);
}

impl Place {
    fn shell_in(&self, args: &Value, affinity: &Value) -> String {
        let process = json!({ "args": args, "cwd": "/", "env": ["PATH=/bin"], "execCPUAffinity": affinity });
        let file = self.dir.join("process.json");
        fs::write(&file, process.to_string()).unwrap();
        let joined = self.oci(&["exec", "--process", &file.display().to_string(), &self.id], |_| {});
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
        String::from_utf8(joined.stdout).unwrap()
    }
}

/// What this kernel does not have is named. The machine of `vm` has AppArmor.
#[test]
fn labels_and_shares_that_the_kernel_does_not_know_are_named() {
    let Some(place) = Place::new("fields-labels") else { return };
    let types = fs::read_to_string("/proc/filesystems").unwrap();
    let has = |file: &str| fs::read_to_string(file).is_ok_and(|text| text.starts_with('Y'));
    let said = |change: &dyn Fn(&mut Value)| {
        let refused = place.oci(&["run", &place.id], |config| {
            config["process"]["args"] = json!(["/bin/true"]);
            change(config);
        });
        assert!(!refused.status.success() && !cgroup2().join(&place.id).exists());
        String::from_utf8(refused.stderr).unwrap()
    };
    if !has("/sys/module/apparmor/parameters/enabled") {
        let apparmor = said(&|config| config["process"]["apparmorProfile"] = json!("p"));
        assert!(apparmor.contains("process.apparmorProfile: AppArmor is not enabled in this kernel"), "{apparmor}");
    }
    if !types.contains("selinuxfs") {
        let selinux = said(&|config| config["process"]["selinuxLabel"] = json!("u:r:t:s0"));
        assert!(selinux.contains("process.selinuxLabel: SELinux is not enabled in this kernel"), "{selinux}");
        let mount = said(&|config| config["linux"]["mountLabel"] = json!("u:r:t:s0"));
        assert!(mount.contains("linux.mountLabel: SELinux is not enabled in this kernel"), "{mount}");
    }
    if !types.contains("resctrl") {
        let rdt = said(&|config| config["linux"]["intelRdt"] = json!({ "l3CacheSchema": "L3:0=f" }));
        assert!(
            rdt.contains("linux.intelRdt needs resctrl, which this kernel or this processor does not have"),
            "{rdt}"
        );
    }
    // What says nothing changes nothing.
    place.shell("true", |config| {
        config["process"]["apparmorProfile"] = json!("");
        config["process"]["selinuxLabel"] = json!("");
        config["linux"]["mountLabel"] = json!("");
        config["linux"]["intelRdt"] = json!({});
    });
    let started =
        place.oci(&["run", "--detach", &place.id], |config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    assert!(started.status.success());
    let joined = place.oci(&["exec", "--apparmor", "p", &place.id, "/bin/true"], |_| {});
    let text = String::from_utf8_lossy(&joined.stderr).into_owned();
    assert!(joined.status.code() == Some(255) && text.contains("process.apparmorProfile"), "{text}");
    let updated = place.oci(&["update", "--mem-bw-schema", "MB:0=20", &place.id], |_| {});
    let text = String::from_utf8_lossy(&updated.stderr).into_owned();
    assert!(text.contains("--mem-bw-schema needs a container with linux.intelRdt"), "{text}");
}

#[test]
fn who_joins_may_go_into_a_cgroup_below() {
    let Some(place) = is_legacy().then(|| Place::new("fields-below")).flatten() else { return };
    let started = place.oci(&["run", "--detach", &place.id], |config| {
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        config["linux"]["cgroupsPath"] = json!(format!("/{}", place.id));
    });
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let hierarchies = ["cpu", "pids"].map(|name| Path::new("/sys/fs/cgroup").join(name).join(&place.id).join("sub"));
    hierarchies.iter().for_each(|sub| fs::create_dir(sub).unwrap());
    let look = |cgroups: &[&str]| {
        let options: Vec<String> = cgroups.iter().map(|cgroup| format!("--cgroup={cgroup}")).collect();
        let words: Vec<&str> = std::iter::once("exec").chain(options.iter().map(String::as_str)).collect();
        let joined = place.oci(&[&words[..], &[&place.id, "cat", "/proc/self/cgroup"]].concat(), |_| {});
        match joined.status.success() {
            true => Ok(String::from_utf8(joined.stdout).unwrap()),
            false => Err(String::from_utf8(joined.stderr).unwrap()),
        }
    };
    let line = |text: &str, name: &str| {
        let is_of = |line: &&str| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|one| one == name));
        text.lines().find(is_of).unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned()
    };
    let both = look(&["cpu,pids:sub"]).unwrap();
    assert!(line(&both, "cpu").ends_with("/sub") && line(&both, "pids").ends_with("/sub"), "{both}");
    let one = look(&["pids:/sub"]).unwrap();
    assert!(!line(&one, "cpu").ends_with("/sub") && line(&one, "pids").ends_with("/sub"), "{one}");
    assert!(!line(&look(&[]).unwrap(), "pids").ends_with("/sub"));
    let expected = [
        (&["pids:none"][..], "no such file"),
        (&["pids:../.."][..], "open pids:"),
        (&["none:sub"][..], "the container has no cgroup of the controller none"),
        (&["a", "b"][..], "--cgroup \"a\": expected one PATH, or CONTROLLER,…:PATH"),
    ];
    for (cgroups, expected) in expected {
        let said = look(cgroups).unwrap_err();
        assert!(said.contains(expected), "{cgroups:?}: {said}");
    }
    hierarchies.iter().for_each(|sub| fs::remove_dir(sub).unwrap());
}

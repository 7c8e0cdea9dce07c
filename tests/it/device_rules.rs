//! Device rules without the v1 devices controller: an eBPF program on the container's cgroup. Here in a mount namespace that shows no `devices`
//! hierarchy; pure v2 is in `vm`.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::support::{TempDir, busybox_root, cgroup2, is_root, skip, tool};

/// A `/sys/fs/cgroup` that has v1's memory and pids alone; v2 is reached through a mount of its own.
const HIDE: &str = "mount -t tmpfs none /sys/fs/cgroup && cd /sys/fs/cgroup && mkdir memory pids && \
    mount -t cgroup -o memory none memory && mount -t cgroup -o pids none pids && cd / && exec \"$@\"";

struct Place {
    root: PathBuf,
    dir: TempDir,
    id: String,
}

impl Place {
    /// On a host that has the v1 controller and v2.
    fn find(name: &str) -> Option<Place> {
        let hybrid = fs::metadata("/sys/fs/cgroup/devices").is_ok() && cgroup2().ends_with("unified");
        if !hybrid {
            skip("needs a host with cgroup v1 and v2");
        }
        if !is_root() || !hybrid || tool("unshare").is_none() {
            return None;
        }
        let dir = TempDir::new(name);
        Some(Place { root: busybox_root(&dir.0)?, dir, id: format!("moored-it-{name}-{}", std::process::id()) })
    }

    /// Every container of these tests has the one cgroup of the place.
    fn bundle(&self, name: &str, rules: &Value) -> String {
        let mut config: Value = serde_json::from_str(moored::oci::template()).unwrap();
        config["root"] = json!({ "path": self.root, "readonly": false });
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
        }
        config["linux"]["cgroupsPath"] = json!(format!("/{}", self.id));
        config["linux"]["resources"]["devices"] = rules.clone();
        let bundle = self.dir.join(name);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle.display().to_string()
    }

    fn oci(&self, words: &[&str]) -> Output {
        let state = self.dir.join("state").display().to_string();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", HIDE, "sh", env!("CARGO_BIN_EXE_moored"), "oci", "--root", &state]);
        let log = self.dir.join("log");
        let out = fs::File::create(&log).unwrap();
        let status = command.args(words).stdout(out.try_clone().unwrap()).stderr(out).status().unwrap();
        Output { status, stdout: fs::read(&log).unwrap(), stderr: Vec::new() }
    }

    fn start(&self, bundle: &str, id: &str) {
        let run = self.oci(&["run", "--detach", "--bundle", bundle, id]);
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success() && !said.contains("device rules"), "{said}");
    }

    /// What a shell in the container says when it opens a node with these numbers.
    fn open(&self, id: &str, redirection: &str, numbers: &str) -> String {
        let script = format!("rm -f /dev/x; mknod /dev/x c {numbers}; : {redirection}/dev/x && echo opened");
        String::from_utf8_lossy(&self.oci(&["exec", id, "/bin/sh", "-c", &script]).stdout).trim().to_owned()
    }

    fn programs(&self) -> usize {
        let directory = fs::File::open(cgroup2().join(&self.id)).unwrap();
        moored::sys::bpf::device_programs(directory.as_fd()).unwrap().len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for id in ["first", "second"] {
            self.oci(&["delete", "--force", id]);
        }
    }
}

const REFUSED: &str = "/bin/sh: can't open /dev/x: Operation not permitted";
const CREATE_REFUSED: &str = "/bin/sh: can't create /dev/x: Operation not permitted";
/// /dev/kmsg: there on every machine, and allowed by no default.
const KMSG: &str = "1 11";

#[test]
fn a_program_enforces_device_rules_and_a_later_one_replaces_it() {
    let Some(place) = Place::find("device-rules") else { return };
    let deny_all = json!({ "allow": false, "access": "rwm" });
    let kmsg = json!({ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "w" });
    let first = place.bundle("first", &json!([deny_all, kmsg]));
    place.start(&first, "first");
    assert_eq!(place.programs(), 1);
    assert_eq!(place.open("first", ">", KMSG), "opened");
    assert_eq!(place.open("first", "<", KMSG), REFUSED);
    assert_eq!(place.open("first", "<>", KMSG), CREATE_REFUSED);
    assert_eq!(place.open("first", "<>", "1 3"), "opened");
    // Another container of the same cgroup, as runc has it: the last rules hold.
    let second = place.bundle("second", &json!([deny_all]));
    place.start(&second, "second");
    assert_eq!(place.programs(), 1);
    for id in ["first", "second"] {
        assert_eq!(place.open(id, ">", KMSG), CREATE_REFUSED);
        assert_eq!(place.open(id, ">", "1 3"), "opened");
    }
}

#[test]
fn rules_that_allow_everything_need_no_program() {
    let Some(place) = Place::find("device-all") else { return };
    let bundle = place.bundle("first", &json!([{ "allow": true, "access": "rwm" }]));
    place.start(&bundle, "first");
    assert_eq!(place.programs(), 0);
    assert_eq!(place.open("first", ">", KMSG), "opened");
}

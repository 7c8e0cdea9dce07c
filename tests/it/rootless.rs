//! `moored oci` run by an ordinary user, and runc beside it.
//!
//! The user has no entry anywhere but in files that are bound over `/etc/passwd` and its like, in a mount namespace of each command.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::support::{TempDir, busybox_root, install, is_root, skip, tool, wait_for};

/// Nobody on the host.
const UID: u32 = 712_345;
/// What `/etc/subuid` gives him.
const FIRST: u32 = 712_346;

struct User {
    dir: TempDir,
    program: PathBuf,
}

impl User {
    fn new(name: &str) -> Option<User> {
        if !is_root() || tool("setpriv").is_none() || tool("unshare").is_none() {
            return None;
        }
        if ["/etc/subuid", "/etc/subgid"].iter().any(|file| !Path::new(file).exists()) {
            skip("needs files to bind over: /etc/subuid and /etc/subgid");
            return None;
        }
        let dir = TempDir::new(name);
        fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
        let root = busybox_root(&dir.0)?;
        for made in ["b", "run", "home"] {
            fs::create_dir(dir.join(made)).unwrap();
        }
        fs::rename(root, dir.join("b/rootfs")).unwrap();
        give(&dir.join("b"));
        give(&dir.join("run"));
        fs::write(dir.join("passwd"), format!("root:x:0:0::/:/bin/sh\nuser:x:{UID}:{UID}::/:/bin/sh\n")).unwrap();
        fs::write(dir.join("group"), format!("root:x:0:\nuser:x:{UID}:\n")).unwrap();
        fs::write(dir.join("subid"), format!("user:{FIRST}:1000\n")).unwrap();
        // Where he may execute it.
        let program = dir.join("moored");
        install(Path::new(env!("CARGO_BIN_EXE_moored")), &program);
        Some(User { dir, program })
    }

    /// What the user runs, in the bundle; `{}` is the program.
    fn run(&self, script: &str) -> Output {
        let etc = [("passwd", "passwd"), ("group", "group"), ("subid", "subuid"), ("subid", "subgid")];
        let binds: String = etc
            .iter()
            .map(|(from, to)| format!("mount --bind {} /etc/{to}; ", self.dir.join(from).display()))
            .collect();
        let script = script.replace("{}", &format!("{} oci", self.program.display()));
        let whole = format!(
            "{binds} exec setpriv --reuid {UID} --regid {UID} --clear-groups --inh-caps=-all -- env -i PATH=\"$PATH\" \
             XDG_RUNTIME_DIR={} sh -c \"$0\"",
            self.dir.join("run").display()
        );
        let (out, err) = (self.dir.join("stdout"), self.dir.join("stderr"));
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", &whole, &script]).current_dir(self.dir.join("b")).stdin(Stdio::null());
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let status = command.status().unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    fn ok(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(!output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    /// What `spec --rootless` writes, changed.
    fn config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.dir.join("b/config.json");
        let _ = fs::remove_file(&path);
        self.ok("{} spec --rootless");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        change(&mut config);
        fs::write(&path, config.to_string()).unwrap();
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.run("for id in $({} list -q); do {} delete --force $id; done");
    }
}

fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(UID), Some(UID)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

fn script(config: &mut Value, script: &str) {
    config["process"]["args"] = json!(["/bin/sh", "-c", script]);
}

const LOOK: &str = "id -u; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; grep Cap /proc/self/status; \
    touch /new && stat -c %u:%g /new; rm /new; hostname; test -c /dev/null && echo null; ls /dev | sort; \
    mount | grep -c ro, >/dev/null; exit 7";

#[test]
fn what_spec_writes_runs_for_an_ordinary_user_as_with_runc() {
    let Some(user) = User::new("rootless") else { return };
    user.config(|config| {
        script(config, LOOK);
        config["root"]["readonly"] = json!(false);
    });
    let ours = user.run("{} run x");
    let said = String::from_utf8_lossy(&ours.stdout).into_owned();
    assert_eq!(ours.status.code(), Some(7), "{}{said}", String::from_utf8_lossy(&ours.stderr));
    assert!(said.contains(&UID.to_string()) && said.contains("deny") && said.contains("null"), "{said}");
    assert!(fs::read_dir(user.dir.join("run/moored/oci")).unwrap().next().is_none(), "nothing is left");
    if tool("runc").is_none() {
        return;
    }
    let theirs = user.run("runc --root $XDG_RUNTIME_DIR/runc run x");
    assert_eq!((theirs.status.code(), String::from_utf8_lossy(&theirs.stdout).into_owned()), (Some(7), said));
}

#[test]
fn every_command_works_for_an_ordinary_user_or_says_what_it_lacks() {
    let Some(user) = User::new("rootless-all") else { return };
    user.config(|config| script(config, "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"));
    user.ok("{} create x");
    let state = || serde_json::from_str::<Value>(&user.ok("{} state x")).unwrap();
    assert_eq!((&state()["status"], &state()["owner"]), (&json!("created"), &json!("user")));
    let early = user.fails("{} exec x true");
    assert!(early.contains("can join a container once its program runs"), "{early}");
    user.ok("{} start x");
    assert_eq!(state()["status"], "running");
    let of_exec = "{} exec x sh -c 'id -u; readlink /proc/1/exe; hostname; tr -d \"\\0\" </proc/1/cmdline | head -c 9'";
    assert_eq!(user.ok(of_exec), "0\n/bin/busybox\nrunc\n/bin/sh-c");
    assert_eq!(user.run("{} exec x sh -c 'exit 9'").status.code(), Some(9));
    assert!(user.ok("{} list").contains("running"));
    assert!(user.fails("{} run x").contains("container with given ID already exists"));
    assert!(user.fails("{} delete x").contains("cannot delete container x that is not stopped: running"));
    for (command, what) in [
        ("pause x", "pause needs a cgroup"),
        ("update --pids-limit 5 x", "update needs a cgroup"),
        ("ps x", "ps needs a cgroup"),
        ("events --stats x", "events needs a cgroup"),
        ("kill --all x TERM", "kill --all needs a cgroup"),
    ] {
        let said = user.fails(&format!("{{}} {command}"));
        assert!(said.contains(what) && said.contains("may not make"), "{command}: {said}");
    }
    user.ok("{} kill x TERM");
    wait_for("its end", || (state()["status"] == "stopped").then_some(()));
    user.ok("{} delete x");
    assert_eq!(user.ok("{} list -q"), "");
    user.ok("{} run -d y");
    user.ok("{} kill --all y KILL");
    wait_for("its end", || {
        let state: Value = serde_json::from_str(&user.ok("{} state y")).unwrap();
        (state["status"] == "stopped").then_some(())
    });
    user.ok("{} delete y");
}

#[test]
fn a_user_with_more_ids_gets_them_by_newuidmap() {
    if tool("newuidmap").is_none() || tool("newgidmap").is_none() {
        return;
    }
    let Some(user) = User::new("rootless-ids") else { return };
    let map =
        json!([{ "containerID": 0, "hostID": UID, "size": 1 }, { "containerID": 1, "hostID": FIRST, "size": 999 }]);
    let with = |text: &str, groups: &[u32]| {
        user.config(|config| {
            script(config, text);
            (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (map.clone(), map.clone());
            config["process"]["user"] = json!({ "uid": 5, "gid": 6, "additionalGids": groups });
            let tmp = json!({ "destination": "/tmp", "type": "tmpfs", "source": "t", "options": ["mode=1777"] });
            config["mounts"].as_array_mut().unwrap().push(tmp);
        });
    };
    with("id; cat /proc/self/uid_map /proc/self/gid_map", &[]);
    let said = user.ok("{} run x");
    assert!(said.starts_with("uid=5 gid=6") && said.contains(&FIRST.to_string()), "{said}");
    if tool("runc").is_some() {
        assert_eq!(user.ok("runc --root $XDG_RUNTIME_DIR/runc run x"), said);
    }
    // runc refuses this to every user. Where newgidmap(1) maps the groups, they may be set.
    with("id; echo x >/tmp/f; stat -c %u:%g /tmp/f", &[7]);
    let said = user.ok("{} run x");
    assert!(said.contains("groups=7") && said.ends_with("5:6\n"), "{said}");
    // Ids that are nobody's gift.
    user.config(|config| {
        let map = json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]);
        (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (map.clone(), map);
    });
    let said = user.fails("{} run x");
    assert!(said.contains("newuidmap"), "{said}");
    assert_eq!(user.ok("{} list -q"), "");
}

#[test]
fn what_takes_roots_rights_is_named() {
    let Some(user) = User::new("rootless-no") else { return };
    let said = |change: fn(&mut Value), environment: &str| {
        user.config(change);
        user.fails(&format!("{environment} {{}} run x"))
    };
    let users = |config: &mut Value| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "user");
        for field in ["uidMappings", "gidMappings"] {
            config["linux"].as_object_mut().unwrap().remove(field);
        }
    };
    assert!(said(users, "").contains("a user other than root makes containers in a user namespace only"));
    let limit = |config: &mut Value| config["linux"]["resources"] = json!({ "pids": { "limit": 5 } });
    assert!(said(limit, "").contains("linux.resources.pids.limit needs a cgroup, which its user may not make here"));
    let path = |config: &mut Value| config["linux"]["cgroupsPath"] = json!("/moored-it-rootless");
    assert!(said(path, "").contains("/moored-it-rootless: permission denied"));
    let network = |config: &mut Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "network" }));
        config["linux"]["netDevices"] = json!({ "eth0": {} });
    };
    assert!(said(network, "").contains("moving network devices (linux.netDevices) needs root"));
    let nothing = |_: &mut Value| {};
    assert!(said(nothing, "unset XDG_RUNTIME_DIR;").contains("XDG_RUNTIME_DIR"));
    assert!(said(nothing, "cd /;").contains("config.json"));
    // The host's root as it is.
    chown(user.dir.join("b"), Some(0), Some(0)).unwrap();
}

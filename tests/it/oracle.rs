//! runc and crun as oracles: one bundle through three runtimes; what its program sees of itself, `state`, and exit codes must agree.
//!
//! Where they differ from each other or from us by intent, [`differences`] says so and why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::support::{TempDir, busybox_root, is_root, tool};

/// What the program looks at, a section each.
const LOOK: &str = r#"
say() { echo "== $1"; shift; "$@" 2>&1; }
cd /
say status grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid|Umask)' /proc/self/status
say limits cat /proc/self/limits
say hostname hostname
say env env
say cwd sh -c 'cd - >/dev/null; pwd'
say dev sh -c 'ls -l /dev | awk "{print \$1, \$3, \$4, \$5, \$6 ~ /^[0-9]+\$/ ? \$6 : \"\", \$NF}" | grep -v ^total'
say fds sh -c 'ls /proc/self/fd | wc -l'
say masked sh -c 'for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /sys/firmware /proc/scsi; do [ -e $f ] || continue; [ -d $f ] && ls -A $f | wc -l || wc -c <$f; done'
say readonly sh -c 'for f in /x /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/x; do : 2>/dev/null >$f && echo wrote $f || echo refused $f; done'
say mounts sh -c 'while read a b c d point options rest; do echo "$point $(echo $options | tr , "\n" | grep -v -E "^(lowerdir|inode)" | sort | tr "\n" ,) $(echo "- $rest" | sed "s/.*- \([^ ]*\) .*/\1/")"; done </proc/self/mountinfo | grep -v "^/sys/fs/cgroup" | sort'
say namespaces sh -c 'ls /proc/self/ns | wc -l'
say tty sh -c 'test -t 0 && echo terminal || echo none'
say lo sh -c 'cat /sys/class/net/lo/operstate; ls /sys/class/net'
say pid sh -c 'echo $PPID'
say oom cat /proc/self/oom_score_adj
exit 42
"#;

/// A runtime and how it is called.
pub struct Runtime {
    pub name: &'static str,
    program: PathBuf,
    /// crun refuses hybrid hosts: it gets a mount namespace without the v2 hierarchy.
    pub hide_unified: bool,
}

impl Runtime {
    /// The program and its arguments, with a state directory below `root`.
    pub fn words(&self, root: &Path, arguments: &[&str]) -> Vec<String> {
        let mut words: Vec<String> = vec![self.program.display().to_string()];
        if self.name == "moored" {
            words.push("oci".to_owned());
        }
        words.extend(["--root".to_owned(), root.join(self.name).display().to_string()]);
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        words
    }

    fn command(&self, root: &Path, arguments: &[&str]) -> Command {
        let mut words = self.words(root, arguments);
        let mut command = if self.hide_unified && Path::new("/sys/fs/cgroup/unified").is_dir() {
            let mut command = Command::new("unshare");
            let hide = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
            command.args(["-m", "sh", "-c", hide, "sh"]).args(words);
            command
        } else {
            let mut command = Command::new(words.remove(0));
            command.args(words);
            command
        };
        command.stdin(Stdio::null());
        command
    }

    /// Through files: a container that goes on holds what it inherited open.
    fn run(&self, root: &Path, arguments: &[&str]) -> Output {
        let (out, err) = (root.join("stdout"), root.join("stderr"));
        let mut command = self.command(root, arguments);
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let status = command.status().unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }
}

/// Ours first.
pub fn runtimes() -> Option<Vec<Runtime>> {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_moored"));
    Some(vec![
        Runtime { name: "moored", program: ours, hide_unified: false },
        Runtime { name: "runc", program: tool("runc")?, hide_unified: false },
        Runtime { name: "crun", program: tool("crun")?, hide_unified: true },
    ])
}

/// A bundle whose config is runc's own, changed by `change`.
fn bundle(dir: &Path, root: &Path, change: impl FnOnce(&mut Value)) {
    fs::create_dir_all(dir).unwrap();
    let mut config: Value = serde_json::from_str(moored::oci::template()).unwrap();
    config["ociVersion"] = json!("1.0.2");
    config["root"]["path"] = json!(root);
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/sh", "-c", LOOK]);
    change(&mut config);
    fs::write(dir.join("config.json"), serde_json::to_string_pretty(&config).unwrap()).unwrap();
}

/// Sections by name, without what no two runs share.
fn sections(output: &Output) -> Vec<(String, Vec<String>)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("== ") {
            Some(name) => found.push((name.to_owned(), Vec::new())),
            None => {
                if let Some((_, lines)) = found.last_mut() {
                    lines.push(line.trim_end().to_owned());
                }
            }
        }
    }
    for (name, lines) in &mut found {
        if name == "env" {
            lines.retain(|line| {
                !line.starts_with("OLDPWD=") && !line.starts_with("PWD=") && !line.starts_with("SHLVL=")
            });
            lines.sort();
        }
    }
    found
}

/// Lines that only one of two outputs has, less those that differ by intent.
fn differences(ours: &Output, theirs: &Output, peer: &str, accepted: &[(&str, &str, &str)]) -> Vec<String> {
    let (ours, theirs) = (sections(ours), sections(theirs));
    let mut different = Vec::new();
    for ((name, left), (_, right)) in ours.iter().zip(&theirs) {
        let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>();
        let is_accepted = |line: &String| {
            accepted
                .iter()
                .any(|(who, section, part)| (*who == peer || who.is_empty()) && section == name && line.contains(part))
        };
        let unlike = |lines: Vec<String>| lines.into_iter().filter(|line| !is_accepted(line)).collect::<Vec<_>>();
        let (more, less) = (unlike(only(left, right)), unlike(only(right, left)));
        different.extend(more.iter().map(|line| format!("{name}: only moored: {line}")));
        different.extend(less.iter().map(|line| format!("{name}: only {peer}: {line}")));
    }
    if ours.len() != theirs.len() {
        different.push(format!("{} sections against {}", ours.len(), theirs.len()));
    }
    different
}

/// Differences by intent: peer (empty: both), section, part of the line.
const ACCEPTED: [(&str, &str, &str); 7] = [
    // A mask is the host's null device, found by its descriptor and checked by number; runc takes the container's own, crun makes it
    // read-only. Each reads as empty and takes what is written.
    ("", "mounts", "/proc/keys"),
    ("", "mounts", "/proc/timer_list"),
    // runc sets HOME to / for a user without an entry in passwd, as we do; crun sets none.
    ("crun", "env", "HOME=/"),
    // A link to a file that is masked.
    ("crun", "dev", "/proc/kcore"),
    // runc mounts it before it is in root's group.
    ("runc", "dev", " mqueue"),
    // In a user namespace a device is the host's node; crun alone takes noexec and nosuid for it.
    ("crun", "mounts", " devtmpfs"),
    // crun gives the null device to the user.
    ("crun", "dev", " 1, 3 null"),
];

fn compare(name: &str, change: impl Fn(&mut Value)) {
    let (Some(runtimes), true) = (runtimes(), is_root()) else { return };
    let dir = TempDir::new(name);
    let Some(root) = busybox_root(&dir.0) else { return };
    bundle(&dir.join("b"), &root, change);
    let bundle = dir.join("b").display().to_string();
    let id = format!("{name}-{}", std::process::id());
    let outputs: Vec<Output> =
        runtimes.iter().map(|runtime| runtime.run(&dir.0, &["run", "--bundle", &bundle, &id])).collect();
    let [ours, peers @ ..] = outputs.as_slice() else { unreachable!() };
    assert_eq!(ours.status.code(), Some(42), "{}", String::from_utf8_lossy(&ours.stderr));
    let mut different = Vec::new();
    for (peer, runtime) in peers.iter().zip(&runtimes[1..]) {
        assert_eq!(peer.status.code(), Some(42), "{}: {}", runtime.name, String::from_utf8_lossy(&peer.stderr));
        different.extend(differences(ours, peer, runtime.name, &ACCEPTED));
    }
    assert!(different.is_empty(), "{name}:\n{}", different.join("\n"));
}

#[test]
fn the_default_bundle_looks_the_same_from_inside() {
    compare("oracle-default", |_| {});
}

#[test]
fn users_limits_and_rights_look_the_same_from_inside() {
    compare("oracle-user", |config| {
        let process = &mut config["process"];
        process["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 9], "umask": 0o027 });
        process["cwd"] = json!("/tmp");
        process["env"] = json!(["PATH=/bin", "A=1", "B=x=y", "EMPTY="]);
        process["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_STACK", "soft": 1048576, "hard": 8388608 }
        ]);
        let caps = json!(["CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_KILL"]);
        process["capabilities"] =
            json!({ "bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps });
        process["oomScoreAdj"] = json!(100);
        config["hostname"] = json!("oracle");
        config["root"]["readonly"] = json!(false);
    });
}

#[test]
fn mounts_and_filters_look_the_same_from_inside() {
    compare("oracle-mounts", |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/data", "type": "bind", "source": "/usr/share", "options": ["rbind", "ro", "nosuid"] }));
        mounts.push(json!({ "destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=700", "size=64k"] }));
        mounts.push(
            json!({ "destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["bind", "ro"] }),
        );
        mounts.push(
            json!({ "destination": "/made/for/it", "type": "tmpfs", "source": "tmpfs", "options": ["relatime"] }),
        );
        config["root"]["readonly"] = json!(false);
        config["process"]["noNewPrivileges"] = json!(false);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }]
        });
    });
}

#[test]
fn a_user_namespace_looks_the_same_from_inside() {
    compare("oracle-userns", |config| {
        let maps = json!([{ "containerID": 0, "hostID": 700_000, "size": 65_536 }]);
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (maps.clone(), maps);
        config["process"]["user"] = json!({ "uid": 12, "gid": 13, "additionalGids": [14] });
        // Which it may not change of the host's cgroups.
        let cgroups = config["mounts"].as_array_mut().unwrap().iter_mut().find(|mount| mount["type"] == "cgroup");
        cgroups.unwrap()["options"].as_array_mut().unwrap().push(json!("noatime"));
    });
}

#[test]
fn limits_land_in_the_same_files() {
    let (Some(runtimes), true) = (runtimes(), is_root()) else { return };
    let dir = TempDir::new("oracle-limits");
    let Some(root) = busybox_root(&dir.0) else { return };
    let path = format!("/moored-it-oracle-{}", std::process::id());
    let mut seen: Vec<(&str, Vec<String>)> = Vec::new();
    for runtime in runtimes.iter() {
        bundle(&dir.join("b"), &root, |config| {
            config["process"]["args"] = json!(["/bin/sleep", "1000"]);
            config["linux"]["cgroupsPath"] = json!(path);
            config["linux"]["resources"] = json!({
                "memory": { "limit": 67108864, "reservation": 33554432 },
                "cpu": { "shares": 512, "quota": 50000, "period": 100000 },
                "pids": { "limit": 33 },
                "devices": [
                    { "allow": false, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" }
                ]
            });
        });
        let bundle = dir.join("b").display().to_string();
        let id = format!("limits-{}", std::process::id());
        let made = runtime.run(&dir.0, &["run", "--detach", "--bundle", &bundle, &id]);
        assert!(made.status.success(), "{}: {}", runtime.name, String::from_utf8_lossy(&made.stderr));
        let state: Value = serde_json::from_slice(&runtime.run(&dir.0, &["state", &id]).stdout).unwrap();
        let files = limits_of(&path);
        runtime.run(&dir.0, &["delete", "--force", &id]);
        assert_eq!(state["status"], "running", "{}", runtime.name);
        assert!(!files.is_empty());
        seen.push((runtime.name, files));
    }
    for (name, files) in &seen[1..] {
        assert_eq!(seen[0].1, *files, "moored against {name}");
    }
}

/// What the kernel took, on v1 and v2.
fn limits_of(path: &str) -> Vec<String> {
    const FILES: [&str; 12] = [
        "memory/memory.limit_in_bytes",
        "memory/memory.soft_limit_in_bytes",
        "cpu/cpu.shares",
        "cpu/cpu.cfs_quota_us",
        "cpu/cpu.cfs_period_us",
        "pids/pids.max",
        "devices/devices.list",
        "memory.max",
        "memory.low",
        "cpu.weight",
        "cpu.max",
        "pids.max",
    ];
    let read = |file: &str| {
        let (controller, name) = file.split_once('/').unwrap_or(("", file));
        let place = Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')).join(name);
        let mut lines: Vec<String> = fs::read_to_string(place).ok()?.lines().map(str::to_owned).collect();
        lines.sort();
        // runc before 1.2 allows tun devices to everybody, crun the host's console.
        lines.retain(|line| line != "c 10:200 rwm" && line != "c 5:1 rwm");
        Some(format!("{file}: {}", lines.join(", ")))
    };
    FILES.into_iter().filter_map(read).collect()
}

/// One row: what is done, with `{}` for the id, and the part of the error that clients match on.
const COMMANDS: [(&[&str], &str); 21] = [
    (&["state", "{}"], "does not exist"),
    (&["start", "{}"], "does not exist"),
    (&["kill", "{}", "KILL"], "does not exist"),
    (&["delete", "{}"], "does not exist"),
    (&["delete", "--force", "{}"], ""),
    (&["create", "--bundle", "{bundle}", "a/b"], ""),
    (&["create", "--bundle", "{bundle}", "{}"], ""),
    (&["create", "--bundle", "{bundle}", "{}"], "exist"),
    (&["state", "{}"], ""),
    (&["start", "{}"], ""),
    (&["start", "{}"], ""),
    (&["delete", "{}"], ""),
    (&["exec", "{}", "/bin/true"], ""),
    (&["exec", "{}", "/bin/sh", "-c", "exit 9"], ""),
    (&["exec", "{}", "no-such-program"], "executable file not found in $PATH"),
    (&["kill", "{}", "9"], ""),
    (&["start", "{}"], ""),
    (&["exec", "{}", "/bin/true"], ""),
    (&["kill", "{}", "TERM"], ""),
    (&["delete", "{}"], ""),
    (&["state", "{}"], "does not exist"),
];

#[test]
fn a_life_gives_the_same_exit_codes_and_texts() {
    let (Some(runtimes), true) = (runtimes(), is_root()) else { return };
    let dir = TempDir::new("oracle-life");
    let Some(root) = busybox_root(&dir.0) else { return };
    bundle(&dir.join("b"), &root, |config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    let bundle = dir.join("b").display().to_string();
    let id = format!("life-{}", std::process::id());
    let mut lives: Vec<Vec<Option<i32>>> = Vec::new();
    for runtime in &runtimes {
        let mut codes = Vec::new();
        for (words, text) in COMMANDS {
            let words: Vec<String> =
                words.iter().map(|word| word.replace("{bundle}", &bundle).replace("{}", &id)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = runtime.run(&dir.0, &words);
            let (status, said) = (output.status, String::from_utf8_lossy(&output.stderr));
            if runtime.name != "crun" {
                assert!(said.contains(text), "{} {}: {said}", runtime.name, words.join(" "));
            }
            let is_own_code = words.contains(&"exit 9");
            assert!(
                status.success() || is_own_code || !said.is_empty(),
                "{} {} fails silently",
                runtime.name,
                words.join(" ")
            );
            codes.push(status.code());
            if words[0] == "kill" && status.success() {
                wait_stopped(runtime, &dir.0, &id);
            }
        }
        lives.push(codes);
    }
    for (at, (words, _)) in COMMANDS.iter().enumerate() {
        assert_eq!(lives[0][at], lives[1][at], "moored against runc: {}", words.join(" "));
    }
}

fn wait_stopped(runtime: &Runtime, dir: &Path, id: &str) {
    super::support::wait_for("the container to stop", || {
        let state: Value = serde_json::from_slice(&runtime.run(dir, &["state", id]).stdout).ok()?;
        (state["status"] == "stopped").then_some(())
    });
}

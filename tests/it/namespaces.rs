//! `moored oci` and namespaces: joined by path, of users with their mappings, of clocks.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::oci::Place;
use super::support::wait_for;

/// Ids that no user of the host's has.
const FIRST: u32 = 700_000;
const SIZE: u32 = 65_536;

/// Prints `kind:[number]` of each kind, then `up`, and waits.
const SHOW: &str = "for ns in /proc/self/ns/*; do readlink $ns; done; echo up; exec sleep 1000";

fn script(config: &mut Value, script: &str) {
    config["process"]["args"] = json!(["/bin/sh", "-c", script]);
}

fn namespaces(config: &mut Value) -> &mut Vec<Value> {
    config["linux"]["namespaces"].as_array_mut().unwrap()
}

/// Makes the namespace of this kind the one of that file.
fn join(config: &mut Value, kind: &str, path: &Path) {
    namespaces(config).retain(|namespace| namespace["type"] != kind);
    namespaces(config).push(json!({ "type": kind, "path": path }));
}

/// A user namespace of its own, and a root that is its root's.
pub fn map_users(config: &mut Value) {
    namespaces(config).push(json!({ "type": "user" }));
    let maps = json!([{ "containerID": 0, "hostID": FIRST, "size": SIZE }]);
    config["linux"]["uidMappings"] = maps.clone();
    config["linux"]["gidMappings"] = maps;
    give(Path::new(config["root"]["path"].as_str().unwrap()));
}

fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(FIRST), Some(FIRST)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

/// Starts one that runs on, and gives its first process and what it printed.
fn start(place: &Place) -> (String, String) {
    place.ok("run --detach {}");
    let out = place.dir.join("stdout");
    let said = wait_for("it to be up", || fs::read_to_string(&out).ok().filter(|said| said.contains("up\n")));
    (place.state()["pid"].to_string(), said.replace("up\n", ""))
}

/// What a shell in a running container prints.
fn inside(place: &Place, script: &str) -> String {
    let output = place.command("exec {} sh -c").arg(script).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ns(pid: &str, name: &str) -> PathBuf {
    Path::new("/proc").join(pid).join("ns").join(name)
}

/// The text `name:[number]`.
fn of_kind<'t>(said: &'t str, name: &str) -> &'t str {
    said.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or_else(|| panic!("no {name} in {said}"))
}

const KINDS: [(&str, &str); 6] =
    [("ipc", "ipc"), ("uts", "uts"), ("network", "net"), ("pid", "pid"), ("time", "time"), ("cgroup", "cgroup")];

/// As the containers of a pod do; `exec` goes where the container is.
#[test]
fn a_container_joins_the_namespaces_of_another() {
    let Some(first) = Place::new("pod", |config| {
        script(config, SHOW);
        namespaces(config).push(json!({ "type": "time" }));
        config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000 } });
        config["hostname"] = json!("pod");
    }) else {
        return;
    };
    let (pid, own) = start(&first);
    let second = Place::new("member", |config| {
        script(config, SHOW);
        config["hostname"] = json!("");
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
        KINDS.iter().for_each(|(kind, name)| join(config, kind, &ns(&pid, name)));
    });
    let second = second.unwrap();
    let (_, joined) = start(&second);
    for (_, name) in KINDS {
        assert_eq!(of_kind(&own, name), of_kind(&joined, name));
    }
    assert_ne!(of_kind(&own, "mnt"), of_kind(&joined, "mnt"));
    assert_eq!(inside(&second, "for ns in /proc/self/ns/*; do readlink $ns; done"), joined, "exec is in the same ones");
    assert_eq!(inside(&second, "hostname"), "pod\n");
    let uptime = second.ok("exec {} cat /proc/uptime");
    assert!(uptime.split('.').next().unwrap().parse::<u64>().unwrap() >= 1_000_000, "{uptime}");
    second.ok("delete --force {}");
    second.assert_gone("after delete");
    assert_eq!(first.state()["status"], "running", "the pod's own goes on");
}

#[test]
fn a_file_that_is_not_the_namespace_wanted_is_named() {
    let rows: [(&str, &str, &str); 5] = [
        ("ipc", "/proc/self/ns/net", "/proc/self/ns/net is a namespace of type network, expected one of type ipc"),
        ("uts", "/etc/passwd", "/etc/passwd is no namespace, expected one of type uts"),
        ("pid", "/no/such", "open /no/such: no such file or directory"),
        ("mount", "/proc/self/ns/mnt", "/proc/self/ns/mnt is the caller's own namespace: root would change the host"),
        ("user", "relative", "\"relative\" is out of range, expected an absolute path"),
    ];
    for (kind, path, expected) in rows {
        let Some(place) = Place::new("not-it", |config| {
            config["hostname"] = json!("");
            join(config, kind, Path::new(path));
        }) else {
            return;
        };
        let output = place.run("run {}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{kind}: {said}");
        let field = said.contains("linux.namespaces[5].path: ") || said.contains("linux.namespaces[6].path: ");
        assert!(field && said.contains(expected), "{kind}: {said}");
        place.assert_gone(kind);
    }
}

#[test]
fn a_sysctl_never_reaches_the_host_through_a_path_to_its_own_namespace() {
    let before = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let Some(place) = Place::new("own-net", |config| {
        join(config, "network", Path::new("/proc/self/ns/net"));
        config["linux"]["sysctl"] = json!({ "net.core.somaxconn": "77" });
    }) else {
        return;
    };
    let said = String::from_utf8_lossy(&place.run("run {}").stderr).into_owned();
    assert!(said.contains("own namespace: linux.sysctl would change the host"), "{said}");
    assert_eq!(fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(), before);
}

/// Root inside is nobody outside, and what it needs is there all the same.
#[test]
fn a_user_namespace_has_its_own_root() {
    let Some(place) = Place::new("user", |config| {
        script(
            config,
            "id -u; id -g; cat /proc/self/uid_map; echo x >/made; ls -ln /dev/null | awk '{print $5 $6}'; \
             echo y >/dev/null && head -c 2 /dev/zero | wc -c; ulimit -n; cat /proc/self/oom_score_adj; grep -c . /proc/self/setgroups; \
             readlink /proc/self/ns/user; hostname; echo up; exec sleep 1000",
        );
        map_users(config);
        config["root"]["readonly"] = json!(false);
        config["process"]["oomScoreAdj"] = json!(123);
        config["process"]["user"] = json!({ "uid": 0, "gid": 0, "additionalGids": [7] });
    }) else {
        return;
    };
    let (pid, said) = start(&place);
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let map = lines[2].split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = [format!("0 {FIRST} {SIZE}"), "1,3".into(), "2".into(), "1024".into(), "123".into(), "1".into()];
    assert_eq!((lines[0], lines[1]), ("0", "0"));
    assert_eq!(
        [&map, lines[3], lines[4], lines[5], lines[6], lines[7]],
        expected.each_ref().map(String::as_str),
        "{said}"
    );
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let groups = status.lines().find(|line| line.starts_with("Groups:")).unwrap();
    assert_eq!(groups.trim_end(), format!("Groups:\t{}", FIRST + 7));
    assert!(status.contains(&format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}")), "{status}");
    let root = place.dir.join("busybox-root");
    assert_eq!(fs::metadata(root.join("made")).unwrap().uid(), FIRST);
    let said = inside(&place, "id -u; readlink /proc/self/ns/user; cat /proc/self/oom_score_adj");
    assert_eq!(said, format!("0\n{}\n123\n", lines[8]), "exec joins it");
    let as_user = place.ok("exec --user 33:44 {} sh -c id$IFS-u;id$IFS-g");
    assert_eq!(as_user, "33\n44\n");
    let unmapped = place.run("exec --user 65536 {} id");
    let said = String::from_utf8_lossy(&unmapped.stderr).into_owned();
    assert!(said.contains("process.user.uid: 65536 is out of range"), "{said}");
    place.ok("kill {} KILL");
    place.ok("delete --force {}");
    place.assert_gone("after delete");
}

/// The bundle's directories are root's alone: nobody inside could find the way.
#[test]
fn a_user_namespace_needs_no_way_to_its_bundle() {
    use std::os::unix::fs::PermissionsExt;
    let Some(place) = Place::new("private", |config| {
        script(config, "cat /secret/file; stat -c %u /secret/file");
        map_users(config);
    }) else {
        return;
    };
    let secret = place.dir.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "seen\n").unwrap();
    chown(secret.join("file"), Some(12), Some(12)).unwrap();
    let path = place.dir.join("b/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let bind = json!({ "destination": "secret", "source": secret, "options": ["bind", "ro"] });
    config["mounts"].as_array_mut().unwrap().push(bind);
    config["root"]["readonly"] = json!(false);
    fs::write(path, config.to_string()).unwrap();
    fs::set_permissions(&place.dir.0, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&place.dir.0, Some(12), Some(12)).unwrap();
    assert_eq!(place.ok("run {}"), "seen\n65534\n");
}

#[test]
fn a_container_joins_the_user_namespace_of_another() {
    let Some(first) = Place::new("users-pod", |config| {
        script(config, SHOW);
        map_users(config);
    }) else {
        return;
    };
    let (pid, own) = start(&first);
    let second = Place::new("users-member", |config| {
        script(config, SHOW);
        config["hostname"] = json!("");
        for (kind, name) in [("user", "user"), ("ipc", "ipc"), ("network", "net"), ("uts", "uts")] {
            join(config, kind, &ns(&pid, name));
        }
        give(Path::new(config["root"]["path"].as_str().unwrap()));
    });
    let second = second.unwrap();
    let (_, joined) = start(&second);
    for name in ["user", "ipc", "net", "uts"] {
        assert_eq!(of_kind(&own, name), of_kind(&joined, name));
    }
    assert_ne!(of_kind(&own, "pid"), of_kind(&joined, "pid"));
    assert_eq!(second.ok("exec {} id -u"), "0\n");
}

#[test]
fn a_time_namespace_has_clocks_of_its_own() {
    let Some(place) = Place::new("time", |config| {
        script(config, "cat /proc/uptime; cat /proc/self/timens_offsets");
        namespaces(config).push(json!({ "type": "time" }));
        config["linux"]["timeOffsets"] =
            json!({ "boottime": { "secs": 5_000_000, "nanosecs": 5 }, "monotonic": { "secs": 7 } });
    }) else {
        return;
    };
    let said = place.ok("run {}");
    let words: Vec<&str> = said.split_whitespace().collect();
    assert!(words[0].parse::<f64>().unwrap() > 5_000_000.0, "{said}");
    assert_eq!(words[2..], ["monotonic", "7", "0", "boottime", "5000000", "5"], "{said}");
    let negative = Place::new("time-back", |config| {
        namespaces(config).push(json!({ "type": "time" }));
        config["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": -4_000_000_000_i64 } });
    });
    let negative = negative.unwrap();
    let said = String::from_utf8_lossy(&negative.run("run {}").stderr).into_owned();
    assert!(said.contains("linux.timeOffsets: a clock would be negative"), "{said}");
    negative.assert_gone("after a mistake");
}

#[test]
fn mistakes_in_namespaces_are_named() {
    let Some(place) = Place::new("ns-mistakes", |config| {
        config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
        config["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
        config["linux"]["timeOffsets"] = json!({ "bootime": { "secs": 1 } });
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "destination": "/m", "type": "bind", "source": "/etc", "options": ["bind", "idmap"] }));
    }) else {
        return;
    };
    let said = String::from_utf8_lossy(&place.run("run {}").stderr).into_owned();
    for part in [
        "linux.timeOffsets: needs an entry {\"type\": \"time\"} without a path",
        "linux.timeOffsets.bootime: unknown clock \"bootime\", did you mean \"boottime\"?",
        "mounts: /m: idmap and ridmap need uidMappings and gidMappings beside them",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    // The host's queues must not be there in their place.
    let Some(place) = Place::new("ns-queues", |config| {
        map_users(config);
        join(config, "ipc", Path::new("/proc/self/ns/ipc"));
    }) else {
        return;
    };
    let said = String::from_utf8_lossy(&place.run("run {}").stderr).into_owned();
    let expected = "mounts: /dev/mqueue: a new user namespace has no right to the message queues of an ipc namespace";
    assert!(said.contains(expected), "{said}");
    // Which runc and crun pass over.
    let Some(place) = Place::new("ns-unmapped", |config| {
        config["process"]["args"] = json!(["/bin/cat", "/proc/self/uid_map"]);
        config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 700_000, "size": 10 }]);
    }) else {
        return;
    };
    let output = place.run("run {}");
    let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("4294967295"), "{out}{said}");
    assert!(said.contains("linux.uidMappings: ids are not mapped without an entry {\"type\": \"user\"}"), "{said}");
}

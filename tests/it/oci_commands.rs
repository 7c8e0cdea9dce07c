//! The commands of `moored oci` beyond making and ending a container: pause, resume, update, events, ps, features, and the options that
//! clients give.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::oci::{Place, receive};
use super::support::{PATIENCE, cgroup2, end_of, hears_term, wait_for};

/// Ends with 7 at SIGTERM, never by itself.
const WAITS: &str = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done";

impl Place {
    fn error(&self, words: &str) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(if words.starts_with("exec") { 255 } else { 1 }), "{words}");
        String::from_utf8(output.stderr).unwrap().trim_end().trim_start_matches("moored: ").to_owned()
    }

    fn wait_stopped(&self) {
        wait_for("its end", || (self.state()["status"] == "stopped").then_some(()));
    }

    /// A file of the container's cgroup: on v1 in this hierarchy, on v2 that of the other name.
    fn limit(&self, hierarchy: &str, v1: &str, v2: &str) -> String {
        let legacy = PathBuf::from("/sys/fs/cgroup").join(hierarchy).join(&self.id).join(v1);
        let text = fs::read_to_string(&legacy).or_else(|_| fs::read_to_string(cgroup2().join(&self.id).join(v2)));
        text.unwrap_or_else(|error| panic!("{}: {error}", legacy.display())).trim().to_owned()
    }

    fn with_input(&self, words: &str, input: &str) -> Output {
        let mut command = self.command(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let Some(place) = Place::shell("paused", WAITS) else { return };
    place.ok("run -d {}");
    let pid = place.state()["pid"].as_i64().unwrap() as i32;
    wait_for("its trap", || hears_term(pid).then_some(()));
    place.ok("pause {}");
    let frozen = fs::read_to_string(cgroup2().join(&place.id).join("cgroup.events")).unwrap();
    assert!(frozen.contains("frozen 1"), "waited for: {frozen}");
    assert_eq!(place.state()["status"], "paused");
    assert!(place.ok("list").contains("paused"));
    // Once more is no mistake.
    place.ok("pause {}");
    let exec = place.error("exec {} true");
    assert_eq!(exec, "cannot exec in a paused container (use --ignore-paused to override)");
    assert_eq!(place.error("start {}"), "cannot start a container in the paused state");
    let expected = format!("cannot delete container {} that is not stopped: paused", place.id);
    assert_eq!(place.error("delete {}"), expected);
    // A signal waits with it.
    place.ok("kill {} TERM");
    assert_eq!(place.state()["status"], "paused");
    place.ok("resume {}");
    place.wait_stopped();
    for command in ["pause {}", "update --pids-limit 5 {}"] {
        assert_eq!(place.error(command), "container not running", "{command}");
    }
    assert_eq!(place.error("resume {}"), "container not paused");
    assert_eq!(place.error("events --stats {}"), format!("container with id {} is not running", place.id));
    assert_eq!(place.ok("ps --format json {}"), "[]\n");
    place.ok("delete {}");
    for command in ["pause {}", "resume {}", "ps {}", "events {}", "update --pids-limit 5 {}"] {
        assert_eq!(place.error(command), "container does not exist", "{command}");
    }
}

#[test]
fn a_paused_container_ends_by_kill_and_by_delete_force() {
    let Some(place) = Place::shell("paused-kill", WAITS) else { return };
    for (kill, how) in
        [("kill {} KILL", "delete {}"), ("kill --all {} KILL", "delete {}"), ("state {}", "delete --force {}")]
    {
        place.ok("run -d {}");
        place.ok("pause {}");
        place.ok(kill);
        if how == "delete {}" {
            place.wait_stopped();
        }
        place.ok(how);
        place.assert_gone(kill);
    }
    // Before it was started, too.
    place.ok("create {}");
    place.ok("pause {}");
    assert_eq!(place.state()["status"], "paused");
    place.ok("resume {}");
    assert_eq!(place.state()["status"], "created");
    assert_eq!(place.error("resume {}"), "container not paused");
    place.ok("pause {}");
    place.ok("delete --force {}");
    place.assert_gone("created and paused");
}

#[test]
fn update_lays_new_limits_over_the_old_ones_and_keeps_them() {
    let Some(place) = Place::shell("update", WAITS) else { return };
    place.ok("run -d {}");
    let memory = |place: &Place| place.limit("memory", "memory.limit_in_bytes", "memory.max");
    let pids = |place: &Place| place.limit("pids", "pids.max", "pids.max");
    place.ok("update --memory 64m {} --pids-limit 33 --cpu-quota=40000");
    assert_eq!((memory(&place), pids(&place)), ((64 << 20).to_string(), "33".to_owned()));
    // What is not given stays; 0 is "not given".
    let given =
        json!({ "memory": { "limit": 96 << 20 }, "pids": { "limit": 0 }, "cpu": { "period": 50000, "cpus": "" } });
    let output = place.with_input("update --resources=- {}", &given.to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((memory(&place), pids(&place)), ((96 << 20).to_string(), "33".to_owned()));
    assert_eq!(place.limit("cpu", "cpu.cfs_period_us", "cpu.max").split(' ').next_back(), Some("50000"));
    let file = place.dir.join("resources.json");
    fs::write(&file, json!({ "pids": { "limit": 44 } }).to_string()).unwrap();
    place.ok(&format!("update -r {} {{}} --memory 1", file.display()));
    assert_eq!(
        (memory(&place), pids(&place)),
        ((96 << 20).to_string(), "44".to_owned()),
        "with a file options are not looked at"
    );
    let kept = fs::read_to_string(place.dir.join("state").join(&place.id).join("state.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept["resources"]["memory"], json!({ "limit": 96 << 20 }));
    assert_eq!(kept["resources"]["cpu"], json!({ "quota": 40000, "period": 50000 }));
    // Mistakes change nothing.
    for (words, said) in [
        (
            "update --memory-swap 1m {}",
            "linux.resources.memory.swap: is memory and swap together, so it cannot be below",
        ),
        ("update --cpu-quota 5 {}", "linux.resources.cpu.quota: 5 is out of range, expected at least 1000"),
        ("update --memory 12x {}", "--memory \"12x\": expected bytes"),
        ("update --cpuset-cpus 4000 --pids-limit 9 {}", "linux.resources.cpu.cpus: the kernel did not take \"4000\""),
        ("update --l3-cache-schema L3:0=1 {}", "--l3-cache-schema needs a container with linux.intelRdt"),
        ("update -r /nowhere {}", "read /nowhere: No such file"),
    ] {
        let error = place.error(words);
        assert!(error.contains(said), "{words}: {error}");
        assert_eq!((memory(&place), pids(&place)), ((96 << 20).to_string(), "44".to_owned()), "{words}");
    }
    let wrong = place.with_input("update -r - {}", r#"{"pids": {"limit": "x"}}"#);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("linux.resources.pids.limit: expected a whole number"), "{said}");
    // Nor does a file that is not there, whatever was written before it was looked for.
    if !PathBuf::from("/sys/fs/cgroup/blkio/blkio.leaf_weight").exists() {
        let whole = json!({ "memory": { "limit": 128 << 20 }, "pids": { "limit": 55 }, "cpu": { "quota": 30000 }, "blockIO": { "leafWeight": 500 } });
        let missing = place.with_input("update -r - {}", &whole.to_string());
        let said = String::from_utf8_lossy(&missing.stderr).into_owned();
        assert!(said.contains("linux.resources.blockIO.leafWeight needs"), "{said}");
        assert_eq!((memory(&place), pids(&place)), ((96 << 20).to_string(), "44".to_owned()), "{said}");
        let quota = place.limit("cpu", "cpu.cfs_quota_us", "cpu.max");
        assert_eq!(quota.split(' ').next(), Some("40000"), "{said}");
    }
    place.ok("update --memory -1 --pids-limit -1 {}");
    assert_eq!(pids(&place), "max");
    place.ok("delete --force {}");
    place.assert_gone("after updates");
}

#[test]
fn events_tell_figures_lack_of_memory_and_the_end() {
    let Some(place) = Place::new("events", |config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", WAITS]);
        config["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20 });
        config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    }) else {
        return;
    };
    place.ok("run -d {}");
    let once: Value = serde_json::from_str(&place.ok("events --stats {}")).unwrap();
    assert_eq!((once["type"].as_str(), once["id"].as_str()), (Some("stats"), Some(place.id.as_str())));
    let data = &once["data"];
    assert_eq!(data["memory"]["usage"]["limit"], 16 << 20);
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0 && data["memory"]["raw"].is_object(), "{data}");
    assert!(
        data["cpu"]["usage"]["total"].as_u64().unwrap() > 0 && data["pids"]["current"].as_u64() >= Some(1),
        "{data}"
    );
    assert_eq!(data["pids"]["limit"], 20);
    assert!(place.error("events --interval 0s {}").contains("--interval"));
    let mut events = place.command("events --interval 50ms {}").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().expect("a line").unwrap()).unwrap();
    assert_eq!((next()["type"].as_str(), next()["type"].as_str()), (Some("stats"), Some("stats")));
    let filled = place.run("exec {} dd if=/dev/zero of=/dev/shm/much bs=1M count=60");
    assert!(!filled.status.success(), "it was killed for memory");
    // Bounded by the patience of the test only if the event never comes.
    let event = (0..10_000).map(|_| next()).find(|event| event["type"] == "oom").expect("an event");
    assert_eq!(event, json!({ "type": "oom", "id": place.id }));
    place.ok("kill --all {} KILL");
    assert_eq!(end_of(&mut events, PATIENCE).expect("the end").code(), Some(0));
}

#[test]
fn ps_lists_the_processes_of_the_container_alone() {
    let Some(place) = Place::shell("ps", "sleep 1000 & echo up; wait") else { return };
    place.ok("run -d {}");
    let pids = || serde_json::from_str::<Vec<u32>>(&place.ok("ps --format json {}")).unwrap();
    let found = wait_for("both", || Some(pids()).filter(|pids| pids.len() == 2));
    assert!(found.contains(&(place.state()["pid"].as_u64().unwrap() as u32)), "{found:?}");
    let Some(_) = super::support::tool("ps") else { return };
    let table = place.ok("ps {}");
    assert!(table.starts_with("UID") && table.lines().count() == 3 && table.contains("sleep 1000"), "{table}");
    let columns = place.ok("ps {} -o pid,comm");
    assert!(columns.trim_start().starts_with("PID COMMAND"), "{columns}");
    assert!(place.error("ps {} -o comm").contains("prints no column called PID"));
    assert!(place.error("ps {} --no-such").contains("ps --no-such: "));
}

#[test]
fn features_are_told_and_what_is_out_of_scope_is_refused_by_name() {
    let Some(place) = Place::shell("features", "true") else { return };
    let features: Value = serde_json::from_str(&place.ok("features")).unwrap();
    assert_eq!(
        (features["ociVersionMin"].as_str(), features["ociVersionMax"].as_str()),
        (Some("1.0.0"), Some("1.3.0"))
    );
    assert!(features["linux"]["namespaces"].as_array().unwrap().contains(&json!("mount")));
    for command in ["checkpoint", "restore"] {
        let said = place.error(&format!("{command} --image-path /x {{}}"));
        assert_eq!(said, format!("`{command}`: checkpointing is out of scope and is not supported by this version"));
    }
    assert!(place.error("unpause {}").starts_with("command \"unpause\": expected spec, create, start"));
    assert!(place.error("--rootless=maybe list").contains("--rootless \"maybe\": expected true, false or auto"));
    let output = place.run("--log log --log-format json pause {}");
    assert_eq!(output.status.code(), Some(1));
    let log: Value = serde_json::from_str(fs::read_to_string(place.dir.join("b/log")).unwrap().trim()).unwrap();
    assert_eq!((&log["level"], &log["msg"]), (&json!("error"), &json!("container does not exist")));
    // A command line that does not read is heard of there, too.
    assert_eq!(place.run("--log=usage --log-format json pause {} --nonsense").status.code(), Some(1));
    let log: Value = serde_json::from_str(fs::read_to_string(place.dir.join("b/usage")).unwrap().trim()).unwrap();
    assert_eq!((&log["level"], &log["msg"]), (&json!("error"), &json!("unexpected argument '--nonsense' found")));
}

#[test]
fn a_pidfd_of_the_process_goes_to_its_socket() {
    let Some(place) = Place::shell("pidfd", WAITS) else { return };
    let path = place.dir.join("pidfd.sock");
    let missing = place.error(&format!("create --pidfd-socket {} {{}}", path.display()));
    assert!(missing.starts_with("connect to the pidfd socket"), "{missing}");
    place.assert_gone("no socket");
    let listener = UnixListener::bind(&path).unwrap();
    let pid_behind = || {
        let (socket, _) = listener.accept().unwrap();
        let pidfd = receive(&socket);
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().to_owned()
    };
    place.ok(&format!("create --pidfd-socket {} {{}}", path.display()));
    assert_eq!(pid_behind(), place.state()["pid"].to_string());
    place.ok("start {}");
    let file = place.dir.join("pid").display().to_string();
    place.ok(&format!("exec --detach --pidfd-socket {} --pid-file {file} {{}} sleep 1000", path.display()));
    assert_eq!(pid_behind(), fs::read_to_string(file).unwrap());
}

#[test]
fn without_pivot_root_the_container_is_the_same_and_the_hosts_mounts_stay() {
    let look = "ls /; cat /proc/1/comm; grep -c . /proc/mounts; test -e /sys/kernel && echo sys";
    let Some(place) = Place::shell("no-pivot", look) else { return };
    let before = fs::read_to_string("/proc/self/mounts").unwrap();
    let pivoted = place.ok("run {}");
    let covered = place.ok("run --no-pivot {}");
    assert!(pivoted.contains("sys\n"), "{pivoted}");
    assert_eq!(covered, pivoted);
    let kernel = |text: &str| text.lines().filter(|line| line.contains(" proc ") || line.contains(" sysfs ")).count();
    assert_eq!(kernel(&fs::read_to_string("/proc/self/mounts").unwrap()), kernel(&before));
}

#[test]
fn a_systemd_cgroup_path_is_the_place_where_systemd_would_have_it() {
    let slice = format!("mooredtest{}.slice", std::process::id());
    let Some(place) = Place::new("systemd", |config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", "cat /proc/self/cgroup"]);
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "cgroup");
        config["linux"]["cgroupsPath"] = json!(format!("{slice}:p:name"));
    }) else {
        return;
    };
    let cgroups = place.ok("--systemd-cgroup run {}");
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([cgroup2()]) {
        let _ = fs::remove_dir(hierarchy.join(&slice));
    }
    assert!(cgroups.lines().any(|line| line == format!("0::/{slice}/p-name.scope")), "{cgroups}");
    let said = place.error("run {} --systemd-cgroup --bundle /nowhere");
    assert!(said.contains("/nowhere"), "{said}");
    fs::write(place.dir.join("b/config.json"), {
        let mut config: Value = serde_json::from_str(moored::oci::template()).unwrap();
        config["linux"]["cgroupsPath"] = json!("/plain/path");
        config.to_string()
    })
    .unwrap();
    assert!(
        place
            .error("--systemd-cgroup run {}")
            .contains("linux.cgroupsPath \"/plain/path\": expected slice:prefix:name")
    );
}

#[test]
fn spec_writes_a_rootless_config_too() {
    let Some(place) = Place::shell("spec-rootless", "true") else { return };
    let directory = place.dir.0.display().to_string();
    place.ok(&format!("spec --rootless --bundle {directory}"));
    let config: Value = serde_json::from_str(&fs::read_to_string(place.dir.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["linux"]["uidMappings"][0]["hostID"], 0);
    assert!(place.error(&format!("spec -b {directory}")).contains("exists. Remove it first"));
}

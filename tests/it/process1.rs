//! `moored init` as process 1 of a pid namespace, as in a container. That of a machine is tested by `vm_init`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Supervisor, TempDir, busybox_root, end_of, is_root, tool, wait_for};

const UNIT: &str =
    "executable = \"/bin/busybox\"\nprocess.args = [\"/busybox\", \"sleep\", \"100000\"]\nstop.timeout = \"1s\"\n";

/// `moored` with the supervisor's places, in a pid namespace of its own.
pub fn unshared(supervisor: &Supervisor, options: &[&str], words: &[&str]) -> Command {
    let inner = supervisor.moored(words);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).args(options).arg(inner.get_program()).args(inner.get_args());
    command.stdin(Stdio::null());
    command
}

/// The only child of `unshare`, as this namespace numbers it.
pub fn process_1(unshare: &Child) -> i32 {
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let parent = |stat: String| stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<u32>().ok();
    let names = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let pids = names.filter(|name| name.parse::<i32>().is_ok());
    let mut children = pids.filter(|pid| stat(pid).and_then(parent) == Some(unshare.id()));
    children.next().and_then(|pid| pid.parse().ok()).expect("unshare has a child")
}

#[test]
fn it_is_the_init_of_a_namespace_and_ends_with_a_code() {
    if !is_root() || tool("unshare").is_none() || tool("busybox").is_none() {
        return;
    }
    let supervisor = Supervisor::prepare("process1");
    supervisor.unit("web", UNIT);
    let units = supervisor.units().display().to_string();
    let log = fs::File::create(supervisor.dir.join("up.log")).unwrap();
    // `/init` with words that mean nothing would take the default places: with these it takes ours.
    let mut command = unshared(&supervisor, &["--mount-proc"], &["init", "--units", &units]);
    let mut unshare = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    wait_for("it answers", || supervisor.run(&["ps"]).status.success().then_some(()));
    supervisor.wait_phase("web", &["running"]);
    let pids = supervisor.pids();
    assert_eq!(pids.anchor, Some(1));
    // Nothing was mounted: what the namespace sees is what it was given.
    let init = process_1(&unshare);
    let cgroups = |text: String| text.lines().filter(|line| line.contains(" - cgroup2 ")).count();
    let mounts = |pid: &str| cgroups(fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap());
    assert_eq!(mounts(&init.to_string()), mounts("self"));
    let status =
        rustix::process::kill_process(rustix::process::Pid::from_raw(init).unwrap(), rustix::process::Signal::TERM);
    status.unwrap();
    let ended = end_of(&mut unshare, Duration::from_secs(20)).expect("it ends after TERM");
    assert_eq!((ended.code(), ended.signal()), (Some(0), None), "{}", supervisor.output());
    assert!(supervisor.output().contains("web.1 exited"), "{}", supervisor.output());
}

#[test]
fn down_ends_the_init_of_a_namespace() {
    if !is_root() || tool("unshare").is_none() || tool("busybox").is_none() {
        return;
    }
    let supervisor = Supervisor::prepare("process1-down");
    supervisor.unit("web", UNIT);
    let units = supervisor.units().display().to_string();
    let mut command = unshared(&supervisor, &["--mount-proc"], &["init", "--units", &units]);
    let mut unshare = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("it answers", || supervisor.run(&["ps"]).status.success().then_some(()));
    supervisor.wait_phase("web", &["running"]);
    supervisor.ok(&["down"]);
    assert_eq!(end_of(&mut unshare, Duration::from_secs(20)).and_then(|ended| ended.code()), Some(0));
}

/// The first program of a container, its services processes of that container: what needs neither rights nor cgroups' limits.
#[test]
fn it_is_the_init_of_a_container() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new("process1-container");
    let Some(root) = busybox_root(&dir.0) else { return };
    let moored = env!("CARGO_BIN_EXE_moored");
    for place in ["etc/moored/units", "run", "var/lib", "var/log", "tmp"] {
        fs::create_dir_all(root.join(place)).unwrap();
    }
    let unit = "process.args = [\"/bin/sh\", \"-c\", \"echo up; exec sleep 100000\"]\nsecurity.profile = \"host\"\n";
    fs::write(root.join("etc/moored/units/web.toml"), unit).unwrap();
    let mut config: Value = serde_json::from_str(moored::oci::template()).unwrap();
    config["root"] = json!({ "path": root, "readonly": false });
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["/bin/moored", "init"]);
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({ "destination": "/bin/moored", "type": "bind", "source": moored, "options": ["bind", "ro"] }));
    let command = |words: &[&str]| {
        let mut command = Command::new(moored);
        command.arg("oci").arg("--root").arg(dir.join("state")).args(words).current_dir(&dir.0).stdin(Stdio::null());
        command
    };
    let id = format!("moored-it-init-{}", std::process::id());
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let output = command(&["run", &id]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &said(&output);
    assert!(!output.status.success() && text.contains("the cgroup file system is read-only here"), "{text}");

    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["destination"].as_str().unwrap().starts_with("/sys") {
            mount["options"].as_array_mut().unwrap().retain(|option| option != "ro");
        }
    }
    // SYS_ADMIN: a container of a host with cgroup v1 sees no v2 tree, so that one is mounted anew.
    for set in ["bounding", "effective", "permitted"] {
        let names = ["KILL", "SETUID", "SETGID", "SYS_ADMIN"].map(|name| json!(format!("CAP_{name}")));
        config["process"]["capabilities"][set] = json!(names);
    }
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let log = fs::File::create(dir.join("log")).unwrap();
    let mut run = command(&["run", &id]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let inside = |words: &[&str]| command(&[&["exec", &id, "/bin/moored"], words].concat()).output().unwrap();
    let ps = || String::from_utf8_lossy(&inside(&["ps"]).stdout).into_owned();
    // What happens inside must not outlive the test: judged when it is over.
    let runs = (0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        ps().lines().any(|line| line.starts_with("web ") && line.contains(" running "))
            && inside(&["logs", "web"]).stdout == b"up\n"
    });
    let last = format!("{}{:?}", ps(), inside(&["logs", "web"]));
    let _ = command(&["kill", &id, "TERM"]).status();
    let ended = end_of(&mut run, Duration::from_secs(20));
    let _ = command(&["delete", "--force", &id]).output();
    let log = fs::read_to_string(dir.join("log")).unwrap();
    assert!(runs, "{last}\n{log}");
    assert!(ended.is_some_and(|ended| ended.success()) && log.contains("web.1001 exited: signal SIGTERM"), "{log}");
}

#[test]
fn without_a_proc_of_its_own_it_says_what_is_missing() {
    if !is_root() || tool("unshare").is_none() {
        return;
    }
    let supervisor = Supervisor::prepare("process1-proc");
    let output = unshared(&supervisor, &[], &["init"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("/proc is that of another pid namespace"), "{}", said(&output));
}

#[test]
fn elsewhere_it_is_refused_with_what_to_use() {
    let supervisor = Supervisor::prepare("process1-not");
    let output = supervisor.run(&["init"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output).contains("elsewhere use `moored up`"), "{}", said(&output));
    for order in ["poweroff", "reboot", "halt"] {
        let output = supervisor.run(&[order]);
        assert_eq!(output.status.code(), Some(1), "{order}");
        assert!(said(&output).contains("process 1 is not moored but `"), "{}", said(&output));
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

//! `security.profile = "host"`: services of the host itself, and what is kept of them all the same.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{Supervisor, is_alive, is_root, skip, wait_for};
use super::world::{Running, quoted};

/// A supervisor without a root for its units: these have the host's.
fn start(name: &str) -> Option<Supervisor> {
    is_root().then(|| Supervisor::start(name))
}

/// A unit of the host's that runs `script`; more keys of `[process]`, then tables.
fn text(script: &str, more: &str) -> String {
    format!("security.profile = \"host\"\n[process]\nargs = [\"/bin/sh\", \"-c\", {}]\n{more}\n", quoted(script))
}

fn running(supervisor: &Supervisor, unit: &str) -> Running {
    Running::of(&supervisor.wait_phase(unit, &["running", "ready"]))
}

/// What a oneshot of the host's printed.
fn printed(supervisor: &Supervisor, unit: &str, script: &str, more: &str) -> String {
    supervisor.unit(unit, &format!("type = \"oneshot\"\n{}", text(script, more)));
    let row = supervisor.wait_phase(unit, &["completed", "failed"]);
    let log = supervisor.log(unit);
    assert_eq!(row["phase"], "completed", "{row}\n{log}\n{}", supervisor.output());
    log
}

fn cgroup_of(pid: i64) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

/// The pid that a unit printed as `NAME=pid`.
fn told(supervisor: &Supervisor, unit: &str, name: &str) -> i32 {
    wait_for(&format!("{name} in the log of {unit}"), || {
        let log = supervisor.log(unit);
        let line = log.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        line.parse().ok()
    })
}

#[test]
fn the_units_of_a_debian_host_are_right() {
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/units/host");
    let output = Command::new(env!("CARGO_BIN_EXE_moored")).args(["check", units]).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("no errors") && !said.contains("warning"), "{said}");
}

#[test]
fn it_has_all_that_the_host_has_and_a_cgroup_of_its_own() {
    let Some(supervisor) = start("host") else { return };
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let links = kinds.map(|kind| format!("readlink /proc/self/ns/{kind}")).join("; ");
    let script = format!(
        "{links}; readlink /proc/self/root; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; umask; pwd; echo $HOME; id -u"
    );
    let ours = fs::read_to_string(format!("/proc/{}/status", supervisor.pids().keeper)).unwrap();
    let field = |name: &str| ours.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let log = printed(&supervisor, "look", &script, "");
    let said: Vec<&str> = log.lines().collect();
    for (kind, said) in kinds.iter().zip(&said) {
        assert_eq!(*said, fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap());
    }
    let rights = [field("CapEff"), field("CapBnd"), "NoNewPrivs:\t0".to_owned()];
    assert_eq!(said[6], "/");
    assert_eq!(said[7..10].iter().map(|line| line.to_string()).collect::<Vec<_>>(), rights);
    assert_eq!(said[11..15], ["0022", "/", "/root", "0"]);

    supervisor.unit("stay", &text("exec sleep 1000", "[resources]\nmemory = \"64M\"\n"));
    let stay = running(&supervisor, "stay");
    assert!(cgroup_of(stay.pid).ends_with(&format!("/{}", stay.id)), "{}", cgroup_of(stay.pid));
    // A process that joins it is in its cgroup too, and its limits count.
    let seen = supervisor.ok(&["exec", "stay", "--", "sh", "-c", "cat /proc/self/cgroup; readlink /proc/self/ns/mnt"]);
    assert!(seen.contains(&format!("/{}\n", stay.id)), "{seen}");
    assert!(seen.ends_with(&format!("{}\n", fs::read_link("/proc/self/ns/mnt").unwrap().display())), "{seen}");
    let status = supervisor.ok(&["status", "stay"]);
    assert!(status.contains("profile = \"host\""), "{status}");
}

#[test]
fn rights_are_those_of_its_user_and_may_be_narrowed() {
    let Some(supervisor) = start("host-rights") else { return };
    let script = "grep -E '^(CapEff|CapPrm|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; id -u; id -g";
    let log = printed(&supervisor, "nobody", script, "user = \"nobody\"\n");
    let none = "0000000000000000";
    let said: Vec<&str> = log.lines().collect();
    assert_eq!(
        said[..4],
        [&format!("CapPrm:{none}")[..], &format!("CapEff:{none}"), &format!("CapAmb:{none}"), "NoNewPrivs:0"]
    );
    assert_eq!(said[5], "65534");
    supervisor.unit(
        "narrow",
        &format!(
            "type = \"oneshot\"\n[process]\nargs = [\"/bin/sh\", \"-c\", {}]\n[security]\nprofile = \"host\"\ncapabilities = [\"CHOWN\"]\nno_new_privileges = true\nseccomp = \"default\"\n",
            quoted(script)
        ),
    );
    supervisor.wait_phase("narrow", &["completed"]);
    let log = supervisor.log("narrow");
    let said: Vec<&str> = log.lines().collect();
    let one = "0000000000000001";
    assert_eq!(
        said[..5],
        [
            &format!("CapPrm:{one}")[..],
            &format!("CapEff:{one}"),
            &format!("CapAmb:{none}"),
            "NoNewPrivs:1",
            "Seccomp:2"
        ]
    );
}

#[test]
fn it_tells_by_the_path_of_its_socket() {
    let Some(supervisor) = start("host-told") else { return };
    let client = Path::new(env!("CARGO_BIN_EXE_moored")).with_file_name("examples").join("tell");
    if !client.exists() {
        return skip("examples/tell is not built: cargo build --example tell");
    }
    let script = format!("echo $NOTIFY_SOCKET; {} READY=1; exec sleep 1000", client.display());
    supervisor.unit("teller", &text(&script, "notify = \"systemd\"\n"));
    let row = supervisor.wait_unit("teller", "healthy", |row| row["health"] == "healthy");
    assert_eq!(row["phase"], "ready");
    let path = supervisor.log("teller");
    assert!(path.trim().ends_with("/notify/socket") && !path.contains("/dev/"), "{path}");
}

/// Its namespaces are the host's: what it leaves behind is found by its cgroup.
#[test]
fn nothing_of_it_outlives_it() {
    let Some(supervisor) = start("host-rest") else { return };
    let daemon = "setsid sh -c 'trap \"\" TERM HUP; echo left=$$; while :; do sleep 1; done' & ";
    supervisor.unit("stopped", &text(&format!("{daemon} exec sleep 1000"), ""));
    let (main, left) = (running(&supervisor, "stopped"), told(&supervisor, "stopped", "left"));
    supervisor.ok(&["stop", "stopped"]);
    supervisor.wait_phase("stopped", &["stopped"]);
    main.ended();
    assert!(!is_alive(left));

    // One that ends by itself is not started again beside what is left of it.
    let script = format!("{daemon} sleep 0.3; exit 1");
    supervisor.unit("ends", &text(&script, "[restart]\ndelay = \"10ms\"\n"));
    let first = told(&supervisor, "ends", "left");
    wait_for("another start", || (told(&supervisor, "ends", "left") != first).then_some(()));
    assert!(!is_alive(first));
    supervisor.remove_unit("ends");
    supervisor.wait_gone("ends");
}

/// Root may leave its cgroup. The first process is stopped and killed all the same; what went with it is its own.
#[test]
fn one_that_left_its_cgroup_is_killed() {
    let Some(supervisor) = start("host-left") else { return };
    let outside = supervisor.cgroup().with_extension("outside");
    fs::create_dir(&outside).unwrap();
    let script = format!(
        "trap '' TERM; echo $$ > {} && echo moved=$$; while :; do sleep 1; done",
        outside.join("cgroup.procs").display()
    );
    supervisor.unit("leaver", &text(&script, "[stop]\ntimeout = \"100ms\"\n"));
    let main = running(&supervisor, "leaver");
    assert_eq!(i64::from(told(&supervisor, "leaver", "moved")), main.pid);
    supervisor.ok(&["stop", "leaver"]);
    let row = supervisor.wait_phase("leaver", &["stopped"]);
    assert_eq!(row["exit"], "signal SIGKILL");
    main.ended();
    // Its last `sleep` is over in a second.
    wait_for("the cgroup outside to be empty", || fs::remove_dir(&outside).ok());
}

#[test]
fn it_outlives_supervisor_and_keeper_and_a_change_replaces_it() {
    let Some(supervisor) = start("host-kept") else { return };
    supervisor.unit("kept", &text("exec sleep 1000", ""));
    let before = running(&supervisor, "kept");
    for name in ["supervisor", "keeper"] {
        let pids = supervisor.pids();
        let old = if name == "keeper" { pids.keeper } else { pids.supervisor };
        supervisor.kill9(old);
        wait_for(&format!("another {name}"), || {
            let now = supervisor.run(&["status", "--json"]);
            let now: serde_json::Value = serde_json::from_slice(&now.stdout).ok()?;
            (now[name].as_i64()? != i64::from(old)).then_some(())
        });
        assert_eq!(running(&supervisor, "kept"), before);
    }
    supervisor.unit("kept", &text("exec sleep 1000", "[log]\nmax_files = 2\n"));
    supervisor.ok(&["sync"]);
    assert_eq!(running(&supervisor, "kept"), before, "a log cap is taken as it runs");
    supervisor.unit("kept", &text("exec sleep 1000", "cwd = \"/tmp\"\n"));
    let row =
        supervisor.wait_unit("kept", "replaced", |row| row["phase"] == "running" && row["id"] != before.id.as_str());
    before.ended();
    // The end of one that a keeper inherited was known, and so is this one's.
    supervisor.kill9(Running::of(&row).pid as i32);
    let row = supervisor.wait_unit("kept", "started again", |row| row["restarts"].as_u64() == Some(1));
    assert_eq!(row["exit"], "signal SIGKILL");
}

//! Health checks on real programs: who is ready, who is restarted and why, what a change or a dead supervisor does to it, and that nothing
//! of a probe stays behind.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use super::support::wait_for;
use super::world::{FOREVER, Running, World};

/// Serves `/shared` and stays; TERM ends it.
const SERVER: &str = "httpd -p 127.0.0.1:8080 -h /shared; trap 'exit 0' TERM; sleep 1000 & wait";

impl World {
    /// `/shared` inside and these checks.
    fn checked(&self, name: &str, top: &str, script: &str, checks: &str) {
        let source = self.shared();
        let mount =
            format!("[[mount]]\nsource = \"{}\"\ntarget = \"/shared\"\nread_only = false\n{checks}", source.display());
        self.unit(name, &self.text(top, script, &mount));
    }

    fn flag(&self, name: &str) -> PathBuf {
        self.shared().join(name)
    }

    fn ready(&self, unit: &str) -> Running {
        let row = self.wait_phase(unit, &["ready"]);
        assert_eq!(row["health"], "healthy", "{row}");
        Running::of(&row)
    }
}

#[test]
fn each_kind_of_probe_says_who_is_ready_and_who_is_not_any_more() {
    let Some(world) = World::start("health-kinds") else { return };
    fs::write(world.flag("ready"), "").unwrap();
    let readiness = |probe: &str| format!("[health.readiness]\n{probe}\ninterval = \"20ms\"\nfailures = 2\n");
    for (unit, probe) in [
        ("http", "http = \"http://localhost:8080/ready\""),
        ("exec", "exec = [\"/bin/sh\", \"-c\", \"test -e /shared/ready || { echo gone; exit 7; }\"]"),
        ("file", "file = \"/shared/ready\""),
        ("tcp", "tcp = \"127.0.0.1:8080\""),
    ] {
        world.checked(unit, "", SERVER, &readiness(probe));
        let (code, out, _) = world.says(&["sync", unit]);
        assert_eq!(code, 0, "sync waits until it is ready: {out}");
        world.ready(unit);
    }
    fs::remove_file(world.flag("ready")).unwrap();
    for (unit, says) in [
        ("http", "readiness does not pass: GET http://localhost:8080/ready: status 404"),
        ("exec", "readiness does not pass: /bin/sh: code 7: gone"),
        ("file", "readiness does not pass: /shared/ready is not there"),
    ] {
        world.wait_unit(unit, "unready", |row| row["health"] == "unready" && row["reason"] == says);
        let row = world.find(unit).unwrap();
        assert_eq!(
            (&row["phase"], &row["restarts"]),
            (&"running".into(), &0.into()),
            "readiness restarts nothing: {row}"
        );
    }
    let (code, out, _) = world.says(&["sync", "http"]);
    assert!(code == 2 && out.contains("status 404"), "{code} {out}");
    fs::write(world.flag("ready"), "").unwrap();
    ["http", "exec", "file", "tcp"].iter().for_each(|unit| drop(world.ready(unit)));
    let told = world.happened("http");
    let checks: Vec<&str> =
        told.iter().map(|(what, _)| what.as_str()).filter(|what| what.starts_with("check")).collect();
    assert_eq!(
        checks,
        ["check-passed", "check-failed", "check-passed"],
        "an event for each verdict, not for each probe"
    );
}

#[test]
fn a_check_starts_in_the_containers_network_unless_it_says_host() {
    let Some(world) = World::start("health-from") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = |from: &str| format!("[health.readiness]\ntcp = \"127.0.0.1:{port}\"\ninterval = \"20ms\"\n{from}\n");
    world.script("inside", FOREVER, &check(""));
    world.script("outside", FOREVER, &check("from = \"host\""));
    world.ready("outside");
    world.wait_unit("inside", "unready", |row| row["health"] == "unready");
    assert!(world.reason("inside").contains(&format!("connecting to 127.0.0.1:{port}: connection refused")));
}

#[test]
fn an_unhealthy_container_is_restarted_with_backoff_as_after_any_failure() {
    let Some(world) = World::start("health-live") else { return };
    let liveness = "[health.liveness]\nfile = \"/shared/alive\"\ninterval = \"10ms\"\nfailures = 2\n";
    world.checked("web", "", FOREVER, &format!("{liveness}[restart]\ndelay = \"10ms\"\nmax_delay = \"20ms\""));
    world.wait_unit("web", "restarted", |row| row["restarts"].as_u64().is_some_and(|restarts| restarts >= 3));
    let row = world.find("web").unwrap();
    assert_eq!(row["exit"], "code 0 (unhealthy)", "{row}");
    let told = world.happened("web");
    let stop = told.iter().find(|(what, _)| what == "stopping").unwrap();
    let expected = "stopping web.1: unhealthy: liveness failed 2 times in a row: /shared/alive is not there";
    assert_eq!(stop.1, expected);
    assert!(world.ok(&["why", "web"]).contains("liveness of web."), "{}", world.ok(&["why", "web"]));
    fs::write(world.flag("alive"), "").unwrap();
    world.ready("web");
    fs::remove_file(world.flag("alive")).unwrap();
    // A code of 0 is no success here: whoever wants no restart after a failure gets none, and whoever waits for failures is told.
    world.checked("never", "on_failure = [\"alert\"]", FOREVER, &format!("{liveness}[restart]\npolicy = \"never\""));
    world.unit("alert", &world.text("enabled = false", FOREVER, ""));
    let row = world.wait_phase("never", &["failed"]);
    assert!(row["reason"].as_str().unwrap().contains("unhealthy: liveness failed 2 times"), "{row}");
    world.running("alert");
}

#[test]
fn liveness_waits_for_startup_and_a_startup_that_never_passes_is_a_failure() {
    let Some(world) = World::start("health-startup") else { return };
    let liveness = "[health.liveness]\nfile = \"/shared/alive\"\ninterval = \"10ms\"\nfailures = 1\n";
    let startup = "[health.startup]\nfile = \"/shared/up\"\ninterval = \"10ms\"\n";
    world.checked("slow", "", FOREVER, &format!("{startup}{liveness}"));
    let slow = Running::of(&world.wait_reason("slow", "startup does not pass: /shared/up is not there"));
    let (code, out, _) = world.says(&["sync", "slow", "--timeout", "100ms"]);
    assert!(code == 3 && out.contains("startup does not pass"), "{code} {out}");
    fs::write(world.flag("alive"), "").unwrap();
    fs::write(world.flag("up"), "").unwrap();
    assert_eq!(world.ready("slow"), slow, "no restart on the way");
    fs::remove_file(world.flag("up")).unwrap();
    fs::remove_file(world.flag("alive")).unwrap();
    world.wait_unit("slow", "restarted", |row| row["restarts"] == 1);
    let limited = format!("{startup}failures = 3\n[restart]\npolicy = \"never\"\n");
    world.checked("stuck", "", FOREVER, &limited);
    let row = world.wait_phase("stuck", &["failed"]);
    assert!(row["reason"].as_str().unwrap().contains("startup failed 3 times in a row"), "{row}");
}

#[test]
fn a_changed_check_is_live_and_a_supervisor_that_dies_restarts_nothing() {
    let Some(world) = World::start("health-kill") else { return };
    let checks =
        |file: &str| format!("[health.readiness]\nfile = \"/shared/{file}\"\ninterval = \"20ms\"\nfailures = 1\n");
    fs::write(world.flag("a"), "").unwrap();
    world.checked("web", "", FOREVER, &checks("a"));
    let web = world.ready("web");
    let (_, plan, _) = {
        let other = world.dir.join("other");
        fs::create_dir_all(&other).unwrap();
        let text = fs::read_to_string(world.units().join("web.toml")).unwrap().replace("/shared/a", "/shared/b");
        fs::write(other.join("web.toml"), text).unwrap();
        world.says(&["plan", "--units", other.to_str().unwrap()])
    };
    assert!(plan.contains("health.readiness.file") && plan.contains("live"), "{plan}");
    world.checked("web", "", FOREVER, &checks("b"));
    world.wait_unit("web", "unready by the new check", |row| row["health"] == "unready" && Running::of(row) == web);
    fs::write(world.flag("b"), "").unwrap();
    assert_eq!(world.ready("web"), web);
    for _ in 0..3 {
        let before = world.pids();
        world.kill9(before.supervisor);
        wait_for("another supervisor", || {
            let output = world.run(&["status", "--json"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success() && !text.contains(&format!("\"supervisor\":{}", before.supervisor))).then_some(())
        });
        let row = world.wait_phase("web", &["ready", "running"]);
        assert_eq!(
            (&row["health"], Running::of(&row)),
            (&"healthy".into(), web.clone()),
            "what was found stays: {row}"
        );
        fs::remove_file(world.flag("b")).unwrap();
        world.wait_unit("web", "asked again", |row| row["health"] == "unready");
        fs::write(world.flag("b"), "").unwrap();
        assert_eq!(world.ready("web"), web);
    }
    world.checked("web", "", FOREVER, "");
    world.kept("web", &web, "checks were taken away");
    world.wait_unit("web", "without checks", |row| row["health"].is_null() && row["phase"] == "running");
}

#[test]
fn a_program_that_hangs_has_failed_and_is_gone_whoever_dies() {
    let Some(world) = World::start("health-hang") else { return };
    let check = "[health.readiness]\nexec = [\"/bin/sh\", \"-c\", \"echo $$ >> /shared/pids; sleep 4321\"]\n";
    world.checked("web", "", FOREVER, &format!("{check}interval = \"50ms\"\ntimeout = \"100ms\"\nfailures = 2\n"));
    world.wait_unit("web", "unready", |row| row["health"] == "unready");
    assert_eq!(world.reason("web"), "readiness does not pass: /bin/sh: no answer in 100ms");
    let sleepers = || {
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let is_sleeper = |path: &PathBuf| {
            fs::read(path.join("cmdline")).is_ok_and(|line| line.ends_with(b"sleep\x004321\0"))
                && fs::read_to_string(path.join("cgroup")).is_ok_and(|text| text.contains(world.cgroup_root.as_str()))
        };
        processes.filter(is_sleeper).count()
    };
    let asked = || fs::read_to_string(world.flag("pids")).unwrap_or_default().lines().count();
    let before = asked();
    wait_for("more probes", || (asked() > before + 2).then_some(()));
    assert!(sleepers() <= 1, "one at a time, and none stays: {}", sleepers());
    // One that is under way when the supervisor dies is ended by the next.
    world.checked("web", "", FOREVER, &format!("{check}timeout = \"1h\"\n"));
    let before = asked();
    wait_for("a long probe", || (asked() > before && sleepers() == 1).then_some(()));
    let (count, supervisor) = (asked(), world.pids().supervisor);
    world.kill9(supervisor);
    wait_for("a probe of the next supervisor alone", || (asked() > count && sleepers() == 1).then_some(()));
    world.checked("web", "", FOREVER, "");
    wait_for("the last one to be ended", || (sleepers() == 0).then_some(()));
}

#[test]
fn who_depends_on_it_waits_until_it_is_healthy_and_stays_when_it_is_not_any_more() {
    let Some(world) = World::start("health-deps") else { return };
    world.unit("app", &world.text("depends_on = { db = \"healthy\" }", FOREVER, ""));
    world.script("db", FOREVER, "");
    world.wait_reason("app", "waits for db (healthy; it has no health check)");
    let (code, out, _) = world.says(&["sync", "app"]);
    assert!(code == 2 && out.contains("it has no health check"), "it does not come by itself: {code} {out}");
    world.checked(
        "db",
        "",
        FOREVER,
        "[health.readiness]\nfile = \"/shared/ready\"\ninterval = \"20ms\"\nfailures = 1\n",
    );
    world.wait_reason("app", "waits for db (healthy; it is not ready)");
    fs::write(world.flag("ready"), "").unwrap();
    let app = world.running("app");
    fs::remove_file(world.flag("ready")).unwrap();
    world.wait_unit("db", "unready", |row| row["health"] == "unready");
    world.kept("app", &app, "a dependency that is not ready any more takes nobody with it");
    world.unit(
        "optional",
        &world.text("depends_on = { alone = { state = \"healthy\", optional = true } }", FOREVER, ""),
    );
    world.running("optional");
}

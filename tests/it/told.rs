//! Containers that tell by sd_notify(3) how they are: with a client of our own, with systemd's, and with one in a Debian root.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::{Supervisor, install, is_alive, is_root, skip, tool, wait_for};
use super::world::{FOREVER, Running, World, quoted};

/// Waits for a file of `/shared` without a process for each look.
const UNTIL: &str = "until_there() { until [ -e /shared/$1 ]; do sleep 0.02; done; }";

fn client() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_moored")).with_file_name("examples").join("tell");
    if !built.exists() {
        skip("examples/tell is not built: cargo build --example tell");
    }
    built.exists().then_some(built)
}

fn signal(pid: i32, signal: Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

impl World {
    /// With `/bin/tell` in its root.
    fn telling(name: &str) -> Option<World> {
        let client = client()?;
        let world = World::start(name)?;
        install(&client, &world.root.join("bin/tell"));
        Some(world)
    }

    /// A unit with `notify`, more keys of `[process]` and tables, and `/shared` inside.
    fn teller(&self, name: &str, script: &str, more: &str) {
        let shared = self.shared();
        let mount = format!("[[mount]]\nsource = \"{}\"\ntarget = \"/shared\"\nread_only = false\n", shared.display());
        let script = format!("{UNTIL}; {script}");
        self.script(name, &script, &format!("notify = \"systemd\"\n{more}\n{mount}"));
    }

    fn touch(&self, name: &str) {
        fs::write(self.shared().join(name), "").unwrap();
    }

    fn is_healthy(&self, unit: &str) -> Running {
        Running::of(&self.wait_unit(unit, "healthy", |row| row["phase"] == "ready" && row["health"] == "healthy"))
    }

    fn restarted(&self, unit: &str, why: &str) {
        self.wait_unit(unit, "restarted", |row| row["restarts"].as_u64().is_some_and(|restarts| restarts > 0));
        let told = self.happened(unit);
        let (_, stop) = told.iter().find(|(what, _)| what == "stopping").unwrap();
        assert!(stop.ends_with(&format!("unhealthy: {why}")), "{stop}");
    }
}

/// The keeper reads the one descriptor and holds the other.
#[test]
fn a_program_on_a_terminal_tells_too() {
    let Some(world) = World::telling("told-terminal") else { return };
    let script =
        format!("tty; until_there go; tell READY=1; echo told; trap 'test -t 0 && echo still' USR1; {FOREVER}; wait");
    world.teller("web", &script, "terminal = true");
    world.wait_log("web", "/dev/pts/0\r\n");
    world.touch("go");
    let running = world.is_healthy("web");
    let pids = world.pids();
    world.kill9(pids.keeper);
    world.kill9(pids.supervisor);
    world.another(|now| now.supervisor != pids.supervisor);
    assert_eq!(world.is_healthy("web"), running);
    world.wait_log("web", "told\r\n");
    world.ok(&["kill", "-s", "USR1", "web"]);
    world.wait_log("web", "still\r\n");
}

#[test]
fn who_says_ready_late_is_waited_for_and_its_status_is_shown() {
    let Some(world) = World::telling("told-ready") else { return };
    world.unit("app", &world.text("depends_on = { web = \"healthy\" }", FOREVER, ""));
    let script = format!(
        "tell \"STATUS=loading$(printf '\\033[31m')\"; until_there go; tell READY=1 'STATUS=3 users'; {FOREVER}"
    );
    world.teller("web", &script, "");
    let row = world.wait_reason("web", "no READY=1 yet: loading [31m");
    assert_eq!((&row["phase"], &row["health"]), (&"running".into(), &"starting".into()), "{row}");
    world.wait_reason("app", "waits for web (healthy)");
    let (code, out, _) = world.says(&["sync", "web", "--timeout", "100ms"]);
    assert!(code == 3 && out.contains("no READY=1 yet"), "{code} {out}");
    thread::scope(|scope| {
        let start = scope.spawn(|| world.ok(&["start", "web"]));
        assert!(!start.is_finished());
        world.touch("go");
        assert_eq!(start.join().unwrap(), "web: ready\n");
    });
    world.running("app");
    world.wait_unit("web", "showing its status", |row| row["reason"] == "3 users" && row["phase"] == "ready");
    assert!(world.ok(&["status", "web"]).contains("Reason: 3 users"));
    let told = world.happened("web");
    assert!(told.contains(&("ready".to_owned(), "web.1 says that it is ready".to_owned())), "{told:?}");
}

#[test]
fn a_reload_waits_for_the_ready_that_follows() {
    let Some(world) = World::telling("told-reload") else { return };
    let reload = "reload() { tell RELOADING=1; until_there loaded; tell READY=1; }";
    world.teller("web", &format!("{reload}; trap reload HUP; tell READY=1; while :; do sleep 1000 & wait; done"), "");
    let web = world.is_healthy("web");
    thread::scope(|scope| {
        let reload = scope.spawn(|| world.ok(&["reload", "web"]));
        let row = world.wait_reason("web", "it reloads");
        assert_eq!(row["health"], "healthy", "who reloads serves on: {row}");
        // A supervisor that dies meanwhile takes only the answer with it.
        assert!(!reload.is_finished());
        world.touch("loaded");
        assert_eq!(reload.join().unwrap(), "web: reloaded\n");
    });
    assert_eq!(world.is_healthy("web"), web);
    assert_eq!(world.ok(&["reload", "web"]), "web: reloaded\n");
}

#[test]
fn a_watchdog_that_hears_nothing_restarts_it_and_says_why() {
    let Some(world) = World::telling("told-dog") else { return };
    let script = "tell --env READY=1; while [ ! -e /shared/hang ]; do tell WATCHDOG=1; sleep 0.1; done; sleep 1000";
    world.teller("web", script, "watchdog = \"2s\"\ninit = true");
    let web = world.is_healthy("web");
    world.wait_log("web", "WATCHDOG_PID=2\n");
    assert_eq!(world.log("web"), "NOTIFY_SOCKET=/dev/moored-notify/socket\nWATCHDOG_USEC=2000000\nWATCHDOG_PID=2\n");
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(world.is_healthy("web"), web, "it says that it is alive");
    world.touch("hang");
    let begun = Instant::now();
    world.restarted("web", "watchdog: nothing heard for 2s");
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
    let row = world.find("web").unwrap();
    assert!(row["exit"].as_str().unwrap().ends_with("(unhealthy)"), "{row}");
    assert!(world.ok(&["why", "web"]).contains("watchdog: nothing heard for 2s"));
    world.teller("trigger", "tell READY=1; until_there shoot; tell WATCHDOG=trigger; sleep 1000", "");
    world.is_healthy("trigger");
    world.touch("shoot");
    world.restarted("trigger", "watchdog: it triggered it itself");
}

#[test]
fn a_dead_supervisor_or_keeper_is_no_silence() {
    let Some(world) = World::telling("told-kill") else { return };
    let script = "until_there ready; tell READY=1; while :; do tell WATCHDOG=1; sleep 0.1; done";
    world.teller("web", script, "watchdog = \"2s\"");
    let web = world.running("web");
    for _ in 0..2 {
        world.next_supervisor();
    }
    // Said when nobody but the keeper is there.
    let before = world.pids().supervisor;
    world.touch("ready");
    world.kill9(before);
    world.another(|pids| pids.supervisor != before);
    assert_eq!(world.is_healthy("web"), web);
    for _ in 0..3 {
        world.next_supervisor();
        thread::sleep(Duration::from_millis(700));
        assert_eq!(world.is_healthy("web"), web, "the count begins anew, and it goes on saying that it is alive");
    }
    // One that was only stopped knows less than the keeper, and asks.
    for _ in 0..2 {
        let supervisor = world.pids().supervisor;
        signal(supervisor, Signal::STOP);
        thread::sleep(Duration::from_millis(2200));
        signal(supervisor, Signal::CONT);
        assert_eq!(world.is_healthy("web"), web);
    }
    let keeper = world.pids().keeper;
    world.kill9(keeper);
    world.another(|pids| pids.keeper != keeper);
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(world.is_healthy("web"), web, "the next keeper reads the same socket");
}

/// The socket dies with the last who holds it, and another takes its place.
#[test]
fn a_container_whose_socket_died_is_left_alone_and_heard_again() {
    let Some(world) = World::telling("told-both") else { return };
    world.teller("web", "tell READY=1; while :; do tell WATCHDOG=1; sleep 0.1; done", "watchdog = \"2s\"");
    world.teller("slow", &format!("until_there ready; tell READY=1; {FOREVER}"), "");
    let (web, slow) = (world.is_healthy("web"), world.running("slow"));
    let pids = world.pids();
    // So that it starts no other supervisor, which would hold them.
    signal(pids.keeper, Signal::STOP);
    world.kill9(pids.supervisor);
    wait_for("its end", || (!is_alive(pids.supervisor)).then_some(()));
    world.kill9(pids.keeper);
    world.another(|now| now.supervisor != pids.supervisor);
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(world.is_healthy("web"), web);
    assert_eq!(world.ok(&["exec", "web", "--", "tell", "STATUS=back"]), "");
    world.wait_unit("web", "heard", |row| row["reason"] == "back");
    assert_eq!(world.running("slow"), slow);
    assert_eq!(world.reason("slow"), "no READY=1 heard since the keeper died");
    world.touch("ready");
    assert_eq!(world.is_healthy("slow"), slow);
}

#[test]
fn nothing_waits_for_a_supervisor_that_is_not_there_and_nothing_is_lost() {
    let Some(client) = client() else { return };
    let Some(mut world) = World::prepare("told-away") else { return };
    install(&client, &world.root.join("bin/tell"));
    world.supervisor = world.supervisor.with(&["--detach-on-exit"]);
    world.supervisor.up();
    // More than the queue of a socket holds.
    let many = "for n in 1 2 3 4 5 6 7 8 9; do tell STATUS=$n-1 STATUS=$n-2 STATUS=$n-3 STATUS=$n-4; done";
    world.teller("web", &format!("until_there go; {many}; tell READY=1 WATCHDOG=1; : > /shared/done; {FOREVER}"), "");
    let web = world.running("web");
    assert_eq!(world.supervisor.stop().code(), Some(0));
    world.touch("go");
    wait_for("all of it to be said to nobody", || world.shared().join("done").exists().then_some(()));
    world.supervisor.up();
    assert_eq!(world.is_healthy("web"), web);
    assert_eq!(world.find("web").unwrap()["reason"], "9-4");
}

#[test]
fn a_flood_costs_little_and_hides_nothing() {
    let Some(world) = World::telling("told-flood") else { return };
    let flood = "tell READY=1; tell --flood STATUS=a STATUS=b WATCHDOG=1 RELOADING=1 READY=1 FDSTORE=1";
    world.teller("flood", flood, "watchdog = \"2s\"");
    let flooding = world.is_healthy("flood");
    let keeper = world.pids().keeper;
    let ticks = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<u64> =
            stat.rsplit_once(')').unwrap().1.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // utime and stime, the 14th and 15th of all: the letter of the state does not parse.
        fields[10] + fields[11]
    };
    let (begun, before) = (Instant::now(), (ticks(keeper), ticks(world.pids().supervisor)));
    world.script("other", FOREVER, "");
    let other = world.running("other");
    world.ok(&["restart", "other"]);
    assert_ne!(world.running("other"), other);
    thread::sleep(Duration::from_secs(3));
    let (elapsed, after) = (begun.elapsed().as_secs_f64(), (ticks(keeper), ticks(world.pids().supervisor)));
    let share = |before: u64, after: u64| (after - before) as f64 / 100.0 / elapsed;
    let shares = (share(before.0, after.0), share(before.1, after.1));
    assert!(shares.0 < 0.2 && shares.1 < 0.4, "CPUs of keeper and supervisor: {shares:?}");
    assert_eq!(world.is_healthy("flood"), flooding);
    let told = world.happened("flood");
    assert!(told.len() < 10, "an event for the first time that it is ready, not for each word: {told:?}");
}

/// In every kind of root, as any user, and with a `/run` of its own.
#[test]
fn the_socket_is_there_whatever_the_root_is_and_nothing_else_is_behind_it() {
    let (Some(client), Some(world)) = (client(), World::telling("told-roots")) else { return };
    let stays = "args = [\"/tell\", \"--stay\", \"READY=1\"]\nnotify = \"systemd\"\nuser = \"1000:1000\"";
    world.unit("alone", &format!("executable = \"{}\"\n[process]\n{stays}\n", client.display()));
    let bundle = world.dir.join("bundle");
    install(&client, &bundle.join("rootfs/tell"));
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_moored"))
        .args(["oci", "spec", "--bundle", bundle.to_str().unwrap()])
        .status();
    assert!(made.unwrap().success());
    world.unit("bundle", &format!("bundle = \"{}\"\n[process]\n{stays}\n", bundle.display()));
    let look = "ls -A /dev/moored-notify; echo x 2>/dev/null > /dev/moored-notify/x || echo closed";
    let look = format!("{look}; rm /dev/moored-notify/socket 2>/dev/null || echo stays; tell READY=1; {FOREVER}");
    world.teller("run", &look, "user = \"1000\"\n[[mount]]\ntype = \"tmpfs\"\ntarget = \"/run\"\nread_only = true");
    for unit in ["alone", "bundle", "run"] {
        world.is_healthy(unit);
    }
    world.wait_log("run", "stays\n");
    assert_eq!(world.log("run"), "socket\nclosed\nstays\n");
    // No other container's words are taken for its own.
    let (code, _, err) = world.says(&[
        "exec",
        "run",
        "--",
        "sh",
        "-c",
        "NOTIFY_SOCKET=/dev/moored-notify/../moored-notify/socket tell STATUS=mine",
    ]);
    assert_eq!((code, err.as_str()), (0, ""));
    world.wait_unit("run", "saying so", |row| row["reason"] == "mine");
    assert_eq!(world.reason("alone"), "");
}

/// As systemd's own tool does it: it sends a descriptor after its message and waits until that is closed (sd_notify_barrier(3)).
#[test]
fn systemds_own_client_is_heard_and_not_kept_waiting() {
    let (Some(client), true) = (tool("systemd-notify"), is_root()) else { return };
    let Some(world) = World::start("told-systemd") else { return };
    // A program of the host's with its libraries.
    let mount = |path: &&str| format!("[[mount]]\nsource = \"{path}\"\ntarget = \"{path}\"\n");
    let mounts: String = ["/usr", "/lib", "/lib64"].iter().filter(|path| Path::new(path).exists()).map(mount).collect();
    let said = format!("timeout 5 {} --ready --status='up and running' && echo heard; {FOREVER}", client.display());
    world.script("web", &said, &format!("notify = \"systemd\"\n{mounts}"));
    world.is_healthy("web");
    world.wait_log("web", "heard\n");
    assert_eq!(world.reason("web"), "up and running");
}

#[test]
fn a_program_of_a_distribution_is_heard() {
    let Some(root) = super::debian::root() else { return };
    let supervisor = Supervisor::start("told-debian");
    let perl = concat!(
        "use Socket; socket(S, AF_UNIX, SOCK_DGRAM, 0) or die; ",
        "connect(S, pack_sockaddr_un($ENV{NOTIFY_SOCKET})) or die $!; ",
        "send(S, qq(READY=1\\nSTATUS=in Perl\\nMAINPID=$$), 0) or die $!; sleep"
    );
    let text = format!(
        "rootfs = {root:?}\n[process]\nargs = [\"/usr/bin/perl\", \"-e\", {}]\nnotify = \"systemd\"\n",
        quoted(perl)
    );
    supervisor.unit("perl", &text);
    supervisor.wait_unit("perl", "ready", |row| row["phase"] == "ready" && row["reason"] == "in Perl");
}

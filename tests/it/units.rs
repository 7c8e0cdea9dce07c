//! What each key of a unit file really does, looked at from inside and from the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::support::{skip, wait_for};
use super::world::{FOREVER, Running, World, quoted};

#[test]
fn the_process_is_as_its_keys_say() {
    let Some(world) = World::start("process") else { return };
    fs::write(world.root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/:/bin/sh\n").unwrap();
    fs::write(world.root.join("etc/group"), "root:x:0:\napp:x:1235:\nlog:x:4000:app\nweb:x:4001:app,root\n").unwrap();
    let ids = |name: &str, user: &str| {
        let log = world.printed(
            name,
            "id -u; id -g; id -G; cat /proc/1/attr/none 2>/dev/null; :",
            &format!("user = {}\n", quoted(user)),
        );
        log.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ids("number", "1000"), ["1000", "1000", "1000"]);
    assert_eq!(ids("known", "1234"), ["1234", "1235", "1235 4000 4001"]);
    assert_eq!(ids("numbers", "1000:1001"), ["1000", "1001", "1001"]);
    assert_eq!(ids("name", "app"), ["1234", "1235", "1235 4000 4001"]);
    assert_eq!(ids("mixed", "app:web")[..2], ["1234", "4001"]);
    world.unit("nouser", &world.text("", "id", "user = \"ghost\"\n"));
    let row = world.wait_phase("nouser", &["backoff", "failed"]);
    assert!(row["reason"].as_str().unwrap().contains("ghost"), "{row}");

    let keys =
        "env = { PORT = 8080, DEBUG = true, RATIO = 1.5, GREETING = \"a  b\", PATH = \"/bin:/x\" }\ncwd = \"/data\"\n";
    let log = world.printed("web", "pwd; env; echo $0", keys);
    for line in ["/data", "PORT=8080", "DEBUG=true", "RATIO=1.5", "GREETING=a  b", "PATH=/bin:/x"] {
        assert!(log.lines().any(|printed| printed == line), "no {line} in\n{log}");
    }
    assert_eq!(log.lines().filter(|line| line.starts_with("PATH=")).count(), 1);

    let args = "[process]\nargs = [\"/bin/printf\", \"[%%s]\", \"a b\", \"\", \"%%n\"]\n";
    let log = world.printed_by(
        "job",
        &format!("type = \"oneshot\"\nrootfs = \"{}\"\nhostname = \"other\"\n{args}", world.root.display()),
    );
    assert_eq!(log.trim(), "[a b][][%n]");
    let log = world.printed_by("host", &world.text("type = \"oneshot\"\nhostname = \"host.example\"", "hostname", ""));
    assert_eq!(log, "host.example\n");
}

#[test]
fn an_init_reaps_orphans_and_forwards_signals() {
    let Some(world) = World::start("init") else { return };
    // The inner shell's child loses its parent to pid 1, and dies: it stays a zombie if pid 1 does not reap.
    let script = "echo pid $$; sh -c 'sleep 0.1 & exit 0'; sleep 0.5; \
                  for s in /proc/[0-9]*/stat; do read -r p c state parent rest <$s; [ $parent = 1 ] && [ $state = Z ] && echo zombie; done; \
                  trap 'echo got HUP' HUP; trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 1000 & wait; done";
    world.script("with", script, "init = true\n");
    world.wait_log("with", "ready");
    let log = world.log("with");
    assert_eq!(log, "pid 2\nready\n");
    world.ok(&["kill", "-s", "HUP", "with"]);
    world.wait_log("with", "got HUP");
    world.ok(&["stop", "with"]);
    world.wait_log("with", "got TERM");
    assert_eq!(world.find("with").unwrap()["exit"], "code 3", "init ends as its program does");

    // Without one, a program that does not handle TERM is pid 1 and would never see it.
    world.script("without", "exec sleep 1000", "");
    world.running("without");
    world.script("init", "exec sleep 1000", "init = true\n");
    world.running("init");
    world.ok(&["stop", "without", "init"]);
    assert_eq!(world.find("without").unwrap()["exit"], "signal SIGKILL");
    // As a shell says it: 128 and the signal.
    assert_eq!(world.find("init").unwrap()["exit"], "code 143", "{:?}", world.happened("init"));
    assert!(world.happened("without").iter().any(|(what, _)| what == "unhandled"));
    assert!(!world.happened("without").iter().any(|(what, _)| what == "lingering"), "{:?}", world.happened("without"));
}

#[test]
fn resources_are_what_the_cgroup_says() {
    let Some(world) = World::start("resources") else { return };
    let script = format!("df -k /dev/shm | tail -n 1; {FOREVER}");
    world.script("web", &script, "[resources]\nmemory = \"64M\"\ncpus = 1.5\npids = 50\nshm = \"8M\"\n");
    let id = world.running("web").id;
    assert_eq!(world.limit(&id, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(world.limit(&id, "pids", "pids.max", "pids.max"), "50");
    assert!(["150000", "150000 100000"].contains(&world.limit(&id, "cpu", "cpu.cfs_quota_us", "cpu.max").as_str()));
    world.wait_log("web", " 8192 ");
    let status = world.ok(&["status", "web"]);
    assert!(status.contains(" of 64M"), "{status}");

    // A limit bites, and its exit says so. The memory is touched by the program itself: a read(2) into it may just end early.
    world.script(
        "hog",
        "exec awk 'BEGIN { s = \"x\"; while (length(s) < 400000000) s = s s }'",
        "[resources]\nmemory = \"16M\"\n[restart]\npolicy = \"never\"\n",
    );
    let row = world.wait_phase("hog", &["failed"]);
    assert_eq!(row["exit"], "signal SIGKILL (out of memory)");
    assert!(row["reason"].as_str().unwrap().contains("out of memory"), "{row}");
    let log =
        world.printed("forks", "(for i in 1 2 3 4 5 6 7 8; do sleep 5 & done) 2>&1; exit 0", "[resources]\npids = 4\n");
    assert!(log.contains("can't fork: Resource temporarily unavailable"), "{log}");

    // Limits of a container that runs, among them one whose cgroup it was not in.
    world.script("plain", FOREVER, "");
    let plain = world.running("plain");
    world.script("plain", FOREVER, "[resources]\nmemory = \"32M\"\ncpus = 0.25\n");
    world.kept("plain", &plain, "its limits changed");
    wait_for("the limit", || world.ok(&["status", "plain"]).contains(" of 32M").then_some(()));
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", plain.pid)).unwrap();
    assert!(cgroups.lines().all(|line| !line.contains("memory") || line.ends_with(&plain.id)), "{cgroups}");
    assert!(world.happened("plain").iter().any(|(what, text)| what == "limited" && text.contains(&plain.id)));
    world.ok(&["stop", "plain"]);
    for hierarchy in ["memory", "cpu", "pids", "unified"] {
        let left = std::path::Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join(world.cgroup_root.trim_start_matches('/'))
            .join(&plain.id);
        assert!(!left.exists(), "{} is left", left.display());
    }
    // One that the kernel cannot take is said and changes nothing.
    let held = format!("dd if=/dev/zero of=/tmp/x bs=1M count=12 2>/dev/null; echo full; {FOREVER}");
    world.script("full", &held, "[resources]\nmemory = \"64M\"\n");
    world.wait_log("full", "full");
    let full = world.running("full");
    world.script("full", &held, "[resources]\nmemory = \"8M\"\n");
    let after = world.wait_unit("full", "in trouble or killed", |row| {
        row["reason"].as_str().is_some_and(|reason| reason.contains("memory"))
            || row["restarts"] != 0
            || row["phase"] != "running"
    });
    if after["phase"] == "running" && after["restarts"] == 0 {
        world.kept("full", &full, "the kernel refused the limit");
    }
}

#[test]
fn networks_are_separate_shared_or_the_hosts() {
    let Some(world) = World::start("network") else { return };
    let net = |running: &Running| fs::read_link(format!("/proc/{}/ns/net", running.pid)).unwrap();
    world.script("joins", FOREVER, "[network]\nmode = \"unit:owner\"\n");
    world.wait_reason("joins", "waiting for owner to run");
    let owner = world.service("owner", "one");
    let joins = world.running("joins");
    world.script("host", FOREVER, "[network]\nmode = \"host\"\n");
    let host = world.running("host");
    assert_eq!(net(&owner), net(&joins));
    assert_eq!(net(&host), fs::read_link("/proc/self/ns/net").unwrap());
    assert_ne!(net(&owner), net(&host));

    // Another owner is another namespace: who shares it is replaced with it.
    world.unit("owner", &world.service_text("two"));
    let owner = world.replaced("owner", &owner);
    let joins = world.replaced("joins", &joins);
    assert_eq!(net(&owner), net(&joins));
    world.ok(&["stop", "owner"]);
    joins.ended();
    world.wait_reason("joins", "waiting for owner to run");
    world.ok(&["start", "owner"]);
    world.running("joins");

    world.script("one", FOREVER, "[network]\nmode = \"unit:two\"\n");
    world.script("two", FOREVER, "[network]\nmode = \"unit:one\"\n");
    let row = world.wait_reason("two", "waits for itself: ");
    assert_eq!(row["phase"], "failed");
    world.script("two", FOREVER, "");
    world.running("one");
}

#[test]
fn mounts_and_devices_are_there_as_declared() {
    let Some(world) = World::start("mounts") else { return };
    let data = world.dir.join("data");
    fs::create_dir_all(data.join("below")).unwrap();
    fs::write(data.join("file"), "of the host").unwrap();
    fs::write(world.dir.join("one-file"), "one file").unwrap();
    for dir in ["srv", "rw"] {
        fs::create_dir(world.root.join(dir)).unwrap();
    }
    fs::write(world.root.join("etc/app.conf"), "").unwrap();
    let tables = "[[mount]]\nsource = \"../data\"\ntarget = \"/srv\"\n\
                  [[mount]]\nsource = \"../data\"\ntarget = \"/rw\"\nread_only = false\n\
                  [[mount]]\nsource = \"../one-file\"\ntarget = \"/etc/app.conf\"\n\
                  [[mount]]\ntype = \"tmpfs\"\ntarget = \"/run\"\nsize = \"1M\"\n\
                  [[device]]\npath = \"/dev/net/tun\"\n";
    let has_device = std::path::Path::new("/dev/net/tun").exists();
    let tables = if has_device { tables } else { &tables[..tables.find("[[device]]").unwrap()] };
    let script = "exec 2>&1; cat /srv/file; echo; touch /srv/x; touch /srv/below/x; touch /rw/written && echo wrote; cat /etc/app.conf; echo; \
                  touch /etc/app.conf; grep ' /srv ' /proc/self/mountinfo; df -k /run | tail -n 1; touch /run/x && echo run; \
                  : <>/dev/net/tun && echo device; ls -l /dev/net/tun; exit 0";
    let log = world.printed("web", script, tables);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "of the host");
    assert!(lines[1].contains("/srv/x: Read-only file system") && lines[2].contains("Read-only file system"), "{log}");
    assert_eq!(lines[3..5], ["wrote", "one file"]);
    assert!(lines[5].contains("/etc/app.conf: Read-only file system"), "{log}");
    assert!(lines[6].contains("nosuid") && lines[6].contains("nodev") && lines[6].contains(" ro,"), "{log}");
    assert!(lines[7].contains(" 1024 "), "{log}");
    assert_eq!(lines[8], "run");
    assert!(data.join("written").exists());
    if has_device {
        assert_eq!(lines[9], "device", "{log}");
        assert!(lines[10].starts_with("crw") && lines[10].contains("10, 200"), "{log}");
    } else {
        skip("no /dev/net/tun to give");
    }
    // What is not given is neither there nor, were it made, allowed: the cgroup says so.
    let denied = world.printed(
        "without",
        "ls /dev/net 2>&1; mknod /tmp/tun c 10 200 2>&1; (: <>/tmp/tun) 2>&1; exit 0",
        "[security]\ncapabilities = [\"mknod\"]\n",
    );
    assert!(denied.contains("No such file") && denied.contains("/tmp/tun: Permission denied"), "{denied}");

    world.script("missing", FOREVER, "[[mount]]\nsource = \"../nowhere\"\ntarget = \"/srv\"\n");
    let row = world.wait_phase("missing", &["backoff", "failed"]);
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("nowhere") && reason.contains("o such file"), "{reason}");
    world.unit("nodev", &world.text("", FOREVER, "[[device]]\npath = \"/dev/nothing\"\n"));
    let row = world.wait_phase("nodev", &["backoff", "failed"]);
    assert!(row["reason"].as_str().unwrap().contains("/dev/nothing"), "{row}");
}

#[test]
fn a_bundle_is_as_its_config_says_and_the_unit_overrides() {
    let Some(world) = World::start("bundle") else { return };
    let bundle = world.dir.join("bundle");
    fs::create_dir(&bundle).unwrap();
    let config = serde_json::json!({
        "ociVersion": "1.2.0",
        "hostname": "of-config",
        "process": {
            "args": ["/bin/sh", "-c", "id -u; hostname; echo $A $B; grep -E 'CapBnd|NoNewPrivs' /proc/self/status; ulimit -n; umask; pwd"],
            "env": ["PATH=/bin", "A=config", "B=config"], "cwd": "/data",
            "user": { "uid": 7, "gid": 8, "umask": 63 },
            "capabilities": { "bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"] },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 77, "soft": 77 }],
        },
        "root": { "path": "../busybox-root", "readonly": true },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "uts" }] },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let log = world.printed_by("plain", "bundle = \"../bundle\"\ntype = \"oneshot\"");
    let said: Vec<&str> = log.lines().collect();
    assert_eq!(said[..3], ["7", "of-config", "config config"]);
    assert!(said[3].ends_with("0000000000000001") && said[4].ends_with('0'), "{log}");
    assert_eq!(said[5..], ["77", "0077", "/data"]);

    let over = "bundle = \"../bundle\"\ntype = \"oneshot\"\nhostname = \"of-unit\"\n[process]\nuser = \"0\"\nenv = { B = \"unit\" }\ncwd = \"/\"\n\
                [security]\ncapabilities = []\nno_new_privileges = true\n[oci]\nprocess.rlimits = [{ type = \"RLIMIT_NOFILE\", hard = 55, soft = 55 }]\n";
    let log = world.printed_by("over", over);
    let said: Vec<&str> = log.lines().collect();
    assert_eq!(said[..3], ["0", "of-unit", "config unit"]);
    assert!(said[3].ends_with("0000000000000000") && said[4].ends_with('1'), "{log}");
    assert_eq!((said[5], said[7]), ("55", "/"));
}

// ---- restarts ----

#[test]
fn restart_policies_decide_by_the_exit() {
    let Some(world) = World::start("policies") else { return };
    // Each runs once or again and again; a second start is told by the log, the end by the phase.
    let table = [
        ("always", "exit 0", true),
        ("always", "exit 1", true),
        ("always", "kill -9 $$", true),
        ("on-failure", "exit 0", false),
        ("on-failure", "exit 3", true),
        ("on-failure", "kill -KILL $$", true),
        ("on-success", "exit 0", true),
        ("on-success", "exit 3", false),
        ("never", "exit 0", false),
        ("never", "exit 3", false),
        ("on-abnormal", "exit 3", false),
    ];
    for (number, (policy, script, _)) in table.iter().enumerate() {
        let more = "delay = \"20ms\"\nmax_delay = \"20ms\"\n";
        let init = if script.contains("kill") { "init = true\n" } else { "" };
        world.script(&format!("unit{number}"), script, &format!("{init}[restart]\npolicy = \"{policy}\"\n{more}"));
    }
    // Pid 1 of a namespace dies of a signal that it does not handle only when that comes from outside.
    for (policy, again) in [("on-abnormal", true), ("on-failure", true), ("on-success", false), ("never", false)] {
        world.script(policy, FOREVER, &format!("[restart]\npolicy = \"{policy}\"\ndelay = \"20ms\"\n"));
        let first = world.running(policy);
        world.ok(&["kill", "-s", "KILL", policy]);
        if again {
            world.replaced(policy, &first);
        } else {
            world.wait_phase(policy, &["failed"]);
        }
        assert_eq!(world.find(policy).unwrap()["exit"], "signal SIGKILL");
    }
    for (number, (policy, script, again)) in table.iter().enumerate() {
        let unit = format!("unit{number}");
        let what = format!("{policy} after {script}");
        if *again {
            world.wait_unit(&unit, &what, |row| row["restarts"].as_u64().unwrap_or(0) >= 2);
            continue;
        }
        let phase = if script.ends_with("exit 0") { "completed" } else { "failed" };
        let row = world.wait_phase(&unit, &[phase]);
        assert_eq!(row["restarts"], 0, "{what}: {row}");
        assert_eq!(row["reason"], if phase == "completed" { "completed" } else { "last exit: code 3" }, "{what}");
    }
    world.run(&["sync", "--timeout", "100ms"]);
    for (number, (policy, script, again)) in table.iter().enumerate() {
        let restarts = world.find(&format!("unit{number}")).unwrap()["restarts"].as_u64().unwrap();
        assert_eq!(restarts > 0, *again, "{policy} after {script}");
    }
}

#[test]
fn restarts_back_off_and_stop_at_their_limit() {
    let Some(world) = World::start("backoff") else { return };
    world.script("slow", "exit 4", "[restart]\ndelay = \"1h\"\nmax_delay = \"2h\"\n");
    let row = world.wait_phase("slow", &["backoff"]);
    let reason = row["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("backing off, next start in 1h") && reason.ends_with("(2nd attempt), last exit: code 4"),
        "{reason}"
    );
    assert!(row["pid"].is_null() && row["exit"] == "code 4", "{row}");

    // Delays double: 100, 200, 400 ms, each with up to 10 % more, between the end of a run and the next start.
    world.script("doubles", "exit 1", "[restart]\ndelay = \"100ms\"\n");
    world.wait_unit("doubles", "started 5 times", |row| row["restarts"].as_u64().unwrap_or(0) >= 4);
    let events = world.ok(&["events", "doubles", "--json"]);
    let at = |what: &str| -> Vec<i64> {
        let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events.filter(|event| event["what"] == what).map(|event| event["time"].as_i64().unwrap()).collect()
    };
    let (ends, starts) = (at("exited"), at("started"));
    for (n, least) in [(0, 100), (1, 200), (2, 400)] {
        assert!(starts[n + 1] - ends[n] >= least - 2, "{}: {ends:?} {starts:?}", n + 1);
    }

    let limit = "[restart]\ndelay = \"10ms\"\nmax_delay = \"10ms\"\nlimit = { burst = 3, interval = \"10m\" }\n";
    world.script("limited", "exit 5", limit);
    let row = world.wait_phase("limited", &["failed"]);
    assert_eq!(row["reason"], "gave up: 3 starts in 10m, last exit: code 5");
    assert_eq!(row["restarts"], 2);
    assert_eq!(world.says(&["sync"]).0, 2, "a unit that failed");
    // A start by hand begins anew, and so does another text.
    world.run(&["start", "limited"]);
    world.wait_unit("limited", "given up again", |row| {
        row["phase"] == "failed" && row["restarts"].as_u64().unwrap() > 2
    });
    world.script("limited", FOREVER, limit);
    world.running("limited");

    // Runs of at least reset_after are followed by the next at once, however often.
    world.script(
        "reset",
        "sleep 0.3; exit 1",
        "[restart]\ndelay = \"1h\"\nmax_delay = \"1h\"\nreset_after = \"200ms\"\n",
    );
    world.wait_unit("reset", "started often", |row| row["restarts"].as_u64().unwrap_or(0) >= 3);
    // A program that is not there is a failure like another: said, and tried again.
    let text = format!("rootfs = \"{}\"\n[process]\nargs = [\"/bin/nothing\"]\n", world.root.display());
    world.unit("nothing", &text);
    let row = world.wait_phase("nothing", &["backoff"]);
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("start failed") && reason.contains("/bin/nothing"), "{reason}");
}

#[test]
fn a_oneshot_runs_once_and_a_disabled_unit_not_at_all() {
    let Some(world) = World::start("oneshot") else { return };
    world.unit("job", &world.text("type = \"oneshot\"", "echo once", ""));
    let row = world.wait_phase("job", &["completed"]);
    assert_eq!(
        (row["reason"].as_str(), row["restarts"].as_u64(), row["exit"].as_str()),
        (Some("completed"), Some(0), Some("code 0"))
    );
    world.unit("job", &("# a comment\n".to_owned() + &world.text("type = \"oneshot\"", "echo once", "")));
    world.ok(&["sync"]);
    assert_eq!(world.log("job"), "once\n");
    world.unit("job", &world.text("type = \"oneshot\"", "echo twice", ""));
    world.wait_log("job", "twice");
    world.wait_phase("job", &["completed"]);
    world.ok(&["start", "job"]);
    wait_for("another run", || (world.log("job") == "once\ntwice\ntwice\n").then_some(()));
    // As a service it would have been started again at once.
    world.unit(
        "retry",
        &world.text("type = \"oneshot\"", "exit 1", "[restart]\npolicy = \"on-failure\"\ndelay = \"10ms\"\n"),
    );
    world.wait_unit("retry", "retried", |row| row["restarts"].as_u64().unwrap_or(0) >= 2);

    world.unit("off", &world.text("enabled = false", FOREVER, ""));
    let row = world.wait_phase("off", &["stopped"]);
    assert_eq!(row["reason"], "not enabled");
    world.ok(&["start", "off"]);
    let off = world.running("off");
    world.unit("off", &world.text("enabled = false\ndescription = \"by hand\"", FOREVER, ""));
    world.kept("off", &off, "it was started by hand");
    world.ok(&["stop", "off"]);
    world.unit("off", &world.text("enabled = true", FOREVER, ""));
    world.ok(&["sync", "off"]);
    let row = world.wait_phase("off", &["stopped"]);
    assert!(row["reason"].as_str().unwrap().starts_with("stopped by root"), "{row}");
    world.ok(&["start", "off"]);
    let off = world.running("off");
    world.unit("off", &world.text("enabled = false", FOREVER, ""));
    world.wait_phase("off", &["stopped"]);
    off.ended();
}

// ---- what is not built ----

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let Some(world) = World::start("later") else { return };
    let table = [("bridge", "[network]\nmode = \"bridge\"", "\"bridge\" is known but not built")];
    for (unit, tables, _) in table {
        world.script(unit, FOREVER, tables);
    }
    world.unit("image", &world.text("image = \"x\"", FOREVER, ""));
    let of_table = table.iter().map(|(unit, _, says)| (*unit, *says));
    for (unit, says) in of_table.chain([("image", "`image` is known but not built")]) {
        let row = world.wait_reason(unit, says);
        let reason = row["reason"].as_str().unwrap();
        assert!(reason.starts_with(&format!("{unit}.toml:")), "{reason}");
        assert_eq!(row["phase"], "failed", "{row}");
    }
}

#[test]
fn an_executable_must_be_a_static_program() {
    let Some(world) = World::start("static") else { return };
    let at = |name: &str| world.dir.join(name);
    fs::write(at("script"), "#!/bin/sh\n").unwrap();
    fs::write(at("text"), "nothing\n").unwrap();
    fs::set_permissions(at("script"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(at("dir")).unwrap();
    for name in ["script", "text", "dir", "absent"] {
        world.unit(name, &format!("executable = \"../{name}\""));
    }
    world.unit("dynamic", "executable = \"/usr/bin/env\"");
    world.unit("file", "rootfs = \"../text\"\n[process]\nargs = [\"/x\"]");
    world.unit("nobundle", "bundle = \"../dir\"");
    for (unit, says) in [
        ("script", "script"),
        ("text", "executable"),
        ("dir", "executable"),
        ("absent", "does not exist: create it or correct the path"),
        ("dynamic", "static"),
        ("file", "is a regular file, expected a directory"),
        ("nobundle", "config.json"),
    ] {
        let row = world.wait_reason(unit, says);
        assert_eq!(row["phase"], "failed", "{row}");
        println!("{unit}: {}", row["reason"].as_str().unwrap());
    }
}

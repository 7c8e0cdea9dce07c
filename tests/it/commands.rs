//! The commands that ask a supervisor: what they do, print, and exit with.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::support::{PATIENCE, end_of, is_alive, wait_for};
use super::world::{FOREVER, World};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Handles TERM, HUP and USR1, each with a line.
const TALKS: &str = "trap 'exit 0' TERM; trap 'echo got HUP' HUP; trap 'echo got USR1' USR1; echo ready; while :; do sleep 1000 & wait; done";

#[test]
fn units_are_started_stopped_and_restarted_by_name() {
    let Some(world) = World::start("verbs") else { return };
    let web = world.service("web", "one");
    world.service("db", "one");
    assert_eq!(world.says(&["start", "web"]), (0, "web: running\n".into(), String::new()));
    assert_eq!(world.running("web"), web, "it ran already");

    assert_eq!(world.says(&["stop", "web", "db"]), (0, "web: stopped\ndb: stopped\n".into(), String::new()));
    let row = world.find("web").unwrap();
    assert_eq!((row["phase"].as_str(), row["exit"].as_str()), (Some("stopped"), Some("code 0")));
    assert!(row["reason"].as_str().unwrap().starts_with("stopped by root (pid "), "{row}");
    web.ended();
    // An edit does not start what is held.
    world.unit("db", &world.service_text("two"));
    world.ok(&["sync", "db"]);
    assert_eq!(world.find("db").unwrap()["phase"], "stopped");
    world.ok(&["start", "web", "db"]);
    let again = world.replaced("web", &web);
    assert_eq!(world.says(&["restart", "web"]), (0, "web: running\n".into(), String::new()));
    let newest = world.replaced("web", &again);
    assert_eq!(newest.id, "web.3");
    assert_eq!(world.find("web").unwrap()["restarts"], 0, "restarts are the policy's");

    // One of two fails: what worked is said, what did not is the error.
    world.unit("job", &world.text("type = \"oneshot\"", "sleep 0.1; exit 3", ""));
    world.wait_phase("job", &["failed"]);
    world.unit("bad", "rootfs = 1");
    world.wait_phase("bad", &["failed"]);
    let (code, out, err) = world.says(&["start", "web", "bad"]);
    assert_eq!((code, out.as_str()), (1, "web: running\n"));
    assert!(err.starts_with("moored: bad: "), "{err}");
    let what: Vec<String> = world.happened("web").into_iter().map(|(what, _)| what).collect();
    assert!(!what.contains(&"lingering".to_owned()), "{what:?}");
}

#[test]
fn a_stop_holds_for_its_time_and_across_restarts_of_the_supervisor() {
    let Some(mut world) = World::start("holds") else { return };
    world.service("web", "one");
    world.service("short", "one");
    world.service("gone", "one");
    world.ok(&["stop", "web", "--reason", "disk is full"]);
    world.ok(&["stop", "gone"]);
    let row = world.find("web").unwrap();
    assert!(row["reason"].as_str().unwrap().ends_with(": disk is full"), "{row}");
    world.ok(&["stop", "short", "--for", "1s", "--reason", "a moment"]);
    let row = world.find("short").unwrap();
    assert!(row["reason"].as_str().unwrap().contains(": a moment, until "), "{row}");
    world.running("short");

    // Of this boot: the supervisor alone, then all of it.
    world.kill9(world.pids().supervisor);
    wait_for("another supervisor", || world.run(&["ps"]).status.success().then_some(()));
    let row = world.wait_phase("web", &["stopped"]);
    assert!(row["reason"].as_str().unwrap().ends_with(": disk is full"), "{row}");
    world.ok(&["down"]);
    world.supervisor.stop();
    world.supervisor.up();
    world.running("short");
    let row = world.wait_phase("web", &["stopped"]);
    assert!(row["reason"].as_str().unwrap().ends_with(": disk is full"), "{row}");

    // The removal of the file ends it, and so does a start.
    world.remove_unit("gone");
    world.wait_gone("gone");
    world.service("gone", "one");
    world.ok(&["start", "web"]);
    world.running("web");
}

#[test]
fn a_stop_that_takes_too_long_kills_all_of_the_cgroup() {
    let Some(world) = World::start("deadline") else { return };
    // It ignores TERM, and so does what it left behind in a session of its own.
    let stubborn = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000' & trap 'echo not now' TERM; echo ready; while :; do sleep 1000 & wait; done";
    world.script("web", stubborn, "[stop]\ntimeout = \"300ms\"\n");
    world.wait_log("web", "ready");
    let web = world.running("web");
    let inside = std::fs::read_to_string(world.cgroup().join(&web.id).join("cgroup.procs")).unwrap();
    assert!(inside.lines().count() >= 3, "{inside}");
    world.ok(&["stop", "web"]);
    for pid in inside.lines() {
        assert!(!is_alive(pid.parse().unwrap()), "{pid} is left");
        // And reaped: the keeper does that when it has the supervisor's word, which `stop` does not wait for.
        wait_for("its zombie to be reaped", || (!std::path::Path::new("/proc").join(pid).exists()).then_some(()));
    }
    assert_eq!(world.find("web").unwrap()["exit"], "signal SIGKILL");
    let happened = world.happened("web");
    let what: Vec<&str> = happened.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(what, ["added", "started", "held", "stopping", "killing", "exited"]);
    world.wait_log("web", "not now");

    // Another stop signal, and one that the program does not handle.
    world.script(
        "quit",
        "trap 'echo bye; exit 7' QUIT; trap 'echo wrong' TERM; echo ready; while :; do sleep 1000 & wait; done",
        "[stop]\nsignal = \"SIGQUIT\"\n",
    );
    world.wait_log("quit", "ready");
    world.ok(&["stop", "quit"]);
    assert_eq!(world.find("quit").unwrap()["exit"], "code 7");
    world.wait_log("quit", "bye");
    assert!(!world.log("quit").contains("wrong"));
    world.script("deaf", "exec sleep 1000", "");
    world.running("deaf");
    world.ok(&["stop", "deaf"]);
    assert!(
        world.happened("deaf").iter().any(|(_, text)| text == "deaf.1 does not handle its stop signal: killed at once")
    );
}

#[test]
fn reload_and_kill_send_their_signals() {
    let Some(world) = World::start("signals") else { return };
    world.script("web", TALKS, "");
    world.script("usr", TALKS, "[reload]\nsignal = \"SIGUSR1\"\n");
    world.wait_log("web", "ready");
    world.wait_log("usr", "ready");
    let web = world.running("web");
    assert_eq!(world.says(&["reload", "web", "usr"]), (0, "web: reloaded\nusr: reloaded\n".into(), String::new()));
    world.wait_log("web", "got HUP");
    world.wait_log("usr", "got USR1");
    assert_eq!(world.says(&["kill", "-s", "usr1", "web"]), (0, "web: signal sent\n".into(), String::new()));
    world.wait_log("web", "got USR1");
    world.kept("web", &web, "it handled its signals");
    world.ok(&["kill", "--all", "web"]);
    world.replaced("web", &web);
    assert_eq!(world.find("web").unwrap()["exit"], "signal SIGKILL");
    let texts: Vec<String> = world.happened("web").into_iter().map(|(_, text)| text).collect();
    for text in ["SIGUSR1 asked for", "SIGKILL to every process asked for", "web.1 was told to reload"] {
        assert!(texts.iter().any(|said| said == text), "{text} is not in {texts:?}");
    }
    world.ok(&["stop", "usr"]);
    assert_eq!(world.says(&["reload", "usr"]), (1, String::new(), "moored: not running: usr\n".into()));
    assert_eq!(world.says(&["kill", "usr"]), (1, String::new(), "moored: not running: usr\n".into()));
    let (code, _, err) = world.says(&["kill", "web", "-s", "SIGNOPE"]);
    assert!(code == 64 && err.contains("expected a name as in SIGHUP"), "{err}");
    let (code, _, err) = world.says(&["kill", "--all", "-s", "HUP", "web"]);
    assert!(code == 64 && err.contains("SIGKILL is the only signal"), "{err}");
}

#[test]
fn what_is_read_is_a_table_for_people_and_json_for_programs() {
    let Some(world) = World::start("reading") else { return };
    world.unit(
        "web",
        &world.text("description = \"Public web front\"", &format!("echo out; echo err >&2; {FOREVER}"), ""),
    );
    world.unit("job", &world.text("type = \"oneshot\"", "echo first; exit 3", ""));
    world.wait_log("web", "err");
    world.wait_phase("job", &["failed"]);
    world.ok(&["restart", "web"]);
    world.wait_phase("web", &["running"]);

    let table = world.ok(&["ps"]);
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["UNIT", "PHASE", "PID", "SINCE", "RESTARTS", "EXIT", "REASON"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    for row in world.ps() {
        for key in ["unit", "phase", "pid", "since", "restarts", "exit", "reason", "health"] {
            assert!(row.get(key).is_some(), "no {key} in {row}");
        }
    }
    let failed = json(&world.ok(&["ps", "--failed", "--json"]));
    assert_eq!((failed.as_array().unwrap().len(), &failed[0]["unit"]), (1, &Value::from("job")));
    assert_eq!(json(&world.ok(&["ps", "--json", "web"])).as_array().unwrap().len(), 1);

    let status = world.ok(&["status", "web"]);
    for part in [
        "● web - Public web front",
        "Source: rootfs ",
        "Phase: running since ",
        "Container: web.2",
        "Last exit: code 0",
        "Cgroup: /",
    ] {
        assert!(status.contains(part), "{part} is not in\n{status}");
    }
    assert!(status.lines().rev().take(4).any(|line| line.ends_with(" err")), "{status}");
    let status = json(&world.ok(&["status", "web", "--json"]));
    assert_eq!((&status["unit"], &status["description"]), (&Value::from("web"), &Value::from("Public web front")));
    assert!(status["tasks"].as_u64().unwrap() >= 1 && status["log"].as_array().unwrap().len() <= 10, "{status}");
    let own = json(&world.ok(&["status", "--json"]));
    for key in ["anchor", "keeper", "supervisor"] {
        assert!(std::path::Path::new("/proc").join(own[key].to_string()).exists(), "{key} in {own}");
    }
    assert_eq!((&own["units"], &own["containers"]), (&Value::from(2), &Value::from(1)));

    for line in world.ok(&["events", "--json"]).lines() {
        let event = json(line);
        assert!(event["time"].is_u64() && event["what"].is_string() && event["text"].is_string(), "{event}");
    }
    let events = world.ok(&["events", "job"]);
    assert!(events.lines().any(|line| line.ends_with(" job job.1 exited: code 3")), "{events}");
    assert!(!events.contains(" web "), "{events}");
    assert_eq!(world.ok(&["events", "--since", "2100-01-01"]), "");
    assert_eq!(world.ok(&["logs", "job"]), "first\n");
    assert_eq!(json(world.ok(&["logs", "job", "--json"]).trim())["line"].as_str().unwrap_or("first"), "first");
}

#[test]
fn events_follow_until_the_reader_goes() {
    let Some(world) = World::start("follow") else { return };
    let mut follow = world.moored(&["events", "-f", "--json", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    // A unit that is not there yet may be waited for only where it is known: this one is.
    if let Some(status) = end_of(&mut follow, Duration::from_millis(200)) {
        assert_eq!(status.code(), Some(1), "unknown as yet");
        world.service("web", "one");
        follow = world.moored(&["events", "-f", "--json", "web"]).stdout(Stdio::piped()).spawn().unwrap();
        lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    }
    let mut wait_what = |what: &str| loop {
        let line = lines.next().expect("events go on").unwrap();
        if json(&line)["what"] == what {
            return;
        }
    };
    wait_what("started");
    world.ok(&["stop", "web"]);
    wait_what("held");
    wait_what("exited");
    world.ok(&["down"]);
    let status = end_of(&mut follow, PATIENCE).expect("it ends with its supervisor");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn plan_tells_what_would_change_and_how() {
    let Some(world) = World::start("plan") else { return };
    for unit in ["same", "live", "replace", "remove"] {
        world.service(unit, "one");
    }
    assert_eq!(world.says(&["plan"]), (0, "nothing would change\n".into(), String::new()));
    let other = world.dir.join("other");
    std::fs::create_dir(&other).unwrap();
    let write = |name: &str, text: &str| std::fs::write(other.join(format!("{name}.toml")), text).unwrap();
    let one = world.service_text("one");
    write("same", &format!("# a comment\n{one}"));
    write("live", &format!("{one}[resources]\nmemory = \"64M\"\n[stop]\ntimeout = \"3s\"\n"));
    write("replace", &world.service_text("two"));
    write("add", &one);
    let dir = other.to_str().unwrap();
    let args = |what: &str| format!("[\"/bin/sh\", \"-c\", \": {what}; {FOREVER}\"]");
    let expected = format!(
        "\
+ add      add      it is not in force
~ live     live     its container runs on
    live     resources.memory: default → \"64M\"
    live     stop.timeout: default → \"3s\"
- remove   remove   it has no file there
~ replace  replace  process.args takes a new container
    replace  process.args: {} → {}
",
        args("one"),
        args("two")
    );
    assert_eq!(world.says(&["plan", "--units", dir]), (0, expected, String::new()));
    write("add", "rootfs = 1");
    let (code, out, _) = world.says(&["plan", "--units", dir, "--json"]);
    let plan = json(&out);
    assert_eq!((code, plan["changes"].as_array().unwrap().len()), (1, 4), "{plan}");
    assert_eq!((&plan["changes"][3]["unit"], &plan["changes"][3]["how"]), (&"add".into(), &"invalid".into()), "{plan}");
    assert!(plan["errors"][0].as_str().unwrap().contains("add.toml:1:10"), "{plan}");
    let (code, _, err) = world.says(&["plan", "--units", "/nonexistent"]);
    assert!(code == 1 && err.contains("/nonexistent"), "{err}");

    // Of what is on disk, all is in force or said to be wrong.
    world.unit("same", "broken");
    world.wait_reason("same", "running with the last good text");
    let (code, out, _) = world.says(&["plan"]);
    assert!(code == 1 && out.contains("error: ") && out.contains("same.toml:1:"), "{out}");
    assert_eq!(world.says(&["apply"]).0, 1);
    world.unit("same", &one);
    assert_eq!(world.says(&["apply"]), (0, String::new(), String::new()));
}

#[test]
fn sync_waits_and_says_what_is_wrong() {
    let Some(world) = World::start("sync") else { return };
    assert_eq!(world.says(&["sync"]), (0, String::new(), String::new()));
    world.unit("web", &world.service_text("one"));
    assert_eq!(world.says(&["sync", "web"]).0, 0, "the file was written before");
    assert_eq!(world.find("web").unwrap()["phase"], "running");
    world.remove_unit("web");
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    assert!(world.find("web").is_none(), "removals too");
    world.unit("bad", "rootfs = 1");
    let (code, out, _) = world.says(&["sync"]);
    assert_eq!(code, 1);
    assert_eq!(out.lines().count(), 1, "each mistake once: {out}");
    world.remove_unit("bad");
    world.unit("fails", &world.text("type = \"oneshot\"", "exit 3", ""));
    assert_eq!(world.says(&["sync"]), (2, "fails: last exit: code 3\n".into(), String::new()));
    // A oneshot has converged when it has ended, not while it runs.
    world.unit("fails", &world.text("type = \"oneshot\"", "sleep 0.3; exit 0", ""));
    assert_eq!(world.says(&["sync", "fails"]).0, 0);
    assert_eq!(world.find("fails").unwrap()["phase"], "completed");
    assert_eq!(world.says(&["start", "fails"]), (0, "fails: completed\n".into(), String::new()));
    world.remove_unit("fails");
    world.script(
        "slow",
        "trap 'echo no' TERM; echo ready; while :; do sleep 1000 & wait; done",
        "[stop]\ntimeout = \"1m\"\n",
    );
    world.wait_log("slow", "ready");
    world.remove_unit("slow");
    let (code, out, _) = world.says(&["sync", "--timeout", "100ms", "slow"]);
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("slow: its file is gone; killed in 5"), "{out}");
    world.ok(&["kill", "--all", "slow"]);
    world.wait_gone("slow");
}

#[test]
fn mistakes_are_answered_in_words() {
    let Some(world) = World::start("mistakes") else { return };
    world.service("web", "one");
    for command in ["status", "start", "stop", "restart", "reload", "kill", "events", "sync", "ps"] {
        assert_eq!(
            world.says(&[command, "wbe"]),
            (1, String::new(), "moored: no unit `wbe`, did you mean `web`?\n".into()),
            "{command}"
        );
    }
    let (_, _, err) = world.says(&["status", "something-else"]);
    assert_eq!(err, "moored: no unit `something-else`: `moored ps` lists them all\n");
    let (code, _, err) = world.says(&["start", "no/name"]);
    assert!(code == 1 && err.contains("`no/name` is not a unit name"), "{err}");
    let (code, _, err) = world.says(&["logs", "wbe"]);
    assert!(code == 1 && err.contains("wbe has no log"), "{err}");
    assert_eq!(world.says(&["exec", "wbe", "--", "ls"]).0, 125);
    for command in ["start", "stop", "restart", "reload", "kill", "logs"] {
        let (code, _, err) = world.says(&[command]);
        assert!(code == 64 && err.contains("required"), "{command}: {err}");
    }
    let (code, _, err) = world.says(&["stop", "web", "--for", "abc"]);
    assert!(code == 64 && err.contains("`abc` is not a time"), "{err}");
}

#[test]
fn without_a_supervisor_commands_say_how_to_get_one() {
    let Some(mut world) = World::prepare("nobody") else { return };
    let commands = [
        &["ps"][..],
        &["status"],
        &["events"],
        &["sync"],
        &["start", "web"],
        &["stop", "web"],
        &["plan"],
        &["apply"],
        &["down"],
    ];
    for command in commands {
        let (code, out, err) = world.says(command);
        assert_eq!((code, out.as_str()), (69, ""), "{command:?}");
        assert!(
            err.contains("no supervisor is running for ") && err.ends_with("Start one with `moored up`\n"),
            "{err}"
        );
    }
    // And after `down` nothing is left, so that another can begin at once.
    world.supervisor.up();
    let web = world.service("web", "one");
    let pids = world.pids();
    assert_eq!(world.says(&["down"]), (0, "everything is stopped\n".into(), String::new()));
    for pid in [Some(pids.supervisor), Some(pids.keeper)].into_iter().flatten() {
        assert!(!std::path::Path::new("/proc").join(pid.to_string()).exists(), "{pid} is left");
    }
    web.ended();
    assert_eq!(world.says(&["ps"]).0, 69);
    world.supervisor.stop();
    world.supervisor.up();
    let again = world.running("web");
    assert_eq!(again.id, "web.2");

    // Units of a directory that is not given any more are not waited for.
    world.ok(&["down"]);
    world.supervisor.stop();
    std::fs::rename(world.units(), world.dir.join("elsewhere")).unwrap();
    let elsewhere = world.dir.join("empty");
    std::fs::create_dir(&elsewhere).unwrap();
    let mut up = world.moored(&["up", "--units", elsewhere.to_str().unwrap()]);
    let mut anchor = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the supervisor", || world.run(&["ps"]).status.success().then_some(()));
    world.ok(&["sync"]);
    assert_eq!(world.ps(), [] as [Value; 0]);
    world.ok(&["down"]);
    assert!(end_of(&mut anchor, PATIENCE).unwrap().success());
}

#[test]
fn who_is_not_root_is_told_so() {
    let Some(world) = World::start("user") else { return };
    let Some(setpriv) = super::support::tool("setpriv") else { return };
    let as_nobody = |arguments: &[&str]| {
        let moored = world.moored(arguments);
        let mut command = std::process::Command::new(&setpriv);
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(moored.get_program())
            .args(moored.get_args());
        command.stdin(Stdio::null()).output().unwrap()
    };
    let (reads, starts) = (as_nobody(&["ps"]), as_nobody(&["up"]));
    if String::from_utf8_lossy(&reads.stderr).contains("setpriv") {
        return super::support::skip("nobody may not execute the binary where it was built");
    }
    let said = String::from_utf8_lossy(&reads.stderr).into_owned();
    assert!(reads.status.code() == Some(69) && said.contains("permission denied: need root"), "{said}");
    let said = String::from_utf8_lossy(&starts.stderr).into_owned();
    assert!(
        starts.status.code() == Some(1) && said.contains("`moored up` needs root") && said.contains("sudo moored up"),
        "{said}"
    );
}

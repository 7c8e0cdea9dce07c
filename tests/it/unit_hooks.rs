//! `[hooks]` of units: their order, where they run, what they are told, how they fail, and that each runs once whoever is killed meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::support::{is_alive, wait_for};
use super::world::{FOREVER, World, quoted};

/// In a container that has `/shared`.
const INSIDE: &str = "/shared";

/// A hook that runs a shell script.
fn hook(point: &str, script: &str, more: &str) -> String {
    format!("[hooks.{point}]\nexec = [\"/bin/sh\", \"-c\", {}]\n{more}\n", quoted(script))
}

/// Writes a line when it begins, waits for the file `go-NAME`, writes another at its end.
fn gated(dir: &str, name: &str) -> String {
    format!(
        "echo {name} begins >>{dir}/log; until [ -e {dir}/go-{name} ]; do sleep 0.02; done; echo {name} ends >>{dir}/log"
    )
}

impl World {
    /// `[[mount]]` of the shared directory.
    fn mount(&self) -> String {
        let shared = self.shared();
        format!("[[mount]]\nsource = \"{}\"\ntarget = \"/shared\"\nread_only = false\n", shared.display())
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.shared().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn wait_line(&self, line: &str) {
        wait_for(&format!("the line {line:?}"), || self.lines().iter().any(|found| found == line).then_some(()));
    }

    fn go(&self, name: &str) {
        fs::write(self.shared().join(format!("go-{name}")), "").unwrap();
    }

    /// Kills the supervisor and waits for the next.
    fn kill_supervisor(&self) {
        let before = self.pids().supervisor;
        self.kill9(before);
        wait_for("another supervisor", || {
            let there = self.run(&["status", "--json"]).status.success();
            (there && self.pids().supervisor != before).then_some(())
        });
    }
}

#[test]
fn inside_they_are_as_the_program_and_come_in_their_order() {
    let Some(world) = World::start("hooks-order") else { return };
    // Where each runs, as what, and with what.
    let who = "$(id -u) $(hostname) $(readlink /proc/self/ns/net) $A $MOORED_UNIT $MOORED_CONTAINER";
    let say = |name: &str, more: &str| format!("echo {name} {who} {more} >>{INSIDE}/log; echo {name} says so");
    let hooks = [
        hook("pre_start", &say("pre_start", "$$"), ""),
        hook("post_start", &say("post_start", ""), ""),
        hook("pre_stop", &say("pre_stop", "$MAINPID"), ""),
        hook("post_stop", &say("post_stop", "$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS $MOORED_REASON"), ""),
    ];
    let program =
        format!("echo program {who} >>{INSIDE}/log; trap 'echo TERM >>{INSIDE}/log; exit 7' TERM; sleep 1000 & wait");
    let user = "user = \"1234:1234\"\nenv = { A = \"b\" }";
    fs::set_permissions(world.shared(), fs::Permissions::from_mode(0o777)).unwrap();
    world.script("web", &program, &format!("{user}\n{}{}", hooks.concat(), world.mount()));
    wait_for("post_start", || world.lines().iter().any(|line| line.starts_with("post_start")).then_some(()));
    let web = world.running("web");
    world.ok(&["restart", "web"]);
    let again = world.replaced("web", &web);
    wait_for("post_start", || (world.lines().len() == 9).then_some(()));
    world.ok(&["stop", "web"]);
    let lines = world.lines();
    let first = |line: &String| line.split(' ').next().unwrap().to_owned();
    let life = ["pre_start", "program", "post_start", "pre_stop", "TERM", "post_stop"];
    // post_start and the program begin at the same time.
    let order = |lines: &[String]| {
        let mut names: Vec<String> = lines.iter().map(first).collect();
        names[1..3].sort_by_key(|name| life.iter().position(|known| known == name));
        names
    };
    assert_eq!(
        (order(&lines[..6]), order(&lines[6..])),
        (life.map(str::to_owned).to_vec(), life.map(str::to_owned).to_vec())
    );
    let of = |name: &str| lines.iter().find(|line| line.starts_with(name)).unwrap().clone();
    let program = of("program");
    let same = program.split_once(' ').unwrap().1;
    assert!(same.starts_with("1234 web net:["), "{program}");
    for name in ["pre_start", "post_start", "pre_stop"] {
        let words: Vec<String> = of(name).split(' ').skip(1).map(str::to_owned).collect();
        assert_eq!(words[..4].join(" "), same.split(' ').take(4).collect::<Vec<_>>().join(" "), "{name}");
        assert_eq!(words[4..6], ["web".to_owned(), web.id.clone()], "{name}");
    }
    let pid = web.pid.to_string();
    assert!(of("pre_stop").ends_with(&format!(" {pid}")), "the program as the host numbers it: {lines:?}");
    let end = of("post_stop");
    assert!(
        end.starts_with("post_stop 1234 web net:[") && end.ends_with(" exit-code exited 7 restart asked for"),
        "{end}"
    );
    assert!(lines[11].ends_with("exit-code exited 7 stopped by hand") && lines[11].contains(&again.id), "{lines:?}");
    let log = world.log("web");
    for name in ["pre_start", "post_start", "pre_stop", "post_stop"] {
        assert_eq!(log.matches(&format!("{name} says so")).count(), 2, "{log}");
    }
    let told = world.happened("web");
    assert_eq!(told.iter().filter(|(what, _)| what == "stopping").count(), 2, "{told:?}");
}

#[test]
fn on_the_host_they_are_roots_and_pre_start_comes_before_the_mounts() {
    let Some(world) = World::start("hooks-host") else { return };
    let (dir, data) = (world.shared(), world.dir.join("data"));
    let who = "$(id -u) $(readlink /proc/self/ns/mnt) $A $MOORED_UNIT";
    let say = |name: &str, more: &str| format!("echo {name} {who} {more} >>{}/log; echo {name} says so", dir.display());
    let host = "on = \"host\"";
    let make = format!("mkdir {}; {}", data.display(), say("pre_start", ""));
    let hooks = [
        hook("pre_start", &make, host),
        hook("post_start", &say("post_start", "$MAINPID"), host),
        hook("pre_stop", &say("pre_stop", ""), host),
        hook("post_stop", &format!("{}; rmdir {}", say("post_stop", "$SERVICE_RESULT"), data.display()), host),
    ];
    let mount = format!("[[mount]]\nsource = \"{}\"\ntarget = \"/data\"\n", data.display());
    world.script("web", FOREVER, &format!("user = \"1234\"\nenv = {{ A = \"b\" }}\n{}{mount}", hooks.concat()));
    wait_for("post_start", || (world.lines().len() == 2).then_some(()));
    let web = world.running("web");
    world.ok(&["stop", "web"]);
    let mine = fs::read_link("/proc/self/ns/mnt").unwrap();
    let same = format!("0 {} web", mine.display());
    let expected = [
        format!("pre_start {same}"),
        format!("post_start {same} {}", web.pid),
        format!("pre_stop {same}"),
        format!("post_stop {same} success"),
    ];
    assert_eq!(world.lines(), expected);
    assert!(!data.exists(), "what pre_start made, post_stop takes away");
    let log = world.log("web");
    for name in ["pre_start", "post_start", "pre_stop", "post_stop"] {
        assert!(log.contains(&format!("{name} says so")), "{log}");
    }
}

#[test]
fn failures_are_failed_starts_reasons_to_stop_and_words() {
    let Some(world) = World::start("hooks-fail") else { return };
    let mount = world.mount();
    let say_end =
        hook("post_stop", &format!("echo $MOORED_UNIT $SERVICE_RESULT:$EXIT_CODE $MOORED_REASON >>{INSIDE}/log"), "");
    let retry = "[restart]\npolicy = \"on-failure\"\ndelay = \"1h\"\nmax_delay = \"1h\"\n";
    let unit = |name: &str, hooks: &str| world.script(name, FOREVER, &format!("{retry}{hooks}{say_end}{mount}"));
    unit("fails", &hook("pre_start", "echo no; exit 3", ""));
    unit("hangs", &hook("pre_start", "sleep 1000", "timeout = \"1s\""));
    unit("host", &hook("pre_start", "exit 4", "on = \"host\""));
    unit("cold", &hook("post_start", "exit 5", ""));
    unit("none", "[hooks.pre_start]\nexec = [\"/bin/none\"]\n");
    for (name, why, result) in [
        ("fails", "hooks.pre_start: /bin/sh: exited with 3", "resources:"),
        ("hangs", "hooks.pre_start: /bin/sh: not done after 1 s, its timeout, and killed", "resources:"),
        ("host", "hooks.pre_start: /bin/sh: exited with 4", "resources:"),
        ("none", "hooks.pre_start: /bin/none: no such file or directory", "resources:"),
        ("cold", "unhealthy: post_start: exited with 5", "watchdog:exited"),
    ] {
        let row = world.wait_phase(name, &["backoff"]);
        assert!(row["reason"].as_str().unwrap().ends_with(why), "{row}");
        assert!(
            world.lines().iter().any(|line| line.starts_with(&format!("{name} {result} ")) && line.ends_with(why)),
            "{:?}",
            world.lines()
        );
        assert!(world.ok(&["why", name]).contains(why));
    }
    assert!(
        world.happened("fails").iter().any(|(what, text)| what == "start-failed" && text.ends_with("exited with 3"))
    );
    assert!(world.log("fails").contains("no\n"), "what it says is in the log");
    // What fails on the way down keeps nothing from going down.
    let hooks =
        [hook("pre_stop", "sleep 1000", "timeout = \"1s\""), hook("post_stop", "exit 6", "on = \"host\"")].concat();
    world.script("down", FOREVER, &hooks);
    world.running("down");
    world.ok(&["stop", "down"]);
    let told: Vec<String> =
        world.happened("down").into_iter().filter(|(what, _)| what == "hook-failed").map(|(_, text)| text).collect();
    let expected = [
        "pre_stop of down.1 failed: it took longer than 1 s and was killed",
        "post_stop of down.1 failed: exited with 6",
    ];
    assert_eq!(told, expected);
}

#[test]
fn each_runs_once_though_the_supervisor_is_killed_under_it() {
    let Some(world) = World::start("hooks-killed") else { return };
    let points = ["pre_start", "post_start", "pre_stop", "post_stop"];
    for (unit, on) in [("inside", "container"), ("outside", "host")] {
        let (dir, mount) = match on {
            "host" => (world.shared().display().to_string(), String::new()),
            _ => (INSIDE.to_owned(), world.mount()),
        };
        let on = format!("on = \"{on}\"");
        let hooks: String = points.map(|point| hook(point, &gated(&dir, &format!("{unit}-{point}")), &on)).concat();
        world.script(unit, FOREVER, &format!("{hooks}{mount}"));
    }
    let both = ["inside", "outside"];
    let begun = |point: &str| both.iter().for_each(|unit| world.wait_line(&format!("{unit}-{point} begins")));
    let go = |point: &str| both.iter().for_each(|unit| world.go(&format!("{unit}-{point}")));
    begun("pre_start");
    world.kill_supervisor();
    assert_eq!(world.find("inside").unwrap()["phase"], "starting");
    go("pre_start");
    begun("post_start");
    let running = both.map(|unit| world.running(unit));
    world.kill_supervisor();
    go("post_start");
    both.iter().for_each(|unit| world.wait_line(&format!("{unit}-post_start ends")));
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| world.run(&["stop", "inside", "outside"]));
        begun("pre_stop");
        world.wait_reason("inside", "its pre_stop hook runs");
        world.kill_supervisor();
        both.iter().for_each(|unit| drop(world.wait_reason(unit, "its pre_stop hook runs")));
        assert!(running.iter().all(|web| is_alive(web.pid as i32)), "nobody is signalled before");
        go("pre_stop");
        begun("post_stop");
        world.wait_reason("inside", "its post_stop hook runs");
        world.kill_supervisor();
        world.wait_reason("outside", "its post_stop hook runs");
        go("post_stop");
        stop.join().unwrap();
    });
    both.iter().for_each(|unit| drop(world.wait_phase(unit, &["stopped"])));
    let lines = world.lines();
    for unit in both {
        let of_unit: Vec<&String> = lines.iter().filter(|line| line.starts_with(unit)).collect();
        let expected: Vec<String> = points
            .iter()
            .flat_map(|point| [format!("{unit}-{point} begins"), format!("{unit}-{point} ends")])
            .collect();
        assert_eq!(of_unit, expected.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_start_that_is_stopped_takes_its_hook_along() {
    let Some(world) = World::start("hooks-stopped") else { return };
    let dir = world.shared();
    for on in ["container", "host"] {
        let pid = match on {
            "host" => format!("echo $$ >{}/pid.new; mv {0}/pid.new {0}/host", dir.display()),
            _ => format!("touch {INSIDE}/container"),
        };
        let hooks = hook("pre_start", &format!("{pid}; sleep 1000 & wait"), &format!("on = \"{on}\""));
        world.script(on, FOREVER, &format!("{hooks}{}", world.mount()));
        wait_for("the hook", || Path::new(&dir.join(on)).exists().then_some(()));
        world.ok(&["stop", on]);
        let row = world.wait_phase(on, &["stopped"]);
        assert_eq!(row["restarts"], 0, "{row}");
    }
    let pid: i32 = fs::read_to_string(dir.join("host")).unwrap().trim().parse().unwrap();
    wait_for("the end of the hook on the host", || (!is_alive(pid)).then_some(()));
}

#[test]
fn a_program_that_others_can_write_is_not_run_on_the_host() {
    let Some(world) = World::start("hooks-trust") else { return };
    let program = world.dir.join("open");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
    let hooks = format!("[hooks.post_stop]\nexec = [\"{}\"]\non = \"host\"\n", program.display());
    world.script("web", FOREVER, &format!("[restart]\npolicy = \"never\"\n{hooks}"));
    let row = world.wait_phase("web", &["failed"]);
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("hooks.post_stop.exec") && reason.contains("open"), "{reason}");
}

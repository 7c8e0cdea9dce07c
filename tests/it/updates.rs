//! Updates that turn out to be bad: the earlier text comes back by itself, once, whoever dies meanwhile; the file is left as it is.

use std::fs;

use serde_json::Value;

use super::support::wait_for;
use super::world::{FOREVER, Running, World};

/// It has done well as soon as it runs.
const AT_ONCE: &str = "[update]\nmin_healthy = \"0s\"\n";
/// It is never done with its trial.
const LONG: &str = "[update]\nmin_healthy = \"1h\"\ndeadline = \"1h\"\n";

impl World {
    fn told(&self, unit: &str, what: &str) -> Vec<String> {
        self.happened(unit).into_iter().filter(|(kind, _)| kind == what).map(|(_, text)| text).collect()
    }

    fn update(&self, unit: &str, script: &str, tables: &str) {
        self.unit(unit, &self.text("", script, tables));
    }

    /// A text that has done well.
    fn proven(&self, unit: &str) -> Running {
        self.update(unit, FOREVER, AT_ONCE);
        self.running(unit)
    }

    /// Waits until the text of `old` runs again in another container than this.
    fn rolled_back(&self, unit: &str, old: &Running, why: &str) -> Running {
        let row = self.wait_unit(unit, "rolled back", |row| {
            row["phase"] == "running"
                && row["id"] != old.id.as_str()
                && row["drift"].as_str().is_some_and(|drift| drift.contains("rolled back"))
        });
        let told = self.told(unit, "rolled-back");
        assert!(told.len() == 1 && told[0].contains(why), "{told:?}");
        Running::of(&row)
    }
}

/// Its trial goes on when it is started.
#[test]
fn sync_does_not_wait_for_the_trial_of_a_unit_that_is_stopped() {
    let Some(world) = World::start("update-stopped") else { return };
    world.proven("web");
    world.update("web", &format!(": new; {FOREVER}"), LONG);
    world.wait_unit("web", "on trial", |row| {
        row["reason"].as_str().is_some_and(|reason| reason.contains("the new text is on trial"))
    });
    world.ok(&["stop", "web"]);
    assert_eq!(world.says(&["sync", "web", "--timeout", "10s"]).0, 0);
    world.ok(&["start", "web"]);
    assert_eq!(world.says(&["sync", "web", "--timeout", "100ms"]).0, 3, "it is being tried again");
}

#[test]
fn an_update_that_turns_unhealthy_goes_back_once_and_is_not_taken_again_before_it_changes() {
    let Some(mut world) = World::start("update-health") else { return };
    let old = world.proven("web");
    let shared = world.shared();
    fs::write(shared.join("alive"), "").unwrap();
    let checked = format!(
        "[[mount]]\nsource = \"{}\"\ntarget = \"/shared\"\n[health.liveness]\nfile = \"/shared/alive\"\ninterval = \"20ms\"\n{LONG}",
        shared.display()
    );
    world.update("web", &format!(": new; {FOREVER}"), &checked);
    let row = world.wait_phase("web", &["ready"]);
    assert!(row["reason"].as_str().unwrap().contains("the new text is on trial"), "{row}");
    let (code, _, _) = world.says(&["sync", "web", "--timeout", "100ms"]);
    assert_eq!(code, 3, "whether it does well is not known yet");
    fs::remove_file(shared.join("alive")).unwrap();
    let back = world.rolled_back("web", &Running::of(&row), "liveness failed 3 times in a row");
    assert_ne!(back, old);
    let on_disk = fs::read_to_string(world.units().join("web.toml")).unwrap();
    assert!(on_disk.contains(": new;"), "the file is left alone");
    let (code, out, _) = world.says(&["sync", "web"]);
    assert!(code == 2 && out.contains("rolled back: code 0, unhealthy: liveness failed"), "{code} {out}");
    assert!(world.ok(&["why", "web"]).contains("rolled back to the earlier text"), "{}", world.ok(&["why", "web"]));
    // Whatever becomes of the earlier one, this is the end of it; and everything is remembered.
    world.kill9(world.pids().supervisor);
    world.kept("web", &back, "the supervisor died");
    world.ok(&["kill", "-s", "KILL", "web"]);
    let again = world.replaced("web", &back);
    assert_eq!(world.told("web", "rolled-back").len(), 1);
    world.supervisor.stop();
    fs::remove_dir_all(world.dir.join("run")).unwrap();
    world.supervisor.up();
    let row = world.wait_phase("web", &["running"]);
    assert!(row["drift"].as_str().is_some_and(|drift| drift.contains("rolled back")), "after a reboot: {row}");
    assert_ne!(Running::of(&row), again);
    // A touch changes nothing, a word does.
    world.unit("web", &on_disk);
    let row = world.find("web").unwrap();
    world.kept("web", &Running::of(&row), "the same text");
    fs::write(shared.join("alive"), "").unwrap();
    world.unit(
        "web",
        &on_disk.replace(": new;", ": newer;").replace("\"1h\"", "\"0s\"").replace("deadline = \"0s\"", ""),
    );
    world.wait_unit("web", "taken", |row| row["phase"] == "ready" && row["drift"].is_null());
    assert_eq!(world.says(&["sync", "web"]).0, 0);
}

#[test]
fn whatever_is_bad_about_a_text_on_trial_brings_the_earlier_one_back() {
    let Some(world) = World::start("update-bad") else { return };
    let readiness = "[health.readiness]\nfile = \"/none\"\ninterval = \"20ms\"\n";
    // Long enough for a check, whatever else the machine has to do.
    let soon = "[update]\nmin_healthy = \"10ms\"\ndeadline = \"2s\"\n";
    for (unit, script, tables, why) in [
        ("ends", "exit 3", LONG.to_owned(), "code 3"),
        ("done", "exit 0", LONG.to_owned(), "code 0"),
        ("startless", "exit 0", format!("user = \"ghost\"\n{LONG}"), "start failed"),
        (
            "late",
            "sleep 1000",
            format!("{readiness}{soon}"),
            "not well within 2s: readiness does not pass: /none is not there",
        ),
    ] {
        let old = world.proven(unit);
        world.update(unit, script, &tables);
        world.rolled_back(unit, &old, why);
        let (code, out, _) = world.says(&["sync", unit]);
        assert!(code == 2 && out.contains(why), "{code} {out}");
    }
}

#[test]
fn a_text_that_did_well_stays_and_one_that_was_never_good_has_none_to_go_back_to() {
    let Some(world) = World::start("update-good") else { return };
    let old = world.proven("web");
    world.update("web", "trap 'exit 7' USR1; sleep 1000 & wait", "[update]\nmin_healthy = \"200ms\"\n");
    assert_eq!(world.says(&["sync", "web"]).0, 0, "sync waits for the end of the trial");
    let new = world.running("web");
    assert_ne!(new, old);
    world.ok(&["kill", "-s", "USR1", "web"]);
    world.replaced("web", &new);
    assert!(world.told("web", "rolled-back").is_empty(), "what did well is not on trial any more");
    world.update("first", "exit 1", LONG);
    world.wait_unit("first", "tried again", |row| row["restarts"].as_u64().is_some_and(|restarts| restarts > 1));
    world.update("first", "exit 2", LONG);
    world.wait_unit("first", "tried again", |row| row["exit"] == "code 2" && row["phase"] == "backoff");
    assert!(world.told("first", "rolled-back").is_empty());
}

#[test]
fn where_data_may_have_migrated_the_new_text_is_tried_on_unless_the_unit_says_otherwise() {
    let Some(world) = World::start("update-data") else { return };
    let mount =
        format!("[[mount]]\nsource = \"{}\"\ntarget = \"/data\"\nread_only = false\n", world.shared().display());
    for (unit, on_bad) in [("retry", ""), ("stay", "on_bad = \"stay-failed\"\n"), ("back", "on_bad = \"rollback\"\n")] {
        world.update(unit, FOREVER, &format!("{mount}{AT_ONCE}"));
        let old = world.running(unit);
        world.update(unit, "exit 1", &format!("{mount}{LONG}{on_bad}"));
        match unit {
            "retry" => drop(world.wait_unit(unit, "tried again", |row| {
                row["restarts"].as_u64().is_some_and(|restarts| restarts > 1) && row["drift"].is_null()
            })),
            "stay" => {
                let row = world.wait_phase(unit, &["failed"]);
                assert_eq!(row["restarts"], 0, "{row}");
            }
            _ => drop(world.rolled_back(unit, &old, "code 1")),
        }
    }
}

fn is_on_trial(row: &Value) -> bool {
    row["phase"] == "running" && row["reason"].as_str().is_some_and(|reason| reason.contains("on trial"))
}

#[test]
fn a_trial_goes_on_after_a_reboot_and_after_a_supervisor_that_dies_in_it() {
    let Some(mut world) = World::start("update-reboot") else { return };
    world.proven("web");
    // Ends well after whoever is to die has died.
    let flag = world.shared().join("bad");
    let mount = format!("[[mount]]\nsource = \"{}\"\ntarget = \"/shared\"\n", world.shared().display());
    world.update("web", "while [ ! -e /shared/bad ]; do sleep 0.05; done; exit 9", &format!("{mount}{LONG}"));
    let new = Running::of(&world.wait_unit("web", "on trial", is_on_trial));
    world.kill9(world.pids().supervisor);
    world.wait_unit("web", "still on trial", |row| is_on_trial(row) && Running::of(row) == new);
    world.supervisor.stop();
    fs::remove_dir_all(world.dir.join("run")).unwrap();
    world.supervisor.up();
    let new = Running::of(&world.wait_unit("web", "on trial", is_on_trial));
    fs::write(&flag, "").unwrap();
    world.rolled_back("web", &new, "code 9");
    wait_for("the earlier text", || world.ok(&["status", "web"]).contains("rolled back").then_some(()));
}

/// The earlier text comes back as the whole that did well: with the contents that its files had then.
#[test]
fn what_comes_back_has_the_files_that_it_did_well_with() {
    let Some(mut world) = World::start("update-files") else { return };
    let write = |world: &World, name: &str, text: &str| fs::write(world.dir.join(name), text).unwrap();
    for (name, text) in [("a.conf", "one"), ("b.conf", "two"), ("a.env", "V=env-one\n"), ("b.env", "V=env-two\n")] {
        write(&world, name, text);
    }
    let files = |letter: &str| {
        format!("env_file = \"../{letter}.env\"\n[[config]]\nsource = \"../{letter}.conf\"\ntarget = \"/app.conf\"\n")
    };
    let runs = |world: &World, what: &str| world.log("web").matches(&format!("saw {what}\n")).count();
    world.update("web", &format!("echo \"saw $(cat /app.conf) $V\"; {FOREVER}"), &format!("{}{AT_ONCE}", files("a")));
    let old = world.running("web");
    world.wait_log("web", "saw one env-one");

    let bad = format!("{}[restart]\nlimit = {{ burst = 1, interval = \"1h\" }}\n{LONG}", files("b"));
    world.update("web", "echo \"saw $(cat /app.conf) $V\"; exit 3", &bad);
    let back = world.rolled_back("web", &old, "");
    wait_for("the earlier text with its files", || (runs(&world, "one env-one") == 2).then_some(()));
    assert!(runs(&world, "two env-two") >= 1, "{}", world.log("web"));

    // Also when its own files changed meanwhile, or nobody has them any more: nothing on disk names them.
    write(&world, "a.conf", "three");
    fs::remove_file(world.dir.join("a.env")).unwrap();
    world.kept("web", &back, "the text on disk does not name these");
    assert!(world.supervisor.stop().success());
    fs::remove_dir_all(world.dir.join("run")).unwrap();
    world.supervisor.up();
    wait_for("the same after a reboot", || (runs(&world, "one env-one") == 3).then_some(()));

    // Other contents of the bad one's files are another try of it.
    let tries = runs(&world, "two env-two");
    write(&world, "b.conf", "four");
    wait_for("another try", || (runs(&world, "four env-two") >= 1).then_some(()));
    wait_for("the way back", || (runs(&world, "one env-one") == 4).then_some(()));
    assert_eq!(runs(&world, "two env-two"), tries);
}

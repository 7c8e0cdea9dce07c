//! Start-first updates: the old container runs untouched until the new one beside it has done well, whoever dies meanwhile.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::support::{is_alive, wait_for};
use super::world::{FOREVER, Running, World};

/// It says in the shared directory that it is there, and ends within its stop timeout.
pub fn serving(name: &str) -> String {
    format!("touch /shared/up-{name}; trap 'rm /shared/up-{name}; exit 0' TERM; sleep 1000 & wait; wait")
}

impl World {
    /// A unit that is updated start-first: `ready` is a file of the shared directory that says that it is well.
    pub fn start_first(&self, unit: &str, script: &str, ready: Option<&str>, update: &str) {
        let shared = self.shared();
        let mount = format!("[[mount]]\nsource = \"{}\"\ntarget = \"/shared\"\nread_only = false\n", shared.display());
        let health = ready.map_or(String::new(), |file| {
            format!("[health.readiness]\nfile = \"/shared/{file}\"\ninterval = \"20ms\"\nfailures = 1\n")
        });
        let tables = format!("{mount}{health}[update]\norder = \"start-first\"\n{update}\n");
        self.unit(unit, &self.text("", script, &tables));
    }

    fn up(&self, file: &str) -> bool {
        self.shared().join(file).exists()
    }

    /// Waits until another container runs beside the unit's.
    pub fn beside(&self, unit: &str) -> Running {
        let row = self.wait_unit(unit, "with one beside it", |row| row["beside"]["pid"].is_i64());
        Running::of(&row["beside"])
    }

    /// Waits until this container is the unit's and the one before is gone.
    pub fn taken_over(&self, unit: &str, new: &Running) {
        let is_alone = |row: &Value| row["id"] == new.id.as_str() && row["beside"].is_null();
        self.wait_unit(unit, "taken over", is_alone);
    }

    fn alone(&self, unit: &str, running: &Running) {
        let row = self.wait_unit(unit, "alone", |row| row["beside"].is_null());
        assert_eq!(Running::of(&row), *running, "{row}\n{}", self.output());
    }

    pub fn count(&self, unit: &str, what: &str) -> usize {
        self.happened(unit).iter().filter(|(kind, _)| kind == what).count()
    }
}

pub const AT_ONCE: &str = "min_healthy = \"0s\"\non_bad = \"rollback\"";

#[test]
fn the_old_one_runs_until_the_new_one_has_done_well_and_one_of_them_is_always_there() {
    let Some(world) = World::start("first-good") else { return };
    world.start_first("web", &serving("old"), Some("up-old"), AT_ONCE);
    let old = Running::of(&world.wait_phase("web", &["ready"]));
    world.start_first("web", &serving("new"), Some("well"), AT_ONCE);
    let new = world.beside("web");
    wait_for("the new one", || world.up("up-new").then_some(()));
    let row = world.find("web").unwrap();
    assert_eq!(Running::of(&row), old);
    assert_eq!(row["phase"], "ready", "by its own checks: {row}");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("{} beside it is to take over: readiness", new.id)), "{reason}");
    assert!(world.ok(&["status", "web"]).contains(&format!("Beside: {}, pid {}", new.id, new.pid)));
    assert_eq!(world.says(&["sync", "web", "--timeout", "100ms"]).0, 3, "it is not known yet how it does");
    assert!(world.up("up-old") && is_alive(old.pid as i32));
    fs::write(world.shared().join("well"), "").unwrap();
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    world.taken_over("web", &new);
    assert!(!world.up("up-old") && world.up("up-new") && !is_alive(old.pid as i32));
    assert_eq!(world.count("web", "took-over"), 1);
    let why = world.ok(&["why", "web"]);
    assert!(why.contains("changed: ") && why.contains("takes over"), "{why}");
    // A restart goes the same way.
    let (code, out, err) = world.says(&["restart", "web"]);
    assert_eq!(code, 0, "{out}{err}");
    let again = Running::of(&world.wait_unit("web", "restarted", |row| row["id"] != new.id.as_str()));
    world.taken_over("web", &again);
    assert_eq!(world.count("web", "took-over"), 2);
}

#[test]
fn a_bad_text_never_touches_the_container_that_runs() {
    let Some(world) = World::start("first-bad") else { return };
    for (unit, script, ready, update, why) in [
        ("ends", "exit 3", None, "min_healthy = \"1h\"\ndeadline = \"1h\"", "code 3"),
        ("done", "exit 0", None, "min_healthy = \"1h\"\ndeadline = \"1h\"", "code 0"),
        ("late", "sleep 1000", Some("none"), "min_healthy = \"10ms\"\ndeadline = \"300ms\"", "not well within 300ms"),
    ] {
        world.start_first(unit, &serving(unit), None, AT_ONCE);
        let old = world.running(unit);
        world.start_first(unit, script, ready, &format!("{update}\non_bad = \"rollback\""));
        let row = world.wait_unit(unit, "rolled back", |row| {
            row["drift"].as_str().is_some_and(|drift| drift.contains("rolled back")) && row["beside"].is_null()
        });
        assert_eq!(Running::of(&row), old, "{row}");
        assert_eq!(world.count(unit, "rolled-back"), 1);
        let (code, out, _) = world.says(&["sync", unit]);
        assert!(code == 2 && out.contains(why), "{code} {out}");
        assert!(is_alive(old.pid as i32) && world.up(&format!("up-{unit}")));
    }
    world.start_first("stay", &serving("stay"), None, AT_ONCE);
    let old = world.running("stay");
    world.start_first("stay", "exit 4", None, "min_healthy = \"1h\"\ndeadline = \"1h\"\non_bad = \"stay-failed\"");
    world.wait_reason("stay", "runs on with its old container; the new one: last exit: code 4");
    world.alone("stay", &old);
    assert_eq!(world.says(&["sync", "stay"]).0, 2);
    // With `retry`, the default where it writes, until one does well.
    let retry = "[ -e /shared/cure ] || exit 5; touch /shared/up-retry; trap 'exit 0' TERM; sleep 1000 & wait";
    world.start_first("retry", &serving("retry"), None, "min_healthy = \"0s\"");
    let old = world.running("retry");
    world.start_first("retry", retry, None, "min_healthy = \"300ms\"");
    world.wait_unit("retry", "tried again", |row| row["restarts"].as_u64().is_some_and(|restarts| restarts > 1));
    assert_eq!(Running::of(&world.find("retry").unwrap()), old);
    fs::write(world.shared().join("cure"), "").unwrap();
    let row = world.wait_unit("retry", "cured", |row| row["id"] != old.id.as_str() && row["beside"].is_null());
    assert_eq!(row["phase"], "running", "{row}");
}

/// All that says of itself that it is there.
fn ups(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter(|name| name.to_string_lossy().starts_with("up-")).count()
}

#[test]
fn both_come_back_in_their_roles_whoever_dies_and_go_together_when_the_unit_stops() {
    let Some(world) = World::start("first-killed") else { return };
    world.start_first("web", &serving("old"), None, AT_ONCE);
    let old = world.running("web");
    world.start_first("web", &serving("new"), Some("well"), AT_ONCE);
    let new = world.beside("web");
    let both = |row: &Value| Running::of(row) == old && Running::of(&row["beside"]) == new;
    world.kill9(world.pids().supervisor);
    world.wait_unit("web", "both, after the supervisor died", both);
    world.kill9(world.pids().keeper);
    world.wait_unit("web", "both, after the keeper died", both);
    // Another edit: the one that comes is another one.
    world.start_first("web", &serving("newer"), Some("well"), AT_ONCE);
    let newer = world.wait_unit("web", "with a newer one beside it", |row| {
        Running::of(row) == old && row["beside"]["pid"].is_i64() && row["beside"]["id"] != new.id.as_str()
    });
    let newer = Running::of(&newer["beside"]);
    assert!(!is_alive(new.pid as i32));
    wait_for("the newer one", || world.up("up-newer").then_some(()));
    fs::write(world.shared().join("well"), "").unwrap();
    world.wait_unit("web", "taken over", |row| row["id"] == newer.id.as_str());
    world.kill9(world.pids().supervisor);
    world.taken_over("web", &newer);
    assert_eq!(ups(&world.shared()), 1);
    // The old one ends by itself: the new one is the unit's at once.
    world.start_first("web", &serving("third"), Some("later"), AT_ONCE);
    let third = world.beside("web");
    world.ok(&["kill", "-s", "KILL", "web"]);
    world.taken_over("web", &third);
    // A stop stops both.
    fs::write(world.shared().join("later"), "").unwrap();
    world.wait_phase("web", &["ready"]);
    world.start_first("web", &serving("last"), Some("never"), AT_ONCE);
    let last = world.beside("web");
    world.ok(&["stop", "web"]);
    assert!(!is_alive(third.pid as i32) && !is_alive(last.pid as i32));
    assert!(world.find("web").unwrap()["beside"].is_null());
}

#[test]
fn a_plan_says_how_and_dependents_are_not_lost() {
    let Some(world) = World::start("first-plan") else { return };
    world.start_first("db", &serving("old"), None, AT_ONCE);
    let old = world.running("db");
    let top = |on_loss: &str| format!("depends_on.db = {{ on_loss = \"{on_loss}\" }}");
    world.unit("stops", &world.text(&top("stop"), FOREVER, ""));
    world.unit("restarts", &world.text(&top("restart"), FOREVER, ""));
    let (stops, restarts) = (world.running("stops"), world.running("restarts"));
    let text = fs::read_to_string(world.units().join("db.toml")).unwrap().replace("up-old", "up-new");
    let other = world.dir.join("other");
    fs::create_dir_all(&other).unwrap();
    for file in fs::read_dir(world.units()).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
    }
    fs::write(other.join("db.toml"), &text).unwrap();
    let plan = world.ok(&["plan", "--units", &other.display().to_string()]);
    let how = "start-first: the new one runs beside the old one until it has done well";
    assert!(plan.contains(how) && plan.contains("restarts") && !plan.contains("stops"), "{plan}");
    world.unit("db", &text);
    world.wait_unit("db", "taken over", |row| row["id"] != old.id.as_str() && row["beside"].is_null());
    world.replaced("restarts", &restarts);
    world.kept("stops", &stops, "its dependency was always there");
}

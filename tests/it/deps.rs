//! Dependencies, conditions and what starts when a unit fails (DESIGN §7): who waits for whom, in which order all stops, and that no edit of
//! it touches a container.

use std::fs;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::support::wait_for;
use super::world::{FOREVER, Running, World};

/// Appends a line to `/data/order` at its start and at its end. It says "up" and runs until TERM.
fn noted(name: &str) -> String {
    format!("echo {name} >> /data/order; trap 'echo {name} ends >> /data/order; exit 0' TERM; sleep 1000 & wait")
}

impl World {
    /// A unit that writes down when it starts and ends.
    fn noting(&self, name: &str, top: &str) {
        let mount =
            format!("[[mount]]\nsource = \"{}\"\ntarget = \"/data\"\nread_only = false\n", self.shared().display());
        self.unit(name, &self.text(top, &noted(name), &mount));
    }

    fn order(&self) -> Vec<String> {
        fs::read_to_string(self.shared().join("order")).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_unit_waits_for_its_dependencies_says_so_and_all_stops_in_reverse_order() {
    let Some(mut world) = World::start("deps") else { return };
    world.noting("web", "depends_on = { db = \"started\", migrate = \"completed\" }");
    world.wait_reason("web", "waits for db (started; no such unit), migrate (completed; no such unit)");
    assert_eq!(world.find("web").unwrap()["phase"], "waiting");
    let (code, out, _) = world.says(&["sync", "web"]);
    assert!(code == 2 && out.contains("waits for db"), "it does not come by itself: {code} {out}");
    world.noting("db", "enabled = false");
    world.wait_reason("web", "db (started; not enabled)");
    world.noting("db", "");
    world.running("db");
    world.wait_reason("web", "waits for migrate (completed; no such unit)");
    assert!(world.order().is_empty() || world.order() == ["db"], "{:?}", world.order());
    world.unit("migrate", &world.text("type = \"oneshot\"\ndepends_on.db = {}", "exit 3", ""));
    world.wait_reason("web", "waits for migrate (completed; it has failed)");
    world.unit("migrate", &world.text("type = \"oneshot\"\ndepends_on.db = {}", "exit 0", ""));
    world.running("web");
    wait_for("both to be noted", || (world.order() == ["db", "web"]).then_some(()));
    world.supervisor.stop();
    assert_eq!(world.order(), ["db", "web", "web ends", "db ends"]);
}

#[test]
fn dependents_stay_up_unless_on_loss_says_otherwise() {
    let Some(world) = World::start("loss") else { return };
    let db = world.service("db", "one");
    let dependent = |name: &str, on_loss: &str| {
        let top = format!("depends_on = {{ db = {{ on_loss = \"{on_loss}\" }} }}");
        world.unit(name, &world.text(&top, FOREVER, ""));
        world.running(name)
    };
    let (keeps, stops, restarts) =
        (dependent("keeps", "keep"), dependent("stops", "stop"), dependent("restarts", "restart"));
    world.unit("db", &world.service_text("two"));
    let db = world.replaced("db", &db);
    world.replaced("stops", &stops);
    let restarts = world.replaced("restarts", &restarts);
    world.kept("keeps", &keeps, "its dependency was only updated");

    let stops = world.running("stops");
    world.ok(&["stop", "db"]);
    db.ended();
    world.wait_reason("stops", "waits for db (started; stopped by hand)");
    stops.ended();
    world.kept("keeps", &keeps, "its dependency was only stopped");
    world.kept("restarts", &restarts, "its dependency is not there again");
    world.ok(&["start", "db"]);
    world.running("stops");
    world.replaced("restarts", &restarts);
    world.kept("keeps", &keeps, "its dependency is there again");
}

#[test]
fn an_edit_of_dependencies_and_conditions_keeps_the_pid_also_across_a_crash() {
    let Some(world) = World::start("live-deps") else { return };
    let web = world.service("web", "one");
    let text = |top: &str| world.text(top, &format!(": one; {FOREVER}"), "");
    for top in [
        "depends_on = { db = \"started\" }",
        "depends_on = { db = { on_loss = \"stop\" } }",
        "depends_on = { db = { on_loss = \"restart\" } }",
        "on_failure = [\"alert\"]",
        "condition.path_exists = \"/nowhere\"",
    ] {
        world.unit("web", &text(top));
        world.kept("web", &web, top);
    }
    // It comes for the first time: that is no loss, and from here on it is relied on.
    world.unit("web", &text("depends_on = { db = { on_loss = \"stop\" } }"));
    let db = world.service("db", "one");
    world.kept("web", &web, "its dependency has come");
    let supervisor = world.pids().supervisor;
    world.kill9(supervisor);
    world.wait_phase("web", &["running"]);
    world.kept("web", &web, "a crash loses nothing");
    world.ok(&["stop", "db"]);
    db.ended();
    world.wait_reason("web", "waits for db (started; stopped by hand)");
}

#[test]
fn a_ring_is_refused_by_name_and_what_runs_is_left_alone() {
    let Some(world) = World::start("ring") else { return };
    let a = world.service("a", "one");
    for (name, other) in [("b", "c"), ("a", "b"), ("c", "a")] {
        world.unit(name, &world.text(&format!("depends_on.{other} = \"started\""), &format!(": one; {FOREVER}"), ""));
        world.run(&["sync", name]);
    }
    let row = world.wait_reason("b", "waits for itself: b -> c -> a -> b");
    assert_eq!(row["phase"], "failed", "{row}");
    world.wait_reason("c", "waits for itself: c -> a -> b -> c");
    world.kept("a", &a, "it runs already");
    world.unit("c", &world.service_text("c"));
    world.running("b");
}

#[test]
fn an_optional_dependency_is_waited_for_only_while_it_is_on_its_way() {
    let Some(world) = World::start("optional") else { return };
    world.noting("web", "depends_on = { cache = { optional = true } }");
    let web = world.running("web");
    world.unit(
        "first",
        &world.text(
            "type = \"oneshot\"",
            "until [ -e /data/go ]; do sleep 0.01; done",
            &format!("[[mount]]\nsource = \"{}\"\ntarget = \"/data\"\n", world.shared().display()),
        ),
    );
    world.running("first");
    world.unit(
        "second",
        &world.text("depends_on = { first = { state = \"completed\", optional = true } }", FOREVER, ""),
    );
    world.wait_reason("second", "waits for first (completed)");
    fs::write(world.shared().join("go"), "").unwrap();
    world.running("second");
    world.kept("web", &web, "nothing concerns it");
}

#[test]
fn on_failure_starts_a_unit_once_when_another_fails_for_good() {
    let Some(world) = World::start("failure") else { return };
    world.unit(
        "alert",
        &world.text(
            "type = \"oneshot\"\nenabled = false",
            "echo alert >> /data/order",
            &format!("[[mount]]\nsource = \"{}\"\ntarget = \"/data\"\nread_only = false\n", world.shared().display()),
        ),
    );
    world.wait_phase("alert", &["stopped"]);
    let limit = "[restart]\ndelay = \"1ms\"\nlimit = { burst = 2, interval = \"1h\" }\n";
    world.unit("web", &world.text("on_failure = [\"alert\"]", "exit 1", limit));
    world.wait_reason("web", "gave up: 2 starts");
    wait_for("the alert", || (world.order() == ["alert"]).then_some(()));
    world.wait_unit("alert", "at rest", |row| row["pid"].is_null());
    world.kill9(world.pids().supervisor);
    world.wait_reason("web", "gave up: 2 starts");
    assert_eq!(world.order(), ["alert"], "once");
    world.run(&["start", "web"]);
    world.wait_reason("web", "gave up");
    wait_for("the second alert", || (world.order() == ["alert", "alert"]).then_some(()));
}

#[test]
fn a_condition_holds_the_start_until_the_host_meets_it_and_stops_nothing() {
    let Some(world) = World::start("condition") else { return };
    let flag = world.dir.join("deep/er/flag");
    let top = format!("condition.path_exists = \"{}\"", flag.display());
    world.unit("web", &world.text(&top, FOREVER, ""));
    world.wait_reason("web", &format!("waits for {} to exist", flag.display()));
    assert_eq!(world.says(&["sync", "web"]).0, 2);
    fs::create_dir_all(flag.parent().unwrap()).unwrap();
    fs::write(&flag, "").unwrap();
    let web = world.running("web");
    fs::remove_file(&flag).unwrap();
    world.unit("kernel", &world.text("condition.kernel_cmdline = \"moored.never=1\"", FOREVER, ""));
    world.wait_reason("kernel", "the kernel's command line has no `moored.never=1`");
    assert_eq!(world.find("kernel").unwrap()["phase"], "stopped");
    world.kept("web", &web, "a condition that ceases to hold stops nothing");
    world.run(&["restart", "web"]);
    world.wait_reason("web", "to exist");
    let word = fs::read_to_string("/proc/cmdline").unwrap();
    if let Some(word) = word.split_whitespace().find(|word| !word.contains(['"', '%', '!'])) {
        world.unit("kernel", &world.text(&format!("condition.kernel_cmdline = \"{word}\""), FOREVER, ""));
        world.running("kernel");
    }
}

#[test]
fn a_database_whose_disk_is_not_mounted_waits_and_leaves_the_bare_directory_alone() {
    let Some(world) = World::start("mountpoint") else { return };
    let disk = world.dir.join("disk");
    fs::create_dir(&disk).unwrap();
    let tables = format!(
        "[[mount]]\nsource = \"{}\"\ntarget = \"/data\"\nread_only = false\nrequire_mountpoint = true\n",
        disk.display()
    );
    world.script("db", &format!("echo init > /data/init; {FOREVER}"), &tables);
    world.wait_reason("db", &format!("waits for {} to be a mount point", disk.display()));
    mount("moored-test", &disk, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
    let db = world.running("db");
    wait_for("its data", || disk.join("init").exists().then_some(()));
    unmount(&disk, UnmountFlags::DETACH).unwrap();
    assert_eq!(fs::read_dir(&disk).unwrap().count(), 0, "nothing was written below the disk");
    world.kept("db", &db, "an unmounted disk stops nothing");
    world.run(&["restart", "db"]);
    world.wait_reason("db", "to be a mount point");
    assert_eq!(fs::read_dir(&disk).unwrap().count(), 0);
    mount("moored-test", &disk, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
    world.replaced("db", &Running { id: db.id, pid: db.pid });
}

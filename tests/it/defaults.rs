//! `[defaults]` of moored.toml: below every unit, followed as units are.

use std::fs;

use super::support::wait_for;
use super::world::{FOREVER, World};

impl World {
    fn defaults(&self, text: &str) {
        fs::write(self.dir.join(".moored.toml"), text).unwrap();
        fs::rename(self.dir.join(".moored.toml"), self.dir.join("moored.toml")).unwrap();
    }

    /// A unit that prints a variable.
    fn shows(&self, name: &str, keys: &str, tables: &str) {
        self.unit(name, &self.text(keys, &format!("echo \"A=$A\"; {FOREVER}"), tables));
    }
}

#[test]
fn defaults_are_below_every_unit_and_a_change_counts_by_what_it_changes() {
    let Some(mut world) = World::prepare("defaults") else { return };
    world.defaults("[defaults]\nprocess.env.A = \"all\"\nreload.signal = \"SIGHUP\"\n");
    world.shows("plain", "", "");
    world.shows("own", "", "env.A = \"own\"\n[reload]\nexec = [\"/bin/true\"]\n");
    world.supervisor.up();
    let (plain, own) = (world.running("plain"), world.running("own"));
    assert_eq!(plain.id, "plain.1", "moored.toml is read before anything starts");
    world.wait_log("plain", "A=all");
    world.wait_log("own", "A=own");
    assert!(world.ok(&["cat", "plain"]).contains("moored.toml:2"), "{}", world.ok(&["cat", "plain"]));

    // Live for both, then another environment for one of them.
    world.defaults("[defaults]\nprocess.env.A = \"all\"\n[defaults.resources]\nmemory = \"64M\"\n");
    for (unit, running) in [("plain", &plain), ("own", &own)] {
        wait_for("the limit", || world.ok(&["status", unit]).contains(" of 64M").then_some(()));
        world.kept(unit, running, "a limit is live");
    }
    world.defaults("[defaults]\nprocess.env.A = \"other\"\n[defaults.resources]\nmemory = \"64M\"\n");
    let plain = world.replaced("plain", &plain);
    world.wait_log("plain", "A=other");
    world.kept("own", &own, "it says the variable itself");

    // Broken: it changes nothing, is said everywhere, and units go on with the defaults before.
    world.defaults("[defaults]\nprocess.env.A = \"new\"\nbundle = \"/b\"\n[zebra]\n");
    wait_for("a note", || world.ok(&["ps"]).contains("moored.toml:3:1 `bundle` in [defaults]").then_some(()));
    assert!(world.ok(&["status"]).contains("moored.toml:4:2 unknown key `zebra`"), "{}", world.ok(&["status"]));
    let (code, said, _) = world.says(&["sync"]);
    assert!(code == 1 && said.contains("moored.toml:3:1 "), "{code} {said}");
    let (code, said, _) = world.says(&["check", world.units().to_str().unwrap()]);
    assert!(code == 1 && said.contains("moored.toml:3:1 "), "{code} {said}");
    world.kept("plain", &plain, "moored.toml is broken");
    world.shows("late", "", "");
    world.running("late");
    world.wait_log("late", "A=other");

    // Also after a crash, and after what a reboot leaves.
    world.kill9(world.pids().supervisor);
    wait_for("a note", || world.run(&["ps"]).stdout.windows(9).any(|text| text == b"`bundle` ").then_some(()));
    world.kept("plain", &plain, "the supervisor was killed");
    world.supervisor.stop();
    fs::remove_dir_all(world.dir.join("run")).unwrap();
    world.supervisor.up();
    world.running("plain");
    world.shows("later", "", "");
    world.running("later");
    world.wait_log("later", "A=other");
    assert!(!world.log("plain").contains("A=new"), "{}", world.log("plain"));

    // Gone after a second, not by an editor's rename.
    let file = world.dir.join("moored.toml");
    world.defaults("[defaults]\nprocess.env.A = \"other\"\n[defaults.resources]\nmemory = \"64M\"\n");
    wait_for("no note", || (!world.ok(&["ps"]).contains("note:")).then_some(()));
    let plain = world.running("plain");
    fs::rename(&file, world.dir.join("aside")).unwrap();
    fs::rename(world.dir.join("aside"), &file).unwrap();
    world.kept("plain", &plain, "the file came back");
    fs::remove_file(&file).unwrap();
    world.replaced("plain", &plain);
    wait_for("no limit", || (!world.ok(&["status", "own"]).contains(" of 64M")).then_some(()));
}

#[test]
fn a_drop_in_takes_a_default_away_and_plan_knows_them() {
    let Some(mut world) = World::prepare("no-default") else { return };
    world.defaults("[defaults]\nprocess.env.A = \"all\"\nresources.memory = \"64M\"\n");
    world.shows("web", "", "");
    fs::create_dir(world.units().join("web.toml.d")).unwrap();
    fs::write(world.units().join("web.toml.d/10.toml"), "unset = [\"resources.memory\", \"process.env.A\"]\n").unwrap();
    world.supervisor.up();
    let web = world.running("web");
    world.wait_log("web", "A=\n");
    let status = world.ok(&["status", "web"]);
    assert!(!status.contains(" of 64M"), "{status}");
    assert_eq!(
        world.ok(&["plan", "--units", world.units().to_str().unwrap(), "--json"]),
        "{\"changes\":[],\"errors\":[]}\n"
    );
    // One that conflicts with the unit is told where it stands.
    world.unit("web", &world.text("", FOREVER, "[restart]\ndelay = \"1m\"\n"));
    let web = world.replaced("web", &web);
    world.defaults("[defaults]\nrestart.max_delay = \"10s\"\n");
    world.wait_reason("web", "moored.toml:2:21 `restart.max_delay` is 10s, less than `delay`");
    world.kept("web", &web, "the defaults do not go with it");
}

#[test]
fn a_change_of_the_defaults_reaches_every_one_of_many_units() {
    let Some(mut world) = World::prepare("many-defaults") else { return };
    const UNITS: usize = 600;
    for n in 0..UNITS {
        // A root each, so that each is a source of its own.
        let root = world.dir.join(&format!("r{n}"));
        fs::create_dir(&root).unwrap();
        let text = format!("enabled = false\nrootfs = \"{}\"\nprocess.args = [\"/x\"]\n", root.display());
        world.unit(&format!("u{n:03}"), &text);
    }
    world.supervisor.up();
    world.ok(&["sync"]);
    world.defaults("[defaults]\nstop.timeout = \"7s\"\n");
    world.ok(&["sync"]);
    for n in [0, 299, UNITS - 1] {
        let text = world.ok(&["cat", &format!("u{n:03}")]);
        assert!(text.contains("timeout = \"7s\""), "{text}");
    }
    assert_eq!(
        world.ok(&["plan", "--units", world.units().to_str().unwrap(), "--json"]),
        "{\"changes\":[],\"errors\":[]}\n"
    );
    assert_eq!(world.ps().len(), UNITS);
}

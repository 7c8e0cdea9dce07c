//! A directory of units that is replaced as a whole (DESIGN §5): all of the new one goes in force together, or none of it does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, RenameFlags};
use serde_json::Value;

use super::support::wait_for;
use super::world::{Running, World};

/// Ten units: eight of one text, one that is kept as it is, one that only this version has.
const CHANGED: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Makes a version of the directory at `dir`.
fn version(world: &World, dir: &Path, tag: &str, only: &str) {
    fs::create_dir_all(dir).unwrap();
    let put = |unit: &str, tag: &str| fs::write(dir.join(format!("{unit}.toml")), world.service_text(tag)).unwrap();
    CHANGED.iter().for_each(|unit| put(unit, tag));
    put("same", "same");
    put(only, tag);
}

fn running(world: &World) -> Vec<Running> {
    CHANGED.iter().chain(&["same"]).map(|unit| world.running(unit)).collect()
}

/// Puts `new` in the place of the units, and what was there in the place of `new`.
type Put = fn(&Path, &Path);

fn exchange(units: &Path, new: &Path) {
    rustix::fs::renameat_with(CWD, units, CWD, new, RenameFlags::EXCHANGE).unwrap();
}

fn two_renames(units: &Path, new: &Path) {
    let aside = units.with_extension("aside");
    fs::rename(units, &aside).unwrap();
    fs::rename(new, units).unwrap();
    fs::rename(aside, new).unwrap();
}

/// Both are links to directories.
fn repoint(units: &Path, new: &Path) {
    exchange(units, new);
}

/// One broken file among ten holds all of them; repaired, all go in force in one round; then each is by itself again.
fn goes_as_a_whole(world: &World, put: Put) {
    let (units, new) = (world.units(), world.dir.join("new"));
    let before = running(world);
    let old_only = world.running("old-only");
    fs::write(new.join("d.toml"), "bundle = 1").unwrap();
    put(&units, &new);

    let waits = "d.toml, which is swapped with it, is not valid";
    world.wait_reason("a", &format!("its new text waits: {waits}"));
    let row = world.wait_reason("d", "running with the last good text");
    assert!(row["reason"].as_str().unwrap().starts_with("d.toml:1:10"), "{row}");
    world.wait_reason("new-only", &format!("its new text waits: {waits}"));
    world.wait_reason("old-only", &format!("its removal waits: {waits}"));
    assert!(world.ok(&["status", "a"]).contains(waits), "{}", world.ok(&["status", "a"]));
    let (code, said, _) = world.says(&["sync"]);
    assert!(
        code == 1 && said.contains("d.toml:1:10") && said.contains(&format!("a: its new text waits: {waits}")),
        "{said}"
    );
    let (code, said, _) = world.says(&["apply"]);
    assert!(code == 1 && said.contains("a: its new text waits"), "{code} {said}");
    assert_eq!((running(world), world.running("old-only")), (before.clone(), old_only.clone()));
    assert!(world.find("same").unwrap()["drift"].is_null());
    // Killed meanwhile, the next supervisor holds it too.
    let killed = world.pids().supervisor;
    world.kill9(killed);
    wait_for("the next supervisor", || {
        let status: Value = serde_json::from_slice(&world.run(&["status", "--json"]).stdout).ok()?;
        status["supervisor"].as_i64().filter(|pid| *pid != i64::from(killed))
    });
    world.wait_reason("a", &format!("its new text waits: {waits}"));
    world.wait_reason("new-only", waits);
    assert_eq!(world.says(&["sync"]).0, 1);
    assert_eq!((running(world), world.running("old-only")), (before.clone(), old_only.clone()));

    // An edit meanwhile belongs to it.
    world.unit("a", &world.service_text("edited"));
    world.kept("a", &before[0], "its set is not valid");
    world.unit("d", &world.service_text("repaired"));
    for (unit, old) in CHANGED.iter().zip(&before) {
        world.replaced(unit, old);
    }
    world.running("new-only");
    world.wait_gone("old-only");
    old_only.ended();
    world.kept("same", &before[8], "its text is the same in both");
    let (code, said, _) = world.says(&["sync"]);
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(world.cat("a").contains("edited"), "{}", world.cat("a"));

    // And is over.
    let before = running(world);
    world.unit("d", "bundle = 1");
    world.wait_reason("d", "d.toml:1:10");
    world.unit("a", &world.service_text("alone"));
    world.replaced("a", &before[0]);
    assert_eq!(running(world)[1..], before[1..]);
    world.unit("d", &world.service_text("repaired"));
    world.wait_unit("d", "valid", |row| row["drift"].is_null());
}

impl World {
    fn cat(&self, unit: &str) -> String {
        self.ok(&["cat", unit])
    }
}

fn prepared(name: &str) -> Option<World> {
    let world = World::prepare(name)?;
    fs::remove_dir(world.units()).unwrap();
    Some(world)
}

#[test]
fn two_directories_exchanged_go_in_force_as_a_whole() {
    let Some(mut world) = prepared("exchanged") else { return };
    version(&world, &world.units(), "one", "old-only");
    version(&world, &world.dir.join("new"), "two", "new-only");
    world.supervisor.up();
    goes_as_a_whole(&world, exchange);
}

#[test]
fn a_directory_renamed_in_goes_in_force_as_a_whole() {
    let Some(mut world) = prepared("renamed-in") else { return };
    version(&world, &world.units(), "one", "old-only");
    version(&world, &world.dir.join("new"), "two", "new-only");
    world.supervisor.up();
    goes_as_a_whole(&world, two_renames);
}

#[test]
fn a_link_to_another_release_goes_in_force_as_a_whole() {
    let Some(mut world) = prepared("release") else { return };
    for (release, link, tag, only) in [("7", "units", "one", "old-only"), ("8", "new", "two", "new-only")] {
        version(&world, &world.dir.join("releases").join(release), tag, only);
        let at = if link == "units" { world.units() } else { world.dir.join(link) };
        symlink(world.dir.join("releases").join(release), at).unwrap();
    }
    world.supervisor.up();
    goes_as_a_whole(&world, repoint);
}

/// A copy of it in its place, with drop-ins, links and a template.
#[test]
fn the_same_again_changes_nothing() {
    let Some(mut world) = prepared("same-again") else { return };
    let units = world.units();
    version(&world, &units, "one", "only");
    fs::create_dir(units.join("a.toml.d")).unwrap();
    fs::write(units.join("a.toml.d/10-env.toml"), "process.env.MARK = 1\n").unwrap();
    let template = world.service_text("%i").replacen("rootfs", "instances = [\"x\", \"y\"]\nrootfs", 1);
    fs::write(units.join("t@.toml"), template).unwrap();
    symlink("t@.toml", units.join("t@z.toml")).unwrap();
    symlink("/dev/null", units.join("masked.toml")).unwrap();
    world.supervisor.up();
    let all = || {
        let others = ["only", "t@x", "t@y", "t@z"].map(|unit| world.running(unit));
        [running(&world), others.to_vec()].concat()
    };
    let before = all();
    let events = world.ok(&["events"]);
    for put in [exchange, two_renames] {
        let copy = world.dir.join("copy");
        let copied = Command::new("cp").arg("-a").arg(&units).arg(&copy).status().unwrap();
        assert!(copied.success());
        put(&units, &copy);
        let (code, said, _) = world.says(&["sync"]);
        assert_eq!((code, said.as_str()), (0, ""));
        // And back, which is another one again.
        put(&units, &copy);
        assert_eq!(world.says(&["sync"]).0, 0);
        put(&units, &copy);
        assert_eq!(world.says(&["sync"]).0, 0);
        fs::remove_dir_all(copy).unwrap();
        assert_eq!(all(), before);
    }
    assert_eq!(world.ok(&["events"]), events, "nothing happened");
    assert!(world.ps().iter().all(|row| row["drift"].is_null()), "{}", world.ok(&["ps"]));
    // It is watched, and each is by itself.
    fs::write(units.join("a.toml.d/10-env.toml"), "process.env.MARK = 2\n").unwrap();
    world.replaced("a", &before[0]);
    assert_eq!(all()[1..], before[1..]);
}

/// Under `--manual` all of it waits, and an order for one of them is an order for all.
#[test]
fn an_order_for_one_is_an_order_for_all() {
    let Some(mut world) = prepared("set-manual") else { return };
    world.supervisor = world.supervisor.with(&["--manual"]);
    version(&world, &world.units(), "one", "old-only");
    version(&world, &world.dir.join("new"), "two", "new-only");
    world.supervisor.up();
    let before = running(&world);
    exchange(&world.units(), &world.dir.join("new"));
    world.wait_reason("a", "a change waits for `moored apply`");
    world.unit("b", "bundle = 1");
    let (code, said, _) = world.says(&["apply", "a"]);
    assert!(code != 0 && said.contains("b.toml, which is swapped with it, is not valid"), "{code} {said}");
    assert_eq!(running(&world), before);
    world.unit("b", &world.service_text("two"));
    assert_eq!(world.says(&["apply", "a"]).0, 0);
    for (unit, old) in CHANGED.iter().zip(&before) {
        world.replaced(unit, old);
    }
    world.running("new-only");
    world.wait_gone("old-only");
}

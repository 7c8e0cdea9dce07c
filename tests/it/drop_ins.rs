//! Drop-ins of units and of templates (DESIGN §7), over a running supervisor.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::support::wait_for;
use super::world::{FOREVER, World};

/// Writes a drop-in by rename into `dir`, a directory of units.
fn put(dir: &Path, file: &str, text: &str) {
    let path = dir.join(file);
    let parent = path.parent().unwrap();
    fs::create_dir_all(parent).unwrap();
    fs::write(parent.join(".new"), text).unwrap();
    fs::rename(parent.join(".new"), path).unwrap();
}

fn env(name: &str, value: &str) -> String {
    format!("[process.env]\n{name} = \"{value}\"\n")
}

/// A unit that prints what its environment holds and stays.
fn shows(world: &World, name: &str) {
    world.unit(name, &world.text("", &format!("echo \"A=$A B=$B\"; {FOREVER}"), "env.A = \"main\""));
}

fn wait_valid(world: &World, unit: &str) {
    world.wait_unit(unit, "valid", |row| row["drift"].is_null() && row["reason"] == "");
}

#[test]
fn a_drop_in_is_merged_and_what_means_the_same_restarts_nothing() {
    let Some(world) = World::start("drop-ins") else { return };
    let units = world.units();
    shows(&world, "web");
    let first = world.running("web");
    world.wait_log("web", "A=main B=");

    put(&units, "web.toml.d/10.toml", "# says nothing\n");
    put(&units, "web.toml.d/20.toml", &env("A", "main"));
    world.kept("web", &first, "the drop-ins mean the same");
    put(&units, "web.toml.d/30.toml", "[resources]\nmemory = \"64M\"\n");
    world.kept("web", &first, "a limit is live");
    wait_for("the limit", || world.ok(&["status", "web"]).contains(" of 64M").then_some(()));

    put(&units, "web.toml.d/20.toml", &env("B", "two"));
    let second = world.replaced("web", &first);
    world.wait_log("web", "A=main B=two");
    put(&units, "web.toml.d/40.toml", "unset = [\"process.env.B\", \"resources.memory\"]\n");
    let third = world.replaced("web", &second);
    wait_for("no limit", || (!world.ok(&["status", "web"]).contains(" of 64M")).then_some(()));

    // A broken one keeps what runs, is told where it stands, and counts again when it is whole.
    put(&units, "web.toml.d/40.toml", "unset = [\"process.env.B\", \"resources.memory\"]\n[stop]\ntimeot = 1\n");
    world.wait_reason("web", "web.toml.d/40.toml:3:1 unknown key `timeot`, did you mean `timeout`?");
    world.kept("web", &third, "a drop-in is not valid");
    assert!(world.find("web").unwrap()["drift"].as_str().unwrap().contains("not valid"));
    let (code, said, _) = world.says(&["sync"]);
    assert!(code == 1 && said.contains("web.toml.d/40.toml:3:1 "), "{code} {said}");
    put(&units, "web.toml.d/40.toml", "unset = [\"resources.memory\", \"process.env.B\"]\n");
    wait_valid(&world, "web");
    world.kept("web", &third, "it means what it meant");

    // A mistake of the main file is told there.
    world.unit("web", "rootfs = 3\n");
    world.wait_reason("web", "web.toml:1:10 `rootfs` is the integer 3");
    shows(&world, "web");
    wait_valid(&world, "web");
    world.kept("web", &third, "it is what it was");

    // Gone for good after a second, and not before.
    fs::rename(units.join("web.toml.d"), world.dir.join("aside")).unwrap();
    fs::rename(world.dir.join("aside"), units.join("web.toml.d")).unwrap();
    world.kept("web", &third, "the directory came back");
    put(&units, "web.toml.d/40.toml", "");
    let fourth = world.replaced("web", &third);
    fs::remove_dir_all(units.join("web.toml.d")).unwrap();
    world.replaced("web", &fourth);
    wait_for("no limit", || (!world.ok(&["status", "web"]).contains(" of 64M")).then_some(()));
}

#[test]
fn drop_ins_of_all_directories_apply_and_the_last_of_a_name_counts() {
    let Some(mut world) = World::prepare("drop-in-dirs") else { return };
    let above = world.dir.join("above");
    fs::create_dir(&above).unwrap();
    world.supervisor = world.supervisor.with(&["--units", above.to_str().unwrap()]);
    shows(&world, "web");
    put(&world.units(), "web.toml.d/10.toml", &env("A", "ten"));
    put(&above, "web.toml.d/05.toml", &(env("A", "five") + "B = \"five\"\n"));
    world.supervisor.up();
    let mut now = world.running("web");
    assert_eq!(now.id, "web.1", "all of it is read before anything starts");
    world.wait_log("web", "A=ten B=five");

    put(&above, "web.toml.d/10.toml", &env("A", "above"));
    now = world.replaced("web", &now);
    world.wait_log("web", "A=above B=five");
    for mask in ["empty", "link"] {
        let path = above.join("web.toml.d/10.toml");
        fs::remove_file(&path).unwrap();
        match mask {
            "empty" => fs::write(&path, "").unwrap(),
            _ => symlink("/dev/null", &path).unwrap(),
        }
        if mask == "empty" {
            now = world.replaced("web", &now);
        } else {
            world.kept("web", &now, "it masks as before");
        }
        assert_eq!(world.says(&["sync"]).0, 0);
    }
    world.wait_log("web", "A=five B=five");
    fs::remove_dir_all(above.join("web.toml.d")).unwrap();
    world.replaced("web", &now);
    world.wait_log("web", "A=ten B=\n");
}

#[test]
fn a_templates_drop_ins_apply_to_all_instances_and_an_instances_own_on_top() {
    let Some(world) = World::start("drop-in-templates") else { return };
    let units = world.units();
    shows(&world, "worker@");
    put(&units, "worker@.toml.d/10.toml", &env("A", "%i"));
    put(&units, "worker@a.toml.d/10.toml", &env("B", "own"));
    for instance in ["a", "b"] {
        symlink("worker@.toml", units.join(format!("worker@{instance}.toml"))).unwrap();
    }
    shows(&world, "worker@c");
    let (a, b) = (world.running("worker@a"), world.running("worker@b"));
    world.wait_log("worker@a", "A=a B=own");
    world.wait_log("worker@b", "A=b B=\n");
    world.wait_log("worker@c", "A=c B=\n");
    put(&units, "worker@a.toml.d/10.toml", &(env("A", "mine") + "B = \"own\"\n"));
    world.replaced("worker@a", &a);
    world.wait_log("worker@a", "A=mine B=own");
    world.kept("worker@b", &b, "another instance's drop-in changed");
    put(&units, "worker@.toml.d/10.toml", "nonsense");
    for instance in ["worker@a", "worker@b", "worker@c"] {
        world.wait_reason(instance, "worker@.toml.d/10.toml:1:9");
    }
    world.kept("worker@b", &b, "the template's drop-in is broken");
}

#[test]
fn a_reboot_with_a_broken_drop_in_runs_the_last_good_merge() {
    let Some(mut world) = World::start("drop-in-reboot") else { return };
    let units = world.units();
    shows(&world, "web");
    put(&units, "web.toml.d/10.toml", &env("B", "good"));
    world.wait_log("web", "A=main B=good");
    put(&units, "web.toml.d/10.toml", "broken");
    put(&units, "web.toml.d/20.toml", &env("B", "new"));
    world.wait_reason("web", "web.toml.d/10.toml:1:7");

    // The supervisor alone, and then everything but the state-dir.
    let before = world.running("web");
    let supervisor = world.pids().supervisor;
    world.kill9(supervisor);
    world.wait_unit("web", "kept", |row| row["id"] == before.id.as_str() && row["reason"].as_str() != Some(""));
    world.kept("web", &before, "the supervisor was killed");
    world.supervisor.stop();
    fs::remove_dir_all(world.dir.join("run")).unwrap();
    world.supervisor.up();
    world.running("web");
    world.wait_reason("web", "web.toml.d/10.toml:1:7");
    super::support::wait_for("its second run", || {
        (world.log("web").matches("A=main B=good").count() == 2).then_some(())
    });
    assert!(!world.log("web").contains("B=new"), "{}", world.log("web"));
    put(&units, "web.toml.d/10.toml", "");
    world.wait_log("web", "A=main B=new");
}

#[test]
fn what_cannot_be_trusted_or_read_holds_the_unit_at_its_last_good_text() {
    let Some(world) = World::start("drop-in-trust") else { return };
    let units = world.units();
    shows(&world, "web");
    put(&units, "web.toml.d/10.toml", &env("B", "good"));
    world.wait_log("web", "A=main B=good");
    let web = world.running("web");
    let dir = units.join("web.toml.d");
    for path in [dir.join("10.toml"), dir.clone()] {
        std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
        world.wait_reason("web", "owned by uid 1234: chown root");
        world.kept("web", &web, "a drop-in is not trusted");
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        wait_valid(&world, "web");
        world.kept("web", &web, "it is trusted again");
    }
    // A whole directory of units that is away says nothing.
    fs::rename(&units, world.dir.join("away")).unwrap();
    wait_for("a note", || world.ok(&["ps"]).contains("does not exist: waiting for it").then_some(()));
    fs::rename(world.dir.join("away"), &units).unwrap();
    world.kept("web", &web, "the directory is back");
}

#[test]
fn a_replaced_directory_takes_no_drop_ins_with_it() {
    let Some(mut world) = World::prepare("drop-in-brake") else { return };
    let above = world.dir.join("above");
    fs::create_dir(&above).unwrap();
    world.supervisor = world.supervisor.with(&["--units", above.to_str().unwrap()]);
    shows(&world, "web");
    put(&above, "web.toml.d/10.toml", &env("B", "above"));
    world.supervisor.up();
    world.wait_log("web", "A=main B=above");
    let web = world.running("web");
    fs::rename(&above, world.dir.join("away")).unwrap();
    fs::create_dir(&above).unwrap();
    wait_for("the brake", || {
        world.ok(&["ps"]).contains("became another directory and the drop-ins of 1 would go").then_some(())
    });
    std::thread::sleep(std::time::Duration::from_millis(1300));
    world.kept("web", &web, "the brake holds");
    world.ok(&["apply", "--confirm-removals"]);
    world.replaced("web", &web);
    world.wait_log("web", "A=main B=\n");
}

#[test]
fn cat_prints_one_file_that_means_the_same() {
    let Some(mut world) = World::prepare("cat") else { return };
    let units = world.units();
    world.unit("web", "rootfs = \"../busybox-root\"\n[process]\nargs = [\"/bin/sh\", \"-c\", \"trap 'exit 0' TERM; sleep 1000 & wait\"]\n");
    put(
        &units,
        "web.toml.d/10.toml",
        "[[mount]]\nsource = \"..\"\ntarget = \"/data\"\n[restart]\nlimit = { burst = 3, interval = \"1m\" }\n",
    );
    put(&units, "web.toml.d/20.toml", "restart.limit.burst = 5\n[[mount]]\ntarget = \"/data\"\nread_only = false\n");
    // Only now: read one by one they are changes.
    world.supervisor.up();
    world.running("web");
    world.ok(&["sync"]);
    let text = world.ok(&["cat", "web"]);
    for line in ["limit.burst = 5", "web.toml.d/20.toml:1", "web.toml.d/10.toml:5"] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(text.starts_with("# web, merged from\n") && !text.contains("not:"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&world.ok(&["cat", "web", "--json"])).unwrap();
    assert_eq!(json["files"].as_array().unwrap().len(), 3);
    let values = json["values"].as_array().unwrap();
    let burst = values.iter().find(|value| value["key"] == "restart.limit.burst").unwrap();
    assert_eq!((&burst["value"], &burst["line"]), (&5.into(), &1.into()));

    // As one file elsewhere it changes nothing, and neither do the same files.
    let other = world.dir.join("deep/er/units");
    put(&other, "web.toml", &text);
    let plan = |dir: &Path| world.says(&["plan", "--units", dir.to_str().unwrap(), "--json"]).1;
    assert_eq!(plan(&other), "{\"changes\":[],\"errors\":[]}\n");
    assert_eq!(plan(&units), "{\"changes\":[],\"errors\":[]}\n");
    put(&other, "web.toml.d/30.toml", "resources.memory = \"64M\"\n");
    assert!(plan(&other).contains("\"resources.memory\""), "{}", plan(&other));
    put(&other, "web.toml.d/30.toml", "resources.memory = 1\n");
    assert!(plan(&other).contains("30.toml:1:20 "), "{}", plan(&other));

    // What is on disk and not in force is said, and what changed is named by its file.
    put(&units, "web.toml.d/20.toml", "broken");
    world.wait_reason("web", "web.toml.d/20.toml:1:7");
    let text = world.ok(&["cat", "web"]);
    assert!(
        text.contains("limit.burst = 5")
            && text.contains("20.toml:1:7")
            && text.contains("what is on disk is not valid:"),
        "{text}"
    );
    put(&units, "web.toml.d/20.toml", "restart.limit.burst = 6\n");
    world.wait_unit("web", "replaced", |row| row["id"] == "web.2");
    let (_, changed) = world.happened("web").into_iter().rfind(|(what, _)| what == "changed").unwrap();
    assert_eq!(
        changed,
        format!("changed: mount./data, restart.limit in {}", units.join("web.toml.d/20.toml").display())
    );
    let (code, _, said) = world.says(&["cat", "wep"]);
    assert!(code == 1 && said.contains("did you mean `web`?"), "{code} {said}");
    world.unit("bad", "broken");
    world.wait_reason("bad", "bad.toml:1:7");
    let (code, _, said) = world.says(&["cat", "bad"]);
    assert!(code == 1 && said.contains("nothing of bad is in force"), "{code} {said}");
}

#[test]
fn a_writer_who_changes_nothing_leaves_no_trace() {
    let Some(world) = World::start("drop-in-writer") else { return };
    let units = world.units();
    shows(&world, "web");
    put(&units, "web.toml.d/10.toml", &env("B", "one"));
    world.wait_log("web", "A=main B=one");
    let web = world.running("web");
    for file in ["web.toml", "web.toml.d/10.toml"] {
        let path = units.join(file);
        let writer = fs::File::options().append(true).open(&path).unwrap();
        writer.set_modified(std::time::SystemTime::now()).unwrap();
        let row = world
            .wait_unit("web", "being written", |row| row["drift"].as_str().is_some_and(|why| why.contains("written")));
        // This process, or a child that another test is just making.
        assert!(row["drift"].as_str().unwrap().contains("by pid "), "{row}");
        drop(writer);
        wait_valid(&world, "web");
        assert_eq!(world.says(&["sync", "web"]).0, 0);
        world.kept("web", &web, "nothing was written");
    }
}

#[test]
fn files_that_a_drop_in_names_take_the_place_of_the_units_and_are_followed() {
    let Some(world) = World::start("drop-in-files") else { return };
    let write = |name: &str, text: &str| fs::write(world.dir.join(name), text).unwrap();
    for (name, text) in
        [("own.env", "NAME=own\n"), ("more.env", "NAME=more\n"), ("own.conf", "own"), ("more.conf", "more")]
    {
        write(name, text);
    }
    let script = "n=0; show() { echo \"seen $n $NAME $(cat /app.conf)\"; }; trap 'n=$((n+1)); show' HUP; \
                  trap 'exit 0' TERM; show; while :; do sleep 1000 & wait; done";
    let tables = "env_file = \"../own.env\"\n[[config]]\nsource = \"../own.conf\"\ntarget = \"/app.conf\"\non_change = \"reload\"\n";
    world.script("web", script, tables);
    let first = world.running("web");
    world.wait_log("web", "seen 0 own own");

    // Relative paths start from the drop-in's own directory.
    let dir = world.units().join("web.toml.d");
    let above =
        "process.env_file = [\"../../more.env\"]\n[[config]]\nsource = \"../../more.conf\"\ntarget = \"/app.conf\"\n";
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("10.toml"), above).unwrap();
    let second = world.replaced("web", &first);
    world.wait_log("web", "seen 0 more more");

    // Theirs are followed, as the unit says; those that they took the place of are not any more.
    write("more.conf", "other");
    world.wait_log("web", "seen 1 more other");
    write("own.conf", "not seen");
    write("own.env", "NAME=not-seen\n");
    world.kept("web", &second, "nobody names these");
    write("more.env", "NAME=again\n");
    let third = world.replaced("web", &second);
    world.wait_log("web", "seen 0 again other");
    // One that is not there is told of at the drop-in's line.
    fs::remove_file(world.dir.join("more.conf")).unwrap();
    world.wait_reason("web", "web.toml.d/10.toml:3:10 config: ");
    world.kept("web", &third, "its file is gone");
    fs::remove_dir_all(&dir).unwrap();
    world.replaced("web", &third);
    world.wait_log("web", "seen 0 not-seen not seen");
}

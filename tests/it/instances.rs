//! Templates and their instances (DESIGN §7): a link to `worker@.toml`, or a file of its own, is a unit; the template is none.

use std::fs;
use std::os::unix::fs::symlink;

use super::world::{FOREVER, World};

#[test]
fn a_link_to_a_template_is_a_unit_and_the_template_is_none() {
    let Some(world) = World::start("instances") else { return };
    let units = world.units();
    let text = |tag: &str| {
        world.text("", &format!(": {tag}; echo \"%n %p %i %h $HOSTNAME\"; {FOREVER}"), "env.HOSTNAME = \"%i\"")
    };
    world.unit("worker@", &text("one"));
    world.ok(&["sync"]);
    assert_eq!(world.ps(), [] as [serde_json::Value; 0], "a template declares nothing");

    for instance in ["a", "b"] {
        symlink("worker@.toml", units.join(format!("worker@{instance}.toml"))).unwrap();
    }
    world.unit("worker@own", &world.service_text("own"));
    let (a, b, own) = (world.running("worker@a"), world.running("worker@b"), world.running("worker@own"));
    assert_eq!(a.id, "worker@a.1");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let printed = format!("worker@b worker b {} b", host.trim());
    super::support::wait_for("what b prints", || world.log("worker@b").contains(&printed).then_some(()));

    // An edit of the template reaches its links and nothing else; a comment reaches nobody.
    world.unit("worker@", &format!("# a comment\n{}", text("one")));
    world.kept("worker@a", &a, "only a comment of the template changed");
    world.unit("worker@", &text("two"));
    let a = world.replaced("worker@a", &a);
    let b = world.replaced("worker@b", &b);
    world.kept("worker@own", &own, "it has a file of its own");

    // A broken template keeps what runs, and each instance says so.
    world.unit("worker@", &text("%q"));
    for (instance, running) in [("worker@a", &a), ("worker@b", &b)] {
        world.wait_reason(instance, &format!("{instance}.toml:4:"));
        world.wait_reason(instance, "unknown specifier `%q`");
        world.kept(instance, running, "the template is broken");
    }
    world.unit("worker@", &text("two"));
    world.wait_unit("worker@a", "valid", |row| row["drift"].is_null() && row["reason"] == "");
    world.kept("worker@a", &a, "the template is what it was");

    // Removing a link removes its unit alone.
    fs::remove_file(units.join("worker@b.toml")).unwrap();
    world.wait_gone("worker@b");
    b.ended();
    world.kept("worker@a", &a, "another instance went");
    world.kill9(world.pids().supervisor);
    world.kept("worker@a", &a, "the supervisor was killed");
}

/// The template's text with a list.
fn listing(world: &World, list: &str, tag: &str) -> String {
    let text = world.text("", &format!(": {tag}; echo \"%n {tag}\"; {FOREVER}"), "");
    format!("instances = [{list}]\n{text}")
}

#[test]
fn a_template_lists_its_instances() {
    let Some(mut world) = World::start("instances-listed") else { return };
    let (units, file) = (world.units(), world.units().join("worker@.toml"));
    world.unit("worker@", &listing(&world, "\"a\", \"b\"", "one"));
    let (a, b) = (world.running("worker@a"), world.running("worker@b"));
    let added = world.happened("worker@a");
    assert!(added[0].1.contains(&format!("listed in {}", file.display())), "{added:?}");
    let cat = world.ok(&["cat", "worker@a"]);
    assert!(cat.contains("# worker@.toml:2") && !cat.contains("instances ="), "{cat}");

    // The list is no setting: who stays on it is not touched, and who goes does.
    world.unit("worker@", &listing(&world, "\"c\", \"a\"", "one"));
    world.ok(&["sync"]);
    b.ended();
    assert!(world.find("worker@b").is_none(), "{}", world.output());
    let c = world.running("worker@c");
    world.kept("worker@a", &a, "only the list changed");
    let words = format!("{} does not list it any more", file.display());
    assert!(
        world.happened("worker@b").contains(&("removed".to_owned(), words.clone())),
        "{:?}",
        world.happened("worker@b")
    );
    assert!(world.ok(&["why", "worker@b"]).contains(&words), "{}", world.ok(&["why", "worker@b"]));

    // Drop-ins of the template and of one, a link that masks one, and a file of its own.
    for (dir, text) in [("worker@.toml.d", "process.env.D = \"all\"\n"), ("worker@a.toml.d", "description = \"%i\"\n")]
    {
        fs::create_dir(units.join(dir)).unwrap();
        fs::write(units.join(dir).join("10.toml"), text).unwrap();
    }
    let c = world.replaced("worker@c", &c);
    let a = world.replaced("worker@a", &a);
    let env = world.says(&["exec", "worker@c", "--", "/bin/sh", "-c", "echo $D"]).1;
    assert_eq!(env, "all\n");
    assert!(world.ok(&["status", "worker@a"]).contains("worker@a.toml.d/10.toml"));
    let mask = units.join("worker@c.toml");
    symlink("/dev/null", &mask).unwrap();
    world.wait_reason("worker@c", "masked by");
    c.ended();
    fs::remove_file(&mask).unwrap();
    let c = world.running("worker@c");

    // A broken template keeps all of them, also over a reboot; a sync says so once.
    world.unit("worker@", &format!("cwdd = 1\n{}", listing(&world, "\"a\"", "two")));
    let (code, said, _) = world.says(&["sync"]);
    assert_eq!((code, said.matches("worker@.toml:1:1 unknown key `cwdd`").count()), (1, 1), "{said}");
    world.kept("worker@a", &a, "the template is broken");
    world.kept("worker@c", &c, "the template is broken");
    assert!(world.supervisor.stop().success());
    fs::remove_dir_all(world.dir.join("run")).unwrap();
    world.supervisor.up();
    for instance in ["worker@a", "worker@c"] {
        let row = world.wait_reason(instance, "worker@.toml:1:1 unknown key `cwdd`");
        assert_eq!(world.wait_phase(instance, &["running"])["unit"], instance, "{row}");
        super::support::wait_for("the last good text", || {
            (world.log(instance).matches(&format!("{instance} one")).count() >= 2).then_some(())
        });
    }
    let (a, c) = (world.running("worker@a"), world.running("worker@c"));

    // A link takes the place of the list and back, without a restart; the file alone removes what it listed.
    world.unit("worker@", &listing(&world, "\"a\", \"c\"", "one"));
    symlink("worker@.toml", units.join("worker@a.toml")).unwrap();
    world.unit("worker@", &listing(&world, "\"c\"", "one"));
    assert_eq!(world.says(&["sync"]).0, 0);
    world.kept("worker@a", &a, "it is a link now");
    world.unit("worker@", &listing(&world, "\"a\", \"c\"", "one"));
    fs::remove_file(units.join("worker@a.toml")).unwrap();
    assert_eq!(world.says(&["sync"]).0, 0);
    world.kept("worker@a", &a, "it is listed again");
    world.remove_unit("worker@");
    world.wait_gone("worker@a");
    world.wait_gone("worker@c");
    c.ended();
}

#[test]
fn check_and_plan_know_what_a_template_lists() {
    let Some(world) = World::start("instances-plan") else { return };
    let file = world.units().join("worker@.toml");
    world.unit("worker@", &listing(&world, "\"a\", \"b\"", "one"));
    world.running("worker@a");
    world.running("worker@b");
    let other = world.dir.join("other");
    fs::create_dir(&other).unwrap();
    let plan = |text: &str| {
        fs::write(other.join("worker@.toml"), text).unwrap();
        let (_, out, error) = world.says(&["plan", "--units", other.to_str().unwrap()]);
        format!("{out}{error}")
    };
    let changes = plan(&listing(&world, "\"b\", \"c\"", "one"));
    let lists = format!("worker@c  add      it is not in force; {} lists it", other.join("worker@.toml").display());
    assert!(changes.contains(&lists), "{changes}");
    assert!(changes.contains("worker@a  remove") && !changes.contains("worker@b"), "{changes}");
    let broken = plan(&listing(&world, "\"b\", \"b\"", "one"));
    assert!(broken.contains("`instances` names \"b\" twice") && broken.contains("invalid"), "{broken}");
    assert!(!broken.contains("remove"), "{broken}");

    fs::write(&file, listing(&world, "\"a\", \"b c\"", "one")).unwrap();
    let (code, said, _) = world.says(&["check", file.to_str().unwrap()]);
    assert!(code == 1 && said.contains("worker@.toml:1:19 `instances[1]` is the string \"b c\""), "{said}");
    let text = listing(&world, "\"a\"", "one").replace(&world.root.display().to_string(), "/nowhere/%i");
    fs::write(&file, text).unwrap();
    let (code, said, _) = world.says(&["check", file.to_str().unwrap()]);
    assert!(code == 1 && said.contains("rootfs /nowhere/a does not exist"), "{said}");
    assert!(said.ends_with("1 unit file checked, 1 error\n"), "{said}");
}

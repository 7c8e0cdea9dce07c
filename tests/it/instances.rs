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

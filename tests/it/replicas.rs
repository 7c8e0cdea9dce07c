//! Replicas: one file, several containers (DESIGN §5), scaled by an edit and replaced one after the other.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use super::support::wait_for;
use super::world::{FOREVER, Running, World};

/// Serves as long as nobody says that it should not: it is well when `/shared/well-TAG` is there.
fn text(world: &World, replicas: usize, tag: &str, update: &str) -> String {
    let mount =
        format!("[[mount]]\nsource = \"{}\"\ntarget = \"/shared\"\nread_only = false\n", world.shared().display());
    let health = format!("[health.readiness]\nfile = \"/shared/well-{tag}\"\ninterval = \"20ms\"\nfailures = 1\n");
    let script = format!("echo %i of %p is {tag}; touch /shared/up-{tag}-%i; {FOREVER}");
    world.text(&format!("replicas = {replicas}"), &script, &format!("{mount}{health}[update]\n{update}\n"))
}

/// Text of so many that run `FOREVER`.
fn plain(world: &World, replicas: usize, tag: &str) -> String {
    world.text(
        &format!("replicas = {replicas}"),
        &format!("echo {tag} %i; {FOREVER}"),
        "[update]\nmin_healthy = \"0s\"\n",
    )
}

fn name(number: usize) -> String {
    format!("web@{number}")
}

fn running(world: &World, count: usize) -> Vec<Running> {
    (1..=count).map(|number| world.running(&name(number))).collect()
}

fn ids(world: &World) -> Vec<String> {
    world.ps().iter().map(|row| row["id"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn one_file_is_several_containers_and_its_name_stands_for_all_of_them() {
    let Some(world) = World::start("replicas") else { return };
    world.unit("web", &plain(&world, 3, "one"));
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    let before = running(&world, 3);
    assert_eq!(before[0].id, "web@1.1");
    assert_eq!(ids(&world).len(), 3, "{:?}", world.ps());
    let folded = world.ok(&["ps"]);
    assert!(folded.contains("3/3 running") && !folded.contains("web@"), "{folded}");
    assert_eq!(folded.lines().count(), 2, "{folded}");
    for all in [&["ps", "-a"][..], &["ps", "web"], &["ps", "--all"]] {
        assert_eq!(world.ok(all).lines().count(), 4);
    }
    let status = world.ok(&["status", "web"]);
    assert!(status.contains("3/3 running") && status.contains("web.toml"), "{status}");
    assert!(world.ok(&["status", "web@2"]).contains("web@2.1"));
    wait_for("all have printed", || (world.ok(&["logs", "web"]).lines().count() == 3).then_some(()));
    let logs = world.ok(&["logs", "web"]);
    assert!(logs.contains("web@1 | one 1\n") && logs.contains("web@3 | one 3\n"), "{logs}");
    assert_eq!(world.ok(&["logs", "web@2"]), "one 2\n");
    assert_eq!(world.ok(&["logs", "web", "-n", "2"]).lines().count(), 2);
    let json: Value = serde_json::from_str(world.ok(&["logs", "web", "-n", "1", "--json"]).trim()).unwrap();
    assert!(json["unit"].as_str().unwrap().starts_with("web@"), "{json}");

    // Scaled by an edit, which touches none that stays.
    world.unit("web", &plain(&world, 5, "one"));
    assert_eq!(world.says(&["sync"]).0, 0);
    assert_eq!(running(&world, 5)[..3], before[..]);
    world.unit("web", &plain(&world, 2, "one"));
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    assert_eq!(ids(&world), [before[0].id.clone(), before[1].id.clone()]);
    before[2].ended();

    // One of them, all of them.
    world.ok(&["stop", "web@2"]);
    let row = world.ok(&["ps"]);
    assert!(row.contains("1/2 running, 1/2 stopped; web@2: stopped"), "{row}");
    world.ok(&["start", "web"]);
    let (first, second) = (world.running("web@1"), world.running("web@2"));
    assert!(first == before[0] && second != before[1]);
    world.ok(&["restart", "web"]);
    let after = running(&world, 2);
    assert!(after[0] != first && after[1] != second);
    let (code, _, err) = world.says(&["exec", "web", "--", "true"]);
    assert!(code != 0 && err.contains("web has replicas: name one of them, like web@1"), "{err}");
    assert_eq!(world.says(&["exec", "web@2", "--", "true"]).0, 0);
    let happened = world.happened("web");
    assert!(happened.iter().any(|(what, _)| what == "started"), "its replicas' too: {happened:?}");
    world.ok(&["stop", "web"]);
    assert!(world.ok(&["ps"]).contains("2/2 stopped"), "{}", world.ok(&["ps"]));
    world.ok(&["start", "web"]);

    // A crash of the supervisor touches nobody, nor does a comment.
    let kept = running(&world, 2);
    world.kill9(world.pids().supervisor);
    world.unit("web", &format!("# a comment\n{}", plain(&world, 2, "one")));
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    assert_eq!(running(&world, 2), kept);

    // A mistake is told once, and changes nothing.
    world.unit("web", &format!("{}typo = 1\n", plain(&world, 2, "one")));
    let (code, out, _) = world.says(&["sync"]);
    assert!(code == 1 && out.matches("typo").count() == 1, "{out}");
    assert_eq!(running(&world, 2), kept);
    world.wait_reason("web@2", "running with the last good text");

    // None at all is fine, and so is a unit of one container again.
    world.unit("web", &plain(&world, 0, "one"));
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    let none = world.ok(&["ps"]);
    assert!(none.contains("no replicas"), "{none}");
    let alone = world.service("web", "alone");
    assert_eq!(ids(&world), std::slice::from_ref(&alone.id));
    world.unit("web", &plain(&world, 1, "one"));
    world.running("web@1");
    alone.ended();
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    assert_eq!(ids(&world).len(), 1);
    fs::remove_file(world.units().join("web.toml")).unwrap();
    world.wait_gone("web@1");
}

#[test]
fn one_replica_may_have_a_file_of_its_own_or_be_masked() {
    let Some(world) = World::start("replicas-own") else { return };
    world.unit("web", &plain(&world, 3, "one"));
    let before = running(&world, 3);
    let own = world.units().join("web@2.toml");
    fs::write(&own, world.service_text("own")).unwrap();
    let second = world.replaced("web@2", &before[1]);
    world.unit("web", &plain(&world, 3, "two"));
    assert_eq!(world.says(&["sync"]).0, 0);
    assert_eq!(world.running("web@2"), second, "it has a text of its own");
    assert!(world.running("web@1") != before[0] && world.running("web@3") != before[2]);
    fs::remove_file(&own).unwrap();
    let third = world.replaced("web@2", &second);
    symlink("/dev/null", &own).unwrap();
    third.ended();
    wait_for("two replicas", || world.ok(&["ps"]).contains("2/2 running").then_some(()));
    let rows = world.ok(&["ps"]);
    assert!(rows.lines().count() == 3 && rows.contains("masked by"), "{rows}");
    fs::remove_file(&own).unwrap();
    world.running("web@2");
}

#[test]
fn an_update_goes_one_by_one_and_survives_the_supervisor() {
    let Some(world) = World::start("replicas-update") else { return };
    let fast = "min_healthy = \"0s\"\non_bad = \"rollback\"";
    fs::write(world.shared().join("well-one"), "").unwrap();
    world.unit("web", &text(&world, 4, "one", fast));
    assert_eq!(world.says(&["sync"]).0, 0);
    let before: Vec<Running> = (1..=4).map(|n| Running::of(&world.wait_phase(&name(n), &["ready"]))).collect();

    // The first one is not well yet: the others wait for it, whoever dies.
    world.unit("web", &text(&world, 4, "two", fast));
    world.replaced("web@1", &before[0]);
    world.wait_reason("web@3", "to be replaced after web@1");
    let plan = world.ok(&["ps"]);
    assert!(plan.contains("3/4 ready, 1/4 running"), "{plan}");
    world.kill9(world.pids().supervisor);
    world.wait_reason("web@3", "to be replaced after web@1");
    for number in 2..=4 {
        let row = world.wait_phase(&name(number), &["ready"]);
        assert_eq!(Running::of(&row), before[number - 1], "it is not its turn");
    }
    fs::write(world.shared().join("well-two"), "").unwrap();
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    let two: Vec<Running> = (1..=4).map(|n| Running::of(&world.wait_phase(&name(n), &["ready"]))).collect();
    assert!(before.iter().zip(&two).all(|(old, new)| old != new));
    let happened = world.happened("web");
    let started: Vec<&str> =
        happened.iter().filter(|(what, _)| what == "started").map(|(_, text)| text.as_str()).collect();
    let in_turn = two.iter().zip(&started[started.len() - 4..]).all(|(new, text)| text.contains(&new.id));
    assert!(in_turn, "one after the other by number: {started:?}");

    // One that is never well returns to the text before, and nobody else was touched; start-first does not even touch the first.
    let late = "min_healthy = \"0s\"\ndeadline = \"500ms\"\non_bad = \"rollback\"";
    world.unit("web", &text(&world, 4, "bad", late));
    let (code, out, _) = world.says(&["sync", "web"]);
    assert!(code == 2 && out.contains("rolled back: not well within 500ms"), "{code} {out}");
    let again: Vec<Running> = (1..=4).map(|n| Running::of(&world.wait_phase(&name(n), &["ready"]))).collect();
    assert!(again[0] != two[0] && again[1..] == two[1..], "{again:?} {two:?}");
    assert_eq!(world.happened("web").iter().filter(|(what, _)| what == "rolled-back").count(), 1);
    world.unit("web", &text(&world, 4, "worse", &format!("{late}\norder = \"start-first\"")));
    assert_eq!(world.says(&["sync", "web"]).0, 2);
    let first: Vec<Running> = (1..=4).map(|n| Running::of(&world.wait_phase(&name(n), &["ready"]))).collect();
    assert_eq!(first, again);
    fs::write(world.shared().join("well-three"), "").unwrap();
    world.unit("web", &text(&world, 4, "three", &format!("{fast}\norder = \"start-first\"")));
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    let three: Vec<Running> = (1..=4).map(|n| Running::of(&world.wait_phase(&name(n), &["ready"]))).collect();
    assert!(three.iter().zip(&again).all(|(new, old)| new != old));
}

/// One root, many containers: on the disk it is there once, and what each writes is its own. `benches/replicas.rs` has the figures for 300.
#[test]
fn replicas_of_one_root_have_it_once_and_write_for_themselves() {
    let Some(root) = super::debian::root() else { return };
    let Some(world) = World::start("replicas-root") else { return };
    let script =
        "test ! -e /mine && echo %i >/mine && echo %i >>/etc/motd && rm /bin/ls && echo fresh; exec sleep infinity";
    let args = format!("args = [\"/bin/bash\", \"-c\", {}]", super::world::quoted(script));
    let text = format!("replicas = 12\nlayers = [{root:?}]\n[process]\n{args}\n[stop]\nsignal = \"SIGKILL\"\n");
    let du = || -> u64 {
        let output = std::process::Command::new("du").args(["-sxk"]).arg(&world.dir.0).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    };
    let (before, listed) = (du(), fs::read_dir(&root).unwrap().count());
    let motd = fs::read(root.join("etc/motd")).unwrap_or_default();
    world.unit("web", &text);
    assert_eq!(world.says(&["sync", "web"]).0, 0);
    for number in 1..=12 {
        world.supervisor.wait_log(&name(number), "fresh\n");
        assert_eq!(world.ok(&["exec", &name(number), "--", "cat", "/mine"]), format!("{number}\n"));
        assert_ne!(world.says(&["exec", &name(number), "--", "/bin/ls"]).0, 0);
    }
    assert!(root.join("bin/ls").exists() && !root.join("mine").exists());
    assert_eq!(
        (fs::read_dir(&root).unwrap().count(), fs::read(root.join("etc/motd")).unwrap_or_default()),
        (listed, motd)
    );
    // Logs and records; not a copy of anything.
    let more = du() - before;
    assert!(more < 12 * 200, "{more} KiB for 12 of a root that is larger");
    // The next container begins with the root as it is.
    world.ok(&["restart", "web@3"]);
    wait_for("fresh again", || (world.log("web@3").matches("fresh").count() == 2).then_some(()));
}

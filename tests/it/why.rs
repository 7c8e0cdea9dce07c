//! `moored why` and events that are kept: an edit, a crash loop, a client's stop, and a supervisor and a host that go in between.

use std::fs;

use serde_json::Value;

use super::support::wait_for;
use super::world::World;

/// The links of `why --json`, by what happened.
fn chain(world: &World, unit: &str) -> Vec<(String, Value)> {
    let account: Value = serde_json::from_str(&world.ok(&["why", unit, "--json"])).unwrap();
    let links = account["chain"].as_array().unwrap().iter();
    links.map(|link| (link["what"].as_str().unwrap().to_owned(), link.clone())).collect()
}

fn kinds(world: &World, unit: &str) -> Vec<String> {
    chain(world, unit).into_iter().map(|(what, _)| what).collect()
}

#[test]
fn an_edit_and_a_restart_are_told_with_their_actors() {
    let Some(world) = World::start("why-edit") else { return };
    let old = world.service("web", "one");
    assert_eq!(kinds(&world, "web"), ["added", "started"]);
    world.unit("web", &world.service_text("two"));
    let old = world.replaced("web", &old);
    let text = world.ok(&["why", "web"]);
    assert!(text.contains("changed: process.args in "), "{text}");
    assert!(text.lines().last().unwrap().starts_with(&format!("now web running as {}", old.id)), "{text}");
    world.ok(&["restart", "web"]);
    let links = chain(&world, "web");
    assert_eq!(links[0].0, "asked");
    let by = links[0].1["by"].as_str().unwrap();
    assert!(by.starts_with("root (pid ") && by.ends_with(", moored)"), "{by}");
    world.unit("web", "nonsense = [");
    world.run(&["sync", "web"]);
    assert_eq!(kinds(&world, "web").last().unwrap(), "invalid");
    assert_eq!(world.says(&["why", "wbe"]).0, 1);
    world.remove_unit("web");
    world.wait_gone("web");
    let gone = world.ok(&["why", "web"]);
    assert!(gone.contains("web its file is gone"), "{gone}");
    assert_eq!(gone.lines().last(), Some("now web stopped: its file is gone"), "{gone}");
}

#[test]
fn the_story_outlives_the_supervisor_and_the_host() {
    let Some(mut world) = World::start("why-outlive") else { return };
    world.service("web", "one");
    world.service("held", "one");
    world.ok(&["stop", "--reason", "a new disk", "held"]);
    world.script("loops", "exit 3", "[restart]\ndelay = \"1ms\"\nlimit = { burst = 3, interval = \"1h\" }");
    world.wait_phase("loops", &["failed"]);
    let supervisor = world.pids().supervisor;
    world.kill9(supervisor);
    wait_for("another supervisor", || {
        let output = world.run(&["status", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).ok()?;
        report["supervisor"].as_i64().filter(|pid| *pid != i64::from(supervisor))
    });
    world.running("web");
    assert_eq!(kinds(&world, "web"), ["added", "started", "resumed"]);
    let loops = world.ok(&["why", "loops"]);
    assert!(loops.contains("added") && loops.contains("exited: code 3"), "{loops}");
    assert!(loops.lines().last().unwrap().contains("gave up: 3 starts"), "{loops}");

    // What a reboot leaves: the state-dir.
    world.supervisor.stop();
    let run_dir = world.dir.join("run");
    fs::remove_dir_all(&run_dir).unwrap();
    world.supervisor.up();
    world.running("web");
    assert_eq!(kinds(&world, "web"), ["begun", "started"]);
    world.wait_phase("held", &["stopped"]);
    let held = chain(&world, "held");
    let what: Vec<&str> = held.iter().map(|(what, _)| what.as_str()).filter(|what| *what != "killing").collect();
    assert_eq!(what, ["held", "stopping", "exited"]);
    assert!(held[0].1["text"].as_str().unwrap().ends_with(": a new disk"), "{held:?}");
    let events = world.ok(&["events", "--json"]);
    for what in ["begun", "resumed", "exited"] {
        assert!(events.contains(&format!("\"what\":\"{what}\"")), "{what} in {events}");
    }
    assert_eq!(world.ok(&["events", "-n", "2"]).lines().count(), 2);
}

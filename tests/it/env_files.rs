//! `env_file` and `${VAR}`: what reaches the program, what a change of the files does, and that no value is shown.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::support::wait_for;
use super::world::{FOREVER, Running, World, quoted};

/// A unit with two env files that prints in capitals what it was given, and stays.
fn unit(world: &World) -> String {
    let script = format!("echo \"arg=$0 name=$NAME pw=$PW own=$OWN\" | tr a-z A-Z; {FOREVER}");
    let root = world.root.display();
    format!(
        "rootfs = \"{root}\"\n[process]\nargs = [\"/bin/sh\", \"-c\", {}, \"${{PW}}-${{NAME:-none}}\"]\n\
         env_file = [\"../web.env\", \"-../more.env\"]\nenv = {{ OWN = \"mine\" }}\n",
        quoted(&script)
    )
}

/// Waits for a supervisor behind one that was killed.
fn answers(world: &World) {
    wait_for("another supervisor", || world.run(&["ps"]).status.success().then_some(()));
}

/// Everything that people are shown of a unit.
fn all_said(world: &World) -> String {
    let mut said = world.output();
    for command in [
        &["ps"][..],
        &["ps", "--json"],
        &["status", "web"],
        &["status", "web", "--json"],
        &["why", "web"],
        &["events"],
        &["events", "--json"],
        &["plan"],
        &["sync"],
    ] {
        let (_, out, err) = world.says(command);
        said.push_str(&out);
        said.push_str(&err);
    }
    said
}

#[test]
fn variables_reach_the_program_and_a_change_of_them_replaces_it() {
    let Some(world) = World::start("env-files") else { return };
    let (env, more) = (world.dir.join("web.env"), world.dir.join("more.env"));
    fs::write(&env, "# of the web\nexport PW='hunter2 a'\nOWN=theirs\n").unwrap();
    world.unit("web", &unit(&world));
    let first = world.running("web");
    world.wait_log("web", "ARG=HUNTER2 A-NONE NAME= PW=HUNTER2 A OWN=MINE");

    fs::write(&env, "PW=\"hunter2 a\"\n\n; the same\nOWN=others\n").unwrap();
    world.kept("web", &first, "what is defined is the same, and env wins");
    fs::write(&more, "NAME=two\n").unwrap();
    let second = world.replaced("web", &first);
    world.wait_log("web", "ARG=HUNTER2 A-TWO NAME=TWO PW=HUNTER2 A OWN=MINE");
    fs::write(&env, "PW=hunter3\n").unwrap();
    let third = world.replaced("web", &second);
    world.wait_log("web", "ARG=HUNTER3-TWO NAME=TWO PW=HUNTER3 OWN=MINE");
    fs::remove_file(&more).unwrap();
    let fourth = world.replaced("web", &third);
    world.wait_log("web", "ARG=HUNTER3-NONE NAME= PW=HUNTER3 OWN=MINE");

    // What is not valid, or not there, changes nothing that runs.
    fs::write(&env, "PW=hunter4\nhunter5 again\n").unwrap();
    let row = world.wait_reason("web", "web.env:2:1 a line that is neither NAME=VALUE nor a comment");
    assert_eq!((Running::of(&row), row["phase"].as_str()), (fourth.clone(), Some("running")));
    fs::write(&env, "OTHER=hunter4\n").unwrap();
    world.wait_reason("web", "holds `${PW}`, which no env file defines");
    world.kept("web", &fourth, "a variable is not defined");
    fs::remove_file(&env).unwrap();
    world.wait_reason("web", "web.env: does not exist");
    world.kept("web", &fourth, "the file is gone");
    fs::write(&env, "PW=hunter3\n").unwrap();
    fs::set_permissions(&env, fs::Permissions::from_mode(0o602)).unwrap();
    world.wait_reason("web", "chmod o-w");
    fs::set_permissions(&env, fs::Permissions::from_mode(0o600)).unwrap();
    world.wait_unit("web", "valid", |row| row["drift"].is_null() && row["reason"] == "");
    world.kept("web", &fourth, "it is as it was");

    // By a link, as a deployment switches it.
    fs::write(world.dir.join("next.env"), "PW=hunter6\n").unwrap();
    symlink("next.env", world.dir.join("link.env")).unwrap();
    fs::rename(world.dir.join("link.env"), &env).unwrap();
    let fifth = world.replaced("web", &fourth);
    world.wait_log("web", "ARG=HUNTER6-NONE");

    // A directory that is compared: the name of what differs, never a value.
    let other = world.dir.join("other/units");
    fs::create_dir_all(&other).unwrap();
    fs::write(world.dir.join("other/web.env"), "PW=hunter7\nNEW=hunter8\n").unwrap();
    fs::write(other.join("web.toml"), unit(&world)).unwrap();
    let plan = world.ok(&["plan", "--units", other.to_str().unwrap()]);
    for line in [
        "process.args, process.env.NEW, process.env.PW take a new container",
        "replace  process.env.NEW: default → (not shown)",
        "replace  process.env.PW: (not shown) → (changed, not shown)",
    ] {
        assert!(plan.contains(line), "{line} in\n{plan}");
    }
    let json = world.ok(&["plan", "--json", "--units", other.to_str().unwrap()]);
    let changed: Vec<String> =
        world.happened("web").into_iter().filter(|(what, _)| what == "changed").map(|(_, text)| text).collect();
    assert_eq!(changed[0], "changed: process.args, process.env.NAME in its env files", "{changed:?}");
    assert!(changed.iter().any(|text| text == "changed: process.args, process.env.PW in its env files"), "{changed:?}");
    let said = all_said(&world) + &plan + &json;
    assert!(!said.contains("hunter"), "{said}");
    world.kept("web", &fifth, "nobody changed anything");
}

#[test]
fn a_failure_repeats_no_value() {
    let Some(world) = World::start("env-failure") else { return };
    fs::write(world.dir.join("web.env"), "PROGRAM=/bin/hunter2\nDIR=/hunter3\n").unwrap();
    let text = world.text("", "x", "env_file = \"../web.env\"\ncwd = \"${DIR}\"\n");
    world.unit("web", &text.replace("\"/bin/sh\"", "\"${PROGRAM}\""));
    let row =
        world.wait_unit("web", "failing", |row| row["exit"].as_str().is_some_and(|exit| exit.contains("start failed")));
    assert!(row["exit"].as_str().unwrap().contains("${"), "{row}");
    let said = all_said(&world);
    assert!(!said.contains("hunter"), "{said}");
}

#[test]
fn the_files_are_compared_when_the_supervisor_returns_and_the_last_good_ones_run_after_a_reboot() {
    let Some(mut world) = World::start("env-return") else { return };
    let env = world.dir.join("web.env");
    fs::write(&env, "PW=hunter2\n").unwrap();
    world.unit("web", &unit(&world));
    let first = world.running("web");
    world.kill9(world.pids().supervisor);
    answers(&world);
    world.kept("web", &first, "nothing changed while nobody looked");
    // Stopped, so that nobody sees the edit.
    let supervisor = world.pids().supervisor;
    let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    fs::write(&env, "PW=hunter3\n").unwrap();
    world.kill9(supervisor);
    answers(&world);
    world.replaced("web", &first);
    world.wait_log("web", "ARG=HUNTER3-NONE");

    assert!(world.supervisor.stop().success());
    let run_dir = world.dir.join("run");
    if run_dir.exists() {
        fs::remove_dir_all(&run_dir).unwrap();
    }
    fs::remove_file(&env).unwrap();
    world.supervisor.up();
    let row = world.wait_phase("web", &["running"]);
    assert!(row["reason"].as_str().unwrap().contains("web.env: does not exist"), "{row}");
    wait_for("the last good values", || (world.log("web").matches("ARG=HUNTER3-NONE").count() == 2).then_some(()));
    assert!(!all_said(&world).contains("hunter"));
}

//! `[[config]]`: what the container sees, what a change of the contents does, and what a crash in between costs.

use std::fs;
use std::path::Path;

use super::support::wait_for;
use super::world::{Running, World, quoted};

/// Prints its file, and prints it again at each SIGHUP, with the number of these.
const TELLS: &str = "n=0; show() { echo \"seen $n $(cat /etc/app.conf) $(cat /b.conf)\"; }; trap 'n=$((n+1)); show' HUP; \
                     trap 'exit 0' TERM; show; while :; do sleep 1000 & wait; done";

/// A unit with two files, and more tables.
fn unit(world: &World, script: &str, on_change: &str) -> String {
    let root = world.root.display();
    format!(
        "rootfs = \"{root}\"\n[process]\nargs = [\"/bin/sh\", \"-c\", {}]\n\
         [[config]]\nsource = \"../app.conf\"\ntarget = \"/etc/app.conf\"\non_change = \"{on_change}\"\n\
         [[config]]\nsource = \"../b.conf\"\ntarget = \"/b.conf\"\non_change = \"{on_change}\"\n",
        quoted(script)
    )
}

/// As programs that know what they do replace a file.
fn replace(path: &Path, contents: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, contents).unwrap();
    fs::rename(&fresh, path).unwrap();
}

fn seen(world: &World) -> Vec<String> {
    let log = world.log("web");
    log.lines().filter(|line| line.contains("seen ")).map(str::to_owned).collect()
}

fn world(name: &str) -> Option<World> {
    let world = World::start(name)?;
    fs::write(world.dir.join("app.conf"), "one").unwrap();
    fs::write(world.dir.join("b.conf"), "b1").unwrap();
    Some(world)
}

fn answers(world: &World) {
    wait_for("another supervisor", || world.run(&["ps"]).status.success().then_some(()));
}

#[test]
fn a_change_is_swapped_in_and_one_reload_follows_for_all_files() {
    let Some(world) = world("config-reload") else { return };
    let (app, b) = (world.dir.join("app.conf"), world.dir.join("b.conf"));
    world.unit("web", &unit(&world, TELLS, "reload"));
    let web = world.running("web");
    world.wait_log("web", "seen 0 one b1");

    // Both at once, and then one in place.
    replace(&app, "two");
    replace(&b, "b2");
    world.wait_log("web", "seen 1 two b2");
    world.ok(&["sync", "web"]);
    fs::write(&app, "three").unwrap();
    world.wait_log("web", "seen 2 three b2");
    replace(&app, "three");
    world.kept("web", &web, "the same contents");
    assert_eq!(seen(&world), ["seen 0 one b1", "seen 1 two b2", "seen 2 three b2"]);
    // The watch may say it of both files in one or one by one; what is done is one.
    let mut what: Vec<String> = world.happened("web").into_iter().map(|(what, _)| what).collect();
    what.dedup();
    assert_eq!(what, ["added", "started", "changed", "swapped", "reloaded", "changed", "swapped", "reloaded"]);
    let why = world.ok(&["why", "web"]);
    for part in ["config./etc/app.conf.contents in its config files", "got the new contents", "told to reload"] {
        assert!(world.happened("web").iter().any(|(_, text)| text.contains(part)), "{part} in {why}");
    }
    // Read-only, and nobody else's.
    let inside = |script: &str| world.says(&["exec", "web", "--", "/bin/sh", "-c", script]);
    assert_eq!(inside("readlink /etc/app.conf").1, "/dev/moored/..data/1/app.conf\n");
    assert_eq!(inside("stat -c %a-%u $(readlink -f /etc/app.conf)").1, "444-0\n");
    assert!(inside("echo x >/etc/app.conf").2.contains("Read-only file system"));
    assert_eq!(inside("ls -A /dev/moored | wc -l").1, "3\n", "the set that counts, the one before, and the link");
    let text = unit(&world, TELLS, "reload").replace("../app.conf", "../other.conf");
    fs::write(world.dir.join("other.conf"), "three").unwrap();
    world.unit("web", &text);
    world.kept("web", &web, "another source with the same contents");

    // What is not there any more changes nothing, and says so.
    fs::remove_file(&b).unwrap();
    world.wait_reason("web", "b.conf: does not exist");
    world.kept("web", &web, "a source is gone");
    replace(&b, "b3");
    world.wait_log("web", "seen 3 three b3");
    world.kept("web", &web, "its files are swapped");
    world.remove_unit("web");
    world.wait_gone("web");
    assert!(!world.dir.join("run/c").join(&web.id).exists());
}

#[test]
fn plan_says_how_a_change_of_contents_arrives() {
    let Some(world) = world("config-plan") else { return };
    let text = unit(&world, TELLS, "reload").replacen("\"reload\"", "\"none\"", 1);
    world.unit("web", &text);
    world.running("web");
    let other = world.dir.join("other/units");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("web.toml"), &text).unwrap();
    let plan = |app: &str, b: &str| {
        fs::write(world.dir.join("other/app.conf"), app).unwrap();
        fs::write(world.dir.join("other/b.conf"), b).unwrap();
        world.ok(&["plan", "--units", other.to_str().unwrap()])
    };
    let none = plan("two", "b1");
    assert!(none.contains("~ web  live     its container runs on\n"), "{none}");
    let reload = plan("two", "b2");
    assert!(reload.contains("~ web  reload   its container runs on, and is told to reload once"), "{reload}");
    for line in ["live     config./etc/app.conf.contents", "reload   config./b.conf.contents"] {
        assert!(reload.contains(line), "{line} in {reload}");
    }
    fs::write(other.join("web.toml"), unit(&world, TELLS, "restart")).unwrap();
    let restart = plan("one", "b2");
    assert!(
        restart.contains("~ web  replace  config./b.conf.contents, config./etc/app.conf.contents take"),
        "{restart}"
    );
    assert!(!restart.contains("b2"), "contents are not shown: {restart}");
}

#[test]
fn a_change_takes_a_new_container_or_nothing_if_the_unit_says_so() {
    let Some(world) = world("config-restart") else { return };
    world.unit("web", &unit(&world, TELLS, "restart"));
    let first = world.running("web");
    world.wait_log("web", "seen 0 one b1");
    replace(&world.dir.join("app.conf"), "two");
    let second = world.replaced("web", &first);
    world.wait_log("web", "seen 0 two b1");

    world.unit("web", &unit(&world, TELLS, "none"));
    let third = world.replaced("web", &second);
    replace(&world.dir.join("app.conf"), "three");
    let inside = || world.says(&["exec", "web", "--", "cat", "/etc/app.conf"]).1;
    wait_for("the new contents", || (inside() == "three").then_some(()));
    world.kept("web", &third, "it is swapped");
    assert!(!world.log("web").contains("three"), "and nobody is told");
}

#[test]
fn no_reader_sees_half_of_a_file_or_of_a_set() {
    let Some(world) = world("config-half") else { return };
    // Both files always hold the same; a reader that opens them by one way sees one set.
    let script = "trap 'exit 0' TERM; while :; do d=$(readlink -f /dev/moored/..data); a=$(cat $d/0/*.conf) && \
                  b=$(cat $d/1/*.conf) && [ \"$a\" != \"$b\" ] && echo torn; \
                  c=$(cat /etc/app.conf); [ ${#c} = 100000 ] || echo half ${#c}; done";
    let set = |letter: &str| {
        for name in ["app.conf", "b.conf"] {
            replace(&world.dir.join(name), &letter.repeat(100_000));
        }
    };
    set("a");
    world.unit("web", &unit(&world, script, "none"));
    let web = world.running("web");
    for letter in ["b", "c", "d", "e", "f", "g"] {
        set(letter);
        wait_for("the set", || {
            let inside = world.says(&["exec", "web", "--", "head", "-c", "1", "/b.conf"]).1;
            (inside == letter).then_some(())
        });
    }
    world.kept("web", &web, "it is swapped");
    assert_eq!(world.log("web"), "", "nothing torn");
}

#[test]
fn a_change_while_no_supervisor_looks_is_found_by_the_next() {
    let Some(mut world) = world("config-away") else { return };
    world.unit("web", &unit(&world, TELLS, "reload"));
    let web = world.running("web");
    world.wait_log("web", "seen 0 one b1");
    let stop = |world: &World| {
        let supervisor = world.pids().supervisor;
        let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        supervisor
    };
    let supervisor = stop(&world);
    replace(&world.dir.join("app.conf"), "two");
    world.kill9(supervisor);
    answers(&world);
    world.wait_log("web", "seen 1 two b1");
    world.kept("web", &web, "its files are swapped");
    // Nothing changed: nothing is told.
    world.kill9(world.pids().supervisor);
    answers(&world);
    world.kept("web", &web, "the supervisor died");

    // What a swap that was cut short leaves: half a set, and a link that was not renamed.
    let supervisor = stop(&world);
    let files = world.dir.join("run/c").join(&web.id).join("files");
    fs::create_dir(files.join("..half")).unwrap();
    fs::write(files.join("..half/x"), "x").unwrap();
    std::os::unix::fs::symlink("..half", files.join("..next")).unwrap();
    replace(&world.dir.join("b.conf"), "b2");
    world.kill9(supervisor);
    answers(&world);
    world.wait_log("web", "seen 2 two b2");
    assert_eq!(fs::read_dir(&files).unwrap().count(), 3, "nothing of what was cut short");
    assert_eq!(seen(&world).len(), 3);

    // After a reboot without the sources the last good contents run.
    assert!(world.supervisor.stop().success());
    fs::remove_dir_all(world.dir.join("run")).unwrap();
    fs::remove_file(world.dir.join("app.conf")).unwrap();
    world.supervisor.up();
    let row = world.wait_phase("web", &["running"]);
    assert!(row["reason"].as_str().unwrap().contains("app.conf: does not exist"), "{row}");
    wait_for("the last good contents", || (world.log("web").matches("seen 0 two b2").count() == 1).then_some(()));
    let again = Running::of(&row);
    replace(&world.dir.join("app.conf"), "three");
    world.wait_log("web", "seen 1 three b2");
    world.kept("web", &again, "its files are swapped");
}

#[test]
fn a_file_that_is_followed_already_is_read_all_the_same() {
    let Some(world) = world("config-shared") else { return };
    let bundle = world.dir.join("bundle");
    fs::create_dir(&bundle).unwrap();
    let config = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": { "args": ["/bin/sleep", "1000"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "root": { "path": world.root, "readonly": true },
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }] },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    world.unit("bundle", "bundle = \"../bundle\"\n[stop]\ntimeout = \"0s\"\n");
    let other = world.running("bundle");
    let text = unit(&world, TELLS, "restart").replace("../app.conf", "../bundle/config.json");
    world.unit("web", &text);
    world.wait_log("web", "ociVersion");
    world.kept("bundle", &other, "nothing of it changed");
}

#[test]
fn mode_says_who_may_read_it_inside() {
    let Some(world) = world("config-mode") else { return };
    let text =
        |mode: &str| unit(&world, TELLS, "reload").replacen("on_change", &format!("mode = \"{mode}\"\non_change"), 1);
    world.unit("web", &text("0640"));
    let web = world.running("web");
    world.wait_log("web", "seen 0 one b1");
    let modes = || world.says(&["exec", "web", "--", "/bin/sh", "-c", "stat -L -c %a /etc/app.conf /b.conf"]).1;
    assert_eq!(modes(), "640\n444\n");
    // What is swapped in has it too.
    replace(&world.dir.join("app.conf"), "two");
    world.wait_log("web", "seen 1 two b1");
    assert_eq!(modes(), "640\n444\n");
    world.kept("web", &web, "it was swapped");
    world.unit("web", &text("0444"));
    world.replaced("web", &web);
}

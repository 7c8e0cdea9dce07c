//! `up --manual`, `moored plan` and `moored apply`: what waits, what is told of it before, and what is then done.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use serde_json::Value;

use super::support::{is_alive, tool, wait_for};
use super::world::{FOREVER, Running, World};

const WAITS: &str = "a change waits for `moored apply`";

fn manual(name: &str) -> Option<World> {
    let mut world = World::prepare(name)?;
    world.supervisor = world.supervisor.with(&["--manual"]);
    Some(world)
}

/// The plan, and its changes as `how unit`.
fn plan(world: &World) -> (Value, Vec<String>) {
    let (_, out, err) = world.says(&["plan", "--json"]);
    let plan: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let changes = plan["changes"].as_array().unwrap().iter();
    let line = |change: &Value| format!("{} {}", change["how"].as_str().unwrap(), change["unit"].as_str().unwrap());
    let changes = changes.map(line).collect();
    (plan, changes)
}

#[test]
fn under_manual_nothing_changes_before_it_is_applied() {
    let Some(mut world) = manual("manual") else { return };
    world.unit("web", &world.service_text("one"));
    world.unit("db", &world.service_text("one"));
    world.unit("gone", &world.service_text("one"));
    // The first start has nothing to go back to.
    world.supervisor.up();
    let (web, db, gone) = (world.running("web"), world.running("db"), world.running("gone"));
    assert_eq!(world.says(&["plan"]), (0, "nothing would change\n".into(), String::new()));
    assert_eq!(world.says(&["sync"]), (0, String::new(), String::new()));
    assert!(world.ok(&["status"]).contains("up --manual: files take effect with `moored apply`"));

    world.unit("web", &world.service_text("two"));
    world.unit("db", &world.service_text("two"));
    world.unit("new", &world.service_text("one"));
    world.remove_unit("gone");
    let still = |why: &str| {
        for (unit, was) in [("web", &web), ("db", &db), ("gone", &gone)] {
            world.kept(unit, was, why);
        }
        assert_eq!(world.find("web").unwrap()["drift"], WAITS);
        let removal = "its file is gone, which waits for `moored apply`";
        world.wait_unit("gone", "waiting", |row| row["drift"] == removal);
        let new = world.find("new").unwrap();
        assert_eq!((&new["phase"], &new["drift"]), (&"waiting".into(), &"new, waits for `moored apply`".into()));
    };
    still("nobody applied anything");
    assert!(world.ok(&["ps"]).contains(&format!("DRIFT: {WAITS}")));
    let (code, said, _) = world.says(&["sync", "web"]);
    assert_eq!((code, said), (2, format!("web: {WAITS}\n")), "what is on disk does not run, and will not by itself");
    let (code, _, said) = world.says(&["start", "new"]);
    assert_eq!((code, said.as_str()), (1, "moored: new is not in force: new, waits for `moored apply`\n"));
    // A comment is no change, and neither is an edit that was taken back.
    world.unit("db", &format!("# the same\n{}", world.service_text("one")));
    world.wait_unit("db", "as it was", |row| row["drift"].is_null());
    world.unit("db", &world.service_text("two"));
    world.wait_unit("db", "waiting", |row| row["drift"] == WAITS);

    // It waits on, whoever is killed, and a plan knows all of it as soon as there is somebody to ask.
    world.kill9(world.pids().supervisor);
    world.wait_unit("web", "waiting again", |row| row["drift"] == WAITS);
    assert_eq!(plan(&world).1, ["replace db", "remove gone", "add new", "replace web"]);
    still("the supervisor was killed");

    // One unit, then the rest.
    assert_eq!(world.says(&["apply", "web"]), (0, "web: put in force\n".into(), String::new()));
    let web = world.running("web");
    world.kept("db", &db, "another unit was applied");
    let by = world.ok(&["events", "web"]);
    assert!(by.contains("changed: process.args") && by.contains("(by "), "{by}");
    let said = "db: put in force\ngone: removed\nnew: put in force\n";
    assert_eq!(world.says(&["apply", "--timeout", "20s"]), (0, said.into(), String::new()));
    gone.ended();
    db.ended();
    world.kept("web", &web, "it was applied before");
    assert!(world.find("gone").is_none() && world.find("new").unwrap()["phase"] == "running");
    assert_eq!(world.says(&["apply"]), (0, String::new(), String::new()), "nothing waits any more");
}

#[test]
fn after_a_stop_the_last_applied_texts_run() {
    let Some(mut world) = manual("applied") else { return };
    world.unit("web", &world.service_text("one"));
    world.unit("bad", &world.service_text("one"));
    world.supervisor.up();
    world.running("web");
    assert!(world.supervisor.stop().success());
    world.unit("web", &world.service_text("two"));
    world.unit("bad", "rootfs = 1");
    world.unit("new", &world.service_text("one"));
    world.supervisor.up();
    let web = world.running("web");
    world.wait_unit("web", "waiting", |row| row["drift"] == WAITS);
    assert!(world.reason("bad").contains("running with the last good text"), "{}", world.reason("bad"));
    assert_eq!(plan(&world).1, ["add new", "replace web", "invalid bad"]);

    // What is valid is applied, and what is not is told.
    let (code, said, _) = world.says(&["apply"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.starts_with("new: put in force\nweb: put in force\n") && said.contains("bad.toml:1:10"), "{said}");
    world.replaced("web", &web);

    // A mask waits as a removal does; an up without --manual needs no order.
    let file = world.units().join("new.toml");
    fs::remove_file(&file).unwrap();
    symlink("/dev/null", &file).unwrap();
    world.wait_reason("new", "which waits for `moored apply`");
    assert_eq!(plan(&world).1, ["remove new", "invalid bad"]);
    assert_eq!(world.find("new").unwrap()["phase"], "running");
    let (code, said, _) = world.says(&["apply", "new"]);
    assert_eq!((code, said.as_str()), (0, "new: masked\n"));
    world.wait_phase("new", &["stopped"]);
}

#[test]
fn a_plan_is_what_is_then_done() {
    let Some(mut world) = manual("planned") else { return };
    let text =
        |world: &World, top: &str, tag: &str, tables: &str| world.text(top, &format!(": {tag}; {FOREVER}"), tables);
    world.unit("db", &text(&world, "", "one", ""));
    world.unit("side", &text(&world, "", "one", "[network]\nmode = \"unit:db\"\n"));
    world.unit("web", &text(&world, "depends_on.db = { on_loss = \"restart\" }", "one", ""));
    world.unit("live", &text(&world, "", "one", ""));
    world.unit("off", &text(&world, "", "one", ""));
    world.unit("gone", &text(&world, "", "one", ""));
    world.unit("same", &text(&world, "depends_on.db = \"started\"", "one", ""));
    world.unit("late", &text(&world, "depends_on.queue = \"started\"", "one", ""));
    world.unit("held", &text(&world, "", "one", ""));
    world.supervisor.up();
    for unit in ["db", "side", "web", "live", "off", "gone", "same", "held"] {
        world.running(unit);
    }
    world.ok(&["stop", "held"]);
    world.unit("db", &text(&world, "", "two", ""));
    world.unit("live", &text(&world, "", "one", "[resources]\nmemory = \"64M\"\n"));
    world.unit("off", &text(&world, "enabled = false", "one", ""));
    world.unit("queue", &text(&world, "", "one", ""));
    world.unit("new", &text(&world, "depends_on.nobody = \"started\"", "one", ""));
    world.unit("held", &text(&world, "", "two", ""));
    world.remove_unit("gone");
    let before: Vec<Value> = world.ps();
    let (told, changes) = plan(&world);
    let mut expected = vec!["live held", "add new"];
    // Then in the order in which it begins.
    expected.extend(["remove gone", "live live", "stop off", "add queue", "replace side"]);
    expected.extend(["replace db", "start late", "replace web"]);
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines
    };
    let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
    assert_eq!(sorted(&changes), sorted(&expected), "{told}");
    let place = |line: &str| changes.iter().position(|change| change == line).unwrap();
    assert!(place("replace side") < place("replace db"), "its network goes after it: {changes:?}");
    assert!(place("replace db") < place("replace web"), "{changes:?}");
    assert!(place("add queue") < place("start late"), "{changes:?}");
    let why = |unit: &str| {
        let mut all = told["changes"].as_array().unwrap().iter();
        all.find(|change| change["unit"] == unit).unwrap()["why"].as_str().unwrap().to_owned()
    };
    assert_eq!(why("db"), "process.args takes a new container");
    assert_eq!(why("new"), "it is not in force; waits for nobody (started; no such unit)");
    assert!(why("held").starts_with("nothing of it runs; stopped by "), "{}", why("held"));
    assert_eq!(why("web"), "db, which it depends on, is gone or was started anew");
    assert_eq!(why("late"), "what it waits for comes");
    let words = world.ok(&["plan"]);
    let hash = told["hash"].as_str().unwrap();
    assert!(words.contains(&format!("exactly this: moored apply --plan {hash}\n")), "{words}");

    let (code, said, err) = world.says(&["apply", "--plan", hash]);
    assert_eq!(code, 2, "new waits: {said}{err}");
    wait_for("web's next container", || {
        let id = |rows: &[Value]| rows.iter().find(|row| row["unit"] == "web").map(|row| row["id"].clone());
        let after = world.ps();
        (id(&after) != id(&before) && after.iter().all(|row| row["phase"] != "stopping")).then_some(())
    });
    for unit in ["db", "side", "web", "queue", "late"] {
        world.running(unit);
    }
    let container = |rows: &[Value], unit: &str| {
        let row = rows.iter().find(|row| row["unit"] == unit);
        row.and_then(|row| row["id"].as_str()).map(str::to_owned)
    };
    let after = world.ps();
    for unit in ["db", "side", "web", "live", "off", "gone", "same", "late", "held", "queue", "new"] {
        let how = changes.iter().find_map(|change| change.strip_suffix(&format!(" {unit}")));
        let (old, new) = (container(&before, unit), container(&after, unit));
        let right = match how {
            None | Some("live") => old == new,
            Some("replace") => old.is_some() && new.is_some() && old != new,
            Some("add" | "start") => old.is_none() && (new.is_some() || unit == "new"),
            Some("stop" | "remove") => old.is_some() && new.is_none(),
            Some(other) => panic!("{unit}: {other}"),
        };
        assert!(right, "{unit} was to be {how:?}, had {old:?} and has {new:?}");
    }
    assert_eq!(plan(&world).1, [] as [String; 0]);
}

#[test]
fn only_the_plan_that_was_seen_is_applied() {
    let Some(mut world) = manual("hash") else { return };
    world.unit("web", &world.service_text("one"));
    world.supervisor.up();
    let web = world.running("web");
    world.unit("web", &world.service_text("two"));
    let hash = |world: &World| plan(world).0["hash"].as_str().unwrap().to_owned();
    let seen = hash(&world);
    assert_eq!(hash(&world), seen);
    world.unit("other", &world.service_text("one"));
    let (code, out, err) = world.says(&["apply", "--plan", &seen]);
    assert_eq!((code, out.as_str()), (1, ""));
    let refused = format!("moored: the plan is not {seen} any more");
    assert!(err.starts_with(&refused) && err.contains("nothing was put in force"), "{err}");
    world.kept("web", &web, "the plan was another one");
    // As it was, it is the same plan again.
    world.remove_unit("other");
    assert_eq!(hash(&world), seen);
    assert_eq!(world.says(&["apply", "--plan", &seen]).0, 0);
    world.replaced("web", &web);
    assert_eq!(world.says(&["apply", "--plan", &seen]).0, 1, "it is done");
}

#[test]
fn atomic_is_all_or_nothing() {
    let Some(mut world) = manual("atomic") else { return };
    for unit in ["a", "b", "c"] {
        world.unit(unit, &world.service_text("one"));
    }
    world.supervisor.up();
    let old: Vec<Running> = ["a", "b", "c"].map(|unit| world.running(unit)).to_vec();
    let kept = |why: &str| {
        for (unit, was) in ["a", "b", "c"].iter().zip(&old) {
            world.kept(unit, was, why);
        }
    };
    world.unit("a", &world.service_text("two"));
    world.unit("b", "rootfs = 1");
    world.unit("c", "rootfs = 1\nenabled = 2");
    let (code, said, _) = world.says(&["apply", "--atomic"]);
    assert_eq!(code, 1, "{said}");
    let parts = ["b.toml:1:10", "c.toml:1:10", "c.toml:2:11", "nothing was put in force"];
    assert!(parts.iter().all(|part| said.contains(part)), "each mistake is told: {said}");
    kept("two are not valid");

    // A text that is being written is not settled.
    world.unit("b", &world.service_text("two"));
    world.unit("c", &world.service_text("two"));
    let writer = fs::File::options().append(true).open(world.units().join("c.toml")).unwrap();
    let (code, said, _) = world.says(&["apply", "--atomic", "--timeout", "300ms"]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("c: the file is being written by pid") && said.contains("nothing was put in force"),
        "{said}"
    );
    for (unit, was) in ["a", "b", "c"].iter().zip(&old) {
        assert_eq!(world.running(unit), *was, "one is being written");
    }
    // A plain order does what it can until its time is over.
    let (code, said, _) = world.says(&["apply", "--timeout", "300ms"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.starts_with("a: put in force\nb: put in force\n"), "{said}");
    drop(writer);
    let (a, b) = (world.replaced("a", &old[0]), world.replaced("b", &old[1]));

    world.unit("a", &world.service_text("three"));
    world.unit("b", &world.service_text("three"));
    let said = "a: put in force\nb: put in force\nc: put in force\n";
    assert_eq!(world.says(&["apply", "--atomic"]), (0, said.into(), String::new()));
    world.replaced("a", &a);
    world.replaced("b", &b);
    world.replaced("c", &old[2]);
}

#[test]
fn without_manual_atomic_leaves_behind_what_it_did_not_take() {
    let Some(world) = World::start("left") else { return };
    let (a, b) = (world.service("a", "one"), world.service("b", "one"));
    world.unit("b", "rootfs = 1");
    world.wait_reason("b", "running with the last good text");
    // The quiet time is not over: the order reads it.
    fs::write(world.units().join("a.toml"), world.service_text("two")).unwrap();
    let (code, said, _) = world.says(&["apply", "--atomic"]);
    assert_eq!(code, 1, "{said}");
    // If it was over before the order came, it is replaced, which may take a while.
    if world.reason("a").contains("left it behind") {
        world.kept("a", &a, "it was left behind");
    } else {
        world.replaced("a", &a);
    }
    world.unit("b", &world.service_text("two"));
    world.replaced("b", &b);
    assert_eq!(world.says(&["apply"]).0, 0);
    world.replaced("a", &a);
}

#[test]
fn removals_that_the_brake_holds_are_confirmed_by_name_or_all() {
    for (name, arguments) in [("confirm", &[][..]), ("confirm-manual", &["--manual"][..])] {
        let Some(mut world) = World::prepare(name) else { return };
        world.supervisor = world.supervisor.with(arguments);
        for unit in ["a", "b", "c"] {
            world.unit(unit, &world.service_text("one"));
        }
        world.supervisor.up();
        let [a, b, c] = ["a", "b", "c"].map(|unit| world.running(unit));
        assert_eq!(
            world.says(&["apply", "--confirm-removals"]),
            (0, "no removal waits to be confirmed\n".into(), String::new())
        );
        fs::rename(world.units(), world.dir.join("away")).unwrap();
        fs::create_dir(world.units()).unwrap();
        wait_for("the brake", || world.ok(&["ps"]).contains("3 of its units would go").then_some(()));
        let (code, said, _) = world.says(&["apply", "--timeout", "10s"]);
        assert_eq!((code, said.as_str()), (0, ""), "the brake holds without the option");
        for (unit, was) in [("a", &a), ("b", &b), ("c", &c)] {
            world.kept(unit, was, "the brake holds");
        }
        let (code, said, err) = world.says(&["apply", "--confirm-removals", "nobody"]);
        assert!(code == 1 && said.is_empty() && err.contains("no unit `nobody`"), "{code} {said} {err}");
        let (code, said, _) = world.says(&["apply", "--confirm-removals", "a"]);
        assert!(code == 0 && said.starts_with("a: removal confirmed\n"), "{code} {said}");
        world.wait_gone("a");
        a.ended();
        world.kept("b", &b, "it was not named");
        let (code, said, _) = world.says(&["apply", "--confirm-removals"]);
        assert!(code == 0 && said.starts_with("b: removal confirmed\nc: removal confirmed\n"), "{code} {said}");
        world.wait_gone("b");
        world.wait_gone("c");
    }
}

#[test]
fn apply_has_the_exit_codes_of_sync() {
    let Some(mut world) = manual("codes") else { return };
    world.unit("web", &world.service_text("one"));
    world.supervisor.up();
    world.running("web");
    world.unit("fails", &world.text("type = \"oneshot\"", "exit 3", ""));
    let said = "fails: put in force\nfails: last exit: code 3\n";
    assert_eq!(world.says(&["apply"]), (2, said.into(), String::new()));
    world.script(
        "slow",
        "trap 'echo no' TERM; echo ready; while :; do sleep 1000 & wait; done",
        "[stop]\ntimeout = \"1m\"\n",
    );
    assert_eq!(world.says(&["apply", "slow"]).0, 0);
    world.wait_log("slow", "ready");
    world.remove_unit("slow");
    let (code, said, _) = world.says(&["apply", "--timeout", "300ms", "slow"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.starts_with("slow: removed\nslow: its file is gone; killed in "), "{said}");
    world.ok(&["kill", "--all", "slow"]);
    let (code, _, err) = world.says(&["apply", "wbe"]);
    assert_eq!((code, err.as_str()), (1, "moored: no unit `wbe`, did you mean `web`?\n"));
    assert_eq!(world.says(&["apply", "--atomic", "--timeout", "x"]).0, 64);
}

#[test]
fn a_state_dir_that_takes_nothing_refuses_the_order() {
    let Some(mut world) = manual("full") else { return };
    world.unit("web", &world.service_text("one"));
    let state = world.dir.join("state");
    fs::create_dir(&state).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &state, "tmpfs", flags, Some(c"mode=0700")).unwrap();
    world.supervisor.up();
    let web = world.running("web");
    world.ok(&["sync"]);
    rustix::mount::mount_remount(&state, rustix::mount::MountFlags::RDONLY, "").unwrap();
    world.unit("web", &world.service_text("two"));
    let (code, said, err) = world.says(&["apply"]);
    assert_eq!((code, said.as_str()), (1, ""), "{err}");
    assert!(err.contains("nothing was put in force, as a restart would not know of it: "), "{err}");
    world.kept("web", &web, "it could not be recorded");
    rustix::mount::mount_remount(&state, flags, "").unwrap();
    assert_eq!(world.says(&["apply"]).0, 0);
    world.replaced("web", &web);
    assert!(world.supervisor.stop().success());
}

#[test]
fn a_last_good_text_that_is_lost_costs_no_container() {
    let Some(mut world) = manual("lost") else { return };
    world.unit("web", &world.service_text("one"));
    world.unit("db", &world.service_text("one"));
    world.supervisor.up();
    let (web, db) = (world.running("web"), world.running("db"));
    world.unit("db", &world.service_text("two"));
    world.wait_unit("db", "waiting", |row| row["drift"] == WAITS);
    for state in ["once", "and again"] {
        let lost = world.dir.join("state/units/web.json");
        wait_for("the last good text", || lost.exists().then_some(()));
        fs::remove_file(lost).unwrap();
        world.kill9(world.pids().supervisor);
        // What runs has nothing to go back to but its file.
        world.wait_unit("web", "in force", |row| row["drift"].is_null() && row["phase"] == "running");
        world.kept("web", &web, state);
        world.wait_unit("db", "waiting", |row| row["drift"] == WAITS);
        world.kept("db", &db, state);
    }
}

/// What is told of a unit while its new text is on its way to the disk stores the old text nowhere: a crash would split the set.
#[test]
fn an_order_writes_the_new_texts_once_and_no_old_one_after_them() {
    use rustix::fs::inotify;
    let Some(mut world) = manual("once") else { return };
    let units = ["a", "b"];
    units.iter().for_each(|unit| world.unit(unit, &world.service_text("0")));
    world.supervisor.up();
    units.iter().for_each(|unit| drop(world.running(unit)));
    let own_files = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&own_files, world.dir.join("state/units"), inotify::WatchFlags::MOVED_TO).unwrap();
    let written = || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&own_files, &mut buffer);
        let mut names = Vec::new();
        while let Ok(event) = reader.next() {
            names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
        names
    };
    for round in 1..=5 {
        // Of a text that was not valid there is something to tell when it is.
        world.unit("a", "executable = ");
        world.wait_unit("a", "told", |row| row["drift"] == "the text on disk is not valid");
        written();
        units.iter().for_each(|unit| world.unit(unit, &world.service_text(&format!("{round}"))));
        world.ok(&["apply", "--atomic", "a", "b"]);
        // Asked for behind all that is to be written.
        world.ok(&["stop", "a"]);
        world.ok(&["start", "a"]);
        let mut written = written();
        written.sort();
        assert_eq!(written, ["a.json", "b.json"], "round {round}");
    }
}

/// The supervisor killed at each of a sample of its threads' system calls while an order is carried out: all texts are those from before, or
/// all are the new ones, and the files never ask for anything else by themselves.
#[test]
fn killed_at_any_call_all_of_an_order_is_in_force_or_nothing_of_it() {
    let Some(strace) = tool("strace") else { return };
    let Some(mut world) = manual("killed") else { return };
    let units = ["a", "b", "c", "d"];
    units.iter().for_each(|unit| world.unit(unit, &world.service_text("0")));
    world.supervisor.up();
    units.iter().for_each(|unit| drop(world.running(unit)));
    let (mut applied, mut kept, mut survived) = (0, 0, 0);
    // Each thread counts its own calls; most of them are the few that write the set.
    for (round, step) in (1..=24).chain([30, 40, 60, 90]).enumerate() {
        let before: Vec<Running> = units.map(|unit| world.running(unit)).to_vec();
        units.iter().for_each(|unit| world.unit(unit, &world.service_text(&format!("{}", round + 1))));
        let waiting = |row: &Value| row["drift"] == WAITS;
        units.iter().for_each(|unit| drop(world.wait_unit(unit, "waiting", waiting)));
        let pid = world.pids().supervisor;
        let trap = super::crash::Trap::set(&strace, pid, true, step);
        let mut client = world.moored(&["apply", "--atomic"]);
        let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // It would ask the next supervisor again, and carry out what this one left.
        wait_for("an answer, or nobody to give one", || {
            (client.try_wait().unwrap().is_some() || !is_alive(pid)).then_some(())
        });
        let _ = client.kill();
        client.wait().unwrap();
        drop(trap);
        // One look at all of them, by a supervisor that has read all of them.
        let still = wait_for("each unit to be one or the other", || {
            let rows: Vec<Value> = serde_json::from_slice(&world.run(&["ps", "--json"]).stdout).ok()?;
            let known = rows.iter().all(|row| row["drift"].is_null() || row["drift"] == WAITS);
            known.then(|| rows.iter().map(|row| row["drift"] == WAITS).collect::<Vec<bool>>())
        });
        assert_eq!(still.len(), units.len());
        assert!(still.iter().all(|one| *one == still[0]), "{still:?} at call {step}\n{}", world.output());
        for (unit, was) in units.iter().zip(&before) {
            match still[0] {
                true => assert_eq!(world.running(unit), *was, "at call {step}\n{}", world.output()),
                false => drop(world.replaced(unit, was)),
            }
        }
        match (still[0], world.pids().supervisor == pid) {
            (true, _) => kept += 1,
            (false, false) => applied += 1,
            (false, true) => survived += 1,
        }
        if still[0] {
            assert_eq!(world.says(&["apply"]).0, 0);
        }
    }
    println!("killed: {kept} orders were not carried out, {applied} were; {survived} times it lived");
    assert!(applied > 0 && kept > 0, "{kept} and {applied}: the steps miss one side");
}

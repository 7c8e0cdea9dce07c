//! Edits of unit files, and what becomes of each container: kept, replaced, removed (DESIGN §5, SAFETY invariants 2 to 4).

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use super::support::wait_for;
use super::world::{FOREVER, Running, World};

/// Longer than a removal settles (1 s), by far less than a test should take.
const PAST_A_REMOVAL: Duration = Duration::from_millis(1500);

#[test]
fn a_memory_limit_below_what_is_held_is_refused_with_the_figures() {
    let Some(world) = World::start("held") else { return };
    let script = format!("dd if=/dev/zero of=/dev/shm/held bs=1M count=30; echo held; {FOREVER}");
    world.script("web", &script, "[resources]\nmemory = \"100M\"\n");
    world.wait_log("web", "held");
    let web = world.running("web");
    world.script("web", &script, "[resources]\nmemory = \"8M\"\n");
    let row = world.wait_reason("web", "8388608 bytes is below the 3");
    assert_eq!((row["phase"].as_str(), row["pid"].as_i64()), (Some("running"), Some(web.pid)), "{row}");
    let limit = || world.limit("web.1", "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit(), "104857600");
    // A limit that it can keep is taken, and the complaint is over.
    world.script("web", &script, "[resources]\nmemory = \"64M\"\n");
    wait_for("the limit", || (limit() == "67108864").then_some(()));
    world.kept("web", &web, "it never lost its memory");
    wait_for("no complaint", || (world.find("web")?["reason"] == "").then_some(()));
}

#[test]
fn only_a_change_of_meaning_replaces_a_container() {
    let Some(world) = World::start("edits") else { return };
    let first = world.service("web", "one");
    assert_eq!(first.id, "web.1");

    let text = world.service_text("one");
    world.unit("web", &format!("# a comment\n{text}\n# and another\n"));
    world.kept("web", &first, "only comments changed");
    world.unit("web", &text.replace(" = ", "="));
    world.kept("web", &first, "only spaces changed");
    world.unit("web", &format!("{text}[restart]\npolicy = \"on-failure\"\n[stop]\ntimeout = \"7s\"\n"));
    world.kept("web", &first, "policies are the supervisor's own");
    world.unit("web", &format!("{text}[resources]\nmemory = \"64M\"\ncpus = 0.5\npids = 99\n"));
    world.kept("web", &first, "its cgroup takes the limits");
    let limit = |controller, legacy, unified| world.limit("web.1", controller, legacy, unified);
    wait_for("the limits", || (limit("memory", "memory.limit_in_bytes", "memory.max") == "67108864").then_some(()));
    wait_for("the limits", || (limit("pids", "pids.max", "pids.max") == "99").then_some(()));
    assert!(["50000", "50000 100000"].contains(&limit("cpu", "cpu.cfs_quota_us", "cpu.max").as_str()));
    let (code, said, why) = world.says(&["exec", "web", "--", "sh", "-c", "echo > /dev/null && head -c 1 /dev/zero"]);
    assert_eq!((code, said.as_str()), (0, "\0"), "its devices are what they were: {why}");
    world.unit("web", &text);
    world.kept("web", &first, "and back");
    wait_for("no limits", || (limit("pids", "pids.max", "pids.max") == "2048").then_some(()));
    assert!(["-1", "max 100000"].contains(&limit("cpu", "cpu.cfs_quota_us", "cpu.max").as_str()));
    assert_ne!(limit("memory", "memory.limit_in_bytes", "memory.max"), "67108864");

    world.unit("web", &world.service_text("two"));
    let second = world.replaced("web", &first);
    first.ended();

    // In place, as `echo >` does it, and as an editor that writes a copy and renames it over.
    fs::write(world.units().join("web.toml"), world.service_text("three")).unwrap();
    let third = world.replaced("web", &second);
    fs::write(world.units().join("web.toml~"), world.service_text("four")).unwrap();
    world.kept("web", &third, "a backup file is no unit");
    fs::rename(world.units().join("web.toml~"), world.units().join("web.toml")).unwrap();
    let fourth = world.replaced("web", &third);
    fs::write(world.units().join(".web.toml.swp"), world.service_text("four")).unwrap();
    fs::rename(world.units().join(".web.toml.swp"), world.units().join("web.toml")).unwrap();
    world.kept("web", &fourth, "the same text was renamed over it");

    world.remove_unit("web");
    world.wait_gone("web");
    fourth.ended();
    assert!(!world.cgroup().join(&fourth.id).exists());
    let again = world.service("web", "four");
    assert_eq!(again.id, "web.5", "a generation never repeats");
}

#[test]
fn a_broken_text_changes_nothing_and_says_where_it_is_broken() {
    let Some(world) = World::start("broken") else { return };
    let first = world.service("web", "one");
    let text = world.service_text("one");

    world.unit("web", &text.replace("args", "comand"));
    let row = world.wait_reason("web", "running with the last good text");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.starts_with("web.toml:4:1 unknown key `comand`, did you mean `args`?"), "{reason}");
    assert_eq!((row["phase"].as_str(), Running::of(&row)), (Some("running"), first.clone()));
    assert_eq!(row["drift"], "the text on disk is not valid");
    let (code, said, _) = world.says(&["sync"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("web.toml:4:1 unknown key `comand`, did you mean `args`?"), "{said}");

    fs::write(world.units().join("web.toml"), "rootfs = \"/x\n").unwrap();
    let row = world.wait_reason("web", "web.toml:1:");
    assert!(row["reason"].as_str().unwrap().contains("running with the last good text"), "{row}");
    world.kept("web", &first, "the syntax is broken");

    // A text that is right and whose source is not.
    world.unit("web", &text.replace("busybox-root", "no-root"));
    world.wait_reason("web", "no-root");
    world.kept("web", &first, "its root is missing");

    world.unit("web", &text);
    world.wait_unit("web", "valid", |row| row["drift"].is_null() && row["reason"] == "");
    world.kept("web", &first, "it was fixed and means what it meant");
    world.unit("web", &text.replace("args", "comand"));
    world.wait_reason("web", "comand");
    world.unit("web", &world.service_text("two"));
    let second = world.replaced("web", &first);

    // The last good text holds for a restart too, and is removed as any other.
    world.unit("web", "no");
    world.wait_reason("web", "web.toml:1:");
    world.ok(&["restart", "web"]);
    world.replaced("web", &second);
    world.remove_unit("web");
    world.wait_gone("web");
}

#[test]
fn one_broken_file_among_forty_holds_back_only_itself() {
    let Some(mut world) = World::start("forty") else { return };
    let names: Vec<String> = (0..40).map(|n| format!("unit{n:02}")).collect();
    for name in &names {
        world.unit(name, &world.service_text("one"));
    }
    let before: Vec<Running> = names.iter().map(|name| world.running(name)).collect();
    world.unit(&names[7], "rootfs = 3");
    world.wait_reason(&names[7], "unit07.toml:1:");
    for name in &names[10..20] {
        world.unit(name, &world.service_text("two"));
    }
    names[20..30].iter().for_each(|name| world.remove_unit(name));
    (40..50).for_each(|n| world.unit(&format!("unit{n}"), &world.service_text("one")));
    for (name, old) in names.iter().zip(&before).take(20).skip(10) {
        world.replaced(name, old);
    }
    names[20..30].iter().for_each(|name| world.wait_gone(name));
    (40..50).for_each(|n| drop(world.running(&format!("unit{n}"))));
    let (code, _, _) = world.says(&["sync"]);
    assert_eq!(code, 1, "one is not valid");
    for index in (0..10).chain(30..40) {
        assert_eq!(world.running(&names[index]), before[index], "{}", names[index]);
    }
    assert_eq!(world.ps().len(), 40);

    // A reboot: supervisor and keeper are gone, and so is all that is below /run.
    world.supervisor.stop();
    fs::remove_dir_all(world.dir.join("run")).unwrap();
    world.supervisor.up();
    let running = || {
        let rows = world.ps();
        let runs = rows.iter().filter(|row| row["phase"] == "running").count();
        (rows.len() == 40 && runs == 40).then_some(rows)
    };
    let rows = wait_for("all forty to run again", running);
    let broken = rows.iter().find(|row| row["unit"] == names[7].as_str()).unwrap();
    let reason = broken["reason"].as_str().unwrap();
    assert!(reason.starts_with("unit07.toml:1:") && reason.ends_with("running with the last good text"), "{reason}");
}

#[test]
fn a_removal_settles_for_a_second() {
    let Some(world) = World::start("removal") else { return };
    let (web, file) = (world.service("web", "one"), world.units().join("web.toml"));
    let aside = world.units().join("web.toml.orig");
    fs::rename(&file, &aside).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    fs::rename(&aside, &file).unwrap();
    // As git checkout and rsync do it: away, then another file of the same text.
    fs::remove_file(&file).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    fs::write(&file, world.service_text("one")).unwrap();
    std::thread::sleep(PAST_A_REMOVAL);
    world.kept("web", &web, "its file was away for a moment only");

    // Another name is another unit.
    fs::rename(&file, world.units().join("front.toml")).unwrap();
    world.running("front");
    world.wait_gone("web");
    web.ended();
    let what: Vec<String> = world.happened("web").into_iter().map(|(what, _)| what).collect();
    assert_eq!(what, ["added", "started", "removed", "stopping", "exited"], "and nothing went wrong on the way");
}

// ---- links and sources ----

#[test]
fn a_repointed_link_is_a_change_of_what_it_leads_to() {
    let Some(world) = World::start("links") else { return };
    let release = |n: u32| world.dir.join(&format!("releases/{n}"));
    for n in [1, 2] {
        write_bundle(&world, &release(n), &format!("release {n}"));
    }
    let current = world.dir.join("current");
    symlink("releases/1", &current).unwrap();
    world.unit("web", "bundle = \"../current\"");
    let first = world.running("web");
    world.wait_log("web", "release 1");

    repoint(&current, "releases/2");
    let second = world.replaced("web", &first);
    world.wait_log("web", "release 2");
    repoint(&current, "./releases/2");
    world.kept("web", &second, "the link leads to the same place");
    repoint(&current, "releases/none");
    world.wait_reason("web", "none");
    world.kept("web", &second, "the link leads nowhere");
    repoint(&current, "releases/1");
    world.replaced("web", &second);

    // A unit file that is a link: relative paths start where it leads to.
    for site in ["a", "b"] {
        let site = world.dir.join(site);
        fs::create_dir(&site).unwrap();
        fs::write(site.join("app.toml"), "bundle = \"bundle\"").unwrap();
        write_bundle(&world, &site.join("bundle"), &format!("site {}", site.display()));
    }
    let link = world.units().join("app.toml");
    symlink("../a/app.toml", &link).unwrap();
    let app = world.running("app");
    repoint(&link, "../b/app.toml");
    let app = world.replaced("app", &app);
    fs::write(world.dir.join("b/app.toml"), "# behind the link\nbundle = \"bundle\"").unwrap();
    world.kept("app", &app, "only a comment changed");
    fs::write(world.dir.join("b/app.toml"), "bundle = \"bundle\"\nhostname = \"other\"").unwrap();
    world.replaced("app", &app);
}

#[test]
fn config_json_is_part_of_the_unit() {
    let Some(world) = World::start("config") else { return };
    let bundle = world.dir.join("bundle");
    write_bundle(&world, &bundle, "one");
    world.unit("web", "bundle = \"../bundle\"");
    let first = world.running("web");
    let config = bundle.join("config.json");
    let text = fs::read_to_string(&config).unwrap();

    let pretty: serde_json::Value = serde_json::from_str(&text).unwrap();
    fs::write(&config, serde_json::to_string_pretty(&pretty).unwrap()).unwrap();
    world.kept("web", &first, "config.json was formatted");
    fs::write(&config, text.replace("echo one", "echo two")).unwrap();
    let second = world.replaced("web", &first);

    fs::write(&config, text.replace("\"cwd\":\"/\"", "\"cwd\":7")).unwrap();
    let row = world.wait_reason("web", "config.json");
    assert!(row["reason"].as_str().unwrap().contains("process.cwd"), "{row}");
    world.kept("web", &second, "a type is wrong");
    fs::remove_file(&config).unwrap();
    world.wait_reason("web", "holds no config.json");
    world.kept("web", &second, "config.json is gone");
    fs::write(&config, text.replace("echo one", "echo two")).unwrap();
    world.wait_unit("web", "valid", |row| row["reason"] == "");
    world.kept("web", &second, "it is back as it was");
}

#[test]
fn a_swap_of_data_is_all_or_nothing() {
    let Some(mut world) = World::prepare("data") else { return };
    let set = |world: &World, version: &str, tag: &str| {
        let dir = world.units().join(format!("..{version}"));
        fs::create_dir(&dir).unwrap();
        for name in ["a", "b"] {
            fs::write(dir.join(format!("{name}.toml")), world.service_text(tag)).unwrap();
        }
    };
    set(&world, "v1", "one");
    set(&world, "v2", "two");
    let data = world.units().join("..data");
    symlink("..v1", &data).unwrap();
    for name in ["a", "b"] {
        symlink(format!("..data/{name}.toml"), world.units().join(format!("{name}.toml"))).unwrap();
    }
    world.supervisor.up();
    let (a, b) = (world.running("a"), world.running("b"));

    repoint(&data, "..v2");
    let (a, b) = (world.replaced("a", &a), world.replaced("b", &b));
    // A set of which a part is not valid stays out as a whole, also when it is asked for.
    set(&world, "v3", "three");
    fs::write(world.units().join("..v3/b.toml"), "bundle = 1").unwrap();
    repoint(&data, "..v3");
    let row = world.wait_reason("a", "its new text waits: b.toml, which is swapped with it, is not valid");
    assert!(row["drift"].is_string(), "{row}");
    world.wait_reason("b", "running with the last good text");
    let (code, said, _) = world.says(&["apply"]);
    assert!(code == 1 && said.contains("b.toml:1:10") && said.contains("a: its new text waits"), "{code} {said}");
    world.kept("a", &a, "its set is not valid");
    world.kept("b", &b, "its new text is not valid");
    fs::remove_dir_all(world.units().join("..v1")).unwrap();
    world.kept("a", &a, "an old set was cleared away");
    // What is no part of it is not held.
    world.service("other", "one");
    set(&world, "v4", "four");
    repoint(&data, "..v4");
    let a = world.replaced("a", &a);
    world.replaced("b", &b);
    // One of them goes: the others come, and it is removed.
    set(&world, "v5", "five");
    fs::remove_file(world.units().join("..v5/b.toml")).unwrap();
    repoint(&data, "..v5");
    fs::remove_file(world.units().join("b.toml")).unwrap();
    world.replaced("a", &a);
    world.wait_gone("b");
    let changed: Vec<(String, String)> =
        world.happened("a").into_iter().filter(|(what, _)| what == "changed").collect();
    assert_eq!(changed.len(), 3, "{changed:?}");
}

fn repoint(link: &Path, target: &str) {
    let fresh = link.with_file_name(".fresh-link");
    symlink(target, &fresh).unwrap();
    fs::rename(fresh, link).unwrap();
}

/// A bundle that prints a line and stays.
fn write_bundle(world: &World, bundle: &Path, line: &str) {
    fs::create_dir_all(bundle).unwrap();
    let config = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": { "args": ["/bin/sh", "-c", format!("echo {line}; {FOREVER}")], "env": ["PATH=/bin"], "cwd": "/",
                     "user": { "uid": 0, "gid": 0 } },
        "root": { "path": world.root, "readonly": true },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }] },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
}

// ---- writers ----

/// Runs a shell that is killed with this value.
struct Shell(Child);

impl Shell {
    fn run(script: &str, file: &Path) -> Shell {
        let mut shell = Command::new("busybox");
        shell.args(["sh", "-c", script]).env("FILE", file).stdin(Stdio::null());
        Shell(shell.spawn().unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_is_read_while_a_writer_has_the_file_open() {
    let Some(world) = World::start("writers") else { return };
    let (slow, stopped, fresh) = (world.service("slow", "one"), world.service("stopped", "one"), "fresh");
    let file = |name: &str| world.units().join(format!("{name}.toml"));
    let text = world.service_text("two") + "[stop]\ntimeout = \"1m\"\n[log]\nmax_files = 2\n";
    let lines = world.dir.join("new-text");
    fs::write(&lines, &text).unwrap();
    // Ten seconds, a line at a time: most prefixes are valid texts of another meaning.
    let script = format!(
        "exec >\"$FILE\"; n=0; while read -r l; do printf '%s\\n' \"$l\"; n=$((n+1)); sleep 1; done <{0}; \
         while [ $n -lt 10 ]; do n=$((n+1)); sleep 1; done",
        lines.display()
    );
    let mut writer = Shell::run(&script, &file("slow"));
    let halves: Vec<Shell> = ["stopped", fresh]
        .iter()
        .map(|name| {
            let half = Shell::run(
                &format!("exec >\"$FILE\"; head -n 3 {0}; : >{0}.$$; sleep 60", lines.display()),
                &file(name),
            );
            let mark = format!("{}.{}", lines.display(), half.0.id());
            wait_for("half a text", || Path::new(&mark).exists().then_some(()));
            half.signal(rustix::process::Signal::STOP);
            half
        })
        .collect();
    let row = world.wait_unit("stopped", "being written", |row| {
        row["drift"].as_str().is_some_and(|drift| drift.contains("being written"))
    });
    assert!(row["drift"].as_str().unwrap().contains(&format!("by pid {}", halves[0].0.id())), "{row}");
    world.wait_reason(fresh, "being written");
    while writer.0.try_wait().unwrap().is_none() {
        assert_eq!((world.running("slow"), world.running("stopped")), (slow.clone(), stopped.clone()));
        assert_ne!(world.find(fresh).unwrap()["phase"], "running");
        let (code, _, _) = world.says(&["sync", "--timeout", "200ms"]);
        assert!(code == 3 || writer.0.try_wait().unwrap().is_some(), "a writer is waited for, not {code}");
    }
    let slow = world.replaced("slow", &slow);
    let mut slow_file = fs::File::options().append(true).open(file("slow")).unwrap();
    slow_file.write_all(b"# nothing\n").unwrap();
    drop(slow_file);
    world.kept("slow", &slow, "a comment was appended");

    // The writers die half-way: what they left is a text like any other, and here it is one without an end.
    drop(halves);
    world.wait_unit("stopped", "not valid or replaced", |row| {
        row["id"] != stopped.id.as_str() || row["drift"] == "the text on disk is not valid"
    });
    world.unit("stopped", &text);
    world.replaced("stopped", &stopped);
}

// ---- directories ----

#[test]
fn a_directory_that_goes_takes_nothing_with_it() {
    let Some(world) = World::start("brake") else { return };
    let (units, away) = (world.units(), world.dir.join("away"));
    let (a, b) = (world.service("a", "one"), world.service("b", "one"));
    let kept = |why: &str| {
        world.kept("a", &a, why);
        world.kept("b", &b, why);
    };

    fs::rename(&units, &away).unwrap();
    wait_for("a note", || world.ok(&["ps"]).contains("does not exist: waiting for it").then_some(()));
    kept("the directory is away");
    fs::rename(&away, &units).unwrap();
    wait_for("no note", || (!world.ok(&["ps"]).contains("note:")).then_some(()));
    kept("the directory is back");

    // Another, empty one in its place.
    fs::rename(&units, &away).unwrap();
    fs::create_dir(&units).unwrap();
    let braked = "became another directory and 2 of its units would go";
    wait_for("the brake", || world.ok(&["ps"]).contains(braked).then_some(()));
    std::thread::sleep(PAST_A_REMOVAL);
    kept("the brake holds");
    assert!(world.reason("a").contains("moored apply --confirm-removals"), "{}", world.reason("a"));
    fs::remove_dir(&units).unwrap();
    fs::rename(&away, &units).unwrap();
    wait_for("the brake's end", || world.find("a").unwrap()["drift"].is_null().then_some(()));
    kept("the files returned");

    // Something mounted over it, and unmounted.
    mount_tmpfs(&units);
    wait_for("the brake", || world.ok(&["ps"]).contains(braked).then_some(()));
    std::thread::sleep(PAST_A_REMOVAL);
    kept("something is mounted over the files");
    rustix::mount::unmount(&units, rustix::mount::UnmountFlags::empty()).unwrap();
    wait_for("the brake's end", || world.find("a").unwrap()["drift"].is_null().then_some(()));
    kept("it was unmounted");

    // Meant.
    mount_tmpfs(&units);
    wait_for("the brake", || world.ok(&["ps"]).contains(braked).then_some(()));
    let said = world.ok(&["apply", "--confirm-removals"]);
    assert!(said.contains("a: ") && said.contains("b: "), "{said}");
    world.wait_gone("a");
    world.wait_gone("b");
    a.ended();
    b.ended();
    rustix::mount::unmount(&units, rustix::mount::UnmountFlags::empty()).unwrap();
    let (a, b) = (world.running("a"), world.running("b"));

    // And `rm` in the same directory means what it says, as does emptying files by `mv`.
    fs::remove_file(units.join("a.toml")).unwrap();
    fs::rename(units.join("b.toml"), world.dir.join("b.toml")).unwrap();
    world.wait_gone("a");
    world.wait_gone("b");
    a.ended();
    b.ended();
}

#[test]
fn an_unreadable_directory_and_one_of_others_are_not_empty_ones() {
    let Some(world) = World::start("untrusted") else { return };
    let web = world.service("web", "one");
    fs::set_permissions(world.units(), fs::Permissions::from_mode(0o777)).unwrap();
    wait_for("a note", || world.ok(&["ps"]).contains("chmod o-w").then_some(()));
    fs::write(world.units().join("evil.toml"), world.service_text("evil")).unwrap();
    world.remove_unit("web");
    std::thread::sleep(PAST_A_REMOVAL);
    world.kept("web", &web, "its directory may not be trusted");
    assert!(world.find("evil").is_none());
    fs::set_permissions(world.units(), fs::Permissions::from_mode(0o755)).unwrap();
    world.running("evil");
    world.wait_gone("web");
}

#[test]
fn a_directory_that_does_not_exist_is_waited_for() {
    let Some(mut world) = World::prepare("later") else { return };
    fs::remove_dir(world.units()).unwrap();
    world.supervisor.up();
    let waits = format!("{} does not exist: waiting for it", world.units().display());
    wait_for("words about the directory", || world.output().contains(&waits).then_some(()));
    assert!(world.ok(&["ps"]).contains("does not exist: waiting for it"));
    assert!(world.ok(&["status"]).contains("does not exist: waiting for it"));
    fs::create_dir(world.units()).unwrap();
    world.service("web", "one");
    assert!(!world.ok(&["ps"]).contains("waiting for it"));
}

#[test]
fn the_files_of_a_stopped_supervisor_are_compared_when_it_returns() {
    let Some(mut world) = World::start("return") else { return };
    for unit in ["changed", "gone", "same"] {
        world.service(unit, "one");
    }
    assert!(world.supervisor.stop().success());
    world.unit("changed", &world.service_text("two"));
    world.remove_unit("gone");
    // Broken while nobody looked: the last good text is kept in the state-dir.
    world.unit("same", "broken");
    world.supervisor.up();
    world.running("changed");
    let row = world.wait_phase("same", &["running"]);
    assert!(row["reason"].as_str().unwrap().contains("running with the last good text"), "{row}");
    world.wait_gone("gone");
}

// ---- things that are not unit files ----

#[test]
fn what_is_no_unit_file_says_so_and_harms_nobody() {
    let Some(world) = World::start("strays") else { return };
    let (units, web) = (world.units(), world.service("web", "one"));
    let at = |name: &str| units.join(name);
    let good = world.service_text("one");
    make_node(&at("fifo.toml"), rustix::fs::FileType::Fifo);
    make_node(&at("device.toml"), rustix::fs::FileType::CharacterDevice);
    fs::create_dir(at("directory.toml")).unwrap();
    fs::write(at("big.toml"), "#".repeat(10 << 20)).unwrap();
    fs::write(at("latin.toml"), b"# \xe9\n").unwrap();
    symlink("/nonexistent", at("dangling.toml")).unwrap();
    symlink("/proc/self/environ", at("magic.toml")).unwrap();
    fs::write(at("foreign.toml"), &good).unwrap();
    std::os::unix::fs::chown(at("foreign.toml"), Some(12345), None).unwrap();
    fs::write(at("writable.toml"), &good).unwrap();
    fs::set_permissions(at("writable.toml"), fs::Permissions::from_mode(0o646)).unwrap();
    for name in ["bad name.toml", "4913", "web.toml~", "#web.toml#", ".web.toml.swp", "web.toml.dpkg-old", "web.yaml"] {
        fs::write(at(name), &good).unwrap();
    }
    for (unit, says) in [
        ("fifo", "is a FIFO, expected a regular file"),
        ("device", "is a device, expected a regular file"),
        ("directory", "is a directory, expected a regular file"),
        ("big", "10485760 bytes, expected at most 1048576"),
        ("latin", "latin.toml:1:3"),
        ("dangling", "a link to /nonexistent, which does not exist"),
        ("foreign", "owned by uid 12345: chown root"),
        ("writable", "writable by everybody: chmod o-w"),
    ] {
        let row = world.wait_reason(unit, says);
        assert_eq!((row["phase"].as_str(), &row["pid"]), (Some("failed"), &serde_json::Value::Null), "{row}");
    }
    assert_eq!(world.wait_phase("magic", &["failed"])["pid"], serde_json::Value::Null);
    let notes = world.ok(&["ps"]);
    assert!(notes.contains("`bad name` is not a unit name"), "{notes}");
    assert_eq!(world.ps().len(), 10, "{notes}");
    world.kept("web", &web, "nothing happened to it");

    // The cures cure.
    std::os::unix::fs::chown(at("foreign.toml"), Some(0), None).unwrap();
    fs::set_permissions(at("writable.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    world.running("foreign");
    world.running("writable");
    for name in ["fifo.toml", "device.toml", "big.toml", "latin.toml", "dangling.toml", "magic.toml", "bad name.toml"] {
        fs::remove_file(at(name)).unwrap();
    }
    fs::remove_dir(at("directory.toml")).unwrap();
    wait_for("a clean list", || (!world.ok(&["ps"]).contains("note:") && world.ps().len() == 3).then_some(()));
}

fn make_node(path: &Path, kind: rustix::fs::FileType) {
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, rustix::fs::makedev(1, 3)).unwrap();
}

fn mount_tmpfs(path: &Path) {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, None).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

// ---- how fast ----

/// From the close of a unit file to its program's first instruction. Printed for the note; no bound, as the machine may be busy.
#[test]
fn the_host_follows_an_edit() {
    let Some(world) = World::start("follows") else { return };
    let out = world.dir.join("out");
    fs::create_dir(&out).unwrap();
    let mount = format!("[[mount]]\nsource = \"{}\"\ntarget = \"/data\"\nread_only = false\n", out.display());
    let mut figures: Vec<Duration> = (0..10)
        .map(|n| {
            let (name, mark) = (format!("unit{n}"), out.join(n.to_string()));
            let text = world.text("type = \"oneshot\"", &format!("> /data/{n}"), &mount);
            fs::write(world.units().join(format!("{name}.toml")), text).unwrap();
            let closed = SystemTime::now();
            world.wait_phase(&name, &["completed"]);
            let made = fs::metadata(&mark).unwrap().modified().unwrap();
            made.duration_since(closed).unwrap_or_default()
        })
        .collect();
    figures.sort_unstable();
    println!("file closed to the program's first system call, sorted: {figures:.1?}");
}

//! What tools do to unit files (issue 3): a throttled copy, git, rsync, Ansible's `copy`, an umount. No half text ever runs, and nothing stops
//! that should not.
//!
//! The witness is the container itself: it prints what it was started with, and the log has every start. Most prefixes of its text are
//! valid and mean something else: without its last line the mark is missing, and each digit less is another mark.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::support::{tool, wait_for};
use super::world::World;

/// Longer than a removal settles (1 s).
const PAST_A_REMOVAL: Duration = Duration::from_millis(1500);

/// Between two bytes of a throttled copy.
const THROTTLE: Duration = Duration::from_millis(10);

fn text(world: &World, tag: &str) -> String {
    let root = world.root.display();
    let script = format!("echo runs {tag} $MARK; trap 'exit 0' TERM; sleep 1000 & wait");
    let args = format!("process.args = [\"/bin/sh\", \"-c\", \"{script}\"]");
    format!("rootfs = \"{root}\"\n{args}\nstop.timeout = \"10s\"\nprocess.env.MARK = 1234567\n")
}

/// Everything that was ever started of a unit, oldest first; a half text would be seen here.
fn assert_ran(world: &World, unit: &str, tags: &[&str]) {
    let expected: String = tags.iter().map(|tag| format!("runs {tag} 1234567\n")).collect();
    wait_for(&format!("{unit} to print {expected:?}"), || (world.log(unit).len() >= expected.len()).then_some(()));
    assert_eq!(world.log(unit), expected, "what ran of {unit}");
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}\n{said}", output.status);
}

#[test]
fn a_throttled_copy_into_the_final_name_runs_only_when_it_is_whole() {
    let Some(world) = World::start("throttled") else { return };
    world.unit("old", &text(&world, "one"));
    let old = world.running("old");
    let text = text(&world, "two");
    // A block of one byte each, and what has come so far is in the file.
    let copy = |unit: &str| -> Child {
        let mut dd = Command::new("dd");
        dd.arg("bs=1").arg(format!("of={}", world.units().join(format!("{unit}.toml")).display()));
        dd.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut copies = [copy("old"), copy("fresh")];
    for (at, byte) in text.bytes().enumerate() {
        for copy in &mut copies {
            copy.stdin.as_mut().unwrap().write_all(&[byte]).unwrap();
        }
        std::thread::sleep(THROTTLE);
        if at % 50 == 0 {
            assert_eq!(world.running("old"), old, "after {at} bytes");
            assert!(world.find("fresh").is_none_or(|row| row["pid"].is_null()), "after {at} bytes");
        }
    }
    for copy in &mut copies {
        drop(copy.stdin.take());
        assert!(copy.wait().unwrap().success());
    }
    world.replaced("old", &old);
    world.running("fresh");
    assert_ran(&world, "old", &["one", "two"]);
    assert_ran(&world, "fresh", &["two"]);
}

#[test]
fn git_pull_and_a_checkout_there_and_back_touch_what_differs() {
    if tool("git").is_none() {
        return;
    }
    let Some(world) = World::start("git") else { return };
    let upstream = world.dir.join("upstream");
    let git = |dir: &Path, arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(dir).args(["-c", "user.name=test", "-c", "user.email=test@localhost"]).args(arguments);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        run(&mut git);
    };
    let write = |unit: &str, tag: &str| fs::write(upstream.join(format!("{unit}.toml")), text(&world, tag)).unwrap();
    fs::create_dir(&upstream).unwrap();
    git(&upstream, &["init", "--quiet", "--initial-branch=main"]);
    for unit in ["same", "changed", "gone", "away"] {
        write(unit, "one");
    }
    git(&upstream, &["add", "."]);
    git(&upstream, &["commit", "--quiet", "-m", "one"]);
    // A branch that lacks one unit, and has another text of a second one.
    git(&upstream, &["checkout", "--quiet", "-b", "other"]);
    git(&upstream, &["rm", "--quiet", "away.toml"]);
    write("changed", "other");
    git(&upstream, &["commit", "--quiet", "-a", "-m", "other"]);
    git(&upstream, &["checkout", "--quiet", "main"]);

    let units = world.units();
    git(&units, &["clone", "--quiet", upstream.to_str().unwrap(), "."]);
    let [same, changed, gone, away] = ["same", "changed", "gone", "away"].map(|unit| world.running(unit));

    write("changed", "two");
    write("new", "one");
    fs::remove_file(upstream.join("gone.toml")).unwrap();
    git(&upstream, &["add", "--all"]);
    git(&upstream, &["commit", "--quiet", "-m", "two"]);
    git(&units, &["pull", "--quiet", "--ff-only"]);
    let changed = world.replaced("changed", &changed);
    world.running("new");
    world.wait_gone("gone");
    gone.ended();
    world.kept("same", &same, "git pull did not touch it");

    // There and back: what is missing there was missing for a moment only.
    git(&units, &["checkout", "--quiet", "origin/other"]);
    git(&units, &["checkout", "--quiet", "main"]);
    std::thread::sleep(PAST_A_REMOVAL);
    world.kept("away", &away, "its file was away for a moment");
    world.kept("same", &same, "both branches have it");
    world.running("changed");
    // And there for long.
    git(&units, &["checkout", "--quiet", "origin/other"]);
    world.wait_gone("away");
    world.wait_gone("new");
    world.replaced("changed", &changed);
    world.kept("same", &same, "both branches have it");
    assert_ran(&world, "same", &["one"]);
    assert_ran(&world, "away", &["one"]);
    let log = world.log("changed");
    let whole = |line: &str| ["one", "two", "other"].iter().any(|tag| line == format!("runs {tag} 1234567"));
    assert!(log.lines().all(whole), "what ran of `changed`: {log}");
}

#[test]
fn rsync_with_delete_changes_what_differs_and_stops_what_was_removed() {
    if tool("rsync").is_none() {
        return;
    }
    let Some(world) = World::start("rsync") else { return };
    let source = world.dir.join("source");
    fs::create_dir(&source).unwrap();
    let write = |unit: &str, tag: &str| fs::write(source.join(format!("{unit}.toml")), text(&world, tag)).unwrap();
    let rsync = |options: &[&str]| {
        let mut rsync = Command::new("rsync");
        rsync.args(options).arg(format!("{}/", source.display())).arg(format!("{}/", world.units().display()));
        run(&mut rsync);
    };
    for unit in ["same", "changed", "gone"] {
        write(unit, "one");
    }
    rsync(&["-a", "--delete"]);
    let [same, changed, gone] = ["same", "changed", "gone"].map(|unit| world.running(unit));

    // Of another length: rsync takes a file of the same size and second for the same.
    write("changed", "second");
    write("new", "one");
    fs::remove_file(source.join("gone.toml")).unwrap();
    rsync(&["-a", "--delete", "--delete-before"]);
    let changed = world.replaced("changed", &changed);
    world.running("new");
    world.wait_gone("gone");
    gone.ended();
    world.kept("same", &same, "rsync did not touch it");

    // All files anew although nothing differs: through a temporary name, held back to the end, and in place.
    for options in [["-a", "-I", "--delete"], ["-a", "-I", "--delay-updates"], ["-a", "-I", "--inplace"]] {
        rsync(&options);
        world.kept("same", &same, "rsync wrote what was there");
        world.kept("changed", &changed, "rsync wrote what was there");
    }
    // In place and slowly, into a longer text: the old one runs until the whole new one is there.
    write("changed", &format!("three {}", "x".repeat(4000)));
    rsync(&["-a", "--inplace", "--bwlimit=2k", "--whole-file"]);
    world.replaced("changed", &changed);
    assert_ran(&world, "changed", &["one", "second", &format!("three {}", "x".repeat(4000))]);
    assert_ran(&world, "same", &["one"]);
}

/// Ansible's `copy` as its module and `atomic_move` have it: the new file was uploaded to the user's temporary directory, or is copied to a
/// temporary name beside the target if that is another file system; it gets the target's owner and mode, is renamed over it, and then
/// gets those that the task names. A target that is a link is first replaced by an empty file.
fn ansible_copy(world: &World, unit: &str, text: &str) {
    let target = world.units().join(format!("{unit}.toml"));
    if fs::symlink_metadata(&target).is_ok_and(|node| node.is_symlink()) {
        fs::remove_file(&target).unwrap();
        drop(File::create(&target).unwrap());
    }
    let uploaded = world.units().join(format!(".ansible_tmpk3x9{unit}.toml"));
    let mut file = File::options().write(true).create_new(true).open(&uploaded).unwrap();
    fs::set_permissions(&uploaded, fs::Permissions::from_mode(0o600)).unwrap();
    for piece in text.as_bytes().chunks(40) {
        file.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    drop(file);
    chown(&uploaded, Some(0), Some(0)).unwrap();
    fs::rename(&uploaded, &target).unwrap();
    for mode in [0o640, 0o644] {
        fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        chown(&target, Some(0), Some(0)).unwrap();
    }
}

#[test]
fn what_ansible_copies_runs_once_and_whole() {
    let Some(world) = World::start("ansible") else { return };
    ansible_copy(&world, "web", &text(&world, "one"));
    let web = world.running("web");
    ansible_copy(&world, "web", &text(&world, "one"));
    world.kept("web", &web, "it was copied again");
    ansible_copy(&world, "web", &text(&world, "two"));
    world.replaced("web", &web);
    assert_ran(&world, "web", &["one", "two"]);

    // The link becomes a file: for a moment it is an empty one, which is no text.
    fs::write(world.dir.join("site.toml"), text(&world, "linked")).unwrap();
    symlink("../site.toml", world.units().join("site.toml")).unwrap();
    let site = world.running("site");
    ansible_copy(&world, "site", &text(&world, "linked"));
    world.kept("site", &site, "the same text stands in the file");
    assert_ran(&world, "site", &["linked"]);
}

#[test]
fn an_umount_of_the_directory_stops_nothing() {
    let Some(mut world) = World::prepare("umount") else { return };
    let units = world.units();
    let mount = || {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("moored-test", &units, "tmpfs", flags, Some(c"mode=755")).unwrap();
    };
    mount();
    for unit in ["a", "b"] {
        world.unit(unit, &text(&world, "one"));
    }
    world.supervisor.up();
    let running = || ["a", "b"].map(|unit| world.running(unit));
    let before = running();

    rustix::mount::unmount(&units, rustix::mount::UnmountFlags::empty()).unwrap();
    let braked = "became another directory and 2 of its units would go";
    wait_for("the brake", || world.ok(&["ps"]).contains(braked).then_some(()));
    std::thread::sleep(PAST_A_REMOVAL);
    world.run(&["sync"]);
    assert_eq!(running(), before, "the directory below the mount is empty, and not meant");
    // Nor does a crash make it so.
    let killed = world.pids().supervisor;
    world.kill9(killed);
    wait_for("the next supervisor", || {
        let status: Value = serde_json::from_slice(&world.run(&["status", "--json"]).stdout).ok()?;
        status["supervisor"].as_i64().filter(|pid| *pid != i64::from(killed))
    });
    world.run(&["sync"]);
    assert_eq!(running(), before, "the supervisor was killed while nothing was mounted");

    // Another file system with the same files, and a change in one: the mount is back.
    mount();
    world.unit("a", &text(&world, "one"));
    world.unit("b", &text(&world, "two"));
    let b = world.replaced("b", &before[1]);
    world.kept("a", &before[0], "the same text is there again");
    wait_for("no brake", || (!world.ok(&["ps"]).contains(braked)).then_some(()));
    assert_eq!(world.running("b"), b);
    assert_ran(&world, "a", &["one"]);
    assert_ran(&world, "b", &["one", "two"]);
}

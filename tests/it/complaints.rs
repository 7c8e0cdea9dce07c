//! What people complain about with other supervisors, each with the test that answers it (issue 3). Those that had no test have it here.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};
use serde_json::Value;

use super::support::wait_for;
use super::world::{Running, World};

/// The complaint, and where it is answered: `file::test` below `tests/it`.
const ANSWERS: &[(&str, &[&str])] = &[
    ("it gives up after some attempts", &["complaints::attempts_never_end_by_default"]),
    (
        "it runs, answers nobody, and stays that way",
        &["health::an_unhealthy_container_is_restarted_with_backoff_as_after_any_failure"],
    ),
    (
        "an update broke it, and somebody had to get up",
        &["updates::an_update_that_turns_unhealthy_goes_back_once_and_is_not_taken_again_before_it_changes"],
    ),
    (
        "an edit stopped what could not start again",
        &["deps::a_changed_text_that_could_not_start_leaves_the_old_container_running"],
    ),
    ("one bad night, and it waits for minutes ever after", &["complaints::the_backoff_begins_anew_after_a_good_run"]),
    (
        "dependents are restarted when a dependency is updated",
        &["deps::dependents_stay_up_unless_on_loss_says_otherwise"],
    ),
    (
        "a broken file is passed over in silence",
        &[
            "edits::a_broken_text_changes_nothing_and_says_where_it_is_broken",
            "complaints::a_broken_file_is_loud_in_ps_and_check",
        ],
    ),
    ("one broken file takes the others along", &["edits::one_broken_file_among_forty_holds_back_only_itself"]),
    (
        "a .bak or ~ file was taken for a unit",
        &["complaints::a_backup_is_never_a_unit", "edits::what_is_no_unit_file_says_so_and_harms_nobody"],
    ),
    ("an edit restarts what it need not", &["edits::only_a_change_of_meaning_replaces_a_container"]),
    ("a half-written file was run", &["edits_tools::a_throttled_copy_into_the_final_name_runs_only_when_it_is_whole"]),
    ("logs filled the disk", &["complaints::logs_cannot_fill_the_disk", "complaints::a_full_disk_holds_nobody_up"]),
    (
        "the database initialised the bare directory because its disk was not mounted",
        &["deps::a_database_whose_disk_is_not_mounted_waits_and_leaves_the_bare_directory_alone"],
    ),
    ("the directory was unmounted, and everything stopped", &["edits_tools::an_umount_of_the_directory_stops_nothing"]),
];

#[test]
fn each_complaint_has_its_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for (complaint, answers) in ANSWERS {
        assert!(!answers.is_empty(), "{complaint}");
        for answer in *answers {
            let (module, test) = answer.split_once("::").unwrap();
            let text = fs::read_to_string(tests.join(format!("{module}.rs"))).unwrap();
            assert!(text.contains(&format!("#[test]\nfn {test}() {{\n")), "{answer}, which answers: {complaint}");
        }
    }
}

/// When these events of a unit were, in ms.
fn times(world: &World, unit: &str, what: &str) -> Vec<i64> {
    let lines = world.ok(&["events", unit, "--json"]);
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["what"] == what).map(|event| event["time"].as_i64().unwrap()).collect()
}

#[test]
fn attempts_never_end_by_default() {
    let Some(world) = World::start("attempts") else { return };
    // Only the pauses are shorter than by default. systemd's limit is 5 in 10 s, supervisord's 3.
    world.script("web", "exit 1", "[restart]\ndelay = \"1ms\"\nmax_delay = \"5ms\"\n");
    world.wait_unit("web", "tried a hundred times", |row| {
        assert_ne!(row["phase"], "failed", "{row}");
        row["restarts"].as_u64().unwrap_or(0) >= 100
    });
    // And the last attempt may be the good one.
    world.service("web", "repaired");
}

#[test]
fn the_backoff_begins_anew_after_a_good_run() {
    let Some(world) = World::start("anew") else { return };
    let data = world.dir.join("data");
    fs::create_dir(&data).unwrap();
    // Four bad runs, a good one, and bad ones again.
    let script = "echo run >> /data/runs; [ $(wc -l < /data/runs) != 5 ] || sleep 1; exit 1";
    let tables = format!(
        "[restart]\ndelay = \"100ms\"\nreset_after = \"700ms\"\n[[mount]]\nsource = \"{}\"\ntarget = \"/data\"\nread_only = false\n",
        data.display()
    );
    world.script("web", script, &tables);
    world.wait_unit("web", "started seven times", |row| row["restarts"].as_u64().unwrap_or(0) >= 7);
    let (starts, ends) = (times(&world, "web", "started"), times(&world, "web", "exited"));
    let pause = |after: usize| starts[after] - ends[after - 1];
    assert!(pause(4) >= 800, "doubled three times: {starts:?} {ends:?}");
    assert!(pause(5) < 800 && pause(6) < 800, "at once, and then the first delay: {starts:?} {ends:?}");
    assert!(pause(6) >= 98, "the first delay: {starts:?} {ends:?}");
}

#[test]
fn a_broken_file_is_loud_in_ps_and_check() {
    let Some(world) = World::start("loud") else { return };
    world.service("web", "one");
    let file = world.units().join("web.toml");
    world.unit("web", &world.service_text("one").replace("rootfs", "rootsf"));
    world.unit("new", "rootfs = /srv\n");
    world.says(&["sync"]);
    let list = world.ok(&["ps"]);
    for part in ["web.toml:1:1", "`rootsf`", "running with the last good text", "new.toml:1:10"] {
        assert!(list.contains(part), "{part} in\n{list}");
    }
    let (code, said, _) = world.says(&["check", world.units().to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(said.contains(&format!("{}:1:1 unknown key `rootsf`, did you mean `rootfs`?", file.display())), "{said}");
    assert!(world.output().contains("unknown key `rootsf`"), "nor is the log silent:\n{}", world.output());
    let failed = world.ok(&["ps", "--failed"]);
    assert!(failed.contains("new.toml:1:10"), "{failed}");
}

#[test]
fn a_backup_is_never_a_unit() {
    let Some(world) = World::start("backups") else { return };
    let web = world.service("web", "one");
    let text = world.service_text("backup");
    for name in [
        "web.toml.bak",
        "web.toml~",
        "web.toml.orig",
        "web.toml.rpmsave",
        "web.toml.rpmnew",
        "web.toml.dpkg-old",
        "web.toml.swp",
        ".web.toml.swp",
        "#web.toml#",
        ".#web.toml",
        "web.toml.1",
        "web.bak",
        "web~",
        "old.toml.bak",
        "old.toml~",
        "old",
    ] {
        fs::write(world.units().join(name), &text).unwrap();
    }
    world.ok(&["sync"]);
    let rows = world.ps();
    assert_eq!((rows.len(), Running::of(&rows[0])), (1, web), "{rows:?}");
    assert!(!world.ok(&["ps"]).contains("note"), "nor are they worth a word");
    assert_eq!(world.says(&["check", world.units().to_str().unwrap()]).0, 0);
}

/// All that is below, in bytes on the disk.
fn bytes_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    let size = |path: PathBuf| match fs::symlink_metadata(&path) {
        Ok(node) if node.is_dir() => bytes_below(&path),
        Ok(node) => node.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Writes so many lines of a hundred bytes, and a last one.
fn flood(lines: u32) -> String {
    format!("yes {} | head -n {lines}; echo the end", "x".repeat(99))
}

#[test]
fn logs_cannot_fill_the_disk() {
    let Some(mut world) = World::prepare("flood") else { return };
    world.supervisor = world.supervisor.with(&["--log-cap", "2M"]);
    world.supervisor.up();
    // Ten megabytes of one unit whose own caps are small, and of three that together are held by the host's.
    let small = "[log]\nmax_size = \"128K\"\nmax_files = 3\n";
    world.unit("small", &world.text("type = \"oneshot\"", &flood(100_000), small));
    for unit in ["one", "two", "three"] {
        world.unit(unit, &world.text("type = \"oneshot\"", &flood(100_000), ""));
    }
    for unit in ["small", "one", "two", "three"] {
        world.wait_phase(unit, &["completed"]);
    }
    wait_for("the last line", || world.log("small").ends_with("the end\n").then_some(()));
    let log = world.dir.join("log");
    // Each file has an index beside it.
    let (own, all) = (bytes_below(&log.join("small")), bytes_below(&log));
    assert!(own <= 3 * (128 << 10) + (64 << 10), "{own} bytes of one unit");
    assert!(all <= (2 << 20) + (512 << 10), "{all} bytes of all");
}

#[test]
fn a_full_disk_holds_nobody_up() {
    let Some(mut world) = World::prepare("full") else { return };
    let log = world.dir.join("log");
    fs::create_dir(&log).unwrap();
    mount("moored-test", &log, "tmpfs", MountFlags::empty(), Some(c"size=256k,mode=755")).unwrap();
    world.supervisor.up();
    world.unit("web", &world.text("type = \"oneshot\"", &flood(20_000), ""));
    // It would wait for its reader for ever.
    world.wait_phase("web", &["completed"]);
    let told = |text: &str| text.contains("what it prints is dropped and counted");
    wait_for("words about what is lost", || world.happened("web").iter().any(|(_, text)| told(text)).then_some(()));
    world.service("other", "it can be started all the same");
}

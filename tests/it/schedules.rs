//! `[schedule]` with the real clock: a run by the calendar, one by hand, what is missed, and what `check` shows. The calendar itself is tested where it is
//! (`unit::calendar`, `plan::schedule`).

use super::world::World;

/// A clock that nobody keeps right is good enough here.
const EVERY_SECOND: &str = "[schedule]\ncalendar = \"*:*:*\"\nwait_for_clock = false\n";

fn runs(world: &World, unit: &str) -> usize {
    world.log(unit).matches("ran").count()
}

#[test]
fn it_runs_at_its_time_by_hand_and_never_twice_at_once() {
    let Some(world) = World::start("schedule-runs") else { return };
    let yearly = EVERY_SECOND.replace("*:*:*", "yearly");
    world.script("yearly", "echo ran; exit 3", &yearly);
    let row = world.wait_reason("yearly", "next run ");
    assert_eq!((&row["phase"], &row["restarts"]), (&"waiting".into(), &0.into()), "{row}");
    // A run is longer than a second: what elapses meanwhile is left out.
    world.script("often", "mkdir /tmp/lock || echo overlap; echo ran; sleep 2", EVERY_SECOND);
    super::support::wait_for("two runs", || (runs(&world, "often") >= 2).then_some(()));
    world.ok(&["stop", "often"]);
    let after = runs(&world, "often");
    assert!(!world.log("often").contains("overlap"));
    let told = world.happened("often");
    assert!(told.iter().any(|(what, _)| what == "left-out"), "{told:?}");
    let (code, out, err) = world.says(&["start", "yearly"]);
    assert!(code == 1 && format!("{out}{err}").contains("last: code 3"), "{code} {out} {err}");
    assert_eq!(runs(&world, "yearly"), 1);
    let row = world.wait_reason("yearly", ", last: code 3, ");
    assert_eq!((&row["phase"], &row["schedule"]["failed"]), (&"waiting".into(), &true.into()), "{row}");
    assert!(row["schedule"]["next"].as_u64() > row["schedule"]["last"].as_u64(), "{row}");
    assert!(world.ok(&["ps", "--failed"]).contains("yearly"));
    assert_eq!(world.find("often").unwrap()["restarts"], 0);
    // An edit starts nothing.
    world.script("yearly", "echo ran twice", &yearly);
    world.ok(&["sync", "yearly"]);
    assert_eq!((runs(&world, "yearly"), runs(&world, "often")), (1, after));
    assert!(world.ok(&["start", "yearly"]).contains("last: code 0"));
    assert!(world.ok(&["why", "yearly"]).contains("next run"));
}

#[test]
fn what_a_dead_supervisor_missed_is_made_up_for_and_a_run_too_long_fails() {
    let Some(mut world) = World::start("schedule-missed") else { return };
    let text = |persistent: bool| format!("{EVERY_SECOND}persistent = {persistent}\n");
    world.script("kept", "echo ran", &text(true));
    world.script("long", "echo ran; sleep 1000", &format!("{EVERY_SECOND}max_runtime = \"1s\"\n"));
    super::support::wait_for("a run", || (runs(&world, "kept") > 0 && runs(&world, "long") > 1).then_some(()));
    let told = world.happened("long");
    assert!(
        told.iter().any(|(_, text)| text.ends_with("unhealthy: it took longer than its schedule's max_runtime")),
        "{told:?}"
    );
    // It is on the disk which run was the last, and how it ended.
    world.supervisor.stop();
    let stored = std::fs::read(world.dir.join("state/schedules/kept.json")).unwrap();
    let stored = String::from_utf8_lossy(&stored);
    assert!(stored.contains("from") && stored.contains("last"), "{stored}");
    let before = runs(&world, "kept");
    world.supervisor.up();
    super::support::wait_for("another run", || (runs(&world, "kept") > before).then_some(()));
}

#[test]
fn a_clock_that_nobody_has_set_is_not_gone_by() {
    let Some(world) = World::start("schedule-clock") else { return };
    let synchronised =
        moored::sys::wall_clock::is_synchronised() || std::path::Path::new("/sys/class/rtc/rtc0").exists();
    world.script("web", "echo ran", &EVERY_SECOND.replace("wait_for_clock = false\n", ""));
    match synchronised {
        true => super::support::wait_for("a run", || (runs(&world, "web") > 0).then_some(())),
        false => drop(world.wait_reason("web", "waits for the clock to be set")),
    }
}

#[test]
fn check_shows_the_next_times_and_where_an_expression_is_wrong() {
    let Some(world) = World::prepare("schedule-check") else { return };
    let check = |calendar: &str, more: &str| {
        let text = world.text("", "true", &format!("[schedule]\ncalendar = \"{calendar}\"\n{more}"));
        world.unit("web", &text);
        let output = world.run(&["check", world.units().join("web.toml").to_str().unwrap()]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, out) = check("2190-03-25..31 02:30", "time_zone = \"UTC\"");
    let times = "next Thu 2190-03-25 02:30:00 +00:00, Fri 2190-03-26 02:30:00 +00:00, Sat 2190-03-27 02:30:00 +00:00\n";
    assert!(code == Some(0) && out.contains(times), "{out}");
    let (code, out) = check("Mon..Fry 02:30", "");
    assert!(
        code == Some(1)
            && out.contains(":18 `schedule.calendar` holds `Fry`, expected a weekday like Mon, did you mean \"Fri\"?"),
        "{out}"
    );
    let (code, out) = check("daily", "time_zone = \"Europe/Atlantis\"");
    assert!(code == Some(1) && out.contains("Europe/Atlantis"), "{out}");
}

#[test]
fn a_supervisor_that_is_killed_runs_no_time_twice_and_goes_on() {
    let Some(world) = World::start("schedule-killed") else { return };
    let every = EVERY_SECOND.replace("*:*:*", "*:*:0/2");
    world.script("web", "date +ran%%s", &every);
    for round in 1..=4 {
        let before = runs(&world, "web");
        super::support::wait_for("a run", || (runs(&world, "web") > before).then_some(()));
        world.next_supervisor();
        assert!(runs(&world, "web") >= round);
    }
    world.ok(&["stop", "web"]);
    // A run that is late begins in a later pair of seconds, and then that pair has no other.
    let log = world.log("web");
    let at = |line: &str| line.split("ran").nth(1).and_then(|at| at.trim().parse::<u64>().ok());
    let pairs: Vec<u64> = log.lines().filter_map(at).map(|second| second / 2).collect();
    assert!(pairs.len() >= 4 && pairs.is_sorted_by(|a, b| a < b), "{log}");
}

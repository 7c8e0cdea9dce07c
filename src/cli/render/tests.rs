//! What people see, word for word.

use super::*;
use crate::control::protocol::{Builds, ChangedSetting, Runs};

const NOW: u64 = 1_767_614_400_000;

const PIPED: Style = Style { colour: false, width: None, now_ms: NOW };

fn web() -> UnitReport {
    UnitReport {
        unit: "web".into(),
        phase: "running".into(),
        pid: Some(4711),
        since: Some(NOW - 185_000),
        restarts: 2,
        exit: Some("signal SIGKILL (out of memory)".into()),
        reason: "".into(),
        id: Some("web.3".into()),
        ..UnitReport::default()
    }
}

fn migrate() -> UnitReport {
    UnitReport {
        unit: "migrate".into(),
        phase: "backoff".into(),
        since: Some(NOW - 1000),
        restarts: 11,
        exit: Some("code 1".into()),
        reason: "backing off, next start in 3.2 s".into(),
        ..UnitReport::default()
    }
}

#[test]
fn ps_is_a_table_with_the_notes_below() {
    let broken = UnitReport {
        unit: "ev\x1b[2Jil".into(),
        phase: "failed".into(),
        reason: "its directory is missing; a\nforged  row".into(),
        drift: Some("its directory is missing".into()),
        ..UnitReport::default()
    };
    let expected = "\
UNIT           PHASE    PID   SINCE   RESTARTS  EXIT                            REASON
web            running  4711  3m ago  2         signal SIGKILL (out of memory)
migrate        backoff  -     1s ago  11        code 1                          backing off, next start in 3.2 s
ev\\u{1b}[2Jil  failed   -     -       0         -                               DRIFT: its directory is missing; a\\nforged  row
note: /etc/moored/units is missing
";
    let notes = ["/etc/moored/units is missing".to_owned()];
    assert_eq!(ps(&[web(), migrate(), broken], &notes, &PIPED), expected);
}

#[test]
fn ps_of_nothing_says_so() {
    assert_eq!(ps(&[], &["waiting for /u".into()], &PIPED), "no units\nnote: waiting for /u\n");
}

#[test]
fn a_terminal_gets_colours_and_a_reason_that_fits() {
    let style = Style { colour: true, width: Some(70), now_ms: NOW };
    let expected = "\
UNIT     PHASE    PID  SINCE   RESTARTS  EXIT    REASON
migrate  \x1b[33mbackoff\x1b[0m  -    1s ago  11        code 1  backing off, next st…
";
    assert_eq!(ps(&[migrate()], &[], &style), expected);
    let narrow = ps(&[migrate()], &[], &Style { width: Some(10), ..style });
    assert!(narrow.ends_with("backing off, next s…\n"), "{narrow}");
}

#[test]
fn failed_units_are_those_that_need_somebody_or_another_try() {
    for (phase, failed) in
        [("failed", true), ("stuck", true), ("backoff", true), ("running", false), ("stopped", false)]
    {
        assert_eq!(is_failed(&UnitReport { phase: phase.into(), ..UnitReport::default() }), failed, "{phase}");
    }
    for failed in [true, false] {
        let schedule = Some(Runs { failed, ..Runs::default() });
        assert_eq!(is_failed(&UnitReport { phase: "waiting".into(), schedule, ..UnitReport::default() }), failed);
    }
}

#[test]
fn status_reads_like_systemds() {
    let value = UnitStatus {
        report: web(),
        description: Some("Public web front".into()),
        file: Some("/etc/moored/units/web.toml".into()),
        merged_with: vec!["/etc/moored/units/web.toml.d/10.toml".into()],
        errors: vec!["web.toml:7:3 unknown key `comand`".into()],
        source: "bundle /srv/web".into(),
        first_id: Some(589_824),
        previous_exit: Some("code 1".into()),
        cgroup: Some("/moored/web.3".into()),
        memory_bytes: Some(12 << 20),
        memory_limit_bytes: Some(256 << 20),
        tasks: Some(5),
        cpu_us: Some(1_234_567),
        looser: vec!["seccomp unconfined".into()],
        log: vec!["listening".into(), "bye\tnow\x07".into()],
    };
    let expected = "\
● web - Public web front
      File: /etc/moored/units/web.toml
      With: /etc/moored/units/web.toml.d/10.toml
    Source: bundle /srv/web
     Phase: running since 2026-01-05T11:56:55.000Z (3m ago)
 Container: web.3
       Pid: 4711
       Ids: 0 to 65535 inside are 589824 to 655359 of the host's
  Restarts: 2
 Last exit: signal SIGKILL (out of memory)
    Before: code 1
    Memory: 12M of 256M
     Tasks: 5
       CPU: 1.234s
    Cgroup: /moored/web.3
    Looser: seccomp unconfined
     Error: web.toml:7:3 unknown key `comand`

listening
bye	now\\x07
";
    assert_eq!(status(&value, &PIPED), expected);
    let stopped = UnitStatus { report: UnitReport { phase: "stopped".into(), ..web() }, ..UnitStatus::default() };
    assert!(status(&stopped, &PIPED).starts_with("○ web\n      File: none\n"));
}

#[test]
fn the_supervisor_tells_its_pids() {
    let report = SupervisorReport {
        anchor: None,
        keeper: Some(2),
        supervisor: 3,
        builds: Builds { anchor: None, keeper: Some("2.0".into()), supervisor: "2.1".into() },
        notes: vec!["no spare: the anchor is gone".into()],
        units_dirs: vec!["/etc/moored/units".into()],
        units: 40,
        containers: 38,
        log_bytes: 3 << 20,
        unknown_cgroups: vec!["/moored/old.1".into()],
    };
    let expected = "\
● moored
      Pids: anchor none, keeper 2, supervisor 3
     Build: anchor unknown, keeper 2.0, supervisor 2.1
     Units: 40, 38 containers
 Directory: /etc/moored/units
      Logs: 3M
    Cgroup: /moored/old.1 is nobody's
      Note: no spare: the anchor is gone
";
    assert_eq!(supervisor(&report, &PIPED), expected);
}

#[test]
fn an_event_is_one_line() {
    let mut value = Event {
        time: NOW + 7,
        unit: Some("web".into()),
        what: "exited".into(),
        text: "code 1".into(),
        by: Some("uid 0 (pid 12)".into()),
        ..Event::default()
    };
    assert_eq!(event(&value, &PIPED), "2026-01-05T12:00:00.007Z web code 1 (by uid 0 (pid 12))\n");
    value = Event { unit: None, text: String::new(), by: None, ..value };
    assert_eq!(event(&value, &PIPED), "2026-01-05T12:00:00.007Z - exited\n");
}

#[test]
fn a_plan_is_a_list_of_signs() {
    let change = |unit: &str, how: &str, why: &str| Change {
        unit: unit.into(),
        how: how.into(),
        why: why.into(),
        settings: Vec::new(),
    };
    let setting = |name: &str, how: &str, old: Option<&str>| ChangedSetting {
        name: name.into(),
        how: how.into(),
        old: old.map(Into::into),
        new: Some("\"b\"".into()),
        hidden: false,
    };
    let settings = vec![setting("process.args", "replace", None), setting("description", "live", Some("\"a\""))];
    let changes = [
        change("a", "add", "new"),
        Change { settings, ..change("longer", "replace", "process.args takes a new container") },
        change("z", "remove", "its file is gone"),
    ];
    let expected = "\
+ a       add      new
~ longer  replace  process.args takes a new container
    replace  process.args: default → \"b\"
    live     description: \"a\" → \"b\"
- z       remove   its file is gone
error: b.toml:1:1 bad
";
    assert_eq!(plan(&changes, &["b.toml:1:1 bad".into()], None, &PIPED), expected);
    assert_eq!(plan(&[], &[], None, &PIPED), "nothing would change\n");
}

#[test]
fn cat_is_a_unit_file_with_what_is_said_about_it_in_comments() {
    let mut merged = MergedText {
        unit: "web".into(),
        files: vec!["/u/web.toml".into(), "/u/web.toml.d/1\n0.toml".into()],
        text: "rootfs = \"/r\" # web.toml:1\n".into(),
        ..MergedText::default()
    };
    let files = "# web, merged from\n#   /u/web.toml\n#   /u/web.toml.d/1\\n0.toml\n";
    let text = "\nrootfs = \"/r\" # web.toml:1\n";
    assert_eq!(cat(&merged), format!("{files}{text}"));
    merged.differs = Some("masked by /v/web.toml".into());
    let differs = "# This is in force; what is on disk is not: masked by /v/web.toml\n";
    assert_eq!(cat(&merged), format!("{files}{differs}{text}"));
    merged.errors = vec!["/u/web.toml:1:1 bad\nnews".into()];
    let errors = "# This is in force, because what is on disk is not valid:\n#   /u/web.toml:1:1 bad\\nnews\n";
    assert_eq!(cat(&merged), format!("{files}{errors}{text}"));
}

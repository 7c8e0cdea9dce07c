//! What containers print while their supervisor and keeper die.

use super::super::support::wait_for;
use super::{NEVER, Victim, world};

/// Numbered lines on both streams, slowly enough for the kills to land among them.
fn counts(lines: usize, both: bool) -> String {
    let err = if both { "echo err $i >&2;" } else { "" };
    format!(
        "i=0; while [ $i -lt {lines} ]; do echo out $i; {err} i=$((i + 1)); [ $((i % 2500)) = 0 ] && sleep 0.05; done"
    )
}

/// Five kills land while 100,000 numbered lines are written, half of them on one stream and half on two. (Where keeper and supervisor die
/// at once, nobody holds the pipe of a container that ends in that moment; so all of them land early.)
fn lines_survive(test: &str, log: &str, kills: [&[Victim]; 5]) -> Option<()> {
    const UNITS: [(&str, usize, bool); 2] = [("both", 25_000, true), ("plain", 50_000, false)];
    let world = world(test, &[])?;
    for (unit, lines, both) in UNITS {
        world.unit(unit, &counts(lines, both), &format!("{NEVER}\n{log}"));
    }
    for (n, victims) in kills.into_iter().enumerate() {
        let goal = (n + 1) * 3_500 * "out 1000\n".len();
        wait_for("more to be written", || (world.raw("plain").len() >= goal).then_some(()));
        world.kill(victims);
    }
    for (unit, lines, both) in UNITS {
        let row = world.moored.wait_phase(unit, &["completed", "failed"]);
        assert_eq!(row["exit"], "code 0", "{row}");
        let text = world.moored.log(unit);
        let of =
            |stream: &str| text.lines().filter(|line| line.starts_with(stream)).map(str::to_owned).collect::<Vec<_>>();
        let expected = |stream: &str| (0..lines).map(|n| format!("{stream} {n}")).collect::<Vec<_>>();
        assert!(of("out") == expected("out"), "{unit}: stdout is not what was written");
        assert!(of("err") == if both { expected("err") } else { Vec::new() }, "{unit}: stderr is not what was written");
        let bytes: usize = text.lines().map(|line| line.len() + 1).sum();
        assert_eq!(world.raw(unit).len(), bytes, "{unit}: the files hold what was written, no more");
    }
    let expected: String = (0..50_000).map(|n| format!("out {n}\n")).collect();
    assert!(world.raw("plain") == expected.as_bytes(), "the files of one stream are what was written");
    world.check_records();
    Some(())
}

#[test]
fn a_hundred_thousand_lines_survive_five_kills() {
    use Victim::{Keeper, Supervisor};
    lines_survive("lines", "", [&[Supervisor], &[Supervisor], &[Keeper], &[Supervisor], &[Supervisor]]);
}

#[test]
fn a_hundred_thousand_lines_survive_five_kills_and_rotation() {
    use Victim::{Keeper, Supervisor};
    let log = "[log]\nmax_size = \"16K\"\nmax_files = 1000";
    lines_survive("rotated", log, [&[Supervisor, Keeper], &[Supervisor], &[Supervisor], &[Supervisor], &[Supervisor]]);
}

//! Every system call of an operation, and a kill before each: the report that SAFETY.md asks for.
//!
//! A role's calls are taken one after the other until there is none left to be killed before; so each call of one undisturbed operation is
//! a kill point, and some more where the threads take their turns otherwise. `MOORED_KILL_POINTS=all` takes all of them, and writes a row of
//! the table for each role to the file that `MOORED_KILL_REPORT` names (`tests/kill-points`); without it a few of each role are a sample. `MOORED_KILL_ROLE` takes those
//! roles alone whose name holds it, `MOORED_KILL_STRIDE` only every so many
//! points.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::operations::{self, Answer, Operation, Victims, wait_done};
use super::stand::{Before, Stand};
use super::tracer::{Blow, Kind, Order, Seen, Tracer};

/// SAFETY.md: converges in 5 s.
const CONVERGES: Duration = Duration::from_secs(5);
/// A session whose client went while there was no supervisor is waited for so much longer (`supervise/attach.rs`).
const SESSION_WAITS: Duration = Duration::from_secs(10);
/// After that it is not coming right at all.
const RECOVERS: Duration = Duration::from_secs(20);
/// So often a point that was late is tried again before it is a violation.
const LATE_AGAIN: usize = 2;
/// So many points in a row with nobody there to be killed end a role.
pub const MISSES: usize = 2;
/// A bound on the calls of one role, for a role that never ends.
const POINTS_MAX: usize = 5000;

/// One row of the table.
#[derive(Debug, Default)]
struct Row {
    calls: usize,
    tried: usize,
    /// Points that were late once, and not when they were tried again.
    late: usize,
    slowest: Duration,
    violations: Vec<String>,
}

pub struct Outcome {
    pub seen: Seen,
    took: Duration,
    /// It took longer than it may, and came right in the end.
    is_late: bool,
    pub wrongs: Vec<String>,
}

pub fn all_points() -> bool {
    std::env::var_os("MOORED_KILL_POINTS").is_some_and(|value| value == "all")
}

/// One operation, disturbed by `order`.
pub fn run(stand: &mut Stand, operation: &Operation, order: Option<Order>) -> Outcome {
    (operation.prepare)(stand);
    let before = stand.look();
    let stats = stand.stats().expect("a keeper");
    let subjects = subjects(operation, order.as_ref(), stats);
    let follow = operation.follow.is_some() && subjects.iter().any(|(_, kind)| *kind == Kind::Keeper);
    let is_of_anchor = order.as_ref().is_some_and(|order| order.role == "anchor");
    let tracer = Tracer::begin(&subjects, follow, stats.keeper, order);
    let asked = (operation.act)(stand, stats);
    match &asked {
        Some(asked) => super::super::support::wait_for("an answer or a death", || {
            (asked.is_finished() || tracer.has_struck()).then_some(())
        }),
        None => wait_done(operation, stand, &before, || tracer.has_struck()),
    }
    let seen = tracer.finish();
    let since = seen.struck.map_or_else(Instant::now, |(at, _)| at);
    let mut wrongs = Vec::new();
    if is_of_anchor && seen.struck.is_some() {
        stand.up_again();
    }
    converge(stand, operation, &before, (asked, seen.struck.is_some()), since, &mut wrongs);
    let took = since.elapsed();
    wrongs.extend(stand.wrongs());
    Outcome { took, is_late: took > converges(operation) && took <= RECOVERS, seen, wrongs }
}

fn converges(operation: &Operation) -> Duration {
    if operation.name == operations::EXEC.name { CONVERGES + SESSION_WAITS } else { CONVERGES }
}

/// Only those are traced that the order is about: the others go on at their full speed.
fn subjects(operation: &Operation, order: Option<&Order>, stats: moored::keeper::Stats) -> Vec<(i32, Kind)> {
    let of_supervisor = |role: &str| role.starts_with("supervisor");
    let is_subject = |kind: &Kind| match (kind, order.map(|order| order.role.as_str())) {
        (_, None) => true,
        (Kind::Supervisor, Some(role)) => of_supervisor(role),
        (Kind::Anchor, Some(role)) => role == "anchor" || role == "dry run",
        // A supervisor that is to be is its child.
        (_, Some(role)) => operation.subjects.len() == 1 || !of_supervisor(role),
    };
    let pid = |kind: &Kind| match kind {
        Kind::Anchor => stats.anchor,
        Kind::Supervisor => stats.supervisor,
        _ => Some(stats.keeper),
    };
    operation.subjects.iter().filter(|kind| is_subject(kind)).filter_map(|kind| Some((pid(kind)?, *kind))).collect()
}

fn converge(
    stand: &Stand,
    operation: &Operation,
    before: &Before,
    (mut asked, is_struck): (Option<JoinHandle<Answer>>, bool),
    since: Instant,
    wrongs: &mut Vec<String>,
) {
    let mut why = String::new();
    loop {
        if let Some(answered) = asked.take_if(|asked| asked.is_finished()) {
            match answered.join().unwrap() {
                Ok(answers) if !is_struck => wrongs.extend((operation.answer)(&answers).err()),
                Ok(_) => {}
                Err(error) if is_struck => {
                    why = error;
                    asked = (operation.again)().map(|request| stand.ask_aside(request));
                }
                Err(error) => wrongs.push(format!("refused: {error}")),
            }
        }
        if asked.is_none() {
            match (operation.settled)(stand, before) {
                Ok(()) => return,
                Err(error) => why = error,
            }
        }
        if since.elapsed() > RECOVERS {
            return wrongs.push(format!("not converged in {RECOVERS:?}: {why}"));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// All points of an operation, or a sample.
fn try_points(operation: &Operation) {
    let Some(mut stand) = Stand::new(&format!("points-{}", &operation.name[..4].trim())) else { return };
    // The first one allocates what later ones have.
    run(&mut stand, operation, None);
    renew_if(operation.victims == Victims::CallerAfterKeeper, &mut stand);
    let undisturbed = run(&mut stand, operation, None);
    assert!(undisturbed.wrongs.is_empty(), "undisturbed: {:?}", undisturbed.wrongs);
    renew_if(operation.victims == Victims::CallerAfterKeeper, &mut stand);
    let mut rows = BTreeMap::new();
    let stride = std::env::var("MOORED_KILL_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let only = std::env::var("MOORED_KILL_ROLE").unwrap_or_default();
    for (role, calls) in undisturbed.seen.calls {
        if !operation.is_about(&role) || !role.contains(&only) {
            continue;
        }
        let mut row = Row { calls, ..Row::default() };
        let (mut n, mut misses) = (1, 0);
        while misses < MISSES && n < POINTS_MAX {
            let order = Order { role: role.clone(), n, blow: Blow::Kill(operation.victims), calls: None };
            let mut outcome = run(&mut stand, operation, Some(order.clone()));
            // Late on a busy machine is not late by the point's own: that would be late again.
            for _ in 0..LATE_AGAIN {
                if outcome.is_late && outcome.wrongs.is_empty() {
                    row.late += 1;
                    renew_if(operation.uses_up(&role), &mut stand);
                    outcome = run(&mut stand, operation, Some(order.clone()));
                }
            }
            if outcome.is_late {
                outcome.wrongs.push(format!("not converged in {:?}, {} times", converges(operation), LATE_AGAIN + 1));
            }
            match outcome.seen.struck {
                None => misses += 1,
                Some(_) => {
                    misses = 0;
                    row.tried += 1;
                    row.slowest = row.slowest.max(outcome.took);
                }
            }
            let at_its_end = if operation.uses_up(&role) { stand.renew() } else { Vec::new() };
            let at = |wrong| format!("{} of {role} before call {n}: {wrong}", operation.name);
            for wrong in outcome.wrongs.into_iter().chain(at_its_end).map(at) {
                println!("VIOLATION {wrong}");
                row.violations.push(wrong);
            }
            n = if all_points() { n + stride } else { n * 3 };
        }
        println!("{}", line(operation, &role, &row));
        rows.insert(role, row);
    }
    let account = stand.account();
    report(operation, &rows, &account);
    let violations: Vec<&String> = rows.values().flat_map(|row| &row.violations).chain(&account).collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

fn renew_if(is_due: bool, stand: &mut Stand) {
    if is_due {
        assert_eq!(stand.renew(), Vec::<String>::new());
    }
}

fn line(operation: &Operation, role: &str, row: &Row) -> String {
    let role = match operation.follow {
        Some((_, word)) if role == "set-up" => word,
        _ => role,
    };
    let (name, slowest) = (operation.name, row.slowest.as_secs_f64());
    let (calls, tried, late, violations) = (row.calls, row.tried, row.late, row.violations.len());
    format!("{name:20} {role:32} {calls:6} {tried:6} {violations:6} {late:6} {slowest:8.2}")
}

/// Rows for the table, and what was wrong.
fn report(operation: &Operation, rows: &BTreeMap<String, Row>, account: &[String]) {
    let Some(path) = std::env::var_os("MOORED_KILL_REPORT") else { return };
    let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
    for (role, row) in rows {
        writeln!(file, "{}", line(operation, role, row)).unwrap();
    }
    for wrong in rows.values().flat_map(|row| &row.violations).chain(account) {
        writeln!(file, "# {wrong}").unwrap();
    }
}

#[test]
fn kill_points_of_a_start() {
    try_points(&operations::START);
}

#[test]
fn kill_points_of_a_stop() {
    try_points(&operations::STOP);
}

#[test]
fn kill_points_of_a_reload() {
    try_points(&operations::RELOAD);
}

#[test]
fn kill_points_of_an_exit_and_the_restart() {
    try_points(&operations::EXIT);
}

#[test]
fn kill_points_of_a_rotation() {
    try_points(&operations::ROTATE);
}

#[test]
fn kill_points_of_an_exec() {
    try_points(&operations::EXEC);
}

#[test]
fn kill_points_of_an_adoption() {
    try_points(&operations::ADOPT);
}

#[test]
fn kill_points_of_an_adoption_whose_keeper_dies() {
    try_points(&operations::ADOPT_WITHOUT_KEEPER);
}

#[test]
fn kill_points_of_a_start_for_both() {
    try_points(&operations::START_BOTH);
}

#[test]
fn kill_points_of_a_start_on_a_terminal() {
    try_points(&operations::START_TERMINAL);
}

#[test]
fn kill_points_of_an_adoption_of_a_terminal_for_both() {
    try_points(&operations::ADOPT_TERMINAL);
}

#[test]
fn kill_points_of_a_stop_for_both() {
    try_points(&operations::STOP_BOTH);
}

#[test]
fn kill_points_of_an_upgrade() {
    try_points(&operations::UPGRADE);
}

#[test]
fn kill_points_of_a_takeover() {
    try_points(&operations::TAKE_OVER);
}

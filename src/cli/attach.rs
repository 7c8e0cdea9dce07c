//! `moored attach`: what a unit prints, from now on.
//!
//! A unit has no terminal and no standard input, so there is its output to look at and nothing to type into: it is read from the log's files,
//! as `logs -f` does, without its past. Whoever looks takes no byte from the log, holds nobody up, and is nothing to the unit: it runs on when he
//! goes, and he goes on when it starts anew, or the supervisor does.
//!
//! | the unit | so |
//! |---|---|
//! | runs, starts, stops, or will start by itself | its output, until the output's reader goes, or a signal comes |
//! | has ended, failed or was stopped | refused: it prints nothing until somebody acts |
//! | has replicas | refused if all are of the second kind, else the output of each that has a log by then, each line with the replica before it |

use std::io::{self, IsTerminal};
use std::path::Path;

use super::args::{Attach, Logs};
use super::ask::one_answer;
use super::{Failure, logs, print_note};
use crate::control::protocol::{Request, Response, UnitReport};

/// Prints until the output's reader goes, or a signal comes.
pub fn attach(run_dir: &Path, log_dir: &Path, args: Attach) -> Result<u8, Failure> {
    let Attach { unit } = args;
    let Response::Units { units, .. } = one_answer(run_dir, &Request::Ps { units: vec![unit.clone()] })? else {
        return Err(Failure::WrongAnswer);
    };
    if let Some(message) = refusal(&unit, &units) {
        return Err(Failure::Refused { message, code: 1 });
    }
    // Only somebody who looks at a terminal is told: what a script reads is the unit's.
    if io::stderr().is_terminal() {
        // `exec` wants one of a unit's replicas.
        let one = units.first().map_or(&unit, |row| &row.unit);
        print_note(&format!(
            "{unit} has no terminal: this is what it prints from now on, and Ctrl-C leaves it running. For a shell inside: \
             `moored exec -it {one} -- sh`"
        ))?;
    }
    let query =
        Logs { unit, follow: true, lines: Some(0), since: None, timestamps: false, previous: false, json: false };
    logs::logs(log_dir, query)
}

/// Why there is nothing to wait for, if so.
fn refusal(unit: &str, rows: &[UnitReport]) -> Option<String> {
    let is_over = |row: &&UnitReport| matches!(row.phase.as_str(), "completed" | "failed" | "stopped");
    let over = rows.iter().find(is_over).filter(|_| rows.iter().all(|row| is_over(&row)))?;
    let phase = &over.phase;
    Some(format!(
        "{unit} is not running, it is {phase}: `moored logs {unit}` has what it printed, `moored start {unit}` runs it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_prints_nothing_until_somebody_acts_is_refused() {
        let rows = |phases: &[&str]| -> Vec<UnitReport> {
            phases.iter().map(|phase| UnitReport { phase: (*phase).to_owned(), ..UnitReport::default() }).collect()
        };
        for phase in ["waiting", "starting", "running", "ready", "stopping", "backoff", "stuck"] {
            assert_eq!(refusal("web", &rows(&[phase])), None, "{phase}");
            assert_eq!(refusal("web", &rows(&["failed", phase])), None, "one of two: {phase}");
        }
        for phase in ["completed", "failed", "stopped"] {
            let message = refusal("web", &rows(&[phase])).unwrap();
            assert!(message.starts_with(&format!("web is not running, it is {phase}: ")), "{message}");
            assert!(refusal("web", &rows(&[phase, "stopped"])).is_some(), "{phase}");
        }
        assert_eq!(refusal("web", &[]), None);
    }
}

//! `moored attach`: a unit's terminal; of a unit without one, what it prints from now on.
//!
//! Whoever is attached is nothing to the unit: it runs on when he goes, however he goes, and he goes on when it starts anew, or the supervisor
//! does. He takes no byte from the log and holds nobody up.
//!
//! | the unit | so |
//! |---|---|
//! | has a terminal | the master comes from the supervisor; what is typed goes there, what is shown comes from the log, byte by byte ([`Cable`]) |
//! | has a terminal, and `--no-stdin` | its output, byte by byte, until a signal comes; its window is left as it is |
//! | has none | its output, line by line, from the log's files, as `logs -f` without its past |
//! | has ended, failed or was stopped | refused: it prints nothing until somebody acts. If it comes to that later, that is the end |
//! | has replicas | with a terminal one of them is to be named; else the output of each that has a log by then, each line with the replica before it. Refused if none is to print anything |
//!
//! Several may be attached: all see the same, all may type, and the window has the size that one of them had last.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::Signal;

use super::args::{Attach, Logs};
use super::ask::{Answers, LOST_MAX, one_answer};
use super::cable::{Cable, failed, take_signals};
use super::detach::Filter;
use super::{Failure, logs, print_note};
use crate::control::Client;
use crate::control::protocol::{Request, Response, UnitReport};
use crate::supervise::log::RawTail;
use crate::unit::UnitName;

/// Prints until the output's reader goes, a signal comes, or the keys that detach are typed.
pub fn attach(run_dir: &Path, log_dir: &Path, args: Attach) -> Result<u8, Failure> {
    let mut line = Line::open(run_dir, &args.unit)?;
    let Some(phase) = line.phase.take() else { return look_on(run_dir, log_dir, args.unit) };
    if is_over(&phase) {
        return Err(Failure::Refused { message: refusal(&args.unit, &phase), code: 1 });
    }
    let unit = UnitName::new(&args.unit).map_err(|error| Failure::BadUnit(error.to_string()))?;
    let log = RawTail::open(log_dir, &unit).map_err(Failure::Logs)?;
    // Blocked before anything can be left half done; they arrive as input from here on.
    let signals = take_signals([Signal::SIGWINCH, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT])?;
    let is_watched = io::stderr().is_terminal();
    let console = line.console.take().filter(|_| !args.no_stdin);
    let mut cable = Cable::to_unit(console, log, Filter::new(args.detach_keys), signals);
    let end = loop {
        let turn = cable.turn(line.answers.0.as_fd(), line.answers.0.is_buffered())?;
        if let Some(signal) = turn.signal {
            return Ok(128u8.saturating_add(signal));
        }
        if turn.detached {
            break "detached from it, it runs on".to_owned();
        }
        if turn.other
            && let Some(phase) = line.next(run_dir, &args.unit)?
        {
            if is_over(&phase) {
                cable.show_rest()?;
            }
            break format!("it is {phase}");
        }
        if let Some(console) = line.console.take().filter(|_| !args.no_stdin) {
            cable.renew(console);
        }
    };
    drop(cable);
    if is_watched {
        print_note(&format!("{unit}: {end}"))?;
    }
    Ok(0)
}

/// Our line to the supervisor, and then to the one that comes after it.
struct Line {
    answers: Answers,
    /// The end on which masters come, of a line that is new.
    console: Option<UnixStream>,
    /// Of a unit that has a terminal.
    phase: Option<String>,
}

impl Line {
    fn open(run_dir: &Path, unit: &str) -> Result<Line, Failure> {
        for _ in 0..LOST_MAX {
            match Line::open_once(run_dir, unit) {
                Err(failure) if failure.is_lost_answer() => {}
                done => return done,
            }
        }
        Err(Failure::NoAnswer)
    }

    fn open_once(run_dir: &Path, unit: &str) -> Result<Line, Failure> {
        let (ours, theirs) = UnixStream::pair().map_err(failed("making a socket pair"))?;
        let request = Request::Terminal { unit: unit.to_owned() };
        let mut answers = Answers(Client::connect(run_dir)?.call(&request, &[theirs.as_fd()])?);
        match answers.next()?.ok_or(Failure::NoAnswer)? {
            Response::Terminal { has, phase } => Ok(Line { answers, console: Some(ours), phase: has.then_some(phase) }),
            _ => Err(Failure::WrongAnswer),
        }
    }

    /// Waits for what is said: the phase, if it runs no more. Where the supervisor went away the next one is asked.
    fn next(&mut self, run_dir: &Path, unit: &str) -> Result<Option<String>, Failure> {
        match self.answers.next() {
            Ok(Some(Response::TerminalEnded { phase })) => return Ok(Some(phase)),
            Ok(Some(_)) => return Err(Failure::WrongAnswer),
            Ok(None) => {}
            Err(failure) if failure.is_lost_answer() => {}
            Err(failure) => return Err(failure),
        }
        *self = Line::open(run_dir, unit)?;
        // Its text may have changed meanwhile.
        Ok(self
            .phase
            .take()
            .map_or(Some("without a terminal now".to_owned()), |phase| Some(phase).filter(|phase| is_over(phase))))
    }
}

/// At a unit without a terminal.
fn look_on(run_dir: &Path, log_dir: &Path, unit: String) -> Result<u8, Failure> {
    let Response::Units { units, .. } = one_answer(run_dir, &Request::Ps { units: vec![unit.clone()] })? else {
        return Err(Failure::WrongAnswer);
    };
    if let Some(row) = over(&units) {
        return Err(Failure::Refused { message: refusal(&unit, &row.phase), code: 1 });
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

fn is_over(phase: &str) -> bool {
    matches!(phase, "completed" | "failed" | "stopped")
}

/// One that prints nothing until somebody acts, if all are so.
fn over(rows: &[UnitReport]) -> Option<&UnitReport> {
    rows.first().filter(|_| rows.iter().all(|row| is_over(&row.phase)))
}

fn refusal(unit: &str, phase: &str) -> String {
    format!(
        "{unit} is not running, it is {phase}: `moored logs {unit}` has what it printed, `moored start {unit}` runs it"
    )
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
            assert!(over(&rows(&[phase])).is_none(), "{phase}");
            assert!(over(&rows(&["failed", phase])).is_none(), "one of two: {phase}");
        }
        for phase in ["completed", "failed", "stopped"] {
            assert!(over(&rows(&[phase, "stopped"])).is_some_and(|row| row.phase == phase), "{phase}");
            assert!(refusal("web", phase).starts_with(&format!("web is not running, it is {phase}: ")));
        }
        assert!(over(&[]).is_none());
    }
}

//! Commands that are one request to the supervisor and its answers printed.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use super::args::Apply;
use super::text::Style;
use super::{Failure, print, process1, render};
use crate::control::Client;
use crate::control::client::Responses;
use crate::control::protocol::{Change, Event, Request, Response};
use crate::unit::diagnostic::one_line;

/// How long `down` waits for the anchor and the keeper once everything is stopped: they have nothing left to do.
const LAST_WAIT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// So many supervisors in a row may go away with the answer, before it is not asked for any more.
pub(super) const LOST_MAX: u32 = 8;

/// SIGKILL and SIGTERM, as `kill` sends them by default.
const SIGKILL: u8 = 9;
const SIGTERM: u8 = 15;

/// Asks, and turns an error that the supervisor answers into a failure.
pub(super) fn answers(run_dir: &Path, request: &Request) -> Result<Answers, Failure> {
    let responses = Client::connect(run_dir)?.call(request, &[])?;
    Ok(Answers(responses))
}

pub(super) struct Answers(pub(super) Responses);

impl Answers {
    /// The next answer; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Response>, Failure> {
        match self.0.next().transpose()? {
            Some(Response::Error { message, code }) => Err(Failure::Refused { message, code }),
            answer => Ok(answer),
        }
    }
}

pub(super) fn one_answer(run_dir: &Path, request: &Request) -> Result<Response, Failure> {
    asked_again(|| answers(run_dir, request)?.next()?.ok_or(Failure::NoAnswer))
}

/// Asks once more whenever the supervisor went away with the answer, as it does in an upgrade: only what may be asked twice.
fn asked_again<T>(mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    for _ in 0..LOST_MAX {
        match ask() {
            Err(failure) if failure.is_lost_answer() => {}
            done => return done,
        }
    }
    ask()
}

/// Milliseconds, saturating.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One line of JSON.
pub(super) fn json_line<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    crate::supervise::log::json_line(value).map_err(|error| Failure::Output(error.into()))
}

/// `all`: a row for each replica, as there is when units are named, or only those that failed are to be shown.
pub(super) fn ps(run_dir: &Path, units: Vec<String>, (all, failed): (bool, bool), json: bool) -> Result<u8, Failure> {
    let folded = !all && !failed && units.is_empty();
    let Response::Units { mut units, notes } = one_answer(run_dir, &Request::Ps { units })? else {
        return Err(Failure::WrongAnswer);
    };
    units.retain(|unit| !failed || render::is_failed(unit));
    if json {
        print(&json_line(&units)?)?;
    } else {
        let units = if folded { render::folded(units) } else { units };
        print(&render::ps(&units, &notes, &Style::of_stdout()))?;
    }
    Ok(0)
}

pub(super) fn status(run_dir: &Path, unit: Option<String>, json: bool) -> Result<u8, Failure> {
    let style = Style::of_stdout();
    let shown = match one_answer(run_dir, &Request::Status { unit })? {
        Response::Status(status) if json => json_line(&status)?,
        Response::Status(status) => render::status(&status, &style),
        Response::Supervisor(report) if json => json_line(&report)?,
        Response::Supervisor(report) => render::supervisor(&report, &style),
        _ => return Err(Failure::WrongAnswer),
    };
    print(&shown)?;
    Ok(0)
}

pub(super) fn events(
    run_dir: &Path,
    units: Vec<String>,
    (follow, lines): (bool, Option<usize>),
    since_ms: Option<u64>,
    json: bool,
) -> Result<u8, Failure> {
    let style = Style::of_stdout();
    let show = |event: &Event| print(&if json { json_line(event)? } else { render::event(event, &style) });
    let mut follower = Follower { since_ms, ..Follower::default() };
    loop {
        let request = Request::Events { follow, since_ms: follower.since_ms, units: units.clone() };
        match follower.read(run_dir, &request, lines, &show) {
            // The end of those that are past is no loss.
            Ok(()) if !follow => break,
            Ok(()) => {}
            Err(failure) if failure.is_lost_answer() => {}
            Err(Failure::Connect(_)) if follower.lost > 0 => return Err(Failure::NoAnswer),
            Err(failure) => return Err(failure),
        }
        follower.lost += 1;
        if follower.lost > LOST_MAX {
            return Err(Failure::NoAnswer);
        }
    }
    follower.last.iter().try_for_each(show)?;
    Ok(0)
}

/// How far somebody has read the events, across the supervisors that tell them.
#[derive(Default)]
struct Follower {
    since_ms: Option<u64>,
    /// Number and time of the newest that was shown.
    newest: Option<(u64, u64)>,
    /// With `-n`: those to be shown at the end.
    last: VecDeque<Event>,
    /// Supervisors in a row that went away without telling any.
    lost: u32,
}

impl Follower {
    /// Reads to the end of an answer.
    fn read(
        &mut self,
        run_dir: &Path,
        request: &Request,
        lines: Option<usize>,
        show: &impl Fn(&Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut answers = answers(run_dir, request)?;
        self.last.clear();
        while let Some(answer) = answers.next()? {
            let Response::Event(event) = answer else { return Err(Failure::WrongAnswer) };
            self.lost = 0;
            match lines {
                None if self.is_known(&event) => {}
                None => {
                    (self.since_ms, self.newest) = (Some(event.time), Some((event.number, event.time)));
                    show(&event)?;
                }
                Some(lines) => {
                    self.last.push_back(event);
                    self.last.drain(..self.last.len().saturating_sub(lines));
                }
            }
        }
        Ok(())
    }

    /// Whether it was shown. A number alone does not say so: a supervisor that was killed may have told an event that it could not write
    /// down, and the next one has given its number to another, later.
    fn is_known(&self, event: &Event) -> bool {
        event.number > 0 && self.newest.is_some_and(|(number, time)| event.number <= number && event.time <= time)
    }
}

pub(super) fn why(run_dir: &Path, unit: String, json: bool) -> Result<u8, Failure> {
    let Response::Why(account) = one_answer(run_dir, &Request::Why { unit })? else {
        return Err(Failure::WrongAnswer);
    };
    print(&if json { json_line(&account)? } else { render::why(&account, &Style::of_stdout()) })?;
    Ok(0)
}

pub(super) fn cat(run_dir: &Path, unit: String, json: bool) -> Result<u8, Failure> {
    let Response::Cat(merged) = one_answer(run_dir, &Request::Cat { unit })? else {
        return Err(Failure::WrongAnswer);
    };
    print(&if json { json_line(&merged)? } else { render::cat(&merged) })?;
    Ok(0)
}

pub(super) fn sync(run_dir: &Path, units: Vec<String>, timeout: Option<Duration>) -> Result<u8, Failure> {
    // In whole seconds: of the first one nothing is taken away.
    let begun = Instant::now();
    let once = || {
        let left =
            timeout.map(|timeout| millis(timeout.saturating_sub(Duration::from_secs(begun.elapsed().as_secs()))));
        let request = Request::Sync { units: units.clone(), timeout_ms: left };
        answers(run_dir, &request)?.next()?.ok_or(Failure::NoAnswer)
    };
    let Response::Synced { code, lines } = asked_again(once)? else {
        return Err(Failure::WrongAnswer);
    };
    print_lines(&lines)?;
    Ok(code)
}

/// What is put in force comes first, then what `sync` says.
pub(super) fn apply(run_dir: &Path, args: Apply) -> Result<u8, Failure> {
    let Apply { units, timeout, atomic, plan, confirm_removals } = args;
    let (timeout_ms, is_of_plan) = (timeout.map(millis), plan.is_some());
    let request = Request::Apply { confirm_removals, units, timeout_ms, atomic, plan };
    let once = || {
        let mut answers = answers(run_dir, &request)?;
        loop {
            match answers.next()? {
                Some(Response::Done { lines }) => print_lines(&lines)?,
                Some(Response::Synced { code, lines }) => {
                    print_lines(&lines)?;
                    return Ok(code);
                }
                Some(_) => return Err(Failure::WrongAnswer),
                None => return Err(Failure::NoAnswer),
            }
        }
    };
    // What is put in force twice is in force; only of a plan it is not known whether it was done already.
    if is_of_plan { once() } else { asked_again(once) }
}

pub(super) fn plan(run_dir: &Path, units: Option<PathBuf>, json: bool) -> Result<u8, Failure> {
    #[derive(Serialize)]
    struct Plan {
        changes: Vec<Change>,
        errors: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        hash: Option<String>,
    }
    // The supervisor stands elsewhere.
    let dir = units.map(|dir| std::path::absolute(&dir).unwrap_or(dir));
    let Response::Plan { changes, errors, hash } = one_answer(run_dir, &Request::Plan { dir })? else {
        return Err(Failure::WrongAnswer);
    };
    let invalid = !errors.is_empty();
    if json {
        print(&json_line(&Plan { changes, errors, hash })?)?;
    } else {
        print(&render::plan(&changes, &errors, hash.as_deref(), &Style::of_stdout()))?;
    }
    Ok(u8::from(invalid))
}

pub(super) fn kill(run_dir: &Path, units: Vec<String>, signal: Option<u8>, all: bool) -> Result<u8, Failure> {
    let signal = signal.unwrap_or(if all { SIGKILL } else { SIGTERM });
    if all && signal != SIGKILL {
        return Err(Failure::Usage("--all kills the whole cgroup at once: SIGKILL is the only signal it can send"));
    }
    act(run_dir, &Request::Kill { units, signal, all })
}

/// Stops everything, and waits until the processes that did it are gone too, so that another `up` finds the place free.
pub(super) fn down(run_dir: &Path) -> Result<u8, Failure> {
    let Response::Supervisor(report) = one_answer(run_dir, &Request::Status { unit: None })? else {
        return Err(Failure::WrongAnswer);
    };
    if process1::is_machine(report.anchor) {
        let cure = "moored is process 1 of this machine: `moored poweroff` or `moored reboot` end it, `moored stop` stops units";
        return Err(Failure::Usage(cure));
    }
    // Before they end: afterwards the numbers could be anybody's.
    let pids =
        report.anchor.into_iter().chain(report.keeper).filter(|pid| process1::is_ours(*pid)).filter_map(Pid::from_raw);
    let ends: Vec<OwnedFd> = pids.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
    let code = act(run_dir, &Request::Down)?;
    for end in &ends {
        let mut fds = [PollFd::new(end, PollFlags::IN)];
        // As PID 1 the anchor does not end.
        let _ = poll(&mut fds, Some(&LAST_WAIT));
    }
    Ok(code)
}

/// A request that ends in `Done`; what is said on the way is printed as it comes.
pub(super) fn act(run_dir: &Path, request: &Request) -> Result<u8, Failure> {
    let mut done = false;
    let mut once = || {
        let mut answers = answers(run_dir, request)?;
        while let Some(answer) = answers.next()? {
            let Response::Done { lines } = answer else { return Err(Failure::WrongAnswer) };
            print_lines(&lines)?;
            done = true;
        }
        if done { Ok(0) } else { Err(Failure::NoAnswer) }
    };
    match request {
        // What is wished for twice is wished for.
        Request::Start { .. } | Request::Stop { .. } | Request::Reload { .. } => asked_again(once),
        _ => once(),
    }
}

fn print_lines(lines: &[String]) -> Result<(), Failure> {
    lines.iter().try_for_each(|line| print(&format!("{}\n", one_line(line))))
}

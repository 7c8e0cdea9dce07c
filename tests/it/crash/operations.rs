//! The operations that are cut short: how each begins, what is done, and how the world must look when it is over.

use std::thread::JoinHandle;

use moored::control::{Request, Response};
use moored::keeper::Stats;
use rustix::process::Signal;

use super::super::support::wait_for;
use super::signal as send;
use super::stand::{Before, PRINT, Stand, want};
use super::tracer::Kind;

/// Of a client: all that it was told, or why it was told nothing.
pub type Answer = Result<Vec<Response>, String>;

/// One.
pub struct Operation {
    pub name: &'static str,
    /// Whose calls count, besides those of children where `follow`.
    pub subjects: &'static [Kind],
    /// Whose children, and what they are called here.
    pub follow: Option<(Kind, &'static str)>,
    /// Brings the world to where it begins.
    pub prepare: fn(&Stand),
    /// Begins it. What it gives answers; without, it is over when `is_done`.
    pub act: fn(&Stand, Stats) -> Option<JoinHandle<Answer>>,
    pub is_done: fn(&Stand, &Before) -> bool,
    /// What is asked again when the first one did not get an answer.
    pub again: fn() -> Option<Request>,
    /// Whether it is over and all is as it must be.
    pub settled: fn(&Stand, &Before) -> Result<(), String>,
    /// Checks the answer of an operation that nobody disturbed.
    pub answer: fn(&[Response]) -> Result<(), String>,
    /// Who dies.
    pub victims: Victims,
}

/// Who is killed at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victims {
    /// The one that makes the call.
    Caller,
    /// The same, and the keeper is dead already.
    CallerAfterKeeper,
    /// The keeper; the caller goes on.
    Keeper,
    /// Both.
    CallerAndKeeper,
}

impl Operation {
    /// Whether the keeper, or what stands in its place, is not there for a second time.
    pub fn uses_up(&self, role: &str) -> bool {
        self.victims != Victims::Caller || role == "keeper" || role == "anchor"
    }

    /// Whether calls of this role are kill points here.
    pub fn is_about(&self, role: &str) -> bool {
        let all = matches!(self.victims, Victims::Caller | Victims::CallerAfterKeeper) && self.name != "adopt";
        all || role.starts_with("supervisor")
    }
}

const BOTH: &[Kind] = &[Kind::Keeper, Kind::Supervisor];

pub const START: Operation = Operation {
    name: "start",
    subjects: BOTH,
    follow: Some((Kind::Keeper, "set-up")),
    prepare: Stand::stop_alone,
    act: |stand, _| Some(stand.ask_aside(start())),
    is_done: |_, _| true,
    again: || Some(start()),
    settled: |stand, before| {
        let row = stand.row("alone").ok_or("no answer")?;
        want("alone's phase", &row.phase.as_str(), &"running")?;
        want("runs", &stand.count("runs"), &(before.runs + 1))?;
        stand.settled(2)
    },
    answer: |_| Ok(()),
    victims: Victims::Caller,
};

pub const STOP: Operation = Operation {
    name: "stop",
    subjects: BOTH,
    follow: None,
    prepare: Stand::run_alone,
    act: |stand, _| Some(stand.ask_aside(stop())),
    is_done: |_, _| true,
    again: || Some(stop()),
    settled: |stand, before| {
        let row = stand.row("alone").ok_or("no answer")?;
        want("alone's phase", &row.phase.as_str(), &"stopped")?;
        want("its exit", &row.exit.as_deref(), &Some("code 7"))?;
        want("runs", &stand.count("runs"), &before.runs)?;
        stand.settled(1)
    },
    answer: |_| Ok(()),
    victims: Victims::Caller,
};

pub const RELOAD: Operation = Operation {
    name: "reload",
    subjects: BOTH,
    follow: None,
    prepare: Stand::run_alone,
    act: |stand, _| Some(stand.ask_aside(reload())),
    is_done: |_, _| true,
    again: || Some(reload()),
    settled: |stand, before| {
        if stand.count("reloads") <= before.reloads {
            return Err("it was not told to reload".to_owned());
        }
        stand.same(before)
    },
    answer: |_| Ok(()),
    victims: Victims::Caller,
};

pub const EXIT: Operation = Operation {
    name: "exit, restart",
    subjects: BOTH,
    follow: None,
    prepare: |stand| {
        // A start by hand forgets how often it failed.
        stand.stop_alone();
        stand.run_alone();
    },
    act: |stand, _| {
        stand.signal_alone(Signal::USR2);
        None
    },
    is_done: |stand, before| stand.count("runs") > before.runs,
    again: || None,
    settled: |stand, before| {
        let row = stand.row("alone").ok_or("no answer")?;
        want("alone's phase", &row.phase.as_str(), &"running")?;
        want("runs", &stand.count("runs"), &(before.runs + 1))?;
        want("exits", &stand.count("exits"), &(before.exits + 1))?;
        stand.settled(2)
    },
    answer: |_| Ok(()),
    victims: Victims::Caller,
};

pub const ROTATE: Operation = Operation {
    name: "rotate",
    subjects: BOTH,
    follow: None,
    prepare: Stand::run_alone,
    act: |stand, _| {
        stand.signal_alone(Signal::USR1);
        None
    },
    is_done: |stand, before| stand.printed() >= before.printed + PRINT,
    again: || None,
    settled: |stand, before| {
        want("printed", &stand.printed(), &(before.printed + PRINT))?;
        let tail = stand.world.tail("alone", 4);
        let numbers = tail.lines().rev().take(PRINT).filter_map(|line| line.split(' ').nth(1)?.parse::<usize>().ok());
        let numbers: Vec<usize> = numbers.collect();
        want("lines in the log", &numbers, &(before.printed..before.printed + PRINT).rev().collect())?;
        stand.same(before)
    },
    answer: |_| Ok(()),
    victims: Victims::Caller,
};

pub const EXEC: Operation = Operation {
    name: "exec",
    subjects: BOTH,
    follow: Some((Kind::Keeper, "helper")),
    prepare: Stand::run_alone,
    act: |stand, _| Some(stand.ask_aside(exec())),
    is_done: |_, _| true,
    again: || Some(exec()),
    settled: |stand, before| stand.same(before),
    answer: |answers| match answers.last() {
        Some(Response::ExecEnded { code: 5 }) => Ok(()),
        other => Err(format!("answered {other:?}")),
    },
    victims: Victims::Caller,
};

pub const ADOPT: Operation = Operation {
    name: "adopt",
    subjects: &[Kind::Keeper],
    follow: Some((Kind::Keeper, "set-up")),
    prepare: Stand::run_alone,
    act: |_, stats| {
        send(stats.supervisor.unwrap(), Signal::KILL);
        None
    },
    is_done: |stand, before| {
        stand.stats().is_some_and(|stats| stats.supervisor.is_some() && stats.supervisor != before.supervisor)
    },
    again: || None,
    settled: |stand, before| stand.same(before),
    answer: |_| Ok(()),
    victims: Victims::Caller,
};

pub const TAKE_OVER: Operation = Operation {
    name: "take over",
    subjects: &[Kind::Anchor, Kind::Supervisor],
    follow: None,
    prepare: Stand::run_alone,
    act: |_, stats| {
        send(stats.keeper, Signal::KILL);
        None
    },
    is_done: |_, _| true,
    again: || None,
    settled: |stand, before| stand.same(before),
    answer: |_| Ok(()),
    victims: Victims::CallerAfterKeeper,
};

/// By a program that is another file, and of this build. What is left of one that was cut short goes on with the next one.
pub const UPGRADE: Operation = Operation {
    name: "upgrade",
    subjects: &[Kind::Anchor, Kind::Keeper, Kind::Supervisor],
    follow: Some((Kind::Keeper, "set-up")),
    prepare: Stand::run_alone,
    act: |stand, _| Some(stand.upgrade_aside()),
    is_done: |_, _| true,
    again: || None,
    settled: |stand, before| stand.same(before),
    answer: |_| Ok(()),
    victims: Victims::Caller,
};

pub const ADOPT_WITHOUT_KEEPER: Operation = Operation { name: "adopt, keeper dies", victims: Victims::Keeper, ..ADOPT };

pub const START_BOTH: Operation =
    Operation { name: "start, both die", victims: Victims::CallerAndKeeper, follow: None, ..START };

/// Of a unit with a terminal.
pub const START_TERMINAL: Operation = Operation {
    name: "terminal: start",
    prepare: |stand| {
        stand.give_terminal();
        stand.stop_alone();
    },
    settled: |stand, before| {
        (START.settled)(stand, before)?;
        stand.has_terminal(before)
    },
    ..START
};

/// The same in a supervisor that meets it, and whose keeper dies with it.
pub const ADOPT_TERMINAL: Operation = Operation {
    name: "terminal: adopt, both die",
    prepare: |stand| {
        stand.give_terminal();
        stand.run_alone();
    },
    settled: |stand, before| {
        stand.same(before)?;
        stand.has_terminal(before)
    },
    victims: Victims::CallerAndKeeper,
    ..ADOPT
};

pub const STOP_BOTH: Operation = Operation { name: "stop, both die", victims: Victims::CallerAndKeeper, ..STOP };

fn alone() -> Vec<String> {
    vec!["alone".to_owned()]
}

fn start() -> Request {
    Request::Start { units: alone() }
}

fn stop() -> Request {
    Request::Stop { units: alone(), reason: None, for_ms: None }
}

fn reload() -> Request {
    Request::Reload { units: alone() }
}

fn exec() -> Request {
    Request::Exec {
        unit: "alone".to_owned(),
        args: ["/bin/sh", "-c", "sleep 0.02; exit 5"].map(str::to_owned).to_vec(),
        env: Vec::new(),
        cwd: None,
        user: None,
        tty: false,
        size: None,
    }
}

/// Waits until what has no answer is done.
pub fn wait_done(operation: &Operation, stand: &Stand, before: &Before, is_struck: impl Fn() -> bool) {
    wait_for("the operation to be done", || ((operation.is_done)(stand, before) || is_struck()).then_some(()));
}

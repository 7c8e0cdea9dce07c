//! Why a unit is doing what it does: as a value, and as the sentence that people read.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::exit::Outcome;
use super::health::unwell_words;
use super::hold::Hold;
use super::schedule::Blind;
use super::time::{BootTime, WallTime};
use crate::unit::{CheckKind, Condition, ContainerId, HookPoint, Need, UnitName};

/// A dependency that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// Which unit.
    pub unit: UnitName,
    /// What it should have come to.
    pub need: Need,
    /// Why it does not come by itself.
    pub why: Option<&'static str>,
}

/// Why a generation is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Everything stops.
    Shutdown,
    /// Its file is gone.
    Removed,
    /// `moored stop`.
    Held,
    /// `moored restart`.
    Restart,
    /// `enabled = false`.
    Disabled,
    /// Its text changed.
    Changed,
    /// Its checks say that it is not well.
    Unhealthy(String),
    /// It was to take over, and its word that it is ready was lost with a keeper: another one is tried.
    Unheard,
    /// The unit whose network it shares stops or has another generation.
    Network(UnitName),
    /// A dependency is lost, and `on_loss` says so.
    Dependency(UnitName),
}

/// Why one unit stops before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// It shares its network.
    Network,
    /// It depends on it.
    Dependency,
}

/// Why a unit is in its phase; [`Reason::words`] says it to people.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// Everything stops.
    Shutdown,
    /// Its file is gone.
    Removed,
    /// `moored stop`.
    Held(Hold),
    /// `enabled = false`.
    Disabled,
    /// It would wait for itself, through these.
    Cycle(Vec<UnitName>),
    /// Dependencies are not there.
    Needs {
        /// Which, at least one.
        lacking: Vec<Lacking>,
        /// One of them, or one that they wait for, does not come by itself.
        stalled: bool,
    },
    /// The host is not as it must be.
    Unmet {
        /// The first condition that is not met.
        condition: Condition,
        /// It was looked at.
        known: bool,
    },
    /// The unit whose network it is to share does not run.
    WaitsFor(UnitName),
    /// It starts in this very round.
    Due,
    /// Ended.
    Backoff {
        /// When the next start is due.
        until: BootTime,
        /// Which start in a row that will be.
        attempt: u32,
        /// How the last one ended.
        last: Outcome,
    },
    /// Its schedule has no run for it now.
    Scheduled {
        /// When the next one is, on both clocks; `None`: never, or nobody can say.
        next: Option<(WallTime, BootTime)>,
        /// Why nobody can.
        blind: Option<Blind>,
        /// When the last one ended, and how.
        last: Option<(WallTime, Outcome)>,
    },
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed {
        /// How.
        last: Outcome,
    },
    /// The limit is reached.
    GaveUp {
        /// So many starts …
        starts: u32,
        /// … within this time.
        interval: Duration,
        /// How the last one ended.
        last: Outcome,
    },
    /// It is to be replaced when that is done with another replica.
    Turn {
        /// Which.
        before: UnitName,
        /// That one does not get there by itself.
        stalled: bool,
    },
    /// It runs with its old text, as the new one could not start.
    ChangeWaits(Box<Reason>),
    /// It runs on, and the container that is to take its place is still to be started.
    NextWaits(Box<Reason>),
    /// Another container beside it is to take its place.
    Next {
        /// Which.
        id: ContainerId,
        /// How far that one is.
        how: Box<Reason>,
        /// When it takes over, if it stays well.
        at: Option<BootTime>,
    },
    /// It took over from this one, something of which is left.
    Previous {
        /// Which.
        id: ContainerId,
        /// How far that one is.
        how: Box<Reason>,
    },
    /// Its container is being made.
    Starting,
    /// Its program runs.
    Running,
    /// It runs, and a check does not pass.
    Unwell {
        /// Which check.
        check: CheckKind,
        /// What it found last.
        said: Option<String>,
    },
    /// It runs, and this is what it tells of itself.
    Tells(String),
    /// It is to stop, but this unit, which shares its network, stops first.
    StopsAfter {
        /// Why it is to stop.
        why: Why,
        /// Who stops first.
        unit: UnitName,
        /// Why that one is first.
        tie: Tie,
    },
    /// The stop signal was sent.
    Stopping {
        /// Why.
        why: Why,
        /// When it is killed.
        kill_at: BootTime,
    },
    /// The stop signal waits for a hook.
    PreStop {
        /// Why it is stopped.
        why: Why,
    },
    /// Killed; not gone yet.
    Killed {
        /// Why it is stopped.
        why: Why,
        /// It would have ignored the stop signal.
        unhandled: bool,
    },
    /// Ended; its remains are being cleared away.
    Clearing {
        /// How it ended; `None` if it never started.
        last: Option<Outcome>,
        /// What is waited for.
        left: Remains,
        /// What went wrong with it.
        trouble: Option<String>,
    },
    /// Killed, and it does not die.
    Stuck {
        /// How many processes are left, if counted.
        processes: Option<u32>,
    },
}

/// What an ended generation still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Processes in its cgroup.
    Processes,
    /// A hook that runs.
    Hook(HookPoint),
    /// Log that is not written yet.
    Log,
    /// A cgroup and pipes.
    Cgroup,
}

impl Reason {
    /// It waits for something that does not come by itself.
    pub fn is_stalled(&self) -> bool {
        match self {
            Reason::Needs { stalled, .. } => *stalled,
            Reason::Unmet { known, .. } => *known,
            Reason::Turn { stalled, .. } => *stalled,
            Reason::ChangeWaits(what) => matches!(**what, Reason::Cycle(_)) || what.is_stalled(),
            // The last one failed; nobody is to wait for a try that comes some time, or for one that does not come.
            Reason::NextWaits(what) => match **what {
                Reason::Failed { .. } | Reason::GaveUp { .. } | Reason::Completed | Reason::Backoff { .. } => true,
                _ => matches!(**what, Reason::Cycle(_)) || what.is_stalled(),
            },
            Reason::Previous { how, .. } => matches!(**how, Reason::Stuck { .. }),
            _ => false,
        }
    }

    /// The sentence, as it is at `now`; `clock` writes a time of day in the reader's zone. Pure, hence the argument.
    pub fn words(&self, now: BootTime, clock: &dyn Fn(WallTime) -> String) -> String {
        match self {
            Reason::Shutdown => "everything stops".to_owned(),
            Reason::Removed => "its file is gone".to_owned(),
            Reason::Held(hold) => held_words(hold, clock),
            Reason::Disabled => "not enabled".to_owned(),
            Reason::Cycle(ring) => format!("waits for itself: {}", joined(ring)),
            Reason::Needs { lacking, .. } => needs_words(lacking),
            Reason::Unmet { condition, .. } => unmet_words(condition),
            Reason::WaitsFor(owner) => format!("waiting for {owner} to run"),
            Reason::Due => "about to start".to_owned(),
            Reason::Backoff { until, attempt, last } => {
                let (wait, nth) = (Spell(until.since(now)), Nth(*attempt));
                format!("backing off, next start in {wait} ({nth} attempt), last exit: {last}")
            }
            Reason::Turn { before, stalled: false } => format!("to be replaced after {before}"),
            Reason::Turn { before, stalled: true } => format!("to be replaced after {before}, which does not do well"),
            Reason::Scheduled { next, blind, last } => {
                let next = match (next, blind) {
                    (Some((wall, boot)), _) => format!("next run {} (in {})", clock(*wall), Spell(boot.since(now))),
                    (None, Some(Blind::Clock)) => "waits for the clock to be set".to_owned(),
                    (None, Some(Blind::Zone)) => "its time zone is not known".to_owned(),
                    (None, None) => "no other run".to_owned(),
                };
                let last = last.as_ref().map(|(at, outcome)| format!(", last: {outcome}, {}", clock(*at)));
                format!("{next}{}", last.unwrap_or_default())
            }
            Reason::Completed => "completed".to_owned(),
            Reason::Failed { last } => format!("last exit: {last}"),
            Reason::GaveUp { starts, interval, last } => {
                format!("gave up: {starts} starts in {}, last exit: {last}", Spell(*interval))
            }
            Reason::ChangeWaits(what) => format!("runs with its old text; the new one {}", what.words(now, clock)),
            Reason::NextWaits(what) => {
                format!("runs on with its old container; the new one: {}", what.words(now, clock))
            }
            Reason::Next { id, how, at } => {
                let how = Some(how.words(now, clock)).filter(|how| !how.is_empty());
                let at = at.map(|at| format!("takes over in {}", Spell(at.since(now))));
                let words = [how, at].into_iter().flatten().collect::<Vec<_>>().join(", ");
                format!("{id} beside it is to take over: {words}")
            }
            Reason::Previous { id, how } => format!("took over from {id}: {}", how.words(now, clock)),
            Reason::Starting => "starting".to_owned(),
            Reason::Running => String::new(),
            Reason::Unwell { check, said } => unwell_words(*check, said.as_deref()),
            Reason::Tells(text) => text.clone(),
            Reason::StopsAfter { why, unit, tie: Tie::Network } => {
                format!("{why}; stops after {unit}, which shares its network")
            }
            Reason::StopsAfter { why, unit, tie: Tie::Dependency } => {
                format!("{why}; stops after {unit}, which depends on it")
            }
            Reason::Stopping { why, kill_at } => format!("{why}; killed in {}", Spell(kill_at.since(now))),
            Reason::PreStop { why } => format!("{why}; its pre_stop hook runs"),
            Reason::Killed { why, unhandled: false } => format!("{why}; killed"),
            Reason::Killed { why, unhandled: true } => {
                format!("{why}; killed at once, since it does not handle the stop signal")
            }
            Reason::Clearing { last, left, trouble } => clearing_words(last.as_ref(), *left, trouble.as_deref()),
            Reason::Stuck { processes } => stuck_words(*processes),
        }
    }
}

fn needs_words(lacking: &[Lacking]) -> String {
    let each = lacking.iter().map(|Lacking { unit, need, why }| match why {
        Some(why) => format!("{unit} ({}; {why})", need.word()),
        None => format!("{unit} ({})", need.word()),
    });
    format!("waits for {}", each.collect::<Vec<_>>().join(", "))
}

fn unmet_words(condition: &Condition) -> String {
    match condition {
        Condition::PathExists(path) => format!("waits for {} to exist", path.display()),
        Condition::MountPoint(path) => format!("waits for {} to be a mount point", path.display()),
        Condition::KernelCmdline(word) => format!("not on this boot: the kernel's command line has no `{word}`"),
    }
}

fn held_words(hold: &Hold, clock: &dyn Fn(WallTime) -> String) -> String {
    let reason = hold.reason.as_ref().map(|reason| format!(": {reason}"));
    let until = hold.until.map(|until| format!(", until {}", clock(until.wall)));
    format!("stopped by {}{}{}", hold.by, reason.unwrap_or_default(), until.unwrap_or_default())
}

fn clearing_words(last: Option<&Outcome>, left: Remains, trouble: Option<&str>) -> String {
    let end = last.map_or("never started".to_owned(), |last| format!("ended: {last}"));
    let left = match left {
        Remains::Processes => "waiting for its last processes".to_owned(),
        Remains::Hook(point) => format!("its {} hook runs", point.word()),
        Remains::Log => "waiting for its log".to_owned(),
        Remains::Cgroup => "clearing it away".to_owned(),
    };
    let trouble = trouble.map(|text| format!(" ({text})")).unwrap_or_default();
    format!("{end}; {left}{trouble}")
}

fn stuck_words(processes: Option<u32>) -> String {
    match processes {
        None => "killed, but it does not die (D state?)".to_owned(),
        Some(1) => "1 process does not die (D state?)".to_owned(),
        Some(count) => format!("{count} processes do not die (D state?)"),
    }
}

fn joined(ring: &[UnitName]) -> String {
    ring.iter().map(UnitName::as_str).collect::<Vec<_>>().join(" -> ")
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Shutdown => f.write_str("everything stops"),
            Why::Removed => f.write_str("its file is gone"),
            Why::Held => f.write_str("stopped by hand"),
            Why::Restart => f.write_str("restart asked for"),
            Why::Unheard => f.write_str("whether it is ready is not known since the keeper died"),
            Why::Disabled => f.write_str("not enabled"),
            Why::Changed => f.write_str("its text changed"),
            Why::Unhealthy(text) => write!(f, "unhealthy: {text}"),
            Why::Dependency(unit) => write!(f, "{unit}, which it depends on, is gone or was started anew"),
            Why::Network(unit) => write!(f, "it shares the network of {unit}, which stops or changed"),
        }
    }
}

/// A duration as people say it, in at most two units: "3.2 s", "1m", "1h5m".
struct Spell(Duration);

impl fmt::Display for Spell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
        let two = |f: &mut fmt::Formatter, big: u64, unit: char, small: u64, part: char| match small {
            0 => write!(f, "{big}{unit}"),
            _ => write!(f, "{big}{unit}{small}{part}"),
        };
        match seconds {
            0..60 => write!(f, "{}.{} s", seconds, self.0.subsec_millis() / 100),
            60..3600 => two(f, minutes, 'm', seconds % 60, 's'),
            3600..86400 => two(f, hours, 'h', minutes % 60, 'm'),
            86400.. => two(f, days, 'd', hours % 24, 'h'),
        }
    }
}

/// 1st, 2nd, 3rd, 4th … 11th, 12th, 13th.
struct Nth(u32);

impl fmt::Display for Nth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match (self.0 % 10, self.0 % 100) {
            (1, hundred) if hundred != 11 => "st",
            (2, hundred) if hundred != 12 => "nd",
            (3, hundred) if hundred != 13 => "rd",
            _ => "th",
        };
        write!(f, "{}{suffix}", self.0)
    }
}

//! What a unit is doing, in one word and in a sentence.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decide::{Rest, View, World};
use super::desired::Desired;
use super::exit::{ExitRecord, Outcome};
use super::health::{HealthStatus, unwell_words};
use super::observed::{Ended, Hold, Live, Observed, State, Stopping, Why};
use super::order::{LOSS_CHAIN_MAX, Lack};
use super::time::{BootTime, WallTime};
use super::told::Reloading;
use crate::unit::{CheckKind, Condition, Need, UnitName};

/// The one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It will start when something else has happened.
    Waiting,
    /// Its container is being made.
    Starting,
    /// Its program runs.
    Running,
    /// It runs, and each of its checks passes.
    Ready,
    /// Being stopped, or cleared away after its end.
    Stopping,
    /// Ended; it starts again at a known time.
    Backoff,
    /// Ended well, and that is that.
    Completed,
    /// Ended badly, or cannot start, and that is that until somebody acts.
    Failed,
    /// Not to run.
    Stopped,
    /// Killed, and it does not die.
    Stuck,
}

/// The phase, the reason for it, and since when.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The one word.
    pub phase: Phase,
    /// The sentence.
    pub reason: Reason,
    /// Since when it is so, if it ever was otherwise.
    pub since: Option<BootTime>,
    /// How it is by its checks, if it has any and runs.
    pub health: Option<HealthStatus>,
    /// How far the reload is that a client asked for.
    pub reloading: Reloading,
}

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
    /// It runs with its old text, as the new one could not start.
    ChangeWaits(Box<Reason>),
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
    /// Log that is not written yet.
    Log,
    /// A cgroup and pipes.
    Cgroup,
}

/// What `unit` is doing. One that is neither declared nor known is `Stopped` because it is removed.
pub fn status(desired: &Desired, observed: &Observed, unit: &UnitName, now: BootTime) -> Status {
    let world = World::new(desired, observed, now);
    status_of(&world, world.view(unit))
}

/// What every unit is doing, declared or not, in name order.
pub fn statuses(desired: &Desired, observed: &Observed, now: BootTime) -> Vec<(UnitName, Status)> {
    let world = World::new(desired, observed, now);
    world.views().map(|view| (view.name.clone(), status_of(&world, view))).collect()
}

/// Units looked up one by one, at one moment.
pub struct Statuses<'w>(World<'w>);

impl<'w> Statuses<'w> {
    /// Looks at the whole once.
    pub fn new(desired: &'w Desired, observed: &'w Observed, now: BootTime) -> Statuses<'w> {
        Statuses(World::new(desired, observed, now))
    }

    /// What this unit is doing; `None` if it is neither declared nor known.
    pub fn get(&self, unit: &UnitName) -> Option<Status> {
        let Statuses(world) = self;
        let wanted = world.desired.units.get_key_value(unit).map(|(name, _)| name);
        let name = wanted.or_else(|| world.observed.units.get_key_value(unit).map(|(name, _)| name))?;
        Some(status_of(world, world.view(name)))
    }
}

fn status_of<'a>(world: &World<'a>, view: View<'a>) -> Status {
    match &view.seen.live {
        Some(live) => live_status(world, view, live),
        None => rest_status(world, view, world.rest(view)),
    }
}

fn live_status<'a>(world: &World<'a>, view: View<'a>, live: &Live) -> Status {
    if let Some(since) = live.stuck_since(world.now) {
        let reason = Reason::Stuck { processes: live.left() };
        return Status { phase: Phase::Stuck, reason, since: Some(since), health: None, reloading: Reloading::Done };
    }
    let health = live.health(view.want.and_then(|want| want.unit.health.as_deref()));
    let (phase, reason, since) = match &live.state {
        State::Starting => (Phase::Starting, Reason::Starting, live.run.begun),
        State::Running { since } => {
            let phase = if health == Some(HealthStatus::Healthy) { Phase::Ready } else { Phase::Running };
            (phase, running_reason(world, view, live), *since)
        }
        State::Stopping(stopping) => (Phase::Stopping, stopping_reason(stopping), stopping.since),
        State::Ended(ended) => (Phase::Stopping, ended_reason(view, live, ended), ended.since),
    };
    let reloading = live.reloading(view.want.and_then(|want| want.unit.notify()), world.now);
    Status { phase, reason, since: Some(since), health, reloading }
}

fn running_reason<'a>(world: &World<'a>, view: View<'a>, live: &Live) -> Reason {
    let why = world.stop_reason(view, live);
    let first = |why: Why| world.in_the_way(live, &why).map(|(unit, tie)| (why, unit.clone(), tie));
    match why.and_then(first) {
        Some((why, unit, tie)) => Reason::StopsAfter { why, unit, tie },
        None => match world.change_waits(view, live) {
            Some(rest) => Reason::ChangeWaits(Box::new(rest_status(world, view, rest).reason)),
            None => unwell(view, live).or_else(|| tells(view, live)).unwrap_or(Reason::Running),
        },
    }
}

fn unwell(view: View, live: &Live) -> Option<Reason> {
    let (check, said) = live.complaint(view.want?.unit.health.as_deref()?)?;
    Some(Reason::Unwell { check, said })
}

fn tells(view: View, live: &Live) -> Option<Reason> {
    live.told_words(view.want?.unit.notify()).map(Reason::Tells)
}

fn stopping_reason(stopping: &Stopping) -> Reason {
    let why = stopping.why.clone();
    match stopping.killing.count {
        0 => Reason::Stopping { why, kill_at: stopping.kill_at },
        _ => Reason::Killed { why, unhandled: stopping.unhandled },
    }
}

fn ended_reason(view: View, live: &Live, ended: &Ended) -> Reason {
    let last = view.seen.last.as_ref().filter(|last| last.id == live.id).map(|last| last.outcome.clone());
    let left = match (ended.empty, ended.drained) {
        (false, _) => Remains::Processes,
        (true, false) => Remains::Log,
        (true, true) => Remains::Cgroup,
    };
    Reason::Clearing { last, left, trouble: view.seen.trouble.clone() }
}

fn rest_status<'a>(world: &World<'a>, view: View<'a>, rest: Rest<'a>) -> Status {
    let since = view.seen.last.as_ref().map(|last| last.at);
    let (phase, reason) = match rest {
        Rest::Down => (Phase::Stopped, Reason::Shutdown),
        Rest::Removed => (Phase::Stopped, Reason::Removed),
        Rest::Held(hold) => (Phase::Stopped, Reason::Held(hold.clone())),
        Rest::Disabled => (Phase::Stopped, Reason::Disabled),
        Rest::Cycle(ring) => (Phase::Failed, Reason::Cycle(ring.into_iter().cloned().collect())),
        Rest::Needs(lacks) => {
            let lacking = lacks.iter().map(|lack| lacking(world, *lack)).collect();
            (Phase::Waiting, Reason::Needs { lacking, stalled: world.is_stalled(view, LOSS_CHAIN_MAX) })
        }
        // It is the same until the next boot.
        Rest::Unmet(condition @ Condition::KernelCmdline(_)) => (Phase::Stopped, unmet(world, condition)),
        Rest::Unmet(condition) => (Phase::Waiting, unmet(world, condition)),
        Rest::Completed => (Phase::Completed, Reason::Completed),
        Rest::Failed(last) => (Phase::Failed, Reason::Failed { last: last.outcome.clone() }),
        Rest::GaveUp(last) => (Phase::Failed, gave_up(view, last)),
        Rest::Backoff(last, until) => (Phase::Backoff, backing_off(view, last, until)),
        Rest::WaitsFor(owner) => (Phase::Waiting, Reason::WaitsFor(owner.clone())),
        Rest::Due(_) => (Phase::Waiting, Reason::Due),
    };
    Status { phase, reason, since, health: None, reloading: Reloading::Done }
}

fn unmet(world: &World, condition: &Condition) -> Reason {
    Reason::Unmet { condition: condition.clone(), known: world.observed.host.knows(condition) }
}

fn lacking<'a>(world: &World<'a>, lack: Lack<'a>) -> Lacking {
    let view = world.view(lack.unit);
    let rest = view.seen.live.is_none().then(|| world.rest(view));
    let health = view.want.and_then(|want| want.unit.health.as_deref());
    let live = view.seen.live.as_ref().filter(|_| lack.need == Need::Healthy);
    let unwell = match (health, live.and_then(|live| live.health(health))) {
        (None, _) if lack.need == Need::Healthy && view.want.is_some() => Some("it has no health check"),
        (_, Some(HealthStatus::Unready)) => Some("it is not ready"),
        _ => None,
    };
    let why = unwell.or_else(|| rest.and_then(resting));
    Lacking { unit: lack.unit.clone(), need: lack.need, why }
}

fn resting(rest: Rest) -> Option<&'static str> {
    match rest {
        Rest::Removed => Some("no such unit"),
        Rest::Held(_) => Some("stopped by hand"),
        Rest::Disabled => Some("not enabled"),
        Rest::Completed => Some("it has ended"),
        Rest::Failed(_) | Rest::GaveUp(_) | Rest::Cycle(_) => Some("it has failed"),
        Rest::Backoff(..) => Some("it is backing off"),
        Rest::Needs(_) | Rest::Unmet(_) | Rest::WaitsFor(_) => Some("it waits itself"),
        Rest::Down | Rest::Due(_) => None,
    }
}

fn gave_up(view: View, last: &ExitRecord) -> Reason {
    let limit = view.want.and_then(|want| want.unit.restart.limit);
    let interval = limit.map_or(Duration::ZERO, |limit| limit.interval);
    Reason::GaveUp { starts: view.seen.backoff.window_starts, interval, last: last.outcome.clone() }
}

fn backing_off(view: View, last: &ExitRecord, until: BootTime) -> Reason {
    let attempt = view.seen.backoff.short_runs.saturating_add(1);
    Reason::Backoff { until, attempt, last: last.outcome.clone() }
}

impl Live {
    fn left(&self) -> Option<u32> {
        match &self.state {
            State::Starting | State::Running { .. } => None,
            State::Stopping(stopping) => stopping.killing.left,
            State::Ended(ended) => ended.killing.left,
        }
    }
}

impl Reason {
    /// It waits for something that does not come by itself.
    pub fn is_stalled(&self) -> bool {
        match self {
            Reason::Needs { stalled, .. } => *stalled,
            Reason::Unmet { known, .. } => *known,
            Reason::ChangeWaits(what) => matches!(**what, Reason::Cycle(_)) || what.is_stalled(),
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
            Reason::Completed => "completed".to_owned(),
            Reason::Failed { last } => format!("last exit: {last}"),
            Reason::GaveUp { starts, interval, last } => {
                format!("gave up: {starts} starts in {}, last exit: {last}", Spell(*interval))
            }
            Reason::ChangeWaits(what) => format!("runs with its old text; the new one {}", what.words(now, clock)),
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
        Remains::Processes => "waiting for its last processes",
        Remains::Log => "waiting for its log",
        Remains::Cgroup => "clearing it away",
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

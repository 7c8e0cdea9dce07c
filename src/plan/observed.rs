//! What is known to be: per unit at most one live generation, its last two ends, and the marks that people left.
//!
//! A [`Seen`] is a value that the supervisor writes under `/run` (per unit, before an action's effect) and reads back
//! after a crash. Fields that are skipped in serialisation mean "asked in this life of the supervisor": they are gone after
//! a crash, so that whatever was asked and not confirmed is asked again. All of that is harmless when repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::backoff::doubled;
use super::contents::Settling;
use super::exit::ExitRecord;
use super::health::{Findings, Probing};
use super::hold::Hold;
use super::hooks::{HookTimes, HookTurns};
use super::host::Host;
use super::reason::Why;
use super::schedule::{Clock, Timetable};
use super::sockets::Opening;
use super::time::BootTime;
use super::told::{Hearing, Told};
use crate::unit::{ContainerId, Fingerprint, Listen, Signal, SwapMark, Unit, UnitName};

/// The world as the facts so far tell it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// By name; a declared unit that was never touched may be absent. Boxed, for a map keeps room for half as many again.
    pub units: BTreeMap<UnitName, Box<Seen>>,
    /// No forgotten unit had a generation above this one, so no generation repeats when its file returns.
    pub floor: u64,
    /// The same of those that were forgotten in this life: their ends were seen.
    #[serde(skip)]
    pub forgotten: u64,
    /// Everything is to stop, for good.
    pub shutdown: Option<Shutdown>,
    /// What is known of the host in this life.
    #[serde(skip)]
    pub host: Host,
    /// Somebody listens since then to what containers say.
    #[serde(skip)]
    pub awake_since: BootTime,
    /// The wall clock, as it was looked at in this life.
    #[serde(skip)]
    pub clock: Option<Clock>,
    /// The rules of time zones by name, `None` is the host's; without rules those that cannot be read.
    #[serde(skip)]
    pub zones: BTreeMap<Option<String>, Option<TimeZone>>,
    /// A reboot was asked for in this life.
    #[serde(skip)]
    pub rebooting: bool,
}

impl Observed {
    /// What is remembered of this unit.
    pub fn unit(&self, name: &UnitName) -> Option<&Seen> {
        self.units.get(name).map(Box::as_ref)
    }

    /// What an earlier boot remembered of a schedule. What the records of this boot say counts more.
    pub fn restore_timetable(&mut self, unit: &UnitName, table: Timetable) {
        self.seen_mut(unit).timetable.get_or_insert_with(|| Box::new(table));
    }
}

/// The order to stop everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Since when.
    pub since: BootTime,
    /// By whom ("SIGTERM", "root").
    pub by: String,
}

/// All that is remembered of one unit. There are many, and most of them run: what most of them lack is boxed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The generation that has a cgroup, or may have one. A start waits until this is `None`.
    pub live: Option<Live>,
    /// The other one of a start-first update (`handover`): it comes if it has a higher number, else it leaves. `None` if `live` is.
    #[serde(default)]
    pub beside: Option<Box<Live>>,
    /// The highest generation that was ever begun.
    pub high_water: u64,
    /// The last end.
    pub last: Option<Box<ExitRecord>>,
    /// The one before.
    pub previous: Option<Box<ExitRecord>>,
    /// What the backoff and the limit count.
    pub backoff: Backoff,
    /// `moored stop`.
    pub hold: Option<Box<Hold>>,
    /// Started by hand though not enabled.
    pub manual: bool,
    /// Somebody wants a start now, whatever policy and backoff say.
    pub start_now: bool,
    /// The file was gone meanwhile: ends before that count for nothing.
    pub fresh: bool,
    /// Of each unit whose `on_failure` started this one, the generation whose end did it last: neither that end nor one before it does so again. As
    /// many as name it.
    #[serde(default)]
    pub raised: BTreeMap<UnitName, u64>,
    /// The text that last did well (`trial`).
    #[serde(default)]
    pub proven: Option<Fingerprint>,
    /// Restarts that the policy made.
    pub restarts: u64,
    /// The last action that failed, for people.
    pub trouble: Option<String>,
    /// How far its schedule is, if it has one (`schedule`).
    #[serde(default)]
    pub timetable: Option<Box<Timetable>>,
    /// Sockets that are open for it, or may be (`sockets`).
    #[serde(default)]
    pub sockets: BTreeMap<Listen, Opening>,
}

/// One generation from before its cgroup is made until it is cleared away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Which.
    pub id: ContainerId,
    /// What it was started with.
    pub run: Run,
    /// The host's pid of its pid 1, once started.
    pub pid: Option<HostPid>,
    /// How far it is.
    pub state: State,
    /// What of the unit's marks its start used up; if it turns out that it never started, they stand again.
    pub used: Wishes,
    /// The generations of dependencies with `on_loss` with which it was there together. No later edit makes a loss of what never was.
    #[serde(default)]
    pub relies: BTreeMap<UnitName, u64>,
    /// Those of them whose end was relied on, not their life: an edit from the one to the other loses nothing.
    #[serde(default)]
    pub relies_on_ends: BTreeSet<UnitName>,
    /// What its checks have found; `None` before the first result.
    #[serde(default)]
    pub findings: Option<Box<Findings>>,
    /// What it tells of itself; `None` before its first word.
    #[serde(default)]
    pub told: Option<Box<Told>>,
    /// Whether its silence was made sure of in this life.
    #[serde(skip)]
    pub hearing: Hearing,
    /// When a client's wish to reload was passed on last.
    #[serde(default)]
    pub reload_sent: Option<BootTime>,
    /// What it is asked in this life.
    #[serde(skip)]
    pub probing: Option<Probing>,
    /// Which contents of files it has, if that is known.
    #[serde(default)]
    pub contents: Option<Box<SwapMark>>,
    /// A swap was begun and there is no word of it: it may have others.
    #[serde(default)]
    pub swapping: bool,
    /// And so was one before it: somebody may have told it of those in between.
    #[serde(default)]
    pub swapped_over: bool,
    /// So many generations before it the first one was that it goes on for: each was up until the next one took over.
    #[serde(default)]
    pub handed_over: u32,
    /// It was to take over, and was to stop already when the unit's generation was gone.
    #[serde(default)]
    pub never_took_over: bool,
    /// Another one took over from it, and is gone already: it stops all the same.
    #[serde(default)]
    pub replaced: bool,
    /// How far its hooks are; `None` before the first.
    #[serde(default)]
    pub hooks: Option<Box<HookTurns>>,
    /// A client wants it replaced.
    pub restart: bool,
    /// A client wants it to reload, or contents were swapped.
    pub reload: Option<Asked>,
    /// Limits that its cgroup was to get in this life, while they are not those it has.
    #[serde(skip)]
    pub limits_asked: Option<Box<Limits>>,
    /// Contents that it is to get when they have settled.
    #[serde(skip)]
    pub settling: Option<Box<Settling>>,
    /// Contents that it was to get in this life, while they are not those it has.
    #[serde(skip)]
    pub contents_asked: Option<Box<SwapMark>>,
    /// Signals that clients want sent, oldest first; they die with the supervisor, as the client's connection does.
    #[serde(skip)]
    pub signals: Vec<Signal>,
}

/// Marks of a [`Seen`] that a start uses up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// [`Seen::start_now`].
    pub start_now: bool,
    /// [`Seen::manual`].
    pub manual: bool,
    /// [`Seen::fresh`].
    pub fresh: bool,
}

/// What a generation runs by. At its start it goes into the keeper's tag, so adoption needs no file; what the text changes without a new
/// container (`Run::terms`) is taken over later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Of which text.
    pub fingerprint: Fingerprint,
    /// When the start was begun.
    pub begun: BootTime,
    /// Whose network namespace it is in.
    pub joined: Option<ContainerId>,
    /// The stop signal.
    pub stop_signal: Signal,
    /// From the stop signal to the kill.
    pub stop_timeout: Duration,
    /// `restart.reset_after`.
    pub reset_after: Duration,
    /// `restart.limit.interval`.
    pub limit_interval: Option<Duration>,
    /// What its cgroup has.
    pub limits: Limits,
    /// Hooks that run around it.
    #[serde(default)]
    pub hooks: Option<Box<HookTimes>>,
    /// `schedule.max_runtime`. A new field comes last, and is an `Option`: see [`Run::of_tag`].
    #[serde(default)]
    pub max_runtime: Option<Duration>,
}

/// Limits that the cgroup of a running container takes. `None`: as config.json says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `resources.memory`, in bytes.
    pub memory_bytes: Option<u64>,
    /// `resources.cpus`, in thousandths.
    pub cpus_milli: Option<u64>,
    /// `resources.pids`.
    pub pids: Option<u64>,
}

/// The host's number of a process. It is shown, never signalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPid(pub u32);

/// How far a generation is. It only ever moves downwards in this list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Begun; no word from the keeper yet.
    Starting,
    /// Its program runs.
    Running {
        /// Since when.
        since: BootTime,
    },
    /// A stop was begun. It is never taken back.
    Stopping(Stopping),
    /// It has its exit record (or never started); its remains are not cleared yet.
    Ended(Ended),
}

/// A stop under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stopping {
    /// Since when.
    pub since: BootTime,
    /// When the cgroup is killed.
    pub kill_at: BootTime,
    /// Why.
    pub why: Why,
    /// The stop signal.
    pub signal: Asked,
    /// The program would have ignored the stop signal, so it is killed at once.
    pub unhandled: bool,
    /// The kills so far.
    pub killing: Killing,
    /// `pre_stop` comes before the signal.
    #[serde(default)]
    pub hooked: bool,
}

/// What is left of a generation after its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Since when.
    pub since: BootTime,
    /// Nothing is left in its cgroup.
    pub empty: bool,
    /// Its log is read to the end.
    pub drained: bool,
    /// The kills of what stayed behind.
    pub killing: Killing,
    /// Clearing was asked for in this life.
    #[serde(skip)]
    pub clearing: bool,
    /// Clearing failed so many times in a row.
    pub clear_failures: u32,
    /// And is tried again then.
    pub clear_at: Option<BootTime>,
}

/// Kills of a whole cgroup, repeated with growing pauses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Killing {
    /// How many were sent.
    pub count: u32,
    /// The first.
    pub first_at: Option<BootTime>,
    /// The last.
    pub last_at: Option<BootTime>,
    /// One was sent in this life.
    #[serde(skip)]
    pub asked: bool,
    /// How many processes were left when last counted.
    pub left: Option<u32>,
    /// It was to be killed without a wait, since it would have ignored its stop signal.
    #[serde(default)]
    pub at_once: bool,
}

/// Something to be done once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "bool", into = "bool")]
pub enum Asked {
    /// Not yet.
    #[default]
    No,
    /// Asked; no word yet. Read back as `No` after a crash: it is asked again.
    InFlight,
    /// Done.
    Done,
}

impl From<bool> for Asked {
    fn from(done: bool) -> Asked {
        if done { Asked::Done } else { Asked::No }
    }
}

impl From<Asked> for bool {
    fn from(asked: Asked) -> bool {
        asked == Asked::Done
    }
}

/// What the backoff and the limit count, for the runs of one text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Of which text. Another text begins anew.
    pub fingerprint: Fingerprint,
    /// Runs in a row that were shorter than `reset_after`.
    pub short_runs: u32,
    /// Starts in the current interval of the limit.
    pub window_starts: u32,
    /// When that interval began: at the first of these starts.
    pub window_since: BootTime,
}

impl Run {
    /// What is fixed when `unit` is started now.
    pub fn new(unit: &Unit, fingerprint: Fingerprint, joined: Option<ContainerId>, begun: BootTime) -> Run {
        Run {
            fingerprint,
            begun,
            joined,
            stop_signal: unit.stop.signal,
            stop_timeout: unit.stop.timeout,
            reset_after: unit.restart.reset_after,
            limit_interval: unit.restart.limit.map(|limit| limit.interval),
            limits: Limits::of(unit),
            hooks: HookTimes::of(unit),
            max_runtime: unit.schedule.as_ref().and_then(|schedule| schedule.max_runtime),
        }
    }

    /// From the keeper's tag. One of an earlier version ends before some of its last two fields, which are then `None`: a zero each.
    pub fn of_tag(tag: &[u8]) -> Result<Run, postcard::Error> {
        let with_zeros = |count: usize| postcard::from_bytes(&[tag, &[0, 0][..count]].concat());
        with_zeros(0).or_else(|error| with_zeros(1).or_else(|_| with_zeros(2)).map_err(|_: postcard::Error| error))
    }

    /// The same run by the words of `unit`, but for the limits, which its cgroup must take first.
    pub(super) fn terms(&self, unit: &Unit) -> Run {
        let new = Run::new(unit, self.fingerprint, self.joined.clone(), self.begun);
        Run { limits: self.limits, ..new }
    }
}

impl Limits {
    /// What a text says.
    pub fn of(unit: &Unit) -> Limits {
        let resources = &unit.resources;
        Limits { memory_bytes: resources.memory_bytes, cpus_milli: resources.cpus_milli, pids: resources.pids }
    }
}

/// A generation that is stopped before its program runs has this long to say so, then it is killed: what runs is only our setup.
const UNSTARTED_GRACE: Duration = Duration::from_secs(2);

impl Live {
    /// A generation that was just begun.
    pub(super) fn new(id: ContainerId, run: Run, used: Wishes) -> Live {
        Live {
            id,
            run,
            pid: None,
            state: State::Starting,
            used,
            relies: BTreeMap::new(),
            relies_on_ends: BTreeSet::new(),
            findings: None,
            told: None,
            hearing: Hearing::default(),
            reload_sent: None,
            probing: None,
            contents: None,
            swapping: false,
            swapped_over: false,
            handed_over: 0,
            never_took_over: false,
            replaced: false,
            hooks: None,
            restart: false,
            reload: None,
            limits_asked: None,
            settling: None,
            contents_asked: None,
            signals: Vec::new(),
        }
    }

    /// Limits that its cgroup is still to be asked for.
    pub(super) fn limits_to_ask(&self, unit: &Unit) -> Option<Limits> {
        Some(Limits::of(unit)).filter(|limits| *limits != *self.limits_asked.as_deref().unwrap_or(&self.run.limits))
    }

    /// Starting or running, with no stop begun.
    pub fn is_up(&self) -> bool {
        match self.state {
            State::Starting | State::Running { .. } => true,
            State::Stopping(_) | State::Ended(_) => false,
        }
    }
}

impl Stopping {
    /// A stop that begins now.
    pub(super) fn new(why: Why, run: &Run, started: bool, now: BootTime) -> Stopping {
        let (signal, grace) = match started {
            true => (Asked::InFlight, run.stop_timeout),
            false => (Asked::No, run.stop_timeout.min(UNSTARTED_GRACE)),
        };
        let (kill_at, killing) = (now.after(grace), Killing::default());
        Stopping { since: now, kill_at, why, signal, unhandled: false, killing, hooked: false }
    }

    /// A stop of one that runs, which is told by a hook before its signal.
    pub(super) fn hooked(why: Why, kill_at: BootTime, now: BootTime) -> Stopping {
        let (signal, killing) = (Asked::No, Killing::default());
        Stopping { since: now, kill_at, why, signal, unhandled: false, killing, hooked: true }
    }

    /// It runs after all: it has its whole timeout from here. A kill that was sent before found nothing to kill (its keeper was late to
    /// fork), and counts for nothing.
    pub(super) fn started(&mut self, run: &Run, now: BootTime) {
        self.signal = Asked::No;
        self.killing = Killing::default();
        self.kill_at = now.after(run.stop_timeout);
    }
}

impl Ended {
    /// An end that was recorded just now.
    pub(super) fn new(since: BootTime, killing: Killing) -> Ended {
        Ended { since, empty: false, drained: false, killing, clearing: false, clear_failures: 0, clear_at: None }
    }
}

impl Asked {
    /// Marks it as asked; says whether it still was to be.
    pub(super) fn begin(&mut self) -> bool {
        let first = *self == Asked::No;
        if first {
            *self = Asked::InFlight;
        }
        first
    }
}

/// The pause after the first kill; then the generation is stuck. Doubled for each further kill up to [`KILL_RETRY_MAX`].
const KILL_RETRY: Duration = Duration::from_secs(5);

/// The longest pause between two kills: a process in D state may take hours, and each try is a wake-up.
const KILL_RETRY_MAX: Duration = Duration::from_secs(600);

impl Killing {
    /// Counts a kill that is sent now.
    pub(super) fn begin(&mut self, now: BootTime) -> bool {
        self.count = self.count.saturating_add(1);
        self.first_at.get_or_insert(now);
        self.last_at = Some(now);
        self.asked = true;
        true
    }

    /// When the next kill is due, if the first one is due at `first_at`.
    pub(super) fn next_at(&self, first_at: BootTime) -> BootTime {
        match self.last_at {
            None => first_at,
            Some(last_at) if !self.asked => last_at,
            Some(last_at) => last_at.after(doubled(KILL_RETRY, self.count.saturating_sub(1), KILL_RETRY_MAX)),
        }
    }

    /// Since when it does not die although it was killed.
    pub fn stuck_since(&self, now: BootTime) -> Option<BootTime> {
        self.stuck_at().filter(|since| *since <= now)
    }

    /// When it is stuck if it is not gone by then.
    pub(super) fn stuck_at(&self) -> Option<BootTime> {
        self.first_at.map(|first_at| first_at.after(KILL_RETRY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_of_an_earlier_version_reads_without_the_fields_that_came_since() {
        let text = "executable = \"/bin/true\"\n[schedule]\ncalendar = \"daily\"\nmax_runtime = \"1h\"\n";
        let file = std::path::Path::new("/u/web.toml");
        let unit = crate::unit::parse(&UnitName::new("web").unwrap(), file, text).unwrap().unit;
        let run = Run::new(&unit, Fingerprint([1; 16]), None, BootTime(1));
        let tag = postcard::to_stdvec(&run).unwrap();
        assert_eq!(Run::of_tag(&tag).unwrap(), run);
        let before = Run { max_runtime: None, ..run };
        let tag = postcard::to_stdvec(&before).unwrap();
        // Each of the last two is one zero if it is `None`.
        for missing in 0..=2 {
            assert_eq!(Run::of_tag(&tag[..tag.len() - missing]).unwrap(), before, "{missing}");
        }
        assert!(Run::of_tag(&tag[..tag.len() - 3]).is_err());
    }
}

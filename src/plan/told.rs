//! What a container tells of itself by sd_notify(3), and what follows from it.
//!
//! ```text
//!           READY=1            RELOADING=1
//! starting ─────────▶ healthy ◀───────────▶ healthy, reloading
//!     │                  │       READY=1        │
//!     └──────────────────┴── STOPPING=1 ────────┴─────▶ unready, stopping by itself
//! ```
//!
//! - Its word counts beside the checks of `[health]`: healthy is who passes both.
//! - Silence is judged like a liveness that fails: no READY=1 within [`START_TIMEOUT`] of the start (a oneshot may take as long as it likes),
//!   no WATCHDOG=1 for `process.watchdog` once it is ready, no end within `stop.timeout` of its STOPPING=1. WATCHDOG=trigger needs no silence.
//! - EXTEND_TIMEOUT_USEC= moves the end of a start, and of a stop that is under way, to so long after it was said; by at most [`EXTEND_MAX`] each
//!   time, and a stop takes no more than [`EXTENDED_STOP_MAX`] in all. It moves no watchdog: WATCHDOG_USEC= does.
//! - A service that is not ready yet has not run: the delays between its restarts grow, however long it took ([`Backoff`](super::Backoff)).
//! - A silence counts when the keeper, who listens, was asked after its time ([`Action::Hear`](super::Action)): a supervisor that was stopped, or had no
//!   CPU, knows less than the keeper.
//! - Time in which nobody listened is no silence. Counts begin anew when a supervisor begins, and when one was away or the host slept
//!   ([`Observed::awake_since`](super::Observed)). Where words may be lost (the keeper died: UNHEARD=1, which is its successor's own word),
//!   no READY=1 is missed any more, and the watchdog waits for its next word.
//! - `moored reload` is over with the READY=1 that follows; who says nothing within [`RELOAD_SILENCE`] takes no part in this, which is no failure; who
//!   says RELOADING=1 and is not ready within [`RELOAD_TIMEOUT`] has failed to, and runs on.
//! - WATCHDOG=1 alone changes nothing that is written down. The keeper tells the last one again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::desired::Want;
use super::health::HealthStatus;
use super::observed::{Live, State};
use super::time::BootTime;
use super::world::World;
use crate::unit::quantity::show_duration;
use crate::unit::{Kind, Notify, Unit};

/// systemd's DefaultTimeoutStartSec.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// From RELOADING=1 to READY=1.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(90);
/// From the wish to RELOADING=1 or READY=1.
const RELOAD_SILENCE: Duration = Duration::from_secs(10);
/// Most that one EXTEND_TIMEOUT_USEC= gives.
const EXTEND_MAX: Duration = Duration::from_secs(3600);
/// A host that goes down does not wait longer for one container, if its `stop.timeout` is not longer itself.
const EXTENDED_STOP_MAX: Duration = Duration::from_secs(600);
/// A watchdog that the container sets itself; less is a wake-up for each word.
const WATCHDOG_MIN: Duration = Duration::from_millis(100);
/// Longest text that is kept, in characters.
const STATUS_MAX: usize = 200;

/// One line of a message, from the container: nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `READY=1`.
    pub text: String,
    /// When it was read.
    pub at: BootTime,
}

/// What one generation has told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// It is a service that is to say READY=1.
    awaited: bool,
    /// The first READY=1 …
    ready_since: Option<BootTime>,
    /// … and the last.
    ready_at: Option<BootTime>,
    /// The last RELOADING=1.
    reloading_at: Option<BootTime>,
    /// STOPPING=1.
    stopping_at: Option<BootTime>,
    /// STATUS=, for people.
    status: Option<String>,
    /// ERRNO=.
    errno: Option<u32>,
    /// By EXTEND_TIMEOUT_USEC=.
    extended_to: Option<BootTime>,
    /// By WATCHDOG_USEC=, instead of the text's; zero is none.
    watchdog: Option<Duration>,
    /// WATCHDOG=trigger.
    triggered: bool,
    /// Words until then may be lost.
    unheard_at: Option<BootTime>,
    /// Of the newest of all but WATCHDOG=1: what is told late takes nothing back.
    newest_at: BootTime,
    /// The last WATCHDOG=1 that this supervisor knows of.
    #[serde(skip)]
    alive_at: Option<BootTime>,
}

/// Whether the silence of a generation was made sure of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hearing {
    /// What it said was asked for then …
    asked_at: Option<BootTime>,
    /// … and told, as far as it was said before that.
    heard_until: Option<BootTime>,
}

/// How far a reload is that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloading {
    /// Over, or none was asked for.
    Done,
    /// It was told; until then it may answer.
    Awaited(BootTime),
    /// It was told, and says nothing about it.
    Silent,
    /// It said that it reloads, and not in time that it is ready.
    Late,
}

impl Line {
    /// It may have said what nobody remembers.
    pub fn unheard(at: BootTime) -> Line {
        Line { text: "UNHEARD=1".to_owned(), at }
    }
}

impl Told {
    /// Of a container of this text, before its first word; `None`: none is awaited.
    pub(super) fn begin(unit: &Unit) -> Option<Box<Told>> {
        let awaited = unit.notify().is_some() && unit.kind == Kind::Service;
        awaited.then(|| Box::new(Told { awaited, ..Told::default() }))
    }

    /// Says whether that is news to anybody but the watchdog.
    fn take(&mut self, lines: &[Line]) -> bool {
        let before = self.clone();
        lines.iter().for_each(|line| self.take_line(&line.text, line.at));
        let others = lines.iter().filter(|line| line.text != "WATCHDOG=1");
        self.newest_at = others.map(|line| line.at).max().unwrap_or_default().max(self.newest_at);
        let alive_at = before.alive_at;
        let after = Told { alive_at, ..self.clone() };
        after != before
    }

    fn take_line(&mut self, line: &str, at: BootTime) {
        let Some((name, value)) = line.split_once('=') else { return };
        let micros = || value.parse().ok().map(Duration::from_micros);
        let latest = |known: &mut Option<BootTime>, at| *known = (*known).max(Some(at));
        match (name, value) {
            ("READY", "1") => {
                self.ready_since = self.ready_since.or(Some(at));
                latest(&mut self.ready_at, at);
            }
            ("RELOADING", "1") => latest(&mut self.reloading_at, at),
            ("STOPPING", "1") => latest(&mut self.stopping_at, at),
            ("UNHEARD", "1") => latest(&mut self.unheard_at, at),
            ("WATCHDOG", "1") => latest(&mut self.alive_at, at),
            ("WATCHDOG", "trigger") => self.triggered = true,
            _ if at < self.newest_at => {}
            ("STATUS", text) => self.status = Some(clean(text)).filter(|text| !text.is_empty()),
            ("ERRNO", number) => self.errno = number.parse().ok(),
            ("EXTEND_TIMEOUT_USEC", _) => {
                self.extended_to = micros().map(|more| at.after(more.min(EXTEND_MAX))).or(self.extended_to);
            }
            ("WATCHDOG_USEC", _) => {
                self.watchdog = micros().map(|period| if period.is_zero() { period } else { period.max(WATCHDOG_MIN) });
            }
            _ => {}
        }
    }

    /// It says so, and has not become ready since.
    fn is_reloading(&self) -> bool {
        self.reloading_at.is_some_and(|reloading| self.ready_at.is_none_or(|ready| ready < reloading))
    }

    fn health(&self) -> HealthStatus {
        match (self.stopping_at, self.ready_at) {
            (Some(_), _) => HealthStatus::Unready,
            (None, None) => HealthStatus::Starting,
            (None, Some(_)) => HealthStatus::Healthy,
        }
    }

    /// For people, if there is something to say.
    fn words(&self) -> Option<String> {
        let state = match (self.health(), self.is_reloading()) {
            (HealthStatus::Starting, _) if self.unheard_at.is_some() => Some("no READY=1 heard since the keeper died"),
            (HealthStatus::Starting, _) => Some("no READY=1 yet"),
            (HealthStatus::Unready | HealthStatus::Unhealthy, _) => Some("it stops by itself"),
            (HealthStatus::Healthy, true) => Some("it reloads"),
            (HealthStatus::Healthy, false) => None,
        };
        let errno = self.errno.filter(|errno| *errno != 0).map(|errno| format!("errno {errno}"));
        let parts = [state.map(str::to_owned), self.status.clone(), errno];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    }
}

impl Live {
    /// Whether it is ready is not known: its word may have been lost with a keeper.
    pub(super) fn is_unheard(&self) -> bool {
        let is_unheard = |told: &Told| told.unheard_at.is_some() && told.health() == HealthStatus::Starting;
        self.told.as_deref().is_some_and(is_unheard)
    }
}

/// Cut, and with nothing that a terminal would take for an order: control characters, and those that turn the direction of a text.
fn clean(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let visible = text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c });
    visible.take(STATUS_MAX).collect::<String>().trim().to_owned()
}

impl Live {
    /// Takes in what it says.
    pub(super) fn notified(&mut self, lines: &[Line]) -> bool {
        let told = self.told.get_or_insert_default();
        let unheard_at = told.unheard_at;
        let news = told.take(lines);
        let extended_to = told.extended_to;
        if told.unheard_at != unheard_at {
            // The answer died with the one who was asked.
            self.hearing = Hearing::default();
        }
        match &mut self.state {
            State::Stopping(stopping) => {
                // What it said before the stop was about something else.
                let said = |line: &&Line| line.text.starts_with("EXTEND_TIMEOUT_USEC=") && line.at >= stopping.since;
                if let (Some(to), Some(_)) = (extended_to, lines.iter().find(said)) {
                    let most = stopping.since.after(EXTENDED_STOP_MAX);
                    stopping.kill_at = stopping.kill_at.max(to.min(most));
                }
                news
            }
            State::Starting | State::Running { .. } | State::Ended(_) => news,
        }
    }

    /// What it has said is asked for.
    pub(super) fn begin_hear(&mut self, now: BootTime) -> bool {
        self.hearing.asked_at = Some(now);
        true
    }

    /// All that it said before it was asked for is known.
    pub(super) fn heard(&mut self) -> bool {
        let asked_at = self.hearing.asked_at;
        std::mem::replace(&mut self.hearing.heard_until, asked_at) != asked_at
    }

    /// Nothing that it said before `due` is missing.
    pub(super) fn is_heard_since(&self, due: BootTime) -> bool {
        self.hearing.heard_until.is_some_and(|until| until >= due)
    }

    /// That is to be asked for.
    pub(super) fn is_to_be_heard(&self, due: BootTime) -> bool {
        self.hearing.asked_at.is_none_or(|asked| asked < due)
    }

    /// It said that it is ready.
    pub fn is_ready(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.ready_at.is_some())
    }

    /// Since when it is ready. To reload is no break.
    pub(super) fn ready_since(&self) -> Option<BootTime> {
        self.told.as_ref()?.ready_since
    }

    /// How much of a run that ended `at` was one: what a service does before it says that it is ready is its start.
    pub(super) fn ran_well_for(&self, at: BootTime) -> Duration {
        let ran_for = at.since(self.run.begun);
        match (self.ready_since(), self.told.as_ref().is_some_and(|told| told.awaited)) {
            (Some(ready), true) => at.since(ready).min(ran_for),
            (None, true) => Duration::ZERO,
            (_, false) => ran_for,
        }
    }

    /// How it is by its own word, if it is to give one.
    pub(super) fn told_health(&self, notify: Option<Notify>) -> HealthStatus {
        match (notify, &self.told) {
            (None, _) => HealthStatus::Healthy,
            (Some(_), None) => HealthStatus::Starting,
            (Some(_), Some(told)) => told.health(),
        }
    }

    /// What it says, for people.
    pub(super) fn told_words(&self, notify: Option<Notify>) -> Option<String> {
        notify?;
        self.told.as_ref().map_or_else(|| Told::default().words(), |told| told.words())
    }

    /// How far the reload is that a client asked for last.
    pub(super) fn reloading(&self, notify: Option<Notify>, now: BootTime) -> Reloading {
        let (Some(_), Some(sent), State::Running { .. }) = (notify, self.reload_sent, &self.state) else {
            return Reloading::Done;
        };
        let (ready_at, reloading_at) =
            self.told.as_ref().map_or((None, None), |told| (told.ready_at, told.reloading_at));
        let answers = reloading_at.filter(|at| *at >= sent);
        let extended = self.told.as_ref().and_then(|told| told.extended_to).unwrap_or_default();
        let (until, otherwise) = match (answers, ready_at.filter(|at| *at >= sent)) {
            (reloading, Some(ready)) if reloading.is_none_or(|reloading| reloading <= ready) => return Reloading::Done,
            (Some(reloading), _) => (reloading.after(RELOAD_TIMEOUT).max(extended), Reloading::Late),
            (None, _) => (sent.after(RELOAD_SILENCE), Reloading::Silent),
        };
        if now < until { Reloading::Awaited(until) } else { otherwise }
    }
}

impl World<'_> {
    /// Until when a generation that runs must say something, and what it is if it does not.
    pub(super) fn silence(&self, unit: &Unit, live: &Live) -> Option<(BootTime, String)> {
        let (Some(notify), State::Running { since }) = (unit.notify(), &live.state) else { return None };
        let none = Told::default();
        let told = live.told.as_deref().unwrap_or(&none);
        let awake = self.awake_since();
        let extended = told.extended_to.unwrap_or_default();
        if told.triggered {
            return Some((*since, "watchdog: it triggered it itself".to_owned()));
        }
        if let Some(stopping) = told.stopping_at {
            let timeout = unit.stop.timeout;
            let text = format!("it said STOPPING=1 and did not end within {}", show_duration(timeout));
            return Some((stopping.max(awake).after(timeout).max(extended), text));
        }
        let Some(ready) = told.ready_at else {
            let is_due = unit.kind == Kind::Service && told.unheard_at.is_none();
            let text = format!("no READY=1 within {}", show_duration(START_TIMEOUT));
            return is_due.then(|| ((*since).max(awake).after(START_TIMEOUT).max(extended), text));
        };
        let period = told.watchdog.or(notify.watchdog).filter(|period| !period.is_zero())?;
        if told.unheard_at.is_some_and(|unheard| told.alive_at.is_none_or(|alive| alive < unheard)) {
            return None;
        }
        let heard = ready.max(told.alive_at.unwrap_or_default()).max(awake);
        Some((heard.after(period), format!("watchdog: nothing heard for {}", show_duration(period))))
    }

    /// When a reload that a client asked for comes to an end by itself.
    pub(super) fn reload_due(&self, want: &Want, live: &Live) -> Option<BootTime> {
        match live.reloading(want.unit.notify(), self.now) {
            Reloading::Awaited(until) => Some(until),
            Reloading::Done | Reloading::Silent | Reloading::Late => None,
        }
    }
}

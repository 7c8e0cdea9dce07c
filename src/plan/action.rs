//! What is to be done, and the mark that is made before it is done.
//!
//! The supervisor calls [`Observed::begin`], writes the unit's [`Seen`] under `/run`, and only then lets the action have its
//! effect. What must be on disk first, and what a crash in between costs:
//!
//! | action | written before its effect | after a crash in between |
//! |---|---|---|
//! | `Start` | the generation, before its cgroup is made | keeper does not know it: `NeverStarted`, started again |
//! | `TakeOver` | which one is the unit's | done, or asked again |
//! | `Stop` | that it is stopping, why, and its deadline | the signal is sent (again) |
//! | `Kill` | the count of kills | the kill is sent (again) |
//! | `Signal` | nothing: a client waits for it | lost; the client sees its connection break |
//! | `Hook` | that it was begun | asked again: who has it running, or knows how it ended, answers |
//! | `Rely` | the generations | asked again |
//! | `Raise` | the wish to start, and whose end it is for | asked again |
//! | `Reload` | the request | asked again until `Reloaded` |
//! | `Hear` | nothing | asked again |
//! | `Probe` | nothing | asked again |
//! | `Update` | the new terms | limits are asked for until `Limited` |
//! | `Settle` | nothing | noted again |
//! | `Swap` | that a swap was begun | asked again until `Swapped`, which notes the contents and the reload in one |
//! | `Clear` | the exit record (and the journal has it) | asked again until `Cleared` |
//! | `Close` | nothing: that it may be open was | asked again |
//! | `Forget` | the floor of generations | asked again |
//! | `Schedule` | how far its schedule is | asked again |
//! | `Prove` | that this text did well | asked again, or the mark stands |
//! | `RollBack` | nothing: the catalogue has the earlier text | asked again |
//! | `Reboot` | nothing | asked again |

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::exit::ExitRecord;
use super::health::Probing;
use super::observed::{Asked, Backoff, Limits, Live, Observed, Run, Seen, State, Stopping, Wishes};
use super::order::Relies;
use super::reason::Why;
use super::schedule::Mark;
use super::time::{BootTime, Now, WallTime};
use super::told::Told;
use crate::unit::{ContainerId, Fingerprint, HookPoint, Listen, Reload, Signal, SwapMark, Unit, UnitName};

/// One thing for the supervisor to do. Each is harmless when done twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make the cgroup and the pipes, spawn. Answer: `Started`, `StartFailed` or `Exited`.
    Start {
        /// The new generation.
        id: ContainerId,
        /// What to run.
        unit: Arc<Unit>,
        /// Which text that is.
        fingerprint: Fingerprint,
        /// Whose network namespace to join.
        join: Option<ContainerId>,
        /// Dependencies with `on_loss` that are there, with their generations.
        relies: Relies,
        /// Beside the unit's generation, which runs on.
        beside: bool,
    },
    /// Make the generation that comes the unit's: the one that was leaves.
    TakeOver {
        /// Which comes.
        id: ContainerId,
        /// Its text is enabled: that one before it was started by hand is of no account any more.
        enabled: bool,
    },
    /// Send the stop signal, if pid 1 of the container handles or blocks it. Answer: `StopSent` or `StopUnhandled`.
    Stop {
        /// Which.
        id: ContainerId,
        /// The stop signal; `None` while nothing runs that could get it: then the mark is all there is to do.
        signal: Option<Signal>,
        /// Why.
        why: Why,
    },
    /// Run a hook of its unit. Answer: `HookEnded`, also to one that was asked for before.
    Hook {
        /// Of which.
        id: ContainerId,
        /// Which one.
        point: HookPoint,
    },
    /// Kill the whole cgroup. Answer: `Exited` and `CgroupEmpty`; to a repeated one also `Lingering`.
    Kill {
        /// Which.
        id: ContainerId,
    },
    /// Remember that these dependencies with `on_loss` were there in its life.
    Rely {
        /// Which.
        id: ContainerId,
        /// By unit, with their generations.
        relies: Relies,
    },
    /// Want a unit started because another one, whose `on_failure` names it, gave up or failed for good.
    Raise {
        /// Which.
        unit: UnitName,
        /// The last generation of the one that failed.
        failed: ContainerId,
    },
    /// Send a client's signal to pid 1 of the container. No answer.
    Signal {
        /// Which.
        id: ContainerId,
        /// Which signal.
        signal: Signal,
    },
    /// Tell it to reload. Answer: `Reloaded`.
    Reload {
        /// Which.
        id: ContainerId,
        /// By which means.
        how: Reload,
    },
    /// Ask whoever listens for what it has said up to now, since it seems to be silent. Answer: `Notified`, then `Heard`.
    Hear {
        /// Which.
        id: ContainerId,
    },
    /// Ask this from now on whether it is well; `None`: nothing. Answers, ever again: `Probed`.
    Probe {
        /// Which.
        id: ContainerId,
        /// What.
        probing: Option<Probing>,
    },
    /// Take over what the text changed without asking for another container: stop signal and timeout, what restarts count by, and these
    /// limits, if there are any to write. Answer to limits: `Limited`.
    Update {
        /// Which.
        id: ContainerId,
        /// The text.
        unit: Arc<Unit>,
        /// For its cgroup.
        limits: Option<Limits>,
    },
    /// Note which contents are to be swapped in when they have settled; `None`: those that it has.
    Settle {
        /// Which.
        id: ContainerId,
        /// Which contents.
        contents: Option<SwapMark>,
    },
    /// Swap in the contents of its files, all as one. Answer: `Swapped`.
    Swap {
        /// Which.
        id: ContainerId,
        /// The text that has them.
        unit: Arc<Unit>,
        /// Which they are.
        contents: SwapMark,
    },
    /// Journal the exit, acknowledge it to the keeper, remove the cgroup and the pipes. Answer: `Cleared`.
    Clear {
        /// Which.
        id: ContainerId,
    },
    /// Close these sockets: from now on nobody listens there. Answer: `Closed`.
    Close {
        /// Whose.
        unit: UnitName,
        /// Which.
        sockets: BTreeSet<Listen>,
    },
    /// Remove the marks of a unit whose file is gone: its hold, and if nothing of it is live or open its whole record.
    Forget {
        /// Which.
        unit: UnitName,
    },
    /// Remember how far its schedule is.
    Schedule {
        /// Which.
        unit: UnitName,
        /// What is new about it.
        mark: Mark,
    },
    /// Remember that this text did well: the earlier one is not needed any more.
    Prove {
        /// Which.
        unit: UnitName,
        /// Of which text.
        fingerprint: Fingerprint,
    },
    /// Put the earlier text back in force, and do not take this one again before its file changes.
    RollBack {
        /// Which.
        unit: UnitName,
        /// The bad text.
        fingerprint: Fingerprint,
        /// What was bad.
        why: String,
    },
    /// Reboot the host, because this unit gave up.
    Reboot {
        /// Which.
        unit: UnitName,
    },
}

/// Where a unit that does not say how it reloads gets SIGHUP.
const SIGHUP: Signal = Signal(1);

/// How `unit` is told to reload.
pub(super) fn reload_of(unit: &Unit) -> Reload {
    unit.reload.clone().unwrap_or(Reload::Signal(SIGHUP))
}

impl Action {
    /// The container that it concerns, or else the unit alone.
    fn target(&self) -> Result<&ContainerId, &UnitName> {
        match self {
            Action::Start { id, .. }
            | Action::TakeOver { id, .. }
            | Action::Stop { id, .. }
            | Action::Hook { id, .. }
            | Action::Kill { id }
            | Action::Rely { id, .. }
            | Action::Signal { id, .. }
            | Action::Reload { id, .. }
            | Action::Hear { id }
            | Action::Probe { id, .. }
            | Action::Update { id, .. }
            | Action::Settle { id, .. }
            | Action::Swap { id, .. }
            | Action::Clear { id } => Ok(id),
            Action::Raise { unit, .. }
            | Action::Close { unit, .. }
            | Action::Schedule { unit, .. }
            | Action::Prove { unit, .. }
            | Action::RollBack { unit, .. }
            | Action::Forget { unit }
            | Action::Reboot { unit } => Err(unit),
        }
    }

    /// The unit that it concerns, whose [`Seen`] is to be written first.
    pub fn unit(&self) -> &UnitName {
        self.target().map_or_else(|unit| unit, |id| &id.unit)
    }

    /// Of a start the unit whose sockets it makes: the group of a replica. Its [`Seen`] is to be written first too.
    pub fn sockets_of(&self) -> Option<&UnitName> {
        let Action::Start { id, unit, .. } = self else { return None };
        let own = if unit.replicas.is_some() { &unit.name } else { &id.unit };
        (!unit.sockets.is_empty()).then_some(own)
    }

    /// The generation of the container that it concerns, if one.
    pub fn generation(&self) -> Option<u64> {
        self.target().ok().map(|id| id.generation)
    }
}

impl Observed {
    /// Marks `action` as begun. `false` says that it no longer fits what is known: do not do it.
    #[must_use]
    pub fn begin(&mut self, action: &Action, now: Now) -> bool {
        match action {
            Action::Start { id, unit, fingerprint, join, relies, beside } => {
                let run = Run::new(unit, *fingerprint, join.clone(), now.boot);
                let seen = self.seen_mut(&id.unit);
                let begun = match beside {
                    false => seen.begin_start(id, run, relies, unit, now.wall),
                    true => seen.begin_start_beside(id, run, relies, unit),
                };
                if begun && !unit.sockets.is_empty() {
                    self.seen_mut(action.sockets_of().unwrap_or(&id.unit)).begin_sockets(unit);
                }
                begun
            }
            Action::TakeOver { id, enabled } => self.seen_mut(&id.unit).begin_take_over(id, *enabled),
            Action::Stop { id, why, .. } => self.live_mut(id).is_some_and(|live| live.begin_stop(why, now.boot)),
            Action::Hook { id, point } => self.live_mut(id).is_some_and(|live| live.begin_hook(*point, now.boot)),
            Action::Kill { id } => self.live_mut(id).is_some_and(|live| live.begin_kill(now.boot)),
            Action::Rely { id, relies } => self.live_mut(id).is_some_and(|live| live.begin_rely(relies)),
            Action::Raise { unit, failed } => self.seen_mut(unit).begin_raise(failed, now.boot),
            Action::Signal { id, signal } => self.live_mut(id).is_some_and(|live| live.begin_signal(*signal)),
            Action::Reload { id, .. } => self.live_mut(id).is_some_and(|live| live.begin_reload(now.boot)),
            Action::Hear { id } => self.live_mut(id).is_some_and(|live| live.begin_hear(now.boot)),
            Action::Probe { id, probing } => self.live_mut(id).is_some_and(|live| live.begin_probe(probing)),
            Action::Update { id, unit, limits } => {
                self.live_mut(id).is_some_and(|live| live.begin_update(unit, *limits))
            }
            Action::Settle { id, contents } => {
                self.live_mut(id).is_some_and(|live| live.begin_settle(*contents, now.boot))
            }
            Action::Swap { id, contents, .. } => self.live_mut(id).is_some_and(|live| live.begin_swap(*contents)),
            Action::Clear { id } => self.live_mut(id).is_some_and(Live::begin_clear),
            Action::Close { unit, sockets } => self.units.get_mut(unit).is_some_and(|seen| seen.begin_close(sockets)),
            Action::Forget { unit } => self.begin_forget(unit),
            Action::Schedule { unit, mark } => self.seen_mut(unit).begin_schedule(mark),
            Action::Prove { unit, fingerprint } => self.seen_mut(unit).begin_prove(*fingerprint),
            Action::RollBack { unit, fingerprint, .. } => self.seen_mut(unit).begin_roll_back(*fingerprint),
            Action::Reboot { .. } => !std::mem::replace(&mut self.rebooting, true),
        }
    }

    fn begin_forget(&mut self, unit: &UnitName) -> bool {
        let Some(seen) = self.units.get_mut(unit) else { return false };
        self.floor = self.floor.max(seen.high_water);
        self.forgotten = self.forgotten.max(seen.high_water);
        if seen.live.is_some() || !seen.sockets.is_empty() {
            // Its exit record is still to be journalled, or a socket to be closed, so it stays until that is done; but a file that comes back
            // before that starts anew, whatever the end was.
            for live in seen.live.iter_mut().chain(seen.beside.as_deref_mut()) {
                (live.restart, live.used) = (false, Wishes::default());
            }
            (seen.hold, seen.manual, seen.start_now, seen.backoff) = (None, false, false, Backoff::default());
            (seen.fresh, seen.timetable) = (true, None);
        } else {
            self.units.remove(unit);
        }
        true
    }
}

impl Seen {
    fn begin_prove(&mut self, fingerprint: Fingerprint) -> bool {
        self.proven.replace(fingerprint) != Some(fingerprint)
    }

    /// What the bad text counted is not held against the earlier one, which may run all the while.
    fn begin_roll_back(&mut self, fingerprint: Fingerprint) -> bool {
        if self.backoff.fingerprint == fingerprint {
            self.backoff = Backoff::default();
        }
        true
    }

    fn begin_start(&mut self, id: &ContainerId, run: Run, relies: &Relies, unit: &Unit, wall: WallTime) -> bool {
        if self.live.is_some() || id.generation <= self.high_water {
            return false;
        }
        self.restarts += u64::from(self.is_automatic_restart(run.fingerprint, None));
        self.high_water = id.generation;
        self.hold = None;
        let used = Wishes { start_now: self.start_now, manual: self.manual, fresh: self.fresh };
        (self.start_now, self.manual, self.fresh) = (false, self.manual && !unit.enabled, false);
        self.trouble = None;
        if let (Some(table), Some(schedule)) = (&mut self.timetable, &unit.schedule) {
            table.begin(schedule, wall);
        }
        let (told, contents) = (Told::begin(unit), SwapMark::of(unit));
        self.live
            .insert(Live { contents: contents.map(Box::new), told, ..Live::new(id.clone(), run, used) })
            .rely(relies);
        true
    }

    /// The unit's generation runs on; a wish to restart it is used up.
    fn begin_start_beside(&mut self, id: &ContainerId, run: Run, relies: &Relies, unit: &Unit) -> bool {
        if self.beside.is_some() || id.generation <= self.high_water {
            return false;
        }
        let Some(own) = self.live.as_mut().filter(|own| own.is_up()) else { return false };
        let restart = std::mem::take(&mut own.restart);
        self.restarts += u64::from(!restart && self.is_automatic_restart(run.fingerprint, Some(id)));
        self.high_water = id.generation;
        self.trouble = None;
        let contents = SwapMark::of(unit);
        // A file that was gone and came back while its container waited to be stopped has its first start in this one.
        let used = Wishes { start_now: restart, fresh: std::mem::take(&mut self.fresh), ..Wishes::default() };
        self.beside
            .insert(Box::new(Live { contents: contents.map(Box::new), ..Live::new(id.clone(), run, used) }))
            .rely(relies);
        true
    }

    /// As a client's start, but that nobody's hold is lifted by it, and that one which is up is left alone.
    fn begin_raise(&mut self, failed: &ContainerId, now: BootTime) -> bool {
        let idle = !self.is_up() && self.hold_at(now).is_none();
        (self.start_now, self.manual) = (self.start_now || idle, self.manual || idle);
        self.raised.insert(failed.unit.clone(), failed.generation) != Some(failed.generation)
    }

    /// Whether a start that is begun now with this text is one that the policy makes. Beside the unit's generation ends before that count for nothing.
    pub(super) fn is_automatic_restart(&self, fingerprint: Fingerprint, beside: Option<&ContainerId>) -> bool {
        let own = self.live.as_ref().filter(|own| beside.is_some_and(|id| own.id.generation < id.generation));
        let since = own.map_or(0, |own| own.id.generation);
        let by_policy =
            |last: &ExitRecord| last.fingerprint == fingerprint && last.stopped.is_none() && last.id.generation > since;
        // A run of a schedule after one that did well is no restart.
        let by_time = |last: &ExitRecord| self.timetable.is_some() && last.outcome.is_success();
        let last = self.last.as_deref().filter(|last| !by_time(last));
        !self.start_now && !self.fresh && last.is_some_and(by_policy)
    }
}

impl Live {
    fn begin_stop(&mut self, why: &Why, now: BootTime) -> bool {
        if self.stops_by_hook() {
            self.state = State::Stopping(Stopping::hooked(why.clone(), self.hooked_kill_at(now), now));
            return true;
        }
        match &mut self.state {
            State::Starting | State::Running { .. } => {
                self.state = State::Stopping(Stopping::new(why.clone(), &self.run, self.pid.is_some(), now));
                true
            }
            State::Stopping(stopping) => stopping.signal.begin(),
            State::Ended(_) => false,
        }
    }

    fn begin_kill(&mut self, now: BootTime) -> bool {
        match &mut self.state {
            State::Starting | State::Running { .. } => false,
            State::Stopping(stopping) => stopping.killing.begin(now),
            State::Ended(ended) => ended.killing.begin(now),
        }
    }

    fn begin_rely(&mut self, relies: &Relies) -> bool {
        self.rely(relies);
        true
    }

    fn begin_signal(&mut self, signal: Signal) -> bool {
        let found = self.signals.iter().position(|pending| *pending == signal);
        found.map(|at| self.signals.remove(at)).is_some()
    }

    /// From here on an answer to it is one: it may come before the word that it was sent.
    fn begin_reload(&mut self, now: BootTime) -> bool {
        let begun = self.reload.as_mut().is_some_and(Asked::begin);
        self.reload_sent = if begun { Some(now) } else { self.reload_sent };
        begun
    }

    fn begin_probe(&mut self, probing: &Option<Probing>) -> bool {
        // What is stopped is asked no more, and why it is stays true: a startup that failed makes no run.
        if self.is_up() {
            self.forget_findings(probing.as_ref());
        }
        self.probing.clone_from(probing);
        true
    }

    fn begin_update(&mut self, unit: &Unit, limits: Option<Limits>) -> bool {
        self.run = self.run.terms(unit);
        self.limits_asked = limits.map(Box::new).or(self.limits_asked.take());
        true
    }

    fn begin_clear(&mut self) -> bool {
        match &mut self.state {
            State::Starting | State::Running { .. } | State::Stopping(_) => false,
            State::Ended(ended) => !std::mem::replace(&mut ended.clearing, true),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Start { id, beside: false, .. } => write!(f, "start {id}"),
            Action::Start { id, beside: true, .. } => write!(f, "start {id} beside the one that runs"),
            Action::TakeOver { id, .. } => write!(f, "{id} takes over"),
            Action::Stop { id, why, .. } => write!(f, "stop {id}: {why}"),
            Action::Hook { id, point } => write!(f, "{} of {id}", point.word()),
            Action::Kill { id } => write!(f, "kill {id}"),
            Action::Rely { id, .. } => write!(f, "note the dependencies of {id}"),
            Action::Raise { unit, failed } => write!(f, "start {unit}, because {failed} was the last try"),
            Action::Signal { id, signal } => write!(f, "signal {id} with {}", signal.0),
            Action::Reload { id, .. } => write!(f, "reload {id}"),
            Action::Hear { id } => write!(f, "hear {id}"),
            Action::Probe { id, .. } => write!(f, "probe {id}"),
            Action::Update { id, .. } => write!(f, "update {id}"),
            Action::Settle { id, .. } => write!(f, "wait for the files of {id} to settle"),
            Action::Swap { id, .. } => write!(f, "swap the files of {id}"),
            Action::Clear { id } => write!(f, "clear {id}"),
            Action::Close { unit, sockets } => {
                write!(f, "close")?;
                sockets.iter().try_for_each(|listen| write!(f, " {listen}"))?;
                write!(f, " of {unit}")
            }
            Action::Forget { unit } => write!(f, "forget {unit}"),
            Action::Schedule { unit, mark: Mark::From(..) } => write!(f, "count the schedule of {unit} from now on"),
            Action::Schedule { unit, mark: Mark::LeftOut(_) } => write!(f, "leave a run of {unit} out"),
            Action::Schedule { unit, mark: Mark::Gone } => write!(f, "forget the schedule of {unit}"),
            Action::Prove { unit, .. } => write!(f, "the text of {unit} did well"),
            Action::RollBack { unit, why, .. } => write!(f, "roll back {unit}: {why}"),
            Action::Reboot { unit } => write!(f, "reboot, because {unit} gave up"),
        }
    }
}

//! How a fact changes what is known: [`Observed::record`].
//!
//! It is total: a fact may come late, twice, out of order, or about a generation that nobody remembers. One that no longer fits changes nothing.

use std::time::Duration;

use super::backoff::doubled;
use super::exit::{Exit, ExitRecord, Outcome, shortened};
use super::fact::{Deed, Fact};
use super::health::Opinion;
use super::hold::Hold;
use super::observed::{
    Asked, Backoff, Ended, HostPid, Killing, Limits, Live, Observed, Run, Seen, Shutdown, State, Wishes,
};
use super::reason::Why;
use super::time::{BootTime, Now};
use crate::unit::{CheckKind, ContainerId, Signal, UnitName};

/// How many signals of clients wait for one container; more are refused by being forgotten.
const SIGNALS_MAX: usize = 16;

/// The pause before clearing is tried again, doubled up to [`CLEAR_RETRY_MAX`].
const CLEAR_RETRY: Duration = Duration::from_millis(100);

/// The longest such pause.
const CLEAR_RETRY_MAX: Duration = Duration::from_secs(600);

impl Observed {
    /// Takes `fact` in; says whether it changed anything (then the unit's [`Seen`] is to be written before the next effect).
    pub fn record(&mut self, fact: &Fact, now: Now) -> bool {
        match fact {
            Fact::Started { id, pid } => self.on_live(id, |live| live.started(*pid, now.boot)),
            Fact::StartFailed { id, text } => {
                let text = shortened(text);
                self.on_seen(id, |seen| seen.end(id, Outcome::StartFailed { text }, now.boot, now))
            }
            Fact::NeverStarted { id } => self.on_seen(id, |seen| seen.never_started(id, now)),
            Fact::Adopted { id, pid, run } => self.adopted(id, *pid, run, now.boot),
            Fact::Exited { id, exit, oom, at } => {
                self.on_seen(id, |seen| seen.end(id, Outcome::Exited { exit: *exit, oom: *oom }, *at, now))
            }
            Fact::Lost { id } => self.on_seen(id, |seen| seen.end(id, LOST, now.boot, now)),
            Fact::CgroupEmpty { id } => self.on_ended(id, |ended| !std::mem::replace(&mut ended.empty, true)),
            Fact::Lingering { id, processes } => self.on_live(id, |live| live.lingering(*processes)),
            Fact::Drained { id } => self.on_ended(id, |ended| !std::mem::replace(&mut ended.drained, true)),
            Fact::Cleared { id } => self.on_seen(id, |seen| seen.cleared(id)),
            Fact::StopSent { id } => self.on_live(id, |live| live.stop_answered(false)),
            Fact::StopUnhandled { id } => self.on_live(id, |live| live.stop_answered(true)),
            Fact::Probed { id, check, probed, failures, successes } => {
                self.on_live(id, |live| live.probed(*check, probed, (*failures, *successes), now.boot))
            }
            Fact::Notified { id, lines } => self.on_live(id, |live| live.notified(lines)),
            Fact::Heard { id } => self.on_live(id, Live::heard),
            Fact::Awake => {
                self.awake_since = now.boot;
                true
            }
            Fact::HookEnded { id, point, failure } => {
                self.on_live(id, |live| live.hook_ended(*point, failure.as_deref(), now.boot))
            }
            Fact::Reloaded { id } => self.on_live(id, Live::reloaded),
            Fact::Limited { id, limits } => self.on_seen(id, |seen| seen.limited(id, *limits)),
            Fact::Listening { unit, sockets } => !sockets.is_empty() && self.seen_mut(unit).opened(sockets),
            Fact::Closed { unit, sockets } => self.units.get_mut(unit).is_some_and(|seen| seen.closed(sockets)),
            Fact::Swapped { id, contents } => self.on_seen(id, |seen| seen.swapped(id, *contents)),
            Fact::ActionFailed { id, deed, text } => {
                self.on_seen(id, |seen| seen.action_failed(id, *deed, text, now.boot))
            }
            Fact::ClientStart { unit } => self.seen_mut(unit).client_start(),
            Fact::ClientStop { unit, hold } => self.seen_mut(unit).client_stop(hold),
            Fact::ClientRestart { unit } => self.seen_mut(unit).client_restart(),
            Fact::ClientReload { unit } => self.units.get_mut(unit).is_some_and(|seen| seen.client_reload()),
            Fact::ClientKill { unit, signal } => self.units.get_mut(unit).is_some_and(|seen| seen.client_kill(*signal)),
            Fact::Found { path, presence } => self.host.found(path, *presence),
            Fact::Booted { cmdline } => self.host.booted_with(cmdline),
            Fact::Clock(clock) => {
                // An older look says nothing more: the clock may have been set since.
                let is_late = self.clock.is_some_and(|known| clock.boot < known.boot);
                if !is_late {
                    self.clock = Some(*clock);
                }
                !is_late
            }
            Fact::Zone { name, zone } => {
                self.zones.insert(name.clone(), zone.clone());
                true
            }
            Fact::Shutdown { by } => self.begin_shutdown(by, now.boot),
        }
    }

    /// What is known of `unit`, made if nothing is.
    pub(super) fn seen_mut(&mut self, unit: &UnitName) -> &mut Seen {
        let floor = self.floor;
        self.units.entry(unit.clone()).or_insert_with(|| Box::new(Seen { high_water: floor, ..Seen::default() }))
    }

    /// The generation `id`, if it is live.
    pub(super) fn live_mut(&mut self, id: &ContainerId) -> Option<&mut Live> {
        self.units.get_mut(&id.unit)?.live_of_mut(id)
    }

    fn on_live(&mut self, id: &ContainerId, change: impl FnOnce(&mut Live) -> bool) -> bool {
        self.live_mut(id).is_some_and(change)
    }

    fn on_ended(&mut self, id: &ContainerId, change: impl FnOnce(&mut Ended) -> bool) -> bool {
        self.on_live(id, |live| match &mut live.state {
            State::Starting | State::Running { .. } | State::Stopping(_) => false,
            State::Ended(ended) => change(ended),
        })
    }

    fn on_seen(&mut self, id: &ContainerId, change: impl FnOnce(&mut Seen) -> bool) -> bool {
        match self.units.get_mut(&id.unit) {
            Some(seen) if seen.live_of(id).is_some() => change(seen),
            Some(_) | None => false,
        }
    }

    /// Known and live: it runs. Unknown to us: taken over as it is, unless it is one that we saw end. Of a unit without a record (the
    /// disk did not take it, or it was torn) nothing was seen, whatever numbers are in use. The second one of a unit is one that comes, and
    /// takes over or goes as any other.
    fn adopted(&mut self, id: &ContainerId, pid: HostPid, run: &Run, now: BootTime) -> bool {
        let has_record = self.units.contains_key(&id.unit);
        if !has_record && id.generation <= self.forgotten {
            return false;
        }
        let seen = self.seen_mut(&id.unit);
        if let Some(live) = seen.live_of_mut(id) {
            return live.started(pid, now);
        }
        if has_record && id.generation <= seen.high_water || seen.beside.is_some() {
            return false;
        }
        seen.high_water = id.generation;
        let mut live = Live::new(id.clone(), run.clone(), Wishes::default());
        live.started(pid, run.begun);
        match seen.live {
            None => seen.live = Some(live),
            Some(_) => seen.beside = Some(Box::new(live)),
        }
        true
    }

    fn begin_shutdown(&mut self, by: &str, since: BootTime) -> bool {
        let first = self.shutdown.is_none();
        self.shutdown.get_or_insert_with(|| Shutdown { since, by: by.to_owned() });
        first
    }
}

const LOST: Outcome = Outcome::Exited { exit: Exit::Unknown, oom: false };

impl Seen {
    pub(super) fn live_of_mut(&mut self, id: &ContainerId) -> Option<&mut Live> {
        of_mut(&mut self.live, &mut self.beside, id)
    }

    /// The one place where an exit record is made: at the first word of the end of a live generation, never again.
    fn end(&mut self, id: &ContainerId, outcome: Outcome, at: BootTime, now: Now) -> bool {
        let Some(live) = of_mut(&mut self.live, &mut self.beside, id) else { return false };
        let (stopped, killing) = match &live.state {
            State::Starting | State::Running { .. } => (None, Killing::default()),
            State::Stopping(stopping) => (Some(stopping.why.clone()), stopping.killing.clone()),
            State::Ended(_) => return false,
        };
        let (outcome, stopped) = match (outcome, stopped) {
            // Its own fault, as an exit is.
            (Outcome::Exited { exit, .. }, Some(Why::Unhealthy(text))) => (Outcome::Unhealthy { text, exit }, None),
            other => other,
        };
        let at = at.min(now.boot).max(live.run.begun);
        let ran_for = match outcome {
            Outcome::Exited { .. } | Outcome::Unhealthy { .. } => at.since(live.run.begun),
            Outcome::StartFailed { .. } => Duration::ZERO,
        };
        let ran_well_for = match outcome {
            Outcome::Exited { .. } => live.ran_well_for(at),
            // One that failed while it started has not run.
            Outcome::Unhealthy { .. } if live.post_start_failure().is_some() => Duration::ZERO,
            Outcome::Unhealthy { .. } if live.opinion(CheckKind::Startup) != Opinion::Failing => live.ran_well_for(at),
            Outcome::Unhealthy { .. } | Outcome::StartFailed { .. } => Duration::ZERO,
        };
        // What the new one counts is not wiped out by the end of the old one that ran beside it, nor by an end before its own that is told late.
        let is_left = |last: &&ExitRecord| {
            let is_other = last.fingerprint != live.run.fingerprint || !last.beside || at < last.at;
            last.id.generation > id.generation && last.fingerprint == self.backoff.fingerprint && is_other
        };
        if self.last.as_deref().filter(is_left).is_none() {
            self.backoff.count(&live.run, ran_well_for, stopped.is_some());
        }
        let fingerprint = live.run.fingerprint;
        live.state = State::Ended(Ended::new(now.boot, killing));
        let comes = self.live.as_ref().is_some_and(|own| own.id.generation < id.generation);
        let beside = comes || self.live_of(id).is_some_and(|live| live.never_took_over);
        let record = ExitRecord { beside, id: id.clone(), fingerprint, outcome, at, wall: now.wall, ran_for, stopped };
        if let Some(table) = &mut self.timetable {
            // When it did, not when that was heard of: what came in between is missed, not left out.
            table.end(now.wall_of(at), &record.outcome);
        }
        self.previous = self.last.replace(Box::new(record));
        self.wishes_after_end(id);
        true
    }

    /// There was no start, hence no end and no record: all is as before it was begun.
    fn never_started(&mut self, id: &ContainerId, now: Now) -> bool {
        let Some(live) = of_mut(&mut self.live, &mut self.beside, id) else { return false };
        let killing = match &live.state {
            State::Starting => Killing::default(),
            State::Stopping(stopping) if live.pid.is_none() => stopping.killing.clone(),
            State::Running { .. } | State::Stopping(_) => return self.end(id, LOST, now.boot, now),
            State::Ended(_) => return false,
        };
        live.state = State::Ended(Ended::new(now.boot, killing));
        let (used, fingerprint) = (live.used, live.run.fingerprint);
        match self.live.as_mut().filter(|own| own.id != *id && own.is_up()) {
            // It was to take over for a wish to restart.
            Some(own) => own.restart |= used.start_now,
            // Whoever wanted it wanted a start, be the text enabled or not.
            None => (self.start_now, self.manual) = (self.start_now | used.start_now, self.manual | used.start_now),
        }
        self.manual |= used.manual;
        self.fresh |= used.fresh;
        if let Some(table) = &mut self.timetable {
            table.unbegin();
        }
        let counted = !used.start_now && self.is_automatic_restart(fingerprint, Some(id));
        self.restarts = self.restarts.saturating_sub(u64::from(counted));
        self.wishes_after_end(id);
        true
    }

    /// A wish to restart outlives the generation; signals and reloads do not.
    fn wishes_after_end(&mut self, id: &ContainerId) {
        let Some(live) = of_mut(&mut self.live, &mut self.beside, id) else { return };
        let restart = std::mem::take(&mut live.restart);
        self.start_now |= restart;
        self.manual |= restart;
        live.reload = None;
        live.signals.clear();
    }

    fn cleared(&mut self, id: &ContainerId) -> bool {
        let ended = self.live_of(id).is_some_and(|live| matches!(live.state, State::Ended(_)));
        if ended {
            // The one that is left is the unit's, whatever it was. One that leaves leaves, be this known after a crash or not.
            let beside = self.beside.take();
            if self.live.as_ref().is_some_and(|own| own.id == *id) {
                self.live = beside.map(|beside| {
                    let replaced = beside.id.generation < id.generation;
                    Live { never_took_over: !replaced && !beside.is_up(), replaced, ..*beside }
                });
            }
            self.trouble = None;
        }
        ended
    }

    fn limited(&mut self, id: &ContainerId, limits: Limits) -> bool {
        let Some(live) = self.live_of_mut(id) else { return false };
        live.run.limits = limits;
        live.limits_asked.take_if(|asked| **asked == limits);
        self.trouble = None;
        true
    }

    fn action_failed(&mut self, id: &ContainerId, deed: Deed, text: &str, now: BootTime) -> bool {
        let Some(live) = self.live_of_mut(id) else { return false };
        match deed {
            Deed::Stop => drop(live.stop_answered(true)),
            Deed::Reload => drop(live.reloaded()),
            Deed::Clear => drop(live.clear_failed(now)),
            Deed::Kill | Deed::Signal | Deed::Update | Deed::Probe | Deed::Swap => {}
        }
        self.trouble = Some(shortened(text));
        true
    }

    fn client_start(&mut self) -> bool {
        self.hold = None;
        self.backoff = Backoff::default();
        let idle = !self.is_up();
        self.start_now |= idle;
        self.manual |= idle;
        true
    }

    fn client_stop(&mut self, hold: &Hold) -> bool {
        self.hold = Some(Box::new(hold.clone()));
        self.backoff = Backoff::default();
        self.manual = false;
        self.start_now = false;
        for live in self.live.iter_mut().chain(self.beside.as_deref_mut()) {
            live.restart = false;
            live.used = Wishes { fresh: live.used.fresh, ..Wishes::default() };
        }
        true
    }

    fn client_restart(&mut self) -> bool {
        self.client_start();
        if let Some(live) = self.up_mut() {
            live.restart = true;
        }
        true
    }

    fn client_reload(&mut self) -> bool {
        self.up_mut().map(|live| live.reload = Some(Asked::No)).is_some()
    }

    fn client_kill(&mut self, signal: Signal) -> bool {
        let Some(live) = self.live.as_mut().filter(|live| live.signals.len() < SIGNALS_MAX) else { return false };
        let has_end = matches!(live.state, State::Ended(_));
        if !has_end {
            live.signals.push(signal);
        }
        !has_end
    }

    /// Its generation is starting or running, with no stop begun, and stays the unit's.
    pub fn is_up(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.is_up() && !live.replaced)
    }

    fn up_mut(&mut self) -> Option<&mut Live> {
        self.live.as_mut().filter(|live| live.is_up() && !live.replaced)
    }
}

/// Of two slots the generation with this id: free of the rest of a [`Seen`].
fn of_mut<'s>(live: &'s mut Option<Live>, beside: &'s mut Option<Box<Live>>, id: &ContainerId) -> Option<&'s mut Live> {
    live.iter_mut().chain(beside.as_deref_mut()).find(|live| live.id == *id)
}

impl Live {
    fn started(&mut self, pid: HostPid, now: BootTime) -> bool {
        match &mut self.state {
            State::Starting => self.state = State::Running { since: now },
            State::Stopping(stopping) if self.pid.is_none() => stopping.started(&self.run, now),
            State::Running { .. } | State::Stopping(_) | State::Ended(_) => return false,
        }
        self.pid = Some(pid);
        true
    }

    fn stop_answered(&mut self, unhandled: bool) -> bool {
        match &mut self.state {
            State::Stopping(stopping) => {
                stopping.signal = Asked::Done;
                stopping.unhandled |= unhandled;
                stopping.killing.at_once |= unhandled;
                true
            }
            State::Starting | State::Running { .. } | State::Ended(_) => false,
        }
    }

    fn lingering(&mut self, processes: u32) -> bool {
        match &mut self.state {
            State::Starting | State::Running { .. } => return false,
            State::Stopping(stopping) => stopping.killing.left = Some(processes),
            State::Ended(ended) => ended.killing.left = Some(processes),
        }
        true
    }

    fn reloaded(&mut self) -> bool {
        self.reload.take_if(|reload| *reload == Asked::InFlight).is_some()
    }

    fn clear_failed(&mut self, now: BootTime) -> bool {
        match &mut self.state {
            State::Starting | State::Running { .. } | State::Stopping(_) => false,
            State::Ended(ended) => {
                let wait = doubled(CLEAR_RETRY, ended.clear_failures, CLEAR_RETRY_MAX);
                ended.clear_failures = ended.clear_failures.saturating_add(1);
                ended.clear_at = Some(now.after(wait));
                ended.clearing = false;
                true
            }
        }
    }
}

//! Start-first updates: the new generation of a unit runs beside the old one, and takes over when it has done well.
//!
//! ```text
//!        changed, or a restart         has done well, or the old one is up no more          cleared
//! live: old ────────────▶ live: old    ───────────────────────────────────▶ live: new      ─────────▶ live: new
//!                         beside: new                                       beside: old
//!                            │ ends, unwell, late, not wanted any more: stopped, cleared
//!                            └──────────────────────────────────────────▶ live: old, never touched
//! ```
//!
//! - There are two slots, hence never more than two. `live` is the unit's generation: the one that clients, dependents and sharers of its network
//!   mean. The one `beside` it *comes* if its number is higher, and *leaves* if it is lower. A third start waits until the slot is free.
//! - `beside` is never taken while `live` is empty: when the unit's generation is cleared, the other one is the unit's. One from which that had
//!   taken over still stops ([`Live::replaced`]): whether something was in its way meanwhile says nothing about it.
//! - It is for services that run: a changed text, another secret, a restart. Who is not up has nothing that could go on. A restart is tried once;
//!   a text that fails is rolled back, stays failed or is tried again as its policy says, and the old container goes on meanwhile.
//! - What comes has done well when it was well for `update.min_healthy` (`trial`). An end before that, a failing check, or not being well by
//!   `update.deadline` counts against its text, whatever its exit code: it is not there to take over.
//! - Whatever stops the unit stops both. What leaves stops after those that share its network, as ever.
//! - A unit that is handed over is not lost: who relies on the old generation relies on the new one ([`Live::follows`]). Only
//!   `on_loss = "restart"`, which asks for it, restarts. An end of the old one by itself is a loss.

use super::action::Action;
use super::decide::Rest;
use super::desired::Want;
use super::exit::ExitRecord;
use super::observed::{Live, Seen, State};
use super::reason::Why;
use super::reconcile::{Plan, start};
use super::time::BootTime;
use super::world::{View, World};
use crate::unit::{ContainerId, Kind, Order, quantity::show_duration};

/// What a generation is to its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The unit's own.
    Own,
    /// To take over from it.
    Comes,
    /// It took over from this one.
    Leaves,
}

impl Seen {
    /// The unit's generation, and the one beside it.
    pub fn lives(&self) -> impl Iterator<Item = &Live> {
        self.live.iter().chain(self.beside.as_deref())
    }

    /// The live generation with this id.
    pub fn live_of(&self, id: &ContainerId) -> Option<&Live> {
        self.lives().find(|live| live.id == *id)
    }

    /// The generation that is to take over from the unit's.
    pub fn successor(&self) -> Option<&Live> {
        self.beside.as_deref().filter(|beside| self.role(beside) == Role::Comes)
    }

    /// The generation from which the unit's took over, while something of it is left.
    pub fn predecessor(&self) -> Option<&Live> {
        self.beside.as_deref().filter(|beside| self.role(beside) == Role::Leaves)
    }

    /// The exit record of a live generation that has ended: only such, as two ends later it may be gone.
    pub fn end_of(&self, id: &ContainerId) -> Option<&ExitRecord> {
        self.last.iter().chain(&self.previous).map(Box::as_ref).find(|record| record.id == *id)
    }

    pub(super) fn role(&self, live: &Live) -> Role {
        match self.live.as_ref().map(|own| own.id.generation.cmp(&live.id.generation)) {
            None | Some(std::cmp::Ordering::Equal) => Role::Own,
            Some(std::cmp::Ordering::Less) => Role::Comes,
            Some(std::cmp::Ordering::Greater) => Role::Leaves,
        }
    }

    /// The successor is the unit's generation from here on.
    pub(super) fn begin_take_over(&mut self, id: &ContainerId, enabled: bool) -> bool {
        let comes = self.successor().is_some_and(|next| next.id == *id);
        let (Some(live), Some(beside)) = (self.live.as_mut(), self.beside.as_deref_mut().filter(|_| comes)) else {
            return false;
        };
        std::mem::swap(live, beside);
        let back =
            live.id.generation.saturating_sub(beside.id.generation).saturating_add(u64::from(beside.handed_over));
        live.handed_over = if beside.is_up() { u32::try_from(back).unwrap_or(u32::MAX) } else { 0 };
        // What was wished of the old one, and would have come of its end, is there. As in any start these marks are used up: if it turns out that it
        // was never spawned, they stand again.
        live.used.start_now |= self.start_now | beside.restart;
        live.used.manual |= self.manual;
        (beside.restart, beside.reload, self.start_now) = (false, None, false);
        beside.signals.clear();
        self.manual &= !enabled;
        true
    }
}

impl Live {
    /// Whether it is the last of a line, each handed over from the one before while that was up, to which this earlier generation belongs.
    pub(super) fn follows(&self, generation: u64) -> bool {
        let first = self.id.generation.saturating_sub(u64::from(self.handed_over));
        (first..self.id.generation).contains(&generation)
    }
}

impl<'a> World<'a> {
    /// The text that a generation was started with, if it is still known.
    pub(super) fn own_text(&self, view: View<'a>, live: &Live) -> Option<&'a Want> {
        let want = view.want?;
        let texts = [Some(want), want.earlier.as_deref()];
        texts.into_iter().flatten().find(|text| text.fingerprint == live.run.fingerprint)
    }

    /// Whether it goes on while another one takes its place.
    pub(super) fn is_start_first(&self, view: View<'a>, want: &Want, live: &Live) -> bool {
        let is_service = |want: &Want| want.unit.kind == Kind::Service;
        want.unit.update.order == Order::StartFirst
            && is_service(want)
            && self.own_text(view, live).is_none_or(is_service)
            && self.may_run(live)
    }

    /// Whether its program runs. After a crash the word of that may be missing: it soon comes.
    fn may_run(&self, live: &Live) -> bool {
        match live.state {
            State::Running { .. } => true,
            State::Starting => live.run.begun < self.awake_since(),
            State::Stopping(_) | State::Ended(_) => false,
        }
    }

    /// What keeps the next generation from being started beside the unit's, which has no reason to stop; `None`: none is wanted.
    pub(super) fn successor_rest(&self, view: View<'a>, live: &Live) -> Option<Rest<'a>> {
        let want = view.want.filter(|want| self.is_start_first(view, want, live))?;
        if live.is_of(want) && !live.restart || !matches!(live.state, State::Running { .. }) {
            return None;
        }
        if self.waits_for_turn(view).is_some() {
            return None;
        }
        let failed = view.seen.last.as_ref().filter(|last| {
            last.id.generation > live.id.generation && last.fingerprint == want.fingerprint && last.stopped.is_none()
        });
        let policy = failed.filter(|_| !live.restart).and_then(|last| self.after_end(want, view.seen, last));
        Some(policy.unwrap_or_else(|| self.due(view, want)))
    }

    /// Why one that comes must stop, by what it is itself.
    pub(super) fn successor_fails(&self, want: &Want, live: &Live) -> Option<Why> {
        let fails = self.unhealthy(want, live).map(Why::Unhealthy);
        fails.or_else(|| match live.well_since(want.unit.health.as_deref()) {
            None if self.is_late(live, want) && live.is_unheard() => Some(Why::Unheard),
            None if self.is_late(live, want) => Some(Why::Unhealthy(self.late_words(live, want))),
            None | Some(_) => None,
        })
    }

    /// When one that is not well by then is bad. Time in which nobody looked, or the host slept, is not its own.
    pub(super) fn well_until(&self, live: &Live, want: &Want) -> BootTime {
        live.run.begun.max(self.awake_since()).after(want.unit.update.deadline)
    }

    fn is_late(&self, live: &Live, want: &Want) -> bool {
        self.well_until(live, want) <= self.now
    }

    /// That it is not well, and why.
    pub(super) fn late_words(&self, live: &Live, want: &Want) -> String {
        let complaint = want.unit.health.as_deref().and_then(|health| live.complaint(health));
        let why = complaint
            .map(|(check, said)| super::health::unwell_words(check, said.as_deref()))
            .or_else(|| live.told_words(want.unit.notify()))
            .unwrap_or_else(|| "it does not run".to_owned());
        format!("not well within {}: {why}", show_duration(want.unit.update.deadline))
    }

    /// When one that comes takes over, if it stays as it is.
    pub(super) fn takes_over_at(&self, want: &Want, live: &Live) -> Option<BootTime> {
        Some(live.well_since(want.unit.health.as_deref())?.after(want.unit.update.min_healthy))
    }
}

/// Starts the next generation beside the unit's, and lets it take over.
pub(super) fn plan_handover<'a>(world: &World<'a>, view: View<'a>, own: &Live, plan: &mut Plan) {
    let stays = |live: &Live| live.is_up() && world.stop_reason(view, live).is_none();
    let Some(want) = view.want else { return };
    match (&view.seen.beside, view.seen.successor().filter(|next| stays(next))) {
        (_, Some(next)) => {
            let take_over = || Action::TakeOver { id: next.id.clone(), enabled: want.unit.enabled };
            match world.takes_over_at(want, next) {
                _ if !own.is_up() => plan.actions.push(take_over()),
                Some(at) => plan.at(at, world.now, take_over),
                None => plan.wake(world.well_until(next, want)),
            }
        }
        (None, None) if stays(own) => match world.successor_rest(view, own) {
            Some(Rest::Due(join)) => plan.actions.extend(start(world, view, join, true)),
            Some(Rest::Backoff(_, next_at)) => plan.wake(next_at),
            Some(_) | None => {}
        },
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::observed::{HostPid, Limits, Observed, Run, Wishes};
    use super::super::schedule::Timetable;
    use super::super::time::{Now, WallTime};
    use super::super::{Exit, Fact, Outcome};
    use super::*;
    use crate::unit::{Fingerprint, Signal, UnitName};

    fn id(generation: u64) -> ContainerId {
        ContainerId { unit: UnitName::new("web").unwrap(), generation }
    }

    fn running(generation: u64) -> Live {
        let run = Run {
            fingerprint: Fingerprint([1; 16]),
            begun: BootTime(1),
            joined: None,
            stop_signal: Signal(15),
            stop_timeout: Duration::ZERO,
            reset_after: Duration::ZERO,
            limit_interval: None,
            limits: Limits::default(),
            hooks: None,
            max_runtime: None,
        };
        let state = State::Running { since: BootTime(1) };
        Live { state, pid: Some(HostPid(1)), ..Live::new(id(generation), run, Wishes::default()) }
    }

    fn two() -> Seen {
        Seen { live: Some(running(5)), beside: Some(Box::new(running(8))), high_water: 8, ..Seen::default() }
    }

    const NOW: Now = Now { boot: BootTime(9), wall: WallTime(9) };

    #[test]
    fn who_takes_over_goes_on_for_all_that_were_up_until_then() {
        let mut seen = two();
        assert!(!seen.begin_take_over(&id(5), true), "it is the unit's already");
        assert!(seen.begin_take_over(&id(8), true) && !seen.begin_take_over(&id(8), true));
        let own = seen.live.as_ref().unwrap();
        assert!(own.id == id(8) && seen.predecessor().unwrap().id == id(5) && seen.successor().is_none());
        assert!(own.follows(5) && own.follows(7) && !own.follows(4) && !own.follows(8));
        seen.beside = Some(Box::new(running(9)));
        assert!(seen.begin_take_over(&id(9), true) && seen.live.as_ref().unwrap().follows(5));
    }

    #[test]
    fn what_a_take_over_used_up_stands_again_if_there_was_nobody_to_take_over() {
        let unspawned = || Live { state: State::Starting, pid: None, ..running(8) };
        let exited = Fact::Exited { id: id(5), exit: Exit::Code(0), oom: false, at: BootTime(9) };
        for (restart, manual) in [(false, true), (true, true), (false, false)] {
            let own = Live { restart, ..running(5) };
            let beside = Some(Box::new(unspawned()));
            let seen = Seen { live: Some(own), beside, manual, high_water: 8, ..Seen::default() };
            let mut observed = Observed::default();
            observed.units.insert(id(5).unit, Box::new(seen));
            // The one that runs ends; its text, which another one replaces, was not enabled.
            assert!(observed.record(&exited, NOW));
            assert!(observed.units.get_mut(&id(5).unit).unwrap().begin_take_over(&id(8), true));
            let seen = observed.unit(&id(5).unit).unwrap();
            assert_eq!((seen.start_now, seen.manual), (false, false));
            assert!(observed.record(&Fact::NeverStarted { id: id(8) }, NOW));
            let seen = observed.unit(&id(5).unit).unwrap();
            assert_eq!((seen.start_now, seen.manual), (restart, manual));
        }
    }

    #[test]
    fn the_end_of_the_one_that_was_replaced_says_nothing_more() {
        let mut observed = Observed::default();
        let mut seen = two();
        assert!(seen.begin_take_over(&id(8), true));
        observed.units.insert(id(5).unit, Box::new(seen));
        // The newer one completes; the other, which waits to be stopped for those in its network, is killed by something then.
        for (gone, exit) in [(8, Exit::Code(0)), (5, Exit::Signal(9))] {
            assert!(observed.record(&Fact::Exited { id: id(gone), exit, oom: false, at: BootTime(9) }, NOW));
        }
        let file = std::path::Path::new("/u/web.toml");
        let unit = crate::unit::parse(&id(5).unit, file, "executable = \"/bin/true\"").unwrap().unit;
        let want = Want { unit: unit.into(), fingerprint: Fingerprint([1; 16]), trial: None, earlier: None };
        let another = Want { fingerprint: Fingerprint([2; 16]), ..want.clone() };
        for want in [want, another] {
            let last = observed.unit(&id(5).unit).unwrap().last_try(&want).unwrap();
            assert_eq!((last.id.generation, &last.outcome), (8, &Outcome::Exited { exit: Exit::Code(0), oom: false }));
        }
    }

    #[test]
    fn that_a_run_is_left_out_is_not_told_again_when_one_of_two_ends() {
        let mut seen = two();
        let table = Timetable { left_out: true, ..Timetable::new(WallTime(3), "daily".to_owned()) };
        seen.timetable = Some(Box::new(table));
        let mut observed = Observed::default();
        observed.units.insert(id(5).unit, Box::new(seen));
        let exited = Fact::Exited { id: id(8), exit: Exit::Code(0), oom: false, at: BootTime(9) };
        assert!(observed.record(&exited, NOW));
        let table = observed.unit(&id(5).unit).unwrap().timetable.as_deref().unwrap();
        assert!(table.left_out && table.from == WallTime(9));
    }

    #[test]
    fn the_one_that_is_left_is_the_units() {
        for gone in [5, 8] {
            let mut observed = Observed::default();
            observed.units.insert(id(5).unit, Box::new(two()));
            let exited = Fact::Exited { id: id(gone), exit: Exit::Code(1), oom: false, at: BootTime(9) };
            assert!(observed.record(&exited, NOW) && observed.record(&Fact::Cleared { id: id(gone) }, NOW));
            let seen = observed.unit(&id(5).unit).unwrap();
            assert_eq!(seen.lives().map(|live| live.id.generation).collect::<Vec<_>>(), [13 - gone]);
            assert!(seen.beside.is_none() && seen.end_of(&id(gone)).is_some_and(|end| end.beside == (gone == 8)));
        }
    }

    #[test]
    fn one_that_leaves_leaves_though_the_one_that_took_over_is_gone() {
        let file = std::path::Path::new("/u/web.toml");
        let unit = crate::unit::parse(&id(5).unit, file, "executable = \"/bin/true\"").unwrap().unit;
        let want = Want { unit: unit.into(), fingerprint: Fingerprint([1; 16]), trial: None, earlier: None };
        let desired = super::super::Desired { units: [(id(5).unit, want)].into(), ..Default::default() };
        let mut observed = Observed::default();
        let mut seen = two();
        assert!(seen.begin_take_over(&id(8), true));
        observed.units.insert(id(5).unit, Box::new(seen));
        let exited = Fact::Exited { id: id(8), exit: Exit::Code(1), oom: false, at: BootTime(9) };
        assert!(observed.record(&exited, NOW));
        let stops = |observed: &Observed| {
            let plan = super::super::reconcile(&desired, observed, NOW.boot);
            plan.actions.iter().any(|action| matches!(action, Action::Stop { id: stopped, .. } if *stopped == id(5)))
        };
        // A supervisor that dies here reads back that it is not cleared yet: that changes nothing.
        assert!(stops(&observed));
        assert!(observed.record(&Fact::Cleared { id: id(8) }, NOW));
        assert!(stops(&observed));
        let seen = observed.unit(&id(5).unit).unwrap();
        assert!(seen.live_of(&id(5)).is_some_and(|live| live.is_up() && !live.never_took_over) && !seen.is_up());
        assert!(observed.record(&Fact::ClientStart { unit: id(5).unit }, NOW));
        assert!(observed.unit(&id(5).unit).unwrap().start_now, "what stops is not what was asked for");
    }

    #[test]
    fn an_end_before_the_last_one_that_is_told_late_ends_no_row_of_short_runs() {
        let second = |count: u64| BootTime(count * 1_000_000_000);
        for (old_ended, short_runs) in [(19, 1), (20, 0)] {
            let mut seen = two();
            for live in seen.live.iter_mut().chain(seen.beside.as_deref_mut()) {
                live.run.reset_after = Duration::from_secs(10);
            }
            let mut observed = Observed::default();
            observed.units.insert(id(5).unit, Box::new(seen));
            let at = |boot| Now { boot, wall: WallTime(9) };
            assert!(observed.record(&Fact::StartFailed { id: id(8), text: "no".to_owned() }, at(second(20))));
            let exited = Fact::Exited { id: id(5), exit: Exit::Code(0), oom: false, at: second(old_ended) };
            assert!(observed.record(&exited, at(second(21))));
            assert_eq!(observed.unit(&id(5).unit).unwrap().backoff.short_runs, short_runs, "{old_ended}");
        }
    }

    #[test]
    fn a_record_of_an_older_supervisor_has_one_and_it_belongs_to_no_line() {
        let mut seen = two();
        seen.beside = None;
        let mut json = serde_json::to_value(&seen).unwrap();
        assert!(json.as_object_mut().unwrap().remove("beside").is_some());
        assert!(json["live"].as_object_mut().unwrap().remove("handed_over").is_some());
        assert_eq!(serde_json::from_value::<Seen>(json).unwrap(), seen);
    }
}

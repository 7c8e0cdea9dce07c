//! What the fake supervisor does with a plan: begin, write, do; a fuse makes it crash between any two.

use std::collections::BTreeSet;

use moored::plan::{Action, BootTime, Fact, Probed, Probing, Relies, Run, Seen, Want};
use moored::unit::{CheckKind, ContainerId, UnitName};

use super::answers::failure_of;
use super::host::millis;
use super::oracle::Begun;
use super::planted::Bug;
use super::supervisor::{Outside, Stop, Supervisor};

impl Supervisor {
    /// Begin, write, do; it may crash between any two.
    pub(super) fn apply(&mut self, out: &mut Outside, action: &Action) -> Result<(), Stop> {
        self.burn()?;
        let takes = self.takes_raise(action.unit(), out.now);
        let (own_is_up, was_running) = (self.has_own_up(action), self.stops_running(action));
        let fits = self.observed.begin(action, out.both());
        if !fits {
            return Err(Stop::Wrong(format!("planned what does not fit: {action}")));
        }
        self.planner.begun(action);
        self.burn()?;
        self.dirty.remove(action.unit());
        self.write_down(out)?;
        self.persist(out, action.unit());
        match action {
            Action::Forget { unit } => out.oracle.forget(unit),
            Action::Raise { unit, failed } => out.oracle.on_raise(unit, failed, takes)?,
            Action::Kill { id } => out.oracle.on_kill(id, out.now),
            Action::Start { id, unit, fingerprint, join, relies, beside } => {
                let begun = Begun {
                    fingerprint: *fingerprint,
                    enabled: unit.enabled,
                    kind: unit.kind,
                    beside: *beside,
                    joined: join.clone(),
                    other: None,
                    relies: Relies::default(),
                    outdated: BTreeSet::new(),
                    wall: out.wall,
                };
                out.oracle.on_begin(id, begun);
                out.oracle.on_rely(out.host, id, relies)?;
            }
            Action::TakeOver { id, .. } => out.oracle.on_take_over(out.host, id, own_is_up, out.now)?,
            Action::Stop { id, .. } => {
                out.oracle.on_stop_written(out.host, id, was_running);
                out.host.hook_is_due(id, was_running);
            }
            Action::Rely { id, relies } => out.oracle.on_rely(out.host, id, relies)?,
            Action::Signal { .. } | Action::Probe { .. } | Action::Hear { .. } | Action::Hook { .. } => {}
            Action::Schedule { unit, mark } => out.oracle.on_schedule(unit, mark)?,
            Action::Prove { unit, fingerprint } => out.oracle.on_prove(out.host, unit, *fingerprint, out.now)?,
            Action::RollBack { unit, fingerprint, .. } => {
                out.oracle.on_roll_back(out.host, unit, *fingerprint, out.now)?;
            }
            Action::Settle { .. } | Action::Swap { .. } | Action::Close { .. } => {}
            Action::Reload { .. } | Action::Update { .. } | Action::Clear { .. } | Action::Reboot { .. } => {}
        }
        self.burn()?;
        out.say(|| format!("{action}"));
        self.effect(out, action)
    }

    /// Whether a unit is neither up nor held.
    fn takes_raise(&self, unit: &UnitName, now: BootTime) -> bool {
        let held = |seen: &Seen| seen.hold.as_ref().is_some_and(|hold| hold.until.is_none_or(|until| until.boot > now));
        self.observed.unit(unit).is_none_or(|seen| !held(seen) && !seen.is_up())
    }

    fn effect(&mut self, out: &mut Outside, action: &Action) -> Result<(), Stop> {
        if let Some(fact) = failure_of(out, action) {
            if let Action::Reload { id, .. } = action {
                // That it failed is said to people, and not tried again.
                out.host.tell(id);
            }
            self.post(out, fact);
            return Ok(());
        }
        match action {
            Action::Start { id, unit, fingerprint, join, .. } => {
                let want = Want { unit: unit.clone(), fingerprint: *fingerprint, trial: None, earlier: None };
                self.start_container(out, id, want, join.clone())?;
            }
            Action::Stop { id, signal, why } => {
                out.oracle.on_stop(out.host, id, out.now)?;
                out.oracle.on_order(out.host, id, why, out.now)?;
                if signal.is_some() {
                    out.host.on_signal(id, out.now)?;
                }
                let answer = signal.and_then(|_| out.host.stop(id, out.now));
                answer.into_iter().for_each(|fact| self.post(out, fact));
            }
            Action::Kill { id } => {
                out.oracle.on_stop(out.host, id, out.now)?;
                out.host.kill(id, out.now);
            }
            Action::Signal { .. } => {}
            Action::Hook { id, point } => self.run_hook(out, id, *point)?,
            Action::Reload { id, .. } => {
                out.host.tell(id);
                self.burn()?;
                self.post(out, Fact::Reloaded { id: id.clone() });
            }
            Action::Swap { id, contents, .. } => {
                if let Some(container) = out.host.containers.get_mut(id) {
                    container.contents = *contents;
                }
                self.burn()?;
                self.post(out, Fact::Swapped { id: id.clone(), contents: *contents });
            }
            Action::Update { id, limits: Some(limits), .. } => {
                self.post(out, Fact::Limited { id: id.clone(), limits: *limits });
            }
            Action::Update { limits: None, .. } => {}
            Action::Clear { id } => self.clear(out, id)?,
            Action::Close { unit, sockets } => self.close_sockets(out, unit, sockets)?,
            Action::Hear { id } => {
                // In this order, as all that the keeper says.
                let at = out.now.after(millis(out.rng.below(300)));
                let heard = out.host.heard(id).into_iter().chain([Fact::Heard { id: id.clone() }]);
                self.mail.extend(heard.map(|fact| (at, fact)));
            }
            Action::Prove { unit, .. } => {
                out.disk.earlier.remove(unit);
                let wants = [out.disk.good.get_mut(unit), self.desired.units.get_mut(unit)];
                wants.into_iter().flatten().for_each(|want| (want.trial, want.earlier) = (None, None));
                self.planner.changed(unit);
            }
            Action::RollBack { unit, fingerprint, .. } => {
                let Some(mut earlier) = out.disk.earlier.remove(unit) else {
                    return Err(Stop::Wrong(format!("trial: {unit} has nothing to go back to")));
                };
                earlier.trial = None;
                out.oracle.rolled_back(unit, *fingerprint)?;
                if out.bug != Bug::BadTextTakenAgain {
                    out.disk.bad.insert(unit.clone(), *fingerprint);
                }
                out.disk.good.insert(unit.clone(), earlier.clone());
                out.oracle.read_back(unit, &earlier);
                self.desired.units.insert(unit.clone(), earlier);
                self.planner.changed(unit);
            }
            Action::Probe { id, probing } => probing.iter().for_each(|probing| self.probe(out, id, probing)),
            Action::Rely { .. } | Action::Raise { .. } | Action::Settle { .. } | Action::TakeOver { .. } => {}
            Action::Forget { .. } | Action::Reboot { .. } | Action::Schedule { .. } => {}
        }
        Ok(())
    }

    /// More results of what is asked now.
    pub fn probe_all(&mut self, out: &mut Outside) {
        let lives = self.observed.units.values().flat_map(|seen| seen.lives());
        let asked: Vec<_> = lives.filter_map(|live| Some((live.id.clone(), live.probing.clone()?))).collect();
        asked.iter().for_each(|(id, probing)| self.probe(out, id, probing));
    }

    /// A few results of each check; each arrives once, in their order.
    fn probe(&mut self, out: &mut Outside, id: &ContainerId, probing: &Probing) {
        let (failures, successes) = (2, 1);
        for check in probing.kinds() {
            let (mut after, mut failed) = (0, 0);
            for _ in 0..1 + out.rng.below(4) {
                after += out.rng.below(1000);
                let well = out.host.calm || out.rng.chance(60);
                let probed = if well { Probed::Passed } else { Probed::Failed { text: "no".into(), counts: true } };
                failed += u32::from(!well);
                let fact = Fact::Probed { id: id.clone(), check, probed, failures, successes };
                self.mail.push((out.now.after(millis(after)), fact));
                if well {
                    out.oracle.well.insert(id.unit.clone());
                }
            }
            // The row may have begun in an earlier life of the supervisor.
            if failed > 0 && check != CheckKind::Readiness {
                out.oracle.sick.insert(id.clone());
            }
        }
    }

    fn start_container(
        &mut self,
        out: &mut Outside,
        id: &ContainerId,
        want: Want,
        join: Option<ContainerId>,
    ) -> Result<(), Stop> {
        let run = Run::new(&want.unit, want.fingerprint, join, out.now);
        out.host.make_cgroup(out.rng, id, want.clone(), run);
        self.burn()?;
        out.oracle.on_start(out.host, id, &want, out.now)?;
        out.oracle.on_ordered_start(out.host, id, out.mounted)?;
        out.host.spawn(out.rng, id, out.now);
        out.host.open_sockets(id);
        self.tell_sockets(out, &id.unit);
        self.burn()
    }

    /// Journal, acknowledge, remove.
    fn clear(&mut self, out: &mut Outside, id: &ContainerId) -> Result<(), Stop> {
        let record = self.observed.unit(&id.unit).and_then(|seen| seen.end_of(id));
        if record.is_some() || out.host.containers.contains_key(id) {
            out.oracle.on_journal(out.host, id, record)?;
            out.host.on_hooked_clear(id, record, out.now)?;
        }
        self.burn()?;
        if let Some(container) = out.host.containers.get_mut(id) {
            container.kept = false;
        }
        self.burn()?;
        if out.host.is_empty(id, out.now) {
            out.host.containers.remove(id);
            out.host.clear_hooks(id);
        }
        self.burn()?;
        self.post(out, Fact::Cleared { id: id.clone() });
        Ok(())
    }

    /// What is known otherwise than it is written; it may crash between any two.
    pub(super) fn write_down(&mut self, out: &mut Outside) -> Result<(), Stop> {
        while let Some(unit) = self.dirty.pop_first() {
            self.persist(out, &unit);
            self.burn()?;
        }
        Ok(())
    }

    pub(super) fn persist(&mut self, out: &mut Outside, unit: &UnitName) {
        out.oracle.on_written(unit);
        if out.disk.full {
            self.stale.insert(unit.clone());
            return;
        }
        // What could not be written before is now.
        self.stale.remove(unit);
        let others = std::mem::take(&mut self.stale);
        others.iter().for_each(|unit| self.persist(out, unit));
        out.disk.floor = self.observed.floor;
        out.disk.keep_timetable(unit, self.observed.unit(unit));
        match self.observed.unit(unit) {
            Some(seen) => {
                let bytes = postcard::to_allocvec(seen).expect("a value that was made here");
                out.disk.seen.insert(unit.clone(), bytes);
            }
            None => drop(out.disk.seen.remove(unit)),
        }
    }

    /// What could not be written is, as soon as that is possible.
    pub fn write_again(&mut self, out: &mut Outside) {
        for unit in self.stale.clone() {
            self.persist(out, &unit);
        }
    }

    pub(super) fn burn(&mut self) -> Result<(), Stop> {
        match &mut self.fuse {
            None => Ok(()),
            // Not with records that it could not write: see `History::crash`.
            Some(_) if !self.stale.is_empty() => Ok(()),
            Some(0) => Err(Stop::Crashed),
            Some(steps) => {
                *steps -= 1;
                Ok(())
            }
        }
    }
}

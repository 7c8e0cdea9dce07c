//! Hooks of units on the fake host: the keeper runs each once, by its name, whoever asks how often. And what the oracle says of their turns.
//!
//! `pre_start` is a part of the setup, and fails as that does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use moored::plan::{BootTime, ExitRecord, Fact, Want};
use moored::unit::{ContainerId, HookOn, HookPoint, UnitHook, UnitHooks};

use super::host::{Host, Stage, millis};
use super::oracle::{Verdict, must};
use super::planted::Bug;
use super::rng::Rng;
use super::supervisor::{Outside, Stop, Supervisor};

/// What each may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// One that does not even die is waited for so much longer.
const GRACE: Duration = Duration::from_secs(5);

/// Those that the keeper has run, until their container is cleared away.
#[derive(Default)]
pub struct Hooks {
    runs: BTreeMap<(ContainerId, HookPoint), Ran>,
    /// Ran when their stop was written down: `pre_stop` comes before the signal.
    due: BTreeSet<ContainerId>,
    signalled: BTreeSet<ContainerId>,
    /// The keeper died, and nobody knows what was run.
    unknown: BTreeSet<ContainerId>,
}

struct Ran {
    begun: BootTime,
    ends_at: BootTime,
    failure: Option<String>,
    /// In a container that may end under it.
    inside: bool,
    told: bool,
}

impl Ran {
    fn fact(&self, (id, point): &(ContainerId, HookPoint)) -> Fact {
        Fact::HookEnded { id: id.clone(), point: *point, failure: self.failure.clone() }
    }
}

/// Perhaps with some hooks.
pub fn with_hooks(rng: &mut Rng, want: Want) -> Want {
    if !rng.chance(35) {
        return want;
    }
    let mut hook = || {
        let on = if rng.chance(50) { HookOn::Host } else { HookOn::Container };
        rng.chance(60).then(|| UnitHook { exec: vec!["/bin/hook".to_owned()], timeout: TIMEOUT, on })
    };
    let hooks = UnitHooks { pre_start: None, post_start: hook(), pre_stop: hook(), post_stop: hook() };
    let mut unit = want.unit.as_ref().clone();
    unit.hooks = hooks.all().next().is_some().then(|| Arc::new(hooks.clone()));
    Want { unit: Arc::new(unit), ..want }
}

fn has(host: &Host, id: &ContainerId, point: HookPoint) -> bool {
    let hooks = host.containers.get(id).and_then(|found| found.want.unit.hooks.as_deref());
    hooks.is_some_and(|hooks| hooks.get(point).is_some())
}

impl Host {
    /// What the keeper announces: those that have ended since.
    pub fn hooks_over(&mut self, now: BootTime) -> Vec<Fact> {
        for ((id, point), ran) in self.hooks.runs.iter_mut().filter(|(_, ran)| ran.inside && !ran.told) {
            if let Some(Stage::Dead { at, .. }) = self.containers.get(id).map(|found| &found.stage)
                && *at < ran.ends_at
            {
                (ran.ends_at, ran.failure) = (*at, Some("exited with 137".to_owned()));
                // That may be heard of before the end of the program.
                if *point == HookPoint::PostStart {
                    self.sick.push(id.clone());
                }
            }
        }
        let over = self.hooks.runs.iter_mut().filter(|(_, ran)| !ran.told && ran.ends_at <= now);
        let told = over.map(|(key, ran)| {
            ran.told = true;
            ran.fact(key)
        });
        told.collect()
    }

    pub fn next_hook_at(&self) -> Option<BootTime> {
        self.hooks.runs.values().filter(|ran| !ran.told).map(|ran| ran.ends_at).min()
    }

    /// With keeper and supervisor their records are gone.
    pub fn forget_hooks(&mut self) {
        let ids = self.containers.keys().cloned().collect();
        self.hooks = Hooks { unknown: ids, ..Hooks::default() };
    }

    /// One is over, or has had more than its time.
    fn is_past(&self, id: &ContainerId, point: HookPoint, now: BootTime) -> bool {
        let late = |ran: &Ran| ran.begun.after(TIMEOUT + GRACE) <= now;
        self.hooks.runs.get(&(id.clone(), point)).is_some_and(|ran| ran.ends_at <= now || late(ran))
    }

    /// A stop is written down.
    pub fn hook_is_due(&mut self, id: &ContainerId, was_running: bool) {
        if was_running && has(self, id, HookPoint::PreStop) {
            self.hooks.due.insert(id.clone());
        }
    }

    /// `pre_stop`, then the signal.
    pub fn on_signal(&mut self, id: &ContainerId, now: BootTime) -> Verdict {
        let was_due = self.hooks.due.contains(id);
        // One that has ended meanwhile can be told nothing.
        let told = !was_due || !self.is_alive(id) || self.is_past(id, HookPoint::PreStop, now);
        self.hooks.signalled.insert(id.clone());
        must(told, "hooks", || format!("{id} gets its signal before its pre_stop hook was run"))
    }

    /// Nothing is cleared away that is not told of its end, or under a hook that runs.
    pub fn on_hooked_clear(&mut self, id: &ContainerId, record: Option<&ExitRecord>, now: BootTime) -> Verdict {
        let ran = self.containers.get(id).is_some_and(|found| !matches!(found.stage, Stage::Made));
        let is_known = ran && record.is_some() && !self.hooks.unknown.contains(id);
        let post_stop = (id.clone(), HookPoint::PostStop);
        let told = !has(self, id, HookPoint::PostStop) || self.hooks.runs.contains_key(&post_stop);
        must(!is_known || told, "hooks", || format!("{id} is cleared away without its post_stop hook"))?;
        let running = self.hooks.runs.iter().find(|((of, _), ran)| of == id && ran.ends_at > now);
        must(running.is_none(), "hooks", || format!("{id} is cleared away while a hook of it runs"))
    }

    /// The keeper forgets them.
    pub fn clear_hooks(&mut self, id: &ContainerId) {
        self.hooks.runs.retain(|(of, _), _| of != id);
        for set in [&mut self.hooks.due, &mut self.hooks.signalled, &mut self.hooks.unknown] {
            set.remove(id);
        }
    }

    fn may_begin(&self, id: &ContainerId, point: HookPoint, now: BootTime) -> Verdict {
        let stage = self.containers.get(id).map(|found| &found.stage);
        match point {
            HookPoint::PreStart => Err(format!("hooks: {id} has no pre_start of its own")),
            HookPoint::PostStart => {
                let runs = matches!(stage, Some(Stage::Alive { .. } | Stage::Dead { .. }));
                must(runs, "hooks", || format!("post_start of {id} before it runs"))
            }
            HookPoint::PreStop => {
                let signalled = self.hooks.signalled.contains(id);
                must(!signalled, "hooks", || format!("pre_stop of {id} after its signal"))
            }
            HookPoint::PostStop => {
                // Of one that nobody remembers something may be left.
                let is_over = self.is_empty(id, now) || self.hooks.unknown.contains(id);
                must(is_over, "hooks", || format!("post_stop of {id} while something of it is left"))
            }
        }
    }
}

impl Supervisor {
    /// Runs it, unless that was done; it is answered in any case.
    pub(super) fn run_hook(&mut self, out: &mut Outside, id: &ContainerId, point: HookPoint) -> Result<(), Stop> {
        let key = (id.clone(), point);
        let is_there = out.host.containers.get(id).is_some_and(|found| !matches!(found.stage, Stage::Made));
        if !is_there || out.bug == Bug::HookSkipped {
            self.post(out, Fact::HookEnded { id: id.clone(), point, failure: None });
            return Ok(());
        }
        let has_ended = out.host.containers.get(id).is_some_and(|found| matches!(found.stage, Stage::Dead { .. }));
        if has_ended && point != HookPoint::PostStop && !out.host.hooks.runs.contains_key(&key) {
            if point == HookPoint::PostStart {
                out.oracle.sick.insert(id.clone());
            }
            let failure = Some("the container has ended".to_owned());
            self.post(out, Fact::HookEnded { id: id.clone(), point, failure });
            return Ok(());
        }
        if !out.host.hooks.runs.contains_key(&key) {
            out.host.may_begin(id, point, out.now)?;
            let ran = begin(out, id, point);
            if point == HookPoint::PostStart && ran.failure.is_some() {
                out.oracle.sick.insert(id.clone());
            }
            out.host.hooks.runs.insert(key.clone(), ran);
        }
        self.burn()?;
        let over = out.host.hooks.runs.get_mut(&key).filter(|ran| ran.ends_at <= out.now).map(|ran| {
            ran.told = true;
            ran.fact(&key)
        });
        over.into_iter().for_each(|fact| self.post(out, fact));
        Ok(())
    }
}

fn begin(out: &mut Outside, id: &ContainerId, point: HookPoint) -> Ran {
    let hangs = Some("it took longer than 3 s and was killed".to_owned());
    let fails = Some("exited with 1".to_owned());
    let (takes, failure) = match out.rng.below(100) {
        _ if out.host.calm => (0, None),
        0..40 => (0, None),
        40..60 => (out.rng.below(500), None),
        60..75 => (out.rng.below(3000), None),
        75..85 => (out.rng.below(3000), fails),
        85..95 => (3000, hangs),
        // D state.
        _ => (3000 + out.rng.below(20_000), hangs),
    };
    let ends_at = out.now.after(millis(takes));
    let found = out.host.containers.get_mut(id);
    let on = found.as_ref().and_then(|found| Some(found.want.unit.hooks.as_ref()?.get(point)?.on));
    let inside = on == Some(HookOn::Container) && point != HookPoint::PostStop;
    if let (HookPoint::PostStop, Some(HookOn::Container), Some(found)) = (point, on, found) {
        // Its cgroup is used once more, and something may be left in it.
        found.empty_at = if !out.host.calm && out.rng.chance(20) { None } else { Some(ends_at) };
        found.drained_at = ends_at;
    }
    Ran { begun: out.now, ends_at, failure, inside, told: false }
}

//! What `rehearse` says before texts come into force is what `reconcile` does once they are: the same units, in the same way.
//!
//! A history with faults makes a world, which then comes to rest. From there sets of other texts are rehearsed and put in force on a host that
//! behaves: started programs stay, oneshots complete. Each unit is then looked at by its generations alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moored::plan::{Desired, Phase, Rehearsal, Turn, Want, rehearse};
use moored::unit::{Kind, RestartPolicy, UnitName};

use super::History;
use super::planted::Bug;
use super::steps::{Course, Plot};

const HISTORIES: u64 = 600;
const STEPS_BEFORE: usize = 60;
const SETS: usize = 4;
/// A oneshot that completes may let others start, which complete.
const DEPTH_MAX: usize = 20;

impl History {
    /// All of it, or where the rehearsal was wrong.
    fn run_rehearsed(&mut self) -> Result<usize, String> {
        self.tame_texts();
        self.take_steps(STEPS_BEFORE)?;
        self.host.calm_down();
        self.mount(true);
        self.rest()?;
        let mut turns = 0;
        for _ in 0..SETS {
            turns += self.rehearsed_set()?;
        }
        Ok(turns)
    }

    /// Oneshots run once, as a rehearsal shows them; and some texts of a unit ask for no other container. None names files: what they hold
    /// settles, and in a rehearsal no time goes by. Nor has one a schedule.
    fn tame_texts(&mut self) {
        for pool in self.texts.values_mut() {
            for want in pool.iter_mut() {
                let unit = Arc::make_mut(&mut want.unit);
                unit.configs.clear();
                unit.schedule = None;
            }
            for want in pool.iter_mut().filter(|want| want.unit.kind == Kind::Oneshot) {
                Arc::make_mut(&mut want.unit).restart.policy = RestartPolicy::Never;
            }
            pool[1] = pool[0].clone();
            let live = Arc::make_mut(&mut pool[1].unit);
            live.resources.memory_bytes = Some(1 << 20);
            live.stop.timeout = Duration::from_secs(7);
        }
    }

    fn rehearsed_set(&mut self) -> Result<usize, String> {
        let mut files = self.files.clone();
        for unit in self.names.clone() {
            match self.rng.below(4) {
                0 => drop(files.insert(unit.clone(), Some(self.rng.pick(&self.texts[&unit]).clone()))),
                1 if self.rng.chance(30) => drop(files.remove(&unit)),
                _ => {}
            }
        }
        let (before, old) = (self.desired(), self.generations());
        let is_sick = self.host.says_it_is_sick();
        let observed = self.supervisor.as_ref().ok_or("there is no supervisor")?.observed.clone();
        self.files = files;
        // A text that was rolled back is not taken again: what is in force says which are.
        self.read_files();
        let rehearsal = rehearse(&before, &self.desired(), &observed, self.now);
        self.say(&format!("rehearsed: {:?}", rehearsal.turns));
        self.rest_and_complete(&old)?;
        // What waits for a time is not rehearsed: an edit back to a text that failed a moment ago backs off. Nor what comes of the word of
        // one that runs, which is asked for again before it counts.
        if is_sick || rehearsal.ends.values().any(|end| end.phase == Phase::Backoff) {
            return Ok(0);
        }
        self.check(&rehearsal, &old)?;
        Ok(rehearsal.turns.len())
    }

    fn desired(&self) -> Desired {
        self.supervisor.as_ref().map(|supervisor| supervisor.desired().clone()).unwrap_or_default()
    }

    /// Of each unit: the highest generation that was begun, and the one that is alive.
    fn generations(&self) -> BTreeMap<UnitName, (u64, Option<u64>)> {
        let of = |unit: &UnitName| {
            let seen = self.supervisor.as_ref().and_then(|supervisor| supervisor.observed.unit(unit));
            let alive = self.host.of(unit).find(|(id, _)| self.host.is_alive(id)).map(|(id, _)| id.generation);
            (unit.clone(), (seen.map_or(0, |seen| seen.high_water), alive))
        };
        self.names.iter().map(of).collect()
    }

    fn rest_and_complete(&mut self, old: &BTreeMap<UnitName, (u64, Option<u64>)>) -> Result<(), String> {
        let mut completed: Vec<UnitName> = Vec::new();
        for _ in 0..DEPTH_MAX {
            self.rest()?;
            let is_new = |unit: &&UnitName| {
                let of = self.host.of(unit).find(|(id, _)| self.host.is_alive(id));
                let is_new = |id: u64| old.get(*unit).is_none_or(|(_, alive)| *alive != Some(id));
                let oneshot = |want: &Want| want.unit.kind == Kind::Oneshot;
                of.is_some_and(|(id, found)| is_new(id.generation) && oneshot(&found.want))
            };
            let names = self.names.iter().filter(|unit| !completed.contains(unit));
            let done: Vec<UnitName> = names.filter(is_new).cloned().collect();
            if done.is_empty() {
                return Ok(());
            }
            for unit in done {
                self.say(&format!("{unit} completes"));
                self.host.complete(&unit, self.now);
                completed.push(unit);
            }
        }
        Err("oneshots complete without end".into())
    }

    fn check(&self, rehearsal: &Rehearsal, old: &BTreeMap<UnitName, (u64, Option<u64>)>) -> Result<(), String> {
        let new = self.generations();
        for unit in &self.names {
            let turn = rehearsal.turns.iter().find(|(name, _)| name == unit).map(|(_, turn)| turn);
            let ((high, was), (high_now, is)) = (old[unit], new[unit]);
            // A forgotten unit's count goes on from the floor of all, so only what is alive tells.
            let began = high_now > high && new[unit].0 != 0;
            let right = match turn {
                None | Some(Turn::Update | Turn::Reload) => is == was && (!began || was.is_none() && is.is_none()),
                Some(Turn::Start) => was.is_none() && began,
                Some(Turn::Replace(_) | Turn::StartFirst) => was.is_some() && began && is != was,
                Some(Turn::Stop(_)) => was.is_some() && is.is_none(),
            };
            if !right {
                return Err(format!("{unit} was to have {turn:?}, had {:?} and has {:?}", old[unit], new[unit]));
            }
        }
        Ok(())
    }
}

#[test]
fn what_is_rehearsed_is_what_is_done() {
    let only = super::number_from("MOORED_SEED");
    let histories = super::number_from("MOORED_HISTORIES").unwrap_or(HISTORIES);
    let seeds = only.map_or(0..histories, |seed| seed..seed + 1);
    let mut turns = 0;
    for seed in seeds {
        let mut history = History::new(&Plot::new(seed, Course::Liveness, Bug::None), only.is_some());
        match history.run_rehearsed() {
            Ok(more) => turns += more,
            Err(words) => {
                let lines = history.trace.unwrap_or_default();
                panic!("{}\n{words}\nagain with MOORED_SEED={seed}", lines.join("\n"));
            }
        }
    }
    assert!(only.is_some() || turns > histories as usize, "{turns} turns are too few to say anything");
}

//! The fake supervisor: the real `record`, `reconcile` and `begin`, with its memory written out and read back as postcard,
//! and a fuse that makes it crash between any two of its steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use moored::plan::{
    Action, BootTime, Desired, Fact, Now, Observed, Plan, Planner, Presence, Probed, Probing, Run, Seen, State,
    WallTime, Want, reconcile,
};
use moored::unit::{CheckKind, ContainerId, Fingerprint, OnBad, Order, SwapMark, UnitName};

use super::Bug;
use super::answers::{failure_of, look};
use super::host::{Host, millis};
use super::oracle::{Begun, Oracle};
use super::rng::Rng;
use super::sample::DISK;

/// What survives a crash.
#[derive(Default)]
pub struct Disk {
    pub seen: BTreeMap<UnitName, Vec<u8>>,
    pub floor: u64,
    pub good: BTreeMap<UnitName, Want>,
    /// Texts to go back to.
    pub earlier: BTreeMap<UnitName, Want>,
    /// Texts that were rolled back.
    pub bad: BTreeMap<UnitName, Fingerprint>,
}

/// What a step of the supervisor may touch.
pub struct Outside<'a> {
    pub rng: &'a mut Rng,
    pub now: BootTime,
    pub host: &'a mut Host,
    pub disk: &'a mut Disk,
    pub oracle: &'a mut Oracle,
    pub trace: &'a mut Option<Vec<String>>,
    pub bug: Bug,
    pub mounted: bool,
}

/// What dies in a crash.
#[derive(Default)]
pub struct Supervisor {
    desired: Desired,
    pub observed: Observed,
    planner: Planner,
    pub mail: Vec<(BootTime, Fact)>,
    looked: BTreeSet<(ContainerId, bool)>,
    wake_at: Option<BootTime>,
    /// Something happened since the last round.
    awake: bool,
    /// So many steps to the crash.
    pub fuse: Option<u32>,
}

/// Why a round did not end well.
pub enum Stop {
    Crashed,
    Wrong(String),
}

impl From<String> for Stop {
    fn from(words: String) -> Stop {
        Stop::Wrong(words)
    }
}

/// It wakes up so much too late only after the host slept.
const AWAY: Duration = Duration::from_secs(1);

/// More rounds at one moment than this is a busy loop.
const ROUNDS_MAX: usize = 50;

impl Outside<'_> {
    fn both(&self) -> Now {
        // The wall clock jumps to and fro; nothing may depend on it.
        Now { boot: self.now, wall: WallTime(self.now.0.wrapping_mul(31) % 1_000_000) }
    }

    pub fn say(&mut self, words: impl FnOnce() -> String) {
        if let Some(trace) = self.trace {
            trace.push(format!("{:>9} ms  {}", self.now.0 / 1_000_000, words()));
        }
    }
}

impl Supervisor {
    /// Reads back what the one before left, and looks at what there is.
    pub fn start(out: &mut Outside, files: &BTreeMap<UnitName, Option<Want>>) -> Supervisor {
        let mut this = Supervisor { awake: true, ..Supervisor::default() };
        this.observed.floor = out.disk.floor;
        for (unit, bytes) in &out.disk.seen {
            let mut seen: Seen = postcard::from_bytes(bytes).expect("what was written reads back");
            if out.bug == Bug::BackoffForgotten {
                seen.backoff = Default::default();
            }
            if out.bug == Bug::SocketsForgotten {
                seen.sockets.clear();
            }
            if let (Bug::RolesSwapped, Some(live), Some(beside)) = (out.bug, &mut seen.live, &mut seen.beside) {
                std::mem::swap(live, beside);
            }
            if let Some(live) = seen.live.as_mut().filter(|_| out.bug == Bug::ContentsForgotten) {
                // As if they were those of the text that is on disk now.
                let want = out.disk.good.get(unit);
                (live.contents, live.swapping) = (want.and_then(|want| SwapMark::of(&want.unit)), false);
                live.reload = None;
            }
            this.observed.units.insert(unit.clone(), Box::new(seen));
        }
        if out.bug == Bug::LastGoodLost {
            out.disk.good.clear();
        }
        this.found_disk(out);
        this.find_sockets(out);
        this.read_files(out, files);
        this.look_after_crash(out);
        if out.oracle.shutdown {
            this.record(out, &Fact::Shutdown { by: "SIGTERM".into() });
        }
        this
    }

    /// For each live generation: the keeper's word, or that there is none.
    fn look_after_crash(&mut self, out: &mut Outside) {
        let lives = self.observed.units.values().flat_map(|seen| seen.lives());
        let news: Vec<Fact> = lives.filter_map(|live| look(out.host, &live.id, &live.run)).collect();
        news.into_iter().for_each(|fact| self.post(out, fact));
        self.record(out, &Fact::Awake);
        let heard = out.host.containers.iter().filter(|(_, found)| !found.said.is_empty());
        let heard: Vec<Fact> = heard.filter_map(|(id, _)| out.host.heard(id)).collect();
        heard.into_iter().for_each(|fact| self.post(out, fact));
    }

    /// What is on disk now becomes desired; a file that is not valid counts as its last good text.
    pub fn read_files(&mut self, out: &mut Outside, files: &BTreeMap<UnitName, Option<Want>>) {
        let Disk { good, earlier, bad, .. } = &mut *out.disk;
        good.retain(|unit, _| files.contains_key(unit));
        earlier.retain(|unit, _| files.contains_key(unit));
        bad.retain(|unit, _| files.contains_key(unit));
        let is_bad = |unit: &UnitName, text: &Want| bad.get(unit) == Some(&text.fingerprint);
        let taken = |unit: &UnitName, text: &Option<Want>| text.clone().filter(|text| !is_bad(unit, text));
        let taken: BTreeMap<_, _> = files.iter().map(|(unit, text)| (unit.clone(), taken(unit, text))).collect();
        for (unit, text) in &taken {
            let Some(text) = text else { continue };
            bad.remove(unit);
            let proven = self.observed.unit(unit).and_then(|seen| seen.proven);
            let is_start_first = text.unit.update.order == Order::StartFirst;
            let running = self.observed.unit(unit).and_then(|seen| seen.live.as_ref());
            let running = running.filter(|live| is_start_first && matches!(live.state, State::Running { .. }));
            let goes_on = |before: &Want| running.is_some_and(|live| live.run.fingerprint == before.fingerprint);
            let before = good.get(unit).filter(|before| proven == Some(before.fingerprint) || goes_on(before));
            if let Some(before) = before.filter(|before| !earlier.contains_key(unit) || goes_on(before)) {
                earlier.insert(unit.clone(), Want { trial: None, earlier: None, ..before.clone() });
            }
            if earlier.get(unit).is_some_and(|earlier| earlier.fingerprint == text.fingerprint) {
                earlier.remove(unit);
            }
            let on_bad = text.unit.update.on_bad.unwrap_or(OnBad::Rollback);
            let trial = Some(on_bad).filter(|on_bad| earlier.contains_key(unit) && *on_bad != OnBad::Retry);
            let earlier = earlier.get(unit).cloned().map(Arc::new);
            good.insert(unit.clone(), Want { trial, earlier, ..text.clone() });
        }
        let read = |unit: &UnitName, text: &Option<Want>| text.as_ref().and_then(|_| good.get(unit).cloned());
        let taken = taken.iter().map(|(unit, text)| (unit.clone(), read(unit, text))).collect();
        let known = self.desired.units.keys().chain(good.keys());
        let others: BTreeSet<&UnitName> =
            known.filter(|unit| self.desired.units.get(*unit) != good.get(*unit)).collect();
        let others = others.into_iter().filter(|_| out.bug != Bug::EditsUntold);
        others.for_each(|unit| self.planner.changed(unit));
        self.desired.units = good.clone();
        out.oracle.read_files(&taken);
        if out.bug == Bug::DependenciesForgotten {
            self.desired.units.values_mut().for_each(|want| Arc::make_mut(&mut want.unit).depends_on.clear());
            self.planner.look_at_all();
        }
        self.awake = true;
    }

    /// What the watch says of the disk; it says things in their order.
    pub fn found_disk(&mut self, out: &mut Outside) {
        let presence = Presence { exists: true, is_mount_point: out.mounted };
        self.awake |= self.record(out, &Fact::Found { path: DISK.into(), presence });
    }

    /// A fact arrives, some time.
    pub fn post(&mut self, out: &mut Outside, fact: Fact) {
        let delay = if out.rng.chance(80) { 0 } else { out.rng.below(300) };
        if out.rng.chance(10) {
            let again = out.now.after(millis(out.rng.below(3000)));
            self.mail.push((again, fact.clone()));
        }
        self.mail.push((out.now.after(millis(delay)), fact));
    }

    /// A client's wish: on disk before its answer.
    pub fn client(&mut self, out: &mut Outside, unit: &UnitName, fact: Fact) {
        self.record(out, &fact);
        self.persist(out, unit);
        self.awake = true;
    }

    pub fn record(&mut self, out: &mut Outside, fact: &Fact) -> bool {
        let news = self.observed.record(fact, out.both());
        if news {
            self.planner.recorded(fact);
        }
        news
    }

    /// What there is to do: the same as a look at everything finds.
    fn plan(&mut self, out: &mut Outside) -> Result<Plan, Stop> {
        let whole = reconcile(&self.desired, &self.observed, out.now);
        let plan = self.planner.plan(&self.desired, &self.observed, out.now);
        match plan == whole {
            true => Ok(plan),
            false => Err(Stop::Wrong(format!("planner: {} instead of {}", words(&plan), words(&whole)))),
        }
    }

    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    pub fn next_at(&self) -> Option<BootTime> {
        self.mail.iter().map(|(at, _)| *at).chain(self.wake_at).min()
    }

    /// Everything that there is to do at this moment.
    pub fn run(&mut self, out: &mut Outside) -> Result<(), Stop> {
        if self.wake_at.is_some_and(|at| out.now.since(at) > AWAY) {
            self.record(out, &Fact::Awake);
        }
        for _ in 0..ROUNDS_MAX {
            self.look_at_ended(out);
            self.read_mail(out);
            if !self.awake && self.wake_at.is_none_or(|at| at > out.now) {
                return Ok(());
            }
            self.round(out)?;
        }
        Err(Stop::Wrong("13: it does not come to rest".into()))
    }

    /// The threads that wait for cgroups and logs: they look only at what has ended.
    fn look_at_ended(&mut self, out: &mut Outside) {
        let mut news = Vec::new();
        for live in self.observed.units.values().flat_map(|seen| seen.lives()) {
            let State::Ended(ended) = &live.state else { continue };
            let id = live.id.clone();
            let empty = out.host.is_empty(&id, out.now) || out.bug == Bug::StartBesideOld;
            if !ended.empty && empty && self.looked.insert((id.clone(), false)) {
                news.push(Fact::CgroupEmpty { id: id.clone() });
            }
            if !ended.drained && out.host.is_drained(&id, out.now) && self.looked.insert((id.clone(), true)) {
                news.push(Fact::Drained { id });
            }
        }
        news.into_iter().for_each(|fact| self.post(out, fact));
    }

    fn read_mail(&mut self, out: &mut Outside) {
        let (due, later) = std::mem::take(&mut self.mail).into_iter().partition(|(at, _)| *at <= out.now);
        self.mail = later;
        let due: Vec<(BootTime, Fact)> = due;
        for (_, fact) in due {
            let news = self.record(out, &fact);
            out.say(|| format!("fact: {fact}{}", if news { "" } else { " (nothing new)" }));
            self.awake |= news;
        }
    }

    fn round(&mut self, out: &mut Outside) -> Result<(), Stop> {
        self.awake = false;
        let Plan { actions, wake_at } = self.plan(out)?;
        self.wake_at = wake_at;
        if wake_at.is_some_and(|at| at <= out.now) {
            return Err(Stop::Wrong(format!("13: wakes up in the past, {wake_at:?}")));
        }
        for action in &actions {
            self.apply(out, action)?;
        }
        let again = self.plan(out)?;
        let twice = again.actions.iter().find(|action| actions.contains(action));
        match twice {
            Some(action) => Err(Stop::Wrong(format!("asked twice: {action}"))),
            None => {
                self.awake = !again.actions.is_empty();
                self.wake_at = again.wake_at;
                Ok(())
            }
        }
    }

    /// Begin, write, do; it may crash between any two.
    fn apply(&mut self, out: &mut Outside, action: &Action) -> Result<(), Stop> {
        self.burn()?;
        let takes = self.takes_raise(action.unit(), out.now);
        let (own_is_up, was_running) = (self.has_own_up(action), self.stops_running(action));
        let fits = self.observed.begin(action, out.both());
        if !fits {
            return Err(Stop::Wrong(format!("planned what does not fit: {action}")));
        }
        self.planner.begun(action);
        self.burn()?;
        self.persist(out, action.unit());
        match action {
            Action::Forget { unit } => out.oracle.forget(unit),
            Action::Raise { unit, failed } => out.oracle.on_raise(unit, failed, takes)?,
            Action::Kill { id } => out.oracle.on_kill(id, out.now),
            Action::Start { id, unit, fingerprint, join, beside, .. } => {
                let (joined, beside) = (join.clone(), *beside);
                let begun = Begun { fingerprint: *fingerprint, enabled: unit.enabled, kind: unit.kind, joined, beside };
                out.oracle.on_begin(id, begun);
            }
            Action::TakeOver { id, .. } => out.oracle.on_take_over(out.host, id, own_is_up, out.now)?,
            Action::Stop { id, .. } => out.oracle.on_stop_written(out.host, id, was_running),
            Action::Rely { .. } | Action::Signal { .. } | Action::Probe { .. } | Action::Hear { .. } => {}
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
        let up = |seen: &Seen| seen.live.as_ref().is_some_and(|live| live.is_up());
        self.observed.unit(unit).is_none_or(|seen| !held(seen) && !up(seen))
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
                out.oracle.on_stop(out.host, id)?;
                out.oracle.on_order(out.host, id, why, out.now)?;
                let answer = signal.and_then(|_| out.host.stop(id, out.now));
                answer.into_iter().for_each(|fact| self.post(out, fact));
            }
            Action::Kill { id } => {
                out.oracle.on_stop(out.host, id)?;
                out.host.kill(id, out.now);
            }
            Action::Signal { .. } => {}
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
                out.disk.bad.insert(unit.clone(), *fingerprint);
                out.disk.good.insert(unit.clone(), earlier.clone());
                out.oracle.read_back(unit, &earlier);
                self.desired.units.insert(unit.clone(), earlier);
                self.planner.changed(unit);
            }
            Action::Probe { id, probing } => probing.iter().for_each(|probing| self.probe(out, id, probing)),
            Action::Rely { .. } | Action::Raise { .. } | Action::Settle { .. } | Action::TakeOver { .. } => {}
            Action::Forget { .. } | Action::Reboot { .. } => {}
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
        }
        self.burn()?;
        if let Some(container) = out.host.containers.get_mut(id) {
            container.kept = false;
        }
        self.burn()?;
        if out.host.is_empty(id, out.now) {
            out.host.containers.remove(id);
        }
        self.burn()?;
        self.post(out, Fact::Cleared { id: id.clone() });
        Ok(())
    }

    fn persist(&self, out: &mut Outside, unit: &UnitName) {
        out.disk.floor = self.observed.floor;
        match self.observed.unit(unit) {
            Some(seen) => {
                let bytes = postcard::to_allocvec(seen).expect("a value that was made here");
                out.disk.seen.insert(unit.clone(), bytes);
            }
            None => drop(out.disk.seen.remove(unit)),
        }
    }

    fn burn(&mut self) -> Result<(), Stop> {
        match &mut self.fuse {
            None => Ok(()),
            Some(0) => Err(Stop::Crashed),
            Some(steps) => {
                *steps -= 1;
                Ok(())
            }
        }
    }
}

fn words(plan: &Plan) -> String {
    let actions: Vec<String> = plan.actions.iter().map(ToString::to_string).collect();
    format!("{actions:?}, {:?}", plan.wake_at)
}

//! The fake host: the keeper, the kernel's cgroups and the programs in the containers. It is the truth; a supervisor
//! learns of it by facts that come late, and by looking.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moored::plan::{BootTime, Exit, Fact, HostPid, Line, Outcome, Run, Want};
use moored::unit::{ContainerId, Fingerprint, Listen, SwapMark, UnitName};

use super::hooks::Hooks;
use super::rng::Rng;

pub struct Host {
    pub containers: BTreeMap<ContainerId, Container>,
    /// When the keeper that lives now was born.
    pub keeper_since: BootTime,
    /// There is an anchor, which takes the keeper's place.
    pub anchor: bool,
    /// Sockets that it holds.
    pub sockets: BTreeSet<(UnitName, Listen)>,
    pub sockets_rng: Rng,
    pub clock_rng: Rng,
    /// Hooks that were run.
    pub hooks: Hooks,
    /// Nothing goes wrong any more.
    pub calm: bool,
    /// Those whose word, or silence, is a reason to stop them.
    pub sick: Vec<ContainerId>,
    /// Those that said that they are ready.
    pub ready: Vec<ContainerId>,
}

/// One generation, from its cgroup being made to its being removed.
pub struct Container {
    pub want: Want,
    pub run: Run,
    pub stage: Stage,
    /// The keeper has a record of it that is not acknowledged.
    pub kept: bool,
    /// Nobody's child that we know: keeper and anchor died. How it ends nobody can say.
    pub foreign: bool,
    /// When its cgroup becomes empty after its end; `None` while something in it has to be killed first.
    pub empty_at: Option<BootTime>,
    pub drained_at: BootTime,
    /// What the keeper has heard of it, and what it says next.
    pub said: Vec<Line>,
    next_word: Option<(BootTime, &'static str)>,
    /// It has said that it is ready, whoever remembers.
    is_ready: bool,
    /// The contents of its files.
    pub contents: SwapMark,
    /// Those of them that it started with or was told of last.
    pub told: Fingerprint,
    temper: Temper,
}

pub enum Stage {
    /// A cgroup, and nothing spawned in it yet.
    Made,
    Setup {
        until: BootTime,
        fails: bool,
    },
    Alive {
        exit: Option<(BootTime, Exit, bool)>,
    },
    Dead {
        at: BootTime,
        outcome: Outcome,
        /// A keeper died with the record.
        forgotten: bool,
    },
}

/// How the program takes signals.
#[derive(Clone, Copy)]
struct Temper {
    term: Term,
    /// What is left after pid 1 has ended.
    rest: Rest,
    /// A kill takes this long: D state.
    dies_after: Duration,
}

#[derive(Clone, Copy)]
enum Term {
    Exits(u64),
    Ignores,
    Unhandled,
}

#[derive(Clone, Copy)]
enum Rest {
    LeavesAfter(u64),
    StaysUntilKilled,
}

const NEVER: BootTime = BootTime(u64::MAX);

pub fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl Host {
    pub fn new() -> Host {
        Host {
            containers: BTreeMap::new(),
            keeper_since: BootTime(1),
            anchor: true,
            sockets: BTreeSet::new(),
            sockets_rng: Rng::new(0),
            clock_rng: Rng::new(0),
            hooks: Hooks::default(),
            calm: false,
            sick: Vec::new(),
            ready: Vec::new(),
        }
    }

    pub fn make_cgroup(&mut self, rng: &mut Rng, id: &ContainerId, want: Want, run: Run) {
        let temper = if self.calm { Temper::calm() } else { Temper::random(rng) };
        let (stage, drained_at) = (Stage::Made, BootTime(0));
        let (said, next_word, is_ready) = (Vec::new(), None, false);
        let contents = SwapMark::of(&want.unit).unwrap_or_default();
        let told = contents.reload;
        let container = Container {
            contents,
            told,
            want,
            run,
            stage,
            kept: false,
            foreign: false,
            empty_at: None,
            drained_at,
            said,
            next_word,
            is_ready,
            temper,
        };
        self.containers.insert(id.clone(), container);
    }

    pub fn spawn(&mut self, rng: &mut Rng, id: &ContainerId, now: BootTime) {
        let joinable = self.containers[id].run.joined.as_ref().is_none_or(|owner| self.is_alive(owner));
        let calm = self.calm;
        let Some(container) = self.containers.get_mut(id) else { return };
        let takes = if !calm && rng.chance(5) { 1000 + rng.below(8000) } else { rng.below(20) };
        let fails = !joinable || (!calm && rng.chance(12));
        container.kept = true;
        container.stage = Stage::Setup { until: now.after(millis(takes)), fails };
    }

    /// When something happens next by itself, or could be seen by looking.
    pub fn next_at(&self, now: BootTime) -> Option<BootTime> {
        let looks = |container: &Container| match container.stage {
            Stage::Dead { .. } => {
                [container.empty_at, Some(container.drained_at)].into_iter().flatten().filter(|at| *at > now).min()
            }
            Stage::Made | Stage::Setup { .. } | Stage::Alive { .. } => container.next_at(),
        };
        self.containers.values().filter_map(looks).chain(self.next_hook_at()).min()
    }

    /// Lets happen what is due, and says what the keeper would announce.
    pub fn advance(&mut self, rng: &mut Rng, now: BootTime) -> Vec<Fact> {
        let calm = self.calm;
        let due = self.containers.iter_mut().filter(|(_, container)| container.next_at().is_some_and(|at| at <= now));
        let mut news: Vec<Fact> = due.filter_map(|(id, container)| container.advance(rng, id, now, calm)).collect();
        news.extend(self.hooks_over(now));
        for (id, container) in &self.containers {
            let says = |text: &str| container.says(text);
            let is_mute = container.tells() && !container.is_ready && container.next_word.is_none();
            if says("STOPPING=1") || says("WATCHDOG=trigger") || is_mute {
                self.sick.push(id.clone());
            }
            if says("READY=1") {
                self.ready.push(id.clone());
            }
        }
        news
    }

    /// What the keeper says of `id` when asked.
    pub fn look(&self, id: &ContainerId) -> Option<Fact> {
        self.containers
            .get(id)
            .filter(|container| container.kept || container.foreign)
            .and_then(|container| container.announce(id))
    }

    /// The keeper dies; the anchor takes its place, or the next `moored up` begins anew. What ended is forgotten, what is being set up dies, what runs
    /// runs on. Who holds the sockets too is asked elsewhere.
    /// A supervisor that lives on knows what was being set up, and that it was never started: these.
    pub fn lose_keeper(&mut self, now: BootTime, survived: bool) -> Vec<ContainerId> {
        let mut unstarted = Vec::new();
        self.keeper_since = now;
        let anchor = std::mem::replace(&mut self.anchor, true);
        if !survived {
            self.forget_hooks();
        }
        for (id, container) in &mut self.containers {
            if let Stage::Setup { .. } = container.stage
                && survived
            {
                unstarted.push(id.clone());
                (container.stage, container.kept) = (Stage::Made, false);
            }
            if let Stage::Setup { .. } = container.stage {
                container.end(Outcome::Exited { exit: Exit::Signal(9), oom: false }, now);
            }
            if let Stage::Dead { forgotten, .. } = &mut container.stage {
                *forgotten |= container.kept;
                container.kept = false;
            }
            if let Stage::Alive { .. } = container.stage
                && !anchor
            {
                (container.kept, container.foreign) = (false, true);
            }
            container.said.clear();
            container.said.extend(container.tells().then(|| Line::unheard(now)));
        }
        unstarted
    }

    /// Nothing is left of what was not on a disk.
    pub fn lose_power(&mut self, now: BootTime) {
        self.containers.clear();
        self.hooks = Hooks::default();
        self.sockets.clear();
        (self.keeper_since, self.anchor) = (now, true);
    }

    /// The stop signal; says what the supervisor learns at once.
    pub fn stop(&mut self, id: &ContainerId, now: BootTime) -> Option<Fact> {
        let container = self.containers.get_mut(id)?;
        let Stage::Alive { exit } = &mut container.stage else { return None };
        match container.temper.term {
            Term::Unhandled => return Some(Fact::StopUnhandled { id: id.clone() }),
            Term::Ignores => {}
            Term::Exits(after_ms) => {
                let at = now.after(millis(after_ms));
                let code = if after_ms % 2 == 0 { Exit::Code(0) } else { Exit::Signal(15) };
                if exit.as_ref().is_none_or(|(earlier, ..)| *earlier > at) {
                    *exit = Some((at, code, false));
                }
            }
        }
        Some(Fact::StopSent { id: id.clone() })
    }

    pub fn kill(&mut self, id: &ContainerId, now: BootTime) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let dead_at = now.after(container.temper.dies_after);
        match &mut container.stage {
            Stage::Made => {}
            Stage::Setup { until, fails } => (*until, *fails) = ((*until).min(dead_at), true),
            Stage::Alive { exit } => {
                if exit.as_ref().is_none_or(|(earlier, ..)| *earlier > dead_at) {
                    *exit = Some((dead_at, Exit::Signal(9), false));
                }
                container.temper.rest = Rest::LeavesAfter(0);
            }
            Stage::Dead { .. } => {
                let earlier = container.empty_at.unwrap_or(NEVER);
                container.empty_at = Some(earlier.min(dead_at));
            }
        }
    }

    /// It reloads.
    pub fn tell(&mut self, id: &ContainerId) {
        if let Some(container) = self.containers.get_mut(id) {
            container.told = container.contents.reload;
        }
    }

    pub fn is_alive(&self, id: &ContainerId) -> bool {
        self.containers.get(id).is_some_and(|container| matches!(container.stage, Stage::Alive { .. }))
    }

    /// Somebody alive has said what is a reason to stop it.
    pub fn says_it_is_sick(&self) -> bool {
        let is_sick = |container: &Container| container.says("STOPPING=1") || container.says("WATCHDOG=trigger");
        self.containers.iter().any(|(id, container)| self.is_alive(id) && is_sick(container))
    }

    pub fn is_empty(&self, id: &ContainerId, now: BootTime) -> bool {
        self.containers.get(id).is_none_or(|container| match container.stage {
            Stage::Made => true,
            Stage::Setup { .. } | Stage::Alive { .. } => false,
            Stage::Dead { .. } => container.empty_at.is_some_and(|at| at <= now),
        })
    }

    pub fn is_drained(&self, id: &ContainerId, now: BootTime) -> bool {
        self.containers.get(id).is_none_or(|container| container.drained_at <= now)
    }

    pub fn of<'a>(&'a self, unit: &'a UnitName) -> impl Iterator<Item = (&'a ContainerId, &'a Container)> {
        self.containers.iter().filter(move |(id, _)| id.unit == *unit)
    }

    /// From here on everything behaves.
    pub fn calm_down(&mut self) {
        self.calm = true;
        for container in self.containers.values_mut() {
            container.temper = Temper::calm();
            if let Stage::Alive { exit } = &mut container.stage {
                *exit = container.want.unit.schedule.as_ref().map(|_| (BootTime(0), Exit::Code(0), false));
                let is_awaited = container.tells() && !container.is_ready;
                container.next_word = is_awaited.then_some((BootTime(0), "READY=1"));
            }
        }
    }

    /// What the keeper has heard, oldest first.
    pub fn heard(&self, id: &ContainerId) -> Option<Fact> {
        let lines = self.containers.get(id)?.said.clone();
        Some(Fact::Notified { id: id.clone(), lines })
    }

    /// The program of `unit` ends well, now.
    pub fn complete(&mut self, unit: &UnitName, now: BootTime) {
        for (_, container) in self.containers.iter_mut().filter(|(id, _)| id.unit == *unit) {
            if let Stage::Alive { exit } = &mut container.stage {
                *exit = Some((now, Exit::Code(0), false));
            }
        }
    }

    /// The program of `unit` ends now, in some way.
    pub fn crash(&mut self, rng: &mut Rng, unit: &UnitName, now: BootTime) {
        let of_unit: Vec<ContainerId> = self.of(unit).map(|(id, _)| id.clone()).collect();
        // Of two in a start-first update one, or the other, or both.
        let spared = if of_unit.len() > 1 && rng.chance(70) { Some(rng.pick(&of_unit).clone()) } else { None };
        let alive = self.containers.iter_mut().filter(|(id, _)| id.unit == *unit && Some(*id) != spared.as_ref());
        for (_, container) in alive {
            if let Stage::Alive { exit } = &mut container.stage {
                *exit = Some((now, random_exit(rng), rng.chance(5)));
            }
        }
    }
}

impl Container {
    fn next_at(&self) -> Option<BootTime> {
        match &self.stage {
            Stage::Made => None,
            Stage::Setup { until, .. } => Some(*until),
            Stage::Alive { exit } => exit.as_ref().map(|(at, ..)| *at).into_iter().chain(self.next_word_at()).min(),
            Stage::Dead { .. } => None,
        }
    }

    fn says(&self, text: &str) -> bool {
        self.said.iter().any(|line| line.text == text)
    }

    fn tells(&self) -> bool {
        self.want.unit.notify().is_some()
    }

    fn next_word_at(&self) -> Option<BootTime> {
        self.next_word.map(|(at, _)| at)
    }

    /// It says what it was to say next, and thinks of something else.
    fn speak(&mut self, rng: &mut Rng, id: &ContainerId, now: BootTime, calm: bool) -> Option<Fact> {
        let (_, word) = self.next_word.take()?;
        self.is_ready |= word == "READY=1";
        self.said.retain(|line| line.text != word);
        self.said.push(Line { text: word.to_owned(), at: now });
        if !calm && rng.chance(70) {
            let words = ["READY=1", "RELOADING=1", "READY=1", "STATUS=well", "STOPPING=1", "WATCHDOG=trigger"];
            self.next_word = Some((now.after(millis(1 + rng.below(20_000))), *rng.pick(&words)));
        }
        Some(Fact::Notified { id: id.clone(), lines: self.said.clone() })
    }

    fn advance(&mut self, rng: &mut Rng, id: &ContainerId, now: BootTime, calm: bool) -> Option<Fact> {
        match &self.stage {
            Stage::Made | Stage::Dead { .. } => return None,
            Stage::Setup { fails: true, .. } => self.end(Outcome::StartFailed { text: "mount: EINVAL".into() }, now),
            Stage::Setup { fails: false, .. } => {
                let exits = !calm && rng.chance(60);
                let exit = exits.then(|| (now.after(millis(rng.below(4000))), random_exit(rng), rng.chance(5)));
                let exit = if calm && self.is_scheduled() { self.ends_its_turn(rng, now) } else { exit };
                self.stage = Stage::Alive { exit };
                if self.tells() && (calm || rng.chance(85)) {
                    let after = if calm { 0 } else { rng.below(3000) };
                    self.next_word = Some((now.after(millis(after)), "READY=1"));
                }
            }
            Stage::Alive { exit } if exit.is_none_or(|(at, ..)| at > now) => return self.speak(rng, id, now, calm),
            Stage::Alive { exit } => {
                let (_, exit, oom) = (*exit)?;
                self.end(Outcome::Exited { exit, oom }, now);
            }
        }
        self.announce(id)
    }

    fn is_scheduled(&self) -> bool {
        self.want.unit.schedule.is_some()
    }

    /// When nothing goes wrong a run ends, or it takes longer than it may.
    fn ends_its_turn(&self, rng: &mut Rng, now: BootTime) -> Option<(BootTime, Exit, bool)> {
        let after = millis(rng.below(3000));
        let may_last = self.want.unit.schedule.as_ref().is_some_and(|schedule| schedule.max_runtime.is_some());
        (!may_last || rng.chance(70)).then(|| (now.after(after), Exit::Code(0), false))
    }

    fn end(&mut self, outcome: Outcome, at: BootTime) {
        self.stage = Stage::Dead { at, outcome, forgotten: self.foreign };
        self.empty_at = match self.temper.rest {
            Rest::LeavesAfter(after_ms) => Some(at.after(millis(after_ms))),
            Rest::StaysUntilKilled => None,
        };
        self.drained_at = at.after(millis(5));
    }

    /// What the keeper tells: how far it is.
    fn announce(&self, id: &ContainerId) -> Option<Fact> {
        let id = id.clone();
        match &self.stage {
            Stage::Made | Stage::Setup { .. } => None,
            Stage::Alive { .. } => Some(Fact::Started { id, pid: HostPid(1000) }),
            Stage::Dead { .. } if self.foreign => Some(Fact::Lost { id }),
            // Only the supervisor calls an end that.
            Stage::Dead { outcome: Outcome::Unhealthy { .. }, .. } => None,
            Stage::Dead { outcome: Outcome::StartFailed { text }, .. } => {
                Some(Fact::StartFailed { id, text: text.clone() })
            }
            Stage::Dead { at, outcome: Outcome::Exited { exit, oom }, .. } => {
                Some(Fact::Exited { id, exit: *exit, oom: *oom, at: *at })
            }
        }
    }
}

impl Temper {
    fn calm() -> Temper {
        Temper { term: Term::Exits(0), rest: Rest::LeavesAfter(0), dies_after: Duration::ZERO }
    }

    fn random(rng: &mut Rng) -> Temper {
        let (soon, late) = (rng.below(300), rng.below(5000));
        let term = *rng.pick(&[Term::Exits(0), Term::Exits(soon), Term::Exits(late), Term::Ignores, Term::Unhandled]);
        let rest = *rng.pick(&[Rest::LeavesAfter(0), Rest::LeavesAfter(late), Rest::StaysUntilKilled]);
        let dies_after = if rng.chance(5) { millis(20_000) } else { millis(rng.below(10)) };
        Temper { term, rest, dies_after }
    }
}

fn random_exit(rng: &mut Rng) -> Exit {
    *rng.pick(&[Exit::Code(0), Exit::Code(1), Exit::Signal(9), Exit::Signal(11)])
}

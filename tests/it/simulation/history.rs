//! The world of one history: the host, the disk, the clocks, and the supervisor, if there is one. Steps happen to it (`steps`); between them goes by
//! whatever is due.

use std::collections::BTreeMap;
use std::time::Duration;

use moored::plan::{BootTime, Fact, Hold, Seen, Until, WallTime, Want};
use moored::unit::{Signal, UnitName};

use super::host::{Host, millis};
use super::oracle::{Oracle, must};
use super::planted::Bug;
use super::rng::Rng;
use super::schedules::WALL_BEGAN_MS;
use super::steps::{Course, Plot, Step, What, Wish};
use super::supervisor::{Disk, Outside, Stop, Supervisor};
use super::{LIVE_WITHIN, STARTS_TO_REST, STEPS_OF_RUN, STEPS_TO_REST};

pub struct History {
    pub(super) course: Course,
    pub(super) rng: Rng,
    pub(super) now: BootTime,
    /// How far the wall clock was set away from where it began.
    set_by_ms: i64,
    /// Somebody who knows has set it, or it ran on while the host was off.
    is_set: bool,
    pub(super) names: Vec<UnitName>,
    pub(super) texts: BTreeMap<UnitName, Vec<Want>>,
    steps: Vec<Step>,
    /// `None` is a text that is not valid.
    pub(super) files: BTreeMap<UnitName, Option<Want>>,
    pub(super) host: Host,
    disk: Disk,
    pub(super) oracle: Oracle,
    pub(super) supervisor: Option<Supervisor>,
    pub(super) trace: Option<Vec<String>>,
    bug: Bug,
    /// The disk that some units wait for.
    mounted: bool,
    /// The watch misses the next change of a file.
    misses: bool,
}

/// Splits the borrow: the supervisor, and all that it may touch.
macro_rules! outside {
    ($history:expr) => {
        Outside {
            rng: &mut $history.rng,
            now: $history.now,
            wall: wall($history.now, $history.set_by_ms),
            host: &mut $history.host,
            disk: &mut $history.disk,
            oracle: &mut $history.oracle,
            trace: &mut $history.trace,
            bug: $history.bug,
            mounted: $history.mounted,
            is_set: $history.is_set,
        }
    };
}

/// What the wall clock shows; it shows nothing before 1970.
fn wall(now: BootTime, set_by_ms: i64) -> WallTime {
    let since_began = i64::try_from(now.0 / 1_000_000).expect("a history is short");
    WallTime(u64::try_from(WALL_BEGAN_MS + since_began + set_by_ms).unwrap_or(0))
}

impl History {
    pub fn new(plot: &Plot, traced: bool) -> History {
        History {
            course: plot.course,
            rng: Rng::new(plot.seed),
            now: BootTime(1_000_000_000),
            set_by_ms: 0,
            is_set: true,
            names: plot.texts.keys().cloned().collect(),
            texts: plot.texts.clone(),
            steps: plot.steps.clone(),
            files: BTreeMap::new(),
            host: Host::new(),
            disk: Disk::default(),
            oracle: Oracle::default(),
            supervisor: None,
            trace: traced.then(Vec::new),
            bug: plot.bug,
            mounted: false,
            misses: false,
        }
    }

    /// All of it, or what went wrong.
    pub fn run(&mut self) -> Result<(), String> {
        self.take_steps(usize::MAX)?;
        self.end_faults();
        if self.course == Course::Liveness {
            self.come_to_life()?;
        }
        self.say("shutdown");
        self.oracle.shutdown = true;
        self.crash();
        self.rest()?;
        self.check_closed()?;
        match self.host.containers.keys().next() {
            Some(left) => Err(format!("14: {left} outlives the shutdown")),
            None => self.oracle.on_end_of_time(),
        }
    }

    /// The first so many steps.
    pub(super) fn take_steps(&mut self, most: usize) -> Result<(), String> {
        for (number, step) in std::mem::take(&mut self.steps).into_iter().enumerate().take(most) {
            outside!(self).say(|| format!("step {}: {}", number + 1, step.what));
            self.rng = Rng::new(step.seed);
            self.host.sockets_rng = Rng::new(step.seed ^ 0x50c7);
            self.host.clock_rng = Rng::new(step.seed ^ 0xc10c);
            self.take(step)?;
        }
        Ok(())
    }

    /// From here on everything behaves.
    pub(super) fn end_faults(&mut self) {
        self.say("the faults end");
        self.host.calm_down();
        self.set_full(false);
        if let Some(supervisor) = &mut self.supervisor {
            // What checks were about to find is over with the faults: they find something else from here on.
            supervisor.mail.retain(|(_, fact)| !matches!(fact, Fact::Probed { .. }));
            supervisor.probe_all(&mut outside!(self));
        }
        self.mount(true);
        self.set_clock(0, true);
    }

    /// What should run does within bounded time, and stays: over a crash, an upgrade, a day, and clocks that jump.
    fn come_to_life(&mut self) -> Result<(), String> {
        let (since, starts, runs) = (self.now, self.oracle.starts, self.oracle.turns.runs);
        self.rest()?;
        self.check_converged()?;
        self.check_runtimes()?;
        self.check_sockets()?;
        let took = self.oracle.touched.since(since);
        // While schedules have times to come, runs of theirs start, and are made good for.
        let within = if self.oracle.turns.runs > runs { LIVE_WITHIN * 2 } else { LIVE_WITHIN };
        if took > within {
            return Err(format!("13: it took {took:?} until what should run did"));
        }
        let (starts, runs) = (self.oracle.starts - starts, self.oracle.turns.runs - runs);
        // Each run of a schedule may let all others start that depend on it, and once more when it has ended.
        if starts > (STARTS_TO_REST + 2 * runs) * self.names.len() as u64 {
            return Err(format!("13: {starts} starts until what should run did"));
        }
        let before = self.running();
        // A run that is due, and that others wait for, is not due any more by another clock.
        let waits_for_time = self.supervisor.as_ref().is_some_and(Supervisor::has_schedules);
        let jump = (!waits_for_time).then_some(What::ClockJumps(-WALL_BEGAN_MS));
        let steps = [What::Crash, What::Upgrade].into_iter().chain(jump).chain([What::Sleep(millis(86_400_000))]);
        for what in steps {
            self.say(&format!("after all: {what}"));
            self.take(Step { seed: 1, what, starts: true })?;
            self.rest()?;
            if self.running() != before {
                return Err(format!("12: that changed what runs: {before:?} to {:?}", self.running()));
            }
            self.check_contents()?;
            self.check_sockets()?;
        }
        Ok(())
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        match step.what {
            What::Wait(wait) => return self.advance(self.now.after(wait)),
            What::Edit(unit, text) => {
                let text = self.texts[&unit][text].clone();
                self.change_file(unit, Some(Some(text)));
            }
            What::Spoil(unit) => self.change_file(unit, Some(None)),
            What::Remove(unit) => self.change_file(unit, None),
            What::Miss => self.misses = true,
            What::Ends(unit) => self.host.crash(&mut self.rng, &unit, self.now),
            What::Client(unit, wish) => self.client(unit, wish),
            What::Fuse(steps) => {
                if let Some(supervisor) = &mut self.supervisor {
                    supervisor.fuse = Some(steps);
                }
            }
            What::Crash => self.crash(),
            What::Upgrade => self.upgrade()?,
            What::KeeperDies { supervisor } => self.lose_keeper(supervisor),
            What::AnchorDies => self.host.anchor = false,
            What::PowerCut => self.lose_power(),
            What::Sleep(time) => {
                self.now = self.now.after(time);
                if let Some(supervisor) = &mut self.supervisor {
                    supervisor.slept = supervisor.slept.saturating_add(time);
                }
            }
            What::ClockJumps(ms) => self.set_clock(self.set_by_ms + ms, self.is_set),
            What::ClockSet => self.set_clock(0, true),
            What::Mount(mounted) => self.mount(mounted),
            What::Full(full) => self.set_full(full),
        }
        if step.starts {
            self.start_supervisor();
        }
        self.advance(self.now)
    }

    fn set_clock(&mut self, set_by_ms: i64, is_set: bool) {
        self.let_go_by_a_moment();
        (self.set_by_ms, self.is_set) = (set_by_ms, is_set);
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.tell_clock(&mut outside!(self));
        }
    }

    pub(super) fn mount(&mut self, mounted: bool) {
        self.mounted = mounted;
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.found_disk(&mut outside!(self));
        }
    }

    fn set_full(&mut self, full: bool) {
        self.disk.full = full;
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.write_again(&mut outside!(self));
        }
    }

    fn change_file(&mut self, unit: UnitName, text: Option<Option<Want>>) {
        self.oracle.edited(&unit);
        match text {
            Some(text) => drop(self.files.insert(unit, text)),
            None => {
                self.oracle.truth(&unit).dealt.was_gone = true;
                self.files.remove(&unit);
            }
        }
        if !std::mem::take(&mut self.misses) {
            self.read_files();
        }
    }

    pub(super) fn read_files(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.read_files(&mut outside!(self), &self.files);
        }
    }

    fn client(&mut self, unit: UnitName, wish: Wish) {
        let Some(supervisor) = &mut self.supervisor else { return };
        if !self.disk.good.contains_key(&unit) {
            return;
        }
        let up = supervisor.observed.unit(&unit).is_some_and(Seen::is_up);
        let fact = match wish {
            Wish::Start => {
                self.oracle.client_start(&unit, up);
                Fact::ClientStart { unit: unit.clone() }
            }
            Wish::Restart => {
                self.oracle.client_restart(&unit);
                Fact::ClientRestart { unit: unit.clone() }
            }
            Wish::Reload => Fact::ClientReload { unit: unit.clone() },
            Wish::Kill => Fact::ClientKill { unit: unit.clone(), signal: Signal(10) },
            Wish::Stop(time) => {
                let now = wall(self.now, self.set_by_ms);
                let until = time.map(|time| Until {
                    boot: self.now.after(time),
                    wall: WallTime(now.0 + u64::try_from(time.as_millis()).expect("a short time")),
                });
                self.oracle.client_stop(&unit, until.map_or(BootTime(u64::MAX), |until| until.boot));
                Fact::ClientStop {
                    unit: unit.clone(),
                    hold: Hold { by: "root".into(), reason: None, since: now, until },
                }
            }
        };
        supervisor.client(&mut outside!(self), &unit, fact);
    }

    /// It dies when its records can be written: what no record knows is only reported to people (SAFETY 12), and not judged here.
    fn crash(&mut self) {
        self.set_full(false);
        if self.supervisor.take().is_some() {
            self.oracle.unwritten_lost();
            self.say("the supervisor is dead");
        }
    }

    /// What it wrote reads back as it was also in the form that is on disk, which another version may have written.
    fn upgrade(&mut self) -> Result<(), String> {
        let Some(supervisor) = &self.supervisor else { return Ok(()) };
        for (unit, seen) in &supervisor.observed.units {
            let (json, brief) = (super::supervisor::through_json(seen), super::supervisor::through_postcard(seen));
            if json != brief {
                return Err(format!("upgrade: {unit} reads back as {json:?} and not as {brief:?}"));
            }
        }
        self.crash();
        self.start_supervisor();
        Ok(())
    }

    /// Without an anchor nobody takes the keeper's place, and the supervisor ends.
    fn lose_keeper(&mut self, supervisor_too: bool) {
        let alone = self.host.anchor && !supervisor_too;
        self.let_go_by_a_moment();
        let unstarted = self.host.lose_keeper(self.now, alone && self.supervisor.is_some());
        unstarted.iter().for_each(|id| self.oracle.unstarted(id));
        match &mut self.supervisor {
            // It holds the sockets too.
            Some(supervisor) if alone => supervisor.meet_keeper(&mut outside!(self)),
            Some(_) | None => {
                self.host.sockets.clear();
                self.crash();
            }
        }
    }

    fn lose_power(&mut self) {
        self.crash();
        self.host.lose_power(self.now);
        self.disk.lose_power();
        self.oracle.lose_power(self.now, &self.disk);
        // Some hosts have no clock that runs on meanwhile.
        if self.host.clock_rng.chance(30) {
            let lost = i64::try_from(self.host.clock_rng.below(100_000)).expect("a minute or two");
            let shows = *self.host.clock_rng.pick(&[-WALL_BEGAN_MS, self.set_by_ms - lost]);
            self.set_clock(shows, false);
        }
    }

    /// What one process did is not of the same nanosecond as the birth of the next one, nor one look at the clock as the next: they tell by that what
    /// was before.
    fn let_go_by_a_moment(&mut self) {
        self.now = self.now.after(Duration::from_nanos(1));
    }

    fn start_supervisor(&mut self) {
        if self.supervisor.is_none() {
            self.let_go_by_a_moment();
            self.say("a supervisor starts");
            self.supervisor = Some(Supervisor::start(&mut outside!(self), &self.files));
        }
    }

    /// Lets the time pass up to `until`, with all that happens on the way.
    fn advance(&mut self, until: BootTime) -> Result<(), String> {
        loop {
            self.settle()?;
            match self.next_at() {
                Some(at) if at <= until => self.now = at.max(self.now),
                Some(_) | None => break,
            }
        }
        self.now = until;
        self.settle()
    }

    /// Everything that is due at this moment.
    fn settle(&mut self) -> Result<(), String> {
        let news = self.host.advance(&mut self.rng, self.now);
        self.oracle.turns.clock = (wall(self.now, self.set_by_ms), self.is_set);
        self.oracle.ended(&self.host);
        self.oracle.judge_runs(&self.host, self.now);
        self.oracle.sick.extend(self.host.sick.drain(..));
        self.oracle.judge_tries(&self.host, self.now);
        self.oracle.well.extend(self.host.ready.drain(..).map(|id| id.unit));
        let Some(supervisor) = &mut self.supervisor else { return Ok(()) };
        let mut out = outside!(self);
        news.into_iter().for_each(|fact| supervisor.hear(&mut out, fact));
        match supervisor.run(&mut out) {
            Ok(()) => self.check_schedules(),
            Err(Stop::Wrong(words)) => Err(words),
            Err(Stop::Crashed) => {
                self.crash();
                Ok(())
            }
        }
    }

    fn next_at(&self) -> Option<BootTime> {
        let supervisor = self.supervisor.as_ref().and_then(Supervisor::next_at);
        self.host.next_at(self.now).into_iter().chain(supervisor).min()
    }

    /// Lets the time pass until nothing is to come.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        self.start_supervisor();
        self.read_files();
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.fuse = None;
        }
        let (mut steps, runs) = (0, self.oracle.turns.runs);
        loop {
            self.settle()?;
            match self.next_at() {
                Some(at) => self.now = at.max(self.now),
                None => return Ok(()),
            }
            // Each run of a schedule has its time (the oracle sees to that), and the calendars of the sample end.
            steps += 1;
            let most = STEPS_TO_REST + STEPS_OF_RUN * (self.oracle.turns.runs - runs);
            must(steps < most, "13", || "the world does not come to rest".into())?;
        }
    }

    pub(super) fn say(&mut self, words: &str) {
        outside!(self).say(|| words.to_owned());
    }
}

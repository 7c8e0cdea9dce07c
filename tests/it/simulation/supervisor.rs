//! The fake supervisor: the real `record`, `reconcile` and `begin`, with its memory written out and read back as postcard. What it does with a plan is
//! in `effects`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use moored::plan::{
    BootTime, Desired, Fact, Hold, Now, Observed, Plan, Planner, Presence, Seen, State, Timetable, WallTime, Want,
    reconcile,
};
use moored::unit::{ContainerId, Fingerprint, OnBad, Order, SwapMark, UnitName};

use super::answers::look;
use super::host::{Host, millis};
use super::oracle::Oracle;
use super::planted::Bug;
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
    /// Stop marks, for the next boot.
    pub marks: BTreeMap<UnitName, Hold>,
    /// How far schedules are.
    pub timetables: BTreeMap<UnitName, Timetable>,
    /// No record can be written.
    pub full: bool,
}

/// Numbers of containers are reserved in blocks, so that none of an earlier boot comes again.
const BLOCK: u64 = 1000;

impl Disk {
    /// The records of a boot are not those of the next one.
    pub fn lose_power(&mut self) {
        self.seen.clear();
        self.floor = (self.floor / BLOCK + 1) * BLOCK;
    }
}

/// What a step of the supervisor may touch.
pub struct Outside<'a> {
    pub rng: &'a mut Rng,
    pub now: BootTime,
    pub wall: WallTime,
    pub host: &'a mut Host,
    pub disk: &'a mut Disk,
    pub oracle: &'a mut Oracle,
    pub trace: &'a mut Option<Vec<String>>,
    pub bug: Bug,
    pub mounted: bool,
    /// The wall clock is one to go by.
    pub is_set: bool,
}

/// What dies in a crash.
#[derive(Default)]
pub struct Supervisor {
    pub(super) desired: Desired,
    pub observed: Observed,
    pub(super) planner: Planner,
    pub mail: Vec<(BootTime, Fact)>,
    looked: BTreeSet<(ContainerId, bool)>,
    wake_at: Option<BootTime>,
    /// How long the host slept since the last round.
    pub slept: Duration,
    /// Something happened since the last round.
    awake: bool,
    /// Units whose record is older than what is known: it is written before the next effect, and at the end of a round.
    pub(super) dirty: BTreeSet<UnitName>,
    /// Those of them that could not be written.
    pub(super) stale: BTreeSet<UnitName>,
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

/// It wakes up so much too late only after the host slept, and notices so long a sleep.
const AWAY: Duration = Duration::from_secs(1);

/// More rounds at one moment than this is a busy loop.
const ROUNDS_MAX: usize = 50;

impl Outside<'_> {
    pub fn both(&self) -> Now {
        Now { boot: self.now, wall: self.wall }
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
            match out.bug {
                Bug::BackoffForgotten => seen.backoff = Default::default(),
                Bug::StopMarkLost => seen.hold = None,
                _ => {}
            }
            match out.bug {
                Bug::SocketsForgotten => seen.sockets.clear(),
                Bug::ScheduleForgotten => Supervisor::plant_schedule_bug(&mut seen),
                _ => {}
            }
            if let (Bug::RolesSwapped, Some(live), Some(beside)) = (out.bug, &mut seen.live, &mut seen.beside) {
                std::mem::swap(live, beside);
            }
            if let Some(live) = seen.live.as_mut().filter(|_| out.bug == Bug::ContentsForgotten) {
                // As if they were those of the text that is on disk now.
                let want = out.disk.good.get(unit);
                (live.contents, live.swapping) = (want.and_then(|want| SwapMark::of(&want.unit)).map(Box::new), false);
                live.reload = None;
            }
            this.observed.units.insert(unit.clone(), Box::new(seen));
        }
        if out.bug == Bug::LastGoodLost {
            out.disk.good.clear();
        }
        let timetables = out.disk.timetables.clone();
        this.restore_marks(out);
        this.forget_trials(out);
        this.found_disk(out);
        this.find_sockets(out);
        this.read_files(out, files);
        this.restore_timetables(out, &timetables);
        this.look_after_crash(out, false);
        if out.oracle.shutdown {
            this.record(out, &Fact::Shutdown { by: "SIGTERM".into() });
        }
        this
    }

    /// Of a text that did well, which was recorded, nothing is kept to go back to, whether or not that was written too.
    fn forget_trials(&mut self, out: &mut Outside) {
        if out.bug == Bug::StillOnTrial {
            self.observed.units.values_mut().for_each(|seen| seen.proven = None);
            return;
        }
        let Disk { good, earlier, .. } = &mut *out.disk;
        for (unit, want) in good {
            if self.observed.unit(unit).and_then(|seen| seen.proven) == Some(want.fingerprint) {
                earlier.remove(unit);
                (want.trial, want.earlier) = (None, None);
            }
        }
    }

    /// Stop marks of an earlier boot hold in this one, as long as the wall clock says.
    fn restore_marks(&mut self, out: &mut Outside) {
        for (unit, hold) in out.disk.marks.clone() {
            if self.observed.units.contains_key(&unit) {
                continue;
            }
            let hold = hold.after_reboot(out.both());
            out.oracle.held_again(&unit, hold.until.map_or(BootTime(u64::MAX), |until| until.boot));
            self.record(out, &Fact::ClientStop { unit: unit.clone(), hold });
            self.persist(out, &unit);
        }
    }

    /// A keeper takes the place of one that died; what that one had said arrived before.
    pub fn meet_keeper(&mut self, out: &mut Outside) {
        let is_word = |fact: &Fact| matches!(fact, Fact::Notified { .. } | Fact::Heard { .. });
        let (words, others) = std::mem::take(&mut self.mail).into_iter().partition(|(_, fact)| is_word(fact));
        self.mail = others;
        let words: Vec<(BootTime, Fact)> = words;
        for (_, fact) in words {
            self.record(out, &fact);
        }
        self.look_after_crash(out, true);
        self.awake = true;
    }

    /// For each live generation: the keeper's word, or that there is none.
    fn look_after_crash(&mut self, out: &mut Outside, survived: bool) {
        let lives = self.observed.units.values().flat_map(|seen| seen.lives());
        let news: Vec<Fact> = lives.filter_map(|live| look(out.host, &live.id, &live.run, survived)).collect();
        news.into_iter().for_each(|fact| self.post(out, fact));
        self.record(out, &Fact::Awake);
        let heard = out.host.containers.iter().filter(|(_, found)| !found.said.is_empty());
        let heard: Vec<Fact> = heard.filter_map(|(id, _)| out.host.heard(id)).collect();
        heard.into_iter().for_each(|fact| self.post(out, fact));
    }

    /// What is on disk now becomes desired; a file that is not valid counts as its last good text.
    pub fn read_files(&mut self, out: &mut Outside, files: &BTreeMap<UnitName, Option<Want>>) {
        let Disk { good, earlier, bad, marks, timetables, .. } = &mut *out.disk;
        good.retain(|unit, _| files.contains_key(unit));
        earlier.retain(|unit, _| files.contains_key(unit));
        bad.retain(|unit, _| files.contains_key(unit));
        marks.retain(|unit, _| files.contains_key(unit));
        timetables.retain(|unit, _| files.contains_key(unit));
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
            let did_well = proven == Some(text.fingerprint) && out.bug != Bug::StillOnTrial;
            if did_well || earlier.get(unit).is_some_and(|earlier| earlier.fingerprint == text.fingerprint) {
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

    /// The keeper says something.
    pub fn hear(&mut self, out: &mut Outside, fact: Fact) {
        let fact = match fact {
            Fact::Exited { id, exit, oom, .. } if out.bug == Bug::ExitsByWallClock => {
                Fact::Exited { id, exit, oom, at: BootTime(out.wall.0.saturating_mul(1_000_000)) }
            }
            other => other,
        };
        if out.bug == Bug::AcknowledgedEarly
            && let Fact::Exited { id, .. } = &fact
            && let Some(container) = out.host.containers.get_mut(id)
        {
            container.kept = false;
        }
        self.post(out, fact);
    }

    /// A fact arrives, some time.
    pub fn post(&mut self, out: &mut Outside, fact: Fact) {
        let delay = if out.rng.chance(80) { 0 } else { out.rng.below(300) };
        if out.rng.chance(10) {
            let longest = *out.rng.pick(&[3000, 3000, 3000, 60_000]);
            let again = out.now.after(millis(out.rng.below(longest)));
            self.mail.push((again, fact.clone()));
        }
        self.mail.push((out.now.after(millis(delay)), fact));
    }

    /// A client's wish: on disk before its answer.
    pub fn client(&mut self, out: &mut Outside, unit: &UnitName, fact: Fact) {
        match &fact {
            Fact::ClientStop { hold, .. } => drop(out.disk.marks.insert(unit.clone(), hold.clone())),
            Fact::ClientStart { .. } | Fact::ClientRestart { .. } => drop(out.disk.marks.remove(unit)),
            _ => {}
        }
        self.record(out, &fact);
        self.persist(out, unit);
        self.awake = true;
    }

    pub fn record(&mut self, out: &mut Outside, fact: &Fact) -> bool {
        let news = self.observed.record(fact, out.both());
        if news {
            self.planner.recorded(fact);
            out.oracle.told(fact);
            out.oracle.on_turn_over(fact, out.both());
            self.dirty.extend(fact.unit().cloned());
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
        let slept = std::mem::take(&mut self.slept);
        if slept > AWAY || self.wake_at.is_some_and(|at| out.now.since(at) > AWAY) {
            self.record(out, &Fact::Awake);
        }
        for _ in 0..ROUNDS_MAX {
            self.look_at_ended(out);
            self.read_mail(out);
            if !self.awake && self.wake_at.is_none_or(|at| at > out.now) {
                return Ok(());
            }
            self.follow_clock(out);
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
            if let (true, Fact::HookEnded { id, .. }) = (news, &fact) {
                // What a hook leaves is looked for.
                self.looked.retain(|(of, _)| of != id);
                // Whoever says so said before what he had seen until then: what is in the mail is older.
                let is_older = |fact: &Fact| matches!(fact, Fact::CgroupEmpty { .. } | Fact::Drained { .. });
                self.mail.retain(|(_, fact)| !(is_older(fact) && fact.id() == Some(id)));
            }
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
                self.write_down(out)
            }
        }
    }
}

fn words(plan: &Plan) -> String {
    let actions: Vec<String> = plan.actions.iter().map(ToString::to_string).collect();
    format!("{actions:?}, {:?}", plan.wake_at)
}

/// Written and read back, in the form that is under `/run`.
pub fn through_json(seen: &Seen) -> Seen {
    let json = serde_json::to_vec(seen).expect("a value that was made here");
    serde_json::from_slice(&json).expect("what was written reads back")
}

/// In the form that it has here.
pub fn through_postcard(seen: &Seen) -> Seen {
    let bytes = postcard::to_allocvec(seen).expect("a value that was made here");
    postcard::from_bytes(&bytes).expect("what was written reads back")
}

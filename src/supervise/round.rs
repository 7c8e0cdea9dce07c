//! The loop: facts in, reconcile, apply. It never blocks on anything but its mailbox.
//!
//! A round drains the mailbox, records what it says, asks the [`Planner`], marks and writes down what is begun, hands it over, and answers
//! the clients that waited for it. It costs what it is about: of thousands of units those that a fact concerns. Nothing is reconciled before both sides are known: the directories were read once
//! (`scanned`) and the keeper's list was taken over (`adopted`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use super::bell::Inbox;
use super::catalogue::{Catalogue, InForce};
use super::clock;
use super::events::{Events, concerns};
use super::files::{self, Files};
use super::guard::Guard;
use super::job::{Job, LimitJob, ProbeJob, ReloadJob, StartJob, SwapJob};
use super::log::{LogEvent, LogWriter};
use super::mail::Mail;
use super::orders::{Order, Storing};
use super::schedules::Schedules;
use super::unit_hooks::HookJob;
use super::waiters::{Waiter, Waiting};
use super::{narrate, validate};
use crate::cli::Settings;
use crate::control::protocol::Event;
use crate::control::{ClientId, Reply, Response};
use crate::keeper;
use crate::plan::{
    Action, BootTime, Desired, Fact, Hold, Live, Observed, Opinion, Plan, Planner, State, Timetable, WallTime,
    end_environment, reconcile,
};
use crate::sys::heap;
use crate::unit::{ContainerId, HookPoint, UnitName, replica_number};

/// Mail taken in one round before the world is looked at again.
const BATCH_MAX: usize = 1024;

/// So long after the last mail the heap is trimmed.
const QUIET: Duration = Duration::from_secs(1);

/// The plan settles in one or two passes; what is left after these waits for the next round, at once.
const PASSES_MAX: usize = 4;

/// The supervisor's state; everything else is a thread that posts to it.
pub struct Supervisor {
    pub(super) settings: Settings,
    pub(super) catalogue: Catalogue,
    pub(super) desired: Desired,
    pub(super) observed: Observed,
    /// What of these two is to be looked at.
    pub(super) planner: Planner,
    pub(super) events: Events,
    pub(super) files: Files,
    pub(super) hands: Arc<Inbox<Job>>,
    pub(super) log: Arc<LogWriter>,
    /// Units whose record is to be written before anything else has an effect.
    dirty: BTreeSet<UnitName>,
    /// Units whose text was said to be invalid.
    pub(super) invalid: BTreeSet<UnitName>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) orders: Vec<Order>,
    /// A set of texts on its way to the disk.
    pub(super) storing: Option<Storing>,
    /// Who had units' texts put in force in this round.
    pub(super) ordered_by: BTreeMap<UnitName, String>,
    pub(super) followers: Vec<(Reply, Vec<String>)>,
    pub(super) keeper: keeper::Stats,
    pub(super) builds: keeper::Builds,
    pub(super) unknown_cgroups: Vec<ContainerId>,
    pub(super) schedules: Schedules,
    /// A boot that is not known to be good.
    pub(super) guard: Option<Guard>,
    /// When it is to look again although nothing changed.
    wake_at: Option<BootTime>,
    /// How long the host had slept when that was asked last ([`clock::slept_ns`]).
    slept_ns: i64,
    /// The directories were read once.
    pub(super) first_read: bool,
    /// And so were the sources that their texts name.
    pub(super) scanned: bool,
    pub(super) adopted: bool,
    /// `moored down`, or a reboot: everything stops even with `--detach-on-exit`.
    pub(super) down: bool,
    end: Option<End>,
    pub(super) next_token: u64,
}

/// Why the loop ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything is stopped.
    Stopped,
    /// Everything is stopped, and the host is to reboot.
    Reboot,
    /// Containers go on without a supervisor.
    Detached,
    /// The keeper is gone or another supervisor serves it.
    Orphaned(String),
}

impl Supervisor {
    /// A supervisor that knows what an earlier one left.
    pub fn new(
        settings: Settings,
        catalogue: Catalogue,
        observed: Observed,
        files: Files,
        hands: Arc<Inbox<Job>>,
        log: Arc<LogWriter>,
    ) -> Supervisor {
        // Remembered texts: until the directories are read, what is stopped is not "gone".
        let (names, mut desired) = (catalogue.names().cloned().collect(), Desired::default());
        catalogue.update(&mut desired, &names);
        let schedules = Schedules::of(&desired);
        Supervisor {
            settings,
            catalogue,
            desired,
            observed,
            planner: Planner::default(),
            events: Events::default(),
            files,
            hands,
            log,
            dirty: BTreeSet::new(),
            invalid: BTreeSet::new(),
            waiters: Vec::new(),
            orders: Vec::new(),
            storing: None,
            ordered_by: BTreeMap::new(),
            followers: Vec::new(),
            keeper: keeper::Stats::default(),
            builds: keeper::Builds::default(),
            unknown_cgroups: Vec::new(),
            schedules,
            guard: None,
            wake_at: None,
            slept_ns: clock::slept_ns(),
            first_read: false,
            scanned: false,
            adopted: false,
            down: false,
            end: None,
            next_token: super::FIRST_READ,
        }
    }

    /// The texts that an earlier supervisor left are in force from the start, whatever the directories say later: until then nothing is
    /// done, but `ps` knows the units.
    pub fn restore_texts(&mut self) {
        self.update_desired();
    }

    /// What a condition asks of the kernel's command line is the same until the next boot.
    pub fn look_at_host(&mut self) {
        match std::fs::read_to_string("/proc/cmdline") {
            Ok(cmdline) => self.record(&Fact::Booted { cmdline }),
            Err(error) => tracing::warn!("/proc/cmdline: {error}: no condition on it is met"),
        }
    }

    /// Stop marks of an earlier boot hold in this one.
    pub fn restore_marks(&mut self, marks: Vec<(UnitName, Hold)>) {
        for (unit, hold) in marks {
            // The stop itself was told when it was asked for.
            self.note(&Fact::ClientStop { unit, hold });
        }
    }

    /// Rounds until there is nothing left to do.
    pub fn run(&mut self, mailbox: &Receiver<Mail>) -> End {
        loop {
            let wake_at = self.round();
            self.files.write_events();
            if let Some(end) = self.end.take() {
                return end;
            }
            let Some(first) = sleep(mailbox, wake_at) else { continue };
            self.take(first);
            mailbox.try_iter().take(BATCH_MAX).for_each(|mail| self.take(mail));
        }
    }

    fn take(&mut self, mail: Mail) {
        match mail {
            Mail::Fact(fact) => self.record(&self.catalogue.hide(fact)),
            Mail::Watch(event) => self.watched(event),
            Mail::Together(mails) => {
                self.catalogue.begin_batch();
                mails.into_iter().for_each(|mail| self.take(mail));
                self.catalogue.end_batch(VALIDATE, clock::now().wall);
            }
            Mail::Look(look) => self.looked(look),
            Mail::Log(event) => self.log_says(event),
            Mail::Control(post) => self.control(post),
            Mail::Inventory(inventory) => self.take_inventory(inventory),
            Mail::Keeper(stats) => self.keeper = stats,
            Mail::Builds(builds) => self.builds = builds,
            Mail::StopAll { by } => self.stop_all(&by),
            Mail::Orphaned(why) => self.end = Some(End::Orphaned(why)),
            Mail::Stored(fact) => {
                self.files.marks.hear(&fact);
                self.order_stored(&fact);
                files::told(&fact).into_iter().for_each(|event| self.tell(event));
            }
        }
    }

    // ---- facts ----

    pub(super) fn record(&mut self, fact: &Fact) {
        self.record_by(fact, None);
    }

    /// The same for a client.
    pub(super) fn record_by(&mut self, fact: &Fact, by: Option<&str>) {
        let (before, was_ready) = (self.opinion(fact), self.is_ready(fact));
        if !self.note(fact) {
            return;
        }
        if matches!(fact, Fact::Shutdown { .. }) && !self.observed.rebooting {
            self.boot_ended();
        }
        if let (Fact::Notified { id, .. }, false, true) = (fact, was_ready, self.is_ready(fact)) {
            self.tell(Event { generation: fact.generation(), ..narrate::ready(id) });
        }
        let after = self.opinion(fact).filter(|after| before.is_some_and(|before| before != *after));
        if let (Some(opinion), Fact::Probed { id, check, .. }) = (after, fact) {
            let said = self.observed.unit(&id.unit).and_then(|seen| seen.live_of(id)?.said(*check));
            let event = narrate::checked(id, *check, said.filter(|_| opinion == Opinion::Failing));
            self.tell(Event { generation: fact.generation(), ..event });
        }
        if let Some(event) = narrate::fact(fact) {
            let generation = fact.generation();
            let by = event.by.clone().or_else(|| by.map(str::to_owned));
            self.tell(Event { by, generation, ..event });
        }
    }

    /// What the results of the check amount to that this fact is about.
    fn opinion(&self, fact: &Fact) -> Option<Opinion> {
        let Fact::Probed { id, check, .. } = fact else { return None };
        self.observed.unit(&id.unit)?.live_of(id).map(|live| live.opinion(*check))
    }

    /// Whether the container that this fact is about has said that it is ready.
    fn is_ready(&self, fact: &Fact) -> bool {
        let Fact::Notified { id, .. } = fact else { return false };
        self.observed.unit(&id.unit).and_then(|seen| seen.live_of(id)).is_some_and(Live::is_ready)
    }

    /// `false`: it says nothing new.
    fn note(&mut self, fact: &Fact) -> bool {
        if !self.observed.record(fact, clock::now()) {
            return false;
        }
        self.planner.recorded(fact);
        if let Some(unit) = fact.unit() {
            self.dirty.insert(unit.clone());
        }
        true
    }

    /// Of an earlier boot: schedules that are not persistent begin anew.
    pub fn restore_timetables(&mut self, tables: Vec<(UnitName, Timetable)>) {
        for (unit, mut table) in tables {
            let schedule = self.desired.units.get(&unit).and_then(|want| want.unit.schedule.clone());
            let Some(schedule) = schedule else { continue };
            if !schedule.persistent {
                table.from = WallTime(u64::MAX);
            }
            self.observed.restore_timetable(&unit, table);
            self.planner.changed(&unit);
        }
    }

    /// Goes on with the events of earlier supervisors.
    pub fn restore_events(&mut self, earlier: Vec<Event>, fresh: bool) {
        self.events.restore(earlier);
        self.tell(narrate::begun(fresh));
    }

    /// Keeps an event and shows it to those who follow, and to the supervisor's own log.
    pub(super) fn tell(&mut self, event: Event) {
        let event = self.events.link(event);
        match &event.unit {
            Some(unit) => tracing::info!("{unit}: {}", event.text),
            None => tracing::info!("{}", event.text),
        }
        self.followers.retain(|(reply, _)| reply.is_open());
        for (reply, _) in self.followers.iter().filter(|(_, units)| concerns(&event, units)) {
            reply.send(&Response::Event(event.clone()));
        }
        self.files.add_event(&event);
        self.events.push(event);
    }

    pub(super) fn stop_all(&mut self, by: &str) {
        if self.settings.detach_on_exit && !self.down {
            self.end = Some(End::Detached);
            return;
        }
        self.record(&Fact::Shutdown { by: by.to_owned() });
    }

    fn log_says(&mut self, event: LogEvent) {
        match event {
            LogEvent::Drained(id) => self.record(&Fact::Drained { id }),
            other => self.tell(narrate::log(&other)),
        }
    }

    // ---- a round ----

    fn round(&mut self) -> Option<BootTime> {
        self.judge_more();
        self.follow_sources();
        self.scanned = self.scanned || self.first_read && !self.catalogue.is_looking();
        if !(self.scanned && self.adopted) {
            self.write_down();
            return earliest(self.answer(), self.more_to_judge());
        }
        let expiry = self.catalogue.expire(VALIDATE, clock::now());
        let patience = self.put_in_force();
        self.update_desired();
        let clock = self.follow_schedules();
        // Until then a unit whose text is on its way looks like one that is removed.
        if !self.is_beginning() {
            self.reconcile();
        }
        self.write_down();
        if self.observed.shutdown.is_some() && super::wait::all_stopped(&self.observed) {
            self.end = Some(if self.observed.rebooting { End::Reboot } else { End::Stopped });
        }
        let expiry = earliest(earliest(expiry, clock), earliest(self.more_to_judge(), self.look_at_boot()));
        earliest(earliest(self.wake_at, expiry), earliest(patience, self.answer()))
    }

    fn reconcile(&mut self) {
        let slept_ns = clock::slept_ns();
        if clock::was_away(self.wake_at, clock::now().boot, slept_ns.saturating_sub(self.slept_ns)) {
            self.record(&Fact::Awake);
        }
        self.slept_ns = slept_ns;
        for _ in 0..PASSES_MAX {
            let now = clock::now().boot;
            if !self.planner.is_due(now) {
                return;
            }
            let plan = self.plan(now);
            self.wake_at = if plan.actions.is_empty() { plan.wake_at } else { Some(now) };
            self.apply(plan.actions);
        }
    }

    /// What there is to do. In debug builds it is made sure that a look at everything finds the same.
    fn plan(&mut self, now: BootTime) -> Plan {
        let plan = self.planner.plan(&self.desired, &self.observed, now);
        if cfg!(debug_assertions) {
            let whole = reconcile(&self.desired, &self.observed, now);
            // A word for a watchdog puts off a time of which the planner knows: it wakes up too early then, and never too late.
            let wakes = whole.wake_at.is_none_or(|late| plan.wake_at.is_some_and(|early| early <= late));
            assert!(plan.actions == whole.actions && wakes, "planned {plan:?}; a look at everything finds {whole:?}");
        }
        plan
    }

    /// Marks, writes down, then hands over: a crash between any two of these is found out by adoption.
    fn apply(&mut self, actions: Vec<Action>) {
        let mut jobs = Vec::with_capacity(actions.len());
        for action in actions {
            if !self.observed.begin(&action, clock::now()) {
                continue;
            }
            self.planner.begun(&action);
            self.dirty.insert(action.unit().clone());
            self.dirty.extend(action.sockets_of().cloned());
            if let Some(event) = narrate::action(&action).filter(|_| !self.is_told_already(&action)) {
                self.tell(Event { generation: action.generation(), ..event });
            }
            jobs.extend(self.job_of(action));
        }
        self.write_down();
        jobs.into_iter().for_each(|job| self.hands.push(job));
    }

    fn job_of(&mut self, action: Action) -> Option<Job> {
        match action {
            Action::Start { id, unit, .. } => {
                let run = self.observed.unit(&id.unit).and_then(|seen| seen.live_of(&id)).map(|live| live.run.clone());
                match (self.catalogue.in_force(&id.unit), run) {
                    (Some(good), Some(run)) => {
                        let facts = Arc::clone(&good.facts);
                        let unit = unit.named(&id.unit);
                        Some(Job::Start(Box::new(StartJob { id, unit, facts, run })))
                    }
                    // Desired and the catalogue agree at the top of the round, and `begin` has just made the run.
                    (None, _) | (_, None) => Some(Job::Look(id)),
                }
            }
            Action::Stop { id, signal, .. } => Some(Job::Stop(id, signal)),
            Action::Hook { id, point } => Some(Job::Hook(Box::new(self.hook_job(id, point)))),
            Action::Kill { id } => Some(Job::Kill(id)),
            Action::Signal { id, signal } => Some(Job::Signal(id, signal)),
            Action::Reload { id, how } => {
                let good = self.text_of(&id)?;
                let (unit, facts) = (good.unit.named(&id.unit), Arc::clone(&good.facts));
                Some(Job::Reload(Box::new(ReloadJob { id, how, unit, facts })))
            }
            Action::Hear { id } => Some(Job::Hear(id)),
            Action::Probe { id, probing } => {
                let Some(probing) = probing else { return Some(Job::ProbeNothing(id)) };
                let good = self.text_of(&id)?;
                // What is asked is kept as long as it is asked: replicas share it.
                let number = replica_number(&id.unit).unwrap_or(1);
                let (unit, facts) = (good.unit.of_number(number), Arc::clone(&good.facts));
                let live = self.observed.unit(&id.unit).and_then(|seen| seen.live_of(&id));
                let known = |kind| live.is_some_and(|live| live.opinion(kind) != Opinion::Unknown);
                let asked = probing.kinds().map(|kind| (kind, known(kind))).collect();
                Some(Job::Probe(Box::new(ProbeJob { id, health: probing.health, asked, unit, facts })))
            }
            Action::Update { id, limits, .. } => {
                let good = self.catalogue.in_force(&id.unit)?;
                let (unit, facts) = (good.unit.named(&id.unit), Arc::clone(&good.facts));
                limits.map(|limits| Job::Limit(Box::new(LimitJob { id, limits, unit, facts })))
            }
            Action::Swap { id, unit, contents } => {
                let (unit, facts) = (unit.named(&id.unit), Arc::clone(&self.catalogue.in_force(&id.unit)?.facts));
                Some(Job::Swap(Box::new(SwapJob { id, contents, unit, facts })))
            }
            Action::Close { unit, sockets } => Some(Job::Close(unit, sockets)),
            Action::Clear { id } => Some(Job::Clear(id)),
            // Marks: `begin` made them, and their record is written.
            Action::TakeOver { .. } => None,
            Action::Schedule { .. }
            | Action::Rely { .. }
            | Action::Raise { .. }
            | Action::Settle { .. }
            | Action::Forget { .. } => None,
            Action::Prove { unit, fingerprint } => {
                if self.is_proven_by_all(&unit) {
                    self.catalogue.prove(&unit, fingerprint);
                }
                self.update_desired();
                None
            }
            Action::RollBack { unit, fingerprint, why } => {
                self.catalogue.roll_back(&unit, fingerprint, &why, clock::now().wall);
                self.update_desired();
                None
            }
            Action::Reboot { unit } => {
                self.down = true;
                self.record(&Fact::Shutdown { by: format!("{unit} gave up, and on_limit = \"reboot\"") });
                None
            }
        }
    }

    /// Whether the text of a unit did well with all that have it and are to run: with replicas it is on trial until then.
    fn is_proven_by_all(&self, unit: &UnitName) -> bool {
        let members = self.desired.members(self.desired.declared(unit));
        let (mut members, now) = (members, clock::now().boot);
        members.all(|(name, want)| {
            let seen = self.observed.unit(name);
            let is_held = seen.is_some_and(|seen| seen.hold_at(now).is_some() && seen.live.is_none());
            is_held || seen.is_some_and(|seen| seen.proven == Some(want.fingerprint))
        })
    }

    /// The signal of a stop whose hook is over: that it stops was told when that began.
    fn is_told_already(&self, action: &Action) -> bool {
        let Action::Stop { id, signal: Some(_), .. } = action else { return false };
        let live = self.observed.unit(&id.unit).and_then(|seen| seen.live_of(id));
        live.is_some_and(|live| matches!(&live.state, State::Stopping(stopping) if stopping.hooked))
    }

    fn hook_job(&self, id: ContainerId, point: HookPoint) -> HookJob {
        let seen = self.observed.unit(&id.unit);
        let live = seen.and_then(|seen| seen.live_of(&id));
        let record = seen.and_then(|seen| seen.end_of(&id)).filter(|_| point == HookPoint::PostStop);
        let mut env = record.map(|record| end_environment(record, live)).unwrap_or_default();
        env.extend(live.and_then(|live| live.pid).filter(|_| record.is_none()).map(|pid| format!("MAINPID={}", pid.0)));
        let joined = live.and_then(|live| live.run.joined.clone());
        HookJob { id, point, env, joined }
    }

    /// The text that a container was started with; the one in force, if that is not known any more.
    pub(super) fn text_of(&self, id: &ContainerId) -> Option<&Arc<InForce>> {
        let live = self.observed.unit(&id.unit).and_then(|seen| seen.live_of(id));
        let own = live.and_then(|live| self.catalogue.text_of(&id.unit, live.run.fingerprint));
        own.or_else(|| self.catalogue.in_force(&id.unit))
    }

    fn write_down(&mut self) {
        for name in std::mem::take(&mut self.dirty) {
            if let Some(event) = self.files.save(&name, self.observed.unit(&name)) {
                self.tell(event);
            }
            self.files.keep_timetable(&name, self.observed.unit(&name).and_then(|seen| seen.timetable.as_deref()));
            // A record that is older than what is known is written as soon as one can be: a crash would bring it back.
            if self.files.is_failing() {
                self.dirty.insert(name);
            }
        }
    }

    /// The end: nothing is kept that only a crash should bring back, and whoever waits for the end is told.
    pub fn conclude(&mut self, end: &End) {
        match end {
            End::Stopped | End::Reboot => self.files.forget_all(&self.observed),
            End::Detached | End::Orphaned(_) => {}
        }
        for waiter in std::mem::take(&mut self.waiters) {
            if let Waiting::Down = waiter.what {
                waiter.reply.send(&Response::Done { lines: vec!["everything is stopped".to_owned()] });
            }
            waiter.reply.close();
        }
        self.followers.drain(..).for_each(|(reply, _)| reply.close());
    }

    pub(super) fn client_gone(&mut self, client: ClientId) {
        self.waiters.retain(|waiter| waiter.reply.id() != client);
        self.drop_orders_of(client);
        self.followers.retain(|(reply, _)| reply.id() != client);
        self.hands.push(Job::SessionGone(client));
    }
}

fn earliest(a: Option<BootTime>, b: Option<BootTime>) -> Option<BootTime> {
    a.into_iter().chain(b).min()
}

/// Waits for mail or the deadline; `None` is the deadline. After a second in which nothing came, what the rounds before needed and the
/// next ones may not is given back; from then on it sleeps until something happens.
fn sleep(mailbox: &Receiver<Mail>, wake_at: Option<BootTime>) -> Option<Mail> {
    let wait = wake_at.map(|wake_at| wake_at.since(clock::now().boot));
    if wait.is_none_or(|wait| wait > QUIET) {
        match mailbox.recv_timeout(QUIET) {
            Ok(mail) => return Some(mail),
            // Every thread holds a sender for as long as the process lives.
            Err(_) => heap::trim(),
        }
    }
    match wake_at {
        None => mailbox.recv().ok(),
        Some(wake_at) => mailbox.recv_timeout(wake_at.since(clock::now().boot)).ok(),
    }
}

/// For threads that post.
pub type Post = Sender<Mail>;

/// Checks a text with its source down to the last step; what [`Catalogue`] asks before it puts one in force.
pub(super) const VALIDATE: super::catalogue::Validate = validate;

exec(open('/tmp/p/s12/edit.py').read())
import shutil
shutil.copy('/tmp/p/s12/stage/unit_schedule.rs','src/unit/schedule.rs')
shutil.copy('/tmp/p/s12/stage/supervise_schedules.rs','src/supervise/schedules.rs')
shutil.copy('/tmp/p/s12/stage/sys_wall_clock.rs','src/sys/wall_clock.rs')
sub('Cargo.toml',('libc = "0.2"\n','jiff = { version = "0.2", default-features = false, features = ["alloc"] }\nlibc = "0.2"\n'))
sub('src/sys/mod.rs',('pub mod wait;','pub mod wait;\npub mod wall_clock;'))
sub('src/supervise/mod.rs',('mod session;','mod schedules;\nmod session;'),
 ('''    supervisor.guard = guard;
''','''    supervisor.guard = guard;
    supervisor.schedules.post = Some(of_clock);
    supervisor.restore_timetables(left.timetables);
'''),
 ('''    let watch = Watch::start(options(&settings), watching::poster(post))''','''    let of_clock = post.clone();
    let watch = Watch::start(options(&settings), watching::poster(post))'''),
 ('''    let program = program::check(unit, facts, "check", &swap::ConfigDir::of_none())?;
''','''    if let Some(schedule) = &unit.schedule {
        let (file, place, path) = (None, None, "schedule.time_zone".to_owned());
        schedules::read_zone(schedule.time_zone.as_deref())
            .map_err(|message| vec![SpecError { file, place, path, message }])?;
    }
    let program = program::check(unit, facts, "check", &swap::ConfigDir::of_none())?;
'''))
sub('src/unit/mod.rs',
 ('pub mod cat;','pub mod calendar;\npub mod cat;'),
 ('mod schema;','mod schedule;\nmod schema;'),
 ('pub use socket::{Listen, Socket};','pub use calendar::{BadCalendar, Calendar};\npub use schedule::Schedule;\npub use socket::{Listen, Socket};'),
 ('''    /// Commands around its life;''','''    /// When it runs, if that is not at once; then it is a oneshot.
    pub schedule: Option<Arc<Schedule>>,
    /// Commands around its life;'''))
sub('src/unit/sections.rs',
 ('''    let kind = kind.unwrap_or(Kind::Service);
''','''    let schedule = schedule::schedule(walk, top);
    let (given, scheduled) = (kind, top.field("schedule").is_some());
    let kind = kind.unwrap_or(if scheduled { Kind::Oneshot } else { Kind::Service });
'''),
 ('        hooks: hooks::hooks(walk, top),','        schedule,\n        hooks: hooks::hooks(walk, top),'),
 ('    unit.hidden = std::mem','    schedule::check(walk, top, scheduled, given, unit.restart.policy);\n    unit.hidden = std::mem'))
t=open('src/unit/sections.rs').read()
t=t.replace('process, socket, update,','process, schedule, socket, update,')
open('src/unit/sections.rs','w').write(t)
sub('src/unit/schema.rs',
 ('(&str, &[&str]); 23]','(&str, &[&str]); 24]'),
 ('            "hooks",\n','            "schedule",\n            "hooks",\n'),
 ('    ("hooks", &["pre_start"','    ("schedule", &["calendar", "time_zone", "persistent", "random_delay", "max_runtime", "wait_for_clock"]),\n    ("hooks", &["pre_start"'),
 ('const TABLES: [&str; 19]','const TABLES: [&str; 20]'),
 ('    "hooks",\n    "health",\n    "update",','    "schedule",\n    "hooks",\n    "health",\n    "update",'),
 ('Option<&str>); 12]','Option<&str>); 11]'),
 ('    ("", "schedule", None),\n',''),
 ('(&str, Cure); 151]','(&str, Cure); 158]'),
 ('    ("startperiod",','''    ("oncalendar", Key("schedule", "calendar")),
    ("cron", Key("schedule", "calendar")),
    ("timezone", Key("schedule", "time_zone")),
    ("tz", Key("schedule", "time_zone")),
    ("randomizeddelaysec", Key("schedule", "random_delay")),
    ("runtimemaxsec", Key("schedule", "max_runtime")),
    ("timer", Say("did you mean [schedule] with `calendar`?")),
    ("startperiod",'''),
 ('''        assert!(later("", "schedule").is_some());
''','''        assert!(later("", "replicas").is_some());
'''),
 ('''        assert!(later("process", "schedule").is_some());
''','''        assert!(later("process", "replicas").is_some());
'''))
sub('src/unit/fingerprint.rs',
 ('''    if let Some(health) = &unit.health {
        health.checks()''','''    if let Some(schedule) = unit.schedule.as_deref() {
        all.put(Supervisor, "schedule.calendar", schedule.calendar.to_string());
        all.some(Supervisor, "schedule.time_zone", schedule.time_zone.as_ref(), String::clone);
        all.unless(false, Supervisor, "schedule.persistent", schedule.persistent, bool::to_string);
        all.unless(Duration::ZERO, Supervisor, "schedule.random_delay", schedule.random_delay, shown);
        all.some(Supervisor, "schedule.max_runtime", schedule.max_runtime.as_ref(), shown);
        all.unless(true, Supervisor, "schedule.wait_for_clock", schedule.wait_for_clock, bool::to_string);
    }
    if let Some(health) = &unit.health {
        health.checks()'''))
sub('src/unit/change.rs',('''            | "watchdog",''','''            | "watchdog" | "random_delay" | "max_runtime",'''))
sub('src/unit/keys.rs',
 ('''    key(
        "hooks.*.exec",''','''    key(
        "schedule.calendar",
        Kind::Text,
        "",
        Live,
        "\\"Mon..Fri 02:30\\"",
        "When it runs, in systemd's form; a unit with a schedule is a oneshot.",
    ),
    key(
        "schedule.time_zone",
        Kind::Pattern("^[A-Za-z0-9+_-]+(/[A-Za-z0-9+_-]+)*$"),
        "the host's",
        Live,
        "\\"Europe/Berlin\\"",
        "Whose time that is.",
    ),
    key("schedule.persistent", Kind::Flag, "false", Live, "true", "Whether one run makes up for those missed while the host was off."),
    key("schedule.random_delay", Kind::Duration, "0s", Live, "\\"10m\\"", "Each run begins up to so much later."),
    key("schedule.max_runtime", Kind::Duration, "no limit", Live, "\\"1h\\"", "A run that takes longer is stopped, and has failed."),
    key(
        "schedule.wait_for_clock",
        Kind::Flag,
        "true",
        Live,
        "false",
        "Whether a host without a clock of its own waits until somebody has set it.",
    ),
    key(
        "hooks.*.exec",'''))
sub('src/unit/keys/tests.rs',
 ('''        "hooks.*.exec" => {''','''        "schedule.calendar" => {
            let text = format!("{base}[schedule]\\n");
            (format!("{text}calendar = \\"daily\\"\\n"), format!("{text}calendar = {example}\\n"))
        }
        _ if name.starts_with("schedule.") => {
            let text = format!("{base}[schedule]\\ncalendar = \\"daily\\"\\n");
            (text.clone(), format!("{text}{} = {example}\\n", name.trim_start_matches("schedule.")))
        }
        "hooks.*.exec" => {'''))
sub('src/unit/keys/json.rs',('''    schema["properties"]["hooks"]["minProperties"]''','''    schema["properties"]["schedule"]["required"] = json!(["calendar"]);
    schema["properties"]["hooks"]["minProperties"]'''))
sub('src/unit/whole.toml',('[hooks.pre_start]','''[schedule]
calendar = "Mon..Fri 02:30"
time_zone = "Europe/Berlin"
persistent = true
random_delay = "10m"
max_runtime = "1h"
wait_for_clock = false

[hooks.pre_start]'''))
sub('src/unit/parse_tests.rs',('''        hooks: Some(Arc::new(UnitHooks {''','''        schedule: Some(Arc::new(Schedule {
            calendar: Calendar::parse("Mon..Fri 02:30").unwrap(),
            time_zone: Some("Europe/Berlin".to_owned()),
            persistent: true,
            random_delay: Duration::from_secs(600),
            max_runtime: Some(Duration::from_secs(3600)),
            wait_for_clock: false,
        })),
        hooks: Some(Arc::new(UnitHooks {'''))
sub('src/supervise/unit_hooks.rs',('            let alone = Unit { process, health, sockets, hooks, ..unit.clone() };','            let alone = Unit { process, health, sockets, hooks, ..unit.clone() };'))
# ---- plan
sub('src/plan/mod.rs',
 ('mod sockets;\n','mod schedule;\nmod sockets;\n'),
 ('pub use sockets::Opening;','pub use schedule::{Blind, Clock, Timetable, next_elapse};\npub use sockets::Opening;'))
sub('src/plan/world.rs',
 ('    sockets: BTreeMap::new(),\n};','    sockets: BTreeMap::new(),\n    timetable: None,\n};'),
 ('''    /// A reboot was asked for.
    pub fn is_rebooting''','''    /// The wall clock, if it was looked at.
    pub fn clock(&self) -> Option<&'a Clock> {
        self.observed.clock.as_ref()
    }

    /// The rules of this zone, if they are known.
    pub fn zone(&self, name: Option<&str>) -> Option<&'a TimeZone> {
        // There are few.
        let found = self.observed.zones.iter().find(|(known, _)| known.as_deref() == name);
        found.and_then(|(_, zone)| zone.as_ref())
    }

    /// A reboot was asked for.
    pub fn is_rebooting'''),
 ('use super::time::BootTime;','use super::schedule::Clock;\nuse super::time::BootTime;'),
 ('use super::desired::{Desired, Want};','use jiff::tz::TimeZone;\n\nuse super::desired::{Desired, Want};'),
 ('//! What is the same for all units (the shutdown, since when somebody listens, the command line of the kernel)','//! What is the same for all units (the shutdown, since when somebody listens, the command line of the kernel, the wall clock, time zones)'))
sub('src/plan/observed.rs',
 ('''    /// A reboot was asked for in this life.''','''    /// The wall clock, as it was looked at in this life.
    #[serde(skip)]
    pub clock: Option<Clock>,
    /// The rules of time zones by name, `None` is the host's; without rules those that cannot be read.
    #[serde(skip)]
    pub zones: BTreeMap<Option<String>, Option<TimeZone>>,
    /// A reboot was asked for in this life.'''),
 ('''    /// Sockets that are open for it, or may be (`sockets`).''','''    /// How far its schedule is, if it has one (`schedule`).
    #[serde(default)]
    pub timetable: Option<Box<Timetable>>,
    /// Sockets that are open for it, or may be (`sockets`).'''),
 ('use super::sockets::Opening;','use super::schedule::{Clock, Timetable};\nuse super::sockets::Opening;'),
 ('use serde::{Deserialize, Serialize};','use jiff::tz::TimeZone;\nuse serde::{Deserialize, Serialize};'),
 ('''    pub fn unit(&self, name: &UnitName) -> Option<&Seen> {
        self.units.get(name).map(Box::as_ref)
    }''','''    pub fn unit(&self, name: &UnitName) -> Option<&Seen> {
        self.units.get(name).map(Box::as_ref)
    }

    /// What an earlier boot remembered of a schedule. What the records of this boot say counts more.
    pub fn restore_timetable(&mut self, unit: &UnitName, table: Timetable) {
        self.seen_mut(unit).timetable.get_or_insert_with(|| Box::new(table));
    }'''))
sub('src/plan/action.rs',
 ('''//! | `Prove` |''','''//! | `Schedule` | from when on | asked again |
//! | `Prove` |'''),
 ('''    /// Remember that this text did well''','''    /// Count its schedule from here on.
    Schedule {
        /// Which.
        unit: UnitName,
        /// On the wall clock.
        from: WallTime,
    },
    /// Remember that this text did well'''),
 ('            | Action::Prove { unit, .. }\n','            | Action::Schedule { unit, .. }\n            | Action::Prove { unit, .. }\n'),
 ('''                    false => seen.begin_start(id, run, relies, unit),''','''                    false => seen.begin_start(id, run, relies, unit, now.wall),'''),
 ('''    fn begin_start(&mut self, id: &ContainerId, run: Run, relies: &Relies, unit: &Unit) -> bool {''','''    fn begin_start(&mut self, id: &ContainerId, run: Run, relies: &Relies, unit: &Unit, wall: WallTime) -> bool {'''),
 ('''        self.trouble = None;
        self.begin_sockets(unit);
        let (told''','''        self.trouble = None;
        if let Some(table) = self.timetable.as_mut().filter(|_| unit.schedule.is_some()) {
            table.begin(wall);
        }
        self.begin_sockets(unit);
        let (told'''),
 ('''            Action::Prove { unit, fingerprint } => self.seen_mut(unit).begin_prove(*fingerprint),''','''            Action::Schedule { unit, from } => self.seen_mut(unit).begin_schedule(*from),
            Action::Prove { unit, fingerprint } => self.seen_mut(unit).begin_prove(*fingerprint),'''),
 ('''    fn begin_prove(''','''    fn begin_schedule(&mut self, from: WallTime) -> bool {
        let before = self.timetable.take();
        let last = before.as_ref().and_then(|table| table.last.clone());
        self.timetable = Some(Box::new(Timetable { last, ..Timetable::new(from) }));
        true
    }

    fn begin_prove('''),
 ('            Action::Prove { unit, .. } => write!','            Action::Schedule { unit, .. } => write!(f, "count the schedule of {unit} from now on"),\n            Action::Prove { unit, .. } => write!'),
 ('use super::time::{BootTime, Now};','use super::schedule::Timetable;\nuse super::time::{BootTime, Now, WallTime};'))
sub('src/plan/fact.rs',
 ('''    /// Everything is to stop, for good.
    Shutdown {''','''    /// The wall clock was looked at, or set.
    Clock(Clock),
    /// The rules of a time zone were looked for.
    Zone {
        /// As in `schedule.time_zone`; `None`: the host's.
        name: Option<String>,
        /// `None`: they cannot be read.
        zone: Option<TimeZone>,
    },
    /// Everything is to stop, for good.
    Shutdown {'''),
 ('            Fact::Shutdown { by } => write!','            Fact::Clock(Clock { wall, is_set, .. }) => {\n                write!(f, "the clock shows {} ms, {}", wall.0, if *is_set { "and is set" } else { "and nobody has set it" })\n            }\n            Fact::Zone { name, zone } => {\n                let name = name.as_deref().unwrap_or("the host");\n                write!(f, "the time zone of {name} is {}", if zone.is_some() { "known" } else { "not known" })\n            }\n            Fact::Shutdown { by } => write!'),
 ('            | Fact::Booted { .. }\n            | Fact::Shutdown','            | Fact::Booted { .. }\n            | Fact::Clock(_)\n            | Fact::Zone { .. }\n            | Fact::Shutdown'),
 ('use super::time::BootTime;','use super::schedule::Clock;\nuse super::time::BootTime;'),
 ('use super::exit::Exit;','use jiff::tz::TimeZone;\n\nuse super::exit::Exit;'))
sub('src/plan/record.rs',
 ('            Fact::Shutdown { by } =>','            Fact::Clock(clock) => {\n                self.clock = Some(*clock);\n                true\n            }\n            Fact::Zone { name, zone } => {\n                self.zones.insert(name.clone(), zone.clone());\n                true\n            }\n            Fact::Shutdown { by } =>'),
 ('''        self.previous = self.last.replace(Box::new(record));
''','''        if let Some(table) = &mut self.timetable {
            table.end(now.wall, &record.outcome);
        }
        self.previous = self.last.replace(Box::new(record));
'''),
 ('''        self.manual |= used.manual;
        self.fresh |= used.fresh;''','''        self.manual |= used.manual;
        self.fresh |= used.fresh;
        if let Some(table) = &mut self.timetable {
            table.unbegin();
        }'''))
sub('src/plan/planner.rs',
 ('            Fact::Awake | Fact::Booted { .. } | Fact::Shutdown','            Fact::Clock(_) | Fact::Zone { .. } => self.all = true,\n            Fact::Awake | Fact::Booted { .. } | Fact::Shutdown'))
sub('src/plan/decide.rs',
 ('''    /// To be started now, in the network of that generation.''','''    /// Its schedule has no run for it now.
    Scheduled(Due),
    /// To be started now, in the network of that generation.'''),
 ('''        let wished = seen.start_now || seen.fresh;
        match''','''        if let Some(schedule) = want.unit.schedule.as_deref().filter(|_| !seen.start_now) {
            return self.after_schedule(view, want, schedule);
        }
        let wished = seen.start_now || seen.fresh;
        match'''),
 ('''    /// After a run that ended by itself: another''','''    /// Between the runs of a schedule: the restart policy makes new ones of a failure of this text, the calendar all others.
    fn after_schedule(&self, view: View<'a>, want: &'a Want, schedule: &Schedule) -> Option<Rest<'a>> {
        let own = view.seen.last_try(want).filter(|last| {
            last.fingerprint == want.fingerprint && last.stopped.is_none() && !last.outcome.is_success() && !view.seen.fresh
        });
        let due = self.schedule_due(view, schedule);
        match own.map(|last| self.after_end(want, view.seen, last)) {
            // Again at once, or soon.
            Some(None) => None,
            Some(Some(rest @ Rest::Backoff(..))) if due != Due::Now => Some(rest),
            Some(Some(_)) | None => (due != Due::Now).then_some(Rest::Scheduled(due)),
        }
    }

    /// After a run that ended by itself: another'''),
 ('use super::reason::{Tie, Why};','use super::reason::{Tie, Why};\nuse super::schedule::Due;'),
 ('use crate::unit::{Condition, ContainerId, OnBad, UnitName};','use crate::unit::{Condition, ContainerId, OnBad, Schedule, UnitName};'))
sub('src/plan/sockets.rs',('            Rest::Completed | Rest::Failed(_)','            Rest::Scheduled(_) => Staying::None,\n            Rest::Completed | Rest::Failed(_)'))
sub('src/plan/reconcile.rs',
 ('''    plan_sockets(world, view, &mut plan);
    match''','''    plan_sockets(world, view, &mut plan);
    if let Some(from) = world.timetable_to_begin(view) {
        plan.actions.push(Action::Schedule { unit: view.name.clone(), from });
    }
    match'''),
 ('''    if !live.is_some_and(Live::is_up)
        && let Some(Rest::Backoff(_, next_at)) = world.rest_itself(view)
    {
        plan.wake(next_at);
    }''','''    if live.is_some_and(Live::is_up) {
        return;
    }
    match world.rest_itself(view) {
        Some(Rest::Backoff(_, next_at)) => plan.wake(next_at),
        Some(Rest::Scheduled(Due::At(Some((_, at))))) => plan.wake(at),
        Some(_) | None => {}
    }
    // It may come before a retry.
    if let Some(schedule) = view.want.and_then(|want| want.unit.schedule.as_deref())
        && let Due::At(Some((_, at))) = world.schedule_due(view, schedule)
    {
        plan.wake(at);
    }'''),
 ('        Rest::Backoff(..) | Rest::Held(_) => {}','        Rest::Backoff(..) | Rest::Held(_) | Rest::Scheduled(_) => {}'),
 ('''    let Some(want) = own_text else { return };
    world.reload_due''','''    let Some(want) = own_text else { return };
    let until = world.runs_until(want.unit.schedule.as_deref(), live);
    until.filter(|until| *until > world.now).into_iter().for_each(|until| plan.wake(until));
    world.reload_due'''),
 ('use super::sockets::plan_sockets;','use super::schedule::Due;\nuse super::sockets::plan_sockets;'))
sub('src/plan/health.rs',
 ('''            return Some(failure);
        }
''','''            return Some(failure);
        }
        if self.runs_until(want.unit.schedule.as_deref(), live).is_some_and(|until| until <= self.now) {
            return Some("it took longer than its schedule's max_runtime".to_owned());
        }
'''))
sub('src/plan/status.rs',
 ('''        Rest::Completed => (Phase::Completed''','''        Rest::Scheduled(due) => (Phase::Waiting, scheduled(view, due)),
        Rest::Completed => (Phase::Completed'''),
 ('''        Rest::Backoff(..) => Some("it is backing off"),''','''        Rest::Backoff(..) => Some("it is backing off"),
        Rest::Scheduled(_) => Some("it waits for its time"),'''),
 ('''fn gave_up(view''','''fn scheduled(view: View, due: Due) -> Reason {
    let last = view.seen.timetable.as_ref().and_then(|table| table.last.clone());
    let (next, blind) = match due {
        Due::At(next) => (next, None),
        Due::Now => (None, None),
        Due::Unknown(blind) => (None, Some(blind)),
    };
    Reason::Scheduled { next, blind, last }
}

fn gave_up(view'''),
 ('use super::time::BootTime;','use super::schedule::Due;\nuse super::time::BootTime;'))
sub('src/plan/reason.rs',
 ('''    /// Ended well.
    Completed,''','''    /// Its schedule has no run for it now.
    Scheduled {
        /// When the next one is, on both clocks; `None`: never, or nobody can say.
        next: Option<(WallTime, BootTime)>,
        /// Why nobody can.
        blind: Option<Blind>,
        /// When the last one ended, and how.
        last: Option<(WallTime, Outcome)>,
    },
    /// Ended well.
    Completed,'''),
 ('''            Reason::Completed => "completed".to_owned(),''','''            Reason::Scheduled { next, blind, last } => {
                let next = match (next, blind) {
                    (Some((wall, boot)), _) => format!("next run {} (in {})", clock(*wall), Spell(boot.since(now))),
                    (None, Some(Blind::Clock)) => "waits for the clock to be set".to_owned(),
                    (None, Some(Blind::Zone)) => "its time zone is not known".to_owned(),
                    (None, None) => "no other run".to_owned(),
                };
                let last = last.as_ref().map(|(at, outcome)| format!(", last: {outcome}, {}", clock(*at)));
                format!("{next}{}", last.unwrap_or_default())
            }
            Reason::Completed => "completed".to_owned(),'''),
 ('use super::hold::Hold;','use super::hold::Hold;\nuse super::schedule::Blind;'))
sub('src/plan/rehearse.rs',('            Action::Hook { .. } => return,','            Action::Hook { .. } | Action::Schedule { .. } => return,'))
sub('src/supervise/narrate.rs',
 ('        Fact::Found { .. } | Fact::Booted { .. } => return None,','        Fact::Found { .. } | Fact::Booted { .. } | Fact::Clock(_) | Fact::Zone { .. } => return None,'),
 ('        | Action::Hook { .. }\n','        | Action::Hook { .. }\n        | Action::Schedule { .. }\n'))
sub('src/supervise/wait.rs',
 ('''fn up(kind: Kind, live: Option<&Live>, status: &Status, words: &str) -> Verdict {
''','''fn up(kind: Kind, live: Option<&Live>, status: &Status, words: &str) -> Verdict {
    // It has run, and has its next time.
    if let Reason::Scheduled { last, .. } = &status.reason {
        let is_well = last.as_ref().is_some_and(|(_, outcome)| outcome.is_success());
        return if is_well { Verdict::Reached(words.to_owned()) } else { Verdict::Missed(words.to_owned()) };
    }
'''),
 ('''            Phase::Waiting if status.reason.is_stalled() => Verdict::Missed(words.to_owned()),
            Phase::Waiting | Phase::Starting | Phase::Stopping => Verdict::Pending,
            Phase::Running | Phase::Ready if status''','''            // Its time comes.
            Phase::Waiting if matches!(status.reason, Reason::Scheduled { .. }) => Verdict::Reached(words.to_owned()),
            Phase::Waiting if status.reason.is_stalled() => Verdict::Missed(words.to_owned()),
            Phase::Waiting | Phase::Starting | Phase::Stopping => Verdict::Pending,
            Phase::Running | Phase::Ready if status'''))
sub('src/supervise/round.rs',
 ('    /// A boot that is not known to be good.\n','    pub(super) schedules: Schedules,\n    /// A boot that is not known to be good.\n'),
 ('            guard: None,\n','            schedules: Schedules::default(),\n            guard: None,\n'),
 ('use super::unit_hooks::HookJob;','use super::schedules::Schedules;\nuse super::unit_hooks::HookJob;'),
 ('''            Action::Rely { .. } | Action::Raise''','''            Action::Schedule { .. } | Action::Rely { .. } | Action::Raise'''),
 ('''        // Until then a unit whose text is on its way looks like one that is removed.
''','''        let clock = self.follow_schedules();
        // Until then a unit whose text is on its way looks like one that is removed.
'''),
 ('        let expiry = earliest(expiry, earliest(self.more_to_judge(), self.look_at_boot()));','        let expiry = earliest(earliest(expiry, clock), earliest(self.more_to_judge(), self.look_at_boot()));'),
 ('''            if let Some(event) = self.files.save(&name, self.observed.unit(&name)) {
                self.tell(event);
            }''','''            if let Some(event) = self.files.save(&name, self.observed.unit(&name)) {
                self.tell(event);
            }
            self.files.keep_timetable(&name, self.observed.unit(&name).and_then(|seen| seen.timetable.as_deref()));'''),
 ('''    /// Goes on with the events of earlier''','''    /// Of an earlier boot: schedules that are not persistent begin anew.
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

    /// Goes on with the events of earlier'''),
 ('State, end_environment, reconcile,','State, Timetable, WallTime, end_environment, reconcile,'))
sub('src/supervise/texts.rs',
 ('''        self.catalogue.update(&mut self.desired, &changes);
    }''','''        self.catalogue.update(&mut self.desired, &changes);
        changes.iter().for_each(|name| self.note_schedule(name));
    }'''))
# ---- store
sub('src/store/state.rs',
 ('''    /// The last good defaults.
    Defaults,''','''    /// How far the unit's schedule is.
    Timetable(UnitName),
    /// The last good defaults.
    Defaults,'''),
 ('''    /// The texts of the last good boot.
    pub good_boot: BTreeMap<UnitName, Good>,
    /// What was counted of the boots so far.
    pub boots: Option<Boots>,
    /// For [`Gen''','''    /// How far schedules are, by unit.
    pub timetables: Vec<(UnitName, Timetable)>,
    /// The texts of the last good boot.
    pub good_boot: BTreeMap<UnitName, Good>,
    /// What was counted of the boots so far.
    pub boots: Option<Boots>,
    /// For [`Gen'''),
 ('''    /// Generation mark.
    Reserve(u64),''','''    /// How far a schedule is; `None`: there is none.
    Timetable(UnitName, Option<Box<Timetable>>),
    /// Generation mark.
    Reserve(u64),'''),
 ('''            Work::Reserve(_) => Key::Generation,''','''            Work::Timetable(unit, _) => Key::Timetable(unit.clone()),
            Work::Reserve(_) => Key::Generation,'''),
 ('''    /// Adds an entry to the history, which''','''    /// Keeps how far a unit's schedule is.
    pub fn keep_timetable(&self, unit: UnitName, table: Option<Timetable>) -> Ticket {
        self.request(Work::Timetable(unit, table.map(Box::new)))
    }

    /// Adds an entry to the history, which'''),
 ('use crate::plan::Boots;','use crate::plan::{Boots, Timetable};'))
sub('src/store/disk.rs',
 ('''//! stops/<unit>.json     why it is stopped
''','''//! stops/<unit>.json     why it is stopped
//! schedules/<unit>.json how far its schedule is
'''),
 ('    stops: Dir,\n}','    stops: Dir,\n    schedules: Dir,\n}'),
 ('            stops: Vec::new(),\n','            stops: Vec::new(),\n            timetables: Vec::new(),\n'),
 ('''            Work::Reserve(mark) =>''','''            Work::Timetable(unit, Some(table)) => write_json(&self.dirs()?.schedules, &file_name(unit), table),
            Work::Timetable(unit, None) => self.dirs()?.schedules.remove(&file_name(unit), Durability::Sync),
            Work::Reserve(mark) =>'''),
 ('''            self.dirs = Some(Dirs { root, good: open("good")?, units: open("units")?, stops: open("stops")? });''','''            let (good, units, stops, schedules) = (open("good")?, open("units")?, open("stops")?, open("schedules")?);
            self.dirs = Some(Dirs { root, good, units, stops, schedules });'''),
 ('''        loaded.stops = stops;
        loaded.notes.extend(notes);
''','''        loaded.stops = stops;
        loaded.notes.extend(notes);
        let (timetables, notes) = load_records(&dirs.schedules)?;
        loaded.timetables = timetables;
        loaded.notes.extend(notes);
'''))
sub('src/supervise/files.rs',
 ('''    /// A failure to write records was told, and not yet a success.
    failing: bool,''','''    /// Schedules as they are stored, or about to be.
    timetables: BTreeMap<UnitName, Timetable>,
    /// A failure to write records was told, and not yet a success.
    failing: bool,'''),
 ('''    /// Texts of the last good boot.
    pub good_boot''','''    /// How far schedules were.
    pub timetables: Vec<(UnitName, Timetable)>,
    /// Texts of the last good boot.
    pub good_boot'''),
 ('            failing: false,\n','            timetables: loaded.timetables.iter().cloned().collect(),\n            failing: false,\n'),
 ('            good_boot: loaded.good_boot,\n','            timetables: loaded.timetables,\n            good_boot: loaded.good_boot,\n'),
 ('''    /// The unit was removed: neither its text nor a mark outlives that.
    pub fn drop_good(&mut self, name: &UnitName) {''','''    /// How far a schedule is survives a reboot.
    pub fn keep_timetable(&mut self, name: &UnitName, table: Option<&Timetable>) {
        if self.timetables.get(name) == table {
            return;
        }
        match table {
            Some(table) => drop(self.timetables.insert(name.clone(), table.clone())),
            None => drop(self.timetables.remove(name)),
        }
        self.state.keep_timetable(name.clone(), table.cloned());
    }

    /// The unit was removed: neither its text nor a mark outlives that.
    pub fn drop_good(&mut self, name: &UnitName) {
        self.keep_timetable(name, None);'''))
# ---- simulation
sub('tests/it/simulation/sample.rs',('        hooks: None,\n','        schedule: None,\n        hooks: None,\n'))
sub('tests/it/simulation/answers.rs',('        Action::Prove { .. } | Action::RollBack { .. } => return None,','        Action::Prove { .. } | Action::RollBack { .. } | Action::Schedule { .. } => return None,'))
sub('tests/it/simulation/effects.rs',
 ('            Action::Hook { .. } => {}\n','            Action::Hook { .. } | Action::Schedule { .. } => {}\n'),
 ('            Action::Forget { .. } | Action::Reboot { .. } => {}\n        }\n        Ok(())','            Action::Forget { .. } | Action::Reboot { .. } | Action::Schedule { .. } => {}\n        }\n        Ok(())'))

sub('src/supervise/files.rs',('use crate::plan::{BootTime, Boots, Hold, Observed, Seen, Until, WallTime};','use crate::plan::{BootTime, Boots, Hold, Observed, Seen, Timetable, Until, WallTime};'))
sub('src/supervise/mod.rs',('mod schedules;','pub mod schedules;'))
sub('src/cli/check.rs',
 ('''    sockets: BTreeMap<unit::UnitName, (Vec<unit::Socket>, Vec<Place>)>,
}''','''    sockets: BTreeMap<unit::UnitName, (Vec<unit::Socket>, Vec<Place>)>,
    /// When units with a schedule run next, a line for each.
    times: Vec<String>,
}'''),
 ('''            parsed.warnings.drain(..).for_each(|warning| report.warning(warning));
            Some(parsed)''','''            parsed.warnings.drain(..).for_each(|warning| report.warning(warning));
            // A zone that there is not is told as the mistake that it is.
            if let Some(times) = parsed.unit.schedule.as_deref().and_then(|schedule| next_times(schedule, TIMES).ok()) {
                report.times.push(format!("{}: next {}", path.display(), times.join(", ")));
            }
            Some(parsed)'''),
 ('''    let errors = report.findings.iter().filter(|finding| finding.error).count();
    let plural''','''    report.times.iter().for_each(|line| out.extend([line, "\\n"]));
    let errors = report.findings.iter().filter(|finding| finding.error).count();
    let plural'''),
 ('''/// Everything found.
#[derive(Debug, Default)]''','''/// So many of the next times of a schedule are shown.
const TIMES: usize = 3;

/// Everything found.
#[derive(Debug, Default)]'''))
import re
t=open('src/cli/check.rs').read()
t=t.replace('use crate::supervise::','use crate::supervise::schedules::next_times;\nuse crate::supervise::',1)
open('src/cli/check.rs','w').write(t)
shutil.copy('/tmp/p/s12/stage/it_schedules.rs','tests/it/schedules.rs')
t=open('tests/it/main.rs').read()
t=t.replace('mod schema;','mod schedules;\nmod schema;',1)
open('tests/it/main.rs','w').write(t)
sub('README.md',
 ('''**be sure that an update works?**''','''**run something every night?** A unit with a schedule is a oneshot that runs at times of the calendar.

```toml
[schedule]
calendar = "Mon..Fri 02:30"      # as systemd's OnCalendar: daily, *:0/15, *-*-1 04:00, Mon *-05~07/1; `moored check` shows the next three
time_zone = "Europe/Berlin"      # default: the host's (/etc/localtime); zones are read from /usr/share/zoneinfo
persistent = true                # default false: what is missed while the host is off is made up for, by one run
random_delay = "10m"             # default 0s: each run begins up to so much later
max_runtime = "1h"               # default: no limit; then it is stopped, and has failed
```

`ps` shows the next run, and how the last one ended; `moored start` runs it now, and waits for its end. Nothing starts because the file is new or changed. Runs do not overlap: what comes while one goes on is left out. Of a failure `[restart]` makes new runs before the next time (`policy = "on-failure"`;
default `"never"`). What came while the supervisor was dead or replaced is made up for in any case, by one run; after `moored down` or a reboot only if it is `persistent`.

When the clocks go forward, a time that is left out comes at the moment of the change; when they go back, a time that comes twice counts once, the first time. With every hour (`*:30`) each hour that goes by counts. If the clock is set forward over a time, the run is made up for; if it is set back by less than a
day, nothing runs twice. On a host without a clock of its own (no `/sys/class/rtc/rtc0`) nothing starts before somebody has set the clock (chrony, systemd-timesyncd, ntpd), and nowhere before 2026; `wait_for_clock = false` is for a virtual machine whose host sees to that.

**be sure that an update works?**'''),
 ('''[hooks.pre_stop]                  # also''','''[schedule]                        # makes it a oneshot
calendar = "daily"
time_zone = "UTC"                 # default: the host's
persistent = false
random_delay = "0s"
max_runtime = "1h"                # default: no limit
wait_for_clock = true

[hooks.pre_stop]                  # also'''))

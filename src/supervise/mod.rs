//! The supervisor: one loop, one mailbox, and the threads that post to it.
//!
//! ```text
//! watch ──texts, looks──▶┐                       ┌──jobs──▶ hands ──requests──▶ keeper
//! control ──────calls───▶├─▶ mailbox ─▶ loop ────┤            ▲                   │
//! log ──────────drained─▶│   (round.rs)          └─▶ stores   └────events─────────┘
//! hands ────────facts───▶┘
//! ```
//!
//! - The loop (`round`) records, reconciles, writes down, hands over. It waits for its mailbox and for nothing else.
//! - The hands (`hands`) do what was decided and watch the descriptors of what they did. They decide nothing.
//! - `catalogue` says which text of each unit is in force and which is next; `orders` puts the next one in force where that needs an order.
//! - `wait` says when a client's wish has come true, `planned` what would come of texts. With the catalogue they are pure.
//! - [`log`] moves what containers print; `session` runs what joins them.
//!
//! Killed at any instruction, the next supervisor finds the keeper's list, the records under `/run` and the texts on disk, and goes on.

mod adopt;
mod ahead;
mod attach;
mod bell;
mod calls;
mod cat;
pub mod catalogue;
mod clock;
pub mod contents;
mod deeds;
mod events;
mod fifo;
mod files;
mod guard;
mod hands;
mod holder;
mod hooks;
pub mod host;
mod job;
mod listen;
pub mod log;
mod mail;
mod marks;
mod narrate;
mod notify;
pub mod offline;
mod orders;
mod planned;
mod probe;
mod program;
mod ps;
mod rdt;
mod report;
mod round;
mod said;
pub mod schedules;
mod session;
mod signals;
mod socket;
pub mod source;
mod spares;
mod start;
mod subject;
mod swap;
mod terminal;
mod texts;
pub mod time_zone;
mod unit_hooks;
mod usage;
mod wait;
mod waiters;
mod watching;
mod why;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::Builder;

use bell::Inbox;
use catalogue::Catalogue;
use files::Files;
use hands::{Hands, Places};
use job::Job;
use log::LogWriter;
use mail::Mail;
use round::{End, Supervisor};
use spares::Spares;

use crate::cli::Settings;
use crate::runtime::cgroup::{CgroupRoot, without_effect};
use crate::store::Good;
use crate::sys::heap;
use crate::unit::{SourceFacts, SpecError, Unit, UnitName};
use crate::watch::{Options, Watch, trusted::Trust};
use crate::{control, keeper};

/// The token of the first look at everything.
const FIRST_READ: u64 = 1;

/// The threads call little; the default of 8 MiB is only reserved, but a small one keeps mistakes small.
const STACK_BYTES: usize = 256 * 1024;

/// Why the supervisor could not begin.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Keeper(#[from] keeper::ClientError),
    #[error("{step}: {source}")]
    System { step: &'static str, source: std::io::Error },
    #[error(transparent)]
    Cgroup(#[from] crate::runtime::cgroup::CgroupError),
    #[error(transparent)]
    Log(#[from] log::LogError),
    #[error(transparent)]
    Files(#[from] files::FilesError),
}

fn step<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> SetupError {
    move |source| SetupError::System { step, source: source.into() }
}

/// Runs the supervisor as a child of the keeper, until everything is stopped. The code is for the keeper.
pub fn main(settings: Settings) -> u8 {
    heap::share();
    tracing_subscriber::fmt().with_writer(|| said::Said).with_target(false).without_time().init();
    match supervise(settings) {
        Ok(End::Stopped | End::Detached) => 0,
        Ok(End::Reboot) => reboot(),
        Ok(End::Orphaned(why)) => {
            tracing::error!("{why}");
            1
        }
        Err(error) => {
            tracing::error!("cannot supervise: {error}");
            1
        }
    }
}

fn supervise(settings: Settings) -> Result<End, SetupError> {
    keeper::outlive().map_err(step("clearing the death signal"))?;
    // Executed by descriptor it would be called by the image's name; the kernel keeps 15 characters.
    let _ = rustix::thread::set_name(c"moored-supervisor");
    let (post, mailbox) = channel::<Mail>();
    let stored = post.clone();
    let opened = Files::open(&settings.run_dir, &settings.state_dir, move |fact| drop(stored.send(Mail::Stored(fact))));
    let (mut files, mut left) = opened?;
    left.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let guard = guard::begin(settings.boot_guard, &mut files, &mut left);
    let containers = settings.run_dir.join(keeper::CONTAINERS_DIR);
    std::fs::create_dir_all(&containers).map_err(step("making RUN/c"))?;
    let (requests, events) = keeper::connect(&settings.run_dir)?;
    let owner = settings.run_dir.to_string_lossy().into_owned();
    let cgroups = Arc::new(CgroupRoot::open(&settings.cgroup_root.to_string_lossy(), &owner)?);
    let log_post = post.clone();
    let log = LogWriter::start(&settings.run_dir, &settings.log_dir, settings.log_cap_bytes, move |event| {
        drop(log_post.send(Mail::Log(event)))
    })?;
    let log = Arc::new(log);
    let inbox = Arc::new(Inbox::new().map_err(step("making an eventfd"))?);
    let hands = Hands::new(
        Arc::clone(&inbox),
        post.clone(),
        requests,
        Arc::clone(&cgroups),
        Arc::clone(&log),
        Places { containers, state: settings.state_dir.clone(), userns_pool: settings.userns_pool },
        Spares::new(usize::from(settings.spare_namespaces)),
    )
    .map_err(step("making an epoll set"))?;
    start("hands", move || hands.run())?;
    listen(events, Arc::clone(&inbox))?;
    let _control = serve(&settings, post.clone())?;
    let of_clock = post.clone();
    let watch = Watch::start(options(&settings), watching::poster(post)).map_err(step("watching"))?;
    files.watch_with(watch);
    files.follow([watching::follow_defaults(&settings.config)].into_iter(), std::iter::empty());
    // It is the first to ask, so it is not too many.
    let _ = files.sync(FIRST_READ, []);
    let mut catalogue = Catalogue::new(&settings.units_dirs);
    if let Some(defaults) = left.defaults.filter(|defaults| defaults.file == settings.config) {
        catalogue.remember_defaults(defaults);
    }
    let first = remember(&mut catalogue, &mut files, &settings.units_dirs, left.good) == 0;
    let (fresh, manual) = (left.observed.units.is_empty(), settings.manual);
    let mut supervisor = Supervisor::new(settings, catalogue, left.observed, files, Arc::clone(&inbox), log);
    if manual {
        supervisor.wait_for_orders(first);
    }
    supervisor.guard = guard;
    supervisor.schedules.post = Some(of_clock);
    supervisor.restore_timetables(left.timetables);
    supervisor.restore_events(left.events, fresh);
    left.told.into_iter().for_each(|event| supervisor.tell(event));
    supervisor.restore_texts();
    supervisor.look_at_host();
    supervisor.restore_marks(left.marks);
    let end = supervisor.run(&mailbox);
    finish(&end, &inbox);
    if matches!(end, End::Stopped | End::Reboot) {
        cgroups.remove();
    }
    supervisor.conclude(&end);
    Ok(end)
}

/// Puts the last good texts in force until the directories say otherwise. One that this version does not take any more is left out, and
/// so is one of a directory that is not read any more: that one is not missing, it does not count. Returns how many count.
fn remember(catalogue: &mut Catalogue, files: &mut Files, dirs: &[PathBuf], goods: Vec<(UnitName, Good)>) -> usize {
    let mut count = 0;
    for (name, good) in goods {
        if !good.path.parent().is_some_and(|dir| dirs.iter().any(|read| read == dir)) {
            tracing::warn!("{name}: forgotten, as {} is in no directory that is read", good.path.display());
            files.drop_good(&name);
            continue;
        }
        count += 1;
        match catalogue::recall(&name, good, validate) {
            Ok((good, trial)) => catalogue.remember(good, trial),
            Err(errors) => tracing::warn!("{name}: its last good text is not valid any more: {}", errors.join("; ")),
        }
    }
    count
}

/// Tells the keeper that no successor is needed, and waits until it is said.
fn finish(end: &End, inbox: &Inbox<Job>) {
    let leave_running = match end {
        End::Stopped | End::Reboot => false,
        End::Detached => true,
        End::Orphaned(_) => return,
    };
    let (done, said) = channel();
    inbox.push(Job::Finish { leave_running, done });
    // The hands answer, or have ended with the keeper.
    let _ = said.recv();
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), SetupError> {
    let thread = Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work);
    thread.map(drop).map_err(step("starting a thread"))
}

/// The thread that receives from the keeper.
fn listen(mut events: keeper::Events, inbox: Arc<Inbox<Job>>) -> Result<(), SetupError> {
    start("keeper-events", move || {
        loop {
            match events.next() {
                Ok(event) => inbox.push(Job::Keeper(event)),
                Err(error) => return inbox.push(Job::KeeperGone(error)),
            }
        }
    })
}

fn serve(settings: &Settings, post: Sender<Mail>) -> Result<control::Server, SetupError> {
    let listener = control::socket::bind(&settings.run_dir).map_err(step("making the control socket"))?;
    control::Server::start(listener, move |call| drop(post.send(Mail::Control(call))))
        .map_err(step("serving the control socket"))
}

fn options(settings: &Settings) -> Options {
    let trusted = Trust::new(rustix::process::geteuid().as_raw());
    let sudo = || std::env::var("SUDO_UID").ok()?.parse().ok();
    let by_hand = settings.given_by_hand.then(sudo).flatten();
    let trusted = by_hand.into_iter().fold(trusted, Trust::and);
    Options { dirs: settings.units_dirs.clone(), trusted }
}

/// Checks a unit together with its source down to the last step. `Ok` holds warnings.
pub fn validate(unit: &Unit, facts: &SourceFacts) -> Result<Vec<String>, Vec<SpecError>> {
    if let Some(schedule) = &unit.schedule {
        let (file, place, path) = (None, None, "schedule.time_zone".to_owned());
        time_zone::read(schedule.time_zone.as_deref())
            .map_err(|message| vec![SpecError { file, place, path, message }])?;
    }
    let program = program::check(unit, facts, "check", &swap::ConfigDir::of_none())?;
    Ok(program.warnings.into_iter().chain(without_effect(&program.cgroup)).collect())
}

/// `on_limit = "reboot"`. A process 1 that reboots in order is asked to, so that the rest of the host stops too: systemd, or our own anchor.
fn reboot() -> u8 {
    rustix::fs::sync();
    let is_moored = || std::fs::read_to_string("/proc/1/comm").is_ok_and(|name| name.trim_end() == "moored");
    let takes_it = std::path::Path::new("/run/systemd/system").is_dir() || is_moored();
    let asked =
        takes_it && nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), nix::sys::signal::Signal::SIGINT).is_ok();
    if !asked && let Err(errno) = rustix::system::reboot(rustix::system::RebootCommand::Restart) {
        tracing::error!("rebooting: {errno}");
        return 1;
    }
    0
}

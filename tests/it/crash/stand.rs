//! What kill points are tried on: a container that tells on itself, one beside it that nothing may touch, and a cgroup that is nobody's.
//!
//! `alone` writes below `/data` what none of the killed processes can make up: a line for each run (`runs`), each end of its own accord
//! (`exits`) and each reload (`reloads`), each with the time of the boot clock; `twice`, if another generation of it has not come to its end (one
//! that was killed leaves the same mark, and none is to be); and how many numbered lines it has printed (`printed`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use moored::control::protocol::UnitReport;
use moored::control::{Client, Request, Response};
use moored::keeper::{self, Stats};
use moored::sys::image;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

use super::super::support::{LOOK, PATIENCE, Patience, is_alive, wait_for};
use super::{WAITS, World, signal, world};

/// Lines that one print adds: more than a log file of the least size takes.
pub const PRINT: usize = 60;
/// The gap that `alone` asks for between an end and the next start.
pub const DELAY: Duration = Duration::from_millis(300);
/// `/proc/uptime` counts hundredths, cut off.
const UPTIME_ERROR: f64 = 0.011;

const ALONE: &str = "mkdir /data/alive || echo twice >> /data/twice
up() { read now idle < /proc/uptime; echo $now; }
n=$(cat /data/printed 2>/dev/null || echo 0)
print() { m=$((n + 60)); while [ $n -lt $m ]; do echo line $n ........................................................................; n=$((n + 1)); done; echo $n > /data/printed.new; mv /data/printed.new /data/printed; }
trap 'rm -r /data/alive; exit 7' TERM; trap 'up >> /data/reloads' HUP
trap 'up >> /data/exits; rm -r /data/alive; exit 9' USR2; trap print USR1
up >> /data/runs; touch /data/alive/ready
sleep 1000000 & while :; do wait; done";

/// See the module.
pub struct Stand {
    pub world: World,
    other: Cell<i32>,
    stranger: Child,
    /// Keeper and anchor died both: the containers are nobody's children any more.
    orphaned: Cell<bool>,
    /// How far `up`'s words were looked at, and what they said of the ends of each generation.
    heard: RefCell<(usize, BTreeMap<String, BTreeSet<String>>)>,
}

/// What is compared with later.
#[derive(Debug, Clone, Default)]
pub struct Before {
    pub runs: usize,
    pub exits: usize,
    pub reloads: usize,
    pub printed: usize,
    pub id: Option<String>,
    pub pid: Option<i32>,
    pub supervisor: Option<i32>,
}

impl Stand {
    /// `None` (skipped) without root or busybox.
    pub fn new(name: &str) -> Option<Stand> {
        let world = world(name, &[])?;
        let stranger = Command::new("sleep").arg("1000000").stdin(Stdio::null()).spawn().unwrap();
        let cgroup = world.moored.cgroup().join("stranger.1");
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), stranger.id().to_string()).unwrap();
        let restart = format!("[restart]\ndelay = \"{0}ms\"\nmax_delay = \"{0}ms\"\n", DELAY.as_millis());
        world.unit(
            "alone",
            ALONE,
            &format!("{restart}[log]\nmax_size = \"4K\"\nmax_files = 1000\n[stop]\ntimeout = \"5s\""),
        );
        world.unit("other", WAITS, "");
        world.running(2);
        let stand =
            Stand { world, other: Cell::new(0), stranger, orphaned: Cell::new(false), heard: RefCell::default() };
        stand.meet_other();
        Some(stand)
    }

    /// Ends it in order, and begins anew on the same directories: the keeper or the anchor is not the first one any more. What was wrong at the end.
    pub fn renew(&mut self) -> Vec<String> {
        if self.stats().is_some_and(|stats| stats.anchor == Some(self.world.moored.anchor_pid())) {
            let code = self.world.moored.stop().code();
            assert_eq!(code, Some(0), "{}", self.world.moored.output());
        }
        let wrongs = self.listen();
        self.orphaned.set(false);
        self.up();
        self.meet_other();
        wrongs
    }

    /// Begins with another anchor, once the one before is dead.
    pub fn up_again(&mut self) {
        wait_for("the anchor's death", || (!is_alive(self.world.moored.anchor_pid())).then_some(()));
        self.orphaned.set(true);
        self.up();
    }

    /// The units are answered for before an anchor that takes control has it.
    fn up(&mut self) {
        self.world.moored.up();
        let pid = self.world.moored.anchor_pid();
        wait_for("the anchor to be known", || (self.stats()?.anchor == Some(pid)).then_some(()));
    }

    fn meet_other(&self) {
        self.other.set(self.world.moored.pid("other"));
    }

    // ---- who is there ----

    fn run_dir(&self) -> PathBuf {
        self.world.moored.dir.join("run")
    }

    pub fn stats(&self) -> Option<Stats> {
        keeper::observe(&self.run_dir()).ok()
    }

    /// The three processes when nothing is under way any more.
    pub fn quiet(&self) -> Stats {
        let mut loud = String::new();
        let mut patience = Patience::of(PATIENCE);
        while !patience.is_over() {
            let (stats, rows) = (self.stats(), self.rows());
            let containers = rows.iter().filter(|row| row.id.is_some()).count();
            let is_quiet = |stats: &Stats| {
                let known = self.orphaned.get() || stats.children as usize == containers;
                !stats.adopting && known && stats.unacknowledged == 0 && stats.supervisor.is_some()
            };
            match stats {
                Some(stats) if is_quiet(&stats) => return stats,
                stats => loud = format!("{stats:#?}\n{rows:#?}"),
            }
            std::thread::sleep(LOOK);
        }
        panic!("waited {PATIENCE:?} in vain for all to be quiet: {loud}\n{}", self.world.moored.output())
    }

    /// The answers to a request, or why there are none.
    pub fn ask(&self, request: &Request) -> Result<Vec<Response>, String> {
        ask(&self.run_dir(), request)
    }

    /// The same from a thread of its own.
    pub fn ask_aside(&self, request: Request) -> std::thread::JoinHandle<Result<Vec<Response>, String>> {
        let run_dir = self.run_dir();
        std::thread::spawn(move || ask(&run_dir, &request))
    }

    /// Has all three replaced, from a thread of its own.
    pub fn upgrade_aside(&self) -> std::thread::JoinHandle<Result<Vec<Response>, String>> {
        let run_dir = self.run_dir();
        std::thread::spawn(move || {
            let mut program = fs::File::open(super::super::support::program()).map_err(|error| error.to_string())?;
            let image = image::sealed(&mut program, c"moored").map_err(|error| error.to_string())?;
            match keeper::upgrade(&run_dir, image.as_fd()).map_err(|error| error.to_string())?.trouble {
                None => Ok(Vec::new()),
                Some(trouble) => Err(trouble),
            }
        })
    }

    /// Nothing while nobody answers.
    pub fn rows(&self) -> Vec<UnitReport> {
        let Ok(client) = Client::connect_once(&self.run_dir()) else { return Vec::new() };
        match client.call(&Request::Ps { units: Vec::new() }, &[]).map(|mut answers| answers.next()) {
            Ok(Some(Ok(Response::Units { units, .. }))) => units,
            _ => Vec::new(),
        }
    }

    pub fn row(&self, unit: &str) -> Option<UnitReport> {
        self.rows().into_iter().find(|row| row.unit == unit)
    }

    // ---- what was seen ----

    pub fn count(&self, file: &str) -> usize {
        self.world.lines(file).len()
    }

    pub fn printed(&self) -> usize {
        self.world.lines("printed").first().and_then(|line| line.parse().ok()).unwrap_or(0)
    }

    pub fn look(&self) -> Before {
        let row = self.row("alone");
        Before {
            runs: self.count("runs"),
            exits: self.count("exits"),
            reloads: self.count("reloads"),
            printed: self.printed(),
            id: row.as_ref().and_then(|row| row.id.clone()),
            pid: row.and_then(|row| row.pid),
            supervisor: self.stats().and_then(|stats| stats.supervisor),
        }
    }

    pub fn signal_alone(&self, what: Signal) {
        signal(wait_for("a pid", || self.row("alone")?.pid), what);
    }

    /// `alone` runs, and its script has said so, which is the last thing that it does of its own accord.
    pub fn run_alone(&self) {
        let runs = self.count("runs");
        let row = wait_for("an answer", || self.row("alone"));
        if row.phase == "stopped" {
            wait_for("a start", || self.ask(&Request::Start { units: vec!["alone".to_owned()] }).ok());
            wait_for("its script", || (self.count("runs") > runs).then_some(()));
        }
        self.wait_alone("running");
        wait_for("its script", || self.world.data.join("alive/ready").exists().then_some(()));
        self.quiet();
    }

    /// `alone` has a terminal from its next start on.
    pub fn give_terminal(&self) {
        let dir = self.world.moored.units().join("alone.toml.d");
        let _ = fs::create_dir(&dir);
        fs::write(dir.join("terminal.toml"), "process.terminal = true\n").unwrap();
        let sync = Request::Sync { units: vec!["alone".to_owned()], timeout_ms: None };
        wait_for("the text", || self.ask(&sync).ok());
    }

    /// The terminal of `alone` has not hung up: else nobody could open it, and its program would have been told.
    pub fn has_terminal(&self, before: &Before) -> Result<(), String> {
        let pid = self.row("alone").and_then(|row| row.pid).ok_or("no pid of alone")?;
        let console = format!("/proc/{pid}/root/dev/console");
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&console, flags, Mode::empty()).map_err(|errno| format!("{console}: {errno}"))?;
        want("on a terminal", &rustix::termios::isatty(&opened), &true)?;
        want("hang-ups", &self.count("reloads"), &before.reloads)
    }

    /// `alone` is stopped, and nothing is left of it.
    pub fn stop_alone(&self) {
        self.run_alone();
        let stop = Request::Stop { units: vec!["alone".to_owned()], reason: None, for_ms: None };
        wait_for("a stop", || self.ask(&stop).ok());
        self.wait_alone("stopped");
        self.quiet();
    }

    fn wait_alone(&self, phase: &str) {
        let mut last = None;
        let mut patience = Patience::of(PATIENCE);
        while last.as_ref().is_none_or(|row: &UnitReport| row.phase != phase) {
            assert!(!patience.is_over(), "not {phase} but {last:?}\n{}", self.world.moored.output());
            std::thread::sleep(Duration::from_millis(2));
            last = self.row("alone");
        }
    }

    // ---- what must hold ----

    /// As it was, but for what the operation changes; `alone` is the same container.
    pub fn same(&self, before: &Before) -> Result<(), String> {
        let row = self.row("alone").ok_or("no answer")?;
        want("alone's phase", &row.phase.as_str(), &"running")?;
        want("alone's container", &row.id, &before.id)?;
        want("alone's pid", &row.pid, &before.pid)?;
        want("runs", &self.count("runs"), &before.runs)?;
        self.settled(2)
    }

    /// Nothing is under way, nothing is left over, and what nothing may touch was not touched.
    pub fn settled(&self, containers: usize) -> Result<(), String> {
        let stats = self.stats().ok_or("no keeper")?;
        if !self.orphaned.get() {
            want("children", &(stats.children as usize), &containers)?;
        }
        want("unacknowledged", &stats.unacknowledged, &0)?;
        want("cgroups", &self.world.cgroups().len(), &(containers + 1))?;
        let dirs = fs::read_dir(self.run_dir().join("c")).map_or(0, Iterator::count);
        want("directories in RUN/c", &dirs, &containers)?;
        Ok(())
    }

    /// What is wrong whenever it is seen.
    pub fn wrongs(&self) -> Vec<String> {
        let mut wrongs = Vec::new();
        if self.world.data.join("twice").exists() {
            let _ = fs::remove_file(self.world.data.join("twice"));
            wrongs.push("SAFETY 1: two generations at a time".to_owned());
        }
        let other = self.row("other");
        if !is_alive(self.other.get()) || other.as_ref().is_some_and(|row| row.pid != Some(self.other.get())) {
            wrongs.push(format!("SAFETY 4, 12: other was {}, is {other:?}", self.other.get()));
            self.meet_other();
        }
        if !is_alive(self.stranger.id() as i32) {
            wrongs.push("SAFETY 12: the cgroup that nobody knows was killed".to_owned());
        }
        wrongs.extend(self.listen());
        let (runs, exits) = (self.times("runs"), self.times("exits"));
        if let (Some(start), Some(end)) = (runs.last(), exits.last())
            && start > end
            && start - end < DELAY.as_secs_f64() - UPTIME_ERROR
        {
            wrongs.push(format!("SAFETY 5: started {} s after its end", start - end));
        }
        wrongs
    }

    fn times(&self, file: &str) -> Vec<f64> {
        self.world.lines(file).iter().filter_map(|line| line.parse().ok()).collect()
    }

    /// What `up` said since the last time.
    fn listen(&self) -> Vec<String> {
        let mut wrongs = Vec::new();
        let mut heard = self.heard.borrow_mut();
        let output = self.world.moored.output();
        let end = output.rfind('\n').map_or(0, |at| at + 1);
        let fresh = output[heard.0.min(end)..end].to_owned();
        heard.0 = end;
        for line in fresh.lines() {
            if line.contains("panicked") || line.contains("nobody saw how") && !self.orphaned.get() {
                wrongs.push(format!("said: {line}"));
            }
            let Some((before, said)) = line.split_once(" exited: ").or(line.split_once(" ended; ")) else { continue };
            let Some(id) = before.split_whitespace().rev().find(|word| word.contains('.')) else { continue };
            let sentences = heard.1.entry(id.to_owned()).or_default();
            sentences.insert(said.to_owned());
            if sentences.len() > 1 {
                wrongs.push(format!("SAFETY 6: {id} ended in two ways: {sentences:?}"));
            }
        }
        wrongs
    }

    /// At the end: every run that is over has one exit record, and every line is in the log.
    pub fn account(&self) -> Vec<String> {
        let mut wrongs = self.listen();
        self.stop_alone();
        wrongs.extend(self.listen());
        let heard = self.heard.borrow();
        let ended = heard.1.keys().filter(|id| id.starts_with("alone.")).count();
        let runs = self.count("runs");
        if ended != runs {
            wrongs.push(format!("SAFETY 6: {runs} runs, and {ended} exit records"));
        }
        let text = self.world.moored.log("alone");
        let numbers = text.lines().filter_map(|line| line.split(' ').nth(1)?.parse::<usize>().ok());
        let printed = self.printed();
        let complete = numbers.eq(0..printed) && text.lines().count() == printed;
        if !complete {
            wrongs.push(format!("SAFETY 8: of {printed} lines {} are in the log", text.lines().count()));
        }
        wrongs
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = self.stranger.kill();
        let _ = self.stranger.wait();
    }
}

/// An error names what is not as wanted.
pub fn want<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} instead of {wanted:?}")) }
}

fn ask(run_dir: &std::path::Path, request: &Request) -> Result<Vec<Response>, String> {
    let null = || fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let fds: Vec<OwnedFd> = match request {
        Request::Exec { .. } => (0..3).map(|_| null()).collect::<Result<_, _>>().map_err(|error| error.to_string())?,
        _ => Vec::new(),
    };
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let client = Client::connect(run_dir).map_err(|error| error.to_string())?;
    let answers = client.call(request, &fds).map_err(|error| error.to_string())?;
    let answers = answers.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    match answers.last() {
        None => Err("the connection ended without an answer".to_owned()),
        Some(Response::Error { message, .. }) => Err(message.clone()),
        Some(_) => Ok(answers),
    }
}

//! What is said on the control socket, and what `--json` prints.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::compact;

/// Grows when an old client or server could misunderstand the other; both refuse another version by name.
pub const VERSION: u32 = 1;

/// The first line of a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// What is wanted.
    pub request: Request,
}

/// What a client can ask. Unit names arrive as typed; the supervisor answers with an error that names close ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Request {
    /// All units, or these: one [`Response::Units`].
    Ps {
        /// Empty: all.
        units: Vec<String>,
    },
    /// One unit in full ([`Response::Status`]), or the supervisor itself ([`Response::Supervisor`]).
    Status {
        /// `None`: the supervisor.
        unit: Option<String>,
    },
    /// Past events, then with `follow` what happens: [`Response::Event`] each.
    Events {
        /// Go on.
        follow: bool,
        /// Only events at or after this many ms since 1970.
        since_ms: Option<u64>,
        /// Empty: all units.
        units: Vec<String>,
    },
    /// What led to what a unit is doing now: one [`Response::Why`].
    Why {
        /// Also one that is gone, while there are events about it.
        unit: String,
    },
    /// The merged text in force: one [`Response::Cat`].
    Cat {
        /// Which.
        unit: String,
    },
    /// Clear holds and marks, and run.
    Start {
        /// Which.
        units: Vec<String>,
    },
    /// Stop, and stay stopped until `start`, the time, or the file's removal.
    Stop {
        /// Which.
        units: Vec<String>,
        /// Why, for people.
        reason: Option<String>,
        /// For this long.
        for_ms: Option<u64>,
    },
    /// Stop, then start, without backoff.
    Restart {
        /// Which.
        units: Vec<String>,
    },
    /// Do what `[reload]` says, SIGHUP if it says nothing.
    Reload {
        /// Which.
        units: Vec<String>,
    },
    /// Send a signal to pid 1 of the container, or to everything in it.
    Kill {
        /// Which.
        units: Vec<String>,
        /// Signal number.
        signal: u8,
        /// The whole cgroup (SIGKILL only) instead of its pid 1.
        all: bool,
    },
    /// Wait until what is on disk now is read and converged: [`Response::Synced`].
    Sync {
        /// Empty: all.
        units: Vec<String>,
        /// Give up after this long.
        timeout_ms: Option<u64>,
    },
    /// What would change: [`Response::Plan`].
    Plan {
        /// Compare with this directory instead of those in force.
        dir: Option<PathBuf>,
    },
    /// Read what is on disk now and put it in force, past the quiet time: [`Response::Done`] for what was done, then [`Response::Synced`].
    Apply {
        /// Also the removals that the mass-removal brake holds back.
        confirm_removals: bool,
        /// Empty: all.
        #[serde(default)]
        units: Vec<String>,
        /// Give up after this long.
        #[serde(default)]
        timeout_ms: Option<u64>,
        /// All of it, or nothing if any of it is not valid.
        #[serde(default)]
        atomic: bool,
        /// Only if this is still the hash of the plan.
        #[serde(default)]
        plan: Option<String>,
    },
    /// Stop everything in order and end. Answers [`Response::Done`] when all is stopped.
    Down,
    /// Run a process inside. Descriptors beside the request: stdin, stdout, stderr; with `tty` instead one end of a socket pair, on which
    /// the master of the new terminal arrives by SCM_RIGHTS. Answers [`Response::ExecStarted`], then [`Response::ExecEnded`].
    Exec {
        /// Where.
        unit: String,
        /// What.
        args: Vec<String>,
        /// `NAME=value`, over the container's own.
        env: Vec<String>,
        /// Working directory; `None`: the container's own.
        cwd: Option<String>,
        /// `user[:group]`; `None`: the container's own.
        user: Option<String>,
        /// With a terminal of the container's.
        tty: bool,
        /// Rows and columns at the start.
        size: Option<(u16, u16)>,
    },
    /// Where a unit is, for `debug`: one [`Response::Subject`].
    Subject {
        /// Which.
        unit: String,
    },
    /// Go on with a session whose supervisor is gone; answers as to `exec`.
    Attach {
        /// As [`Response::ExecStarted`] named it.
        session: String,
    },
    /// Be attached to the terminal of a unit. Descriptor beside the request: one end of a socket pair, on which the master arrives by
    /// SCM_RIGHTS, and that of each further container. Answers [`Response::Terminal`], then [`Response::TerminalEnded`] when the unit runs no more.
    Terminal {
        /// Which.
        unit: String,
    },
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Response {
    /// For `ps`.
    Units {
        /// In name order.
        units: Vec<UnitReport>,
        /// What concerns no single unit: directories missing or braked, files that are no units.
        notes: Vec<String>,
    },
    /// For `status UNIT`.
    Status(Box<UnitStatus>),
    /// For `status`.
    Supervisor(Box<SupervisorReport>),
    /// For `events`.
    Event(Event),
    /// For `why`.
    Why(Box<Account>),
    /// For `cat`.
    Cat(Box<MergedText>),
    /// For `debug`.
    Subject(Box<Subject>),
    /// For `sync`.
    Synced {
        /// 0 converged, 1 a text is invalid, 2 a unit failed, 3 timeout.
        code: u8,
        /// One line per unit that is not as it should be.
        lines: Vec<String>,
    },
    /// For `plan`.
    Plan {
        /// In the order in which they would happen; units that stay as they are are left out.
        changes: Vec<Change>,
        /// Errors of the texts compared.
        errors: Vec<String>,
        /// The same as long as what is next and what is in force are; none for another directory.
        #[serde(default)]
        hash: Option<String>,
    },
    /// An action was accepted or has ended; one line per unit.
    Done {
        /// For people.
        lines: Vec<String>,
    },
    /// The process runs.
    ExecStarted {
        /// As the host sees it.
        pid: i32,
        /// For [`Request::Attach`]; empty from a supervisor that does not know it.
        #[serde(default)]
        session: String,
    },
    /// The process ended: its code, or 128 + signal.
    ExecEnded {
        /// 0 to 255.
        code: u8,
    },
    /// For `attach`.
    Terminal {
        /// The unit has one, as its text in force says. Without one the connection ends.
        has: bool,
        /// Its phase.
        phase: String,
    },
    /// The unit runs no more until somebody acts.
    TerminalEnded {
        /// Its phase.
        phase: String,
    },
    /// Nothing was done.
    Error {
        /// What was wrong, what was expected, the cure.
        message: String,
        /// What the client exits with.
        code: u8,
    },
}

/// One row of `ps`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct UnitReport {
    /// Its name.
    pub unit: String,
    /// waiting, starting, running, ready, stopping, backoff, completed, failed, stopped, stuck.
    pub phase: String,
    /// Of the live generation's first process, as the host sees it.
    pub pid: Option<i32>,
    /// When the phase began, ms since 1970.
    pub since: Option<u64>,
    /// Starts after the first one.
    pub restarts: u64,
    /// The last exit: `code 1`, `signal SIGKILL (out of memory)`, `unknown`.
    pub exit: Option<String>,
    /// Why it is in this phase, in words; also what drifted, if anything did.
    pub reason: String,
    /// `None` without a health check.
    pub health: Option<String>,
    /// Why disk and running differ, if they do.
    pub drift: Option<String>,
    /// The live container.
    pub id: Option<String>,
    /// In a start-first update: the container that is to take over from it, or from which it took over.
    #[serde(default)]
    pub beside: Option<Other>,
    /// Where somebody listens for it, by `[[socket]]`.
    #[serde(default)]
    pub listens: Vec<String>,
    /// The unit that it is a replica of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_of: Option<String>,
    /// Its runs, if it has a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Runs>,
}

/// The runs of a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// When the next one is, ms since 1970; `None`: one goes on, there is none, or nobody can say: see the unit's reason.
    pub next: Option<u64>,
    /// When the last one ended, ms since 1970.
    pub last: Option<u64>,
    /// How: as in the unit's reason.
    pub outcome: Option<String>,
    /// The last one was no success.
    pub failed: bool,
}

/// All replicas of a unit in one row: how many there are in each phase, and why the first that is not as most of them are is not.
pub fn fold(unit: &str, all: &[UnitReport]) -> UnitReport {
    let is_fine = |phase: &str| matches!(phase, "ready" | "running" | "completed");
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for row in all {
        match counts.iter_mut().find(|(phase, _)| *phase == row.phase) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => counts.push((&row.phase, 1)),
        }
    }
    compact::sort_by_key(&mut counts, |(phase, count)| (!is_fine(phase), std::cmp::Reverse(*count)));
    let words = |(phase, count): &(&str, usize)| format!("{count}/{} {phase}", all.len());
    let phase = counts.first().map_or("stopped", |(phase, _)| phase);
    let odd = all.iter().find(|row| !is_fine(&row.phase)).or(all.iter().find(|row| !row.reason.is_empty()));
    let why = odd.filter(|row| !row.reason.is_empty()).map(|row| format!("; {}: {}", row.unit, row.reason));
    let numbers = match counts.is_empty() {
        true => "no replicas".to_owned(),
        false => counts.iter().map(words).collect::<Vec<_>>().join(", "),
    };
    UnitReport {
        unit: unit.to_owned(),
        phase: phase.to_owned(),
        since: all.iter().filter_map(|row| row.since).max(),
        restarts: all.iter().map(|row| row.restarts).sum(),
        reason: format!("{numbers}{}", why.unwrap_or_default()),
        drift: all.iter().find_map(|row| row.drift.clone()),
        listens: all.first().map(|row| row.listens.clone()).unwrap_or_default(),
        ..UnitReport::default()
    }
}

/// Where a unit is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Its whole name.
    pub unit: String,
    /// The live container.
    pub id: Option<String>,
    /// Of its first process, as the host sees it; `None` until its program runs.
    pub pid: Option<i32>,
    /// What its root is made of.
    pub root: Root,
}

/// What a unit's root is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Root {
    /// The host's.
    Host,
    /// One static program, with a root around it.
    Program,
    /// A directory.
    Directory {
        /// On the host, absolute.
        path: PathBuf,
    },
    /// A union.
    Layers {
        /// On the host, absolute, the lowest first.
        layers: Vec<PathBuf>,
        /// What is kept above them, if anything is.
        upper: Option<PathBuf>,
    },
}

/// The other container of a unit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Other {
    /// Which.
    pub id: String,
    /// Of its first process, as the host sees it.
    pub pid: Option<i32>,
}

/// `status UNIT`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct UnitStatus {
    /// The row of `ps`.
    #[serde(flatten)]
    pub report: UnitReport,
    /// Free text of the unit.
    pub description: Option<String>,
    /// The unit file.
    pub file: Option<PathBuf>,
    /// What is merged with it in force: moored.toml, then the drop-ins.
    #[serde(default)]
    pub merged_with: Vec<PathBuf>,
    /// Errors of the text on disk, when it is not the one in force.
    pub errors: Vec<String>,
    /// What it is made of: `bundle /srv/web`.
    pub source: String,
    /// The host's id that is 0 inside, if the container that runs has ids of its own.
    #[serde(default)]
    pub first_id: Option<u32>,
    /// The exit before the last one.
    pub previous_exit: Option<String>,
    /// Its cgroup, below the v2 root.
    pub cgroup: Option<String>,
    /// Bytes in use now, if the kernel says.
    pub memory_bytes: Option<u64>,
    /// Bytes allowed.
    pub memory_limit_bytes: Option<u64>,
    /// Tasks now.
    pub tasks: Option<u64>,
    /// CPU time used, in microseconds.
    pub cpu_us: Option<u64>,
    /// Security settings looser than the defaults, and best-effort settings that this host refused.
    pub looser: Vec<String>,
    /// The last log lines.
    pub log: Vec<String>,
}

/// `status` without a unit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SupervisorReport {
    /// `None`: killed; the keeper goes on without a spare.
    pub anchor: Option<i32>,
    /// The containers' parent.
    pub keeper: Option<i32>,
    /// This process.
    pub supervisor: i32,
    /// Which moored each of them is.
    #[serde(default)]
    pub builds: Builds,
    /// "no spare", "oom_score_adj refused", braked directories …
    pub notes: Vec<String>,
    /// Watched directories.
    pub units_dirs: Vec<PathBuf>,
    /// How many units are in force.
    pub units: usize,
    /// How many containers live.
    pub containers: usize,
    /// Bytes that the logs of all units take.
    pub log_bytes: u64,
    /// Cgroups under our root that nobody knows.
    pub unknown_cgroups: Vec<String>,
}

/// Which moored each process is: its version, and its build's number.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Builds {
    /// `None`: killed, or it has not said it yet.
    pub anchor: Option<String>,
    /// The containers' parent.
    pub keeper: Option<String>,
    /// Who answers.
    pub supervisor: String,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Event {
    /// ms since 1970.
    pub time: u64,
    /// Which unit, if one.
    pub unit: Option<String>,
    /// started, exited, stopping, … one word.
    pub what: String,
    /// In words.
    pub text: String,
    /// Who caused it: `file`, `policy`, `root (moored, pid 12)`.
    pub by: Option<String>,
    /// Counts events, also across restarts of the supervisor; 0 in what an older one wrote.
    #[serde(default)]
    pub number: u64,
    /// Which container of the unit, if one.
    #[serde(default)]
    pub generation: Option<u64>,
    /// The number of the event that led to this one, if it is known.
    #[serde(default)]
    pub cause: Option<u64>,
}

/// `why UNIT`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Account {
    /// The row of `ps`: what it is doing now.
    pub now: UnitReport,
    /// What led to it, oldest first.
    pub chain: Vec<Link>,
    /// Errors of the text on disk, when it is not the one in force.
    pub errors: Vec<String>,
    /// The cause of the first link is not kept any more.
    pub cut: bool,
}

/// One link of [`Account::chain`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Link {
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// So many exits and starts between this and the next link are left out.
    pub left_out: u64,
}

/// `cat UNIT`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MergedText {
    /// Its name.
    pub unit: String,
    /// What it was merged from, later ones winning.
    pub files: Vec<PathBuf>,
    /// One file that means the same.
    pub text: String,
    /// The values in it.
    pub values: Vec<MergedValue>,
    /// Why what is on disk is not in force, if it is not.
    pub differs: Option<String>,
    /// Errors of what is on disk.
    pub errors: Vec<String>,
}

/// One value of [`MergedText`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergedValue {
    /// `resources.memory`, `mount./data.source`.
    pub key: String,
    /// As JSON has it; relative paths are written out.
    pub value: serde_json::Value,
    /// Where it came from.
    pub file: PathBuf,
    /// From 1.
    pub line: u32,
}

/// One line of `plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which unit.
    pub unit: String,
    /// add; of a unit in force: start, replace, reload (its container runs on, with other contents of its files or told so), live (without a
    /// new container), stop, remove; invalid, wait.
    pub how: String,
    /// In words.
    pub why: String,
    /// What differs, by name.
    #[serde(default)]
    pub settings: Vec<ChangedSetting>,
}

/// One setting of a unit that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangedSetting {
    /// `restart.policy`, `mount./data`, `config.json process.args[1]`.
    pub name: String,
    /// replace, reload, live.
    pub how: String,
    /// As a unit file has it; null: absent, so the default.
    pub old: Option<String>,
    /// As `old`.
    pub new: Option<String>,
    /// What env files define is in it: `old` and `new` say only that there is something.
    #[serde(default)]
    pub hidden: bool,
}

//! Unit files: TOML text to [`Unit`], and [`Unit`] to an OCI spec.
//!
//! Pure: text and facts in, values or a list of errors out. Every error of a file is reported at once, each with
//! file:line:column, what was found, what was expected and a suggestion. A unit may be merged from several texts
//! ([`Layer`]): the defaults, its own file, its drop-ins.

#[cfg(test)]
mod any_text_tests;
pub mod calendar;
mod capability;
pub mod cat;
mod change;
mod config_file;
#[cfg(test)]
mod config_file_tests;
mod defaults;
mod dependency;
pub(crate) mod diagnostic;
mod elf;
mod entry;
mod env_file;
#[cfg(test)]
mod env_file_tests;
mod facts;
mod filled;
pub mod fingerprint;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod hooks;
mod host;
mod init_toml;
#[cfg(test)]
mod init_toml_tests;
mod instances;
mod json;
mod keys;
mod layer;
mod layers;
mod merge;
#[cfg(test)]
mod mistakes;
mod moored_toml;
mod mounts;
pub mod name;
mod overlay;
#[cfg(test)]
mod overlay_tests;
mod parse;
#[cfg(test)]
mod parse_tests;
mod path;
mod process;
pub(crate) mod quantity;
mod replicas;
mod root;
mod schedule;
mod schema;
pub mod seccomp_default;
mod seccomp_file;
mod sections;
mod signal;
pub mod socket;
#[cfg(test)]
mod socket_tests;
pub mod spec;
#[cfg(test)]
mod spec_tests;
mod specifier;
mod told;
mod update;
mod variable;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use calendar::{BadCalendar, Calendar};
pub use change::{SettingChange, changes};
pub use config_file::{ConfigFile, FileContents, MOUNT as CONFIG_MOUNT, OnChange, SwapMark};
pub use dependency::{Condition, Dependency, Need, OnLoss};
pub use diagnostic::Diagnostic;
pub use elf::{ELF_BYTES, NotStatic, check_executable};
pub use entry::{
    BadEntry, drop_in_target, file_stem_to_name, files_with_drop_ins, is_template, template_of, template_sample,
};
pub use env_file::{EnvFile, Variables};
pub use facts::SourceFacts;
pub use fingerprint::{Effect, Fingerprint, container_fingerprint, digest, fingerprint};
pub use health::{Check, CheckKind, From, Health, Probe};
pub use hooks::{DEFAULT_HOOK_TIMEOUT, HookOn, HookPoint, UnitHook, UnitHooks};
pub use init_toml::{BootGuard, HostAddress, HostMount, INIT_TOML, InitToml, is_host_name, parse_init_toml};
pub use instances::instances_of;
pub use keys::{SchemaOf, json_schema, markdown_table};
pub use layer::{Layer, LayerKind, LayerText, Place};
pub use layers::{OnLayersChange, Upper};
pub use moored_toml::check_moored_toml;
pub use name::{ContainerId, UnitName};
pub use parse::{Parsed, TEXT_MAX, mistakes_of_part, parse, parse_from, parse_layers, parse_with, text_of};
pub use replicas::{REPLICAS_MAX, Replicas, replica_name, replica_number};
pub use root::{Contents, RootFile, RootPlan};
pub use schedule::Schedule;
pub use seccomp_file::{KernelVersion, SeccompFile};
pub use socket::{Listen, Socket, SocketOptions};
pub use spec::{NOTIFY_DIR, NOTIFY_NAME, SpecError, SpecText, compile, has_terminal};
pub use specifier::Names;
pub use told::Notify;
pub use update::{OnBad, Order, Update, on_bad};

/// One unit, merged, validated, with every default filled in and every path absolute.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// The file's stem.
    pub name: UnitName,
    /// Free text for people.
    pub description: Option<String>,
    /// `None` with a bundle leaves config.json's, and with the host its own; otherwise filled with the unit's name, a `-` for its `@`.
    pub hostname: Option<String>,
    /// It is several containers, told apart by a number.
    pub replicas: Option<Replicas>,
    /// A unit that is not enabled runs only when started by hand.
    pub enabled: bool,
    /// Whether the unit is to stay up or to complete.
    pub kind: Kind,
    /// What the container is made of.
    pub source: Source,
    /// The writable layer of a source that is layers.
    pub upper: Upper,
    /// Units that it waits for before it starts.
    pub depends_on: BTreeMap<UnitName, Dependency>,
    /// Units that are started when this one gives up or fails for good.
    pub on_failure: BTreeSet<UnitName>,
    /// What the host must be like for a start, sorted.
    pub conditions: Vec<Condition>,
    /// What runs inside.
    pub process: Process,
    /// What happens after an exit.
    pub restart: Restart,
    /// How it is stopped.
    pub stop: Stop,
    /// How it is told to reload; `None` when the unit does not say (then SIGHUP on request).
    pub reload: Option<Reload>,
    /// When it runs, if that is not at once; then it is a oneshot.
    pub schedule: Option<Arc<Schedule>>,
    /// Commands around its life; `None`: there are none.
    pub hooks: Option<Arc<UnitHooks>>,
    /// How it is asked whether it is well; `None`: it is not.
    pub health: Option<Arc<Health>>,
    /// What happens when a change needs a new container.
    pub update: Update,
    /// Limits.
    pub resources: Resources,
    /// The network namespace; `None` with a bundle leaves config.json's.
    pub network: Option<Network>,
    /// Mounts on top of those that every container has.
    pub mounts: Vec<Mount>,
    /// Files of the host's whose contents it has.
    pub configs: Vec<ConfigFile>,
    /// Device nodes of the host's that are made and allowed inside.
    pub devices: Vec<Device>,
    /// Where somebody listens for it, in the order in which it gets the sockets.
    pub sockets: Vec<Socket>,
    /// Log caps.
    pub log: Log,
    /// Hardening; with a bundle only what the file says is applied.
    pub security: Security,
    /// `[oci]`: merged into config.json as it is.
    pub oci: serde_json::Map<String, serde_json::Value>,
    /// Settings that hold what env files define, and may be secrets: `process.args`, `process.env.PW`, `oci`.
    pub hidden: BTreeSet<String>,
}

impl Unit {
    /// What it tells by itself, if it does.
    pub fn notify(&self) -> Option<Notify> {
        self.health.as_ref()?.notify
    }

    /// Whether it has a user namespace that is made for it.
    pub fn has_own_users(&self) -> bool {
        self.security.userns == Some(Userns::Auto)
    }

    /// The file of its system call filter, if that is in one.
    pub fn seccomp_file(&self) -> Option<&SeccompFile> {
        match self.security.seccomp.as_ref()? {
            Seccomp::File(file) => Some(file),
            Seccomp::Default | Seccomp::Unconfined => None,
        }
    }
}

/// `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Stays up.
    Service,
    /// Runs to completion.
    Oneshot,
}

/// What the container is made of: exactly one of `bundle`, `rootfs`, `layers`, `executable`; or the host itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A directory holding config.json.
    Bundle(PathBuf),
    /// A directory that becomes the root.
    Rootfs(PathBuf),
    /// Directories whose union becomes the root, the lowest first; at least one.
    Layers(Vec<PathBuf>),
    /// One static executable; the root is a tmpfs that holds it alone.
    Executable(PathBuf),
    /// The host's own root, with `security.profile = "host"`: no container.
    Host,
}

impl Source {
    /// The key that names it.
    pub fn key(&self) -> &'static str {
        match self {
            Source::Host => "profile",
            Source::Bundle(_) => "bundle",
            Source::Rootfs(_) => "rootfs",
            Source::Layers(_) => "layers",
            Source::Executable(_) => "executable",
        }
    }

    /// Whether the hardened defaults hold, rather than a config.json or what the host has.
    pub fn is_hardened(&self) -> bool {
        match self {
            Source::Bundle(_) | Source::Host => false,
            Source::Rootfs(_) | Source::Layers(_) | Source::Executable(_) => true,
        }
    }

    /// The path as the unit gives it, absolute, links not resolved; of layers that of the highest.
    pub fn path(&self) -> &Path {
        match self {
            Source::Layers(paths) => paths.last().map_or(Path::new("/"), PathBuf::as_path),
            Source::Bundle(path) | Source::Rootfs(path) | Source::Executable(path) => path,
            Source::Host => Path::new("/"),
        }
    }
}

/// `[process]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Overrides config.json's args.
    pub args: Option<Vec<String>>,
    /// Added to (and overriding) the environment.
    pub env: BTreeMap<String, String>,
    /// Where more of the environment comes from.
    pub env_files: Vec<EnvFile>,
    /// What these define; empty until they are read.
    pub variables: Variables,
    /// `user`: numbers or names, `user[:group]`; names are looked up in the root's own files at start.
    pub user: Option<String>,
    /// Working directory inside.
    pub cwd: Option<String>,
    /// Puts a tiny reaping, forwarding init in front.
    pub init: bool,
    /// With a terminal of its own; `None`: what config.json says.
    pub terminal: Option<bool>,
}

/// `[restart]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// After which exits.
    pub policy: RestartPolicy,
    /// The second restart in a row waits this long, then doubled.
    pub delay: Duration,
    /// Up to this.
    pub max_delay: Duration,
    /// A run of at least this long is a success: the next restart is immediate and the count begins anew.
    pub reset_after: Duration,
    /// `None` tries for ever.
    pub limit: Option<RestartLimit>,
    /// What happens when the limit is hit.
    pub on_limit: OnLimit,
}

/// `restart.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Whatever the exit was.
    Always,
    /// Exit code 0 only.
    OnSuccess,
    /// Any other code, a signal, an unknown exit, a failed start.
    OnFailure,
    /// A signal, OOM, an unknown exit (systemd's on-abnormal, without its timeouts).
    OnAbnormal,
    /// Not at all.
    Never,
}

/// `restart.limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartLimit {
    /// At most this many starts …
    pub burst: u32,
    /// … within this time.
    pub interval: Duration,
}

/// `restart.on_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLimit {
    /// Stay down until somebody acts or the file changes.
    StayFailed,
    /// Reboot the host.
    Reboot,
}

/// `[stop]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Sent to pid 1 of the container first; with a bundle default SIGTERM too.
    pub signal: Signal,
    /// Then the whole cgroup is killed.
    pub timeout: Duration,
}

/// `[reload]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// Send this to pid 1 of the container.
    Signal(Signal),
    /// Run this inside.
    Exec(Vec<String>),
}

/// A signal number, 1 to 64, written as in signal(7) ("SIGTERM", "TERM", "SIGRTMIN+3") or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal(pub u8);

/// `[resources]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Bytes; `None` is no limit (with a bundle: config.json's).
    pub memory_bytes: Option<u64>,
    /// Thousandths of a CPU.
    pub cpus_milli: Option<u64>,
    /// Number of tasks; default 2048 for rootfs and executable.
    pub pids: Option<u64>,
    /// Size of /dev/shm; default 64M for rootfs and executable.
    pub shm_bytes: Option<u64>,
}

/// `network.mode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Own namespace, loopback up.
    None,
    /// The host's.
    Host,
    /// Shared with another unit's container.
    Unit(UnitName),
}

/// `[[mount]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where from and what.
    pub kind: MountKind,
    /// Absolute path inside.
    pub target: String,
    /// Default true for a bind, false for a tmpfs: an empty read-only one is of little use.
    pub read_only: bool,
    /// Of a bind beside `userns = "auto"`: whether its files have inside the owners that they have outside. Default true.
    pub idmap: Option<bool>,
}

/// `mount.type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file or directory of the host's.
    Bind {
        /// Absolute path outside.
        source: PathBuf,
    },
    /// An empty memory file system.
    Tmpfs {
        /// Bytes; `None` is the sized default.
        size_bytes: Option<u64>,
    },
}

/// `[[device]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Path on the host and inside.
    pub path: PathBuf,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A file is rotated when it reaches this many bytes.
    pub max_size_bytes: u64,
    /// How many files are kept, the current one included.
    pub max_files: u32,
}

/// `[security]`: `None` means "not written": the hardened default for rootfs and executable, config.json's for a bundle, the host's with
/// `profile = "host"`, which is a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// Capability names (`CAP_…`), Docker's set already expanded.
    pub capabilities: Option<Vec<String>>,
    /// no_new_privs.
    pub no_new_privileges: Option<bool>,
    /// Which filter.
    pub seccomp: Option<Seccomp>,
    /// Read-only root.
    pub read_only: Option<bool>,
    /// Whose ids its processes have.
    pub userns: Option<Userns>,
}

/// `security.userns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Userns {
    /// The host's: root inside is root outside.
    Host,
    /// Its own: id 0 and the 65,535 above it are ids outside that nobody else has.
    Auto,
}

/// `security.seccomp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    /// The project's allow-list.
    Default,
    /// No filter.
    Unconfined,
    /// What a file says.
    File(SeccompFile),
}

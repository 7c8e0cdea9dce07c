//! What is done for a container by a process that stays outside of it, before its first process is made. Data.
//!
//! Most containers need nothing of it: their first process is cloned by its parent and does all by itself. These do:
//!
//! | what | why not the process itself |
//! |---|---|
//! | namespaces joined by path | who joins a pid namespace does not change its own, and in a user namespace the process has no right to the host's others |
//! | a new user namespace | its mappings are written from outside (user_namespaces(7)), and with the host's rights it would lose the way to the bundle |
//! | clock offsets of a new time namespace | they are set before anybody is in it (time_namespaces(7)) |
//! | id-mapped mounts | they need the rights of who mounted the file system (mount_setattr(2)) |
//! | a group of resctrl | the process may have no right to it, and is to be born in it |
//! | network devices moved in | they belong to the host's user namespace (network_namespaces(7)) |
//! | a bind that is shared with the host, below a root that is shared | the process cuts its mounts off from the host's before it copies any |

use std::fmt::{self, Display};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::idmap::IdMaps;
use super::net_devices::NetDevice;
use super::rdt::Rdt;
use super::script::Rlimit;

/// All of it; the default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// Namespaces that exist.
    pub joins: Vec<Join>,
    /// A new user namespace.
    pub user: Option<IdMaps>,
    /// A new time namespace.
    pub time: Option<ClockOffsets>,
    /// Its share of caches and of memory bandwidth.
    pub rdt: Option<Rdt>,
    /// Devices that the network namespace gets.
    pub devices: Vec<NetDevice>,
    /// What a process of `exec` joins besides.
    pub enters: Enters,
    /// The mapping of the user namespace that is entered, where it is known.
    pub entered_ids: Option<IdMaps>,
    /// Some mounts of the host's are copied outside (`is_copied_outside` says which).
    pub copies: bool,
    /// The root is shared: then a bind that is to be shared is so with the host. Else what is done below it does not show there, as with runc.
    pub shares: bool,
    /// `oom_score_adj`, and whether it is left alone where it may not be set: in a user namespace nobody may lower his.
    pub oom_score_adj: Option<(i32, bool)>,
    /// The network namespace of the slot is entered: in a user namespace nobody has the right to.
    pub network: bool,
    /// Limits whose ceilings nobody in a user namespace may raise.
    pub ceilings: Vec<Rlimit>,
    /// The user of the host's to whom pipes that are standard streams are given.
    pub streams: Option<u32>,
}

/// Namespaces that only some containers have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enters {
    /// User.
    pub user: bool,
    /// Time.
    pub time: bool,
    /// The cgroup namespace is that of another container, below whose cgroup its own is not: nobody in there can be born in its own
    /// (cgroups(7), "nsdelegate").
    pub foreign_cgroup: bool,
}

/// A namespace that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Which kind its file must be.
    pub kind: NamespaceKind,
    /// The file, absolute.
    pub path: PathBuf,
    /// Where config.json names it.
    pub field: String,
    /// The field that would change the host were this the host's own namespace.
    pub changes: Option<String>,
}

/// Kinds of namespaces, by their OCI names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NamespaceKind {
    Pid,
    Network,
    Mount,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

/// What the clocks of a time namespace show beyond the host's: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffsets {
    /// CLOCK_MONOTONIC.
    pub monotonic: Option<(i64, u32)>,
    /// CLOCK_BOOTTIME.
    pub boottime: Option<(i64, u32)>,
}

impl Outside {
    /// Whether a new container's process is made without anybody's help.
    pub fn is_empty(&self) -> bool {
        // All else is there only beside one of these.
        self.rdt.is_none()
            && self.joins.is_empty()
            && self.user.is_none()
            && self.time.is_none()
            && !self.copies
            && self.devices.is_empty()
    }

    /// Whether the process is in another user namespace than its parent.
    pub fn in_user_namespace(&self) -> bool {
        self.user.is_some() || self.enters.user || self.joins(NamespaceKind::User)
    }

    /// Whether a namespace of this kind is joined by path.
    pub fn joins(&self, kind: NamespaceKind) -> bool {
        self.joins.iter().any(|join| join.kind == kind)
    }

    /// The mapping of ids, where it is known.
    pub fn ids(&self) -> Option<&IdMaps> {
        self.user.as_ref().or(self.entered_ids.as_ref())
    }
}

impl ClockOffsets {
    /// As `/proc/self/timens_offsets` takes it.
    pub fn text(self) -> String {
        let line = |(clock, offset): (&str, Option<(i64, u32)>)| {
            offset.map(|(seconds, nanoseconds)| format!("{clock} {seconds} {nanoseconds}\n"))
        };
        [("monotonic", self.monotonic), ("boottime", self.boottime)].into_iter().filter_map(line).collect()
    }
}

impl NamespaceKind {
    /// Its OCI name.
    pub fn name(self) -> &'static str {
        match self {
            NamespaceKind::Pid => "pid",
            NamespaceKind::Network => "network",
            NamespaceKind::Mount => "mount",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Uts => "uts",
            NamespaceKind::User => "user",
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Time => "time",
        }
    }
}

impl Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |join: &Join| format!("join the {} namespace {}", join.kind.name(), join.path.display());
        let mut parts: Vec<String> = self.joins.iter().map(join).collect();
        parts.extend(self.network.then(|| "join the network namespace".to_owned()));
        parts.extend(self.copies.then(|| "copy mounts of the host's".to_owned()));
        parts.extend(self.user.as_ref().map(|maps| format!("new user namespace: {maps}")));
        parts.extend(self.time.map(|time| format!("new time namespace: {}", time.text().trim().replace('\n', ", "))));
        parts.extend(self.rdt.as_ref().map(|rdt| format!("go into the resctrl group /{}", rdt.directory())));
        parts.extend(self.devices.iter().map(|device| format!("move {} in as {}", device.name, device.new_name)));
        parts.extend(self.oom_score_adj.map(|(value, _)| format!("set oom_score_adj to {value}")));
        write!(f, "from outside: {}", parts.join("; "))
    }
}

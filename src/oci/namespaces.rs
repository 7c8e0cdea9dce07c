//! `linux.namespaces`, and what belongs to them: mappings of ids and offsets of clocks. Pure.
//!
//! An entry without a path is a new namespace, one with a path is joined, and a kind that is not listed is the caller's. New
//! ones but pid, user and time are made by the process itself ([`Step::Unshare`](super::Step)); the rest is done
//! [outside](super::outside).

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType};

use super::compile::{Context, sysctl_namespace};
use super::error::{Problem, Report};
use super::idmap::{self, IdMaps, Of};
use super::net_devices;
use super::outside::{ClockOffsets, Enters, Join, NamespaceKind, Outside};
use super::script::Namespaces;
use crate::compact;
use crate::config::Spec;
use crate::words::nearest;

/// Seconds that an offset may be, up or down: the kernel's sums stay in range. It refuses itself what makes a clock negative.
const OFFSET_MAX_SECONDS: i64 = i64::MAX / 1_000_000_000 / 2;
const SECOND_NS: u32 = 1_000_000_000;

/// What a spec asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// A new pid namespace.
    pub pid: bool,
    /// The other new ones that the process makes itself.
    pub others: Namespaces,
    /// Joined ones, user and time.
    pub outside: Outside,
    listed: Vec<NamespaceKind>,
}

impl Wanted {
    /// Whether there is an entry of this kind: the namespace is not just the caller's.
    pub fn has(&self, kind: NamespaceKind) -> bool {
        self.listed.contains(&kind)
    }
}

/// Compiles what the namespaces are.
pub(super) fn compile(spec: &Spec, context: &Context, report: &mut Report) -> Wanted {
    let mut wanted = Wanted::default();
    let default = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&default);
    let (mut user, mut time) = (false, false);
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let path = format_args!("linux.namespaces[{index}]");
        let kind = kind(namespace.typ());
        if wanted.has(kind) {
            report.error(path, Problem::Duplicate { found: format!("namespace {}", kind.name()) });
        }
        wanted.listed.push(kind);
        if context.join_network && kind == NamespaceKind::Network {
            continue;
        }
        if is_joined(namespace) {
            wanted.outside.joins.extend(join(namespace, spec, linux, format!("{path}.path"), report));
            continue;
        }
        match kind {
            NamespaceKind::Mount => wanted.others.mount = true,
            NamespaceKind::Cgroup => wanted.others.cgroup = true,
            NamespaceKind::Uts => wanted.others.uts = true,
            NamespaceKind::Ipc => wanted.others.ipc = true,
            NamespaceKind::Network => wanted.others.network = true,
            NamespaceKind::Pid => wanted.pid = true,
            NamespaceKind::User => user = true,
            NamespaceKind::Time => time = true,
        }
    }
    if !wanted.has(NamespaceKind::Mount) {
        report.error("linux.namespaces", Problem::Missing { expected: "an entry {\"type\": \"mount\"}" });
    }
    wanted.outside.user = maps(linux, user, wanted.has(NamespaceKind::User), report);
    wanted.outside.time = offsets(linux, time, report);
    let private = context.join_network || wanted.has(NamespaceKind::Network);
    wanted.outside.devices = net_devices::compile(linux, private, report);
    wanted
}

/// What a process that joins a container enters besides the namespaces that all containers have.
pub(super) fn to_enter(linux: &Linux) -> Outside {
    let find = |kind| linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == kind);
    let enters = Enters {
        user: find(LinuxNamespaceType::User).is_some(),
        time: find(LinuxNamespaceType::Time).is_some(),
        foreign_cgroup: find(LinuxNamespaceType::Cgroup).is_some_and(is_joined),
    };
    // That of a joined user namespace is not here. Whether this one is right was seen when the container was made.
    let entered_ids = find(LinuxNamespaceType::User).filter(|namespace| !is_joined(namespace)).and_then(|_| {
        let (uids, gids) = (linux.uid_mappings().as_deref(), linux.gid_mappings().as_deref());
        idmap::compile(uids, gids, Of::Container, &"linux", &mut Report::default())
    });
    Outside { enters, entered_ids, ..Outside::default() }
}

fn is_joined(namespace: &LinuxNamespace) -> bool {
    namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty())
}

fn join(namespace: &LinuxNamespace, spec: &Spec, linux: &Linux, field: String, report: &mut Report) -> Option<Join> {
    let (kind, path) = (kind(namespace.typ()), namespace.path().clone()?);
    if !path.is_absolute() {
        report.error(&field, Problem::Range { found: format!("{path:?}"), expected: "an absolute path" });
    }
    Some(Join { kind, path, field, changes: changes(kind, spec, linux).map(str::to_owned) })
}

/// What would change the host were the joined namespace the host's own, as `/proc/1/ns/net` is.
fn changes(kind: NamespaceKind, spec: &Spec, linux: &Linux) -> Option<&'static str> {
    let sets_sysctl_of = |wanted| {
        let mut names = linux.sysctl().iter().flatten().map(|(name, _)| name.replace('.', "/"));
        names.any(|name| sysctl_namespace(&name) == Some(wanted))
    };
    let is_set = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    match kind {
        NamespaceKind::Network if sets_sysctl_of(LinuxNamespaceType::Network) => Some("linux.sysctl"),
        NamespaceKind::Network if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) => {
            Some("linux.netDevices")
        }
        NamespaceKind::Ipc if sets_sysctl_of(LinuxNamespaceType::Ipc) => Some("linux.sysctl"),
        NamespaceKind::Uts if is_set(&spec.hostname) => Some("hostname"),
        NamespaceKind::Uts if is_set(&spec.domainname) => Some("domainname"),
        // The container's mounts are made in it, and its root becomes that of all who are in it.
        NamespaceKind::Mount => Some("root"),
        NamespaceKind::Cgroup if shows_cgroups(spec) => Some("the cgroup mount"),
        NamespaceKind::Pid
        | NamespaceKind::Network
        | NamespaceKind::Ipc
        | NamespaceKind::Uts
        | NamespaceKind::User
        | NamespaceKind::Cgroup
        | NamespaceKind::Time => None,
    }
}

/// Whether the container sees cgroups.
pub(super) fn shows_cgroups(spec: &Spec) -> bool {
    spec.mounts.iter().flatten().any(|mount| matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")))
}

fn maps(linux: &Linux, new: bool, listed: bool, report: &mut Report) -> Option<IdMaps> {
    let (uids, gids) = (linux.uid_mappings().as_deref(), linux.gid_mappings().as_deref());
    let any = [uids, gids].iter().any(|list| list.is_some_and(|list| !list.is_empty()));
    match (any, new) {
        (true, false) if listed => {
            report.warn("linux.uidMappings", "the joined user namespace has its own: those here are not looked at");
            return None;
        }
        // As runc and crun have it, but aloud.
        (true, false) => {
            let text = "ids are not mapped without an entry {\"type\": \"user\"} in linux.namespaces: it is ignored";
            report.warn("linux.uidMappings", text);
            return None;
        }
        (false, true) => {
            let expected =
                "the ids of the new user namespace, as in {\"containerID\": 0, \"hostID\": 100000, \"size\": 65536}";
            report.error("linux.uidMappings", Problem::Missing { expected });
        }
        (true, true) | (false, false) => {}
    }
    idmap::compile(uids, gids, Of::Container, &"linux", report)
}

fn offsets(linux: &Linux, new: bool, report: &mut Report) -> Option<ClockOffsets> {
    let mut offsets = ClockOffsets::default();
    let mut entries: Vec<_> = linux.time_offsets().iter().flatten().collect();
    compact::sort_by_key(&mut entries, |(clock, _)| clock.as_str());
    if !entries.is_empty() && !new {
        let reason = "needs an entry {\"type\": \"time\"} without a path in linux.namespaces";
        report.error("linux.timeOffsets", Problem::Conflict { reason });
    }
    for (clock, offset) in entries {
        let path = format_args!("linux.timeOffsets.{clock}");
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        if !(-OFFSET_MAX_SECONDS..=OFFSET_MAX_SECONDS).contains(&seconds) {
            let problem = Problem::Range { found: seconds.to_string(), expected: "at most 146 years up or down" };
            report.error(format_args!("{path}.secs"), problem);
        }
        if nanoseconds >= SECOND_NS {
            let problem = Problem::Range { found: nanoseconds.to_string(), expected: "0 to 999999999" };
            report.error(format_args!("{path}.nanosecs"), problem);
        }
        match clock.as_str() {
            "monotonic" => offsets.monotonic = Some((seconds, nanoseconds)),
            "boottime" => offsets.boottime = Some((seconds, nanoseconds)),
            other => {
                let suggestion = nearest(other, ["monotonic", "boottime"]).map(str::to_owned);
                report.error(path, Problem::Unknown { what: "clock", found: other.to_owned(), suggestion });
            }
        }
    }
    new.then_some(offsets)
}

fn kind(kind: LinuxNamespaceType) -> NamespaceKind {
    match kind {
        LinuxNamespaceType::Mount => NamespaceKind::Mount,
        LinuxNamespaceType::Cgroup => NamespaceKind::Cgroup,
        LinuxNamespaceType::Uts => NamespaceKind::Uts,
        LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
        LinuxNamespaceType::User => NamespaceKind::User,
        LinuxNamespaceType::Pid => NamespaceKind::Pid,
        LinuxNamespaceType::Network => NamespaceKind::Network,
        LinuxNamespaceType::Time => NamespaceKind::Time,
    }
}

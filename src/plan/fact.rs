//! What happened.
//!
//! Each fact names its generation, so that one which no longer fits changes nothing (`record`). The supervisor may lose any fact in a crash, if after the
//! next start it looks again: at the keeper's list for each live generation (`Adopted`, `Exited`, `NeverStarted`, `Lost`), at the
//! cgroup and the log of each ended one (`CgroupEmpty`, `Drained`). Only a client's wishes must be on disk before its answer.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::exit::Exit;
use super::health::Probed;
use super::hold::Hold;
use super::host::Presence;
use super::observed::{HostPid, Limits, Run};
use super::schedule::Clock;
use super::time::BootTime;
use super::told::Line;
use crate::unit::{CheckKind, ContainerId, HookPoint, Listen, Signal, SwapMark, UnitName};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// The program runs (exec succeeded).
    Started {
        /// Which.
        id: ContainerId,
        /// Its pid 1 as the host numbers it.
        pid: HostPid,
    },
    /// A step before exec failed; nothing of the program ran.
    StartFailed {
        /// Which.
        id: ContainerId,
        /// Which step, why, and the cure.
        text: String,
    },
    /// After a crash: begun, but a keeper that lived all the while never saw its spawn. Not an end: there was no start.
    NeverStarted {
        /// Which.
        id: ContainerId,
    },
    /// After a crash: the keeper has it alive.
    Adopted {
        /// Which.
        id: ContainerId,
        /// Its pid 1 as the host numbers it.
        pid: HostPid,
        /// From the keeper's tag.
        run: Box<Run>,
    },
    /// The keeper has reaped its pid 1.
    Exited {
        /// Which.
        id: ContainerId,
        /// Code or signal.
        exit: Exit,
        /// The kernel killed something in its cgroup for lack of memory.
        oom: bool,
        /// When the keeper reaped it.
        at: BootTime,
    },
    /// Nobody knows it any more: ended, and nobody can say how.
    Lost {
        /// Which.
        id: ContainerId,
    },
    /// Its cgroup was looked at *after* its end was recorded, and nothing was in it. Ignored before the end.
    CgroupEmpty {
        /// Which.
        id: ContainerId,
    },
    /// When it is killed again, so many processes are still in its cgroup.
    Lingering {
        /// Which.
        id: ContainerId,
        /// How many.
        processes: u32,
    },
    /// Its log was read to the end *after* its end was recorded. Ignored before the end.
    Drained {
        /// Which.
        id: ContainerId,
    },
    /// Acknowledged, cgroup and pipes removed: nothing is left of it.
    Cleared {
        /// Which.
        id: ContainerId,
    },
    /// The stop signal was sent.
    StopSent {
        /// Which.
        id: ContainerId,
    },
    /// Pid 1 of the container neither handles nor blocks the stop signal, or it could not be sent.
    StopUnhandled {
        /// Which.
        id: ContainerId,
    },
    /// A probe of one of its checks was answered, or was not in time.
    Probed {
        /// Which.
        id: ContainerId,
        /// Of which check.
        check: CheckKind,
        /// What it found.
        probed: Probed,
        /// So many failures in a row are a verdict …
        failures: u32,
        /// … and so many passes.
        successes: u32,
    },
    /// What it says by sd_notify(3).
    Notified {
        /// Which.
        id: ContainerId,
        /// All that counts of what it said in its life, as far as somebody remembers; oldest first.
        lines: Vec<Line>,
    },
    /// All that it had said when that was asked for ([`Action::Hear`](super::Action)) has been told.
    Heard {
        /// Which.
        id: ContainerId,
    },
    /// Nobody listened until now: the supervisor begins, or was away. No silence before counts.
    Awake,
    /// A hook of its unit is over.
    HookEnded {
        /// Of which.
        id: ContainerId,
        /// Which one.
        point: HookPoint,
        /// What went wrong, if something did.
        failure: Option<String>,
    },
    /// It was told to reload.
    Reloaded {
        /// Which.
        id: ContainerId,
    },
    /// Its cgroup took these limits.
    Limited {
        /// Which.
        id: ContainerId,
        /// What it has now.
        limits: Limits,
    },
    /// It has these contents of files.
    Swapped {
        /// Which.
        id: ContainerId,
        /// Which they are.
        contents: SwapMark,
    },
    /// These of the unit's sockets are open.
    Listening {
        /// Whose.
        unit: UnitName,
        /// Which.
        sockets: BTreeSet<Listen>,
    },
    /// They are closed.
    Closed {
        /// Whose.
        unit: UnitName,
        /// Which.
        sockets: BTreeSet<Listen>,
    },
    /// An action other than `Start` did not succeed.
    ActionFailed {
        /// Which.
        id: ContainerId,
        /// Which action.
        deed: Deed,
        /// What failed and why.
        text: String,
    },
    /// `moored start`.
    ClientStart {
        /// Which.
        unit: UnitName,
    },
    /// `moored stop`; also how a hold that was stored is told after a reboot.
    ClientStop {
        /// Which.
        unit: UnitName,
        /// The mark.
        hold: Hold,
    },
    /// `moored restart`.
    ClientRestart {
        /// Which.
        unit: UnitName,
    },
    /// `moored reload`.
    ClientReload {
        /// Which.
        unit: UnitName,
    },
    /// `moored kill`: just a signal.
    ClientKill {
        /// Which.
        unit: UnitName,
        /// Which signal.
        signal: Signal,
    },
    /// A path that a condition names was looked at.
    Found {
        /// As the unit names it.
        path: PathBuf,
        /// What is there.
        presence: Presence,
    },
    /// The kernel's command line was read: it stays the same.
    Booted {
        /// /proc/cmdline.
        cmdline: String,
    },
    /// The wall clock was looked at, or set.
    Clock(Clock),
    /// The rules of a time zone were looked for.
    Zone {
        /// As in `schedule.time_zone`; `None`: the host's.
        name: Option<String>,
        /// `None`: they cannot be read.
        zone: Option<TimeZone>,
    },
    /// Everything is to stop, for good.
    Shutdown {
        /// By whom.
        by: String,
    },
}

/// An action that can fail without ending its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// The stop signal could not be sent.
    Stop,
    /// The cgroup could not be killed.
    Kill,
    /// A client's signal could not be sent.
    Signal,
    /// The reload failed.
    Reload,
    /// The cgroup did not take its limits. They are not asked for again before the text or the supervisor is another one.
    Update,
    /// It could not be asked whether it is well, for a reason of ours.
    Probe,
    /// The contents of its files could not be swapped. They are not asked for again before they or the supervisor are others.
    Swap,
    /// Something of it could not be cleared away.
    Clear,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Started { id, pid } => write!(f, "{id} started as {}", pid.0),
            Fact::StartFailed { id, text } => write!(f, "{id} did not start: {text}"),
            Fact::NeverStarted { id } => write!(f, "{id} was never spawned"),
            Fact::Adopted { id, pid, .. } => write!(f, "{id} adopted, runs as {}", pid.0),
            Fact::Exited { id, exit, oom: false, .. } => write!(f, "{id} exited: {exit}"),
            Fact::Exited { id, exit, oom: true, .. } => write!(f, "{id} exited: {exit}, out of memory"),
            Fact::Lost { id } => write!(f, "{id} is lost"),
            Fact::CgroupEmpty { id } => write!(f, "{id} has an empty cgroup"),
            Fact::Lingering { id, processes } => write!(f, "{id} still has {processes} processes"),
            Fact::Drained { id } => write!(f, "{id} has its log written"),
            Fact::Cleared { id } => write!(f, "{id} is cleared away"),
            Fact::StopSent { id } => write!(f, "{id} got its stop signal"),
            Fact::StopUnhandled { id } => write!(f, "{id} does not handle its stop signal"),
            Fact::Probed { id, check, probed, .. } => write!(f, "{id}: {}: {probed:?}", check.word()),
            Fact::Notified { id, lines } => {
                let lines: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
                write!(f, "{id} says {lines:?}")
            }
            Fact::Heard { id } => write!(f, "{id} has been heard"),
            Fact::Awake => write!(f, "awake from now on"),
            Fact::HookEnded { id, point, failure: None } => write!(f, "{id}: {} is over", point.word()),
            Fact::HookEnded { id, point, failure: Some(text) } => write!(f, "{id}: {} failed: {text}", point.word()),
            Fact::Reloaded { id } => write!(f, "{id} was told to reload"),
            Fact::Limited { id, .. } => write!(f, "{id} got other limits"),
            Fact::Swapped { id, .. } => write!(f, "{id} got other contents of files"),
            Fact::Listening { unit, sockets } => write!(f, "{unit} has open{}", listed(sockets)),
            Fact::Closed { unit, sockets } => write!(f, "{unit} has closed{}", listed(sockets)),
            Fact::ActionFailed { id, deed, text } => write!(f, "{id}: {deed:?} failed: {text}"),
            Fact::ClientStart { unit } => write!(f, "start of {unit} asked for"),
            Fact::ClientStop { unit, hold } => write!(f, "stop of {unit} asked for by {}", hold.by),
            Fact::ClientRestart { unit } => write!(f, "restart of {unit} asked for"),
            Fact::ClientReload { unit } => write!(f, "reload of {unit} asked for"),
            Fact::ClientKill { unit, signal } => write!(f, "signal {} for {unit} asked for", signal.0),
            Fact::Found { path, presence } => {
                let what = match presence {
                    Presence { exists: false, .. } => "is not there",
                    Presence { is_mount_point: false, .. } => "is there",
                    Presence { is_mount_point: true, .. } => "is there and a mount point",
                };
                write!(f, "{} {what}", path.display())
            }
            Fact::Booted { cmdline } => write!(f, "booted with {cmdline}"),
            Fact::Clock(Clock { wall, is_set, .. }) => {
                write!(
                    f,
                    "the clock shows {} ms, {}",
                    wall.0,
                    if *is_set { "and is set" } else { "and nobody has set it" }
                )
            }
            Fact::Zone { name, zone } => {
                let name = name.as_deref().unwrap_or("the host");
                write!(f, "the time zone of {name} is {}", if zone.is_some() { "known" } else { "not known" })
            }
            Fact::Shutdown { by } => write!(f, "shutdown by {by}"),
        }
    }
}

fn listed(sockets: &BTreeSet<Listen>) -> String {
    sockets.iter().map(|listen| format!(" {listen}")).collect()
}

impl Fact {
    /// The container that it is about, if it is about one.
    pub fn id(&self) -> Option<&ContainerId> {
        match self {
            Fact::Started { id, .. }
            | Fact::StartFailed { id, .. }
            | Fact::NeverStarted { id }
            | Fact::Adopted { id, .. }
            | Fact::Exited { id, .. }
            | Fact::Lost { id }
            | Fact::CgroupEmpty { id }
            | Fact::Lingering { id, .. }
            | Fact::Drained { id }
            | Fact::Cleared { id }
            | Fact::StopSent { id }
            | Fact::StopUnhandled { id }
            | Fact::Probed { id, .. }
            | Fact::Notified { id, .. }
            | Fact::Heard { id }
            | Fact::HookEnded { id, .. }
            | Fact::Reloaded { id }
            | Fact::Limited { id, .. }
            | Fact::Swapped { id, .. }
            | Fact::ActionFailed { id, .. } => Some(id),
            Fact::ClientStart { .. }
            | Fact::ClientStop { .. }
            | Fact::ClientRestart { .. }
            | Fact::ClientReload { .. }
            | Fact::ClientKill { .. }
            | Fact::Listening { .. }
            | Fact::Closed { .. }
            | Fact::Awake
            | Fact::Found { .. }
            | Fact::Booted { .. }
            | Fact::Clock(_)
            | Fact::Zone { .. }
            | Fact::Shutdown { .. } => None,
        }
    }

    /// The unit that it is about, if one.
    pub fn unit(&self) -> Option<&UnitName> {
        match self {
            Fact::ClientStart { unit }
            | Fact::ClientStop { unit, .. }
            | Fact::ClientRestart { unit }
            | Fact::ClientReload { unit }
            | Fact::ClientKill { unit, .. }
            | Fact::Listening { unit, .. }
            | Fact::Closed { unit, .. } => Some(unit),
            other => other.id().map(|id| &id.unit),
        }
    }

    /// The generation of the container that it is about, if it is about one.
    pub fn generation(&self) -> Option<u64> {
        self.id().map(|id| id.generation)
    }
}

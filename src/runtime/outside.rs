//! The process that stays outside of a container and makes its first process ([`Outside`] says for which containers and why).
//!
//! | who | does | and then |
//! |---|---|---|
//! | the caller | forks a helper and waits for its end (the keeper not for ever: `helper`) | reads the pid, or what went wrong |
//! | the helper | copies mounts, joins namespaces by path, sets clocks, clones the process, writes the mappings of ids, moves network devices | ends |
//! | the process | waits for the mappings, becomes root in there, runs its script | is the caller's child |
//!
//! The process is the helper's sibling (`CLONE_PARENT`), so that it is the caller's child and nobody else takes its exit. It is born in the
//! new user namespace *and* the new pid namespace: only then is the one the other's owner, without which no procfs can be mounted.
//!
//! **Order.** Files of namespaces are opened first, since joining a mount namespace changes what paths mean. Each is joined with the
//! caller's rights; what refuses these is tried again after the user namespace, whose rights may be the ones it wants. What the host's root
//! alone may do (copying mounts into another user namespace, mapping their ids, lowering `oom_score_adj`) is done before.
//!
//! **Mounts** copied here are peers of the host's. Those that are not to be shared become slaves here, as all do when a process
//! cuts itself off from the host, so that nothing mounted inside shows outside.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fchown, fstat, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Rlimit as KernelLimit, getrlimit, pidfd_open, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::error::{StepError, about, call, errno_of};
use super::helper::await_helper;
use super::mount::{self, Trees};
use super::net_devices::{self, Found};
use super::notify::Agent;
use super::slots::Slots;
use super::spawn::{Failure, HostPid, SpawnError, Spawned};
use super::trampoline::Trampoline;
use super::{child, identity, rdt, userns};
use crate::oci::idmap::IdMaps;
use crate::oci::{
    ClockOffsets, Join, Mount, MountSource, NamespaceKind, Outside, Propagation, PropagationKind, RootPlan, Script,
    Step, Upper, is_copied_outside, is_shared,
};
use crate::sys::clone::{Request, Side, clone3, leave, unshare};
use crate::sys::wait::{Which, await_end};

/// What the helper brought about for the process.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// Copies of mounts.
    pub(super) trees: Trees,
    /// A byte comes when the mappings of ids are written.
    pub(super) mapped: Option<OwnedFd>,
    /// Who answers what the filter asks, connected.
    pub(super) agent: Option<Agent>,
    /// The runtime's `/proc`, for a process that is to write to its own part of it and can mount none.
    pub(super) proc: Option<OwnedFd>,
    /// To whoever moves network devices.
    pub(super) devices: Option<OwnedFd>,
}

/// What the helper tells.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Made(i32),
    /// With the process, if there is one already: it ends by itself.
    Failed(Failure, Option<i32>),
}

/// Like [`super::spawn`], by way of a helper.
pub(super) fn spawn(
    script: &Script,
    slots: Slots,
    trampoline: Option<Trampoline>,
    patience: Option<Duration>,
    prepare: impl FnOnce(),
) -> Result<Spawned, SpawnError> {
    let failed = |errno: Errno| SpawnError::Clone(errno.into());
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(failed)?;
    match clone3(&Request { pidfd: true, ..Request::default() }).map_err(SpawnError::Clone)? {
        Side::Child => {
            prepare();
            help(script, slots, trampoline, &tell)
        }
        Side::Parent { pidfd: None, .. } => Err(SpawnError::Clone(std::io::ErrorKind::Unsupported.into())),
        Side::Parent { pidfd: Some(helper), .. } => {
            drop(tell);
            if !await_helper(&helper, patience).map_err(SpawnError::Clone)? {
                return Err(SpawnError::Late);
            }
            let mut text = Vec::new();
            // Does not block: whoever writes has ended.
            let _ = std::fs::File::from(told).take(Failure::MAX_BYTES as u64 * 2).read_to_end(&mut text);
            match postcard::from_bytes(&text) {
                Ok(Told::Made(pid)) => {
                    let found = Pid::from_raw(pid).ok_or(SpawnError::Killed)?;
                    // Ours and not waited for: the number is still its own.
                    let pidfd = pidfd_open(found, PidfdFlags::empty()).map_err(failed)?;
                    Ok(Spawned { pid: HostPid(pid.unsigned_abs()), pidfd })
                }
                Ok(Told::Failed(failure, process)) => {
                    let _ = process.map(|pid| await_end(Which::Pid(pid)));
                    Err(SpawnError::Outside(failure))
                }
                Err(_) => Err(SpawnError::Killed),
            }
        }
    }
}

/// The helper's life.
fn help(script: &Script, slots: Slots, trampoline: Option<Trampoline>, tell: &OwnedFd) -> ! {
    let told = match make(script, &slots, trampoline.as_ref(), tell) {
        Ok(Made::Child(brought)) => child::run(script, slots, trampoline, *brought),
        Ok(Made::Parent(pid)) => Told::Made(pid),
        Err(failed) => {
            let Failed { error, process } = failed;
            let failure = Failure { step: 0, errno: error.errno(), text: error.to_string(), program: false };
            Told::Failed(failure, process)
        }
    };
    if let Ok(bytes) = postcard::to_stdvec(&told) {
        let _ = rustix::io::write(tell, &bytes);
    }
    leave(0)
}

enum Made {
    Child(Box<Brought>),
    Parent(i32),
}

struct Failed {
    error: StepError,
    process: Option<i32>,
}

impl From<rdt::RdtError> for Failed {
    fn from(error: rdt::RdtError) -> Failed {
        StepError::from(error).into()
    }
}

impl From<StepError> for Failed {
    fn from(error: StepError) -> Failed {
        Failed { error, process: None }
    }
}

fn make(script: &Script, slots: &Slots, trampoline: Option<&Trampoline>, tell: &OwnedFd) -> Result<Made, Failed> {
    let outside = &script.outside;
    let by_root = rustix::process::geteuid().is_root();
    // What is not dumpable belongs to root in /proc, so another user could not write its mappings.
    let dumpable = if by_root { DumpableBehavior::NotDumpable } else { DumpableBehavior::Dumpable };
    set_dumpable_behavior(dumpable).map_err(call("set dumpable"))?;
    let mut keep: Vec<i32> = slots.all().map(AsRawFd::as_raw_fd).collect();
    keep.push(tell.as_raw_fd());
    keep.extend(trampoline.map(|trampoline| trampoline.fd().as_raw_fd()));
    crate::sys::fd::close_from_except(3, &mut keep).map_err(|error| call("close")(errno_of(&error)))?;

    let proc = open_proc()?;
    provide(outside, slots, &proc)?;
    if let Some(rdt) = &outside.rdt {
        rdt::make(&rdt::root()?, rdt)?;
    }
    if !outside.devices.is_empty() && !by_root {
        return Err(StepError::NeedsRoot { what: "moving network devices (linux.netDevices)".to_owned() }.into());
    }
    let joins = open_all(&outside.joins, &proc)?;
    let devices = match Found::look(&outside.devices, &proc)? {
        Some(found) => Some((found, net_devices::pair()?)),
        None => None,
    };
    let mut brought = Brought { agent: Agent::of(script, None)?, ..Brought::default() };
    let mut ids = Ids { outside, joins: &joins, proc: &proc, own: None };
    if outside.copies && by_root {
        copy_mounts(script, &mut brought.trees, &mut ids)?;
    } else if let Some(target) = script.steps.iter().find_map(id_mapped) {
        return Err(StepError::NeedsRoot { what: format!("an id-mapped mount on {target}") }.into());
    }
    let takes = outside.in_user_namespace() && script.steps.contains(&Step::TakeCgroups);
    if takes && by_root {
        brought.trees.take_cgroups(slots)?;
    }
    let union = script.steps.iter().enumerate().find_map(|(index, step)| match step {
        Step::Root(RootPlan::Layers { layers, upper, idmap }) => Some((index, layers, upper, *idmap)),
        _ => None,
    });
    if let Some((index, layers, upper, idmap)) = union.filter(|_| outside.in_user_namespace() && by_root) {
        let maps = if idmap { Some(ids.of(None)?) } else { None };
        brought.trees.outside.push((index, unite(layers, upper, maps.as_ref().map(AsFd::as_fd))?));
    }
    if outside.network {
        let network = slots.network.as_ref().ok_or(StepError::EmptySlot { slot: "the network namespace" })?;
        enter(NamespaceKind::Network, network).map_err(call("join the network namespace"))?;
    }
    let moved = outside.joins(NamespaceKind::Cgroup) && move_into(slots.cgroup.as_ref())?;
    join_all(&joins)?;
    if let Some(offsets) = outside.time {
        new_clocks(offsets, &proc)?;
    }
    let (mapped, map) = match &outside.user {
        Some(maps) => {
            let (mapped, map) = pipe_with(PipeFlags::CLOEXEC).map_err(call("pipe"))?;
            brought.mapped = Some(mapped);
            (Some(maps), Some(map))
        }
        None => (None, None),
    };
    let devices = devices.map(|(found, (theirs, ours))| {
        brought.devices = Some(theirs);
        (found, ours)
    });
    let user = if outside.user.is_some() { libc::CLONE_NEWUSER as u64 } else { 0 };
    let pid = if script.new_pid_namespace { libc::CLONE_NEWPID as u64 } else { 0 };
    let cgroup = slots.cgroup.as_ref().filter(|_| !moved).map(AsFd::as_fd);
    let request = Request { namespaces: user | pid, cgroup, sibling: true, pidfd: false };
    match clone3(&request).map_err(|error| StepError::NoProcess { errno: errno_of(&error) })? {
        Side::Child => Ok(Made::Child(Box::new(brought))),
        Side::Parent { pid, .. } => {
            // The process's ends: who waits for it hears of its end.
            drop(brought);
            let failed = |error| Failed { error, process: Some(pid) };
            if let (Some(maps), Some(map)) = (mapped, map) {
                let error = |error| failed(StepError::Maps { source: Box::new(error) });
                userns::write_maps(&proc, pid, maps).map_err(error)?;
                let _ = rustix::io::write(&map, b"1");
            }
            devices.map_or(Ok(()), |(found, ours)| found.hand_over(&proc, pid, &ours)).map_err(failed)?;
            Ok(Made::Parent(pid))
        }
    }
}

/// The host's, which paths lead to for as long as this process is in the host's mount namespace.
pub(super) fn open_proc() -> Result<OwnedFd, StepError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, "/proc", flags, Mode::empty()).map_err(about("open", "/proc"))
}

/// What a process in a user namespace has no right to, and keeps from this one.
pub(super) fn provide(outside: &Outside, slots: &Slots, proc: &OwnedFd) -> Result<(), StepError> {
    if let Some((value, best_effort)) = outside.oom_score_adj {
        let path = "self/oom_score_adj";
        let opened = openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let written = opened.and_then(|file| rustix::io::write(&file, value.to_string().as_bytes()));
        if !best_effort {
            written.map_err(about("process.oomScoreAdj: write", "/proc/self/oom_score_adj"))?;
        }
    }
    for limit in &outside.ceilings {
        let resource = identity::resource(limit.resource);
        let own = getrlimit(resource);
        let wanted = identity::finite(limit.hard);
        if own.maximum.is_some_and(|own| wanted.is_none_or(|wanted| wanted > own)) {
            // The process sets it, and says so where it is still too low.
            let _ = setrlimit(resource, KernelLimit { current: own.current, maximum: wanted });
        }
    }
    if let Some(owner) = outside.streams {
        for stream in [&slots.stdin, &slots.stdout, &slots.stderr].into_iter().zip([
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ]) {
            give(stream.0.as_ref().map_or(stream.1, AsFd::as_fd), owner);
        }
    }
    Ok(())
}

/// Pipes only, as [`identity::give_streams`]; best effort.
fn give(stream: BorrowedFd<'_>, owner: u32) {
    let is_pipe = fstat(stream).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if is_pipe {
        let _ = fchown(stream, Some(Uid::from_raw(owner)), None::<Gid>);
    }
}

/// Opens the files of namespaces and looks at what they are.
fn open_all<'s>(joins: &'s [Join], proc: &OwnedFd) -> Result<Vec<(&'s Join, OwnedFd)>, StepError> {
    let mut opened = Vec::with_capacity(joins.len());
    for join in joins {
        let failed = |problem: String| StepError::Join { field: join.field.clone(), problem };
        let path = join.path.display();
        // A FIFO would block.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(CWD, &join.path, flags, Mode::empty());
        let file = file.map_err(|errno| failed(format!("open {path}: {}", super::error::words(errno))))?;
        let expected = join.kind.name();
        match crate::sys::namespace::kind(file.as_fd()) {
            Ok(kind) if kind == flag(join.kind) => {}
            Ok(kind) => {
                let found = KINDS.into_iter().find(|known| flag(*known) == kind).map_or("unknown", NamespaceKind::name);
                return Err(failed(format!("{path} is a namespace of type {found}, expected one of type {expected}")));
            }
            Err(_) => return Err(failed(format!("{path} is no namespace, expected one of type {expected}"))),
        }
        let is_own = userns::same(file.as_fd(), userns::own(proc, proc_name(join.kind))?.as_fd());
        if let (true, Some(changes)) = (is_own, &join.changes) {
            return Err(failed(format!("{path} is the caller's own namespace: {changes} would change the host")));
        }
        // EINVAL for the user namespace that one is in (setns(2)).
        if !(is_own && join.kind == NamespaceKind::User) {
            opened.push((join, file));
        }
    }
    Ok(opened)
}

fn join_all(joins: &[(&Join, OwnedFd)]) -> Result<(), StepError> {
    let (user, others): (Vec<_>, Vec<_>) = joins.iter().partition(|(join, _)| join.kind == NamespaceKind::User);
    let mut refused = Vec::new();
    for (join, file) in others {
        match enter(join.kind, file) {
            Ok(()) => {}
            Err(Errno::PERM) if !user.is_empty() => refused.push((join, file)),
            Err(errno) => return Err(not_joined(join, errno)),
        }
    }
    let later = refused.into_iter().map(|(join, file)| (*join, file));
    for (join, file) in user.into_iter().map(|(join, file)| (*join, file)).chain(later) {
        enter(join.kind, file).map_err(|errno| not_joined(join, errno))?;
    }
    Ok(())
}

fn not_joined(join: &Join, errno: Errno) -> StepError {
    let why = match (join.kind, errno) {
        // pid_namespaces(7): only descendants.
        (NamespaceKind::Pid, Errno::INVAL) => "it is not below the caller's own".to_owned(),
        (_, errno) => super::error::words(errno),
    };
    let problem = format!("join {}: {why}", join.path.display());
    StepError::Join { field: join.field.clone(), problem }
}

fn enter(kind: NamespaceKind, file: &OwnedFd) -> Result<(), Errno> {
    let kind = match kind {
        NamespaceKind::Pid => LinkNameSpaceType::ProcessID,
        NamespaceKind::Network => LinkNameSpaceType::Network,
        NamespaceKind::Mount => LinkNameSpaceType::Mount,
        NamespaceKind::Ipc => LinkNameSpaceType::InterProcessCommunication,
        NamespaceKind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        NamespaceKind::User => LinkNameSpaceType::User,
        NamespaceKind::Cgroup => LinkNameSpaceType::ControlGroup,
        NamespaceKind::Time => LinkNameSpaceType::Time,
    };
    move_into_link_name_space(file.as_fd(), Some(kind))
}

const KINDS: [NamespaceKind; 8] = [
    NamespaceKind::Pid,
    NamespaceKind::Network,
    NamespaceKind::Mount,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
    NamespaceKind::User,
    NamespaceKind::Cgroup,
    NamespaceKind::Time,
];

/// From linux/sched.h; the `libc` crate has no constant for time.
const CLONE_NEWTIME: i32 = 0x80;

fn flag(kind: NamespaceKind) -> u32 {
    let flag = match kind {
        NamespaceKind::Pid => libc::CLONE_NEWPID,
        NamespaceKind::Network => libc::CLONE_NEWNET,
        NamespaceKind::Mount => libc::CLONE_NEWNS,
        NamespaceKind::Ipc => libc::CLONE_NEWIPC,
        NamespaceKind::Uts => libc::CLONE_NEWUTS,
        NamespaceKind::User => libc::CLONE_NEWUSER,
        NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
        NamespaceKind::Time => CLONE_NEWTIME,
    };
    flag as u32
}

fn proc_name(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Network => "net",
        NamespaceKind::Mount => "mnt",
        other => other.name(),
    }
}

/// Moves this process, whose child is to be born there: from within a cgroup namespace that does not hold it nobody can be (cgroups(7),
/// "nsdelegate").
pub(super) fn move_into(cgroup: Option<&OwnedFd>) -> Result<bool, StepError> {
    let Some(cgroup) = cgroup else { return Ok(false) };
    let procs = openat(cgroup, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let moved = procs.and_then(|procs| rustix::io::write(&procs, b"0"));
    moved.map(|_| true).map_err(about("write", "cgroup.procs"))
}

/// Who is born after this is in the new time namespace; nobody is yet, so its clocks can be set.
fn new_clocks(offsets: ClockOffsets, proc: &OwnedFd) -> Result<(), StepError> {
    unshare(CLONE_NEWTIME).map_err(|error| match errno_of(&error) {
        Errno::INVAL => StepError::NoTimeNamespaces,
        Errno::PERM => StepError::NeedsRoot { what: "a new time namespace".to_owned() },
        errno => call("make a time namespace")(errno),
    })?;
    let text = offsets.text();
    if text.is_empty() {
        return Ok(());
    }
    let opened = openat(proc, "self/timens_offsets", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let written = opened.and_then(|file| rustix::io::write(&file, text.as_bytes()));
    written.map(drop).map_err(|errno| match errno {
        Errno::RANGE => StepError::Join {
            field: "linux.timeOffsets".to_owned(),
            problem: "a clock would be negative or beyond what the kernel takes".to_owned(),
        },
        errno => about("linux.timeOffsets: write", "/proc/self/timens_offsets")(errno),
    })
}

/// The target of an id-mapped mount.
fn id_mapped(step: &Step) -> Option<&str> {
    match step {
        Step::Mount(Mount { target, idmap: Some(_), .. }) => Some(target),
        _ => None,
    }
}

/// Copies what the script attaches of the host's mounts.
fn copy_mounts(script: &Script, trees: &mut Trees, ids: &mut Ids) -> Result<(), StepError> {
    let outside = &script.outside;
    for (index, step) in script.steps.iter().enumerate() {
        if !is_copied_outside(step, outside) {
            continue;
        }
        let tree = match step {
            Step::Root(RootPlan::Directory { path, devices, idmap }) => {
                let tree = mount::copy_root(path, *devices)?;
                if *idmap {
                    mount::map_ids(&tree, true, ids.of(None)?.as_fd(), "/")?;
                }
                tree
            }
            Step::Root(RootPlan::Tmpfs { binds, .. }) => {
                let copies = super::seed::copy(binds)?;
                for copy in copies.iter().flatten() {
                    // What cannot be mapped is nobody's in there, and read by all who may.
                    let _ = mount::map_ids(copy, false, ids.of(None)?.as_fd(), "/");
                    mount::cut_off(copy).map_err(about("mount_setattr", Path::new("a copy")))?;
                }
                trees.seeds = Some(copies);
                continue;
            }
            Step::Mount(wanted @ Mount { source: MountSource::Bind { source, recursive, follow }, .. }) => {
                let tree = mount::copy(source, *recursive, *follow)?;
                if let Some(idmap) = &wanted.idmap {
                    let namespace = ids.of(idmap.maps.as_ref())?;
                    mount::map_ids(&tree, idmap.recursive, namespace.as_fd(), &wanted.target)?;
                }
                if is_shared(wanted, outside) {
                    trees.outside.push((index, tree));
                    continue;
                }
                tree
            }
            _ => continue,
        };
        mount::cut_off(&tree).map_err(about("mount_setattr", Path::new("a copy")))?;
        trees.outside.push((index, tree));
    }
    Ok(())
}

/// The user namespaces that mounts are id-mapped with.
struct Ids<'h> {
    outside: &'h Outside,
    joins: &'h [(&'h Join, OwnedFd)],
    proc: &'h OwnedFd,
    /// The container's, once somebody asked.
    own: Option<OwnedFd>,
}

impl Ids<'_> {
    /// One with these mappings, without any one with the container's.
    fn of(&mut self, maps: Option<&IdMaps>) -> Result<OwnedFd, StepError> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| call("dup")(errno_of(&error)));
        if let Some(maps) = maps {
            return userns::of_nobody(self.proc, maps);
        }
        if let Some(own) = &self.own {
            return copy(own);
        }
        let joined = self.joins.iter().find(|(join, _)| join.kind == NamespaceKind::User).map(|(_, file)| file);
        let own = match (&self.outside.user, joined) {
            (Some(maps), _) => userns::of_nobody(self.proc, maps)?,
            (None, Some(file)) => copy(file)?,
            (None, None) => return Err(StepError::EmptySlot { slot: "the user namespace of an id-mapped mount" }),
        };
        let copied = copy(&own);
        self.own = Some(own);
        copied
    }
}

/// A union needs its layers mounted for a moment: in a mount namespace of this process's own, where the host sees nothing of it. After this
/// nothing of the host's can be copied any more.
fn unite(layers: &[PathBuf], upper: &Upper, maps: Option<BorrowedFd<'_>>) -> Result<OwnedFd, StepError> {
    unshare(libc::CLONE_NEWNS).map_err(|error| call("make a mount namespace")(errno_of(&error)))?;
    mount::host_propagation(Propagation { kind: PropagationKind::Slave, recursive: true })?;
    let tree = super::layers::union(layers, upper, maps)?;
    rustix::process::chdir("/").map_err(about("chdir", "/"))?;
    Ok(tree)
}

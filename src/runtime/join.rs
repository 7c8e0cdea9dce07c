//! A process that joins a running container: `exec`, and what a reload runs inside.
//!
//! | who | does | and then |
//! |---|---|---|
//! | the caller | forks a helper and waits for its end | reads the pid |
//! | the helper, outside | drops every descriptor that is not the run's, enters the namespaces, forks, tells the pid | ends |
//! | the process, inside | runs the script: cgroup v1, terminal, user, rights, filter, program | is the caller's child |
//!
//! - **Why a helper.** Who enters a pid namespace does not change its own, only that of its children (setns(2)). The caller is
//!   the parent of every container: were it to enter and could not come back, all that it forks later would be born in there.
//!   So somebody else enters and is gone afterwards. What it forks has `CLONE_PARENT`: a child of the caller's, like a
//!   container, with an exit that nobody else can take.
//! - **Why the caller may wait for it.** The helper does nothing that takes time: one setns(2), one clone3(2), as much as a
//!   fork of the caller's own. What may take long (an attach in cgroup v1, a user's files over a network) is done by the process
//!   itself, which nobody waits for. The end of the helper is waited for, not its pipe: the process has a copy of that
//!   and may be born frozen, in a frozen cgroup, before it could let go of it.
//! - **Why the helper undresses.** From its birth the process can be looked at by whoever has CAP_SYS_PTRACE inside. It has never
//!   been dumpable (CVE-2016-9962) and never held the socket or the pipes of its parent's.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::cgroup::{self, CgroupError};
use super::child;
use super::error::{StepError, words};
use super::helper::await_helper;
use super::notify::Agent;
use super::outside::{self, Brought};
use super::rdt;
use super::slots::Slots;
use super::spawn::{HostPid, Spawned};
use crate::oci::{Enters, Script, Step};
use crate::sys::clone::{Request, Side, clone3, leave};
use crate::sys::stat::{PF_FORKNOEXEC, stat};

/// Why no process was made inside. Nothing is left of the attempt.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The slots name no container.
    #[error("no container to run in was given")]
    NoContainer,
    /// The caller has no room for a pipe or a process.
    #[error("fork a helper to enter the container: {0}")]
    Helper(#[source] io::Error),
    /// ESRCH: its first process has ended.
    #[error("enter the namespaces of the container: {}", words(*.0))]
    Enter(Errno),
    /// Until it has changed its root, its namespaces show the host.
    #[error("the container is still being set up: there is nothing to run in yet")]
    NotReady,
    /// It waits for its start, or has a tiny init.
    #[error(
        "a user other than root can join a container once its program runs, and this one's first process is moored's own"
    )]
    NotStarted,
    /// The cgroup of its first process, where the container's own can take none.
    #[error("find the cgroup of the container's first process: {}", words(*.0))]
    Cgroup(Errno),
    /// Nobody could answer the filter's calls.
    #[error("linux.seccomp.listenerPath: connect to the seccomp agent: {}", super::notify::words(*.0))]
    Agent(Errno),
    /// Its share of caches and of memory bandwidth.
    #[error("linux.intelRdt: go into the container's group of resctrl: {}", words(*.0))]
    Rdt(Errno),
    /// ENOMEM also says that the first process has just ended (pid_namespaces(7)).
    #[error("fork a process inside the container: {}", words(*.0))]
    Fork(Errno),
    /// It was not done, and killed.
    #[error(
        "the helper that was to enter the container was not done in time and killed: a path of the host's may hang"
    )]
    Late,
    /// It was killed.
    #[error("the helper that was to enter the container was killed")]
    Killed,
}

impl JoinError {
    /// What the kernel said, 0 where it did not.
    pub fn errno(&self) -> i32 {
        match self {
            JoinError::NoContainer
            | JoinError::NotReady
            | JoinError::NotStarted
            | JoinError::Late
            | JoinError::Killed => 0,
            JoinError::Helper(error) => error.raw_os_error().unwrap_or(0),
            JoinError::Enter(errno)
            | JoinError::Cgroup(errno)
            | JoinError::Agent(errno)
            | JoinError::Fork(errno)
            | JoinError::Rdt(errno) => errno.raw_os_error(),
        }
    }
}

/// Makes a process that executes the script inside the container of `slots.container` (a pidfd of its first process), born
/// in `slots.cgroup`, and returns without waiting for the script. It is a child of the caller's like any other.
///
/// The caller must have one thread. The slots are closed here; descriptors 0 to 2 without a slot are the caller's. `prepare` is
/// called first in the new process, still outside. Whether the program could be executed is what `slots.report` says.
///
/// The helper has this long, where its caller may not wait for ever.
pub fn spawn_exec(
    script: &Script,
    slots: Slots,
    patience: Option<Duration>,
    prepare: impl FnOnce(),
) -> Result<Spawned, JoinError> {
    if slots.container.is_none() {
        return Err(JoinError::NoContainer);
    }
    let helper = |errno: Errno| JoinError::Helper(errno.into());
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(helper)?;
    match clone3(&Request { pidfd: true, ..Request::default() }).map_err(JoinError::Helper)? {
        Side::Child => {
            prepare();
            help(script, slots, &tell)
        }
        Side::Parent { pidfd: None, .. } => Err(JoinError::Helper(io::ErrorKind::Unsupported.into())),
        Side::Parent { pidfd: Some(helper_fd), .. } => {
            drop(tell);
            if !await_helper(&helper_fd, patience).map_err(JoinError::Helper)? {
                return Err(JoinError::Late);
            }
            let pid = Note::read(told)?;
            let found = Pid::from_raw(pid).ok_or(JoinError::Killed)?;
            // Ours and not waited for: the number is still its own.
            let pidfd = pidfd_open(found, PidfdFlags::empty()).map_err(helper)?;
            Ok(Spawned { pid: HostPid(pid.unsigned_abs()), pidfd })
        }
    }
}

/// The helper's life.
fn help(script: &Script, slots: Slots, tell: &OwnedFd) -> ! {
    let mut brought = Brought::default();
    let made = enter_and_fork(script, &slots, tell, &mut brought);
    let note = match made {
        Ok(Side::Child) => {
            // The pipe goes with exec; until then it says nothing any more.
            child::run(script, slots, None, brought)
        }
        Ok(Side::Parent { pid, .. }) => Note::Made(pid),
        Err(JoinError::Enter(errno)) => Note::Enter(errno.raw_os_error()),
        Err(JoinError::Cgroup(errno)) => Note::Cgroup(errno.raw_os_error()),
        Err(JoinError::Agent(errno)) => Note::Agent(errno.raw_os_error()),
        Err(JoinError::Rdt(errno)) => Note::Rdt(errno.raw_os_error()),
        Err(JoinError::NotReady) => Note::NotReady,
        Err(JoinError::NotStarted) => Note::NotStarted,
        Err(JoinError::Fork(errno)) => Note::Fork(errno.raw_os_error()),
        Err(error) => Note::Fork(Some(error.errno()).filter(|errno| *errno > 0).unwrap_or(libc::EIO)),
    };
    note.write(tell);
    leave(0)
}

fn enter_and_fork(script: &Script, slots: &Slots, tell: &OwnedFd, brought: &mut Brought) -> Result<Side, JoinError> {
    let outside = &script.outside;
    let container = slots.container.as_ref().ok_or(JoinError::NoContainer)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(JoinError::Enter)?;
    // While the host's /proc is in reach.
    let host_root = has_not_executed(container.as_fd()).then(root).flatten();
    let leaf = slots.cgroup.as_ref().map(|own| leaf(own, container.as_fd())).transpose()?.flatten();
    let mut keep: Vec<i32> = slots.all().map(|fd| fd.as_raw_fd()).collect();
    keep.extend([tell.as_raw_fd()]);
    keep.extend(leaf.as_ref().map(AsRawFd::as_raw_fd));
    crate::sys::fd::close_from_except(3, &mut keep).map_err(JoinError::Helper)?;
    let mut cgroup = leaf.as_ref().or(slots.cgroup.as_ref());
    let rights = |error: StepError| JoinError::Enter(Errno::from_raw_os_error(error.errno()));
    brought.agent = Agent::of(script, Some(container.as_fd()))
        .map_err(|error| JoinError::Agent(Errno::from_raw_os_error(error.errno())))?;
    if script.steps.iter().any(|step| matches!(step, Step::ExecLabel { .. })) {
        brought.proc = Some(outside::open_proc().map_err(rights)?);
    }
    if let Some(rdt) = &outside.rdt {
        rdt::root().and_then(|root| rdt::enter(&root, rdt)).map_err(|error| JoinError::Rdt(error.errno()))?;
    }
    if outside.enters != Enters::default() {
        let proc = outside::open_proc().map_err(rights)?;
        outside::provide(outside, slots, &proc).map_err(rights)?;
        if outside.enters.foreign_cgroup && outside::move_into(cgroup).map_err(rights)? {
            cgroup = None;
        }
    }
    enter(container.as_fd(), outside.enters).map_err(|errno| match errno {
        // Until then it is this user's process and not dumpable.
        Errno::PERM if !rustix::process::geteuid().is_root() && has_not_executed(container.as_fd()) => {
            JoinError::NotStarted
        }
        errno => JoinError::Enter(errno),
    })?;
    if host_root.is_some() && host_root == root() {
        return Err(JoinError::NotReady);
    }
    let cgroup = cgroup.map(AsFd::as_fd);
    let request = Request { cgroup, sibling: true, ..Request::default() };
    clone3(&request).map_err(|error| JoinError::Fork(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

/// All at once or none. For root those that are shared with the container anyway are entered again without effect; another user
/// has no right to them.
fn enter(container: BorrowedFd<'_>, enters: Enters) -> Result<(), Errno> {
    let all = [
        (ThreadNameSpaceType::MOUNT, "mnt", true),
        (ThreadNameSpaceType::PROCESS_ID, "pid", true),
        (ThreadNameSpaceType::NETWORK, "net", true),
        (ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION, "ipc", true),
        (ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME, "uts", true),
        (ThreadNameSpaceType::CONTROL_GROUP, "cgroup", true),
        (ThreadNameSpaceType::TIME, "time", enters.time),
        // EINVAL for the one that one is in.
        (ThreadNameSpaceType::USER, "user", enters.user && !is_shared(container, "user")),
    ];
    let by_root = rustix::process::geteuid().is_root();
    let wanted = all.into_iter().filter(|(_, name, wanted)| *wanted && (by_root || !is_shared(container, name)));
    let all = wanted.fold(ThreadNameSpaceType::empty(), |all, (kind, ..)| all | kind);
    move_into_thread_name_spaces(container, all)
}

/// Whether it is in the same namespace as this process. What cannot be looked at is not.
fn is_shared(container: BorrowedFd<'_>, name: &str) -> bool {
    let Some(pid) = crate::sys::pidfd::pid(container) else { return false };
    let identity = |path: &str| rustix::fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let own = identity(&format!("/proc/self/ns/{name}"));
    own.is_some() && own == identity(&format!("/proc/{pid}/ns/{name}"))
}

/// Whether its first process has not executed anything: it sets itself up, waits for its start, or is the tiny init. Callers know better
/// (the report's end of file); this keeps a mistake of theirs from running a program on the host.
fn has_not_executed(container: BorrowedFd<'_>) -> bool {
    crate::sys::pidfd::pid(container).and_then(stat).is_none_or(|found| found.flags & PF_FORKNOEXEC != 0)
}

/// Which directory is `/`.
fn root() -> Option<(u64, u64)> {
    rustix::fs::stat("/").ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// A cgroup that has handed down controllers takes no process (cgroups(7), "no internal processes"): with an init like systemd
/// inside it is the cgroup of this one that does.
fn leaf(own: &OwnedFd, container: BorrowedFd<'_>) -> Result<Option<OwnedFd>, JoinError> {
    if !cgroup::hands_down(own) {
        return Ok(None);
    }
    cgroup::current(container).map(Some).map_err(|error| match error {
        CgroupError::Call { errno, .. } | CgroupError::NoUnified { errno } => JoinError::Cgroup(errno),
        _ => JoinError::Cgroup(Errno::NOENT),
    })
}

/// What the helper tells, in eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Note {
    Made(i32),
    Enter(i32),
    Cgroup(i32),
    Fork(i32),
    NotReady,
    Agent(i32),
    Rdt(i32),
    NotStarted,
}

impl Note {
    fn write(self, tell: &OwnedFd) {
        let (kind, value) = match self {
            Note::Made(pid) => (0, pid),
            Note::Enter(errno) => (1, errno),
            Note::Cgroup(errno) => (2, errno),
            Note::Fork(errno) => (3, errno),
            Note::NotReady => (4, 0),
            Note::Agent(errno) => (5, errno),
            Note::Rdt(errno) => (6, errno),
            Note::NotStarted => (7, 0),
        };
        let note = (u64::from(value.unsigned_abs()) << 8 | kind).to_ne_bytes();
        // An empty pipe takes eight bytes whole (pipe(7)); its reader lives or nobody cares.
        let _ = rustix::io::write(tell, &note);
    }

    /// The pid, of what the helper said before it ended.
    fn read(told: OwnedFd) -> Result<i32, JoinError> {
        let mut note = [0u8; 8];
        // Does not block: the helper has ended, and with it whoever writes.
        std::fs::File::from(told).read_exact(&mut note).map_err(|_| JoinError::Killed)?;
        let note = u64::from_ne_bytes(note);
        let value = i32::try_from(note >> 8).unwrap_or(0);
        // A pid is no errno, and may not be made one.
        let errno = || Errno::from_raw_os_error(value);
        match note & 0xff {
            0 => Ok(value),
            1 => Err(JoinError::Enter(errno())),
            2 => Err(JoinError::Cgroup(errno())),
            3 => Err(JoinError::Fork(errno())),
            5 => Err(JoinError::Agent(errno())),
            6 => Err(JoinError::Rdt(errno())),
            7 => Err(JoinError::NotStarted),
            _ => Err(JoinError::NotReady),
        }
    }
}

//! What a container's first process does, as data.
//!
//! A [`Script`] is a list of [`Step`]s in the order in which the new process executes them itself, between the clone and
//! the execve. Every value in it is checked; what only the run can know (descriptors, pids) is not in it but in the
//! run's slots. It serialises, so that one process can compile it and another run it, and it prints for people.
//!
//! The order is the kernel's, not a matter of taste:
//! cgroups before the cgroup namespace (whose root is the cgroup the caller is in), namespaces before the mounts that show
//! them (cgroups as late as that, as they may be made meanwhile), mounts before masks, masks before the root is sealed, everything that needs privilege before the identity, and
//! the filter last (first of the identity steps where no_new_privileges is not set, since loading it then needs a
//! capability).

mod words;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::hooks::{Hook, Hooks, Moment, StateText};
use super::idmap::IdMaps;
use super::outside::Outside;
use super::scheduler::{Affinity, MemoryPolicy, Scheduler};

/// All steps of one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// Whether the process is pid 1 of a new pid namespace. This one cannot be a step: it is part of the clone.
    pub new_pid_namespace: bool,
    /// What is done for it from outside, before it is made.
    pub outside: Outside,
    /// What it does then.
    pub steps: Vec<Step>,
}

impl Script {
    /// The hooks of the container, if it has any.
    pub fn hooks(&self) -> Option<&Hooks> {
        self.steps.iter().find_map(|step| if let Step::MakerHooks(hooks) = step { Some(hooks) } else { None })
    }

    /// Whether its process has a terminal of its own.
    pub fn has_terminal(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Console { .. }))
    }

    /// The agent that answers its filter, if there is one.
    pub fn listener(&self) -> Option<&Listener> {
        self.steps.iter().find_map(|step| if let Step::Listener(listener) = step { Some(listener) } else { None })
    }

    /// What its maker is to run before anything of the container is there.
    pub fn host_start(&self) -> Option<&Hook> {
        self.steps.iter().find_map(|step| if let Step::HostStart(hook) = step { Some(hook) } else { None })
    }

    /// What it runs when it begins.
    pub fn program_env_mut(&mut self) -> Option<&mut Vec<String>> {
        match self.steps.last_mut() {
            Some(Step::Execute { env, .. }) => Some(env),
            Some(_) | None => None,
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Wait until the mappings of the new user namespace are written.
    AwaitMaps,
    /// Become root of the user namespace: until then the process has the number it has outside, which is nobody's there.
    BecomeRoot,
    /// Die with the parent, not dumpable, own session, signals as they are by default.
    Isolate,
    /// A session keyring of this name, or a new one without.
    Keyring(Option<String>),
    /// Join the cgroup v1 directories of the slots, when they are made.
    JoinCgroups,
    /// Take copies of the cgroup trees of the slots while their mounts are still in reach.
    TakeCgroups,
    /// New namespaces.
    Unshare(Namespaces),
    /// Enter the network namespace of the slot.
    JoinNetwork,
    /// Bring the loopback interface up.
    Loopback,
    /// Wait until the devices that the network namespace gets are in it.
    TakeDevices,
    /// sethostname(2).
    Hostname(String),
    /// setdomainname(2).
    Domainname(String),
    /// How mounts of the host's reach this mount namespace from now on.
    HostPropagation(Propagation),
    /// Limits that the host's files and devices are subject to.
    Rlimits {
        /// In the order of config.json.
        limits: Vec<Rlimit>,
        /// A limit that may not be raised is lowered to what is allowed instead of failing.
        clamp: bool,
    },
    /// The directory or file tree that becomes `/`.
    Root(RootPlan),
    /// Take the root that the process has.
    CurrentRoot,
    /// One mount.
    Mount(Mount),
    /// `/dev`: nodes and the usual links.
    Devices(Vec<DeviceNode>),
    /// A node like that of the host's at this path.
    HostDevice(PathBuf),
    /// A pty from the container's own devpts, its master sent through the slot, its slave as `/dev/console` and stdio.
    Console {
        /// Rows and columns, where config.json says.
        size: Option<(u16, u16)>,
        /// Put it onto `/dev/console` as well.
        cover: bool,
    },
    /// Let whoever makes the container run its hooks, and wait until they are done. It has all hooks of the container for him.
    MakerHooks(Hooks),
    /// Let whoever makes the container run this on the host, and wait until it is done. Nothing of the container is there yet.
    HostStart(Hook),
    /// Run this as this process, before the program.
    OwnStart {
        /// What.
        hook: Hook,
        /// With HOME of the user, where its environment has none.
        home: bool,
    },
    /// Run these hooks as this process.
    Hooks {
        /// Which.
        moment: Moment,
        /// In this order.
        hooks: Vec<Hook>,
        /// What their state says.
        state: StateText,
        /// The process's, for those of its that have none of their own.
        env: Vec<String>,
    },
    /// Make the working directory if it is not there.
    MakeCwd(String),
    /// Write a value below `/proc/sys`: path with slashes, and text.
    Sysctl(String, String),
    /// Write `oom_score_adj`.
    OomScoreAdj {
        /// −1000 to 1000.
        value: i32,
        /// A value that may not be set is left alone.
        best_effort: bool,
    },
    /// What security modules make of the program.
    ExecLabel {
        /// AppArmor's profile.
        apparmor: Option<String>,
        /// SELinux's label.
        selinux: Option<String>,
    },
    /// Fail unless SELinux is on, by which mounts are to be labelled.
    NeedSelinux,
    /// Make those mounts read-only that were to be written to first.
    SealMounts,
    /// Make these read-only where they exist.
    ReadonlyPaths(Vec<String>),
    /// Hide these where they exist.
    MaskedPaths(Vec<String>),
    /// Make the root read-only.
    ReadonlyRoot,
    /// Make the new root `/` and let the old one go.
    Pivot,
    /// The same where pivot_root(2) is refused, as on an initramfs: the old root stays below, without its proc and sysfs.
    CoverRoot,
    /// The propagation of the root mount from now on.
    RootPropagation(Propagation),
    /// personality(2).
    Personality(u32),
    /// set_mempolicy(2).
    MemoryPolicy(MemoryPolicy),
    /// sched_setattr(2).
    Scheduler(Scheduler),
    /// sched_setaffinity(2).
    Affinity(Affinity),
    /// ioprio_set(2): class << 13 | priority.
    IoPriority(u16),
    /// umask(2).
    Umask(u32),
    /// chdir(2), checked to be inside. Tried again after the identity where the directory belongs to the user.
    Chdir(String),
    /// PR_SET_NO_NEW_PRIVS.
    NoNewPrivileges,
    /// A tiny init stays as pid 1; what follows is done by its child.
    Init,
    /// Groups, gid, uid.
    Identity(Identity),
    /// Bounding set before the identity.
    BoundingSet(u64),
    /// The four others after it.
    Capabilities(CapabilitySets),
    /// Connect to the agent that answers the filter's calls, while its socket is in reach.
    Listener(Listener),
    /// Load the filter, and hand its listener to the agent if it has one.
    Seccomp(super::seccomp::Filter),
    /// Find the program; fails with the words that clients of runc know.
    FindProgram {
        /// `argv[0]`.
        program: String,
        /// The value of PATH.
        path: String,
    },
    /// Put stdio and the extra descriptors of the slots into place, let everything else close at the execve, and live on
    /// when the parent dies.
    Descriptors,
    /// Tell that all is ready, then wait until somebody writes into the gate.
    Gate,
    /// Put the descriptors of the slots into place and execute.
    Execute {
        /// `argv`; `[0]` is looked up in PATH.
        args: Vec<String>,
        /// `KEY=value`.
        env: Vec<String>,
        /// Add HOME from the root's passwd file where the environment has none.
        home: bool,
        /// Add LISTEN_PID, the process's own number (sd_listen_fds(3)), in the place of any.
        listen_pid: bool,
    },
    /// The same with a filter that is compiled meanwhile: of a process that its parent makes at once.
    SeccompComing,
    /// Rights as setuid(2) leaves them: those that the process has for root, none for another user. Bounding set and ambient set stay.
    RightsOfUser,
}

/// Who gets the listener of a filter, and what he is told beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// A unix socket of the host's.
    pub path: PathBuf,
    /// Passed on as it is.
    pub metadata: Option<String>,
    /// The container's state.
    pub state: StateText,
    /// Its status.
    pub status: String,
}

/// New namespaces apart from the pid namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Always there: a container without one is refused.
    pub mount: bool,
    /// Network.
    pub network: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host and domain name.
    pub uts: bool,
    /// Cgroup root.
    pub cgroup: bool,
}

/// mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// Which kind.
    pub kind: PropagationKind,
    /// Also the mounts below.
    pub recursive: bool,
}

/// The kinds of propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PropagationKind {
    /// Nothing in, nothing out.
    Private,
    /// In only.
    Slave,
    /// Both ways.
    Shared,
    /// Private, and not to be bind-mounted.
    Unbindable,
}

/// A resource limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which.
    pub resource: RlimitResource,
    /// Current value; `u64::MAX` is none.
    pub soft: u64,
    /// Ceiling; `u64::MAX` is none.
    pub hard: u64,
}

/// Resources of setrlimit(2), by their OCI names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum RlimitResource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// What becomes `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootPlan {
    /// A directory of the host's.
    Directory {
        /// Absolute.
        path: PathBuf,
        /// Device nodes in it are devices; those of `/dev` always are.
        devices: bool,
        /// The ids of its files are the container's: the mount is id-mapped.
        idmap: bool,
    },
    /// The union of directories of the host's, by overlayfs. Device nodes in it are none.
    Layers {
        /// Absolute, the lowest first. No part of one is a link.
        layers: Vec<PathBuf>,
        /// What is written.
        upper: Upper,
        /// The ids of their files are the container's: each layer's mount is id-mapped, and so is that of a kept upper one.
        idmap: bool,
    },
    /// A tmpfs with these in it; made read-only by its own step.
    Tmpfs {
        /// Made first, mode 0755, except `/tmp`, which is 01777.
        dirs: Vec<String>,
        /// Written with mode 0644: absolute path inside and contents.
        files: Vec<(String, Vec<u8>)>,
        /// Bind-mounted read-only over empty files: the host's path and the absolute path inside. One that is missing on the
        /// host leaves the empty file, unless it is the last: that is the program.
        binds: Vec<(PathBuf, String)>,
    },
}

/// The writable layer of a root that is a union.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upper {
    /// In memory, gone with the container.
    Memory {
        /// Most that is in it.
        size_bytes: u64,
    },
    /// In a directory that holds `upper` and `work`.
    Kept(PathBuf),
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside, without `.` and `..`.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// Its own attributes.
    pub own: Attributes,
    /// Attributes of it and of all mounts below it (`rro` …), set after its own.
    pub below: Attributes,
    /// In the order of the options.
    pub propagation: Vec<Propagation>,
    /// Whose the files of a bind are.
    pub idmap: Option<MountIdMap>,
    /// A new tmpfs gets what the target held (`tmpcopyup`).
    pub copy_up: bool,
}

/// An id-mapped mount (mount_setattr(2), MOUNT_ATTR_IDMAP).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdMap {
    /// The mapping; `None` is the container's.
    pub maps: Option<IdMaps>,
    /// Also of the mounts below.
    pub recursive: bool,
}

/// What mount_setattr(2) changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `MOUNT_ATTR_…` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_…` bits to clear.
    pub clear: u64,
}

impl Attributes {
    /// Whether they change anything.
    pub fn is_empty(self) -> bool {
        self.set | self.clear == 0
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host's.
    Bind {
        /// Absolute.
        source: PathBuf,
        /// With the mounts below it.
        recursive: bool,
        /// If it is a link: what that leads to, not the link itself.
        follow: bool,
    },
    /// A new instance of a file system.
    Filesystem {
        /// Its type.
        fstype: String,
        /// Its source.
        source: String,
        /// Its own options: words, and names with values.
        options: Vec<(String, Option<String>)>,
    },
    /// The container's own cgroups.
    Cgroup,
}

/// A node of mknod(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path inside.
    pub path: String,
    /// Which kind.
    pub kind: DeviceKind,
    /// Major number; 0 for a FIFO.
    pub major: u32,
    /// Minor number; 0 for a FIFO.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Block device.
    Block,
    /// Character device.
    Character,
    /// FIFO.
    Fifo,
}

/// Who the process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// By numbers.
    Numbers {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
    /// By what the root's own passwd and group files say at start.
    Names {
        /// Name or number.
        user: String,
        /// Name or number; the user's own when absent.
        group: Option<String>,
    },
}

/// Capability sets as bit masks: bit n is capability number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// What is in force.
    pub effective: u64,
    /// What may be put in force.
    pub permitted: u64,
    /// What programs with inheritable file capabilities keep.
    pub inheritable: u64,
    /// What programs without file capabilities keep.
    pub ambient: u64,
}

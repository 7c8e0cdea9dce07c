//! What can go wrong while a process sets itself up, in words.

use std::path::Path;

use rustix::io::Errno;

/// The kernel's words for an errno, beginning with a small letter as clients of runc expect them.
pub fn words(errno: Errno) -> String {
    let text = nix::errno::Errno::from_raw(errno.raw_os_error()).desc();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => format!("errno {}", errno.raw_os_error()),
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A system call that is about no path.
    #[error("{call}: {}", words(*.errno))]
    Call {
        /// Its name.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
    /// A system call about a path.
    #[error("{call} {path}: {}", words(*.errno))]
    Path {
        /// Its name.
        call: &'static str,
        /// The path it was about.
        path: String,
        /// What it said.
        errno: Errno,
    },
    /// A file system that refused its options, with its own message.
    #[error("{fstype} on {target}: {message}: {}", words(*.errno))]
    Filesystem {
        /// Its type.
        fstype: String,
        /// Where it was to be mounted.
        target: String,
        /// What the kernel wrote into the context.
        message: String,
        /// The errno of the call.
        errno: Errno,
    },
    /// overlayfs is not there.
    #[error("the kernel has no overlayfs, which `layers` take: load its module `overlay`, or use a kernel that has it")]
    NoOverlay,
    /// overlayfs refused.
    #[error("the union of the layers: {message}: {}", words(*.errno))]
    Union {
        /// What it said, or what it meant.
        message: String,
        /// The errno of the call.
        errno: Errno,
    },
    /// Something else is where a device should be.
    #[error("{path} is not the device {expected}")]
    NotTheDevice {
        /// The path.
        path: String,
        /// Type, major, minor.
        expected: &'static str,
    },
    /// Too many links on the way.
    #[error("{path}: too many levels of symbolic links")]
    TooManyLinks {
        /// The path that was being made.
        path: String,
    },
    /// The working directory is not below the root.
    #[error("{path} is outside the root of the container")]
    OutsideRoot {
        /// The working directory.
        path: String,
    },
    /// The kernel gives no listener for a filter.
    #[error("linux.seccomp.listenerPath: no listener for SCMP_ACT_NOTIFY: {why}")]
    NoListener {
        /// Why.
        why: &'static str,
        /// What it said.
        errno: Errno,
    },
    /// A label that the kernel does not take.
    #[error("{field}: {problem}")]
    Label {
        /// Where config.json names it.
        field: &'static str,
        /// Why not.
        problem: String,
    },
    /// A group of resctrl.
    #[error(transparent)]
    Rdt(#[from] super::rdt::RdtError),
    /// A network device that cannot be the container's.
    #[error("{field}: {problem}")]
    NetDevice {
        /// Where config.json names it.
        field: String,
        /// Why not.
        problem: String,
    },
    /// Whoever moves them did not; he says why.
    #[error("the network devices were not moved")]
    NoDevices,
    /// A process that is to get network devices.
    #[error("linux.netDevices: the container's process did not come to its network namespace")]
    NoNetwork,
    /// A slot that the script needs is empty.
    #[error("no descriptor for {slot} was given")]
    EmptySlot {
        /// Its name.
        slot: &'static str,
    },
    /// The user or group is not in the root's files.
    #[error("no {what} {name} in {file} of the container")]
    NoSuchName {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// The file.
        file: &'static str,
    },
    /// The root's passwd or group file is not to be trusted.
    #[error("{file} of the container is {problem}")]
    BadAccountFile {
        /// The file.
        file: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not in any directory of PATH.
    #[error("exec: {program:?}: executable file not found in $PATH")]
    NotInPath {
        /// `argv[0]`.
        program: String,
    },
    /// There, but not to be executed.
    #[error("exec: {program:?}: {}", words(*.errno))]
    NotExecutable {
        /// `argv[0]`.
        program: String,
        /// Why.
        errno: Errno,
    },
    /// `argv[0]` with a slash in it does not exist.
    #[error("exec: {program:?}: stat {program}: {}", words(*.errno))]
    NoProgram {
        /// `argv[0]`.
        program: String,
        /// Why.
        errno: Errno,
    },
    /// execve(2) itself failed.
    #[error("exec {program}: {}", words(*.errno))]
    Exec {
        /// The path that was executed.
        program: String,
        /// Why.
        errno: Errno,
    },
    /// A hook failed.
    #[error("{text}")]
    Hook {
        /// Which and why, in words.
        text: String,
    },
    /// Whoever makes the container is gone.
    #[error("the maker of the container went away")]
    NoMaker,
    /// Whoever was to make its cgroups ended before they were made.
    #[error("whoever was to make the cgroups is gone")]
    Abandoned,
    /// A namespace of config.json, or something about it.
    #[error("{field}: {problem}")]
    Join {
        /// Where config.json has it.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// Only root may.
    #[error("{what} needs root")]
    NeedsRoot {
        /// What.
        what: String,
    },
    /// This kernel is built without.
    #[error("linux.namespaces: a time namespace: this kernel has none (CONFIG_TIME_NS, Linux 5.6)")]
    NoTimeNamespaces,
    /// The mappings of ids were not taken.
    #[error("linux.uidMappings and gidMappings: {source}")]
    Maps {
        /// Why.
        source: Box<StepError>,
    },
    /// newuidmap(1) or newgidmap(1).
    #[error("{program} {said}")]
    MapHelper {
        /// Which.
        program: &'static str,
        /// Its words.
        said: String,
    },
    /// Neither mappings nor a word of the helper's came.
    #[error("the process that was to write the mappings of ids was killed")]
    NoMaps,
    /// Whoever compiles the filter is gone, or says why it does not come.
    #[error("the filter did not come")]
    NoFilter,
    /// The kernel maps no ids there.
    // The cure first: a keeper tells the beginning of a long text.
    #[error(
        "mounts: {target}: ids cannot be mapped: {}; a unit's [[mount]] may say idmap = false. This kernel does not map that file system (type \
         {magic:#x} in statfs(2)), or it is mapped already",
        words(*.errno)
    )]
    IdMap {
        /// The mount.
        target: String,
        /// Which file system.
        magic: u64,
        /// What the kernel said.
        errno: Errno,
    },
    /// The container's process could not be cloned.
    #[error("clone a process for the container: {}", words(*.errno))]
    NoProcess {
        /// Why.
        errno: Errno,
    },
    /// A string that holds a zero byte.
    #[error("{what} holds a zero byte")]
    ZeroByte {
        /// Where it is.
        what: &'static str,
    },
}

/// Stands for [`StepError::Abandoned`] among errnos: the kernel's end at 4095, so neither it nor a file system of somebody's says this.
pub const ABANDONED: i32 = 4096;

impl StepError {
    /// The errno, or 0 where there is none.
    pub fn errno(&self) -> i32 {
        match self {
            StepError::Call { errno, .. }
            | StepError::Path { errno, .. }
            | StepError::Filesystem { errno, .. }
            | StepError::Union { errno, .. }
            | StepError::NotExecutable { errno, .. }
            | StepError::NoProgram { errno, .. }
            | StepError::Exec { errno, .. }
            | StepError::IdMap { errno, .. }
            | StepError::NoProcess { errno } => errno.raw_os_error(),
            StepError::Maps { source } => source.errno(),
            StepError::NoListener { errno, .. } => errno.raw_os_error(),
            StepError::NeedsRoot { .. } => Errno::PERM.raw_os_error(),
            StepError::NoTimeNamespaces => Errno::INVAL.raw_os_error(),
            StepError::Abandoned => ABANDONED,
            StepError::NoOverlay => Errno::NODEV.raw_os_error(),
            StepError::NotInPath { .. } => Errno::NOENT.raw_os_error(),
            StepError::NotTheDevice { .. }
            | StepError::TooManyLinks { .. }
            | StepError::OutsideRoot { .. }
            | StepError::EmptySlot { .. }
            | StepError::Label { .. }
            | StepError::Rdt(_)
            | StepError::NetDevice { .. }
            | StepError::NoDevices
            | StepError::NoNetwork
            | StepError::NoSuchName { .. }
            | StepError::BadAccountFile { .. }
            | StepError::Hook { .. }
            | StepError::NoMaker
            | StepError::Join { .. }
            | StepError::MapHelper { .. }
            | StepError::NoMaps
            | StepError::NoFilter
            | StepError::ZeroByte { .. } => 0,
        }
    }
}

/// Names the call that failed.
pub(super) fn call(call: &'static str) -> impl FnOnce(Errno) -> StepError {
    move |errno| StepError::Call { call, errno }
}

/// Names the call that failed and what it was about.
pub(super) fn about(call: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> StepError {
    move |errno| StepError::Path { call, path: path.as_ref().display().to_string(), errno }
}

/// The errno of an error that came from a system call.
pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

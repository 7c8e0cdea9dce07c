//! Cgroups: one v2 directory for each container, on every kind of host, and v1 directories where a limit needs one.
//!
//! The v2 directory is what a container is tracked, killed and watched by: a process is born in it (`CLONE_INTO_CGROUP`),
//! `cgroup.kill` reaches all of it, and `cgroup.events` is pollable for emptiness. On v1 and hybrid hosts the v2 hierarchy
//! exists as well, and a detached mount of it is enough. v1 hierarchies hold limits only. Where no v1 hierarchy has the devices controller, device
//! rules are an eBPF program on the v2 directory.
//!
//! Everything is done through directory descriptors below a place that is ours; nothing else is touched.

mod below;
mod container;
mod device_filter;
mod figures;
mod freezer;
mod host;
mod legacy;
mod out_of_memory;
mod root;
mod statistics;
mod unified;

pub use below::Below;
pub use container::ContainerCgroup;
pub(super) use container::await_made;
pub use device_filter::device_rules_ignored;
pub use figures::Figures;
pub(super) use host::current;
pub use host::{Host, Layout, host_is_unified, without_effect};
pub(crate) use out_of_memory::OutOfMemory;
pub use root::CgroupRoot;
pub(super) use unified::hands_down;

use std::borrow::Cow;
use std::path::PathBuf;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::words;

/// Where the cgroups of a container are: enough to find them again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Path of the v2 directory in its hierarchy, absolute.
    pub unified: String,
    /// Name of each v1 hierarchy that has a directory, and its path there, absolute.
    pub legacy: Vec<(String, String)>,
}

/// Why something could not be done with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No v2 hierarchy can be reached.
    #[error("no cgroup v2 hierarchy: {}", words(*.errno))]
    NoUnified {
        /// What fsopen or open said.
        errno: Errno,
    },
    /// A path that a container may not name.
    #[error("cgroup path {path:?} leaves its hierarchy")]
    BadPath {
        /// The path.
        path: String,
    },
    /// A call about a directory or file failed.
    #[error("{call} {path}: {}", words(*.errno))]
    Call {
        /// Which.
        call: &'static str,
        /// What it was about.
        path: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// A limit was not taken.
    #[error("linux.resources.{field}: the kernel did not take {value:?} for {file}: {}", words(*.errno))]
    Limit {
        /// The field of config.json.
        field: Cow<'static, str>,
        /// What was written.
        value: String,
        /// The file.
        file: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// A limit needs a file that this kernel does not have.
    #[error("linux.resources.{field} needs {file}, which this kernel does not have")]
    NoFile {
        /// The field of config.json.
        field: Cow<'static, str>,
        /// The file.
        file: String,
    },
    /// A limit that v1 alone has.
    #[error(
        "linux.resources.{field} needs {file} of cgroup v1: this host has its controllers on v2, which has nothing like it"
    )]
    OnlyLegacy {
        /// The field of config.json.
        field: &'static str,
        /// The file.
        file: &'static str,
    },
    /// Files of v2 by name, on a host whose controllers are elsewhere.
    #[error("linux.resources.unified[{file:?}] is a file of cgroup v2: this host has its controllers on v1")]
    OnlyUnified {
        /// The file.
        file: String,
    },
    /// A changed limit below what is in use, where that was not to be.
    #[error(
        "linux.resources.memory.limit of {limit_bytes} bytes is below the {used_bytes} in use, and checkBeforeUpdate is set"
    )]
    BelowUse {
        /// What it is to have.
        limit_bytes: u64,
        /// All that is charged to it.
        used_bytes: u64,
    },
    /// A running container holds more than it is to have: the kernel would kill it.
    #[error(
        "linux.resources.memory.limit of {limit_bytes} bytes is below the {held_bytes} that the container holds and cannot \
         give back (it uses {used_bytes}, caches included)"
    )]
    InUse {
        /// What it is to have.
        limit_bytes: u64,
        /// What it holds and the kernel cannot reclaim.
        held_bytes: u64,
        /// All that is charged to it.
        used_bytes: u64,
    },
    /// The device rules could not be put in force.
    #[error("linux.resources.devices: cannot {call} the eBPF program for the rules: {}", words(*.errno))]
    DeviceProgram {
        /// What was done with it.
        call: &'static str,
        /// What bpf(2) said.
        errno: Errno,
    },
    /// A limit needs a controller that is not there.
    #[error(
        "linux.resources.{field} needs the {controller} controller, which this host does not offer here: there is no {file}"
    )]
    NoController {
        /// The field of config.json.
        field: Cow<'static, str>,
        /// The controller.
        controller: Cow<'static, str>,
        /// The file.
        file: Cow<'static, str>,
    },
    /// On v2 a limit needs a controller that does not reach so far down.
    #[error(
        "linux.resources.{field} needs the {controller} controller, which the cgroups above do not hand down: \
         one that has processes of its own cannot"
    )]
    NotHandedDown {
        /// The field of config.json.
        field: Cow<'static, str>,
        /// The controller.
        controller: Cow<'static, str>,
    },
    /// The directory is another supervisor's.
    #[error(
        "cgroup {path} belongs to the supervisor of {owner}: stop that one or take another --cgroup-root; if it is gone for good, rmdir the cgroup"
    )]
    Foreign {
        /// The directory.
        path: String,
        /// The run-dir recorded there.
        owner: String,
    },
    /// In a container that was given no cgroups to make.
    #[error(
        "cgroup {path} cannot be made: the cgroup file system is read-only here; in a container it has to be writable \
         (docker or podman run --privileged)"
    )]
    ReadOnly {
        /// The directory.
        path: String,
    },
    /// A cgroup of a controller in which the container has none.
    #[error("the container has no cgroup of the controller {controller}")]
    NotThere {
        /// Which.
        controller: String,
    },
    /// A device path of the host's that is none.
    #[error("{} is not a device", .path.display())]
    NotADevice {
        /// The path.
        path: PathBuf,
    },
    /// Its processes fork faster than they can be moved.
    #[error("cgroup {path}: new processes came faster than they could be moved there")]
    Restless {
        /// The directory.
        path: String,
    },
    /// Processes that do not stand still.
    #[error("cgroup {path}: its processes did not all freeze within {seconds} s, so they go on")]
    NotFrozen {
        /// The directory.
        path: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Processes are left that do not die.
    #[error("cgroup {path} still has processes in it")]
    Busy {
        /// The directory.
        path: String,
    },
}

impl CgroupError {
    /// Whether this user may not make what was to be made, whoever else may.
    pub fn is_refusal(&self) -> bool {
        match self {
            CgroupError::NoUnified { errno } | CgroupError::Call { errno, .. } => {
                matches!(*errno, Errno::ACCESS | Errno::PERM | Errno::ROFS)
            }
            CgroupError::ReadOnly { .. } => true,
            _ => false,
        }
    }
}

fn failed(call: &'static str, path: impl Into<String>) -> impl FnOnce(Errno) -> CgroupError {
    let path = path.into();
    move |errno| CgroupError::Call { call, path, errno }
}

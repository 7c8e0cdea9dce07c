//! What of a config.json is compiled, in types. `oci-spec` has the types of everything below `linux`, mounts and the like; the top and
//! `process` are ours, for its own check `execCPUAffinity` by a regular expression, whose engine would be a sixth of the binary.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{Box as ConsoleSize, Hooks, Linux, LinuxCapabilities, Mount, PosixRlimit, Root};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A whole config.json (config.md). Absent lists are empty, as null ones are.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// `ociVersion`.
    #[serde(rename = "ociVersion")]
    pub version: String,
    /// `root`.
    pub root: Option<Root>,
    /// `mounts`, in the order in which they are made.
    pub mounts: Option<Vec<Mount>>,
    /// `process`.
    pub process: Option<Process>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `domainname`.
    pub domainname: Option<String>,
    /// `hooks`.
    pub hooks: Option<Hooks>,
    /// `annotations`.
    pub annotations: Option<HashMap<String, String>>,
    /// `linux`.
    pub linux: Option<Linux>,
    /// `windows`, for another platform as the next three.
    pub windows: Option<IgnoredAny>,
    /// `solaris`.
    pub solaris: Option<IgnoredAny>,
    /// `vm`.
    pub vm: Option<IgnoredAny>,
    /// `zos`.
    pub zos: Option<IgnoredAny>,
}

/// `process` (config.md#process).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// `terminal`: it gets one.
    pub terminal: Option<bool>,
    /// `consoleSize`.
    pub console_size: Option<ConsoleSize>,
    /// `user`; absent: root.
    pub user: Option<User>,
    /// `args`.
    pub args: Option<Vec<String>>,
    /// `env`, as `NAME=value`.
    pub env: Option<Vec<String>>,
    /// `cwd`, absolute.
    pub cwd: PathBuf,
    /// `capabilities`.
    pub capabilities: Option<LinuxCapabilities>,
    /// `rlimits`.
    pub rlimits: Option<Vec<PosixRlimit>>,
    /// `noNewPrivileges`.
    pub no_new_privileges: Option<bool>,
    /// `apparmorProfile`.
    pub apparmor_profile: Option<String>,
    /// `oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// `selinuxLabel`.
    pub selinux_label: Option<String>,
    /// `ioPriority`.
    pub io_priority: Option<IoPriority>,
    /// `scheduler`.
    pub scheduler: Option<Scheduler>,
    /// `execCPUAffinity`.
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<ExecCpuAffinity>,
    /// `commandLine`, for Windows.
    pub command_line: Option<IgnoredAny>,
}

/// `process.scheduler` (config.md#linux-process). oci-spec's spells one of the flags in its own way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `policy`; empty: none of it.
    pub policy: String,
    /// `nice`.
    pub nice: Option<i32>,
    /// `priority`.
    pub priority: Option<i32>,
    /// `flags`.
    pub flags: Option<Vec<String>>,
    /// `runtime`, nanoseconds as the next two.
    pub runtime: Option<u64>,
    /// `deadline`.
    pub deadline: Option<u64>,
    /// `period`.
    pub period: Option<u64>,
}

/// `process.ioPriority`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IoPriority {
    /// `class`.
    pub class: String,
    /// `priority`.
    pub priority: i64,
}

/// `process.execCPUAffinity`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExecCpuAffinity {
    /// `initial`.
    pub initial: Option<String>,
    /// `final`.
    #[serde(rename = "final")]
    pub last: Option<String>,
}

/// `process.user` (config.md#posix-platform-user). Absent numbers are 0, as they are for runc.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `umask`.
    pub umask: Option<u32>,
    /// `additionalGids`.
    pub additional_gids: Option<Vec<u32>>,
    /// `username`, for Windows.
    pub username: Option<String>,
}

//! The OCI runtime spec compiled to a script of steps. Pure.
//!
//! [`parse`] turns the text of a config.json into a spec and names everything in it that has a wrong type or an unknown
//! word; [`compile`] turns a spec into what the first process of the container does ([`Script`]) and what its cgroup gets
//! ([`CgroupSettings`]). Both report all mistakes at once, each with its JSON path. Nothing known to runtime-spec 1.3 is
//! ignored without a word: it is done, or refused by name. Unknown fields are warned about, as the spec demands.
//!
//! Device rules: what no rule allows is denied, and what every container needs (making nodes, `/dev/null` and its like,
//! its own terminals) is always allowed, as runc has it, also where config.json says nothing about devices.
#![doc = include_str!("fields.md")]
#![doc = include_str!("differences.md")]

pub mod capability;
mod cgroup;
mod compile;
mod cpu_list;
mod device;
pub mod device_filter;
mod error;
mod features;
mod fields;
mod fits;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod hooks;
pub mod idmap;
mod mount;
mod namespaces;
mod net_devices;
mod outside;
mod process;
mod rdt;
mod resources;
mod scheduler;
mod schema;
mod script;
pub mod seccomp;
mod systemd;
mod template;
mod users;

/// The newest runtime-spec whose fields are known.
pub const SPEC_VERSION: &str = "1.3.0";

pub use cgroup::{CgroupSettings, Cpu, DeviceRule, Memory, RuleTarget, Write, default_devices};
pub use compile::{Compiled, Context, Joined, SessionKeyring, compile, compile_exec};
pub use error::{CompileError, Problem, Warning};
pub use features::features;
pub use hooks::{Hook, Hooks, Moment, PreStart, StateText};
pub use net_devices::NetDevice;
pub use outside::{ClockOffsets, Enters, Join, NamespaceKind, Outside};
pub use rdt::{Group, Rdt, missing as missing_schemata, schemata_of_update};
pub use resources::{BlockIo, DeviceWeight, Named, Rate, RateOf};
pub use scheduler::{Affinity, MemoryPolicy, Scheduler};
pub use schema::{MAX_CONFIG_BYTES, Parsed, compile_resources, mistakes, parse, parse_process, parse_resources};
pub use script::{
    CapabilitySets, DeviceKind, DeviceNode, Identity, Listener, Mount, MountIdMap, MountSource, Namespaces,
    Propagation, PropagationKind, Rlimit, RlimitResource, RootPlan, Script, Step, Upper,
};
pub use systemd::systemd_path;
pub use template::{rootless_template, template};
pub(crate) use users::{is_copied_outside, is_shared};

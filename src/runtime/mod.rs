//! Running a script: the process that sets itself up, and the cgroup it lives in.
//!
//! [`spawn`] clones a process that executes a [`Script`](crate::oci::Script) with the descriptors of [`Slots`]. The parent
//! learns through a pipe either nothing (the program was executed) or which step failed and why. [`spawn_exec`] does the
//! same inside a running container. The parent must have one thread: the child is a copy of it that runs ordinary code.

pub mod cgroup;
mod child;
mod console;
pub mod container;
mod copy_up;
mod device;
pub mod error;
mod executed;
mod filter;
mod helper;
mod hook;
mod hook_agent;
mod identity;
mod init;
mod join;
mod label;
mod layers;
mod maker;
mod mount;
mod net_devices;
mod notify;
mod outside;
mod payload;
mod program;
pub mod rdt;
mod root;
mod scheduling;
mod seed;
mod slots;
mod spare;
mod spawn;
mod trampoline;
mod userns;

pub use executed::has_executed;
pub use helper::KEEPERS_PATIENCE;
pub use hook::{HookError, run_all as run_hooks, run_each as run_each_hook};
pub use hook_agent::spawn as spawn_with_hooks;
pub use init::NAME as INIT_NAME;
pub use join::{JoinError, spawn_exec};
pub use payload::{DecodeError, Payload, PayloadError, decode};
pub(crate) use root::open_inside;
pub use slots::{Hierarchy, MAX_EXTRA, MAX_HIERARCHIES, SlotMap, SlotMismatch, Slots};
pub use spare::{Spare, SpareMaker, SpareParts};
pub use spawn::{Failure, HostPid, SpawnError, Spawned, spawn, spawn_into_killed};
pub use trampoline::Trampoline;

//! Running a script: the process that sets itself up, and the cgroup it lives in.
//!
//! [`spawn`] clones a process that executes a [`Script`](crate::oci::Script) with the descriptors of [`Slots`]. The parent
//! learns through a pipe either nothing (the program was executed) or which step failed and why. The parent must have
//! one thread: the child is a copy of it that runs ordinary code.

pub mod cgroup;
mod child;
mod console;
mod device;
pub mod error;
mod filter;
mod identity;
mod init;
mod mount;
mod payload;
mod program;
mod root;
mod seed;
mod slots;
mod spawn;

pub use init::NAME as INIT_NAME;
pub use payload::{DecodeError, Payload, PayloadError, decode};
pub use slots::{Hierarchy, MAX_EXTRA, MAX_HIERARCHIES, SlotMap, SlotMismatch, Slots};
pub use spawn::{Failure, HostPid, SpawnError, Spawned, spawn};

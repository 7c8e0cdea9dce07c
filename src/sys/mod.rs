//! The system calls that nix and rustix do not wrap. The only `unsafe` in the crate.

pub mod base;
pub mod bpf;
pub mod clone;
pub mod elf;
pub mod entry;
pub mod fd;
pub mod heap;
pub mod image;
pub mod keyring;
pub mod lease;
pub mod loopback;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod payload;
pub mod pidfd;
pub mod scheduling;
pub mod seccomp;
pub mod service_manager;
pub mod signal;
pub mod stack;
pub mod stat;
pub mod trampoline;
pub mod wait;
pub mod wall_clock;
pub mod watchdog;

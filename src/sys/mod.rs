//! The system calls that nix and rustix do not wrap. The only `unsafe` in the crate.

pub mod clone;
pub mod fd;
pub mod keyring;
pub mod loopback;
pub mod mount;
pub mod seccomp;
pub mod signal;

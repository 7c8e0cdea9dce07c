//! The system calls that nix and rustix do not wrap. The only `unsafe` in the crate.

pub mod base;
pub mod fd;
pub mod image;
pub mod payload;
pub mod pidfd;
pub mod service_manager;
pub mod signal;
pub mod wait;

//! The OCI runtime spec compiled to a script of steps. Pure.

pub mod capability;
pub mod seccomp;

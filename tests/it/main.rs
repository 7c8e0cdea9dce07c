//! Integration tests: one binary, a module per area.

mod cgroup;
mod cli;
mod layers;
mod logs;
mod oci;
mod oracle;
mod seccomp;
mod simulation;
mod support;
#[cfg(target_arch = "x86_64")]
mod vm;

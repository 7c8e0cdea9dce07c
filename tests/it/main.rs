//! Integration tests: one binary, a module per area.

mod cli;
mod crash;
mod debian;
mod exec;
mod hostile;
mod layers;
mod leaks;
mod logs;
mod mistakes;
mod oci;
mod oracle;
mod samples;
mod seccomp;
mod simulation;
mod support;
#[cfg(target_arch = "x86_64")]
mod vm;

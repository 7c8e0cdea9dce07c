//! Integration tests: one binary, a module per area.

mod cgroup;
mod cli;
mod commands;
mod crash;
mod debian;
mod deps;
mod edits;
mod exec;
mod hardened;
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
mod units;
#[cfg(target_arch = "x86_64")]
mod vm;
mod world;

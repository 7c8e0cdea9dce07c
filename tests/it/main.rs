//! Integration tests: one binary, a module per area.

mod cgroup;
mod cli;
mod commands;
mod configs;
mod crash;
mod debian;
mod deps;
mod edits;
mod env_files;
mod exec;
mod hardened;
mod hostile;
mod instances;
mod layers;
mod leaks;
mod logs;
mod masks;
mod mistakes;
mod oci;
mod oracle;
mod samples;
mod schema;
mod seccomp;
mod secrets;
mod simulation;
mod support;
mod tls;
mod units;
#[cfg(target_arch = "x86_64")]
mod vm;
mod why;
mod world;

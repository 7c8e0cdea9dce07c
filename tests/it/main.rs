//! Integration tests: one binary, a module per area.

mod cgroup;
mod cli;
mod commands;
mod complaints;
mod crash;
mod debian;
mod defaults;
mod deps;
mod drop_ins;
mod edits;
mod edits_bytes;
mod edits_fuzz;
mod edits_tools;
mod exec;
mod hardened;
mod health;
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
mod simulation;
mod support;
mod units;
mod updates;
#[cfg(target_arch = "x86_64")]
mod vm;
mod why;
mod world;

//! Integration tests: one binary, a module per area.

mod apply;
mod attach;
mod attach_terminal;
mod attacks;
mod boot_loop;
mod cgroup;
mod cli;
mod clients;
mod commands;
mod complaints;
mod configs;
mod crash;
mod debian;
mod debug;
mod defaults;
mod deps;
mod device_rules;
mod differ;
mod drop_ins;
mod edits;
mod edits_bytes;
mod edits_directory;
mod edits_fuzz;
mod edits_tools;
mod env_files;
mod exec;
mod exec_leaks;
mod fields;
mod hardened;
mod health;
mod hooks;
mod host;
mod hostile;
mod hung;
mod instances;
mod layers;
mod leaks;
mod logs;
mod masks;
mod mistakes;
mod mounts;
mod namespaces;
mod net_devices;
mod oci;
mod oci_commands;
mod oracle;
#[cfg(target_arch = "x86_64")]
mod power_cut;
mod pressure;
mod process1;
mod replicas;
mod rootless;
mod samples;
mod schedules;
mod schema;
mod seccomp;
mod seccomp_agent;
mod seccomp_file;
mod secrets;
mod simulation;
#[cfg(target_arch = "x86_64")]
mod soak;
mod sockets;
mod sockets_load;
mod spares;
mod start_first;
mod start_first_beside;
mod support;
mod terminals;
mod tls;
mod told;
mod union;
mod unit_hooks;
mod units;
mod updates;
mod userns;
#[cfg(target_arch = "x86_64")]
mod vm;
#[cfg(target_arch = "x86_64")]
mod vm_host;
#[cfg(target_arch = "x86_64")]
mod vm_init;
#[cfg(target_arch = "x86_64")]
mod vm_systemd;
mod why;
mod world;

//! Integration tests: one binary, a module per area.

mod cli;
mod crash;
mod layers;
mod leaks;
mod logs;
mod seccomp;
mod simulation;
mod support;

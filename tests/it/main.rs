//! Integration tests: one binary, a module per area.

mod cli;
mod seccomp;
mod simulation;
mod layers;
mod logs;
mod support;

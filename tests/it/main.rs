//! Integration tests: one binary, a module per area.

mod cli;
mod hostile;
mod layers;
mod logs;
mod mistakes;
mod seccomp;
mod simulation;
mod support;

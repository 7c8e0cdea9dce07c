//! Integration tests: one binary, a module per area.

mod cli;
mod commands;
mod edits;
mod hardened;
mod layers;
mod logs;
mod seccomp;
mod simulation;
mod support;
mod units;
mod world;

//! The system calls that nix and rustix do not wrap. The only `unsafe` in the crate.

pub mod lease;

//! `moored` keeps containers running that are declared in a directory of TOML unit files.
//!
//! One direction of flow: unit files are settled, parsed and validated into [`plan::Desired`]; exits, clients and timers
//! are recorded into [`plan::Observed`]; the pure function [`plan::reconcile`] turns both and a clock value into a plan,
//! which [`supervise`] applies through [`keeper`] and [`runtime`]. Everything that happens comes back as a fact.
//!
//! The layers are kept by a test (`tests/it/layers.rs`): [`mod@unit`], [`plan`], [`oci`] and the small ones below them are pure and touch neither files,
//! clocks, environment nor randomness; `unsafe` lives in [`sys`] alone.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod anchor;
pub mod cli;
pub mod compact;
pub mod config;
pub mod control;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod keeper;
pub mod oci;
pub mod plan;
pub mod runtime;
pub mod store;
pub mod supervise;
#[allow(unsafe_code)]
pub mod sys;
pub mod unit;
pub mod watch;
pub mod words;

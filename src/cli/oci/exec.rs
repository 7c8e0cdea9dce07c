//! `exec`: a process that joins a container.

use super::args::Exec;
use super::error::OciError;
use super::log::Log;
use crate::runtime::container::StateRoot;

/// Runs it.
pub fn exec(_root: &StateRoot, _exec: Exec, _log: &Log) -> Result<u8, OciError> {
    Err(OciError::NotYet("exec".into()))
}

//! The process that somebody started: signals, orphans, the keeper's spare.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::keeper::Spawner;

/// What `moored up` was asked for, as far as the anchor is concerned.
#[derive(Debug, Clone)]
pub struct Options {
    /// Made 0700 if missing; holds `keeper.sock`.
    pub run_dir: PathBuf,
    /// The keeper's whole argv, for example `moored keeper`. It must end in [`crate::keeper::main`]; it is for `ps` only, all the
    /// keeper needs comes by descriptor.
    pub keeper: Vec<OsString>,
    /// The supervisor's whole argv, for example `moored supervisor --run-dir …`.
    pub supervisor: Vec<OsString>,
}

/// Why `moored up` did not come to run anything.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// Another anchor has this run-dir.
    #[error("already running: pid {pid}")]
    AlreadyRunning {
        /// Whose.
        pid: i32,
    },
}

/// Runs until all is stopped; the code is the one for the shell: 0 after an ordered stop. Prints nothing.
pub fn run(options: &Options, spawner: &mut dyn Spawner) -> Result<ExitCode, AnchorError> {
    let _ = (options, spawner);
    unimplemented!()
}

//! The command line: clap definitions and rendering.

use std::process::ExitCode;

/// Runs what the arguments say.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}

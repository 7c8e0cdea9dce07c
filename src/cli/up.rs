//! Where the command line ends and the processes begin.

use std::ffi::OsString;
use std::process::ExitCode;

use super::{Failure, Settings};

/// `moored up`: becomes the anchor.
pub fn up(settings: Settings) -> Result<ExitCode, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::NotRoot("up"));
    }
    let _ = settings;
    Err(Failure::NotBuilt("up"))
}

/// `moored keeper …`, started by the anchor.
pub fn keeper(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}

/// `moored supervisor …`, started by the keeper; [`Settings::from_args`] reads the arguments.
pub fn supervisor(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}

/// runc's command line.
pub fn oci(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}

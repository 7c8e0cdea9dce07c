//! `moored oci`: runc's command line.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Whether a program called so is to behave as an OCI runtime.
pub fn is_name_of_runtime(program: &OsStr) -> bool {
    let name = std::path::Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.ends_with("oci") || name.ends_with("runc")
}

/// Runs the command.
pub fn main(_args: Vec<OsString>) -> ExitCode {
    ExitCode::SUCCESS
}

//! The command line: clap definitions and rendering.

pub mod oci;

use std::process::ExitCode;

/// Runs what the arguments say.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let rest: Vec<_> = args.collect();
    if oci::is_name_of_runtime(&program) {
        return oci::main(rest);
    }
    match rest.split_first() {
        Some((word, rest)) if word == "oci" => oci::main(rest.to_vec()),
        _ => ExitCode::FAILURE,
    }
}

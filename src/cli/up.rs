//! Where the command line ends and the processes begin.

use std::ffi::OsString;
use std::process::ExitCode;

use super::{Failure, Settings};
use crate::{anchor, keeper, supervise};

/// `moored up`: becomes the anchor.
pub fn up(settings: Settings) -> Result<ExitCode, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::NotRoot("up"));
    }
    let supervisor = ["moored".into(), "supervisor".into()].into_iter().chain(settings.to_args()).collect();
    let options =
        anchor::Options { run_dir: settings.run_dir, keeper: vec!["moored".into(), "keeper".into()], supervisor };
    Ok(anchor::run(&options, &mut keeper::ScriptSpawner)?)
}

/// `moored keeper`, started by the anchor.
pub fn keeper(_: Vec<OsString>) -> ExitCode {
    keeper::main(&mut keeper::ScriptSpawner)
}

/// `moored supervisor …`, started by the keeper.
pub fn supervisor(args: Vec<OsString>) -> ExitCode {
    match Settings::from_args(args) {
        Ok(settings) => supervise::main(settings),
        Err(_) => ExitCode::FAILURE,
    }
}

/// runc's command line.
pub fn oci(args: Vec<OsString>, run_dir: &std::path::Path) -> ExitCode {
    super::oci::main(args, run_dir)
}

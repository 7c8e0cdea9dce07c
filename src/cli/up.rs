//! Where the command line ends and the processes begin.

use std::ffi::OsString;

use super::{Failure, Settings};
use crate::keeper::state::{Of, State};
use crate::{anchor, keeper, supervise};

/// `moored up`: becomes the anchor.
pub fn up(settings: Settings) -> Result<u8, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::NotRoot("up"));
    }
    let supervisor = ["moored".into(), "supervisor".into()].into_iter().chain(settings.to_args()).collect();
    let options =
        anchor::Options { run_dir: settings.run_dir, keeper: vec!["moored".into(), "keeper".into()], supervisor };
    Ok(anchor::run(&options, &mut keeper::ScriptSpawner)?)
}

/// Whether this process had another program before, and left its state to this one: then it goes on from there, whatever its arguments say.
pub fn resume() -> Option<Result<u8, Failure>> {
    let spawner = &mut keeper::ScriptSpawner;
    let inherited = keeper::state::inherited()?;
    let failed = match inherited {
        Ok(State { of: Of::Anchor(state), .. }) => {
            return Some(anchor::resume(state, spawner).map_err(Failure::Anchor));
        }
        Ok(State { of: Of::Keeper(state), .. }) => return Some(Ok(keeper::resume(*state, spawner))),
        Ok(State { of: Of::Init(state), .. }) => match anchor::init::resume(*state, spawner) {
            Ok(code) => return Some(Ok(code)),
            Err(error) => error,
        },
        Err(error) => error,
    };
    // That of a machine must not end: it begins again, and finds what runs.
    if std::process::id() == 1 && anchor::init::is_machine() {
        anchor::init::begin_again(&format!("the state of the program before: {failed}"));
    }
    Some(Ok(keeper::NOT_RESUMED))
}

/// `moored upgrade-check`, started by a keeper or an anchor that is to be replaced by this program.
pub fn upgrade_check() -> u8 {
    keeper::check(|argv| match argv.split_at_checked(2) {
        Some((_, rest)) => Settings::from_args(rest.to_vec()).map(drop),
        None => Err("there are none".to_owned()),
    })
}

/// `moored keeper`, started by the anchor.
pub fn keeper(_: Vec<OsString>) -> u8 {
    keeper::main(&mut keeper::ScriptSpawner)
}

/// `moored supervisor …`, started by the keeper.
pub fn supervisor(args: Vec<OsString>) -> u8 {
    match Settings::from_args(args) {
        Ok(settings) => supervise::main(settings),
        Err(_) => 1,
    }
}

/// runc's command line.
pub fn oci(args: Vec<OsString>, run_dir: &std::path::Path) -> u8 {
    super::oci::main(args, run_dir)
}

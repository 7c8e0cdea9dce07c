//! `moored` as process 1, and what is asked of it there.
//!
//! The kernel starts `/init`, `/sbin/init`, or what `init=` names, and appends the words of its own command line that it does not know: so process 1
//! is init unless it was given a command of ours. A container's first program may be any command, with its options.

use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::args::{Cli, Command, Init};
use super::{Failure, Settings};
use crate::anchor::init::{self, Order};
use crate::unit::BootGuard;
use crate::{anchor, keeper};

/// As the anchor calls itself (`/proc/1/comm`).
const NAME: &str = "moored";

/// Whether process 1 with these arguments is init.
pub fn is_init(program: &OsString, args: &[OsString]) -> bool {
    let is_command = |word: &OsString| Cli::command().get_subcommands().any(|command| command.get_name() == word);
    // Started by the anchor, which it is not then; or an option, which is for a command that follows.
    let is_ours = |first: &OsString| {
        ["keeper", "supervisor", keeper::CHECK_COMMAND].iter().any(|ours| first == ours) || is_command(first)
    };
    let is_other = || match Cli::try_parse_from(std::iter::once(program).chain(args)) {
        // With the places before it.
        Ok(cli) => !matches!(cli.command, Command::Init(_)),
        Err(error) => matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion),
    };
    let named = Path::new(program).file_name().is_some_and(|name| name == "init");
    match args.first() {
        _ if named => true,
        None => true,
        Some(first) if first == "init" => true,
        Some(first) => !is_ours(first) && !is_other(),
    }
}

/// Runs as process 1. What it was given is taken if it is understood; a machine boots whatever its kernel appends.
pub fn main(program: &OsString, args: &[OsString]) -> u8 {
    let asked = args.iter().any(|arg| arg == "init");
    let line = std::iter::once(program.clone()).chain(args.iter().cloned());
    let parsed = asked.then(|| Cli::try_parse_from(line)).and_then(|parsed| parsed.map_err(|error| error.print()).ok());
    let (places, given) = match parsed {
        Some(Cli { places, command: Command::Init(init) }) => (places, init),
        Some(_) | None => Default::default(),
    };
    let Init { up, init_config } = given;
    let settings = Settings::new(places.resolve(), up.or_environment().unwrap_or_default());
    let (run_dir, state_dir, log_dir) =
        (settings.run_dir.clone(), settings.state_dir.clone(), settings.log_dir.clone());
    let supervisor = move |log_cap: Option<u64>, boot_guard: Option<BootGuard>| {
        let log_cap_bytes = log_cap.unwrap_or(u64::MAX).min(settings.log_cap_bytes);
        let boot_guard = boot_guard.or(settings.boot_guard);
        let settings = Settings { log_cap_bytes, boot_guard, ..settings.clone() };
        ["moored".into(), "supervisor".into()].into_iter().chain(settings.to_args()).collect()
    };
    let options = init::Options {
        run_dir,
        keeper: vec!["moored".into(), "keeper".into()],
        supervisor: Box::new(supervisor),
        state_dir,
        log_dir,
        config: init_config,
    };
    match init::run(&options, &mut keeper::ScriptSpawner) {
        Ok(code) => code,
        Err(error) => super::report(&Failure::Anchor(error)),
    }
}

fn process_1() -> String {
    std::fs::read_to_string("/proc/1/comm").unwrap_or_default().trim_end().to_owned()
}

/// Tells process 1, by a signal: it takes it also when supervisor and keeper are dead.
pub(super) fn order(order: Order) -> Result<u8, Failure> {
    let found = process_1();
    if found != NAME {
        let found = if found.is_empty() { "unknown".to_owned() } else { format!("`{found}`") };
        return Err(Failure::NotProcess1 { order: order.word(), found });
    }
    crate::sys::signal::send_to_child(1, order.signal()).map_err(Failure::Process1)?;
    Ok(0)
}

/// Whether this anchor, which says its own number, is process 1 of the machine: then there is nothing after `down`. That of a namespace has the
/// same number, and is seen from outside here.
pub(super) fn is_machine(anchor: Option<i32>) -> bool {
    anchor == Some(1) && anchor::init::is_machine() && process_1() == NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_1_is_init_unless_it_was_given_a_command() {
        let init = |line: &str| {
            let mut words = line.split(' ').map(OsString::from);
            is_init(&words.next().unwrap(), &words.collect::<Vec<_>>())
        };
        for line in [
            "/init",
            "/sbin/init",
            "/init up",
            "/bin/moored",
            "/bin/moored quiet splash",
            "moored init",
            "moored -b",
            "moored --run-dir /r init --units /u",
        ] {
            assert!(init(line), "{line}");
        }
        for line in [
            "moored up",
            "moored --run-dir /r up",
            "moored ps --nonsense",
            "/bin/moored sync",
            "moored keeper",
            "moored --help",
        ] {
            assert!(!init(line), "{line}");
        }
    }
}

//! The command line: what was typed ([`args`]), what it means ([`settings`]), asking the supervisor ([`ask`]), and text for people
//! ([`render`], [`text`]).
//!
//! # Exit codes
//!
//! | code | means |
//! |---|---|
//! | 0 | done |
//! | 1 | not done; `check`: something is invalid |
//! | 0 to 3 | `sync`, `apply`: converged, invalid (`apply`: or refused), failed, timeout |
//! | the process's, 128 + signal; 127: no such program, 126: it cannot be executed, 125: it did not come to that | `exec` |
//! | 64 | the command line is wrong (sysexits' EX_USAGE, as 2 is taken by `sync`) |
//! | 69 | no supervisor could be asked (EX_UNAVAILABLE), except for `exec` |
//! | 141 | the reader of the output went away, as if by SIGPIPE, silently |
//!
//! Which program runs is decided before clap looks: a name ending in `oci` or `runc` is runc's command line, and `keeper` and `supervisor`
//! are the processes that the anchor starts, which should not pay for a parser they do not need. Before even that, a process that was given
//! another program goes on from where it was (`up::resume`).

pub mod args;
pub mod ask;
mod attach;
pub mod cable;
pub mod check;
mod debug;
mod detach;
pub mod exec;
pub mod logs;
pub mod oci;
pub mod process1;
pub mod render;
pub mod settings;
pub mod terminal;
pub mod text;
mod up;
mod upgrade;
pub mod values;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap::Parser;

pub use settings::Settings;

use crate::anchor::AnchorError;
use crate::anchor::init::Order;
use crate::control::protocol::Request;
use crate::control::{CallError, ConnectError};
use crate::keeper;
use crate::supervise::log::ReadError;
use crate::unit::diagnostic::one_line;
use crate::unit::{SchemaOf, json_schema};
use args::{Cli, Command};
use upgrade::ProgramError;

/// EX_USAGE.
const EXIT_USAGE: u8 = 64;
/// EX_UNAVAILABLE.
const EXIT_UNAVAILABLE: u8 = 69;
/// What a shell makes of a death by SIGPIPE.
const EXIT_PIPE: u8 = 141;

/// Why a command ended without doing what it was for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody to ask.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The question or the answer was lost.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The supervisor's own words.
    #[error("{message}")]
    Refused {
        /// What was wrong, what was expected, the cure.
        message: String,
        /// What to exit with.
        code: u8,
    },
    /// It ended in between.
    #[error("the supervisor went away before it answered: what was asked for may or may not have been done")]
    NoAnswer,
    /// An answer to another question.
    #[error("the supervisor answered something else than was asked: is it of another version?")]
    WrongAnswer,
    /// Options that do not go together.
    #[error("{0}")]
    Usage(&'static str),
    /// Only root may make containers.
    #[error("`moored {0}` needs root: containers, cgroups and mounts are made with its rights. Try `sudo moored {0}`")]
    NotRoot(&'static str),
    /// An order for the machine that nobody takes.
    #[error("process 1 is not moored but {found}: `moored {order}` is for a machine that booted with it")]
    NotProcess1 {
        /// What was asked for.
        order: &'static str,
        /// Who it is.
        found: String,
    },
    /// Process 1 cannot be told.
    #[error("telling process 1: {0}")]
    Process1(#[source] io::Error),
    /// No unit can have this name.
    #[error("{0}")]
    BadUnit(String),
    /// `up` could not become or find what it needs.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// The files of a unit's log.
    #[error(transparent)]
    Logs(ReadError),
    /// The program that is to replace this one.
    #[error("{0}")]
    Program(ProgramError),
    /// The keeper, asked by itself.
    #[error(transparent)]
    Keeper(#[from] keeper::ClientError),
    /// Standard output.
    #[error("writing to standard output: {0}")]
    Output(#[source] io::Error),
    /// The caller's terminal, or the container's.
    #[error("{step}: {source}")]
    Terminal {
        /// What was being done.
        step: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl Failure {
    /// Whether the supervisor went away with the answer, as it does when it is killed or replaced.
    fn is_lost_answer(&self) -> bool {
        matches!(self, Failure::NoAnswer | Failure::Call(CallError::Receive(_) | CallError::Send(_)))
    }

    fn code(&self) -> u8 {
        match self {
            Failure::Connect(_) | Failure::Keeper(keeper::ClientError::Gone { .. }) => EXIT_UNAVAILABLE,
            Failure::Refused { code, .. } => *code,
            Failure::Usage(_) => EXIT_USAGE,
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_PIPE,
            Failure::Call(_)
            | Failure::NoAnswer
            | Failure::WrongAnswer
            | Failure::NotRoot(_)
            | Failure::NotProcess1 { .. }
            | Failure::Process1(_)
            | Failure::BadUnit(_)
            | Failure::Anchor(_)
            | Failure::Logs(_)
            | Failure::Program(_)
            | Failure::Keeper(_)
            | Failure::Output(_)
            | Failure::Terminal { .. } => 1,
        }
    }

    /// The supervisor may say 126 or 127 as a shell does; whatever else kept the process from running is 125.
    fn code_of_exec(&self) -> u8 {
        match self {
            Failure::Refused { code, .. } if *code > 1 => *code,
            _ => exec::EXIT_NOT_RUN,
        }
    }
}

/// Runs what the arguments say.
pub fn main() -> u8 {
    if let Some(resumed) = up::resume() {
        return resumed.unwrap_or_else(|failure| report(&failure));
    }
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    if is_runtime_name(&program) {
        return up::oci(args, &args::Places::default().resolve().run_dir);
    }
    if std::process::id() == 1 && process1::is_init(&program, &args) {
        return process1::main(&program, &args);
    }
    match args.split_first() {
        Some((first, rest)) if first == "oci" => up::oci(rest.to_vec(), &args::Places::default().resolve().run_dir),
        Some((first, rest)) if first == "keeper" => up::keeper(rest.to_vec()),
        Some((first, rest)) if first == "supervisor" => up::supervisor(rest.to_vec()),
        Some((first, _)) if first == keeper::CHECK_COMMAND => up::upgrade_check(),
        Some(_) | None => command_line(program, args),
    }
}

/// Whether podman, containerd or a person called us in runc's place.
fn is_runtime_name(program: &OsString) -> bool {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    name.ends_with("oci") || name.ends_with("runc")
}

fn command_line(program: OsString, args: Vec<OsString>) -> u8 {
    let parse = || Cli::try_parse_from(std::iter::once(program).chain(args.iter().cloned()));
    let cli = match plain_sync(&args).map_or_else(parse, Ok) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE } else { 0 };
        }
    };
    let inside = matches!(cli.command, Command::Exec(_) | Command::Debug(_));
    let failure = match run(cli) {
        Ok(code) => return code,
        Err(failure) => failure,
    };
    let usage = failure.code() == EXIT_USAGE || failure.code() == EXIT_PIPE;
    let code = report(&failure);
    // For `exec` 1 would be the process's word.
    if inside && !usage { failure.code_of_exec() } else { code }
}

/// Says what went wrong, and how to exit.
fn report(failure: &Failure) -> u8 {
    let code = failure.code();
    if code != EXIT_PIPE {
        // Nobody is left to tell when standard error is gone too.
        for line in failure.to_string().lines() {
            let _ = writeln!(io::stderr(), "moored: {}", one_line(line));
        }
    }
    code
}

/// `sync` without options, which scripts call after each edit, read without clap: setting its parser up takes 0.25 ms.
fn plain_sync(args: &[OsString]) -> Option<Cli> {
    let (_, rest) = args.split_first().filter(|(first, _)| *first == "sync")?;
    let unit = |arg: &OsString| arg.to_str().filter(|arg| !arg.starts_with('-')).map(str::to_owned);
    let units = rest.iter().map(unit).collect::<Option<Vec<_>>>()?;
    Some(Cli { places: args::Places::default(), command: Command::Sync { units, timeout: None } })
}

fn run(cli: Cli) -> Result<u8, Failure> {
    let places = cli.places.resolve();
    let run_dir = places.run_dir.clone();
    let run_dir = run_dir.as_path();
    let units = |units: args::Units| units.units;
    let code = match cli.command {
        Command::Up(args) => {
            let args = args.or_environment().map_err(Failure::Usage)?;
            return up::up(Settings::new(places, args));
        }
        Command::Oci(rest) => return Ok(up::oci(rest.args, run_dir)),
        Command::Ps { units, all, failed, json } => ask::ps(run_dir, units, (all, failed), json)?,
        Command::Status { unit, json } => ask::status(run_dir, unit, json)?,
        Command::Events { units, follow, lines, since, json } => {
            ask::events(run_dir, units, (follow, lines), since, json)?
        }
        Command::Sync { units, timeout } => ask::sync(run_dir, units, timeout)?,
        Command::Plan { units, json } => ask::plan(run_dir, units, json)?,
        Command::Start(args) => ask::act(run_dir, &Request::Start { units: units(args) })?,
        Command::Restart(args) => ask::act(run_dir, &Request::Restart { units: units(args) })?,
        Command::Reload(args) => ask::act(run_dir, &Request::Reload { units: units(args) })?,
        Command::Stop { units, reason, hold } => {
            ask::act(run_dir, &Request::Stop { units, reason, for_ms: hold.map(ask::millis) })?
        }
        Command::Kill { units, signal, all } => ask::kill(run_dir, units, signal, all)?,
        Command::Down => ask::down(run_dir)?,
        Command::Apply(args) => ask::apply(run_dir, args)?,
        Command::Exec(args) => exec::exec(run_dir, args)?,
        Command::Logs(args) => logs::logs(&places.log_dir, args)?,
        Command::Attach(args) => attach::attach(run_dir, &places.log_dir, args)?,
        Command::Check { paths, init_config, json } => {
            check::check(&paths, &places.config, init_config.as_deref(), json)?
        }
        Command::Schema { of } => {
            let of = match of {
                args::Schema::Unit => SchemaOf::Unit,
                args::Schema::DropIn => SchemaOf::DropIn,
                args::Schema::Config => SchemaOf::MooredToml,
            };
            print(&format!("{:#}\n", json_schema(of)))?;
            0
        }
        Command::Init(_) => {
            let cure = "`moored init` runs as process 1 (`init=` of the kernel, a container's first program, `unshare -pf --mount-proc`): \
                        elsewhere use `moored up`";
            return Err(Failure::Usage(cure));
        }
        Command::Poweroff => process1::order(Order::Poweroff)?,
        Command::Reboot => process1::order(Order::Reboot)?,
        Command::Halt => process1::order(Order::Halt)?,
        Command::Why { unit, json } => ask::why(run_dir, unit, json)?,
        Command::Debug(args) => debug::debug(run_dir, args)?,
        Command::Upgrade { program } => upgrade::upgrade(run_dir, program)?,
        Command::Cat { unit, json } => ask::cat(run_dir, unit, json)?,
    };
    Ok(code)
}

/// Tells somebody at a terminal something beside what was asked for.
fn print_note(text: &str) -> Result<(), Failure> {
    writeln!(io::stderr(), "moored: {}", crate::unit::diagnostic::one_line(text)).map_err(Failure::Output)
}

/// Writes to standard output, all of it or an error: the print macros panic when the reader is gone.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_sync_means_the_same_to_clap() {
        for line in ["sync", "sync web", "sync web db@1"] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let all = Cli::try_parse_from(std::iter::once("moored".into()).chain(args.clone())).unwrap();
            assert_eq!(format!("{:?}", plain_sync(&args).unwrap()), format!("{all:?}"));
        }
        for line in ["sync --timeout 1s", "sync web --run-dir /x", "--run-dir /x sync", "sync --", "sync -h", "ps"] {
            assert!(plain_sync(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).is_none(), "{line}");
        }
    }

    #[test]
    fn a_runtime_is_known_by_the_end_of_its_name() {
        for (name, is) in [
            ("moored", false),
            ("/usr/bin/moored-oci", true),
            ("/usr/bin/runc", true),
            ("crun", false),
            ("./my-runc", true),
            ("", false),
        ] {
            assert_eq!(is_runtime_name(&name.into()), is, "{name}");
        }
    }
}

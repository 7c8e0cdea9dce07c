//! `moored oci`: runc's command line, for people and for containerd, podman and conmon.
//!
//! One command makes a container and ends; the next finds it by its directory (see [`runtime::container`](crate::runtime::container)).
//! The command that makes one is its parent until it ends itself. Errors go to standard error, and with `--log` also to that file, in the
//! texts that clients of runc match on; the last line at level `error` is the one they show.
//!
//! `create` and `exec` first execute the program again through a read-only overlay of itself, or from memory where there is no
//! overlayfs: a process of the container's that gets hold of `/proc/PID/exe` before the program is executed must not be able to
//! overwrite the host's binary (CVE-2019-5736). For `run` a [trampoline](crate::runtime::Trampoline) is enough, unless the container has no
//! pid namespace of its own.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | done |
//! | the process's, 128 + signal | `run`, `exec` |
//! | 1 | not done |
//! | 255 | `exec` could not run the process |

mod args;
mod error;
mod events;
mod exec;
mod log;
mod make;
mod pidfd;
mod ps;
mod rootless;
mod show;
mod update;
mod usual;
mod wait;

use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use args::{Cli, Command, Globals};
use error::OciError;
use log::Log;

use crate::runtime::container::{ContainerError, StateRoot};
use crate::sys::image;
use crate::unit::Signal;

/// Below the run-dir, unless `--root` says otherwise.
const ROOT_DIR: &str = "oci";
/// What `exec` answers when there is no process whose code it could pass on.
const EXIT_NOT_EXECUTED: u8 = 255;

/// Runs the command. `run_dir` is where moored's own state is.
pub fn main(args: Vec<OsString>, run_dir: &Path) -> u8 {
    // First of all: whatever is done before is done twice.
    let forks = args.iter().any(|word| ["create", "exec"].iter().any(|command| word == command));
    if let Err(error) = if forks { run_sealed() } else { Ok(()) } {
        let _ = writeln!(std::io::stderr(), "moored: {}", OciError::Seal(error));
        return 1;
    }
    let words = args.clone();
    let cli = match Cli::read(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() {
                // In its first line; what follows is help.
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                Log::as_named(&words).error_in_file(first.trim_start_matches("error: "));
            }
            return u8::from(error.use_stderr());
        }
    };
    if cli.globals.version {
        return print(&format!("moored version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), crate::oci::SPEC_VERSION));
    }
    let Some(command) = cli.command else {
        let _ = writeln!(std::io::stderr(), "moored oci: expected a command, `--help` lists them");
        return 1;
    };
    let log = Log::new(cli.globals.log.clone(), cli.globals.log_format, cli.globals.debug);
    let code_of_failure = if matches!(command, Command::Exec(_)) { EXIT_NOT_EXECUTED } else { 1 };
    match run(command, &cli.globals, run_dir, &log) {
        Ok(code) => code,
        Err(error) => {
            log.error(&error.to_string());
            code_of_failure
        }
    }
}

fn run(command: Command, globals: &Globals, run_dir: &Path, log: &Log) -> Result<u8, OciError> {
    check(globals)?;
    let root = StateRoot::new(match &globals.root {
        Some(root) => absolute(root.clone())?,
        None => rootless::run_dir(run_dir)?.join(ROOT_DIR),
    });
    match command {
        Command::Spec { bundle } => spec(bundle, globals.rootless.as_deref() == Some("true")),
        Command::Create(make) => make::create(&root, make, globals, log),
        Command::Run(run) => make::run(&root, run, globals, log),
        Command::Exec(exec) => exec::exec(&root, *exec, log),
        Command::Start { id } => root.find(&id)?.start().map(|()| 0).map_err(OciError::from),
        Command::State { id } => show::state(&root, &id),
        Command::List { format, quiet } => show::list(&root, format, quiet),
        Command::Kill { id, signal, all } => {
            let container = root.find(&id)?;
            container.kill(signal_number(&signal)?, all)?;
            Ok(0)
        }
        Command::Delete { id, force } => match root.find(&id).and_then(|container| container.delete(force)) {
            Err(ContainerError::Unknown) if force => Ok(0),
            deleted => {
                deleted?.iter().for_each(|failed| log.warning(&failed.to_string()));
                Ok(0)
            }
        },
        Command::Ps(ps) => ps::ps(&root, ps),
        Command::Pause { id } => Ok(root.find(&id)?.pause().map(|()| 0)?),
        Command::Resume { id } => Ok(root.find(&id)?.resume().map(|()| 0)?),
        Command::Update(update) => update::update(&root, &update, log),
        Command::Events(events) => events::events(&root, &events),
        Command::Features => show::print_json(&crate::oci::features()),
        Command::Other(words) => Err(other(words.first().map_or("", String::as_str))),
    }
}

/// What `--rootless` may be.
fn check(globals: &Globals) -> Result<(), OciError> {
    match globals.rootless.as_deref() {
        None | Some("auto" | "true" | "false") => Ok(()),
        Some(other) => {
            Err(OciError::Value { what: "--rootless", found: other.to_owned(), expected: "true, false or auto" })
        }
    }
}

fn other(command: &str) -> OciError {
    match command {
        "checkpoint" | "restore" => OciError::NotYet(format!("`{command}`: checkpointing is out of scope and")),
        _ => OciError::Value {
            what: "command",
            found: command.to_owned(),
            expected: "spec, create, start, run, exec, state, list, ps, kill, delete, pause, resume, update, events or features",
        },
    }
}

fn spec(bundle: Option<PathBuf>, rootless: bool) -> Result<u8, OciError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let text = match rootless {
        true => crate::oci::rootless_template(uid.as_raw(), gid.as_raw()),
        false => crate::oci::template().to_owned(),
    };
    let path = bundle.unwrap_or_default().join("config.json");
    let opened = std::fs::File::options().write(true).create_new(true).open(&path);
    match opened {
        Ok(mut config) => {
            config.write_all(text.as_bytes()).map_err(error::file("write", path))?;
            Ok(0)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(OciError::ConfigExists(path)),
        Err(error) => Err(error::file("create", path)(error)),
    }
}

/// 0 asks whether there is a process, as in kill(2).
fn signal_number(text: &str) -> Result<u8, OciError> {
    match (text, Signal::parse(text)) {
        ("0", _) => Ok(0),
        (_, Some(signal)) => Ok(signal.0),
        (_, None) => Err(OciError::Signal(text.to_owned())),
    }
}

/// Comes back only where the program's own file cannot be written by anybody who reaches it through this process.
fn run_sealed() -> std::io::Result<()> {
    let (program, sealed) = image::own()?;
    if sealed || image::is_read_only_overlay(program.as_fd()) {
        return Ok(());
    }
    let path = std::fs::read_link("/proc/self/exe")?;
    let apart = |other: &&str| !path.starts_with(other) && Path::new(other).is_dir();
    let other = ["/run", "/dev/shm", "/tmp"].into_iter().find(apart).unwrap_or("/");
    let overlay = image::read_only_overlay(&path, Path::new(other));
    let copy = overlay.or_else(|_| image::sealed_copy(program.as_fd(), c"moored"))?;
    let strings = |words: &mut dyn Iterator<Item = OsString>| -> Vec<CString> {
        words.filter_map(|word| CString::new(word.into_vec()).ok()).collect()
    };
    let env = strings(&mut std::env::vars_os().map(|(name, value)| {
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        entry
    }));
    let never = image::execute(copy.as_fd(), &strings(&mut std::env::args_os()), &env)?;
    match never {}
}

fn absolute(path: PathBuf) -> Result<PathBuf, OciError> {
    std::path::absolute(&path).map_err(error::file("resolve", path))
}

fn print(text: &str) -> u8 {
    match super::print(text) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

//! `moored exec`: run a program inside, as if it were here.
//!
//! Without `-t` the supervisor gets our own standard streams and the process uses them directly; we only wait. With `-t` it makes a
//! pty inside the container and sends the master over a socket pair; we are then the terminal's [`cable`](super::cable) until the
//! supervisor says `ExecEnded`. On SIGINT, SIGTERM, SIGHUP and SIGQUIT we end with 128 + signal; the supervisor sees us go and ends the
//! process.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::Signal;

use super::Failure;
use super::args::Exec;
use super::ask::Answers;
use super::cable::{Cable, failed, take_signals};
use super::terminal;
use crate::control::Client;
use crate::control::protocol::{Request, Response};

/// As `docker exec` and `podman exec` say "the program never ran".
pub const EXIT_NOT_RUN: u8 = 125;

/// Runs `exec` to its end: the process's exit code, 128 + signal.
pub fn exec(run_dir: &Path, args: Exec) -> Result<u8, Failure> {
    if args.tty { with_terminal(run_dir, args) } else { with_own_streams(run_dir, args) }
}

fn request(args: Exec) -> Request {
    let Exec { tty, mut env, workdir, user, unit, args, .. } = args;
    // What is at the other end of the terminal is the caller's: only he knows what it understands.
    let is_named = env.iter().any(|entry| entry.starts_with("TERM="));
    env.extend(std::env::var("TERM").ok().filter(|_| tty && !is_named).map(|term| format!("TERM={term}")));
    let size = if tty { terminal::size(io::stdout().as_fd()) } else { None };
    Request::Exec { unit, args, env, cwd: workdir, user, tty, size }
}

fn with_own_streams(run_dir: &Path, args: Exec) -> Result<u8, Failure> {
    let null = File::open("/dev/null").map_err(failed("opening /dev/null"))?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let input = if args.interactive { stdin.as_fd() } else { null.as_fd() };
    let fds = [input, stdout.as_fd(), stderr.as_fd()];
    let mut answers = Answers(Client::connect(run_dir)?.call(&request(args), &fds)?);
    loop {
        match answers.next()? {
            Some(Response::ExecStarted { .. }) => {}
            Some(Response::ExecEnded { code }) => return Ok(code),
            Some(_) => return Err(Failure::WrongAnswer),
            None => return Err(Failure::NoAnswer),
        }
    }
}

fn with_terminal(run_dir: &Path, args: Exec) -> Result<u8, Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(failed("making a socket pair"))?;
    let interactive = args.interactive;
    // Blocked before anything can be left half done; they arrive as input from here on.
    let signals = take_signals([Signal::SIGWINCH, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT])?;
    let mut answers = Answers(Client::connect(run_dir)?.call(&request(args), &[theirs.as_fd()])?);
    drop(theirs);
    let mut cable = Cable::new(Some(ours), interactive, signals);
    loop {
        let turn = cable.turn(answers.0.as_fd(), answers.0.is_buffered())?;
        if let Some(signal) = turn.signal {
            return Ok(128u8.saturating_add(signal));
        }
        if !turn.other {
            continue;
        }
        match answers.next()? {
            Some(Response::ExecStarted { .. }) => {}
            Some(Response::ExecEnded { code }) => {
                cable.finish()?;
                return Ok(code);
            }
            Some(_) => return Err(Failure::WrongAnswer),
            None => return Err(Failure::NoAnswer),
        }
    }
}

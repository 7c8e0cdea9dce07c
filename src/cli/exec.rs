//! `moored exec`: run a program inside, as if it were here.
//!
//! Without `-t` the supervisor gets our own standard streams and the process uses them directly; we only wait. With `-t` it makes a
//! pty inside the container and sends the master over a socket pair; we are then the terminal's [`cable`](super::cable) until the
//! supervisor says `ExecEnded`. On SIGINT, SIGTERM, SIGHUP and SIGQUIT we end with 128 + signal; the supervisor sees us go and ends the
//! process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::Signal;

use super::Failure;
use super::args::Exec;
use super::ask::{Answers, LOST_MAX};
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
    let mut session = Session::open(run_dir, &request(args), &fds)?;
    loop {
        if let Some(code) = session.next()? {
            return Ok(code);
        }
    }
}

fn with_terminal(run_dir: &Path, args: Exec) -> Result<u8, Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(failed("making a socket pair"))?;
    let interactive = args.interactive;
    // Blocked before anything can be left half done; they arrive as input from here on.
    let signals = take_signals([Signal::SIGWINCH, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT])?;
    let mut session = Session::open(run_dir, &request(args), &[theirs.as_fd()])?;
    drop(theirs);
    let mut cable = Cable::new(Some(ours), interactive, signals);
    loop {
        let answers = &session.answers.0;
        let turn = cable.turn(answers.as_fd(), answers.is_buffered())?;
        if let Some(signal) = turn.signal {
            return Ok(128u8.saturating_add(signal));
        }
        if !turn.other {
            continue;
        }
        if let Some(code) = session.next()? {
            cable.finish()?;
            return Ok(code);
        }
    }
}

/// What the supervisor says of the process, and after it the one that takes over from it. The process needs neither for what it reads and
/// writes.
struct Session<'a> {
    run_dir: &'a Path,
    answers: Answers,
    /// Once it runs.
    name: Option<String>,
    /// Supervisors asked in a row that went away without an answer.
    lost: u32,
}

impl<'a> Session<'a> {
    fn open(run_dir: &'a Path, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Self, Failure> {
        let answers = Answers(Client::connect(run_dir)?.call(request, fds)?);
        Ok(Session { run_dir, answers, name: None, lost: 0 })
    }

    /// Waits for something to be said: the code, if it is over.
    fn next(&mut self) -> Result<Option<u8>, Failure> {
        match self.answers.next() {
            Ok(Some(Response::ExecStarted { session, .. })) => {
                self.name = Some(session).filter(|name| !name.is_empty());
                self.lost = 0;
            }
            Ok(Some(Response::ExecEnded { code })) => return Ok(Some(code)),
            Ok(Some(_)) => return Err(Failure::WrongAnswer),
            Ok(None) => self.attach()?,
            Err(failure) if failure.is_lost_answer() => self.attach()?,
            Err(failure) => return Err(failure),
        }
        Ok(None)
    }

    /// The supervisor went away, and the process goes on: the next one is asked for it.
    fn attach(&mut self) -> Result<(), Failure> {
        // Without its name nobody can tell whether it runs.
        let session = self.name.clone().filter(|_| self.lost < LOST_MAX).ok_or(Failure::NoAnswer)?;
        self.lost += 1;
        self.answers = Answers(Client::connect(self.run_dir)?.call(&Request::Attach { session }, &[])?);
        Ok(())
    }
}

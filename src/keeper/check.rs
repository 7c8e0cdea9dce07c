//! The dry run of an upgrade: a program is started on the state that it would go on from, and says whether it can.
//!
//! It runs in a child, which may be anything: not moored at all, older than this, a crash, a program that waits for ever. Only an answer
//! counts, and only for a while. The child has the state and a pipe for the answer, nothing else of ours.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use super::TEXT_BYTES_MAX;
use super::boot::{SPARE_FD, environment};
use super::child::exit;
use super::process1::{InitState, Seat};
use super::run::now_ns;
use super::state::{self, Of, State, StateError};
use super::wire::Exit;
use crate::compact;
use crate::sys::wait::{Which, peek, reap};
use crate::sys::{fd, image, signal};

/// What the program is called for it.
pub const COMMAND: &str = "upgrade-check";
/// Where it finds the state.
const STATE_FD: i32 = 3;
/// Where it writes the answer.
const ANSWER_FD: i32 = 4;
/// An answer has this long.
const DEADLINE_NS: u64 = 10_000_000_000;
/// Process 1 waits for its second one without doing anything else, and has a watchdog to pet: less than the shortest that it may have.
const AGAIN_NS: u64 = 3_000_000_000;
/// Waiting for an answer, so often is something else looked after.
const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
/// Longest answer, in bytes: less than a pipe holds, so that nobody waits.
const ANSWER_BYTES_MAX: u64 = 4096;
/// What a child that could not execute the program ends with ([`image::spawn`]).
const NOT_EXECUTED: u8 = 127;

/// What the program says. A field more is no other answer.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// Which moored it is.
    moored: String,
    /// Why it cannot go on from the state; none: it can.
    refusal: Option<String>,
}

/// One that was started.
#[derive(Debug)]
pub(crate) struct Check {
    pid: i32,
    answer: OwnedFd,
    started_ns: u64,
    pub due_ns: u64,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checked {
    /// No answer yet.
    NotYet,
    /// It can take over: which moored it is.
    Yes(String),
    /// Why it cannot.
    No(String),
}

impl Check {
    /// Starts `program` on the state. It dies with this process.
    pub fn start(program: BorrowedFd<'_>, state: &State, now_ns: u64) -> io::Result<Check> {
        let state = fcntl_dupfd_cloexec(state::write(state)?, SPARE_FD)?;
        let program = fcntl_dupfd_cloexec(program, SPARE_FD)?;
        // Its read end does not block, so that a program which left somebody with the pipe keeps nobody waiting.
        let (answer, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let theirs = fcntl_dupfd_cloexec(theirs, SPARE_FD)?;
        let argv = [c"moored".to_owned(), CString::new(COMMAND).map_err(io::Error::other)?];
        let pid = image::spawn(program.as_fd(), &argv, &environment(), || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            signal::reset_all()?;
            // What it prints is no answer and nobody's to read.
            for number in 0..STATE_FD {
                fd::place(openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?, number)?;
            }
            fd::place(state, STATE_FD)?;
            fd::place(theirs, ANSWER_FD)
        })?;
        Ok(Check { pid, answer, started_ns: now_ns, due_ns: now_ns.saturating_add(DEADLINE_NS) })
    }

    /// Whether this child is the check.
    pub fn is(&self, pid: i32) -> bool {
        self.pid == pid
    }

    /// Looks, without waiting. After an answer the child is buried; one that is late is killed, and somebody else's to bury.
    pub fn look(&self, now_ns: u64) -> Checked {
        match peek(Which::Pid(self.pid)) {
            Ok(Some(ended)) => {
                let _ = reap(Which::Pid(self.pid));
                self.judge(exit(ended))
            }
            Ok(None) if now_ns < self.due_ns => Checked::NotYet,
            Ok(None) => {
                let _ = signal::send_to_child(self.pid, signal::SIGKILL);
                let seconds = self.due_ns.saturating_sub(self.started_ns) / 1_000_000_000;
                Checked::No(format!("the dry run did not end in {seconds} s"))
            }
            Err(error) => Checked::No(format!("the dry run was lost: {error}")),
        }
    }

    /// The same, waiting for the end. The clock is read once a second at least.
    pub fn wait(&self, mut now_ns: impl FnMut() -> u64) -> io::Result<Checked> {
        use rustix::event::{PollFd, PollFlags, poll};
        let pid = rustix::process::Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        loop {
            let now = now_ns();
            match self.look(now) {
                Checked::NotYet => {}
                known => return Ok(known),
            }
            let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&LOOK));
        }
    }

    fn judge(&self, exit: Exit) -> Checked {
        let mut bytes = Vec::new();
        let file = self.answer.try_clone().map(File::from);
        // WouldBlock: somebody it left has the pipe; what it said itself is read by then.
        let _ = file.and_then(|file| file.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes));
        match (compact::from_json::<Answer>(&bytes), exit) {
            (Ok(Answer { moored, refusal: None }), Exit::Code(0)) => Checked::Yes(moored),
            (Ok(Answer { moored, refusal: Some(why) }), _) => {
                let why: String = why.chars().take(TEXT_BYTES_MAX / 2).collect();
                Checked::No(format!("moored {moored} cannot go on from the state of what runs: {why}"))
            }
            (_, Exit::Signal { signal, .. }) => Checked::No(format!("signal {signal} ended its dry run")),
            (_, Exit::Code(NOT_EXECUTED)) => Checked::No("it cannot be executed on this host".to_owned()),
            (_, Exit::Code(code)) => Checked::No(format!(
                "it gave no answer in the dry run, and ended with code {code}: it is not moored, or a version without `upgrade`"
            )),
        }
    }
}

/// The second dry run that process 1 makes, of the state that it then goes on from. Why the program cannot; none: it can.
pub(crate) fn again(program: BorrowedFd<'_>, state: &State) -> Option<String> {
    let now = now_ns();
    let checked = Check::start(program, state, now)
        .map(|check| Check { due_ns: now.saturating_add(AGAIN_NS), ..check })
        .and_then(|check| check.wait(now_ns));
    match checked {
        Ok(Checked::Yes(_)) => None,
        Ok(Checked::No(why)) => Some(why),
        Ok(Checked::NotYet) => Some("its second dry run has not ended".to_owned()),
        Err(error) => Some(format!("its second dry run: {error}")),
    }
}

/// The dry run, in the program that is to take over. `understands` is asked about the supervisor's arguments.
pub fn check(understands: impl Fn(Vec<std::ffi::OsString>) -> Result<(), String>) -> u8 {
    let Some((state, answer)) = fd::inherited(STATE_FD).zip(fd::inherited(ANSWER_FD)) else {
        return 1;
    };
    let refusal = match state::read(state.as_fd()) {
        Ok(state) => refusal(state, understands),
        Err(error) => Some(refused(&error)),
    };
    let code = u8::from(refusal.is_some());
    let answer_text = serde_json::to_vec(&Answer { moored: super::build(), refusal }).unwrap_or_default();
    match File::from(answer).write_all(&answer_text) {
        Ok(()) => code,
        Err(_) => 1,
    }
}

fn refused(error: &StateError) -> String {
    error.to_string()
}

fn refusal(state: State, understands: impl Fn(Vec<std::ffi::OsString>) -> Result<(), String>) -> Option<String> {
    use std::os::unix::ffi::OsStringExt;
    let argv = match &state.of {
        Of::Anchor(anchor) => &anchor.supervisor_argv,
        Of::Keeper(keeper) => &keeper.supervisor_argv,
        Of::Init(init) => match flaw(init) {
            Some(flaw) => return Some(flaw),
            None => init.seat.supervisor_argv(),
        },
    };
    let argv = argv.iter().map(|argument| std::ffi::OsString::from_vec(argument.0.clone())).collect();
    understands(argv).err().map(|error| format!("the supervisor's arguments: {error}"))
}

/// What would go wrong in process 1 after the execution, as far as it can be known before.
fn flaw(init: &InitState) -> Option<String> {
    let argvs = [&init.keeper_argv, &init.supervisor_argv];
    let whole = argvs.iter().all(|argv| state::c_strings((*argv).clone()).is_ok_and(|argv| !argv.is_empty()));
    let signals = match &init.seat {
        Seat::Anchor(_) => Ok(()),
        Seat::Keeper(keeper) => super::run::signal_set(&keeper.signals).map(drop),
    };
    match (whole, signals) {
        (false, _) => Some("an argument list is empty, or holds a NUL byte".to_owned()),
        (true, Err(error)) => Some(format!("the signals: {error}")),
        (true, Ok(())) => None,
    }
}

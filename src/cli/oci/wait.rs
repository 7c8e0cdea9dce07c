//! In the foreground: the terminal, the signals, and the end of the container's process.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::error::{OciError, call};
use crate::cli::cable::{Cable, take_signals};
use crate::sys::pidfd::send_signal;
use crate::sys::wait::{Ended, Which, reap};

/// What is passed on. Not SIGCHLD and SIGPIPE, which are about ourselves, nor SIGTSTP: Ctrl-Z stops the command.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Keeps signals from here on for the process that is about to be made.
pub fn hold_signals() -> Result<SignalFd, OciError> {
    Ok(take_signals(FORWARDED)?)
}

/// Waits for the end of a child: its exit code, or 128 and the signal. `console` is where its terminal comes from.
pub fn wait(pidfd: BorrowedFd<'_>, console: Option<UnixStream>, signals: SignalFd) -> Result<u8, OciError> {
    let interactive = console.is_some();
    let mut cable = Cable::new(console, interactive, signals);
    loop {
        let turn = cable.turn(pidfd.as_fd(), false)?;
        if let Some(signal) = turn.signal {
            // It may have just ended.
            let _ = send_signal(pidfd, signal);
        }
        if turn.other
            && let Some(ended) = reap(Which::PidFd(pidfd)).map_err(call("wait for the process"))?
        {
            cable.finish()?;
            return Ok(code(ended));
        }
    }
}

fn code(ended: Ended) -> u8 {
    let status = u8::try_from(ended.status).unwrap_or(u8::MAX);
    if ended.code == libc::CLD_EXITED { status } else { 128u8.saturating_add(status) }
}

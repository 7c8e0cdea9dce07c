//! A tiny init: stays as pid 1 of the container in front of the program, reaps orphans, forwards signals, and ends as
//! the program ended: with its code, or 128 and the signal.
//!
//! Pid 1 of a namespace gets no signal that it has no handler for; one that is blocked and waited for does arrive.

use std::os::fd::BorrowedFd;

use super::error::{StepError, call, errno_of};
use crate::sys::clone::{Request, Side, clone3};
use crate::sys::signal::{self, SIGCHLD};
use crate::sys::wait::{Ended, Which, reap};

/// What the init calls itself, by which it is told from a process that is still being set up.
pub const NAME: &str = "moored-init";

/// Added to the number of the signal that ended the program.
const SIGNALLED: i32 = 128;

/// Forks. The child goes on with the script; the parent lets go of everything and stays.
///
/// Before it forks it is no longer what sets a container up, in all the ways in which that shows: it outlives a keeper, it has its name, and
/// a signal waits for it. Afterwards would be too late: whoever sees that nobody holds the report any more asks for the name at once, or
/// sends a signal that pid 1 without a handler never gets.
///
/// With a `terminal` the program is a group of its own in the foreground: a key's signal is for the program, and the init, which has it too
/// if it is in that group, would send it on once more.
pub(super) fn leave_behind(terminal: Option<BorrowedFd<'_>>, let_go: impl FnOnce()) -> Result<(), StepError> {
    // Neither call can fail. The child has no such signal, and its own name as soon as it executes the program.
    let _ = rustix::process::set_parent_process_death_signal(None);
    let _ = rustix::thread::set_name(c"moored-init");
    signal::block_all().map_err(|error| call("block signals")(errno_of(&error)))?;
    let side = clone3(&Request::default()).map_err(|error| call("clone the program")(errno_of(&error)))?;
    match side {
        Side::Child => {
            // While SIGTTOU is blocked: it would stop who is not in the foreground yet.
            terminal.map_or(Ok(()), come_to_front)?;
            signal::unblock_all().map_err(|error| call("unblock signals")(errno_of(&error)))
        }
        Side::Parent { pid, .. } => {
            let_go();
            // Its own end of stdio would keep a log open that the program has closed.
            crate::sys::fd::close_all();
            stay(pid)
        }
    }
}

fn come_to_front(terminal: BorrowedFd<'_>) -> Result<(), StepError> {
    rustix::process::setpgid(None, None).map_err(call("make a process group"))?;
    let own = rustix::process::getpgrp();
    rustix::termios::tcsetpgrp(terminal, own).map_err(call("take the foreground of the terminal"))
}

fn stay(program: i32) -> ! {
    loop {
        bury(program);
        match signal::wait_for_any() {
            Ok(SIGCHLD) => {}
            // It may have just ended; then there is nobody to tell.
            Ok(signal) => drop(signal::send_to_child(program, signal)),
            Err(_) => {}
        }
    }
}

/// Reaps whatever has ended; bounded by the number of processes there are.
fn bury(program: i32) {
    while let Ok(Some(ended)) = reap(Which::Any) {
        if ended.pid == program {
            std::process::exit(code_of(ended));
        }
    }
}

fn code_of(ended: Ended) -> i32 {
    match ended.code {
        libc::CLD_EXITED => ended.status,
        _ => SIGNALLED + ended.status,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::sys::clone::leave;
    use crate::sys::wait::await_end;

    /// How an init ends whose program is `program`; `meanwhile` is given its pid when it lets go.
    fn init_ends(program: impl FnOnce(), meanwhile: impl FnOnce()) -> i32 {
        match clone3(&Request::default()).unwrap() {
            Side::Child => {
                let made = leave_behind(None, meanwhile);
                program();
                leave(if made.is_ok() { 7 } else { 1 })
            }
            Side::Parent { pid, .. } => await_end(Which::Pid(pid)).unwrap().status,
        }
    }

    fn send_to_self(signal: i32) {
        signal::send_to_child(std::process::id() as i32, signal).unwrap();
    }

    const SIGRTMIN: i32 = 34;

    #[test]
    fn a_program_that_a_real_time_signal_kills_is_an_end_too() {
        assert_eq!(init_ends(|| send_to_self(SIGRTMIN), || ()), SIGNALLED + SIGRTMIN);
        assert_eq!(init_ends(|| send_to_self(libc::SIGKILL), || ()), SIGNALLED + libc::SIGKILL);
        assert_eq!(init_ends(|| (), || ()), 7);
    }

    /// Without its mask it would end of the signal itself; as pid 1 of a namespace it would never get it.
    #[test]
    fn a_signal_that_comes_as_it_lets_go_reaches_the_program() {
        for signal in [libc::SIGTERM, SIGRTMIN] {
            let sleep = || std::thread::sleep(std::time::Duration::from_secs(60));
            assert_eq!(init_ends(sleep, || send_to_self(signal)), SIGNALLED + signal);
        }
    }

    #[test]
    fn it_has_its_name_before_it_lets_go_of_the_report() {
        let (mut said, say) = std::io::pipe().unwrap();
        match clone3(&Request::default()).unwrap() {
            Side::Child => {
                let let_go = || {
                    let name = rustix::thread::name().unwrap();
                    let _ = rustix::io::write(&say, name.as_bytes());
                };
                // The program, and whoever could not have one.
                leave(if leave_behind(None, let_go).is_ok() { 7 } else { 1 });
            }
            Side::Parent { pid, .. } => {
                drop(say);
                let mut name = String::new();
                said.read_to_string(&mut name).unwrap();
                assert_eq!(name, NAME);
                assert_eq!(await_end(Which::Pid(pid)).unwrap().status, 7);
            }
        }
    }
}

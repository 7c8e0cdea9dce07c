//! A tiny init: stays as pid 1 of the container in front of the program, reaps orphans, forwards signals, and ends as
//! the program ended: with its code, or 128 and the signal.
//!
//! Pid 1 of a namespace gets no signal that it has no handler for; one that is blocked and waited for does arrive.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::error::{StepError, call, errno_of};
use crate::sys::clone::{Request, Side, clone3};

/// What the init calls itself, by which it is told from a process that is still being set up.
pub const NAME: &str = "moored-init";

/// Added to the number of the signal that ended the program.
const SIGNALLED: i32 = 128;

/// Forks. The child goes on with the script; the parent lets go of everything and stays.
///
/// Before it forks it is no longer what sets a container up, in both of the ways in which that shows: it outlives a keeper, and it has its
/// name. Afterwards would be too late: whoever sees that nobody holds the report any more asks for the name at once.
pub(super) fn leave_behind(let_go: impl FnOnce()) -> Result<(), StepError> {
    // Neither call can fail. The child has no such signal, and its own name as soon as it executes the program.
    let _ = rustix::process::set_parent_process_death_signal(None);
    let _ = rustix::thread::set_name(c"moored-init");
    let side = clone3(&Request::default()).map_err(|error| call("clone the program")(errno_of(&error)))?;
    match side {
        Side::Child => Ok(()),
        Side::Parent { pid, .. } => {
            let_go();
            // Its own end of stdio would keep a log open that the program has closed.
            crate::sys::fd::close_all();
            stay(Pid::from_raw(pid))
        }
    }
}

fn stay(program: Pid) -> ! {
    let all = SigSet::all();
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None);
    loop {
        reap(program);
        match all.wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(signal) => {
                // It may have just ended; then there is nobody to tell.
                let _ = kill(program, signal);
            }
            Err(_) => {}
        }
    }
}

/// Reaps whatever has ended; bounded by the number of processes there are.
fn reap(program: Pid) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => std::process::exit(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => std::process::exit(SIGNALLED + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return,
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::sys::clone::leave;

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
                leave(if leave_behind(let_go).is_ok() { 7 } else { 1 });
            }
            Side::Parent { pid, .. } => {
                drop(say);
                let mut name = String::new();
                said.read_to_string(&mut name).unwrap();
                assert_eq!(name, NAME);
                assert_eq!(waitpid(Pid::from_raw(pid), None), Ok(WaitStatus::Exited(Pid::from_raw(pid), 7)));
            }
        }
    }
}

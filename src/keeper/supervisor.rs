//! The supervisor as a process: started, and started again.

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;

use super::state::SupervisorRecord;
use super::wire::Exit;
use crate::sys::{image, signal};

/// A supervisor that was up for this long did not die "at once".
const SETTLED_NS: u64 = 200_000_000;
/// The second restart of a supervisor that does not come up waits this long; each further one twice as long.
const DELAY_FIRST_NS: u64 = 100_000_000;
/// The longest wait between two starts.
const DELAY_MAX_NS: u64 = 5_000_000_000;
/// A supervisor that failed to come up this often in a row, with nothing left to stop, cannot finish an ordered stop.
const FAILURES_TO_GIVE_UP: u32 = 3;

/// The supervisor's process. At most one lives.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    /// Of the one that lives, or is not reaped yet.
    pub pid: Option<i32>,
    /// When the next one is to be started (`CLOCK_BOOTTIME` ns); none while one lives or none is wanted.
    pub due_ns: Option<u64>,
    /// Said `AdoptionDone`.
    pub ready: bool,
    /// Some supervisor of this keeper did.
    pub ever_ready: bool,
    /// How many were started.
    pub starts: u32,
    started_ns: u64,
    failures: u32,
    /// The one that lives was killed, for one of another program.
    replaced: bool,
}

/// What `argv` and the environment of the supervisor are.
#[derive(Debug)]
pub(crate) struct Command {
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
}

impl Supervisor {
    /// None lives, one is wanted.
    pub fn due_at_once() -> Self {
        Supervisor { due_ns: Some(0), ..Supervisor::default() }
    }

    /// Notes one that lives and was started by a keeper before.
    pub fn found(&mut self, pid: i32, now_ns: u64) {
        self.pid = Some(pid);
        self.started_ns = now_ns;
    }

    /// Starts it from `image`, in a process group of its own: a terminal's signals are the anchor's to receive. It keeps
    /// the signals of an ordered stop ignored, because the stop is told, never signalled; and the keeper's raised limit and
    /// OOM score, which are meant for it too.
    pub fn start(&mut self, image: BorrowedFd<'_>, command: &Command, now_ns: u64) {
        self.due_ns = None;
        self.ready = false;
        self.started_ns = now_ns;
        self.starts = self.starts.saturating_add(1);
        let keeper = rustix::process::getpid();
        match image::spawn(image, &command.argv, &command.env, || setup(keeper)) {
            Ok(pid) => self.pid = Some(pid),
            Err(_) => self.plan_restart(now_ns),
        }
    }

    /// Notes that it died.
    pub fn died(&mut self, now_ns: u64, restart: bool) {
        self.pid = None;
        match (restart, std::mem::take(&mut self.replaced)) {
            (true, true) => self.due_ns = Some(now_ns),
            (true, false) => self.plan_restart(now_ns),
            (false, _) => {}
        }
    }

    /// Ends the one that lives; the next one is due at once, and what this one's program did is not held against it.
    pub fn replace(&mut self, now_ns: u64) {
        self.failures = 0;
        match self.pid {
            Some(pid) => {
                self.replaced = true;
                let _ = signal::send_to_child(pid, signal::SIGKILL);
            }
            None => self.due_ns = Some(now_ns),
        }
    }

    /// For the keeper's next program.
    pub fn record(&self) -> SupervisorRecord {
        SupervisorRecord {
            pid: self.pid,
            due_ns: self.due_ns,
            ready: self.ready,
            ever_ready: self.ever_ready,
            starts: self.starts,
            started_ns: self.started_ns,
            failures: self.failures,
        }
    }

    /// From the keeper's program before.
    pub fn resumed(record: SupervisorRecord) -> Self {
        let SupervisorRecord { pid, due_ns, ready, ever_ready, starts, started_ns, failures } = record;
        Supervisor { pid, due_ns, ready, ever_ready, starts, started_ns, failures, replaced: false }
    }

    /// The next start: at once after a good run; 100 ms after a run that was short but came up; after one that did not
    /// come up 0, 100 ms, 200 ms … 5 s.
    fn plan_restart(&mut self, now_ns: u64) {
        let lived = now_ns.saturating_sub(self.started_ns);
        let failures = match (self.ready, lived >= SETTLED_NS) {
            (true, true) => 0,
            (true, false) => self.failures.min(1),
            (false, _) => self.failures,
        };
        self.failures = failures.saturating_add(1);
        self.due_ns = Some(now_ns.saturating_add(delay_ns(failures)));
    }

    /// Whether it failed to come up so often that an ordered stop with nothing left to stop may end without it.
    pub fn is_hopeless(&self) -> bool {
        self.pid.is_none() && !self.ready && self.failures >= FAILURES_TO_GIVE_UP
    }

    /// Whether a death with `exit` is a refusal to start that the user is to be told instead of a crash to be repaired:
    /// it left by itself, and no supervisor has ever come up.
    pub fn refused_to_start(&self, exit: Exit) -> Option<u8> {
        match exit {
            Exit::Code(code) if !self.ever_ready => Some(code),
            Exit::Code(_) | Exit::Signal { .. } => None,
        }
    }
}

/// Until it says that it is up ([`outlive`]) it dies with its keeper: the next one can know a supervisor by its program and
/// arguments only, and one that it does not know would hold the run-dir's lock against its own.
fn setup(keeper: rustix::process::Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if rustix::process::getppid() != Some(keeper) {
        // It died before that was asked for.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    signal::reset_all()?;
    signal::ignore(&super::IGNORED)?;
    signal::ignore(&super::STOPPING)?;
    rustix::process::setpgid(None, None)?;
    Ok(())
}

/// For a supervisor that has just begun: from here on its keeper's death does not end it.
pub fn outlive() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(None)?)
}

fn delay_ns(failures: u32) -> u64 {
    match failures.checked_sub(1) {
        None => 0,
        Some(doublings) => {
            let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
            DELAY_FIRST_NS.saturating_mul(factor).min(DELAY_MAX_NS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_before_a_restart_doubles_up_to_its_cap() {
        let ms: Vec<u64> = (0..9).map(|n| delay_ns(n) / 1_000_000).collect();
        assert_eq!(ms, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(delay_ns(u32::MAX), DELAY_MAX_NS);
    }

    #[test]
    fn a_good_run_forgets_earlier_failures() {
        let mut supervisor = Supervisor { failures: 7, ready: true, ..Supervisor::default() };
        supervisor.died(SETTLED_NS, true);
        assert_eq!(supervisor.due_ns, Some(SETTLED_NS));
        supervisor.ready = true;
        supervisor.died(SETTLED_NS - 1, true);
        assert_eq!(supervisor.due_ns, Some(SETTLED_NS - 1 + DELAY_FIRST_NS));
    }
}

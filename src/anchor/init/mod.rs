//! `moored init`: the anchor as process 1.
//!
//! Process 1 of a machine must not end: the kernel panics. Process 1 of a pid namespace may: its end is the end of the namespace. Which of the two
//! this is, the namespace's own number says (`early`); everything below but the first and the last row is for a machine alone.
//!
//! | state | what happens | next |
//! |---|---|---|
//! | early | the kernel's file systems are mounted, an initramfs root is left (`early`) | from memory |
//! | from memory | it executes itself from a sealed memfd, and comes through early once more, where nothing is left to do | boot |
//! | boot | a child does what init.toml says (`boot`); at most `BOOT_MOST` | supervising |
//! | supervising | the anchor's own work, and with the keeper dead the keeper's; orphans are buried, the watchdog is petted (`duty`) | the end, or no supervisor |
//! | no supervisor | it ended by itself and refuses to run: the reason is on the console, with a shell if there is one | after `RETRY` supervising |
//! | the end | what is left is killed, disks are synced and unmounted, reboot(2) (`shutdown`); in a namespace: exit | none |
//!
//! Orders come as signals (`order`), at any time; during the boot they skip the rest of it. The first one counts.
//!
//! A panic is a mistake of ours, and must not be the machine's: process 1 then executes itself again, finds the keeper, whose parent it still is,
//! and goes on. Nothing is configured twice: the notes that the boot leaves in the run-dir say that it was done.
//!
//! What init.toml says is read at boot and not followed. Messages go to the console without waiting for it.

mod boot;
mod console;
mod disks;
mod duty;
mod early;
mod helper;
mod mounted;
mod network;
mod order;
mod shutdown;

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signalfd::SignalFd;

pub use order::Order;

use super::control::{Control, End};
use super::place::{Place, claim};
use super::{AnchorError, become_anchor, c_strings, sealed_image};
use crate::keeper::wire::Request;
use crate::keeper::{self, Command, IGNORED, Keeper, Parts, Spawner};
use crate::sys::base::Base;
use crate::sys::signal::{SIGCHLD, SIGHUP, SIGINT, SIGPWR, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use crate::sys::{fd, heap, image, signal};
use crate::unit::InitToml;
use duty::Watch;
use early::Scope;
use shutdown::{Until, wait};

/// A boot that takes longer goes on beside what it is for: a check of a large disk takes minutes.
const BOOT_MOST: Duration = Duration::from_secs(600);
/// From one try to run a supervisor that refuses to the next.
const RETRY: Duration = Duration::from_secs(10);
/// Before process 1 executes itself again after a panic: a mistake that repeats itself must leave time to read.
const PANIC_PAUSE: Duration = Duration::from_secs(1);
/// With this word the kernel's command line asks for a shell on the console.
const SHELL_WORD: &str = "moored.shell";
/// The signals that mean something to process 1 of a machine. SIGHUP and SIGQUIT do not.
const OF_MACHINE: [i32; 6] = [SIGCHLD, SIGTERM, SIGINT, SIGPWR, SIGUSR1, SIGUSR2];
/// In a namespace all that a container's manager may send.
const OF_NAMESPACE: [i32; 8] = [SIGCHLD, SIGTERM, SIGINT, SIGPWR, SIGUSR1, SIGUSR2, SIGHUP, SIGQUIT];

/// What process 1 was given.
pub struct Options {
    /// As for [`super::Options`].
    pub run_dir: PathBuf,
    /// As for [`super::Options`].
    pub keeper: Vec<OsString>,
    /// The supervisor's whole argv, with these bytes for all logs at most where a number is given.
    pub supervisor: Box<dyn Fn(Option<u64>) -> Vec<OsString>>,
    /// Made writable before the supervisor needs it.
    pub state_dir: PathBuf,
    /// The same.
    pub log_dir: PathBuf,
    /// init.toml, where it is not in its usual place.
    pub config: Option<PathBuf>,
}

/// Runs as process 1. On a machine it does not come back.
pub fn run(options: &Options, spawner: &mut dyn Spawner) -> Result<u8, AnchorError> {
    let scope = early::prepare();
    let mut init = match Init::new(options, scope) {
        Ok(init) => init,
        Err(error) if scope == Scope::Machine => stranded(&error),
        Err(error) => return Err(error),
    };
    match scope {
        Scope::Machine => init.machine(spawner),
        Scope::Namespace => init.supervise(spawner, None),
    }
}

/// Whether the caller's process 1 is that of a machine.
pub fn is_machine() -> bool {
    early::is_first_pid_namespace()
}

struct Init<'o> {
    options: &'o Options,
    base: Base,
    watch: Watch,
    wanted: &'static [i32],
}

impl<'o> Init<'o> {
    fn new(options: &'o Options, scope: Scope) -> Result<Init<'o>, AnchorError> {
        let base = Base::capture();
        let wanted: &'static [i32] = match scope {
            Scope::Machine => &OF_MACHINE,
            Scope::Namespace => &OF_NAMESPACE,
        };
        keeper::signals(wanted).map_err(AnchorError::Setup)?;
        signal::ignore(&IGNORED).map_err(AnchorError::Setup)?;
        fd::cloexec_from(3).map_err(AnchorError::Setup)?;
        match (sealed_image(), scope) {
            (Ok(_), _) => {}
            // A machine boots from its disk's file if it must.
            (Err(error), Scope::Machine) => console::say(&AnchorError::Image(error).to_string()),
            (Err(error), Scope::Namespace) => return Err(AnchorError::Image(error)),
        }
        if scope == Scope::Namespace && !sees_itself() {
            return Err(AnchorError::ForeignProc);
        }
        become_anchor().map_err(AnchorError::Setup)?;
        Ok(Init { options, base, watch: Watch::default(), wanted })
    }

    /// The signals were blocked in [`Init::new`]; whoever gave them up makes them again.
    fn signals(&self) -> Result<SignalFd, AnchorError> {
        keeper::signals(self.wanted).map_err(AnchorError::Setup)
    }

    fn machine(&mut self, spawner: &mut dyn Spawner) -> ! {
        std::panic::set_hook(Box::new(|info| begin_again(&info.to_string())));
        let signals = match self.signals() {
            Ok(signals) => signals,
            Err(error) => stranded(&error),
        };
        let file = self.options.config.clone().unwrap_or_else(boot::default_file);
        let (wanted, notes) = boot::read(&file);
        console::choose(wanted.console.as_deref());
        console::take();
        self.watch.begin(wanted.stop_timeout, wanted.clock.as_deref());
        self.boot(&wanted, notes, &signals);
        let mut has_shell = false;
        if wanted.shell || asks_for_shell(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default()) {
            has_shell = console::start_shell().is_ok();
        }
        let log_cap = log_cap(&self.options.log_dir);
        while self.watch.order().is_none() {
            match self.supervise(spawner, log_cap) {
                // Stopped in order, by whatever order it was: a machine has nothing else to do.
                Ok(0) => self.watch.set_order(Order::Poweroff),
                Ok(_) if self.watch.order().is_some() => {}
                Ok(code) => console::say(&format!("the supervisor does not run: it ended with code {code}")),
                Err(error) => console::say(&format!("nothing can be started: {error}")),
            }
            if self.watch.order().is_none() {
                if !has_shell && console::has_shell() {
                    console::say("a shell on the console; `moored poweroff` and `moored reboot` end it");
                    has_shell = console::start_shell().is_ok();
                }
                wait(Until::Time, RETRY, &signals, &mut self.watch);
            }
        }
        if self.watch.is_late(keeper::now_ns()) {
            console::say("the units are not stopped in time");
        }
        let order = self.watch.order().unwrap_or(Order::Reboot);
        shutdown::end(order, &signals, &mut self.watch)
    }

    /// Once for each boot of the machine.
    fn boot(&mut self, wanted: &InitToml, mut notes: Vec<String>, signals: &SignalFd) {
        if let Some(Err(error)) = wanted.watchdog.map(|timeout| self.watch.guard(timeout)) {
            notes.push(error);
        }
        let Options { run_dir, state_dir, log_dir, .. } = self.options;
        if run_dir.join(boot::NOTES).exists() {
            return;
        }
        let places = boot::Places { run_dir, state_dir, log_dir };
        let started = helper::start(|| {
            boot::run(wanted, places, notes);
            0
        });
        let Ok(pid) = started else { return console::say("no process for the boot: what init.toml says is not done") };
        if !wait(Until::EndedOrTold(pid), BOOT_MOST, signals, &mut self.watch) {
            console::say("the boot is not done after 10 minutes: going on beside it");
        }
    }

    /// The anchor's work, then if need be the keeper's, until the end, whose code it returns.
    fn supervise(&mut self, spawner: &mut dyn Spawner, log_cap: Option<u64>) -> Result<u8, AnchorError> {
        let signals = self.signals()?;
        let (image, _) = image::own().map_err(AnchorError::Image)?;
        let run_dir = &self.options.run_dir;
        let keeper_argv = c_strings(&self.options.keeper)?;
        let supervisor_argv = c_strings(&(self.options.supervisor)(log_cap))?;
        let place = claim(run_dir)?;
        let stage = keeper::open_stage(run_dir).ok();
        let (mut control, listener) = match place {
            Place::Free { listener, control } => {
                let keeper = keeper::start(image.as_fd(), listener.as_fd(), run_dir, &keeper_argv, &supervisor_argv)
                    .map_err(AnchorError::Keeper)?;
                (Control::new(control, Some(keeper)), Some(listener))
            }
            // Ours, from before we executed ourselves again.
            Place::Kept { control } => (Control::new(control, None), None),
        };
        control.say(&Request::Build { build: keeper::build(), resumed: false });
        heap::trim();
        let stopping = loop {
            match control.run(&signals, &mut self.watch) {
                End::Done(code) => return Ok(code),
                End::Late => return Ok(1),
                End::Replace => {
                    control.program = None;
                    control.say(&Request::NotReplaced { text: "process 1 gets another program by a boot".to_owned() });
                }
                End::KeeperDied => break control.stopping,
            }
        };
        drop(control);
        let listener = match listener {
            Some(listener) => listener,
            None => self.listener(run_dir)?,
        };
        let command = Command::new(supervisor_argv);
        let (run_dir, base, waited_for) = (run_dir.clone(), self.base.clone(), self.wanted.to_vec());
        let parts = Parts { run_dir, listener, stage, image, signals, waited_for, base, command };
        Ok(Keeper::adopting(parts, spawner, stopping, &[]).with_duty(&mut self.watch).run())
    }

    fn listener(&self, run_dir: &Path) -> Result<OwnedFd, AnchorError> {
        match claim(run_dir)? {
            Place::Free { listener, .. } => Ok(listener),
            Place::Kept { .. } => Err(AnchorError::KeeperLost),
        }
    }
}

/// Whether /proc is that of our own namespace: it says which process we are.
fn sees_itself() -> bool {
    std::fs::read_link("/proc/self").is_ok_and(|link| link == Path::new("1"))
}

fn asks_for_shell(kernel_command_line: &str) -> bool {
    kernel_command_line.split_ascii_whitespace().any(|word| word == SHELL_WORD)
}

/// What logs in memory may take: three quarters of their file system, which also holds their indexes. `None`: they are on a disk.
fn log_cap(log_dir: &Path) -> Option<u64> {
    const TMPFS: u64 = 0x0102_1994;
    let found = rustix::fs::statfs(log_dir).ok().filter(|found| u64::try_from(found.f_type) == Ok(TMPFS))?;
    let bytes = found.f_blocks.saturating_mul(u64::try_from(found.f_bsize).unwrap_or(0));
    bytes.checked_div(4).map(|quarter| quarter.saturating_mul(3))
}

/// A machine on which not even the first steps work: it says so and waits for somebody. There is nothing to stop.
fn stranded(error: &AnchorError) -> ! {
    console::say(&format!("process 1 cannot work: {error}"));
    let _ = console::start_shell();
    loop {
        let _ = crate::sys::wait::await_end(crate::sys::wait::Which::Any);
        std::thread::sleep(PANIC_PAUSE);
    }
}

/// After a panic. Only in process 1: a child of its that panics just ends.
fn begin_again(why: &str) {
    if std::process::id() != 1 {
        crate::sys::clone::leave(i32::from(PANICKED));
    }
    console::say(&format!("process 1 panicked, and begins again: {why}"));
    std::thread::sleep(PANIC_PAUSE);
    loop {
        let done: io::Result<Infallible> = image::own().and_then(|(program, _)| {
            let argv: Vec<CString> = std::env::args_os().filter_map(|arg| CString::new(arg.into_vec()).ok()).collect();
            image::execute(program.as_fd(), &argv, &keeper::environment())
        });
        console::say(&format!("process 1 cannot begin again: {done:?}"));
        std::thread::sleep(RETRY);
    }
}

/// What a Rust program exits with after a panic.
const PANICKED: u8 = 101;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_command_line_asks_for_a_shell_with_one_word() {
        assert!(asks_for_shell("console=ttyS0 moored.shell quiet\n"));
        assert!(!asks_for_shell("console=ttyS0 moored.shell=no\n") && !asks_for_shell(""));
    }

    #[test]
    fn logs_in_memory_have_a_cap() {
        assert!(log_cap(Path::new("/dev/shm")).is_none_or(|cap| cap > 0));
        assert_eq!(log_cap(Path::new("/proc")), None);
    }
}

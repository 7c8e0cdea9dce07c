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
//! and goes on; where there is none it was the keeper itself, and takes its own place. Nothing is configured twice: the notes that the boot
//! leaves in the run-dir say that it was done.
//!
//! An upgrade executes another program in its place (`next`).
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
mod next;
mod order;
mod shutdown;

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signalfd::SignalFd;

pub(crate) use next::resume;
pub use order::Order;

use super::control::Control;
use super::place::{Place, claim};
use super::{Anchor, AnchorError, become_anchor, c_strings, sealed_image};
use crate::keeper::wire::Request;
use crate::keeper::{self, IGNORED, Spawner};
use crate::sys::base::Base;
use crate::sys::signal::{SIGCHLD, SIGHUP, SIGINT, SIGPWR, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use crate::sys::{fd, heap, image, signal, stack};
use crate::unit::{BootGuard, InitToml};
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

/// The supervisor's argv from what is known at boot.
pub type SupervisorArgv = dyn Fn(Option<u64>, Option<BootGuard>) -> Vec<OsString>;

/// What process 1 was given.
pub struct Options {
    /// As for [`super::Options`].
    pub run_dir: PathBuf,
    /// As for [`super::Options`].
    pub keeper: Vec<OsString>,
    /// The supervisor's whole argv, with these bytes for all logs at most where a number is given, and with this guard.
    pub supervisor: Box<SupervisorArgv>,
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
        Scope::Machine => init.machine(options, spawner),
        Scope::Namespace => init.supervise(spawner, Begun::First),
    }
}

/// Whether the caller's process 1 is that of a machine.
pub fn is_machine() -> bool {
    early::is_first_pid_namespace()
}

/// What process 1 is, whatever it is doing.
struct Init {
    scope: Scope,
    run_dir: PathBuf,
    keeper_argv: Vec<CString>,
    supervisor_argv: Vec<CString>,
    base: Base,
    watch: Watch,
    /// Its own place of the console.
    console: Option<PathBuf>,
    has_shell: bool,
}

/// How process 1 comes to its units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// Nobody was there before.
    First,
    /// It executed itself again: what a keeper would have left is its own.
    Again,
}

impl Init {
    fn new(options: &Options, scope: Scope) -> Result<Init, AnchorError> {
        let base = Base::capture();
        keeper::signals(wanted(scope)).map_err(AnchorError::Setup)?;
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
        Ok(Init {
            scope,
            run_dir: options.run_dir.clone(),
            keeper_argv: c_strings(&options.keeper)?,
            supervisor_argv: c_strings(&(options.supervisor)(None, None))?,
            base,
            watch: Watch::default(),
            console: None,
            has_shell: false,
        })
    }

    /// The signals were blocked in [`Init::new`]; whoever gave them up makes them again.
    fn signals(&self) -> Result<SignalFd, AnchorError> {
        keeper::signals(wanted(self.scope)).map_err(AnchorError::Setup)
    }

    fn machine(&mut self, options: &Options, spawner: &mut dyn Spawner) -> ! {
        std::panic::set_hook(Box::new(|info| after_panic(&info.to_string())));
        let signals = match self.signals() {
            Ok(signals) => signals,
            Err(error) => stranded(&error),
        };
        let file = options.config.clone().unwrap_or_else(boot::default_file);
        let (wanted, notes) = boot::read(&file);
        self.console = wanted.console.clone();
        console::choose(self.console.as_deref());
        console::take();
        self.watch.begin(wanted.stop_timeout, wanted.clock.as_deref());
        let begun = self.boot(&wanted, options, notes, &signals);
        if wanted.shell || asks_for_shell(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default()) {
            self.has_shell = console::start_shell().is_ok();
        }
        match c_strings(&(options.supervisor)(log_cap(&options.log_dir), wanted.boot_guard)) {
            Ok(argv) => self.supervisor_argv = argv,
            Err(error) => {
                console::say(&format!("the logs have no bound of their own, and there is no boot-loop guard: {error}"))
            }
        }
        let ended = if self.watch.order().is_none() { Some(self.supervise(spawner, begun)) } else { None };
        self.go_on(spawner, &signals, ended)
    }

    /// What becomes of a machine whose anchor or keeper `ended`, if they ever began.
    fn go_on(
        &mut self,
        spawner: &mut dyn Spawner,
        signals: &SignalFd,
        mut ended: Option<Result<u8, AnchorError>>,
    ) -> ! {
        while let Some(end) = ended.take() {
            match end {
                // Stopped in order, by whatever order it was: a machine has nothing else to do.
                Ok(0) => self.watch.set_order(Order::Poweroff),
                Ok(_) if self.watch.order().is_some() => {}
                Ok(code) => console::say(&format!("the supervisor does not run: it ended with code {code}")),
                Err(error) => console::say(&format!("nothing can be started: {error}")),
            }
            if self.watch.order().is_none() {
                self.offer_shell();
                wait(Until::Time, RETRY, signals, &mut self.watch);
            }
            if self.watch.order().is_none() {
                ended = Some(self.supervise(spawner, Begun::First));
            }
        }
        if self.watch.is_late(keeper::now_ns()) {
            console::say("the units are not stopped in time");
        }
        let order = self.watch.order().unwrap_or(Order::Reboot);
        shutdown::end(order, signals, &mut self.watch)
    }

    fn offer_shell(&mut self) {
        if !self.has_shell && console::has_shell() {
            console::say("a shell on the console; `moored poweroff` and `moored reboot` end it");
            self.has_shell = console::start_shell().is_ok();
        }
    }

    /// Once for each boot of the machine.
    fn boot(&mut self, wanted: &InitToml, options: &Options, mut notes: Vec<String>, signals: &SignalFd) -> Begun {
        let mut missing = wanted.watchdog.and_then(|timeout| self.watch.guard(timeout).err());
        let Options { run_dir, state_dir, log_dir, .. } = options;
        if run_dir.join(boot::NOTES).exists() {
            missing.iter().for_each(|note| boot::add_note(run_dir, note));
            return Begun::Again;
        }
        // Its driver may be one of them.
        if wanted.modules.is_empty() {
            notes.extend(missing.take());
        }
        let places = boot::Places { run_dir, state_dir, log_dir };
        let started = helper::start(|| {
            boot::run(wanted, places, notes);
            0
        });
        match started {
            Err(_) => console::say("no process for the boot: what init.toml says is not done"),
            Ok(pid) if !wait(Until::EndedOrTold(pid), BOOT_MOST, signals, &mut self.watch) => {
                console::say("the boot is not done after 10 minutes: going on beside it");
            }
            Ok(_) => {}
        }
        let missing = missing.and(wanted.watchdog).and_then(|timeout| self.watch.guard(timeout).err());
        missing.iter().for_each(|note| boot::add_note(run_dir, note));
        Begun::First
    }

    /// The anchor's work, then if need be the keeper's, until the end, whose code it returns.
    fn supervise(&mut self, spawner: &mut dyn Spawner, begun: Begun) -> Result<u8, AnchorError> {
        let signals = self.signals()?;
        let (image, _) = image::own().map_err(AnchorError::Image)?;
        let (run_dir, keeper_argv, supervisor_argv) =
            (self.run_dir.clone(), self.keeper_argv.clone(), self.supervisor_argv.clone());
        let place = claim(&run_dir)?;
        let stage = keeper::open_stage(&run_dir).ok();
        let is_keeper = begun == Begun::Again && matches!(place, Place::Free { .. });
        let (control, listener) = match place {
            // Its children are those of a keeper that died, or of the one that we were ourselves.
            Place::Free { listener, control } if is_keeper => (Control::new(control, None), Some(listener)),
            Place::Free { listener, control } => {
                let keeper = keeper::start(image.as_fd(), listener.as_fd(), &run_dir, &keeper_argv, &supervisor_argv)
                    .map_err(AnchorError::Keeper)?;
                (Control::new(control, Some(keeper)), Some(listener))
            }
            // Ours, from before we executed ourselves again.
            Place::Kept { control } => (Control::new(control, None), None),
        };
        let (waited_for, base, earlier) = (wanted(self.scope).to_vec(), self.base.clone(), Vec::new());
        let anchor = Anchor {
            run_dir,
            keeper_argv,
            supervisor_argv,
            listener,
            stage,
            image,
            signals,
            waited_for,
            base,
            control,
            earlier,
            is_init: true,
        };
        stack::trim();
        heap::trim();
        if is_keeper {
            return anchor.take_place(spawner, self);
        }
        anchor.control.say(&Request::Build { build: keeper::build(), resumed: false });
        anchor.run(spawner, self)
    }
}

fn wanted(scope: Scope) -> &'static [i32] {
    match scope {
        Scope::Machine => &OF_MACHINE,
        Scope::Namespace => &OF_NAMESPACE,
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

/// Only in process 1: a child of its that panics just ends.
fn after_panic(why: &str) {
    if std::process::id() != 1 {
        crate::sys::clone::leave(i32::from(PANICKED));
    }
    begin_again(&format!("it panicked: {why}"));
}

/// Process 1 of a machine executes itself from the beginning.
pub(crate) fn begin_again(why: &str) -> ! {
    console::say(&format!("process 1 begins again: {why}"));
    std::thread::sleep(PANIC_PAUSE);
    // What was handed over, and not taken.
    let _ = fd::cloexec_from(3);
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

//! The process that somebody started: signals, orphans, the keeper's spare.
//!
//! It does next to nothing, so that it does not die: it executes itself again from a sealed memfd, makes the run-dir and
//! the listening socket, starts the keeper with it, and waits.
//!
//! | what happens | what it does |
//! |---|---|
//! | TERM, INT, QUIT, HUP | tells the keeper to begin the ordered stop; the state is the keeper's, so once is enough |
//! | the keeper says that all is done | leaves with the code it says: 0 after an ordered stop |
//! | the keeper dies without that | opens the FIFOs of all containers, then takes its place ([`crate::keeper`]) on the very same socket: its children are ours now |
//! | another child ends | reaps it, but only while the keeper lives: later it may be a container |
//! | the keeper gives it another program | executes that in its own place, if that can go on from its state (`replace`) |
//! | there is a keeper already, without an anchor | controls that one and starts nothing; it is no spare, for it is not the parent |
//!
//! Nobody has to reconnect to another path: connections wait in the socket's backlog until whoever holds it takes them.
//! Prints nothing: writing to a terminal that hung up, or to a pipe nobody reads, must not stop it.

// Tests may stop at a surprise; what ships may not.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::arithmetic_side_effects,
        clippy::print_stdout,
        clippy::print_stderr
    )
)]

mod control;
pub mod init;
mod place;
mod replace;

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::sys::signalfd::SignalFd;

use crate::keeper::wire::Request;
use crate::keeper::{self, Command, Duty, IGNORED, Keeper, Parts, STOPPING, Spawner};
use crate::sys::base::Base;
use crate::sys::signal::{self, SIGCHLD, SIGHUP};
use crate::sys::{fd, heap, image, service_manager, stack};
use control::{Control, End};
use place::{Place, claim};
pub(crate) use replace::resume;

/// What `moored up` was asked for, as far as the anchor is concerned.
#[derive(Debug, Clone)]
pub struct Options {
    /// Made 0700 if missing; holds `keeper.sock`.
    pub run_dir: PathBuf,
    /// The keeper's whole argv, for example `moored keeper`. It must come to [`crate::keeper::main`]; it is for `ps` only,
    /// all the keeper needs comes by descriptor.
    pub keeper: Vec<OsString>,
    /// The supervisor's whole argv, for example `moored supervisor --run-dir …`.
    pub supervisor: Vec<OsString>,
}

/// Why `moored up` did not come to run anything, or lost what it controlled.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// Another anchor has this run-dir.
    #[error("already running: pid {pid}")]
    AlreadyRunning {
        /// Whose.
        pid: i32,
    },
    /// A keeper of another build runs without an anchor.
    #[error("what runs in {} is of another version of moored and cannot be taken over", run_dir.display())]
    OtherVersion {
        /// Where.
        run_dir: PathBuf,
    },
    /// The run-dir is somebody else's.
    #[error("{} belongs to uid {owner}: expected our own", run_dir.display())]
    Owner {
        /// Where.
        run_dir: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// The run-dir cannot be made or used.
    #[error("{step} {}: {source}", path.display())]
    RunDir {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program cannot run from memory.
    #[error("running from a sealed memory file: {0} (is vm.memfd_noexec 2?)")]
    Image(io::Error),
    /// Signals, or the duty of a subreaper.
    #[error("setting up the process: {0}")]
    Setup(io::Error),
    /// The keeper cannot be forked.
    #[error("starting the keeper: {0}")]
    Keeper(io::Error),
    /// Talking to a keeper that runs.
    #[error(transparent)]
    Client(#[from] keeper::ClientError),
    /// The keeper that was taken over died, and nobody takes its place.
    #[error("the keeper died and had no spare: containers may still run, their exits will be unknown")]
    KeeperLost,
    /// `moored init` in a pid namespace whose own processes it cannot see.
    #[error("/proc is that of another pid namespace: mount one of this namespace there (`unshare -pf --mount-proc`)")]
    ForeignProc,
    /// An argument that cannot be passed on.
    #[error("an argument holds a NUL byte")]
    Argument,
}

/// Runs until all is stopped; the code is the one for the shell: 0 after an ordered stop. Call it first in `main`, before
/// any thread: it executes the program again with the same arguments.
pub fn run(options: &Options, spawner: &mut dyn Spawner) -> Result<u8, AnchorError> {
    let base = Base::capture();
    let signals = keeper::signals(&waited_for()).map_err(AnchorError::Setup)?;
    signal::ignore(&IGNORED).map_err(AnchorError::Setup)?;
    fd::cloexec_from(3).map_err(AnchorError::Setup)?;
    let image = sealed_image().map_err(AnchorError::Image)?;
    become_anchor().map_err(AnchorError::Setup)?;
    let (keeper_argv, supervisor_argv) = (c_strings(&options.keeper)?, c_strings(&options.supervisor)?);
    let (listener, control) = match claim(&options.run_dir)? {
        Place::Free { listener, control } => {
            let run_dir = &options.run_dir;
            let keeper = keeper::start(image.as_fd(), listener.as_fd(), run_dir, &keeper_argv, &supervisor_argv)
                .map_err(AnchorError::Keeper)?;
            (Some(listener), Control::new(control, Some(keeper)))
        }
        Place::Kept { control } => {
            // The supervisor that runs has said so to whoever waited for the anchor before.
            let _ = service_manager::notify(service_manager::READY);
            (None, Control::new(control, None))
        }
    };
    control.say(&Request::Build { build: keeper::build(), resumed: false });
    // What reading the command line took.
    stack::trim();
    heap::trim();
    let (run_dir, stage) = (options.run_dir.clone(), keeper::open_stage(&options.run_dir).ok());
    let earlier = Vec::new();
    let (waited_for, is_init) = (waited_for(), false);
    Anchor {
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
        is_init,
    }
    .run(spawner, &mut ())
}

/// An anchor that has its keeper.
struct Anchor {
    run_dir: PathBuf,
    keeper_argv: Vec<CString>,
    supervisor_argv: Vec<CString>,
    /// The keeper's, for when it dies; none of a keeper that somebody else started.
    listener: Option<OwnedFd>,
    /// The pipe of the logs, kept open.
    stage: Option<OwnedFd>,
    image: OwnedFd,
    signals: SignalFd,
    /// The same, by number.
    waited_for: Vec<i32>,
    base: Base,
    control: Control,
    /// Other programs that may be a supervisor's: device and inode.
    earlier: Vec<(u64, u64)>,
    /// Process 1: the keeper is its child, whoever started it.
    is_init: bool,
}

impl Anchor {
    /// Waits for the keeper's end, and takes its place if it died.
    fn run(mut self, spawner: &mut dyn Spawner, duty: &mut dyn Duty) -> Result<u8, AnchorError> {
        loop {
            match self.control.run(&self.signals, duty) {
                End::Done(code) => return Ok(code),
                End::Replace => self.replace(duty),
                End::KeeperDied => break,
                // Only process 1 is in a hurry.
                End::Late => return Ok(1),
            }
        }
        self.take_place(spawner, duty)
    }

    /// In the keeper's place, to the end.
    fn take_place(self, spawner: &mut dyn Spawner, duty: &mut dyn Duty) -> Result<u8, AnchorError> {
        let Anchor { run_dir, supervisor_argv, listener, stage, image, signals, waited_for, base, .. } = self;
        let (control, earlier, is_init) = (self.control, self.earlier, self.is_init);
        let Control { stopping, spares, .. } = control;
        let listener = match listener {
            Some(listener) => listener,
            None if is_init => free(claim(&run_dir)?)?,
            None => return Err(AnchorError::KeeperLost),
        };
        let command = Command::new(supervisor_argv);
        let parts = Parts { run_dir, listener, stage, image, signals, waited_for, base, command };
        let keeper = Keeper::adopting(parts, spawner, stopping, &earlier, spares);
        Ok(if is_init { keeper.with_duty(duty) } else { keeper }.run())
    }
}

/// The listening socket of a place that must be free.
fn free(place: Place) -> Result<OwnedFd, AnchorError> {
    match place {
        Place::Free { listener, .. } => Ok(listener),
        Place::Kept { .. } => Err(AnchorError::KeeperLost),
    }
}

/// A hang-up that `nohup` had ignored stays ignored.
fn waited_for() -> Vec<i32> {
    let stopping = STOPPING.into_iter().filter(|signal| *signal != SIGHUP || !signal::is_ignored(SIGHUP));
    stopping.chain([SIGCHLD]).collect()
}

/// Our own program, sealed. The first time it does not return but begins again from the sealed copy; the signals stay
/// blocked and pending over that.
fn sealed_image() -> io::Result<OwnedFd> {
    let (program, sealed) = image::own()?;
    if sealed {
        return Ok(program);
    }
    let copy = image::sealed_copy(program.as_fd(), c"moored")?;
    let argv: Vec<CString> = std::env::args_os().filter_map(|arg| CString::new(arg.into_vec()).ok()).collect();
    let mut environment = keeper::environment();
    if std::env::var_os(heap::TUNABLES_NAME).is_none() {
        environment.push(heap::TUNABLES.to_owned());
    }
    // Where a later version is looked for; whatever it was set to is of another `up`.
    let is_program =
        |entry: &CString| entry.to_bytes().split(|byte| *byte == b'=').next() == Some(keeper::PROGRAM.as_bytes());
    environment.retain(|entry| !is_program(entry));
    if let Ok(path) = std::env::current_exe() {
        let entry = [keeper::PROGRAM.as_bytes(), b"=", path.as_os_str().as_bytes()].concat();
        environment.extend(CString::new(entry));
    }
    let never: Infallible = image::execute(copy.as_fd(), &argv, &environment)?;
    match never {}
}

fn become_anchor() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Executed by descriptor it would be called by the descriptor's number.
    rustix::thread::set_name(c"moored")?;
    Ok(())
}

fn c_strings(arguments: &[OsString]) -> Result<Vec<CString>, AnchorError> {
    let one = |argument: &OsString| CString::new(argument.clone().into_vec()).map_err(|_| AnchorError::Argument);
    arguments.iter().map(one).collect()
}

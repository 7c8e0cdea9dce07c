//! The parent of every container: wire format, the keeper's loop, the client side.
//!
//! One process, one thread, no decisions. It forks what the supervisor describes, keeps what a crash of the supervisor
//! must not lose (exit codes, descriptors, tags), and starts the supervisor again when it dies. The same `Keeper` runs
//! in the anchor once the keeper itself has died; only its start differs (`adopting`).
//!
//! # What a container can be, seen from here
//!
//! | state | how it is entered | what ends it |
//! |---|---|---|
//! | running | `Spawn` worked, or `Adopt` of a living child | its exit |
//! | failed | `Spawn` found no way to fork | `Ack` |
//! | exited | the kernel says so | `Ack` |
//!
//! Until `Ack` the child stays a zombie: the kernel's own record of the exit. So a keeper killed between an exit and its
//! `Ack` loses nothing (the zombie goes to the anchor with its code), no pid or id of a record can be used twice, and the
//! pid of a record needs no pidfd to be unambiguous. `Ack` reaps, closes the held descriptors and forgets the id.
//! `Spawn` or `Adopt` for an id that is not forgotten is refused with EEXIST.
//!
//! # Order
//!
//! | request | in this order | killed in between |
//! |---|---|---|
//! | `Spawn` | fork, record, told | the child dies while it sets itself up, or is an orphan that is known by its cgroup |
//! | an exit | recorded, told; the zombie stays | the zombie goes to the anchor with its code |
//! | `Ack` | record away, reaped, descriptors closed | as above: an exit that is heard again makes no second record |
//! | `Adopt` | checked, orphan away, record, told | an orphan again |
//! | the keeper's death | the anchor opens every FIFO (it has the terminals: `spares`), then looks for children | a FIFO has its container, or a supervisor, as a holder |
//! | `AdoptionDone` | FIFOs and terminals are let go of, orphans may be reaped | the supervisor's own are here since `Adopt` |
//! | `Release`, `SetTag`, `Hold` | done at once, in memory | who holds the same says it again to the next keeper |
//!
//! # Rules
//!
//! - **Nothing is queued.** What the supervisor is to be told is one bit per container, held name, orphan and fact. A
//!   supervisor that does not read costs nothing and blocks nobody; one that does gets the newest state. So an exit may
//!   be the first it hears of a container.
//! - **Connecting says everything again.** After `Hello` come `Welcome`, every container with its tag and descriptors,
//!   every held name and orphan, then `Synced`. A new supervisor, and an old one at a new keeper, go the same way.
//! - **The supervisor is the child the keeper started**, by `SO_PEERCRED` against the pid of a child not yet reaped.
//!   When it dies its last requests are executed first, then it is reaped, then the next one is started.
//! - **An ordered stop is a state, not a signal.** TERM, Ctrl-C and hang-up set `stopping` in the anchor and in the
//!   keeper; whoever is or becomes the supervisor is told (`Stop`, or `Welcome.stats.stopping`), as often as it asks and
//!   with one meaning. A supervisor killed in the middle of the stop is therefore started again to finish it: without
//!   that, one crash would leave a half-stopped host and a `moored up` that never returns. The supervisor itself
//!   inherits TERM, INT, HUP and QUIT ignored, so a signal to the whole group is still one stop.
//! - **What containers say is read here** (`notify`), so that nobody who says something ever waits for a supervisor.
//! - **Reaping waits for adoption.** A keeper that took over tells the supervisor its unknown children as orphans and
//!   reaps none before `AdoptionDone`. Until then it holds their FIFOs (`takeover`).
//! - **Its program can be replaced under it** ([`upgrade`](self::upgrade())): whatever is added to its state must be in `state` too.
//! - Everything is bounded by the constants below; a message beyond them ends its connection, a request beyond them is
//!   refused by name.

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

mod boot;
mod check;
mod child;
mod client;
mod duty;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod link;
mod notify;
mod operator;
mod orphans;
mod packet;
pub(crate) mod process1;
mod run;
mod serve;
pub(crate) mod spares;
mod spawner;
mod stage;
pub(crate) mod state;
mod supervisor;
mod takeover;
mod tell;
mod upgrade;
pub mod wire;

pub use boot::main;
pub(crate) use boot::{NOT_RESUMED, environment, resume, start};
pub use check::{COMMAND as CHECK_COMMAND, check};
pub(crate) use check::{Check, Checked, again as check_again};
pub use client::{Child, ClientError, Connection, Event, Events, Full, Requests, Spawn, connect, observe};
pub(crate) use client::{hello, next_message, next_message_with, send_request};
pub(crate) use duty::Duty;
pub use operator::{Upgraded, builds, upgrade};
pub(crate) use run::{Keeper, Parts, now_ns, signals};
pub use spawner::ScriptSpawner;
pub(crate) use stage::open_stage;
pub(crate) use supervisor::{Command, outlive};
pub use wire::{Builds, ChildState, Exit, Kind, Line, Orphan, Refusal, Stats};

use std::os::fd::AsFd;

use crate::sys::{elf, image, signal};

/// The protocol's version; keeper and supervisor must be of the same.
pub const VERSION: u16 = 4;
/// The socket's name in the run-dir.
pub const SOCKET_NAME: &str = "keeper.sock";
/// Longest message, in bytes: a tag, an id and the rest with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 8192;
/// Most descriptors in one message (the kernel allows 253): a start with two for each cgroup v1 hierarchy and all sockets that a unit may have.
pub const MESSAGE_FDS_MAX: usize = 72;
/// Longest id of a container or exec, or name of something held, in bytes.
pub const ID_BYTES_MAX: usize = 256;
/// Longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 4096;
/// Longest error text and cgroup path, in bytes; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 512;
/// Most descriptors held for one container.
pub const CHILD_HELD_MAX: usize = 8;
/// Which of the descriptors held for a container is its notify socket, which the keeper reads; there may be none.
pub const HELD_NOTIFY: usize = 3;
/// Which of them is the socket with the master of its terminal, which the anchor holds too; there may be none.
pub const HELD_TERMINAL: usize = 4;
/// Longest payload, in bytes: a script with a large seccomp filter is some 100 KiB.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// Most containers and execs known at a time.
pub const CHILDREN_MAX: usize = 16_384;
/// Most connections at a time: supervisor, anchor, and who asks for figures.
const CONNECTIONS_MAX: usize = 16;
/// What must stop neither anchor, keeper nor supervisor: writing to a pipe or a terminal that is gone or not ours, and
/// what only kills by default.
pub(crate) const IGNORED: [i32; 6] =
    [signal::SIGPIPE, signal::SIGTSTP, signal::SIGTTIN, signal::SIGTTOU, signal::SIGUSR1, signal::SIGUSR2];
/// What means an ordered stop to the anchor, and nothing to the supervisor.
pub(crate) const STOPPING: [i32; 4] = [signal::SIGTERM, signal::SIGINT, signal::SIGHUP, signal::SIGQUIT];
/// The directories of the containers in the run-dir, by id.
pub const CONTAINERS_DIR: &str = "c";
/// The FIFOs in each of them: standard output and standard error.
pub const FIFOS: [&str; 2] = ["out", "err"];
/// Most descriptors held by name.
pub const HELD_MAX: usize = 1024;

/// The environment variable with the path that `moored up` was started from.
pub(crate) const PROGRAM: &str = "MOORED_PROGRAM";
/// So many digits of its number tell a build from others.
const BUILD_DIGITS: usize = 12;

/// Which moored this program is: its version, and its build's number if the linker gave it one.
pub fn build() -> String {
    let id = image::own().ok().and_then(|(program, _)| elf::build_id(program.as_fd()));
    let id = id.as_deref().and_then(|id| id.get(..BUILD_DIGITS).or(Some(id)));
    id.map_or_else(|| env!("CARGO_PKG_VERSION").to_owned(), |id| format!("{} ({id})", env!("CARGO_PKG_VERSION")))
}

/// What forks. The real one runs a script; the keeper does not look into payloads.
pub trait Spawner {
    /// Forks one child of this process and returns its pid without waiting for its exec. In the child, `base` is to be
    /// restored before the payload's program runs. `payload` is sealed; `slots` are closed in the keeper afterwards.
    fn spawn(
        &mut self,
        kind: Kind,
        payload: &[u8],
        slots: Vec<std::os::fd::OwnedFd>,
        base: &crate::sys::base::Base,
    ) -> Result<i32, SpawnError>;
}

/// Why nothing was forked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}: {}", std::io::Error::from_raw_os_error(*errno))]
pub struct SpawnError {
    /// The system's error number.
    pub errno: i32,
    /// Which step failed.
    pub text: String,
}

//! What process 1 hands to its next program, beside the state of the anchor or the keeper that it is ([`super::state`]).
//!
//! It is a state of its own kind: a program that does not know it would go on as an anchor that may end, and refuses it in the dry run. All that
//! can be wrong with it is found there: what is left to fail in the execution itself are descriptors.

use serde::{Deserialize, Serialize};

use super::state::{AnchorState, Bytes, KeeperState, Of};
use crate::sys::base::BaseRecord;

/// Which of the two kinds of work a process does.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Seat {
    /// The anchor's.
    Anchor(AnchorState),
    /// The keeper's.
    Keeper(Box<KeeperState>),
}

impl Seat {
    /// The state of a process that may end.
    pub fn of(self) -> Of {
        match self {
            Seat::Anchor(state) => Of::Anchor(state),
            Seat::Keeper(state) => Of::Keeper(state),
        }
    }

    /// The supervisor's whole argv.
    pub fn supervisor_argv(&self) -> &[Bytes] {
        match self {
            Seat::Anchor(state) => &state.supervisor_argv,
            Seat::Keeper(state) => &state.supervisor_argv,
        }
    }
}

/// What process 1 knows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitState {
    /// What it does at the moment.
    pub seat: Seat,
    /// Of a machine; else of a pid namespace.
    pub machine: bool,
    pub run_dir: Bytes,
    pub keeper_argv: Vec<Bytes>,
    pub supervisor_argv: Vec<Bytes>,
    pub base: BaseRecord,
    pub watch: WatchRecord,
    /// Where its messages go, if not to /dev/console.
    #[serde(default)]
    pub console: Option<Bytes>,
    /// A shell was started there.
    #[serde(default)]
    pub shell: bool,
}

/// What it keeps an eye on.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct WatchRecord {
    /// The signal of the order that was given.
    pub order: Option<i32>,
    pub stop_timeout_ns: Option<u64>,
    pub stop_by_ns: Option<u64>,
    pub watchdog: Option<WatchdogRecord>,
    pub clock: Option<Bytes>,
    pub clock_at_ns: u64,
}

/// The hardware's watchdog: closed, it would reset the machine or be switched off.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WatchdogRecord {
    pub fd: i32,
    pub every_ns: u64,
    pub next_ns: Option<u64>,
    #[serde(default)]
    pub seen: (Option<i32>, u32),
    pub well_ns: u64,
}

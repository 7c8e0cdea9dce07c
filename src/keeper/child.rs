//! What the keeper knows of its children, and what of it the supervisor has not been told.

use std::os::fd::OwnedFd;

use super::notify::Said;
use super::wire::{ChildState, Exit, Kind, Orphan};
use crate::sys::wait::Ended;

/// How much of something is still to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Untold {
    /// Nothing.
    Nothing,
    /// The state.
    State,
    /// Tag and descriptors too.
    All,
}

/// One container or exec until it is acknowledged.
#[derive(Debug)]
pub(super) struct Child {
    pub id: String,
    pub kind: Kind,
    pub pid: i32,
    pub state: ChildState,
    pub tag: Vec<u8>,
    pub held: Vec<Option<OwnedFd>>,
    pub untold: Untold,
    /// Over its notify socket.
    pub said: Said,
    /// It has a terminal, and the anchor is to be told ([`super::spares`]).
    pub spare_untold: bool,
}

impl Child {
    /// The state is not final and the kernel may know a later one.
    pub fn is_running(&self) -> bool {
        self.state == ChildState::Running
    }

    /// Notes the exit.
    pub fn exited(&mut self, ended: Ended, at_ns: u64) {
        self.state = ChildState::Exited { exit: exit(ended), at_ns };
        self.untold = self.untold.max(Untold::State);
    }
}

/// One descriptor held by name.
#[derive(Debug)]
pub(super) struct Named {
    pub name: String,
    pub fd: OwnedFd,
    pub untold: bool,
}

/// One child of a dead keeper that nobody has adopted.
#[derive(Debug)]
pub(super) struct Unadopted {
    pub orphan: Orphan,
    pub untold: bool,
}

/// The wire's word for what waitid(2) said.
pub(super) fn exit(ended: Ended) -> Exit {
    // Both are below 256 by the kernel's encoding of the status.
    let status = u8::try_from(ended.status).unwrap_or(u8::MAX);
    match ended.code {
        libc::CLD_EXITED => Exit::Code(status),
        code => Exit::Signal { signal: status, core: code == libc::CLD_DUMPED },
    }
}

//! A script and its slots on the way to the keeper, and the keeper's side of it.
//!
//! The header ([`SlotMap`] and [`Script`], postcard) travels in a sealed memfd, the descriptors beside it.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::{Deserialize, Serialize};

use super::{SlotMap, Slots};
use crate::keeper::{Kind, SpawnError, Spawner};
use crate::oci::Script;
use crate::sys::base::Base;

/// What the keeper is to run, ready to be sent.
pub struct Payload {
    memfd: OwnedFd,
    slots: Vec<OwnedFd>,
}

/// Why it could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The script does not serialise.
    #[error("encoding the script: {0}")]
    Encode(#[from] postcard::Error),
    /// No memory file.
    #[error("writing the script to memory: {0}")]
    Memfd(#[from] std::io::Error),
}

#[derive(Serialize)]
struct Header<'a> {
    slots: &'a SlotMap,
    script: &'a Script,
}

#[derive(Deserialize)]
struct Received {
    slots: SlotMap,
    script: Script,
}

impl Payload {
    /// For a container, or a process that joins one: the kind is said to the keeper beside it.
    pub fn new(script: &Script, slots: Slots) -> Result<Payload, PayloadError> {
        let (map, fds) = slots.into_parts();
        let bytes = postcard::to_stdvec(&Header { slots: &map, script })?;
        let memfd = memfd_create("moored-script", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(std::io::Error::from)?;
        let mut file = std::fs::File::from(memfd);
        file.write_all(&bytes)?;
        let memfd = OwnedFd::from(file);
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memfd, seals).map_err(std::io::Error::from)?;
        Ok(Payload { memfd, slots: fds })
    }

    /// Sealed against writing, growing and shrinking.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// In the order that the header announces.
    pub fn slots(&self) -> Vec<BorrowedFd<'_>> {
        self.slots.iter().map(AsFd::as_fd).collect()
    }
}

/// Runs scripts for the keeper.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeeperSpawner;

impl Spawner for KeeperSpawner {
    fn spawn(&mut self, kind: Kind, payload: &[u8], slots: Vec<OwnedFd>, base: &Base) -> Result<i32, SpawnError> {
        let malformed = |text: String| SpawnError { errno: libc::EPROTO, text };
        let received: Received =
            postcard::from_bytes(payload).map_err(|error| malformed(format!("the script does not decode: {error}")))?;
        let slots = Slots::from_parts(received.slots, slots).map_err(|error| malformed(error.to_string()))?;
        let spawned = match kind {
            // What cannot be restored fails later by itself, or does not matter.
            Kind::Container => super::spawn(&received.script, slots, || drop(base.restore())),
            Kind::Exec => Err(super::SpawnError(std::io::ErrorKind::Unsupported.into())),
        };
        let spawned = spawned
            .map_err(|error| SpawnError { errno: error.0.raw_os_error().unwrap_or(0), text: "clone".to_owned() })?;
        Ok(i32::try_from(spawned.pid.0).unwrap_or(0))
    }
}

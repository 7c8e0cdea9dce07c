//! A script and its slots on the way from the process that compiles to the one that forks.
//!
//! The header ([`SlotMap`] and [`Script`], postcard) travels in a sealed memfd, the descriptors beside it.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::{Deserialize, Serialize};

use super::{SlotMap, SlotMismatch, Slots};
use crate::oci::Script;

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

/// What came is not what was sent.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not a header.
    #[error("the script does not decode: {0}")]
    Script(#[from] postcard::Error),
    /// Other descriptors than announced.
    #[error(transparent)]
    Slots(#[from] SlotMismatch),
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

/// The reverse of [`Payload::new`], from the memfd's bytes and the descriptors that came beside it.
pub fn decode(payload: &[u8], slots: Vec<OwnedFd>) -> Result<(Script, Slots), DecodeError> {
    let received: Received = postcard::from_bytes(payload)?;
    Ok((received.script, Slots::from_parts(received.slots, slots)?))
}

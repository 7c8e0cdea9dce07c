//! What the keeper forks with: the payload is a script and its slots.

use std::os::fd::OwnedFd;

use super::{Kind, SpawnError, Spawner};
use crate::runtime;
use crate::sys::base::Base;

/// Runs scripts.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScriptSpawner;

impl Spawner for ScriptSpawner {
    fn spawn(&mut self, kind: Kind, payload: &[u8], slots: Vec<OwnedFd>, base: &Base) -> Result<i32, SpawnError> {
        let (script, slots) = runtime::decode(payload, slots)
            .map_err(|error| SpawnError { errno: libc::EPROTO, text: error.to_string() })?;
        // What cannot be restored fails later by itself, or does not matter.
        let restore = || drop(base.restore());
        let spawned = match kind {
            Kind::Container => runtime::spawn_with_hooks(&script, slots, restore).map_err(|error| SpawnError {
                errno: error.errno(),
                text: match error {
                    runtime::SpawnError::Clone(_) => "clone".to_owned(),
                    other => other.to_string(),
                },
            }),
            // One that joins no container: on the host, or in a container of its own.
            Kind::Exec if slots.container.is_none() => runtime::spawn_into_killed(&script, slots, restore)
                .map_err(|error| SpawnError { errno: error.errno(), text: error.to_string() }),
            Kind::Exec => runtime::spawn_exec(&script, slots, Some(runtime::KEEPERS_PATIENCE), restore)
                .map_err(|error| SpawnError { errno: error.errno(), text: error.to_string() }),
        }?;
        Ok(i32::try_from(spawned.pid.0).unwrap_or(0))
    }
}

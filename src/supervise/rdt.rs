//! Groups of resctrl that containers of units have for themselves: noted before a start, removed with the cgroup.

use std::fs;
use std::io;
use std::path::Path;

use super::fifo::directory;
use crate::oci::{Rdt, Script};
use crate::runtime::rdt;
use crate::unit::ContainerId;

/// Name in the directory of the container.
const FILE: &str = "rdt";

/// Notes what is to be removed when this container has ended.
pub fn note(containers: &Path, id: &ContainerId, script: &Script) -> Result<(), String> {
    let Some(own) = script.outside.rdt.as_ref().and_then(Rdt::removed) else { return Ok(()) };
    let path = directory(containers, id).join(FILE);
    // The directory is new and nobody reads it yet; RUN does not outlive the host.
    fs::write(&path, own).map_err(|error| format!("write {}: {error}", path.display()))
}

/// Removes what was noted.
pub fn clear(containers: &Path, id: &ContainerId) -> Result<(), String> {
    let path = directory(containers, id).join(FILE);
    let own = match fs::read_to_string(&path) {
        Ok(own) => own,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("read {}: {error}", path.display())),
    };
    match rdt::root() {
        Ok(root) => rdt::remove(&root, Some(&own)).map_err(|error| error.to_string()),
        // Whoever unmounted it removed all groups.
        Err(_) => Ok(()),
    }
}

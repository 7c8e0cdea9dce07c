//! Changing the limits of a container that lives.

use super::directory::{Container, Lock, Record};
use super::{ContainerError, Status};
use crate::oci::CgroupSettings;
use crate::runtime::cgroup::{CgroupError, Host};
use crate::runtime::rdt;

/// A container whose limits are about to change: locked, and alive when it was looked at.
#[derive(Debug)]
pub struct Change {
    container: Container,
    record: Record,
    _lock: Option<Lock>,
}

impl Container {
    /// Begins a change of its limits.
    pub fn change(&self) -> Result<Change, ContainerError> {
        let lock = self.lock()?;
        let record = self.read()?.ok_or(ContainerError::NotRunning)?;
        match self.status(Some(&record)).0 {
            Status::Created | Status::Running | Status::Paused => {
                Ok(Change { container: self.clone(), record, _lock: lock })
            }
            Status::Stopped => Err(ContainerError::NotRunning),
        }
    }
}

impl Change {
    /// What is known of the container.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Other schemata for its group of resctrl; `option` is what they came with.
    pub fn share(&self, option: &'static str, schemata: &[String]) -> Result<(), ContainerError> {
        let rdt = self.record.rdt.as_ref().ok_or(ContainerError::NoRdt { option })?;
        Ok(rdt::update(&rdt::root()?, rdt.directory(), schemata)?)
    }

    /// Writes the limits and keeps `resources`, from which they were compiled. Where the kernel refuses one, those of before are written
    /// again, as far as it takes them.
    pub fn limit(
        mut self,
        before: &CgroupSettings,
        settings: &CgroupSettings,
        resources: serde_json::Value,
    ) -> Result<(), ContainerError> {
        let mut cgroup = self.record.need_cgroup("update")?.ok_or(ContainerError::NotRunning)?;
        let host = Host::detect()?;
        // On record before they are made, so that no death in between leaves a directory that nobody removes.
        let place = cgroup.location_with(&host, settings);
        if place != self.record.cgroup {
            self.record.cgroup = place;
            self.container.write(&self.record)?;
        }
        let limited = cgroup.make_place(&host, settings).and_then(|()| cgroup.update(settings));
        if let Err(error) = limited {
            // What stands in the config alone is seen before anything is written; a file that is missing is not.
            let was_written = matches!(
                error,
                CgroupError::Limit { .. }
                    | CgroupError::Call { .. }
                    | CgroupError::NoFile { .. }
                    | CgroupError::NotHandedDown { .. }
            );
            // The first error is the one that matters.
            let _ = if was_written { cgroup.update(before) } else { Ok(()) };
            return Err(error.into());
        }
        self.record.resources = Some(resources);
        self.container.write(&self.record)
    }
}

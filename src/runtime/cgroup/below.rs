//! Cgroups below a container's own, for a process that joins it (`exec --cgroup`).

use rustix::fs::OFlags;

use super::container::{ContainerCgroup, open_beneath};
use super::legacy::open;
use super::{CgroupError, failed};
use crate::runtime::slots::Slots;

/// Which, below the container's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below {
    /// In every hierarchy.
    pub all: Option<String>,
    /// By controllers of cgroup v1.
    pub of: Vec<(String, String)>,
}

impl Below {
    fn in_hierarchy(&self, name: &str) -> Option<&str> {
        let has = |controller: &str| name.split(',').any(|one| one == controller);
        let own = self.of.iter().find(|(controller, _)| has(controller)).map(|(_, path)| path.as_str());
        own.or(self.all.as_deref())
    }
}

impl ContainerCgroup {
    /// As [`ContainerCgroup::fill`], with the cgroups below, all of which must be there.
    ///
    /// On a host with v1, where v2 has no limits, the process stays in the container's own v2 cgroup, by which it is known, unless there is one of that
    /// name.
    pub fn fill_below(&self, below: &Below, slots: &mut Slots) -> Result<(), CgroupError> {
        self.fill(slots)?;
        for hierarchy in &mut slots.hierarchies {
            let Some(path) = below.in_hierarchy(&hierarchy.name) else { continue };
            let place = || format!("{}: {}/{path}", hierarchy.name, hierarchy.path);
            let path = path.trim_start_matches('/');
            let directory = open_beneath(&hierarchy.directory, path).map_err(failed("open", place()))?;
            hierarchy.tasks = open(&directory, "tasks", OFlags::WRONLY).map_err(failed("open", place()))?;
            hierarchy.directory = directory;
        }
        let has = |controller: &str| {
            slots.hierarchies.iter().any(|hierarchy| hierarchy.name.split(',').any(|one| one == controller))
        };
        if let Some((controller, _)) = below.of.iter().find(|(controller, _)| !has(controller)) {
            return Err(CgroupError::NotThere { controller: controller.clone() });
        }
        let Some(path) = &below.all else { return Ok(()) };
        let found = slots.cgroup.as_ref().map(|own| open_beneath(own, path.trim_start_matches('/')));
        match found {
            Some(Ok(directory)) => slots.cgroup = Some(directory),
            Some(Err(errno)) if slots.hierarchies.is_empty() => {
                return Err(failed("open", format!("{}/{path}", self.location.unified))(errno));
            }
            Some(Err(_)) | None => {}
        }
        Ok(())
    }
}

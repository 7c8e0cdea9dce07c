//! The directory all containers of one supervisor live below, and the places `moored oci` uses.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, XattrFlags, fgetxattr, fsetxattr, unlinkat};
use rustix::io::Errno;

use super::container::{ContainerCgroup, children, needs_devices, open_beneath};
use super::host::{Host, Layout};
use super::{CgroupError, Location, failed, legacy, unified};
use crate::oci::CgroupSettings;
use crate::runtime::slots::Slots;

/// Extended attribute of the root directory that names its owner's run-dir.
const OWNER: &str = "user.moored.run-dir";
/// Extended attribute of a root directory that was not there before; [`CgroupRoot::remove`] takes no other.
const MADE: &str = "user.moored.made";
/// The longest run-dir that is recorded.
const MAX_OWNER: usize = 4096;
/// Where our own processes go when the root is the subtree that was delegated to us: a cgroup that has children with
/// controllers must have no processes.
const LEAF: &str = "supervisor";

/// The root of one supervisor's containers.
#[derive(Debug)]
pub struct CgroupRoot {
    host: Host,
    path: String,
}

impl CgroupRoot {
    /// Opens or makes `path`, absolute in every hierarchy, and records `owner` there. Fails if another owner is recorded.
    pub fn open(path: &str, owner: &str) -> Result<CgroupRoot, CgroupError> {
        let path = checked(path)?;
        let host = Host::detect()?;
        let is_new = open_beneath(&host.unified, path.trim_start_matches('/')).is_err();
        let directory = match host.layout {
            Layout::Unified => unified::make_usual(&host.unified, &path)?,
            Layout::Legacy => unified::make_bare(&host.unified, &path)?,
        };
        let mut recorded = vec![0u8; MAX_OWNER];
        match fgetxattr(&directory, OWNER, &mut recorded) {
            Ok(length) => {
                let found = String::from_utf8_lossy(recorded.get(..length).unwrap_or_default()).into_owned();
                if found != owner {
                    return Err(CgroupError::Foreign { path, owner: found });
                }
            }
            Err(Errno::NODATA) => {
                fsetxattr(&directory, OWNER, owner.as_bytes(), XattrFlags::CREATE)
                    .map_err(failed("record the owner of", &path))?;
                if is_new {
                    // Without it the directory stays, which is no harm.
                    let _ = fsetxattr(&directory, MADE, b"1", XattrFlags::CREATE);
                }
            }
            // A kernel without attributes on cgroups (before 5.7) records none.
            Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(failed("read the owner of", &path)(errno)),
        }
        if host.layout == Layout::Unified {
            if host.own == path {
                make_room(&directory)?;
            }
            unified::hand_down_usual(&directory);
        }
        Ok(CgroupRoot { host, path })
    }

    /// The subtree that systemd delegated to this process, if any: where its own cgroup says so.
    pub fn delegated() -> Option<String> {
        let host = Host::detect().ok()?;
        let own = open_beneath(&host.unified, host.own.trim_start_matches('/')).ok()?;
        let mut value = [0u8; 8];
        let marked = ["user.delegate", "trusted.delegate"]
            .iter()
            .any(|name| fgetxattr(&own, *name, &mut value).is_ok_and(|length| value.get(..length) == Some(b"1")));
        (marked && host.own != "/").then_some(host.own)
    }

    /// Makes what the process of one container can be born in.
    pub fn begin(&self, id: &str, settings: &CgroupSettings) -> Result<ContainerCgroup, CgroupError> {
        ContainerCgroup::begin(&self.host, checked(&format!("{}/{id}", self.path))?, settings)
    }

    /// Fills the slots of that process: see [`ContainerCgroup::fill_first`].
    pub fn fill_first(
        &self,
        cgroup: &mut ContainerCgroup,
        settings: &CgroupSettings,
        alone: bool,
        slots: &mut Slots,
    ) -> Result<Option<OwnedFd>, CgroupError> {
        cgroup.fill_first(&self.host, &self.needed(cgroup, settings), settings, alone, slots)
    }

    /// Makes the rest.
    pub fn finish(&self, cgroup: &mut ContainerCgroup, settings: &CgroupSettings) -> Result<(), CgroupError> {
        cgroup.finish(&self.host, &self.needed(cgroup, settings), settings)
    }

    fn needed(&self, cgroup: &ContainerCgroup, settings: &CgroupSettings) -> Vec<(String, String)> {
        let place = |name| (name, cgroup.location.unified.clone());
        needed(&self.host, settings).into_iter().map(place).collect()
    }

    /// Opens the cgroups of a container that is there. `Ok(None)` when it is gone.
    pub fn find(&self, id: &str) -> Result<Option<ContainerCgroup>, CgroupError> {
        let path = checked(&format!("{}/{id}", self.path))?;
        let here = |name: &String| {
            Host::open_legacy(name).and_then(|top| open_beneath(&top, path.trim_start_matches('/'))).is_ok()
        };
        let legacy = match self.host.layout {
            Layout::Unified => Vec::new(),
            Layout::Legacy => {
                self.host.legacy.iter().map(|(name, _)| name).filter(|name| here(name)).cloned().collect()
            }
        };
        let legacy = legacy.into_iter().map(|name| (name, path.clone())).collect();
        ContainerCgroup::open(&self.host, &Location { unified: path, legacy })
    }

    /// Changes memory, CPU time and tasks of a container that runs; what `settings` leave alone is not limited any more.
    ///
    /// On v1 a limit may need a hierarchy that the container is not in: it gets a directory there, and its processes are moved. Memory in
    /// use stays charged where it was.
    ///
    /// A memory limit below what the container cannot give back is refused, and none of the others is written.
    pub fn limit(&self, cgroup: &mut ContainerCgroup, settings: &CgroupSettings) -> Result<(), CgroupError> {
        cgroup.make_place(&self.host, settings)?;
        cgroup.update(&settings.clone().lifting_the_rest())
    }

    /// Ids of the containers that have a cgroup here.
    pub fn list(&self) -> Result<Vec<String>, CgroupError> {
        let directory =
            open_beneath(&self.host.unified, self.path.trim_start_matches('/')).map_err(failed("open", &self.path))?;
        let names = children(&directory).map_err(failed("list", &self.path))?;
        Ok(names.into_iter().filter(|name| name != LEAF).collect())
    }

    /// Removes the root's directories where [`CgroupRoot::open`] made them and nothing is in them any more.
    pub fn remove(&self) {
        let path = self.path.trim_start_matches('/');
        let is_made = |root: &OwnedFd| fgetxattr(root, MADE, &mut [0u8; 1][..]).is_ok();
        let made = open_beneath(&self.host.unified, path).is_ok_and(|root| is_made(&root));
        if made && unlinkat(&self.host.unified, path, AtFlags::REMOVEDIR).is_ok() {
            for top in self.host.legacy.iter().filter_map(|(name, _)| Host::open_legacy(name).ok()) {
                // Most have none, and one that is in use stays.
                let _ = unlinkat(&top, path, AtFlags::REMOVEDIR);
            }
        }
    }

    /// The root's path in its hierarchies.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl ContainerCgroup {
    /// Where the cgroups of a container of `moored oci` are to be: the places runc would use.
    ///
    /// `path` is `linux.cgroupsPath`: absolute from the root of each hierarchy, relative from where this process is; with
    /// it a directory is made in every hierarchy, since whoever names it looks for figures there. Without it only those
    /// hierarchies get one that a limit needs.
    pub fn plan(host: &Host, path: Option<&str>, id: &str, settings: &CgroupSettings) -> Result<Location, CgroupError> {
        let wanted = path.unwrap_or(id);
        let place = |own: &str| match wanted.starts_with('/') {
            true => checked(wanted),
            false => checked(&format!("{own}/{wanted}")),
        };
        // A cgroup that holds this process can hand down no controller, so v2 begins at its parent (as runc does).
        let own = match host.layout {
            Layout::Unified => host.own.rsplit_once('/').map_or("", |(parent, _)| parent),
            Layout::Legacy => host.own.as_str(),
        };
        let names = if path.is_some() {
            host.legacy.iter().map(|(name, _)| name.clone()).collect()
        } else {
            needed(host, settings)
        };
        let mut legacy = Vec::new();
        for name in names {
            let own = host.legacy.iter().find(|(known, _)| *known == name).map_or("/", |(_, own)| own.as_str());
            legacy.push((name, place(own)?));
        }
        Ok(Location { unified: place(own)?, legacy })
    }

    /// Gets this container a directory in every v1 hierarchy that these limits need, with its processes in it, and refuses a memory limit
    /// below what they hold: see [`CgroupRoot::limit`].
    pub fn make_place(&mut self, host: &Host, settings: &CgroupSettings) -> Result<(), CgroupError> {
        if let Some(limit_bytes) = settings.memory.limit.and_then(|limit| u64::try_from(limit).ok()) {
            let (held_bytes, used_bytes) = (self.held_memory_bytes(), self.figures().memory_bytes.unwrap_or(0));
            if held_bytes > limit_bytes {
                return Err(CgroupError::InUse { limit_bytes, held_bytes, used_bytes });
            }
        }
        for (name, path) in self.location_with(host, settings).legacy {
            if !self.location.legacy.iter().any(|(known, _)| *known == name) {
                self.enter(name, path)?;
            }
        }
        Ok(())
    }

    /// Where its cgroups are when [`ContainerCgroup::make_place`] is done.
    pub fn location_with(&self, host: &Host, settings: &CgroupSettings) -> Location {
        let mut location = self.location.clone();
        let missing = needed(host, settings).into_iter();
        let missing = missing.filter(|name| !self.location.legacy.iter().any(|(known, _)| known == name));
        location.legacy.extend(missing.map(|name| (name, self.location.unified.clone())));
        location
    }

    /// Makes what a process can be born in where it was planned; [`ContainerCgroup::finish`] makes the rest.
    pub fn create(host: &Host, location: &Location, settings: &CgroupSettings) -> Result<ContainerCgroup, CgroupError> {
        ContainerCgroup::begin(host, location.unified.clone(), settings)
    }
}

/// The v1 hierarchies that these limits need.
fn needed(host: &Host, settings: &CgroupSettings) -> Vec<String> {
    if host.layout == Layout::Unified {
        return Vec::new();
    }
    let mut controllers: Vec<_> = settings.legacy_writes().into_iter().map(|limit| limit.controller).collect();
    if needs_devices(settings) {
        controllers.push("devices".into());
    }
    let names = host.legacy.iter().map(|(name, _)| name);
    names
        .filter(|name| name.split(',').any(|controller| controllers.iter().any(|needed| needed == controller)))
        .cloned()
        .collect()
}

/// Moves this subtree's own processes to a leaf.
fn make_room(directory: &OwnedFd) -> Result<(), CgroupError> {
    let leaf = unified::make_bare(directory, LEAF)?;
    let pids = legacy::read(directory, "cgroup.procs").map_err(failed("read", "cgroup.procs"))?;
    for pid in pids.lines() {
        match legacy::write(&leaf, "cgroup.procs", pid) {
            // It ended.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(failed("move into", LEAF)(errno)),
        }
    }
    Ok(())
}

/// An absolute path below the root of a hierarchy, cleaned; nothing may leave it, on the way either, or be the root itself.
fn checked(path: &str) -> Result<String, CgroupError> {
    let bad = || CgroupError::BadPath { path: path.to_owned() };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            // Before anything is looked up: no link can lead elsewhere.
            ".." => drop(parts.pop().ok_or_else(bad)?),
            part => parts.push(part),
        }
    }
    if parts.is_empty() || path.contains(['\n', '\0']) {
        return Err(bad());
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_paths_stay_below_their_hierarchy() {
        assert_eq!(checked("/a//b/./c").expect("fine"), "/a/b/c");
        assert_eq!(checked("/a/x/../b/").expect("it leaves nothing"), "/a/b");
        for bad in ["/", "", "..", "/a/../../b", "/../a", "a/..", "/a\nb", "."] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
    }
}

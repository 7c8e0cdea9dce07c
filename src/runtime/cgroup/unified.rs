//! cgroup v2: the directory every container has, and its limits where v2 has the controllers.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, mkdirat};
use rustix::io::Errno;

use super::legacy::{open, read, write};
use super::{CgroupError, failed};
use crate::oci::CgroupSettings;

/// Controllers that limits are set through.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Makes the directory, parents too; with `controllers`, hands down on the way those that are offered.
pub(super) fn make(root: &OwnedFd, path: &str, controllers: bool) -> Result<OwnedFd, CgroupError> {
    let mut directory = rustix::io::fcntl_dupfd_cloexec(root, 3).map_err(failed("dup", path))?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if controllers {
            hand_down(&directory);
        }
        match mkdirat(&directory, part, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::ROFS) => return Err(CgroupError::ReadOnly { path: path.to_owned() }),
            Err(errno) => return Err(failed("mkdir", path)(errno)),
        }
        directory = open(&directory, part, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed("open", path))?;
    }
    Ok(directory)
}

/// Enables for the children what this directory has and we use. Where that is refused (processes in it, no delegation),
/// a limit that needs the controller says so by name.
pub(super) fn hand_down(directory: &OwnedFd) {
    let offered = read(directory, "cgroup.controllers").unwrap_or_default();
    let enabled = read(directory, "cgroup.subtree_control").unwrap_or_default();
    for controller in CONTROLLERS {
        let has = |text: &str| text.split_whitespace().any(|word| word == controller);
        if has(&offered) && !has(&enabled) {
            let _ = write(directory, "cgroup.subtree_control", &format!("+{controller}"));
        }
    }
}

/// Whether children have controllers of it, so that it takes no process itself.
pub fn hands_down(directory: &OwnedFd) -> bool {
    read(directory, "cgroup.subtree_control").is_ok_and(|enabled| !enabled.trim().is_empty())
}

/// Writes the limits, and puts the device rules in force.
pub(super) fn apply(directory: &OwnedFd, settings: &CgroupSettings) -> Result<(), CgroupError> {
    apply_limits(directory, settings)?;
    super::device_filter::apply(directory, settings)
}

/// Writes the limits alone.
pub(super) fn apply_limits(directory: &OwnedFd, settings: &CgroupSettings) -> Result<(), CgroupError> {
    for limit in settings.unified_writes() {
        match write(directory, limit.file, &limit.value) {
            Ok(()) => {}
            // "max" is what a container without the controller has anyway.
            Err(Errno::NOENT) if limit.value.starts_with("max") => {}
            // A kernel that does not count swap; there the memory limit is all that can be had.
            Err(Errno::NOENT) if limit.file == "memory.swap.max" && limit.value == "0" => {}
            Err(Errno::NOENT) => {
                return Err(CgroupError::NotHandedDown { field: limit.field, controller: limit.controller });
            }
            Err(errno) => {
                let (field, value, file) = (limit.field, limit.value, limit.file.to_owned());
                return Err(CgroupError::Limit { field, value, file, errno });
            }
        }
    }
    Ok(())
}

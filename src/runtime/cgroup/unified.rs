//! cgroup v2: the directory every container has, and its limits where v2 has the controllers.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, mkdirat};
use rustix::io::Errno;

use super::legacy::{open, read, write, write_limit};
use super::{CgroupError, failed};
use crate::oci::CgroupSettings;

/// Controllers that every container has: those of its figures.
const USUAL: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// The controllers that a container with these limits has.
pub(super) fn controllers(settings: &CgroupSettings) -> Vec<String> {
    let mut controllers: Vec<String> = USUAL.iter().map(|name| (*name).to_owned()).collect();
    for limit in settings.unified_writes() {
        if limit.controller != "cgroup" && !controllers.iter().any(|known| *known == limit.controller) {
            controllers.push(limit.controller.into_owned());
        }
    }
    controllers
}

/// Makes the directory, parents too; hands down on the way those of the controllers that are offered.
pub(super) fn make<C: AsRef<str>>(root: &OwnedFd, path: &str, controllers: &[C]) -> Result<OwnedFd, CgroupError> {
    let mut directory = rustix::io::fcntl_dupfd_cloexec(root, 3).map_err(failed("dup", path))?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if !controllers.is_empty() {
            hand_down(&directory, controllers);
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

/// Makes the directory, parents too, with what every container has.
pub(super) fn make_usual(root: &OwnedFd, path: &str) -> Result<OwnedFd, CgroupError> {
    make(root, path, &USUAL)
}

/// Makes the directory without any controller.
pub(super) fn make_bare(root: &OwnedFd, path: &str) -> Result<OwnedFd, CgroupError> {
    make::<&str>(root, path, &[])
}

/// Enables for the children what every container has.
pub(super) fn hand_down_usual(directory: &OwnedFd) {
    hand_down(directory, &USUAL);
}

/// Enables for the children what this directory has of these. Where that is refused (processes in it, no delegation),
/// a limit that needs the controller says so by name.
fn hand_down<C: AsRef<str>>(directory: &OwnedFd, controllers: &[C]) {
    let offered = read(directory, "cgroup.controllers").unwrap_or_default();
    let enabled = read(directory, "cgroup.subtree_control").unwrap_or_default();
    for controller in controllers.iter().map(AsRef::as_ref) {
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
    if let Some((field, file)) = settings.legacy_files() {
        return Err(CgroupError::OnlyLegacy { field, file });
    }
    for limit in settings.unified_writes() {
        match write_limit(directory, &limit) {
            Ok(()) => {}
            // "max" is what a container without the controller has anyway.
            Err(CgroupError::NoFile { .. }) if limit.value.starts_with("max") => {}
            // A kernel that does not count swap; there the memory limit is all that can be had.
            Err(CgroupError::NoFile { .. }) if limit.file == "memory.swap.max" && limit.value == "0" => {}
            Err(CgroupError::NoFile { field, file }) => {
                let controllers = read(directory, "cgroup.controllers").unwrap_or_default();
                let controller = limit.controller;
                let has = controller == "cgroup" || controllers.split_whitespace().any(|word| word == controller);
                return Err(match has {
                    true => CgroupError::NoFile { field, file },
                    false => CgroupError::NotHandedDown { field, controller },
                });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

//! cgroup v1: a directory in each hierarchy that a limit needs.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::host::Host;
use super::{CgroupError, failed};
use crate::oci::{CgroupSettings, DeviceRule, RuleTarget, Write};

/// Makes the directory, parents too. `Ok(None)` where the hierarchy is not mounted.
pub(super) fn make(name: &str, path: &str) -> Result<Option<OwnedFd>, CgroupError> {
    let mut directory = match Host::open_legacy(name) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed("open", name)(errno)),
    };
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match mkdirat(&directory, part, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("mkdir", format!("{name}{path}"))(errno)),
        }
        let child = open(&directory, part, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(failed("open", format!("{name}{path}")))?;
        if name == "cpuset" {
            inherit_cpuset(&directory, &child);
        }
        directory = child;
    }
    Ok(Some(directory))
}

/// A new cpuset has no CPUs and takes no task until it has.
fn inherit_cpuset(parent: &OwnedFd, child: &OwnedFd) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = read(parent, file).unwrap_or_default();
        if read(child, file).is_ok_and(|own| own.trim().is_empty()) {
            // Where it is refused, joining the cgroup says so.
            let _ = write(child, file, value.trim());
        }
    }
}

/// Writes the limits of one hierarchy, and where it is that of the devices, which of them may be used.
pub(super) fn apply(name: &str, directory: &OwnedFd, settings: &CgroupSettings) -> Result<(), CgroupError> {
    apply_limits(name, directory, settings)?;
    if name.split(',').any(|controller| controller == "devices") { apply_devices(directory, settings) } else { Ok(()) }
}

/// Writes the limits of one hierarchy alone: device rules begin with denying all, which what runs would see.
pub(super) fn apply_limits(name: &str, directory: &OwnedFd, settings: &CgroupSettings) -> Result<(), CgroupError> {
    for limit in settings.legacy_writes() {
        if name.split(',').any(|controller| controller == limit.controller) {
            write_limit(directory, &limit)?;
        }
    }
    Ok(())
}

/// Writes one limit, to the other file where its own is not there.
pub(super) fn write_limit(directory: &OwnedFd, limit: &Write) -> Result<(), CgroupError> {
    let refused = |file: &str, value: &str, errno| {
        let field = limit.field.clone();
        match errno {
            Errno::NOENT => CgroupError::NoFile { field, file: limit.file.to_string() },
            errno => CgroupError::Limit { field, value: value.to_owned(), file: file.to_owned(), errno },
        }
    };
    match (write(directory, &limit.file, &limit.value), &limit.otherwise) {
        (Ok(()), _) => Ok(()),
        (Err(Errno::NOENT), Some((file, value))) => {
            write(directory, file, value).map_err(|errno| refused(file, value, errno))
        }
        (Err(Errno::NOENT), None) if limit.optional => Ok(()),
        (Err(errno), _) => Err(refused(&limit.file, &limit.value, errno)),
    }
}

fn apply_devices(directory: &OwnedFd, settings: &CgroupSettings) -> Result<(), CgroupError> {
    let refused = |value: &str, file: &str| {
        let (value, file) = (value.to_owned(), file.to_owned());
        move |errno| CgroupError::Limit { field: "devices".into(), value, file, errno }
    };
    let open_file = |file: &str| open(directory, file, OFlags::WRONLY).map_err(failed("open", file));
    let (allow, deny) = (open_file("devices.allow")?, open_file("devices.deny")?);
    rustix::io::write(&deny, b"a").map_err(refused("a", "devices.deny"))?;
    for rule in &settings.devices {
        let (fd, file) = if rule.allow { (&allow, "devices.allow") } else { (&deny, "devices.deny") };
        let entry = entry(rule)?;
        rustix::io::write(fd, entry.as_bytes()).map_err(refused(&entry, file))?;
    }
    Ok(())
}

fn entry(rule: &DeviceRule) -> Result<String, CgroupError> {
    if let Some(entry) = rule.legacy_entry() {
        return Ok(entry);
    }
    let RuleTarget::HostPath(path) = &rule.device else { return Ok("a".to_owned()) };
    let (kind, major, minor) = super::container::device_numbers(path)?;
    Ok(format!("{kind} {major}:{minor} {}", rule.access))
}

/// Opens a file or directory of a cgroup, close-on-exec.
pub(super) fn open(directory: &OwnedFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(directory, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// Writes a value in one call, as cgroup files want it.
pub(super) fn write(directory: &OwnedFd, file: &str, value: &str) -> Result<(), Errno> {
    let fd = open(directory, file, OFlags::WRONLY)?;
    rustix::io::write(&fd, value.as_bytes()).map(drop)
}

/// Reads a whole file of a cgroup; they are small, `cgroup.procs` apart.
pub(super) fn read(directory: &OwnedFd, file: &str) -> Result<String, Errno> {
    use std::io::Read;
    /// More pids than fit are not asked for in one go.
    const MAX_BYTES: u64 = 4 << 20;
    let fd = open(directory, file, OFlags::RDONLY)?;
    let mut text = String::new();
    let read = std::fs::File::from(fd).take(MAX_BYTES).read_to_string(&mut text);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(text)
}

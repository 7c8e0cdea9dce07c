//! Labels of security modules: AppArmor's profile and SELinux's label of the program.
//!
//! Both are written into a file of procfs that the process has for itself, and hold from the next execve(2). What a process makes inherits what it
//! was told, so hooks of the container's own run under them too, as in runc. A kernel without the module takes nothing there: a
//! container that is to be confined does not run unconfined.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::error::{StepError, words};
use super::mount::open_beneath;

/// Of AppArmor alone, since Linux 5.8; before, the next file is that of whichever module there is.
const OF_APPARMOR: &str = "thread-self/attr/apparmor/exec";
const OF_ANY: &str = "thread-self/attr/exec";

/// The profile and the label of the program, through this procfs.
pub(super) fn set(procfs: &OwnedFd, apparmor: Option<&str>, selinux: Option<&str>) -> Result<(), StepError> {
    if let Some(profile) = apparmor {
        let written = match write(procfs, OF_APPARMOR, &format!("exec {profile}")) {
            Err(Failed::Open(Errno::NOENT)) => write(procfs, OF_ANY, &format!("exec {profile}")),
            written => written,
        };
        written.map_err(|failed| refused("process.apparmorProfile", profile, APPARMOR, failed))?;
    }
    if let Some(label) = selinux {
        write(procfs, OF_ANY, label).map_err(|failed| refused("process.selinuxLabel", label, SELINUX, failed))?;
    }
    Ok(())
}

/// Whether SELinux is on, which a label of mounts needs. While the host's `/proc` is in reach.
pub(super) fn need_selinux(field: &'static str) -> Result<(), StepError> {
    let types = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match types.lines().any(|line| line.split_whitespace().last() == Some("selinuxfs")) {
        true => Ok(()),
        false => Err(StepError::Label { field, problem: SELINUX.missing.to_owned() }),
    }
}

struct Module {
    missing: &'static str,
    /// What it has not, where it says ENOENT.
    what: &'static str,
}

const APPARMOR: Module =
    Module { missing: "AppArmor is not enabled in this kernel", what: "AppArmor has no profile of that name loaded" };
const SELINUX: Module =
    Module { missing: "SELinux is not enabled in this kernel", what: "SELinux does not have that label" };

enum Failed {
    Open(Errno),
    Write(Errno),
}

fn write(procfs: &OwnedFd, path: &str, text: &str) -> Result<(), Failed> {
    let file = open_beneath(procfs, path, OFlags::WRONLY).map_err(Failed::Open)?;
    rustix::io::write(&file, text.as_bytes()).map(drop).map_err(Failed::Write)
}

fn refused(field: &'static str, value: &str, module: Module, failed: Failed) -> StepError {
    let problem = match failed {
        // Nobody takes it.
        Failed::Open(Errno::NOENT) | Failed::Write(Errno::INVAL | Errno::OPNOTSUPP) => module.missing.to_owned(),
        Failed::Write(Errno::NOENT) => format!("{value:?}: {}", module.what),
        Failed::Open(errno) | Failed::Write(errno) => format!("{value:?}: {}", words(errno)),
    };
    StepError::Label { field, problem }
}

//! Mappings of user namespaces, written from outside.
//!
//! Root writes any. Another user may map himself, and then nobody inside may change groups (user_namespaces(7), "setgroups"); for more,
//! newuidmap(1) and newgidmap(1) write what `/etc/subuid` and `/etc/subgid` give him.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::error::{StepError, about, call, errno_of};
use crate::oci::idmap::{self, IdMaps, IdRange};
use crate::sys::clone::{Request, Side, clone3, leave};
use crate::sys::wait::{Which, await_end};

/// Writes the mappings of the user namespace that process `pid` was born in. `proc` is a procfs that knows it by this number.
pub(super) fn write_maps(proc: &OwnedFd, pid: i32, maps: &IdMaps) -> Result<(), StepError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        write(proc, pid, "uid_map", &idmap::text(&maps.uids))?;
        return write(proc, pid, "gid_map", &idmap::text(&maps.gids));
    }
    let is_own = |ranges: &[IdRange], own: u32| matches!(ranges, [IdRange { host, size: 1, .. }] if *host == own);
    match is_own(&maps.uids, uid.as_raw()) {
        true => write(proc, pid, "uid_map", &idmap::text(&maps.uids))?,
        false => by_helper("newuidmap", pid, &maps.uids)?,
    }
    match is_own(&maps.gids, gid.as_raw()) {
        true => {
            write(proc, pid, "setgroups", "deny")?;
            write(proc, pid, "gid_map", &idmap::text(&maps.gids))
        }
        false => by_helper("newgidmap", pid, &maps.gids),
    }
}

/// A user namespace that maps ids like this and that nobody is in: what an id-mapped mount is made with.
pub(super) fn of_nobody(proc: &OwnedFd, maps: &IdMaps) -> Result<OwnedFd, StepError> {
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC).map_err(call("pipe"))?;
    let request = Request { namespaces: libc::CLONE_NEWUSER as u64, ..Request::default() };
    match clone3(&request).map_err(|error| call("make a user namespace")(errno_of(&error)))? {
        Side::Child => {
            drop(go);
            // End of file: the namespace is held by its descriptor.
            let _ = rustix::io::read(&wait, &mut [0u8; 1]);
            leave(0)
        }
        Side::Parent { pid, .. } => {
            let made = write_maps(proc, pid, maps).and_then(|()| open(proc, pid, "ns/user", OFlags::RDONLY));
            drop(go);
            let ended = await_end(Which::Pid(pid)).map_err(|error| call("wait")(errno_of(&error)));
            ended.and(made)
        }
    }
}

fn open(proc: &OwnedFd, pid: i32, file: &str, flags: OFlags) -> Result<OwnedFd, StepError> {
    let path = format!("{pid}/{file}");
    openat(proc, path.as_str(), flags | OFlags::CLOEXEC, Mode::empty()).map_err(about("open", format!("/proc/{path}")))
}

/// In one write, as the kernel wants it.
fn write(proc: &OwnedFd, pid: i32, file: &str, text: &str) -> Result<(), StepError> {
    let opened = open(proc, pid, file, OFlags::WRONLY)?;
    let path = format!("/proc/{pid}/{file}");
    rustix::io::write(&opened, text.as_bytes()).map(drop).map_err(about("write", path))
}

fn by_helper(program: &'static str, pid: i32, ranges: &[IdRange]) -> Result<(), StepError> {
    let numbers = ranges.iter().flat_map(|range| [range.container, range.host, range.size]);
    let mut command = Command::new(program);
    command.arg(pid.to_string()).args(numbers.map(|number| number.to_string()));
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| StepError::MapHelper {
        program,
        said: match errno_of(&error) {
            Errno::NOENT => "is not installed (Debian: uidmap)".to_owned(),
            errno => super::error::words(errno),
        },
    })?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches(program).trim_start_matches(": ").to_owned();
            Err(StepError::MapHelper { program, said })
        }
    }
}

/// Whether both are the same namespace.
pub(super) fn same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let identity = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    one.as_raw_fd() == other.as_raw_fd() || identity(one).is_ok_and(|found| Ok(found) == identity(other))
}

/// The namespace of this kind (a name in `/proc/PID/ns`) that this process is in.
pub(super) fn own(proc: &OwnedFd, name: &str) -> Result<OwnedFd, StepError> {
    let path = format!("self/ns/{name}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(proc.as_fd(), path.as_str(), flags, Mode::empty()).map_err(about("open", format!("/proc/{path}")))
}

//! `tmpcopyup`: a new tmpfs begins with what the directory that it covers holds.
//!
//! Everything by descriptor, and no link is followed: a link is copied as one. Owner, mode and time are kept, extended attributes are not.
//! The size of the tmpfs bounds how much there can be; what does not fit is an error, as half of it would be another directory.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fstat,
    mkdirat, mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::error::{StepError, about, errno_of};

/// Two descriptors are open for each level.
const DEPTH_MAX: usize = 128;

/// Copies what `covered` holds to the root of `tmpfs`, which stays whose its options say; with `with_mode` it gets the other's mode. `path` is for
/// messages.
pub(super) fn copy_up(covered: &OwnedFd, tmpfs: &OwnedFd, with_mode: bool, path: &str) -> Result<(), StepError> {
    let open = |directory: &OwnedFd| openat(directory, ".", DIRECTORY, Mode::empty()).map_err(about("open", path));
    let (from, to) = (open(covered)?, open(tmpfs)?);
    contents(&from, &to, path, DEPTH_MAX)?;
    if with_mode {
        let stat = fstat(&from).map_err(about("stat", path))?;
        fchmod(&to, mode(&stat)).map_err(about("chmod", path))?;
    }
    Ok(())
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn contents(from: &OwnedFd, to: &OwnedFd, path: &str, depth: usize) -> Result<(), StepError> {
    if depth == 0 {
        return Err(about("copy", path)(Errno::NAMETOOLONG));
    }
    let entries = Dir::read_from(from).map_err(about("list", path))?;
    for entry in entries {
        let entry = entry.map_err(about("list", path))?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            let path = format!("{path}/{}", name.to_string_lossy());
            copy(from, to, name, &path, depth)?;
        }
    }
    Ok(())
}

fn copy(from: &OwnedFd, to: &OwnedFd, name: &CStr, path: &str, depth: usize) -> Result<(), StepError> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(about("stat", path))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU).map_err(about("mkdir", path))?;
            let open = |parent: &OwnedFd| openat(parent, name, DIRECTORY, Mode::empty()).map_err(about("open", path));
            contents(&open(from)?, &open(to)?, path, depth - 1)?;
        }
        FileType::RegularFile => file(from, to, name, path)?,
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new()).map_err(about("readlink", path))?;
            symlinkat(target.as_c_str(), to, name).map_err(about("symlink", path))?;
        }
        _ => mknodat(to, name, kind, Mode::empty(), stat.st_rdev).map_err(about("mknod", path))?,
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(about("chown", path))?;
    if kind != FileType::Symlink {
        // After the owner, a change of whom takes set-user-ID away. It is what was just made: nobody else is there.
        chmodat(to, name, mode(&stat), AtFlags::empty()).map_err(about("chmod", path))?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as i64, tv_nsec: stat.st_atime_nsec as i64 },
        last_modification: Timespec { tv_sec: stat.st_mtime as i64, tv_nsec: stat.st_mtime_nsec as i64 },
    };
    utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(about("set the time of", path))
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr, path: &str) -> Result<(), StepError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = openat(from, name, OFlags::RDONLY | flags, Mode::empty()).map_err(about("open", path))?;
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags;
    let copy = openat(to, name, create, Mode::RUSR | Mode::WUSR).map_err(about("create", path))?;
    std::io::copy(&mut File::from(source), &mut File::from(copy))
        .map(drop)
        .map_err(|error| about("copy", path)(errno_of(&error)))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_bits_truncate(stat.st_mode & 0o7777)
}

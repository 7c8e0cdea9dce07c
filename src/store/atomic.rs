//! One directory of small files that are whole or not there.
//!
//! A file is `magic, version, length, checksum, payload`. It is written under a temporary name in the same directory,
//! synced (where that is wanted), renamed over the old one, and the directory is synced. So a crash leaves the old file or
//! the new one, and a temporary one that the next [`Dir::open`] removes. What a disk does on top of that (a lost sector, a
//! restored backup, an editor) is found by length and checksum; the file, or whatever else has its name, is renamed to `NAME.torn-N` and counts as absent.
//!
//! There is one writer for each directory ([`RunLock`](super::RunLock)), so one temporary name for each file is enough.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Note, StoreError, fnv64};
use crate::compact;

/// Begins every file.
const MAGIC: [u8; 8] = *b"MOOREDst";

/// Of the frame, not of what is in it.
const VERSION: u32 = 1;

/// Magic, version, length, checksum.
const HEADER_BYTES: usize = 8 + 4 + 8 + 8;

/// Most bytes of one payload: a config.json of 1 MiB and some.
pub const PAYLOAD_MAX_BYTES: usize = 2 << 20;

/// Torn files kept of each name: the first ones show what began it; after that the last is replaced.
const TORN_KEPT: u32 = 4;

/// Names read from one directory: some for each of 65,536 units.
const NAMES_MAX: usize = 1 << 18;

/// Whether a write survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// File and directory are synced.
    Sync,
    /// For memory file systems.
    NoSync,
}

/// What reading a file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The payload, as it was written.
    Found(Vec<u8>),
    /// No such file.
    Missing,
    /// It was not whole, or not ours; it has another name now.
    PutAside(Note),
}

/// An open directory, 0700, ours.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Makes the directory (and those above it) where it is missing, and removes the temporary files of earlier crashes.
    pub fn open(path: &Path) -> Result<Dir, StoreError> {
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| StoreError::MakeDir { path: path.to_owned(), errno: errno(error) })?;
        let fail = |errno| StoreError::Open { path: path.to_owned(), errno };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
        let stat = rustix::fs::fstat(&fd).map_err(fail)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(StoreError::NotOurs { path: path.to_owned(), uid: stat.st_uid, mode: stat.st_mode & 0o7777 });
        }
        let dir = Dir { fd, path: path.to_owned() };
        for name in dir.all_names()?.iter().filter(|name| is_temporary(name)) {
            // Read-only: it does no harm, and the next write will say what is wrong.
            let _ = dir.remove(name, Durability::NoSync);
        }
        Ok(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether [`Dir::write`] takes a payload of this size.
    pub fn accepts(&self, name: &str, payload: &[u8]) -> Result<(), StoreError> {
        let (path, limit) = (self.path.join(name), PAYLOAD_MAX_BYTES);
        match payload.len() {
            bytes if bytes > limit => Err(StoreError::TooBig { path, bytes, limit }),
            _ => Ok(()),
        }
    }

    /// Replaces or makes `name`. After an error the old file is what it was.
    pub fn write(&self, name: &str, payload: &[u8], durability: Durability) -> Result<(), StoreError> {
        let path = self.path.join(name);
        self.accepts(name, payload)?;
        let temporary = temporary_name(name);
        let written = self.write_new(&temporary, &frame(payload), durability).and_then(|()| {
            rustix::fs::renameat(&self.fd, &temporary, &self.fd, name)
                .map_err(|errno| StoreError::Rename { path, errno })
        });
        if written.is_err() {
            // Gives its space back; if that fails too, the next open tries again.
            let _ = rustix::fs::unlinkat(&self.fd, &temporary, rustix::fs::AtFlags::empty());
        }
        written.and_then(|()| self.sync(durability))
    }

    /// Reads what [`Dir::write`] wrote.
    pub fn read(&self, name: &str) -> Result<Read, StoreError> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Read::Missing),
            Err(Errno::LOOP) => return Ok(Read::PutAside(self.put_aside(name, "a link"))),
            // A socket, or a device that is not there.
            Err(Errno::NXIO | Errno::NODEV) => return Ok(Read::PutAside(self.put_aside(name, "not a regular file"))),
            Err(errno) => return Err(StoreError::Open { path, errno }),
        };
        let kind = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind.is_ok_and(|kind| !matches!(kind, FileType::RegularFile | FileType::Directory)) {
            return Ok(Read::PutAside(self.put_aside(name, "not a regular file")));
        }
        match read_all(&fd, HEADER_BYTES + PAYLOAD_MAX_BYTES) {
            Ok(bytes) => Ok(match unframe(&bytes) {
                Ok(payload) => Read::Found(payload.to_vec()),
                Err(why) => Read::PutAside(self.put_aside(name, why)),
            }),
            Err(Errno::ISDIR) => Ok(Read::PutAside(self.put_aside(name, "a directory"))),
            Err(errno) => Err(StoreError::Read { path, errno }),
        }
    }

    /// Removes `name`; that it is not there is no error.
    pub fn remove(&self, name: &str, durability: Durability) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.fd, name, rustix::fs::AtFlags::empty()) {
            Ok(()) => self.sync(durability),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(StoreError::Remove { path: self.path.join(name), errno }),
        }
    }

    /// The names of what was written here, sorted: no temporary files and none that were put aside.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = self.all_names()?;
        names.retain(|name| !is_temporary(name) && !name.contains(".torn-"));
        compact::sort(&mut names);
        Ok(names)
    }

    /// Renames a file that is not to be trusted, for somebody to look at.
    pub fn put_aside(&self, name: &str, why: &str) -> Note {
        let path = self.path.join(name);
        let taken = |n: &u32| {
            rustix::fs::accessat(
                &self.fd,
                torn_name(name, *n),
                rustix::fs::Access::EXISTS,
                rustix::fs::AtFlags::empty(),
            )
            .is_ok()
        };
        let number = (1..TORN_KEPT).find(|n| !taken(n)).unwrap_or(TORN_KEPT);
        let aside = torn_name(name, number);
        let text = match rustix::fs::renameat(&self.fd, name, &self.fd, &aside) {
            Ok(()) => format!("not used: {why}; put aside as {aside}"),
            Err(errno) => format!("not used: {why}; it could not be put aside: {errno}"),
        };
        Note { path, text }
    }

    fn write_new(&self, name: &str, bytes: &[u8], durability: Durability) -> Result<(), StoreError> {
        let path = || self.path.join(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from(0o600))
            .map_err(|errno| StoreError::Open { path: path(), errno })?;
        write_all(&fd, bytes).map_err(|errno| StoreError::Write { path: path(), errno })?;
        if durability == Durability::Sync {
            rustix::fs::fsync(&fd).map_err(|errno| StoreError::Sync { path: path(), errno })?;
        }
        Ok(())
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        match durability {
            Durability::Sync => {
                rustix::fs::fsync(&self.fd).map_err(|errno| StoreError::Sync { path: self.path.clone(), errno })
            }
            Durability::NoSync => Ok(()),
        }
    }

    /// Names that are not UTF-8 are not ours.
    fn all_names(&self) -> Result<Vec<String>, StoreError> {
        let fail = |errno| StoreError::List { path: self.path.clone(), errno };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.fd.as_fd()).map_err(fail)?.take(NAMES_MAX) {
            let entry = entry.map_err(fail)?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

fn temporary_name(name: &str) -> String {
    format!(".{name}.tmp")
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

fn torn_name(name: &str, number: u32) -> String {
    format!("{name}.torn-{number}")
}

pub(super) fn frame(payload: &[u8]) -> Vec<u8> {
    let (version, length) = (VERSION.to_le_bytes(), (payload.len() as u64).to_le_bytes());
    let sum = fnv64(&[&version, &length, payload]).to_le_bytes();
    [MAGIC.as_slice(), &version, &length, &sum, payload].concat()
}

/// The payload, or what is wrong.
pub(super) fn unframe(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let Some((magic, rest)) = bytes.split_first_chunk::<8>() else { return Err("shorter than a header") };
    if *magic != MAGIC {
        return Err("not a file of this program");
    }
    let Some((version, rest)) = rest.split_first_chunk::<4>() else { return Err("shorter than a header") };
    let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Err("shorter than a header") };
    let Some((sum, payload)) = rest.split_first_chunk::<8>() else { return Err("shorter than a header") };
    if *version != VERSION.to_le_bytes() {
        return Err("of another version");
    }
    if *length != (payload.len() as u64).to_le_bytes() {
        return Err("not as long as it says");
    }
    if *sum != fnv64(&[version, length, payload]).to_le_bytes() {
        return Err("its checksum is wrong");
    }
    Ok(payload)
}

/// At most `limit` bytes and one more, which tells that there were more.
pub(super) fn read_all(fd: &OwnedFd, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    while bytes.len() <= limit {
        match rustix::io::read(fd, &mut chunk) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
    }
    Ok(bytes)
}

pub(super) fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            // A regular file that takes nothing and says nothing: treat it as full.
            Ok(0) => return Err(Errno::NOSPC),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

//! Files that only trusted users can have written: the way there is walked by descriptor, and every step is checked.
//!
//! Links are followed (`..data`, stow, `current`), because people deploy with them. So the text of a path says little
//! about who decides what is read: anybody who may write the final file, a directory on the way, or a link on the way.
//! All of these must belong to a trusted user (root, the supervisor's, and SUDO_UID where the directory was named by
//! hand) and be writable by nobody else. Group-writable is accepted for root's group. A sticky directory may be writable
//! by everybody: others cannot rename or remove a trusted user's entries in it, and their own fail the owner check.
//!
//! The walk takes one component at a time with `O_PATH | O_NOFOLLOW` below the descriptor before it, and reads links
//! itself. This is what `openat2(RESOLVE_NO_MAGICLINKS)` does inside the kernel, except that the kernel does not tell
//! which directories it went through, and these are what has to be checked and watched. No name is looked at twice. Links
//! of procfs that are not text are found out with `openat2` and refused. The file itself is opened only after it was
//! seen to be regular: opening a device may already do something (a watchdog, a tape), opening a FIFO may wait.
//!
//! What this does not see: POSIX ACLs. Their mask shows as the group's bits, so an ACL that grants write on a file of
//! another group is refused, and one on a file of root's group is accepted, as the administrator's word.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub use super::error::{FileKind, ReadError, Writers};
pub use super::node::{Identity, Node, is_remote, mount_ids_are_unique};
use super::node::{is_on, is_remote_fd};
use crate::compact;
use crate::sys::lease::{self, Granted};

/// Links followed in one walk; path_resolution(7) has the same.
const LINKS_MAX: u32 = 40;

/// How often a file is opened again when it was replaced between being looked at and being opened.
const OPEN_TRIES: u32 = 3;

/// PROC_SUPER_MAGIC, statfs(2).
const PROC_MAGIC: i64 = 0x9fa0;

/// Who may own what is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    uids: Vec<u32>,
}

impl Trust {
    /// Root and the user that runs the supervisor.
    pub fn new(euid: u32) -> Self {
        Trust { uids: vec![0, euid] }
    }

    /// Also this user: SUDO_UID, when the directory was named by hand.
    #[must_use]
    pub fn and(mut self, uid: u32) -> Self {
        self.uids.push(uid);
        self
    }

    /// Whether `node`, seen at `path`, can be changed by trusted users only.
    fn check(&self, path: &Path, node: &Node) -> Result<(), ReadError> {
        let kind = node.kind();
        if !self.uids.contains(&node.uid) {
            return Err(ReadError::Owner { path: path.to_owned(), kind, uid: node.uid });
        }
        // A link's own mode means nothing, inode(7).
        if kind == FileKind::Link || (kind == FileKind::Directory && node.mode & libc::S_ISVTX != 0) {
            return Ok(());
        }
        let writers = if node.mode & libc::S_IWOTH != 0 {
            Writers::Others
        } else if node.mode & libc::S_IWGRP != 0 && node.gid != 0 {
            Writers::Group(node.gid)
        } else {
            return Ok(());
        };
        Err(ReadError::Writable { path: path.to_owned(), kind, writers })
    }
}

/// One name that was looked up: who changes it changes where the path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The directory, links resolved.
    pub dir: PathBuf,
    /// Which directory that was.
    pub id: Identity,
    /// What was looked up in it.
    pub name: OsString,
}

/// The end of a walk.
#[derive(Debug)]
pub struct Found {
    /// Without links.
    pub resolved: PathBuf,
    /// What is there.
    pub node: Node,
    /// `O_PATH`.
    fd: OwnedFd,
    /// For what is not a directory: where to open it by name.
    parent: Option<(OwnedFd, OsString)>,
}

/// A directory that was walked to and may be looked into.
#[derive(Debug)]
pub struct OpenDir {
    /// Without links.
    pub resolved: PathBuf,
    /// What it is.
    pub node: Node,
    /// `O_PATH`.
    fd: OwnedFd,
}

/// A file's bytes and where they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedFile {
    /// The contents.
    pub bytes: Vec<u8>,
    /// The path without links.
    pub resolved: PathBuf,
    /// What was read: identity, size, times.
    pub node: Node,
}

/// What came of reading a file only if nobody writes it.
#[derive(Debug)]
pub enum Settled {
    /// The lease was granted: these are whole.
    Read(TrustedFile),
    /// A writer has it open.
    Held {
        /// The path without links.
        resolved: PathBuf,
    },
    /// No leases here; whether a writer has it open is not known.
    Unleased(TrustedFile),
}

/// Reads a regular file of at most `limit` bytes that only trusted users can have written, links followed.
///
/// It may be in the middle of being written: see [`read_settled`] for that.
pub fn read_trusted(path: &Path, trust: &Trust, limit: u64) -> Result<TrustedFile, ReadError> {
    read_whole(path, Some(trust), limit)
}

/// The same, whoever can have written it: for looking at files that are only to be installed later.
pub fn read_any(path: &Path, limit: u64) -> Result<TrustedFile, ReadError> {
    read_whole(path, None, limit)
}

fn read_whole(path: &Path, trust: Option<&Trust>, limit: u64) -> Result<TrustedFile, ReadError> {
    let mut result = Err(ReadError::Changing { path: path.to_owned() });
    for _ in 0..OPEN_TRIES {
        let found = walk(path, trust, &mut Vec::new())?;
        result = found.read(path, limit, false).map(|settled| match settled {
            Settled::Read(file) | Settled::Unleased(file) => Some(file),
            Settled::Held { .. } => None,
        });
        if !matches!(result, Err(ReadError::Changing { .. })) {
            break;
        }
    }
    result?.ok_or_else(|| ReadError::Changing { path: path.to_owned() })
}

/// The same, of a file that no writer has open.
pub fn read_settled(path: &Path, trust: &Trust, limit: u64, steps: &mut Vec<Step>) -> Result<Settled, ReadError> {
    walk(path, Some(trust), steps)?.read(path, limit, true)
}

/// Checks that a directory, and every directory and link on the way, can be changed by trusted users only; its contents
/// are not looked at. Returns the path without links and which directory it is.
pub fn check_trusted_dir(path: &Path, trust: &Trust) -> Result<(PathBuf, Identity), ReadError> {
    let dir = open_dir(path, trust, &mut Vec::new())?;
    Ok((dir.resolved, dir.node.id))
}

/// Walks to a directory and checks the way.
pub fn open_dir(path: &Path, trust: &Trust, steps: &mut Vec<Step>) -> Result<OpenDir, ReadError> {
    let found = walk(path, Some(trust), steps)?;
    match found.node.kind() {
        FileKind::Directory => Ok(OpenDir { resolved: found.resolved, node: found.node, fd: found.fd }),
        other => Err(ReadError::Kind { path: path.to_owned(), found: other, expected: FileKind::Directory }),
    }
}

/// Where an absolute path leads. Every name looked up is added to `steps`, also when the walk fails. Without `trust`
/// nobody's ownership is checked.
pub fn walk(path: &Path, trust: Option<&Trust>, steps: &mut Vec<Step>) -> Result<Found, ReadError> {
    if !path.is_absolute() {
        return Err(ReadError::Relative { path: path.to_owned() });
    }
    Walk { trust, steps, links: 0, link: None }.run(open_root(trust)?, path)
}

impl OpenDir {
    /// Reads a file below this directory that no writer has open. Only what is looked up beyond the name itself is added
    /// to `steps`: nothing, unless it is a link.
    pub fn read(&self, name: &OsStr, trust: &Trust, limit: u64, steps: &mut Vec<Step>) -> Result<Settled, ReadError> {
        let path = self.resolved.join(name);
        let before = steps.len();
        let here = Here { fd: dup(self.fd.as_fd(), &self.resolved)?, path: self.resolved.clone(), node: self.node };
        let found = Walk { trust: Some(trust), steps, links: 0, link: None }.run(here, Path::new(name));
        if steps.len() > before {
            steps.remove(before);
        }
        found?.read(&path, limit, true)
    }

    /// What a name leads to, links followed; one system call.
    pub fn peek(&self, name: &OsStr) -> Option<Node> {
        Node::at(self.fd.as_fd(), name, AtFlags::empty()).ok()
    }

    /// The names that `wanted` accepts, at most `limit` of them, sorted.
    pub fn list(&self, limit: usize, wanted: impl Fn(&OsStr) -> bool) -> Result<Vec<OsString>, ReadError> {
        let fail = |errno| ReadError::List { path: self.resolved.clone(), errno };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty()).map_err(fail)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd).map_err(fail)? {
            let name = OsString::from_vec(entry.map_err(fail)?.file_name().to_bytes().to_vec());
            if wanted(&name) {
                if names.len() == limit {
                    return Err(ReadError::TooMany { path: self.resolved.clone(), limit });
                }
                names.push(name);
            }
        }
        compact::sort(&mut names);
        Ok(names)
    }

    /// Whether another machine may change it without an event here.
    pub fn is_remote(&self) -> bool {
        is_remote_fd(self.fd.as_fd())
    }
}

impl Found {
    /// Reads it, if `leased` only while no writer has it open. `path` is for messages.
    fn read(self, path: &Path, limit: u64, leased: bool) -> Result<Settled, ReadError> {
        let Some((parent, name)) = &self.parent else {
            return Err(self.wrong_kind(path));
        };
        if self.resolved == Path::new("/dev/null") {
            return Err(ReadError::Mask { path: path.to_owned() });
        }
        if self.node.kind() != FileKind::File {
            return Err(self.wrong_kind(path));
        }
        if self.node.size > limit {
            return Err(ReadError::TooBig { path: path.to_owned(), size_bytes: self.node.size, limit_bytes: limit });
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::LOOP) => return Err(ReadError::Changing { path: path.to_owned() }),
            Err(errno) => return Err(ReadError::Open { path: path.to_owned(), errno }),
        };
        let granted = if leased { lease::acquire(fd.as_fd()) } else { Granted::Unsupported };
        if granted == Granted::Writer {
            return Ok(Settled::Held { resolved: self.resolved });
        }
        let result = self.read_open(fd.as_fd(), path, limit);
        if granted == Granted::Yes {
            lease::release(fd.as_fd());
        }
        let file = result?;
        Ok(if granted == Granted::Yes { Settled::Read(file) } else { Settled::Unleased(file) })
    }

    /// Stats and reads. What was walked to and checked must be what was opened, and must not change meanwhile.
    fn read_open(&self, fd: BorrowedFd<'_>, path: &Path, limit: u64) -> Result<TrustedFile, ReadError> {
        let stat = || Node::of(fd).map_err(|errno| ReadError::Stat { path: path.to_owned(), errno });
        let node = stat()?;
        if (node.id, node.mode, node.uid, node.gid) != (self.node.id, self.node.mode, self.node.uid, self.node.gid) {
            return Err(ReadError::Changing { path: path.to_owned() });
        }
        let bytes =
            read_bytes(fd, node.size, limit).map_err(|errno| ReadError::Read { path: path.to_owned(), errno })?;
        if bytes.len() as u64 > limit {
            let size_bytes = bytes.len() as u64;
            return Err(ReadError::TooBig { path: path.to_owned(), size_bytes, limit_bytes: limit });
        }
        if stat()? != node {
            return Err(ReadError::Changing { path: path.to_owned() });
        }
        Ok(TrustedFile { bytes, resolved: self.resolved.clone(), node })
    }

    fn wrong_kind(&self, path: &Path) -> ReadError {
        ReadError::Kind { path: path.to_owned(), found: self.node.kind(), expected: FileKind::File }
    }
}

/// Reads to the end, or one byte beyond the limit.
fn read_bytes(fd: BorrowedFd<'_>, size: u64, limit: u64) -> Result<Vec<u8>, Errno> {
    let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
    let first = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(1).min(most);
    let mut bytes = vec![0; first];
    let mut filled = 0;
    loop {
        if filled == bytes.len() {
            if filled == most {
                return Ok(bytes);
            }
            bytes.resize(filled.saturating_mul(2).min(most), 0);
        }
        match rustix::io::read(fd, bytes.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Where a walk is.
struct Here {
    fd: OwnedFd,
    path: PathBuf,
    node: Node,
}

/// What is still to be walked.
enum Part {
    Root,
    Up,
    Name(OsString),
}

struct Walk<'a> {
    trust: Option<&'a Trust>,
    steps: &'a mut Vec<Step>,
    links: u32,
    /// The last link followed: what is missing after it dangles.
    link: Option<PathBuf>,
}

impl Walk<'_> {
    /// Each link adds at most a path's length of parts, and there are at most [`LINKS_MAX`]: the loop is bounded.
    fn run(mut self, mut here: Here, path: &Path) -> Result<Found, ReadError> {
        let mut todo = parts(path);
        while let Some(part) = todo.pop() {
            let name = match part {
                Part::Root => {
                    here = open_root(self.trust)?;
                    continue;
                }
                Part::Up => {
                    here = self.up(&here)?;
                    continue;
                }
                Part::Name(name) => name,
            };
            self.steps.push(Step { dir: here.path.clone(), id: here.node.id, name: name.clone() });
            let path = here.path.join(&name);
            let fd = self.open(&here, &name, &path, todo.is_empty())?;
            let node = Node::of(fd.as_fd()).map_err(|errno| ReadError::Stat { path: path.clone(), errno })?;
            if let Some(trust) = self.trust {
                // A FIFO or device is refused as such; whose it is matters less.
                if matches!(node.kind(), FileKind::File | FileKind::Directory | FileKind::Link) {
                    trust.check(&path, &node)?;
                }
            }
            match node.kind() {
                FileKind::Link => todo.extend(self.follow(&here, fd.as_fd(), &name, &path)?),
                FileKind::Directory => here = Here { fd, path, node },
                found if !todo.is_empty() => return Err(ReadError::NotDirectory { path, found }),
                _ => return Ok(Found { resolved: path, node, fd, parent: Some((here.fd, name)) }),
            }
        }
        Ok(Found { resolved: here.path, node: here.node, fd: here.fd, parent: None })
    }

    /// `O_DIRECTORY` on the way makes an automount happen; at the end anything may be.
    fn open(&self, here: &Here, name: &OsStr, path: &Path, last: bool) -> Result<OwnedFd, ReadError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let wish = if last { flags } else { flags | OFlags::DIRECTORY };
        let mut result = rustix::fs::openat(&here.fd, name, wish, Mode::empty());
        if result.as_ref().err() == Some(&Errno::NOTDIR) {
            result = rustix::fs::openat(&here.fd, name, flags, Mode::empty());
        }
        result.map_err(|errno| match (errno, &self.link) {
            (Errno::NOENT, Some(link)) => ReadError::Dangling { path: link.clone(), missing: path.to_owned() },
            (Errno::NOENT, None) => ReadError::Missing { path: path.to_owned() },
            _ => ReadError::Open { path: path.to_owned(), errno },
        })
    }

    fn follow(&mut self, here: &Here, fd: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<Vec<Part>, ReadError> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(ReadError::Loop { path: path.to_owned() });
        }
        if is_on(fd, &[PROC_MAGIC]) && is_magic(here.fd.as_fd(), name) {
            return Err(ReadError::Magic { path: path.to_owned() });
        }
        let target = rustix::fs::readlinkat(fd, "", Vec::new())
            .map_err(|errno| ReadError::Link { path: path.to_owned(), errno })?;
        self.link = Some(path.to_owned());
        Ok(parts(Path::new(&OsString::from_vec(target.into_bytes()))))
    }

    fn up(&self, here: &Here) -> Result<Here, ReadError> {
        let mut path = here.path.clone();
        path.pop();
        open_here(here.fd.as_fd(), OsStr::new(".."), path, self.trust)
    }
}

/// In the order of a stack: the last is the first to be walked.
fn parts(path: &Path) -> Vec<Part> {
    let mut parts: Vec<Part> = path
        .components()
        .filter_map(|component| match component {
            Component::RootDir => Some(Part::Root),
            Component::ParentDir => Some(Part::Up),
            Component::Normal(name) => Some(Part::Name(name.to_owned())),
            Component::CurDir | Component::Prefix(_) => None,
        })
        .collect();
    parts.reverse();
    parts
}

fn open_root(trust: Option<&Trust>) -> Result<Here, ReadError> {
    open_here(rustix::fs::CWD, OsStr::new("/"), PathBuf::from("/"), trust)
}

fn open_here(at: BorrowedFd<'_>, name: &OsStr, path: PathBuf, trust: Option<&Trust>) -> Result<Here, ReadError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::empty())
        .map_err(|errno| ReadError::Open { path: path.clone(), errno })?;
    let node = Node::of(fd.as_fd()).map_err(|errno| ReadError::Stat { path: path.clone(), errno })?;
    if let Some(trust) = trust {
        trust.check(&path, &node)?;
    }
    Ok(Here { fd, path, node })
}

fn dup(fd: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ReadError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(|errno| ReadError::Open { path: path.to_owned(), errno })
}

/// ELOOP is openat2's word for a magic link; an ordinary link of procfs (`/proc/self`) opens or is missing.
fn is_magic(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).err() == Some(Errno::LOOP)
}

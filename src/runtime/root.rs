//! The container's root by descriptor: every path inside is resolved here, once, and never leaves it.
//!
//! `openat2` with `RESOLVE_IN_ROOT` treats the root like chroot(2) does, for `..` and absolute links too, without a
//! moment at which the tree is looked at twice (CVE-2021-30465, CVE-2024-45310); `RESOLVE_NO_MAGICLINKS` keeps a link of a
//! procfs in the root from leading out (CVE-2019-19921). What is missing is made component by component, below
//! descriptors that were themselves resolved this way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, mknodat, openat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::error::{StepError, about};

/// Links that are followed while a missing path is made; the kernel's own limit (path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// Components of a path that is made; PATH_MAX allows no more.
const MAX_COMPONENTS: usize = 2048;

/// How often a path is resolved anew while others rename and mount. One with a hundred `..` fails 19 times in 20 where somebody does nothing else.
const MAX_TRIES: u32 = 1000;

/// A directory that nothing resolved through it can leave.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Takes a descriptor of the directory.
    pub fn new(directory: OwnedFd) -> Root {
        Root(directory)
    }

    /// Gives the descriptor back.
    pub fn into_directory(self) -> OwnedFd {
        self.0
    }

    /// Opens a path inside. `O_CLOEXEC` is added.
    pub fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_inside(&self.0, relative(path), flags)
    }

    /// Finds what a mount is to cover, without opening it.
    pub fn locate(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH)
    }

    /// The directory at this path; made with mode 0755, parents too, where it is missing.
    pub fn ensure_dir(&self, path: &str) -> Result<OwnedFd, StepError> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(found) => Ok(found),
            Err(Errno::NOENT) => self.make_dirs(path),
            Err(errno) => Err(about("open", path)(errno)),
        }
    }

    /// Whether there is a directory at this path.
    pub fn has_dir(&self, path: &str) -> bool {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// Whether the path's last part is a link.
    pub fn is_link(&self, path: &str) -> bool {
        let found = self.open(path, OFlags::PATH | OFlags::NOFOLLOW);
        let stat = found.and_then(|found| rustix::fs::fstat(&found));
        stat.is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink)
    }

    /// The file at this path; an empty one is made where it is missing.
    pub fn ensure_file(&self, path: &str) -> Result<OwnedFd, StepError> {
        for _ in 0..MAX_LINKS {
            match self.locate(path) {
                Ok(found) => return Ok(found),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(about("open", path)(errno)),
            }
            let (parent, name) = self.parent(path)?;
            match mknodat(&parent, name, rustix::fs::FileType::RegularFile, Mode::from(0o755), 0) {
                Ok(()) => {}
                // A link to a place that does not exist: make that.
                Err(Errno::EXIST) => match self.link_target(&parent, path, name) {
                    Some(target) => return self.ensure_file(&target),
                    None => continue,
                },
                Err(errno) => return Err(about("create", path)(errno)),
            }
        }
        Err(StepError::TooManyLinks { path: path.to_owned() })
    }

    /// The directory that holds this path, made where missing, and the last component.
    pub fn parent<'path>(&self, path: &'path str) -> Result<(OwnedFd, &'path str), StepError> {
        let (parent, name) = split(path);
        Ok((self.ensure_dir(parent)?, name))
    }

    fn make_dirs(&self, path: &str) -> Result<OwnedFd, StepError> {
        let mut pending: Vec<String> = components(path).rev().map(str::to_owned).collect();
        let mut done = String::from("/");
        let mut directory = self.open("/", OFlags::PATH | OFlags::DIRECTORY).map_err(about("open", "/"))?;
        let mut links = 0;
        let mut steps = 0;
        while let Some(name) = pending.pop() {
            steps += 1;
            if steps > MAX_COMPONENTS || links > MAX_LINKS {
                return Err(StepError::TooManyLinks { path: path.to_owned() });
            }
            let here = join(&done, &name);
            match mkdirat(&directory, name.as_str(), Mode::from(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                // On a read-only file system the directory may be there all the same.
                Err(errno) => match self.open(&here, OFlags::PATH | OFlags::DIRECTORY) {
                    Ok(_) => {}
                    Err(Errno::NOENT) => return Err(about("mkdir", &here)(errno)),
                    Err(other) => return Err(about("open", &here)(other)),
                },
            }
            match self.open(&here, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(next) => (directory, done) = (next, here),
                Err(Errno::NOENT) => match self.link_target(&directory, &here, &name) {
                    Some(target) => {
                        links += 1;
                        pending.extend(components(&target).rev().map(str::to_owned));
                        done = String::from("/");
                        directory = self.open("/", OFlags::PATH | OFlags::DIRECTORY).map_err(about("open", "/"))?;
                    }
                    None => return Err(about("open", &here)(Errno::NOENT)),
                },
                Err(errno) => return Err(about("open", &here)(errno)),
            }
        }
        Ok(directory)
    }

    /// Where a link leads, as a clean absolute path inside; `None` where there is no link.
    fn link_target(&self, parent: &OwnedFd, path: &str, name: &str) -> Option<String> {
        let link = readlinkat(parent, name, Vec::new()).ok()?;
        let link = link.to_str().ok()?;
        let base = if link.starts_with('/') { "/" } else { split(path).0 };
        Some(clean(&format!("{base}/{link}")))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens a directory of the host's without going through it.
pub fn open_path(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    openat(rustix::fs::CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// The same of a link itself.
pub fn open_link(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    openat(rustix::fs::CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a path that cannot leave this directory. `O_CLOEXEC` is added.
pub fn open_inside<P: Arg + Copy>(directory: &OwnedFd, path: P, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = || openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
    // If anybody on the host renames or mounts something while a `..` is resolved, the kernel is not sure that it led nowhere else, and wants
    // to be asked again (openat2(2), EAGAIN).
    let mut found = open();
    for _ in 0..MAX_TRIES {
        if found.as_ref().err() != Some(&Errno::AGAIN) {
            break;
        }
        std::thread::yield_now();
        found = open();
    }
    found
}

fn relative(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        rest => rest,
    }
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

fn join(parent: &str, name: &str) -> String {
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

fn split(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => ("/", path),
    }
}

/// The path without `.`, `..`, and double slashes, always absolute.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in components(path) {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn others_that_rename_do_not_keep_a_path_from_being_found() {
        const RENAMES: u32 = 20_000;
        let place = std::env::temp_dir().join(format!("moored-root-{}", std::process::id()));
        std::fs::create_dir_all(place.join("a/b")).unwrap();
        std::fs::write(place.join("file"), "").unwrap();
        let root = Root::new(open_path(&place).unwrap());
        let (up, renames) = ("a/b/../../".repeat(50) + "file", AtomicU32::new(0));
        let failed = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, other) = (place.join("one"), place.join("a/other"));
                std::fs::write(&one, "").unwrap();
                while renames.fetch_add(1, Relaxed) < RENAMES {
                    std::fs::rename(&one, &other).unwrap();
                    std::fs::rename(&other, &one).unwrap();
                }
            });
            let look = || {
                let looks = std::iter::repeat_with(|| root.locate(&up)).take_while(|_| renames.load(Relaxed) < RENAMES);
                looks.filter_map(Result::err).count()
            };
            // More than one: at least one of them on another processor than who renames.
            [scope.spawn(look), scope.spawn(look), scope.spawn(look)].map(|look| look.join().unwrap())
        });
        std::fs::remove_dir_all(&place).unwrap();
        assert_eq!(failed, [0, 0, 0]);
    }
}

//! Why a path is not read, each with its cure.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use rustix::io::Errno;

/// What kind of file something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Link,
    /// Named pipe.
    Fifo,
    /// Character or block device.
    Device,
    /// Unix socket.
    Socket,
    /// Something that this program does not know.
    Unknown,
}

impl FileKind {
    /// From `st_mode`, inode(7).
    pub fn of(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Link,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFCHR | libc::S_IFBLK => FileKind::Device,
            libc::S_IFSOCK => FileKind::Socket,
            _ => FileKind::Unknown,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::File => "a regular file",
            FileKind::Directory => "a directory",
            FileKind::Link => "a link",
            FileKind::Fifo => "a FIFO",
            FileKind::Device => "a device",
            FileKind::Socket => "a socket",
            FileKind::Unknown => "neither a file nor a directory",
        })
    }
}

/// Who, besides the trusted users, may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Writers {
    /// Everybody (`o+w`).
    Others,
    /// A group that is not root's, by number (`g+w`).
    Group(u32),
}

/// Why a path is not read. Two are equal when a user would read the same message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A relative path has no fixed meaning in a supervisor.
    #[error("{}: a relative path, expected one that begins with /", .path.display())]
    Relative {
        /// As given.
        path: PathBuf,
    },
    /// Nothing is there.
    #[error("{}: does not exist: create it or correct the path", .path.display())]
    Missing {
        /// The first component that does not exist, links resolved.
        path: PathBuf,
    },
    /// A link leads to nothing.
    #[error("{}: a link to {}, which does not exist: create that or correct the link", .path.display(), .missing.display())]
    Dangling {
        /// The last link on the way.
        path: PathBuf,
        /// What does not exist.
        missing: PathBuf,
    },
    /// More links than path_resolution(7) follows.
    #[error("{}: the links lead round in a circle: correct one of them", .path.display())]
    Loop {
        /// The link that was one too many.
        path: PathBuf,
    },
    /// A link of procfs that is no text, such as /proc/PID/fd/3.
    #[error("{}: a link into a process, which is not followed: name the file itself", .path.display())]
    Magic {
        /// The link.
        path: PathBuf,
    },
    /// A directory was expected on the way.
    #[error("{}: is {found}, expected a directory on the way: correct the path", .path.display())]
    NotDirectory {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: FileKind,
    },
    /// The last component is of another kind.
    #[error("{}: is {found}, expected {expected}: replace or rename it", .path.display())]
    Kind {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: FileKind,
        /// What should be.
        expected: FileKind,
    },
    /// It leads to /dev/null: its name is taken by nothing, on purpose.
    #[error("{}: a link to /dev/null, which masks the unit", .path.display())]
    Mask {
        /// The link.
        path: PathBuf,
    },
    /// Somebody owns it who is not trusted.
    #[error("{}: owned by {}: chown{} root {}", .path.display(), user_name(*.uid), chown_flag(*.kind), .path.display())]
    Owner {
        /// The file, or a link or directory on the way to it.
        path: PathBuf,
        /// Which of these.
        kind: FileKind,
        /// Whose it is.
        uid: u32,
    },
    /// Somebody may write it who is not trusted.
    #[error("{}", writable(.path, *.kind, *.writers))]
    Writable {
        /// The file, or a directory on the way to it.
        path: PathBuf,
        /// Which of these.
        kind: FileKind,
        /// Who.
        writers: Writers,
    },
    /// Larger than is ever read.
    #[error("{}: {size_bytes} bytes, expected at most {limit_bytes}: is it another file under this name?", .path.display())]
    TooBig {
        /// Which file.
        path: PathBuf,
        /// Its size when it was looked at.
        size_bytes: u64,
        /// The most that is read.
        limit_bytes: u64,
    },
    /// A unit file is text.
    #[error("{}:{line}:{column}: a byte that is not UTF-8: save the file as UTF-8", .path.display())]
    NotUtf8 {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// More names than are ever watched.
    #[error("{}: more than {limit} unit files: is it the right directory?", .path.display())]
    TooMany {
        /// Which directory.
        path: PathBuf,
        /// The most that are watched.
        limit: usize,
    },
    /// Replaced again and again while it was opened.
    #[error("{}: changes faster than it can be opened", .path.display())]
    Changing {
        /// Which file.
        path: PathBuf,
    },
    /// open(2).
    #[error("{}: cannot open: {errno}", .path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// statx(2).
    #[error("{}: cannot stat: {errno}", .path.display())]
    Stat {
        /// Where.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// readlink(2).
    #[error("{}: cannot read the link: {errno}", .path.display())]
    Link {
        /// Where.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// read(2).
    #[error("{}: cannot read: {errno}", .path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// getdents(2).
    #[error("{}: cannot list: {errno}", .path.display())]
    List {
        /// Where.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
}

fn chown_flag(kind: FileKind) -> &'static str {
    if kind == FileKind::Link { " -h" } else { "" }
}

fn writable(path: &std::path::Path, kind: FileKind, writers: Writers) -> String {
    let path = path.display();
    let what = if kind == FileKind::Directory { " (a directory on the way)" } else { "" };
    match writers {
        Writers::Others => format!("{path}: writable by everybody{what}: chmod o-w {path}"),
        Writers::Group(gid) => {
            format!("{path}: writable by {}{what}: chmod g-w {path}", group_name(gid))
        }
    }
}

/// Most of /etc/passwd or /etc/group that is searched for a name.
const NAMES_MAX_BYTES: u64 = 1 << 20;

fn user_name(uid: u32) -> String {
    name_of("/etc/passwd", uid).unwrap_or_else(|| format!("uid {uid}"))
}

fn group_name(gid: u32) -> String {
    name_of("/etc/group", gid).map_or_else(|| format!("group {gid}"), |name| format!("group {name}"))
}

/// Static glibc must not call NSS, so the files are read; passwd(5) and group(5) both have the number in the third field.
fn name_of(file: &str, number: u32) -> Option<String> {
    let mut text = String::new();
    fs::File::open(file).ok()?.take(NAMES_MAX_BYTES).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_the_cure() {
        let path = PathBuf::from("/etc/moored/units/web.toml");
        let owner = ReadError::Owner { path: path.clone(), kind: FileKind::File, uid: 4_000_000 };
        assert_eq!(
            owner.to_string(),
            "/etc/moored/units/web.toml: owned by uid 4000000: chown root /etc/moored/units/web.toml"
        );
        let writable = ReadError::Writable { path, kind: FileKind::Directory, writers: Writers::Others };
        assert!(writable.to_string().ends_with("chmod o-w /etc/moored/units/web.toml"), "{writable}");
        assert_eq!(user_name(0), "root");
    }
}

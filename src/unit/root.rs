//! What becomes a container's root: a directory, or for an `executable` a tmpfs that is made around the file.

use std::path::{Path, PathBuf};

use super::Upper;
use super::process::program_inside;

/// What the runtime makes the root of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootPlan {
    /// An absolute path on the host.
    Directory(PathBuf),
    /// The union of directories.
    Layers {
        /// Absolute paths on the host, the lowest first.
        layers: Vec<PathBuf>,
        /// What is above them.
        upper: Upper,
    },
    /// A tmpfs with these in it, made read-only afterwards where `spec.root.readonly` says so.
    Tmpfs {
        /// Limit of its size, in bytes.
        size_bytes: u64,
        /// Absolute paths inside, parents first, all 0755.
        dirs: Vec<String>,
        /// Regular files, root's.
        files: Vec<RootFile>,
    },
}

/// One file of a made root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFile {
    /// Absolute path inside.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub contents: Contents,
}

/// Where a file's contents come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Written when the root is made.
    Inline(String),
    /// A file of the host's, bound read-only over an empty one: costs no copy and pins the inode, so that a replaced
    /// file changes nothing that runs. A missing /etc/resolv.conf or /etc/hosts leaves the empty file.
    HostFile(PathBuf),
}

/// The uid and gid called nobody and nogroup.
pub(crate) const NOBODY: u32 = 65_534;

/// A root that somebody made writable holds no more than this, in bytes.
const SIZE_BYTES: u64 = 64 << 20;

/// The root of an `executable` unit.
///
/// No /sys: nothing in it is needed by one static program, and two mounts fewer start faster. With the host's network
/// come the host's names; without, there is nobody to ask.
pub(crate) fn around(executable: &Path, hostname: &str, ids: (u32, u32), host_network: bool) -> RootPlan {
    let inline =
        |path: &str, text: String| RootFile { path: path.to_owned(), mode: 0o644, contents: Contents::Inline(text) };
    let host = |path: &str| {
        let contents = Contents::HostFile(PathBuf::from(path));
        RootFile { path: path.to_owned(), mode: 0o644, contents }
    };
    let mut files = vec![
        inline("/etc/hostname", format!("{hostname}\n")),
        inline("/etc/passwd", passwd(ids)),
        inline("/etc/group", group(ids.1)),
    ];
    if host_network {
        files.extend([host("/etc/hosts"), host("/etc/resolv.conf")]);
    } else {
        let names = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost {hostname}\n");
        files.extend([inline("/etc/hosts", names), inline("/etc/resolv.conf", String::new())]);
    }
    let contents = Contents::HostFile(executable.to_owned());
    files.extend(program_inside(executable).map(|path| RootFile { path, mode: 0o755, contents }));
    let dirs = ["/dev", "/etc", "/proc", "/tmp"].map(str::to_owned).to_vec();
    RootPlan::Tmpfs { size_bytes: SIZE_BYTES, dirs, files }
}

fn passwd((uid, gid): (u32, u32)) -> String {
    let mut text = format!("root:x:0:0:root:/:/sbin/nologin\nnobody:x:{NOBODY}:{NOBODY}:nobody:/:/sbin/nologin\n");
    if uid != 0 && uid != NOBODY {
        text.push_str(&format!("app:x:{uid}:{gid}:app:/:/sbin/nologin\n"));
    }
    text
}

fn group(gid: u32) -> String {
    let mut text = format!("root:x:0:\nnogroup:x:{NOBODY}:\n");
    if gid != 0 && gid != NOBODY {
        text.push_str(&format!("app:x:{gid}:\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file<'p>(plan: &'p RootPlan, path: &str) -> &'p RootFile {
        let RootPlan::Tmpfs { files, .. } = plan else { panic!("{plan:?}") };
        files.iter().find(|file| file.path == path).unwrap()
    }

    #[test]
    fn the_file_stands_alone_with_what_programs_look_up() {
        let plan = around(Path::new("/opt/bin/thing"), "web", (1000, 100), false);
        assert_eq!(file(&plan, "/thing").contents, Contents::HostFile("/opt/bin/thing".into()));
        assert_eq!(file(&plan, "/thing").mode, 0o755);
        let Contents::Inline(passwd) = &file(&plan, "/etc/passwd").contents else { panic!() };
        assert!(passwd.contains("\nnobody:x:65534:65534:") && passwd.ends_with("app:x:1000:100:app:/:/sbin/nologin\n"));
        assert_eq!(file(&plan, "/etc/resolv.conf").contents, Contents::Inline(String::new()));
    }

    #[test]
    fn the_hosts_names_come_with_its_network() {
        let plan = around(Path::new("/thing"), "web", (0, 0), true);
        assert_eq!(file(&plan, "/etc/resolv.conf").contents, Contents::HostFile("/etc/resolv.conf".into()));
    }
}

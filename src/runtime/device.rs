//! Device nodes and the usual links of `/dev`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, makedev, mknodat, openat, statat, symlinkat,
};
use rustix::io::Errno;

use super::error::{StepError, about};
use super::mount::{attach, clone_tree};
use super::root::{Root, open_link, open_path};
use crate::oci::{DeviceKind, DeviceNode};

/// Link and where it leads (OCI runtime-spec, config-linux, "Default Devices" and "Dev symbolic links").
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the nodes and the links; what is there already must be the same device.
pub(super) fn make(root: &Root, nodes: &[DeviceNode]) -> Result<(), StepError> {
    let dev = root.ensure_dir("/dev")?;
    for node in nodes {
        match node.path.strip_prefix("/dev/").filter(|name| !name.contains('/')) {
            Some(name) => make_node(&dev, name, node)?,
            None => {
                let (parent, name) = root.parent(&node.path)?;
                make_node(&parent, name, node)?;
            }
        }
    }
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            // A read-only /dev of the root's own has what it has.
            Err(Errno::ROFS) => {}
            Err(errno) => return Err(about("symlink", format!("/dev/{name}"))(errno)),
        }
    }
    Ok(())
}

/// Makes a node with the numbers that the host's path has now.
pub(super) fn copy_host_node(root: &Root, path: &Path) -> Result<(), StepError> {
    let host = open_path(path).map_err(about("open", path))?;
    let stat = fstat(&host).map_err(about("stat", path))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => DeviceKind::Block,
        FileType::CharacterDevice => DeviceKind::Character,
        _ => {
            let path = path.display().to_string();
            return Err(StepError::NotTheDevice { path, expected: "block or character" });
        }
    };
    let node = DeviceNode {
        path: super::root::clean(&path.to_string_lossy()),
        kind,
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    };
    let (parent, name) = root.parent(&node.path)?;
    make_node(&parent, name, &node)
}

/// The umask is 0 while a container is set up, so the mode is the node's.
fn make_node(parent: &OwnedFd, name: &str, node: &DeviceNode) -> Result<(), StepError> {
    let kind = match node.kind {
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Fifo => FileType::Fifo,
    };
    let number = makedev(node.major, node.minor);
    match mknodat(parent, name, kind, Mode::from_bits_truncate(node.mode), number) {
        Ok(()) => {}
        Err(Errno::EXIST) => return check_node(parent, name, kind, number, node),
        // In a user namespace nobody may make one.
        Err(Errno::PERM) => return bind_hosts(parent, name, kind, number, node),
        Err(errno) => return Err(about("mknod", &node.path)(errno)),
    }
    if (node.uid, node.gid) == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(about("chown", &node.path))
}

/// Puts the host's own node onto an empty file; it must be the same device. Mode and owner are the host's.
fn bind_hosts(
    parent: &OwnedFd,
    name: &str,
    kind: FileType,
    number: rustix::fs::Dev,
    node: &DeviceNode,
) -> Result<(), StepError> {
    let host = open_link(Path::new(&node.path)).map_err(about("no right to mknod, and open", &node.path))?;
    let stat = fstat(&host).map_err(about("stat", &node.path))?;
    if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != number {
        let expected = "that config.json describes, and in a user namespace only the host's can be had";
        return Err(StepError::NotTheDevice { path: node.path.clone(), expected });
    }
    mknodat(parent, name, FileType::RegularFile, Mode::empty(), 0).map_err(about("create", &node.path))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(parent, name, flags, Mode::empty()).map_err(about("open", &node.path))?;
    let tree = clone_tree(host.as_fd(), false).map_err(about("open_tree", &node.path))?;
    attach(&tree, place.as_fd()).map_err(about("move_mount", &node.path))
}

/// A link or another device in its place is somebody's trick (CVE-2025-31133, CVE-2025-52565).
fn check_node(
    parent: &OwnedFd,
    name: &str,
    kind: FileType,
    number: rustix::fs::Dev,
    node: &DeviceNode,
) -> Result<(), StepError> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(about("stat", &node.path))?;
    let same = FileType::from_raw_mode(stat.st_mode) == kind && (kind == FileType::Fifo || stat.st_rdev == number);
    if same {
        return Ok(());
    }
    Err(StepError::NotTheDevice { path: node.path.clone(), expected: "that config.json describes" })
}

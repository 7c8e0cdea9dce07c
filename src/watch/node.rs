//! What the kernel says of one file or directory: which it is, whose, of which size and times.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::error::FileKind;

/// STATX_MNT_ID_UNIQUE, Linux 6.8: a mount id that is never used twice. The plain one is taken again by the next mount.
const MNT_ID_UNIQUE: u32 = 0x4000;

/// File systems where another machine's changes give no inotify event: NFS, SMB, CIFS, 9P, Ceph, AFS, FUSE.
const REMOTE_MAGICS: [i64; 7] = [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x0102_1997, 0x00c3_6400, 0x5346_414f, 0x6573_5546];

/// Which file or directory something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// The mount it was reached through; unique while the host is up from Linux 6.8 on, before that used again.
    pub mount: u64,
}

/// What statx(2) says of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    /// Which it is.
    pub id: Identity,
    /// Whether a mount begins here, if the kernel says (Linux 5.8).
    pub is_mount_point: bool,
    /// Kind and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds and nanoseconds of the last change of contents.
    pub mtime: (i64, u32),
    /// Seconds and nanoseconds of the last change of anything.
    pub ctime: (i64, u32),
}

impl Node {
    /// Whether more than its owner and root's group may read it.
    pub fn is_readable_by_others(&self) -> bool {
        self.mode & libc::S_IROTH != 0 || self.mode & libc::S_IRGRP != 0 && self.gid != 0
    }

    /// Of an open descriptor.
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        Node::at(fd, OsStr::new(""), AtFlags::EMPTY_PATH)
    }

    /// Of a name below a directory; follows a final link unless `flags` say otherwise.
    pub fn at(dir: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> Result<Self, Errno> {
        let unique = StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID | unique;
        let stat = rustix::fs::statx(dir, name, flags, mask)?;
        Ok(Node {
            id: Identity {
                dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
                ino: stat.stx_ino,
                mount: stat.stx_mnt_id,
            },
            is_mount_point: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            mode: u32::from(stat.stx_mode),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        })
    }

    /// Regular, directory, …
    pub fn kind(&self) -> FileKind {
        FileKind::of(self.mode)
    }
}

/// Whether mount ids here are never used twice (Linux 6.8).
pub fn mount_ids_are_unique() -> bool {
    let unique = StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
    rustix::fs::statx(rustix::fs::CWD, "/", AtFlags::empty(), unique)
        .is_ok_and(|stat| stat.stx_mask & MNT_ID_UNIQUE != 0)
}

/// Whether another machine may change this directory without an event here.
pub fn is_remote(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|stat| REMOTE_MAGICS.contains(&stat.f_type))
}

/// The same, of something that is open.
pub fn is_remote_fd(fd: BorrowedFd<'_>) -> bool {
    is_on(fd, &REMOTE_MAGICS)
}

/// Whether something is on a file system of one of these kinds.
pub fn is_on(fd: BorrowedFd<'_>, magics: &[i64]) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|stat| magics.contains(&stat.f_type))
}

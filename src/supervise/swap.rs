//! The config files and secrets of a container, below its directory in the run-dir:
//!
//! ```text
//! files/..data -> ..<mark>                      which contents it has
//! files/..<mark>/<n>/<name>                     the n-th file of the unit, of root; a secret, of the process's user
//! links/<n> -> /dev/moored/..data/<n>/<name>    mounted at its target
//! ```
//!
//! `files` is mounted inside, read-only. Another set of contents is written beside the one that is there, and then `..data` is renamed
//! over: all files are other ones at once, and a reader has an old or a new one, whole. This is also the record of what the container has: a
//! swap that a crash cut short is done again from its beginning, one whose link was renamed is done.
//!
//! The set before stays until the next swap: a reader that has resolved the link finds its file. The directory goes with the container. Nothing in it is synced: it is of no use after a boot.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use crate::unit::{CONFIG_MOUNT, ConfigFile, ContainerId, SwapMark, Unit};

/// Which contents count.
const DATA: &str = "..data";
/// It, before it is renamed.
const NEXT: &str = "..next";

/// statfs(2).
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// statfs(2).
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Why the files are not there.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// A system call failed.
    #[error("config files: {call} {}: {why}", path.display())]
    Call {
        /// Which.
        call: &'static str,
        /// About what.
        path: PathBuf,
        /// Why.
        #[source]
        why: io::Error,
    },
    /// It was not read since the boot.
    #[error("secret: {} is not there, or may not be read, and no copy of it is kept", path.display())]
    Unknown {
        /// The file outside.
        path: PathBuf,
    },
    /// The run-dir is no place for secrets.
    #[error("secret: {} is on a disk: use a --run-dir on a tmpfs, such as /run/moored", path.display())]
    OnDisk {
        /// Where they would be.
        path: PathBuf,
    },
}

fn about<'p>(call: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> SwapError + use<'p> {
    move |why| SwapError::Call { call, path: path.to_owned(), why }
}

/// Whose they are, as the host numbers users. Groups have the numbers of their users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Root inside: config files are his.
    pub root: u32,
    /// The process's user: secrets are his.
    pub user: u32,
}

/// Where the directories of a container's config files are.
#[derive(Debug, Clone)]
pub struct ConfigDir {
    files: PathBuf,
    links: PathBuf,
}

impl ConfigDir {
    /// Of a container; nothing is made.
    pub fn of(containers: &Path, id: &ContainerId) -> ConfigDir {
        let dir = containers.join(id.to_string());
        ConfigDir { files: dir.join("files"), links: dir.join("links") }
    }

    /// Of one that is only checked.
    pub fn of_none() -> ConfigDir {
        ConfigDir { files: "/run/moored/c/check/files".into(), links: "/run/moored/c/check/links".into() }
    }

    /// What is mounted for a unit's config files, after all else.
    pub fn mounts(&self, unit: &Unit) -> Vec<Mount> {
        if unit.configs.is_empty() {
            return Vec::new();
        }
        let bind = |source: PathBuf, target: &str, options: &[&str]| {
            let options = options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>();
            MountBuilder::default().destination(target).typ("bind").source(source).options(options).build()
        };
        let directory = bind(self.files.clone(), CONFIG_MOUNT, &["bind", "ro", "nosuid", "nodev", "private"]);
        let link = |(n, config): (usize, &ConfigFile)| {
            let options = ["bind", "src-nofollow", "ro", "nosuid", "nodev", "private"];
            bind(self.links.join(n.to_string()), &config.target, &options)
        };
        // The builder fails only where a field without a default is missing, and there is none.
        std::iter::once(directory).chain(unit.configs.iter().enumerate().map(link)).filter_map(Result::ok).collect()
    }

    /// Makes all of it, for a container that is to start.
    pub fn make(&self, unit: &Unit, owner: Owner) -> Result<(), SwapError> {
        if unit.configs.is_empty() {
            return Ok(());
        }
        if let Some(unknown) = unit.configs.iter().find(|config| config.contents.is_none()) {
            return Err(SwapError::Unknown { path: unknown.source.clone() });
        }
        make_dir(&self.links)?;
        for (n, config) in unit.configs.iter().enumerate() {
            let link = self.links.join(n.to_string());
            remove(&link)?;
            symlink(format!("{CONFIG_MOUNT}/{DATA}/{n}/{}", config.name()), &link).map_err(about("symlink", &link))?;
        }
        self.swap(unit, owner)
    }

    /// Puts the contents that `unit` has in the place of those that are there, all as one; nothing, if they are there already.
    pub fn swap(&self, unit: &Unit, owner: Owner) -> Result<(), SwapError> {
        let name = format!("..{}", SwapMark::of(unit).unwrap_or_default().all);
        let data = self.files.join(DATA);
        let there = fs::read_link(&data).unwrap_or_default();
        if there == Path::new(&name) {
            return Ok(());
        }
        make_dir(&self.files)?;
        self.tidy(&there)?;
        if unit.configs.iter().any(|config| config.secret) {
            in_memory(&self.files)?;
        }
        let set = self.files.join(&name);
        remove(&set)?;
        make_dir(&set)?;
        for (n, config) in unit.configs.iter().enumerate() {
            let dir = set.join(n.to_string());
            make_dir(&dir)?;
            let bytes = config.contents.as_ref().map_or(&[][..], |contents| contents.bytes());
            write(&dir.join(config.name()), bytes, config.mode(), config.secret, owner)?;
        }
        let next = self.files.join(NEXT);
        remove(&next)?;
        symlink(&name, &next).map_err(about("symlink", &next))?;
        fs::rename(&next, &data).map_err(about("rename", &data))
    }

    /// Removes every set but the one that is there, and what a crash left.
    fn tidy(&self, there: &Path) -> Result<(), SwapError> {
        let entries = fs::read_dir(&self.files).map_err(about("list", &self.files))?;
        for entry in entries {
            let entry = entry.map_err(about("list", &self.files))?;
            if entry.file_name() != there && entry.file_name() != DATA {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// 0755, whatever the umask is.
fn make_dir(path: &Path) -> Result<(), SwapError> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .map_err(about("mkdir", path)),
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32, secret: bool, owner: Owner) -> Result<(), SwapError> {
    // Without a user namespace a secret's group stays root's.
    let group = (owner.root != 0).then_some(owner.root);
    let user = if secret { Some(owner.user) } else { group };
    let file = fs::File::options().write(true).create_new(true).mode(0o400).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fchown(&file, user, group)?;
        // Changing the owner takes set-id bits away, and nothing else.
        Ok(())
    });
    written.map_err(about("write", path))
}

/// Secrets are never written to a disk.
fn in_memory(path: &Path) -> Result<(), SwapError> {
    let found = rustix::fs::statfs(path).map_err(|errno| about("statfs", path)(errno.into()))?;
    match found.f_type {
        TMPFS_MAGIC | RAMFS_MAGIC => Ok(()),
        _ => Err(SwapError::OnDisk { path: path.to_owned() }),
    }
}

/// A file, a link or a whole directory; what is gone already is fine.
fn remove(path: &Path) -> Result<(), SwapError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(why) => Err(why),
    };
    match removed {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(about("remove", path)(why)),
        Ok(()) | Err(_) => Ok(()),
    }
}

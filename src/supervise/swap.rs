//! The config files of a container, below its directory in the run-dir:
//!
//! ```text
//! files/..data -> ..<mark>                      which contents it has
//! files/..<mark>/<n>/<name>                     the n-th file of the unit, 0444
//! links/<n> -> /dev/moored/..data/<n>/<name>    mounted at its target
//! ```
//!
//! `files` is mounted inside, read-only. Another set of contents is written beside the one that is there, and then `..data` is renamed
//! over: all files are other ones at once, and a reader has an old or a new one, whole. This is also the record of what the container has: a
//! swap that a crash cut short is done again from its beginning, one whose link was renamed is done.
//!
//! The directory goes with the container. Nothing in it is synced: it is of no use after a boot.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use crate::unit::{CONFIG_MOUNT, ConfigFile, ContainerId, SwapMark, Unit};

/// Which contents count.
const DATA: &str = "..data";
/// It, before it is renamed.
const NEXT: &str = "..next";

/// Which step failed.
#[derive(Debug, thiserror::Error)]
#[error("config files: {call} {}: {why}", path.display())]
pub struct SwapError {
    call: &'static str,
    path: PathBuf,
    #[source]
    why: io::Error,
}

fn about<'p>(call: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> SwapError + use<'p> {
    move |why| SwapError { call, path: path.to_owned(), why }
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
    pub fn make(&self, unit: &Unit) -> Result<(), SwapError> {
        if unit.configs.is_empty() {
            return Ok(());
        }
        make_dir(&self.links)?;
        for (n, config) in unit.configs.iter().enumerate() {
            let link = self.links.join(n.to_string());
            remove(&link)?;
            symlink(format!("{CONFIG_MOUNT}/{DATA}/{n}/{}", config.name()), &link).map_err(about("symlink", &link))?;
        }
        self.swap(unit)
    }

    /// Puts the contents that `unit` has in the place of those that are there, all as one; nothing, if they are there already.
    pub fn swap(&self, unit: &Unit) -> Result<(), SwapError> {
        let name = format!("..{}", SwapMark::of(unit).all);
        let data = self.files.join(DATA);
        if fs::read_link(&data).is_ok_and(|there| there == Path::new(&name)) {
            return self.tidy(&name);
        }
        make_dir(&self.files)?;
        let set = self.files.join(&name);
        remove(&set)?;
        make_dir(&set)?;
        for (n, config) in unit.configs.iter().enumerate() {
            let dir = set.join(n.to_string());
            make_dir(&dir)?;
            let bytes = config.contents.as_ref().map_or(&[][..], |contents| contents.bytes());
            write(&dir.join(config.name()), bytes)?;
        }
        let next = self.files.join(NEXT);
        remove(&next)?;
        symlink(&name, &next).map_err(about("symlink", &next))?;
        fs::rename(&next, &data).map_err(about("rename", &data))?;
        self.tidy(&name)
    }

    /// Removes every set but this one. Whoever has a file of it open keeps it.
    fn tidy(&self, name: &str) -> Result<(), SwapError> {
        let entries = fs::read_dir(&self.files).map_err(about("list", &self.files))?;
        for entry in entries {
            let entry = entry.map_err(about("list", &self.files))?;
            if entry.file_name() != name && entry.file_name() != DATA {
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

fn write(path: &Path, bytes: &[u8]) -> Result<(), SwapError> {
    let file = fs::File::options().write(true).create_new(true).mode(0o444).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(0o444))
    });
    written.map_err(about("write", path))
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

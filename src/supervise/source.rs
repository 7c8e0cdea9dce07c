//! A unit's source as it is found on the host: a bundle that holds a config.json, a rootfs that is a directory, an executable that can
//! stand alone; or what is wrong with it, and the cure.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::unit::{Condition, ELF_BYTES, NotStatic, Source, SourceFacts, Unit, check_executable};
use crate::watch::TEXT_MAX_BYTES;
use crate::watch::trusted::{FileKind, ReadError, Trust, TrustedFile, read_any, read_trusted, walk};

/// Why a source cannot be used. `key` is the unit file's: bundle, rootfs, executable.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing is there.
    #[error("{key} {} does not exist{}: create it or correct the path", .path.display(), first(.path, .missing))]
    Missing {
        /// Of the unit file.
        key: &'static str,
        /// As the unit names it.
        path: PathBuf,
        /// The first directory on the way that does not exist, or the path itself.
        missing: PathBuf,
    },
    /// A directory, but no bundle.
    #[error("bundle {0} holds no config.json: `moored oci spec --bundle {0}` writes one", .path.display())]
    NoConfig {
        /// The bundle.
        path: PathBuf,
    },
    /// Something of another kind.
    #[error("{key} {} is {found}, expected {expected}{}", .path.display(), other(.found))]
    Kind {
        /// Of the unit file.
        key: &'static str,
        /// As the unit names it.
        path: PathBuf,
        /// What is there.
        found: FileKind,
        /// What should be.
        expected: &'static str,
    },
    /// The mode has no execute bit.
    #[error("executable {0} may not be executed: chmod +x {0}", .path.display())]
    NotExecutable {
        /// As the unit names it.
        path: PathBuf,
    },
    /// It needs more than itself.
    #[error("executable {}: {why}", .path.display())]
    NotStatic {
        /// As the unit names it.
        path: PathBuf,
        /// Why.
        #[source]
        why: NotStatic,
    },
    /// The way there, or config.json itself, cannot be or is not to be read.
    #[error("{key}: {why}")]
    Refused {
        /// Of the unit file.
        key: &'static str,
        /// Why.
        #[source]
        why: ReadError,
    },
    /// A system call failed.
    #[error("{key} {} cannot be looked at: {why}", .path.display())]
    Look {
        /// Of the unit file.
        key: &'static str,
        /// As the unit names it.
        path: PathBuf,
        /// Why.
        #[source]
        why: io::Error,
    },
}

fn first(path: &Path, missing: &Path) -> String {
    if path == missing { String::new() } else { format!(" ({} is missing)", missing.display()) }
}

/// The key that may have been meant.
fn other(found: &FileKind) -> &'static str {
    match found {
        FileKind::File => ": for a program write `executable`",
        FileKind::Directory => ": for a directory write `rootfs` or `bundle`",
        FileKind::Link | FileKind::Fifo | FileKind::Device | FileKind::Socket | FileKind::Unknown => "",
    }
}

impl SourceError {
    /// From a walk to the source at `path`.
    pub fn refused(key: &'static str, path: &Path, why: ReadError) -> SourceError {
        match why {
            ReadError::Missing { path: missing } if missing == path.join("config.json") => {
                SourceError::NoConfig { path: path.to_owned() }
            }
            ReadError::Missing { path: missing } => SourceError::Missing { key, path: path.to_owned(), missing },
            ReadError::NotDirectory { path: at, found } if at == path => {
                SourceError::Kind { key, path: at, found, expected: "a directory" }
            }
            why => SourceError::Refused { key, why },
        }
    }

    /// Whether this user may just not look.
    pub fn is_denied(&self) -> bool {
        match self {
            SourceError::Refused { why: ReadError::Open { errno, .. }, .. } => *errno == Errno::ACCESS,
            SourceError::Look { why, .. } => why.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}

/// Finds a source as the supervisor does; without `trust`, whoever owns it.
pub fn find(source: &Source, trust: Option<&Trust>) -> Result<SourceFacts, SourceError> {
    let refused = |why| SourceError::refused(source.key(), source.path(), why);
    match source {
        Source::Bundle(path) => {
            let config = path.join("config.json");
            let read = match trust {
                Some(trust) => read_trusted(&config, trust, TEXT_MAX_BYTES),
                None => read_any(&config, TEXT_MAX_BYTES),
            };
            read.map(|file| of_bundle(path, file)).map_err(refused)
        }
        Source::Host => Ok(of_host()),
        Source::Rootfs(path) => rootfs(path, walk(path, None, &mut Vec::new()).map_err(refused)?.resolved),
        Source::Layers(paths) => {
            let each = paths.iter().map(|path| {
                let found = walk(path, None, &mut Vec::new());
                rootfs(path, found.map_err(|why| SourceError::refused("rootfs", path, why))?.resolved)
            });
            Ok(stacked(each.collect::<Result<Vec<_>, _>>()?.iter().map(|facts| &facts.resolved)))
        }
        Source::Executable(path) => executable(path, walk(path, None, &mut Vec::new()).map_err(refused)?.resolved),
    }
}

/// The host's root is there.
pub fn of_host() -> SourceFacts {
    SourceFacts { resolved: PathBuf::from("/"), config_json: None, layers: Vec::new() }
}

/// What was found of each layer, put together.
pub fn of_layers(each: Vec<Result<Arc<SourceFacts>, String>>) -> Result<Arc<SourceFacts>, String> {
    let wrong: Vec<&str> = each.iter().filter_map(|found| found.as_ref().err()).map(String::as_str).collect();
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    Ok(Arc::new(stacked(each.iter().flatten().map(|facts| &facts.resolved))))
}

fn stacked<'p>(layers: impl Iterator<Item = &'p PathBuf>) -> SourceFacts {
    let layers: Vec<PathBuf> = layers.cloned().collect();
    SourceFacts { resolved: layers.last().cloned().unwrap_or_default(), config_json: None, layers }
}

fn of_bundle(path: &Path, file: TrustedFile) -> SourceFacts {
    let resolved = file.resolved.parent().unwrap_or(path).to_owned();
    SourceFacts { resolved, config_json: Some(file.bytes.into()), layers: Vec::new() }
}

/// `path` as a rootfs; `resolved` is where its links lead.
pub fn rootfs(path: &Path, resolved: PathBuf) -> Result<SourceFacts, SourceError> {
    let key = "rootfs";
    let found = std::fs::metadata(&resolved).map_err(|why| SourceError::Look { key, path: path.to_owned(), why })?;
    match FileKind::of(found.mode()) {
        FileKind::Directory => Ok(SourceFacts { resolved, config_json: None, layers: Vec::new() }),
        found => Err(SourceError::Kind { key, path: path.to_owned(), found, expected: "a directory" }),
    }
}

/// `path` as an executable; `resolved` is where its links lead.
pub fn executable(path: &Path, resolved: PathBuf) -> Result<SourceFacts, SourceError> {
    let key = "executable";
    let look = |why| SourceError::Look { key, path: path.to_owned(), why };
    // Looked at before it is opened, and opened without waiting: somebody may have put a FIFO or a device there.
    let found = std::fs::metadata(&resolved).map_err(look)?;
    let kind = FileKind::of(found.mode());
    if kind != FileKind::File {
        return Err(SourceError::Kind { key, path: path.to_owned(), found: kind, expected: "a static program" });
    }
    if found.mode() & 0o111 == 0 {
        return Err(SourceError::NotExecutable { path: path.to_owned() });
    }
    let head = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&resolved);
    let head = head.and_then(read_head).map_err(look)?;
    check_executable(&head).map_err(|why| SourceError::NotStatic { path: path.to_owned(), why })?;
    Ok(SourceFacts { resolved, config_json: None, layers: Vec::new() })
}

/// Looked at once more right before a start: what the watch said may be as old as its way through the mailbox. In words, if the disk is gone.
pub fn check_mount_points(unit: &Unit) -> Result<(), String> {
    for condition in &unit.conditions {
        let Condition::MountPoint(path) = condition else { continue };
        let found = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS);
        if !found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
            return Err(format!("{} is no mount point any more: nothing starts on the bare directory", path.display()));
        }
    }
    Ok(())
}

fn read_head(file: File) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(ELF_BYTES);
    file.take(ELF_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{UnitName, parse};

    #[test]
    fn a_mount_point_is_looked_at_before_a_start() {
        let unit = |source: &str| {
            let text = format!(
                "bundle = \"/b\"\n[[mount]]\nsource = \"{source}\"\ntarget = \"/x\"\nrequire_mountpoint = true\n"
            );
            parse(&UnitName::new("db").unwrap(), Path::new("db.toml"), &text).unwrap().unit
        };
        assert_eq!(check_mount_points(&unit("/proc")), Ok(()));
        for bare in ["/proc/self/", "/nowhere/at/all"] {
            assert!(check_mount_points(&unit(bare)).unwrap_err().contains("no mount point any more"), "{bare}");
        }
    }
}

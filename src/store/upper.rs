//! The writable layers that are kept: `STATE/upper/<unit>`, a directory for each unit.
//!
//! | in it | what it is |
//! |---|---|
//! | `upper` | what the unit's containers wrote, as overlayfs has it |
//! | `work` | overlayfs's own |
//! | `layers` | on which layers it was made: their paths and the inodes of their roots |
//!
//! - What is written counts only above the layers that it was made on: a file that was copied up hides what a newer layer has in its place.
//!   So another list, another order or another directory at the same path is refused, unless the unit says that it may be.
//! - `layers` is written last: without it the layer is still being made, and nothing was written into it.
//! - The directory is locked (flock(2)) while a container of a supervisor's may write. A supervisor that begins anew takes the locks again.
//! - It goes only by hand: a unit that is removed may come back.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::atomic::{Dir, Durability, Read};
use super::index::{PathText, json_of};
use super::{StoreError, index};
use crate::compact;
use crate::unit::{OnLayersChange, UnitName};

/// In the state-dir.
const UPPER: &str = "upper";
const LAYERS: &str = "layers";

/// A layer that is kept, and that nobody else writes as long as this is there.
#[derive(Debug)]
pub struct KeptUpper {
    /// Where `upper` and `work` are.
    pub dir: PathBuf,
    /// Its lock.
    pub lock: OwnedFd,
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpperError {
    /// Another container may write into it.
    #[error("the layer kept in {} is in use: another supervisor has a container on it", .0.display())]
    InUse(PathBuf),
    /// It belongs to something else.
    #[error(
        "the layer kept in {} {changed}: put that back, or write upper.on_change = \"keep\" to lay it onto what is there \
         now, or remove the directory to begin with an empty one", .dir.display()
    )]
    Changed {
        /// Where it is.
        dir: PathBuf,
        /// In words.
        changed: String,
    },
    /// It cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A system call failed.
    #[error("{}: {call}: {errno}", .path.display())]
    Call {
        /// Which.
        call: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
}

/// One layer as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Layer {
    path: PathText,
    inode: u64,
}

/// The layer of a unit, made where there is none.
pub fn open_upper(
    state: &Path,
    unit: &UnitName,
    layers: &[PathBuf],
    on_change: OnLayersChange,
) -> Result<KeptUpper, UpperError> {
    // Made first, so that it is found out whether it is ours.
    Dir::open(&state.join(UPPER))?;
    let path = dir_of(state, unit);
    let dir = Dir::open(&path)?;
    let lock = lock(&path)?;
    let now: Vec<Layer> = layers.iter().map(|path| layer(path)).collect::<Result<_, _>>()?;
    let changed = match dir.read(LAYERS)? {
        Read::Missing => {
            make(&path, layers)?;
            None
        }
        Read::PutAside(note) => Some(format!("does not say any more what it was made on ({})", note.text)),
        Read::Found(bytes) => match compact::from_json::<Vec<Layer>>(&bytes) {
            Err(why) => Some(format!("does not say what it was made on ({why})")),
            Ok(before) if before == now => return Ok(KeptUpper { dir: path, lock }),
            Ok(before) => Some(difference(&before, &now)),
        },
    };
    match (changed, on_change) {
        (Some(changed), OnLayersChange::Refuse) => return Err(UpperError::Changed { dir: path, changed }),
        (Some(_), OnLayersChange::Keep) | (None, _) => {}
    }
    dir.write(LAYERS, &json_of(&path.join(LAYERS), &now)?, Durability::Sync)?;
    Ok(KeptUpper { dir: path, lock })
}

/// Takes the lock again for a container that runs, if its unit has such a layer.
pub fn lock_again(state: &Path, unit: &UnitName) -> Option<OwnedFd> {
    lock(&dir_of(state, unit)).ok()
}

/// What a unit wrote into its layer, if it has one.
pub fn kept_upper(state: &Path, unit: &UnitName) -> Option<PathBuf> {
    Some(dir_of(state, unit).join("upper")).filter(|upper| upper.is_dir())
}

fn dir_of(state: &Path, unit: &UnitName) -> PathBuf {
    state.join(UPPER).join(unit.as_str())
}

fn lock(path: &Path) -> Result<OwnedFd, UpperError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open", path))?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        Errno::WOULDBLOCK => UpperError::InUse(path.to_owned()),
        errno => failed("flock", path)(errno),
    })?;
    Ok(fd)
}

fn layer(path: &Path) -> Result<Layer, UpperError> {
    let found = rustix::fs::stat(path).map_err(failed("stat", path))?;
    Ok(Layer { path: PathText::of(path), inode: found.st_ino })
}

/// Both directories, or what an attempt before did not come to. A union's root looks like that of its upper layer: as the highest one has it.
fn make(path: &Path, layers: &[PathBuf]) -> Result<(), UpperError> {
    let (upper, top) = (path.join("upper"), layers.last().map_or(Path::new("/"), PathBuf::as_path));
    for dir in [&upper, &path.join("work")] {
        match rustix::fs::mkdir(dir, Mode::from(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("mkdir", dir)(errno)),
        }
    }
    let like = rustix::fs::stat(top).map_err(failed("stat", top))?;
    let (uid, gid) = (Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)));
    rustix::fs::chownat(CWD, &upper, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("chown", &upper))?;
    rustix::fs::chmod(&upper, Mode::from_raw_mode(like.st_mode & 0o7777)).map_err(failed("chmod", &upper))
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(Errno) -> UpperError {
    move |errno| UpperError::Call { call, path: path.to_owned(), errno }
}

fn difference(before: &[Layer], now: &[Layer]) -> String {
    let same_paths = before.iter().map(|layer| &layer.path).eq(now.iter().map(|layer| &layer.path));
    let replaced = before.iter().zip(now).find(|(before, now)| same_paths && before.inode != now.inode);
    match replaced {
        Some((_, now)) => format!("was made on another directory at {}", now.path),
        None => format!("was made on {}, and the layers are {}", List(before), List(now)),
    }
}

struct List<'l>(&'l [Layer]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, layer) in self.0.iter().enumerate() {
            write!(f, "{}{}", if n == 0 { "" } else { ", " }, layer.path)?;
        }
        Ok(())
    }
}

impl fmt::Display for index::PathText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.clone().into_path().display())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Temp {
            let dir = std::env::temp_dir().join(format!("moored-upper-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            ["state", "base", "app", "new"].iter().for_each(|name| fs::create_dir_all(dir.join(name)).unwrap());
            fs::set_permissions(dir.join("state"), fs::Permissions::from_mode(0o700)).unwrap();
            Temp(dir)
        }

        fn open(&self, layers: &[&str], on_change: OnLayersChange) -> Result<KeptUpper, UpperError> {
            let layers: Vec<PathBuf> = layers.iter().map(|name| self.0.join(name)).collect();
            open_upper(&self.0.join("state"), &UnitName::new("web").unwrap(), &layers, on_change)
        }

        fn refused(&self, layers: &[&str]) -> String {
            let error = self.open(layers, OnLayersChange::Refuse).unwrap_err();
            error.to_string().replace(&format!("{}/", self.0.display()), "")
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_kept_lies_on_the_layers_it_was_made_on() {
        let temp = Temp::new("changed");
        fs::set_permissions(temp.0.join("app"), fs::Permissions::from_mode(0o1750)).unwrap();
        let kept = temp.open(&["base", "app"], OnLayersChange::Refuse).unwrap();
        let upper = kept.dir.join("upper");
        assert_eq!(fs::metadata(&upper).unwrap().permissions().mode() & 0o7777, 0o1750, "as the highest layer");
        fs::write(upper.join("data"), "x").unwrap();
        drop(kept);
        drop(temp.open(&["base", "app"], OnLayersChange::Refuse).unwrap());
        let cure = ": put that back, or write upper.on_change = \"keep\" to lay it onto what is there now, or remove the \
                    directory to begin with an empty one";
        for layers in [&["app", "base"][..], &["base"], &["base", "new"]] {
            let says = format!(
                "the layer kept in state/upper/web was made on base, app, and the layers are {}{cure}",
                layers.join(", ")
            );
            assert_eq!(temp.refused(layers), says);
        }
        fs::rename(temp.0.join("new"), temp.0.join("renamed")).unwrap();
        fs::rename(temp.0.join("app"), temp.0.join("new")).unwrap();
        fs::rename(temp.0.join("renamed"), temp.0.join("app")).unwrap();
        assert_eq!(
            temp.refused(&["base", "app"]),
            format!("the layer kept in state/upper/web was made on another directory at app{cure}")
        );
        drop(temp.open(&["base", "app"], OnLayersChange::Keep).unwrap());
        drop(temp.open(&["base", "app"], OnLayersChange::Refuse).expect("it is what it lies on now"));
        assert_eq!(fs::read_to_string(upper.join("data")).unwrap(), "x");
    }

    #[test]
    fn one_at_a_time_has_it() {
        let temp = Temp::new("lock");
        let first = temp.open(&["base"], OnLayersChange::Refuse).unwrap();
        assert_eq!(
            temp.refused(&["base"]),
            "the layer kept in state/upper/web is in use: another supervisor has a container on it"
        );
        drop(first);
        let again = lock_again(&temp.0.join("state"), &UnitName::new("web").unwrap());
        assert!(again.is_some() && temp.refused(&["base"]).contains("is in use"));
        assert!(lock_again(&temp.0.join("state"), &UnitName::new("db").unwrap()).is_none());
    }

    #[test]
    fn a_torn_record_is_not_taken_for_none() {
        let temp = Temp::new("torn");
        let kept = temp.open(&["base"], OnLayersChange::Refuse).unwrap();
        fs::write(kept.dir.join("layers"), "garbage").unwrap();
        drop(kept);
        assert!(temp.refused(&["base"]).contains("does not say any more what it was made on"));
        drop(temp.open(&["base"], OnLayersChange::Keep).unwrap());
        drop(temp.open(&["base"], OnLayersChange::Refuse).unwrap());
    }

    #[test]
    fn one_that_was_not_made_to_the_end_is_made_again() {
        let temp = Temp::new("half");
        let kept = temp.open(&["base"], OnLayersChange::Refuse).unwrap();
        fs::remove_file(kept.dir.join("layers")).unwrap();
        fs::remove_dir(kept.dir.join("work")).unwrap();
        drop(kept);
        let kept = temp.open(&["base"], OnLayersChange::Refuse).unwrap();
        assert!(kept.dir.join("work").is_dir() && kept.dir.join("layers").is_file());
    }
}

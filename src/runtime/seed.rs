//! What a tmpfs root is filled with: a few directories and files, and files of the host's bound read-only.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, fchmod, openat};
use rustix::io::Errno;

use super::error::{StepError, about, errno_of};
use super::mount::{attach, clone_tree, set_readonly};
use super::root::{Root, open_path};

/// Makes the directories and files and binds the rest.
pub(super) fn fill(
    root: &Root,
    dirs: &[String],
    files: &[(String, Vec<u8>)],
    binds: &[(PathBuf, String)],
    copies: Option<Vec<Option<OwnedFd>>>,
) -> Result<(), StepError> {
    for path in dirs {
        let made = root.ensure_dir(path)?;
        if path == "/tmp" {
            let open = openat(&made, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            open.and_then(|open| fchmod(open, Mode::from_bits_truncate(0o1777))).map_err(about("chmod", path))?;
        }
    }
    for (path, contents) in files {
        let (parent, name) = root.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&parent, name, flags, Mode::from_bits_truncate(0o644)).map_err(about("create", path))?;
        File::from(file).write_all(contents).map_err(|error| about("write", path)(errno_of(&error)))?;
    }
    let copies = copies.map_or_else(|| copy(binds), Ok)?;
    for ((_, target), tree) in binds.iter().zip(copies) {
        let place = root.ensure_file(target)?;
        let Some(tree) = tree else { continue };
        set_readonly(&tree)?;
        attach(&tree, place.as_fd()).map_err(about("move_mount", target))?;
    }
    Ok(())
}

/// Copies of what is bound, in its order. Only the last one has to be there.
pub(super) fn copy(binds: &[(PathBuf, String)]) -> Result<Vec<Option<OwnedFd>>, StepError> {
    let last = binds.len().saturating_sub(1);
    let one = |(at, (source, _)): (usize, &(PathBuf, String))| match open_path(source) {
        Ok(from) => clone_tree(from.as_fd(), false).map(Some).map_err(about("open_tree", source)),
        Err(Errno::NOENT) if at != last => Ok(None),
        Err(errno) => Err(about("open", source)(errno)),
    };
    binds.iter().enumerate().map(one).collect()
}

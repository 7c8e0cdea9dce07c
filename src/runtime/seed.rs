//! What a tmpfs root is filled with: a few directories and files, and files of the host's bound read-only.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

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
    let last = binds.len().saturating_sub(1);
    binds.iter().enumerate().try_for_each(|(at, (source, target))| bind(root, source, target, at == last))
}

fn bind(root: &Root, source: &Path, target: &str, required: bool) -> Result<(), StepError> {
    let place = root.ensure_file(target)?;
    let from = match open_path(source) {
        Ok(from) => from,
        Err(Errno::NOENT) if !required => return Ok(()),
        Err(errno) => return Err(about("open", source)(errno)),
    };
    let tree = clone_tree(from.as_fd(), false).map_err(about("open_tree", source))?;
    set_readonly(&tree)?;
    attach(&tree, place.as_fd()).map_err(about("move_mount", target))
}

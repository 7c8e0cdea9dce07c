//! `moored upgrade`: brings the keeper another program, and says what came of it.
//!
//! The file is read here, whatever disk it is on, checked as unit files are, and handed over in a sealed memfd: what was checked is what
//! runs. All else is the keeper's (`keeper/upgrade.rs`), which goes on with it whether this process waits or not.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{Failure, print};
use crate::control::ConnectError;
use crate::keeper::{self, Builds, ClientError};
use crate::sys::image;
use crate::watch::trusted::{ReadError, Trust, read_trusted};

/// Longest program, in bytes: a build with all its symbols is a third of it.
const PROGRAM_BYTES_MAX: u64 = 256 << 20;

/// Why a file is not handed over.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Nobody has said where it is.
    #[error(
        "the path that `moored up` was started from is not known: say which program is to take over, `moored upgrade PATH`"
    )]
    Unknown,
    /// It cannot be read, or others could have written it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Memory.
    #[error("a copy in memory: {0}")]
    Copy(#[from] io::Error),
}

/// Replaces anchor, keeper and supervisor by this program, and waits for that: 0 if all three run it.
pub(super) fn upgrade(run_dir: &Path, program: Option<PathBuf>) -> Result<u8, Failure> {
    let before = keeper::builds(run_dir).map_err(|error| unavailable(run_dir, error))?;
    let path = match program {
        Some(path) => std::path::absolute(&path).unwrap_or(path),
        None if before.program.is_empty() => return Err(Failure::Program(ProgramError::Unknown)),
        None => OsString::from_vec(before.program.clone()).into(),
    };
    let image = sealed(&path).map_err(Failure::Program)?;
    let refused = |message: String| Failure::Refused { message: format!("{}: {message}", path.display()), code: 1 };
    match keeper::upgrade(run_dir, image.as_fd()) {
        Ok(upgraded) => match upgraded.trouble {
            None => print(&done(&before, &upgraded.builds)).map(|()| 0),
            Some(why) if upgraded.builds == before => Err(refused(format!("{why}. Nothing was changed"))),
            Some(why) => Err(refused(format!("{why}. Now {}", words(&upgraded.builds)))),
        },
        // The anchor takes its place, on the same socket.
        Err(ClientError::Gone { .. }) => {
            let builds = keeper::builds(run_dir).map_err(|error| unavailable(run_dir, error))?;
            Err(refused(format!("the keeper died on the way, and the anchor took its place. Now {}", words(&builds))))
        }
        Err(error) => Err(error.into()),
    }
}

fn sealed(path: &Path) -> Result<std::os::fd::OwnedFd, ProgramError> {
    let trust = Trust::new(rustix::process::geteuid().as_raw());
    let file = read_trusted(path, &trust, PROGRAM_BYTES_MAX)?;
    Ok(image::sealed(&mut file.bytes.as_slice(), c"moored")?)
}

/// In the words that every other command has for it.
fn unavailable(run_dir: &Path, error: ClientError) -> Failure {
    match error {
        ClientError::Gone { .. } if !run_dir.exists() => ConnectError::NoRunDir(run_dir.to_owned()).into(),
        ClientError::Gone { path, errno } => {
            let why = io::Error::from(errno).to_string();
            ConnectError::NoSupervisor { run_dir: run_dir.to_owned(), socket: path, why }.into()
        }
        error => error.into(),
    }
}

fn done(before: &Builds, now: &Builds) -> String {
    match is_one(before) {
        true => format!("{}, before {}\n", words(now), before.keeper),
        false => format!("{}; before, {}\n", words(now), words(before)),
    }
}

/// Whether those that are there are of one build.
fn is_one(builds: &Builds) -> bool {
    let is_same = |build: &String| *build == builds.keeper;
    builds.anchor.as_ref().is_none_or(is_same) && builds.supervisor.as_ref().is_some_and(is_same)
}

/// `anchor, keeper and supervisor run 0.2.0`, or each by itself.
fn words(builds: &Builds) -> String {
    let of = |build: &Option<String>| build.clone().unwrap_or_else(|| "none".to_owned());
    let (anchor, keeper, supervisor) = (of(&builds.anchor), &builds.keeper, of(&builds.supervisor));
    match (is_one(builds), &builds.anchor) {
        (true, Some(_)) => format!("anchor, keeper and supervisor run {keeper}"),
        (true, None) => format!("keeper and supervisor run {keeper}, and there is no anchor"),
        (false, _) => format!("the anchor runs {anchor}, the keeper {keeper}, the supervisor {supervisor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builds(anchor: Option<&str>, keeper: &str, supervisor: Option<&str>) -> Builds {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Builds { anchor: owned(anchor), keeper: keeper.to_owned(), supervisor: owned(supervisor), program: Vec::new() }
    }

    #[test]
    fn what_runs_is_said_in_words() {
        let same = builds(Some("2"), "2", Some("2"));
        assert_eq!(words(&same), "anchor, keeper and supervisor run 2");
        assert_eq!(words(&builds(None, "2", Some("2"))), "keeper and supervisor run 2, and there is no anchor");
        let mixed = builds(Some("1"), "2", None);
        assert_eq!(words(&mixed), "the anchor runs 1, the keeper 2, the supervisor none");
        assert_eq!(done(&builds(Some("1"), "1", Some("1")), &same), "anchor, keeper and supervisor run 2, before 1\n");
        let from_mixed = done(&mixed, &same);
        assert!(from_mixed.ends_with(" run 2; before, the anchor runs 1, the keeper 2, the supervisor none\n"));
    }
}

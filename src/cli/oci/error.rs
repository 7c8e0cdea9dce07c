//! What can go wrong with a command, in words that clients of runc match on.

use std::path::PathBuf;

use crate::cli::Failure;
use crate::oci::CompileError;
use crate::runtime::container::ContainerError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// About a container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// No process inside.
    #[error(transparent)]
    Join(#[from] crate::runtime::JoinError),
    /// No config.json.
    #[error("{}: {source}: expected a bundle there, `spec` writes one to start from", path.display())]
    NoConfig {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// All that is wrong in a JSON file.
    #[error("{}", lines(path, errors))]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong where.
        errors: Vec<CompileError>,
    },
    /// A file or directory.
    #[error("{call} {}: {source}", path.display())]
    File {
        /// What was tried.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `spec` overwrites nothing.
    #[error("File {} exists. Remove it first", .0.display())]
    ConfigExists(PathBuf),
    /// runc's rules about terminals.
    #[error("{0}")]
    Console(&'static str),
    /// No such signal.
    #[error("unknown signal {0:?}")]
    Signal(String),
    /// A value that does not read.
    #[error("{what} {found:?}: expected {expected}")]
    Value {
        /// Of which option.
        what: &'static str,
        /// As it was given.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// Fewer descriptors are open than are to be passed on.
    #[error("--preserve-fds {wanted}: descriptor {missing} is not open")]
    NoDescriptor {
        /// How many were asked for.
        wanted: u16,
        /// The first that is not there.
        missing: i32,
    },
    /// The host's ps(1) failed.
    #[error("ps {options}: {said}")]
    PsFailed {
        /// How it was called.
        options: String,
        /// What it said.
        said: String,
    },
    /// No column to know the container's processes by.
    #[error("ps {options}: prints no column called PID, expected options with which it does")]
    NoPidColumn {
        /// How it was called.
        options: String,
    },
    /// Not done by this version.
    #[error("{0} is not supported by this version")]
    NotYet(String),
    /// The caller's terminal or standard output.
    #[error(transparent)]
    Terminal(#[from] Failure),
    /// Running from where nobody can write.
    #[error("running from a file that no container can write: {0}")]
    Seal(std::io::Error),
    /// Another user's container is in a user namespace.
    #[error(
        "a user other than root {0} containers in a user namespace only: linux.namespaces needs an entry {{\"type\": \"user\"}} with \
         uidMappings and gidMappings beside it, as `spec --rootless` writes them"
    )]
    NotRoot(&'static str),
    /// No place for the state of an ordinary user's containers.
    #[error("no place for the state of containers: expected XDG_RUNTIME_DIR in the environment, or --root")]
    NoRunDir,
    /// A call.
    #[error("{call}: {source}")]
    Call {
        /// Which.
        call: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn lines(path: &std::path::Path, errors: &[CompileError]) -> String {
    let lines: Vec<String> = errors.iter().map(|error| format!("{}: {error}", path.display())).collect();
    lines.join("\n")
}

pub(super) fn file(call: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> OciError {
    let path = path.into();
    move |source| OciError::File { call, path, source }
}

pub(super) fn call<E: Into<std::io::Error>>(call: &'static str) -> impl FnOnce(E) -> OciError {
    move |source| OciError::Call { call, source: source.into() }
}

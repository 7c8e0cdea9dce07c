//! What somebody at the command line asks the keeper itself: which builds run, and to replace them.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;

use super::SOCKET_NAME;
use super::client::{ClientError, hello, next_message, send_request_with};
use super::wire::{Builds, Message, Request, Role};

/// How an upgrade ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// What was not done, and why.
    pub trouble: Option<String>,
    /// What runs now.
    pub builds: Builds,
}

/// Which builds run.
pub fn builds(run_dir: &Path) -> Result<Builds, ClientError> {
    answer(run_dir, &Request::Builds, &[], |message| match message {
        Message::Builds(builds) => Some(builds),
        _ => None,
    })
}

/// Has all three replaced by `program`, a sealed memfd, and waits for the end. [`ClientError::Gone`] with CONNRESET: the keeper died on the
/// way.
pub fn upgrade(run_dir: &Path, program: BorrowedFd<'_>) -> Result<Upgraded, ClientError> {
    answer(run_dir, &Request::Upgrade, &[program], |message| match message {
        Message::Upgraded { trouble, builds } => Some(Upgraded { trouble, builds }),
        _ => None,
    })
}

/// Asks, and waits for the message that is the answer.
fn answer<T>(
    run_dir: &Path,
    request: &Request,
    fds: &[BorrowedFd<'_>],
    answer_of: impl Fn(Message) -> Option<T>,
) -> Result<T, ClientError> {
    let path = run_dir.join(SOCKET_NAME);
    let socket = hello(&path, Role::Observer)?;
    send_request_with(socket.as_fd(), request, fds)?;
    loop {
        match next_message(socket.as_fd())? {
            Some(Message::Denied { errno, pid }) => return Err(ClientError::Denied { errno, pid }),
            Some(message) => {
                if let Some(answer) = answer_of(message) {
                    return Ok(answer);
                }
            }
            None => return Err(ClientError::Gone { path, errno: Errno::CONNRESET }),
        }
    }
}

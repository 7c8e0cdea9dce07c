//! The read end of a setup's report pipe.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::runtime::Failure;

/// How far a setup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Nothing was said yet.
    Pending,
    /// The pipe was closed, by execve(2) or by a death.
    Closed,
    /// A step failed: which and why.
    Failed(Failure),
}

/// Reads what there is, without waiting. A failure is written at once and is smaller than a page, so it comes whole (pipe(7)).
pub fn read(pipe: BorrowedFd<'_>) -> Report {
    let mut bytes = [0u8; Failure::MAX_BYTES];
    loop {
        match rustix::io::read(pipe, &mut bytes) {
            Ok(0) => return Report::Closed,
            Ok(length) => return Report::Failed(decoded(bytes.get(..length).unwrap_or_default())),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Report::Pending,
            Err(errno) => return Report::Failed(unreadable(format!("reading the report of its setup: {errno}"))),
        }
    }
}

fn decoded(bytes: &[u8]) -> Failure {
    postcard::from_bytes(bytes)
        .unwrap_or_else(|error| unreadable(format!("the report of its setup does not decode: {error}")))
}

fn unreadable(text: String) -> Failure {
    Failure { step: 0, errno: 0, text, program: false }
}

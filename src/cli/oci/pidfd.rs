//! `--pidfd-socket`: whoever listens there gets a pidfd of the process, and so can wait for it or signal it without meeting another one
//! that has got its number since.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::error::{OciError, call, file};

/// What the message says beside the descriptor: runc's names of its two kinds of processes.
#[derive(Debug, Clone, Copy)]
pub enum Whose {
    /// The container's first process.
    Init,
    /// One that joined it.
    Exec,
}

/// Connected before there is a process: a wrong path makes no container.
pub fn connect(path: Option<&Path>) -> Result<Option<UnixStream>, OciError> {
    path.map(|path| UnixStream::connect(path).map_err(file("connect to the pidfd socket", path))).transpose()
}

/// Sends it, if somebody wants it.
pub fn send(socket: Option<&UnixStream>, pidfd: BorrowedFd<'_>, whose: Whose) -> Result<(), OciError> {
    let Some(socket) = socket else { return Ok(()) };
    let name: &[u8] = match whose {
        Whose::Init => b"standard",
        Whose::Exec => b"setns",
    };
    let fds = [pidfd];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(socket.as_fd(), &[IoSlice::new(name)], &mut control, SendFlags::NOSIGNAL);
    sent.map(drop).map_err(call("send the pidfd"))
}

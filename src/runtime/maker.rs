//! Between a process that sets itself up and its maker, who runs hooks for it: a socket pair of whole messages.
//!
//! | process | maker |
//! |---|---|
//! | says that it is there; the kernel adds its number as the maker sees it | runs prestart and createRuntime |
//! | goes on, or fails with these words | answers: nothing, or the words of the failure |
//! | executes the program, or ends: its end of the socket closes | if the program was executed, runs poststart |
//!
//! A maker that is gone closes the socket, and the process fails.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType, recv,
    recvmsg, send, socketpair,
};

use super::error::{StepError, call};
use super::hook::HookError;
use super::slots::Slots;

/// What a process says when it is ready.
const READY: &[u8] = b"ready";
/// The longest answer.
const ANSWER_MAX: usize = 4096;
/// What an answer begins with.
const OK: u8 = 0;
const FAILED: u8 = 1;

/// The maker's end.
#[derive(Debug)]
pub(super) struct Maker(OwnedFd);

/// Both ends; the other is for [`Slots::maker`].
pub(super) fn pair() -> io::Result<(Maker, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_passcred(&ours, true)?;
    Ok((Maker(ours), theirs))
}

/// As the process: tells that it is ready and waits for the answer.
pub(super) fn ask(slots: &Slots) -> Result<(), StepError> {
    let socket = slots.maker.as_ref().ok_or(StepError::EmptySlot { slot: "the maker" })?;
    retry_on_intr(|| send(socket, READY, SendFlags::NOSIGNAL)).map_err(|_| StepError::NoMaker)?;
    let mut answer = [0u8; ANSWER_MAX];
    let (length, _) =
        retry_on_intr(|| recv(socket, &mut answer, RecvFlags::empty())).map_err(call("hear of the hooks"))?;
    match answer.get(..length).unwrap_or_default() {
        [OK] => Ok(()),
        [FAILED, text @ ..] => Err(StepError::Hook { text: String::from_utf8_lossy(text).into_owned() }),
        _ => Err(StepError::NoMaker),
    }
}

impl Maker {
    /// Waits for the process; its number, or `None` where it ended before.
    pub(super) fn await_process(&self) -> Option<i32> {
        let mut bytes = [0u8; READY.len()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = retry_on_intr(|| recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)).ok()?;
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid.as_raw_nonzero().get()),
            _ => None,
        });
        sender.filter(|_| got.bytes == READY.len())
    }

    /// Lets it go on, or says why not.
    pub(super) fn answer(&self, done: &Result<(), HookError>) {
        let mut answer = vec![if done.is_ok() { OK } else { FAILED }];
        answer.extend(done.as_ref().err().map(HookError::to_string).unwrap_or_default().bytes().take(ANSWER_MAX - 1));
        // One that ended meanwhile needs none.
        let _ = retry_on_intr(|| send(&self.0, &answer, SendFlags::NOSIGNAL));
    }

    /// Waits until the program is executed, or the process has ended.
    pub(super) fn await_program(&self) {
        let mut byte = [0u8; 1];
        let _ = retry_on_intr(|| recv(&self.0, &mut byte, RecvFlags::empty()));
    }
}

impl AsFd for Maker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

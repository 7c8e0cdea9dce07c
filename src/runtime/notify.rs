//! Handing the listener of a filter to the agent that answers its calls (runtime-spec, config-linux.md "The Container Process State").
//!
//! The socket is connected while the host's paths are in reach, with the caller's rights: by the process before it changes its root, or by
//! the helper where there is one. What is said over it is one message: the state as JSON, the listener beside it. All of it is made
//! ready before the filter is loaded: behind that, sendmsg(2) is the only call of ours that may not wait for the agent, who has not heard
//! of the filter yet. Every other one he may already answer.
//!
//! The connection does not wait: an agent that has too many waiting for him (EAGAIN) is an error. Until he reads, the process waits, and
//! nobody else does.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::readlinkat;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use serde::Serialize;

use super::error::{StepError, about, call, errno_of};
use super::outside::open_proc;
use crate::oci::seccomp::{Filter, Flags};
use crate::oci::{Listener, Script};

/// How the spec names the listener among the descriptors of a message.
const SECCOMP_FD_NAME: &str = "seccompFd";

/// connect(2) that would have to wait.
const BUSY: &str = "as many processes wait for the agent as may wait";

/// The agent, and what is needed to tell him who we are.
#[derive(Debug)]
pub(super) struct Agent {
    socket: OwnedFd,
    /// The runtime's `/proc`: there the process has the number that the runtime knows.
    proc: OwnedFd,
    listener: Listener,
    /// First process of a container that is joined.
    container: Option<u32>,
}

impl Agent {
    /// That of a script, if it has one.
    pub(super) fn of(script: &Script, container: Option<BorrowedFd<'_>>) -> Result<Option<Agent>, StepError> {
        let Some(listener) = script.listener() else { return Ok(None) };
        let container = container.and_then(crate::sys::pidfd::pid).map(i32::unsigned_abs);
        Agent::connect(listener, container).map(Some)
    }

    /// Connects, still outside.
    pub(super) fn connect(listener: &Listener, container: Option<u32>) -> Result<Agent, StepError> {
        let failed = |errno| match errno {
            Errno::AGAIN => StepError::NoListener { why: BUSY, errno },
            errno => about("linux.seccomp.listenerPath: connect to", &listener.path)(errno),
        };
        let address = SocketAddrUnix::new(&listener.path).map_err(failed)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(call("socket"))?;
        connect(&socket, &address).map_err(failed)?;
        rustix::io::ioctl_fionbio(&socket, false).map_err(call("fcntl"))?;
        Ok(Agent { socket, proc: open_proc()?, listener: listener.clone(), container })
    }

    /// Loads the filter and sends its listener.
    pub(super) fn hand_over(self, filter: &Filter) -> Result<(), StepError> {
        let text = self.state()?;
        let program = super::filter::program(filter);
        let loaded = crate::sys::seccomp::load_listening(&program, filter.flags.bits());
        let listener = loaded.map_err(|error| not_loaded(filter, errno_of(&error)))?;
        let fds = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let sent = sendmsg(&self.socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL);
        sent.map(drop).map_err(call("linux.seccomp.listenerPath: send the listener"))
    }

    fn state(&self) -> Result<String, StepError> {
        let own = readlinkat(&self.proc, "self", Vec::new()).map_err(about("readlink", "/proc/self"))?;
        let pid: u32 = own.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or_default();
        let Listener { metadata, state, status, .. } = &self.listener;
        let whole = ProcessState {
            oci_version: &state.oci_version,
            fds: [SECCOMP_FD_NAME],
            pid,
            metadata: metadata.as_deref().filter(|text| !text.is_empty()),
            // It is JSON that we have just made.
            state: serde_json::from_str(&state.json(status, self.container.unwrap_or(pid))).unwrap_or_default(),
        };
        Ok(serde_json::to_string(&whole).unwrap_or_default())
    }

    /// Out of the way of descriptors that get fixed numbers.
    pub(super) fn move_above(&mut self, floor: i32) -> Result<(), StepError> {
        for fd in [&mut self.socket, &mut self.proc] {
            *fd = rustix::io::fcntl_dupfd_cloexec(&*fd, floor).map_err(call("dup"))?;
        }
        Ok(())
    }
}

/// Why there is no connection.
pub(super) fn words(errno: Errno) -> String {
    if errno == Errno::AGAIN { BUSY.to_owned() } else { super::error::words(errno) }
}

fn not_loaded(filter: &Filter, errno: Errno) -> StepError {
    let why = match errno {
        Errno::BUSY => "the process is under a filter that has one already, and there can be only one",
        Errno::INVAL if filter.flags.has(Flags::WAIT_KILLABLE_RECV) => {
            "this kernel does not take SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, which came with Linux 5.19"
        }
        errno => return call("seccomp")(errno),
    };
    StepError::NoListener { why, errno }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'text> {
    oci_version: &'text str,
    fds: [&'static str; 1],
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'text str>,
    state: serde_json::Value,
}

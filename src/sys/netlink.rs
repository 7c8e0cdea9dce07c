//! rtnetlink(7): questions about interfaces and addresses, and their answers. One question at a time.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Kinds of messages (linux/rtnetlink.h).
pub const RTM_NEWLINK: u16 = 16;
/// Asks for an interface.
pub const RTM_GETLINK: u16 = 18;
/// An address.
pub const RTM_NEWADDR: u16 = 20;
/// Asks for addresses.
pub const RTM_GETADDR: u16 = 22;
/// A route.
pub const RTM_NEWROUTE: u16 = 24;
/// NLM_F_CREATE | NLM_F_REPLACE: done twice it is done once.
pub const PUT: u16 = 0x400 | 0x100;

/// NLM_F_REQUEST | NLM_F_ACK.
const ASK: u16 = 0x1 | 0x4;
/// NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH: all there are.
const DUMP: u16 = 0x1 | 0x100 | 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// More than the kernel puts into one packet (NLMSG_GOODSIZE, at most 32 KiB for a dump).
const ANSWER_BYTES: usize = 64 << 10;
/// Packets of one answer: some hundred addresses come in each.
const PACKETS_MAX: usize = 4096;

/// A socket in the network namespace that the thread was in when it was opened.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one.
    pub fn open() -> io::Result<Netlink> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        Ok(Netlink(socket))
    }

    /// Asks for something to be done; the kernel's errno where it was not.
    pub fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, ASK | flags, body)?;
        acknowledged(&self.receive()?)
    }

    /// Asks for one thing: the body of the answer.
    pub fn find(&self, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        self.send(kind, ASK & !0x4, body)?;
        let answer = self.receive()?;
        match message_kind(&answer) {
            Some(NLMSG_ERROR) | None => Err(acknowledged(&answer).err().unwrap_or_else(bad_answer)),
            Some(_) => Ok(split(&answer).into_iter().next().map(|(_, body)| body.to_vec()).unwrap_or_default()),
        }
    }

    /// Asks for all there are: the bodies.
    pub fn list(&self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.send(kind, DUMP, body)?;
        let mut found = Vec::new();
        for _ in 0..PACKETS_MAX {
            let packet = self.receive()?;
            for (kind, body) in split(&packet) {
                match kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return Err(acknowledged(&packet).err().unwrap_or_else(bad_answer)),
                    _ => found.push(body.to_vec()),
                }
            }
        }
        Err(bad_answer())
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), &message(kind, flags, body), MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; ANSWER_BYTES];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        Ok(answer)
    }
}

fn bad_answer() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Appends a `struct rtattr`: length, kind, contents, and what fills it up to a multiple of four.
pub fn attribute(body: &mut Vec<u8>, kind: u16, contents: &[u8]) {
    let length = u16::try_from(contents.len()).unwrap_or(0).saturating_add(4);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(contents);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The attributes of a body behind its first `from` bytes, in order; what does not fit into it is left out.
pub fn attributes(body: &[u8], from: usize) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    let mut rest = body.get(from..).unwrap_or_default();
    while let Some((length, kind)) = u16_at(rest, 0).zip(u16_at(rest, 2)) {
        let length = usize::from(length);
        let Some(contents) = rest.get(4..length) else { break };
        found.push((kind, contents));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// A `u32` in a message.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// `struct nlmsghdr` and what follows it.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len().saturating_add(HEADER_BYTES)).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and port: one question at a time needs neither.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The messages of one packet: kind and body.
fn split(packet: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    let mut rest = packet;
    while let Some((length, kind)) = u32_at(rest, 0).zip(u16_at(rest, 4)) {
        let length = usize::try_from(length).unwrap_or(0);
        let Some(body) = rest.get(HEADER_BYTES..length) else { break };
        found.push((kind, body));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn message_kind(answer: &[u8]) -> Option<u16> {
    u16_at(answer, 4)
}

/// `struct nlmsgerr`: 0, or an error number with a minus.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let code = u32_at(answer, HEADER_BYTES).map(u32::cast_signed);
    match (message_kind(answer), code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(bad_answer()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_have_the_kernels_layout() {
        let mut body = vec![0; 8];
        attribute(&mut body, 1, b"eth0\0");
        attribute(&mut body, 2, &[7; 4]);
        let whole = message(RTM_NEWADDR, ASK, &body);
        assert_eq!((whole.len(), u32_at(&whole, 0)), (16 + 8 + 12 + 8, Some(44)));
        assert_eq!(split(&whole), [(RTM_NEWADDR, &body[..])]);
        assert_eq!(attributes(&body, 8), [(1, &b"eth0\0"[..]), (2, &[7; 4][..])]);
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let mut body = Vec::new();
        attribute(&mut body, 1, &[1; 4]);
        body.extend([200, 0, 1, 0, 9]);
        assert_eq!(attributes(&body, 0).len(), 1);
        assert_eq!(attributes(&[3, 0, 1, 0], 0).len(), 0, "a length below its own header");
        assert_eq!(split(&[0; 40]).len(), 0);
        assert!(acknowledged(&[1, 2, 3]).is_err());
    }

    #[test]
    fn an_answer_is_an_acknowledgement_or_an_error() {
        let answer = |code: i32| {
            let answer = message(NLMSG_ERROR, 0, &code.to_ne_bytes());
            acknowledged(&answer).map_err(|error| error.raw_os_error())
        };
        assert_eq!((answer(0), answer(-19)), (Ok(()), Err(Some(19))));
    }

    #[test]
    fn the_kernel_tells_of_lo() {
        let netlink = Netlink::open().unwrap();
        let mut body = vec![0; 16];
        attribute(&mut body, 3, b"lo\0");
        let found = netlink.find(RTM_GETLINK, &body).unwrap();
        assert!(attributes(&found, 16).contains(&(3, b"lo\0")));
        let all = netlink.list(RTM_GETLINK, &[0; 16]).unwrap();
        assert!(all.iter().any(|link| attributes(link, 16).contains(&(3, b"lo\0"))));
        let mut body = vec![0; 16];
        attribute(&mut body, 3, b"no-such-link\0");
        assert_eq!(netlink.find(RTM_GETLINK, &body).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}

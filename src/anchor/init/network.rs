//! Static addresses by rtnetlink(7): one request, one acknowledgement, for each step.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::unit::HostAddress;

/// How long an interface may take to appear: its driver may still be looking for it.
const WAIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

// linux/netlink.h, linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// NLM_F_REQUEST | NLM_F_ACK.
const ASK: u16 = 0x1 | 0x4;
/// NLM_F_CREATE | NLM_F_REPLACE: done twice it is done once.
const PUT: u16 = 0x400 | 0x100;
const NLMSG_ERROR: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

/// Brings the interface up and gives it its address and the way out. `Err` says which step failed.
pub(super) fn configure(wanted: &HostAddress) -> Result<(), String> {
    let name = &wanted.interface;
    let index = index(name).ok_or_else(|| format!("interface {name}: there is none, 10 s after the start"))?;
    let netlink = || socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    let socket = netlink().map_err(|errno| format!("interface {name}: netlink: {errno}"))?;
    let (address, prefix) = wanted.address;
    let step = |what: String| move |error: io::Error| format!("interface {name}: {what}: {error}");
    ask(&socket, RTM_NEWLINK, 0, &link_up(index)).map_err(step("bringing it up".to_owned()))?;
    let body = new_address(index, address, prefix);
    ask(&socket, RTM_NEWADDR, PUT, &body).map_err(step(format!("address {address}/{prefix}")))?;
    match wanted.gateway {
        Some(gateway) => ask(&socket, RTM_NEWROUTE, PUT, &default_route(index, gateway))
            .map_err(step(format!("the way over {gateway}"))),
        None => Ok(()),
    }
}

fn index(name: &str) -> Option<u32> {
    let begun = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(format!("/sys/class/net/{name}/ifindex")) {
            return text.trim().parse().ok();
        }
        if begun.elapsed() > WAIT {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

/// AF_INET or AF_INET6.
fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// `struct ifinfomsg`.
fn link_up(index: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [index, IFF_UP, IFF_UP] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// `struct ifaddrmsg` and its attributes.
fn new_address(index: u32, address: IpAddr, prefix: u8) -> Vec<u8> {
    let mut body = vec![family(address), prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, &bytes(address));
    attribute(&mut body, IFA_ADDRESS, &bytes(address));
    body
}

/// `struct rtmsg` and its attributes.
fn default_route(index: u32, gateway: IpAddr) -> Vec<u8> {
    let mut body = vec![family(gateway), 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    attribute(&mut body, RTA_GATEWAY, &bytes(gateway));
    attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
    body
}

/// `struct rtattr`: length, kind, contents. All lengths here are multiples of four, so nothing is padded.
fn attribute(body: &mut Vec<u8>, kind: u16, contents: &[u8]) {
    let length = u16::try_from(contents.len()).unwrap_or(0).saturating_add(4);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(contents);
}

/// `struct nlmsghdr` and what follows it.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(0).saturating_add(16);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((ASK | flags).to_ne_bytes());
    // Sequence and port: one question at a time needs neither.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn ask(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    send(socket.as_raw_fd(), &message(kind, flags, body), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledged(answer.get(..length).unwrap_or_default())
}

/// `struct nlmsgerr`: 0, or an error number with a minus.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let field = |from: usize, to: usize| answer.get(from..to);
    let kind = field(4, 6).and_then(|bytes| Some(u16::from_ne_bytes(bytes.try_into().ok()?)));
    let code = field(16, 20).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_kernels_layout() {
        let address = message(RTM_NEWADDR, PUT, &new_address(2, "10.0.0.1".parse().unwrap(), 24));
        assert_eq!(address.len(), 16 + 8 + 8 + 8);
        assert_eq!(address[..4], 40u32.to_ne_bytes());
        assert_eq!(address[16..20], [2, 24, 0, 0]);
        assert_eq!(address[24..32], [8, 0, 2, 0, 10, 0, 0, 1]);
        let route = default_route(2, "fe80::1".parse().unwrap());
        assert_eq!((route.len(), route[0]), (12 + 20 + 8, 10));
        assert_eq!(link_up(3).len(), 16);
    }

    #[test]
    fn an_answer_is_an_acknowledgement_or_an_error() {
        let answer = |code: i32| {
            let mut answer = vec![0; 16];
            answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            answer.extend(code.to_ne_bytes());
            acknowledged(&answer).map_err(|error| error.raw_os_error())
        };
        assert_eq!((answer(0), answer(-19)), (Ok(()), Err(Some(19))));
        assert!(acknowledged(&[1, 2, 3]).is_err());
    }

    #[test]
    fn a_namespace_of_its_own_takes_addresses_routes_and_refuses_nonsense() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // On a thread of its own: the namespace goes with it.
        let work = || {
            crate::sys::clone::unshare(libc::CLONE_NEWNET)?;
            let socket =
                socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
            ask(&socket, RTM_NEWLINK, 0, &link_up(1))?;
            for _ in 0..2 {
                ask(&socket, RTM_NEWADDR, PUT, &new_address(1, "10.9.8.7".parse().unwrap(), 24))?;
                ask(&socket, RTM_NEWADDR, PUT, &new_address(1, "fd00::7".parse().unwrap(), 64))?;
                ask(&socket, RTM_NEWROUTE, PUT, &default_route(1, "10.9.8.1".parse().unwrap()))?;
            }
            let bad = ask(&socket, RTM_NEWADDR, PUT, &new_address(99, "10.9.8.7".parse().unwrap(), 24));
            let routes = fs::read_to_string("/proc/thread-self/net/route")?;
            io::Result::Ok((bad.err().and_then(|error| error.raw_os_error()), routes))
        };
        let (bad, routes) = std::thread::spawn(work).join().unwrap().unwrap();
        assert_eq!(bad, Some(libc::ENODEV));
        assert!(routes.contains("0108090A"), "{routes}");
    }
}

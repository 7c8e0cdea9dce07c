//! Static addresses by rtnetlink(7): one request, one acknowledgement, for each step.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::sys::netlink::{Netlink, PUT, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, attribute};
use crate::unit::HostAddress;

/// How long an interface may take to appear: its driver may still be looking for it.
const WAIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

// linux/rtnetlink.h
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
    let netlink = Netlink::open().map_err(|error| format!("interface {name}: netlink: {error}"))?;
    let (address, prefix) = wanted.address;
    let step = |what: String| move |error: io::Error| format!("interface {name}: {what}: {error}");
    netlink.ask(RTM_NEWLINK, 0, &link_up(index)).map_err(step("bringing it up".to_owned()))?;
    let body = new_address(index, address, prefix);
    netlink.ask(RTM_NEWADDR, PUT, &body).map_err(step(format!("address {address}/{prefix}")))?;
    match wanted.gateway {
        Some(gateway) => netlink
            .ask(RTM_NEWROUTE, PUT, &default_route(index, gateway))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_kernels_layout() {
        let address = new_address(2, "10.0.0.1".parse().unwrap(), 24);
        assert_eq!(address.len(), 8 + 8 + 8);
        assert_eq!(address[..4], [2, 24, 0, 0]);
        assert_eq!(address[8..16], [8, 0, 2, 0, 10, 0, 0, 1]);
        let route = default_route(2, "fe80::1".parse().unwrap());
        assert_eq!((route.len(), route[0]), (12 + 20 + 8, 10));
        assert_eq!(link_up(3).len(), 16);
    }

    #[test]
    fn a_namespace_of_its_own_takes_addresses_routes_and_refuses_nonsense() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // On a thread of its own: the namespace goes with it.
        let work = || {
            crate::sys::clone::unshare(libc::CLONE_NEWNET)?;
            let netlink = Netlink::open()?;
            netlink.ask(RTM_NEWLINK, 0, &link_up(1))?;
            for _ in 0..2 {
                netlink.ask(RTM_NEWADDR, PUT, &new_address(1, "10.9.8.7".parse().unwrap(), 24))?;
                netlink.ask(RTM_NEWADDR, PUT, &new_address(1, "fd00::7".parse().unwrap(), 64))?;
                netlink.ask(RTM_NEWROUTE, PUT, &default_route(1, "10.9.8.1".parse().unwrap()))?;
            }
            let bad = netlink.ask(RTM_NEWADDR, PUT, &new_address(99, "10.9.8.7".parse().unwrap(), 24));
            let routes = fs::read_to_string("/proc/thread-self/net/route")?;
            io::Result::Ok((bad.err().and_then(|error| error.raw_os_error()), routes))
        };
        let (bad, routes) = std::thread::spawn(work).join().unwrap().unwrap();
        assert_eq!(bad, Some(libc::ENODEV));
        assert!(routes.contains("0108090A"), "{routes}");
    }
}

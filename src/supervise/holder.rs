//! Who listens at an address that is in use: for the words of a failure, as far as `/proc` says it at little cost.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use crate::unit::Listen;

/// Most descriptors of other processes that are looked at.
const LINKS_MAX: usize = 16_384;
/// Most processes.
const PROCESSES_MAX: usize = 4096;
/// Of a listening socket in /proc/net/tcp: TCP_LISTEN.
const LISTENS: &str = "0A";
/// The same of a socket for datagrams that is bound: TCP_CLOSE.
const BOUND: &str = "07";

/// The process that listens at a TCP address which excludes this one.
pub(super) fn of_tcp(address: SocketAddr) -> Option<String> {
    of_inet(["/proc/net/tcp", "/proc/net/tcp6"], LISTENS, address)
}

/// The same at a UDP address.
pub(super) fn of_udp(address: SocketAddr) -> Option<String> {
    of_inet(["/proc/net/udp", "/proc/net/udp6"], BOUND, address)
}

fn of_inet(tables: [&str; 2], state: &str, address: SocketAddr) -> Option<String> {
    let inode = tables.into_iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| inode_of(line, state, address))
    })?;
    process(&format!("socket:[{inode}]")).map(shown)
}

/// The process at the other end of a connection to a unix socket: the one that made it listen.
pub(super) fn of_unix(connected: BorrowedFd<'_>) -> Option<String> {
    let peer = rustix::net::sockopt::socket_peercred(connected).ok()?;
    Some(shown(peer.pid.as_raw_nonzero().get()))
}

fn shown(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("pid {pid}"),
        name => format!("pid {pid} ({name})"),
    }
}

/// The inode of a line of /proc/net/tcp, if it is in the way.
fn inode_of(line: &str, wanted_state: &str, wanted: SocketAddr) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    let inode = fields.nth(5)?.parse().ok()?;
    let found = Listen::Tcp(address_of(local)?);
    (state == wanted_state && found.excludes(&Listen::Tcp(wanted))).then_some(inode)
}

/// `0100007F:1F90`: words of 32 bits as the machine has them, the port in network order.
fn address_of(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |n: usize| u32::from_str_radix(ip.get(n * 8..n * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (n, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(n)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The first process that has a descriptor of this.
fn process(wanted: &str) -> Option<i32> {
    let mut left = LINKS_MAX;
    let entries = fs::read_dir("/proc").ok()?.take(PROCESSES_MAX).flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().take(left).flatten();
        links.into_iter().any(|link| {
            left = left.saturating_sub(1);
            fs::read_link(link.path()).is_ok_and(|target| target.as_os_str() == wanted)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_net_tcp_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        let six = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0";
        let of = |line: &str, address: &str| inode_of(line, LISTENS, address.parse().unwrap());
        assert_eq!(of(line, "127.0.0.1:8080"), Some(4711));
        assert_eq!(of(line, "0.0.0.0:8080"), Some(4711));
        assert_eq!(of(line, "127.0.0.2:8080"), None);
        assert_eq!(of(&line.replace(" 0A ", " 01 "), "127.0.0.1:8080"), None, "a connection");
        assert_eq!(of(six, "[::1]:80"), Some(12));
        assert_eq!(of("", "[::1]:80"), None);
    }
}

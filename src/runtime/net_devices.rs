//! Moving network devices into a container: by the helper that stays outside ([`crate::oci::NetDevice`] says what a device keeps).
//!
//! | helper | process |
//! |---|---|
//! | looks the devices up, with their addresses, in the network namespace of the runtime | |
//! | makes the process | enters its network namespace, says so, and waits |
//! | moves the devices there, goes there itself, brings them up and gives them their addresses | |
//! | says so | goes on |
//!
//! Each is renamed by the same request that moves it, so no name is taken in between. If one cannot be moved or set up, those that were
//! moved go back, as they were. A process that ends meanwhile closes its end of the socket; one that stands still for too long
//! (its cgroup may be frozen) is an error too, as somebody may wait for the helper.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::{StepError, about, call, errno_of, words};
use crate::oci::NetDevice;
use crate::sys::netlink::{self, Netlink, attribute, attributes, u32_at};

/// How long the process may take to enter its network namespace. It takes some milliseconds.
const ENTER_PATIENCE: Duration = Duration::from_secs(30);

// linux/if_link.h, linux/if_addr.h, linux/if.h
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// What the kernel finds out itself: secondary, optimistic, DAD failed, deprecated, tentative, permanent.
const IFA_F_STATE: u32 = 0x01 | 0x04 | 0x08 | 0x20 | 0x40 | IFA_F_PERMANENT;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFF_UP: u32 = 1;
/// `struct ifinfomsg`.
const LINK_BYTES: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_BYTES: usize = 8;

/// Devices that are to be moved, found in the namespace that they are in.
#[derive(Debug)]
pub(super) struct Found<'s> {
    netlink: Netlink,
    namespace: OwnedFd,
    devices: Vec<Device<'s>>,
}

#[derive(Debug)]
struct Device<'s> {
    wanted: &'s NetDevice,
    index: u32,
    is_up: bool,
    addresses: Vec<Vec<u8>>,
}

impl<'s> Found<'s> {
    /// Looks for them in this process's network namespace, which `proc` knows. `None` where there are none to look for.
    pub(super) fn look(wanted: &'s [NetDevice], proc: &OwnedFd) -> Result<Option<Found<'s>>, StepError> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let failed = |error: io::Error| call("rtnetlink")(errno_of(&error));
        let netlink = Netlink::open().map_err(failed)?;
        let namespace = super::userns::own(proc, "net")?;
        let addresses = netlink.list(netlink::RTM_GETADDR, &[0; ADDRESS_BYTES]).map_err(failed)?;
        let mut devices = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let (index, flags) = find(&netlink, &wanted.name).map_err(|error| match errno_of(&error) {
                Errno::NODEV => refused(wanted, "there is no such device in the runtime's network namespace"),
                errno => refused(wanted, &words(errno)),
            })?;
            let own = addresses.iter().filter(|address| u32_at(address, 4) == Some(index));
            let addresses = own.filter_map(|address| kept(address)).collect();
            devices.push(Device { wanted, index, is_up: flags & IFF_UP != 0, addresses });
        }
        Ok(Some(Found { netlink, namespace, devices }))
    }

    /// When the process has said that it is there, moves them into its network namespace, and tells it. This process is there as well then.
    pub(super) fn hand_over(&self, proc: &OwnedFd, pid: i32, socket: &OwnedFd) -> Result<(), StepError> {
        await_byte(socket)?;
        let path = format!("{pid}/ns/net");
        let opened = openat(proc, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let namespace = opened.map_err(about("open", format!("/proc/{path}")))?;
        let mut moved = Vec::with_capacity(self.devices.len());
        let done = self.devices.iter().try_for_each(|device| {
            let NetDevice { name, new_name } = device.wanted;
            let done = move_to(&self.netlink, device.index, new_name, &namespace);
            match &done {
                Ok(()) => moved.push((device, new_name)),
                // Moved, and then not renamed.
                Err(_) if find(&self.netlink, name).is_err() => moved.push((device, name)),
                Err(_) => {}
            }
            done.map_err(|error| refused(device.wanted, &why(&error)))
        });
        let there = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        there.map_err(call("setns"))?;
        let there = Netlink::open().map_err(|error| call("rtnetlink")(errno_of(&error)))?;
        let done = done.and_then(|()| {
            moved.iter().try_for_each(|(device, name)| {
                let found = find(&there, name);
                let set_up = found.and_then(|(index, _)| set_up(&there, index, true, &device.addresses));
                set_up.map_err(|error| refused(device.wanted, &format!("set up: {}", words(errno_of(&error)))))
            })
        });
        if done.is_err() {
            moved.iter().for_each(|(device, name)| self.take_back(&there, device, name));
        }
        done?;
        retry_on_intr(|| send(socket, b"1", SendFlags::NOSIGNAL)).map(drop).map_err(|_| StepError::NoDevices)
    }

    /// Best effort: the first error is the one that is told.
    fn take_back(&self, there: &Netlink, device: &Device<'_>, name: &str) {
        let Ok((index, _)) = find(there, name) else { return };
        let back = move_to(there, index, &device.wanted.name, &self.namespace);
        let _ = back
            .and_then(|()| find(&self.netlink, &device.wanted.name))
            .and_then(|(index, _)| set_up(&self.netlink, index, device.is_up, &device.addresses));
    }
}

/// The process's end and the helper's.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), StepError> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(call("socketpair"))
}

/// As the process: says that its network namespace is there, and waits for the devices.
pub(super) fn take(socket: &OwnedFd) -> Result<(), StepError> {
    retry_on_intr(|| send(socket, b"1", SendFlags::NOSIGNAL)).map_err(|_| StepError::NoDevices)?;
    match retry_on_intr(|| recv(socket, &mut [0u8; 1], RecvFlags::empty())) {
        Ok((1, _)) => Ok(()),
        // Whoever moves them says why he did not.
        Ok(_) | Err(_) => Err(StepError::NoDevices),
    }
}

fn await_byte(socket: &OwnedFd) -> Result<(), StepError> {
    let deadline = Instant::now() + ENTER_PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(StepError::NoNetwork),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(call("poll")(errno)),
        }
    }
    match retry_on_intr(|| recv(socket, &mut [0u8; 1], RecvFlags::DONTWAIT)) {
        Ok((1, _)) => Ok(()),
        Ok(_) | Err(_) => Err(StepError::NoNetwork),
    }
}

fn refused(device: &NetDevice, problem: &str) -> StepError {
    StepError::NetDevice { field: device.field(), problem: problem.to_owned() }
}

fn why(error: &io::Error) -> String {
    match errno_of(error) {
        Errno::EXIST => "the container's network namespace has a device of that name".to_owned(),
        Errno::INVAL => "the device cannot leave its network namespace".to_owned(),
        errno => format!("move: {}", words(errno)),
    }
}

fn find(netlink: &Netlink, name: &str) -> io::Result<(u32, u32)> {
    let mut body = vec![0; LINK_BYTES];
    name_attribute(&mut body, name);
    let link = netlink.find(netlink::RTM_GETLINK, &body)?;
    u32_at(&link, 4).zip(u32_at(&link, 8)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn name_attribute(body: &mut Vec<u8>, name: &str) {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    attribute(body, IFLA_IFNAME, &text);
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    [index, flags, change].iter().for_each(|word| body.extend(word.to_ne_bytes()));
    body
}

fn move_to(netlink: &Netlink, index: u32, name: &str, namespace: &OwnedFd) -> io::Result<()> {
    let mut body = link(index, 0, 0);
    name_attribute(&mut body, name);
    attribute(&mut body, IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
    netlink.ask(netlink::RTM_NEWLINK, 0, &body)
}

/// Up first: an address of a device that is down gets no route to its network.
fn set_up(netlink: &Netlink, index: u32, up: bool, addresses: &[Vec<u8>]) -> io::Result<()> {
    netlink.ask(netlink::RTM_NEWLINK, 0, &link(index, if up { IFF_UP } else { 0 }, IFF_UP))?;
    addresses.iter().try_for_each(|address| {
        let mut body = address.clone();
        if let Some(place) = body.get_mut(4..ADDRESS_BYTES) {
            place.copy_from_slice(&index.to_ne_bytes());
        }
        netlink.ask(netlink::RTM_NEWADDR, netlink::PUT, &body)
    })
}

/// As it is given again; `None` for one that is not permanent and global.
fn kept(address: &[u8]) -> Option<Vec<u8>> {
    let parts = attributes(address, ADDRESS_BYTES);
    let long = parts.iter().find(|(kind, _)| *kind == IFA_FLAGS).and_then(|(_, bytes)| u32_at(bytes, 0));
    let flags = long.unwrap_or_else(|| address.get(2).copied().unwrap_or(0).into());
    let (family, prefix, scope) = (address.first()?, address.get(1)?, *address.get(3)?);
    if flags & IFA_F_PERMANENT == 0 || scope != RT_SCOPE_UNIVERSE {
        return None;
    }
    let mut body = vec![*family, *prefix, 0, scope, 0, 0, 0, 0];
    // A label begins with the old name.
    let same = parts.into_iter().filter(|(kind, _)| ![IFA_LABEL, IFA_CACHEINFO, IFA_FLAGS].contains(kind));
    same.for_each(|(kind, contents)| attribute(&mut body, kind, contents));
    attribute(&mut body, IFA_FLAGS, &(flags & !IFA_F_STATE).to_ne_bytes());
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_permanent_and_global_are_kept_without_their_state() {
        let address = |flags: u32, scope: u8| {
            let mut body = vec![2, 24, flags as u8, scope, 7, 0, 0, 0];
            attribute(&mut body, 2, &[10, 0, 0, 1]);
            attribute(&mut body, IFA_LABEL, b"eth0\0");
            attribute(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
            kept(&body)
        };
        let mut expected = vec![2, 24, 0, 0, 0, 0, 0, 0];
        attribute(&mut expected, 2, &[10, 0, 0, 1]);
        attribute(&mut expected, IFA_FLAGS, &0x200_u32.to_ne_bytes());
        assert_eq!(address(0x200 | 0x80 | 0x40, RT_SCOPE_UNIVERSE), Some(expected));
        assert_eq!(address(0, RT_SCOPE_UNIVERSE), None, "it has a lifetime");
        assert_eq!(address(0x80, 253), None, "it is of the link");
        assert_eq!(kept(&[2]), None);
    }
}

//! A network namespace made ahead, with the sysfs that shows it: together the larger part of what a start takes.
//!
//! A spare is as a start would make it: `lo` is up and nothing else is there. It belongs to whoever holds its descriptors and is gone with
//! them. Nobody is inside, but whoever may look into the holder's descriptors can go there and change it. A netlink socket that was opened
//! in it from the first hears of interfaces, addresses, routes and rules: a spare of which it has heard anything is not given out. Whoever
//! may go there is root on this host and could do the same to a running container, so nothing more is guarded.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::error::{StepError, about, call, errno_of};
use super::{child, mount};
use crate::oci::{Script, Step};
use crate::sys::clone::unshare;

/// The groups of linux/rtnetlink.h, one bit each: interfaces; IPv4 addresses, routes, rules and settings; the same of IPv6.
const GROUPS: u32 = 1 | (0x10 | 0x40 | 0x80 | 1 << 23) | (0x100 | 0x400 | 1 << 18 | 0x800 | 1 << 24);

/// One that is held.
#[derive(Debug)]
pub struct Spare {
    parts: SpareParts,
    changes: OwnedFd,
}

/// What a container gets of it.
#[derive(Debug)]
pub struct SpareParts {
    /// The network namespace.
    pub network: OwnedFd,
    /// A sysfs of it, mounted nowhere.
    pub sysfs: OwnedFd,
}

impl Spare {
    /// Whether a process that executes this script can take one: it makes a network namespace of its own, in the host's user namespace.
    pub fn suits(script: &Script) -> bool {
        !script.outside.in_user_namespace()
            && script.steps.iter().any(|step| matches!(step, Step::Unshare(namespaces) if namespaces.network))
    }

    /// Makes one. The thread that calls this is inside from then on, also if it fails, and should end.
    pub fn make() -> Result<Spare, StepError> {
        unshare(libc::CLONE_NEWNET).map_err(|error| call("unshare")(errno_of(&error)))?;
        child::loopback()?;
        let changes = listen().map_err(|error| call("listen for changes of the network")(errno_of(&error)))?;
        let path = "/proc/thread-self/ns/net";
        let network =
            openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(about("open", path))?;
        let sysfs = mount::filesystem("sysfs", "sysfs", &[], 0, "nowhere")?;
        Ok(Spare { parts: SpareParts { network, sysfs }, changes })
    }

    /// Hands it over, unless it is not what was made.
    pub fn take(self) -> Option<SpareParts> {
        // More than this and an overflow (ENOBUFS) are changes as well.
        let heard = rustix::io::read(&self.changes, &mut [0u8; 16]);
        (heard == Err(Errno::AGAIN)).then_some(self.parts)
    }
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listening = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(listening.as_fd().as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    Ok(listening)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// In a thread, as the namespace stays with it.
    fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().expect("no panic")
    }

    #[test]
    fn an_untouched_one_is_given_out() {
        if !is_root() {
            return;
        }
        let parts = apart(|| Spare::make().expect("a spare").take()).expect("nothing was heard");
        let stat = rustix::fs::fstat(&parts.network).expect("stat");
        let own = rustix::fs::stat("/proc/self/ns/net").expect("stat");
        assert_ne!(stat.st_ino, own.st_ino);
        let shown = openat(&parts.sysfs, "class/net/lo", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        assert!(shown.is_ok(), "its sysfs shows lo");
        let strange = openat(&parts.sysfs, "class/net/eth0", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        assert_eq!(strange.map(drop), Err(Errno::NOENT), "and nothing of the host's");
    }

    #[test]
    fn one_that_somebody_changed_is_not() {
        if !is_root() {
            return;
        }
        let taken = apart(|| {
            let spare = Spare::make().expect("a spare");
            // Of the namespace that this thread is in.
            std::fs::write("/proc/sys/net/ipv4/conf/lo/forwarding", "1").expect("a setting of the new namespace");
            spare.take().is_some()
        });
        assert!(!taken);
    }
}

//! Namespaces made ahead: of network, with the sysfs that shows it, and of mounts ([`prepared`]). Together they are the larger part of what a
//! start takes.
//!
//! Its network is as a start would make it: `lo` is up and nothing else is there. It belongs to whoever holds its descriptors and is gone with
//! them. Nobody is inside, but whoever may look into the holder's descriptors can go there and change it. A netlink socket that was opened
//! in it from the first hears of interfaces, addresses, routes and rules: a spare of which it has heard anything is not given out, nor one
//! whose mounts have changed. Whoever
//! may go there is root on this host and could do the same to a running container, so nothing more is guarded.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::error::{StepError, about, call, errno_of};
use super::mount::prepared::{self, Prepared};
use super::{child, mount};
use crate::oci::{Script, Step};
use crate::sys::clone::unshare;

/// The groups of linux/rtnetlink.h, one bit each: interfaces; IPv4 addresses, routes, rules and settings; the same of IPv6.
const GROUPS: u32 = 1 | (0x10 | 0x40 | 0x80 | 1 << 23) | (0x100 | 0x400 | 1 << 18 | 0x800 | 1 << 24);

/// One that is held.
#[derive(Debug)]
pub struct Spare {
    network: OwnedFd,
    sysfs: OwnedFd,
    changes: OwnedFd,
    mounts: Prepared,
}

/// Makes them. It belongs to a thread that should end after it, or after an error: it is inside the last one.
#[derive(Debug)]
pub struct SpareMaker(prepared::Maker);

/// What a container gets of it.
#[derive(Debug)]
pub struct SpareParts {
    /// The network namespace.
    pub network: OwnedFd,
    /// A sysfs of it, mounted nowhere.
    pub sysfs: OwnedFd,
    /// A mount namespace, where its script can do with a prepared one.
    pub mounts: Option<OwnedFd>,
}

impl Spare {
    /// Whether a process that executes this script can take one: it makes a network namespace of its own, in the host's user namespace.
    pub fn suits(script: &Script) -> bool {
        !script.outside.in_user_namespace()
            && script.steps.iter().any(|step| matches!(step, Step::Unshare(namespaces) if namespaces.network))
    }

    /// Hands it over for this script, unless it is not what was made.
    pub fn take(self, script: &Script) -> Option<SpareParts> {
        // More than this and an overflow (ENOBUFS) are changes as well.
        let heard = rustix::io::read(&self.changes, &mut [0u8; 16]);
        let mounts = self.mounts.take().filter(|_| heard == Err(Errno::AGAIN))?;
        let mounts = Some(mounts).filter(|_| prepared::suits(script));
        Some(SpareParts { network: self.network, sysfs: self.sysfs, mounts })
    }
}

impl SpareMaker {
    /// For the calling thread, which must be in the host's mount namespace.
    pub fn new() -> Result<SpareMaker, StepError> {
        prepared::Maker::new().map(SpareMaker)
    }

    /// Makes one.
    pub fn make(&mut self) -> Result<Spare, StepError> {
        unshare(libc::CLONE_NEWNET).map_err(|error| call("unshare")(errno_of(&error)))?;
        child::loopback()?;
        let changes = listen().map_err(|error| call("listen for changes of the network")(errno_of(&error)))?;
        let path = "thread-self/ns/net";
        let network = openat(&self.0.proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let network = network.map_err(about("open", "/proc/thread-self/ns/net"))?;
        let sysfs = mount::filesystem("sysfs", "sysfs", &[], 0, "nowhere")?;
        Ok(Spare { network, sysfs, changes, mounts: self.0.make()? })
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

    fn script() -> Script {
        Script { new_pid_namespace: false, outside: crate::oci::Outside::default(), steps: Vec::new() }
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
        let make = || SpareMaker::new().and_then(|mut maker| maker.make()).expect("a spare");
        let parts = apart(move || make().take(&script())).expect("nothing was heard");
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
            let mut maker = SpareMaker::new().expect("/proc");
            let spare = maker.make().expect("a spare");
            // Of the namespace that this thread is in.
            let path = "sys/net/ipv4/conf/lo/forwarding";
            let setting = openat(&maker.0.proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            rustix::io::write(setting.expect("a setting of the new namespace"), b"1").expect("that it is set");
            spare.take(&script()).is_some()
        });
        assert!(!taken);
    }
}

//! A mount namespace made ahead: it holds one read-only tmpfs with `/dev/null` in it, and nothing of the host's.
//!
//! To make a mount namespace is to copy all mounts of the host, and to be rid of them again is to wait until no processor can still be
//! looking at one (umount2(2): 0.1 to 5 ms, the longest single call of a start). A process that enters a prepared one needs neither. It takes copies
//! of what it wants of the host's first, as they cannot be found from within. Its root is attached over the tmpfs and becomes `/` by chroot(2): what
//! lies below is of no use to anybody, and setns(2) leads to what lies above.
//!
//! - Whose script wants more of the host than its root, bind mounts and cgroups makes its own: [`suits`].
//! - So does one whose copies fail: the step whose mount it is says why.
//! - Each is a copy of one that nobody gets: what was given out is changed by whom it was given to, at any moment.
//! - A mountinfo(5) that was opened in it tells by poll(2) of every mount since: one that was entered by somebody else is not given out.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::openat;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;
use crate::oci::{Script, Step, is_shared};
use crate::sys::clone::unshare;

/// File systems that are of no device or path of the host's.
const OWN: [&str; 5] = ["proc", "tmpfs", "devpts", "mqueue", "sysfs"];

/// One that is held.
#[derive(Debug)]
pub(in crate::runtime) struct Prepared {
    namespace: OwnedFd,
    changes: OwnedFd,
}

/// Makes them, in a thread of its own: it stays in the last one.
#[derive(Debug)]
pub(in crate::runtime) struct Maker {
    /// The host's `/proc`, which is not found from within.
    pub(in crate::runtime) proc: OwnedFd,
    /// What they are copies of.
    first: Option<OwnedFd>,
}

impl Maker {
    /// In the host's mount namespace.
    pub(in crate::runtime) fn new() -> Result<Maker, StepError> {
        Ok(Maker { proc: open_path(Path::new("/proc")).map_err(about("open", "/proc"))?, first: None })
    }

    /// Makes one. After an error this thread is where it happens to be, and should end.
    pub(in crate::runtime) fn make(&mut self) -> Result<Prepared, StepError> {
        let first = match self.first.take() {
            Some(first) => first,
            None => self.make_first()?,
        };
        move_into_link_name_space(first.as_fd(), Some(LinkNameSpaceType::Mount)).map_err(call("setns"))?;
        new_namespace()?;
        self.first = Some(first);
        Ok(Prepared { namespace: self.open("thread-self/ns/mnt")?, changes: self.open("thread-self/mountinfo")? })
    }

    /// Leaves the host's mounts.
    fn make_first(&self) -> Result<OwnedFd, StepError> {
        new_namespace()?;
        host_propagation(Propagation { kind: PropagationKind::Private, recursive: true })?;
        let base = base()?;
        let host = open_path(Path::new("/")).map_err(about("open", "/"))?;
        attach(&base, host.as_fd()).map_err(about("move_mount", "/"))?;
        pivot(&Root::new(base))?;
        self.open("thread-self/ns/mnt")
    }

    fn open(&self, path: &str) -> Result<OwnedFd, StepError> {
        let opened = openat(&self.proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        opened.map_err(about("open", format!("/proc/{path}")))
    }
}

fn new_namespace() -> Result<(), StepError> {
    unshare(libc::CLONE_NEWNS).map_err(|error| call("unshare")(errno_of(&error)))
}

impl Prepared {
    /// Hands it over, unless it is not what was made.
    pub(in crate::runtime) fn take(self) -> Option<OwnedFd> {
        let mut polled = [PollFd::new(&self.changes, PollFlags::PRI)];
        let heard = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let changed = |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::PRI | PollFlags::ERR);
        (heard.is_ok() && !polled.iter().any(changed)).then_some(self.namespace)
    }
}

/// What a root is attached over. The null device is for masks.
fn base() -> Result<OwnedFd, StepError> {
    let options = [("mode".to_owned(), Some("755".to_owned())), ("size".to_owned(), Some("4k".to_owned()))];
    let base = filesystem("tmpfs", "moored", &options, 0, "/")?;
    let root = Root::new(base);
    let dev = root.ensure_dir("/dev")?;
    let number = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(&dev, "null", FileType::CharacterDevice, Mode::from(0o666), number)
        .map_err(about("mknod", "/dev/null"))?;
    let attributes = READ_ONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    set(root.as_fd(), false, attributes, 0, 0).map_err(about("mount_setattr", "/"))?;
    Ok(root.into_directory())
}

/// Whether a process that executes this script finds all it needs in a prepared one, and by [`copy`].
pub(in crate::runtime) fn suits(script: &Script) -> bool {
    let is_done = |step: &Step| match step {
        Step::HostPropagation(Propagation { kind, recursive }) => {
            *recursive && matches!(kind, PropagationKind::Private | PropagationKind::Slave)
        }
        // A union is put together in the host's mount namespace.
        Step::Root(RootPlan::Layers { .. }) => false,
        Step::Mount(mount) => match &mount.source {
            MountSource::Bind { .. } => !is_shared(mount, &script.outside),
            MountSource::Filesystem { fstype, options, .. } => {
                OWN.contains(&fstype.as_str()) && suits_fsconfig(fstype, options)
            }
            MountSource::Cgroup => true,
        },
        Step::HostDevice(_)
        | Step::Listener(_)
        | Step::MakerHooks(_)
        | Step::Hooks { .. }
        | Step::HostStart(_)
        | Step::NeedSelinux
        | Step::CurrentRoot
        | Step::CoverRoot => false,
        // No wildcard: whoever adds a step says whether it looks at the host's files.
        Step::AwaitMaps
        | Step::BecomeRoot
        | Step::Isolate
        | Step::Keyring(_)
        | Step::JoinCgroups
        | Step::TakeCgroups
        | Step::Unshare(_)
        | Step::JoinNetwork
        | Step::Loopback
        | Step::TakeDevices
        | Step::Hostname(_)
        | Step::Domainname(_)
        | Step::Rlimits { .. }
        | Step::Root(RootPlan::Directory { .. } | RootPlan::Tmpfs { .. })
        | Step::Devices(_)
        | Step::Console { .. }
        | Step::OwnStart { .. }
        | Step::MakeCwd(_)
        | Step::Sysctl(..)
        | Step::OomScoreAdj { .. }
        | Step::ExecLabel { .. }
        | Step::SealMounts
        | Step::ReadonlyPaths(_)
        | Step::MaskedPaths(_)
        | Step::ReadonlyRoot
        | Step::Pivot
        | Step::RootPropagation(_)
        | Step::Personality(_)
        | Step::MemoryPolicy(_)
        | Step::Scheduler(_)
        | Step::Affinity(_)
        | Step::IoPriority(_)
        | Step::Umask(_)
        | Step::Chdir(_)
        | Step::NoNewPrivileges
        | Step::Init
        | Step::Identity(_)
        | Step::BoundingSet(_)
        | Step::Capabilities(_)
        | Step::RightsOfUser
        | Step::Seccomp(_)
        | Step::SeccompComing
        | Step::FindProgram { .. }
        | Step::Descriptors
        | Step::Gate
        | Step::Execute { .. } => true,
    };
    let makes_one = |step: &Step| matches!(step, Step::Unshare(namespaces) if namespaces.mount);
    script.outside.is_empty() && script.steps.iter().any(makes_one) && script.steps.iter().all(is_done)
}

/// Copies of what the script attaches of the host's mounts, as a copy of all of them would have them.
pub(in crate::runtime) fn copy(script: &Script, slots: &Slots, trees: &mut Trees) -> Result<(), StepError> {
    let inwards = script.steps.iter().find_map(|step| match step {
        Step::HostPropagation(propagation) => Some(*propagation),
        _ => None,
    });
    let cut_off = |tree: &OwnedFd| match inwards {
        Some(propagation) => propagate(tree.as_fd(), propagation).map_err(about("mount_setattr", "a copy")),
        None => Ok(()),
    };
    for (index, step) in script.steps.iter().enumerate() {
        let tree = match step {
            Step::Root(RootPlan::Directory { path, devices, .. }) => copy_root(path, *devices)?,
            Step::Root(RootPlan::Tmpfs { binds, .. }) => {
                let copies = crate::runtime::seed::copy(binds)?;
                copies.iter().flatten().try_for_each(cut_off)?;
                trees.seeds = Some(copies);
                continue;
            }
            Step::Mount(Mount { source: MountSource::Bind { source, recursive, follow }, .. }) => {
                super::copy(source, *recursive, *follow)?
            }
            Step::Mount(Mount { source: MountSource::Cgroup, .. }) => {
                trees.copy_hierarchies(slots)?;
                continue;
            }
            _ => continue,
        };
        cut_off(&tree)?;
        trees.outside.push((index, tree));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::namespace;

    /// What its mountinfo lists, from within.
    fn mounts(proc: &OwnedFd) -> usize {
        let file = openat(proc, "thread-self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        std::io::read_to_string(std::fs::File::from(file.expect("mountinfo"))).expect("text").lines().count()
    }

    fn enter(space: &OwnedFd) {
        let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
        unshare(libc::CLONE_FS).expect("own root and directory");
        rustix::thread::move_into_link_name_space(space.as_fd(), kind).expect("setns");
    }

    #[test]
    fn each_is_new_and_has_nothing_of_the_hosts_and_one_that_was_changed_is_not_given_out() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let apart = || {
            let mut maker = Maker::new().expect("/proc");
            let made: Vec<Prepared> = (0..3).map(|_| maker.make().expect("one")).collect();
            let [first, second, third] = <[Prepared; 3]>::try_from(made).expect("three");
            let inodes = [&first, &second].map(|one| rustix::fs::fstat(&one.namespace).expect("stat").st_ino);
            assert_ne!(inodes[0], inodes[1]);
            assert!(namespace::kind(first.namespace.as_fd()).is_ok_and(|kind| kind == libc::CLONE_NEWNS as u32));
            let (proc, first) = (maker.proc, first.take().expect("untouched"));
            enter(&first);
            assert_eq!(mounts(&proc), 1);
            let null = open_path(Path::new("/dev/null")).expect("the null device");
            check_null(&null).expect("that it is");
            let written = std::fs::create_dir("/x").map_err(|error| error.kind());
            assert_eq!(written, Err(std::io::ErrorKind::ReadOnlyFilesystem));
            enter(&second.namespace);
            let tree = filesystem("tmpfs", "x", &[], 0, "/").expect("a file system");
            attach(&tree, open_path(Path::new("/dev")).expect("/dev").as_fd()).expect("attached");
            assert!(second.take().is_none(), "something was mounted in it");
            assert!(third.take().is_some(), "and not in that");
        };
        std::thread::spawn(apart).join().expect("no panic");
    }

    /// Whoever got one attaches its root there while the next one is made.
    #[test]
    fn what_is_done_in_one_shows_in_no_other() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let apart = || {
            let mut maker = Maker::new().expect("/proc");
            let given = maker.make().expect("one").take().expect("untouched");
            let use_it = move || {
                enter(&given);
                let root = filesystem("tmpfs", "x", &[], 0, "/").expect("a file system");
                attach(&root, open_path(Path::new("/")).expect("/").as_fd()).expect("attached");
            };
            std::thread::spawn(use_it).join().expect("no panic");
            let next = maker.make().expect("another").take().expect("untouched");
            enter(&next);
            assert_eq!(mounts(&maker.proc), 1);
            check_null(&open_path(Path::new("/dev/null")).expect("the null device")).expect("that it is");
        };
        std::thread::spawn(apart).join().expect("no panic");
    }
}

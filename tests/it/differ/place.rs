//! Mounts and namespaces of a stage.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::support::TempDir;

pub fn propagate(target: &Path, flags: MsFlags) {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).unwrap();
}

/// Of every kind one that is nobody's, at `ns/KIND`.
pub fn namespaces_to_join(dir: &TempDir, first: u32) -> BTreeMap<&'static str, u64> {
    let place = dir.join("ns");
    let hold = |kind: &'static str, from: &Path| {
        let target = place.join(kind);
        fs::write(&target, "").unwrap();
        mount(Some(from), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        (kind, inode(&target))
    };
    let made = std::thread::scope(|scope| {
        let make = || {
            unshare(
                CloneFlags::CLONE_NEWNET
                    | CloneFlags::CLONE_NEWIPC
                    | CloneFlags::CLONE_NEWUTS
                    | CloneFlags::CLONE_NEWCGROUP,
            )
            .unwrap();
            rustix::system::sethostname(b"joined").unwrap();
            ["net", "ipc", "uts", "cgroup"].map(|kind| hold(kind, &Path::new("/proc/thread-self/ns").join(kind)))
        };
        scope.spawn(make).join().unwrap()
    });
    let for_children = PathBuf::from(format!("/proc/{first}/ns/pid_for_children"));
    let own = inode(Path::new("/proc/self/ns/pid"));
    crate::support::wait_for("the first of a pid namespace", || {
        fs::metadata(&for_children).ok().filter(|found| found.ino() != own).map(drop)
    });
    made.into_iter().chain([hold("pid", &for_children)]).collect()
}

pub fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// What a runtime let out, as seen by this thread.
pub fn unmount_below(root: &Path) {
    for target in mounts_below(root).iter().rev() {
        let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
    }
}

pub fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    targets.filter(|target| target.starts_with(root)).collect()
}

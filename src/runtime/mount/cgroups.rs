//! What a container sees of its cgroups.

use super::*;

impl Trees {
    /// Takes copies of the cgroup directories while the mounts they are in still belong to this mount namespace.
    pub(in crate::runtime) fn take_cgroups(&mut self, slots: &Slots) -> Result<(), StepError> {
        if self.cgroups.is_some() {
            return Ok(());
        }
        let unified = slots.cgroup.as_ref().map(|fd| ("unified", fd));
        let legacy = slots.hierarchies.iter().map(|hierarchy| (hierarchy.name.as_str(), &hierarchy.directory));
        let taken = self.cgroups.insert(Vec::new());
        for (name, directory) in unified.into_iter().chain(legacy) {
            match clone_tree(directory.as_fd(), false) {
                Ok(tree) => {
                    detach_from_host(&tree, name)?;
                    taken.push((name.to_owned(), tree));
                }
                // A host with v1 alone shows v2 nowhere, and before Linux 6.15 our detached mount of it cannot be copied.
                Err(Errno::INVAL) if name == "unified" && !crate::runtime::cgroup::host_is_unified() => {}
                Err(errno) => return Err(about("open_tree", format!("cgroup {name}"))(errno)),
            }
        }
        Ok(())
    }
}

impl Trees {
    /// Takes copies of v1 hierarchies while the host's mounts are there.
    pub(super) fn copy_hierarchies(&mut self, slots: &Slots) -> Result<(), StepError> {
        for hierarchy in slots.hierarchies.iter().filter(|_| self.cgroups.is_none()) {
            self.hierarchies.extend(copy_of_hosts(hierarchy)?.map(|tree| (hierarchy.name.clone(), tree)));
        }
        Ok(())
    }
}

/// The container's own cgroups: one tree on a v2 host; else, as programs know it from hybrid hosts, a tmpfs with one
/// directory for each hierarchy the container has a cgroup of its own in. A hierarchy in which it shares a cgroup with
/// others is not shown: that would be the host's tree.
pub(super) fn mount(run: &mut Run, mount: &Mount) -> Result<(), StepError> {
    let mut trees = match &mut run.trees.cgroups {
        Some(taken) => std::mem::take(taken),
        None => own_cgroups(&run.slots, std::mem::take(&mut run.trees.hierarchies), mount)?,
    };
    let root = run.root()?;
    let legacy_host = !run.slots.hierarchies.is_empty() || !crate::runtime::cgroup::host_is_unified();
    let target = root.ensure_dir(&mount.target)?;
    if !legacy_host {
        let Some((_, tree)) = trees.pop() else { return Err(StepError::EmptySlot { slot: "the cgroup" }) };
        return finish(&tree, mount, target.as_fd(), true);
    }
    let options = [("mode".to_owned(), Some("755".to_owned())), ("size".to_owned(), Some("64k".to_owned()))];
    let directory = filesystem("tmpfs", "cgroup", &options, mount.own.set & !READ_ONLY, &mount.target)?;
    attach(&directory, target.as_fd()).map_err(about("move_mount", &mount.target))?;
    for (name, tree) in &trees {
        let path = format!("{}/{name}", mount.target);
        set_own(tree, mount).map_err(about("mount_setattr", &path))?;
        let place = root.ensure_dir(&path)?;
        attach(tree, place.as_fd()).map_err(about("move_mount", &path))?;
        link_controllers(&directory, name);
    }
    if mount.own.set & READ_ONLY != 0 {
        set(directory.as_fd(), false, READ_ONLY, 0, 0).map_err(about("mount_setattr", &mount.target))?;
    }
    settle(directory.as_fd(), mount)
}

/// A user namespace may not change how the host's mounts keep times of access (mount_namespaces(7)), which nobody reads of a cgroup.
fn set_own(tree: &OwnedFd, mount: &Mount) -> Result<(), Errno> {
    let (own, times) = (mount.own, libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME);
    match set(tree.as_fd(), false, own.set, own.clear, 0) {
        Err(Errno::PERM) if (own.set | own.clear) & times != 0 => {
            set(tree.as_fd(), false, own.set & !times, own.clear & !times, 0)
        }
        done => done,
    }
}

/// `cpu,cpuacct` is also found as `cpu` and as `cpuacct`.
fn link_controllers(directory: &OwnedFd, name: &str) {
    if name.contains(',') {
        for controller in name.split(',') {
            // Already there only if two hierarchies claim one controller, which the kernel forbids.
            let _ = rustix::fs::symlinkat(name, directory, controller);
        }
    }
}

/// What the host mounts there does not come in, and what the container mounts there does not go out.
fn detach_from_host(tree: &OwnedFd, name: &str) -> Result<(), StepError> {
    set(tree.as_fd(), false, 0, 0, libc::MS_PRIVATE).map_err(about("mount_setattr", format!("cgroup {name}")))
}

/// A copy of the host's mount of a v1 hierarchy at the container's own directory, if the host has it where it belongs: this namespace
/// still has the host's mounts. The kernel makes a new mount of such a hierarchy in a time that grows with the number of cgroups there are.
fn copy_of_hosts(hierarchy: &Hierarchy) -> Result<Option<OwnedFd>, StepError> {
    let path = format!("/sys/fs/cgroup/{}/{}", hierarchy.name, hierarchy.path.trim_start_matches('/'));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(found) = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) else { return Ok(None) };
    let identity = |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).map_err(call("stat"));
    if identity(&found)? != identity(&hierarchy.directory)? {
        return Ok(None);
    }
    let Ok(tree) = clone_tree(found.as_fd(), false) else { return Ok(None) };
    detach_from_host(&tree, &hierarchy.name)?;
    Ok(Some(tree))
}

/// With a cgroup namespace a mount of a hierarchy begins at the container's own cgroup.
fn own_cgroups(
    slots: &Slots,
    mut ahead: Vec<(String, OwnedFd)>,
    mount: &Mount,
) -> Result<Vec<(String, OwnedFd)>, StepError> {
    let mut trees = Vec::new();
    if slots.cgroup.is_some() {
        trees.push(("unified".to_owned(), filesystem("cgroup2", "cgroup2", &[], mount.own.set, &mount.target)?));
    }
    for hierarchy in &slots.hierarchies {
        let made = ahead.iter().position(|(name, _)| *name == hierarchy.name).map(|at| ahead.swap_remove(at).1);
        if let Some(tree) = made.map_or_else(|| copy_of_hosts(hierarchy), |tree| Ok(Some(tree)))? {
            trees.push((hierarchy.name.clone(), tree));
            continue;
        }
        let mut options: Vec<(String, Option<String>)> =
            hierarchy.name.split(',').map(|controller| (controller.to_owned(), None)).collect();
        if hierarchy.name == "systemd" {
            options = vec![("none".to_owned(), None), ("name".to_owned(), Some("systemd".to_owned()))];
        }
        trees.push((hierarchy.name.clone(), filesystem("cgroup", "cgroup", &options, mount.own.set, &mount.target)?));
    }
    Ok(trees)
}

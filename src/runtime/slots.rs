//! What only the run can know: the descriptors a script is executed with.
//!
//! A script and its slots may be put together in one process and executed in another. [`Slots::into_parts`] gives a small
//! header and the descriptors in this order, absent ones left out: report, stdin, stdout, stderr, cgroup, network,
//! console, gate, container; those of a spare; then for each cgroup v1 hierarchy its directory and its `tasks` file; of those that are being
//! made the pipe and the root of each hierarchy; then the extra ones.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::spare::SpareParts;

/// The most cgroup v1 hierarchies that are taken from a header; there are about a dozen controllers.
pub const MAX_HIERARCHIES: usize = 32;
/// The most extra descriptors that are taken from a header.
pub const MAX_EXTRA: usize = 1024;

/// The descriptors of one run.
#[derive(Debug)]
pub struct Slots {
    /// Write end of a pipe: nothing but end of file means that the program was executed, else one
    /// [`Failure`](super::Failure).
    pub report: OwnedFd,
    /// Descriptor 0; the parent's own where absent.
    pub stdin: Option<OwnedFd>,
    /// Descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Descriptor 2.
    pub stderr: Option<OwnedFd>,
    /// The container's cgroup v2 directory.
    pub cgroup: Option<OwnedFd>,
    /// A network namespace to join.
    pub network: Option<OwnedFd>,
    /// A unix socket that gets the master of the pty.
    pub console: Option<OwnedFd>,
    /// Read end of a FIFO (opened for both): the program is executed when something is written.
    pub gate: Option<OwnedFd>,
    /// Pidfd of a container to join.
    pub container: Option<OwnedFd>,
    /// Taken instead of a new network namespace.
    pub spare: Option<SpareParts>,
    /// The container's cgroup v1 directories.
    pub hierarchies: Vec<Hierarchy>,
    /// Those that are being made.
    pub coming: Option<Coming>,
    /// Read end of a pipe: the filter that is being compiled, or one byte once the trampoline has it. It is for a process that is forked where
    /// it is compiled: no header has it.
    pub filter: Option<OwnedFd>,
    /// Socket to whoever runs the hooks of the container's maker; like `filter`.
    pub maker: Option<OwnedFd>,
    /// What takes the place of the report once the gate is open, where somebody waits for that; like `filter`.
    pub started: Option<OwnedFd>,
    /// Descriptors 3 and up of the program.
    pub extra: Vec<OwnedFd>,
}

/// One cgroup v1 directory.
#[derive(Debug)]
pub struct Hierarchy {
    /// Where it is found below `/sys/fs/cgroup`, e.g. `cpu,cpuacct`.
    pub name: String,
    /// The directory's path in it, absolute.
    pub path: String,
    /// The directory.
    pub directory: OwnedFd,
    /// Its `tasks` file, open for writing.
    pub tasks: OwnedFd,
}

/// cgroup v1 directories that are made while the process sets itself up. Whoever makes them kills it if that fails.
#[derive(Debug)]
pub struct Coming {
    /// Read end of a pipe: a byte comes when they are there. Its end without one says that whoever was to make them is gone.
    pub made: OwnedFd,
    /// Of each the name, the root of its hierarchy, and the path below that.
    pub places: Vec<(String, OwnedFd, String)>,
}

/// Says which descriptors follow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMap {
    /// stdin, stdout, stderr, cgroup, network, console, gate, container.
    pub present: [bool; 8],
    /// A spare's network namespace and sysfs.
    pub spare: bool,
    /// And its mount namespace.
    pub spare_mounts: bool,
    /// Names of the cgroup v1 hierarchies, and the path in each.
    pub hierarchies: Vec<(String, String)>,
    /// The same of those that are being made, if any are.
    pub coming: Option<Vec<(String, String)>>,
    /// How many extra descriptors.
    pub extra: u16,
}

/// A header and descriptors that do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{got} descriptors came, {expected} were announced")]
pub struct SlotMismatch {
    /// How many the header asks for.
    pub expected: usize,
    /// How many there are.
    pub got: usize,
}

impl Slots {
    /// Slots that hold the report pipe and nothing else.
    pub fn new(report: OwnedFd) -> Slots {
        Slots {
            report,
            stdin: None,
            stdout: None,
            stderr: None,
            cgroup: None,
            network: None,
            console: None,
            gate: None,
            container: None,
            spare: None,
            hierarchies: Vec::new(),
            coming: None,
            filter: None,
            maker: None,
            started: None,
            extra: Vec::new(),
        }
    }

    /// Every descriptor, also those that no header has.
    pub(super) fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        let single = [
            &self.stdin,
            &self.stdout,
            &self.stderr,
            &self.cgroup,
            &self.network,
            &self.console,
            &self.gate,
            &self.container,
            &self.filter,
            &self.maker,
            &self.started,
        ];
        let coming = self.coming.iter().flat_map(|coming| {
            std::iter::once(&coming.made).chain(coming.places.iter().map(|(_, hierarchy, _)| hierarchy))
        });
        let hierarchies = self.hierarchies.iter().flat_map(|hierarchy| [&hierarchy.directory, &hierarchy.tasks]);
        let spare = self.spare.iter().flat_map(|spare| [&spare.network, &spare.sysfs].into_iter().chain(&spare.mounts));
        let known = std::iter::once(&self.report).chain(single.into_iter().flatten()).chain(spare);
        known.chain(hierarchies).chain(coming).chain(&self.extra)
    }

    /// Header and descriptors, to be sent.
    pub fn into_parts(self) -> (SlotMap, Vec<OwnedFd>) {
        let single =
            [self.stdin, self.stdout, self.stderr, self.cgroup, self.network, self.console, self.gate, self.container];
        let mut map = SlotMap { extra: self.extra.len() as u16, ..SlotMap::default() };
        let mut fds = vec![self.report];
        for (present, fd) in map.present.iter_mut().zip(single) {
            *present = fd.is_some();
            fds.extend(fd);
        }
        if let Some(spare) = self.spare {
            map.spare = true;
            map.spare_mounts = spare.mounts.is_some();
            fds.extend([spare.network, spare.sysfs].into_iter().chain(spare.mounts));
        }
        for hierarchy in self.hierarchies {
            map.hierarchies.push((hierarchy.name, hierarchy.path));
            fds.extend([hierarchy.directory, hierarchy.tasks]);
        }
        if let Some(Coming { made, places }) = self.coming {
            fds.push(made);
            let places = places.into_iter().map(|(name, top, path)| {
                fds.push(top);
                (name, path)
            });
            map.coming = Some(places.collect());
        }
        fds.extend(self.extra);
        (map, fds)
    }

    /// The reverse of [`Slots::into_parts`]; fails unless exactly the announced number came.
    pub fn from_parts(map: SlotMap, fds: Vec<OwnedFd>) -> Result<Slots, SlotMismatch> {
        let hierarchies = map.hierarchies.len().min(MAX_HIERARCHIES);
        let coming = map.coming.as_ref().map_or(0, |places| 1 + places.len().min(MAX_HIERARCHIES));
        let extra = usize::from(map.extra).min(MAX_EXTRA);
        let expected = 1
            + map.present.iter().filter(|present| **present).count()
            + 2 * usize::from(map.spare)
            + usize::from(map.spare && map.spare_mounts)
            + 2 * hierarchies
            + coming
            + extra;
        let mismatch = SlotMismatch { expected, got: fds.len() };
        if fds.len() != expected {
            return Err(mismatch);
        }
        let mut fds = fds.into_iter();
        let mut slots = Slots::new(fds.next().ok_or(mismatch)?);
        let single = [
            &mut slots.stdin,
            &mut slots.stdout,
            &mut slots.stderr,
            &mut slots.cgroup,
            &mut slots.network,
            &mut slots.console,
            &mut slots.gate,
            &mut slots.container,
        ];
        for (slot, present) in single.into_iter().zip(map.present) {
            if present {
                *slot = Some(fds.next().ok_or(mismatch)?);
            }
        }
        if map.spare {
            let (network, sysfs) = (fds.next().ok_or(mismatch)?, fds.next().ok_or(mismatch)?);
            let mounts = if map.spare_mounts { Some(fds.next().ok_or(mismatch)?) } else { None };
            slots.spare = Some(SpareParts { network, sysfs, mounts });
        }
        for (name, path) in map.hierarchies.into_iter().take(hierarchies) {
            let (directory, tasks) = (fds.next().ok_or(mismatch)?, fds.next().ok_or(mismatch)?);
            slots.hierarchies.push(Hierarchy { name, path, directory, tasks });
        }
        if let Some(places) = map.coming {
            let made = fds.next().ok_or(mismatch)?;
            let places = places.into_iter().take(MAX_HIERARCHIES);
            let places = places.map(|(name, path)| Some((name, fds.next()?, path))).collect::<Option<Vec<_>>>();
            slots.coming = Some(Coming { made, places: places.ok_or(mismatch)? });
        }
        slots.extra = fds.collect();
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> OwnedFd {
        rustix::pipe::pipe().expect("a pipe").0
    }

    fn inode(fd: &OwnedFd) -> u64 {
        rustix::fs::fstat(fd).expect("stat").st_ino
    }

    #[test]
    fn what_was_put_in_comes_out_in_its_place() {
        let place = |name: &str| (name.to_owned(), descriptor(), format!("/{name}/x.1"));
        let mut slots = Slots::new(descriptor());
        (slots.stdout, slots.cgroup) = (Some(descriptor()), Some(descriptor()));
        slots.coming = Some(Coming { made: descriptor(), places: vec![place("pids"), place("devices")] });
        slots.extra = vec![descriptor(), descriptor()];
        let all = |slots: &Slots| slots.all().map(inode).collect::<Vec<_>>();
        let before = all(&slots);
        let (map, fds) = slots.into_parts();
        let again = Slots::from_parts(map.clone(), fds).expect("the same number");
        assert_eq!(all(&again), before);
        let places = again.coming.as_ref().expect("they are coming").places.iter();
        let names: Vec<_> = places.map(|(name, _, path)| (name.as_str(), path.as_str())).collect();
        assert_eq!(names, [("pids", "/pids/x.1"), ("devices", "/devices/x.1")]);
        let (_, mut fds) = again.into_parts();
        fds.pop();
        let mismatch = Slots::from_parts(map, fds).map(drop);
        assert_eq!(mismatch, Err(SlotMismatch { expected: 8, got: 7 }));
    }
}

//! Steps in words, for `--debug` and for errors.

use std::fmt;

use super::*;
use crate::words::visible;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.say(&mut OneLine(f))
    }
}

/// Names and arguments may hold anything; what controls a terminal is written out.
struct OneLine<'f, 'a>(&'f mut fmt::Formatter<'a>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().flat_map(visible).try_for_each(|c| self.0.write_char(c))
    }
}

impl Step {
    fn say(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        match self {
            Step::AwaitMaps => write!(f, "wait for the mappings of ids"),
            Step::BecomeRoot => write!(f, "become root of the user namespace"),
            Step::Isolate => write!(f, "own session, not dumpable, die with the parent"),
            Step::Keyring(Some(name)) => write!(f, "session keyring {name}"),
            Step::Keyring(None) => write!(f, "new session keyring"),
            Step::JoinCgroups => write!(f, "join the cgroup v1 directories"),
            Step::TakeCgroups => write!(f, "take the container's cgroup trees"),
            Step::Unshare(namespaces) => write!(f, "new namespaces: {namespaces}"),
            Step::JoinNetwork => write!(f, "join the network namespace"),
            Step::Loopback => write!(f, "bring lo up"),
            Step::TakeDevices => write!(f, "take the network devices"),
            Step::Hostname(name) => write!(f, "set the host name to {name}"),
            Step::Domainname(name) => write!(f, "set the domain name to {name}"),
            Step::HostPropagation(propagation) => write!(f, "make the host's mounts {propagation}"),
            Step::Rlimits { limits, .. } => {
                write!(f, "set limits:")?;
                limits.iter().try_for_each(|limit| write!(f, " {limit}"))
            }
            Step::Root(RootPlan::Directory { path, .. }) => write!(f, "take {} as the root", path.display()),
            Step::Root(RootPlan::Layers { layers, upper, .. }) => {
                write!(f, "take the union of")?;
                layers.iter().try_for_each(|layer| write!(f, " {}", layer.display()))?;
                match upper {
                    Upper::Memory { size_bytes } => write!(f, " as the root, {size_bytes} bytes of memory above it"),
                    Upper::Kept(dir) => write!(f, " as the root, {} above it", dir.display()),
                }
            }
            Step::Root(RootPlan::Tmpfs { binds, .. }) => {
                write!(f, "make a tmpfs root holding")?;
                binds.iter().try_for_each(|(source, target)| write!(f, " {} as {target}", source.display()))
            }
            Step::CurrentRoot => write!(f, "take the container's root"),
            Step::Mount(mount) => write!(f, "mount {mount}"),
            Step::Devices(nodes) => {
                write!(f, "make device nodes")?;
                nodes.iter().try_for_each(|node| write!(f, " {}", node.path))?;
                write!(f, " and the links of /dev")
            }
            Step::HostDevice(path) => write!(f, "make a node like the host's {}", path.display()),
            Step::Console { size: Some((rows, columns)), .. } => write!(f, "make a terminal of {columns}x{rows}"),
            Step::Console { size: None, .. } => write!(f, "make a terminal"),
            Step::MakerHooks(hooks) => {
                write!(f, "wait for hooks")?;
                let all = hooks.create_runtime.iter().chain(&hooks.poststart);
                all.clone().try_for_each(|hook| write!(f, " {}", hook.path))?;
                if all.count() == 0 { write!(f, " (none)") } else { Ok(()) }
            }
            Step::HostStart(hook) => write!(f, "wait for {} on the host", hook.path),
            Step::OwnStart { hook, .. } => write!(f, "run {} first", hook.path),
            Step::Hooks { moment, hooks, .. } => {
                write!(f, "run {moment} hooks")?;
                hooks.iter().try_for_each(|hook| write!(f, " {}", hook.path))
            }
            Step::MakeCwd(path) => write!(f, "make {path} if missing"),
            Step::Sysctl(name, value) => write!(f, "set sysctl {} = {value}", name.replace('/', ".")),
            Step::OomScoreAdj { value, .. } => write!(f, "set oom_score_adj to {value}"),
            Step::ExecLabel { apparmor, selinux } => {
                write!(f, "set the program's")?;
                let parts = [("AppArmor profile", apparmor), ("SELinux label", selinux)];
                let mut there = parts.iter().filter_map(|(what, value)| Some((what, value.as_ref()?)));
                there.try_for_each(|(what, value)| write!(f, " {what} {value}"))
            }
            Step::NeedSelinux => write!(f, "see whether SELinux is on"),
            Step::SealMounts => write!(f, "make the mounts read-only that others were made in"),
            Step::ReadonlyPaths(paths) => write!(f, "make read-only: {}", paths.join(" ")),
            Step::MaskedPaths(paths) => write!(f, "mask: {}", paths.join(" ")),
            Step::ReadonlyRoot => write!(f, "make the root read-only"),
            Step::Pivot => write!(f, "pivot into the root"),
            Step::CoverRoot => write!(f, "chroot into the root"),
            Step::RootPropagation(propagation) => write!(f, "make the root {propagation}"),
            Step::Personality(persona) => write!(f, "set the personality (linux.personality) to {persona:#x}"),
            Step::MemoryPolicy(policy) => write!(f, "set the memory policy (linux.memoryPolicy): {policy}"),
            Step::Scheduler(scheduler) => write!(f, "set the scheduler (process.scheduler): {scheduler}"),
            Step::Affinity(affinity) => write!(f, "take the CPUs {affinity} (process.execCPUAffinity)"),
            Step::IoPriority(value) => {
                write!(f, "set the I/O priority (process.ioPriority): class {} priority {}", value >> 13, value & 7)
            }
            Step::Umask(mask) => write!(f, "set umask {mask:04o}"),
            Step::Chdir(path) => write!(f, "change to {path}"),
            Step::NoNewPrivileges => write!(f, "set no_new_privs"),
            Step::Init => write!(f, "leave a small init as pid 1"),
            Step::Identity(Identity::Numbers { uid, gid, groups }) => {
                write!(f, "become uid {uid} gid {gid}")?;
                groups.iter().try_for_each(|group| write!(f, " group {group}"))
            }
            Step::Identity(Identity::Names { user, group: None }) => write!(f, "become user {user}"),
            Step::Identity(Identity::Names { user, group: Some(group) }) => write!(f, "become {user}:{group}"),
            Step::BoundingSet(mask) => write!(f, "limit the bounding set to {mask:#x}"),
            Step::Capabilities(sets) => write!(
                f,
                "set capabilities: effective {:#x} permitted {:#x} inheritable {:#x} ambient {:#x}",
                sets.effective, sets.permitted, sets.inheritable, sets.ambient
            ),
            Step::Listener(_) => write!(f, "connect to the seccomp agent"),
            Step::Seccomp(filter) => write!(f, "load a seccomp filter of {} instructions", filter.program.len()),
            Step::SeccompComing => write!(f, "load the seccomp filter"),
            Step::FindProgram { program, .. } => write!(f, "find {program}"),
            Step::Descriptors => write!(f, "put the descriptors into place"),
            Step::Gate => write!(f, "wait for start"),
            Step::Execute { args, .. } => write!(f, "execute {}", args.join(" ")),
            Step::RightsOfUser => write!(f, "take the rights of the user"),
        }
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.mount, "mount"),
            (self.network, "network"),
            (self.ipc, "ipc"),
            (self.uts, "uts"),
            (self.cgroup, "cgroup"),
        ];
        let names: Vec<&str> = all.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(&names.join(" "))
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PropagationKind::Private => "private",
            PropagationKind::Slave => "slave",
            PropagationKind::Shared => "shared",
            PropagationKind::Unbindable => "unbindable",
        };
        write!(f, "{}{kind}", if self.recursive { "r" } else { "" })
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}={}:{}", self.resource, self.soft, self.hard)
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            MountSource::Bind { source, recursive, follow } => {
                let (recursive, link) = (if *recursive { "r" } else { "" }, if *follow { "" } else { "link " });
                write!(f, "{link}{} on {} ({recursive}bind)", source.display(), self.target)?;
            }
            MountSource::Filesystem { fstype, options, .. } => {
                write!(f, "{fstype} on {}", self.target)?;
                for (name, value) in options {
                    match value {
                        Some(value) => write!(f, " {name}={value}")?,
                        None => write!(f, " {name}")?,
                    }
                }
            }
            MountSource::Cgroup => write!(f, "cgroups on {}", self.target)?,
        }
        for (prefix, attributes) in [("", self.own), ("r", self.below)] {
            let mut set = crate::oci::mount::ATTRIBUTES.iter().filter(|(_, bit)| attributes.set & bit != 0);
            set.try_for_each(|(name, _)| write!(f, " {prefix}{name}"))?;
        }
        match &self.idmap {
            Some(MountIdMap { maps: Some(maps), .. }) => write!(f, " id-mapped: {maps}")?,
            Some(MountIdMap { maps: None, .. }) => write!(f, " id-mapped as the container is")?,
            None => {}
        }
        if self.copy_up {
            write!(f, " holding what was there")?;
        }
        self.propagation.iter().try_for_each(|propagation| write!(f, " {propagation}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_whatever_it_is_about() {
        assert_eq!(
            Step::Hostname("r\nc\u{9b}\u{202e}".to_owned()).to_string(),
            r"set the host name to r\nc\u{9b}\u{202e}"
        );
        let change = Step::Chdir("/ä\t".to_owned());
        assert_eq!(change.to_string(), r"change to /ä\t");
    }
}

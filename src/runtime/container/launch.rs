//! Making a container: its directory, its cgroups, its process.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::LinuxSeccomp;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::directory::{Container, Process, Record, StateRoot};
use super::operate::started_ticks;
use super::{ContainerError, call};
use crate::oci::{CgroupSettings, Hooks, Rdt, Script, seccomp};
use crate::runtime::cgroup::{CgroupError, ContainerCgroup, Host, Location};
use crate::runtime::executed::has_executed;
use crate::runtime::hook::keep_descriptors;
use crate::runtime::{Failure, HostPid, Slots, Spawned, Trampoline, filter, maker, run_hooks, spawn};
use crate::sys::wait::{Which, reap};

/// All that a container is made of.
#[derive(Debug)]
pub struct Launch {
    /// Its id.
    pub id: String,
    /// `ociVersion` of its config.json.
    pub oci_version: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of its root.
    pub rootfs: PathBuf,
    /// Annotations of its config.json.
    pub annotations: BTreeMap<String, String>,
    /// The text of its config.json.
    pub config: Vec<u8>,
    /// What its process does.
    pub script: Script,
    /// The profile of the filter that its script waits for.
    pub profile: Option<LinuxSeccomp>,
    /// What its cgroups get.
    pub settings: CgroupSettings,
    /// `linux.cgroupsPath`.
    pub cgroups_path: Option<String>,
    /// A caller who may make no cgroups gets a container without, unless it asks for one.
    pub rootless: bool,
    /// The script has a gate.
    pub gate: bool,
    /// Where the master of its terminal goes.
    pub console: Option<OwnedFd>,
    /// Descriptors 3 and up.
    pub extra: Vec<OwnedFd>,
    /// What its process executes the program by way of. `None`: this process is one whose executable nobody can write.
    pub trampoline: Option<Trampoline>,
}

/// A container whose process is ready: behind its gate, or executed.
#[derive(Debug)]
pub struct Launched {
    /// Its place.
    pub container: Container,
    /// Its process, a child of the caller.
    pub pid: HostPid,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

impl StateRoot {
    /// Makes a container. What was made is gone again when this fails. The caller must have one thread.
    pub fn launch(&self, launch: Launch) -> Result<Launched, ContainerError> {
        let container = self.claim(&launch.id)?;
        let hooks = launch.script.hooks().cloned();
        let rdt = launch.script.outside.rdt.clone();
        let mut making = Making { container, cgroup: None, spawned: None, hooks, rdt };
        let made = making.try_make(launch);
        if made.is_err() {
            making.undo();
        }
        made
    }
}

/// What there is so far.
struct Making {
    container: Container,
    cgroup: Option<ContainerCgroup>,
    spawned: Option<Spawned>,
    hooks: Option<Hooks>,
    rdt: Option<Rdt>,
}

impl Making {
    fn try_make(&mut self, launch: Launch) -> Result<Launched, ContainerError> {
        let container = &self.container;
        let _locked = container.write_config(&launch.config)?;
        // Asked for by name, it is an error that there is none.
        let may_lack = launch.rootless && launch.cgroups_path.is_none();
        let host = unless_refused(Host::detect(), may_lack)?;
        let plan = |host| ContainerCgroup::plan(host, launch.cgroups_path.as_deref(), &launch.id, &launch.settings);
        let cgroups = host.as_ref().map(plan).transpose()?.unwrap_or_default();
        let mut record = Record {
            oci_version: launch.oci_version,
            bundle: launch.bundle,
            rootfs: launch.rootfs,
            created: SystemTime::now(),
            owner: rustix::process::getuid().as_raw(),
            annotations: launch.annotations,
            cgroup: cgroups,
            resources: None,
            rdt: launch.script.outside.rdt.clone(),
            process: None,
            hooks: launch.script.hooks().cloned(),
        };
        container.write(&record)?;
        if let Some(host) = &host {
            self.cgroup = unless_refused(ContainerCgroup::create(host, &record.cgroup, &launch.settings), may_lack)?;
        }
        if self.cgroup.is_none() {
            if let Some(field) = launch.settings.first_limit() {
                return Err(ContainerError::NoCgroupFor { what: format!("linux.resources.{field}") });
            }
            record.cgroup = Location::default();
            container.write(&record)?;
        }
        let mut cgroup = self.cgroup.as_mut().zip(host.as_ref());
        if let (Some((cgroup, _)), Some(owner)) = (&cgroup, launch.script.cgroup_owner()) {
            cgroup.delegate(owner)?;
        }
        let (report, mut report_write) = pipe_with(PipeFlags::CLOEXEC).map_err(call("pipe"))?;
        if let Some(trampoline) = &launch.trampoline {
            // Behind the descriptors that the program gets, so that it can keep its number.
            report_write = fcntl_dupfd_cloexec(&report_write, 3 + launch.extra.len() as i32).map_err(call("dup"))?;
            if !Trampoline::awaits_filter(&launch.script) {
                let written = trampoline.write(&launch.script, None, report_write.as_raw_fd());
                written.map_err(call("write the trampoline"))?;
            }
            // Before there is a copy of this process that another might look into.
            set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(call("set not dumpable"))?;
        }
        let mut filter = FilterToCome::new(launch.profile, launch.trampoline.as_ref(), report_write.as_raw_fd())?;
        let mut slots = Slots::new(report_write);
        slots.filter = filter.as_mut().and_then(|filter| filter.theirs.take());
        // Whoever makes its process for it takes descriptors, and in a user namespace it may open none of them itself.
        let alone = launch.script.outside.is_empty();
        let say_made = match &mut cgroup {
            Some((cgroup, host)) => {
                cgroup.fill_first(host, &record.cgroup.legacy, &launch.settings, alone, &mut slots)?
            }
            None => None,
        };
        slots.console = launch.console;
        slots.extra = launch.extra;
        slots.gate = if launch.gate { Some(container.make_gate()?) } else { None };
        let hooks = launch.script.hooks();
        if launch.gate && hooks.is_some_and(Hooks::follow_start) {
            slots.started = Some(container.make_started()?);
        }
        let maker =
            if hooks.is_some_and(Hooks::need_maker) { Some(maker::pair().map_err(call("socketpair"))?) } else { None };
        let (maker, theirs) = maker.unzip();
        slots.maker = theirs;
        let spawned = self.spawned.insert(spawn(&launch.script, slots, launch.trampoline, || drop(filter.take()))?);
        let pid = spawned.pid;
        // While the process sets itself up as far as it can without.
        if let (Some(say_made), Some((cgroup, host))) = (say_made, &mut cgroup) {
            cgroup.finish(host, &record.cgroup.legacy, &launch.settings)?;
            let _ = rustix::io::write(&say_made, b"1");
        }
        filter.map_or(Ok(()), |filter| filter.compile_and_send(&launch.script))?;
        record.cgroup = cgroup.as_ref().map(|(cgroup, _)| cgroup.location.clone()).unwrap_or_default();
        let is_out_of_memory = || cgroup.as_ref().is_some_and(|(cgroup, _)| cgroup.oom_kills() > 0);
        record.process = started_ticks(pid).map(|started_ticks| Process { pid: pid.0, started_ticks });
        container.write(&record)?;
        if let (Some(maker), Some(hooks)) = (maker, hooks)
            && maker.await_process().is_some()
        {
            let state = hooks.state.json("creating", pid.0);
            keep_descriptors();
            maker.answer(&run_hooks(&hooks.create_runtime, &state, Some(&hooks.state.bundle)));
        }
        match Failure::read(report, &launch.script) {
            Some(failure) => return Err(ContainerError::Setup(failure.text)),
            // A process that waits at its gate and is gone was killed; without a gate it may have done its work.
            None if launch.gate && has_ended(spawned) => {
                return Err(ContainerError::KilledInSetup { oom: is_out_of_memory() });
            }
            None => {}
        }
        if let Some(hooks) = hooks.filter(|_| !launch.gate) {
            if has_executed(pid.0.cast_signed()) != Some(true) {
                return Err(ContainerError::KilledInSetup { oom: is_out_of_memory() });
            }
            super::follow::poststart(hooks, pid)?;
        }
        Ok(Launched { container: container.clone(), pid, pidfd: spawned.pidfd.try_clone().map_err(call("dup"))? })
    }

    /// A failed setup is over by now, or is killed here; it leaves nothing behind.
    fn undo(self) {
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill();
        }
        if let Some(spawned) = &self.spawned
            && super::operate::wait_for_end(spawned.pidfd.as_fd())
        {
            let _ = reap(Which::PidFd(spawned.pidfd.as_fd()));
        }
        // The first error is the one that matters.
        let _ = self.cgroup.map(|cgroup| cgroup.remove());
        let _ = super::operate::remove_rdt(self.rdt.as_ref());
        if self.spawned.is_some()
            && let Some(hooks) = &self.hooks
        {
            let _ = super::follow::poststop(hooks);
        }
        let _ = self.container.remove();
    }
}

/// A filter that is compiled while the process sets itself up.
struct FilterToCome {
    profile: LinuxSeccomp,
    /// Where the process waits for it.
    theirs: Option<OwnedFd>,
    ours: OwnedFd,
    /// What is to load it, and the number of its report.
    trampoline: Option<(Trampoline, RawFd)>,
}

impl FilterToCome {
    fn new(
        profile: Option<LinuxSeccomp>,
        trampoline: Option<&Trampoline>,
        report: RawFd,
    ) -> Result<Option<FilterToCome>, ContainerError> {
        let Some(profile) = profile else { return Ok(None) };
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(call("pipe"))?;
        let trampoline = trampoline.map(Trampoline::try_clone).transpose().map_err(call("dup"))?;
        Ok(Some(FilterToCome { profile, theirs: Some(theirs), ours, trampoline: trampoline.map(|one| (one, report)) }))
    }

    fn compile_and_send(self, script: &Script) -> Result<(), ContainerError> {
        let Some(native) = seccomp::native() else { return Ok(()) };
        let filter = seccomp::compile(&self.profile, native).map_err(|errors| {
            let words = errors.iter().map(ToString::to_string).collect::<Vec<_>>();
            ContainerError::Setup(words.join("; "))
        })?;
        filter::hand_over(&filter, script, self.ours, self.trampoline).map_err(call("write the trampoline"))
    }
}

/// Nothing where the kernel refuses it to this user and that is no error.
fn unless_refused<T>(made: Result<T, CgroupError>, may_lack: bool) -> Result<Option<T>, CgroupError> {
    match made {
        Err(error) if may_lack && error.is_refusal() => Ok(None),
        made => made.map(Some),
    }
}

fn has_ended(spawned: &Spawned) -> bool {
    crate::sys::wait::peek(Which::PidFd(spawned.pidfd.as_fd())).is_ok_and(|ended| ended.is_some())
}

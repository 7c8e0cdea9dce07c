//! The new process: executes the steps of a script one after the other and ends in the program.
//!
//! It has one thread, so it may be ordinary code. It holds nothing of its parent's but a copy of the memory; every
//! descriptor it opens is close-on-exec. The first step that fails is reported and ends it.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, move_into_link_name_space};

use super::error::{StepError, about, call, errno_of};
use super::mount::Trees;
use super::notify::Agent;
use super::outside::Brought;
use super::root::Root;
use super::slots::Slots;
use super::trampoline::Trampoline;
use super::{Failure, console, device, hook, identity, init, label, maker, mount, net_devices, program, scheduling};
use crate::oci::seccomp::Flags;
use crate::oci::{Hook, Moment, Namespaces, Script, Step};

/// Exit code of a process that could not be set up. Nobody reads it: the report says why.
const EXIT_SETUP_FAILED: i32 = 127;

/// Runs a script in the process that was just cloned for it.
pub fn run(script: &Script, slots: Slots, trampoline: Option<Trampoline>, brought: Brought) -> ! {
    let mut run = Run::new(slots, trampoline, brought);
    run.has_hooks = script.hooks().is_some();
    for (index, step) in script.steps.iter().enumerate() {
        run.at = index;
        if let Err(error) = run.step(step, script) {
            run.report(index, step, &error);
            break;
        }
    }
    std::process::exit(EXIT_SETUP_FAILED)
}

/// What programs are used to: while a container is set up it is 0.
const HOOK_UMASK: Mode = Mode::from_raw_mode(0o022);

/// What the steps so far have brought about.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) slots: Slots,
    report: Option<OwnedFd>,
    pub(super) root: Option<Root>,
    procfs: Option<OwnedFd>,
    pub(super) trees: Trees,
    pub(super) account: identity::Account,
    /// The standard streams are a terminal that was made for this process.
    pub(super) terminal: bool,
    found: Option<std::ffi::CString>,
    trampoline: Option<Trampoline>,
    retry_chdir: Option<String>,
    /// Programs of the host's look into the mount namespace on the way.
    has_hooks: bool,
    /// In a mount namespace that was made ahead.
    prepared: bool,
    /// Index of the step.
    pub(super) at: usize,
    mapped: Option<OwnedFd>,
    agent: Option<Agent>,
    devices: Option<OwnedFd>,
    proc: Option<OwnedFd>,
    /// In a user namespace whose mappings its own user wrote.
    may_set_groups: bool,
}

impl Run {
    fn new(mut slots: Slots, trampoline: Option<Trampoline>, brought: Brought) -> Run {
        let report = std::mem::replace(&mut slots.report, null_device());
        Run {
            slots,
            report: Some(report),
            root: None,
            procfs: None,
            trees: brought.trees,
            account: identity::Account::default(),
            terminal: false,
            found: None,
            trampoline,
            retry_chdir: None,
            has_hooks: false,
            prepared: false,
            at: 0,
            mapped: brought.mapped,
            agent: brought.agent,
            devices: brought.devices,
            proc: brought.proc,
            may_set_groups: true,
        }
    }

    fn step(&mut self, step: &Step, script: &Script) -> Result<(), StepError> {
        match step {
            Step::AwaitMaps => self.await_maps(),
            Step::BecomeRoot => self.become_root(),
            Step::Isolate => isolate(),
            Step::Keyring(name) => keyring(name.as_deref()),
            Step::JoinCgroups => self.join_cgroups(),
            Step::TakeCgroups => self.trees.take_cgroups(&self.slots),
            Step::Unshare(namespaces) => self.unshare(*namespaces, script),
            Step::JoinNetwork => self.join_network(),
            // A spare's is.
            Step::Loopback if self.slots.spare.is_some() => Ok(()),
            Step::Loopback => loopback(),
            Step::TakeDevices => {
                let socket = self.devices.take().ok_or(StepError::EmptySlot { slot: "the network devices" })?;
                net_devices::take(&socket)
            }
            Step::Hostname(name) => rustix::system::sethostname(name.as_bytes()).map_err(call("sethostname")),
            Step::Domainname(name) => rustix::system::setdomainname(name.as_bytes()).map_err(call("setdomainname")),
            // Its copies have it.
            Step::HostPropagation(_) if self.prepared => Ok(()),
            Step::HostPropagation(propagation) => mount::host_propagation(*propagation),
            Step::Rlimits { limits, clamp } => identity::set_limits(limits, *clamp),
            Step::Root(plan) => {
                self.root = Some(mount::take_root(plan, &mut self.trees, self.at, self.has_hooks)?);
                Ok(())
            }
            Step::CurrentRoot => {
                self.root = Some(Root::new(super::root::open_path(Path::new("/")).map_err(about("open", "/"))?));
                Ok(())
            }
            Step::Mount(what) => mount::mount(self, what),
            Step::Devices(nodes) => device::make(self.root()?, nodes),
            Step::HostDevice(path) => device::copy_host_node(self.root()?, path),
            Step::Console { size, cover } => console::open(self, *size, *cover),
            Step::MakerHooks(hooks) if hooks.need_maker() => maker::ask(&self.slots),
            Step::MakerHooks(_) => Ok(()),
            Step::HostStart(_) => maker::ask(&self.slots),
            Step::OwnStart { hook, home } => {
                let home = self.account.home.as_deref().filter(|_| *home);
                let hook = Hook { env: program::with_home(&hook.env, home), ..hook.clone() };
                hook::run_all(&[hook], "", None).map_err(|error| StepError::Hook { text: error.to_string() })
            }
            Step::Hooks { moment, hooks, state, env } => {
                let json = state.json(moment.status(), std::process::id());
                let done = match moment {
                    Moment::Create => {
                        let own = rustix::process::umask(HOOK_UMASK);
                        let done = hook::run_all(hooks, &json, Some(&state.bundle));
                        rustix::process::umask(own);
                        done
                    }
                    Moment::Start => {
                        let env = program::with_home(env, self.account.home.as_deref());
                        hook::run_all_as_the_process(hooks, &json, &env)
                    }
                };
                done.map_err(|error| StepError::Hook { text: error.to_string() })
            }
            Step::MakeCwd(path) => self.root()?.ensure_dir(path).map(drop),
            Step::Sysctl(name, value) => self.write_proc(&format!("sys/{name}"), value),
            Step::OomScoreAdj { value, best_effort } => {
                let written = self.write_proc("self/oom_score_adj", &value.to_string());
                if *best_effort { Ok(()) } else { written }
            }
            Step::ExecLabel { apparmor, selinux } => {
                if self.procfs.is_none() {
                    self.procfs = Some(self.proc.take().map_or_else(mount::detached_procfs, Ok)?);
                }
                let procfs = self.procfs.as_ref().ok_or(StepError::EmptySlot { slot: "procfs" })?;
                label::set(procfs, apparmor.as_deref(), selinux.as_deref())
            }
            Step::NeedSelinux => label::need_selinux("linux.mountLabel"),
            Step::SealMounts => self.trees.seal(),
            Step::ReadonlyPaths(paths) => mount::make_readonly(self.root()?, paths),
            Step::MaskedPaths(paths) => mount::mask(self.root()?, paths),
            Step::ReadonlyRoot => mount::seal(self.root()?),
            Step::Pivot if self.prepared => self.change_root(mount::enter),
            Step::Pivot => self.change_root(mount::pivot),
            Step::CoverRoot => self.change_root(mount::cover_root),
            Step::RootPropagation(propagation) => mount::root_propagation(self.root()?, *propagation),
            Step::Personality(persona) => scheduling::set_personality(*persona),
            Step::MemoryPolicy(policy) => scheduling::set_memory_policy(policy),
            Step::Scheduler(scheduler) => scheduling::set_scheduler(scheduler),
            Step::Affinity(affinity) => scheduling::set_affinity(affinity),
            Step::IoPriority(value) => scheduling::set_io_priority(*value),
            Step::Umask(mask) => {
                rustix::process::umask(Mode::from_bits_retain(*mask));
                Ok(())
            }
            Step::Chdir(path) => self.chdir(path),
            Step::NoNewPrivileges => rustix::thread::set_no_new_privs(true).map_err(call("set no_new_privs")),
            Step::Init => self.leave_init(),
            Step::BoundingSet(keep) => identity::limit_bounding_set(*keep),
            Step::Identity(who) => {
                self.account = identity::resolve(self.root()?, who)?;
                identity::give_streams(&self.account, &self.slots, self.terminal);
                identity::become_user(&self.account, self.may_set_groups)
            }
            Step::Capabilities(sets) => {
                identity::set_capabilities(*sets)?;
                self.after_identity()
            }
            Step::RightsOfUser => {
                identity::take_rights_of(&self.account)?;
                self.after_identity()
            }
            // After the program is found it is the trampoline's, which has it.
            Step::Seccomp(_) if self.trampoline.is_some() && self.found.is_some() => Ok(()),
            Step::SeccompComing => self.await_filter(),
            Step::Listener(_) if self.agent.is_some() => Ok(()),
            Step::Listener(listener) => {
                self.agent = Some(Agent::connect(listener, None)?);
                Ok(())
            }
            Step::Seccomp(filter) if filter.flags.has(Flags::NEW_LISTENER) => {
                let agent = self.agent.take().ok_or(StepError::EmptySlot { slot: "the seccomp agent" })?;
                agent.hand_over(filter)
            }
            Step::Seccomp(filter) => super::filter::load(filter),
            Step::FindProgram { program, path } => {
                self.found = Some(program::find(program, path)?);
                Ok(())
            }
            Step::Descriptors => self.place_descriptors(),
            Step::Gate => self.wait_for_start(),
            Step::Execute { args, env, home, listen_pid } => {
                let found = self.found.as_deref().ok_or(StepError::EmptySlot { slot: "the program" })?;
                let home = if *home { self.account.home.as_deref() } else { None };
                let by_way_of = match (&self.trampoline, &self.report) {
                    (Some(trampoline), Some(report)) => Some((trampoline, report)),
                    (Some(_), None) => return Err(StepError::EmptySlot { slot: "the report" }),
                    (None, _) => None,
                };
                let env = if *listen_pid { program::with_listen_pid(env) } else { env.clone() };
                program::execute(found, args, &env, home, by_way_of)
            }
        }
    }

    /// The root; scripts set it before any step that needs it.
    pub(super) fn root(&self) -> Result<&Root, StepError> {
        self.root.as_ref().ok_or(StepError::EmptySlot { slot: "the root" })
    }

    /// Tells the parent, or after the gate, when nobody listens any more, standard error.
    fn report(&mut self, index: usize, step: &Step, error: &StepError) {
        let failure = Failure::new(index, step, error);
        let Some(report) = self.report.take() else {
            let _ = writeln!(std::io::stderr(), "{}", failure.text);
            return;
        };
        if let Ok(bytes) = postcard::to_stdvec(&failure) {
            let _ = rustix::io::write(&report, &bytes);
        }
    }

    fn join_cgroups(&mut self) -> Result<(), StepError> {
        if let Some(coming) = self.slots.coming.take() {
            self.slots.hierarchies = super::cgroup::await_made(coming)?;
        }
        for hierarchy in &self.slots.hierarchies {
            // "0" into `tasks`, not into `cgroup.procs`: a thread that moves itself needs no lock over all forks of the
            // host, whose grace period costs 7 ms (Linux 5.16). This process has one thread.
            rustix::io::write(&hierarchy.tasks, b"0").map_err(about("join the cgroup", &hierarchy.name))?;
        }
        Ok(())
    }

    fn await_maps(&mut self) -> Result<(), StepError> {
        let mapped = self.mapped.take().ok_or(StepError::EmptySlot { slot: "the mappings of ids" })?;
        match rustix::io::retry_on_intr(|| rustix::io::read(&mapped, &mut [0u8; 1])) {
            Ok(1) => Ok(()),
            // Whoever writes them says why they are not.
            Ok(_) => Err(StepError::NoMaps),
            Err(errno) => Err(call("wait for the mappings of ids")(errno)),
        }
    }

    /// The rights to all that belongs to the user namespace are there from the first; what is missing is a number that is somebody there.
    fn become_root(&mut self) -> Result<(), StepError> {
        self.may_set_groups = identity::become_root()?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(call("set not dumpable"))
    }

    fn join_network(&mut self) -> Result<(), StepError> {
        let network = self.slots.network.take().ok_or(StepError::EmptySlot { slot: "the network namespace" })?;
        enter_network(&network)
    }

    /// What a spare has of them is entered.
    fn unshare(&mut self, namespaces: Namespaces, script: &Script) -> Result<(), StepError> {
        let Some(spare) = self.slots.spare.as_mut().filter(|_| namespaces.network) else { return unshare(namespaces) };
        let mounts = spare.mounts.take().filter(|_| namespaces.mount);
        unshare(Namespaces { network: false, mount: namespaces.mount && mounts.is_none(), ..namespaces })?;
        enter_network(&spare.network)?;
        let Some(mounts) = mounts else { return Ok(()) };
        if mount::prepared::copy(script, &self.slots, &mut self.trees).is_ok() {
            let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
            move_into_link_name_space(mounts.as_fd(), kind).map_err(call("setns"))?;
            self.prepared = true;
            return Ok(());
        }
        // The step whose mount it is says what is wrong with it. The copies that there are, are as good as any.
        unshare(Namespaces { mount: true, ..Namespaces::default() })
    }

    /// Once, after the network namespace was entered.
    pub(super) fn spare_sysfs(&mut self) -> Option<OwnedFd> {
        self.slots.spare.take().map(|spare| spare.sysfs)
    }

    /// A file below a procfs of ours that no mount of the container's covers (CVE-2019-19921, CVE-2025-52881).
    fn write_proc(&mut self, path: &str, value: &str) -> Result<(), StepError> {
        if self.procfs.is_none() {
            self.procfs = Some(mount::detached_procfs()?);
        }
        let Some(procfs) = &self.procfs else { return Err(StepError::EmptySlot { slot: "procfs" }) };
        let file = mount::open_beneath(procfs, path, OFlags::WRONLY).map_err(about("open", format!("/proc/{path}")))?;
        rustix::io::write(&file, value.as_bytes()).map(drop).map_err(about("write", format!("/proc/{path}")))
    }

    fn change_root(&mut self, how: fn(&Root) -> Result<(), StepError>) -> Result<(), StepError> {
        self.procfs = None;
        self.trees = Trees::default();
        how(self.root()?)
    }

    fn chdir(&mut self, path: &str) -> Result<(), StepError> {
        match rustix::process::chdir(path) {
            Ok(()) => check_cwd(path),
            // The directory may be the user's own alone (root over NFS, or without CAP_DAC_OVERRIDE).
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
                self.retry_chdir = Some(path.to_owned());
                Ok(())
            }
            Err(errno) => Err(about("chdir to cwd set in config.json", path)(errno)),
        }
    }

    /// With the rights of the program.
    fn after_identity(&mut self) -> Result<(), StepError> {
        // Again: a change of credentials makes it what fs.suid_dumpable says.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(call("set not dumpable"))?;
        self.chdir_again()
    }

    fn chdir_again(&mut self) -> Result<(), StepError> {
        let Some(path) = self.retry_chdir.take() else { return Ok(()) };
        rustix::process::chdir(&path).map_err(about("chdir to cwd set in config.json", &path))?;
        check_cwd(&path)
    }

    fn leave_init(&mut self) -> Result<(), StepError> {
        let terminal = self.slots.stdin.as_ref().filter(|_| self.terminal);
        let terminal = terminal.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3)).transpose().map_err(call("dup"))?;
        init::leave_behind(terminal.as_ref().map(AsFd::as_fd), || {
            self.report = None;
            self.slots = Slots::new(null_device());
        })
    }

    fn place_descriptors(&mut self) -> Result<(), StepError> {
        let floor = 3 + self.slots.extra.len() as i32;
        let out_of_the_way = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(&fd, floor).map_err(call("dup"));
        // A trampoline knows the number of its report, which is out of the way.
        if self.trampoline.is_none() {
            self.report = self.report.take().map(out_of_the_way).transpose()?;
        }
        for slot in [&mut self.slots.gate, &mut self.slots.filter, &mut self.slots.maker, &mut self.slots.started] {
            *slot = slot.take().map(out_of_the_way).transpose()?;
        }
        if let Some(agent) = &mut self.agent {
            agent.move_above(floor)?;
        }
        let mut placed: Vec<(OwnedFd, i32)> = Vec::new();
        let stdio = [self.slots.stdin.take(), self.slots.stdout.take(), self.slots.stderr.take()];
        for (fd, number) in stdio.into_iter().zip(0..) {
            if let Some(fd) = fd {
                placed.push((out_of_the_way(fd)?, number));
            }
        }
        for (fd, number) in std::mem::take(&mut self.slots.extra).into_iter().zip(3..) {
            placed.push((out_of_the_way(fd)?, number));
        }
        for (fd, number) in placed {
            crate::sys::fd::place(fd, number).map_err(|error| call("dup2")(errno_of(&error)))?;
        }
        crate::sys::fd::cloexec_from(floor as u32).map_err(|error| call("close_range")(errno_of(&error)))?;
        set_parent_process_death_signal(None).map_err(call("clear the death signal"))
    }

    fn await_filter(&mut self) -> Result<(), StepError> {
        let coming = self.slots.filter.take().ok_or(StepError::EmptySlot { slot: "the filter" })?;
        if self.trampoline.is_some() && self.found.is_some() {
            return super::filter::await_word(&coming);
        }
        super::filter::load(&super::filter::receive(coming)?)
    }

    fn wait_for_start(&mut self) -> Result<(), StepError> {
        let gate = self.slots.gate.take().ok_or(StepError::EmptySlot { slot: "the gate" })?;
        self.report = self.slots.started.take();
        let mut byte = [0u8; 1];
        rustix::io::retry_on_intr(|| rustix::io::read(&gate, &mut byte)).map(drop).map_err(call("wait for start"))
    }
}

/// A descriptor to stand where one was taken away; closed again before anything can go wrong with it.
fn null_device() -> OwnedFd {
    // A pipe cannot fail where a path might be missing.
    match rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
        Ok((_, write)) => write,
        Err(_) => std::process::exit(EXIT_SETUP_FAILED),
    }
}

fn isolate() -> Result<(), StepError> {
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(call("set the death signal"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(call("set not dumpable"))?;
    // EPERM only where the process already leads a session, which a new one never does.
    rustix::process::setsid().map_err(call("setsid"))?;
    rustix::process::umask(Mode::empty());
    default_signals()
}

fn default_signals() -> Result<(), StepError> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    let _ = crate::sys::signal::reset_all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|errno| call("sigprocmask")(rustix::io::Errno::from_raw_os_error(errno as i32)))
}

fn keyring(name: Option<&str>) -> Result<(), StepError> {
    let Ok(name) = name.map(std::ffi::CString::new).transpose() else {
        return Err(StepError::ZeroByte { what: "the container's id" });
    };
    match crate::sys::keyring::join_session(name.as_deref()) {
        Ok(()) => Ok(()),
        // A kernel without keyrings, or a host filter that hides them, leaves none to leak.
        Err(error) if [Some(libc::ENOSYS), Some(libc::EPERM)].contains(&error.raw_os_error()) => Ok(()),
        Err(error) => Err(call("new session keyring")(errno_of(&error))),
    }
}

fn enter_network(namespace: &OwnedFd) -> Result<(), StepError> {
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), kind).map_err(call("setns"))
}

fn unshare(namespaces: Namespaces) -> Result<(), StepError> {
    let all = [
        (namespaces.mount, UnshareFlags::NEWNS),
        (namespaces.network, UnshareFlags::NEWNET),
        (namespaces.ipc, UnshareFlags::NEWIPC),
        (namespaces.uts, UnshareFlags::NEWUTS),
        (namespaces.cgroup, UnshareFlags::NEWCGROUP),
    ];
    let flags = all.iter().filter(|(on, _)| *on).fold(UnshareFlags::empty(), |sum, (_, flag)| sum | *flag);
    crate::sys::clone::unshare(flags.bits() as i32).map_err(|error| call("unshare")(errno_of(&error)))
}

pub(super) fn loopback() -> Result<(), StepError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(call("socket"))?;
    crate::sys::loopback::up(socket.as_fd()).map_err(|error| call("bring lo up")(errno_of(&error)))
}

/// A working directory that a leaked descriptor made reachable shows as `(unreachable)` (CVE-2024-21626).
fn check_cwd(path: &str) -> Result<(), StepError> {
    match rustix::process::getcwd(Vec::new()) {
        Ok(cwd) if cwd.as_bytes().starts_with(b"/") => Ok(()),
        Ok(_) | Err(rustix::io::Errno::NOENT) => Err(StepError::OutsideRoot { path: path.to_owned() }),
        Err(errno) => Err(about("getcwd", path)(errno)),
    }
}

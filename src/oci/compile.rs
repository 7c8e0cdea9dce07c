//! From a spec to steps, in the kernel's order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxSeccomp};

use super::cgroup::CgroupSettings;
use super::error::{CompileError, Problem, Report, Warning};
use super::hooks::{self, Hook, Hooks, Moment, PreStart, StateText};
use super::namespaces::Wanted;
use super::outside::{NamespaceKind, Outside};
use super::script::{Listener, Mount, MountSource, Namespaces, Propagation, PropagationKind, RootPlan, Script, Step};
use super::{device, mount, namespaces, process, rdt, resources, scheduler, seccomp, users};
use crate::compact;
use crate::config::{Process, Spec};

/// What a spec does not say.
#[derive(Debug, Clone)]
pub struct Context {
    /// Directory of config.json, absolute; relative paths in it start here.
    pub bundle: PathBuf,
    /// The container's id, for names.
    pub id: String,
    /// `None` takes `root.path`.
    pub root: Option<RootPlan>,
    /// A tiny init stays as pid 1 in front of the process.
    pub init: bool,
    /// User and group as names, looked up in the root's own files at start, instead of `process.user`'s numbers.
    pub user: Option<(String, Option<String>)>,
    /// Devices of the host's by path: a node like it is made and allowed.
    pub devices: Vec<PathBuf>,
    /// The network namespace comes through a slot; a namespace or path in the spec is not looked at.
    pub join_network: bool,
    /// The process waits for a byte in the gate before it executes the program.
    pub gate: bool,
    /// The session keyring of its processes.
    pub keyring: SessionKeyring,
    /// The root is changed by pivot_root(2); else by chroot(2), which leaves the old one below.
    pub pivot: bool,
    /// What may not be raised on this host (limits, oom_score_adj) is set as far as it may.
    pub best_effort: bool,
    /// HOME from the root's passwd file, where the environment has none.
    pub home: bool,
    /// LISTEN_PID, for a process that is passed sockets.
    pub listen_pid: bool,
    /// A seccomp filter that is compiled already, instead of `linux.seccomp`.
    pub filter: Option<seccomp::Filter>,
    /// Where a filter can come once the process is there, it is the caller's to compile it, while the process sets itself up:
    /// [`Step::SeccompComing`].
    pub filter_comes: bool,
    /// The same will be compiled again soon: what became of its seccomp profile is kept.
    pub again: bool,
    /// A service of the host's: it stays in the host's root and namespaces. Of the spec only the process and its resources count, and rights
    /// that are not listed are the host's.
    pub host: bool,
    /// What is run before the program, beside the hooks of the spec.
    pub pre_start: Option<PreStart>,
    /// Of a process that joins a container: what is said of that one.
    pub joined: Joined,
}

/// What others are told of a container that is joined, beyond its id and bundle.
#[derive(Debug, Clone, Default)]
pub struct Joined {
    /// `ociVersion` of its config.json.
    pub oci_version: String,
    /// Annotations of its config.json.
    pub annotations: BTreeMap<String, String>,
    /// Its status.
    pub status: String,
}

impl Context {
    /// As `moored oci run` has it.
    pub fn new(bundle: PathBuf, id: String) -> Context {
        Context {
            bundle,
            id,
            root: None,
            init: false,
            user: None,
            devices: Vec::new(),
            join_network: false,
            gate: false,
            keyring: SessionKeyring::Named,
            pivot: true,
            best_effort: false,
            home: true,
            listen_pid: false,
            filter: None,
            filter_comes: false,
            again: false,
            host: false,
            pre_start: None,
            joined: Joined::default(),
        }
    }
}

/// session-keyring(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKeyring {
    /// The caller's.
    Callers,
    /// `_ses.ID`, as runc has it: made by the first process, found by the others.
    Named,
    /// A new one for each process that is started. Nobody can find it, and no list of names is searched: with a thousand containers that
    /// takes as long as making the namespaces of one.
    Anonymous,
}

impl SessionKeyring {
    fn step(self, id: &str) -> Option<Step> {
        match self {
            SessionKeyring::Callers => None,
            SessionKeyring::Named => Some(Step::Keyring(Some(format!("_ses.{id}")))),
            SessionKeyring::Anonymous => Some(Step::Keyring(None)),
        }
    }
}

/// What comes out.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// What the process does.
    pub script: Script,
    /// What its cgroup gets.
    pub cgroup: CgroupSettings,
    /// What is ignored.
    pub warnings: Vec<Warning>,
}

/// Compiles a whole container. With the raw JSON, fields unknown to runtime-spec are warned about and those not done
/// are found even where the parsed spec has lost them; [`super::parse`] has looked already, so it needs none.
pub fn compile(spec: &Spec, raw: Option<&serde_json::Value>, context: &Context) -> Result<Compiled, Vec<CompileError>> {
    let mut report = Report::default();
    if let Some(raw) = raw {
        super::schema::check(raw, &mut report);
    }
    check_version(spec, &mut report);
    warn_of_others(spec, &mut report);
    let default_linux = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&default_linux);
    let mut namespaces = if context.host { Wanted::default() } else { namespaces::compile(spec, context, &mut report) };
    let hooks = if context.host { None } else { hooks::compile(spec, context, &mut report) };
    namespaces.outside.rdt = rdt::compile(linux, &context.id, &mut report);
    namespaces.outside.shares = root_propagation(linux).is_some_and(|root| root.kind == PropagationKind::Shared);
    let mut steps = begin(&namespaces.outside, context);
    if let Some(PreStart::OnHost(hook)) = &context.pre_start {
        steps.push(Step::HostStart(hook.clone()));
    }
    let profile = linux.seccomp().as_ref();
    steps.extend(listener(profile, "creating", || hooks::state_text(spec, context)));
    if context.host {
        steps.extend([Step::JoinCgroups, Step::CurrentRoot]);
        spec.process.iter().for_each(|process| process::oom_score_adj(&mut steps, process, context, &mut report));
        steps.extend(spec.process.as_ref().and_then(|process| process::label(process, &mut report)));
    } else {
        let entered = isolate(&mut steps, spec, linux, context, &namespaces, &mut report);
        let later = if entered { Vec::new() } else { enter_cgroups(namespaces.others.cgroup) };
        populate(&mut steps, later, spec, linux, (context, hooks.as_ref()), &mut report);
    }
    let cgroup = resources::compile(spec.linux.as_ref().and_then(|linux| linux.resources().as_ref()), &mut report);
    let cgroup = device::with_devices(cgroup, context);
    match &spec.process {
        Some(process) => {
            scheduler::compile(&mut steps, process, Some(linux), &mut report);
            process::compile(&mut steps, process, profile, context, &mut report);
        }
        None => report.error("process", Problem::Missing { expected: "the program to run" }),
    }
    if let Some(hooks) = hooks.filter(|hooks| !hooks.start_container.is_empty()) {
        let (moment, state) = (Moment::Start, hooks.state);
        let env = spec.process.as_ref().and_then(|process| process.env.clone()).unwrap_or_default();
        // Right before the program.
        steps.insert(steps.len().saturating_sub(1), Step::Hooks { moment, hooks: hooks.start_container, state, env });
    }
    if let Some(PreStart::Inside(hook)) = &context.pre_start {
        let at = steps.len().saturating_sub(1);
        let own = if let Some(Step::Execute { env, .. }) = steps.get(at) { env.clone() } else { Vec::new() };
        let env = own.into_iter().chain(hook.env.iter().cloned()).collect();
        steps.insert(at, Step::OwnStart { hook: Hook { env, ..hook.clone() }, home: context.home });
    }
    let mut script = Script { new_pid_namespace: namespaces.pid, outside: namespaces.outside, steps };
    users::complete(&mut script, &mut report);
    if !script.outside.is_empty() {
        // Whoever else makes the process takes all of its script with it.
        let coming = script.steps.iter_mut().filter(|step| matches!(step, Step::SeccompComing));
        coming.for_each(|step| {
            if let Some(filter) = profile.and_then(|profile| filter(profile, false, &mut report)) {
                *step = Step::Seccomp(filter);
            }
        });
    }
    if !report.errors.is_empty() {
        return Err(report.errors);
    }
    Ok(Compiled { script, cgroup, warnings: report.warnings })
}

/// Compiles a process that joins a running container: what of the container's own steps is about the process.
/// `terminal` is asked for by the process itself; `linux` is the container's.
pub fn compile_exec(process: &Process, linux: Option<&Linux>, context: &Context) -> Result<Script, Vec<CompileError>> {
    let mut report = Report::default();
    let mut outside = linux.filter(|_| !context.host).map(namespaces::to_enter).unwrap_or_default();
    outside.rdt = linux.and_then(|linux| rdt::compile(linux, &context.id, &mut report));
    let profile = linux.and_then(|linux| linux.seccomp().as_ref());
    let mut steps = begin(&outside, context);
    let Joined { oci_version, annotations, status } = context.joined.clone();
    let (id, bundle) = (context.id.clone(), context.bundle.clone());
    steps.extend(listener(profile, &status, || StateText { oci_version, id, bundle, annotations }));
    let (before, after) = scheduler::exec_affinity(process, &mut report);
    steps.extend(before);
    steps.push(Step::JoinCgroups);
    steps.extend(after);
    steps.push(Step::CurrentRoot);
    process::oom_score_adj(&mut steps, process, context, &mut report);
    steps.extend(process::label(process, &mut report));
    if process.terminal == Some(true) {
        steps.push(Step::Console { size: process::console_size(process, &mut report), cover: false });
    }
    scheduler::compile(&mut steps, process, linux, &mut report);
    process::compile(&mut steps, process, profile, context, &mut report);
    let mut script = Script { new_pid_namespace: false, outside, steps };
    users::complete(&mut script, &mut report);
    if report.errors.is_empty() { Ok(script) } else { Err(report.errors) }
}

/// What comes first: in a user namespace the identity of its root, as a change of identity undoes what [`Step::Isolate`] does.
fn begin(outside: &Outside, context: &Context) -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend(outside.user.is_some().then_some(Step::AwaitMaps));
    steps.extend(outside.in_user_namespace().then_some(Step::BecomeRoot));
    steps.push(Step::Isolate);
    steps.extend(context.keyring.step(&context.id));
    steps
}

/// Where calls are handed to an agent. What is wrong with it, the filter's compiler says.
fn listener(profile: Option<&LinuxSeccomp>, status: &str, state: impl FnOnce() -> StateText) -> Option<Step> {
    let profile = profile?;
    let path = profile.listener_path().clone().filter(|_| seccomp::notifies(profile))?;
    let metadata = profile.listener_metadata().clone();
    Some(Step::Listener(Listener { path, metadata, state: state(), status: status.to_owned() }))
}

fn check_version(spec: &Spec, report: &mut Report) {
    let version = &spec.version;
    if !version.starts_with("1.") {
        report.error("ociVersion", Problem::Range { found: version.clone(), expected: "1.x" });
    }
}

/// What is not for Linux.
fn warn_of_others(spec: &Spec, report: &mut Report) {
    for (path, present) in [
        ("windows", spec.windows.is_some()),
        ("solaris", spec.solaris.is_some()),
        ("vm", spec.vm.is_some()),
        ("zos", spec.zos.is_some()),
    ] {
        if present {
            report.warn(path, "is for another platform and ignored");
        }
    }
}

/// Namespaces and names; whether cgroups too. They come late where they may, as whoever makes the v1 directories does so meanwhile.
fn isolate(
    steps: &mut Vec<Step>,
    spec: &Spec,
    linux: &Linux,
    context: &Context,
    wanted: &Wanted,
    report: &mut Report,
) -> bool {
    let takes_cgroups = namespaces::shows_cgroups(spec) && !wanted.has(NamespaceKind::Cgroup);
    if takes_cgroups {
        steps.extend([Step::JoinCgroups, Step::TakeCgroups]);
    }
    let made = Namespaces { cgroup: false, ..wanted.others };
    steps.extend((made != Namespaces::default()).then_some(Step::Unshare(made)));
    if context.join_network {
        steps.push(Step::JoinNetwork);
    } else if wanted.others.network {
        steps.push(Step::Loopback);
    }
    steps.extend((!wanted.outside.devices.is_empty()).then_some(Step::TakeDevices));
    for (field, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else { continue };
        // The kernel's __NEW_UTS_LEN.
        if name.len() > 64 {
            report.error(field, Problem::Range { found: format!("{name:?}"), expected: "at most 64 bytes" });
        }
        if !wanted.has(NamespaceKind::Uts) {
            let reason = "needs a uts namespace: it would change the host's name";
            report.error(field, Problem::Conflict { reason });
        }
        steps.push(match field {
            "hostname" => Step::Hostname(name.clone()),
            _ => Step::Domainname(name.clone()),
        });
    }
    steps.push(Step::HostPropagation(host_propagation(linux, report)));
    takes_cgroups
}

/// The cgroup namespace's root is the cgroup that its maker is in.
fn enter_cgroups(namespace: bool) -> Vec<Step> {
    let unshare = namespace.then(|| Step::Unshare(Namespaces { cgroup: true, ..Namespaces::default() }));
    std::iter::once(Step::JoinCgroups).chain(unshare).collect()
}

/// What comes in from the host: nothing that the container does goes out, whatever the root's propagation.
fn host_propagation(linux: &Linux, report: &mut Report) -> Propagation {
    let wanted = linux.rootfs_propagation().as_deref().filter(|text| !text.is_empty());
    let slave = Propagation { kind: PropagationKind::Slave, recursive: true };
    let Some(text) = wanted else { return slave };
    match mount::root_propagation(text) {
        Some(Propagation { kind: PropagationKind::Private | PropagationKind::Unbindable, recursive: true }) => {
            Propagation { kind: PropagationKind::Private, recursive: true }
        }
        // Without an `r` it is of the root alone: what else is bound may be a slave of the host's.
        Some(_) => slave,
        None => {
            let suggestion =
                crate::words::nearest(text, ["private", "slave", "shared", "unbindable"]).map(str::to_owned);
            let found = text.to_owned();
            report.error("linux.rootfsPropagation", Problem::Unknown { what: "propagation", found, suggestion });
            slave
        }
    }
}

/// The root and everything in it, up to the moment it becomes `/`. `before_mounts` is for what the mounts show.
fn populate(
    steps: &mut Vec<Step>,
    before_mounts: Vec<Step>,
    spec: &Spec,
    linux: &Linux,
    (context, hooks): (&Context, Option<&Hooks>),
    report: &mut Report,
) {
    let readonly = root(steps, spec, context, report);
    steps.extend(before_mounts);
    let label = linux.mount_label().as_ref().filter(|label| !label.is_empty());
    steps.extend(label.map(|_| Step::NeedSelinux));
    let mut mounts: Vec<_> = spec
        .mounts
        .iter()
        .flatten()
        .enumerate()
        .filter_map(|(index, entry)| mount::compile(entry, format_args!("mounts[{index}]"), &context.bundle, report))
        .collect();
    label.into_iter().for_each(|label| mounts.iter_mut().for_each(|mount| mount::label(mount, label)));
    // A /dev of the host's own is left as it is.
    let own_dev =
        !mounts.iter().any(|mount| mount.target == "/dev" && matches!(mount.source, MountSource::Bind { .. }));
    let sealed_late = mounts.iter().any(Mount::is_sealed_late);
    steps.extend(mounts.into_iter().map(Step::Mount));
    if own_dev {
        steps.push(Step::Devices(device::nodes(linux, report)));
        steps.extend(context.devices.iter().cloned().map(Step::HostDevice));
    }
    if let Some(process) = &spec.process {
        if process.terminal == Some(true) {
            steps.push(Step::Console { size: process::console_size(process, report), cover: true });
        }
        steps.push(Step::MakeCwd(mount::clean(&process.cwd.to_string_lossy())));
        process::oom_score_adj(steps, process, context, report);
        steps.extend(process::label(process, report));
    }
    // While the root may still be written, and mounted on from outside.
    steps.extend(hooks.into_iter().flat_map(hook_steps));
    steps.extend(sealed_late.then_some(Step::SealMounts));
    sysctls(steps, linux, report);
    let paths = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let readonly_paths = inside(paths(linux.readonly_paths()), "linux.readonlyPaths", report);
    let masked_paths = inside(paths(linux.masked_paths()), "linux.maskedPaths", report);
    let listed = spec.linux.is_some();
    if listed && !readonly_paths.is_empty() {
        steps.push(Step::ReadonlyPaths(readonly_paths));
    }
    if listed && !masked_paths.is_empty() {
        steps.push(Step::MaskedPaths(masked_paths));
    }
    if readonly {
        steps.push(Step::ReadonlyRoot);
    }
    steps.push(if context.pivot { Step::Pivot } else { Step::CoverRoot });
    steps.extend(root_propagation(linux).map(Step::RootPropagation));
}

/// `linux.rootfsPropagation`, where it is a word that there is.
fn root_propagation(linux: &Linux) -> Option<Propagation> {
    linux.rootfs_propagation().as_deref().and_then(mount::root_propagation)
}

fn hook_steps(hooks: &Hooks) -> Vec<Step> {
    let mut steps = vec![Step::MakerHooks(hooks.clone())];
    if !hooks.create_container.is_empty() {
        let (hooks, state) = (hooks.create_container.clone(), hooks.state.clone());
        steps.push(Step::Hooks { moment: Moment::Create, hooks, state, env: Vec::new() });
    }
    steps
}

fn root(steps: &mut Vec<Step>, spec: &Spec, context: &Context, report: &mut Report) -> bool {
    let readonly = spec.root.as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    match (&context.root, &spec.root) {
        (Some(plan), _) => steps.push(Step::Root(plan.clone())),
        (None, Some(root)) if !root.path().as_os_str().is_empty() => {
            let path = context.bundle.join(root.path());
            steps.push(Step::Root(RootPlan::Directory { path, devices: true, idmap: false }));
        }
        (None, _) => report.error("root.path", Problem::Missing { expected: "the directory that becomes the root" }),
    }
    readonly
}

fn inside(paths: Vec<String>, field: &str, report: &mut Report) -> Vec<String> {
    let mut clean = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        if path.starts_with('/') {
            clean.push(mount::clean(path));
        } else {
            let found = format!("{path:?}");
            report.error(format_args!("{field}[{index}]"), Problem::Range { found, expected: "an absolute path" });
        }
    }
    clean
}

/// Only those that a namespace of the container's holds (sysctl(5), namespaces(7)); others would be the host's.
fn sysctls(steps: &mut Vec<Step>, linux: &Linux, report: &mut Report) {
    let Some(sysctl) = linux.sysctl() else { return };
    let has = |kind| linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind);
    let mut sorted: Vec<(&String, &String)> = sysctl.iter().collect();
    compact::sort(&mut sorted);
    for (name, value) in sorted {
        let path = format!("linux.sysctl[{name:?}]");
        let slashed = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        let known = slashed.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        match sysctl_namespace(&slashed).filter(|_| known) {
            None => {
                report.error(path, Problem::Conflict { reason: "is not held by a namespace: it would change the host" })
            }
            Some(kind) if !has(kind) => {
                let reason = "needs the namespace that holds it: it would change the host";
                report.error(path, Problem::Conflict { reason });
            }
            Some(_) if slashed == "kernel/hostname" => {
                report.error(path, Problem::Conflict { reason: "is what `hostname` is for: expected that" })
            }
            Some(_) => steps.push(Step::Sysctl(slashed, value.clone())),
        }
    }
}

pub(super) fn sysctl_namespace(name: &str) -> Option<LinuxNamespaceType> {
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    if name.starts_with("net/") {
        Some(LinuxNamespaceType::Network)
    } else if IPC.contains(&name) || name.starts_with("fs/mqueue/") {
        Some(LinuxNamespaceType::Ipc)
    } else if name == "kernel/domainname" || name == "kernel/hostname" {
        Some(LinuxNamespaceType::Uts)
    } else {
        None
    }
}

/// The step that loads the filter of this profile.
pub(super) fn load_filter(profile: Option<&LinuxSeccomp>, context: &Context, report: &mut Report) -> Option<Step> {
    if let Some(filter) = &context.filter {
        return Some(Step::Seccomp(filter.clone()));
    }
    let profile = profile?;
    if !context.filter_comes || seccomp::notifies(profile) {
        return filter(profile, context.again, report).map(Step::Seccomp);
    }
    seccomp::check(profile, seccomp::native()?).map_err(|errors| say(errors, report)).ok()?;
    Some(Step::SeccompComing)
}

fn say(errors: Vec<seccomp::Error>, report: &mut Report) {
    for error in errors {
        let text = error.to_string();
        let (path, problem) = text.split_once(": ").unwrap_or(("linux.seccomp", &text));
        report.error(path, Problem::Seccomp(problem.to_owned()));
    }
}

/// The last profile and what became of it: it takes longer than all the rest, and is asked for again soon. One for all threads: a unit is checked on
/// one and started on another.
static LAST: Mutex<Option<(LinuxSeccomp, seccomp::Filter)>> = Mutex::new(None);

/// Compiles the filter; its errors have their own paths.
fn filter(profile: &LinuxSeccomp, keep: bool, report: &mut Report) -> Option<seccomp::Filter> {
    // What a panic left is whole: it is only ever replaced.
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let known = last().as_ref().filter(|(of, _)| of == profile).map(|(_, filter)| filter.clone());
    if known.is_some() {
        return known;
    }
    let native = seccomp::native()?;
    match seccomp::compile(profile, native) {
        Ok(filter) => {
            if keep {
                *last() = Some((profile.clone(), filter.clone()));
            }
            Some(filter)
        }
        Err(errors) => {
            say(errors, report);
            None
        }
    }
}

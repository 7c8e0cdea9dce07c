//! `process`: who runs, with which limits and rights, and what.

use std::fmt::Arguments;

use oci_spec::runtime::{Capabilities, LinuxSeccomp, PosixRlimit, PosixRlimitType};

use super::capability::Capability;
use super::compile::{Context, load_filter};
use super::error::{Problem, Report};
use super::mount;
use super::script::{CapabilitySets, Identity, Rlimit, RlimitResource, Step};
use crate::config::Process;

/// PATH of execvp(3) where the environment has none.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// The kernel's MAX_ARG_STRLEN: a longer argument cannot be executed.
const MAX_ARG_BYTES: usize = 128 * 1024;

/// Appends what the process does to itself.
pub(super) fn compile(
    steps: &mut Vec<Step>,
    process: &Process,
    profile: Option<&LinuxSeccomp>,
    context: &Context,
    report: &mut Report,
) {
    warn_of_others(process, report);
    let nnp = process.no_new_privileges == Some(true);
    let limits = limits(process.rlimits.iter().flatten(), report);
    if !limits.is_empty() {
        steps.push(Step::Rlimits { limits, clamp: context.best_effort });
    }
    let user_umask = process.user.as_ref().and_then(|user| user.umask);
    steps.push(Step::Umask(umask(user_umask, report)));
    let cwd = process.cwd.to_string_lossy();
    if !cwd.starts_with('/') {
        let found = format!("{cwd:?}");
        report.error("process.cwd", Problem::Range { found, expected: "an absolute path" });
    }
    steps.push(Step::Chdir(mount::clean(&cwd)));
    if nnp {
        steps.push(Step::NoNewPrivileges);
    }
    let (mut before, mut after) = (None, load_filter(profile, context, report));
    if !nnp {
        std::mem::swap(&mut before, &mut after);
    }
    steps.extend(before);
    capabilities(steps, process, context, report);
    program(steps, process, context, report);
    steps.extend(after);
    if context.gate {
        steps.push(Step::Gate);
    }
    let (args, env) = (process.args.clone().unwrap_or_default(), environment(process, report));
    steps.push(Step::Execute { args, env, home: context.home, listen_pid: context.listen_pid });
}

/// What is not for Linux.
fn warn_of_others(process: &Process, report: &mut Report) {
    let username = process.user.as_ref().is_some_and(|user| user.username.is_some());
    for (path, present) in
        [("process.user.username", username), ("process.commandLine", process.command_line.is_some())]
    {
        if present {
            report.warn(path, "is for Windows and ignored");
        }
    }
}

/// While the process may still mount a procfs of its own to write to.
pub(super) fn oom_score_adj(steps: &mut Vec<Step>, process: &Process, context: &Context, report: &mut Report) {
    let Some(value) = process.oom_score_adj else { return };
    if !(-1000..=1000).contains(&value) {
        let found = value.to_string();
        report.error("process.oomScoreAdj", Problem::Range { found, expected: "-1000 to 1000" });
    }
    steps.push(Step::OomScoreAdj { value, best_effort: context.best_effort });
}

/// What security modules are told of the program; while a procfs of ours may still be mounted.
pub(super) fn label(process: &Process, report: &mut Report) -> Option<Step> {
    let mut named = |field: &str, text: &Option<String>| {
        let text = text.clone().filter(|text| !text.is_empty())?;
        if text.contains(['\0', '\n']) {
            let expected = "one line of text";
            report.error(format_args!("process.{field}"), Problem::Range { found: format!("{text:?}"), expected });
        }
        Some(text)
    };
    let apparmor = named("apparmorProfile", &process.apparmor_profile);
    let selinux = named("selinuxLabel", &process.selinux_label);
    (apparmor.is_some() || selinux.is_some()).then_some(Step::ExecLabel { apparmor, selinux })
}

/// Rows and columns.
pub(super) fn console_size(process: &Process, report: &mut Report) -> Option<(u16, u16)> {
    let size = process.console_size?;
    let mut cells = |field: &str, value: u64| {
        u16::try_from(value).unwrap_or_else(|_| {
            let problem = Problem::Range { found: value.to_string(), expected: "0 to 65535" };
            report.error(format_args!("process.consoleSize.{field}"), problem);
            0
        })
    };
    Some((cells("height", size.height()), cells("width", size.width())))
}

fn umask(umask: Option<u32>, report: &mut Report) -> u32 {
    // runc's default; the spec leaves it open.
    let umask = umask.unwrap_or(0o022);
    if umask > 0o777 {
        let found = format!("{umask:#o}");
        report.error("process.user.umask", Problem::Range { found, expected: "0 to 511 (0o777)" });
    }
    umask
}

fn limits<'spec>(entries: impl Iterator<Item = &'spec PosixRlimit>, report: &mut Report) -> Vec<Rlimit> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for (index, entry) in entries.enumerate() {
        let path = format_args!("process.rlimits[{index}]");
        let resource = resource(entry.typ());
        if limits.iter().any(|limit| limit.resource == resource) {
            report.error(format_args!("{path}.type"), Problem::Duplicate { found: entry.typ().to_string() });
        }
        let (soft, hard) = (entry.soft(), entry.hard());
        if soft > hard {
            let reason = "the soft limit is above the hard limit";
            report.error(path, Problem::Conflict { reason });
        }
        limits.push(Rlimit { resource, soft, hard });
    }
    limits
}

fn resource(name: PosixRlimitType) -> RlimitResource {
    match name {
        PosixRlimitType::RlimitCpu => RlimitResource::Cpu,
        PosixRlimitType::RlimitFsize => RlimitResource::Fsize,
        PosixRlimitType::RlimitData => RlimitResource::Data,
        PosixRlimitType::RlimitStack => RlimitResource::Stack,
        PosixRlimitType::RlimitCore => RlimitResource::Core,
        PosixRlimitType::RlimitRss => RlimitResource::Rss,
        PosixRlimitType::RlimitNproc => RlimitResource::Nproc,
        PosixRlimitType::RlimitNofile => RlimitResource::Nofile,
        PosixRlimitType::RlimitMemlock => RlimitResource::Memlock,
        PosixRlimitType::RlimitAs => RlimitResource::As,
        PosixRlimitType::RlimitLocks => RlimitResource::Locks,
        PosixRlimitType::RlimitSigpending => RlimitResource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => RlimitResource::Msgqueue,
        PosixRlimitType::RlimitNice => RlimitResource::Nice,
        PosixRlimitType::RlimitRtprio => RlimitResource::Rtprio,
        PosixRlimitType::RlimitRttime => RlimitResource::Rttime,
    }
}

/// Bounding set, identity, and the other sets after it. Without `capabilities` there are none at all, but for a service of the host's, whose
/// rights are then those of its user.
fn capabilities(steps: &mut Vec<Step>, process: &Process, context: &Context, report: &mut Report) {
    let mut mask = |set: Option<&Capabilities>, name: &str| {
        let names = set.into_iter().flatten().map(|capability| format!("CAP_{capability}"));
        names.fold(0u64, |mask, name_of| match name_of.parse::<Capability>() {
            Ok(capability) => mask | 1 << capability.number(),
            Err(error) => {
                report.error(format_args!("process.capabilities.{name}"), Problem::Seccomp(error.to_string()));
                mask
            }
        })
    };
    let all = process.capabilities.as_ref();
    let bounding = mask(all.and_then(|all| all.bounding().as_ref()), "bounding");
    let sets = CapabilitySets {
        effective: mask(all.and_then(|all| all.effective().as_ref()), "effective"),
        permitted: mask(all.and_then(|all| all.permitted().as_ref()), "permitted"),
        inheritable: mask(all.and_then(|all| all.inheritable().as_ref()), "inheritable"),
        ambient: mask(all.and_then(|all| all.ambient().as_ref()), "ambient"),
    };
    if sets.effective & !sets.permitted != 0 {
        let reason = "an effective capability must be permitted as well (capabilities(7))";
        report.error("process.capabilities.effective", Problem::Conflict { reason });
    }
    let are_the_hosts = context.host && all.is_none();
    if !are_the_hosts {
        steps.push(Step::BoundingSet(bounding));
    }
    let user = process.user.clone().unwrap_or_default();
    steps.push(Step::Identity(match &context.user {
        Some((user, group)) => Identity::Names { user: user.clone(), group: group.clone() },
        None => Identity::Numbers {
            uid: user.uid.unwrap_or(0),
            gid: user.gid.unwrap_or(0),
            groups: user.additional_gids.unwrap_or_default(),
        },
    }));
    if are_the_hosts {
        return steps.push(Step::RightsOfUser);
    }
    // The kernel takes an ambient capability only where it is inheritable too; runc drops the others without a word, since what its
    // own `spec` used to write is such a file.
    let ambient = sets.ambient & sets.permitted & sets.inheritable;
    steps.push(Step::Capabilities(CapabilitySets { ambient, ..sets }));
}

fn program(steps: &mut Vec<Step>, process: &Process, context: &Context, report: &mut Report) {
    let args = process.args.as_deref().unwrap_or_default();
    match args.first() {
        Some(program) if !program.is_empty() => {
            let path = process.env.iter().flatten().rev().find_map(|entry| entry.strip_prefix("PATH="));
            let path = path.unwrap_or(DEFAULT_PATH).to_owned();
            steps.push(Step::FindProgram { program: program.clone(), path });
        }
        Some(_) => report.error("process.args[0]", Problem::Range { found: "\"\"".into(), expected: "a program" }),
        None => report.error("process.args", Problem::Missing { expected: "the program to run and its arguments" }),
    }
    for (index, arg) in args.iter().enumerate() {
        check_string(arg, format_args!("process.args[{index}]"), report);
    }
    if context.init {
        steps.push(Step::Init);
    }
    steps.push(Step::Descriptors);
}

fn environment(process: &Process, report: &mut Report) -> Vec<String> {
    let mut env = process.env.clone().unwrap_or_default();
    for (index, entry) in env.iter().enumerate() {
        let path = format_args!("process.env[{index}]");
        check_string(entry, path, report);
        if entry.starts_with('=') || !entry.contains('=') {
            report.error(path, Problem::Range { found: format!("{entry:?}"), expected: "NAME=value" });
        }
    }
    // What comes last counts, as with setenv(3); execve(2) would keep all, of which programs find the first.
    let mut known = std::collections::HashSet::new();
    let mut last: Vec<bool> =
        env.iter().rev().map(|entry| known.insert(entry.split('=').next().unwrap_or_default().to_owned())).collect();
    env.retain(|_| last.pop().unwrap_or(true));
    env
}

fn check_string(text: &str, path: Arguments<'_>, report: &mut Report) {
    if text.contains('\0') {
        report.error(path, Problem::Conflict { reason: "holds a zero byte" });
    }
    if text.len() >= MAX_ARG_BYTES {
        let found = format!("a string of {} bytes", text.len());
        report.error(path, Problem::Range { found, expected: "less than 131072 bytes (execve(2))" });
    }
}

//! `exec`: a process that joins a container.
//!
//! It is the container's own process but for what the options say, or wholly what `--process` says. The filter of the container holds for
//! it in either case.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::args::Exec;
use super::error::{OciError, call};
use super::log::Log;
use super::make::{detached_console, pair, preserved, read_bounded, write_pid_file};
use super::pidfd::{self, Whose};
use super::wait;
use crate::config::{Process, Spec};
use crate::oci::{self, Context, Joined, Script, Warning};
use crate::runtime::cgroup::Below;
use crate::runtime::container::{Container, ContainerError, Record, StateRoot, Status};
use crate::runtime::{Failure, Slots, Spawned, spawn_exec};

/// Runs a process inside: its exit code, or 0 at once when it is detached.
pub fn exec(root: &StateRoot, exec: Exec, log: &Log) -> Result<u8, OciError> {
    let extra = preserved(exec.preserve_fds)?;
    let below = below(&exec.cgroup)?;
    let container = root.find(&exec.id)?;
    // Not while it is being made.
    drop(container.lock()?);
    let record = container.read()?.ok_or(ContainerError::Unknown)?;
    let (status, held) = container.status(Some(&record));
    let pidfd = match (status, held) {
        (Status::Paused, _) if !exec.ignore_paused => Err(ContainerError::ExecInPaused)?,
        (Status::Created | Status::Running | Status::Paused, Some((_, pidfd))) => pidfd,
        (Status::Created | Status::Running | Status::Paused, None) | (Status::Stopped, _) => {
            Err(ContainerError::ExecInStopped)?
        }
    };
    let (spec, config) = spec_of(&container)?;
    let (process, warnings) = process(&exec, &spec)?;
    warnings.iter().for_each(|warning| log.warning(&warning.to_string()));
    let terminal = process.terminal == Some(true);
    let joined = Joined {
        oci_version: record.oci_version.clone(),
        annotations: record.annotations.clone(),
        status: status.to_string(),
    };
    let context = Context { joined, ..Context::new(record.bundle.clone(), exec.id.clone()) };
    let script = oci::compile_exec(&process, spec.linux.as_ref(), &context)
        .map_err(|errors| OciError::Config { path: config, errors })?;
    super::rootless::check(&script, "joins")?;
    script.steps.iter().for_each(|step| log.debug(step));
    let (ours, console) = match exec.detach {
        true => (None, detached_console(terminal, exec.console_socket.as_deref())?),
        false if exec.console_socket.is_some() => {
            return Err(OciError::Console("cannot use console socket if runc will not detach or allocate tty"));
        }
        false => terminal.then(pair).transpose()?.unzip(),
    };
    let wants_pidfd = pidfd::connect(exec.pidfd_socket.as_deref())?;
    let signals = if exec.detach { None } else { Some(wait::hold_signals()?) };
    let spawned = spawn(&script, &record, Given { pidfd, console, extra, below })?;
    pidfd::send(wants_pidfd.as_ref(), spawned.pidfd.as_fd(), Whose::Exec)?;
    exec.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, spawned.pid.0))?;
    match signals {
        Some(signals) => wait::wait(spawned.pidfd.as_fd(), ours, signals),
        None => Ok(0),
    }
}

/// The values of `--cgroup`, in either of runc's forms: one path, or paths each with their controllers.
fn below(values: &[String]) -> Result<Below, OciError> {
    let bad = |found: &String| OciError::Value {
        what: "--cgroup",
        found: found.clone(),
        expected: "one PATH, or CONTROLLER,…:PATH once or more often",
    };
    let mut below = Below::default();
    for value in values {
        match value.split_once(':') {
            Some((_, path)) if path.contains(':') => return Err(bad(value)),
            Some((controllers, path)) => {
                below.of.extend(controllers.split(',').map(|controller| (controller.to_owned(), path.to_owned())));
            }
            None if values.len() == 1 => below.all = Some(value.clone()),
            None => return Err(bad(value)),
        }
    }
    Ok(below)
}

/// As it was when the container was made; the bundle may have changed since.
fn spec_of(container: &Container) -> Result<(Spec, std::path::PathBuf), OciError> {
    let path = container.path().join("config.json");
    let parsed = oci::parse(&container.config()?).map_err(|errors| OciError::Config { path: path.clone(), errors })?;
    Ok((parsed.spec, path))
}

fn process(exec: &Exec, spec: &Spec) -> Result<(Process, Vec<Warning>), OciError> {
    if let Some(path) = &exec.process {
        let text = read_bounded(path).map_err(super::error::file("read", path))?;
        let (mut process, warnings) =
            oci::parse_process(&text).map_err(|errors| OciError::Config { path: path.clone(), errors })?;
        // As runc and crun have it: who does not speak of rights gets the container's.
        let own = || spec.process.as_ref().and_then(|process| process.capabilities.clone());
        process.capabilities = process.capabilities.or_else(own);
        return Ok((process, warnings));
    }
    if exec.args.is_empty() {
        return Err(OciError::Value {
            what: "process args",
            found: String::new(),
            expected: "a program, or --process",
        });
    }
    let mut process = spec.process.clone().unwrap_or_default();
    (process.args, process.terminal) = (Some(exec.args.clone()), Some(exec.tty));
    process.env.get_or_insert_default().extend(exec.env.iter().cloned());
    if let Some(cwd) = &exec.cwd {
        process.cwd = cwd.clone();
    }
    let given = |option: &Option<String>, own: Option<String>| option.clone().or(own);
    process.apparmor_profile = given(&exec.apparmor, process.apparmor_profile.take());
    process.selinux_label = given(&exec.process_label, process.selinux_label.take());
    if exec.no_new_privs {
        process.no_new_privileges = Some(true);
    }
    add_capabilities(&mut process, &exec.cap)?;
    set_user(&mut process, exec)?;
    Ok((process, Vec::new()))
}

/// To what it may do and may hand on, as runc has it; ambient and inheritable stay as they are.
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), OciError> {
    let bad = |name: &String| OciError::Value {
        what: "--cap",
        found: name.clone(),
        expected: "a capability as in CAP_NET_ADMIN (capabilities(7))",
    };
    let more = names.iter().map(|name| name.trim_start_matches("CAP_").parse::<Capability>().map_err(|_| bad(name)));
    let more: Vec<Capability> = more.collect::<Result<_, _>>()?;
    if more.is_empty() {
        return Ok(());
    }
    let all: &mut LinuxCapabilities = process.capabilities.get_or_insert_default();
    let with = |set: &Option<Capabilities>| Some(set.iter().flatten().copied().chain(more.iter().copied()).collect());
    let (bounding, effective, permitted) = (with(all.bounding()), with(all.effective()), with(all.permitted()));
    all.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    Ok(())
}

fn set_user(process: &mut Process, exec: &Exec) -> Result<(), OciError> {
    if exec.user.is_none() && exec.additional_gids.is_empty() {
        return Ok(());
    }
    let user = process.user.get_or_insert_default();
    if let Some(text) = &exec.user {
        let bad = || OciError::Value { what: "--user", found: text.clone(), expected: "UID or UID:GID, in numbers" };
        let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
        user.uid = Some(uid.parse().map_err(|_| bad())?);
        if !gid.is_empty() {
            user.gid = Some(gid.parse().map_err(|_| bad())?);
        }
    }
    user.additional_gids.get_or_insert_default().extend(&exec.additional_gids);
    Ok(())
}

/// What the process gets.
struct Given {
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
    extra: Vec<OwnedFd>,
    below: Below,
}

/// Makes the process and waits until it is executed, or says why it is not.
fn spawn(script: &Script, record: &Record, given: Given) -> Result<Spawned, OciError> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (report, report_write) = rustix::pipe::pipe_with(flags).map_err(call("pipe"))?;
    let mut slots = Slots::new(report_write);
    let cgroup = if given.below == Below::default() { record.open_cgroup() } else { record.need_cgroup("--cgroup") };
    if let Some(cgroup) = cgroup? {
        cgroup.fill_below(&given.below, &mut slots).map_err(ContainerError::from)?;
    }
    (slots.container, slots.console, slots.extra) = (Some(given.pidfd), given.console, given.extra);
    let spawned = spawn_exec(script, slots, None, || {})?;
    match Failure::read(report, script) {
        None => Ok(spawned),
        Some(failure) => Err(ContainerError::Setup(failure.text))?,
    }
}

//! Hooks of units (`[hooks]`), as the hands run them. When each has its turn is the plan's (`plan::hooks`).
//!
//! | hook | inside | on the host |
//! |---|---|---|
//! | `pre_start` | the container's process runs it before the program (`Step::OwnStart`) | the agent beside it runs it before anything is mounted (`Step::HostStart`) |
//! | `post_start`, `pre_stop` | a process that joins the container, as `[reload] exec` | a process of the host's |
//! | `post_stop` | a new container of the same making, in the cgroup of the one that ended | a process of the host's |
//!
//! All but the first are children of the keeper's, known by a name of their own, `exec:CONTAINER:hook:POINT`. What they are to do is compiled
//! before the container is started, and noted in `RUN/c/<id>/hooks`: so it is of the text that the container was made from, whatever
//! becomes of the unit's file.
//!
//! | killed | what becomes of a hook |
//! |---|---|
//! | the supervisor | it goes on; the next supervisor finds it in the keeper's list, running or ended, and its time begins anew |
//! | the keeper | it goes on, and is handed to the next keeper; `pre_start` ends with the start that it is a part of, which is begun anew |
//! | both | `pre_start` as before; of the others nobody knows, and it is run once more |
//!
//! How a hook ended is noted beside it, in `hook.POINT`, and then the keeper may forget it: until the container is cleared away nothing runs it twice.
//! (The keeper's record cannot wait for that: as long as it keeps a process of a pid namespace unreaped, the first one there cannot end.)
//!
//! A program of the host's that runs as root must be nobody else's: its file and the way to it are checked like a unit file.
//! What hooks say is in the unit's log.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fifo::{self, directory};
use super::hands::Hands;
use super::program::{self, Dirs};
use super::session::{self, ExecProcess};
use super::swap::ConfigDir;
use crate::keeper::{self, ChildState};
use crate::oci::{Hook, PreStart, Script, Step};
use crate::plan::Fact;
use crate::runtime::Slots;
use crate::unit::{ContainerId, DEFAULT_HOOK_TIMEOUT, HookOn, HookPoint, Process, Source, SourceFacts, Unit, UnitHook};
use crate::watch::trusted::{Trust, walk};

/// Name in the directory of the container.
const FILE: &str = "hooks";

/// Where a program of the host's looks for others: as a service of the host's.
const HOST_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be run.
#[derive(Serialize, Deserialize)]
struct Noted {
    point: HookPoint,
    on_host: bool,
    timeout: Duration,
    script: Script,
}

/// One turn of a hook.
pub struct HookJob {
    /// Of which container.
    pub id: ContainerId,
    /// Which one.
    pub point: HookPoint,
    /// `NAME=value`, over what it has.
    pub env: Vec<String>,
    /// Whose network the container is in.
    pub joined: Option<ContainerId>,
}

/// What comes before the program.
pub fn pre_start(unit: &Unit, id: &str) -> Option<PreStart> {
    let hook = unit.hooks.as_deref()?.pre_start.as_ref()?;
    let timeout_s = hook.timeout.as_secs() + u64::from(hook.timeout.subsec_nanos() > 0);
    let mut env = own_environment(unit, id);
    if hook.on == HookOn::Host {
        env.push(HOST_PATH.to_owned());
    }
    let compiled = Hook {
        field: format!("hooks.{}", HookPoint::PreStart.word()),
        path: hook.exec.first().cloned().unwrap_or_default(),
        args: hook.exec.clone(),
        env,
        inherits: false,
        timeout_s: Some(timeout_s),
        to_log: true,
    };
    Some(match hook.on {
        HookOn::Host => PreStart::OnHost(compiled),
        HookOn::Container => PreStart::Inside(compiled),
    })
}

fn own_environment(unit: &Unit, id: &str) -> Vec<String> {
    vec![format!("MOORED_UNIT={}", unit.name), format!("MOORED_CONTAINER={id}")]
}

/// Whether whoever could write the programs of the host's is trusted.
fn check(unit: &Unit) -> Result<(), String> {
    let trust = Trust::new(rustix::process::geteuid().as_raw());
    let all = unit.hooks.iter().flat_map(|hooks| hooks.all());
    for (point, hook) in all.filter(|(_, hook)| hook.on == HookOn::Host) {
        let program = hook.exec.first().map(Path::new).unwrap_or(Path::new("/"));
        walk(program, Some(&trust), &mut Vec::new()).map_err(|why| format!("hooks.{}.exec: {why}", point.word()))?;
    }
    Ok(())
}

/// Notes what is to be run around this container.
pub(super) fn note(
    containers: &Path,
    id: &ContainerId,
    unit: &Unit,
    facts: &SourceFacts,
    dirs: Dirs,
) -> Result<(), String> {
    let Some(hooks) = unit.hooks.as_deref() else { return Ok(()) };
    check(unit)?;
    let later = hooks.all().filter(|(point, _)| *point != HookPoint::PreStart);
    let files = ConfigDir::of(containers, id);
    let noted = later.map(|(point, hook)| {
        let script = compile((unit, facts), &id.to_string(), (point, hook), &files, dirs);
        let script = script.map_err(|errors| format!("hooks.{}: {}", point.word(), errors.join("; ")))?;
        Ok(Noted { point, on_host: hook.on == HookOn::Host, timeout: hook.timeout, script })
    });
    let noted = noted.collect::<Result<Vec<Noted>, String>>()?;
    let path = file(containers, id);
    let bytes = postcard::to_stdvec(&noted).map_err(|error| format!("encoding the hooks: {error}"))?;
    // The directory is new and nobody reads it yet; RUN does not outlive the host.
    fs::write(&path, bytes).map_err(|error| format!("write {}: {error}", path.display()))
}

fn compile(
    (unit, facts): (&Unit, &SourceFacts),
    id: &str,
    (point, hook): (HookPoint, &UnitHook),
    files: &ConfigDir,
    dirs: Dirs,
) -> Result<Script, Vec<String>> {
    let env = own_environment(unit, id);
    match (hook.on, point) {
        (HookOn::Host, _) => {
            let host = of_host(unit, hook);
            program::compile_exec(
                &host,
                &super::source::of_host(),
                id,
                &ExecProcess { args: hook.exec.clone(), env, ..ExecProcess::default() },
                None,
            )
        }
        (HookOn::Container, HookPoint::PostStop) => {
            let process = Process { args: Some(hook.exec.clone()), init: false, ..unit.process.clone() };
            let (health, sockets, hooks) = (None, Vec::new(), None);
            let alone = Unit { process, health, sockets, hooks, ..unit.clone() };
            let mut script = program::compile(&alone, facts, id, files, Dirs { notify: None, ..dirs })?.script;
            // Those of a bundle are the container's.
            script.steps.retain(|step| !matches!(step, Step::MakerHooks(_) | Step::Hooks { .. }));
            script.program_env_mut().into_iter().for_each(|own| own.extend(env.clone()));
            Ok(script)
        }
        (HookOn::Container, _) => program::compile_exec(
            unit,
            facts,
            id,
            &ExecProcess { args: hook.exec.clone(), env, ..ExecProcess::default() },
            dirs.ids,
        ),
    }
}

/// A unit whose process is one of the host's with nothing of its own.
fn of_host(unit: &Unit, hook: &UnitHook) -> Unit {
    let process = Process { args: Some(hook.exec.clone()), ..Process::default() };
    Unit {
        source: Source::Host,
        hostname: None,
        process,
        hooks: None,
        health: None,
        mounts: Vec::new(),
        configs: Vec::new(),
        devices: Vec::new(),
        sockets: Vec::new(),
        security: crate::unit::Security {
            capabilities: None,
            no_new_privileges: None,
            seccomp: None,
            read_only: None,
            userns: None,
        },
        oci: serde_json::Map::new(),
        ..unit.clone()
    }
}

fn file(containers: &Path, id: &ContainerId) -> PathBuf {
    directory(containers, id).join(FILE)
}

/// `None`: nothing was noted, as the start did not come so far.
fn read(containers: &Path, id: &ContainerId, point: HookPoint) -> Result<Option<Noted>, String> {
    let path = file(containers, id);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let noted: Vec<Noted> = postcard::from_bytes(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(noted.into_iter().find(|noted| noted.point == point))
}

fn end_file(containers: &Path, id: &ContainerId, point: HookPoint) -> PathBuf {
    directory(containers, id).join(format!("hook.{}", point.word()))
}

/// How it ended, if it has: what went wrong, or nothing.
fn read_end(containers: &Path, id: &ContainerId, point: HookPoint) -> Option<Option<String>> {
    let text = fs::read_to_string(end_file(containers, id, point)).ok()?;
    Some(Some(text).filter(|text| !text.is_empty()))
}

fn note_end(containers: &Path, id: &ContainerId, point: HookPoint, failure: Option<String>) {
    let path = end_file(containers, id, point);
    // A container that is cleared away is asked for no more.
    if let Err(error) = fs::write(&path, failure.unwrap_or_default())
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("write {}: {error}: should the supervisor die, the hook runs again", path.display());
    }
}

/// How the keeper calls it.
pub(super) fn name_of(id: &ContainerId, point: HookPoint) -> String {
    format!("exec:{id}:hook:{}", point.word())
}

/// The reverse.
pub(super) fn of_name(name: &str) -> Option<(ContainerId, HookPoint)> {
    let (id, point) = name.strip_prefix("exec:")?.split_once(":hook:")?;
    Some((ContainerId::parse(id)?, HookPoint::parse(point)?))
}

impl Hands {
    /// Runs one, or says what is known of one that was run.
    pub(super) fn hook(&mut self, job: HookJob) {
        let (id, point) = (job.id.clone(), job.point);
        let name = name_of(&id, point);
        if self.sessions.by_id.contains_key(&name) {
            return;
        }
        if let Some(failure) = read_end(&self.places.containers, &id, point) {
            return self.hook_answered(&id, point, failure);
        }
        match self.begin_hook(job, &name) {
            Ok(true) => {}
            Ok(false) => self.hook_answered(&id, point, None),
            Err(text) => self.hook_answered(&id, point, Some(text)),
        }
    }

    fn hook_answered(&mut self, id: &ContainerId, point: HookPoint, failure: Option<String>) {
        self.fact(Fact::HookEnded { id: id.clone(), point, failure });
        self.hook_over(id);
    }

    /// `false`: there is nothing to run.
    fn begin_hook(&mut self, job: HookJob, name: &str) -> Result<bool, String> {
        let HookJob { id, point, env, joined } = job;
        // One that was begun, and of which nobody knows any more: with the container its time is over.
        let has_ended = self.handles.get(&id).is_none_or(|handle| handle.ended);
        if point != HookPoint::PostStop && has_ended {
            return Err("the container has ended: there is nothing to run it for".to_owned());
        }
        let Some(noted) = read(&self.places.containers, &id, point)? else { return Ok(false) };
        let Noted { on_host, timeout, mut script, .. } = noted;
        script.program_env_mut().into_iter().for_each(|own| own.extend(env.clone()));
        let (report, mut slots) = session::streams(fifo::write_ends(&self.places.containers, &id))?;
        match (on_host, point) {
            (true, _) => {}
            (false, HookPoint::PostStop) => self.fill_alone(&id, joined, &mut slots)?,
            (false, _) => self.fill_joining(&id, &mut slots)?,
        }
        if point == HookPoint::PostStop {
            // The log has let go of the container.
            fifo::reopen(&self.places.containers, &id)
                .into_iter()
                .for_each(|(out, err)| self.log.attach_again(id.clone(), out, err));
        }
        self.sessions.open_hook(name, (id, point, timeout), &script, (report, slots), &self.keeper)?;
        Ok(true)
    }

    fn fill_joining(&mut self, id: &ContainerId, slots: &mut Slots) -> Result<(), String> {
        let handle = self.handles.get(id).filter(|handle| handle.executed && !handle.ended);
        let target = handle.and_then(|handle| Some((handle.pidfd.as_ref()?, handle.cgroup.as_ref()?)));
        let (pidfd, cgroup) = target.ok_or("the container has ended: there is nothing to run in")?;
        slots.container = Some(pidfd.try_clone().map_err(|error| format!("copying a pidfd: {error}"))?);
        cgroup.fill(slots).map_err(|error| error.to_string())
    }

    fn fill_alone(&mut self, id: &ContainerId, joined: Option<ContainerId>, slots: &mut Slots) -> Result<(), String> {
        slots.network = joined.as_ref().map(|owner| self.network_of(owner)).transpose()?;
        let cgroup = self.cgroup_of(id).map_err(|error| error.to_string())?;
        cgroup.ok_or("its cgroup is gone")?.fill(slots).map_err(|error| error.to_string())
    }

    /// The keeper has one that this supervisor did not ask for.
    pub(super) fn meet_hook(&mut self, child: &mut keeper::Child) {
        let Some((id, point)) = of_name(&child.id) else { return };
        let is_known = self.sessions.by_id.contains_key(&child.id);
        if is_known || read_end(&self.places.containers, &id, point).is_some() {
            return;
        }
        let timeout = read(&self.places.containers, &id, point).ok().flatten().map(|noted| noted.timeout);
        let report: Option<OwnedFd> = child.full.as_mut().and_then(|full| full.held.first_mut()?.take());
        self.sessions.take_hook(&child.id, (id, point, timeout.unwrap_or(DEFAULT_HOOK_TIMEOUT)), report);
    }

    /// After the keeper said how one fares.
    pub(super) fn hook_child(&mut self, name: &str, is_over: bool) {
        let Some((id, point)) = of_name(name).filter(|_| is_over) else { return };
        if let Some(failure) = self.sessions.hooks.remove(name) {
            note_end(&self.places.containers, &id, point, failure);
        }
        self.ask(self.keeper.ack(name));
        self.hook_over(&id);
    }

    /// What it wrote, and left in the cgroup, is dealt with as what the program left.
    fn hook_over(&mut self, id: &ContainerId) {
        if self.handles.get(id).is_some_and(|handle| handle.ended) {
            fifo::reopen(&self.places.containers, id)
                .into_iter()
                .for_each(|(out, err)| self.log.attach_again(id.clone(), out, err));
            self.after_end(id);
        }
    }
}

/// Whether the keeper speaks of an end.
pub(super) fn is_over(state: &ChildState) -> bool {
    !matches!(state, ChildState::Running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_has_a_name_that_no_session_has() {
        let id = ContainerId::parse("web@1.7").unwrap();
        let name = name_of(&id, HookPoint::PreStop);
        assert_eq!(name, "exec:web@1.7:hook:pre_stop");
        assert_eq!(of_name(&name), Some((id, HookPoint::PreStop)));
        assert_eq!(of_name("exec:web@1.7:12:3"), None);
    }
}

//! Hooks of bundles under the supervisor.
//!
//! prestart, createRuntime, createContainer, startContainer and poststart run where the container is made: in its process and in the
//! agent beside it (`runtime::hook_agent`), which the keeper forks. poststop hooks run on a thread of the supervisor's, between an end and
//! its acknowledgement:
//!
//! | done | killed behind it, the next supervisor |
//! |---|---|
//! | before `spawn`: `RUN/c/<id>/poststop` says which and with what state | clears, and runs them, though there may be nothing for them to do |
//! | the end is recorded, the cgroup removed; the thread runs them | clears again, and runs them again |
//! | `poststop` is removed | clears the rest |
//!
//! So they run at least once after each end, and twice if the supervisor dies while they run. One that fails is logged, and the rest goes on.
//!
//! A program of the host's that decides what happens on the host must be nobody else's: each hook's file and the way to it are checked
//! like a unit file, before every start and once more before poststop.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bell::Inbox;
use super::fifo::directory;
use super::job::Job;
use crate::oci::{Hook, Hooks, Script};
use crate::runtime::run_each_hook;
use crate::unit::ContainerId;
use crate::watch::trusted::{Trust, walk};

/// Name in the directory of the container.
const FILE: &str = "poststop";

/// Whether whoever could write the hooks of this script is trusted.
pub fn check(script: &Script) -> Result<(), String> {
    script.hooks().map_or(Ok(()), |hooks| hooks.on_host().try_for_each(check_one))
}

fn check_one(hook: &Hook) -> Result<(), String> {
    let trust = Trust::new(rustix::process::geteuid().as_raw());
    let found = walk(Path::new(&hook.path), Some(&trust), &mut Vec::new());
    found.map(drop).map_err(|why| format!("{}: {why}", hook.field))
}

/// Notes what is to be run when this container has ended.
pub fn note(containers: &Path, id: &ContainerId, script: &Script) -> Result<(), String> {
    let Some(hooks) = script.hooks().filter(|hooks| !hooks.poststop.is_empty()) else { return Ok(()) };
    let path = file(containers, id);
    let bytes = postcard::to_stdvec(hooks).map_err(|error| format!("encoding the hooks: {error}"))?;
    // The directory is new and nobody reads it yet; RUN does not outlive the host.
    fs::write(&path, bytes).map_err(|error| format!("write {}: {error}", path.display()))
}

/// Runs what was noted on a thread of its own, which then asks for the rest of the clearing. `false`: nothing was noted.
pub fn run(containers: &Path, id: &ContainerId, inbox: &Arc<Inbox<Job>>) -> bool {
    let path = file(containers, id);
    let hooks = match read(&path) {
        Ok(None) => return false,
        Ok(Some(hooks)) => hooks,
        Err(error) => {
            tracing::warn!("{id}: its poststop hooks are not run: {}: {error}", path.display());
            let _ = fs::remove_file(path);
            return false;
        }
    };
    let (job, inbox) = (Job::Clear(id.clone()), Arc::clone(inbox));
    let name = id.clone();
    let work = move || {
        run_here(&name, &hooks);
        // Left there, they would run again.
        if let Err(error) = fs::remove_file(&path) {
            tracing::error!("{name}: remove {}: {error}", path.display());
        }
        inbox.push(job);
    };
    match std::thread::Builder::new().name("poststop".to_owned()).spawn(work) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!("{id}: its poststop hooks are not run: {error}");
            false
        }
    }
}

fn run_here(id: &ContainerId, hooks: &Hooks) {
    let (trusted, refused): (Vec<_>, Vec<_>) =
        hooks.poststop.iter().map(|hook| (hook, check_one(hook))).partition(|(_, check)| check.is_ok());
    for (_, why) in refused {
        tracing::warn!("{id}: {}", why.err().unwrap_or_default());
    }
    let trusted: Vec<Hook> = trusted.into_iter().map(|(hook, _)| hook.clone()).collect();
    let failed = run_each_hook(&trusted, &hooks.state.json("stopped", 0), Some(&hooks.state.bundle));
    failed.iter().for_each(|failed| tracing::warn!("{id}: {failed}"));
}

fn read(path: &Path) -> io::Result<Option<Hooks>> {
    match fs::read(path) {
        Ok(bytes) => postcard::from_bytes(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn file(containers: &Path, id: &ContainerId) -> PathBuf {
    directory(containers, id).join(FILE)
}

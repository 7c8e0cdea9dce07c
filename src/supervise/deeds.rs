//! What the hands do to a container that is there: signals, kills, other limits, and clearing away what is left of it.
//!
//! Signals go through the pidfd and kills through the cgroup: a number alone may be another process by now. A stop signal for a container whose pidfd
//! is not here yet (the keeper has not answered) waits for it; the kill after the stop timeout needs none.
//!
//! # Order
//!
//! The loop has written down that a stop, kill, swap or change of limits is begun before it comes here; the fact that it is done is written
//! down behind it. Killed in between, it is done again, which changes nothing more (`plan::action`).
//!
//! `Clear` comes when the exit record is written, the cgroup is empty and the pipes are drained: the cgroup goes first, then poststop hooks
//! run (`hooks`), then go `RUN/c/<id>`, the log's hold on the pipes, and last the acknowledgement to the keeper. Killed before that, the keeper's list has the
//! exit still; it is heard again, makes no second record, and what is left is cleared. Killed behind it, the record alone is left: it has ended
//! already, and is cleared again, of nothing.
//!
//! A cgroup that cannot be opened or read is not an empty one: a kill opens it again, and looks again.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::fifo;
use super::hands::Hands;
use super::job::{LimitJob, ProbeJob, ReloadJob, SwapJob};
use super::probe;
use super::program::{self, Dirs};
use super::session::SessionJob;
use super::swap::ConfigDir;
use crate::plan::{Deed, Fact};
use crate::runtime::cgroup::ContainerCgroup;
use crate::unit::{ContainerId, Reload, Signal};

impl Hands {
    pub(super) fn stop(&mut self, id: ContainerId, signal: Option<Signal>) {
        let Some(signal) = signal else { return };
        // Of one that has ended, or was never here, the loop hears something else.
        let Some(handle) = self.handles.get_mut(&id).filter(|handle| !handle.ended) else { return };
        let Some(pidfd) = &handle.pidfd else {
            handle.owed = Some(signal);
            return;
        };
        let fact = match super::signals::would_ignore(handle.pid, signal) {
            true => Fact::StopUnhandled { id },
            false => match send(pidfd.as_fd(), signal) {
                Ok(()) => Fact::StopSent { id },
                Err(rustix::io::Errno::SRCH) => return,
                Err(errno) => {
                    Fact::ActionFailed { id, deed: Deed::Stop, text: format!("sending {}: {errno}", signal.0) }
                }
            },
        };
        self.fact(fact);
    }

    /// There is a pidfd now: a stop signal that waited for one goes out.
    pub(super) fn stop_if_owed(&mut self, id: &ContainerId) {
        let handle = self.handles.get_mut(id).filter(|handle| handle.pidfd.is_some());
        if let Some(signal) = handle.and_then(|handle| handle.owed.take()) {
            self.stop(id.clone(), Some(signal));
        }
    }

    pub(super) fn kill(&mut self, id: ContainerId) {
        let Some(handle) = self.handles.get_mut(&id) else { return };
        let again = std::mem::replace(&mut handle.killed, true);
        // A service of the host's may have left its cgroup (`security.profile`): then this is all that reaches it.
        if let Some(pidfd) = handle.pidfd.as_ref().filter(|_| !handle.ended) {
            let _ = send(pidfd.as_fd(), Signal(9));
        }
        // What an earlier kill left: a process takes its time to die, and the plan does not kill again before that is over.
        let left = |cgroup: &ContainerCgroup| if again { cgroup.processes().map_or(0, |left| left.len()) } else { 0 };
        let killed = self.cgroup_of(&id).and_then(|cgroup| {
            cgroup.map_or(Ok(0), |cgroup| {
                let left = left(cgroup);
                cgroup.kill().map(|()| left)
            })
        });
        match killed {
            Ok(0) => {}
            Ok(left) => {
                self.fact(Fact::Lingering { id: id.clone(), processes: u32::try_from(left).unwrap_or(u32::MAX) })
            }
            Err(error) => return self.failed(id, Deed::Kill, error.to_string()),
        }
        // An earlier look may have failed.
        self.look_at_cgroup(&id);
    }

    pub(super) fn signal(&mut self, id: ContainerId, signal: Signal) {
        let Some(pidfd) = self.handles.get(&id).and_then(|handle| handle.pidfd.as_ref()) else { return };
        match send(pidfd.as_fd(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => self.failed(id, Deed::Signal, format!("sending signal {}: {errno}", signal.0)),
        }
    }

    pub(super) fn reload(&mut self, job: ReloadJob) {
        let ReloadJob { id, how, unit, facts } = job;
        match how {
            Reload::Signal(signal) => {
                let sent = self
                    .handles
                    .get(&id)
                    .and_then(|handle| handle.pidfd.as_ref())
                    .map(|pidfd| send(pidfd.as_fd(), signal));
                match sent {
                    Some(Ok(())) => self.fact(Fact::Reloaded { id }),
                    Some(Err(errno)) => self.failed(id, Deed::Reload, format!("sending signal {}: {errno}", signal.0)),
                    None => {}
                }
            }
            Reload::Exec(args) => {
                let log = fifo::write_ends(&self.places.containers, &id);
                self.open_session(SessionJob::reload(id, unit, facts, args, log));
            }
        }
    }

    pub(super) fn hear(&mut self, id: ContainerId) {
        let Some(handle) = self.handles.get(&id) else { return };
        match handle.foreign {
            // No keeper listens to it.
            Some(_) => self.fact(Fact::Heard { id }),
            None => self.ask(self.keeper.hear(&id.to_string())),
        }
    }

    pub(super) fn probe(&mut self, job: ProbeJob) {
        let id = job.id.clone();
        if let Err(text) = self.try_probe(job) {
            self.failed(id, Deed::Probe, format!("it cannot be asked whether it is well: {text}"));
        }
    }

    fn try_probe(&mut self, job: ProbeJob) -> Result<(), String> {
        let ProbeJob { id, health, asked, unit, facts } = job;
        // One that has ended meanwhile is asked nothing: the loop will hear of it.
        let Some(handle) = self.handles.get(&id).filter(|handle| !handle.ended) else { return Ok(()) };
        let Some(pidfd) = &handle.pidfd else { return Ok(()) };
        let pidfd = pidfd.try_clone().map_err(|error| format!("copying a pidfd: {error}"))?;
        let subject = probe::Subject { id, health, asked, unit, facts, pid: handle.pid, pidfd };
        let prober = match self.prober.take() {
            Some(prober) => prober,
            None => probe::start(Arc::clone(&self.inbox), self.post.clone())
                .map_err(|error| format!("starting the prober: {error}"))?,
        };
        prober.push(probe::Order::Ask(Box::new(subject)));
        self.prober = Some(prober);
        Ok(())
    }

    pub(super) fn probe_nothing(&mut self, id: ContainerId) {
        if let Some(prober) = &self.prober {
            prober.push(probe::Order::Leave(id));
        }
    }

    pub(super) fn limit(&mut self, job: LimitJob) {
        let LimitJob { id, limits, unit, facts } = job;
        let files = ConfigDir::of(&self.places.containers, &id);
        let dirs = Dirs { ids: self.ids_of(&id), ..Dirs::default() };
        let Some(cgroup) = self.handles.get_mut(&id).and_then(|handle| handle.cgroup.as_mut()) else { return };
        let written = program::compile(&unit, &facts, &id.to_string(), &files, dirs)
            .map_err(|errors| errors.join("; "))
            .and_then(|program| self.cgroups.limit(cgroup, &program.cgroup).map_err(|error| error.to_string()));
        match written {
            Ok(()) => self.fact(Fact::Limited { id, limits }),
            Err(text) => self.failed(id, Deed::Update, text),
        }
    }

    pub(super) fn swap(&mut self, job: SwapJob) {
        let SwapJob { id, contents, unit, facts } = job;
        // One that has ended has no use for them, and its directory goes.
        if self.handles.get(&id).is_none_or(|handle| handle.ended) {
            return;
        }
        let files = ConfigDir::of(&self.places.containers, &id);
        let dirs = Dirs { ids: self.ids_of(&id), ..Dirs::default() };
        let owner = program::compile(&unit, &facts, &id.to_string(), &files, dirs).map(|program| program.owner);
        let swapped = owner
            .map_err(|errors| errors.join("; "))
            .and_then(|owner| files.swap(&unit, owner).map_err(|error| error.to_string()));
        match swapped {
            Ok(()) => self.fact(Fact::Swapped { id, contents }),
            Err(text) => self.failed(id, Deed::Swap, text),
        }
    }

    pub(super) fn clear(&mut self, id: ContainerId) {
        let name = id.to_string();
        let removed = match self.handles.get(&id).and_then(|handle| handle.cgroup.as_ref()) {
            Some(cgroup) => cgroup.remove(),
            None => self.cgroups.find(&name).and_then(|found| found.map_or(Ok(()), |cgroup| cgroup.remove())),
        };
        let removed = removed.map_err(|error| error.to_string());
        let removed = removed.and_then(|()| super::rdt::clear(&self.places.containers, &id));
        // The thread asks for the rest.
        if removed.is_ok() && super::hooks::run(&self.places.containers, &id, &self.inbox) {
            return;
        }
        if let Err(text) =
            removed.and_then(|()| fifo::remove(&self.places.containers, &id).map_err(|error| error.to_string()))
        {
            return self.failed(id, Deed::Clear, text);
        }
        if let Some(mut handle) = self.handles.remove(&id) {
            self.terminal_gone(&id, handle.terminal.take());
            [handle.report, handle.emptying, handle.foreign]
                .iter()
                .flatten()
                .for_each(|(token, fd)| self.unwatch(*token, fd));
        }
        self.log.detach(id.clone());
        self.ask(self.keeper.ack(&name));
        self.fact(Fact::Cleared { id });
    }
}

fn send(pidfd: BorrowedFd<'_>, signal: Signal) -> rustix::io::Result<()> {
    crate::sys::pidfd::send_signal(pidfd, signal.0)
}

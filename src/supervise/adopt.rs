//! Adoption: what a keeper, a dead keeper's children and the cgroups say of the containers that should be there.
//!
//! It happens whenever a keeper is met: at the supervisor's start, and when the anchor took a dead keeper's place. Nobody is asked twice,
//! and nothing is concluded from the absence of an answer:
//!
//! | the generation is | and | so |
//! |---|---|---|
//! | in the keeper's list | | it is as the list says |
//! | in the keeper's list, and its program does not run yet | begun by the records | it goes on being set up, and is told when it runs |
//! | ours, announced | not in the list | adopted by its pidfd: the keeper before died |
//! | ours, not announced | an orphan has its cgroup | adopted: the keeper before had forked it |
//! | | no orphan | asked for; a refusal says that the spawn was lost, since requests are answered in their order |
//! | of the records only | an orphan has its cgroup | adopted; it can be signalled from the first moment |
//! | | something lives in its cgroup | foreign: keeper and anchor are both dead. It goes on, is stopped as any other, and how it ends stays unknown |
//! | | it was starting, and this keeper is not the first since | its spawn was never sent |
//! | | else | it ended, and nobody can say how |
//!
//! The loop asks about records behind the starts that it has ordered, and jobs are done in order: so one that is just being started
//! is never taken for one that is gone.
//!
//! # Order
//!
//! What this process has is announced as soon as the list is complete; then the loop's records are settled; then the keeper hears that
//! adoption is done, and buries who was not adopted. That word is for the keeper whose list it was, by its connection: the next one, which may
//! be there already, has not told of its children yet. Killed at any point of this, the next supervisor gets the same list, in which those
//! are containers that were adopted already.
//!
//! What cannot be looked at (no descriptors are left) ends this supervisor: the next one looks again.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::clock;
use super::fifo;
use super::hands::{Handle, Hands, Watched, host_pid, is_alive};
use super::job::Job;
use super::mail::{Inventory, Mail};
use super::notify;
use super::round::Supervisor;
use super::terminal::Terminal;
use crate::compact;
use crate::keeper::{self, Kind};
use crate::plan::{Fact, HostPid, Line, Live, Run};
use crate::runtime::cgroup::ContainerCgroup;
use crate::sys::service_manager;
use crate::sys::stat::stat;
use crate::unit::ContainerId;
use rustix::event::epoll::EventFlags;

/// Looks at a cgroup whose processes come and go.
const ELDEST_TRIES: usize = 8;

/// A generation that is live by the records and was not in the keeper's list.
pub struct Unlisted {
    /// Which.
    pub id: ContainerId,
    /// What it was started with.
    pub run: Run,
    /// The dead keeper's child in its cgroup.
    pub orphan: Option<i32>,
    /// Its pid by the records. `None`: they have no word from a keeper.
    pub recorded: Option<HostPid>,
    /// This keeper has forked nothing that a record could be about.
    pub fresh: bool,
}

impl Supervisor {
    /// Level by level: what the keeper has alive is adopted, what it does not know any more is settled.
    pub(super) fn take_inventory(&mut self, inventory: Inventory) {
        let Inventory { mut running, setups, known, said, orphans, cgroups, listening, stats, connection } = inventory;
        self.keeper = stats;
        self.record(&Fact::Awake);
        // What is begun by the records goes on so, and is told when it runs. Of others the list is all that is known.
        let is_begun = |id: &ContainerId| self.observed.unit(&id.unit).is_some_and(|seen| seen.live_of(id).is_some());
        running.extend(setups.into_iter().filter(|(id, ..)| !is_begun(id)));
        // Of two that no record knows the older one is the unit's.
        compact::sort_by(&mut running, |(a, ..), (b, ..)| a.cmp(b));
        for (id, pid, run) in running {
            self.record(&Fact::Adopted { id, pid, run: Box::new(run) });
        }
        for (id, lines) in said {
            self.record(&Fact::Notified { id, lines });
        }
        for (unit, sockets) in listening {
            self.record(&Fact::Listening { unit, sockets });
        }
        let live: Vec<&Live> = self.observed.units.values().flat_map(|seen| seen.lives()).collect();
        for live in live.iter().filter(|live| !known.contains(&live.id)) {
            self.hands.push(Job::Settle(Box::new(Unlisted {
                id: live.id.clone(),
                run: live.run.clone(),
                orphan: orphans.get(&live.id).and_then(|found| eldest_of(found, live.pid)),
                recorded: live.pid,
                fresh: stats.fresh,
            })));
        }
        let is_known = |id: &ContainerId| live.iter().any(|live| live.id == *id);
        let unknown_cgroups = cgroups.into_iter().filter(|id| !is_known(id)).collect();
        self.unknown_cgroups = unknown_cgroups;
        for id in &self.unknown_cgroups {
            tracing::warn!("{id} has a cgroup and nobody knows it: left alone; `moored status` lists it");
        }
        self.hands.push(Job::AdoptionDone(connection));
        self.adopted = true;
        // The control socket answers since before this. Who was told before does not mind.
        if let Err(error) = service_manager::notify(service_manager::READY) {
            tracing::warn!("telling the service manager that moored is up: {error}");
        }
        if stats.stopping {
            self.stop_all("signal");
        }
    }
}

impl Hands {
    pub(super) fn begin_inventory(&mut self, stats: keeper::Stats, connection: keeper::Connection) {
        self.sessions.keeper_met();
        self.ask(self.keeper.build());
        self.forget_held();
        self.inventory = Some(Inventory { stats, connection, ..Inventory::default() });
    }

    /// The eldest of a cgroup is the container's init; what else was left to us (execs, daemons) is younger.
    pub(super) fn orphan(&mut self, orphan: &keeper::Orphan) {
        let in_root = |path: &str| {
            path.strip_prefix(self.cgroups.path())?.strip_prefix('/')?.split('/').next().map(str::to_owned)
        };
        let id = orphan.cgroup.as_deref().and_then(in_root).and_then(|name| ContainerId::parse(&name));
        if let (Some(id), Some(inventory)) = (id, &mut self.inventory) {
            let found = Member { pid: orphan.pid, started_ticks: orphan.started_ticks, is_child: false };
            inventory.orphans.entry(id).or_default().push(found);
        }
    }

    /// All of a keeper's list is there: what this process has and the keeper has not is announced to it; the rest is the loop's.
    pub(super) fn end_inventory(&mut self) {
        let Some(mut inventory) = self.inventory.take() else { return };
        let is_unlisted = |id: &ContainerId, handle: &Handle| !handle.ended && !inventory.known.contains(id);
        let unlisted = self.handles.iter().filter(|(id, handle)| is_unlisted(id, handle));
        let unlisted: Vec<ContainerId> = unlisted.map(|(id, _)| id.clone()).collect();
        for id in unlisted {
            let orphan = inventory.orphans.get(&id).and_then(|found| eldest_of(found, None));
            self.announce_to_keeper(&id, orphan);
        }
        self.sessions.keeper_synced(&self.keeper, &self.post);
        inventory.listening = self.hold_again();
        let cgroups = self.cgroups.list().unwrap_or_default();
        inventory.cgroups = cgroups.iter().filter_map(|id| ContainerId::parse(id)).collect();
        inventory.cgroups.retain(|id| !inventory.known.contains(id) && !self.handles.contains_key(id));
        self.say(Mail::Inventory(inventory));
    }

    fn announce_to_keeper(&mut self, id: &ContainerId, orphan: Option<i32>) {
        let Some(handle) = self.handles.get_mut(id).filter(|handle| handle.foreign.is_none()) else { return };
        let pid = if handle.pid == 0 { orphan } else { Some(handle.pid) };
        let Some(pid) = pid else { return self.ask(self.keeper.report(&id.to_string())) };
        handle.orphaned = true;
        let pidfd = handle.pidfd.as_ref().map(AsFd::as_fd);
        let fifos = fifo::reopen(&self.places.containers, id);
        let (out, err) = fifos.as_ref().map_or((None, None), |(out, err)| (Some(out.as_fd()), Some(err.as_fd())));
        let notify = handle.notify.as_ref().map(AsFd::as_fd);
        let terminal = handle.terminal.as_ref().map(Terminal::line);
        let held = [out, err, None, notify, terminal];
        let asked = self.keeper.adopt(&id.to_string(), Kind::Container, &handle.tag, pid, pidfd, &held);
        self.ask(asked);
    }

    /// Of the records only, unless it was begun meanwhile. See the module.
    pub(super) fn settle(&mut self, unlisted: Unlisted) {
        let Unlisted { id, run, orphan, recorded, fresh } = unlisted;
        if self.handles.contains_key(&id) {
            return;
        }
        if let Some(pid) = orphan {
            self.take_over_from_disk(&id, &run);
            return match self.hold_orphan(&id, pid) {
                Ok(()) => self.announce_to_keeper(&id, Some(pid)),
                Err(text) => self.say(Mail::Orphaned(format!("{id}: cannot see whether it still runs: {text}"))),
            };
        }
        match self.take_over_foreign(&id, &run, recorded) {
            Ok(true) => return,
            Ok(false) => {}
            // Nothing is concluded from what could not be looked at: the next supervisor does.
            Err(text) => return self.say(Mail::Orphaned(format!("{id}: cannot see whether it still runs: {text}"))),
        }
        self.fact(match recorded.is_none() && !fresh {
            true => Fact::NeverStarted { id: id.clone() },
            false => Fact::Lost { id: id.clone() },
        });
        self.look(id);
    }

    /// The records have its pid, so the loop may have it stopped before the keeper has answered: it can be signalled from here on.
    fn hold_orphan(&mut self, id: &ContainerId, pid: i32) -> Result<(), String> {
        let Some(cgroup) = self.cgroup_of(id).map_err(|error| error.to_string())? else { return Ok(()) };
        let pidfd = held(cgroup, pid)?;
        if let Some(handle) = self.handles.get_mut(id) {
            (handle.pid, handle.pidfd) = (pid, pidfd);
        }
        self.stop_if_owed(id);
        Ok(())
    }

    fn take_over_from_disk(&mut self, id: &ContainerId, run: &Run) {
        let tag = postcard::to_stdvec(run).unwrap_or_default();
        let fifos = fifo::reopen(&self.places.containers, id);
        let (out, err) = fifos.map_or((None, None), |(out, err)| (Some(out), Some(err)));
        let held = vec![out, err, None, notify::make_again(&self.places.containers, id)];
        self.take_over(id, Some(keeper::Full { tag, held }));
    }

    /// Builds the handle of a container that an earlier supervisor started.
    pub(super) fn take_over(&mut self, id: &ContainerId, full: Option<keeper::Full>) {
        if self.handles.contains_key(id) {
            return;
        }
        let keeper::Full { tag, held } = full.unwrap_or(keeper::Full { tag: Vec::new(), held: Vec::new() });
        let mut held = held.into_iter();
        let mut next = || held.next().flatten();
        let (out, err, report, notify, line) = (next(), next(), next(), next(), next());
        if let (Some(out), Some(err)) = (out, err) {
            // Its limits are those of its unit, which is not read yet.
            self.log.attach_again(id.clone(), out, err);
        }
        let report = report.map(|fd| self.watch(fd, EventFlags::IN, Watched::Report(id.clone())));
        let line = line.or_else(|| self.spare_terminals.remove(id));
        let terminal = line.map(|line| self.await_terminal(id, line));
        // Opened later if that fails now.
        let cgroup = self.cgroups.find(&id.to_string()).ok().flatten();
        let upper = crate::store::lock_again(&self.places.state, &id.unit);
        let handle = Handle { cgroup, report, notify, terminal, tag, upper, ..Handle::default() };
        self.handles.insert(id.clone(), Box::new(handle));
    }

    /// For a generation that ended without a handle, or before it had one.
    pub(super) fn look(&mut self, id: ContainerId) {
        if !self.handles.contains_key(&id) {
            let fifos = fifo::reopen(&self.places.containers, &id);
            let held = fifos.map_or_else(Vec::new, |(out, err)| vec![Some(out), Some(err)]);
            self.take_over(&id, Some(keeper::Full { tag: Vec::new(), held }));
        }
        if let Some(handle) = self.handles.get_mut(&id) {
            handle.ended = true;
        }
        self.after_end(&id);
    }

    // ---- foreign: nobody's child that we know ----

    /// Whether something lives in its cgroup: then it is watched by a pidfd.
    fn take_over_foreign(&mut self, id: &ContainerId, run: &Run, recorded: Option<HostPid>) -> Result<bool, String> {
        let cgroup = self.cgroups.find(&id.to_string()).map_err(|error| error.to_string())?;
        let Some(cgroup) = cgroup else { return Ok(false) };
        let Some((pid, pidfd)) = eldest(&cgroup, recorded)? else { return Ok(false) };
        let copy = pidfd.try_clone().map_err(|error| format!("copying a pidfd: {error}"))?;
        self.take_over_from_disk(id, run);
        let watched = self.watch(copy, EventFlags::IN, Watched::Foreign(id.clone()));
        let Some(handle) = self.handles.get_mut(id) else { return Ok(false) };
        (handle.pid, handle.pidfd, handle.foreign) = (pid, Some(pidfd), Some(watched));
        (handle.executed, handle.announced) = (true, true);
        // No keeper reads it, so nobody does: better that it finds no socket than that it waits for a reader.
        let deaf = handle.notify.take().is_some();
        self.fact(Fact::Adopted { id: id.clone(), pid: host_pid(pid), run: Box::new(run.clone()) });
        if deaf {
            self.fact(Fact::Notified { id: id.clone(), lines: vec![Line::unheard(clock::now().boot)] });
        }
        Ok(true)
    }

    pub(super) fn foreign_ended(&mut self, id: &ContainerId) {
        let Some(handle) = self.handles.get_mut(id) else { return };
        if let Some((token, fd)) = handle.foreign.take() {
            (handle.ended, handle.pidfd) = (true, None);
            self.unwatch(token, &fd);
        }
        self.fact(Fact::Lost { id: id.clone() });
        self.after_end(id);
    }
}

/// A process of a container's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub pid: i32,
    /// When it started, in ticks since the boot (proc(5)).
    pub started_ticks: u64,
    /// Another one of them is its parent.
    pub is_child: bool,
}

/// The first process of a container by its start, which is its pid 1. A tick is 10 ms, in which a shell starts several more, and numbers begin
/// anew after the last one: the lowest is not always the first. Its parent is outside; and the one whose number was recorded then is it.
fn eldest_of(members: &[Member], recorded: Option<HostPid>) -> Option<i32> {
    let is_other = |member: &Member| recorded != Some(host_pid(member.pid));
    let age = |member: &&Member| (member.started_ticks, is_other(member), member.is_child, member.pid);
    members.iter().min_by_key(age).map(|member| member.pid)
}

/// [`eldest_of`] those in a cgroup. Its number is from a list, so it is held first and then looked up again: then it is that process.
fn eldest(cgroup: &ContainerCgroup, recorded: Option<HostPid>) -> Result<Option<(i32, OwnedFd)>, String> {
    // A process may end between two calls.
    for _ in 0..ELDEST_TRIES {
        let pids = processes(cgroup)?;
        if pids.is_empty() {
            return Ok(None);
        }
        let member = |pid: &i32| {
            let found = stat(*pid)?;
            Some(Member { pid: *pid, started_ticks: found.started_ticks, is_child: pids.contains(&found.parent) })
        };
        let members: Vec<Member> = pids.iter().filter_map(member).collect();
        let Some(pid) = eldest_of(&members, recorded) else { continue };
        if let Some(pidfd) = held(cgroup, pid)? {
            return Ok(Some((pid, pidfd)));
        }
    }
    Err("its processes cannot be looked at".to_owned())
}

/// A pidfd of this process of the cgroup; `None`: it is not there, or has ended.
fn held(cgroup: &ContainerCgroup, pid: i32) -> Result<Option<OwnedFd>, String> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
    let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(format!("opening a pidfd: {errno}")),
    };
    // Its number may have been another process's until it was held.
    let is_there = processes(cgroup)?.contains(&pid) && is_alive(pidfd.as_fd());
    Ok(is_there.then_some(pidfd))
}

fn processes(cgroup: &ContainerCgroup) -> Result<Vec<i32>, String> {
    let pids = cgroup.processes().map_err(|error| error.to_string())?;
    Ok(pids.into_iter().filter_map(|pid| i32::try_from(pid).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_is_found_where_numbers_begin_anew() {
        let member = |pid, started_ticks, is_child| Member { pid, started_ticks, is_child };
        // A shell, what it started in the same tick behind the last number, and one of later.
        let inside = [member(300, 7, true), member(32_767, 7, false), member(301, 8, true)];
        assert_eq!(eldest_of(&inside, None), Some(32_767));
        // Without a pid namespace a daemon's parent is outside as well.
        let daemons = [member(300, 7, false), member(32_767, 7, false)];
        assert_eq!(eldest_of(&daemons, Some(HostPid(32_767))), Some(32_767));
        // The number of one that ended may be another's by now.
        assert_eq!(eldest_of(&[member(300, 7, false), member(299, 9, false)], Some(HostPid(299))), Some(300));
        assert_eq!(eldest_of(&[], None), None);
    }
}

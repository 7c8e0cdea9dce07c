//! How a container is started: sockets, cgroup, FIFOs, files, then the keeper is asked to spawn it.
//!
//! # Order
//!
//! | done | killed behind it, the next supervisor finds |
//! |---|---|
//! | the record that it is begun (the loop, `plan::action`) | that no keeper knows it: it never started, and the next number is begun |
//! | the unit's kept layer, if it has one | that layer |
//! | the unit's sockets, and the keeper holds them | that the keeper has them (`sockets`) |
//! | the v2 cgroup, then `RUN/c/<id>`: FIFOs, config files, notify socket | the same; `Clear` removes both first |
//! | what is to run around it (`unit_hooks`) and when it has ended (`hooks`) | the same, and it runs |
//! | report pipe, line of the terminal (`terminal`), spare, payload | the same: nothing of them outlives this process |
//! | `spawn` is sent | the keeper's list has it, with tag and descriptors; if the keeper died too, see `adopt` |
//! | the report is watched | what the keeper holds, and watches it |
//! | the v1 cgroups are made, and the process, which waits for that before it does anything that shows, is told | that it gave up: it never started, and the next number is begun |
//! | the log is attached | what the keeper holds, and attaches it |
//! | `Started` is recorded (the loop) | that it runs |
//!
//! An attempt that fails leaves what it made to `Clear`, as an end does.
//!
//! The v1 cgroups come last, since the process needs about as long to get there as it takes to make them. One that is not
//! made alone (in a user namespace, say) has them first: it may open none by itself.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;

use super::fifo::{self, Fifos};
use super::hands::{Handle, Hands, Watched, is_alive};
use super::job::StartJob;
use super::notify;
use super::program::{self, Dirs};
use super::swap::ConfigDir;
use super::terminal;
use crate::keeper::{self, Kind};
use crate::oci::CgroupSettings;
use crate::plan::Fact;
use crate::runtime::Spare;
use crate::store::{KeptUpper, open_upper, range_of};
use crate::unit::{ContainerId, SourceFacts, Unit};

/// Its place among what the keeper holds.
const HELD_NOTIFY: u8 = keeper::HELD_NOTIFY as u8;

impl Hands {
    pub(super) fn start(&mut self, job: StartJob) {
        let id = job.id.clone();
        if let Err(text) = self.try_start(job) {
            self.fact(Fact::StartFailed { id: id.clone(), text });
            self.look(id);
        }
    }

    fn try_start(&mut self, job: StartJob) -> Result<(), String> {
        let StartJob { id, unit, facts, run } = job;
        super::source::check_mount_points(&unit)?;
        let tells = unit.notify().map(|_| notify::dir(&self.places.containers, &id));
        let files = ConfigDir::of(&self.places.containers, &id);
        let kept = self.upper(&unit, &facts)?;
        let ids = if unit.has_own_users() { Some(self.new_ids(&unit)?) } else { None };
        let upper = kept.as_ref().map(|kept| kept.dir.as_path());
        let dirs = Dirs { notify: tells.as_deref(), upper, ids };
        let program = match self.ahead.take(&id, &unit, &facts) {
            Some(program) => program,
            None => {
                program::compile(&unit, &facts, &id.to_string(), &files, dirs).map_err(|errors| errors.join("; "))?
            }
        };
        super::hooks::check(&program.script)?;
        let sockets = self.listen(&unit)?;
        let network = run.joined.as_ref().map(|owner| self.network_of(owner)).transpose()?;
        let mut cgroup = self.cgroups.begin(&id.to_string(), &program.cgroup).map_err(|error| error.to_string())?;
        program
            .script
            .cgroup_owner()
            .map_or(Ok(()), |owner| cgroup.delegate(owner))
            .map_err(|error| error.to_string())?;
        let terminal = if program.script.has_terminal() { Some(terminal::pair()?) } else { None };
        let (line, console) = terminal.unzip();
        let fifos = Fifos::make(&self.places.containers, &id).map_err(|error| error.to_string())?;
        super::hooks::note(&self.places.containers, &id, &program.script)?;
        super::rdt::note(&self.places.containers, &id, &program.script)?;
        super::unit_hooks::note(&self.places.containers, &id, &unit, &facts, dirs)?;
        files.make(&unit, program.owner).map_err(|error| error.to_string())?;
        let notify = tells.map(|_| notify::make(&self.places.containers, &id));
        let notify = notify.transpose().map_err(|error| error.to_string())?;
        let (report_read, report_write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)
                .map_err(|errno| format!("making a pipe: {errno}"))?;
        let tag = postcard::to_stdvec(&run).map_err(|error| format!("encoding the tag: {error}"))?;
        let mut slots = crate::runtime::Slots::new(report_write);
        slots.stdin = Some(fifo::null().map_err(|errno| format!("opening /dev/null: {errno}"))?);
        slots.stdout = Some(fifos.out_write);
        slots.stderr = Some(fifos.err_write);
        slots.console = console;
        let alone = program.script.outside.is_empty();
        let say_made = self.cgroups.fill_first(&mut cgroup, &program.cgroup, alone, &mut slots);
        let say_made = say_made.map_err(|error| error.to_string())?;
        slots.network = network;
        slots.spare = if Spare::suits(&program.script) { self.spares.take(&program.script) } else { None };
        slots.extra = sockets;
        let payload = crate::runtime::Payload::new(&program.script, slots).map_err(|error| error.to_string())?;
        let mut held = vec![fifos.out_read.as_fd(), fifos.err_read.as_fd(), report_read.as_fd()];
        held.extend(notify.as_ref().map(AsFd::as_fd));
        let nobody = if line.is_some() && notify.is_none() { Some(terminal::nobody()?) } else { None };
        held.extend(nobody.as_ref().map(AsFd::as_fd));
        held.extend(line.as_ref().map(AsFd::as_fd));
        let name = id.to_string();
        let spawn = keeper::Spawn {
            id: &name,
            kind: Kind::Container,
            tag: &tag,
            payload: payload.memfd(),
            slots: &payload.slots(),
            held: &held,
        };
        self.keeper.spawn(&spawn).map_err(|error| error.to_string())?;
        if nobody.is_some() {
            self.ask(self.keeper.release(&name, HELD_NOTIFY));
        }
        let report = self.watch(report_read, epoll::EventFlags::IN, Watched::Report(id.clone()));
        let terminal = line.map(|line| self.await_terminal(&id, line));
        let (cgroup, report, upper) = (Some(cgroup), Some(report), kept.map(|kept| kept.lock));
        let handle = Handle { cgroup, report, notify, terminal, tag, upper, ..Handle::default() };
        self.handles.insert(id.clone(), Box::new(handle));
        if let Some(say_made) = say_made {
            self.finish_cgroup(&id, &program.cgroup, &say_made);
        }
        self.log.attach(id.clone(), fifos.out_read, fifos.err_read, unit.log.clone());
        self.ahead.started(id, unit, facts);
        Ok(())
    }

    /// Makes the v1 cgroups of a container whose process waits for them.
    fn finish_cgroup(&mut self, id: &ContainerId, settings: &CgroupSettings, say_made: &OwnedFd) {
        let Some(cgroup) = self.handles.get_mut(id).and_then(|handle| handle.cgroup.as_mut()) else { return };
        match self.cgroups.finish(cgroup, settings) {
            // Nobody listens only where the process is dead.
            Ok(()) => drop(rustix::io::write(say_made, b"1")),
            Err(error) => {
                self.announce(id, Fact::StartFailed { id: id.clone(), text: error.to_string() });
                self.kill(id.clone());
            }
        }
    }

    /// The writable layer that is kept for a unit, locked.
    fn upper(&mut self, unit: &Unit, facts: &SourceFacts) -> Result<Option<KeptUpper>, String> {
        if !unit.upper.persist {
            return Ok(None);
        }
        for (id, handle) in &mut self.handles {
            if id.unit == unit.name && handle.ended {
                handle.upper = None;
            }
        }
        let kept = open_upper(&self.places.state, &unit.name, &facts.layers, unit.upper.on_change);
        kept.map(Some).map_err(|error| error.to_string())
    }

    /// The ids that a unit has, or has from now on.
    fn new_ids(&self, unit: &Unit) -> Result<u32, String> {
        let running: Vec<u32> = self.handles.keys().filter_map(|id| self.ids_of(id)).collect();
        let found = range_of(&self.places.state, &unit.name, self.places.userns_pool, &running);
        found.map_err(|error| error.to_string())
    }

    /// The first id that a container which runs has outside, if it has its own ids.
    pub(super) fn ids_of(&self, id: &ContainerId) -> Option<u32> {
        let handle = self.handles.get(id).filter(|handle| !handle.ended)?;
        let pidfd = handle.pidfd.as_ref()?;
        let map = std::fs::read_to_string(format!("/proc/{}/uid_map", handle.pid)).ok()?;
        let first = map.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        // Checked after the read: it was the container's then.
        is_alive(pidfd.as_fd()).then_some(first).filter(|first| *first != 0)
    }

    pub(super) fn network_of(&self, owner: &ContainerId) -> Result<OwnedFd, String> {
        let handle =
            self.handles.get(owner).ok_or_else(|| format!("{owner}, whose network is to be shared, is gone"))?;
        let pidfd =
            handle.pidfd.as_ref().ok_or_else(|| format!("{owner}, whose network is to be shared, is not running"))?;
        let path = format!("/proc/{}/ns/net", handle.pid);
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).map_err(|errno| format!("{path}: {errno}"))?;
        // The number is the container's as long as its pidfd can be signalled: checked after the open, so it was then.
        match is_alive(pidfd.as_fd()) {
            true => Ok(fd),
            false => Err(format!("{owner}, whose network is to be shared, ended")),
        }
    }
}

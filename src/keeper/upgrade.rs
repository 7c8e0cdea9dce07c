//! An upgrade: supervisor, keeper and anchor get another program while containers run.
//!
//! Keeper and anchor execute it in their own place (execve(2)): their pids stay, their children stay their children, their descriptors
//! stay open, and what they knew is in a memfd ([`super::state`]). The supervisor is not replaced in place. It is killed, as anybody might
//! kill it, and the next one is of the new program: to go on after that is what it is made for.
//!
//! `moored upgrade` brings the program as a sealed memfd, from a file that only trusted users can have written: neither keeper nor
//! anchor reads a disk, which may hang, and all three run from the one image.
//!
//! # States
//!
//! | state | what happens | and then | if it fails |
//! |---|---|---|---|
//! | checking | a child runs the new program on this keeper's state ([`super::check`]) | execve | refused, nothing has changed |
//! | execve | the new program goes on from the state | anchor | it returns: refused, nothing has changed. The program dies: the keeper has died |
//! | anchor | the anchor is given the image: it checks and executes it in the same way, and says so ([`Request::Build`]) | supervisor | it says why not, dies, or says nothing for [`ANCHOR_NS`]: it stays as it is |
//! | supervisor | the supervisor is killed, and started from the new image | done | no other comes up in [`SUPERVISOR_NS`]: the keeper goes on starting it |
//!
//! Whoever asked hears of the end and of what failed, if he is still there; the upgrade does not need him.
//!
//! # Rules
//!
//! - **The keeper is first**, for it has a spare: should the new program die of its state, the anchor takes the keeper's place and goes on
//!   with the old one. The anchor has none (and as PID 1 takes the host with it), so it comes when the program has proved itself. The
//!   supervisor is last, so that there is one gap, not two.
//! - **Two builds at a time are no special case.** Any of the three can die between any two steps, and the next keeper, of whichever build,
//!   meets anchor and supervisor of the other. So what is said on the control socket of the two ([`Request::Hello`], [`Request::Stop`],
//!   [`Request::Build`], [`Request::NotReplaced`]; [`Message::Ended`], [`Message::Replace`]) does not depend on [`super::VERSION`]: it
//!   only grows. Neither does what `moored upgrade` says. A supervisor of another version is denied, ends, and is started anew.
//! - **A supervisor of an earlier image** that an anchor finds when it takes a keeper's place is killed and started from its own
//!   ([`super::orphans`]): there is nobody left who would end the upgrade.
//! - **Nothing is missed in between.** SIGCHLD is blocked before and after, and what is pending stays so; all children are looked at once
//!   after it. What others send meanwhile lies in sockets that stay open, connections in the backlog of the one listener.
//! - **A failed execve leaves nothing behind**: descriptors are closed on the next one again, the memfds are gone.
//! - **Process 1 is replaced like an anchor**, and in the keeper's place like a keeper, with a state of its own kind ([`super::process1`]).
//!   There its dry run is made twice, the second time on the very state that it then goes on from: it has no spare. Should the new
//!   program not get along with it all the same, it begins again as after a panic, and finds what runs (`anchor/init`).
//! - One upgrade at a time, and none while everything stops. A stop that begins in the middle wins: the supervisor that does it is left
//!   to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::check::{Check, Checked};
use super::child::{Child, Named, Unadopted, Untold};
use super::link::Link;
use super::notify::Said;
use super::process1::Seat;
use super::run::{Finish, Keeper, Parts, now_ns, signals};
use super::spares;
use super::state::{
    self, ChildRecord, Inherited, KeeperState, KeptRecord, LinkRecord, NamedRecord, Passed, State, StateError,
    bytes_of, c_strings,
};
use super::supervisor::{Command, Supervisor};
use super::takeover::Kept;
use super::wire::{Builds, Message, Role};
use super::{Spawner, TEXT_BYTES_MAX};
use crate::sys::image;

/// What the anchor has for its own dry run (10 s) and for executing the program.
const ANCHOR_NS: u64 = 30_000_000_000;
/// What a supervisor has to come up, with all that it finds.
const SUPERVISOR_NS: u64 = 60_000_000_000;

/// One that is under way; between checking and anchor lies the execution.
#[derive(Debug)]
pub(super) enum Upgrade {
    /// The dry run of this program.
    Checking { check: Check, image: OwnedFd },
    /// The anchor was told, or is to be.
    Anchor { until_ns: u64 },
    /// Another than the one of this number of starts is waited for.
    Supervisor { until_ns: u64, starts: u32, trouble: Option<String> },
}

/// Why none was begun.
#[derive(Debug, thiserror::Error)]
enum NotBegun {
    #[error("another upgrade is under way")]
    UnderWay,
    #[error("everything is being stopped, or runs on without a supervisor: there is nothing to upgrade")]
    Ending,
    #[error("the program did not come in a memory file that is sealed against every change")]
    NotSealed,
    #[error("starting the dry run: {0}")]
    Check(#[from] std::io::Error),
}

impl Keeper<'_> {
    /// Somebody brings a program.
    pub(super) fn begin_upgrade(&mut self, at: usize, image: Option<OwnedFd>) {
        let begun = self.try_begin(image);
        let message = begun.err().map(|error| self.upgraded(Some(error.to_string())));
        if let Some(link) = self.links.get_mut(at) {
            link.upgrades = message.is_none();
            link.last = message;
        }
    }

    fn try_begin(&mut self, image: Option<OwnedFd>) -> Result<(), NotBegun> {
        if self.upgrade.is_some() {
            return Err(NotBegun::UnderWay);
        }
        if self.is_ending() {
            return Err(NotBegun::Ending);
        }
        let image = image.filter(|image| image::is_sealed(image.as_fd())).ok_or(NotBegun::NotSealed)?;
        let (state, _) = self.record();
        let check = Check::start(image.as_fd(), &state, now_ns())?;
        self.upgrade = Some(Upgrade::Checking { check, image });
        Ok(())
    }

    fn is_ending(&self) -> bool {
        self.stopping || self.finish.is_some() || self.refused.is_some()
    }

    /// When it is to be looked at although nothing happened.
    pub(super) fn upgrade_due(&self) -> Option<u64> {
        self.upgrade.as_ref().map(|upgrade| match upgrade {
            Upgrade::Checking { check, .. } => check.due_ns,
            Upgrade::Anchor { until_ns } | Upgrade::Supervisor { until_ns, .. } => *until_ns,
        })
    }

    /// Whether this child is the dry run.
    pub(super) fn is_check(&self, pid: i32) -> bool {
        matches!(&self.upgrade, Some(Upgrade::Checking { check, .. }) if check.is(pid))
    }

    /// Goes on with it as far as it goes.
    pub(super) fn go_on_with_upgrade(&mut self) {
        let now = now_ns();
        self.upgrade = match self.upgrade.take() {
            None => None,
            Some(Upgrade::Checking { check, image }) => self.after_check(check, image, now),
            Some(Upgrade::Anchor { until_ns }) => self.after_anchor(until_ns, now),
            Some(Upgrade::Supervisor { until_ns, starts, trouble }) => {
                self.after_supervisor(until_ns, starts, trouble, now)
            }
        };
    }

    fn after_check(&mut self, check: Check, image: OwnedFd, now_ns: u64) -> Option<Upgrade> {
        let trouble = match check.look(now_ns) {
            Checked::NotYet => return Some(Upgrade::Checking { check, image }),
            Checked::Yes(_) if self.is_ending() => NotBegun::Ending.to_string(),
            Checked::Yes(_) => self.execute(image.as_fd()),
            Checked::No(why) => why,
        };
        self.end_upgrade(Some(trouble))
    }

    /// Returns why the program could not be executed.
    fn execute(&self, image: BorrowedFd<'_>) -> String {
        let (state, passed) = self.record();
        let trouble = self.duty.as_ref().and_then(|_| super::check::again(image, &state));
        trouble.unwrap_or_else(|| format!("executing it: {}", state::execute(image, &state, &passed)))
    }

    /// The anchor was asked; [`Keeper::anchor_says`] has its answer.
    fn after_anchor(&mut self, until_ns: u64, now_ns: u64) -> Option<Upgrade> {
        let trouble = match self.links.iter().any(|link| link.is(Role::Anchor)) {
            true if now_ns < until_ns => return Some(Upgrade::Anchor { until_ns }),
            true => "the anchor has not answered: it may still be of the build before",
            false => "the anchor died on the way",
        };
        self.replace_supervisor(Some(trouble.to_owned()))
    }

    /// The anchor runs the new program, or says why not.
    pub(super) fn anchor_says(&mut self, trouble: Option<String>) {
        if matches!(self.upgrade, Some(Upgrade::Anchor { .. })) {
            let trouble = trouble.map(|text| format!("the anchor stays of the build before: {text}"));
            self.upgrade = self.replace_supervisor(trouble);
        }
    }

    fn replace_supervisor(&mut self, trouble: Option<String>) -> Option<Upgrade> {
        if self.is_ending() {
            return self.end_upgrade(Some(stopped(trouble)));
        }
        let now = now_ns();
        let starts = self.supervisor.starts;
        self.supervisor.replace(now);
        self.look = true;
        Some(Upgrade::Supervisor { until_ns: now.saturating_add(SUPERVISOR_NS), starts, trouble })
    }

    fn after_supervisor(
        &mut self,
        until_ns: u64,
        starts: u32,
        trouble: Option<String>,
        now_ns: u64,
    ) -> Option<Upgrade> {
        if self.supervisor.starts > starts && self.supervisor.ready {
            return self.end_upgrade(trouble);
        }
        if self.is_ending() {
            return self.end_upgrade(Some(stopped(trouble)));
        }
        if now_ns < until_ns {
            return Some(Upgrade::Supervisor { until_ns, starts, trouble });
        }
        let late = "no supervisor has come up since: what it prints says why".to_owned();
        self.end_upgrade(Some(with(trouble, late)))
    }

    /// Tells whoever asked for it.
    fn end_upgrade(&mut self, trouble: Option<String>) -> Option<Upgrade> {
        let message = self.upgraded(trouble);
        for link in self.links.iter_mut().filter(|link| link.upgrades) {
            link.last = Some(message.clone());
        }
        None
    }

    fn upgraded(&self, trouble: Option<String>) -> Message {
        let trouble = trouble.map(|text| text.chars().take(TEXT_BYTES_MAX).collect());
        Message::Upgraded { trouble, builds: self.builds() }
    }

    /// Which build each of the three is.
    pub(super) fn builds(&self) -> Builds {
        use std::os::unix::ffi::OsStringExt;
        let of = |role| self.links.iter().find(|link| link.is(role)).and_then(|link| link.build.clone());
        Builds {
            anchor: if self.is_anchor { Some(self.build.clone()) } else { of(Role::Anchor) },
            keeper: self.build.clone(),
            supervisor: of(Role::Supervisor),
            program: std::env::var_os(super::PROGRAM).unwrap_or_default().into_vec(),
        }
    }

    /// One of the two others says what it is.
    pub(super) fn says_build(&mut self, at: usize, build: &str, resumed: bool) {
        let role = self.links.get(at).and_then(|link| link.role);
        if let Some(link) = self.links.get_mut(at) {
            link.build = Some(build.to_owned());
        }
        self.each_link(Role::Supervisor, |link| link.builds = true);
        if resumed && role == Some(Role::Anchor) {
            self.anchor_says(None);
        }
    }

    /// All that the next program needs to know, and the descriptors that it needs.
    fn record(&self) -> (State, Passed<'_>) {
        let mut passed = Passed::default();
        let of = KeeperState {
            run_dir: path(&self.parts.run_dir),
            listener: passed.pass(self.parts.listener.as_fd()),
            stage: self.parts.stage.as_ref().map(|stage| passed.pass(stage.as_fd())),
            signals: self.parts.waited_for.clone(),
            base: self.parts.base.record(),
            supervisor_argv: bytes_of(&self.parts.command.argv),
            supervisor_env: bytes_of(&self.parts.command.env),
            children: self.children.iter().map(|child| child_record(child, &mut passed)).collect(),
            named: self.named.iter().map(|named| named_record(named, &mut passed)).collect(),
            spares_over: self.spares_over.clone(),
            orphans: self.orphans.iter().map(|unadopted| unadopted.orphan.clone()).collect(),
            kept: self.kept.iter().map(|kept| kept_record(kept, &mut passed)).collect(),
            // One with a last word has heard it by now, or never will.
            links: self
                .links
                .iter()
                .filter(|link| !link.closed && link.last.is_none())
                .map(|link| link_record(link, &mut passed))
                .collect(),
            adopting: self.adopting,
            is_anchor: self.is_anchor,
            stopping: self.stopping,
            finish: self.finish.map(|finish| finish.leave_running),
            supervisor: self.supervisor.record(),
        };
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let seat = Seat::Keeper(Box::new(of));
        let of = match &self.duty {
            Some(duty) => duty.record(seat, &mut passed),
            None => seat.of(),
        };
        (State { pid, of }, passed)
    }
}

impl<'s> Keeper<'s> {
    /// Goes on from the state of the program before, in the same process, and with the upgrade.
    pub(crate) fn resume(state: KeeperState, spawner: &'s mut dyn Spawner) -> Result<Self, StateError> {
        let mut inherited = Inherited::default();
        let (image, _) = image::own()?;
        let parts = Parts {
            run_dir: super::state::path_of(state.run_dir),
            listener: inherited.take(state.listener)?,
            stage: state.stage.map(|stage| inherited.take(stage)).transpose()?,
            image,
            signals: signals(&state.signals)?,
            waited_for: state.signals,
            base: state.base.into(),
            command: Command { argv: c_strings(state.supervisor_argv)?, env: c_strings(state.supervisor_env)? },
        };
        let mut keeper = Keeper::with(parts, spawner);
        for child in state.children {
            keeper.children.push(child_of(child, &mut inherited)?);
        }
        for link in state.links {
            keeper.links.push(link_of(link, &mut inherited)?);
        }
        // Names and orphans are said at the beginning only.
        let begins = keeper.links.iter().any(|link| link.is(Role::Supervisor) && link.synced);
        for NamedRecord { name, fd } in state.named {
            keeper.named.push(Named { name, fd: inherited.take(fd)?, untold: begins });
        }
        keeper.spares_over = state.spares_over;
        for KeptRecord { id, fifos } in state.kept {
            let fifos = fifos.into_iter().map(|fd| inherited.take(fd)).collect::<Result<_, _>>()?;
            keeper.kept.push(Kept { id, fifos });
        }
        keeper.orphans = state.orphans.into_iter().map(|orphan| Unadopted { orphan, untold: begins }).collect();
        (keeper.adopting, keeper.is_anchor, keeper.stopping) = (state.adopting, state.is_anchor, state.stopping);
        keeper.finish = state.finish.map(|leave_running| Finish { leave_running });
        keeper.supervisor = Supervisor::resumed(state.supervisor);
        keeper.each_link(Role::Anchor, |link| link.replace = true);
        keeper.upgrade = Some(Upgrade::Anchor { until_ns: now_ns().saturating_add(ANCHOR_NS) });
        if !keeper.links.iter().any(|link| link.is(Role::Anchor)) {
            keeper.anchor_says(None);
        }
        Ok(keeper)
    }
}

fn stopped(trouble: Option<String>) -> String {
    with(trouble, "everything is being stopped: the supervisor that does it was left to it".to_owned())
}

fn with(trouble: Option<String>, more: String) -> String {
    trouble.map_or(more.clone(), |trouble| format!("{trouble}; {more}"))
}

fn path(path: &std::path::Path) -> state::Bytes {
    use std::os::unix::ffi::OsStrExt;
    state::Bytes(path.as_os_str().as_bytes().to_vec())
}

fn child_record<'fd>(child: &'fd Child, passed: &mut Passed<'fd>) -> ChildRecord {
    ChildRecord {
        id: child.id.clone(),
        kind: child.kind,
        pid: child.pid,
        state: child.state.clone(),
        tag: state::Bytes(child.tag.clone()),
        held: child.held.iter().map(|held| held.as_ref().map(|fd| passed.pass(fd.as_fd()))).collect(),
        said: child.said.lines.clone(),
        rests_until_ns: child.said.rests_until_ns,
        asked: child.said.asked,
    }
}

/// All of it is said again.
fn child_of(record: ChildRecord, inherited: &mut Inherited) -> Result<Child, StateError> {
    let take = |held: Option<_>| held.map(|number| inherited.take(number)).transpose();
    let held = record.held.into_iter().map(take).collect::<Result<Vec<_>, _>>()?;
    Ok(Child {
        id: record.id,
        kind: record.kind,
        pid: record.pid,
        state: record.state,
        tag: record.tag.0,
        spare_untold: spares::is_at(&held),
        held,
        untold: Untold::All,
        said: Said {
            untold: !record.said.is_empty(),
            lines: record.said,
            asked: record.asked,
            rests_until_ns: record.rests_until_ns,
        },
    })
}

fn named_record<'fd>(named: &'fd Named, passed: &mut Passed<'fd>) -> NamedRecord {
    NamedRecord { name: named.name.clone(), fd: passed.pass(named.fd.as_fd()) }
}

fn kept_record<'fd>(kept: &'fd Kept, passed: &mut Passed<'fd>) -> KeptRecord {
    KeptRecord { id: kept.id.clone(), fifos: kept.fifos.iter().map(|fifo| passed.pass(fifo.as_fd())).collect() }
}

fn link_record<'fd>(link: &'fd Link, passed: &mut Passed<'fd>) -> LinkRecord {
    let fd: BorrowedFd<'fd> = link.socket.as_fd();
    LinkRecord {
        fd: passed.pass(fd),
        peer: link.peer,
        role: link.role,
        welcome: link.welcome,
        synced: link.synced,
        stop: link.stop,
        stats: link.stats,
        builds: link.builds,
        refusal: link.refusal.clone(),
        build: link.build.clone(),
        upgrades: link.upgrades,
    }
}

fn link_of(record: LinkRecord, inherited: &mut Inherited) -> Result<Link, StateError> {
    let link = Link::new(inherited.take(record.fd)?, record.peer);
    Ok(Link {
        role: record.role,
        welcome: record.welcome,
        synced: record.synced,
        stop: record.stop,
        stats: record.stats,
        builds: record.builds,
        refusal: record.refusal,
        build: record.build,
        upgrades: record.upgrades,
        ..link
    })
}

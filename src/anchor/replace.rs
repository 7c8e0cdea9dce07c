//! The anchor's part of an upgrade ([`keeper::state`]): it executes the program that the keeper gives it, in its own place.
//!
//! The keeper runs that program already and has asked for this. The anchor makes a dry run of its own, since it has a state of its own, and
//! waits for it: a signal that comes meanwhile is pending, and an answer takes 10 s at most. Then it executes the program; after that, or
//! if anything fails before, it tells the keeper so. Whether the keeper is still there to hear it makes no difference. Process 1 makes two dry
//! runs, and pets its watchdog while it waits.

use std::os::fd::{AsFd, OwnedFd};

use super::control::Control;
use super::{Anchor, AnchorError, become_anchor, waited_for};
use crate::keeper::process1::Seat;
use crate::keeper::state::{
    self, AnchorState, Bytes, Inherited, NamedRecord, Passed, State, StateError, bytes_of, c_strings, path_of,
};
use crate::keeper::wire::Request;
use crate::keeper::{self, Check, Checked, Duty, IGNORED, Spawner, now_ns};
use crate::sys::{fd, heap, image, signal, stack};

/// Most programs remembered: only the last few can be those of a process that lives.
const EARLIER_MAX: usize = 8;
/// Longest text of a failure, in characters.
const TEXT_MAX: usize = 100;

impl Anchor {
    /// Executes the program that the keeper gave. Returns if that fails.
    pub(super) fn replace(&mut self, duty: &mut dyn Duty) {
        let Some(program) = self.control.program.take() else { return };
        let why: String = self.try_replace(&program, duty).chars().take(TEXT_MAX).collect();
        // The keeper runs it all the same, and so will its supervisor.
        self.remember(&program);
        self.control.say(&Request::NotReplaced { text: why });
    }

    fn try_replace(&self, program: &OwnedFd, duty: &mut dyn Duty) -> String {
        let check = Check::start(program.as_fd(), &self.record(duty).0, now_ns());
        let stats = &self.control.stats;
        let supervisor = (stats.supervisor, stats.supervisor_starts);
        let checked = check.and_then(|check| {
            check.wait(|| {
                let now = now_ns();
                // Its time for a stop may end meanwhile: the next round says so again.
                let _ = duty.round(now, supervisor);
                now
            })
        });
        match checked {
            Ok(Checked::Yes(_)) => self.execute(program, duty),
            Ok(Checked::No(why)) => why,
            Ok(Checked::NotYet) => "its dry run has not ended".to_owned(),
            Err(error) => format!("its dry run: {error}"),
        }
    }

    /// Returns why the program could not be executed.
    fn execute(&self, program: &OwnedFd, duty: &dyn Duty) -> String {
        let (state, passed) = self.record(duty);
        let trouble = if self.is_init { keeper::check_again(program.as_fd(), &state) } else { None };
        trouble.unwrap_or_else(|| format!("executing it: {}", state::execute(program.as_fd(), &state, &passed)))
    }

    fn remember(&mut self, program: &OwnedFd) {
        self.earlier.extend(image::identity(program.as_fd()));
        self.earlier.drain(..self.earlier.len().saturating_sub(EARLIER_MAX));
    }

    fn record<'a>(&'a self, duty: &'a dyn Duty) -> (State, Passed<'a>) {
        use std::os::unix::ffi::OsStrExt;
        let mut passed = Passed::default();
        let earlier = self.earlier.iter().copied().chain(image::identity(self.image.as_fd()));
        let of = AnchorState {
            run_dir: Bytes(self.run_dir.as_os_str().as_bytes().to_vec()),
            keeper_argv: bytes_of(&self.keeper_argv),
            supervisor_argv: bytes_of(&self.supervisor_argv),
            listener: self.listener.as_ref().map(|listener| passed.pass(listener.as_fd())),
            control: passed.pass(self.control.socket.as_fd()),
            stage: self.stage.as_ref().map(|stage| passed.pass(stage.as_fd())),
            keeper: self.control.keeper,
            stopping: self.control.stopping,
            base: self.base.record(),
            earlier: earlier.collect(),
            spares: self.control.spares.0.iter().map(|(name, fd)| record(name, fd, &mut passed)).collect(),
        };
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let of = duty.record(Seat::Anchor(of), &mut passed);
        (State { pid, of }, passed)
    }

    /// Goes on from the state of the program before, of a process that waits for these signals.
    pub(super) fn resumed(state: AnchorState, waited_for: Vec<i32>, is_init: bool) -> Result<Anchor, StateError> {
        let mut inherited = Inherited::default();
        let mut optional = |number: Option<_>| number.map(|number| inherited.take(number)).transpose();
        let (listener, stage) = (optional(state.listener)?, optional(state.stage)?);
        let mut control = Control::new(inherited.take(state.control)?, state.keeper);
        control.stopping = state.stopping;
        for NamedRecord { name, fd } in state.spares {
            control.spares.hold(name, inherited.take(fd)?);
        }
        let signals = keeper::signals(&waited_for)?;
        let (image, _) = image::own()?;
        let mut anchor = Anchor {
            run_dir: path_of(state.run_dir),
            keeper_argv: c_strings(state.keeper_argv)?,
            supervisor_argv: c_strings(state.supervisor_argv)?,
            listener,
            stage,
            image,
            signals,
            waited_for,
            base: state.base.into(),
            control,
            earlier: state.earlier,
            is_init,
        };
        anchor.earlier.drain(..anchor.earlier.len().saturating_sub(EARLIER_MAX));
        Ok(anchor)
    }

    /// The same, once it is what it says.
    pub(super) fn go_on(self, spawner: &mut dyn Spawner, duty: &mut dyn Duty) -> Result<u8, AnchorError> {
        self.control.say(&Request::Build { build: keeper::build(), resumed: true });
        stack::trim();
        heap::trim();
        self.run(spawner, duty)
    }
}

fn record<'fd>(name: &str, fd: &'fd OwnedFd, passed: &mut Passed<'fd>) -> NamedRecord {
    NamedRecord { name: name.to_owned(), fd: passed.pass(fd.as_fd()) }
}

/// The anchor in its next program.
pub(crate) fn resume(state: AnchorState, spawner: &mut dyn Spawner) -> Result<u8, AnchorError> {
    match resumed(state) {
        Ok(anchor) => anchor.go_on(spawner, &mut ()),
        Err(_) => Ok(keeper::NOT_RESUMED),
    }
}

fn resumed(state: AnchorState) -> Result<Anchor, StateError> {
    fd::cloexec_from(3)?;
    let anchor = Anchor::resumed(state, waited_for(), false)?;
    signal::ignore(&IGNORED)?;
    become_anchor()?;
    Ok(anchor)
}

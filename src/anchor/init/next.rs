//! Process 1 in its next program: an upgrade executes it in place (`super::super::replace`, [`crate::keeper`]), for nothing else can replace it.
//!
//! | stays of itself | is handed over ([`InitState`]) |
//! |---|---|
//! | mounts, host name, sysctls, Ctrl-Alt-Del as a signal | the order that was given, and by when the units are to be stopped |
//! | signals that are blocked, and those that are pending | the watchdog's descriptor, and when it is to be petted |
//! | standard streams, and the shell on the console | where the console is, and that there is a shell |
//! | children, and so the keeper or all containers | the work of the anchor or the keeper, with its descriptors |
//!
//! init.toml is not read again. A program that cannot go on from its state although the dry runs said so must not end: it begins again as after a
//! panic, with what it can find.

use std::os::unix::ffi::OsStrExt;

use super::duty::Watch;
use super::early::Scope;
use super::{Init, after_panic, console, wanted};
use crate::anchor::{Anchor, become_anchor};
use crate::keeper::process1::{InitState, Seat};
use crate::keeper::state::{Bytes, Of, Passed, StateError, bytes_of, c_strings, path_of};
use crate::keeper::{self, Duty, IGNORED, Keeper, Spawner};
use crate::sys::{fd, signal};

impl Duty for Init {
    fn due_ns(&self) -> Option<u64> {
        self.watch.due_ns()
    }

    fn signalled(&mut self, signal: u32) {
        self.watch.signalled(signal);
    }

    fn round(&mut self, now_ns: u64, supervisor: (Option<i32>, u32)) -> bool {
        self.watch.round(now_ns, supervisor)
    }

    fn record<'fd>(&'fd self, seat: Seat, passed: &mut Passed<'fd>) -> Of {
        Of::Init(Box::new(InitState {
            seat,
            machine: self.scope == Scope::Machine,
            run_dir: Bytes(self.run_dir.as_os_str().as_bytes().to_vec()),
            keeper_argv: bytes_of(&self.keeper_argv),
            supervisor_argv: bytes_of(&self.supervisor_argv),
            base: self.base.record(),
            watch: self.watch.record(passed),
            console: self.console.as_ref().map(|path| Bytes(path.as_os_str().as_bytes().to_vec())),
            shell: self.has_shell,
        }))
    }
}

/// Goes on as process 1. `Err`: it cannot, and is to begin again.
pub(crate) fn resume(state: InitState, spawner: &mut dyn Spawner) -> Result<u8, StateError> {
    let scope = if state.machine { Scope::Machine } else { Scope::Namespace };
    if scope == Scope::Machine {
        std::panic::set_hook(Box::new(|info| after_panic(&info.to_string())));
    }
    fd::cloexec_from(3)?;
    signal::ignore(&IGNORED)?;
    let signals = keeper::signals(wanted(scope))?;
    become_anchor()?;
    let (mut init, seat) = Init::resumed(state, scope)?;
    console::choose(init.console.as_deref());
    let ended = match seat {
        Seat::Anchor(state) => Anchor::resumed(state, wanted(scope).to_vec(), true)?.go_on(spawner, &mut init),
        Seat::Keeper(state) => Ok(Keeper::resume(*state, spawner)?.with_duty(&mut init).run()),
    };
    match scope {
        Scope::Machine => init.go_on(spawner, &signals, Some(ended)),
        Scope::Namespace => Ok(ended.unwrap_or(1)),
    }
}

impl Init {
    fn resumed(state: InitState, scope: Scope) -> Result<(Init, Seat), StateError> {
        let init = Init {
            scope,
            run_dir: path_of(state.run_dir),
            keeper_argv: c_strings(state.keeper_argv)?,
            supervisor_argv: c_strings(state.supervisor_argv)?,
            base: state.base.into(),
            watch: Watch::resumed(state.watch),
            console: state.console.map(path_of),
            has_shell: state.shell,
        };
        Ok((init, state.seat))
    }
}

//! Namespaces made ahead ([`Spare`]), for starts to take.
//!
//! - None before the first start that could have taken one: a host whose units share its network makes none.
//! - Then as many as the settings say are kept, made in a thread of their own while nothing is being set up. A start takes what there is and
//!   never waits: without a spare it makes its own.
//! - One that somebody changed is thrown away, with a warning.
//! - One that cannot be made is not tried again before the next start.
//!
//! They belong to this process: with it they are gone, and nothing on the host tells of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

use crate::oci::Script;
use crate::runtime::{Spare, SpareMaker, SpareParts};

/// The pool.
#[derive(Debug)]
pub struct Spares {
    most: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Spare>,
    /// Fewer than there should be, and nothing has gone wrong since they became fewer.
    wanted: bool,
    making: bool,
}

impl Spares {
    /// Keeps at most so many; with 0 all starts make their own.
    pub fn new(most: usize) -> Spares {
        Spares { most, state: Arc::default() }
    }

    /// Takes one for this script, if one is ready.
    pub(super) fn take(&self, script: &Script) -> Option<SpareParts> {
        let mut state = lock(&self.state);
        state.wanted = self.most > 0;
        while let Some(spare) = state.ready.pop() {
            match spare.take(script) {
                Some(parts) => return Some(parts),
                None => tracing::warn!("a namespace made ahead was changed by somebody: thrown away"),
            }
        }
        None
    }

    /// Begins to make those that are missing. To be called when nothing is being set up.
    pub(super) fn refill(&self) {
        let mut state = lock(&self.state);
        if !state.wanted || state.making {
            return;
        }
        let (shared, most) = (Arc::clone(&self.state), self.most);
        let thread = Builder::new().name("spares".to_owned()).stack_size(super::STACK_BYTES);
        let work = move || match SpareMaker::new() {
            Ok(mut maker) => while store(maker.make(), &shared, most) {},
            Err(error) => drop(store(Err(error), &shared, most)),
        };
        let started = thread.spawn(work);
        state.making = started.is_ok();
        state.wanted = started.is_ok();
    }
}

/// Whether there should be another.
fn store(made: Result<Spare, impl std::fmt::Display>, shared: &Mutex<State>, most: usize) -> bool {
    let mut state = lock(shared);
    match made {
        Ok(spare) => state.ready.push(spare),
        Err(error) => {
            tracing::warn!("making namespaces ahead: {error}");
            state.wanted = false;
        }
    }
    state.wanted &= state.ready.len() < most;
    state.making = state.wanted;
    state.wanted
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script() -> Script {
        Script { new_pid_namespace: false, outside: crate::oci::Outside::default(), steps: Vec::new() }
    }

    fn wait_until_made(spares: &Spares) -> usize {
        loop {
            let state = lock(&spares.state);
            if !state.making {
                return state.ready.len();
            }
            drop(state);
            std::thread::yield_now();
        }
    }

    #[test]
    fn they_are_made_after_the_first_start_and_only_so_many() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (spares, script) = (Spares::new(2), script());
        spares.refill();
        assert_eq!(wait_until_made(&spares), 0, "nobody wanted one");
        assert!(spares.take(&script).is_none());
        spares.refill();
        assert_eq!(wait_until_made(&spares), 2);
        spares.refill();
        assert_eq!(wait_until_made(&spares), 2);
        let inode = |parts: SpareParts| rustix::fs::fstat(&parts.network).expect("stat").st_ino;
        let (one, two) = (spares.take(&script).map(inode), spares.take(&script).map(inode));
        assert!(one.is_some() && two.is_some() && one != two, "{one:?} {two:?}");
        assert!(spares.take(&script).is_none());
    }

    #[test]
    fn none_is_none() {
        let (spares, script) = (Spares::new(0), script());
        assert!(spares.take(&script).is_none());
        spares.refill();
        assert_eq!(wait_until_made(&spares), 0);
    }
}

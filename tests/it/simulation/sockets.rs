//! Listening sockets: open as long as somebody may connect, and no longer.

use std::collections::BTreeSet;
use std::sync::Arc;

use moored::plan::{Fact, Phase, Want, status};
use moored::unit::{ContainerId, Listen, Socket, SocketOptions, Unit, UnitName};

use super::History;
use super::host::{Container, Host, Stage, millis};
use super::oracle::{Verdict, must};
use super::planted::Bug;
use super::rng::Rng;
use super::supervisor::{Outside, Supervisor};

/// Perhaps a text with sockets: of two addresses each unit has one, the other or both.
pub fn with_sockets(rng: &mut Rng, want: Want) -> Want {
    if !rng.chance(50) {
        return want;
    }
    let name = want.unit.name.clone();
    let all = ["a", "b"].map(|which| Socket {
        listen: Listen::Unix(format!("/{name}-{which}")),
        name: None,
        options: SocketOptions::default(),
    });
    let sockets = rng.pick(&[vec![all[0].clone()], vec![all[1].clone()], all.to_vec()]).clone();
    Want { unit: Arc::new(Unit { sockets, ..want.unit.as_ref().clone() }), ..want }
}

fn of(want: &Want) -> impl Iterator<Item = &Listen> {
    want.unit.sockets.iter().map(|socket| &socket.listen)
}

impl Host {
    /// What the keeper holds for a unit.
    pub fn sockets_of(&self, unit: &UnitName) -> BTreeSet<Listen> {
        self.sockets.iter().filter(|(name, _)| name == unit).map(|(_, listen)| listen.clone()).collect()
    }

    /// A start makes them; one that fails may have failed with the first.
    pub fn open_sockets(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get(id) else { return };
        let fails = matches!(container.stage, Stage::Setup { fails: true, .. });
        if !(fails && self.sockets_rng.chance(50)) {
            let made: Vec<Listen> = of(&container.want).cloned().collect();
            self.sockets.extend(made.into_iter().map(|listen| (id.unit.clone(), listen)));
        }
    }
}

impl Supervisor {
    /// What the keeper says that it holds.
    pub fn find_sockets(&mut self, out: &mut Outside) {
        if out.bug == Bug::SocketsForgotten {
            return;
        }
        let units: BTreeSet<UnitName> = out.host.sockets.iter().map(|(unit, _)| unit.clone()).collect();
        for unit in units {
            let sockets = out.host.sockets_of(&unit);
            self.record(out, &Fact::Listening { unit, sockets });
        }
    }

    pub fn close_sockets(&mut self, out: &mut Outside, unit: &UnitName, sockets: &BTreeSet<Listen>) -> Verdict {
        for listen in sockets {
            let has = |(id, found): (&ContainerId, &Container)| {
                out.host.is_alive(id) && of(&found.want).any(|own| own == listen)
            };
            let used = out.host.of(unit).any(has);
            must(!used, "sockets", || format!("{listen} is closed under a container of {unit}"))?;
            // A start that is asked for at this moment makes it anew.
            let is_asked = out.oracle.truth(unit).wished.is_some();
            let runs =
                out.oracle.should_run(unit, out.now).ok().filter(|want| !is_asked && !out.oracle.is_in_ring(want));
            let wanted = runs.is_some_and(|want| of(&want).any(|own| own == listen));
            must(!wanted || out.oracle.shutdown, "sockets", || format!("{listen} is closed, and {unit} is to run"))?;
            out.host.sockets.remove(&(unit.clone(), listen.clone()));
        }
        self.post_of_sockets(out, Fact::Closed { unit: unit.clone(), sockets: sockets.clone() });
        Ok(())
    }

    /// What a start found open or made.
    pub fn tell_sockets(&mut self, out: &mut Outside, unit: &UnitName) {
        let sockets = out.host.sockets_of(unit);
        if !sockets.is_empty() {
            self.post_of_sockets(out, Fact::Listening { unit: unit.clone(), sockets });
        }
    }

    /// As any fact, but that chance is one of their own: so that what sockets a text has changes nothing else of a history.
    fn post_of_sockets(&mut self, out: &mut Outside, fact: Fact) {
        let rng = &mut out.host.sockets_rng;
        let late = if rng.chance(80) { 0 } else { rng.below(300) };
        let again = rng.chance(10).then(|| rng.below(3000));
        let times = std::iter::once(late).chain(again);
        self.mail.extend(times.map(|after| (out.now.after(millis(after)), fact.clone())));
    }
}

impl History {
    /// Everything is stopped.
    pub(super) fn check_closed(&self) -> Verdict {
        let left = self.host.sockets.first();
        must(left.is_none(), "sockets", || format!("{left:?} outlives the shutdown"))
    }

    /// In the end what runs has its sockets, and what does not run has none.
    pub(super) fn check_sockets(&self) -> Verdict {
        let Some(supervisor) = &self.supervisor else { return Ok(()) };
        for (id, container) in self.host.containers.iter().filter(|(id, _)| self.host.is_alive(id)) {
            // Those of an older one died with the keeper, but for its own.
            let missing = of(&container.want).find(|listen| !self.host.sockets_of(&id.unit).contains(listen));
            let is_lost = container.run.begun <= self.host.keeper_since;
            must(missing.is_none() || is_lost, "sockets", || format!("{id} lacks {missing:?}"))?;
        }
        for (unit, listen) in &self.host.sockets {
            let has = |want: &Want| of(want).any(|own| own == listen);
            let want = supervisor.desired().units.get(unit);
            // All stay while one of another text runs: it may have them.
            let is_other = |found: &Container| want.is_none_or(|want| want.fingerprint != found.want.fingerprint);
            let alive = self.host.of(unit).any(|(_, found)| has(&found.want) || is_other(found));
            let phase = status(supervisor.desired(), &supervisor.observed, unit, self.now).phase;
            // One that is to run, or is kept because it may come back.
            let runs = matches!(phase, Phase::Running | Phase::Ready);
            let comes = want.is_some_and(|want| has(want) || want.earlier.as_deref().is_some_and(has));
            let waits = comes && (runs || matches!(phase, Phase::Waiting | Phase::Backoff));
            must(alive || waits, "sockets", || format!("{listen} of {unit} is open, which is {phase:?}"))?;
        }
        Ok(())
    }
}

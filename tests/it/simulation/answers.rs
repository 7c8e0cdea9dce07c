//! What the fake host answers: to an action that fails, and to a look at a container after a crash.

use moored::plan::{Action, Deed, Fact, Run};
use moored::unit::ContainerId;

use super::host::{Host, Stage};
use super::supervisor::Outside;

/// Now and then an action fails before it has any effect.
pub fn failure_of(out: &mut Outside, action: &Action) -> Option<Fact> {
    let (id, deed) = match action {
        Action::Stop { id, .. } => (id, Deed::Stop),
        Action::Kill { id } => (id, Deed::Kill),
        Action::Signal { id, .. } => (id, Deed::Signal),
        Action::Reload { id, .. } => (id, Deed::Reload),
        Action::Update { id, limits: Some(_), .. } => (id, Deed::Update),
        Action::Swap { id, .. } => (id, Deed::Swap),
        Action::Clear { id } => (id, Deed::Clear),
        // There is nothing to be done for it that could fail.
        Action::Update { limits: None, .. } => return None,
        // Its failure has a fact of its own, and what follows has none.
        Action::Start { .. } | Action::Forget { .. } | Action::Reboot { .. } => return None,
        // What cannot be taken away stays, and is told.
        Action::Close { .. } => return None,
        // That it failed is what it is answered with.
        Action::Hook { .. } => return None,
        // It has results, or none.
        Action::Probe { .. } | Action::Hear { .. } => return None,
        Action::Prove { .. } | Action::RollBack { .. } | Action::Schedule { .. } => return None,
        // Marks, which are made.
        Action::Rely { .. } | Action::Raise { .. } | Action::Settle { .. } | Action::TakeOver { .. } => return None,
    };
    let fails = !out.host.calm && out.rng.chance(5);
    fails.then(|| Fact::ActionFailed { id: id.clone(), deed, text: "EBUSY".into() })
}

/// What the keeper says of a generation after a crash of the supervisor, or to one that `survived` the keeper before.
pub fn look(host: &Host, id: &ContainerId, run: &Run, survived: bool) -> Option<Fact> {
    let container = host.containers.get(id);
    if container.is_some_and(|container| container.kept || container.foreign) {
        return match host.look(id) {
            Some(Fact::Started { id, pid }) => Some(Fact::Adopted { id, pid, run: Box::new(run.clone()) }),
            other => other,
        };
    }
    let was_asked = survived || host.keeper_since <= run.begun;
    let never = was_asked && container.is_none_or(|found| matches!(found.stage, Stage::Made));
    Some(if never { Fact::NeverStarted { id: id.clone() } } else { Fact::Lost { id: id.clone() } })
}

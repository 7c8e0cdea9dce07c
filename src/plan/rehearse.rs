//! A rehearsal: what [`reconcile`] does when other texts come into force, on a host where everything works.
//!
//! It is the real `reconcile` on a copy of what is known. The host beside it does at once what it is asked to: what is started runs and is well,
//! what is told to stop ends, a oneshot that was started here completes. How what ran before is by its checks stays as it is. Before the other texts come, what is under way under the present
//! ones is played to its end, so that it is not taken for their consequence. The clock stands still: what waits for a time, a backoff
//! or the end of a hold, waits. But what comes in a start-first update has its time: it takes over when nothing else is to be done.
//!
//! So a rehearsal says what follows from the texts alone: whatever fails later is the failure's consequence.

use std::collections::BTreeMap;

use super::action::Action;
use super::desired::{Desired, Want};
use super::exit::Exit;
use super::fact::Fact;
use super::health::{Probed, Probing};
use super::observed::{Asked, HostPid, Live, Observed, State};
use super::reason::Why;
use super::reconcile::reconcile;
use super::status::{Status, statuses};
use super::time::{BootTime, Now, WallTime};
use super::told::Line;
use super::world::World;
use crate::compact;
use crate::unit::{CheckKind, ContainerId, Kind, UnitName};

/// Longer chains of units that wait for each other are not played to their end.
const ROUNDS_MAX: usize = 1000;

/// What is done to one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// A container is started where there is none.
    Start,
    /// Its container is stopped, and another one started.
    Replace(Why),
    /// Another container is started beside its own, and takes over; then its own is stopped.
    StartFirst,
    /// Its container is stopped.
    Stop(Why),
    /// Its container goes on by other terms: limits, stop signal, what restarts count by.
    Update,
    /// Its container is told to reload.
    Reload,
}

/// What is done, and how it ends.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rehearsal {
    /// In the order in which it begins; each unit once, and those of which nothing is touched not at all.
    pub turns: Vec<(UnitName, Turn)>,
    /// What each unit is doing in the end.
    pub ends: BTreeMap<UnitName, Status>,
}

/// What follows when `after` comes into force in the place of `before`.
pub fn rehearse(before: &Desired, after: &Desired, observed: &Observed, now: BootTime) -> Rehearsal {
    let mut stage =
        Stage { observed: observed.clone(), now, started: BTreeMap::new(), passed: BTreeMap::new(), deeds: Vec::new() };
    // What is on its way under a text that is left does not take over.
    let stays = |unit: &UnitName| {
        let of = |desired: &Desired| desired.units.get(unit).map(|want| want.fingerprint);
        of(before) == of(after)
    };
    stage.play(before, stays);
    (stage.started, stage.deeds) = (BTreeMap::new(), Vec::new());
    stage.play(after, |_| true);
    Rehearsal { turns: turns(&stage.deeds), ends: compact::map(statuses(after, &stage.observed, now)) }
}

/// A copy of the world, and what happened on it.
struct Stage {
    observed: Observed,
    now: BootTime,
    /// Units that were started here; with `true` a oneshot is still to complete, which it does once.
    started: BTreeMap<UnitName, bool>,
    /// Checks that were seen to pass.
    passed: BTreeMap<ContainerId, Vec<CheckKind>>,
    deeds: Vec<(UnitName, Deed)>,
}

enum Deed {
    Start,
    StartBeside,
    Stop(Why),
    Update,
    Reload,
}

impl Stage {
    /// Until neither side has anything left to do. The host answers when nothing more is asked of it, so that what is under way is seen, and
    /// a oneshot takes longer than all else.
    fn play(&mut self, desired: &Desired, has_its_time: impl Fn(&UnitName) -> bool) {
        let now = Now { boot: self.now, wall: WallTime(0) };
        for _ in 0..ROUNDS_MAX {
            let mut is_quiet = true;
            for action in reconcile(desired, &self.observed, self.now).actions {
                // What is rolled back is the catalogue's to do; here every text does well.
                if !matches!(action, Action::RollBack { .. }) && self.observed.begin(&action, now) {
                    is_quiet = false;
                    self.note(action);
                }
            }
            if !is_quiet {
                continue;
            }
            let lives = self.observed.units.values().flat_map(|seen| seen.lives());
            let mut facts: Vec<Fact> = lives.flat_map(|live| answers_of(live, self.now)).collect();
            let closing = self.observed.units.iter().map(|(unit, seen)| (unit.clone(), seen.closing()));
            let closing = closing.filter(|(_, sockets)| !sockets.is_empty());
            facts.extend(closing.map(|(unit, sockets)| Fact::Closed { unit, sockets }));
            facts.extend(self.passes());
            facts.extend(self.words(desired));
            if facts.is_empty() && (self.take_overs(desired, &has_its_time, now) || self.proofs(desired, now)) {
                continue;
            }
            if facts.is_empty() {
                facts = self.completions(desired);
            }
            let news = facts.iter().filter(|fact| self.observed.record(fact, now)).count();
            if news == 0 {
                return;
            }
        }
    }

    /// Those that are well take over; says whether one did.
    fn take_overs(&mut self, desired: &Desired, has_its_time: impl Fn(&UnitName) -> bool, now: Now) -> bool {
        let world = World::new(desired, &self.observed, self.now);
        let ready = world.views().filter(|view| has_its_time(view.name)).filter_map(|view| {
            let next = view.seen.successor().filter(|next| world.stop_reason(view, next).is_none())?;
            let (want, id) = (view.want?, next.id.clone());
            world.takes_over_at(want, next).map(|_| Action::TakeOver { id, enabled: want.unit.enabled })
        });
        let ready: Vec<Action> = ready.collect();
        let begun = ready.into_iter().filter(|action| self.observed.begin(action, now));
        begun.count() > 0
    }

    /// Replicas that are well have done well, so that the turn of the next one comes; says whether one has.
    fn proofs(&mut self, desired: &Desired, now: Now) -> bool {
        let proof = |(unit, want): (&UnitName, &Want)| {
            want.group()?;
            let seen = self.observed.unit(unit)?;
            let live = seen.live.as_ref().filter(|live| live.run.fingerprint == want.fingerprint)?;
            let is_new =
                seen.proven != Some(want.fingerprint) && live.well_since(want.unit.health.as_deref()).is_some();
            is_new.then(|| Action::Prove { unit: unit.clone(), fingerprint: want.fingerprint })
        };
        let proofs: Vec<Action> = desired.units.iter().filter_map(proof).collect();
        proofs.into_iter().filter(|action| self.observed.begin(action, now)).count() > 0
    }

    fn note(&mut self, action: Action) {
        let unit = action.unit().clone();
        let is_own = |id: &ContainerId| {
            let own = self.observed.unit(&id.unit).and_then(|seen| seen.live.as_ref());
            own.is_some_and(|own| own.id == *id)
        };
        let deed = match action {
            Action::Start { beside: false, .. } => Deed::Start,
            Action::Start { beside: true, .. } => Deed::StartBeside,
            // That of one beside it says nothing of the unit's own, which runs on.
            Action::Stop { id, .. } if !is_own(&id) => return,
            Action::Stop { why, .. } => Deed::Stop(why),
            Action::Update { .. } => Deed::Update,
            Action::Reload { .. } => Deed::Reload,
            Action::TakeOver { .. } => return,
            Action::Hook { .. } | Action::Schedule { .. } => return,
            Action::Kill { .. } | Action::Rely { .. } | Action::Raise { .. } | Action::Signal { .. } => return,
            Action::Clear { .. } | Action::Close { .. } | Action::Forget { .. } | Action::Reboot { .. } => return,
            // Contents settle, and no time goes by here: what is asked for tells of them.
            Action::Settle { .. } | Action::Swap { .. } => return,
            Action::Probe { .. } | Action::Hear { .. } | Action::Prove { .. } | Action::RollBack { .. } => return,
        };
        if matches!(deed, Deed::Start | Deed::StartBeside) {
            self.started.entry(unit.clone()).or_insert(true);
        }
        self.deeds.push((unit, deed));
    }

    /// Each check that is asked of what was started here passes, once.
    fn passes(&mut self) -> Vec<Fact> {
        let mut facts = Vec::new();
        let lives = self.observed.units.iter().flat_map(|(unit, seen)| seen.lives().map(move |live| (unit, live)));
        for (_, live) in lives.filter(|(unit, _)| self.started.contains_key(*unit)) {
            for check in live.probing.iter().flat_map(Probing::kinds) {
                let passed = self.passed.entry(live.id.clone()).or_default();
                if !passed.contains(&check) {
                    passed.push(check);
                    let (id, probed) = (live.id.clone(), Probed::Passed);
                    facts.push(Fact::Probed { id, check, probed, failures: 1, successes: 1 });
                }
            }
        }
        facts
    }

    /// Who was started here and is to say that it is ready says so; of who ran before nobody knows whether it will.
    fn words(&self, desired: &Desired) -> Vec<Fact> {
        let lives = self.observed.units.iter().flat_map(|(unit, seen)| seen.lives().map(move |live| (unit, live)));
        let is_asked = |unit: &UnitName| desired.units.get(unit).is_some_and(|want| want.unit.notify().is_some());
        let silent = lives.filter(|(unit, live)| {
            is_asked(unit)
                && self.started.contains_key(*unit)
                && !live.is_ready()
                && matches!(live.state, State::Running { .. })
        });
        let ready = || vec![Line { text: "READY=1".to_owned(), at: self.now }];
        silent.map(|(_, live)| Fact::Notified { id: live.id.clone(), lines: ready() }).collect()
    }

    /// The ends of the oneshots that were started here.
    fn completions(&mut self, desired: &Desired) -> Vec<Fact> {
        let is_oneshot = |unit: &UnitName| desired.units.get(unit).is_some_and(|want| want.unit.kind == Kind::Oneshot);
        let mut facts = Vec::new();
        for (unit, live) in self.observed.units.iter().filter_map(|(unit, seen)| Some((unit, seen.live.as_ref()?))) {
            let is_running = is_oneshot(unit) && matches!(live.state, State::Running { .. });
            if is_running && self.started.get_mut(unit).is_some_and(std::mem::take) {
                facts.push(ended(live, self.now));
            }
        }
        facts
    }
}

/// What the host says of a container of which something is asked, or under way.
fn answers_of(live: &Live, now: BootTime) -> Vec<Fact> {
    let id = || live.id.clone();
    if let Some(point) = live.hook_asked() {
        return vec![Fact::HookEnded { id: id(), point, failure: None }];
    }
    match &live.state {
        State::Starting => vec![Fact::Started { id: id(), pid: HostPid(1) }],
        State::Running { .. } => {
            let reloaded = (live.reload == Some(Asked::InFlight)).then(|| Fact::Reloaded { id: id() });
            let limited = live.limits_asked.as_deref().map(|limits| Fact::Limited { id: id(), limits: *limits });
            reloaded.into_iter().chain(limited).collect()
        }
        State::Stopping(_) => vec![ended(live, now)],
        State::Ended(ended) if ended.clearing => vec![Fact::Cleared { id: id() }],
        State::Ended(ended) if ended.empty && ended.drained => Vec::new(),
        State::Ended(_) => vec![Fact::CgroupEmpty { id: id() }, Fact::Drained { id: id() }],
    }
}

fn ended(live: &Live, at: BootTime) -> Fact {
    Fact::Exited { id: live.id.clone(), exit: Exit::Code(0), oom: false, at }
}

/// One turn for each unit, where its first deed stands.
fn turns(deeds: &[(UnitName, Deed)]) -> Vec<(UnitName, Turn)> {
    let mut of_unit: BTreeMap<&UnitName, Vec<&Deed>> = BTreeMap::new();
    let mut order = Vec::new();
    for (unit, deed) in deeds {
        let all = of_unit.entry(unit).or_default();
        if all.is_empty() {
            order.push(unit);
        }
        all.push(deed);
    }
    let turn = |unit: &UnitName| of_unit.get(unit).and_then(|deeds| turn(deeds));
    order.into_iter().filter_map(|unit| Some((unit.clone(), turn(unit)?))).collect()
}

/// By what comes first, and whether another start follows a stop; what becomes of that container later is a consequence of its own.
fn turn(deeds: &[&Deed]) -> Option<Turn> {
    let is_turn = |deed: &&Deed| matches!(deed, Deed::Start | Deed::StartBeside | Deed::Stop(_));
    let first = deeds.iter().position(is_turn);
    let starts = |deeds: &[&Deed]| deeds.iter().any(|deed| matches!(deed, Deed::Start));
    match first.map(|at| deeds.split_at(at).1) {
        Some([Deed::Stop(why), later @ ..]) if starts(later) => Some(Turn::Replace(why.clone())),
        Some([Deed::Stop(why), ..]) => Some(Turn::Stop(why.clone())),
        Some([Deed::StartBeside, ..]) => Some(Turn::StartFirst),
        Some(_) => Some(Turn::Start),
        None if deeds.iter().any(|deed| matches!(deed, Deed::Reload)) => Some(Turn::Reload),
        None => (!deeds.is_empty()).then_some(Turn::Update),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::status::Phase;
    use super::*;
    use crate::unit::{SourceFacts, container_fingerprint, parse};

    fn name(unit: &str) -> UnitName {
        UnitName::new(unit).unwrap()
    }

    fn desired(texts: &[(&str, &str)]) -> Desired {
        let want = |(unit, text): &(&str, &str)| {
            let text = format!("executable = \"/bin/{unit}\"\n{text}\n");
            let parsed = parse(&name(unit), Path::new("/units/x.toml"), &text).unwrap_or_else(|e| panic!("{e:?}"));
            let unit = Arc::new(parsed.unit);
            let facts = SourceFacts { resolved: unit.source.path().to_owned(), ..SourceFacts::default() };
            (
                unit.name.clone(),
                Want { fingerprint: container_fingerprint(&unit, &facts), unit, trial: None, earlier: None },
            )
        };
        Desired { units: texts.iter().map(want).collect(), ..Desired::default() }
    }

    const NOW: BootTime = BootTime(1_000_000_000);

    /// A world in which these run.
    fn running(texts: &[(&str, &str)]) -> (Desired, Observed) {
        let desired = desired(texts);
        let mut stage = Stage {
            observed: Observed::default(),
            now: NOW,
            started: BTreeMap::new(),
            passed: BTreeMap::new(),
            deeds: Vec::new(),
        };
        stage.play(&desired, |_| true);
        (desired, stage.observed)
    }

    fn told(before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<String> {
        let (before, observed) = running(before);
        let rehearsal = rehearse(&before, &desired(after), &observed, NOW);
        let word = |(unit, turn): &(UnitName, Turn)| match turn {
            Turn::Start => format!("start {unit}"),
            Turn::Replace(why) => format!("replace {unit}: {why}"),
            Turn::StartFirst => format!("start {unit} first"),
            Turn::Stop(why) => format!("stop {unit}: {why}"),
            Turn::Update => format!("update {unit}"),
            Turn::Reload => format!("reload {unit}"),
        };
        rehearsal.turns.iter().map(word).collect()
    }

    #[test]
    fn each_unit_has_the_turn_that_its_text_asks_for() {
        let before = [("gone", ""), ("live", ""), ("new-args", ""), ("off", ""), ("same", "")];
        let after = [
            ("added", ""),
            ("live", "[resources]\nmemory = \"64M\"\n"),
            ("new-args", "[process]\ncwd = \"/x\"\n"),
            ("off", "enabled = false"),
            ("same", "description = \"x\""),
        ];
        let expected = [
            "start added",
            "stop gone: its file is gone",
            "update live",
            "replace new-args: its text changed",
            "stop off: not enabled",
        ];
        assert_eq!(told(&before, &after), expected);
        assert_eq!(told(&before, &before), [] as [String; 0]);
    }

    #[test]
    fn those_that_hang_on_it_have_their_turn_in_order() {
        let join = "[network]\nmode = \"unit:net\"\n";
        let restart = "depends_on.net = { on_loss = \"restart\" }";
        let keep = "depends_on.net = \"started\"";
        let before = [("a-join", join), ("b-restart", restart), ("c-keep", keep), ("net", "")];
        let mut after = before;
        after[3].1 = "[process]\ncwd = \"/x\"\n";
        let expected = [
            "replace a-join: it shares the network of net, which stops or changed",
            "replace net: its text changed",
            "replace b-restart: net, which it depends on, is gone or was started anew",
        ];
        assert_eq!(told(&before, &after), expected);
        // One that waited for a unit that comes starts behind it.
        assert_eq!(told(&before[2..3], &before[2..]), ["start net", "start c-keep"]);
    }

    #[test]
    fn what_could_not_start_again_runs_on_and_says_for_what_it_waits() {
        let (before, observed) = running(&[("web", "")]);
        let after = desired(&[("web", "depends_on.db = \"started\"\n[process]\ncwd = \"/x\"\n")]);
        let rehearsal = rehearse(&before, &after, &observed, NOW);
        assert_eq!(rehearsal.turns, []);
        let end = &rehearsal.ends[&name("web")];
        assert_eq!(end.phase, Phase::Running);
        let words = end.reason.words(NOW, &|_| String::new());
        assert_eq!(words, "runs with its old text; the new one waits for db (started; no such unit)");
    }

    #[test]
    fn a_oneshot_completes_and_lets_go_of_what_waits_for_it() {
        let migrate = "type = \"oneshot\"";
        let web = "depends_on.migrate = \"completed\"";
        assert_eq!(told(&[], &[("migrate", migrate), ("web", web)]), ["start migrate", "start web"]);
        // Always again: its backoff is waited for no longer than anything else.
        let again = "type = \"oneshot\"\n[restart]\npolicy = \"always\"\ndelay = \"1ms\"\n";
        assert_eq!(told(&[], &[("migrate", again), ("web", web)])[0], "start migrate");
    }
}

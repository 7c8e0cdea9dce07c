//! Which sockets stay open, and when they are closed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::desired::{Desired, Want};
use super::exit::Exit;
use super::hold::Hold;
use super::observed::HostPid;
use super::time::{BootTime, Now, WallTime};
use super::{Action, Fact, Observed, reconcile};
use crate::unit::{Listen, SourceFacts, UnitName, container_fingerprint, parse};

const NOW: Now = Now { boot: BootTime(1_000_000_000), wall: WallTime(0) };

fn web() -> UnitName {
    UnitName::new("web").unwrap()
}

fn want(text: &str) -> Want {
    let text = format!("executable = \"/bin/web\"\n{text}");
    let unit = Arc::new(parse(&web(), Path::new("/u/web.toml"), &text).unwrap_or_else(|e| panic!("{e:?}")).unit);
    let facts = SourceFacts { resolved: "/bin/web".into(), ..SourceFacts::default() };
    Want { fingerprint: container_fingerprint(&unit, &facts), unit, trial: None, earlier: None }
}

fn sockets(paths: &[&str]) -> BTreeSet<Listen> {
    paths.iter().map(|path| Listen::parse(&format!("unix://{path}")).unwrap()).collect()
}

fn table(path: &str) -> String {
    format!("[[socket]]\nlisten = \"unix://{path}\"\n")
}

/// One unit on a host that does at once what it is asked to.
struct World {
    desired: Desired,
    observed: Observed,
    /// Closed so far.
    closed: Vec<BTreeSet<Listen>>,
}

impl World {
    fn running(text: &str) -> World {
        let mut world = World { desired: Desired::default(), observed: Observed::default(), closed: Vec::new() };
        world.text(Some(text));
        world
    }

    fn text(&mut self, text: Option<&str>) {
        self.desired.units = text.map(|text| (web(), want(text))).into_iter().collect();
        self.play();
    }

    fn fact(&mut self, fact: Fact) {
        self.observed.record(&fact, NOW);
        self.play();
    }

    fn hold(&mut self) {
        let hold = Hold { by: "root".into(), reason: None, since: WallTime(0), until: None };
        self.fact(Fact::ClientStop { unit: web(), hold });
    }

    fn play(&mut self) {
        for _ in 0..100 {
            let actions = reconcile(&self.desired, &self.observed, NOW.boot).actions;
            if actions.is_empty() {
                return;
            }
            for action in actions {
                assert!(self.observed.begin(&action, NOW), "{action}");
                self.answer(action);
            }
        }
        panic!("it does not come to rest");
    }

    fn answer(&mut self, action: Action) {
        let facts = match action {
            Action::Start { id, unit, .. } => {
                let sockets = unit.sockets.iter().map(|socket| socket.listen.clone()).collect();
                vec![Fact::Listening { unit: web(), sockets }, Fact::Started { id, pid: HostPid(1) }]
            }
            Action::Stop { id, .. } => self.end(&id, Exit::Code(0)),
            Action::Clear { id } => vec![Fact::Cleared { id }],
            Action::Close { unit, sockets } => {
                self.closed.push(sockets.clone());
                vec![Fact::Closed { unit, sockets }]
            }
            _ => Vec::new(),
        };
        for fact in facts {
            self.observed.record(&fact, NOW);
        }
    }

    fn end(&self, id: &crate::unit::ContainerId, exit: Exit) -> Vec<Fact> {
        let id = || id.clone();
        vec![
            Fact::Exited { id: id(), exit, oom: false, at: NOW.boot },
            Fact::CgroupEmpty { id: id() },
            Fact::Drained { id: id() },
        ]
    }

    /// Its program ends by itself.
    fn exits(&mut self, exit: Exit) {
        let id = self.observed.unit(&web()).and_then(|seen| seen.live.as_ref()).unwrap().id.clone();
        for fact in self.end(&id, exit) {
            self.observed.record(&fact, NOW);
        }
        self.play();
    }

    fn open(&self) -> BTreeSet<Listen> {
        self.observed.unit(&web()).map(|seen| seen.sockets.keys().cloned().collect()).unwrap_or_default()
    }
}

#[test]
fn they_outlive_restarts_and_go_with_the_unit() {
    let mut world = World::running(&table("/a"));
    assert_eq!(world.open(), sockets(&["/a"]));
    world.exits(Exit::Code(1));
    world.fact(Fact::ClientRestart { unit: web() });
    world.text(Some(&format!("description = \"x\"\n{}", table("/a"))));
    assert_eq!((world.open(), world.closed.len()), (sockets(&["/a"]), 0));
    world.text(None);
    assert_eq!((world.closed.as_slice(), world.observed.unit(&web())), (&[sockets(&["/a"])][..], None));
}

#[test]
fn another_text_has_other_ones_when_the_container_of_the_old_one_is_gone() {
    let mut world = World::running(&format!("{}{}", table("/a"), table("/b")));
    world.text(Some(&format!("{}{}", table("/b"), table("/c"))));
    assert_eq!(world.open(), sockets(&["/b", "/c"]));
    assert_eq!(world.closed, [sockets(&["/a"])]);
    world.text(Some(""));
    assert_eq!((world.open(), world.closed.len()), (sockets(&[]), 2));
}

#[test]
fn what_is_not_to_run_has_none_and_what_waits_has() {
    for (text, exit, stays) in [
        ("", Exit::Code(1), true),
        ("[restart]\ndelay = \"1h\"\nmax_delay = \"1h\"\n", Exit::Code(1), true),
        ("[restart]\npolicy = \"never\"\n", Exit::Code(1), false),
        ("type = \"oneshot\"\n", Exit::Code(0), false),
        ("[restart]\nlimit = { burst = 1, interval = \"1h\" }\n", Exit::Code(1), false),
    ] {
        let mut world = World::running(&format!("{text}{}", table("/a")));
        world.exits(exit);
        world.exits_again(exit);
        assert_eq!(world.open() == sockets(&["/a"]), stays, "{text}");
        assert_eq!(world.closed.is_empty(), stays, "{text}");
    }
    let mut world = World::running(&table("/a"));
    world.hold();
    assert_eq!((world.open(), world.closed.len()), (sockets(&[]), 1));
    world.fact(Fact::ClientStart { unit: web() });
    assert_eq!(world.open(), sockets(&["/a"]));
    world.fact(Fact::Shutdown { by: "SIGTERM".into() });
    assert_eq!((world.open(), world.closed.len()), (sockets(&[]), 2));
}

impl World {
    /// If there is something that can.
    fn exits_again(&mut self, exit: Exit) {
        if self.observed.unit(&web()).is_some_and(|seen| seen.live.is_some()) {
            self.exits(exit);
        }
    }
}

#[test]
fn one_whose_closing_is_not_answered_and_that_is_wanted_again_stays() {
    let mut world = World::running(&table("/a"));
    world.hold();
    // As after a crash between the word that it is to be closed and the deed, with a keeper that has it still.
    let listening = Fact::Listening { unit: web(), sockets: sockets(&["/a"]) };
    world.observed.record(&listening, NOW);
    let actions = reconcile(&world.desired, &world.observed, NOW.boot).actions;
    assert_eq!(actions, [Action::Close { unit: web(), sockets: sockets(&["/a"]) }]);
    assert!(world.observed.begin(&actions[0], NOW) && !world.observed.begin(&actions[0], NOW));
    world.fact(Fact::ClientStart { unit: web() });
    world.fact(Fact::Closed { unit: web(), sockets: sockets(&["/a"]) });
    assert_eq!(world.open(), sockets(&["/a"]), "the start behind it made it anew");
}

#[test]
fn those_of_units_that_nobody_knows_are_closed() {
    let mut world = World { desired: Desired::default(), observed: Observed::default(), closed: Vec::new() };
    world.fact(Fact::Listening { unit: web(), sockets: sockets(&["/a"]) });
    assert_eq!((world.closed.as_slice(), world.observed.units.len()), (&[sockets(&["/a"])][..], 0));
}

#[test]
fn the_ones_of_the_text_that_may_come_back_stay() {
    let mut world = World::running(&table("/a"));
    let earlier = Arc::new(want(&table("/a")));
    let next = Want { earlier: Some(earlier), trial: Some(crate::unit::OnBad::Rollback), ..want(&table("/b")) };
    world.desired.units.insert(web(), next.clone());
    world.play();
    assert_eq!((world.open(), world.closed.len()), (sockets(&["/a", "/b"]), 0));
    world.desired.units.insert(web(), Want { earlier: None, trial: None, ..next });
    world.play();
    assert_eq!((world.open(), world.closed.len()), (sockets(&["/b"]), 1));
}

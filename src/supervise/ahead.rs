//! The program of a unit's next container, compiled after the last one was started: whatever ends is most often started again with the same
//! text, and then this is off its way.
//!
//! - One is kept, of the unit that was started last. It is made while nothing is being set up, and used once.
//! - It is for one generation of one text and source, and for nothing else: compared before it is used, so it need not be thrown away when a text
//!   changes.
//! - None of a unit whose kept layer or whose own ids are known only when it starts.
//! - One that does not compile is forgotten; the start says why.

use std::path::Path;
use std::sync::Arc;

use super::notify;
use super::program::{self, Dirs, Program};
use super::swap::ConfigDir;
use crate::unit::{ContainerId, SourceFacts, Unit};

/// What is made or wanted.
#[derive(Default)]
pub struct Ahead(Option<Next>);

struct Next {
    id: ContainerId,
    unit: Arc<Unit>,
    facts: Arc<SourceFacts>,
    program: Option<Program>,
}

impl Ahead {
    /// This one was started: the next one will be wanted.
    pub fn started(&mut self, id: ContainerId, unit: Arc<Unit>, facts: Arc<SourceFacts>) {
        let is_known = !unit.upper.persist && !unit.has_own_users();
        let id = ContainerId { generation: id.generation.saturating_add(1), ..id };
        self.0 = is_known.then_some(Next { id, unit, facts, program: None });
    }

    /// Compiles it, unless that is done.
    pub fn make(&mut self, containers: &Path) {
        let Some(next) = self.0.as_mut().filter(|next| next.program.is_none()) else { return };
        let tells = next.unit.notify().map(|_| notify::dir(containers, &next.id));
        let dirs = Dirs { notify: tells.as_deref(), ..Dirs::default() };
        let files = ConfigDir::of(containers, &next.id);
        match program::compile(&next.unit, &next.facts, &next.id.to_string(), &files, dirs) {
            Ok(program) => next.program = Some(program),
            Err(_) => self.0 = None,
        }
    }

    /// Gives it to the start that it is for.
    pub fn take(&mut self, id: &ContainerId, unit: &Arc<Unit>, facts: &Arc<SourceFacts>) -> Option<Program> {
        let is_it = |next: &mut Next| next.id == *id && next.unit == *unit && next.facts == *facts;
        self.0.take_if(is_it)?.program
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{UnitName, parse};

    fn unit(args: &str) -> Arc<Unit> {
        let text = format!("[process]\nargs = [\"{args}\"]\nnotify = \"systemd\"\n[security]\nprofile = \"host\"\n");
        Arc::new(parse(&UnitName::new("x").unwrap(), Path::new("/u/x.toml"), &text).unwrap().unit)
    }

    fn id(generation: u64) -> ContainerId {
        ContainerId { unit: UnitName::new("x").unwrap(), generation }
    }

    #[test]
    fn it_is_what_the_start_would_compile_and_is_used_once() {
        let (containers, facts) = (Path::new("/run/c"), Arc::new(super::super::source::of_host()));
        let mut ahead = Ahead::default();
        ahead.make(containers);
        ahead.started(id(1), unit("/bin/x"), Arc::clone(&facts));
        ahead.make(containers);
        let same = unit("/bin/x");
        let made = ahead.take(&id(2), &same, &facts).unwrap();
        let dir = notify::dir(containers, &id(2));
        let dirs = Dirs { notify: Some(&dir), ..Dirs::default() };
        let own = program::compile(&same, &facts, "x.2", &ConfigDir::of(containers, &id(2)), dirs).unwrap();
        assert!(made.script == own.script && made.cgroup == own.cgroup);
        assert!(ahead.take(&id(2), &same, &facts).is_none());
    }

    #[test]
    fn it_is_for_nothing_else() {
        let (containers, facts) = (Path::new("/run/c"), Arc::new(super::super::source::of_host()));
        let mut ahead = Ahead::default();
        ahead.started(id(1), unit("/bin/x"), Arc::clone(&facts));
        assert!(ahead.take(&id(2), &unit("/bin/y"), &facts).is_none(), "another text");
        ahead.make(containers);
        assert!(ahead.take(&id(3), &unit("/bin/x"), &facts).is_none(), "another number");
        assert!(ahead.take(&id(2), &unit("/bin/y"), &facts).is_none(), "another text");
        let other = Arc::new(SourceFacts { config_json: Some(b"{}"[..].into()), ..super::super::source::of_host() });
        assert!(ahead.take(&id(2), &unit("/bin/x"), &other).is_none(), "another source");
        assert!(ahead.take(&id(2), &unit("/bin/x"), &facts).is_some());
    }
}

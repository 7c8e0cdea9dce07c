//! The catalogue: what is next, when it goes in force, and sets.

use super::*;

const NOW: WallTime = WallTime(7);

fn valid(_: &Unit, _: &SourceFacts) -> Result<Vec<String>, Vec<SpecError>> {
    Ok(Vec::new())
}

fn name(unit: &str) -> UnitName {
    UnitName::new(unit).unwrap()
}

/// One directory, `/u`.
struct World(Catalogue);

impl World {
    fn new() -> World {
        World(Catalogue::new(&["/u".into()]))
    }

    fn manual() -> World {
        let mut world = World::new();
        world.0.wait_for_orders();
        world
    }

    /// A text read at `/u/<version>/<unit>.toml`, or in `/u` itself; all run the same file.
    fn read_at(&mut self, unit: &str, version: &str, text: &str) {
        let path = PathBuf::from(format!("/u/{unit}.toml"));
        let resolved = Path::new("/u").join(version).join(format!("{unit}.toml"));
        let text = format!("executable = \"/bin/x\"\n{text}\n");
        self.0.read(&path, name(unit), text, resolved, valid, NOW);
        let facts = SourceFacts { resolved: "/bin/x".into(), ..SourceFacts::default() };
        self.0.looked(&Source::Executable("/bin/x".into()), Ok(Arc::new(facts)), valid, NOW);
    }

    fn read(&mut self, unit: &str, text: &str) {
        self.read_at(unit, "", text);
    }

    fn gone(&mut self, unit: &str) {
        self.0.gone(Path::new(&format!("/u/{unit}.toml")), &name(unit), valid, NOW);
    }

    fn release(&mut self) {
        self.0.release(valid, NOW);
    }

    /// What is in force, as `unit description`.
    fn in_force(&self) -> Vec<String> {
        let line = |unit: &UnitName| {
            let description = self.0.in_force(unit)?.unit.description.clone();
            Some(format!("{unit} {}", description.unwrap_or_default()))
        };
        self.0.names().filter_map(line).collect()
    }

    fn waiting(&self) -> Vec<String> {
        self.0.names().filter(|unit| self.0.next(unit).is_some()).map(ToString::to_string).collect()
    }

    fn apply(&mut self, scope: &Scope) {
        let ready = self.0.ready(scope);
        self.0.put_in_force(ready, valid, NOW);
    }
}

const ONE: &str = "description = \"one\"";
const TWO: &str = "description = \"two\"";
const BAD: &str = "description = 1";

#[test]
fn without_manual_what_is_valid_goes_in_force_by_itself() {
    let mut world = World::new();
    world.read("a", ONE);
    world.read("b", BAD);
    world.release();
    assert_eq!(world.in_force(), ["a one"]);
    world.read("a", TWO);
    world.release();
    assert_eq!(world.in_force(), ["a two"]);
    world.read("a", BAD);
    world.release();
    assert_eq!(world.in_force(), ["a two"]);
    world.gone("a");
    world.release();
    assert_eq!(world.in_force(), [] as [&str; 0]);
    assert!(!world.0.is_known(&name("a")));
}

#[test]
fn under_manual_it_waits_for_an_order() {
    let mut world = World::manual();
    world.read("a", ONE);
    world.read("b", ONE);
    world.release();
    assert_eq!((world.in_force().len(), world.waiting()), (0, vec!["a".into(), "b".into()]));
    world.apply(&Scope::Named([name("a")].into()));
    assert_eq!((world.in_force(), world.waiting()), (vec!["a one".into()], vec!["b".into()]));
    // What means the same takes its place; what is taken back waits no more.
    world.read("a", &format!("{ONE} # a comment"));
    assert!(world.waiting() == ["b"] && world.0.in_force(&name("a")).unwrap().text.contains("comment"));
    world.read("a", TWO);
    assert_eq!(world.waiting(), ["a", "b"]);
    world.read("a", ONE);
    assert_eq!(world.waiting(), ["b"]);
    // A new unit that goes again leaves nothing; one in force waits to be removed, and may come back.
    world.gone("b");
    world.gone("a");
    assert_eq!((world.in_force(), world.waiting()), (vec!["a one".into()], vec!["a".into()]));
    world.read("a", ONE);
    assert_eq!(world.waiting(), [] as [&str; 0]);
    world.gone("a");
    world.apply(&Scope::All);
    assert!(!world.0.is_known(&name("a")));
}

#[test]
fn what_is_found_while_an_order_is_carried_out_is_next_to_that() {
    for (found, waits) in [(Some(ONE), true), (Some(TWO), false), (Some("description = \"three\""), true), (None, true)]
    {
        let mut world = World::manual();
        world.read("a", ONE);
        world.apply(&Scope::All);
        world.read("a", TWO);
        let ready = world.0.ready(&Scope::All);
        match found {
            Some(text) => world.read("a", text),
            None => world.gone("a"),
        }
        world.0.put_in_force(ready, valid, NOW);
        assert_eq!(world.in_force(), ["a two"], "{found:?}");
        assert_eq!(!world.waiting().is_empty(), waits, "{found:?}");
        world.apply(&Scope::All);
        let expected = found.map(|text| text.replace("description = ", "a ").replace('"', ""));
        assert_eq!(world.in_force(), Vec::from_iter(expected));
        assert!(world.waiting().is_empty());
    }
    // The same for a removal whose file came back.
    let mut world = World::manual();
    world.read("a", ONE);
    world.apply(&Scope::All);
    world.gone("a");
    let ready = world.0.ready(&Scope::All);
    world.read("a", ONE);
    world.0.put_in_force(ready, valid, NOW);
    assert_eq!((world.in_force().len(), world.waiting()), (0, vec!["a".into()]));
}

#[test]
fn a_set_comes_whole_or_not_at_all() {
    for mut world in [World::new(), World::manual()] {
        let both = |world: &mut World, version: &str, a: &str, b: &str| {
            world.read_at("a", version, a);
            let half = world.0.ready(&Scope::All).len();
            world.read_at("b", version, b);
            half
        };
        both(&mut world, "..1", ONE, ONE);
        world.apply(&Scope::All);
        assert_eq!(world.in_force(), ["a one", "b one"]);
        assert_eq!(both(&mut world, "..2", TWO, BAD), 0, "half of it was read");
        world.read("other", TWO);
        world.release();
        world.apply(&Scope::All);
        assert_eq!(world.in_force(), ["a one", "b one", "other two"]);
        assert!(world.0.drift(&name("a")).unwrap().contains("b.toml, which is swapped with it, is not valid"));
        // Named or not, one of them brings the others.
        both(&mut world, "..3", TWO, TWO);
        world.apply(&Scope::Named([name("b")].into()));
        assert_eq!(world.in_force(), ["a two", "b two", "other two"]);
        // One that leaves the set leaves the others free.
        world.read_at("a", "..4", ONE);
        assert_eq!(world.0.ready(&Scope::All), []);
        world.gone("b");
        world.apply(&Scope::All);
        assert_eq!(world.in_force(), ["a one", "other two"]);
    }
}

#[test]
fn what_was_left_behind_waits_for_an_order_or_another_text() {
    let mut world = World::new();
    world.0.withhold(true);
    world.read("a", ONE);
    world.read("b", ONE);
    world.0.withhold(false);
    world.0.leave_behind(&Scope::Named([name("a"), name("b")].into()));
    world.release();
    assert_eq!(world.in_force(), [] as [&str; 0]);
    world.read("b", TWO);
    world.release();
    assert_eq!(world.in_force(), ["b two"]);
    world.apply(&Scope::All);
    assert_eq!(world.in_force(), ["a one", "b two"]);
}

#[test]
fn the_hash_of_a_plan_is_of_what_is_next_and_of_what_is_in_force() {
    let mut world = World::manual();
    let empty = world.0.plan_hash();
    world.read("a", ONE);
    let one = world.0.plan_hash();
    assert_ne!(one, empty);
    world.read("a", &format!("# a comment\n{ONE}"));
    assert_eq!(world.0.plan_hash(), one);
    world.read("a", TWO);
    assert_ne!(world.0.plan_hash(), one);
    world.read("a", ONE);
    world.read("b", BAD);
    let bad = world.0.plan_hash();
    assert_ne!(bad, one, "a mistake is part of it");
    world.gone("b");
    assert_eq!(world.0.plan_hash(), one);
    world.apply(&Scope::All);
    assert_eq!(world.0.plan_hash(), empty);
    world.gone("a");
    assert_ne!(world.0.plan_hash(), empty);
}

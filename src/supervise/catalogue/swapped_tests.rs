//! A directory that became another one goes in force as a whole or not at all.

use std::ffi::OsString;

use super::tests::{at, valid};
use super::*;
use crate::plan::BootTime;

const DIR: &str = "/u";

fn name(unit: &str) -> UnitName {
    UnitName::new(unit).unwrap()
}

/// `/u`, and `/v` behind it; all units run the same file.
struct World {
    it: Catalogue,
    now: Now,
}

impl World {
    fn new() -> World {
        let mut it = Catalogue::new(&[DIR.into(), "/v".into()]);
        let facts = SourceFacts { resolved: "/bin/x".into(), ..SourceFacts::default() };
        it.looked(&Source::Executable("/bin/x".into()), Ok(Arc::new(facts)), valid, WallTime(0));
        World { it, now: at(0) }
    }

    /// With these in force from the first directory, inode 1.
    fn with(units: &[&str]) -> World {
        let mut world = World::new();
        world.swap(1, units, &[], |world| units.iter().for_each(|unit| world.read(unit, "one")));
        assert_eq!(world.in_force(), units.iter().map(|unit| format!("{unit} one")).collect::<Vec<_>>());
        world
    }

    /// One batch: a directory that holds these, and what of it is told at once.
    fn swap(&mut self, inode: u64, units: &[&str], drop_ins: &[&str], told: impl FnOnce(&mut World)) -> Option<String> {
        self.it.begin_batch();
        let files: BTreeSet<OsString> = units.iter().map(|unit| format!("{unit}.toml").into()).collect();
        let id = DirectoryId { device: 1, inode, mount: 0 };
        let drop_ins = drop_ins.iter().map(OsString::from).collect();
        let braked = self.it.directory_listed(Path::new(DIR), id, &files, &drop_ins, self.now);
        told(self);
        self.it.end_batch(valid, self.now.wall);
        self.it.release(valid, self.now.wall);
        braked
    }

    fn read_in(&mut self, dir: &str, unit: &str, text: &str) {
        let path = PathBuf::from(format!("{dir}/{unit}.toml"));
        let text = match text {
            "bad" => "executable = 1\n".to_owned(),
            text => format!("executable = \"/bin/x\"\ndescription = \"{text}\"\n"),
        };
        self.it.read(&path, name(unit), text, path.clone(), valid, self.now.wall);
    }

    fn read(&mut self, unit: &str, text: &str) {
        self.read_in(DIR, unit, text);
    }

    fn gone(&mut self, unit: &str) {
        self.it.gone(&Path::new(DIR).join(format!("{unit}.toml")), &name(unit), valid, self.now.wall);
    }

    fn release(&mut self) {
        self.it.look_at_swap();
        self.it.release(valid, self.now.wall);
    }

    fn in_force(&self) -> Vec<String> {
        let line = |unit: &UnitName| {
            let description = self.it.in_force(unit)?.unit.description.clone();
            Some(format!("{unit} {}", description.unwrap_or_default()))
        };
        self.it.names().filter_map(line).collect()
    }

    fn drift(&self, unit: &str) -> String {
        self.it.drift(&name(unit)).unwrap_or_default()
    }

    fn inode(&self, unit: &str) -> u64 {
        self.it.in_force(&name(unit)).unwrap().directory.inode
    }
}

#[test]
fn it_goes_in_force_when_all_of_it_was_read_and_is_valid() {
    let mut world = World::with(&["a", "b", "c"]);
    world.swap(2, &["a", "b", "d"], &[], |world| {
        world.read("a", "two");
        world.read("b", "one");
    });
    assert_eq!(world.in_force(), ["a one", "b one", "c one"], "d and c were not told of");
    assert_eq!(world.drift("a"), "its new text waits: c.toml, which is swapped with it, is not settled");
    assert!(world.it.is_unsettled(&name("a")) && !world.it.is_unsettled(&name("b")));
    world.gone("c");
    world.release();
    assert_eq!(world.drift("c"), "its removal waits: d.toml, which is swapped with it, is not settled");
    world.read("d", "bad");
    world.release();
    assert_eq!(world.in_force(), ["a one", "b one", "c one"]);
    assert_eq!(world.drift("a"), "its new text waits: d.toml, which is swapped with it, is not valid");
    assert_eq!(world.drift("c"), "its removal waits: d.toml, which is swapped with it, is not valid");
    assert_eq!((world.drift("b").as_str(), world.inode("b")), ("", 1), "it means the same");
    assert!(!world.it.is_unsettled(&name("a")) && world.it.needs_no_order(&name("a")) == Some(false));
    // An edit meanwhile belongs to it.
    world.read("b", "two");
    world.release();
    assert_eq!(world.in_force(), ["a one", "b one", "c one"]);
    world.it.take_changes();
    world.read("d", "two");
    assert_eq!(world.in_force(), ["a one", "b one", "c one"], "not one after the other");
    world.release();
    assert_eq!(world.in_force(), ["a two", "b two", "d two"]);
    assert_eq!((world.inode("a"), world.inode("b"), world.inode("d")), (2, 2, 2));
    assert_eq!(world.it.take_changes(), ["a", "b", "c", "d"].map(name).into());
    // And is over: each is by itself again.
    world.read("d", "bad");
    world.read("a", "three");
    world.release();
    assert_eq!(world.in_force(), ["a three", "b two", "d two"]);
}

#[test]
fn the_same_directory_and_the_same_texts_change_nothing() {
    let mut world = World::with(&["a", "b"]);
    world.it.take_changes();
    world.read("b", "bad");
    world.it.take_changes();
    world.swap(1, &["a", "b"], &[], |_| {});
    world.read("a", "two");
    world.release();
    assert_eq!(world.in_force(), ["a two", "b one"], "a rescan begins no set");
    world.it.take_changes();
    world.read("b", "one");
    world.swap(2, &["a", "b"], &[], |world| {
        world.read("a", "two");
        world.read("b", "one");
    });
    let changes = world.it.take_changes();
    assert_eq!((world.in_force(), world.inode("a")), (vec!["a two".into(), "b one".into()], 2));
    assert_eq!(changes, ["a", "b"].map(name).into(), "their directory is stored");
    world.read("b", "bad");
    world.read("a", "three");
    world.release();
    assert_eq!(world.in_force(), ["a three", "b one"], "it is over although nothing differed");
    // Back, while one is not valid: that one holds, until the directory of before is there again.
    world.swap(3, &["a", "b"], &[], |world| {
        world.read("a", "four");
        world.read("b", "bad");
    });
    assert_eq!(world.in_force(), ["a three", "b one"]);
    world.swap(2, &["a", "b"], &[], |world| {
        world.read("a", "three");
        world.read("b", "one");
    });
    assert_eq!((world.in_force(), world.inode("a")), (vec!["a three".into(), "b one".into()], 2));
    world.read("a", "five");
    world.release();
    assert_eq!(world.in_force(), ["a five", "b one"]);
}

#[test]
fn what_goes_again_before_it_was_read_is_not_waited_for() {
    let mut world = World::with(&["a", "b"]);
    world.swap(2, &["a", "b", "new"], &[], |world| {
        world.read("a", "two");
        world.read("b", "two");
    });
    assert_eq!(world.in_force(), ["a one", "b one"]);
    world.gone("new");
    world.release();
    assert_eq!(world.in_force(), ["a two", "b two"]);
    // One that is not valid is removed instead of repaired.
    world.swap(3, &["a", "b", "new"], &[], |world| {
        world.read("a", "three");
        world.read("b", "bad");
        world.read("new", "bad");
    });
    world.gone("new");
    world.release();
    assert_eq!(world.in_force(), ["a two", "b two"]);
    world.gone("b");
    world.release();
    assert_eq!(world.in_force(), ["a three"]);
}

#[test]
fn drop_ins_templates_and_names_that_are_none_are_of_it() {
    let mut world = World::with(&["a", "b"]);
    world.read_in("/v", "far", "one");
    fn template(world: &mut World, list: &str) {
        let text = format!("instances = {list}\nexecutable = \"/bin/x\"\ndescription = \"%i\"\n");
        let path = PathBuf::from("/u/t@.toml");
        world.it.template_read(&path, text, path.clone(), valid, world.now);
    }
    let drop_in = |world: &mut World, path: &str, text: &str| {
        world.it.drop_in_read(Path::new(path), text.to_owned(), path.into(), valid, world.now.wall);
    };
    world.swap(2, &["a", "b", "t@", "bad name"], &["far.toml.d"], |world| {
        world.read("a", "two");
        world.read("b", "two");
        world.it.stray(Path::new("/u/bad name.toml"), Some("no name".to_owned()));
    });
    assert_eq!(world.drift("a"), "its new text waits: far.toml.d, which is swapped with it, is not settled");
    world.it.drop_ins_listed(Path::new("/u/far.toml.d"), &["10.toml".into()], valid, world.now);
    world.release();
    assert_eq!(world.drift("a"), "its new text waits: far.toml.d/10.toml, which is swapped with it, is not settled");
    drop_in(&mut world, "/u/far.toml.d/10.toml", "description = 1\n");
    world.release();
    assert_eq!(world.drift("a"), "its new text waits: t@.toml, which is swapped with it, is not settled");
    template(&mut world, "[1]");
    world.release();
    assert_eq!(world.drift("a"), "its new text waits: t@.toml, which is swapped with it, is not valid");
    template(&mut world, "[\"x\", \"y\", \"z\"]");
    world.release();
    assert_eq!(world.drift("a"), "its new text waits: far.toml, which is swapped with it, is not valid");
    assert_eq!(world.in_force(), ["a one", "b one", "far one"]);
    drop_in(&mut world, "/u/far.toml.d/10.toml", "description = \"two\"\n");
    world.release();
    assert_eq!(world.in_force(), ["a two", "b two", "far two", "t@x x", "t@y y", "t@z z"]);
    // An instance is not listed any more, the drop-in is gone.
    world.swap(3, &["a", "b", "t@"], &[], |world| {
        world.read("a", "three");
        world.read("b", "three");
        template(world, "[\"x\", \"y\"]");
    });
    assert_eq!(world.drift("a"), "its new text waits: far.toml.d, which is swapped with it, is not settled");
    world.it.drop_ins_gone(Path::new("/u/far.toml.d"), valid, world.now.wall);
    world.release();
    assert_eq!(world.drift("a"), "its new text waits: t@z.toml, which is swapped with it, is not settled");
    assert_eq!(world.in_force().len(), 6, "what is not listed goes after a second");
    world.it.expire(valid, Now { boot: BootTime(0).after(Duration::from_secs(2)), ..world.now });
    world.release();
    assert_eq!(world.in_force(), ["a three", "b three", "far one", "t@x x", "t@y y"]);
}

#[test]
fn an_order_takes_all_of_it_or_none() {
    let mut world = World::with(&["a", "b"]);
    world.it.wait_for_orders();
    let named = Scope::Named([name("a")].into());
    world.swap(2, &["a", "b"], &[], |world| {
        world.read("a", "two");
        world.read("b", "bad");
    });
    assert_eq!(world.it.ready(&Scope::All), []);
    world.read("b", "two");
    world.release();
    assert_eq!(world.in_force(), ["a one", "b one"]);
    let ready = world.it.ready(&named);
    world.it.put_in_force(ready, valid, world.now.wall);
    assert_eq!((world.in_force(), world.inode("a")), (vec!["a two".into(), "b two".into()], 2));

    // What was left behind is not split by an edit of one of them.
    let mut world = World::with(&["a", "b"]);
    world.it.withhold(true);
    world.it.begin_batch();
    world.swap(2, &["a", "b"], &[], |world| {
        world.read("a", "two");
        world.read("b", "two");
    });
    world.it.withhold(false);
    world.it.leave_behind(&Scope::All);
    world.release();
    world.read("b", "three");
    world.release();
    assert_eq!(world.in_force(), ["a one", "b one"]);
    assert!(world.drift("b").contains("left it behind"), "{}", world.drift("b"));
    let ready = world.it.ready(&named);
    world.it.put_in_force(ready, valid, world.now.wall);
    assert_eq!(world.in_force(), ["a two", "b three"]);
}

#[test]
fn what_the_brake_holds_is_no_part_of_it() {
    let mut world = World::with(&["a", "b", "c"]);
    let braked = world.swap(2, &["a"], &[], |world| world.read("a", "two"));
    assert_eq!(braked.as_deref(), Some("2 of its units"));
    ["b", "c"].into_iter().for_each(|unit| world.gone(unit));
    world.release();
    assert_eq!(world.in_force(), ["a two", "b one", "c one"]);
    assert_eq!((world.inode("a"), world.inode("b")), (2, 1));
    // A later run finds that most of it is of another directory.
    let goods: Vec<InForce> =
        ["a", "b", "c"].map(|unit| world.it.in_force(&name(unit)).unwrap().as_ref().clone()).into();
    let mut later = World::new();
    goods.into_iter().for_each(|good| later.it.remember(good, Trial::default()));
    let braked = later.swap(2, &["a"], &[], |world| world.read("a", "two"));
    assert_eq!(braked.as_deref(), Some("2 of its units"));
    later.read("a", "three");
    later.release();
    assert_eq!(later.in_force(), ["a three", "b one", "c one"], "and begins no set: what is there is of this one");
}

#[test]
fn a_supervisor_that_is_killed_meanwhile_begins_it_again() {
    let mut world = World::with(&["a", "b", "c"]);
    world.swap(2, &["a", "b", "c"], &[], |world| {
        world.read("a", "two");
        world.read("b", "one");
        world.read("c", "bad");
    });
    let goods: Vec<InForce> =
        ["a", "b", "c"].map(|unit| world.it.in_force(&name(unit)).unwrap().as_ref().clone()).into();
    let mut later = World::new();
    goods.into_iter().for_each(|good| later.it.remember(good, Trial::default()));
    later.swap(2, &["a", "b", "c"], &[], |world| {
        world.read("a", "two");
        world.read("b", "one");
        world.read("c", "bad");
    });
    assert_eq!(later.in_force(), ["a one", "b one", "c one"]);
    later.read("c", "two");
    later.release();
    assert_eq!(later.in_force(), ["a two", "b one", "c two"]);
}

#[test]
fn several_directories_are_one_set_until_they_are_in_force() {
    let mut world = World::with(&["a", "b"]);
    world.read_in("/v", "z", "one");
    world.it.directory_listed(
        Path::new("/v"),
        DirectoryId { device: 1, inode: 8, mount: 0 },
        &["z.toml".into()].into(),
        &BTreeSet::new(),
        world.now,
    );
    world.swap(2, &["a", "b"], &[], |world| {
        world.read("a", "two");
        world.read("b", "bad");
    });
    world.it.begin_batch();
    world.it.directory_listed(
        Path::new("/v"),
        DirectoryId { device: 1, inode: 9, mount: 0 },
        &["z.toml".into(), "a.toml".into()].into(),
        &BTreeSet::new(),
        world.now,
    );
    world.read_in("/v", "z", "two");
    world.read_in("/v", "a", "three");
    world.it.end_batch(valid, world.now.wall);
    world.release();
    assert_eq!(world.in_force(), ["a one", "b one", "z one"]);
    world.read("b", "two");
    world.release();
    assert_eq!(world.in_force(), ["a three", "b two", "z two"]);
}

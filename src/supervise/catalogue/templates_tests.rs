//! What templates that list instances put in force, and what they take from it.

use super::tests::{at, catalogue, valid};
use super::*;
use crate::store::Good;

fn name(text: &str) -> UnitName {
    UnitName::new(text).unwrap()
}

fn text(instances: &str, arg: &str) -> String {
    format!("instances = {instances}\nrootfs = \"/r\"\nprocess.args = [\"/a\", \"{arg}\"]\n")
}

fn template(it: &mut Catalogue, path: &str, text: &str, now: Now) {
    it.template_read(Path::new(path), text.to_owned(), path.into(), valid, now);
}

fn own(it: &mut Catalogue, path: &str, unit: &str, arg: &str) {
    let text = format!("rootfs = \"/r\"\nprocess.args = [\"/a\", \"{arg}\"]\n");
    it.read(Path::new(path), name(unit), text, path.into(), valid, WallTime(0));
}

/// Each unit in force, its file and its last argument.
fn force(it: &Catalogue) -> Vec<String> {
    let goods = it.names().filter_map(|name| it.in_force(name));
    let shown = goods.map(|good| {
        let args = good.unit.process.args.clone().unwrap_or_default();
        format!("{} {} {}", good.unit.name, good.file.display(), args.last().cloned().unwrap_or_default())
    });
    shown.collect()
}

fn listed(dir: &str, id: u64, files: &[&str], it: &mut Catalogue) -> Option<String> {
    let files = files.iter().map(OsString::from).collect();
    let id = DirectoryId { device: 1, inode: id, mount: 0 };
    it.directory_listed(Path::new(dir), id, &files, &BTreeSet::new(), at(0))
}

use std::ffi::OsString;

#[test]
fn a_template_declares_what_it_lists_and_a_file_of_its_own_comes_before() {
    let mut it = catalogue();
    template(&mut it, "/v/worker@.toml", &text("[\"a\", \"b\"]", "%i"), at(0));
    assert_eq!(force(&it), ["worker@a /v/worker@.toml a", "worker@b /v/worker@.toml b"]);
    own(&mut it, "/u/worker@a.toml", "worker@a", "own");
    assert_eq!(force(&it)[0], "worker@a /u/worker@a.toml own", "also one of an earlier directory");
    it.mask(Path::new("/v/worker@b.toml"), name("worker@b"), valid, WallTime(0));
    assert_eq!(force(&it), ["worker@a /u/worker@a.toml own"]);
    assert_eq!(it.drift(&name("worker@b")).as_deref(), Some("masked by /v/worker@b.toml"));
    it.gone(Path::new("/u/worker@a.toml"), &name("worker@a"), valid, WallTime(0));
    it.gone(Path::new("/v/worker@b.toml"), &name("worker@b"), valid, WallTime(0));
    assert_eq!(force(&it), ["worker@a /v/worker@.toml a", "worker@b /v/worker@.toml b"]);
    assert_eq!(it.listed_by(&name("worker@a")), Some(Path::new("/v/worker@.toml")));
}

#[test]
fn what_is_not_listed_any_more_goes_after_a_second_and_nobody_else_notices() {
    let mut it = catalogue();
    template(&mut it, "/u/worker@.toml", &text("[\"a\", \"b\"]", "1"), at(0));
    let before = it.in_force(&name("worker@a")).unwrap().fingerprint;
    it.take_changes();
    template(&mut it, "/u/worker@.toml", &text("[\"a\", \"c\"]", "1"), at(100));
    assert_eq!(it.in_force(&name("worker@a")).unwrap().fingerprint, before);
    assert_eq!((force(&it).len(), it.is_unsettled(&name("worker@b"))), (3, true));
    let words = "/u/worker@.toml does not list it any more, which counts when it stays so for a second";
    assert_eq!(it.drift(&name("worker@b")).as_deref(), Some(words));
    assert_eq!(it.expire(valid, at(1099)), Some(at(1100).boot));
    assert_eq!(it.expire(valid, at(1100)), None);
    assert_eq!(force(&it), ["worker@a /u/worker@.toml 1", "worker@c /u/worker@.toml 1"]);
    assert_eq!(it.take_unlisted(&name("worker@b")).as_deref(), Some(Path::new("/u/worker@.toml")));

    // It was listed again in time.
    template(&mut it, "/u/worker@.toml", &text("[]", "1"), at(2000));
    template(&mut it, "/u/worker@.toml", &text("[\"a\", \"c\"]", "1"), at(2500));
    assert_eq!((it.expire(valid, at(5000)), force(&it).len()), (None, 2));
    // The template went, which settled before it was said.
    it.template_gone(Path::new("/u/worker@.toml"), valid, at(6000));
    assert_eq!((force(&it).len(), it.names().count()), (0, 0));
}

#[test]
fn a_broken_template_keeps_what_it_listed_and_says_so() {
    let mut it = catalogue();
    template(&mut it, "/u/worker@.toml", &text("[\"a\", \"b\"]", "1"), at(0));
    let broken = format!("{}cwd = 3\n", text("[\"c\"]", "2"));
    for again in 0..2 {
        template(&mut it, "/u/worker@.toml", &broken, at(100 + again));
        assert_eq!(force(&it), ["worker@a /u/worker@.toml 1", "worker@b /u/worker@.toml 1"]);
        assert!(
            it.errors(&name("worker@a"))[0].starts_with("/u/worker@.toml:4:"),
            "{:?}",
            it.errors(&name("worker@a"))
        );
        assert!(it.notes()[0].ends_with("; it lists what it listed before"), "{:?}", it.notes());
        assert_eq!(it.errors_of(it.names()).len(), 1, "one line for all");
    }
    it.template_refused(Path::new("/u/worker@.toml"), Some("owned by deploy".to_owned()), valid, at(200));
    assert_eq!((force(&it).len(), it.errors(&name("worker@b"))), (2, &["owned by deploy".to_owned()][..]));
    template(&mut it, "/u/worker@.toml", &text("[\"b\", \"c\"]", "2"), at(300));
    it.expire(valid, at(2000));
    assert_eq!(force(&it), ["worker@b /u/worker@.toml 2", "worker@c /u/worker@.toml 2"]);
    assert_eq!(it.notes(), [] as [String; 0]);
    // A new one that is broken declares nothing, and is not silent.
    template(&mut it, "/u/new@.toml", "instances = [\"a\", \"a\"]\n", at(2000));
    assert_eq!((it.names().count(), it.errors_of(it.names()).len()), (2, 1));
    assert_eq!(it.errors_of(&[name("worker@b")]), [] as [String; 0], "it is none of theirs");
}

#[test]
fn the_last_directory_of_a_template_counts_and_may_mask_all_of_it() {
    let mut it = catalogue();
    template(&mut it, "/u/worker@.toml", &text("[\"a\", \"b\"]", "u"), at(0));
    template(&mut it, "/v/worker@.toml", &text("[\"b\"]", "v"), at(0));
    it.expire(valid, at(1000));
    assert_eq!(force(&it), ["worker@b /v/worker@.toml v"]);
    it.template_gone(Path::new("/v/worker@.toml"), valid, at(1000));
    assert_eq!(force(&it), ["worker@a /u/worker@.toml u", "worker@b /u/worker@.toml u"]);
    it.template_refused(Path::new("/v/worker@.toml"), None, valid, at(2000));
    assert_eq!(force(&it), [] as [String; 0]);
    assert_eq!(it.mask_of(&name("worker@a")), Some(Path::new("/v/worker@.toml")));
}

#[test]
fn an_earlier_runs_instances_stay_while_the_template_is_broken() {
    let mut before = catalogue();
    template(&mut before, "/u/worker@.toml", &text("[\"a\", \"b\"]", "1"), at(0));
    let remembered = |it: &mut Catalogue| {
        for unit in ["worker@a", "worker@b"] {
            let good = before.in_force(&name(unit)).unwrap();
            let stored = Good {
                text: good.text.to_string(),
                layers: good.layers.clone(),
                variables: None,
                configs: Vec::new(),
                config: None,
                path: good.file.clone(),
                resolved: good.resolved.clone(),
                source: "/r".into(),
                roots: Vec::new(),
                directory: (1, 7),
                since_ms: 7,
                earlier: None,
                bad: None,
            };
            let (good, trial) = recall(&name(unit), stored, valid).unwrap();
            it.remember(good, trial);
        }
    };
    let mut it = catalogue();
    remembered(&mut it);
    assert_eq!(listed("/u", 7, &["worker@.toml"], &mut it), None);
    template(&mut it, "/u/worker@.toml", "instances = [\n", at(0));
    assert_eq!((it.expire(valid, at(9000)), force(&it).len()), (None, 2));
    assert_eq!(it.errors(&name("worker@a")).len(), 1);
    template(&mut it, "/u/worker@.toml", &text("[\"b\"]", "1"), at(9000));
    it.expire(valid, at(10_000));
    assert_eq!(force(&it), ["worker@b /u/worker@.toml 1"]);

    // Not listed any more while nobody looked, and no template at all.
    for (files, left) in [(&["worker@.toml"][..], 1), (&[], 0)] {
        let mut it = catalogue();
        remembered(&mut it);
        assert_eq!(listed("/u", 7, files, &mut it), None);
        if !files.is_empty() {
            template(&mut it, "/u/worker@.toml", &text("[\"a\"]", "1"), at(0));
        }
        assert_eq!(force(&it).len(), 2, "it may come back");
        it.expire(valid, at(1000));
        assert_eq!(force(&it).len(), left);
    }
}

#[test]
fn the_brake_holds_what_goes_with_a_directory_that_became_another_one() {
    let begin = || {
        let mut it = catalogue();
        listed("/u", 7, &["worker@.toml"], &mut it);
        template(&mut it, "/u/worker@.toml", &text("[\"a\", \"b\", \"c\"]", "1"), at(0));
        it
    };
    // Without the template.
    let mut it = begin();
    assert_eq!(listed("/u", 8, &[], &mut it).as_deref(), Some("3 of its units"));
    it.template_gone(Path::new("/u/worker@.toml"), valid, at(1000));
    it.expire(valid, at(9000));
    assert_eq!(force(&it).len(), 3);
    assert!(it.drift(&name("worker@a")).unwrap().contains("--confirm-removals"), "{:?}", it.drift(&name("worker@a")));
    template(&mut it, "/u/worker@.toml", &text("[\"a\", \"b\"]", "1"), at(9000));
    assert_eq!((it.drift(&name("worker@a")), force(&it).len()), (None, 3));
    assert_eq!(it.confirm_removals(&[], valid, WallTime(0)).len(), 1);
    it.release(valid, WallTime(0));
    assert_eq!(force(&it).len(), 2);

    // With one that lists few of them.
    let mut it = begin();
    assert_eq!(listed("/u", 8, &["worker@.toml"], &mut it), None);
    template(&mut it, "/u/worker@.toml", &text("[\"a\"]", "1"), at(0));
    it.expire(valid, at(9000));
    it.release(valid, WallTime(0));
    assert_eq!(force(&it).len(), 3);
    // In the same directory the list means what it says.
    template(&mut it, "/u/worker@.toml", &text("[\"a\", \"b\", \"c\"]", "1"), at(9000));
    template(&mut it, "/u/worker@.toml", &text("[\"a\"]", "1"), at(9000));
    it.expire(valid, at(10_000));
    assert_eq!(force(&it).len(), 1);
}

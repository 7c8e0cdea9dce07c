//! Sets of last good texts, and crashes while they are written.

use super::*;

/// Removed at the end.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let path = std::env::temp_dir().join(format!("moored-disk-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Temp(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn unit(name: &str) -> UnitName {
    UnitName::new(name).unwrap()
}

fn good(text: &str) -> Good {
    let path = PathBuf::from("/etc/moored/units/web.toml");
    let (resolved, source, directory) = (path.clone(), "/srv/web".into(), (1, 2));
    Good {
        text: text.to_owned(),
        layers: Vec::new(),
        variables: None,
        configs: Vec::new(),
        config: None,
        path,
        resolved,
        source,
        roots: Vec::new(),
        directory,
        since_ms: 7,
        earlier: None,
        bad: None,
    }
}

/// What the next run finds, as `unit text`.
fn found(root: &Path) -> Vec<String> {
    let (_, loaded) = Disk::open(root);
    assert_eq!(loaded.notes, []);
    loaded.good.iter().map(|(unit, good)| format!("{unit} {}", good.text)).collect()
}

fn set() -> GoodSet {
    GoodSet::from([(unit("a"), Some(good("two"))), (unit("b"), None), (unit("d"), Some(good("two")))])
}

/// A disk with a, b and c.
fn disk(root: &Path) -> Disk {
    let (mut disk, _) = Disk::open(root);
    for name in ["a", "b", "c"] {
        disk.apply(&Work::Keep(unit(name), Box::new(good("one")))).unwrap();
    }
    disk
}

#[test]
fn a_set_is_there_whole_or_not_at_all_wherever_a_crash_comes() {
    const AFTER: [&str; 3] = ["a two", "c one", "d two"];
    let temp = Temp::new("set");
    let mut disk = disk(&temp.0);
    // Before its rename: contents that nobody names.
    disk.write_contents(&good("two")).unwrap();
    assert_eq!(found(&temp.0), ["a one", "b one", "c one"]);
    // After it, and after each step of taking it apart; the last one found it whole and took it apart.
    for steps in 0..3 {
        let (mut disk, _) = Disk::open(&temp.0);
        for name in ["a", "b", "c"] {
            disk.apply(&Work::Keep(unit(name), Box::new(good("one")))).unwrap();
        }
        disk.apply(&Work::Set(set())).unwrap();
        for (unit, index) in disk.set.clone().into_iter().take(steps) {
            match index {
                Some(index) => disk.put_index(&unit, index).unwrap(),
                None => disk.forget(&unit).unwrap(),
            }
        }
        drop(disk);
        assert_eq!(found(&temp.0), AFTER, "after {steps} steps");
        assert!(!temp.0.join(SET).exists(), "it was taken apart");
        assert_eq!(found(&temp.0), AFTER);
        let (mut disk, _) = Disk::open(&temp.0);
        disk.apply(&Work::Forget(unit("d"))).unwrap();
    }
}

#[test]
fn what_is_kept_after_a_set_is_newer_than_it() {
    let temp = Temp::new("newer");
    let mut disk = disk(&temp.0);
    disk.apply(&Work::Set(set())).unwrap();
    disk.apply(&Work::Keep(unit("a"), Box::new(good("three")))).unwrap();
    drop(disk);
    assert_eq!(found(&temp.0), ["a three", "c one", "d two"]);
}

#[test]
fn a_torn_set_and_a_withdrawn_one_change_nothing() {
    let temp = Temp::new("torn");
    let mut disk = disk(&temp.0);
    disk.apply(&Work::Set(set())).unwrap();
    let bytes = std::fs::read(temp.0.join(SET)).unwrap();
    std::fs::write(temp.0.join(SET), &bytes[..bytes.len() - 1]).unwrap();
    drop(disk);
    let (mut disk, loaded) = Disk::open(&temp.0);
    let texts: Vec<&str> = loaded.good.iter().map(|(_, good)| good.text.as_str()).collect();
    assert_eq!((texts.as_slice(), loaded.notes.len()), (["one"; 3].as_slice(), 1));
    disk.apply(&Work::Set(GoodSet::new())).unwrap();
    drop(disk);
    assert_eq!(found(&temp.0), ["a one", "b one", "c one"]);
}

#[test]
fn a_set_that_is_too_large_leaves_nothing_behind() {
    let temp = Temp::new("large");
    let mut disk = disk(&temp.0);
    let huge: GoodSet = (0..20_000).map(|n| (unit(&format!("u{n}")), Some(good("two")))).collect();
    assert!(matches!(disk.apply(&Work::Set(huge)), Err(StoreError::TooBig { .. })));
    assert_eq!(std::fs::read_dir(temp.0.join("good")).unwrap().count(), 1, "no content was written");
    drop(disk);
    assert_eq!(found(&temp.0), ["a one", "b one", "c one"]);
}

#[test]
fn a_set_brings_the_texts_to_go_back_to() {
    let temp = Temp::new("earlier");
    let mut disk = disk(&temp.0);
    let new = Good { earlier: Some(Box::new(good("one"))), ..good("two") };
    disk.apply(&Work::Set(GoodSet::from([(unit("a"), Some(new.clone()))]))).unwrap();
    // Killed before it was taken apart; then it is in the unit's own file.
    drop(disk);
    for _ in 0..2 {
        let (_, loaded) = Disk::open(&temp.0);
        assert_eq!(loaded.notes, []);
        assert_eq!(loaded.good[0], (unit("a"), new.clone()));
    }
}

#[test]
fn a_text_to_go_back_to_keeps_its_files_until_it_is_left() {
    let temp = Temp::new("earlier-files");
    let contents = || std::fs::read_dir(temp.0.join("good")).unwrap().count();
    let with = |text: &str, config: &[u8], shared: &[u8], variable: &str| Good {
        variables: Some(BTreeMap::from([("V".to_owned(), variable.to_owned())])),
        configs: vec![("/a".to_owned(), config.to_vec()), ("/b".to_owned(), shared.to_vec())],
        ..good(text)
    };
    let earlier = with("one", b"1", b"same", "x");
    let new = Good { earlier: Some(Box::new(earlier.clone())), ..with("two", b"2", b"same", "y") };
    let (mut disk, _) = Disk::open(&temp.0);
    disk.apply(&Work::Keep(unit("web"), Box::new(earlier.clone()))).unwrap();
    disk.apply(&Work::Keep(unit("web"), Box::new(new.clone()))).unwrap();
    assert_eq!(contents(), 7, "two texts, two variables, two of /a and the one of /b that both have");
    let (mut disk, loaded) = Disk::open(&temp.0);
    assert_eq!((loaded.notes, loaded.good), (vec![], vec![(unit("web"), new.clone())]));

    // It did well: only what it has itself stays. Or it is gone back to, and what is left goes.
    let proven = Good { earlier: None, ..new.clone() };
    disk.apply(&Work::Keep(unit("web"), Box::new(proven.clone()))).unwrap();
    assert_eq!(contents(), 4);
    let (mut disk, loaded) = Disk::open(&temp.0);
    assert_eq!((loaded.notes, loaded.good), (vec![], vec![(unit("web"), proven)]));
    disk.apply(&Work::Keep(unit("web"), Box::new(new.clone()))).unwrap();
    disk.apply(&Work::Keep(unit("web"), Box::new(earlier.clone()))).unwrap();
    assert_eq!(contents(), 4);
    let (mut disk, loaded) = Disk::open(&temp.0);
    assert_eq!((loaded.notes, loaded.good), (vec![], vec![(unit("web"), earlier)]));

    // A file of the earlier one that is damaged costs the way back, not the text in force.
    disk.apply(&Work::Keep(unit("web"), Box::new(new.clone()))).unwrap();
    drop(disk);
    std::fs::write(temp.0.join("good").join(content_name(b"1")), b"").unwrap();
    let (_, loaded) = Disk::open(&temp.0);
    assert!(!loaded.notes.is_empty());
    assert_eq!(loaded.good, [(unit("web"), Good { earlier: None, ..new })]);
}

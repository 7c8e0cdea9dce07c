//! What becomes of a directory: moved, replaced, removed, mounted over.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::super::*;
use super::fixture::*;

#[test]
fn a_directory_that_moves_away_takes_nothing_with_it() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("a.toml", "a");
        it.put("b.toml", "b");
        it.expect_text("b.toml", "b");
        it.within(50);
        let away = it.base.join("away");
        fs::rename(&it.units, &away).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        fs::rename(&away, &it.units).unwrap();
        it.expect_silence(1200);
        fs::rename(&it.units, &away).unwrap();
        it.expect("missing", |event| matches!(event, Event::Directory { state: DirectoryState::Missing, .. }));
        fs::remove_file(away.join("a.toml")).unwrap();
        it.expect_silence(1200);
        fs::rename(&away, &it.units).unwrap();
        let (_, event) = it.expect("back", |event| matches!(event, Event::Directory { .. }));
        assert_eq!(names(&event), ["b.toml"]);
        it.expect_gone("a.toml");
        it.put("b.toml", "still watched");
        it.expect_text("b.toml", "still watched");
        it.expect_silence(50);
    });
}

#[test]
fn another_directory_at_the_path_is_told_before_what_is_gone_with_the_first() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        for name in ["a.toml", "b.toml"] {
            it.put(name, "1");
            it.expect_text(name, "1");
        }
        let other = it.base.join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("b.toml"), "1").unwrap();
        fs::write(other.join("c.toml"), "1").unwrap();
        fs::rename(&it.units, it.base.join("old")).unwrap();
        fs::rename(&other, &it.units).unwrap();
        let seen = it.within(1300);
        assert_eq!(names(&seen[0]), ["b.toml", "c.toml"]);
        let mut texts: Vec<_> = seen[1..3].iter().filter_map(text_of).collect();
        texts.sort();
        assert_eq!(texts, [("b.toml", "1"), ("c.toml", "1")], "each name of it, the same or not");
        assert!(matches!(&seen[3], Event::Gone { name, .. } if name == "a.toml"));
        assert_eq!(seen.len(), 4, "{seen:?}");
        it.put("b.toml", "2");
        it.expect_text("b.toml", "2");
    });
}

#[test]
fn a_directory_removed_with_everything_in_it_is_missing_not_empty() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("a.toml", "a");
        it.expect_text("a.toml", "a");
        fs::remove_dir_all(&it.units).unwrap();
        let seen = it.within(2300);
        assert!(matches!(&seen[..], [Event::Directory { state: DirectoryState::Missing, .. }]), "{seen:?}");
        fs::create_dir(&it.units).unwrap();
        it.put("b.toml", "b");
        it.expect_text("b.toml", "b");
        it.expect_gone("a.toml");
    });
}

#[test]
fn a_directory_that_does_not_exist_yet_is_waited_for() {
    on_each(|on| {
        let base = Fixture::base(on);
        let units = base.join("not/yet/units");
        let mut it = Fixture::at(base, units.clone());
        it.expect("missing", |event| matches!(event, Event::Directory { state: DirectoryState::Missing, .. }));
        std::thread::sleep(Duration::from_millis(50));
        fs::create_dir_all(&units).unwrap();
        it.put("a.toml", "a");
        it.expect("there", |event| matches!(event, Event::Directory { state: DirectoryState::Present { .. }, .. }));
        it.expect_text("a.toml", "a");
    });
}

#[test]
fn a_directory_behind_a_link_follows_the_link() {
    on_each(|on| {
        let base = Fixture::base(on);
        for version in ["1", "2"] {
            fs::create_dir(base.join(version)).unwrap();
            fs::write(base.join(version).join("a.toml"), version).unwrap();
        }
        symlink("1", base.join("units")).unwrap();
        let units = base.join("units");
        let mut it = Fixture::at(base, units);
        it.expect_text("a.toml", "1");
        symlink("2", it.base.join("next")).unwrap();
        fs::rename(it.base.join("next"), &it.units).unwrap();
        it.expect("other", |event| matches!(event, Event::Directory { .. }));
        it.expect_text("a.toml", "2");
        fs::write(it.base.join("2/a.toml"), "3").unwrap();
        it.expect_text("a.toml", "3");
    });
}

#[test]
fn mounting_over_and_unmounting_are_other_directories() {
    if !is_root() {
        return;
    }
    // A mount namespace of its own for this thread and those that it starts.
    let test = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let mut it = Fixture::new("/tmp");
        it.put("a.toml", "a");
        it.expect_text("a.toml", "a");
        it.within(50);
        mount(Some("none"), &it.units, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        let (_, event) = it.expect("mounted over", |event| matches!(event, Event::Directory { .. }));
        assert_eq!(names(&event), Vec::<&str>::new());
        it.put("b.toml", "b");
        it.expect_text("b.toml", "b");
        it.expect_gone("a.toml");
        umount2(&it.units, MntFlags::MNT_DETACH).unwrap();
        let (_, event) = it.expect("unmounted", |event| matches!(event, Event::Directory { .. }));
        assert_eq!(names(&event), ["a.toml"]);
        it.expect_text("a.toml", "a");
        it.expect_gone("b.toml");
        it.put("a.toml", "still watched");
        it.expect_text("a.toml", "still watched");
        // A mount elsewhere is nothing to us.
        let elsewhere = it.base.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        mount(Some("none"), &elsewhere, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        umount2(&elsewhere, MntFlags::empty()).unwrap();
        it.expect_silence(100);
    });
    test.join().unwrap();
}

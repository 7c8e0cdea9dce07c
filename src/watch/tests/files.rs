//! What becomes of a file: written, renamed, linked, removed, refused.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::{Duration, Instant};

use super::super::*;
use super::fixture::*;

#[test]
fn a_new_file_is_posted_within_the_quiet_time_and_5_ms() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        let mut late: Vec<Duration> = Vec::new();
        for round in 0..40 {
            let name = format!("u{round}.toml");
            // Before the write: behind it this thread may have waited for a processor.
            let begun = Instant::now();
            it.put(&name, "a = 1");
            let (at, _) = it.expect_text(&name, "a = 1");
            let took = at - begun;
            assert!(took >= Duration::from_millis(19), "not quiet: {took:?}");
            late.push(took.saturating_sub(settle::QUIET));
        }
        late.sort();
        println!("beyond the quiet time: p50 {:?}, max {:?}", late[20], late[39]);
        // The others may have waited for a processor.
        assert!(late[0] < Duration::from_millis(5), "{late:?}");
    });
}

#[test]
fn what_is_there_at_the_start_is_posted_after_its_directory() {
    on_each(|on| {
        let base = Fixture::base(on);
        let units = base.join("units");
        fs::create_dir(&units).unwrap();
        fs::write(units.join("a.toml"), "a").unwrap();
        fs::write(units.join(".hidden.toml"), "x").unwrap();
        fs::write(units.join("b.toml~"), "x").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let mut it = Fixture::at(base, units);
        let (events, held) = it.sync();
        assert_eq!(names(&events[0]), ["a.toml"]);
        assert_eq!(text_of(&events[1]), Some(("a.toml", "a")));
        assert_eq!((events.len(), held.len()), (2, 0));
    });
}

#[test]
fn a_sync_of_one_file_reads_that_one() {
    on_each(|on| {
        let base = Fixture::base(on);
        let units = base.join("units");
        fs::create_dir(&units).unwrap();
        let mut it = Fixture::at(base, units.clone());
        it.sync();
        fs::write(units.join("a.toml"), "a").unwrap();
        let (events, _) = it.sync_files(&["a.toml", "never.toml"]);
        assert!(events.iter().any(|event| text_of(event) == Some(("a.toml", "a"))), "{events:?}");
        fs::write(units.join("a.toml"), "other").unwrap();
        let (events, _) = it.sync_files(&["a.toml"]);
        assert!(events.iter().any(|event| text_of(event) == Some(("a.toml", "other"))), "{events:?}");
        fs::remove_file(units.join("a.toml")).unwrap();
        let (events, _) = it.sync_files(&["a.toml"]);
        assert!(events.iter().any(|event| matches!(event, Event::Gone { name, .. } if name == "a.toml")), "{events:?}");
        assert_eq!(it.sync(), (vec![], vec![]));
    });
}

#[test]
fn a_slow_writer_is_waited_for_and_half_a_text_is_never_posted() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("a.toml", "old");
        it.expect_text("a.toml", "old");
        let mut writer = fs::File::create(it.file("a.toml")).unwrap();
        for part in ["one\n", "two\n", "three\n"] {
            writer.write_all(part.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(300));
        }
        let seen = it.within(0);
        let me = Some(std::process::id());
        assert!(matches!(&seen[..], [Event::Busy { writer, .. }] if *writer == me), "{seen:?}");
        let (events, held) = it.sync();
        assert_eq!((events, held), (vec![], vec![it.file("a.toml")]));
        let closing = Instant::now();
        drop(writer);
        let (at, _) = it.expect_text("a.toml", "one\ntwo\nthree\n");
        println!("after the close: {:?}", at - closing);
        assert!(at - closing < Duration::from_millis(100), "by the event, not by the backoff");
    });
}

#[test]
fn renaming_over_posts_the_new_text_only() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("a.toml", "old");
        it.expect_text("a.toml", "old");
        it.put("a.toml.new", "new");
        fs::rename(it.file("a.toml.new"), it.file("a.toml")).unwrap();
        it.expect_text("a.toml", "new");
        it.expect_silence(1200);
    });
}

#[test]
fn an_editor_that_renames_aside_and_a_checkout_remove_nothing() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("a.toml", "old");
        it.put("b.toml", "old");
        it.expect_text("b.toml", "old");
        it.within(50);
        // vim with backupcopy=no: aside, a new file, the old one removed.
        fs::rename(it.file("a.toml"), it.file("a.toml~")).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        it.put("a.toml", "new");
        fs::remove_file(it.file("a.toml~")).unwrap();
        // git checkout: unlinked, then made anew.
        fs::remove_file(it.file("b.toml")).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        it.put("b.toml", "old");
        it.expect_text("a.toml", "new");
        it.expect_silence(1300);
    });
}

#[test]
fn a_removed_file_is_gone_after_a_second_and_again_new_after_that() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("a.toml", "a");
        it.expect_text("a.toml", "a");
        let removed = Instant::now();
        fs::remove_file(it.file("a.toml")).unwrap();
        let took = it.expect_gone("a.toml") - removed;
        assert!((1000..1200).contains(&took.as_millis()), "{took:?}");
        it.put("a.toml", "a");
        it.expect_text("a.toml", "a");
        fs::remove_file(it.file("a.toml")).unwrap();
        let (events, _) = it.sync();
        assert!(matches!(&events[..], [Event::Gone { .. }]), "a sync does not wait for the second: {events:?}");
    });
}

#[test]
fn touching_and_chmod_post_nothing() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("a.toml", "a");
        it.expect_text("a.toml", "a");
        it.put("a.toml", "a");
        fs::set_permissions(it.file("a.toml"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::File::open(it.file("a.toml")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        it.expect_silence(200);
        assert_eq!(it.sync(), (vec![], vec![]));
    });
}

#[test]
fn a_swapped_data_link_posts_all_of_its_files_in_one_batch() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(it.file(version)).unwrap();
            fs::write(it.file(version).join("a.toml"), text).unwrap();
            fs::write(it.file(version).join("b.toml"), text).unwrap();
        }
        symlink("..1", it.file("..data")).unwrap();
        symlink("..data/a.toml", it.file("a.toml")).unwrap();
        symlink("..data/b.toml", it.file("b.toml")).unwrap();
        it.expect_text("b.toml", "one");
        it.within(50);
        symlink("..2", it.file("..tmp")).unwrap();
        fs::rename(it.file("..tmp"), it.file("..data")).unwrap();
        fs::remove_dir_all(it.file("..1")).unwrap();
        let (a, first) = it.expect_text("a.toml", "two");
        let (b, _) = it.expect_text("b.toml", "two");
        assert_eq!(a, b, "one batch");
        assert!(matches!(first, Event::Text { resolved, .. } if resolved == it.file("..2/a.toml")));
        fs::write(it.file("..2/a.toml"), "edited behind the link").unwrap();
        it.expect_text("a.toml", "edited behind the link");
        it.expect_silence(1200);
    });
}

#[test]
fn a_repointed_link_is_posted_even_when_the_text_is_the_same() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        for version in ["1", "2"] {
            fs::create_dir_all(it.base.join("releases").join(version)).unwrap();
            fs::write(it.base.join("releases").join(version).join("web.toml"), "same").unwrap();
        }
        symlink("releases/1", it.base.join("current")).unwrap();
        symlink("../current/web.toml", it.file("web.toml")).unwrap();
        it.expect_text("web.toml", "same");
        symlink("releases/2", it.base.join("next")).unwrap();
        fs::rename(it.base.join("next"), it.base.join("current")).unwrap();
        let (_, event) = it.expect_text("web.toml", "same");
        let want = it.base.join("releases/2/web.toml");
        assert!(matches!(event, Event::Text { resolved, .. } if resolved == want));
        it.expect_silence(100);
    });
}

#[test]
fn what_is_no_text_is_refused_with_its_cure() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        let mode = rustix::fs::Mode::from(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, it.file("fifo.toml"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        it.expect_refused("fifo.toml", "is a FIFO, expected a regular file");
        fs::create_dir(it.file("dir.toml")).unwrap();
        it.expect_refused("dir.toml", "is a directory, expected a regular file");
        symlink("nowhere", it.file("link.toml")).unwrap();
        it.expect_refused("link.toml", "nowhere, which does not exist");
        it.put("nowhere", "now here");
        it.expect_text("link.toml", "now here");
        symlink("/dev/zero", it.file("device.toml")).unwrap();
        it.expect_refused("device.toml", "device.toml: is a device, expected a regular file");
        symlink("/dev/null", it.file("mask.toml")).unwrap();
        it.expect_refused("mask.toml", "mask.toml: a link to /dev/null, which masks the unit");
        symlink("/proc/self/exe", it.file("magic.toml")).unwrap();
        it.expect_refused("magic.toml", "a link into a process");
        symlink("round.toml", it.file("round.toml")).unwrap();
        it.expect_refused("round.toml", "circle");
        fs::write(it.file("big.toml"), vec![b'#'; 10 << 20]).unwrap();
        it.expect_refused("big.toml", "10485760 bytes, expected at most 1048576");
        fs::write(it.file("latin.toml"), b"# good\n# f\xfcr\n").unwrap();
        it.expect_refused("latin.toml", "latin.toml:2:4: a byte that is not UTF-8");
        it.put("latin.toml", "# gut");
        it.expect_text("latin.toml", "# gut");
        fs::write(it.file("limit.toml"), vec![b'#'; 1 << 20]).unwrap();
        it.expect("1 MiB", |event| {
            text_of(event).is_some_and(|(name, text)| name == "limit.toml" && text.len() == 1 << 20)
        });
    });
}

#[test]
fn what_others_can_write_is_refused_until_that_is_cured() {
    if !is_root() {
        return;
    }
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("a.toml", "a");
        chown(it.file("a.toml"), Some(4321), None).unwrap();
        it.expect_refused("a.toml", "owned by uid 4321: chown root");
        chown(it.file("a.toml"), Some(0), None).unwrap();
        it.expect_text("a.toml", "a");
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(it.file("a.toml"), mode(0o666)).unwrap();
        it.expect_refused("a.toml", "writable by everybody: chmod o-w");
        fs::set_permissions(it.file("a.toml"), mode(0o664)).unwrap();
        it.expect_text("a.toml", "a");
        chown(it.file("a.toml"), None, Some(4321)).unwrap();
        it.expect_refused("a.toml", "writable by group 4321: chmod g-w");
        // A link that somebody else owns decides what is read.
        it.put("target", "t");
        symlink("target", it.file("link.toml")).unwrap();
        std::os::unix::fs::lchown(it.file("link.toml"), Some(4321), None).unwrap();
        it.expect_refused("link.toml", "chown -h root");
        // The way: everything in it is held back, nothing is gone.
        it.within(50);
        fs::set_permissions(&it.base, mode(0o777)).unwrap();
        it.expect("directory refused", |event| {
            let Event::Directory { state: DirectoryState::Unreadable(why), .. } = event else { return false };
            why.to_string().contains("writable by everybody (a directory on the way): chmod o-w")
        });
        fs::remove_file(it.file("a.toml")).unwrap();
        it.expect_silence(1200);
        fs::set_permissions(&it.base, mode(0o1777)).unwrap();
        let (_, event) = it.expect("directory", |event| matches!(event, Event::Directory { .. }));
        assert_eq!(names(&event), ["link.toml"]);
        it.expect_gone("a.toml");
    });
}

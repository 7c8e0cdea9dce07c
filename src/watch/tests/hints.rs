//! Events are hints: lost ones, many at once, none at all; and what is followed beside unit files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::*;
use super::fixture::*;

#[test]
fn lost_events_are_answered_by_looking_at_everything() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("a.toml", "a");
        it.expect_text("a.toml", "a");
        // What no watch sees: a write through another name of the same inode.
        fs::hard_link(it.file("a.toml"), it.base.join("other-name")).unwrap();
        it.within(100);
        fs::write(it.base.join("other-name"), "b").unwrap();
        it.expect_silence(100);
        it.watch().inbox.lost();
        it.expect_text("a.toml", "b");
        fs::write(it.base.join("other-name"), "c").unwrap();
        let (events, _) = it.sync();
        assert_eq!(events.iter().filter_map(text_of).collect::<Vec<_>>(), [("a.toml", "c")]);
    });
}

#[test]
fn a_real_overflow_loses_nothing() {
    if !is_root() {
        return;
    }
    struct Restore(&'static str, String);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = fs::write(self.0, self.1.trim());
        }
    }
    let limit = "/proc/sys/fs/inotify/max_queued_events";
    let before = Restore(limit, fs::read_to_string(limit).unwrap());
    // Read at inotify_init: only the instances that are made now have the small queue.
    if fs::write(limit, "16").is_err() {
        return skip("cannot set max_queued_events");
    }
    let mut it = Fixture::new("/dev/shm");
    drop(before);
    for round in 0..500 {
        it.put(&format!("u{round}.toml"), "a");
    }
    let mut left: std::collections::HashSet<String> = (0..500).map(|round| format!("u{round}.toml")).collect();
    while !left.is_empty() {
        let (_, event) = it.expect("all files", |event| text_of(event).is_some());
        left.remove(text_of(&event).unwrap().0);
    }
}

#[test]
fn a_thousand_files_at_once_are_all_posted() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        let begin = Instant::now();
        for round in 0..1000 {
            it.put(&format!("u{round}.toml"), "a = 1");
        }
        let written = begin.elapsed();
        let mut last = begin;
        for _ in 0..1000 {
            last = it.expect("a text", |event| text_of(event).is_some()).0;
        }
        println!("1000 files written in {written:?}, all posted after {:?}", last - begin);
        assert!(last - begin < written + Duration::from_millis(500));
        let begin = Instant::now();
        it.put("one-more.toml", "a = 1");
        let (events, held) = it.sync();
        println!("one more and a sync: {:?}", begin.elapsed());
        assert_eq!((events.len(), held.len()), (1, 0));
        let begin = Instant::now();
        assert_eq!(it.sync(), (vec![], vec![]));
        println!("a sync with nothing to do: {:?}", begin.elapsed());
    });
}

#[test]
fn followed_files_and_places_are_posted_once_and_on_change() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        let releases = it.base.join("releases");
        for version in ["1", "2"] {
            fs::create_dir_all(releases.join(version).join("rootfs")).unwrap();
            fs::write(releases.join(version).join("config.json"), "{}").unwrap();
        }
        let current = it.base.join("current");
        symlink("releases/1", &current).unwrap();
        let config = Follow { path: current.join("config.json"), purpose: Purpose::Contents };
        let rootfs = Follow { path: current.join("rootfs"), purpose: Purpose::Place };
        let absent = Follow { path: it.base.join("bundle/config.json"), purpose: Purpose::Contents };
        it.watch().follow(vec![config.clone(), rootfs.clone(), absent.clone()], vec![]);
        let is_file = |event: &Event, of: &Follow, at: &Path| match event {
            Event::File { path, file: Ok(file) } => *path == of.path && file.resolved == at,
            _ => false,
        };
        let is_place =
            |event: &Event, at: &Path| matches!(event, Event::Place { place: Ok(place), .. } if place.resolved == at);
        let (events, _) = it.sync();
        assert_eq!(events.len(), 3, "{events:?}");
        assert!(events.iter().any(|event| is_file(event, &config, &releases.join("1/config.json"))));
        assert!(events.iter().any(|event| is_place(event, &releases.join("1/rootfs"))));
        assert!(events.iter().any(|event| matches!(event, Event::File { file: Err(ReadError::Missing { .. }), .. })));
        it.watch().follow(vec![absent.clone(), rootfs.clone(), config.clone()], vec![]);
        it.expect_silence(50);
        symlink("releases/2", it.base.join("next")).unwrap();
        fs::rename(it.base.join("next"), &current).unwrap();
        let seen = it.within(150);
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen.iter().any(|event| is_file(event, &config, &releases.join("2/config.json"))));
        assert!(seen.iter().any(|event| is_place(event, &releases.join("2/rootfs"))));
        fs::write(releases.join("2/config.json"), "{ }").unwrap();
        it.expect("edit", |event| matches!(event, Event::File { file: Ok(file), .. } if file.bytes == b"{ }"));
        fs::create_dir(it.base.join("bundle")).unwrap();
        fs::write(&absent.path, "{}").unwrap();
        it.expect("appeared", |event| is_file(event, &absent, &absent.path));
        fs::rename(releases.join("2/rootfs"), releases.join("2/old")).unwrap();
        fs::create_dir(releases.join("2/rootfs")).unwrap();
        it.expect("another rootfs", |event| is_place(event, &releases.join("2/rootfs")));
        it.watch().follow(vec![], vec![config, rootfs, absent.clone()]);
        assert_eq!(it.sync(), (vec![], vec![]));
        fs::write(&absent.path, "{  }").unwrap();
        it.expect_silence(100);
    });
}

#[test]
fn an_idle_watch_does_not_wake_up() {
    // Not where other tests make and remove their directories, which is seen from here.
    let mut it = Fixture::new("/var/tmp");
    it.put("a.toml", "a");
    it.expect_text("a.toml", "a");
    it.sync();
    std::thread::sleep(Duration::from_millis(100));
    let thread = it.thread.load(Ordering::Relaxed);
    let switches = || {
        let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
        status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap().to_owned()
    };
    let before = switches();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(before, switches(), "the watch thread woke up within 2 s");
}

#[test]
fn where_there_are_no_leases_two_looks_must_agree() {
    if !is_root() {
        return;
    }
    // Without CAP_LEASE only the owner may have a lease; capabilities are the thread's and of those that it starts.
    let test = std::thread::spawn(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(rustix::thread::CapabilitySet::LEASE);
        rustix::thread::set_capabilities(None, sets).unwrap();
        let base = Fixture::base("/tmp");
        let units = base.join("units");
        fs::create_dir(&units).unwrap();
        let trusted = Trust::new(0).and(4321);
        let mut it = Fixture::start(base, Options { dirs: vec![units.clone()], trusted }, units);
        it.put("new", "whole");
        chown(it.file("new"), Some(4321), None).unwrap();
        let begin = Instant::now();
        fs::rename(it.file("new"), it.file("a.toml")).unwrap();
        let took = it.expect_text("a.toml", "whole").0 - begin;
        assert!((2000..2300).contains(&took.as_millis()), "{took:?}");
        let mut writer = fs::OpenOptions::new().append(true).open(it.file("a.toml")).unwrap();
        for _ in 0..4 {
            writer.write_all(b" and more").unwrap();
            std::thread::sleep(Duration::from_millis(700));
        }
        drop(writer);
        let begin = Instant::now();
        let (events, held) = it.sync();
        assert_eq!(held, Vec::<PathBuf>::new());
        let texts: Vec<_> = events.iter().filter_map(text_of).collect();
        assert_eq!(texts, [("a.toml", "whole and more and more and more and more")], "after {:?}", begin.elapsed());
    });
    test.join().unwrap();
}

#[test]
fn a_file_read_directly_is_checked_as_well() {
    let base = Fixture::base("/tmp");
    let trust = Trust::new(rustix::process::geteuid().as_raw());
    let path = base.join("config.json");
    fs::write(&path, "{}").unwrap();
    let file = trusted::read_trusted(&path, &trust, 10).unwrap();
    assert_eq!((file.bytes.as_slice(), &file.resolved), (b"{}".as_slice(), &path));
    assert!(matches!(trusted::read_trusted(&path, &trust, 1), Err(ReadError::TooBig { .. })));
    assert!(matches!(trusted::read_trusted(&path.join("x"), &trust, 1), Err(ReadError::NotDirectory { .. })));
    assert!(matches!(trusted::read_trusted(Path::new("x"), &trust, 1), Err(ReadError::Relative { .. })));
    assert_eq!(trusted::check_trusted_dir(&base.join("../").join(base.file_name().unwrap()), &trust).unwrap().0, base);
    assert!(matches!(trusted::check_trusted_dir(&path, &trust), Err(ReadError::Kind { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o602)).unwrap();
    assert!(matches!(trusted::read_trusted(&path, &trust, 10), Err(ReadError::Writable { .. })));
    fs::remove_dir_all(base).unwrap();
}

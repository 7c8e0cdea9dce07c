//! Directories of drop-ins beside the unit files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::*;
use super::fixture::*;

/// Any event about a drop-in or a directory of them.
fn is_about(event: &Event, file: &Path) -> bool {
    match event {
        Event::Text { path, .. } | Event::Refused { path, .. } | Event::Gone { path, .. } => path == file,
        Event::Directory { dir, .. } => dir == file,
        _ => false,
    }
}

fn missing(event: &Event) -> bool {
    matches!(event, Event::Directory { state: DirectoryState::Missing, .. })
}

impl Fixture {
    fn drop_in(&self, file: &str, text: &str) {
        let path = self.file(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn expect_drop_in(&mut self, file: &str, wanted: &str) {
        let path = self.file(file);
        self.expect(&format!("{file} = {wanted:?}"), |event| {
            is_about(event, &path) && text_of(event).is_some_and(|(_, text)| text == wanted)
        });
    }
}

#[test]
fn a_directory_of_drop_ins_is_followed_from_when_it_appears() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("web.toml", "1");
        it.expect_text("web.toml", "1");
        it.drop_in("web.toml.d/10.toml", "a");
        it.expect_drop_in("web.toml.d/10.toml", "a");
        it.drop_in("web.toml.d/10.toml", "b");
        it.expect_drop_in("web.toml.d/10.toml", "b");
        it.drop_in("worker@.toml.d/20.toml", "c");
        it.expect_drop_in("worker@.toml.d/20.toml", "c");
        for other in
            ["web.toml.d/README", "web.toml.d/.10.toml.swp", "web.toml.d/10.toml~", ".x.toml.d/a.toml", "x.d/a.toml"]
        {
            it.drop_in(other, "no");
        }
        fs::create_dir(it.file("web.toml.d/deep.toml.d")).unwrap();
        it.expect_silence(100);
        fs::remove_file(it.file("web.toml.d/10.toml")).unwrap();
        it.expect_gone("10.toml");
    });
}

#[test]
fn what_was_there_before_is_posted_with_the_units_in_one_batch() {
    on_each(|on| {
        let base = Fixture::base(on);
        let units = base.join("units");
        fs::create_dir_all(units.join("web.toml.d")).unwrap();
        fs::write(units.join("web.toml.d/10.toml"), "a").unwrap();
        fs::write(units.join("web.toml"), "1").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut it = Fixture::at(base, units);
        let (at, _) = it.expect_text("web.toml", "1");
        let path = it.file("web.toml.d/10.toml");
        let (then, _) = it.expect("the drop-in", |event| is_about(event, &path));
        assert_eq!(at, then, "one batch");
        let state = it.within(0);
        assert!(state.is_empty(), "{state:?}");
    });
}

#[test]
fn what_is_written_in_one_go_is_posted_together() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.drop_in("web.toml.d/10.toml", "a");
        it.put("web.toml", "1");
        let path = it.file("web.toml.d/10.toml");
        it.expect("the drop-in", |event| is_about(event, &path) && text_of(event).is_some());
        it.within(100);
        for round in 0..10 {
            let text = round.to_string();
            let begun = std::time::Instant::now();
            it.put("web.toml", &text);
            std::thread::sleep(std::time::Duration::from_millis(10));
            it.drop_in("web.toml.d/10.toml", &text);
            // On a busy machine it was not one go.
            let in_one_go = begun.elapsed() < settle::QUIET * 3 / 4;
            let mut at = Vec::new();
            for _ in 0..2 {
                at.push(it.expect("a text", |event| text_of(event).is_some_and(|(_, found)| found == text)).0);
            }
            assert!(at[0] == at[1] || !in_one_go, "round {round}");
        }
    });
}

#[test]
fn a_template_and_its_drop_ins_are_posted_together() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("worker@.toml", "0");
        symlink("worker@.toml", it.file("worker@a.toml")).unwrap();
        it.drop_in("worker@.toml.d/10.toml", "0");
        it.sync();
        it.within(100);
        for round in 1..=10 {
            let text = round.to_string();
            let begun = std::time::Instant::now();
            let drop_in_first = round % 2 == 0;
            if drop_in_first {
                it.drop_in("worker@.toml.d/10.toml", &text);
            } else {
                it.put("worker@.toml", &text);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            if drop_in_first {
                it.put("worker@.toml", &text);
            } else {
                it.drop_in("worker@.toml.d/10.toml", &text);
            }
            let in_one_go = begun.elapsed() < settle::QUIET * 3 / 4;
            let mut found = Vec::new();
            while found.len() < 2 {
                let (at, batch) = it.events.recv_timeout(std::time::Duration::from_secs(5)).expect("both are posted");
                let wanted = |event: &&Event| {
                    text_of(event).is_some_and(|(name, found)| name != "worker@.toml" && found == text)
                };
                found.extend(batch.iter().filter(wanted).map(|_| at));
            }
            assert!(found[0] == found[1] || !in_one_go, "round {round}");
        }
    });
}

#[test]
fn a_directory_of_drop_ins_that_goes_is_told_once_after_a_second() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.drop_in("web.toml.d/10.toml", "a");
        it.expect_drop_in("web.toml.d/10.toml", "a");
        it.within(50);
        let dir = it.file("web.toml.d");
        fs::rename(&dir, it.base.join("aside")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        fs::rename(it.base.join("aside"), &dir).unwrap();
        it.expect_silence(1200);
        fs::remove_dir_all(&dir).unwrap();
        let seen = it.within(1500);
        assert!(seen.len() == 1 && is_about(&seen[0], &dir) && missing(&seen[0]), "{seen:?}");
        it.drop_in("web.toml.d/10.toml", "a");
        it.expect_drop_in("web.toml.d/10.toml", "a");
        it.within(50);
        fs::remove_dir_all(&dir).unwrap();
        let (seen, _) = it.sync_files(&["web.toml"]);
        assert!(seen.len() == 1 && is_about(&seen[0], &dir) && missing(&seen[0]), "{seen:?}");
    });
}

#[test]
fn without_the_directory_above_nothing_is_said_of_drop_ins() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        it.put("web.toml", "1");
        it.drop_in("web.toml.d/10.toml", "a");
        it.expect_drop_in("web.toml.d/10.toml", "a");
        it.within(50);
        let away = it.base.join("away");
        fs::rename(&it.units, &away).unwrap();
        let seen = it.within(1500);
        assert!(seen.len() == 1 && is_about(&seen[0], &it.units) && missing(&seen[0]), "{seen:?}");
        fs::write(away.join("web.toml.d/10.toml"), "b").unwrap();
        fs::rename(&away, &it.units).unwrap();
        let (_, event) = it.expect("back", |event| matches!(event, Event::Directory { .. }));
        let Event::Directory { state: DirectoryState::Present { names, drop_ins, .. }, .. } = event else { panic!() };
        assert_eq!((names, drop_ins), (vec!["web.toml".into()], vec!["web.toml.d".into()]));
        it.expect_drop_in("web.toml.d/10.toml", "b");
    });
}

#[test]
fn links_lead_to_drop_ins_and_mask_them() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        for version in ["1", "2"] {
            fs::create_dir(it.base.join(version)).unwrap();
            fs::write(it.base.join(version).join("10.toml"), version).unwrap();
        }
        symlink("../1", it.file("web.toml.d")).unwrap();
        it.expect_drop_in("web.toml.d/10.toml", "1");
        symlink("../2", it.base.join("next")).unwrap();
        fs::rename(it.base.join("next"), it.file("web.toml.d")).unwrap();
        it.expect_drop_in("web.toml.d/10.toml", "2");
        fs::write(it.base.join("2/10.toml"), "3").unwrap();
        it.expect_drop_in("web.toml.d/10.toml", "3");
        symlink("/dev/null", it.base.join("2/20.toml")).unwrap();
        it.expect_refused("20.toml", "masks");
        // What a link to nothing says is not known.
        symlink("nowhere", it.file("db.toml.d")).unwrap();
        it.expect("unreadable", |event| {
            matches!(event, Event::Directory { state: DirectoryState::Unreadable(why), .. } if why.to_string().contains("db.toml.d"))
        });
        fs::write(it.file("file.toml.d"), "x").unwrap();
        it.expect("unreadable", |event| {
            matches!(event, Event::Directory { state: DirectoryState::Unreadable(why), .. } if why.to_string().contains("expected a directory"))
        });
    });
}

#[test]
fn in_a_directory_behind_a_link_none_is_none() {
    on_each(|on| {
        let base = Fixture::base(on);
        fs::create_dir_all(base.join("release/db.toml.d")).unwrap();
        fs::write(base.join("release/web.toml"), "1").unwrap();
        fs::write(base.join("release/db.toml.d/10.toml"), "a").unwrap();
        symlink("release", base.join("units")).unwrap();
        let units = base.join("units");
        let mut it = Fixture::at(base, units);
        it.sync();
        assert_eq!(it.sync_files(&["web.toml"]), (vec![], vec![]));
        fs::remove_dir_all(it.file("db.toml.d")).unwrap();
        it.expect("missing", |event| {
            matches!(event, Event::Directory { dir, state: DirectoryState::Missing } if dir.ends_with("db.toml.d"))
        });
    });
}

#[test]
fn a_half_written_drop_in_is_not_read() {
    on_each(|on| {
        use std::io::Write;
        let mut it = Fixture::new(on);
        it.put("web.toml", "1");
        it.expect_text("web.toml", "1");
        fs::create_dir(it.file("web.toml.d")).unwrap();
        it.within(50);
        let mut file = fs::File::create(it.file("web.toml.d/10.toml")).unwrap();
        for letter in ["a", "b", "c"] {
            file.write_all(letter.as_bytes()).unwrap();
            assert!(it.within(60).iter().all(|event| text_of(event).is_none()));
        }
        drop(file);
        it.expect_drop_in("web.toml.d/10.toml", "abc");
    });
}

#[test]
fn directories_that_come_and_go_leave_nothing_behind() {
    let mut it = Fixture::new("/tmp");
    for n in 0..20 {
        let name = format!("u{n}.toml.d");
        it.drop_in(&format!("{name}/10.toml"), "a");
        let (seen, _) = it.sync();
        assert!(seen.iter().any(|event| text_of(event) == Some(("10.toml", "a"))), "{seen:?}");
        fs::remove_dir_all(it.file(&name)).unwrap();
        let (seen, _) = it.sync();
        assert!(seen.iter().any(missing), "{seen:?}");
        it.within(0);
    }
}

/// What a reader of the events believes is on disk.
#[derive(Default)]
struct Belief(std::collections::BTreeMap<std::path::PathBuf, String>);

impl Belief {
    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Text { path, text, .. } => drop(self.0.insert(path, text)),
                Event::Gone { path, .. } => drop(self.0.remove(&path)),
                Event::Directory { dir, state: DirectoryState::Missing } => {
                    self.0.retain(|path, _| !path.starts_with(&dir))
                }
                _ => {}
            }
        }
    }
}

fn on_disk(units: &Path) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    let list =
        |dir: &Path| fs::read_dir(dir).map(|entries| entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>());
    let inner = list(units).unwrap().into_iter().flat_map(|path| list(&path).unwrap_or_default());
    let all = list(units).unwrap().into_iter().chain(inner).filter(|path| path.is_file());
    all.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn whatever_is_done_what_was_posted_is_what_is_there() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        let mut belief = Belief::default();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ on.len() as u64;
        let mut next = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for round in 0..60 {
            for _ in 0..=next(6) {
                let dir = it.file(["web.toml.d", "db.toml.d", "worker@.toml.d"][next(3) as usize]);
                let file = dir.join(["10.toml", "20.toml"][next(2) as usize]);
                match next(9) {
                    0..=3 => {
                        fs::create_dir_all(&dir).unwrap();
                        fs::write(&file, next(4).to_string()).unwrap();
                    }
                    4 => drop(fs::remove_file(&file)),
                    5 => drop(fs::remove_dir_all(&dir)),
                    6 => drop(fs::rename(&dir, it.file("other.toml.d"))),
                    7 => drop(fs::rename(&file, dir.join("30.toml"))),
                    _ => it.put("web.toml", &next(3).to_string()),
                }
                if next(3) == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(next(30)));
                }
            }
            if next(2) == 0 {
                belief.take(it.within(0));
            }
            let (events, held) = it.sync();
            assert_eq!(held, [] as [std::path::PathBuf; 0]);
            belief.take(events);
            assert_eq!(belief.0, on_disk(&it.units), "round {round}");
        }
    });
}

#[test]
fn a_sync_of_one_unit_reads_its_drop_ins() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        for file in ["worker@.toml.d/10.toml", "worker@a.toml.d/10.toml"] {
            it.drop_in(file, file);
        }
        let (seen, _) = it.sync_files(&["worker@a.toml"]);
        for file in ["worker@.toml.d/10.toml", "worker@a.toml.d/10.toml"] {
            let posted = seen
                .iter()
                .chain(it.seen.iter().map(|(_, event)| event))
                .any(|event| text_of(event) == Some(("10.toml", file)));
            assert!(posted, "{file} in {seen:?}");
        }
        // That there are none is nothing to tell, and leaves nothing.
        let (seen, _) = it.sync_files(&["nobody.toml"]);
        assert_eq!(seen, []);
    });
}

//! The watch against real file systems: ext4 (or what /tmp is on) and tmpfs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::*;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Says aloud that a test did not run, or fails where none may be left out.
fn skip(why: &str) {
    assert!(std::env::var_os("MOORED_NO_SKIP").is_none_or(|v| v != "1"), "may not be skipped: {why}");
    println!("SKIP {why}");
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// A temporary directory, a watch on `units` in it, and what that posted.
struct Fixture {
    base: PathBuf,
    units: PathBuf,
    watch: Option<Watch>,
    /// Its thread, once it has posted.
    thread: Arc<AtomicI32>,
    events: Receiver<(Instant, Vec<Event>)>,
    seen: Vec<(Instant, Event)>,
}

impl Fixture {
    fn base(on: &str) -> PathBuf {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = Path::new(on).join(format!("moored-watch-{}-{number}", std::process::id()));
        fs::create_dir(&base).unwrap();
        fs::canonicalize(base).unwrap()
    }

    fn at(base: PathBuf, units: PathBuf) -> Self {
        let trusted = Trust::new(rustix::process::geteuid().as_raw());
        Self::start(base, Options { dirs: vec![units.clone()], trusted }, units)
    }

    fn start(base: PathBuf, options: Options, units: PathBuf) -> Self {
        let (sender, events) = channel();
        let thread = Arc::new(AtomicI32::new(0));
        let from = Arc::clone(&thread);
        let watch = Watch::start(options, move |batch| {
            assert!(!batch.is_empty());
            from.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
            let _ = sender.send((Instant::now(), batch));
        });
        Fixture { base, units, watch: Some(watch.unwrap()), thread, events, seen: Vec::new() }
    }

    /// With an empty directory that is watched already.
    fn new(on: &str) -> Self {
        let base = Self::base(on);
        let units = base.join("units");
        fs::create_dir(&units).unwrap();
        let mut fixture = Self::at(base, units);
        fixture.expect("directory", |event| matches!(event, Event::Directory { .. }));
        fixture
    }

    fn file(&self, name: &str) -> PathBuf {
        self.units.join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    fn watch(&self) -> &Watch {
        self.watch.as_ref().unwrap()
    }

    /// The first event, new or seen before, that `wanted` accepts; it and what came before are taken.
    fn expect(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> (Instant, Event) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(index) = self.seen.iter().position(|(_, event)| wanted(event)) {
                return self.seen.drain(..=index).next_back().unwrap();
            }
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((at, batch)) => self.seen.extend(batch.into_iter().map(|event| (at, event))),
                Err(error) => panic!("{error} waiting for {what}; seen {:?}", self.seen),
            }
        }
    }

    fn expect_text(&mut self, name: &str, wanted: &str) -> (Instant, Event) {
        self.expect(&format!("{name} = {wanted:?}"), |event| text_of(event) == Some((name, wanted)))
    }

    fn expect_refused(&mut self, name: &str, part: &str) {
        self.expect(&format!("{name} refused: {part}"), |event| match event {
            Event::Refused { name: n, why, .. } => n == name && why.to_string().contains(part),
            _ => false,
        });
    }

    fn expect_gone(&mut self, gone: &str) -> Instant {
        self.expect(&format!("{gone} gone"), |event| matches!(event, Event::Gone { name, .. } if name == gone)).0
    }

    /// Everything that comes within this time, and what was not taken yet.
    fn within(&mut self, ms: u64) -> Vec<Event> {
        let until = Instant::now() + Duration::from_millis(ms);
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((at, batch)) => self.seen.extend(batch.into_iter().map(|event| (at, event))),
                Err(RecvTimeoutError::Timeout) => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.seen.drain(..).map(|(_, event)| event).collect()
    }

    fn expect_silence(&mut self, ms: u64) {
        assert_eq!(self.within(ms), []);
    }

    /// All that a sync brings, without its own event; and what writers hold.
    fn sync(&mut self) -> (Vec<Event>, Vec<PathBuf>) {
        let token = u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        assert!(self.watch().sync(token));
        let mut events = Vec::new();
        loop {
            let (_, batch) = self.events.recv_timeout(Duration::from_secs(5)).expect("a sync is answered");
            for event in batch {
                match event {
                    Event::Synced { token: other, held } if other == token => return (events, held),
                    other => events.push(other),
                }
            }
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.watch = None;
        let _ = fs::remove_dir_all(&self.base);
    }
}

fn text_of(event: &Event) -> Option<(&str, &str)> {
    match event {
        Event::Text { name, text, .. } => Some((name.to_str()?, text)),
        _ => None,
    }
}

fn names(event: &Event) -> Vec<&str> {
    match event {
        Event::Directory { state: DirectoryState::Present { names, .. }, .. } => {
            names.iter().filter_map(|name| name.to_str()).collect()
        }
        other => panic!("not a directory that is there: {other:?}"),
    }
}

/// At the same time, because most of a test's time is waiting.
fn on_each(test: impl Fn(&str) + Send + Copy) {
    std::thread::scope(|scope| {
        for on in ["/tmp", "/dev/shm"] {
            scope.spawn(move || test(on));
        }
    });
}

#[test]
fn a_new_file_is_posted_within_the_quiet_time_and_5_ms() {
    on_each(|on| {
        let mut it = Fixture::new(on);
        let mut late: Vec<Duration> = Vec::new();
        for round in 0..40 {
            let name = format!("u{round}.toml");
            it.put(&name, "a = 1");
            let closed = Instant::now();
            let (at, _) = it.expect_text(&name, "a = 1");
            let took = at - closed;
            assert!(took >= Duration::from_millis(19), "not quiet: {took:?}");
            late.push(took.saturating_sub(settle::QUIET));
        }
        late.sort();
        println!("beyond the quiet time: p50 {:?}, max {:?}", late[20], late[39]);
        assert!(late[20] < Duration::from_millis(5), "{late:?}");
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
        symlink("/dev/null", it.file("device.toml")).unwrap();
        it.expect_refused("device.toml", "device.toml: is a device, expected a regular file");
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
        assert_eq!(text_of(&seen[1]), Some(("c.toml", "1")));
        assert!(matches!(&seen[2], Event::Gone { name, .. } if name == "a.toml"));
        assert_eq!(seen.len(), 3, "b.toml has the same text at the same path: {seen:?}");
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
        it.watch().follow(vec![config.clone(), rootfs.clone(), absent.clone()]);
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
        it.watch().follow(vec![absent.clone(), rootfs, config.clone()]);
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
        it.watch().follow(vec![]);
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

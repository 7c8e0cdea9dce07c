//! A watch on a temporary directory, and what it posted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::super::*;

pub(super) static NEXT: AtomicU32 = AtomicU32::new(0);

/// Says aloud that a test did not run, or fails where none may be left out.
pub(super) fn skip(why: &str) {
    assert!(std::env::var_os("MOORED_NO_SKIP").is_none_or(|v| v != "1"), "may not be skipped: {why}");
    println!("SKIP {why}");
}

pub(super) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// A temporary directory, a watch on `units` in it, and what that posted.
pub(super) struct Fixture {
    pub(super) base: PathBuf,
    pub(super) units: PathBuf,
    pub(super) watch: Option<Watch>,
    /// Its thread, once it has posted.
    pub(super) thread: Arc<AtomicI32>,
    pub(super) events: Receiver<(Instant, Vec<Event>)>,
    pub(super) seen: Vec<(Instant, Event)>,
}

impl Fixture {
    pub(super) fn base(on: &str) -> PathBuf {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = Path::new(on).join(format!("moored-watch-{}-{number}", std::process::id()));
        fs::create_dir(&base).unwrap();
        fs::canonicalize(base).unwrap()
    }

    pub(super) fn at(base: PathBuf, units: PathBuf) -> Self {
        let trusted = Trust::new(rustix::process::geteuid().as_raw());
        Self::start(base, Options { dirs: vec![units.clone()], trusted }, units)
    }

    pub(super) fn start(base: PathBuf, options: Options, units: PathBuf) -> Self {
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
    pub(super) fn new(on: &str) -> Self {
        let base = Self::base(on);
        let units = base.join("units");
        fs::create_dir(&units).unwrap();
        let mut fixture = Self::at(base, units);
        fixture.expect("directory", |event| matches!(event, Event::Directory { .. }));
        fixture
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.units.join(name)
    }

    pub(super) fn put(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    pub(super) fn watch(&self) -> &Watch {
        self.watch.as_ref().unwrap()
    }

    /// The first event, new or seen before, that `wanted` accepts; it and what came before are taken.
    pub(super) fn expect(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> (Instant, Event) {
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

    pub(super) fn expect_text(&mut self, name: &str, wanted: &str) -> (Instant, Event) {
        self.expect(&format!("{name} = {wanted:?}"), |event| text_of(event) == Some((name, wanted)))
    }

    pub(super) fn expect_refused(&mut self, name: &str, part: &str) {
        self.expect(&format!("{name} refused: {part}"), |event| match event {
            Event::Refused { name: n, why, .. } => n == name && why.to_string().contains(part),
            _ => false,
        });
    }

    pub(super) fn expect_gone(&mut self, gone: &str) -> Instant {
        self.expect(&format!("{gone} gone"), |event| matches!(event, Event::Gone { name, .. } if name == gone)).0
    }

    /// Everything that comes within this time, and what was not taken yet.
    pub(super) fn within(&mut self, ms: u64) -> Vec<Event> {
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

    pub(super) fn expect_silence(&mut self, ms: u64) {
        assert_eq!(self.within(ms), []);
    }

    /// All that a sync brings, without its own event; and what writers hold.
    pub(super) fn sync(&mut self) -> (Vec<Event>, Vec<PathBuf>) {
        self.sync_files(&[])
    }

    /// The same of these files alone.
    pub(super) fn sync_files(&mut self, files: &[&str]) -> (Vec<Event>, Vec<PathBuf>) {
        let token = u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        assert!(self.watch().sync(token, files.iter().map(OsString::from).collect()));
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

pub(super) fn text_of(event: &Event) -> Option<(&str, &str)> {
    match event {
        Event::Text { name, text, .. } => Some((name.to_str()?, text)),
        _ => None,
    }
}

pub(super) fn names(event: &Event) -> Vec<&str> {
    match event {
        Event::Directory { state: DirectoryState::Present { names, .. }, .. } => {
            names.iter().filter_map(|name| name.to_str()).collect()
        }
        other => panic!("not a directory that is there: {other:?}"),
    }
}

/// At the same time, because most of a test's time is waiting.
pub(super) fn on_each(test: impl Fn(&str) + Send + Copy) {
    std::thread::scope(|scope| {
        for on in ["/tmp", "/dev/shm"] {
            scope.spawn(move || test(on));
        }
    });
}

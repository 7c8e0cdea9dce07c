//! Writer and reader together, on real pipes and files.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::unit::{ContainerId, Log, UnitName};

/// A directory that goes with the test.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("moored-log-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Size and number of files.
type Limits = (u64, u32);

const LIMITS: Limits = (10 << 20, 5);

fn log((max_size_bytes, max_files): Limits) -> Log {
    Log { max_size_bytes, max_files }
}

const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    dir: TempDir,
    writer: Option<LogWriter>,
    events: Receiver<LogEvent>,
}

fn start(dir: &Path, cap: u64) -> (LogWriter, Receiver<LogEvent>) {
    let (post, events) = channel();
    let writer = LogWriter::start(dir, dir, cap, move |event| drop(post.send(event))).unwrap();
    (writer, events)
}

impl World {
    fn new(cap: u64) -> World {
        let dir = TempDir::new();
        let (writer, events) = start(&dir.0, cap);
        World { dir, writer: Some(writer), events }
    }

    fn writer(&self) -> &LogWriter {
        self.writer.as_ref().unwrap()
    }

    /// A container whose two pipes are ours.
    fn run(&self, unit: &str, generation: u64, limits: Limits) -> Container {
        let id = ContainerId { unit: name(unit), generation };
        let ((out_end, out), (err_end, err)) = (pipe(), pipe());
        self.writer().attach(id.clone(), out_end, err_end, log(limits));
        Container { id, out, err }
    }

    fn drain(&self, container: &Container) {
        self.writer().drain(container.id.clone());
        loop {
            match self.events.recv_timeout(PATIENCE).expect("drained") {
                LogEvent::Drained(id) if id == container.id => return,
                _ => {}
            }
        }
    }

    fn read(&self, unit: &str, query: Query) -> Vec<String> {
        let mut reader = LogReader::open(&self.dir.0, &name(unit), &query).unwrap();
        let mut lines = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            lines.push(show(&entry));
        }
        lines.extend(reader.unfinished().iter().map(show));
        lines
    }
}

struct Container {
    id: ContainerId,
    out: File,
    err: File,
}

fn pipe() -> (OwnedFd, File) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read, write.into())
}

fn name(unit: &str) -> UnitName {
    UnitName::new(unit).unwrap()
}

fn show(entry: &Entry) -> String {
    let stream = if entry.stream == Stream::Out { 'o' } else { 'e' };
    match &entry.what {
        What::Line { bytes, .. } => format!("{}{stream} {}", entry.generation, String::from_utf8_lossy(bytes)),
        What::Dropped { bytes } => format!("{}{stream} -{bytes}", entry.generation),
    }
}

fn last(lines: u64) -> Query {
    Query { lines: Some(lines), ..Query::default() }
}

#[test]
fn what_was_written_is_read_per_stream() {
    let world = World::new(u64::MAX);
    let mut web = world.run("web", 1, LIMITS);
    web.out.write_all(b"hel").unwrap();
    web.err.write_all(b"oops\n").unwrap();
    web.out.write_all(b"lo\nlast").unwrap();
    world.drain(&web);
    let mut lines = world.read("web", Query::default());
    lines.sort();
    assert_eq!(lines, ["1e oops", "1o hello", "1o last"]);
    let text = std::fs::read(world.dir.0.join("web/current")).unwrap();
    assert_eq!(text.len(), b"hellolastoops\n\n".len(), "the file is plain text");
    assert!(world.writer().bytes() > text.len() as u64);
}

#[test]
fn generations_are_told_apart() {
    let world = World::new(u64::MAX);
    for generation in [4, 7, 9] {
        let mut web = world.run("web", generation, LIMITS);
        writeln!(web.out, "hello").unwrap();
        write!(web.out, "no newline").unwrap();
        world.drain(&web);
    }
    assert_eq!(world.read("web", Query::default()).len(), 6);
    let previous = Query { previous: true, ..Query::default() };
    assert_eq!(world.read("web", previous), ["7o hello", "7o no newline"]);
    assert_eq!(world.read("web", Query { lines: Some(1), ..previous }), ["7o no newline"]);
    // One that has written nothing yet is the last generation all the same.
    world.drain(&world.run("web", 12, LIMITS));
    assert_eq!(world.read("web", previous), ["9o hello", "9o no newline"]);
}

#[test]
fn there_is_no_previous_generation_of_a_first_one_and_no_log_of_a_unit_that_never_ran() {
    let world = World::new(u64::MAX);
    world.drain(&world.run("web", 1, LIMITS));
    let open = |unit: &str, previous| {
        LogReader::open(&world.dir.0, &name(unit), &Query { previous, ..Query::default() }).map(|_| ())
    };
    assert!(matches!(open("web", true), Err(ReadError::NoPrevious { .. })));
    assert!(matches!(open("db", false), Err(ReadError::NoLog { .. })));
    assert!(last_lines(&world.dir.0, &name("db"), 10).unwrap().is_empty());
}

#[test]
fn rotation_keeps_lines_whole_and_files_few() {
    let world = World::new(u64::MAX);
    let limits = (4096, 3);
    let mut web = world.run("web", 1, limits);
    for i in 0..2000 {
        writeln!(web.out, "line {i}").unwrap();
    }
    world.drain(&web);
    let files = |extension: &str| {
        let dir = std::fs::read_dir(world.dir.0.join("web")).unwrap();
        dir.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(extension)).count()
    };
    assert_eq!((files(".log"), files(".idx"), files("current")), (3, 3, 1));
    assert!(world.writer().bytes() <= 3 * 4096, "{}", world.writer().bytes());
    let lines = world.read("web", Query::default());
    // The oldest may have lost its head with the file before.
    for (line, i) in lines[1..].iter().rev().zip((0..2000).rev()) {
        assert_eq!(*line, format!("1o line {i}"));
    }
    assert!(lines.len() > 500, "{}", lines.len());
}

#[test]
fn the_newest_lines_are_the_tail_of_all_lines() {
    let world = World::new(u64::MAX);
    let limits = (4096, 100);
    // Pieces that cut lines in odd places, streams in turn, long silences of one stream, generations without a last newline.
    let mut seed = 7u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for generation in 1..=4 {
        let mut web = world.run("web", generation, limits);
        for i in 0..400 {
            let text = format!("{generation}.{i} {}", "x".repeat(random(90) as usize));
            let text = if random(3) == 0 { text } else { text + "\n" };
            let stream = if i % 100 < 80 && random(10) > 0 { &mut web.out } else { &mut web.err };
            stream.write_all(text.as_bytes()).unwrap();
            if random(40) == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        world.drain(&web);
    }
    let all = world.read("web", Query::default());
    assert!(all.len() > 600);
    for n in (0..60).chain((60..all.len() + 10).step_by(37)) {
        assert_eq!(world.read("web", last(n as u64)), all[all.len().saturating_sub(n)..], "the last {n}");
    }
    let previous: Vec<_> = all.iter().filter(|line| line.starts_with('3')).cloned().collect();
    for n in [0, 1, 2, 50, 10_000] {
        let query = Query { previous: true, ..last(n) };
        assert_eq!(world.read("web", query), previous[previous.len().saturating_sub(n as usize)..], "previous {n}");
    }
}

#[test]
fn since_selects_by_the_time_of_a_lines_first_byte() {
    let world = World::new(u64::MAX);
    let mut web = world.run("web", 1, (4096, 50));
    for i in 0..300 {
        writeln!(web.out, "{i} {}", "x".repeat(50)).unwrap();
        if i % 20 == 0 {
            std::thread::sleep(Duration::from_millis(12));
        }
    }
    world.drain(&web);
    let mut reader = LogReader::open(&world.dir.0, &name("web"), &Query::default()).unwrap();
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        all.push(entry);
    }
    for at in (0..all.len()).step_by(7) {
        let since_ms = all[at].time_ms;
        let expected: Vec<_> = all.iter().filter(|e| e.time_ms >= since_ms).map(show).collect();
        let query = Query { since_ms: Some(since_ms), ..Query::default() };
        assert_eq!(world.read("web", query), expected, "since line {at}");
        let tail = world.read("web", Query { lines: Some(5), ..query });
        assert_eq!(tail, expected[expected.len().saturating_sub(5)..]);
    }
}

#[test]
fn a_follower_sees_what_comes_across_rotation_and_restart() {
    let world = World::new(u64::MAX);
    let query = Query { follow: true, ..Query::default() };
    let mut reader = LogReader::open(&world.dir.0, &name("web"), &query).unwrap();
    let follower = std::thread::spawn(move || {
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.ends_with("end")) {
            match reader.next_entry().unwrap() {
                Some(entry) => lines.push(show(&entry)),
                None => reader.wait().unwrap(),
            }
        }
        lines
    });
    let limits = (4096, 100);
    for generation in 1..=3 {
        let mut web = world.run("web", generation, limits);
        for i in 0..500 {
            writeln!(web.out, "{i}").unwrap();
            if i % 100 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
        if generation == 3 {
            writeln!(web.out, "end").unwrap();
        }
        world.drain(&web);
    }
    let lines = follower.join().unwrap();
    assert_eq!(lines.len(), 1501);
    assert_eq!(lines[1499], "3o 499");
    assert_eq!(lines, world.read("web", Query::default()));
}

#[test]
fn the_hosts_cap_takes_the_oldest_of_the_largest() {
    let world = World::new(1 << 20);
    let limits = (64 << 10, 1000);
    let mut small = world.run("small", 1, limits);
    writeln!(small.out, "still here").unwrap();
    world.drain(&small);
    let mut big = world.run("big", 1, limits);
    big.out.write_all(&vec![b'x'; 3 << 20]).unwrap();
    world.drain(&big);
    assert!(world.writer().bytes() <= 1 << 20, "{}", world.writer().bytes());
    assert!(world.writer().bytes() > 900 << 10, "no more than needed was removed");
    assert_eq!(world.read("small", Query::default()), ["1o still here"]);
    // Tracked sizes are those on disk.
    let (again, _events) = start(&world.dir.0, 1 << 20);
    assert_eq!(again.bytes(), world.writer().bytes());
}

#[test]
fn the_cap_holds_even_when_there_are_only_current_files() {
    let world = World::new(1 << 20);
    let mut units: Vec<_> = (0..4).map(|i| world.run(&format!("u{i}"), 1, LIMITS)).collect();
    for unit in &mut units {
        unit.out.write_all(&vec![b'x'; 600 << 10]).unwrap();
    }
    units.iter().for_each(|unit| world.drain(unit));
    assert!(world.writer().bytes() <= 1 << 20, "{}", world.writer().bytes());
}

#[test]
fn a_disk_that_does_not_take_it_never_blocks_and_is_counted() {
    let world = World::new(u64::MAX);
    let broken = world.dir.0.join("web");
    std::fs::write(&broken, "a file where the directory should be").unwrap();
    let mut web = world.run("web", 1, LIMITS);
    // More than a pipe holds: it goes through only because somebody reads.
    web.out.write_all(&vec![b'x'; 300_000]).unwrap();
    web.err.write_all(b"12345").unwrap();
    match world.events.recv_timeout(PATIENCE).unwrap() {
        LogEvent::Dropping { unit, .. } => assert_eq!(unit, name("web")),
        other => panic!("{other:?}"),
    }
    std::thread::sleep(Duration::from_millis(100));
    std::fs::remove_file(&broken).unwrap();
    match world.events.recv_timeout(PATIENCE).unwrap() {
        LogEvent::Recorded { dropped_bytes, .. } => assert_eq!(dropped_bytes, 300_005),
        other => panic!("{other:?}"),
    }
    writeln!(web.out, "back").unwrap();
    world.drain(&web);
    assert_eq!(world.read("web", Query::default()), ["1o -300000", "1e -5", "1o back"]);
}

#[test]
fn a_count_outlives_its_container() {
    let world = World::new(u64::MAX);
    let broken = world.dir.0.join("web");
    std::fs::write(&broken, "").unwrap();
    let mut web = world.run("web", 1, LIMITS);
    web.out.write_all(b"1234567").unwrap();
    world.drain(&web);
    std::fs::remove_file(&broken).unwrap();
    let mut web = world.run("web", 2, LIMITS);
    writeln!(web.out, "back").unwrap();
    world.drain(&web);
    assert_eq!(world.read("web", Query::default()), ["1o -7", "2o back"]);
}

#[test]
fn a_log_that_somebody_removes_goes_on_in_the_next_number() {
    let world = World::new(u64::MAX);
    let mut web = world.run("web", 1, LIMITS);
    writeln!(web.out, "before").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    std::fs::remove_dir_all(world.dir.0.join("web")).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    writeln!(web.out, "after").unwrap();
    world.drain(&web);
    assert_eq!(world.read("web", Query::default()), ["1o after"]);
    assert!(world.dir.0.join("web/00000002.log").exists());
}

#[test]
fn a_restarted_writer_goes_on_in_the_same_file_and_generation() {
    let mut world = World::new(u64::MAX);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ((out_end, out_write), (err_end, err_write)) = (pipe(), pipe());
    let (mut out_write, mut err_write) = (out_write, err_write);
    let id = ContainerId { unit: name("web"), generation: 5 };
    for round in 0..10 {
        let ends = (out_end.try_clone().unwrap(), err_end.try_clone().unwrap());
        world.writer().attach(id.clone(), ends.0, ends.1, log(LIMITS));
        write!(out_write, "o{round}").unwrap();
        write!(err_write, "e{round}").unwrap();
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        world.writer.take().unwrap().shutdown();
        out.push(format!("o{round}"));
        err.push(format!("e{round}"));
        (world.writer, world.events) = {
            let (writer, events) = start(&world.dir.0, u64::MAX);
            (Some(writer), events)
        };
    }
    world.writer().attach(id.clone(), out_end, err_end, log(LIMITS));
    world.drain(&Container { id, out: out_write, err: err_write });
    let mut lines = world.read("web", Query::default());
    lines.sort();
    assert_eq!(lines, [format!("5e {}", err.concat()), format!("5o {}", out.concat())]);
    assert!(!world.dir.0.join("web/00000002.log").exists());
}

#[test]
fn a_found_container_costs_no_file_before_its_caps_are_known() {
    let mut world = World::new(u64::MAX);
    let mut web = world.run("web", 1, (4096, 100));
    for _ in 0..40 {
        web.out.write_all(&[b'x'; 2000]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    world.drain(&web);
    let files = |world: &World| std::fs::read_dir(world.dir.0.join("web")).unwrap().count();
    let before = files(&world);
    world.writer.take().unwrap().shutdown();
    let (writer, events) = start(&world.dir.0, u64::MAX);
    (world.writer, world.events) = (Some(writer), events);
    let id = ContainerId { unit: name("web"), generation: 1 };
    let ((out_end, mut out), (err_end, err)) = (pipe(), pipe());
    world.writer().attach_again(id.clone(), out_end, err_end);
    // More than the size at which the default caps would begin a new file and remove all but five.
    (0..11 << 4).for_each(|_| out.write_all(&[b'y'; 64 << 10]).unwrap());
    world.drain(&Container { id, out, err });
    assert!(before > 20 && files(&world) >= before, "{before} files before");
}

#[test]
fn leftovers_of_a_rotation_that_was_cut_short_are_removed() {
    let dir = TempDir::new();
    let unit = dir.0.join("web");
    std::fs::create_dir(&unit).unwrap();
    for leftover in ["00000001.idx", "00000009.idx", "notes.txt"] {
        std::fs::write(unit.join(leftover), "").unwrap();
    }
    std::fs::write(unit.join("00000005.log"), "old\n").unwrap();
    std::fs::write(unit.join("00000005.idx"), [0xff; 21]).unwrap();
    let (writer, events) = start(&dir.0, u64::MAX);
    let world = World { dir, writer: Some(writer), events };
    let mut web = world.run("web", 1, LIMITS);
    writeln!(web.out, "new").unwrap();
    world.drain(&web);
    // What an index does not cover is shown as generation 0's.
    assert_eq!(world.read("web", Query::default()), ["0o old", "1o new"]);
    let left = |name: &str| world.dir.0.join("web").join(name).exists();
    assert!(!left("00000001.idx") && !left("00000009.idx") && left("notes.txt"));
}

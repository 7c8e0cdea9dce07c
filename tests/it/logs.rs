//! The log writer killed at any instruction, and at rest.
//!
//! The writer is this test binary again: [`role_writer`] is it when [`DIR`] is set, and nothing otherwise. The FIFOs are held open by the
//! test, as the keeper does.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use moored::supervise::log::{LogEvent, LogReader, LogWriter, Query, Stream, What};
use moored::unit::{ContainerId, Log, UnitName};
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::support::{TempDir, end_of, tool, wait_for};

/// Names the test's directory to the writer's process.
const DIR: &str = "MOORED_IT_LOG_DIR";
/// What its containers are called, blank-separated.
const UNITS: &str = "MOORED_IT_LOG_UNITS";
const LINES: u64 = 100_000;
/// At least, and then until the stage was used: a machine with much else to do may never find the pipe full twice in a row.
const BUSY_LINES: u64 = 10_000;
const BUSY_LINES_MAX: u64 = 3 * BUSY_LINES;
/// Some megabyte, in one write: so a pipe is filled by whoever waits for room in it, however slow the lines are made.
const BUSY_CHUNK: u64 = 100;
const KILLS: u32 = 20;

fn id(unit: &str) -> ContainerId {
    ContainerId { unit: UnitName::new(unit).unwrap(), generation: 3 }
}

fn limits() -> Log {
    Log { max_size_bytes: 256 << 10, max_files: 10_000 }
}

/// Attaches, goes on until it is killed or the file `drain` appears, drains then, says so, and ends.
#[test]
fn role_writer() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let units = std::env::var(UNITS).unwrap();
    let (post, events) = channel();
    let writer = LogWriter::start(&dir, &dir.join("log"), u64::MAX, move |event| drop(post.send(event))).unwrap();
    for unit in units.split(' ') {
        let read = |name: &str| -> OwnedFd {
            rustix::fs::open(dir.join(unit).join(name), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap()
        };
        writer.attach(id(unit), read("out"), read("err"), limits());
    }
    std::fs::write(dir.join("attached"), "").unwrap();
    wait_for_file(&dir.join("drain"));
    for unit in units.split(' ') {
        writer.drain(id(unit));
        assert!(matches!(events.recv().unwrap(), LogEvent::Drained(_)));
    }
    std::fs::write(dir.join("drained"), "").unwrap();
}

/// Sleeps without waking up: the tests that use it count wake-ups.
fn wait_for_file(path: &Path) {
    use rustix::fs::inotify;
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&inotify, path.parent().unwrap(), inotify::WatchFlags::CREATE).unwrap();
    while !path.exists() {
        let _ = rustix::io::read(&inotify, &mut [0; 4096]);
    }
}

struct World {
    dir: TempDir,
    units: String,
    /// Both ends of every FIFO, as the keeper holds them; of the stage too.
    held: Vec<OwnedFd>,
}

impl World {
    fn new(name: &str, units: &str) -> World {
        let dir = TempDir::new(name);
        let fifo = |path: &Path| {
            rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let mut held = vec![fifo(&dir.join("log.stage"))];
        for unit in units.split(' ') {
            std::fs::create_dir(dir.join(unit)).unwrap();
            for stream in ["out", "err"] {
                held.push(fifo(&dir.join(unit).join(stream)));
            }
        }
        World { dir, units: units.to_owned(), held }
    }

    fn writer(&self) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "logs::role_writer", "--test-threads=1", "--nocapture"])
            .env(DIR, &self.dir.0)
            .env(UNITS, &self.units)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Numbered lines of changing length on one stream, in writes that cut lines anywhere.
    fn write_lines(&self, unit: &str, stream: &str, cut: usize) -> std::thread::JoinHandle<()> {
        let fifo = File::options().write(true).open(self.dir.join(unit).join(stream)).unwrap();
        let name = stream.to_owned();
        std::thread::spawn(move || {
            let mut fifo = BufWriter::with_capacity(cut, fifo);
            for i in 0..LINES {
                writeln!(fifo, "{name} {i} {:width$}", "", width = (i % 61) as usize).unwrap();
                if i % 1000 == 0 {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        })
    }

    fn finish(&self, mut writer: Child) {
        std::fs::write(self.dir.join("drain"), "").unwrap();
        assert!(writer.wait().unwrap().success());
        assert!(self.dir.join("drained").exists());
    }
}

#[test]
fn a_writer_killed_again_and_again_loses_nothing_and_doubles_nothing() {
    let world = World::new("kill", "web");
    let writers = [world.write_lines("web", "out", 4093), world.write_lines("web", "err", 509)];
    let mut seed = 3u64;
    for _ in 0..KILLS {
        let mut writer = world.writer();
        // Some die before they have attached, some in the middle of a splice, some at rest.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros((seed >> 33) % 60_000));
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
    let last = world.writer();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    world.finish(last);
    let mut next = [0u64; 2];
    let unit = UnitName::new("web").unwrap();
    let mut reader = LogReader::open(&world.dir.join("log"), &unit, &Query::default()).unwrap();
    while let Some(entry) = reader.next_entry().unwrap() {
        let (at, name) = if entry.stream == Stream::Out { (0, "out") } else { (1, "err") };
        let What::Line { bytes, .. } = &entry.what else { panic!("{entry:?}") };
        let i = next[at];
        let expected = format!("{name} {i} {:width$}", "", width = (i % 61) as usize);
        assert_eq!(String::from_utf8_lossy(bytes), expected);
        assert_eq!(entry.generation, 3);
        next[at] += 1;
    }
    assert_eq!(next, [LINES; 2]);
    assert!(reader.unfinished().is_empty());
}

/// Lines so long and so fast that they take the way over the stage, which is then where many of the kills find them.
#[test]
fn a_busy_writer_killed_again_and_again_loses_nothing_and_doubles_nothing() {
    let world = World::new("busy", "web");
    // Not padded by format!, which is slower than the log takes lines: the pipe must be full for the stage to be used.
    let padding = " ".repeat(8000 + 8191);
    let line = move |i: u64| format!("{i} {}", &padding[..8000 + (i % 8191) as usize]);
    let mut fifo = File::options().write(true).open(world.dir.join("web/out")).unwrap();
    let owner = world.dir.join("log.owner");
    let is_used = move || std::fs::read_to_string(&owner).is_ok_and(|owner| owner.starts_with("web.3 0 "));
    let was_used = is_used.clone();
    let of_thread = line.clone();
    let printing = std::thread::spawn(move || {
        let mut printed = 0;
        while printed < BUSY_LINES || printed < BUSY_LINES_MAX && !is_used() {
            let lines: Vec<String> = (printed..printed + BUSY_CHUNK).map(&of_thread).collect();
            fifo.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
            printed += BUSY_CHUNK;
        }
        printed
    });
    let mut seed = 3u64;
    let mut kills = 0;
    while !printing.is_finished() && kills < 10 * KILLS {
        let _ = std::fs::remove_file(world.dir.join("attached"));
        let mut writer = world.writer();
        wait_for_file(&world.dir.join("attached"));
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros((seed >> 33) % 10_000));
        writer.kill().unwrap();
        writer.wait().unwrap();
        kills += 1;
    }
    let last = world.writer();
    let printed = printing.join().unwrap();
    world.finish(last);
    assert!(was_used(), "the stage was used");
    let mut reader =
        LogReader::open(&world.dir.join("log"), &UnitName::new("web").unwrap(), &Query::default()).unwrap();
    let mut next = 0;
    while let Some(entry) = reader.next_entry().unwrap() {
        let What::Line { bytes, .. } = &entry.what else { panic!("{entry:?}") };
        assert!(*bytes == line(next).as_bytes(), "line {next} after {kills} kills");
        assert_eq!((entry.generation, entry.stream), (3, Stream::Out));
        next += 1;
    }
    assert_eq!(next, printed);
}

/// Every one of the first calls of each kind that moves the log on: the signal lands before the call, so also between a record and its splice.
#[test]
fn a_writer_killed_at_each_call_keeps_every_byte_its_stream() {
    let Some(strace) = tool("strace") else { return };
    let world = World::new("calls", "web");
    let fifo = |stream: &str| File::options().write(true).open(world.dir.join("web").join(stream)).unwrap();
    let (mut out, mut err) = (fifo("out"), fifo("err"));
    let mut said = 0;
    for call in ["pwrite64", "splice"] {
        for when in 1..=6 {
            // Different streams are ready first in different rounds.
            for _ in 0..=said % 3 {
                writeln!(out, "out {said}").unwrap();
                writeln!(err, "err {said}").unwrap();
                said += 1;
            }
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let mut writer = Command::new(&strace)
                .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "logs::role_writer", "--test-threads=1", "--nocapture"])
                .env(DIR, &world.dir.0)
                .env(UNITS, "web")
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            while end_of(&mut writer, Duration::from_millis(300)).is_none() {
                // Fewer calls so far: more to do.
                writeln!(if said % 2 == 0 { &out } else { &err }, "{} {said}", ["out", "err"][said % 2]).unwrap();
                said += 1;
            }
        }
    }
    world.finish(world.writer());
    let unit = UnitName::new("web").unwrap();
    let mut reader = LogReader::open(&world.dir.join("log"), &unit, &Query::default()).unwrap();
    let mut heard = [Vec::new(), Vec::new()];
    while let Some(entry) = reader.next_entry().unwrap() {
        let What::Line { bytes, .. } = entry.what else { panic!("{entry:?}") };
        let (name, number) = std::str::from_utf8(&bytes).unwrap().split_once(' ').unwrap();
        assert_eq!(name, if entry.stream == Stream::Out { "out" } else { "err" });
        heard[entry.stream as usize].push(number.parse::<usize>().unwrap());
    }
    for numbers in &heard {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }
    let mut all = heard.concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..said).collect::<Vec<_>>());
}

#[test]
fn a_writer_with_nothing_to_do_does_not_wake_up() {
    let mut world = World::new("idle", "a b c");
    // One container whose pipes have no writer any more; the others are silent.
    let writer = world.writer();
    wait_for("the writer", || world.dir.join("attached").exists().then_some(()));
    std::fs::write(world.dir.join("a/out"), "bye\n").unwrap();
    world.held.drain(..2);
    let switches = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", writer.id())).unwrap();
        let statuses = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap());
        let count = |status: String| -> u64 {
            let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
            lines.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        statuses.map(count).sum()
    };
    std::thread::sleep(Duration::from_millis(300));
    let before = switches();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(switches(), before, "wake-ups in two idle seconds");
    world.finish(writer);
}

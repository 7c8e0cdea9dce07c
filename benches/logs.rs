//! Raw log throughput beside `cat`, on the same tmpfs: a payload writes 100-byte lines into a pipe, in blocks of 4000 bytes or line by line; it is
//! timed from its first to its last write, and all bytes must be in the files then.
//!
//! `cargo bench --bench logs [-- MB ROUNDS]`; the ratio is what counts, machines differ.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use moored::supervise::log::{LogEvent, LogWriter};
use moored::unit::{ContainerId, Log, UnitName};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.first().is_some_and(|a| a == "spam") {
        return spam(&arguments[1], &arguments[2]);
    }
    let number = |at: usize, default| arguments.get(at).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (mb, rounds) = (number(0, 1000), number(1, 5));
    let dir = PathBuf::from(format!("/dev/shm/moored-bench-logs-{}", std::process::id()));
    println!("{:6} {:>10} {:>10} {:>7} {:>14}", "mode", "cat MB/s", "ours MB/s", "ratio", "ours CPU s/GB");
    for mode in ["block", "line"] {
        let mut rates: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        let mut cpu = Vec::new();
        for _ in 0..rounds {
            rates[0].push(with_dir(&dir, |dir| cat(dir, mode, mb)));
            let before = cpu_s();
            rates[1].push(with_dir(&dir, |dir| ours(dir, mode, mb)));
            cpu.push((cpu_s() - before) / mb as f64 * 1000.0);
        }
        let [cat, ours] = rates.map(median);
        println!("{mode:6} {cat:10.0} {ours:10.0} {:7.2} {:14.2}", ours / cat, median(cpu));
    }
}

/// The payload: "seconds" on stderr when done.
fn spam(mode: &str, mb: &str) {
    let bytes: usize = mb.parse::<usize>().expect("a number") * 1_000_000;
    let line = format!("{:099}\n", 7);
    let block = line.repeat(if mode == "block" { 40 } else { 1 });
    let unbuffered = std::io::stdout().as_fd().try_clone_to_owned();
    let mut out = File::from(unbuffered.expect("a descriptor"));
    let start = Instant::now();
    for _ in 0..bytes / block.len() {
        out.write_all(block.as_bytes()).expect("a pipe");
    }
    eprintln!("{}", start.elapsed().as_secs_f64());
}

fn with_dir<T>(dir: &Path, run: impl FnOnce(&Path) -> T) -> T {
    std::fs::create_dir_all(dir).expect("tmpfs");
    let result = run(dir);
    std::fs::remove_dir_all(dir).expect("tmpfs");
    result
}

/// MB/s of the payload, whose stdout is `out`.
fn run_payload(mode: &str, mb: usize, out: OwnedFd) -> f64 {
    let itself = std::env::current_exe().expect("this program");
    let mut payload = Command::new(itself)
        .args(["spam", mode, &mb.to_string()])
        .stdout(Stdio::from(out))
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program");
    let mut seconds = String::new();
    payload.stderr.take().expect("piped").read_to_string(&mut seconds).expect("text");
    payload.wait().expect("a child");
    mb as f64 / seconds.trim().parse::<f64>().expect("a number")
}

fn cat(dir: &Path, mode: &str, mb: usize) -> f64 {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let file = File::create(dir.join("cat")).expect("a file");
    let mut cat = Command::new("cat").stdin(Stdio::from(read)).stdout(file).spawn().expect("cat");
    let rate = run_payload(mode, mb, write);
    cat.wait().expect("a child");
    rate
}

fn ours(dir: &Path, mode: &str, mb: usize) -> f64 {
    let (post, events) = std::sync::mpsc::channel();
    let writer = LogWriter::start(dir, dir, u64::MAX, move |event| drop(post.send(event))).expect("a writer");
    let id = ContainerId { unit: UnitName::new("bench").expect("a name"), generation: 1 };
    let (out, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let (err, _keep) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    writer.attach(id.clone(), out, err, Log { max_size_bytes: 40 << 30, max_files: 5 });
    let rate = run_payload(mode, mb, write);
    writer.drain(id);
    match events.recv_timeout(Duration::from_secs(60)) {
        Ok(LogEvent::Drained(_)) => {}
        other => panic!("{other:?}"),
    }
    let stored = std::fs::metadata(dir.join("bench/00000001.log")).expect("a log").len();
    assert_eq!(stored, mb as u64 * 1_000_000, "all bytes are stored");
    rate
}

/// Of this process: the log thread is what works here.
fn cpu_s() -> f64 {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

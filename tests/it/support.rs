//! What scenarios share: temporary directories, roots, and a supervisor of their own, with all that it leaves behind taken away.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for something that should be there soon.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that tells nobody when it changes.
pub const LOOK: Duration = Duration::from_millis(10);
/// How long `moored down` may take before the processes are killed: longer than a program that hears no TERM is given.
const DOWN: Duration = Duration::from_secs(90);

/// Says why a test is not run; panics instead where nothing may be skipped (`MOORED_NO_SKIP=1`, as in CI).
pub fn skip(why: &str) {
    assert!(std::env::var_os("MOORED_NO_SKIP").is_none_or(|value| value != "1"), "may not be skipped: {why}");
    println!("SKIP {why}");
}

/// Whether this is root; says so if not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// A program's path, if it is installed; says so if not.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// A directory that goes when the test ends.
#[derive(Debug)]
pub struct TempDir(pub PathBuf);

impl TempDir {
    /// `name` is for people who look at what a killed test left.
    pub fn new(name: &str) -> TempDir {
        TempDir::below(&std::env::temp_dir(), name)
    }

    /// At a place that is not the usual one.
    pub fn below(place: &Path, name: &str) -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("moored-it-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = place.join(unique);
        fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    /// A path below it.
    pub fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        unmount_below(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Only mounts whose target is below this directory, the deepest first.
fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut targets: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    targets.retain(|target| Path::new(target).starts_with(dir));
    for target in targets.iter().rev() {
        let _ = rustix::mount::unmount(*target, rustix::mount::UnmountFlags::DETACH);
    }
}

/// How long a test goes on waiting. Of the time between two looks [`Patience::STEP`] counts at most: while a machine stands still, as one that
/// its host moves or pauses, nothing can come, though the clock goes on.
pub struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    const STEP: Duration = Duration::from_secs(5);

    pub fn of(whole: Duration) -> Patience {
        Patience { left: whole, looked: Instant::now() }
    }

    /// For how long the next look may wait; zero: it is over.
    pub fn left(&mut self) -> Duration {
        self.left = self.left.saturating_sub(self.looked.elapsed().min(Patience::STEP));
        self.looked = Instant::now();
        self.left.min(Patience::STEP)
    }

    pub fn is_over(&mut self) -> bool {
        self.left().is_zero()
    }
}

/// Looks until `ready` says something, or panics with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let mut patience = Patience::of(PATIENCE);
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(!patience.is_over(), "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

/// A root with a static busybox and its applets in `/bin`, and the directories that mounts need. `None` (skipped) without busybox-static.
pub fn busybox_root(dir: &Path) -> Option<PathBuf> {
    let busybox = tool("busybox")?;
    let root = dir.join("busybox-root");
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "run", "data"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy(&busybox, root.join("bin/busybox")).unwrap();
    let applets = Command::new(&busybox).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
    Some(root)
}

/// `moored up` on directories of its own. Everything it started is gone when this is dropped.
#[derive(Debug)]
pub struct Supervisor {
    /// Holds `units`, `run`, `state`, `log`, and what the test likes.
    pub dir: TempDir,
    /// Of the containers; nobody else uses it.
    pub cgroup_root: String,
    arguments: Vec<String>,
    anchor: Option<Child>,
}

/// The three processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pids {
    pub anchor: Option<i32>,
    pub keeper: i32,
    pub supervisor: i32,
}

/// The binary, another one where `MOORED_BIN` names it.
pub fn program() -> PathBuf {
    std::env::var_os("MOORED_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_moored").into()).into()
}

impl Supervisor {
    /// Makes the directories; nothing runs yet.
    pub fn prepare(name: &str) -> Supervisor {
        Supervisor::prepare_in(TempDir::new(name))
    }

    /// The same in a directory of the caller's choice.
    pub fn prepare_in(dir: TempDir) -> Supervisor {
        fs::create_dir(dir.join("units")).unwrap();
        let cgroup_root = format!("/{}", dir.0.file_name().unwrap().to_string_lossy());
        Supervisor { dir, cgroup_root, arguments: Vec::new(), anchor: None }
    }

    /// Makes the directories and runs it.
    pub fn start(name: &str) -> Supervisor {
        let mut supervisor = Supervisor::prepare(name);
        supervisor.up();
        supervisor
    }

    /// More arguments for `up`.
    pub fn with(mut self, arguments: &[&str]) -> Supervisor {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// The units' directory.
    pub fn units(&self) -> PathBuf {
        self.dir.join("units")
    }

    /// Writes a unit file by rename, as careful people do.
    pub fn unit(&self, name: &str, text: &str) {
        let fresh = self.units().join(format!(".{name}.new"));
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.units().join(format!("{name}.toml"))).unwrap();
    }

    /// Removes a unit file.
    pub fn remove_unit(&self, name: &str) {
        fs::remove_file(self.units().join(format!("{name}.toml"))).unwrap();
    }

    /// The binary with this supervisor's places.
    pub fn moored(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        for (option, place) in
            [("--run-dir", "run"), ("--state-dir", "state"), ("--log-dir", "log"), ("--config", "moored.toml")]
        {
            command.arg(option).arg(self.dir.join(place));
        }
        command.args(["--cgroup-root", &self.cgroup_root]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.moored(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; its standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "moored {} ended with {}\n{out}{err}", arguments.join(" "), output.status);
        out.into_owned()
    }

    /// Starts `up`, and waits until it answers.
    pub fn up(&mut self) {
        let output = fs::File::options().create(true).append(true).open(self.dir.join("up.log")).unwrap();
        let units = self.units().display().to_string();
        let arguments: Vec<String> = self.arguments.clone();
        let mut up = self.moored(&["up", "--units", &units]);
        up.args(arguments).stdout(output.try_clone().unwrap()).stderr(output);
        let mut anchor = up.spawn().unwrap();
        let mut patience = Patience::of(PATIENCE);
        while !self.run(&["ps"]).status.success() {
            let ended = anchor.try_wait().unwrap();
            assert!(ended.is_none() && !patience.is_over(), "up does not answer ({ended:?}):\n{}", self.output());
            std::thread::sleep(LOOK);
        }
        self.anchor = Some(anchor);
    }

    /// What `up` said so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.dir.join("up.log")).unwrap_or_default()
    }

    /// Of the process that was started.
    pub fn anchor_pid(&self) -> i32 {
        self.anchor.as_ref().expect("it was started").id() as i32
    }

    /// `ps --json`.
    pub fn ps(&self) -> Vec<Value> {
        let text = self.ok(&["ps", "--json"]);
        match serde_json::from_str(&text) {
            Ok(Value::Array(units)) => units,
            other => panic!("ps --json is not an array ({other:?}): {text}"),
        }
    }

    /// One row of `ps --json`.
    pub fn find(&self, unit: &str) -> Option<Value> {
        self.ps().into_iter().find(|row| row["unit"] == unit)
    }

    /// Waits until a unit is as wanted, and returns its row.
    pub fn wait_unit(&self, unit: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let mut patience = Patience::of(PATIENCE);
        while !patience.is_over() {
            // A supervisor that was killed is not there for a moment.
            let output = self.run(&["ps", "--json"]);
            let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if let Some(row) = rows.into_iter().find(|row| row["unit"] == unit) {
                if wanted(&row) {
                    return row;
                }
                last = row;
            }
            std::thread::sleep(LOOK);
        }
        panic!("{unit} is not {what} but {last}\n{}\n{}", self.output(), self.log(unit));
    }

    /// Waits for one of these phases.
    pub fn wait_phase(&self, unit: &str, phases: &[&str]) -> Value {
        self.wait_unit(unit, &phases.join(" or "), |row| {
            row["phase"].as_str().is_some_and(|phase| phases.contains(&phase))
        })
    }

    /// Waits until `ps` no longer has it.
    pub fn wait_gone(&self, unit: &str) {
        wait_for(&format!("{unit} to be gone"), || self.find(unit).is_none().then_some(()));
    }

    /// The pid of a unit's first process.
    pub fn pid(&self, unit: &str) -> i32 {
        let row = self.wait_phase(unit, &["running", "ready"]);
        row["pid"].as_i64().unwrap_or_else(|| panic!("{unit} has no pid: {row}")) as i32
    }

    /// All that a unit printed.
    pub fn log(&self, unit: &str) -> String {
        String::from_utf8_lossy(&self.run(&["logs", unit]).stdout).into_owned()
    }

    /// Waits until a unit has printed this.
    pub fn wait_log(&self, unit: &str, text: &str) {
        wait_for(&format!("{unit} to print {text:?}"), || self.log(unit).contains(text).then_some(()));
    }

    /// Anchor, keeper and supervisor.
    pub fn pids(&self) -> Pids {
        let status: Value = serde_json::from_str(&self.ok(&["status", "--json"])).unwrap();
        let pid = |name: &str| status[name].as_i64().map(|pid| pid as i32);
        let need = |name: &str| pid(name).unwrap_or_else(|| panic!("no pid of the {name} in {status}"));
        Pids { anchor: pid("anchor"), keeper: need("keeper"), supervisor: need("supervisor") }
    }

    /// `kill -9` of one of the three; it is a process of this test's own.
    pub fn kill9(&self, pid: i32) {
        kill(pid, rustix::process::Signal::KILL);
    }

    /// Kills the supervisor and waits for the next.
    pub fn next_supervisor(&self) {
        let before = self.pids().supervisor;
        self.kill9(before);
        self.another(|pids| pids.supervisor != before);
    }

    /// Waits until the processes at work are others. A request that a dying supervisor had taken ends unanswered, as it must.
    pub fn another(&self, is_other: impl Fn(Pids) -> bool) {
        wait_for("another process", || {
            let there = self.run(&["status", "--json"]).status.success();
            (there && is_other(self.pids())).then_some(())
        });
    }

    /// TERM to the anchor, as systemd does, and its end.
    pub fn stop(&mut self) -> ExitStatus {
        let mut anchor = self.anchor.take().expect("it was started");
        kill(anchor.id() as i32, rustix::process::Signal::TERM);
        end_of(&mut anchor, DOWN).unwrap_or_else(|| {
            let _ = anchor.kill();
            panic!("TERM did not end it in {DOWN:?}:\n{}", self.output())
        })
    }

    /// The v2 cgroup that holds this supervisor's containers' cgroups.
    pub fn cgroup(&self) -> PathBuf {
        cgroup2().join(self.cgroup_root.trim_start_matches('/'))
    }

    /// Everything that this supervisor may have left.
    fn clean_up(&mut self) {
        if let Ok(mut down) = self.moored(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            end_of(&mut down, DOWN);
            let _ = down.kill();
            let _ = down.wait();
        }
        if let Some(mut anchor) = self.anchor.take() {
            if end_of(&mut anchor, Duration::from_secs(5)).is_none() {
                self.kill_what_is_left();
                let _ = anchor.kill();
                let _ = anchor.wait();
            }
        } else {
            self.kill_what_is_left();
        }
        remove_cgroups(&self.cgroup_root);
    }

    /// Processes whose command line names this supervisor's run directory: no other has that path.
    fn kill_what_is_left(&self) {
        let run = self.dir.join("run").display().to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if pid != std::process::id() as i32 && String::from_utf8_lossy(&line).contains(&run) {
                // A keeper does not name the directory, and would start the supervisor again.
                keeper_of(pid).into_iter().for_each(|keeper| kill(keeper, rustix::process::Signal::KILL));
                kill(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- up said\n{}---", self.output());
        }
        self.clean_up();
    }
}

/// The parent, if it is a keeper.
fn keeper_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    let line = fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    (line == b"moored\0keeper\0").then_some(parent)
}

fn kill(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Waits for a child; `None` if it has not ended in this time.
pub fn end_of(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let mut patience = Patience::of(patience);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if !patience.is_over() => std::thread::sleep(LOOK),
            Ok(None) => return None,
            Err(_) => return Some(ExitStatus::from_raw(0)),
        }
    }
}

/// Where cgroup v2 is mounted: the whole tree, or a hybrid host's `unified`.
pub fn cgroup2() -> PathBuf {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.join("cgroup.procs").exists() { unified.to_owned() } else { "/sys/fs/cgroup".into() }
}

/// Kills what is in the cgroups of this name, and removes them from every hierarchy.
fn remove_cgroups(root: &str) {
    let name = root.trim_start_matches('/');
    assert!(name.starts_with("moored-it-"), "{name} is not a test's");
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        let top = hierarchy.join(name);
        if top.is_dir() {
            let _ = fs::write(top.join("cgroup.kill"), "1");
            remove_tree(&top);
        }
    }
}

/// A cgroup can be removed when it has neither children nor processes; the killed ones need a moment.
fn remove_tree(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    for _ in 0..200 {
        match fs::remove_dir(cgroup) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                std::thread::sleep(LOOK)
            }
            _ => return,
        }
    }
}

/// Copies a program into a directory, executable by all.
pub fn install(program: &Path, target: &Path) {
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(program, target).unwrap();
    fs::set_permissions(target, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_unused_supervisor_leaves_nothing() {
    let supervisor = Supervisor::prepare("unused");
    let dir = supervisor.dir.0.clone();
    supervisor.unit("web", "executable = \"/x\"");
    assert_eq!(fs::read_dir(supervisor.units()).unwrap().count(), 1);
    drop(supervisor);
    assert!(!dir.exists());
}

/// The state letter of `/proc/PID/stat`.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether it has a handler for SIGTERM: a first process without one does not hear it.
pub fn hears_term(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & 1 << (rustix::process::Signal::TERM.as_raw() - 1) != 0)
}

/// Neither gone nor a zombie.
pub fn is_alive(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

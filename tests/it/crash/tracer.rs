//! Stops processes at their system calls, by ptrace(2): counts the calls of each role, and strikes at the n-th of one of them.
//!
//! A role is what a thread is for, by the name that it gave itself: `supervisor hands`, `keeper`, `set-up`. Calls are counted from the
//! moment at which the trace begins (a thread that then waits in a call begins with that call), and across threads of one name.
//!
//! A blow lands before the call: a process that is killed while it stands at the entrance of a call never makes it (ptrace(2)). A call that
//! is to fail is not made either. The trace ends with the blow; who is left goes on as if nobody had looked.
//!
//! Why not strace: it costs a process and its start for each blow, does not say when all is quiet, and cannot tell a child from its parent's
//! thread.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::faults::errors_of;
use super::operations::Victims;
use moored::keeper::CHECK_COMMAND;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Without a call by anybody for this long, and with everybody waiting in one, it is over.
const QUIET: Duration = Duration::from_millis(100);
/// An operation that never becomes quiet is over all the same after this.
const QUIET_MAX: Duration = Duration::from_secs(3);
/// Between two looks at the tracees, once nothing came for a while.
const LOOK: Duration = Duration::from_micros(100);
const EAGER: Duration = Duration::from_micros(500);
/// `PTRACE_EVENT_STOP` of linux/ptrace.h.
const EVENT_STOP: i32 = 128;

/// What a traced process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Anchor,
    Keeper,
    Supervisor,
    /// A child of the keeper's until its program runs.
    SetUp,
    /// One that the helper of an exec made, until its program runs.
    Joining,
}

/// What happens to the one that is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Kill(Victims),
    /// The call fails with this one of its errors (`faults::errors_of`).
    Fail(usize),
}

/// Where to strike.
#[derive(Debug, Clone)]
pub struct Order {
    pub role: String,
    /// The first call is 1. With names, calls of other names are not counted.
    pub n: usize,
    pub blow: Blow,
    pub calls: Option<Vec<i64>>,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Calls by role.
    pub calls: BTreeMap<String, usize>,
    /// Calls by role and number, where asked for.
    pub names: BTreeMap<(String, i64), usize>,
    /// When, and at which call, the blow fell.
    pub struck: Option<(Instant, i64)>,
    /// The call was there, and cannot fail.
    pub passed: bool,
}

struct Tracee {
    kind: Kind,
    process: Pid,
    role: String,
    in_call: bool,
    call: i64,
    fail: Option<i32>,
}

/// A trace under way, by a thread of its own: only the thread that seized may go on.
pub struct Tracer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Nothing more is going to be asked of them.
    asked: AtomicBool,
    seen: Mutex<Seen>,
}

struct Trace {
    tracees: HashMap<Pid, Tracee>,
    /// Born, and not yet announced by the parent.
    early: Vec<Pid>,
    follow: bool,
    keeper: i32,
    order: Option<Order>,
    shared: Arc<Shared>,
    last: Instant,
}

impl Tracer {
    /// Begins; returns when every thread of these is traced. `follow`: their children too, until they execute a program that is not ours.
    pub fn begin(subjects: &[(i32, Kind)], follow: bool, keeper: i32, order: Option<Order>) -> Tracer {
        let shared = Arc::new(Shared::default());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (subjects, for_thread) = (subjects.to_vec(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            let (tracees, early) = (HashMap::new(), Vec::new());
            let mut trace = Trace { tracees, early, follow, keeper, order, shared: for_thread, last: Instant::now() };
            subjects.iter().for_each(|(pid, kind)| trace.seize_all(*pid, *kind));
            let _ = ready.send(());
            trace.run();
        });
        let _ = is_ready.recv();
        Tracer { shared, thread: Some(thread) }
    }

    /// Whether the blow has fallen.
    pub fn has_struck(&self) -> bool {
        self.shared.seen.lock().unwrap().struck.is_some()
    }

    /// Waits until all is quiet or the blow has fallen, and lets go.
    pub fn finish(mut self) -> Seen {
        self.shared.asked.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.shared.asked.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Trace {
    fn seize_all(&mut self, pid: i32, kind: Kind) {
        // Threads that come meanwhile are found by the next look, or come as children of one that is traced.
        for _ in 0..3 {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let tasks = tasks.filter_map(|task| task.file_name().to_str()?.parse::<i32>().ok()).map(Pid::from_raw);
            for task in tasks.collect::<Vec<_>>() {
                if self.tracees.contains_key(&task) || ptrace::seize(task, self.options()).is_err() {
                    continue;
                }
                let _ = ptrace::interrupt(task);
                let role = role_of(kind, pid, task.as_raw());
                self.add(task, Tracee::new(kind, Pid::from_raw(pid), role));
            }
        }
    }

    fn options(&self) -> Options {
        let threads = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEEXEC;
        let children = Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
        if self.follow { threads | children } else { threads }
    }

    fn add(&mut self, task: Pid, tracee: Tracee) {
        self.tracees.insert(task, tracee);
    }

    fn run(&mut self) {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        let mut asked_since = None;
        while !self.tracees.is_empty() {
            match waitpid(Pid::from_raw(-1), Some(flags)) {
                Ok(WaitStatus::StillAlive) => {
                    let idle = self.last.elapsed();
                    if self.shared.asked.load(Ordering::Relaxed) {
                        let since = *asked_since.get_or_insert_with(Instant::now);
                        let waits = self.tracees.values().all(|tracee| tracee.in_call) && self.early.is_empty();
                        if waits && idle > QUIET && since.elapsed() > QUIET || since.elapsed() > QUIET_MAX {
                            return;
                        }
                    }
                    if idle > EAGER { std::thread::sleep(LOOK) } else { std::thread::yield_now() }
                }
                Ok(status) => {
                    self.last = Instant::now();
                    if self.take(status) {
                        return;
                    }
                }
                // A signal that nix does not know, or nobody is left.
                Err(_) => return,
            }
        }
    }

    /// True: it is over.
    fn take(&mut self, status: WaitStatus) -> bool {
        match status {
            WaitStatus::PtraceSyscall(task) => return self.at_call(task),
            WaitStatus::PtraceEvent(task, _, event) => self.at_event(task, event),
            WaitStatus::Stopped(task, signal) => {
                let _ = ptrace::syscall(task, Some(signal));
            }
            WaitStatus::Exited(task, _) | WaitStatus::Signaled(task, ..) => {
                self.tracees.remove(&task);
                self.early.retain(|early| *early != task);
            }
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
        false
    }

    fn at_event(&mut self, task: Pid, event: i32) {
        match event {
            libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                if let Ok(child) = ptrace::getevent(task) {
                    self.born(task, Pid::from_raw(child as i32));
                }
            }
            libc::PTRACE_EVENT_EXEC => {
                let Some(tracee) = self.tracees.get_mut(&task) else { return };
                match tracee.kind {
                    Kind::Supervisor | Kind::Keeper | Kind::Anchor => {
                        tracee.role = role_of(tracee.kind, task.as_raw(), task.as_raw());
                    }
                    Kind::SetUp | Kind::Joining => {
                        self.tracees.remove(&task);
                        let _ = ptrace::detach(task, None);
                        return;
                    }
                }
            }
            EVENT_STOP => {
                if let Some(tracee) = self.tracees.get_mut(&task) {
                    tracee.in_call = false;
                } else {
                    // It goes on when its parent has said whose it is.
                    return self.early.push(task);
                }
            }
            _ => {}
        }
        let _ = ptrace::syscall(task, None);
    }

    fn born(&mut self, parent: Pid, child: Pid) {
        let Some(of) = self.tracees.get(&parent) else { return };
        let is_thread = fs::read_dir(format!("/proc/{}/task/{child}", of.process)).is_ok();
        let tracee = match (of.kind, is_thread) {
            (kind, true) => Tracee::new(kind, of.process, format!("{} new thread", word(kind))),
            // Containers are made by clone3, whatever else by fork.
            (Kind::Keeper | Kind::Anchor, false) if of.call != libc::SYS_clone3 => {
                Tracee::new(Kind::Supervisor, child, "supervisor before exec".to_owned())
            }
            (Kind::Keeper | Kind::Anchor, false) => Tracee::new(Kind::SetUp, child, word(Kind::SetUp).to_owned()),
            (Kind::SetUp | Kind::Joining, false) => Tracee::new(Kind::Joining, child, word(Kind::Joining).to_owned()),
            (Kind::Supervisor, false) => Tracee::new(Kind::SetUp, child, "supervisor child".to_owned()),
        };
        self.add(child, tracee);
        if let Some(at) = self.early.iter().position(|early| *early == child) {
            self.early.swap_remove(at);
            let _ = ptrace::syscall(child, None);
        }
    }

    /// True: the blow has fallen, and all is over.
    fn at_call(&mut self, task: Pid) -> bool {
        let Ok(info) = ptrace::syscall_info(task) else { return false };
        let Some(tracee) = self.tracees.get_mut(&task) else { return false };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            tracee.in_call = false;
            if tracee.call == libc::SYS_prctl && tracee.kind == Kind::Supervisor {
                tracee.role = role_of(tracee.kind, tracee.process.as_raw(), task.as_raw());
            }
            if let Some(errno) = tracee.fail.take() {
                set_result(task, errno);
                return true;
            }
            let _ = ptrace::syscall(task, None);
            return false;
        }
        tracee.in_call = true;
        tracee.call = number(task);
        let (role, call, process) = (tracee.role.clone(), tracee.call, tracee.process);
        let struck = self.count(task, role, call);
        match struck {
            None => {
                let _ = ptrace::syscall(task, None);
            }
            Some(Blow::Kill(victims)) => {
                // At once as far as that can be: the caller cannot go on before it is let go.
                let keeper = Some(Pid::from_raw(self.keeper));
                let both = match victims {
                    Victims::Caller | Victims::CallerAfterKeeper => [Some(process), None],
                    Victims::Keeper => [None, keeper],
                    Victims::CallerAndKeeper => [Some(process), keeper],
                };
                for victim in both.into_iter().flatten() {
                    let _ = nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL);
                }
                return true;
            }
            Some(Blow::Fail(variant)) => {
                if let Some(tracee) = self.tracees.get_mut(&task) {
                    tracee.fail = errors_of(call).and_then(|errors| errors.get(variant).copied());
                }
                skip_call(task);
                let _ = ptrace::syscall(task, None);
            }
        }
        false
    }

    fn count(&mut self, task: Pid, role: String, call: i64) -> Option<Blow> {
        let mut seen = self.shared.seen.lock().unwrap();
        *seen.names.entry((role.clone(), call)).or_default() += 1;
        let count = seen.calls.entry(role.clone()).or_default();
        *count += 1;
        let order = self.order.as_ref().filter(|order| order.role == role)?;
        let count = match &order.calls {
            None => *count,
            Some(calls) if calls.contains(&call) => {
                calls.iter().filter_map(|call| seen.names.get(&(role.clone(), *call))).sum()
            }
            Some(_) => return None,
        };
        if count != order.n || seen.struck.is_some() {
            return None;
        }
        if matches!(order.blow, Blow::Fail(_)) && (errors_of(call).is_none() || is_of_eventfd(task, call)) {
            seen.passed = true;
            return None;
        }
        seen.struck = Some((Instant::now(), call));
        Some(order.blow)
    }
}

impl Tracee {
    fn new(kind: Kind, process: Pid, role: String) -> Tracee {
        Tracee { kind, process, role, in_call: false, call: -1, fail: None }
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Anchor => "anchor",
        Kind::Keeper => "keeper",
        Kind::Supervisor => "supervisor",
        Kind::SetUp => "set-up",
        Kind::Joining => "joining process",
    }
}

fn role_of(kind: Kind, process: i32, task: i32) -> String {
    if kind != Kind::Supervisor {
        return word(kind).to_owned();
    }
    if process == task {
        // An upgrade's: also a child that executes our own program.
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let is_check = String::from_utf8_lossy(&line).split('\0').any(|word| word == CHECK_COMMAND);
        return if is_check { "dry run" } else { "supervisor main" }.to_owned();
    }
    let name = fs::read_to_string(format!("/proc/{process}/task/{task}/comm")).unwrap_or_default();
    format!("supervisor {}", name.trim())
}

/// An eventfd is a number in the kernel: reading and adding to it fail only for what the caller does wrong.
fn is_of_eventfd(task: Pid, call: i64) -> bool {
    let fd = ptrace::getregs(task).map_or(u64::MAX, |registers| registers.rdi);
    let link = fs::read_link(format!("/proc/{task}/fd/{fd}"));
    matches!(call, libc::SYS_read | libc::SYS_write)
        && link.is_ok_and(|link| link.as_os_str() == "anon_inode:[eventfd]")
}

/// Which call it stands before.
fn number(task: Pid) -> i64 {
    ptrace::getregs(task).map_or(-1, |registers| registers.orig_rax as i64)
}

/// Has the kernel skip the call that `task` stands before.
fn skip_call(task: Pid) {
    if let Ok(mut registers) = ptrace::getregs(task) {
        registers.orig_rax = u64::MAX;
        let _ = ptrace::setregs(task, registers);
    }
}

/// Lets a call that was skipped come back with this error.
fn set_result(task: Pid, errno: i32) {
    if let Ok(mut registers) = ptrace::getregs(task) {
        registers.rax = i64::from(-errno) as u64;
        let _ = ptrace::setregs(task, registers);
    }
}

//! `moored debug`: the host's tools where a unit is.
//!
//! | the unit | what one gets |
//! |---|---|
//! | runs | a program of the host's in the container's pid, network, IPC, UTS and cgroup namespaces; the host's mounts, and `/proc` of the container's processes; it begins in the container's root, `/proc/1/root` |
//! | runs with `profile = "host"` | nothing: it is where any shell of the host's is |
//! | is not running, `rootfs` or a bundle | a program in that directory, in the host's namespaces |
//! | is not running, `layers` | the same in the union of its layers and of what is kept above them, mounted for this program alone and read-only |
//! | is not running, `executable` | nothing: its root is made for each start |
//!
//! **Rights.** The program has all rights of the host's root, whatever the container has: it is in the container's namespaces, and not in its
//! user namespace, its cgroup, its filter. So what belongs to the container stays what it looks at, not what it runs: that is `moored exec`. Processes
//! of the container see it in their `/proc`; only with CAP_SYS_PTRACE, and the host's ids, may they lay hands on it, and that is said.
//!
//! **How.** The supervisor says which process and which root. That process is held by a pidfd and asked for once more, so that its number
//! means it. A fork enters its namespaces; a fork of that one is born in the pid namespace, where it mounts `/proc` for itself alone, and executes
//! the program on the caller's own terminal: nothing is in between, so job control, size and keys are the shell's and the terminal's. Nobody
//! but the caller knows of it. It ends with the container, whose pid namespace it is in.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, mount, mount_change,
};
use rustix::process::{DumpableBehavior, PidfdFlags, pidfd_open, set_dumpable_behavior};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::args::{Debug, Kind};
use super::ask::one_answer;
use super::exec::EXIT_NOT_RUN;
use super::{Failure, print_note};
use crate::control::protocol::{Request, Response, Root, Subject};
use crate::sys::clone::{Request as Fork, Side, clone3, leave, unshare};

/// The container's root, as its processes are numbered.
const INSIDE: &str = "/proc/1/root";

/// capabilities(7).
const CAP_SYS_PTRACE: u32 = 19;

/// Runs it to its end: the program's exit code, 128 + signal.
pub fn debug(run_dir: &Path, args: Debug) -> Result<u8, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::NotRoot("debug"));
    }
    let found = ask(run_dir, &args.unit)?;
    let program = program(args.args);
    match (&found.id, found.pid, &found.root) {
        (_, _, Root::Host) => refuse(format!(
            "{} is a service of the host's: it is where your shell is, and its tools are the host's",
            found.unit
        )),
        (Some(id), Some(pid), _) => {
            let pidfd = hold(run_dir, &args.unit, id, pid)?;
            let kinds = chosen(&args.target);
            note(&format!(
                "{id}: with all rights of the host's root, in its {} namespaces; its root is {}",
                words(&kinds),
                inside(&kinds, pid)
            ))?;
            if may_trace(pid) {
                note(&format!("{id} has CAP_SYS_PTRACE: it could take over what you run here, and with it the host"))?;
            }
            let code = run(&program, Place::Container { pidfd: &pidfd, kinds: &kinds, pid })?;
            if code == 137 && is_gone(&pidfd) {
                note(&format!("{id} has ended, and all that was in its pid namespace with it"))?;
            }
            Ok(code)
        }
        (Some(id), None, _) => refuse(format!("{id} is just being started: try again")),
        (None, _, Root::Program) => refuse(format!(
            "{} is not running, and the root of an executable is made for each start: there is nothing to look at",
            found.unit
        )),
        (None, _, Root::Directory { path }) => {
            note(&format!("{} is not running: this is its root, {}, as the host has it", found.unit, path.display()))?;
            run(&program, Place::Directory(path))
        }
        (None, _, Root::Layers { layers, upper }) => {
            note(&format!(
                "{} is not running: this is the union of its layers, read-only and for you alone",
                found.unit
            ))?;
            let place = run_dir.join("debug");
            run(&program, Place::Union { layers, upper: upper.as_deref(), at: &place })
        }
    }
}

fn ask(run_dir: &Path, unit: &str) -> Result<Subject, Failure> {
    match one_answer(run_dir, &Request::Subject { unit: unit.to_owned() })? {
        Response::Subject(found) => Ok(*found),
        _ => Err(Failure::WrongAnswer),
    }
}

fn refuse<T>(message: String) -> Result<T, Failure> {
    Err(Failure::Refused { message, code: EXIT_NOT_RUN })
}

/// Only somebody who looks at a terminal is told: what a script reads is the program's.
fn note(text: &str) -> Result<(), Failure> {
    if io::stderr().is_terminal() { print_note(text) } else { Ok(()) }
}

fn program(args: Vec<String>) -> Vec<String> {
    if !args.is_empty() {
        return args;
    }
    let shell = std::env::var("SHELL").ok().filter(|shell| shell.starts_with('/') && Path::new(shell).exists());
    vec![shell.unwrap_or_else(|| "/bin/sh".to_owned())]
}

// --- where ------------------------------------------------------------------------------------------------------

const ALL: [Kind; 5] = [Kind::Pid, Kind::Net, Kind::Ipc, Kind::Uts, Kind::Cgroup];

fn chosen(target: &[Kind]) -> Vec<Kind> {
    ALL.into_iter().filter(|kind| target.is_empty() || target.contains(kind)).collect()
}

fn words(kinds: &[Kind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.word()).collect();
    names.join(", ")
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Pid => "pid",
            Kind::Net => "net",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Cgroup => "cgroup",
        }
    }

    fn flag(self) -> ThreadNameSpaceType {
        match self {
            Kind::Pid => ThreadNameSpaceType::PROCESS_ID,
            Kind::Net => ThreadNameSpaceType::NETWORK,
            Kind::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
            Kind::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
            Kind::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
        }
    }
}

/// Where the container's root is found, as the program sees processes.
fn inside(kinds: &[Kind], pid: i32) -> String {
    if kinds.contains(&Kind::Pid) { INSIDE.to_owned() } else { format!("/proc/{pid}/root") }
}

/// Opens the process while its number is surely its own: whoever had it before was asked about before, and after.
fn hold(run_dir: &Path, unit: &str, id: &str, pid: i32) -> Result<OwnedFd, Failure> {
    let gone = || Failure::Refused { message: format!("{id} has just ended"), code: EXIT_NOT_RUN };
    let number = rustix::process::Pid::from_raw(pid).ok_or_else(gone)?;
    let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(|_| gone())?;
    let again = ask(run_dir, unit)?;
    let same = again.id.as_deref() == Some(id) && again.pid == Some(pid);
    let own = std::fs::read_link("/proc/self/ns/mnt").ok();
    match std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() {
        Some(theirs) if same && Some(&theirs) != own.as_ref() => Ok(pidfd),
        Some(_) if same => refuse(format!("{id} is still being set up: try again")),
        Some(_) | None => Err(gone()),
    }
}

/// Whether processes with the container's rights may trace one with all of them: with the capability, and not in a user namespace.
fn may_trace(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(u64::MAX);
    let users = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/user")).ok();
    bounding & (1 << CAP_SYS_PTRACE) != 0 && users(&pid.to_string()) == users("self")
}

fn is_gone(pidfd: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

// --- the program ------------------------------------------------------------------------------------------------

/// Where it begins.
enum Place<'p> {
    Container { pidfd: &'p OwnedFd, kinds: &'p [Kind], pid: i32 },
    Directory(&'p Path),
    Union { layers: &'p [PathBuf], upper: Option<&'p Path>, at: &'p Path },
}

/// This process has one thread, so what it forks may be ordinary code.
fn run(program: &[String], place: Place) -> Result<u8, Failure> {
    let failed = |step: &'static str| move |source: io::Error| Failure::Terminal { step, source };
    match clone3(&Fork::default()).map_err(failed("forking"))? {
        Side::Child => {
            let code = match go(program, &place) {
                Ok(code) => code,
                Err((what, why)) => not_run(&format!("{what}: {why}"), EXIT_NOT_RUN),
            };
            leave(i32::from(code))
        }
        Side::Parent { pid, .. } => follow(pid).map_err(failed("waiting")),
    }
}

type Step<T> = Result<T, (String, io::Error)>;

fn at<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> (String, io::Error) {
    let what = what.into();
    move |why| (what, why.into())
}

/// In the fork: enters, forks again where the pid namespace is another one, and executes.
fn go(program: &[String], place: &Place) -> Step<u8> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at("prctl"))?;
    match place {
        Place::Directory(path) => {
            std::env::set_current_dir(path).map_err(at(path.display().to_string()))?;
            Ok(execute(program, path))
        }
        Place::Union { layers, upper, at: mount_point } => {
            own_mounts()?;
            union(layers, *upper, mount_point)?;
            Ok(execute(program, mount_point))
        }
        Place::Container { pidfd, kinds, pid } => {
            let flags = kinds.iter().fold(ThreadNameSpaceType::empty(), |all, kind| all | kind.flag());
            let outside = format!("/proc/{pid}/root");
            let root = open(&outside, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(at(outside.clone()))?;
            move_into_thread_name_spaces(pidfd.as_fd(), flags)
                .map_err(at("entering the namespaces of the container"))?;
            let own_proc = kinds.contains(&Kind::Pid);
            match clone3(&Fork::default()).map_err(at("forking inside"))? {
                Side::Child => {
                    let done = enter_root(&root, own_proc).map(|()| {
                        let inside = if own_proc { INSIDE } else { &outside };
                        execute(program, Path::new(inside))
                    });
                    let code = done.unwrap_or_else(|(what, why)| not_run(&format!("{what}: {why}"), EXIT_NOT_RUN));
                    leave(i32::from(code))
                }
                Side::Parent { pid, .. } => follow(pid).map_err(at("waiting")),
            }
        }
    }
}

/// A `/proc` of the container's processes, which nobody else sees, and the container's root as the working directory.
fn enter_root(root: &OwnedFd, own_proc: bool) -> Step<()> {
    if !own_proc {
        return rustix::process::fchdir(root).map_err(at("chdir"));
    }
    own_mounts()?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).map_err(at("mounting /proc"))?;
    std::env::set_current_dir(INSIDE).map_err(at(INSIDE))
}

fn own_mounts() -> Step<()> {
    unshare(libc::CLONE_NEWNS).map_err(at("making a mount namespace"))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(at("mount propagation"))
}

/// All layers as lower ones: the union cannot be written, and what is kept is neither locked nor touched.
fn union(layers: &[PathBuf], upper: Option<&Path>, place: &Path) -> Step<()> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let paths = upper.into_iter().chain(layers.iter().rev().map(PathBuf::as_path));
    let opened = paths.map(|path| open(path, directory, Mode::empty()).map_err(at(path.display().to_string())));
    let opened: Vec<OwnedFd> = opened.collect::<Step<_>>()?;
    std::fs::create_dir_all(place).map_err(at(place.display().to_string()))?;
    if let [one] = &opened[..] {
        return rustix::process::fchdir(one).map_err(at("chdir"));
    }
    // As short as they can be: before Linux 6.5 there is room for 255 bytes.
    let numbers: Vec<String> = opened.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    std::env::set_current_dir("/proc/self/fd").map_err(at("/proc/self/fd"))?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("overlayfs"))?;
    let made = fsconfig_set_string(&context, "source", "moored")
        .and_then(|()| fsconfig_set_string(&context, "lowerdir", numbers.join(":")))
        .and_then(|()| fsconfig_create(&context))
        .and_then(|()| fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV));
    let tree = made.map_err(at("mounting the union"))?;
    let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", CWD, place, flags).map_err(at(place.display().to_string()))?;
    std::env::set_current_dir(place).map_err(at(place.display().to_string()))
}

/// Comes back only where it cannot be executed. `here` is what the working directory is called: the root of another mount namespace has no
/// name that getcwd(3) could find, and shells take the one of `PWD` if it leads there.
fn execute(program: &[String], here: &Path) -> u8 {
    let Some((name, args)) = program.split_first() else { return EXIT_NOT_RUN };
    let why = Command::new(name).args(args).env("PWD", here).env_remove("OLDPWD").exec();
    match why.kind() {
        io::ErrorKind::NotFound => not_run(
            &format!("{name}: not found on the host (debug runs the host's programs, `moored exec` the container's)"),
            127,
        ),
        _ => not_run(&format!("{name}: {why}"), 126),
    }
}

fn not_run(text: &str, code: u8) -> u8 {
    // Nobody is left to hear that it cannot be told.
    let _ = print_note(text);
    code
}

/// Waits as a shell does: the keys of the terminal are the program's, and what stops it stops us.
fn follow(pid: i32) -> io::Result<u8> {
    let pid = Pid::from_raw(pid);
    let keys: SigSet = [Signal::SIGINT, Signal::SIGQUIT].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&keys), None)?;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code).unwrap_or(EXIT_NOT_RUN)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(128u8.saturating_add(u8::try_from(signal as i32).unwrap_or(0)));
            }
            Ok(WaitStatus::Stopped(..)) => {
                raise(Signal::SIGSTOP)?;
                kill(pid, Signal::SIGCONT)?;
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

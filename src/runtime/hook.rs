//! Running hooks: a program with the container's state on its standard input, and an end to its patience.
//!
//! A hook runs in the namespaces of whoever calls [`run_all`], in a process group of its own. What it says is kept for the error if it fails,
//! up to [`SAID_MAX`] bytes, or goes where the caller's own output goes. What it leaves running in the background is left alone when it succeeds, and killed with its group when its time is up.
//! The state is a file in memory: a hook that does not read it cannot hold anybody up, and `/dev/stdin` can be opened.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::oci::Hook;

/// How much of what a hook says is told when it fails; the end counts.
const SAID_MAX: usize = 2048;
/// Where a filter hides pidfd_open(2), the hook is looked at this often.
const LOOK: Duration = Duration::from_millis(10);

/// A hook that failed, by its field.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {path}: {why}{}", after(.said))]
pub struct HookError {
    field: String,
    path: String,
    why: Why,
    said: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{}", words(.0))]
    Execute(std::io::Error),
    #[error("exited with {0}")]
    Code(i32),
    #[error("ended by signal {0}")]
    Signal(i32),
    #[error("not done after {0} s, its timeout, and killed")]
    Timeout(u64),
    #[error("killed, since the container it was for has ended")]
    Pointless,
}

fn words(error: &std::io::Error) -> String {
    super::error::words(super::error::errno_of(error))
}

fn after(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    match text.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

/// Keeps what this command was started with beyond the standard streams, as `--preserve-fds` needs it, from hooks.
pub(super) fn keep_descriptors() {
    // Without close_range(2) (before Linux 5.11) hooks inherit what the caller let us inherit.
    let _ = crate::sys::fd::cloexec_from(3);
}

/// Runs them one after the other up to the first that fails. `cwd` is entered first where there is one.
pub fn run_all(hooks: &[Hook], state: &str, cwd: Option<&Path>) -> Result<(), HookError> {
    hooks.iter().try_for_each(|hook| run(hook, state, cwd, None, None))
}

/// The same in the directory and with the environment of the container's process.
pub(super) fn run_all_as_the_process(hooks: &[Hook], state: &str, env: &[String]) -> Result<(), HookError> {
    hooks.iter().try_for_each(|hook| run(hook, state, None, Some(env), None))
}

/// The same for as long as the process behind this pidfd lives: without it they are killed.
pub(super) fn run_all_for(
    process: BorrowedFd<'_>,
    hooks: &[Hook],
    state: &str,
    cwd: Option<&Path>,
) -> Result<(), HookError> {
    hooks.iter().try_for_each(|hook| run(hook, state, cwd, None, Some(process)))
}

/// Runs all of them, and says what went wrong.
pub fn run_each(hooks: &[Hook], state: &str, cwd: Option<&Path>) -> Vec<HookError> {
    hooks.iter().filter_map(|hook| run(hook, state, cwd, None, None).err()).collect()
}

/// With the environment that it inherits, if it does and it is not that of whoever runs it.
fn run(
    hook: &Hook,
    state: &str,
    cwd: Option<&Path>,
    inherited: Option<&[String]>,
    lives: Option<BorrowedFd<'_>>,
) -> Result<(), HookError> {
    let mut said = Vec::new();
    // It may be gone by the time the container is.
    let cwd = cwd.filter(|cwd| cwd.is_dir());
    let running = execute(hook, state, cwd, inherited).map_err(Why::Execute);
    let ended = running.and_then(|running| running.wait(hook, lives, &mut said));
    ended.map_err(|why| HookError { field: hook.field.clone(), path: hook.path.clone(), why, said })
}

struct Running {
    child: Child,
    /// Of one that is heard.
    output: Option<OwnedFd>,
}

fn execute(hook: &Hook, state: &str, cwd: Option<&Path>, inherited: Option<&[String]>) -> std::io::Result<Running> {
    let mut stdin = File::from(memfd_create(c"moored-state", MemfdFlags::CLOEXEC)?);
    stdin.write_all(state.as_bytes()).and_then(|()| stdin.rewind())?;
    let mut command = Command::new(&hook.path);
    let (name, args) = hook.args.split_first().map_or((&hook.path, &[][..]), |(name, args)| (name, args));
    command.arg0(name).args(args).process_group(0);
    let env = match inherited.filter(|_| hook.inherits) {
        Some(inherited) => inherited,
        None => &hook.env,
    };
    if !hook.inherits || inherited.is_some() {
        command.env_clear();
    }
    command.envs(env.iter().filter_map(|entry| entry.split_once('=')));
    cwd.map(|cwd| command.current_dir(cwd));
    command.stdin(stdin);
    if hook.to_log {
        return Ok(Running { child: command.spawn()?, output: None });
    }
    let (output, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // The hook's end waits when it is full; ours does not.
    rustix::io::ioctl_fionbio(&output, true)?;
    command.stdout(write.try_clone()?).stderr(write);
    Ok(Running { child: command.spawn()?, output: Some(output) })
}

impl Running {
    fn wait(mut self, hook: &Hook, lives: Option<BorrowedFd<'_>>, said: &mut Vec<u8>) -> Result<(), Why> {
        let deadline = hook.timeout_s.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let mut open = true;
        loop {
            open = open && self.output.as_ref().is_some_and(|output| hear(output, said));
            if let Some(status) = self.child.try_wait().map_err(Why::Execute)? {
                if let Some(output) = &self.output {
                    hear(output, said);
                }
                return outcome(status);
            }
            if lives.is_some_and(has_ended) {
                self.kill(pid);
                return Err(Why::Pointless);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                self.kill(pid);
                return Err(Why::Timeout(hook.timeout_s.unwrap_or_default()));
            }
            let heard = self.output.iter().filter(|_| open);
            let mut watched: Vec<PollFd<'_>> =
                pidfd.iter().chain(heard).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            watched.extend(lives.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let patience = if pidfd.is_some() { left } else { Some(left.map_or(LOOK, |left| left.min(LOOK))) };
            let patience = patience
                .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
            // What is interrupted is looked at again.
            let _ = poll(&mut watched, patience.as_ref());
        }
    }

    /// Its number is its own: it is not reaped before.
    fn kill(&mut self, pid: Option<Pid>) {
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)).
fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    matches!(poll(&mut watched, Some(&Timespec::default())), Ok(1..))
}

fn outcome(status: ExitStatus) -> Result<(), Why> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Why::Code(code)),
        (None, signal) => Err(Why::Signal(signal.unwrap_or_default())),
    }
}

/// Takes what is there; whether more may come. One turn is bounded, so that a hook that never stops talking meets its deadline.
fn hear(output: &OwnedFd, said: &mut Vec<u8>) -> bool {
    const TURNS: usize = 64;
    let mut bytes = [0u8; SAID_MAX];
    for _ in 0..TURNS {
        match rustix::io::read(output.as_fd(), &mut bytes) {
            Ok(0) => return false,
            Ok(length) => said.extend_from_slice(bytes.get(..length).unwrap_or_default()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return true,
            Err(_) => return false,
        }
        said.drain(..said.len().saturating_sub(SAID_MAX));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout_s: Option<u64>) -> Hook {
        let args = ["name", "-c", script].map(str::to_owned).to_vec();
        Hook {
            field: "hooks.x[0]".into(),
            path: "/bin/sh".into(),
            args,
            env: vec!["A=b c".into()],
            inherits: false,
            timeout_s,
            to_log: false,
        }
    }

    fn failure(hook: Hook) -> String {
        run_all(&[hook], "{}", None).unwrap_err().to_string()
    }

    #[test]
    fn a_hook_gets_its_state_arguments_environment_and_directory_and_nothing_else() {
        let script = r#"test "$(cat)" = '{"id":"x"}' && test "$(cat /dev/stdin)" = '{"id":"x"}' && test "$0" = name &&
            test "$(tr '\0' '\n' </proc/$$/environ)" = "A=b c" && test "$(/bin/pwd)" = /usr"#;
        run_all(&[hook(script, Some(60))], r#"{"id":"x"}"#, Some(Path::new("/usr"))).unwrap();
    }

    #[test]
    fn failures_name_the_field_the_program_and_the_end_of_what_it_said() {
        assert_eq!(
            failure(hook("echo out; echo err >&2; exit 3", None)),
            "hooks.x[0]: /bin/sh: exited with 3: out\nerr"
        );
        assert_eq!(failure(hook("kill -9 $$", None)), "hooks.x[0]: /bin/sh: ended by signal 9");
        let none = Hook { path: "/no/such".into(), ..hook("", None) };
        assert_eq!(failure(none), "hooks.x[0]: /no/such: no such file or directory");
        let long =
            failure(hook("i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; echo end; exit 1", None));
        assert!(long.ends_with("end") && long.len() < SAID_MAX + 100, "{}", long.len());
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed_with_its_children() {
        let begun = Instant::now();
        let text = failure(hook("sleep 1000 & echo $! ; wait", Some(1)));
        assert!(begun.elapsed() >= Duration::from_secs(1));
        let (text, pid) = text.rsplit_once(": ").unwrap();
        assert_eq!(text, "hooks.x[0]: /bin/sh: not done after 1 s, its timeout, and killed");
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Whose child it is now may take its time to reap it.
        while !state().is_empty() && !state().contains(") Z ") {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_it_leaves_in_the_background_holds_nobody_up() {
        let begun = Instant::now();
        run_all(&[hook("sleep 3 & exit 0", None)], "{}", None).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_hook_for_a_process_that_ends_is_killed_with_it() {
        let mut process = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_raw(process.id() as i32).unwrap(), PidfdFlags::empty()).unwrap();
        let ends = std::thread::spawn(move || {
            process.kill().unwrap();
            process.wait().unwrap();
        });
        let failure = run_all_for(pidfd.as_fd(), &[hook("sleep 1000", None)], "{}", None).unwrap_err().to_string();
        ends.join().unwrap();
        assert_eq!(failure, "hooks.x[0]: /bin/sh: killed, since the container it was for has ended");
    }

    #[test]
    fn the_first_failure_ends_the_list_unless_each_is_to_be_run() {
        let hooks = [hook("exit 1", None), hook("exit 2", None)];
        assert!(run_all(&hooks, "{}", None).unwrap_err().to_string().ends_with("exited with 1"));
        assert_eq!(run_each(&hooks, "{}", None).len(), 2);
    }
}

//! `moored init` as process 1 of a pid namespace, as in a container. That of a machine is tested by `vm_init`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::support::{Supervisor, end_of, is_root, tool, wait_for};

const UNIT: &str =
    "executable = \"/bin/busybox\"\nprocess.args = [\"/busybox\", \"sleep\", \"100000\"]\nstop.timeout = \"1s\"\n";

/// `moored` with the supervisor's places, in a pid namespace of its own.
pub fn unshared(supervisor: &Supervisor, options: &[&str], words: &[&str]) -> Command {
    let inner = supervisor.moored(words);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).args(options).arg(inner.get_program()).args(inner.get_args());
    command.stdin(Stdio::null());
    command
}

/// The only child of `unshare`, as this namespace numbers it.
pub fn process_1(unshare: &Child) -> i32 {
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let parent = |stat: String| stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<u32>().ok();
    let names = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let pids = names.filter(|name| name.parse::<i32>().is_ok());
    let mut children = pids.filter(|pid| stat(pid).and_then(parent) == Some(unshare.id()));
    children.next().and_then(|pid| pid.parse().ok()).expect("unshare has a child")
}

#[test]
fn it_is_the_init_of_a_namespace_and_ends_with_a_code() {
    if !is_root() || tool("unshare").is_none() || tool("busybox").is_none() {
        return;
    }
    let supervisor = Supervisor::prepare("process1");
    supervisor.unit("web", UNIT);
    let units = supervisor.units().display().to_string();
    let log = fs::File::create(supervisor.dir.join("up.log")).unwrap();
    // `/init` with words that mean nothing would take the default places: with these it takes ours.
    let mut command = unshared(&supervisor, &["--mount-proc"], &["init", "--units", &units]);
    let mut unshare = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    wait_for("it answers", || supervisor.run(&["ps"]).status.success().then_some(()));
    supervisor.wait_phase("web", &["running"]);
    let pids = supervisor.pids();
    assert_eq!(pids.anchor, Some(1));
    // Nothing was mounted: what the namespace sees is what it was given.
    let init = process_1(&unshare);
    let cgroups = |text: String| text.lines().filter(|line| line.contains(" - cgroup2 ")).count();
    let mounts = |pid: &str| cgroups(fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap());
    assert_eq!(mounts(&init.to_string()), mounts("self"));
    let status =
        rustix::process::kill_process(rustix::process::Pid::from_raw(init).unwrap(), rustix::process::Signal::TERM);
    status.unwrap();
    let ended = end_of(&mut unshare, Duration::from_secs(20)).expect("it ends after TERM");
    assert_eq!((ended.code(), ended.signal()), (Some(0), None), "{}", supervisor.output());
    assert!(supervisor.output().contains("web.1 exited"), "{}", supervisor.output());
}

#[test]
fn down_ends_the_init_of_a_namespace() {
    if !is_root() || tool("unshare").is_none() || tool("busybox").is_none() {
        return;
    }
    let supervisor = Supervisor::prepare("process1-down");
    supervisor.unit("web", UNIT);
    let units = supervisor.units().display().to_string();
    let mut command = unshared(&supervisor, &["--mount-proc"], &["init", "--units", &units]);
    let mut unshare = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("it answers", || supervisor.run(&["ps"]).status.success().then_some(()));
    supervisor.wait_phase("web", &["running"]);
    supervisor.ok(&["down"]);
    assert_eq!(end_of(&mut unshare, Duration::from_secs(20)).and_then(|ended| ended.code()), Some(0));
}

#[test]
fn without_a_proc_of_its_own_it_says_what_is_missing() {
    if !is_root() || tool("unshare").is_none() {
        return;
    }
    let supervisor = Supervisor::prepare("process1-proc");
    let output = unshared(&supervisor, &[], &["init"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("/proc is that of another pid namespace"), "{}", said(&output));
}

#[test]
fn elsewhere_it_is_refused_with_what_to_use() {
    let supervisor = Supervisor::prepare("process1-not");
    let output = supervisor.run(&["init"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output).contains("elsewhere use `moored up`"), "{}", said(&output));
    for order in ["poweroff", "reboot", "halt"] {
        let output = supervisor.run(&[order]);
        assert_eq!(output.status.code(), Some(1), "{order}");
        assert!(said(&output).contains("process 1 is not moored but `"), "{}", said(&output));
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

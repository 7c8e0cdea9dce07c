//! `moored exec` and `[reload] exec`: processes that join a running container.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;

use super::support::{PATIENCE, Supervisor, busybox_root, end_of, is_root, wait_for};

/// A service in a busybox root that ends at once on TERM, with `more` in its unit; `None` (skipped) where there is none to be had.
fn web(name: &str, more: &str) -> Option<Supervisor> {
    if !is_root() {
        return None;
    }
    let supervisor = Supervisor::start(name);
    let root = busybox_root(&supervisor.dir.0)?;
    let text = format!(
        "rootfs = \"{}\"\n{more}\n[process]\nargs = [\"/bin/sh\", \"-c\", \"trap 'exit 0' TERM; echo up; while :; do sleep 1 & wait; done\"]\n",
        root.display()
    );
    supervisor.unit("web", &text);
    supervisor.wait_log("web", "up");
    Some(supervisor)
}

fn exec(supervisor: &Supervisor, args: &[&str]) -> Output {
    supervisor.run(&[&["exec"], args].concat())
}

/// Standard output of a shell inside that must succeed.
fn sh(supervisor: &Supervisor, script: &str) -> String {
    supervisor.ok(&["exec", "web", "--", "sh", "-c", script])
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The v2 cgroup of the unit's container.
fn cgroup(supervisor: &Supervisor) -> PathBuf {
    let container = fs::read_dir(supervisor.cgroup()).unwrap().flatten().map(|entry| entry.path());
    container.filter(|path| path.is_dir()).find(|path| path.to_string_lossy().contains("/web.")).unwrap()
}

/// The process in the container that was started as `sleep N`.
fn sleeper(supervisor: &Supervisor, seconds: &str) -> Option<i32> {
    let pids = fs::read_to_string(cgroup(supervisor).join("cgroup.procs")).unwrap_or_default();
    let wanted = format!("sleep\0{seconds}\0");
    pids.lines()
        .find(|pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default() == wanted.as_bytes())?
        .parse()
        .ok()
}

fn wait_sleeper(supervisor: &Supervisor, seconds: &str) -> i32 {
    wait_for(&format!("sleep {seconds}"), || sleeper(supervisor, seconds))
}

fn wait_no_sleeper(supervisor: &Supervisor, seconds: &str) {
    wait_for(&format!("the end of sleep {seconds}"), || sleeper(supervisor, seconds).is_none().then_some(()));
}

/// A client that runs until its process ends.
fn client(supervisor: &Supervisor, args: &[&str]) -> Child {
    let mut command = supervisor.moored(&[&["exec"], args].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Nothing of any session is left: no child of the keeper's but the container, no process but the container's own.
fn assert_nothing_left(supervisor: &Supervisor) {
    let keeper = supervisor.pids().keeper;
    let expected = [supervisor.pid("web"), supervisor.pids().supervisor];
    wait_for("the keeper to have no other child", || {
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        children.split_whitespace().all(|pid| expected.contains(&pid.parse().unwrap())).then_some(())
    });
}

#[test]
fn a_process_that_joins_is_in_the_containers_namespaces_and_cgroups() {
    let Some(supervisor) = web("exec-inside", "[resources]\nmemory = \"64M\"\n[oci.process]\noomScoreAdj = 300\n")
    else {
        return;
    };
    let init = supervisor.pid("web");
    let mut sleeping = client(&supervisor, &["web", "--", "sleep", "4242"]);
    let inside = wait_sleeper(&supervisor, "4242");
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"] {
        let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_eq!(of(inside), of(init), "{namespace}");
    }
    let cgroups = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroups(inside), cgroups(init));
    assert!(cgroups(inside).contains(&supervisor.cgroup_root));
    let status = |pid: i32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status(inside).lines().find_map(|line| line.strip_prefix("PPid:\t").map(str::to_owned));
    assert_eq!(parent, Some(supervisor.pids().keeper.to_string()), "its exit is the keeper's to know");
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups"] {
        let of = |pid: i32| status(pid).lines().find(|line| line.starts_with(field)).map(str::to_owned);
        assert_eq!(of(inside), of(init), "{field}");
    }
    for file in ["oom_score_adj", "limits"] {
        let of = |pid: i32| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        assert_eq!(of(inside), of(init), "{file}");
    }
    assert_eq!(fs::read_to_string(format!("/proc/{inside}/oom_score_adj")).unwrap(), "300\n");
    assert!(status(inside).contains("Seccomp:\t2"));
    assert!(status(inside).contains("CapEff:\t0000000000000000"));
    let open = fs::read_dir(format!("/proc/{inside}/fd")).unwrap().count();
    assert_eq!(open, 3, "stdin, stdout, stderr and nothing else");
    assert_eq!(
        fs::read_link(format!("/proc/{inside}/cwd")).unwrap(),
        fs::read_link(format!("/proc/{init}/cwd")).unwrap()
    );
    supervisor.kill9(inside);
    assert_eq!(sleeping.wait().unwrap().code(), Some(137));
    assert_eq!(supervisor.pid("web"), init, "the container is as it was");
    assert_nothing_left(&supervisor);
}

#[test]
fn streams_codes_and_words_are_as_if_the_program_ran_here() {
    let Some(supervisor) = web("exec-codes", "") else { return };
    let mut cat = supervisor.moored(&["exec", "-i", "web", "--", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let sent = vec![b'x'; 1 << 20];
    let (mut to, mut from, data) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || to.write_all(&data).unwrap());
    let mut got = Vec::new();
    from.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == sent && cat.wait().unwrap().success(), "{} bytes came back", got.len());

    let both = exec(&supervisor, &["web", "--", "sh", "-c", "echo out; echo err >&2; cat; exit 7"]);
    assert_eq!((both.stdout.as_slice(), stderr(&both).as_str(), code(&both)), (&b"out\n"[..], "err\n", Some(7)));
    assert_eq!(code(&exec(&supervisor, &["web", "--", "sh", "-c", "kill -TERM $$"])), Some(143));

    let said = |args: &[&str]| {
        let output = exec(&supervisor, args);
        (code(&output).unwrap(), stderr(&output))
    };
    let missing = "moored: exec: \"no-such\": executable file not found in $PATH\n";
    assert_eq!(said(&["web", "--", "no-such"]), (127, missing.to_owned()));
    let missing = "moored: exec: \"/no/such\": stat /no/such: no such file or directory\n";
    assert_eq!(said(&["web", "--", "/no/such"]), (127, missing.to_owned()));
    assert_eq!(
        said(&["web", "--", "/etc/passwd"]),
        (126, "moored: exec: \"/etc/passwd\": permission denied\n".to_owned())
    );
    let (not_run, words) = said(&["-w", "/no-such", "web", "--", "true"]);
    assert!(not_run == 125 && words.contains("/no-such: no such file or directory"), "{not_run} {words}");
    let (not_run, words) = said(&["-u", "mallory", "web", "--", "true"]);
    assert!(not_run == 125 && words.contains("no user mallory in /etc/passwd"), "{not_run} {words}");
    let (not_run, words) = said(&["wbe", "--", "true"]);
    assert!(not_run == 125 && words.contains("did you mean `web`"), "{not_run} {words}");

    let own = supervisor.ok(&[
        "exec",
        "-u",
        "nobody",
        "-w",
        "/tmp",
        "-e",
        "A=b",
        "web",
        "--",
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $A; grep -c . /proc/1/stat",
    ]);
    assert_eq!(own, "65534\n65534\n/tmp\nb\n1\n");
    let reopened = ["-u", "nobody", "web", "--", "sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr"];
    let output = exec(&supervisor, &reopened);
    assert_eq!((output.stdout.as_slice(), stderr(&output).as_str()), (&b"out\n"[..], "err\n"));
    assert_nothing_left(&supervisor);
}

#[test]
fn the_user_of_a_container_may_open_his_own_output_again() {
    let Some(supervisor) = web("exec-streams", "") else { return };
    let root = supervisor.dir.join("busybox-root");
    let args = r#"["sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr; id -u"]"#;
    let text =
        format!("rootfs = \"{}\"\ntype = \"oneshot\"\n[process]\nuser = \"nobody\"\nargs = {args}\n", root.display());
    supervisor.unit("once", &text);
    supervisor.wait_phase("once", &["completed"]);
    let log = supervisor.log("once");
    let mut lines: Vec<&str> = log.lines().collect();
    // Two streams have no order between them.
    lines.sort_unstable();
    assert_eq!(lines, ["65534", "err", "out"]);
}

#[test]
fn a_stopped_unit_has_nothing_to_run_in() {
    let Some(supervisor) = web("exec-stopped", "") else { return };
    supervisor.ok(&["stop", "web"]);
    let output = exec(&supervisor, &["web", "--", "true"]);
    assert_eq!(code(&output), Some(125));
    assert!(stderr(&output).contains("web is not running"), "{}", stderr(&output));
}

/// Our side of a terminal of 33 rows and 99 columns, and the side for a program.
fn terminal() -> (fs::File, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    tcsetwinsize(&master, Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    (fs::File::from(master), slave)
}

fn on_terminal(mut command: Command, slave: &OwnedFd) -> Child {
    let copy = || Stdio::from(slave.as_fd().try_clone_to_owned().unwrap());
    command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().unwrap()
}

/// Reads what the terminal shows until it shows `text`.
fn read_until(master: &mut fs::File, text: &str) -> String {
    let mut shown = String::new();
    let mut chunk = [0u8; 4096];
    while !shown.contains(text) {
        let got = master.read(&mut chunk).unwrap_or_else(|error| panic!("{error} after {shown:?}"));
        shown.push_str(&String::from_utf8_lossy(&chunk[..got]));
    }
    shown
}

#[test]
fn a_terminal_has_the_callers_size_and_is_raw_on_his_side() {
    let Some(supervisor) = web("exec-terminal", "") else { return };
    let (mut master, slave) = terminal();
    let canonical =
        |slave: &OwnedFd| tcgetattr(slave).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO);
    assert!(canonical(&slave));
    let mut shell = on_terminal(supervisor.moored(&["exec", "-it", "web", "--", "sh"]), &slave);
    // Typed before the shell is there, it is not lost.
    master.write_all(b"echo size $(stty size) $(tty)\n").unwrap();
    read_until(&mut master, "size 33 99 /dev/pts/");
    assert!(!canonical(&slave), "the caller's terminal is raw meanwhile");
    tcsetwinsize(&master, Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    // Nobody's controlling terminal: whoever has one is told by the kernel.
    let pid = rustix::process::Pid::from_raw(shell.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    wait_for("the new size", || {
        master.write_all(b"echo size $(stty size) now\n").unwrap();
        read_until(&mut master, " now\r\n").contains("size 40 120 now").then_some(())
    });
    // The terminal's own keys work inside: the line discipline there makes a signal of ^C.
    master.write_all(b"trap 'echo got int' INT; sleep 77\n").unwrap();
    wait_sleeper(&supervisor, "77");
    master.write_all(b"\x03").unwrap();
    read_until(&mut master, "got int");
    wait_no_sleeper(&supervisor, "77");
    master.write_all(b"exit 5\n").unwrap();
    assert_eq!(end_of(&mut shell, PATIENCE).and_then(|status| status.code()), Some(5));
    assert!(canonical(&slave), "and is as it was afterwards");
    let (mut master, slave) = terminal();
    let own = "echo mine $TERM >$(tty) && stat -c %U $(tty)";
    let mut nobody = supervisor.moored(&["exec", "-it", "-u", "nobody", "web", "--", "sh", "-c", own]);
    nobody.env("TERM", "vt100");
    let mut shell = on_terminal(nobody, &slave);
    let shown = read_until(&mut master, "nobody\r\n");
    assert_eq!(shown, "mine vt100\r\nnobody\r\n", "the terminal is its user's, and of the caller's kind");
    assert!(end_of(&mut shell, PATIENCE).unwrap().success());
    assert_nothing_left(&supervisor);
}

#[test]
fn a_shell_inside_has_jobs_and_outlives_the_supervisor_and_a_client_that_is_told_to_end_leaves_the_terminal_as_it_was()
{
    let Some(supervisor) = web("exec-jobs", "") else { return };
    let (mut master, slave) = terminal();
    let before = tcgetattr(&slave).unwrap().local_modes;
    let mut shell = on_terminal(supervisor.moored(&["exec", "-it", "-e", "PS1=> ", "web", "--", "sh"]), &slave);
    let mut line = |text: &str, until: &str| {
        master.write_all(text.as_bytes()).unwrap();
        read_until(&mut master, until)
    };
    // ^Z stops the job in the foreground, the shell goes on with it among its jobs, and takes it to the foreground again.
    line("", "> ");
    line("sleep 811\n", "sleep 811\r\n");
    let sleeping = wait_sleeper(&supervisor, "811");
    // A shell that has not come back from a job may throw away what is typed ahead.
    assert!(line("\x1a", "> ").contains("Stopped"));
    let state =
        || fs::read_to_string(format!("/proc/{sleeping}/stat")).unwrap().rsplit(") ").next().unwrap().to_owned();
    assert!(state().starts_with('T'), "{}", state());
    line("jobs; echo seen''.\n", "seen.");
    line("fg\n", "fg\r\nsleep 811");
    wait_for("it to go on", || state().starts_with('S').then_some(()));
    line("\x03", "> ");
    wait_no_sleeper(&supervisor, "811");
    // ^D at a prompt is the end of the input; a program that reads gets it, and the shell not.
    line("echo re''ady; cat; echo ca''t $?\n", "ready\r\n");
    line("text\n", "text\r\ntext\r\n");
    line("\x04", "cat 0");
    // Nothing of it goes through the supervisor.
    let supervising = supervisor.pids().supervisor;
    supervisor.kill9(supervising);
    line("echo st''ill\n", "still");
    wait_for("another supervisor", || supervisor.run(&["ps"]).status.success().then_some(()));
    line("echo ag''ain\n", "again");
    assert_ne!(tcgetattr(&slave).unwrap().local_modes, before, "raw");
    let pid = rustix::process::Pid::from_raw(shell.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(end_of(&mut shell, PATIENCE).and_then(|status| status.code()), Some(143));
    assert_eq!(tcgetattr(&slave).unwrap().local_modes, before, "as it was");
    assert_nothing_left(&supervisor);
}

#[test]
fn a_client_that_goes_takes_its_process_along() {
    let Some(supervisor) = web("exec-gone", "") else { return };
    let mut plain = client(&supervisor, &["web", "--", "sh", "-c", "sleep 501; true"]);
    let (_master, slave) = terminal();
    let mut with_terminal =
        on_terminal(supervisor.moored(&["exec", "-it", "web", "--", "sh", "-c", "sleep 502; true"]), &slave);
    for (client, seconds) in [(&mut plain, "501"), (&mut with_terminal, "502")] {
        wait_sleeper(&supervisor, seconds);
        client.kill().unwrap();
        client.wait().unwrap();
        wait_no_sleeper(&supervisor, seconds);
    }
    assert_nothing_left(&supervisor);
}

#[test]
fn a_container_that_ends_takes_its_sessions_along() {
    let Some(supervisor) = web("exec-stop", "") else { return };
    let mut inside = client(&supervisor, &["web", "--", "sh", "-c", "trap '' TERM HUP; sleep 701"]);
    wait_sleeper(&supervisor, "701");
    // Pid 1 of a pid namespace has not ended before all others of it are reaped, this one by the keeper.
    supervisor.ok(&["stop", "web"]);
    assert_eq!(inside.wait().unwrap().code(), Some(137));
    supervisor.wait_phase("web", &["stopped"]);
}

#[test]
fn a_hundred_at_once_leave_nothing() {
    let Some(supervisor) = web("exec-many", "") else { return };
    assert_eq!(sh(&supervisor, "echo warm"), "warm\n");
    let fds = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let pids = supervisor.pids();
    assert_nothing_left(&supervisor);
    // What a start leaves to be written down is written beside it, and would count.
    let state = supervisor.dir.join("state");
    let writes = |fd: fs::DirEntry| {
        fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(&state))
            && fs::metadata(fd.path()).is_ok_and(|file| file.is_file())
    };
    wait_for("the state to be written", || {
        let mut open = fs::read_dir(format!("/proc/{}/fd", pids.supervisor)).unwrap().flatten();
        (!open.any(writes)).then_some(())
    });
    let before = (fds(pids.keeper), fds(pids.supervisor));
    let clients: Vec<Child> =
        (0..100).map(|n| client(&supervisor, &["web", "--", "sh", "-c", &format!("echo {n}; exit {n}")])).collect();
    for (n, client) in clients.into_iter().enumerate() {
        let output = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((code(&output), said), (Some(n as i32), format!("{n}\n")), "{}", stderr(&output));
    }
    assert_nothing_left(&supervisor);
    wait_for("their descriptors to be closed", || ((fds(pids.keeper), fds(pids.supervisor)) == before).then_some(()));
    let children = fs::read_dir(cgroup(&supervisor)).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(children, 0, "no cgroup of their own");
    let zombies = sh(&supervisor, "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l");
    assert_eq!(zombies.trim(), "0");
}

#[test]
fn a_session_survives_the_keeper_and_the_supervisor_and_not_its_client() {
    let Some(supervisor) = web("exec-kill9", "") else { return };
    let init = supervisor.pid("web");
    let mut first = client(&supervisor, &["web", "--", "sh", "-c", "sleep 601; exit 9"]);
    let sleeping = wait_sleeper(&supervisor, "601");
    let before = supervisor.pids();
    supervisor.kill9(before.keeper);
    wait_for("another keeper", || {
        let status: Value = serde_json::from_slice(&supervisor.run(&["status", "--json"]).stdout).ok()?;
        (status["keeper"].as_i64()? as i32 != before.keeper).then_some(())
    });
    assert!(first.try_wait().unwrap().is_none(), "its client has noticed nothing");
    supervisor.kill9(sleeping);
    assert_eq!(first.wait().unwrap().code(), Some(9), "and its code is known");

    let mut second = client(&supervisor, &["web", "--", "sh", "-c", "sleep 602; exit 8"]);
    let sleeping = wait_sleeper(&supervisor, "602");
    for _ in 0..3 {
        let before = supervisor.pids().supervisor;
        supervisor.kill9(before);
        wait_for("another supervisor", || (supervisor.pids().supervisor != before).then_some(()));
    }
    assert!(second.try_wait().unwrap().is_none(), "its client has come back each time");
    supervisor.kill9(sleeping);
    assert_eq!(second.wait().unwrap().code(), Some(8));

    // One that goes while there is nobody to notice it.
    let mut third = client(&supervisor, &["web", "--", "sleep", "603"]);
    wait_sleeper(&supervisor, "603");
    let frozen = rustix::process::Pid::from_raw(supervisor.pids().supervisor).unwrap();
    rustix::process::kill_process(frozen, rustix::process::Signal::STOP).unwrap();
    third.kill().unwrap();
    third.wait().unwrap();
    supervisor.kill9(frozen.as_raw_nonzero().get());
    wait_no_sleeper(&supervisor, "603");
    assert_eq!(supervisor.pid("web"), init, "the container is as it was");
    assert_nothing_left(&supervisor);
}

#[test]
fn a_frozen_container_holds_up_nobody_else() {
    let Some(supervisor) = web("exec-frozen", "") else { return };
    let freeze = cgroup(&supervisor).join("cgroup.freeze");
    fs::write(&freeze, "1").unwrap();
    let mut waiting = client(&supervisor, &["web", "--", "true"]);
    let is_ours = |pid: &&str| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with(b"moored");
    // Frozen at its birth, before it could let go of anything.
    let born = wait_for("its process", || {
        let pids = fs::read_to_string(cgroup(&supervisor).join("cgroup.procs")).unwrap();
        pids.lines().find(is_ours).map(str::to_owned)
    });
    let open = fs::read_dir(format!("/proc/{born}/fd"))
        .unwrap()
        .flatten()
        .map(|fd| fs::read_link(fd.path()).unwrap_or_default());
    let theirs: Vec<PathBuf> = open.filter(|target| target.to_string_lossy().starts_with("socket:")).collect();
    assert!(theirs.is_empty(), "it holds the keeper's {theirs:?}");
    let root = supervisor.dir.join("busybox-root");
    supervisor.unit("other", &format!("rootfs = \"{}\"\n[process]\nargs = [\"sleep\", \"1000\"]\n", root.display()));
    supervisor.wait_phase("other", &["running", "ready"]);
    assert!(waiting.try_wait().unwrap().is_none());
    fs::write(&freeze, "0").unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reload_runs_its_command_inside_and_says_how_it_failed() {
    let Some(supervisor) = web(
        "exec-reload",
        "[reload]\nexec = [\"sh\", \"-c\", \"echo reloading; exit $(cat /tmp/code)\"]\n[[mount]]\ntype = \"tmpfs\"\ntarget = \"/tmp\"\n",
    ) else {
        return;
    };
    let init = supervisor.pid("web");
    sh(&supervisor, "echo 0 >/tmp/code");
    supervisor.ok(&["reload", "web"]);
    supervisor.wait_log("web", "reloading");
    sh(&supervisor, "echo 3 >/tmp/code");
    let failed = supervisor.run(&["reload", "web"]);
    assert!(!failed.status.success(), "{failed:?}");
    let said = stderr(&failed) + &String::from_utf8_lossy(&failed.stdout);
    assert!(said.contains("the reload command exited with code 3"), "{said}");
    let row = supervisor.find("web").unwrap();
    assert!(row.to_string().contains("the reload command exited with code 3"), "{row}");
    let events = supervisor.ok(&["events"]);
    assert!(events.contains("the reload command exited with code 3"), "{events}");
    assert_eq!(supervisor.pid("web"), init);
    assert_nothing_left(&supervisor);
}

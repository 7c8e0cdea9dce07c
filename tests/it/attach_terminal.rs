//! `moored attach` to a unit's terminal: somebody at a terminal of his own types, sees, resizes, leaves, dies, and comes again.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use super::leaks::settled;
use super::support::{Patience, end_of, program, wait_for};
use super::world::{Running, World};

const PATIENCE: Duration = Duration::from_secs(60);
/// A shell on its terminal; it would not hear of the signal to stop.
const SHELL: &str = "PS1='> ' exec sh";
const TERMINAL: &str = "terminal = true\n[stop]\ntimeout = \"0s\"";
const DETACH: &[u8] = b"\x10\x11";

/// Somebody who is attached, at a terminal of 33 rows and 99 columns.
struct User {
    client: Child,
    /// What he types into and sees.
    screen: File,
    /// The other end of it, and how it was before.
    line: OwnedFd,
    before: Termios,
    /// What he was shown behind what was waited for last.
    ahead: Vec<u8>,
}

impl User {
    fn attach(world: &World, arguments: &[&str]) -> User {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let screen = openpt(flags).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let line = ioctl_tiocgptpeer(&screen, flags).unwrap();
        let before = tcgetattr(&line).unwrap();
        let end = || Stdio::from(line.try_clone().unwrap());
        let mut command = world.moored(&["attach"]);
        command.args(arguments).stdin(end()).stdout(end()).stderr(end());
        let client = command.spawn().unwrap();
        let mut user = User { client, screen: File::from(screen), line, before, ahead: Vec::new() };
        user.resize(33, 99);
        user
    }

    /// Attached, and seen to be: his terminal is raw.
    fn at(world: &World, unit: &str) -> User {
        let user = User::attach(world, &[unit]);
        wait_for("raw mode", || (!user.is_canonical()).then_some(()));
        user
    }

    fn is_canonical(&self) -> bool {
        tcgetattr(&self.line).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// As a window that is dragged: nobody has this terminal as his own, so nobody would be told.
    fn resize(&mut self, rows: u16, columns: u16) {
        tcsetwinsize(&self.screen, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        self.signal(Signal::WINCH);
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.client.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn types(&mut self, keys: &[u8]) {
        self.screen.write_all(keys).unwrap();
    }

    /// What he sees up to this.
    fn sees(&mut self, text: &str) -> String {
        let mut chunk = [0u8; 4096];
        let mut patience = Patience::of(PATIENCE);
        loop {
            if let Some(at) = self.ahead.windows(text.len()).position(|shown| shown == text.as_bytes()) {
                let ahead = self.ahead.split_off(at + text.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.ahead, ahead)).into_owned();
            }
            let mut fds = [PollFd::new(&self.screen, PollFlags::IN)];
            let left = Timespec::try_from(patience.left()).unwrap();
            if poll(&mut fds, Some(&left)).unwrap() == 0 {
                assert!(!patience.is_over(), "never seen: {text:?}, but {:?}", String::from_utf8_lossy(&self.ahead));
                continue;
            }
            let got = rustix::io::read(&self.screen, &mut chunk).unwrap();
            self.ahead.extend_from_slice(&chunk[..got]);
        }
    }

    /// Types a line, and waits for what comes of it.
    fn runs(&mut self, line: &str, until: &str) -> String {
        self.types(format!("{line}\n").as_bytes());
        self.sees(until)
    }

    /// How he ended; his terminal is as it was.
    fn ended(mut self, code: i32) {
        let status = end_of(&mut self.client, PATIENCE).expect("the client ends");
        assert_eq!(status.code(), Some(code));
        let modes = |modes: &Termios| (modes.local_modes, modes.input_modes, modes.output_modes, modes.control_modes);
        assert_eq!(modes(&tcgetattr(&self.line).unwrap()), modes(&self.before), "the terminal is as it was");
    }

    fn detaches(mut self) {
        self.types(DETACH);
        self.sees("detached from it, it runs on");
        self.ended(0);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// Whether a `sleep` of so long is there, and in the foreground of its terminal.
fn sleeps_in_front(seconds: &str) -> bool {
    let line = format!("sleep\0{seconds}\0");
    let of = |directory: &std::path::Path| {
        let is_it = fs::read(directory.join("cmdline")).ok()? == line.as_bytes();
        let stat = fs::read_to_string(directory.join("stat")).ok()?;
        // proc_pid_stat(5): behind the name state, ppid, pgrp, session, tty_nr, tpgid.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(is_it && fields.get(2)? == fields.get(5)?)
    };
    fs::read_dir("/proc").unwrap().flatten().any(|entry| of(&entry.path()) == Some(true))
}

fn shell(name: &str) -> Option<(World, Running)> {
    let world = World::start(name)?;
    world.script("web", SHELL, TERMINAL);
    let running = world.running("web");
    Some((world, running))
}

#[test]
fn a_shell_is_joined_left_and_joined_again_by_several() {
    let Some((world, running)) = shell("attach-shell") else { return };
    let mut one = User::at(&world, "web");
    one.runs("echo size $(stty size) $(tty)", "size 33 99 /dev/pts/0");
    one.resize(40, 120);
    wait_for("the new size", || {
        one.runs("echo size $(stty size) now''.", " now.").contains("size 40 120").then_some(())
    });
    // The keys of the terminal are the program's.
    one.runs("sleep 7701; echo sl''ept $?", "sleep 7701");
    wait_for("the sleeper", || sleeps_in_front("7701").then_some(()));
    one.types(b"\x03");
    wait_for("its end", || (!sleeps_in_front("7701")).then_some(()));
    one.sees("> ");
    one.runs("echo fr''ee", "free");
    let mut two = User::at(&world, "web");
    two.runs("echo from t''wo", "from two");
    one.sees("from two");
    one.runs("echo from o''ne", "from one");
    two.sees("from one");
    // The keys that detach may come apart, and half of them is the program's.
    one.runs("echo re''ady; cat; echo af''ter", "ready\r\n");
    one.types(b"ha\x10");
    one.types(b"lf\n");
    one.sees("ha^Plf\r\nha\x10lf\r\n");
    one.types(b"\x04");
    one.sees("after");
    one.types(&DETACH[..1]);
    one.types(&DETACH[1..]);
    one.sees("detached from it, it runs on");
    one.ended(0);
    two.runs("echo st''ill", "still");
    two.client.kill().unwrap();
    two.client.wait().unwrap();
    let mut again = User::at(&world, "web");
    again.runs("echo ag''ain $$", "again 1");
    again.signal(Signal::TERM);
    again.ended(143);
    assert_eq!(world.running("web"), running, "nobody's coming and going was anything to it");
    let log = world.log("web");
    for said in ["free\r\n", "from two\r\n", "from one\r\n", "after\r\n", "still\r\n", "again 1\r\n"] {
        assert_eq!(log.matches(said).count(), 1, "{said:?} in {log}");
    }
}

#[test]
fn it_goes_on_over_every_death_an_upgrade_and_the_units_own_restarts() {
    let Some((world, running)) = shell("attach-deaths") else { return };
    let mut user = User::at(&world, "web");
    let mut asked = 0;
    let mut answers = |user: &mut User| {
        asked += 1;
        user.runs(&format!("echo an''swer {asked}"), &format!("answer {asked}\r\n"));
    };
    answers(&mut user);
    let pids = world.pids();
    world.kill9(pids.supervisor);
    // What is shown comes by way of the log, which the next one writes.
    answers(&mut user);
    world.another(|now| now.supervisor != pids.supervisor);
    answers(&mut user);
    world.ok(&["upgrade", program().to_str().unwrap()]);
    answers(&mut user);
    let pids = world.pids();
    world.kill9(pids.keeper);
    world.kill9(pids.supervisor);
    world.another(|now| now.keeper != pids.keeper && now.supervisor != pids.supervisor);
    answers(&mut user);
    assert_eq!(world.running("web"), running);
    user.resize(20, 60);
    wait_for("the new size", || {
        user.runs("echo size $(stty size) now''.", " now.").contains("size 20 60").then_some(())
    });
    // It is attached to the next run as well.
    world.ok(&["restart", "web"]);
    let next = world.replaced("web", &running);
    let mut patience = Patience::of(PATIENCE);
    while !world.log("web").contains("next ru\r\n") {
        assert!(!patience.is_over(), "{}", world.log("web"));
        user.types(b"echo next r''u\n");
        std::thread::sleep(Duration::from_millis(20));
    }
    user.sees("next ru\r\n");
    assert_eq!(world.running("web"), next);
    world.ok(&["stop", "web"]);
    user.sees("it is stopped");
    user.ended(0);
    let (code, _, err) = world.says(&["attach", "web"]);
    assert!(code == 1 && err.contains("web is not running, it is stopped"), "{err}");
}

#[test]
fn who_does_not_read_holds_up_neither_the_log_nor_the_program_nor_others() {
    let Some(world) = World::start("attach-slow") else { return };
    let script = "stty -echo raw; trap 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; echo the end' USR1; \
                  trap 'exit 0' TERM; echo begun; while :; do sleep 1000 & wait; done";
    world.script("web", script, "terminal = true");
    let running = world.running("web");
    world.wait_log("web", "begun");
    let mut slow = User::at(&world, "web");
    let mut other = User::at(&world, "web");
    world.ok(&["kill", "-s", "USR1", "web"]);
    world.wait_log("web", "the end\n");
    other.sees("line 20000\nthe end");
    // Nobody inside reads what is typed: the keys that detach are seen all the same, as far as it is read ahead.
    other.types(&b"typed into the void\n".repeat(150));
    other.detaches();
    slow.sees("the end");
    slow.detaches();
    assert_eq!(world.running("web"), running);
    let lines: Vec<String> = (1..=20000).map(|n| format!("line {n}\n")).collect();
    assert!(world.log("web").ends_with(&format!("{}the end\n", lines.concat())), "complete, in order");
}

#[test]
fn options_and_what_cannot_be() {
    let Some((world, _)) = shell("attach-options") else { return };
    let (code, _, err) = world.says(&["attach", "--detach-keys", "ctrl-P", "web"]);
    assert!(code == 64 && err.contains("`ctrl-P` is no key"), "{err}");
    let mut user = User::attach(&world, &["--detach-keys", "ctrl-],x", "web"]);
    wait_for("raw mode", || (!user.is_canonical()).then_some(()));
    user.types(DETACH);
    user.runs("echo st''ill", "still");
    user.types(b"\x1dx");
    user.ended(0);
    // One who only looks on has his terminal as it was, and does not change the window.
    let mut looker = User::attach(&world, &["--no-stdin", "web"]);
    let mut user = User::at(&world, "web");
    wait_for("the looker", || {
        user.runs("echo te''xt $(stty size)", "text 33 99");
        let mut fds = [PollFd::new(&looker.screen, PollFlags::IN)];
        (poll(&mut fds, Some(&Timespec::default())).unwrap() > 0).then_some(())
    });
    looker.sees("text 33 99");
    assert!(looker.is_canonical());
    looker.signal(Signal::INT);
    looker.ended(130);
    user.detaches();
    // Not at a terminal: what is typed comes from a pipe, whose end is no end of the program's.
    let mut piped = world.moored(&["attach", "web"]);
    let seen = world.dir.join("seen");
    let client = piped.stdin(Stdio::piped()).stdout(File::create(&seen).unwrap()).stderr(Stdio::null()).spawn();
    let mut client = client.unwrap();
    client.stdin.take().unwrap().write_all(b"echo from a p''ipe\n").unwrap();
    wait_for("the answer", || fs::read_to_string(&seen).unwrap().contains("from a pipe\r\n").then_some(()));
    client.kill().unwrap();
    client.wait().unwrap();
    world.running("web");
    // Of replicas one is meant.
    world.unit("many", &world.text("replicas = 2", SHELL, TERMINAL));
    let replica = world.running("many@1");
    let (code, _, err) = world.says(&["attach", "many"]);
    assert!(code == 1 && err.contains("many has replicas: name one of them, like many@1"), "{err}");
    let mut user = User::at(&world, "many@1");
    user.runs("hostname", "many-1");
    user.detaches();
    assert_eq!(world.running("many@1"), replica);
}

/// The init is a process of that session too, and sends on what it gets.
#[test]
fn a_keys_signal_reaches_a_program_behind_the_small_init_once() {
    let Some(world) = World::start("attach-init") else { return };
    let script =
        "n=0; trap 'n=$((n+1)); echo got $n' INT; trap 'exit 0' TERM; echo begun; while :; do sleep 1000 & wait; done";
    world.script("web", script, "terminal = true\ninit = true");
    let running = world.running("web");
    world.wait_log("web", "begun");
    let mut user = User::at(&world, "web");
    for n in 1..=3 {
        user.types(b"\x03");
        user.sees(&format!("got {n}\r\n"));
    }
    user.detaches();
    world.ok(&["kill", "-s", "INT", "web"]);
    world.wait_log("web", "got 4\r\n");
    assert_eq!(world.running("web"), running);
    world.ok(&["stop", "web"]);
    assert_eq!(world.log("web").matches("got").count(), 4, "{}", world.log("web"));
    // A shell there has jobs.
    world.script("shell", SHELL, "terminal = true\ninit = true\n[stop]\ntimeout = \"0s\"");
    world.running("shell");
    let mut user = User::at(&world, "shell");
    user.runs("sleep 7802", "sleep 7802");
    wait_for("the job to have the terminal", || sleeps_in_front("7802").then_some(()));
    user.types(b"\x1a");
    user.sees("Stopped");
    user.sees("> ");
    user.runs("jobs; kill %1; echo do''ne", "done");
    user.detaches();
}

#[test]
fn nothing_is_left_of_who_was_attached() {
    let Some((world, running)) = shell("attach-leaks") else { return };
    let once = |code: i32| {
        let mut user = User::at(&world, "web");
        user.runs("echo he''re", "here");
        match code {
            0 => user.detaches(),
            _ => drop(user),
        }
    };
    once(0);
    once(1);
    let before = settled(&world);
    for n in 0..6 {
        once(n % 2);
    }
    assert_eq!(settled(&world), before);
    assert_eq!(world.running("web"), running);
}

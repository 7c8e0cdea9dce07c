//! `moored debug`: the host's tools in a container's namespaces, and in the root of one that is not running.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::{Winsize, tcsetwinsize};

use super::support::{Supervisor, end_of, wait_for};
use super::world::{FOREVER, World, quoted};

/// Exit code, what it printed, what it said.
fn debug(world: &Supervisor, args: &[&str]) -> (i32, String, String) {
    let output = world.run(&[&["debug"], args].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn the_hosts_tools_run_where_the_container_is() {
    let Some(world) = World::start("debug") else { return };
    // No rights, no network, and ids of its own: what looks at it has all of the host's.
    world.script("web", &format!("echo here > /tmp/mark; {FOREVER}"), "[security]\nuserns = \"auto\"\n");
    let web = world.running("web");
    wait_for("its mark", || Path::new(&format!("/proc/{}/root/tmp/mark", web.pid)).exists().then_some(()));
    // A program of the host's, which the container does not have.
    let tool = std::env::current_exe().unwrap();
    let script = format!(
        "for ns in pid net ipc uts cgroup mnt user; do readlink /proc/self/ns/$ns; done; pwd; cat tmp/mark; hostname; test -x {} && echo tool; \
         id -u; grep CapEff /proc/self/status; ls -d /proc/[0-9]* | wc -l; grep -c : /proc/net/dev",
        tool.display()
    );
    let (code, said, err) = debug(&world, &["web", "--", "/bin/sh", "-c", &script]);
    assert_eq!((code, err.as_str()), (0, ""), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let ns = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().display().to_string();
    for (line, name) in lines.iter().zip(["pid", "net", "ipc", "uts", "cgroup"]) {
        assert_eq!(**line, ns(&web.pid.to_string(), name));
    }
    assert!(lines[5] != ns("self", "mnt") && lines[5] != ns(&web.pid.to_string(), "mnt"), "mounts of its own");
    assert_eq!(lines[6], ns("self", "user"), "not in its user namespace");
    assert_eq!(lines[7..11], ["/proc/1/root", "here", "web", "tool"]);
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let rights = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert_eq!(lines[11..13], ["0", rights]);
    assert!(lines[13].parse::<u32>().unwrap() < 10, "only the container's processes: {said}");
    assert_eq!(lines[14], "1", "lo alone");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(
        mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/proc")).count(),
        1,
        "nothing of it outside"
    );

    // Some namespaces only; codes and signals are the program's.
    let (_, said, _) = debug(
        &world,
        &[
            "--target",
            "net",
            "web",
            "--",
            "/bin/sh",
            "-c",
            "readlink /proc/self/ns/net /proc/self/ns/pid; pwd; cat tmp/mark",
        ],
    );
    let expected =
        format!("{}\n{}\n/proc/{}/root\nhere\n", ns(&web.pid.to_string(), "net"), ns("self", "pid"), web.pid);
    assert_eq!(said, expected);
    assert_eq!(debug(&world, &["web", "--", "/bin/sh", "-c", "exit 7"]).0, 7);
    assert_eq!(debug(&world, &["web", "--", "/bin/sh", "-c", "kill -KILL $$"]).0, 137);
    let (code, _, err) = debug(&world, &["web", "--", "/no/such"]);
    assert!(code == 127 && err.contains("/no/such: not found on the host"), "{code} {err}");
    assert_eq!(world.find("web").unwrap()["pid"], web.pid, "and it runs on");

    // It ends with the container.
    let mut held = world.moored(&["debug", "web", "--", "/bin/sleep", "1000"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the sleep to be there", || {
        let children = |pid: u32| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let inner = children(held.id()).trim().parse::<u32>().ok()?;
        let program = children(inner).trim().parse::<u32>().ok()?;
        fs::read_to_string(format!("/proc/{program}/comm")).is_ok_and(|comm| comm == "sleep\n").then_some(())
    });
    world.ok(&["stop", "web"]);
    assert_eq!(end_of(&mut held, Duration::from_secs(60)).and_then(|status| status.code()), Some(137));
}

#[test]
fn of_a_unit_that_does_not_run_one_sees_the_root() {
    let Some(world) = World::start("debug-stopped") else { return };
    let layer = world.dir.join("layer");
    fs::create_dir_all(layer.join("srv")).unwrap();
    fs::write(layer.join("srv/below"), "below\n").unwrap();
    fs::write(layer.join("srv/gone"), "x").unwrap();
    let union = |more: &str| {
        let script = "echo kept > /srv/kept; rm /srv/gone";
        let (root, layer) = (world.root.display(), layer.display());
        format!(
            "type = \"oneshot\"\nlayers = [\"{root}\", \"{layer}\"]\n[process]\nargs = [\"/bin/sh\", \"-c\", {}]\n{more}",
            quoted(script)
        )
    };
    world.printed_by("union", &union("[upper]\npersist = true\n"));
    world.script("plain", FOREVER, "");
    world.running("plain");
    world.ok(&["stop", "plain"]);
    let (code, said, _) = debug(&world, &["plain", "--", "/bin/sh", "-c", "pwd; test -x bin/busybox && echo busybox"]);
    assert_eq!((code, said), (0, format!("{}\nbusybox\n", world.root.display())));
    let look = "cat srv/below srv/kept; ls srv; touch srv/no 2>/dev/null || echo read-only; test -x bin/busybox && echo busybox";
    let (code, said, err) = debug(&world, &["union", "--", "/bin/sh", "-c", look]);
    assert_eq!((code, said.as_str()), (0, "below\nkept\nbelow\nkept\nread-only\nbusybox\n"), "{err}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/run/debug "), "{mounts}");

    world.unit("host", "[process]\nargs = [\"/bin/sleep\", \"1000\"]\n[security]\nprofile = \"host\"\n");
    world.running("host");
    let busybox = super::support::tool("busybox").unwrap();
    world.unit("thing", &format!("enabled = false\nexecutable = \"{}\"\n", busybox.display()));
    world.run(&["sync"]);
    for (unit, says) in [
        ("host", "host is a service of the host's: it is where your shell is"),
        ("thing", "thing is not running, and the root of an executable is made for each start"),
        ("nothing", "nothing"),
    ] {
        let (code, said, err) = debug(&world, &[unit, "--", "/bin/true"]);
        assert!(code == 125 && err.contains(says), "{unit}: {code} {said} {err}");
    }
}

/// A terminal of 33 rows and 99 columns.
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

fn read_until(master: &mut fs::File, text: &str) -> String {
    let (mut shown, mut chunk) = (String::new(), [0u8; 4096]);
    while !shown.contains(text) {
        let mut ready = [PollFd::new(&*master, PollFlags::IN)];
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        let readable = rustix::event::poll(&mut ready, Some(&patience)).unwrap();
        assert!(readable == 1, "{text:?} does not come after {shown:?}");
        let got = master.read(&mut chunk).unwrap_or_else(|error| panic!("{error} after {shown:?}"));
        shown.push_str(&String::from_utf8_lossy(&chunk[..got]));
    }
    shown
}

/// The name of who leads the foreground.
fn in_front(terminal: &fs::File) -> Option<String> {
    let leader = rustix::termios::tcgetpgrp(terminal).ok()?;
    fs::read_to_string(format!("/proc/{leader}/comm")).ok()
}

/// `setsid -c` of util-linux makes it the controlling terminal, as a login does.
#[test]
fn on_a_terminal_it_is_a_shell_as_any_other() {
    let (Some(world), Some(setsid)) = (World::start("debug-terminal"), super::support::tool("setsid")) else { return };
    world.script("web", FOREVER, "[security]\ncapabilities = [\"SYS_PTRACE\"]\n");
    world.running("web");
    let (mut master, slave) = terminal();
    let client = world.moored(&["debug", "web"]);
    // What was started in the background of a script ignores SIGINT, and so would all that the shell starts.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(setsid).args(["-c", "-w"]).arg(client.get_program()).args(client.get_args());
    command.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("SHELL", "/bin/bash").env("TERM", "dumb").env("HOME", "/");
    let copy = || Stdio::from(slave.as_fd().try_clone_to_owned().unwrap());
    let mut shell = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().unwrap();
    let said = read_until(&mut master, "it could take over what you run here");
    assert!(
        said.contains("web.1: with all rights of the host's root, in its pid, net, ipc, uts, cgroup namespaces"),
        "{said}"
    );
    let same = master.try_clone().unwrap();
    let mut line = |text: &str, until: &str| {
        master.write_all(text.as_bytes()).unwrap();
        read_until(&mut master, until)
    };
    // A key's signal goes to who has the terminal: to the shell, as long as the program is not there.
    let asleep = || wait_for("the sleep to have it", || in_front(&same).filter(|comm| comm == "sleep\n"));
    line("echo size $(stty size) $(hostname) end\n", "size 33 99 web end");
    // ^C ends the program in the foreground, not the shell; ^Z stops it, and fg has it go on. A shell that has not come back from that throws away
    // what is typed ahead.
    line("PS1='rea''dy> '\n", "ready> ");
    line("sleep 1000\n", "sleep 1000");
    asleep();
    line("\u{3}", "ready> ");
    line("echo aft''er $?\n", "after 130\r\nready> ");
    line("sleep 1000\n", "sleep 1000");
    asleep();
    let said = line("\u{1a}", "ready> ");
    assert!(said.contains("Stopped"), "{said}");
    line("fg\n", "sleep 1000");
    asleep();
    line("\u{3}", "ready> ");
    line("exit 9\n", "exit 9");
    drop((command, slave));
    while master.read(&mut [0u8; 4096]).is_ok_and(|got| got > 0) {}
    assert_eq!(end_of(&mut shell, Duration::from_secs(60)).and_then(|status| status.code()), Some(9));
}

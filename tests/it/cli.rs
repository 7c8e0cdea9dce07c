//! The command line against a supervisor that is this test: the real binary, a real socket, real terminals.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use moored::control::protocol::{Event, Request, Response, UnitReport};
use moored::control::{Call, Post, Server, socket};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcgetwinsize, tcsetwinsize};

const SOON: Duration = Duration::from_secs(20);

/// A run directory with a supervisor whose answers the test gives.
struct World {
    dir: PathBuf,
    posts: Receiver<Post>,
    _server: Server,
}

impl World {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("moored-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (sender, posts) = channel();
        let listener = socket::bind(&dir).unwrap();
        let server = Server::start(listener, move |post| drop(sender.send(post))).unwrap();
        Self { dir, posts, _server: server }
    }

    fn moored(&self, args: &str) -> Command {
        moored(&self.dir, args)
    }

    fn call(&self) -> Call {
        loop {
            match self.posts.recv_timeout(SOON).unwrap() {
                Post::Call(call) => return call,
                // An earlier one, which had its answer before the server had seen that the reply is closed.
                Post::Gone(_) => {}
            }
        }
    }

    /// Runs a command to which the supervisor answers this.
    fn answered(&self, args: &str, answers: &[Response]) -> (Request, Output) {
        let child = self.moored(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let call = self.call();
        assert!(answers.iter().all(|answer| call.reply.send(answer)));
        let request = call.request.clone();
        drop(call);
        (request, child.wait_with_output().unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn moored(run_dir: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moored"));
    command.arg("--run-dir").arg(run_dir).args(args.split_whitespace()).env_remove("NO_COLOR");
    command.env("MOORED_CONFIG", run_dir.join("moored.toml"));
    command
}

fn error_of(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn ps_without_a_supervisor_says_so_and_the_cure() {
    let output = moored(Path::new("/nonexistent/run"), "ps").output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let expected = "moored: no supervisor is running for /nonexistent/run: there is no such directory. Start one with `moored up`\n";
    assert_eq!(error_of(&output), expected);
}

#[test]
fn a_wrong_command_line_is_64_and_suggests() {
    let output = moored(Path::new("/nonexistent/run"), "strat web").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(error_of(&output).contains("'start'"), "{}", error_of(&output));
    let output = moored(Path::new("/nonexistent/run"), "kill web --all -s TERM").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn ps_prints_a_table_or_an_array() {
    let world = World::new("ps");
    let row = |unit: &str, phase: &str| UnitReport {
        unit: unit.into(),
        phase: phase.into(),
        reason: "x".into(),
        ..UnitReport::default()
    };
    let answer = Response::Units { units: vec![row("db", "failed"), row("web", "ready")], notes: vec![] };
    let (request, output) = world.answered("ps", std::slice::from_ref(&answer));
    assert_eq!(request, Request::Ps { units: vec![] });
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table.lines().count(), 3, "{table}");
    let (_, output) = world.answered("ps --failed --json db web", std::slice::from_ref(&answer));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = rows.as_array().unwrap().first().unwrap().as_object().unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    for key in ["unit", "phase", "pid", "since", "restarts", "exit", "reason", "health"] {
        assert!(row.contains_key(key), "{key}");
    }
}

#[test]
fn exit_codes_are_the_answers() {
    let world = World::new("codes");
    for code in 0..4 {
        let answer = Response::Synced { code, lines: vec!["web: on its way".into()] };
        let (request, output) = world.answered("sync web --timeout 1m30s", &[answer]);
        assert_eq!(request, Request::Sync { units: vec!["web".into()], timeout_ms: Some(90_000) });
        assert_eq!(output.status.code(), Some(i32::from(code)));
        assert_eq!(output.stdout, b"web: on its way\n");
    }
    let refusal = Response::Error { message: "no unit `wbe`: did you mean `web`?".into(), code: 5 };
    let (_, output) = world.answered("stop wbe --reason mine --for 1h", &[refusal]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(error_of(&output), "moored: no unit `wbe`: did you mean `web`?\n");
    let (request, output) = world.answered("kill web", &[]);
    assert_eq!(request, Request::Kill { units: vec!["web".into()], signal: 15, all: false });
    assert_eq!(output.status.code(), Some(1));
    assert!(error_of(&output).contains("went away before it answered"), "{}", error_of(&output));
}

#[test]
fn a_reader_that_goes_is_not_worth_a_word() {
    let world = World::new("pipe");
    let mut child = world.moored("events -f --json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let call = world.call();
    drop(child.stdout.take());
    call.reply.send(&Response::Event(Event::default()));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(error_of(&output), "");
    assert!(matches!(world.posts.recv_timeout(SOON), Ok(Post::Gone(id)) if id == call.reply.id()));
}

#[test]
fn somebody_else_is_told_to_be_root() {
    let nobody = |dir: &Path, args: &str| moored(dir, args).uid(65_534).output();
    let world = World::new("root");
    let (Ok(up), Ok(ps)) = (nobody(&world.dir, "up"), nobody(&world.dir, "ps")) else {
        assert!(std::env::var_os("MOORED_NO_SKIP").is_none(), "cannot run as nobody");
        return println!("SKIP cannot run the binary as nobody: not root, or its path is closed");
    };
    assert!(error_of(&up).starts_with("moored: `moored up` needs root: "), "{}", error_of(&up));
    assert_eq!(up.status.code(), Some(1));
    assert!(error_of(&ps).contains("control.sock: permission denied: need root"), "{}", error_of(&ps));
}

#[test]
fn exec_hands_over_its_own_streams() {
    let world = World::new("exec");
    let mut child = world
        .moored("exec -e A=1 web -- cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let call = world.call();
    let Request::Exec { tty: false, size: None, .. } = &call.request else { panic!("{:?}", call.request) };
    let mut fds = call.fds.into_iter().map(File::from);
    let (mut stdin, mut stdout) = (fds.next().unwrap(), fds.next().unwrap());
    assert_eq!(stdin.read(&mut [0]).unwrap(), 0, "without -i the input is empty");
    stdout.write_all(b"inside\n").unwrap();
    fds.next().unwrap().write_all(b"wrong\n").unwrap();
    drop(stdout);
    call.reply.send(&Response::ExecStarted { pid: 1, session: String::new() });
    call.reply.send(&Response::ExecEnded { code: 42 });
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(42), &b"inside\n"[..]));
    assert_eq!(error_of(&output), "wrong\n");
}

#[test]
fn exec_that_cannot_ask_is_125() {
    let output = moored(Path::new("/nonexistent/run"), "exec web -- true").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn check_and_logs_need_no_supervisor() {
    let dir = std::env::temp_dir().join(format!("moored-cli-check-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("web.toml");
    std::fs::write(&file, "executable = \"/nonexistent\"\n").unwrap();
    let output = moored(&dir, "check").arg(&file).output().unwrap();
    let expected = "web.toml:1:1 executable /nonexistent does not exist: create it or correct the path\n1 unit file checked, 1 error\n";
    assert!(String::from_utf8(output.stdout).unwrap().ends_with(expected));
    assert_eq!(output.status.code(), Some(1));
    std::fs::write(&file, format!("executable = \"{}\"\n", env!("CARGO_BIN_EXE_moored"))).unwrap();
    assert_eq!(moored(&dir, "check --json").arg(&dir).output().unwrap().stdout, b"[]\n");
    let output = moored(&dir, "logs web --log-dir /nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error_of(&output).starts_with("moored: web has no log in /nonexistent"), "{}", error_of(&output));
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A pty: the master, and the other end.
fn pty() -> (OwnedFd, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    (master, File::from(slave))
}

fn set_size(fd: impl AsFd, rows: u16, columns: u16) {
    tcsetwinsize(fd, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

fn size_of(fd: impl AsFd) -> (u16, u16) {
    let size = tcgetwinsize(fd).unwrap();
    (size.ws_row, size.ws_col)
}

fn is_canonical(fd: impl AsFd) -> bool {
    tcgetattr(fd).unwrap().local_modes.contains(LocalModes::ICANON)
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < SOON, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads until the text has come, and returns everything.
fn read_until(fd: BorrowedFd<'_>, text: &str) -> String {
    let mut all = Vec::new();
    let mut chunk = [0u8; 4096];
    while !String::from_utf8_lossy(&all).contains(text) {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
        let wait = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_ne!(rustix::event::poll(&mut fds, Some(&wait)).unwrap(), 0, "{:?}", String::from_utf8_lossy(&all));
        let taken = rustix::io::read(fd, &mut chunk).unwrap();
        all.extend_from_slice(&chunk[..taken]);
    }
    String::from_utf8(all).unwrap()
}

/// `exec -it` between the user's terminal and the container's.
struct Terminals {
    world: World,
    child: Child,
    /// What the user types into and sees.
    user: OwnedFd,
    /// The other end of it: its modes.
    line: File,
    call: Call,
    /// The process's end of the container's terminal.
    inside: File,
}

impl Terminals {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let (user, line) = pty();
        set_size(&user, 24, 80);
        let end = || Stdio::from(line.try_clone().unwrap());
        let child =
            world.moored("exec -it web -- sh").stdin(end()).stdout(end()).stderr(Stdio::piped()).spawn().unwrap();
        let mut call = world.call();
        assert!(matches!(&call.request, Request::Exec { tty: true, size: Some((24, 80)), .. }), "{:?}", call.request);
        let console = call.fds.pop().unwrap();
        let (master, inside) = pty();
        send_fd(console.as_fd(), master.as_fd());
        call.reply.send(&Response::ExecStarted { pid: 1, session: String::new() });
        eventually("raw mode", || !is_canonical(&line));
        Self { world, child, user, line, call, inside }
    }
}

fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(socket, &[std::io::IoSlice::new(b"console")], &mut control, SendFlags::empty()).unwrap();
}

#[test]
fn exec_with_a_terminal_carries_both_ways_and_restores() {
    let mut it = Terminals::new("tty");
    assert_eq!(size_of(&it.inside), (24, 80));
    rustix::io::write(&it.user, b"hello\r").unwrap();
    assert_eq!(read_until(it.inside.as_fd(), "\n"), "hello\n");
    it.inside.write_all(b"world\n").unwrap();
    assert!(read_until(it.user.as_fd(), "world\r\n").contains("hello"), "the container's terminal echoes");
    set_size(&it.user, 50, 132);
    let pid = rustix::process::Pid::from_child(&it.child);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    eventually("the new size", || size_of(&it.inside) == (50, 132));
    let long = "0123456789".repeat(5000);
    let writer = std::thread::spawn({
        let (mut inside, long) = (it.inside.try_clone().unwrap(), long.clone());
        let reply = it.call.reply.clone();
        move || {
            inside.write_all(long.as_bytes()).unwrap();
            inside.write_all(b"bye\n").unwrap();
            reply.send(&Response::ExecEnded { code: 7 });
        }
    });
    let seen = read_until(it.user.as_fd(), "bye\r\n");
    assert_eq!(seen.len(), long.len() + 5);
    writer.join().unwrap();
    assert_eq!(it.child.wait().unwrap().code(), Some(7));
    assert!(is_canonical(&it.line), "the terminal is as it was");
}

#[test]
fn exec_that_is_terminated_restores_the_terminal() {
    let mut it = Terminals::new("term");
    let pid = rustix::process::Pid::from_child(&it.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(it.child.wait().unwrap().code(), Some(128 + 15));
    assert!(is_canonical(&it.line));
    assert!(matches!(it.world.posts.recv_timeout(SOON), Ok(Post::Gone(_))));
}

#[test]
fn exec_whose_supervisor_dies_restores_the_terminal() {
    let mut it = Terminals::new("dies");
    it.call.reply.close();
    assert_eq!(it.child.wait().unwrap().code(), Some(125));
    assert!(is_canonical(&it.line));
    let mut error = String::new();
    it.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.contains("went away"), "{error}");
}

#[test]
fn exec_with_piped_input_types_the_end_of_it() {
    let world = World::new("eof");
    let mut child = world.moored("exec -it web -- cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut call = world.call();
    let (master, mut inside) = pty();
    send_fd(call.fds.pop().unwrap().as_fd(), master.as_fd());
    drop(master);
    child.stdin.take().unwrap().write_all(b"one\n").unwrap();
    let mut text = String::new();
    inside.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\n");
    drop(inside);
    call.reply.send(&Response::ExecEnded { code: 0 });
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(b"one\r\n"));
}

//! `moored exec`: run a program inside, as if it were here.
//!
//! Without `-t` the supervisor gets our own standard streams and the process uses them directly; we only wait. With `-t` it makes a
//! pty inside the container and sends the master over a socket pair; we are then the terminal's cable:
//!
//! | from | to | ends |
//! |---|---|---|
//! | our stdin (with `-i`) | master | end of input: the terminal's end-of-file character is typed |
//! | master | our stdout | EIO: the last process let go of the terminal |
//! | SIGWINCH | the size of the master | |
//! | SIGINT, SIGTERM, SIGHUP, SIGQUIT | we end with 128 + signal; the supervisor sees us go and ends the process | |
//! | the control socket | | `ExecEnded`: what the master still holds is written, then we end with the code |
//!
//! The master is nonblocking and input is read only when the last was taken: a process that does not read cannot keep us from showing
//! what it writes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::Failure;
use super::args::Exec;
use super::ask::Answers;
use super::terminal::{self, RawMode};
use crate::control::Client;
use crate::control::protocol::{Request, Response};

/// As `docker exec` and `podman exec` say "the program never ran".
pub const EXIT_NOT_RUN: u8 = 125;

/// Copied at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// How long the terminal must be silent after its process ended.
const LAST_OUTPUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What a terminal's line discipline takes for the end of input, VEOF's usual value.
const END_OF_FILE: u8 = 4;

fn failed<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::Terminal { step, source: error.into() }
}

/// Runs `exec` to its end: the process's exit code, 128 + signal.
pub fn exec(run_dir: &Path, args: Exec) -> Result<u8, Failure> {
    if args.tty { with_terminal(run_dir, args) } else { with_own_streams(run_dir, args) }
}

fn request(args: Exec) -> Request {
    let Exec { tty, mut env, workdir, user, unit, args, .. } = args;
    // What is at the other end of the terminal is the caller's: only he knows what it understands.
    let is_named = env.iter().any(|entry| entry.starts_with("TERM="));
    env.extend(std::env::var("TERM").ok().filter(|_| tty && !is_named).map(|term| format!("TERM={term}")));
    let size = if tty { terminal::size(io::stdout().as_fd()) } else { None };
    Request::Exec { unit, args, env, cwd: workdir, user, tty, size }
}

fn with_own_streams(run_dir: &Path, args: Exec) -> Result<u8, Failure> {
    let null = File::open("/dev/null").map_err(failed("opening /dev/null"))?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let input = if args.interactive { stdin.as_fd() } else { null.as_fd() };
    let fds = [input, stdout.as_fd(), stderr.as_fd()];
    let mut answers = Answers(Client::connect(run_dir)?.call(&request(args), &fds)?);
    loop {
        match answers.next()? {
            Some(Response::ExecStarted { .. }) => {}
            Some(Response::ExecEnded { code }) => return Ok(code),
            Some(_) => return Err(Failure::WrongAnswer),
            None => return Err(Failure::NoAnswer),
        }
    }
}

fn with_terminal(run_dir: &Path, args: Exec) -> Result<u8, Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(failed("making a socket pair"))?;
    let interactive = args.interactive;
    // Blocked before anything can be left half done; they arrive as input from here on.
    let signals = take_signals().map_err(failed("taking signals"))?;
    let responses = Client::connect(run_dir)?.call(&request(args), &[theirs.as_fd()])?;
    drop(theirs);
    let mut session = Session {
        answers: Answers(responses),
        console: Some(ours),
        master: None,
        signals,
        input: Input { open: interactive, bytes: Vec::new() },
        raw: None,
        ended: None,
    };
    session.run()
}

fn take_signals() -> nix::Result<SignalFd> {
    let wanted = [Signal::SIGWINCH, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    let set: SigSet = wanted.into_iter().collect();
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Our stdin: whether it goes on, and what the master has not taken yet.
struct Input {
    open: bool,
    bytes: Vec<u8>,
}

struct Session {
    answers: Answers,
    /// Until the master came.
    console: Option<UnixStream>,
    /// Until EIO.
    master: Option<File>,
    signals: SignalFd,
    input: Input,
    raw: Option<RawMode>,
    ended: Option<u8>,
}

/// What poll(2) found.
#[derive(Default)]
struct Ready {
    control: bool,
    console: bool,
    master_in: bool,
    master_out: bool,
    signal: bool,
    stdin: bool,
}

impl Session {
    fn run(&mut self) -> Result<u8, Failure> {
        loop {
            let ready = self.wait().map_err(failed("waiting for the terminal"))?;
            if ready.signal
                && let Some(code) = self.take_signal().map_err(failed("reading a signal"))?
            {
                return Ok(code);
            }
            if ready.console {
                self.take_master()?;
            }
            if ready.master_in {
                self.show()?;
            }
            if ready.stdin {
                self.read_input().map_err(failed("reading standard input"))?;
            }
            if ready.master_out {
                self.type_input();
            }
            if ready.control {
                self.take_answer()?;
            }
            if let Some(code) = self.ended {
                self.show_rest()?;
                return Ok(code);
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let stdin = io::stdin();
        let in_flags = PollFlags::IN;
        let typing = !self.input.bytes.is_empty();
        let master_flags = if typing { in_flags | PollFlags::OUT } else { in_flags };
        let wants_input = self.input.open && !typing && self.master.is_some();
        // An absent one is polled on the signals, for nothing but their errors.
        let absent = self.signals.as_fd();
        let mut fds = [
            PollFd::new(&self.signals, in_flags),
            PollFd::new(&self.answers.0, in_flags),
            optional(self.console.as_ref().map(AsFd::as_fd), in_flags, absent),
            optional(self.master.as_ref().map(AsFd::as_fd), master_flags, absent),
            optional(wants_input.then_some(stdin.as_fd()), in_flags, absent),
        ];
        if self.answers.0.is_buffered() {
            return Ok(Ready { control: true, ..Ready::default() });
        }
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let [signals, control, console, master, input] = fds.map(|fd| fd.revents());
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        Ok(Ready {
            signal: signals.intersects(readable),
            control: control.intersects(readable),
            console: self.console.is_some() && console.intersects(readable),
            master_in: self.master.is_some() && master.intersects(readable),
            master_out: self.master.is_some() && typing && master.intersects(PollFlags::OUT),
            stdin: wants_input && input.intersects(readable),
        })
    }

    fn take_signal(&mut self) -> io::Result<Option<u8>> {
        let Some(info) = self.signals.read_signal()? else { return Ok(None) };
        let number = u8::try_from(info.ssi_signo).unwrap_or(0);
        if i32::from(number) != Signal::SIGWINCH as i32 {
            return Ok(Some(128u8.saturating_add(number)));
        }
        if let (Some(master), Some(size)) = (&self.master, terminal::size(io::stdout().as_fd())) {
            // The terminal may be gone already: then the end is on its way.
            let _ = terminal::set_size(master.as_fd(), size);
        }
        Ok(None)
    }

    fn take_master(&mut self) -> Result<(), Failure> {
        let Some(console) = self.console.take() else { return Ok(()) };
        // Closed without a master: the answer on the control socket says why.
        let Some(master) = receive(&console).map_err(failed("receiving the container's terminal"))? else {
            return Ok(());
        };
        rustix::io::ioctl_fionbio(&master, true).map_err(failed("the container's terminal"))?;
        if let Some(size) = terminal::size(io::stdout().as_fd()) {
            terminal::set_size(master.as_fd(), size).map_err(failed("setting the size of the container's terminal"))?;
        }
        if self.input.open && rustix::termios::isatty(io::stdin()) {
            self.raw = Some(RawMode::enter().map_err(failed("putting the terminal into raw mode"))?);
        }
        self.master = Some(File::from(master));
        Ok(())
    }

    /// Writes what the master has now, at most a chunk; at its end lets go of it.
    fn show(&mut self) -> Result<(), Failure> {
        let mut chunk = [0u8; CHUNK_BYTES];
        let Some(master) = &mut self.master else { return Ok(()) };
        match master.read(&mut chunk) {
            Ok(taken) if taken > 0 => {
                let mut out = io::stdout().lock();
                let bytes = chunk.get(..taken).unwrap_or_default();
                return out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // EIO: no process has the terminal open any more.
            Ok(_) | Err(_) => self.master = None,
        }
        Ok(())
    }

    /// The process ended: what it wrote is still shown. The kernel moves it to the master by a work item, so an empty master is waited
    /// for a moment; where a process left behind holds the terminal open there is no other end.
    fn show_rest(&mut self) -> Result<(), Failure> {
        while let Some(master) = &self.master {
            let mut fds = [PollFd::new(master, PollFlags::IN)];
            match poll(&mut fds, Some(&LAST_OUTPUT)) {
                Ok(0) => return Ok(()),
                Ok(_) => self.show()?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("waiting for the terminal")(error)),
            }
        }
        Ok(())
    }

    fn read_input(&mut self) -> io::Result<()> {
        let mut chunk = [0u8; CHUNK_BYTES];
        // Not through `Stdin`: its buffer would hide bytes from poll(2).
        match rustix::io::read(io::stdin(), &mut chunk) {
            Ok(0) => {
                self.input.open = false;
                self.input.bytes.push(END_OF_FILE);
            }
            Ok(taken) => self.input.bytes.extend_from_slice(chunk.get(..taken).unwrap_or_default()),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // EIO: our own terminal hung up.
            Err(Errno::IO) => self.input.open = false,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn type_input(&mut self) {
        let Some(master) = &mut self.master else { return };
        match master.write(&self.input.bytes) {
            Ok(taken) => drop(self.input.bytes.drain(..taken.min(self.input.bytes.len()))),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // Nobody reads it any more: reading the master will tell.
            Err(_) => self.input = Input { open: false, bytes: Vec::new() },
        }
    }

    fn take_answer(&mut self) -> Result<(), Failure> {
        match self.answers.next()? {
            Some(Response::ExecStarted { .. }) => {}
            Some(Response::ExecEnded { code }) => {
                // The master may still be on the socket pair: what the process wrote is to be seen.
                if self.console.is_some() {
                    self.take_master()?;
                }
                self.ended = Some(code);
            }
            Some(_) => return Err(Failure::WrongAnswer),
            None => return Err(Failure::NoAnswer),
        }
        Ok(())
    }
}

fn optional<'fd>(fd: Option<BorrowedFd<'fd>>, flags: PollFlags, absent: BorrowedFd<'fd>) -> PollFd<'fd> {
    match fd {
        Some(fd) => PollFd::from_borrowed_fd(fd, flags),
        None => PollFd::from_borrowed_fd(absent, PollFlags::empty()),
    }
}

/// The master, or `None` when the other side closed without sending one.
fn receive(console: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 256];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    match rustix::net::recvmsg(console, &mut [io::IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(_) | Err(Errno::AGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fds.last())
}

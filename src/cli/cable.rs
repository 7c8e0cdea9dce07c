//! The cable between the caller's terminal and a container's: bytes both ways, the window's size, and the end.
//!
//! | from | to | ends |
//! |---|---|---|
//! | our stdin (if wanted) | master | end of input: the terminal's end-of-file character is typed |
//! | master | our stdout | EIO: the last process let go of the terminal |
//! | SIGWINCH | the size of the master | |
//! | the other signals of `taken` | whoever turns the crank | |
//!
//! The master is nonblocking and input is read only when the last was taken: a process that does not read cannot keep us from showing
//! what it writes. The caller turns [`Cable::turn`] and waits with it for something of its own.
//!
//! Of a unit's terminal ([`Cable::to_unit`]) we are one of several:
//!
//! | from | to | ends |
//! |---|---|---|
//! | our stdin (if wanted), but for the keys that detach | master | end of input: nothing more is typed |
//! | the unit's log | our stdout | never: the supervisor reads the master |
//! | SIGWINCH | the size of the master | |
//! | the console | the master, and that of each further container | |
//!
//! There input is read ahead, up to a bound, so that the keys that detach are seen although a process does not read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::Failure;
use super::detach::Filter;
use super::terminal::{self, RawMode};
use crate::supervise::log::RawTail;

/// Copied at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Input that a process has not read; beyond it no more is read of ours.
const INPUT_MAX_BYTES: usize = 64 * 1024;

/// Reads of the log in a row.
const LOG_TURNS_MAX: usize = 64;

/// How long the terminal must be silent after its process ended.
const LAST_OUTPUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What a terminal's line discipline takes for the end of input, VEOF's usual value.
const END_OF_FILE: u8 = 4;

/// See the module.
pub struct Cable {
    /// Until the master came.
    console: Option<UnixStream>,
    /// Until EIO.
    master: Option<File>,
    signals: SignalFd,
    input: Input,
    raw: Option<RawMode>,
    /// To a unit's terminal.
    unit: Option<OfUnit>,
}

/// What a cable to a unit's terminal has besides.
struct OfUnit {
    log: RawTail,
    keys: Filter,
    /// The log was not read to its end.
    more: bool,
    /// Nobody has the terminal open: it would be reported for ever, so it is only tried when something is typed.
    hung_up: bool,
}

/// Our stdin: whether it goes on, and what the master has not taken yet.
struct Input {
    open: bool,
    bytes: Vec<u8>,
}

/// What one turn brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// A signal that is not about the window's size.
    pub signal: Option<u8>,
    /// The caller's own descriptor is readable or hung up.
    pub other: bool,
    /// The keys that detach were typed.
    pub detached: bool,
}

/// What poll(2) found.
#[derive(Default)]
struct Ready {
    other: bool,
    console: bool,
    master_in: bool,
    master_out: bool,
    signal: bool,
    stdin: bool,
    log: bool,
}

/// Names a step that failed.
pub(super) fn failed<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::Terminal { step, source: error.into() }
}

/// Blocks these signals from here on; they arrive through the descriptor instead.
pub(super) fn take_signals(wanted: impl IntoIterator<Item = Signal>) -> Result<SignalFd, Failure> {
    let set: SigSet = wanted.into_iter().collect();
    let blocked = nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None);
    blocked.map_err(failed("taking signals"))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(failed("taking signals"))
}

impl Cable {
    /// `console` is the socket the master will come through; without one there is no terminal, and only signals are waited for.
    pub fn new(console: Option<UnixStream>, interactive: bool, signals: SignalFd) -> Cable {
        let input = Input { open: interactive, bytes: Vec::new() };
        Cable { console, master: None, signals, input, raw: None, unit: None }
    }

    /// To a unit's terminal, whose master, and those of its further containers, come through `console`; what is written there is in `log`.
    /// Without a console it is only looked at.
    pub fn to_unit(console: Option<UnixStream>, log: RawTail, keys: Filter, signals: SignalFd) -> Cable {
        let unit = OfUnit { log, keys, more: true, hung_up: false };
        Cable { unit: Some(unit), ..Cable::new(console, true, signals) }
    }

    /// Masters come through another console from here on.
    pub fn renew(&mut self, console: UnixStream) {
        self.console = Some(console);
    }

    /// Waits until there is something to do, does it, and says what is the caller's. `pending` says that `other` holds something already.
    pub fn turn(&mut self, other: BorrowedFd<'_>, pending: bool) -> Result<Turn, Failure> {
        let ready = self.wait(other, pending).map_err(failed("waiting for the terminal"))?;
        let signal = if ready.signal { self.take_signal().map_err(failed("reading a signal"))? } else { None };
        if ready.console {
            self.take_master()?;
        }
        if ready.master_in {
            self.show()?;
        }
        if ready.log {
            self.show_log()?;
        }
        let detached = ready.stdin && self.read_input().map_err(failed("reading standard input"))?;
        if ready.master_out || ready.stdin && self.unit.is_some() {
            self.type_input();
        }
        Ok(Turn { signal, other: ready.other, detached })
    }

    /// The process ended: what it wrote is still shown. The kernel moves it to the master by a work item, so an empty master is waited
    /// for a moment; where a process left behind holds the terminal open there is no other end.
    pub fn finish(&mut self) -> Result<(), Failure> {
        // The master may still be on the socket pair: what the process wrote is to be seen.
        if self.console.is_some() {
            self.take_master()?;
        }
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

    fn wait(&self, other: BorrowedFd<'_>, pending: bool) -> io::Result<Ready> {
        if pending {
            return Ok(Ready { other: true, ..Ready::default() });
        }
        let stdin = io::stdin();
        let in_flags = PollFlags::IN;
        let typing = !self.input.bytes.is_empty();
        let master_flags = if typing { in_flags | PollFlags::OUT } else { in_flags };
        let wants_input = self.input.open && self.master.is_some() && self.has_room();
        // A unit's is read by the supervisor alone.
        let polled = self.master.as_ref().filter(|_| self.unit.as_ref().is_none_or(|unit| typing && !unit.hung_up));
        let master_flags = if self.unit.is_some() { PollFlags::OUT } else { master_flags };
        // An absent one is polled on the signals, for nothing but their errors.
        let absent = self.signals.as_fd();
        let mut fds = [
            PollFd::new(&self.signals, in_flags),
            PollFd::from_borrowed_fd(other, in_flags),
            optional(self.console.as_ref().map(AsFd::as_fd), in_flags, absent),
            optional(polled.map(AsFd::as_fd), master_flags, absent),
            optional(wants_input.then_some(stdin.as_fd()), in_flags, absent),
            optional(self.unit.as_ref().map(|unit| unit.log.watched()), in_flags, absent),
        ];
        let now = self.unit.as_ref().filter(|unit| unit.more).map(|_| Timespec::default());
        match poll(&mut fds, now.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let [signals, other, console, master, input, log] = fds.map(|fd| fd.revents());
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        Ok(Ready {
            signal: signals.intersects(readable),
            other: other.intersects(readable),
            console: self.console.is_some() && console.intersects(readable),
            master_in: polled.is_some() && self.unit.is_none() && master.intersects(readable),
            // Of a hang-up it is learnt by trying.
            master_out: polled.is_some() && typing && master.intersects(PollFlags::OUT | PollFlags::HUP),
            stdin: wants_input && input.intersects(readable),
            log: now.is_some() || self.unit.is_some() && log.intersects(readable),
        })
    }

    fn take_signal(&mut self) -> io::Result<Option<u8>> {
        let Some(info) = self.signals.read_signal()? else { return Ok(None) };
        let number = u8::try_from(info.ssi_signo).unwrap_or(0);
        let is_apart = self.unit.is_none() && self.console.is_none() && self.master.is_none();
        if i32::from(number) != Signal::SIGWINCH as i32 || is_apart {
            return Ok(Some(number));
        }
        if let (Some(master), Some(size)) = (&self.master, terminal::size(io::stdout().as_fd())) {
            // The terminal may be gone already: then the end is on its way.
            let _ = terminal::set_size(master.as_fd(), size);
        }
        Ok(None)
    }

    fn take_master(&mut self) -> Result<(), Failure> {
        let Some(console) = self.console.take() else { return Ok(()) };
        // Closed without a master: whoever was to send it says why.
        let Some(master) = receive(&console).map_err(failed("receiving the container's terminal"))? else {
            return Ok(());
        };
        if let Some(unit) = &mut self.unit {
            // What was typed for the one before is not for this one.
            (unit.hung_up, self.console) = (false, Some(console));
            self.input.bytes.clear();
        }
        rustix::io::ioctl_fionbio(&master, true).map_err(failed("the container's terminal"))?;
        if let Some(size) = terminal::size(io::stdout().as_fd()) {
            terminal::set_size(master.as_fd(), size).map_err(failed("setting the size of the container's terminal"))?;
        }
        if self.raw.is_none() && self.input.open && rustix::termios::isatty(io::stdin()) {
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

    /// The unit runs no more: what it wrote is still shown, to the end.
    pub fn show_rest(&mut self) -> Result<(), Failure> {
        if let Some(unit) = &mut self.unit {
            unit.more = true;
        }
        while self.unit.as_ref().is_some_and(|unit| unit.more) {
            self.show_log()?;
        }
        Ok(())
    }

    /// Shows what the unit's log has more, as it is.
    fn show_log(&mut self) -> Result<(), Failure> {
        let Some(unit) = &mut self.unit else { return Ok(()) };
        if !std::mem::take(&mut unit.more) {
            unit.log.awake().map_err(Failure::Logs)?;
        }
        let mut chunk = [0u8; CHUNK_BYTES];
        let mut out = io::stdout().lock();
        for _ in 0..LOG_TURNS_MAX {
            let taken = unit.log.read(&mut chunk).map_err(Failure::Logs)?;
            let bytes = chunk.get(..taken).unwrap_or_default();
            out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)?;
            if taken == 0 {
                return Ok(());
            }
        }
        unit.more = true;
        Ok(())
    }

    fn has_room(&self) -> bool {
        let most = if self.unit.is_some() { INPUT_MAX_BYTES } else { 1 };
        self.input.bytes.len() < most
    }

    /// Returns whether the keys that detach were typed.
    fn read_input(&mut self) -> io::Result<bool> {
        let mut chunk = [0u8; CHUNK_BYTES];
        // Not through `Stdin`: its buffer would hide bytes from poll(2).
        match rustix::io::read(io::stdin(), &mut chunk) {
            Ok(0) => {
                self.input.open = false;
                // Of a unit's terminal we are not the only one who types.
                self.input.bytes.extend(self.unit.is_none().then_some(END_OF_FILE));
            }
            Ok(taken) => {
                let typed = chunk.get(..taken).unwrap_or_default();
                match &mut self.unit {
                    Some(unit) => return Ok(unit.keys.pass(typed, &mut self.input.bytes)),
                    None => self.input.bytes.extend_from_slice(typed),
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // EIO: our own terminal hung up.
            Err(Errno::IO) => self.input.open = false,
            Err(error) => return Err(error.into()),
        }
        Ok(false)
    }

    fn type_input(&mut self) {
        let Some(master) = &mut self.master else { return };
        match master.write(&self.input.bytes) {
            Ok(taken) => drop(self.input.bytes.drain(..taken.min(self.input.bytes.len()))),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                if let Some(unit) = &mut self.unit {
                    unit.hung_up = is_hung_up(master.as_fd());
                }
            }
            Err(_) if self.unit.is_some() => self.input.bytes.clear(),
            // Nobody reads it any more: reading the master will tell.
            Err(_) => self.input = Input { open: false, bytes: Vec::new() },
        }
    }
}

fn is_hung_up(master: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(master, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
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

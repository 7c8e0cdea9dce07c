//! The handle of the log thread ([`mover`](super::mover)). Commands go through a channel and an eventfd; the caller never waits.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, epoll};
use rustix::io::Errno;

use super::mover::{Command, Inlet, Mover, WAKE};
use super::segment;
use super::stage::Stage;
use super::unit_log::StoreError;
use crate::unit::{ContainerId, Log, UnitName};

/// The host's cap is not below this.
const HOST_CAP_MIN_BYTES: u64 = 1 << 20;
/// The thread calls little of anything.
const STACK_BYTES: usize = 256 * 1024;

/// What the log thread tells the loop.
#[derive(Debug)]
pub enum LogEvent {
    /// Both pipes of this container were read empty after [`LogWriter::drain`], and it is detached.
    Drained(ContainerId),
    /// The disk does not take this unit's bytes; they are counted and dropped from now on.
    Dropping {
        /// Whose.
        unit: UnitName,
        /// What failed.
        error: StoreError,
    },
    /// The disk takes bytes again, and the count is in the index.
    Recorded {
        /// Whose.
        unit: UnitName,
        /// How many are missing.
        dropped_bytes: u64,
    },
}

/// Why the log thread could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log directory cannot be made.
    #[error("cannot make the log directory {path}: {source}")]
    MakeDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nor listed.
    #[error("cannot list the log directory {path}: {source}")]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No epoll, eventfd or thread.
    #[error("cannot start the log thread ({step}): {source}")]
    Thread {
        /// The call.
        step: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// The handle of the log thread. Dropping it ends the thread; what is in the pipes stays there.
#[derive(Debug)]
pub struct LogWriter {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Makes `log_dir`, counts what is in it, starts the thread. `run_dir` is where busy pipes' bytes pass through. `post` is called on that thread and must not block.
    pub fn start(
        run_dir: &Path,
        log_dir: &Path,
        host_cap_bytes: u64,
        post: impl Fn(LogEvent) + Send + 'static,
    ) -> Result<LogWriter, LogError> {
        let made = segment::make_dir(log_dir);
        made.map_err(|source| LogError::MakeDir { path: log_dir.to_owned(), source })?;
        let failed = |step| move |errno: Errno| LogError::Thread { step, source: errno.into() };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).map_err(failed("eventfd"))?);
        let token = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &wake, token, epoll::EventFlags::IN).map_err(failed("epoll_ctl"))?;
        let (commands, inbox) = channel();
        let bytes = Arc::new(AtomicU64::new(0));
        let inlet = Inlet { epoll, wake: Arc::clone(&wake), inbox };
        let cap_bytes = host_cap_bytes.max(HOST_CAP_MIN_BYTES);
        let stage = Stage::open(run_dir).map_err(|source| LogError::Thread { step: "opening the stage", source })?;
        let mut mover = Mover::new(log_dir, cap_bytes, Box::new(post), inlet, stage, Arc::clone(&bytes));
        mover.find_units().map_err(|source| LogError::List { path: log_dir.to_owned(), source })?;
        mover.finish_staged();
        let thread = std::thread::Builder::new().name("logs".into()).stack_size(STACK_BYTES).spawn(move || mover.run());
        let thread = thread.map_err(|source| LogError::Thread { step: "clone", source })?;
        Ok(LogWriter { commands, wake, bytes, thread: Some(thread) })
    }

    /// Takes the read ends of a container's two FIFOs (`O_RDONLY` or `O_RDWR`; made non-blocking). After a crash of the
    /// supervisor the same FIFOs are attached again and the log goes on where the kernel left it.
    pub fn attach(&self, id: ContainerId, out: OwnedFd, err: OwnedFd, limits: Log) {
        self.send(Command::Attach { id, pipes: [out, err], limits: Some(limits) });
    }

    /// The same for a container found at work, whose caps are those that [`LogWriter::set_limits`] said or says: until then its log grows,
    /// for a file that is removed too early does not come back.
    pub fn attach_again(&self, id: ContainerId, out: OwnedFd, err: OwnedFd) {
        self.send(Command::Attach { id, pipes: [out, err], limits: None });
    }

    /// What is written on the terminal whose `master` this is (not blocking) belongs into the container's standard output, into whose FIFO it
    /// goes: `into` is another end of that. For a container that is attached.
    pub fn read_terminal(&self, id: ContainerId, master: OwnedFd, into: OwnedFd) {
        self.send(Command::Terminal { id, master, into });
    }

    /// The container has ended: move what is in its pipes now, detach it, post [`LogEvent::Drained`]. Also posted for an id that is not attached.
    pub fn drain(&self, id: ContainerId) {
        self.send(Command::Drain(id));
    }

    /// Lets go of a container without reading its pipes (a start that failed, a hand-over).
    pub fn detach(&self, id: ContainerId) {
        self.send(Command::Detach(id));
    }

    /// Caps of a unit, attached or not.
    pub fn set_limits(&self, unit: UnitName, limits: Log) {
        self.send(Command::SetLimits(unit, limits));
    }

    /// Bytes of all logs below the log directory, as tracked.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends the thread after the commands given so far, and waits for it (at most one turn of moving, unless the disk hangs).
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.send(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn send(&self, command: Command) {
        // The receiver lives as long as the thread, which ends only on Shutdown. A full eventfd counter is a wake-up too.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end();
        }
    }
}

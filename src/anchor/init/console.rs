//! The console: what process 1 says there, and the emergency shell.
//!
//! Process 1 never waits for a console: what a terminal does not take at once is lost.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::helper;
use crate::sys::wait::{Which, await_end};
use crate::sys::{clone, fd, signal};

/// Where it is unless init.toml says otherwise.
const CONSOLE: &str = "/dev/console";
/// From the end of a shell to the next one: one that cannot run must not keep a processor busy.
const SHELL_PAUSE: Duration = Duration::from_secs(1);

static PATH: OnceLock<PathBuf> = OnceLock::new();

/// Says where it is. Only the first word counts.
pub(super) fn choose(path: Option<&Path>) {
    if let Some(path) = path {
        let _ = PATH.set(path.to_owned());
    }
}

fn open(flags: OFlags) -> io::Result<OwnedFd> {
    let path = PATH.get().map_or(Path::new(CONSOLE), PathBuf::as_path);
    Ok(rustix::fs::open(path, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes it our standard input, output and error, which keeper and supervisor inherit.
pub(super) fn take() {
    for number in 0..=2 {
        if let Ok(console) = open(OFlags::RDWR) {
            let _ = fd::place(console, number);
        }
    }
}

/// Prints one line.
pub(super) fn say(text: &str) {
    if let Ok(console) = open(OFlags::WRONLY | OFlags::NONBLOCK) {
        let _ = rustix::io::write(&console, format!("moored: {text}\n").as_bytes());
    }
}

/// Whether there is a shell to run.
pub(super) fn has_shell() -> bool {
    Path::new("/bin/sh").exists()
}

/// Starts a child that runs one shell after the other on the console; returns its pid.
pub(super) fn start_shell() -> io::Result<i32> {
    helper::start(|| {
        let _ = rustix::thread::set_name(c"moored-shell");
        loop {
            // Its end is waited for whatever it was.
            if let Ok(pid) = helper::start(shell) {
                let _ = await_end(Which::Pid(pid));
            }
            std::thread::sleep(SHELL_PAUSE);
        }
    })
}

/// In the child: a session with the console as its terminal, then /bin/sh.
fn shell() -> u8 {
    let _ = signal::reset_all();
    let _ = rustix::process::setsid();
    take();
    if let Some(terminal) = fd::inherited(0) {
        let _ = rustix::process::ioctl_tiocsctty(&terminal);
        // It stays the shell's standard input.
        std::mem::forget(terminal);
    }
    let path = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let own = crate::keeper::environment();
    let environment: Vec<CString> =
        own.into_iter().filter(|pair| !pair.to_bytes().starts_with(b"PATH=")).chain([path]).collect();
    let _ = nix::unistd::execve(c"/bin/sh", &[c"-sh"], &environment);
    clone::leave(127)
}

//! The caller's terminal in raw mode, and always back.
//!
//! Raw mode is undone when the guard goes, and by the panic hook where a panic aborts without unwinding. Deaths by signal are the
//! caller's: [`exec`](super::exec) takes the signals that can be taken as input.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// What standard input was before raw mode, while it is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// While it lives, standard input is in raw mode.
pub struct RawMode(());

impl RawMode {
    /// Makes standard input raw (cfmakeraw(3)).
    pub fn enter() -> io::Result<RawMode> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let inner = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                inner(panic);
            }));
        });
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let mode = RawMode(());
        tcsetattr(stdin.as_fd(), OptionalActions::Drain, &raw)?;
        Ok(mode)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Now, not after draining: output that nobody reads would hold the terminal raw.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Rows and columns, `None` if it is no terminal or has no size.
pub fn size(fd: BorrowedFd<'_>) -> Option<(u16, u16)> {
    rustix::termios::tcgetwinsize(fd).ok().map(|size| (size.ws_row, size.ws_col)).filter(|size| *size != (0, 0))
}

/// Tells the terminal behind a pty's master its size; the kernel sends SIGWINCH to its foreground group.
pub fn set_size(master: BorrowedFd<'_>, (rows, columns): (u16, u16)) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

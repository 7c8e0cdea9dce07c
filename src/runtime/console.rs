//! The container's terminal: a pty from its own devpts, reached through descriptors only.
//!
//! The master comes from the devpts that was just mounted, the slave from the master itself (`TIOCGPTPEER`), and what
//! lands on `/dev/console` is that slave, so no link in the root can lead any of them astray (CVE-2025-52565).

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::child::Run;
use super::error::{StepError, about, call};
use super::mount::{attach, clone_tree};

/// Makes the terminal, sends its master, and takes its slave as console, stdio and controlling terminal.
pub(super) fn open(run: &mut Run, size: Option<(u16, u16)>, cover: bool) -> Result<(), StepError> {
    let (master, slave) = pair(run)?;
    if let Some((rows, columns)) = size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).map_err(call("set the window size"))?;
    }
    if cover {
        cover_console(run, &slave)?;
    }
    take(run, master, slave)
}

/// A new pty of the container's devpts, or, in a session in a running container, of the one that is its `/dev/pts`.
pub(super) fn pair(run: &Run) -> Result<(OwnedFd, OwnedFd), StepError> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = match &run.trees.devpts {
        Some(devpts) => openat(devpts, "ptmx", flags, Mode::empty()).map_err(about("open", "/dev/pts/ptmx"))?,
        None => run.root()?.open("/dev/pts/ptmx", flags).map_err(about("open", "/dev/pts/ptmx"))?,
    };
    let stat = fstat(&master).map_err(about("stat", "/dev/pts/ptmx"))?;
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (5, 2);
    if !is_ptmx {
        return Err(StepError::NotTheDevice { path: "/dev/pts/ptmx".to_owned(), expected: "c 5:2" });
    }
    unlockpt(&master).map_err(call("unlockpt"))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(call("open the terminal"))?;
    Ok((master, slave))
}

fn cover_console(run: &Run, slave: &OwnedFd) -> Result<(), StepError> {
    let target = run.root()?.ensure_file("/dev/console")?;
    let tree = clone_tree(slave.as_fd(), false).map_err(about("open_tree", "the terminal"))?;
    attach(&tree, target.as_fd()).map_err(about("move_mount", "/dev/console"))
}

/// Sends the master and makes the slave stdio and the controlling terminal of this session.
pub(super) fn take(run: &mut Run, master: OwnedFd, slave: OwnedFd) -> Result<(), StepError> {
    let socket = run.slots.console.take().ok_or(StepError::EmptySlot { slot: "the console" })?;
    send(&socket, &master)?;
    rustix::process::ioctl_tiocsctty(&slave).map_err(call("take the controlling terminal"))?;
    let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(call("dup"));
    run.slots.stdin = Some(copy(&slave)?);
    run.slots.stdout = Some(copy(&slave)?);
    run.slots.stderr = Some(slave);
    run.terminal = true;
    Ok(())
}

/// As clients of `--console-socket` expect: one message, the name as its text, the master beside it.
fn send(socket: &OwnedFd, master: &OwnedFd) -> Result<(), StepError> {
    let name = ptsname(master, Vec::new()).map_err(call("ptsname"))?;
    let fds = [master.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(name.as_bytes())], &mut control, SendFlags::NOSIGNAL)
        .map(drop)
        .map_err(call("send the terminal"))
}

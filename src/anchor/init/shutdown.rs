//! The end of a machine. The units were stopped in order, or had no more time for it; what follows has a deadline each, that nothing can stretch:
//!
//! | step | at most |
//! |---|---|
//! | SIGTERM to every process that is left | 5 s, or until none is |
//! | SIGKILL | 5 s, or until none is: one that the kernel holds (state D) is left |
//! | the last known time is written, file systems are synced | 20 s |
//! | they are unmounted, the last first; what is busy becomes read-only, and so does the root | 20 s |
//! | reboot(2) | |
//!
//! A child does what touches disks. Process 1 waits for it, pets the watchdog, and goes on without it.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use super::duty::{Watch, touch};
use super::order::Order;
use super::{console, helper, mounted};
use crate::anchor::control::span;
use crate::keeper::now_ns;
use crate::sys::wait::{Which, reap};

const TERM_WAIT: Duration = Duration::from_secs(5);
const KILL_WAIT: Duration = Duration::from_secs(5);
const SYNC_WAIT: Duration = Duration::from_secs(20);
const UNMOUNT_WAIT: Duration = Duration::from_secs(20);
/// reboot(2) that came back is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// What holds nothing of anybody's.
const NOT_UNMOUNTED: [&str; 8] = ["proc", "sysfs", "devtmpfs", "devpts", "cgroup2", "rootfs", "securityfs", "debugfs"];
/// A mount under another one is busy until that one is gone: they are listed in the order in which they were made.
const ROUNDS: usize = 2;

/// Whom to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// No child is left.
    Alone,
    /// This one has ended.
    Ended(i32),
    /// The same, or a signal came, which is noted.
    EndedOrTold(i32),
    /// The time is over; or a signal came, which is noted.
    Time,
}

/// Buries whoever ends, pets the watchdog and notes signals, until `what` or the deadline. `false`: the deadline.
pub(super) fn wait(what: Until, most: Duration, signals: &SignalFd, watch: &mut Watch) -> bool {
    let by = now_ns().saturating_add(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX));
    loop {
        match bury(what) {
            Buried::Wanted => return true,
            // More may wait than a signal tells of.
            Buried::Other => continue,
            Buried::None => {}
        }
        let now = now_ns();
        if now >= by {
            return false;
        }
        if watch.pet_at_ns().is_some_and(|at| at <= now) {
            watch.pet();
        }
        let next = watch.pet_at_ns().map_or(by, |at| at.min(by));
        let mut polls = [PollFd::new(signals, PollFlags::IN)];
        let _ = poll(&mut polls, Some(&span(next.saturating_sub(now))));
        let mut told = false;
        while let Ok(Some(info)) = signals.read_signal() {
            if i32::try_from(info.ssi_signo) != Ok(crate::sys::signal::SIGCHLD) {
                watch.signalled(info.ssi_signo);
                told = true;
            }
        }
        if told && matches!(what, Until::Time | Until::EndedOrTold(_)) {
            return true;
        }
    }
}

enum Buried {
    Wanted,
    Other,
    None,
}

fn bury(what: Until) -> Buried {
    match (reap(Which::Any), what) {
        (Ok(Some(ended)), Until::Ended(pid) | Until::EndedOrTold(pid)) if ended.pid == pid => Buried::Wanted,
        (Ok(Some(_)), _) => Buried::Other,
        (Err(error), Until::Alone | Until::Ended(_) | Until::EndedOrTold(_))
            if error.raw_os_error() == Some(libc::ECHILD) =>
        {
            Buried::Wanted
        }
        (Ok(None) | Err(_), _) => Buried::None,
    }
}

/// Does all of it. Does not come back.
pub(super) fn end(order: Order, signals: &SignalFd, watch: &mut Watch) -> ! {
    console::say(&format!("{}: what is left is ended", order.word()));
    for (signal, most) in [(Signal::SIGTERM, TERM_WAIT), (Signal::SIGKILL, KILL_WAIT)] {
        if kill(Pid::from_raw(-1), signal).is_err() || wait(Until::Alone, most, signals, watch) {
            // ESRCH: nobody is there.
            break;
        }
        // One that is stopped takes a SIGTERM when it goes on.
        let _ = kill(Pid::from_raw(-1), Signal::SIGCONT);
    }
    if !wait(Until::Alone, Duration::ZERO, signals, watch) {
        console::say("some processes could not be killed: going on without them");
    }
    let clock = watch.clock().map(Path::to_owned);
    within("syncing", SYNC_WAIT, signals, watch, move || {
        clock.iter().for_each(|clock| touch(clock));
        rustix::fs::sync();
        0
    });
    within("unmounting", UNMOUNT_WAIT, signals, watch, || {
        unmount_all();
        0
    });
    if order == Order::Halt {
        watch.disarm();
    }
    console::say(&format!("{} now", order.word()));
    loop {
        if let Err(errno) = rustix::system::reboot(order.command()) {
            console::say(&format!("{}: {errno}", order.word()));
        }
        wait(Until::Time, AGAIN, signals, watch);
    }
}

/// A child's work, for which process 1 waits no longer than this.
fn within(what: &str, most: Duration, signals: &SignalFd, watch: &mut Watch, work: impl FnOnce() -> u8) {
    let started: io::Result<i32> = helper::start(work);
    let done = started.is_ok_and(|pid| wait(Until::Ended(pid), most, signals, watch));
    if !done {
        console::say(&format!("{what} is not done after {most:?}: going on without it"));
    }
}

fn unmount_all() {
    let root = Path::new("/");
    for round in 1..=ROUNDS {
        for mount in mounted::read().iter().rev() {
            if mount.target == root || NOT_UNMOUNTED.contains(&mount.kind.as_str()) {
                continue;
            }
            if let Err(errno) = unmount(&mount.target, UnmountFlags::NOFOLLOW)
                && round == ROUNDS
                && !mount.is_in_memory()
            {
                let _ = mount_remount(&mount.target, MountFlags::RDONLY, c"");
                console::say(&format!("{} cannot be unmounted: {errno}", mount.target.display()));
            }
        }
    }
    let is_disk = |mount: &mounted::Mounted| !mount.is_in_memory() && !mount.read_only;
    if mounted::at(&mounted::read(), root).is_some_and(is_disk)
        && let Err(errno) = mount_remount("/", MountFlags::RDONLY, c"")
    {
        console::say(&format!("the root cannot be made read-only: {errno}"));
    }
}

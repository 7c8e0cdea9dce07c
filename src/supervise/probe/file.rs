//! A look at a file inside a container, in a thread of its own: what is mounted there may take for ever to answer.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};

use super::{Found, Order, Subject, shown};
use crate::supervise::bell::Inbox;
use crate::supervise::hands::is_alive;

const STACK_BYTES: usize = 64 * 1024;

/// Begins it; the answer goes to the inbox.
pub fn look(
    token: u64,
    subject: &Subject,
    path: PathBuf,
    max_age: Option<Duration>,
    inbox: Arc<Inbox<Order>>,
) -> Result<(), String> {
    let pidfd = subject.pidfd.try_clone().map_err(|error| format!("copying a pidfd: {error}"))?;
    let pid = subject.pid;
    let work = move || inbox.push(Order::Done(token, found(pid, &pidfd, &path, max_age)));
    let thread = Builder::new().name("file-probe".to_owned()).stack_size(STACK_BYTES).spawn(work);
    thread.map(drop).map_err(|error| format!("starting a thread: {error}"))
}

/// Links are followed as the container would follow them.
fn found(pid: i32, pidfd: &OwnedFd, path: &Path, max_age: Option<Duration>) -> Found {
    let root = format!("/proc/{pid}/root");
    let root = match rustix::fs::open(&root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(errno) => return Found::Fault(format!("{root}: {errno}")),
    };
    if !is_alive(pidfd.as_fd()) {
        return Found::Fault("the container has ended".to_owned());
    }
    let file = crate::runtime::open_inside(&root, path, OFlags::PATH);
    let stat = file.and_then(|file| rustix::fs::fstat(&file));
    match (stat, max_age) {
        (Err(rustix::io::Errno::NOENT), _) => Found::Sick(format!("{} is not there", path.display())),
        (Err(errno), _) => Found::Sick(format!("{}: {errno}", path.display())),
        (Ok(_), None) => Found::Well,
        (Ok(stat), Some(max_age)) => {
            let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            // One that lies in the future is as young as can be.
            let age = SystemTime::now().duration_since(changed).unwrap_or_default();
            let age = age.saturating_sub(Duration::from_nanos(stat.st_mtime_nsec));
            if age <= max_age {
                return Found::Well;
            }
            let whole = if age.as_secs() > 0 { Duration::from_secs(age.as_secs()) } else { age };
            Found::Sick(format!("{} was last changed {} ago", path.display(), shown(whole)))
        }
    }
}

//! Read leases: a file that nobody has open for writing. fcntl(2), "Leases".

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Not in libc for this target; 10 in asm-generic/fcntl.h, which x86-64 and aarch64 use.
const F_SETSIG: libc::c_int = 10;

/// What the kernel said to the wish for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// No writer has the file open, and the next one waits until the lease is given back.
    Yes,
    /// Some process has the file open for writing (EAGAIN).
    Writer,
    /// This file system, or this user, has no leases (EINVAL, EACCES, ENOLCK, EOPNOTSUPP).
    Unsupported,
}

/// Asks for a read lease on a regular file that is open read-only. It ends with [`release`] or when the descriptor closes.
///
/// A writer that opens meanwhile breaks the lease: the kernel then signals this process. The default, SIGIO, would end
/// it; SIGURG is ignored unless somebody asks for it, so that is what the kernel is told to send.
pub fn acquire(fd: BorrowedFd<'_>) -> Granted {
    // SAFETY: `fd` is open for the whole call (BorrowedFd); F_SETSIG takes an int and touches no memory.
    let signalled = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, libc::SIGURG) };
    if signalled < 0 {
        return Granted::Unsupported;
    }
    // SAFETY: as above; F_SETLEASE takes an int.
    let leased = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK as libc::c_int) };
    if leased == 0 {
        return Granted::Yes;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Granted::Writer,
        _ => Granted::Unsupported,
    }
}

/// Gives the lease back, so that a waiting writer goes on. Without a lease it does nothing.
pub fn release(fd: BorrowedFd<'_>) {
    // SAFETY: `fd` is open for the whole call (BorrowedFd); F_SETLEASE takes an int and touches no memory.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK as libc::c_int) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;

    #[test]
    fn a_writer_keeps_the_lease_away_and_breaking_one_kills_nobody() {
        let path = std::env::temp_dir().join(format!("moored-lease-{}", std::process::id()));
        fs::write(&path, "x").unwrap();
        let reader = fs::File::open(&path).unwrap();
        let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(acquire(reader.as_fd()), Granted::Writer);
        drop(writer);
        assert_eq!(acquire(reader.as_fd()), Granted::Yes);
        // The open below waits for the release and sends the signal.
        let opening = {
            let path = path.clone();
            std::thread::spawn(move || fs::OpenOptions::new().write(true).open(path).map(drop))
        };
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!opening.is_finished(), "the writer should wait for the lease");
        release(reader.as_fd());
        opening.join().unwrap().unwrap();
        fs::remove_file(&path).unwrap();
    }
}

//! The running program as a descriptor: executed again from a sealed memfd, so that nothing can reach its file.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::AtFlags;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// All that keeps a memfd as it is.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// The program this process runs, open for `execveat`; and whether it is a sealed memfd already.
pub fn own() -> io::Result<(OwnedFd, bool)> {
    let fd = OwnedFd::from(File::open("/proc/self/exe")?);
    // EINVAL: a file that knows no seals.
    let sealed = fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SEALS));
    Ok((fd, sealed))
}

/// A sealed copy of `program`, executable.
pub fn sealed_copy(program: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC exists since Linux 6.3 and is needed where vm.memfd_noexec is 1.
    let copy = memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
    let mut from = File::from(program.try_clone_to_owned()?);
    let mut to = File::from(copy);
    io::copy(&mut from, &mut to)?;
    fcntl_add_seals(&to, SEALS)?;
    Ok(to.into())
}

/// Replaces this process by `program`.
pub fn execute(program: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Result<Infallible> {
    nix::unistd::execveat(program, c"", argv, env, AtFlags::AT_EMPTY_PATH).map_err(io::Error::from)
}

/// Forks a child that does `setup` and becomes `program`; it exits with 127 if it cannot. Returns its pid.
///
/// The caller has one thread, or `setup` does only what is safe after the fork of a threaded process.
pub fn spawn(
    program: BorrowedFd<'_>,
    argv: &[CString],
    env: &[CString],
    setup: impl FnOnce() -> io::Result<()>,
) -> io::Result<i32> {
    // SAFETY: the child runs `setup` and exec only, and leaves by _exit: see the contract above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let _ = setup().and_then(|()| execute(program.as_fd(), argv, env).map(|_| ()));
            // SAFETY: ends this process only, without the parent's exit handlers.
            unsafe { libc::_exit(127) }
        }
        pid => Ok(pid),
    }
}

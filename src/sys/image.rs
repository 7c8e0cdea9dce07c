//! The running program as a descriptor: executed again from a sealed memfd or through a read-only overlay of its directory, so that
//! nothing can write its file (CVE-2019-5736).

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::AtFlags;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;

use super::elf;

/// All that keeps a memfd as it is.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// So often a memfd is to be sealed before it counts as one that cannot be.
const SEAL_TRIES: u32 = 10;

/// The program this process runs, open for `execveat`; and whether it is a sealed memfd already.
pub fn own() -> io::Result<(OwnedFd, bool)> {
    let fd = OwnedFd::from(File::open("/proc/self/exe")?);
    let sealed = is_sealed(fd.as_fd());
    Ok((fd, sealed))
}

/// Whether nobody can write a file any more, or change its length.
pub fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    // EINVAL: a file that knows no seals.
    fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SEALS))
}

/// Seals a memfd, which was made to be sealed. EBUSY is not only for one that is mapped: the kernel gives up after some 100 ms of waiting for
/// pages that it happens to hold itself (`memfd_wait_for_pins`; seen while memory was short), so it is asked again.
pub fn seal(fd: BorrowedFd<'_>) -> io::Result<()> {
    for _ in 1..SEAL_TRIES {
        match fcntl_add_seals(fd, SEALS) {
            Err(Errno::BUSY) => {}
            other => return Ok(other?),
        }
    }
    Ok(fcntl_add_seals(fd, SEALS)?)
}

/// Device and inode: the same for all processes that run from one memfd.
pub fn identity(program: BorrowedFd<'_>) -> Option<(u64, u64)> {
    rustix::fs::fstat(program).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// A sealed copy of `program`, executable.
pub fn sealed_copy(program: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    sealed(&mut File::from(program.try_clone_to_owned()?), name)
}

/// A sealed program with these bytes.
pub fn sealed(bytes: &mut impl io::Read, name: &CStr) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC exists since Linux 6.3 and is needed where vm.memfd_noexec is 1.
    let copy = memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
    let mut to = File::from(copy);
    io::copy(bytes, &mut to)?;
    leave_out_unwind_tables(to.as_fd())?;
    seal(to.as_fd())?;
    Ok(to.into())
}

/// They are an eighth of the program, and of the memory that it takes for as long as the host is up.
fn leave_out_unwind_tables(copy: BorrowedFd<'_>) -> io::Result<()> {
    let page = rustix::param::page_size() as u64;
    for table in elf::idle_unwind_tables(copy) {
        // What shares a page with something else stays.
        let (start, end) = (table.start.next_multiple_of(page), table.end - table.end % page);
        if start < end {
            fallocate(copy, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, end - start)?;
        }
    }
    Ok(())
}

/// Whether what is executed from this descriptor's file system cannot be written through it: an overlay that is read-only.
pub fn is_read_only_overlay(program: BorrowedFd<'_>) -> bool {
    /// OVERLAYFS_SUPER_MAGIC.
    const OVERLAY: u64 = 0x794c_7630;
    let overlay = rustix::fs::fstatfs(program).is_ok_and(|stat| stat.f_type as u64 == OVERLAY);
    let read_only = |stat: rustix::fs::StatVfs| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    overlay && rustix::fs::fstatvfs(program).is_ok_and(read_only)
}

/// The file of `path` as a read-only overlay shows it. No upper layer, so whatever its mount's flags become, it cannot be written;
/// nobody else can reach the mount. Some 0.1 ms against 4 for a copy in memory. Fails where there is no overlayfs, or not over this
/// file system.
///
/// `other` is any directory that neither holds the program's nor lies in it. Without an upper layer there must be two lower ones, and
/// before Linux 6.15 a detached mount of an empty file system is not taken as one. What is in it does not matter: only the program is
/// opened.
pub fn read_only_overlay(path: &std::path::Path, other: &std::path::Path) -> io::Result<OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    };
    use std::os::fd::AsRawFd;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let open = |path| openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let (directory, other) = (open(directory)?, open(other)?);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // By descriptor: a path may hold `:`, and be longer than fsconfig takes.
    let lower = format!("/proc/self/fd/{}:/proc/self/fd/{}", directory.as_raw_fd(), other.as_raw_fd());
    fsconfig_set_string(&context, "lowerdir", lower)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(openat(&mount, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_without_symbols_takes_less_memory_and_runs() {
        let own = std::env::current_exe().unwrap();
        let dir = std::env::temp_dir().join(format!("moored-image-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let stripped = dir.join("stripped");
        let strip = std::process::Command::new("strip").arg("-o").args([&stripped, &own]).status();
        let Some(true) = strip.ok().map(|status| status.success()) else {
            assert!(std::env::var_os("MOORED_NO_SKIP").is_none_or(|v| v != "1"), "may not be skipped: no strip(1)");
            return println!("SKIP no strip(1): apt-get install binutils");
        };
        let program = File::open(&stripped).unwrap();
        let copy = sealed_copy(program.as_fd(), c"copy").unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let copy = File::from(copy);
        let (whole, left) = (program.metadata().unwrap(), copy.metadata().unwrap());
        assert_eq!(whole.len(), left.len());
        let tables: u64 = elf::idle_unwind_tables(program.as_fd()).iter().map(|table| table.end - table.start).sum();
        let missing = whole.len().saturating_sub(left.blocks() * 512);
        assert!(missing > tables / 2 && missing <= tables, "{missing} of {tables} bytes are left out");

        let quiet = || {
            let null = File::options().write(true).open("/dev/null")?;
            Ok(rustix::stdio::dup2_stdout(&null)?)
        };
        let pid = spawn(copy.as_fd(), &[c"copy".to_owned(), c"--list".to_owned()], &[], quiet).unwrap();
        let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
        assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(pid), 0));
    }
}

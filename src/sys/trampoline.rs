//! A program of a few instructions that executes another one: what a process that sets itself up becomes just before it executes the
//! program of its container.
//!
//! The program may be named `/proc/self/exe`, be a link to it, or a script or an ELF file whose interpreter it is. Execve(2) finds that
//! while the process is still what it was, so what it was must not be a file of the host's (CVE-2019-5736): it is this, in a memfd of its
//! own. Executing it costs 0.05 ms, executing the whole of moored from where it cannot be written 0.5.
//!
//! It is given `argv` = path, arguments of the program from `argv[0]` on, and the program's environment. What it does:
//!
//! | step | call | |
//! |---|---|---|
//! | 0 | `fcntl(report, F_SETFD, FD_CLOEXEC)` | so that the program's execution closes the report |
//! | 1 | `seccomp(SECCOMP_SET_MODE_FILTER, flags, filter)` | where there is one: after it nothing but execve is called |
//! | 2 | `execve(argv[0], &argv[1], environment)` | |
//!
//! If one fails it writes [`Failed`] to the report and exits with 127. It uses no memory but its stack, and no library.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Where it is loaded: a multiple of every page size, above `vm.mmap_min_addr`.
const BASE: u64 = 0x40_0000;
/// ELF header and two program headers.
const HEADERS_BYTES: usize = 64 + 2 * 56;
/// The parameters at the end of the code: report, flags, and a `struct sock_fprog`.
const PARAMETERS_BYTES: usize = 24;
/// What a report begins with, which no other report does.
const MARK: [u8; 4] = [0xff; 4];

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .rodata.moored_trampoline, \"a\", @progbits",
    ".balign 8",
    ".hidden moored_trampoline, moored_trampoline_end",
    ".globl moored_trampoline, moored_trampoline_end",
    "moored_trampoline:",
    "xor r12d, r12d",                 // the step; system calls keep it
    "mov edi, dword ptr [rip + 30f]", // fcntl(report, F_SETFD, FD_CLOEXEC)
    "mov esi, 2",
    "mov edx, 1",
    "mov eax, 72",
    "syscall",
    "test rax, rax",
    "jnz 20f",
    "inc r12d",
    "cmp word ptr [rip + 32f], 0", // no filter
    "je 22f",
    "mov edi, 1", // seccomp(SECCOMP_SET_MODE_FILTER, flags, &filter)
    "mov esi, dword ptr [rip + 31f]",
    "lea rdx, [rip + 32f]",
    "mov eax, 317",
    "syscall",
    "test rax, rax",
    "jnz 20f",
    "22:",
    "inc r12d",
    "mov rax, [rsp]",     // argc
    "mov rdi, [rsp + 8]", // execve(argv[0], &argv[1], environment)
    "lea rsi, [rsp + 16]",
    "lea rdx, [rsp + rax * 8 + 16]",
    "mov eax, 59",
    "syscall",
    "20:",
    "sub rsp, 16", // write(report, {MARK, -errno, step}, 12)
    "mov dword ptr [rsp], -1",
    "mov dword ptr [rsp + 4], eax",
    "mov dword ptr [rsp + 8], r12d",
    "mov edi, dword ptr [rip + 30f]",
    "mov rsi, rsp",
    "mov edx, 12",
    "mov eax, 1",
    "syscall",
    "mov edi, 127", // exit_group(127)
    "mov eax, 231",
    "syscall",
    "ud2",
    ".balign 8",
    "30: .long 0",    // report
    "31: .long 0",    // flags
    "32: .quad 0, 0", // struct sock_fprog
    "moored_trampoline_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".pushsection .rodata.moored_trampoline, \"a\", @progbits",
    ".balign 8",
    ".hidden moored_trampoline, moored_trampoline_end",
    ".globl moored_trampoline, moored_trampoline_end",
    "moored_trampoline:",
    "mov w19, #0", // the step
    "ldr w0, 30f", // fcntl(report, F_SETFD, FD_CLOEXEC)
    "mov x1, #2",
    "mov x2, #1",
    "mov x8, #25",
    "svc #0",
    "cbnz x0, 20f",
    "add w19, w19, #1",
    "adr x2, 32f",
    "ldrh w3, [x2]",
    "cbz w3, 22f", // no filter
    "mov x0, #1",  // seccomp(SECCOMP_SET_MODE_FILTER, flags, &filter)
    "ldr w1, 31f",
    "mov x8, #277",
    "svc #0",
    "cbnz x0, 20f",
    "22:",
    "add w19, w19, #1",
    "ldr x3, [sp]",     // argc
    "ldr x0, [sp, #8]", // execve(argv[0], &argv[1], environment)
    "add x1, sp, #16",
    "add x2, x1, x3, lsl #3",
    "mov x8, #221",
    "svc #0",
    "20:",
    "sub sp, sp, #16", // write(report, {MARK, -errno, step}, 12)
    "mov w3, #-1",
    "str w3, [sp]",
    "str w0, [sp, #4]",
    "str w19, [sp, #8]",
    "ldr w0, 30f",
    "mov x1, sp",
    "mov x2, #12",
    "mov x8, #64",
    "svc #0",
    "mov x0, #127", // exit_group(127)
    "mov x8, #94",
    "svc #0",
    "brk #0",
    ".balign 8",
    "30: .long 0",    // report
    "31: .long 0",    // flags
    "32: .quad 0, 0", // struct sock_fprog
    "moored_trampoline_end:",
    ".popsection",
);

unsafe extern "C" {
    static moored_trampoline: u8;
    static moored_trampoline_end: u8;
}

/// The code, and the parameters at its end as zeroes.
fn code() -> &'static [u8] {
    let (start, end) = (&raw const moored_trampoline, &raw const moored_trampoline_end);
    // SAFETY: both are symbols of one section of read-only data, the end behind the start; all between is initialised and never written.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// A place in memory for one: executable, and still to be written.
///
/// Errs with EACCES where the host executes nothing from memory (`vm.memfd_noexec` = 2).
pub fn reserve() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(c"moored-trampoline", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no such flag, and everything is executable.
        Err(rustix::io::Errno::INVAL) => memfd_create(c"moored-trampoline", flags),
        other => other,
    }
    .map_err(io::Error::from)
}

/// Writes and seals one that reports to this descriptor and loads this filter, if it has instructions.
pub fn write(reserved: BorrowedFd<'_>, report: RawFd, filter: &[libc::sock_filter], flags: u32) -> io::Result<()> {
    let image = image(report as u32, filter, flags)?;
    File::from(reserved.try_clone_to_owned()?).write_all(&image)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    Ok(fcntl_add_seals(reserved.as_fd(), seals)?)
}

fn image(report: u32, filter: &[libc::sock_filter], flags: u32) -> io::Result<Vec<u8>> {
    let length = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let code = code();
    let size = HEADERS_BYTES + code.len() + size_of_val(filter);
    let mut image = headers(size as u64);
    image.extend_from_slice(&code[..code.len() - PARAMETERS_BYTES]);
    image.extend(report.to_le_bytes());
    image.extend(flags.to_le_bytes());
    image.extend(u64::from(length).to_le_bytes());
    image.extend((BASE + (HEADERS_BYTES + code.len()) as u64).to_le_bytes());
    for one in filter {
        image.extend(one.code.to_le_bytes());
        image.extend([one.jt, one.jf]);
        image.extend(one.k.to_le_bytes());
    }
    Ok(image)
}

/// elf(5): one segment, read and executed, that is the whole file; and a stack that is not executed.
fn headers(size: u64) -> Vec<u8> {
    let mut image = Vec::with_capacity(size as usize);
    image.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2, MACHINE] {
        image.extend(half.to_le_bytes()); // ET_EXEC
    }
    image.extend(1u32.to_le_bytes());
    for word in [BASE + HEADERS_BYTES as u64, 64, 0] {
        image.extend(word.to_le_bytes()); // entry, program headers, no section headers
    }
    image.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 64, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    /// PT_LOAD with R and X, PT_GNU_STACK with R and W.
    const SEGMENTS: [(u32, u32); 2] = [(1, 5), (0x6474_e551, 6)];
    for ((kind, flags), (address, size, align)) in SEGMENTS.into_iter().zip([(BASE, size, 0x1_0000), (0, 0, 16)]) {
        image.extend(kind.to_le_bytes());
        image.extend(flags.to_le_bytes());
        for word in [0, address, address, size, size, align] {
            image.extend(u64::to_le_bytes(word));
        }
    }
    image
}

/// Why it did not execute the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The report cannot be closed by the execution.
    Report(i32),
    /// The filter was not taken.
    Filter(i32),
    /// execve(2).
    Execute(i32),
}

impl Failed {
    /// From what was written to the report; `None` for anything else.
    pub fn read(report: &[u8]) -> Option<Failed> {
        let (mark, rest) = report.split_first_chunk()?;
        let (errno, rest) = rest.split_first_chunk()?;
        let (step, _) = rest.split_first_chunk()?;
        let errno = i32::from_le_bytes(*errno).wrapping_neg();
        match (*mark == MARK, u32::from_le_bytes(*step)) {
            (true, 0) => Some(Failed::Report(errno)),
            (true, 1) => Some(Failed::Filter(errno)),
            (true, _) => Some(Failed::Execute(errno)),
            (false, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::sys::image;
    use crate::sys::wait::{Which, reap};

    /// What it writes to standard output, and what the report says.
    fn run(argv: &[&std::ffi::CStr], filter: &[libc::sock_filter]) -> (String, Option<Failed>) {
        let (mut out, out_write) = std::io::pipe().unwrap();
        let (mut report, report_write) = std::io::pipe().unwrap();
        let trampoline = reserve().unwrap();
        write(trampoline.as_fd(), report_write.as_raw_fd(), filter, 0).unwrap();
        let argv: Vec<_> = argv.iter().map(|arg| (*arg).to_owned()).collect();
        let env = std::ffi::CString::new(format!("REPORT={}", report_write.as_raw_fd())).unwrap();
        let pid = image::spawn(trampoline.as_fd(), &argv, &[env], || {
            rustix::io::fcntl_setfd(&report_write, rustix::io::FdFlags::empty())?;
            rustix::thread::set_no_new_privs(true)?;
            crate::sys::fd::place(out_write.try_clone()?.into(), 1)
        });
        drop((out_write, report_write));
        let (mut text, mut said) = (String::new(), Vec::new());
        report.read_to_end(&mut said).unwrap();
        out.read_to_string(&mut text).unwrap();
        let pidfd = rustix::process::pidfd_open(
            rustix::process::Pid::from_raw(pid.unwrap()).unwrap(),
            rustix::process::PidfdFlags::empty(),
        );
        reap(Which::PidFd(pidfd.unwrap().as_fd())).unwrap();
        (text, Failed::read(&said))
    }

    const ALLOW: libc::sock_filter = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };

    #[test]
    fn the_program_gets_its_arguments_environment_and_filter_and_no_report() {
        let script = c"echo $0 $1 $(ls /proc/self/fd | grep -cx $REPORT); grep Seccomp: /proc/self/status";
        let argv = [c"/bin/sh", c"name", c"-c", script, c"zero", c"one"];
        let (text, failed) = run(&argv, &[]);
        assert_eq!((text.as_str(), failed), ("zero one 0\nSeccomp:\t0\n", None));
        let (text, failed) = run(&argv, &[ALLOW]);
        assert_eq!((text.ends_with("Seccomp:\t2\n"), failed), (true, None), "{text}");
    }

    #[test]
    fn what_fails_is_reported() {
        assert_eq!(run(&[c"/no/such", c"x"], &[]).1, Some(Failed::Execute(libc::ENOENT)));
        assert_eq!(run(&[c"/etc/passwd", c"x"], &[]).1, Some(Failed::Execute(libc::EACCES)));
        // It is an instruction of no program.
        let bad = libc::sock_filter { code: 0xffff, jt: 0, jf: 0, k: 0 };
        assert_eq!(run(&[c"/bin/true", c"x"], &[bad]).1, Some(Failed::Filter(libc::EINVAL)));
        assert_eq!(Failed::read(b"\xff\xff\xff\xff\xf7\xff\xff\xff\0\0\0\0"), Some(Failed::Report(libc::EBADF)));
        assert_eq!(Failed::read(b"\x01\x02"), None);
    }

    #[test]
    fn the_program_may_not_be_the_trampoline_itself() {
        // What `/proc/self/exe` leads to while the program is looked for: its report is closed by then.
        let (text, failed) = run(&[c"/proc/self/exe", c"/bin/sh", c"x", c"-c", c"echo no"], &[]);
        assert_eq!((text.as_str(), failed), ("", None));
    }
}

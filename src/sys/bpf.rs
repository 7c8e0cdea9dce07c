//! bpf(2), as far as a cgroup's device program needs it: load, attach, and find what is attached.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Commands, kinds and flags of linux/bpf.h, which libc does not have.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJECT_INFO: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// What bpftool shows, and we know our own by; a kernel that has this type of program (4.15) has names.
const NAME: &[u8; 16] = b"moored_devices\0\0";
/// More programs than any cgroup has: the kernel takes 64 of each kind.
const PROGRAMS_MAX: usize = 64;
/// As many bytes as the longest of the structures below; the kernel demands zeros behind what it knows.
const ATTRIBUTE_BYTES: usize = 120;

/// `union bpf_attr`: fields at their byte offsets.
#[repr(C, align(8))]
struct Attribute([u8; ATTRIBUTE_BYTES]);

impl Attribute {
    fn new() -> Attribute {
        Attribute([0; ATTRIBUTE_BYTES])
    }

    fn with(mut self, at: usize, value: u32) -> Attribute {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn with_address<T>(mut self, at: usize, value: *const T) -> Attribute {
        self.0[at..at + 8].copy_from_slice(&(value as u64).to_ne_bytes());
        self
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// An older kernel refuses an attribute longer than it knows only if the rest is not zero.
fn bpf(command: libc::c_long, attribute: &mut Attribute) -> io::Result<i32> {
    // SAFETY: the attribute is as long as the call is told and outlives it. What it points to is valid for the caller's borrow: see there.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attribute, ATTRIBUTE_BYTES) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}

/// Has the kernel check a program of type BPF_PROG_TYPE_CGROUP_DEVICE, and take it. `program` are `struct bpf_insn`s.
///
/// Errs with EPERM without CAP_BPF or CAP_SYS_ADMIN in the first user namespace, EINVAL or EACCES for a program that the verifier refuses,
/// E2BIG for one that is too long.
pub fn load_device_program(program: &[u64]) -> io::Result<OwnedFd> {
    let length = u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let mut attribute = Attribute::new()
        .with(0, TYPE_CGROUP_DEVICE)
        .with(4, length)
        .with_address(8, program.as_ptr())
        .with_address(16, c"Apache-2.0".as_ptr());
    attribute.0[48..64].copy_from_slice(NAME);
    let fd = bpf(PROG_LOAD, &mut attribute)?;
    // SAFETY: the call has just made this descriptor, close-on-exec, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program to a cgroup beside what its parents have, in the place of `old` if there is one (Linux 5.6), at one stroke.
/// It stays until the cgroup is removed.
///
/// Errs with EPERM also where a cgroup above has a program that allows none below it.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attribute = Attribute::new()
        .with(0, number(cgroup))
        .with(4, number(program))
        .with(8, ATTACH_CGROUP_DEVICE)
        .with(12, ALLOW_MULTI | if old.is_some() { REPLACE } else { 0 })
        .with(16, old.map_or(0, number));
    bpf(PROG_ATTACH, &mut attribute).map(drop)
}

/// The programs of [`load_device_program`] that are attached to a cgroup itself, not to one above.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut attribute = Attribute::new()
        .with(0, number(cgroup))
        .with(4, ATTACH_CGROUP_DEVICE)
        .with_address(16, ids.as_mut_ptr())
        .with(24, PROGRAMS_MAX as u32);
    bpf(PROG_QUERY, &mut attribute)?;
    let count = attribute.word(24) as usize;
    let programs = ids.iter().take(count).map(|id| program_of(*id)).collect::<io::Result<Vec<OwnedFd>>>()?;
    Ok(programs.into_iter().filter(|program| name_of(program.as_fd()).is_ok_and(|name| name == *NAME)).collect())
}

fn name_of(program: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    // `struct bpf_prog_info` up to and with its name.
    let mut info = [0u64; 10];
    let mut attribute =
        Attribute::new().with(0, number(program)).with(4, size_of_val(&info) as u32).with_address(8, info.as_mut_ptr());
    bpf(OBJECT_INFO, &mut attribute)?;
    let halves = [info[8].to_ne_bytes(), info[9].to_ne_bytes()];
    Ok(std::array::from_fn(|at| halves[at / 8][at % 8]))
}

fn program_of(id: u32) -> io::Result<OwnedFd> {
    let fd = bpf(PROG_GET_FD_BY_ID, &mut Attribute::new().with(0, id))?;
    // SAFETY: the call has just made this descriptor, close-on-exec, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

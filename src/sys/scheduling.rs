//! How the calling thread is scheduled: sched_setattr(2), sched_setaffinity(2), ioprio_set(2), set_mempolicy(2), personality(2).

use std::io;

/// `struct sched_attr` as it was in Linux 4.12, which every later one takes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// Filled in by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Of SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// Of SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// Nanoseconds, of SCHED_DEADLINE as the next two.
    pub runtime_ns: u64,
    /// Nanoseconds.
    pub deadline_ns: u64,
    /// Nanoseconds.
    pub period_ns: u64,
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Errs with EPERM without CAP_SYS_NICE, EINVAL for what does not go together, EBUSY where there is no room for a deadline.
pub fn set_scheduler(attributes: Attributes) -> io::Result<()> {
    let attributes = Attributes { size: size_of::<Attributes>() as u32, ..attributes };
    // SAFETY: the structure is valid, holds its own size, and outlives the call, which only reads it. Thread 0 is the caller.
    done(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// `cpus` is a mask, lowest word first; those that the machine or the cpuset does not have are left out.
///
/// Errs with EINVAL if none is left.
pub fn set_affinity(cpus: &[u64]) -> io::Result<()> {
    // SAFETY: the mask is as long as the call is told and outlives it. Thread 0 is the caller.
    done(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) })
}

/// `value` is class << 13 | priority. Errs with EPERM for the realtime class without CAP_SYS_ADMIN or CAP_SYS_NICE.
pub fn set_io_priority(value: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_long = 1;
    // SAFETY: three numbers; process 0 is the caller.
    done(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, libc::c_long::from(value)) })
}

/// `mode` with its flags; `nodes` is a mask, lowest word first.
///
/// Errs with EINVAL where a node is not there or may not be used, or mode and flags do not go together, ENOSYS on a kernel without NUMA.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel takes one bit less than it is told, and reads whole words.
    let padded: Vec<u64> = nodes.iter().copied().chain([0]).collect();
    let (mask, bits) = if nodes.is_empty() { (std::ptr::null(), 0) } else { (padded.as_ptr(), nodes.len() * 64 + 1) };
    // SAFETY: the mask holds at least that many bits and outlives the call.
    done(unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::c_long::from(mode), mask, bits) })
}

/// Errs with EINVAL where the kernel has not this one.
pub fn set_personality(persona: u32) -> io::Result<()> {
    // SAFETY: a number.
    done(libc::c_long::from(unsafe { libc::personality(libc::c_ulong::from(persona)) }))
}

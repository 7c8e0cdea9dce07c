//! What a container uses, for `moored status`.

use super::container::ContainerCgroup;
use super::legacy::read;

/// `None` where the kernel does not say: a controller that is not there, or no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes in use.
    pub memory_bytes: Option<u64>,
    /// Bytes allowed.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// CPU time, in microseconds.
    pub cpu_us: Option<u64>,
}

/// From here on a v1 limit means none: the largest multiple of a page that fits a signed 64-bit number.
const NO_LIMIT_BYTES: u64 = 1 << 62;

impl ContainerCgroup {
    /// Reads all there is; what cannot be read is left out.
    pub fn figures(&self) -> Figures {
        let v2 = |file: &str| read(self.directory(), file).ok();
        let v1 = |controller: &str, file: &str| read(self.hierarchy(controller)?, file).ok();
        let number = |text: String| text.trim().parse::<u64>().ok();
        let usage = v2("cpu.stat")
            .and_then(|text| text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok()));
        let limit = v2("memory.max").or_else(|| v1("memory", "memory.limit_in_bytes")).and_then(number);
        Figures {
            memory_bytes: v2("memory.current").or_else(|| v1("memory", "memory.usage_in_bytes")).and_then(number),
            memory_limit_bytes: limit.filter(|bytes| *bytes < NO_LIMIT_BYTES),
            tasks: v2("pids.current").or_else(|| v1("pids", "pids.current")).and_then(number),
            cpu_us: usage.or_else(|| v1("cpuacct", "cpuacct.usage").and_then(number).map(|ns| ns / 1000)),
        }
    }

    /// Memory that the kernel cannot take back without killing or swapping: what processes made, shared memory, and the
    /// kernel's own for them. Where it does not say, 0.
    pub(super) fn held_memory_bytes(&self) -> u64 {
        let v1 = || read(self.hierarchy("memory")?, "memory.stat").ok().map(|stat| (stat, &HELD_V1[..]));
        let v2 = read(self.directory(), "memory.stat").ok().map(|stat| (stat, &HELD_V2[..]));
        let Some((stat, names)) = v2.or_else(v1) else { return 0 };
        let held = |line: &str| {
            let (name, bytes) = line.split_once(' ')?;
            names.contains(&name).then(|| bytes.parse::<u64>().ok())?
        };
        stat.lines().filter_map(held).sum()
    }
}

/// Lines of `memory.stat` (cgroup-v2.rst).
const HELD_V2: [&str; 4] = ["anon", "shmem", "kernel_stack", "slab_unreclaimable"];
/// The same of v1, with all below (cgroup-v1/memory.rst): the kernel's own is not in it.
const HELD_V1: [&str; 2] = ["total_rss", "total_shmem"];

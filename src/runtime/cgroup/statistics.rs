//! All that a container's cgroups count, in the shape of `runc events` (its types/events.go): clients parse it.
//!
//! Numbers are the kernel's, in nanoseconds and bytes; 0 is left out where runc leaves it out. What a hierarchy that the container is
//! not in would count is 0, but for CPU time, which the v2 directory counts on every host (`cpu.stat`, cgroup-v2.rst).
//! On v2 `swap` is memory and swap together, as on v1 and as runc has it.

use std::collections::BTreeMap;

use rustix::fs::Dir;
use serde::Serialize;

use super::container::ContainerCgroup;
use super::legacy::read;
use crate::compact;

/// Of one container.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Statistics {
    /// CPU time.
    pub cpu: Cpu,
    /// Where it may run.
    pub cpuset: Cpuset,
    /// Memory.
    pub memory: Memory,
    /// Tasks.
    pub pids: Pids,
    /// Block I/O.
    pub blkio: BlockIo,
    /// By the size of a page, as `2MB`.
    pub hugetlb: BTreeMap<String, HugePages>,
    /// Never counted here.
    pub intel_rdt: BTreeMap<String, ()>,
    /// Neither: runc counts what it made itself, which is nothing today.
    pub network_interfaces: Option<()>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    pub usage: CpuUsage,
    pub throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// In nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    pub usage: Entry,
    pub swap: Entry,
    pub kernel: Entry,
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Entry,
    /// `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Bytes, and how often there were not enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HugePages {
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<DeviceCount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<DeviceCount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Of one device and one kind of operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeviceCount {
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    pub op: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Time lost by waiting (accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pressure {
    pub some: Waiting,
    pub full: Waiting,
}

/// Percent of the last seconds, and microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Waiting {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// USER_HZ, in which `cpuacct.stat` counts: the same on every machine we run on.
const NS_PER_TICK: u64 = 10_000_000;

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl ContainerCgroup {
    /// Reads all there is; what cannot be read is 0 or left out.
    pub(crate) fn statistics(&self) -> Statistics {
        let files = Files(self);
        Statistics {
            cpu: files.cpu(),
            cpuset: files.cpuset(),
            memory: files.memory(),
            pids: Pids {
                current: number(&files.any("pids", "pids.current")),
                limit: number(&files.any("pids", "pids.max")),
            },
            blkio: files.block_io(),
            hugetlb: files.huge_pages(),
            ..Statistics::default()
        }
    }
}

/// The files of a container's cgroups; one that is not there is empty.
struct Files<'c>(&'c ContainerCgroup);

impl Files<'_> {
    fn v2(&self, file: &str) -> String {
        read(self.0.directory(), file).unwrap_or_default()
    }

    fn v1(&self, controller: &str, file: &str) -> String {
        self.0.hierarchy(controller).and_then(|directory| read(directory, file).ok()).unwrap_or_default()
    }

    /// A file of this name on both.
    fn any(&self, controller: &str, file: &str) -> String {
        if self.0.hierarchy(controller).is_some() { self.v1(controller, file) } else { self.v2(file) }
    }

    fn pressure(&self, file: &str) -> Option<Pressure> {
        pressure(&self.v2(file))
    }

    fn cpu(&self) -> Cpu {
        let (v1, v2) = (pairs(&self.v1("cpu", "cpu.stat")), pairs(&self.v2("cpu.stat")));
        let of = |pairs: &BTreeMap<String, u64>, name: &str| pairs.get(name).copied().unwrap_or(0);
        let ns = |name: &str| of(&v2, name).saturating_mul(1000);
        let throttling = match v1.is_empty() {
            false => Throttling {
                periods: of(&v1, "nr_periods"),
                throttled_periods: of(&v1, "nr_throttled"),
                throttled_time: of(&v1, "throttled_time"),
            },
            true => Throttling {
                periods: of(&v2, "nr_periods"),
                throttled_periods: of(&v2, "nr_throttled"),
                throttled_time: ns("throttled_usec"),
            },
        };
        let usage = if self.0.hierarchy("cpuacct").is_some() {
            let ticks = pairs(&self.v1("cpuacct", "cpuacct.stat"));
            let (user, kernel) = columns(&self.v1("cpuacct", "cpuacct.usage_all"));
            CpuUsage {
                total: number(&self.v1("cpuacct", "cpuacct.usage")),
                percpu: numbers(&self.v1("cpuacct", "cpuacct.usage_percpu")),
                percpu_kernel: kernel,
                percpu_user: user,
                kernel: of(&ticks, "system").saturating_mul(NS_PER_TICK),
                user: of(&ticks, "user").saturating_mul(NS_PER_TICK),
            }
        } else {
            let (total, kernel, user) = (ns("usage_usec"), ns("system_usec"), ns("user_usec"));
            CpuUsage { total, kernel, user, ..CpuUsage::default() }
        };
        Cpu { usage, throttling, psi: self.pressure("cpu.pressure") }
    }

    fn cpuset(&self) -> Cpuset {
        let flag = |name: &str| number(&self.v1("cpuset", name));
        Cpuset {
            cpus: list(&self.any("cpuset", "cpuset.cpus")),
            mems: list(&self.any("cpuset", "cpuset.mems")),
            cpu_exclusive: flag("cpuset.cpu_exclusive"),
            mem_hardwall: flag("cpuset.mem_hardwall"),
            mem_exclusive: flag("cpuset.mem_exclusive"),
            memory_migrate: flag("cpuset.memory_migrate"),
            memory_spread_page: flag("cpuset.memory_spread_page"),
            memory_spread_slab: flag("cpuset.memory_spread_slab"),
            memory_pressure: flag("cpuset.memory_pressure"),
            sched_load_balance: flag("cpuset.sched_load_balance"),
            sched_relax_domain_level: self
                .v1("cpuset", "cpuset.sched_relax_domain_level")
                .trim()
                .parse()
                .unwrap_or_default(),
        }
    }

    fn memory(&self) -> Memory {
        if self.0.hierarchy("memory").is_none() {
            return self.memory_v2();
        }
        let raw = pairs(&self.v1("memory", "memory.stat"));
        let entry = |name: &str| Entry {
            limit: number(&self.v1("memory", &format!("memory.{name}limit_in_bytes"))),
            usage: number(&self.v1("memory", &format!("memory.{name}usage_in_bytes"))),
            max: number(&self.v1("memory", &format!("memory.{name}max_usage_in_bytes"))),
            failcnt: number(&self.v1("memory", &format!("memory.{name}failcnt"))),
        };
        Memory {
            cache: raw.get("cache").copied().unwrap_or(0),
            usage: entry(""),
            swap: entry("memsw."),
            kernel: entry("kmem."),
            kernel_tcp: entry("kmem.tcp."),
            raw,
            psi: self.pressure("memory.pressure"),
        }
    }

    fn memory_v2(&self) -> Memory {
        let raw = pairs(&self.v2("memory.stat"));
        let entry = |name: &str| Entry {
            limit: limit(&self.v2(&format!("memory.{name}max"))),
            usage: number(&self.v2(&format!("memory.{name}current"))),
            max: number(&self.v2(&format!("memory.{name}peak"))),
            failcnt: pairs(&self.v2(&format!("memory.{name}events"))).get("max").copied().unwrap_or(0),
        };
        let (usage, mut swap) = (entry(""), entry("swap."));
        swap.usage = swap.usage.saturating_add(usage.usage);
        swap.limit = if swap.limit == u64::MAX { u64::MAX } else { swap.limit.saturating_add(usage.limit) };
        let cache = raw.get("file").copied().unwrap_or(0);
        Memory { cache, usage, swap, raw, psi: self.pressure("memory.pressure"), ..Memory::default() }
    }

    fn block_io(&self) -> BlockIo {
        let psi = self.pressure("io.pressure");
        if self.0.hierarchy("blkio").is_none() {
            let text = self.v2("io.stat");
            let (bytes, operations) = (io_stat(&text, "bytes"), io_stat(&text, "ios"));
            return BlockIo { io_service_bytes_recursive: bytes, io_serviced_recursive: operations, psi };
        }
        let counts = |name: &str| device_counts(&self.v1("blkio", &format!("blkio.throttle.{name}_recursive")));
        BlockIo {
            io_service_bytes_recursive: counts("io_service_bytes"),
            io_serviced_recursive: counts("io_serviced"),
            psi,
        }
    }

    fn huge_pages(&self) -> BTreeMap<String, HugePages> {
        let v1 = self.0.hierarchy("hugetlb");
        let directory = v1.unwrap_or(self.0.directory());
        let ending = if v1.is_some() { ".usage_in_bytes" } else { ".current" };
        let names = Dir::read_from(directory).into_iter().flatten().flatten();
        let sizes = names.filter_map(|entry| {
            let name = entry.file_name().to_str().ok()?.strip_prefix("hugetlb.")?.strip_suffix(ending)?;
            (!name.contains('.')).then(|| name.to_owned())
        });
        let file = |size: &str, name: &str| read(directory, &format!("hugetlb.{size}.{name}")).unwrap_or_default();
        let entry = |size: String| {
            let entry = match v1 {
                Some(_) => HugePages {
                    usage: number(&file(&size, "usage_in_bytes")),
                    max: number(&file(&size, "max_usage_in_bytes")),
                    failcnt: number(&file(&size, "failcnt")),
                },
                None => HugePages {
                    usage: number(&file(&size, "current")),
                    failcnt: pairs(&file(&size, "events")).get("max").copied().unwrap_or(0),
                    max: 0,
                },
            };
            (size, entry)
        };
        compact::map(sizes.map(entry))
    }
}

/// "max" and what is no number are 0.
fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// "max" is the largest number, as for runc.
fn limit(text: &str) -> u64 {
    if text.trim() == "max" { u64::MAX } else { number(text) }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Lines of a name and a number.
fn pairs(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    compact::map(text.lines().filter_map(pair))
}

/// `cpuacct.usage_all`: a header, then CPU, user and system a line.
fn columns(text: &str) -> (Vec<u64>, Vec<u64>) {
    let line = |line: &str| match numbers(line)[..] {
        [_, user, system] => Some((user, system)),
        _ => None,
    };
    text.lines().skip(1).filter_map(line).unzip()
}

/// `0-2,7` (cpuset(7)).
fn list(text: &str) -> Vec<u16> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(part).flatten().collect()
}

/// Lines of `8:0 Read 4096`; the total at the end has no device.
fn device_counts(text: &str) -> Vec<DeviceCount> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some(DeviceCount { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
    };
    text.lines().filter_map(line).collect()
}

/// `io.stat`: `8:0 rbytes=4096 wbytes=0 rios=1 …`; `what` is `bytes` or `ios`.
fn io_stat(text: &str, what: &str) -> Vec<DeviceCount> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let count = move |word: &str| {
            let (name, value) = word.split_once('=')?;
            let op = match name.strip_suffix(what)? {
                "r" => "Read",
                "w" => "Write",
                _ => return None,
            };
            Some(DeviceCount { major, minor, op: op.to_owned(), value: value.parse().ok()? })
        };
        Some(words.filter_map(count).collect::<Vec<_>>())
    };
    text.lines().filter_map(line).flatten().collect()
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn pressure(text: &str) -> Option<Pressure> {
    let waiting = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let percent = |name: &str| value(name).and_then(|value| value.parse().ok()).unwrap_or_default();
        Some(Waiting {
            avg10: percent("avg10"),
            avg60: percent("avg60"),
            avg300: percent("avg300"),
            total: value("total").map_or(0, number),
        })
    };
    Some(Pressure { some: waiting("some ")?, full: waiting("full ").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(op: &str, value: u64) -> DeviceCount {
        DeviceCount { major: 8, minor: 16, op: op.to_owned(), value }
    }

    #[test]
    fn the_kernels_formats_are_read() {
        assert_eq!(pairs("cache 1\ntotal_rss 22\nrubbish\n"), [("cache".into(), 1), ("total_rss".into(), 22)].into());
        assert_eq!(columns("cpu user system\n0 5 6\n1 7 8\n"), (vec![5, 7], vec![6, 8]));
        assert_eq!(list("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(list("\n"), [0u16; 0]);
        assert_eq!((limit("max\n"), limit("5\n"), number("max\n")), (u64::MAX, 5, 0));
        assert_eq!(device_counts("8:16 Read 4096\n8:16 Total 5\nTotal 9\n"), [count("Read", 4096), count("Total", 5)]);
        let io = "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n";
        assert_eq!(io_stat(io, "bytes"), [count("Read", 1), count("Write", 2)]);
        assert_eq!(io_stat(io, "ios"), [count("Read", 3), count("Write", 4)]);
        let psi = pressure("some avg10=1.50 avg60=0.00 avg300=0.25 total=77\n").unwrap();
        assert_eq!((psi.some.avg10, psi.some.avg300, psi.some.total, psi.full.total), (1.5, 0.25, 77, 0));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn what_is_not_counted_is_left_out_as_runc_leaves_it_out() {
        let text = serde_json::to_value(Statistics::default()).unwrap();
        assert_eq!(text["cpu"], serde_json::json!({ "usage": { "kernel": 0, "user": 0 }, "throttling": {} }));
        assert_eq!(text["memory"]["usage"], serde_json::json!({ "limit": 0, "failcnt": 0 }));
        assert!(text["network_interfaces"].is_null() && text["pids"] == serde_json::json!({}));
    }
}

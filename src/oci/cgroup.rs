//! Limits as data, and what is written where for them on cgroup v1 and v2.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::resources::{BlockIo, Named};

/// Limits of one container. An absent value is left alone; −1 is "no limit" as in config.json.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSettings {
    /// Memory.
    pub memory: Memory,
    /// CPU time and placement.
    pub cpu: Cpu,
    /// Number of tasks; −1 is no limit.
    pub pids: Option<i64>,
    /// Block devices.
    pub block_io: BlockIo,
    /// Huge pages, network, RDMA, and files of v2 by name.
    pub named: Named,
    /// Device rules in order, the last match wins; what no rule matches is denied.
    pub devices: Vec<DeviceRule>,
}

/// `linux.resources.memory`; bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Hard limit.
    pub limit: Option<i64>,
    /// Soft limit.
    pub reservation: Option<i64>,
    /// Memory and swap together.
    pub swap: Option<i64>,
    /// 0 to 100; v1 only.
    pub swappiness: Option<u64>,
    /// v1 only.
    pub disable_oom_killer: bool,
    /// Memory of cgroups below counts here; v1 only, as v2 knows nothing else.
    pub use_hierarchy: bool,
    /// A changed limit below what is in use is refused, instead of ending in kills.
    pub check_before_update: bool,
}

/// `linux.resources.cpu`; microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Relative weight, 2 to 262144.
    pub shares: Option<u64>,
    /// Time in each period.
    pub quota: Option<i64>,
    /// Unused quota that may be kept.
    pub burst: Option<u64>,
    /// Length of a period.
    pub period: Option<u64>,
    /// List of CPUs as in cpuset(7).
    pub cpus: Option<String>,
    /// List of memory nodes.
    pub mems: Option<String>,
    /// 1 is SCHED_IDLE for all of it.
    pub idle: Option<i64>,
    /// Realtime time in each period; v1 only.
    pub realtime_runtime: Option<i64>,
    /// Length of a realtime period; v1 only.
    pub realtime_period: Option<u64>,
}

/// One device rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Or deny.
    pub allow: bool,
    /// What it is about.
    pub device: RuleTarget,
    /// Some of `r`, `w`, `m`.
    pub access: String,
}

/// What a device rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleTarget {
    /// By numbers.
    Numbers {
        /// `a` (all), `b` or `c`.
        kind: char,
        /// `None` is any.
        major: Option<u32>,
        /// `None` is any.
        minor: Option<u32>,
    },
    /// The device that is at this path of the host's when the container starts.
    HostPath(std::path::PathBuf),
}

/// One value for one file of a cgroup directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which controller the file belongs to.
    pub controller: Cow<'static, str>,
    /// The file.
    pub file: Cow<'static, str>,
    /// What is written.
    pub value: String,
    /// Which field of config.json asks for it, below `linux.resources`.
    pub field: Cow<'static, str>,
    /// Where the kernel has no such file: another one that does it, and its value.
    pub otherwise: Option<(&'static str, String)>,
    /// Where the kernel has no such file, nothing is lost.
    pub optional: bool,
}

/// What every container may use whatever its rules say: making nodes, the nodes that are always there, its terminals.
pub fn default_devices() -> Vec<DeviceRule> {
    let allow = |kind, major, minor, access: &str| DeviceRule {
        allow: true,
        device: RuleTarget::Numbers { kind, major, minor },
        access: access.to_owned(),
    };
    vec![
        allow('c', None, None, "m"),
        allow('b', None, None, "m"),
        allow('c', Some(1), Some(3), "rwm"),
        allow('c', Some(1), Some(5), "rwm"),
        allow('c', Some(1), Some(7), "rwm"),
        allow('c', Some(1), Some(8), "rwm"),
        allow('c', Some(1), Some(9), "rwm"),
        allow('c', Some(5), Some(0), "rwm"),
        allow('c', Some(5), Some(2), "rwm"),
        allow('c', Some(136), None, "rwm"),
    ]
}

impl CgroupSettings {
    /// With "no limit" where memory, CPU time and tasks are left alone: what is taken away from a text is taken away from the cgroup.
    pub fn lifting_the_rest(mut self) -> CgroupSettings {
        self.memory.limit.get_or_insert(-1);
        self.cpu.quota.get_or_insert(-1);
        self.pids.get_or_insert(-1);
        self
    }

    /// The field of the first limit there is. "No limit" is none, and devices are apart.
    pub fn first_limit(&self) -> Option<String> {
        let is_limit = |write: &Write| write.value != "max" && write.value != "-1" && !write.optional;
        let by_name = self.named.unified.first().map(|(file, _)| format!("unified[{file:?}]"));
        self.legacy_writes().into_iter().find(is_limit).map(|write| write.field.into_owned()).or(by_name)
    }

    /// What is written on cgroup v1, in an order that works for a new directory. Devices are apart.
    pub fn legacy_writes(&self) -> Vec<Write> {
        let mut all = Writes::default();
        let (memory, cpu) = (&self.memory, &self.cpu);
        let hierarchy = memory.use_hierarchy.then_some(1);
        all.push("memory", "memory.use_hierarchy", hierarchy, "memory.useHierarchy").or_nothing();
        all.push("memory", "memory.limit_in_bytes", memory.limit, "memory.limit");
        all.push("memory", "memory.soft_limit_in_bytes", memory.reservation, "memory.reservation");
        match (memory.limit, memory.swap) {
            // No limit to memory is none to memory and swap, as in runc.
            (Some(-1), None) => {
                all.push("memory", "memory.memsw.limit_in_bytes", Some(-1), "memory.limit").or_nothing();
            }
            (_, swap) => {
                all.push("memory", "memory.memsw.limit_in_bytes", swap, "memory.swap");
            }
        }
        all.push("memory", "memory.swappiness", memory.swappiness, "memory.swappiness");
        all.push("memory", "memory.oom_control", memory.disable_oom_killer.then_some(1), "memory.disableOOMKiller");
        self.idle(&mut all, 0);
        all.push("cpu", "cpu.shares", cpu.shares, "cpu.shares");
        all.push("cpu", "cpu.cfs_period_us", cpu.period, "cpu.period");
        all.push("cpu", "cpu.cfs_quota_us", cpu.quota, "cpu.quota");
        all.push("cpu", "cpu.cfs_burst_us", cpu.burst, "cpu.burst");
        self.idle(&mut all, 1);
        all.push("cpu", "cpu.rt_period_us", cpu.realtime_period, "cpu.realtimePeriod");
        all.push("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime, "cpu.realtimeRuntime");
        all.push("cpuset", "cpuset.cpus", cpu.cpus.as_ref(), "cpu.cpus");
        all.push("cpuset", "cpuset.mems", cpu.mems.as_ref(), "cpu.mems");
        all.push("pids", "pids.max", self.pids.map(or_max), "pids.limit");
        self.block_io.legacy_writes(&mut all);
        self.named.legacy_writes(&mut all);
        all.0
    }

    /// What is written on cgroup v2. What v1 alone knows is left out.
    pub fn unified_writes(&self) -> Vec<Write> {
        let mut all = Writes::default();
        let (memory, cpu) = (&self.memory, &self.cpu);
        all.push("memory", "memory.max", memory.limit.map(or_max), "memory.limit");
        all.push("memory", "memory.low", memory.reservation.map(or_max), "memory.reservation");
        all.push("memory", "memory.swap.max", self.swap_alone(), "memory.swap");
        self.idle(&mut all, 0);
        all.push("cpu", "cpu.weight", cpu.shares.filter(|shares| *shares > 0).map(weight), "cpu.shares");
        all.push("cpu", "cpu.max", self.cpu_max(), "cpu.quota");
        all.push("cpu", "cpu.max.burst", cpu.burst, "cpu.burst");
        self.idle(&mut all, 1);
        all.push("cpuset", "cpuset.cpus", cpu.cpus.as_ref(), "cpu.cpus");
        all.push("cpuset", "cpuset.mems", cpu.mems.as_ref(), "cpu.mems");
        all.push("pids", "pids.max", self.pids.map(or_max), "pids.limit");
        self.block_io.unified_writes(&mut all);
        self.named.unified_writes(&mut all);
        all.0
    }

    /// The first field that asks for a file which v1 alone has, and that file.
    pub fn legacy_files(&self) -> Option<(&'static str, &'static str)> {
        self.block_io.legacy_files().or_else(|| self.named.legacy_files())
    }

    /// A group that is idle takes no weight: it is made idle after its weight, and ceases to be before.
    fn idle(&self, all: &mut Writes, value: i64) {
        all.push("cpu", "cpu.idle", self.cpu.idle.filter(|idle| *idle == value), "cpu.idle");
    }

    /// Fields that are set and that v2 has nothing for; runc goes on without as well.
    pub fn legacy_only(&self) -> Vec<&'static str> {
        let fields = [
            (self.memory.swappiness.is_some(), "memory.swappiness"),
            (self.memory.disable_oom_killer, "memory.disableOOMKiller"),
            (self.cpu.realtime_runtime.is_some(), "cpu.realtimeRuntime"),
            (self.cpu.realtime_period.is_some(), "cpu.realtimePeriod"),
        ];
        fields.into_iter().filter(|(given, _)| *given).map(|(_, field)| field).collect()
    }

    /// config.json's swap is memory plus swap; v2 wants swap alone.
    fn swap_alone(&self) -> Option<String> {
        if self.memory.limit == Some(-1) && self.memory.swap.is_none() {
            return Some("max".to_owned());
        }
        let swap = self.memory.swap?;
        if swap < 0 {
            return Some("max".to_owned());
        }
        let memory = self.memory.limit.filter(|limit| *limit > 0)?;
        Some(swap.saturating_sub(memory).max(0).to_string())
    }

    fn cpu_max(&self) -> Option<String> {
        /// The kernel's own default, in microseconds.
        const DEFAULT_PERIOD: u64 = 100_000;
        let quota = self.cpu.quota.filter(|quota| *quota != 0);
        if quota.is_none() && self.cpu.period.is_none() {
            return None;
        }
        let quota = quota.map_or_else(|| "max".to_owned(), or_max);
        Some(format!("{quota} {}", self.cpu.period.filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD)))
    }
}

/// Writes in their order.
#[derive(Default)]
pub(super) struct Writes(pub(super) Vec<Write>);

impl Writes {
    pub(super) fn push(
        &mut self,
        controller: impl Into<Cow<'static, str>>,
        file: impl Into<Cow<'static, str>>,
        value: Option<impl ToString>,
        field: impl Into<Cow<'static, str>>,
    ) -> Pushed<'_> {
        let write = value.map(|value| Write {
            controller: controller.into(),
            file: file.into(),
            value: value.to_string(),
            field: field.into(),
            otherwise: None,
            optional: false,
        });
        let is_new = write.is_some();
        self.0.extend(write);
        Pushed(if is_new { self.0.last_mut() } else { None })
    }
}

/// The write that was just added, if it was.
pub(super) struct Pushed<'w>(Option<&'w mut Write>);

impl Pushed<'_> {
    /// On a kernel without its file, this one is written.
    pub(super) fn or(self, file: &'static str, value: impl ToString) {
        if let Some(write) = self.0 {
            write.otherwise = Some((file, value.to_string()));
        }
    }

    /// On a kernel without its file, nothing is.
    pub(super) fn or_nothing(self) {
        if let Some(write) = self.0 {
            write.optional = true;
        }
    }
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Shares 2 … 262144 onto weights 1 … 10000, as runc and crun do.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9999) / 262_142
}

impl DeviceRule {
    /// All devices.
    pub fn everything() -> DeviceRule {
        let device = RuleTarget::Numbers { kind: 'a', major: None, minor: None };
        DeviceRule { allow: true, device, access: "rwm".to_owned() }
    }

    /// How `devices.allow` and `devices.deny` spell it; `None` where only the host can say the numbers.
    pub fn legacy_entry(&self) -> Option<String> {
        let RuleTarget::Numbers { kind, major, minor } = &self.device else { return None };
        let number = |value: &Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
        Some(format!("{kind} {}:{} {}", number(major), number(minor), self.access))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(writes: &[Write]) -> Vec<(&str, &str)> {
        writes.iter().map(|write| (write.file.as_ref(), write.value.as_str())).collect()
    }

    #[test]
    fn limits_are_translated_for_v2_as_runc_does() {
        let settings = CgroupSettings {
            memory: Memory { limit: Some(1 << 20), swap: Some(3 << 20), reservation: Some(4096), ..Memory::default() },
            cpu: Cpu { shares: Some(1024), quota: Some(50_000), ..Cpu::default() },
            pids: Some(-1),
            ..CgroupSettings::default()
        };
        let expected = [
            ("memory.max", "1048576"),
            ("memory.low", "4096"),
            ("memory.swap.max", "2097152"),
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("pids.max", "max"),
        ];
        assert_eq!(values(&settings.unified_writes()), expected);
    }

    #[test]
    fn what_v2_has_nothing_for_is_named() {
        assert_eq!(CgroupSettings::default().legacy_only(), [""; 0]);
        let settings = CgroupSettings {
            memory: Memory { swappiness: Some(0), limit: Some(1), ..Memory::default() },
            cpu: Cpu { realtime_runtime: Some(1000), ..Cpu::default() },
            ..CgroupSettings::default()
        };
        assert_eq!(settings.legacy_only(), ["memory.swappiness", "cpu.realtimeRuntime"]);
    }

    #[test]
    fn weights_cover_the_whole_range() {
        assert_eq!([2, 1024, 262_144, 1, u64::MAX].map(weight), [1, 39, 10_000, 1, 10_000]);
    }

    #[test]
    fn a_memory_limit_precedes_the_swap_limit_on_v1() {
        let settings = CgroupSettings {
            memory: Memory { limit: Some(-1), swap: Some(-1), ..Memory::default() },
            ..CgroupSettings::default()
        };
        let expected = [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")];
        assert_eq!(values(&settings.legacy_writes()), expected);
    }

    #[test]
    fn no_limit_to_memory_is_none_to_swap_either() {
        let memory = Memory { limit: Some(-1), ..Memory::default() };
        let settings = CgroupSettings { memory, ..CgroupSettings::default() };
        assert_eq!(values(&settings.unified_writes()), [("memory.max", "max"), ("memory.swap.max", "max")]);
        let writes = settings.legacy_writes();
        assert_eq!(values(&writes)[1], ("memory.memsw.limit_in_bytes", "-1"));
        assert!(writes[1].optional, "kernels may not count swap");
    }

    #[test]
    fn idle_comes_before_a_weight_when_it_ends_and_after_it_when_it_begins() {
        for (idle, expected) in [(0, ["cpu.idle", "cpu.weight"]), (1, ["cpu.weight", "cpu.idle"])] {
            let cpu = Cpu { idle: Some(idle), shares: Some(2), ..Cpu::default() };
            let writes = CgroupSettings { cpu, ..CgroupSettings::default() }.unified_writes();
            assert_eq!(writes.iter().map(|write| write.file.as_ref()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn every_field_of_memory_and_cpu_is_a_file_of_v1() {
        let memory = Memory {
            limit: Some(2),
            reservation: Some(1),
            swap: Some(3),
            swappiness: Some(4),
            disable_oom_killer: true,
            use_hierarchy: true,
            check_before_update: true,
        };
        let cpu = Cpu {
            shares: Some(5),
            quota: Some(6),
            burst: Some(7),
            period: Some(8),
            cpus: Some("0".into()),
            mems: Some("1".into()),
            idle: Some(1),
            realtime_runtime: Some(9),
            realtime_period: Some(10),
        };
        let settings = CgroupSettings { memory, cpu, ..CgroupSettings::default() };
        let expected = [
            ("memory.use_hierarchy", "1"),
            ("memory.limit_in_bytes", "2"),
            ("memory.soft_limit_in_bytes", "1"),
            ("memory.memsw.limit_in_bytes", "3"),
            ("memory.swappiness", "4"),
            ("memory.oom_control", "1"),
            ("cpu.shares", "5"),
            ("cpu.cfs_period_us", "8"),
            ("cpu.cfs_quota_us", "6"),
            ("cpu.cfs_burst_us", "7"),
            ("cpu.idle", "1"),
            ("cpu.rt_period_us", "10"),
            ("cpu.rt_runtime_us", "9"),
            ("cpuset.cpus", "0"),
            ("cpuset.mems", "1"),
        ];
        assert_eq!(values(&settings.legacy_writes()), expected);
    }
}

//! `linux.resources`, checked.

mod block_io;
mod named;

use oci_spec::runtime::{LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources};

use super::cgroup::{CgroupSettings, Cpu, DeviceRule, Memory, RuleTarget, default_devices};
use super::error::{Problem, Report};

pub use block_io::{BlockIo, DeviceWeight, Rate, RateOf};
pub use named::Named;

/// Limits and device rules. Absent resources still deny the devices that no container needs.
pub(super) fn compile(resources: Option<&LinuxResources>, report: &mut Report) -> CgroupSettings {
    let mut settings = CgroupSettings::default();
    if let Some(resources) = resources {
        settings.memory = resources.memory().as_ref().map(|memory| compile_memory(memory, report)).unwrap_or_default();
        settings.cpu = resources.cpu().as_ref().map(|cpu| compile_cpu(cpu, report)).unwrap_or_default();
        // 0 is "not given" for runc.
        settings.pids = resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit != 0);
        settings.block_io = resources.block_io().as_ref().map(|io| block_io::compile(io, report)).unwrap_or_default();
        settings.named = compile_named(resources, report);
        let rules = resources.devices().iter().flatten().enumerate();
        settings.devices = rules.filter_map(|(index, rule)| compile_rule(rule, index, report)).collect();
    }
    settings.devices.extend(default_devices());
    settings
}

fn compile_named(resources: &LinuxResources, report: &mut Report) -> Named {
    let huge_pages = named::huge_pages(resources.hugepage_limits().as_deref().unwrap_or_default(), report);
    let network = resources.network().as_ref().map(|network| named::network(network, report));
    let (class_id, priorities) = network.unwrap_or_default();
    let rdma = resources.rdma().as_ref().map(|rdma| named::rdma(rdma, report)).unwrap_or_default();
    let unified = resources.unified().as_ref().map(|files| named::unified(files, report)).unwrap_or_default();
    Named { huge_pages, class_id, priorities, rdma, unified }
}

fn compile_memory(memory: &LinuxMemory, report: &mut Report) -> Memory {
    // 0 is "not given", as in runc; -1 is "no limit".
    let mut bytes = |name: &str, value: Option<i64>| {
        if value.is_some_and(|value| value < -1) {
            let found = value.unwrap_or_default().to_string();
            let path = format!("linux.resources.memory.{name}");
            report.error(path, Problem::Range { found, expected: "a number of bytes, or -1 for no limit" });
        }
        value.filter(|value| *value != 0)
    };
    let limit = bytes("limit", memory.limit());
    let reservation = bytes("reservation", memory.reservation());
    let swap = bytes("swap", memory.swap());
    if let (Some(limit), Some(swap)) = (limit.filter(|limit| *limit > 0), swap.filter(|swap| *swap > 0))
        && swap < limit
    {
        let reason = "is memory and swap together, so it cannot be below memory.limit";
        report.error("linux.resources.memory.swap", Problem::Conflict { reason });
    }
    if swap.is_some_and(|swap| swap > 0) && limit.is_none_or(|limit| limit < 0) {
        let reason = "is memory and swap together, so it needs a memory.limit";
        report.error("linux.resources.memory.swap", Problem::Conflict { reason });
    }
    let swappiness = memory.swappiness();
    if swappiness.is_some_and(|value| value > 100) {
        let found = swappiness.unwrap_or_default().to_string();
        report.error("linux.resources.memory.swappiness", Problem::Range { found, expected: "0 to 100" });
    }
    for (name, present) in [("kernel", memory.kernel().is_some()), ("kernelTCP", memory.kernel_tcp().is_some())] {
        if present {
            report.warn(format_args!("linux.resources.memory.{name}"), "was taken out of the spec and has no effect");
        }
    }
    if memory.use_hierarchy() == Some(false) {
        let text = "has no effect: no kernel since 5.11 counts a cgroup without those below it";
        report.warn("linux.resources.memory.useHierarchy", text);
    }
    Memory {
        limit,
        reservation,
        swap,
        swappiness,
        disable_oom_killer: memory.disable_oom_killer() == Some(true),
        use_hierarchy: memory.use_hierarchy() == Some(true),
        check_before_update: memory.check_before_update() == Some(true),
    }
}

fn compile_cpu(cpu: &LinuxCpu, report: &mut Report) -> Cpu {
    let path = |name: &str| format!("linux.resources.cpu.{name}");
    let quota = cpu.quota().filter(|quota| *quota != 0);
    if quota.is_some_and(|quota| quota < -1 || (0..1000).contains(&quota)) {
        let found = quota.unwrap_or_default().to_string();
        report
            .error(path("quota"), Problem::Range { found, expected: "at least 1000 microseconds, or -1 for no limit" });
    }
    let period = cpu.period().filter(|period| *period != 0);
    if period.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
        let found = period.unwrap_or_default().to_string();
        report.error(path("period"), Problem::Range { found, expected: "1000 to 1000000 microseconds" });
    }
    if cpu.idle().is_some_and(|idle| !(0..=1).contains(&idle)) {
        let found = cpu.idle().unwrap_or_default().to_string();
        report.error(path("idle"), Problem::Range { found, expected: "0 or 1" });
    }
    let list = |name: &str, text: &Option<String>, report: &mut Report| {
        let text = text.as_ref().filter(|text| !text.is_empty())?;
        if !text.bytes().all(|byte| byte.is_ascii_digit() || b",- \n".contains(&byte)) {
            let found = format!("{text:?}");
            report.error(path(name), Problem::Range { found, expected: "a list such as 0-2,7 (cpuset(7))" });
        }
        Some(text.clone())
    };
    Cpu {
        shares: cpu.shares().filter(|shares| *shares != 0),
        quota,
        burst: cpu.burst(),
        period,
        cpus: list("cpus", cpu.cpus(), report),
        mems: list("mems", cpu.mems(), report),
        idle: cpu.idle(),
        realtime_runtime: cpu.realtime_runtime().filter(|runtime| *runtime != 0),
        realtime_period: cpu.realtime_period().filter(|period| *period != 0),
    }
}

fn compile_rule(rule: &LinuxDeviceCgroup, index: usize, report: &mut Report) -> Option<DeviceRule> {
    let path = format_args!("linux.resources.devices[{index}]");
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => 'a',
        Some(LinuxDeviceType::B) => 'b',
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
        Some(LinuxDeviceType::P) => {
            report.error(format_args!("{path}.type"), Problem::Range { found: "p".into(), expected: "a, b or c" });
            return None;
        }
    };
    let access = rule.access().as_deref().unwrap_or("rwm");
    let access = if access.is_empty() { "rwm" } else { access };
    if !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        let found = format!("{access:?}");
        report.error(format_args!("{path}.access"), Problem::Range { found, expected: "some of r, w, m" });
    }
    let mut number = |name: &str, value: Option<i64>| match value {
        // -1 is "any" for the clients of runc.
        None | Some(-1) => None,
        Some(value) => u32::try_from(value).ok().or_else(|| {
            let found = value.to_string();
            report.error(
                format_args!("{path}.{name}"),
                Problem::Range { found, expected: "0 to 4294967295, or -1 for any" },
            );
            None
        }),
    };
    let (major, minor) = (number("major", rule.major()), number("minor", rule.minor()));
    // For the kernel, "a" is everything whatever follows.
    let (major, minor) = if kind == 'a' { (None, None) } else { (major, minor) };
    let device = RuleTarget::Numbers { kind, major, minor };
    let access = if kind == 'a' { "rwm" } else { access };
    Some(DeviceRule { allow: rule.allow(), device, access: access.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(memory: &str) -> Vec<String> {
        let text = format!("{{\"memory\": {memory}}}");
        let resources: LinuxResources = serde_json::from_str(&text).expect("valid resources");
        let mut report = Report::default();
        compile(Some(&resources), &mut report);
        report.errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn swap_includes_memory_so_it_needs_a_limit_below_it() {
        for good in [r#"{"limit": 4096, "swap": 4096}"#, r#"{"swap": -1}"#, r#"{"limit": -1, "swap": -1}"#, "{}"] {
            assert_eq!(errors(good), [""; 0], "{good}");
        }
        let lonely = "linux.resources.memory.swap: is memory and swap together, so it needs a memory.limit";
        assert_eq!(errors(r#"{"swap": 4096}"#), [lonely]);
        assert_eq!(errors(r#"{"limit": -1, "swap": 4096}"#), [lonely]);
        let below = "linux.resources.memory.swap: is memory and swap together, so it cannot be below memory.limit";
        assert_eq!(errors(r#"{"limit": 8192, "swap": 4096}"#), [below]);
    }
}

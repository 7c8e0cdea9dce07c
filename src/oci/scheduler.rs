//! How a process is served by the kernel: CPU scheduler, CPU affinity, I/O priority, memory policy, personality.
//!
//! All of it is done by the process itself, while it has the rights for it and no filter yet, and kept over execve(2). `process.scheduler` and
//! `process.ioPriority` are those of the process; `linux.personality` and `linux.memoryPolicy` are the container's, and hold for who joins it as
//! well, as in runc.
//!
//! `process.execCPUAffinity` is for processes that join a container alone. `initial` is where the process is set up, before it is in the
//! container's cgroups; where it is born in them (v2) and their cpuset has none of these CPUs, it is left as it is. Then `final`, or without
//! it all that the cpuset allows: what was only for the setup does not stay.

use std::fmt;

use oci_spec::runtime::{Linux, LinuxPersonalityDomain, MemoryPolicyFlagType, MemoryPolicyModeType};
use serde::{Deserialize, Serialize};

use super::cpu_list;
use super::error::{Problem, Report};
use super::script::Step;
use crate::config::{self, Process};

/// The most CPUs that a kernel can be built for.
const CPUS_MAX: u32 = 8192;
/// The most memory nodes (MAX_NUMNODES).
const NODES_MAX: u32 = 1024;

/// sched_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// −20 to 19.
    pub nice: i32,
    /// 1 to 99 of the realtime policies.
    pub priority: u32,
    /// Nanoseconds of each period, for SCHED_DEADLINE as the next two.
    pub runtime_ns: u64,
    /// By when in the period.
    pub deadline_ns: u64,
    /// Length of the period.
    pub period_ns: u64,
}

/// set_mempolicy(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// `MPOL_*` and `MPOL_F_*`.
    pub mode: u32,
    /// Mask of nodes, lowest word first.
    pub nodes: Vec<u64>,
}

/// sched_setaffinity(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Mask of CPUs, lowest word first.
    pub cpus: Vec<u64>,
    /// None of them may be allowed where the process is; then nothing changes.
    pub best_effort: bool,
}

/// `process.scheduler.policy`, at the kernel's number.
pub(super) const POLICIES: [&str; 7] =
    ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"];
/// `process.scheduler.flags`, at the kernel's bit.
pub(super) const FLAGS: [&str; 7] = [
    "SCHED_FLAG_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
];
/// `process.ioPriority.class`, at the kernel's number less one.
pub(super) const IO_CLASSES: [&str; 3] = ["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"];

fn place(word: &str, of: &[&str]) -> u32 {
    // The table of fields has refused every other word.
    of.iter().position(|known| *known == word).unwrap_or(0) as u32
}

/// What a process does to be served as it is to be.
pub(super) fn compile(steps: &mut Vec<Step>, process: &Process, linux: Option<&Linux>, report: &mut Report) {
    if let Some(linux) = linux {
        personality(steps, linux, report);
        memory_policy(steps, linux, report);
    }
    if let Some(scheduler) = process.scheduler.as_ref().filter(|scheduler| !scheduler.policy.is_empty()) {
        steps.push(Step::Scheduler(compile_scheduler(scheduler, report)));
    }
    if let Some(io) = &process.io_priority {
        let priority = u16::try_from(io.priority).ok().filter(|priority| *priority < 8).unwrap_or_else(|| {
            let problem = Problem::Range { found: io.priority.to_string(), expected: "0 to 7" };
            report.error("process.ioPriority.priority", problem);
            0
        });
        if io.class.is_empty() {
            let expected = "IOPRIO_CLASS_RT, IOPRIO_CLASS_BE or IOPRIO_CLASS_IDLE";
            report.error("process.ioPriority.class", Problem::Missing { expected });
        }
        // ioprio_set(2): the class is in the three highest bits.
        steps.push(Step::IoPriority((place(&io.class, &IO_CLASSES) as u16 + 1) << 13 | priority));
    }
}

fn compile_scheduler(scheduler: &config::Scheduler, report: &mut Report) -> Scheduler {
    const PATH: &str = "process.scheduler";
    let policy = scheduler.policy.as_str();
    let nice = scheduler.nice.unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        report.error(format_args!("{PATH}.nice"), Problem::Range { found: nice.to_string(), expected: "-20 to 19" });
    }
    let priority = scheduler.priority.unwrap_or(0);
    let is_realtime = matches!(policy, "SCHED_FIFO" | "SCHED_RR");
    if !is_realtime && priority != 0 {
        let reason = "is for SCHED_FIFO and SCHED_RR alone";
        report.error(format_args!("{PATH}.priority"), Problem::Conflict { reason });
    } else if is_realtime && !(1..=99).contains(&priority) {
        let found = priority.to_string();
        report.error(format_args!("{PATH}.priority"), Problem::Range { found, expected: "1 to 99" });
    }
    let times = [("runtime", scheduler.runtime), ("deadline", scheduler.deadline), ("period", scheduler.period)].map(
        |(name, value)| {
            let value = value.unwrap_or(0);
            if policy != "SCHED_DEADLINE" && value != 0 {
                let reason = "is for SCHED_DEADLINE alone";
                report.error(format_args!("{PATH}.{name}"), Problem::Conflict { reason });
            }
            value
        },
    );
    let [runtime_ns, deadline_ns, period_ns] = times;
    if policy == "SCHED_DEADLINE" && runtime_ns == 0 {
        let expected = "nanoseconds of each period";
        report.error(format_args!("{PATH}.runtime"), Problem::Missing { expected });
    }
    let flags = scheduler.flags.iter().flatten().fold(0, |flags, flag| flags | 1 << place(flag, &FLAGS));
    Scheduler {
        policy: place(policy, &POLICIES),
        flags,
        nice,
        priority: u32::try_from(priority).unwrap_or(0),
        runtime_ns,
        deadline_ns,
        period_ns,
    }
}

fn personality(steps: &mut Vec<Step>, linux: &Linux, report: &mut Report) {
    let Some(personality) = linux.personality() else { return };
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        report.warn("linux.personality.flags", "has no effect: runtime-spec knows no flag");
    }
    // sys/personality.h.
    steps.push(Step::Personality(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }));
}

fn memory_policy(steps: &mut Vec<Step>, linux: &Linux, report: &mut Report) {
    const PATH: &str = "linux.memoryPolicy";
    let Some(policy) = linux.memory_policy() else { return };
    // linux/mempolicy.h.
    let (mode, takes_nodes, needs_nodes) = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => (0, false, false),
        MemoryPolicyModeType::MpolPreferred => (1, true, false),
        MemoryPolicyModeType::MpolBind => (2, true, true),
        MemoryPolicyModeType::MpolInterleave => (3, true, true),
        MemoryPolicyModeType::MpolLocal => (4, false, false),
        MemoryPolicyModeType::MpolPreferredMany => (5, true, true),
        MemoryPolicyModeType::MpolWeightedInterleave => (6, true, true),
    };
    let bit = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let flags: u32 = policy.flags().iter().flatten().fold(0, |flags, flag| flags | bit(flag));
    if flags >> 14 == 3 {
        let reason = "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other";
        report.error(format_args!("{PATH}.flags"), Problem::Conflict { reason });
    }
    let text = policy.nodes().as_deref().unwrap_or_default();
    let nodes = match text {
        "" if needs_nodes => {
            report.error(format_args!("{PATH}.nodes"), Problem::Missing { expected: "a list such as 0-2,7" });
            Vec::new()
        }
        "" => Vec::new(),
        _ if !takes_nodes => {
            report.error(format_args!("{PATH}.nodes"), Problem::Conflict { reason: "is not for this mode" });
            Vec::new()
        }
        text => list(text, NODES_MAX, &format!("{PATH}.nodes"), report),
    };
    steps.push(Step::MemoryPolicy(MemoryPolicy { mode: mode | flags, nodes }));
}

/// What a process that joins does with its CPUs before it is in the cgroups, and after.
pub(super) fn exec_affinity(process: &Process, report: &mut Report) -> (Option<Step>, Option<Step>) {
    let Some(affinity) = &process.exec_cpu_affinity else { return (None, None) };
    let mut mask = |name: &str, text: &Option<String>| {
        let text = text.as_deref().filter(|text| !text.is_empty())?;
        Some(list(text, CPUS_MAX, &format!("process.execCPUAffinity.{name}"), report))
    };
    let (initial, last) = (mask("initial", &affinity.initial), mask("final", &affinity.last));
    let everything = || Affinity { cpus: vec![u64::MAX; CPUS_MAX as usize / 64], best_effort: false };
    let after = match (&initial, last) {
        (_, Some(cpus)) => Some(Affinity { cpus, best_effort: false }),
        (Some(_), None) => Some(everything()),
        (None, None) => None,
    };
    let before = initial.map(|cpus| Affinity { cpus, best_effort: true });
    (before.map(Step::Affinity), after.map(Step::Affinity))
}

fn list(text: &str, below: u32, path: &str, report: &mut Report) -> Vec<u64> {
    cpu_list::parse(text, below).unwrap_or_else(|| {
        report.error(path, Problem::Range { found: format!("{text:?}"), expected: "a list such as 0-2,7" });
        Vec::new()
    })
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(POLICIES.get(self.policy as usize).copied().unwrap_or("a scheduler"))?;
        if self.nice != 0 {
            write!(f, " nice {}", self.nice)?;
        }
        if self.priority != 0 {
            write!(f, " priority {}", self.priority)?;
        }
        if self.runtime_ns != 0 {
            write!(f, " {} ns of {} by {}", self.runtime_ns, self.period_ns, self.deadline_ns)?;
        }
        Ok(())
    }
}

impl fmt::Display for MemoryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode {:#x} nodes {}", self.mode, cpu_list::show(&self.nodes))
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&cpu_list::show(&self.cpus))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn compiled(process: Value, linux: Value) -> Result<Vec<Step>, Vec<String>> {
        let process: Process = serde_json::from_value(process).unwrap();
        let linux: Linux = serde_json::from_value(linux).unwrap();
        let (mut steps, mut report) = (Vec::new(), Report::default());
        compile(&mut steps, &process, Some(&linux), &mut report);
        let (before, after) = exec_affinity(&process, &mut report);
        steps.extend(before.into_iter().chain(after));
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(steps) } else { Err(errors) }
    }

    #[test]
    fn what_is_not_asked_for_is_no_step() {
        assert_eq!(compiled(json!({}), json!({})), Ok(vec![]));
    }

    #[test]
    fn words_become_the_kernels_numbers() {
        let process = json!({
            "scheduler": {"policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"]},
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 5},
        });
        let linux = json!({
            "personality": {"domain": "LINUX32"},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1,64", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_NUMA_BALANCING"]},
        });
        let expected = vec![
            Step::Personality(8),
            Step::MemoryPolicy(MemoryPolicy { mode: 2 | 1 << 15 | 1 << 13, nodes: vec![3, 1] }),
            Step::Scheduler(Scheduler { policy: 1, flags: 5, priority: 7, ..Scheduler::default() }),
            Step::IoPriority(3 << 13 | 5),
        ];
        assert_eq!(compiled(process, linux), Ok(expected));
        let deadline = json!({"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}});
        let expected = Scheduler { policy: 6, runtime_ns: 1, deadline_ns: 2, period_ns: 3, ..Scheduler::default() };
        assert_eq!(compiled(deadline, json!({})), Ok(vec![Step::Scheduler(expected)]));
    }

    #[test]
    fn affinity_for_the_setup_does_not_stay() {
        let affinity = |text: Value| compiled(json!({ "execCPUAffinity": text }), json!({})).unwrap();
        let step = |cpus: Vec<u64>, best_effort| Step::Affinity(Affinity { cpus, best_effort });
        assert_eq!(affinity(json!({"initial": "1", "final": "0-1"})), [step(vec![2], true), step(vec![3], false)]);
        assert_eq!(affinity(json!({"initial": "1"})), [step(vec![2], true), step(vec![u64::MAX; 128], false)]);
        assert_eq!(affinity(json!({"final": "2"})), [step(vec![4], false)]);
        assert_eq!(affinity(json!({"initial": "", "final": ""})), []);
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let process = json!({
            "scheduler": {"policy": "SCHED_OTHER", "nice": 20, "priority": 1, "period": 5},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8},
            "execCPUAffinity": {"initial": "1-", "final": "8192"},
        });
        let linux = json!({"memoryPolicy":
            {"mode": "MPOL_LOCAL", "nodes": "1", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}});
        let expected = [
            "linux.memoryPolicy.flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other",
            "linux.memoryPolicy.nodes: is not for this mode",
            "process.scheduler.nice: 20 is out of range, expected -20 to 19",
            "process.scheduler.priority: is for SCHED_FIFO and SCHED_RR alone",
            "process.scheduler.period: is for SCHED_DEADLINE alone",
            "process.ioPriority.priority: 8 is out of range, expected 0 to 7",
            "process.execCPUAffinity.initial: \"1-\" is out of range, expected a list such as 0-2,7",
            "process.execCPUAffinity.final: \"8192\" is out of range, expected a list such as 0-2,7",
        ];
        assert_eq!(compiled(process, linux).unwrap_err(), expected);
        let process = json!({"scheduler": {"policy": "SCHED_RR"}});
        let expected = [
            "linux.memoryPolicy.nodes: is missing, expected a list such as 0-2,7",
            "process.scheduler.priority: 0 is out of range, expected 1 to 99",
        ];
        assert_eq!(compiled(process, json!({"memoryPolicy": {"mode": "MPOL_BIND"}})).unwrap_err(), expected);
    }
}

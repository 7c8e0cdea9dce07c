//! Resources whose limits are for named things: huge pages of a size, network interfaces, RDMA devices, and files of cgroup v2 by name.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxRdma};
use serde::{Deserialize, Serialize};

use super::super::cgroup::Writes;
use super::super::error::{Problem, Report};
use crate::compact;

/// Limits for named things.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// `hugepageLimits`: size of a page as the kernel writes it (`2MB`), and bytes.
    pub huge_pages: Vec<(String, u64)>,
    /// `network.classID`: marks packets for tc(8); v1 only.
    pub class_id: Option<u32>,
    /// `network.priorities`: interface and priority; v1 only.
    pub priorities: Vec<(String, u32)>,
    /// `rdma`: device, handles and objects; `None` is no limit.
    pub rdma: Vec<(String, Option<u32>, Option<u32>)>,
    /// `unified`: file and text; v2 only.
    pub unified: Vec<(String, String)>,
}

impl Named {
    pub(in super::super) fn legacy_writes(&self, all: &mut Writes) {
        for (size, bytes) in &self.huge_pages {
            let files = [format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.rsvd.limit_in_bytes")];
            self.huge_page(all, files, *bytes);
        }
        all.push("net_cls", "net_cls.classid", self.class_id, "network.classID");
        for (interface, priority) in &self.priorities {
            let value = format!("{interface} {priority}");
            all.push("net_prio", "net_prio.ifpriomap", Some(value), "network.priorities");
        }
        self.rdma(all);
    }

    pub(in super::super) fn unified_writes(&self, all: &mut Writes) {
        for (size, bytes) in &self.huge_pages {
            self.huge_page(all, [format!("hugetlb.{size}.max"), format!("hugetlb.{size}.rsvd.max")], *bytes);
        }
        self.rdma(all);
        // Last, so that they win over what is said of the same file elsewhere.
        for (file, text) in &self.unified {
            let controller = file.split('.').next().unwrap_or_default().to_owned();
            let field = format!("unified[{file:?}]");
            // A file with several keys takes one line at a time.
            let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
            let lines = if lines.is_empty() { vec![""] } else { lines };
            for line in lines {
                all.push(controller.clone(), file.clone(), Some(line), field.clone());
            }
        }
    }

    /// What v2 has nothing for, with the file that v1 has.
    pub(in super::super) fn legacy_files(&self) -> Option<(&'static str, &'static str)> {
        if self.class_id.is_some() {
            return Some(("network.classID", "net_cls.classid"));
        }
        (!self.priorities.is_empty()).then_some(("network.priorities", "net_prio.ifpriomap"))
    }

    /// Pages in use, and pages put by for a mapping (Linux 5.7), which else could be taken from under a fault.
    fn huge_page(&self, all: &mut Writes, [used, reserved]: [String; 2], bytes: u64) {
        all.push("hugetlb", used, Some(bytes), "hugepageLimits");
        all.push("hugetlb", reserved, Some(bytes), "hugepageLimits").or_nothing();
    }

    fn rdma(&self, all: &mut Writes) {
        for (device, handles, objects) in &self.rdma {
            let or_max = |value: Option<u32>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
            let value = format!("{device} hca_handle={} hca_object={}", or_max(*handles), or_max(*objects));
            all.push("rdma", "rdma.max", Some(value), "rdma");
        }
    }
}

pub(super) fn huge_pages(limits: &[LinuxHugepageLimit], report: &mut Report) -> Vec<(String, u64)> {
    let mut known: Vec<(String, u64)> = Vec::new();
    for (index, limit) in limits.iter().enumerate() {
        let path = format!("linux.resources.hugepageLimits[{index}]");
        let size = limit.page_size();
        let digits = size.strip_suffix("KB").or_else(|| size.strip_suffix("MB")).or_else(|| size.strip_suffix("GB"));
        let is_size = |digits: &str| {
            !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits.is_some_and(is_size) {
            let problem = Problem::Range { found: format!("{size:?}"), expected: "a size such as 2MB or 1GB" };
            report.error(format_args!("{path}.pageSize"), problem);
        }
        if known.iter().any(|(other, _)| other == size) {
            report.error(format_args!("{path}.pageSize"), Problem::Duplicate { found: size.clone() });
        }
        match u64::try_from(limit.limit()) {
            Ok(bytes) => known.push((size.clone(), bytes)),
            Err(_) => {
                let problem = Problem::Range { found: limit.limit().to_string(), expected: "a number of bytes" };
                report.error(format_args!("{path}.limit"), problem);
            }
        }
    }
    known
}

pub(super) fn network(network: &LinuxNetwork, report: &mut Report) -> (Option<u32>, Vec<(String, u32)>) {
    let mut priorities = Vec::new();
    for (index, entry) in network.priorities().iter().flatten().enumerate() {
        let path = format_args!("linux.resources.network.priorities[{index}].name");
        check_name(entry.name(), "the name of an interface", path, report);
        priorities.push((entry.name().clone(), entry.priority()));
    }
    // 0 is "not given", as in runc: it is what a new cgroup has.
    (network.class_id().filter(|class| *class != 0), priorities)
}

pub(super) fn rdma(
    limits: &HashMap<String, LinuxRdma>,
    report: &mut Report,
) -> Vec<(String, Option<u32>, Option<u32>)> {
    let mut sorted: Vec<(&String, &LinuxRdma)> = limits.iter().collect();
    compact::sort_by_key(&mut sorted, |(device, _)| *device);
    let mut compiled = Vec::new();
    for (device, limit) in sorted {
        let path = format_args!("linux.resources.rdma[{device:?}]");
        check_name(device, "the name of a device", path, report);
        if limit.hca_handles().is_none() && limit.hca_objects().is_none() {
            report.error(path, Problem::Missing { expected: "hcaHandles or hcaObjects" });
        }
        compiled.push((device.clone(), limit.hca_handles(), limit.hca_objects()));
    }
    compiled
}

pub(super) fn unified(files: &HashMap<String, String>, report: &mut Report) -> Vec<(String, String)> {
    let mut sorted: Vec<(String, String)> = files.iter().map(|(file, text)| (file.clone(), text.clone())).collect();
    compact::sort(&mut sorted);
    for (file, text) in &sorted {
        let path = format_args!("linux.resources.unified[{file:?}]");
        let (controller, rest) = file.split_once('.').unwrap_or_default();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if controller.is_empty() || rest.is_empty() || !file.bytes().all(fits) {
            let found = format!("{file:?}");
            report.error(path, Problem::Range { found, expected: "the name of a file such as memory.high" });
        }
        // They decide who is in the cgroup and what it is: not limits.
        if controller == "cgroup"
            && !["cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"].contains(&file.as_str())
        {
            report.error(path, Problem::Conflict { reason: "is no limit: it belongs to the runtime" });
        }
        if text.contains('\0') {
            report.error(path, Problem::Conflict { reason: "holds a zero byte" });
        }
    }
    sorted
}

fn check_name(name: &str, expected: &'static str, path: std::fmt::Arguments<'_>, report: &mut Report) {
    if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control() || byte == b'=')
    {
        report.error(path, Problem::Range { found: format!("{name:?}"), expected });
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxResources;

    use super::*;
    use crate::oci::CgroupSettings;

    fn compiled(text: &str) -> Result<CgroupSettings, Vec<String>> {
        let resources: LinuxResources = serde_json::from_str(text).unwrap();
        let mut report = Report::default();
        let settings = super::super::compile(Some(&resources), &mut report);
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }

    fn lines(writes: Vec<crate::oci::Write>) -> Vec<String> {
        writes.iter().map(|write| format!("{} {}={}", write.controller, write.file, write.value)).collect()
    }

    #[test]
    fn each_is_written_where_its_hierarchy_has_it() {
        let settings = compiled(
            r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "network": {"classID": 1048577, "priorities": [{"name": "lo", "priority": 5}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3}, "mlx4_0": {"hcaHandles": 1, "hcaObjects": 2}}}"#,
        )
        .unwrap();
        let expected = [
            "hugetlb hugetlb.2MB.limit_in_bytes=4194304",
            "hugetlb hugetlb.2MB.rsvd.limit_in_bytes=4194304",
            "net_cls net_cls.classid=1048577",
            "net_prio net_prio.ifpriomap=lo 5",
            "rdma rdma.max=mlx4_0 hca_handle=1 hca_object=2",
            "rdma rdma.max=mlx5_1 hca_handle=3 hca_object=max",
        ];
        assert_eq!(lines(settings.legacy_writes()), expected);
        let expected = [
            "hugetlb hugetlb.2MB.max=4194304",
            "hugetlb hugetlb.2MB.rsvd.max=4194304",
            "rdma rdma.max=mlx4_0 hca_handle=1 hca_object=2",
            "rdma rdma.max=mlx5_1 hca_handle=3 hca_object=max",
        ];
        assert_eq!(lines(settings.unified_writes()), expected);
        assert_eq!(settings.legacy_files(), Some(("network.classID", "net_cls.classid")));
    }

    #[test]
    fn files_of_v2_by_name_come_last_a_line_at_a_time() {
        let settings = compiled(
            r#"{"memory": {"limit": 4096}, "unified": {"memory.max": "8192", "io.max": "8:0 rbps=1\n8:16 wbps=2\n"}}"#,
        );
        let expected =
            ["memory memory.max=4096", "io io.max=8:0 rbps=1", "io io.max=8:16 wbps=2", "memory memory.max=8192"];
        assert_eq!(lines(settings.unwrap().unified_writes()), expected);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let errors = compiled(
            r#"{"hugepageLimits": [{"pageSize": "2M/../B", "limit": 1}, {"pageSize": "1GB", "limit": -1}],
            "network": {"priorities": [{"name": "a b", "priority": 1}]}, "rdma": {"": {}},
            "unified": {"../memory.max": "1", "memory": "1", "cgroup.procs": "1", "cgroup.max.depth": "3"}}"#,
        );
        let expected = [
            "linux.resources.hugepageLimits[0].pageSize: \"2M/../B\" is out of range, expected a size such as 2MB or 1GB",
            "linux.resources.hugepageLimits[1].limit: -1 is out of range, expected a number of bytes",
            "linux.resources.network.priorities[0].name: \"a b\" is out of range, expected the name of an interface",
            "linux.resources.rdma[\"\"]: \"\" is out of range, expected the name of a device",
            "linux.resources.rdma[\"\"]: is missing, expected hcaHandles or hcaObjects",
            "linux.resources.unified[\"../memory.max\"]: \"../memory.max\" is out of range, expected the name of a file such as memory.high",
            "linux.resources.unified[\"cgroup.procs\"]: is no limit: it belongs to the runtime",
            "linux.resources.unified[\"memory\"]: \"memory\" is out of range, expected the name of a file such as memory.high",
        ];
        assert_eq!(errors.unwrap_err(), expected);
    }
}

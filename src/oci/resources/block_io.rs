//! `linux.resources.blockIO`: weights and rates of block devices.
//!
//! cgroup v1's `blkio` has a file for each; its weights are CFQ's, which later kernels have as BFQ's under another name. v2's `io` has one file
//! for all rates of a device, and weights of its own range, onto which runc and crun map those of config.json; leaf weights it has not.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};
use serde::{Deserialize, Serialize};

use super::super::cgroup::Writes;
use super::super::error::{Problem, Report};

/// What a container's share of the block devices is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIo {
    /// 10 to 1000.
    pub weight: Option<u16>,
    /// Against the cgroups below it; v1 only.
    pub leaf_weight: Option<u16>,
    /// For single devices.
    pub devices: Vec<DeviceWeight>,
    /// For single devices: how much in a second.
    pub rates: Vec<Rate>,
}

/// Weights of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWeight {
    /// Major and minor number.
    pub device: (u32, u32),
    /// 10 to 1000.
    pub weight: Option<u16>,
    /// v1 only.
    pub leaf_weight: Option<u16>,
}

/// One rate of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Of what.
    pub of: RateOf,
    /// In a second; 0 is no limit.
    pub per_second: u64,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateOf {
    /// Bytes read.
    BytesRead,
    /// Bytes written.
    BytesWritten,
    /// Reads.
    Reads,
    /// Writes.
    Writes,
}

impl RateOf {
    /// Field of config.json, file of v1, word of v2's `io.max`.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            RateOf::BytesRead => ("blockIO.throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
            RateOf::BytesWritten => ("blockIO.throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
            RateOf::Reads => ("blockIO.throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
            RateOf::Writes => ("blockIO.throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
        }
    }
}

impl BlockIo {
    pub(in super::super) fn legacy_writes(&self, all: &mut Writes) {
        if let Some(weight) = self.weight {
            all.push("blkio", "blkio.weight", Some(weight), "blockIO.weight").or("blkio.bfq.weight", weight);
        }
        all.push("blkio", "blkio.leaf_weight", self.leaf_weight, "blockIO.leafWeight");
        for DeviceWeight { device: (major, minor), weight, leaf_weight } in &self.devices {
            if let Some(weight) = weight {
                let value = format!("{major}:{minor} {weight}");
                all.push("blkio", "blkio.weight_device", Some(&value), "blockIO.weightDevice")
                    .or("blkio.bfq.weight_device", value);
            }
            let leaf = leaf_weight.map(|leaf| format!("{major}:{minor} {leaf}"));
            all.push("blkio", "blkio.leaf_weight_device", leaf, "blockIO.weightDevice");
        }
        for rate in &self.rates {
            let ((field, file, _), (major, minor)) = (rate.of.names(), rate.device);
            all.push("blkio", file, Some(format!("{major}:{minor} {}", rate.per_second)), field);
        }
    }

    pub(in super::super) fn unified_writes(&self, all: &mut Writes) {
        if let Some(weight) = self.weight {
            all.push("io", "io.bfq.weight", Some(weight), "blockIO.weight").or("io.weight", unified_weight(weight));
        }
        for DeviceWeight { device: (major, minor), weight, .. } in &self.devices {
            let Some(weight) = weight else { continue };
            let value = |weight: u16| format!("{major}:{minor} {weight}");
            all.push("io", "io.bfq.weight", Some(value(*weight)), "blockIO.weightDevice")
                .or("io.weight", value(unified_weight(*weight)));
        }
        for rate in &self.rates {
            let ((field, _, word), (major, minor)) = (rate.of.names(), rate.device);
            let value = if rate.per_second == 0 { "max".to_owned() } else { rate.per_second.to_string() };
            all.push("io", "io.max", Some(format!("{major}:{minor} {word}={value}")), field);
        }
    }

    /// Fields that v2 has nothing for, with the file that v1 has.
    pub(in super::super) fn legacy_files(&self) -> Option<(&'static str, &'static str)> {
        if self.leaf_weight.is_some() {
            return Some(("blockIO.leafWeight", "blkio.leaf_weight"));
        }
        let of_device = self.devices.iter().any(|device| device.leaf_weight.is_some());
        of_device.then_some(("blockIO.weightDevice", "blkio.leaf_weight_device"))
    }
}

/// 10 … 1000 onto 1 … 10000, as runc and crun do.
fn unified_weight(weight: u16) -> u16 {
    let weight = u32::from(weight.clamp(10, 1000));
    // At most 10000.
    (1 + (weight - 10) * 9999 / 990) as u16
}

pub(super) fn compile(io: &LinuxBlockIo, report: &mut Report) -> BlockIo {
    const PATH: &str = "linux.resources.blockIO";
    // 0 is "not given", as in runc.
    let mut weight = |path: &str, value: Option<u16>| {
        let value = value.filter(|value| *value != 0);
        if let Some(found) = value.filter(|value| !(10..=1000).contains(value)) {
            report.error(path, Problem::Range { found: found.to_string(), expected: "10 to 1000" });
        }
        value
    };
    let own = weight(&format!("{PATH}.weight"), io.weight());
    let leaf_weight = weight(&format!("{PATH}.leafWeight"), io.leaf_weight());
    let mut devices = Vec::new();
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let path = format!("{PATH}.weightDevice[{index}]");
        let (own, leaf) = (
            weight(&format!("{path}.weight"), device.weight()),
            weight(&format!("{path}.leafWeight"), device.leaf_weight()),
        );
        devices.push((path, (device.major(), device.minor()), own, leaf));
    }
    let devices = devices.into_iter().map(|(path, numbers, weight, leaf_weight)| {
        if weight.is_none() && leaf_weight.is_none() {
            report.error(&path, Problem::Missing { expected: "a weight or a leafWeight" });
        }
        DeviceWeight { device: device_number(&path, numbers, report), weight, leaf_weight }
    });
    let devices = devices.collect();
    let lists = [
        (RateOf::BytesRead, io.throttle_read_bps_device()),
        (RateOf::BytesWritten, io.throttle_write_bps_device()),
        (RateOf::Reads, io.throttle_read_iops_device()),
        (RateOf::Writes, io.throttle_write_iops_device()),
    ];
    let rates = lists.into_iter().flat_map(|(of, list)| rates(of, list.as_deref().unwrap_or_default(), report));
    BlockIo { weight: own, leaf_weight, devices, rates: rates.collect() }
}

fn rates(of: RateOf, list: &[LinuxThrottleDevice], report: &mut Report) -> Vec<Rate> {
    let path = |index: usize| format!("linux.resources.{}[{index}]", of.names().0);
    let rates = list.iter().enumerate().map(|(index, rate)| Rate {
        device: device_number(&path(index), (rate.major(), rate.minor()), report),
        of,
        per_second: rate.rate(),
    });
    rates.collect()
}

fn device_number(path: &str, (major, minor): (i64, i64), report: &mut Report) -> (u32, u32) {
    let mut number = |name: &str, value: i64| {
        u32::try_from(value).unwrap_or_else(|_| {
            let problem = Problem::Range { found: value.to_string(), expected: "0 to 4294967295" };
            report.error(format_args!("{path}.{name}"), problem);
            0
        })
    };
    (number("major", major), number("minor", minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> Result<BlockIo, Vec<String>> {
        let io: LinuxBlockIo = serde_json::from_str(text).unwrap();
        let mut report = Report::default();
        let io = compile(&io, &mut report);
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(io) } else { Err(errors) }
    }

    const EVERYTHING: &str = r#"{"weight": 500, "leafWeight": 10,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 1000, "leafWeight": 300}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
        "throttleWriteBpsDevice": [{"major": 8, "minor": 16, "rate": 0}],
        "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 8}]}"#;

    fn lines(writes: Writes) -> Vec<String> {
        let text = |write: crate::oci::Write| match write.otherwise {
            Some((file, value)) => format!("{}={} or {file}={value}", write.file, write.value),
            None => format!("{}={}", write.file, write.value),
        };
        writes.0.into_iter().map(text).collect()
    }

    #[test]
    fn every_field_is_a_file_of_v1() {
        let mut writes = Writes::default();
        compiled(EVERYTHING).unwrap().legacy_writes(&mut writes);
        let expected = [
            "blkio.weight=500 or blkio.bfq.weight=500",
            "blkio.leaf_weight=10",
            "blkio.weight_device=8:0 1000 or blkio.bfq.weight_device=8:0 1000",
            "blkio.leaf_weight_device=8:0 300",
            "blkio.throttle.read_bps_device=8:0 600",
            "blkio.throttle.write_bps_device=8:16 0",
            "blkio.throttle.read_iops_device=8:0 7",
            "blkio.throttle.write_iops_device=8:0 8",
        ];
        assert_eq!(lines(writes), expected);
    }

    #[test]
    fn v2_has_weights_of_its_own_range_and_one_file_of_rates() {
        let io = compiled(EVERYTHING).unwrap();
        let mut writes = Writes::default();
        io.unified_writes(&mut writes);
        let expected = [
            "io.bfq.weight=500 or io.weight=4950",
            "io.bfq.weight=8:0 1000 or io.weight=8:0 10000",
            "io.max=8:0 rbps=600",
            "io.max=8:16 wbps=max",
            "io.max=8:0 riops=7",
            "io.max=8:0 wiops=8",
        ];
        assert_eq!(lines(writes), expected);
        assert_eq!(io.legacy_files(), Some(("blockIO.leafWeight", "blkio.leaf_weight")));
        assert_eq!([10, 11, 1000].map(unified_weight), [1, 11, 10_000]);
    }

    #[test]
    fn weights_and_numbers_out_of_range_are_named() {
        let text = r#"{"weight": 9, "weightDevice": [{"major": -1, "minor": 0, "weight": 1001}, {"major": 8, "minor": 0}],
            "throttleReadIOPSDevice": [{"major": 8, "minor": 4294967296, "rate": 1}]}"#;
        let expected = [
            "linux.resources.blockIO.weight: 9 is out of range, expected 10 to 1000",
            "linux.resources.blockIO.weightDevice[0].weight: 1001 is out of range, expected 10 to 1000",
            "linux.resources.blockIO.weightDevice[0].major: -1 is out of range, expected 0 to 4294967295",
            "linux.resources.blockIO.weightDevice[1]: is missing, expected a weight or a leafWeight",
            "linux.resources.blockIO.throttleReadIOPSDevice[0].minor: 4294967296 is out of range, expected 0 to 4294967295",
        ];
        assert_eq!(compiled(text).unwrap_err(), expected);
    }
}

//! `linux.netDevices`: devices of the runtime's network namespace that become the container's. Pure.
//!
//! A device keeps its MTU, its hardware address and its permanent global addresses, gets the name that is asked for, and is up. What else
//! is configured on it (routes, other addresses) is gone, as for anybody who moves one. Nothing is done with it afterwards: when the last process
//! of the network namespace ends, the kernel gives a physical device back to the host's first network namespace, down and under the name
//! that it has by then, and one that is made of software (veth, dummy, macvlan) is gone. In a namespace that is joined by path it stays.

use oci_spec::runtime::Linux;
use serde::{Deserialize, Serialize};

use super::error::{Problem, Report};
use crate::compact;

/// IFNAMSIZ, of which one byte is the end.
const NAME_BYTES_MAX: usize = 15;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetDevice {
    /// Its name now.
    pub name: String,
    /// Its name in the container.
    pub new_name: String,
}

impl NetDevice {
    /// Where config.json names it.
    pub fn field(&self) -> String {
        field(&self.name)
    }
}

fn field(name: &str) -> String {
    format!("linux.netDevices[{name:?}]")
}

/// Compiles them, in the order of their names. `private` says that the container is not in the runtime's network namespace.
pub(super) fn compile(linux: &Linux, private: bool, report: &mut Report) -> Vec<NetDevice> {
    let mut devices = Vec::new();
    let mut entries: Vec<_> = linux.net_devices().iter().flatten().collect();
    compact::sort_by_key(&mut entries, |(name, _)| name.as_str());
    if !entries.is_empty() && !private {
        let reason = "needs an entry {\"type\": \"network\"} in linux.namespaces: the devices are there already";
        report.error("linux.netDevices", Problem::Conflict { reason });
    }
    for (name, device) in entries {
        let new_name = device.name().clone().filter(|name| !name.is_empty()).unwrap_or_else(|| name.clone());
        check(name, field(name), report);
        if new_name != *name {
            check(&new_name, format!("{}.name", field(name)), report);
        }
        if devices.iter().any(|other: &NetDevice| other.new_name == new_name) {
            report.error(format_args!("{}.name", field(name)), Problem::Duplicate { found: format!("{new_name:?}") });
        }
        devices.push(NetDevice { name: name.clone(), new_name });
    }
    devices
}

/// The kernel's rule for names, without its templates (`eth%d`), by which nobody would know the name.
fn check(name: &str, path: String, report: &mut Report) {
    let bad = |byte: u8| b"/:%".contains(&byte) || byte.is_ascii_whitespace() || byte == 0;
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && name != "." && name != "..";
    if !fits || name.bytes().any(bad) {
        let expected = "a name of 1 to 15 bytes without white space and / : %";
        report.error(path, Problem::Range { found: format!("{name:?}"), expected });
    } else if name == "lo" {
        let reason = "the loopback device belongs to its network namespace: every container has one of its own";
        report.error(path, Problem::Conflict { reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(devices: &str, private: bool) -> Result<Vec<NetDevice>, Vec<String>> {
        let linux: Linux = serde_json::from_str(&format!(r#"{{"netDevices": {devices}}}"#)).unwrap();
        let mut report = Report::default();
        let devices = compile(&linux, private, &mut report);
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(devices) } else { Err(errors) }
    }

    #[test]
    fn a_device_keeps_its_name_unless_it_gets_another() {
        let device = |name: &str, new: &str| NetDevice { name: name.into(), new_name: new.into() };
        let devices = r#"{"eth1": {"name": "net0"}, "eth0": {}, "eth2": {"name": ""}}"#;
        assert_eq!(
            said(devices, true),
            Ok(vec![device("eth0", "eth0"), device("eth1", "net0"), device("eth2", "eth2")])
        );
        assert_eq!(said("{}", false), Ok(Vec::new()));
    }

    #[test]
    fn every_mistake_names_its_device() {
        let devices = r#"{"a": {"name": "sixteen-letters-"}, "b": {"name": "x"}, "c": {"name": "x"}, "d e": {}, "eth%d": {}, "lo": {}}"#;
        let expected = [
            "linux.netDevices: needs an entry {\"type\": \"network\"} in linux.namespaces: the devices are there already",
            "linux.netDevices[\"a\"].name: \"sixteen-letters-\" is out of range, expected a name of 1 to 15 bytes without white space and / : %",
            "linux.netDevices[\"c\"].name: \"x\" is given twice",
            "linux.netDevices[\"d e\"]: \"d e\" is out of range, expected a name of 1 to 15 bytes without white space and / : %",
            "linux.netDevices[\"eth%d\"]: \"eth%d\" is out of range, expected a name of 1 to 15 bytes without white space and / : %",
            "linux.netDevices[\"lo\"]: the loopback device belongs to its network namespace: every container has one of its own",
        ];
        assert_eq!(said(devices, false).unwrap_err(), expected);
    }
}

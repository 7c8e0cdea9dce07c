//! Device nodes, and which devices may be used.

use oci_spec::runtime::{Linux, LinuxDeviceType};

use super::cgroup::{CgroupSettings, DeviceRule, RuleTarget};
use super::compile::Context;
use super::error::{Problem, Report};
use super::mount;
use super::script::{DeviceKind, DeviceNode};

/// A link in every container, as with runc and crun: the host's own would give terminals of the host's.
const PTMX: &str = "/dev/ptmx";

/// The nodes that every container has, and those of the spec, which win.
pub(super) fn nodes(linux: &Linux, report: &mut Report) -> Vec<DeviceNode> {
    let usual = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let mut nodes: Vec<DeviceNode> = Vec::new();
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let path = format_args!("linux.devices[{index}]");
        if mount::clean(&device.path().to_string_lossy()) == PTMX {
            report.warn(format_args!("{path}.path"), "is not made: /dev/ptmx is the one of the container's /dev/pts");
            continue;
        }
        let kind = match device.typ() {
            LinuxDeviceType::B => DeviceKind::Block,
            LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
            LinuxDeviceType::P => DeviceKind::Fifo,
            LinuxDeviceType::A => {
                report
                    .error(format_args!("{path}.type"), Problem::Range { found: "a".into(), expected: "b, c, u or p" });
                continue;
            }
        };
        let mut number = |field: &str, value: i64| {
            u32::try_from(value).unwrap_or_else(|_| {
                let problem = Problem::Range { found: value.to_string(), expected: "0 to 4294967295" };
                report.error(format_args!("{path}.{field}"), problem);
                0
            })
        };
        let (major, minor) = match kind {
            DeviceKind::Fifo => (0, 0),
            DeviceKind::Block | DeviceKind::Character => {
                (number("major", device.major()), number("minor", device.minor()))
            }
        };
        let (mode, uid, gid) = (device.file_mode().unwrap_or(0o666), device.uid(), device.gid());
        let node = DeviceNode {
            path: mount::clean(&device.path().to_string_lossy()),
            kind,
            major,
            minor,
            // What is special about a file (set-user-ID and the like) means nothing for a node, and runc and crun leave it out.
            mode: mode & 0o777,
            uid: uid.unwrap_or(0),
            gid: gid.unwrap_or(0),
        };
        // One path twice: runc keeps the first.
        if !nodes.iter().any(|known| known.path == node.path) {
            nodes.push(node);
        }
    }
    for (name, major, minor) in usual {
        let path = format!("/dev/{name}");
        if !nodes.iter().any(|node| node.path == path) {
            let kind = DeviceKind::Character;
            nodes.push(DeviceNode { path, kind, major, minor, mode: 0o666, uid: 0, gid: 0 });
        }
    }
    nodes
}

/// The rules of what the unit names besides.
///
/// A node of linux.devices is of no use if its rule is missing, but runc demands both: the rules are what linux.resources.devices says.
pub(super) fn with_devices(mut cgroup: CgroupSettings, context: &Context) -> CgroupSettings {
    if context.host {
        cgroup.devices = vec![DeviceRule::everything()];
    }
    for path in &context.devices {
        let device = RuleTarget::HostPath(path.clone());
        cgroup.devices.push(DeviceRule { allow: true, device, access: "rwm".to_owned() });
    }
    cgroup
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_at_ptmx_is_left_to_the_link() {
        let linux = serde_json::json!({ "devices": [
            { "path": "/dev/./ptmx", "type": "c", "major": 5, "minor": 2 },
            { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 }
        ]});
        let mut report = Report::default();
        let nodes = nodes(&serde_json::from_value(linux).unwrap(), &mut report);
        assert_eq!(nodes[0].path, "/dev/fuse");
        assert!(nodes.iter().all(|node| node.path != PTMX), "{nodes:?}");
        let said: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
        let expected = "linux.devices[0].path: is not made: /dev/ptmx is the one of the container's /dev/pts";
        assert_eq!((said.as_slice(), report.errors.len()), ([expected.to_owned()].as_slice(), 0));
    }
}

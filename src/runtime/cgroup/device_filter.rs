//! Device rules on cgroup v2: an eBPF program that is attached to the container's directory and stays until that is removed.
//!
//! Used wherever there is no v1 devices controller: on hosts with v2 alone, and on others whose v1 hierarchies do not include it. A program of
//! ours that is there already is replaced at one stroke; those of others (systemd's, of the cgroups above) hold as well.
//!
//! In a user namespace the kernel takes no program. What runs there has no rights over devices of the host's, and nodes that were made
//! elsewhere are what is left: `status` and `moored oci` say so ([`device_rules_ignored`]).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use super::container::{device_numbers, needs_devices};
use super::host::Host;
use super::{CgroupError, host_is_unified};
use crate::oci::{CgroupSettings, DeviceRule, RuleTarget, device_filter};
use crate::runtime::error::errno_of;
use crate::sys::bpf;

/// Attaches the program of these rules, in the place of one of ours. Rules that allow everything need none.
pub(super) fn apply(directory: &OwnedFd, settings: &CgroupSettings) -> Result<(), CgroupError> {
    if !needs_devices(settings) || in_user_namespace() {
        return Ok(());
    }
    let rules = settings.devices.iter().map(by_numbers).collect::<Result<Vec<_>, _>>()?;
    let program: Vec<u64> = device_filter::compile(&rules).into_iter().map(|one| one.encode()).collect();
    let failed =
        |call: &'static str| move |error: std::io::Error| CgroupError::DeviceProgram { call, errno: errno_of(&error) };
    let program = bpf::load_device_program(&program).map_err(failed("load"))?;
    let old = bpf::device_programs(directory.as_fd()).map_err(failed("look for"))?;
    bpf::attach_device_program(directory.as_fd(), program.as_fd(), old.first().map(AsFd::as_fd))
        .map_err(failed("attach"))
}

/// Why device rules are not enforced here, if they are not.
pub fn device_rules_ignored() -> Option<&'static str> {
    let by_program = host_is_unified() || Host::open_legacy("devices").is_err();
    (by_program && in_user_namespace())
        .then_some("device rules are not enforced: in a user namespace the kernel takes no program for them")
}

fn by_numbers(rule: &DeviceRule) -> Result<DeviceRule, CgroupError> {
    let device = match &rule.device {
        RuleTarget::HostPath(path) => {
            let (kind, major, minor) = device_numbers(path)?;
            RuleTarget::Numbers { kind, major: Some(major), minor: Some(minor) }
        }
        numbers @ RuleTarget::Numbers { .. } => numbers.clone(),
    };
    Ok(DeviceRule { device, ..rule.clone() })
}

/// user_namespaces(7): the first one maps every id to itself.
fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_whitespace().collect();
    !numbers.is_empty() && numbers != ["0", "0", "4294967295"]
}

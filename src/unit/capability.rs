//! Capability names (capabilities(7)), in the kernel's order, which is their number.

/// All capabilities of Linux 6.x, without `CAP_`.
pub(crate) const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What Docker gives a container by default.
const DOCKER: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "MKNOD",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// What one word of `security.capabilities` means: numbers of capabilities. `None` if it is neither a name nor "docker".
pub(crate) fn expand(word: &str) -> Option<Vec<usize>> {
    let upper = word.to_ascii_uppercase();
    if upper == "DOCKER" {
        return Some(DOCKER.iter().filter_map(|name| number(name)).collect());
    }
    number(upper.strip_prefix("CAP_").unwrap_or(&upper)).map(|n| vec![n])
}

fn number(name: &str) -> Option<usize> {
    ALL.iter().position(|known| *known == name)
}

/// `CAP_…` names of the numbers, each once, in the kernel's order.
pub(crate) fn names(mut numbers: Vec<usize>) -> Vec<String> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.iter().filter_map(|n| ALL.get(*n)).map(|name| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_any_case_and_with_or_without_prefix() {
        for word in ["NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin"] {
            assert_eq!(names(expand(word).unwrap()), ["CAP_NET_ADMIN"]);
        }
        assert_eq!(names(expand("docker").unwrap()).len(), 14);
        assert_eq!(expand("ALL"), None);
        assert_eq!(expand(""), None);
    }
}

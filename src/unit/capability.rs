//! What `security.capabilities` may say.

use crate::words::CAPABILITIES;

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
    CAPABILITIES.iter().position(|known| *known == name)
}

/// `CAP_…` names of the numbers, each once, in the kernel's order.
pub(crate) fn names(mut numbers: Vec<usize>) -> Vec<String> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.iter().filter_map(|n| CAPABILITIES.get(*n)).map(|name| format!("CAP_{name}")).collect()
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

//! What pid 1 of a container does with a signal.
//!
//! Pid 1 of a pid namespace gets only signals that it has a handler for (pid_namespaces(7)): a stop signal that it neither catches nor
//! blocks does nothing at all. A blocked one may be waited for by sigwait(3) or signalfd(2).

use crate::unit::Signal;

const SIGKILL: u8 = 9;
const SIGSTOP: u8 = 19;

/// Whether sending `signal` to `pid` would do nothing. A process that cannot be looked at is assumed to handle it.
pub fn would_ignore(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| is_ignored_by(&status, signal))
}

fn is_ignored_by(status: &str, signal: Signal) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let mask = |name: &str| field(name).and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    // The last number of NSpid is the one in its own namespace. In the host's namespace the default action counts.
    let own = field("NSpid").map(|text| text.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let is_init = own.len() > 1 && own.last() == Some(&"1");
    let bit = 1u64 << (u32::from(signal.0).saturating_sub(1) & 63);
    let handled = (mask("SigCgt") | mask("SigBlk")) & bit != 0;
    let ignored = mask("SigIgn") & bit != 0;
    match signal.0 {
        SIGKILL | SIGSTOP => false,
        _ => (is_init || ignored) && !handled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(nspid: &str, caught: u64, blocked: u64, ignored: u64) -> String {
        format!("NSpid:\t{nspid}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n")
    }

    #[test]
    fn an_init_ignores_what_it_does_not_handle() {
        let term = Signal(15);
        let bit = 1 << 14;
        assert!(is_ignored_by(&status("77\t1", 0, 0, 0), term));
        assert!(!is_ignored_by(&status("77\t1", bit, 0, 0), term));
        assert!(!is_ignored_by(&status("77\t1", 0, bit, 0), term));
        assert!(!is_ignored_by(&status("77", 0, 0, 0), term), "the default action of a process of the host's");
        assert!(is_ignored_by(&status("77", 0, 0, bit), term));
        assert!(!is_ignored_by(&status("77\t1", 0, 0, 0), Signal(9)));
    }
}

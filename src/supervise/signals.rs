//! What pid 1 of a container does with a signal.
//!
//! Pid 1 of a pid namespace gets only signals that it has a handler for (pid_namespaces(7)): a stop signal that it neither catches nor
//! blocks does nothing at all. A blocked one may be waited for by sigwait(3) or signalfd(2). While a thread is in sigwait, the kernel takes
//! what it waits for out of its mask, so that /proc shows it as not blocked: the system call tells.

use crate::unit::Signal;

const SIGKILL: u8 = 9;
const SIGSTOP: u8 = 19;

/// Whether sending `signal` to `pid` would do nothing. A process that cannot be looked at is assumed to handle it.
pub fn would_ignore(pid: i32, signal: Signal) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    // What it waits for is not blocked meanwhile: it may have been woken between the two looks, and is at work, with all blocked again.
    let ignores = || {
        read("status").is_ok_and(|status| is_ignored_by(&status, signal))
            && read("syscall").is_ok_and(|call| !is_waiting_for_signals(&call))
    };
    ignores() && ignores()
}

/// What proc_pid_syscall(5) says: the number and the arguments of the call that a process sleeps in.
fn is_waiting_for_signals(call: &str) -> bool {
    call.split(' ').next().and_then(|number| number.parse().ok()) == Some(libc::SYS_rt_sigtimedwait)
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
    fn a_process_in_sigwait_handles_what_it_waits_for() {
        let call = format!("{} 0x7ffd 0x0 0x0 0x8 0x0 0x0 0x7ffc 0x401000", libc::SYS_rt_sigtimedwait);
        assert!(is_waiting_for_signals(&call));
        for other in ["running", "230 0x0 0x0", "-1 0x7ffc 0x401000", ""] {
            assert!(!is_waiting_for_signals(other), "{other}");
        }
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

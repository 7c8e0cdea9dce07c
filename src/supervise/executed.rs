//! Whether a process that was cloned for a container has come to its program.
//!
//! The kernel knows (`PF_FORKNOEXEC`, proc_pid_stat(5) field 9) and tells it of zombies too, so this is asked when the one who was
//! told by the report pipe is dead. The init in front of a program never executes anything; it is known by its name.

use crate::runtime::INIT_NAME;

/// "forked but didn't exec" (linux/sched.h).
const PF_FORKNOEXEC: u64 = 0x40;

/// `pid` must be a child that is not reaped yet. One that cannot be looked at is taken for one that did.
pub fn has_executed(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| is_past_exec(&stat))
}

/// The name may hold spaces and parentheses.
fn is_past_exec(stat: &str) -> bool {
    let Some((before, after)) = stat.rsplit_once(')') else { return true };
    let is_init = before.split_once('(').is_some_and(|(_, name)| name == INIT_NAME);
    let flags = after.split_ascii_whitespace().nth(6).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    is_init || flags & PF_FORKNOEXEC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_never_executed_is_told_from_one_that_did() {
        let stat = |name: &str, flags: u64| format!("7 ({name}) Z 41 1 1 0 -1 {flags} 0 0 0 0 0");
        assert!(is_past_exec(&stat("a) R 9 (b", 0x40_0100)));
        assert!(!is_past_exec(&stat("a) R 9 (b", 0x40_0140)));
        assert!(is_past_exec(&stat(INIT_NAME, 0x40_0140)));
        assert!(has_executed(std::process::id() as i32));
    }
}

//! Whether a process that was cloned for a container has come to its program.
//!
//! The kernel knows (`PF_FORKNOEXEC`, proc_pid_stat(5) field 9) and tells it of zombies too, so this is asked when the one who was
//! told by the report pipe is dead. The init in front of a program never executes anything; it is known by its name.

use super::INIT_NAME;
use crate::sys::stat::{PF_FORKNOEXEC, Stat, stat};

/// `pid` must be its number still: that of a child that is not reaped yet, or one that is looked at again. `None`: it cannot be looked at.
pub fn has_executed(pid: i32) -> Option<bool> {
    stat(pid).map(|found| is_past_exec(&found))
}

fn is_past_exec(found: &Stat) -> bool {
    found.name == INIT_NAME || found.flags & PF_FORKNOEXEC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_never_executed_is_told_from_one_that_did() {
        let found = |name: &str, flags: u64| Stat { name: name.to_owned(), parent: 41, flags, started_ticks: 9 };
        assert!(is_past_exec(&found("a", 0x40_0100)));
        assert!(!is_past_exec(&found("a", 0x40_0140)));
        assert!(is_past_exec(&found(INIT_NAME, 0x40_0140)));
        assert_eq!(has_executed(std::process::id() as i32), Some(true));
    }
}

//! `/proc/PID/stat` (proc_pid_stat(5)), as far as anybody here asks.

/// "Forked but did not exec" (linux/sched.h).
pub const PF_FORKNOEXEC: u64 = 0x40;
/// The process is being taken apart, or ended.
pub const PF_EXITING: u64 = 0x4;

/// What it says of a process, zombies included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Field 2, at most 15 bytes.
    pub name: String,
    /// Field 4.
    pub parent: i32,
    /// Field 9: `PF_…`.
    pub flags: u64,
    /// Field 22: when it started, in clock ticks since boot.
    pub started_ticks: u64,
}

/// `None` if there is none with this number, or nothing can be read of it.
pub fn stat(pid: i32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may hold spaces and parentheses; it ends with the last one.
fn parse(text: &str) -> Option<Stat> {
    let (before, after) = text.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    // From field 3 on.
    let mut fields = after.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let flags = fields.nth(4)?.parse().ok()?;
    let started_ticks = fields.nth(12)?.parse().ok()?;
    Some(Stat { name: name.to_owned(), parent, flags, started_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_nothing() {
        let fields = "Z 41 1 1 0 -1 4227084 0 0 0 0 0 0 0 0 20 0 1 0 98765 0 0";
        let found = parse(&format!("7 (a) R 9 (b)) {fields}"));
        let expected = Stat { name: "a) R 9 (b)".into(), parent: 41, flags: 4_227_084, started_ticks: 98765 };
        assert_eq!(found, Some(expected));
        assert_eq!(parse("7 (a"), None);
        assert_eq!(parse("7 (a) R 9"), None);
    }

    #[test]
    fn this_process_has_executed_a_program_and_has_a_parent() {
        let own = stat(std::process::id() as i32).unwrap();
        assert_eq!(own.flags & (PF_FORKNOEXEC | PF_EXITING), 0);
        assert!(own.parent > 0 && own.started_ticks > 0);
        assert_eq!(stat(-1), None);
    }
}

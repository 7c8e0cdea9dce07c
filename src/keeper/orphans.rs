//! The children a process has right now, as `/proc` shows them: what a dead keeper left to the anchor.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::TEXT_BYTES_MAX;
use super::wire::Orphan;

/// Most processes looked at (the kernel's own limit of pids).
const PROCESSES_MAX: usize = 1 << 22;

/// The children of the calling process, zombies included. Empty where `/proc` is not mounted.
///
/// Not from `/proc/self/task/*/children`: that file needs a kernel option which distributions do not all set.
pub(super) fn children() -> Vec<Orphan> {
    let Some(me) = i32::try_from(std::process::id()).ok() else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.take(PROCESSES_MAX).filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| orphan(pid, me)).collect()
}

fn orphan(pid: i32, parent: i32) -> Option<Orphan> {
    let (ppid, started_ticks) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let cgroups = || fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    (ppid == parent).then(|| Orphan { pid, cgroup: cgroups().and_then(|text| parse_cgroup(&text)), started_ticks })
}

/// When a process started, in clock ticks since boot; `None` if there is none with this number.
pub fn started_ticks(pid: i32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|(_, started)| started)
}

/// Parent and start time (fields 4 and 22 of proc_pid_stat(5)). The name before them may hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<(i32, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let ppid = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some((ppid, started))
}

/// The path in the v2 hierarchy; a zombie has it still, with " (deleted)" behind if the cgroup is gone.
fn parse_cgroup(text: &str) -> Option<String> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    (path.len() <= TEXT_BYTES_MAX).then(|| path.to_owned())
}

/// What a supervisor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// What we run.
    Ours,
    /// What we ran before an upgrade, or were to run after one.
    Earlier,
}

/// Whether `pid` runs one of these programs (device and inode) with the arguments of a supervisor. A zombie does not: its program is gone.
pub(super) fn supervisor(pid: i32, argv: &[CString], earlier: &[(u64, u64)]) -> Option<Program> {
    let identity = |path: &str| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let wanted = argv.iter().flat_map(|arg| arg.to_bytes_with_nul()).copied();
    let found = identity(&format!("/proc/{pid}/exe")).filter(|_| wanted.eq(line))?;
    match identity("/proc/self/exe") == Some(found) {
        true => Some(Program::Ours),
        false => earlier.contains(&found).then_some(Program::Earlier),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_parent() {
        let fields = "Z 41 1 1 0 -1 4227084 0 0 0 0 0 0 0 0 20 0 1 0 98765 0 0";
        assert_eq!(parse_stat(&format!("7 (a) R 9 (b)) {fields}")), Some((41, 98765)));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn the_v2_path_is_found_among_v1_hierarchies() {
        assert_eq!(parse_cgroup("9:pids:/x\n0::/moored/web.3\n").as_deref(), Some("/moored/web.3"));
        assert_eq!(parse_cgroup("9:pids:/x\n"), None);
    }

    #[test]
    fn a_zombie_child_is_found_with_its_cgroup() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = child.id() as i32;
        while crate::sys::wait::peek(crate::sys::wait::Which::Pid(pid)).unwrap().is_none() {
            std::thread::yield_now();
        }
        let found = children().into_iter().find(|orphan| orphan.pid == pid);
        child.wait().unwrap();
        let own = parse_cgroup(&fs::read_to_string("/proc/self/cgroup").unwrap());
        assert_eq!(found.map(|orphan| orphan.cgroup), Some(own));
    }
}

//! The children a process has right now, as `/proc` shows them: what a dead keeper left to the anchor.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::TEXT_BYTES_MAX;
use super::wire::Orphan;
use crate::sys::stat::stat;

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
    let found = stat(pid).filter(|found| found.parent == parent)?;
    let cgroups = || fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    Some(Orphan { pid, cgroup: cgroups().and_then(|text| parse_cgroup(&text)), started_ticks: found.started_ticks })
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

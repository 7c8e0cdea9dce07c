//! Who writes a file: for `ps`, which says whose close is being waited for.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Descriptors looked at in one search: some 100 ms at worst, in a thread that waits for that writer anyway.
const DESCRIPTORS_MAX: usize = 65_536;

/// The lowest process id that has the file open for writing, as far as /proc shows it. A guess for people: the writer may
/// live in another mount namespace, where the path reads differently, or be gone by now.
pub fn find(resolved: &Path) -> Option<u32> {
    let mut budget = DESCRIPTORS_MAX;
    let mut pids: Vec<u32> =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().find(|pid| writes(*pid, resolved, &mut budget))
}

fn writes(pid: u32, resolved: &Path, budget: &mut usize) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    for entry in descriptors.flatten() {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        // The link's text, never the file: stat could hang on a dead server.
        let here = fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str().as_bytes() == resolved.as_os_str().as_bytes());
        let name = entry.file_name();
        if here && name.to_str().is_some_and(|fd| is_for_writing(pid, fd)) {
            return true;
        }
    }
    false
}

/// proc_pid_fdinfo(5): `flags:` is octal; its lowest two bits are the access mode, and O_PATH opens nothing.
fn is_for_writing(pid: u32, fd: &str) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|text| i32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0);
    flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_found_and_a_reader_is_not() {
        let path = std::env::temp_dir().join(format!("moored-writer-{}", std::process::id()));
        let writer = fs::File::create(&path).unwrap();
        assert_eq!(find(&path), Some(std::process::id()));
        drop(writer);
        let reader = fs::File::open(&path).unwrap();
        assert_eq!(find(&path), None);
        drop(reader);
        fs::remove_file(&path).unwrap();
    }
}

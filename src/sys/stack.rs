//! What deep calls leave behind: the pages of a stack that was deeper once stay until the thread ends.

/// Kept below the caller: what it and the call that gives the rest back need themselves.
const KEPT_BYTES: usize = 16 * 1024;

/// Gives back to the system what deeper calls used of the main thread's stack; nothing on another thread. It reads `/proc/self/maps`: for a moment when
/// nobody waits.
pub fn trim() {
    let of_this_frame = 0u8;
    let here = std::ptr::from_ref(std::hint::black_box(&of_this_frame)).addr();
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let Some(bounds) = maps.lines().find(|line| line.ends_with("[stack]")).and_then(bounds) else { return };
    // SAFETY: sysconf(3) takes a number and has no precondition.
    let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(usize::MAX);
    let end = here.saturating_sub(KEPT_BYTES) / page_bytes * page_bytes;
    if !bounds.contains(&here) || end <= bounds.start {
        return;
    }
    let begin = std::ptr::with_exposed_provenance_mut(bounds.start);
    // SAFETY: these whole pages are of this thread's stack and end far below the frame of this function, so nothing lives there: a call that reaches
    // them again begins with what it writes.
    unsafe { libc::madvise(begin, end - bounds.start, libc::MADV_DONTNEED) };
}

/// Of a line of proc_pid_maps(5).
fn bounds(line: &str) -> Option<std::ops::Range<usize>> {
    let (begin, end) = line.split_once(' ')?.0.split_once('-')?;
    Some(usize::from_str_radix(begin, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_has_its_bounds() {
        let line = "7ffd1000-7ffd3000 rw-p 00000000 00:00 0                          [stack]";
        assert_eq!(bounds(line), Some(0x7ffd_1000..0x7ffd_3000));
        assert_eq!(bounds("none"), None);
    }

    #[test]
    fn what_runs_goes_on() {
        // Tests run on threads of their own: the main thread's stack is another one.
        let before = [7u8; 100];
        trim();
        assert_eq!(std::hint::black_box(before), [7; 100]);
    }
}

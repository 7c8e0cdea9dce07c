//! Local time, from the host's own /etc/localtime.

/// Seconds east of UTC at this moment (seconds since 1970); 0 if it cannot be told. localtime_r(3) reads a file and asks no name service.
pub fn offset_s(unix_s: i64) -> i64 {
    let time: libc::time_t = unix_s;
    // SAFETY: all zeroes is a valid tm, to be overwritten.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values; the result is `&parts` or null.
    let told = unsafe { !libc::localtime_r(&raw const time, &raw mut parts).is_null() };
    if told { parts.tm_gmtoff } else { 0 }
}

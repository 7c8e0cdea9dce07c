//! The local zone's distance from UTC: localtime_r(3), which reads `TZ` or /etc/localtime and no NSS. glibc reads the zone at the
//! first call; POSIX would ask for tzset(3) before.

/// Seconds east of UTC at a time in seconds since 1970; 0 where the zone or the year is beyond what the C library knows.
pub fn offset_s(seconds: i64) -> i64 {
    let mut broken_down = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right types, the second one writable; zeroes are a valid `tm`, so it is initialised
    // also where the call fails. Nothing in this program sets `TZ`, which the call may read.
    let tm = unsafe {
        libc::localtime_r(&seconds, broken_down.as_mut_ptr());
        broken_down.assume_init()
    };
    tm.tm_gmtoff
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_zone_is_a_day_away() {
        for seconds in [0, 1_767_614_400, i64::MAX] {
            assert!(super::offset_s(seconds).abs() < 86_400);
        }
    }
}

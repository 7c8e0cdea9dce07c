//! The hardware's watchdog (Documentation/watchdog/watchdog-api.rst).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// WDIOC_SETTIMEOUT: `_IOWR('W', 6, int)`.
const SET_TIMEOUT: u64 = 0xc004_5706;
/// WDIOC_GETTIMEOUT: `_IOR('W', 7, int)`.
const GET_TIMEOUT: u64 = 0x8004_5707;

/// Asks for a timeout in whole seconds; returns the one that is in force then, which may be another.
pub fn set_timeout(device: &impl AsFd, timeout: Duration) -> io::Result<Duration> {
    let wanted = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
    let seconds = call(device, SET_TIMEOUT, wanted).or_else(|_| call(device, GET_TIMEOUT, wanted))?;
    Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)))
}

fn call(device: &impl AsFd, request: u64, mut seconds: i32) -> io::Result<i32> {
    // SAFETY: both requests read or write one int, which outlives the call.
    let done = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), request as _, &raw mut seconds) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(seconds) }
}

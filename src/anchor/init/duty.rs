//! What process 1 keeps an eye on while it waits: how long a stop takes, the watchdog, and the last known time.
//!
//! - The first signal counts. From then on the units have `stop_timeout` in all, whatever their own timeouts are and however they extend them.
//! - The watchdog is petted three times in its time. A supervisor that was seen at two looks in a row, the same one, is there; when none was for
//!   [`ABSENCE_NS`] the petting ends, and the hardware resets the machine. During a stop it goes on: the stop has its own end.
//! - The last known time is written when something happens anyway, by a child: a disk that hangs must not hold process 1.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Timestamps, UTIME_NOW, utimensat};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::order::Order;
use super::{console, helper};
use crate::keeper::now_ns;
use crate::keeper::process1::{WatchRecord, WatchdogRecord};
use crate::keeper::state::{Bytes, Inherited, Passed, path_of};
use crate::sys::watchdog;

/// Without a supervisor for so long, the machine is reset.
const ABSENCE_NS: u64 = 300_000_000_000;
/// The last known time is written this often at most.
const CLOCK_EVERY_NS: u64 = 600_000_000_000;
/// How often a watchdog is petted in its time.
const PETS: u64 = 3;
/// Where the watchdog is.
const WATCHDOG: &str = "/dev/watchdog";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watch {
    order: Option<Order>,
    stop_timeout_ns: Option<u64>,
    stop_by_ns: Option<u64>,
    watchdog: Option<Watchdog>,
    clock: Option<PathBuf>,
    clock_at_ns: u64,
}

#[derive(Debug)]
struct Watchdog {
    device: File,
    every_ns: u64,
    /// `None`: it is not petted any more.
    next_ns: Option<u64>,
    seen: (Option<i32>, u32),
    well_ns: u64,
}

impl Watch {
    /// With what init.toml says; in a namespace nothing is asked for.
    pub fn begin(&mut self, stop_timeout: Duration, clock: Option<&Path>) {
        self.stop_timeout_ns = Some(u64::try_from(stop_timeout.as_nanos()).unwrap_or(u64::MAX));
        self.clock = clock.map(Path::to_owned);
        self.clock_at_ns = now_ns();
    }

    /// Opens the watchdog. `Err` says why there is none.
    pub fn guard(&mut self, timeout: Duration) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("watchdog {WATCHDOG}: {error}");
        let mut device = File::options().write(true).open(WATCHDOG).map_err(failed)?;
        let granted = match watchdog::set_timeout(&device, timeout) {
            Ok(granted) => granted,
            Err(error) => {
                // Opening it has armed it already.
                let _ = device.write_all(b"V");
                return Err(failed(error));
            }
        };
        let every_ns = u64::try_from(granted.as_nanos()).unwrap_or(u64::MAX).checked_div(PETS).unwrap_or(u64::MAX);
        let now = now_ns();
        self.watchdog = Some(Watchdog { device, every_ns, next_ns: Some(now), seen: (None, 0), well_ns: now });
        Ok(())
    }

    /// What the machine is to do, once it was said.
    pub fn order(&self) -> Option<Order> {
        self.order
    }

    /// Whether the units had all the time that there was.
    pub fn is_late(&self, now_ns: u64) -> bool {
        self.stop_by_ns.is_some_and(|by| by <= now_ns)
    }

    /// Says it where no signal did.
    pub fn set_order(&mut self, order: Order) {
        self.order.get_or_insert(order);
    }

    /// Pets the watchdog whatever the supervisor does: during boot and shutdown, which have their own ends.
    pub fn pet(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.pet(now_ns());
        }
    }

    /// When it is to be petted next.
    pub fn pet_at_ns(&self) -> Option<u64> {
        self.watchdog.as_ref()?.next_ns
    }

    /// Switches the watchdog off: a machine that is halted stays so.
    pub fn disarm(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            let _ = watchdog.device.write_all(b"V");
        }
    }

    /// Where the last known time is.
    pub fn clock(&self) -> Option<&Path> {
        self.clock.as_deref()
    }

    /// For the next program of this process.
    pub fn record<'fd>(&'fd self, passed: &mut Passed<'fd>) -> WatchRecord {
        let watchdog = self.watchdog.as_ref().map(|watchdog| WatchdogRecord {
            fd: passed.pass(watchdog.device.as_fd()),
            every_ns: watchdog.every_ns,
            next_ns: watchdog.next_ns,
            seen: watchdog.seen,
            well_ns: watchdog.well_ns,
        });
        WatchRecord {
            order: self.order.map(Order::signal),
            stop_timeout_ns: self.stop_timeout_ns,
            stop_by_ns: self.stop_by_ns,
            watchdog,
            clock: self.clock.as_ref().map(|clock| Bytes(clock.as_os_str().as_bytes().to_vec())),
            clock_at_ns: self.clock_at_ns,
        }
    }

    /// From the program before. A watchdog that is not there any more is not petted: it resets the machine.
    pub fn resumed(record: WatchRecord) -> Watch {
        let WatchRecord { order, stop_timeout_ns, stop_by_ns, watchdog, clock, clock_at_ns } = record;
        let taken = watchdog.and_then(|record| Some((Inherited::default().take(record.fd).ok()?, record)));
        let watchdog = taken.map(|(device, WatchdogRecord { every_ns, next_ns, seen, well_ns, .. })| Watchdog {
            device: device.into(),
            every_ns,
            next_ns,
            seen,
            well_ns,
        });
        let order = order.map(Order::of_signal);
        Watch { order, stop_timeout_ns, stop_by_ns, watchdog, clock: clock.map(path_of), clock_at_ns }
    }

    fn write_clock(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.clock_at_ns) < CLOCK_EVERY_NS {
            return;
        }
        self.clock_at_ns = now_ns;
        if let Some(clock) = self.clock.clone() {
            let _ = helper::start(move || {
                touch(&clock);
                0
            });
        }
    }
}

impl Watch {
    /// See [`crate::keeper::Duty`].
    pub fn due_ns(&self) -> Option<u64> {
        [self.stop_by_ns, self.pet_at_ns()].into_iter().flatten().min()
    }

    /// The same.
    pub fn signalled(&mut self, signal: u32) {
        let order = Order::of_signal(i32::try_from(signal).unwrap_or(0));
        self.set_order(order);
        if self.stop_by_ns.is_none() {
            self.stop_by_ns = self.stop_timeout_ns.map(|timeout| now_ns().saturating_add(timeout));
        }
    }

    /// The same.
    pub fn round(&mut self, now_ns: u64, supervisor: (Option<i32>, u32)) -> bool {
        self.write_clock(now_ns);
        let stopping = self.order.is_some();
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.look(now_ns, supervisor, stopping);
        }
        self.is_late(now_ns)
    }
}

impl Watchdog {
    fn look(&mut self, now_ns: u64, supervisor: (Option<i32>, u32), stopping: bool) {
        if self.next_ns.is_none_or(|next| now_ns < next) {
            return;
        }
        if supervisor.0.is_some() && supervisor == self.seen {
            self.well_ns = now_ns;
        }
        self.seen = supervisor;
        if stopping || now_ns.saturating_sub(self.well_ns) < ABSENCE_NS {
            self.pet(now_ns);
        } else {
            self.next_ns = None;
            console::say("the supervisor could not be brought back for five minutes: the watchdog resets the machine");
        }
    }

    fn pet(&mut self, now_ns: u64) {
        let _ = self.device.write_all(b"\0");
        self.next_ns = Some(now_ns.saturating_add(self.every_ns));
    }
}

/// Makes the file as old as now.
pub(super) fn touch(clock: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    if utimensat(CWD, clock, &times, rustix::fs::AtFlags::empty()).is_err() {
        if let Some(parent) = clock.parent() {
            super::early::make_directory(parent, 0o755);
        }
        let _ = File::options().create(true).append(true).open(clock);
    }
}

/// Sets the machine's time forward to the last known one, never back. Says so if it did.
pub(super) fn set_clock(clock: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let known = std::fs::metadata(clock).ok()?.mtime();
    if known <= clock_gettime(ClockId::Realtime).tv_sec {
        return None;
    }
    match clock_settime(ClockId::Realtime, Timespec { tv_sec: known, tv_nsec: 0 }) {
        Ok(()) => None,
        Err(errno) => Some(format!("setting the clock to the last known time, that of {}: {errno}", clock.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn watchdog(name: &str) -> (Watchdog, PathBuf) {
        let path = std::env::temp_dir().join(format!("moored-{name}-{}", std::process::id()));
        let device = File::create(&path).unwrap();
        (Watchdog { device, every_ns: 10 * SECOND, next_ns: Some(0), seen: (None, 0), well_ns: 0 }, path)
    }

    fn pets(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().len()
    }

    #[test]
    fn a_supervisor_that_stays_is_petted_for() {
        let (mut watchdog, path) = watchdog("stays");
        for look in 0..100 {
            watchdog.look(look * 10 * SECOND, (Some(7), 1), false);
        }
        watchdog.look(5, (Some(7), 1), false);
        assert_eq!(pets(&path), 100);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn five_minutes_without_one_end_it_and_a_stop_does_not() {
        for (stopping, expected) in [(false, 30), (true, 60)] {
            let (mut watchdog, path) = watchdog(if stopping { "stop" } else { "gone" });
            for look in 0..60 {
                // Another one at each look: none stays.
                watchdog.look(look * 10 * SECOND, (Some(7), look as u32), stopping);
            }
            assert_eq!((pets(&path), watchdog.next_ns.is_some()), (expected, stopping));
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn the_first_order_counts_and_its_time_is_not_extended() {
        let mut watch = Watch::default();
        watch.begin(Duration::from_secs(90), None);
        assert_eq!(watch.due_ns(), None);
        watch.signalled(crate::sys::signal::SIGUSR2 as u32);
        let due = watch.due_ns().unwrap();
        watch.signalled(crate::sys::signal::SIGINT as u32);
        assert_eq!((watch.order(), watch.due_ns()), (Some(Order::Poweroff), Some(due)));
        assert!(!watch.round(due - 1, (None, 0)) && watch.round(due, (None, 0)));
    }
}

//! How long to wait: between two starts, and between two tries at something that does not give way.
//!
//! After a run of at least `reset_after` the next start is immediate; the time before a service said that it is ready (`process.notify`) is no
//! part of it, and one whose startup check failed has not run. After `n` shorter runs in a row it waits
//! `delay * 2^(n-1)`, at most `max_delay`, plus up to 10 % so that units that fell together do not rise together. The jitter
//! is a hash of the generation that ended, hence the same each time it is asked for: the deadline needs no memory of
//! its own, and a crash of the supervisor cannot shorten it. It counts from the end of the run, on the boot clock.
//!
//! The limit counts as systemd's StartLimitBurst does: an interval begins with a start and counts those that follow; when
//! the count is full and the next start would still fall into the interval, the unit has given up.

use std::time::Duration;

use super::exit::ExitRecord;
use super::observed::{Backoff, Run};
use super::time::BootTime;
use crate::unit::{ContainerId, Restart};

impl Backoff {
    /// Takes in a run that is over. One that was stopped is no failure, but if it was long enough, it ends the row.
    pub(super) fn count(&mut self, run: &Run, ran_well_for: Duration, was_stopped: bool) {
        if self.fingerprint != run.fingerprint {
            *self = Backoff { fingerprint: run.fingerprint, ..Backoff::default() };
        }
        if ran_well_for >= run.reset_after {
            self.short_runs = 0;
        } else if !was_stopped {
            self.short_runs = self.short_runs.saturating_add(1);
        }
        let Some(interval) = run.limit_interval.filter(|_| !was_stopped) else { return };
        if self.window_starts == 0 || run.begun >= self.window_since.after(interval) {
            (self.window_since, self.window_starts) = (run.begun, 0);
        }
        self.window_starts = self.window_starts.saturating_add(1);
    }

    /// When the policy's next start after `last` is due.
    pub(super) fn next_at(&self, restart: &Restart, last: &ExitRecord) -> BootTime {
        match self.short_runs.checked_sub(1) {
            None => last.at,
            Some(doublings) => {
                let wait = doubled(restart.delay, doublings, restart.max_delay);
                last.at.after(wait.saturating_add(jitter(wait, &last.id)))
            }
        }
    }

    /// Whether a start at `next_at` would be one too many.
    pub(super) fn is_spent(&self, restart: &Restart, next_at: BootTime) -> bool {
        restart
            .limit
            .is_some_and(|limit| self.window_starts >= limit.burst && next_at < self.window_since.after(limit.interval))
    }
}

/// `first * 2^times`, at most `most`.
pub(super) fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    let factor = 1u32.checked_shl(times).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(most)
}

/// Up to a tenth of `wait`, always the same for one generation.
fn jitter(wait: Duration, id: &ContainerId) -> Duration {
    let thousandths = hash(id) % 1000;
    (wait / 10_000).saturating_mul(thousandths as u32)
}

/// FNV-1a, 64 bits, over the name and the generation.
fn hash(id: &ContainerId) -> u64 {
    let bytes = id.unit.as_str().bytes().chain(id.generation.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

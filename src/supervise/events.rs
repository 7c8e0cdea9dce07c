//! What happened, for `moored events`: a bounded ring in memory, and those who follow it.

use std::collections::VecDeque;

use crate::control::protocol::Event;

/// Events kept; at some 200 bytes each well under the supervisor's memory budget.
const KEPT_MAX: usize = 512;

/// The newest [`KEPT_MAX`] events, oldest first.
#[derive(Debug, Default)]
pub struct Events {
    kept: VecDeque<Event>,
}

impl Events {
    /// Adds one; the oldest goes when the ring is full.
    pub fn push(&mut self, event: Event) {
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(event);
    }

    /// Whether there is any about this unit.
    pub fn are_about(&self, unit: &str) -> bool {
        self.kept.iter().any(|event| event.unit.as_deref() == Some(unit))
    }

    /// Those at or after `since_ms`, of these units (empty: all).
    pub fn select<'a>(&'a self, since_ms: Option<u64>, units: &'a [String]) -> impl Iterator<Item = &'a Event> {
        self.kept.iter().filter(move |event| event.time >= since_ms.unwrap_or(0) && concerns(event, units))
    }
}

/// Whether somebody who asked for these units (empty: all) is to see the event.
pub fn concerns(event: &Event, units: &[String]) -> bool {
    units.is_empty() || event.unit.as_ref().is_some_and(|unit| units.contains(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time: u64, unit: &str) -> Event {
        Event { time, unit: Some(unit.to_owned()), ..Event::default() }
    }

    #[test]
    fn the_ring_keeps_the_newest() {
        let mut events = Events::default();
        (0..KEPT_MAX as u64 + 3).for_each(|time| events.push(event(time, "a")));
        assert_eq!(events.select(None, &[]).count(), KEPT_MAX);
        assert_eq!(events.select(None, &[]).next().map(|e| e.time), Some(3));
    }

    #[test]
    fn selection_is_by_time_and_unit() {
        let mut events = Events::default();
        events.push(event(1, "a"));
        events.push(event(2, "b"));
        assert_eq!(events.select(Some(2), &[]).count(), 1);
        assert_eq!(events.select(None, &["a".to_owned()]).count(), 1);
    }
}

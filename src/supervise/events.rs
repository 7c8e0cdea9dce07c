//! What happened, for `moored events` and `why`: the newest in memory, and those who follow.
//!
//! Every event has a number that goes on across restarts, and where it is known the number of the event that led to it:
//!
//! | what | led to by the newest of |
//! |---|---|
//! | a start, or a failed one | the end before it, a client's wish, a text that came into force, a rollback, a begin with nothing running |
//! | stopping | a client's wish, a text that came into force or went, the end of everything, a check that failed |
//! | a start beside a container that runs | a client's wish, a text that came into force, the end of the try before it |
//! | taking over | the new container's start, a check that passed, its word, the end of the old one |
//! | killing | stopping |
//! | an end | stopping, killing, a client's signal, else its start |
//! | a rollback | the end before it, a check that failed, the text |
//! | other limits, swapped contents | a text or contents that came into force |
//! | a reload | a client's wish, swapped contents |
//! | adopted | the supervisor's return |
//!
//! The state-dir has more of them (`store/history`). In both a unit that flaps pushes out its own past first.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use crate::compact;
use crate::control::protocol::Event;

/// Events kept; at some 250 bytes each well under the supervisor's memory budget.
const KEPT_MAX: usize = 512;

/// Of an event's text: `status` has all the errors of a unit file.
const TEXT_MAX_BYTES: usize = 2048;

/// The newest events, oldest first: at most [`KEPT_MAX`].
#[derive(Debug, Default)]
pub struct Events {
    /// With their places in the order in which they came.
    kept: VecDeque<(u64, Event)>,
    came: u64,
    /// Of each unit, and of none.
    shares: HashMap<Option<String>, Share>,
    last: u64,
}

/// What is kept of one unit's events.
#[derive(Debug)]
struct Share {
    count: usize,
    /// The place of the oldest.
    oldest: u64,
}

impl Events {
    /// Goes on from what an earlier supervisor wrote down.
    pub fn restore(&mut self, earlier: Vec<Event>) {
        earlier.into_iter().for_each(|event| self.push(event));
    }

    /// Gives it the next number, and its cause; cuts a text that is too long.
    pub fn link(&self, mut event: Event) -> Event {
        let end = (0..=TEXT_MAX_BYTES).rev().find(|end| event.text.is_char_boundary(*end)).unwrap_or(0);
        if event.text.len() > TEXT_MAX_BYTES {
            event.text.truncate(end);
            event.text.push('…');
        }
        Event { number: self.last + 1, cause: self.cause_of(&event), ..event }
    }

    /// Keeps one. When it is one too many, the oldest goes of what there is most of.
    pub fn push(&mut self, event: Event) {
        self.last = self.last.max(event.number);
        if self.kept.len() == KEPT_MAX {
            self.make_room();
        }
        self.came += 1;
        let new = Share { count: 0, oldest: self.came };
        self.shares.entry(event.unit.clone()).or_insert(new).count += 1;
        self.kept.push_back((self.came, event));
    }

    fn make_room(&mut self) {
        let most = self.shares.values().max_by_key(|share| (share.count, Reverse(share.oldest)));
        let Some(oldest) = most.map(|share| share.oldest) else { return };
        let place = self.kept.partition_point(|(came, _)| *came < oldest);
        let Some((_, gone)) = self.kept.remove(place) else { return };
        let next = self.kept.range(place..).find(|(_, event)| event.unit == gone.unit).map(|(came, _)| *came);
        match (next, self.shares.get_mut(&gone.unit)) {
            (Some(next), Some(share)) => *share = Share { count: share.count - 1, oldest: next },
            _ => drop(self.shares.remove(&gone.unit)),
        }
    }

    fn cause_of(&self, event: &Event) -> Option<u64> {
        let unit = event.unit.as_deref()?;
        let causes = causes(&event.what);
        if causes.is_empty() {
            return None;
        }
        let leads = |earlier: &&Event| {
            earlier.unit.as_deref().is_none_or(|of| of == unit) && causes.contains(&earlier.what.as_str())
        };
        self.events().rev().find(leads).map(|earlier| earlier.number).filter(|number| *number > 0)
    }

    /// Whether there is any about this unit.
    pub fn are_about(&self, unit: &str) -> bool {
        self.events().any(|event| event.unit.as_deref() == Some(unit))
    }

    /// Those at or after `since_ms`, of these units (empty: all).
    pub fn select<'a>(&'a self, since_ms: Option<u64>, units: &'a [String]) -> impl Iterator<Item = &'a Event> {
        self.events().filter(move |event| event.time >= since_ms.unwrap_or(0) && concerns(event, units))
    }

    /// All that are kept.
    pub fn all(&self) -> Vec<Event> {
        self.events().cloned().collect()
    }

    fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.kept.iter().map(|(_, event)| event)
    }
}

/// What may lead to an event of this kind.
fn causes(what: &str) -> &'static [&'static str] {
    match what {
        "started" | "start-failed" | "never-started" => &[
            "exited",
            "lost",
            "start-failed",
            "never-started",
            "asked",
            "added",
            "changed",
            "begun",
            "rolled-back",
            "beside",
        ],
        "beside" => &["exited", "lost", "start-failed", "never-started", "asked", "changed", "rolled-back"],
        "took-over" => &["started", "check-passed", "ready", "exited", "lost"],
        "stopping" => &[
            "held",
            "asked",
            "changed",
            "removed",
            "confirmed",
            "shutdown",
            "check-failed",
            "rolled-back",
            "took-over",
        ],
        "rolled-back" => &["exited", "lost", "start-failed", "check-failed", "changed"],
        "killing" => &["stopping"],
        "exited" | "lost" => &["stopping", "killing", "signalled", "started"],
        "adopted" => &["resumed"],
        "limited" | "swapped" => &["changed"],
        "reloaded" => &["reload-asked", "swapped"],
        _ => &[],
    }
}

/// Those on disk and those in memory, each once, oldest first.
pub fn merge(stored: Vec<Event>, kept: Vec<Event>) -> Vec<Event> {
    let mut met: std::collections::HashSet<u64> = std::collections::HashSet::new();
    let mut all: Vec<Event> =
        stored.into_iter().chain(kept).filter(|event| event.number == 0 || met.insert(event.number)).collect();
    compact::sort_by_key(&mut all, |event| event.number);
    all
}

/// Whether somebody who asked for these units (empty: all) is to see the event.
pub fn concerns(event: &Event, units: &[String]) -> bool {
    units.is_empty() || event.unit.as_ref().is_some_and(|unit| units.contains(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time: u64, unit: &str) -> Event {
        Event { time, number: time, unit: Some(unit.to_owned()), ..Event::default() }
    }

    #[test]
    fn the_newest_are_kept() {
        let mut events = Events::default();
        (0..KEPT_MAX as u64 + 3).for_each(|time| events.push(event(time, "a")));
        assert_eq!(events.select(None, &[]).count(), KEPT_MAX);
        assert_eq!(events.select(None, &[]).next().map(|e| e.time), Some(3));
    }

    #[test]
    fn a_unit_that_flaps_pushes_out_itself() {
        let mut events = Events::default();
        events.push(event(1, "quiet"));
        (2..5000).for_each(|time| events.push(event(time, "flaps")));
        assert!(events.are_about("quiet"));
        assert_eq!(events.select(None, &[]).count(), KEPT_MAX);
    }

    #[test]
    fn of_equal_shares_the_oldest_goes_first() {
        let mut events = Events::default();
        (0..KEPT_MAX as u64).for_each(|time| events.push(event(time, ["a", "b", "c", "d"][time as usize % 4])));
        (0..8).for_each(|time| events.push(event(1000 + time, "e")));
        let left: Vec<u64> = events.select(None, &[]).take(3).map(|event| event.time).collect();
        assert_eq!(left, [8, 9, 10]);
        assert_eq!(events.shares.values().map(|share| share.count).sum::<usize>(), KEPT_MAX);
    }

    #[test]
    fn selection_is_by_time_and_unit() {
        let mut events = Events::default();
        events.push(event(1, "a"));
        events.push(event(2, "b"));
        assert_eq!(events.select(Some(2), &[]).count(), 1);
        assert_eq!(events.select(None, &["a".to_owned()]).count(), 1);
    }

    #[test]
    fn each_event_names_the_one_that_led_to_it() {
        let mut events = Events::default();
        let mut causes = Vec::new();
        for what in ["added", "started", "exited", "started", "asked", "stopping", "killing", "exited", "started"] {
            let linked = events.link(Event { what: what.to_owned(), ..event(0, "a") });
            causes.push(linked.cause);
            events.push(linked);
        }
        let expected = [None, Some(1), Some(2), Some(3), None, Some(5), Some(6), Some(7), Some(8)];
        assert_eq!(causes, expected);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = Event { text: "ä".repeat(5000), ..Event::default() };
        let cut = Events::default().link(long).text;
        assert!(cut.ends_with("ä…") && cut.len() <= TEXT_MAX_BYTES + 3);
    }

    #[test]
    fn numbers_go_on_and_what_is_on_disk_and_in_memory_is_shown_once() {
        let mut events = Events::default();
        events.restore(vec![event(6, "a"), event(7, "a")]);
        assert_eq!(events.link(event(0, "a")).number, 8);
        let numbers: Vec<u64> = merge(vec![event(6, "a"), event(7, "a")], vec![event(7, "a"), event(8, "a")])
            .iter()
            .map(|e| e.number)
            .collect();
        assert_eq!(numbers, [6, 7, 8]);
    }
}

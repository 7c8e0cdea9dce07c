//! What led to what a unit is doing now. Pure: its row of `ps` and all events in, the chain out.
//!
//! The chain begins at what decides the present: for a unit that runs the start of its container, else the newest event that has, or can
//! be, a cause. From there it goes back from cause to cause, and forward through what happened to the unit since. A crash
//! loop is told by its beginning and its newest end; how many ends are between is counted.

use std::collections::HashMap;

use crate::control::protocol::{Account, Event, Link, UnitReport};

/// Steps from cause to cause; a crash loop may be as long as the history.
const STEPS_MAX: usize = 4096;

/// Events since the one that decides the present.
const SINCE_MAX: usize = 8;

/// Links of a loop that are shown at each of its ends.
const LOOP_ENDS: usize = 3;

/// Kinds of events that can decide the present of a unit that does not run.
const DECIDING: [&str; 12] = [
    "started",
    "exited",
    "lost",
    "start-failed",
    "never-started",
    "held",
    "stopping",
    "killing",
    "removed",
    "added",
    "changed",
    "asked",
];

/// The account of `now`, from events in the order of their numbers.
pub fn account(now: UnitReport, errors: Vec<String>, events: &[Event]) -> Account {
    let of_unit = |event: &&Event| event.unit.as_deref() == Some(now.unit.as_str());
    let Some(root) = root(&now, events) else {
        let newest: Vec<Event> = events.iter().rev().filter(of_unit).take(SINCE_MAX).cloned().collect();
        return Account { now, chain: newest.into_iter().rev().map(alone).collect(), errors, cut: false };
    };
    let by_number: HashMap<u64, &Event> = events.iter().map(|event| (event.number, event)).collect();
    let mut back = vec![root];
    let mut cut = false;
    while let Some(cause) = back.last().and_then(|event| event.cause).filter(|_| back.len() < STEPS_MAX) {
        match by_number.get(&cause) {
            Some(event) => back.push(event),
            None => {
                cut = true;
                break;
            }
        }
    }
    back.reverse();
    let mut chain = fold(&back);
    // A container that ran all the while saw supervisors go and come.
    let is_resumed = |event: &Event| is_running(&now) && event.what == "resumed";
    let later = events.iter().filter(|event| event.number > root.number);
    let since: Vec<&Event> = later.filter(|event| of_unit(event) || is_resumed(event)).collect();
    let left_out = since.len().saturating_sub(SINCE_MAX);
    if let Some(last) = chain.last_mut() {
        last.left_out = left_out as u64;
    }
    chain.extend(since.into_iter().skip(left_out).cloned().map(alone));
    Account { now, chain, errors, cut }
}

fn root<'e>(now: &UnitReport, events: &'e [Event]) -> Option<&'e Event> {
    let of_unit = |event: &&Event| event.unit.as_deref() == Some(now.unit.as_str());
    let newest =
        |kinds: &[&str]| events.iter().rev().filter(of_unit).find(|event| kinds.contains(&event.what.as_str()));
    if is_running(now) {
        // Of a unit's two containers the one that is the unit's.
        let generation = now.id.as_deref().and_then(|id| id.rsplit_once('.')?.1.parse().ok());
        let is_own = |event: &&Event| event.what == "started" && event.generation == generation;
        let own = events.iter().rev().filter(of_unit).find(is_own).filter(|_| generation.is_some());
        return own.or_else(|| newest(&["started"])).or_else(|| newest(&["adopted"]));
    }
    newest(&DECIDING)
}

fn is_running(now: &UnitReport) -> bool {
    now.phase == "running" || now.phase == "ready"
}

/// What is between the first and the newest ends of a loop is counted.
fn fold(events: &[&Event]) -> Vec<Link> {
    if events.len() <= 4 * LOOP_ENDS {
        return events.iter().map(|event| alone((*event).clone())).collect();
    }
    let (begin, rest) = events.split_at(LOOP_ENDS);
    let (middle, end) = rest.split_at(rest.len() - LOOP_ENDS);
    let mut chain: Vec<Link> = begin.iter().map(|event| alone((*event).clone())).collect();
    if let Some(last) = chain.last_mut() {
        last.left_out = middle.len() as u64;
    }
    chain.extend(end.iter().map(|event| alone((*event).clone())));
    chain
}

fn alone(event: Event) -> Link {
    Link { event, left_out: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, what: &str, cause: Option<u64>) -> Event {
        Event { number, what: what.to_owned(), cause, unit: Some("web".to_owned()), ..Event::default() }
    }

    fn now(phase: &str) -> UnitReport {
        UnitReport { unit: "web".to_owned(), phase: phase.to_owned(), ..UnitReport::default() }
    }

    fn told(phase: &str, events: &[Event]) -> Vec<(u64, u64)> {
        let account = account(now(phase), Vec::new(), events);
        account.chain.iter().map(|link| (link.event.number, link.left_out)).collect()
    }

    #[test]
    fn an_edit_is_told_from_the_text_to_the_new_container() {
        let events = [
            event(1, "added", None),
            event(2, "started", Some(1)),
            event(3, "changed", None),
            event(4, "stopping", Some(3)),
            event(5, "exited", Some(4)),
            event(6, "started", Some(5)),
            event(7, "invalid", None),
        ];
        assert_eq!(told("running", &events), [(3, 0), (4, 0), (5, 0), (6, 0), (7, 0)]);
    }

    #[test]
    fn a_stop_is_told_with_who_asked() {
        let events = [event(1, "held", None), event(2, "stopping", Some(1)), event(3, "exited", Some(2))];
        assert_eq!(told("stopped", &events), [(1, 0), (2, 0), (3, 0)]);
    }

    #[test]
    fn a_crash_loop_is_told_by_its_ends() {
        let mut events = vec![event(1, "added", None)];
        (2..=101).for_each(|n| events.push(event(n, if n % 2 == 0 { "started" } else { "exited" }, Some(n - 1))));
        assert_eq!(told("backoff", &events), [(1, 0), (2, 0), (3, 95), (99, 0), (100, 0), (101, 0)]);
    }

    #[test]
    fn a_cause_that_is_not_kept_is_said() {
        assert!(account(now("running"), Vec::new(), &[event(9, "started", Some(3))]).cut);
        assert_eq!(account(now("waiting"), Vec::new(), &[]).chain, []);
    }
}

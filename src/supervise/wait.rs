//! Clients that wait for something to become true: looked at after each round, never polled.
//!
//! Pure: what is known in, an answer or nothing out.

use crate::plan::{HealthStatus, Live, Observed, Phase, Reason, Reloading, Seen, State, Status};
use crate::unit::Kind;

/// What a client waits for, of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// `moored stop`: nothing of it is left.
    Stopped,
    /// `moored start`: a service runs, and is ready if it has checks; a oneshot has completed.
    Up,
    /// `moored restart`: a generation after this one is up.
    Newer(u64),
    /// `moored reload`: it was told, and has said that it is ready again if it tells such things.
    Reloaded,
    /// `moored sync`: it is as its file says, and a new text has done well.
    Converged,
}

/// How far one unit is from a goal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not there, and it may still get there by itself.
    Pending,
    /// There.
    Reached(String),
    /// It will not get there, or is in trouble on the way: why.
    Missed(String),
}

/// Looks at one unit. A oneshot that runs is on its way.
pub fn judge(goal: &Goal, kind: Kind, seen: Option<&Seen>, status: &Status, words: &str) -> Verdict {
    let live = seen.and_then(|seen| seen.live.as_ref());
    match goal {
        Goal::Stopped => match (live, status.phase) {
            (None, _) if seen.is_some_and(|seen| !seen.sockets.is_empty()) => Verdict::Pending,
            (None, _) => Verdict::Reached("stopped".to_owned()),
            (Some(_), Phase::Stuck) => Verdict::Missed(words.to_owned()),
            (Some(_), _) => Verdict::Pending,
        },
        Goal::Up => up(kind, live, status, words),
        Goal::Newer(old) => match live {
            Some(live) if live.id.generation <= *old => still_old(live, seen, status, words),
            Some(_) | None => up(kind, live, status, words),
        },
        Goal::Reloaded => match live {
            Some(live) if live.reload.is_some() => Verdict::Pending,
            Some(_) => match (seen.and_then(|seen| seen.trouble.clone()), status.reloading) {
                (Some(trouble), _) => Verdict::Missed(trouble),
                (None, Reloading::Awaited(_)) => Verdict::Pending,
                (None, Reloading::Done) => Verdict::Reached("reloaded".to_owned()),
                (None, Reloading::Silent) => {
                    Verdict::Reached("told to reload; it does not say whether it did".to_owned())
                }
                (None, Reloading::Late) => Verdict::Missed("it reloads, and does not say READY=1 again".to_owned()),
            },
            None => Verdict::Missed(words.to_owned()),
        },
        Goal::Converged => match status.phase {
            // Its time comes.
            Phase::Waiting if matches!(status.reason, Reason::Scheduled { .. }) => Verdict::Reached(words.to_owned()),
            Phase::Waiting if status.reason.is_stalled() => Verdict::Missed(words.to_owned()),
            Phase::Waiting | Phase::Starting | Phase::Stopping => Verdict::Pending,
            Phase::Running | Phase::Ready if status.reason.is_stalled() => Verdict::Missed(words.to_owned()),
            Phase::Running | Phase::Ready if is_on_its_way(kind, seen) || is_to_go(live) => Verdict::Pending,
            Phase::Running | Phase::Ready if seen.is_some_and(|seen| seen.beside.is_some()) => Verdict::Pending,
            Phase::Running | Phase::Ready if is_next_awaited(status) => Verdict::Pending,
            Phase::Running | Phase::Ready if live.is_some_and(|live| is_to_be_told(live, seen)) => Verdict::Pending,
            Phase::Running if status.health.is_some() => unwell(status, words),
            Phase::Running | Phase::Ready | Phase::Completed | Phase::Stopped => Verdict::Reached(words.to_owned()),
            Phase::Backoff | Phase::Failed | Phase::Stuck => Verdict::Missed(words.to_owned()),
        },
    }
}

/// One that is to be another one, and in a start-first update runs on until that has done well.
fn still_old(live: &Live, seen: Option<&Seen>, status: &Status, words: &str) -> Verdict {
    let is_under_way = live.restart || !live.is_up() || seen.is_some_and(|seen| seen.beside.is_some());
    let last = seen.and_then(|seen| seen.last.as_ref()).filter(|last| last.id.generation > live.id.generation);
    match last {
        _ if status.reason.is_stalled() => Verdict::Missed(words.to_owned()),
        Some(last) if !is_under_way => {
            Verdict::Missed(format!("the new container did not do well: {}; the old one runs on", last.outcome))
        }
        Some(_) | None => Verdict::Pending,
    }
}

fn is_next_awaited(status: &Status) -> bool {
    matches!(status.reason, Reason::ChangeWaits(_) | Reason::NextWaits(_) | Reason::Turn { .. })
}

fn up(kind: Kind, live: Option<&Live>, status: &Status, words: &str) -> Verdict {
    // It has run, and has its next time.
    if let Reason::Scheduled { last, .. } = &status.reason {
        let is_well = last.as_ref().is_some_and(|(_, outcome)| outcome.is_success());
        return if is_well { Verdict::Reached(words.to_owned()) } else { Verdict::Missed(words.to_owned()) };
    }
    match status.phase {
        Phase::Running | Phase::Ready if kind == Kind::Oneshot || is_to_go(live) => Verdict::Pending,
        Phase::Running if status.health.is_some() => unwell(status, words),
        Phase::Ready => Verdict::Reached("ready".to_owned()),
        Phase::Running => Verdict::Reached("running".to_owned()),
        Phase::Completed => Verdict::Reached(words.to_owned()),
        Phase::Waiting if status.reason.is_stalled() => Verdict::Missed(words.to_owned()),
        Phase::Waiting | Phase::Starting | Phase::Stopping => Verdict::Pending,
        Phase::Backoff | Phase::Failed | Phase::Stopped | Phase::Stuck => Verdict::Missed(words.to_owned()),
    }
}

/// One that is not ready may become so; once that is not to be expected any more, waiting is over.
fn unwell(status: &Status, words: &str) -> Verdict {
    match status.health {
        Some(HealthStatus::Unready) => Verdict::Missed(words.to_owned()),
        _ => Verdict::Pending,
    }
}

/// A oneshot; but those of a schedule run when it is their time, and nobody waits for them.
fn is_on_its_way(kind: Kind, seen: Option<&Seen>) -> bool {
    kind == Kind::Oneshot && seen.is_none_or(|seen| seen.timetable.is_none())
}

fn is_to_go(live: Option<&Live>) -> bool {
    live.is_some_and(|live| live.restart || !matches!(live.state, State::Running { .. }))
}

/// Contents are on their way into it, or a reload; not if that failed.
fn is_to_be_told(live: &Live, seen: Option<&Seen>) -> bool {
    let failed = seen.is_some_and(|seen| seen.trouble.is_some());
    live.reload.is_some() || live.settling.is_some() || live.contents_asked.is_some() && !failed
}

/// Whether nothing at all is left to stop.
pub fn all_stopped(observed: &Observed) -> bool {
    observed.units.values().all(|seen| seen.live.is_none() && seen.sockets.is_empty())
}

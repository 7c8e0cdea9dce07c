//! Hooks of a unit (`[hooks]`) that run around a generation: when each has its turn.
//!
//! ```text
//!            Running        stop wanted, it runs     pre_stop over            end, cgroup empty        post_stop over
//! pre_start ─────────▶ post_start ──────────────▶ pre_stop ──────────▶ signal ─────────────────▶ post_stop ──────────▶ Clear
//! ```
//!
//! - `pre_start` is a part of the start: it runs where the container is made (`runtime`), and one that fails is a start that failed.
//! - `post_start` begins when the program runs, with `process.notify` when it has said that it is ready. Until it is over the generation is not
//!   well; one that fails is a reason to stop it, as a failing check is.
//! - `pre_stop` comes before the stop signal of a generation that ran when the stop began, and only then: one that ended by itself has nothing left
//!   to be told. Whatever becomes of it, the signal follows, at the latest [`GRACE`] after its timeout. The stop timeout counts from there.
//! - `post_stop` begins when nothing is left in the cgroup, after every end that has a record, also of a start that failed; what it leaves in the
//!   cgroup is killed. Only then is the generation cleared, hence never before it is over the next one started (but for the two of a start-first update).
//! - A generation is cleared when every hook of it that was begun is over.
//!
//! Who runs a hook keeps its time: each is answered ([`Fact::HookEnded`](super::Fact)), and one that takes too long is killed. That one has its
//! turn is written down before it begins. After a crash of the supervisor it is asked for again, and whoever has it running, or knows how it
//! ended, answers: so each runs once for each generation, unless keeper and supervisor both die.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::action::Action;
use super::exit::{Exit, ExitRecord, Outcome, shortened};
use super::observed::{Asked, Ended, Live, State, Stopping};
use super::reconcile::Plan;
use super::time::BootTime;
use crate::unit::{HookPoint, Signal, Unit};

/// Whoever is to run a hook has that much longer than its timeout to say that it was killed.
const GRACE: Duration = Duration::from_secs(5);

/// Which hooks a generation has, with their timeouts; part of what it runs by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTimes {
    /// Of `post_start`.
    pub post_start: Option<Duration>,
    /// Of `pre_stop`.
    pub pre_stop: Option<Duration>,
    /// Of `post_stop`.
    pub post_stop: Option<Duration>,
}

/// How far each is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTurns {
    post_start: HookTurn,
    pre_stop: HookTurn,
    post_stop: HookTurn,
}

/// How far one is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTurn {
    asked: Asked,
    begun: Option<BootTime>,
    failure: Option<String>,
}

/// Of a hook that nobody asked for.
static NOT_YET: HookTurn = HookTurn { asked: Asked::No, begun: None, failure: None };

impl HookTimes {
    /// What a text says; `None`: nothing that is run around a generation.
    pub fn of(unit: &Unit) -> Option<Box<HookTimes>> {
        let hooks = unit.hooks.as_deref()?;
        let timeout = |point| hooks.get(point).map(|hook| hook.timeout);
        let times = HookTimes {
            post_start: timeout(HookPoint::PostStart),
            pre_stop: timeout(HookPoint::PreStop),
            post_stop: timeout(HookPoint::PostStop),
        };
        (times != HookTimes::default()).then(|| Box::new(times))
    }
}

impl Live {
    /// The timeout of the hook at this point, if it has one.
    fn hook(&self, point: HookPoint) -> Option<Duration> {
        let times = self.run.hooks.as_deref()?;
        match point {
            HookPoint::PreStart => None,
            HookPoint::PostStart => times.post_start,
            HookPoint::PreStop => times.pre_stop,
            HookPoint::PostStop => times.post_stop,
        }
    }

    fn turn(&self, point: HookPoint) -> &HookTurn {
        match (point, self.hooks.as_deref()) {
            (HookPoint::PreStart, _) | (_, None) => &NOT_YET,
            (HookPoint::PostStart, Some(turns)) => &turns.post_start,
            (HookPoint::PreStop, Some(turns)) => &turns.pre_stop,
            (HookPoint::PostStop, Some(turns)) => &turns.post_stop,
        }
    }

    fn turn_mut(&mut self, point: HookPoint) -> Option<&mut HookTurn> {
        let turns = self.hooks.get_or_insert_default();
        match point {
            HookPoint::PreStart => None,
            HookPoint::PostStart => Some(&mut turns.post_start),
            HookPoint::PreStop => Some(&mut turns.pre_stop),
            HookPoint::PostStop => Some(&mut turns.post_stop),
        }
    }

    fn is_over(&self, point: HookPoint) -> bool {
        self.hook(point).is_none() || self.turn(point).asked == Asked::Done
    }

    /// One that was begun and is not over, as far as is known.
    fn hook_under_way(&self) -> Option<HookPoint> {
        HookPoint::ALL.into_iter().find(|point| self.turn(*point).begun.is_some() && !self.is_over(*point))
    }

    /// One that somebody is to answer for.
    pub(super) fn hook_asked(&self) -> Option<HookPoint> {
        HookPoint::ALL.into_iter().find(|point| self.turn(*point).asked == Asked::InFlight)
    }

    /// The one that its end waits for.
    pub(super) fn hook_at_end(&self) -> Option<HookPoint> {
        self.hook_under_way().filter(|_| matches!(self.state, State::Ended(_)))
    }

    /// Marks it as begun. One that is asked for again after a crash may not have run at all: it has its whole time from now.
    pub(super) fn begin_hook(&mut self, point: HookPoint, now: BootTime) -> bool {
        let kill_at = self.hooked_kill_at(now);
        if let (State::Stopping(stopping), HookPoint::PreStop) = (&mut self.state, point)
            && stopping.hooked
        {
            stopping.kill_at = kill_at;
        }
        self.turn_mut(point).is_some_and(|turn| {
            turn.begun = Some(now);
            turn.asked.begin()
        })
    }

    /// It is over. What `post_stop` left in the cgroup, or wrote, is dealt with as what the program left.
    pub(super) fn hook_ended(&mut self, point: HookPoint, failure: Option<&str>, now: BootTime) -> bool {
        let Some(turn) = self.turn_mut(point).filter(|turn| turn.asked != Asked::Done) else { return false };
        turn.asked = Asked::Done;
        turn.failure = failure.map(shortened);
        let stop_timeout = self.run.stop_timeout;
        match (&mut self.state, point) {
            (State::Stopping(stopping), HookPoint::PreStop) if stopping.hooked => {
                stopping.kill_at = now.after(stop_timeout);
            }
            (State::Ended(ended), HookPoint::PostStop) => (ended.empty, ended.drained) = (false, false),
            // It may have written more.
            (State::Ended(ended), _) => ended.drained = false,
            (State::Starting | State::Running { .. } | State::Stopping(_), _) => {}
        }
        true
    }

    /// It is to be told before its stop signal.
    pub(super) fn stops_by_hook(&self) -> bool {
        matches!(self.state, State::Running { .. }) && self.pid.is_some() && self.hook(HookPoint::PreStop).is_some()
    }

    /// The latest end of a stop that begins so.
    pub(super) fn hooked_kill_at(&self, now: BootTime) -> BootTime {
        let hook = self.hook(HookPoint::PreStop).unwrap_or_default().saturating_add(GRACE);
        now.after(hook.saturating_add(self.run.stop_timeout))
    }

    /// It is well only when this is over.
    pub(super) fn awaits_post_start(&self) -> bool {
        !self.is_over(HookPoint::PostStart)
    }

    /// What went wrong when it had started.
    pub(super) fn post_start_failure(&self) -> Option<String> {
        let failure = self.turn(HookPoint::PostStart).failure.as_ref()?;
        Some(format!("{}: {failure}", HookPoint::PostStart.word()))
    }

    /// Why there is no stop signal yet.
    pub(super) fn pre_stop_runs(&self, stopping: &Stopping) -> bool {
        stopping.hooked && stopping.signal == Asked::No && !self.is_over(HookPoint::PreStop)
    }
}

/// When it runs and goes on.
pub(super) fn plan_post_start(live: &Live, awaits_word: bool, plan: &mut Plan) {
    let point = HookPoint::PostStart;
    let is_there = matches!(live.state, State::Running { .. }) && (!awaits_word || live.is_ready());
    if is_there && live.hook(point).is_some() && live.turn(point).asked == Asked::No {
        plan.actions.push(Action::Hook { id: live.id.clone(), point });
    }
}

/// What a stop waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BeforeSignal {
    /// Nothing.
    Over,
    /// `pre_stop` is about to begin, and no time counts yet.
    Begins,
    /// `pre_stop` runs.
    Runs,
}

/// Before the stop signal.
pub(super) fn plan_pre_stop(live: &Live, stopping: &Stopping, now: BootTime, plan: &mut Plan) -> BeforeSignal {
    let point = HookPoint::PreStop;
    let Some(timeout) = live.hook(point).filter(|_| live.pre_stop_runs(stopping)) else { return BeforeSignal::Over };
    let turn = live.turn(point);
    if turn.asked == Asked::No {
        plan.actions.push(Action::Hook { id: live.id.clone(), point });
        return BeforeSignal::Begins;
    }
    let given_up_at = turn.begun.unwrap_or(now).after(timeout.saturating_add(GRACE));
    if given_up_at <= now {
        return BeforeSignal::Over;
    }
    plan.wake(given_up_at);
    BeforeSignal::Runs
}

/// When nothing is left of it: whether its clearing is to wait.
pub(super) fn plan_post_stop(live: &Live, ended: &Ended, has_record: bool, plan: &mut Plan) -> bool {
    let last = Some(HookPoint::PostStop).filter(|point| has_record && !live.is_over(*point));
    // Whatever was begun before: how it ended, if that is not known after a crash, is asked for.
    let Some(point) = live.hook_under_way().or(last).filter(|_| ended.empty && ended.drained) else { return false };
    if live.turn(point).asked == Asked::No {
        plan.actions.push(Action::Hook { id: live.id.clone(), point });
    }
    true
}

/// What `post_stop` is told of an end, in systemd's words (systemd.exec(5)) and in ours.
pub fn end_environment(record: &ExitRecord, live: Option<&Live>) -> Vec<String> {
    let killing = live.and_then(|live| if let State::Ended(ended) = &live.state { Some(&ended.killing) } else { None });
    let was_late = killing.is_some_and(|killing| killing.count > 0 && !killing.at_once);
    let result = match (&record.outcome, &record.stopped) {
        (Outcome::StartFailed { .. }, _) => "resources",
        (Outcome::Unhealthy { .. }, _) => "watchdog",
        (Outcome::Exited { oom: true, .. }, _) => "oom-kill",
        (Outcome::Exited { exit: Exit::Signal(9), .. }, Some(_)) if was_late => "timeout",
        (Outcome::Exited { exit: Exit::Code(0), .. }, _) | (Outcome::Exited { exit: Exit::Signal(_), .. }, Some(_)) => {
            "success"
        }
        (Outcome::Exited { exit: Exit::Code(_), .. }, _) => "exit-code",
        (Outcome::Exited { exit: Exit::Signal(_), .. }, None) => "signal",
        (Outcome::Exited { exit: Exit::Unknown, .. }, _) => "unknown",
    };
    let exit = match &record.outcome {
        Outcome::Exited { exit, .. } | Outcome::Unhealthy { exit, .. } => Some(*exit),
        Outcome::StartFailed { .. } => None,
    };
    let exit = match exit {
        Some(Exit::Code(code)) => Some(("exited", code.to_string())),
        Some(Exit::Signal(number)) => {
            let name = Signal(number).to_string();
            Some(("killed", name.strip_prefix("SIG").map_or(name.clone(), str::to_owned)))
        }
        Some(Exit::Unknown) | None => None,
    };
    let reason = record.stopped.as_ref().map_or_else(|| record.outcome.to_string(), ToString::to_string);
    let mut env = vec![format!("SERVICE_RESULT={result}")];
    if let Some((code, status)) = exit {
        env.extend([format!("EXIT_CODE={code}"), format!("EXIT_STATUS={status}")]);
    }
    env.push(format!("MOORED_REASON={reason}"));
    env
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Killing, Run, Wishes};
    use super::super::reason::Why;
    use super::super::time::WallTime;
    use super::*;
    use crate::unit::{ContainerId, Fingerprint, UnitName, parse};

    fn live(state: State) -> Live {
        let text = "executable = \"/bin/x\"\n[stop]\ntimeout = \"3s\"\n[hooks]\npost_start.exec = [\"/a\"]\npre_stop = { exec = [\"/b\"], timeout = \"7s\" }\n\
                    post_stop.exec = [\"/c\"]\n";
        let name = UnitName::new("web").unwrap();
        let unit = parse(&name, std::path::Path::new("/u/web.toml"), text).unwrap().unit;
        let run = Run::new(&unit, Fingerprint([1; 16]), None, BootTime(1));
        let pid = Some(super::super::HostPid(7));
        Live { state, pid, ..Live::new(ContainerId { unit: name, generation: 1 }, run, Wishes::default()) }
    }

    fn seconds(count: u64) -> BootTime {
        BootTime(1).after(Duration::from_secs(count))
    }

    fn points(plan: &Plan) -> Vec<HookPoint> {
        let point = |action: &Action| if let Action::Hook { point, .. } = action { Some(*point) } else { None };
        plan.actions.iter().filter_map(point).collect()
    }

    #[test]
    fn post_start_waits_for_the_program_and_for_its_word_and_runs_once() {
        let mut plan = Plan::default();
        plan_post_start(&live(State::Starting), false, &mut plan);
        let mut live = live(State::Running { since: seconds(1) });
        plan_post_start(&live, true, &mut plan);
        assert_eq!(points(&plan), []);
        plan_post_start(&live, false, &mut plan);
        assert_eq!(points(&plan), [HookPoint::PostStart]);
        assert!(
            live.begin_hook(HookPoint::PostStart, seconds(2)) && !live.begin_hook(HookPoint::PostStart, seconds(2))
        );
        assert!(live.awaits_post_start());
        assert!(live.hook_ended(HookPoint::PostStart, Some("code 3"), seconds(3)));
        assert!(!live.hook_ended(HookPoint::PostStart, None, seconds(3)), "the first word counts");
        assert_eq!(live.post_start_failure().unwrap(), "post_start: code 3");
        let mut plan = Plan::default();
        plan_post_start(&live, false, &mut plan);
        assert_eq!(points(&plan), []);
    }

    #[test]
    fn the_signal_waits_for_pre_stop_but_not_for_ever() {
        let mut live = live(State::Running { since: seconds(1) });
        assert!(live.stops_by_hook());
        let stopping = Stopping::hooked(Why::Held, live.hooked_kill_at(seconds(10)), seconds(10));
        assert_eq!(stopping.kill_at, seconds(10 + 7 + 5 + 3));
        live.state = State::Stopping(stopping.clone());
        let mut plan = Plan::default();
        assert_eq!(plan_pre_stop(&live, &stopping, seconds(10), &mut plan), BeforeSignal::Begins);
        assert_eq!(points(&plan), [HookPoint::PreStop]);
        assert!(live.begin_hook(HookPoint::PreStop, seconds(10)));
        let mut plan = Plan::default();
        assert_eq!(plan_pre_stop(&live, &stopping, seconds(11), &mut plan), BeforeSignal::Runs);
        assert!(plan.actions.is_empty() && plan.wake_at == Some(seconds(22)));
        assert_eq!(plan_pre_stop(&live, &stopping, seconds(22), &mut plan), BeforeSignal::Over, "it does not even die");
        assert!(live.hook_ended(HookPoint::PreStop, None, seconds(12)));
        assert_eq!(plan_pre_stop(&live, &stopping, seconds(12), &mut plan), BeforeSignal::Over);
        let State::Stopping(stopping) = &live.state else { panic!() };
        assert_eq!(stopping.kill_at, seconds(15), "from here it has its time");
    }

    #[test]
    fn post_stop_comes_last_and_what_it_leaves_is_looked_for() {
        let mut live = live(State::Running { since: seconds(1) });
        assert!(live.begin_hook(HookPoint::PreStop, seconds(2)));
        let mut ended = Ended::new(seconds(3), Killing::default());
        live.state = State::Ended(ended.clone());
        let mut plan = Plan::default();
        assert!(!plan_post_stop(&live, &ended, true, &mut plan), "something runs still");
        (ended.empty, ended.drained) = (true, true);
        live.state = State::Ended(ended.clone());
        assert!(plan_post_stop(&live, &ended, true, &mut plan) && plan.actions.is_empty(), "pre_stop is not over");
        assert_eq!(live.hook_at_end(), Some(HookPoint::PreStop));
        assert!(live.hook_ended(HookPoint::PreStop, None, seconds(4)));
        assert!(matches!(&live.state, State::Ended(ended) if !ended.drained), "it may have written more");
        assert!(!plan_post_stop(&live, &ended, false, &mut plan), "it never started");
        assert!(plan_post_stop(&live, &ended, true, &mut plan));
        assert_eq!(points(&plan), [HookPoint::PostStop]);
        assert!(live.begin_hook(HookPoint::PostStop, seconds(5)));
        assert!(live.hook_ended(HookPoint::PostStop, None, seconds(6)));
        let State::Ended(ended) = &live.state else { panic!() };
        assert!(!ended.empty && !ended.drained);
        assert!(!plan_post_stop(&live, ended, true, &mut plan));
    }

    #[test]
    fn what_a_crash_left_open_is_asked_for_again() {
        let mut live = live(State::Running { since: seconds(1) });
        assert!(live.begin_hook(HookPoint::PostStart, seconds(2)));
        let again: Live = serde_json::from_value(serde_json::to_value(&live).unwrap()).unwrap();
        let mut plan = Plan::default();
        plan_post_start(&again, false, &mut plan);
        assert_eq!(points(&plan), [HookPoint::PostStart]);

        // However long nobody was there.
        live.state = State::Stopping(Stopping::hooked(Why::Held, live.hooked_kill_at(seconds(10)), seconds(10)));
        assert!(live.begin_hook(HookPoint::PreStop, seconds(10)));
        let mut again: Live = serde_json::from_value(serde_json::to_value(&live).unwrap()).unwrap();
        let State::Stopping(stopping) = again.state.clone() else { panic!() };
        let late = seconds(1000);
        assert_eq!(plan_pre_stop(&again, &stopping, late, &mut plan), BeforeSignal::Begins);
        assert!(again.begin_hook(HookPoint::PreStop, late));
        let State::Stopping(stopping) = &again.state else { panic!() };
        assert_eq!(stopping.kill_at, again.hooked_kill_at(late));
        assert_eq!(plan_pre_stop(&again, stopping, late, &mut plan), BeforeSignal::Runs);
    }

    #[test]
    fn the_end_is_told_in_systemds_words() {
        let words = |outcome: Outcome, stopped: Option<Why>, killing: Killing| {
            let live = live(State::Ended(Ended::new(seconds(3), killing)));
            let record = ExitRecord {
                id: live.id.clone(),
                fingerprint: Fingerprint([1; 16]),
                outcome,
                at: seconds(3),
                wall: WallTime(0),
                ran_for: Duration::ZERO,
                stopped,
                beside: false,
            };
            end_environment(&record, Some(&live)).join(" ")
        };
        let exited = |exit, oom| Outcome::Exited { exit, oom };
        let killed = |at_once| Killing { count: 1, at_once, ..Killing::default() };
        let none = Killing::default;
        for (outcome, stopped, killing, expected) in [
            (
                exited(Exit::Code(0), false),
                None,
                none(),
                "SERVICE_RESULT=success EXIT_CODE=exited EXIT_STATUS=0 MOORED_REASON=code 0",
            ),
            (
                exited(Exit::Code(3), false),
                None,
                none(),
                "SERVICE_RESULT=exit-code EXIT_CODE=exited EXIT_STATUS=3 MOORED_REASON=code 3",
            ),
            (
                exited(Exit::Signal(15), false),
                Some(Why::Held),
                none(),
                "SERVICE_RESULT=success EXIT_CODE=killed EXIT_STATUS=TERM MOORED_REASON=stopped by hand",
            ),
            (
                exited(Exit::Signal(9), false),
                Some(Why::Changed),
                killed(false),
                "SERVICE_RESULT=timeout EXIT_CODE=killed EXIT_STATUS=KILL MOORED_REASON=its text changed",
            ),
            (
                exited(Exit::Signal(9), false),
                Some(Why::Held),
                killed(true),
                "SERVICE_RESULT=success EXIT_CODE=killed EXIT_STATUS=KILL MOORED_REASON=stopped by hand",
            ),
            (
                exited(Exit::Signal(9), true),
                None,
                none(),
                "SERVICE_RESULT=oom-kill EXIT_CODE=killed EXIT_STATUS=KILL MOORED_REASON=signal 9, out of memory",
            ),
            (
                exited(Exit::Signal(11), false),
                None,
                none(),
                "SERVICE_RESULT=signal EXIT_CODE=killed EXIT_STATUS=SEGV MOORED_REASON=signal 11",
            ),
            (exited(Exit::Unknown, false), None, none(), "SERVICE_RESULT=unknown MOORED_REASON=unknown"),
            (
                Outcome::StartFailed { text: "no".to_owned() },
                None,
                none(),
                "SERVICE_RESULT=resources MOORED_REASON=start failed: no",
            ),
            (
                Outcome::Unhealthy { text: "sick".to_owned(), exit: Exit::Code(0) },
                None,
                none(),
                "SERVICE_RESULT=watchdog EXIT_CODE=exited EXIT_STATUS=0 MOORED_REASON=code 0, unhealthy: sick",
            ),
        ] {
            assert_eq!(words(outcome, stopped, killing), expected);
        }
    }
}

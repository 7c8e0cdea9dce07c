//! Bugs that are planted in the fakes around the core, to see that the checks bite.

use super::first_failure;
use super::steps::Course;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// The cgroup of the old generation is said to be empty without looking.
    StartBesideOld,
    /// The keeper forgets an exit when it has told it, not when it is recorded.
    AcknowledgedEarly,
    /// The keeper takes the time of an exit from the wall clock.
    ExitsByWallClock,
    /// A stop mark is not read back after a crash.
    StopMarkLost,
    /// That a text was rolled back is not remembered.
    BadTextTakenAgain,
    /// That a text did well is not read back after a crash: it is still on trial.
    StillOnTrial,
    /// What the backoff counts is not read back after a crash.
    BackoffForgotten,
    /// The last good texts are not read back after a crash.
    LastGoodLost,
    /// `depends_on` is not read.
    DependenciesForgotten,
    /// The planner is not told which texts are others.
    EditsUntold,
    /// The contents of files that a container has, and the wish to reload it, are not read back after a crash.
    ContentsForgotten,
    /// Which sockets are open is neither read back nor told after a crash.
    SocketsForgotten,
    /// Of two containers of a unit the one that comes is taken for the one that runs, after a crash.
    RolesSwapped,
    /// How far a schedule is is read back after a crash as it was a minute before.
    ScheduleForgotten,
    /// Hooks are said to be over, and were not run.
    HookSkipped,
}

/// A planted bug shows within so many histories.
const BITES_WITHIN: u64 = 10_000;

/// The planted bug is caught, by one of the invariants that it breaks.
fn assert_caught(bug: Bug, course: Course, invariants: &[&str]) {
    let (seed, words) = first_failure(0..BITES_WITHIN, course, bug).expect("a planted bug is caught");
    println!("{bug:?} is caught at seed {seed}: {words}");
    assert!(
        invariants.iter().any(|invariant| words.starts_with(invariant)),
        "{bug:?} is caught by another check: {words}"
    );
}

#[test]
fn a_start_beside_the_old_cgroup_is_caught() {
    assert_caught(Bug::StartBesideOld, Course::Safety, &["1:"]);
}

#[test]
fn an_exit_acknowledged_before_it_is_recorded_is_caught() {
    assert_caught(Bug::AcknowledgedEarly, Course::Safety, &["6:"]);
}

#[test]
fn a_backoff_from_the_wrong_clock_is_caught() {
    assert_caught(Bug::ExitsByWallClock, Course::Safety, &["5:"]);
}

#[test]
fn a_stop_mark_lost_in_a_crash_is_caught() {
    assert_caught(Bug::StopMarkLost, Course::Safety, &["hold:"]);
}

#[test]
fn a_rollback_that_loops_is_caught() {
    assert_caught(Bug::BadTextTakenAgain, Course::Safety, &["trial:"]);
    // Nor does it ever come to rest.
    assert_caught(Bug::BadTextTakenAgain, Course::Liveness, &["trial:", "13:"]);
}

#[test]
fn a_text_that_is_on_trial_although_it_did_well_is_caught() {
    assert_caught(Bug::StillOnTrial, Course::Safety, &["trial:", "sockets:"]);
}

#[test]
fn a_backoff_forgotten_in_a_crash_is_caught() {
    assert_caught(Bug::BackoffForgotten, Course::Safety, &["5:"]);
}

#[test]
fn a_last_good_text_lost_in_a_crash_is_caught() {
    assert_caught(Bug::LastGoodLost, Course::Safety, &["4/12:", "sockets:"]);
}

#[test]
fn a_text_that_the_planner_is_not_told_of_is_caught() {
    assert_caught(Bug::EditsUntold, Course::Safety, &["planner:"]);
}

#[test]
fn roles_swapped_in_a_crash_are_caught() {
    assert_caught(Bug::RolesSwapped, Course::Safety, &["start-first:"]);
}

#[test]
fn a_hook_that_is_not_run_is_caught() {
    assert_caught(Bug::HookSkipped, Course::Safety, &["hooks:"]);
}

#[test]
fn contents_forgotten_in_a_crash_are_caught() {
    assert_caught(Bug::ContentsForgotten, Course::Liveness, &["contents:"]);
}

#[test]
fn dependencies_that_are_not_read_are_caught() {
    assert_caught(Bug::DependenciesForgotten, Course::Safety, &["order:", "ring:"]);
}

#[test]
fn sockets_forgotten_in_a_crash_are_caught() {
    assert_caught(Bug::SocketsForgotten, Course::Liveness, &["sockets:"]);
}

#[test]
fn a_time_that_is_run_again_after_a_crash_is_caught() {
    assert_caught(Bug::ScheduleForgotten, Course::Safety, &["schedule:"]);
}

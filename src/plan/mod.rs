//! What is to be done: desired state, observed state, and the pure function between them.
//!
//! The supervisor's round: record facts into [`Observed`], ask the [`Planner`], which says what [`reconcile`] would and looks only at what
//! changed, and for each action of the plan call [`Observed::begin`], write the unit's [`Seen`], and let the action have its effect. What comes of it
//! is a fact.
//!
//! # One generation
//!
//! ```text
//!            Started              stop wanted                    exit known
//! Starting ──────────▶ Running ───────────────▶ Stopping ──────────────────────▶ Ended ──▶ cleared
//!    │  │                 │                        ▲    after kill_at: kill, and     cgroup empty,
//!    │  └─── stop wanted ─┼────────────────────────┘    again, ever more rarely      log drained:
//!    └─ StartFailed ──────┴── exit known ──────────────────────────────────────────▶ Clear
//! ```
//!
//! - It never goes back. A stop is never taken back; a start that is wanted meanwhile follows it.
//! - It is written down before its cgroup is made, and gone only when cgroup, log and exit record are dealt with: so there is
//!   at most one, whatever is killed when.
//! - Hooks of its unit have their turns on the way (`hooks`).
//! - Its exit record is made at the first word of its end. Later words change nothing.
//! - In a start-first update there are two (`handover`), each of which goes this way.
//! - Of a unit's replicas one at a time is replaced (`replicas`).
//!
//! # Who wins
//!
//! A running generation stops for the first of: shutdown, its file removed, a hold, not enabled (unless by hand), the
//! network it shares gone, a dependency lost that it cannot be without (`on_loss`), a client's restart, a changed text, a check that fails or
//! a word that does not come. A unit without one
//! starts unless, first of: shutdown, removed, held, not enabled; then a client's wish beats its end, its policy, its limit and its backoff; a
//! run that we stopped ourselves, or one of another text, is not held against it; then it must wait for itself in no ring, its
//! dependencies must be there, the host must meet its conditions, and the unit whose network it shares must run. A unit stops after those that
//! share its network, and after those that depend on it and are to stop too (`order`; not waiting for one that is stuck).
//!
//! # Why so
//!
//! Nothing is remembered that follows from something else: completed, failed, given up, backing off are all computed from the
//! last exit and the text it belongs to. A text that changes, a supervisor that crashes, a clock that steps have no flag
//! to leave behind.

mod action;
mod backoff;
mod boots;
mod contents;
mod decide;
mod desired;
mod exit;
mod fact;
mod handover;
mod health;
mod hold;
mod hooks;
mod host;
mod links;
mod observed;
mod order;
#[cfg(test)]
mod order_tests;
mod planner;
mod reason;
mod reconcile;
mod record;
mod rehearse;
mod replicas;
#[cfg(test)]
mod replicas_tests;
mod schedule;
#[cfg(test)]
mod schedule_tests;
mod sockets;
#[cfg(test)]
mod sockets_tests;
mod status;
mod time;
mod told;
#[cfg(test)]
mod told_tests;
mod trial;
mod world;

pub use action::Action;
pub use boots::{Boots, Course, Proof, Running};
pub use contents::Settling;
pub use desired::{Desired, Want, in_number_order};
pub use exit::{Exit, ExitRecord, Outcome, TEXT_MAX};
pub use fact::{Deed, Fact};
pub use health::{Findings, HealthStatus, Opinion, Probed, Probing, Tally};
pub use hold::{Hold, Until};
pub use hooks::{HookTimes, HookTurns, end_environment};
pub use host::{Host, Presence};
pub use observed::{
    Asked, Backoff, Ended, HostPid, Killing, Limits, Live, Observed, Run, Seen, Shutdown, State, Stopping, Wishes,
};
pub use order::{Relied, Relies};
pub use planner::Planner;
pub use reason::{Lacking, Reason, Remains, Tie, Why};
pub use reconcile::{Plan, reconcile};
pub use rehearse::{Rehearsal, Turn, rehearse};
pub use schedule::{Blind, Clock, Mark, Timetable, next_elapse};
pub use sockets::Opening;
pub use status::{Phase, Status, Statuses, status, statuses};
pub use time::{BootTime, Now, WallTime};
pub use told::{Hearing, Line, Reloading, Told};

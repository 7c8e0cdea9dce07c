//! How a run ended, and which ends are followed by another start.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reason::Why;
use super::time::{BootTime, WallTime};
use crate::unit::{ContainerId, Fingerprint, RestartPolicy};

/// What waitid(2) said, or that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// exit(2) with this code.
    Code(u8),
    /// Killed by this signal.
    Signal(u8),
    /// Nobody who could know it survived. Never guessed.
    Unknown,
}

/// How a generation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It ran and ended.
    Exited {
        /// Code or signal of its pid 1.
        exit: Exit,
        /// The kernel killed something in its cgroup for lack of memory.
        oom: bool,
    },
    /// It ran, failed its checks, and was stopped for that.
    Unhealthy {
        /// What they found, at most [`TEXT_MAX`] bytes.
        text: String,
        /// Code or signal of its pid 1.
        exit: Exit,
    },
    /// A step before exec failed: the text says which, at most [`TEXT_MAX`] bytes.
    StartFailed {
        /// For people.
        text: String,
    },
}

/// Longest text of a failure that is kept, in bytes.
pub const TEXT_MAX: usize = 512;

/// At most [`TEXT_MAX`] bytes of a text: beginning and end, as the end of an error says why.
pub(super) fn shortened(text: &str) -> String {
    const GAP: &str = " … ";
    if text.len() <= TEXT_MAX {
        return text.to_owned();
    }
    let half = (TEXT_MAX - GAP.len()) / 2;
    let head = (0..=half).rev().find_map(|at| text.get(..at)).unwrap_or_default();
    let tail = (text.len() - half..=text.len()).find_map(|at| text.get(at..)).unwrap_or_default();
    format!("{head}{GAP}{tail}")
}

/// The one record that each generation gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Which generation.
    pub id: ContainerId,
    /// Of which text.
    pub fingerprint: Fingerprint,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub at: BootTime,
    /// When, for people.
    pub wall: WallTime,
    /// From its start to its end.
    pub ran_for: Duration,
    /// Set if it ended after we had begun to stop it, but for its checks: then the restart policy has no say.
    pub stopped: Option<Why>,
    /// It was to take over from one that ran, and had not yet.
    #[serde(default)]
    pub beside: bool,
}

impl Outcome {
    /// Exit code 0 and no OOM kill on the way.
    pub fn is_success(&self) -> bool {
        match self {
            Outcome::Exited { exit: Exit::Code(0), oom } => !oom,
            Outcome::Exited { exit: Exit::Code(_) | Exit::Signal(_) | Exit::Unknown, .. } => false,
            Outcome::Unhealthy { .. } | Outcome::StartFailed { .. } => false,
        }
    }

    /// Its program is known to have run, however it ended. Of one whose end nobody knows it is not: also one that was never made may have been
    /// stopped, because that took too long.
    pub fn has_run(&self) -> bool {
        match self {
            Outcome::Exited { exit, .. } | Outcome::Unhealthy { exit, .. } => *exit != Exit::Unknown,
            Outcome::StartFailed { .. } => false,
        }
    }

    /// Ended by something other than its own decision: a signal, OOM, its checks, or nobody knows (systemd's on-abnormal).
    pub fn is_abnormal(&self) -> bool {
        match self {
            Outcome::Exited { exit: Exit::Code(_), oom } => *oom,
            Outcome::Exited { exit: Exit::Signal(_) | Exit::Unknown, .. } | Outcome::Unhealthy { .. } => true,
            Outcome::StartFailed { .. } => false,
        }
    }

    /// Whether `policy` wants another start after this end.
    pub fn is_restarted_by(&self, policy: RestartPolicy) -> bool {
        match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnSuccess => self.is_success(),
            RestartPolicy::OnFailure => !self.is_success(),
            RestartPolicy::OnAbnormal => self.is_abnormal(),
            RestartPolicy::Never => false,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "code {code}"),
            Exit::Signal(number) => write!(f, "signal {number}"),
            Exit::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Exited { exit, oom: false } => write!(f, "{exit}"),
            Outcome::Exited { exit, oom: true } => write!(f, "{exit}, out of memory"),
            Outcome::Unhealthy { text, exit } => write!(f, "{exit}, unhealthy: {text}"),
            Outcome::StartFailed { text } => write!(f, "start failed: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_that_is_known_says_that_a_program_has_run() {
        for (exit, has_run) in [(Exit::Code(1), true), (Exit::Signal(9), true), (Exit::Unknown, false)] {
            assert_eq!(Outcome::Exited { exit, oom: false }.has_run(), has_run);
            assert_eq!(Outcome::Unhealthy { text: "too long".to_owned(), exit }.has_run(), has_run);
        }
        assert!(!Outcome::StartFailed { text: String::new() }.has_run());
    }

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("short"), "short");
        for middle in ["x", "é", "🚢"] {
            let long = format!("open {}: no such file", middle.repeat(TEXT_MAX));
            let short = shortened(&long);
            assert!(short.len() <= TEXT_MAX && short.len() > TEXT_MAX - 16, "{}", short.len());
            assert!(short.starts_with("open ") && short.ends_with(": no such file"), "{short}");
        }
    }
}

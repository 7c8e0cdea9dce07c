//! What a child must get back because its parent changed it for itself: signal mask and dispositions, the limit on open
//! files, the OOM score.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::signal;

/// Where the OOM score of the calling process is set (proc(5)).
const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// The limit on open files and the OOM score as they were when the program started.
#[derive(Debug, Clone)]
pub struct Base {
    open_files: Rlimit,
    oom_score_adj: Option<i32>,
    raised: bool,
}

/// A [`Base`] on its way to the next program of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// The soft limit on open files; `None`: there is none.
    pub open_files: Option<u64>,
    /// The hard one.
    pub open_files_max: Option<u64>,
    /// Where `/proc` said.
    pub oom_score_adj: Option<i32>,
    /// Both were changed since.
    pub raised: bool,
}

impl From<BaseRecord> for Base {
    fn from(record: BaseRecord) -> Self {
        let open_files = Rlimit { current: record.open_files, maximum: record.open_files_max };
        Base { open_files, oom_score_adj: record.oom_score_adj, raised: record.raised }
    }
}

impl Base {
    /// For the next program of this process, which can no longer see it.
    pub fn record(&self) -> BaseRecord {
        BaseRecord {
            open_files: self.open_files.current,
            open_files_max: self.open_files.maximum,
            oom_score_adj: self.oom_score_adj,
            raised: self.raised,
        }
    }

    /// Notes how things are now.
    pub fn capture() -> Self {
        Base { open_files: getrlimit(Resource::Nofile), oom_score_adj: oom_score_adj(), raised: false }
    }

    /// Raises the limit on open files to its hard limit and asks for an `oom_score_adj` of `wanted`. Best effort: below the
    /// current score that takes CAP_SYS_RESOURCE.
    pub fn raise(&mut self, wanted: i32) {
        self.raised = true;
        let hard = self.open_files.maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
        let _ = std::fs::write(OOM_SCORE_ADJ, wanted.to_string());
    }

    /// In a child: no signal blocked, all with their default action, the noted limit and score. Call it while the host's
    /// `/proc` is still in place.
    pub fn restore(&self) -> io::Result<()> {
        signal::reset_all()?;
        if !self.raised {
            return Ok(());
        }
        setrlimit(Resource::Nofile, self.open_files)?;
        match self.oom_score_adj {
            Some(score) => std::fs::write(OOM_SCORE_ADJ, score.to_string()),
            None => Ok(()),
        }
    }
}

/// The calling process' `oom_score_adj`, where `/proc` says.
pub fn oom_score_adj() -> Option<i32> {
    std::fs::read_to_string(OOM_SCORE_ADJ).ok()?.trim().parse().ok()
}

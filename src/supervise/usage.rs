//! What a container uses, and its last lines, for `moored status`: read on a thread of its own, since both may wait for a disk.

use std::path::PathBuf;

use crate::control::protocol::UnitStatus;
use crate::control::{Reply, Response};
use crate::runtime::cgroup::Figures;
use crate::unit::{ContainerId, UnitName};

/// Lines shown by `status`.
const LINES: u64 = 10;

/// One `status UNIT`, filled in but for what only a look at the host tells.
pub struct StatusJob {
    /// The live container, if there is one.
    pub id: Option<ContainerId>,
    /// Which unit.
    pub unit: UnitName,
    /// Where the logs are.
    pub log_dir: PathBuf,
    /// What is known so far.
    pub status: UnitStatus,
    /// Who asks.
    pub reply: Reply,
}

fn rendered(entry: &super::log::Entry) -> Vec<u8> {
    let mut text = Vec::new();
    super::log::render(entry, super::log::Style { timestamps: true, terminal: false, json: false }, &mut text);
    text.truncate(text.trim_ascii_end().len());
    text
}

impl StatusJob {
    /// Fills in the rest and answers.
    pub fn spawn(self, figures: Option<Figures>) {
        let StatusJob { unit, log_dir, mut status, reply, .. } = self;
        if let Some(figures) = figures {
            status.memory_bytes = figures.memory_bytes;
            status.memory_limit_bytes = figures.memory_limit_bytes;
            status.tasks = figures.tasks;
            status.cpu_us = figures.cpu_us;
        }
        let read = move || {
            status.log = match super::log::last_lines(&log_dir, &unit, LINES) {
                Ok(entries) => {
                    entries.iter().map(|entry| String::from_utf8_lossy(&rendered(entry)).into_owned()).collect()
                }
                Err(error) => vec![format!("(the log cannot be read: {error})")],
            };
            reply.send(&Response::Status(Box::new(status)));
        };
        if let Err(error) = std::thread::Builder::new().name("status".to_owned()).spawn(read) {
            tracing::warn!("no thread for a status: {error}");
        }
    }
}

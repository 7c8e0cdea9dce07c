//! The anchor in the place of a keeper that died: what it does before it is one.
//!
//! The dead keeper held the read ends of every container's standard output and error. What an exited writer left in a FIFO is gone with
//! its last holder, and the supervisor may be dead too. So, in this order:
//!
//! 1. Every FIFO of a container (`RUN/c/<id>/{out,err}`, `supervise::fifo`) is opened, before anything else. Terminals it has
//!    ([`super::spares`]).
//! 2. The children are looked for: which of them is the supervisor, which are orphans.
//! 3. `Adopt` brings the supervisor's own descriptors of a container, and lets go of ours.
//! 4. `AdoptionDone` lets go of the rest: those were not containers, or ended without a record.
//!
//! Between 1 and 4 any number of supervisors may die; an upgrade hands the descriptors on. Only what is left in a FIFO whose container,
//! keeper and supervisor all end before 1 is lost: nobody is there who could hold it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::child::{Named, Unadopted};
use super::orphans;
use super::run::{Keeper, OOM_SCORE_ADJ, Parts, now_ns};
use super::spares::Spares;
use super::{CHILDREN_MAX, CONTAINERS_DIR, FIFOS, Spawner};

/// The FIFOs of one container, until somebody else holds them.
#[derive(Debug)]
pub(super) struct Kept {
    /// Whose.
    pub id: String,
    /// The read ends.
    pub fifos: Vec<OwnedFd>,
}

/// Opens what there is. Where descriptors do not suffice the rest is left out: what has a living writer loses nothing by that.
fn keep(run_dir: &Path) -> Vec<Kept> {
    let Ok(entries) = fs::read_dir(run_dir.join(CONTAINERS_DIR)) else { return Vec::new() };
    let one = |entry: fs::DirEntry| {
        let id = entry.file_name().into_string().ok()?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifos = FIFOS.iter().filter_map(|name| open(entry.path().join(name), flags, Mode::empty()).ok());
        Some(Kept { id, fifos: fifos.collect() })
    };
    let kept = entries.take(CHILDREN_MAX).filter_map(|entry| one(entry.ok()?));
    kept.filter(|kept| !kept.fifos.is_empty()).collect()
}

impl<'s> Keeper<'s> {
    /// In the place of a keeper that died: what it was the parent of is now ours, and it held what are `spares`. A supervisor among it
    /// goes on, if none lives one is started. One of a program that this process was `earlier` gives way to its own.
    pub fn adopting(
        mut parts: Parts,
        spawner: &'s mut dyn Spawner,
        stopping: bool,
        earlier: &[(u64, u64)],
        spares: Spares,
    ) -> Self {
        parts.base.raise(OOM_SCORE_ADJ);
        let kept = keep(&parts.run_dir);
        let mut keeper = Keeper::with(parts, spawner);
        keeper.kept = kept;
        keeper.named = spares.0.into_iter().map(|(name, fd)| Named { name, fd, untold: true }).collect();
        keeper.adopting = true;
        keeper.is_anchor = true;
        keeper.stopping = stopping;
        for orphan in orphans::children() {
            let found = orphans::supervisor(orphan.pid, &keeper.parts.command.argv, earlier);
            let Some(found) = found.filter(|_| keeper.supervisor.pid.is_none()) else {
                keeper.orphans.push(Unadopted { orphan, untold: true });
                continue;
            };
            keeper.supervisor.found(orphan.pid, now_ns());
            keeper.supervisor.due_ns = None;
            if found == orphans::Program::Earlier {
                keeper.supervisor.replace(now_ns());
            }
        }
        keeper
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    #[test]
    fn what_a_dead_writer_left_is_kept_and_other_files_are_passed_over() {
        let base = std::env::temp_dir().join(format!("moored-takeover-{}", std::process::id()));
        let dir = base.join(CONTAINERS_DIR).join("web.1");
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir(base.join(CONTAINERS_DIR).join("empty.1")).unwrap();
        for name in FIFOS {
            mknodat(CWD, dir.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }
        let writer = open(dir.join(FIFOS[0]), OFlags::RDWR, Mode::empty()).unwrap();
        let kept = keep(&base);
        assert_eq!(kept.iter().map(|kept| (kept.id.as_str(), kept.fifos.len())).collect::<Vec<_>>(), [("web.1", 2)]);
        rustix::io::write(&writer, b"last words").unwrap();
        drop(writer);
        let again = open(dir.join(FIFOS[0]), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        drop(kept);
        let mut bytes = [0_u8; 32];
        let read = rustix::io::read(&again, &mut bytes).unwrap();
        assert_eq!(&bytes[..read], b"last words");
        assert!(keep(&base.join("missing")).is_empty());
        fs::remove_dir_all(&base).unwrap();
    }
}

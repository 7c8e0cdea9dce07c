//! `kill -9` of the supervisor, the keeper and the anchor, in every combination and at bad moments: SAFETY's invariants 1, 5, 6, 8 and 12
//! on real containers.
//!
//! What happened is read from three places that none of the killed processes can make up: what the containers themselves wrote below
//! `/data`, the kernel's view (pids, cgroups), and what `up` printed. A supervisor that dies between saying and writing down says it
//! again after its next start, so each sentence counts once; two different ones about one end are an error.

mod calls;
mod deaths;
#[cfg(target_arch = "x86_64")]
mod faults;
mod lines;
#[cfg(target_arch = "x86_64")]
mod operations;
#[cfg(target_arch = "x86_64")]
mod points;
mod random;
#[cfg(target_arch = "x86_64")]
mod stand;
#[cfg(target_arch = "x86_64")]
mod tracer;
pub mod upgrades;

pub use calls::Trap;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use super::support::{Pids, Supervisor, busybox_root, hears_term, is_alive, is_root, state, wait_for};

/// A supervisor, a root with busybox, and a directory that every container sees as `/data`.
struct World {
    moored: Supervisor,
    root: PathBuf,
    data: PathBuf,
}

/// `None` (skipped) without root or busybox.
fn world(name: &str, arguments: &[&str]) -> Option<World> {
    if !is_root() {
        return None;
    }
    let mut moored = Supervisor::prepare(name).with(arguments);
    let root = busybox_root(&moored.dir.0)?;
    let data = moored.dir.join("data");
    fs::create_dir(&data).unwrap();
    moored.up();
    Some(World { moored, root, data })
}

/// One run and no other.
const NEVER: &str = "[restart]\npolicy = \"never\"";

/// Lives until SIGTERM.
const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

impl World {
    fn unit_text(&self, script: &str, more: &str) -> String {
        let (root, data) = (self.root.display(), self.data.display());
        format!(
            "rootfs = \"{root}\"\n{more}\n[process]\nargs = [\"/bin/sh\", \"-c\", \"\"\"{script}\"\"\"]\n\
             [[mount]]\nsource = \"{data}\"\ntarget = \"/data\"\nread_only = false\n"
        )
    }

    fn unit(&self, name: &str, script: &str, more: &str) {
        self.moored.unit(name, &self.unit_text(script, more));
    }

    /// Writes all of these at once: their starts come in one burst.
    fn units(&self, count: usize, script: impl Fn(usize) -> String, more: &str) {
        (0..count).for_each(|n| self.unit(&name(n), &script(n), more));
    }

    /// The three processes, as soon as there is somebody to ask.
    fn pids(&self) -> Pids {
        wait_for("somebody who knows the pids", || {
            let output = self.moored.run(&["status", "--json"]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let pid = |name: &str| status[name].as_i64().map(|pid| pid as i32);
            Some(Pids { anchor: pid("anchor"), keeper: pid("keeper")?, supervisor: pid("supervisor")? })
        })
    }

    /// Kills, and waits until a supervisor answers that lives.
    fn kill(&self, victims: &[Victim]) {
        let pids = self.pids();
        self.kill_without_waiting(pids, victims);
        self.wait_supervisor(pids, victims);
    }

    fn kill_without_waiting(&self, pids: Pids, victims: &[Victim]) {
        for victim in victims {
            let pid = match victim {
                Victim::Supervisor => pids.supervisor,
                Victim::Keeper => pids.keeper,
                Victim::Anchor => pids.anchor.unwrap(),
            };
            signal(pid, Signal::KILL);
        }
    }

    fn wait_supervisor(&self, before: Pids, victims: &[Victim]) {
        wait_for("the next of those that were killed", || {
            let now = self.pids();
            let other = |victim: &Victim| match victim {
                Victim::Supervisor => now.supervisor != before.supervisor,
                Victim::Keeper => now.keeper != before.keeper,
                Victim::Anchor => now.anchor != before.anchor,
            };
            victims.iter().all(other).then_some(())
        });
    }

    /// Containers as `ps` has them, once it has them all.
    fn running(&self, count: usize) -> BTreeMap<String, i32> {
        wait_for(&format!("{count} units that run\n{}", self.moored.output()), || {
            let found = self.rows().into_iter().filter(|row| row["phase"] == "running");
            let found: BTreeMap<_, _> =
                found.filter_map(|row| Some((text(&row, "unit"), row["pid"].as_i64()? as i32))).collect();
            (found.len() == count).then_some(found)
        })
    }

    /// The same once each has its trap.
    fn waiting(&self, count: usize) -> BTreeMap<String, i32> {
        let running = self.running(count);
        wait_for("all to hear TERM", || running.values().all(|pid| hears_term(*pid)).then_some(()));
        running
    }

    fn running_unit(&self, unit: &str) {
        self.moored.wait_phase(unit, &["running"]);
    }

    /// Empty while nobody answers.
    fn rows(&self) -> Vec<Value> {
        serde_json::from_slice(&self.moored.run(&["ps", "--json"]).stdout).unwrap_or_default()
    }

    /// Ids of containers that have a v2 cgroup.
    fn cgroups(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.moored.cgroup()).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// All `<what>` that `up` said of each id: `exited: code 3`. A set, since a killed supervisor's successor may repeat it.
    fn said(&self, what: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut said: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in self.moored.output().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(at) = words.iter().position(|word| word.contains(what)) else { continue };
            let id = words[..at]
                .iter()
                .rev()
                .find(|word| word.contains('.'))
                .or(words[at..].iter().find(|word| word.contains('.')));
            if let Some(id) = id {
                said.entry(id.trim_end_matches(',').to_owned()).or_default().insert(words[at..].join(" "));
            }
        }
        said
    }

    /// What containers appended to a file of `/data`, line by line.
    fn lines(&self, file: &str) -> Vec<String> {
        fs::read_to_string(self.data.join(file)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The log files of a unit, oldest first, as they are.
    fn raw(&self, unit: &str) -> Vec<u8> {
        self.log_files(unit).iter().flat_map(|path| fs::read(path).unwrap_or_default()).collect()
    }

    /// The last few of them.
    fn tail(&self, unit: &str, files: usize) -> String {
        let logs = self.log_files(unit);
        let last = &logs[logs.len().saturating_sub(files)..];
        last.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
    }

    fn log_files(&self, unit: &str) -> Vec<PathBuf> {
        let dir = self.moored.dir.join("log").join(unit);
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut logs: Vec<(u64, PathBuf)> = entries
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .filter_map(|path| Some((number(&path)?, path)))
            .collect();
        logs.sort();
        logs.into_iter().map(|(_, path)| path).collect()
    }

    fn touch(&self, file: &str) {
        fs::write(self.data.join(file), "").unwrap();
    }

    /// Each generation began at most once and ended in at most one way.
    fn check_records(&self) {
        for what in ["started", "exited:"] {
            for (id, sentences) in self.said(what) {
                assert_eq!(sentences.len(), 1, "{id} more than once: {sentences:?}\n{}", self.moored.output());
            }
        }
        assert!(!self.moored.output().contains("nobody saw how"), "{}", self.moored.output());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Keeper,
    Anchor,
}

fn name(n: usize) -> String {
    format!("u{n:02}")
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}

fn signal(pid: i32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn freeze(pid: i32) {
    signal(pid, Signal::STOP);
    wait_for("it to be frozen", || (state(pid) == Some('T')).then_some(()));
}

fn generation(id: &str) -> u64 {
    id.rsplit_once('.').unwrap().1.parse().unwrap()
}

/// A living child of this process with that word in its command line.
fn child_of(parent: i32, word: &str) -> Option<i32> {
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent_of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        parent_of == Some(parent) && String::from_utf8_lossy(&line).split('\0').any(|part| part == word)
    };
    pids.filter(|pid| is_alive(*pid)).find(is_it)
}

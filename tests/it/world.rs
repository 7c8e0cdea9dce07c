//! A supervisor beside a root with busybox in it: what the scenarios on units, edits and commands begin with.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::support::{Supervisor, busybox_root, cgroup2, is_root, wait_for};

/// Runs until TERM, which ends it with code 0 at once: `wait` is interrupted by a trapped signal, `sleep` is not.
pub const FOREVER: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

/// A supervisor and a root for its units.
pub struct World {
    pub supervisor: Supervisor,
    pub root: PathBuf,
}

impl std::ops::Deref for World {
    type Target = Supervisor;

    fn deref(&self) -> &Supervisor {
        &self.supervisor
    }
}

impl World {
    /// Runs `up`. `None` (skipped aloud) without root or busybox.
    pub fn start(name: &str) -> Option<World> {
        let mut world = World::prepare(name)?;
        world.supervisor.up();
        Some(world)
    }

    /// The same without running it.
    pub fn prepare(name: &str) -> Option<World> {
        if !is_root() {
            return None;
        }
        let supervisor = Supervisor::prepare(name);
        let root = busybox_root(&supervisor.dir.0)?;
        Some(World { supervisor, root })
    }

    /// The text of a unit that runs `script` in the root: top-level keys, the process, then `tables`.
    pub fn text(&self, top: &str, script: &str, tables: &str) -> String {
        let root = self.root.display();
        format!("rootfs = \"{root}\"\n{top}\n[process]\nargs = [\"/bin/sh\", \"-c\", {}]\n{tables}\n", quoted(script))
    }

    /// Declares a unit that runs `script`, with more tables; these may begin with further keys of `[process]`.
    pub fn script(&self, name: &str, script: &str, tables: &str) {
        self.unit(name, &self.text("", script, tables));
    }

    /// Declares one that runs [`FOREVER`], and waits until it runs. `tag` only makes it differ.
    pub fn service(&self, name: &str, tag: &str) -> Running {
        self.unit(name, &self.service_text(tag));
        self.running(name)
    }

    /// Its text.
    pub fn service_text(&self, tag: &str) -> String {
        self.text("", &format!(": {tag}; {FOREVER}"), "")
    }

    /// A unit's present container.
    pub fn running(&self, unit: &str) -> Running {
        Running::of(&self.wait_phase(unit, &["running"]))
    }

    /// Waits for another container of a unit than this.
    pub fn replaced(&self, unit: &str, old: &Running) -> Running {
        let row = self.wait_unit(unit, "replaced", |row| {
            row["phase"] == "running" && row["id"] != old.id.as_str() && row["pid"] != old.pid
        });
        Running::of(&row)
    }

    /// Has what is on disk read, and checks that a unit's container is still this one.
    pub fn kept(&self, unit: &str, old: &Running, why: &str) {
        self.run(&["sync", unit]);
        let row = self.find(unit).unwrap_or_else(|| panic!("{unit} is gone: {why}"));
        assert_eq!(Running::of(&row), *old, "{unit} should have been kept: {why}\n{}", self.output());
    }

    /// Declares a unit that prints something and ends, and returns what it printed.
    pub fn printed(&self, name: &str, script: &str, tables: &str) -> String {
        self.printed_by(name, &self.text("type = \"oneshot\"", script, tables))
    }

    /// The same with a text of one's own.
    pub fn printed_by(&self, name: &str, text: &str) -> String {
        self.unit(name, text);
        let row = self.wait_phase(name, &["completed", "failed"]);
        let log = self.log(name);
        assert_eq!(row["phase"], "completed", "{row}\n{log}\n{}", self.output());
        log
    }

    /// A directory that units can mount.
    pub fn shared(&self) -> PathBuf {
        let dir = self.dir.join("shared");
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// The reason of a unit in `ps --json`.
    pub fn reason(&self, unit: &str) -> String {
        self.find(unit).map(|row| row["reason"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    }

    /// Waits until the reason holds this.
    pub fn wait_reason(&self, unit: &str, part: &str) -> Value {
        self.wait_unit(unit, &format!("saying {part:?}"), |row| {
            row["reason"].as_str().is_some_and(|reason| reason.contains(part))
        })
    }

    /// A file of a container's cgroup, in the hierarchy of this controller; empty while the container is in none there.
    pub fn limit(&self, id: &str, controller: &str, legacy: &str, unified: &str) -> String {
        let name = self.cgroup_root.trim_start_matches('/');
        let v1 = PathBuf::from("/sys/fs/cgroup").join(controller).join(name).join(id).join(legacy);
        let v2 = cgroup2().join(name).join(id).join(unified);
        let file = if v1.exists() { v1 } else { v2 };
        fs::read_to_string(&file).unwrap_or_default().trim().to_owned()
    }

    /// What happened to a unit, as `(what, text)`.
    pub fn happened(&self, unit: &str) -> Vec<(String, String)> {
        let lines = self.ok(&["events", unit, "--json"]);
        let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        events.map(|event| (text(&event, "what"), text(&event, "text"))).collect()
    }

    /// Exit code, standard output and standard error of a command.
    pub fn says(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.run(arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }
}

/// Which container it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub id: String,
    pub pid: i64,
}

impl Running {
    pub fn of(row: &Value) -> Running {
        let id = row["id"].as_str().unwrap_or_else(|| panic!("no container in {row}"));
        Running { id: id.to_owned(), pid: row["pid"].as_i64().unwrap_or_else(|| panic!("no pid in {row}")) }
    }

    /// Waits until its process is gone.
    pub fn ended(&self) {
        wait_for(&format!("the end of pid {}", self.pid), || {
            (!PathBuf::from(format!("/proc/{}", self.pid)).exists()).then_some(())
        });
    }
}

/// As a TOML and JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

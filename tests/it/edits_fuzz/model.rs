//! What should be in force, from what was on disk.
//!
//! After each step of an edit that others can see, the worker has its units looked at here, with means of the test's own: which file counts,
//! where it leads, whether it may be trusted, and what it says. What a writer has open is not looked at. A quiet moment compares the
//! outcome with what the supervisor has in force (`moored plan --units` names each setting that differs) and with the processes that run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::operations::Kind;
use super::texts::{Meaning, meaning};
use super::{Journal, Site};
use crate::support::wait_for;
use crate::world::{Running, World};

/// No absence shorter than this removes anything (DESIGN §5: 1 s), unless a sync comes meanwhile.
const ABSENCE: Duration = Duration::from_millis(950);

/// What is on disk of one unit.
#[derive(Debug, Clone, PartialEq)]
enum State {
    /// No file, or a writer's that was not there before.
    Absent,
    /// Something that a writer has open, after an absence.
    Present,
    Masked,
    /// Nothing that could be in force, and why.
    Invalid(String),
    Valid(Box<Meaning>),
}

/// One unit since the last quiet moment.
#[derive(Default)]
struct History {
    in_force: Option<Box<Meaning>>,
    running: Option<Running>,
    states: Vec<(Instant, State)>,
    /// How many containers it had.
    containers: u64,
}

pub struct Model<'s> {
    site: &'s Site,
    units: Mutex<BTreeMap<String, History>>,
    /// What no worker touches.
    still: Vec<(&'static str, Running)>,
}

impl<'s> Model<'s> {
    pub fn new<'n>(
        site: &'s Site,
        units: impl IntoIterator<Item = &'n str>,
        still: Vec<(&'static str, Running)>,
    ) -> Model<'s> {
        let units = units.into_iter().map(|unit| (unit.to_owned(), History::default())).collect();
        Model { site, units: Mutex::new(units), still }
    }

    /// A check that failed is no reason for the next one to fail.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, History>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on disk of these units is whole now.
    pub fn note<'n>(&self, units: impl IntoIterator<Item = &'n str>) {
        for unit in units {
            let state = self.look(unit);
            let mut all = self.lock();
            let states = &mut all.get_mut(unit).unwrap().states;
            if states.last().is_none_or(|(_, last)| *last != state) {
                states.push((Instant::now(), state));
            }
        }
    }

    /// Something was begun to be written where nothing was: it is there, and no text yet.
    pub fn note_present<'n>(&self, units: impl IntoIterator<Item = &'n str>) {
        for unit in units {
            let there = self.look(unit) != State::Absent;
            let mut all = self.lock();
            let states = &mut all.get_mut(unit).unwrap().states;
            if there && states.last().is_some_and(|(_, last)| *last == State::Absent) {
                states.push((Instant::now(), State::Present));
            }
        }
    }

    /// How many containers there were in all.
    pub fn containers(&self) -> u64 {
        self.lock().values().map(|history| history.containers).sum()
    }

    /// Whether something on disk is not valid, as far as it was looked at.
    pub fn is_any_invalid(&self) -> bool {
        self.lock().values().any(|history| matches!(history.last(), State::Present | State::Invalid(_)))
    }

    fn look(&self, unit: &str) -> State {
        let files = [&self.site.above, &self.site.units].map(|dir| dir.join(format!("{unit}.toml")));
        let Some(file) = files.iter().find(|file| fs::symlink_metadata(file).is_ok()) else { return State::Absent };
        let invalid = |why: &str| State::Invalid(why.to_owned());
        let Ok(resolved) = fs::canonicalize(file) else { return invalid("leads nowhere") };
        if resolved == Path::new("/dev/null") {
            return State::Masked;
        }
        let Ok(node) = fs::metadata(&resolved) else { return invalid("leads nowhere") };
        if !node.is_file() || node.mode() & 0o002 != 0 || node.uid() != 0 || node.len() > 1 << 20 {
            return invalid("may not be read");
        }
        let Ok(bytes) = fs::read(&resolved) else { return invalid("cannot be read") };
        match meaning(unit, &self.site.root, &resolved, &bytes) {
            Some(meaning) => State::Valid(Box::new(meaning)),
            None => State::Invalid(String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned()),
        }
    }

    /// A quiet moment. Panics with what is wrong.
    pub fn check(&self, world: &World, journal: &Journal) {
        journal.say("-", "sync");
        let (code, said, _) = world.says(&["sync", "--timeout", "20s"]);
        let mut units = self.lock();
        for (unit, history) in units.iter_mut() {
            // Time has passed for what is absent: a sync does not wait until that is settled.
            let state = self.look(unit);
            assert!(
                history.states.last().is_none_or(|(_, last)| *last == state),
                "the model missed a step of {unit}, which is {state:?}: {}",
                words(&history.states)
            );
            if history.states.is_empty() {
                history.states.push((Instant::now(), state));
            }
        }
        let invalid = units.values().any(|history| matches!(history.last(), State::Invalid(_)));
        assert_eq!(code, i32::from(invalid), "the code of sync, which said:\n{said}");

        let found = self.in_force(world, &units);
        let rows = rows_of(world, &found);
        let held: BTreeSet<String> = units.keys().filter(|unit| is_held(unit, &units)).cloned().collect();
        for (unit, history) in units.iter_mut() {
            history.judge(unit, held.contains(unit), rows.get(unit).unwrap_or(&Value::Null), found[unit].clone());
        }
        for (unit, running) in &self.still {
            assert_eq!(Running::of(&rows[*unit]), *running, "{unit}, which nobody touched");
        }
    }

    /// Which of the texts that each unit may have in force it has.
    fn in_force(&self, world: &World, units: &BTreeMap<String, History>) -> BTreeMap<String, Option<Box<Meaning>>> {
        let mut candidates: BTreeMap<&str, Vec<Option<Box<Meaning>>>> =
            units.iter().map(|(unit, history)| (unit.as_str(), history.candidates(is_held(unit, units)))).collect();
        loop {
            self.write_expected(world, &candidates);
            let (_, out, err) = world.says(&["plan", "--json", "--units", self.site.expected.to_str().unwrap()]);
            let plan: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
            let changes = plan["changes"].as_array().unwrap_or_else(|| panic!("no changes in {plan}"));
            // One without a setting is about a container that is on its way, not about another text.
            let is_text = |change: &&Value| {
                let settings = change["settings"].as_array().is_some_and(|settings| !settings.is_empty());
                settings || matches!(change["how"].as_str(), Some("add" | "remove"))
            };
            let changes: Vec<&Value> = changes.iter().filter(is_text).collect();
            assert_eq!(plan["errors"].as_array().map(Vec::len), Some(0), "{plan}");
            if changes.is_empty() {
                return candidates.into_iter().map(|(unit, mut texts)| (unit.to_owned(), texts.remove(0))).collect();
            }
            for change in changes {
                let unit = change["unit"].as_str().unwrap();
                let texts = candidates.get_mut(unit).unwrap_or_else(|| panic!("{unit} is in force: {plan}"));
                texts.remove(0);
                assert!(
                    !texts.is_empty(),
                    "{unit} has a text in force that it never had: {change}\nbefore: {:?}\nsince then: {}",
                    units[unit].in_force.as_ref().map(|before| String::from_utf8_lossy(&before.bytes)),
                    words(&units[unit].states)
                );
            }
        }
    }

    /// The first of each unit's candidates, and what no worker touches.
    fn write_expected(&self, world: &World, candidates: &BTreeMap<&str, Vec<Option<Box<Meaning>>>>) {
        fs::remove_dir_all(&self.site.expected).unwrap();
        fs::create_dir(&self.site.expected).unwrap();
        for (unit, texts) in candidates {
            if let Some(Some(text)) = texts.first() {
                fs::write(self.site.expected.join(format!("{unit}.toml")), &text.bytes).unwrap();
            }
        }
        for (unit, _) in &self.still {
            let file = format!("{unit}.toml");
            fs::copy(world.units().join(&file), self.site.expected.join(&file)).unwrap();
        }
    }
}

impl History {
    fn last(&self) -> &State {
        self.states.last().map_or(&State::Absent, |(_, state)| state)
    }

    /// What may be in force now; the likeliest first, none twice. `held`: perhaps by others of its set.
    fn candidates(&self, held: bool) -> Vec<Option<Box<Meaning>>> {
        match self.last() {
            State::Absent | State::Masked => vec![None],
            State::Valid(text) if !held => vec![Some(text.clone())],
            State::Valid(_) | State::Present | State::Invalid(_) => {
                let valid = self.states.iter().rev().filter_map(|(_, state)| match state {
                    State::Valid(text) => Some(Some(text.clone())),
                    State::Absent | State::Present | State::Masked | State::Invalid(_) => None,
                });
                let before = self.in_force.is_some().then(|| self.in_force.clone());
                let mut all: Vec<Option<Box<Meaning>>> = Vec::new();
                let nothing = (self.in_force.is_none() || may_have_gone(&self.states)).then_some(None);
                for text in valid.chain(before).chain(nothing) {
                    let whole = |text: &Option<Box<Meaning>>| text.as_ref().map(|text| text.whole);
                    if !all.iter().any(|other| whole(other) == whole(&text)) {
                        all.push(text);
                    }
                }
                all
            }
        }
    }

    fn judge(&mut self, unit: &str, held: bool, row: &Value, found: Option<Box<Meaning>>) {
        let running = found.as_ref().map(|_| Running::of(row));
        if let (Some(text), Some(running)) = (&found, &running) {
            self.judge_running(unit, held, row, text, running);
        }
        let states = std::mem::take(&mut self.states);
        let before = self.in_force.take().zip(self.running.take());
        self.states = states.last().map(|(_, state)| (Instant::now(), state.clone())).into_iter().collect();
        self.containers += u64::from(running.is_some() && before.as_ref().map(|(_, was)| was) != running.as_ref());
        (self.in_force, self.running) = (found, running);
        let (Some((before, was)), Some(text), Some(is)) = (before, &self.in_force, &self.running) else { return };
        let same = |(_, state): &(Instant, State)| match state {
            State::Valid(text) => text.container == before.container,
            State::Absent | State::Present | State::Masked | State::Invalid(_) => true,
        };
        if before.container != text.container {
            assert!(was.id != is.id && was.pid != is.pid, "{unit} needs another container than {was:?}");
        } else if states.iter().all(same) && !may_have_gone(&states) {
            assert_eq!(was, *is, "{unit} has another container, and only these states were seen: {}", words(&states));
        }
    }

    fn judge_running(&self, unit: &str, held: bool, row: &Value, text: &Meaning, running: &Running) {
        assert_eq!(row["phase"], "running", "{unit}: {row}");
        assert_eq!(row["restarts"], 0, "{unit} fell: {row}");
        let valid = matches!(self.last(), State::Valid(_));
        let shown = (row["drift"].is_null(), row["reason"] == "");
        assert!(shown == (valid, valid) || held && valid && shown == (false, false), "{unit}: {row}");
        assert_eq!(words_of(running.pid, "cmdline"), text.args, "what runs of {unit}");
        let environment = words_of(running.pid, "environ");
        let mark = environment.iter().find_map(|word| word.strip_prefix("MARK=").map(str::to_owned));
        assert_eq!(mark, text.mark, "what runs of {unit}");
    }
}

/// Whether it may be of a set that does not go in force, because another one of it is not valid.
fn is_held(unit: &str, units: &BTreeMap<String, History>) -> bool {
    let set = Kind::Data.units();
    let is_bad = |unit: &&str| matches!(units[*unit].last(), State::Present | State::Invalid(_));
    set.contains(&unit) && set.iter().any(is_bad)
}

/// Whether it was absent for long enough, or masked, so that what ran may have been stopped.
fn may_have_gone(states: &[(Instant, State)]) -> bool {
    let ends = states.iter().skip(1).map(|(at, _)| *at).chain([Instant::now()]);
    states.iter().zip(ends).any(|((at, state), end)| match state {
        State::Masked => true,
        State::Absent => end - *at >= ABSENCE,
        State::Present | State::Invalid(_) | State::Valid(_) => false,
    })
}

/// For a failure to show: when and what.
fn words(states: &[(Instant, State)]) -> String {
    let word = |(at, state): &(Instant, State)| {
        let what = match state {
            State::Valid(text) => format!("valid {:?}", String::from_utf8_lossy(&text.bytes)),
            other => format!("{other:?}"),
        };
        format!("\n  {:.3} s ago {what}", at.elapsed().as_secs_f64())
    };
    states.iter().map(word).collect()
}

/// `ps`, by unit. What is to be gone has a moment to stop in.
fn rows_of(world: &World, found: &BTreeMap<String, Option<Box<Meaning>>>) -> BTreeMap<String, Value> {
    let gone = |(unit, row): (&String, &Value)| !matches!(found.get(unit), Some(None)) || row["pid"].is_null();
    wait_for("the end of what has no text in force", || {
        let rows = world.ps().into_iter().map(|row| (row["unit"].as_str().unwrap_or_default().to_owned(), row));
        let rows: BTreeMap<String, Value> = rows.collect();
        rows.iter().all(gone).then_some(rows)
    })
}

/// What `/proc/PID/cmdline` and its like hold.
fn words_of(pid: i64, file: &str) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split_terminator('\0').map(str::to_owned).collect()
}

//! `depends_on`, `on_failure` and `[condition]`: what a unit waits for before it starts, and what starts when it fails for good.
//!
//! None of it makes another container: a change is taken over as the container runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use toml::de::DeValue;

use super::UnitName;
use super::diagnostic::quote;
use super::name::BadName;
use super::walk::{Field, Table, Walk};
use crate::compact;

/// One of `depends_on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    /// What the other unit must have come to.
    pub state: Need,
    /// Waited for only while it is on its way.
    pub optional: bool,
    /// What becomes of a running container.
    pub on_loss: OnLoss,
}

/// `state` of a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// It runs; a oneshot runs or has run.
    Started,
    /// It runs, and each of its checks has passed.
    Healthy,
    /// It has ended with code 0, with the text that is in force.
    Completed,
}

/// `on_loss` of a dependency: what a container does whose dependency is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnLoss {
    /// It runs on.
    Keep,
    /// It is stopped, and starts again when the dependency is there.
    Stop,
    /// It runs on, and is started anew when the dependency is there again.
    Restart,
}

/// What the host must be like for a start. One that is not met holds a start and stops nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `condition.path_exists`: something is at this path, links followed.
    PathExists(PathBuf),
    /// `require_mountpoint` of a mount: something is mounted at this path.
    MountPoint(PathBuf),
    /// `condition.kernel_cmdline`: a word of the kernel's command line, or the name of one that is `name=value`.
    KernelCmdline(String),
}

impl Need {
    /// The word in the unit file.
    pub fn word(self) -> &'static str {
        match self {
            Need::Started => "started",
            Need::Healthy => "healthy",
            Need::Completed => "completed",
        }
    }
}

impl OnLoss {
    /// The word in the unit file.
    pub fn word(self) -> &'static str {
        match self {
            OnLoss::Keep => "keep",
            OnLoss::Stop => "stop",
            OnLoss::Restart => "restart",
        }
    }
}

impl Condition {
    /// The path that it is about.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Condition::PathExists(path) | Condition::MountPoint(path) => Some(path),
            Condition::KernelCmdline(_) => None,
        }
    }
}

const STATES: [(&str, Need); 3] =
    [("started", Need::Started), ("healthy", Need::Healthy), ("completed", Need::Completed)];
const LOSSES: [(&str, OnLoss); 3] = [("keep", OnLoss::Keep), ("stop", OnLoss::Stop), ("restart", OnLoss::Restart)];

/// `depends_on`, by unit.
pub(crate) fn depends_on(walk: &mut Walk, top: &Table, name: &UnitName) -> BTreeMap<UnitName, Dependency> {
    let mut all = BTreeMap::new();
    let Some(field) = top.field("depends_on") else { return all };
    let DeValue::Table(map) = field.value.get_ref() else {
        walk.mismatch(&field, "a table of units", Some("write depends_on = { db = \"started\" }".to_owned()));
        return all;
    };
    for (key, value) in map.iter() {
        let shown = quote(key.get_ref());
        let item = Field { name: format!("depends_on.{shown}"), key_span: key.span(), value };
        let dependency = dependency(walk, &item);
        match UnitName::new(key.get_ref()) {
            Ok(other) if other == *name => {
                walk.error(&key.span(), format!("`{}` is this unit, expected another one", item.name), None);
            }
            Ok(other) => all.extend(dependency.map(|dependency| (other, dependency))),
            Err(_) => walk.error(&key.span(), format!("`depends_on`: {}", BadName(shown)), None),
        }
    }
    all
}

fn dependency(walk: &mut Walk, item: &Field) -> Option<Dependency> {
    let DeValue::Table(map) = item.value.get_ref() else {
        let state = state(walk, item)?;
        return Some(Dependency { state, optional: false, on_loss: OnLoss::Keep });
    };
    let table = walk.checked(Table { name: "depends_on.*", span: item.key_span.clone(), map });
    let field = |key: &str| table.field(key).map(|field| Field { name: format!("{}.{key}", item.name), ..field });
    let state = field("state").map_or(Some(Need::Started), |field| state(walk, &field));
    Some(Dependency {
        optional: walk.boolean(field("optional")).unwrap_or(false),
        on_loss: walk.choice(field("on_loss"), &LOSSES, &[("ignore", "keep")]).unwrap_or(OnLoss::Keep),
        state: state?,
    })
}

fn state(walk: &mut Walk, field: &Field) -> Option<Need> {
    // Compose's words.
    let hints = [
        ("service-started", "started"),
        ("service-healthy", "healthy"),
        ("service-completed-successfully", "completed"),
        ("running", "started"),
        ("ready", "healthy"),
    ];
    walk.choice(Some(field.clone()), &STATES, &hints)
}

/// `on_failure`, without order.
pub(crate) fn on_failure(walk: &mut Walk, top: &Table, name: &UnitName) -> BTreeSet<UnitName> {
    let mut all = BTreeSet::new();
    for (at, unit) in each_text(walk, top.field("on_failure"), "a unit's name") {
        match UnitName::new(&unit) {
            Ok(other) if other == *name => walk.mismatch(&at, "another unit than this one", None),
            Ok(other) => drop(all.insert(other)),
            Err(_) => walk.error(&at.at(), format!("`on_failure`: {}", BadName(quote(&unit))), None),
        }
    }
    all
}

/// `[condition]`, and the mount points that mounts require.
pub(crate) fn conditions(walk: &mut Walk, top: &Table, mut all: Vec<Condition>) -> Vec<Condition> {
    if let Some(table) = walk.table(top, "condition", "condition") {
        for (at, text) in each_text(walk, table.field("path_exists"), "a path") {
            if text.starts_with('!') {
                walk.mismatch(
                    &at,
                    "a path",
                    Some("that something is absent is no condition in this version".to_owned()),
                );
            } else {
                all.extend(walk.host_path(Some(at)).map(Condition::PathExists));
            }
        }
        const WORD: &str = "a word like \"debug\" or \"role=db\"";
        for (at, text) in each_text(walk, table.field("kernel_cmdline"), WORD) {
            if text.is_empty() || text.starts_with('!') || text.contains(char::is_whitespace) {
                walk.mismatch(&at, WORD, None);
            } else {
                all.push(Condition::KernelCmdline(text));
            }
        }
    }
    compact::sort(&mut all);
    all.dedup();
    all
}

/// One string, or several; each with its place.
pub(crate) fn each_text<'w>(walk: &mut Walk, field: Option<Field<'w>>, expected: &str) -> Vec<(Field<'w>, String)> {
    let Some(field) = field else { return Vec::new() };
    let items = match field.value.get_ref() {
        DeValue::String(_) => vec![field],
        _ => {
            let items = walk.items(&field).unwrap_or_default().into_iter().enumerate();
            items.map(|(n, value)| Field { name: format!("{}[{n}]", field.name), value, ..field.clone() }).collect()
        }
    };
    items.into_iter().filter_map(|item| walk.text(&item, expected).map(|text| (item, text))).collect()
}

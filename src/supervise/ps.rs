//! What `ps` and `status` show: the plan's own words, and what disk and running have not in common.

use std::path::Path;

use super::clock::{self, wall, wall_of};
use super::files::BOOT_NOTES;
use super::round::Supervisor;
use crate::compact;
use crate::control::Response;
use crate::control::protocol::{Builds, Other, Runs, SupervisorReport, UnitReport, UnitStatus, fold};
use crate::keeper;
use crate::plan::{
    ExitRecord, Outcome, Phase, Reason, Seen, Status, Timetable, Want, in_number_order, status, statuses,
};
use crate::runtime::cgroup::device_rules_ignored;
use crate::unit::{ContainerId, Seccomp, Source, Unit, UnitName};

/// Most that are shown.
const BOOT_NOTES_MAX: usize = 100;

/// The oom_score_adj that supervisor and keeper ask for.
const OOM_SCORE_ADJ: i32 = -900;

fn runs(table: &Timetable, status: &Status) -> Runs {
    let next = match &status.reason {
        Reason::Scheduled { next: Some((wall, _)), .. } => Some(wall.0),
        _ => None,
    };
    let (last, outcome) = table.last.as_ref().map(|(at, outcome)| (at.0, outcome)).unzip();
    let failed = outcome.is_some_and(|outcome| !outcome.is_success());
    Runs { next, last, outcome: outcome.map(ToString::to_string), failed }
}

impl Supervisor {
    /// The rows of these units (empty: all), in name order.
    pub(super) fn ps(&self, units: &[UnitName]) -> Response {
        let now = clock::now();
        let known = statuses(&self.desired, &self.observed, now.boot);
        let is_asked = |name: &UnitName| units.is_empty() || units.contains(name);
        let mut rows: Vec<UnitReport> =
            known.iter().filter(|(name, _)| is_asked(name)).map(|(name, status)| self.row(name, status)).collect();
        let without =
            self.catalogue.names().filter(|name| is_asked(name) && !known.iter().any(|(known, _)| known == *name));
        rows.extend(without.map(|name| match self.desired.groups.contains_key(name) {
            true => self.row_of_replicas(name),
            false => self.row_without_text(name),
        }));
        // A unit with replicas is not there itself, except for a container that it had before.
        rows.retain(|row| row.pid.is_some() || !self.is_shown_by_replicas(&row.unit));
        compact::sort_by(&mut rows, |a, b| by_number(&a.unit, &b.unit));
        Response::Units { units: rows, notes: self.notes() }
    }

    fn is_shown_by_replicas(&self, unit: &str) -> bool {
        let group = UnitName::new(unit).ok().filter(|name| self.desired.groups.contains_key(name));
        group.is_some_and(|group| self.desired.members(&group).next().is_some())
    }

    /// All replicas of a unit in one row.
    fn row_of_replicas(&self, group: &UnitName) -> UnitReport {
        let statuses = statuses(&self.desired, &self.observed, clock::now().boot);
        let all = self.desired.members(group).filter_map(|(name, _)| {
            let (_, status) = statuses.iter().find(|(known, _)| known == name)?;
            Some(self.row(name, status))
        });
        let all: Vec<UnitReport> = all.collect();
        let listens = self.observed.unit(group).map(|seen| seen.listening().map(ToString::to_string).collect());
        UnitReport {
            drift: self.catalogue.drift(group),
            listens: listens.unwrap_or_default(),
            ..fold(group.as_str(), &all)
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.catalogue.notes();
        if !self.scanned {
            notes.push("the directories are being read".to_owned());
        }
        // In memory, as all of the run-dir: of a machine's process 1, about its boot.
        let boot = std::fs::read_to_string(self.settings.run_dir.join(BOOT_NOTES)).unwrap_or_default();
        notes.extend(boot.lines().take(BOOT_NOTES_MAX).map(str::to_owned));
        notes
    }

    fn row(&self, name: &UnitName, status: &Status) -> UnitReport {
        let seen = self.observed.unit(name);
        let live = seen.and_then(|seen| seen.live.as_ref());
        UnitReport {
            unit: name.to_string(),
            phase: phase_word(status.phase).to_owned(),
            pid: live.and_then(|live| live.pid).and_then(|pid| i32::try_from(pid.0).ok()),
            since: status.since.map(|since| wall_of(since).0),
            restarts: seen.map_or(0, |seen| seen.restarts),
            exit: seen.and_then(|seen| seen.last.as_deref()).map(exit_words),
            reason: self.reason(name, seen, status),
            health: status.health.map(|health| health.word().to_owned()),
            drift: self.catalogue.drift(name),
            id: live.map(|live| live.id.to_string()),
            beside: seen.and_then(|seen| seen.beside.as_deref()).map(|other| Other {
                id: other.id.to_string(),
                pid: other.pid.and_then(|pid| i32::try_from(pid.0).ok()),
            }),
            schedule: seen.and_then(|seen| seen.timetable.as_deref()).map(|table| runs(table, status)),
            replica_of: self.desired.units.get(name).and_then(Want::group).map(ToString::to_string),
            listens: self
                .sockets_of(name)
                .map(|seen| seen.listening().map(ToString::to_string).collect())
                .unwrap_or_default(),
        }
    }

    /// Who has the sockets of a unit.
    fn sockets_of(&self, name: &UnitName) -> Option<&Seen> {
        self.observed.unit(self.desired.declared(name))
    }

    /// The first error of the text on disk, or else what disk and running have not in common; then the plan's sentence.
    fn reason(&self, name: &UnitName, seen: Option<&Seen>, status: &Status) -> String {
        let words = status.reason.words(clock::now().boot, &wall);
        let trouble = seen.and_then(|seen| seen.trouble.clone());
        let errors = self.catalogue.errors(name);
        let error = self.first_error(name).map(|first| {
            let runs = if matches!(status.phase, Phase::Running | Phase::Ready) { "running with" } else { "in force:" };
            format!("{first}; {runs} the last good text")
        });
        let is_trying =
            |want: &Want| want.trial.is_some() && seen.and_then(|seen| seen.proven) != Some(want.fingerprint);
        let trial = self.desired.units.get(name).is_some_and(is_trying);
        let trial = trial.then(|| "the new text is on trial".to_owned());
        let parts = [error, self.catalogue.drift(name).filter(|_| errors.is_empty()), Some(words), trial, trouble];
        let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        parts.join("; ")
    }

    /// Without the directory, which `status` shows.
    fn first_error(&self, name: &UnitName) -> Option<String> {
        let errors = self.catalogue.errors(name);
        let dir = self.catalogue.file(name).and_then(Path::parent).map(|dir| format!("{}/", dir.display()));
        let first = errors.first()?;
        let short = dir.and_then(|dir| first.strip_prefix(&dir)).unwrap_or(first);
        Some(match errors.len() {
            1 => short.to_owned(),
            count => format!("{short} (and {} more)", count - 1),
        })
    }

    /// Nothing of it is in force: it differs from nothing unless it waits for that, and is not to run if it is masked.
    fn row_without_text(&self, name: &UnitName) -> UnitReport {
        let (phase, reason) = match self.first_error(name) {
            Some(error) => (Phase::Failed, error),
            None if self.catalogue.mask_of(name).is_some() => {
                (Phase::Stopped, self.catalogue.drift(name).unwrap_or_default())
            }
            None => (Phase::Waiting, self.catalogue.drift(name).unwrap_or_default()),
        };
        let drift = self.catalogue.next(name).and_then(|_| self.catalogue.drift(name));
        let phase = phase_word(phase).to_owned();
        UnitReport { unit: name.to_string(), phase, reason, drift, ..UnitReport::default() }
    }

    /// All that is known without looking at the host; the live container's id beside it.
    pub(super) fn unit_status(&self, name: &UnitName) -> (Option<ContainerId>, UnitStatus) {
        let now = clock::now();
        let seen = self.observed.unit(name);
        let live = seen.and_then(|seen| seen.live.as_ref());
        let known = self.desired.units.contains_key(name) || seen.is_some();
        let report = match known {
            _ if self.desired.groups.contains_key(name) => self.row_of_replicas(name),
            true => self.row(name, &status(&self.desired, &self.observed, name, now.boot)),
            false => self.row_without_text(name),
        };
        let good = self.catalogue.in_force(name);
        let unit = good.map(|good| good.unit.as_ref());
        let status = UnitStatus {
            report,
            description: unit.and_then(|unit| unit.description.clone()),
            file: self.catalogue.file(name).map(ToOwned::to_owned),
            merged_with: good.iter().flat_map(|good| &good.layers).map(|layer| layer.file.clone()).collect(),
            errors: self.catalogue.errors(name).to_vec(),
            source: unit.map(source_words).unwrap_or_default(),
            first_id: live
                .and_then(|live| live.pid)
                .filter(|_| unit.is_some_and(Unit::has_own_users))
                .and_then(|pid| first_id(pid.0)),
            previous_exit: seen.and_then(|seen| seen.previous.as_deref()).map(exit_words),
            cgroup: live.map(|live| format!("{}/{}", self.settings.cgroup_root.display(), live.id)),
            looser: unit
                .map(looser)
                .into_iter()
                .flatten()
                .chain(good.into_iter().flat_map(|good| good.warnings.iter().cloned()))
                .chain(device_rules_ignored().map(str::to_owned))
                .collect(),
            ..UnitStatus::default()
        };
        (live.map(|live| live.id.clone()), status)
    }

    pub(super) fn has_met_keeper(&self) -> bool {
        self.keeper != keeper::Stats::default()
    }

    fn builds_report(&self) -> Builds {
        let (anchor, keeper) = (self.builds.anchor.clone(), self.builds.keeper.clone());
        Builds { anchor, keeper: Some(keeper).filter(|keeper| !keeper.is_empty()), supervisor: keeper::build() }
    }

    pub(super) fn supervisor_report(&self) -> Response {
        let anchor = self.keeper.anchor;
        let mut notes = self.notes();
        if self.settings.manual {
            notes.push("up --manual: files take effect with `moored apply`".to_owned());
        }
        if !self.keeper.spare {
            notes.push(
                "no spare: if the keeper dies too, exits may be unknown; `moored down`, then `moored up` gives one"
                    .to_owned(),
            );
        }
        if self.keeper.oom_score_adj != OOM_SCORE_ADJ {
            notes.push(format!(
                "oom_score_adj is {} instead of {OOM_SCORE_ADJ}: CAP_SYS_RESOURCE is missing",
                self.keeper.oom_score_adj
            ));
        }
        let builds = self.builds_report();
        if [&builds.anchor, &builds.keeper].into_iter().flatten().any(|build| *build != builds.supervisor) {
            notes.push("not all three are of one build: `moored upgrade` makes them so".to_owned());
        }
        notes.extend(device_rules_ignored().map(str::to_owned));
        Response::Supervisor(Box::new(SupervisorReport {
            anchor,
            keeper: Some(self.keeper.keeper),
            supervisor: i32::try_from(std::process::id()).unwrap_or(0),
            builds,
            notes,
            units_dirs: self.settings.units_dirs.clone(),
            units: self.desired.units.len(),
            containers: self.observed.units.values().map(|seen| seen.lives().count()).sum(),
            log_bytes: self.log.bytes(),
            unknown_cgroups: self.unknown_cgroups.iter().map(ToString::to_string).collect(),
        }))
    }
}

/// Names that cannot be read come last.
fn by_number(a: &str, b: &str) -> std::cmp::Ordering {
    match (UnitName::new(a), UnitName::new(b)) {
        (Ok(a), Ok(b)) => in_number_order(&a, &b),
        _ => a.cmp(b),
    }
}

pub(super) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Ready => "ready",
        Phase::Stopping => "stopping",
        Phase::Backoff => "backoff",
        Phase::Completed => "completed",
        Phase::Failed => "failed",
        Phase::Stopped => "stopped",
        Phase::Stuck => "stuck",
    }
}

fn exit_words(record: &ExitRecord) -> String {
    match &record.outcome {
        Outcome::Exited { exit, oom: false } => super::narrate::words(*exit),
        Outcome::Exited { exit, oom: true } => format!("{} (out of memory)", super::narrate::words(*exit)),
        Outcome::Unhealthy { exit, .. } => format!("{} (unhealthy)", super::narrate::words(*exit)),
        Outcome::StartFailed { text } => format!("start failed: {text}"),
    }
}

/// As the kernel has it; a figure for people, of a process that may be gone.
fn first_id(pid: u32) -> Option<u32> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?;
    map.split_whitespace().nth(1)?.parse().ok().filter(|first| *first != 0)
}

fn source_words(unit: &Unit) -> String {
    let kind = match &unit.source {
        Source::Host => return "the host itself (security.profile)".to_owned(),
        Source::Bundle(_) => "bundle",
        Source::Rootfs(_) => "rootfs",
        Source::Layers(_) => "layers",
        Source::Executable(_) => "executable",
    };
    format!("{kind} {}", unit.source.path().display())
}

/// Settings looser than the hardened defaults, which hold for rootfs and executable.
fn looser(unit: &Unit) -> Vec<String> {
    if unit.source == Source::Host {
        return vec!["profile = \"host\": root, namespaces and devices of the host's".to_owned()];
    }
    if !unit.source.is_hardened() {
        return Vec::new();
    }
    let security = &unit.security;
    let capabilities = security.capabilities.as_ref().filter(|names| !names.is_empty());
    let found = [
        capabilities.map(|names| format!("capabilities: {}", names.join(" "))),
        (security.no_new_privileges == Some(false)).then(|| "no_new_privileges = false".to_owned()),
        match &security.seccomp {
            Some(Seccomp::Unconfined) => Some("seccomp = \"unconfined\"".to_owned()),
            Some(Seccomp::File(file)) => Some(format!("seccomp = \"{file}\"")),
            Some(Seccomp::Default) | None => None,
        },
        (security.read_only == Some(false)).then(|| "read_only = false".to_owned()),
        matches!(unit.network, Some(crate::unit::Network::Host)).then(|| "network = \"host\"".to_owned()),
        (!unit.devices.is_empty()).then(|| format!("{} devices of the host's", unit.devices.len())),
        (!unit.oci.is_empty()).then(|| "[oci] settings".to_owned()),
    ];
    found.into_iter().flatten().collect()
}

//! Answers as text: `ps`, `status`, `events`, `plan`. Pure: values and a [`Style`] in, text out.
//!
//! Everything that came from a file or a container is shown on one line with control characters escaped, also when piped: a name must
//! not be able to forge a row.

use std::fmt::Write;

use super::text::{Colour, Style, bytes, cut, phase_colour};
use crate::control::protocol::{
    Account, Change, Event, MergedText, Other, SupervisorReport, UnitReport, UnitStatus, fold,
};
use crate::supervise::log::{escape_controls, rfc3339_ms};
use crate::unit::diagnostic::one_line;

/// The reason keeps this many columns on a narrow terminal; then the line wraps.
const REASON_MIN: usize = 20;

const PS_HEAD: [&str; 7] = ["UNIT", "PHASE", "PID", "SINCE", "RESTARTS", "EXIT", "REASON"];

/// Units that are not as they should be, for `ps --failed`; those too that wait for their next time after a run that failed.
pub fn is_failed(report: &UnitReport) -> bool {
    let waits = report.phase == "waiting";
    let has_failed = report.schedule.as_ref().is_some_and(|runs| runs.failed);
    waits && has_failed || matches!(report.phase.as_str(), "failed" | "stuck" | "backoff")
}

/// One row for all replicas of a unit, where the first of them stands.
pub fn folded(units: Vec<UnitReport>) -> Vec<UnitReport> {
    let mut groups: Vec<Vec<UnitReport>> = Vec::new();
    for row in units {
        // One with a file of its own may stand among them.
        let is_beside = |group: &&mut Vec<UnitReport>| group.iter().any(|other| other.replica_of == row.replica_of);
        match groups.iter_mut().rfind(is_beside).filter(|_| row.replica_of.is_some()) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    let folded = |group: Vec<UnitReport>| match group.first().and_then(|first| first.replica_of.as_deref()) {
        Some(unit) => vec![fold(unit, &group)],
        None => group,
    };
    groups.into_iter().flat_map(folded).collect()
}

/// The table, and the notes below it.
pub fn ps(units: &[UnitReport], notes: &[String], style: &Style) -> String {
    let rows: Vec<[String; 7]> = units.iter().map(|unit| ps_row(unit, style)).collect();
    let mut out = String::new();
    if rows.is_empty() {
        out.push_str("no units\n");
    } else {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([PS_HEAD[column].len()]).max().unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        let used: usize = widths.iter().map(|width| width + 2).sum();
        let room = style.width.map_or(usize::MAX, |width| width.saturating_sub(used).max(REASON_MIN));
        let head = PS_HEAD.map(String::from);
        for (row, phase) in std::iter::once((&head, None)).chain(rows.iter().map(|row| (row, Some(row[1].clone())))) {
            ps_line(&mut out, row, &widths, room, phase.as_deref(), style);
        }
    }
    for note in notes {
        let _ = writeln!(out, "{} {}", style.paint(Colour::Yellow, "note:"), one_line(note));
    }
    out
}

fn ps_row(unit: &UnitReport, style: &Style) -> [String; 7] {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    // The reason says what differs.
    let mut reason = if unit.drift.is_some() { format!("DRIFT: {}", unit.reason) } else { unit.reason.clone() };
    if !unit.listens.is_empty() {
        let semicolon = if reason.is_empty() { "" } else { "; " };
        reason = format!("{reason}{semicolon}listens at {}", unit.listens.join(", "));
    }
    [
        one_line(&unit.unit),
        one_line(&unit.phase),
        or_dash(unit.pid.map(|pid| pid.to_string())),
        or_dash(unit.since.map(|since| style.ago(since))),
        unit.restarts.to_string(),
        or_dash(unit.exit.as_deref().map(one_line)),
        one_line(&reason),
    ]
}

fn ps_line(out: &mut String, row: &[String; 7], widths: &[usize; 6], room: usize, phase: Option<&str>, style: &Style) {
    for (column, width) in widths.iter().enumerate() {
        let padded = format!("{:width$}", row[column]);
        match (column, phase) {
            (1, Some(phase)) => out.push_str(&style.paint(phase_colour(phase), &padded)),
            _ => out.push_str(&padded),
        }
        out.push_str("  ");
    }
    out.push_str(&cut(&row[6], room));
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// `status UNIT`.
pub fn status(status: &UnitStatus, style: &Style) -> String {
    let report = &status.report;
    let colour = phase_colour(&report.phase);
    let mark = match colour {
        Colour::Green | Colour::Yellow => "●",
        Colour::Red => "×",
        Colour::Plain | Colour::Dim | Colour::Bold => "○",
    };
    let mut out = String::new();
    let name = style.paint(Colour::Bold, &one_line(&report.unit));
    let description = status.description.as_deref().map(|text| format!(" - {}", one_line(text)));
    let _ = writeln!(out, "{} {name}{}", style.paint(colour, mark), description.unwrap_or_default());
    let mut field = |name: &str, text: String| {
        let _ = writeln!(out, "{name:>10}: {text}");
    };
    field("File", status.file.as_ref().map_or("none".into(), |file| one_line(&file.to_string_lossy())));
    for file in &status.merged_with {
        field("With", one_line(&file.to_string_lossy()));
    }
    if !status.source.is_empty() {
        field("Source", one_line(&status.source));
    }
    let since = report.since.map(|since| format!(" since {} ({})", rfc3339_ms(since), style.ago(since)));
    field("Phase", style.paint(colour, &one_line(&report.phase)) + &since.unwrap_or_default());
    let optional = [
        ("Reason", Some(report.reason.clone()).filter(|reason| !reason.is_empty())),
        ("Health", report.health.clone()),
        ("Container", report.id.clone()),
        ("Pid", report.pid.map(|pid| pid.to_string())),
        ("Ids", status.first_id.map(ids)),
        ("Beside", report.beside.as_ref().map(beside)),
        ("Listens", Some(report.listens.join(", ")).filter(|listens| !listens.is_empty())),
        ("Restarts", Some(report.restarts.to_string())),
        ("Last exit", report.exit.clone()),
        ("Before", status.previous_exit.clone()),
        ("Memory", memory(status)),
        ("Tasks", status.tasks.map(|tasks| tasks.to_string())),
        ("CPU", status.cpu_us.map(|us| format!("{}.{:03}s", us / 1_000_000, us / 1000 % 1000))),
        ("Cgroup", status.cgroup.clone()),
    ];
    for (name, text) in optional {
        if let Some(text) = text {
            field(name, one_line(&text));
        }
    }
    for text in &status.looser {
        field("Looser", one_line(text));
    }
    for error in &status.errors {
        field("Error", style.paint(Colour::Red, &one_line(error)));
    }
    lines_below(&mut out, &status.log);
    out
}

fn ids(first: u32) -> String {
    format!("0 to 65535 inside are {first} to {} of the host's", first.saturating_add(65_535))
}

fn beside(other: &Other) -> String {
    let pid = other.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    format!("{}{pid}", other.id)
}

fn memory(status: &UnitStatus) -> Option<String> {
    let used = bytes(status.memory_bytes?);
    Some(match status.memory_limit_bytes {
        Some(limit) => format!("{used} of {}", bytes(limit)),
        None => used,
    })
}

fn lines_below(out: &mut String, lines: &[String]) {
    if !lines.is_empty() {
        out.push('\n');
    }
    for line in lines {
        let _ = writeln!(out, "{}", escape_controls(line.as_bytes()));
    }
}

/// `status` without a unit.
pub fn supervisor(report: &SupervisorReport, style: &Style) -> String {
    let mut out = format!("{} {}\n", style.paint(Colour::Green, "●"), style.paint(Colour::Bold, "moored"));
    let mut field = |name: &str, text: String| {
        let _ = writeln!(out, "{name:>10}: {text}");
    };
    let pid = |pid: Option<i32>| pid.map_or("none".into(), |pid| pid.to_string());
    field(
        "Pids",
        format!("anchor {}, keeper {}, supervisor {}", pid(report.anchor), pid(report.keeper), report.supervisor),
    );
    let builds = &report.builds;
    match [&builds.anchor, &builds.keeper].into_iter().flatten().all(|build| *build == builds.supervisor) {
        true => field("Build", one_line(&builds.supervisor)),
        false => {
            let of = |build: &Option<String>| build.as_deref().map_or_else(|| "unknown".to_owned(), one_line);
            let (anchor, keeper) = (of(&builds.anchor), of(&builds.keeper));
            field("Build", format!("anchor {anchor}, keeper {keeper}, supervisor {}", one_line(&builds.supervisor)));
        }
    }
    field("Units", format!("{}, {} containers", report.units, report.containers));
    for dir in &report.units_dirs {
        field("Directory", one_line(&dir.to_string_lossy()));
    }
    field("Logs", bytes(report.log_bytes));
    for cgroup in &report.unknown_cgroups {
        field("Cgroup", format!("{} is nobody's", one_line(cgroup)));
    }
    for note in &report.notes {
        field("Note", style.paint(Colour::Yellow, &one_line(note)));
    }
    out
}

/// One line of `events`.
pub fn event(event: &Event, style: &Style) -> String {
    let unit = event.unit.as_deref().map_or_else(|| "-".into(), one_line);
    // Mostly the text names them already.
    let by = event.by.as_deref().filter(|by| *by != "file" && !event.text.contains(by));
    let by = by.map(|by| format!(" (by {})", one_line(by))).unwrap_or_default();
    let colour = match event.what.as_str() {
        "started" | "ready" | "completed" | "adopted" => Colour::Green,
        "failed" | "stuck" | "invalid" => Colour::Red,
        _ => Colour::Plain,
    };
    let text = if event.text.is_empty() { &event.what } else { &event.text };
    let text = style.paint(colour, &one_line(text));
    let time = rfc3339_ms(event.time);
    format!("{time} {} {text}{by}\n", style.paint(Colour::Bold, &unit))
}

/// `why`: what led to the present, oldest first, then the present.
pub fn why(account: &Account, style: &Style) -> String {
    let mut out = String::new();
    if account.cut {
        out.push_str("(what came before is not kept any more)\n");
    }
    for link in &account.chain {
        out.push_str(&event(&link.event, style));
        if link.left_out > 0 {
            let _ = writeln!(out, "(… {} more events …)", link.left_out);
        }
    }
    let now = &account.now;
    let phase = style.paint(phase_colour(&now.phase), &now.phase);
    let since = now.since.map(|since| format!(" since {}", rfc3339_ms(since))).unwrap_or_default();
    let id = now.id.as_ref().map(|id| format!(" as {}", one_line(id))).unwrap_or_default();
    let reason = if now.reason.is_empty() { String::new() } else { format!(": {}", one_line(&now.reason)) };
    let _ = writeln!(out, "now {} {phase}{id}{since}{reason}", style.paint(Colour::Bold, &one_line(&now.unit)));
    out
}

/// `cat`: a unit file. What is said about it stands in comments, so that it stays one.
pub fn cat(merged: &MergedText) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "# {}, merged from", one_line(&merged.unit));
    for file in &merged.files {
        let _ = writeln!(out, "#   {}", one_line(&file.to_string_lossy()));
    }
    match (&merged.differs, merged.errors.is_empty()) {
        (_, false) => out.push_str("# This is in force, because what is on disk is not valid:\n"),
        (Some(differs), true) => {
            let _ = writeln!(out, "# This is in force; what is on disk is not: {}", one_line(differs));
        }
        (None, true) => {}
    }
    for error in &merged.errors {
        let _ = writeln!(out, "#   {}", one_line(error));
    }
    out.push('\n');
    out.push_str(&merged.text);
    out
}

/// Settings listed for one unit.
const SETTINGS_MAX: usize = 20;

/// `plan`.
pub fn plan(changes: &[Change], errors: &[String], hash: Option<&str>, style: &Style) -> String {
    let mut out = String::new();
    let width = changes.iter().map(|change| one_line(&change.unit).chars().count()).max().unwrap_or(0);
    for change in changes {
        let (sign, colour) = match change.how.as_str() {
            "add" => ("+", Colour::Green),
            "remove" | "stop" => ("-", Colour::Red),
            "invalid" => ("!", Colour::Red),
            _ => ("~", Colour::Yellow),
        };
        let head = format!("{sign} {:width$}  {:7}", one_line(&change.unit), one_line(&change.how));
        let _ = writeln!(out, "{}  {}", style.paint(colour, &head), one_line(&change.why));
        for setting in change.settings.iter().take(SETTINGS_MAX) {
            let shown = |value: &Option<String>| value.as_ref().map_or("default".into(), |value| one_line(value));
            let (name, how) = (one_line(&setting.name), one_line(&setting.how));
            let _ = writeln!(out, "    {how:7}  {name}: {} → {}", shown(&setting.old), shown(&setting.new));
        }
        if let Some(more) = change.settings.len().checked_sub(SETTINGS_MAX).filter(|more| *more > 0) {
            let _ = writeln!(out, "    and {more} more (--json lists them)");
        }
    }
    if changes.is_empty() {
        out.push_str("nothing would change\n");
    }
    for error in errors {
        let _ = writeln!(out, "{} {}", style.paint(Colour::Red, "error:"), one_line(error));
    }
    let waits = changes.iter().any(|change| !matches!(change.how.as_str(), "invalid" | "wait"));
    if let Some(hash) = hash.filter(|_| waits) {
        let _ = writeln!(out, "exactly this: moored apply --plan {}", one_line(hash));
    }
    out
}

#[cfg(test)]
mod tests;

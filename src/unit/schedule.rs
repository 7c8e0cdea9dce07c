//! `[schedule]`: a oneshot that runs at times of the calendar. When each comes is decided in `plan::schedule`.
//!
//! A unit with a schedule is a oneshot, also if it does not say so: one that stays up has no times. What makes new runs of failures is `[restart]`, as
//! for any; one that would run again after a success is a mistake.

use std::sync::Arc;
use std::time::Duration;

use super::calendar::Calendar;
use super::walk::{Field, Table, Walk};
use super::{Kind, RestartPolicy};

/// The table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// When.
    pub calendar: Calendar,
    /// By the clock of which zone, as in /usr/share/zoneinfo; `None`: the host's.
    pub time_zone: Option<String>,
    /// What is missed while the host is off is made up for, by one run.
    pub persistent: bool,
    /// Each run begins up to so much later.
    pub random_delay: Duration,
    /// A run that takes longer is stopped, and has failed.
    pub max_runtime: Option<Duration>,
    /// On a host without a clock of its own nothing is started before somebody has set it.
    pub wait_for_clock: bool,
}

/// Longer names than any zone has.
const ZONE_MAX: usize = 64;

/// `None`: there is none.
pub(crate) fn schedule(walk: &mut Walk, top: &Table) -> Option<Arc<Schedule>> {
    let table = walk.table(top, "schedule", "schedule")?;
    let random_delay = walk.duration(table.field("random_delay"), Duration::ZERO).unwrap_or_default();
    let max_runtime = walk.duration(table.field("max_runtime"), Duration::from_secs(1));
    let persistent = walk.boolean(table.field("persistent")).unwrap_or(false);
    let wait_for_clock = walk.boolean(table.field("wait_for_clock")).unwrap_or(true);
    let time_zone = table.field("time_zone").and_then(|field| time_zone(walk, &field));
    let Some(field) = table.field("calendar") else {
        if table.is_regular() {
            let help = "write for example calendar = \"Mon..Fri 02:30\"";
            walk.absent(&table.span, "`schedule` has no `calendar`, expected when it is to run", Some(help));
        }
        return None;
    };
    let calendar = calendar(walk, &field)?;
    Some(Arc::new(Schedule { calendar, time_zone, persistent, random_delay, max_runtime, wait_for_clock }))
}

fn calendar(walk: &mut Walk, field: &Field) -> Option<Calendar> {
    let text = walk.word(field, "times like \"Mon..Fri 02:30\" or \"daily\"")?;
    let bad = match Calendar::parse(text) {
        Ok(calendar) => return Some(calendar),
        Err(bad) => bad,
    };
    let (mut at, text) = (field.at(), text.len());
    // Where the text stands as it is between its quotes, the place in it is known.
    if at.len() == text + 2 {
        at = at.start + 1 + bad.at..at.end - 1;
    }
    walk.error(&at, format!("`{}` {}", field.name, bad.message), bad.help);
    None
}

fn time_zone(walk: &mut Walk, field: &Field) -> Option<String> {
    const EXPECTED: &str = "a time zone like \"Europe/Berlin\" or \"UTC\"";
    let text = walk.word(field, EXPECTED)?.to_owned();
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-_".contains(&b));
    if text.len() > ZONE_MAX || !text.split('/').all(is_part) {
        walk.mismatch(field, EXPECTED, None);
        return None;
    }
    Some(text)
}

/// The type of a unit with a schedule, and its restart policy.
pub(crate) fn check(walk: &mut Walk, top: &Table, schedule: bool, kind: Option<Kind>, policy: RestartPolicy) {
    if !schedule {
        return;
    }
    if let (Some(Kind::Service), Some(field)) = (kind, top.field("type")) {
        let help = "a unit with a schedule is a oneshot: leave `type` out".to_owned();
        walk.error(&field.at(), "`type` \"service\" beside [schedule]", Some(help));
    } else if let RestartPolicy::Always | RestartPolicy::OnSuccess = policy
        && let Some(field) = top.field("restart")
    {
        let help = "\"on-failure\" and \"on-abnormal\" try again before the next time".to_owned();
        walk.error(
            &field.key_span,
            "`restart.policy` beside [schedule] would run it again after a success",
            Some(help),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::unit::{Unit, UnitName, parse};

    fn read(text: &str) -> Result<Unit, Vec<String>> {
        let text = format!("bundle = \"/b\"\n{text}");
        let parsed = parse(&UnitName::new("web").unwrap(), Path::new("/u/web.toml"), &text);
        let line = |error: &crate::unit::Diagnostic| {
            let help = error.help.as_ref().map(|help| format!(", {help}")).unwrap_or_default();
            format!("{}:{} {}{help}", error.line, error.column, error.message)
        };
        parsed.map(|parsed| parsed.unit).map_err(|errors| errors.iter().map(line).collect())
    }

    #[test]
    fn a_unit_with_a_schedule_is_a_oneshot() {
        let unit =
            read("[schedule]\ncalendar = \"daily\"\ntime_zone = \"Europe/Berlin\"\nrandom_delay = \"1h\"\n").unwrap();
        let schedule = unit.schedule.unwrap();
        assert_eq!((unit.kind, unit.restart.policy), (Kind::Oneshot, RestartPolicy::Never));
        assert_eq!(
            (schedule.calendar.to_string(), schedule.time_zone.as_deref()),
            ("daily".to_owned(), Some("Europe/Berlin"))
        );
        assert_eq!(
            (schedule.random_delay, schedule.persistent, schedule.wait_for_clock),
            (Duration::from_secs(3600), false, true)
        );
        assert_eq!(read("").unwrap().kind, Kind::Service);
    }

    #[test]
    fn mistakes_have_their_place_in_the_expression() {
        for (text, expected) in [
            (
                "[schedule]\ncalendar = \"Mon..Fry 02:30\"",
                "3:18 `schedule.calendar` holds `Fry`, expected a weekday like Mon, did you mean \"Fri\"?",
            ),
            (
                "[schedule]\ncalendar = \"30 2 * * *\"",
                "3:13 `schedule.calendar` is in the form of cron, did you mean \"02:30\"?",
            ),
            (
                "[schedule]\ncalendar = 5",
                "3:12 `schedule.calendar` is the integer 5, expected times like \"Mon..Fri 02:30\" or \"daily\", write \"5\"",
            ),
            (
                "[schedule]\ncalendar = \"daily\"\ntime_zone = \"../etc/passwd\"",
                "4:13 `schedule.time_zone` is the string \"../etc/passwd\", expected a time zone like \"Europe/Berlin\" or \"UTC\"",
            ),
            (
                "[schedule]\npersistent = true",
                "2:2 `schedule` has no `calendar`, expected when it is to run, write for example calendar = \"Mon..Fri 02:30\"",
            ),
            (
                "type = \"service\"\n[schedule]\ncalendar = \"daily\"",
                "2:8 `type` \"service\" beside [schedule], a unit with a schedule is a oneshot: leave `type` out",
            ),
            (
                "restart.policy = \"always\"\n[schedule]\ncalendar = \"daily\"",
                "2:1 `restart.policy` beside [schedule] would run it again after a success, \"on-failure\" and \"on-abnormal\" try again before the next time",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), [expected]);
        }
    }
}

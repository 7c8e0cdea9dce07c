//! Calendar expressions, in systemd's form (systemd.time(7), "Calendar Events"): `Mon..Fri 02:30`, `*-*-1 04:00`, `*:0/15`, `daily`.
//!
//! ```text
//! [weekdays] [[year-]month-day] [hour:minute[:second]]      minutely hourly daily weekly monthly quarterly semiannually yearly
//! ```
//!
//! A part is `*`, or a list of numbers, ranges (`8..18`) and steps (`0/15`, `8..18/2`, `*/5`); weekdays are names and ranges of names. `~` in place of the
//! last `-` of a date counts days from the end of the month: `*-02~01` is the last day of February. What is left out is every day, and midnight. Seconds are
//! whole. The time zone is no part of it: it has a key of its own.
//!
//! This is civil time: what becomes of it where the clocks change is said in `plan::schedule`.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};

use super::diagnostic::quote;
use crate::words::nearest;

/// Beyond it nothing is looked for, as in systemd.
const YEAR_MAX: i16 = 2199;
const YEAR_MIN: i16 = 1970;

/// Longer ones are a mistake.
const TEXT_MAX: usize = 512;

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Names, and what they stand for.
const NAMED: [(&str, &str); 9] = [
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("weekly", "Mon *-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
];

/// Which moments; each set is a mask of the numbers that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    text: String,
    /// Monday is 0.
    weekdays: u64,
    years: Vec<Step>,
    months: u64,
    days: u64,
    /// Days count from the end of the month, 1 is the last.
    from_end: bool,
    hours: u64,
    minutes: u64,
    seconds: u64,
}

/// Numbers from one to another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    from: u32,
    to: u32,
    by: u32,
}

/// What is wrong with an expression, and where: a byte offset in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCalendar {
    /// Of the first byte that is wrong.
    pub at: usize,
    /// What was found and expected.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

fn bad<T>(at: usize, message: impl Into<String>, help: Option<String>) -> Result<T, BadCalendar> {
    Err(BadCalendar { at, message: message.into(), help })
}

/// Some words of the text, with their place.
#[derive(Clone, Copy)]
struct Part<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Part<'t> {
    /// Its pieces between these.
    fn split(self, separator: char) -> impl Iterator<Item = Part<'t>> {
        let mut at = self.at;
        self.text.split(separator).map(move |text| {
            let part = Part { text, at };
            at += text.len() + separator.len_utf8();
            part
        })
    }

    fn after(self, bytes: usize) -> Part<'t> {
        Part { text: self.text.get(bytes..).unwrap_or_default(), at: self.at + bytes }
    }

    fn before(self, bytes: usize) -> Part<'t> {
        Part { text: self.text.get(..bytes).unwrap_or_default(), at: self.at }
    }
}

/// What a number may be.
struct Range {
    name: &'static str,
    from: u32,
    to: u32,
}

const YEAR: Range = Range { name: "a year", from: YEAR_MIN as u32, to: YEAR_MAX as u32 };
const MONTH: Range = Range { name: "a month", from: 1, to: 12 };
const DAY: Range = Range { name: "a day", from: 1, to: 31 };
const HOUR: Range = Range { name: "an hour", from: 0, to: 23 };
const MINUTE: Range = Range { name: "a minute", from: 0, to: 59 };
const SECOND: Range = Range { name: "a second", from: 0, to: 59 };

impl Range {
    fn all(&self) -> Step {
        Step { from: self.from, to: self.to, by: 1 }
    }
}

fn mask(steps: &[Step]) -> u64 {
    steps.iter().flat_map(|step| (step.from..=step.to).step_by(step.by as usize)).fold(0, |mask, n| mask | 1 << n)
}

fn holds(mask: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| mask >> number & 1 == 1)
}

/// The next number of a set from this one on.
fn next_in(mask: u64, from: i8) -> Option<i8> {
    let left = mask >> u32::try_from(from).ok()?;
    (left != 0).then(|| from.saturating_add(left.trailing_zeros() as i8))
}

impl Calendar {
    /// Reads one. One that never comes is a mistake.
    pub fn parse(text: &str) -> Result<Calendar, BadCalendar> {
        if text.len() > TEXT_MAX {
            return bad(0, format!("has {} bytes, expected at most {TEXT_MAX}", text.len()), None);
        }
        let named = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
        let found = read(named.map_or(text, |(_, meaning)| meaning));
        let calendar = Calendar { text: text.trim().to_owned(), ..found.map_err(|wrong| with_help(text, wrong))? };
        if calendar.next(DateTime::constant(YEAR_MIN, 1, 1, 0, 0, 0, 0)).is_none() {
            return bad(0, "never comes", Some("is there such a day in that month?".to_owned()));
        }
        Ok(calendar)
    }

    /// The first moment of it after this one.
    pub fn next(&self, after: DateTime) -> Option<DateTime> {
        let mut date = after.date();
        if self.is_day(date)
            && let Some(time) = self.time_after(after.time())
        {
            return Some(date.to_datetime(time));
        }
        let midnight = next_in(self.hours, 0)
            .zip(next_in(self.minutes, 0))
            .zip(next_in(self.seconds, 0))
            .and_then(|((hour, minute), second)| Time::new(hour, minute, second, 0).ok())?;
        loop {
            date = if self.is_month(date) { date.tomorrow().ok()? } else { next_month(date)? };
            if date.year() > YEAR_MAX {
                return None;
            }
            if self.is_day(date) {
                return Some(date.to_datetime(midnight));
            }
        }
    }

    /// Every hour is one of it: then it goes on through the hour that comes twice.
    pub fn is_every_hour(&self) -> bool {
        self.hours == mask(&[HOUR.all()])
    }

    fn is_month(&self, date: Date) -> bool {
        let year = u32::try_from(date.year()).unwrap_or(0);
        let is_year = |step: &Step| (step.from..=step.to).contains(&year) && (year - step.from).is_multiple_of(step.by);
        holds(self.months, date.month()) && self.years.iter().any(is_year)
    }

    fn is_day(&self, date: Date) -> bool {
        let day = if self.from_end { date.days_in_month() - date.day() + 1 } else { date.day() };
        self.is_month(date) && holds(self.days, day) && holds(self.weekdays, date.weekday().to_monday_zero_offset())
    }

    fn time_after(&self, time: Time) -> Option<Time> {
        let (hour, minute, second) = (time.hour(), time.minute(), time.second());
        let of = |hour, minute, second| Time::new(hour, minute, second, 0).ok();
        let (first_minute, first_second) = (next_in(self.minutes, 0)?, next_in(self.seconds, 0)?);
        if holds(self.hours, hour) {
            if holds(self.minutes, minute)
                && let Some(second) = next_in(self.seconds, second.saturating_add(1))
            {
                return of(hour, minute, second);
            }
            if let Some(minute) = next_in(self.minutes, minute.saturating_add(1)) {
                return of(hour, minute, first_second);
            }
        }
        of(next_in(self.hours, hour.saturating_add(1))?, first_minute, first_second)
    }
}

fn next_month(date: Date) -> Option<Date> {
    date.last_of_month().tomorrow().ok()
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn read(text: &str) -> Result<Calendar, BadCalendar> {
    let words: Vec<Part> = Part { text, at: 0 }.split(' ').filter(|part| !part.text.is_empty()).collect();
    let mut rest = words.as_slice();
    let starts_with_letter = |part: &&Part| part.text.starts_with(|c: char| c.is_alphabetic());
    let mut weekdays = mask(&[Step { from: 0, to: 6, by: 1 }]);
    let mut some = false;
    // `Mon, Tue 12:00` has a space after the comma.
    let named: Vec<Part> = rest.iter().take_while(|part| starts_with_letter(part)).copied().collect();
    if !named.is_empty() {
        weekdays = 0;
        for part in &named {
            weekdays |= read_weekdays(*part)?;
        }
        (rest, some) = (rest.get(named.len()..).unwrap_or_default(), true);
    }
    let (mut date, mut time) = (None, None);
    for part in rest {
        match (part.text.contains(':'), &date, &time) {
            (true, _, None) => time = Some(read_time(*part)?),
            (false, None, None) if part.text.contains(['-', '~']) => date = Some(read_date(*part)?),
            _ => {
                let message =
                    format!("holds `{}`, expected weekdays, a date like *-*-01, a time like 02:30", quote(part.text));
                let help = zone_help(part.text);
                return bad(part.at, message, help);
            }
        }
    }
    if !some && date.is_none() && time.is_none() {
        return bad(0, "is empty, expected something like \"Mon..Fri 02:30\"", None);
    }
    let (years, months, days, from_end) =
        date.unwrap_or((vec![YEAR.all()], mask(&[MONTH.all()]), mask(&[DAY.all()]), false));
    let (hours, minutes, seconds) = time.unwrap_or((1, 1, 1));
    Ok(Calendar { text: String::new(), weekdays, years, months, days, from_end, hours, minutes, seconds })
}

fn zone_help(word: &str) -> Option<String> {
    let is_zone = word.contains('/') || word.chars().all(|c| c.is_ascii_uppercase()) && word.len() >= 3;
    is_zone.then(|| format!("a time zone is said beside it: time_zone = \"{}\"", quote(word)))
}

fn weekday(part: Part) -> Result<u32, BadCalendar> {
    let is_it = |name: &&str| {
        let (name, text) = (name.to_ascii_lowercase(), part.text.to_ascii_lowercase());
        name == text || name.get(..3) == Some(text.as_str())
    };
    if let Some(day) = WEEKDAYS.iter().position(is_it) {
        return Ok(day as u32);
    }
    let near = nearest(part.text, WEEKDAYS.iter().flat_map(|name| [*name, name.get(..3).unwrap_or(name)]))
        .or_else(|| nearest(part.text, NAMED.iter().map(|(name, _)| *name)));
    let help = zone_help(part.text).or(near.map(|near| format!("did you mean \"{near}\"?")));
    bad(part.at, format!("holds `{}`, expected a weekday like Mon", quote(part.text)), help)
}

fn read_weekdays(part: Part) -> Result<u64, BadCalendar> {
    let mut days = 0;
    for piece in part.split(',').filter(|piece| !piece.text.is_empty()) {
        // `Mon-Fri` is taken as well, as by systemd.
        let range = piece.text.find("..").map(|at| (at, 2)).or_else(|| piece.text.find('-').map(|at| (at, 1)));
        let (from, to) = match range {
            Some((at, length)) => (weekday(piece.before(at))?, weekday(piece.after(at + length))?),
            None => {
                let day = weekday(piece)?;
                (day, day)
            }
        };
        // `Fri..Mon` goes over the weekend.
        let last = if to < from { to + 7 } else { to };
        days |= (from..=last).fold(0, |days, day| days | 1 << (day % 7));
    }
    Ok(days)
}

type ReadDate = (Vec<Step>, u64, u64, bool);

fn read_date(part: Part) -> Result<ReadDate, BadCalendar> {
    // Days may hold `..`, never `-`; so the separators are all there are.
    let cut = part.text.rfind(['-', '~']).unwrap_or(0);
    let from_end = part.text.get(cut..).is_some_and(|rest| rest.starts_with('~'));
    let day = part.after(cut + 1);
    let before: Vec<Part> = part.before(cut).split('-').collect();
    let (year, month) = match before.as_slice() {
        [month] => (None, *month),
        [year, month] => (Some(*year), *month),
        _ => {
            let message = format!("holds `{}`, expected a date like 2027-01-31, *-*-01 or *-02~01", quote(part.text));
            return bad(part.at, message, None);
        }
    };
    let years = year.map_or(Ok(vec![YEAR.all()]), |year| numbers(year, &YEAR, false))?;
    let months = mask(&numbers(month, &MONTH, false)?);
    Ok((years, months, mask(&numbers(day, &DAY, from_end)?), from_end))
}

fn read_time(part: Part) -> Result<(u64, u64, u64), BadCalendar> {
    let pieces: Vec<Part> = part.split(':').collect();
    let (hour, minute, second) = match pieces.as_slice() {
        [hour, minute] => (hour, minute, None),
        [hour, minute, second] => (hour, minute, Some(second)),
        _ => return bad(part.at, format!("holds `{}`, expected a time like 02:30", quote(part.text)), None),
    };
    let of = |part: &Part, range| Ok(mask(&numbers(*part, range, false)?));
    Ok((of(hour, &HOUR)?, of(minute, &MINUTE)?, second.map_or(Ok(1), |second| of(second, &SECOND))?))
}

/// A list. Days that count from the end go down: `~07/1` is the last seven.
fn numbers(part: Part, range: &Range, down: bool) -> Result<Vec<Step>, BadCalendar> {
    part.split(',').map(|piece| one_of(piece, range, down)).collect()
}

fn one_of(piece: Part, range: &Range, down: bool) -> Result<Step, BadCalendar> {
    let (value, by) = match piece.text.find('/') {
        Some(at) => (piece.before(at), Some(step(piece.after(at + 1))?)),
        None => (piece, None),
    };
    if value.text == "*" {
        return Ok(Step { by: by.unwrap_or(1), ..range.all() });
    }
    if let Some(at) = value.text.find("..") {
        let (from, to) = (number(value.before(at), range)?, number(value.after(at + 2), range)?);
        if to < from {
            let message = format!("holds `{}`, a range that ends before it begins", quote(value.text));
            return bad(value.at, message, Some(format!("did you mean {to}..{from}?")));
        }
        return Ok(Step { from, to, by: by.unwrap_or(1) });
    }
    let from = number(value, range)?;
    Ok(match by {
        None => Step { from, to: from, by: 1 },
        // From it to the end, which for days from the end of the month is the last one.
        Some(by) if down => Step { from: (from - 1) % by + 1, to: from, by },
        Some(by) => Step { from, to: range.to, by },
    })
}

fn step(part: Part) -> Result<u32, BadCalendar> {
    match part.text.parse::<u32>() {
        Ok(by) if by > 0 && part.text.bytes().all(|b| b.is_ascii_digit()) => Ok(by),
        _ => bad(part.at, format!("holds `/{}`, expected a step of at least 1", quote(part.text)), None),
    }
}

fn number(part: Part, range: &Range) -> Result<u32, BadCalendar> {
    let Range { name, from, to } = range;
    let digits = !part.text.is_empty() && part.text.len() <= 4 && part.text.bytes().all(|b| b.is_ascii_digit());
    match part.text.parse::<u32>().ok().filter(|_| digits) {
        Some(number) if (*from..=*to).contains(&number) => Ok(number),
        found => {
            let help = match (found, *name) {
                (Some(24), "an hour") => Some("midnight is 00:00".to_owned()),
                (None, _) if part.text.contains('-') => Some("a range is written 8..18".to_owned()),
                _ => None,
            };
            bad(part.at, format!("holds `{}`, expected {name} from {from} to {to}", quote(part.text)), help)
        }
    }
}

/// Somebody may have written what cron has.
fn with_help(text: &str, wrong: BadCalendar) -> BadCalendar {
    match of_cron(text) {
        Some(meant) => BadCalendar {
            at: 0,
            message: "is in the form of cron".to_owned(),
            help: Some(format!("did you mean \"{meant}\"?")),
        },
        None => wrong,
    }
}

/// Five fields of cron, in this form.
fn of_cron(text: &str) -> Option<String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else { return None };
    let is_cron = |field: &&&str| field.bytes().all(|b| b.is_ascii_digit() || b"*,-/".contains(&b));
    if fields.iter().filter(is_cron).count() < 4 {
        return None;
    }
    let part = |field: &str, width: usize| {
        let ranges = field.replace('-', "..").replace("*/", "0/");
        let is_number = ranges.bytes().all(|b| b.is_ascii_digit());
        if is_number { format!("{ranges:0>width$}") } else { ranges }
    };
    let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let named = |field: &str| {
        let name = |number: &str| days.get(number.parse::<usize>().ok()?).copied();
        let range = |piece: &str| match piece.split_once('-') {
            Some((from, to)) => Some(format!("{}..{}", name(from)?, name(to)?)),
            None => name(piece).map(str::to_owned),
        };
        field.split(',').map(range).collect::<Option<Vec<_>>>().map(|days| days.join(","))
    };
    let weekday = match *weekday {
        "*" => String::new(),
        field => format!("{} ", named(field).unwrap_or_else(|| field.replace('-', ".."))),
    };
    let date = match (*month, *day) {
        ("*", "*") => String::new(),
        (month, day) => format!("*-{}-{} ", part(month, 2).replace("0/", "1/"), part(day, 2).replace("0/", "1/")),
    };
    let meant = format!("{weekday}{date}{}:{}", part(hour, 2), part(minute, 2));
    read(&meant).is_ok().then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str, from: &str, count: usize) -> Vec<String> {
        let calendar = Calendar::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let mut at: DateTime = from.parse().unwrap();
        let mut next = || {
            at = calendar.next(at)?;
            let text = at.to_string().replace('T', " ");
            Some(text.strip_suffix(":00").unwrap_or(&text).to_owned())
        };
        std::iter::from_fn(&mut next).take(count).collect()
    }

    /// What `systemd-analyze calendar --iterations=3` (252) says of these, from Wednesday, 2026-11-25 10:00:00 on; but it takes no `Fri..Mon`, no space
    /// after a comma, and no `*/5`.
    #[test]
    fn the_next_times_are_those_of_systemd() {
        for (text, expected) in [
            ("Mon..Fri 02:30", ["2026-11-26 02:30", "2026-11-27 02:30", "2026-11-30 02:30"]),
            ("daily", ["2026-11-26 00:00", "2026-11-27 00:00", "2026-11-28 00:00"]),
            ("Hourly", ["2026-11-25 11:00", "2026-11-25 12:00", "2026-11-25 13:00"]),
            ("minutely", ["2026-11-25 10:01", "2026-11-25 10:02", "2026-11-25 10:03"]),
            ("weekly", ["2026-11-30 00:00", "2026-12-07 00:00", "2026-12-14 00:00"]),
            ("monthly", ["2026-12-01 00:00", "2027-01-01 00:00", "2027-02-01 00:00"]),
            ("quarterly", ["2027-01-01 00:00", "2027-04-01 00:00", "2027-07-01 00:00"]),
            ("semiannually", ["2027-01-01 00:00", "2027-07-01 00:00", "2028-01-01 00:00"]),
            ("annually", ["2027-01-01 00:00", "2028-01-01 00:00", "2029-01-01 00:00"]),
            ("*:0/15", ["2026-11-25 10:15", "2026-11-25 10:30", "2026-11-25 10:45"]),
            ("8..18/2:05", ["2026-11-25 10:05", "2026-11-25 12:05", "2026-11-25 14:05"]),
            ("Sat,Sun *-*-* 12:00:30", ["2026-11-28 12:00:30", "2026-11-29 12:00:30", "2026-12-05 12:00:30"]),
            ("Fri..Mon", ["2026-11-27 00:00", "2026-11-28 00:00", "2026-11-29 00:00"]),
            ("monday, Wed 09:00", ["2026-11-30 09:00", "2026-12-02 09:00", "2026-12-07 09:00"]),
            ("*-02~01", ["2027-02-28 00:00", "2028-02-29 00:00", "2029-02-28 00:00"]),
            ("Mon *-05~07/1", ["2027-05-31 00:00", "2028-05-29 00:00", "2029-05-28 00:00"]),
            ("2028-02-29 12:00", ["2028-02-29 12:00", "", ""]),
            ("02-29", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
            ("2030/5-01-01", ["2030-01-01 00:00", "2035-01-01 00:00", "2040-01-01 00:00"]),
            ("*-*-1,15 04:00", ["2026-12-01 04:00", "2026-12-15 04:00", "2027-01-01 04:00"]),
        ] {
            let expected: Vec<&str> = expected.into_iter().filter(|time| !time.is_empty()).collect();
            assert_eq!(after(text, "2026-11-25T10:00:00", 3), expected, "{text}");
        }
    }

    #[test]
    fn the_moment_itself_is_not_after_it() {
        assert_eq!(after("*:*:*", "2026-12-31T23:59:59", 2), ["2027-01-01 00:00", "2027-01-01 00:00:01"]);
        assert_eq!(after("02:30", "2026-11-25T02:30:00", 1), ["2026-11-26 02:30"]);
        assert_eq!(after("02:30", "2026-11-25T02:29:59", 1), ["2026-11-25 02:30"]);
    }

    #[test]
    fn mistakes_have_a_place_and_a_cure() {
        for (text, at, message, help) in [
            ("", 0, "is empty, expected something like \"Mon..Fri 02:30\"", None),
            ("Mon..Fry 02:30", 5, "holds `Fry`, expected a weekday like Mon", Some("did you mean \"Fri\"?")),
            ("dayly", 0, "holds `dayly`, expected a weekday like Mon", Some("did you mean \"daily\"?")),
            ("25:00", 0, "holds `25`, expected an hour from 0 to 23", None),
            ("Mon 24:00", 4, "holds `24`, expected an hour from 0 to 23", Some("midnight is 00:00")),
            ("02:75", 3, "holds `75`, expected a minute from 0 to 59", None),
            ("*-13-01", 2, "holds `13`, expected a month from 1 to 12", None),
            (
                "02:30 UTC",
                6,
                "holds `UTC`, expected weekdays, a date like *-*-01, a time like 02:30",
                Some("a time zone is said beside it: time_zone = \"UTC\""),
            ),
            ("*:0/0", 4, "holds `/0`, expected a step of at least 1", None),
            ("18..8:00", 0, "holds `18..8`, a range that ends before it begins", Some("did you mean 8..18?")),
            ("8-18:00", 0, "holds `8-18`, expected an hour from 0 to 23", Some("a range is written 8..18")),
            ("*-02-30", 0, "never comes", Some("is there such a day in that month?")),
            ("30 2 * * *", 0, "is in the form of cron", Some("did you mean \"02:30\"?")),
            ("*/15 8-18 * * 1-5", 0, "is in the form of cron", Some("did you mean \"Mon..Fri 8..18:0/15\"?")),
            ("0 4 1 */3 *", 0, "is in the form of cron", Some("did you mean \"*-1/3-01 04:00\"?")),
        ] {
            let error = Calendar::parse(text).unwrap_err();
            assert_eq!((error.at, error.message.as_str(), error.help.as_deref()), (at, message, help), "{text}");
        }
        assert!(Calendar::parse(&"1,".repeat(TEXT_MAX)).is_err());
    }

    #[test]
    fn no_text_panics() {
        let words = ["Mon", "*", "..", "-", "~", "/", ":", "1", "31", ",", " ", "é", "99999999999", "daily"];
        for first in words {
            for second in words {
                for third in words {
                    let _ = Calendar::parse(&format!("{first}{second}{third}"));
                    let _ = Calendar::parse(&format!("{first} {second}:{third}"));
                }
            }
        }
    }
}

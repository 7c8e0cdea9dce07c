//! Times as people write them, and as they are shown. Pure: now and the local offset are arguments.

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a time: expected how long ago (10m, 1h30m, 250ms, 2d) or a moment (2026-01-31, 2026-01-31 14:00, 2026-01-31T14:00:00Z)"
)]
pub struct BadTime(String);

/// Characters of a bad time that are repeated to the user.
const SHOWN_MAX: usize = 60;
const DAY_MS: i64 = 86_400_000;
/// Years are 1970 to this: beyond it ms overflow nothing, but no log does either.
const YEAR_MAX: i64 = 9999;

/// A `--since`: how long ago, or a moment; one without a zone is local (`offset_s` gives the seconds east of UTC at a time in
/// seconds since 1970). Returns ms since 1970.
pub fn parse_since(text: &str, now_ms: u64, offset_s: impl Fn(i64) -> i64) -> Result<u64, BadTime> {
    let bad = || BadTime(text.chars().take(SHOWN_MAX).collect());
    if let Some(ago_ms) = parse_duration_ms(text) {
        return Ok(now_ms.saturating_sub(ago_ms));
    }
    let moment = parse_moment(text.trim()).ok_or_else(bad)?;
    let ms = match moment.offset_s {
        Some(offset_s) => moment.ms - offset_s * 1000,
        // The offset at the local reading of the clock, then the one in force there.
        None => moment.ms - offset_s(moment.ms / 1000 - offset_s(moment.ms / 1000)) * 1000,
    };
    u64::try_from(ms).map_err(|_| bad())
}

/// `1h30m`: numbers with d, h, m, s, ms; at least one.
fn parse_duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY_MS as u64,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(scale)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

struct Moment {
    ms: i64,
    offset_s: Option<i64>,
}

/// `YYYY-MM-DD[(T| )HH:MM[:SS[.fff]]][Z|±HH:MM]`.
fn parse_moment(text: &str) -> Option<Moment> {
    let (date, clock) = match text.split_once(['T', ' ']) {
        Some((date, clock)) => (date, clock),
        None => (text, "00:00"),
    };
    let mut parts = date.split('-');
    let (year, month, day) = (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *days.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if parts.next().is_some() || !(1970..=YEAR_MAX).contains(&year) || !(1..=length).contains(&day) {
        return None;
    }
    let (clock, offset_s) = split_zone(clock)?;
    Some(Moment { ms: days_from_civil(year, month, day) * DAY_MS + parse_clock(clock)?, offset_s })
}

fn split_zone(clock: &str) -> Option<(&str, Option<i64>)> {
    if let Some(clock) = clock.strip_suffix(['Z', 'z']) {
        return Some((clock, Some(0)));
    }
    let Some(at) = clock.rfind(['+', '-']) else { return Some((clock, None)) };
    let (hours, minutes) = clock[at + 1..].split_once(':')?;
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    let sign = if clock[at..].starts_with('-') { -1 } else { 1 };
    (hours < 24 && minutes < 60).then(|| (&clock[..at], Some(sign * (hours * 3600 + minutes * 60))))
}

fn parse_clock(clock: &str) -> Option<i64> {
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let digits = !fraction.is_empty() && fraction.len() <= 9 && fraction.bytes().all(|b| b.is_ascii_digit());
    let mut parts = clock.split(':');
    let (hour, minute) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |text| number(text, 2))?;
    let ms: i64 = format!("{fraction:0<3}")[..3].parse().ok().filter(|_| digits)?;
    let fits = parts.next().is_none() && hour < 24 && minute < 60 && second <= 60;
    fits.then_some(((hour * 60 + minute) * 60 + second) * 1000 + ms)
}

/// Exactly so many digits.
fn number(text: &str, digits: usize) -> Option<i64> {
    let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// Days since 1970-01-01 in the Gregorian calendar (years counted from March, so that the leap day is the last).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let year = era * 400 + year_of_era + i64::from(month >= 10);
    (year, if month < 10 { month + 3 } else { month - 9 }, day_of_year - (153 * month + 2) / 5 + 1)
}

/// `2026-01-31T14:00:00.123Z`: RFC 3339 in UTC.
pub fn rfc3339_ms(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    let (year, month, day) = civil_from_days(ms / DAY_MS);
    let (s, ms) = (ms % DAY_MS / 1000, ms % 1000);
    let (hour, minute, second) = (s / 3600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn since(text: &str) -> Option<u64> {
        parse_since(text, NOW, |_| 3600).ok()
    }

    #[test]
    fn how_long_ago() {
        assert_eq!(since("10m"), Some(NOW - 600_000));
        assert_eq!(since("1h30m"), Some(NOW - 5_400_000));
        assert_eq!(since("250ms"), Some(NOW - 250));
        assert_eq!(since("99999d"), Some(0), "before 1970 is the beginning");
    }

    #[test]
    fn moments_with_and_without_a_zone() {
        assert_eq!(since("2023-11-14T22:13:20Z"), Some(NOW));
        assert_eq!(since("2023-11-14T22:13:20.500Z"), Some(NOW + 500));
        assert_eq!(since("2023-11-15T00:13:20+02:00"), Some(NOW));
        assert_eq!(since("2023-11-14 23:13:20"), Some(NOW), "local, one hour east");
        assert_eq!(since("2023-11-14 23:13"), Some(NOW - 20_000));
        assert_eq!(since("2023-11-15"), Some(NOW + 2_800_000));
        assert_eq!(since("2024-02-29"), Some(1_709_161_200_000));
    }

    #[test]
    fn nonsense_is_named() {
        let bad = "|abc|10|m|10x|2023-13-01|2023-02-29|2023-1-1|2023-11-14T25:00|2023-11-14T|1969-12-31|2023-11-14T10:00:00.|2023-11-14 10:00+1";
        for text in
            bad.split('|').chain(["99999999999999999999h", "2023-11-14T10:00:00+aa:bb", "ä", "2023-11-14T10:00ä"])
        {
            let error = parse_since(text, NOW, |_| 0).expect_err(text);
            assert!(error.to_string().starts_with(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn shown_times_are_read_back() {
        for ms in (0..4_000_000_000_000u64).step_by(86_399_999_983) {
            assert_eq!(since(&rfc3339_ms(ms)), Some(ms));
        }
        assert_eq!(rfc3339_ms(951_782_400_000), "2000-02-29T00:00:00.000Z");
    }
}

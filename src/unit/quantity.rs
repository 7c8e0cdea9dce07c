//! Durations ("250ms", "1m30s") and sizes ("256M", powers of 1024): whole numbers with a unit.

use std::time::Duration;

/// The longest duration a unit may name: ten years. Sums of a few of them fit everywhere.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(3650 * 86_400);

/// The largest size: what OCI's signed 64-bit limits can say.
pub(crate) const SIZE_MAX: u64 = i64::MAX as u64;

/// Units of time, in milliseconds, largest first: the order in which they may follow each other.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of size and the power of two they stand for.
const SIZES: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

/// Why a text is not a quantity, with the cure where one can be guessed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Not of the form at all.
    Form(Option<String>),
    /// Of the form, but too large.
    TooLarge,
}

/// "250ms", "1m30s": numbers with units from day to millisecond, each unit at most once, largest first.
pub(crate) fn duration(text: &str) -> Result<Duration, Bad> {
    let mut rest = text;
    let mut units = TIMES.as_slice();
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let (count, after) = digits(rest).ok_or_else(|| Bad::Form(guess_duration(text)))?;
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let at = units.iter().position(|(name, _)| *name == unit).ok_or_else(|| Bad::Form(guess_duration(text)))?;
        let ms = units[at].1;
        units = &units[at + 1..];
        let part = count.parse::<u64>().ok().and_then(|n| n.checked_mul(ms)).ok_or(Bad::TooLarge)?;
        total_ms = total_ms.checked_add(part).ok_or(Bad::TooLarge)?;
        rest = after;
    }
    if text.is_empty() {
        return Err(Bad::Form(None));
    }
    Some(Duration::from_millis(total_ms)).filter(|d| *d <= DURATION_MAX).ok_or(Bad::TooLarge)
}

/// "256M": a whole number with K, M, G or T (powers of 1024), or of bytes without.
pub(crate) fn size(text: &str) -> Result<u64, Bad> {
    let (count, unit) = digits(text).ok_or_else(|| Bad::Form(guess_size(text)))?;
    let shift = match SIZES.iter().find(|(name, _)| unit.len() == 1 && unit.starts_with(*name)) {
        Some((_, shift)) => *shift,
        None if unit.is_empty() => 0,
        None => return Err(Bad::Form(guess_size(text))),
    };
    let bytes = count.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or(Bad::TooLarge)?;
    Some(bytes).filter(|b| *b <= SIZE_MAX).ok_or(Bad::TooLarge)
}

/// A size as a person would write it.
pub(crate) fn show_size(bytes: u64) -> String {
    let unit = SIZES.iter().rev().find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| bytes.to_string(), |(name, shift)| format!("{}{name}", bytes >> shift))
}

/// A duration as a person would write it, to the millisecond.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut shown = String::new();
    for (name, unit) in TIMES {
        if ms >= unit {
            shown.push_str(&format!("{}{name}", ms / unit));
            ms %= unit;
        }
    }
    if shown.is_empty() { "0s".to_owned() } else { shown }
}

/// Splits leading digits from what follows; `None` without any.
fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// What somebody who wrote "5 min", "1.5s" or "30" meant.
fn guess_duration(text: &str) -> Option<String> {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    let end = compact.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(compact.len());
    let (number, unit) = compact.split_at(end);
    let ms = match unit {
        "ms" | "msec" | "millis" | "milliseconds" => 1.0,
        "" | "s" | "sec" | "secs" | "second" | "seconds" => 1000.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000.0,
        "h" | "hr" | "hour" | "hours" => 3_600_000.0,
        "d" | "day" | "days" => 86_400_000.0,
        _ => return None,
    };
    let total = number.parse::<f64>().ok()? * ms;
    whole(total).map(|ms| show_duration(Duration::from_millis(ms)))
}

/// What somebody who wrote "256MB", "1.5g" or "64 KiB" meant.
fn guess_size(text: &str) -> Option<String> {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_uppercase();
    let end = compact.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(compact.len());
    let (number, unit) = compact.split_at(end);
    let letter = unit.trim_end_matches('B').trim_end_matches('I');
    let shift = match SIZES.iter().find(|(name, _)| letter.len() == 1 && letter.starts_with(*name)) {
        Some((_, shift)) => *shift,
        None if letter.is_empty() => 0,
        None => return None,
    };
    let total = number.parse::<f64>().ok()? * (1u64 << shift) as f64;
    whole(total).map(show_size)
}

fn whole(value: f64) -> Option<u64> {
    // 2^53: beyond it a float no longer holds every whole number, and a guess would be a wrong one.
    (1.0..=9_007_199_254_740_992.0).contains(&value).then_some(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units_largest_first() {
        for (text, ms) in [
            ("250ms", 250),
            ("1m30s", 90_000),
            ("0s", 0),
            ("1d2h3m4s5ms", 93_784_005),
            ("90m", 5_400_000),
            ("3650d", 315_360_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, cure) in [
            ("abc", None),
            ("", None),
            ("30", Some("30s")),
            ("1.5s", Some("1s500ms")),
            ("5 min", Some("5m")),
            ("1s1m", None),
            ("1s1s", None),
            ("-5s", None),
            ("s", None),
            ("5µs", None),
        ] {
            assert_eq!(duration(text), Err(Bad::Form(cure.map(str::to_owned))), "{text}");
        }
        for text in ["3651d", "99999999999999999999s", "18446744073709551615ms", "18446744073709551615d"] {
            assert_eq!(duration(text), Err(Bad::TooLarge), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in
            [("256M", 256 << 20), ("4K", 4096), ("1G", 1 << 30), ("2T", 2 << 40), ("0", 0), ("12345", 12_345)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, cure) in [
            ("256MB", Some("256M")),
            ("256MiB", Some("256M")),
            ("256m", Some("256M")),
            ("1.5G", Some("1536M")),
            ("64 k", Some("64K")),
            ("-1M", None),
            ("lots", None),
            ("", None),
            ("M", None),
            ("1E", None),
        ] {
            assert_eq!(size(text), Err(Bad::Form(cure.map(str::to_owned))), "{text}");
        }
        for text in ["8388608T", "99999999999999999999", "9223372036854775808"] {
            assert_eq!(size(text), Err(Bad::TooLarge), "{text}");
        }
    }

    #[test]
    fn quantities_are_shown_as_written() {
        assert_eq!(show_size(1536 << 20), "1536M");
        assert_eq!(show_size(0), "0");
        assert_eq!(show_size(1000), "1000");
        assert_eq!(show_duration(Duration::from_millis(90_250)), "1m30s250ms");
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }
}

//! Values on the command line: times, sizes, signals, assignments.

use std::time::Duration;

/// "1m30s".
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time: expected a number and a unit, as in 250ms, 30s, 1m30s, 2h, 1d");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::from_millis(number.checked_mul(unit_ms).ok_or_else(wrong)?);
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// "256M", in bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: expected bytes or a number with K, M, G or T, as in 256M");
    let (number, shift) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(number) => (
            number,
            if text.ends_with('K') {
                10
            } else if text.ends_with('M') {
                20
            } else if text.ends_with('G') {
                30
            } else {
                40
            },
        ),
        None => (text, 0),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// "SIGHUP", "hup", "1".
pub fn signal(text: &str) -> Result<u8, String> {
    let wrong = || format!("`{text}` is not a signal: expected a name as in SIGHUP or a number from 1 to 64");
    if let Ok(number) = text.parse::<u8>() {
        return Some(number).filter(|n| (1..=64).contains(n)).ok_or_else(wrong);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let signal: nix::sys::signal::Signal = name.parse().map_err(|_| wrong())?;
    Ok(signal as u8)
}

/// "10m" ago: ms since 1970.
pub fn since(text: &str) -> Result<u64, String> {
    let ago = duration(text)?;
    let now = super::text::now_ms();
    Ok(now.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
}

/// "NAME=VALUE".
pub fn assignment(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.into()),
        _ => Err(format!("`{text}` is not of the form NAME=VALUE")),
    }
}

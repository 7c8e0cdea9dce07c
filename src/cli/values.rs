//! Values on the command line: the same times, sizes and signals as in unit files.

use std::time::Duration;

use crate::supervise::log::parse_since;
use crate::supervise::time_zone;
use crate::unit::{Signal, quantity};

/// "1m30s".
pub fn duration(text: &str) -> Result<Duration, String> {
    quantity::duration(text).map_err(|bad| wrong(text, bad, "a time", "250ms, 30s, 1m30s, 2h, 1d"))
}

/// "256M", in bytes.
pub fn size(text: &str) -> Result<u64, String> {
    quantity::size(text).map_err(|bad| wrong(text, bad, "a size", "4096, 64K, 256M, 1G"))
}

fn wrong(text: &str, bad: quantity::Bad, what: &str, examples: &str) -> String {
    match bad {
        quantity::Bad::Form(Some(guess)) => format!("`{text}` is not {what}: did you mean {guess}?"),
        quantity::Bad::Form(None) => format!("`{text}` is not {what}: expected one as in {examples}"),
        quantity::Bad::TooLarge => format!("`{text}` is too large"),
    }
}

/// "SIGHUP", "hup", "1".
pub fn signal(text: &str) -> Result<u8, String> {
    let expected = "expected a name as in SIGHUP or SIGRTMIN+3, or a number from 1 to 64";
    Signal::parse(text).map(|signal| signal.0).ok_or_else(|| format!("`{text}` is not a signal: {expected}"))
}

/// "10m" ago, or a moment: ms since 1970.
pub fn since(text: &str) -> Result<u64, String> {
    parse_since(text, super::text::now_ms(), time_zone::offset_s).map_err(|error| error.to_string())
}

/// "NAME=VALUE".
pub fn assignment(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.into()),
        Some(_) | None => Err(format!("`{text}` is not of the form NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_the_cure() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5 min"), Err("`5 min` is not a time: did you mean 5m?".into()));
        let message = "`abc` is not a time: expected one as in 250ms, 30s, 1m30s, 2h, 1d";
        assert_eq!(duration("abc"), Err(message.into()));
        assert_eq!(duration("99999999d"), Err("`99999999d` is too large".into()));
        assert_eq!(size("256M"), Ok(256 << 20));
        assert_eq!(signal("rtmin+1"), Ok(35));
        assert!(signal("0").is_err() && signal("SIGNOPE").is_err());
        assert!(since("2026-01-05T12:00:00Z").is_ok_and(|ms| ms == 1_767_614_400_000));
    }
}

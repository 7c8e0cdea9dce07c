//! Text for people: times, amounts, colours, and what must not reach a terminal as it is.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the output allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// ANSI colours: a terminal, and NO_COLOR (no-color.org) is not set.
    pub colour: bool,
    /// Columns of the terminal; `None` when it is none, and nothing is cut.
    pub width: Option<usize>,
    /// The clock, ms since 1970.
    pub now_ms: u64,
}

impl Style {
    /// For standard output as it is now.
    pub fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let size = rustix::termios::tcgetwinsize(stdout).ok().filter(|size| terminal && size.ws_col > 0);
        let width = size.map(|size| usize::from(size.ws_col));
        Self { colour: terminal && !no_color && !dumb, width, now_ms: now_ms() }
    }

    /// The text in a colour, if there are colours.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Plain => return text.into(),
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Red => "31",
            Colour::Dim => "2",
            Colour::Bold => "1",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    /// "3m ago".
    pub fn ago(&self, then_ms: u64) -> String {
        format!("{} ago", span(self.now_ms.saturating_sub(then_ms)))
    }
}

/// What is used of what a terminal can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// None.
    Plain,
    /// As it should be.
    Green,
    /// On the way.
    Yellow,
    /// Wrong.
    Red,
    /// Not of interest.
    Dim,
    /// A headline.
    Bold,
}

/// The colour of a phase.
pub fn phase_colour(phase: &str) -> Colour {
    match phase {
        "running" | "ready" | "completed" => Colour::Green,
        "waiting" | "starting" | "stopping" | "backoff" => Colour::Yellow,
        "failed" | "stuck" => Colour::Red,
        "stopped" => Colour::Dim,
        _ => Colour::Plain,
    }
}

/// The clock, ms since 1970; 0 before that.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A span in its largest fitting unit: 119s, 119m, 47h, then days.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Bytes in powers of 1024, to one decimal.
pub fn bytes(bytes: u64) -> String {
    let mut unit_bytes = 1u64;
    for unit in ["", "K", "M", "G"] {
        if bytes / unit_bytes < 1024 {
            return in_unit(bytes, unit_bytes, unit);
        }
        unit_bytes *= 1024;
    }
    in_unit(bytes, unit_bytes, "T")
}

fn in_unit(bytes: u64, unit_bytes: u64, unit: &str) -> String {
    let (whole, tenths) = (bytes / unit_bytes, bytes % unit_bytes * 10 / unit_bytes);
    match (whole, tenths) {
        (1..100, 1..) if unit_bytes > 1 => format!("{whole}.{tenths}{unit}"),
        _ => format!("{whole}{unit}"),
    }
}

/// RFC 3339 in UTC, to the second: `2026-01-05T12:00:00Z`.
pub fn rfc3339(ms: u64) -> String {
    let seconds = ms / 1000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date of a day since 1970-01-01, in the proleptic Gregorian calendar: years begin in March, so that the leap day is the last.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * month_from_march + 2) / 5 + 1)
}

/// The text on one line and harmless: names, reasons and log lines come from files and containers.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

fn is_hidden(c: char) -> bool {
    // Separators and direction overrides change what a terminal shows without being control characters.
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// At most `width` characters, the last one `…` if something was cut.
pub fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.chars().count() <= width {
        return Cow::Borrowed(text);
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    Cow::Owned(kept + "…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_use_one_unit() {
        let cases = [
            (0, "0s"),
            (119_999, "119s"),
            (120_000, "2m"),
            (7_199_999, "119m"),
            (7_200_000, "2h"),
            (172_800_000, "2d"),
        ];
        for (ms, text) in cases {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn bytes_use_powers_of_1024() {
        let cases = [
            (0, "0"),
            (1023, "1023"),
            (1024, "1K"),
            (1536, "1.5K"),
            (12 << 20, "12M"),
            (12_900_000, "12.3M"),
            (256 << 20, "256M"),
            (u64::MAX, "16777215T"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn times_are_written_as_in_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_000, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_767_614_400_999, "2026-01-05T12:00:00Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ];
        for (ms, text) in cases {
            assert_eq!(rfc3339(ms), text);
        }
    }

    #[test]
    fn what_could_drive_a_terminal_is_escaped() {
        assert_eq!(one_line("plain ö"), "plain ö");
        assert_eq!(one_line("a\nb\x1b[31m\u{202e}\u{9b}"), "a\\nb\\u{1b}[31m\\u{202e}\\u{9b}");
    }

    #[test]
    fn cutting_counts_characters() {
        assert_eq!(cut("öööö", 4), "öööö");
        assert_eq!(cut("ööööö", 4), "ööö…");
    }
}

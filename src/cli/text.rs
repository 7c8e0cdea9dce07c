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
    fn cutting_counts_characters() {
        assert_eq!(cut("öööö", 4), "öööö");
        assert_eq!(cut("ööööö", 4), "ööö…");
    }
}

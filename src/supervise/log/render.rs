//! Entries as text for people, or as JSON. Pure.

use std::fmt::Write;

use serde::Serialize;

use super::index::Stream;
use super::lines::{End, Entry, What};
use super::since::rfc3339_ms;

/// How entries are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// The output is a terminal: what a container wrote must not control it.
    pub terminal: bool,
    /// Each line begins with its time, RFC 3339 in UTC.
    pub timestamps: bool,
    /// One JSON object a line.
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    time: u64,
    stream: Stream,
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
}

/// Appends one entry.
pub fn render(entry: &Entry, style: Style, text: &mut Vec<u8>) {
    if style.json {
        let (line, dropped) = match &entry.what {
            What::Line { bytes, .. } => (Some(String::from_utf8_lossy(bytes)), None),
            What::Dropped { bytes } => (None, Some(*bytes)),
        };
        let Entry { time_ms: time, stream, generation, .. } = *entry;
        // Numbers and strings: cannot fail.
        let shown = json_line(&Shown { time, stream, generation, line, dropped }).unwrap_or_default();
        text.extend_from_slice(shown.as_bytes());
        return;
    }
    if style.timestamps {
        text.extend_from_slice(rfc3339_ms(entry.time_ms).as_bytes());
        text.push(b' ');
    }
    match &entry.what {
        What::Line { bytes, end } if style.terminal => {
            // What a program wrote on a terminal ends in both.
            let bytes = if *end == End::Newline { bytes.strip_suffix(b"\r").unwrap_or(bytes) } else { bytes };
            text.extend_from_slice(escape_controls(bytes).as_bytes());
        }
        What::Line { bytes, .. } => text.extend_from_slice(bytes),
        What::Dropped { bytes } => {
            let stream = match entry.stream {
                Stream::Out => "stdout",
                Stream::Err => "stderr",
            };
            let note = format!("[moored: {bytes} bytes of {stream} are missing: the disk did not take them]");
            text.extend_from_slice(note.as_bytes());
        }
    }
    // A line that goes on in the next entry is whole again in the output.
    let cut = matches!(entry.what, What::Line { end: End::Cut, .. });
    if !cut || style.timestamps {
        text.push(b'\n');
    }
}

/// One line of JSON that a terminal can show, too: the controls that JSON leaves as they are (U+007F to U+009F) and marks that reverse the
/// direction of text are escaped.
pub fn json_line<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    let plain = serde_json::to_string(value)?;
    let mut line = String::with_capacity(plain.len().saturating_add(1));
    for c in plain.chars() {
        // All of it is ASCII outside of strings.
        match c {
            '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                // Into a string: cannot fail.
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('\n');
    Ok(line)
}

/// For a terminal: control characters, what is not UTF-8, and marks that reverse the direction of text are shown, not obeyed.
pub fn escape_controls(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => shown.push(c),
                '\r' => shown.push_str("\\r"),
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => shown.extend(c.escape_unicode()),
                c if c.is_ascii_control() => push_byte(&mut shown, c as u8),
                c if c.is_control() => shown.extend(c.escape_unicode()),
                c => shown.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| push_byte(&mut shown, *byte));
    }
    shown
}

fn push_byte(shown: &mut String, byte: u8) {
    // Into a string: cannot fail.
    let _ = write!(shown, "\\x{byte:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8], end: End) -> Entry {
        let what = What::Line { bytes: bytes.to_vec(), end };
        Entry { time_ms: 1_700_000_000_123, generation: 3, stream: Stream::Err, what }
    }

    fn shown(entry: &Entry, style: Style) -> String {
        let mut text = Vec::new();
        render(entry, style, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_terminal_is_not_controlled_by_a_container() {
        let evil = b"\x1b]0;pwned\x07\xc2\x9b31m \xff\x7f\ttab \xe2\x80\xaegnp\r";
        let safe = escape_controls(evil);
        assert_eq!(safe, "\\x1b]0;pwned\\x07\\u{9b}31m \\xff\\x7f\ttab \\u{202e}gnp\\r");
        assert_eq!(escape_controls("grüße ☃".as_bytes()), "grüße ☃");
    }

    #[test]
    fn the_end_of_a_terminals_line_is_no_escape() {
        let style = Style { terminal: true, ..Style::default() };
        assert_eq!(shown(&line(b"a\rb\r\r", End::Newline), style), "a\\rb\\r\n");
        assert_eq!(shown(&line(b"a\r", End::Open), style), "a\\r\n");
        assert_eq!(shown(&line(b"a\r", End::Newline), Style::default()), "a\r\n");
    }

    #[test]
    fn every_byte_shown_on_a_terminal_is_printable() {
        for byte in 0..=255 {
            let safe = escape_controls(&[byte]);
            assert!(safe.chars().all(|c| c == '\t' || !c.is_control()), "{byte}");
        }
    }

    #[test]
    fn raw_output_is_what_was_written() {
        assert_eq!(shown(&line(b"\x1b[1mx", End::Newline), Style::default()), "\x1b[1mx\n");
        assert_eq!(shown(&line(b"part", End::Cut), Style::default()), "part");
        assert_eq!(shown(&line(b"last words", End::Open), Style::default()), "last words\n");
    }

    #[test]
    fn times_and_json() {
        let stamped = shown(&line(b"x", End::Newline), Style { timestamps: true, ..Style::default() });
        assert_eq!(stamped, "2023-11-14T22:13:20.123Z x\n");
        let json = Style { json: true, ..Style::default() };
        let expected = "{\"time\":1700000000123,\"stream\":\"err\",\"generation\":3,\"line\":\"a\u{fffd}\"}\n";
        assert_eq!(shown(&line(b"a\xff", End::Newline), json), expected);
        let controls = shown(&line("\u{9b}2J\u{7f}\u{202e}\u{e9}".as_bytes(), End::Newline), json);
        assert!(controls.contains("\"line\":\"\\u009b2J\\u007f\\u202e\u{e9}\""), "{controls}");
        let dropped = Entry { what: What::Dropped { bytes: 9 }, ..line(b"", End::Open) };
        assert!(shown(&dropped, json).ends_with("\"dropped\":9}\n"));
        assert!(shown(&dropped, Style::default()).contains("9 bytes of stderr"));
    }
}

//! What is wrong with a text, and where: one line a person can act on.

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use crate::words::one_line;
use crate::words::visible;

/// Longest piece of a user's text that a message repeats, in characters.
const QUOTE_MAX: usize = 60;

/// One mistake in one file. `Display` is `file:line:column message[, help]`, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as it was named by the caller.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What was found and what was expected.
    pub message: String,
    /// The cure.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A mistake of a file as a whole: line 1, column 1.
    pub fn of_file(file: &Path, message: impl Into<String>, help: Option<&str>) -> Self {
        let help = help.map(str::to_owned);
        Diagnostic { file: file.to_owned(), line: 1, column: 1, message: message.into(), help }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{} {}", one_line(&self.file.to_string_lossy()), self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, ", {help}"),
            None => Ok(()),
        }
    }
}

/// Where the lines of a text begin.
pub(crate) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { text, starts }
    }

    /// Line and column of a byte offset, both from 1, the column in characters. An offset past the end is the end.
    pub(crate) fn position(&self, offset: usize) -> (u32, u32) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or("").trim_start_matches('\u{feff}');
        (number(line), number(before.chars().count() + 1))
    }

    /// The text of a line, from 1, without its end.
    pub(crate) fn line(&self, line: u32) -> &'t str {
        let start = self.starts.get((line as usize).saturating_sub(1)).copied().unwrap_or(self.text.len());
        self.text.get(start..).unwrap_or("").lines().next().unwrap_or("")
    }
}

fn number(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// A user's text for a message: control characters escaped, cut to a length that leaves the message readable.
pub(crate) fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTE_MAX).flat_map(visible).collect();
    if text.chars().nth(QUOTE_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let lines = Lines::new("ab\n\täö=1\r\nx");
        assert_eq!(lines.position(0), (1, 1));
        assert_eq!(lines.position(2), (1, 3));
        assert_eq!(lines.position(3), (2, 1));
        assert_eq!(lines.position("ab\n\täö".len()), (2, 4));
        assert_eq!(lines.position("ab\n\tä".len() - 1), (2, 2), "inside a character is its beginning");
        assert_eq!(lines.position(10_000), (3, 2));
        assert_eq!(Lines::new("").position(0), (1, 1));
        assert_eq!(Lines::new("\u{feff}a=1").position(3), (1, 1));
        assert_eq!(lines.line(2), "\täö=1");
        assert_eq!(lines.line(9), "");
    }

    #[test]
    fn a_diagnostic_is_one_line() {
        let mut diagnostic = Diagnostic::of_file(Path::new("a\nb.toml"), "bad", Some("do this"));
        assert_eq!(diagnostic.to_string(), "a\\nb.toml:1:1 bad, do this");
        diagnostic.help = None;
        assert_eq!(diagnostic.to_string(), "a\\nb.toml:1:1 bad");
        assert_eq!(quote("\u{1b}[31m"), "\\u{1b}[31m");
        assert_eq!(quote(&"x".repeat(70)).chars().count(), QUOTE_MAX + 1);
    }
}

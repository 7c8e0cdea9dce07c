//! Environment files, which `process.env_file` names: text to variables.
//!
//! A line is blank, a comment (`#` or `;` first), or `NAME=VALUE` with `export ` in front or not. A value is
//! - without quotes: the rest of the line, without the white space around it;
//! - in `'…'`: as it stands;
//! - in `"…"`: with the escapes `\\ \" \$ \` \n \r \t`.
//!
//! Quotes may hold line ends. Behind a closed quote only a comment may follow. Of a name that is there twice the last value counts.
//! This is what systemd's EnvironmentFile and Compose's env_file agree on; a line that they read in two ways (`A=b # c`, a backslash
//! without quotes) is refused, with the cure. A `$` stands for itself: a value names no other variable.
//!
//! A value may be a secret: no message repeats any of a line, and [`Variables`] shows names alone.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Lines};
use super::parse::text_of;
use crate::compact;

/// Longest value with its name: the kernel's MAX_ARG_STRLEN, less the `=` and the NUL.
const VARIABLE_MAX: usize = 131_070;

/// Most bytes that all variables of a unit have: what an execve takes beside its arguments, on any host.
const TOTAL_MAX: usize = 1024 * 1024;

/// More mistakes than a person reads at once.
const ERRORS_MAX: usize = 20;

/// Values shorter than this are in many a text that has nothing to do with them.
const HIDDEN_MIN: usize = 4;

/// One of `process.env_file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// Absolute.
    pub path: PathBuf,
    /// With a leading `-`: it need not be there.
    pub optional: bool,
}

/// What env files define, by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, String>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Variables {
    /// Of files in the order of the unit, each with its contents; what a later one defines wins.
    pub fn of_files<'f>(files: impl IntoIterator<Item = (&'f Path, &'f [u8])>) -> Result<Variables, Vec<Diagnostic>> {
        let (mut all, mut errors) = (BTreeMap::new(), Vec::new());
        for (path, bytes) in files {
            match text_of(path, bytes) {
                Ok(text) => errors.extend(Reader::new(path, text).read(&mut all)),
                Err(error) => errors.push(error),
            }
            let total: usize = all.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
            if total > TOTAL_MAX {
                let message = format!("the variables have {total} bytes, expected at most {TOTAL_MAX} (1M)");
                errors.push(Diagnostic::of_file(path, message, None));
            }
        }
        if errors.is_empty() { Ok(Variables(all)) } else { Err(errors) }
    }

    /// As an earlier supervisor stored them.
    pub fn from_stored(map: BTreeMap<String, String>) -> Variables {
        Variables(map)
    }

    /// By name.
    pub fn map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// `text` with `${NAME}` wherever it repeats a value: for messages of others, who know of no secrets.
    pub fn hide(&self, text: &str) -> String {
        let mut hidden = text.to_owned();
        let mut values: Vec<(&String, &String)> =
            self.0.iter().filter(|(_, value)| value.len() >= HIDDEN_MIN).collect();
        // Longest first: one may be a part of another.
        compact::sort_by_key(&mut values, |(_, value)| std::cmp::Reverse(value.len()));
        for (name, value) in values {
            if hidden.contains(value.as_str()) {
                hidden = hidden.replace(value.as_str(), &format!("${{{name}}}"));
            }
        }
        hidden
    }
}

/// Whether this can be a variable's name in a shell.
pub(super) fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What is wrong with a line: where, what, and the cure.
struct Bad {
    at: usize,
    message: &'static str,
    help: &'static str,
}

struct Reader<'t> {
    file: &'t Path,
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn new(file: &'t Path, text: &'t str) -> Reader<'t> {
        Reader { file, text, at: text.len() - text.trim_start_matches('\u{feff}').len() }
    }

    /// Takes all lines in; returns what is wrong with some.
    fn read(mut self, all: &mut BTreeMap<String, String>) -> Vec<Diagnostic> {
        let mut bad = Vec::new();
        while self.at < self.text.len() && bad.len() < ERRORS_MAX {
            match self.line() {
                Ok(Some((name, value))) => drop(all.insert(name.to_owned(), value)),
                Ok(None) => {}
                Err(error) => {
                    bad.push(error);
                    self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                }
            }
            self.at += usize::from(self.rest().starts_with('\n'));
        }
        let lines = Lines::new(self.text);
        let diagnostic = |bad: Bad| {
            let (line, column) = lines.position(bad.at);
            Diagnostic { line, column, ..Diagnostic::of_file(self.file, bad.message, Some(bad.help)) }
        };
        bad.into_iter().map(diagnostic).collect()
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or("")
    }

    /// White space of one line; a CR is part of its end.
    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r']).len();
    }

    /// One line up to its end, which is left.
    fn line(&mut self) -> Result<Option<(&'t str, String)>, Bad> {
        self.skip_blanks();
        if self.rest().is_empty() || self.rest().starts_with('\n') {
            return Ok(None);
        }
        if self.rest().starts_with(['#', ';']) {
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            return Ok(None);
        }
        if let Some(after) = self.rest().strip_prefix("export").filter(|after| after.starts_with([' ', '\t'])) {
            self.at = self.text.len() - after.len();
            self.skip_blanks();
        }
        let (from, name) = (self.at, self.name()?);
        self.skip_blanks();
        let value = match self.rest().chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(quote)?,
            Some(_) | None => self.plain()?,
        };
        if value.contains('\0') {
            return Err(Bad { at: from, message: "a value holds a NUL, which no variable can", help: "take it out" });
        }
        if name.len() + value.len() > VARIABLE_MAX {
            let (message, help) = ("a variable has more than 128K, which no program can be given", "use a file");
            return Err(Bad { at: from, message, help });
        }
        Ok(Some((name, value)))
    }

    /// The name, with the `=` behind it taken.
    fn name(&mut self) -> Result<&'t str, Bad> {
        let from = self.at;
        let line = self.rest().split('\n').next().unwrap_or("");
        let Some((name, _)) = line.split_once('=') else {
            let message = "a line that is neither NAME=VALUE nor a comment";
            return Err(Bad { at: from, message, help: "write NAME=VALUE, or # in front" });
        };
        self.at += name.len() + 1;
        let name = name.trim_end_matches([' ', '\t']);
        match is_name(name) {
            true => Ok(name),
            false => {
                let message = "what stands before the `=` is not a variable's name";
                Err(Bad { at: from, message, help: "expected letters, digits and `_`, and no digit first" })
            }
        }
    }

    fn plain(&mut self) -> Result<String, Bad> {
        let line = self.rest().split('\n').next().unwrap_or("");
        let from = self.at;
        self.at += line.len();
        let value = line.trim_end_matches([' ', '\t', '\r']);
        let comment = value.find(" #").or_else(|| value.find("\t#"));
        if let Some(at) = comment.or(value.starts_with('#').then_some(0)) {
            let message = "a # in a value without quotes, a comment to some readers and text to others";
            return Err(Bad { at: from + at, message, help: "put the value into quotes, or the comment above" });
        }
        if let Some(at) = value.find('\\') {
            let message = "a backslash in a value without quotes, an escape to some readers and text to others";
            return Err(Bad { at: from + at, message, help: "put the value into single quotes" });
        }
        if let Some(at) = value.find(['\'', '"']) {
            let message = "a quote inside a value without quotes";
            return Err(Bad { at: from + at, message, help: "put the whole value into the other kind of quotes" });
        }
        Ok(value.to_owned())
    }

    fn quoted(&mut self, quote: char) -> Result<String, Bad> {
        let opened = self.at;
        let mut value = String::new();
        let mut letters = self.rest().char_indices().skip(1);
        let end = loop {
            match letters.next() {
                None => {
                    let message = "a quote that is never closed";
                    return Err(Bad { at: opened, message, help: "close it, or leave both out" });
                }
                Some((at, letter)) if letter == quote => break at,
                Some((at, '\\')) if quote == '"' => match letters.next().and_then(|(_, letter)| escaped(letter)) {
                    Some(letter) => value.push(letter),
                    None => {
                        let message = "an unknown escape in double quotes";
                        let help = r#"expected one of \\ \" \$ \` \n \r \t, or single quotes around the value"#;
                        return Err(Bad { at: opened + at, message, help });
                    }
                },
                Some((_, letter)) => value.push(letter),
            }
        };
        self.at = opened + end + 1;
        let gap = self.at;
        self.skip_blanks();
        match self.rest().chars().next() {
            None | Some('\n') => {}
            Some('#') if self.at > gap => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
            Some(_) => {
                let message = "something behind a closed quote";
                return Err(Bad { at: self.at, message, help: "put the whole value into one pair of quotes" });
            }
        }
        // Files of Windows: inside a value too a line end is one letter.
        Ok(value.replace("\r\n", "\n"))
    }
}

fn escaped(letter: char) -> Option<char> {
    Some(match letter {
        '\\' | '"' | '$' | '`' => letter,
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, String> {
        let read = Variables::of_files([(Path::new("web.env"), text.as_bytes())]);
        let joined = |errors: Vec<Diagnostic>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        read.map(|found| found.0.into_iter().collect()).map_err(joined)
    }

    fn one(line: &str) -> String {
        let found = read(line).unwrap_or_else(|errors| panic!("{line}: {errors}"));
        let [(name, value)] = <[_; 1]>::try_from(found).unwrap_or_else(|found| panic!("{line}: {found:?}"));
        assert_eq!(name, "A");
        value
    }

    #[test]
    fn lines_as_systemd_and_compose_read_them() {
        for (line, value) in [
            ("A=1", "1"),
            ("export A=1", "1"),
            ("  A = a b \t", "a b"),
            ("\u{feff}A=1\r\n", "1"),
            ("A=", ""),
            ("A=\n", ""),
            ("A=b=c==", "b=c=="),
            ("A=a#b$c${d}", "a#b$c${d}"),
            ("A='a \\n \"b\" # $c'", "a \\n \"b\" # $c"),
            ("A=\"a \\\"b\\\" \\\\ \\$c \\` \\n\\t\" # why", "a \"b\" \\ $c ` \n\t"),
            ("A='one\ntwo'\n", "one\ntwo"),
            ("A=\"one\r\ntwo\"\r\n", "one\ntwo"),
            ("# A=0\n; A=0\n\n  \t\r\nA=1", "1"),
            ("A=1\nA=2", "2"),
            ("export=1\nA=2", "2"),
        ] {
            let lines = line.replace("export=1\n", "");
            assert_eq!(one(&lines), value, "{line}");
        }
        assert_eq!(read("export=1\n_b9=2").unwrap().len(), 2, "`export` is a name too");
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn a_bad_line_is_placed_and_its_contents_are_not_repeated() {
        for (text, place, part) in [
            ("A=1\nhunter2", "web.env:2:1 ", "neither NAME=VALUE"),
            ("hunter2 x=1", "web.env:1:1 ", "not a variable's name"),
            ("9A=hunter2", "web.env:1:1 ", "no digit first"),
            ("=hunter2", "web.env:1:1 ", "not a variable's name"),
            ("export \n  B=hunter2", "web.env:1:8 ", "neither NAME=VALUE"),
            ("A=hunter2 # c", "web.env:1:10 ", "put the value into quotes"),
            ("A=# hunter2", "web.env:1:3 ", "put the value into quotes"),
            ("A=hunter2\\n", "web.env:1:10 ", "single quotes"),
            ("A=hunter2'", "web.env:1:10 ", "inside a value without quotes"),
            ("B=1\nA='hunter2", "web.env:2:3 ", "never closed"),
            ("A=\"hunter2\\x\"", "web.env:1:11 ", "unknown escape"),
            ("A='hunter2'b", "web.env:1:12 ", "behind a closed quote"),
            ("A='hunter2'#b", "web.env:1:12 ", "behind a closed quote"),
            ("A=hunter2\0", "web.env:1:1 ", "NUL"),
        ] {
            let errors = read(text).unwrap_err();
            assert!(errors.starts_with(place) && errors.contains(part), "{text:?}: {errors}");
            assert!(!errors.contains("hunter2"), "{errors}");
        }
        let all = read("a b\nA=1\nc d\n").unwrap_err();
        assert_eq!(all.lines().count(), 2, "all at once: {all}");
        let long = format!("A={}", "x".repeat(VARIABLE_MAX));
        assert!(read(&long).unwrap_err().contains("128K"));
        let many: String = (0..9).map(|n| format!("A{n}={}\n", "x".repeat(130_000))).collect();
        assert!(read(&many).unwrap_err().contains("at most 1048576"));
        assert!(Variables::of_files([(Path::new("a.env"), &b"A=\xff"[..])]).is_err());
    }

    #[test]
    fn later_files_win() {
        let files = [(Path::new("a"), &b"A=1\nB=1\n"[..]), (Path::new("b"), &b"B=2\n"[..])];
        let found = Variables::of_files(files).unwrap();
        assert_eq!((found.get("A"), found.get("B"), found.get("C")), (Some("1"), Some("2"), None));
    }

    #[test]
    fn values_are_not_shown() {
        let found = Variables::of_files([(Path::new("a"), &b"PW=hunter2\nLONG=hunter2hunter\nN=8"[..])]).unwrap();
        assert_eq!(format!("{found:?}"), r#"{"LONG", "N", "PW"}"#);
        assert_eq!(found.hide("no hunter2 in hunter2hunter, 8"), "no ${PW} in ${LONG}, 8");
    }
}

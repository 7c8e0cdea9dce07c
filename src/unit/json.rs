//! config.json as bytes to an OCI [`Spec`], with the place and the path of what is wrong in it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::diagnostic::{Lines, one_line};
use crate::compact;
use crate::config::Spec;

/// serde lists all variants of an enum: longer messages are cut.
const MESSAGE_MAX: usize = 240;

/// serde_json recurses at most 128 deep; the path of an error is no longer.
const DEPTH_MAX: usize = 128;

/// What is wrong with a JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonError {
    /// From 1; 0 where the whole text is meant.
    pub(crate) line: u32,
    /// In characters, from 1.
    pub(crate) column: u32,
    /// `process.args[0]`; empty at the top.
    pub(crate) path: String,
    pub(crate) message: String,
}

/// Reads a spec. Always from text, also where a [`Value`] is at hand: the derived code is big, and one copy is enough.
pub(crate) fn read_spec(text: &[u8]) -> Result<Spec, JsonError> {
    compact::from_json::<Spec>(text).map_err(|error| place(text, &error))
}

/// Reads something else than a spec that is an object. (What is derived would take an array of its fields as well.)
pub(crate) fn read_as<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    if text.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        read_object(text)?;
    }
    compact::from_json::<T>(text).map_err(|error| place(text, &error))
}

/// Reads any JSON object.
pub(crate) fn read_object(text: &[u8]) -> Result<Value, JsonError> {
    let value = compact::from_json::<Value>(text).map_err(|error| place(text, &error))?;
    if value.is_object() {
        return Ok(value);
    }
    Err(JsonError { line: 1, column: 1, path: String::new(), message: "expected a JSON object".to_owned() })
}

fn place(text: &[u8], error: &serde_json::Error) -> JsonError {
    let starts = std::iter::once(0).chain(text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1));
    let start = starts.take(error.line().max(1)).last().unwrap_or(0);
    // serde_json counts the bytes of the line that it has consumed: its column is that of the last byte of the culprit.
    let end = start.saturating_add(error.column()).min(text.len());
    let before = text.get(start..end).unwrap_or(&[]);
    let characters = String::from_utf8_lossy(before).chars().count().max(1);
    let whole = error.to_string();
    let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
    // The derived code's word for an unknown word of an enum.
    let variant = message.strip_prefix("no variant for ").and_then(|rest| rest.split(' ').next());
    let unknown = variant.map(|word| format!("unknown word {word:?}, expected one that runtime-spec has"));
    let message = unknown.as_deref().unwrap_or(message);
    let message = if error.is_data() { message.to_owned() } else { format!("not JSON from here on: {message}") };
    let cut: String = one_line(&message).chars().take(MESSAGE_MAX).collect();
    let cut = if message.chars().count() > MESSAGE_MAX { format!("{cut}…") } else { cut };
    JsonError {
        line: u32::try_from(error.line()).unwrap_or(u32::MAX),
        column: u32::try_from(characters).unwrap_or(u32::MAX),
        // A bracket that should not be there closes nothing.
        path: path_at(text.get(..if error.is_data() { end } else { end.saturating_sub(1) }).unwrap_or(text)),
        message: cut,
    }
}

enum Frame {
    Object { key: String, expects_key: bool },
    Array { index: usize },
}

/// The JSON path of the end of a text that is JSON up to there.
fn path_at(text: &[u8]) -> String {
    scan(text, |_, _| {})
}

/// Line and column, from 1, of the values at these paths of a JSON text, in the order of the text; of a value that is not there those of what
/// should hold it.
pub(crate) fn places(text: &[u8], paths: &BTreeSet<&str>) -> BTreeMap<String, (u32, u32)> {
    let wanted = compact::set(paths.iter().flat_map(|path| prefixes(path)));
    let deepest = wanted.iter().map(|path| path.matches(['.', '[']).count() + 1).max().unwrap_or(0);
    let mut starts = BTreeMap::new();
    scan(text, |at, frames| {
        if frames.len() <= deepest {
            let path = render(frames);
            if wanted.contains(path.as_str()) {
                starts.entry(path).or_insert(at);
            }
        }
    });
    let text = String::from_utf8_lossy(text);
    let lines = Lines::new(&text);
    let start = |path: &&str| prefixes(path).find_map(|prefix| starts.get(prefix)).copied().unwrap_or(0);
    compact::map(paths.iter().map(|path| ((*path).to_owned(), lines.position(start(path)))))
}

/// A path, what holds it, what holds that, and so on.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rfind(['.', '[']).map(|end| &path[..end]))
}

/// Calls `value` with the place of each value and the frames around it, and returns the path at the end.
fn scan(text: &[u8], mut value: impl FnMut(usize, &[Frame])) -> String {
    let mut frames: Vec<Frame> = Vec::new();
    let mut at = 0;
    let mut between = true;
    while let Some(byte) = text.get(at) {
        let separates = byte.is_ascii_whitespace() || matches!(byte, b',' | b':' | b'}' | b']');
        if between && !separates && !matches!(frames.last(), Some(Frame::Object { expects_key: true, .. })) {
            value(at, &frames);
        }
        between = separates || matches!(byte, b'[' | b'{');
        at += 1;
        match byte {
            b'{' if frames.len() < DEPTH_MAX => frames.push(Frame::Object { key: String::new(), expects_key: true }),
            b'[' if frames.len() < DEPTH_MAX => frames.push(Frame::Array { index: 0 }),
            b'}' | b']' => drop(frames.pop()),
            b',' => match frames.last_mut() {
                Some(Frame::Object { expects_key, .. }) => *expects_key = true,
                Some(Frame::Array { index }) => *index += 1,
                None => {}
            },
            b'"' => {
                let start = at;
                at = string_end(text, start);
                if let Some(Frame::Object { key, expects_key: expects @ true }) = frames.last_mut() {
                    let inner = text.get(start..at.saturating_sub(1)).unwrap_or(&[]);
                    *key = one_line(&String::from_utf8_lossy(inner));
                    *expects = false;
                }
            }
            _ => {}
        }
    }
    render(&frames)
}

/// Where the string that began at `at` ends, its quote included.
fn string_end(text: &[u8], mut at: usize) -> usize {
    while let Some(byte) = text.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    text.len()
}

fn render(frames: &[Frame]) -> String {
    let mut path = String::new();
    for frame in frames {
        match frame {
            Frame::Object { key, .. } if key.is_empty() => {}
            Frame::Object { key, .. } => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Frame::Array { index } => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (u32, u32, String, String) {
        let error = read_spec(text.as_bytes()).unwrap_err();
        (error.line, error.column, error.path, error.message)
    }

    #[test]
    fn a_wrong_type_is_named_with_place_and_path() {
        let text = "{\n \"process\": {\"cwd\": \"/\", \"user\": {\"uid\": \"a\", \"gid\": 0}}\n}";
        let (line, column, path, message) = error(text);
        assert_eq!((line, path.as_str()), (2, "process.user.uid"));
        assert_eq!(column as usize, text.lines().nth(1).unwrap().find("\"a\"").unwrap() + 3);
        assert_eq!(message, "invalid type: string \"a\", expected u32");
        let (_, _, path, _) = error(r#"{"mounts": [{"destination": "/a"}, {"destination": 5}]}"#);
        assert_eq!(path, "mounts[1].destination");
        let (_, _, path, message) = error(r#"{"mounts": [{"source": "a"}], "root": {}}"#);
        assert_eq!((path.as_str(), message.as_str()), ("mounts[0]", "missing field `destination`"));
    }

    #[test]
    fn values_are_found_by_their_paths() {
        let text = "{\"a\": 1,\n \"b\": {\"c\": [10, \"ä\", {\"d\": true}], \"e\": null}}";
        let found = places(text.as_bytes(), &BTreeSet::from(["", "a", "b.c[0]", "b.c[2].d", "b.c[7]", "b.e", "zz"]));
        let found: Vec<(&str, (u32, u32))> = found.iter().map(|(path, place)| (path.as_str(), *place)).collect();
        let c = 13;
        let expected = [
            ("", (1, 1)),
            ("a", (1, 7)),
            ("b.c[0]", (2, c + 1)),
            ("b.c[2].d", (2, c + 16)),
            ("b.c[7]", (2, c)),
            ("b.e", (2, c + 29)),
            ("zz", (1, 1)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn broken_json_is_placed_without_panic() {
        let whole = r#"{"process": {"args": ["a\"b", "ä"], "cwd": "/"}, "mounts": [[{"x": 1}]]}"#;
        for end in 0..whole.len() {
            let error = read_object(&whole.as_bytes()[..end]).unwrap_err();
            assert_eq!(error.line, 1, "{end}");
        }
        assert_eq!(read_object(b"[]").unwrap_err().message, "expected a JSON object");
        let deep = "[".repeat(100_000);
        assert!(read_object(deep.as_bytes()).is_err());
    }
}

//! config.json as bytes to an OCI [`Spec`], with the place and the path of what is wrong in it.

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::diagnostic::one_line;

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

/// Reads a spec. Always from bytes, also where a [`Value`] is at hand: the derived code is big, and one copy is enough.
pub(crate) fn read_spec(text: &[u8]) -> Result<Spec, JsonError> {
    serde_json::from_slice::<Spec>(text).map_err(|error| place(text, &error))
}

/// Reads any JSON object.
pub(crate) fn read_object(text: &[u8]) -> Result<Value, JsonError> {
    let value = serde_json::from_slice::<Value>(text).map_err(|error| place(text, &error))?;
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
    let cut: String = one_line(message).chars().take(MESSAGE_MAX).collect();
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
    let mut frames: Vec<Frame> = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
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
        let (_, _, path, message) = error(r#"{"process": {"args": ["a"]}, "root": {}}"#);
        assert_eq!((path.as_str(), message.as_str()), ("process", "missing field `user`"));
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

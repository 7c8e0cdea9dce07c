//! The keys that detach from a terminal without ending what runs on it, as podman and docker have them: `ctrl-p,ctrl-q`.
//!
//! What is typed goes through here. Keys that may be the beginning of the sequence are kept back until the next one says that they were not;
//! they are then the program's, so with the default it sees a `ctrl-p` one key late.

use std::str::FromStr;

/// Most keys of a sequence.
const KEYS_MAX: usize = 16;
/// The bit by which a control character differs from its key.
const CONTROL: u8 = 0x40;

/// What is typed to detach; none: nothing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let keys = if text.is_empty() { Vec::new() } else { text.split(',').map(key).collect::<Result<_, _>>()? };
        match keys.len() > KEYS_MAX {
            true => Err(format!("{} keys, expected at most {KEYS_MAX}", keys.len())),
            false => Ok(DetachKeys(keys)),
        }
    }
}

fn key(text: &str) -> Result<u8, String> {
    let of_control = |key: &str| match key.as_bytes() {
        [key @ (b'a'..=b'z' | b'@' | b'['..=b'_')] => Some(key.to_ascii_uppercase() ^ CONTROL),
        _ => None,
    };
    let byte = match (text.strip_prefix("ctrl-"), text.as_bytes()) {
        (Some(key), _) => of_control(key),
        (None, [byte]) if byte.is_ascii_graphic() => Some(*byte),
        (None, _) => None,
    };
    byte.ok_or_else(|| {
        format!("`{text}` is no key, expected one character, or ctrl- and one of a to z @ [ \\ ] ^ _; keys are parted by commas")
    })
}

/// Looks for the sequence in what is typed.
#[derive(Debug)]
pub struct Filter {
    keys: DetachKeys,
    /// So many of its keys were typed last, and are kept back.
    kept: usize,
}

impl Filter {
    pub fn new(keys: DetachKeys) -> Filter {
        Filter { keys, kept: 0 }
    }

    /// Adds to `out` what is the program's of `typed`; `true`: the sequence is complete, and what follows it is nobody's.
    pub fn pass(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        let keys = &self.keys.0;
        if keys.is_empty() {
            out.extend_from_slice(typed);
            return false;
        }
        for byte in typed {
            let mut held: Vec<u8> = keys.iter().take(self.kept).copied().chain([*byte]).collect();
            // The longest end of what is kept back that the sequence may begin with.
            let begins = |from: &usize| held.get(*from..).is_some_and(|end| keys.starts_with(end));
            let from = (0..held.len()).find(begins).unwrap_or(held.len());
            out.extend(held.drain(..from));
            self.kept = held.len();
            if self.kept == keys.len() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str, parts: &[&str]) -> (String, bool) {
        let mut filter = Filter::new(keys.parse().unwrap());
        let mut out = Vec::new();
        let detached = parts.iter().any(|part| filter.pass(part.as_bytes(), &mut out));
        (String::from_utf8(out).unwrap(), detached)
    }

    #[test]
    fn keys_are_written_as_for_podman() {
        let keys = |text: &str| text.parse::<DetachKeys>().map(|keys| keys.0);
        assert_eq!(keys("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(keys("a,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_"), Ok(vec![b'a', 0, 27, 28, 29, 30, 31]));
        assert_eq!(keys(""), Ok(Vec::new()), "none");
        for wrong in ["ctrl-", "ctrl-P", "ctrl-1", "ctrl-pp", "ab", "a,", ",", "ü", "alt-x", " "] {
            let message = keys(wrong).unwrap_err();
            assert!(message.contains("is no key, expected one character"), "{wrong}: {message}");
        }
        assert_eq!(keys(&["a"; 17].join(",")), Err("17 keys, expected at most 16".to_owned()));
    }

    #[test]
    fn the_whole_sequence_detaches_however_it_comes() {
        assert_eq!(typed("ctrl-p,ctrl-q", &["ls\n\x10\x11 lost"]), ("ls\n".to_owned(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &["ls\n\x10", "\x11"]), ("ls\n".to_owned(), true));
        assert_eq!(typed("a,a,b", &["aaab"]), ("a".to_owned(), true), "it may begin in the middle of itself");
        assert_eq!(typed("a,b,a,c", &["ababac"]), ("ab".to_owned(), true));
    }

    #[test]
    fn a_part_of_it_is_the_programs() {
        assert_eq!(typed("ctrl-p,ctrl-q", &["\x10", "x\x11"]), ("\x10x\x11".to_owned(), false));
        assert_eq!(typed("ctrl-p,ctrl-q", &["\x10\x10x"]), ("\x10\x10x".to_owned(), false));
        assert_eq!(typed("ctrl-p,ctrl-q", &["a\x10"]), ("a".to_owned(), false), "kept back");
        assert_eq!(typed("", &["\x10\x11"]), ("\x10\x11".to_owned(), false));
    }
}

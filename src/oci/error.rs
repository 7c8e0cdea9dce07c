//! What is wrong with a config.json, where, and what would be right.

use std::fmt::{self, Display};

/// One mistake: its JSON path (`process.rlimits[0].type`) and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct CompileError {
    /// As one would write it in JavaScript.
    pub path: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Not there.
    Missing {
        /// What should be there.
        expected: &'static str,
    },
    /// Of another JSON type, or a number out of range.
    Type {
        /// What it should be.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A word that is not one of those known.
    Unknown {
        /// What kind of word.
        what: &'static str,
        /// What is there.
        found: String,
        /// The nearest known one.
        suggestion: Option<String>,
    },
    /// Outside the range that makes sense.
    Range {
        /// What is there.
        found: String,
        /// What makes sense.
        expected: &'static str,
    },
    /// Twice the same thing.
    Duplicate {
        /// What is there twice.
        found: String,
    },
    /// Two values that exclude each other or one that needs another.
    Conflict {
        /// Why.
        reason: &'static str,
    },
    /// A seccomp profile's mistake, in its compiler's words.
    Seccomp(String),
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing { expected } => write!(f, "is missing, expected {expected}"),
            Problem::Type { expected, found } => write!(f, "expected {expected}, found {found}"),
            Problem::Unknown { what, found, suggestion: None } => write!(f, "unknown {what} {found:?}"),
            Problem::Unknown { what, found, suggestion: Some(near) } => {
                write!(f, "unknown {what} {found:?}, did you mean {near:?}?")
            }
            Problem::Range { found, expected } => write!(f, "{found} is out of range, expected {expected}"),
            Problem::Duplicate { found } => write!(f, "{found} is given twice"),
            Problem::Conflict { reason } => f.write_str(reason),
            Problem::Seccomp(text) => f.write_str(text),
        }
    }
}

/// Something that is ignored, as the spec demands of unknown fields, or that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// JSON path.
    pub path: String,
    /// What about it.
    pub text: String,
}

impl Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// More mistakes, or warnings, than anybody wants to know of one file; a 1 MiB file could hold half a million.
const MISTAKES_MAX: usize = 1000;

/// Gathers all mistakes of one config.json.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) errors: Vec<CompileError>,
    pub(super) warnings: Vec<Warning>,
    /// For who writes the text himself: what a runtime should pass over is a mistake there.
    pub(super) strict: bool,
}

impl Report {
    pub(super) fn error(&mut self, path: impl Display, problem: Problem) {
        if self.errors.len() == MISTAKES_MAX {
            return;
        }
        self.errors.push(CompileError { path: path.to_string(), problem });
    }

    pub(super) fn warn(&mut self, path: impl Display, text: impl Into<String>) {
        if self.warnings.len() == MISTAKES_MAX {
            return;
        }
        self.warnings.push(Warning { path: path.to_string(), text: text.into() });
    }
}

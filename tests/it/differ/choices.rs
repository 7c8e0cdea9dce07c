//! What was chosen where runc and crun differ: the table of `src/oci/differences.md`.

use std::path::Path;

use super::compare::matches;

/// Whose way is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    Runc,
    Crun,
    /// Sometimes the one, sometimes the other.
    Either,
    Neither,
}

/// A row: patterns of [`matches`], of which one has to fit; none is anything.
#[derive(Debug)]
pub struct Choice {
    /// Of the lines it is about.
    lines: Vec<String>,
    /// Of what moored, runc and crun say in them.
    said: [Vec<String>; 3],
    pub choice: As,
    pub why: String,
}

/// How much of a row's conditions is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Whole,
    /// All but what it asks of a runtime that has no say.
    Part,
}

impl Choice {
    /// `ran` is who has a say.
    pub fn fits(&self, line: &str, values: &[String; 3], ran: [bool; 3]) -> Option<Fit> {
        let fits = |patterns: &[String], text: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, text))
        };
        if !fits(&self.lines, line) || !(0..3).all(|at| !ran[at] || fits(&self.said[at], &values[at])) {
            return None;
        }
        Some(if (0..3).all(|at| ran[at] || !self.asks(at)) { Fit::Whole } else { Fit::Part })
    }

    /// Whether it is only about certain words of this one.
    pub fn asks(&self, runtime: usize) -> bool {
        !self.said[runtime].is_empty()
    }
}

/// The table.
pub fn read() -> Vec<Choice> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/oci/differences.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

/// One line of it.
pub fn row(line: &str) -> Choice {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [lines, ours, runc, crun, choice, why] = cells.as_slice() else { panic!("not six cells: {line}") };
    // What is between backticks.
    let spans = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let choice = match *choice {
        "runc" => As::Runc,
        "crun" => As::Crun,
        "either" => As::Either,
        "neither" => As::Neither,
        other => panic!("{other:?} is nobody: {line}"),
    };
    assert!(!why.is_empty(), "no reason: {line}");
    Choice { lines: spans(lines), said: [spans(ours), spans(runc), spans(crun)], choice, why: (*why).to_owned() }
}

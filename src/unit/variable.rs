//! Variables: what `${…}` in a string of `[process]` and `[oci]` stands for, in a unit that has an `env_file`.
//!
//! | written | stands for |
//! |---|---|
//! | `${NAME}` | its value; an error if no env file defines it |
//! | `${NAME:-default}` | the default if it is not defined or empty |
//! | `${NAME:?message}` | an error with this message if it is not defined or empty |
//! | `$$` | a `$` |
//!
//! Any other `${` is refused, so that a later form never changes what an accepted file means. A `$` before anything else stands for
//! itself. What was put in is not looked at again. Values come from the env files alone, never from the supervisor's environment.
//!
//! In a unit without `env_file` all of this stands as it is written: shell scripts in `args` are full of it.

use super::diagnostic::quote;
use super::env_file::{Variables, is_name};

/// What a text that is parsed is given for its variables.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Given<'v> {
    /// It has no `env_file`: `${` means nothing.
    None,
    /// Its env files are not read yet: a value that names a variable is not judged.
    Unread,
    /// This is what they define.
    Known(&'v Variables),
}

/// A `${` that stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadVariable {
    /// Not defined.
    #[error("`${{{0}}}`, which no env file defines")]
    Unknown(String),
    /// `${NAME:?message}`.
    #[error("`${{{0}}}`, which no env file gives a value: {1}")]
    Required(String, String),
    /// Not one of the forms.
    #[error("`${{{0}`, expected `${{NAME}}`, `${{NAME:-default}}` or `${{NAME:?message}}`")]
    Form(String),
}

impl BadVariable {
    /// What to write instead.
    pub(crate) fn cure(&self) -> Option<String> {
        match self {
            BadVariable::Unknown(name) => Some(format!("define it there, or write `${{{name}:-default}}`")),
            BadVariable::Required(..) => None,
            BadVariable::Form(_) => Some("write `$${` for `${` itself".to_owned()),
        }
    }
}

/// Whether `text` names a variable.
pub(crate) fn names_any(text: &str) -> bool {
    expand(text, &|_| Some(String::new())).map_or(true, |(_, named)| named)
}

/// `text` with its variables, and whether there were any.
pub(crate) fn expand_with(text: &str, variables: &Variables) -> Result<(String, bool), BadVariable> {
    expand(text, &|name| variables.get(name).map(str::to_owned))
}

fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<(String, bool), BadVariable> {
    let (mut expanded, mut rest, mut named) = (String::with_capacity(text.len()), text, false);
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let form = || BadVariable::Form(quote(after));
            let (inside, after) = after.split_once('}').ok_or_else(form)?;
            expanded.push_str(&one(inside, value)?.ok_or_else(form)?);
            (rest, named) = (after, true);
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    Ok((expanded, named))
}

/// What stands between the braces; `None` is no form.
fn one(inside: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, BadVariable> {
    let (name, rest) =
        inside.split_at(inside.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(inside.len()));
    // A variable in a default would end at the first brace.
    if !is_name(name) || rest.contains("${") {
        return Ok(None);
    }
    let given = value(name);
    let full = given.clone().filter(|value| !value.is_empty());
    if rest.is_empty() {
        return given.map(Some).ok_or_else(|| BadVariable::Unknown(name.to_owned()));
    }
    if let Some(default) = rest.strip_prefix(":-") {
        return Ok(Some(full.unwrap_or_else(|| default.to_owned())));
    }
    let Some(message) = rest.strip_prefix(":?") else { return Ok(None) };
    let message = if message.is_empty() { "it is required".to_owned() } else { quote(message) };
    full.map(Some).ok_or_else(|| BadVariable::Required(name.to_owned(), message))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(text: &str) -> Result<String, BadVariable> {
        let variables = Variables::of_files([(Path::new("a"), &b"A=one\nE=\nD='$A ${A}'"[..])]).unwrap();
        expand_with(text, &variables).map(|(text, _)| text)
    }

    #[test]
    fn each_form_stands_for_its_value() {
        for (text, expected) in [
            ("${A}", "one"),
            ("a${A}b${E}c", "aonebc"),
            ("${X:-two} ${E:-two} ${A:-two} ${X:-}", "two two one "),
            ("${X:-a:-b $c %d}", "a:-b $c %d"),
            ("${A:?why}", "one"),
            ("${D}", "$A ${A}"),
            ("$$ $${A} $$$$", "$ ${A} $$"),
            ("$A $ $1 $(x) $", "$A $ $1 $(x) $"),
            ("", ""),
        ] {
            assert_eq!(of(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        for (text, message) in [
            ("${X}", "`${X}`, which no env file defines"),
            ("${E:?set it}", "`${E}`, which no env file gives a value: set it"),
            ("${X:?}", "`${X}`, which no env file gives a value: it is required"),
            ("${A", "`${A`, expected `${NAME}`, `${NAME:-default}` or `${NAME:?message}`"),
        ] {
            assert_eq!(of(text).unwrap_err().to_string(), message);
        }
        for text in ["${}", "${9}", "${A-b}", "${A:+b}", "${A?b}", "${#A}", "${A%b}", "${A:1}", "${X:-${A}}", "${ä}"] {
            assert!(matches!(of(text), Err(BadVariable::Form(_))), "{text}");
        }
    }

    #[test]
    fn a_text_that_names_a_variable_is_known_before_the_files_are() {
        for (text, named) in [("${X}", true), ("a${X:-b}", true), ("${X", true), ("$$ $X", false), ("$${X}", false)] {
            assert_eq!(names_any(text), named, "{text}");
        }
    }
}

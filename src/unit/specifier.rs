//! Specifiers: what a `%` and a letter in a string of a unit file stand for.
//!
//! | written | stands for | of `worker@a` | of `web` |
//! |---|---|---|---|
//! | `%n` | the unit's name | `worker@a` | `web` |
//! | `%p` | its part before the `@` | `worker` | `web` |
//! | `%i` | its instance | `a` | refused |
//! | `%h` | the host's name | `alpha` | `alpha` |
//! | `%%` | a `%` | `%` | `%` |
//!
//! Any other letter is refused, so that a later specifier never changes what an accepted file means. A `%` before anything but an ASCII letter or a `%` stands for
//! itself ("100%", "%20"). What is expanded is not looked at again. Words with a fixed meaning, keys and `[oci]` have no specifiers.

use super::UnitName;

/// What specifiers stand for.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The unit's name.
    pub unit: &'a UnitName,
    /// The host's, as uname(2) has it.
    pub host: &'a str,
}

impl<'a> Names<'a> {
    /// On a host that has no name of its own.
    pub fn of(unit: &'a UnitName) -> Names<'a> {
        Names { unit, host: "localhost" }
    }
}

/// A specifier that stands for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSpecifier {
    /// `%i` in a unit without an instance.
    #[error("the specifier `%i`, but this unit is no instance")]
    NoInstance,
    /// Any other letter.
    #[error("the unknown specifier `%{0}`, expected `%n`, `%p`, `%i`, `%h` or `%%`")]
    Unknown(char),
}

impl BadSpecifier {
    /// What to write instead.
    pub(crate) fn cure(self) -> String {
        match self {
            BadSpecifier::NoInstance => "name the file NAME@INSTANCE.toml, or write `%%i` for `%i` itself".to_owned(),
            BadSpecifier::Unknown(letter) => format!("write `%%{letter}` for `%{letter}` itself"),
        }
    }
}

/// `text` with its specifiers expanded; `whole` is what `%n` becomes.
pub(crate) fn expand(text: &str, names: Names, whole: &str) -> Result<String, BadSpecifier> {
    let mut expanded = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let special = |next: &char| letter == '%' && (*next == '%' || next.is_ascii_alphabetic());
        match letters.next_if(special) {
            None => expanded.push(letter),
            Some('%') => expanded.push('%'),
            Some('n') => expanded.push_str(whole),
            Some('p') => expanded.push_str(names.unit.prefix()),
            Some('i') => expanded.push_str(names.unit.instance().ok_or(BadSpecifier::NoInstance)?),
            Some('h') => expanded.push_str(names.host),
            Some(other) => return Err(BadSpecifier::Unknown(other)),
        }
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(unit: &str, text: &str) -> Result<String, BadSpecifier> {
        expand(text, Names { unit: &UnitName::new(unit).unwrap(), host: "alpha" }, unit)
    }

    #[test]
    fn specifiers_stand_for_the_parts_of_the_name() {
        for (unit, text, expected) in [
            ("worker@a", "%n %p %i", "worker@a worker a"),
            ("web", "%n %p", "web web"),
            ("web", "%%n %%%p %%%%", "%n %web %%"),
            ("web", "100% %20 % ä%ä %", "100% %20 % ä%ä %"),
            ("web", "%h-%n %%h", "alpha-web %h"),
            ("web", "", ""),
        ] {
            assert_eq!(of(unit, text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        for (text, bad) in [
            ("%i", BadSpecifier::NoInstance),
            ("date +%s", BadSpecifier::Unknown('s')),
            ("%%%N", BadSpecifier::Unknown('N')),
        ] {
            assert_eq!(of("web", text), Err(bad), "{text}");
        }
    }
}

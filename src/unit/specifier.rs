//! Specifiers: what a `%` and a letter in a string of a unit file stand for.
//!
//! | written | stands for | of `worker@a` | of `web` |
//! |---|---|---|---|
//! | `%n` | the unit's name | `worker@a` | `web` |
//! | `%p` | its part before the `@` | `worker` | `web` |
//! | `%i` | its instance | `a` | refused |
//! | `%%` | a `%` | `%` | `%` |
//!
//! `%h`, the host's name, is refused by name: it needs a fact about the host that no text has. Any other letter is refused too, so
//! that a later specifier never changes what an accepted file means. A `%` before anything but an ASCII letter or a `%` stands for
//! itself ("100%", "%20"). What is expanded is not looked at again. Words with a fixed meaning, keys and `[oci]` have no specifiers.

use super::UnitName;

/// A specifier that stands for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSpecifier {
    /// `%i` in a unit without an instance.
    #[error("the specifier `%i`, but this unit is no instance")]
    NoInstance,
    /// `%h`.
    #[error("the specifier `%h`, which is known but not built in this version")]
    Later,
    /// Any other letter.
    #[error("the unknown specifier `%{0}`, expected `%n`, `%p`, `%i` or `%%`")]
    Unknown(char),
}

impl BadSpecifier {
    /// What to write instead.
    pub(crate) fn cure(self) -> String {
        match self {
            BadSpecifier::NoInstance => "name the file NAME@INSTANCE.toml, or write `%%i` for `%i` itself".to_owned(),
            BadSpecifier::Later => "write the host's name out, or `%%h` for `%h` itself".to_owned(),
            BadSpecifier::Unknown(letter) => format!("write `%%{letter}` for `%{letter}` itself"),
        }
    }
}

/// `text` with its specifiers expanded for the unit `name`; `whole` is what `%n` becomes.
pub(crate) fn expand(text: &str, name: &UnitName, whole: &str) -> Result<String, BadSpecifier> {
    let mut expanded = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let special = |next: &char| letter == '%' && (*next == '%' || next.is_ascii_alphabetic());
        match letters.next_if(special) {
            None => expanded.push(letter),
            Some('%') => expanded.push('%'),
            Some('n') => expanded.push_str(whole),
            Some('p') => expanded.push_str(name.prefix()),
            Some('i') => expanded.push_str(name.instance().ok_or(BadSpecifier::NoInstance)?),
            Some('h') => return Err(BadSpecifier::Later),
            Some(other) => return Err(BadSpecifier::Unknown(other)),
        }
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(unit: &str, text: &str) -> Result<String, BadSpecifier> {
        expand(text, &UnitName::new(unit).unwrap(), unit)
    }

    #[test]
    fn specifiers_stand_for_the_parts_of_the_name() {
        for (unit, text, expected) in [
            ("worker@a", "%n %p %i", "worker@a worker a"),
            ("web", "%n %p", "web web"),
            ("web", "%%n %%%p %%%%", "%n %web %%"),
            ("web", "100% %20 % ä%ä %", "100% %20 % ä%ä %"),
            ("web", "", ""),
        ] {
            assert_eq!(of(unit, text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        for (text, bad) in [
            ("%i", BadSpecifier::NoInstance),
            ("a%h", BadSpecifier::Later),
            ("date +%s", BadSpecifier::Unknown('s')),
            ("%%%N", BadSpecifier::Unknown('N')),
        ] {
            assert_eq!(of("web", text), Err(bad), "{text}");
        }
    }
}

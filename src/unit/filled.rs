//! Strings of a unit with their variables put in, and where they come from.

use super::variable::{self, Given};
use super::walk::{Field, STRING_MAX, Walk};

/// A string whose variables were looked at.
pub(crate) struct Filled {
    pub(crate) text: String,
    pub(crate) from: From,
}

/// Where a string comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// The unit's text alone.
    Text,
    /// Variables as well.
    Variables,
    /// Variables that are not known yet: it is as it is written, and not to be judged.
    Unread,
}

impl Walk<'_> {
    /// A string with its specifiers, and then its variables.
    pub(crate) fn filled(&mut self, field: &Field, expected: &str) -> Option<Filled> {
        let text = self.text(field, expected)?;
        self.fill(field, text)
    }

    /// `text`, which stands at `field`, with its variables.
    pub(crate) fn fill(&mut self, field: &Field, text: String) -> Option<Filled> {
        let variables = match self.variables {
            Given::None => return Some(Filled { text, from: From::Text }),
            Given::Unread => {
                let from = if variable::names_any(&text) { From::Unread } else { From::Text };
                // What needs no variable is as it will be.
                let text = match from {
                    From::Text => text.replace("$$", "$"),
                    From::Variables | From::Unread => text,
                };
                return Some(Filled { text, from });
            }
            Given::Known(variables) => variables,
        };
        match variable::expand_with(&text, variables) {
            Ok((text, _)) if text.len() > STRING_MAX => {
                let message =
                    format!("`{}` has {} bytes when expanded, expected at most {STRING_MAX}", field.name, text.len());
                self.error(&field.at(), message, None);
                None
            }
            Ok((text, named)) => Some(Filled { text, from: if named { From::Variables } else { From::Text } }),
            Err(bad) => {
                let help = bad.cure();
                self.error(&field.at(), format!("`{}` holds {bad}", field.name), help);
                None
            }
        }
    }

    /// A text for a message, without what variables hold.
    pub(crate) fn hide(&self, text: &str) -> String {
        match self.variables {
            Given::None | Given::Unread => text.to_owned(),
            Given::Known(variables) => variables.hide(text),
        }
    }

    /// A list of strings, each as [`Walk::filled`].
    pub(crate) fn texts(&mut self, field: &Field) -> Option<Vec<Filled>> {
        let items = self.items(field)?;
        let before = self.errors.len() + self.left_out();
        let each = |(n, value): (usize, _)| Field {
            name: format!("{}[{n}]", field.name),
            key_span: field.key_span.clone(),
            value,
        };
        let fields: Vec<Field> = items.into_iter().enumerate().map(each).collect();
        let texts = fields.iter().filter_map(|item| self.filled(item, "a string")).collect();
        (self.errors.len() + self.left_out() == before).then_some(texts)
    }
}

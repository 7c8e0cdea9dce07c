//! Names: of units, and of the containers that run them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// `[A-Za-z0-9][A-Za-z0-9_-]{0,63}`, plus one `@` and an instance of the same alphabet. Copies share the text: a name is a key in many places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(Arc<str>);

/// Why a text is not a unit name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a unit name: expected 1 to 64 of A-Z a-z 0-9 _ - beginning with a letter or digit, and at most one @INSTANCE of the same letters"
)]
pub struct BadName(pub String);

/// Longest part before or after the `@`.
const PART_MAX: usize = 64;

impl UnitName {
    /// Checks the pattern.
    pub fn new(text: &str) -> Result<Self, BadName> {
        let bad = || BadName(text.chars().take(80).collect());
        let mut parts = text.split('@');
        let (first, instance) = (parts.next().unwrap_or(""), parts.next());
        if parts.next().is_some() || !is_part(first) || !instance.is_none_or(is_part) {
            return Err(bad());
        }
        Ok(UnitName(text.into()))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its part before the `@`; the whole name of a unit that is no instance.
    pub fn prefix(&self) -> &str {
        self.0.split_once('@').map_or(&self.0, |(prefix, _)| prefix)
    }

    /// Its part behind the `@`; `None` for a unit that is no instance.
    pub fn instance(&self) -> Option<&str> {
        self.0.split_once('@').map(|(_, instance)| instance)
    }
}

fn is_part(part: &str) -> bool {
    part.len() <= PART_MAX
        && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for UnitName {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        UnitName::new(&text)
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> String {
        name.0.as_ref().to_owned()
    }
}

/// One run of one unit: `<unit>[@instance].<generation>`. The generation is a number that never repeats.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId {
    /// Whose.
    pub unit: UnitName,
    /// Which.
    pub generation: u64,
}

impl ContainerId {
    /// Reads what `Display` prints; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, generation) = text.rsplit_once('.')?;
        let generation: u64 = generation.parse().ok()?;
        let id = ContainerId { unit: UnitName::new(unit).ok()?, generation };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.unit, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_pattern() {
        for good in ["a", "web", "web-1_x", "worker@a", "0", &"x".repeat(64)] {
            assert!(UnitName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "a.b", "a/b", "a@", "@a", "a@b@c", "ä", "a b", "..", &"x".repeat(65)] {
            assert!(UnitName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_reads_back_as_printed() {
        let id = ContainerId { unit: UnitName::new("web@1").unwrap(), generation: 7 };
        assert_eq!(ContainerId::parse(&id.to_string()), Some(id));
        for bad in ["web", "web.", "web.x", "web.07", "web.-1", ".1", "web.+1"] {
            assert_eq!(ContainerId::parse(bad), None, "{bad}");
        }
    }
}

//! Capabilities by name and number (capabilities(7), linux/capability.h), and sets of them as the kernel takes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::words::{CAPABILITIES, nearest};

/// `CAP_LAST_CAP` of Linux 6.18; the last new one came in 5.9.
pub const LAST: Capability = Capability(40);

/// What every name starts with, in OCI and in the manual.
const PREFIX: &str = "CAP_";

/// One capability, by its number: at most [`LAST`]'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8")]
pub struct Capability(u8);

impl Capability {
    /// `CAP_SETPCAP`: needed to drop others from the bounding set.
    pub const SETPCAP: Capability = Capability(8);
    /// `CAP_SYS_ADMIN`: needed for a seccomp filter without no_new_privs.
    pub const SYS_ADMIN: Capability = Capability(21);

    /// All of them, ascending.
    pub fn all() -> impl Iterator<Item = Capability> {
        (0..=LAST.0).map(Capability)
    }

    /// As in linux/capability.h.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The name without `CAP_`.
    fn short_name(self) -> &'static str {
        CAPABILITIES.get(usize::from(self.0)).copied().unwrap_or("?")
    }
}

impl fmt::Display for Capability {
    /// The name as OCI has it: `CAP_CHOWN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.short_name())
    }
}

/// A number that is no capability of this table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no capability {0}, the last one is {last}", last = LAST.0)]
pub struct NumberError(u8);

impl TryFrom<u8> for Capability {
    type Error = NumberError;

    fn try_from(number: u8) -> Result<Capability, NumberError> {
        if number <= LAST.0 { Ok(Capability(number)) } else { Err(NumberError(number)) }
    }
}

/// A name that is no capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError {
    /// What was written.
    pub found: String,
    /// What was perhaps meant.
    pub suggestion: Option<Capability>,
}

impl std::error::Error for NameError {}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown capability `{}`", self.found)?;
        match self.suggestion {
            Some(near) => write!(f, ", did you mean `{near}`?"),
            None => write!(f, ", expected a name of capabilities(7) such as `CAP_CHOWN`"),
        }
    }
}

impl FromStr for Capability {
    type Err = NameError;

    /// `CAP_CHOWN`, exactly as OCI demands it; other spellings of it are suggested, not taken.
    fn from_str(text: &str) -> Result<Capability, NameError> {
        let known = text.strip_prefix(PREFIX).and_then(|short| CAPABILITIES.iter().position(|name| *name == short));
        match known.and_then(|number| u8::try_from(number).ok()) {
            Some(number) => Ok(Capability(number)),
            None => Err(NameError { found: text.to_owned(), suggestion: suggest(text) }),
        }
    }
}

/// The nearest name, regardless of case, `-` for `_`, and the prefix.
fn suggest(text: &str) -> Option<Capability> {
    let upper = text.to_ascii_uppercase().replace('-', "_");
    let near = nearest(upper.strip_prefix(PREFIX).unwrap_or(&upper), CAPABILITIES)?;
    Capability::all().find(|one| one.short_name() == near)
}

/// A set of capabilities as a bit mask: bit n is capability n, as in `/proc/PID/status` and capset(2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// None.
    pub const EMPTY: CapabilitySet = CapabilitySet(0);
    /// All that this table knows.
    pub const ALL: CapabilitySet = CapabilitySet((1 << (LAST.0 + 1)) - 1);

    /// From a mask that the kernel gave; may hold bits of capabilities newer than the table.
    pub const fn from_bits(bits: u64) -> CapabilitySet {
        CapabilitySet(bits)
    }

    /// For the kernel.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Nothing in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it holds this one.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability.0) != 0
    }

    /// Adds one.
    pub const fn insert(&mut self, capability: Capability) {
        self.0 |= 1 << capability.0;
    }

    /// Takes one out.
    pub const fn remove(&mut self, capability: Capability) {
        self.0 &= !(1 << capability.0);
    }

    /// What is in both.
    pub const fn intersection(self, other: CapabilitySet) -> CapabilitySet {
        CapabilitySet(self.0 & other.0)
    }

    /// What is in either.
    pub const fn union(self, other: CapabilitySet) -> CapabilitySet {
        CapabilitySet(self.0 | other.0)
    }

    /// What is in this one only.
    pub const fn difference(self, other: CapabilitySet) -> CapabilitySet {
        CapabilitySet(self.0 & !other.0)
    }

    /// Whether all of it is in the other.
    pub const fn is_subset(self, other: CapabilitySet) -> bool {
        self.difference(other).is_empty()
    }

    /// Those of it that the table knows, ascending.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::all().filter(move |one| self.contains(*one))
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(all: I) -> CapabilitySet {
        all.into_iter().fold(CapabilitySet::EMPTY, |mut set, one| {
            set.insert(one);
            set
        })
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|one| one.to_string())).finish()
    }
}

impl TryFrom<oci_spec::runtime::Capability> for Capability {
    type Error = NameError;

    /// The config's enum has the same names; errs for one that is newer than this table.
    fn try_from(named: oci_spec::runtime::Capability) -> Result<Capability, NameError> {
        format!("{PREFIX}{named}").parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_both_ways() {
        for number in 0..=40 {
            let one = Capability::try_from(number).unwrap();
            assert_eq!(one.to_string().parse(), Ok(one));
            assert_eq!(one.number(), number);
        }
        assert_eq!(Capability::try_from(41).unwrap_err().to_string(), "there is no capability 41, the last one is 40");
        let known =
            [(0, "CAP_CHOWN"), (8, "CAP_SETPCAP"), (21, "CAP_SYS_ADMIN"), (27, "CAP_MKNOD"), (31, "CAP_SETFCAP")];
        for (number, name) in
            known.into_iter().chain([(34, "CAP_SYSLOG"), (38, "CAP_PERFMON"), (40, "CAP_CHECKPOINT_RESTORE")])
        {
            assert_eq!(name.parse::<Capability>().unwrap().number(), number);
        }
    }

    #[test]
    fn the_installed_header_agrees() {
        let path = "/usr/include/linux/capability.h";
        let Ok(text) = std::fs::read_to_string(path) else {
            assert!(std::env::var_os("MOORED_NO_SKIP").is_none(), "{path} is missing");
            println!("SKIP {path} is missing: install linux-libc-dev");
            return;
        };
        let mut seen = 0;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some("#define"), Some(name), Some(Ok(number))) =
                (words.next(), words.next(), words.next().map(str::parse::<u8>))
                && name.starts_with(PREFIX)
            {
                assert_eq!(name.parse::<Capability>().unwrap().number(), number);
                seen += 1;
            }
        }
        assert_eq!(seen, CAPABILITIES.len());
    }

    #[test]
    fn a_typo_gets_a_suggestion_and_nonsense_does_not() {
        let message = |text: &str| text.parse::<Capability>().unwrap_err().to_string();
        assert_eq!(message("CAP_NET_ADMN"), "unknown capability `CAP_NET_ADMN`, did you mean `CAP_NET_ADMIN`?");
        assert_eq!(message("net_raw"), "unknown capability `net_raw`, did you mean `CAP_NET_RAW`?");
        assert_eq!(message("cap-chown"), "unknown capability `cap-chown`, did you mean `CAP_CHOWN`?");
        assert_eq!(
            message("CAP_FOO"),
            "unknown capability `CAP_FOO`, expected a name of capabilities(7) such as `CAP_CHOWN`"
        );
        assert!(message("").ends_with("`CAP_CHOWN`"));
        assert!(message(&"é".repeat(4000)).contains("expected a name"));
    }

    #[test]
    fn sets_are_masks() {
        let mut set: CapabilitySet =
            ["CAP_CHOWN", "CAP_BPF"].iter().map(|name| name.parse::<Capability>().unwrap()).collect();
        assert_eq!(set.bits(), 1 | 1 << 39);
        assert_eq!(format!("{set:?}"), r#"{"CAP_CHOWN", "CAP_BPF"}"#);
        assert!(set.is_subset(CapabilitySet::ALL) && !CapabilitySet::ALL.is_subset(set));
        set.remove(Capability(0));
        assert_eq!(set.iter().collect::<Vec<_>>(), [Capability(39)]);
        assert_eq!(CapabilitySet::ALL.bits(), 0x1ff_ffff_ffff);
        assert_eq!(set.union(CapabilitySet::from_bits(1)).difference(set).bits(), 1);
        assert!(set.intersection(CapabilitySet::EMPTY).is_empty());
    }

    #[test]
    fn every_name_of_the_spec_is_the_right_one() {
        for one in Capability::all() {
            let named: oci_spec::runtime::Capability = serde_json::from_value(one.to_string().into()).unwrap();
            assert_eq!(Capability::try_from(named), Ok(one));
        }
    }

    #[test]
    fn a_number_from_the_wire_is_checked() {
        assert_eq!(
            postcard::from_bytes::<Capability>(&postcard::to_stdvec(&Capability(40)).unwrap()),
            Ok(Capability(40))
        );
        assert!(postcard::from_bytes::<Capability>(&[41]).is_err());
    }
}

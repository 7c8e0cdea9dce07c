//! What is known of the host that conditions ask about. Facts of this life: after a crash everything is looked at again, and until
//! then a condition is not met.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::unit::Condition;

/// What was found at the paths that conditions name, and the kernel's command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Host {
    places: BTreeMap<PathBuf, Presence>,
    cmdline: Vec<String>,
}

/// What is at a path, links followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Presence {
    /// Something.
    pub exists: bool,
    /// The root of a mounted file system, or of a bind mount.
    pub is_mount_point: bool,
}

impl Host {
    /// Whether it is known to be so.
    pub fn meets(&self, condition: &Condition) -> bool {
        let at = |path: &Path| self.places.get(path).copied().unwrap_or_default();
        match condition {
            Condition::PathExists(path) => at(path).exists,
            Condition::MountPoint(path) => at(path).is_mount_point,
            Condition::KernelCmdline(word) => self.cmdline.iter().any(|given| is_word(given, word)),
        }
    }

    /// Whether it was looked at.
    pub fn knows(&self, condition: &Condition) -> bool {
        condition.path().is_none_or(|path| self.places.contains_key(path))
    }

    /// Takes in a look at a path; says whether it is news.
    pub(super) fn found(&mut self, path: &Path, presence: Presence) -> bool {
        self.places.insert(path.to_owned(), presence) != Some(presence)
    }

    /// Takes in /proc/cmdline.
    pub(super) fn booted_with(&mut self, cmdline: &str) -> bool {
        let cmdline = cmdline.split_whitespace().map(str::to_owned).collect();
        std::mem::replace(&mut self.cmdline, cmdline) != self.cmdline
    }

    /// Forgets a path that nobody asks about any more.
    pub fn forget(&mut self, path: &Path) {
        self.places.remove(path);
    }
}

/// A word as it stands, or the name of `name=value`, as systemd's ConditionKernelCommandLine has it.
fn is_word(given: &str, word: &str) -> bool {
    given == word || given.split_once('=').is_some_and(|(name, _)| name == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_met_by_itself_or_as_a_name() {
        let mut host = Host::default();
        assert!(
            host.booted_with("root=/dev/vda1 quiet role=db\n") && !host.booted_with("root=/dev/vda1 quiet role=db")
        );
        for (word, met) in
            [("quiet", true), ("role", true), ("role=db", true), ("role=web", false), ("rol", false), ("qui", false)]
        {
            assert_eq!(host.meets(&Condition::KernelCmdline(word.to_owned())), met, "{word}");
        }
    }

    #[test]
    fn what_was_not_looked_at_is_not_there() {
        let (mut host, path) = (Host::default(), PathBuf::from("/srv/db"));
        let (exists, mounted) = (Condition::PathExists(path.clone()), Condition::MountPoint(path.clone()));
        assert!(!host.meets(&exists) && !host.meets(&mounted) && !host.knows(&exists));
        let bare = Presence { exists: true, is_mount_point: false };
        assert!(host.found(&path, bare) && !host.found(&path, bare));
        assert!(host.meets(&exists) && !host.meets(&mounted) && host.knows(&mounted));
        assert!(host.found(&path, Presence { is_mount_point: true, ..bare }));
        assert!(host.meets(&mounted));
        host.forget(&path);
        assert!(!host.meets(&exists));
    }
}

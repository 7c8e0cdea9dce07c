//! The caller who is not root: what differs for him.
//!
//! - His containers are in user namespaces, in which he is root. By himself he can map himself alone, and then nobody inside may change
//!   groups; for more, newuidmap(1) and newgidmap(1) must be installed and `/etc/subuid` and `/etc/subgid` give him ids.
//! - He may have no right to make cgroups. Then his containers are without: what needs one (`pause`, `update`, `ps`, `events`, `kill --all` with
//!   another signal than KILL, limits, `cgroupsPath`) says so. That is what `--rootless` is about, as in runc; `auto`, the default, means anybody
//!   but the host's root.
//! - The state is in his own run directory.
//! - He joins a container once its program runs. Until then its first process is this program, which nobody but root may look into. (runc's
//!   is one that was executed inside the user namespace.)

use std::path::{Path, PathBuf};

use super::args::Globals;
use super::error::OciError;
use crate::oci::Script;

/// The mapping of a process in no user namespace: all ids are themselves (user_namespaces(7)).
const IDENTITY: [&str; 3] = ["0", "0", "4294967295"];

/// Whether a lack of cgroups is forgiven.
pub fn is_rootless(globals: &Globals) -> bool {
    match globals.rootless.as_deref() {
        Some("true") => true,
        Some("false") => false,
        _ => !is_root() || !is_outermost(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default()),
    }
}

/// Whether the caller is root, of some user namespace or of none.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// By `/proc/self/uid_map`. A kernel without user namespaces has no such file.
fn is_outermost(map: &str) -> bool {
    map.is_empty() || map.split_whitespace().eq(IDENTITY)
}

/// Whether this user can do this; `what` is the verb.
pub fn check(script: &Script, what: &'static str) -> Result<(), OciError> {
    if is_root() || script.outside.in_user_namespace() { Ok(()) } else { Err(OciError::NotRoot(what)) }
}

/// Where moored's state is for this caller, unless somebody says otherwise.
pub fn run_dir(given: &Path) -> Result<PathBuf, OciError> {
    /// Root's.
    const DEFAULT: &str = "/run/moored";
    if is_root() || given != Path::new(DEFAULT) {
        return Ok(given.to_owned());
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    own.map(|dir| dir.join("moored")).ok_or(OciError::NoRunDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_mapping_is_the_hosts() {
        assert!(is_outermost("         0          0 4294967295\n"));
        assert!(is_outermost(""));
        for inner in ["0 1000 1\n", "0 0 65536\n", "0 0 4294967295\n1 1 1\n", "1 1 4294967294\n"] {
            assert!(!is_outermost(inner), "{inner}");
        }
    }
}

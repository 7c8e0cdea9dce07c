//! Paths as texts: the host's are made absolute and tidy, the container's are checked. Nothing is looked up.

use std::path::{Component, Path, PathBuf};

use super::config_file::MOUNT as CONFIG_MOUNT;

/// Longest path, in bytes: PATH_MAX without its NUL.
pub(crate) const PATH_MAX: usize = 4095;

/// `path`, from `base` if it is relative, without `.`, `..` and doubled slashes. Links are not looked at, so `a/../b`
/// is `b` even where `a` is a link.
pub(crate) fn absolute(base: &Path, path: &str) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in base.join(path).components() {
        match component {
            Component::ParentDir => {
                tidy.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => tidy.push(component),
        }
    }
    tidy
}

/// Why a text is not a path inside the container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadInside {
    Relative,
    Dots,
}

/// A path inside the container without doubled or trailing slashes.
pub(crate) fn inside(path: &str) -> Result<String, BadInside> {
    if !path.starts_with('/') {
        return Err(BadInside::Relative);
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(BadInside::Dots);
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Why nothing may be mounted at a path inside; `None` where it may.
pub(crate) fn reserved_target(target: &str) -> Option<&'static str> {
    let under = |dir: &str| target == dir || target.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    if target == "/" {
        return Some("the root is what `bundle`, `rootfs` or `executable` says");
    }
    if under("/proc") {
        return Some("/proc is the container's own and stays whole");
    }
    if target == "/sys" || under("/sys/fs/cgroup") {
        return Some("the container has its own, read-only");
    }
    if under(super::NOTIFY_DIR) {
        return Some("there is the socket of `notify`");
    }
    if under(CONFIG_MOUNT) {
        return Some("the contents of [[config]] are there");
    }
    if target == "/dev" || under("/dev/pts") {
        return Some("the container has its own; a single node comes with [[device]]");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_become_absolute_and_tidy() {
        let base = Path::new("/etc/moored/units");
        for (path, expected) in [
            ("/srv//web/./x/", "/srv/web/x"),
            ("web", "/etc/moored/units/web"),
            ("../web", "/etc/moored/web"),
            ("../../../../..", "/"),
            ("/a/../../b", "/b"),
            (".", "/etc/moored/units"),
        ] {
            assert_eq!(absolute(base, path), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn paths_inside_are_absolute_and_without_dots() {
        assert_eq!(inside("/a//b/"), Ok("/a/b".to_owned()));
        assert_eq!(inside("/"), Ok("/".to_owned()));
        assert_eq!(inside("a"), Err(BadInside::Relative));
        assert_eq!(inside(""), Err(BadInside::Relative));
        assert_eq!(inside("/a/../b"), Err(BadInside::Dots));
    }

    #[test]
    fn the_containers_own_mounts_are_reserved() {
        for target in [
            "/",
            "/proc",
            "/proc/sys",
            "/sys",
            "/sys/fs/cgroup/x",
            "/dev",
            "/dev/moored",
            "/dev/moored-notify",
            "/dev/moored/x",
            "/dev/pts",
        ] {
            assert!(reserved_target(target).is_some(), "{target}");
        }
        for target in ["/process", "/dev/shm", "/dev/log", "/sys/kernel/debug", "/tmp", "/data"] {
            assert_eq!(reserved_target(target), None, "{target}");
        }
    }
}

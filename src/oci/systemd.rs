//! `linux.cgroupsPath` as clients write it for `--systemd-cgroup`: `slice:prefix:name` instead of a path.
//!
//! The cgroup is made where systemd would have made it, so that whoever looks there finds it, but systemd itself is not asked: it need not
//! run, and where it does it knows of no scope. The slice that a client named is usually one that systemd delegated to that client.

/// Where a scope goes that names no slice.
const DEFAULT_SLICE: &str = "system.slice";

/// The path below the root of the hierarchies; `None` where it is not of that form.
pub fn systemd_path(cgroups_path: Option<&str>, id: &str) -> Option<String> {
    let (slice, prefix, name) = match cgroups_path.filter(|path| !path.is_empty()) {
        None => (DEFAULT_SLICE, "moored", id),
        Some(path) => {
            let mut parts = path.split(':');
            let three = (parts.next()?, parts.next()?, parts.next()?);
            parts.next().is_none().then_some(three)?
        }
    };
    let slice = slice_path(if slice.is_empty() { DEFAULT_SLICE } else { slice })?;
    let unit = match (name.ends_with(".slice"), prefix) {
        (true, _) => name.to_owned(),
        (false, "") => format!("{name}.scope"),
        (false, prefix) => format!("{prefix}-{name}.scope"),
    };
    (!name.is_empty() && !unit.contains('/')).then(|| format!("{slice}/{unit}"))
}

/// `a-b.slice` is within `a.slice` (systemd.slice(5)); `-.slice` is the root.
fn slice_path(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty() && !name.contains('/'))?;
    if name == "-" {
        return Some(String::new());
    }
    let mut path = String::new();
    let mut end = 0;
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        end += part.len();
        path.push_str(&format!("/{}.slice", name.get(..end)?));
        end += 1;
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_by_their_dashes() {
        for (given, path) in [
            (Some("system.slice:docker:x"), "/system.slice/docker-x.scope"),
            (
                Some("kubepods-burstable-podab_c.slice:cri-containerd:x"),
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_c.slice/cri-containerd-x.scope",
            ),
            (Some("-.slice::x"), "/x.scope"),
            (Some(":p:x"), "/system.slice/p-x.scope"),
            (Some("machine.slice:p:y.slice"), "/machine.slice/y.slice"),
            (Some(""), "/system.slice/moored-x.scope"),
            (None, "/system.slice/moored-x.scope"),
        ] {
            assert_eq!(systemd_path(given, "x").as_deref(), Some(path), "{given:?}");
        }
        for bad in [
            "/a/b",
            "a.slice:b",
            "a.slice:b:c:d",
            "a:b:c",
            "a--b.slice:p:x",
            "../x.slice:p:x",
            "a.slice:p:../x",
            "a.slice:p:",
        ] {
            assert_eq!(systemd_path(Some(bad), "x"), None, "{bad}");
        }
    }
}

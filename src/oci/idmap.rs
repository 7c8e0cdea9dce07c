//! Mappings of user and group ids: `linux.uidMappings`, `linux.gidMappings`, and those of one mount. Pure.
//!
//! A mapping is a list of ranges; each says that `size` ids from `container` up are those from `host` up outside
//! (user_namespaces(7)). The kernel's rules are checked here, so that a mistake has its JSON path and not an EINVAL:
//!
//! | rule | why |
//! |---|---|
//! | both lists or none | a namespace without one of them can set no identity |
//! | at most 340 ranges | the kernel's UID_GID_MAP_MAX_EXTENTS |
//! | a range holds at least one id and ends within 32 bits | 4294967295 is "no id" (setresuid(2)) |
//! | no two ranges share an id, inside or outside | an id would be two |
//! | of the container: id 0 is in it | the container is set up as its root |

use std::fmt::{self, Display};

use oci_spec::runtime::LinuxIdMapping;
use serde::{Deserialize, Serialize};

use super::error::{Problem, Report};

/// The kernel's UID_GID_MAP_MAX_EXTENTS (Linux 4.15).
const RANGES_MAX: usize = 340;

/// One range of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// The mappings of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

impl IdRange {
    fn holds(self, id: u32) -> bool {
        id >= self.container && id - self.container < self.size
    }
}

/// What an id of the container's is outside; `None` where it has none.
pub fn to_host(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|range| range.holds(id))?;
    range.host.checked_add(id - range.container)
}

/// As `/proc/PID/uid_map` takes it.
pub fn text(ranges: &[IdRange]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.container, range.host, range.size)).collect()
}

/// What a mapping is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// The container, whose root does the setup.
    Container,
    /// One mount.
    Mount,
}

/// Compiles the two lists of `path` (`linux`, `mounts[3]`); `None` where neither has an entry, or something is wrong.
pub(super) fn compile(
    uids: Option<&[LinuxIdMapping]>,
    gids: Option<&[LinuxIdMapping]>,
    of: Of,
    path: &dyn Display,
    report: &mut Report,
) -> Option<IdMaps> {
    let (uids, gids) = (uids.unwrap_or_default(), gids.unwrap_or_default());
    for (here, there, field) in [(uids, gids, "gidMappings"), (gids, uids, "uidMappings")] {
        if !here.is_empty() && there.is_empty() {
            let expected = "a mapping of groups beside that of users, and of users beside that of groups";
            report.error(format_args!("{path}.{field}"), Problem::Missing { expected });
            return None;
        }
    }
    if uids.is_empty() {
        return None;
    }
    let before = report.errors.len();
    let maps = IdMaps {
        uids: list(uids, of, &format_args!("{path}.uidMappings"), report),
        gids: list(gids, of, &format_args!("{path}.gidMappings"), report),
    };
    (report.errors.len() == before).then_some(maps)
}

fn list(entries: &[LinuxIdMapping], of: Of, path: &dyn Display, report: &mut Report) -> Vec<IdRange> {
    if entries.len() > RANGES_MAX {
        let found = format!("{} ranges", entries.len());
        report.error(path, Problem::Range { found, expected: "at most 340 (user_namespaces(7))" });
        return Vec::new();
    }
    let mut ranges: Vec<IdRange> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let range = IdRange { container: entry.container_id(), host: entry.host_id(), size: entry.size() };
        check(range, &ranges, &format_args!("{path}[{index}]"), report);
        ranges.push(range);
    }
    if of == Of::Container && !ranges.iter().any(|range| range.holds(0)) {
        report.error(path, Problem::Missing { expected: "a range that holds 0: the container is set up as its root" });
    }
    ranges
}

fn check(range: IdRange, others: &[IdRange], path: &dyn Display, report: &mut Report) {
    if range.size == 0 {
        report.error(format_args!("{path}.size"), Problem::Range { found: "0".into(), expected: "at least 1" });
    }
    for (field, first) in [("containerID", range.container), ("hostID", range.host)] {
        // The last id of 32 bits is none.
        if first.checked_add(range.size).is_none() {
            let found = format!("{} ids from {first}", range.size);
            report.error(format_args!("{path}.{field}"), Problem::Range { found, expected: "ids below 4294967295" });
        }
    }
    for other in others {
        if overlap(range.container, range.size, other.container, other.size) {
            let reason = "an id of the container's is in two ranges";
            report.error(format_args!("{path}.containerID"), Problem::Conflict { reason });
        }
        if overlap(range.host, range.size, other.host, other.size) {
            let reason = "an id of the host's is in two ranges";
            report.error(format_args!("{path}.hostID"), Problem::Conflict { reason });
        }
    }
}

fn overlap(one: u32, one_size: u32, other: u32, other_size: u32) -> bool {
    let (one, other) = (u64::from(one), u64::from(other));
    one < other + u64::from(other_size) && other < one + u64::from(one_size)
}

impl Display for IdMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, ranges) in [("uids", &self.uids), (" gids", &self.gids)] {
            f.write_str(name)?;
            ranges.iter().try_for_each(|range| write!(f, " {}={}+{}", range.container, range.host, range.size))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Ranges<'a> = &'a [(u32, u32, u32)];

    fn mappings(ranges: Ranges) -> Vec<LinuxIdMapping> {
        let objects = ranges.iter().map(
            |(container, host, size)| serde_json::json!({ "containerID": container, "hostID": host, "size": size }),
        );
        serde_json::from_value(objects.collect()).expect("they are mappings")
    }

    fn said(uids: Ranges, gids: Ranges) -> Vec<String> {
        let mut report = Report::default();
        let (uids, gids) = (mappings(uids), mappings(gids));
        let maps = compile(Some(&uids), Some(&gids), Of::Container, &"linux", &mut report);
        assert_eq!(maps.is_none(), !report.errors.is_empty());
        report.errors.iter().map(ToString::to_string).collect()
    }

    const GOOD: Ranges = &[(0, 100_000, 65_536)];

    #[test]
    fn what_the_kernel_would_refuse_is_refused_by_name() {
        let rows: [(Ranges, &str); 7] = [
            (&[(0, 1, 0)], "[0].size: 0 is out of range, expected at least 1"),
            (&[(0, u32::MAX, 1)], "[0].hostID: 1 ids from 4294967295 is out of range, expected ids below 4294967295"),
            (
                &[(0, 0, 1), (2, 9, u32::MAX)],
                "[1].containerID: 4294967295 ids from 2 is out of range, expected ids below 4294967295",
            ),
            (&[(0, 0, 10), (9, 100, 1)], "[1].containerID: an id of the container's is in two ranges"),
            (&[(0, 0, 10), (10, 9, 1)], "[1].hostID: an id of the host's is in two ranges"),
            (&[(1, 0, 10)], ": is missing, expected a range that holds 0: the container is set up as its root"),
            (
                &[],
                ": is missing, expected a mapping of groups beside that of users, and of users beside that of groups",
            ),
        ];
        for (uids, expected) in rows {
            let said = said(uids, GOOD);
            assert!(said.contains(&format!("linux.uidMappings{expected}")), "{uids:?}: {said:?}");
        }
        assert_eq!(said(GOOD, GOOD), [""; 0]);
        assert_eq!(said(&[(0, 0, u32::MAX)], GOOD), [""; 0], "all ids there are");
        let many: Vec<_> = (0..341).map(|id| (id, id, 1)).collect();
        let expected = "linux.uidMappings: 341 ranges is out of range, expected at most 340 (user_namespaces(7))";
        assert_eq!(said(&many, GOOD), [expected]);
        assert_eq!(said(&many[..340], GOOD), [""; 0]);
    }

    #[test]
    fn ids_are_found_on_both_edges_of_a_range_and_nowhere_else() {
        let ranges = [IdRange { container: 0, host: 1000, size: 1 }, IdRange { container: 5, host: 2000, size: 3 }];
        let found: Vec<Option<u32>> = [0, 1, 4, 5, 7, 8].iter().map(|id| to_host(&ranges, *id)).collect();
        assert_eq!(found, [Some(1000), None, None, Some(2000), Some(2002), None]);
        assert_eq!(text(&ranges), "0 1000 1\n5 2000 3\n");
    }
}

//! Which ids of the host's a unit with a user namespace of its own has: `STATE/userns/<unit>`, the first of [`COUNT`] that follow each other.
//!
//! - A unit keeps its range until it is gone, across restarts and reboots: what it wrote is its own again. Where its files lie on mounts
//!   that are id-mapped the range does not show in them at all.
//! - It is taken from the pool (`up --userns-pool`), in steps of [`COUNT`]. The first try is a number made of the state-dir and the unit's name, as
//!   systemd-nspawn(1) does it: a state-dir that was lost gives the same ranges again, nearly always, and two supervisors other ones.
//! - Passed over: what others have here, what `/etc/subuid` and `/etc/subgid` give away, ids in `/etc/passwd` and `/etc/group`, ranges that
//!   systemd-nspawn holds, and those of containers that still run. Two supervisors side by side do not know of each other: give each a pool.
//! - A kept upper layer of a unit that is gone keeps its range, too.

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::atomic::{Dir, Durability, Read};
use super::index::json_of;
use crate::compact;
use crate::unit::{UnitName, digest};

/// Ids of one unit: as many as there are in 16 bits, so that nobody and nogroup (65534) are among them.
pub const COUNT: u32 = 1 << 16;

/// In the state-dir.
const USERNS: &str = "userns";
/// Beside it: what is kept of units that may be gone.
const UPPER: &str = "upper";
/// Most that is read of a file of the host's accounts.
const ACCOUNTS_MAX_BYTES: u64 = 16 << 20;

/// From which ids ranges are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdPool {
    first: u32,
    last: u32,
}

impl Default for IdPool {
    /// That of systemd's containers (systemd.io, "Users, Groups, UIDs and GIDs").
    fn default() -> IdPool {
        IdPool { first: 0x0008_0000, last: 0x6fff_ffff }
    }
}

impl fmt::Display for IdPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for IdPool {
    type Err = String;

    fn from_str(text: &str) -> Result<IdPool, String> {
        let expected = || format!("expected FIRST-LAST like {}", IdPool::default());
        let (first, last) = text.split_once('-').ok_or_else(expected)?;
        let (first, last) = first.parse::<u32>().ok().zip(last.parse::<u32>().ok()).ok_or_else(expected)?;
        match first {
            0..COUNT => Err(format!("{first} and what follows are users of the host's, expected at least {COUNT}")),
            _ if last.checked_sub(first).is_none_or(|more| more < COUNT - 1) => {
                Err(format!("a unit needs {COUNT} ids, expected at least {first}-{}", first.saturating_add(COUNT - 1)))
            }
            _ if last == u32::MAX => Err(format!("{last} is no id")),
            _ => Ok(IdPool { first, last }),
        }
    }
}

impl IdPool {
    fn slots(self) -> u32 {
        ((self.last - self.first).saturating_add(1)) / COUNT
    }

    /// The slots that hold one of these ids.
    fn holding(self, (start, count): (u32, u32)) -> impl Iterator<Item = u32> {
        let end = u64::from(start) + u64::from(count);
        let (first, slots) = (u64::from(self.first), u64::from(self.slots()));
        let from = u64::from(start).saturating_sub(first) / u64::from(COUNT);
        let until = end.saturating_sub(first).div_ceil(u64::from(COUNT)).min(slots);
        (from..until.max(from)).filter(move |_| end > first && count > 0).filter_map(|slot| u32::try_from(slot).ok())
    }

    /// The first id of a free range, `wish` saying where to begin; `None`: all are taken.
    fn choose(self, wish: u128, taken: impl IntoIterator<Item = (u32, u32)>) -> Option<u32> {
        let taken = compact::set(taken.into_iter().flat_map(|range| self.holding(range)));
        let slots = self.slots();
        let begin = u32::try_from(wish % u128::from(slots.max(1))).unwrap_or(0);
        let free = (begin..slots).chain(0..begin).find(|slot| !taken.contains(slot))?;
        Some(self.first + free * COUNT)
    }
}

/// Why a unit has no range.
#[derive(Debug, thiserror::Error)]
pub enum IdsError {
    /// All are taken.
    #[error("userns = \"auto\": no {COUNT} ids in a row are free in {pool}: give a larger --userns-pool")]
    Full {
        /// Where it was looked.
        pool: IdPool,
    },
    /// The record cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
struct Record {
    first: u32,
}

/// The first id of a unit's range; taken now if it has none. `running` are ranges that containers have.
pub fn range_of(state: &Path, unit: &UnitName, pool: IdPool, running: &[u32]) -> Result<u32, IdsError> {
    let path = state.join(USERNS);
    let dir = Dir::open(&path)?;
    if let Some(first) = recorded(&dir, unit.as_str())? {
        return Ok(first);
    }
    let mut taken: Vec<(u32, u32)> = running.iter().map(|first| (*first, COUNT)).collect();
    for other in dir.names()? {
        taken.extend(recorded(&dir, &other)?.map(|first| (first, COUNT)));
    }
    taken.extend(of_host());
    let name = digest([state.as_os_str().as_encoded_bytes(), unit.as_str().as_bytes()]);
    let first = pool.choose(u128::from_be_bytes(name.0), taken).ok_or(IdsError::Full { pool })?;
    dir.write(unit.as_str(), &json_of(&path.join(unit.as_str()), &Record { first })?, Durability::Sync)?;
    Ok(first)
}

/// The unit is gone: its range is free, unless a layer of it is kept.
pub fn release_range(state: &Path, unit: &UnitName) -> Result<(), StoreError> {
    let path = state.join(USERNS);
    if !path.join(unit.as_str()).exists() || state.join(UPPER).join(unit.as_str()).exists() {
        return Ok(());
    }
    Dir::open(&path)?.remove(unit.as_str(), Durability::NoSync)
}

/// A torn record is put aside, and the number made of the name finds the same range again unless that was taken.
fn recorded(dir: &Dir, name: &str) -> Result<Option<u32>, StoreError> {
    Ok(match dir.read(name)? {
        Read::Found(bytes) => compact::from_json::<Record>(&bytes).ok().map(|record| record.first),
        Read::Missing | Read::PutAside(_) => None,
    })
}

/// What the host's files give to somebody. A file that is not there gives nothing.
fn of_host() -> Vec<(u32, u32)> {
    let text = |path: &str| {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).ok();
        file.and_then(|file| file.take(ACCOUNTS_MAX_BYTES).read_to_end(&mut bytes).ok());
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut taken = Vec::new();
    for path in ["/etc/subuid", "/etc/subgid"] {
        taken.extend(subordinate(&text(path)));
    }
    for path in ["/etc/passwd", "/etc/group"] {
        taken.extend(accounts(&text(path)));
    }
    // Locks, one for each range in use, named by its first id.
    let locks = std::fs::read_dir("/run/systemd/nspawn-uid").into_iter().flatten().flatten();
    taken.extend(locks.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, COUNT))));
    taken
}

/// `name:first:count` of subuid(5).
fn subordinate(text: &str) -> impl Iterator<Item = (u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(1).map(|field| field.trim().parse::<u32>().ok());
        Some((fields.next()??, fields.next()??))
    })
}

/// The third and, of users, the fourth field of passwd(5) and group(5).
fn accounts(text: &str) -> impl Iterator<Item = (u32, u32)> {
    let ids = |line: &str| -> Vec<u32> { line.split(':').skip(2).take(2).filter_map(|id| id.parse().ok()).collect() };
    text.lines().flat_map(ids).map(|id| (id, 1)).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UnitName {
        UnitName::new(text).unwrap()
    }

    #[test]
    fn a_pool_is_written_as_two_ids() {
        let pool: IdPool = "100000-231071".parse().unwrap();
        assert_eq!((pool.slots(), pool.to_string()), (2, "100000-231071".to_owned()));
        assert_eq!(IdPool::default().to_string().parse(), Ok(IdPool::default()));
        for (text, says) in [
            ("100000", "expected FIRST-LAST"),
            ("a-b", "expected FIRST-LAST"),
            ("0-70000", "users of the host's"),
            ("100000-165534", "expected at least 100000-165535"),
            ("100000-99999", "expected at least"),
            ("100000-4294967295", "is no id"),
        ] {
            assert!(text.parse::<IdPool>().is_err_and(|error| error.contains(says)), "{text}");
        }
    }

    #[test]
    fn what_is_taken_is_passed_over_however_it_lies() {
        let pool = IdPool { first: 100_000, last: 100_000 + 4 * COUNT - 1 };
        let at = |slot: u32| 100_000 + slot * COUNT;
        assert_eq!(pool.choose(6, []), Some(at(2)), "where the wish says");
        for (taken, expected) in [
            (vec![(at(2), COUNT)], Some(at(3))),
            (vec![(at(2) + 5, 1)], Some(at(3))),
            (vec![(at(2) - 1, 2)], Some(at(3))),
            (vec![(at(2) - 1, 1), (at(3), 0)], Some(at(2))),
            (vec![(at(2), 2 * COUNT)], Some(at(0))),
            (vec![(0, 99_999)], Some(at(2))),
            (vec![(0, u32::MAX)], None),
            (vec![(at(1), 1), (at(2), 1), (at(3), u32::MAX)], Some(at(0))),
        ] {
            assert_eq!(pool.choose(2, taken.clone()), expected, "{taken:?}");
        }
    }

    #[test]
    fn the_files_of_accounts_are_read() {
        let found: Vec<_> = subordinate("# x\nann:100000:65536\nbob:5:\n1000:200000:1\n").collect();
        assert_eq!(found, [(100_000, 65_536), (200_000, 1)]);
        let found: Vec<_> = accounts("root:x:0:0:r:/:/b\ndhcp:x:600000:600001::/:/n\nbad\ngroup:x:7:a,b\n").collect();
        assert_eq!(found, [(0, 1), (0, 1), (600_000, 1), (600_001, 1), (7, 1)]);
    }

    #[test]
    fn a_unit_keeps_its_range_until_it_is_gone() {
        let state = std::env::temp_dir().join(format!("moored-ids-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&state);
        let pool = IdPool { first: 800_000_000, last: 800_000_000 + 2 * COUNT - 1 };
        let of = |unit: &str| range_of(&state, &name(unit), pool, &[]);
        let (web, db) = (of("web").unwrap(), of("db").unwrap());
        assert_ne!(web, db);
        assert_eq!((of("web").unwrap(), of("db").unwrap()), (web, db));
        assert!(of("more").unwrap_err().to_string().contains("no 65536 ids in a row are free in 800000000-800131071"));
        release_range(&state, &name("web")).unwrap();
        assert!(range_of(&state, &name("more"), pool, &[web]).is_err(), "a container still has it");
        assert_eq!(of("more").unwrap(), web);
        std::fs::create_dir_all(state.join("upper/db")).unwrap();
        release_range(&state, &name("db")).unwrap();
        assert!(of("web").is_err(), "what is kept is kept with its owner");
        std::fs::write(state.join("userns/db"), "torn").unwrap();
        assert_eq!(of("db").unwrap(), db, "the one that is left");
        std::fs::remove_dir_all(&state).unwrap();
    }
}

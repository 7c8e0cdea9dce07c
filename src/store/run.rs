//! The run-dir: small records for each unit, of this boot, for the next supervisor.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic::{Dir, Durability, Read};
use super::{Note, StoreError};
use crate::compact;
use crate::unit::UnitName;

/// Which boot the records are of.
const BOOT: &str = "boot";

/// The last generation that was given out.
const GENERATION: &str = "generation";

/// Of secrets.
const SALT: &str = "salt";

/// Ends the name of a unit's record; unit names hold no dot.
const SUFFIX: &str = ".json";

/// Records by unit.
pub type Records<T> = Vec<(UnitName, T)>;

/// Records in `RUN/records`. Writing one takes some 20 µs on tmpfs and never waits for a disk.
#[derive(Debug)]
pub struct RunStore {
    dir: Dir,
}

/// What the kernel calls this boot, random(4); all the same where it has no such file.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl RunStore {
    /// Opens or makes the directory. Records of another boot are removed: their deadlines count on another clock and their
    /// processes are gone (a run-dir may be on a disk).
    pub fn open(run_dir: &Path, boot_id: &str) -> Result<(RunStore, Vec<Note>), StoreError> {
        let dir = Dir::open(&run_dir.join("records"))?;
        let mut notes = Vec::new();
        let same = match dir.read(BOOT)? {
            Read::Found(boot) => boot == boot_id.as_bytes(),
            Read::Missing => false,
            Read::PutAside(note) => {
                notes.push(note);
                false
            }
        };
        if !same {
            let old: Vec<String> = dir.names()?.into_iter().filter(|name| name != BOOT).collect();
            for name in &old {
                dir.remove(name, Durability::NoSync)?;
            }
            if !old.is_empty() {
                let text = format!("{} records of another boot discarded", old.len());
                notes.push(Note { path: dir.path().to_owned(), text });
            }
            // Last: a crash before this discards the rest the next time.
            dir.write(BOOT, boot_id.as_bytes(), Durability::NoSync)?;
        }
        Ok((RunStore { dir }, notes))
    }

    /// Replaces the unit's record.
    pub fn save<T: Serialize>(&self, unit: &UnitName, record: &T) -> Result<(), StoreError> {
        let name = file_name(unit);
        let json = serde_json::to_vec(record)
            .map_err(|error| StoreError::Encode { path: self.dir.path().join(&name), text: error.to_string() })?;
        self.dir.write(&name, &json, Durability::NoSync)
    }

    /// Removes the unit's record, if there is one.
    pub fn remove(&self, unit: &UnitName) -> Result<(), StoreError> {
        self.dir.remove(&file_name(unit), Durability::NoSync)
    }

    /// Every record that is whole and reads as a `T`, by name; the others are put aside.
    pub fn load_all<T: DeserializeOwned>(&self) -> Result<(Records<T>, Vec<Note>), StoreError> {
        load_records(&self.dir)
    }

    /// Where the records are.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The last generation given out in this boot; a torn one is a note and none.
    pub(super) fn generation(&self) -> Result<(Option<u64>, Vec<Note>), StoreError> {
        read_number(&self.dir, GENERATION)
    }

    /// What is mixed into all that is stored of secrets, and whether it is a new one: 16 bytes of the kernel's, random(4).
    pub fn salt(&self) -> Result<([u8; 16], bool), StoreError> {
        if let Read::Found(bytes) = self.dir.read(SALT)?
            && let Ok(salt) = <[u8; 16]>::try_from(bytes.as_slice())
        {
            return Ok((salt, false));
        }
        let mut salt = [0; 16];
        let source = Path::new("/dev/urandom");
        fs::File::open(source).and_then(|mut file| file.read_exact(&mut salt)).map_err(|error| StoreError::Read {
            path: source.to_owned(),
            errno: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO),
        })?;
        self.dir.write(SALT, &salt, Durability::NoSync)?;
        Ok((salt, true))
    }

    pub(super) fn set_generation(&self, generation: u64) -> Result<(), StoreError> {
        self.dir.write(GENERATION, &generation.to_le_bytes(), Durability::NoSync)
    }
}

pub(super) fn file_name(unit: &UnitName) -> String {
    format!("{unit}{SUFFIX}")
}

/// Every `UNIT.json` of a directory.
pub(super) fn load_records<T: DeserializeOwned>(dir: &Dir) -> Result<(Records<T>, Vec<Note>), StoreError> {
    let (mut records, mut notes) = (Vec::new(), Vec::new());
    for name in dir.names()? {
        let Some(stem) = name.strip_suffix(SUFFIX) else { continue };
        let Ok(unit) = UnitName::new(stem) else { continue };
        match dir.read(&name)? {
            Read::Found(bytes) => match compact::from_json(&bytes) {
                Ok(record) => records.push((unit, record)),
                Err(error) => notes.push(dir.put_aside(&name, &error.to_string())),
            },
            Read::Missing => {}
            Read::PutAside(note) => notes.push(note),
        }
    }
    Ok((records, notes))
}

pub(super) fn read_number(dir: &Dir, name: &str) -> Result<(Option<u64>, Vec<Note>), StoreError> {
    Ok(match dir.read(name)? {
        Read::Found(bytes) => match <[u8; 8]>::try_from(bytes.as_slice()) {
            Ok(bytes) => (Some(u64::from_le_bytes(bytes)), Vec::new()),
            Err(_) => (None, vec![dir.put_aside(name, "not a number")]),
        },
        Read::Missing => (None, Vec::new()),
        Read::PutAside(note) => (None, vec![note]),
    })
}

//! Any bytes as a file of the run-dir or of the state-dir.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic::{frame, unframe};
use super::history::whole;
use super::index::{Index, StoredDefaults};
use super::state::StopMark;
use crate::fuzzing::assert_plain;
use crate::plan::{Boots, Seen};
use crate::unit::UnitName;

/// As a whole file with a header, and as what a header was right about.
pub(crate) fn file(bytes: &[u8]) {
    match unframe(bytes) {
        Ok(payload) => assert_eq!(frame(payload), bytes, "one payload, one file"),
        Err(why) => assert_plain(why),
    }
    assert_eq!(unframe(&frame(bytes)), Ok(bytes));
    record::<Index>(bytes);
    record::<BTreeMap<UnitName, Option<Index>>>(bytes);
    record::<StoredDefaults>(bytes);
    record::<StopMark>(bytes);
    record::<Boots>(bytes);
    record::<Seen>(bytes);
    record::<BTreeMap<String, String>>(bytes);
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Some(line) = whole(line) {
            assert!(line.contains(' ') && !line.contains('\n'), "{line:?}");
        }
    }
}

/// What is read is written, and that is read as the same.
fn record<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<T>(bytes) else { return };
    let written = serde_json::to_vec(&record).expect("a record is written");
    let again: T = serde_json::from_slice(&written).unwrap_or_else(|error| {
        panic!("{error}: {} came of {}", String::from_utf8_lossy(&written), String::from_utf8_lossy(bytes))
    });
    assert_eq!(serde_json::to_vec(&again).expect("a record is written"), written);
}

//! What makes two texts the same: one hash over everything a container is made from.

use serde::{Deserialize, Serialize};

/// Hash of a unit's merged text, its resolved source and the contents it depends on. Equal means "nothing to do".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 16]);

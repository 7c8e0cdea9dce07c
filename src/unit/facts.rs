//! What the world says of a unit's source: read elsewhere, judged here.

use std::path::PathBuf;
use std::sync::Arc;

/// What was read of a unit's source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceFacts {
    /// The source with its links resolved, absolute: of a bundle or rootfs the directory, of an executable the file.
    pub resolved: PathBuf,
    /// The bytes of config.json, for a bundle. Units of one bundle share them.
    pub config_json: Option<Arc<[u8]>>,
    /// Of `layers` each with its links resolved, the lowest first; the last is `resolved`. Else none.
    pub layers: Vec<PathBuf>,
}

//! What the world says of a unit's source: read elsewhere, judged here.

use std::path::PathBuf;

/// What was read of a unit's source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceFacts {
    /// The source with its links resolved, absolute: of a bundle or rootfs the directory, of an executable the file.
    pub resolved: PathBuf,
    /// The bytes of config.json, for a bundle.
    pub config_json: Option<Vec<u8>>,
}

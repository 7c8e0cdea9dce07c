//! What the state-dir knows of a unit, by the names of the contents: `units/<unit>.json`, and `defaults.json`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state::{BadText, Good};
use super::{StoreError, fnv128};
use crate::unit::{LayerKind, LayerText};

/// `units/<unit>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) text: String,
    pub(super) config: Option<String>,
    #[serde(default)]
    pub(super) variables: Option<String>,
    #[serde(default)]
    pub(super) configs: Vec<(String, String)>,
    pub(super) path: PathText,
    pub(super) resolved: PathText,
    pub(super) source: PathText,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) roots: Vec<PathText>,
    pub(super) directory: (u64, u64),
    pub(super) since_ms: u64,
    #[serde(default)]
    pub(super) earlier: Option<Box<Index>>,
    #[serde(default)]
    pub(super) bad: Option<BadText>,
    /// Older versions know none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<IndexLayer>,
}

/// What is merged with the unit's own text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexLayer {
    pub(super) kind: LayerKind,
    pub(super) file: PathText,
    pub(super) resolved: PathText,
    pub(super) text: String,
}

/// A path in JSON: text where it is text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum PathText {
    Text(String),
    Bytes(Vec<u8>),
}

impl PathText {
    pub(super) fn of(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => PathText::Text(text.to_owned()),
            None => PathText::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }

    pub(super) fn into_path(self) -> PathBuf {
        match self {
            PathText::Text(text) => text.into(),
            PathText::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

/// `defaults.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredDefaults {
    pub(super) file: PathText,
    pub(super) resolved: PathText,
    pub(super) text: String,
}

impl StoredDefaults {
    pub(super) fn of(layer: &LayerText) -> Self {
        let (file, resolved) = (PathText::of(&layer.file), PathText::of(&layer.resolved));
        StoredDefaults { file, resolved, text: layer.text.to_string() }
    }

    pub(super) fn into_layer(self) -> LayerText {
        let (file, resolved) = (self.file.into_path(), self.resolved.into_path());
        LayerText { kind: LayerKind::Defaults, file, resolved, text: self.text.into() }
    }
}

impl Index {
    /// `path` is for an error alone.
    pub(super) fn of(good: &Good, path: &Path) -> Result<Index, StoreError> {
        let variables = good.variables.as_ref().map(|variables| json_of(path, variables)).transpose()?;
        Ok(Index {
            text: content_name(good.text.as_bytes()),
            config: good.config.as_deref().map(content_name),
            variables: variables.as_deref().map(content_name),
            configs: good.configs.iter().map(|(target, bytes)| (target.clone(), content_name(bytes))).collect(),
            path: PathText::of(&good.path),
            resolved: PathText::of(&good.resolved),
            source: PathText::of(&good.source),
            roots: good.roots.iter().map(|root| PathText::of(root)).collect(),
            directory: good.directory,
            since_ms: good.since_ms,
            earlier: good.earlier.as_deref().map(|earlier| Index::of(earlier, path)).transpose()?.map(Box::new),
            bad: good.bad.clone(),
            layers: good.layers.iter().map(IndexLayer::of).collect(),
        })
    }

    /// The contents that it names.
    pub(super) fn contents(&self) -> impl Iterator<Item = u128> {
        let all = [Some(self), self.earlier.as_deref()];
        all.into_iter().flatten().flat_map(Index::own_names).filter_map(content_number)
    }

    /// Another index with the same one is the same. `None`: it has no JSON, which none that was read or written has not.
    fn digest(&self) -> Option<u128> {
        serde_json::to_vec(self).ok().map(|json| fnv128(&json))
    }

    pub(super) fn own_names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.text.as_str())
            .chain(self.config.as_deref())
            .chain(self.layers.iter().map(|layer| layer.text.as_str()))
            .chain(self.variables.as_deref())
            .chain(self.configs.iter().map(|(_, name)| name.as_str()))
    }
}

impl IndexLayer {
    pub(super) fn of(layer: &LayerText) -> Self {
        IndexLayer {
            kind: layer.kind,
            file: PathText::of(&layer.file),
            resolved: PathText::of(&layer.resolved),
            text: content_name(layer.text.as_bytes()),
        }
    }
}

/// What stays in memory of an index that is in its file: there is one for each unit.
#[derive(Debug)]
pub(super) struct Kept {
    digest: u128,
    pub(super) contents: Box<[u128]>,
}

impl Kept {
    pub(super) fn of(index: &Index) -> Kept {
        Kept { digest: index.digest().unwrap_or(0), contents: index.contents().collect() }
    }

    pub(super) fn is_of(&self, index: &Index) -> bool {
        index.digest() == Some(self.digest)
    }
}

pub(super) fn content_name(bytes: &[u8]) -> String {
    name_of(fnv128(bytes))
}

/// Contents are named for a number.
pub(super) fn name_of(number: u128) -> String {
    format!("{number:032x}")
}

/// `None`: it is the name of no contents.
pub(super) fn content_number(name: &str) -> Option<u128> {
    u128::from_str_radix(name, 16).ok().filter(|number| name == name_of(*number))
}

pub(super) fn json_of(path: &Path, record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|error| StoreError::Encode { path: path.to_owned(), text: error.to_string() })
}

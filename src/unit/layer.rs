//! The texts that a unit is merged from, and where in which of them a mistake stands.
//!
//! | layer | from | may hold |
//! |---|---|---|
//! | defaults | `[defaults]` of moored.toml | what makes sense for every unit |
//! | main | the unit's own file | everything; there is always one |
//! | drop-in | `worker@.toml.d/*.toml`, then `worker@a.toml.d/*.toml`, each in the order of file names | everything, and `unset` |
//!
//! A later layer wins ([`super::overlay`]). All texts lie one behind the other in one range of byte offsets, the unit's own first. So a
//! span of the merged document says by itself which file it is of, and with one text offsets are what they always were.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{Lines, one_line};

/// What a text is to the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerKind {
    /// `[defaults]` of moored.toml.
    Defaults,
    /// The unit's own file.
    Main,
    /// One of its drop-ins.
    DropIn,
}

/// One text of a unit.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'t> {
    /// What it is to the unit.
    pub kind: LayerKind,
    /// As messages name it.
    pub file: &'t Path,
    /// Where relative paths in it start: the directory of the file that a link at `file` leads to.
    pub base: &'t Path,
    /// The whole text.
    pub text: &'t str,
    /// It is that of a template, or a link to one: it may list instances.
    pub is_template: bool,
}

/// A text of a unit that is kept: the same, with what it needs to be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerText {
    /// What it is to the unit.
    pub kind: LayerKind,
    /// As it was found.
    pub file: PathBuf,
    /// Without links: relative paths start from its directory.
    pub resolved: PathBuf,
    /// The whole text.
    pub text: Arc<str>,
}

impl LayerText {
    /// For [`parse_layers`](super::parse_layers).
    pub fn layer(&self) -> Layer<'_> {
        let base = self.resolved.parent().unwrap_or(Path::new("/"));
        Layer { kind: self.kind, file: &self.file, base, text: &self.text, is_template: false }
    }
}

/// A place in a file, as messages name it: file:line:column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As the caller named it.
    pub file: PathBuf,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", one_line(&self.file.to_string_lossy()), self.line, self.column)
    }
}

/// One text in the common range of offsets.
pub(crate) struct Placed<'t> {
    /// The offset of its first byte.
    pub(crate) start: usize,
    pub(crate) layer: Layer<'t>,
    pub(crate) lines: Lines<'t>,
}

/// All texts of a unit, in the order of their offsets.
pub(crate) struct Places<'t>(Vec<Placed<'t>>);

impl<'t> Places<'t> {
    /// The unit's own text first: what is about the unit as a whole, at offset 0, is told there.
    pub(crate) fn new(layers: &[Layer<'t>]) -> Self {
        let main = layers.iter().filter(|layer| layer.kind == LayerKind::Main);
        let others = layers.iter().filter(|layer| layer.kind != LayerKind::Main);
        let mut start = 0usize;
        let place = |layer: &Layer<'t>| {
            let placed = Placed { start, layer: *layer, lines: Lines::new(layer.text) };
            // One more, so that the end of a text is not the beginning of the next.
            start = start.saturating_add(layer.text.len()).saturating_add(1);
            placed
        };
        Places(main.chain(others).map(place).collect())
    }

    /// In the order of their offsets.
    pub(crate) fn texts(&self) -> &[Placed<'t>] {
        &self.0
    }

    /// The text that holds an offset.
    pub(crate) fn text_at(&self, offset: usize) -> Option<&Placed<'t>> {
        let after = self.0.partition_point(|placed| placed.start <= offset);
        self.0.get(after.saturating_sub(1))
    }

    pub(crate) fn position(&self, offset: usize) -> Place {
        let Some(placed) = self.text_at(offset) else { return Place { file: PathBuf::new(), line: 1, column: 1 } };
        let (line, column) = placed.lines.position(offset.saturating_sub(placed.start));
        Place { file: placed.layer.file.to_owned(), line, column }
    }

    /// Where relative paths of a value at an offset start.
    pub(crate) fn base(&self, offset: usize) -> &'t Path {
        self.text_at(offset).map_or(Path::new(""), |placed| placed.layer.base)
    }

    /// Where a file comes among the texts.
    pub(crate) fn rank(&self, file: &Path) -> usize {
        self.0.iter().position(|placed| placed.layer.file == file).unwrap_or(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_of_one_text_and_the_units_own_is_the_first() {
        let layer = |kind, file: &'static str, text| Layer {
            kind,
            file: Path::new(file),
            base: Path::new("/b"),
            text,
            is_template: false,
        };
        let layers = [
            layer(LayerKind::Defaults, "moored.toml", "ab"),
            layer(LayerKind::Main, "web.toml", "x\ny"),
            layer(LayerKind::DropIn, "10.toml", ""),
            layer(LayerKind::DropIn, "20.toml", "\n\nz"),
        ];
        let places = Places::new(&layers);
        let at = |offset| places.position(offset).to_string();
        assert_eq!(at(0), "web.toml:1:1");
        assert_eq!(at(2), "web.toml:2:1");
        assert_eq!(at(3), "web.toml:2:2", "its end");
        assert_eq!((at(4), at(6)), ("moored.toml:1:1".to_owned(), "moored.toml:1:3".to_owned()));
        assert_eq!(at(7), "10.toml:1:1");
        assert_eq!((at(8), at(10)), ("20.toml:1:1".to_owned(), "20.toml:3:1".to_owned()));
        assert_eq!(at(1000), "20.toml:3:2");
        assert_eq!(places.rank(Path::new("10.toml")), 2);
    }
}

//! `layers`, `overlay` and `[upper]`: a root that is a union of directories, with a writable layer of the container's own on top.
//!
//! | key | what it says |
//! |---|---|
//! | `layers = ["/srv/base", "/srv/app"]` | the directories, the lowest first: what is in a later one covers what is in those before it |
//! | `rootfs = "/srv/web"` and `overlay = true` | the same as `layers = ["/srv/web"]` |
//! | `[upper]` | what becomes of what the container writes |
//!
//! - The directories are never written: they are shared by all who name them.
//! - Without `persist` what is written lies in memory of the container's, at most `size`, and goes with the container. So it costs no
//!   clean-up, whoever is killed, and counts as the container's memory.
//! - With `persist` it lies in the state-dir, by the unit's name, and the next container of the unit finds it. One container at a time may
//!   have it: so no start-first update.
//! - The root is writable unless `security.read_only` says otherwise: what is written is nobody else's.

use super::walk::{Field, Table, Walk};
use super::{Order, Security, Source, Update};

/// What overlayfs stacks is 500; as many short numbers of descriptors as these fit into what `fsconfig` takes as a string.
const LAYERS_MAX: usize = 48;
/// As large as the root of an `executable` unit may be.
pub(crate) const SIZE_BYTES: u64 = 64 << 20;

/// `[upper]`: the writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// It outlives the container.
    pub persist: bool,
    /// Most that is in it, unless it is kept.
    pub size_bytes: u64,
    /// Whether a kept one is used on other layers than those it was made on.
    pub on_change: OnLayersChange,
}

/// `upper.on_change`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLayersChange {
    /// Nothing starts.
    Refuse,
    /// It is laid onto them.
    Keep,
}

impl Default for Upper {
    fn default() -> Upper {
        Upper { persist: false, size_bytes: SIZE_BYTES, on_change: OnLayersChange::Refuse }
    }
}

/// The source that a `layers` field names.
pub(crate) fn layers(walk: &mut Walk, field: &Field) -> Option<Source> {
    let items = walk.items(field)?;
    if items.is_empty() || items.len() > LAYERS_MAX {
        let message = format!("`layers` has {} items, expected 1 to {LAYERS_MAX} directories", items.len());
        walk.error(&field.at(), message, None);
        return None;
    }
    let mut paths = Vec::with_capacity(items.len());
    for (n, value) in items.iter().enumerate() {
        let item = Field { name: format!("layers[{n}]"), value, ..field.clone() };
        let path = walk.host_path(Some(item.clone()))?;
        if path.parent().is_none() {
            walk.mismatch(&item, "a directory of its own", Some("`/` is the host's root".to_owned()));
        } else if paths.contains(&path) {
            walk.mismatch(&item, "each directory once", None);
        }
        paths.push(path);
    }
    Some(Source::Layers(paths))
}

/// What `overlay` makes of a source.
pub(crate) fn overlay(walk: &mut Walk, top: &Table, source: Source) -> Source {
    let Some(field) = top.field("overlay") else { return source };
    match (walk.boolean(Some(field.clone())), source) {
        (Some(true), Source::Rootfs(path)) => Source::Layers(vec![path]),
        (Some(true), other) => {
            let help = match other {
                Source::Layers(_) => "`layers` are that already: take it out",
                _ => "the layer is laid over a directory: write `rootfs` or `layers`",
            };
            let message = format!("`overlay` beside `{}`, expected a `rootfs`", other.key());
            walk.error(&field.key_span, message, Some(help.to_owned()));
            other
        }
        (_, source) => source,
    }
}

/// `[upper]`, which goes with layers alone.
pub(crate) fn upper(
    walk: &mut Walk,
    top: &Table,
    source: Option<&Source>,
    security: &Security,
    update: &Update,
) -> Upper {
    let Some(table) = walk.table(top, "upper", "upper") else { return Upper::default() };
    let persist = walk.boolean(table.field("persist")).unwrap_or(false);
    let size = walk.size(table.field("size"), super::sections::PAGE);
    let words = [("refuse", OnLayersChange::Refuse), ("keep", OnLayersChange::Keep)];
    let on_change = walk.choice(table.field("on_change"), &words, &[("error", "refuse"), ("fail", "refuse")]);
    if source.is_some_and(|source| !matches!(source, Source::Layers(_))) {
        let help = "write `layers`, or `overlay = true` beside the `rootfs`";
        walk.error(&table.span, "[upper] without `layers`", Some(help.to_owned()));
    }
    let mut refuse = |key: &str, message: &str, help: &str| {
        if let Some(field) = table.field(key) {
            walk.error(&field.key_span, message.to_owned(), Some(help.to_owned()));
        }
    };
    if persist {
        refuse("size", "`upper.size` beside `upper.persist`", "what is kept lies on the disk of the state-dir");
        if security.read_only == Some(true) {
            let help = "nothing could be written: take one of them out";
            refuse("persist", "`upper.persist` beside `security.read_only = true`", help);
        }
        if update.order == Order::StartFirst {
            let help = "two containers would write into one layer: take one of them out";
            refuse("persist", "`upper.persist` beside `update.order = \"start-first\"`", help);
        }
    } else {
        refuse(
            "on_change",
            "`upper.on_change` without `upper.persist`",
            "only a layer that is kept meets other layers",
        );
    }
    Upper { persist, size_bytes: size.unwrap_or(SIZE_BYTES), on_change: on_change.unwrap_or(OnLayersChange::Refuse) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::unit::{OnBad, RootPlan, SourceFacts, Unit, UnitName, compile, container_fingerprint, on_bad, parse};

    const ARGS: &str = "process.args = [\"/bin/x\"]\n";

    fn read(text: &str) -> Result<Unit, Vec<String>> {
        let parsed = parse(&UnitName::new("web").unwrap(), Path::new("/u/web.toml"), &format!("{text}{ARGS}"));
        parsed.map(|parsed| parsed.unit).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    fn facts(layers: &[&str]) -> SourceFacts {
        let layers: Vec<_> = layers.iter().map(Into::into).collect();
        SourceFacts { resolved: layers.last().cloned().unwrap(), config_json: None, layers }
    }

    #[test]
    fn layers_are_paths_with_the_lowest_first() {
        let unit = read("layers = [\"/srv/base\", \"app:1, two\"]\n").unwrap();
        assert_eq!(unit.source, Source::Layers(vec!["/srv/base".into(), "/u/app:1, two".into()]));
        assert_eq!(unit.upper, Upper::default());
        let overlaid = read("rootfs = \"/srv/web\"\noverlay = true\n[upper]\nsize = \"1M\"\n[x-a]\n").unwrap_err();
        assert!(overlaid[0].contains("a `rootfs` unit needs `args`"), "they are in another table: {overlaid:?}");
        let overlaid = read("rootfs = \"/srv/web\"\noverlay = true\nupper.size = \"1M\"\n").unwrap();
        assert_eq!(overlaid.source, Source::Layers(vec!["/srv/web".into()]));
        assert_eq!(overlaid.upper.size_bytes, 1 << 20);
        assert_eq!(read("rootfs = \"/r\"\noverlay = false\n").unwrap().source, Source::Rootfs("/r".into()));
    }

    #[test]
    fn what_does_not_go_together_is_told_by_name() {
        for (text, expected) in [
            ("layers = []\n", "`layers` has 0 items, expected 1 to 48 directories"),
            ("layers = \"/a\"\n", "`layers` is the string \"/a\", expected an array of strings, write [\"/a\"]"),
            ("layers = [\"/a\", 1]\n", "`layers[1]` is the integer 1, expected a path"),
            ("layers = [\"/a\", \"/b/../a\"]\n", "`layers[1]` is the string \"/b/../a\", expected each directory once"),
            ("layers = [\"/\"]\n", "`layers[0]` is the string \"/\", expected a directory of its own"),
            ("layers = [\"/a\"]\nrootfs = \"/b\"\n", "`rootfs` beside `layers` (line 1), expected exactly one source"),
            ("layers = [\"/a\"]\noverlay = true\n", "`overlay` beside `layers`, expected a `rootfs`"),
            ("executable = \"/x\"\noverlay = true\n", "`overlay` beside `executable`, expected a `rootfs`"),
            ("bundle = \"/x\"\noverlay = true\n", "`overlay` beside `bundle`, expected a `rootfs`"),
            ("rootfs = \"/a\"\nupper.persist = true\n", "[upper] without `layers`"),
            ("layers = [\"/a\"]\nupper = { persist = true, size = \"1M\" }\n", "`upper.size` beside `upper.persist`"),
            ("layers = [\"/a\"]\nupper.on_change = \"keep\"\n", "`upper.on_change` without `upper.persist`"),
            ("layers = [\"/a\"]\nupper.size = 0\n", "`upper.size` is the integer 0"),
            (
                "layers = [\"/a\"]\nupper.persist = true\nsecurity.read_only = true\n",
                "`upper.persist` beside `security.read_only = true`",
            ),
            (
                "layers = [\"/a\"]\nupper.persist = true\nupdate.order = \"start-first\"\n",
                "`upper.persist` beside `update.order = \"start-first\"`",
            ),
            ("layers = [\"/a\"]\noci.root.path = \"/x\"\n", "`oci.root.path` cannot be set"),
            ("lowerdir = \"/a\"\nlayers = [\"/a\"]\n", "unknown key `lowerdir`, did you mean `layers`?"),
        ] {
            let told = read(text).unwrap_err().join("\n");
            assert!(told.contains(expected), "{text}\n{told}\n{expected}");
        }
    }

    #[test]
    fn the_root_is_a_union_that_is_writable_unless_the_unit_says_otherwise() {
        let facts = facts(&["/srv/base-1", "/srv/app"]);
        for (more, readonly) in [("", false), ("security.read_only = true\n", true)] {
            let unit = read(&format!("layers = [\"/srv/base\", \"/srv/app\"]\n{more}")).unwrap();
            let spec = compile(&unit, &facts).unwrap();
            assert_eq!(spec.raw["root"]["readonly"], readonly);
            let (layers, upper) = (facts.layers.clone(), unit.upper);
            assert_eq!(spec.root, RootPlan::Layers { layers, upper });
            // Hardened like a `rootfs`.
            assert_eq!(spec.raw["process"]["noNewPrivileges"], true);
            assert!(spec.allow_list);
            assert_eq!(on_bad(&unit, &facts), OnBad::Rollback, "what was written goes with the container");
        }
        let kept = read("layers = [\"/srv/base\", \"/srv/app\"]\nupper.persist = true\n").unwrap();
        assert_eq!(on_bad(&kept, &facts), OnBad::Retry, "a new version may have changed what is kept");
    }

    #[test]
    fn another_layer_or_another_order_is_another_container() {
        let unit = read("layers = [\"/a\", \"/b\"]\n").unwrap();
        let prints = [&["/a", "/b"][..], &["/b", "/a"], &["/a", "/b-2"], &["/a/b", "/b"], &["/b"]]
            .map(|layers| container_fingerprint(&unit, &facts(layers)));
        let different: std::collections::BTreeSet<_> = prints.iter().collect();
        assert_eq!(different.len(), prints.len());
        let overlaid = read("rootfs = \"/a\"\noverlay = true\n").unwrap();
        let layered = read("layers = [\"/a\"]\n").unwrap();
        let print = |unit| container_fingerprint(unit, &facts(&["/a"]));
        assert_eq!(print(&overlaid), print(&layered), "they mean the same");
    }
}

//! Which names in a units directory are unit files.

use std::ffi::OsStr;

use super::UnitName;
use super::diagnostic::quote;
use super::name::BadName;

/// A file that is meant as a unit but cannot be one, because of its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// `worker@.toml`, `worker@a.toml`.
    #[error("`{0}` is a template's name: templates and instances are known but not built in this version")]
    Template(String),
    /// Letters that a name cannot have.
    #[error("{0}: rename it")]
    Name(#[from] BadName),
    /// Bytes that are no text.
    #[error("the name `{0}` is not UTF-8: a unit's name has A-Z a-z 0-9 _ - only, rename it")]
    NotUtf8(String),
}

/// The unit that a directory entry declares; `None` for what is none of our business: anything but `*.toml`, hidden
/// files, and with that editors' leftovers (`web.toml~`, `.web.toml.swp`, `web.toml.bak`, `4913`) and `web.toml.d`.
pub fn file_stem_to_name(entry: &OsStr) -> Result<Option<UnitName>, BadEntry> {
    let bytes = entry.as_encoded_bytes();
    if bytes.starts_with(b".") || !bytes.ends_with(b".toml") {
        return Ok(None);
    }
    let Some(stem) = entry.to_str().and_then(|text| text.strip_suffix(".toml")) else {
        return Err(BadEntry::NotUtf8(quote(&entry.to_string_lossy())));
    };
    let parts = stem.split_once('@');
    let is_name = |part: &str| UnitName::new(part).is_ok();
    let is_part = |part: &str| is_name(part) && !part.contains('@');
    if parts.is_some_and(|(prefix, instance)| is_name(prefix) && (instance.is_empty() || is_part(instance))) {
        return Err(BadEntry::Template(stem.to_owned()));
    }
    Ok(Some(UnitName::new(stem).map_err(|bad| BadName(quote(&bad.0)))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn only_toml_files_that_are_not_hidden_are_units() {
        assert_eq!(file_stem_to_name(OsStr::new("web-1.toml")), Ok(Some(UnitName::new("web-1").unwrap())));
        for other in [
            "",
            ".toml",
            ".web.toml",
            ".#web.toml",
            ".web.toml.swp",
            "web.toml~",
            "web.toml.bak",
            "web.toml.tmp",
            "web.toml.d",
            "#web.toml#",
            "4913",
            "web",
            "web.TOML",
            "README.md",
            "..",
            "web.toml.dpkg-new",
        ] {
            assert_eq!(file_stem_to_name(OsStr::new(other)), Ok(None), "{other}");
        }
    }

    #[test]
    fn bad_stems_are_named() {
        let message = |name: &[u8]| file_stem_to_name(OsStr::from_bytes(name)).unwrap_err().to_string();
        let template =
            "`worker@` is a template's name: templates and instances are known but not built in this version";
        assert_eq!(message(b"worker@.toml"), template);
        assert!(message(b"worker@a.toml").starts_with("`worker@a` is a template's name"));
        assert!(message(b"my web.toml").starts_with("`my web` is not a unit name"));
        assert!(message(b"web.new.toml").starts_with("`web.new` is not a unit name"));
        assert!(message(b"w\xff.toml").starts_with("the name `w\u{fffd}.toml` is not UTF-8"));
        assert!(message(b"a\nb.toml").starts_with("`a\\nb` is not a unit name"));
        assert!(message(b"a@b@c.toml").starts_with("`a@b@c` is not a unit name"));
    }
}

//! Which names in a units directory are unit files.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::UnitName;
use super::diagnostic::quote;
use super::name::BadName;

/// A file that is meant as a unit but cannot be one, because of its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// Letters that a name cannot have.
    #[error("{0}: rename it")]
    Name(#[from] BadName),
    /// Bytes that are no text.
    #[error("the name `{0}` is not UTF-8: a unit's name has A-Z a-z 0-9 _ - only, rename it")]
    NotUtf8(String),
}

/// The unit that a directory entry declares; `None` for what is none of our business: anything but `*.toml`, hidden
/// files, and with that editors' leftovers (`web.toml~`, `.web.toml.swp`, `web.toml.bak`, `4913`) and `web.toml.d`. A template,
/// `worker@.toml`, declares none by itself: an instance is a link to it, `worker@a.toml`, or a file of its own of that name.
pub fn file_stem_to_name(entry: &OsStr) -> Result<Option<UnitName>, BadEntry> {
    let bytes = entry.as_encoded_bytes();
    if bytes.starts_with(b".") || !bytes.ends_with(b".toml") {
        return Ok(None);
    }
    let Some(stem) = entry.to_str().and_then(|text| text.strip_suffix(".toml")) else {
        return Err(BadEntry::NotUtf8(quote(&entry.to_string_lossy())));
    };
    if template_sample(entry).is_some() {
        return Ok(None);
    }
    Ok(Some(UnitName::new(stem).map_err(|bad| BadName(quote(&bad.0)))?))
}

/// Of a template's file, `worker@.toml`, the name of an instance to check its text as; `None` for any other file.
pub fn template_sample(entry: &OsStr) -> Option<UnitName> {
    let prefix = entry.to_str()?.strip_suffix("@.toml")?;
    UnitName::new(&format!("{prefix}@instance")).ok()
}

/// Whether the text at `file` is a template's: it, or what its links lead to, is named like one.
pub fn is_template(file: &Path, resolved: &Path) -> bool {
    [file, resolved].iter().filter_map(|path| path.file_name()).any(|name| template_sample(name).is_some())
}

/// The template of an instance, `worker@.toml`; `None` of a unit that is no instance.
pub fn template_of(name: &UnitName) -> Option<OsString> {
    name.instance().map(|_| format!("{}@.toml", name.prefix()).into())
}

/// Of a directory of drop-ins, `web.toml.d` or `worker@.toml.d`, the file that they belong to; `None` for any other name.
pub fn drop_in_target(entry: &OsStr) -> Option<OsString> {
    let bytes = entry.as_encoded_bytes();
    let target = entry.to_str()?.strip_suffix(".d")?;
    let is_file = bytes.len() > ".toml.d".len() && !bytes.starts_with(b".") && target.ends_with(".toml");
    is_file.then(|| target.into())
}

/// The files whose drop-ins apply to a unit, later ones winning: an instance's template, then its own.
pub fn files_with_drop_ins(name: &UnitName) -> Vec<OsString> {
    template_of(name).into_iter().chain([format!("{name}.toml").into()]).collect()
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
            "worker@.toml",
        ] {
            assert_eq!(file_stem_to_name(OsStr::new(other)), Ok(None), "{other}");
        }
    }

    #[test]
    fn a_template_declares_nothing_and_an_instance_is_a_unit() {
        let name = |text: &str| UnitName::new(text).ok();
        assert_eq!(file_stem_to_name(OsStr::new("worker@a.toml")), Ok(name("worker@a")));
        assert_eq!(template_sample(OsStr::new("worker@.toml")), name("worker@instance"));
        for other in ["worker@a.toml", "worker.toml", "@.toml", "a@b@.toml", "worker@.toml~", ".w@.toml"] {
            assert_eq!(template_sample(OsStr::new(other)), None, "{other}");
        }
    }

    #[test]
    fn drop_ins_belong_to_a_unit_or_to_all_instances_of_a_template() {
        let target = |entry: &str| drop_in_target(OsStr::new(entry));
        assert_eq!(target("web.toml.d"), Some("web.toml".into()));
        assert_eq!(target("worker@.toml.d"), Some("worker@.toml".into()));
        for other in ["web.toml", "web.d", ".toml.d", ".web.toml.d", "web.toml.d~", "d"] {
            assert_eq!(target(other), None, "{other}");
        }
        let files = |name: &str| files_with_drop_ins(&UnitName::new(name).unwrap());
        assert_eq!(files("web"), ["web.toml"]);
        assert_eq!(files("worker@a"), ["worker@.toml", "worker@a.toml"]);
    }

    #[test]
    fn bad_stems_are_named() {
        let message = |name: &[u8]| file_stem_to_name(OsStr::from_bytes(name)).unwrap_err().to_string();
        assert!(message(b"@.toml").starts_with("`@` is not a unit name"));
        assert!(message(b"@a.toml").starts_with("`@a` is not a unit name"));
        assert!(message(b"a@b@.toml").starts_with("`a@b@` is not a unit name"));
        assert!(message(b"my web.toml").starts_with("`my web` is not a unit name"));
        assert!(message(b"web.new.toml").starts_with("`web.new` is not a unit name"));
        assert!(message(b"w\xff.toml").starts_with("the name `w\u{fffd}.toml` is not UTF-8"));
        assert!(message(b"a\nb.toml").starts_with("`a\\nb` is not a unit name"));
        assert!(message(b"a@b@c.toml").starts_with("`a@b@c` is not a unit name"));
    }
}

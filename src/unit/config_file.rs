//! `[[config]]` and `[[secret]]`: files of the host's whose contents a container has, as they are now or as they were when it started.
//!
//! The contents are copied, never the file mounted: a bind mount would pin the old inode when the file is replaced. What a change of
//! them does is `on_change`:
//!
//! | `on_change` | a change of the contents |
//! |---|---|
//! | `restart` (default) | takes a new container |
//! | `reload` | is swapped into the container that runs, which is then told to reload: once for all that changed together |
//! | `none` | is swapped into the container that runs |
//!
//! Inside, the target is a link to the file in [`MOUNT`], a directory of the container's own that is mounted there read-only. All files
//! of a unit are swapped as one, by another link in it: a reader sees the old file or the new one, never half of one.
//!
//! `mode` says who may read it inside. Changing it takes another container.
//!
//! A secret is read by the user of the process alone. Its bytes are never written to a disk, so nobody knows them after a boot or in a
//! supervisor's next life until its file is read: what is not known is no change, and no reason to stop what runs. Hence it is no part
//! of the fingerprint, but of a mark of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::diagnostic::quote;
use super::fingerprint::{Fingerprint, digest_of};
use super::walk::{Field, Table, Walk};
use super::{Mount, Unit, path, schema};
use crate::compact;

/// Where the directory is mounted inside. /dev is the container's own nearly everywhere, and can be written to before the program runs.
pub const MOUNT: &str = "/dev/moored";

/// Files of one unit: more is a mistake.
const FILES_MAX: usize = 64;

/// Longest name of a file, in bytes: the kernel's NAME_MAX.
const NAME_MAX: usize = 255;

/// One `[[config]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Absolute path outside.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
    /// What a change of the contents does.
    pub on_change: OnChange,
    /// `[[secret]]`: for the user of the process alone, and never written to a disk.
    pub secret: bool,
    /// Permissions inside, if the unit says.
    pub mode: Option<u32>,
    /// `None` until they are read.
    pub contents: Option<FileContents>,
}

/// `config.on_change`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    /// Another container.
    Restart,
    /// They are swapped, and the program is told.
    Reload,
    /// They are swapped.
    None,
}

/// What is in a file. Shown as its size alone.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContents {
    bytes: Arc<[u8]>,
    digest: [u8; 16],
}

impl FileContents {
    /// Of these bytes.
    pub fn new(bytes: Arc<[u8]>) -> FileContents {
        let digest = digest_of(&bytes);
        FileContents { bytes, digest }
    }

    /// Of a secret: what is stored or shown of it is made with a salt, which nobody else has.
    pub fn secret(bytes: Arc<[u8]>, salt: [u8; 16]) -> FileContents {
        let digest = digest_of(&[&salt[..], &bytes[..]].concat());
        FileContents { bytes, digest }
    }

    /// Of a JSON text: spaces and the order of keys mean nothing; what is not JSON is compared as it is.
    pub fn json(bytes: Arc<[u8]>) -> FileContents {
        let canonical = compact::from_json::<serde_json::Value>(&bytes).map(|value| value.to_string().into_bytes());
        let digest = digest_of(canonical.as_deref().unwrap_or(&bytes));
        FileContents { bytes, digest }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    pub(super) fn digest(&self) -> &[u8] {
        &self.digest
    }
}

impl fmt::Debug for FileContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl ConfigFile {
    /// As the table is called.
    pub fn key(&self) -> &'static str {
        if self.secret { "secret" } else { "config" }
    }

    /// Its permissions inside: unless the unit says, all may read a config and its owner a secret.
    pub fn mode(&self) -> u32 {
        self.mode.unwrap_or(if self.secret { 0o400 } else { 0o444 })
    }

    /// Its name in the directory of the container: the target's, for programs that look at what a link leads to.
    pub fn name(&self) -> &str {
        self.target.rsplit('/').next().unwrap_or("file")
    }
}

/// Which contents a container has, of what its fingerprint does not cover. Equal means: nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapMark {
    /// Of all files that are swapped.
    pub all: Fingerprint,
    /// Of those with `on_change = "reload"`.
    pub reload: Fingerprint,
    /// Of the secrets that are not swapped.
    pub restart: Fingerprint,
}

impl SwapMark {
    /// What `unit` says; `None` if it has no files, or if the contents of one are not known.
    pub fn of(unit: &Unit) -> Option<SwapMark> {
        if unit.configs.is_empty() || unit.configs.iter().any(|file| file.contents.is_none()) {
            return None;
        }
        let of = |wanted: &dyn Fn(&ConfigFile) -> bool| {
            let mut all = Vec::new();
            for file in unit.configs.iter().filter(|file| wanted(file)) {
                all.extend_from_slice(&digest_of(file.target.as_bytes()));
                all.extend_from_slice(file.contents.as_ref().map_or(&[], FileContents::digest));
            }
            if all.is_empty() { Fingerprint::default() } else { Fingerprint(digest_of(&all)) }
        };
        Some(SwapMark {
            all: of(&|file| file.on_change != OnChange::Restart),
            reload: of(&|file| file.on_change == OnChange::Reload),
            restart: of(&|file| file.on_change == OnChange::Restart && file.secret),
        })
    }
}

/// All `[[config]]` and `[[secret]]`, in the order of their targets; their places are noted.
pub(crate) fn configs(walk: &mut Walk, top: &Table, mounts: &[Mount]) -> Vec<ConfigFile> {
    let mut found: BTreeMap<String, (ConfigFile, usize)> = BTreeMap::new();
    for table in ["config", "secret"].into_iter().flat_map(|name| walk.tables(top, name)).collect::<Vec<_>>() {
        let Some((file, at)) = config(walk, &table) else { continue };
        let place = at.at().start;
        if let Some(field) = table.field("target") {
            let taken = match found.get(&file.target) {
                Some((taken, at)) => {
                    let (first, here) = (walk.places.position(*at), walk.places.position(field.at().start));
                    let elsewhere = || format!("{}:{}", first.file.display(), first.line);
                    let place = if first.file == here.file { format!("line {}", first.line) } else { elsewhere() };
                    Some(format!("the [[{}]] of {place}", taken.key()))
                }
                None => mounts.iter().find(|mount| mount.target == file.target).map(|_| "a [[mount]]".to_owned()),
            };
            if let Some(taken) = taken {
                let message = format!("`{}` \"{}\" is taken by {taken}", field.name, quote(&file.target));
                walk.error(&field.at(), message, Some("one for each target".to_owned()));
            }
        }
        if found.len() == FILES_MAX {
            let message = format!("more than {FILES_MAX} [[config]] and [[secret]]");
            walk.error(&table.span, message, Some("mount a directory".to_owned()));
            break;
        }
        found.insert(file.target.clone(), (file, place));
    }
    let (files, places) = found.into_values().unzip();
    walk.configs_at = places;
    files
}

/// One of them, and where its source stands.
fn config<'w>(walk: &mut Walk, table: &Table<'w>) -> Option<(ConfigFile, Field<'w>)> {
    for (key, help) in [("source", "it is the file outside"), ("target", "it is the path inside the container")] {
        // An unknown key was probably meant as the missing one, and has its own message.
        if table.field(key).is_none() && table.is_regular() {
            walk.absent(&table.span, &format!("{} without `{key}`", schema::header(table.name)), Some(help));
        }
    }
    let words = [("restart", OnChange::Restart), ("reload", OnChange::Reload), ("none", OnChange::None)];
    let on_change = walk.choice(table.field("on_change"), &words, &[("replace", "restart"), ("sighup", "reload")]);
    let target = table.field("target").and_then(|field| target(walk, &field));
    let secret = table.name == "secret";
    let mode = table.field("mode").and_then(|field| mode(walk, &field, secret));
    let at = table.field("source")?;
    let source = walk.host_path(Some(at.clone()))?;
    let on_change = on_change.unwrap_or(OnChange::Restart);
    let file = ConfigFile { source, target: target?, on_change, secret, mode, contents: None };
    Some((file, at))
}

/// As chmod(1) takes it, in a string: a bare number is decimal in TOML, and 640 would be 01200.
pub(super) fn mode(walk: &mut Walk, field: &Field, secret: bool) -> Option<u32> {
    const EXPECTED: &str = "permissions like \"0640\"";
    if let DeValue::Integer(number) = field.value.get_ref() {
        let digits = number.as_str();
        let is_meant = digits.len() == 3 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        let help = is_meant.then(|| format!("write \"0{digits}\""));
        walk.mismatch(field, EXPECTED, help);
        return None;
    }
    let word = walk.word(field, EXPECTED)?;
    let is_octal = matches!(word.len(), 3..=4) && word.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let mode = u32::from_str_radix(word, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    match mode {
        None => walk.mismatch(field, EXPECTED, None),
        Some(mode) if secret && mode & 0o007 != 0 => {
            walk.mismatch(
                field,
                "permissions without any for others",
                Some("a secret is the process's own".to_owned()),
            );
            return None;
        }
        Some(_) => {}
    }
    mode
}

fn target(walk: &mut Walk, field: &Field) -> Option<String> {
    let target = walk.inside_path(field)?;
    if let Some(why) = path::reserved_target(&target) {
        walk.mismatch(field, "another target", Some(why.to_owned()));
        return None;
    }
    if target.rsplit('/').next().is_some_and(|name| name.len() > NAME_MAX) {
        walk.mismatch(field, &format!("a name of at most {NAME_MAX} bytes"), None);
        return None;
    }
    Some(target)
}

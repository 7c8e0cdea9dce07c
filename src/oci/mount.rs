//! Mount options: words to attributes, propagation, and what is left for the file system.

use std::fmt::Arguments;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount as SpecMount;

use super::error::{Problem, Report};
use super::idmap::{self, Of};
use super::script::{Attributes, Mount, MountIdMap, MountSource, Propagation, PropagationKind};

/// Attribute words and their `MOUNT_ATTR_…` bits, for printing.
pub(super) const ATTRIBUTES: [(&str, u64); 8] = [
    ("ro", libc::MOUNT_ATTR_RDONLY),
    ("nosuid", libc::MOUNT_ATTR_NOSUID),
    ("nodev", libc::MOUNT_ATTR_NODEV),
    ("noexec", libc::MOUNT_ATTR_NOEXEC),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// What one word means.
enum Word {
    Set(u64),
    Clear(u64),
    /// Relatime, noatime and strictatime are values of one field: setting one clears the others.
    Atime(u64),
    /// The same of the mount and of all below it.
    Below(Box<Word>),
    Propagation(PropagationKind, bool),
    Bind(bool),
    /// A bind's source is a link itself, not what it leads to (crun).
    SourceNoFollow,
    /// Given to the file system as a word.
    Flag,
    /// Accepted, and without an effect on Linux today.
    Nothing,
    /// A tmpfs begins with what the target held.
    CopyUp,
    /// Id-mapped; whether the mounts below are as well.
    IdMap(bool),
}

fn word(option: &str) -> Option<Word> {
    use PropagationKind::{Private, Shared, Slave, Unbindable};
    Some(match option {
        "ro" => Word::Set(libc::MOUNT_ATTR_RDONLY),
        "rw" => Word::Clear(libc::MOUNT_ATTR_RDONLY),
        "nosuid" => Word::Set(libc::MOUNT_ATTR_NOSUID),
        "suid" => Word::Clear(libc::MOUNT_ATTR_NOSUID),
        "nodev" => Word::Set(libc::MOUNT_ATTR_NODEV),
        "dev" => Word::Clear(libc::MOUNT_ATTR_NODEV),
        "noexec" => Word::Set(libc::MOUNT_ATTR_NOEXEC),
        "exec" => Word::Clear(libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => Word::Set(libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => Word::Clear(libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => Word::Set(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => Word::Clear(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => Word::Atime(libc::MOUNT_ATTR_RELATIME),
        "noatime" => Word::Atime(libc::MOUNT_ATTR_NOATIME),
        "strictatime" => Word::Atime(libc::MOUNT_ATTR_STRICTATIME),
        "private" => Word::Propagation(Private, false),
        "rprivate" => Word::Propagation(Private, true),
        "slave" => Word::Propagation(Slave, false),
        "rslave" => Word::Propagation(Slave, true),
        "shared" => Word::Propagation(Shared, false),
        "rshared" => Word::Propagation(Shared, true),
        "unbindable" => Word::Propagation(Unbindable, false),
        "runbindable" => Word::Propagation(Unbindable, true),
        "bind" => Word::Bind(false),
        "rbind" => Word::Bind(true),
        "src-nofollow" => Word::SourceNoFollow,
        "sync" | "dirsync" | "mand" | "lazytime" => Word::Flag,
        "async" | "nomand" | "nolazytime" | "silent" | "loud" | "iversion" | "noiversion" | "defaults" | "acl"
        | "noacl" => Word::Nothing,
        "tmpcopyup" => Word::CopyUp,
        "idmap" => Word::IdMap(false),
        "ridmap" => Word::IdMap(true),
        "rro" | "rrw" | "rnosuid" | "rsuid" | "rnodev" | "rdev" | "rnoexec" | "rexec" | "rnodiratime" | "rdiratime"
        | "rrelatime" | "rnorelatime" | "rnoatime" | "ratime" | "rstrictatime" | "rnostrictatime" | "rnosymfollow"
        | "rsymfollow" => Word::Below(Box::new(word(option.strip_prefix('r')?)?)),
        _ => return None,
    })
}

impl Mount {
    /// Whether it is read-only only once all mounts and nodes are made, as with runc and crun: some of them are in a tmpfs, or in `/dev`.
    pub(crate) fn is_sealed_late(&self) -> bool {
        let MountSource::Filesystem { fstype, .. } = &self.source else { return false };
        self.own.set & libc::MOUNT_ATTR_RDONLY != 0 && (fstype == "tmpfs" || self.target == "/dev")
    }
}

/// Whether this word is not left to the file system.
#[cfg(test)]
pub(super) fn is_option(option: &str) -> bool {
    word(option).is_some()
}

/// Labels a new file system for SELinux, as runc does: not those of the kernel itself, whose labels are its policy's.
pub(super) fn label(mount: &mut Mount, label: &str) {
    const OF_THE_KERNEL: [&str; 3] = ["proc", "sysfs", "mqueue"];
    if let MountSource::Filesystem { fstype, options, .. } = &mut mount.source
        && !OF_THE_KERNEL.contains(&fstype.as_str())
        && !options.iter().any(|(name, _)| name == "context")
    {
        options.push(("context".to_owned(), Some(label.to_owned())));
    }
}

/// Compiles one entry of `mounts`. Relative destinations start at the root, relative bind sources at the bundle.
pub(super) fn compile(mount: &SpecMount, path: Arguments<'_>, bundle: &Path, report: &mut Report) -> Option<Mount> {
    let target = target(mount, path, report)?;
    let mut parsed = Parsed::default();
    for option in mount.options().iter().flatten() {
        match word(option) {
            Some(word) => parsed.take(word, option),
            None => parsed.data(option),
        }
    }
    let fstype = mount.typ().as_deref().unwrap_or("");
    // runc and crun take type "bind" for an rbind, and any type with (r)bind among the options for a bind.
    let bind = parsed.bind.or((fstype == "bind").then_some(true));
    let source = match bind {
        Some(recursive) => {
            let source = bind_source(mount, path, bundle, report)?;
            if !parsed.options.is_empty() {
                report.warn(format_args!("{path}.options"), "a bind mount has no options of a file system");
            }
            MountSource::Bind { source, recursive, follow: !parsed.nofollow }
        }
        None if fstype == "cgroup" || fstype == "cgroup2" => MountSource::Cgroup,
        None => filesystem(mount, fstype, path, parsed.options, report)?,
    };
    let is_bind = matches!(source, MountSource::Bind { .. });
    let idmap = id_map(mount, parsed.idmap, is_bind, path, report);
    let copy_up = parsed.copy_up;
    if copy_up && (is_bind || fstype != "tmpfs") {
        report.error(format_args!("{path}.options"), Problem::Conflict { reason: "tmpcopyup is for a tmpfs" });
    }
    let (own, below, propagation) = (parsed.own, parsed.below, parsed.propagation);
    Some(Mount { target, source, own, below, propagation, idmap, copy_up })
}

/// With a mapping of its own, and with `idmap` or `ridmap` alone that of the container.
fn id_map(
    mount: &SpecMount,
    word: Option<bool>,
    is_bind: bool,
    path: Arguments<'_>,
    report: &mut Report,
) -> Option<MountIdMap> {
    let (uids, gids) = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
    let maps = idmap::compile(uids, gids, Of::Mount, &path, report);
    if maps.is_none() && word.is_none() {
        return None;
    }
    if !is_bind {
        let reason = "only a bind mount can be id-mapped: a new file system has the ids of the container";
        report.error(format_args!("{path}.options"), Problem::Conflict { reason });
    }
    Some(MountIdMap { maps, recursive: word == Some(true) })
}

/// The last word about a bit counts.
fn take(attributes: &mut Attributes, word: &Word) {
    match word {
        Word::Set(bit) => {
            attributes.set |= bit;
            attributes.clear &= !bit;
        }
        Word::Clear(bit) => {
            attributes.clear |= bit;
            attributes.set &= !bit;
        }
        Word::Atime(value) => {
            attributes.set = (attributes.set & !libc::MOUNT_ATTR__ATIME) | value;
            attributes.clear |= libc::MOUNT_ATTR__ATIME;
        }
        Word::Below(_)
        | Word::Propagation(..)
        | Word::Bind(_)
        | Word::SourceNoFollow
        | Word::Flag
        | Word::Nothing
        | Word::CopyUp
        | Word::IdMap(_) => {}
    }
}

#[derive(Default)]
struct Parsed {
    own: Attributes,
    noatime: bool,
    strictatime: bool,
    below: Attributes,
    propagation: Vec<Propagation>,
    bind: Option<bool>,
    nofollow: bool,
    copy_up: bool,
    idmap: Option<bool>,
    options: Vec<(String, Option<String>)>,
}

impl Parsed {
    fn take(&mut self, word: Word, option: &str) {
        match word {
            Word::Set(_) | Word::Clear(_) => take(&mut self.own, &word),
            Word::Atime(_) => self.atime(option),
            Word::Below(word) => take(&mut self.below, &word),
            Word::Propagation(kind, recursive) => self.propagation.push(Propagation { kind, recursive }),
            Word::Bind(recursive) => self.bind = Some(recursive || self.bind == Some(true)),
            Word::SourceNoFollow => self.nofollow = true,
            Word::Flag => self.options.push((option.to_owned(), None)),
            Word::Nothing => {}
            Word::CopyUp => self.copy_up = true,
            Word::IdMap(recursive) => self.idmap = Some(recursive),
        }
    }

    /// Each word has a flag of its own, and mount(2) makes one value of them: strict before none before relative, in whatever order they come.
    fn atime(&mut self, option: &str) {
        match option {
            "noatime" => self.noatime = true,
            "atime" => self.noatime = false,
            "strictatime" => self.strictatime = true,
            "nostrictatime" => self.strictatime = false,
            _ => {}
        }
        let value = match (self.strictatime, self.noatime) {
            (true, _) => libc::MOUNT_ATTR_STRICTATIME,
            (false, true) => libc::MOUNT_ATTR_NOATIME,
            (false, false) => libc::MOUNT_ATTR_RELATIME,
        };
        take(&mut self.own, &Word::Atime(value));
    }

    fn data(&mut self, option: &str) {
        for part in option.split(',').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((name, value)) => self.options.push((name.to_owned(), Some(value.to_owned()))),
                None => self.options.push((part.to_owned(), None)),
            }
        }
    }
}

fn target(mount: &SpecMount, path: Arguments<'_>, report: &mut Report) -> Option<String> {
    let destination = mount.destination();
    let text = destination.to_str().filter(|text| !text.is_empty() && !text.contains('\0'));
    let Some(text) = text else {
        report.error(format_args!("{path}.destination"), Problem::Missing { expected: "a path inside the container" });
        return None;
    };
    let clean = clean(text);
    if clean == "/" {
        let reason = "a mount may not cover the root of the container";
        report.error(format_args!("{path}.destination"), Problem::Conflict { reason });
        return None;
    }
    Some(clean)
}

fn bind_source(mount: &SpecMount, path: Arguments<'_>, bundle: &Path, report: &mut Report) -> Option<PathBuf> {
    match mount.source().as_ref().filter(|source| !source.as_os_str().is_empty()) {
        Some(source) => Some(bundle.join(source)),
        None => {
            report.error(format_args!("{path}.source"), Problem::Missing { expected: "the path to bind" });
            None
        }
    }
}

fn filesystem(
    mount: &SpecMount,
    fstype: &str,
    path: Arguments<'_>,
    options: Vec<(String, Option<String>)>,
    report: &mut Report,
) -> Option<MountSource> {
    if fstype.is_empty() || fstype == "none" {
        report.error(
            format_args!("{path}.type"),
            Problem::Missing { expected: "a file system, or bind among the options" },
        );
        return None;
    }
    let source = mount.source().as_ref().map_or_else(|| fstype.into(), |source| source.to_string_lossy().into_owned());
    Some(MountSource::Filesystem { fstype: fstype.to_owned(), source, options })
}

/// An absolute path inside, without `.` and `..`.
pub(super) fn clean(path: &str) -> String {
    let mut clean = String::with_capacity(path.len() + 1);
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => clean.truncate(clean.rfind('/').unwrap_or(0)),
            part => {
                clean.push('/');
                clean.push_str(part);
            }
        }
    }
    if clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// `linux.rootfsPropagation`.
pub(super) fn root_propagation(text: &str) -> Option<Propagation> {
    match word(text) {
        Some(Word::Propagation(kind, recursive)) => Some(Propagation { kind, recursive }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

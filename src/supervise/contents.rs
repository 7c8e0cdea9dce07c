//! Files whose contents are part of a unit: its env files, config files, secrets and the file of its system call filter, put into it as
//! they were found.
//!
//! | at the path | of a required file | of an optional env file |
//! |---|---|---|
//! | not looked at yet | the text is not judged yet | the same |
//! | a file | its contents, or the mistakes of an env file | the same |
//! | nothing | a mistake at the unit's line | no variables |
//! | a secret that others can read | a mistake at the unit's line | |
//! | something that may not or cannot be read | a mistake at the unit's line | the same |
//!
//! They are read as unit files are: settled, of at most 1 MiB, and from trusted owners.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use super::host;
use crate::compact;
use crate::unit::{
    ConfigFile, Diagnostic, FileContents, Layer, LayerKind, Parsed, Place, Seccomp, Unit, UnitName, Variables,
    parse_with,
};
use crate::watch::TEXT_MAX_BYTES;
use crate::watch::trusted::{FileKind, ReadError, Trust, TrustedFile, read_any, read_trusted};

/// Most bytes of all config files of one unit: they are in the supervisor's memory, and twice in the run-dir while they are swapped.
const CONFIGS_MAX_BYTES: usize = 4 << 20;

/// What a read of a file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileView {
    /// A file.
    Found {
        /// Its bytes.
        bytes: Arc<[u8]>,
        /// Others than its owner and root's group may read it.
        readable_by_others: bool,
    },
    /// Nothing is there, or the way there ends before.
    Missing(String),
    /// A directory is there. In words.
    Directory(String),
    /// It is there and not read. Why, with the cure.
    Refused(String),
}

impl FileView {
    /// From a read.
    pub fn of(read: Result<(Vec<u8>, bool), ReadError>) -> FileView {
        match read {
            Ok((bytes, readable_by_others)) => FileView::Found { bytes: bytes.into(), readable_by_others },
            Err(why @ (ReadError::Missing { .. } | ReadError::Dangling { .. })) => FileView::Missing(why.to_string()),
            Err(why @ ReadError::Kind { found: FileKind::Directory, .. }) => FileView::Directory(why.to_string()),
            Err(why) => FileView::Refused(why.to_string()),
        }
    }
}

impl FileView {
    /// What a secret from there is, if it may be one.
    pub fn as_secret(&self) -> Option<FileContents> {
        match self {
            FileView::Found { bytes, readable_by_others: false } => {
                Some(FileContents::secret(Arc::clone(bytes), salt()))
            }
            FileView::Found { .. } | FileView::Missing(_) | FileView::Directory(_) | FileView::Refused(_) => None,
        }
    }
}

/// Where texts name their files, in the unit's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Places {
    /// `env_file`.
    pub env_files: Vec<Place>,
    /// `source` of `[[config]]` and `[[secret]]`.
    pub configs: Vec<Place>,
    /// `security.seccomp`.
    pub seccomp: Option<Place>,
}

impl Places {
    /// Of a text that was parsed.
    pub fn of(parsed: &Parsed) -> Places {
        Places {
            env_files: parsed.env_files_at.clone(),
            configs: parsed.configs_at.clone(),
            seccomp: parsed.seccomp_at.clone(),
        }
    }
}

/// What files hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    variables: Variables,
    /// By target.
    configs: BTreeMap<String, FileContents>,
    seccomp: Option<FileContents>,
}

impl Found {
    /// As an earlier supervisor stored it.
    pub fn from_stored(variables: Option<BTreeMap<String, String>>, configs: Vec<(String, Vec<u8>)>) -> Found {
        let (seccomp, configs): (Vec<_>, Vec<_>) = configs.into_iter().partition(|(target, _)| target == SECCOMP_KEY);
        let configs = configs.into_iter().map(|(target, bytes)| (target, FileContents::new(bytes.into())));
        let seccomp = seccomp.into_iter().next().map(|(_, bytes)| FileContents::json(bytes.into()));
        Found {
            variables: Variables::from_stored(variables.unwrap_or_default()),
            configs: compact::map(configs),
            seccomp,
        }
    }
}

/// Under which name a filter's file is stored among the config files, whose targets are absolute paths.
const SECCOMP_KEY: &str = "security.seccomp";

/// What is stored of a unit's files besides its variables: of secrets nothing.
pub fn to_store(unit: &Unit) -> Vec<(String, Vec<u8>)> {
    let configs = unit.configs.iter().filter(|config| !config.secret);
    let configs = configs.filter_map(|config| Some((config.target.clone(), config.contents.as_ref()?)));
    let seccomp = unit.seccomp_file().and_then(|file| Some((SECCOMP_KEY.to_owned(), file.contents.as_ref()?)));
    configs.chain(seccomp).map(|(key, contents)| (key, contents.bytes().to_vec())).collect()
}

/// The paths of a unit's files.
pub fn paths(unit: &Unit) -> impl Iterator<Item = &Path> {
    let env_files = unit.process.env_files.iter().map(|file| file.path.as_path());
    let configs = unit.configs.iter().map(|file| file.source.as_path());
    env_files.chain(configs).chain(unit.seccomp_file().map(|file| file.path.as_path()))
}

/// What `look` finds of the files of `unit`. `None`: one of them is not looked at yet.
pub fn find<'v>(
    unit: &Unit,
    places: &Places,
    look: impl Fn(&Path) -> Option<&'v FileView>,
) -> Option<Result<Found, Vec<Diagnostic>>> {
    let mut errors = Vec::new();
    let mut error = |at: &Place, message: String, help: Option<&str>| {
        let (line, column) = (at.line, at.column);
        errors.push(Diagnostic { line, column, ..Diagnostic::of_file(&at.file, message, help) });
    };
    let mut env_files = Vec::new();
    for (env_file, at) in unit.process.env_files.iter().zip(&places.env_files) {
        match look(&env_file.path)? {
            FileView::Found { bytes, .. } => env_files.push((env_file.path.as_path(), bytes.as_ref())),
            FileView::Missing(_) if env_file.optional => {}
            FileView::Missing(why) => {
                error(at, format!("env_file: {why}"), Some("or put a - in front if it may be missing"));
            }
            FileView::Directory(why) | FileView::Refused(why) => error(at, format!("env_file: {why}"), None),
        }
    }
    const DIRECTORY: &str = "name its files one by one, or mount it with [[mount]]";
    let (mut configs, mut total) = (BTreeMap::new(), 0);
    for (config, at) in unit.configs.iter().zip(&places.configs) {
        match look(&config.source)? {
            FileView::Found { readable_by_others: true, .. } if config.secret => {
                let message = format!("secret: {} can be read by others", config.source.display());
                error(at, message, Some("chmod 0600 it, or 0640 for a group of root's"));
            }
            FileView::Found { bytes, .. } => {
                total += bytes.len();
                let contents = match config.secret {
                    true => FileContents::secret(Arc::clone(bytes), salt()),
                    false => FileContents::new(Arc::clone(bytes)),
                };
                configs.insert(config.target.clone(), contents);
                if total > CONFIGS_MAX_BYTES {
                    let message = format!("{}: with this one they have {total} bytes", config.key());
                    error(at, message, Some("expected at most 4194304 (4M) in all"));
                }
            }
            FileView::Directory(_) => {
                let message = format!("{}: {} is a directory, expected a file", config.key(), config.source.display());
                // What can be mounted can be read by others.
                let help = if config.secret { "name its files one by one" } else { DIRECTORY };
                error(at, message, Some(help));
            }
            FileView::Missing(why) | FileView::Refused(why) => {
                error(at, format!("{}: {why}", config.key()), None);
            }
        }
    }
    let mut seccomp = None;
    if let (Some(file), Some(at)) = (unit.seccomp_file(), &places.seccomp) {
        match look(&file.path)? {
            FileView::Found { bytes, .. } => seccomp = Some(FileContents::json(Arc::clone(bytes))),
            FileView::Missing(why) | FileView::Directory(why) | FileView::Refused(why) => {
                error(at, format!("seccomp: {why}"), None);
            }
        }
    }
    Some(match Variables::of_files(env_files) {
        Ok(variables) if errors.is_empty() => Ok(Found { variables, configs, seccomp }),
        Ok(_) => Err(errors),
        Err(more) => Err(errors.into_iter().chain(more).collect()),
    })
}

/// The texts at `file` and merged with it, parsed with what their files hold.
pub fn parse_found(name: &UnitName, file: &Path, layers: &[Layer], found: &Found) -> Result<Parsed, Vec<Diagnostic>> {
    let mut parsed = parse_with(host::names(name), layers, &found.variables)?;
    for config in &mut parsed.unit.configs {
        config.contents = found.configs.get(&config.target).cloned();
    }
    if let Some(Seccomp::File(filter)) = &mut parsed.unit.security.seccomp {
        (filter.contents, filter.kernel) = (found.seccomp.clone(), host::kernel());
        if filter.contents.is_none() {
            let message = format!("the contents of {filter} are not known");
            return Err(vec![Diagnostic::of_file(file, message, None)]);
        }
    }
    parsed.unit.share_files();
    // A secret is not stored: that of an earlier run is known when its file is read.
    let is_unknown = |config: &&ConfigFile| config.contents.is_none() && !config.secret;
    if let Some(unread) = parsed.unit.configs.iter().find(is_unknown) {
        let message = format!("the contents of {} are not known", unread.source.display());
        return Err(vec![Diagnostic::of_file(file, message, None)]);
    }
    Ok(parsed)
}

fn with_readers(file: TrustedFile) -> (Vec<u8>, bool) {
    (file.bytes, file.node.is_readable_by_others())
}

/// What is mixed into all that is stored or shown of secrets. One for each run-dir, so that the next supervisor compares with the same.
static SALT: OnceLock<[u8; 16]> = OnceLock::new();

/// Said once, before any secret is read. Who only checks files has none, and stores nothing.
pub fn set_salt(salt: [u8; 16]) {
    // The first one counts: there is one run-dir.
    let _ = SALT.set(salt);
}

fn salt() -> [u8; 16] {
    SALT.get().copied().unwrap_or_default()
}

/// Why this user may not read one of the files, if so.
pub fn denied(parsed: &Parsed) -> Option<String> {
    let read = |path: &Path| read_any(path, TEXT_MAX_BYTES).err();
    let is_denied = |why: &ReadError| matches!(why, ReadError::Open { errno, .. } if *errno == Errno::ACCESS);
    paths(&parsed.unit).filter_map(read).find(is_denied).map(|why| why.to_string())
}

/// Texts that were parsed without their files, parsed with them as they are now on disk; without `trust`, whoever owns them.
pub fn read(
    parsed: Parsed,
    name: &UnitName,
    layers: &[Layer],
    trust: Option<&Trust>,
) -> Result<Parsed, Vec<Diagnostic>> {
    let read = |path: &Path| match trust {
        Some(trust) => read_trusted(path, trust, TEXT_MAX_BYTES),
        None => read_any(path, TEXT_MAX_BYTES),
    };
    let views =
        compact::map(paths(&parsed.unit).map(|path| (path.to_owned(), FileView::of(read(path).map(with_readers)))));
    if views.is_empty() {
        return Ok(parsed);
    }
    let found = find(&parsed.unit, &Places::of(&parsed), |path| views.get(path));
    let main = layers.iter().find(|layer| layer.kind == LayerKind::Main);
    let file = main.map_or(Path::new(""), |layer| layer.file);
    parse_found(name, file, layers, &found.unwrap_or_else(|| Ok(Found::default()))?)
}

//! The env files of a unit: what was found at their paths, put together to its variables.
//!
//! | at the path | of a required file | of an optional one |
//! |---|---|---|
//! | not looked at yet | the text is not judged yet | the same |
//! | a file | its variables, or its mistakes | the same |
//! | nothing | a mistake at the unit's line | no variables |
//! | something that may not or cannot be read | a mistake at the unit's line | the same |
//!
//! Contents are read as unit files are: settled, of at most 1 MiB, and from trusted owners.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::unit::{Diagnostic, EnvFile, Parsed, UnitName, Variables, parse_with};
use crate::watch::TEXT_MAX_BYTES;
use crate::watch::trusted::{ReadError, Trust, read_any, read_trusted};

/// What a read of a file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileView {
    /// Its bytes.
    Found(Arc<[u8]>),
    /// Nothing is there, or the way there ends before.
    Missing(String),
    /// It is there and not read. Why, with the cure.
    Refused(String),
}

impl FileView {
    /// From a read.
    pub fn of(read: Result<Vec<u8>, ReadError>) -> FileView {
        match read {
            Ok(bytes) => FileView::Found(bytes.into()),
            Err(why @ (ReadError::Missing { .. } | ReadError::Dangling { .. })) => FileView::Missing(why.to_string()),
            Err(why) => FileView::Refused(why.to_string()),
        }
    }
}

/// The variables of the text at `file`, from what `look` finds; `places` are those of its env files in it. `None`: one of them is not
/// looked at yet.
pub fn variables<'v>(
    file: &Path,
    env_files: &[EnvFile],
    places: &[(u32, u32)],
    look: impl Fn(&Path) -> Option<&'v FileView>,
) -> Option<Result<Variables, Vec<Diagnostic>>> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for (env_file, (line, column)) in env_files.iter().zip(places) {
        let path = &env_file.path;
        let mut error = |why: &str, help: Option<&str>| {
            let diagnostic = Diagnostic::of_file(file, format!("env_file: {why}"), help);
            errors.push(Diagnostic { line: *line, column: *column, ..diagnostic });
        };
        match look(path)? {
            FileView::Found(bytes) => found.push((path.as_path(), bytes.as_ref())),
            FileView::Missing(_) if env_file.optional => {}
            FileView::Missing(why) => error(why, Some("or put a - in front if it may be missing")),
            FileView::Refused(why) => error(why, None),
        }
    }
    Some(match Variables::of_files(found) {
        Ok(variables) if errors.is_empty() => Ok(variables),
        Ok(_) => Err(errors),
        Err(more) => Err(errors.into_iter().chain(more).collect()),
    })
}

/// Why this user may not read one of the env files, if so.
pub fn denied(parsed: &Parsed) -> Option<String> {
    let read = |env_file: &EnvFile| read_any(&env_file.path, TEXT_MAX_BYTES).err();
    let is_denied = |why: &ReadError| matches!(why, ReadError::Open { errno, .. } if *errno == Errno::ACCESS);
    parsed.unit.process.env_files.iter().filter_map(read).find(is_denied).map(|why| why.to_string())
}

/// A text that was parsed without its env files, parsed with them as they are now on disk; without `trust`, whoever owns them.
pub fn read(
    parsed: Parsed,
    name: &UnitName,
    file: &Path,
    base: &Path,
    text: &str,
    trust: Option<&Trust>,
) -> Result<Parsed, Vec<Diagnostic>> {
    let env_files = &parsed.unit.process.env_files;
    if env_files.is_empty() {
        return Ok(parsed);
    }
    let read = |path: &Path| match trust {
        Some(trust) => read_trusted(path, trust, TEXT_MAX_BYTES),
        None => read_any(path, TEXT_MAX_BYTES),
    };
    let paths = env_files.iter().map(|env_file| env_file.path.as_path());
    let views: BTreeMap<&Path, FileView> =
        paths.map(|path| (path, FileView::of(read(path).map(|file| file.bytes)))).collect();
    let found = variables(file, env_files, &parsed.env_files_at, |path| views.get(path));
    let variables = found.unwrap_or_else(|| Ok(Variables::default()))?;
    parse_with(name, file, base, text, &variables)
}

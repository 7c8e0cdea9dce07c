//! `[process]`: what runs inside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::diagnostic::quote;
use super::filled::{Filled, From};
use super::variable::Given;
use super::walk::{Field, Table, Walk, scalar};
use super::{EnvFile, Process, Source, Variables, dependency};

/// The largest uid and gid: 2^32 - 1 is "no change" to the kernel (CVE-2024-40635 is what comes of wrapping).
const ID_MAX: u32 = u32::MAX - 1;

/// Env files of one unit: more is a mistake.
const ENV_FILES_MAX: usize = 64;

/// `env_file`, looked at before any string that may hold a variable: without it `${` means nothing.
pub(crate) fn env_files(walk: &mut Walk, top: &Table) -> Vec<EnvFile> {
    let Some(DeValue::Table(map)) = top.map.get("process").map(|value| value.get_ref()) else {
        walk.variables = Given::None;
        return Vec::new();
    };
    let table = Table { name: "process", span: 0..0, map };
    let mut files = Vec::new();
    for (item, _) in dependency::each_text(walk, table.field("env_file"), "a path") {
        let at = item.at().start;
        let Some((path, optional)) = env_file(walk, item) else { continue };
        walk.env_files_at.push(at);
        files.push(EnvFile { path, optional });
    }
    if let Some(field) = table.field("env_file").filter(|_| files.len() > ENV_FILES_MAX) {
        let message = format!("`process.env_file` has {} items, expected at most {ENV_FILES_MAX}", files.len());
        walk.error(&field.at(), message, None);
    }
    if files.is_empty() {
        walk.variables = Given::None;
    }
    files
}

/// One path; a leading `-` makes it optional, as in systemd.
fn env_file(walk: &mut Walk, item: Field) -> Option<(PathBuf, bool)> {
    let text = walk.text(&item, "a path")?;
    match text.strip_prefix('-') {
        None => walk.host_path(Some(item)).map(|path| (path, false)),
        Some(path) => walk.host_path_of(&item, path).map(|path| (path, true)),
    }
}

/// The table; `source_at` is where it is said that there is nothing to run.
pub(crate) fn process(
    walk: &mut Walk,
    top: &Table,
    source: Option<&Source>,
    source_at: Option<&Field>,
    env_files: Vec<EnvFile>,
) -> Process {
    let table = walk.table(top, "process", "process");
    let field = |key: &str| table.as_ref().and_then(|table| table.field(key));
    let args = match field("args") {
        Some(field) => args(walk, &field).map(|(args, from)| {
            if from != From::Unread {
                check_program(walk, top, source, &args, &field);
            }
            args
        }),
        // A key that is not one of ours was probably meant as `args`, and has its own message.
        None => default_args(
            walk,
            source,
            source_at.filter(|_| top.is_regular() && table.as_ref().is_none_or(Table::is_regular)),
        ),
    };
    Process {
        args,
        env: field("env").map(|field| env(walk, &field)).unwrap_or_default(),
        user: field("user").and_then(|field| user(walk, &field, source)),
        cwd: field("cwd").and_then(|field| cwd(walk, &field)),
        init: walk.boolean(field("init")).unwrap_or(false),
        terminal: walk.boolean(field("terminal")),
        env_files,
        variables: Variables::default(),
    }
}

fn cwd(walk: &mut Walk, field: &Field) -> Option<String> {
    let text = judged(walk, field, "an absolute path")?;
    walk.inside(field, &text)
}

/// A string with its variables; `None` also while these are not known, so that nothing is said of it.
fn judged(walk: &mut Walk, field: &Field, expected: &str) -> Option<String> {
    let Filled { text, from } = walk.filled(field, expected)?;
    if from == From::Variables {
        walk.hidden.insert(field.name.clone());
    }
    (from != From::Unread).then_some(text)
}

fn default_args(walk: &mut Walk, source: Option<&Source>, source_at: Option<&Field>) -> Option<Vec<String>> {
    match source? {
        Source::Bundle(_) => None,
        Source::Executable(path) => Some(vec![program_inside(path)?]),
        Source::Rootfs(_) | Source::Layers(_) => {
            let help = "write [process] and args = [\"/bin/web\"] below";
            let at = source_at?;
            let message = format!("nothing to run: a `{}` unit needs `args` in [process]", at.name);
            walk.absent(&at.key_span, &message, Some(help));
            None
        }
        Source::Host => {
            let help = "write [process] and args = [\"/usr/sbin/sshd\", \"-D\"]";
            walk.absent(
                &source_at?.key_span,
                "nothing to run: a unit of the host needs `args` in [process]",
                Some(help),
            );
            None
        }
    }
}

/// Where the executable stands in the root that is made around it.
pub(crate) fn program_inside(path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(|name| format!("/{name}"))
}

/// A program and its arguments, and whether the program's name can be judged.
pub(crate) fn args(walk: &mut Walk, field: &Field) -> Option<(Vec<String>, From)> {
    let filled = walk.texts(field)?;
    if filled.iter().any(|arg| arg.from == From::Variables) {
        walk.hidden.insert(field.name.clone());
    }
    let from = filled.first().map_or(From::Text, |first| first.from);
    let args: Vec<String> = filled.into_iter().map(|arg| arg.text).collect();
    if args.first().is_none_or(String::is_empty) {
        let message = format!("`{}` names no program, expected at least one non-empty string", field.name);
        walk.error(&field.at(), message, Some("args[0] is the program".to_owned()));
        return None;
    }
    Some((args, from))
}

/// In an `executable` unit nothing else is there to be run, unless a mount brings it.
fn check_program(walk: &mut Walk, top: &Table, source: Option<&Source>, args: &[String], field: &Field) {
    let Some(Source::Executable(path)) = source else { return };
    let (Some(program), Some(first)) = (program_inside(path), args.first()) else { return };
    if *first != program && top.field("mount").is_none() && top.field("oci").is_none() {
        let message =
            format!("`process.args` runs `{}`, but the container holds `{program}` alone", quote(&walk.hide(first)));
        let rest = if first.starts_with('-') { ", then its arguments" } else { "" };
        walk.error(&field.at(), message, Some(format!("write \"{program}\" first{rest}")));
    }
}

fn env(walk: &mut Walk, field: &Field) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let DeValue::Table(map) = field.value.get_ref() else {
        let help = field.value.get_ref().is_array().then(|| "write { NAME = \"value\" }".to_owned());
        walk.mismatch(field, "a table of names and values", help);
        return env;
    };
    for (key, value) in map.iter() {
        let item = Field { name: format!("{}.{}", field.name, quote(key.get_ref())), key_span: key.span(), value };
        if key.get_ref().is_empty() || key.get_ref().contains(['=', '\0']) {
            let message =
                format!("`{}` is not a variable's name, expected a non-empty one without `=` and NUL", item.name);
            walk.error(&key.span(), message, None);
            continue;
        }
        let text = match value.get_ref() {
            DeValue::String(_) => walk.filled(&item, "a string").map(|filled| {
                if filled.from == From::Variables {
                    walk.hidden.insert(format!("process.env.{}", key.get_ref()));
                }
                filled.text
            }),
            other => scalar(other).or_else(|| {
                walk.mismatch(&item, "a string, a number or a boolean", None);
                None
            }),
        };
        env.extend(text.map(|text| (key.get_ref().to_string(), text)));
    }
    env
}

fn user(walk: &mut Walk, field: &Field, source: Option<&Source>) -> Option<String> {
    const EXPECTED: &str = "a user like \"1000:1000\" or \"web\"";
    let text = judged(walk, field, EXPECTED)?;
    let mut parts = text.split(':');
    let (user, group) = (parts.next().unwrap_or(""), parts.next());
    if parts.next().is_some() || !is_id_or_name(user) || !group.is_none_or(is_id_or_name) {
        let help = text.split(':').any(is_huge).then(|| format!("numbers go up to {ID_MAX}"));
        walk.mismatch(field, EXPECTED, help);
        return None;
    }
    let unknown = |part: &str| !is_number(part) && !matches!(part, "root" | "nobody" | "nogroup");
    if matches!(source, Some(Source::Executable(_))) && (unknown(user) || group.is_some_and(unknown)) {
        let help = "write numbers: an `executable` unit knows only root and nobody by name";
        walk.mismatch(field, "numbers like \"1000:1000\"", Some(help.to_owned()));
        return None;
    }
    Some(text)
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

fn is_huge(part: &str) -> bool {
    is_number(part) && !part.parse::<u32>().is_ok_and(|id| id <= ID_MAX)
}

/// A number in range, or a name as useradd(8) allows it.
fn is_id_or_name(part: &str) -> bool {
    if is_number(part) {
        return !is_huge(part);
    }
    let first = part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first && part.len() <= 32 && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

//! The layers of the crate, kept by reading its source: who may use whom, that pure layers touch nothing, that `unsafe` stays in `sys`.

use std::path::{Path, PathBuf};

/// Below all others: each of them may use it.
const BASE: &str = "compact";

/// Layer, the layers it may use besides itself and the base. `cli` and `lib.rs` may use all.
const LAYERS: [(&str, &[&str]); 14] = [
    (BASE, &[]),
    ("words", &[]),
    ("config", &[]),
    ("unit", &["words", "config"]),
    ("plan", &["unit"]),
    ("oci", &["words", "config"]),
    ("sys", &[]),
    ("runtime", &["sys", "oci"]),
    ("keeper", &["sys", "runtime"]),
    ("watch", &["sys", "unit"]),
    ("store", &["sys", "unit", "plan", "oci"]),
    ("supervise", &["unit", "plan", "oci", "sys", "runtime", "keeper", "watch", "store", "control", "words"]),
    ("control", &["sys", "unit", "plan", "oci"]),
    ("anchor", &["keeper", "sys", "unit"]),
];

/// What is allowed beyond the table: one name, not the whole layer.
const EXCEPTIONS: [(&str, &str); 1] = [
    // What the command line was resolved to is one value, handed down.
    ("supervise", "cli::Settings"),
];

/// Layers whose functions take references and return values.
const PURE: [&str; 6] = [BASE, "words", "config", "unit", "plan", "oci"];

/// What a pure layer must not name: files, clocks, environment, processes, network, system calls, logging.
const IMPURE: [&str; 15] = [
    "std::fs",
    "std::env",
    "std::net",
    "std::process",
    "std::thread",
    "std::io::stdout",
    "std::io::stdin",
    "std::os::unix::net",
    "std::time::Instant",
    "std::time::SystemTime",
    "tracing",
    "rustix",
    "nix",
    "rand",
    "notify",
];

/// Macros that print: not in pure layers either.
const PRINTING: [&str; 5] = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];

struct Source {
    path: PathBuf,
    layer: String,
    /// Without comments, strings and test modules.
    code: String,
}

#[test]
fn each_layer_uses_only_those_below_it() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == source.layer) else { continue };
        for path in paths(&source.code) {
            let Some(used) = path.strip_prefix("crate::") else { continue };
            let layer = used.split("::").next().unwrap_or("");
            let known = LAYERS.iter().any(|(known, _)| *known == layer) || layer == "cli";
            let excepted = EXCEPTIONS.iter().any(|(who, what)| *who == source.layer && used == *what);
            if known && ![BASE, &source.layer].contains(&layer) && !allowed.contains(&layer) && !excepted {
                wrong.push(format!("{}: `{}` must not use {path}", source.path.display(), source.layer));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_layers_touch_nothing() {
    let mut wrong = Vec::new();
    for source in sources().filter(|source| PURE.contains(&source.layer.as_str())) {
        for path in paths(&source.code) {
            if IMPURE.iter().any(|bad| path == *bad || path.starts_with(&format!("{bad}::"))) {
                wrong.push(format!("{}: {path}", source.path.display()));
            }
        }
        wrong.extend(
            PRINTING
                .iter()
                .filter(|name| has_word(&source.code, name))
                .map(|name| format!("{}: {name}", source.path.display())),
        );
    }
    assert!(wrong.is_empty(), "a pure layer names\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_in_sys_alone() {
    let wrong: Vec<_> = sources()
        .filter(|source| source.layer != "sys" && has_word(&source.code, "unsafe"))
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "unsafe outside src/sys: {}", wrong.join(", "));
}

#[test]
fn every_folder_is_a_layer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(src).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let known = LAYERS.iter().any(|(layer, _)| *layer == name) || ["cli", "fuzzing"].contains(&name.as_str());
        assert!(known || !entry.file_type().unwrap().is_dir(), "src/{name} is not in the table of layers");
    }
}

#[test]
fn the_reader_of_source_sees_through_groups_comments_and_test_modules() {
    let code = strip(
        "use std::{env, time::{Duration, Instant}};\n// use crate::cli;\nlet x = crate::plan::f(\"std::fs \\\" unsafe\");\n\
         let c = '\"'; /* std::net */ let l: &'static str = r\"tracing\";\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\nuse crate::sys as s;\n",
    );
    let found = paths(&code);
    for path in ["std::env", "std::time::Duration", "std::time::Instant", "crate::plan::f", "crate::sys"] {
        assert!(found.iter().any(|f| f == path), "{path} in {found:?}");
    }
    for absent in ["crate::cli", "std::fs", "std::net", "tracing"] {
        assert!(!found.iter().any(|f| f.starts_with(absent)), "{absent} in {found:?}");
    }
    assert!(!has_word(&code, "unsafe"));
}

fn sources() -> impl Iterator<Item = Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    files.into_iter().map(move |path| {
        let inside = path.strip_prefix(&src).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
        let layer = first.trim_end_matches(".rs").to_owned();
        let code = strip(&std::fs::read_to_string(&path).unwrap());
        Source { path: inside.to_owned(), layer, code }
    })
}

/// Rust files that are not tests.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let test = stem == "tests" || stem == "testing" || stem.ends_with("_tests");
        if path.is_dir() && !test {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") && !test {
            files.push(path);
        }
    }
}

/// Removes comments, the contents of strings, and items under `#[cfg(test)]` (up to the brace or semicolon that ends them).
fn strip(text: &str) -> String {
    let plain = without_text(text);
    let mut code = String::new();
    let mut rest = plain.as_str();
    while let Some(at) = rest.find("#[cfg(test)]") {
        code.push_str(&rest[..at]);
        rest = after_item(&rest[at + "#[cfg(test)]".len()..]);
    }
    code + rest
}

fn after_item(text: &str) -> &str {
    let mut depth = 0u32;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return &text[at + 1..],
            '}' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

fn without_text(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut code = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        at += if rest.starts_with(&['/', '/']) {
            rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
        } else if rest.starts_with(&['/', '*']) {
            rest.windows(2).position(|w| w == ['*', '/']).map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest, code.chars().last()) {
            length
        } else if rest[0] == '"' {
            quoted(rest, '"')
        } else if rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
            quoted(rest, '\'')
        } else {
            code.push(rest[0]);
            1
        };
    }
    code
}

fn quoted(text: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// `r"…"` and `r#"…"#` with any number of hashes.
fn raw_string(text: &[char], before: Option<char>) -> Option<usize> {
    if text[0] != 'r' || before.is_some_and(|c| c.is_alphanumeric() || c == '_') && before != Some('b') {
        return None;
    }
    let hashes = text[1..].iter().take_while(|c| **c == '#').count();
    if text.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let start = hashes + 2;
    text[start..].windows(close.len()).position(|w| w == close).map(|end| start + end + close.len())
}

/// Every path that is written, groups of `use` written out.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    let word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(at) = rest.find(word) {
        let text = &rest[at..];
        let end = text.find(|c: char| !word(c) && c != ':').unwrap_or(text.len());
        let path = text[..end].trim_end_matches(':');
        rest = &text[end..];
        if text[..end].ends_with("::") && rest.starts_with('{') {
            let close = group_end(rest);
            group(path, &rest[1..close], &mut found);
            rest = &rest[close..];
        } else if path.contains("::") || text[..end].ends_with("::") || is_use(code, text) {
            found.push(path.to_owned());
        }
    }
    found
}

/// `use tracing;` names a crate without a `::`.
fn is_use(code: &str, text: &str) -> bool {
    code[..code.len() - text.len()].ends_with("use ")
}

fn group_end(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn group(prefix: &str, inside: &str, found: &mut Vec<String>) {
    let mut depth = 0;
    let parts = inside.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once("::{") {
            Some((path, inner)) => group(&format!("{prefix}::{path}"), inner.trim_end_matches('}'), found),
            None => {
                let path = part.split_whitespace().next().unwrap_or("");
                found.push(if path == "self" { prefix.to_owned() } else { format!("{prefix}::{path}") });
            }
        }
    }
}

fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let after = code[at + word.len()..].starts_with(part);
        !code[..at].ends_with(part) && (word.ends_with('!') || !after)
    })
}

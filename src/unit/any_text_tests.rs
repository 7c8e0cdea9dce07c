//! No text whatever makes the parser panic, and every answer stands in the text.

use std::path::Path;

use proptest::prelude::*;

use super::mistakes::read;
use super::{
    Effect, Layer, LayerKind, Names, Source, SourceFacts, Unit, UnitName, cat, changes, compile, container_fingerprint,
    fingerprint, parse_from, parse_layers,
};

/// DESIGN section 7's example, with what this version refuses.
const EXAMPLE: &str = include_str!("example.toml");

/// Every key that this version has.
const WHOLE: &str = include_str!("whole.toml");

/// Every answer stands in the text and on one line; without answers the unit compiles or says why not.
fn check(text: &str) {
    let errors = match read(text) {
        Err(errors) => errors,
        Ok(parsed) => {
            let config_json = (!parsed.unit.source.is_hardened()).then(|| b"{}"[..].into());
            let facts = SourceFacts { resolved: "/srv/web".into(), config_json, layers: Vec::new() };
            let compiled = compile(&parsed.unit, &facts);
            assert!(compiled.is_ok() || !parsed.unit.source.is_hardened(), "{compiled:?} of {text:?}");
            fingerprint(&parsed.unit, &facts);
            return;
        }
    };
    assert!(!errors.is_empty(), "{text:?}");
    for error in errors {
        let line = text.split('\n').nth(error.line as usize - 1).unwrap_or_else(|| panic!("{error} in {text:?}"));
        assert!(error.column >= 1 && error.column as usize <= line.chars().count() + 1, "{error} in {text:?}");
        assert!(!error.to_string().contains('\n'), "{error} in {text:?}");
    }
}

/// The same of a unit's text and a drop-in, either of which may be whole.
fn check_drop_in(main: &str, above: &str) {
    let layer =
        |kind, file, text| Layer { kind, file: Path::new(file), base: Path::new("/d"), text, is_template: false };
    let layers = [layer(LayerKind::Main, "web.toml", main), layer(LayerKind::DropIn, "10.toml", above)];
    let name = UnitName::new("web").unwrap();
    let errors = match parse_layers(Names::of(&name), &layers) {
        Err(errors) => errors,
        Ok(parsed) => {
            let merged = cat::cat(Names::of(&name), &layers).unwrap();
            let again = parse_from(&name, Path::new("one.toml"), Path::new("/e"), &merged.text);
            assert_eq!(again.map(|again| again.unit), Ok(parsed.unit), "{above:?} over {main:?} is {}", merged.text);
            return;
        }
    };
    assert!(!errors.is_empty(), "{above:?} over {main:?}");
    for error in errors {
        let text = if error.file == Path::new("web.toml") { main } else { above };
        let line = text.split('\n').nth(error.line as usize - 1).unwrap_or_else(|| panic!("{error} in {text:?}"));
        assert!(error.column >= 1 && error.column as usize <= line.chars().count() + 1, "{error} in {text:?}");
    }
}

#[test]
fn every_prefix_and_line_of_the_examples_as_a_drop_in_is_answered() {
    for end in (0..WHOLE.len()).filter(|end| WHOLE.is_char_boundary(*end)) {
        check_drop_in(WHOLE, &WHOLE[..end]);
    }
    for line in WHOLE.lines().chain(EXAMPLE.lines()) {
        check_drop_in(WHOLE, line);
        check_drop_in(line, WHOLE);
    }
}

#[test]
fn every_prefix_of_the_examples_is_answered() {
    for text in [EXAMPLE, WHOLE] {
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            check(&text[..end]);
        }
    }
}

#[test]
fn the_examples_without_or_with_twice_each_of_their_lines_are_answered() {
    for text in [EXAMPLE, WHOLE] {
        let lines: Vec<&str> = text.lines().collect();
        for n in 0..lines.len() {
            let mut without = lines.clone();
            without.remove(n);
            check(&without.join("\n"));
            let mut twice = lines.clone();
            twice.insert(n, lines[n]);
            check(&twice.join("\n"));
        }
    }
}

/// What a byte becomes; an empty one takes it out.
const BYTES: [&[u8]; 7] = [b"", b"\0", b"\xff", b"\n", b"\"", b"#", b"9"];

/// A unit that was made of one byte less or another one: the same value has the same fingerprints, another value another one, and what the
/// container is made from differs only if the container's fingerprint does.
#[test]
fn each_byte_of_the_whole_example_is_the_same_or_another_meaning() {
    let hidden = |mut spec: serde_json::Value| {
        // What can change live is written into the cgroup, and not part of the container's identity.
        let resources = spec.pointer_mut("/linux/resources").and_then(serde_json::Value::as_object_mut);
        resources
            .into_iter()
            .for_each(|resources| resources.retain(|key, _| !["memory", "cpu", "pids"].contains(&key.as_str())));
        spec
    };
    let facts = |unit: &Unit| SourceFacts {
        resolved: unit.source.path().to_owned(),
        config_json: None,
        layers: if let Source::Layers(layers) = &unit.source { layers.clone() } else { Vec::new() },
    };
    let made_from = |unit: &Unit| compile(unit, &facts(unit)).map(|compiled| hidden(compiled.raw)).unwrap_or_default();
    let prints = |unit: &Unit| (fingerprint(unit, &facts(unit)), container_fingerprint(unit, &facts(unit)));
    let original = read(WHOLE).unwrap().unit;
    let ((whole, container), spec) = (prints(&original), made_from(&original));
    let (mut valid, mut same, mut live) = (0, 0, 0);
    for at in 0..WHOLE.len() {
        for byte in BYTES {
            let mutant: Vec<u8> = [&WHOLE.as_bytes()[..at], byte, &WHOLE.as_bytes()[at + 1..]].concat();
            let Ok(text) = std::str::from_utf8(&mutant) else { continue };
            let Ok(unit) = read(text).map(|parsed| parsed.unit) else { continue };
            let new = prints(&unit);
            assert_eq!(unit == original, new.0 == whole, "byte {at} made {byte:?}");
            assert!(made_from(&unit) == spec || new.1 != container, "byte {at} made {byte:?}");
            let what = changes((&original, &facts(&original)), (&unit, &facts(&unit)));
            let replaced = what.iter().any(|change| change.effect == Effect::Replace);
            assert_eq!(replaced, new.1 != container, "byte {at} made {byte:?}");
            valid += 1;
            same += usize::from(unit == original);
            live += usize::from(unit != original && !replaced);
        }
    }
    assert!(same > 100 && live > 100 && valid - same - live > 100, "{valid} valid, {same} the same, {live} live");
}

/// Pieces that make TOML; random letters seldom do.
const PIECES: [&str; 41] = [
    "unset = [\"mount./data\"]",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    " = ",
    ".",
    ",",
    "\n",
    "\"",
    "'",
    "\"\"\"",
    "\\",
    "#",
    "-",
    "1",
    "0x",
    "1e9",
    "inf",
    "true",
    "1979-05-27",
    "rootfs",
    "executable",
    "process",
    "args",
    "env",
    "mount",
    "target",
    "oci",
    "linux",
    "limit",
    "x-y",
    "\"/a\"",
    "\"5s\"",
    "[process]",
    "[[mount]]",
    "\u{0}",
    "ä",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn pieces_of_toml_in_any_order_are_answered(pieces in proptest::collection::vec(0..PIECES.len(), 0..60)) {
        check(&pieces.iter().map(|n| PIECES[*n]).collect::<String>());
    }

    #[test]
    fn pieces_of_toml_as_a_drop_in_are_answered(pieces in proptest::collection::vec(0..PIECES.len(), 0..30)) {
        check_drop_in(WHOLE, &pieces.iter().map(|n| PIECES[*n]).collect::<String>());
    }

    #[test]
    fn any_path_to_unset_is_answered(path in "[a-z/.*\"]{0,30}|mount\\.[/a-z.]{0,9}|(process|oci|depends_on)\\.[a-z.]{0,9}") {
        check_drop_in(WHOLE, &format!("unset = [{}]", serde_json::Value::from(path)));
    }

    #[test]
    fn mutations_of_the_examples_are_answered(
        whole in any::<bool>(),
        edits in proptest::collection::vec((0..EXAMPLE.len(), 0..40usize, 0..PIECES.len()), 1..8),
    ) {
        let mut text = if whole { WHOLE } else { EXAMPLE }.to_owned();
        for (at, length, piece) in edits {
            let boundary = |text: &str, at: usize| (at.min(text.len())..=text.len()).find(|n| text.is_char_boundary(*n)).unwrap();
            let (start, end) = (boundary(&text, at), boundary(&text, at + length));
            text.replace_range(start..end, PIECES[piece]);
        }
        check(&text);
    }
}

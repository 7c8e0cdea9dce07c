//! Any bytes as the texts of a unit.

use std::path::Path;

use super::{
    Diagnostic, InitToml, Layer, LayerKind, Names, Source, SourceFacts, SpecText, Unit, UnitName, Variables, cat,
    changes, check_moored_toml, compile, container_fingerprint, fingerprint, parse_from, parse_init_toml, parse_layers,
    parse_with, text_of,
};
use crate::fuzzing::assert_plain;

/// Between the unit's own text, a drop-in, the defaults, and an env file. TOML has no such byte.
const NEXT: u8 = 0;
/// Of the bundle of those that have one.
const CONFIG: &str = r#"{"ociVersion": "1.3.0", "root": {"path": "rootfs"}, "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/",
    "args": ["/x"], "env": ["A=b"]}, "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}]}}"#;

/// The unit's own text, then a drop-in, the defaults of moored.toml, an env file, as far as there are such.
pub(crate) fn texts(bytes: &[u8]) -> Option<SpecText> {
    let mut parts = bytes.splitn(4, |byte| *byte == NEXT);
    let mut next = |file| parts.next().map(|part| text_of(Path::new(file), part));
    let [main, drop_in, defaults] = ["/u/web.toml", "/u/web.toml.d/10.toml", "/u/moored.toml"].map(&mut next);
    let main = read(main)?;
    let (drop_in, defaults) = (read(drop_in), read(defaults));
    let variables = parts.next().map(|part| Variables::of_files([(Path::new("/u/env"), part)]));
    let variables = variables.and_then(|found| found.map_err(|errors| stand_in(&errors, &[])).ok());
    let layer =
        |kind, file, text| Layer { kind, file: Path::new(file), base: Path::new("/u"), text, is_template: false };
    let mut layers: Vec<Layer> = Vec::new();
    layers.extend(defaults.map(|text| layer(LayerKind::Defaults, "/u/moored.toml", text)));
    layers.push(layer(LayerKind::Main, "/u/web.toml", main));
    layers.extend(drop_in.map(|text| layer(LayerKind::DropIn, "/u/web.toml.d/10.toml", text)));
    let name = UnitName::new("web").expect("a name");
    let names = Names::of(&name);
    let parsed = match &variables {
        Some(variables) => parse_with(names, &layers, variables),
        None => parse_layers(names, &layers),
    };
    other_files(main);
    match parsed {
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            stand_in(&errors, &layers);
            None
        }
        Ok(parsed) => {
            stand_in(&parsed.warnings, &layers);
            if defaults.is_none() && variables.is_none() {
                same_when_merged(names, &name, &layers, &parsed.unit);
            }
            compiled(&parsed.unit)
        }
    }
}

fn read(text: Option<Result<&str, Diagnostic>>) -> Option<&str> {
    text?.map_err(|error| assert_plain(&error.to_string())).ok()
}

/// Each is one line, and of a place that there is.
fn stand_in(errors: &[Diagnostic], layers: &[Layer]) {
    for error in errors {
        assert_plain(&error.to_string());
        let Some(layer) = layers.iter().find(|layer| layer.file == error.file) else { continue };
        let line = layer.text.split('\n').nth(error.line.saturating_sub(1) as usize);
        let line = line.unwrap_or_else(|| panic!("{error} is behind the end"));
        assert!(error.column as usize <= line.chars().count() + 1, "{error} is behind the end of its line");
    }
}

/// What its container is, and what tells it from another.
fn compiled(unit: &Unit) -> Option<SpecText> {
    let layers = if let Source::Layers(layers) = &unit.source { layers.clone() } else { Vec::new() };
    let config_json = (!unit.source.is_hardened()).then(|| CONFIG.as_bytes().into());
    let facts = SourceFacts { resolved: "/srv/web".into(), config_json, layers };
    fingerprint(unit, &facts);
    container_fingerprint(unit, &facts);
    assert!(changes((unit, &facts), (unit, &facts)).is_empty(), "it differs from itself");
    compile(unit, &facts).map_err(|errors| errors.iter().for_each(|error| assert_plain(&error.to_string()))).ok()
}

/// What `moored cat` shows is one text that means the same.
fn same_when_merged(names: Names, name: &UnitName, layers: &[Layer], unit: &Unit) {
    let merged = cat::cat(names, layers).expect("what is a unit can be merged");
    let again = parse_from(name, Path::new("/e/one.toml"), Path::new("/e"), &merged.text).map(|again| again.unit);
    assert_eq!(again.as_ref(), Ok(unit), "{}", merged.text);
}

/// Others that are TOML.
fn other_files(text: &str) {
    if let Err(errors) = check_moored_toml(Path::new("/u/moored.toml"), text) {
        stand_in(&errors, &[]);
    }
    let init: Result<InitToml, _> = parse_init_toml(Path::new("/u/init.toml"), text);
    if let Err(errors) = init {
        stand_in(&errors, &[]);
    }
}

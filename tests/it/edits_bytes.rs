//! Each byte of a running unit's file is mutated, one at a time (issue 3): the container keeps its pid whenever the result is invalid or means
//! the same, and gets another one when, and only when, its fingerprint differs. (Every byte of a file with every key, without containers:
//! `src/unit/any_text_tests.rs`.)

use std::path::Path;

use moored::unit::{self, Fingerprint, SourceFacts, UnitName};

use super::support::wait_for;
use super::world::{FOREVER, World};

/// What a byte becomes; `None` takes it out.
const MUTATIONS: [Option<u8>; 6] = [Some(0), Some(0xff), Some(b'\n'), Some(b'"'), Some(b'#'), None];

#[derive(Debug, PartialEq)]
enum Said {
    Invalid,
    Valid(Fingerprint),
}

/// What the text says of the container, with the root as the only source there is.
fn said(world: &World, bytes: &[u8]) -> Said {
    let (name, file) = (UnitName::new("web").unwrap(), world.units().join("web.toml"));
    let parsed = unit::text_of(&file, bytes).ok().and_then(|text| unit::parse(&name, &file, text).ok());
    let Some(unit) = parsed.map(|parsed| parsed.unit).filter(|unit| unit.source.path() == world.root) else {
        return Said::Invalid;
    };
    let facts = SourceFacts { resolved: world.root.clone(), config_json: None, layers: Vec::new() };
    Said::Valid(unit::container_fingerprint(&unit, &facts))
}

#[test]
fn a_container_keeps_its_pid_unless_a_byte_makes_it_another_one() {
    let Some(world) = World::start("bytes") else { return };
    let text = format!(
        "# web\nrootfs = \"../busybox-root\"\ndescription = \"d\"\nprocess.args = [\"/bin/sh\", \"-c\", \"{FOREVER}\"]\nstop.timeout = \"9s\"\n"
    );
    assert_eq!(Path::new("../busybox-root").file_name(), world.root.file_name());
    let write = |bytes: &[u8]| {
        let fresh = world.units().join(".web.new");
        std::fs::write(&fresh, bytes).unwrap();
        std::fs::rename(fresh, world.units().join("web.toml")).unwrap();
        world.says(&["sync", "web"]).0
    };
    assert_eq!(write(text.as_bytes()), 0);
    let original = said(&world, text.as_bytes());
    let mut web = world.running("web");
    let (mut invalid, mut same, mut other) = (0, 0, 0);
    for at in 0..text.len() {
        for mutation in MUTATIONS {
            let mut bytes = text.clone().into_bytes();
            bytes.splice(at..=at, mutation);
            let code = write(&bytes);
            let shown = || format!("byte {at} made {mutation:?}: {:?}", String::from_utf8_lossy(&bytes));
            match said(&world, &bytes) {
                Said::Invalid => {
                    assert_eq!(code, 1, "sync of what is not valid, {}", shown());
                    assert_eq!(world.running("web"), web, "not valid, {}", shown());
                    invalid += 1;
                }
                means if means == original => {
                    assert_eq!(code, 0, "sync of what means the same, {}", shown());
                    assert_eq!(world.running("web"), web, "means the same container, {}", shown());
                    same += 1;
                }
                Said::Valid(_) => {
                    // It may not even run: what counts is that the old one does not.
                    assert_ne!(code, 1, "sync of a valid text, {}", shown());
                    let row = world.find("web").unwrap();
                    assert_ne!(row["id"], web.id.as_str(), "means another container, {}", shown());
                    web.ended();
                    write(text.as_bytes());
                    web = world.running("web");
                    other += 1;
                }
            }
        }
    }
    println!("{} bytes: {invalid} not valid, {same} the same container, {other} another one", text.len());
    assert!(invalid > 100 && same > 50 && other > 50, "the text is a poor one: {invalid}, {same}, {other}");
    write(text.as_bytes());
    wait_for("no complaint", || (world.find("web")?["reason"] == "").then_some(()));
    assert_eq!(world.running("web"), web);
}

//! What `[[config]]` makes of a unit, and what a change of the contents asks for.

use std::path::Path;

use super::{
    Effect, FileContents, OnChange, SourceFacts, SwapMark, Unit, UnitName, changes, container_fingerprint, parse,
};

const HEAD: &str = "rootfs = \"/srv/web\"\n[process]\nargs = [\"/x\"]\n";

fn read(text: &str) -> Result<Unit, String> {
    let parsed = parse(&UnitName::new("web").unwrap(), Path::new("/units/web.toml"), &format!("{HEAD}{text}"));
    let lines = |errors: Vec<super::Diagnostic>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    parsed.map(|parsed| parsed.unit).map_err(lines)
}

/// Files `/a`, `/b`, `/c` with these contents, in this order: restart, reload, none.
fn unit(contents: [&str; 3]) -> Unit {
    let words = ["restart", "reload", "none"];
    let table =
        |(word, target)| format!("[[config]]\nsource = \"x\"\ntarget = \"/{target}\"\non_change = \"{word}\"\n");
    let mut unit = read(&words.into_iter().zip(["a", "b", "c"]).map(table).collect::<String>()).unwrap();
    for (file, contents) in unit.configs.iter_mut().zip(contents) {
        file.contents = Some(FileContents::new(contents.as_bytes().into()));
    }
    unit
}

fn facts() -> SourceFacts {
    SourceFacts { resolved: "/srv/web".into(), config_json: None, layers: Vec::new() }
}

#[test]
fn a_change_of_contents_asks_for_what_on_change_says() {
    let base = unit(["1", "1", "1"]);
    for (contents, name, effect) in [
        (["2", "1", "1"], "config./a.contents", Effect::Replace),
        (["1", "2", "1"], "config./b.contents", Effect::Reload),
        (["1", "1", "2"], "config./c.contents", Effect::Live),
    ] {
        let other = unit(contents);
        let found = changes((&base, &facts()), (&other, &facts()));
        let found: Vec<_> = found.iter().map(|change| (change.name.as_str(), change.effect, change.hidden)).collect();
        assert_eq!(found, [(name, effect, true)]);
        let same = container_fingerprint(&base, &facts()) == container_fingerprint(&other, &facts());
        assert_eq!(same, effect != Effect::Replace);
        let (old, new) = (SwapMark::of(&base).unwrap(), SwapMark::of(&other).unwrap());
        assert_eq!(old.all == new.all, effect == Effect::Replace);
        assert_eq!(old.reload == new.reload, effect != Effect::Reload);
    }
    assert_eq!(SwapMark::of(&base), SwapMark::of(&unit(["1", "1", "1"])));
    assert_eq!(SwapMark::of(&read("").unwrap()), None);
}

#[test]
fn a_file_that_moves_between_effects_asks_for_the_stronger() {
    let (restart, mut reload) = (unit(["1", "1", "1"]), unit(["1", "1", "1"]));
    reload.configs[0].on_change = OnChange::Reload;
    for (old, new) in [(&restart, &reload), (&reload, &restart)] {
        let found = changes((old, &facts()), (new, &facts()));
        assert!(found.iter().any(|change| change.effect == Effect::Replace), "{found:?}");
        assert!(!found.iter().any(|change| change.new.as_deref() == Some("(changed, not shown)")), "{found:?}");
    }
}

#[test]
fn mistakes_have_their_places() {
    let text = "[[mount]]\ntype = \"tmpfs\"\ntarget = \"/d\"\n[[config]]\nsource = \"a\"\ntarget = \"b\"\n\
                [[config]]\ntarget = \"/b\"\non_change = \"hup\"\n[[config]]\nsource = \"a\"\ntarget = \"/d/\"\n\
                [[config]]\nsource = \"a\"\ntarget = \"/e\"\n[[config]]\nsource = \"a\"\ntarget = \"/e\"\nmode = 7\n\
                [[config]]\nsource = \"a\"\ntarget = \"/dev/moored/x\"\n";
    let found = read(text).unwrap_err();
    let expected = [
        "/units/web.toml:9:10 `config.target` is the string \"b\", expected an absolute path inside the container, write \"/b\"",
        "/units/web.toml:10:1 [[config]] without `source`, it is the file outside",
        "/units/web.toml:12:13 `config.on_change` is the string \"hup\", expected \"restart\", \"reload\" or \"none\"",
        "/units/web.toml:15:10 `config.target` \"/d\" is taken by a [[mount]], one for each target",
        "/units/web.toml:21:10 `config.target` \"/e\" is taken by the [[config]] of line 17, one for each target",
        "/units/web.toml:22:8 `config.mode` is the integer 7, expected permissions like \"0640\"",
        "/units/web.toml:25:10 `config.target` is the string \"/dev/moored/x\", expected another target, the contents of [[config]] are there",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_secret_is_compared_apart_from_the_fingerprint_and_with_a_salt() {
    let secret = |contents: Option<&str>, salt: u8| {
        let mut unit = read("[[secret]]\nsource = \"key\"\ntarget = \"/tls/key\"\n").unwrap();
        unit.configs[0].contents = contents.map(|text| FileContents::secret(text.as_bytes().into(), [salt; 16]));
        unit
    };
    let (old, new, unknown) = (secret(Some("hunter2"), 1), secret(Some("hunter3"), 1), secret(None, 1));
    for other in [&new, &unknown] {
        assert_eq!(container_fingerprint(&old, &facts()), container_fingerprint(other, &facts()));
    }
    let restart = |unit: &Unit| SwapMark::of(unit).map(|mark| mark.restart);
    assert!(restart(&old) != restart(&new) && restart(&unknown).is_none());
    assert_eq!(SwapMark::of(&old).unwrap().all, SwapMark::of(&new).unwrap().all);
    assert_ne!(restart(&old), restart(&secret(Some("hunter2"), 2)), "another salt");
    let found = changes((&old, &facts()), (&new, &facts()));
    assert_eq!(
        (found.len(), found[0].name.as_str(), found[0].effect),
        (1, "secret./tls/key.contents", Effect::Replace)
    );
    assert!(!format!("{found:?} {old:?}").contains("hunter"));
}

#[test]
fn permissions_are_octal_in_a_string() {
    let table = |kind: &str, mode: &str| format!("[[{kind}]]\nsource = \"x\"\ntarget = \"/a\"\nmode = {mode}\n");
    let mode = |kind, text| read(&table(kind, text)).map(|unit| unit.configs[0].mode());
    for (kind, text, expected) in
        [("config", "\"0640\"", 0o640), ("config", "\"755\"", 0o755), ("secret", "\"0440\"", 0o440)]
    {
        assert_eq!(mode(kind, text), Ok(expected));
    }
    for (kind, text, expected) in [
        ("config", "640", "is the integer 640, expected permissions like \"0640\", write \"0640\""),
        ("config", "0o640", "expected permissions like \"0640\""),
        ("config", "\"0980\"", "is the string \"0980\", expected permissions"),
        ("config", "\"4755\"", "is the string \"4755\", expected permissions"),
        ("config", "\"u=rw\"", "is the string \"u=rw\", expected permissions"),
        ("config", "\"\"", "expected permissions"),
        ("secret", "\"0444\"", "expected permissions without any for others, a secret is the process's own"),
    ] {
        let error = mode(kind, text).unwrap_err();
        assert!(error.contains(expected) && error.contains(":7:8 "), "{text}: {error}");
    }
    let (plain, other) = (unit(["1", "1", "1"]), unit(["1", "1", "1"]));
    let mut other = other;
    other.configs[1].mode = Some(0o640);
    let found = changes((&plain, &facts()), (&other, &facts()));
    assert_eq!((found[0].name.as_str(), found[0].effect), ("config./b.mode", Effect::Replace));
    assert_ne!(container_fingerprint(&plain, &facts()), container_fingerprint(&other, &facts()));
}

//! `instances`: the units that a template declares by itself, as a link to it for each would.
//!
//! ```toml
//! instances = ["a", "b"]     # in worker@.toml: the units worker@a and worker@b
//! ```
//!
//! The list belongs to the template's own text and to no instance: it is no setting of a unit, so that a change of it changes none that
//! stays. It may also be read through a link `worker@a.toml`, which shows the template's text; anywhere else it is a mistake.
//! A name is listed once, and is what may stand behind an `@`.

use std::collections::BTreeSet;
use std::path::Path;

use super::diagnostic::{Diagnostic, quote};
use super::entry::template_sample;
use super::layer::{Layer, LayerKind};
use super::specifier::Names;
use super::variable::Given;
use super::walk::{Field, Table, Walk};
use super::{UnitName, parse, sections};

/// What an instance may be called.
const EXPECTED: &str = "an instance's name: 1 to 64 of A-Z a-z 0-9 _ - beginning with a letter or digit";

/// The units that the text of a template declares, sorted; or all that is wrong with the text as far as it can be told without its drop-ins
/// and for no certain instance. None of a file that is no template.
pub fn instances_of(file: &Path, text: &str) -> Result<BTreeSet<UnitName>, Vec<Diagnostic>> {
    let Some(sample) = file.file_name().and_then(template_sample) else { return Ok(BTreeSet::new()) };
    let base = file.parent().unwrap_or(Path::new("/"));
    let layer = Layer { kind: LayerKind::Main, file, base, text, is_template: true };
    parse::with_document(Names::of(&sample), &[layer], Given::Unread, |walk, document, syntax| {
        let top = walk.checked(Table { name: "", span: 0..0, map: document });
        sections::unit(walk, &sample, &top);
        // A drop-in may say the rest.
        walk.absent.clear();
        match parse::mistakes(walk, syntax) {
            errors if errors.is_empty() => Ok(std::mem::take(&mut walk.instances)),
            errors => Err(errors),
        }
    })
}

/// Notes the units that are listed, and whether the list may stand where it does.
pub(crate) fn instances(walk: &mut Walk, name: &UnitName, top: &Table) {
    let Some(field) = top.field("instances") else { return };
    let (kind, is_template) = walk
        .places
        .text_at(field.key_span.start)
        .map_or((LayerKind::Main, false), |placed| (placed.layer.kind, placed.layer.is_template));
    match (kind, is_template) {
        (LayerKind::DropIn, _) => {
            let message = "`instances` in a drop-in, expected in the template itself";
            let help = "write it into NAME@.toml, or link NAME@INSTANCE.toml to that for each one more";
            return walk.error(&field.key_span, message, Some(help.to_owned()));
        }
        (LayerKind::Main | LayerKind::Defaults, false) => {
            let message = "`instances` in a file that is no template, expected in one that is named NAME@.toml";
            let help = format!("rename it to {}@.toml", name.prefix());
            return walk.error(&field.key_span, message, Some(help));
        }
        (LayerKind::Main | LayerKind::Defaults, true) => {}
    }
    let prefix = name.prefix();
    for (n, value) in walk.items(&field).unwrap_or_default().into_iter().enumerate() {
        let item = Field { name: format!("instances[{n}]"), value, ..field.clone() };
        let Some(word) = walk.word(&item, EXPECTED) else { continue };
        match UnitName::new(&format!("{prefix}@{word}")) {
            Err(_) => {
                let whole = word.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('@'));
                let help = whole.filter(|rest| UnitName::new(rest).is_ok());
                walk.mismatch(&item, EXPECTED, help.map(|rest| format!("did you mean \"{}\"?", quote(rest))));
            }
            Ok(unit) => {
                if !walk.instances.insert(unit) {
                    let message = format!("`instances` names \"{}\" twice", quote(word));
                    walk.error(&item.at(), message, Some("keep one of them".to_owned()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{cat, mistakes_of_part, parse_layers};

    const BASE: &str = "rootfs = \"/r\"\nprocess.args = [\"/a\", \"%i\"]\n";

    fn list(text: &str) -> Result<Vec<String>, Vec<String>> {
        let listed = instances_of(Path::new("/u/worker@.toml"), text);
        let lines = |errors: Vec<Diagnostic>| errors.iter().map(ToString::to_string).collect();
        listed.map(|names| names.iter().map(ToString::to_string).collect()).map_err(lines)
    }

    #[test]
    fn a_template_declares_those_that_it_lists() {
        assert_eq!(list(&format!("instances = [\"b\", \"a-1\"]\n{BASE}")).unwrap(), ["worker@a-1", "worker@b"]);
        assert_eq!(list(&format!("instances = []\n{BASE}")), Ok(Vec::new()));
        assert_eq!(list(BASE), Ok(Vec::new()));
        assert_eq!(list("instances = [\"a\"]\n").unwrap(), ["worker@a"], "a drop-in may name the source");
    }

    #[test]
    fn what_is_wrong_with_the_list_or_the_rest_has_its_place() {
        let text = "instances = [\"a\", \"b c\", 3, \"a\", \"worker@d\", \"\", \"%i\"]\nrootfs = 1\n";
        let errors = list(text).unwrap_err();
        let expected = [
            "1:19 `instances[1]` is the string \"b c\", expected an instance's name",
            "1:26 `instances[2]` is the integer 3, expected an instance's name",
            "1:29 `instances` names \"a\" twice, keep one of them",
            "1:34 `instances[4]` is the string \"worker@d\", expected an instance's name",
            "1:46 `instances[5]` is the string \"\", expected an instance's name",
            "1:50 `instances[6]` is the string \"%i\", expected an instance's name",
            "2:10 `rootfs` is the integer 1, expected",
        ];
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with(&format!("/u/worker@.toml:{expected}")), "{error}");
        }
        assert_eq!(errors.len(), expected.len(), "{errors:?}");
        assert!(errors[3].ends_with("did you mean \"d\"?"), "{errors:?}");
        assert!(list("instances = \"a\"\n").unwrap_err()[0].ends_with("expected an array of strings, write [\"a\"]"));
    }

    #[test]
    fn it_stands_in_templates_alone_and_is_no_setting() {
        let name = UnitName::new("worker@a").unwrap();
        let text = format!("instances = [\"a\"]\n{BASE}");
        let layer = |kind, file: &'static str, text, is_template| Layer {
            kind,
            file: Path::new(file),
            base: Path::new("/u"),
            text,
            is_template,
        };
        let link = layer(LayerKind::Main, "/u/worker@a.toml", text.as_str(), true);
        let own = Layer { is_template: false, ..link };
        let parsed = parse_layers(Names::of(&name), &[link]).unwrap();
        let plain = layer(LayerKind::Main, "/u/worker@a.toml", BASE, false);
        assert_eq!(parsed.unit, parse_layers(Names::of(&name), &[plain]).unwrap().unit);
        assert!(!cat::cat(Names::of(&name), &[link]).unwrap().text.contains("instances"));
        let error = parse_layers(Names::of(&name), &[own]).unwrap_err().remove(0).to_string();
        assert!(error.starts_with("/u/worker@a.toml:1:1 `instances` in a file that is no template"), "{error}");
        let above = layer(LayerKind::DropIn, "/u/worker@.toml.d/1.toml", "instances = [\"b\"]\n", false);
        let error = parse_layers(Names::of(&name), &[link, above]).unwrap_err().remove(0).to_string();
        assert!(error.starts_with("/u/worker@.toml.d/1.toml:1:1 `instances` in a drop-in"), "{error}");
        assert_eq!(mistakes_of_part(Names::of(&name), &[above]).len(), 1);
        let above = Layer { text: "unset = [\"instances\"]\n", ..above };
        let error = parse_layers(Names::of(&name), &[link, above]).unwrap_err().remove(0).to_string();
        assert!(error.starts_with("/u/worker@.toml.d/1.toml:1:10 `unset` names `instances`"), "{error}");
    }
}

//! `replicas`: one file for several containers of one kind, told apart by a number.
//!
//! ```toml
//! replicas = 3     # in web.toml: the units web@1, web@2 and web@3, and no container `web`
//! ```
//!
//! They share one naming with the instances of a template, and one text: it is in force, on trial and rolled back for all of them at once, and its
//! number is no setting of any of them, so that a change of it starts and stops replicas and touches none that stays. `%i` is a replica's number, `%n` is
//! `web@1`.
//!
//! - The text is parsed once for all of them if it does not say otherwise by a specifier; else once for each.
//! - What the supervisor reads on the host for a unit (its source, env files, config files, secrets) and its sockets are common to all replicas:
//!   a specifier that makes another one of each is a mistake. A template's instances are for that.
//! - A file `web@2.toml` of any directory comes before: it is a unit of its own, or masks that replica.

use std::path::Path;
use std::sync::Arc;

use super::layer::{Layer, LayerKind};
use super::parse::Parsed;
use super::walk::{Table, Walk};
use super::{Diagnostic, Place, Unit, UnitName};

/// Most replicas of one unit.
pub const REPLICAS_MAX: u32 = 1000;

/// What a unit says of its replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct Replicas {
    /// How many there are.
    pub count: u32,
    /// Each has the host name that its own name makes.
    pub own_host_names: bool,
    /// The unit of each number, from 1 on, and of the number 2 in any case; empty: the same for all but for name and host name.
    pub each: Vec<Arc<Unit>>,
}

/// The name of the replica of this number.
pub fn replica_name(unit: &UnitName, number: u32) -> UnitName {
    // A prefix with a number behind its `@` is a name.
    UnitName::new(&format!("{}@{number}", unit.prefix())).unwrap_or_else(|_| unit.clone())
}

/// The number of a name that a replica may have.
pub fn replica_number(name: &UnitName) -> Option<u32> {
    let text = name.instance()?;
    let number: u32 = text.parse().ok().filter(|number| (1..=REPLICAS_MAX).contains(number))?;
    (number.to_string() == text).then_some(number)
}

impl Unit {
    /// The unit that its file declares: for a replica the one that it is a replica of.
    pub fn declared(&self) -> UnitName {
        match &self.replicas {
            Some(_) => UnitName::new(self.name.prefix()).unwrap_or_else(|_| self.name.clone()),
            None => self.name.clone(),
        }
    }

    /// Of a unit with replicas that of this number, as far as it is another one. Its name is that of all.
    pub fn of_number(self: &Arc<Unit>, number: u32) -> Arc<Unit> {
        let each = self.replicas.as_ref().map(|replicas| replicas.each.as_slice()).unwrap_or_default();
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        index.and_then(|index| each.get(index)).cloned().unwrap_or_else(|| Arc::clone(self))
    }

    /// What a container of this name is made from: the same, or the replica of that name.
    pub fn named(self: &Arc<Unit>, name: &UnitName) -> Arc<Unit> {
        match (&self.replicas, replica_number(name)) {
            (Some(all), Some(number)) if self.name != *name && self.name.as_str() == name.prefix() => {
                let mut unit = Unit::clone(&self.of_number(number));
                if all.own_host_names {
                    unit.hostname = Some(host_name(name));
                }
                unit.name = name.clone();
                unit.replicas = Some(Replicas { each: Vec::new(), ..*all });
                Arc::new(unit)
            }
            (_, _) => Arc::clone(self),
        }
    }

    /// After a change of what was read of its files: they are common to all replicas.
    pub fn share_files(&mut self) {
        let Some(replicas) = &mut self.replicas else { return };
        for other in &mut replicas.each {
            let other = Arc::make_mut(other);
            other.process.variables = self.process.variables.clone();
            other.security.seccomp = self.security.seccomp.clone();
            for (own, config) in other.configs.iter_mut().zip(&self.configs) {
                own.contents = config.contents.clone();
            }
        }
    }
}

/// A host name has no `@`.
pub(crate) fn host_name(name: &UnitName) -> String {
    name.as_str().replace('@', "-")
}

/// Whether one of these texts may say `replicas`: then it is read as that of a replica.
pub(crate) fn may_be_said(layers: &[Layer]) -> bool {
    layers.iter().any(|layer| layer.text.contains("replicas"))
}

/// How many there are, and whether that may be said where it is. `of_replica`: the text is being read as that of a replica.
pub(crate) fn replicas(walk: &mut Walk, top: &Table, of_replica: bool) -> Option<Replicas> {
    let field = top.field("replicas")?;
    let placed = walk.places.text_at(field.key_span.start);
    let (kind, is_template) =
        placed.map_or((LayerKind::Main, false), |placed| (placed.layer.kind, placed.layer.is_template));
    if kind == LayerKind::Defaults {
        let help = Some("write it into the unit's own file".to_owned());
        walk.error(&field.key_span, "`replicas` in the defaults, which are those of all units", help);
        return None;
    }
    if is_template || !of_replica {
        let message = "`replicas` in a file with an `@` in its name, expected in one like web.toml";
        let help = "a template lists its units: instances = [\"1\", \"2\"]";
        walk.error(&field.key_span, message, Some(help.to_owned()));
        return None;
    }
    let count = walk.integer(Some(field), 0..=u64::from(REPLICAS_MAX))?;
    Some(Replicas { count: u32::try_from(count).ok()?, own_host_names: false, each: Vec::new() })
}

/// One unit of a text that says `replicas`, from what was `parsed` for the number 1 and is for others.
pub(crate) fn together(
    unit: &UnitName,
    mut parsed: Parsed,
    parse: impl Fn(&UnitName) -> Result<Parsed, Vec<Diagnostic>>,
) -> Result<Parsed, Vec<Diagnostic>> {
    let Some(count) = parsed.unit.replicas.as_ref().map(|replicas| replicas.count) else { return Ok(parsed) };
    let (first, second) = (replica_name(unit, 1), replica_name(unit, 2));
    let mut other = parse(&second)?;
    common(&parsed, &other)?;
    let is_own = |parsed: &Parsed, name: &UnitName| parsed.unit.hostname.as_deref() == Some(&host_name(name));
    let own_host_names = is_own(&parsed, &first) && is_own(&other, &second);
    let plain = |parsed: &mut Parsed| {
        parsed.unit.name = unit.clone();
        parsed.unit.replicas = Some(Replicas { count, own_host_names, each: Vec::new() });
        if own_host_names {
            parsed.unit.hostname = Some(host_name(unit));
        }
    };
    plain(&mut parsed);
    plain(&mut other);
    if parsed.unit == other.unit {
        return Ok(parsed);
    }
    let mut each = vec![Arc::new(parsed.unit.clone()), Arc::new(other.unit)];
    for number in 3..=count {
        let mut other = parse(&replica_name(unit, number))?;
        plain(&mut other);
        each.push(Arc::new(other.unit));
    }
    parsed.unit.replicas = Some(Replicas { count, own_host_names, each });
    Ok(parsed)
}

/// Checks that two replicas have in common what is there once.
fn common(one: &Parsed, two: &Parsed) -> Result<(), Vec<Diagnostic>> {
    let differs = |at: &Place, what: &str, help: &str| {
        let message = format!("{what} of each replica is another one, expected the same for all of them");
        let found = Diagnostic::of_file(&at.file, message, Some(help));
        Err(vec![Diagnostic { line: at.line, column: at.column, ..found }])
    };
    const TEMPLATE: &str = "write a template with `instances`: these are units of their own";
    if one.unit.source != two.unit.source {
        return differs(&one.source_at, "the source", TEMPLATE);
    }
    let env_file = |parsed: &Parsed, n: usize| parsed.unit.process.env_files.get(n).map(|file| file.path.clone());
    for (n, at) in one.env_files_at.iter().enumerate() {
        if env_file(one, n) != env_file(two, n) {
            return differs(at, "this env file", TEMPLATE);
        }
    }
    let source = |parsed: &Parsed, n: usize| parsed.unit.configs.get(n).map(|file| file.source.clone());
    for (n, at) in one.configs_at.iter().enumerate() {
        if source(one, n).as_deref().map(Path::to_owned) != source(two, n) {
            return differs(at, "this file", TEMPLATE);
        }
    }
    let listen = |parsed: &Parsed, n: usize| parsed.unit.sockets.get(n).cloned();
    for (n, at) in one.sockets_at.iter().enumerate() {
        if listen(one, n) != listen(two, n) {
            return differs(at, "this socket", TEMPLATE);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{SourceFacts, container_fingerprint, fingerprint, parse};

    const BASE: &str = "rootfs = \"/r\"\nprocess.args = [\"/a\"]\n";

    fn read(text: &str) -> Result<Arc<Unit>, Vec<String>> {
        let parsed = parse(&UnitName::new("web").unwrap(), Path::new("/u/web.toml"), text);
        parsed.map(|parsed| Arc::new(parsed.unit)).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    fn name(text: &str) -> UnitName {
        UnitName::new(text).unwrap()
    }

    #[test]
    fn one_unit_stands_for_all_and_each_has_its_name() {
        let unit = read(&format!("replicas = 300\n{BASE}")).unwrap();
        assert_eq!((unit.name.as_str(), unit.hostname.as_deref()), ("web", Some("web")));
        let replicas = unit.replicas.as_ref().unwrap();
        assert!(replicas.count == 300 && replicas.each.is_empty(), "one unit is shared");
        assert!(Arc::ptr_eq(&unit.of_number(7), &unit));
        let seventh = unit.named(&name("web@7"));
        assert_eq!((seventh.name.as_str(), seventh.hostname.as_deref()), ("web@7", Some("web-7")));
        assert_eq!(seventh.declared(), unit.name);
        assert!(Arc::ptr_eq(&unit.named(&name("web")), &unit) && Arc::ptr_eq(&unit.named(&name("api@1")), &unit));
        assert_eq!(read(BASE).unwrap().declared().as_str(), "web");
    }

    #[test]
    fn specifiers_are_the_numbers_own() {
        let text = "replicas = 2\nrootfs = \"/r\"\nhostname = \"h%i\"\nprocess.args = [\"/a\", \"%i of %p\", \"%n\"]\n";
        let unit = read(text).unwrap();
        for number in [1, 2] {
            let replica = unit.named(&name(&format!("web@{number}")));
            let expected = ["/a".to_owned(), format!("{number} of web"), format!("web@{number}")];
            assert_eq!(replica.process.args.as_deref().unwrap(), expected);
            assert_eq!(replica.hostname, Some(format!("h{number}")));
        }
        // One more than there is, as a replica that is about to go: it is not made from another text.
        assert_eq!(unit.named(&name("web@9")).process.args, unit.process.args);
    }

    #[test]
    fn the_number_changes_no_container_and_what_differs_by_number_does() {
        let facts = SourceFacts { resolved: "/r".into(), config_json: None, layers: Vec::new() };
        let prints = |text: &str| {
            let unit = read(text).unwrap();
            (container_fingerprint(&unit, &facts), fingerprint(&unit, &facts))
        };
        let (two, three) = (prints(&format!("replicas = 2\n{BASE}")), prints(&format!("replicas = 3\n{BASE}")));
        assert!(two.0 == three.0 && two.1 != three.1);
        let of = |count: u32, arg: &str| {
            prints(&format!("replicas = {count}\nrootfs = \"/r\"\nprocess.args = [\"/a\", \"{arg}\"]\n"))
        };
        assert_eq!(of(1, "%i").0, of(5, "%i").0);
        assert_ne!(of(2, "%i").0, of(2, "1").0, "the first one is the same, the others are not");
    }

    #[test]
    fn mistakes_have_their_place() {
        let template = "write a template with `instances`: these are units of their own";
        for (text, expected) in [
            (
                "replicas = 1001\n",
                "1:12 `replicas` is the integer 1001, expected a whole number from 0 to 1000".to_owned(),
            ),
            ("replicas = -1\n", "1:12 `replicas` is the integer -1, expected a whole number from 0 to 1000".to_owned()),
            ("replicas = \"3\"\n", "1:12 `replicas` is the string \"3\", expected".to_owned()),
        ] {
            let errors = read(&format!("{text}{BASE}")).unwrap_err();
            assert!(errors[0].starts_with(&format!("/u/web.toml:{expected}")), "{errors:?}");
            assert_eq!(errors.len(), 1, "{errors:?}");
        }
        for (table, place, what) in [
            ("[[socket]]\nlisten = \"unix:///run/%i\"\n", "5:10", "this socket"),
            ("[[config]]\nsource = \"/c/%i\"\ntarget = \"/c\"\n", "5:10", "this file"),
            ("[process]\nenv_file = [\"/e/%i\"]\nargs = [\"/a\"]\n", "5:13", "this env file"),
        ] {
            let args = if table.contains("[process]") { "" } else { "process.args = [\"/a\"]" };
            let errors = read(&format!("replicas = 3\nrootfs = \"/r\"\n{args}\n{table}")).unwrap_err();
            let expected = format!("/u/web.toml:{place} {what} of each replica is another one");
            assert!(errors[0].starts_with(&expected) && errors[0].ends_with(template), "{errors:?}");
        }
        let errors = read("replicas = 3\nrootfs = \"/r/%i\"\nprocess.args = [\"/a\"]\n").unwrap_err();
        assert!(errors[0].starts_with("/u/web.toml:2:1 the source of each replica is another one"), "{errors:?}");
        let of_instance = parse(&name("web@a"), Path::new("/u/web@a.toml"), &format!("replicas = 3\n{BASE}"));
        let error = of_instance.unwrap_err().remove(0).to_string();
        assert!(error.starts_with("/u/web@a.toml:1:1 `replicas` in a file with an `@` in its name"), "{error}");
        // The word alone is none.
        assert!(read(&format!("description = \"replicas\"\n{BASE}")).unwrap().replicas.is_none());
        assert!(read("rootfs = \"/r\"\n# replicas\nprocess.args = [\"%i\"]\n").unwrap_err()[0].contains("no instance"));
    }

    #[test]
    fn numbers_have_one_spelling() {
        assert_eq!(replica_number(&name("web@12")), Some(12));
        for other in ["web", "web@a", "web@0", "web@01", "web@1001", "web@1_0"] {
            assert_eq!(replica_number(&name(other)), None, "{other}");
        }
    }
}

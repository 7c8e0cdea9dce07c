//! Who listens where: an address is one unit's, and that unit keeps it.
//!
//! A unit has the addresses of its text in force, of the one that is next, and of those that it may go back to. A text that wants an address
//! of another unit's is not valid: its mistake names the other one. When units let go of addresses, those texts are judged again.

use std::collections::{BTreeMap, BTreeSet};

use super::text::Text;
use super::{Catalogue, Entry};
use crate::compact;
use crate::unit::socket::taken_by;
use crate::unit::{Diagnostic, Listen, UnitName};

/// The addresses of all units that have any.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    of: BTreeMap<UnitName, BTreeSet<Listen>>,
    /// Units whose text on disk wants one of another unit's.
    refused: BTreeSet<UnitName>,
}

impl Catalogue {
    /// What is wrong with a unit's text that wants the address of another one.
    pub(super) fn taken(&self, name: &UnitName, text: &Text) -> Option<String> {
        let others = || self.addresses.of.iter().filter(|(other, _)| *other != name);
        text.unit.sockets.iter().zip(&text.sockets_at).find_map(|(socket, at)| {
            let (other, _) = others().find(|(_, all)| all.iter().any(|taken| taken.excludes(&socket.listen)))?;
            let (line, column) = (at.line, at.column);
            let error = Diagnostic::of_file(&at.file, taken_by(socket, other), None);
            Some(Diagnostic { line, column, ..error }.to_string())
        })
    }

    /// Notes whether it is for another unit that its text is not valid.
    pub(super) fn is_refused_for_another(&mut self, name: &UnitName, refused: bool) {
        match refused {
            true => drop(self.addresses.refused.insert(name.clone())),
            false => drop(self.addresses.refused.remove(name)),
        }
    }

    /// After a change of a unit's texts: others may have waited for what it lets go of.
    pub(super) fn update_addresses(&mut self, name: &UnitName) {
        let now = self.entries.get(name).map(|entry| entry.addresses()).unwrap_or_default();
        let before = match now.is_empty() {
            true => self.addresses.of.remove(name),
            false => self.addresses.of.insert(name.clone(), now.clone()),
        };
        if before.unwrap_or_default().iter().any(|address| !now.contains(address)) {
            self.pending.extend(self.addresses.refused.iter().filter(|other| *other != name).cloned());
        }
    }
}

impl Entry {
    fn addresses(&self) -> BTreeSet<Listen> {
        let next = self.next.as_ref().and_then(super::Next::text);
        let texts = self.in_force.iter().chain(next).chain(self.trial.texts());
        compact::set(texts.flat_map(|good| &good.unit.sockets).map(|socket| socket.listen.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Standing;
    use super::super::tests::{catalogue, valid};
    use super::*;
    use crate::plan::WallTime;

    fn unit(it: &mut Catalogue, name: &str, listens: &[&str]) {
        let sockets: String = listens.iter().map(|listen| format!("[[socket]]\nlisten = \"{listen}\"\n")).collect();
        let text = format!("rootfs = \"/r\"\nprocess.args = [\"/a\"]\n{sockets}");
        let path = format!("/u/{name}.toml");
        it.read(Path::new(&path), named(name), text, path.clone().into(), valid, WallTime(0));
        judge(it);
    }

    /// As the supervisor does: none of these texts did well enough to come back.
    fn judge(it: &mut Catalogue) {
        loop {
            let changes = it.take_changes();
            changes.iter().for_each(|name| it.keep_earlier(name, Standing::default()));
            if changes.is_empty() && !it.is_pending() {
                return;
            }
            it.end_batch(valid, WallTime(0));
        }
    }

    fn named(name: &str) -> UnitName {
        UnitName::new(name).unwrap()
    }

    /// What it listens at by its text in force.
    fn force(it: &Catalogue, name: &str) -> Vec<String> {
        let good = it.in_force(&named(name));
        good.map(|good| good.unit.sockets.iter().map(|socket| socket.listen.to_string()).collect()).unwrap_or_default()
    }

    #[test]
    fn the_one_that_has_an_address_keeps_it_and_the_other_is_told_whose_it_is() {
        let mut it = catalogue();
        unit(&mut it, "web", &["tcp://0.0.0.0:80"]);
        unit(&mut it, "api", &["unix:///run/api", "tcp://127.0.0.1:80"]);
        let expected = "/u/api.toml:6:10 `socket.listen` \"tcp://127.0.0.1:80\" is taken by the unit web, expected one that no other unit has";
        assert_eq!(it.errors(&named("api")), [expected]);
        assert!(it.in_force(&named("api")).is_none());
        // It waits for nothing else than that the other one lets go.
        unit(&mut it, "web", &["tcp://0.0.0.0:81"]);
        assert_eq!(force(&it, "api"), ["unix:///run/api", "tcp://127.0.0.1:80"]);
        unit(&mut it, "web", &["tcp://0.0.0.0:80"]);
        assert_eq!((force(&it, "web"), it.errors(&named("web")).len()), (vec!["tcp://0.0.0.0:81".to_owned()], 1));
        it.gone(Path::new("/u/api.toml"), &named("api"), valid, WallTime(0));
        judge(&mut it);
        assert_eq!(force(&it, "web"), ["tcp://0.0.0.0:80"]);
    }

    #[test]
    fn an_address_that_moves_in_one_save_moves_whatever_the_order() {
        for (from, to) in [("a", "b"), ("b", "a")] {
            let mut it = catalogue();
            unit(&mut it, from, &["unix:///x", "unix:///y"]);
            it.begin_batch();
            unit_in_batch(&mut it, from, "unix:///y");
            unit_in_batch(&mut it, to, "unix:///x");
            judge(&mut it);
            assert_eq!(
                (force(&it, from), force(&it, to)),
                (vec!["unix:///y".to_owned()], vec!["unix:///x".to_owned()])
            );
        }
    }

    fn unit_in_batch(it: &mut Catalogue, name: &str, listen: &str) {
        let text = format!("rootfs = \"/r\"\nprocess.args = [\"/a\"]\n[[socket]]\nlisten = \"{listen}\"\n");
        let path = format!("/u/{name}.toml");
        it.read(Path::new(&path), named(name), text, path.clone().into(), valid, WallTime(0));
    }

    #[test]
    fn under_manual_what_is_next_has_its_address_already() {
        let mut it = catalogue();
        it.wait_for_orders();
        unit(&mut it, "web", &["unix:///x"]);
        unit(&mut it, "api", &["unix:///x"]);
        assert!(it.errors(&named("web")).is_empty() && it.errors(&named("api")).len() == 1);
    }
}

//! What is next: on disk, valid, and not in force.
//!
//! | what is found on disk | next |
//! |---|---|
//! | a text that means what the one in force means | nothing: it takes its place at once, for nothing follows from it |
//! | a text that means something else | that text |
//! | no file, or a mask, of a unit that has a text in force | that nothing is to be in force |
//! | a text that is not valid, or whose source is still being looked at | nothing: what was valid before is not on disk any more |
//!
//! Next goes in force
//! - by itself ([`Catalogue::release`]), except under `--manual`, while its set is not whole ([`sets`](super::sets),
//!   [`swapped`](super::swapped)), and when `moored apply --atomic` left it behind because another text was not valid;
//! - by an order ([`Catalogue::ready`], then [`Catalogue::put_in_force`]), which cannot split a set either.
//!
//! Between the two calls of an order the disk is written, and files may change: what was ready goes in force, and what was found since is
//! next to that.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::text::{NoText, Verdict};
use super::{Catalogue, DirectoryId, Entry, InForce, Trial, Validate, layers};
use crate::compact;
use crate::plan::WallTime;
use crate::unit::{Fingerprint, UnitName, digest, fingerprint};

/// What would be in force of a unit.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// This text.
    Text(Arc<InForce>),
    /// Nothing: its file is gone.
    Removed,
    /// Nothing: it is masked.
    Masked,
}

impl Next {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&Arc<InForce>> {
        match self {
            Next::Text(good) => Some(good),
            Next::Removed | Next::Masked => None,
        }
    }
}

/// Which units an order is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All that there are.
    All,
    /// These.
    Named(BTreeSet<UnitName>),
}

impl Scope {
    /// Whether it is about this one.
    pub fn holds(&self, name: &UnitName) -> bool {
        match self {
            Scope::All => true,
            Scope::Named(names) => names.contains(name),
        }
    }
}

impl Catalogue {
    /// From now on nothing goes in force without an order.
    pub fn wait_for_orders(&mut self) {
        self.manual = true;
    }

    /// What is next of this unit.
    pub fn next(&self, name: &UnitName) -> Option<&Next> {
        self.entry_on_disk(name)?.next.as_ref()
    }

    /// Whether what is next goes in force by itself; `None`: nothing is.
    pub fn needs_no_order(&self, name: &UnitName) -> Option<bool> {
        let name = self.declared_on_disk(name);
        let name = name.as_ref();
        let entry = self.entries.get(name)?;
        entry.next.as_ref()?;
        Some(!self.manual && !self.is_left_behind(name) && self.set_holds(name).is_none())
    }

    fn is_left_behind(&self, name: &UnitName) -> bool {
        let itself = self.entries.get(name).is_some_and(|entry| entry.left_behind);
        itself || self.is_swap_left_behind() && self.is_swapped(name)
    }

    /// While an order for all or nothing is waited for, nothing goes ahead of it.
    pub fn withhold(&mut self, withheld: bool) {
        self.withheld = withheld;
    }

    /// Puts in force by itself what needs no order: what came to need none, as each was judged by itself before.
    pub fn release(&mut self, validate: Validate, now: WallTime) {
        self.release_swap(validate, now);
        for name in self.waiting.clone() {
            self.release_one(&name, validate, now);
        }
    }

    /// All of it in one go.
    fn release_swap(&mut self, validate: Validate, now: WallTime) {
        self.look_at_swap();
        if self.is_swapping()
            && !self.withheld
            && !self.manual
            && self.swap_hold().is_none()
            && !self.is_swap_left_behind()
        {
            let swapped = self.swapped().filter_map(|(name, entry)| Some((name.clone(), entry.next.clone()?)));
            let swapped: Vec<(UnitName, Next)> = swapped.collect();
            self.put_in_force(swapped, validate, now);
        }
    }

    pub(super) fn release_one(&mut self, name: &UnitName, validate: Validate, now: WallTime) {
        if !self.withheld && !self.is_swapped(name) && self.needs_no_order(name) == Some(true) {
            let next = self.next(name).cloned().map(|next| (name.clone(), next));
            self.put_in_force(next.into_iter().collect(), validate, now);
        }
    }

    /// What an order for these units can put in force now. A set comes whole, although one of it was named, or stays.
    pub fn ready(&mut self, scope: &Scope) -> Vec<(UnitName, Next)> {
        self.look_at_swap();
        let names: BTreeSet<UnitName> = match scope {
            Scope::All => self.waiting.clone(),
            Scope::Named(names) => compact::set(names.iter().flat_map(|name| self.set_of(name))),
        };
        let free = names.into_iter().filter(|name| self.held_by_set(name).is_none());
        free.filter_map(|name| self.next(&name).cloned().map(|next| (name, next))).collect()
    }

    /// Puts in force what was ready, whatever was found since.
    pub fn put_in_force(&mut self, ready: Vec<(UnitName, Next)>, validate: Validate, now: WallTime) {
        for (name, next) in ready {
            let entry = self.entries.entry(name.clone()).or_default();
            let found_since = entry.next.take_if(|found| *found == next).is_none();
            entry.left_behind = false;
            match next {
                Next::Text(good) => drop(entry.take_text(good, now)),
                Next::Removed | Next::Masked => (entry.in_force, entry.trial) = (None, Trial::default()),
            }
            self.changes.insert(name.clone());
            self.waiting.remove(&name);
            match self.entries.get_mut(&name) {
                Some(entry) if entry.texts.is_empty() && entry.in_force.is_none() => {
                    self.entries.remove(&name);
                }
                // A new unit whose file went meanwhile.
                Some(entry) if entry.texts.is_empty() => {
                    entry.next = Some(Next::Removed);
                    self.waiting.insert(name.clone());
                }
                Some(_) if found_since => self.evaluate(&name, validate, now),
                Some(_) | None => {}
            }
            self.update_named(&name);
        }
        self.look_at_swap();
    }

    /// These wait for another order, or for another text.
    pub fn leave_behind(&mut self, scope: &Scope) {
        for (_, entry) in self.entries.iter_mut().filter(|(name, _)| scope.holds(name)) {
            entry.left_behind = entry.next.is_some();
        }
    }

    /// Units of which nobody can say yet what is next.
    pub fn unsettled<'c>(&'c self, scope: &'c Scope) -> impl Iterator<Item = &'c UnitName> {
        let is_unsettled = |(name, entry): &(&UnitName, &Entry)| {
            scope.holds(name)
                && (entry.looking
                    || entry.busy.is_some()
                    || self.absent.contains_key(*name)
                    || self.pending.contains(*name))
        };
        self.entries().filter(is_unsettled).map(|(name, _)| name)
    }

    /// Whether somebody who asks for a plan should wait for the rest of it: not for writers, who may take their time.
    pub fn is_being_read(&self) -> bool {
        self.is_looking() || !self.absent.is_empty() || self.is_pending()
    }

    /// What is next of all units, and what is not valid, as a number: the same number, the same plan.
    pub fn plan_hash(&self) -> Fingerprint {
        let meaning = |good: &Arc<InForce>| fingerprint(&good.unit, &good.facts).0.to_vec();
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for (name, entry) in self.entries.iter().filter(|(_, entry)| entry.next.is_some() || !entry.errors.is_empty()) {
            parts.push(name.as_str().as_bytes().to_vec());
            parts.push(entry.in_force.as_ref().map(meaning).unwrap_or_default());
            parts.push(entry.next.as_ref().and_then(Next::text).map(meaning).unwrap_or_default());
            parts.push(entry.errors.join("\n").into_bytes());
        }
        digest(parts.iter().map(Vec::as_slice))
    }

    /// What is next, and what it waits for, in words.
    pub(super) fn waits(&self, name: &UnitName) -> Option<String> {
        let entry = self.entries.get(name)?;
        let next = entry.next.as_ref()?;
        if let Some(why) = self.held_by_set(name) {
            let what = if matches!(next, Next::Text(_)) { "new text" } else { "removal" };
            return Some(format!("its {what} waits: {why}"));
        }
        if self.is_left_behind(name) {
            return Some(
                match next {
                    Next::Text(_) => {
                        "its new text is valid, and `moored apply --atomic` left it behind: `moored apply`"
                    }
                    Next::Removed | Next::Masked => "`moored apply --atomic` left its removal behind: `moored apply`",
                }
                .to_owned(),
            );
        }
        if !self.manual {
            return Some("about to be put in force".to_owned());
        }
        Some(match (next, &entry.in_force) {
            (Next::Text(_), None) => "new, waits for `moored apply`".to_owned(),
            (Next::Text(_), Some(_)) => "a change waits for `moored apply`".to_owned(),
            (Next::Removed, _) => format!("{}, which waits for `moored apply`", self.gone_words(name)),
            (Next::Masked, _) => {
                let mask = entry.mask().map(|mask| mask.display().to_string()).unwrap_or_default();
                format!("masked by {mask}, which waits for `moored apply`")
            }
        })
    }
}

impl Entry {
    /// Takes a verdict; says whether there is something to tell.
    pub(super) fn settle(&mut self, verdict: Verdict, directory: DirectoryId, now: WallTime) -> bool {
        self.looking = matches!(verdict, Verdict::Looking);
        self.left_behind = false;
        let before = self.next.take();
        match verdict {
            Verdict::Looking => false,
            Verdict::Masked => self.is_left_without(Next::Masked, before),
            Verdict::Bad(errors) => {
                let changed = self.errors != errors;
                self.errors = errors;
                changed
            }
            Verdict::Good(new) if self.trial.is_bad(&new) => !std::mem::take(&mut self.errors).is_empty(),
            Verdict::Good(new) => {
                let had_errors = !std::mem::take(&mut self.errors).is_empty();
                let new = Arc::new(InForce { directory, ..new });
                if self.in_force.as_ref().is_some_and(|old| old.means(&new)) {
                    return self.take_text(new, now) || had_errors;
                }
                let next = Some(Next::Text(new));
                let changed = next != before;
                self.next = next;
                changed || had_errors
            }
        }
    }

    /// Its file is gone; says whether there is something to tell.
    pub(super) fn is_removed(&mut self) -> bool {
        (self.looking, self.left_behind, self.busy) = (false, false, None);
        let before = self.next.take();
        self.is_left_without(Next::Removed, before)
    }

    fn is_left_without(&mut self, next: Next, before: Option<Next>) -> bool {
        let had_errors = !std::mem::take(&mut self.errors).is_empty();
        self.next = self.in_force.is_some().then_some(next);
        self.next.is_some() && self.next != before || had_errors
    }

    /// Puts a text in force; says whether it is another one. A running container is not of a younger text because of a comment.
    fn take_text(&mut self, new: Arc<InForce>, now: WallTime) -> bool {
        let since = match &self.in_force {
            Some(old) if old.fingerprint == new.fingerprint => old.since,
            Some(_) | None => now,
        };
        let mut new = new;
        if new.since != since {
            Arc::make_mut(&mut new).since = since;
        }
        let was_bad = self.trial.bad.take().is_some();
        let changed = self.in_force.as_ref() != Some(&new);
        if changed {
            self.in_force.iter().for_each(|old| self.trial.left(old));
            self.edited.extend(self.in_force.iter().flat_map(|old| layers::differing(old, &new)));
            self.in_force = Some(new);
        }
        changed || was_bad
    }

    /// The link to /dev/null that counts.
    pub(super) fn mask(&self) -> Option<&Path> {
        let newest = self.newest()?;
        matches!(newest.text, Err(NoText::Mask)).then_some(newest.path.as_path())
    }
}

impl InForce {
    /// Whether both ask for the same.
    fn means(&self, other: &InForce) -> bool {
        fingerprint(&self.unit, &self.facts) == fingerprint(&other.unit, &other.facts)
    }
}

//! Templates: the units that one lists in `instances`, as if a link to it stood there for each.
//!
//! | what is at `worker@.toml`, in the last directory that has the name | what counts as listed |
//! |---|---|
//! | a valid text | what it lists |
//! | a text that is not valid, or may not or cannot be read | what it listed before; none of its units gets another text |
//! | a link to /dev/null | what the directory before it lists: these units are masked |
//! | nothing | what an earlier directory's lists, or nothing |
//! | not read yet | what an earlier run had in force from it |
//!
//! Whether the text is valid is asked without its drop-ins, and for no certain instance: a mistake that only one instance makes is that one's.
//! A file or link `worker@a.toml` of any directory comes before the list, so that it changes, or masks, a single instance.
//!
//! A unit that is not listed any more goes as one whose file is gone does: when it stays so for [`ABSENCE`]. If the directory became another
//! one and more than half of what the template listed would go, the brake holds these.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::sets::Part;
use super::text::{NoText, OnDisk, Rank, Read};
use super::{ABSENCE, Catalogue, Entry, Next, Validate};
use crate::compact;
use crate::plan::{Now, WallTime};
use crate::unit::{Diagnostic, UnitName, instances_of, template_of};

/// Templates by their file's name, those of later directories behind.
#[derive(Debug, Default)]
pub(super) struct Templates {
    by_name: BTreeMap<OsString, Vec<Template>>,
    /// Units that were listed and are not, with the template, until that is told.
    unlisted: BTreeMap<UnitName, PathBuf>,
}

/// One template of one directory.
#[derive(Debug)]
struct Template {
    rank: usize,
    path: PathBuf,
    part: Part,
    text: Result<Read, NoText>,
    /// What it lists, or listed when it was valid.
    listed: BTreeSet<UnitName>,
    /// Why that is not what its text lists.
    errors: Vec<String>,
}

/// Which text the listed units of a template have.
struct Effect {
    path: PathBuf,
    part: Part,
    text: Result<Read, NoText>,
    listed: BTreeSet<UnitName>,
}

impl Templates {
    /// `None`: there is no such template.
    fn effect(&self, file: &OsStr) -> Option<Effect> {
        let (last, before) = self.by_name.get(file)?.split_last()?;
        let listed = match &last.text {
            Err(NoText::Mask) => before.last().map(|below| below.listed.clone()).unwrap_or_default(),
            Ok(_) | Err(NoText::Bad(_)) => last.listed.clone(),
        };
        Some(Effect { path: last.path.clone(), part: last.part.clone(), text: last.text.clone(), listed })
    }

    /// All that were read.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.by_name.values().flatten().map(|template| template.path.as_path())
    }

    /// Those that count and do not say what they list.
    pub(super) fn bad(&self) -> impl Iterator<Item = &Path> {
        let counting = self.by_name.values().filter_map(|here| here.last());
        counting.filter(|template| !template.errors.is_empty()).map(|template| template.path.as_path())
    }

    fn knows(&self, path: &Path) -> bool {
        let of_name = path.file_name().and_then(|name| self.by_name.get(name));
        of_name.is_some_and(|all| all.iter().any(|template| template.path == path))
    }
}

impl Catalogue {
    /// A template's settled text; `resolved` is the file without links.
    pub fn template_read(&mut self, path: &Path, text: String, resolved: PathBuf, validate: Validate, now: Now) {
        let part = Part::of(path, &resolved);
        let listed = instances_of(path, &text);
        let listed = listed.map_err(|found| found.iter().map(Diagnostic::to_string).collect());
        self.put_template(path, part, Ok(Read { text: text.into(), resolved }), listed, validate, now);
    }

    /// One that may not or cannot be read; `None`: a link to /dev/null.
    pub fn template_refused(&mut self, path: &Path, why: Option<String>, validate: Validate, now: Now) {
        match why {
            Some(why) => {
                let errors = vec![why];
                self.put_template(path, Part::Unknown, Err(NoText::Bad(errors.clone())), Err(errors), validate, now);
            }
            None => self.put_template(path, Part::OfNone, Err(NoText::Mask), Ok(BTreeSet::new()), validate, now),
        }
    }

    fn put_template(
        &mut self,
        path: &Path,
        part: Part,
        text: Result<Read, NoText>,
        listed: Result<BTreeSet<UnitName>, Vec<String>>,
        validate: Validate,
        now: Now,
    ) {
        self.told_of(path);
        let (Some(file), rank) = (path.file_name().map(OsStr::to_owned), self.rank_of(path)) else { return };
        let here = self.templates.by_name.entry(file.clone()).or_default();
        let earlier = here.iter().position(|other| other.rank == rank).map(|at| here.remove(at));
        let part = part.after(earlier.as_ref().map(|earlier| &earlier.part));
        let (before, is_valid) = (earlier.map(|earlier| earlier.listed), listed.is_ok());
        let before = before.unwrap_or_else(|| self.in_force_from(path));
        let (listed, errors) = match listed {
            Ok(listed) => (listed, Vec::new()),
            Err(errors) => (before.clone(), errors),
        };
        if is_valid {
            self.brake_unlisted(path, &before, &listed);
        }
        let here = self.templates.by_name.entry(file.clone()).or_default();
        here.push(Template { rank, path: path.to_owned(), part, text, listed, errors });
        compact::sort_by_key(here, |template| template.rank);
        self.list(&file, path, validate, now);
    }

    /// A template is gone for good.
    pub fn template_gone(&mut self, path: &Path, validate: Validate, now: Now) {
        self.told_of(path);
        let Some(file) = path.file_name() else { return };
        if let Some(here) = self.templates.by_name.get_mut(file) {
            here.retain(|other| other.path != path);
        }
        self.templates.by_name.retain(|_, here| !here.is_empty());
        // Its absence has settled: what it listed goes at once.
        for name in self.list(file, path, validate, now) {
            if self.absent.remove(&name).is_some() {
                self.take_unlisted(&name);
                self.remove(&name, validate, now.wall);
            }
        }
    }

    /// Somebody writes a template: none of its units is settled. Says whether there are any.
    pub fn template_busy(&mut self, path: &Path, who: &str) -> bool {
        let is_from = |entry: &&mut Box<Entry>| entry.newest().is_some_and(|on_disk| on_disk.path == path);
        let mut of_it = self.entries.values_mut().filter(is_from).peekable();
        let any = of_it.peek().is_some();
        of_it.for_each(|entry| entry.busy = Some(who.to_owned()));
        any
    }

    /// Gives each unit that the template of this name lists its text, and takes it from those that it does not, which are returned.
    /// `changed` is the file that is another one.
    fn list(&mut self, file: &OsStr, changed: &Path, validate: Validate, now: Now) -> Vec<UnitName> {
        let effect = self.templates.effect(file);
        let nothing = BTreeSet::new();
        let listed = effect.as_ref().map_or(&nothing, |effect| &effect.listed);
        let mut unlisted = Vec::new();
        for (name, entry) in &self.entries {
            let was_listed = entry.texts.first().is_some_and(|on_disk| on_disk.rank == Rank::Listed);
            if !listed.contains(name) && template_of(name).as_deref() == Some(file) {
                // What an earlier run had in force from a template that is not read yet is that one's to say.
                let is_remembered = |path: &Path| path == changed || self.templates.knows(path);
                let remembered = entry.in_force.as_ref().filter(|_| entry.texts.is_empty());
                let unseen = remembered.is_some_and(|good| is_remembered(&good.file));
                if was_listed || unseen && entry.next != Some(Next::Removed) {
                    unlisted.push(name.clone());
                }
            }
        }
        for name in &unlisted {
            self.unlist(name, changed, validate, now);
        }
        if let Some(Effect { path, part, text, listed }) = effect {
            for name in listed {
                let on_disk = OnDisk { rank: Rank::Listed, path: path.clone(), part: part.clone(), text: text.clone() };
                self.put_listed(name, on_disk, validate, now.wall);
            }
        }
        unlisted
    }

    fn put_listed(&mut self, name: UnitName, on_disk: OnDisk, validate: Validate, now: WallTime) {
        for view in self.directories.values_mut() {
            view.braked.remove(&name);
        }
        self.absent.remove(&name);
        self.templates.unlisted.remove(&name);
        let entry = self.entries.entry(name.clone()).or_default();
        entry.busy = None;
        entry.texts.retain(|other| other.rank != Rank::Listed);
        entry.texts.insert(0, on_disk);
        entry.stale = true;
        self.evaluate(&name, validate, now);
    }

    fn unlist(&mut self, name: &UnitName, template: &Path, validate: Validate, now: Now) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.texts.retain(|other| other.rank != Rank::Listed);
        (entry.stale, entry.busy) = (true, None);
        let is_braked = self.directories.values().any(|view| view.braked.contains(name));
        match (entry.texts.is_empty(), entry.in_force.is_some()) {
            (false, _) => self.evaluate(name, validate, now.wall),
            (true, _) if is_braked => {}
            (true, true) => {
                self.templates.unlisted.insert(name.clone(), template.to_owned());
                self.absent.entry(name.clone()).or_insert(now.boot.after(ABSENCE));
            }
            (true, false) => self.remove(name, validate, now.wall),
        }
    }

    /// Holds those that go with a directory that became another one, if they are most of what the template listed there.
    fn brake_unlisted(&mut self, path: &Path, before: &BTreeSet<UnitName>, listed: &BTreeSet<UnitName>) {
        let Some(view) = path.parent().and_then(|dir| self.directories.get_mut(dir)) else { return };
        if !path.file_name().is_some_and(|name| view.other_templates.remove(name)) {
            return;
        }
        let go = compact::set(before.difference(listed).cloned());
        if go.len() * 2 > before.len() {
            view.braked.extend(go);
        }
    }

    /// What an earlier run had in force from a template that was not read yet.
    fn in_force_from(&self, path: &Path) -> BTreeSet<UnitName> {
        let is_from = |entry: &Entry| entry.in_force.as_ref().is_some_and(|good| good.file == path);
        compact::set(self.entries.iter().filter(|(_, entry)| is_from(entry)).map(|(name, _)| name.clone()))
    }

    /// The template that listed a unit whose removal is not told yet.
    pub fn unlisted_by(&self, name: &UnitName) -> Option<&Path> {
        self.templates.unlisted.get(name).map(PathBuf::as_path)
    }

    /// The same; it is told now.
    pub fn take_unlisted(&mut self, name: &UnitName) -> Option<PathBuf> {
        self.templates.unlisted.remove(name)
    }

    /// That nothing declares it, in words.
    pub fn gone_words(&self, name: &UnitName) -> String {
        match self.unlisted_by(name) {
            Some(template) => format!("{} does not list it any more", template.display()),
            None => "its file is gone".to_owned(),
        }
    }

    /// The template that lists a unit and is what counts of it.
    pub fn listed_by(&self, name: &UnitName) -> Option<&Path> {
        let newest = self.entries.get(name)?.newest()?;
        (newest.rank == Rank::Listed).then_some(newest.path.as_path())
    }

    /// Why what a template lists is what it listed before, one line each.
    pub fn template_errors(&self) -> impl Iterator<Item = &String> {
        self.templates.by_name.values().filter_map(|here| here.last()).flat_map(|template| &template.errors)
    }

    /// What is wrong with the defaults, with these units, and, if these are all that there are, with templates: each line once, however many
    /// units have it from one template.
    pub fn errors_of<'n>(&self, units: impl IntoIterator<Item = &'n UnitName>) -> Vec<String> {
        let units: Vec<&UnitName> = units.into_iter().collect();
        let templates = (units.len() == self.entries.len()).then(|| self.template_errors());
        let all = self.defaults_errors().iter().chain(templates.into_iter().flatten());
        let mut seen = BTreeSet::new();
        all.chain(units.iter().flat_map(|name| self.errors(name))).filter(|line| seen.insert(*line)).cloned().collect()
    }
}
